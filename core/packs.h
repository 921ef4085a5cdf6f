/* packs.h: neighbours of an array that are read or written in one access of up to 16 bytes, for the
 * kernels of a GPU; and copies of columns.
 *
 * Rows of n reals from x on are whole packs where in_packs(n, x); rows of n that are ld apart where
 * in_packs(n | ld, x).  Then index k of FOR_EACH (k, M * n / PACK), or of FOR_COLUMNS (k, 0,
 * n / PACK), is a pack: pack_at(x, k).
 */
#ifndef CORE_PACKS_H
#define CORE_PACKS_H
#include "core/launch.h"
#include <string.h>

#ifdef __CUDACC__
enum { PACK = 16 / sizeof(real) };

/* V reals, of 4 bytes, 8 or 16 together. */
template <int V> struct pack {
  real at[V];
};

/* Whether V divides all numbers that are or-ed into `columns`, and a pack of V may lie at x; it may
 * at NULL. */
template <int V = PACK> INLINE bool in_packs(int64_t columns, const void *x)
{
  return columns % V == 0 && (uintptr_t)x % (V * sizeof(real)) == 0;
}

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

#ifdef __CUDA_ARCH__
template <class T> INLINE T load_word(const T *x) { return __ldcg(x); }
template <class T> INLINE void store_word(T *x, T word) { __stcg(x, word); }
#elif defined(__NVCC__) /* the host's copies are never called */
template <class T> INLINE T load_word(const T *x) { return *x; }
template <class T> INLINE void store_word(T *x, T word) { *x = word; }
#else                   /* tests/emulation */
template <class T> INLINE T load_word(const T *x) { return *emulated_global(x); }
template <class T> INLINE void store_word(T *x, T word) { *emulated_global(x) = word; }
#endif

template <int V = PACK> INLINE pack<V> load_pack(const real *x)
{
  typedef typename words<V * sizeof(real)>::type word;
  word bits = load_word((const word *)x);
  pack<V> out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

template <int V> INLINE void store_pack(pack<V> p, real *x)
{
  typename words<V * sizeof(real)>::type bits;
  memcpy(&bits, &p, sizeof bits);
  store_word((decltype(bits) *)x, bits);
}

INLINE pack<PACK> pack_at(const real *x, int64_t k) { return load_pack(x + k * PACK); }
INLINE void put_pack(pack<PACK> p, real *x, int64_t k) { store_pack(p, x + k * PACK); }

/* Where a thread has several packs on their way: index i of groups(M,n) is a pack of columns in
 * GROUP rows of (M,n).  in_groups: such indices are short enough to be divided quickly. */
enum { GROUP = 8 };
struct pack_group {
  int64_t row, column;
  int rows;
};

INLINE int64_t groups(int64_t M, int64_t n) { return (M + GROUP - 1) / GROUP * (n / PACK); }
INLINE bool in_groups(int64_t M, int64_t n) { return groups(M, n) <= UINT32_MAX; }

INLINE_DEVICE struct pack_group group_of(int64_t i, int64_t M, int64_t n)
{
  unsigned packs = (unsigned)(n / PACK), above = (unsigned)i / packs;
  struct pack_group g;
  g.row = (int64_t)above * GROUP;
  g.column = (int64_t)((unsigned)i - above * packs) * PACK;
  g.rows = M - g.row < GROUP ? (int)(M - g.row) : GROUP;
  return g;
}
#endif

/* to[j] = from[j], first <= j < end; and 0.  The lanes of a row's warp do it together. */
INLINE void copy_columns(int64_t first, int64_t end, const real *from, real *to)
{
#ifdef __CUDACC__
  if (in_packs(first | end, from) && in_packs(first | end, to)) {
    enum { FLIGHT = 4 }; /* loads on their way together */
    int64_t packs = end / PACK;
    for (int64_t k = first / PACK + lane(); k < packs; k += FLIGHT * WARP) {
      pack<PACK> p[FLIGHT];
#pragma unroll
      for (int f = 0; f < FLIGHT; f++)
        if (k + f * WARP < packs)
          p[f] = pack_at(from, k + f * WARP);
#pragma unroll
      for (int f = 0; f < FLIGHT; f++)
        if (k + f * WARP < packs)
          put_pack(p[f], to, k + f * WARP);
    }
    return;
  }
#endif
  SIMD
  FOR_COLUMNS (j, first, end)
    to[j] = from[j];
}

INLINE void zero_columns(int64_t first, int64_t end, real *to)
{
#ifdef __CUDACC__
  if (in_packs(first | end, to)) {
    pack<PACK> zeros = {};
    FOR_COLUMNS (k, first / PACK, end / PACK)
      put_pack(zeros, to, k);
    return;
  }
#endif
  SIMD
  FOR_COLUMNS (j, first, end)
    to[j] = 0;
}
#endif
