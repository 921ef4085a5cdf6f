/* operation_case.h: one differentiable operation at one shape, described once for all precisions.
 *
 * A file tests/numeric/NAME.c, compiled at each precision, has for every operation three adaptors
 * (forward, VJP, JVP) that call it through a backend's table, and one `case_list` that describes
 * the cases:
 *
 *   static void rmsnorm_fwd(const struct operation_case *c, const struct case_arrays *a)
 *   {
 *     const struct backend *be = a->be;
 *     be->rmsnorm_fwd(be->st, c->n[0], c->n[1], (real)c->s[0], a->in[0], a->in[1], a->kept,
 * a->out[0]);
 *   }
 *   ... rmsnorm_vjp, rmsnorm_jvp ...
 *   case_list NAME(norm_cases);
 *   bool NAME(norm_cases)(int index, struct operation_case *c)     false: no such case
 *   {
 *     if (index >= 3) return false;
 *     int64_t M = (int64_t[]){1, 7, 129}[index], D = 5;
 *     *c = (struct operation_case){.n = {M, D}, .s = {1e-5}, .kept = M, .float_bound = 1e-6,
 *                                  .in = {{"x", M * D}, {"w", D, .lo = .5, .hi = 2}},
 *                                  .out = {{"y", M * D}},
 *                                  CASE_ADAPTORS(rmsnorm)};
 *     case_name(c, "rmsnorm M %d D %d", (int)M, (int)D);
 *     return true;
 *   }
 *
 * A test program checks them all:   CASE_LIST(norm_cases); ... check_operations(norm_cases);
 * see tests/derivatives.h for what is checked.
 */
#ifndef TESTS_NUMERIC_OPERATION_CASE_H
#define TESTS_NUMERIC_OPERATION_CASE_H
#include <stdbool.h>
#include <stdint.h>

enum { CASE_TENSORS = 12, CASE_NUMBERS = 12, CASE_INTEGERS = 2048 };

/* An array of reals.  Inputs are drawn uniformly from (lo,hi); lo = hi = 0: from (-1,1).
 * optional: an input whose NULL is zeros; an output whose NULL (also of its cotangent or tangent)
 * is allowed.  constant: an input that is not differentiated. */
struct case_tensor {
  const char *name; /* NULL: no such tensor */
  int64_t count;
  double lo, hi;
  bool optional, constant;
};

/* What adaptors see: device arrays of this compilation's `real`, `in`, `out` etc. by the case's
 * order.
 * Cotangents outb, inb: the VJP adds to inb.  Tangents ind, outd.  NULL: pass NULL on. */
struct case_arrays {
  const void *be; /* struct backend of this precision */
  const void *in[CASE_TENSORS], *outb[CASE_TENSORS], *ind[CASE_TENSORS];
  void *out[CASE_TENSORS], *inb[CASE_TENSORS], *outd[CASE_TENSORS];
  void *kept;  /* `kept` reals: what the forward keeps for the derivatives, and scratch */
  void *wides; /* `wides` wides, likewise */
  const int32_t *integers; /* the case's */
};

struct operation_case;
typedef void case_adaptor(const struct operation_case *c, const struct case_arrays *a);

/* The same arrays without precision; imaginary parts only in the complex build (NULL: zeros). */
struct case_call {
  const void *be;
  enum { CASE_FWD, CASE_VJP, CASE_JVP } pass; /* a VJP or JVP comes after the forward */
  const double *in[CASE_TENSORS], *in_im[CASE_TENSORS], *outb[CASE_TENSORS], *ind[CASE_TENSORS];
  double *out[CASE_TENSORS], *out_im[CASE_TENSORS], *inb[CASE_TENSORS], *outd[CASE_TENSORS];
};

struct operation_case {
  char name[96];
  int64_t n[CASE_NUMBERS];         /* dimensions, as the adaptors understand them */
  double s[CASE_NUMBERS];          /* scalars, likewise */
  int32_t integers[CASE_INTEGERS]; /* tokens, labels, row maps, likewise */
  struct case_tensor in[CASE_TENSORS], out[CASE_TENSORS];
  int64_t kept, wides;
  double float_bound; /* error of float32 against float64 that is accepted */
  case_adaptor *fwd, *vjp, *jvp;
  /* Converts, fills outputs, kept and wides with NaN, runs the adaptors, converts back. */
  void (*run)(const struct operation_case *c, const struct case_call *call);
};

/* Describes case `index`; false when there is none. */
typedef bool case_list(int index, struct operation_case *c);

#ifdef REAL_BITS
#include "core/backend.h"

#define case_run NAME(case_run)
void case_run(const struct operation_case *c, const struct case_call *call);
/* For adaptors that look at device memory. */
#define case_put NAME(case_put)
#define case_get NAME(case_get)
void case_put(const struct backend *be, size_t bytes, const void *host, void *dev);
void case_get(const struct backend *be, size_t bytes, const void *dev, void *host);
#define case_name NAME(case_name)
void case_name(struct operation_case *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define CASE_ADAPTORS(op) .fwd = op##_fwd, .vjp = op##_vjp, .jvp = op##_jvp, .run = case_run
#endif
#endif
