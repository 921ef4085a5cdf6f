/* weight_norm: w = g v/||v|| by row.   g (rows)  v, w (rows,n);  a row of zeros stays zero
 *   gb += (wb . v)/||v||        vb += g/||v|| (wb - v (wb . v)/||v||^2)
 *   wd  = gd v/||v|| + g/||v|| (vd - v (v . vd)/||v||^2)
 * Reference: Salimans & Kingma 2016, arXiv:1602.07868, eqs. (2), (3).
 */
#include "core/packs.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

/* 1/||v|| */
INLINE wide inverse_norm(int64_t n, const real *v)
{
  wide squares = 0;
  ADD_ROW_SUM(squares, n, j, v[j] * v[j]);
  return re(squares) == 0 ? 0 : INVERSE_ROOT(squares);
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

#ifdef __CUDACC__
/* On a GPU rows are short of work and of company: a warp has its row in registers, all of whose
 * loads are under way together (the paper's weights on an H200: 15 us a VJP, not 25). */
enum { HELD_PACKS = 8 };
struct held_row {
  pack<PACK> at[HELD_PACKS];
};

static bool can_hold(int64_t n, const real *v, const real *w)
{
  return n <= HELD_PACKS * WARP * PACK && in_packs(n, v) && in_packs(n, w);
}

INLINE_DEVICE held_row hold(int64_t n, const real *v)
{
  held_row row = {};
#pragma unroll
  for (int f = 0; f < HELD_PACKS; f++)
    if (lane() + f * WARP < n / PACK)
      row.at[f] = pack_at(v, lane() + f * WARP);
  return row;
}

INLINE_DEVICE wide held_dot(const held_row &a, const held_row &b)
{
  real part = 0;
#pragma unroll
  for (int f = 0; f < HELD_PACKS; f++)
#pragma unroll
    for (int l = 0; l < PACK; l++)
      part += a.at[f].at[l] * b.at[f].at[l];
  wide sum = (wide)part;
  ROW_FOLD(sum, plus);
  return sum;
}

INLINE_DEVICE wide held_inverse_norm(const held_row &v)
{
  wide squares = held_dot(v, v);
  return squares == 0 ? 0 : INVERSE_ROOT(squares);
}

KERNEL fwd_held(int64_t rows, int64_t n, const real *g, const real *v, real *w)
{
  FOR_EACH_ROW (i, rows, 2 * n) {
    held_row row = hold(n, v + i * n);
    real scale = (real)((wide)g[i] * held_inverse_norm(row));
#pragma unroll
    for (int f = 0; f < HELD_PACKS; f++) {
#pragma unroll
      for (int l = 0; l < PACK; l++)
        row.at[f].at[l] *= scale;
      if (lane() + f * WARP < n / PACK)
        put_pack(row.at[f], w + i * n, lane() + f * WARP);
    }
  }
}

KERNEL vjp_held(int64_t rows, int64_t n, const real *g, const real *v, const real *wb, real *gb,
                real *vb)
{
  FOR_EACH_ROW (i, rows, 4 * n) {
    held_row row = hold(n, v + i * n), rowb = hold(n, wb + i * n), sum = {};
    if (vb)
      sum = hold(n, vb + i * n);
    wide inverse = held_inverse_norm(row), dot = held_dot(rowb, row);
    real scale = (real)((wide)g[i] * inverse), along = (real)(dot * inverse * inverse);
    if (gb && OWNS_COLUMN(0))
      gb[i] += (real)(dot * inverse);
#pragma unroll
    for (int f = 0; f < HELD_PACKS; f++) {
#pragma unroll
      for (int l = 0; l < PACK; l++)
        sum.at[f].at[l] += scale * (rowb.at[f].at[l] - row.at[f].at[l] * along);
      if (vb && lane() + f * WARP < n / PACK)
        put_pack(sum.at[f], vb + i * n, lane() + f * WARP);
    }
  }
}
#endif

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
#ifdef __CUDACC__
  if (can_hold(n, v, w)) {
    LAUNCH_ROWS(st, rows, fwd_held, rows, n, g, v, w);
    return;
  }
#endif
  LAUNCH_ROWS(st, rows, fwd, rows, n, g, v, w);
}

void OP(weight_norm_vjp)(stream st, int64_t rows, int64_t n, const DEVICE real *g,
                         const DEVICE real *v, const DEVICE real *wb, DEVICE real *gb,
                         DEVICE real *vb)
{
#ifdef __CUDACC__
  if (can_hold(n, v, wb) && in_packs(n, vb)) {
    LAUNCH_ROWS(st, rows, vjp_held, rows, n, g, v, wb, gb, vb);
    return;
  }
#endif
  LAUNCH_ROWS(st, rows, vjp, rows, n, g, v, wb, gb, vb);
}

void OP(weight_norm_jvp)(stream st, int64_t rows, int64_t n, const DEVICE real *g,
                         const DEVICE real *v, const DEVICE real *gd, const DEVICE real *vd,
                         DEVICE real *wd)
{
  LAUNCH_ROWS(st, rows, jvp, rows, n, g, v, gd, vd, wd);
}
