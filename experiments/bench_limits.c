/* bench_limits.c: what this machine can do at best: matrix products, and moving memory. */
#include "core/device_limits.h"
#include "experiments/bench.h"
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Many short runs: on a machine with other work, some of them are not disturbed.  FEWEST where
 * repetitions are so short (--seconds) that nobody waits for figures. */
enum {
  RUNS = 31,
  FEWEST = 3,
  SIDE = 1024,
  COPIED = 1 << 24
}; /* COPIED: floats, larger than the caches */

/* Every thread multiplies matrices of its own; BLAS itself has one thread. */
static double flops_per_second(int threads, const float *a, const float *b, float *c)
{
  const int products = 2;
  double began = bench_seconds();
#pragma omp parallel for num_threads(threads)
  for (int t = 0; t < threads; t++)
    for (int i = 0; i < products; i++)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIDE, SIDE, SIDE, 1, a, SIDE, b, SIDE, 0,
                  c + (size_t)t * SIDE * SIDE, SIDE);
  return 2.0 * products * threads * SIDE * SIDE * SIDE / (bench_seconds() - began);
}

/* Bytes read and written. */
static double bytes_per_second(int threads, const float *from, float *to)
{
  double began = bench_seconds();
#pragma omp parallel for num_threads(threads)
  for (int t = 0; t < threads; t++) {
    size_t first = (size_t)COPIED / (size_t)threads * (size_t)t;
    memcpy(to + first, from + first, (size_t)COPIED / (size_t)threads * sizeof *to);
  }
  return 2.0 * COPIED * sizeof *to / (bench_seconds() - began);
}

static enum status measure(int threads, int runs, float *from, float *to, struct bench_results *r,
                           struct bench_limits *limits)
{
  double products[RUNS], copies[RUNS];
  char name[64];
  for (int i = -1; i < runs; i++) { /* the first is not counted */
    double f = flops_per_second(threads, from, from, to), b = bytes_per_second(threads, from, to);
    if (i >= 0)
      products[i] = f * 1e-9, copies[i] = b * 1e-9;
  }
  (void)snprintf(name, sizeof name, "limit sgemm %d, %d threads", (int)SIDE, threads);
  TRY(bench_add(r, name, "GFLOP/s", runs, products, (double)NAN, (double)NAN));
  (void)snprintf(name, sizeof name, "limit copy, %d threads", threads);
  TRY(bench_add(r, name, "GB/s", runs, copies, (double)NAN, (double)NAN));
  /* sorted by bench_add: the best run is the limit, others were disturbed */
  *limits = (struct bench_limits){products[runs - 1] * 1e9, copies[runs - 1] * 1e9};
  return OK;
}

bool bench_on_gpu(const struct bench_request *q) { return strncmp(q->rt->device, "cuda", 4) == 0; }

/* A GPU's, through its backend. */
static enum status device_limits(const struct bench_request *q, struct bench_results *r,
                                 struct bench_limits *limits)
{
  enum { MIB = 512, ORDER = 8192, EMULATED = 64 };
  struct device_limits d;
  double flops[LIMIT_RUNS], bytes[LIMIT_RUNS];
  char name[64];
  bool emulated = strstr(q->rt->device, "emulated") != NULL;
  int mib = emulated ? 1 : MIB, order = emulated ? EMULATED : ORDER;
  TRY(q->config->dtype == DTYPE_F32 ? device_limits_f32(q->rt->f32, mib, order, &d)
                                    : device_limits_f64(q->rt->f64, mib, order, &d));
  for (int i = 0; i < LIMIT_RUNS; i++)
    flops[i] = d.flops_per_second[i] * 1e-9, bytes[i] = d.bytes_per_second[i] * 1e-9;
  (void)snprintf(name, sizeof name, "limit product of order %d, %s", order,
                 dtype_name(q->config->dtype));
  TRY(bench_add(r, name, "GFLOP/s", LIMIT_RUNS, flops, (double)NAN, (double)NAN));
  TRY(bench_add(r, "limit copy", "GB/s", LIMIT_RUNS, bytes, (double)NAN, (double)NAN));
  *limits = (struct bench_limits){flops[LIMIT_RUNS - 1] * 1e9, bytes[LIMIT_RUNS - 1] * 1e9};
  return OK;
}

enum status bench_measure_limits(const struct bench_request *q, struct bench_results *r,
                                 struct bench_limits *limits)
{
  if (bench_on_gpu(q))
    return device_limits(q, r, limits);
  int threads = omp_get_max_threads();
  size_t out = (size_t)threads * SIDE * SIDE > COPIED ? (size_t)threads * SIDE * SIDE : COPIED;
  float *from = malloc(COPIED * sizeof *from), *to = malloc(out * sizeof *to);
  enum status s = ERR_MEMORY;
  if (!from || !to) {
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  } else {
    for (size_t i = 0; i < COPIED; i++)
      from[i] = (float)(i % 13) * 0.1f;
    memset(to, 0, out * sizeof *to);
    s = measure(threads, q->seconds < 0.01 ? FEWEST : RUNS, from, to, r, limits);
  }
  free(from);
  free(to);
  return s;
}
