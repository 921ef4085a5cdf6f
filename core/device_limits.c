/* device_limits.c: see device_limits.h.  Each run starts operations and waits for all of them; the
 * first is not counted. */
#include "core/device_limits.h"
#include "core/backend.h"
#include "core/progress.h"

#if REAL_BITS != 128

enum { REPEATED = 8 };

static enum status time_copy(const struct backend *be, int64_t n, const DEVICE real *from,
                             DEVICE real *to, double *bytes_per_second)
{
  double began = monotonic_seconds();
  for (int i = 0; i < REPEATED; i++)
    be->axpby(be->st, n, 1, from, 0, to);
  TRY(be->sync(be->st));
  *bytes_per_second = 2.0 * REPEATED * (double)n * sizeof(real) / (monotonic_seconds() - began);
  return OK;
}

static enum status time_product(const struct backend *be, int64_t n, const DEVICE real *from,
                                DEVICE real *to, double *flops_per_second)
{
  double began = monotonic_seconds();
  for (int i = 0; i < REPEATED; i++)
    be->linear_fwd(be->st, n, n, n, from, from + n * n, NULL, NULL, 0, NULL, to);
  TRY(be->sync(be->st));
  *flops_per_second =
      2.0 * REPEATED * (double)n * (double)n * (double)n / (monotonic_seconds() - began);
  return OK;
}

static enum status measure(const struct backend *be, int64_t count, int64_t order,
                           DEVICE real *from, DEVICE real *to, struct device_limits *out)
{
  struct dropout_draw draw = {.seed = 1};
  double ignored;
  TRY(be->sync(be->st));
  be->dropout_mask(be->st, 1, count, 0.5, draw, 1, from); /* random, and no zeros below */
  be->axpby(be->st, count, (real)0.25, from, 0, to);
  be->fill(be->st, count, (real)0.3, from);
  be->axpby(be->st, count, 1, to, 1, from);
  TRY(time_copy(be, count, from, to, &ignored));
  TRY(time_product(be, order, from, to, &ignored));
  for (int i = 0; i < LIMIT_RUNS; i++) {
    TRY(time_copy(be, count, from, to, &out->bytes_per_second[i]));
    TRY(time_product(be, order, from, to, &out->flops_per_second[i]));
  }
  return OK;
}

enum status NAME(device_limits)(const struct backend *be, int mib, int order,
                                struct device_limits *out)
{
  int64_t bytes = (int64_t)mib << 20, square = 2 * (int64_t)order * order;
  int64_t count = bytes / (int64_t)sizeof(real);
  void *from, *to;
  count = count > square ? count : square;
  TRY(be->memory_alloc((size_t)count * sizeof(real), &from));
  enum status s = be->memory_alloc((size_t)count * sizeof(real), &to);
  if (s == OK) {
    s = measure(be, count, order, from, to, out);
    be->memory_free(to);
  }
  be->memory_free(from);
  return s;
}
#endif
