/* bench_jacobian.c: time and memory of a whole verification (four ways, explicit model, sweep) by
 * the size of the state. */
#include "core/verification.h"
#include "experiments/bench.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { RUNS = 3 };

struct shape {
  int64_t d_model, expand, headdim, d_state;
  double limit; /* seconds */
};

static enum status configure(const struct shape *s, struct config *c)
{
  char yaml[512];
  (void)snprintf(yaml, sizeof yaml,
                 "name: bench\nmodel: {kind: implicit, d_model: %lld, mamba2: {d_state: %lld, "
                 "expand: %lld, headdim: %lld}}\ndeq: {evaluate: {max_iter: 512, damping: 1.0}}\n"
                 "data: {task: word_problem}\njacobian: {tolerance_differences: 1.0e-7}\n",
                 (long long)s->d_model, (long long)s->d_state, (long long)s->expand,
                 (long long)s->headdim);
  TRY(config_parse("bench", yaml, strlen(yaml), c));
  return config_resolve(c);
}

static enum status measure(const struct jacobian_runtime *rt, const struct shape *s,
                           struct bench_results *r)
{
  struct config c;
  double seconds[RUNS], mib[1];
  char name[96];
  TRY(configure(s, &c));
  long long S = (long long)jacobian_sizes(&c.model).states;
  for (int i = 0; i < RUNS; i++) {
    struct verification v;
    double began = bench_seconds();
    TRY(verify_jacobian(&c, rt, (struct verification_request){0}, &v));
    seconds[i] = bench_seconds() - began;
    mib[0] = (double)v.memory / 1048576;
    bool passed = v.passed;
    verification_free(&v);
    if (!passed)
      FAIL(ERR_NUMERIC, "d_model %lld, S = %lld: the check failed", (long long)s->d_model, S);
  }
  (void)snprintf(name, sizeof name, "jacobian d_model %lld d_state %lld S %lld",
                 (long long)s->d_model, (long long)s->d_state, S);
  TRY(bench_add(r, name, "s", RUNS, seconds, s->limit, (double)NAN));
  return bench_add(r, name, "MiB", 1, mib, (double)NAN, (double)NAN);
}

enum status bench_jacobian(const struct bench_request *q, struct bench_results *r)
{
  const struct shape shapes[] = {{8, 1, 8, 1, (double)NAN},     {64, 1, 64, 1, 5},
                                 {128, 1, 128, 1, (double)NAN}, {256, 1, 256, 1, (double)NAN},
                                 {512, 1, 512, 1, 60},          {64, 2, 32, 4, (double)NAN},
                                 {64, 2, 32, 8, (double)NAN}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    TRY(measure(q->jacobian, &shapes[i], r));
  return OK;
}
