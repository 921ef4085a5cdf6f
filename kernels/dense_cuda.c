/* dense_cuda.c: LU, solves, singular values and QR of host matrices in float64 by cuSOLVER, and
 * products by cuBLAS, for the verification module.  Each call copies in, works, copies out. */
#ifdef __CUDACC__
#include "core/dense.h"
#include "kernels/device_cuda.h"
#include <math.h>
#include <stdlib.h>

/* The library's functions know no device: the plug-in has one. */
static struct device *gpu;

enum { BUFFERS = 5 };
struct buffers { /* on the device, freed together */
  void *at[BUFFERS];
  int count;
};

static enum status take(struct buffers *b, size_t bytes, const void *from, void *out)
{
  void *p;
  TRY(device_alloc(bytes, &p));
  b->at[b->count++] = p;
  *(void **)out = p;
  return from ? device_upload(gpu, bytes, from, p) : OK;
}

static void drop(struct buffers *b)
{
  while (b->count > 0)
    device_free(b->at[--b->count]);
}

static size_t doubles(int64_t n) { return (size_t)n * sizeof(double); }

static enum status solved(cusolverStatus_t s, const char *what)
{
  if (s != CUSOLVER_STATUS_SUCCESS)
    FAIL(ERR_DEVICE, "cuSOLVER: %s: status %d", what, (int)s);
  return OK;
}

static enum status handle(void)
{
  if (gpu->solver)
    return OK;
  TRY(solved(cusolverDnCreate(&gpu->solver), "start"));
  return solved(cusolverDnSetStream(gpu->solver, gpu->queue), "stream");
}

/* What a factorisation says: below 0 a bad argument, above 0 where it broke down. */
static enum status read_info(const int *dev, int *info)
{
  return device_download(gpu, sizeof *info, dev, info);
}

static enum status factor_on(struct buffers *b, int n, double *A, int *pivots, int *info)
{
  double *dev, *work;
  int *ipiv, *result, lwork = 0;
  TRY(handle());
  TRY(take(b, doubles((int64_t)n * n), A, &dev));
  TRY(take(b, (size_t)n * sizeof *pivots, NULL, &ipiv));
  TRY(take(b, sizeof *result, NULL, &result));
  TRY(solved(cusolverDnDgetrf_bufferSize(gpu->solver, n, n, dev, n, &lwork), "LU"));
  TRY(take(b, doubles(lwork), NULL, &work));
  TRY(solved(cusolverDnDgetrf(gpu->solver, n, n, dev, n, work, ipiv, result), "LU"));
  TRY(read_info(result, info));
  TRY(device_download(gpu, (size_t)n * sizeof *pivots, ipiv, pivots));
  return device_download(gpu, doubles((int64_t)n * n), dev, A);
}

static enum status factor(int64_t n, double *A, int *pivots, bool *singular)
{
  struct buffers b = {};
  int info = 0;
  enum status s = factor_on(&b, (int)n, A, pivots, &info);
  drop(&b);
  *singular = info != 0;
  for (int64_t i = 0; s == OK && i < n; i++) /* LAPACK says so of NaN, cuSOLVER does not */
    *singular = *singular || !isfinite(A[i * n + i]);
  return s;
}

static enum status solve_on(struct buffers *b, int n, const double *factors, const int *pivots,
                            bool transpose, int rows, double *x)
{
  double *dev, *right;
  int *ipiv, *result, info = 0;
  TRY(handle());
  TRY(take(b, doubles((int64_t)n * n), factors, &dev));
  TRY(take(b, (size_t)n * sizeof *pivots, pivots, &ipiv));
  TRY(take(b, doubles((int64_t)n * rows), x, &right));
  TRY(take(b, sizeof *result, NULL, &result));
  TRY(solved(cusolverDnDgetrs(gpu->solver, transpose ? CUBLAS_OP_T : CUBLAS_OP_N, n, rows, dev, n,
                              ipiv, right, n, result),
             "solve"));
  TRY(read_info(result, &info));
  if (info != 0)
    FAIL(ERR_DEVICE, "cuSOLVER: solve: argument %d", -info);
  return device_download(gpu, doubles((int64_t)n * rows), right, x);
}

static enum status solve(int64_t n, const double *factors, const int *pivots, bool transpose,
                         int64_t rows, double *x)
{
  struct buffers b = {};
  enum status s = solve_on(&b, (int)n, factors, pivots, transpose, (int)rows, x);
  drop(&b);
  return s;
}

static enum status singular_values_on(struct buffers *b, int n, const double *A, double *sigma)
{
  double *dev, *values, *work, *spare;
  int *result, lwork = 0, info = 0;
  TRY(handle());
  TRY(take(b, doubles((int64_t)n * n), A, &dev));
  TRY(take(b, doubles(n), NULL, &values));
  TRY(take(b, sizeof *result, NULL, &result));
  TRY(solved(cusolverDnDgesvd_bufferSize(gpu->solver, n, n, &lwork), "singular values"));
  TRY(take(b, doubles(lwork), NULL, &work));
  TRY(take(b, doubles(n), NULL, &spare));
  TRY(solved(cusolverDnDgesvd(gpu->solver, 'N', 'N', n, n, dev, n, values, NULL, n, NULL, n, work,
                              lwork, spare, result),
             "singular values"));
  TRY(read_info(result, &info));
  if (info != 0)
    FAIL(ERR_NUMERIC, "the singular values of a matrix of order %d cannot be found (%d)", n, info);
  return device_download(gpu, doubles(n), values, sigma);
}

static enum status singular_values(int64_t n, double *A, double *sigma)
{
  struct buffers b = {};
  enum status s = singular_values_on(&b, (int)n, A, sigma);
  drop(&b);
  return s;
}

/* Q column-major (n,k) */
static enum status orthonormalise_on(struct buffers *b, int n, int k, double *Q, double *r)
{
  double *dev, *tau, *work;
  int *result, lwork = 0, more = 0, info = 0;
  TRY(handle());
  TRY(take(b, doubles((int64_t)n * k), Q, &dev));
  TRY(take(b, doubles(k), NULL, &tau));
  TRY(take(b, sizeof *result, NULL, &result));
  TRY(solved(cusolverDnDgeqrf_bufferSize(gpu->solver, n, k, dev, n, &lwork), "QR"));
  TRY(solved(cusolverDnDorgqr_bufferSize(gpu->solver, n, k, k, dev, n, tau, &more), "QR"));
  lwork = more > lwork ? more : lwork;
  TRY(take(b, doubles(lwork), NULL, &work));
  TRY(solved(cusolverDnDgeqrf(gpu->solver, n, k, dev, n, tau, work, lwork, result), "QR"));
  TRY(device_download(gpu, doubles((int64_t)n * k), dev, Q));
  for (int i = 0; i < k; i++)
    r[i] = fabs(Q[(int64_t)i * n + i]);
  TRY(solved(cusolverDnDorgqr(gpu->solver, n, k, k, dev, n, tau, work, lwork, result), "QR"));
  TRY(read_info(result, &info));
  if (info != 0)
    FAIL(ERR_NUMERIC, "QR of %d columns failed (%d)", k, info);
  return device_download(gpu, doubles((int64_t)n * k), dev, Q);
}

/* Q row-major */
static enum status orthonormalise(int64_t n, int64_t k, double *Q, double *r)
{
  struct buffers b = {};
  double *columns = (double *)malloc(doubles(n * k ? n * k : 1));
  if (!columns)
    FAIL(ERR_MEMORY, "out of memory: QR of %lld columns", (long long)k);
  for (int64_t i = 0; i < n * k; i++)
    columns[i % k * n + i / k] = Q[i];
  enum status s = orthonormalise_on(&b, (int)n, (int)k, columns, r);
  for (int64_t i = 0; s == OK && i < n * k; i++)
    Q[i] = columns[i % k * n + i / k];
  drop(&b);
  free(columns);
  return s;
}

/* C' (n,m) = B' A' + beta C' */
static enum status multiply_on(struct buffers *b, int64_t m, int64_t n, int64_t k, const double *A,
                               const double *B, double beta, double *C)
{
  double *a, *right, *c, one = 1;
  TRY(take(b, doubles(m * k), A, &a));
  TRY(take(b, doubles(k * n), B, &right));
  TRY(take(b, doubles(m * n), beta == 0 ? NULL : C, &c));
  cublasStatus_t s = cublasGemmEx_64(gpu->blas, CUBLAS_OP_N, CUBLAS_OP_N, n, m, k, &one, right,
                                     CUDA_R_64F, n, a, CUDA_R_64F, k, &beta, c, CUDA_R_64F, n,
                                     CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT);
  if (s != CUBLAS_STATUS_SUCCESS)
    FAIL(ERR_DEVICE, "cuBLAS: product: %s", cublasGetStatusString(s));
  return device_download(gpu, doubles(m * n), c, C);
}

static enum status multiply(int64_t m, int64_t n, int64_t k, const double *A, const double *B,
                            double beta, double *C)
{
  struct buffers b = {};
  enum status s = multiply_on(&b, m, n, k, A, B, beta, C);
  drop(&b);
  return s;
}

static const struct dense_library library = {factor, solve, singular_values, orthonormalise,
                                             multiply};

extern "C" const struct dense_library *dense_cuda(struct device *d)
{
  gpu = d;
  return &library;
}
#endif
