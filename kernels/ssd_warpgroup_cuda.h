/* ssd_warpgroup_cuda.h: ssd_chunked forwards in float32 on compute capability 9.0, where `matmul`
 * allows tf32; part of ssd_chunked.c, whose head has the equations.
 *
 * As tensor_forward_all (ssd_tensor_cuda.h) a block goes through the chunks of two heads of one
 * sequence with their states in registers, and copies of the next chunk are on their way; here each
 * head is a warpgroup's, whose products read B, C and w where they lie:
 *   scores = C B'     y' = (S C') e + x' w' + D x'     S <- e_{q-1} S + (r dt x)' B
 * A left operand in registers has terms t and t + 4 of eight where sums have columns 2 t and
 * 2 t + 1.  So that S is one as it is, its columns q are B' rows n, and those that x' meets are
 * tokens in that order:
 *   q = 8 a + 2 t + e  is  n = 8 a + t + 4 e        term 8 a + t + 4 e  is  token 8 a + 2 t + e
 * B' (N,tokens) is B turned, in registers.  w takes the place of x, which the registers have. */
#ifndef KERNELS_SSD_WARPGROUP_CUDA_H
#define KERNELS_SSD_WARPGROUP_CUDA_H
#include "kernels/ssd_tensor_cuda.h"
#include "kernels/warpgroup_cuda.h"

enum {
  GROUP_BUFFER = CHUNK_FLOATS, /* a chunk's C, B, each head's x */
  WARPGROUP_FLOATS =
  2 * GROUP_BUFFER + (int)WIDE + (int)FORWARD_HEADS * FLOATS_OF(struct forward_times)
};

/* Of the shared memory: two buffers, B', times. */
struct warpgroup_memory {
  float *all, *buffer;
  INLINE_DEVICE panels<TENSOR_TOKENS> C(void) const { return {buffer}; }
  INLINE_DEVICE panels<TENSOR_TOKENS> B(void) const { return {buffer + WIDE}; }
  INLINE_DEVICE narrow_tile x(int head) const { return {buffer + 2 * WIDE + head * NARROW}; }
  INLINE_DEVICE panels<TENSOR_TOKENS> w(int head) const { return {x(head).at}; }
  INLINE_DEVICE panels<TENSOR_STATE> turned(void) const { return {all + 2 * GROUP_BUFFER}; }
  INLINE_DEVICE struct forward_times *times(int head) const
  {
    return (struct forward_times *)(all + 2 * GROUP_BUFFER + WIDE) + head;
  }
};

/* B' in fours by fours.  Of eight lanes that read or write together each finds its four in other
 * banks: `four` and `slot` differ in ways that reading, where a token's lowest bit counts, and
 * writing, where the lowest of `four` does, tell apart. */
INLINE_DEVICE void turn_B(panels<TENSOR_TOKENS> B, panels<TENSOR_STATE> to)
{
  int lane = (int)threadIdx.x % WARP_LANES, low = lane & 3, apart = lane >> 3;
  int four = 4 * own_warp() + ((low & 1) << 1 | low >> 1); /* of n */
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int a = 4 * i + ((four & 3) ^ apart), odd = (lane >> 2 ^ four) & 1; /* tokens 8 a + odd + 2 k */
    float v[4][4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      float4 n = B.four(8 * a + odd + 2 * k, four);
      v[k][0] = n.x, v[k][1] = n.y, v[k][2] = n.z, v[k][3] = n.w;
    }
#pragma unroll
    for (int m = 0; m < 4; m++) {
      float4 tokens;
      tokens.x = rounded<1>(v[0][m]), tokens.y = rounded<1>(v[1][m]);
      tokens.z = rounded<1>(v[2][m]), tokens.w = rounded<1>(v[3][m]);
      to.four(four / 2 * 8 + 2 * m + four % 2, 2 * a + odd) = tokens;
    }
  }
}

/* Four lanes, t = 0 to 3, have v_t of four fours each; each gets the four of its number, or the
 * other way round. */
INLINE_DEVICE float4 exchange_fours(float v0, float v1, float v2, float v3)
{
  bool odd = lane_pair() & 1, second = lane_pair() & 2;
  float a = from_lane(odd ? v0 : v1, 1), b = from_lane(odd ? v2 : v3, 1);
  v0 = odd ? a : v0, v1 = odd ? v1 : a, v2 = odd ? b : v2, v3 = odd ? v3 : b;
  a = from_lane(second ? v0 : v2, 2), b = from_lane(second ? v1 : v3, 2);
  float4 four;
  four.x = second ? a : v0, four.y = second ? b : v1;
  four.z = second ? v2 : a, four.w = second ? v3 : b;
  return four;
}

/* f(m, half, at, there): the four from `at` on of a state (P,N), n = 16 m + 4 t, is of sums 2 m and
 * 2 m + 1, row g + 8 half, when lanes have exchanged them. */
template <class T, class F>
INLINE_DEVICE void for_fours_of_state(struct ssd_shape d, T *states, F f)
{
  int n = 4 * lane_pair();
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int m = 0; m < STATE_TILES / 2; m++)
      f(m, half, states + (own_channel() + half) * d.N + n + 16 * m,
        own_channel() < d.P && n + 16 * m < d.N);
}

INLINE_DEVICE void load_columns(struct ssd_shape d, const real *from,
                                float (&state)[STATE_TILES][4])
{
  clear_sums(state);
  if (!from)
    return;
  for_fours_of_state(d, from, [&](int m, int half, const real *at, bool there) {
    float4 four = {};
    if (there)
      four = *(const float4 *)at;
    four = exchange_fours(four.x, four.y, four.z, four.w);
    state[2 * m][2 * half] = four.x, state[2 * m][2 * half + 1] = four.y;
    state[2 * m + 1][2 * half] = four.z, state[2 * m + 1][2 * half + 1] = four.w;
  });
}

INLINE_DEVICE void store_columns_of(struct ssd_shape d, const float (&state)[STATE_TILES][4],
                                    real *to)
{
  for_fours_of_state(d, to, [&](int m, int half, real *at, bool there) {
    float4 four = exchange_fours(state[2 * m][2 * half], state[2 * m][2 * half + 1],
                                 state[2 * m + 1][2 * half], state[2 * m + 1][2 * half + 1]);
    if (there)
      put_four(at, 0, four);
  });
}

/* w of a head: rows i, columns in the order of terms; the last quarter's rows meet all tokens. */
INLINE_DEVICE void put_weights(const float (&scores)[TOKEN_TILES][4],
                               const struct forward_times *times, panels<TENSOR_TOKENS> w)
{
  int first = own_channel() & ~15, g = lane_row();
#pragma unroll
  for (int n = 0; n < TOKEN_TILES; n++) {
    int j = 8 * n + 2 * lane_pair();
    float2 dt = pair_at((float *)times->dt, j), high = pair_at((float *)times->high, j);
    float2 low = pair_at((float *)times->low, j);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int i = first + g + 8 * half;
      float h = times->high[i], l = times->low[i], even = 0, odd = 0;
      if (8 * n <= first + 8 * half) {
        even = scores[n][2 * half] * decay_over({h, l}, {high.x, low.x}) * dt.x;
        odd = scores[n][2 * half + 1] * decay_over({h, l}, {high.y, low.y}) * dt.y;
      }
      w.place(i, 2 * n)[lane_pair()] = j <= i ? rounded<1>(even) : 0;
      w.place(i, 2 * n + 1)[lane_pair()] = j + 1 <= i ? rounded<1>(odd) : 0;
    }
  }
}

/* y' += S C' over half of the columns n: all of S would not fit into the registers once more. */
enum { HALF_STATE = STATE_TILES / 2 };
template <int FIRST>
INLINE_DEVICE void begin_from_state(float (&y)[TOKEN_TILES][4],
                                    const float (&state)[STATE_TILES][4], panels<TENSOR_TOKENS> C)
{
  float terms[HALF_STATE][4];
#pragma unroll
  for (int k = 0; k < HALF_STATE; k++) {
    const float(&s)[4] = state[FIRST + k];
    terms[k][0] = rounded<1>(s[0]), terms[k][1] = rounded<1>(s[2]);
    terms[k][2] = rounded<1>(s[1]), terms[k][3] = rounded<1>(s[3]);
  }
  settle_sums(terms);
  begin_products();
#pragma unroll
  for (int k = 0; k < HALF_STATE; k++)
    group_mma(y, terms[k], terms_of(C, 0, FIRST + k), FIRST + k > 0);
  end_products();
}

/* (r dt x)' as a left operand. */
INLINE_DEVICE void gained_terms(const float (&x)[TOKEN_TILES][4], float *gain,
                                float (&a)[TOKEN_TILES][4])
{
#pragma unroll
  for (int k = 0; k < TOKEN_TILES; k++) {
    float2 f = pair_at(gain, 8 * k + 2 * lane_pair());
    a[k][0] = rounded<1>(f.x * x[k][0]), a[k][1] = rounded<1>(f.x * x[k][1]);
    a[k][2] = rounded<1>(f.y * x[k][2]), a[k][3] = rounded<1>(f.y * x[k][3]);
  }
}

/* Index u of (b,g, two heads), as of tensor_forward_all. */
static __global__ void __launch_bounds__(FORWARD_THREADS, 1)
    warpgroup_forward(struct ssd_shape d, struct tensor_forward f)
{
#if HAS_WARPGROUPS
  SHARED_FLOATS(memory);
  int64_t chunks = ssd_chunks(d), PN = d.P * d.N, heads = d.H / d.G, blocks = forward_blocks(d);
  int head = own_warp() / HEAD_WARPS;
  bool leads = own_warp() % HEAD_WARPS == 0;
  struct warpgroup_memory m = {memory, memory};
  struct forward_times *times = m.times(head);
  FOR_EACH_BLOCK (u, d.B * d.G * blocks, 0) {
    int64_t b = u / (d.G * blocks), g = u / blocks % d.G, first = u % blocks * FORWARD_HEADS;
    bool there = first + head < heads;
    int64_t h0 = g * heads + first, h = there ? h0 + head : h0;
    int64_t carried = ((f.row ? f.row[b] : b) * d.H + h) * PN;
    float A = decay_rate(f.A_log, h), state[STATE_TILES][4];
    float2 dt = {}, D = skips_of(d, f.D, h, own_channel());
    auto tokens = [&](int64_t c) { return at_most(d.T - c * d.chunk, (int)ssd_chunk_length(d)); };
    auto copy = [&](int64_t c) {
      int64_t row = (b * d.T + c * d.chunk) * d.ld;
      int q = tokens(c);
      m.buffer = m.all + (c & 1) * GROUP_BUFFER;
      copy_panels<FORWARD_THREADS, TENSOR_TOKENS, TENSOR_STATE>(m.B(), f.B + row + g * d.N, d.ld, q,
                                                                (int)d.N);
      copy_panels<FORWARD_THREADS, TENSOR_TOKENS, TENSOR_STATE>(m.C(), f.C + row + g * d.N, d.ld,
                                                                  q, (int)d.N);
      for (int i = 0; i < FORWARD_HEADS; i++)
        copy_tile<FORWARD_THREADS, TENSOR_TOKENS>(m.x(i), f.x + row + (h0 + i) * d.P, d.ld,
                                                  first + i < heads ? q : 0, (int)d.P);
      end_batch();
    };
    auto read_times = [&](int64_t c) {
      if (leads)
        dt = own_times(f.dt + (b * d.T + c * d.chunk) * d.H + h, d.H, tokens(c));
    };
    copy(0);
    read_times(0);
    load_columns(d, f.S0 ? f.S0 + carried : NULL, state);
    for (int64_t c = 0; c < chunks; c++) {
      int64_t token = b * d.T + c * d.chunk;
      float scores[TOKEN_TILES][4], y[TOKEN_TILES][4], x[TOKEN_TILES][4];
      await_batches<0>();
      show_to_products();
      __syncthreads();
      if (c + 1 < chunks)
        copy(c + 1);
      m.buffer = m.all + (c & 1) * GROUP_BUFFER;
      clear_sums(y);
      clear_sums(scores);
      begin_products();
#pragma unroll
      for (int k = 0; k < TENSOR_STATE / 8; k++)
        group_mma(scores, terms_of(m.C(), 0, k), terms_of(m.B(), 0, k), k > 0);
      end_products();
      begin_from_state<0>(y, state, m.C());
      if (leads)
        put_times(times, dt, A);
      if (c + 1 < chunks)
        read_times(c + 1);
      if (f.S && there)
        store_columns_of(d, state, f.S + ((b * chunks + c) * d.H + h) * PN);
      turn_B(m.B(), m.turned());
#pragma unroll
      for (int k = 0; k < TOKEN_TILES; k++) {
        struct channels_of channels = {m.x(head)};
        float2 even = channels(k, 0), odd = channels(k, 1);
        x[k][0] = even.x, x[k][1] = even.y, x[k][2] = odd.x, x[k][3] = odd.y;
      }
      await_group(1 + head); /* the warpgroup has read x */
      await_products<1>();
      settle_sums(scores);
      put_weights(scores, times, m.w(head));
      await_products<0>();
      settle_sums(y);
      begin_from_state<HALF_STATE>(y, state, m.C());
      show_to_products();
      __syncthreads();
      await_products<0>();
      settle_sums(y);
#pragma unroll
      for (int n = 0; n < TOKEN_TILES; n++) {
        float2 e = pair_at(times->until, 8 * n + 2 * lane_pair());
        y[n][0] *= e.x, y[n][1] *= e.y, y[n][2] *= e.x, y[n][3] *= e.y;
      }
      scale_sums(state, times->until[TENSOR_TOKENS - 1]);
      float gained[TOKEN_TILES][4];
      gained_terms(x, times->gain, gained);
      settle_sums(gained);
      settle_sums(y);
      settle_sums(state);
      begin_products();
#pragma unroll
      for (int k = 0; k < TOKEN_TILES; k++)
        group_mma(y, x[k], terms_of(m.w(head), 0, k), true);
      end_products();
      begin_products();
#pragma unroll
      for (int k = 0; k < TOKEN_TILES; k++)
        group_mma(state, gained[k], terms_of(m.turned(), 0, k), true);
      end_products();
      await_products<1>();
      settle_sums(y);
      if (there)
        put_outputs(
            d, D, [&](int n, int e) { return (float2){x[n][2 * e], x[n][2 * e + 1]}; }, tokens(c),
            y, f.y + (token * d.H + h) * d.P);
      await_products<0>();
      settle_sums(state);
    }
    if (f.S1 && there)
      store_columns_of(d, state, f.S1 + carried);
    __syncthreads();
  }
#endif
}

/* ---- on the host ---- */

static bool has_warpgroups(stream st)
{
  const struct device *d = device_of(st);
  return d->warpgroups && d->matmul != PLUGIN_IEEE && floats(WARPGROUP_FLOATS) <= d->shared_bytes;
}

static void forward_on_tensor_cores(stream st, struct ssd_shape d, struct tensor_forward f)
{
  if (f.y && has_warpgroups(st))
    LAUNCH_SHARED(st, d.B * d.G * forward_blocks(d), FORWARD_THREADS, floats(WARPGROUP_FLOATS),
                  warpgroup_forward, d, f);
  else
    tensor_fwd(st, d, f);
}
#endif
