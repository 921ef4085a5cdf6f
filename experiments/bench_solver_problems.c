/* bench_solver_problems.c: evaluations of the map and time to a residual of 1e-8 (2-norm; KINSOL:
 * largest component) on problems whose published runs the tests reproduce, in float64:
 *   analytic, roberts   SUNDIALS' kinAnalytic_fp and kinRoberts_fp, 3 unknowns
 *   linear              SciPy's test_nonlin: a random linear system of 20 unknowns, no contraction
 *   slow                4096 unknowns, linear, rates from 0 to 0.99
 *   bratu               PETSc's ex5, 81 x 81, lambda 6, with the forcing of x(1-x)y(1-y) */
#include "experiments/bench_solvers.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REPETITIONS = 3, PROBLEMS = 5, METHODS = 4, LINEAR = 20, SLOW = 4096, GRID = 81 };
enum { MOST_UNKNOWNS = GRID * GRID, MAX_ITER = 2000 };
#define TOLERANCE 1e-8
#define PI 3.14159265358979323846

static double noise(int64_t i, int64_t j) /* in (-1, 1), any */
{
  double x = sin((double)(12 * i + 7 * j + 1) * 78.233) * 43758.5453;
  return 2 * (x - floor(x)) - 1;
}

static void analytic(const void *ctx, int64_t n, const double *u, double *g)
{
  (void)ctx, (void)n;
  g[0] = cos((u[1] - 1) * u[2]) / 3 + 1.0 / 6;
  g[1] = sqrt(u[0] * u[0] + sin(u[2]) + 1.06) / 9 + 0.9;
  g[2] = -exp(-u[0] * (u[1] - 1)) / 20 - (10 * PI - 3) / 60;
}

static void roberts(const void *ctx, int64_t n, const double *y, double *g)
{
  (void)ctx, (void)n;
  double d1 = 0.1 * (-0.04 * y[0] + 1e4 * y[1] * y[2]), d3 = 0.1 * 3e2 * y[1] * y[1];
  g[0] = d1 + 1;
  g[1] = -d1 - d3;
  g[2] = d3;
}

/* The matrices and right sides of the linear problems. */
struct tables {
  double matrix[LINEAR * LINEAR], side[LINEAR], rate[SLOW], shift[SLOW];
};

static void linear(const void *ctx, int64_t n, const double *z, double *fz)
{
  const struct tables *c = ctx;
  for (int64_t i = 0; i < n; i++) {
    fz[i] = c->side[i];
    for (int64_t j = 0; j < n; j++)
      fz[i] += c->matrix[i * n + j] * z[j];
  }
}

static void slow(const void *ctx, int64_t n, const double *z, double *fz)
{
  const struct tables *c = ctx;
  for (int64_t i = 0; i < n; i++)
    fz[i] = c->rate[i] * z[i] + c->shift[i];
}

/* f(z) = z - F(z), F scaled by h^2 */
static void bratu(const void *ctx, int64_t n, const double *u, double *fz)
{
  const double h = 1.0 / (GRID - 1), lambda = 6;
  (void)ctx, (void)n;
  for (int64_t j = 0; j < GRID; j++)
    for (int64_t i = 0; i < GRID; i++) {
      int64_t k = j * GRID + i;
      double x = (double)i * h, y = (double)j * h, F = 4 * u[k];
      if (i > 0 && j > 0 && i < GRID - 1 && j < GRID - 1) {
        double exact = x * (1 - x) * y * (1 - y);
        double g = 2 * x * (1 - x) + 2 * y * (1 - y) - lambda * exp(exact);
        double beside = 0; /* boundary values count as 0 */
        beside += i > 1 ? u[k - 1] : 0;
        beside += i < GRID - 2 ? u[k + 1] : 0;
        beside += j > 1 ? u[k - GRID] : 0;
        beside += j < GRID - 2 ? u[k + GRID] : 0;
        F = 4 * u[k] - beside - h * h * (lambda * exp(u[k]) + g);
      }
      fz[k] = u[k] - F;
    }
}

struct problem {
  const char *name;
  int64_t n, memory; /* of Anderson; Broyden's rank is 50 */
  void (*f)(const void *ctx, int64_t n, const double *z, double *fz);
};
static const struct problem problems[PROBLEMS] = {{"analytic", 3, 2, analytic},
                                                  {"roberts", 3, 2, roberts},
                                                  {"linear", LINEAR, 50, linear},
                                                  {"slow", SLOW, 5, slow},
                                                  {"bratu", GRID *GRID, 30, bratu}};
enum { BROYDEN_RANK = 50 };

static void fill_tables(struct tables *c)
{
  for (int64_t i = 0; i < LINEAR; i++) {
    c->side[i] = noise(i, 501);
    for (int64_t j = 0; j < LINEAR; j++)
      c->matrix[i * LINEAR + j] = 2 * noise(i, j) * sqrt(3.0 / LINEAR) + (i == j);
  }
  for (int64_t j = 0; j < SLOW; j++) {
    double x = (double)j / (SLOW - 1);
    c->rate[j] = 0.99 * x * x * x * x;
    c->shift[j] = noise(j, 5);
  }
}

static void guess_of(const struct problem *p, double *u)
{
  memset(u, 0, (size_t)p->n * sizeof *u);
  if (p->f == analytic)
    u[0] = u[1] = 0.1, u[2] = -0.1;
  if (p->f == roberts)
    u[0] = 1;
  for (int64_t k = 0; p->f == bratu && k < p->n; k++) {
    int64_t i = k % GRID, j = k / GRID;
    int64_t dx = i < GRID - 1 - i ? i : GRID - 1 - i, dy = j < GRID - 1 - j ? j : GRID - 1 - j;
    u[k] = 6.0 / 7 * sqrt((double)(dx < dy ? dx : dy) / (GRID - 1));
  }
}

/* NaN: it did not converge, or was not measured. */
struct reached {
  double evaluations, us;
};

static enum status add(struct bench_results *r, const char *who, const struct problem *p,
                       const char *method, struct solve_timing *t, struct reached *reached)
{
  char name[96];
  double us[REPETITIONS], evaluations = (double)t->result.evaluations;
  bool converged = t->result.exits[FP_CONVERGED] == 1;
  for (int i = 0; i < REPETITIONS; i++)
    us[i] = 1e6 * t->solve[i];
  *reached = (struct reached){(double)NAN, (double)NAN};
  (void)snprintf(name, sizeof name, "solvers %s: %s%s%s", p->name, who, method,
                 converged ? "" : ", not converged");
  TRY(bench_add(r, name, "us", REPETITIONS, us, (double)NAN, (double)NAN));
  TRY(bench_add(r, name, "evaluations", 1, &evaluations, (double)NAN, (double)NAN));
  if (converged)
    *reached = (struct reached){evaluations, us[REPETITIONS / 2]};
  return OK;
}

static struct solve_timing asked(const struct bench_request *q, const struct problem *p,
                                 enum fp_solver solver)
{
  struct solve_timing t = {.repetitions = REPETITIONS, .seconds = q->seconds / 20};
  t.options = bench_solver_options(q, solver);
  t.options.max_iter = MAX_ITER;
  t.options.tol = TOLERANCE;
  t.options.stop = FP_ABS;
  t.options.memory = p->memory;
  t.options.rank = BROYDEN_RANK;
  t.options.safeguard = t.options.max_weight = 0; /* the peers have none; Picard diverges on some */
  return t;
}

struct rows {
  struct reached ours[PROBLEMS][METHODS], kinsol[PROBLEMS], torchdeq[PROBLEMS];
};
static const enum fp_solver solvers[METHODS] = {FP_PICARD, FP_ANDERSON, FP_BROYDEN, FP_AUTO};

static enum status measure_torchdeq(const struct bench_request *q, struct rows *rows)
{
  char label[2 * PROBLEMS][32], arguments[96];
  const char *names[2 * PROBLEMS];
  double answer[2 * PROBLEMS];
  for (int i = 0; i < PROBLEMS; i++) {
    (void)snprintf(label[2 * i], sizeof *label, "%s evaluations", problems[i].name);
    (void)snprintf(label[2 * i + 1], sizeof *label, "%s us", problems[i].name);
  }
  for (int i = 0; i < 2 * PROBLEMS; i++)
    names[i] = label[i], answer[i] = (double)NAN;
  (void)snprintf(arguments, sizeof arguments,
                 "problems repetitions=%d seconds=%g tol=%g max_iter=%d threads=1",
                 (int)REPETITIONS, q->seconds, TOLERANCE, (int)MAX_ITER);
  if (!q->no_peer)
    TRY(bench_peer("tests/peers/torchdeq_solvers.py", arguments, "Anderson", 2 * PROBLEMS, names,
                   answer));
  for (int i = 0; i < PROBLEMS; i++)
    rows->torchdeq[i] = (struct reached){answer[2 * i], answer[2 * i + 1]};
  return OK;
}

static enum status measure(const struct bench_request *q, const struct tables *tables,
                           struct bench_results *r, double *guess, struct rows *rows)
{
  for (int i = 0; i < PROBLEMS; i++) {
    const struct problem *p = &problems[i];
    const struct timed_map map = {.n = p->n, .ctx = tables, .f64 = p->f};
    guess_of(p, guess);
    for (int k = 0; k < METHODS; k++) {
      struct solve_timing t = asked(q, p, solvers[k]);
      TRY(map_timed(q->rt, DTYPE_F64, &map, guess, &t, NULL));
      TRY(add(r, "", p, fp_solver_name(solvers[k]), &t, &rows->ours[i][k]));
    }
    rows->kinsol[i] = (struct reached){(double)NAN, (double)NAN};
    if (q->no_peer || !kinsol_is_here())
      continue;
    struct solve_timing t = asked(q, p, FP_ANDERSON);
    TRY(kinsol_timed(&map, guess, &t));
    TRY(add(r, "KINSOL ", p, "anderson", &t, &rows->kinsol[i]));
  }
  return measure_torchdeq(q, rows);
}

static void print_reached(struct reached a)
{
  if (a.us - a.us == 0)
    (void)printf(" %.0f / %.4g |", a.evaluations, a.us);
  else
    (void)printf(" - |");
}

static void print(const struct rows *rows)
{
  (void)printf("\nevaluations of f / microseconds to a residual of %g, float64; -: not reached "
               "in %d\n\n| problem |",
               TOLERANCE, (int)MAX_ITER);
  for (int k = 0; k < METHODS; k++)
    (void)printf(" %s |", fp_solver_name(solvers[k]));
  (void)printf(" KINSOL anderson | TorchDEQ anderson |\n| --- | --- | --- | --- | --- | --- | --- "
               "|\n");
  for (int i = 0; i < PROBLEMS; i++) {
    (void)printf("| %s, n = %lld, m = %lld |", problems[i].name, (long long)problems[i].n,
                 (long long)problems[i].memory);
    for (int k = 0; k < METHODS; k++)
      print_reached(rows->ours[i][k]);
    print_reached(rows->kinsol[i]);
    print_reached(rows->torchdeq[i]);
    (void)printf("\n");
  }
}

enum status bench_solver_problems(const struct bench_request *q, struct bench_results *r)
{
  struct tables *tables = malloc(sizeof *tables);
  double *guess = malloc(MOST_UNKNOWNS * sizeof *guess);
  struct rows rows;
  enum status s = OK;
  if (!tables || !guess)
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  if (s == OK) {
    fill_tables(tables);
    s = measure(q, tables, r, guess, &rows);
  }
  if (s == OK)
    print(&rows);
  free(tables);
  free(guess);
  return s;
}
