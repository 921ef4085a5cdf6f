/* registry.h: the solvers as compiled for each instruction set; beside kernels/backends.h. */
#ifndef SOLVERS_REGISTRY_H
#define SOLVERS_REGISTRY_H

struct solver_port_f32;
struct solver_port_f64;
struct solver_port_c64;

struct solver_ports {
  const struct solver_port_f32 *f32;
  const struct solver_port_f64 *f64;
};

/* The solvers for an instruction set as backends.h names it; the baseline's when unknown. */
struct solver_ports solver_ports_for(const char *isa);

/* Baseline, in libdeqmamba_complex.a. */
extern const struct solver_port_c64 fixed_point_solvers_cpu_c64;
#endif
