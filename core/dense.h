/* dense.h: dense linear algebra in float64 on host arrays, for what is large and rare: LU, singular
 * values and QR, by LAPACKE or by an accelerator's library, and what is read off a square matrix.
 * All arrays are row-major. */
#ifndef CORE_DENSE_H
#define CORE_DENSE_H
#include "core/status.h"
#include <stdbool.h>
#include <stdint.h>

/* What stands in for LAPACKE and CBLAS (NULL in every function below: these).  A, factors and x
 * are column-major, as there; each fails with ERR_MEMORY, ERR_DEVICE, ERR_NUMERIC. */
struct dense_library {
  enum status (*factor)(int64_t n, double *A, int *pivots, bool *singular);
  enum status (*solve)(int64_t n, const double *factors, const int *pivots, bool transpose,
                       int64_t rows, double *x);
  enum status (*singular_values)(int64_t n, double *A, double *sigma); /* A is used up */
  /* row-major, as dense_orthonormalise and dense_multiply */
  enum status (*orthonormalise)(int64_t n, int64_t k, double *Q, double *r);
  enum status (*multiply)(int64_t m, int64_t n, int64_t k, const double *A, const double *B,
                          double beta, double *C);
};

/* P L U = A for A (n,n). */
struct dense_lu {
  int64_t n;
  double *factors; /* (n,n) */
  int *pivots;     /* (n) */
  bool singular;   /* a pivot is 0 or not a number: solving gives no numbers */
  const struct dense_library *library;
};
/* Factorises A = I - B, B given by its columns: row j of `transposed` (n,n) is column j of B.
 * ERR_MEMORY; ERR_DEVICE of an accelerator's, here and below. */
MUST_USE enum status dense_lu_of_identity_minus(const struct dense_library *library, int64_t n,
                                                const double *transposed, struct dense_lu *f);
void dense_lu_free(struct dense_lu *f);
/* Each row of x (rows,n) becomes A^-1 x, or with `transpose` A'^-1 x. */
MUST_USE enum status dense_lu_solve(const struct dense_lu *f, bool transpose, int64_t rows,
                                    double *x);

/* Singular values (n) of A (n,n), largest first.  ERR_MEMORY, ERR_NUMERIC. */
MUST_USE enum status dense_singular_values(const struct dense_library *library, int64_t n,
                                           const double *A, double *sigma);
/* Singular values above sigma_1 n eps: the rank as numpy and MATLAB count it. */
int64_t dense_rank(int64_t n, const double *sigma);
/* max |eigenvalue| of A (n,n) as lim ||A^m||^(1/m), by squaring A 24 times; 0 for nilpotent ones.
 * ERR_MEMORY. */
MUST_USE enum status dense_spectral_radius(const struct dense_library *library, int64_t n,
                                           const double *A, double *radius);

/* C (m,n) = A (m,k) B (k,n) + beta C */
MUST_USE enum status dense_multiply(const struct dense_library *library, int64_t m, int64_t n,
                                    int64_t k, const double *A, const double *B, double beta,
                                    double *C);
void dense_transpose(int64_t n, double *A); /* (n,n), in place */
/* Q (n,k), k <= n, becomes orthonormal, r (k) the absolute diagonal of R.  ERR_MEMORY,
 * ERR_NUMERIC. */
MUST_USE enum status dense_orthonormalise(const struct dense_library *library, int64_t n, int64_t k,
                                          double *Q, double *r);

double dense_norm(int64_t n, const double *x);    /* Euclidean; of a matrix Frobenius */
double dense_largest(int64_t n, const double *x); /* max |x|; NaN if any is */
double dense_median(int64_t n, const double *x);  /* of signed values; NaN without memory */
#endif
