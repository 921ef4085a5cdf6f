/* compare_parts.h: how a comparison comes about; private to compare*.c. */
#ifndef EXPERIMENTS_COMPARE_PARTS_H
#define EXPERIMENTS_COMPARE_PARTS_H
#include "experiments/compare.h"
#include "experiments/exchange.h"

struct progress;

/* ---- runs (compare_run.c) ---- */

/* Which settings a run is evaluated with, beside its own. */
struct compare_settings {
  int overrides;
  const char *const *override;
  const struct compared_run *like; /* evaluate.* are those of this run; NULL: its own */
};

/* Finds the run's checkpoint, configuration, training state and curve.  ERR_DATA: `dir` is no run,
 * or one without a checkpoint; ERR_IO, ERR_USAGE as config_load. */
MUST_USE enum status compared_run_open(const char *dir, const struct compare_settings *s,
                                       struct compared_run *run);
void compared_run_free(struct compared_run *run);
/* Reads what was measured before, if the checkpoint and all settings are those of then: *found. */
MUST_USE enum status compared_run_recall(struct compared_run *run, bool *found);
/* Measures and keeps it beside the checkpoint's run. */
MUST_USE enum status compared_run_measure(const struct runtime *rt, struct progress *p,
                                          struct compared_run *run);
/* Everything but the configuration and the curve. */
void exchange_run(struct exchange *x, struct compared_run *run);

/* compare_jacobian.c; a model without one says why in `missing`. */
MUST_USE enum status compared_jacobian_take(const struct config *c, const struct runtime *rt,
                                            const char *checkpoint, struct compared_jacobian *j);

/* ---- sections and groups (compare_group.c) ---- */

/* Adds a run, which *run no longer owns.  Runs of a section must be of
 * one kind of data: ERR_USAGE with the reason. */
MUST_USE enum status comparison_add(struct comparison *c, const char *section,
                                    struct compared_run *run);
/* ERR_USAGE where the runs of two configurations, c of `run` and other of `first`, are not on the
 * same kind of data. */
MUST_USE enum status compared_same_data(const char *run, const struct config *c, const char *first,
                                        const struct config *other);
/* The next key from number `from` in which two configurations differ and that says what a run is,
 * not its name, seed or place or how it is looked at; -1: none. */
int compared_difference(const struct config *a, const struct config *b, int from);
/* Groups what has been added.  Nothing may be added behind. */
MUST_USE enum status comparison_group(struct comparison *c);
void comparison_free(struct comparison *c);

#endif
