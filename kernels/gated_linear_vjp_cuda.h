/* gated_linear_vjp_cuda.h: gated_linear_vjp by y and z without ynb in memory, on compute capability
 * 9.0, where `matmul` is tf32; part of gated_linear_vjp.c.  Of one group, whose gate comes first,
 * with q = silu(z):
 *
 *   ynb = outb W (M,E)      p = y q      pb = r (w ynb - p r outb . out / E)
 *   yb = pb q      zb = pb y silu'(z)      wb += sum_rows ynb p r      yn = w p r, if wanted
 *
 * A block has 128 rows at a time.  Each of eight warps holds 16 of outb in its registers, as left
 * operands for all of E, as four warps multiply together; it goes through E by 64 columns.  y and z
 * come by copies of 16 bytes that the lane makes which will read them, ahead by 48 columns.  A
 * ninth warp sends W', rounded to tf32, which lies in global memory as the product wants it in
 * shared memory (`put_weights_in_order`):
 *
 *   term t + 4 q of step k of a panel  is  column 16 (k/2) + 4 t + 2 (k%2) + q of outb
 *   right operand's row 8 n + 2 t + e  is  column 16 (n/2) + 4 t + 2 (n%2) + e of ynb
 *
 * so that a lane has fours of columns of both side by side.  A warp adds its rows' wb up in shared
 * memory, where each column is one lane's; its blocks' sums are added up behind them. */
#ifndef KERNELS_GATED_LINEAR_VJP_CUDA_H
#define KERNELS_GATED_LINEAR_VJP_CUDA_H
#include "kernels/gated_tiles_cuda.h"

enum {
  COLUMNS = 64, /* of ynb at a time: 8 tiles of sums */
  PART = 128,   /* terms of W' that come together */
  SIXTEENS = COLUMNS / 16,
  INPUT_STAGES = SIXTEENS, /* of y and z, each of 16 columns: a sixteen is always in the same */
  INPUT_FOURS = 4,         /* of a thread: two rows of y, of z */
  INPUT_FLOATS = INPUT_FOURS * (int)INPUT_STRIDE
};

struct gated_cotangents {
  int64_t M, E, ldz;
  const float *y, *z, *w, *r, *out, *outb, *weights; /* W' in order */
  float *yb, *zb, *yn, *sums;                        /* yn, sums (blocks,E): or NULL */
};

/* Of the shared memory: parts of W', y and z, w, sums of each warp. */
template <int D> struct vjp_memory {
  enum { TERMS = D < PART ? D : (int)PART, PARTS = D / TERMS, STAGE_FLOATS = COLUMNS * TERMS };
  typedef weight_ring<STAGE_FLOATS> ring;
  enum { ROWS_OF_E = ring::FLOATS + INPUT_STAGES * INPUT_FLOATS };
  ring weights;
  INLINE_DEVICE explicit vjp_memory(float *at) { weights.at = at; }
  /* a thread's fours, INPUT_STRIDE apart */
  INLINE_DEVICE float *inputs(void) const { return weights.at + ring::FLOATS + 4 * threadIdx.x; }
  INLINE_DEVICE float *w(void) const { return weights.at + ROWS_OF_E; }
  INLINE_DEVICE float *sums(int warp, int64_t E) const { return w() + (1 + warp) * E; }
  static size_t bytes(int64_t E)
  {
    return (ROWS_OF_E + (1 + MULTIPLYING_WARPS) * E) * sizeof(float);
  }
};
enum { SUMS_MADE = 1 }; /* a barrier */

/* Four terms of a row of the right operand, of W (D,E); there are less than 2^31. */
KERNEL put_weights_in_order(int D, int E, const float *W, float *to)
{
  FOR_EACH (i, (int64_t)(D / 4) * E) {
    int four = (int)i / E, column = (int)i - four * E, c = column % COLUMNS;
    int k = four % 8 / 2, q = four % 2;
    int row = 8 * (2 * (c / 16) + c / 2 % 2) + 2 * (c / 4 % 4) + c % 2;
    const float *from = W + (four / 8 * PANEL + 16 * (k / 2) + 2 * (k % 2) + q) * E + column;
    float4 terms;
    terms.x = rounded<1>(from[0]), terms.y = rounded<1>(from[4 * E]);
    terms.z = rounded<1>(from[8 * E]), terms.w = rounded<1>(from[12 * E]);
    struct panels<COLUMNS> p = {
      to + column / COLUMNS *COLUMNS *D
    };
    p.four(row, four) = terms;
  }
}

/* ---- the warps that multiply ---- */

/* The copies of y and z, sixteen columns after the other, on behind what is multiplied. */
struct input_copies {
  const float *y, *z; /* of the next sixteen */
  bool there[2];

  INLINE_DEVICE void begin_tile(struct gated_cotangents p, int tile)
  {
    int64_t row = own_tile_row(tile);
    there[0] = row < p.M, there[1] = row + 8 < p.M;
    row = there[0] ? row : 0;
    y = p.y + row * p.E + 4 * lane_pair();
    z = p.z + row * p.ldz + 4 * lane_pair();
  }
  INLINE_DEVICE void copy(struct gated_cotangents p, float *to)
  {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      copy_16_of_256_bytes(to + half * INPUT_STRIDE, y + half * 8 * p.E, there[half]);
      copy_16_of_256_bytes(to + (2 + half) * INPUT_STRIDE, z + half * 8 * p.ldz, there[half]);
    }
    end_batch();
    y += 16, z += 16;
  }
};

/* What is the same for all columns of this lane's two rows.  One beyond M has those of row 0, and
 * zeros for y and z: it adds nothing to wb. */
struct own_rows {
  float r[2], along[2]; /* along: r outb . out / E */
  bool there[2];
};

/* outb of this lane's rows as left operands.  `out` comes beside it, FOURS_AT_ONCE of both rows at
 * a time, for which there are registers. */
enum { FOURS_AT_ONCE = 8 };
template <int D>
INLINE_DEVICE struct own_rows load_rows(struct gated_cotangents p, int tile,
                                        float (&terms)[D / 8][4])
{
  struct own_rows rows;
  const float *outb[2], *out[2];
  float dot[2] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int64_t row = own_tile_row(tile) + 8 * half, from;
    rows.there[half] = row < p.M;
    from = rows.there[half] ? row : 0;
    rows.r[half] = p.r[from];
    outb[half] = p.outb + from * D + 4 * lane_pair();
    out[half] = p.out + from * D + 4 * lane_pair();
  }
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int i = 0; i < D / 16; i++)
      set_terms(terms, half, i, load_word((const float4 *)(outb[half] + 16 * i)));
#pragma unroll
  for (int first = 0; first < D / 16; first += FOURS_AT_ONCE / 2) {
    float4 fours[FOURS_AT_ONCE];
#pragma unroll
    for (int k = 0; k < FOURS_AT_ONCE; k++)
      fours[k] = load_word((const float4 *)(out[k % 2] + 16 * (first + k / 2)));
#pragma unroll
    for (int k = 0; k < FOURS_AT_ONCE; k++)
      dot[k % 2] += dot_of_fours(four_of_terms(terms, k % 2, first + k / 2), fours[k]);
  }
#pragma unroll
  for (int half = 0; half < 2; half++)
    rows.along[half] = rows.r[half] * sum_of_row(dot[half]) / (float)p.E;
  round_terms(terms);
  return rows;
}

/* As silu_with_slope, by fewer instructions. */
INLINE_DEVICE struct silu_pair short_silu(float z)
{
  const float log2_e = 1.44269504f;
  struct silu_pair gate;
  float e = power_of_2(fminf(-log2_e * z, 125)), s = DIVIDE(1, 1 + e);
  gate.value = z * s;
  gate.slope = s * (1 + z * (e * s));
  return gate;
}

/* Of four columns of a row; adds to the sums over rows. */
INLINE_DEVICE void four_cotangents(const float (&y)[4], const float (&z)[4], const float (&w)[4],
                                   const float (&ynb)[4], float r, float along, float4 &yb,
                                   float4 &zb, float4 &yn, float *wb)
{
  float to_y[4], to_z[4], norm[4];
#pragma unroll
  for (int c = 0; c < 4; c++) {
    struct silu_pair gate = short_silu(z[c]);
    float p = y[c] * gate.value, pb = r * (w[c] * ynb[c] - p * along);
    to_y[c] = pb * gate.value;
    to_z[c] = pb * y[c] * gate.slope;
    norm[c] = r * p;
    wb[c] += ynb[c] * norm[c];
  }
  yb.x = to_y[0], yb.y = to_y[1], yb.z = to_y[2], yb.w = to_y[3];
  zb.x = to_z[0], zb.y = to_z[1], zb.z = to_z[2], zb.w = to_z[3];
  yn.x = w[0] * norm[0], yn.y = w[1] * norm[1], yn.z = w[2] * norm[2], yn.w = w[3] * norm[3];
}

/* Columns 16 i to 16 i + 15 of COLUMNS, from what lies at `inputs` and w; wb: sums of the lane. */
template <int TILES>
INLINE_DEVICE void put_sixteen(struct gated_cotangents p, struct own_rows rows, int i,
                               const float (&sums)[TILES][4], const float *inputs,
                               const float *at_w, float *yb, float *zb, float *wb)
{
  float w[4];
  get_four(at_w + 16 * i, w);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float y[4], z[4];
    float4 to_y, to_z, norm;
    float ynb[4] = {sums[2 * i][2 * half], sums[2 * i][2 * half + 1], sums[2 * i + 1][2 * half],
                    sums[2 * i + 1][2 * half + 1]};
    get_four(inputs + half * INPUT_STRIDE, y);
    get_four(inputs + (2 + half) * INPUT_STRIDE, z);
    four_cotangents(y, z, w, ynb, rows.r[half], rows.along[half], to_y, to_z, norm, wb);
    if (rows.there[half]) {
      put_four(yb + half * 8 * p.E + 16 * i, 0, to_y);
      put_four(zb + half * 8 * p.ldz + 16 * i, 0, to_z);
      if (p.yn)
        put_four(p.yn + (yb - p.yb) + half * 8 * p.E + 16 * i, 0, norm);
    }
  }
}

/* This block's wb, all warps' sums in their order. */
template <int D> INLINE_DEVICE void put_sums(struct gated_cotangents p, struct vjp_memory<D> m)
{
  await_barrier<SUMS_MADE, MULTIPLIERS>();
  for (int64_t e = threadIdx.x; e < p.E; e += MULTIPLIERS) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < MULTIPLYING_WARPS; warp++)
      sum += m.sums(warp, p.E)[e];
    p.sums[blockIdx.x * p.E + e] = sum;
  }
}

template <int D> INLINE_DEVICE void prefetch_next_rows(struct gated_cotangents p, int tile)
{
  int64_t row = own_tile_row(tile);
  if (row + 8 < p.M) {
    prefetch_two_rows<D>(p.outb + row * D);
    prefetch_two_rows<D>(p.out + row * D);
  }
}

template <int D>
INLINE_DEVICE void multiply_tiles(struct gated_cotangents p, struct vjp_memory<D> m)
{
  typedef struct vjp_memory<D> memory;
  enum { STEPS = memory::TERMS / 8, PARTS = memory::PARTS };
  int t = lane_pair(), columns = (int)(p.E / COLUMNS);
  bool speaks = threadIdx.x % WARP_LANES == 0; /* for its warp */
  weight_place at = {0, 0};
  operand weights = operand_at(m.weights.stage(0));
  struct input_copies inputs;
  float *own = m.inputs(), terms[D / 8][4], sums[COLUMNS / 8][4];
  float *own_sums = m.sums(own_warp(), p.E) + lane_row() / 4 * 16 + 4 * t + lane_row() % 4;
  inputs.begin_tile(p, (int)blockIdx.x);
  for (int i = 0; i < INPUT_STAGES - 1; i++)
    inputs.copy(p, own + i * INPUT_FLOATS);
  FOR_OWN_TILES(tile, p.M)
  {
    struct own_rows rows = load_rows<D>(p, tile, terms);
    float *yb = p.yb + own_tile_row(tile) * p.E + 4 * t;
    float *zb = p.zb + own_tile_row(tile) * p.ldz + 4 * t;
    settle_sums(terms);
#pragma unroll 1
    for (int j = 0; j < columns; j++, yb += COLUMNS, zb += COLUMNS) {
      int read[PARTS];
#pragma unroll
      for (int part = 0; part < PARTS; part++, at.step()) {
        operand right = weights.behind(at.stage * memory::STAGE_FLOATS);
        read[part] = at.stage;
        await_signal(m.weights.come(at.stage), at.use);
        begin_products();
#pragma unroll
        for (int k = 0; k < STEPS; k++)
          group_mma(sums, terms[part * STEPS + k], terms_behind<COLUMNS>(right, k), part + k > 0);
        end_products();
      }
      await_products<0>();
      settle_sums(sums);
#pragma unroll
      for (int part = 0; part < PARTS; part++)
        arrive(m.weights.read(read[part]), speaks);
      float wb[8];
#pragma unroll
      for (int i = 0; i < SIXTEENS; i++) {
        await_batches<INPUT_STAGES - 2>();
        inputs.copy(p, own + (i + INPUT_STAGES - 1) % INPUT_STAGES * INPUT_FLOATS);
        if (i == 0 && j == columns - 1)
          inputs.begin_tile(p, tile + (int)gridDim.x);
        if (i % 2 == 0)
#pragma unroll
          for (int c = 0; c < 8; c++)
            wb[c] = 0;
        put_sixteen(p, rows, i, sums, own + i * INPUT_FLOATS, m.w() + j * COLUMNS + 4 * t, yb, zb,
                    wb + i % 2 * 4);
        if (i % 2 == 1)
          own_sums[j * COLUMNS + i / 2 * 32] += sum_over_rows(wb);
      }
      if (j == columns / 2)
        prefetch_next_rows<D>(p, tile + (int)gridDim.x);
    }
  }
  await_batches<0>();
  if (p.sums)
    put_sums(p, m);
}

template <int D>
static __global__ void __launch_bounds__(TILE_THREADS, 1) gated_vjp_tiles(struct gated_cotangents p)
{
#if HAS_WARPGROUPS
  typedef warpgroup_registers<240, 240, 24> registers;
  SHARED_FLOATS(memory);
  struct vjp_memory<D> m(memory);
  for (int64_t e = threadIdx.x; e < (1 + MULTIPLYING_WARPS) * p.E; e += TILE_THREADS)
    m.w()[e] = e < p.E ? p.w[e] : 0;
  m.weights.make_signals(); /* and w is there */
  if (threadIdx.x < MULTIPLIERS) {
    registers::begin<240>();
    multiply_tiles<D>(p, m);
  } else {
    registers::begin<24>();
    if (threadIdx.x == MULTIPLIERS)
      m.weights.send(p.weights, (int)(p.E / COLUMNS) * vjp_memory<D>::PARTS, own_of(tiles_of(p.M)));
  }
#endif
}

/* wb (E) += the sums of all blocks */
BLOCK_KERNEL add_up_blocks(int64_t blocks, int64_t E, const float *sums, float *wb)
{
  FOR_EACH_BLOCK (strip, strips(E), blocks * STRIP)
    ADD_COLUMN_SUMS(strip, blocks, E, wb, m, j, sums[m * E + j]);
}

/* ---- on the host ---- */

template <int D> static void launch_gated_vjp(stream st, struct gated_cotangents p, int64_t blocks)
{
  LAUNCH_SHARED(st, blocks, TILE_THREADS, vjp_memory<D>::bytes(p.E), gated_vjp_tiles<D>, p);
}

static size_t gated_vjp_bytes(int64_t D, int64_t E)
{
  return D == 64    ? vjp_memory<64>::bytes(E)
         : D == 128 ? vjp_memory<128>::bytes(E)
                    : vjp_memory<256>::bytes(E);
}

/* false, and nothing is done: not here, not for such shapes, or so few rows that most processors
 * would have none. */
static bool vjp_in_one_pass(stream st, struct gated_rmsnorm_shape d, const real *y, const real *z,
                            const real *w, const real *r, real *yn, int64_t D, const real *W,
                            const real *out, const real *outb, real beta, real *yb, real *zb,
                            real *wb)
{
  struct device *device = device_of(st);
  float *weights = (float *)device->turned, *sums = weights + D * d.E;
  struct gated_cotangents p = {d.rows, d.E,  d.ldz,   y,  z,  w,  r,
                               out,    outb, weights, yb, zb, yn, wb ? sums : NULL};
  int tiles = tiles_of(d.rows), blocks = tiles < PROCESSORS ? tiles : PROCESSORS;
  bool here = device->warpgroups && device->matmul == PLUGIN_TF32 && 2 * tiles > PROCESSORS;
  bool plain = !d.norm_before_gate && d.G == 1 && out && yb && zb && beta == 0 && d.E > 0 &&
               d.E % COLUMNS == 0 && (D == 64 || D == 128 || D == 256);
  if (!here || !plain || gated_vjp_bytes(D, d.E) > device->shared_bytes ||
      (D + PROCESSORS) * d.E > (int64_t)(TURNED_BYTES / sizeof *weights) || !in_packs(0, y) ||
      !in_packs(d.ldz, z) || !in_packs(0, out) || !in_packs(0, outb) || !in_packs(0, yb) ||
      !in_packs(0, yn) || !in_packs(d.ldz, zb))
    return false;
  LAUNCH(st, D / 4 * d.E, put_weights_in_order, (int)D, (int)d.E, W, weights);
  if (D == 64)
    launch_gated_vjp<64>(st, p, blocks);
  else if (D == 128)
    launch_gated_vjp<128>(st, p, blocks);
  else
    launch_gated_vjp<256>(st, p, blocks);
  if (wb)
    LAUNCH_SUMS(st, strips(d.E), blocks, add_up_blocks, blocks, d.E, sums, wb);
  return true;
}
#endif
