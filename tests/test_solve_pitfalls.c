/* test_solve_pitfalls.c: what went wrong in other fixed-point solvers, one test each, and options
 * in any combination. */
#include "tests/check.h"
#include "tests/numeric/solver_probe.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static double noise(int64_t i, int64_t j) /* in (-1, 1), any */
{
  double x = sin((double)(12 * i + 7 * j + 1) * 78.233) * 43758.5453;
  return 2 * (x - floor(x)) - 1;
}

typedef void block_fn(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz);
typedef void run_fn(const struct solver_map *map, const struct fp_options *o, int times, double *z,
                    struct fp_result *result, struct solver_usage *usage);

static struct fp_result solve(run_fn *run, block_fn *f, void *ctx, int64_t n,
                              const struct fp_options *o, double *z)
{
  struct solver_map m = {.rows = 1, .length = 1, .n = n, .ctx = ctx, .block = f};
  struct fp_result r = {0};
  run(&m, o, 1, z, &r, NULL);
  return r;
}

/* ---- Anderson ---- */

enum { WIDE = 4096 };
struct diagonal {
  double radius, scale;
};

/* Rates 0 to `radius`, most of them small. */
static void diagonal_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  const struct diagonal *c = ctx;
  (void)row, (void)t, (void)s;
  for (int64_t j = 0; j < WIDE; j++) {
    double x = (double)j / (WIDE - 1);
    fz[j] = c->radius * x * x * x * x * z[j] + c->scale * noise(j, 5);
  }
}

/* A ridge that is not relative stalls where residuals are small; ours changes nothing with the
 * scale of the unknowns, and Anderson stays far ahead of Picard. */
static void ridge_is_relative(void **state)
{
  (void)state;
  static double z[WIDE];
  int64_t iterations[3][2];
  struct fp_options o = solver_options(FP_PICARD, 1000, 1e-4);
  struct diagonal c = {0.99, 1};
  memset(z, 0, sizeof z);
  int64_t plain = solve(solver_run_f32, diagonal_map, &c, WIDE, &o, z).max_iterations;
  o.solver = FP_ANDERSON;
  for (int k = 0; k < 3; k++)
    for (int scaled = 0; scaled < 2; scaled++) {
      o.ridge = k == 0 ? 0 : k == 1 ? 1e-8 : 1e-4;
      c.scale = scaled ? 1e-6 : 1;
      memset(z, 0, sizeof z);
      struct fp_result r = solve(solver_run_f32, diagonal_map, &c, WIDE, &o, z);
      assert_int_equal(r.exits[FP_CONVERGED], 1);
      iterations[k][scaled] = r.max_iterations;
    }
  for (int k = 0; k < 3; k++) {
    assert_true(labs((long)(iterations[k][0] - iterations[k][1])) <= 2);
    assert_true(iterations[k][0] * 2 < plain);
  }
  assert_true(iterations[0][0] <= 60); /* Picard: 398 */
}

/* Columns of the normal matrix that differ by many orders: it is scaled before it is truncated. */
static void columns_of_any_size(void **state)
{
  (void)state;
  static double z[WIDE];
  for (int good = 0; good < 2; good++) {
    struct fp_options o = solver_options(FP_ANDERSON, 200, 1e-13);
    struct diagonal c = {0.9, 1};
    o.memory = 12, o.kind = good ? FP_GOOD : FP_BAD;
    memset(z, 0, sizeof z);
    struct fp_result r = solve(solver_run_f64, diagonal_map, &c, WIDE, &o, z);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    assert_true(r.max_iterations <= 60);
    for (int64_t j = 0; j < WIDE; j++) {
      double x = (double)j / (WIDE - 1);
      assert_true(fabs(z[j] - noise(j, 5) / (1 - 0.9 * x * x * x * x)) < 1e-9);
    }
  }
}

/* Two directions that are the same: truncation, not a breakdown. */
static void repeated_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  for (int j = 0; j < 20; j++)
    fz[j] = 0.9 * z[j] + 1;
}

static void dependent_directions(void **state)
{
  (void)state;
  for (int solver = FP_ANDERSON; solver < FP_AUTO; solver++)
    for (int p = 0; p < 2; p++) {
      struct fp_options o = solver_options((enum fp_solver)solver, 50, 1e-6);
      double z[20] = {0};
      struct fp_result r =
          solve(p ? solver_run_f32 : solver_run_f64, repeated_map, NULL, 20, &o, z);
      assert_int_equal(r.exits[FP_CONVERGED], 1);
      assert_true(r.max_iterations <= 5);
      for (int j = 0; j < 20; j++)
        assert_true(fabs(z[j] - 10) < 1e-3);
    }
}

/* After many Picard steps the history is one slow direction and rounding: what is left of the other
 * columns is no direction, and no step beyond `condition` is taken. */
static void one_slow(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  for (int j = 0; j < 60; j++)
    fz[j] = (j == 0 ? 0.99 : 0.1) * z[j] + 1 + noise(j, 3);
}

static void noise_is_no_direction(void **state)
{
  (void)state;
  for (int p = 0; p < 2; p++)
    for (int64_t memory = 2; memory <= 12; memory += 5) {
      struct fp_options o = solver_options(FP_ANDERSON, 80, p ? 1e-6 : 1e-13);
      double z[60] = {0}, picard[60] = {0};
      o.memory = memory, o.delay = 50;
      run_fn *run = p ? solver_run_f32 : solver_run_f64;
      struct fp_result r = solve(run, one_slow, NULL, 60, &o, z);
      assert_int_equal(r.exits[FP_CONVERGED], 1);
      assert_true(r.max_iterations <= 54);
      o.condition = 1, o.delay = 0; /* not even one direction: Picard */
      memset(z, 0, sizeof z);
      r = solve(run, one_slow, NULL, 60, &o, z);
      assert_int_equal(r.exits[FP_MAX_ITER], 1);
      assert_true(r.counters[FP_FALLBACKS] > 70);
      o.solver = FP_PICARD;
      solve(run, one_slow, NULL, 60, &o, picard);
      assert_memory_equal(z, picard, sizeof z);
    }
}

/* A chain: a block follows the one before it. */
static void front_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row;
  for (int j = 0; j < 4; j++)
    fz[j] = tanh(6 * s[j] + 0.4 * z[(j + 1) % 4] + 0.6 * noise(t, j));
  memcpy(s, z, 4 * sizeof *s);
}

/* The same, but what a block's own slope is depends on the one before it, too. */
static void sloped_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row;
  for (int j = 0; j < 4; j++)
    fz[j] = tanh(3 * s[j] + 1.5 * s[(j + 1) % 4] * z[(j + 1) % 4] + 0.6 * noise(t, j));
  memcpy(s, z, 4 * sizeof *s);
}

/* Behind the leader everything moves, slopes too: what was seen there must not be extrapolated. */
static void only_the_leader_is_accelerated(void **state)
{
  (void)state;
  enum { LENGTH = 64 };
  static double z[LENGTH * 4];
  int64_t work[FP_GMRES];
  for (int solver = FP_PICARD; solver < FP_GMRES; solver++) {
    struct solver_map m = {.rows = 1, .length = LENGTH, .n = 4, .state = 4, .block = sloped_map};
    struct fp_options o = solver_options((enum fp_solver)solver, 2000, 1e-2);
    struct fp_result r = {0};
    o.window = 8, o.safeguard = 2, o.max_weight = 1e6;
    if (solver == FP_PICARD)
      o.damping = 0.9; /* as the others' steps behind the leader */
    memset(z, 0, sizeof z);
    solver_run_f64(&m, &o, 1, z, &r, NULL);
    assert_int_equal(r.exits[FP_CONVERGED], LENGTH);
    work[solver] = r.block_evaluations;
    assert_true(work[solver] * 10 <= work[FP_PICARD] * 11);
  }
  assert_true(work[FP_ANDERSON] * 4 <= work[FP_PICARD] * 3);
}

/* Block 0 is slow; block 1 would swing for ever if it took whole steps. */
static void swings(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)s;
  fz[0] = t == 0 ? 0.9 * z[0] + 1 : 3 - z[0];
}

/* Behind the leader steps are not quite whole: a block that would swing has converged by the time
 * that it leads. */
static void followers_do_not_swing(void **state)
{
  (void)state;
  for (int solver = FP_ANDERSON; solver < FP_GMRES; solver++) {
    struct solver_map m = {.rows = 1, .length = 2, .n = 1, .state = 1, .block = swings};
    struct fp_options o = solver_options((enum fp_solver)solver, 200, 1e-3);
    struct fp_result r = {0};
    int32_t iterations[2];
    double z[2] = {0};
    o.window = 2, o.admit = 0, o.delay = 200;
    r.iterations = iterations;
    solver_run_f64(&m, &o, 1, z, &r, NULL);
    assert_int_equal(r.exits[FP_CONVERGED], 2);
    assert_true(iterations[0] > 30);
    assert_int_equal(iterations[1], iterations[0]);
  }
}

/* Block 0 is solved by its second evaluation; block 1, affine and on its own, by any two points. */
static void leaves_soon(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)s;
  fz[0] = t == 0 ? 1 : 0.9 * z[0] + 1;
}

/* A block that becomes the leader knows its last point as a follower, too: the third evaluation
 * finds it solved. */
static void a_new_leader_remembers(void **state)
{
  (void)state;
  for (int solver = FP_ANDERSON; solver < FP_GMRES; solver++) {
    struct solver_map m = {.rows = 1, .length = 2, .n = 1, .state = 1, .block = leaves_soon};
    struct fp_options o = solver_options((enum fp_solver)solver, 100, 1e-10);
    struct fp_result r = {0};
    double z[2] = {0};
    o.window = 2, o.admit = 0;
    solver_run_f64(&m, &o, 1, z, &r, NULL);
    assert_int_equal(r.exits[FP_CONVERGED], 2);
    assert_int_equal(r.evaluations, 3);
  }
}

/* A kink that makes extrapolation jump too far. */
static void kinked(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  for (int j = 0; j < 8; j++) {
    double x = z[j] + 0.5 * z[(j + 1) % 8];
    fz[j] = 0.9 * (fabs(x) > 1 ? (x > 0 ? 1 : -1) : x * x * x) + 0.2 * noise(j, 1);
  }
}

static void safeguard_undoes_bad_steps(void **state)
{
  (void)state;
  for (int solver = FP_ANDERSON; solver < FP_GMRES; solver++) {
    int64_t rejections = 0;
    for (int start = 0; start < 20; start++) {
      struct fp_options o = solver_options((enum fp_solver)solver, 400, 1e-9);
      enum { MAX = 400 };
      static double trace[MAX];
      double z[8];
      struct solver_map m = {.rows = 1, .length = 1, .n = 8, .block = kinked};
      struct fp_result r = {.trace = trace};
      o.safeguard = 1, o.trace = true, o.stop = FP_ABS;
      for (int j = 0; j < 8; j++)
        z[j] = 2 * noise(start, j);
      solver_run_f64(&m, &o, 1, z, &r, NULL);
      rejections += r.counters[FP_REJECTIONS];
      assert_int_equal(r.exits[FP_CONVERGED], 1);
    }
    assert_true(rejections > 0);
  }
}

/* On a chain solved at once a front moves, and extrapolation is of no use: the fallback keeps the
 * work near Picard's. */
static void acceleration_does_not_lose_a_chain(void **state)
{
  (void)state;
  enum { LENGTH = 64 };
  static double z[LENGTH * 4];
  int64_t picard = 0;
  for (int solver = FP_PICARD; solver < FP_GMRES; solver++) {
    struct solver_map m = {.rows = 1, .length = LENGTH, .n = 4, .state = 4, .block = front_map};
    struct fp_options o = solver_options((enum fp_solver)solver, 2000, 1e-6);
    struct fp_result r = {0};
    o.safeguard = 2, o.max_weight = 1e6, o.memory = 15;
    memset(z, 0, sizeof z);
    solver_run_f64(&m, &o, 1, z, &r, NULL);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    if (solver == FP_PICARD)
      picard = r.max_iterations;
    else
      assert_true(r.max_iterations * 2 <= picard * 7);
  }
}

/* ---- Broyden ---- */

enum { MIDDLE = 40 };
static void coupled(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  const double *rate = ctx;
  (void)row, (void)t, (void)s;
  for (int i = 0; i < MIDDLE; i++) {
    double sum = 0;
    for (int j = 0; j < MIDDLE; j++)
      sum += noise(i, j) * z[j];
    fz[i] = *rate * sin(sum * sqrt(3.0 / MIDDLE) / 2) + 0.3 * noise(i, 99);
  }
}

/* A ring of factors, the oldest overwritten, grew to 1e40: later factors rest on earlier ones. */
static void little_rank(enum fp_limit limit, enum fp_counter counter)
{
  for (int bad = 0; bad < 2; bad++)
    for (int64_t rank = 1; rank <= 8; rank++) {
      struct fp_options o = solver_options(FP_BROYDEN, 300, 1e-10);
      static double trace[300];
      double z[MIDDLE] = {0}, rate = 0.8;
      struct solver_map m = {.rows = 1, .length = 1, .n = MIDDLE, .ctx = &rate, .block = coupled};
      struct fp_result r = {.trace = trace};
      o.rank = rank, o.kind = bad ? FP_BAD : FP_GOOD, o.trace = true, o.stop = FP_ABS;
      o.limit = limit;
      solver_run_f64(&m, &o, 1, z, &r, NULL);
      assert_int_equal(r.exits[FP_CONVERGED], 1);
      assert_true(r.counters[counter] > 0);
      for (int k = 0; k < r.max_iterations; k++)
        assert_true(trace[k] < 100 * trace[0]);
    }
}

static void broyden_of_little_rank(void **state)
{
  (void)state;
  little_rank(FP_RESTART, FP_RESTARTS);
  little_rank(FP_REDUCE, FP_REDUCTIONS);
}

/* r(z) = R z with a quarter turn R: y is orthogonal to s, the good denominator is 0. */
static void turned(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  fz[0] = z[0] - (z[1] - 1);
  fz[1] = z[1] + (z[0] - 2);
}

static void denominator_zero(void **state)
{
  (void)state;
  for (int p = 0; p < 2; p++) {
    struct fp_options o = solver_options(FP_BROYDEN, 40, 1e-6);
    struct fp_result r;
    double z[2] = {0, 0};
    o.return_last = true;
    r = solve(p ? solver_run_f32 : solver_run_f64, turned, NULL, 2, &o, z);
    assert_true(isfinite(z[0]) && isfinite(z[1]));
    assert_true(r.counters[FP_FALLBACKS] > 0);
    assert_int_equal(r.samples, 1);
  }
}

struct pair {
  double rate[2];
};
static void pair_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  const struct pair *c = ctx;
  (void)t, (void)s;
  for (int j = 0; j < 6; j++)
    fz[j] = c->rate[row] * sin(2 * z[(j + 1) % 6]) + 0.2 * noise(j, 2);
}

/* A line search for the whole batch moved one answer by 60 when a neighbour joined. */
static void line_search_is_per_sample(void **state)
{
  (void)state;
  struct fp_options o = solver_options(FP_BROYDEN, 200, 1e-10);
  struct pair c = {{1.9, 0.9}}, second = {{0.9, 0}};
  double alone[6], both[12];
  o.line_search = true;
  for (int j = 0; j < 12; j++)
    both[j] = noise(j, 8);
  memcpy(alone, both + 6, sizeof alone);
  struct solver_map m = {.rows = 1, .length = 1, .n = 6, .ctx = &second, .block = pair_map};
  struct fp_result r = {0};
  solver_run_f64(&m, &o, 1, alone, &r, NULL);
  assert_int_equal(r.exits[FP_CONVERGED], 1);
  m.rows = 2, m.ctx = &c;
  solver_run_f64(&m, &o, 1, both, &r, NULL);
  assert_true(r.counters[FP_REJECTIONS] > 0); /* somebody searched */
  assert_memory_equal(alone, both + 6, sizeof alone);
}

/* With the line search the residual falls from one accepted step to the next. */
static void line_search_descends(void **state)
{
  (void)state;
  struct fp_options o = solver_options(FP_BROYDEN, 200, 1e-10);
  static double trace[200];
  double z[MIDDLE] = {0}, rate = 1.5;
  struct solver_map m = {.rows = 1, .length = 1, .n = MIDDLE, .ctx = &rate, .block = coupled};
  struct fp_result r = {.trace = trace};
  o.line_search = o.trace = true, o.stop = FP_ABS, o.rank = 60;
  solver_run_f64(&m, &o, 1, z, &r, NULL);
  assert_int_equal(r.exits[FP_CONVERGED], 1);
  double last = trace[0];
  int64_t grew = 0;
  for (int k = 1; k < r.max_iterations; k++) {
    grew += trace[k] > last;
    last = trace[k] > last ? last : trace[k];
  }
  assert_true(grew <= r.counters[FP_REJECTIONS] + r.counters[FP_RESTARTS]);
}

/* ---- statuses ---- */

static void not_a_number(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  for (int j = 0; j < 5; j++)
    fz[j] = 0.5 * z[j];
  fz[3] = (double)NAN;
}

/* A norm that takes no notice of NaN reports convergence at once. */
static void not_a_number_is_no_success(void **state)
{
  (void)state;
  for (int solver = FP_PICARD; solver < FP_AUTO; solver++)
    for (int stop = 0; stop < 4; stop++) {
      struct fp_options o = solver_options((enum fp_solver)solver, 10, 1e-3);
      double z[5] = {0};
      o.stop = (enum fp_stop)stop;
      struct fp_result r = solve(solver_run_f64, not_a_number, NULL, 5, &o, z);
      assert_int_equal(r.exits[FP_NOT_FINITE], 1);
      assert_true(isnan(r.worst_residual));
      for (int j = 0; j < 5; j++)
        assert_true(z[j] == 0); /* the guess, which is all there is */
    }
}

enum { LARGE = 100000 };
static void noisy(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  int *calls = ctx; /* rounding inside of f, as float32 has it */
  (void)row, (void)t, (void)s;
  ++*calls;
  for (int64_t j = 0; j < LARGE; j++)
    fz[j] = (0.9 * cos(z[(j + 1) % LARGE]) + noise(j, 4)) * (1 + 1e-7 * noise(j, *calls));
}

/* float32 cannot go below about eps |f|: abs 1e-6 is out of reach at this size, and a status. */
static void float32_floor(void **state)
{
  (void)state;
  static double z[LARGE];
  int calls = 0;
  for (int solver = FP_PICARD; solver < FP_GMRES; solver++) {
    struct fp_options o = solver_options((enum fp_solver)solver, 5000, 1e-6);
    o.stop = FP_ABS;
    o.safeguard = 2;
    memset(z, 0, sizeof z);
    struct fp_result r = solve(solver_run_f32, noisy, &calls, LARGE, &o, z);
    assert_int_equal(r.exits[FP_STAGNATED], 1);
    assert_true(r.max_iterations < 400 && r.worst_residual < 1e-3);
    o.stop = FP_RMS, o.tol = 1e-6;
    memset(z, 0, sizeof z);
    r = solve(solver_run_f32, noisy, &calls, LARGE, &o, z);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
  }
}

struct affine {
  double rate, scale;
};
static void affine_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  const struct affine *c = ctx;
  (void)row, (void)t, (void)s;
  for (int j = 0; j < 8; j++)
    fz[j] = c->rate * (z[j] - 0.2 * z[(j + 1) % 8]) + c->scale * (j % 3 + 1);
}

/* Cotangents of tokens that a model is sure of are as small as 1e-25: what is made of products of
 * two of them is not to leave float32. */
static void scale_of_the_unknowns(void **state)
{
  (void)state;
  static const struct {
    enum fp_solver solver;
    enum fp_kind kind;
    enum fp_limit limit;
  } methods[] = {{FP_ANDERSON, FP_KIND_AUTO, FP_RESTART}, {FP_ANDERSON, FP_GOOD, FP_RESTART},
                 {FP_BROYDEN, FP_GOOD, FP_RESTART},       {FP_BROYDEN, FP_BAD, FP_RESTART},
                 {FP_BROYDEN, FP_GOOD, FP_REDUCE},        {FP_BROYDEN, FP_BAD, FP_REDUCE},
                 {FP_GMRES, FP_KIND_AUTO, FP_RESTART}};
  static const double scales[] = {1, 1e-10, 1e-20, 1e-25, 1e-30, 1e10, 1e25};
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    struct fp_options o = solver_options(methods[i].solver, 200, 1e-3);
    o.kind = methods[i].kind, o.limit = methods[i].limit, o.rank = 4, o.memory = 3;
    int64_t iterations = 0;
    for (size_t k = 0; k < sizeof scales / sizeof *scales; k++) {
      struct affine c = {-1.6, scales[k]}; /* Picard's method would diverge */
      double z[8] = {0};
      struct fp_result r = solve(solver_run_f32, affine_map, &c, 8, &o, z);
      assert_int_equal(r.exits[FP_CONVERGED], 1);
      iterations = k == 0 ? r.max_iterations : iterations;
      assert_true(labs((long)(r.max_iterations - iterations)) <= 1);
    }
    struct affine c = {0.5, 1e-42}; /* not even its inverse is a float */
    double z[8] = {0};
    struct fp_result r = solve(solver_run_f32, affine_map, &c, 8, &o, z);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
  }
}

static void grows(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  for (int j = 0; j < 5; j++)
    fz[j] = -2 * z[j] + (z[j] > 0 ? 1 : 0.5) + noise(j, 1);
}

static void divergence_is_a_status(void **state)
{
  (void)state;
  struct fp_options o = solver_options(FP_PICARD, 10000, 1e-6);
  double z[5] = {0};
  o.divergence = 1e6;
  struct fp_result r = solve(solver_run_f64, grows, NULL, 5, &o, z);
  assert_int_equal(r.exits[FP_DIVERGED], 1);
  assert_true(r.max_iterations < 40);
  for (int j = 0; j < 5; j++)
    assert_true(fabs(z[j]) < 10); /* the best, not the last */
}

/* ---- any options ---- */

static uint32_t state_of_dice = 12345;
static uint32_t dice(uint32_t sides)
{
  state_of_dice = state_of_dice * 1664525u + 1013904223u;
  return (state_of_dice >> 8) % sides;
}

struct fuzzed {
  int64_t n;
  int kind;
  double rate;
};
static void fuzzed_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  const struct fuzzed *c = ctx;
  for (int64_t j = 0; j < c->n; j++) {
    double x = z[(j + 1) % c->n] + s[0];
    fz[j] = c->kind == 0   ? c->rate * x + noise(row + t, j)
            : c->kind == 1 ? sin(c->rate * x)
            : c->kind == 2 ? c->rate * exp(x) - noise(t, j)
            : c->kind == 3 ? 0
            : c->kind == 4 ? z[j]
            : c->kind == 5 ? c->rate / x
                           : (row == 1 ? (double)NAN : c->rate * x * x);
  }
  s[0] = 0.5 * s[0] + 0.1 * z[0];
}

static double pick(const double *values, uint32_t count) { return values[dice(count)]; }

static struct fp_options any_options(void)
{
  struct fp_options o = {.solver = (enum fp_solver)dice(FP_SOLVERS)};
  const double damping[] = {1, 0.5, 0.01}, tol[] = {0, 1e-12, 1e-3, 0.5};
  const double ridge[] = {0, 1e-10, 1e-2, 1e10}, condition[] = {0, 1, 1e4, 1e300};
  const double guard[] = {0, 1e-3, 1, 10}, weight[] = {0, 1e-6, 10, 1e9};
  const double start[] = {0, 1e-2, 1e300}, divergence[] = {0, 1, 1e8};
  o.max_iter = 1 + dice(40), o.min_iter = dice(50);
  o.tol = pick(tol, 4), o.stop = (enum fp_stop)dice(4), o.damping = pick(damping, 3);
  o.window = dice(3) ? dice(9) : FP_WINDOW_ALL, o.admit = dice(4);
  o.worst_token = dice(2), o.stop_together = dice(2), o.return_last = dice(2);
  o.poll_every = dice(4), o.kind = (enum fp_kind)dice(3);
  o.memory = dice(2) ? dice(4) : dice(40), o.rank = dice(2) ? dice(4) : dice(40);
  o.limit = (enum fp_limit)dice(2);
  o.delay = dice(5), o.mix_every = dice(4), o.restart = dice(2) ? 0 : dice(6);
  o.start = pick(start, 3), o.ridge = pick(ridge, 4), o.condition = pick(condition, 4);
  o.safeguard = pick(guard, 4), o.max_weight = pick(weight, 4), o.line_search = dice(2);
  o.divergence = pick(divergence, 3), o.patience = dice(2) ? 0 : dice(10);
  o.trace = dice(2);
  return o;
}

static void any_options_give_a_status(void **state)
{
  (void)state;
  enum { ROWS = 3, LENGTH = 9, MOST = 12 };
  for (int i = 0; i < 6000; i++) {
    struct fp_options o = any_options();
    struct fuzzed c = {1 + dice(dice(2) ? 2 : MOST), (int)dice(7), 0.2 + 0.3 * dice(8)};
    int32_t lengths[ROWS], iterations[ROWS * LENGTH];
    double z[ROWS * LENGTH * MOST], residual[ROWS * LENGTH];
    static double trace[ROWS * LENGTH * 40];
    uint8_t exits[ROWS * LENGTH];
    struct solver_map m = {.rows = 1 + dice(ROWS), .length = 1 + dice(LENGTH), .n = c.n};
    struct fp_result r = {.iterations = iterations, .residual = residual, .exit = exits};
    for (int k = 0; k < ROWS; k++)
      lengths[k] = (int32_t)dice((uint32_t)m.length + 1);
    m.state = 1, m.ctx = &c, m.block = fuzzed_map, m.fixed_rows = dice(2);
    m.lengths = dice(2) ? lengths : NULL;
    r.trace = o.trace ? trace : NULL;
    for (int k = 0; k < ROWS * LENGTH * MOST; k++)
      z[k] = dice(3) ? noise(i, k) : 0;
    (dice(2) ? solver_run_f32 : solver_run_f64)(&m, &o, 1 + (int)dice(2), z, &r, NULL);
    bool all = fp_choose(&o, m.length).window == FP_WINDOW_ALL;
    int64_t samples = 0;
    for (int64_t row = 0; row < m.rows; row++) {
      int64_t blocks = m.lengths ? lengths[row] : m.length;
      for (int64_t b = 0; b < (all ? blocks > 0 : blocks); b++, samples++) {
        int64_t at = all ? row : row * m.length + b;
        assert_true(exits[at] > FP_RUNNING && exits[at] < FP_EXITS);
        /* in a window those that leave may be evaluated again, one after the other */
        assert_true(iterations[at] >= 1 && iterations[at] <= o.max_iter + (all ? 0 : LENGTH));
        if (exits[at] == FP_CONVERGED)
          assert_true(residual[at] <= o.tol && iterations[at] >= o.min_iter);
      }
    }
    assert_int_equal(samples, r.samples);
    for (int64_t k = 0; k < m.rows * m.length * m.n && !o.return_last && c.kind < 2; k++)
      assert_true(isfinite(z[k]));
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ridge_is_relative),
      cmocka_unit_test(columns_of_any_size),
      cmocka_unit_test(dependent_directions),
      cmocka_unit_test(noise_is_no_direction),
      cmocka_unit_test(only_the_leader_is_accelerated),
      cmocka_unit_test(followers_do_not_swing),
      cmocka_unit_test(a_new_leader_remembers),
      cmocka_unit_test(safeguard_undoes_bad_steps),
      cmocka_unit_test(acceleration_does_not_lose_a_chain),
      cmocka_unit_test(broyden_of_little_rank),
      cmocka_unit_test(denominator_zero),
      cmocka_unit_test(line_search_is_per_sample),
      cmocka_unit_test(line_search_descends),
      cmocka_unit_test(not_a_number_is_no_success),
      cmocka_unit_test(float32_floor),
      cmocka_unit_test(scale_of_the_unknowns),
      cmocka_unit_test(divergence_is_a_status),
      cmocka_unit_test(any_options_give_a_status),
  };
  omp_set_num_threads(1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
