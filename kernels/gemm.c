/* gemm: C = alpha op(A) op(B) + beta C, row-major, by CBLAS on tiles of C that our threads share.
 *
 * BLAS keeps to one thread.  Tiles depend on the shape alone and k is never split, so the result
 * does not depend on the number of threads.  A tile has 256 rows when there are many: that cost
 * OpenBLAS at most 8 % on the shapes of this model; one row is a matrix-vector product, which took
 * a fifth of gemm's time.
 */
#ifndef __CUDACC__
#include "core/status.h"
#include "kernels/operations.h"
#include <cblas.h>
#include <limits.h>
#include <pthread.h>

#if REAL_BITS == 32
#define blas_gemm cblas_sgemm
#define blas_gemv cblas_sgemv
#define SCALAR(a) (a)
#elif REAL_BITS == 64
#define blas_gemm cblas_dgemm
#define blas_gemv cblas_dgemv
#define SCALAR(a) (a)
#else
#define blas_gemm cblas_zgemm
#define blas_gemv cblas_zgemv
#define SCALAR(a) (&(a))
#endif

enum { SMALL = 1 << 19 }; /* m n k below which one tile is fastest */

struct product {
  bool ta, tb;
  int64_t m, n, k;
  real alpha;
  const real *A;
  int64_t lda;
  const real *B;
  int64_t ldb;
  real beta;
  real *C;
  int64_t ldc;
};

/* Weak: another BLAS is left alone. */
extern void openblas_set_num_threads(int threads) __attribute__((weak));

static void keep_to_one_thread(void)
{
  if (openblas_set_num_threads)
    openblas_set_num_threads(1);
}

static struct product tile_of(struct product p, int64_t i, int64_t rows, int64_t j, int64_t columns)
{
  p.A += i * (p.ta ? 1 : p.lda);
  p.B += j * (p.tb ? p.ldb : 1);
  p.C += i * p.ldc + j;
  p.m = p.m - i < rows ? p.m - i : rows;
  p.n = p.n - j < columns ? p.n - j : columns;
  return p;
}

static void multiply(struct product p)
{
  CHECK(p.lda <= INT_MAX && p.ldb <= INT_MAX && p.ldc <= INT_MAX && p.k <= INT_MAX);
  int m = (int)p.m, n = (int)p.n, k = (int)p.k;
  int lda = (int)p.lda, ldb = (int)p.ldb, ldc = (int)p.ldc;
  if (m == 1) {
    /* the row of C is op(B)' times the row of op(A); gemv does not promise to overwrite NaN */
    for (int j = 0; p.beta == 0 && j < n; j++)
      p.C[j] = 0;
    blas_gemv(CblasRowMajor, p.tb ? CblasNoTrans : CblasTrans, p.tb ? n : k, p.tb ? k : n,
              SCALAR(p.alpha), p.B, ldb, p.A, p.ta ? lda : 1, SCALAR(p.beta), p.C, 1);
  } else {
    blas_gemm(CblasRowMajor, p.ta ? CblasTrans : CblasNoTrans, p.tb ? CblasTrans : CblasNoTrans, m,
              n, k, SCALAR(p.alpha), p.A, lda, p.B, ldb, SCALAR(p.beta), p.C, ldc);
  }
}

/* No terms: C = beta C, where beta = 0 does not read C. */
static void scale(struct product p)
{
  for (int64_t i = 0; p.beta != 1 && i < p.m; i++)
    for (int64_t j = 0; j < p.n; j++)
      p.C[i * p.ldc + j] = p.beta == 0 ? 0 : p.beta * p.C[i * p.ldc + j];
}

void gemm(stream st, bool ta, bool tb, int64_t m, int64_t n, int64_t k, real alpha, const real *A,
          int64_t lda, const real *B, int64_t ldb, real beta, real *C, int64_t ldc)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  struct product p = {ta, tb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc};
  int64_t rows = m >= 4096 ? 256 : m >= 1024 ? 128 : 64, row_tiles = (m + rows - 1) / rows;
  /* few rows (a gradient of weights): narrow tiles, so that several threads have equal work */
  int64_t columns = row_tiles >= 16 ? n : n >= 2048 ? 256 : row_tiles < 8 && n <= 256 ? 32 : 128;
  (void)st;
  if (m == 0 || n == 0)
    return;
  if (k == 0) {
    scale(p);
    return;
  }
  pthread_once(&once, keep_to_one_thread);
  if (m * n < SMALL / k) {
    rows = m;
    columns = n;
    row_tiles = 1;
  }
  int64_t column_tiles = (n + columns - 1) / columns;
  FOR_EACH (tile, row_tiles * column_tiles)
    multiply(tile_of(p, tile / column_tiles * rows, rows, tile % column_tiles * columns, columns));
}
#endif
