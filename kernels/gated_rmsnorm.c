/* gated_rmsnorm: RMS norm over each group of K = E/G channels, with a gate q = silu(z).
 * y, out (rows,E)  z (rows,E) in rows of stride ldz  w (E)  r (rows,G), kept for the derivatives.
 *
 * Both orders are   out = w p r q2,   p = y q1,   r = (mean_group(p^2) + eps)^(-1/2)
 *   gate first:        q1 = silu(z), q2 = 1      (Mamba-2)
 *   norm_before_gate:  q1 = 1, q2 = silu(z)
 *
 *   pb  = r (w outb q2 - p r^2/K sum_group w outb q2 p)      yb = beta yb + pb q1
 *   zb = beta zb + pb y silu'(z)  or  outb w p r silu'(z)    wb += sum_rows outb p r q2
 *   rd  = -r^3/K sum_group p pd,   outd = wd p r q2 + w (pd r q2 + p rd q2 + p r q2d)
 * Reference: Dao & Gu 2024, arXiv:2405.21060, section 7.1.
 */
#include "kernels/elementary.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

/* The arrays of group g of row m, from their first channel. */
struct group {
  int64_t K, at, z_at, w_at; /* offsets in (rows,E), in z, in w */
};

INLINE struct group group_of(struct gated_rmsnorm_shape d, int64_t i)
{
  struct group s;
  int64_t row = i / d.G, g = i % d.G;
  s.K = d.E / d.G;
  s.at = row * d.E + g * s.K;
  s.z_at = row * d.ldz + g * s.K;
  s.w_at = g * s.K;
  return s;
}

/* silu(z) on the side of the norm where the gate stands, 1 on the other */
ELEMENTARY real before(bool norm_first, real z) { return norm_first ? 1 : silu(z); }
ELEMENTARY real after(bool norm_first, real z) { return norm_first ? silu(z) : 1; }

ELEMENTARY real square_kept(real p, real *to)
{
  *to = p;
  return p * p;
}

/* norm_first is a constant where what follows is called, so that loops have no branch. */

/* The sum of a group's p^2; where the gate stands first, p is kept in out. */
ELEMENTARY wide group_squares(bool norm_first, struct group s, const real *y, const real *z,
                              real *out)
{
  wide squares = 0;
  if (norm_first)
    ADD_ROW_SUM(squares, s.K, j, y[j] * y[j]);
  else
    ADD_ROW_SUM(squares, s.K, j, square_kept(y[j] * silu(z[j]), out + j));
  return squares;
}

ELEMENTARY void scale_group(bool norm_first, struct group s, real scale, const real *y,
                            const real *z, const real *w, real *out)
{
  const real *p = norm_first ? y : out;
  SIMD
  FOR_COLUMNS (j, 0, s.K)
    out[j] = w[j] * (p[j] * scale) * after(norm_first, z[j]);
}

ELEMENTARY void fwd_groups(bool norm_first, struct gated_rmsnorm_shape d, real eps, int64_t first,
                           int count, const real *y, const real *z, const real *w, real *r,
                           real *out)
{
  wide squares[NORMED_TOGETHER] = {0};
  real scale[NORMED_TOGETHER];
  for (int g = 0; g < count; g++) {
    struct group s = group_of(d, first + g);
    squares[g] = group_squares(norm_first, s, y + s.at, z + s.z_at, out + s.at);
  }
  for (int g = 0; g < count; g++) {
    scale[g] = norm_scale(squares[g], d.E / d.G, eps);
    if (OWNS_COLUMN(0))
      r[first + g] = scale[g];
  }
  for (int g = 0; g < count; g++) {
    struct group s = group_of(d, first + g);
    scale_group(norm_first, s, scale[g], y + s.at, z + s.z_at, w + s.w_at, out + s.at);
  }
}

KERNEL fwd(struct gated_rmsnorm_shape d, real eps, const real *y, const real *z, const real *w,
           real *r, real *out)
{
  int64_t groups = d.rows * d.G;
  FOR_EACH_ROW (i, (groups + NORMED_TOGETHER - 1) / NORMED_TOGETHER,
                NORMED_TOGETHER * 16 * d.E / d.G) {
    int64_t first = i * NORMED_TOGETHER;
    int count = groups - first < NORMED_TOGETHER ? (int)(groups - first) : NORMED_TOGETHER;
    if (d.norm_before_gate)
      fwd_groups(true, d, eps, first, count, y, z, w, r, out);
    else
      fwd_groups(false, d, eps, first, count, y, z, w, r, out);
  }
}

/* What one channel adds to yb and zb. */
struct channel {
  real yb, zb;
};

ELEMENTARY struct channel vjp_channel(bool norm_first, real y, struct silu_pair gate, real r,
                                      real along, real ob)
{
  struct channel c;
  real q = gate.value, p = norm_first ? y : y * q;
  real pb = r * ((norm_first ? ob * q : ob) - p * along);
  c.yb = norm_first ? pb : pb * q;
  c.zb = (norm_first ? ob * r : pb) * y * gate.slope;
  return c;
}

/* Channels of a group whose gates are kept between the two passes over it. */
#ifdef __CUDACC__
enum { KEPT = 1 };
#else
enum { KEPT = 1024 };
#endif

/* The gate of channel j, kept or not. */
ELEMENTARY struct silu_pair gate_at(bool kept, const real *value, const real *slope, const real *z,
                                    int64_t j)
{
  struct silu_pair gate;
  if (!kept)
    return silu_with_slope(z[j]);
  gate.value = value[j];
  gate.slope = slope[j];
  return gate;
}

/* beta *to + c; a fresh output, whose beta is 0, is not read */
ELEMENTARY real added(bool fresh, real beta, const real *to, real c)
{
  return fresh ? c : beta * *to + c;
}

/* Constants where this is called: kept, K <= KEPT; fresh */
ELEMENTARY void vjp_group_gates(bool norm_first, bool fresh, bool kept, struct group s,
                                const real *y, const real *z, const real *w, real r,
                                const real *outb, real beta, real *yb, real *zb)
{
  real value[KEPT], slope[KEPT];
  wide dot = 0;
  if (kept) {
    SIMD
    FOR_COLUMNS (j, 0, s.K) {
      struct silu_pair gate = silu_with_slope(z[j]);
      value[j] = gate.value;
      slope[j] = gate.slope;
    }
  }
  ADD_ROW_SUM(dot, s.K, j, w[j] * outb[j] * (y[j] * gate_at(kept, value, slope, z, j).value));
  real along = r * r * (real)(dot / (wide)s.K);
  if (yb && zb) {
    SIMD
    FOR_COLUMNS (j, 0, s.K) {
      struct channel c = vjp_channel(norm_first, y[j], gate_at(kept, value, slope, z, j), r, along,
                                     w[j] * outb[j]);
      yb[j] = added(fresh, beta, yb + j, c.yb);
      zb[j] = added(fresh, beta, zb + j, c.zb);
    }
  } else if (yb) {
    SIMD
    FOR_COLUMNS (j, 0, s.K) {
      struct channel c = vjp_channel(norm_first, y[j], gate_at(kept, value, slope, z, j), r, along,
                                     w[j] * outb[j]);
      yb[j] = added(fresh, beta, yb + j, c.yb);
    }
  } else {
    SIMD
    FOR_COLUMNS (j, 0, s.K) {
      struct channel c = vjp_channel(norm_first, y[j], gate_at(kept, value, slope, z, j), r, along,
                                     w[j] * outb[j]);
      zb[j] = added(fresh, beta, zb + j, c.zb);
    }
  }
}

ELEMENTARY void vjp_group(bool norm_first, bool fresh, struct group s, const real *y, const real *z,
                          const real *w, real r, const real *outb, real beta, real *yb, real *zb)
{
  if (s.K <= KEPT)
    vjp_group_gates(norm_first, fresh, true, s, y, z, w, r, outb, beta, yb, zb);
  else
    vjp_group_gates(norm_first, fresh, false, s, y, z, w, r, outb, beta, yb, zb);
}

KERNEL vjp_yz(struct gated_rmsnorm_shape d, const real *y, const real *z, const real *w,
              const real *r, const real *outb, real beta, real *yb, real *zb)
{
  bool fresh = re(beta) == 0 && beta == 0;
  FOR_EACH_ROW (i, d.rows * d.G, 16 * d.E / d.G) {
    struct group s = group_of(d, i);
    const real *yi = y + s.at, *zi = z + s.z_at, *wi = w + s.w_at, *outbi = outb + s.at;
    real *ybi = yb ? yb + s.at : NULL, *zbi = zb ? zb + s.z_at : NULL;
#ifdef __CUDACC__ /* only what teams cannot hold comes here: one loop */
    vjp_group(d.norm_before_gate, fresh, s, yi, zi, wi, r[i], outbi, beta, ybi, zbi);
#else
    if (d.norm_before_gate && fresh)
      vjp_group(true, true, s, yi, zi, wi, r[i], outbi, beta, ybi, zbi);
    else if (d.norm_before_gate)
      vjp_group(true, false, s, yi, zi, wi, r[i], outbi, beta, ybi, zbi);
    else if (fresh)
      vjp_group(false, true, s, yi, zi, wi, r[i], outbi, beta, ybi, zbi);
    else
      vjp_group(false, false, s, yi, zi, wi, r[i], outbi, beta, ybi, zbi);
#endif
  }
}

BLOCK_KERNEL vjp_w(struct gated_rmsnorm_shape d, const real *y, const real *z, const real *r,
                   const real *outb, real *wb)
{
  int64_t E = d.E, ldz = d.ldz;
  FOR_EACH_BLOCK (strip, d.G * strips(E / d.G),
                  16 * STRIP * d.rows) { /* a strip lies within one group */
    int64_t K = E / d.G, per_group = strips(K), g = strip / per_group;
    const real *yg = y + g * K, *zg = z + g * K, *ob = outb + g * K, *rg = r + g;
    real *wbg = wb + g * K;
    ADD_COLUMN_SUMS(strip % per_group, d.rows, K, wbg, m, j,
                    ob[m * E + j] * (yg[m * E + j] * silu(zg[m * ldz + j])) * rg[m * d.G]);
  }
}

/* A tangent that may be missing: factor 0 on an array that is there keeps branches, and masked
 * accesses to NULL, which are slow, out of the loops. */
struct tangent {
  const real *at;
  real factor;
};

INLINE struct tangent tangent_or(const real *tangent, const real *present)
{
  struct tangent t;
  t.at = tangent ? tangent : present;
  t.factor = tangent ? 1 : 0;
  return t;
}

ELEMENTARY void jvp_group(bool norm_first, struct group s, const real *y, const real *z,
                          const real *w, real r, struct tangent yd, struct tangent zd,
                          struct tangent wd, real *outd)
{
  wide dot = 0;
  SIMD
  FOR_COLUMNS (j, 0, s.K) { /* pd waits in outd */
    struct silu_pair gate = silu_with_slope(z[j]);
    real ydj = yd.factor * yd.at[j];
    outd[j] = norm_first ? ydj : ydj * gate.value + y[j] * gate.slope * (zd.factor * zd.at[j]);
  }
  ADD_ROW_SUM(dot, s.K, j, y[j] * before(norm_first, z[j]) * outd[j]);
  real along = r * r * (real)(dot / (wide)s.K);
  SIMD
  FOR_COLUMNS (j, 0, s.K) {
    struct silu_pair gate = silu_with_slope(z[j]);
    real q = gate.value, p = norm_first ? y[j] : y[j] * q;
    real sum = (wd.factor * wd.at[j] * p + w[j] * (outd[j] - p * along)) * r;
    outd[j] = norm_first ? sum * q + w[j] * p * r * gate.slope * (zd.factor * zd.at[j]) : sum;
  }
}

KERNEL jvp(struct gated_rmsnorm_shape d, const real *y, const real *z, const real *w, const real *r,
           const real *yd, const real *zd, const real *wd, real *outd)
{
  FOR_EACH_ROW (i, d.rows * d.G, 16 * d.E / d.G) {
    struct group s = group_of(d, i);
    const real *yi = y + s.at, *zi = z + s.z_at, *wi = w + s.w_at;
    struct tangent ydi = tangent_or(yd ? yd + s.at : NULL, yi);
    struct tangent zdi = tangent_or(zd ? zd + s.z_at : NULL, zi);
    struct tangent wdi = tangent_or(wd ? wd + s.w_at : NULL, wi);
    if (d.norm_before_gate)
      jvp_group(true, s, yi, zi, wi, r[i], ydi, zdi, wdi, outd + s.at);
    else
      jvp_group(false, s, yi, zi, wi, r[i], ydi, zdi, wdi, outd + s.at);
  }
}

#ifdef __CUDACC__
#include "kernels/gated_rmsnorm_cuda.h"
#endif

void OP(gated_rmsnorm_fwd)(stream st, struct gated_rmsnorm_shape d, real eps, const DEVICE real *y,
                           const DEVICE real *z, const DEVICE real *w, DEVICE real *r,
                           DEVICE real *out)
{
#ifdef __CUDACC__
  if (fwd_by_teams(st, d, eps, y, z, w, r, out))
    return;
#endif
  LAUNCH_ROWS(st, d.rows * d.G, fwd, d, eps, y, z, w, r, out);
}

void OP(gated_rmsnorm_vjp)(stream st, struct gated_rmsnorm_shape d, const DEVICE real *y,
                           const DEVICE real *z, const DEVICE real *w, const DEVICE real *r,
                           const DEVICE real *outb, real beta, DEVICE real *yb, DEVICE real *zb,
                           DEVICE real *wb)
{
#ifdef __CUDACC__
  if (vjp_by_teams(st, d, y, z, w, r, outb, beta, yb, zb, wb))
    return;
#endif
  if (yb || zb)
    LAUNCH_ROWS(st, d.rows * d.G, vjp_yz, d, y, z, w, r, outb, beta, yb, zb);
  if (wb)
    LAUNCH_SUMS(st, d.G * strips(d.E / d.G), d.rows, vjp_w, d, y, z, r, outb, wb);
}

void OP(gated_rmsnorm_jvp)(stream st, struct gated_rmsnorm_shape d, const DEVICE real *y,
                           const DEVICE real *z, const DEVICE real *w, const DEVICE real *r,
                           const DEVICE real *yd, const DEVICE real *zd, const DEVICE real *wd,
                           DEVICE real *outd)
{
  LAUNCH_ROWS(st, d.rows * d.G, jvp, d, y, z, w, r, yd, zd, wd, outd);
}
