/* bench_decode.c: tokens/s one token after the other, and a PyTorch peer's on the same parameters
 * and tokens. */
#include "core/decode.h"
#include "core/files.h"
#include "experiments/bench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REPETITIONS = 5, BATCHES = 2, MOST = 64, LONGEST = 256 };
static const int64_t batches[BATCHES] = {1, MOST};
/* what the peer answers, batch by batch; iterations for implicit models only */
enum { PEER_ACCURACY = BATCHES, PEER_ITERATIONS, PEER_ANSWERS };

/* One kind of model, with the parameters that there are for it. */
struct decoded {
  struct config c;
  const char *checkpoint;
  double peer[PEER_ANSWERS];
};

/* Without trained parameters a solve's end is chance: it takes as many iterations as training's. */
static void of_kind(const struct bench_request *q, enum model_kind kind, struct decoded *d)
{
  *d = (struct decoded){.c = *q->config};
  d->checkpoint = kind == d->c.model.kind ? q->checkpoint : NULL;
  d->c.model.kind = kind;
  for (int i = 0; i < PEER_ANSWERS; i++)
    d->peer[i] = (double)NAN;
  if (d->checkpoint)
    return;
  struct fp_options *o = &d->c.deq.evaluate;
  o->min_iter = o->max_iter = d->c.deq.forward.max_iter;
  o->tol = 1e30;
}

static int64_t length_of(const struct config *c)
{
  int64_t longest = c->evaluate.lengths[c->evaluate.lengths_count - 1];
  return longest < LONGEST ? longest : LONGEST;
}

/* ---- the peer ---- */

static enum status run_peer(const struct bench_request *q, struct decoded *d, const char *weights,
                            const char *tokens)
{
  static const char *const names[PEER_ANSWERS] = {"batch 1", "batch 64", "accuracy", "iterations"};
  const struct fp_options *o = &d->c.deq.evaluate;
  bool implicit = d->c.model.kind == MODEL_IMPLICIT;
  struct decode_timing t = {.rows = MOST, .length = length_of(&d->c), .repetitions = 1};
  char model[512], arguments[3072];
  t.checkpoint = d->checkpoint;
  t.parameters_to = weights, t.tokens_to = tokens;
  if (!bench_peer_model(&d->c, model, sizeof model) || o->solver != FP_PICARD ||
      o->stop != FP_REL) {
    (void)printf("peer: skipped, %s\n", bench_peer_lacks());
    return OK;
  }
  TRY(decode_timed(&d->c, q->rt, &t));
  (void)snprintf(arguments, sizeof arguments,
                 "weights=%s tokens=%s implicit=%d min_iter=%lld tol=%g %s repetitions=%d "
                 "max_iter=%lld forward_damping=%g seconds=%g",
                 weights, tokens, implicit, (long long)o->min_iter, o->tol, model, (int)REPETITIONS,
                 (long long)o->max_iter, o->damping, q->seconds);
  return bench_peer("tests/peers/torch_decode.py", arguments, "tokens/s and iterations",
                    implicit ? PEER_ANSWERS : PEER_ITERATIONS, names, d->peer);
}

static enum status measure_peer(const struct bench_request *q, struct decoded *d)
{
  char directory[256], weights[300], tokens[300];
  const char *tmp = getenv("TMPDIR");
  (void)snprintf(directory, sizeof directory, "%.200s/deqmamba-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  if (!mkdtemp(directory))
    FAIL_IO(directory, "create");
  (void)snprintf(weights, sizeof weights, "%s/weights.safetensors", directory);
  (void)snprintf(tokens, sizeof tokens, "%s/tokens.safetensors", directory);
  enum status s = run_peer(q, d, weights, tokens), removed = directory_remove(directory);
  return s == OK ? removed : s;
}

/* ---- ours ---- */

static enum status measure_batch(const struct bench_request *q, const struct decoded *d, int batch,
                                 struct bench_results *r)
{
  char name[96];
  struct decode_timing t = {.rows = batches[batch], .length = length_of(&d->c)};
  t.checkpoint = d->checkpoint;
  t.repetitions = REPETITIONS;
  t.seconds = q->seconds;
  TRY(decode_timed(&d->c, q->rt, &t));
  (void)snprintf(name, sizeof name, "decode %.40s %s batch %d", d->c.name,
                 model_kind_name(d->c.model.kind), (int)t.rows);
  TRY(bench_add(r, name, "tokens/s", REPETITIONS, t.tokens_per_second, (double)NAN,
                d->peer[batch]));
  if (batch != BATCHES - 1)
    return OK;
  if (isfinite(t.iterations)) {
    (void)snprintf(name, sizeof name, "decode %.40s implicit iterations", d->c.name);
    TRY(bench_add(r, name, "a token", 1, &t.iterations, (double)NAN, d->peer[PEER_ITERATIONS]));
    (void)printf("  %.1f %% of the tokens converged\n", 100 * t.converged);
  }
  (void)printf("  accuracy %.4g\n", t.accuracy);
  return OK;
}

enum status bench_decode(const struct bench_request *q, struct bench_results *r)
{
  struct config c = *q->config;
  struct bench_request resolved = *q;
  TRY(config_resolve(&c));
  resolved.config = &c;
  for (int kind = MODEL_IMPLICIT; kind <= MODEL_EXPLICIT; kind++) {
    struct decoded d;
    of_kind(&resolved, (enum model_kind)kind, &d);
    (void)printf("%s, %s parameters, %lld tokens a sequence\n", model_kind_name(d.c.model.kind),
                 d.checkpoint ? "trained" : "initial", (long long)length_of(&d.c));
    if (!q->no_peer)
      TRY(measure_peer(&resolved, &d));
    for (int batch = 0; batch < BATCHES; batch++)
      TRY(measure_batch(&resolved, &d, batch, r));
  }
  return OK;
}
