/* packs.h: columns that a lane of a row's warp reads and writes 16 bytes at a time, on the GPU. */
#ifndef CORE_PACKS_H
#define CORE_PACKS_H
#include "core/launch.h"

#ifdef __CUDACC__
enum { PACK = 16 / sizeof(real) };
struct alignas(16) pack {
  real at[PACK];
};

/* Whether `end` columns, or those from a multiple of it on, are whole packs from p on; p NULL: it
 * does not matter. */
INLINE bool in_packs(int64_t end, const void *p)
{
  return end % PACK == 0 && (uintptr_t)p % sizeof(struct pack) == 0;
}

/* Of pack k. */
INLINE struct pack pack_at(const real *x, int64_t k) { return ((const struct pack *)x)[k]; }
INLINE void put_pack(struct pack p, real *x, int64_t k) { ((struct pack *)x)[k] = p; }
#endif

/* to[j] = from[j], first <= j < end; from NULL: 0.  The lanes of a row's warp do it together. */
INLINE void copy_columns(int64_t first, int64_t end, const real *from, real *to)
{
#ifdef __CUDACC__
  if (in_packs(first | end, from) && in_packs(0, to)) {
    FOR_COLUMNS (k, first / PACK, end / PACK) {
      struct pack p = {};
      put_pack(from ? pack_at(from, k) : p, to, k);
    }
    return;
  }
#endif
  if (from) {
    SIMD
    FOR_COLUMNS (j, first, end)
      to[j] = from[j];
  } else {
    SIMD
    FOR_COLUMNS (j, first, end)
      to[j] = 0;
  }
}
#endif
