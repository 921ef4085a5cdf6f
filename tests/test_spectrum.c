/* test_spectrum.c: spectral radii by Arnoldi's method, of given matrices and of the model's df/dz.
 */
#include "core/dense.h"
#include "core/spectral_radius.h"
#include "tests/model_gradient.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static double noise(int64_t i, int64_t j) /* in (-1, 1), any */
{
  double x = sin((double)(12 * i + 7 * j + 1) * 78.233) * 43758.5453;
  return 2 * (x - floor(x)) - 1;
}

struct matrices {
  int64_t rows, n;
  const double *A; /* (rows,n,n) */
  int products;
};

static enum status multiply(void *ctx, const double *x, double *y)
{
  struct matrices *m = ctx;
  m->products++;
  for (int64_t i = 0; i < m->rows * m->n; i++) {
    int64_t r = i / m->n;
    y[i] = 0;
    for (int64_t j = 0; j < m->n; j++)
      y[i] += m->A[i * m->n + j] * x[r * m->n + j];
  }
  return OK;
}

static double radius_of(int64_t n, const double *A, int64_t vectors)
{
  struct matrices m = {1, n, A, 0};
  double radius;
  check_ok(spectral_radii(1, n, vectors, multiply, &m, &radius));
  assert_true(m.products <= vectors && m.products <= n);
  return radius;
}

/* A pair of complex eigenvalues is not its real part: the power method's Rayleigh quotient gives 0
 * for the first of these. */
static void rotations(void **state)
{
  (void)state;
  for (int k = 0; k < 8; k++) {
    double angle = 1.5707963267948966 - 0.4 * k, c = 0.9 * cos(angle), s = 0.9 * sin(angle);
    const double A[4] = {c, -s, s, c};
    check_close(radius_of(2, A, 30), 0.9, 1e-6, "angle %g", angle);
  }
}

static void known_matrices(void **state)
{
  (void)state;
  enum { N = 12 };
  double A[N * N] = {0};
  check_close(radius_of(1, (double[]){-0.7}, 5), 0.7, 1e-14, "a number");
  assert_true(radius_of(N, A, 30) == 0);
  for (int i = 0; i < N; i++)
    A[i * N + i] = -0.5;
  check_close(radius_of(N, A, 30), 0.5, 1e-6, "a multiple of the identity");
  for (int i = 0; i < N; i++) /* far from normal, its norm well above its eigenvalues .1 ... .6 */
    for (int j = 0; j <= i; j++)
      A[i * N + j] = i == j ? 0.05 * (i + 1) : 0.4 * noise(i, j);
  check_close(radius_of(N, A, 30), 0.6, 1e-6, "triangular");
  for (int i = 0; i < N * N; i++)
    A[i] = i == 5 ? (double)NAN : noise(i, 1);
  assert_true(isnan(radius_of(N, A, 30)));
}

/* With fewer vectors than unknowns: approached, for rows of their own. */
static void large_matrices(void **state)
{
  (void)state;
  enum { N = 200, ROWS_HERE = 3 };
  double *A = calloc(ROWS_HERE * N * N, sizeof *A), radius[ROWS_HERE], want;
  struct matrices m = {ROWS_HERE, N, A, 0};
  for (int64_t r = 0; r < ROWS_HERE; r++) {
    double *B = A + r * N * N;
    for (int64_t i = 0; i < N * N; i++)
      B[i] = (0.4 + 0.1 * (double)r) * noise(i, r) * sqrt(3.0 / N);
    B[0] += 0.2, B[1] -= 0.9, B[N] += 0.9, B[N + 1] += 0.2; /* a complex pair outside the rest */
  }
  check_ok(spectral_radii(ROWS_HERE, N, 64, multiply, &m, radius));
  assert_int_equal(m.products, 64);
  for (int64_t r = 0; r < ROWS_HERE; r++) {
    check_ok(dense_spectral_radius(NULL, N, A + r * N * N, &want));
    check_close(radius[r], want, 1e-4, "row %d", (int)r);
  }
  free(A);
}

/* Of the model: the largest eigenvalue of the diagonal block of each sequence's chosen token. */
static void of_the_model(void **state)
{
  (void)state;
  enum { D = 4, M = ROWS * LENGTH, N = M * D };
  static double J[N * N];
  struct config c = small_model("", "");
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list), radius[ROWS], mean, largest;
  int32_t tokens[M], labels[M];
  struct probe_result result = {0};
  draw_tokens(M, tokens, labels);
  struct probe_f64 *p = probe_open_f64(&c, ROWS, LENGTH, true, false);
  probe_set_f64(p, block, -1);
  probe_learn_f64(p, GRADIENT_IFT, tokens, labels, &result);
  probe_radius_f64(p, &mean, &largest);
  probe_jacobian_f64(p, J);
  probe_close_f64(p);
  for (int r = 0; r < ROWS; r++) {
    double A[D * D];
    int t = r * LENGTH + r * LENGTH / ROWS;
    for (int i = 0; i < D * D; i++)
      A[i] = J[(t * D + i / D) * N + t * D + i % D];
    check_ok(dense_spectral_radius(NULL, D, A, &radius[r]));
  }
  check_close(mean, (radius[0] + radius[1]) / 2, 1e-6, "mean");
  check_close(largest, fmax(radius[0], radius[1]), 1e-6, "largest");
  assert_true(mean > 0.01 && largest > mean);
  tensor_list_free(&list);
  free(block);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rotations),
      cmocka_unit_test(known_matrices),
      cmocka_unit_test(large_matrices),
      cmocka_unit_test(of_the_model),
  };
  omp_set_num_threads(1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
