/* bench_results.c: see bench.h. */
#include "experiments/bench.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int ascending(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double bench_median(int count, double *value)
{
  qsort(value, (size_t)count, sizeof *value, ascending);
  return value[count / 2];
}

enum status bench_record(struct bench_results *r, const char *name, const char *unit, int runs,
                         double *value, double limit, double peer)
{
  CHECK(runs > 0);
  if (r->count == r->room) {
    int64_t room = r->room ? 2 * r->room : 32;
    struct bench_result *grown = realloc(r->result, (size_t)room * sizeof *grown);
    if (!grown)
      FAIL(ERR_MEMORY, "out of memory");
    r->result = grown;
    r->room = room;
  }
  struct bench_result *b = &r->result[r->count++];
  double median = bench_median(runs, value);
  *b = (struct bench_result){.value = median, .low = value[0], .high = value[runs - 1]};
  b->limit = limit, b->peer = peer;
  (void)snprintf(b->name, sizeof b->name, "%s", name);
  (void)snprintf(b->unit, sizeof b->unit, "%s", unit);
  return OK;
}

enum status bench_add(struct bench_results *r, const char *name, const char *unit, int runs,
                      double *value, double limit, double peer)
{
  TRY(bench_record(r, name, unit, runs, value, limit, peer));
  const struct bench_result *b = &r->result[r->count - 1];
  (void)printf("%-56s %10.4g %-8s (%.4g to %.4g)", b->name, b->value, b->unit, b->low, b->high);
  if (limit - limit == 0)
    (void)printf("  limit %.4g", limit);
  if (peer - peer == 0)
    (void)printf("  peer %.4g: %.2f times that", peer, b->value / peer);
  (void)printf("\n");
  (void)fflush(stdout);
  return OK;
}

double bench_seconds(void)
{
  struct timespec t;
  (void)clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
