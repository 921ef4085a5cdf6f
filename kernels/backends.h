/* backends.h: the tables of the CPU's instruction sets, and which of them this machine runs. */
#ifndef KERNELS_BACKENDS_H
#define KERNELS_BACKENDS_H
#include "core/status.h"
#include <stdbool.h>

struct backend_f32;
struct backend_f64;
struct backend_c64;

struct backend_cpu {
  const char *isa; /* "cpu" (baseline), "cpu_v3" (AVX2), "cpu_v4" (AVX-512) */
  const struct backend_f32 *f32;
  const struct backend_f64 *f64;
};

/* Baseline, in libdeqmamba_complex.a: complex double, for derivatives by complex step. */
extern const struct backend_c64 backend_cpu_c64;

/* Number of compiled tables, baseline first, best last; *all points to them. */
int backend_cpu_list(const struct backend_cpu **all);
/* Whether this machine runs that instruction set. */
bool backend_cpu_supported(const struct backend_cpu *b);
/* The best table this machine runs, or the one that the environment variable DEQMAMBA_ISA names.
 * ERR_USAGE when it names none, or one that this machine lacks. */
MUST_USE enum status backend_cpu_select(struct backend_cpu *chosen);
#endif
