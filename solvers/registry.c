/* registry.c: which compilation of the solvers goes with which instruction set. */
#include "solvers/registry.h"
#include <string.h>

extern const struct solver_port_f32 fixed_point_solvers_cpu_f32;
extern const struct solver_port_f64 fixed_point_solvers_cpu_f64;
#ifdef ISA_LEVELS
extern const struct solver_port_f32 fixed_point_solvers_cpu_v3_f32, fixed_point_solvers_cpu_v4_f32;
extern const struct solver_port_f64 fixed_point_solvers_cpu_v3_f64, fixed_point_solvers_cpu_v4_f64;
#endif

struct solver_ports solver_ports_for(const char *isa)
{
#ifdef ISA_LEVELS
  if (strcmp(isa, "cpu_v4") == 0)
    return (struct solver_ports){&fixed_point_solvers_cpu_v4_f32, &fixed_point_solvers_cpu_v4_f64};
  if (strcmp(isa, "cpu_v3") == 0)
    return (struct solver_ports){&fixed_point_solvers_cpu_v3_f32, &fixed_point_solvers_cpu_v3_f64};
#endif
  (void)isa;
  return (struct solver_ports){&fixed_point_solvers_cpu_f32, &fixed_point_solvers_cpu_f64};
}
