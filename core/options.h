/* options.h: what a solve is asked for and what it answers.  Scalars that steer are double in every
 * precision.  Semantics: see solvers/solve.h. */
#ifndef CORE_OPTIONS_H
#define CORE_OPTIONS_H
#include <stdbool.h>
#include <stdint.h>

enum fp_solver { FP_PICARD, FP_ANDERSON, FP_BROYDEN, FP_GMRES, FP_AUTO, FP_SOLVERS };
enum fp_stop { FP_REL, FP_ABS, FP_RMS, FP_MAX };
/* good: secants in z (Broyden's first method, Anderson type I); bad: secants in the residual
 * (Broyden's second, Anderson type II); auto: bad for Anderson, good for Broyden */
enum fp_kind { FP_KIND_AUTO, FP_GOOD, FP_BAD };
/* What Broyden does when all `rank` updates are taken: begins anew, or keeps the half of the rank
 * that matters most. */
enum fp_limit { FP_RESTART, FP_REDUCE };

enum { FP_WINDOW_ALL = 0 };

struct fp_options {
  enum fp_solver solver;
  int64_t max_iter;   /* evaluations of f a sample may take */
  int64_t min_iter;   /* ... must take */
  double tol;         /* a sample has converged when its residual is <= tol */
  enum fp_stop stop;  /* rel: ||f(z)-z|| / ||f(z)||; abs; rms: / sqrt(n); max: largest component */
  double damping;     /* z <- (1-damping) z + damping f(z) */
  int64_t window;     /* FP_WINDOW_ALL: a row is a sample; k: blocks of a sliding window are */
  int64_t admit;      /* window k: blocks that may enter a row behind an evaluation; 0: k */
  bool worst_token;   /* window all: the test applies to every block, not to their common norm */
  bool stop_together; /* all samples go on until the worst has converged */
  bool return_last;   /* an unconverged sample returns its last iterate instead of its best */
  int64_t poll_every; /* iterations between looks at the flags, for which a GPU waits */

  /* anderson, broyden, gmres */
  enum fp_kind kind;
  int64_t memory; /* anderson: differences kept; 0: Picard */
  int64_t rank;   /* broyden: updates kept; gmres: vectors between restarts; 0: Picard */
  enum fp_limit limit;
  int64_t delay;     /* first steps, which are Picard's */
  int64_t mix_every; /* anderson: of so many steps one is accelerated; 0, 1: all */
  int64_t restart;   /* steps after which the history is dropped; 0: never */
  double start;      /* acceleration begins at a residual of at most this; 0: at once */
  double ridge;      /* anderson: added to the normal matrix, whose diagonal is scaled to 1 */
  double condition;  /* anderson: directions beyond this condition are dropped; 0: by rounding */
  double safeguard;  /* a step whose residual is above this times the last is undone; 0: never */
  double max_weight; /* anderson: a step whose weights exceed this is Picard's; 0: no limit */
  bool line_search;  /* broyden: a sample's step is halved until its residual falls */

  /* every solver */
  double divergence; /* diverged: |f(z)-z| above this times the larger of |f(z)-z| and |f(z)| of the
                        first evaluation; 0: never */
  int64_t patience;  /* stagnated: evaluations without a new best; 0: at the rounding floor only */
  bool trace;        /* keep every residual: plans samples*max_iter doubles */
};

#ifdef __cplusplus
extern "C" {
#endif
/* The options that solve a chain of `length` blocks as o asks: `auto` becomes a solver, a window,
 * a memory and a damping; everything else is left alone. */
struct fp_options fp_choose(const struct fp_options *o, int64_t length);
/* Those that solve whole sequences at once: `auto` becomes Picard's method, which keeps the order
 * of a chain. */
struct fp_options fp_simultaneous(const struct fp_options *o);
/* Whether a forward solve with those options can leave an inverse (struct fp_inverse). */
bool fp_leaves_inverse(const struct fp_options *o, int64_t length);
/* "picard, window 8" or "anderson, window all, memory 5": what those options are, for the log. */
enum { FP_DESCRIPTION = 96 };
const char *fp_describe(const struct fp_options *o, char out[FP_DESCRIPTION]);

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

/* What a method did instead of what it is for. */
enum fp_counter {
  FP_RESTARTS,   /* histories dropped: full, asked for, or no progress */
  FP_REJECTIONS, /* steps undone, by the safeguard or the line search */
  FP_FALLBACKS,  /* Picard steps where the method had nothing better */
  FP_REDUCTIONS, /* Broyden's updates reduced to half their number */
  FP_COUNTERS
};

/* The answer.  Arrays are the caller's, on the host, one entry a sample (rows, or rows*length when
 * a window is asked for), or NULL. */
struct fp_result {
  int32_t *iterations; /* evaluations of f that the sample took part in */
  double *residual;    /* of the returned iterate, undamped, in the units of `stop` */
  uint8_t *exit;       /* enum fp_exit */
  double *trace;       /* (.,max_iter) residual of each evaluation, the guess's first; o->trace */
  /* totals */
  int64_t samples, evaluations; /* samples; calls of f (the serial depth) */
  int64_t block_evaluations;    /* blocks evaluated, summed over the calls */
  int64_t exits[FP_EXITS];      /* samples by exit */
  int64_t counters[FP_COUNTERS];
  double worst_residual, mean_iterations;
  int64_t max_iterations;
};

/* The larger of two residuals; not-a-number is the worst, and stays. */
double worse_of(double a, double b);

/* The totals of `sum` take in those of r, a solve of other samples. */
void fp_result_add(struct fp_result *sum, const struct fp_result *r);

const char *fp_exit_name(enum fp_exit e);
/* How most of the samples that have not converged ended; "converged" where all have. */
const char *fp_failure_name(const struct fp_result *r);
const char *fp_solver_name(enum fp_solver s);
#ifdef __cplusplus
}
#endif
#endif
