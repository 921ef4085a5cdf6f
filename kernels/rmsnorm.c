/* rmsnorm: of rows, and of what a residual branch makes of them.   x, out, z, h, y (B,T,D)  w (D)
 *   h = x + mask out        r = (mean(h^2) + eps)^(-1/2)        y = z + damping (w h r - z)
 * mask (.,D): row[b] of it for sequence b, or NULL: ones   r (B,T), kept for the derivatives
 *   g = r (w a yb - h r^2/D sum_j w_j a yb_j h_j)                with a yb the cotangent of w h r
 *   xb = sum + beta xb + g      outb = mask xb                   wb += sum_rows a yb h r
 * and, for who solves z = w h r, ||w h r - z||^2 and ||w h r||^2 of each row.
 *   hd = xd + mask outd         rd = -r^3/D sum_j h_j hd_j       yd = wd h r + w (hd r + h rd)
 * y may be x or out, and xb may be yb: each element is read before it is written.
 * Reference: Zhang & Sennrich 2019, arXiv:1910.07467, eq. (4).
 */
#include "kernels/operations.h"
#include "kernels/rows.h"

struct shape {
  int64_t B, T, D;
};

/* What a VJP adds up in xb. */
struct addends {
  real a, beta, direct;
  const real *sum;
};

INLINE const real *mask_row(struct shape d, const int32_t *row, const real *mask, int64_t bt)
{
  int64_t b = d.T == 1 ? bt : bt / d.T;
  return mask ? mask + (row ? row[b] : b) * d.D : NULL;
}

/* h = x + keep out; x NULL: zeros, keep NULL: ones */
INLINE void add_branch(int64_t D, const real *x, const real *keep, const real *out, real *h)
{
  if (x && keep) {
    SIMD
    FOR_COLUMNS (j, 0, D)
      h[j] = x[j] + keep[j] * out[j];
  } else if (x) {
    SIMD
    FOR_COLUMNS (j, 0, D)
      h[j] = x[j] + out[j];
  } else if (keep) {
    SIMD
    FOR_COLUMNS (j, 0, D)
      h[j] = keep[j] * out[j];
  } else {
    SIMD
    FOR_COLUMNS (j, 0, D)
      h[j] = out[j];
  }
}

/* Of a row's f - z, and of f. */
INLINE void put_squares(int64_t D, const real *z, const real *f, int64_t m, struct branch_norm n)
{
  double square = 0, reference = 0;
  SIMD_SUM(square, reference)
  FOR_COLUMNS (j, 0, D) {
    square += square_norm(f[j] - z[j]);
    reference += square_norm(f[j]);
  }
#ifdef __CUDACC__
  ROW_FOLD(square, plus);
  ROW_FOLD(reference, plus);
#endif
  if (OWNS_COLUMN(0))
    n.square[m] = square, n.reference[m] = reference;
}

/* The sum of row m's h^2; where nobody wants h, y holds it. */
INLINE wide row_squares(int64_t D, const real *out, int64_t m, struct branch_norm n)
{
  real *sum = n.h ? n.h + m * D : n.y + m * D;
  struct shape d = {n.B, n.T, D};
  wide squares = 0;
  if (out)
    add_branch(D, n.x ? n.x + m * D : NULL, mask_row(d, n.row, n.mask, m), out + m * D, sum);
  const real *h = out ? sum : n.x + m * D;
  ADD_ROW_SUM(squares, D, j, h[j] * h[j]);
  return squares;
}

INLINE void put_row(int64_t D, const real *out, int64_t m, real scale, struct branch_norm n)
{
  real *y = n.y + m * D;
  const real *h = !out ? n.x + m * D : n.h ? n.h + m * D : y, *w = n.w;
  SIMD
  FOR_COLUMNS (j, 0, D)
    y[j] = w[j] * (h[j] * scale);
  if (n.square)
    put_squares(D, n.z + m * D, y, m, n);
  if (n.damping != 1) {
    const real *z = n.z + m * D;
    real damping = (real)n.damping;
    SIMD
    FOR_COLUMNS (j, 0, D)
      y[j] = z[j] + damping * (y[j] - z[j]);
  }
}

KERNEL fwd(int64_t D, real eps, const real *out, struct branch_norm n)
{
  int64_t rows = n.B * n.T;
  FOR_EACH_ROW (i, (rows + NORMED_TOGETHER - 1) / NORMED_TOGETHER, NORMED_TOGETHER * D) {
    int64_t m = i * NORMED_TOGETHER;
    int count = rows - m < NORMED_TOGETHER ? (int)(rows - m) : NORMED_TOGETHER;
    wide squares[NORMED_TOGETHER] = {0};
    real scale[NORMED_TOGETHER];
    for (int k = 0; k < count; k++)
      squares[k] = row_squares(D, out, m + k, n);
    for (int k = 0; k < count; k++) {
      scale[k] = norm_scale(squares[k], D, eps);
      if (OWNS_COLUMN(0))
        n.r[m + k] = scale[k];
    }
    for (int k = 0; k < count; k++)
      put_row(D, out, m + k, scale[k], n);
  }
}

/* g of a column. */
INLINE real norm_slope(real w, real yb, real h, real scale, real along)
{
  return scale * (w * yb - h * along);
}

KERNEL vjp_x(struct shape d, const real *h, const real *w, const real *mask, const real *r,
             const real *yb, struct addends to, real *xb, real *outb)
{
  FOR_EACH_ROW (m, d.B * d.T, d.D) {
    const real *hm = h + m * d.D, *ybm = yb + m * d.D, *keep = mask_row(d, NULL, mask, m);
    const real *sum = to.sum ? to.sum + m * d.D : NULL;
    real *xbm = xb + m * d.D, a = to.a, beta = to.beta, direct = to.direct;
    wide dot = 0;
    ADD_ROW_SUM(dot, d.D, j, w[j] * (a * ybm[j]) * hm[j]);
    real scale = r[m], along = scale * scale * (real)(dot / (wide)d.D);
    if (direct != 0) {
      real *out = outb + m * d.D;
      SIMD
      FOR_COLUMNS (j, 0, d.D) {
        real y = ybm[j];
        out[j] = norm_slope(w[j], a * y, hm[j], scale, along);
        xbm[j] = out[j] + direct * y;
      }
      if (keep)
        add_branch(d.D, NULL, keep, out, out);
      continue;
    }
    if (sum) {
      bool reads = beta != 0;
      SIMD
      FOR_COLUMNS (j, 0, d.D) {
        real g = sum[j] + norm_slope(w[j], a * ybm[j], hm[j], scale, along);
        xbm[j] = reads ? g + beta * xbm[j] : g;
      }
    } else if (beta != 0) {
      SIMD
      FOR_COLUMNS (j, 0, d.D)
        xbm[j] = beta * xbm[j] + norm_slope(w[j], a * ybm[j], hm[j], scale, along);
    } else {
      SIMD
      FOR_COLUMNS (j, 0, d.D)
        xbm[j] = norm_slope(w[j], a * ybm[j], hm[j], scale, along);
    }
    if (outb)
      add_branch(d.D, NULL, keep, xbm, outb + m * d.D);
  }
}

BLOCK_KERNEL vjp_w(int64_t M, int64_t D, const real *h, const real *r, const real *yb, real a,
                   real *wb)
{
  FOR_EACH_BLOCK (strip, strips(D), M * STRIP)
    ADD_COLUMN_SUMS(strip, M, D, wb, m, j, a * yb[m * D + j] * (h[m * D + j] * r[m]));
}

KERNEL add(struct shape d, const real *x, const real *out, const real *mask, real *h)
{
  FOR_EACH_ROW (m, d.B * d.T, d.D)
    add_branch(d.D, x ? x + m * d.D : NULL, mask_row(d, NULL, mask, m), out + m * d.D, h + m * d.D);
}

KERNEL jvp(int64_t M, int64_t D, const real *h, const real *w, const real *r, const real *hd,
           const real *wd, real *yd)
{
  FOR_EACH_ROW (m, M, D) {
    const real *hm = h + m * D;
    real *ydm = yd + m * D, scale = r[m];
    const real *tangent = wd ? wd : w;
    real wanted = wd ? scale : 0; /* no masked accesses to NULL, which are slow */
    SIMD
    FOR_COLUMNS (j, 0, D)
      ydm[j] = tangent[j] * (hm[j] * wanted);
    if (hd) {
      const real *hdm = hd + m * D;
      wide dot = 0;
      ADD_ROW_SUM(dot, D, j, hm[j] * hdm[j]);
      real along = scale * scale * (real)(dot / (wide)D);
      SIMD
      FOR_COLUMNS (j, 0, D)
        ydm[j] += w[j] * (scale * (hdm[j] - hm[j] * along));
    }
  }
}

#ifdef __CUDACC__
#include "kernels/rmsnorm_cuda.h"
#endif

void OP(rmsnorm_fwd)(stream st, int64_t D, real eps, const DEVICE real *out, struct branch_norm n)
{
#ifdef __CUDACC__
  if (fwd_by_teams(st, D, eps, out, n))
    return;
#endif
  LAUNCH_ROWS(st, n.B * n.T, fwd, D, eps, out, n);
}

void OP(rmsnorm_vjp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE real *h,
                     const DEVICE real *w, const DEVICE real *mask, const DEVICE real *r, real a,
                     const DEVICE real *yb, const DEVICE real *sum, real beta, real direct,
                     DEVICE real *xb, DEVICE real *outb, DEVICE real *wb)
{
  struct shape d = {B, T, D};
  struct addends to = {a, beta, direct, sum};
#ifdef __CUDACC__
  if (vjp_by_teams(st, d, h, w, mask, r, yb, to, xb, outb, wb))
    return;
#endif
  if (wb) /* before yb may be overwritten */
    LAUNCH_SUMS(st, strips(D), B * T, vjp_w, B * T, D, h, r, yb, a, wb);
  if (xb)
    LAUNCH_ROWS(st, B * T, vjp_x, d, h, w, mask, r, yb, to, xb, outb);
}

void OP(rmsnorm_jvp)(stream st, int64_t B, int64_t T, int64_t D, const DEVICE real *h,
                     const DEVICE real *w, const DEVICE real *mask, const DEVICE real *r,
                     const DEVICE real *xd, const DEVICE real *outd, const DEVICE real *wd,
                     DEVICE real *hd, DEVICE real *yd)
{
  struct shape d = {B, T, D};
  if (outd)
    LAUNCH_ROWS(st, B * T, add, d, xd, outd, mask, hd);
  LAUNCH_ROWS(st, B * T, jvp, B * T, D, h, w, r, outd ? hd : xd, wd, yd);
}
