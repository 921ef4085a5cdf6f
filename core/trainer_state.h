/* trainer_state.h: what a training run knows beside its tensors, as trainer.json keeps it. */
#ifndef CORE_TRAINER_STATE_H
#define CORE_TRAINER_STATE_H
#include "core/config.h"

struct trainer_state {
  int64_t step, tokens; /* completed; labels that counted in them */
  int64_t skipped;      /* steps whose loss or gradient was not finite */
  double loss_mean;     /* running, over the steps that were not skipped */
  int64_t best_step;    /* of the best evaluation; 0: none yet */
  double best_loss;
  int64_t data; /* the text's fingerprint; 0: none */
  double flops; /* of all steps, core/flops.h */
  /* with train.log_timing only; 0: unknown */
  double seconds;      /* of training, every session's */
  int64_t peak_memory; /* bytes the process held at most, of any session */
};

/* All or nothing; numbers read back exactly.  ERR_IO names the file. */
MUST_USE enum status trainer_state_write(const char *path, const struct config *c,
                                         const struct trainer_state *s);
/* ERR_IO, ERR_DATA with "path: what". */
MUST_USE enum status trainer_state_read(const char *path, struct trainer_state *s);
#endif
