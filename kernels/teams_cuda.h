/* teams_cuda.h: rows of a matrix by teams of warps on the GPU.  Each lane holds HELD columns of its
 * row in registers, in packs, so that a row whose sum is needed for all of it is read once; and
 * sums over the rows come out of the same pass.
 *
 * A block is TEAM_WARPS warps, in teams of 1, 2 or 4.  Team `walker` of `walkers` takes every
 * walkers-th row from its own on, for each row the columns of one group; the teams of a block wait
 * for each other in team_sum, so all go on while the first has a row:
 *
 *   struct team t = own_team(warps, K);
 *   for (int64_t m = t.walker; m - t.place < rows; m += t.walkers) {
 *     struct held<HELD> xh = held_at<HELD>(t, m < rows ? x + m * n : NULL);
 *     ... team_sum(&t, dot) ...
 *   }
 * Sums over its rows of a lane's columns: struct column_sums; add_walkers then gives their total.
 */
#ifndef KERNELS_TEAMS_CUDA_H
#define KERNELS_TEAMS_CUDA_H
#include "core/packs.h"
#include "kernels/rows.h"

enum {
  TEAM_WARPS = 4,
  TEAM_THREADS = TEAM_WARPS * WARP,
  SHORT = 8,
  LONG = 16,
  WALKER_SUMS = 8 * PROCESSORS * 1024 /* of all walkers together */
};

/* A kernel whose lanes hold HELD columns of each array.  Its blocks are those that run at once:
 * `resident`/HELD a processor, which bounds their registers. */
#define TEAM_KERNEL(resident) \
  static __global__ void __launch_bounds__(TEAM_THREADS, (resident) / HELD)

/* ---- on the host ---- */

/* How rows of K columns are held; held 0: they are too long. */
struct team_form {
  int warps, held; /* of a team; by a lane, SHORT or LONG */
};

static inline struct team_form team_form_of(int64_t K)
{
  for (int held = SHORT; held <= LONG; held *= 2)
    for (int warps = 1; warps <= TEAM_WARPS; warps *= 2)
      if (K <= (int64_t)warps * WARP * held)
        return (struct team_form){warps, held};
  return (struct team_form){0, 0};
}

/* Blocks of a TEAM_KERNEL for rows of G groups, by blockIdx.y, of K columns: so few that what their
 * walkers add up has room, which G K <= WALKER_SUMS/TEAM_WARPS asks for. */
static inline dim3 team_grid(struct team_form form, int resident, int64_t rows, int64_t G,
                             int64_t K)
{
  int64_t teams = TEAM_WARPS / form.warps, blocks = (rows + teams - 1) / teams;
  int64_t most = PROCESSORS * (resident / form.held) / G, kept = WALKER_SUMS / (teams * G * K);
  most = most < kept ? most : kept;
  most = most > 1 ? most : 1;
  return dim3((unsigned)(blocks < most ? blocks : most), (unsigned)G);
}

static inline int64_t team_walkers(struct team_form form, dim3 grid)
{
  return (int64_t)grid.x * (TEAM_WARPS / form.warps);
}

/* ---- rows ---- */

struct team {
  int warps, lane, place; /* of the team; of this thread in it; of it in its block */
  int K, turn;
  int64_t walker, walkers;
};

static __device__ inline struct team own_team(int warps, int64_t K)
{
  int threads = warps * WARP, teams = TEAM_WARPS / warps;
  struct team t;
  t.warps = warps;
  t.lane = (int)threadIdx.x % threads;
  t.place = (int)threadIdx.x / threads;
  t.K = (int)K;
  t.turn = 0;
  t.walker = (int64_t)blockIdx.x * teams + t.place;
  t.walkers = (int64_t)gridDim.x * teams;
  return t;
}

/* The column that is this lane's q-th, where a pack begins: q is a multiple of PACK; whether there
 * is one. */
static __device__ inline int column_of(struct team t, int q)
{
  return q * t.warps * WARP + t.lane * PACK;
}
static __device__ inline bool has_pack(struct team t, int q) { return column_of(t, q) < t.K; }

template <int HELD> struct held {
  real at[HELD];
};

template <int HELD>
static __device__ inline void put_held(struct team t, struct held<HELD> h, real *row)
{
#pragma unroll
  for (int q = 0; q < HELD; q += PACK) {
    pack<PACK> p;
#pragma unroll
    for (int l = 0; l < PACK; l++)
      p.at[l] = h.at[q + l];
    if (has_pack(t, q))
      store_pack(p, row + column_of(t, q));
  }
}

/* This lane's part of a row; zeros where there is none, or no row. */
template <int HELD>
static __device__ inline struct held<HELD> held_at(struct team t, const real *row) {
  struct held<HELD> h;
#pragma unroll
  for (int q = 0; q < HELD; q += PACK) {
    pack<PACK> p = {};
    if (row && has_pack(t, q))
      p = load_pack(row + column_of(t, q));
#pragma unroll
    for (int l = 0; l < PACK; l++)
      h.at[q + l] = p.at[l];
  }
  return h;
}

/* h += beta row; beta = 0 does not read it */
template <int HELD>
static __device__ inline void sum_held(struct team t, real beta, struct held<HELD> *h,
                                       const real *row)
{
  struct held<HELD> old = held_at<HELD>(t, beta == 0 ? NULL : row);
#pragma unroll
  for (int q = 0; q < HELD; q++)
    h->at[q] += beta * old.at[q];
}

/* row = beta row + h */
template <int HELD>
static __device__ inline void add_held(struct team t, real beta, struct held<HELD> h, real *row)
{
  sum_held(t, beta, &h, row);
  put_held(t, h, row);
}

/* The sum over a team of a few dozen terms a warp; all threads of the block call. */
static __device__ inline wide team_sum(struct team *t, real x)
{
  __shared__ real part[2][TEAM_WARPS]; /* one is read while the other is written */
  wide sum = 0;
  ROW_FOLD(x, plus);
  if (lane() == 0)
    part[t->turn][threadIdx.x / WARP] = x;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < TEAM_WARPS; w++)
    if (w < t->warps)
      sum += (wide)part[t->turn][t->place * t->warps + w];
  t->turn ^= 1;
  return sum;
}

/* ---- sums over the rows ---- */

/* What walkers add up: row `walker`, a column of the matrix each. */
alignas(16) static __device__ real walker_sums[WALKER_SUMS];

/* A lane's columns: in real over SUM_ROWS rows, then in wide. */
template <int HELD> struct column_sums {
  struct held<HELD> part;
  int rows;
};

/* The wide ones, in shared memory: each thread has its own. */
template <int HELD> static __device__ inline wide *own_wides(int i)
{
  __shared__ wide sums[HELD][TEAM_THREADS];
  return &sums[i][threadIdx.x];
}

template <int HELD> static __device__ inline void sums_begin(struct column_sums<HELD> *s)
{
  s->rows = 0;
#pragma unroll
  for (int q = 0; q < HELD; q++) {
    s->part.at[q] = 0;
    *own_wides<HELD>(q) = 0;
  }
}

template <int HELD> static __device__ inline void sums_widen(struct column_sums<HELD> *s)
{
  s->rows = 0;
#pragma unroll
  for (int q = 0; q < HELD; q++) {
    *own_wides<HELD>(q) += (wide)s->part.at[q];
    s->part.at[q] = 0;
  }
}

/* After each row. */
template <int HELD> static __device__ inline void sums_went_on(struct column_sums<HELD> *s)
{
  s->rows++;
  if (s->rows == SUM_ROWS)
    sums_widen(s);
}

/* Into row `walker` of walker_sums, from column `first` of n on. */
template <int HELD>
static __device__ inline void sums_keep(struct team t, struct column_sums<HELD> *s, int64_t n,
                                        int64_t first)
{
  sums_widen(s);
#pragma unroll
  for (int q = 0; q < HELD; q++)
    s->part.at[q] = (real)*own_wides<HELD>(q);
  put_held(t, s->part, walker_sums + t.walker * n + first);
}

/* out (n) += the sums of all walkers */
BLOCK_KERNEL add_walkers(int64_t walkers, int64_t n, real *out)
{
  FOR_EACH_BLOCK (strip, strips(n), walkers * STRIP)
    ADD_COLUMN_SUMS(strip, walkers, n, out, m, j, walker_sums[m * n + j]);
}
#endif
