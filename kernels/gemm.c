/* gemm: C = alpha op(A) op(B) + beta C, row-major, by CBLAS on tiles of C that our threads share.
 *
 * BLAS keeps to one thread.  Tiles depend on the shape alone and no sum has two threads, so the
 * result does not depend on the number of threads.  A tile has 256 rows when there are many: that
 * cost OpenBLAS at most 8 % on the shapes of this model; one row is a matrix-vector product, which
 * took a fifth of gemm's time.
 *
 * Where the processor has AVX2, and OpenBLAS none of the kernels of which the next paragraph tells,
 * products go by tiles of our own (gemm_tiles_cpu.h): a Zen 4 core without AVX-512 makes of m,n,k =
 * 64,292,64 86 Gflop/s where OpenBLAS makes 65, of 64,64,128 89 for 67, of 256,2320,256 86 for 82,
 * of 256,1024,256 81 for 68; one row takes the time of a matrix-vector product.  Their size may
 * depend on the number of threads: no result does.
 *
 * OpenBLAS's AVX-512 kernels take products of up to 10^6 terms as they lie, without packing, when B
 * is not transposed: a Zen 4 core then makes 112 to 117 Gflop/s, where whole products make 78 to
 * 105 (of m,n,k = 64,292,64: 111 in tiles, 93 whole, 82 with B transposed).  Tiles and runs of
 * terms are cut to that size; this is what the transposes of weights are kept for (core/backend.h).
 * Each sum then runs in order whatever the tile, but for columns behind a multiple of four: where n
 * is one, a row does not depend on the rows beside it.
 */
#ifndef __CUDACC__
#include "core/status.h"
#include "kernels/blas.h"
#include "kernels/operations.h"
#include <cblas.h>
#include <limits.h>
#include <omp.h>
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

#if REAL_BITS != 128 && defined(__AVX2__) && defined(__FMA__)
#include "kernels/gemm_tiles_cpu.h"
#define OWN_TILES 1
#else
#define OWN_TILES 0
#endif

enum { SMALL = 1 << 19 }; /* m n k below which one tile is fastest */
/* A tile that is not packed, and how many terms of its sums are added at a time. */
enum { BARE_ROWS = 48, BARE_COLUMNS = 64, BARE_STEP = 16, BARE_TERMS = 256 };

struct product {
  bool ta, tb, bare; /* bare: without packing, see above */
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
  if (m == 1 && !p.bare) {
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

/* A tile by runs of terms, in order. */
static void multiply_bare(struct product p)
{
  int64_t runs = (p.k + BARE_TERMS - 1) / BARE_TERMS, all = p.k;
  for (int64_t i = 0; i < runs; i++) {
    int64_t first = all * i / runs;
    struct product part = p;
    part.k = all * (i + 1) / runs - first;
    part.A += first * (p.ta ? p.lda : 1);
    part.B += first * p.ldb;
    part.beta = i ? 1 : p.beta;
    multiply(part);
  }
}

/* Where tile i of `tiles` begins; a narrow one would be slow. */
static int64_t column_of(int64_t n, int64_t i, int64_t tiles)
{
  return i == tiles ? n : n * i / tiles / BARE_STEP * BARE_STEP;
}

static void gemm_bare(struct product p)
{
  int64_t row_tiles = (p.m + BARE_ROWS - 1) / BARE_ROWS, rows = (p.m + row_tiles - 1) / row_tiles;
  int64_t column_tiles = (p.n + BARE_COLUMNS - 1) / BARE_COLUMNS;
  FOR_EACH_COST (tile, row_tiles * column_tiles, rows * BARE_COLUMNS * p.k / 8) {
    int64_t j = column_of(p.n, tile % column_tiles, column_tiles);
    int64_t end = column_of(p.n, tile % column_tiles + 1, column_tiles);
    multiply_bare(tile_of(p, tile / column_tiles * rows, rows, j, end - j));
  }
}

#if OWN_TILES
/* Where our tiles were the faster: B, or what A' has of it between two visits of C, must be near.
 * Few rows read B once, whatever its size. */
static bool in_tiles(bool ta, bool tb, int64_t m, int64_t n, int64_t k)
{
  enum { FEW_ROWS = 16, MOST = 3 << 20, MOST_TRANSPOSED = 160 << 10 };
  int64_t size = sizeof(real), terms = k < TILE_TERMS ? k : TILE_TERMS;
  if (tb || blas_has_bare_kernels())
    return false;
  if (ta)
    return terms * n * size <= MOST_TRANSPOSED;
  return m <= FEW_ROWS || n * k * size <= MOST;
}

/* A thread of its own takes more rows at once, and so packs a panel less often. */
static void multiply_in_tiles(const struct gemm_part *p)
{
  enum { ALONE = 22 * TILE_ROWS, SHARED = 8 * TILE_ROWS, COLUMNS = 256 };
  int64_t most = omp_get_max_threads() > 1 ? SHARED : ALONE;
  int64_t row_tiles = (p->m + most - 1) / most, rows = (p->m + row_tiles - 1) / row_tiles;
  int64_t column_tiles = (p->n + COLUMNS - 1) / COLUMNS;
  int64_t columns = p->n < COLUMNS ? p->n : COLUMNS;
  FOR_EACH_COST (tile, row_tiles * column_tiles, rows * columns * p->k / 8) {
    int64_t i = tile / column_tiles * rows, j = tile % column_tiles * columns;
    struct gemm_part part = columns_of(p, j, p->n - j < columns ? p->n - j : columns);
    part.m = p->m - i < rows ? p->m - i : rows;
    part.a += i * p->ar;
    part.c += i * p->ldc;
    if (p->beta != 0)
      part.from += i * p->ldc;
    multiply_part(&part);
  }
}
#endif

bool product_plus(stream st, const struct product_plus *p)
{
  (void)st;
#if OWN_TILES
  if (p->M > 0 && p->K > 0 && in_tiles(false, p->transposed, p->M, p->N, p->K)) {
    struct gemm_part part = {p->M, p->N,    p->K, p->x, p->K, 1,   p->W,
                             p->N, p->beta, p->c, p->b, p->y, p->N};
    multiply_in_tiles(&part);
    return true;
  }
#endif
  (void)p;
  return false;
}

void gemm(stream st, bool ta, bool tb, int64_t m, int64_t n, int64_t k, real alpha, const real *A,
          int64_t lda, const real *B, int64_t ldb, real beta, real *C, int64_t ldc)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  struct product p = {ta, tb, false, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc};
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
#if OWN_TILES
  if (alpha == 1 && in_tiles(ta, tb, m, n, k)) {
    struct gemm_part part = {m, n, k, A, ta ? 1 : lda, ta ? lda : 1, B, ldb, beta, C, NULL, C, ldc};
    multiply_in_tiles(&part);
    return;
  }
#endif
  pthread_once(&once, keep_to_one_thread);
  p.bare = !tb && REAL_BITS != 128 && blas_has_bare_kernels();
  if (p.bare) {
    gemm_bare(p);
    return;
  }
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
