/* solve_timing.c: see solve_timing.h.  The clock is read before and after every call of f; what is
 * left of a solve's time is the solver's own. */
#include "core/solve_timing.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/network.h"
#include "core/progress.h"
#include "core/weights.h"
#include "core/word_problem.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

struct backend_f32;
struct backend_f64;
#define TIMED(bits)                                                                               \
  MUST_USE enum status map_timed_##bits(                                                          \
      const struct backend_##bits *, const struct solver_port_##bits *, const struct timed_map *, \
      const double *, struct solve_timing *, double *);                                           \
  MUST_USE enum status model_timed_##bits(const struct config *, const struct backend_##bits *,   \
                                          const struct solver_port_##bits *, const char *,        \
                                          struct solve_timing *, int64_t);
TIMED(f32)
TIMED(f64)
#undef TIMED

/* The caller's port between the solvers and f: as theirs, but on the clock. */
struct timed_problem {
  const struct fp_problem *real;
  double seconds; /* in f */
};

static enum status timed_f(void *ctx, const struct fp_active *a, const DEVICE real *z,
                           DEVICE real *fz)
{
  struct timed_problem *p = ctx;
  double began = monotonic_seconds();
  enum status s = p->real->f(p->real->ctx, a, z, fz);
  p->seconds += monotonic_seconds() - began;
  return s;
}

/* A solve, whatever of; adds the time in f to *map. */
struct repeated_solve {
  void *ctx;
  enum status (*run)(void *ctx, const struct fp_options *o, struct fp_result *r, double *map);
  bool warm; /* it has run before */
};

static enum status repeat(const struct repeated_solve *s, struct solve_timing *t)
{
  CHECK(t->repetitions >= 1 && t->repetitions <= SOLVES_TIMED_MAX);
  for (int i = s->warm ? 0 : -1; i < t->repetitions; i++) {
    double began = monotonic_seconds(), passed = 0, map = 0;
    int64_t solves = 0;
    do {
      memset(&t->result, 0, sizeof t->result);
      TRY(s->run(s->ctx, &t->options, &t->result, &map));
      solves++;
      if (interrupted())
        FAIL(ERR_INTERRUPTED, "interrupted");
      passed = monotonic_seconds() - began;
    } while (i >= 0 && passed < t->seconds);
    if (i >= 0) {
      t->solve[i] = passed / (double)solves;
      t->map[i] = map / (double)solves;
    }
  }
  return OK;
}

/* ---- a plain map ---- */

KERNEL call_map(struct timed_map map, const real *z, real *fz)
{
#if REAL_BITS == 32
  map.f32(map.ctx, map.n, z, fz);
#else
  map.f64(map.ctx, map.n, z, fz);
#endif
}

struct plain_solve {
  const struct backend *be;
  const struct solver_port *solver;
  const struct timed_map *map;
  const real *guess; /* (n) on the host */
  DEVICE real *z;    /* (n) */
  struct scratch scratch;
};

static enum status plain_f(void *ctx, const struct fp_active *a, const DEVICE real *z,
                           DEVICE real *fz)
{
  const struct plain_solve *p = ctx;
  if (a->rows > 0)
    LAUNCH(p->be->st, 1, call_map, *p->map, z, fz);
  return OK;
}

static enum status solve_plain(void *ctx, const struct fp_options *o, struct fp_result *r,
                               double *map)
{
  struct plain_solve *p = ctx;
  struct fp_problem real_problem = {.rows = 1, .length = 1, .n = p->map->n}, problem;
  struct timed_problem timed = {.real = &real_problem};
  real_problem.ctx = p;
  real_problem.f = plain_f;
  problem = real_problem;
  problem.ctx = &timed;
  problem.f = timed_f;
  double began = monotonic_seconds();
  TRY(p->be->upload(p->be->st, (size_t)p->map->n * sizeof *p->guess, p->guess, p->z));
  double guess = monotonic_seconds() - began;
  TRY(p->solver->solve(p->be, &problem, o, p->scratch, p->z, r));
  *map += timed.seconds + guess;
  return OK;
}

static enum status carve_plain(struct plain_solve *p, const struct fp_options *o)
{
  DEVICE real *answer;
  TRY(CARVE(&p->scratch.device, p->map->n, &answer));
  p->z = answer;
  return p->solver->plan(1, 1, p->map->n, o, p->scratch);
}

static enum status time_plain(struct plain_solve *p, struct solve_timing *t)
{
  size_t device = 0, host = 0;
  struct plain_solve measured = *p;
  const struct repeated_solve s = {p, solve_plain, false};
  measured.scratch = (struct scratch){arena_measure(&device), arena_measure(&host)};
  TRY(carve_plain(&measured, &t->options));
  TRY(arena_init(&p->scratch.device, device));
  TRY(arena_init(&p->scratch.host, host));
  TRY(carve_plain(p, &t->options));
  return repeat(&s, t);
}

enum status NAME(map_timed)(const struct backend *be, const struct solver_port *solver,
                            const struct timed_map *map, const double *guess,
                            struct solve_timing *t, double *z)
{
  real *host = malloc((size_t)map->n * sizeof *host);
  struct plain_solve p = {.be = be, .solver = solver, .map = map, .guess = host};
  if (!host)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < map->n; i++)
    host[i] = guess ? (real)guess[i] : 0;
  enum status s = time_plain(&p, t);
  if (s == OK && z)
    s = be->download(be->st, (size_t)map->n * sizeof *host, p.z, host);
  for (int64_t i = 0; s == OK && z && i < map->n; i++)
    z[i] = (double)host[i];
  arena_free(&p.scratch.device);
  arena_free(&p.scratch.host);
  free(host);
  return s;
}

/* ---- a model ---- */

struct model_solve {
  struct network *net;
  const struct parameter_set *p;
  int64_t rows;
};

static enum status solve_model(void *ctx, const struct fp_options *o, struct fp_result *r,
                               double *map)
{
  struct model_solve *p = ctx;
  const struct sequence_model *m = p->net->m;
  *map = (double)NAN;
  m->be->fill(m->be->st, p->rows * p->net->length * m->dims.D, 0, p->net->z[0]);
  return implicit_solve(p->net, p->p, p->rows, o, NULL, r);
}

static enum status time_model(const struct config *c, const struct weights *w,
                              const struct solver_port *solver, const struct word_problem *problem,
                              struct solve_timing *t)
{
  struct deq_config deq = c->deq;
  struct network net;
  size_t items = (size_t)(t->rows * t->length);
  int32_t *tokens = malloc(2 * items * sizeof *tokens);
  if (!tokens)
    FAIL(ERR_MEMORY, "out of memory");
  deq.forward = deq.evaluate = deq.backward = t->options;
  word_problem_batch(problem, (uint64_t)c->seed, STREAM_EVALUATE, 0, 0, t->rows, t->length, tokens,
                     tokens + items);
  enum status s = network_open(&w->m, &deq, solver, t->rows, t->length, false, &net);
  if (s == OK) {
    struct batch b = {.rows = t->rows, .tokens = tokens};
    struct network_result first = {0}; /* what is injected stays for the solves that follow */
    struct model_solve solve = {&net, &w->set[0], t->rows};
    const struct repeated_solve repeated = {&solve, solve_model, true};
    s = network_evaluate(&net, &w->set[0], &t->options, &b, &first);
    if (s == OK)
      s = repeat(&repeated, t);
    network_close(&net);
  }
  free(tokens);
  return s;
}

enum status NAME(model_timed)(const struct config *c, const struct backend *be,
                              const struct solver_port *solver, const char *checkpoint,
                              struct solve_timing *t, int64_t count)
{
  struct word_problem problem;
  struct weights w;
  char path[2 * CONFIG_PATH];
  TRY(path_join(path, sizeof path, checkpoint, "model.safetensors"));
  enum status s = word_problem_init(&c->data, &problem);
  if (s == OK)
    s = weights_open(&c->model, be, 1, &w);
  if (s == OK) {
    struct named_set set = {"", &w.set[0]};
    s = weights_read(&w, path, &set, 1, true);
    for (int64_t i = 0; s == OK && i < count; i++)
      s = time_model(c, &w, solver, &problem, &t[i]);
    weights_close(&w);
  }
  word_problem_free(&problem);
  return s;
}

/* ---- whatever the precision ---- */

#if REAL_BITS == 32
enum status map_timed(const struct runtime *rt, enum dtype dtype, const struct timed_map *map,
                      const double *guess, struct solve_timing *t, double *z)
{
  return dtype == DTYPE_F32 ? map_timed_f32(rt->f32, rt->solver_f32, map, guess, t, z)
                            : map_timed_f64(rt->f64, rt->solver_f64, map, guess, t, z);
}

enum status model_timed(const struct config *c, const struct runtime *rt, const char *checkpoint,
                        struct solve_timing *t, int64_t count)
{
  return c->dtype == DTYPE_F32 ? model_timed_f32(c, rt->f32, rt->solver_f32, checkpoint, t, count)
                               : model_timed_f64(c, rt->f64, rt->solver_f64, checkpoint, t, count);
}
#endif
#endif
