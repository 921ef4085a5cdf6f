/* residual: y = x + mask out.   x, out, y (B,T,D)  mask (.,D), row[b] of it for sequence b, or
 * NULL: ones   xb = beta xb + yb     outb = beta outb + mask yb     yd = xd + mask outd
 * y may be x or out, and a cotangent yb: each element is read before it is written.
 */
#include "core/packs.h"
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
  FOR_EACH_ROW (i, d.B * d.T, d.D) {
    const real *keep = mask_row(d, row, mask, i), *xi = x + i * d.D, *outi = out + i * d.D;
    real *yi = y + i * d.D;
    if (keep) {
      SIMD
      FOR_COLUMNS (j, 0, d.D)
        yi[j] = xi[j] + keep[j] * outi[j];
    } else {
      SIMD
      FOR_COLUMNS (j, 0, d.D)
        yi[j] = xi[j] + outi[j];
    }
  }
}

/* outb = beta outb + mask yb; mask is not NULL */
KERNEL accumulate(struct shape d, const int32_t *row, const real *mask, const real *yb, real beta,
                  real *outb)
{
  FOR_EACH_ROW (i, d.B * d.T, d.D) {
    const real *keep = mask_row(d, row, mask, i), *ybi = yb + i * d.D;
    real *outbi = outb + i * d.D;
    if (beta != 0) {
      SIMD
      FOR_COLUMNS (j, 0, d.D)
        outbi[j] = beta * outbi[j] + keep[j] * ybi[j];
    } else {
      SIMD
      FOR_COLUMNS (j, 0, d.D)
        outbi[j] = keep[j] * ybi[j];
    }
  }
}

#ifdef __CUDACC__
KERNEL add_packs(struct shape d, const real *x, const real *out, const int32_t *row,
                 const real *mask, real *y)
{
  FOR_EACH_ROW (i, d.B * d.T, d.D) {
    const real *keep = mask_row(d, row, mask, i), *xi = x + i * d.D, *outi = out + i * d.D;
    FOR_COLUMNS (j, 0, d.D / PACK) {
      pack<PACK> a = pack_at(xi, j), b = pack_at(outi, j), k;
      if (keep)
        k = pack_at(keep, j);
      for (int q = 0; q < PACK; q++)
        a.at[q] += keep ? k.at[q] * b.at[q] : b.at[q];
      put_pack(a, y + i * d.D, j);
    }
  }
}

KERNEL accumulate_packs(struct shape d, const int32_t *row, const real *mask, const real *yb,
                        real beta, real *outb)
{
  FOR_EACH_ROW (i, d.B * d.T, d.D) {
    const real *keep = mask_row(d, row, mask, i), *ybi = yb + i * d.D;
    real *outbi = outb + i * d.D;
    FOR_COLUMNS (j, 0, d.D / PACK) {
      pack<PACK> a = pack_at(ybi, j), k = pack_at(keep, j), b = {};
      if (beta != 0)
        b = pack_at(outbi, j);
      for (int q = 0; q < PACK; q++)
        b.at[q] = beta * b.at[q] + k.at[q] * a.at[q];
      put_pack(b, outbi, j);
    }
  }
}
#endif

static void launch_add(stream st, struct shape d, const DEVICE real *x, const DEVICE real *out,
                       const DEVICE int32_t *row, const DEVICE real *mask, DEVICE real *y)
{
#ifdef __CUDACC__
  if (in_packs(d.D, x) && in_packs(d.D, out) && in_packs(d.D, mask) && in_packs(d.D, y)) {
    LAUNCH_ROWS(st, d.B * d.T, add_packs, d, x, out, row, mask, y);
    return;
  }
#endif
  LAUNCH_ROWS(st, d.B * d.T, add, d, x, out, row, mask, y);
}

/* outb = beta outb + mask yb */
static void give(stream st, struct shape d, const DEVICE int32_t *row, const DEVICE real *mask,
                 const DEVICE real *yb, real beta, DEVICE real *outb)
{
  if (!mask) {
    OP(axpby)(st, d.B * d.T * d.D, 1, yb, beta, outb);
    return;
  }
#ifdef __CUDACC__
  if (in_packs(d.D, yb) && in_packs(d.D, mask) && in_packs(d.D, outb)) {
    LAUNCH_ROWS(st, d.B * d.T, accumulate_packs, d, row, mask, yb, beta, outb);
    return;
  }
#endif
  LAUNCH_ROWS(st, d.B * d.T, accumulate, d, row, mask, yb, beta, outb);
}

void OP(residual_fwd)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE real *x,
                      const DEVICE real *out, const DEVICE int32_t *row, const DEVICE real *mask,
                      DEVICE real *y)
{
  struct shape d = {B, T, D};
  launch_add(st, d, x, out, row, mask, y);
}

void OP(residual_vjp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE int32_t *row,
                      const DEVICE real *mask, const DEVICE real *yb, real beta, DEVICE real *xb,
                      DEVICE real *outb)
{
  struct shape d = {B, T, D};
  if (xb)
    give(st, d, NULL, NULL, yb, beta, xb);
  if (outb)
    give(st, d, row, mask, yb, beta, outb);
}

void OP(residual_jvp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE int32_t *row,
                      const DEVICE real *mask, const DEVICE real *xd, const DEVICE real *outd,
                      DEVICE real *yd)
{
  struct shape d = {B, T, D};
  int64_t n = B * T * D;
  if (xd && outd) {
    launch_add(st, d, xd, outd, row, mask, yd);
    return;
  }
  if (outd) {
    give(st, d, row, mask, outd, 0, yd);
    return;
  }
  if (xd)
    OP(axpby)(st, n, 1, xd, 0, yd);
  else
    OP(fill)(st, n, 0, yd);
}
