/* test_shine.c: the inverse that a forward solve by Broyden's method leaves behind, transposed, as
 * the adjoint's answer (SHINE). */
#include "tests/check.h"
#include "tests/numeric/solver_probe.h"
#include <lapacke.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { N = 20, ROWS = 3 };

static double noise(int64_t i, int64_t j) /* in (-1, 1), any */
{
  double x = sin((double)(12 * i + 7 * j + 1) * 78.233) * 43758.5453;
  return 2 * (x - floor(x)) - 1;
}

static struct fp_options broyden_options(enum fp_kind kind)
{
  struct fp_options o = solver_options(FP_BROYDEN, 60, 1e-14);
  o.kind = kind, o.rank = 30;
  return o;
}

/* ---- f(z) = A z + b, one A a row ---- */

struct maps {
  double A[ROWS][N * N], b[ROWS][N];
  double seen[64][N]; /* row 0: where f was evaluated */
  int evaluations;
};

static void affine(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  struct maps *c = ctx;
  (void)t, (void)s;
  if (row == 0)
    memcpy(c->seen[c->evaluations++], z, sizeof c->seen[0]);
  for (int i = 0; i < N; i++) {
    fz[i] = c->b[row][i];
    for (int j = 0; j < N; j++)
      fz[i] += c->A[row][i * N + j] * z[j];
  }
}

/* (I - A)' v = g by LAPACK */
static void exact_adjoint(const double *A, const double *g, double *v)
{
  static double M[N * N];
  lapack_int pivots[N];
  for (int i = 0; i < N * N; i++)
    M[i] = (i / N == i % N) - A[i % N * N + i / N];
  memcpy(v, g, N * sizeof *v);
  assert_int_equal(LAPACKE_dgesv(LAPACK_ROW_MAJOR, N, 1, M, N, pivots, v, 1), 0);
}

/* Broyden's updates are the whole of A only where the steps are orthogonal to each other: then each
 * teaches A on one more direction.  So A = Q S Q', Q orthogonal, S one below the diagonal, b the
 * first column of Q: the steps are the columns of Q, one after the other. */
static void make_orthogonal_steps(int row, struct maps *c)
{
  double Q[N * N], tau[N];
  for (int i = 0; i < N * N; i++)
    Q[i] = noise(i, row + 7);
  assert_int_equal(LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, N, N, Q, N, tau), 0);
  assert_int_equal(LAPACKE_dorgqr(LAPACK_ROW_MAJOR, N, N, N, Q, N, tau), 0);
  for (int i = 0; i < N; i++) {
    c->b[row][i] = Q[i * N];
    for (int j = 0; j < N; j++) {
      c->A[row][i * N + j] = 0;
      for (int k = 0; k + 1 < N; k++)
        c->A[row][i * N + j] += Q[i * N + k + 1] * (1 + 0.5 * noise(k, row)) * Q[j * N + k];
    }
  }
}

static void exact_where_the_steps_are_orthogonal(void **state)
{
  (void)state;
  static struct maps c;
  struct solver_map m = {.rows = ROWS, .length = 1, .n = N, .ctx = &c, .block = affine};
  struct fp_options o = broyden_options(FP_GOOD);
  struct fp_result r = {0};
  double z[ROWS * N] = {0}, g[ROWS * N], v[ROWS * N], want[N];
  memset(&c, 0, sizeof c);
  for (int i = 0; i < ROWS * N; i++)
    g[i] = noise(i, 3);
  for (int row = 0; row < ROWS; row++)
    make_orthogonal_steps(row, &c);
  assert_int_equal(solver_transpose_f64(&m, &o, 0, z, g, v, &r), 0);
  assert_int_equal(r.exits[FP_CONVERGED], ROWS);
  for (int row = 0; row < ROWS; row++) {
    exact_adjoint(c.A[row], g + row * N, want);
    check_arrays_close(N, v + row * N, want, 1e-10, "H'g of row %d", row);
  }
}

/* Any map: the last update made H y = s, so that (H'g).y = g.s for every g; also where the rank was
 * reduced before, or the updates were dropped. */
static void holds_the_last_secant(void **state)
{
  (void)state;
  static struct maps c;
  struct solver_map m = {.rows = 1, .length = 1, .n = N, .ctx = &c, .block = affine};
  for (int kind = FP_GOOD; kind <= FP_BAD; kind++)
    for (int iterations = 4; iterations <= 12; iterations += 4) {
      struct fp_options o = broyden_options((enum fp_kind)kind);
      struct fp_result r = {0};
      double z[N] = {0}, g[N], v[N], left = 0, right = 0;
      memset(&c, 0, sizeof c);
      for (int i = 0; i < N; i++) {
        g[i] = noise(i, 3), c.b[0][i] = noise(i, 5);
        for (int j = 0; j < N; j++)
          c.A[0][i * N + j] = 0.3 * noise(i, j + 11);
      }
      o.max_iter = iterations, o.damping = 0.7;
      if (iterations == 12)
        o.rank = 4, o.limit = FP_REDUCE;
      if (iterations == 8)
        o.rank = 4, o.limit = FP_RESTART;
      assert_int_equal(solver_transpose_f64(&m, &o, 0, z, g, v, &r), 0);
      assert_int_equal(r.exits[FP_MAX_ITER], 1); /* and still known: nothing broke down */
      assert_int_equal(c.evaluations, iterations);
      const double *before = c.seen[iterations - 3], *after = c.seen[iterations - 2];
      for (int i = 0; i < N; i++) {
        double s = after[i] - before[i], y = s;
        for (int j = 0; j < N; j++)
          y -= c.A[0][i * N + j] * (after[j] - before[j]);
        left += v[i] * y;
        right += g[i] * s;
      }
      check_close(left, right, 1e-10, "g.(H y), kind %d after %d", kind, iterations);
    }
}

/* ---- chains ---- */

enum { LENGTH = 12 };

/* z_t = 0.9 z_{t-1}, z_0 = 1: I - A is bidiagonal.  Row 1 is not finite from its `*lasts`th
 * evaluation on. */
static void follow(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  int *lasts = ctx;
  fz[0] = t == 0 ? 1 : 0.9 * s[0];
  if (row == 1 && t == 0 && --*lasts < 0)
    fz[0] = (double)NAN;
  s[0] = z[0];
}

/* Rows of unequal length; what lies in the padding is not looked at. */
static void chains_with_padding(void **state)
{
  (void)state;
  int lasts = 1000;
  const int32_t lengths[ROWS] = {LENGTH, 5, 1};
  struct solver_map m = {.rows = ROWS, .length = LENGTH, .n = 1, .state = 1, .lengths = lengths};
  struct fp_options o = broyden_options(FP_GOOD);
  struct fp_result r = {0};
  double z[ROWS * LENGTH] = {0}, g[ROWS * LENGTH], v[ROWS * LENGTH];
  m.ctx = &lasts, m.block = follow;
  for (int i = 0; i < ROWS * LENGTH; i++)
    g[i] = noise(i, 4);
  /* the row of one block is solved before it has taught anything: its g is the answer */
  assert_int_equal(solver_transpose_f64(&m, &o, 0, z, g, v, &r), 1);
  for (int row = 0; row < ROWS; row++) {
    double want = 0;
    for (int t = LENGTH - 1; t >= 0; t--) {
      int i = row * LENGTH + t;
      want = t < lengths[row] ? g[i] + 0.9 * want : 0; /* v_t = g_t + 0.9 v_{t+1} */
      check_close(v[i], t < lengths[row] ? want : g[i], 1e-12, "row %d, block %d", row, t);
    }
  }
}

/* What is not known falls back to g, counted, by row. */
static void falls_back(void **state)
{
  (void)state;
  int lasts = 5; /* a few updates have been made by then */
  struct solver_map m = {.rows = ROWS, .length = LENGTH, .n = 1, .state = 1, .ctx = &lasts};
  struct fp_options o = broyden_options(FP_GOOD), cases[3] = {o, o, o};
  struct fp_result r = {0};
  double z[ROWS * LENGTH], g[ROWS * LENGTH], v[ROWS * LENGTH], sound[ROWS * LENGTH];
  m.block = follow;
  for (int i = 0; i < ROWS * LENGTH; i++)
    g[i] = 1;
  memset(z, 0, sizeof z);
  assert_int_equal(solver_transpose_f64(&m, &o, 0, z, g, sound, &r), 1); /* row 1 is not finite */
  assert_int_equal(r.exits[FP_NOT_FINITE], 1);
  for (int i = 0; i < LENGTH; i++) {
    assert_true(sound[LENGTH + i] == 1);
    assert_true(sound[i] == sound[2 * LENGTH + i]);
  }
  check_close(sound[LENGTH - 2], 1.9, 1e-12, "a sound neighbour");

  lasts = 1000;
  cases[0].solver = FP_PICARD;
  cases[1].window = 4;
  cases[2].max_iter = 1; /* no update yet */
  for (int i = 0; i < 3; i++) {
    memset(z, 0, sizeof z);
    assert_int_equal(solver_transpose_f64(&m, &cases[i], 0, z, g, v, &r), ROWS);
    check_arrays_close(ROWS * LENGTH, v, g, 0, "case %d", i);
  }
  /* |H'g| is about 5 |g| here */
  memset(z, 0, sizeof z);
  assert_int_equal(solver_transpose_f64(&m, &o, 2, z, g, v, &r), ROWS);
  check_arrays_close(ROWS * LENGTH, v, g, 0, "beyond the limit");
  memset(z, 0, sizeof z);
  assert_int_equal(solver_transpose_f64(&m, &o, 10, z, g, v, &r), 0);
  check_arrays_close(LENGTH, v, sound, 1e-12, "within the limit");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(exact_where_the_steps_are_orthogonal),
      cmocka_unit_test(holds_the_last_secant),
      cmocka_unit_test(chains_with_padding),
      cmocka_unit_test(falls_back),
  };
  omp_set_num_threads(1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
