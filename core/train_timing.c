/* train_timing.c: how much memory training takes, and how fast its steps are: for bench. */
#include "core/interrupt.h"
#include "core/profile.h"
#include "core/trainer.h"

#if REAL_BITS != 128

static enum status measure_memory(const struct config *c, const struct weights *w,
                                  const struct solver_port *solver, struct train_memory *m)
{
  m->parameters = w->device.size + w->host.size;
  m->batches = trainer_batch_bytes(c, w->m.be);
  TRY(shards_measure(&w->m, &c->deq, NULL, solver, c->train.batch_size, c->data.length,
                     &m->learner));
  if (!c->train.evaluate_every)
    return OK;
  return shards_measure(&w->m, &c->deq, &c->deq.evaluate, solver, trainer_evaluated_rows(c),
                        c->data.length, &m->evaluation);
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
    TRY(trainer_step(t, &r));
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
  enum status s = trainer_open(&t, be, solver);
  if (s == OK)
    s = time_repetitions(&t, timing);
  trainer_close(&t);
  return s;
}
#endif
