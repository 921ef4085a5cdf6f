/* softplus_clamp: y = clamp(softplus(u), lo, hi),  u = x + bias.
 * x (M,H) in rows of stride ldx  bias (H)  y (M,H)
 *   ub = yb sigmoid(u) where lo <= softplus(u) <= hi, else 0
 *   xb = beta xb + ub,  biasb += sum_rows ub
 * The derivatives compare u with softplus^-1 of the limits, which the host computes.
 * H is small (heads): rows are packed into tiles, so that a vector spans several of them.
 */
#include "core/packs.h"
#include "kernels/elementary.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

#ifdef __CUDACC__
enum { TILE = 1 };
#else
enum { TILE = 256 };
#endif

/* The row of element i of (M,H).  A division of 64 bits is a hundred instructions of a GPU. */
INLINE int64_t row_of(int64_t i, int64_t H)
{
#ifdef __CUDACC__
  if (i <= UINT32_MAX)
    return (uint32_t)i / (uint32_t)H;
#endif
  return i / H;
}

INLINE int64_t tiles(int64_t n) { return (n + TILE - 1) / TILE; }

/* Elements first.. of (M,H), at most TILE, of x + bias into u; returns how many.  NULL: zeros. */
INLINE int64_t pack_rows(int64_t first, int64_t M, int64_t H, int64_t ldx, const real *x,
                         const real *bias, real *u)
{
  int64_t m = row_of(first, H), h = first - m * H;
  int64_t count = M * H - first < TILE ? M * H - first : TILE;
  for (int64_t i = 0; i < count; i++) {
    u[i] = (x ? x[m * ldx + h] : 0) + (bias ? bias[h] : 0);
    h++;
    if (h == H) {
      h = 0;
      m++;
    }
  }
  return count;
}

/* softplus^-1(y) = y + log(1 - exp(-y)) */
static double softplus_inverse(double y) { return y + log(-expm1(-y)); }

ELEMENTARY real slope(real u, double from, double to)
{
  real s = sigmoid(u);
  return (double)re(u) < from || (double)re(u) > to ? 0 : s;
}

KERNEL fwd(int64_t M, int64_t H, int64_t ldx, const real *x, const real *bias, real lo, real hi,
           real *y)
{
  FOR_EACH_COST (tile, tiles(M * H), 32 * TILE) {
    real u[TILE], *yt = y + tile * TILE;
    int64_t count = pack_rows(tile * TILE, M, H, ldx, x, bias, u);
    SIMD
    for (int64_t i = 0; i < count; i++) {
      real value = softplus(u[i]);
      value = re(value) < re(lo) ? lo : value;
      yt[i] = re(value) > re(hi) ? hi : value;
    }
  }
}

#ifdef __CUDACC__
/* Index i is a pack of a row's heads. */
KERNEL fwd_packs(int64_t M, int64_t H, int64_t ldx, const real *x, const real *bias, real lo,
                 real hi, real *y)
{
  FOR_EACH (i, M * (H / PACK)) {
    int64_t m = row_of(i, H / PACK), h = (i - m * (H / PACK)) * PACK;
    pack<PACK> u = load_pack(x + m * ldx + h);
#pragma unroll
    for (int l = 0; l < PACK; l++) {
      real value = softplus(u.at[l] + (bias ? bias[h + l] : 0));
      value = value < lo ? lo : value;
      u.at[l] = value > hi ? hi : value;
    }
    put_pack(u, y, i);
  }
}
#endif

KERNEL vjp_x(int64_t M, int64_t H, int64_t ldx, const real *x, const real *bias, double from,
             double to, const real *yb, real beta, real *xb)
{
  bool add = re(beta) != 0;
  FOR_EACH_COST (tile, tiles(M * H), 32 * TILE) {
    real u[TILE];
    int64_t first = tile * TILE, count = pack_rows(first, M, H, ldx, x, bias, u);
    int64_t m = row_of(first, H), h = first - m * H;
    SIMD
    for (int64_t i = 0; i < count; i++)
      u[i] = yb[first + i] * slope(u[i], from, to);
    for (int64_t i = 0; i < count; i++) {
      xb[m * ldx + h] = (add ? re(beta) * xb[m * ldx + h] : 0) + u[i];
      h++;
      if (h == H) {
        h = 0;
        m++;
      }
    }
  }
}

#ifdef __CUDACC__
enum { NARROW = 0 };
#else
enum { NARROW = STRIP };
#endif

/* A strip of few heads is summed tile by tile; of many, and on the GPU, column by column. */
ELEMENTARY void sum_narrow(int64_t M, int64_t H, int64_t ldx, const real *x, const real *bias,
                           double from, double to, const real *yb, real *biasb)
{
  wide sums[STRIP] = {0};
  for (int64_t first = 0; first < M * H; first += TILE) {
    real u[TILE];
    int64_t count = pack_rows(first, M, H, ldx, x, bias, u), h = first % H;
    SIMD
    for (int64_t i = 0; i < count; i++)
      u[i] = yb[first + i] * slope(u[i], from, to);
    for (int64_t i = 0; i < count; i++) {
      sums[h] += (wide)u[i];
      h = h + 1 == H ? 0 : h + 1;
    }
  }
  for (int64_t h = 0; h < H; h++)
    biasb[h] += (real)sums[h];
}

BLOCK_KERNEL vjp_bias(int64_t M, int64_t H, int64_t ldx, const real *x, const real *bias,
                      double from, double to, const real *yb, real *biasb)
{
  FOR_EACH_BLOCK (strip, strips(H), 32 * M * STRIP) {
    if (H <= NARROW)
      sum_narrow(M, H, ldx, x, bias, from, to, yb, biasb);
    else
      ADD_COLUMN_SUMS(strip, M, H, biasb, m, h,
                      yb[m * H + h] * slope(x[m * ldx + h] + (bias ? bias[h] : 0), from, to));
  }
}

#ifdef __CUDACC__
/* Both, from one reading: a thread has a column of several rows, whose loads go together. */
BLOCK_KERNEL vjp_both(int64_t M, int64_t H, int64_t ldx, const real *x, const real *bias,
                      double from, double to, const real *yb, real beta, real *xb, real *biasb)
{
  enum { TOGETHER = 8 };
  bool add = re(beta) != 0;
  FOR_EACH_BLOCK (strip, strips(H), 32 * M * STRIP) {
    int64_t h = strip * STRIP + own_column();
    struct thread_rows own = own_rows(M);
    real shift = bias && h < H ? bias[h] : 0;
    wide sum = 0;
    for (int64_t first = 0; h < H && first < own.count; first += TOGETHER) {
      real u[TOGETHER], ub[TOGETHER], old[TOGETHER], part = 0;
#pragma unroll
      for (int k = 0; k < TOGETHER; k++) {
        int64_t m = own.first + (first + k) * own.step;
        bool there = first + k < own.count;
        u[k] = there ? x[m * ldx + h] : 0;
        ub[k] = there ? yb[m * H + h] : 0;
        old[k] = there && add ? xb[m * ldx + h] : 0;
      }
#pragma unroll
      for (int k = 0; k < TOGETHER; k++) {
        int64_t m = own.first + (first + k) * own.step;
        ub[k] *= slope(u[k] + shift, from, to);
        part += ub[k];
        if (first + k < own.count)
          xb[m * ldx + h] = (add ? beta * old[k] : 0) + ub[k];
      }
      sum += (wide)part;
    }
    sum = column_total(sum);
    if (last_has_total(&sum) && own_part() == 0 && h < H)
      biasb[h] += (real)sum;
  }
}
#endif

KERNEL jvp(int64_t M, int64_t H, int64_t ldx, const real *x, const real *bias, double from,
           double to, const real *xd, const real *biasd, real *yd)
{
  FOR_EACH_COST (tile, tiles(M * H), 32 * TILE) {
    real u[TILE], ud[TILE], *ydt = yd + tile * TILE;
    int64_t count = pack_rows(tile * TILE, M, H, ldx, x, bias, u);
    (void)pack_rows(tile * TILE, M, H, ldx, xd, biasd, ud);
    SIMD
    for (int64_t i = 0; i < count; i++)
      ydt[i] = ud[i] * slope(u[i], from, to);
  }
}

void OP(softplus_clamp_fwd)(stream st, int64_t M, int64_t H, int64_t ldx, const DEVICE real *x,
                            const DEVICE real *bias, double lo, double hi, DEVICE real *y)
{
#ifdef __CUDACC__
  if (in_packs(H | ldx, x) && in_packs(H, y)) {
    LAUNCH(st, M * (H / PACK), fwd_packs, M, H, ldx, x, bias, (real)lo, (real)hi, y);
    return;
  }
#endif
  LAUNCH(st, tiles(M * H), fwd, M, H, ldx, x, bias, (real)lo, (real)hi, y);
}

void OP(softplus_clamp_vjp)(stream st, int64_t M, int64_t H, int64_t ldx, const DEVICE real *x,
                            const DEVICE real *bias, double lo, double hi, const DEVICE real *yb,
                            real beta, DEVICE real *xb, DEVICE real *biasb)
{
  double from = softplus_inverse(lo), to = softplus_inverse(hi);
#ifdef __CUDACC__
  if (xb && biasb) {
    LAUNCH_SUMS(st, strips(H), M, vjp_both, M, H, ldx, x, bias, from, to, yb, beta, xb, biasb);
    return;
  }
#endif
  if (xb)
    LAUNCH(st, tiles(M * H), vjp_x, M, H, ldx, x, bias, from, to, yb, beta, xb);
  if (biasb)
    LAUNCH_SUMS(st, strips(H), M, vjp_bias, M, H, ldx, x, bias, from, to, yb, biasb);
}

void OP(softplus_clamp_jvp)(stream st, int64_t M, int64_t H, int64_t ldx, const DEVICE real *x,
                            const DEVICE real *bias, double lo, double hi, const DEVICE real *xd,
                            const DEVICE real *biasd, DEVICE real *yd)
{
  LAUNCH(st, tiles(M * H), jvp, M, H, ldx, x, bias, softplus_inverse(lo), softplus_inverse(hi), xd,
         biasd, yd);
}
