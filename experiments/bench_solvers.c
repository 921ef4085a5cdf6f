/* bench_solvers.c: what the solvers themselves cost, and what they reach: per unknown, on problems
 * from the literature, on trained models. */
#include "experiments/bench_solvers.h"

struct fp_options bench_solver_options(const struct bench_request *q, enum fp_solver solver)
{
  struct fp_options o = q->config->deq.forward;
  o.solver = solver;
  return o;
}

enum status bench_solvers(const struct bench_request *q, struct bench_results *r)
{
  if (q->directories > 0)
    return bench_solver_models(q, r);
  TRY(bench_solver_cost(q, r));
  return bench_solver_problems(q, r);
}
