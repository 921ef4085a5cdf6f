/* run.h: what programs ask for, whatever the precision: train, evaluate. */
#ifndef CORE_RUN_H
#define CORE_RUN_H
#include "core/evaluation.h"

struct backend_f32;
struct backend_f64;
struct solver_port_f32;
struct solver_port_f64;

/* The device and the solvers, as the program wired them. */
struct runtime {
  const struct backend_f32 *f32;
  const struct backend_f64 *f64;
  const struct solver_port_f32 *solver_f32;
  const struct solver_port_f64 *solver_f64;
  const char *device; /* "cpu (cpu_v4)", "cuda (NVIDIA H200, ...)" */
};

struct train_options {
  const char *directory; /* the run directory */
  bool resume;           /* go on from its latest checkpoint; without one this is beginning */
  bool overwrite;        /* an existing run there is removed first */
  const char *program;   /* how the user calls training, for messages */
};

/* Trains as c says and writes the run directory (README: Files).  c->model.vocab_size is resolved.
 * ERR_USAGE for an existing run, one that another process trains, a text that has changed, steps
 * that are made already; ERR_DATA and ERR_IO for its files; ERR_INTERRUPTED after Ctrl-C with a
 * checkpoint written; ERR_NUMERIC when a loss, a gradient or a solve is not finite. */
MUST_USE enum status train_run(const struct config *c, const struct runtime *rt,
                               const struct train_options *o);

/* Evaluates the model of the checkpoint `dir` on fresh sequences of every length of c->evaluate, in
 * both modes, and what q asks for besides.  After a failure *e is empty. */
MUST_USE enum status evaluate_run(const struct config *c, const struct runtime *rt, const char *dir,
                                  const struct evaluation_request *q, struct evaluation *e);

/* How a mode of c solves sequences of a length, `auto` resolved. */
struct fp_options evaluate_solve(const struct config *c, enum evaluate_mode mode, int64_t length);

/* What is wanted of given tokens: safetensors FILEs, or NULL. */
struct given_request {
  const char *tokens, *logits, *gradients;
};
MUST_USE enum status evaluate_given(const struct config *c, const struct runtime *rt,
                                    const char *dir, const struct given_request *o);

/* Where a run lives, and the checkpoint that a user's DIR (run or checkpoint) means. */
MUST_USE enum status run_directory(const struct config *c, char *out, size_t size);
MUST_USE enum status checkpoint_resolve(const char *dir, char *out, size_t size);
/* Resolves what follows from the data: model.vocab_size. */
MUST_USE enum status config_resolve(struct config *c);
#endif
