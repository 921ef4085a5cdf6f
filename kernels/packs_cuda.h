/* packs_cuda.h: up to 16 bytes at a time, for the kernels of a GPU. */
#ifndef KERNELS_PACKS_CUDA_H
#define KERNELS_PACKS_CUDA_H
#include "core/launch.h"
#include <string.h>

enum { PACK = 16 / sizeof(real) };

/* V reals that are read and written in one access. */
template <int V> struct pack {
  real at[V];
};

/* As words, and through L2, which loses nothing here: what the compiler may take apart, it does. */
template <int BYTES> struct words;
template <> struct words<4> {
  typedef unsigned type;
};
template <> struct words<8> {
  typedef uint2 type;
};
template <> struct words<16> {
  typedef uint4 type;
};

template <int V> __device__ __forceinline__ pack<V> load_pack(const real *x)
{
  typename words<V * sizeof(real)>::type bits = __ldcg((const decltype(bits) *)x);
  pack<V> out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

template <int V> __device__ __forceinline__ void store_pack(const pack<V> &x, real *y)
{
  typename words<V * sizeof(real)>::type bits;
  memcpy(&bits, &x, sizeof bits);
  __stcg((decltype(bits) *)y, bits);
}

/* Whether n columns in rows that are ld apart are packs of V from x on; NULL: whatever they are. */
static inline bool in_packs(int64_t n, int64_t ld, const real *x, int V)
{
  return x == NULL || (n % V == 0 && ld % V == 0 && (uintptr_t)x % ((size_t)V * sizeof(real)) == 0);
}

/* Elementwise, (M,n): index i of groups(M,n) is a pack of columns in GROUP rows, whose loads are on
 * their way together. */
enum { GROUP = 8 };
struct group {
  int64_t row, column;
  int rows;
};

INLINE int64_t groups(int64_t M, int64_t n) { return (M + GROUP - 1) / GROUP * (n / PACK); }

/* Whether indices are short enough to be divided quickly. */
static inline bool in_groups(int64_t M, int64_t n) { return groups(M, n) <= UINT32_MAX; }

static __device__ __forceinline__ group group_of(int64_t i, int64_t M, int64_t n)
{
  unsigned packs = (unsigned)(n / PACK), above = (unsigned)i / packs;
  group g;
  g.row = (int64_t)above * GROUP;
  g.column = (int64_t)((unsigned)i - above * packs) * PACK;
  g.rows = M - g.row < GROUP ? (int)(M - g.row) : GROUP;
  return g;
}
#endif
