/* silu_gate: y = value silu(gate).   x (M,2F) holds value (F), then gate (F), in each row  y (M,F)
 *   valueb += yb silu(gate)     gateb += yb value silu'(gate)
 *   yd = valued silu(gate) + value silu'(gate) gated
 * Reference: Shazeer 2020, arXiv:2002.05202 (SwiGLU).
 */
#include "kernels/elementary.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

KERNEL fwd(int64_t M, int64_t F, const real *x, real *y)
{
  FOR_EACH_COST (i, M * spans(F), 16 * F) {
    struct span s = span_of(i, F);
    const real *value = x + s.row * 2 * F, *gate = value + F;
    SIMD
    for (int64_t j = s.first; j < s.end; j++)
      y[s.row * F + j] = value[j] * silu(gate[j]);
  }
}

KERNEL vjp(int64_t M, int64_t F, const real *x, const real *yb, real *xb)
{
  FOR_EACH_COST (i, M * spans(F), 16 * F) {
    struct span s = span_of(i, F);
    const real *value = x + s.row * 2 * F, *gate = value + F, *ybm = yb + s.row * F;
    real *valueb = xb + s.row * 2 * F, *gateb = valueb + F;
    SIMD
    for (int64_t j = s.first; j < s.end; j++) {
      struct silu_pair open = silu_with_slope(gate[j]);
      valueb[j] += ybm[j] * open.value;
      gateb[j] += ybm[j] * value[j] * open.slope;
    }
  }
}

KERNEL jvp(int64_t M, int64_t F, const real *x, const real *xd, real *yd)
{
  FOR_EACH_COST (i, M * spans(F), 16 * F) {
    struct span s = span_of(i, F);
    const real *value = x + s.row * 2 * F, *gate = value + F;
    const real *valued = xd + s.row * 2 * F, *gated = valued + F;
    SIMD
    for (int64_t j = s.first; j < s.end; j++) {
      struct silu_pair open = silu_with_slope(gate[j]);
      yd[s.row * F + j] = valued[j] * open.value + value[j] * open.slope * gated[j];
    }
  }
}

void OP(silu_gate_fwd)(stream st, int64_t M, int64_t F, const DEVICE real *x, DEVICE real *y)
{
  LAUNCH(st, M * spans(F), fwd, M, F, x, y);
}

void OP(silu_gate_vjp)(stream st, int64_t M, int64_t F, const DEVICE real *x, const DEVICE real *yb,
                       DEVICE real *xb)
{
  if (xb)
    LAUNCH(st, M * spans(F), vjp, M, F, x, yb, xb);
}

void OP(silu_gate_jvp)(stream st, int64_t M, int64_t F, const DEVICE real *x, const DEVICE real *xd,
                       DEVICE real *yd)
{
  if (xd)
    LAUNCH(st, M * spans(F), jvp, M, F, x, xd, yd);
  else
    OP(fill)(st, M * F, 0, yd);
}
