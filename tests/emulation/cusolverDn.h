/* cusolverDn.h, a stand-in: see cuda_runtime.h beside this. */
#ifndef TESTS_EMULATION_CUSOLVER_H
#define TESTS_EMULATION_CUSOLVER_H
#include <cublas_v2.h>

typedef struct emulated_solver *cusolverDnHandle_t;
enum cusolverStatus_t { CUSOLVER_STATUS_SUCCESS };
extern "C" {
cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *h);
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t h, cudaStream_t queue);
cusolverStatus_t cusolverDnDgetrf_bufferSize(cusolverDnHandle_t h, int m, int n, double *A, int lda,
                                             int *lwork);
cusolverStatus_t cusolverDnDgetrf(cusolverDnHandle_t h, int m, int n, double *A, int lda,
                                  double *work, int *ipiv, int *info);
cusolverStatus_t cusolverDnDgetrs(cusolverDnHandle_t h, cublasOperation_t trans, int n, int nrhs,
                                  const double *A, int lda, const int *ipiv, double *B, int ldb,
                                  int *info);
cusolverStatus_t cusolverDnDgesvd_bufferSize(cusolverDnHandle_t h, int m, int n, int *lwork);
cusolverStatus_t cusolverDnDgesvd(cusolverDnHandle_t h, signed char jobu, signed char jobvt, int m,
                                  int n, double *A, int lda, double *S, double *U, int ldu,
                                  double *VT, int ldvt, double *work, int lwork, double *rwork,
                                  int *info);
cusolverStatus_t cusolverDnDgeqrf_bufferSize(cusolverDnHandle_t h, int m, int n, double *A, int lda,
                                             int *lwork);
cusolverStatus_t cusolverDnDgeqrf(cusolverDnHandle_t h, int m, int n, double *A, int lda,
                                  double *tau, double *work, int lwork, int *info);
cusolverStatus_t cusolverDnDorgqr_bufferSize(cusolverDnHandle_t h, int m, int n, int k,
                                             const double *A, int lda, const double *tau,
                                             int *lwork);
cusolverStatus_t cusolverDnDorgqr(cusolverDnHandle_t h, int m, int n, int k, double *A, int lda,
                                  const double *tau, double *work, int lwork, int *info);
}
#endif
