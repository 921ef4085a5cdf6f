/* residual: y = x + mask out.   x, out, y (B,T,D)  mask (.,D), row[b] of it for sequence b, or
 * NULL: ones xb += yb     outb += mask yb     yd = xd + mask outd y may be x or out: each element
 * is read before it is written.
 */
#include "kernels/operations.h"
#include "kernels/rows.h"

struct shape {
  int64_t B, T, D;
};

INLINE const real *mask_row(struct shape d, const int32_t *row, const real *mask, int64_t bt)
{
  int64_t b = bt / d.T;
  return mask ? mask + (row ? row[b] : b) * d.D : NULL;
}

KERNEL add(struct shape d, const real *x, const real *out, const int32_t *row, const real *mask,
           real *y)
{
  FOR_EACH_COST (i, d.B * d.T * spans(d.D), d.D) {
    struct span s = span_of(i, d.D);
    const real *keep = mask_row(d, row, mask, s.row), *xi = x + s.row * d.D;
    const real *outi = out + s.row * d.D;
    real *yi = y + s.row * d.D;
    if (keep) {
      SIMD
      for (int64_t j = s.first; j < s.end; j++)
        yi[j] = xi[j] + keep[j] * outi[j];
    } else {
      SIMD
      for (int64_t j = s.first; j < s.end; j++)
        yi[j] = xi[j] + outi[j];
    }
  }
}

/* outb += mask yb */
KERNEL accumulate(struct shape d, const int32_t *row, const real *mask, const real *yb, real *outb)
{
  FOR_EACH_COST (i, d.B * d.T * spans(d.D), d.D) {
    struct span s = span_of(i, d.D);
    const real *keep = mask_row(d, row, mask, s.row), *ybi = yb + s.row * d.D;
    real *outbi = outb + s.row * d.D;
    if (keep) {
      SIMD
      for (int64_t j = s.first; j < s.end; j++)
        outbi[j] += keep[j] * ybi[j];
    } else {
      SIMD
      for (int64_t j = s.first; j < s.end; j++)
        outbi[j] += ybi[j];
    }
  }
}

void OP(residual_fwd)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE real *x,
                      const DEVICE real *out, const DEVICE int32_t *row, const DEVICE real *mask,
                      DEVICE real *y)
{
  struct shape d = {B, T, D};
  LAUNCH(st, B * T * spans(D), add, d, x, out, row, mask, y);
}

void OP(residual_vjp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE int32_t *row,
                      const DEVICE real *mask, const DEVICE real *yb, DEVICE real *xb,
                      DEVICE real *outb)
{
  struct shape d = {B, T, D};
  if (xb)
    LAUNCH(st, B * T * spans(D), accumulate, d, NULL, NULL, yb, xb);
  if (outb)
    LAUNCH(st, B * T * spans(D), accumulate, d, row, mask, yb, outb);
}

void OP(residual_jvp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE int32_t *row,
                      const DEVICE real *mask, const DEVICE real *xd, const DEVICE real *outd,
                      DEVICE real *yd)
{
  struct shape d = {B, T, D};
  int64_t n = B * T * D;
  if (xd && outd) {
    LAUNCH(st, B * T * spans(D), add, d, xd, outd, row, mask, yd);
    return;
  }
  if (xd)
    OP(axpby)(st, n, 1, xd, 0, yd);
  else
    OP(fill)(st, n, 0, yd);
  if (outd)
    LAUNCH(st, B * T * spans(D), accumulate, d, row, mask, outd, yd);
}
