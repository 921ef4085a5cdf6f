/* bench_solver_cost.c: nanoseconds per unknown and iteration of a method, without the map: an
 * affine map with rates from -0.999 to 0.999, so that no method is done before the last
 * evaluation.  Peers and we take turns, and a ratio is that of a turn: the vectors fit no cache,
 * and other work on the machine takes its bandwidth for seconds at a time. */
#include "experiments/bench_solvers.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWNS = 196608, EVALUATIONS = 50, TURNS = 5, METHODS = 5, PRECISIONS = 2 };

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

/* ns per unknown and iteration, by turns; NaN: not measured. */
struct cost {
  double ours[METHODS][TURNS], kinsol[METHODS][TURNS], torchdeq[METHODS][TURNS];
};

static struct solve_timing asked(const struct bench_request *q, const struct cost_method *m)
{
  struct solve_timing t = {.repetitions = 1, .seconds = q->seconds / TURNS};
  t.options = bench_solver_options(q, m->solver);
  t.options.max_iter = EVALUATIONS;
  t.options.tol = 0;
  t.options.memory = t.options.rank = m->memory;
  return t;
}

static enum status cost_of(const struct cost_method *m, const struct solve_timing *t, double *ns)
{
  if (t->result.exits[FP_MAX_ITER] != 1)
    FAIL(ERR_NUMERIC, "%s: the solve ended before %d evaluations", m->name, (int)EVALUATIONS);
  *ns = 1e9 * (t->solve[0] - t->map[0]) / (double)(t->result.evaluations * UNKNOWNS);
  return OK;
}

static enum status measure_torchdeq(const struct bench_request *q, enum dtype dtype, int turn,
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
    cost->torchdeq[i][turn] = answer[i] = (double)NAN;
  if (q->no_peer || (turn > 0 && cost->torchdeq[0][0] != cost->torchdeq[0][0]))
    return OK;
  (void)snprintf(arguments, sizeof arguments,
                 "cost n=%d evaluations=%d repetitions=1 seconds=%g threads=%d dtype=%s",
                 (int)UNKNOWNS, (int)EVALUATIONS, q->seconds / TURNS, omp_get_max_threads(),
                 dtype_name(dtype));
  TRY(bench_peer("tests/peers/torchdeq_solvers.py", arguments,
                 turn == 0 ? "ns per unknown and iteration" : NULL, measures, names, answer));
  for (int i = 0, k = 0; i < METHODS; i++)
    if (methods[i].peer)
      cost->torchdeq[i][turn] = answer[k++];
  return OK;
}

static enum status take_turn(const struct bench_request *q, const struct rates *rates,
                             enum dtype dtype, int turn, struct cost *cost)
{
  const struct timed_map map = {UNKNOWNS, rates, map_f32, map_f64};
  bool kinsol = dtype == DTYPE_F64 && omp_get_max_threads() == 1 && !q->no_peer && kinsol_is_here();
  TRY(measure_torchdeq(q, dtype, turn, cost));
  for (int i = 0; i < METHODS; i++) {
    struct solve_timing t = asked(q, &methods[i]);
    TRY(map_timed(q->rt, dtype, &map, NULL, &t, NULL));
    TRY(cost_of(&methods[i], &t, &cost->ours[i][turn]));
    cost->kinsol[i][turn] = (double)NAN;
    if (!methods[i].kinsol || !kinsol)
      continue;
    t = asked(q, &methods[i]);
    TRY(kinsol_timed(&map, NULL, &t));
    TRY(cost_of(&methods[i], &t, &cost->kinsol[i][turn]));
  }
  return OK;
}

static enum status add(struct bench_results *r, const char *who, const char *method,
                       enum dtype dtype, const double *cost)
{
  char name[96];
  double ns[TURNS];
  if (cost[0] != cost[0])
    return OK;
  memcpy(ns, cost, sizeof ns);
  (void)snprintf(name, sizeof name, "solvers %s%s %s, %d thread%s", who, method, dtype_name(dtype),
                 omp_get_max_threads(), omp_get_max_threads() > 1 ? "s" : "");
  return bench_add(r, name, "ns", TURNS, ns, (double)NAN, (double)NAN);
}

static enum status measure(const struct bench_request *q, const struct rates *rates,
                           enum dtype dtype, struct bench_results *r, struct cost *cost)
{
  for (int turn = 0; turn < TURNS; turn++)
    TRY(take_turn(q, rates, dtype, turn, cost));
  for (int i = 0; i < METHODS; i++) {
    TRY(add(r, "", methods[i].name, dtype, cost->ours[i]));
    TRY(add(r, "TorchDEQ ", methods[i].name, dtype, cost->torchdeq[i]));
    TRY(add(r, "KINSOL ", methods[i].name, dtype, cost->kinsol[i]));
  }
  return OK;
}

/* The medians of the peer's times and of its ratios to ours, turn by turn. */
static void print_peer(const double *peer, const double *ours)
{
  double time[TURNS], ratio[TURNS];
  for (int i = 0; i < TURNS; i++)
    time[i] = peer[i], ratio[i] = peer[i] / ours[i];
  if (time[0] == time[0])
    (void)printf(" %.1f (%.1fx) |", bench_median(TURNS, time), bench_median(TURNS, ratio));
  else
    (void)printf(" |");
}

/* KINSOL has float64 on one thread only, which is what all are compared with. */
static void print(int threads, struct cost cost[][PRECISIONS])
{
  (void)printf("\nns per unknown and iteration, the map excluded, n = %d; in brackets: times ours; "
               "medians of %d turns\n"
               "\n| method | precision | threads | ours | TorchDEQ | KINSOL %s, f64 |\n"
               "| --- | --- | --- | --- | --- | --- |\n",
               (int)UNKNOWNS, (int)TURNS, kinsol_version());
  for (int k = 0; k < threads; k++)
    for (int p = 0; p < PRECISIONS; p++)
      for (int i = 0; i < METHODS; i++) {
        const struct cost *c = &cost[k][p];
        double ours[TURNS];
        memcpy(ours, c->ours[i], sizeof ours);
        (void)printf("| %s | %s | %d | %.2f |", methods[i].name, dtype_name((enum dtype)p), k + 1,
                     bench_median(TURNS, ours));
        print_peer(c->torchdeq[i], c->ours[i]);
        print_peer(k == 0 ? cost[0][DTYPE_F64].kinsol[i] : c->kinsol[i], c->ours[i]);
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
