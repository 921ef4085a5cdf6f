/* rmsnorm_cuda.h: rmsnorm on the GPU where rows are whole packs and fit the registers of a team
 * (teams_cuda.h).  Part of rmsnorm.c, whose head has the equations. */
#ifndef KERNELS_RMSNORM_CUDA_H
#define KERNELS_RMSNORM_CUDA_H
#include "kernels/teams_cuda.h"

enum { RESIDENT = 64 * 32 / REAL_BITS };

template <int HELD>
TEAM_KERNEL(RESIDENT)
fwd_team(int64_t M, int64_t D, int warps, real eps, const real *x, const real *w, real *r, real *y)
{
  struct team t = own_team(warps, D);
  wide inverse_D = 1 / (wide)D;
  struct held<HELD> wh = held_at<HELD>(t, w);
  for (int64_t m = t.walker; m - t.place < M; m += t.walkers) {
    struct held<HELD> xh = held_at<HELD>(t, m < M ? x + m * D : NULL);
    real squares = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++)
      squares += xh.at[k] * xh.at[k];
    real mean = (real)(team_sum(&t, squares) * inverse_D + (wide)eps), scale = 1 / sqrt(mean);
    if (m < M && t.lane == 0)
      r[m] = scale;
#pragma unroll
    for (int k = 0; k < HELD; k++)
      xh.at[k] = wh.at[k] * (xh.at[k] * scale);
    if (m < M)
      put_held(t, xh, y + m * D);
  }
}

/* walker_sums are written where `sums` */
template <int HELD>
TEAM_KERNEL(RESIDENT)
vjp_team(int64_t M, int64_t D, int warps, const real *x, const real *w, const real *r,
         const real *yb, real *xb, bool sums)
{
  struct team t = own_team(warps, D);
  wide inverse_D = 1 / (wide)D;
  struct held<HELD> wh = held_at<HELD>(t, w);
  struct column_sums<HELD> wb;
  sums_begin(&wb);
  for (int64_t m = t.walker; m - t.place < M; m += t.walkers) {
    bool inside = m < M;
    struct held<HELD> xh = held_at<HELD>(t, inside ? x + m * D : NULL);
    struct held<HELD> h = held_at<HELD>(t, inside ? yb + m * D : NULL);
    real scale = inside ? r[m] : 0, dot = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      wb.part.at[k] += h.at[k] * (xh.at[k] * scale);
      h.at[k] *= wh.at[k];
      dot += h.at[k] * xh.at[k];
    }
    sums_went_on(&wb);
    real along = scale * scale * (real)(team_sum(&t, dot) * inverse_D);
#pragma unroll
    for (int k = 0; k < HELD; k++)
      h.at[k] = scale * (h.at[k] - xh.at[k] * along);
    if (inside && xb)
      add_held(t, 1, h, xb + m * D);
  }
  if (sums)
    sums_keep(t, &wb, D, 0);
}

/* false, and nothing is done: not for such rows */
static bool fwd_by_teams(stream st, int64_t M, int64_t D, real eps, const real *x, const real *w,
                         real *r, real *y)
{
  struct team_form form = team_form_of(D);
  if (!form.held || !in_packs(D, x) || !in_packs(D, w) || !in_packs(D, y))
    return false;
  auto fwd_by = form.held == SHORT ? fwd_team<SHORT> : fwd_team<LONG>;
  if (M)
    LAUNCH_GRID_(LAUNCH_ROW_KERNEL, team_grid(form, RESIDENT, M, 1, D), TEAM_THREADS, st, fwd_by, M,
                 D, form.warps, eps, x, w, r, y);
  return true;
}

static bool vjp_by_teams(stream st, int64_t M, int64_t D, const real *x, const real *w,
                         const real *r, const real *yb, real *xb, real *wb)
{
  struct team_form form = team_form_of(D);
  if (!form.held || !in_packs(D, x) || !in_packs(D, w) || !in_packs(D, yb) || !in_packs(D, xb))
    return false;
  dim3 grid = team_grid(form, RESIDENT, M, 1, D);
  auto vjp_by = form.held == SHORT ? vjp_team<SHORT> : vjp_team<LONG>;
  if (M && (xb || wb))
    LAUNCH_GRID_(LAUNCH_ROW_KERNEL, grid, TEAM_THREADS, st, vjp_by, M, D, form.warps, x, w, r, yb,
                 xb, wb != NULL);
  if (M && wb)
    LAUNCH_SUMS(st, strips(D), team_walkers(form, grid), add_walkers, team_walkers(form, grid), D,
                wb);
  return true;
}
#endif
