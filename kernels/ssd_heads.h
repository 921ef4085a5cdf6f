/* ssd_heads.h: what the recurrent and the chunked form of the SSD share: how an index becomes rows
 * of a head, and the derivative of the skip D x, y_t = ... + D x_t. */
#ifndef KERNELS_SSD_HEADS_H
#define KERNELS_SSD_HEADS_H
#include "core/operations.h"
#include "kernels/tiles.h"

/* Channels first..first+count-1 of head h of sequence b; g is the head's group. */
struct head_rows {
  int64_t b, h, g, first;
  int count;
};

/* Index i of B * H * lane_blocks(P). */
INLINE struct head_rows head_rows_of(struct ssd_shape d, int64_t i)
{
  int64_t blocks = lane_blocks(d.P), bh = i / blocks;
  struct head_rows at;
  at.b = bh / d.H;
  at.h = bh % d.H;
  at.g = at.h / (d.H / d.G);
  at.first = (i - bh * blocks) * LANES;
  at.count = at_most(d.P - at.first, LANES);
  return at;
}

INLINE real skip_of(struct ssd_shape d, const real *D, int64_t h, int64_t p)
{
  return D[d.D_has_hdim ? h * d.P + p : h];
}

INLINE real decay_rate(const real *A_log, int64_t h) { return -exp_real(A_log[h]); }

/* a of l = A dt, and da/dl: q = exp(l), or 2 q - 1, which may be negative */
ELEMENTARY real decay_of(struct ssd_shape d, real l)
{
  real q = exp_falling(l);
  return d.A_negative ? 2 * q - 1 : q;
}

ELEMENTARY real decay_slope(struct ssd_shape d, real l)
{
  real q = exp_falling(l);
  return d.A_negative ? 2 * q : q;
}

enum { SKIP_TOKENS = 64 };
INLINE int64_t skip_blocks(struct ssd_shape d)
{
  return d.B * ((d.T + SKIP_TOKENS - 1) / SKIP_TOKENS);
}

/* out[(block,h)] = sum over a block's tokens and p of x yb; the results are `stride` apart */
KERNEL skip_products(struct ssd_shape d, const real *x, const real *yb, int64_t stride, real *out)
{
  int64_t per_sequence = skip_blocks(d) / d.B;
  FOR_EACH_COST (i, skip_blocks(d) * d.H, d.T / per_sequence * d.P * 2) {
    int64_t h = i % d.H, block = i / d.H, b = block / per_sequence;
    int64_t first = block % per_sequence * SKIP_TOKENS;
    int count = at_most(d.T - first, SKIP_TOKENS);
    const real *xb = x + (b * d.T + first) * d.ld + h * d.P;
    const real *ybb = yb + ((b * d.T + first) * d.H + h) * d.P;
    real sums[LANES] = {0}, sum = 0;
    for (int t = 0; t < count; t++) {
      int64_t p = 0;
      for (; p + LANES <= d.P; p += LANES) {
        SIMD
        for (int l = 0; l < LANES; l++)
          sums[l] = add_product(sums[l], xb[t * d.ld + p + l], ybb[t * d.H * d.P + p + l]);
      }
      for (; p < d.P; p++)
        sum += xb[t * d.ld + p] * ybb[t * d.H * d.P + p];
    }
    for (int l = 0; l < LANES; l++)
      sum += sums[l];
    out[i * stride] = sum;
  }
}

/* out[h] += sum over `count` blocks i of in[(i H + h) stride] */
KERNEL add_over_blocks(int64_t count, int64_t H, int64_t stride, const real *in, real *out)
{
  FOR_EACH_COST (h, H, count) {
    wide sum = 0;
    for (int64_t i = 0; i < count; i++)
      sum += (wide)in[(i * H + h) * stride];
    out[h] += (real)sum;
  }
}

/* Db (H,P) += sum over b,t of x yb */
KERNEL add_skip_channels(struct ssd_shape d, const real *x, const real *yb, real *Db)
{
  FOR_EACH_COST (i, d.H * lane_blocks(d.P), d.B * d.T * LANES * 2) {
    struct head_rows at = head_rows_of(d, i);
    int64_t column = at.h * d.P + at.first;
    wide sums[LANES] = {0};
    for (int64_t bt = 0; bt < d.B * d.T; bt++) {
      SIMD
      for (int l = 0; l < at.count; l++)
        sums[l] += (wide)(x[bt * d.ld + column + l] * yb[bt * d.H * d.P + column + l]);
    }
    for (int l = 0; l < at.count; l++)
      Db[column + l] += (real)sums[l];
  }
}

/* Db += sum of x yb; scratch holds a real for each block of tokens and head, `stride` apart */
static inline void skip_vjp(stream st, struct ssd_shape d, const DEVICE real *x,
                            const DEVICE real *yb, int64_t stride, DEVICE real *scratch,
                            DEVICE real *Db)
{
  if (d.D_has_hdim) {
    LAUNCH(st, d.H * lane_blocks(d.P), add_skip_channels, d, x, yb, Db);
  } else {
    LAUNCH(st, skip_blocks(d) * d.H, skip_products, d, x, yb, stride, scratch);
    LAUNCH(st, d.H, add_over_blocks, skip_blocks(d), d.H, stride, scratch, Db);
  }
}
#endif
