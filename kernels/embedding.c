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

/* The cotangent of W on a GPU: rows of yb are cut into ranges, and a block adds up a strip of a
 * range's columns.  It sorts the rows by token, BATCH at a time, so that a warp has the sum of a
 * token's rows in registers.  Of more than TABLE tokens the next are another block's.  Then the
 * ranges are added up, in their order. */
enum { TABLE = 256, BATCH = 2048, SORTED_TOGETHER = 32, ROWS_AHEAD = 4, LEAST_ROWS = 256 };
enum { SORTED_GROUPS = BATCH / SORTED_TOGETHER, RANGES_ROOM = WARP * WARP << 12 };
static __device__ real sums_of_ranges[RANGES_ROOM]; /* (ranges,V,D) of V tokens from `low` on */

struct token_ranges {
  int64_t M, D, rows;                 /* rows of a range */
  int low, V, ranges, strips, tables; /* tables of V tokens */
};

struct sorted_rows {
  uint16_t token[BATCH]; /* of the table; TABLE: not in it */
  uint16_t order[BATCH]; /* rows, by token; the same token's as they come */
  uint16_t begin[TABLE], count[TABLE];
  uint16_t at[SORTED_GROUPS][TABLE]; /* where a group's rows of a token begin */
};

/* How many rows of e's group have its token, and how many of those lie before it. */
struct equals {
  int all, before;
};

static __device__ inline struct equals equals_of(const struct sorted_rows *s, int e, int n)
{
  struct equals c = {0, 0};
  int first = e - e % SORTED_TOGETHER;
  for (int i = first; i < first + SORTED_TOGETHER && i < n; i++) {
    bool equal = s->token[i] == s->token[e];
    c.all += equal;
    c.before += equal && i < e;
  }
  return c;
}

/* n rows, of which the table has the `size` tokens from low on.  All threads call. */
static __device__ inline void sort_rows(const int32_t *tokens, int n, unsigned low, unsigned size,
                                        struct sorted_rows *s)
{
  int me = (int)threadIdx.x, threads = (int)blockDim.x;
  int groups_used = (n + SORTED_TOGETHER - 1) / SORTED_TOGETHER;
  for (int e = me; e < n; e += threads) {
    unsigned token = (unsigned)tokens[e] - low;
    s->token[e] = (uint16_t)(token < size ? token : TABLE);
  }
  for (int e = me; e < groups_used * TABLE; e += threads)
    s->at[e / TABLE][e % TABLE] = 0;
  __syncthreads();
  for (int e = me; e < n; e += threads) {
    struct equals c = equals_of(s, e, n);
    if (s->token[e] < TABLE && c.before == 0)
      s->at[e / SORTED_TOGETHER][s->token[e]] = (uint16_t)c.all;
  }
  __syncthreads();
  for (int v = me; v < TABLE; v += threads) {
    unsigned count = 0;
    for (int g = 0; g < groups_used; g++)
      count += s->at[g][v];
    s->count[v] = (uint16_t)count;
  }
  __syncthreads();
  for (int v = me; v < TABLE; v += threads) {
    unsigned at = 0;
    for (int u = 0; u < TABLE; u++)
      at += u < v ? s->count[u] : 0;
    s->begin[v] = (uint16_t)at;
    for (int g = 0; g < groups_used; g++) {
      unsigned count = s->at[g][v];
      s->at[g][v] = (uint16_t)at;
      at += count;
    }
  }
  __syncthreads();
  for (int e = me; e < n; e += threads)
    if (s->token[e] < TABLE)
      s->order[s->at[e / SORTED_TOGETHER][s->token[e]] + equals_of(s, e, n).before] = (uint16_t)e;
  __syncthreads();
}

/* sum + N rows of yb, or mask yb, that `order` names; both from the lane's column on. */
template <int W, bool MASK, int N>
INLINE_DEVICE pack<W> add_rows(const uint16_t *order, unsigned D, const real *mask, const real *yb,
                               pack<W> sum)
{
  pack<W> x[N], keep[N];
#pragma unroll
  for (int q = 0; q < N; q++) {
    unsigned at = order[q] * D;
    x[q] = load_pack<W>(yb + at);
    if (MASK)
      keep[q] = load_pack<W>(mask + at);
  }
#pragma unroll
  for (int q = 0; q < N; q++)
#pragma unroll
    for (int l = 0; l < W; l++)
      sum.at[l] += MASK ? keep[q].at[l] * x[q].at[l] : x[q].at[l];
  return sum;
}

/* Of `count` rows: what is left of the groups of ROWS_AHEAD is loaded together too. */
template <int W, bool MASK>
INLINE_DEVICE pack<W> add_all(const uint16_t *order, int count, unsigned D, const real *mask,
                              const real *yb, pack<W> sum)
{
  for (; count >= ROWS_AHEAD; count -= ROWS_AHEAD, order += ROWS_AHEAD)
    sum = add_rows<W, MASK, ROWS_AHEAD>(order, D, mask, yb, sum);
  if (count == 3)
    sum = add_rows<W, MASK, 3>(order, D, mask, yb, sum);
  else if (count == 2)
    sum = add_rows<W, MASK, 2>(order, D, mask, yb, sum);
  else if (count == 1)
    sum = add_rows<W, MASK, 1>(order, D, mask, yb, sum);
  return sum;
}

template <int W, bool MASK>
BLOCK_KERNEL sum_ranges(struct token_ranges r, const int32_t *tokens, const real *mask,
                        const real *yb)
{
  __shared__ struct sorted_rows s;
  FOR_EACH_BLOCK (i, (int64_t)r.ranges * r.tables * r.strips, BATCH * STRIP) {
    int64_t j = (i % r.strips * WARP + lane()) * W, range = i / r.strips / r.tables;
    int above = (int)(i / r.strips % r.tables) * TABLE;
    int size = r.V - above < TABLE ? r.V - above : TABLE;
    int64_t first = range * r.rows, end = first + r.rows < r.M ? first + r.rows : r.M;
    real *sums = sums_of_ranges + (range * r.V + above) * r.D + j;
    for (int64_t m = first; m < end; m += BATCH) {
      sort_rows(tokens + m, (int)(end - m < BATCH ? end - m : BATCH), (unsigned)(r.low + above),
                (unsigned)size, &s);
      for (int v = (int)threadIdx.x / WARP; j < r.D && v < size; v += (int)blockDim.x / WARP) {
        int begin = s.begin[v], count = s.count[v];
        pack<W> sum = {};
        if (m > first && count == 0)
          continue;
        if (m > first)
          sum = load_pack<W>(sums + v * r.D);
        int64_t from = m * r.D + j;
        sum = add_all<W, MASK>(s.order + begin, count, (unsigned)r.D, MASK ? mask + from : NULL,
                               yb + from, sum);
        store_pack(sum, sums + v * r.D);
      }
      __syncthreads();
    }
  }
}

KERNEL add_ranges(int64_t ranges, int64_t n, real *Wb)
{
  FOR_EACH (i, n) {
    wide sum = 0;
#pragma unroll 8
    for (int64_t range = 0; range < ranges; range++)
      sum += (wide)sums_of_ranges[range * n + i];
    Wb[i] += (real)sum;
  }
}

/* Tokens low..low+V-1. */
template <int W>
static void vjp_tokens(stream st, int64_t M, int64_t low, int64_t V, int64_t D,
                       const int32_t *tokens, const real *mask, const real *yb, real *Wb)
{
  int64_t most = RANGES_ROOM / (V * D), ranges = (M + LEAST_ROWS - 1) / LEAST_ROWS;
  struct token_ranges r;
  r.strips = (int)((D + WARP * W - 1) / (WARP * W)), r.tables = (int)((V + TABLE - 1) / TABLE);
  int64_t fill = PROCESSORS / ((int64_t)r.strips * r.tables); /* a block for each */
  ranges = ranges < most ? ranges : most;
  ranges = ranges < fill ? ranges : fill > 1 ? fill : 1;
  r.M = M, r.D = D, r.rows = (M + ranges - 1) / ranges;
  r.low = (int)low, r.V = (int)V, r.ranges = (int)((M + r.rows - 1) / r.rows);
  auto sum_by = mask ? sum_ranges<W, true> : sum_ranges<W, false>;
  LAUNCH_AS_(LAUNCH_BLOCK_KERNEL, 1, BLOCK_THREADS, st, (int64_t)r.ranges * r.tables * r.strips,
             sum_by, r, tokens, mask, yb);
  LAUNCH(st, V * D, add_ranges, r.ranges, V * D, Wb + low * D);
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
  auto vjp_by = in_packs(D, mask) && in_packs(D, yb) ? vjp_tokens<PACK> : vjp_tokens<1>;
  for (int64_t low = 0; Wb && M > 0 && most > 0 && low < V; low += most)
    vjp_by(st, M, low, V - low < most ? V - low : most, D, tokens, mask, yb, Wb);
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
