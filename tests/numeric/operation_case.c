/* operation_case.c: runs a case in this precision on arrays of double. */
#include "tests/numeric/operation_case.h"
#include "core/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void case_name(struct operation_case *c, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  (void)vsnprintf(c->name, sizeof c->name, format, args);
  va_end(args);
}

static real make_real(double a, double b)
{
#if REAL_BITS == 128
  return CMPLX(a, b);
#else
  (void)b;
  return (real)a;
#endif
}

void case_put(const struct backend *be, size_t bytes, const void *host, void *dev)
{
  CHECK(be->upload(be->st, bytes, host, dev) == OK);
}

void case_get(const struct backend *be, size_t bytes, const void *dev, void *host)
{
  enum status s = be->download(be->st, bytes, dev, host);
  if (s != OK)
    (void)fprintf(stderr, "%s\n", last_error());
  CHECK(s == OK);
}

/* Host memory for `count` reals. */
static real *host_reals(int64_t count)
{
  real *x = malloc((size_t)(count ? count : 1) * sizeof *x);
  CHECK(x != NULL);
  return x;
}

/* A copy of `host` on the device. */
static void *device_copy(const struct backend *be, size_t bytes, const void *host)
{
  void *p;
  CHECK(be->memory_alloc(bytes, &p) == OK);
  case_put(be, bytes, host, p);
  return p;
}

static void *reals(const struct backend *be, int64_t count, const double *a, const double *b)
{
  if (a == NULL)
    return NULL;
  real *x = host_reals(count);
  for (int64_t i = 0; i < count; i++)
    x[i] = make_real(a[i], b ? b[i] : 0);
  void *p = device_copy(be, (size_t)count * sizeof *x, x);
  free(x);
  return p;
}

/* NaN where `wanted`, otherwise NULL */
static void *poisoned(const struct backend *be, int64_t count, bool wanted)
{
  if (!wanted)
    return NULL;
  static real
      *x; /* stays: to take and fill such memory each time took a third of the tests' time */
  static int64_t filled;
  if (count > filled) {
    free(x);
    x = host_reals(count);
    for (int64_t i = 0; i < count; i++)
      x[i] = make_real((double)NAN, (double)NAN);
    filled = count;
  }
  return device_copy(be, (size_t)count * sizeof *x, x);
}

static void read_back(const struct backend *be, int64_t count, const void *dev, double *a,
                      double *b)
{
  if (a == NULL)
    return;
  real *x = host_reals(count);
  case_get(be, (size_t)count * sizeof *x, dev, x);
  for (int64_t i = 0; i < count; i++) {
    a[i] = (double)re(x[i]);
#if REAL_BITS == 128
    if (b)
      b[i] = im(x[i]);
#else
    (void)b;
#endif
  }
  free(x);
}

/* An operation that writes to its inputs fails here. */
static void check_untouched(const struct backend *be, int64_t count, const void *dev,
                            const double *a)
{
  if (a == NULL)
    return;
  real *x = host_reals(count);
  case_get(be, (size_t)count * sizeof *x, dev, x);
  for (int64_t i = 0; i < count; i++)
    CHECK((double)re(x[i]) == (double)re(make_real(a[i], 0)));
  free(x);
}

static void release(const struct backend *be, const void *p)
{
  if (p)
    be->memory_free((void *)(uintptr_t)p);
}

static void take(const struct operation_case *c, const struct case_call *call,
                 struct case_arrays *a)
{
  const struct backend *be = call->be;
  *a = (struct case_arrays){.be = be, .kept = poisoned(be, c->kept, c->kept > 0)};
  /* a wide is never larger than two reals of float32 or one of the others */
  a->wides = poisoned(be, 2 * c->wides, c->wides > 0);
  a->integers = device_copy(be, sizeof c->integers, c->integers);
  for (int k = 0; k < CASE_TENSORS && c->in[k].name; k++) {
    a->in[k] = reals(be, c->in[k].count, call->in[k], call->in_im[k]);
    a->ind[k] = reals(be, c->in[k].count, call->ind[k], NULL);
    a->inb[k] = reals(be, c->in[k].count, call->inb[k], NULL);
  }
  for (int k = 0; k < CASE_TENSORS && c->out[k].name; k++) {
    a->out[k] = poisoned(be, c->out[k].count, call->out[k] != NULL);
    a->outd[k] = poisoned(be, c->out[k].count, call->outd[k] != NULL);
    a->outb[k] = reals(be, c->out[k].count, call->outb[k], NULL);
  }
}

static void give_back(const struct operation_case *c, const struct case_call *call,
                      struct case_arrays *a)
{
  const struct backend *be = call->be;
  for (int k = 0; k < CASE_TENSORS && c->in[k].name; k++) {
    check_untouched(be, c->in[k].count, a->in[k], call->in[k]);
    check_untouched(be, c->in[k].count, a->ind[k], call->ind[k]);
    read_back(be, c->in[k].count, a->inb[k], call->inb[k], NULL);
    release(be, a->in[k]);
    release(be, a->ind[k]);
    release(be, a->inb[k]);
  }
  for (int k = 0; k < CASE_TENSORS && c->out[k].name; k++) {
    check_untouched(be, c->out[k].count, a->outb[k], call->outb[k]);
    read_back(be, c->out[k].count, a->out[k], call->out[k], call->out_im[k]);
    read_back(be, c->out[k].count, a->outd[k], call->outd[k], NULL);
    release(be, a->out[k]);
    release(be, a->outd[k]);
    release(be, a->outb[k]);
  }
  release(be, a->kept);
  release(be, a->wides);
  release(be, a->integers);
}

void case_run(const struct operation_case *c, const struct case_call *call)
{
  struct case_arrays a;
  take(c, call, &a);
  c->fwd(c, &a);
  if (call->pass == CASE_VJP)
    c->vjp(c, &a);
  if (call->pass == CASE_JVP)
    c->jvp(c, &a);
  give_back(c, call, &a);
}
