/* bench_solvers.h: what `bench solvers` is made of. */
#ifndef EXPERIMENTS_BENCH_SOLVERS_H
#define EXPERIMENTS_BENCH_SOLVERS_H
#include "core/solve_timing.h"
#include "experiments/bench.h"

/* KINSOL's fixed point with Anderson's acceleration (m = 0: Picard), in float64 on one thread: the
 * same timings as map_timed's, `t->options` telling max_iter, memory and tol (of the largest
 * component).  t->result: evaluations, and whether it converged (bench_kinsol.c). */
bool kinsol_is_here(void);
const char *kinsol_version(void);
MUST_USE enum status kinsol_timed(const struct timed_map *map, const double *guess,
                                  struct solve_timing *t);

/* The time per unknown and iteration of every method, the map excluded, beside KINSOL's and
 * TorchDEQ's (bench_solver_cost.c). */
MUST_USE enum status bench_solver_cost(const struct bench_request *q, struct bench_results *r);
/* Evaluations and time to a tolerance on small problems from the literature, beside theirs
 * (bench_solver_problems.c). */
MUST_USE enum status bench_solver_problems(const struct bench_request *q, struct bench_results *r);
/* Evaluations a token, serial depth and time to a tolerance on a run's model, by solver and window
 * (bench_solver_models.c). */
MUST_USE enum status bench_solver_models(const struct bench_request *q, struct bench_results *r);

/* Options that name a solver and leave everything else as the configuration's defaults. */
struct fp_options bench_solver_options(const struct bench_request *q, enum fp_solver solver);
#endif
