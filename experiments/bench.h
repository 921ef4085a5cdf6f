/* bench.h: what a benchmark reports, as a table and as JSON. */
#ifndef EXPERIMENTS_BENCH_H
#define EXPERIMENTS_BENCH_H
#include "core/run.h"
#include <stdint.h>

struct bench_result {
  char name[96], unit[16];
  double value, low, high; /* median of the runs, and their extremes */
  double limit;            /* what the machine or an acceptance allows; NaN: none known */
  double peer;             /* what another program reached; NaN: not measured */
};

struct bench_results {
  struct bench_result *result;
  int64_t count, room;
};

/* Adds, and prints, the median and extremes of `runs` values (which are sorted in place).
 * ERR_MEMORY. */
MUST_USE enum status bench_add(struct bench_results *r, const char *name, const char *unit,
                               int runs, double *value, double limit, double peer);
double bench_seconds(void); /* monotonic */

/* Time and memory of a whole verification by the size of the state (bench_jacobian.c). */
struct jacobian_runtime;
MUST_USE enum status bench_jacobian(const struct jacobian_runtime *rt, struct bench_results *r);
#endif
