/* bench_train.c: training speed by phase, in turns with a PyTorch peer's, and where a step's time
 * goes. */
#include "core/profile.h"
#include "core/tensors.h"
#include "experiments/bench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REPETITIONS = 5, PHASES = 2, NAME_SIZE = 96 };
static const char *const phase_name[PHASES] = {"unroll", "phantom"};

/* A phase as it is measured: without a test of the residual, so that every step has the same work:
 * `min_iter` evaluations of f, then the trajectory. */
static struct config of_phase(const struct config *base, int phase)
{
  struct config c = *base;
  c.train.unroll_steps = phase == 0 ? INT64_MAX : 0;
  c.train.evaluate_every = 0;
  c.train.schedule = SCHEDULE_CONSTANT;
  c.deq.gradient = phase == 0 ? GRADIENT_UNROLL : GRADIENT_PHANTOM;
  c.deq.forward.min_iter = c.deq.forward.max_iter;
  c.deq.forward.tol = 1e30;
  return c;
}

/* ---- by operation ---- */

struct share {
  int operation;
  double seconds;
};

static int longest_first(const void *a, const void *b)
{
  double x = ((const struct share *)a)->seconds, y = ((const struct share *)b)->seconds;
  return (x < y) - (x > y);
}

/* Whether an operation is a product with a weight, with what is fused with it (1 of 100 of its
 * FLOPs in a model of D = 512). */
static bool multiplies_by_weights(int operation)
{
  return operation == PROFILE_linear_fwd || operation == PROFILE_linear_vjp ||
         operation == PROFILE_gated_linear_fwd || operation == PROFILE_gated_linear_vjp ||
         operation == PROFILE_linear_conv_fwd;
}

static void print_share(const char *what, double flops, double seconds,
                        const struct bench_limits *limits)
{
  (void)printf("  %s: %.1f GFLOP/s, %.1f%% of the sgemm limit\n", what, flops / seconds * 1e-9,
               100 * flops / seconds / limits->flops_per_second);
}

static void print_profile(const struct profile *p, const struct train_timing *t,
                          const struct bench_limits *limits)
{
  struct share share[PROFILE_OPERATIONS];
  double all = 0, flops = 0, linear = 0, steps = (double)t->steps;
  for (int i = 0; i < PROFILE_OPERATIONS; i++) {
    share[i] = (struct share){i, p->row[i].seconds};
    all += p->row[i].seconds;
    flops += p->row[i].flops;
    if (multiplies_by_weights(i))
      linear += p->row[i].flops;
  }
  qsort(share, PROFILE_OPERATIONS, sizeof *share, longest_first);
  (void)printf("  %-18s %10s %9s %8s %6s %8s %8s %7s %8s\n", "operation", "calls/step", "us/call",
               "ms/step", "share", "GFLOP/s", "of gemm", "GB/s", "of copy");
  for (int i = 0; i < PROFILE_OPERATIONS && share[i].seconds > 0; i++) {
    const struct profile_row *r = &p->row[share[i].operation];
    double speed = r->flops / r->seconds, traffic = r->bytes / r->seconds;
    (void)printf("  %-18s %10.1f %9.1f %8.3f %5.1f%% %8.1f %7.1f%% %7.1f %7.1f%%\n",
                 profile_name(share[i].operation), (double)r->calls / steps,
                 r->seconds / (double)r->calls * 1e6, r->seconds / steps * 1e3,
                 100 * r->seconds / t->total_seconds, speed * 1e-9,
                 100 * speed / limits->flops_per_second, traffic * 1e-9,
                 100 * traffic / limits->bytes_per_second);
  }
  (void)printf("  %-18s %10s %9s %8.3f %5.1f%%\n", "outside operations", "", "",
               (t->total_seconds - all) / steps * 1e3, 100 * (1 - all / t->total_seconds));
  print_share("the step", flops, t->total_seconds, limits);
  print_share("the step, its products with the weights alone", linear, t->total_seconds, limits);
}

/* ---- the peer ---- */

/* What the peer is told; false for what it does not do. */
static bool peer_command(const struct config *c, char *out, size_t size)
{
  struct model_dims d = model_dims(&c->model);
  char model[512];
  if (!bench_peer_model(c, model, sizeof model) || c->train.accumulate != 1 || c->data.length_min ||
      c->train.curriculum_steps || c->deq.forward.solver != FP_PICARD ||
      c->deq.forward.window != FP_WINDOW_ALL ||
      c->data.length % (c->data.length < d.chunk ? c->data.length : d.chunk))
    return false;
  int n =
      snprintf(out, size,
               "%s B=%lld T=%lld chunk=%lld dropout=%g lr=%g beta1=%g beta2=%g decay=%g "
               "clip=%g unroll_iterations=%lld unroll_damping=%g max_iter=%lld forward_damping=%g "
               "phantom_steps=%lld phantom_damping=%g",
               model, (long long)c->train.batch_size, (long long)c->data.length, (long long)d.chunk,
               c->model.dropout, c->train.lr, c->train.betas[0], c->train.betas[1],
               c->train.weight_decay, c->train.clip, (long long)c->deq.unroll_iterations,
               c->deq.unroll_damping, (long long)c->deq.forward.max_iter, c->deq.forward.damping,
               (long long)c->deq.phantom_steps, c->deq.phantom_damping);
  return n > 0 && (size_t)n < size;
}

/* ---- bench train ---- */

/* Turns taken by the peer and by us, so that both meet the same other work of a machine; a GPU has
 * none, and a peer that is compiled takes long to begin: there one turn has all repetitions. */
struct turns {
  bool with_peer;
  int repetitions;                   /* of a turn */
  char arguments[1024];              /* of the peer */
  double ours[PHASES][REPETITIONS];  /* tokens/s */
  double peer[PHASES][REPETITIONS];  /* NaN: there is none */
  double ratio[PHASES][REPETITIONS]; /* of a turn */
};

static void prepare_peer(const struct bench_request *q, const struct config *c, struct turns *t)
{
  bool gpu = bench_on_gpu(q);
  t->repetitions = gpu ? REPETITIONS : 1;
  t->with_peer = !q->no_peer;
  if (t->with_peer && !peer_command(c, t->arguments, sizeof t->arguments)) {
    (void)printf("peer: skipped, %s\n", bench_peer_lacks());
    t->with_peer = false;
  }
  size_t n = strlen(t->arguments);
  (void)snprintf(t->arguments + n, sizeof t->arguments - n, " seconds=%g repetitions=%d%s%s",
                 q->seconds, t->repetitions, gpu ? " device=cuda compile=1 matmul=" : "",
                 gpu ? matmul_name(c->matmul) : "");
}

static enum status take_turn(const struct bench_request *q, const struct config *c, int turn,
                             struct turns *t)
{
  double peer[PHASES] = {(double)NAN, (double)NAN};
  if (t->with_peer)
    TRY(bench_peer("tests/peers/torch_train.py", t->arguments, "tokens/s", PHASES, phase_name,
                   peer));
  t->with_peer = t->with_peer && peer[0] == peer[0];
  for (int phase = 0; phase < PHASES; phase++) {
    struct config of = of_phase(c, phase);
    struct train_timing timing = {.repetitions = t->repetitions, .seconds = q->seconds};
    TRY(train_timed(&of, q->rt, &timing));
    for (int i = 0; i < t->repetitions; i++) {
      double ours = timing.tokens_per_second[i];
      t->ours[phase][turn + i] = ours;
      t->peer[phase][turn + i] = peer[phase];
      t->ratio[phase][turn + i] = ours / peer[phase];
    }
  }
  return OK;
}

static enum status report(const struct config *c, int phase, struct turns *t,
                          struct bench_results *r)
{
  char name[NAME_SIZE];
  double peer = bench_median(REPETITIONS, t->peer[phase]);
  (void)snprintf(name, sizeof name, "train %.60s %s", c->name, phase_name[phase]);
  TRY(bench_add(r, name, "tokens/s", REPETITIONS, t->ours[phase], (double)NAN, peer));
  if (!t->with_peer)
    return OK;
  (void)snprintf(name, sizeof name, "train %.60s %s over PyTorch", c->name, phase_name[phase]);
  return bench_add(r, name, "times", REPETITIONS, t->ratio[phase], (double)NAN, (double)NAN);
}

static enum status profile_phase(const struct bench_request *q, const struct config *base,
                                 int phase)
{
  struct profile profile;
  struct config c = of_phase(base, phase);
  struct train_timing t = {.repetitions = REPETITIONS, .seconds = q->seconds, .profile = &profile};
  TRY(train_timed(&c, q->rt, &t));
  struct bench_limits limits = q->limits, after;
  struct bench_results again = {0}; /* printed, not recorded: the names are taken */
  (void)printf("%s by operation\n", phase_name[phase]);
  enum status s = bench_measure_limits(q, &again, &after);
  free(again.result);
  TRY(s);
  double change = after.flops_per_second / limits.flops_per_second;
  if (change > 1.2 || change < 1 / 1.2)
    (void)printf("  DISTURBED: sgemm reached %.0f GFLOP/s before and %.0f after; other work took "
                 "processors, measure again\n",
                 limits.flops_per_second * 1e-9, after.flops_per_second * 1e-9);
  if (change > 1)
    limits = after;
  (void)printf("  solver iterations of a step: %.1f\n", t.iterations);
  print_profile(&profile, &t, &limits);
  return OK;
}

enum status bench_train(const struct bench_request *q, struct bench_results *r)
{
  struct config c = *q->config;
  struct turns t = {0};
  TRY(config_resolve(&c));
  if (c.model.kind != MODEL_IMPLICIT)
    FAIL(ERR_USAGE, "bench train measures implicit models; %s is explicit", c.name);
  prepare_peer(q, &c, &t);
  for (int turn = 0; turn < REPETITIONS; turn += t.repetitions)
    TRY(take_turn(q, &c, turn, &t));
  for (int phase = 0; phase < PHASES; phase++)
    TRY(report(&c, phase, &t, r));
  for (int phase = 0; phase < PHASES && q->profile; phase++)
    TRY(profile_phase(q, &c, phase));
  return OK;
}

/* ---- bench kernels ---- */

/* Microseconds that a call takes at least: the longer of its traffic's and its arithmetic's times.
 */
static double ideal_of(const struct bench_request *q, const struct profile_row *row)
{
  double arithmetic = row->flops / q->limits.flops_per_second;
  double traffic = row->bytes / q->limits.bytes_per_second;
  double least = (arithmetic > traffic ? arithmetic : traffic) / (double)row->calls * 1e6;
  return least > 0 ? least : (double)NAN;
}

enum status bench_kernels(const struct bench_request *q, struct bench_results *r)
{
  struct config c = of_phase(q->config, 1);
  double call[PROFILE_OPERATIONS][REPETITIONS];
  struct profile p;
  TRY(config_resolve(&c));
  if (c.model.kind != MODEL_IMPLICIT)
    FAIL(ERR_USAGE, "bench kernels measures implicit models; %s is explicit", c.name);
  for (int i = 0; i < REPETITIONS; i++) {
    struct train_timing t = {.repetitions = 1, .seconds = q->seconds, .profile = &p};
    TRY(train_timed(&c, q->rt, &t));
    for (int k = 0; k < PROFILE_OPERATIONS; k++)
      call[k][i] = p.row[k].calls ? p.row[k].seconds / (double)p.row[k].calls * 1e6 : 0;
  }
  for (int k = 0; k < PROFILE_OPERATIONS; k++) {
    char name[NAME_SIZE];
    if (!p.row[k].calls)
      continue;
    (void)snprintf(name, sizeof name, "kernels %.40s %s", c.name, profile_name(k));
    TRY(bench_add(r, name, "us/call", REPETITIONS, call[k], ideal_of(q, &p.row[k]), (double)NAN));
  }
  return OK;
}
