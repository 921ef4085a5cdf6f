/* train_log.c: what training says: metrics, TensorBoard events, progress, warnings. */
#include "core/trainer.h"
#include <string.h>

#if REAL_BITS != 128

static void log_number(struct trainer *t, const char *key, double value)
{
  metrics_double(&t->metrics, key, value);
  if (t->tensorboard.out)
    tensorboard_scalar(&t->tensorboard, key, value);
}

static void log_integer(struct trainer *t, const char *key, int64_t value)
{
  metrics_int(&t->metrics, key, value);
  if (t->tensorboard.out)
    tensorboard_scalar(&t->tensorboard, key, (double)value);
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
    log_integer(t, "shine_fallbacks", r->fallbacks);
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
  log_integer(t, "tokens", t->state.tokens);
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
  if (r->spike && t->tensorboard.out)
    tensorboard_scalar(&t->tensorboard, "spike", 1);
  if (c->skip_nonfinite)
    log_integer(t, "skipped", t->state.skipped);
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
    (void)snprintf(solve + used, sizeof solve - used, "  converged %.1f %% (%s)", 100 * share,
                   fp_failure_name(&r->forward));
  }
  if (r->evaluated)
    (void)snprintf(evaluated, sizeof evaluated, "  evaluated: loss %.4f accuracy %.3f",
                   shown(r->eval_loss), shown(r->eval_accuracy));
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
      "(%s) may be of no use to this model; try a smaller damping, more iterations, a window, or "
      "another solver",
      (long long)t->state.step, r->forward.worst_residual, fp_describe(&o, what));
}

enum status trainer_report(struct trainer *t, const struct step_report *r)
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

/* What `auto` stands for. */
static void log_choice(struct trainer *t, const char *section, const struct fp_options *o,
                       struct fp_options chosen)
{
  char what[FP_DESCRIPTION];
  if (t->c->model.kind == MODEL_IMPLICIT && o->solver == FP_AUTO)
    progress_log(&t->progress, "%s: auto is %s", section, fp_describe(&chosen, what));
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

/* A text that is too short for evaluate.lengths is known before it has been trained on. */
static void log_lengths(struct trainer *t)
{
  for (int64_t i = 0; i < t->c->evaluate.lengths_count; i++)
    if (data_require(&t->data, STREAM_EVALUATE, t->c->evaluate.lengths[i], "evaluate.lengths")) {
      progress_log(&t->progress, "evaluate will refuse this run: %s", last_error());
      return;
    }
}

/* Training that ends before the gradient that was asked for begins. */
static void log_gradient(struct trainer *t)
{
  const struct config *c = t->c;
  if (c->model.kind == MODEL_IMPLICIT && c->deq.gradient != GRADIENT_UNROLL &&
      c->train.unroll_steps >= c->train.steps)
    progress_log(&t->progress,
                 "deq.gradient: %s begins behind train.unroll_steps %lld, which these %lld steps "
                 "do not reach",
                 gradient_name(c->deq.gradient), (long long)c->train.unroll_steps,
                 (long long)c->train.steps);
}

/* What only a solve could do. */
static void log_unused(struct trainer *t)
{
  const struct config *c = t->c;
  const struct {
    const char *key;
    bool given;
  } unused[] = {{"deq.correction.states", c->deq.correction.states > 1},
                {"deq.jacobian_regularisation.weight", c->deq.regularisation.weight > 0},
                {"train.report.spectral_radius", c->train.report_spectral_radius > 0},
                {"train.report.gradient_cosine", c->train.report_gradient_cosine > 0}};
  for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
    if (c->model.kind == MODEL_EXPLICIT && unused[i].given)
      progress_log(&t->progress, "%s: of no effect, the model is explicit", unused[i].key);
}

void trainer_say_choices(struct trainer *t)
{
  const struct deq_config *deq = &t->c->deq;
  int64_t length = t->c->data.length;
  log_gradient(t);
  log_lengths(t);
  log_unused(t);
  log_choice(t, "deq.forward", &deq->forward, fp_choose(&deq->forward, length));
  log_choice(t, "deq.backward", &deq->backward, fp_choose(&deq->backward, length));
  if (t->c->train.evaluate_every)
    log_choice(t, "deq.evaluate", &deq->evaluate, t->evaluating);
  log_shine(t);
}
#endif
