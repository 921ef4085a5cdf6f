/* ssd_tensor_cuda.h: ssd_chunked in float32 by tensor cores, each chunk of at most 64 tokens in
 * shared memory and the states in registers; part of ssd_chunked.c, whose head has the equations.
 *
 * Forward: a block of eight warps goes through the chunks of two heads of one sequence; the copies
 * of the next chunk are on their way meanwhile.  All share a chunk's scores_ij = C_i . B_j, and
 * each has 16 channels p of a head, whose state S never leaves its registers: y' = (S C') e + x' w'
 * + D x'       w_ij = m_ij scores_ij dt_j S <- e_{q-1} S + (r dt x)' B       is what enters the
 * next x, B, C are read once, y is written once, and S where it is kept.
 *
 * VJP: chunk_state_cotangents goes through the chunks backwards, keeping every chunk's Rb:
 *   Rb <- e_{q-1} Rb + (e yb)' C
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
 *   dtb_k    = A lb_k + direct_k + b_k
 *
 * m_ij = 2^(L_i - L_j), where L is the running sum of A dt log2(e) in two floats: their difference
 * is as good as a float gets.  Tokens beyond the chunk's, channels beyond P and N are zeros. */
#ifndef KERNELS_SSD_TENSOR_CUDA_H
#define KERNELS_SSD_TENSOR_CUDA_H
#include "kernels/device_cuda.h"
#include "kernels/rows.h"
#include "kernels/tensor_cores_cuda.h"

enum { TENSOR_TOKENS = 64, TENSOR_CHANNELS = 64, TENSOR_STATE = 128 }; /* at most */
enum { HEAD_THREADS = 128, GROUP_THREADS = 256 };
enum { WIDE = TENSOR_TOKENS * TENSOR_STATE, NARROW = TENSOR_TOKENS * TENSOR_CHANNELS };

typedef tile<TENSOR_STATE> wide_tile;      /* B, C (tokens,N), S, Rb (P,N) */
typedef tile<TENSOR_CHANNELS> narrow_tile; /* x, yb (tokens,P), pairs of tokens */

INLINE_DEVICE int own_warp(void) { return (int)threadIdx.x / WARP_LANES; }
INLINE_DEVICE bool first_warp(void) { return threadIdx.x < WARP_LANES; }

/* ---- decays of a chunk ---- */

/* Of a token, for all: L = high + low; dt (0 beyond the chunk), and r_j. */
struct moment {
  float high, low, dt, leave;
};

/* What every warp knows of a chunk: lane l of tokens 2 l and 2 l + 1. */
struct chunk_times {
  float dt[2], last; /* e_{q-1} */
};

/* All threads of a block call it; warp 0 writes. */
INLINE_DEVICE struct chunk_times read_times(struct ssd_shape d, struct chunk k, const real *dt,
                                            float A, struct moment *to)
{
  struct chunk_times c;
  int first = (int)threadIdx.x % WARP_LANES * 2;
  double l[2], all;
  for (int i = 0; i < 2; i++) {
    c.dt[i] = first + i < k.q ? dt[(k.token + first + i) * d.H + k.h] : 0;
    l[i] = (double)A * (double)c.dt[i] * 1.4426950408889634;
  }
  double before = sum_before(l[0] + l[1], &all), last = l[1];
  l[0] += before;
  l[1] = l[0] + last;
  c.last = power_of_2((float)all);
  for (int i = 0; i < 2; i++) {
    struct moment m;
    m.high = (float)l[i];
    m.low = (float)(l[i] - (double)m.high);
    m.dt = c.dt[i];
    m.leave = power_of_2((float)(all - l[i]));
    if (first_warp())
      to[first + i] = m;
  }
  return c;
}

INLINE_DEVICE float decay_between(struct moment i, struct moment j)
{
  return power_of_2((i.high - j.high) + (i.low - j.low));
}

/* e_i */
INLINE_DEVICE float decay_until(struct moment i) { return power_of_2(i.high + i.low); }

/* e, or r dt, of tokens k and k + 1 */
struct entering {
  const float *until;
  INLINE_DEVICE float2 operator()(int k) const { return *(const float2 *)(until + k); }
};

/* Four channels of D from p on, of a head; 0 from P on. */
struct skips {
  const real *channels; /* NULL: all have the same */
  float same;
  int P;
  INLINE_DEVICE float4 operator()(int p) const
  {
    float4 four;
    four.x = four.y = four.z = four.w = same;
    if (channels)
      four.x = of(p), four.y = of(p + 1), four.z = of(p + 2), four.w = of(p + 3);
    return four;
  }
  INLINE_DEVICE float of(int p) const { return p < P ? channels[p] : 0; }
};
INLINE_DEVICE struct skips skips_of(struct ssd_shape d, const real *D, int64_t h)
{
  struct skips s = {d.D_has_hdim ? D + h * d.P : NULL, d.D_has_hdim ? 0 : D[h], (int)d.P};
  return s;
}
INLINE_DEVICE float4 add_skip(float4 sum, float4 D, float4 x)
{
  sum.x += D.x * x.x, sum.y += D.y * x.y, sum.z += D.z * x.z, sum.w += D.w * x.w;
  return sum;
}

/* ---- states: GROUPED sums, 16 rows p of a warp as left_pairs has them, all columns ---- */

enum { STATE_TILES = TENSOR_STATE / 8, HEAD_WARPS = TENSOR_CHANNELS / 16 };

INLINE_DEVICE int own_channel(void) { return own_warp() % HEAD_WARPS * 16 + 2 * lane_row(); }

/* f(J, half, o, at): a four of a state (P,N) at `states`; those that are there. */
template <class T, class F>
INLINE_DEVICE void for_fours_of_state(struct ssd_shape d, T *states, F f)
{
  T *row[2] = {states + own_channel() * d.N, states + (own_channel() + 1) * d.N};
  bool whole = d.P == TENSOR_CHANNELS && d.N == TENSOR_STATE; /* fewer instructions */
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int o = 0; o < 2; o++) {
      T *at = row[half] + 4 * own_four(o);
      int left = own_channel() < d.P ? (int)d.N - 4 * own_four(o) : 0;
      if (whole) {
#pragma unroll
        for (int J = 0; J < STATE_TILES / 4; J++)
          f(J, half, o, at + 32 * J);
      } else {
#pragma unroll
        for (int J = 0; J < STATE_TILES / 4; J++)
          if (32 * J < left)
            f(J, half, o, at + 32 * J);
      }
    }
}

/* state = from (P,N); NULL: zeros */
INLINE_DEVICE void load_state(struct ssd_shape d, const real *from, float (&state)[STATE_TILES][4])
{
  clear_sums(state);
  if (from)
    for_fours_of_state(d, from, [&](int J, int half, int o, const real *at) {
      set_four(state, J, half, o, *(const float4 *)at);
    });
}

INLINE_DEVICE void store_state(struct ssd_shape d, const float (&state)[STATE_TILES][4], float beta,
                               real *to)
{
  for_fours_of_state(d, to, [&](int J, int half, int o, real *at) {
    put_four(at, beta, four_of(state, J, half, o));
  });
}

/* ---- forward ---- */

INLINE int64_t forward_blocks(struct ssd_shape d) /* of a group of a sequence */
{
  return (d.H / d.G + 1) / 2;
}

struct tensor_forward {
  const real *x, *B, *C, *dt, *A_log, *D;
  const int32_t *row;
  const real *S0;
  real *S, *y, *S1;
  int buffers; /* of a chunk's tiles: 1, or 2 where there is room */
};

enum {
  FORWARD_HEADS = 2, /* of a block */
  FORWARD_THREADS = FORWARD_HEADS * HEAD_WARPS * WARP_LANES,
  CHUNK_FLOATS = 2 * WIDE + FORWARD_HEADS * NARROW,
  TIME_FLOATS = 5 * TENSOR_TOKENS,
  FORWARD_FLOATS = CHUNK_FLOATS + FORWARD_HEADS * (NARROW + TIME_FLOATS) /* one buffer */
};

/* Of the shared memory: a chunk's tiles; of each head x, w and, by token, L = high + low, dt, e and
 * r dt. */
struct forward_memory {
  float *tiles, *heads;
  INLINE_DEVICE wide_tile C(void) const { return {tiles}; }
  INLINE_DEVICE wide_tile B(void) const { return {tiles + WIDE}; }
  INLINE_DEVICE narrow_tile x(int head) const { return {tiles + 2 * WIDE + head * NARROW}; }
  INLINE_DEVICE narrow_tile w(int head) const { return {heads + head * NARROW}; }
  INLINE_DEVICE float *times(int head) const
  {
    return heads + FORWARD_HEADS * NARROW + head * TIME_FLOATS;
  }
  INLINE_DEVICE float *high(int head) const { return times(head); }
  INLINE_DEVICE float *low(int head) const { return times(head) + TENSOR_TOKENS; }
  INLINE_DEVICE float *dt(int head) const { return times(head) + 2 * TENSOR_TOKENS; }
  INLINE_DEVICE float *until(int head) const { return times(head) + 3 * TENSOR_TOKENS; }
  INLINE_DEVICE float *gain(int head) const { return times(head) + 4 * TENSOR_TOKENS; }
};

INLINE_DEVICE float2 &pair_at(float *from, int i) { return *(float2 *)(from + i); } /* i even */

/* dt of tokens 2 l and 2 l + 1, l this lane, of q; 0 beyond. */
INLINE_DEVICE float2 own_times(const real *dt, int64_t H, int q)
{
  int first = (int)threadIdx.x % WARP_LANES * 2;
  float2 two;
  two.x = first < q ? dt[first * H] : 0, two.y = first + 1 < q ? dt[(first + 1) * H] : 0;
  return two;
}

/* A warp fills in a head's times. */
INLINE_DEVICE void put_times(struct forward_memory m, int head, float2 dt, float A)
{
  int first = (int)threadIdx.x % WARP_LANES * 2;
  double rate = (double)A * 1.4426950408889634, all;
  double x = rate * (double)dt.x, y = rate * (double)dt.y, before = sum_before(x + y, &all);
  x += before, y += x;
  float2 high, low, until, gain;
  high.x = (float)x, high.y = (float)y;
  low.x = (float)(x - (double)high.x), low.y = (float)(y - (double)high.y);
  until.x = power_of_2(high.x + low.x), until.y = power_of_2(high.y + low.y);
  gain.x = power_of_2((float)(all - x)) * dt.x, gain.y = power_of_2((float)(all - y)) * dt.y;
  pair_at(m.high(head), first) = high, pair_at(m.low(head), first) = low;
  pair_at(m.dt(head), first) = dt;
  pair_at(m.until(head), first) = until, pair_at(m.gain(head), first) = gain;
}

/* w of every head in TILES tiles of 16 rows from i0 and 8 columns from j0 on, of this warp. */
template <int PRODUCTS, int TILES>
INLINE_DEVICE void weigh_scores(struct forward_memory m, int i0, int j0)
{
  float scores[TILES][4];
  struct plain_rows<TENSOR_STATE> right = {
    m.B(), j0
  };
  clear_sums(scores);
  multiply_rows<PRODUCTS, TENSOR_STATE>(scores, m.C(), i0, right);
#pragma unroll
  for (int head = 0; head < FORWARD_HEADS; head++) {
    int g = lane_row();
    const float *high = m.high(head) + i0 + g, *low = m.low(head) + i0 + g;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      int j = j0 + 8 * n + 2 * lane_pair();
      float2 dt = pair_at(m.dt(head), j), above = pair_at(m.high(head), j);
      float2 below = pair_at(m.low(head), j);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int i = i0 + g + 8 * half;
        float h = high[8 * half], l = low[8 * half];
        float2 w;
        w.x = scores[n][2 * half] * power_of_2((h - above.x) + (l - below.x)) * dt.x;
        w.y = scores[n][2 * half + 1] * power_of_2((h - above.y) + (l - below.y)) * dt.y;
        w.x = j <= i ? w.x : 0;
        w.y = j + 1 <= i ? w.y : 0;
        m.w(head).two(i0 + 8 * half, g, j0 + 8 * n, 2 * lane_pair()) = w;
      }
    }
  }
}

/* Tiles up to the diagonal, 2 of the first 16 rows to 8 of the last, shared by eight warps; by
 * digit of these numbers the warp's rows, its first column, and how many there are.  The warps that
 * prepare times, 0 and 4, have two. */
template <int PRODUCTS> INLINE_DEVICE void weigh_all_scores(struct forward_memory m)
{
  int digit = 4 * own_warp(), i0 = (int)(0x33113220u >> digit & 15) * 16;
  int j0 = (int)(0x63200300u >> digit & 15) * 8;
  if ((0x23223332u >> digit & 15) == 3)
    weigh_scores<PRODUCTS, 3>(m, i0, j0);
  else
    weigh_scores<PRODUCTS, 2>(m, i0, j0);
}

/* y' of a chunk: rows are channels, as of a state, and columns tokens. */
enum { TOKEN_TILES = TENSOR_TOKENS / 8 };

/* y' = (S C') e */
template <int PRODUCTS>
INLINE_DEVICE void from_state(float (&y)[TOKEN_TILES][4], const float (&state)[STATE_TILES][4],
                              wide_tile C, float *until)
{
#pragma unroll
  for (int J = 0; J < STATE_TILES / 4; J++)
#pragma unroll
    for (int o = 0; o < 2; o++) {
      left<PRODUCTS> one, other;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int e = 2 * half + o;
        one.set(half, state[4 * J][e]), one.set(2 + half, state[4 * J + 1][e]);
        other.set(half, state[4 * J + 2][e]), other.set(2 + half, state[4 * J + 3][e]);
      }
#pragma unroll
      for (int n = 0; n < TOKEN_TILES; n++) {
        float4 right = C.four(8 * n, lane_row(), 8 * J, own_four(o));
        multiply_add(y[n], one, loaded_pair<PRODUCTS>(right.x, right.y));
        multiply_add(y[n], other, loaded_pair<PRODUCTS>(right.z, right.w));
      }
    }
#pragma unroll
  for (int n = 0; n < TOKEN_TILES; n++) {
    float2 e = pair_at(until, 8 * n + 2 * lane_pair());
    y[n][0] *= e.x, y[n][1] *= e.y, y[n][2] *= e.x, y[n][3] *= e.y;
  }
}

/* y' += x' w' */
template <int PRODUCTS>
INLINE_DEVICE void from_tokens(float (&y)[TOKEN_TILES][4], narrow_tile x, narrow_tile w)
{
  struct left_pairs<TENSOR_CHANNELS, no_factors> channels = {
    x, own_channel() & ~15, {}
  };
#pragma unroll
  for (int k0 = 0; k0 < TENSOR_TOKENS; k0 += 8) {
    left<PRODUCTS> terms;
    channels.get(k0, terms);
#pragma unroll
    for (int n = k0 / 8; n < TOKEN_TILES; n++) {
      float2 right = w.two(8 * n, lane_row(), k0, 2 * lane_pair());
      multiply_add(y[n], terms, loaded_pair<PRODUCTS>(right.x, right.y));
    }
  }
}

/* S <- e_{q-1} S + (r dt x)' B */
template <int PRODUCTS>
INLINE_DEVICE void next_state(float (&state)[STATE_TILES][4], struct forward_memory m, int head)
{
  struct left_pairs<TENSOR_CHANNELS, entering> gained = {
    m.x(head), own_channel() & ~15, { m.gain(head) }
  };
  scale_sums(state, m.until(head)[TENSOR_TOKENS - 1]);
#pragma unroll
  for (int k0 = 0; k0 < TENSOR_TOKENS; k0 += 8) {
    left<PRODUCTS> terms;
    gained.get(k0, terms);
    add_terms(state, terms, k0, m.B(), 0);
  }
}

/* y + D x of a head, in two channels of 16 tokens; q tokens are there. */
INLINE_DEVICE void put_outputs(struct ssd_shape d, const real *D, int64_t h, narrow_tile x, int q,
                               const float (&y)[TOKEN_TILES][4], real *to)
{
  int p = own_channel(), p0 = p & ~15, left = q - 2 * lane_pair();
  int64_t ld = d.H * d.P;
  struct skips skip = skips_of(d, D, h);
  float2 own_skip;
  own_skip.x = own_skip.y = skip.same;
  if (skip.channels)
    own_skip.x = skip.of(p), own_skip.y = skip.of(p + 1);
  if (p >= d.P)
    return;
  to += 2 * lane_pair() * ld + p;
#pragma unroll
  for (int n = 0; n < TOKEN_TILES; n++, to += 8 * ld)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float2 own = x.two(8 * n, 2 * lane_pair() + e, p0, p - p0);
      own.x = y[n][e] + own_skip.x * own.x, own.y = y[n][2 + e] + own_skip.y * own.y;
      if (8 * n + e < left)
        *(float2 *)(to + e * ld) = own;
    }
}

/* Index u of (b,g, two heads); of an odd number of heads the last is alone. */
template <int PRODUCTS>
static __global__ void __launch_bounds__(FORWARD_THREADS, 1)
    tensor_forward_all(struct ssd_shape d, struct tensor_forward f)
{
  SHARED_FLOATS(memory);
  int64_t chunks = ssd_chunks(d), PN = d.P * d.N, heads = d.H / d.G, blocks = forward_blocks(d);
  int own = own_warp() / HEAD_WARPS;
  bool leads = own_warp() % HEAD_WARPS == 0;
  struct forward_memory m = {memory, memory + f.buffers * CHUNK_FLOATS};
  FOR_EACH_BLOCK (u, d.B * d.G * blocks, 0) {
    int64_t b = u / (d.G * blocks), g = u / blocks % d.G, first = u % blocks * FORWARD_HEADS;
    bool there = first + own < heads;
    int64_t h0 = g * heads + first, h = there ? h0 + own : h0;
    int64_t carried = ((f.row ? f.row[b] : b) * d.H + h) * PN;
    float A = decay_rate(f.A_log, h), state[STATE_TILES][4];
    float2 dt = {};
    auto tokens = [&](int64_t c) { return at_most(d.T - c * d.chunk, TENSOR_TOKENS); };
    auto copy = [&](int64_t c) {
      int64_t row = (b * d.T + c * d.chunk) * d.ld;
      int q = tokens(c);
      m.tiles = memory + (c & (f.buffers - 1)) * CHUNK_FLOATS;
      copy_tile<FORWARD_THREADS, TENSOR_TOKENS>(m.B(), f.B + row + g * d.N, d.ld, q, (int)d.N);
      if (f.y)
        copy_tile<FORWARD_THREADS, TENSOR_TOKENS>(m.C(), f.C + row + g * d.N, d.ld, q, (int)d.N);
      for (int i = 0; i < FORWARD_HEADS; i++)
        copy_tile<FORWARD_THREADS, TENSOR_TOKENS>(m.x(i), f.x + row + (h0 + i) * d.P, d.ld,
                                                  first + i < heads ? q : 0, (int)d.P);
      if (leads)
        dt = own_times(f.dt + (b * d.T + c * d.chunk) * d.H + h, d.H, q);
    };
    copy(0);
    end_batch();
    load_state(d, f.S0 ? f.S0 + carried : NULL, state);
    for (int64_t c = 0; c < chunks; c++) {
      int64_t token = b * d.T + c * d.chunk;
      bool enters = c > 0 || f.S0, leaves = c < chunks - 1 || f.S1;
      float y[TOKEN_TILES][4];
      if (leads)
        put_times(m, own, dt, A);
      if (f.buffers == 2 && c + 1 < chunks)
        copy(c + 1);
      end_batch();
      if (f.S && there)
        store_state(d, state, 0, f.S + ((b * chunks + c) * d.H + h) * PN);
      if (f.buffers == 2)
        await_batches<1>();
      else
        await_batches<0>();
      __syncthreads();
      m.tiles = memory + (c & (f.buffers - 1)) * CHUNK_FLOATS;
      clear_sums(y);
      if (f.y) {
        weigh_all_scores<PRODUCTS>(m);
        if (enters)
          from_state<PRODUCTS>(y, state, m.C(), m.until(own));
        __syncthreads();
        from_tokens<PRODUCTS>(y, m.x(own), m.w(own));
        if (there)
          put_outputs(d, f.D, h, m.x(own), tokens(c), y, f.y + (token * d.H + h) * d.P);
      }
      if (leaves)
        next_state<PRODUCTS>(state, m, own);
      __syncthreads();
      if (f.buffers == 1 && c + 1 < chunks)
        copy(c + 1);
    }
    if (f.S1 && there)
      store_state(d, state, 0, f.S1 + carried);
    await_batches<0>();
  }
}

/* ---- VJP: the cotangents of states ---- */

struct tensor_backward {
  const real *x, *B, *C, *dt, *A_log, *D, *S, *yb, *S1b;
  real *Rb; /* (b,chunk,h): of the state that leaves; of the last chunk only where S1b is given */
  real beta, *xb, *Bb, *Cb, *dtb, *S0b;
  real *A_part, *D_part; /* (b,chunk,h): of A_logb and Db */
};

enum { COTANGENT_FLOATS = WIDE + NARROW + 5 * TENSOR_TOKENS };

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
  struct moment *times = (struct moment *)(yb.at + NARROW);
  float *until = yb.at + NARROW + 4 * TENSOR_TOKENS; /* e */
  int64_t chunks = ssd_chunks(d), PN = d.P * d.N;
  FOR_EACH_BLOCK (u, d.B * d.H, 0) {
    int64_t b = u / d.H, h = u % d.H;
    float A = decay_rate(f.A_log, h), state[STATE_TILES][4];
    load_state(d, f.S1b ? f.S1b + u * PN : NULL, state);
    for (int64_t c = chunks - 1; c >= 0; c--) {
      struct chunk k = chunk_of(d, (b * chunks + c) * d.H + h, d.H);
      bool goes_on = c > 0 || f.S0b;
      if (goes_on) {
        copy_tile<HEAD_THREADS, TENSOR_TOKENS>(C, group_columns(d, k, f.C), d.ld, k.q, (int)d.N);
        copy_tile<HEAD_THREADS, TENSOR_TOKENS>(yb, cotangent_tokens(d, k, f.yb), d.H * d.P, k.q,
                                               (int)d.P);
        end_batch();
      }
      if (c < chunks - 1 || f.S1b)
        store_state(d, state, 0, f.Rb + k.u * PN);
      if (!goes_on)
        continue;
      struct chunk_times now = read_times(d, k, f.dt, A, times);
      __syncwarp();
      for (int i = 0; i < 2 && first_warp(); i++)
        until[2 * threadIdx.x + i] = decay_until(times[2 * threadIdx.x + i]);
      await_batches<0>();
      __syncthreads();
      scale_sums(state, now.last);
      struct left_pairs<TENSOR_CHANNELS, entering> tokens = {
        yb, own_warp() * 16, { until }
      };
      multiply_columns<PRODUCTS>(state, 0, TENSOR_TOKENS, tokens, C, 0);
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
  struct moment *times;
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
  m.times = (struct moment *)take_floats(&memory, 4 * TENSOR_TOKENS);
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

/* A warp's part of what follows from z: w, pairs, and parts of across, direct, first, skip. */
INLINE_DEVICE void weigh_tiles(struct group_memory m, struct place at,
                               const float (&scores)[PAIR_TILES][4],
                               const float (&z)[PAIR_TILES][4], float (&pairs)[PAIR_TILES][4])
{
  int t = lane_pair();
  float columns[16], sums[2], skip = 0; /* across, then direct, of this lane's columns */
  float before[2] = {0, 0};             /* of rows of K, up to the tile */
  struct moment row[2] = {m.times[at.i0 + lane_row()], m.times[at.i0 + lane_row() + 8]};
#pragma unroll
  for (int i = 0; i < 16; i++)
    columns[i] = 0;
#pragma unroll
  for (int n = 0; n < PAIR_TILES; n++) {
    int j0 = 32 * at.half + 8 * n + 2 * t;
    struct moment now[2] = {m.times[j0], m.times[j0 + 1]};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int i = at.i0 + lane_row() + 8 * half;
      float w[2], K[2];
#pragma unroll
      for (int o = 0; o < 2; o++) {
        int e = 2 * half + o, j = j0 + o;
        float decay = j <= i ? decay_between(row[half], now[o]) : 0, scored = scores[n][e] * decay;
        w[o] = scored * now[o].dt;
        pairs[n][e] += decay * z[n][e] * now[o].dt;
        columns[8 + 2 * n + o] += scored * z[n][e];
        K[o] = w[o] * z[n][e];
        skip += j == i ? z[n][e] : 0;
      }
      float2 pair;
      pair.x = w[0], pair.y = w[1];
      m.w.two(at.i0 + 8 * half, lane_row(), 32 * at.half + 8 * n, 2 * t) = pair;
      float both = K[0] + K[1], other = from_lane(both, 1), ahead = t & 1 ? other : 0;
      both += other;
      other = from_lane(both, 2);
      ahead += (t & 2 ? other : 0) + before[half];
      columns[2 * n] += j0 <= i ? ahead : 0;
      columns[2 * n + 1] += j0 + 1 <= i ? ahead + K[0] : 0;
      before[half] += both + other;
    }
  }
  if (at.half == 0 && t == 0)
    m.first[at.i0 + lane_row()] = before[0], m.first[at.i0 + lane_row() + 8] = before[1];
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
  float sums[PANEL_TILES][4];
  int n0 = 64 * at.half, i = at.i0 + lane_row();
  struct left_rows<TENSOR_CHANNELS> rows = {
    yb, at.i0, decay_until(m.times[i]), decay_until(m.times[i + 8])
  };
  clear_sums(sums);
  multiply_columns<PRODUCTS>(sums, 0, TENSOR_CHANNELS, rows, m.S, n0);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float dot = 0;
#pragma unroll
    for (int J = 0; J < PANEL_TILES / 4; J++)
#pragma unroll
      for (int o = 0; o < 2; o++)
        dot += dot_fours(m.C.four(i + 8 * half, (n0 + 32 * J) / 4 + own_four(o)),
                         terms_of(sums, J, half, o));
    dot = sum_of_row(dot);
    if (lane_pair() == 0)
      m.a[at.half * TENSOR_TOKENS + i + 8 * half] = dot;
  }
#pragma unroll
  for (int n = 0; n < PANEL_TILES; n++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      Cb[n][e] += sums[n][e];
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
  int p0 = 32 * at.half, j0 = at.i0 + lane_row();
  struct skips skip = skips_of(d, f.D, k.h);
  clear_sums(sums);
  if (leaves) {
    struct grouped_rows<TENSOR_STATE> right = {
      m.Rb, p0
    };
    multiply_rows<PRODUCTS, TENSOR_STATE>(sums, m.B, at.i0, right);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int j = j0 + 8 * half;
    struct moment now = m.times[j];
    float dot = 0;
    factor[half] = now.leave * now.dt;
#pragma unroll
    for (int o = 0; o < 2; o++)
      dot += dot_fours(x.four(j, p0 / 4 + own_four(o)), terms_of(sums, 0, half, o));
#pragma unroll
    for (int n = 0; n < PAIR_TILES; n++)
      sums[n][2 * half] *= factor[half], sums[n][2 * half + 1] *= factor[half];
    dot = now.leave * sum_of_row(dot);
    if (lane_pair() == 0)
      m.b[at.half * TENSOR_TOKENS + j] = dot;
  }
  if (f.xb) {
    struct left_columns<TENSOR_CHANNELS, no_factors> w = {
      m.w, at.i0, {}
    };
    multiply_columns<PRODUCTS>(sums, at.i0, TENSOR_TOKENS, w, yb, p0);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int j = j0 + 8 * half;
      real *to = f.xb + (k.token + j) * d.ld + k.h * d.P;
#pragma unroll
      for (int o = 0; o < 2; o++) {
        int p = p0 + 4 * own_four(o);
        if (j < k.q && p < d.P)
          put_four(to + p, f.beta,
                   add_skip(terms_of(sums, 0, half, o), skip(p), yb.four(j, p / 4)));
      }
    }
  }
  if (leaves && f.Bb) {
    struct left_rows<TENSOR_CHANNELS> rows = {
      x, at.i0, factor[0], factor[1]
    };
    multiply_columns<PRODUCTS>(Bb, 0, TENSOR_CHANNELS, rows, m.Rb, 64 * at.half);
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
  int n0 = 64 * at.half;
#pragma unroll
  for (int n = 0; n < PAIR_TILES; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float2 pair;
      pair.x = pairs[n][2 * half], pair.y = pairs[n][2 * half + 1];
      m.w.two(at.i0 + 8 * half, lane_row(), 32 * at.half + 8 * n, 2 * lane_pair()) = pair;
    }
  __syncthreads();
  struct left_rows<TENSOR_CHANNELS> rows = {
    m.w, at.i0, 1, 1
  };
  struct left_columns<TENSOR_CHANNELS, no_factors> columns = {
    m.w, at.i0, {}
  };
  multiply_columns<PRODUCTS>(Cb, 0, at.i0 + 16, rows, m.B, n0);
  multiply_columns<PRODUCTS>(Bb, at.i0, TENSOR_TOKENS, columns, m.C, n0);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int i = at.i0 + lane_row() + 8 * half;
    int64_t row = (group.token + i) * d.ld + group.h * d.N;
#pragma unroll
    for (int J = 0; J < PANEL_TILES / 4; J++)
#pragma unroll
      for (int o = 0; o < 2; o++) {
        int n = n0 + 32 * J + 4 * own_four(o);
        if (i >= group.q || n >= d.N)
          continue;
        if (f.Cb)
          put_four(f.Cb + row + n, f.beta, four_of(Cb, J, half, o));
        if (f.Bb)
          put_four(f.Bb + row + n, f.beta, four_of(Bb, J, half, o));
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
        copy_tile<GROUP_THREADS, TENSOR_TOKENS>(x_tile(m, h), x_of(d, k, f.x), d.ld, k.q, (int)d.P);
        copy_tile<GROUP_THREADS, TENSOR_TOKENS>(yb_tile(m, h), cotangent_tokens(d, k, f.yb),
                                                d.H * d.P, k.q, (int)d.P);
      }
      end_batch();
    };
    auto copy_state = [&](int64_t h, wide_tile to, const real *from) {
      head(h);
      if (h < heads && from)
        copy_tile<GROUP_THREADS, TENSOR_CHANNELS>(to, from + k.u * PN, d.N, (int)d.P, (int)d.N);
      end_batch();
    };
    int64_t panel = group.token * d.ld + group.h * d.N;
    copy_tile<GROUP_THREADS, TENSOR_TOKENS>(m.C, f.C + panel, d.ld, group.q, (int)d.N);
    copy_tile<GROUP_THREADS, TENSOR_TOKENS>(m.B, f.B + panel, d.ld, group.q, (int)d.N);
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
    struct plain_rows<TENSOR_STATE> right = {
      m.B, 32 * at.half
    };
    multiply_rows<PRODUCTS, TENSOR_STATE>(scores, m.C, at.i0, right);
    for (int64_t h = 0; h < heads; h++) {
      narrow_tile x = x_tile(m, h), yb = yb_tile(m, h);
      float z[PAIR_TILES][4];
      copy_tokens(h + 1);
      head(h);
      float A = decay_rate(f.A_log, k.h);
      struct chunk_times now = read_times(d, k, f.dt, A, m.times);
      await_batches<2>(); /* left: Rb, the next x and yb */
      __syncthreads();
      clear_sums(z);
      struct plain_rows<TENSOR_CHANNELS> tokens = {
        x, 32 * at.half
      };
      multiply_rows<PRODUCTS, TENSOR_CHANNELS>(z, yb, at.i0, tokens);
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

/* Whether these kernels take the shape, on this device: of less, tiles would be almost empty. */
static bool on_tensor_cores(stream st, struct ssd_shape d, int needed)
{
  return d.P >= 16 && d.P <= TENSOR_CHANNELS && d.N >= 16 && d.N <= TENSOR_STATE &&
         ssd_chunk_length(d) <= TENSOR_TOKENS && floats(needed) <= device_of(st)->shared_bytes;
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
  int one = FORWARD_FLOATS, both = one + CHUNK_FLOATS;
  bool two = ssd_chunks(d) > 1 && floats(both) <= device_of(st)->shared_bytes;
  f.buffers = two ? 2 : 1;
  LAUNCH_TENSOR(st, d.B * d.G * forward_blocks(d), FORWARD_THREADS, two ? both : one,
                tensor_forward_all, d, f);
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
