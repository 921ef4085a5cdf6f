/* options.h: what a solve is asked for and what it answers.  Scalars that steer are double in every
 * precision.  Semantics: see solvers/solve.h. */
#ifndef CORE_OPTIONS_H
#define CORE_OPTIONS_H
#include <stdbool.h>
#include <stdint.h>

enum fp_solver { FP_PICARD, FP_SOLVERS };
enum fp_stop { FP_REL, FP_ABS, FP_RMS, FP_MAX };

enum { FP_WINDOW_ALL = 0 };

struct fp_options {
  enum fp_solver solver;
  int64_t max_iter;   /* evaluations of f a sample may take */
  int64_t min_iter;   /* ... must take */
  double tol;         /* a sample has converged when its residual is <= tol */
  enum fp_stop stop;  /* rel: ||f(z)-z|| / ||f(z)||; abs; rms: / sqrt(n); max: largest component */
  double damping;     /* z <- (1-damping) z + damping f(z) */
  int64_t window;     /* FP_WINDOW_ALL: a row is a sample; k: blocks of a sliding window are */
  bool worst_token;   /* window all: the test applies to every block, not to their common norm */
  bool stop_together; /* all samples go on until the worst has converged */
  bool return_last;   /* an unconverged sample returns its last iterate instead of its best */
  int64_t poll_every; /* GPU: iterations between looks at the flags */
};

enum fp_exit {
  FP_RUNNING,
  FP_CONVERGED,
  FP_MAX_ITER,
  FP_NOT_FINITE,
  FP_STAGNATED,
  FP_DIVERGED,
  FP_BREAKDOWN,
  FP_EXITS
};

/* The answer.  Arrays are the caller's, on the host, one entry a sample (rows, or rows*length when
 * a window is asked for), or NULL. */
struct fp_result {
  int32_t *iterations; /* evaluations of f that the sample took part in */
  double *residual;    /* of the returned iterate, undamped, in the units of `stop` */
  uint8_t *exit;       /* enum fp_exit */
  /* totals */
  int64_t samples, evaluations; /* samples; calls of f (the serial depth) */
  int64_t block_evaluations;    /* blocks evaluated, summed over the calls */
  int64_t exits[FP_EXITS];      /* samples by exit */
  double worst_residual, mean_iterations;
  int64_t max_iterations;
};

const char *fp_exit_name(enum fp_exit e);
#endif
