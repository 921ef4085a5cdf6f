/* solve.h: what every fixed-point solver does; the methods differ only in their step.
 *
 * A sample is a row (window: all) or a block of a row (window: k).  Its residual is that of the
 * undamped map at the iterate that is returned; its iterations are the evaluations of f it took
 * part in.  A sample stops on its own and is frozen; rows that have finished are dropped from the
 * batch when enough of them have.  An unconverged sample returns its best finite iterate.
 *
 * Window k: of each row at most k blocks are active.  The leading blocks that have converged
 * retire: the map takes them into its carried state, and new blocks enter behind, from the guess,
 * at most `admit` of a row behind an evaluation, once damped steps have taken the last one more
 * than half of its way: blocks that enter behind one that is still at its guess go astray, and need
 * longer from there than from the guess (admit: all, they enter at once).  A block that leads and
 * must leave unconverged is evaluated once more at its best iterate, so that the state that is
 * carried is that of the iterate that is returned.  stop_together and worst_token mean something in
 * window: all only.
 *
 * Exits: converged; max_iter; not finite (f(z) or a norm is not); stagnated (no new best for
 * `patience` evaluations, or for 8 at the floor that rounding leaves); diverged; breakdown (the
 * method has nothing left to try, as GMRES on a singular system).  No memory is taken in a solve.
 *
 * Decisions are kernels over flags on the device; the host polls every `poll_every` iterations. */
#ifndef SOLVERS_SOLVE_H
#define SOLVERS_SOLVE_H
#include "core/fixed_point.h"

#define fp_solve OP(fp_solve)
#define fp_plan OP(fp_plan)
#define fp_transpose OP(fp_transpose)
#ifdef __cplusplus
extern "C" {
#endif
MUST_USE fp_solve_fn fp_solve;
MUST_USE fp_plan_fn fp_plan;
MUST_USE fp_transpose_fn fp_transpose; /* inverse.c */
#ifdef __cplusplus
}
#endif
#endif
