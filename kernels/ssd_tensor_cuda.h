/* ssd_tensor_cuda.h: ssd_chunked in float32 by tensor cores, each chunk of at most 64 tokens in
 * shared memory and the states in registers; part of ssd_chunked.c, whose head has the equations;
 * the way back is in ssd_tensor_vjp_cuda.h.
 *
 * Forward: a block of eight warps goes through the chunks of two heads of one sequence; the copies
 * of the next chunk are on their way meanwhile.  All share a chunk's scores_ij = C_i . B_j.  Each
 * has 16 channels p of a head, whose state S never leaves its registers:
 *   y' = (S C') e + x' w' + D x'       w_ij = m_ij scores_ij dt_j
 *   S <- e_{q-1} S + (r dt x)' B       is what enters the next
 * x, B, C are read once, y is written once, and S where it is kept.
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

#define FLOATS_OF(type) ((int)(sizeof(type) / sizeof(float)))

typedef tile<TENSOR_STATE> wide_tile;      /* B, C (tokens,N), S, Rb (P,N) */
typedef tile<TENSOR_CHANNELS> narrow_tile; /* x, yb (tokens,P), pairs of tokens */

/* ---- decays of a chunk ---- */

/* dt of tokens 2 l and 2 l + 1, l this lane, of q; 0 beyond. */
INLINE_DEVICE float2 own_times(const real *dt, int64_t H, int q)
{
  int first = (int)threadIdx.x % WARP_LANES * 2;
  float2 two;
  two.x = first < q ? dt[first * H] : 0, two.y = first + 1 < q ? dt[(first + 1) * H] : 0;
  return two;
}

/* L of them; and of the last token */
INLINE_DEVICE void add_up_times(float2 dt, float A, double (&l)[2], double *all)
{
  double rate = (double)A * 1.4426950408889634;
  l[0] = rate * (double)dt.x, l[1] = rate * (double)dt.y;
  double before = sum_before(l[0] + l[1], all), last = l[1];
  l[0] += before;
  l[1] = l[0] + last;
}

/* 2^(i - j) of sums in two floats. */
INLINE_DEVICE float decay_over(float2 i, float2 j) { return power_of_2((i.x - j.x) + (i.y - j.y)); }

/* e, or r dt, of tokens k and k + 1 */
struct entering {
  const float *until;
  INLINE_DEVICE float2 operator()(int k) const { return *(const float2 *)(until + k); }
};

/* D of channels p and p + 1 of a head; 0 from P on. */
INLINE_DEVICE float2 skips_of(struct ssd_shape d, const real *D, int64_t h, int p)
{
  const real *at = d.D_has_hdim ? D + h * d.P + p : D + h;
  float2 two = {};
  if (p < d.P)
    two.x = at[0], two.y = d.D_has_hdim ? at[1] : at[0];
  return two;
}

/* ---- states: GROUPED sums, 16 rows p of a warp as left_pairs has them, all columns ---- */

enum { STATE_TILES = TENSOR_STATE / 8, HEAD_WARPS = TENSOR_CHANNELS / 16 };

INLINE_DEVICE int own_channel(void) { return own_warp() % HEAD_WARPS * 16 + 2 * lane_row(); }

/* f(half, o, at): the fours of 32 columns J of a state (P,N) at `states`; those that are there. */
template <class T, class F>
INLINE_DEVICE void for_fours_of_columns(struct ssd_shape d, T *states, int J, F f)
{
  T *row = states + own_channel() * d.N + 32 * J;
  int left = own_channel() < d.P ? (int)d.N : 0;
#pragma unroll
  for (int half = 0; half < 2; half++, row += d.N)
#pragma unroll
    for (int o = 0; o < 2; o++)
      if (32 * J + 4 * own_four(o) < left)
        f(half, o, row + 4 * own_four(o));
}

/* States in half precision: twice rows p of 64 columns n, words of pairs, zeros from N on; a row's
 * eight fours have changed places by its number as in shared memory, where they are copied whole.
 * Words that lie in a four side by side are a lane's where states are made, and where warpgroups
 * read them lanes find theirs in all banks: of a row pair n/2 % 32 = 8 m + 2 f + o is word m of
 * four 4 o + f. */
enum { HALF_ROW = 32, HALF_FLOATS = 2 * HALF_ROW }; /* words of a row; of both */
INLINE_DEVICE int four_of_pair(int pair) { return pair % 2 * 4 + pair / 2 % 4; }
INLINE_DEVICE int word_of_pair(int pair) { return pair / 8 % 4; }
INLINE_DEVICE int place_in_halves(int row, int four)
{
  return row * HALF_ROW + 4 * (four ^ (row & 7));
}

/* state = from (P,N); NULL: zeros */
INLINE_DEVICE void load_state(struct ssd_shape d, const real *from, float (&state)[STATE_TILES][4])
{
  clear_sums(state);
#pragma unroll
  for (int J = 0; J < STATE_TILES / 4; J++)
    if (from)
      for_fours_of_columns(d, from, J, [&](int half, int o, const real *at) {
        set_four(state, J, half, o, *(const float4 *)at);
      });
}

INLINE_DEVICE void store_columns(struct ssd_shape d, const float (&state)[STATE_TILES][4], int J,
                                 real *to)
{
  for_fours_of_columns(
      d, to, J, [&](int half, int o, real *at) { put_four(at, 0, four_of(state, J, half, o)); });
}

INLINE_DEVICE void store_state(struct ssd_shape d, const float (&state)[STATE_TILES][4], real *to)
{
#pragma unroll
  for (int J = 0; J < STATE_TILES / 4; J++)
    store_columns(d, state, J, to);
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

/* Of a head's tokens: L = high + low, dt, e, r dt. */
struct forward_times {
  float high[TENSOR_TOKENS], low[TENSOR_TOKENS], dt[TENSOR_TOKENS];
  float until[TENSOR_TOKENS], gain[TENSOR_TOKENS];
};

enum {
  FORWARD_HEADS = 2, /* of a block */
  FORWARD_THREADS = FORWARD_HEADS * HEAD_WARPS * WARP_LANES,
  CHUNK_FLOATS = 2 * WIDE + FORWARD_HEADS * NARROW,
  FORWARD_FLOATS = /* one buffer */
  CHUNK_FLOATS + FORWARD_HEADS * (NARROW + FLOATS_OF(struct forward_times))
};

/* Of the shared memory: a chunk's tiles; of each head x, w and times. */
struct forward_memory {
  float *tiles, *heads;
  INLINE_DEVICE wide_tile C(void) const { return {tiles}; }
  INLINE_DEVICE wide_tile B(void) const { return {tiles + WIDE}; }
  INLINE_DEVICE narrow_tile x(int head) const { return {tiles + 2 * WIDE + head * NARROW}; }
  INLINE_DEVICE narrow_tile w(int head) const { return {heads + head * NARROW}; }
  INLINE_DEVICE struct forward_times *times(int head) const
  {
    return (struct forward_times *)(heads + FORWARD_HEADS * NARROW) + head;
  }
};

INLINE_DEVICE float2 &pair_at(float *from, int i) { return *(float2 *)(from + i); } /* i even */

/* Of tokens 2 l and 2 l + 1 of a warp's lane l: L = high + low, e, r dt. */
struct own_decays {
  float2 high, low, until, gain;
  INLINE_DEVICE void compute(float2 dt, const double (&l)[2], double all)
  {
    high.x = (float)l[0], high.y = (float)l[1];
    low.x = (float)(l[0] - (double)high.x), low.y = (float)(l[1] - (double)high.y);
    until.x = power_of_2(high.x + low.x), until.y = power_of_2(high.y + low.y);
    gain.x = power_of_2((float)(all - l[0])) * dt.x;
    gain.y = power_of_2((float)(all - l[1])) * dt.y;
  }
  template <class TIMES> INLINE_DEVICE void store(TIMES *to, float2 dt) const
  {
    int first = (int)threadIdx.x % WARP_LANES * 2;
    pair_at(to->high, first) = high, pair_at(to->low, first) = low;
    pair_at(to->dt, first) = dt;
    pair_at(to->until, first) = until, pair_at(to->gain, first) = gain;
  }
};

/* A warp fills in a head's times. */
INLINE_DEVICE void put_times(struct forward_times *to, float2 dt, float A)
{
  double l[2], all;
  struct own_decays own;
  add_up_times(dt, A, l, &all);
  own.compute(dt, l, all);
  own.store(to, dt);
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
    struct forward_times *times = m.times(head);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      int j = j0 + 8 * n + 2 * lane_pair();
      float2 dt = pair_at(times->dt, j), above = pair_at(times->high, j);
      float2 below = pair_at(times->low, j);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int i = i0 + g + 8 * half;
        float h = times->high[i], l = times->low[i];
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

/* y' = (S C') e; S is stored meanwhile where it is kept: all at once would wait for each other. */
template <int PRODUCTS, bool KEEPS>
INLINE_DEVICE void from_state(struct ssd_shape d, float (&y)[TOKEN_TILES][4],
                              const float (&state)[STATE_TILES][4], wide_tile C, float *until,
                              real *keep)
{
#pragma unroll
  for (int J = 0; J < STATE_TILES / 4; J++) {
    if (KEEPS)
      store_columns(d, state, J, keep);
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
    m.x(head), own_channel() & ~15, { m.times(head)->gain }
  };
  scale_sums(state, m.times(head)->until[TENSOR_TOKENS - 1]);
#pragma unroll
  for (int k0 = 0; k0 < TENSOR_TOKENS; k0 += 8) {
    left<PRODUCTS> terms;
    gained.get(k0, terms);
    add_terms(state, terms, k0, m.B(), 0);
  }
}

/* x of this thread's channels, of token 8 n + 2 t + e of a tile's, for put_outputs */
struct channels_of {
  narrow_tile x;
  INLINE_DEVICE float2 operator()(int n, int e) const
  {
    int p = own_channel(), p0 = p & ~15;
    return x.two(8 * n, 2 * lane_pair() + e, p0, p - p0);
  }
};

/* y + D x of a head, in two channels of 16 tokens; q tokens are there. */
template <class X>
INLINE_DEVICE void put_outputs(struct ssd_shape d, float2 D, X x, int q,
                               const float (&y)[TOKEN_TILES][4], real *to)
{
  int p = own_channel(), left = q - 2 * lane_pair();
  int64_t ld = d.H * d.P;
  if (p >= d.P)
    return;
  to += 2 * lane_pair() * ld + p;
#pragma unroll
  for (int n = 0; n < TOKEN_TILES; n++, to += 8 * ld)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float2 own = x(n, e);
      own.x = y[n][e] + D.x * own.x, own.y = y[n][2 + e] + D.y * own.y;
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
    float2 dt = {}, D = skips_of(d, f.D, h, own_channel());
    auto tokens = [&](int64_t c) { return at_most(d.T - c * d.chunk, (int)ssd_chunk_length(d)); };
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
        put_times(m.times(own), dt, A);
      if (f.buffers == 2 && c + 1 < chunks)
        copy(c + 1);
      end_batch();
      bool keeps = f.S && there && !(d.from_zero && c == 0);
      real *keep = keeps ? f.S + ((b * chunks + c) * d.H + h) * PN : NULL;
      if (keep && !(enters && f.y))
        store_state(d, state, keep);
      if (f.buffers == 2)
        await_batches<1>();
      else
        await_batches<0>();
      __syncthreads();
      m.tiles = memory + (c & (f.buffers - 1)) * CHUNK_FLOATS;
      clear_sums(y);
      if (f.y) {
        weigh_all_scores<PRODUCTS>(m);
        if (enters && keep)
          from_state<PRODUCTS, true>(d, y, state, m.C(), m.times(own)->until, keep);
        else if (enters)
          from_state<PRODUCTS, false>(d, y, state, m.C(), m.times(own)->until, NULL);
        __syncthreads();
        from_tokens<PRODUCTS>(y, m.x(own), m.w(own));
        if (there)
          put_outputs(d, D, (struct channels_of){m.x(own)}, tokens(c), y,
                      f.y + (token * d.H + h) * d.P);
      }
      if (leaves)
        next_state<PRODUCTS>(state, m, own);
      __syncthreads();
      if (f.buffers == 1 && c + 1 < chunks)
        copy(c + 1);
    }
    if (f.S1 && there)
      store_state(d, state, f.S1 + carried);
    await_batches<0>();
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
#endif
