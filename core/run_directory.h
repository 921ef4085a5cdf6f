/* run_directory.h: a run on disk: config.yaml, metrics.jsonl, checkpoints/step-XXXXXXXX/, and the
 * links `latest` and `best` to two of them.  Whatever moment a run is killed at, `latest` points to
 * a whole checkpoint or does not exist. */
#ifndef CORE_RUN_DIRECTORY_H
#define CORE_RUN_DIRECTORY_H
#include "core/run.h"

enum { RUN_PATH = 2 * CONFIG_PATH };

/* Makes the directory of a run, which is this process's until *lock is closed (-1: no locks on its
 * file system).  ERR_USAGE: a run exists and is neither resumed nor overwritten, what is there is
 * no run, or another process trains it. */
MUST_USE enum status run_directory_prepare(const struct train_options *o, int *lock);
MUST_USE enum status config_write_file(const struct config *c, const char *directory);

/* What the name of a run that is being removed ends in; no run may be called so. */
#define REMOVING ".removing"

/* "checkpoints/step-00000300" */
void checkpoint_name(int64_t step, char out[64]);
/* An empty directory to write a checkpoint into; path in `out` (RUN_PATH). */
MUST_USE enum status checkpoint_begin(const char *run, char *out);
/* What checkpoint_begin made becomes the checkpoint of `step`, and then `latest`. */
MUST_USE enum status checkpoint_commit(const char *run, int64_t step);
/* Before a run is gone on with: `latest` that is missing (a process ended behind its first
 * checkpoint and before the link; a copy without links) becomes a link to the newest checkpoint, if
 * there is one.  ERR_DATA: it points to nothing. */
MUST_USE enum status checkpoint_find_latest(const char *run);
/* The latest checkpoint could not be read: adds to the message the way back to the one before it,
 * if there is one; returns `code`. */
MUST_USE enum status checkpoint_unreadable(const char *run, enum status code);
/* Removes checkpoints later than `step`, and of the others all but the `keep` newest (0: none) and
 * that of `best`, to which the link of that name is pointed (0: there is none). */
MUST_USE enum status checkpoints_prune(const char *run, int64_t step, int64_t keep, int64_t best);
#endif
