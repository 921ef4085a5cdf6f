/* linear: y = beta y + x W' + b.   x (M,K)  W (N,K)  b (N), may be NULL  y (M,N)
 *   xb += yb W      Wb += yb' x      bb += sum_rows yb      yd = xd W' + x Wd' + bd
 */
#include "kernels/operations.h"
#include "kernels/rows.h"

KERNEL add_bias(int64_t M, int64_t N, const real *b, real *y)
{
  FOR_EACH_COST (i, M * spans(N), N) {
    struct span s = span_of(i, N);
    real *row = y + s.row * N;
    SIMD
    for (int64_t j = s.first; j < s.end; j++)
      row[j] += b[j];
  }
}

#ifdef __CUDACC__
#include "kernels/packs_cuda.h"

KERNEL add_bias_packs(int64_t M, int64_t N, const real *b, real *y)
{
  FOR_EACH (i, groups(M, N)) {
    group g = group_of(i, M, N);
    real *from = y + g.row * N + g.column;
    pack<PACK> bias, rows[GROUP];
#pragma unroll
    for (int l = 0; l < PACK; l++)
      bias.at[l] = b[g.column + l];
#pragma unroll
    for (int k = 0; k < GROUP; k++)
      if (k < g.rows)
        rows[k] = load_pack<PACK>(from + k * N);
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
#pragma unroll
      for (int l = 0; l < PACK; l++)
        rows[k].at[l] += bias.at[l];
      if (k < g.rows)
        store_pack<PACK>(rows[k], from + k * N);
    }
  }
}
#endif

static void add_bias_to(stream st, int64_t M, int64_t N, const DEVICE real *b, DEVICE real *y)
{
#ifdef __CUDACC__
  if (in_packs(N, N, y, PACK) && in_groups(M, N)) {
    LAUNCH(st, groups(M, N), add_bias_packs, M, N, b, y);
    return;
  }
#endif
  LAUNCH(st, M * spans(N), add_bias, M, N, b, y);
}

BLOCK_KERNEL vjp_bias(int64_t M, int64_t N, const real *yb, real *bb)
{
  FOR_EACH_BLOCK (strip, strips(N), M * STRIP)
    ADD_COLUMN_SUMS(strip, M, N, bb, m, j, yb[m * N + j]);
}

void OP(linear_fwd)(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *x,
                    const DEVICE real *W, const DEVICE real *Wt, const DEVICE real *b, real beta,
                    DEVICE real *y)
{
  gemm(st, false, Wt == NULL, M, N, K, 1, x, K, Wt ? Wt : W, Wt ? N : K, beta, y, N);
  if (b)
    add_bias_to(st, M, N, b, y);
}

void OP(linear_vjp)(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *x,
                    const DEVICE real *W, const DEVICE real *yb, DEVICE real *xb, DEVICE real *Wb,
                    DEVICE real *bb)
{
  if (xb)
    gemm(st, false, false, M, K, N, 1, yb, N, W, K, 1, xb, K);
  if (Wb)
    gemm(st, true, false, N, K, M, 1, yb, N, x, K, 1, Wb, K);
  if (bb)
    LAUNCH_SUMS(st, strips(N), M, vjp_bias, M, N, yb, bb);
}

void OP(linear_jvp)(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *x,
                    const DEVICE real *W, const DEVICE real *xd, const DEVICE real *Wd,
                    const DEVICE real *bd, DEVICE real *yd)
{
  gemm(st, false, true, M, N, xd ? K : 0, 1, xd, K, W, K, 0, yd, N);
  if (Wd)
    gemm(st, false, true, M, N, K, 1, x, K, Wd, K, 1, yd, N);
  if (bd)
    add_bias_to(st, M, N, bd, yd);
}
