/* solver_probe.c: see solver_probe.h. */
#include "tests/numeric/solver_probe.h"
#include "core/fixed_point.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS == 64
struct fp_options solver_options(enum fp_solver solver, int64_t max_iter, double tol)
{
  struct fp_options o = {.solver = solver, .max_iter = max_iter, .tol = tol, .damping = 1};
  o.min_iter = 1, o.poll_every = 1, o.admit = 1;
  o.memory = 5, o.rank = 20, o.mix_every = 1;
  return o;
}
#endif

#if REAL_BITS != 128
#define RUN NAME(solver_run)

extern const struct backend NAME(backend_cpu);
extern const struct solver_port NAME(fixed_point_solvers_cpu);

struct chain {
  const struct solver_map *map;
  struct solver_usage *usage;
  double *carried; /* (rows,state) behind what has retired */
  double *behind;  /* (rows,length,state) behind each block of the last f, by packed row */
  double *z, *fz;  /* (n) */
  int64_t *end;    /* (rows) behind the last block that was active */
};

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static void watch_window(struct chain *c, const struct fp_active *a, int64_t r)
{
  struct solver_usage *u = c->usage;
  int64_t *end = c->end + a->row[r], now = a->first[r] + a->count[r];
  assert_true(a->first[r] >= 0 && now <= c->map->length && now >= *end);
  u->most_active = most(u->most_active, a->count[r]);
  u->most_entered = most(u->most_entered, now - *end);
  *end = now;
}

static enum status chain_f(void *ctx, const struct fp_active *a, const real *z, real *fz)
{
  struct chain *c = ctx;
  const struct solver_map *m = c->map;
  double *s = calloc((size_t)m->state + 1, sizeof *s);
  struct solver_usage *u = c->usage;
  u->calls++;
  u->most_rows = most(u->most_rows, a->rows);
  u->least_rows = u->least_rows ? -most(-u->least_rows, -a->rows) : a->rows;
  for (int64_t r = 0; r < a->rows; r++) {
    int64_t row = a->row[r];
    assert_true(row >= 0 && row < m->rows && (!m->fixed_rows || row == r));
    watch_window(c, a, r);
    memcpy(s, c->carried + row * m->state, (size_t)m->state * sizeof *s);
    for (int64_t b = 0; b < a->blocks; b++) {
      int64_t at = (r * a->blocks + b) * m->n;
      for (int64_t j = 0; j < m->n; j++)
        c->z[j] = (double)z[at + j];
      if (b < a->count[r]) {
        m->block(m->ctx, row, a->first[r] + b, c->z, s, c->fz);
        u->blocks++;
      }
      for (int64_t j = 0; j < m->n; j++) /* what is written into padding is ignored */
        fz[at + j] = b < a->count[r] ? (real)c->fz[j] : (real)NAN;
      memcpy(c->behind + (r * m->length + b) * m->state, s, (size_t)m->state * sizeof *s);
    }
  }
  free(s);
  return OK;
}

static enum status chain_retire(void *ctx, const struct fp_active *a, const int32_t *count)
{
  struct chain *c = ctx;
  const struct solver_map *m = c->map;
  for (int64_t r = 0; r < a->rows; r++) {
    assert_true(count[r] >= 0 && count[r] <= a->count[r]);
    if (count[r] > 0)
      memcpy(c->carried + a->row[r] * m->state,
             c->behind + (r * m->length + count[r] - 1) * m->state,
             (size_t)m->state * sizeof(double));
  }
  return OK;
}

/* What is asked of the inverse that the solve leaves behind. */
struct transposed {
  double limit;
  const double *g;
  double *out;
  int64_t fallen;
};

static void transpose(const struct fp_problem *p, struct transposed *t)
{
  size_t total = (size_t)(p->rows * p->length * p->n);
  real *g = calloc(total, sizeof *g), *out = calloc(total, sizeof *out);
  for (size_t i = 0; i < total; i++)
    g[i] = (real)t->g[i];
  check_ok(NAME(fixed_point_solvers_cpu)
               .transpose(&NAME(backend_cpu), p->inverse, t->limit, g, out, &t->fallen));
  for (size_t i = 0; i < total; i++)
    t->out[i] = (double)out[i];
  free(g), free(out);
}

static void run(const struct solver_map *map, const struct fp_options *o, int times, double *z,
                struct fp_result *result, struct solver_usage *usage, struct transposed *t)
{
  const struct solver_port *port = &NAME(fixed_point_solvers_cpu);
  struct solver_usage local;
  struct chain c = {.map = map, .usage = usage ? usage : &local};
  struct fp_inverse inverse;
  struct fp_problem p = {.rows = map->rows, .length = map->length, .n = map->n};
  p.inverse = t ? &inverse : NULL;
  size_t total = (size_t)(map->rows * map->length * map->n), device, host;
  struct scratch scratch = {arena_measure(&device), arena_measure(&host)};
  check_ok(port->plan(p.rows, p.length, p.n, o, scratch));
  check_ok(arena_init(&scratch.device, device));
  check_ok(arena_init(&scratch.host, host));
  memset(scratch.device.base, 0xff, device);
  memset(scratch.host.base, 0xff, host);
  memset(c.usage, 0, sizeof *c.usage);
  c.usage->device_bytes = device, c.usage->host_bytes = host;
  size_t states = (size_t)(map->rows * map->state);
  c.carried = calloc(states + 1, sizeof(double));
  c.behind = calloc(states * (size_t)map->length + 1, sizeof(double));
  c.z = calloc((size_t)map->n, sizeof(double));
  c.fz = calloc((size_t)map->n, sizeof(double));
  c.end = calloc((size_t)map->rows, sizeof *c.end);
  real *at = malloc(total * sizeof *at);
  p.fixed_rows = map->fixed_rows, p.lengths = map->lengths, p.ctx = &c;
  p.f = chain_f, p.retire = chain_retire;
  for (int k = 0; k < times; k++) {
    for (size_t i = 0; i < total; i++)
      at[i] = (real)z[i];
    memset(c.carried, 0, states * sizeof(double));
    memset(c.end, 0, (size_t)map->rows * sizeof *c.end);
    check_ok(port->solve(&NAME(backend_cpu), &p, o, scratch, at, result));
  }
  for (size_t i = 0; i < total; i++)
    z[i] = (double)at[i];
  if (t)
    transpose(&p, t);
  arena_free(&scratch.device), arena_free(&scratch.host);
  free(c.carried), free(c.behind), free(c.z), free(c.fz), free(c.end), free(at);
}

void RUN(const struct solver_map *map, const struct fp_options *o, int times, double *z,
         struct fp_result *result, struct solver_usage *usage)
{
  run(map, o, times, z, result, usage, NULL);
}

int64_t NAME(solver_transpose)(const struct solver_map *map, const struct fp_options *o,
                               double limit, double *z, const double *g, double *out,
                               struct fp_result *result)
{
  struct transposed t = {limit, g, out, 0};
  run(map, o, 1, z, result, NULL, &t);
  return t.fallen;
}
#endif
