/* ssd_tensor_vjp_cuda.h: the VJP of ssd_chunked in float32 by tensor cores: the way back of
 * ssd_tensor_cuda.h, whose head says what decays are.
 *
 * chunk_state_cotangents goes through the chunks backwards, keeping every chunk's Rb:
 *   Rb <- e_{q-1} Rb + (e yb)' C          transposed, as all of the VJP: see PAIRED
 * Then a block of eight warps has one chunk of a group.  It computes scores once and goes through
 * the group's heads, copying meanwhile what the next one needs.  With z_ij = yb_i . x_j:
 *   Cb += (e yb) S                               at last  Cb += pairs B
 *   Bb += (r dt x) Rb                            and      Bb += pairs' C
 *   xb  = r dt (B Rb') + w' yb + D yb            pairs += m dt z
 * The cotangents of decays:
 *   a_i      = C_i . (e_i S' yb_i)               b_j = r_j x_j . Rb B_j
 *   direct_j = sum_i m_ij scores_ij z_ij
 *   across_k = sum_{j<k<=i} K_ij                 K_ij = w_ij z_ij, summed along its rows up to k
 *   lb_k     = across_k + sum_{i>=k} a_i + sum_{j<k} dt_j b_j + e_{q-1} <Rb,S>
 *   dtb_k    = A lb_k + direct_k + b_k */
#ifndef KERNELS_SSD_TENSOR_VJP_CUDA_H
#define KERNELS_SSD_TENSOR_VJP_CUDA_H
#include "kernels/ssd_tensor_cuda.h"

/* ---- the cotangents of states ---- */

struct tensor_backward {
  const real *x, *B, *C, *dt, *A_log, *D, *S, *yb, *S1b;
  real *Rb; /* (b,chunk,h): of the state that leaves; of the last chunk only where S1b is given */
  real beta, *xb, *Bb, *Cb, *dtb, *S0b;
  real *A_part, *D_part; /* (b,chunk,h): of A_logb and Db */
  real *halves, *scale;  /* (b,chunk,h): Rb in half precision, and half_scale.from */
  bool S_in_halves;      /* as store_halves has it */
};

enum { COTANGENT_FLOATS = WIDE + NARROW + HEAD_WARPS * (TENSOR_TOKENS + 2) };

INLINE_DEVICE const real *cotangent_tokens(struct ssd_shape d, struct chunk k, const real *yb)
{
  return yb + (k.token * d.H + k.h) * d.P;
}

/* e of a chunk's tokens and, behind them, of its last; by one warp. */
INLINE_DEVICE void prepare_entering(struct ssd_shape d, struct chunk k, const real *dt, float A,
                                    float *until, float *last)
{
  double l[2], all;
  add_up_times(own_times(dt + k.token * d.H + k.h, d.H, k.q), A, l, &all);
  for (int i = 0; i < 2; i++)
    until[(int)threadIdx.x % WARP_LANES * 2 + i] = power_of_2((float)l[i]);
  if ((int)threadIdx.x % WARP_LANES == 0)
    *last = power_of_2((float)all);
}

/* e yb as a right operand: columns of yb from `first` on, rows times e. */
struct entering_columns {
  narrow_tile of;
  int first;
  const float *until;
  template <int PRODUCTS> INLINE_DEVICE computed_pair<PRODUCTS> get(int n, int k0) const
  {
    int k = 2 * lane_pair();
    float2 e = *(const float2 *)(until + k0 + k);
    return computed_pair<PRODUCTS>(e.x * *of.one(k0, k, first + 8 * n, lane_row()),
                                   e.y * *of.one(k0, k + 1, first + 8 * n, lane_row()));
  }
};

/* A warp's quarter of a state, transposed: PAIRED sums, rows n, columns p of 64 and 32. */
enum { QUARTER_PANELS = 4, QUARTER_CHANNELS = 4 };
struct quarter {
  int64_t first, N;  /* of this lane in the state */
  int rows, columns; /* how many there are from there on */
  INLINE_DEVICE explicit quarter(struct ssd_shape d) : N(d.N)
  {
    int64_t p = own_warp() % 2 * 32 + 2 * lane_pair(), n = own_warp() / 2 * 64 + 2 * own_pair();
    first = p * d.N + n;
    rows = (int)(d.P - p), columns = (int)(d.N - n);
  }
  /* f(i, o, at): the numbers of sums i, e = o and 2 + o, are those from `at` on of the state. */
  template <class F> INLINE_DEVICE void for_pairs(F f) const
  {
#pragma unroll
    for (int j = 0; j < QUARTER_CHANNELS; j++)
#pragma unroll
      for (int o = 0; o < 2; o++)
#pragma unroll
        for (int m = 0; m < QUARTER_PANELS; m++)
          if (8 * j + o < rows && 16 * m < columns)
            f(QUARTER_CHANNELS * m + j, o, first + (8 * j + o) * N + 16 * m);
  }
};

/* By all warps, each with its quarter; most: of each of them. */
INLINE_DEVICE void put_halves(struct ssd_shape d, const struct quarter &own,
                              const float (&state)[QUARTER_PANELS * QUARTER_CHANNELS][4],
                              const float *most, real *to, real *scale)
{
  struct half_scale s(fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])));
  int row = (int)d.P - own.rows, four = four_of_pair(own_pair());
  to += own_warp() / 2 * d.P * HALF_ROW;
#pragma unroll
  for (int o = 0; o < 2; o++) {
    real *first = to + place_in_halves(row + o, four);
#pragma unroll
    for (int j = 0; j < QUARTER_CHANNELS; j++) {
      float word[QUARTER_PANELS];
#pragma unroll
      for (int m = 0; m < QUARTER_PANELS; m++) {
        const float(&sums)[4] = state[QUARTER_CHANNELS * m + j];
        word[m] = halves_of(s.to * sums[o], s.to * sums[2 + o]);
      }
      if (8 * j + o < own.rows)
        *(float4 *)(first + 8 * j * HALF_ROW) = {word[0], word[1], word[2], word[3]};
    }
  }
  if (threadIdx.x == 0)
    *scale = s.from;
}

/* The largest number of each warp's sums, to `most`. */
INLINE_DEVICE void put_largest(const float (&state)[QUARTER_PANELS * QUARTER_CHANNELS][4],
                               float *most)
{
  float own = largest_of_lanes(largest_of(state));
  if (threadIdx.x % WARP_LANES == 0)
    most[own_warp()] = own;
}

/* Index u of (b,h).  Each warp prepares the times of one of the next four chunks. */
template <int PRODUCTS, bool HALVES = false>
static __global__ void __launch_bounds__(HEAD_THREADS, 4)
    chunk_state_cotangents(struct ssd_shape d, struct tensor_backward f)
{
  SHARED_FLOATS(memory);
  wide_tile C = {memory};
  narrow_tile yb = {memory + WIDE};
  float *until = yb.at + NARROW, *last = until + HEAD_WARPS * TENSOR_TOKENS;
  float *most = last + HEAD_WARPS;
  int64_t chunks = ssd_chunks(d), PN = d.P * d.N;
  struct quarter own(d);
  FOR_EACH_BLOCK (u, d.B * d.H, 0) {
    struct chunk k = chunk_of(d, (u / d.H * chunks + chunks - 1) * d.H + u % d.H, d.H), start = k;
    float A = decay_rate(f.A_log, k.h), state[QUARTER_PANELS * QUARTER_CHANNELS][4];
    start.token -= k.c * d.chunk;
    tile_copies<HEAD_THREADS, TENSOR_TOKENS, TENSOR_STATE> C_copies(group_columns(d, start, f.C),
                                                                    d.ld, (int)d.N);
    tile_copies<HEAD_THREADS, TENSOR_TOKENS, TENSOR_CHANNELS> yb_copies(
        cotangent_tokens(d, start, f.yb), d.H * d.P, (int)d.P);
    clear_sums(state);
    if (f.S1b)
      own.for_pairs([&](int i, int o, int64_t at) {
        float2 two = *(const float2 *)(f.S1b + u * PN + at);
        state[i][o] = two.x, state[i][2 + o] = two.y;
      });
    if (HALVES && f.S1b) {
      __syncthreads();
      put_largest(state, most);
      __syncthreads();
    }
    int of_four = HEAD_WARPS;
#pragma unroll 1
    for (; k.c >= 0; k.c--) {
      bool goes_on = k.c > 0 || f.S0b;
      if (goes_on) {
        yb_copies.copy(yb, k.c * d.chunk * d.H * d.P, k.q);
        C_copies.copy(C, k.c * d.chunk * d.ld, k.q);
        end_batch();
      }
      bool leaves = k.c < chunks - 1 || f.S1b;
      if (HALVES && leaves) {
        put_halves(d, own, state, most, f.halves + k.u * d.P * HALF_FLOATS, f.scale + k.u);
      } else if (leaves) {
        real *to = f.Rb + k.u * PN;
        own.for_pairs([&](int i, int o, int64_t at) {
          float2 two;
          two.x = state[i][o], two.y = state[i][2 + o];
          *(float2 *)(to + at) = two;
        });
      }
      if (!goes_on)
        continue;
      if (of_four == HEAD_WARPS) {
        struct chunk mine = k;
        of_four = 0;
        mine.c -= own_warp(), mine.token -= own_warp() * d.chunk;
        mine.q = own_warp() == 0 ? k.q : (int)ssd_chunk_length(d);
        if (mine.c >= 0)
          prepare_entering(d, mine, f.dt, A, until + own_warp() * TENSOR_TOKENS, last + own_warp());
      }
      await_batches<0>();
      __syncthreads();
      scale_sums(state, last[of_four]);
      struct entering_columns tokens = {yb, own_warp() % 2 * 32, until + of_four * TENSOR_TOKENS};
      multiply_across<PRODUCTS, QUARTER_PANELS, QUARTER_CHANNELS, TENSOR_TOKENS / 8>(
          state, C, own_warp() / 2 * 64, tokens);
      if (HALVES)
        put_largest(state, most);
      __syncthreads();
      of_four++;
      k.u -= d.H, k.token -= d.chunk, k.q = (int)ssd_chunk_length(d);
    }
    if (f.S0b)
      own.for_pairs([&](int i, int o, int64_t at) {
        float2 two;
        two.x = state[i][o], two.y = state[i][2 + o];
        put_two((float2 *)(f.S0b + u * PN + at), 1, two);
      });
  }
}

/* ---- a chunk of a group ---- */

enum { GROUP_WARPS = (int)GROUP_THREADS / WARP_LANES };
enum { QUARTERS = 4, QUARTER = TENSOR_TOKENS / QUARTERS }; /* of the tokens, or the columns */
enum { PAIR_TILES = 4, PANEL_TILES = 8 }; /* columns of a warp: 32 tokens; 32 by 32 of a panel */

/* Of a head's tokens.  Where a quarter begins between j and i, at f, m_ij = m_if m_fj: two numbers
 * below 1, and no exponential is left to a pair. */
struct head_times {
  float2 sum[TENSOR_TOKENS]; /* L, in two floats */
  float dt[TENSOR_TOKENS], leave[TENSOR_TOKENS], until[TENSOR_TOKENS], scaled[TENSOR_TOKENS];
  float since[TENSOR_TOKENS];                /* m_if, f the first of i's quarter */
  float before[QUARTERS - 1][TENSOR_TOKENS]; /* m_fj, f the first of quarters 1, 2, 3 */
  float A, last;                             /* e_{q-1} */
};

/* Of a head, what lb is made of.  For k in quarter c, across_k is what pairs have
 *   i in a later quarter, j in c    sum_{j<k} dt_j direct_j, by the quarter of i
 *   i in a later, j in an earlier   the same, over whole quarters
 *   i in c, j in an earlier         sum_{i>=k} rows_i
 *   i and j in c                    within_k */
struct head_sums {
  float direct[QUARTERS][TENSOR_TOKENS];   /* by the quarter of i */
  float rows[QUARTERS - 1][TENSOR_TOKENS]; /* by the quarter of j: sum_j K_ij */
  float within[TENSOR_TOKENS];
  float own[TENSOR_TOKENS]; /* z_ii */
};

/* And of it, what the states give: sums over what a warp has of them. */
struct state_sums {
  const float *a, *b;   /* [any number][TENSOR_TOKENS]; [QUARTERS], of the channels */
  const float *through; /* [any number] <Rb,S> */
};

/* Of the shared memory. */
struct group_memory {
  wide_tile C, B, S, Rb;
  narrow_tile w, tokens;    /* w: transposed; tokens: [2] x and yb of a head, and of the next */
  struct head_times *times; /* [3] of this head, the next, the last */
  struct head_sums *sums;   /* [2] of this head and the last */
  float *a;                 /* [2] of them, [QUARTERS] of the state's columns */
  float *b, *through;       /* as state_sums has them */
  INLINE_DEVICE float *a_of(int h) const { return a + h % 2 * (QUARTERS * TENSOR_TOKENS); }
};
enum {
  GROUP_FLOATS = 4 * WIDE + 5 * NARROW + 3 * FLOATS_OF(struct head_times) +
                 2 * FLOATS_OF(struct head_sums) + 3 * (int)QUARTERS * TENSOR_TOKENS + GROUP_WARPS
};

INLINE_DEVICE float *take_floats(float **from, int n)
{
  float *at = *from;
  *from += n;
  return at;
}

INLINE_DEVICE struct group_memory divide_memory(float *memory)
{
  struct group_memory m;
  m.C.at = take_floats(&memory, WIDE);
  m.B.at = take_floats(&memory, WIDE);
  m.S.at = take_floats(&memory, WIDE);
  m.Rb.at = take_floats(&memory, WIDE);
  m.w.at = take_floats(&memory, NARROW);
  m.tokens.at = take_floats(&memory, 4 * NARROW);
  m.a = take_floats(&memory, 2 * QUARTERS * TENSOR_TOKENS);
  m.b = take_floats(&memory, QUARTERS * TENSOR_TOKENS);
  m.through = take_floats(&memory, GROUP_WARPS);
  m.sums = (struct head_sums *)take_floats(&memory, 2 * FLOATS_OF(struct head_sums));
  m.times = (struct head_times *)take_floats(&memory, 3 * FLOATS_OF(struct head_times));
  return m;
}

INLINE_DEVICE narrow_tile x_tile(struct group_memory m, int h)
{
  return {m.tokens.at + h % 2 * 2 * NARROW};
}
INLINE_DEVICE narrow_tile yb_tile(struct group_memory m, int h)
{
  return {m.tokens.at + (h % 2 * 2 + 1) * NARROW};
}

/* A warp's part.  Of pairs (z, scores, w, all transposed): a quarter of j, half of i; where i < j
 * for all of them, the warp sees to the times instead.  Of a panel: half of the tokens, a quarter
 * of the columns; of xb: of the channels. */
struct place {
  int warp;
  struct {
    int quarter, half;
  } pair;
  int half, quarter;
};
enum { ENDING_WARP = 4, PREPARING_WARP = 5 };
INLINE_DEVICE struct place place_of_warp(void)
{
  int warp = own_warp();
  /* so that the four schedulers have as much to do: warps w and w + 4 share one */
  int quarters = (int)(0x31321020u >> 4 * warp & 15), halves = 0x8e >> warp & 1;
  struct place at = {warp, {quarters, halves}, warp % 2, warp / 2};
  return at;
}

/* By one warp. */
INLINE_DEVICE void prepare_times(float2 dt, float A, struct head_times *to)
{
  int first = (int)threadIdx.x % WARP_LANES * 2;
  float each[2] = {dt.x, dt.y};
  double l[2], all;
  float2 sum[2];
  add_up_times(dt, A, l, &all);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int t = first + i;
    sum[i].x = (float)l[i];
    sum[i].y = (float)(l[i] - (double)sum[i].x);
    float leave = power_of_2((float)(all - l[i]));
    to->sum[t] = sum[i];
    to->dt[t] = each[i];
    to->leave[t] = leave;
    to->scaled[t] = leave * each[i];
    to->until[t] = power_of_2(sum[i].x + sum[i].y);
  }
  if (first == 0)
    to->A = A, to->last = power_of_2((float)all);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int t = first + i;
    to->since[t] = decay_over(sum[i], to->sum[t & ~(QUARTER - 1)]);
#pragma unroll
    for (int q = 1; q < QUARTERS; q++)
      to->before[q - 1][t] = t < q * QUARTER ? decay_over(to->sum[q * QUARTER], sum[i]) : 0;
  }
}

/* Where w goes, transposed: row j0 + g, columns i0 + 2 t and the next, j0 and i0 multiples of 8. */
template <int PRODUCTS> struct tile_of_weights {
  narrow_tile w;
  INLINE_DEVICE void put(int j0, int i0, float w0, float w1) const
  {
    float2 two;
    two.x = rounded<PRODUCTS>(w0), two.y = rounded<PRODUCTS>(w1);
    w.two(j0, lane_row(), i0, 2 * lane_pair()) = two;
  }
};

/* What follows from a warp's z (transposed, as all here): w, pairs, and parts of a head's sums. */
template <class WEIGHTS> struct weighing {
  const struct head_times *times;
  struct head_sums *sums;
  WEIGHTS w;
  int j0;

  /* direct, of rows g and g + 8 of the lanes of four: each adds up one */
  INLINE_DEVICE void store_direct(int i0, const float (&direct)[2]) const
  {
    bool second = lane_pair() & 1;
    float mine = second ? direct[1] : direct[0], other = second ? direct[0] : direct[1];
    mine += from_lane(other, 1);
    mine += from_lane(mine, 2);
    if (lane_pair() < 2)
      sums->direct[i0 / QUARTER][j0 + lane_row() + 8 * lane_pair()] = mine;
  }

  /* Of columns i, what lane (g,t) has after sum_over_rows: i = 8 n + 2 t + o. */
  INLINE_DEVICE int column_of_lane(void) const
  {
    int g = lane_row();
    return (g & 4) * 2 + 2 * lane_pair() + (g >> 1 & 1);
  }

  /* A quarter of i from i0 on, later than j's. */
  INLINE_DEVICE void later(int i0, const float (*scores)[4], const float (*z)[4],
                           float (*pairs)[4]) const
  {
    float before[2], scaled[2], direct[2] = {0, 0}, rows[4] = {0, 0, 0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int j = j0 + lane_row() + 8 * half;
      before[half] = times->before[i0 / QUARTER - 1][j];
      scaled[half] = before[half] * times->dt[j];
    }
#pragma unroll
    for (int n = 0; n < 2; n++) {
      float2 since = *(const float2 *)(times->since + i0 + 8 * n + 2 * lane_pair());
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float weight[2];
#pragma unroll
        for (int o = 0; o < 2; o++) {
          int e = 2 * half + o;
          float m = o ? since.y : since.x, pair = m * scaled[half], both = scores[n][e] * z[n][e];
          weight[o] = scores[n][e] * pair;
          pairs[n][e] += pair * z[n][e];
          direct[half] += m * both;
          rows[2 * n + o] += pair * both;
        }
        w.put(j0 + 8 * half, i0 + 8 * n, weight[0], weight[1]);
      }
    }
    direct[0] *= before[0], direct[1] *= before[1];
    store_direct(i0, direct);
    float row = sum_over_rows(rows);
    if (lane_row() % 2 == 0)
      sums->rows[j0 / QUARTER][i0 + column_of_lane()] = row;
  }

  /* j's own quarter; there, across_k: K is summed along i from k on, then over j < k. */
  INLINE_DEVICE void same(const float (*scores)[4], const float (*z)[4], float (*pairs)[4]) const
  {
    int g = lane_row(), t = lane_pair();
    float direct[2] = {0, 0}, across[4] = {0, 0, 0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float2 at_j = times->sum[j0 + g + 8 * half];
      float dt = times->dt[j0 + g + 8 * half], beyond = 0;
#pragma unroll
      for (int n = 1; n >= half; n--) { /* of n < half, all is 0 and nobody reads w */
        float weight[2], K[2];
#pragma unroll
        for (int o = 0; o < 2; o++) {
          int e = 2 * half + o, past = 8 * (n - half) + 2 * t + o - g; /* i - j */
          float2 at_i = times->sum[j0 + 8 * n + 2 * t + o];
          float m = past >= 0 ? decay_over(at_i, at_j) : 0, pair = m * dt;
          float both = scores[n][e] * z[n][e];
          weight[o] = scores[n][e] * pair;
          pairs[n][e] += pair * z[n][e];
          direct[half] += m * both;
          K[o] = pair * both;
          if (past == 0)
            sums->own[j0 + g + 8 * half] = z[n][e];
        }
        w.put(j0 + 8 * half, j0 + 8 * n, weight[0], weight[1]);
        float all = K[0] + K[1], other = from_lane(all, 1), after = beyond + (t & 1 ? 0 : other);
        all += other;
        other = from_lane(all, 2);
        after += t & 2 ? 0 : other;
        beyond += all + other;
        int past = 8 * (n - half) + 2 * t - g;
        across[2 * n] += past > 0 ? after + K[1] + K[0] : 0;
        across[2 * n + 1] += past + 1 > 0 ? after + K[1] : 0;
      }
    }
    store_direct(j0, direct);
    float within = sum_over_rows(across);
    if (g % 2 == 0)
      sums->within[j0 + column_of_lane()] = within;
  }
};

template <class WEIGHTS>
INLINE_DEVICE void weigh_pairs_of_warp(struct weighing<WEIGHTS> weigh, struct place at,
                                       const float (&scores)[PAIR_TILES][4],
                                       const float (&z)[PAIR_TILES][4],
                                       float (&pairs)[PAIR_TILES][4])
{
#pragma unroll
  for (int n = 0; n < PAIR_TILES; n += 2) {
    int quarter = 2 * at.pair.half + n / 2;
    if (quarter > at.pair.quarter)
      weigh.later(QUARTER * quarter, scores + n, z + n, pairs + n);
    else if (quarter == at.pair.quarter)
      weigh.same(scores + n, z + n, pairs + n);
  }
}

/* f(n, o, i): row i of a warp's half, of those whose numbers a lane has. */
template <class F> INLINE_DEVICE void for_rows_of_half(struct place at, F f)
{
#pragma unroll
  for (int n = 0; n < PAIR_TILES; n++)
#pragma unroll
    for (int o = 0; o < 2; o++)
      f(n, o, 32 * at.half + 8 * n + 2 * lane_pair() + o);
}

/* The same rows of a tile of shared memory: a pair of columns. */
template <int LD>
INLINE_DEVICE float2 own_pair_of(tile<LD> of, struct place at, int n, int o, int column)
{
  return column_pair(of, 32 * at.half + 8 * n, 2 * lane_pair() + o, column);
}

/* dots[2 n + o], added up over the lanes that have parts of it; a factor, and into shared memory */
INLINE_DEVICE void store_dots(struct place at, const float (&dots)[8], const float *factor,
                              float *to)
{
  int g = lane_row(), i = 32 * at.half + (g & 6) * 4 + 2 * lane_pair() + (g & 1);
  to[i] = sum_over_rows(dots) * factor[i];
}

/* Cb += (e yb) S; a */
template <int PRODUCTS>
INLINE_DEVICE void entering_state(struct group_memory m, struct place at,
                                  const struct head_times *times, float *a, narrow_tile yb,
                                  float (&Cb)[PANEL_TILES][4])
{
  float sums[PANEL_TILES][4], dots[8];
  int n0 = 32 * at.quarter;
  struct right_rows<TENSOR_CHANNELS> rows = {
    yb, 32 * at.half
  };
  wide_tile S = {m.S.at + n0}, C = {m.C.at + n0};
  clear_sums(sums);
  multiply_across<PRODUCTS, 2, PAIR_TILES, TENSOR_CHANNELS / 8>(sums, S, 0, rows);
  for_rows_of_half(at, [&](int n, int o, int i) {
    float e = times->until[i], dot = 0;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      float2 c = own_pair_of(C, at, n, o, 16 * j);
      float *low = &sums[PAIR_TILES * j + n][o], *high = &sums[PAIR_TILES * j + n][2 + o];
      dot += c.x * *low + c.y * *high;
      Cb[PAIR_TILES * j + n][o] += e * *low, Cb[PAIR_TILES * j + n][2 + o] += e * *high;
    }
    dots[2 * n + o] = dot;
  });
  store_dots(at, dots, times->until, a + at.quarter * TENSOR_TOKENS);
}

/* This thread's part of <Rb,S>, added up over the warp. */
INLINE_DEVICE void state_products(struct group_memory m, struct place at)
{
  float4 sum = {};
  const float4 *S = (const float4 *)m.S.at, *Rb = (const float4 *)m.Rb.at;
#pragma unroll
  for (int i = 0; i < WIDE / 4; i += GROUP_THREADS) {
    float4 s = S[i + threadIdx.x], r = Rb[i + threadIdx.x];
    sum.x += s.x * r.x, sum.y += s.y * r.y, sum.z += s.z * r.z, sum.w += s.w * r.w;
  }
  float all = sum_of_lanes(sum.x + sum.y + (sum.z + sum.w));
  if (threadIdx.x % WARP_LANES == 0)
    m.through[at.warp] = all;
}

/* xb = r dt (B Rb'), transposed; b */
template <int PRODUCTS>
INLINE_DEVICE void leaving_tokens(struct group_memory m, struct place at,
                                  const struct head_times *times, narrow_tile x,
                                  float (&xb)[PAIR_TILES][4])
{
  float dots[8];
  int p0 = 16 * at.quarter;
  struct plain_rows<TENSOR_STATE> right = {
    m.B, 32 * at.half
  };
  multiply_paired_rows<PRODUCTS, TENSOR_STATE>(xb, m.Rb, p0, right);
  for_rows_of_half(at, [&](int n, int o, int j) {
    float2 two = own_pair_of(x, at, n, o, p0);
    float scaled = times->scaled[j];
    dots[2 * n + o] = two.x * xb[n][o] + two.y * xb[n][2 + o];
    xb[n][o] *= scaled, xb[n][2 + o] *= scaled;
  });
  store_dots(at, dots, times->leave, m.b + at.quarter * TENSOR_TOKENS);
}

/* xb += w' yb + D yb, and out with it. */
template <int PRODUCTS>
INLINE_DEVICE void finish_tokens(struct ssd_shape d, struct tensor_backward f, struct chunk k,
                                 struct group_memory m, struct place at, narrow_tile yb, float2 D,
                                 float (&xb)[PAIR_TILES][4])
{
  int p0 = 16 * at.quarter, p = p0 + 2 * own_pair(), j0 = 32 * at.half;
  struct rounded_rows<TENSOR_CHANNELS> w = {
    m.w, j0
  };
#pragma unroll
  for (int n = 0; n < PAIR_TILES; n++) /* tile n has tokens i from its own on */
    add_terms_across<PRODUCTS, 1, PAIR_TILES>(xb, yb, p0, j0 + 8 * n, w, n + 1);
  if (at.half == 0)
#pragma unroll
    for (int i0 = 32; i0 < TENSOR_TOKENS; i0 += 8)
      add_terms_across<PRODUCTS, 1, PAIR_TILES>(xb, yb, p0, i0, w, PAIR_TILES);
  real *first = f.xb + (k.token + j0 + 2 * lane_pair()) * d.ld + k.h * d.P + p;
  int rows = p < d.P ? k.q : 0;
  if (f.beta != 0)
    for_rows_of_half(at, [&](int n, int o, int j) {
      float2 old = {};
      if (j < rows)
        old = *(float2 *)(first + (8 * n + o) * d.ld);
      xb[n][o] += f.beta * old.x, xb[n][2 + o] += f.beta * old.y;
    });
  for_rows_of_half(at, [&](int n, int o, int j) {
    float2 own = own_pair_of(yb, at, n, o, p0), two;
    two.x = xb[n][o] + D.x * own.x, two.y = xb[n][2 + o] + D.y * own.y;
    if (j < rows)
      *(float2 *)(first + (8 * n + o) * d.ld) = two;
  });
}

/* Bb += (r dt x) Rb */
template <int PRODUCTS>
INLINE_DEVICE void leaving_panel(struct group_memory m, struct place at,
                                 const struct head_times *times, narrow_tile x,
                                 float (&Bb)[PANEL_TILES][4])
{
  float sums[PANEL_TILES][4];
  struct right_rows<TENSOR_CHANNELS> rows = {
    x, 32 * at.half
  };
  wide_tile Rb = {m.Rb.at + 32 * at.quarter};
  clear_sums(sums);
  multiply_across<PRODUCTS, 2, PAIR_TILES, TENSOR_CHANNELS / 8>(sums, Rb, 0, rows);
  for_rows_of_half(at, [&](int n, int o, int j) {
    float scaled = times->scaled[j];
#pragma unroll
    for (int i = n; i < PANEL_TILES; i += PAIR_TILES)
      Bb[i][o] += scaled * sums[i][o], Bb[i][2 + o] += scaled * sums[i][2 + o];
  });
}

/* What dtb of a lane's tokens 2 l and 2 l + 1 is made of. */
struct time_parts {
  float A, through, dt[2], across[2], direct[2], a[2], b[2], own[2];
};
INLINE_DEVICE void add_two(float (&sums)[2], float2 two) { sums[0] += two.x, sums[1] += two.y; }

/* dtb of a head's chunk, and its parts of A_logb and Db; by one warp. */
INLINE_DEVICE void put_time_cotangents(struct ssd_shape d, struct tensor_backward f, struct chunk k,
                                       const struct time_parts &p)
{
  int lane = (int)threadIdx.x % WARP_LANES;
  struct sums_around a_sums = sums_among<WARP_LANES>(p.a[0] + p.a[1]);
  struct sums_around b_sums = sums_among<WARP_LANES>(p.dt[0] * p.b[0] + p.dt[1] * p.b[1]);
  float total = 0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int t = 2 * lane + i;
    float lb = p.across[i] + (a_sums.after + p.a[1] + (i == 0 ? p.a[0] : 0));
    lb += b_sums.before + (i == 1 ? p.dt[0] * p.b[0] : 0) + p.through;
    total += p.A * p.dt[i] * lb;
    if (f.dtb && t < k.q) {
      real *to = f.dtb + (k.token + t) * d.H + k.h;
      *to = (f.beta != 0 ? f.beta * *to : 0) + p.A * lb + p.direct[i] + p.b[i];
    }
  }
  total = sum_of_lanes(total);
  float skip = sum_of_lanes(p.own[0] + p.own[1]);
  if (lane == 0)
    f.A_part[k.u] = total, f.D_part[k.u] = skip;
}

/* The same of what quarters have. */
INLINE_DEVICE void time_cotangents(struct ssd_shape d, struct tensor_backward f, struct chunk k,
                                   const struct head_times *times, const struct head_sums *from,
                                   struct state_sums states, bool enters, bool leaves)
{
  int first = (int)threadIdx.x % WARP_LANES * 2, quarter = first / QUARTER;
  float later[QUARTERS] = {0, 0, 0, 0}, rows[2] = {}, weighed[2] = {};
  auto own = [&](const float *of) { return *(const float2 *)(of + first); };
  float2 own_dt = own(times->dt), own_within = own(from->within), own_own = own(from->own);
  struct time_parts p = {times->A, 0, {own_dt.x, own_dt.y}, {}, {}, {}, {}, {}};
  float within[2] = {own_within.x, own_within.y};
  p.own[0] = own_own.x, p.own[1] = own_own.y;
  for (int i = 0; enters && leaves && i < GROUP_WARPS; i++)
    p.through += states.through[i];
  p.through *= times->last;
#pragma unroll
  for (int q = 0; q < QUARTERS; q++) {
    float2 K = {};
    if (enters)
      add_two(p.a, own(states.a + q * TENSOR_TOKENS));
    if (leaves)
      add_two(p.b, own(states.b + q * TENSOR_TOKENS));
    if (q < quarter)
      add_two(rows, own(from->rows[q]));
    if (q >= quarter) {
      float2 two = own(from->direct[q]);
      add_two(p.direct, two);
      if (q > quarter)
        K.x = p.dt[0] * two.x, K.y = p.dt[1] * two.y;
    }
    add_two(weighed, K); /* column t in later quarters */
    later[q] = K.x + K.y;
  }
  /* i after k's quarter: j before k in it, and j in earlier ones */
  struct sums_around before = sums_among<QUARTER / 2>(weighed[0] + weighed[1]);
  float all2 = sums_among<QUARTER / 2>(later[2]).all, all3 = sums_among<QUARTER / 2>(later[3]).all;
  float from1 = from_lane(all2 + all3, 8), from2 = from_lane(all3, 16) + from_lane(all3, 24);
  float earlier = quarter == 1 ? from1 : quarter == 2 ? from2 : 0;
  /* i in k's quarter, j before it */
  struct sums_around among = sums_among<QUARTER / 2>(rows[0] + rows[1]);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    p.across[i] = within[i] + (earlier + before.before + (i == 1 ? weighed[0] : 0));
    p.across[i] += among.after + rows[1] + (i == 0 ? rows[0] : 0);
  }
  put_time_cotangents(d, f, k, p);
}

/* Cb += pairs B, Bb += pairs' C, and out with them. */
template <int PRODUCTS>
INLINE_DEVICE void finish_panels(struct ssd_shape d, struct tensor_backward f, struct chunk group,
                                 struct group_memory m, struct place at,
                                 const float (&pairs)[PAIR_TILES][4], float (&Bb)[PANEL_TILES][4],
                                 float (&Cb)[PANEL_TILES][4])
{
  int first = 32 * at.half;
  wide_tile B = {m.B.at + 32 * at.quarter}, C = {m.C.at + 32 * at.quarter};
#pragma unroll
  for (int n = 0; n < PAIR_TILES; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float2 two;
      two.x = rounded<PRODUCTS>(pairs[n][2 * half]);
      two.y = rounded<PRODUCTS>(pairs[n][2 * half + 1]);
      m.w.two(QUARTER * at.pair.quarter + 8 * half, lane_row(), 32 * at.pair.half + 8 * n,
              2 * lane_pair()) = two;
    }
  __syncthreads();
  struct rounded_columns<TENSOR_CHANNELS> columns = {
    m.w, first
  };
  struct rounded_rows<TENSOR_CHANNELS> rows = {
    m.w, first
  };
#pragma unroll 1
  for (int k0 = 0; k0 < first + 32; k0 += 8)
    add_terms_across<PRODUCTS, 2, PAIR_TILES>(Cb, B, 0, k0, columns, PAIR_TILES);
#pragma unroll 1
  for (int k0 = first; k0 < TENSOR_TOKENS; k0 += 8)
    add_terms_across<PRODUCTS, 2, PAIR_TILES>(Bb, C, 0, k0, rows, PAIR_TILES);
  for_rows_of_half(at, [&](int n, int o, int i) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      int column = 32 * at.quarter + 16 * j + 2 * own_pair(), tile = PAIR_TILES * j + n;
      int64_t to = (group.token + i) * d.ld + group.h * d.N + column;
      float2 c, b;
      c.x = Cb[tile][o], c.y = Cb[tile][2 + o], b.x = Bb[tile][o], b.y = Bb[tile][2 + o];
      if (i >= group.q || column >= d.N)
        continue;
      if (f.Cb)
        put_two((float2 *)(f.Cb + to), f.beta, c);
      if (f.Bb)
        put_two((float2 *)(f.Bb + to), f.beta, b);
    }
  });
}

/* Index v of (b,chunk,g).  While a head's pairs are weighed, the last head's cotangents of times
 * are finished and the next head's times prepared. */
template <int PRODUCTS>
static __global__ void __launch_bounds__(GROUP_THREADS, 1)
    tensor_backward_all(struct ssd_shape d, struct tensor_backward f)
{
  SHARED_FLOATS(memory);
  struct group_memory m = divide_memory(memory);
  struct place at = place_of_warp();
  int heads = (int)(d.H / d.G);
  int64_t PN = d.P * d.N;
  bool weighs = at.warp != ENDING_WARP && at.warp != PREPARING_WARP;
  FOR_EACH_BLOCK (v, d.B * ssd_chunks(d) * d.G, 0) {
    struct chunk group = chunk_of(d, v, d.G);
    int64_t first_head = group.h * heads, first_u = v / d.G * d.H + first_head;
    bool enters = f.S && !(d.from_zero && group.c == 0),
         leaves = group.c < ssd_chunks(d) - 1 || f.S1b;
    float scores[PAIR_TILES][4], pairs[PAIR_TILES][4], Bb[PANEL_TILES][4], Cb[PANEL_TILES][4];
    float2 dt = {}; /* of the head whose times this warp prepares next */
    float A_log = 0;
    auto head = [&](int h) {
      struct chunk k = group;
      k.h = first_head + h;
      k.u = first_u + h;
      return k;
    };
    /* of head h, copies of x and yb, of S, of Rb are a batch each */
    struct chunk start = head(0);
    tile_copies<GROUP_THREADS, TENSOR_TOKENS, TENSOR_CHANNELS> x_copies(x_of(d, start, f.x), d.ld,
                                                                        (int)d.P);
    tile_copies<GROUP_THREADS, TENSOR_TOKENS, TENSOR_CHANNELS> yb_copies(
        cotangent_tokens(d, start, f.yb), d.H * d.P, (int)d.P);
    tile_copies<GROUP_THREADS, TENSOR_CHANNELS, TENSOR_STATE> S_copies(f.S + first_u * PN, d.N,
                                                                       (int)d.N);
    tile_copies<GROUP_THREADS, TENSOR_CHANNELS, TENSOR_STATE> Rb_copies(f.Rb + first_u * PN, d.N,
                                                                        (int)d.N);
    auto copy_tokens = [&](int h) {
      if (h < heads) {
        x_copies.copy(x_tile(m, h), h * (int)d.P, group.q);
        yb_copies.copy(yb_tile(m, h), h * (int)d.P, group.q);
      }
      end_batch();
    };
    auto copy_S = [&](int h) {
      if (h < heads && enters)
        S_copies.copy(m.S, h * (int)PN, (int)d.P);
      end_batch();
    };
    auto copy_Rb = [&](int h) {
      if (leaves)
        Rb_copies.copy(m.Rb, h * (int)PN, (int)d.P);
      end_batch();
    };
    auto read_times_of = [&](int h) {
      if (h < heads)
        dt = own_times(f.dt + group.token * d.H + first_head + h, d.H, group.q),
        A_log = f.A_log[first_head + h];
    };
    auto end_head = [&](int h) {
      struct state_sums states = {m.a_of(h), m.b, m.through};
      time_cotangents(d, f, head(h), m.times + h % 3, m.sums + h % 2, states, enters, leaves);
    };
    int64_t panel = group.token * d.ld + group.h * d.N;
    copy_tile<GROUP_THREADS, TENSOR_TOKENS>(m.C, f.C + panel, d.ld, group.q, (int)d.N);
    copy_tile<GROUP_THREADS, TENSOR_TOKENS>(m.B, f.B + panel, d.ld, group.q, (int)d.N);
    end_batch();
    copy_tokens(0);
    copy_S(0);
    if (at.warp == PREPARING_WARP) {
      read_times_of(0);
      prepare_times(dt, -exp_real(A_log), m.times);
      read_times_of(1);
    }
    clear_sums(scores);
    clear_sums(pairs);
    clear_sums(Bb);
    clear_sums(Cb);
    await_batches<0>();
    __syncthreads();
    if (weighs) {
      struct plain_rows<TENSOR_STATE> right = {
        m.C, 32 * at.pair.half
      };
      multiply_rows<PRODUCTS, TENSOR_STATE>(scores, m.B, QUARTER * at.pair.quarter, right);
    }
#pragma unroll 1
    for (int h = 0; h < heads; h++) {
      narrow_tile x = x_tile(m, h), yb = yb_tile(m, h);
      const struct head_times *times = m.times + h % 3;
      struct head_sums *sums = m.sums + h % 2;
      float2 D = skips_of(d, f.D, first_head + h, 16 * at.quarter + 2 * own_pair());
      copy_Rb(h);
      copy_tokens(h + 1);
      if (weighs) {
        float z[PAIR_TILES][4];
        struct plain_rows<TENSOR_CHANNELS> tokens = {
          yb, 32 * at.pair.half
        };
        struct weighing<tile_of_weights<PRODUCTS>> weigh = {
          times, sums, {m.w}, QUARTER *at.pair.quarter
        };
        clear_sums(z);
        multiply_rows<PRODUCTS, TENSOR_CHANNELS>(z, x, weigh.j0, tokens);
        weigh_pairs_of_warp(weigh, at, scores, z, pairs);
      } else if (at.warp == ENDING_WARP) {
        if (h > 0)
          end_head(h - 1);
      } else if (h + 1 < heads) {
        prepare_times(dt, -exp_real(A_log), m.times + (h + 1) % 3);
        read_times_of(h + 2);
      }
      if (enters)
        entering_state<PRODUCTS>(m, at, times, m.a_of(h), yb, Cb);
      await_batches<1>(); /* left: the next x and yb */
      __syncthreads();
      float xb[PAIR_TILES][4];
      clear_sums(xb);
      if (leaves) {
        if (enters)
          state_products(m, at);
        leaving_tokens<PRODUCTS>(m, at, times, x, xb);
      }
      __syncthreads();
      copy_S(h + 1);
      if (f.xb)
        finish_tokens<PRODUCTS>(d, f, head(h), m, at, yb, D, xb);
      if (leaves && f.Bb)
        leaving_panel<PRODUCTS>(m, at, times, x, Bb);
      await_batches<0>();
      __syncthreads();
    }
    if (at.warp == ENDING_WARP)
      end_head(heads - 1);
    finish_panels<PRODUCTS>(d, f, group, m, at, pairs, Bb, Cb);
    __syncthreads();
  }
}

/* out[h] += sum over rows i of in (rows,H), twice; but once where out2 is NULL */
BLOCK_KERNEL add_rows(int64_t rows, int64_t H, const real *in, real *out, const real *in2,
                      real *out2)
{
  FOR_EACH_BLOCK (k, (out2 ? 2 : 1) * strips(H), rows * STRIP) {
    bool second = k >= strips(H);
    const real *from = second ? in2 : in;
    real *to = second ? out2 : out;
    ADD_COLUMN_SUMS(second ? k - strips(H) : k, rows, H, to, i, h, from[i * H + h]);
  }
}

/* ---- on the host ---- */

static bool takes_backward(stream st, struct ssd_shape d, struct tensor_backward f)
{
  return on_tensor_cores(st, d, GROUP_FLOATS) && aligned_rows(d, f.x, f.B, f.C) &&
         aligned_rows(d, f.xb, f.Bb, f.Cb) && aligned(f.S) && aligned(f.yb) && aligned(f.S1b) &&
         aligned(f.Rb) && aligned(f.S0b);
}
#endif
