/* bench_solver_cost.c: nanoseconds per unknown and iteration of a method, without the map: an
 * affine map with rates from -0.999 to 0.999, so that no method is done before the last
 * evaluation. */
#include "experiments/bench_solvers.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>

enum { UNKNOWNS = 196608, EVALUATIONS = 50, REPETITIONS = 5, METHODS = 5, PRECISIONS = 2 };

struct cost_method {
  const char *name;
  const char *peer; /* as torchdeq_solvers.py calls it; NULL: not there */
  int64_t memory;   /* or rank */
  enum fp_solver solver;
  bool kinsol;
};
static const struct cost_method methods[METHODS] = {
    {"picard", "picard", 0, FP_PICARD, true},
    {"anderson m=5", "anderson5", 5, FP_ANDERSON, true},
    {"anderson m=10", "anderson10", 10, FP_ANDERSON, true},
    {"broyden rank 20", "broyden20", 20, FP_BROYDEN, false},
    {"gmres 20", NULL, 20, FP_GMRES, false},
};

struct rates {
  float *rate32, *shift32;
  double *rate64, *shift64;
};

static void map_f32(const void *ctx, int64_t n, const float *z, float *fz)
{
  const struct rates *c = ctx;
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; i++)
    fz[i] = c->rate32[i] * z[i] + c->shift32[i];
}

static void map_f64(const void *ctx, int64_t n, const double *z, double *fz)
{
  const struct rates *c = ctx;
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; i++)
    fz[i] = c->rate64[i] * z[i] + c->shift64[i];
}

static bool rates_open(struct rates *c)
{
  c->rate32 = malloc(2 * UNKNOWNS * sizeof *c->rate32);
  c->rate64 = malloc(2 * UNKNOWNS * sizeof *c->rate64);
  if (!c->rate32 || !c->rate64)
    return false;
  c->shift32 = c->rate32 + UNKNOWNS;
  c->shift64 = c->rate64 + UNKNOWNS;
  for (int64_t i = 0; i < UNKNOWNS; i++) {
    c->rate64[i] = 0.999 * (2.0 * (double)i / (UNKNOWNS - 1) - 1);
    c->shift64[i] = sin((double)i);
    c->rate32[i] = (float)c->rate64[i];
    c->shift32[i] = (float)c->shift64[i];
  }
  return true;
}

/* ns per unknown and iteration; NaN: not measured. */
struct cost {
  double ours[METHODS], kinsol[METHODS], torchdeq[METHODS];
};

static struct solve_timing asked(const struct bench_request *q, const struct cost_method *m)
{
  struct solve_timing t = {.repetitions = REPETITIONS, .seconds = q->seconds / REPETITIONS};
  t.options = bench_solver_options(q, m->solver);
  t.options.max_iter = EVALUATIONS;
  t.options.tol = 0;
  t.options.memory = t.options.rank = m->memory;
  return t;
}

static enum status add(struct bench_results *r, const char *who, const struct cost_method *m,
                       enum dtype dtype, struct solve_timing *t, double *cost)
{
  char name[96];
  double ns[REPETITIONS];
  if (t->result.exits[FP_MAX_ITER] != 1)
    FAIL(ERR_NUMERIC, "%s, %s: the solve ended before %d evaluations", who, m->name,
         (int)EVALUATIONS);
  for (int i = 0; i < REPETITIONS; i++)
    ns[i] = 1e9 * (t->solve[i] - t->map[i]) / (double)(t->result.evaluations * UNKNOWNS);
  (void)snprintf(name, sizeof name, "solvers %s%s %s, %d thread%s", who, m->name, dtype_name(dtype),
                 omp_get_max_threads(), omp_get_max_threads() > 1 ? "s" : "");
  TRY(bench_add(r, name, "ns", REPETITIONS, ns, (double)NAN, (double)NAN));
  *cost = ns[REPETITIONS / 2];
  return OK;
}

static enum status measure_torchdeq(const struct bench_request *q, enum dtype dtype,
                                    struct cost *cost)
{
  const char *names[METHODS];
  double answer[METHODS];
  char arguments[128];
  int measures = 0;
  for (int i = 0; i < METHODS; i++)
    if (methods[i].peer)
      names[measures++] = methods[i].peer;
  for (int i = 0; i < METHODS; i++)
    cost->torchdeq[i] = answer[i] = (double)NAN;
  if (q->no_peer)
    return OK;
  (void)snprintf(arguments, sizeof arguments,
                 "cost n=%d evaluations=%d repetitions=%d seconds=%g threads=%d dtype=%s",
                 (int)UNKNOWNS, (int)EVALUATIONS, (int)REPETITIONS, q->seconds,
                 omp_get_max_threads(), dtype_name(dtype));
  TRY(bench_peer("tests/peers/torchdeq_solvers.py", arguments, "ns per unknown and iteration",
                 measures, names, answer));
  for (int i = 0, k = 0; i < METHODS; i++)
    if (methods[i].peer)
      cost->torchdeq[i] = answer[k++];
  return OK;
}

static enum status measure(const struct bench_request *q, const struct rates *rates,
                           enum dtype dtype, struct bench_results *r, struct cost *cost)
{
  const struct timed_map map = {UNKNOWNS, rates, map_f32, map_f64};
  TRY(measure_torchdeq(q, dtype, cost));
  for (int i = 0; i < METHODS; i++) {
    struct solve_timing t = asked(q, &methods[i]);
    TRY(map_timed(q->rt, dtype, &map, NULL, &t, NULL));
    TRY(add(r, "", &methods[i], dtype, &t, &cost->ours[i]));
    cost->kinsol[i] = (double)NAN;
    if (!methods[i].kinsol || dtype != DTYPE_F64 || omp_get_max_threads() > 1 || q->no_peer ||
        !kinsol_is_here())
      continue;
    t = asked(q, &methods[i]);
    TRY(kinsol_timed(&map, NULL, &t));
    TRY(add(r, "KINSOL ", &methods[i], dtype, &t, &cost->kinsol[i]));
  }
  return OK;
}

static void print_peer(double peer, double ours)
{
  if (peer - peer == 0)
    (void)printf(" %.1f (%.1fx) |", peer, peer / ours);
  else
    (void)printf(" |");
}

/* KINSOL has float64 on one thread only, which is what all are compared with. */
static void print(int threads, struct cost cost[][PRECISIONS])
{
  (void)printf("\nns per unknown and iteration, the map excluded, n = %d; in brackets: times ours\n"
               "\n| method | precision | threads | ours | TorchDEQ | KINSOL %s, f64 |\n"
               "| --- | --- | --- | --- | --- | --- |\n",
               (int)UNKNOWNS, kinsol_version());
  for (int k = 0; k < threads; k++)
    for (int p = 0; p < PRECISIONS; p++)
      for (int i = 0; i < METHODS; i++) {
        const struct cost *c = &cost[k][p];
        (void)printf("| %s | %s | %d | %.2f |", methods[i].name, dtype_name((enum dtype)p), k + 1,
                     c->ours[i]);
        print_peer(c->torchdeq[i], c->ours[i]);
        print_peer(k == 0 ? cost[0][DTYPE_F64].kinsol[i] : (double)NAN, c->ours[i]);
        (void)printf("\n");
      }
}

enum status bench_solver_cost(const struct bench_request *q, struct bench_results *r)
{
  struct cost cost[2][PRECISIONS];
  struct rates rates = {0};
  int most = omp_get_max_threads(), threads = most < 2 ? most : 2;
  enum status s = OK;
  if (!rates_open(&rates))
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  for (int k = 0; s == OK && k < threads; k++) {
    omp_set_num_threads(k + 1);
    for (int p = 0; s == OK && p < PRECISIONS; p++)
      s = measure(q, &rates, (enum dtype)p, r, &cost[k][p]);
  }
  omp_set_num_threads(most);
  if (s == OK)
    print(threads, cost);
  free(rates.rate32);
  free(rates.rate64);
  return s;
}
