/* checkpoint.h: everything a run needs to go on exactly, in a directory of its own. */
#ifndef CORE_CHECKPOINT_H
#define CORE_CHECKPOINT_H
#include "core/run_directory.h"
#include "core/trainer_state.h"
#include "core/weights.h"

/* The sets of a trainer's weights. */
enum { SET_PARAMETERS, SET_GRADIENT, SET_MOMENT1, SET_MOMENT2, TRAINER_SETS };

#define checkpoint_write NAME(checkpoint_write)
#define checkpoint_read NAME(checkpoint_read)

/* Writes the checkpoint of s->step into the run's directory: all of it or nothing. */
MUST_USE enum status checkpoint_write(const struct config *c, const struct weights *w,
                                      const struct trainer_state *s, const char *run);
MUST_USE enum status checkpoint_read(const char *directory, struct weights *w,
                                     struct trainer_state *s);
#endif
