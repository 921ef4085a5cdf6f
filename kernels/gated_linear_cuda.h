/* gated_linear_cuda.h: gated_linear in one pass over y and z, on compute capability 9.0, where
 * `matmul` is tf32; part of gated_linear.c.
 *
 *   out (M,D) = r (s (w W)'),   s = y silu(z) (M,E),   r = (mean(s^2) + eps)^(-1/2) by row
 *
 * and, where it is asked for, the norm of what out is added to (rmsnorm.c).
 *
 * A block has 128 rows at a time, of which each of eight warps holds 16, all D sums of them in its
 * registers, as four warps multiply together: so it has whole rows to norm.  A panel is 32
 * channels.  y and z of it come by copies of 16 bytes that the lane makes which will read them:
 * nobody else waits for them.  A ninth warp sends the panels of w W, rounded to tf32, which lie in
 * global memory as the product wants them in shared memory (weights_in_order_cuda.h). */
#ifndef KERNELS_GATED_LINEAR_CUDA_H
#define KERNELS_GATED_LINEAR_CUDA_H
#include "kernels/weights_in_order_cuda.h"

enum {
  INPUT_STAGES = 4,
  INPUT_FOURS = 8, /* of y, z and a panel: of two rows and two sixteens each */
  INPUT_FLOATS = INPUT_FOURS * (int)INPUT_STRIDE,
  PART = 64 /* columns of what is added to out, of two rows, take a panel's place */
};

struct gated_product {
  int64_t M, E, ldz;
  float eps;
  const float *y, *z, *weights; /* w W, in order */
  float *r, *out;               /* out NULL: not wanted */
  struct branch_norm norm;
  int x_parts, z_parts; /* of norm.x and norm.z, or 0: which are not read */
  float damping;        /* y = z + damping (f - z); without z_parts: f */
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

/* ---- the warps that multiply ---- */

/* The copies of y and z, panel by panel, on behind what is multiplied; and behind a tile's last
 * panel, by parts, of what its norm adds: x, and then z. */
template <int D> struct input_copies {
  const float *y, *z; /* of the next panel */
  int tile;
  int left; /* of this tile: panels, and parts */
  int stage;
  bool there[2];

  INLINE_DEVICE void begin_tile(struct gated_product p, int next)
  {
    int64_t row = own_tile_row(next);
    tile = next;
    left = (int)(p.E / PANEL) + p.x_parts + p.z_parts;
    there[0] = row < p.M, there[1] = row + 8 < p.M;
    row = there[0] ? row : 0;
    y = p.y + row * p.E + 4 * lane_pair();
    z = p.z + row * p.ldz + 4 * lane_pair();
  }

  INLINE_DEVICE void copy_panel(struct gated_product p, float *to)
  {
#pragma unroll
    for (int i = 0; i < INPUT_FOURS / 2; i++) {
      int half = i % 2, channel = i / 2 * 16;
      copy_16_of_256_bytes(to + i * INPUT_STRIDE, y + half * 8 * p.E + channel, there[half]);
      copy_16_of_256_bytes(to + (INPUT_FOURS / 2 + i) * INPUT_STRIDE,
                           z + half * 8 * p.ldz + channel, there[half]);
    }
    y += PANEL, z += PANEL;
  }

  INLINE_DEVICE void copy_part(struct gated_product p, float *to)
  {
    int part = left > p.z_parts ? p.x_parts + p.z_parts - left : p.z_parts - left;
    const float *from = left > p.z_parts ? p.norm.x : p.norm.z;
    from += (there[0] ? own_tile_row(tile) : 0) * D + part * PART + 4 * lane_pair();
#pragma unroll
    for (int i = 0; i < INPUT_FOURS; i++)
      copy_16_of_256_bytes(to + i * INPUT_STRIDE, from + i % 2 * 8 * D + i / 2 * 16, there[i % 2]);
  }

  INLINE_DEVICE void copy(struct gated_product p, float *to)
  {
    if (left > p.x_parts + p.z_parts)
      copy_panel(p, to + stage * INPUT_FLOATS);
    else
      copy_part(p, to + stage * INPUT_FLOATS);
    end_batch();
    stage = (stage + 1) % INPUT_STAGES;
    if (--left == 0)
      begin_tile(p, tile + (int)gridDim.x);
  }
};

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

/* This lane's first four of a row's mask, or NULL. */
INLINE_DEVICE const float *own_mask(struct branch_norm n, int64_t row, int D)
{
  unsigned b = (unsigned)row / (unsigned)n.T;
  return n.mask ? n.mask + (n.row ? n.row[b] : (int64_t)b) * D + 4 * lane_pair() : NULL;
}

/* f(k, half, i) for the fours of a part: the k-th of a stage, the i-th of the lane in its row. */
template <class F> INLINE_DEVICE void for_own_fours(int part, F f)
{
#pragma unroll
  for (int k = 0; k < INPUT_FOURS; k++)
    f(k, k % 2, part * (PART / 16) + k / 2);
}

/* sums = f(half, sums, x) by fours of a part, x being what has come for this thread's next stage;
 * goes on copying. */
template <int D, class F>
INLINE_DEVICE void meet_part(int part, struct gated_product p, struct input_copies<D> &inputs,
                             float *own, int &stage, float (&sums)[D / 8][4], F f)
{
  float x[INPUT_FOURS][4];
  inputs.copy(p, own);
  await_batches<INPUT_STAGES - 1>();
#pragma unroll
  for (int k = 0; k < INPUT_FOURS; k++)
    get_four(own + stage * INPUT_FLOATS + k * INPUT_STRIDE, x[k]);
  settle_sums(x); /* before the stage is copied to again */
  stage = (stage + 1) % INPUT_STAGES;
  for_own_fours(part, [&](int k, int half, int i) {
    float4 four = {x[k][0], x[k][1], x[k][2], x[k][3]};
    set_four(sums, half, i, f(half, scaled_four(sums, half, i, 1), four));
  });
}

/* The norm of x + mask out of two rows, r times the sums; those are overwritten. */
template <int D>
INLINE_DEVICE void put_normed(struct gated_product p, int tile, const float (&r)[2],
                              struct input_copies<D> &inputs, float *own, int &stage,
                              float (&sums)[D / 8][4])
{
  struct branch_norm n = p.norm;
  int64_t row = own_tile_row(tile), at = row * D + 4 * lane_pair();
  bool there[2] = {row < p.M, row + 8 < p.M};
  const float *mask[2], *w = n.w + 4 * lane_pair();
  float squares[2] = {}, square[2] = {}, reference[2] = {}, scale[2];
#pragma unroll
  for (int half = 0; half < 2; half++)
    mask[half] = own_mask(n, there[half] ? row + 8 * half : 0, D);
#pragma unroll
  for (int part = 0; part < D / PART; part++) {
    for_own_fours(part, [&](int, int half, int i) {
      float4 branch = scaled_four(sums, half, i, r[half]);
      if (n.mask)
        branch = times_four(branch, *(const float4 *)(mask[half] + 16 * i));
      set_four(sums, half, i, branch);
    });
    if (p.x_parts)
      meet_part(part, p, inputs, own, stage, sums,
                [](int, float4 branch, float4 x) { return add_fours(branch, 1, x); });
    for_own_fours(part, [&](int, int half, int i) {
      float4 h = scaled_four(sums, half, i, 1);
      squares[half] += dot_of_fours(h, h);
      if (n.h && there[half])
        put_four(n.h + at + half * 8 * D + 16 * i, 0, h);
    });
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    scale[half] = scale_of_row(squares[half], D, p.eps);
    if (there[half] && lane_pair() == 0)
      n.r[row + 8 * half] = scale[half];
  }
#pragma unroll
  for (int part = 0; part < D / PART; part++) {
    for_own_fours(part, [&](int, int half, int i) {
      float4 normed = scaled_four(sums, half, i, scale[half]);
      set_four(sums, half, i, times_four(normed, *(const float4 *)(w + 16 * i)));
    });
    if (p.z_parts)
      meet_part(part, p, inputs, own, stage, sums, [&](int half, float4 f, float4 z) {
        float4 step = add_fours(f, -1, z);
        square[half] += dot_of_fours(step, step), reference[half] += dot_of_fours(f, f);
        return p.damping == 1 ? f : add_fours(z, p.damping, step);
      });
    for_own_fours(part, [&](int, int half, int i) {
      if (there[half])
        put_four(n.y + at + half * 8 * D + 16 * i, 0, scaled_four(sums, half, i, 1));
    });
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    double of_row = sum_of_row(square[half]), of_f = sum_of_row(reference[half]);
    if (n.square && there[half] && lane_pair() == 0)
      n.square[row + 8 * half] = of_row, n.reference[row + 8 * half] = of_f;
  }
}

/* r of two rows, which is kept, and their outputs, if wanted. */
template <int TILES>
INLINE_DEVICE void put_scaled(struct gated_product p, int tile, const float (&sums)[TILES][4],
                              const float (&squares)[2][2], float (&r)[2])
{
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int64_t row = own_tile_row(tile) + 8 * half;
    r[half] = scale_of_row(squares[half][0] + squares[half][1], (int)p.E, p.eps);
    if (row < p.M && lane_pair() == 0)
      p.r[row] = r[half];
    if (row < p.M && p.out) {
      float *to = p.out + row * (8 * TILES) + 4 * lane_pair();
#pragma unroll
      for (int i = 0; i < TILES / 2; i++)
        put_four(to + 16 * i, 0, scaled_four(sums, half, i, r[half]));
    }
  }
}

template <int D> INLINE_DEVICE void multiply_tiles(struct gated_product p, struct gated_memory<D> m)
{
  int panels = (int)(p.E / PANEL), stage = 0;
  bool speaks = threadIdx.x % WARP_LANES == 0; /* for its warp */
  weight_place at = {0, 0};
  struct input_copies<D> inputs;
  float *own = m.inputs(), sums[D / 8][4], terms[2][4][4];
  inputs.stage = 0;
  inputs.begin_tile(p, (int)blockIdx.x);
  for (int i = 0; i < INPUT_STAGES - 1; i++)
    inputs.copy(p, own);
  FOR_OWN_TILES(tile, p.M)
  {
    float squares[2][2] = {}, r[2];
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
    put_scaled(p, tile, sums, squares, r);
    if (p.norm.w)
      put_normed<D>(p, tile, r, inputs, own, stage, sums);
  }
  await_batches<0>();
}

template <int D>
static __global__ void __launch_bounds__(TILE_THREADS, 1) gated_linear_tiles(struct gated_product p)
{
#if HAS_WARPGROUPS
  typedef warpgroup_registers<240, 240, 24> registers;
  SHARED_FLOATS(memory);
  struct gated_memory<D> m(memory);
  m.weights.make_signals();
  if (threadIdx.x < MULTIPLIERS) {
    registers::begin<240>();
    multiply_tiles<D>(p, m);
  } else {
    registers::begin<24>();
    if (threadIdx.x == MULTIPLIERS)
      m.weights.send(p.weights, (int)(p.E / PANEL), own_of(tiles_of(p.M)));
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

static bool can_norm(struct branch_norm n)
{
  return n.B * n.T <= UINT32_MAX && in_packs(0, n.x) && in_packs(0, n.mask) && in_packs(0, n.w) &&
         in_packs(0, n.z) && in_packs(0, n.h) && in_packs(0, n.y);
}

/* false, and nothing is done: not here, not for such shapes, or so few rows that most processors
 * would have none. */
static bool in_one_pass(stream st, struct gated_rmsnorm_shape d, real eps, const real *y,
                        const real *z, const real *w, int64_t D, const real *W, const real *b,
                        real *r, real *out, struct branch_norm norm)
{
  struct device *device = device_of(st);
  float *weights = (float *)device->turned;
  struct gated_product p = {d.rows, d.E, d.ldz, eps, y, z, weights, r, out, norm};
  p.x_parts = norm.w && norm.x ? (int)D / PART : 0;
  p.z_parts = norm.w && (norm.damping != 1 || norm.square) ? (int)D / PART : 0;
  p.damping = (float)norm.damping;
  bool here =
      device->warpgroups && device->matmul == PLUGIN_TF32 && 2 * (d.rows / TILE_ROWS) >= PROCESSORS;
  bool plain = !d.norm_before_gate && d.G == 1 && !b && d.E > 0 && d.E % (2 * PANEL) == 0 &&
               (D == 64 || D == 128 || D == 256) &&
               D * d.E <= (int64_t)(TURNED_BYTES / sizeof *weights);
  if (!here || !plain || !in_packs(0, y) || !in_packs(d.ldz, z) || !in_packs(0, out) ||
      !can_norm(norm))
    return false;
  LAUNCH(st, D * d.E, put_weights_in_order, (int)D, (int)d.E, (int)D, D * d.E, w, W, weights);
  return D == 64    ? launch_gated_linear<64>(st, p)
         : D == 128 ? launch_gated_linear<128>(st, p)
                    : launch_gated_linear<256>(st, p);
}
#endif
