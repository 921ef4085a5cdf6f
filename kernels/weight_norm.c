/* weight_norm: w = g v/||v|| by row.   g (rows)  v, w (rows,n);  a row of zeros stays zero
 *   gb += (wb . v)/||v||        vb += g/||v|| (wb - v (wb . v)/||v||^2)
 *   wd  = gd v/||v|| + g/||v|| (vd - v (v . vd)/||v||^2)
 * Reference: Salimans & Kingma 2016, arXiv:1602.07868, eqs. (2), (3).
 */
#include "kernels/operations.h"
#include "kernels/rows.h"

/* 1/||v|| */
INLINE wide inverse_norm(int64_t n, const real *v)
{
  wide squares = 0;
  ADD_ROW_SUM(squares, n, j, v[j] * v[j]);
  return re(squares) == 0 ? 0 : 1 / sqrt(squares);
}

INLINE wide dot_of(int64_t n, const real *a, const real *b)
{
  wide dot = 0;
  ADD_ROW_SUM(dot, n, j, a[j] * b[j]);
  return dot;
}

KERNEL fwd(int64_t rows, int64_t n, const real *g, const real *v, real *w)
{
  FOR_EACH_ROW (i, rows, 2 * n) {
    const real *vi = v + i * n;
    real scale = (real)((wide)g[i] * inverse_norm(n, vi));
    SIMD
    FOR_COLUMNS (j, 0, n)
      w[i * n + j] = scale * vi[j];
  }
}

KERNEL vjp(int64_t rows, int64_t n, const real *g, const real *v, const real *wb, real *gb,
           real *vb)
{
  FOR_EACH_ROW (i, rows, 4 * n) {
    const real *vi = v + i * n, *wbi = wb + i * n;
    wide inverse = inverse_norm(n, vi), dot = dot_of(n, wbi, vi);
    real scale = (real)((wide)g[i] * inverse), along = (real)(dot * inverse * inverse);
    if (gb && OWNS_COLUMN(0))
      gb[i] += (real)(dot * inverse);
    SIMD
    FOR_COLUMNS (j, 0, vb ? n : 0)
      vb[i * n + j] += scale * (wbi[j] - vi[j] * along);
  }
}

KERNEL jvp(int64_t rows, int64_t n, const real *g, const real *v, const real *gd, const real *vd,
           real *wd)
{
  FOR_EACH_ROW (i, rows, 4 * n) {
    const real *vi = v + i * n;
    wide inverse = inverse_norm(n, vi), dot = vd ? dot_of(n, vi, vd + i * n) : 0;
    real scale = (real)((wide)g[i] * inverse);
    real along = (gd ? (real)((wide)gd[i] * inverse) : 0) - scale * (real)(dot * inverse * inverse);
    FOR_COLUMNS (j, 0, n)
      wd[i * n + j] = along * vi[j] + (vd ? scale * vd[i * n + j] : 0);
  }
}

void OP(weight_norm_fwd)(stream st, int64_t rows, int64_t n, const DEVICE real *g,
                         const DEVICE real *v, DEVICE real *w)
{
  LAUNCH_ROWS(st, rows, fwd, rows, n, g, v, w);
}

void OP(weight_norm_vjp)(stream st, int64_t rows, int64_t n, const DEVICE real *g,
                         const DEVICE real *v, const DEVICE real *wb, DEVICE real *gb,
                         DEVICE real *vb)
{
  LAUNCH_ROWS(st, rows, vjp, rows, n, g, v, wb, gb, vb);
}

void OP(weight_norm_jvp)(stream st, int64_t rows, int64_t n, const DEVICE real *g,
                         const DEVICE real *v, const DEVICE real *gd, const DEVICE real *vd,
                         DEVICE real *wd)
{
  LAUNCH_ROWS(st, rows, jvp, rows, n, g, v, gd, vd, wd);
}
