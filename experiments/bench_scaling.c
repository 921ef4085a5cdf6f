/* bench_scaling.c: how time and memory of a training step grow with length, layers and iterations.
 */
#include "core/parallel.h"
#include "core/profile.h"
#include "core/tensors.h"
#include "experiments/bench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REPETITIONS = 5, TOKENS = 16384, LENGTH = 256, SHAPES = 5 };
#define WITHIN 1.15 /* cost a token, of that at the shortest length */

/* The shards of a batch, and the sequences that are worked on `together`. */
static int64_t shards_of(const struct config *c, double copy, int64_t *together)
{
  int64_t B = c->train.batch_size, L = c->data.length, most = (int64_t)(268435456 / copy);
  *together = L < 64 ? 64 / L : 1;
  *together = *together > 32 ? 32 : *together;
  int64_t parts = (B + *together - 1) / *together;
  bool one = c->deq.forward.stop_together || c->deq.backward.stop_together;
  if (parts >= 2 && most >= 2 && !(one && c->model.kind == MODEL_IMPLICIT))
    return parts < 16 && parts < most ? parts : most < 16 ? most : 16;
  *together = B;
  return 1;
}

double bench_memory_formula(const struct config *c)
{
  struct model_dims d = model_dims(&c->model);
  struct tensor_list list;
  double w = c->dtype == DTYPE_F32 ? 4 : 8;
  double k = (double)(c->deq.unroll_iterations > c->deq.phantom_steps ? c->deq.unroll_iterations
                                                                      : c->deq.phantom_steps);
  double L = (double)c->data.length, M = L * (double)c->train.batch_size;
  double D = (double)d.D, E = (double)d.E, H = (double)d.H, N = (double)d.N, G = (double)d.G;
  double V = (double)d.V, W = (double)d.W, layers = (double)d.layers;
  double Q = L <= 4 * N || L < (double)d.chunk ? L : (double)d.chunk, t = 64 * ceil(Q / 64);
  double kept = L <= 4 * N ? 0 : E * N / Q; /* states between chunks */
  if (tensor_list_make(&c->model, &list) != OK)
    return (double)NAN;
  double block = (double)list.block;
  tensor_list_free(&list);
  double token = (k + 9) * D + 2 * V + 4 * E + 4 * G * N + 2 * H +
                 k * layers * (2 * D + 5 * E + 4 * G * N + 2 * H + kept);
  double scratch =
      3 * D + 5 * E + 4 * G * N + 10 * H + 2 * G * Q + (E * N + 2 * E * t + 128 * G * E / H) / Q;
  double sequence = layers * (W * (E + 2 * G * N) + E * N);
  int64_t together, shards = shards_of(c, w * block, &together);
  /* one of transposes; one that has segments has sums of its own, of 512 tokens or more each */
  double copies = shards > 1 ? (double)shards : together == 1 ? fmin(floor(L / 512), 4) - 1 : 0;
  double parameters = (5 + fmax(copies, 0)) * block;
  double T = (double)(parallel_workers(shards) * together) * L;
  double two = 2 * (double)d.chunk * ceil(256 / (double)d.chunk), whole = two > 4 * N ? two : 4 * N;
  double R = together == 1 && whole < L ? whole : L; /* segments of a sequence share scratch */
  return w * (parameters + T * token + T / L * (R * scratch + sequence)) + 90 * T + 21 * M;
}

/* What is varied, and the shapes that come of it. */
struct series {
  const char *what;
  int count;
  int64_t value[SHAPES];
  struct config *c; /* (SHAPES) */
  double us[SHAPES][REPETITIONS];
};

/* Microseconds a token.  Shape after shape, then again: what disturbs one disturbs all. */
static enum status measure_times(const struct bench_request *q, struct series *s)
{
  for (int k = 0; k < REPETITIONS; k++)
    for (int i = 0; i < s->count; i++) {
      struct train_timing t = {.repetitions = 1, .seconds = q->seconds};
      TRY(train_timed(&s->c[i], q->rt, &t));
      s->us[i][k] = 1e6 / t.tokens_per_second[0];
    }
  return OK;
}

static enum status report_memory(const struct bench_request *q, const struct config *c,
                                 const char *name, struct bench_results *r)
{
  struct train_memory m;
  TRY(train_memory(c, q->rt, &m));
  double mib = (double)(m.parameters + m.learner + m.batches) / 1048576;
  TRY(bench_add(r, name, "MiB", 1, &mib, (double)NAN, (double)NAN));
  (void)printf("  README's formula: %.4f of that\n", bench_memory_formula(c) / 1048576 / mib);
  return OK;
}

/* Times the cost at the first shape, turn by turn: the machine's speed changes between turns. */
static enum status report_ratio(const struct series *s, int i, const char *name,
                                struct bench_results *r)
{
  char over[128];
  double ratio[REPETITIONS];
  for (int k = 0; k < REPETITIONS; k++)
    ratio[k] = s->us[i][k] / s->us[0][k];
  (void)snprintf(over, sizeof over, "%s over %lld", name, (long long)s->value[0]);
  return bench_add(r, over, "times", REPETITIONS, ratio, WITHIN, (double)NAN);
}

/* Time and memory of every shape; what one more of what is varied costs, or (length) how much more
 * than at the first. */
static enum status report(const struct bench_request *q, const struct series *s, bool constant,
                          struct bench_results *r)
{
  double before = (double)NAN;
  for (int i = 0; i < s->count; i++) {
    char name[96];
    double us[REPETITIONS]; /* bench_add sorts them */
    memcpy(us, s->us[i], sizeof us);
    (void)snprintf(name, sizeof name, "scaling %.40s %s %lld", s->c[i].name, s->what,
                   (long long)s->value[i]);
    TRY(bench_add(r, name, "us/token", REPETITIONS, us, (double)NAN, (double)NAN));
    double median = us[REPETITIONS / 2];
    if (constant && i > 0)
      TRY(report_ratio(s, i, name, r));
    if (!constant && i > 0)
      (void)printf("  each %s from %lld on: %.4g us/token\n", s->what, (long long)s->value[i - 1],
                   (median - before) / (double)(s->value[i] - s->value[i - 1]));
    before = median;
    TRY(report_memory(q, &s->c[i], name, r));
  }
  return OK;
}

/* Sequences of `length` that make up the tokens of a step. */
static void set_length(struct config *c, int64_t length)
{
  c->data.length = length;
  c->train.batch_size = TOKENS / length;
}

static void set_layers(struct config *c, int64_t n) { c->model.n_layer = n; }

static void set_iterations(struct config *c, int64_t n)
{
  c->deq.forward.max_iter = c->deq.forward.min_iter = n;
}

static enum status vary(const struct bench_request *q, const struct config *base, struct series s,
                        void (*set)(struct config *c, int64_t value), struct bench_results *r)
{
  s.c = calloc(SHAPES, sizeof *s.c);
  if (!s.c)
    FAIL(ERR_MEMORY, "out of memory");
  for (; s.count < SHAPES && s.value[s.count]; s.count++) {
    s.c[s.count] = *base;
    set_length(&s.c[s.count], LENGTH);
    set(&s.c[s.count], s.value[s.count]);
  }
  enum status status = measure_times(q, &s);
  if (status == OK)
    status = report(q, &s, set == set_length, r);
  free(s.c);
  return status;
}

/* The model trains by phantom, every solve taking exactly the iterations that are asked for. */
enum status bench_scaling(const struct bench_request *q, struct bench_results *r)
{
  const struct series lengths = {.what = "length", .value = {64, 256, 1024, 4096, 16384}};
  const struct series layers = {.what = "layers", .value = {1, 2, 4, 8}};
  const struct series iterations = {.what = "iterations", .value = {8, 16, 32, 64}};
  struct config c = *q->config;
  TRY(config_resolve(&c));
  if (c.model.kind != MODEL_IMPLICIT)
    FAIL(ERR_USAGE, "bench scaling measures implicit models; %s is explicit", c.name);
  c.train.unroll_steps = c.train.evaluate_every = c.data.length_min = c.train.curriculum_steps = 0;
  c.train.accumulate = 1;
  c.train.schedule = SCHEDULE_CONSTANT;
  c.deq.gradient = GRADIENT_PHANTOM;
  c.deq.forward.min_iter = c.deq.forward.max_iter;
  c.deq.forward.tol = 1e30;
  TRY(vary(q, &c, lengths, set_length, r));
  TRY(vary(q, &c, layers, set_layers, r));
  return vary(q, &c, iterations, set_iterations, r);
}
