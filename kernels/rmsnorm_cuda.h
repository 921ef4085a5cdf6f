/* rmsnorm_cuda.h: rmsnorm on the GPU where rows are whole packs and fit the registers of a team
 * (teams_cuda.h).  Part of rmsnorm.c, whose head has the equations. */
#ifndef KERNELS_RMSNORM_CUDA_H
#define KERNELS_RMSNORM_CUDA_H
#include "kernels/teams_cuda.h"

enum { RESIDENT = 64 * 32 / REAL_BITS };

/* Where row m has its mask: the teams' rows are fewer than 2^32. */
static __device__ inline const real *team_mask(struct shape d, const int32_t *row, const real *mask,
                                               int64_t m)
{
  unsigned b = (unsigned)m / (unsigned)d.T;
  return mask + (row ? row[b] : (int64_t)b) * d.D;
}

/* f <- y, of row m where it is inside; and what is wanted of f - z. */
template <int HELD>
static __device__ inline void damp_held(struct team *t, struct branch_norm n, int64_t m,
                                        bool inside, struct held<HELD> z, struct held<HELD> *f)
{
  real square = 0, reference = 0, damping = (real)n.damping;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    real step = f->at[k] - z.at[k];
    square += step * step, reference += f->at[k] * f->at[k];
    if (n.damping != 1)
      f->at[k] = z.at[k] + damping * step;
  }
  if (!n.square)
    return;
  double of_row = team_sum(t, square), of_f = team_sum(t, reference);
  if (inside && t->lane == 0)
    n.square[m] = of_row, n.reference[m] = of_f;
}

template <int HELD>
TEAM_KERNEL(RESIDENT)
fwd_team(struct shape d, int warps, real eps, const real *out, struct branch_norm n)
{
  struct team t = own_team(warps, d.D);
  wide inverse_D = 1 / (wide)d.D;
  struct held<HELD> wh = held_at<HELD>(t, n.w);
  bool reads_z = n.damping != 1 || n.square;
  int64_t M = d.B * d.T;
  for (int64_t m = t.walker; m - t.place < M; m += t.walkers) {
    bool inside = m < M;
    int64_t at = m * d.D;
    struct held<HELD> xh = held_at<HELD>(t, inside && n.x ? n.x + at : NULL), zh = xh;
    if (reads_z && n.z != n.x)
      zh = held_at<HELD>(t, inside ? n.z + at : NULL);
    if (out) {
      struct held<HELD> branch = held_at<HELD>(t, inside ? out + at : NULL);
      if (n.mask) {
        struct held<HELD> keep = held_at<HELD>(t, inside ? team_mask(d, n.row, n.mask, m) : NULL);
#pragma unroll
        for (int k = 0; k < HELD; k++)
          branch.at[k] *= keep.at[k];
      }
#pragma unroll
      for (int k = 0; k < HELD; k++)
        xh.at[k] += branch.at[k];
      if (inside && n.h)
        put_held(t, xh, n.h + at);
    }
    real squares = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++)
      squares += xh.at[k] * xh.at[k];
    real mean = (real)(team_sum(&t, squares) * inverse_D + (wide)eps);
    real scale = INVERSE_ROOT(mean);
    if (inside && t.lane == 0)
      n.r[m] = scale;
#pragma unroll
    for (int k = 0; k < HELD; k++)
      xh.at[k] = wh.at[k] * (xh.at[k] * scale);
    if (reads_z)
      damp_held(&t, n, m, inside, zh, &xh);
    if (inside)
      put_held(t, xh, n.y + at);
  }
}

/* walker_sums are written where `sums` */
template <int HELD>
TEAM_KERNEL(RESIDENT)
vjp_team(struct shape d, int warps, const real *h, const real *w, const real *mask, const real *r,
         const real *yb, struct addends to, real *xb, real *outb, bool sums)
{
  struct team t = own_team(warps, d.D);
  wide inverse_D = 1 / (wide)d.D;
  struct held<HELD> wh = held_at<HELD>(t, w);
  struct column_sums<HELD> wb;
  int64_t M = d.B * d.T;
  sums_begin(&wb);
  for (int64_t m = t.walker; m - t.place < M; m += t.walkers) {
    bool inside = m < M;
    int64_t at = m * d.D;
    struct held<HELD> hh = held_at<HELD>(t, inside ? h + at : NULL);
    struct held<HELD> g = held_at<HELD>(t, inside ? yb + at : NULL);
    real scale = inside ? r[m] : 0, dot = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      g.at[k] *= to.a;
      wb.part.at[k] += g.at[k] * (hh.at[k] * scale);
      g.at[k] *= wh.at[k];
      dot += g.at[k] * hh.at[k];
    }
    sums_went_on(&wb);
    real along = scale * scale * (real)(team_sum(&t, dot) * inverse_D);
#pragma unroll
    for (int k = 0; k < HELD; k++)
      g.at[k] = scale * (g.at[k] - hh.at[k] * along);
    if (!inside || !xb)
      continue;
    if (to.sum)
      sum_held(t, 1, &g, to.sum + at);
    sum_held(t, to.beta, &g, xb + at);
    if (outb && mask) {
      struct held<HELD> branch = held_at<HELD>(t, team_mask(d, NULL, mask, m));
#pragma unroll
      for (int k = 0; k < HELD; k++)
        branch.at[k] *= g.at[k];
      put_held(t, branch, outb + at);
    } else if (outb) {
      put_held(t, g, outb + at);
    }
    sum_held(t, to.direct, &g, yb + at); /* which has just been read */
    put_held(t, g, xb + at);
  }
  if (sums)
    sums_keep(t, &wb, d.D, 0);
}

/* false, and nothing is done: not for such rows */
static bool fwd_by_teams(stream st, int64_t D, real eps, const real *out, struct branch_norm n)
{
  struct shape d = {n.B, n.T, D};
  struct team_form form = team_form_of(D);
  int64_t M = d.B * d.T;
  if (!form.held || M > UINT32_MAX || !in_packs(D, n.x) || !in_packs(D, out) ||
      !in_packs(D, n.mask) || !in_packs(D, n.w) || !in_packs(D, n.z) || !in_packs(D, n.h) ||
      !in_packs(D, n.y))
    return false;
  auto fwd_by = form.held == SHORT ? fwd_team<SHORT> : fwd_team<LONG>;
  if (M)
    LAUNCH_GRID_(LAUNCH_ROW_KERNEL, team_grid(form, RESIDENT, M, 1, D), TEAM_THREADS, st, fwd_by, d,
                 form.warps, eps, out, n);
  return true;
}

static bool vjp_by_teams(stream st, struct shape d, const real *h, const real *w, const real *mask,
                         const real *r, const real *yb, struct addends to, real *xb, real *outb,
                         real *wb)
{
  struct team_form form = team_form_of(d.D);
  int64_t M = d.B * d.T;
  if (!form.held || M > UINT32_MAX || !in_packs(d.D, h) || !in_packs(d.D, w) ||
      !in_packs(d.D, mask) || !in_packs(d.D, yb) || !in_packs(d.D, to.sum) || !in_packs(d.D, xb) ||
      !in_packs(d.D, outb))
    return false;
  dim3 grid = team_grid(form, RESIDENT, M, 1, d.D);
  auto vjp_by = form.held == SHORT ? vjp_team<SHORT> : vjp_team<LONG>;
  if (M && (xb || wb))
    LAUNCH_GRID_(LAUNCH_ROW_KERNEL, grid, TEAM_THREADS, st, vjp_by, d, form.warps, h, w, mask, r,
                 yb, to, xb, outb, wb != NULL);
  if (M && wb)
    LAUNCH_SUMS(st, strips(d.D), team_walkers(form, grid), add_walkers, team_walkers(form, grid),
                d.D, wb);
  return true;
}
#endif
