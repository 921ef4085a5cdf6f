/* linalg_cuda.c: gemm by cuBLAS, float32 with the products that `matmul` asks for; and products
 * that add more to the same pass over the result, by cuBLASLt.
 *
 * A row-major matrix is its transpose to cuBLAS: C' = op(B)' op(A)'. */
#ifdef __CUDACC__
#include "kernels/device_cuda.h"
#include "kernels/operations.h"
#include <stdio.h>
#include <string.h>

KERNEL scale_matrix(int64_t m, int64_t n, real beta, real *C, int64_t ldc)
{
  FOR_EACH_ROW (i, m, n)
    FOR_COLUMNS (j, 0, n)
      C[i * ldc + j] = beta == 0 ? 0 : beta * C[i * ldc + j];
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

/* By what cuBLAS chooses its kernels. */
struct product_shape {
  int64_t m, n, k, lda, ldb, ldc, count;
  int32_t a, b, c; /* bytes that divide the address */
  int32_t ta, tb, adds, type;
};

static int32_t alignment_of(const void *p)
{
  enum { MOST = 64 }; /* an arena's, so that most addresses are alike */
  uintptr_t at = (uintptr_t)p;
  return at % MOST ? (int32_t)(at & -at) : p ? MOST : 0;
}

static void note_shape(struct device *d, int64_t count, bool ta, bool tb, int64_t m, int64_t n,
                       int64_t k, const real *A, int64_t lda, const real *B, int64_t ldb, bool adds,
                       const real *C, int64_t ldc)
{
  struct product_shape s;
  if (!d->capturing)
    return;
  memset(&s, 0, sizeof s);
  s.m = m, s.n = n, s.k = k, s.lda = lda, s.ldb = ldb, s.ldc = ldc, s.count = count;
  s.a = alignment_of(A), s.b = alignment_of(B), s.c = alignment_of(C);
  s.ta = ta, s.tb = tb, s.adds = adds, s.type = REALS;
  device_note_asked(d, &s, sizeof s);
}

void gemm(stream st, bool ta, bool tb, int64_t m, int64_t n, int64_t k, real alpha, const real *A,
          int64_t lda, const real *B, int64_t ldb, real beta, real *C, int64_t ldc)
{
  struct device *d = device_of(st);
  if (m == 0 || n == 0)
    return;
  if (k == 0) {
    if (beta != 1)
      LAUNCH_ROWS(st, m, scale_matrix, m, n, beta, C, ldc);
    return;
  }
  note_shape(d, 1, ta, tb, m, n, k, A, lda, B, ldb, beta != 0, C, ldc);
  cublasStatus_t s =
      cublasGemmEx_64(d->blas, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, n, m,
                      k, &alpha, B, (cudaDataType)REALS, ldb, A, (cudaDataType)REALS, lda, &beta, C,
                      (cudaDataType)REALS, ldc, arithmetic(d), CUBLAS_GEMM_DEFAULT);
  device_note(st, "gemm", s == CUBLAS_STATUS_SUCCESS ? NULL : cublasGetStatusString(s));
}

real *turned_matrix(stream st, int64_t rows, int64_t n)
{
  real *to = (real *)device_of(st)->turned;
  return rows * n > (int64_t)(TURNED_BYTES / sizeof *to) ? NULL : to;
}

/* ---- with more in the same pass ---- */

static struct product_key key_of(const struct device *d, const struct product_plus *p)
{
  struct product_key k;
  memset(&k, 0, sizeof k);
  k.M = p->M, k.N = p->N, k.K = p->K;
  k.type = REALS, k.arithmetic = (int32_t)arithmetic(d);
  k.transposed = p->transposed, k.separate = p->c != p->y, k.bias = p->b != NULL;
  k.x = alignment_of(p->x), k.W = alignment_of(p->W), k.b = alignment_of(p->b);
  k.c = alignment_of(p->c), k.y = alignment_of(p->y);
  return k;
}

static cublasStatus_t prefer(cublasLtMatmulPreference_t preference,
                             cublasLtMatmulPreferenceAttributes_t what, int32_t value)
{
  uint32_t bytes = (uint32_t)value;
  return cublasLtMatmulPreferenceSetAttribute(preference, what, &bytes, sizeof bytes);
}

static cublasStatus_t preference_of(const struct product_key *k, size_t space,
                                    cublasLtMatmulPreference_t out)
{
  cublasStatus_t s = cublasLtMatmulPreferenceInit(out);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatmulPreferenceSetAttribute(out, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space,
                                             sizeof space);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, k->W);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, k->x);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, k->c);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, k->y);
  return s;
}

/* What cuBLASLt wants to be told; it looks at where the bias lies. */
static cublasStatus_t describe(const struct device *d, const struct product_plus *p,
                               struct product_plan *plan)
{
  cublasOperation_t op = p->transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  int64_t rows = p->transposed ? p->K : p->N, columns = p->transposed ? p->N : p->K;
  cublasLtEpilogue_t epilogue = p->b ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  cudaDataType type = (cudaDataType)REALS;
  cublasStatus_t s = cublasLtMatmulDescInit(&plan->product, arithmetic(d), type);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &op, sizeof op);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                       sizeof epilogue);
  if (s == CUBLAS_STATUS_SUCCESS && p->b)
    s = cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->b,
                                       sizeof p->b);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatrixLayoutInit(&plan->W, type, (uint64_t)rows, (uint64_t)columns, rows);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatrixLayoutInit(&plan->x, type, (uint64_t)p->K, (uint64_t)p->M, p->K);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatrixLayoutInit(&plan->y, type, (uint64_t)p->N, (uint64_t)p->M, p->N);
  return s;
}

/* Asks cuBLASLt, which takes tens of microseconds, and keeps its answer. */
static struct product_plan *make_plan(struct device *d, const struct product_plus *p,
                                      const struct product_key *k)
{
  struct product_plan *plan = &d->plan[d->next_plan];
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  d->next_plan = (d->next_plan + 1) % PLANS_KEPT;
  d->plans += d->plans < PLANS_KEPT;
  plan->key = *k;
  cublasStatus_t s = describe(d, p, plan);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = preference_of(k, d->blas_bytes, &preference);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatmulAlgoGetHeuristic(d->blas_lt, &plan->product, &plan->W, &plan->x, &plan->y,
                                       &plan->y, &preference, 1, &found, &count);
  plan->possible = s == CUBLAS_STATUS_SUCCESS && count > 0 && found.state == CUBLAS_STATUS_SUCCESS;
  if (plan->possible)
    plan->algorithm = found.algo;
  return plan;
}

static struct product_plan *plan_of(struct device *d, const struct product_plus *p)
{
  struct product_key k = key_of(d, p);
  if (d->capturing)
    device_note_asked(d, &k, sizeof k);
  for (int i = 0; i < d->plans; i++)
    if (memcmp(&d->plan[i].key, &k, sizeof k) == 0)
      return &d->plan[i];
  return make_plan(d, p, &k);
}

bool product_plus(stream st, const struct product_plus *p)
{
  struct device *d = device_of(st);
  real one = 1;
  bool gains = p->b || (p->c != p->y && p->beta != 0);
  if (!gains || p->M == 0 || p->N == 0 || p->K == 0)
    return false;
  struct product_plan *plan = plan_of(d, p);
  if (!plan->possible)
    return false;
  cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
  if (p->b)
    s = cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->b,
                                       sizeof p->b);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatmul(d->blas_lt, &plan->product, &one, p->W, &plan->W, p->x, &plan->x, &p->beta,
                       p->c, &plan->y, p->y, &plan->y, &plan->algorithm, d->blas_space,
                       d->blas_bytes, d->queue);
  plan->possible = s == CUBLAS_STATUS_SUCCESS;
  device_note(st, "cublasLtMatmul", NULL);
  return plan->possible;
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
  note_shape(d, count, A.transposed, B.transposed, m, n, k, A.at, A.ld, B.at, B.ld, beta != 0, C,
             ldc);
  cublasStatus_t s = cublasGemmStridedBatchedEx_64(
      d->blas, B.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, A.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
      n, m, k, &one, B.at, (cudaDataType)REALS, B.ld, B.stride, A.at, (cudaDataType)REALS, A.ld,
      A.stride, &beta, C, (cudaDataType)REALS, ldc, stride, count, arithmetic(d),
      CUBLAS_GEMM_DEFAULT);
  device_note(st, "gemm_batched", s == CUBLAS_STATUS_SUCCESS ? NULL : cublasGetStatusString(s));
}
#endif
