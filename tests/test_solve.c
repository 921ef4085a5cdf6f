/* test_solve.c: what every solve promises, whatever the method: per-sample stopping, freezing,
 * compaction, windows, statuses, residuals, traces.  See solvers/solve.h. */
#include "tests/check.h"
#include "tests/numeric/solver_probe.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef void run_fn(const struct solver_map *map, const struct fp_options *o, int times, double *z,
                    struct fp_result *result, struct solver_usage *usage);
static run_fn *const runs[] = {solver_run_f64, solver_run_f32};

enum { N = 7, ROWS = 6, LENGTH = 11 };

static double noise(int64_t i, int64_t j) /* in (-1, 1), any */
{
  double x = sin((double)(12 * i + 7 * j + 1) * 78.233) * 43758.5453;
  return 2 * (x - floor(x)) - 1;
}

/* ---- row-independent maps: what a row does is its own business ---- */

enum kind { CONTRACTS, SLOWLY, IS_NAN, GROWS, SOLVED, TURNS_NAN, EXPLODES };
struct rows {
  enum kind kind[ROWS];
  int calls[ROWS];
  bool affine; /* what contracts is: GMRES takes nothing else */
};

static void row_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  struct rows *c = ctx;
  double rate = c->kind[row] == SLOWLY ? 0.9 : c->kind[row] == GROWS ? 3 : 0.5;
  (void)t, (void)s;
  c->calls[row]++;
  for (int j = 0; j < N; j++) {
    fz[j] = rate * (c->affine ? z[j] : sin(z[j])) + 0.3 * noise(row, j);
    fz[j] += (c->affine ? 0.05 : 0.1) * z[(j + 1) % N];
    if (c->kind[row] == EXPLODES)
      fz[j] = z[j] + 20 * z[j] * z[j] + 5 + noise(row, j);
    if (c->kind[row] == GROWS)
      fz[j] = -rate * z[j] + noise(row, j);
    if (c->kind[row] == SOLVED)
      fz[j] = z[j];
  }
  if (c->kind[row] == IS_NAN || (c->kind[row] == TURNS_NAN && c->calls[row] > 3))
    fz[2] = (double)NAN;
}

struct answer {
  double z[ROWS * N];
  int32_t iterations[ROWS];
  double residual[ROWS];
  uint8_t exit[ROWS];
  struct fp_result r;
  struct solver_usage usage;
};

static void solve_rows(run_fn *run, const enum kind *kind, int64_t rows, bool fixed_rows,
                       const struct fp_options *o, struct answer *a)
{
  struct rows c = {{CONTRACTS}, {0}, o->solver == FP_GMRES};
  struct solver_map m = {.rows = rows, .length = 1, .n = N, .ctx = &c, .block = row_map};
  memset(a, 0, sizeof *a);
  memcpy(c.kind, kind, (size_t)rows * sizeof *kind);
  m.fixed_rows = fixed_rows;
  for (int i = 0; i < ROWS * N; i++)
    a->z[i] = 0.5 * noise(i, 99);
  a->r.iterations = a->iterations, a->r.residual = a->residual, a->r.exit = a->exit;
  run(&m, o, 1, a->z, &a->r, &a->usage);
}

/* As solve_rows of one row, which is `row` of the batch. */
struct one {
  struct rows c;
  int64_t row;
};

static void one_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  struct one *o = ctx;
  row_map(&o->c, o->row + row, t, z, s, fz);
}

static void solve_alone(run_fn *run, const enum kind *kind, int64_t row, const struct fp_options *o,
                        struct answer *a)
{
  struct one c = {{{CONTRACTS}, {0}, o->solver == FP_GMRES}, row};
  struct solver_map m = {.rows = 1, .length = 1, .n = N, .ctx = &c, .block = one_map};
  memset(a, 0, sizeof *a);
  c.c.kind[row] = kind[row];
  for (int j = 0; j < N; j++)
    a->z[j] = 0.5 * noise(row * N + j, 99);
  a->r.iterations = a->iterations, a->r.residual = a->residual, a->r.exit = a->exit;
  run(&m, o, 1, a->z, &a->r, &a->usage);
}

/* A NaN row, a diverging one and a solved one change no other, bit by bit, however the batch is
 * packed; each row stops on its own. */
static void neighbours_do_not_matter(void **state)
{
  (void)state;
  const enum fp_exit want[ROWS] = {FP_CONVERGED, FP_NOT_FINITE, FP_CONVERGED,
                                   FP_DIVERGED,  FP_CONVERGED,  FP_NOT_FINITE};
  for (int p = 0; p < 2; p++)
    for (int solver = 0; solver < FP_AUTO; solver++) {
      struct fp_options o = solver_options((enum fp_solver)solver, 400, 1e-5);
      struct answer packed, fixed, alone;
      /* GROWS is affine, and acceleration solves it; without a fixed point GMRES fails, too */
      enum kind fails = solver == FP_GMRES ? EXPLODES : GROWS;
      const enum kind mixed[ROWS] = {CONTRACTS, IS_NAN, SLOWLY, fails, SOLVED, TURNS_NAN};
      o.divergence = 1e3;
      o.memory = o.rank = 2;
      solve_rows(runs[p], mixed, ROWS, false, &o, &packed);
      solve_rows(runs[p], mixed, ROWS, true, &o, &fixed);
      assert_int_equal(packed.usage.most_rows, ROWS);
      assert_true(packed.usage.least_rows < ROWS && fixed.usage.least_rows == ROWS);
      for (int i = 0; i < ROWS; i++) {
        bool solved = mixed[i] == GROWS && solver != FP_PICARD;
        assert_int_equal(packed.exit[i], solved ? FP_CONVERGED : want[i]);
        solve_alone(runs[p], mixed, i, &o, &alone);
        assert_memory_equal(alone.z, packed.z + i * N, sizeof(double) * N);
        assert_memory_equal(alone.z, fixed.z + i * N, sizeof(double) * N);
        assert_int_equal(alone.iterations[0], packed.iterations[i]);
        assert_int_equal(alone.iterations[0], fixed.iterations[i]);
        assert_memory_equal(alone.residual, packed.residual + i, sizeof(double));
      }
      assert_int_equal(packed.iterations[1], 1);
      assert_int_equal(packed.iterations[4], 1);
      assert_true(packed.iterations[0] < packed.iterations[2]);
      assert_true(packed.residual[4] == 0); /* 0/0 is converged */
    }
}

/* The residual is that of the undamped map at the iterate that is returned. */
static double residual_at(enum kind kind, bool affine, int64_t row, const double *z,
                          enum fp_stop stop)
{
  struct rows c = {{CONTRACTS}, {0}, affine};
  double fz[N], square = 0, reference = 0, largest = 0;
  c.kind[row] = kind;
  row_map(&c, row, 0, z, NULL, fz);
  for (int j = 0; j < N; j++) {
    square += (fz[j] - z[j]) * (fz[j] - z[j]);
    reference += fz[j] * fz[j];
    largest = fmax(largest, fabs(fz[j] - z[j]));
  }
  return stop == FP_MAX   ? largest
         : stop == FP_RMS ? sqrt(square / N)
         : stop == FP_ABS ? sqrt(square)
                          : sqrt(square / reference);
}

static void residual_is_that_of_the_answer(void **state)
{
  (void)state;
  const enum kind kinds[ROWS] = {CONTRACTS, SLOWLY, GROWS, CONTRACTS, SLOWLY, GROWS};
  for (int solver = 0; solver < FP_AUTO; solver++)
    for (int stop = 0; stop < 4; stop++)
      for (int last = 0; last < 2; last++) {
        struct fp_options o = solver_options((enum fp_solver)solver, 5, 1e-9);
        struct answer a;
        o.stop = (enum fp_stop)stop;
        o.damping = 0.1;
        o.return_last = last == 1;
        solve_rows(solver_run_f64, kinds, ROWS, false, &o, &a);
        for (int i = 0; i < ROWS; i++)
          check_close(a.residual[i],
                      residual_at(kinds[i], solver == FP_GMRES, i, a.z + i * N, o.stop), 1e-12,
                      "solver %d stop %d row %d", solver, stop, i);
      }
}

/* max_iter returns the best iterate, last the last; the damped map's residual would be ten times
 * smaller. */
static void best_and_last(void **state)
{
  (void)state;
  const enum kind kinds[ROWS] = {GROWS, TURNS_NAN, CONTRACTS};
  struct fp_options o = solver_options(FP_PICARD, 6, 1e-9);
  struct answer best, last;
  o.stop = FP_ABS;
  solve_rows(solver_run_f64, kinds, 3, false, &o, &best);
  o.return_last = true;
  solve_rows(solver_run_f64, kinds, 3, false, &o, &last);
  assert_true(best.residual[0] < last.residual[0] / 100);
  assert_true(best.exit[0] == FP_MAX_ITER && last.exit[0] == FP_MAX_ITER);
  assert_true(best.exit[1] == FP_NOT_FINITE && isfinite(best.residual[1]));
  assert_true(isnan(last.residual[1]));
  assert_true(isfinite(best.z[N]) && best.residual[1] < 1);
  assert_true(best.residual[2] == last.residual[2]); /* the last was the best */
  assert_true(isnan(last.r.worst_residual));
}

static void stop_norms_min_iter_and_zero(void **state)
{
  (void)state;
  const enum kind kinds[ROWS] = {CONTRACTS};
  struct answer a, b;
  int32_t plain[4];
  for (int stop = 0; stop < 4; stop++) {
    struct fp_options o = solver_options(FP_PICARD, 100, 1e-6);
    o.stop = (enum fp_stop)stop;
    solve_rows(solver_run_f64, kinds, 1, false, &o, &a);
    assert_int_equal(a.exit[0], FP_CONVERGED);
    assert_true(a.residual[0] <= 1e-6 && a.residual[0] > 1e-8);
    plain[stop] = a.iterations[0];
    o.min_iter = a.iterations[0] + 5;
    solve_rows(solver_run_f64, kinds, 1, false, &o, &b);
    assert_int_equal(b.iterations[0], o.min_iter);
    assert_int_equal(b.exit[0], FP_CONVERGED);
  }
  assert_true(plain[FP_RMS] <= plain[FP_ABS] && plain[FP_MAX] <= plain[FP_ABS]);
}

static void zero_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s, (void)z;
  fz[0] = 0;
}

/* f = 0: relative to |f(z)| = 0 the first residual is infinite, and the second is 0/0 = 0. */
static void zero_is_a_fixed_point(void **state)
{
  (void)state;
  struct solver_map m = {.rows = 1, .length = 1, .n = 1, .block = zero_map};
  for (int solver = 0; solver < FP_AUTO; solver++) {
    struct fp_options o = solver_options((enum fp_solver)solver, 10, 1e-6);
    struct fp_result r = {0};
    double z = 1;
    solver_run_f64(&m, &o, 1, &z, &r, NULL);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
    assert_true(fabs(z) < 1e-15 && r.max_iterations <= 3);
  }
}

static void all_stop_together(void **state)
{
  (void)state;
  const enum kind kinds[ROWS] = {CONTRACTS, SLOWLY, CONTRACTS, IS_NAN};
  struct fp_options o = solver_options(FP_PICARD, 400, 1e-6);
  struct answer own, all;
  solve_rows(solver_run_f64, kinds, 4, false, &o, &own);
  o.stop_together = true;
  solve_rows(solver_run_f64, kinds, 4, false, &o, &all);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(all.iterations[i], own.iterations[1]);
    assert_int_equal(all.exit[i], FP_CONVERGED);
  }
  assert_true(all.residual[0] < own.residual[0] / 10);
  assert_int_equal(all.exit[3], FP_NOT_FINITE);
  o.max_iter = own.iterations[1] - 2; /* the slow one never gets there: the others still have */
  solve_rows(solver_run_f64, kinds, 4, false, &o, &all);
  assert_true(all.exit[0] == FP_CONVERGED && all.exit[1] == FP_MAX_ITER);
}

static void evaluations_are_counted(void **state)
{
  (void)state;
  const enum kind kinds[ROWS] = {CONTRACTS, SLOWLY, SOLVED};
  struct fp_options o = solver_options(FP_PICARD, 400, 1e-6);
  struct answer a;
  solve_rows(solver_run_f64, kinds, 3, true, &o, &a);
  assert_int_equal(a.r.evaluations, a.usage.calls);
  assert_int_equal(a.r.evaluations, a.iterations[1]);
  assert_int_equal(a.r.block_evaluations, a.iterations[0] + a.iterations[1] + a.iterations[2]);
  assert_int_equal(a.r.max_iterations, a.iterations[1]);
  assert_int_equal(a.r.samples, 3);
  o.poll_every = 7; /* the host looks less often: nothing else changes */
  struct answer b;
  solve_rows(solver_run_f64, kinds, 3, true, &o, &b);
  assert_memory_equal(a.z, b.z, sizeof a.z);
  assert_memory_equal(a.iterations, b.iterations, sizeof a.iterations);
  assert_int_equal(b.r.evaluations % 7, 0);
}

/* ---- chains: block t depends on the blocks before it through a carried state ---- */

struct chain_ctx {
  double rate, coupling;
  int64_t nan_row, nan_block; /* -1: none */
};

static void chain_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  struct chain_ctx *c = ctx;
  for (int j = 0; j < N; j++)
    fz[j] = c->rate * sin(z[j] + 0.4 * z[(j + 1) % N]) + c->coupling * s[j % 3] +
            0.5 * noise(row * 100 + t, j);
  if (row == c->nan_row && t == c->nan_block)
    fz[0] = (double)NAN;
  for (int j = 0; j < 3; j++)
    s[j] = 0.7 * s[j] + 0.3 * tanh(z[j] + z[j + 3]);
}

struct chain_answer {
  double z[ROWS * LENGTH * N], residual[ROWS * LENGTH];
  int32_t iterations[ROWS * LENGTH];
  uint8_t exit[ROWS * LENGTH];
  struct fp_result r;
  struct solver_usage usage;
};

static void solve_chain(run_fn *run, struct chain_ctx *c, const int32_t *lengths,
                        const struct fp_options *o, struct chain_answer *a)
{
  struct solver_map m = {.rows = ROWS, .length = LENGTH, .n = N, .state = 3};
  m.ctx = c, m.block = chain_map, m.lengths = lengths;
  memset(a, 0, sizeof *a);
  for (int i = 0; i < ROWS * LENGTH * N; i++)
    a->z[i] = 0.1 * noise(i, 3);
  a->r.iterations = a->iterations, a->r.residual = a->residual, a->r.exit = a->exit;
  run(&m, o, 1, a->z, &a->r, &a->usage);
}

static void windows_agree(void **state)
{
  (void)state;
  const int64_t windows[] = {FP_WINDOW_ALL, 1, 2, 3, 5, LENGTH, 64};
  const int32_t lengths[ROWS] = {LENGTH, 3, 1, 0, 7, LENGTH};
  for (int p = 0; p < 2; p++)
    for (int solver = 0; solver < FP_GMRES; solver++)
      for (int padded = 0; padded < 2; padded++) {
        static struct chain_answer all, a;
        for (int w = 0; w < 7; w++) {
          double tol = p ? 2e-6 : 1e-12;
          struct fp_options o = solver_options((enum fp_solver)solver, 400, tol);
          struct chain_ctx c = {0.5, 0.6, -1, -1};
          struct chain_answer *to = w ? &a : &all;
          o.window = windows[w];
          o.worst_token = true;
          o.safeguard = 2;
          solve_chain(runs[p], &c, padded ? lengths : NULL, &o, to);
          int64_t blocks = padded ? LENGTH + 3 + 1 + 7 + LENGTH : ROWS * LENGTH;
          assert_int_equal(to->r.samples, w ? blocks : padded ? ROWS - 1 : ROWS);
          assert_int_equal(to->r.exits[FP_CONVERGED], to->r.samples);
          assert_true(to->r.worst_residual <= tol);
          if (w)
            assert_int_equal(to->r.block_evaluations, to->usage.blocks);
          check_arrays_close(ROWS * LENGTH * N, to->z, all.z, p ? 1e-4 : 1e-10,
                             "window %d, solver %d", (int)windows[w], solver);
        }
        for (int i = 0; padded && i < N; i++) /* blocks behind a row's end are left alone */
          check_close(a.z[(LENGTH + 3) * N + i], 0.1 * noise((LENGTH + 3) * N + i, 3), 1e-6, "end");
      }
}

/* Never more than `window` blocks are active, never more than `admit` enter a row behind an
 * evaluation; the answer is the sequential one. */
static void windows_fill_as_asked(void **state)
{
  (void)state;
  static struct chain_answer one, a;
  const int32_t lengths[ROWS] = {LENGTH, 3, 1, 0, 7, LENGTH};
  const int64_t windows[] = {1, 2, 3, 5, LENGTH, 64};
  for (int solver = 0; solver < FP_GMRES; solver++)
    for (int w = 0; w < 6; w++)
      for (int64_t admit = 0; admit <= 4; admit++) {
        struct fp_options o = solver_options((enum fp_solver)solver, 400, 1e-12);
        struct chain_ctx c = {0.5, 0.6, -1, -1};
        int64_t most = windows[w] < LENGTH ? windows[w] : LENGTH;
        o.window = windows[w], o.admit = admit;
        solve_chain(solver_run_f64, &c, lengths, &o, windows[w] == 1 ? &one : &a);
        const struct chain_answer *got = windows[w] == 1 ? &one : &a;
        assert_int_equal(got->r.exits[FP_CONVERGED], got->r.samples);
        assert_int_equal(got->usage.most_entered, admit && admit < most ? admit : most);
        assert_true(got->usage.most_active <= most);
        assert_true(got->usage.most_active == most || admit);
        check_arrays_close(ROWS * LENGTH * N, got->z, one.z, 1e-10, "window %d, admit %d",
                           (int)windows[w], (int)admit);
      }
}

/* Half of the way must lie behind a block before the next one enters: z <- z + damping (f(z) - z)
 * goes 1 - (1 - damping)^k of it in k evaluations. */
static void damped_blocks_are_waited_for(void **state)
{
  (void)state;
  enum { EVALUATIONS = 6 };
  static struct chain_answer a;
  const double damping[] = {1, 0.6, 0.5, 0.3, 0.25};
  const int64_t wait[] = {1, 1, 2, 2, 3};
  for (int i = 0; i < 5; i++) {
    struct fp_options o = solver_options(FP_PICARD, EVALUATIONS, 0);
    struct chain_ctx c = {0.5, 0.6, -1, -1};
    o.window = LENGTH, o.damping = damping[i], o.return_last = true;
    solve_chain(solver_run_f64, &c, NULL, &o, &a);
    assert_int_equal(a.r.evaluations, wait[i] * (LENGTH - 1) + EVALUATIONS);
    assert_int_equal(a.r.block_evaluations, ROWS * LENGTH * EVALUATIONS);
    o.admit = 0;
    solve_chain(solver_run_f64, &c, NULL, &o, &a);
    assert_int_equal(a.r.evaluations, EVALUATIONS);
  }
}

/* What a token is depends on the product of all before it: s in {-1, 1} turns at each token whose
 * input is negative, and f pulls z towards the sign that s asks for; from the wrong side it takes
 * longer than from 0. */
enum { TURNS = 64 };
static void turns(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  double sign = noise(row * TURNS + t, 8) < 0 ? -1 : 1;
  (void)ctx;
  if (t == 0)
    s[0] = 1;
  fz[0] = tanh(2 * z[0] + 2 * sign * s[0]);
  s[0] = z[0];
}

/* Blocks that enter together behind one that has not been evaluated go astray: one by one takes
 * less of everything. */
static void one_by_one_is_less_work(void **state)
{
  (void)state;
  struct solver_map m = {.rows = 1, .length = TURNS, .n = 1, .state = 1, .block = turns};
  struct fp_result r[2] = {{0}};
  for (int64_t admit = 0; admit < 2; admit++) {
    struct fp_options o = solver_options(FP_PICARD, 400, 1e-3);
    double z[TURNS] = {0};
    o.window = 8, o.admit = admit;
    solver_run_f64(&m, &o, 1, z, &r[admit], NULL);
    assert_int_equal(r[admit].exits[FP_CONVERGED], TURNS);
  }
  assert_true(r[1].block_evaluations * 10 < r[0].block_evaluations * 9);
  assert_true(r[1].evaluations <= r[0].evaluations);
}

/* A block that cannot converge leaves at max_iter with its best iterate, and what follows is solved
 * behind the state of that very iterate. */
static void a_bad_block_leaves(void **state)
{
  (void)state;
  static struct chain_answer a;
  for (int64_t window = 1; window <= 4; window += 3) {
    struct fp_options o = solver_options(FP_PICARD, 200, 1e-10);
    struct chain_ctx c = {0.5, 0.6, 2, 4};
    o.window = window;
    solve_chain(solver_run_f64, &c, NULL, &o, &a);
    for (int i = 0; i < ROWS * LENGTH; i++)
      assert_int_equal(a.exit[i], i == 2 * LENGTH + 4 ? FP_NOT_FINITE : FP_CONVERGED);
    assert_int_equal(a.r.exits[FP_NOT_FINITE], 1);
    for (int i = 0; i < ROWS * LENGTH * N; i++)
      assert_true(isfinite(a.z[i]));
    /* undamped residuals of what was returned, behind the states of what was returned */
    double s[3] = {0}, fz[N];
    for (int t = 0; t < LENGTH; t++) {
      const double *z = a.z + (2 * LENGTH + t) * N;
      double square = 0, reference = 0;
      chain_map(&c, 2, t, z, s, fz);
      for (int j = 0; j < N; j++)
        square += (fz[j] - z[j]) * (fz[j] - z[j]), reference += fz[j] * fz[j];
      if (t != 4)
        check_close(a.residual[2 * LENGTH + t], sqrt(square / reference), 1e-4, "block %d", t);
    }
  }
}

/* One wrong token hides in the norm of a row unless every token is tested. */
static void worst_token(void **state)
{
  (void)state;
  struct fp_options o = solver_options(FP_PICARD, 400, 1e-3);
  struct chain_ctx c = {0.8, 0.6, -1, -1};
  static struct chain_answer common, worst;
  solve_chain(solver_run_f64, &c, NULL, &o, &common);
  o.worst_token = true;
  solve_chain(solver_run_f64, &c, NULL, &o, &worst);
  int more = 0;
  for (int i = 0; i < ROWS; i++) {
    assert_true(worst.iterations[i] >= common.iterations[i]);
    more += worst.iterations[i] > common.iterations[i];
  }
  assert_true(more > 0);
  assert_true(worst.r.worst_residual <= 1e-3);
}

/* ---- statuses, traces ---- */

static void float32_floor_is_a_status(void **state)
{
  (void)state;
  const enum kind kinds[ROWS] = {CONTRACTS};
  struct fp_options o = solver_options(FP_PICARD, 100000, 1e-12);
  struct answer a;
  o.stop = FP_ABS;
  solve_rows(solver_run_f32, kinds, 1, false, &o, &a);
  /* the map's float32 image may be a fixed point exactly: then it has converged */
  assert_true(a.exit[0] == FP_STAGNATED || a.residual[0] == 0);
  assert_true(a.iterations[0] < 100);
}

static void flip(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  fz[0] = 1 - z[0]; /* Picard goes to and fro for ever */
}

static void patience_ends_a_cycle(void **state)
{
  (void)state;
  struct solver_map m = {.rows = 1, .length = 1, .n = 1, .block = flip};
  struct fp_options o = solver_options(FP_PICARD, 1000, 1e-6);
  struct fp_result r = {0};
  double z = 0.2;
  o.patience = 10;
  o.stop = FP_ABS;
  solver_run_f64(&m, &o, 1, &z, &r, NULL);
  assert_int_equal(r.exits[FP_STAGNATED], 1);
  assert_true(r.max_iterations >= 11 && r.max_iterations <= 13);
}

/* A chain of cells, of which each answers its neighbour's half, and one a constant. */
struct chain_of_cells {
  double right_side;
  int n;
};

static void cells(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  const struct chain_of_cells *c = ctx;
  (void)row, (void)t, (void)s;
  for (int i = 0; i < c->n; i++)
    fz[i] = (i ? 0.9 * z[i - 1] : 0) + 0.05 * z[(i + 7) % c->n] + c->right_side * (1 + i % 3);
}

/* GMRES's probes find no new best, and are none of those that patience counts. */
static void patience_waits_for_a_basis(void **state)
{
  (void)state;
  enum { CELLS = 40 };
  struct chain_of_cells c = {1, CELLS};
  struct solver_map m = {.rows = 1, .length = 1, .n = CELLS, .ctx = &c, .block = cells};
  struct fp_options o = solver_options(FP_GMRES, 1000, 1e-8);
  o.rank = 20;
  for (o.patience = 1; o.patience <= 10; o.patience += 3) {
    struct fp_result r = {0};
    double z[CELLS] = {0};
    solver_run_f64(&m, &o, 1, z, &r, NULL);
    assert_int_equal(r.exits[FP_CONVERGED], 1);
  }
}

/* Broyden's updates divide by squares of steps, which float32 does not hold of such small ones. */
static void small_numbers_stay_finite(void **state)
{
  (void)state;
  enum { CELLS = 40 };
  for (int exponent = -8; exponent >= -28; exponent -= 4) {
    struct chain_of_cells c = {pow(10, exponent), CELLS};
    struct solver_map m = {.rows = 1, .length = 1, .n = CELLS, .ctx = &c, .block = cells};
    for (int bad = 0; bad < 2; bad++) {
      struct fp_options o = solver_options(FP_BROYDEN, 500, 1e-4);
      struct fp_result r = {0};
      double z[CELLS] = {0};
      o.kind = bad ? FP_BAD : FP_GOOD;
      solver_run_f32(&m, &o, 1, z, &r, NULL);
      assert_int_equal(r.exits[FP_NOT_FINITE], 0);
      assert_true(exponent < -12 || r.exits[FP_CONVERGED] == 1);
    }
  }
}

/* 1 is a solution to within 1e-9; behind it lie 2, 0 and 1 again. */
static void pass_by(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  fz[0] = z[0] == 1 ? 1 + 1e-9 : z[0] == 0 ? 1 : z[0] == 2 ? 0 : 2;
}

/* The best iterate is what is returned, and what is judged. */
static void solutions_left_again_count(void **state)
{
  (void)state;
  struct solver_map m = {.rows = 1, .length = 1, .n = 1, .block = pass_by};
  struct fp_options o = solver_options(FP_PICARD, 5, 1e-6);
  double z = 0, residual;
  struct fp_result r = {.residual = &residual};
  o.stop = FP_ABS, o.min_iter = 3;
  solver_run_f64(&m, &o, 1, &z, &r, NULL);
  assert_int_equal(r.exits[FP_CONVERGED], 1);
  assert_true(z == 1 && residual == (1 + 1e-9) - 1);
  o.window = 1, z = 0;
  solver_run_f64(&m, &o, 1, &z, &r, NULL);
  assert_int_equal(r.exits[FP_CONVERGED], 1);
  assert_true(z == 1 && residual == (1 + 1e-9) - 1);
}

static void not_a_number_is_the_worst_residual(void **state)
{
  (void)state;
  const struct fp_result part[3] = {{.samples = 1, .worst_residual = 0.5},
                                    {.samples = 1, .worst_residual = (double)NAN},
                                    {.samples = 1, .worst_residual = 2}};
  struct fp_result sum = {0};
  fp_result_add(&sum, &part[2]);
  fp_result_add(&sum, &part[0]);
  assert_true(sum.worst_residual == 2);
  fp_result_add(&sum, &part[1]);
  fp_result_add(&sum, &part[2]);
  assert_true(isnan(sum.worst_residual));
}

static void traces_hold_every_residual(void **state)
{
  (void)state;
  enum { MAX = 60 };
  const enum kind kinds[ROWS] = {CONTRACTS, SLOWLY, SOLVED};
  static double trace[ROWS * MAX];
  for (int solver = 0; solver < FP_GMRES; solver++) {
    struct fp_options o = solver_options((enum fp_solver)solver, MAX, 1e-6);
    struct rows c = {{CONTRACTS}, {0}, false};
    struct solver_map m = {.rows = 3, .length = 1, .n = N, .ctx = &c, .block = row_map};
    double z[ROWS * N];
    int32_t iterations[ROWS];
    double residual[ROWS];
    struct fp_result r = {.iterations = iterations, .residual = residual, .trace = trace};
    struct solver_usage with, without;
    memcpy(c.kind, kinds, sizeof kinds);
    for (int i = 0; i < ROWS * N; i++)
      z[i] = 0.5 * noise(i, 99);
    double guess = residual_at(CONTRACTS, false, 0, z, FP_REL);
    solver_run_f64(&m, &o, 1, z, &(struct fp_result){0}, &without);
    for (int i = 0; i < ROWS * N; i++)
      z[i] = 0.5 * noise(i, 99);
    o.trace = true;
    solver_run_f64(&m, &o, 1, z, &r, &with);
    assert_true(with.device_bytes >= without.device_bytes + 3 * MAX * sizeof(double));
    check_close(trace[0], guess, 1e-12, "the guess's residual is slot 0");
    for (int i = 0; i < 3; i++) {
      assert_true(trace[i * MAX + iterations[i] - 1] == residual[i]);
      for (int k = iterations[i]; k < MAX; k++)
        assert_true(trace[i * MAX + k] == 0);
    }
  }
}

static void workspace_can_be_used_again(void **state)
{
  (void)state;
  for (int solver = 0; solver < FP_AUTO; solver++) {
    struct rows c = {{CONTRACTS, SLOWLY, CONTRACTS}, {0}, solver == FP_GMRES};
    struct solver_map m = {.rows = 3, .length = 1, .n = N, .ctx = &c, .block = row_map};
    double once[3 * N] = {0}, twice[3 * N] = {0};
    struct fp_options o = solver_options((enum fp_solver)solver, 60, 1e-9);
    struct fp_result r = {0};
    solver_run_f64(&m, &o, 1, once, &r, NULL);
    solver_run_f64(&m, &o, 2, twice, &r, NULL);
    assert_memory_equal(once, twice, sizeof once);
  }
}

/* One long row is split into tiles: as many threads as there are give the same bits. */
enum { LARGE = 40000 };
static void large_map(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz)
{
  (void)ctx, (void)row, (void)t, (void)s;
  for (int64_t j = 0; j < LARGE; j++)
    fz[j] = 0.9 * sin(z[(j + 7) % LARGE]) + 0.5 * noise(j, 6);
}

static void threads_do_not_matter(void **state)
{
  (void)state;
  static double one[LARGE], three[LARGE];
  struct solver_map m = {.rows = 1, .length = 1, .n = LARGE, .block = large_map};
  for (int solver = 0; solver < FP_AUTO; solver++) {
    struct fp_options o = solver_options((enum fp_solver)solver, 12, 1e-9);
    struct fp_result r = {0}, r3 = {0};
    memset(one, 0, sizeof one), memset(three, 0, sizeof three);
    omp_set_num_threads(1);
    solver_run_f32(&m, &o, 1, one, &r, NULL);
    omp_set_num_threads(3);
    solver_run_f32(&m, &o, 1, three, &r3, NULL);
    omp_set_num_threads(2);
    assert_memory_equal(one, three, sizeof one);
    assert_memory_equal(&r.worst_residual, &r3.worst_residual, sizeof r.worst_residual);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(neighbours_do_not_matter),
      cmocka_unit_test(residual_is_that_of_the_answer),
      cmocka_unit_test(best_and_last),
      cmocka_unit_test(stop_norms_min_iter_and_zero),
      cmocka_unit_test(zero_is_a_fixed_point),
      cmocka_unit_test(all_stop_together),
      cmocka_unit_test(evaluations_are_counted),
      cmocka_unit_test(windows_agree),
      cmocka_unit_test(windows_fill_as_asked),
      cmocka_unit_test(damped_blocks_are_waited_for),
      cmocka_unit_test(one_by_one_is_less_work),
      cmocka_unit_test(a_bad_block_leaves),
      cmocka_unit_test(worst_token),
      cmocka_unit_test(float32_floor_is_a_status),
      cmocka_unit_test(patience_ends_a_cycle),
      cmocka_unit_test(patience_waits_for_a_basis),
      cmocka_unit_test(small_numbers_stay_finite),
      cmocka_unit_test(solutions_left_again_count),
      cmocka_unit_test(not_a_number_is_the_worst_residual),
      cmocka_unit_test(traces_hold_every_residual),
      cmocka_unit_test(workspace_can_be_used_again),
      cmocka_unit_test(threads_do_not_matter),
  };
  omp_set_num_threads(2);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
