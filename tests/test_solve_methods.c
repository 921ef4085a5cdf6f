/* test_solve_methods.c: the methods against published runs, dense oracles and dense solves. */
#include "tests/check.h"
#include "tests/numeric/solver_probe.h"
#include <lapacke.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double noise(int64_t i, int64_t j) /* in (-1, 1), any */
{
  double x = sin((double)(12 * i + 7 * j + 1) * 78.233) * 43758.5453;
  return 2 * (x - floor(x)) - 1;
}

typedef void block_fn(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz);

static struct fp_result solve(block_fn *f, void *ctx, int64_t n, const struct fp_options *o,
                              double *z)
{
  struct solver_map m = {.rows = 1, .length = 1, .n = n, .ctx = ctx, .block = f};
  struct fp_result r = {0};
  solver_run_f64(&m, o, 1, z, &r, NULL);
  return r;
}

/* ---- published runs ---- */

static void analytic(void *ctx, int64_t row, int64_t t, const double *u, double *s, double *g)
{
  const double pi = 3.14159265358979323846;
  (void)ctx, (void)row, (void)t, (void)s;
  double x = u[0], y = u[1], z = u[2];
  g[0] = cos((y - 1) * z) / 3 + 1.0 / 6;
  g[1] = sqrt(x * x + sin(z) + 1.06) / 9 + 0.9;
  g[2] = -exp(-x * (y - 1)) / 20 - (10 * pi - 3) / 60;
}

/* SUNDIALS examples/kinsol/serial/kinAnalytic_fp*.out */
static void sundials_analytic(void **state)
{
  (void)state;
  const struct {
    int64_t memory, delay;
    double damping;
    int iterations;
  } cases[] = {{0, 0, 1, 5}, {0, 0, 0.5, 21}, {2, 0, 1, 5}, {2, 0, 0.5, 8}, {2, 2, 1, 5}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct fp_options o = solver_options(cases[i].memory ? FP_ANDERSON : FP_PICARD, 30,
                                         100 * sqrt(2.220446049250313e-16));
    double u[3] = {0.1, 0.1, -0.1};
    const double want[3] = {0.5, 1, -3.14159265358979323846 / 6};
    o.stop = FP_MAX, o.memory = cases[i].memory, o.delay = cases[i].delay;
    o.damping = cases[i].damping;
    struct fp_result r = solve(analytic, NULL, 3, &o, u);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    check_arrays_close(3, u, want, 1e-4, "case %d", (int)i);
    assert_int_equal(r.max_iterations, cases[i].iterations);
  }
}

static void roberts(void *ctx, int64_t row, int64_t t, const double *y, double *s, double *g)
{
  (void)ctx, (void)row, (void)t, (void)s;
  double d1 = 0.1 * (-0.04 * y[0] + 1e4 * y[1] * y[2]), d3 = 0.1 * 3e2 * y[1] * y[1];
  g[0] = d1 + 1;
  g[1] = -d1 - d3;
  g[2] = d3;
}

/* SUNDIALS examples/kinsol/serial/kinRoberts_fp*.out */
static void sundials_roberts(void **state)
{
  (void)state;
  for (int64_t memory = 1; memory <= 2; memory++) {
    struct fp_options o = solver_options(FP_ANDERSON, 200, 1e-10);
    const double want[3] = {9.967854e-01, 2.953006e-03, 2.616074e-04};
    double y[3] = {1, 0, 0};
    o.stop = FP_MAX, o.memory = memory;
    struct fp_result r = solve(roberts, NULL, 3, &o, y);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    check_arrays_close(3, y, want, 1e-6, "memory %d", (int)memory);
    assert_int_equal(r.max_iterations, memory == 2 ? 8 : 11);
  }
}

static void parabola(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  fz[0] = 0.5 * z[0] * z[0] + 0.25;
}

static void cosine(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  fz[0] = cos(z[0]);
}

static void scalars(void **state)
{
  (void)state;
  for (int solver = 0; solver < FP_GMRES; solver++) {
    struct fp_options o = solver_options((enum fp_solver)solver, 200, 1e-12);
    double a = 0, b = 1;
    solve(parabola, NULL, 1, &o, &a);
    solve(cosine, NULL, 1, &o, &b);
    check_close(a, 1 - sqrt(0.5), 1e-10, "0.5 x^2 + 0.25");
    check_close(b, 0.7390851332151607, 1e-10, "cos");
  }
}

/* ---- PETSc's Bratu problem ---- */

enum { GRID = 81 };

static double bratu_at(const double *u, int i, int j)
{
  bool boundary = i <= 0 || j <= 0 || i >= GRID - 1 || j >= GRID - 1;
  return boundary ? 0 : u[j * GRID + i];
}

/* f(z) = z - F(z); ctx: whether the forcing of x(1-x)y(1-y) is there */
static void bratu(void *ctx, int64_t row, int64_t t, const double *u, double *s, double *fz)
{
  const bool *forced = ctx;
  double h = 1.0 / (GRID - 1), lambda = 6;
  (void)row, (void)t, (void)s;
  for (int j = 0; j < GRID; j++)
    for (int i = 0; i < GRID; i++) {
      double x = i * h, y = j * h, z = u[j * GRID + i], F = 4 * z;
      if (i > 0 && j > 0 && i < GRID - 1 && j < GRID - 1) {
        double exact = x * (1 - x) * y * (1 - y);
        double g = *forced ? 2 * x * (1 - x) + 2 * y * (1 - y) - lambda * exp(exact) : 0;
        F = 4 * z - bratu_at(u, i - 1, j) - bratu_at(u, i + 1, j) - bratu_at(u, i, j - 1) -
            bratu_at(u, i, j + 1) - h * h * (lambda * exp(z) + g);
      }
      fz[j * GRID + i] = z - F;
    }
}

static void bratu_guess(double *u)
{
  double h = 1.0 / (GRID - 1);
  for (int j = 0; j < GRID; j++)
    for (int i = 0; i < GRID; i++) {
      int dx = i < GRID - 1 - i ? i : GRID - i - 1, dy = j < GRID - 1 - j ? j : GRID - j - 1;
      bool boundary = i == 0 || j == 0 || i == GRID - 1 || j == GRID - 1;
      u[j * GRID + i] = boundary ? 0 : 6.0 / 7 * sqrt((dx < dy ? dx : dy) * h);
    }
}

static void petsc_bratu(void **state)
{
  (void)state;
  static double u[GRID * GRID], trace[51], want[51];
  bool forced = true;
  char line[256];
  int lines = 0;
  FILE *golden = fopen("tests/golden/bratu_anderson.txt", "r");
  assert_non_null(golden);
  while (fgets(line, sizeof line, golden))
    if (line[0] != '#' && lines < 51)
      want[lines++] = strtod(line, NULL);
  (void)fclose(golden);
  assert_int_equal(lines, 51);
  struct solver_map m = {.rows = 1, .length = 1, .n = GRID * GRID, .ctx = &forced, .block = bratu};
  struct fp_options o = solver_options(FP_ANDERSON, 51, 1e-10);
  struct fp_result r = {.trace = trace};
  o.stop = FP_ABS, o.memory = 30, o.trace = true;
  bratu_guess(u);
  solver_run_f64(&m, &o, 1, u, &r, NULL);
  for (int i = 0; i < 51; i++)
    check_close(trace[i], want[i], 1e-4, "residual %d", i);
  forced = false;
  o.max_iter = 1;
  bratu_guess(u);
  solver_run_f64(&m, &o, 1, u, &r, NULL);
  check_close(trace[0], 1.11127, 1e-5, "without forcing");
}

/* ---- affine maps: f(z) = A z + b ---- */

enum { MOST = 64 };
struct affine {
  int n;
  double A[MOST * MOST], b[MOST];
  double seen[512 * MOST]; /* where f was evaluated */
  int evaluations;
};

static void affine_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  struct affine *c = ctx;
  (void)row, (void)t, (void)s;
  if (c->evaluations < 512)
    memcpy(c->seen + c->evaluations++ * c->n, z, (size_t)c->n * sizeof *z);
  for (int i = 0; i < c->n; i++) {
    fz[i] = c->b[i];
    for (int j = 0; j < c->n; j++)
      fz[i] += c->A[i * c->n + j] * z[j];
  }
}

/* A = rate * a random matrix of norm about 1, plus shift on the diagonal */
static void make_affine(int n, double rate, double shift, struct affine *c)
{
  memset(c, 0, sizeof *c);
  c->n = n;
  for (int i = 0; i < n; i++) {
    c->b[i] = noise(i, 501);
    for (int j = 0; j < n; j++)
      c->A[i * n + j] = rate * noise(i, j) * sqrt(3.0 / n) / 2 + (i == j ? shift : 0);
  }
}

/* (I - A) x = b by LAPACK */
static void dense_solve(const struct affine *c, double *x)
{
  static double M[MOST * MOST];
  lapack_int pivots[MOST], n = c->n;
  for (int i = 0; i < n * n; i++)
    M[i] = (i / n == i % n) - c->A[i];
  memcpy(x, c->b, (size_t)n * sizeof *x);
  assert_int_equal(LAPACKE_dgesv(LAPACK_ROW_MAJOR, n, 1, M, n, pivots, x, 1), 0);
}

/* SciPy's test_nonlin.py: a random linear system by Broyden in 2N+1 steps, by Anderson in 29. */
static void scipy_linear(void **state)
{
  (void)state;
  enum { SIZE = 20 };
  static struct affine c;
  for (int method = 0; method < 4; method++) {
    struct fp_options o = solver_options(method < 2 ? FP_BROYDEN : FP_ANDERSON, 100, 1e-6);
    double x[SIZE] = {0}, want[SIZE];
    make_affine(SIZE, 4, 1, &c);
    o.stop = FP_MAX, o.rank = o.memory = 50;
    o.kind = method % 2 ? FP_BAD : FP_GOOD;
    struct fp_result r = solve(affine_map, &c, SIZE, &o, x);
    dense_solve(&c, want);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    check_arrays_close(SIZE, x, want, 1e-4, "method %d", method);
    assert_true(r.max_iterations - 1 <= (method < 2 ? 41 : 29));
  }
}

/* The same from far away: three evaluations more than there are unknowns, whatever
 * the residual falls by while all of them are remembered. */
static void a_residual_may_fall_far(void **state)
{
  (void)state;
  enum { SIZE = 20 };
  static struct affine c;
  make_affine(SIZE, 4, 1, &c);
  for (double far = 1; far <= 1e8; far *= 100) {
    struct fp_options o = solver_options(FP_ANDERSON, 100, 1e-12);
    double x[SIZE];
    for (int i = 0; i < SIZE; i++)
      x[i] = far * noise(i, 77);
    o.stop = FP_ABS, o.memory = 50;
    struct fp_result r = solve(affine_map, &c, SIZE, &o, x);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    assert_true(r.max_iterations <= SIZE + 3);
  }
}

/* ---- the methods against their dense definitions ---- */

static double dot(int n, const double *x, const double *y)
{
  double sum = 0;
  for (int i = 0; i < n; i++)
    sum += x[i] * y[i];
  return sum;
}

static void curved(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  struct affine *c = ctx;
  affine_map(ctx, row, t, z, s, fz);
  for (int i = 0; i < c->n; i++)
    fz[i] = sin(fz[i]) + 0.1 * z[i];
}

enum { DENSE = 8 };

/* H - damping I becomes its best approximation of rank `keep`. */
static void reduce_rank(double H[DENSE][DENSE], double damping, int keep)
{
  double A[DENSE * DENSE], U[DENSE * DENSE], V[DENSE * DENSE], sigma[DENSE], superb[DENSE];
  for (int i = 0; i < DENSE * DENSE; i++)
    A[i] = H[i / DENSE][i % DENSE] - (i % (DENSE + 1) == 0 ? damping : 0);
  assert_int_equal(LAPACKE_dgesvd(LAPACK_ROW_MAJOR, 'A', 'A', DENSE, DENSE, A, DENSE, sigma, U,
                                  DENSE, V, DENSE, superb),
                   0);
  for (int i = 0; i < DENSE; i++)
    for (int j = 0; j < DENSE; j++) {
      H[i][j] = i == j ? damping : 0;
      for (int k = 0; k < keep; k++)
        H[i][j] += U[i * DENSE + k] * sigma[k] * V[k * DENSE + j];
    }
}

/* z after `steps` steps of Broyden with a dense H, which satisfies H y = s after each; of at most
 * `rank` updates, half of which are kept when they are too many. */
static void dense_broyden(struct affine *c, bool bad, double damping, int rank, int steps,
                          double *z)
{
  double H[DENSE][DENSE] = {{0}}, r[DENSE], old[DENSE], p[DENSE], y[DENSE], Hy[DENSE], fz[DENSE];
  int updates = 0;
  for (int i = 0; i < DENSE; i++)
    H[i][i] = damping;
  for (int k = 0; k < steps; k++) {
    curved(c, 0, 0, z, NULL, fz);
    for (int i = 0; i < DENSE; i++)
      r[i] = fz[i] - z[i], y[i] = k ? old[i] - r[i] : 0;
    if (k && updates == rank) {
      updates = rank / 2;
      reduce_rank(H, damping, updates);
    }
    updates += k > 0;
    if (k) {
      double v[DENSE] = {0};
      for (int i = 0; i < DENSE; i++) {
        Hy[i] = dot(DENSE, H[i], y);
        for (int j = 0; j < DENSE; j++)
          v[j] += bad ? (i == j) * y[i] : H[i][j] * p[i];
      }
      double denominator = dot(DENSE, v, y);
      for (int i = 0; i < DENSE; i++)
        for (int j = 0; j < DENSE; j++)
          H[i][j] += (p[i] - Hy[i]) * v[j] / denominator;
      for (int i = 0; i < DENSE; i++)
        check_close(dot(DENSE, H[i], y), p[i], 1e-6, "secant condition");
    }
    for (int i = 0; i < DENSE; i++)
      p[i] = dot(DENSE, H[i], r), old[i] = r[i];
    for (int i = 0; i < DENSE; i++)
      z[i] += p[i];
  }
}

static void broyden_is_broyden(void **state)
{
  (void)state;
  static struct affine c;
  for (int bad = 0; bad < 2; bad++)
    for (int steps = 2; steps < 8; steps++) {
      double z[8] = {0}, want[8] = {0};
      make_affine(8, 0.7, 0, &c);
      struct fp_options o = solver_options(FP_BROYDEN, steps + 1, 1e-14);
      o.kind = bad ? FP_BAD : FP_GOOD, o.return_last = true, o.damping = 0.8;
      solve(curved, &c, 8, &o, z);
      dense_broyden(&c, bad == 1, 0.8, 2 * DENSE, steps, want);
      check_arrays_close(8, z, want, 1e-9, "bad %d, %d steps", bad, steps);
    }
}

/* Of its updates Broyden keeps the dominant half, by singular values. */
static void broyden_reduces_its_rank(void **state)
{
  (void)state;
  static struct affine c;
  for (int rank = 1; rank <= 6; rank++)
    for (int bad = 0; bad < 2; bad++)
      for (int steps = 2; steps < 13; steps++) {
        double z[DENSE] = {0}, want[DENSE] = {0};
        make_affine(DENSE, 0.7, 0, &c);
        struct fp_options o = solver_options(FP_BROYDEN, steps + 1, 1e-14);
        o.kind = bad ? FP_BAD : FP_GOOD, o.return_last = true, o.damping = 0.8;
        o.rank = rank, o.limit = FP_REDUCE;
        struct fp_result r = solve(curved, &c, DENSE, &o, z);
        dense_broyden(&c, bad == 1, 0.8, rank, steps, want);
        check_arrays_close(DENSE, z, want, 1e-8, "rank %d, bad %d, %d steps", rank, bad, steps);
        assert_true(steps <= rank + 1 || r.counters[FP_REDUCTIONS] > 0);
        assert_int_equal(r.counters[FP_RESTARTS], 0);
      }
}

/* x of min |M x - b|, M (n,m) row-major, by LAPACK. */
static void least_squares(int n, int m, const double *M, const double *b, double *x)
{
  double A[MOST * MOST], B[MOST], s[MOST];
  lapack_int rank;
  memcpy(A, M, (size_t)(n * m) * sizeof *A);
  memcpy(B, b, (size_t)n * sizeof *B);
  assert_int_equal(LAPACKE_dgelsd(LAPACK_ROW_MAJOR, n, m, 1, A, m, B, 1, s, 1e-14, &rank), 0);
  memcpy(x, B, (size_t)m * sizeof *x);
}

/* The next iterate from the last `count`+1 points, by its definition; type I solves
 * dZ'dR gamma = dZ'r.  The secants hold: what is left of r is orthogonal to all of dR (dZ). */
static void dense_anderson(int n, int count, bool good, double damping, double z[][MOST],
                           double r[][MOST], int k, double *next)
{
  double D[MOST * MOST], Z[MOST * MOST], gamma[MOST], left[MOST];
  for (int a = 0; a < count; a++)
    for (int i = 0; i < n; i++) {
      D[i * count + a] = r[k - a][i] - r[k - a - 1][i];
      Z[i * count + a] = z[k - a][i] - z[k - a - 1][i];
    }
  if (good) {
    double M[MOST * MOST] = {0}, b[MOST] = {0};
    for (int a = 0; a < count; a++)
      for (int i = 0; i < n; i++) {
        b[a] += Z[i * count + a] * r[k][i];
        for (int e = 0; e < count; e++)
          M[a * count + e] += Z[i * count + a] * D[i * count + e];
      }
    least_squares(count, count, M, b, gamma);
  } else {
    least_squares(n, count, D, r[k], gamma);
  }
  for (int i = 0; i < n; i++) {
    next[i] = z[k][i] + damping * r[k][i];
    left[i] = r[k][i];
    for (int a = 0; a < count; a++) {
      next[i] -= (Z[i * count + a] + damping * D[i * count + a]) * gamma[a];
      left[i] -= D[i * count + a] * gamma[a];
    }
  }
  for (int a = 0; a < count; a++) {
    double across = 0;
    for (int i = 0; i < n; i++)
      across += (good ? Z : D)[i * count + a] * left[i];
    assert_true(fabs(across) < 1e-12);
  }
}

static void anderson_is_anderson(void **state)
{
  (void)state;
  enum { SIZE = 12, STEPS = 8 };
  static struct affine c;
  for (int good = 0; good < 2; good++)
    for (int memory = 1; memory <= 4; memory++) {
      double z[STEPS + 1][MOST] = {{0}}, r[STEPS + 1][MOST], got[SIZE] = {0};
      make_affine(SIZE, 0.7, 0, &c);
      for (int k = 0; k < STEPS; k++) {
        curved(&c, 0, 0, z[k], NULL, r[k]);
        for (int i = 0; i < SIZE; i++)
          r[k][i] -= z[k][i];
        dense_anderson(SIZE, k < memory ? k : memory, good == 1, 0.8, z, r, k, z[k + 1]);
      }
      struct fp_options o = solver_options(FP_ANDERSON, STEPS + 1, 1e-14);
      o.kind = good ? FP_GOOD : FP_KIND_AUTO;
      o.memory = memory, o.damping = 0.8, o.return_last = true;
      solve(curved, &c, SIZE, &o, got);
      check_arrays_close(SIZE, got, z[STEPS], 1e-8, "good %d, memory %d", good, memory);
    }
}

/* ---- where Picard cannot ---- */

static void rotation_converges(void **state)
{
  (void)state;
  static struct affine c;
  for (int solver = FP_PICARD; solver < FP_AUTO; solver++) {
    struct fp_options o = solver_options((enum fp_solver)solver, 100, 1e-10);
    double z[2] = {0}, want[2];
    memset(&c, 0, sizeof c);
    c.n = 2, c.A[0] = c.A[3] = cos(1), c.A[1] = -sin(1), c.A[2] = sin(1), c.b[0] = 1;
    o.memory = 10;
    struct fp_result r = solve(affine_map, &c, 2, &o, z);
    dense_solve(&c, want);
    assert_int_equal(r.exits[FP_CONVERGED], solver != FP_PICARD);
    if (solver != FP_PICARD)
      check_arrays_close(2, z, want, 1e-8, "solver %d", solver);
  }
}

static void slow_diagonal_converges(void **state)
{
  (void)state;
  static struct affine c;
  for (int solver = FP_ANDERSON; solver < FP_AUTO; solver++) {
    struct fp_options o = solver_options((enum fp_solver)solver, 60, 1e-10);
    double z[3] = {0}, want[3];
    memset(&c, 0, sizeof c);
    c.n = 3, c.A[0] = 0.9, c.A[4] = 0.99, c.A[8] = 0.999, c.b[0] = c.b[1] = c.b[2] = 1;
    struct fp_result r = solve(affine_map, &c, 3, &o, z);
    dense_solve(&c, want);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    check_arrays_close(3, z, want, 1e-6, "solver %d", solver);
  }
}

/* One unknown, one vector of memory, more memory than unknowns, a guess that is the answer, and
 * ten thousand iterations beyond convergence: finite and right. */
static void degenerate_sizes(void **state)
{
  (void)state;
  static struct affine c;
  const int sizes[] = {1, 2, 3, 7}, memories[] = {0, 1, 2, 10, 1000};
  for (int solver = FP_PICARD; solver < FP_AUTO; solver++)
    for (int n = 0; n < 4; n++)
      for (int m = 0; m < 5; m++) {
        struct fp_options o = solver_options((enum fp_solver)solver, 2000, 1e-13);
        double z[7] = {0}, want[7];
        make_affine(sizes[n], 0.5, 0.1, &c);
        dense_solve(&c, want);
        o.memory = o.rank = memories[m];
        o.min_iter = m == 2 ? 2000 : 1;
        struct fp_result r = solve(affine_map, &c, sizes[n], &o, z);
        assert_int_equal(r.exits[FP_CONVERGED], 1);
        check_arrays_close(sizes[n], z, want, 1e-11, "solver %d, n %d, memory %d", solver, sizes[n],
                           memories[m]);
        o.min_iter = 1;
        r = solve(affine_map, &c, sizes[n], &o, z);
        assert_int_equal(r.max_iterations, 1);
      }
  struct fp_options o = solver_options(FP_ANDERSON, 10000, 1e-12);
  double z[7] = {0}, want[7];
  make_affine(7, 0.5, 0.1, &c);
  dense_solve(&c, want);
  o.min_iter = 10000;
  solve(affine_map, &c, 7, &o, z);
  check_arrays_close(7, z, want, 1e-11, "10000 iterations");
}

/* ---- the adjoint: linear, solved to 1e-10 ---- */

static void adjoint_equals_dense_solve(void **state)
{
  (void)state;
  const struct {
    double rate, shift;
    bool picard; /* can */
  } cases[] = {
      {0.6, 0, true},  /* contracts */
      {2.5, 0, false}, /* I - A indefinite */
      {6, 1.5, false}, /* more so */
  };
  static struct affine c;
  for (int k = 0; k < 3; k++)
    for (int method = 0; method < 6; method++) {
      enum { SIZE = 40 };
      const enum fp_solver solver[] = {FP_PICARD,  FP_ANDERSON, FP_ANDERSON,
                                       FP_BROYDEN, FP_BROYDEN,  FP_GMRES};
      struct fp_options o = solver_options(solver[method], 500, 1e-13);
      double z[SIZE] = {0}, want[SIZE];
      make_affine(SIZE, cases[k].rate, cases[k].shift, &c);
      dense_solve(&c, want);
      o.memory = 40, o.rank = method == 5 ? 40 : 120, o.kind = method % 2 ? FP_GOOD : FP_BAD;
      struct fp_result r = solve(affine_map, &c, SIZE, &o, z);
      if (method > 0 || cases[k].picard) {
        assert_int_equal(r.exits[FP_CONVERGED], 1);
        check_arrays_close(SIZE, z, want, 1e-10, "case %d, method %d", k, method);
      } else {
        assert_int_equal(r.exits[FP_CONVERGED], 0);
      }
    }
}

/* I - A = Q D Q', D of both signs and as small as 1e-3. */
static void make_nearly_singular(int n, double smallest, struct affine *c)
{
  double q[MOST], square = 0;
  memset(c, 0, sizeof *c);
  c->n = n;
  for (int i = 0; i < n; i++) {
    q[i] = noise(i, 77);
    square += q[i] * q[i];
    c->b[i] = noise(i, 501);
  }
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      double sum = 0;
      for (int k = 0; k < n; k++) {
        double d = (k % 2 ? -1 : 1) * (k == 0 ? smallest : 0.3 + 1.5 * k / n);
        double a = (i == k) - 2 * q[i] * q[k] / square, b = (j == k) - 2 * q[j] * q[k] / square;
        sum += a * d * b;
      }
      c->A[i * n + j] = (i == j) - sum;
    }
}

static void nearly_singular_adjoint(void **state)
{
  (void)state;
  enum { SIZE = 24 };
  static struct affine c;
  int solved = 0;
  for (int method = 0; method < 6; method++) {
    const enum fp_solver solver[] = {FP_PICARD,  FP_ANDERSON, FP_ANDERSON,
                                     FP_BROYDEN, FP_BROYDEN,  FP_GMRES};
    struct fp_options o = solver_options(solver[method], 1000, 1e-14);
    double z[SIZE] = {0}, want[SIZE];
    make_nearly_singular(SIZE, 1e-3, &c);
    dense_solve(&c, want);
    o.memory = SIZE, o.rank = method == 5 ? SIZE : 100, o.kind = method % 2 ? FP_GOOD : FP_BAD;
    struct fp_result r = solve(affine_map, &c, SIZE, &o, z);
    if (method > 0 && r.exits[FP_CONVERGED])
      check_arrays_close(SIZE, z, want, 1e-10, "method %d", method);
    assert_true(method > 0 || !r.exits[FP_CONVERGED]);
    solved += (int)r.exits[FP_CONVERGED];
  }
  assert_true(solved >= 4);
}

static void check_no_solution(const struct affine *c, enum fp_solver solver)
{
  struct fp_options o = solver_options(solver, 400, 1e-10);
  double z[MOST] = {0};
  static struct affine map; /* notes where f was evaluated */
  map = *c;
  o.stop = FP_ABS; /* relative to f(z), a z far enough away satisfies any tolerance */
  struct fp_result r = solve(affine_map, &map, c->n, &o, z);
  assert_int_equal(r.exits[FP_CONVERGED], 0);
  assert_int_equal(r.samples, 1);
  if (solver == FP_GMRES)
    assert_int_equal(r.exits[FP_BREAKDOWN], 1);
  for (int i = 0; i < c->n; i++)
    assert_true(isfinite(z[i]));
}

/* Where there is no solution, no solver claims one. */
static void singular_adjoint_is_a_status(void **state)
{
  (void)state;
  static struct affine rank_11, none = {.n = 4}; /* none: f(z) = z + 1, I - df/dz exactly 0 */
  make_nearly_singular(12, 0, &rank_11);
  for (int i = 0; i < none.n; i++)
    none.A[i * none.n + i] = none.b[i] = 1;
  for (int solver = FP_PICARD; solver < FP_AUTO; solver++) {
    check_no_solution(&rank_11, (enum fp_solver)solver);
    check_no_solution(&none, (enum fp_solver)solver);
  }
}

/* ---- auto ---- */

static void halves(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx;
  fz[0] = sin(0.5 * z[0] + s[0] + noise(row, t));
  s[0] = z[0];
}

/* Undamped Anderson in a window where there is a chain; what else was asked for stays, and so does
 * every other solver. */
static void auto_chooses(void **state)
{
  (void)state;
  enum { LENGTH = 9 };
  char what[FP_DESCRIPTION];
  struct fp_options o = solver_options(FP_AUTO, 70, 1e-8);
  o.damping = 0.4, o.memory = 2;
  struct fp_options chosen = fp_choose(&o, LENGTH);
  assert_string_equal(fp_describe(&chosen, what), "anderson, window 4, memory 5");
  assert_true(chosen.damping == 1 && chosen.max_iter == 70 && chosen.tol == 1e-8);
  double got[LENGTH] = {0}, want[LENGTH] = {0};
  struct solver_map m = {.rows = 1, .length = LENGTH, .n = 1, .state = 1, .block = halves};
  struct fp_result a = {0}, b = {0};
  solver_run_f64(&m, &o, 1, got, &a, NULL);
  solver_run_f64(&m, &chosen, 1, want, &b, NULL);
  assert_memory_equal(got, want, sizeof got);
  assert_int_equal(a.exits[FP_CONVERGED], LENGTH);
  chosen = fp_choose(&o, 4);
  assert_string_equal(fp_describe(&chosen, what), "anderson, window all, memory 5");
  o.window = 2, o.memory = 7;
  chosen = fp_choose(&o, LENGTH);
  assert_string_equal(fp_describe(&chosen, what), "anderson, window 2, memory 7");
  o.solver = FP_PICARD;
  chosen = fp_choose(&o, LENGTH);
  assert_memory_equal(&chosen, &o, sizeof o);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(auto_chooses),
      cmocka_unit_test(sundials_analytic),
      cmocka_unit_test(sundials_roberts),
      cmocka_unit_test(scalars),
      cmocka_unit_test(petsc_bratu),
      cmocka_unit_test(scipy_linear),
      cmocka_unit_test(a_residual_may_fall_far),
      cmocka_unit_test(broyden_is_broyden),
      cmocka_unit_test(broyden_reduces_its_rank),
      cmocka_unit_test(anderson_is_anderson),
      cmocka_unit_test(rotation_converges),
      cmocka_unit_test(slow_diagonal_converges),
      cmocka_unit_test(degenerate_sizes),
      cmocka_unit_test(adjoint_equals_dense_solve),
      cmocka_unit_test(nearly_singular_adjoint),
      cmocka_unit_test(singular_adjoint_is_a_status),
  };
  omp_set_num_threads(2);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
