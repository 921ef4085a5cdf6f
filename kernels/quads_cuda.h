/* quads_cuda.h: four neighbours of an array at a time on the GPU, in float32 by one access of 16
 * bytes: for arrays whose rows are whole quads. */
#ifndef KERNELS_QUADS_CUDA_H
#define KERNELS_QUADS_CUDA_H
#include "core/launch.h"

enum { QUAD = 4 };
struct alignas(16) quad {
  real at[QUAD];
};

/* Whether rows of n from p on are whole quads; NULL is. */
static inline bool in_quads(int64_t n, const void *p)
{
  return n % QUAD == 0 && (uintptr_t)p % alignof(struct quad) == 0;
}

/* How many elements from x and y on can go by quads. */
static inline int64_t whole_quads(int64_t n, const void *x, const void *y)
{
  return in_quads(QUAD, x) && in_quads(QUAD, y) ? n - n % QUAD : 0;
}

INLINE struct quad quad_at(const real *p) { return *(const struct quad *)p; }
INLINE void put_quad(real *p, struct quad q) { *(struct quad *)p = q; }
#endif
