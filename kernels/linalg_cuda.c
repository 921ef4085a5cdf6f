/* linalg_cuda.c: gemm by cuBLAS, float32 with the products that `matmul` asks for.
 *
 * A row-major matrix is its transpose to cuBLAS: C' = op(B)' op(A)'. */
#ifdef __CUDACC__
#include "kernels/device_cuda.h"
#include "kernels/operations.h"
#include <stdio.h>

KERNEL scale_matrix(int64_t m, int64_t n, real beta, real *C, int64_t ldc)
{
  FOR_EACH (i, m * n) {
    real *c = C + i / n * ldc + i % n;
    *c = beta == 0 ? 0 : beta * *c;
  }
}

#if REAL_BITS == 32
enum { REALS = CUDA_R_32F };
static cublasComputeType_t arithmetic(const struct device *d)
{
  return d->matmul == PLUGIN_TF32   ? CUBLAS_COMPUTE_32F_FAST_TF32
         : d->matmul == PLUGIN_BF16 ? CUBLAS_COMPUTE_32F_FAST_16BF
                                    : CUBLAS_COMPUTE_32F;
}
#else
enum { REALS = CUDA_R_64F };
static cublasComputeType_t arithmetic(const struct device *d)
{
  (void)d;
  return CUBLAS_COMPUTE_64F;
}
#endif

void gemm(stream st, bool ta, bool tb, int64_t m, int64_t n, int64_t k, real alpha, const real *A,
          int64_t lda, const real *B, int64_t ldb, real beta, real *C, int64_t ldc)
{
  struct device *d = device_of(st);
  if (m == 0 || n == 0)
    return;
  if (k == 0) {
    LAUNCH(st, m * n, scale_matrix, m, n, beta, C, ldc);
    return;
  }
  cublasStatus_t s =
      cublasGemmEx_64(d->blas, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, n, m,
                      k, &alpha, B, (cudaDataType)REALS, ldb, A, (cudaDataType)REALS, lda, &beta, C,
                      (cudaDataType)REALS, ldc, arithmetic(d), CUBLAS_GEMM_DEFAULT);
  device_note(st, "gemm", s == CUBLAS_STATUS_SUCCESS ? NULL : cublasGetStatusString(s));
}

/* As ssd_batched_cuda.h says. */
struct matrices {
  const real *at;
  int64_t ld, stride;
  bool transposed;
};

extern "C" void OP(gemm_batched)(stream st, int64_t m, int64_t n, int64_t k, struct matrices A,
                                 struct matrices B, real beta, real *C, int64_t ldc, int64_t stride,
                                 int64_t count)
{
  struct device *d = device_of(st);
  real one = 1;
  cublasStatus_t s = cublasGemmStridedBatchedEx_64(
      d->blas, B.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, A.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
      n, m, k, &one, B.at, (cudaDataType)REALS, B.ld, B.stride, A.at, (cudaDataType)REALS, A.ld,
      A.stride, &beta, C, (cudaDataType)REALS, ldc, stride, count, arithmetic(d),
      CUBLAS_GEMM_DEFAULT);
  device_note(st, "gemm_batched", s == CUBLAS_STATUS_SUCCESS ? NULL : cublasGetStatusString(s));
}
#endif
