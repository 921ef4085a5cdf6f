/* decode.c: see decode.h. */
#include "core/decode.h"
#include "core/data.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "core/shards.h"
#include "core/training.h"
#include "core/weights.h"
#include <stdlib.h>

#if REAL_BITS != 128

struct decoder {
  const struct config *c;
  struct decode_timing *t;
  struct fp_options options;
  struct weights w;
  struct shard_set shards;
  int32_t *tokens, *labels; /* (rows,length) each, one allocation */
};

static enum status load(struct decoder *d)
{
  struct named_set set = {"", &d->w.set[0]};
  char path[2 * CONFIG_PATH];
  if (!d->t->checkpoint)
    return weights_initialise(&d->w, (uint64_t)d->c->seed);
  TRY(path_join(path, sizeof path, d->t->checkpoint, "model.safetensors"));
  return weights_read(&d->w, path, &set, 1, true);
}

static enum status draw(struct decoder *d)
{
  const struct decode_timing *t = d->t;
  size_t items = (size_t)(t->rows * t->length);
  struct task_data data;
  d->tokens = malloc(2 * items * sizeof *d->tokens);
  if (!d->tokens)
    FAIL(ERR_MEMORY, "out of memory for %zu tokens", items);
  d->labels = d->tokens + items;
  TRY(data_open(&d->c->data, &data));
  enum status s = data_require(&data, STREAM_EVALUATE, t->length, "a sequence that is decoded");
  if (s == OK)
    data_batch(&data, (uint64_t)d->c->seed, STREAM_EVALUATE, 0, 0, t->rows, t->length, d->tokens,
               d->labels);
  data_close(&data);
  return s;
}

static enum status write_for_peer(const struct decoder *d)
{
  const struct decode_timing *t = d->t;
  int64_t count = t->rows * t->length;
  struct named_set set = {"", &d->w.set[0]};
  const struct st_tensor tensor[] = {
      {"input_ids", ST_I32, 2, {t->rows, t->length}, count, d->tokens},
      {"labels", ST_I32, 2, {t->rows, t->length}, count, d->labels}};
  if (t->parameters_to)
    TRY(weights_write(&d->w, t->parameters_to, &set, 1));
  return t->tokens_to ? safetensors_write(t->tokens_to, tensor, 2) : OK;
}

static enum status evaluate_once(struct decoder *d)
{
  struct decode_timing *t = d->t;
  struct batch b = {.rows = t->rows, .tokens = d->tokens, .labels = d->labels};
  struct network_result r = {0};
  TRY(shards_evaluate(&d->shards, &d->w.set[0], &b, &r));
  double samples = (double)r.forward.samples;
  t->accuracy = (double)r.correct / (double)r.labels;
  t->iterations = r.forward.samples ? r.forward.mean_iterations : (double)NAN;
  t->converged = r.forward.samples ? (double)r.forward.exits[FP_CONVERGED] / samples : (double)NAN;
  if (interrupted())
    FAIL(ERR_INTERRUPTED, "interrupted");
  return OK;
}

static enum status measure(struct decoder *d)
{
  struct decode_timing *t = d->t;
  for (int i = -1; i < t->repetitions; i++) {
    double began = monotonic_seconds(), elapsed = 0, tokens = 0;
    do {
      TRY(evaluate_once(d));
      tokens += (double)(t->rows * t->length);
      elapsed = monotonic_seconds() - began;
    } while (elapsed < t->seconds);
    if (i >= 0)
      t->tokens_per_second[i] = tokens / elapsed;
  }
  return OK;
}

enum status NAME(decode_timed)(const struct config *c, const struct backend *be,
                               const struct solver_port *solver, struct decode_timing *t)
{
  struct decoder d = {.c = c, .t = t, .options = c->deq.evaluate};
  CHECK(t->rows > 0 && t->length > 0);
  CHECK(t->repetitions >= 1 && t->repetitions <= DECODE_TIMED_MAX);
  d.options.window = 1;
  d.options = fp_choose(&d.options, t->length);
  enum status s = weights_open(&c->model, be, 1, &d.w);
  if (s == OK)
    s = load(&d);
  if (s == OK)
    s = draw(&d);
  if (s == OK)
    s = write_for_peer(&d);
  if (s == OK)
    s = shards_open(&d.w.m, &c->deq, &d.options, solver, t->rows, t->length, &d.shards);
  if (s == OK)
    s = measure(&d);
  shards_close(&d.shards);
  if (d.w.m.be)
    weights_close(&d.w);
  free(d.tokens);
  return s;
}
#endif
