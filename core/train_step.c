/* train_step.c: one step of training: sequences, gradient, clipping, AdamW; what is not finite; the
 * evaluation on the way.
 *
 * A step is a function of (parameters, moments, trainer state, step number, seed): every batch can
 * be replayed, so a run that was stopped and resumed goes on as if it had not been. */
#include "core/files.h"
#include "core/flops.h"
#include "core/trainer.h"
#include <unistd.h>

#if REAL_BITS != 128

enum { MEAN_STEPS = 32, MEAN_BEGINS = 8 };
static const double spike_height = 0.1; /* what a spike is above the mean at least, in nats */

#if REAL_BITS == 32
double learning_rate(const struct train_config *t, int64_t step)
{
  double lr = t->lr;
  if (step < t->lr_warmup)
    return lr * (double)(step + 1) / (double)t->lr_warmup;
  double decay = fmin(t->decay_fraction * (double)t->steps, (double)(t->steps - t->lr_warmup));
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

enum status trainer_check_finite(struct trainer *t)
{
  static const struct {
    int set;
    const char *what;
  } sets[] = {{SET_PARAMETERS, "parameter"},
              {SET_MOMENT1, "first moment of"},
              {SET_MOMENT2, "second moment of"}};
  char checkpoint[RUN_PATH];
  const char *name;
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
    TRY(first_not_finite(t, sets[i].set, &name));
    if (!name)
      continue;
    last_checkpoint(t, checkpoint, sizeof checkpoint);
    FAIL(ERR_NUMERIC,
         "step %lld: not finite after its update (lr %g): %s %s; no checkpoint of it is written; "
         "the last good checkpoint: %s",
         (long long)t->state.step, learning_rate(&t->c->train, t->state.step - 1), sets[i].what,
         name, checkpoint);
  }
  return OK;
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

enum status trainer_step(struct trainer *t, struct step_report *r)
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

enum status trainer_evaluate(struct trainer *t, struct step_report *r)
{
  const struct config *c = t->c;
  int64_t length = c->data.length, sequences = c->evaluate.sequences, labels = 0, correct = 0;
  int64_t broken = 0, solves = 0;
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
    broken += result.forward.exits[FP_NOT_FINITE];
    solves += result.forward.samples;
  }
  r->evaluated = true;
  r->eval_loss = loss / (double)labels;
  r->eval_accuracy = (double)correct / (double)labels;
  if (broken == 0)
    return OK;
  r->eval_loss = r->eval_accuracy = (double)NAN;
  progress_log(&t->progress,
               "step %lld: %lld of %lld solves of its evaluation were not finite: it has no loss "
               "and no accuracy",
               (long long)t->state.step, (long long)broken, (long long)solves);
  return OK;
}
#endif
