/* cublas_v2.h, a stand-in: see cuda_runtime.h beside this. */
#ifndef TESTS_EMULATION_CUBLAS_H
#define TESTS_EMULATION_CUBLAS_H
#include <cuda_runtime.h>

typedef struct emulated_blas *cublasHandle_t;
enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1 };
enum cublasComputeType_t {
  CUBLAS_COMPUTE_32F,
  CUBLAS_COMPUTE_32F_FAST_TF32,
  CUBLAS_COMPUTE_32F_FAST_16BF,
  CUBLAS_COMPUTE_64F
};
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };
extern "C" {
const char *cublasGetStatusString(cublasStatus_t s);
cublasStatus_t cublasCreate(cublasHandle_t *h);
cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t queue);
cublasStatus_t cublasSetWorkspace(cublasHandle_t h, void *workspace, size_t bytes);
cublasStatus_t cublasGemmEx_64(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb,
                               int64_t m, int64_t n, int64_t k, const void *alpha, const void *A,
                               cudaDataType At, int64_t lda, const void *B, cudaDataType Bt,
                               int64_t ldb, const void *beta, void *C, cudaDataType Ct, int64_t ldc,
                               cublasComputeType_t compute, cublasGemmAlgo_t algo);
cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t h, cublasOperation_t ta,
                                             cublasOperation_t tb, int64_t m, int64_t n, int64_t k,
                                             const void *alpha, const void *A, cudaDataType At,
                                             int64_t lda, long long strideA, const void *B,
                                             cudaDataType Bt, int64_t ldb, long long strideB,
                                             const void *beta, void *C, cudaDataType Ct,
                                             int64_t ldc, long long strideC, int64_t count,
                                             cublasComputeType_t compute, cublasGemmAlgo_t algo);
}
#endif
