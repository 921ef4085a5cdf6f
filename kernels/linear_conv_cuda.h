/* linear_conv_cuda.h: linear_conv in one pass on compute capability 9.0, where `matmul` is tf32;
 * part of linear_conv.c.
 *
 *   zx (M,N) = beta c + xn W',   xn (M,K) given, or r h w,  r = (mean(h^2) + eps)^(-1/2) by row
 *   y (M,C)  = silu(v),  v_t = bias + sum_k w_k zx_{t-3+k},  of C of zx's columns, by channel
 *
 * Each of a block's two warpgroups goes through the rows of a sequence, 64 at a time.  Their xn are
 * left operands and stay in registers while columns go by, COLUMNS at a time: the weights come for
 * both by one warp (gated_tiles_cuda.h), what is added to them for each by another, to one of two
 * places.  The warpgroups multiply in turn, so that one's products run beside what the other does
 * with its sums.
 *
 * Columns that are convolved go back to the place: each warp convolves 16 rows, a lane two
 * channels, and begins with the three rows before its own; those before the 64 have been kept. */
#ifndef KERNELS_LINEAR_CONV_CUDA_H
#define KERNELS_LINEAR_CONV_CUDA_H
#include "kernels/weights_in_order_cuda.h"

enum {
  COLUMNS = 64,
  CONV_TAPS = 4,
  CONV_PAST = CONV_TAPS - 1,
  GROUPS = MULTIPLIERS / (int)GROUP_LANES,
  GROUP_WARPS = MULTIPLYING_WARPS / (int)GROUPS,
  GROUP_ROWS = 64,
  WARP_ROWS = GROUP_ROWS / (int)GROUP_WARPS,
  PLACES = 2,
  PLACE_FLOATS = GROUP_ROWS * COLUMNS,
  FIRST_TURN = 1,                              /* barriers: a warpgroup's turn to multiply */
  FIRST_PLACED = (int)FIRST_TURN + (int)GROUPS /* its sums are in their place */
};

struct projection {
  int T, sequences, steps, K, N, first, C; /* steps of COLUMNS make N */
  float eps;
  const float *h, *norm_w; /* norm_w NULL: h is xn */
  const float *weights;    /* W in order */
  const float *c;          /* NULL: nothing is added */
  const float *w, *bias;   /* (C,CONV_TAPS), and (C) or NULL */
  float *r, *xn;           /* xn NULL: not wanted */
  float *zx, *y;
  bool keeps; /* what is convolved */
};

/* Of the shared memory. */
template <int K> struct projection_memory {
  enum { TERMS = 64, PARTS = K / TERMS, STAGES = 8 }; /* of a stage, stages of a step */
  typedef weight_ring<(int)TERMS *(int)COLUMNS, STAGES> ring;
  enum {
    SIGNALS = (int)ring::FLOATS + (int)GROUPS * (int)PLACES * (int)PLACE_FLOATS,
    PER_CHANNEL = SIGNALS + 2 * (int)GROUPS * (int)PLACES * (int)(sizeof(uint64_t) / sizeof(float))
  };
  ring weights;
  int C;
  INLINE_DEVICE projection_memory(float *at, int channels) : C(channels) { weights.at = at; }
  INLINE_DEVICE float *place(int group, int i) const
  {
    return weights.at + ring::FLOATS + (group * PLACES + i) * PLACE_FLOATS;
  }
  /* What is added has come to a place; it is free for others. */
  INLINE_DEVICE uint64_t *come(int group, int i) const
  {
    return (uint64_t *)(weights.at + SIGNALS) + group * PLACES + i;
  }
  INLINE_DEVICE uint64_t *free(int group, int i) const { return come(GROUPS + group, i); }
  /* A group's (CONV_PAST,C) rows before those it has. */
  INLINE_DEVICE float *past(int group) const
  {
    return weights.at + PER_CHANNEL + group * CONV_PAST * C;
  }
  static size_t bytes(int64_t C)
  {
    return ((int64_t)PER_CHANNEL + GROUPS * CONV_PAST * C) * sizeof(float);
  }
  /* By all threads, before anything else. */
  INLINE_DEVICE void make_signals(void) const
  {
    if (threadIdx.x == 0)
      for (int i = 0; i < GROUPS * PLACES; i++) {
        make_signal(come(0, i), WARP_LANES);
        make_signal(free(0, i), GROUP_WARPS);
      }
    weights.make_signals();
  }
};

/* The sequences b of a warpgroup, and their rows from t on. */
#define FOR_OWN_SEQUENCES(b, group, p) \
  for (int b = (int)blockIdx.x * GROUPS + (group); b < (p).sequences; b += (int)gridDim.x * GROUPS)
#define FOR_OWN_ROWS(t, p) for (int t = 0; t < (p).T; t += GROUP_ROWS)

/* ---- a tile's left operands ---- */

/* The first of a lane's two rows of its warpgroup's 64; the other is 8 behind it. */
INLINE_DEVICE int own_group_row(void)
{
  return WARP_ROWS * (own_warp() % GROUP_WARPS) + lane_row();
}

/* Rows `row` and row + 8, where they are to be normed r h: w goes with the weights.  Rounded. */
template <int K>
INLINE_DEVICE void load_rows(struct projection p, int64_t row, float (&terms)[K / 8][4])
{
  int64_t at = row * K + 4 * lane_pair();
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int j = 0; j < K / 16; j++)
      set_terms(terms, half, j, *(const float4 *)(p.h + at + half * 8 * K + 16 * j));
  if (p.norm_w) {
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float squares = 0;
#pragma unroll
      for (int j = 0; j < K / 16; j++) {
        float4 four = four_of_terms(terms, half, j);
        squares += dot_of_fours(four, four);
      }
      scale[half] = scale_of_row(squares, K, p.eps);
      if (lane_pair() == 0)
        p.r[row + 8 * half] = scale[half];
    }
#pragma unroll
    for (int k = 0; k < K / 8; k++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        terms[k][i] *= scale[i % 2];
    settle_sums(terms);
    if (p.xn)
#pragma unroll
      for (int j = 0; j < K / 16; j++) {
        float4 w = *(const float4 *)(p.norm_w + 16 * j + 4 * lane_pair());
#pragma unroll
        for (int half = 0; half < 2; half++)
          put_four(p.xn + at + half * 8 * K + 16 * j, 0,
                   times_four(four_of_terms(terms, half, j), w));
      }
  }
  settle_sums(terms);
  round_terms(terms);
  settle_sums(terms);
}

/* ---- what is added, and stored ---- */

/* Where columns `column` to column + 3 of a row lie in a place: in odd rows halves of 32 banks
 * change sides, as lanes of two rows read and write together. */
INLINE_DEVICE int placed(int row, int column) { return row * COLUMNS + (column ^ (row & 1) << 4); }

/* By one warp: to a warpgroup's places.  A place's arrival is told of when copies to the next are
 * under way. */
template <int K>
INLINE_DEVICE void send_added(struct projection p, struct projection_memory<K> m, int group)
{
  enum {
    FOURS = COLUMNS / 4,
    APART = (int)WARP_LANES / (int)FOURS,
    OFTEN = GROUP_ROWS / (int)APART
  };
  ring_place<PLACES> at = {0, 0};
  int lane = (int)threadIdx.x % WARP_LANES, row = lane / FOURS, own = lane % FOURS * 4, before = -1;
  int64_t apart = APART * (int64_t)p.N;
  FOR_OWN_SEQUENCES(b, group, p)
  FOR_OWN_ROWS(t, p)
  for (int column = 0; column < p.N; column += COLUMNS) {
    bool there = column + own < p.N;
    const float *from = p.c + ((int64_t)b * p.T + t + row) * p.N + (there ? column + own : 0);
    float *to = m.place(group, at.stage) + placed(row, own);
    if (at.use > 0)
      await_signal(m.free(group, at.stage), at.use - 1);
#pragma unroll(8)
    for (int i = 0; i < OFTEN; i++, from += apart, to += APART * COLUMNS)
      copy_16_bytes(to, from, there);
    end_batch();
    await_batches<1>();
    if (before >= 0)
      arrive(m.come(group, before), true);
    before = at.stage;
    at.step();
  }
  await_batches<0>();
  if (before >= 0)
    arrive(m.come(group, before), true);
}

enum {
  STEP_FOURS = 8
}; /* of a lane: the k-th in row 8 (k%2) behind its first, 16 (k/2) columns on */

/* In a place, where they have come, and in zx. */
INLINE_DEVICE void add_to_sums(const float *place, float (&sums)[COLUMNS / 8][4])
{
#pragma unroll
  for (int k = 0; k < STEP_FOURS; k++) {
    int at = placed(own_group_row() + k % 2 * 8, k / 2 * 16 + 4 * lane_pair());
    float4 added = *(const float4 *)(place + at);
    set_four(sums, k % 2, k / 2, add_fours(scaled_four(sums, k % 2, k / 2, 1), 1, added));
  }
}

INLINE_DEVICE void put_projected(struct projection p, int64_t row, int column,
                                 const float (&sums)[COLUMNS / 8][4])
{
  float *to = p.zx + row * p.N + column + 4 * lane_pair();
#pragma unroll
  for (int k = 0; k < STEP_FOURS; k++)
    if (column + k / 2 * 16 < p.N)
      put_four(to + k % 2 * 8 * p.N + k / 2 * 16, 0, scaled_four(sums, k % 2, k / 2, 1));
}

/* ---- the convolution ---- */

INLINE_DEVICE float2 two_at(const float *at) { return *(const float2 *)at; }

INLINE_DEVICE void put_in_place(const float (&sums)[COLUMNS / 8][4], float *place)
{
#pragma unroll
  for (int k = 0; k < STEP_FOURS; k++) {
    int at = placed(own_group_row() + k % 2 * 8, k / 2 * 16 + 4 * lane_pair());
    *(float4 *)(place + at) = scaled_four(sums, k % 2, k / 2, 1);
  }
}

/* What convolves a lane's two channels. */
struct two_channels {
  float2 tap[CONV_TAPS], bias;
};

INLINE_DEVICE void load_channels(struct projection p, int channel, struct two_channels &to)
{
  int c = channel + 2 * ((int)threadIdx.x % WARP_LANES);
  const float4 *w = (const float4 *)(p.w + c * CONV_TAPS);
  float4 of[2] = {w[0], w[1]};
  to.tap[0].x = of[0].x, to.tap[1].x = of[0].y, to.tap[2].x = of[0].z, to.tap[3].x = of[0].w;
  to.tap[0].y = of[1].x, to.tap[1].y = of[1].y, to.tap[2].y = of[1].z, to.tap[3].y = of[1].w;
  to.bias = p.bias ? two_at(p.bias + c) : float2{};
}

/* Of 64 rows from `first` on, channels from `channel` on, which begin a sequence or go on with it.
 */
template <int K>
INLINE_DEVICE void convolve(struct projection p, struct projection_memory<K> m, float *place,
                            int64_t first, bool begins, int channel, const struct two_channels &of,
                            const float (&sums)[COLUMNS / 8][4])
{
  int group = own_warp() / GROUP_WARPS, w = own_warp() % GROUP_WARPS;
  int two = 2 * ((int)threadIdx.x % WARP_LANES), c = channel + two;
  float *past = m.past(group) + c;
  float2 before[CONV_PAST] = {};
  put_in_place(sums, place);
  if (w == 0 && !begins)
#pragma unroll
    for (int k = 0; k < CONV_PAST; k++)
      before[k] = two_at(past + k * p.C);
  if (group == 0)
    await_barrier<FIRST_PLACED, GROUP_LANES>();
  else
    await_barrier<FIRST_PLACED + 1, GROUP_LANES>();
  if (w > 0)
#pragma unroll
    for (int k = 0; k < CONV_PAST; k++)
      before[k] = two_at(place + placed(WARP_ROWS * w - CONV_PAST + k, two));
  float *to = p.y + (first + WARP_ROWS * w) * p.C + c;
#pragma unroll
  for (int i = 0; i < WARP_ROWS; i++, to += p.C) {
    float2 x = two_at(place + placed(WARP_ROWS * w + i, two)), v = of.bias;
#pragma unroll
    for (int k = 0; k < CONV_PAST; k++) {
      v.x = add_product(v.x, of.tap[k].x, before[k].x),
      v.y = add_product(v.y, of.tap[k].y, before[k].y);
      before[k] = k + 1 < CONV_PAST ? before[k + 1] : x;
    }
    v.x = add_product(v.x, of.tap[CONV_PAST].x, x.x),
    v.y = add_product(v.y, of.tap[CONV_PAST].y, x.y);
    v.x = gated(1, v.x), v.y = gated(1, v.y);
    *(float2 *)to = v;
  }
  if (w == GROUP_WARPS - 1)
#pragma unroll
    for (int k = 0; k < CONV_PAST; k++)
      *(float2 *)(past + k * p.C) = before[k];
}

/* ---- the pass ---- */

/* sums = xn W' of the next columns. */
template <int K>
INLINE_DEVICE void multiply_columns(struct projection_memory<K> m,
                                    ring_place<projection_memory<K>::STAGES> &at,
                                    const float (&terms)[K / 8][4], float (&sums)[COLUMNS / 8][4])
{
  enum { STEPS = projection_memory<K>::TERMS / 8, PARTS = projection_memory<K>::PARTS };
  bool speaks = threadIdx.x % WARP_LANES == 0; /* for its warp */
  int before = 0;
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    await_signal(m.weights.come(at.stage), at.use);
    operand weights = operand_at(m.weights.stage(at.stage));
    begin_products();
#pragma unroll
    for (int k = 0; k < STEPS; k++)
      group_mma(sums, terms[part * STEPS + k], terms_behind<COLUMNS>(weights, k), part + k > 0);
    end_products();
    if (part > 0) {
      await_products<1>();
      arrive(m.weights.read(before), speaks);
    }
    before = at.stage;
    at.step();
  }
  await_products<0>();
  arrive(m.weights.read(before), speaks);
  settle_sums(sums);
}

/* A warpgroup's turn to multiply, and the end of it. */
INLINE_DEVICE void await_turn(int group)
{
  if (group == 0)
    await_barrier<FIRST_TURN, MULTIPLIERS>();
  else
    await_barrier<FIRST_TURN + 1, MULTIPLIERS>();
}
INLINE_DEVICE void end_turn(int group)
{
  if (group == 0)
    arrive_at_barrier<FIRST_TURN + 1, MULTIPLIERS>();
  else
    arrive_at_barrier<FIRST_TURN, MULTIPLIERS>();
}

template <int K>
INLINE_DEVICE void project_rows(struct projection p, struct projection_memory<K> m, int group)
{
  ring_place<projection_memory<K>::STAGES> weights = {0, 0};
  ring_place<PLACES> at = {0, 0};
  int next = (int)gridDim.x * GROUPS;
  float terms[K / 8][4], sums[COLUMNS / 8][4];
  struct two_channels of = {};
  if (group > 0)
    end_turn(group);
  FOR_OWN_SEQUENCES(b, group, p)
  FOR_OWN_ROWS(t, p)
  {
    int64_t first = (int64_t)b * p.T + t, row = first + own_group_row();
    bool last = t + GROUP_ROWS == p.T;
    load_rows<K>(p, row, terms);
#pragma unroll 1
    for (int i = 0; i < p.steps; i++) {
      int column = i * COLUMNS, channel = column - p.first;
      bool convolves = channel >= 0 && channel < p.C;
      float *place = m.place(group, at.stage);
      if (convolves)
        load_channels(p, channel, of);
      await_turn(group);
      multiply_columns<K>(m, weights, terms, sums);
      if (group == 0 || !last || b + next < p.sequences || i + 1 < p.steps)
        end_turn(group);
      if (p.c) {
        await_signal(m.come(group, at.stage), at.use);
        add_to_sums(place, sums);
      }
      if (!convolves || p.keeps)
        put_projected(p, row, column, sums);
      if (convolves)
        convolve<K>(p, m, place, first, t == 0, channel, of, sums);
      if (p.c) {
        __syncwarp();
        arrive(m.free(group, at.stage), threadIdx.x % WARP_LANES == 0);
      }
      at.step();
      if (i == p.steps / 2 && (!last || b + next < p.sequences)) {
        int64_t next_row = last ? (int64_t)(b + next) * p.T : first + GROUP_ROWS;
        prefetch_two_rows<K>(p.h + (next_row + own_group_row()) * K);
      }
    }
  }
}

template <int K>
static __global__ void __launch_bounds__(TILE_THREADS, 1) project_and_convolve(struct projection p)
{
#if HAS_WARPGROUPS
  typedef warpgroup_registers<232, 232, 40> registers;
  SHARED_FLOATS(memory);
  struct projection_memory<K> m(memory, p.C);
  m.make_signals();
  if (threadIdx.x < MULTIPLIERS) {
    registers::begin<232>();
    project_rows<K>(p, m, own_warp() / GROUP_WARPS);
  } else {
    registers::begin<40>();
    int other = own_warp() - MULTIPLYING_WARPS;
    if (threadIdx.x == MULTIPLIERS)
      m.weights.send(p.weights, p.steps * projection_memory<K>::PARTS,
                     own_of(p.sequences / GROUPS) * (p.T / GROUP_ROWS));
    else if (p.c && other > 0 && other <= GROUPS)
      send_added<K>(p, m, other - 1);
  }
#endif
}

/* ---- on the host ---- */

template <int K> static bool launch_projection(stream st, struct projection p)
{
  size_t bytes = projection_memory<K>::bytes(p.C);
  if (bytes > device_of(st)->shared_bytes)
    return false;
  int pairs = p.sequences / GROUPS;
  LAUNCH_SHARED(st, pairs < PROCESSORS ? pairs : PROCESSORS, TILE_THREADS, bytes,
                project_and_convolve<K>, p);
  return true;
}

/* false, and nothing is done: not here, not for such shapes, or for so few sequences that many
 * processors would have none, or one less than others. */
static bool convolved_in_one_pass(stream st, int64_t K, real eps, struct branch_norm norm,
                                  const real *x, int64_t N, const real *W, real beta, const real *c,
                                  struct conv1d_shape d, int64_t first, const real *w,
                                  const real *bias, bool keeps, real *zx, real *y)
{
  struct device *device = device_of(st);
  float *weights = (float *)device->turned;
  int64_t steps = (N + COLUMNS - 1) / COLUMNS, count = steps * COLUMNS * K;
  int64_t pairs = d.B / GROUPS, rounds = (pairs + PROCESSORS - 1) / PROCESSORS;
  c = beta == 0 ? NULL : c ? c : zx;
  bool here = device->warpgroups && device->matmul == PLUGIN_TF32 && d.B % GROUPS == 0 &&
              4 * pairs >= 3 * rounds * PROCESSORS && d.B <= INT32_MAX / 4;
  bool plain = (K == 64 || K == 128 || K == 256) && (beta == 0 || beta == 1) && d.W == CONV_TAPS &&
               d.ld == N && N % 16 == 0 && N <= INT32_MAX / K && first % COLUMNS == 0 &&
               d.C % COLUMNS == 0 && d.C >= 2 * COLUMNS && d.T % GROUP_ROWS == 0 &&
               d.T <= INT32_MAX / 2 && count <= (int64_t)(TURNED_BYTES / sizeof *weights);
  bool packed = in_packs(0, norm.w ? norm.x : x) && in_packs(0, norm.w) && in_packs(0, x) &&
                in_packs(0, c) && in_packs(0, zx) && in_packs(0, y) && in_packs(0, w) &&
                in_packs(0, bias);
  bool alone = !norm.w || (!norm.mask && !norm.h && !norm.square && norm.damping == 1);
  if (!here || !plain || !packed || !alone)
    return false;
  struct projection p = {(int)d.T,
                         (int)d.B,
                         (int)steps,
                         (int)K,
                         (int)N,
                         (int)first,
                         (int)d.C,
                         eps,
                         norm.w ? norm.x : x,
                         norm.w,
                         weights,
                         c,
                         w,
                         bias,
                         norm.r,
                         norm.w && keeps ? norm.y : NULL,
                         zx,
                         y,
                         keeps};
  LAUNCH(st, count, put_weights_in_order, (int)COLUMNS, (int)K, (int)N, count, norm.w, W, weights);
  return K == 64    ? launch_projection<64>(st, p)
         : K == 128 ? launch_projection<128>(st, p)
                    : launch_projection<256>(st, p);
}
#endif
