/* residual: y = x + mask out.   x, out, y (B,T,D)  mask (.,D), row[b] of it for sequence b, or
 * NULL: ones xb += yb     outb += mask yb     yd = xd + mask outd y may be x or out: each element
 * is read before it is written.
 */
#include "kernels/operations.h"
#include "kernels/rows.h"
#ifdef __CUDACC__
#include "kernels/elementary.h"
#include "kernels/quads_cuda.h"
#endif

struct shape {
  int64_t B, T, D;
};

INLINE const real *mask_row(struct shape d, const int32_t *row, const real *mask, int64_t bt)
{
  int64_t b = bt / d.T;
  return mask ? mask + (row ? row[b] : b) * d.D : NULL;
}

#ifdef __CUDACC__
enum { FLIGHT = 2 }; /* of each array, what a lane loads before it stores */

/* x + keep out, keep NULL: ones */
ELEMENTARY real sum_of(real x, const real *keep, real out) { return x + (keep ? *keep : 1) * out; }
ELEMENTARY struct quad sum_of(struct quad x, const struct quad *keep, struct quad out)
{
  struct quad ones = {{1, 1, 1, 1}}, factor = keep ? *keep : ones;
  for (int k = 0; k < QUAD; k++)
    x.at[k] += factor.at[k] * out.at[k];
  return x;
}

/* A warp a row, of `units` quads or single elements. */
template <class T>
static __global__ void add_rows(struct shape d, int64_t units, const real *x, const real *out,
                                const int32_t *row, const real *mask, real *y)
{
  FOR_EACH_ROW (bt, d.B * d.T, d.D) {
    const T *keep = (const T *)mask_row(d, row, mask, bt), *xi = (const T *)(x + bt * d.D);
    const T *outi = (const T *)(out + bt * d.D);
    T *yi = (T *)(y + bt * d.D);
    for (int64_t j = lane(); j < units; j += FLIGHT * WARP) {
      T xj[FLIGHT], outj[FLIGHT];
#pragma unroll
      for (int f = 0; f < FLIGHT; f++)
        if (j + f * WARP < units) {
          xj[f] = xi[j + f * WARP];
          outj[f] = outi[j + f * WARP];
        }
#pragma unroll
      for (int f = 0; f < FLIGHT; f++)
        if (j + f * WARP < units)
          yi[j + f * WARP] = sum_of(xj[f], keep ? keep + j + f * WARP : NULL, outj[f]);
    }
  }
}

static void add_masked(stream st, struct shape d, const real *x, const real *out,
                       const int32_t *row, const real *mask, real *y)
{
  if (in_quads(d.D, x) && in_quads(d.D, out) && in_quads(d.D, mask) && in_quads(d.D, y))
    LAUNCH_ROWS(st, d.B * d.T, add_rows<struct quad>, d, d.D / QUAD, x, out, row, mask, y);
  else
    LAUNCH_ROWS(st, d.B * d.T, add_rows<real>, d, d.D, x, out, row, mask, y);
}
#else
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

static void add_masked(stream st, struct shape d, const DEVICE real *x, const DEVICE real *out,
                       const DEVICE int32_t *row, const DEVICE real *mask, DEVICE real *y)
{
  LAUNCH(st, d.B * d.T * spans(d.D), add, d, x, out, row, mask, y);
}
#endif

void OP(residual_fwd)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE real *x,
                      const DEVICE real *out, const DEVICE int32_t *row, const DEVICE real *mask,
                      DEVICE real *y)
{
  struct shape d = {B, T, D};
  add_masked(st, d, x, out, row, mask, y);
}

void OP(residual_vjp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE int32_t *row,
                      const DEVICE real *mask, const DEVICE real *yb, DEVICE real *xb,
                      DEVICE real *outb)
{
  struct shape d = {B, T, D};
  if (xb)
    add_masked(st, d, xb, yb, NULL, NULL, xb);
  if (outb)
    add_masked(st, d, outb, yb, row, mask, outb);
}

void OP(residual_jvp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE int32_t *row,
                      const DEVICE real *mask, const DEVICE real *xd, const DEVICE real *outd,
                      DEVICE real *yd)
{
  struct shape d = {B, T, D};
  int64_t n = B * T * D;
  if (xd && outd) {
    add_masked(st, d, xd, outd, row, mask, yd);
    return;
  }
  if (xd)
    OP(axpby)(st, n, 1, xd, 0, yd);
  else
    OP(fill)(st, n, 0, yd);
  if (outd)
    add_masked(st, d, yd, outd, row, mask, yd);
}
