/* training.c: the training loop: batch, gradient, clipping, AdamW, evaluation, metrics,
 * checkpoints.
 *
 * A step is a function of (parameters, moments, trainer state, step number, seed): every batch can
 * be replayed, so a run that was stopped and resumed goes on as if it had not been. */
#include "core/training.h"
#include "core/checkpoint.h"
#include "core/data.h"
#include "core/files.h"
#include "core/flops.h"
#include "core/interrupt.h"
#include "core/metrics.h"
#include "core/parallel.h"
#include "core/gradient_report.h"
#include "core/shards.h"
#include "core/profile.h"
#include "core/progress.h"
#include "core/tensorboard.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#if REAL_BITS != 128

enum { EVALUATED_TOKENS = 16384 }; /* of a batch */
enum { MEAN_STEPS = 32, MEAN_BEGINS = 8 };
static const double spike_height = 0.1; /* what a spike is above the mean at least, in nats */

/* The sequences of a step. */
#define drawing NAME(drawing)
struct drawing {
  const struct config *c;
  const struct task_data *data;
  int64_t step, length, counted; /* counted: labels that count */
  int32_t *tokens, *labels;      /* (accumulate*batch_size,length), or an evaluation's batch */
  int32_t *lengths;              /* (accumulate*batch_size) */
};

struct trainer {
  const struct config *c;
  const struct train_options *o;
  struct weights w;
  struct shard_set learner, evaluation; /* evaluation: only where evaluate_every asks for it */
  struct gradient_report exact;         /* only where train.report asks for it */
  struct task_data data;
  struct metrics metrics;
  struct tensorboard tensorboard;
  struct progress progress;
  struct drawing now, next; /* next: drawn while a GPU works on `now` */
  struct background ahead;  /* what draws it */
  struct arena host;
  DEVICE double *square; /* (1) */
  struct trainer_state state;
  int64_t tenth; /* of the run that was last logged */
  bool warned;   /* that no solve converges */
  bool skipped;  /* the last step, as not finite */
  double began, began_tokens, began_seconds;
};

/* What a step did, for the log. */
struct step_report {
  double loss, accuracy, lr, gradient_norm;
  double eval_loss, eval_accuracy;
  bool evaluated, spike, finite;
  int64_t sequence; /* the first whose loss or solve is not finite; -1: none */
  struct fp_result forward, backward;
  double objective, jacobian; /* network_result's, of the whole step; jacobian < 0: none */
  int64_t fallbacks;
  bool radius_reported, cosine_reported;
  double radius, radius_max, cosine, exact_norm, exact_converged;
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

/* ---- what goes wrong ---- */

static enum status norm_of(struct trainer *t, const DEVICE real *x, int64_t n, double *norm)
{
  const struct backend *be = t->w.m.be;
  be->sum_squares(be->st, n, x, t->square);
  TRY(be->download(be->st, sizeof *norm, t->square, norm));
  *norm = sqrt(*norm);
  return OK;
}

/* The first tensor of a set that is not finite; NULL: all are. */
static enum status first_not_finite(struct trainer *t, int set, const char **name)
{
  *name = NULL;
  for (int64_t i = 0; i < t->w.tensors.count && !*name; i++) {
    const struct tensor_spec *s = &t->w.tensors.tensor[i];
    double norm;
    TRY(norm_of(t, t->w.set[set].block + s->offset, s->count, &norm));
    if (!isfinite(norm))
      *name = s->name;
  }
  return OK;
}

static void last_checkpoint(const struct trainer *t, char *out, size_t size)
{
  char link[RUN_PATH], name[64];
  ssize_t n = -1;
  if (path_join(link, sizeof link, t->o->directory, "latest") == OK)
    n = readlink(link, name, sizeof name - 1);
  name[n > 0 ? n : 0] = 0;
  if (n <= 0 || path_join(out, size, t->o->directory, name) != OK)
    (void)snprintf(out, size, "none was written yet");
}

/* Printed without the sign that a NaN may have. */
static double shown(double x) { return x != x ? (double)NAN : x; }

/* Names step, sequence, tensor and the checkpoint to go back to. */
static enum status stop_not_finite(struct trainer *t, const struct step_report *r,
                                   const char *parameter)
{
  char sequence[64] = "no sequence's loss is", checkpoint[RUN_PATH];
  const char *gradient;
  TRY(first_not_finite(t, SET_GRADIENT, &gradient));
  if (r->sequence < 0 && r->backward.exits[FP_NOT_FINITE] > 0)
    (void)snprintf(sequence, sizeof sequence, "deq.backward's solve of %lld samples broke down",
                   (long long)r->backward.exits[FP_NOT_FINITE]);
  if (r->sequence >= 0)
    (void)snprintf(sequence, sizeof sequence, "sequence %lld is the first that is",
                   (long long)r->sequence);
  last_checkpoint(t, checkpoint, sizeof checkpoint);
  FAIL(ERR_NUMERIC,
       "step %lld: not finite: loss %g, gradient norm %g; %s; first tensor: %s %s; the last good "
       "checkpoint: %s",
       (long long)t->state.step + 1, shown(r->loss), shown(r->gradient_norm), sequence,
       parameter ? "parameter" : "gradient of",
       parameter  ? parameter
       : gradient ? gradient
                  : "none",
       checkpoint);
}

/* A step that is not finite ends the run, or is skipped where that can help. */
static enum status not_finite(struct trainer *t, const struct step_report *r)
{
  const char *parameter;
  TRY(first_not_finite(t, SET_PARAMETERS, &parameter));
  if (!t->c->train.skip_nonfinite || parameter)
    return stop_not_finite(t, r, parameter);
  t->state.skipped++;
  progress_log(&t->progress, "step %lld skipped: loss %g, gradient norm %g, sequence %lld",
               (long long)t->state.step + 1, shown(r->loss), shown(r->gradient_norm),
               (long long)r->sequence);
  return OK;
}

/* The first sequence of a batch whose loss or solve is not finite; -1: none. */
static int64_t bad_sequence(const struct config *c, const struct network_result *r, int64_t rows,
                            int64_t length)
{
  bool whole = fp_choose(&c->deq.forward, length).window == FP_WINDOW_ALL;
  int64_t per_row = whole ? 1 : length; /* samples of the solve */
  bool bad_solve = r->forward.exits[FP_NOT_FINITE] > 0;
  for (int64_t s = 0; s < rows; s++) {
    if (s == r->bad)
      return s;
    for (int64_t i = 0; bad_solve && i < per_row; i++)
      if (r->forward.exit[s * per_row + i] == FP_NOT_FINITE)
        return s;
  }
  return -1;
}

/* Steps that were not skipped. */
static int64_t updates(const struct trainer_state *s) { return s->step - s->skipped; }

/* Marks a loss far above its running mean, and takes it into the mean. */
static bool is_spike(struct trainer *t, double loss)
{
  struct trainer_state *s = &t->state;
  int64_t seen = updates(s); /* in the mean */
  bool spike = seen >= MEAN_BEGINS && loss > s->loss_mean * t->c->train.spike_factor &&
               loss > s->loss_mean + spike_height;
  s->loss_mean += (loss - s->loss_mean) / (double)(seen < MEAN_STEPS ? seen + 1 : MEAN_STEPS);
  return spike;
}

/* ---- one step ---- */

/* Tokens of the step's longest sequences. */
static int64_t length_of_step(const struct config *c, int64_t step)
{
  int64_t n = c->train.curriculum_steps, from = c->train.curriculum_length;
  return step < n ? from + (c->data.length - from) * step / n : c->data.length;
}

static void draw_into(void *to)
{
  struct drawing *d = to;
  const struct config *c = d->c;
  int64_t sequences = c->train.batch_size * c->train.accumulate;
  d->length = length_of_step(c, d->step);
  d->counted = 0;
  int64_t length = d->length, shortest = c->data.length_min ? c->data.length_min : length;
  shortest = shortest < length ? shortest : length;
  data_batch(d->data, (uint64_t)c->seed, STREAM_TRAIN, (uint32_t)d->step, 0, sequences, length,
             d->tokens, d->labels);
  for (int64_t s = 0; s < sequences; s++) {
    uint32_t word[4];
    philox((uint64_t)c->seed, STREAM_LENGTH, (uint32_t)d->step, (uint32_t)s, 0, word);
    int64_t own = shortest + philox_below(word, (uint32_t)(length - shortest + 1));
    for (int64_t i = own; i < length; i++) {
      d->tokens[s * length + i] = 0;
      d->labels[s * length + i] = IGNORED_LABEL;
    }
    d->lengths[s] = (int32_t)own;
    d->counted += own;
  }
}

/* The step's sequences into t->now.  The next ones are on their way then, where the processor has
 * time while a GPU works. */
static void draw_step(struct trainer *t)
{
  background_await(&t->ahead);
  if (t->next.tokens && t->next.step == t->state.step) {
    struct drawing drawn = t->next;
    t->next = t->now, t->now = drawn;
  } else {
    t->now.step = t->state.step;
    draw_into(&t->now);
  }
  if (!t->next.tokens || t->state.step + 1 >= t->c->train.steps)
    return;
  t->next.step = t->state.step + 1;
  background_run(&t->ahead, draw_into, &t->next);
}

/* Batch k of the step that was drawn; `draw` is what it points to. */
static struct batch batch_of_step(const struct trainer *t, int64_t k, struct dropout_draw *draw)
{
  const struct config *c = t->c;
  const struct drawing *now = &t->now;
  int64_t rows = c->train.batch_size, length = t->learner.length;
  struct batch b = {.rows = rows, .labels_total = now->counted, .dropout = draw};
  *draw = (struct dropout_draw){(uint64_t)c->seed, (uint32_t)t->state.step, (uint32_t)(k * rows)};
  b.tokens = now->tokens + k * rows * length;
  b.labels = now->labels + k * rows * length;
  b.lengths = c->data.length_min ? now->lengths + k * rows : NULL;
  return b;
}

/* The gradient of the mean loss of all the step's batches. */
static enum status learn(struct trainer *t, struct step_report *r)
{
  const struct config *c = t->c;
  const struct backend *be = t->w.m.be;
  draw_step(t);
  int64_t rows = c->train.batch_size, length = t->now.length, labels = t->now.counted, correct = 0;
  bool unroll = t->state.step < c->train.unroll_steps;
  shards_set_length(&t->learner, length);
  be->fill(be->st, t->w.tensors.block, 0, t->w.set[SET_GRADIENT].block);
  r->loss = 0;
  for (int64_t k = 0; k < c->train.accumulate; k++) {
    struct network_result result;
    struct dropout_draw draw;
    struct batch b = batch_of_step(t, k, &draw);
    TRY(shards_learn(&t->learner, &t->w.set[SET_PARAMETERS],
                     unroll ? GRADIENT_UNROLL : c->deq.gradient, &b, &t->w.set[SET_GRADIENT],
                     &result));
    int64_t bad = bad_sequence(c, &result, rows, length);
    if (bad >= 0 && r->sequence < 0)
      r->sequence = k * rows + bad;
    r->loss += result.loss_sum;
    r->objective += result.objective;
    r->fallbacks += result.fallbacks;
    r->jacobian = result.jacobian < 0 ? -1 : r->jacobian + result.jacobian;
    correct += result.correct;
    fp_result_add(&r->forward, &result.forward);
    fp_result_add(&r->backward, &result.backward);
    struct step_work work = {rows * length, result.forward.block_evaluations, result.differentiated,
                             result.outputs, result.backward.block_evaluations};
    t->state.flops += step_flops(&c->model, &work);
  }
  r->loss /= (double)labels;
  r->accuracy = (double)correct / (double)labels;
  t->state.tokens += labels;
  return norm_of(t, t->w.set[SET_GRADIENT].block, t->w.tensors.stored, &r->gradient_norm);
}

/* How much of the block from tensor i on is updated as it is; *next: the first tensor that is not,
 * where some `decay`.  The padding is zeros, and stays so. */
static int64_t run_of(const struct tensor_list *l, bool decay, int64_t i, int64_t *next)
{
  for (*next = i; *next < l->count && (!decay || l->tensor[*next].decay == l->tensor[i].decay);)
    ++*next;
  return (*next < l->count ? l->tensor[*next].offset : l->stored) - l->tensor[i].offset;
}

static void update(struct trainer *t, double lr, double norm)
{
  const struct train_config *c = &t->c->train;
  const struct backend *be = t->w.m.be;
  double scale = c->clip > 0 && norm > c->clip ? c->clip / norm : 1;
  for (int64_t i = 0, next; i < t->w.tensors.count; i = next) {
    const struct tensor_spec *s = &t->w.tensors.tensor[i];
    int64_t n = run_of(&t->w.tensors, c->weight_decay != 0, i, &next);
    be->adamw(be->st, n, updates(&t->state) + 1, lr, c->betas[0], c->betas[1], c->eps,
              s->decay ? c->weight_decay : 0, scale, t->w.set[SET_GRADIENT].block + s->offset,
              t->w.set[SET_MOMENT1].block + s->offset, t->w.set[SET_MOMENT2].block + s->offset,
              t->w.set[SET_PARAMETERS].block + s->offset);
  }
  parameters_derive(&t->w.m, &t->w.set[SET_PARAMETERS]);
}

static bool due(const struct trainer *t, int64_t every)
{
  return every > 0 && (t->state.step + 1) % every == 0 && t->c->model.kind == MODEL_IMPLICIT;
}

/* What train.report asks to know of this step, before the update. */
static enum status report_exact(struct trainer *t, struct step_report *r)
{
  const struct train_config *c = &t->c->train;
  const struct parameter_set *p = &t->w.set[SET_PARAMETERS];
  r->radius_reported = due(t, c->report_spectral_radius);
  r->cosine_reported = due(t, c->report_gradient_cosine);
  if (!r->radius_reported && !r->cosine_reported)
    return OK;
  gradient_report_begin(&t->exact, t->learner.length, r->cosine_reported);
  for (int64_t k = 0; k < c->accumulate; k++) {
    struct dropout_draw draw;
    struct batch b = batch_of_step(t, k, &draw);
    TRY(gradient_report_add(&t->exact, p, &b));
  }
  r->exact_converged = (double)t->exact.converged / (double)t->exact.samples;
  if (r->radius_reported)
    TRY(network_spectral_radius(&t->exact.net, p, c->batch_size, &r->radius, &r->radius_max));
  if (r->cosine_reported)
    TRY(gradient_report_cosine(&t->exact, &t->w.set[SET_GRADIENT], &r->cosine, &r->exact_norm));
  return OK;
}

static enum status train_step(struct trainer *t, struct step_report *r)
{
  *r = (struct step_report){.sequence = -1, .lr = learning_rate(&t->c->train, t->state.step)};
  TRY(learn(t, r));
  TRY(report_exact(t, r));
  bool adjoint = r->backward.exits[FP_NOT_FINITE] == 0;
  r->finite = isfinite(r->loss) && isfinite(r->gradient_norm) && r->sequence < 0 && adjoint;
  if (r->finite) {
    r->spike = is_spike(t, r->loss);
    update(t, r->lr, r->gradient_norm);
  } else {
    TRY(not_finite(t, r));
  }
  t->state.step++;
  return OK;
}

/* ---- evaluating ---- */

/* On the first sequences of the stream that `evaluate` uses, at the training length. */
static enum status evaluate(struct trainer *t, struct step_report *r)
{
  const struct config *c = t->c;
  int64_t length = c->data.length, sequences = c->evaluate.sequences, labels = 0, correct = 0;
  double loss = 0;
  for (int64_t first = 0; first < sequences; first += t->evaluation.rows) {
    struct network_result result = {0};
    struct batch b = {.rows = sequences - first, .tokens = t->now.tokens, .labels = t->now.labels};
    b.rows = b.rows < t->evaluation.rows ? b.rows : t->evaluation.rows;
    data_batch(&t->data, (uint64_t)c->seed, STREAM_EVALUATE, 0, (uint32_t)first, b.rows, length,
               t->now.tokens, t->now.labels);
    TRY(shards_evaluate(&t->evaluation, &t->w.set[SET_PARAMETERS], &b, &result));
    loss += result.loss_sum;
    labels += result.labels;
    correct += result.correct;
  }
  r->evaluated = true;
  r->eval_loss = loss / (double)labels;
  r->eval_accuracy = (double)correct / (double)labels;
  return OK;
}

/* ---- saying what happens ---- */

static void log_number(struct trainer *t, const char *key, double value)
{
  metrics_double(&t->metrics, key, value);
  if (t->tensorboard.out)
    tensorboard_scalar(&t->tensorboard, key, value);
}

static void log_solve(struct trainer *t, const char *name, const struct fp_result *r)
{
  char key[64];
  if (r->samples == 0)
    return;
  (void)snprintf(key, sizeof key, "%s_iterations", name);
  log_number(t, key, r->mean_iterations);
  (void)snprintf(key, sizeof key, "%s_residual", name);
  log_number(t, key, r->worst_residual);
  (void)snprintf(key, sizeof key, "%s_converged", name);
  log_number(t, key, (double)r->exits[FP_CONVERGED] / (double)r->samples);
}

/* What stands for the gradient, or is added to the loss. */
static void log_choices(struct trainer *t, const struct step_report *r)
{
  const struct deq_config *deq = &t->c->deq;
  if (t->c->model.kind == MODEL_EXPLICIT)
    return;
  if ((deq->gradient == GRADIENT_SHINE || deq->guess_shine) && r->forward.samples)
    metrics_int(&t->metrics, "shine_fallbacks", r->fallbacks);
  if (deq->correction.states > 1 || deq->regularisation.weight > 0)
    log_number(t, "objective", r->objective);
  if (r->jacobian >= 0 && deq->regularisation.weight > 0)
    log_number(t, "jacobian_norm", r->jacobian);
  if (r->radius_reported) {
    log_number(t, "spectral_radius", r->radius);
    log_number(t, "spectral_radius_max", r->radius_max);
  }
  if (r->cosine_reported) {
    log_number(t, "gradient_cosine", r->cosine);
    log_number(t, "exact_grad_norm", r->exact_norm);
  }
  if (r->radius_reported || r->cosine_reported)
    log_number(t, "exact_converged", r->exact_converged);
}

static enum status write_metrics(struct trainer *t, const struct step_report *r, double speed)
{
  const struct train_config *c = &t->c->train;
  metrics_begin(&t->metrics);
  if (t->tensorboard.out)
    tensorboard_begin(&t->tensorboard, t->state.step);
  metrics_int(&t->metrics, "step", t->state.step);
  metrics_int(&t->metrics, "tokens", t->state.tokens);
  log_number(t, "loss", r->loss);
  log_number(t, "accuracy", r->accuracy);
  if (t->c->data.task == TASK_TEXT)
    log_number(t, "bits_per_byte", data_bits(r->loss));
  log_number(t, "lr", r->lr);
  log_number(t, "grad_norm", r->gradient_norm);
  log_number(t, "flops", t->state.flops);
  if (c->log_timing)
    log_number(t, "tokens_per_second", speed);
  log_solve(t, "forward", &r->forward);
  log_solve(t, "backward", &r->backward);
  log_choices(t, r);
  if (r->spike)
    metrics_bool(&t->metrics, "spike", true);
  if (c->skip_nonfinite)
    metrics_int(&t->metrics, "skipped", t->state.skipped);
  if (r->evaluated) {
    log_number(t, "eval_loss", r->eval_loss);
    log_number(t, "eval_accuracy", r->eval_accuracy);
    if (t->c->data.task == TASK_TEXT)
      log_number(t, "eval_bits_per_byte", data_bits(r->eval_loss));
  }
  TRY(metrics_end(&t->metrics));
  return t->tensorboard.out ? tensorboard_end(&t->tensorboard) : OK;
}

static void show_progress(struct trainer *t, const struct step_report *r, double speed)
{
  const struct config *c = t->c;
  char speed_text[FORMAT_SIZE], left[FORMAT_SIZE], solve[96] = "", evaluated[64] = "";
  double per_step = (double)(c->train.batch_size * c->train.accumulate * c->data.length);
  double remaining = speed > 0 ? (double)(c->train.steps - t->state.step) * per_step / speed : -1;
  int64_t tenth = t->state.step * 10 / c->train.steps;
  bool plain = tenth != t->tenth && !t->progress.terminal;
  if (r->forward.samples)
    (void)snprintf(solve, sizeof solve, "  iterations %.1f  residual %.1e",
                   r->forward.mean_iterations, shown(r->forward.worst_residual));
  if (r->forward.exits[FP_CONVERGED] < r->forward.samples) {
    double share = (double)r->forward.exits[FP_CONVERGED] / (double)r->forward.samples;
    size_t used = strlen(solve);
    (void)snprintf(solve + used, sizeof solve - used, "  converged %.1f %%", 100 * share);
  }
  if (r->evaluated)
    (void)snprintf(evaluated, sizeof evaluated, "  evaluated: loss %.4f accuracy %.3f",
                   shown(r->eval_loss), r->eval_accuracy);
  t->tenth = tenth;
  void (*say)(struct progress *, const char *, ...) __attribute__((format(printf, 2, 3))) =
      plain || r->evaluated || t->state.step == c->train.steps ? progress_log : progress_show;
  say(&t->progress, "%s  step %lld/%lld  loss %.4f  accuracy %.3f%s  %s tokens/s%s  %s left",
      c->name, (long long)t->state.step, (long long)c->train.steps, shown(r->loss), r->accuracy,
      evaluated, format_count(speed, speed_text), solve, format_duration(remaining, left));
}

/* Once: a solve whose best residual is that of the guess 0, or above it, finds nothing, and a model
 * cannot learn from it. */
static void warn_of_solver(struct trainer *t, const struct step_report *r)
{
  char what[FP_DESCRIPTION];
  if (t->warned || !r->forward.samples || r->forward.exits[FP_CONVERGED] ||
      r->forward.worst_residual < 1)
    return;
  struct fp_options o = fp_choose(&t->c->deq.forward, t->c->data.length);
  t->warned = true;
  progress_log(
      &t->progress,
      "step %lld: no sequence's solve converges, the worst residual is %.1e: deq.forward "
      "(%s) may be of no use to this model; try more damping, more iterations, a window, or "
      "another solver",
      (long long)t->state.step, r->forward.worst_residual, fp_describe(&o, what));
}

static enum status report(struct trainer *t, const struct step_report *r)
{
  const struct train_config *c = &t->c->train;
  double elapsed = monotonic_seconds() - t->began;
  double speed = elapsed > 0 ? ((double)t->state.tokens - t->began_tokens) / elapsed : 0;
  if (t->state.step % c->log_every == 0 || t->state.step == c->steps || r->evaluated || r->spike ||
      r->radius_reported || r->cosine_reported || !r->finite)
    TRY(write_metrics(t, r, speed));
  warn_of_solver(t, r);
  show_progress(t, r, speed);
  return OK;
}

/* ---- the run ---- */

/* What `auto` stands for. */
static void log_choice(struct trainer *t, const char *section, const struct fp_options *o)
{
  char what[FP_DESCRIPTION];
  struct fp_options chosen = fp_choose(o, t->c->data.length);
  if (t->c->model.kind == MODEL_IMPLICIT && o->solver == FP_AUTO)
    progress_log(&t->progress, "%s: auto is %s", section, fp_describe(&chosen, what));
}

/* A run goes on with the text that it began with. */
static enum status check_data(struct trainer *t)
{
  const struct data_config *c = &t->c->data;
  int64_t found = data_fingerprint(&t->data);
  if (t->state.data && found != t->state.data)
    FAIL(ERR_USAGE, "%s: data.path: %s is not the text that %s was trained on", c->path_given,
         c->path, t->o->directory);
  t->state.data = found;
  if (c->task == TASK_TEXT)
    progress_log(&t->progress, "%s: %lld files, %lld bytes to train on, %lld behind for validation",
                 c->path, (long long)t->data.text.files, (long long)t->data.text.training,
                 (long long)(t->data.text.size - t->data.text.training));
  return OK;
}

/* Says by name what shine falls back to when the forward solve has nothing to tell it. */
static void log_shine(struct trainer *t)
{
  char what[FP_DESCRIPTION];
  const struct deq_config *deq = &t->c->deq;
  struct fp_options o = fp_choose(&deq->forward, t->c->data.length);
  if (t->c->model.kind == MODEL_EXPLICIT || fp_leaves_inverse(&deq->forward, t->c->data.length))
    return;
  if (deq->gradient == GRADIENT_SHINE)
    progress_log(&t->progress,
                 "deq.gradient: shine falls back to jfb: deq.forward is %s, not "
                 "broyden, window all",
                 fp_describe(&o, what));
  else if (deq->guess_shine)
    progress_log(&t->progress,
                 "deq.backward.guess: shine falls back to gradient: deq.forward is "
                 "%s, not broyden, window all",
                 fp_describe(&o, what));
}

/* The configuration goes on record once it is known to fit, unless the run is `finished`: what made
 * its steps stays. */
static enum status begin_or_resume(struct trainer *t, bool finished)
{
  char latest[RUN_PATH], metrics[RUN_PATH];
  struct trainer_state *s = &t->state;
  TRY(path_join(latest, sizeof latest, t->o->directory, "latest"));
  TRY(path_join(metrics, sizeof metrics, t->o->directory, "metrics.jsonl"));
  bool resumes = t->o->resume && path_is_directory(latest);
  enum status ready =
      resumes ? checkpoint_read(latest, &t->w, s) : weights_initialise(&t->w, (uint64_t)t->c->seed);
  if (resumes && ready == ERR_DATA)
    ready = checkpoint_unreadable(t->o->directory, ready);
  TRY(ready);
  TRY(check_data(t)); /* the last that may be refused: until here the run is as it was */
  if (resumes) {
    TRY(checkpoints_prune(t->o->directory, s->step, t->c->train.keep, s->best_step));
    progress_log(&t->progress, "going on from %s, step %lld", latest, (long long)s->step);
  }
  if (!finished)
    TRY(config_write_file(t->c, t->o->directory));
  log_choice(t, "deq.forward", &t->c->deq.forward);
  log_choice(t, "deq.backward", &t->c->deq.backward);
  log_shine(t);
  TRY(metrics_truncate_after(metrics, s->step));
  TRY(metrics_open(metrics, &t->metrics));
  return t->c->train.tensorboard ? tensorboard_open(t->o->directory, s->step, &t->tensorboard) : OK;
}

static int64_t evaluated_rows(const struct config *c)
{
  int64_t rows = EVALUATED_TOKENS / c->data.length, sequences = c->evaluate.sequences;
  return rows < 1 ? 1 : rows < sequences ? rows : sequences;
}

static bool reports(const struct config *c)
{
  return c->model.kind == MODEL_IMPLICIT &&
         (c->train.report_spectral_radius || c->train.report_gradient_cosine);
}

/* Bytes of the trainer's own arrays. */
static int64_t batch_tokens(const struct config *c)
{
  int64_t sequences = c->train.batch_size * c->train.accumulate, rows = evaluated_rows(c);
  return (sequences > rows ? sequences : rows) * c->data.length;
}

/* Steps whose sequences there is room for: on a GPU the next one's, too. */
static int drawings_of(const struct backend *be) { return be->concurrent ? 1 : 2; }

static size_t batch_bytes(const struct config *c, const struct backend *be)
{
  int64_t sequences = c->train.batch_size * c->train.accumulate;
  size_t bytes = ((size_t)batch_tokens(c) * 2 + (size_t)sequences) * sizeof(int32_t) + 256;
  return bytes * (size_t)drawings_of(be);
}

static enum status open_drawings(struct trainer *t)
{
  const struct config *c = t->c;
  int64_t sequences = c->train.batch_size * c->train.accumulate, M = batch_tokens(c);
  TRY(arena_init(&t->host, batch_bytes(c, t->w.m.be)));
  for (int i = 0; i < drawings_of(t->w.m.be); i++) {
    struct drawing *d = i ? &t->next : &t->now;
    *d = (struct drawing){.c = c, .data = &t->data, .step = -1};
    TRY(CARVE(&t->host, M, &d->tokens));
    TRY(CARVE(&t->host, M, &d->labels));
    TRY(CARVE(&t->host, sequences, &d->lengths));
  }
  return OK;
}

static enum status open_trainer(struct trainer *t, const struct backend *be,
                                const struct solver_port *solver)
{
  const struct config *c = t->c;
  int64_t rows = evaluated_rows(c);
  void *square;
  t->progress = progress_to(stderr);
  TRY(data_open(&c->data, &t->data));
  TRY(data_require(&t->data, STREAM_TRAIN, c->data.length, "data.length"));
  if (c->train.evaluate_every)
    TRY(data_require(&t->data, STREAM_EVALUATE, c->data.length,
                     "train.evaluate_every at data.length"));
  TRY(weights_open(&c->model, be, TRAINER_SETS, &t->w));
  TRY(shards_open(&t->w.m, &c->deq, NULL, solver, c->train.batch_size, c->data.length,
                  &t->learner));
  if (c->train.evaluate_every)
    TRY(shards_open(&t->w.m, &c->deq, &c->deq.evaluate, solver, rows, c->data.length,
                    &t->evaluation));
  if (reports(c))
    TRY(gradient_report_open(c, be, solver, &t->exact));
  TRY(open_drawings(t));
  TRY(be->memory_alloc(sizeof(double), &square));
  t->square = square;
  return OK;
}

static enum status close_logs(struct trainer *t)
{
  enum status metrics = metrics_close(&t->metrics);
  enum status events = tensorboard_close(&t->tensorboard);
  return metrics == OK ? events : metrics;
}

static void close_trainer(struct trainer *t)
{
  background_await(&t->ahead);
  if (t->square)
    t->w.m.be->memory_free(t->square);
  arena_free(&t->host);
  shards_close(&t->learner);
  shards_close(&t->evaluation);
  gradient_report_close(&t->exact);
  if (t->w.m.be)
    weights_close(&t->w);
  data_close(&t->data);
}

/* Time and memory so far, with those of earlier sessions. */
static void look_at_the_clock(struct trainer *t)
{
  struct rusage usage;
  if (!t->c->train.log_timing)
    return;
  t->state.seconds = t->began_seconds + monotonic_seconds() - t->began;
  if (getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_maxrss * 1024 > t->state.peak_memory)
    t->state.peak_memory = usage.ru_maxrss * 1024;
}

static enum status save(struct trainer *t, int64_t *saved)
{
  look_at_the_clock(t);
  TRY(metrics_flush(&t->metrics));
  TRY(checkpoint_write(t->c, &t->w, &t->state, t->o->directory));
  *saved = t->state.step;
  return OK;
}

static enum status one_step(struct trainer *t, int64_t *saved)
{
  const struct train_config *c = &t->c->train;
  struct step_report r;
  TRY(train_step(t, &r));
  t->skipped = !r.finite;
  if (c->evaluate_every && (t->state.step % c->evaluate_every == 0 || t->state.step == c->steps))
    TRY(evaluate(t, &r));
  TRY(report(t, &r));
  bool best = r.evaluated && isfinite(r.eval_loss) &&
              (t->state.best_step == 0 || r.eval_loss < t->state.best_loss);
  if (best) {
    t->state.best_step = t->state.step;
    t->state.best_loss = r.eval_loss;
  }
  if (best || (c->checkpoint_every > 0 && t->state.step % c->checkpoint_every == 0))
    TRY(save(t, saved));
  return OK;
}

static enum status loop(struct trainer *t)
{
  const struct train_config *c = &t->c->train;
  int64_t saved = t->state.step > 0 ? t->state.step : -1;
  t->began = monotonic_seconds();
  t->began_tokens = (double)t->state.tokens;
  t->began_seconds = t->state.seconds;
  t->tenth = c->steps ? t->state.step * 10 / c->steps : 0;
  while (t->state.step < c->steps && !interrupted())
    TRY(one_step(t, &saved));
  if (saved != t->state.step)
    TRY(save(t, &saved));
  if (t->state.step == c->steps && t->skipped)
    FAIL(ERR_NUMERIC, "%s: the last step was not finite; %lld of %lld were skipped",
         t->o->directory, (long long)t->state.skipped, (long long)t->state.step);
  if (t->state.step < c->steps)
    FAIL(ERR_INTERRUPTED,
         "stopped at step %lld, checkpoint written; go on with: build/train --resume %s",
         (long long)t->state.step, shell_quoted(t->o->directory).text);
  return OK;
}

/* Has a run that is gone on with made all its steps?  It must not have made more. */
static enum status check_steps(const struct config *c, const struct train_options *o,
                               bool *finished)
{
  char path[RUN_PATH];
  struct trainer_state made;
  *finished = false;
  if (!o->resume)
    return OK;
  TRY(checkpoint_find_latest(o->directory));
  TRY(path_join(path, sizeof path, o->directory, "latest/trainer.json"));
  if (!path_exists(path))
    return OK;
  TRY(trainer_state_read(path, &made));
  if (made.step > c->train.steps)
    FAIL(ERR_USAGE, "train.steps: %lld, but %s has made %lld steps", (long long)c->train.steps,
         o->directory, (long long)made.step);
  *finished = made.step == c->train.steps;
  return OK;
}

enum status NAME(train)(const struct config *c, const struct backend *be,
                        const struct solver_port *solver, const struct train_options *o)
{
  struct trainer t = {.c = c, .o = o, .metrics = {.fd = -1}};
  bool finished = false;
  int lock = -1;
  enum status s = open_trainer(&t, be, solver);
  if (s == OK)
    s = check_steps(c, o, &finished);
  if (s == OK)
    s = run_directory_prepare(o, &lock);
  if (s == OK)
    s = begin_or_resume(&t, finished);
  if (s == OK)
    s = loop(&t);
  progress_clear(&t.progress);
  char first[1024]; /* what went wrong first is what is reported */
  (void)snprintf(first, sizeof first, "%s", s == OK ? "" : last_error());
  enum status closed = close_logs(&t);
  close_trainer(&t);
  if (lock >= 0)
    (void)close(lock);
  if (s == OK)
    return closed;
  FAIL(s, "%s", first);
}

/* ---- how much memory, and how fast ---- */

static enum status measure_memory(const struct config *c, const struct weights *w,
                                  const struct solver_port *solver, struct train_memory *m)
{
  m->parameters = w->device.size + w->host.size;
  m->batches = batch_bytes(c, w->m.be);
  TRY(shards_measure(&w->m, &c->deq, NULL, solver, c->train.batch_size, c->data.length,
                     &m->network));
  if (!c->train.evaluate_every)
    return OK;
  return shards_measure(&w->m, &c->deq, &c->deq.evaluate, solver, evaluated_rows(c), c->data.length,
                        &m->evaluation);
}

enum status NAME(train_memory)(const struct config *c, const struct backend *be,
                               const struct solver_port *solver, struct train_memory *m)
{
  struct weights w;
  *m = (struct train_memory){0};
  TRY(weights_open(&c->model, be, TRAINER_SETS, &w));
  enum status s = measure_memory(c, &w, solver, m);
  weights_close(&w);
  return s;
}

static enum status time_steps(struct trainer *t, double seconds, double *tokens_per_second,
                              struct train_timing *timing)
{
  double began = monotonic_seconds(), elapsed = 0;
  int64_t tokens = t->state.tokens, steps = 0;
  do {
    struct step_report r;
    TRY(train_step(t, &r));
    timing->iterations = r.forward.mean_iterations;
    elapsed = monotonic_seconds() - began;
    steps++;
  } while (elapsed < seconds && !interrupted());
  if (interrupted())
    FAIL(ERR_INTERRUPTED, "interrupted");
  *tokens_per_second = (double)(t->state.tokens - tokens) / elapsed;
  timing->total_seconds += elapsed;
  timing->steps += steps;
  return OK;
}

static enum status time_repetitions(struct trainer *t, struct train_timing *timing)
{
  double ignored;
  TRY(weights_initialise(&t->w, (uint64_t)t->c->seed));
  TRY(time_steps(t, timing->seconds, &ignored, timing));
  timing->total_seconds = 0;
  timing->steps = 0;
  if (timing->profile)
    profile_clear(timing->profile);
  for (int i = 0; i < timing->repetitions; i++)
    TRY(time_steps(t, timing->seconds, &timing->tokens_per_second[i], timing));
  return OK;
}

enum status NAME(train_timed)(const struct config *c, const struct backend *be,
                              const struct solver_port *solver, struct train_timing *timing)
{
  const struct train_options nowhere = {.directory = "."};
  struct trainer t = {.c = c, .o = &nowhere, .metrics = {.fd = -1}};
  struct backend timed;
  CHECK(timing->repetitions >= 1 && timing->repetitions <= TRAIN_TIMED_MAX);
  if (timing->profile) {
    NAME(profile_backend)(timing->profile, &timed);
    be = &timed;
  }
  enum status s = open_trainer(&t, be, solver);
  if (s == OK)
    s = time_repetitions(&t, timing);
  close_trainer(&t);
  return s;
}
#endif
