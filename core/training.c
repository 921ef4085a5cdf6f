/* training.c: the training loop: batch, gradient, clipping, AdamW, metrics, checkpoints.
 *
 * A step is a function of (parameters, moments, step number, seed): every batch can be replayed, so
 * a run that was stopped and resumed goes on as if it had not been. */
#include "core/training.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/metrics.h"
#include "core/network.h"
#include "core/progress.h"
#include "core/weights.h"
#include "core/word_problem.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

enum { SET_PARAMETERS, SET_GRADIENT, SET_MOMENT1, SET_MOMENT2, SETS };

struct trainer {
  const struct config *c;
  const struct train_options *o;
  struct weights w;
  struct network net;
  struct word_problem problem;
  struct metrics metrics;
  struct progress progress;
  int32_t *tokens, *labels; /* (batch_size,length) */
  struct arena host, device;
  DEVICE double *square; /* (1) */
  int64_t step;          /* completed */
  int64_t shown;         /* tenth of the run that was last logged */
  double began, began_tokens;
};

/* What a step did, for the log. */
struct step_report {
  double loss, accuracy, lr, gradient_norm;
  struct fp_result forward, backward;
};

#if REAL_BITS == 32
double learning_rate(const struct train_config *t, int64_t step)
{
  double lr = t->lr;
  if (step < t->lr_warmup)
    return lr * (double)(step + 1) / (double)t->lr_warmup;
  double decay = t->decay_fraction * (double)t->steps;
  double left = ((double)(t->steps - step)) / (decay > 0 ? decay : 1);
  if (t->schedule == SCHEDULE_CONSTANT || decay <= 0 || left >= 1)
    return lr;
  return t->schedule == SCHEDULE_LINEAR ? lr * left
                                        : lr * 0.5 * (1 - cos(3.14159265358979323846 * left));
}
#endif

/* ---- checkpoints ---- */

static enum status write_trainer(const struct trainer *t, const char *path)
{
  struct file_writer f;
  TRY(file_begin(path, &f));
  (void)fprintf(f.out, "{\"step\": %lld, \"seed\": %lld, \"dtype\": \"%s\"}\n", (long long)t->step,
                (long long)t->c->seed, dtype_name(t->c->dtype));
  return file_commit(&f);
}

static enum status write_config(const struct config *c, const char *directory)
{
  char path[2 * CONFIG_PATH];
  struct file_writer f;
  TRY(path_join(path, sizeof path, directory, "config.yaml"));
  TRY(file_begin(path, &f));
  enum status s = config_write(c, f.out);
  if (s != OK) {
    file_abandon(&f);
    return s;
  }
  return file_commit(&f);
}

static enum status fill_checkpoint(const struct trainer *t, const char *directory)
{
  char path[2 * CONFIG_PATH];
  struct named_set model = {"", &t->w.set[SET_PARAMETERS]};
  struct named_set moments[] = {{"first.", &t->w.set[SET_MOMENT1]},
                                {"second.", &t->w.set[SET_MOMENT2]}};
  TRY(directory_make(directory));
  TRY(write_config(t->c, directory));
  TRY(path_join(path, sizeof path, directory, "model.safetensors"));
  TRY(weights_write(&t->w, path, &model, 1));
  TRY(path_join(path, sizeof path, directory, "optimizer.safetensors"));
  TRY(weights_write(&t->w, path, moments, 2));
  TRY(path_join(path, sizeof path, directory, "trainer.json"));
  TRY(write_trainer(t, path));
  return directory_flush(directory);
}

/* All of it or nothing: under a temporary name, then renamed, then `latest` points to it. */
static enum status write_checkpoint(struct trainer *t)
{
  char name[64], temporary[2 * CONFIG_PATH], final[2 * CONFIG_PATH], link[2 * CONFIG_PATH];
  TRY(metrics_flush(&t->metrics));
  (void)snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)t->step);
  TRY(path_join(temporary, sizeof temporary, t->o->directory, "checkpoints/writing"));
  TRY(path_join(final, sizeof final, t->o->directory, name));
  TRY(path_join(link, sizeof link, t->o->directory, "latest"));
  TRY(directory_remove(temporary));
  TRY(fill_checkpoint(t, temporary));
  TRY(path_rename(temporary, final));
  return link_replace(name, link);
}

static enum status read_step(const char *path, int64_t *step)
{
  json_error_t error;
  char *text;
  size_t bytes;
  TRY(file_read(path, &text, &bytes));
  json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
  free(text);
  json_t *value = json_object_get(root, "step");
  *step = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
  json_decref(root);
  if (*step < 0)
    FAIL(ERR_DATA, "%s: no \"step\" that is a count", path);
  return OK;
}

static enum status read_checkpoint(struct trainer *t, const char *directory)
{
  char path[2 * CONFIG_PATH];
  struct named_set model = {"", &t->w.set[SET_PARAMETERS]};
  struct named_set moments[] = {{"first.", &t->w.set[SET_MOMENT1]},
                                {"second.", &t->w.set[SET_MOMENT2]}};
  TRY(path_join(path, sizeof path, directory, "model.safetensors"));
  TRY(weights_read(&t->w, path, &model, 1));
  TRY(path_join(path, sizeof path, directory, "optimizer.safetensors"));
  TRY(weights_read(&t->w, path, moments, 2));
  TRY(path_join(path, sizeof path, directory, "trainer.json"));
  return read_step(path, &t->step);
}

/* ---- one step ---- */

static enum status gradient_norm(struct trainer *t, const DEVICE real *x, int64_t n, double *norm)
{
  const struct backend *be = t->w.m.be;
  be->sum_squares(be->st, n, x, t->square);
  TRY(be->download(be->st, sizeof *norm, t->square, norm));
  *norm = sqrt(*norm);
  return OK;
}

/* Names the first tensor whose gradient is not finite. */
static enum status not_finite(struct trainer *t, const struct step_report *r)
{
  const char *tensor = "none: the loss";
  const struct parameter_set *g = &t->w.set[SET_GRADIENT];
  for (int64_t i = 0; i < t->w.tensors.count; i++) {
    const struct tensor_spec *spec = &t->w.tensors.tensor[i];
    double norm;
    TRY(gradient_norm(t, g->block + spec->offset, spec->count, &norm));
    if (!isfinite(norm)) {
      tensor = spec->name;
      break;
    }
  }
  FAIL(
      ERR_NUMERIC,
      "step %lld: loss %g, gradient norm %g (first gradient that is not finite: %s); the last good "
      "checkpoint is %s/latest",
      (long long)t->step + 1, r->loss, r->gradient_norm, tensor, t->o->directory);
}

static void update(struct trainer *t, double lr, double norm)
{
  const struct train_config *c = &t->c->train;
  const struct backend *be = t->w.m.be;
  double scale = c->clip > 0 && norm > c->clip ? c->clip / norm : 1;
  for (int64_t i = 0; i < t->w.tensors.count; i++) {
    const struct tensor_spec *s = &t->w.tensors.tensor[i];
    be->adamw(be->st, s->count, t->step + 1, lr, c->betas[0], c->betas[1], c->eps,
              s->decay ? c->weight_decay : 0, scale, t->w.set[SET_GRADIENT].block + s->offset,
              t->w.set[SET_MOMENT1].block + s->offset, t->w.set[SET_MOMENT2].block + s->offset,
              t->w.set[SET_PARAMETERS].block + s->offset);
  }
}

static enum status train_step(struct trainer *t, struct step_report *r)
{
  const struct config *c = t->c;
  const struct backend *be = t->w.m.be;
  struct network_result result;
  bool unroll = t->step < c->train.unroll_steps;
  struct batch batch = {c->train.batch_size, t->tokens, t->labels};
  word_problem_batch(&t->problem, (uint64_t)c->seed, STREAM_TRAIN, (uint32_t)t->step, 0,
                     c->train.batch_size, c->data.length, t->tokens, t->labels);
  be->fill(be->st, t->w.tensors.block, 0, t->w.set[SET_GRADIENT].block);
  TRY(network_learn(&t->net, &t->w.set[SET_PARAMETERS], unroll ? GRADIENT_UNROLL : c->deq.gradient,
                    &batch, &t->w.set[SET_GRADIENT], &result));
  double labels = result.labels ? (double)result.labels : 1;
  r->loss = result.loss_sum / labels;
  r->accuracy = (double)result.correct / labels;
  r->forward = result.forward;
  r->backward = result.backward;
  r->lr = learning_rate(&c->train, t->step);
  TRY(gradient_norm(t, t->w.set[SET_GRADIENT].block, t->w.tensors.block, &r->gradient_norm));
  if (!isfinite(r->loss) || !isfinite(r->gradient_norm))
    return not_finite(t, r);
  update(t, r->lr, r->gradient_norm);
  t->step++;
  return OK;
}

/* ---- saying what happens ---- */

static void log_solve(struct metrics *m, const char *name, const struct fp_result *r)
{
  char key[64];
  if (r->samples == 0)
    return;
  (void)snprintf(key, sizeof key, "%s_iterations", name);
  metrics_double(m, key, r->mean_iterations);
  (void)snprintf(key, sizeof key, "%s_residual", name);
  metrics_double(m, key, r->worst_residual);
  (void)snprintf(key, sizeof key, "%s_converged", name);
  metrics_double(m, key, (double)r->exits[FP_CONVERGED] / (double)r->samples);
}

static enum status report(struct trainer *t, const struct step_report *r)
{
  const struct config *c = t->c;
  double per_step = (double)(c->train.batch_size * c->data.length);
  double tokens = (double)t->step * per_step, elapsed = monotonic_seconds() - t->began;
  double speed = elapsed > 0 ? (tokens - t->began_tokens) / elapsed : 0;
  bool last = t->step == c->train.steps;
  char speed_text[FORMAT_SIZE], left[FORMAT_SIZE], solve[64] = "";
  if (t->step % c->train.log_every == 0 || last) {
    metrics_begin(&t->metrics);
    metrics_int(&t->metrics, "step", t->step);
    metrics_int(&t->metrics, "tokens", (int64_t)tokens);
    metrics_double(&t->metrics, "loss", r->loss);
    metrics_double(&t->metrics, "accuracy", r->accuracy);
    metrics_double(&t->metrics, "lr", r->lr);
    metrics_double(&t->metrics, "grad_norm", r->gradient_norm);
    metrics_double(&t->metrics, "tokens_per_second", speed);
    log_solve(&t->metrics, "forward", &r->forward);
    log_solve(&t->metrics, "backward", &r->backward);
    TRY(metrics_end(&t->metrics));
  }
  if (r->forward.samples)
    (void)snprintf(solve, sizeof solve, "  iterations %.1f  residual %.1e",
                   r->forward.mean_iterations, r->forward.worst_residual);
  double remaining = speed > 0 ? (double)(c->train.steps - t->step) * per_step / speed : -1;
  bool plain = t->step * 10 / c->train.steps != t->shown && !t->progress.terminal;
  t->shown = t->step * 10 / c->train.steps;
  void (*say)(struct progress *, const char *, ...) __attribute__((format(printf, 2, 3))) =
      plain || last ? progress_log : progress_show;
  say(&t->progress, "%s  step %lld/%lld  loss %.4f  accuracy %.3f  %s tokens/s%s  %s left", c->name,
      (long long)t->step, (long long)c->train.steps, r->loss, r->accuracy,
      format_count(speed, speed_text), solve, format_duration(remaining, left));
  return OK;
}

/* ---- the run ---- */

static enum status prepare_directory(const struct config *c, const struct train_options *o)
{
  char config[2 * CONFIG_PATH], path[2 * CONFIG_PATH];
  TRY(path_join(config, sizeof config, o->directory, "config.yaml"));
  bool exists = path_exists(config);
  if (exists && !o->resume && !o->overwrite)
    FAIL(ERR_USAGE, "%s: this run exists; go on with --resume %s, or replace it with --overwrite",
         o->directory, o->directory);
  if (exists && o->overwrite && !o->resume)
    TRY(directory_remove(o->directory));
  TRY(path_join(path, sizeof path, o->directory, "checkpoints"));
  TRY(directory_make(path));
  TRY(path_join(path, sizeof path, o->directory, "figures"));
  TRY(directory_make(path));
  return write_config(c, o->directory);
}

static enum status begin_or_resume(struct trainer *t)
{
  char latest[2 * CONFIG_PATH], metrics[2 * CONFIG_PATH];
  TRY(path_join(latest, sizeof latest, t->o->directory, "latest"));
  TRY(path_join(metrics, sizeof metrics, t->o->directory, "metrics.jsonl"));
  if (t->o->resume && path_is_directory(latest)) {
    TRY(read_checkpoint(t, latest));
    progress_log(&t->progress, "going on from %s, step %lld", latest, (long long)t->step);
  } else {
    TRY(weights_initialise(&t->w, (uint64_t)t->c->seed));
  }
  TRY(metrics_truncate_after(metrics, t->step));
  return metrics_open(metrics, &t->metrics);
}

static enum status open_trainer(struct trainer *t, const struct backend *be,
                                const struct solver_port *solver)
{
  const struct config *c = t->c;
  int64_t M = c->train.batch_size * c->data.length;
  void *square;
  t->progress = progress_to(stderr);
  TRY(word_problem_init(&c->data, &t->problem));
  TRY(weights_open(&c->model, be, SETS, &t->w));
  TRY(network_open(&t->w.m, &c->deq, solver, c->train.batch_size, c->data.length, true, &t->net));
  TRY(arena_init(&t->host, (size_t)M * 2 * sizeof(int32_t) + 256));
  TRY(CARVE(&t->host, M, &t->tokens));
  TRY(CARVE(&t->host, M, &t->labels));
  TRY(be->memory_alloc(sizeof(double), &square));
  t->square = square;
  return OK;
}

static void close_trainer(struct trainer *t)
{
  if (t->square)
    t->w.m.be->memory_free(t->square);
  arena_free(&t->host);
  if (t->net.m)
    network_close(&t->net);
  if (t->w.m.be)
    weights_close(&t->w);
  word_problem_free(&t->problem);
}

static enum status loop(struct trainer *t)
{
  const struct train_config *c = &t->c->train;
  int64_t saved = t->step > 0 ? t->step : -1;
  struct step_report r = {0};
  t->began = monotonic_seconds();
  t->began_tokens = (double)(t->step * c->batch_size * t->c->data.length);
  t->shown = c->steps ? t->step * 10 / c->steps : 0;
  while (t->step < c->steps && !interrupted()) {
    TRY(train_step(t, &r));
    TRY(report(t, &r));
    if (c->checkpoint_every > 0 && t->step % c->checkpoint_every == 0) {
      TRY(write_checkpoint(t));
      saved = t->step;
    }
  }
  if (saved != t->step)
    TRY(write_checkpoint(t));
  if (t->step < c->steps)
    FAIL(ERR_INTERRUPTED, "stopped at step %lld, checkpoint written; go on with: train --resume %s",
         (long long)t->step, t->o->directory);
  return OK;
}

enum status NAME(train)(const struct config *c, const struct backend *be,
                        const struct solver_port *solver, const struct train_options *o)
{
  struct trainer t = {.c = c, .o = o, .metrics = {.fd = -1}};
  enum status s = open_trainer(&t, be, solver);
  if (s == OK)
    s = prepare_directory(c, o);
  if (s == OK)
    s = begin_or_resume(&t);
  if (s == OK)
    s = loop(&t);
  progress_clear(&t.progress);
  if (t.metrics.fd >= 0) {
    enum status closed = metrics_close(&t.metrics);
    s = s == OK ? closed : s;
  }
  close_trainer(&t);
  return s;
}
#endif
