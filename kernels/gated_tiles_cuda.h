/* gated_tiles_cuda.h: what gated_linear and its VJP share where each is one pass on compute
 * capability 9.0: blocks of rows, and weights that a ninth warp sends to the eight that multiply.
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

/* This lane's rows of a tile: g and g + 8 of its warp's. */
INLINE_DEVICE int64_t own_tile_row(int tile)
{
  return (int64_t)tile * TILE_ROWS + 16 * own_warp() + lane_row();
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

typedef ring_place<WEIGHT_STAGES> weight_place;

template <int STAGE_FLOATS> struct weight_ring {
  enum {
    SIGNALS = WEIGHT_STAGES * STAGE_FLOATS,
    FLOATS = SIGNALS + 2 * WEIGHT_STAGES * (int)(sizeof(uint64_t) / sizeof(float))
  };
  float *at;
  INLINE_DEVICE float *stage(int i) const { return at + i * STAGE_FLOATS; }
  INLINE_DEVICE uint64_t *come(int i) const { return (uint64_t *)(at + SIGNALS) + i; }
  INLINE_DEVICE uint64_t *read(int i) const { return come(WEIGHT_STAGES + i); }
  /* By all threads, before anything else. */
  INLINE_DEVICE void make_signals(void) const
  {
    if (threadIdx.x == 0)
      for (int i = 0; i < WEIGHT_STAGES; i++) {
        make_signal(come(i), 1);
        make_signal(read(i), MULTIPLYING_WARPS);
      }
    __syncthreads();
  }
  /* By one thread: `stages` of weights to each of the block's tiles of M rows. */
  INLINE_DEVICE void send(const float *weights, int stages, int64_t M) const
  {
    weight_place to = {0, 0};
    FOR_OWN_TILES(tile, M)
    for (int i = 0; i < stages; i++) {
      if (to.use > 0)
        await_signal(read(to.stage), to.use - 1);
      copy_block(stage(to.stage), weights + i * (int64_t)STAGE_FLOATS,
                 STAGE_FLOATS * (int)sizeof(float), come(to.stage));
      to.step();
    }
  }
};
#endif
