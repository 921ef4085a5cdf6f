/* ssd_warpgroup_cuda.h: ssd_chunked forwards in float32 on compute capability 9.0, where `matmul`
 * allows tf32; part of ssd_chunked.c, whose head has the equations.
 *
 * A block goes through the chunks of two heads of one sequence, then of others.  A head's products
 * are a warpgroup's, whose registers have its state S:
 *   scores = C B'     y' = (S C') e + x' w' + D x'     S <- e_{q-1} S + (r dt x)' B
 * What does not wait for a product is made by a third: two warps copy the next chunk, two have
 * times and B' from B, in registers, for products add up along what lies side by side.
 *
 * A left operand in registers has terms t and t + 4 of eight where sums have columns 2 t and
 * 2 t + 1.  So that S is one as it is, its columns q are B' rows n, and those that x' meets are
 * tokens in that order:
 *   q = 8 a + 2 t + e  is  n = 8 a + t + 4 e        term 8 a + t + 4 e  is  token 8 a + 2 t + e
 * w takes the place of B, when scores have been made and B' is there.
 *
 * w_ij = 2^(L_i - L_j) scores_ij dt_j, of j in eights that end before i, is
 *   2^(L_i - L_k) scores_ij share_j       share_j = 2^(L_k - L_j) dt_j, k the last of j's eight
 * so that the powers of a row are as many as the eights. */
#ifndef KERNELS_SSD_WARPGROUP_CUDA_H
#define KERNELS_SSD_WARPGROUP_CUDA_H
#include "kernels/ssd_tensor_cuda.h"
#include "kernels/warpgroup_cuda.h"

/* Of a head's tokens: L = high + low, dt, e, r dt, and share as above. */
struct group_times {
  float high[TENSOR_TOKENS], low[TENSOR_TOKENS], dt[TENSOR_TOKENS];
  float until[TENSOR_TOKENS], gain[TENSOR_TOKENS], share[TENSOR_TOKENS];
};

enum {
  MULTIPLYING = FORWARD_THREADS,        /* threads that have the first numbers, */
  TURNING = 2 * WARP_LANES,             /* the next, a warp a head, */
  COPYING = (int)GROUP_LANES - TURNING, /* and the last */
  WARPGROUP_THREADS = (int)MULTIPLYING + (int)COPYING + (int)TURNING,
  WARPGROUP_FLOATS = /* C, B and B' of two chunks; each head's x and times of one */
  6 * (int)WIDE + (int)FORWARD_HEADS * ((int)NARROW + FLOATS_OF(struct group_times))
};

struct warpgroup_memory {
  float *all;
  INLINE_DEVICE float *wide(int which, int step) const
  {
    return all + (2 * which + (step & 1)) * WIDE;
  }
  INLINE_DEVICE panels<TENSOR_TOKENS> C(int step) const { return {wide(0, step)}; }
  INLINE_DEVICE panels<TENSOR_TOKENS> B(int step) const { return {wide(1, step)}; }
  INLINE_DEVICE panels<TENSOR_STATE> turned(int step) const { return {wide(2, step)}; }
  INLINE_DEVICE panels<TENSOR_TOKENS> w(int step, int head) const
  {
    return {wide(1, step) + head * (WIDE / FORWARD_HEADS)};
  }
  INLINE_DEVICE narrow_tile x(int head) const { return {all + 6 * WIDE + head * NARROW}; }
  INLINE_DEVICE struct group_times *times(int head) const
  {
    return (struct group_times *)(all + 6 * WIDE + FORWARD_HEADS * NARROW) + head;
  }
};

/* Barriers.  The chunk: its C, B and B' are there, and the memory of the one before is free, but
 * for x.  Landed: the next chunk's B, for those who turn it.  Prepared: times and x; scores have
 * been made.  Read: x.  Weighed: w of a head. */
enum { LANDED = 1, PREPARED, READ, WEIGHED };
INLINE_DEVICE void await_chunk(void) { await_block<WARPGROUP_THREADS>(); }

/* What all know of the chunks. */
struct forward_grid {
  int chunks, blocks, count; /* of a sequence; of a group of a sequence; in all */
  bool halves;               /* S is kept by store_halves */
};

/* The chunks of index u of (b,g, two heads), then those of u + gridDim.x, and so on; of an odd
 * number of heads the last is alone. */
struct forward_steps {
  int u, c;
  int b, g, first, heads; /* the first head; those that are there, of FORWARD_HEADS */
  INLINE_DEVICE forward_steps(struct ssd_shape d, struct forward_grid grid)
      : u((int)blockIdx.x), c(0)
  {
    find(d, grid);
  }
  INLINE_DEVICE bool there(struct forward_grid grid) const { return u < grid.count; }
  INLINE_DEVICE void next(struct ssd_shape d, struct forward_grid grid)
  {
    if (++c < grid.chunks)
      return;
    c = 0, u += (int)gridDim.x;
    find(d, grid);
  }
  INLINE_DEVICE void find(struct ssd_shape d, struct forward_grid grid)
  {
    int of_group = u / grid.blocks, own = u % grid.blocks * FORWARD_HEADS, all = (int)(d.H / d.G);
    b = of_group / (int)d.G, g = of_group % (int)d.G, first = g * all + own;
    heads = at_most(all - own, FORWARD_HEADS);
  }
  INLINE_DEVICE int64_t token(struct ssd_shape d) const { return b * d.T + c * d.chunk; }
  INLINE_DEVICE int tokens(struct ssd_shape d) const
  {
    return at_most(d.T - c * d.chunk, (int)ssd_chunk_length(d));
  }
};

/* ---- the warps that copy ---- */

INLINE_DEVICE int copying_thread(void)
{
  return (int)threadIdx.x - (int)MULTIPLYING - (int)TURNING;
}

/* B, of which those who turn it are told, and C. */
INLINE_DEVICE void copy_panels(struct ssd_shape d, struct tensor_forward f, struct forward_steps s,
                               struct warpgroup_memory m, int step)
{
  int64_t first = s.token(d) * d.ld + s.g * d.N;
  int q = s.tokens(d);
  typedef panel_copies<COPYING, TENSOR_TOKENS, TENSOR_STATE> copies;
  copies(f.B + first, d.ld, (int)d.N, copying_thread()).copy(m.B(step), 0, q);
  end_batch();
  copies(f.C + first, d.ld, (int)d.N, copying_thread()).copy(m.C(step), 0, q);
  end_batch();
  await_batches<1>();
  show_to_products();
  arrive_at_barrier<LANDED, GROUP_LANES>();
}

INLINE_DEVICE void copy_x(struct ssd_shape d, struct tensor_forward f, struct forward_steps s,
                          struct warpgroup_memory m)
{
  tile_copies<COPYING, TENSOR_TOKENS, TENSOR_CHANNELS> x(f.x + s.token(d) * d.ld + s.first * d.P,
                                                         d.ld, (int)d.P, copying_thread());
  for (int i = 0; i < FORWARD_HEADS; i++)
    x.copy(m.x(i), i * d.P, i < s.heads ? s.tokens(d) : 0);
  end_batch();
}

INLINE_DEVICE void copy_chunks(struct ssd_shape d, struct tensor_forward f,
                               struct forward_grid grid, struct warpgroup_memory m)
{
  struct forward_steps s(d, grid);
  bool more = s.there(grid);
  if (!more)
    return;
  copy_panels(d, f, s, m, 0);
  copy_x(d, f, s, m);
#pragma unroll 1
  for (int step = 0; more; step++) {
    await_batches<1>(); /* of x, which is read later */
    show_to_products();
    await_chunk();
    await_batches<0>();
    arrive_at_barrier<PREPARED, WARPGROUP_THREADS>();
    s.next(d, grid);
    more = s.there(grid);
    if (more)
      copy_panels(d, f, s, m, step + 1);
    await_barrier<READ, (int)MULTIPLYING + (int)COPYING>();
    if (more)
      copy_x(d, f, s, m);
  }
}

/* ---- the warps that turn B ---- */

/* A head's times before they are stored, of the tokens of own_decays. */
struct own_tokens {
  float2 dt, share;
  struct own_decays decays;
  INLINE_DEVICE void compute(float A)
  {
    double l[2], all;
    add_up_times(dt, A, l, &all);
    double last = from_lane(l[1], ~(int)threadIdx.x & 3); /* of the eight tokens */
    decays.compute(dt, l, all);
    share.x = power_of_2((float)(last - l[0])) * dt.x;
    share.y = power_of_2((float)(last - l[1])) * dt.y;
  }
  INLINE_DEVICE void store(struct group_times *to) const
  {
    decays.store(to, dt);
    pair_at(to->share, (int)threadIdx.x % WARP_LANES * 2) = share;
  }
};

/* B' in fours by fours, by two warps: a lane has tokens 8 a + odd + 2 k of one four of columns n, k
 * = 0 to 3.  Of eight lanes that read or write together each finds its four in other banks: `four`
 * and `a` differ in ways that reading, where a token's lowest bit counts, and writing, where the
 * lowest of `four` does, tell apart. */
INLINE_DEVICE void turn_B(panels<TENSOR_TOKENS> B, panels<TENSOR_STATE> to)
{
  typedef panels<TENSOR_TOKENS> from_panels;
  typedef panels<TENSOR_STATE> to_panels;
  int lane = (int)threadIdx.x % WARP_LANES;
  int four = (lane & 1) * 4 + (lane & 2) + own_warp() % 2;
  int a = four / 2 ^ lane >> 3, odd = (lane >> 2 ^ four) & 1;
  int from[4], put[4];
#pragma unroll
  for (int k = 0; k < 4; k++) {
    from[k] = from_panels::offset(8 * a + odd + 2 * k, four);
    put[k] = to_panels::offset(four / 2 * 8 + 2 * k + four % 2, 2 * a + odd);
  }
#pragma unroll
  for (int i = 0; i < 8; i++) { /* eights of fours, halves of the tokens */
    const float *source = B.at + from_panels::offset(i % 2 * 32, i / 2 * 8);
    float *target = to.at + to_panels::offset(i / 2 * 32, i % 2 * 8);
    float4 v[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
      v[k] = *(const float4 *)(source + from[k]);
    auto store = [&](int m, float t0, float t1, float t2, float t3) {
      float4 tokens;
      tokens.x = rounded<1>(t0), tokens.y = rounded<1>(t1);
      tokens.z = rounded<1>(t2), tokens.w = rounded<1>(t3);
      *(float4 *)(target + put[m]) = tokens;
    };
    store(0, v[0].x, v[1].x, v[2].x, v[3].x);
    store(1, v[0].y, v[1].y, v[2].y, v[3].y);
    store(2, v[0].z, v[1].z, v[2].z, v[3].z);
    store(3, v[0].w, v[1].w, v[2].w, v[3].w);
  }
}

INLINE_DEVICE void turn_chunks(struct ssd_shape d, struct tensor_forward f,
                               struct forward_grid grid, struct warpgroup_memory m)
{
  struct own_tokens own = {};
  int head = own_warp() % FORWARD_HEADS; /* whose times this warp has */
  struct forward_steps s(d, grid);
  bool more = s.there(grid);
  auto prepare = [&](int step) {
    if (head < s.heads)
      own.dt = own_times(f.dt + s.token(d) * d.H + s.first + head, d.H, s.tokens(d));
    await_barrier<LANDED, GROUP_LANES>();
    turn_B(m.B(step), m.turned(step));
    show_to_products();
    if (head < s.heads)
      own.compute(decay_rate(f.A_log, s.first + head));
  };
  if (more)
    prepare(0);
#pragma unroll 1
  for (int step = 0; more; step++) {
    await_chunk();
    own.store(m.times(head));
    arrive_at_barrier<PREPARED, WARPGROUP_THREADS>();
    s.next(d, grid);
    more = s.there(grid);
    if (more)
      prepare(step + 1);
  }
}

/* ---- states, in sums ---- */

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

/* f(k, half, at, there): the four from `at` on of a state (P,N) at `states`, n = 8 k + 4 t, row
 * g + 8 half, is of sums k and k + 1 when lanes have exchanged them. */
template <class T, class F>
INLINE_DEVICE void for_fours_of_state(struct ssd_shape d, T *states, F f)
{
  int left = own_channel() < d.P ? (int)d.N - 4 * lane_pair() : 0;
  T *row = states + own_channel() * d.N + 4 * lane_pair();
#pragma unroll
  for (int half = 0; half < 2; half++, row += d.N)
#pragma unroll
    for (int k = 0; k < STATE_TILES; k += 2)
      f(k, half, row + 8 * k, 8 * k < left);
}

INLINE_DEVICE void load_columns(struct ssd_shape d, const real *from,
                                float (&state)[STATE_TILES][4])
{
  clear_sums(state);
  if (from)
    for_fours_of_state(d, from, [&](int k, int half, const real *at, bool there) {
      float4 four = {};
      if (there)
        four = *(const float4 *)at;
      four = exchange_fours(four.x, four.y, four.z, four.w);
      state[k][2 * half] = four.x, state[k][2 * half + 1] = four.y;
      state[k + 1][2 * half] = four.z, state[k + 1][2 * half + 1] = four.w;
    });
}

INLINE_DEVICE void store_columns_of(struct ssd_shape d, const float (&state)[STATE_TILES][4],
                                    real *to)
{
  for_fours_of_state(d, to, [&](int k, int half, real *at, bool there) {
    float4 four = exchange_fours(state[k][2 * half], state[k][2 * half + 1], state[k + 1][2 * half],
                                 state[k + 1][2 * half + 1]);
    if (there)
      put_four(at, 0, four);
  });
}

/* In half precision, and behind it each of the four warps' half_scale.from. */
INLINE_DEVICE void store_halves(struct ssd_shape d, const float (&state)[STATE_TILES][4], real *to)
{
  struct half_scale s(largest_of_lanes(largest_of(state)));
#pragma unroll
  for (int half = 0; half < 2; half++) {
    real *row = to + place_in_halves(own_channel() + half, lane_pair());
#pragma unroll
    for (int i = 0; i < 2; i++, row += d.P * HALF_ROW) {
      float4 even, odd; /* pairs: o = 0, 1 above */
      float *word[2] = {&even.x, &odd.x};
#pragma unroll
      for (int m = 0; m < 4; m++) {
        int k = 8 * i + 2 * m;
        float4 four = exchange_fours(state[k][2 * half], state[k][2 * half + 1],
                                     state[k + 1][2 * half], state[k + 1][2 * half + 1]);
        word[0][m] = halves_of(s.to * four.x, s.to * four.y);
        word[1][m] = halves_of(s.to * four.z, s.to * four.w);
      }
      if (own_channel() < d.P)
        put_four(row, 0, even), put_four(to + ((row - to) ^ 16), 0, odd);
    }
  }
  if (threadIdx.x % WARP_LANES == 0)
    to[d.P * HALF_FLOATS + own_warp() % HEAD_WARPS] = s.from;
}

/* ---- the warpgroups that multiply ---- */

/* w of a head: rows i, columns in the order of terms. */
INLINE_DEVICE void put_weights(const float (&scores)[TOKEN_TILES][4], struct group_times *times,
                               panels<TENSOR_TOKENS> w)
{
  typedef panels<TENSOR_TOKENS> weights;
  int first = own_channel() & ~15, g = lane_row(), t = lane_pair();
  float *row = w.at + weights::offset(first, 0) + g * PANEL + t;
  float high[2], low[2];
#pragma unroll
  for (int half = 0; half < 2; half++)
    high[half] = times->high[first + g + 8 * half], low[half] = times->low[first + g + 8 * half];
#pragma unroll
  for (int n = 0; n < TOKEN_TILES; n++) {
    int j = 8 * n + 2 * t;
    float2 share = pair_at(times->share, j);
    float last = times->high[8 * n + 7], below = times->low[8 * n + 7];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int i = first + 8 * half; /* of eight rows */
      float even = 0, odd = 0;
      if (8 * n < i) {
        float until = power_of_2((high[half] - last) + (low[half] - below));
        even = scores[n][2 * half] * until * share.x;
        odd = scores[n][2 * half + 1] * until * share.y;
      } else if (8 * n == i) {
        float2 l = {high[half], low[half]}, dt = pair_at(times->dt, j);
        float2 above = pair_at(times->high, j), under = pair_at(times->low, j);
        even = scores[n][2 * half] * decay_over(l, {above.x, under.x}) * dt.x;
        odd = scores[n][2 * half + 1] * decay_over(l, {above.y, under.y}) * dt.y;
        even = 2 * t <= g ? even : 0;
        odd = 2 * t + 1 <= g ? odd : 0;
      }
      row[weights::offset(8 * half, n / 4 * 8) + 4 * (2 * n % 8 ^ g)] = rounded<1>(even);
      row[weights::offset(8 * half, n / 4 * 8) + 4 * ((2 * n + 1) % 8 ^ g)] = rounded<1>(odd);
    }
  }
}

/* y' += S C' over half of the columns n: all of S would not fit into the registers once more. */
enum { HALF_STATE = STATE_TILES / 2 };
template <int FIRST>
INLINE_DEVICE void begin_from_state(float (&y)[TOKEN_TILES][4],
                                    const float (&state)[STATE_TILES][4], operand C)
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
    group_mma(y, terms[k], terms_behind<TENSOR_TOKENS>(C, FIRST + k), FIRST + k > 0);
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

INLINE_DEVICE void multiply_chunks(struct ssd_shape d, struct tensor_forward f,
                                   struct forward_grid grid, struct warpgroup_memory m)
{
  int head = own_warp() / HEAD_WARPS, step = 0;
  struct group_times *times = m.times(head);
  float state[STATE_TILES][4];
  float2 D = {};
#pragma unroll 1
  for (struct forward_steps s(d, grid); s.there(grid); s.next(d, grid), step++) {
    bool there = head < s.heads;
    int h = s.first + (there ? head : 0);
    auto carried = [&](auto *states) {
      return states + ((f.row ? f.row[s.b] : s.b) * d.H + h) * d.P * d.N;
    };
    float scores[TOKEN_TILES][4], y[TOKEN_TILES][4], x[TOKEN_TILES][4], gained[TOKEN_TILES][4];
    if (s.c == 0) {
      D = skips_of(d, f.D, h, own_channel());
      load_columns(d, f.S0 ? carried(f.S0) : NULL, state);
    }
    operand C = operand_at(m.C(step).at), B = operand_at(m.B(step).at);
    operand w = operand_at(m.w(step, head).at), turned = operand_at(m.turned(step).at);
    clear_sums(y);
    clear_sums(scores);
    await_chunk();
    begin_products();
#pragma unroll
    for (int k = 0; k < TENSOR_STATE / 8; k++)
      group_mma(scores, terms_behind<TENSOR_TOKENS>(C, k), terms_behind<TENSOR_TOKENS>(B, k),
                k > 0);
    end_products();
    begin_from_state<0>(y, state, C);
    if (f.S && there && !(d.from_zero && s.c == 0)) {
      real *to = f.S + ((s.b * (int64_t)grid.chunks + s.c) * d.H + h) * d.P * d.N;
      if (grid.halves)
        store_halves(d, state, to);
      else
        store_columns_of(d, state, to);
    }
    await_products<1>();
    settle_sums(scores);
    await_barrier<PREPARED, WARPGROUP_THREADS>();
    put_weights(scores, times, m.w(step, head));
    await_products<0>();
    settle_sums(y);
    begin_from_state<HALF_STATE>(y, state, C);
#pragma unroll
    for (int k = 0; k < TOKEN_TILES; k++) {
      struct channels_of channels = {m.x(head)};
      float2 even = channels(k, 0), odd = channels(k, 1);
      x[k][0] = even.x, x[k][1] = even.y, x[k][2] = odd.x, x[k][3] = odd.y;
    }
    arrive_at_barrier<READ, (int)MULTIPLYING + (int)COPYING>();
    show_to_products();
    if (head == 0)
      await_barrier<WEIGHED, GROUP_LANES>();
    else
      await_barrier<WEIGHED + 1, GROUP_LANES>();
    await_products<0>();
    settle_sums(y);
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
      float2 e = pair_at(times->until, 8 * n + 2 * lane_pair());
      y[n][0] *= e.x, y[n][1] *= e.y, y[n][2] *= e.x, y[n][3] *= e.y;
    }
    scale_sums(state, times->until[TENSOR_TOKENS - 1]);
    gained_terms(x, times->gain, gained);
    settle_sums(x);
    settle_sums(gained);
    settle_sums(y);
    settle_sums(state);
    begin_products();
#pragma unroll
    for (int k = 0; k < TOKEN_TILES; k++)
      group_mma(y, x[k], terms_behind<TENSOR_TOKENS>(w, k), true);
    end_products();
    begin_products();
#pragma unroll
    for (int k = 0; k < TOKEN_TILES; k++)
      group_mma(state, gained[k], terms_behind<TENSOR_STATE>(turned, k), true);
    end_products();
    await_products<1>();
    settle_sums(y);
    if (there)
      put_outputs(
          d, D,
          [&](int n, int e) {
            return (float2){x[n][2 * e], x[n][2 * e + 1]};
          },
          s.tokens(d), y, f.y + (s.token(d) * d.H + h) * d.P);
    await_products<0>();
    settle_sums(state);
    if (f.S1 && there && s.c == grid.chunks - 1)
      store_columns_of(d, state, carried(f.S1));
  }
}

static __global__ void __launch_bounds__(WARPGROUP_THREADS, 1)
    warpgroup_forward(struct ssd_shape d, struct tensor_forward f, struct forward_grid grid)
{
#if HAS_WARPGROUPS
  typedef warpgroup_registers<224, 224, 56> registers;
  SHARED_FLOATS(memory);
  struct warpgroup_memory m = {memory};
  if (threadIdx.x < MULTIPLYING) {
    registers::begin<224>();
    multiply_chunks(d, f, grid, m);
  } else {
    registers::begin<56>();
    if (threadIdx.x < (int)MULTIPLYING + (int)TURNING)
      turn_chunks(d, f, grid, m);
    else
      copy_chunks(d, f, grid, m);
  }
#endif
}

/* ---- on the host ---- */

/* Rb in halves takes the place of what batched products need, from chunk_scratch.scaled on. */
static bool halves_fit(struct ssd_shape d) { return 2 * ssd_chunk_length(d) + d.N >= HALF_FLOATS; }

static bool has_warpgroups(stream st, int needed)
{
  const struct device *d = device_of(st);
  return d->warpgroups && d->matmul != PLUGIN_IEEE && floats(needed) <= d->shared_bytes;
}

/* Whether warpgroups take both ways of the shape, and the way back what store_halves made of S. */
static bool keeps_halves(stream st, struct ssd_shape d)
{
  return d.only_vjp && !d.A_negative && d.N > HALF_FLOATS && halves_fit(d) && d.P % 4 == 0 &&
         d.N % 4 == 0 && d.ld % 4 == 0 && chunk_heads(d) <= INT32_MAX / 2 &&
         on_tensor_cores(st, d, WARPGROUP_FLOATS) && has_warpgroups(st, WARPGROUP_FLOATS);
}

static void forward_on_tensor_cores(stream st, struct ssd_shape d, struct tensor_forward f)
{
  int64_t count = d.B * d.G * forward_blocks(d);
  struct forward_grid grid = {(int)ssd_chunks(d), (int)forward_blocks(d), (int)count,
                              keeps_halves(st, d)};
  if (f.y && count <= INT32_MAX / 2 && has_warpgroups(st, WARPGROUP_FLOATS))
    LAUNCH_SHARED(st, count < PROCESSORS ? count : PROCESSORS, WARPGROUP_THREADS,
                  floats(WARPGROUP_FLOATS), warpgroup_forward, d, f, grid);
  else
    tensor_fwd(st, d, f);
}
#endif
