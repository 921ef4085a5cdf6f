/* operations.h: the operations of core/operations.def under this compilation's names. */
#ifndef KERNELS_OPERATIONS_H
#define KERNELS_OPERATIONS_H
#include "core/operations.h"
#ifdef __cplusplus
extern "C" {
#endif
#define OPERATION(name, ...) void OP(name)(stream st, __VA_ARGS__);
#include "core/operations.def"
#undef OPERATION

/* C (m,n) = alpha op(A) op(B) + beta C, row-major, op = transpose where ta, tb; never conjugates.
 * One BLAS thread a tile; tiles do not depend on the number of threads, nor is a sum ever split. */
#define gemm OP(gemm)
void gemm(stream st, bool ta, bool tb, int64_t m, int64_t n, int64_t k, real alpha, const real *A,
          int64_t lda, const real *B, int64_t ldb, real beta, real *C, int64_t ldc);
/* y (M,N) = beta c + x (M,K) op(W) + b, c not overlapping y or y itself; b NULL: none. */
#define product_plus OP(product_plus)
struct product_plus {
  int64_t M, N, K;
  const real *x, *W;
  bool transposed; /* W is (N,K), else (K,N) */
  const real *b;
  real beta;
  const real *c;
  real *y;
};
/* In one pass; false: not done, as there is nothing to save, or no way. */
bool product_plus(stream st, const struct product_plus *p);
#ifdef __CUDACC__
/* A place for a transpose of (rows,n), the same for all; NULL: that is too large for it. */
#define turned_matrix OP(turned_matrix)
real *turned_matrix(stream st, int64_t rows, int64_t n);
/* y (n,rows) += transpose of x (rows,n) */
#define add_transpose OP(add_transpose)
void add_transpose(stream st, int64_t rows, int64_t n, const real *x, real *y);
#endif
#ifdef __cplusplus
}
#endif
#endif
