/* jacobian_runtime.h: devices and solvers of a verification; for programs that link the complex
 * build. */
#ifndef EXPERIMENTS_JACOBIAN_RUNTIME_H
#define EXPERIMENTS_JACOBIAN_RUNTIME_H
#include "core/run.h"
#include "core/verification.h"
#include "kernels/backends.h"
#include "solvers/registry.h"

static inline struct jacobian_runtime jacobian_runtime(const struct runtime *rt)
{
  return (struct jacobian_runtime){rt->f64, &backend_cpu_c64, rt->solver_f64,
                                   &fixed_point_solvers_cpu_c64, jacobian_complex_step};
}
#endif
