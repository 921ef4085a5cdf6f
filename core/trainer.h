/* trainer.h: what the training loop works with, and its parts; private to train*.c. */
#ifndef CORE_TRAINER_H
#define CORE_TRAINER_H
#include "core/checkpoint.h"
#include "core/data.h"
#include "core/gradient_report.h"
#include "core/metrics.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/shards.h"
#include "core/tensorboard.h"
#include "core/training.h"

#define drawing NAME(drawing)
#define trainer NAME(trainer)
#define trainer_open NAME(trainer_open)
#define trainer_close NAME(trainer_close)
#define trainer_batch_bytes NAME(trainer_batch_bytes)
#define trainer_evaluated_rows NAME(trainer_evaluated_rows)
#define trainer_step NAME(trainer_step)
#define trainer_check_finite NAME(trainer_check_finite)
#define trainer_evaluate NAME(trainer_evaluate)
#define trainer_report NAME(trainer_report)
#define trainer_say_choices NAME(trainer_say_choices)

/* The sequences of a step. */
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
  struct fp_options evaluating;         /* how the latter solves */
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

/* ---- trainer.c ---- */

/* Everything of *t but its files; c, o and metrics.fd = -1 are given; trainer_close in any case.
 */
MUST_USE enum status trainer_open(struct trainer *t, const struct backend *be,
                                  const struct solver_port *solver);
void trainer_close(struct trainer *t);
/* Bytes of the trainer's own arrays. */
size_t trainer_batch_bytes(const struct config *c, const struct backend *be);
/* Sequences that train.evaluate_every evaluates at a time. */
int64_t trainer_evaluated_rows(const struct config *c);

/* ---- train_step.c ---- */

/* Batch, gradient, clipping, AdamW.  ERR_NUMERIC: not finite, and not to be skipped. */
MUST_USE enum status trainer_step(struct trainer *t, struct step_report *r);
/* ERR_NUMERIC names what is not finite of what a checkpoint holds. */
MUST_USE enum status trainer_check_finite(struct trainer *t);
/* On the first sequences of the stream that `evaluate` uses, at the training length.  NaN where a
 * solve was not finite. */
MUST_USE enum status trainer_evaluate(struct trainer *t, struct step_report *r);

/* ---- train_log.c ---- */

/* The step into metrics, events and progress, as far as it is its turn. */
MUST_USE enum status trainer_report(struct trainer *t, const struct step_report *r);
/* What `auto` and `shine` stand for in this run. */
void trainer_say_choices(struct trainer *t);

/* Printed without the sign that a NaN may have. */
static inline double shown(double x) { return x != x ? (double)NAN : x; }
#endif
