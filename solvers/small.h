/* small.h: dense systems and eigenproblems of a few unknowns, solved inside a kernel, one sample a
 * thread. */
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

/* Rotates rows and columns p, q of A, and columns p, q of X, so that A[p][q] becomes 0. */
INLINE void rotate_pair(int64_t m, int64_t p, int64_t q, wide *A, wide *X)
{
  wide theta = (A[q * m + q] - A[p * m + p]) / (2 * A[p * m + q]);
  wide root = sqrt(theta * theta + 1), t = 1 / (re(theta) < 0 ? theta - root : theta + root);
  wide c = 1 / sqrt(t * t + 1), s = t * c;
  for (int64_t k = 0; k < m; k++) {
    wide a = A[k * m + p], b = A[k * m + q], x = X[k * m + p], y = X[k * m + q];
    A[k * m + p] = c * a - s * b;
    A[k * m + q] = s * a + c * b;
    X[k * m + p] = c * x - s * y;
    X[k * m + q] = s * x + c * y;
  }
  for (int64_t k = 0; k < m; k++) {
    wide a = A[p * m + k], b = A[q * m + k];
    A[p * m + k] = c * a - s * b;
    A[q * m + k] = s * a + c * b;
  }
}

/* A (m,m), symmetric and positive, = X diag X' by Jacobi's rotations: the diagonal of A becomes the
 * eigenvalues, the largest first, X's columns their vectors. */
INLINE void symmetric_eigen(int64_t m, wide *A, wide *X)
{
  for (int64_t i = 0; i < m * m; i++)
    X[i] = i % (m + 1) == 0;
  bool rotated = true;
  for (int sweep = 0; sweep < 40 && rotated; sweep++) {
    rotated = false;
    for (int64_t p = 0; p < m; p++)
      for (int64_t q = p + 1; q < m; q++) {
        double size = sqrt(magnitude(A[p * m + p])) * sqrt(magnitude(A[q * m + q]));
        if (magnitude(A[p * m + q]) > 2.3e-16 * size) {
          rotate_pair(m, p, q, A, X);
          rotated = true;
        }
      }
  }
  for (int64_t k = 0; k < m; k++) {
    int64_t largest = k;
    for (int64_t i = k + 1; i < m; i++)
      if (re(A[i * (m + 1)]) > re(A[largest * (m + 1)]))
        largest = i;
    swap_wide(&A[k * (m + 1)], &A[largest * (m + 1)]);
    for (int64_t i = 0; i < m; i++)
      swap_wide(&X[i * m + k], &X[i * m + largest]);
  }
}

/* A (m,m) <- the m by k product A B, B (m,m); row (m) is room. */
INLINE void times_leading(int64_t m, int64_t k, wide *A, const wide *B, wide *row)
{
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < k; j++) {
      row[j] = 0;
      for (int64_t r = 0; r < m; r++)
        row[j] += A[i * m + r] * B[r * m + j];
    }
    for (int64_t j = 0; j < k; j++)
      A[i * m + j] = row[j];
  }
}
#endif
