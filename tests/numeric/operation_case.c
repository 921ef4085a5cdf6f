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

static real *reals(int64_t count, const double *a, const double *b)
{
  if (a == NULL)
    return NULL;
  real *x = malloc((size_t)count * sizeof *x);
  CHECK(x != NULL || count == 0);
  for (int64_t i = 0; i < count; i++)
    x[i] = make_real(a[i], b ? b[i] : 0);
  return x;
}

/* NaN where `wanted`, otherwise NULL */
static void *poisoned(int64_t count, bool wanted)
{
  real *x = wanted ? malloc((size_t)count * sizeof *x) : NULL;
  CHECK(x != NULL || !wanted || count == 0);
  for (int64_t i = 0; x && i < count; i++)
    x[i] = make_real((double)NAN, (double)NAN);
  return x;
}

static void read_back(int64_t count, const real *x, double *a, double *b)
{
  for (int64_t i = 0; a && i < count; i++) {
    a[i] = (double)re(x[i]);
#if REAL_BITS == 128
    if (b)
      b[i] = im(x[i]);
#else
    (void)b;
#endif
  }
}

/* An operation that writes to its inputs fails here. */
static void check_untouched(int64_t count, const real *x, const double *a)
{
  for (int64_t i = 0; a && i < count; i++)
    CHECK((double)re(x[i]) == (double)re(make_real(a[i], 0)));
}

static void free_const(const void *p) { free((void *)(uintptr_t)p); }

static void take(const struct operation_case *c, const struct case_call *call,
                 struct case_arrays *a)
{
  *a = (struct case_arrays){.be = call->be, .kept = poisoned(c->kept, c->kept > 0)};
  /* a wide is never larger than two reals of float32 or one of the others */
  a->wides = poisoned(2 * c->wides, c->wides > 0);
  for (int k = 0; k < CASE_TENSORS && c->in[k].name; k++) {
    a->in[k] = reals(c->in[k].count, call->in[k], call->in_im[k]);
    a->ind[k] = reals(c->in[k].count, call->ind[k], NULL);
    a->inb[k] = reals(c->in[k].count, call->inb[k], NULL);
  }
  for (int k = 0; k < CASE_TENSORS && c->out[k].name; k++) {
    a->out[k] = poisoned(c->out[k].count, call->out[k] != NULL);
    a->outd[k] = poisoned(c->out[k].count, call->outd[k] != NULL);
    a->outb[k] = reals(c->out[k].count, call->outb[k], NULL);
  }
}

static void give_back(const struct operation_case *c, const struct case_call *call,
                      struct case_arrays *a)
{
  for (int k = 0; k < CASE_TENSORS && c->in[k].name; k++) {
    check_untouched(c->in[k].count, a->in[k], call->in[k]);
    check_untouched(c->in[k].count, a->ind[k], call->ind[k]);
    read_back(c->in[k].count, a->inb[k], call->inb[k], NULL);
    free_const(a->in[k]);
    free_const(a->ind[k]);
    free(a->inb[k]);
  }
  for (int k = 0; k < CASE_TENSORS && c->out[k].name; k++) {
    check_untouched(c->out[k].count, a->outb[k], call->outb[k]);
    read_back(c->out[k].count, a->out[k], call->out[k], call->out_im[k]);
    read_back(c->out[k].count, a->outd[k], call->outd[k], NULL);
    free(a->out[k]);
    free(a->outd[k]);
    free_const(a->outb[k]);
  }
  free(a->kept);
  free(a->wides);
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
