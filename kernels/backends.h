/* backends.h: the tables of the CPU's instruction sets, and which of them this machine runs; the
 * GPU's, out of the plug-in. */
#ifndef KERNELS_BACKENDS_H
#define KERNELS_BACKENDS_H
#include "kernels/plugin.h"

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

/* Loads libdeqmamba_cuda.so and takes the first GPU.  The environment variable DEQMAMBA_CUDA names
 * the file; otherwise it is looked for in the program's directory, the one above, and
 * ../lib/deqmamba.  Nothing else of the program needs CUDA.
 * ERR_DEVICE: no plug-in ("run make cuda"), one of another build, "no CUDA device". */
MUST_USE enum status backend_cuda_open(enum plugin_matmul matmul, struct plugin *out);
/* Whether it is worth trying: there is a plug-in, and a driver. */
bool backend_cuda_likely(void);
#endif
