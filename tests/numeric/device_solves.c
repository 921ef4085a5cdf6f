/* device_solves.c: see device_solves.h.  The map is z -> W z + b, rows of b each smaller than the
 * one before: by an absolute tolerance those leave first. */
#include "tests/numeric/device_solves.h"
#include "core/fixed_point.h"
#include "tests/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

enum { ROWS = 6, LENGTH = 5, N = 9, UNKNOWNS = ROWS * LENGTH * N, CALLS = 400 };

struct linear_map {
  const struct backend *be;
  DEVICE real *W, *b; /* (N,N); (ROWS,LENGTH,N) */
  bool looks;
  int calls;
  int64_t rows[CALLS]; /* of each call */
};

static struct fp_options options_of(int solve)
{
  static const enum fp_solver solvers[] = {FP_PICARD, FP_ANDERSON, FP_BROYDEN, FP_GMRES};
  struct fp_options o = {.solver = solvers[solve % 4], .max_iter = 60, .min_iter = 1, .damping = 1};
  o.window = solve < 4 ? FP_WINDOW_ALL : 2, o.admit = 1, o.poll_every = solve % 3 + 1;
  o.stop = FP_ABS, o.tol = REAL_BITS == 64 ? 1e-9 : 1e-4;
  o.memory = 3, o.rank = 4, o.mix_every = 1, o.safeguard = 2;
  o.limit = solve < 4 ? FP_REDUCE : FP_RESTART;
  return o;
}

#if REAL_BITS == 64
const char *device_solve_name(int solve)
{
  static char name[64];
  struct fp_options o = options_of(solve);
  (void)snprintf(name, sizeof name, "%s, window %d", fp_solver_name(o.solver), (int)o.window);
  return name;
}
#endif

static enum status linear_f(void *ctx, const struct fp_active *a, const DEVICE real *z,
                            DEVICE real *fz)
{
  struct linear_map *m = ctx;
  const struct backend *be = m->be;
  int32_t first;
  assert_true(m->calls < CALLS);
  m->rows[m->calls++] = a->rows;
  if (m->looks)
    TRY(be->download(be->st, sizeof first, a->first, &first));
  be->gather_blocks(be->st, a->rows, a->blocks, N, LENGTH, a->row, a->first, a->count, m->b, fz);
  be->linear_fwd(be->st, a->rows * a->blocks, N, N, z, m->W, NULL, NULL, 1, NULL, fz);
  return OK;
}

static void *device_array(const struct backend *be, size_t bytes, const void *from)
{
  void *p;
  check_ok(be->memory_alloc(bytes, &p));
  check_ok(be->upload(be->st, bytes, from, p));
  return p;
}

static void open_map(const struct backend *be, struct linear_map *m)
{
  real W[N * N], b[UNKNOWNS];
  for (int i = 0; i < N * N; i++) /* diagonal, more or less */
    W[i] = (real)(0.12 * sin(1 + 12.9898 * i) + (i % (N + 1) == 0 ? 0.6 : 0));
  for (int i = 0; i < UNKNOWNS; i++)
    b[i] = (real)(cos(1 + 78.233 * i) * pow(0.01, i / (LENGTH * N)));
  memset(m, 0, sizeof *m);
  m->be = be;
  m->W = device_array(be, sizeof W, W);
  m->b = device_array(be, sizeof b, b);
}

struct solved {
  real z[UNKNOWNS];
  int32_t iterations[ROWS * LENGTH];
  double residual[ROWS * LENGTH];
  uint8_t exit[ROWS * LENGTH];
  int64_t evaluations, counters[FP_COUNTERS];
};

/* From 0, on memory of NaN. */
static void solve_map(const struct solver_port *port, struct linear_map *m,
                      const struct fp_options *o, struct solved *s)
{
  const struct backend *be = m->be;
  struct fp_problem p = {.rows = ROWS, .length = LENGTH, .n = N, .capturable = true};
  struct fp_result r = {.iterations = s->iterations, .residual = s->residual, .exit = s->exit};
  size_t device, host;
  struct scratch scratch = {arena_measure(&device), arena_measure(&host)};
  p.ctx = m, p.f = linear_f;
  m->calls = 0;
  memset(s, 0, sizeof *s);
  check_ok(port->plan(ROWS, LENGTH, N, o, scratch));
  void *nan = malloc(device);
  assert_non_null(nan);
  memset(nan, 0xff, device);
  void *block = device_array(be, device, nan), *z = device_array(be, sizeof s->z, s->z);
  free(nan);
  scratch.device = arena_over(block, device);
  check_ok(arena_init(&scratch.host, host));
  check_ok(port->solve(be, &p, o, scratch, z, &r));
  check_ok(be->download(be->st, sizeof s->z, z, s->z));
  s->evaluations = r.evaluations;
  memcpy(s->counters, r.counters, sizeof s->counters);
  be->memory_free(block), be->memory_free(z);
  arena_free(&scratch.host);
}

/* Of as many iterations on the same rows the first is not captured, and all others replayed;
 * captured are the next, and of Picard's method, whose arrays change places, the next three. */
static void count_runs(const struct linear_map *m, enum fp_solver solver, struct solve_calls *c)
{
  int arrangements = solver == FP_PICARD ? 3 : 1;
  for (int i = 0, end; i < m->calls; i = end) {
    for (end = i; end < m->calls && m->rows[end] == m->rows[i]; end++)
      continue;
    c->captured += end - i - 1 < arrangements ? end - i - 1 : arrangements;
    c->replayed += end - i - 1;
  }
}

struct solve_calls NAME(device_solve)(const void *device, const void *solver, int solve, bool looks)
{
  struct backend plain = *(const struct backend *)device;
  struct fp_options o = options_of(solve);
  struct solve_calls c = {0};
  struct linear_map m;
  struct solved with, without;
  open_map(device, &m);
  m.looks = looks;
  solve_map(solver, &m, &o, &with);
  c.calls = m.calls;
  plain.capture_begin = NULL;
  m.be = &plain;
  solve_map(solver, &m, &o, &without);
  assert_int_equal(m.calls, without.evaluations);
  assert_int_equal(m.rows[0], ROWS);
  assert_true(m.rows[m.calls - 1] < ROWS); /* rows have left */
  assert_memory_equal(&with, &without, sizeof with);
  count_runs(&m, o.solver, &c);
  plain.memory_free(m.W), plain.memory_free(m.b);
  return c;
}
#endif
