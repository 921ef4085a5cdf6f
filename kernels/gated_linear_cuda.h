/* gated_linear_cuda.h: gated_linear in one pass over y and z, on compute capability 9.0, where
 * `matmul` is tf32; part of gated_linear.c.
 *
 *   out (M,D) = r (s (w W)'),   s = y silu(z) (M,E),   r = (mean(s^2) + eps)^(-1/2) by row
 *
 * A block has 128 rows at a time, of which each of eight warps holds 16, all D sums of them in its
 * registers, as four warps multiply together.  A panel is 32 channels.  y and z of it come by
 * copies of 16 bytes that the lane makes which will read them: nobody else waits for them.  A ninth
 * warp sends the panels of w W, rounded to tf32, which lie in global memory as the product wants
 * them in shared memory (`put_weights_in_order`):
 *
 *   term t + 4 q of step k of a panel  is  channel 16 (k/2) + 4 t + 2 (k%2) + q
 *   right operand's row 8 n + 2 t + e  is  row 16 (n/2) + 4 t + 2 (n%2) + e of W
 *
 * so that a lane has fours of channels, and of outputs, side by side. */
#ifndef KERNELS_GATED_LINEAR_CUDA_H
#define KERNELS_GATED_LINEAR_CUDA_H
#include "kernels/gated_tiles_cuda.h"

enum {
  INPUT_STAGES = 4,
  INPUT_FOURS = 8, /* of y, z and a panel: of two rows and two sixteens each */
  INPUT_FLOATS = INPUT_FOURS * (int)INPUT_STRIDE
};

struct gated_product {
  int64_t M, E, ldz;
  float eps;
  const float *y, *z, *weights; /* w W, in order */
  float *r, *out;
};

/* Of the shared memory: panels of w W; y and z. */
template <int D> struct gated_memory {
  typedef weight_ring<(int)PANEL * D> ring;
  enum { FLOATS = ring::FLOATS + INPUT_STAGES * INPUT_FLOATS };
  ring weights;
  INLINE_DEVICE explicit gated_memory(float *at) { weights.at = at; }
  /* a thread's fours, INPUT_STRIDE apart */
  INLINE_DEVICE float *inputs(void) const { return weights.at + ring::FLOATS + 4 * threadIdx.x; }
};

/* One float of w W in order; there are less than 2^31. */
KERNEL put_weights_in_order(int D, int E, const float *w, const float *W, float *to)
{
  FOR_EACH (i, (int64_t)D * E) {
    int line = (int)i / PANEL, column = (int)i % PANEL, panel = line / D, row = line - panel * D;
    int n = row / 8, m = row % 8, term = 4 * (column / 4 ^ m) + column % 4, k = term / 8;
    int channel = panel * PANEL + 16 * (k / 2) + 4 * (term % 4) + 2 * (k % 2) + term % 8 / 4;
    int from = 16 * (n / 2) + 4 * (m / 2) + 2 * (n % 2) + m % 2;
    to[i] = rounded<1>(w[channel] * W[from * E + channel]);
  }
}

/* ---- the warps that multiply ---- */

/* The copies of y and z, panel by panel, on behind what is multiplied. */
struct input_copies {
  const float *y, *z; /* of the next panel */
  int tile;
  int panels; /* left of this tile */
  int stage;
  bool there[2];

  INLINE_DEVICE void begin_tile(struct gated_product p, int next)
  {
    int64_t row = own_tile_row(next);
    tile = next;
    panels = (int)(p.E / PANEL);
    there[0] = row < p.M, there[1] = row + 8 < p.M;
    row = there[0] ? row : 0;
    y = p.y + row * p.E + 4 * lane_pair();
    z = p.z + row * p.ldz + 4 * lane_pair();
  }

  INLINE_DEVICE void copy(struct gated_product p, float *to)
  {
    to += stage * INPUT_FLOATS;
#pragma unroll
    for (int i = 0; i < INPUT_FOURS / 2; i++) {
      int half = i % 2, channel = i / 2 * 16;
      copy_16_of_256_bytes(to + i * INPUT_STRIDE, y + half * 8 * p.E + channel, there[half]);
      copy_16_of_256_bytes(to + (INPUT_FOURS / 2 + i) * INPUT_STRIDE,
                           z + half * 8 * p.ldz + channel, there[half]);
    }
    end_batch();
    stage = (stage + 1) % INPUT_STAGES;
    y += PANEL, z += PANEL;
    if (--panels == 0)
      begin_tile(p, tile + (int)gridDim.x);
  }
};

/* Where exp(-z) is infinite this is -0. */
INLINE_DEVICE float gated(float y, float z)
{
  const float log2_e = 1.44269504f;
  return y * DIVIDE(z, 1 + power_of_2(-log2_e * z));
}

/* s of a panel as left operands; adds to the sums of s^2 of two rows. */
INLINE_DEVICE void gated_terms(const float *from, float (&terms)[4][4], float (&squares)[2][2])
{
#pragma unroll
  for (int i = 0; i < INPUT_FOURS / 2; i++) {
    int half = i % 2, k = i / 2 * 2;
    float4 y = *(const float4 *)(from + i * INPUT_STRIDE);
    float4 z = *(const float4 *)(from + (INPUT_FOURS / 2 + i) * INPUT_STRIDE);
    float s0 = gated(y.x, z.x), s1 = gated(y.y, z.y), s2 = gated(y.z, z.z), s3 = gated(y.w, z.w);
    squares[half][0] += s0 * s0, squares[half][1] += s1 * s1;
    squares[half][0] += s2 * s2, squares[half][1] += s3 * s3;
    terms[k][half] = rounded<1>(s0), terms[k][2 + half] = rounded<1>(s1);
    terms[k + 1][half] = rounded<1>(s2), terms[k + 1][2 + half] = rounded<1>(s3);
  }
}

/* The outputs of a tile: four lanes have a row's. */
template <int TILES>
INLINE_DEVICE void put_scaled(struct gated_product p, int tile, const float (&sums)[TILES][4],
                              const float (&squares)[2][2])
{
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int64_t row = own_tile_row(tile) + 8 * half;
    float sum = squares[half][0] + squares[half][1];
    sum += from_lane(sum, 1);
    sum += from_lane(sum, 2);
    float r = 1 / sqrtf(sum / (float)p.E + p.eps);
    if (row < p.M && lane_pair() == 0)
      p.r[row] = r;
    float *to = p.out + row * (8 * TILES) + 4 * lane_pair();
    if (row < p.M) {
#pragma unroll
      for (int n = 0; n < TILES; n += 2) {
        float4 four;
        four.x = r * sums[n][2 * half], four.y = r * sums[n][2 * half + 1];
        four.z = r * sums[n + 1][2 * half], four.w = r * sums[n + 1][2 * half + 1];
        put_four(to + 8 * n, 0, four);
      }
    }
  }
}

template <int D> INLINE_DEVICE void multiply_tiles(struct gated_product p, struct gated_memory<D> m)
{
  int panels = (int)(p.E / PANEL), stage = 0;
  bool speaks = threadIdx.x % WARP_LANES == 0; /* for its warp */
  weight_place at = {0, 0};
  struct input_copies inputs;
  float *own = m.inputs(), sums[D / 8][4], terms[2][4][4];
  inputs.stage = 0;
  inputs.begin_tile(p, (int)blockIdx.x);
  for (int i = 0; i < INPUT_STAGES - 1; i++)
    inputs.copy(p, own);
  FOR_OWN_TILES(tile, p.M)
  {
    float squares[2][2] = {};
    int before = 0; /* the stage that the products under way read */
    for (int i = 0; i < panels; i += 2) {
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        inputs.copy(p, own);
        await_batches<INPUT_STAGES - 1>();
        gated_terms(own + stage * INPUT_FLOATS, terms[odd], squares);
        stage = (stage + 1) % INPUT_STAGES;
        await_signal(m.weights.come(at.stage), at.use);
        operand weights = operand_at(m.weights.stage(at.stage));
        settle_sums(terms[odd]);
        begin_products();
#pragma unroll
        for (int k = 0; k < 4; k++)
          group_mma(sums, terms[odd][k], terms_behind<D>(weights, k), i + odd + k > 0);
        end_products();
        await_products<1>();
        arrive(m.weights.read(before), speaks && i + odd > 0);
        before = at.stage;
        at.step();
      }
    }
    await_products<0>();
    arrive(m.weights.read(before), speaks);
    settle_sums(sums);
    put_scaled(p, tile, sums, squares);
  }
  await_batches<0>();
}

template <int D>
static __global__ void __launch_bounds__(TILE_THREADS, 1) gated_linear_tiles(struct gated_product p)
{
#if HAS_WARPGROUPS
  SHARED_FLOATS(memory);
  struct gated_memory<D> m(memory);
  m.weights.make_signals();
  if (threadIdx.x < MULTIPLIERS) {
    take_registers<240>();
    multiply_tiles<D>(p, m);
  } else {
    leave_registers<24>();
    if (threadIdx.x == MULTIPLIERS)
      m.weights.send(p.weights, (int)(p.E / PANEL), p.M);
  }
#endif
}

/* ---- on the host ---- */

template <int D> static bool launch_gated_linear(stream st, struct gated_product p)
{
  size_t bytes = gated_memory<D>::FLOATS * sizeof(float);
  int tiles = tiles_of(p.M);
  if (bytes > device_of(st)->shared_bytes)
    return false;
  LAUNCH_SHARED(st, tiles < PROCESSORS ? tiles : PROCESSORS, TILE_THREADS, bytes,
                gated_linear_tiles<D>, p);
  return true;
}

/* false, and nothing is done: not here, not for such shapes, or so few rows that most processors
 * would have none. */
static bool in_one_pass(stream st, struct gated_rmsnorm_shape d, real eps, const real *y,
                        const real *z, const real *w, int64_t D, const real *W, const real *b,
                        real *r, real *out)
{
  struct device *device = device_of(st);
  float *weights = (float *)device->turned;
  struct gated_product p = {d.rows, d.E, d.ldz, eps, y, z, weights, r, out};
  bool here =
      device->warpgroups && device->matmul == PLUGIN_TF32 && 2 * (d.rows / TILE_ROWS) >= PROCESSORS;
  bool plain = !d.norm_before_gate && d.G == 1 && !b && d.E > 0 && d.E % (2 * PANEL) == 0 &&
               (D == 64 || D == 128 || D == 256) &&
               D * d.E <= (int64_t)(TURNED_BYTES / sizeof *weights);
  if (!here || !plain || !in_packs(0, y) || !in_packs(d.ldz, z) || !in_packs(0, out))
    return false;
  LAUNCH(st, D * d.E, put_weights_in_order, (int)D, (int)d.E, w, W, weights);
  return D == 64    ? launch_gated_linear<64>(st, p)
         : D == 128 ? launch_gated_linear<128>(st, p)
                    : launch_gated_linear<256>(st, p);
}
#endif
