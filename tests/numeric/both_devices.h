/* both_devices.h: arrays that are the same on the CPU and on another device, and the comparison of
 * what operations make of them; for device_*.c. */
#ifndef TESTS_NUMERIC_BOTH_DEVICES_H
#define TESTS_NUMERIC_BOTH_DEVICES_H
#include "core/backend.h"
#include "tests/check.h"
#include "tests/derivatives.h"
#include <stdlib.h>
#include <string.h>

/* float64: rounding of sums in another order; float32: of this precision */
#define TOLERANCE (REAL_BITS == 64 ? 1e-12 : 2e-5)
/* where products may be of tf32 */
#define ROUNDED_TOLERANCE (REAL_BITS == 32 ? 2 * TF32_UNIT : TOLERANCE)

#define both NAME(both_devices)
enum { ARRAYS = 24 };
struct both {
  const struct backend *be[2]; /* CPU, device */
  uint64_t state;
  struct array {
    void *at[2];
    int64_t n;
    size_t size;
  } array[ARRAYS];
  int arrays;
};

static inline struct both begin(const void *cpu, const void *device, uint64_t seed)
{
  struct both b = {.be = {cpu, device}, .state = seed};
  return b;
}

static inline double uniform(struct both *b)
{
  uint64_t z = (b->state += 0x9e3779b97f4a7c15u); /* splitmix64 */
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 40) / (double)(1 << 24);
}

static inline struct array *add(struct both *b, int64_t n, size_t size, const void *host)
{
  assert_true(b->arrays < ARRAYS);
  struct array *a = &b->array[b->arrays++];
  a->n = n, a->size = size;
  for (int k = 0; k < 2; k++) {
    check_ok(b->be[k]->memory_alloc((size_t)n * size, &a->at[k]));
    check_ok(b->be[k]->upload(b->be[k]->st, (size_t)n * size, host, a->at[k]));
  }
  return a;
}

static inline struct array *reals(struct both *b, int64_t n, double lo, double hi)
{
  real *x = calloc((size_t)n, sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++)
    x[i] = (real)(lo + (hi - lo) * uniform(b));
  struct array *a = add(b, n, sizeof *x, x);
  free(x);
  return a;
}

/* Bytes of ones: NaN. */
static inline struct array *poison(struct both *b, int64_t n, size_t size)
{
  void *x = malloc((size_t)n * size);
  assert_non_null(x);
  memset(x, 0xff, (size_t)n * size);
  struct array *a = add(b, n, size, x);
  free(x);
  return a;
}

static inline struct array *integers(struct both *b, int64_t n, const int32_t *x)
{
  return add(b, n, sizeof *x, x);
}

/* What an array of doubles, reals or integers holds on device k, as doubles to be freed. */
static inline double *values(const struct both *b, const struct array *a, int k, bool whole)
{
  double *out = calloc((size_t)a->n, sizeof *out);
  char *host = malloc((size_t)a->n * a->size);
  assert_true(out && host);
  check_ok(b->be[k]->download(b->be[k]->st, (size_t)a->n * a->size, a->at[k], host));
  for (int64_t i = 0; i < a->n; i++) {
    const void *p = host + (size_t)i * a->size;
    out[i] = whole                     ? (double)*(const int32_t *)p
             : a->size == sizeof(real) ? (double)*(const real *)p
                                       : *(const double *)p;
  }
  free(host);
  return out;
}

static inline void same(const struct both *b, const struct array *a, double tol, const char *what)
{
  bool whole = tol == 0 && a->size == sizeof(int32_t) && REAL_BITS == 64;
  double *want = values(b, a, 0, whole), *got = values(b, a, 1, whole);
  check_arrays_close(a->n, got, want, tol, "%s (%d bits)", what, REAL_BITS);
  free(want), free(got);
}

/* Errors in proportion to the largest of all. */
static inline void same_in_all(const struct both *b, const struct array *a, double tol,
                               const char *what)
{
  double *want = values(b, a, 0, false), *got = values(b, a, 1, false), most = 0;
  for (int64_t i = 0; i < a->n; i++)
    most = fmax(most, fabs(want[i]));
  for (int64_t i = 0; i < a->n; i++)
    want[i] /= most, got[i] /= most;
  check_arrays_close(a->n, got, want, tol, "%s (%d bits)", what, REAL_BITS);
  free(want), free(got);
}

static inline void same_integers(const struct both *b, const struct array *a, const char *what)
{
  double *want = values(b, a, 0, true), *got = values(b, a, 1, true);
  for (int64_t i = 0; i < a->n; i++)
    if (want[i] != got[i])
      fail_msg("%s: element %lld is %g, not %g", what, (long long)i, got[i], want[i]);
  free(want), free(got);
}

static inline void end(struct both *b)
{
  for (int i = 0; i < b->arrays; i++)
    for (int k = 0; k < 2; k++)
      b->be[k]->memory_free(b->array[i].at[k]);
  for (int k = 0; k < 2; k++)
    check_ok(b->be[k]->sync(b->be[k]->st));
}

/* On both: be, k in scope. */
#define ON_BOTH(b)            \
  for (int k = 0; k < 2; k++) \
    for (const struct backend *be = (b).be[k]; be; be = NULL)
#endif
