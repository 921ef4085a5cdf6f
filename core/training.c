/* training.c: the training loop: steps, evaluations, metrics and checkpoints, from the first step
 * or from a checkpoint on, until the last or Ctrl-C. */
#include "core/files.h"
#include "core/interrupt.h"
#include "core/trainer.h"
#include <sys/resource.h>
#include <unistd.h>

#if REAL_BITS != 128

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
  TRY(check_data(t));
  /* the last that may be refused: until here the run is as it was */
  TRY(metrics_truncate_after(metrics, s->step));
  if (resumes) {
    TRY(checkpoints_prune(t->o->directory, s->step, t->c->train.keep, s->best_step));
    progress_log(&t->progress, "going on from %s, step %lld", latest, (long long)s->step);
  }
  if (!finished)
    TRY(config_write_file(t->c, t->o->directory));
  trainer_say_choices(t);
  TRY(metrics_open(metrics, &t->metrics));
  return t->c->train.tensorboard ? tensorboard_open(t->o->directory, s->step, &t->tensorboard) : OK;
}

static enum status close_logs(struct trainer *t)
{
  enum status metrics = metrics_close(&t->metrics);
  enum status events = tensorboard_close(&t->tensorboard);
  return metrics == OK ? events : metrics;
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
  TRY(trainer_check_finite(t)); /* before older ones make room */
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
  TRY(trainer_step(t, &r));
  t->skipped = !r.finite;
  if (c->evaluate_every && (t->state.step % c->evaluate_every == 0 || t->state.step == c->steps))
    TRY(trainer_evaluate(t, &r));
  TRY(trainer_report(t, &r));
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
    FAIL(ERR_INTERRUPTED, "stopped at step %lld, checkpoint written; go on with: %s --resume %s",
         (long long)t->state.step, shell_quoted(t->o->program ? t->o->program : "train").text,
         shell_quoted(t->o->directory).text);
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
  enum status read = trainer_state_read(path, &made);
  if (read == ERR_DATA)
    return checkpoint_unreadable(o->directory, read);
  TRY(read);
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
  enum status s = trainer_open(&t, be, solver);
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
  trainer_close(&t);
  if (lock >= 0)
    (void)close(lock);
  if (s == OK)
    return closed;
  FAIL(s, "%s", first);
}
#endif
