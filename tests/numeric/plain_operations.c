/* plain_operations.c: the tests of plain_operations.h. */
#include "tests/numeric/plain_operations.h"
#include "core/backend.h"
#include "kernels/blas.h"
#include "tests/check.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Within rounding: a few units of this precision. */
#define TOLERANCE (16 * (double)EPSILON)

static void *items(int64_t count, size_t size)
{
  void *p = calloc((size_t)(count ? count : 1), size);
  assert_non_null(p);
  return p;
}

/* A sequence without pattern in (-1,1), the same in every precision; index 0 differs by `seed`. */
static double value(int64_t seed, int64_t i)
{
  return (double)(float)sin(12.9898 * (double)(i + 1) + 78.233 * (double)(seed + 1));
}

static real *reals(int64_t n, int64_t seed)
{
  real *x = items(n, sizeof *x);
  for (int64_t i = 0; i < n; i++)
    x[i] = (real)value(seed, i);
  return x;
}

static void check_reals(int64_t n, const real *got, const double *want, double tol,
                        const char *what)
{
  double *parts = items(n, sizeof *parts);
  for (int64_t i = 0; i < n; i++)
    parts[i] = (double)re(got[i]);
  check_arrays_close(n, parts, want, tol, "%s (%d bits)", what, REAL_BITS);
  free(parts);
}

#define memory_holds NAME(memory_holds)
void memory_holds(const void *table)
{
  const struct backend *be = table;
  void *p, *empty;
  double sent[3] = {1, 2, 3}, received[3] = {0};
  check_ok(be->memory_alloc(sizeof sent, &p));
  check_ok(be->memory_alloc(0, &empty));
  assert_true((uintptr_t)p % 64 == 0);
  check_ok(be->upload(be->st, sizeof sent, sent, p));
  check_ok(be->download(be->st, sizeof sent, p, received));
  check_ok(be->sync(be->st));
  assert_memory_equal(sent, received, sizeof sent);
  be->memory_free(p);
  be->memory_free(empty);
  assert_int_equal(be->memory_alloc(SIZE_MAX, &p), ERR_MEMORY);
#ifndef __SANITIZE_ADDRESS__ /* which aborts instead */
  assert_int_equal(be->memory_alloc(SIZE_MAX / 2, &p), ERR_MEMORY);
#endif
}

static void check_vectors(const struct backend *be, int64_t n)
{
  real *x = reals(n, 0), *y = reals(n, 1);
  double *want = items(n, sizeof *want);
  for (int64_t i = 0; i < n; i++)
    want[i] = 2.5 * value(0, i) - 0.5 * value(1, i);
  be->axpby(be->st, n, (real)2.5, x, (real)-0.5, y);
  check_reals(n, y, want, TOLERANCE, "axpby");
  be->fill(be->st, n, (real)NAN, y);
  for (int64_t i = 0; i < n; i++)
    assert_true(isnan(re(y[i])));
  for (int64_t i = 0; i < n; i++)
    want[i] = 3 * value(0, i);
  be->axpby(be->st, n, 3, x, 0, y);
  check_reals(n, y, want, TOLERANCE, "axpby on NaN");
  for (int terms = 1; terms <= 3; terms++) {
    be->axpby(be->st, n, 3, x, 0, y);
    be->accumulate(be->st, 1, n, n, x, terms > 1 ? x : NULL, terms > 2 ? y : NULL, y);
    for (int64_t i = 0; i < n; i++)
      want[i] = (terms == 1 ? 4 : terms == 2 ? 5 : 8) * value(0, i);
    check_reals(n, y, want, 4 * TOLERANCE, "accumulate");
    be->axpby(be->st, n, 3, x, 0, y); /* one column in seven stays */
    be->accumulate(be->st, n / 7, 6, 7, x, terms > 1 ? x : NULL, terms > 2 ? y : NULL, y);
    for (int64_t i = 0; i < n; i++)
      if (i % 7 == 6 || i >= n / 7 * 7)
        want[i] = 3 * value(0, i);
    check_reals(n, y, want, 4 * TOLERANCE, "accumulate on columns");
  }
  free(x);
  free(y);
  free(want);
}

#define vectors_match NAME(vectors_match)
void vectors_match(const void *be)
{
  check_vectors(be, 0);
  check_vectors(be, 1);
  check_vectors(be, 7);
  check_vectors(be, 129);
  check_vectors(be, 20001);
}

#define sum_squares_matches NAME(sum_squares_matches)
void sum_squares_matches(const void *table)
{
  const struct backend *be = table;
  for (int k = 0; k < 6; k++) {
    int64_t n = (int64_t[]){0, 1, 7, 129, 4096, 300007}[k];
    real *x = reals(n, k);
    double got, again, want;
    long double sum = 0;
    for (int64_t i = 0; i < n; i++)
      sum += (long double)(value(k, i) * value(k, i));
    want = (double)sum;
    omp_set_num_threads(1);
    be->sum_squares(be->st, n, x, &got);
    omp_set_num_threads(3);
    be->sum_squares(be->st, n, x, &again);
    check_close(got, want, 1e-13, "sum_squares of %d", (int)n);
    assert_memory_equal(&got, &again, sizeof got);
#if REAL_BITS == 128
    for (int64_t i = 0; i < n; i++)
      x[i] += CMPLX(0, 2 * COMPLEX_STEP);
    be->sum_squares(be->st, n, x, &got);
    check_close(got, want + 4. * (double)n, 1e-13, "sum_squares counts steps");
#endif
    free(x);
  }
}

#define dot_matches NAME(dot_matches)
void dot_matches(const void *table)
{
  const struct backend *be = table;
  for (int k = 0; k < 6; k++) {
    int64_t n = (int64_t[]){0, 1, 7, 129, 4096, 300007}[k];
    real *x = reals(n, k), *y = reals(n, k + 50);
    wide got, again, want = 0;
    for (int64_t i = 0; i < n; i++)
      want += (wide)x[i] * (wide)y[i];
    omp_set_num_threads(1);
    be->dot(be->st, n, x, y, &got);
    omp_set_num_threads(3);
    be->dot(be->st, n, x, y, &again);
    assert_true(square_norm(got - want) <= 1e-20 * (double)(n + 1) * (double)(n + 1));
    assert_memory_equal(&got, &again, sizeof got);
#if REAL_BITS == 128 /* unconjugated: (i x) . y = i (x . y) */
    for (int64_t i = 0; i < n; i++)
      x[i] *= CMPLX(0, 1);
    be->dot(be->st, n, x, y, &got);
    assert_true(re(got) == 0 && im(got) * re(want) >= 0);
#endif
    free(x), free(y);
  }
}

/* Ranges of three chains of six blocks, taken in another order and padded to four blocks. */
static void check_blocks(const struct backend *be, int64_t n, const int32_t *row)
{
  enum { ROWS = 3, BLOCKS = 4, LENGTH = 6 };
  const int32_t first[ROWS] = {2, 0, 5}, count[ROWS] = {4, 3, 1};
  real *src = reals(ROWS * LENGTH * n, 0), *packed = reals(ROWS * BLOCKS * n, 1);
  real *back = reals(ROWS * LENGTH * n, 2);
  double *want = items(ROWS * BLOCKS * n, sizeof *want);
  double *want_back = items(ROWS * LENGTH * n, sizeof *want_back);
  for (int64_t i = 0; i < ROWS * LENGTH * n; i++)
    want_back[i] = value(2, i);
  for (int64_t r = 0; r < ROWS; r++)
    for (int64_t j = 0; j < count[r]; j++)
      for (int64_t k = 0; k < n; k++) {
        int64_t at = ((row ? row[r] : r) * LENGTH + first[r] + j) * n + k;
        want[(r * BLOCKS + j) * n + k] = want_back[at] = value(0, at);
      }
  be->gather_blocks(be->st, ROWS, BLOCKS, n, LENGTH, row, first, count, src, packed);
  check_reals(ROWS * BLOCKS * n, packed, want, 0, "gather_blocks");
  be->fill(be->st, n, (real)NAN, packed + (BLOCKS + 3) * n); /* padding is not to be scattered */
  be->scatter_blocks(be->st, ROWS, BLOCKS, n, LENGTH, row, first, count, packed, back);
  check_reals(ROWS * LENGTH * n, back, want_back, 0, "scatter_blocks");
  free(src);
  free(packed);
  free(back);
  free(want);
  free(want_back);
}

#define blocks_move NAME(blocks_move)
void blocks_move(const void *be)
{
  const int32_t row[] = {2, 0, 1};
  check_blocks(be, 1, row);
  check_blocks(be, 64, NULL);
  check_blocks(be, 1027, row);
}

#define embedding_marks_unknown_tokens NAME(embedding_marks_unknown_tokens)
void embedding_marks_unknown_tokens(const void *table)
{
  const struct backend *be = table;
  enum { M = 3, V = 2, D = 5 };
  const int32_t tokens[M] = {-1, 1, 2};
  real *W = reals(V * D, 0), y[M * D], *yb = reals(M * D, 1), Wb[V * D] = {0};
  be->embedding_fwd(be->st, M, V, D, tokens, W, NULL, y);
  be->embedding_vjp(be->st, M, V, D, tokens, NULL, yb, Wb);
  for (int j = 0; j < D; j++) {
    assert_true(isnan(re(y[j])) && y[D + j] == W[D + j] && isnan(re(y[2 * D + j])));
    assert_true(Wb[j] == 0 && Wb[D + j] == yb[D + j]);
  }
  free(W);
  free(yb);
}

/* c (M,N) = sum over k of a(i,k) b(k,j), by strides, added to c */
static void multiply(int64_t M, int64_t N, int64_t K, const real *a, int64_t ai, int64_t ak,
                     const real *b, int64_t bk, int64_t bj, double *c)
{
  for (int64_t i = 0; i < M; i++)
    for (int64_t j = 0; j < N; j++)
      for (int64_t k = 0; k < K; k++)
        c[i * N + j] += (double)re(a[i * ai + k * ak]) * (double)re(b[k * bk + j * bj]);
}

static void check_linear(const struct backend *be, int64_t M, int64_t K, int64_t N)
{
  double tol = (double)EPSILON * (16 + sqrt((double)(M + K + N)));
  real *x = reals(M * K, 0), *W = reals(N * K, 1), *b = reals(N, 2), *y = items(M * N, sizeof *y);
  real *xb = items(M * K, sizeof *xb), *Wb = items(N * K, sizeof *Wb);
  real *Wt = items(N * K, sizeof *Wt);
  real *sum = items(M * N, sizeof *sum);
  double *want = items(M * N, sizeof *want), *want_xb = items(M * K, sizeof *want_xb);
  double *want_Wb = items(N * K, sizeof *want_Wb);
  be->fill(be->st, M * N, (real)NAN, y);
  be->linear_fwd(be->st, M, K, N, x, W, NULL, b, 0, NULL, y);
  for (int64_t i = 0; i < M * N; i++)
    want[i] = value(2, i % N);
  multiply(M, N, K, x, K, 1, W, 1, K, want);
  check_reals(M * N, y, want, tol, "linear");
  be->transpose(be->st, N, K, W, Wt);
  for (int64_t i = 0; i < N * K; i++)
    assert_true(Wt[i % K * N + i / K] == W[i]);
  be->fill(be->st, M * N, (real)NAN, y);
  be->linear_fwd(be->st, M, K, N, x, W, Wt, b, 0, NULL, y);
  check_reals(M * N, y, want, tol, "linear by the transpose");
  be->fill(be->st, M * K, (real)NAN, xb);
  be->linear_vjp(be->st, M, K, N, x, W, y, 0, xb, Wb, NULL);
  multiply(M, K, N, y, N, 1, W, K, 1, want_xb);
  multiply(N, K, M, y, 1, N, x, K, 1, want_Wb);
  check_reals(M * K, xb, want_xb, tol, "linear xb");
  check_reals(N * K, Wb, want_Wb, tol, "linear Wb");
  be->linear_fwd(be->st, M, K, N, x, W, Wt, NULL, 3, y, y); /* 3 (x W' + b) + x W' */
  for (int64_t i = 0; i < M * N; i++)
    want[i] = 4 * want[i] - value(2, i % N);
  check_reals(M * N, y, want, tol, "linear with beta");
  be->linear_vjp(be->st, M, K, N, x, W, y, (real)-0.5, xb, NULL, NULL);
  for (int64_t i = 0; i < M * K; i++)
    want_xb[i] *= -0.5;
  multiply(M, K, N, y, N, 1, W, K, 1, want_xb);
  check_reals(M * K, xb, want_xb, 4 * tol, "linear xb with beta");
  be->fill(be->st, M * N, (real)NAN, sum);
  be->linear_fwd(be->st, M, K, N, x, W, Wt, b, 2, y, sum); /* 2 y + x W' + b */
  for (int64_t i = 0; i < M * N; i++)
    want[i] = 2 * (double)re(y[i]) + value(2, i % N);
  multiply(M, N, K, x, K, 1, W, 1, K, want);
  check_reals(M * N, sum, want, 4 * tol, "linear and another");
  free(x), free(W), free(Wt), free(b), free(y), free(xb), free(Wb), free(sum);
  free(want), free(want_xb), free(want_Wb);
}

/* Rows alone give what they give among others, bit by bit: forwards by the transpose, and back. */
static void check_rows_alone(const struct backend *be, int64_t K, int64_t N)
{
  enum { M = 131 };
  real *x = reals(M * K, 0), *W = reals(N * K, 1), *Wt = items(N * K, sizeof *Wt);
  real *y = items(M * N, sizeof *y), *xb = items(M * K, sizeof *xb);
  real *own = items(M * N, sizeof *own), *ownb = items(M * K, sizeof *ownb);
  be->transpose(be->st, N, K, W, Wt);
  be->linear_fwd(be->st, M, K, N, x, W, Wt, NULL, 0, NULL, y);
  be->linear_vjp(be->st, M, K, N, x, W, y, 0, xb, NULL, NULL);
  for (int64_t i = 0, rows = 1; i < M; i += rows, rows = rows % 9 + 1) {
    rows = rows < M - i ? rows : M - i;
    be->linear_fwd(be->st, rows, K, N, x + i * K, W, Wt, NULL, 0, NULL, own + i * N);
    be->linear_vjp(be->st, rows, K, N, x + i * K, W, own + i * N, 0, ownb + i * K, NULL, NULL);
  }
  assert_memory_equal(own, y, (size_t)(M * N) * sizeof *y);
  assert_memory_equal(ownb, xb, (size_t)(M * K) * sizeof *xb);
  free(x), free(W), free(Wt), free(y), free(xb), free(own), free(ownb);
}

#define linear_rows_alone NAME(linear_rows_alone)
void linear_rows_alone(const void *be)
{
  const struct backend *b = be;
  bool bare = blas_has_bare_kernels(), tiles = strstr(b->name, "AVX") != NULL;
  if (REAL_BITS == 128 || (!bare && !tiles)) /* promised of these kernels only */
    return;
  check_rows_alone(be, 4, 20);
  check_rows_alone(be, 64, 292);
  check_rows_alone(be, 128, 64);
  check_rows_alone(be, 300, 68);
  if (bare) /* of ours, a matrix this large is for few rows alone */
    check_rows_alone(be, 700, 164);
  else
    check_rows_alone(be, 333, 101);
}

/* Shapes on every path of gemm: nothing, no terms, one row, one tile, tiles of rows and columns. */
#define linear_matches NAME(linear_matches)
void linear_matches(const void *be)
{
  check_linear(be, 0, 3, 2);
  check_linear(be, 3, 0, 2);
  check_linear(be, 1, 1, 1);
  check_linear(be, 1, 64, 292);
  check_linear(be, 1, 257, 2100);
  check_linear(be, 129, 7, 5);
  check_linear(be, 70, 64, 292);
  check_linear(be, 300, 20, 129);
  check_linear(be, 70, 700, 40);
  check_linear(be, 20, 330, 1024);
  check_linear(be, 1030, 8, 129);
  check_linear(be, 4100, 13, 11);
}

/* The gate, the norm and the weights in the order asked for; z is columns 2.. of a wider matrix. */
static void check_gated(const struct backend *be, struct gated_rmsnorm_shape d)
{
  real *y = reals(d.rows * d.E, 0), *z = reals(d.rows * d.ldz, 1), *w = reals(d.E, 2);
  real *r = items(d.rows * d.G, sizeof *r), *out = items(d.rows * d.E, sizeof *out);
  double *want = items(d.rows * d.E, sizeof *want);
  int64_t K = d.E / d.G;
  for (int64_t i = 0; i < d.rows * d.G; i++) {
    int64_t row = i / d.G, first = i % d.G * K;
    double squares = 0;
    for (int pass = 0; pass < 2; pass++)
      for (int64_t j = first; j < first + K; j++) {
        double yj = value(0, row * d.E + j), zj = value(1, row * d.ldz + 2 + j);
        double gate = zj / (1 + exp(-zj)), p = d.norm_before_gate ? yj : yj * gate;
        if (pass == 0)
          squares += p * p;
        else
          want[row * d.E + j] =
              value(2, j) * p / sqrt(squares / (double)K + 1e-5) * (d.norm_before_gate ? gate : 1);
      }
  }
  be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, y, z + 2, w, r, out);
  check_reals(d.rows * d.E, out, want, TOLERANCE, "gated_rmsnorm");
  free(y), free(z), free(w), free(r), free(out), free(want);
}

#define norms_match NAME(norms_match)
void norms_match(const void *table)
{
  const struct backend *be = table;
  enum { M = 5, D = 129 };
  real *x = reals(M * D, 0), *w = reals(D, 1), r[M], *y = items(M * D, sizeof *y);
  double want[M * D];
  for (int m = 0; m < M; m++) {
    double squares = 0;
    for (int j = 0; j < D; j++)
      squares += value(0, m * D + j) * value(0, m * D + j);
    for (int j = 0; j < D; j++)
      want[m * D + j] = value(1, j) * value(0, m * D + j) / sqrt(squares / D + 1e-5);
  }
  const struct branch_norm plain = {.B = M, .T = 1, .x = x, .w = w, .damping = 1, .r = r, .y = y};
  be->rmsnorm_fwd(be->st, D, (real)1e-5, NULL, plain);
  check_reals(M * D, y, want, TOLERANCE, "rmsnorm");
  free(x), free(w), free(y);
  for (int norm_first = 0; norm_first < 2; norm_first++) {
    check_gated(be, (struct gated_rmsnorm_shape){3, 128, 1, 292, norm_first});
    check_gated(be, (struct gated_rmsnorm_shape){7, 14, 2, 16, norm_first});
  }
}

/* Rows whose squares overflow: NaN, and none of the others. */
#define norms_show_overflow NAME(norms_show_overflow)
void norms_show_overflow(const void *table)
{
  const struct backend *be = table;
  enum { M = 11, D = 33, ROW = 9 };
  struct gated_rmsnorm_shape d = {M, D, 1, D, true};
  real *x = reals(M * D, 0), *z = reals(M * D, 1), *w = reals(D, 2), r[M];
  real *y = items(M * D, sizeof *y), *gated = items(M * D, sizeof *gated);
  const struct branch_norm plain = {.B = M, .T = 1, .x = x, .w = w, .damping = 1, .r = r, .y = y};
  x[ROW * D + 5] = (real)(sizeof *x == sizeof(float) ? 1e30 : 1e200);
  be->rmsnorm_fwd(be->st, D, (real)1e-5, NULL, plain);
  be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, x, z, w, r, gated);
  for (int i = 0; i < M * D; i++) {
    bool overflowed = i / D == ROW;
    assert_int_equal(isnan(re(y[i])) != 0, overflowed);
    assert_int_equal(isnan(re(gated[i])) != 0, overflowed);
  }
  free(x), free(z), free(w), free(y), free(gated);
}

/* yb and zb = beta what was there + what beta = 1 adds to zeros; NaN is there for beta = 0. */
static void check_accumulation(const struct backend *be, struct gated_rmsnorm_shape d, real beta,
                               bool want_y, bool want_z)
{
  int64_t n = d.rows * d.E, nz = d.rows * d.ldz;
  real *y = reals(n, 0), *z = reals(nz, 1), *w = reals(d.E, 2), *outb = reals(n, 3);
  real *yb = reals(n, 4), *zb = reals(nz, 5), *wb = reals(d.E, 6), *r = reals(d.rows * d.G, 7);
  real *ys = items(n, sizeof *ys), *zs = items(nz, sizeof *zs), *out = items(n, sizeof *out);
  double *wanty = items(n, sizeof *wanty), *wantz = items(nz, sizeof *wantz);
  double *wantw = items(d.E, sizeof *wantw);
  be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, y, z, w, r, out);
  be->gated_rmsnorm_vjp(be->st, d, y, z, w, r, outb, 1, ys, zs, wb);
  for (int64_t i = 0; i < d.E; i++)
    wantw[i] = 2 * (double)re(wb[i]) - value(6, i);
  for (int64_t i = 0; i < n; i++) {
    wanty[i] =
        (want_y ? (double)re(beta) : 1) * (double)re(yb[i]) + (want_y ? (double)re(ys[i]) : 0);
    yb[i] = want_y && re(beta) == 0 ? (real)NAN : yb[i];
  }
  for (int64_t i = 0; i < nz; i++) {
    bool given = want_z && i % d.ldz < d.E; /* the columns behind are not z's */
    wantz[i] = (given ? (double)re(beta) : 1) * (double)re(zb[i]) + (double)re(given ? zs[i] : 0);
    zb[i] = given && re(beta) == 0 ? (real)NAN : zb[i];
  }
  be->gated_rmsnorm_vjp(be->st, d, y, z, w, r, outb, beta, want_y ? yb : NULL, want_z ? zb : NULL,
                        wb);
  check_reals(n, yb, wanty, TOLERANCE, "cotangent of y");
  check_reals(nz, zb, wantz, TOLERANCE, "cotangent of z");
  check_reals(d.E, wb, wantw, TOLERANCE, "cotangent of w");
  free(y), free(z), free(w), free(outb), free(yb), free(zb), free(wb), free(r);
  free(ys), free(zs), free(out), free(wanty), free(wantz), free(wantw);
}

#define norms_accumulate NAME(norms_accumulate)
void norms_accumulate(const void *be)
{
  static const int64_t shapes[][3] = {{5, 129, 3}, {2, 1100, 1}}; /* rows, E, G */
  for (int i = 0; i < 2 * 2 * 3 * 3; i++) {
    const int64_t *s = shapes[i % 2];
    int which = i / 4 % 3;
    real beta = (real)(i / 12) / 2;
    struct gated_rmsnorm_shape d = {s[0], s[1], s[2], s[1] + 3, i / 2 % 2 == 1};
    check_accumulation(be, d, beta, which != 1, which != 2);
  }
}

/* h = x + mask out and y = z + damping (w h r(h) - z), whichever of these there are; and what they
 * measure by the way. */
static void check_branch(const struct backend *be, bool with_x, bool masked, bool mapped, bool kept,
                         double damping)
{
  enum { B = 2, T = 3, D = 71, ROWS = 4, N = B * T * D };
  const int32_t row[B] = {3, 1};
  real *x = reals(N, 0), *out = reals(N, 1), *mask = reals(ROWS * D, 2), *w = reals(D, 3);
  real *z = reals(N, 4), *h = items(N, sizeof *h), *y = items(N, sizeof *y), r[B * T];
  double sum[N], want[N], square[2][B * T], reference[2][B * T];
  for (int m = 0; m < B * T; m++) {
    double squares = 0;
    for (int j = 0; j < D; j++) {
      int i = m * D + j, b = mapped ? row[m / T] : m / T;
      sum[i] = (with_x ? value(0, i) : 0) + value(1, i) * (masked ? value(2, b * D + j) : 1);
      squares += sum[i] * sum[i];
    }
    square[0][m] = reference[0][m] = 0;
    for (int i = m * D; i < m * D + D; i++) {
      double f = value(3, i - m * D) * sum[i] / sqrt(squares / D + 1e-5);
      want[i] = (1 - damping) * value(4, i) + damping * f;
      square[0][m] += (f - value(4, i)) * (f - value(4, i));
      reference[0][m] += f * f;
    }
  }
  struct branch_norm n = {.B = B, .T = T, .w = w, .damping = damping, .r = r, .y = y};
  n.x = with_x ? x : NULL;
  n.row = mapped ? row : NULL;
  n.mask = masked ? mask : NULL;
  n.h = kept ? h : NULL;
  for (int measured = 0; measured < 2; measured++) {
    n.z = damping == 1 && !measured ? NULL : z;
    n.square = measured ? square[1] : NULL, n.reference = measured ? reference[1] : NULL;
    be->rmsnorm_fwd(be->st, D, (real)1e-5, out, n);
    check_reals(N, y, want, TOLERANCE, "rmsnorm of a branch");
    if (kept)
      check_reals(N, h, sum, TOLERANCE, "sum with a branch");
  }
  check_arrays_close(B * T, square[1], square[0], TOLERANCE, "distance from z");
  check_arrays_close(B * T, reference[1], reference[0], TOLERANCE, "norm of a norm");
  n.y = with_x ? x : out;
  be->rmsnorm_fwd(be->st, D, (real)1e-5, out, n);
  check_reals(N, n.y, want, TOLERANCE, "rmsnorm of a branch in place");
  free(x), free(out), free(mask), free(w), free(z), free(h), free(y);
}

#define branches_match NAME(branches_match)
void branches_match(const void *be)
{
  for (int i = 0; i < 32; i++)
    check_branch(be, i & 1, i & 2, i & 4 && i & 2, i & 8, i & 16 ? 0.75 : 1);
}

/* xb = sum + beta xb + a times what a = beta = 1 adds to zeros, and outb = mask xb; NaN is there
 * for beta = 0.  yb may be xb. */
static void check_branch_cotangents(const struct backend *be, int64_t D, double beta, double a,
                                    bool more, bool masked)
{
  enum { B = 2, T = 5 };
  int64_t n = B * T * D;
  real *h = reals(n, 0), *w = reals(D, 1), *mask = reals(B * D, 2), *yb = reals(n, 3);
  real *sum = reals(n, 4), *xb = reals(n, 5), *wb = reals(D, 6), r[B * T];
  real *g = items(n, sizeof *g), *outb = items(n, sizeof *outb), *gw = items(D, sizeof *gw);
  real *y = items(n, sizeof *y);
  double *want = items(n, sizeof *want), *wantb = items(n, sizeof *wantb);
  double *wantw = items(D, sizeof *wantw);
  const struct branch_norm plain = {
      .B = B * T, .T = 1, .x = h, .w = w, .damping = 1, .r = r, .y = y};
  be->rmsnorm_fwd(be->st, D, (real)1e-5, NULL, plain);
  be->rmsnorm_vjp(be->st, B * T, 1, D, h, w, NULL, r, 1, yb, NULL, 1, 0, g, NULL, gw);
  for (int64_t i = 0; i < n; i++) {
    want[i] = (more ? value(4, i) : 0) + beta * value(5, i) + a * (double)re(g[i]);
    wantb[i] = want[i] * (masked ? value(2, i / (T * D) * D + i % D) : 1);
    xb[i] = beta == 0 ? (real)NAN : xb[i];
  }
  for (int64_t j = 0; j < D; j++)
    wantw[j] = value(6, j) + a * (double)re(gw[j]);
  be->rmsnorm_vjp(be->st, B, T, D, h, w, masked ? mask : NULL, r, (real)a, yb, more ? sum : NULL,
                  (real)beta, 0, xb, outb, wb);
  check_reals(n, xb, want, TOLERANCE, "cotangent of the sum");
  check_reals(n, outb, wantb, TOLERANCE, "cotangent of the branch");
  check_reals(D, wb, wantw, TOLERANCE, "cotangent of w");
  for (int64_t i = 0; i < n; i++)
    want[i] += beta * ((double)re(yb[i]) - value(5, i));
  be->rmsnorm_vjp(be->st, B, T, D, h, w, NULL, r, (real)a, yb, more ? sum : NULL, (real)beta, 0, yb,
                  NULL, wb);
  for (int64_t j = 0; j < D; j++)
    wantw[j] += a * (double)re(gw[j]);
  check_reals(n, yb, want, TOLERANCE, "cotangent in place");
  check_reals(D, wb, wantw, TOLERANCE, "cotangent of w again");
  free(h), free(w), free(mask), free(yb), free(sum), free(xb), free(wb), free(g), free(outb);
  free(gw), free(y), free(want), free(wantb), free(wantw);
}

/* What yb gives directly comes to xb alone, be it yb itself. */
static void check_direct_cotangents(const struct backend *be, int64_t D, bool masked, bool in_place)
{
  enum { B = 2, T = 5 };
  int64_t n = B * T * D;
  real *h = reals(n, 0), *w = reals(D, 1), *mask = reals(B * D, 2), *yb = reals(n, 3), r[B * T];
  real *g = items(n, sizeof *g), *outb = reals(n, 4), *y = items(n, sizeof *y), *xb = reals(n, 5);
  double *want = items(n, sizeof *want), *wantb = items(n, sizeof *wantb);
  const struct branch_norm plain = {
      .B = B * T, .T = 1, .x = h, .w = w, .damping = 1, .r = r, .y = y};
  be->rmsnorm_fwd(be->st, D, (real)1e-5, NULL, plain);
  be->rmsnorm_vjp(be->st, B * T, 1, D, h, w, NULL, r, (real)0.75, yb, NULL, 1, 0, g, NULL, NULL);
  for (int64_t i = 0; i < n; i++) {
    want[i] = (double)re(g[i]) + 0.25 * value(3, i);
    wantb[i] = (double)re(g[i]) * (masked ? value(2, i / (T * D) * D + i % D) : 1);
  }
  be->rmsnorm_vjp(be->st, B, T, D, h, w, masked ? mask : NULL, r, (real)0.75, yb, NULL, 0,
                  (real)0.25, in_place ? yb : xb, outb, NULL);
  check_reals(n, in_place ? yb : xb, want, TOLERANCE, "cotangent with what comes directly");
  check_reals(n, outb, wantb, TOLERANCE, "cotangent of the branch without it");
  free(h), free(w), free(mask), free(yb), free(xb), free(g), free(outb), free(y);
  free(want), free(wantb);
}

#define branches_accumulate NAME(branches_accumulate)
void branches_accumulate(const void *be)
{
  for (int i = 0; i < 48; i++)
    check_branch_cotangents(be, i % 2 ? 129 : 1100, i / 2 % 3 * 0.5, i / 6 % 2 ? 0.75 : 1,
                            i / 12 % 2, i / 24);
  for (int i = 0; i < 8; i++)
    check_direct_cotangents(be, i % 2 ? 129 : 1100, i / 2 % 2, i / 4);
}

#define softplus_clamps NAME(softplus_clamps)
void softplus_clamps(const void *table)
{
  const struct backend *be = table;
  enum { M = 101, H = 4, LD = 9 };
  real *x = reals(M * LD, 0), *bias = reals(H, 1), y[M * H];
  double want[M * H];
  for (int i = 0; i < M * LD; i++)
    x[i] *= 50;
  for (int i = 0; i < M * H; i++) {
    double u = 50 * value(0, i / H * LD + 3 + i % H) + value(1, i % H);
    want[i] = fmin(fmax(u > 0 ? u + log(1 + exp(-u)) : log(1 + exp(u)), 0.25), 20);
  }
  be->softplus_clamp_fwd(be->st, M, H, LD, x + 3, bias, 0.25, 20, y);
  check_reals(M * H, y, want, TOLERANCE, "softplus_clamp");
  be->softplus_clamp_fwd(be->st, 1, 1, 1, (real[]){-1000}, NULL, 0, HUGE_VAL, y);
  be->softplus_clamp_fwd(be->st, 1, 1, 1, (real[]){1000}, NULL, 0, HUGE_VAL, y + 1);
  check_reals(2, y, (double[]){0, 1000}, 0, "softplus far out");
  free(x), free(bias);
}

/* xb = beta xb + the same cotangent; beta = 0 does not read xb, columns between rows stay. */
#define softplus_adds_or_not NAME(softplus_adds_or_not)
void softplus_adds_or_not(const void *table)
{
  const struct backend *be = table;
  enum { M = 101, H = 4, LD = 9 };
  static const double betas[] = {0, 1, -0.5};
  real *x = reals(M * LD, 0), *bias = reals(H, 1), *yb = reals(M * H, 2);
  real *given = items(M * LD, sizeof *given), biasb[H] = {0};
  be->softplus_clamp_vjp(be->st, M, H, LD, x, bias, 0, 20, yb, 1, given, biasb);
  for (int k = 0; k < 3; k++) {
    real *xb = reals(M * LD, 3);
    double want[M * LD];
    for (int i = 0; i < M * LD; i++) {
      bool gap = i % LD >= H;
      want[i] = (double)re(gap ? xb[i] : (real)betas[k] * xb[i] + given[i]);
      xb[i] = gap || betas[k] != 0 ? xb[i] : (real)NAN;
    }
    be->softplus_clamp_vjp(be->st, M, H, LD, x, bias, 0, 20, yb, (real)betas[k], xb, biasb);
    check_reals(M * LD, xb, want, TOLERANCE, "cotangent of softplus_clamp's input");
    free(xb);
  }
  free(x), free(bias), free(yb), free(given);
}

#define losses_match NAME(losses_match)
void losses_match(const void *table)
{
  const struct backend *be = table;
  enum { M = 6, V = 7 };
  const int32_t labels[M] = {3, IGNORED_LABEL, 0, 6, V, -1};
  real *x = reals(M * V, 0), lse[M], xb[M * V], twice[M * V];
  real with[M * V];
  wide loss[M], sums[2];
  int32_t best[M], alone[M];
  double want[M] = {0}, total = 0, right = 0;
  for (int v = 0; v < V; v++)
    x[2 * V + v] *= (real)1e4; /* exp overflows here */
  for (int m = 0; m < M; m++) {
    double top = -HUGE_VAL, sum = 0;
    for (int v = 0; v < V; v++)
      top = fmax(top, (double)re(x[m * V + v]));
    for (int v = 0; v < V; v++)
      sum += exp((double)re(x[m * V + v]) - top);
    if (m < 4 && m != 1)
      want[m] = log(sum) + top - (double)re(x[m * V + labels[m]]);
  }
  be->cross_entropy_fwd(be->st, M, V, x, labels, lse, loss, best, (real)0.25, with);
  be->argmax(be->st, M, V, x, alone);
  assert_memory_equal(best, alone, sizeof best);
  for (int m = 0; m < 4; m++) {
    check_close((double)re(loss[m]), want[m], TOLERANCE, "loss of row %d", m);
    total += want[m], right += m != 1 && best[m] == labels[m];
  }
  be->sum_losses(be->st, 4, labels, best, loss, sums);
  check_close((double)re(sums[0]), total, TOLERANCE, "sum of the losses");
  assert_true(re(sums[1]) == right);
  loss[1] = (wide)NAN; /* what does not count is not read */
  be->sum_losses(be->st, 4, labels, best, loss, sums);
  check_close((double)re(sums[0]), total, TOLERANCE, "sum of the losses that count");
  loss[1] = 0;
  be->sum_losses(be->st, M, labels, best, loss, sums);
  assert_true(isnan(re(sums[0])));
  assert_true(re(loss[1]) == 0);
  assert_true(isnan(re(loss[4])) && isnan(re(loss[5])));
  for (int i = 0; i < M * V; i++)
    xb[i] = (real)NAN;
  be->cross_entropy_vjp(be->st, 4, V, x, labels, lse, 1, 0, xb);
  for (int m = 0; m < 4; m++) { /* softmax and one-hot both sum to 1 */
    double sum = 0, label_gradient = m == 1 ? -1 : (double)re(xb[m * V + labels[m]]);
    for (int v = 0; v < V; v++)
      sum += (double)re(xb[m * V + v]);
    assert_true(sum > -1e-2 * (double)EPSILON * 1e4 && sum < 1e-2 * (double)EPSILON * 1e4);
    assert_true(label_gradient < 0 || re(loss[m]) == 0);
  }
  for (int i = 0; i < 4 * V; i++)
    check_close((double)re(with[i]), 0.25 * (double)re(xb[i]), TOLERANCE, "with the losses, %d", i);
  memcpy(twice, xb, sizeof twice);
  be->cross_entropy_vjp(be->st, 4, V, x, labels, lse, 1, (real)-0.5, twice);
  for (int i = 0; i < 4 * V; i++)
    check_close((double)re(twice[i]), 0.5 * (double)re(xb[i]), TOLERANCE, "half of it, %d", i);
  free(x);
}

#define argmax_finds_first NAME(argmax_finds_first)
void argmax_finds_first(const void *table)
{
  const struct backend *be = table;
  enum { M = 6, V = 19 };
  real x[M * V];
  int32_t best[M];
  const int32_t want[M] = {0, 5, 18, -1, 2, -1};
  for (int i = 0; i < M * V; i++)
    x[i] = -1;
  x[V + 5] = x[V + 11] = 2;
  x[2 * V + 18] = 0;
  x[3 * V + 4] = (real)NAN;
  for (int v = 0; v < V; v++)
    x[4 * V + v] = v == 2 ? -5 : (real)-HUGE_VAL;
  x[5 * V] = (real)NAN;
  be->argmax(be->st, M, V, x, best);
  for (int m = 0; m < M; m++)
    assert_int_equal(best[m], want[m]);
  be->argmax(be->st, 1, 1, x, best);
  assert_int_equal(best[0], 0);
}

/* Through the gate, in this instruction set: its exp over the whole range. */
#define silu_holds_everywhere NAME(silu_holds_everywhere)
void silu_holds_everywhere(const void *table)
{
  const struct backend *be = table;
  enum { N = 20011 };
  double worst = 0;
  real *x = items(2 * N, sizeof *x), *y = items(N, sizeof *y);
  for (int i = 0; i < N; i++) {
    x[i] = 1;
    x[N + i] = (real)(-86 + 186. * i / N);
  }
  be->silu_gate_fwd(be->st, 1, N, x, y);
  for (int i = 0; i < N; i++) {
    double gate = (double)re(x[N + i]), want = gate / (1 + exp(-gate));
    worst = fmax(worst, sqrt(pow((double)re(y[i]) / want - 1, 2)));
  }
  check_close(worst + 1, 1, 5 * (double)EPSILON, "silu's worst relative error");
  double edges[] = {-1e4, -120, 0, 120, 1e4};
  for (int i = 0; i < 5; i++)
    x[5 + i] = (real)edges[i];
  be->silu_gate_fwd(be->st, 1, 5, x, y);
  const double want_edges[] = {0, 0, 0, 120, 1e4};
  for (int i = 0; i < 5; i++)
    assert_true(sqrt(pow((double)re(y[i]) - want_edges[i], 2)) < 1e-30);
  x[1] = (real)NAN;
  be->silu_gate_fwd(be->st, 1, 1, x, y);
  assert_true(isnan(re(y[0])));
  free(x);
  free(y);
}

#define adamw_matches NAME(adamw_matches)
void adamw_matches(const void *table)
{
  const struct backend *be = table;
  enum { STEPS = 3 };
  const double lr = 1e-2, b1 = 0.9, b2 = 0.95, eps = 1e-8, decay = 0.1, scale = 0.5;
  for (int k = 0; k < 4; k++) {
    int64_t n = (int64_t[]){1, 7, 129, 20001}[k];
    real *g = reals(n, 0), *m = items(n, sizeof *m), *v = items(n, sizeof *v), *p = reals(n, 1);
    double *want = items(n, sizeof *want);
    for (int64_t i = 0; i < n; i++) {
      double mi = 0, vi = 0, gi = scale * value(0, i);
      want[i] = value(1, i);
      for (int step = 1; step <= STEPS; step++) {
        mi = b1 * mi + (1 - b1) * gi;
        vi = b2 * vi + (1 - b2) * gi * gi;
        double direction = mi / (1 - pow(b1, step)) / (sqrt(vi / (1 - pow(b2, step))) + eps);
        want[i] -= lr * (direction + decay * want[i]);
      }
    }
    for (int step = 1; step <= STEPS; step++)
      be->adamw(be->st, n, step, lr, b1, b2, eps, decay, scale, g, m, v, p);
    check_reals(n, p, want, TOLERANCE, "adamw");
    free(g), free(m), free(v), free(p), free(want);
  }
}
