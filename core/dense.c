/* dense.c: see dense.h.  A row-major matrix is its transpose to Fortran, which is used throughout:
 * nothing is copied into another order. */
#include "core/dense.h"
#include <cblas.h>
#include <float.h>
#include <lapacke.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int as_int(int64_t n)
{
  CHECK(n >= 0 && n <= INT_MAX);
  return (int)n;
}

static double *copy_of(int64_t n, const double *x)
{
  double *copy = malloc((size_t)(n ? n : 1) * sizeof *copy);
  if (copy)
    memcpy(copy, x, (size_t)n * sizeof *copy);
  return copy;
}

enum status dense_lu_of_identity_minus(const struct dense_library *library, int64_t n,
                                       const double *transposed, struct dense_lu *f)
{
  *f = (struct dense_lu){.n = n, .factors = malloc((size_t)(n * n) * sizeof *f->factors)};
  f->library = library;
  f->pivots = malloc((size_t)n * sizeof *f->pivots);
  if (!f->factors || !f->pivots) {
    dense_lu_free(f);
    FAIL(ERR_MEMORY, "out of memory: factors of a matrix of order %lld", (long long)n);
  }
  for (int64_t i = 0; i < n * n; i++)
    f->factors[i] = (i % (n + 1) == 0 ? 1 : 0) - transposed[i];
  int order = as_int(n);
  if (library)
    return library->factor(n, f->factors, f->pivots, &f->singular);
  int info = LAPACKE_dgetrf(LAPACK_COL_MAJOR, order, order, f->factors, order, f->pivots);
  f->singular = info != 0; /* below 0: NaN among the entries */
  return OK;
}

void dense_lu_free(struct dense_lu *f)
{
  free(f->factors);
  free(f->pivots);
  *f = (struct dense_lu){0};
}

enum status dense_lu_solve(const struct dense_lu *f, bool transpose, int64_t rows, double *x)
{
  int n = as_int(f->n);
  if (f->library)
    return f->library->solve(f->n, f->factors, f->pivots, transpose, as_int(rows), x);
  int info = LAPACKE_dgetrs_work(LAPACK_COL_MAJOR, transpose ? 'T' : 'N', n, as_int(rows),
                                 f->factors, n, f->pivots, x, n);
  CHECK(info == 0);
  return OK;
}

enum status dense_singular_values(const struct dense_library *library, int64_t n, const double *A,
                                  double *sigma)
{
  double *copy = copy_of(n * n, A);
  int order = as_int(n);
  if (!copy)
    FAIL(ERR_MEMORY, "out of memory: singular values of a matrix of order %d", order);
  if (library) {
    enum status s = library->singular_values(n, copy, sigma);
    free(copy);
    return s;
  }
  int info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'N', order, order, copy, order, sigma, NULL, order,
                            NULL, order);
  free(copy);
  if (info != 0)
    FAIL(ERR_NUMERIC, "the singular values of a matrix of order %d cannot be found (%d)", order,
         info);
  return OK;
}

int64_t dense_rank(int64_t n, const double *sigma)
{
  int64_t rank = 0;
  while (rank < n && sigma[rank] > sigma[0] * (double)n * DBL_EPSILON)
    rank++;
  return rank;
}

enum status dense_spectral_radius(const struct dense_library *library, int64_t n, const double *A,
                                  double *radius)
{
  enum { SQUARINGS = 24 };
  double *power = copy_of(n * n, A), *square = copy_of(n * n, A);
  double log_scale = 0, m = 1; /* A^m = exp(m log_scale) power */
  if (!power || !square) {
    free(power), free(square);
    FAIL(ERR_MEMORY, "out of memory: the spectral radius of a matrix of order %lld", (long long)n);
  }
  enum status s = OK;
  *radius = 0;
  for (int k = 0; s == OK && k <= SQUARINGS; k++) {
    double norm = dense_norm(n * n, power);
    if (!(norm > 0))
      break;
    log_scale += log(norm) / m;
    *radius = exp(log_scale);
    for (int64_t i = 0; i < n * n; i++)
      power[i] /= norm;
    s = dense_multiply(library, n, n, n, power, power, 0, square);
    double *swap = power;
    power = square, square = swap;
    m *= 2;
    if (k < SQUARINGS && dense_norm(n * n, power) == 0)
      *radius = 0;
  }
  free(power), free(square);
  return s;
}

enum status dense_multiply(const struct dense_library *library, int64_t m, int64_t n, int64_t k,
                           const double *A, const double *B, double beta, double *C)
{
  enum { TILE = 128 }; /* rows: BLAS keeps to one thread, ours share the tiles */
  if (library)
    return library->multiply(m, n, k, A, B, beta, C);
#pragma omp parallel for if (m * n * k > 1 << 20)
  for (int64_t i = 0; i < m; i += TILE) {
    int64_t rows = m - i < TILE ? m - i : TILE;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(rows), as_int(n), as_int(k), 1,
                A + i * k, as_int(k), B, as_int(n), beta, C + i * n, as_int(n));
  }
  return OK;
}

void dense_transpose(int64_t n, double *A)
{
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < i; j++) {
      double swap = A[i * n + j];
      A[i * n + j] = A[j * n + i];
      A[j * n + i] = swap;
    }
}

enum status dense_orthonormalise(const struct dense_library *library, int64_t n, int64_t k,
                                 double *Q, double *r)
{
  if (library)
    return library->orthonormalise(n, k, Q, r);
  double *tau = malloc((size_t)(k ? k : 1) * sizeof *tau);
  if (!tau)
    FAIL(ERR_MEMORY, "out of memory: QR of %lld columns", (long long)k);
  int rows = as_int(n), columns = as_int(k);
  int info = LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, rows, columns, Q, columns, tau);
  for (int64_t i = 0; i < k; i++)
    r[i] = fabs(Q[i * k + i]);
  if (info == 0)
    info = LAPACKE_dorgqr(LAPACK_ROW_MAJOR, rows, columns, columns, Q, columns, tau);
  free(tau);
  if (info != 0)
    FAIL(ERR_NUMERIC, "QR of %d columns failed (%d)", columns, info);
  return OK;
}

double dense_norm(int64_t n, const double *x) { return cblas_dnrm2(as_int(n), x, 1); }

double dense_largest(int64_t n, const double *x)
{
  double largest = 0;
  for (int64_t i = 0; i < n; i++) {
    double a = fabs(x[i]);
    largest = a > largest || a != a ? a : largest;
    if (a != a)
      break;
  }
  return largest;
}

static int ascending(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double dense_median(int64_t n, const double *x)
{
  double *sorted = n > 0 ? copy_of(n, x) : NULL;
  if (!sorted)
    return NAN;
  qsort(sorted, (size_t)n, sizeof *sorted, ascending);
  double median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  free(sorted);
  return median;
}
