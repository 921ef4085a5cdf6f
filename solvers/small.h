/* small.h: dense systems of a few unknowns, solved inside a kernel, one sample a thread. */
#ifndef SOLVERS_SMALL_H
#define SOLVERS_SMALL_H
#include "core/launch.h"

INLINE double magnitude(wide x)
{
  double a = re(x);
  return a < 0 ? -a : a;
}

INLINE void swap_wide(wide *a, wide *b)
{
  wide t = *a;
  *a = *b;
  *b = t;
}

/* Puts the largest element of A[k.., k..] at A[k][k]; returns its magnitude, NaN when one is. */
INLINE double pivot(int64_t m, int64_t k, wide *A, wide *b, int32_t *order)
{
  int64_t row = k, column = k;
  double largest = 0;
  for (int64_t i = k; i < m; i++)
    for (int64_t j = k; j < m; j++) {
      double a = magnitude(A[i * m + j]);
      if (a > largest || a != a)
        largest = a, row = i, column = j;
    }
  for (int64_t j = 0; row != k && j < m; j++)
    swap_wide(&A[k * m + j], &A[row * m + j]);
  for (int64_t i = 0; column != k && i < m; i++)
    swap_wide(&A[i * m + k], &A[i * m + column]);
  swap_wide(&b[k], &b[row]);
  int32_t t = order[k];
  order[k] = order[column];
  order[column] = t;
  return largest;
}

/* x (m) of A (m,m) x = b by elimination with complete pivoting (on a symmetric positive matrix that
 * is a pivoted Cholesky), truncated where a pivot falls to `tol` times the first: the unknowns left
 * over are 0.  Destroys A and b; order (m).  Returns the rank; x is finite when A and b are. */
INLINE int64_t solve_truncated(int64_t m, wide *A, wide *b, double tol, int32_t *order, wide *x)
{
  int64_t rank = 0;
  double first = 0;
  for (int64_t i = 0; i < m; i++)
    order[i] = (int32_t)i, x[i] = 0;
  for (; rank < m; rank++) {
    int64_t k = rank;
    double p = pivot(m, k, A, b, order);
    first = k == 0 ? p : first;
    if (!(p > tol * first) || !(p > 0))
      break;
    for (int64_t i = k + 1; i < m; i++) {
      wide factor = A[i * m + k] / A[k * m + k];
      for (int64_t j = k + 1; j < m; j++)
        A[i * m + j] -= factor * A[k * m + j];
      b[i] -= factor * b[k];
    }
  }
  for (int64_t k = rank - 1; k >= 0; k--) {
    wide sum = b[k];
    for (int64_t j = k + 1; j < rank; j++)
      sum -= A[k * m + j] * x[order[j]];
    x[order[k]] = sum / A[k * m + k];
  }
  return rank;
}
#endif
