/* gated_tiles_cuda.h: what gated_linear, its VJP and linear_conv share where each is one pass on
 * compute capability 9.0: blocks of rows, and weights that a ninth warp sends to the eight that
 * multiply.
 *
 * A block has TILE_ROWS rows at a time, and each of its eight warps 16 of them.  The weights lie in
 * global memory as the product wants them in shared memory, and come there by stages of
 * STAGE_FLOATS: a signal is given when a stage has come, another when the warps have read it. */
#ifndef KERNELS_GATED_TILES_CUDA_H
#define KERNELS_GATED_TILES_CUDA_H
#include "kernels/device_cuda.h"
#include "kernels/rows.h"
#include "kernels/warpgroup_cuda.h"

enum {
  TILE_ROWS = 128,
  MULTIPLIERS = 256,                             /* threads that multiply */
  TILE_THREADS = MULTIPLIERS + (int)GROUP_LANES, /* of the others one sends */
  MULTIPLYING_WARPS = MULTIPLIERS / (int)WARP_LANES,
  INPUT_STRIDE = 4 * MULTIPLIERS, /* floats between a thread's fours of what it reads itself */
  WEIGHT_STAGES = 3
};

INLINE int tiles_of(int64_t M) { return (int)((M + TILE_ROWS - 1) / TILE_ROWS); }
#define FOR_OWN_TILES(tile, M) \
  for (int tile = (int)blockIdx.x, tiles_ = tiles_of(M); tile < tiles_; tile += (int)gridDim.x)
/* Of so many, those of this block, which has every gridDim.x-th. */
INLINE_DEVICE int own_of(int count)
{
  return (count - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
}

/* This lane's rows of a tile: g and g + 8 of its warp's. */
INLINE_DEVICE int64_t own_tile_row(int tile)
{
  return (int64_t)tile * TILE_ROWS + 16 * own_warp() + lane_row();
}

/* A row of D and the eighth behind it come to L2, by the four lanes that will have them. */
template <int D> INLINE_DEVICE void prefetch_two_rows(const float *row)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int line = 0; line < D / PANEL; line += 4)
      if (line + lane_pair() < D / PANEL)
        prefetch(row + half * 8 * D + (line + lane_pair()) * PANEL);
}

INLINE_DEVICE void get_four(const float *from, float (&to)[4])
{
  float4 four = *(const float4 *)from;
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

INLINE_DEVICE float dot_of_fours(float4 a, float4 b)
{
  return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w);
}

INLINE_DEVICE float4 times_four(float4 a, float4 b)
{
  a.x *= b.x, a.y *= b.y, a.z *= b.z, a.w *= b.w;
  return a;
}

/* Where exp(-z) is infinite this is -0. */
INLINE_DEVICE float gated(float y, float z)
{
  const float log2_e = 1.44269504f;
  return y * DIVIDE(z, 1 + power_of_2(-log2_e * z));
}

/* The sum of a row of which this lane has a part. */
INLINE_DEVICE float sum_of_row(float own)
{
  own += from_lane(own, 1);
  return own + from_lane(own, 2);
}

/* (mean + eps)^(-1/2) of a row of which this lane has a part of the sum of n squares. */
INLINE_DEVICE float scale_of_row(float squares, int n, float eps)
{
  float mean = sum_of_row(squares) / (float)n + eps;
  return INVERSE_ROOT(mean);
}

/* Of a row's sums, of which four lanes have fours, the i-th of this lane. */
template <int TILES>
INLINE_DEVICE float4 scaled_four(const float (&sums)[TILES][4], int half, int i, float r)
{
  float4 four;
  four.x = r * sums[2 * i][2 * half], four.y = r * sums[2 * i][2 * half + 1];
  four.z = r * sums[2 * i + 1][2 * half], four.w = r * sums[2 * i + 1][2 * half + 1];
  return four;
}

template <int TILES>
INLINE_DEVICE void set_four(float (&sums)[TILES][4], int half, int i, float4 four)
{
  sums[2 * i][2 * half] = four.x, sums[2 * i][2 * half + 1] = four.y;
  sums[2 * i + 1][2 * half] = four.z, sums[2 * i + 1][2 * half + 1] = four.w;
}

/* Left operands of two rows, by fours: of a lane the j-th are terms 16 j + 4 t and the next. */
template <int STEPS>
INLINE_DEVICE void set_terms(float (&terms)[STEPS][4], int half, int j, float4 four)
{
  terms[2 * j][half] = four.x, terms[2 * j][2 + half] = four.y;
  terms[2 * j + 1][half] = four.z, terms[2 * j + 1][2 + half] = four.w;
}
template <int STEPS>
INLINE_DEVICE float4 four_of_terms(const float (&terms)[STEPS][4], int half, int j)
{
  float4 four;
  four.x = terms[2 * j][half], four.y = terms[2 * j][2 + half];
  four.z = terms[2 * j + 1][half], four.w = terms[2 * j + 1][2 + half];
  return four;
}

template <int STEPS> INLINE_DEVICE void round_terms(float (&terms)[STEPS][4])
{
#pragma unroll
  for (int k = 0; k < STEPS; k++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      terms[k][i] = rounded<1>(terms[k][i]);
}

template <int STAGE_FLOATS, int STAGES = WEIGHT_STAGES> struct weight_ring {
  enum {
    SIGNALS = STAGES * STAGE_FLOATS,
    FLOATS = SIGNALS + 2 * STAGES * (int)(sizeof(uint64_t) / sizeof(float))
  };
  typedef ring_place<STAGES> ring_stage;
  float *at;
  INLINE_DEVICE float *stage(int i) const { return at + i * STAGE_FLOATS; }
  INLINE_DEVICE uint64_t *come(int i) const { return (uint64_t *)(at + SIGNALS) + i; }
  INLINE_DEVICE uint64_t *read(int i) const { return come(STAGES + i); }
  /* By all threads, before anything else. */
  INLINE_DEVICE void make_signals(void) const
  {
    if (threadIdx.x == 0)
      for (int i = 0; i < STAGES; i++) {
        make_signal(come(i), 1);
        make_signal(read(i), MULTIPLYING_WARPS);
      }
    __syncthreads();
  }
  /* By one thread: `stages` of weights, so many times. */
  INLINE_DEVICE void send(const float *weights, int stages, int times) const
  {
    ring_stage to = {0, 0};
    for (int time = 0; time < times; time++)
      for (int i = 0; i < stages; i++) {
        if (to.use > 0)
          await_signal(read(to.stage), to.use - 1);
        copy_block(stage(to.stage), weights + i * (int64_t)STAGE_FLOATS,
                   STAGE_FLOATS * (int)sizeof(float), come(to.stage));
        to.step();
      }
  }
};
typedef ring_place<WEIGHT_STAGES> weight_place;
#endif
