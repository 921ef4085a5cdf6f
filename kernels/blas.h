/* blas.h: OpenBLAS with the kernels that this CPU deserves, and one thread of its own.
 *
 * OpenBLAS picks its kernels while the program is loaded, from a list of the CPUs known when it was
 * released; a newer CPU may get kernels of 2004.  The choice cannot be changed later, so the
 * program sets OPENBLAS_CORETYPE and starts itself again.  A user who has set that variable is
 * obeyed: OPENBLAS_CORETYPE=Haswell, say, also turns all of this off. */
#ifndef KERNELS_BLAS_H
#define KERNELS_BLAS_H
#include <stdbool.h>

/* First thing in main(): may start the program again, with the same arguments.  Leaves BLAS with
 * one thread; our own loops have the others. */
void blas_start(int argc, char **argv);

/* "OpenBLAS 0.3.21, SkylakeX kernels, 1 thread in each of our 2", for the log; a static string. */
const char *blas_describe(void);

/* Whether the kernels in use multiply small matrices where they lie, without packing them first
 * (OpenBLAS's AVX-512 kernels). */
bool blas_has_bare_kernels(void);

/* What follows is blas_start's parts, for tests. */
struct blas_cpu {
  bool avx2, avx512; /* AVX2 and FMA; AVX-512 F, BW, CD, DQ and VL: present and usable */
};
/* The OPENBLAS_CORETYPE that would serve this CPU better than `corename`, or NULL; `config` is
 * openblas_get_config()'s answer. */
const char *blas_better_kernels(const char *config, const char *corename, struct blas_cpu cpu);
/* Starts this program again with OPENBLAS_CORETYPE=coretype, after a child process has shown that
 * these kernels exist and multiply correctly; returns, with nothing changed, when they do not. */
void blas_restart(const char *coretype, char **argv);
#endif
