/* packs.h: elements that a thread of the GPU reads and writes 16 bytes at a time. */
#ifndef KERNELS_PACKS_H
#define KERNELS_PACKS_H
#include "core/launch.h"

#ifdef __CUDACC__
enum { PACK = 16 / sizeof(real) };
struct alignas(16) pack {
  real at[PACK];
};

/* Whether rows of n reals that begin at p are whole packs where packs begin; p NULL: no matter. */
INLINE bool in_packs(int64_t n, const void *p)
{
  return n % PACK == 0 && (uintptr_t)p % sizeof(struct pack) == 0;
}

INLINE struct pack pack_at(const real *x) { return *(const struct pack *)x; }
INLINE void put_pack(struct pack p, real *x) { *(struct pack *)x = p; }
#endif
#endif
