/* embedding: y_m = mask_m W[token_m].   tokens (M)  W (V,D)  y (M,D)  mask (M,D), or NULL: ones
 *   Wb[token_m] += mask_m yb_m, in the order of m      yd_m = mask_m Wd[token_m]
 * A token outside 0..V-1 gives a row of NaN and no gradient.
 */
#include "kernels/operations.h"
#include "kernels/rows.h"

KERNEL look_up(int64_t M, int64_t V, int64_t D, const int32_t *tokens, const real *W,
               const real *mask, real *y)
{
  FOR_EACH_COST (i, M * spans(D), D) {
    struct span s = span_of(i, D);
    int64_t token = tokens[s.row];
    bool known = token >= 0 && token < V;
    const real *from = W + (known ? token : 0) * D, *keep = mask ? mask + s.row * D : NULL;
    if (keep) {
      SIMD
      for (int64_t j = s.first; j < s.end; j++)
        y[s.row * D + j] = keep[j] * (known ? from[j] : (real)NAN);
    } else {
      SIMD
      for (int64_t j = s.first; j < s.end; j++)
        y[s.row * D + j] = known ? from[j] : (real)NAN;
    }
  }
}

#ifdef __CUDACC__
#include "core/packs.h"

KERNEL look_up_packs(int64_t M, int64_t V, int64_t D, const int32_t *tokens, const real *W,
                     const real *mask, real *y)
{
  FOR_EACH (i, groups(M, D)) {
    struct pack_group g = group_of(i, M, D);
    pack<PACK> x[GROUP], keep[GROUP];
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
      int64_t token = k < g.rows ? tokens[g.row + k] : -1;
      bool known = token >= 0 && token < V;
#pragma unroll
      for (int l = 0; l < PACK; l++)
        x[k].at[l] = (real)NAN;
      if (known)
        x[k] = load_pack(W + token * D + g.column);
      if (mask && k < g.rows)
        keep[k] = load_pack(mask + (g.row + k) * D + g.column);
    }
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
      if (mask)
#pragma unroll
        for (int l = 0; l < PACK; l++)
          x[k].at[l] *= keep[k].at[l];
      if (k < g.rows)
        store_pack(x[k], y + (g.row + k) * D + g.column);
    }
  }
}

/* The cotangent of W on a GPU: rows of yb are cut into ranges, and a warp adds up a strip of a
 * range's columns token by token: in shared memory, a lane in its own column of a table of TABLE
 * tokens.  Of more tokens the next TABLE are another warp's, which reads the rows of those alone.
 * Then the ranges are added up, in their order. */
enum { TABLE = 192, ROWS_AHEAD = 32, LEAST_ROWS = 256, RANGES_ROOM = WARP * WARP << 12 };
static __device__ real sums_of_ranges[RANGES_ROOM]; /* (ranges,V,D) of V tokens from `low` on */

struct token_ranges {
  int64_t M, D, rows;                 /* rows of a range */
  int low, V, ranges, strips, tables; /* tables of V tokens */
};

/* N rows of yb and, where MASK, of mask, from `at` on, and their tokens: of the table those from
 * low on, fewer than `size`. */
template <int N, bool ALL, bool MASK>
INLINE_DEVICE void add_rows(const int32_t *tokens, const real *mask, const real *yb, int64_t at,
                            int64_t D, unsigned low, unsigned size, real (*table)[STRIP])
{
  unsigned token[N];
  real x[N], keep[N];
#pragma unroll
  for (int k = 0; k < N; k++)
    token[k] = (unsigned)tokens[k] - low;
#pragma unroll
  for (int k = 0; k < N; k++) {
    x[k] = ALL || token[k] < size ? yb[at + k * D] : 0;
    keep[k] = MASK && (ALL || token[k] < size) ? mask[at + k * D] : 1;
  }
#pragma unroll
  for (int k = 0; k < N; k++)
    if (token[k] < size)
      table[token[k]][threadIdx.x] += keep[k] * x[k];
}

/* ALL: one table has all tokens. */
template <bool ALL, bool MASK>
static __global__ void __launch_bounds__(STRIP)
    sum_ranges(struct token_ranges r, const int32_t *tokens, const real *mask, const real *yb)
{
  __shared__ real table[TABLE][STRIP];
  for (int64_t i = blockIdx.x; i < (int64_t)r.ranges * r.tables * r.strips; i += gridDim.x) {
    int64_t j = i % r.strips * STRIP + threadIdx.x, range = i / r.strips / r.tables;
    int above = (int)(i / r.strips % r.tables) * TABLE;
    unsigned low = (unsigned)(r.low + above);
    unsigned size = (unsigned)(r.V - above < TABLE ? r.V - above : TABLE);
    int64_t m = range * r.rows, end = m + r.rows < r.M ? m + r.rows : r.M;
    if (j >= r.D)
      continue;
    for (unsigned v = 0; v < size; v++)
      table[v][threadIdx.x] = 0;
    for (; m + ROWS_AHEAD <= end; m += ROWS_AHEAD)
      add_rows<ROWS_AHEAD, ALL, MASK>(tokens + m, mask, yb, m * r.D + j, r.D, low, size, table);
    for (; m < end; m++)
      add_rows<1, ALL, MASK>(tokens + m, mask, yb, m * r.D + j, r.D, low, size, table);
    for (unsigned v = 0; v < size; v++)
      sums_of_ranges[(range * r.V + above + v) * r.D + j] = table[v][threadIdx.x];
  }
}

BLOCK_KERNEL add_ranges(int64_t ranges, int64_t n, real *Wb)
{
  FOR_EACH_BLOCK (strip, strips(n), ranges)
    ADD_COLUMN_SUMS(strip, ranges, n, Wb, range, j, sums_of_ranges[range * n + j]);
}

/* Tokens low..low+V-1. */
static void vjp_tokens(stream st, int64_t M, int64_t low, int64_t V, int64_t D,
                       const int32_t *tokens, const real *mask, const real *yb, real *Wb)
{
  int64_t most = RANGES_ROOM / (V * D), ranges = (M + LEAST_ROWS - 1) / LEAST_ROWS;
  struct token_ranges r;
  ranges = ranges < most ? ranges : most;
  r.M = M, r.D = D, r.rows = (M + ranges - 1) / ranges;
  r.rows = (r.rows + ROWS_AHEAD - 1) / ROWS_AHEAD * ROWS_AHEAD;
  r.low = (int)low, r.V = (int)V, r.ranges = (int)((M + r.rows - 1) / r.rows);
  r.strips = (int)((D + STRIP - 1) / STRIP), r.tables = (r.V + TABLE - 1) / TABLE;
  int64_t warps = (int64_t)r.ranges * r.tables * r.strips;
  auto masked = r.tables == 1 ? sum_ranges<true, true> : sum_ranges<false, true>;
  auto plain = r.tables == 1 ? sum_ranges<true, false> : sum_ranges<false, false>;
  auto sum_by = mask ? masked : plain;
  LAUNCH_AS_(LAUNCH_KERNEL, 1, STRIP, st, warps, sum_by, r, tokens, mask, yb);
  LAUNCH_BLOCKS(st, (V * D + STRIP - 1) / STRIP, add_ranges, r.ranges, V * D, Wb + low * D);
}
#endif

KERNEL vjp(int64_t M, int64_t V, int64_t D, const int32_t *tokens, const real *mask, const real *yb,
           real *Wb)
{
  FOR_EACH_COST (strip, strips(D), M * STRIP) {
    int64_t first = strip * STRIP, end = first + STRIP < D ? first + STRIP : D;
    for (int64_t m = 0; m < M; m++) {
      int64_t token = tokens[m];
      if (token < 0 || token >= V)
        continue;
      if (mask) {
        SIMD
        for (int64_t j = first; j < end; j++)
          Wb[token * D + j] += mask[m * D + j] * yb[m * D + j];
      } else {
        SIMD
        for (int64_t j = first; j < end; j++)
          Wb[token * D + j] += yb[m * D + j];
      }
    }
  }
}

void OP(embedding_fwd)(stream st, int64_t M, int64_t V, int64_t D, const DEVICE int32_t *tokens,
                       const DEVICE real *W, const DEVICE real *mask, DEVICE real *y)
{
#ifdef __CUDACC__
  if (in_packs(D, W) && in_packs(D, mask) && in_packs(D, y) && in_groups(M, D)) {
    LAUNCH(st, groups(M, D), look_up_packs, M, V, D, tokens, W, mask, y);
    return;
  }
#endif
  LAUNCH(st, M * spans(D), look_up, M, V, D, tokens, W, mask, y);
}

void OP(embedding_vjp)(stream st, int64_t M, int64_t V, int64_t D, const DEVICE int32_t *tokens,
                       const DEVICE real *mask, const DEVICE real *yb, DEVICE real *Wb)
{
#ifdef __CUDACC__
  int64_t most = D > 0 ? RANGES_ROOM / D : 0; /* tokens that there is room for */
  for (int64_t low = 0; Wb && M > 0 && most > 0 && low < V; low += most)
    vjp_tokens(st, M, low, V - low < most ? V - low : most, D, tokens, mask, yb, Wb);
  if (most > 0)
    return;
#endif
  if (Wb)
    LAUNCH(st, strips(D), vjp, M, V, D, tokens, mask, yb, Wb);
}

void OP(embedding_jvp)(stream st, int64_t M, int64_t V, int64_t D, const DEVICE int32_t *tokens,
                       const DEVICE real *mask, const DEVICE real *Wd, DEVICE real *yd)
{
  if (Wd)
    OP(embedding_fwd)(st, M, V, D, tokens, Wd, mask, yd);
  else
    OP(fill)(st, M * D, 0, yd);
}
