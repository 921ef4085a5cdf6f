/* linear: y = beta c + x W' + b.   x (M,K)  W (N,K)  b (N), may be NULL  c, y (M,N)
 *   xb = beta xb + yb W      Wb += yb' x      bb += sum_rows yb      yd = xd W' + x Wd' + bd
 */
#include "core/packs.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

KERNEL add_bias(int64_t M, int64_t N, const real *b, real *y)
{
  FOR_EACH_ROW (i, M, N) {
    real *row = y + i * N;
    SIMD
    FOR_COLUMNS (j, 0, N)
      row[j] += b[j];
  }
}

#ifdef __CUDACC__
/* y = beta c + b, where there is no product; c may be y, and beta = 0 does not read it. */
KERNEL without_terms(int64_t M, int64_t N, const real *b, real beta, const real *c, real *y)
{
  FOR_EACH_ROW (i, M, N) {
    const real *from = c + i * N;
    real *row = y + i * N;
    FOR_COLUMNS (j, 0, N)
      row[j] = (beta == 0 ? 0 : beta * from[j]) + (b ? b[j] : 0);
  }
}

KERNEL without_terms_packed(int64_t M, int64_t N, const real *b, real beta, const real *c, real *y)
{
  FOR_EACH_ROW (i, M, N) {
    const real *from = c + i * N;
    real *row = y + i * N;
    FOR_COLUMNS (j, 0, N / PACK) {
      pack<PACK> sum = {}, term = {};
      if (beta != 0)
        sum = pack_at(from, j);
      if (b)
        term = pack_at(b, j);
      for (int q = 0; q < PACK; q++)
        sum.at[q] = beta * sum.at[q] + term.at[q];
      put_pack(sum, row, j);
    }
  }
}
#endif

BLOCK_KERNEL vjp_bias(int64_t M, int64_t N, const real *yb, real *bb)
{
  FOR_EACH_BLOCK (strip, strips(N), M * STRIP)
    ADD_COLUMN_SUMS(strip, M, N, bb, m, j, yb[m * N + j]);
}

/* y = beta c + x W' by parts: c goes into y first. */
static void add_product(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *x,
                        const DEVICE real *W, const DEVICE real *Wt, real beta,
                        const DEVICE real *c, DEVICE real *y)
{
  if (c != y && beta != 0)
    OP(axpby)(st, M * N, 1, c, 0, y);
  gemm(st, false, Wt == NULL, M, N, K, 1, x, K, Wt ? Wt : W, Wt ? N : K, beta, y, N);
}

void OP(linear_fwd)(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *x,
                    const DEVICE real *W, const DEVICE real *Wt, const DEVICE real *b, real beta,
                    const DEVICE real *c, DEVICE real *y)
{
  c = c ? c : y;
#ifdef __CUDACC__
  if (K == 0 && in_packs(N, b) && in_packs(N, c) && in_packs(N, y)) {
    LAUNCH_ROWS(st, M, without_terms_packed, M, N, b, beta, c, y);
    return;
  }
  if (K == 0) {
    LAUNCH_ROWS(st, M, without_terms, M, N, b, beta, c, y);
    return;
  }
#endif
  struct product_plus p = {M, N, K, x, Wt ? Wt : W, Wt == NULL, b, beta, c, y};
  if (product_plus(st, &p))
    return;
  p.b = NULL; /* perhaps the product can be had without */
  if (!product_plus(st, &p))
    add_product(st, M, K, N, x, W, Wt, beta, c, y);
  if (b)
    LAUNCH_ROWS(st, M, add_bias, M, N, b, y);
}

#if defined(__CUDACC__) && REAL_BITS == 32
#include "kernels/weight_gradient_cuda.h"
#endif

#ifdef __CUDACC__
/* Of the paper's shapes, M = 131072, by which the two that follow were measured. */
enum { MUCH_LARGER = 4 };
#endif

/* xb = beta xb + yb W.  Where yb is the largest it should be read once; of the paper's in_proj
 * cuBLAS moved 2.7 GB, yb twice, while out_proj forwards, with W transposed, read its input once:
 * so W is turned to have that form.  That of out_proj, K = 4 N, is faster by a tenth too. */
static void add_input(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *W,
                      const DEVICE real *yb, real beta, DEVICE real *xb)
{
#ifdef __CUDACC__
  bool turns = M > N && M > K && (N > K || K >= MUCH_LARGER * N);
  real *Wt = turns ? turned_matrix(st, N, K) : NULL;
  if (Wt) {
    OP(transpose)(st, N, K, W, Wt);
    gemm(st, false, true, M, K, N, 1, yb, N, Wt, N, beta, xb, K);
    return;
  }
#endif
  gemm(st, false, false, M, K, N, 1, yb, N, W, K, beta, xb, K);
}

/* Wb += yb' x.  cuBLAS makes x' yb a tenth faster where it is much wider than high: that is made,
 * and turned. */
static void add_weight(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *x,
                       const DEVICE real *yb, DEVICE real *Wb)
{
#ifdef __CUDACC__
  real *turned = N >= MUCH_LARGER * K && M > N && K > 0 ? turned_matrix(st, N, K) : NULL;
  if (turned) {
    gemm(st, true, false, K, N, M, 1, x, K, yb, N, 0, turned, N);
    add_transpose(st, K, N, turned, Wb);
    return;
  }
#endif
  gemm(st, true, false, N, K, M, 1, yb, N, x, K, 1, Wb, K);
}

void OP(linear_vjp)(stream st, int64_t M, int64_t K, int64_t N, const DEVICE real *x,
                    const DEVICE real *W, const DEVICE real *yb, real beta, DEVICE real *xb,
                    DEVICE real *Wb, DEVICE real *bb)
{
  if (xb)
    add_input(st, M, K, N, W, yb, beta, xb);
#if defined(__CUDACC__) && REAL_BITS == 32
  if (Wb && weight_in_one_pass(st, M, K, N, x, yb, Wb, &bb))
    Wb = NULL;
#endif
  if (Wb)
    add_weight(st, M, K, N, x, yb, Wb);
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
    LAUNCH_ROWS(st, M, add_bias, M, N, bd, yd);
}
