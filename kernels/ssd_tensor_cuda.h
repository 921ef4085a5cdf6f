/* ssd_tensor_cuda.h: ssd_chunked in float32 by tensor cores, each chunk of at most 64 tokens in
 * shared memory and the states in registers; part of ssd_chunked.c, whose head has the equations.
 *
 * Forward: a block of four warps goes through the chunks of one head of one sequence.  Of a chunk
 *   [scores, from] = C [B', S']        scores_ij = C_i . B_j, from_ip = S_p . C_i
 *   y  = e from + w x + D x            w_ij = m_ij scores_ij dt_j
 *   S <- e_{q-1} S + (r dt x)' B       is what enters the next
 * x, B, C are read once, y is written once, and S where it is kept.
 *
 * VJP: `chunk_state_cotangents` goes through the chunks backwards, Rb <- e_{q-1} Rb + (e yb)' C,
 * and keeps every chunk's Rb.  Then a block of eight warps has one chunk of a group: it computes
 * scores once, and goes through the group's heads, with z_ij = yb_i . x_j: Cb += (e yb) S    xb = r
 * dt (B Rb') + w' yb + D yb    Bb += (r dt x) Rb    pairs += m dt z and at last Cb += pairs B, Bb
 * += pairs' C.  What a head needs next is copied meanwhile.  The cotangents of decays: a_i = C_i .
 * (e_i S' yb_i)   b_j = r_j x_j . Rb B_j    direct_j = sum_i m_ij scores_ij z_ij across_k =
 * sum_{j<k<=i} K_ij, K_ij = w_ij z_ij, from sums along the rows of K up to column k lb_k  =
 * across_k + sum_{i>=k} a_i + sum_{j<k} dt_j b_j + e_{q-1} <Rb,S> dtb_k = A lb_k + direct_k + b_k
 * m_ij = exp(L_i - L_j), where L is the running sum of A dt in two floats: their difference is as
 * good as a float gets.  Tokens beyond the chunk's, and channels beyond P and N, are zeros. */
#ifndef KERNELS_SSD_TENSOR_CUDA_H
#define KERNELS_SSD_TENSOR_CUDA_H
#include "kernels/device_cuda.h"
#include "kernels/rows.h"
#include "kernels/tensor_cores_cuda.h"

enum { TENSOR_TOKENS = 64, TENSOR_CHANNELS = 64, TENSOR_STATE = 128 }; /* at most */
enum { HEAD_THREADS = 128, GROUP_THREADS = 256 };

typedef tile<TENSOR_STATE> wide_tile;      /* B, C (tokens,N), S, Rb (P,N) */
typedef tile<TENSOR_CHANNELS> narrow_tile; /* x, yb (tokens,P), pairs of tokens */
typedef rows_of<TENSOR_STATE> wide_rows;
typedef columns_of<TENSOR_STATE> wide_columns;
typedef rows_of<TENSOR_CHANNELS> narrow_rows;
typedef columns_of<TENSOR_CHANNELS> narrow_columns;
enum { WIDE = TENSOR_TOKENS * TENSOR_STATE, NARROW = TENSOR_TOKENS * TENSOR_CHANNELS };

/* ---- decays of a chunk ---- */

/* What every warp knows of a chunk: lane l of tokens 2 l and 2 l + 1. */
struct chunk_times {
  float dt[2], leave[2], last; /* r; e_{q-1} */
};

/* For all: L_i = high_i + low_i and dt_i (0 beyond the chunk). */
struct decays {
  float *high, *low, *dt;
};

/* All threads of a block call it; warp 0 writes. */
INLINE_DEVICE struct chunk_times read_times(struct ssd_shape d, struct chunk k, const real *dt,
                                            float A, struct decays to)
{
  struct chunk_times c;
  int first = (int)threadIdx.x % WARP_LANES * 2;
  double l[2], all;
  for (int i = 0; i < 2; i++) {
    c.dt[i] = first + i < k.q ? dt[(k.token + first + i) * d.H + k.h] : 0;
    l[i] = (double)A * (double)c.dt[i];
  }
  double before = sum_before(l[0] + l[1], &all);
  l[0] += before;
  l[1] = before + l[1] + (l[0] - before);
  c.last = exp_falling((float)all);
  for (int i = 0; i < 2; i++) {
    float high = (float)l[i];
    c.leave[i] = exp_falling((float)(all - l[i]));
    if (threadIdx.x < WARP_LANES) {
      to.high[first + i] = high;
      to.low[first + i] = (float)(l[i] - (double)high);
      to.dt[first + i] = c.dt[i];
    }
  }
  return c;
}

INLINE_DEVICE float decay_between(struct decays s, int i, int j)
{
  return exp_falling((s.high[i] - s.high[j]) + (s.low[i] - s.low[j]));
}

/* e_i */
INLINE_DEVICE float decay_until(struct decays s, int i)
{
  return exp_falling(s.high[i] + s.low[i]);
}

/* D of a head's channel p; 0 from P on. */
struct skips {
  const real *channels; /* NULL: all have the same */
  float same;
  int P;
  INLINE_DEVICE float operator()(int p) const { return channels ? p < P ? channels[p] : 0 : same; }
};
INLINE_DEVICE struct skips skips_of(struct ssd_shape d, const real *D, int64_t h)
{
  struct skips s = {d.D_has_hdim ? D + h * d.P : NULL, d.D_has_hdim ? 0 : D[h], (int)d.P};
  return s;
}

/* ---- states between registers and memory: rows p of a warp, all columns ---- */

enum { STATE_TILES = TENSOR_STATE / 8 };

/* state = from (P,N), row p of its lane; NULL: zeros */
INLINE_DEVICE void load_state(struct ssd_shape d, const real *from, float (&state)[STATE_TILES][4])
{
  int p0 = (int)threadIdx.x / WARP_LANES * 16 + lane_row();
#pragma unroll
  for (int n = 0; n < STATE_TILES; n++)
    for (int e = 0; e < 4; e++) {
      int p = p0 + e / 2 * 8, column = 8 * n + 2 * lane_pair() + e % 2;
      state[n][e] = from && p < d.P && column < d.N ? from[p * d.N + column] : 0;
    }
}

INLINE_DEVICE void store_state(struct ssd_shape d, const float (&state)[STATE_TILES][4], float beta,
                               real *to)
{
  int p0 = (int)threadIdx.x / WARP_LANES * 16 + lane_row();
#pragma unroll
  for (int n = 0; n < STATE_TILES; n++)
    for (int e = 0; e < 4; e += 2) {
      int p = p0 + e * 4, column = 8 * n + 2 * lane_pair();
      if (p < d.P && column < d.N)
        put_pair(to + p * d.N + column, beta, state[n][e], state[n][e + 1]);
    }
}

/* ---- forward ---- */

struct tensor_forward {
  const real *x, *B, *C, *dt, *A_log, *D;
  const int32_t *row;
  const real *S0;
  real *S, *y, *S1;
};

enum { FORWARD_FLOATS = 3 * WIDE + NARROW + 4 * TENSOR_TOKENS };

/* y of a chunk, rows of a warp; C's rows of this warp make room for w. */
template <int PRODUCTS>
INLINE_DEVICE void chunk_outputs(struct ssd_shape d, struct tensor_forward f, struct chunk k,
                                 struct decays s, wide_tile C, wide_tile B, wide_tile S,
                                 narrow_tile x, bool enters)
{
  int i0 = (int)threadIdx.x / WARP_LANES * 16;
  wide_tile own = {C.at + i0 * TENSOR_STATE};
  struct skips skip = skips_of(d, f.D, k.h);
  float y[8][4];
  {
    float both[16][4]; /* scores, from */
    clear_sums(both);
    if (enters) {
      multiply<PRODUCTS, PLAIN>(
          both, 0, TENSOR_STATE, wide_rows{own}, [=](int n0, int n, int k0, int l) {
            return n0 < TENSOR_TOKENS ? B(n0, n, k0, l) : S(n0 - TENSOR_TOKENS, n, k0, l);
          });
    } else {
      float(&scores)[8][4] = *(float(*)[8][4])both;
      multiply<PRODUCTS, PLAIN>(scores, 0, TENSOR_STATE, wide_rows{own}, wide_rows{B});
    }
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      int r = lane_row() + e * 4, i = i0 + r;
      float until = decay_until(s, i);
#pragma unroll
      for (int n = 0; n < 8; n++)
        for (int o = 0; o < 2; o++) {
          int j = 8 * n + 2 * lane_pair() + o;
          float w = decay_between(s, i, j < i ? j : i) * both[n][e + o] * s.dt[j];
          own(r, j) = j <= i ? w : 0;
          y[n][e + o] = until * both[n + 8][e + o];
        }
    }
    __syncwarp();
  }
  multiply<PRODUCTS, PAIRED>(y, 0, i0 + 16, wide_rows{own}, narrow_columns{x});
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int i = i0 + lane_row() + e * 4;
    real *to = f.y + ((k.token + i) * d.H + k.h) * d.P;
#pragma unroll
    for (int n = 0; n < 8; n++) {
      int p = 8 * n + 2 * lane_pair();
      if (i < k.q && p < d.P)
        put_pair(to + p, 0, y[n][e] + skip(p) * x(i, p), y[n][e + 1] + skip(p + 1) * x(i, p + 1));
    }
  }
}

/* Index u of (b,h). */
template <int PRODUCTS>
static __global__ void __launch_bounds__(HEAD_THREADS, 2)
    tensor_forward_all(struct ssd_shape d, struct tensor_forward f)
{
  SHARED_FLOATS(memory);
  wide_tile C = {memory}, B = {memory + WIDE}, S = {memory + 2 * WIDE};
  narrow_tile x = {memory + 3 * WIDE};
  struct decays s = {x.at + NARROW, x.at + NARROW + TENSOR_TOKENS,
                     x.at + NARROW + 2 * TENSOR_TOKENS};
  float *weight = x.at + NARROW + 3 * TENSOR_TOKENS; /* r dt */
  int64_t chunks = ssd_chunks(d), PN = d.P * d.N;
  int p0 = (int)threadIdx.x / WARP_LANES * 16;
  FOR_EACH_BLOCK (u, d.B * d.H, 0) {
    int64_t b = u / d.H, h = u % d.H, carried = ((f.row ? f.row[b] : b) * d.H + h) * PN;
    float A = decay_rate(f.A_log, h), state[STATE_TILES][4];
    load_state(d, f.S0 ? f.S0 + carried : NULL, state);
    for (int64_t c = 0; c < chunks; c++) {
      struct chunk k = chunk_of(d, (b * chunks + c) * d.H + h, d.H);
      bool enters = c > 0 || f.S0, leaves = c < chunks - 1 || f.S1;
      copy_tile<TENSOR_TOKENS>(B, group_columns(d, k, f.B), d.ld, k.q, (int)d.N);
      copy_tile<TENSOR_TOKENS>(x, x_of(d, k, f.x), d.ld, k.q, (int)d.P);
      if (f.y)
        copy_tile<TENSOR_TOKENS>(C, group_columns(d, k, f.C), d.ld, k.q, (int)d.N);
      end_batch();
      if (f.S)
        store_state(d, state, 0, f.S + k.u * PN);
      if (enters && f.y)
#pragma unroll
        for (int n = 0; n < STATE_TILES; n++)
          for (int e = 0; e < 4; e++)
            S(p0 + lane_row() + e / 2 * 8, 8 * n + 2 * lane_pair() + e % 2) = state[n][e];
      struct chunk_times now = read_times(d, k, f.dt, A, s);
      for (int i = 0; i < 2 && threadIdx.x < WARP_LANES; i++)
        weight[2 * threadIdx.x + i] = now.leave[i] * now.dt[i];
      await_batches<0>();
      __syncthreads();
      if (f.y)
        chunk_outputs<PRODUCTS>(d, f, k, s, C, B, S, x, enters);
      if (leaves) {
#pragma unroll
        for (int n = 0; n < STATE_TILES; n++)
          for (int e = 0; e < 4; e++)
            state[n][e] *= now.last;
        narrow_tile own = {x.at};
        multiply<PRODUCTS, PAIRED>(
            state, 0, TENSOR_TOKENS,
            [=](int m0, int m, int k0, int l) { return own(k0, l, p0 + m0, m) * weight[k0 + l]; },
            wide_columns{B});
      }
      __syncthreads();
    }
    if (f.S1)
      store_state(d, state, 0, f.S1 + carried);
  }
}

/* ---- VJP: the cotangents of states ---- */

struct tensor_backward {
  const real *x, *B, *C, *dt, *A_log, *D, *S, *yb, *S1b;
  real *Rb; /* (b,chunk,h): of the state that leaves; of the last chunk only where S1b is given */
  real beta, *xb, *Bb, *Cb, *dtb, *S0b;
  real *A_part, *D_part; /* (b,chunk,h): of A_logb and Db */
};

enum { COTANGENT_FLOATS = WIDE + NARROW + 4 * TENSOR_TOKENS };

INLINE_DEVICE const real *cotangent_tokens(struct ssd_shape d, struct chunk k, const real *yb)
{
  return yb + (k.token * d.H + k.h) * d.P;
}

/* Index u of (b,h). */
template <int PRODUCTS>
static __global__ void __launch_bounds__(HEAD_THREADS, 3)
    chunk_state_cotangents(struct ssd_shape d, struct tensor_backward f)
{
  SHARED_FLOATS(memory);
  wide_tile C = {memory};
  narrow_tile yb = {memory + WIDE};
  struct decays s = {yb.at + NARROW, yb.at + NARROW + TENSOR_TOKENS,
                     yb.at + NARROW + 2 * TENSOR_TOKENS};
  float *until = yb.at + NARROW + 3 * TENSOR_TOKENS; /* e */
  int64_t chunks = ssd_chunks(d), PN = d.P * d.N;
  int p0 = (int)threadIdx.x / WARP_LANES * 16;
  FOR_EACH_BLOCK (u, d.B * d.H, 0) {
    int64_t b = u / d.H, h = u % d.H;
    float A = decay_rate(f.A_log, h), state[STATE_TILES][4];
    load_state(d, f.S1b ? f.S1b + u * PN : NULL, state);
    for (int64_t c = chunks - 1; c >= 0; c--) {
      struct chunk k = chunk_of(d, (b * chunks + c) * d.H + h, d.H);
      if (c < chunks - 1 || f.S1b)
        store_state(d, state, 0, f.Rb + k.u * PN);
      if (c == 0 && !f.S0b)
        continue;
      copy_tile<TENSOR_TOKENS>(C, group_columns(d, k, f.C), d.ld, k.q, (int)d.N);
      copy_tile<TENSOR_TOKENS>(yb, cotangent_tokens(d, k, f.yb), d.H * d.P, k.q, (int)d.P);
      end_batch();
      struct chunk_times now = read_times(d, k, f.dt, A, s);
      __syncwarp();
      for (int i = 0; i < 2 && threadIdx.x < WARP_LANES; i++)
        until[2 * threadIdx.x + i] = decay_until(s, 2 * (int)threadIdx.x + i);
      await_batches<0>();
      __syncthreads();
#pragma unroll
      for (int n = 0; n < STATE_TILES; n++)
        for (int e = 0; e < 4; e++)
          state[n][e] *= now.last;
      multiply<PRODUCTS, PAIRED>(
          state, 0, TENSOR_TOKENS,
          [=](int m0, int m, int k0, int l) { return yb(k0, l, p0 + m0, m) * until[k0 + l]; },
          wide_columns{C});
      __syncthreads();
    }
    if (f.S0b)
      store_state(d, state, 1, f.S0b + u * PN);
  }
}

/* ---- VJP: a chunk of a group ---- */

enum { GROUP_WARPS = 8, QUARTERS = 4 };   /* of the rows, two warps each */
enum { PAIR_TILES = 4, PANEL_TILES = 8 }; /* columns of a warp: 32 of 64, 64 of 128 */

/* Of the shared memory.  Of arrays with [...], the first part: by quarter of the rows, by half of
 * the columns, by warp. */
struct group_memory {
  wide_tile C, B, S, Rb;
  narrow_tile w, tokens; /* tokens: [2] x and yb of a head, and of the next */
  struct decays s;
  float *leave;           /* r */
  float *across, *direct; /* [QUARTERS] */
  float *first;           /* sums of K's first 32 columns */
  float *a, *b;           /* [2] */
  float *through, *skip;  /* [GROUP_WARPS] <Rb,S>; sum of z_ii */
};
enum {
  GROUP_FLOATS = 4 * WIDE + 5 * NARROW + (9 + 2 * QUARTERS) * TENSOR_TOKENS + 2 * GROUP_WARPS
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
  m.s.high = take_floats(&memory, TENSOR_TOKENS);
  m.s.low = take_floats(&memory, TENSOR_TOKENS);
  m.s.dt = take_floats(&memory, TENSOR_TOKENS);
  m.leave = take_floats(&memory, TENSOR_TOKENS);
  m.first = take_floats(&memory, TENSOR_TOKENS);
  m.across = take_floats(&memory, QUARTERS * TENSOR_TOKENS);
  m.direct = take_floats(&memory, QUARTERS * TENSOR_TOKENS);
  m.a = take_floats(&memory, 2 * TENSOR_TOKENS);
  m.b = take_floats(&memory, 2 * TENSOR_TOKENS);
  m.through = take_floats(&memory, GROUP_WARPS);
  m.skip = take_floats(&memory, GROUP_WARPS);
  return m;
}

INLINE_DEVICE narrow_tile x_tile(struct group_memory m, int64_t h)
{
  return {m.tokens.at + h % 2 * 2 * NARROW};
}
INLINE_DEVICE narrow_tile yb_tile(struct group_memory m, int64_t h)
{
  return {m.tokens.at + (h % 2 * 2 + 1) * NARROW};
}

/* A warp's place: rows i0.., half of the columns. */
struct place {
  int i0, half, warp;
};
INLINE_DEVICE struct place place_of_warp(void)
{
  int warp = (int)threadIdx.x / WARP_LANES;
  struct place at = {warp / 2 * 16, warp % 2, warp};
  return at;
}

/* v[j], summed over the lanes of the same pair (8 rows): lane (g,t) gets sums 2 g and 2 g + 1. */
INLINE_DEVICE void sum_over_rows(float (&v)[16], float (&sums)[2])
{
  int g = lane_row();
  float half[8], quarter[4];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float mine = g & 4 ? v[8 + i] : v[i], other = g & 4 ? v[i] : v[8 + i];
    half[i] = mine + from_lane(other, 16);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float mine = g & 2 ? half[4 + i] : half[i], other = g & 2 ? half[i] : half[4 + i];
    quarter[i] = mine + from_lane(other, 8);
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float mine = g & 1 ? quarter[2 + i] : quarter[i], other = g & 1 ? quarter[i] : quarter[2 + i];
    sums[i] = mine + from_lane(other, 4);
  }
}

/* The sum over the 4 lanes of a row. */
INLINE_DEVICE float sum_of_row(float x)
{
  x += from_lane(x, 1);
  return x + from_lane(x, 2);
}

/* A warp's part of what follows from z: w, pairs, and parts of across, direct, first, skip. */
INLINE_DEVICE void weigh_tiles(struct group_memory m, struct place at,
                               const float (&scores)[PAIR_TILES][4],
                               const float (&z)[PAIR_TILES][4], float (&pairs)[PAIR_TILES][4])
{
  int t = lane_pair();
  float columns[16], sums[2], skip = 0; /* across, then direct, of this lane's columns */
#pragma unroll
  for (int i = 0; i < 16; i++)
    columns[i] = 0;
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int i = at.i0 + lane_row() + e * 4;
    float before = 0; /* of row i of K, up to the tile */
#pragma unroll
    for (int n = 0; n < PAIR_TILES; n++) {
      float K[2];
      int j0 = 32 * at.half + 8 * n + 2 * t;
#pragma unroll
      for (int o = 0; o < 2; o++) {
        int j = j0 + o;
        bool below = j <= i;
        float decay = below ? decay_between(m.s, i, below ? j : i) : 0, dt = m.s.dt[j];
        float scored = scores[n][e + o] * decay, w = scored * dt;
        m.w(i, j) = w;
        pairs[n][e + o] += decay * z[n][e + o] * dt;
        columns[8 + 2 * n + o] += scored * z[n][e + o];
        K[o] = w * z[n][e + o];
        skip += j == i ? z[n][e + o] : 0;
      }
      float both = K[0] + K[1], other = from_lane(both, 1), ahead = t & 1 ? other : 0;
      both += other;
      other = from_lane(both, 2);
      ahead += (t & 2 ? other : 0) + before;
      columns[2 * n] += j0 <= i ? ahead : 0;
      columns[2 * n + 1] += j0 + 1 <= i ? ahead + K[0] : 0;
      before += both + other;
    }
    if (at.half == 0 && t == 0)
      m.first[i] = before;
  }
  sum_over_rows(columns, sums);
  skip = sum_of_lanes(skip);
  if (threadIdx.x % WARP_LANES == 0)
    m.skip[at.warp] = skip;
  int g = lane_row(), column = 32 * at.half + 8 * (g & 3) + 2 * t;
  for (int o = 0; o < 2; o++)
    (g & 4 ? m.direct : m.across)[at.i0 / 16 * TENSOR_TOKENS + column + o] = sums[o];
}

/* Cb += (e yb) S; a */
template <int PRODUCTS>
INLINE_DEVICE void entering_state(struct group_memory m, struct place at, narrow_tile yb,
                                  float (&Cb)[PANEL_TILES][4])
{
  float sums[PANEL_TILES][4], e0 = decay_until(m.s, at.i0 + lane_row());
  float e8 = decay_until(m.s, at.i0 + lane_row() + 8);
  narrow_tile own = {yb.at + at.i0 * TENSOR_CHANNELS};
  wide_tile S = m.S;
  int n0 = 64 * at.half;
  clear_sums(sums);
  multiply<PRODUCTS, PAIRED>(
      sums, 0, TENSOR_CHANNELS,
      [=](int m0, int r, int k0, int l) { return own(m0, r, k0, l) * (m0 ? e8 : e0); },
      [=](int c0, int c, int k0, int l) { return S(k0, l, n0 + c0, c); });
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int i = at.i0 + lane_row() + e * 4;
    float dot = 0;
#pragma unroll
    for (int n = 0; n < PANEL_TILES; n++)
      for (int o = 0; o < 2; o++) {
        dot += m.C(i, n0 + 8 * n + 2 * lane_pair() + o) * sums[n][e + o];
        Cb[n][e + o] += sums[n][e + o];
      }
    dot = sum_of_row(dot);
    if (lane_pair() == 0)
      m.a[at.half * TENSOR_TOKENS + i] = dot;
  }
}

/* This thread's part of <Rb,S>, added up over the warp. */
INLINE_DEVICE void state_products(struct group_memory m, struct place at)
{
  float sum = 0;
  const float4 *S = (const float4 *)m.S.at, *Rb = (const float4 *)m.Rb.at;
#pragma unroll
  for (int i = 0; i < WIDE / 4; i += GROUP_THREADS) {
    float4 s = S[i + threadIdx.x], r = Rb[i + threadIdx.x];
    sum += s.x * r.x + s.y * r.y + s.z * r.z + s.w * r.w;
  }
  sum = sum_of_lanes(sum);
  if (threadIdx.x % WARP_LANES == 0)
    m.through[at.warp] = sum;
}

/* xb and Bb of a head; b.  `leaves`: there is an Rb. */
template <int PRODUCTS>
INLINE_DEVICE void leaving_tokens(struct ssd_shape d, struct tensor_backward f, struct chunk k,
                                  struct group_memory m, struct place at, narrow_tile x,
                                  narrow_tile yb, bool leaves, float (&Bb)[PANEL_TILES][4])
{
  float sums[PAIR_TILES][4], factor[2];
  wide_tile Rb = m.Rb;
  narrow_tile w = m.w, own = {x.at + at.i0 * TENSOR_CHANNELS};
  int p0 = 32 * at.half, n0 = 64 * at.half, i0 = at.i0;
  struct skips skip = skips_of(d, f.D, k.h);
  clear_sums(sums);
  if (leaves)
    multiply<PRODUCTS, PLAIN>(sums, 0, TENSOR_STATE, wide_rows{{m.B.at + i0 * TENSOR_STATE}},
                              [=](int c0, int c, int k0, int l) { return Rb(p0 + c0, c, k0, l); });
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int j = i0 + lane_row() + e * 4;
    float dot = 0, leave = m.leave[j];
    factor[e / 2] = leave * m.s.dt[j];
#pragma unroll
    for (int n = 0; n < PAIR_TILES; n++)
      for (int o = 0; o < 2; o++) {
        dot += x(j, p0 + 8 * n + 2 * lane_pair() + o) * sums[n][e + o];
        sums[n][e + o] *= factor[e / 2];
      }
    dot = leave * sum_of_row(dot);
    if (lane_pair() == 0)
      m.b[at.half * TENSOR_TOKENS + j] = dot;
  }
  if (f.xb) {
    multiply<PRODUCTS, PAIRED>(
        sums, i0, TENSOR_TOKENS, [=](int m0, int r, int k0, int l) { return w(k0, l, i0 + m0, r); },
        [=](int c0, int c, int k0, int l) { return yb(k0, l, p0 + c0, c); });
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      int j = i0 + lane_row() + e * 4;
      real *to = f.xb + (k.token + j) * d.ld + k.h * d.P;
#pragma unroll
      for (int n = 0; n < PAIR_TILES; n++) {
        int p = p0 + 8 * n + 2 * lane_pair();
        if (j < k.q && p < d.P)
          put_pair(to + p, f.beta, sums[n][e] + skip(p) * yb(j, p),
                   sums[n][e + 1] + skip(p + 1) * yb(j, p + 1));
      }
    }
  }
  if (leaves && f.Bb) {
    float f0 = factor[0], f8 = factor[1];
    multiply<PRODUCTS, PAIRED>(
        Bb, 0, TENSOR_CHANNELS,
        [=](int m0, int r, int k0, int l) { return own(m0, r, k0, l) * (m0 ? f8 : f0); },
        [=](int c0, int c, int k0, int l) { return Rb(k0, l, n0 + c0, c); });
  }
}

/* dtb of a head's chunk, and its parts of A_logb and Db: every warp adds up, warp 0 writes. */
INLINE_DEVICE void time_cotangents(struct ssd_shape d, struct tensor_backward f, struct chunk k,
                                   struct group_memory m, struct chunk_times now, float A,
                                   bool enters, bool leaves)
{
  int first = (int)threadIdx.x % WARP_LANES * 2;
  float a[2], b[2], above[2], through = 0, skip = 0, all_a, all_b, all_above, total = 0;
  for (int i = 0; i < GROUP_WARPS; i++) {
    through += enters && leaves ? m.through[i] : 0;
    skip += m.skip[i];
  }
  for (int i = 0; i < 2; i++) {
    a[i] = enters ? m.a[first + i] + m.a[TENSOR_TOKENS + first + i] : 0;
    b[i] = leaves ? m.b[first + i] + m.b[TENSOR_TOKENS + first + i] : 0;
    above[i] = first >= 32 ? m.first[first + i] : 0;
  }
  /* sums from the last token on: lanes in reverse, which lane l ^ 31 is */
  float a_before = sum_before(from_lane(a[0] + a[1], 31), &all_a);
  float above_before = sum_before(from_lane(above[0] + above[1], 31), &all_above);
  float a_after = from_lane(a_before, 31), above_after = from_lane(above_before, 31);
  float b_before = sum_before(now.dt[0] * b[0] + now.dt[1] * b[1], &all_b);
  through *= now.last;
  for (int i = 0; i < 2; i++) {
    int t = first + i;
    float lb = a_after + a[1] + (i == 0 ? a[0] : 0), direct = 0;
    lb += first >= 32 ? above_after + above[1] + (i == 0 ? above[0] : 0) : 0;
    for (int q = 0; q < QUARTERS; q++) {
      lb += m.across[q * TENSOR_TOKENS + t];
      direct += m.direct[q * TENSOR_TOKENS + t];
    }
    lb += b_before + (i == 1 ? now.dt[0] * b[0] : 0) + through;
    total += A * now.dt[i] * lb;
    if (f.dtb && threadIdx.x < WARP_LANES && t < k.q) {
      real *to = f.dtb + (k.token + t) * d.H + k.h;
      *to = (f.beta != 0 ? f.beta * *to : 0) + A * lb + direct + b[i];
    }
  }
  total = sum_of_lanes(total);
  if (threadIdx.x == 0)
    f.A_part[k.u] = total, f.D_part[k.u] = skip;
}

/* Cb += pairs B, Bb += pairs' C, and out with them. */
template <int PRODUCTS>
INLINE_DEVICE void finish_panels(struct ssd_shape d, struct tensor_backward f, struct chunk group,
                                 struct group_memory m, struct place at,
                                 const float (&pairs)[PAIR_TILES][4], float (&Bb)[PANEL_TILES][4],
                                 float (&Cb)[PANEL_TILES][4])
{
  int n0 = 64 * at.half, i0 = at.i0;
  wide_tile B = m.B, C = m.C;
  narrow_tile w = m.w, own = {w.at + i0 * TENSOR_CHANNELS};
#pragma unroll
  for (int n = 0; n < PAIR_TILES; n++)
    for (int e = 0; e < 4; e++)
      w(i0 + lane_row() + e / 2 * 8, 32 * at.half + 8 * n + 2 * lane_pair() + e % 2) = pairs[n][e];
  __syncthreads();
  multiply<PRODUCTS, PAIRED>(Cb, 0, i0 + 16, narrow_rows{own},
                             [=](int c0, int c, int k0, int l) { return B(k0, l, n0 + c0, c); });
  multiply<PRODUCTS, PAIRED>(
      Bb, i0, TENSOR_TOKENS, [=](int m0, int r, int k0, int l) { return w(k0, l, i0 + m0, r); },
      [=](int c0, int c, int k0, int l) { return C(k0, l, n0 + c0, c); });
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int i = i0 + lane_row() + e * 4;
    int64_t row = (group.token + i) * d.ld + group.h * d.N;
#pragma unroll
    for (int n = 0; n < PANEL_TILES; n++) {
      int column = n0 + 8 * n + 2 * lane_pair();
      if (i >= group.q || column >= d.N)
        continue;
      if (f.Cb)
        put_pair(f.Cb + row + column, f.beta, Cb[n][e], Cb[n][e + 1]);
      if (f.Bb)
        put_pair(f.Bb + row + column, f.beta, Bb[n][e], Bb[n][e + 1]);
    }
  }
}

/* Index v of (b,chunk,g). */
template <int PRODUCTS>
static __global__ void __launch_bounds__(GROUP_THREADS, 1)
    tensor_backward_all(struct ssd_shape d, struct tensor_backward f)
{
  SHARED_FLOATS(memory);
  struct group_memory m = divide_memory(memory);
  struct place at = place_of_warp();
  int64_t heads = d.H / d.G, PN = d.P * d.N;
  FOR_EACH_BLOCK (v, d.B * ssd_chunks(d) * d.G, 0) {
    struct chunk group = chunk_of(d, v, d.G), k = group;
    bool enters = f.S != NULL, leaves = group.c < ssd_chunks(d) - 1 || f.S1b;
    float scores[PAIR_TILES][4], pairs[PAIR_TILES][4], Bb[PANEL_TILES][4], Cb[PANEL_TILES][4];
    /* of head h, copies of x and yb, of S, of Rb are a batch each */
    auto head = [&](int64_t h) {
      k.h = group.h * heads + h;
      k.u = v / d.G * d.H + k.h;
    };
    auto copy_tokens = [&](int64_t h) {
      head(h);
      if (h < heads) {
        copy_tile<TENSOR_TOKENS>(x_tile(m, h), x_of(d, k, f.x), d.ld, k.q, (int)d.P);
        copy_tile<TENSOR_TOKENS>(yb_tile(m, h), cotangent_tokens(d, k, f.yb), d.H * d.P, k.q,
                                 (int)d.P);
      }
      end_batch();
    };
    auto copy_state = [&](int64_t h, wide_tile to, const real *from) {
      head(h);
      if (h < heads && from)
        copy_tile<TENSOR_CHANNELS>(to, from + k.u * PN, d.N, (int)d.P, (int)d.N);
      end_batch();
    };
    int64_t panel = group.token * d.ld + group.h * d.N;
    copy_tile<TENSOR_TOKENS>(m.C, f.C + panel, d.ld, group.q, (int)d.N);
    copy_tile<TENSOR_TOKENS>(m.B, f.B + panel, d.ld, group.q, (int)d.N);
    end_batch();
    copy_tokens(0);
    copy_state(0, m.S, f.S);
    copy_state(0, m.Rb, leaves ? f.Rb : NULL);
    await_batches<3>();
    __syncthreads();
    clear_sums(scores);
    clear_sums(pairs);
    clear_sums(Bb);
    clear_sums(Cb);
    {
      wide_tile B = m.B;
      int j0 = 32 * at.half;
      multiply<PRODUCTS, PLAIN>(scores, 0, TENSOR_STATE, wide_rows{{m.C.at + at.i0 * TENSOR_STATE}},
                                [=](int c0, int c, int k0, int l) { return B(j0 + c0, c, k0, l); });
    }
    for (int64_t h = 0; h < heads; h++) {
      narrow_tile x = x_tile(m, h), yb = yb_tile(m, h);
      float z[PAIR_TILES][4];
      copy_tokens(h + 1);
      head(h);
      float A = decay_rate(f.A_log, k.h);
      struct chunk_times now = read_times(d, k, f.dt, A, m.s);
      for (int i = 0; i < 2 && threadIdx.x < WARP_LANES; i++)
        m.leave[2 * threadIdx.x + i] = now.leave[i];
      await_batches<2>(); /* left: Rb, the next x and yb */
      __syncthreads();
      clear_sums(z);
      {
        int j0 = 32 * at.half;
        multiply<PRODUCTS, PLAIN>(
            z, 0, TENSOR_CHANNELS, narrow_rows{{yb.at + at.i0 * TENSOR_CHANNELS}},
            [=](int c0, int c, int k0, int l) { return x(j0 + c0, c, k0, l); });
      }
      weigh_tiles(m, at, scores, z, pairs);
      if (enters)
        entering_state<PRODUCTS>(m, at, yb, Cb);
      await_batches<1>(); /* left: the next x and yb */
      __syncthreads();
      if (enters && leaves)
        state_products(m, at);
      __syncthreads();
      copy_state(h + 1, m.S, f.S);
      head(h);
      leaving_tokens<PRODUCTS>(d, f, k, m, at, x, yb, leaves, Bb);
      __syncthreads();
      copy_state(h + 1, m.Rb, leaves ? f.Rb : NULL);
      head(h);
      time_cotangents(d, f, k, m, now, A, enters, leaves);
    }
    __syncthreads();
    finish_panels<PRODUCTS>(d, f, group, m, at, pairs, Bb, Cb);
    await_batches<0>();
    __syncthreads();
  }
}

/* out[h] += sum over rows i of in (rows,H) */
BLOCK_KERNEL add_rows(int64_t rows, int64_t H, const real *in, real *out)
{
  FOR_EACH_BLOCK (strip, strips(H), rows * STRIP) {
    ADD_COLUMN_SUMS(strip, rows, H, out, i, h, in[i * H + h]);
  }
}

/* ---- on the host ---- */

static size_t floats(int n) { return (size_t)n * sizeof(float); }

static bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

/* Whether rows of x, B and C start at multiples of 16 bytes, and of states and tokens of a head. */
static bool aligned_rows(struct ssd_shape d, const real *x, const real *B, const real *C)
{
  return d.P % 4 == 0 && d.N % 4 == 0 && d.ld % 4 == 0 && aligned(x) && aligned(B) && aligned(C);
}

/* Whether these kernels take the shape, on this device. */
static bool on_tensor_cores(stream st, struct ssd_shape d, int needed)
{
  return d.P <= TENSOR_CHANNELS && d.N <= TENSOR_STATE && ssd_chunk_length(d) <= TENSOR_TOKENS &&
         floats(needed) <= device_of(st)->shared_bytes;
}

static bool takes_forward(stream st, struct ssd_shape d, struct tensor_forward f)
{
  return on_tensor_cores(st, d, FORWARD_FLOATS) && aligned_rows(d, f.x, f.B, f.C) &&
         aligned(f.S0) && aligned(f.S) && aligned(f.y) && aligned(f.S1);
}

static bool takes_backward(stream st, struct ssd_shape d, struct tensor_backward f)
{
  return on_tensor_cores(st, d, GROUP_FLOATS) && aligned_rows(d, f.x, f.B, f.C) &&
         aligned_rows(d, f.xb, f.Bb, f.Cb) && aligned(f.S) && aligned(f.yb) && aligned(f.S1b) &&
         aligned(f.Rb) && aligned(f.S0b);
}

/* One product where `matmul` allows tf32, three where float32 is wanted. */
#define LAUNCH_TENSOR(st, n, threads, needed, kernel, ...)                   \
  do {                                                                       \
    if (device_of(st)->matmul == PLUGIN_IEEE)                                \
      LAUNCH_SHARED(st, n, threads, floats(needed), kernel<3>, __VA_ARGS__); \
    else                                                                     \
      LAUNCH_SHARED(st, n, threads, floats(needed), kernel<1>, __VA_ARGS__); \
  } while (0)

static void tensor_fwd(stream st, struct ssd_shape d, struct tensor_forward f)
{
  LAUNCH_TENSOR(st, d.B * d.H, HEAD_THREADS, FORWARD_FLOATS, tensor_forward_all, d, f);
}

static void tensor_vjp(stream st, struct ssd_shape d, struct tensor_backward f, real *A_logb,
                       real *Db)
{
  int64_t BC = d.B * ssd_chunks(d);
  if (ssd_chunks(d) > 1 || f.S1b || f.S0b)
    LAUNCH_TENSOR(st, d.B * d.H, HEAD_THREADS, COTANGENT_FLOATS, chunk_state_cotangents, d, f);
  LAUNCH_TENSOR(st, BC * d.G, GROUP_THREADS, GROUP_FLOATS, tensor_backward_all, d, f);
  if (A_logb)
    LAUNCH_SUMS(st, strips(d.H), BC, add_rows, BC, d.H, f.A_part, A_logb);
  if (Db && d.D_has_hdim)
    LAUNCH(st, d.H * lane_blocks(d.P), add_skip_channels, d, f.x, f.yb, Db);
  else if (Db)
    LAUNCH_SUMS(st, strips(d.H), BC, add_rows, BC, d.H, f.D_part, Db);
}
#endif
