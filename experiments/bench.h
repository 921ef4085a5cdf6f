/* bench.h: what a benchmark reports, as a table and as JSON. */
#ifndef EXPERIMENTS_BENCH_H
#define EXPERIMENTS_BENCH_H
#include "core/run.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct bench_result {
  char name[96], unit[16];
  double value, low, high; /* median of the runs, and their extremes */
  double limit;            /* what the machine or an acceptance allows; NaN: none known */
  double peer;             /* what another program reached; NaN: not measured */
};

struct bench_results {
  struct bench_result *result;
  int64_t count, room;
};

/* Adds, and prints, the median and extremes of `runs` values (which are sorted in place).
 * ERR_MEMORY. */
MUST_USE enum status bench_add(struct bench_results *r, const char *name, const char *unit,
                               int runs, double *value, double limit, double peer);
/* The same without printing. */
MUST_USE enum status bench_record(struct bench_results *r, const char *name, const char *unit,
                                  int runs, double *value, double limit, double peer);
double bench_seconds(void);                    /* monotonic */
double bench_median(int count, double *value); /* sorts them */

/* The best of a few runs, all threads together. */
struct bench_limits {
  double flops_per_second, bytes_per_second;
};
struct bench_request;
/* Adds both limits of the request's device, and prints them (bench_limits.c). */
MUST_USE enum status bench_measure_limits(const struct bench_request *q, struct bench_results *r,
                                          struct bench_limits *limits);
/* Whether the request's device is a GPU. */
bool bench_on_gpu(const struct bench_request *q);

/* Runs `script` of this directory with python: it prints a JSON object that names its `version`;
 * answer[i] becomes the median of the list name[i], which is printed unless unit is NULL.  A script
 * or package that is missing leaves `answer` alone, with a reason printed (bench_peer.c). */
MUST_USE enum status bench_peer(const char *script, const char *arguments, const char *unit,
                                int measures, const char *const *name, double *answer);
/* What --json wrote earlier, the caller's to release (bench_against.c).  ERR_IO, ERR_DATA. */
MUST_USE enum status bench_earlier(const char *path, json_t **earlier);
/* Prints how results relate to those of the same name in what the file `path` held. */
void bench_against(const struct bench_results *r, const char *path, const json_t *earlier);

/* The model as peers are told it: "V=6 D=64 ..."; false for a model, or options of a model, that
 * they do not have, which bench_peer_lacks() puts into words. */
bool bench_peer_model(const struct config *c, char *out, size_t size);
const char *bench_peer_lacks(void);

/* What a benchmark is asked for. */
struct jacobian_runtime;
struct bench_request {
  const struct runtime *rt;
  const struct jacobian_runtime *jacobian;
  const struct config *config;
  const char *checkpoint; /* decode: whose parameters; NULL: none was given */
  bool profile, no_peer;
  double seconds;               /* a repetition takes at least */
  const char *const *directory; /* (directories) runs or checkpoints, for `solvers` */
  int directories;
  const char *const *override; /* (overrides) of their configurations */
  int overrides;
  struct bench_limits limits;
};

/* Tokens/s of both phases of training, and time by operation (bench_train.c). */
MUST_USE enum status bench_train(const struct bench_request *q, struct bench_results *r);
/* Time a call of every operation of a training step. */
MUST_USE enum status bench_kernels(const struct bench_request *q, struct bench_results *r);
/* Tokens/s one token after the other, of an implicit and an explicit model (bench_decode.c). */
MUST_USE enum status bench_decode(const struct bench_request *q, struct bench_results *r);
/* Time a token by length, layers and iterations, and memory (bench_scaling.c). */
MUST_USE enum status bench_scaling(const struct bench_request *q, struct bench_results *r);
/* Bytes that training takes, as README.md has it: implicit models, Picard's method, windows all,
 * without MLP.  vocab_size is resolved. */
double bench_memory_formula(const struct config *c);

/* What the fixed-point solvers cost and reach (bench_solvers.c). */
MUST_USE enum status bench_solvers(const struct bench_request *q, struct bench_results *r);

/* Time and memory of a whole verification by the size of the state (bench_jacobian.c). */
MUST_USE enum status bench_jacobian(const struct bench_request *q, struct bench_results *r);
#endif
