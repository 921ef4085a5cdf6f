/* rmsnorm: y = w x r,  r = (mean(x^2) + eps)^(-1/2), per row.
 * x, y (M,D)  w (D)  r (M), kept for the derivatives.
 *   rd  = -r^3/D sum_j x_j xd_j               yd  = wd x r + w (xd r + x rd)
 *   xb += r (w yb - x r^2/D sum_j w_j yb_j x_j)       wb += sum_rows yb x r
 * Reference: Zhang & Sennrich 2019, arXiv:1910.07467, eq. (4).
 */
#include "kernels/operations.h"
#include "kernels/rows.h"

KERNEL fwd(int64_t M, int64_t D, real eps, const real *x, const real *w, real *r, real *y)
{
  FOR_EACH_ROW (m, M, D) {
    const real *xm = x + m * D;
    real *ym = y + m * D;
    wide squares = 0;
    ADD_ROW_SUM(squares, D, j, xm[j] * xm[j]);
    real scale = (real)(1 / sqrt(squares / (wide)D + (wide)eps));
    if (OWNS_COLUMN(0))
      r[m] = scale;
    SIMD
    FOR_COLUMNS (j, 0, D)
      ym[j] = w[j] * (xm[j] * scale);
  }
}

KERNEL vjp_x(int64_t M, int64_t D, const real *x, const real *w, const real *r, const real *yb,
             real *xb)
{
  FOR_EACH_ROW (m, M, D) {
    const real *xm = x + m * D, *ybm = yb + m * D;
    real *xbm = xb + m * D;
    wide dot = 0;
    ADD_ROW_SUM(dot, D, j, w[j] * ybm[j] * xm[j]);
    real scale = r[m], along = scale * scale * (real)(dot / (wide)D);
    SIMD
    FOR_COLUMNS (j, 0, D)
      xbm[j] += scale * (w[j] * ybm[j] - xm[j] * along);
  }
}

BLOCK_KERNEL vjp_w(int64_t M, int64_t D, const real *x, const real *r, const real *yb, real *wb)
{
  FOR_EACH_BLOCK (strip, strips(D), M * STRIP)
    ADD_COLUMN_SUMS(strip, M, D, wb, m, j, yb[m * D + j] * (x[m * D + j] * r[m]));
}

KERNEL jvp(int64_t M, int64_t D, const real *x, const real *w, const real *r, const real *xd,
           const real *wd, real *yd)
{
  FOR_EACH_ROW (m, M, D) {
    const real *xm = x + m * D;
    real *ydm = yd + m * D, scale = r[m];
    const real *tangent = wd ? wd : w;
    real wanted = wd ? scale : 0; /* no masked accesses to NULL, which are slow */
    SIMD
    FOR_COLUMNS (j, 0, D)
      ydm[j] = tangent[j] * (xm[j] * wanted);
    if (xd) {
      const real *xdm = xd + m * D;
      wide dot = 0;
      ADD_ROW_SUM(dot, D, j, xm[j] * xdm[j]);
      real along = scale * scale * (real)(dot / (wide)D);
      SIMD
      FOR_COLUMNS (j, 0, D)
        ydm[j] += w[j] * (scale * (xdm[j] - xm[j] * along));
    }
  }
}

#ifdef __CUDACC__
#include "kernels/rmsnorm_cuda.h"
#endif

void OP(rmsnorm_fwd)(stream st, int64_t M, int64_t D, real eps, const DEVICE real *x,
                     const DEVICE real *w, DEVICE real *r, DEVICE real *y)
{
#ifdef __CUDACC__
  if (fwd_by_teams(st, M, D, eps, x, w, r, y))
    return;
#endif
  LAUNCH_ROWS(st, M, fwd, M, D, eps, x, w, r, y);
}

void OP(rmsnorm_vjp)(stream st, int64_t M, int64_t D, const DEVICE real *x, const DEVICE real *w,
                     const DEVICE real *r, const DEVICE real *yb, DEVICE real *xb, DEVICE real *wb)
{
#ifdef __CUDACC__
  if (vjp_by_teams(st, M, D, x, w, r, yb, xb, wb))
    return;
#endif
  if (xb)
    LAUNCH_ROWS(st, M, vjp_x, M, D, x, w, r, yb, xb);
  if (wb)
    LAUNCH_SUMS(st, strips(D), M, vjp_w, M, D, x, r, yb, wb);
}

void OP(rmsnorm_jvp)(stream st, int64_t M, int64_t D, const DEVICE real *x, const DEVICE real *w,
                     const DEVICE real *r, const DEVICE real *xd, const DEVICE real *wd,
                     DEVICE real *yd)
{
  LAUNCH_ROWS(st, M, jvp, M, D, x, w, r, xd, wd, yd);
}
