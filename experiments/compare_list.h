/* compare_list.h: a list of configurations and seeds that are trained and compared.
 *
 *   compare:
 *     title: Word problems             # of the report; default: the file's name
 *     runs_dir: runs/word_problems     # where the runs lie; from the working directory; required
 *     output: out                      # tables and report; default: RUNS_DIR/compare
 *     seeds: [0, 1, 2]                 # of every configuration; default: [0]
 *     jobs: auto                       # runs at a time; auto: as many as there are cores
 *     set: ["train.steps=900"]         # key.path=value of every run
 *     evaluate: ["evaluate.sequences=128"]  # the same for the comparison alone
 *     configs:
 *       - config: ../word_problem/s3_implicit.yaml   # relative to this file
 *         label: implicit              # default: the configuration's name
 *         section: S3                  # runs on the same data; default: one section
 *         set: ["model.n_layer=2"]
 *
 * The run of a configuration and a seed is called SECTION-LABEL-sSEED.  name, runs_dir and seed are
 * the list's to say: no override may. */
#ifndef EXPERIMENTS_COMPARE_LIST_H
#define EXPERIMENTS_COMPARE_LIST_H
#include "core/yaml_events.h"
#include "experiments/compare.h"

enum { LIST_SEEDS = 64, LIST_ENTRIES = 256, LIST_WORDS = 64 };

/* Texts; owned. */
struct word_list {
  int count;
  char *word[LIST_WORDS];
};

struct list_entry {
  size_t line, column; /* of its `config` in the list's file */
  char config[COMPARE_PATH];
  char label[COMPARE_LABEL], section[CONFIG_WORD];
  bool labelled; /* in the file */
  struct word_list set;
};

struct compare_list {
  const char *file;
  char title[COMPARE_LABEL], runs_dir[CONFIG_PATH], output[COMPARE_PATH];
  int64_t seeds[LIST_SEEDS], seeds_count, jobs; /* jobs 0: auto */
  struct word_list set, evaluate;
  int64_t entries;
  struct list_entry *entry;
};

/* ERR_USAGE with "file:line:column: message", ERR_IO.  After a failure *l is empty. */
MUST_USE enum status compare_list_read(const char *file, struct compare_list *l);
void compare_list_free(struct compare_list *l);

/* One configuration with one seed. */
struct list_run {
  const struct list_entry *entry;
  struct config config;
  char directory[COMPARE_PATH], log[COMPARE_PATH];
  struct word_list set;   /* every override of its training */
  bool trained, measured; /* finished */
  bool failed;            /* its program ended with an error: see log */
};

/* Every run of the list, checked; *runs (*count) is to be released by list_runs_free. */
MUST_USE enum status list_runs_make(const struct compare_list *l, struct list_run **runs,
                                    int64_t *count);
void list_runs_free(struct list_run *runs, int64_t count);

/* Trains what is missing, resumes what stopped, and measures; `evaluate`: of the run's section,
 * overrides for the measuring.  ERR_INTERRUPTED after Ctrl-C.  Runs whose programs fail are marked.
 * (compare_train.c) */
MUST_USE enum status list_runs_work(const struct compare_list *l, struct list_run *runs,
                                    int64_t count);
/* The overrides that the comparison evaluates a run with: l->evaluate, and the lengths and number
 * of sequences of the first run of its section. */
MUST_USE enum status list_run_evaluation(const struct compare_list *l, const struct list_run *runs,
                                         const struct list_run *run, struct word_list *words);
MUST_USE enum status word_list_add(struct word_list *w, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void word_list_free(struct word_list *w);
#endif
