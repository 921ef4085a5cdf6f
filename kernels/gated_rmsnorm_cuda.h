/* gated_rmsnorm_cuda.h: gated_rmsnorm on the GPU where a group's channels are whole packs and fit
 * the registers of a team (teams_cuda.h): each array is read or written once, and wb comes out of
 * the same pass as yb and zb.  Part of gated_rmsnorm.c, whose head has the equations. */
#ifndef KERNELS_GATED_RMSNORM_CUDA_H
#define KERNELS_GATED_RMSNORM_CUDA_H
#include "kernels/teams_cuda.h"

enum { RESIDENT_FWD = 64 * 32 / REAL_BITS, RESIDENT_VJP = 48 * 32 / REAL_BITS };

/* Where row m of a team's group lies in (rows,E), in z, in r. */
struct team_row {
  int64_t at, z_at, r_at;
};

static __device__ inline struct team_row team_row_of(struct gated_rmsnorm_shape d, int64_t m)
{
  int64_t g = blockIdx.y, first = g * (d.E / d.G);
  struct team_row row = {m * d.E + first, m * d.ldz + first, m * d.G + g};
  return row;
}

template <bool NORM_FIRST, int HELD>
TEAM_KERNEL(RESIDENT_FWD)
fwd_team(struct gated_rmsnorm_shape d, int warps, real eps, const real *y, const real *z,
         const real *w, real *r, real *out)
{
  struct team t = own_team(warps, d.E / d.G);
  wide inverse_K = 1 / (wide)t.K;
  struct held<HELD> wh = held_at<HELD>(t, w + blockIdx.y * (int64_t)t.K);
  for (int64_t m = t.walker; m - t.place < d.rows; m += t.walkers) {
    bool inside = m < d.rows;
    struct team_row row = team_row_of(d, m);
    struct held<HELD> p = held_at<HELD>(t, inside ? y + row.at : NULL);
    struct held<HELD> q = held_at<HELD>(t, inside ? z + row.z_at : NULL);
    real squares = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      q.at[k] = silu(q.at[k]);
      p.at[k] *= NORM_FIRST ? 1 : q.at[k];
      squares += p.at[k] * p.at[k];
    }
    real mean = (real)(team_sum(&t, squares) * inverse_K + (wide)eps);
    real scale = INVERSE_ROOT(mean);
    if (inside && t.lane == 0)
      r[row.r_at] = scale;
#pragma unroll
    for (int k = 0; k < HELD; k++)
      p.at[k] = wh.at[k] * (p.at[k] * scale) * (NORM_FIRST ? q.at[k] : 1);
    if (inside)
      put_held(t, p, out + row.at);
  }
}

/* walker_sums are written where `sums` */
template <bool NORM_FIRST, int HELD>
TEAM_KERNEL(RESIDENT_VJP)
vjp_team(struct gated_rmsnorm_shape d, int warps, const real *y, const real *z, const real *w,
         const real *r, const real *outb, real beta, real *yb, real *zb, bool sums)
{
  struct team t = own_team(warps, d.E / d.G);
  int64_t first = blockIdx.y * (int64_t)t.K;
  wide inverse_K = 1 / (wide)t.K;
  struct held<HELD> wh = held_at<HELD>(t, w + first);
  struct column_sums<HELD> wb;
  sums_begin(&wb);
  for (int64_t m = t.walker; m - t.place < d.rows; m += t.walkers) {
    bool inside = m < d.rows;
    struct team_row row = team_row_of(d, m);
    struct held<HELD> yh = held_at<HELD>(t, inside ? y + row.at : NULL), value, slope;
    struct held<HELD> zh = held_at<HELD>(t, inside ? z + row.z_at : NULL);
    struct held<HELD> ob = held_at<HELD>(t, inside ? outb + row.at : NULL);
    real scale = inside ? r[row.r_at] : 0, dot = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      struct silu_pair gate = silu_with_slope(zh.at[k]);
      real p = yh.at[k] * gate.value;
      value.at[k] = gate.value;
      slope.at[k] = gate.slope;
      wb.part.at[k] += ob.at[k] * p * scale;
      ob.at[k] *= wh.at[k];
      dot += ob.at[k] * p;
    }
    sums_went_on(&wb);
    real along = scale * scale * (real)(team_sum(&t, dot) * inverse_K);
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      struct silu_pair gate = {value.at[k], slope.at[k]};
      struct channel c = vjp_channel(NORM_FIRST, yh.at[k], gate, scale, along, ob.at[k]);
      value.at[k] = c.yb;
      slope.at[k] = c.zb;
    }
    if (inside && yb)
      add_held(t, beta, value, yb + row.at);
    if (inside && zb)
      add_held(t, beta, slope, zb + row.z_at);
  }
  if (sums)
    sums_keep(t, &wb, d.E, first);
}

static bool by_teams(struct gated_rmsnorm_shape d, const void *y, const void *z, const void *w)
{
  int64_t K = d.E / d.G;
  return team_form_of(K).held && in_packs(K, y) && in_packs(d.ldz, z) && in_packs(K, w) &&
         d.E <= WALKER_SUMS / TEAM_WARPS && d.G <= 65535;
}

/* false, and nothing is done: not for such shapes */
static bool fwd_by_teams(stream st, struct gated_rmsnorm_shape d, real eps, const real *y,
                         const real *z, const real *w, real *r, real *out)
{
  int64_t K = d.E / d.G;
  if (!by_teams(d, y, z, w) || !in_packs(K, out))
    return false;
  struct team_form form = team_form_of(K);
  auto fwd_by = form.held == SHORT
                    ? (d.norm_before_gate ? fwd_team<true, SHORT> : fwd_team<false, SHORT>)
                    : (d.norm_before_gate ? fwd_team<true, LONG> : fwd_team<false, LONG>);
  if (d.rows)
    LAUNCH_GRID_(LAUNCH_ROW_KERNEL, team_grid(form, RESIDENT_FWD, d.rows, d.G, K), TEAM_THREADS, st,
                 fwd_by, d, form.warps, eps, y, z, w, r, out);
  return true;
}

static bool vjp_by_teams(stream st, struct gated_rmsnorm_shape d, const real *y, const real *z,
                         const real *w, const real *r, const real *outb, real beta, real *yb,
                         real *zb, real *wb)
{
  int64_t K = d.E / d.G;
  if (!by_teams(d, y, z, w) || !in_packs(K, outb) || !in_packs(K, yb) || !in_packs(d.ldz, zb))
    return false;
  struct team_form form = team_form_of(K);
  dim3 grid = team_grid(form, RESIDENT_VJP, d.rows, d.G, K);
  auto vjp_by = form.held == SHORT
                    ? (d.norm_before_gate ? vjp_team<true, SHORT> : vjp_team<false, SHORT>)
                    : (d.norm_before_gate ? vjp_team<true, LONG> : vjp_team<false, LONG>);
  if (d.rows && (yb || zb || wb))
    LAUNCH_GRID_(LAUNCH_ROW_KERNEL, grid, TEAM_THREADS, st, vjp_by, d, form.warps, y, z, w, r, outb,
                 beta, yb, zb, wb != NULL);
  if (d.rows && wb)
    LAUNCH_SUMS(st, strips(d.E), team_walkers(form, grid), add_walkers, team_walkers(form, grid),
                d.E, wb);
  return true;
}
#endif
