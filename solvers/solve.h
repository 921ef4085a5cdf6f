/* solve.h: what every fixed-point solver does; the methods differ only in their step.
 *
 * A sample is a row (window: all) or a block of a row (window: k).  Its residual is that of the
 * undamped map at the iterate that is returned; its iterations are the evaluations of f it took
 * part in.  A sample stops on its own and is frozen; rows that have finished are dropped from the
 * batch when enough of them have.  An unconverged sample returns its best finite iterate.
 *
 * Window k: of each row only k blocks are active.  The leading blocks that have converged retire:
 * the map takes them into its carried state, and new blocks enter behind, from the guess.  A block
 * that leads and must leave unconverged is evaluated once more at its best iterate, so that the
 * state that is carried is that of the iterate that is returned.
 *
 * Decisions are kernels over flags on the device; the host polls every `poll_every` iterations. */
#ifndef SOLVERS_SOLVE_H
#define SOLVERS_SOLVE_H
#include "core/fixed_point.h"

#define fp_solve OP(fp_solve)
#define fp_plan OP(fp_plan)
#ifdef __cplusplus
extern "C" {
#endif
MUST_USE fp_solve_fn fp_solve;
MUST_USE fp_plan_fn fp_plan;
#ifdef __cplusplus
}
#endif

/* What a step does with a sample. */
enum fp_action { FP_STEP, FP_HOLD, FP_REPLAY };

/* The packed iterates and what is known of each sample; all on the device. */
#define fp_samples NAME(fp_samples)
struct fp_samples {
  int64_t rows, blocks, n;              /* packed now */
  int64_t per_row;                      /* samples a row: 1, or blocks */
  DEVICE real *z, *fz, *best;           /* (rows,blocks,n) */
  DEVICE double *square, *reference;    /* (rows,blocks): ||fz-z||^2 or max|fz-z|; same of fz */
  DEVICE int32_t *row, *first, *count;  /* (rows) */
  DEVICE int32_t *retired;              /* (rows) blocks that leave after this evaluation */
  DEVICE int32_t *iterations;           /* (rows,per_row) from here */
  DEVICE double *now, *best_residual;   /* residual of z, and of best (infinite: none measured) */
  DEVICE uint8_t *exit, *action, *keep; /* enum fp_exit; enum fp_action; copy z to best */
};

/* A method's step: z of every sample whose action is FP_STEP becomes the next iterate. */
#define fp_method NAME(fp_method)
struct fp_method {
  const char *name;
  void (*step)(stream st, const struct fp_samples *s, const struct fp_options *o);
};
#define picard OP(picard)
extern const struct fp_method picard;
#endif
