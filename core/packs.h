/* packs.h: up to 16 bytes at a time, for the kernels of a GPU. */
#ifndef CORE_PACKS_H
#define CORE_PACKS_H
#include "core/launch.h"
#include <string.h>

#ifdef __CUDACC__
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

#ifdef __CUDA_ARCH__
template <class T> INLINE T load_word(const T *x) { return __ldcg(x); }
template <class T> INLINE void store_word(T *x, T word) { __stcg(x, word); }
#else /* the host's copies are never called */
template <class T> INLINE T load_word(const T *x) { return *x; }
template <class T> INLINE void store_word(T *x, T word) { *x = word; }
#endif

template <int V> INLINE pack<V> load_pack(const real *x)
{
  typedef typename words<V * sizeof(real)>::type word;
  word bits = load_word((const word *)x);
  pack<V> out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

template <int V> INLINE void store_pack(const pack<V> &x, real *y)
{
  typename words<V * sizeof(real)>::type bits;
  memcpy(&bits, &x, sizeof bits);
  store_word((decltype(bits) *)y, bits);
}

/* Number k of an array's packs. */
INLINE pack<PACK> pack_at(const real *x, int64_t k) { return load_pack<PACK>(x + k * PACK); }
INLINE void put_pack(const pack<PACK> &p, real *x, int64_t k) { store_pack(p, x + k * PACK); }

/* Whether `end` columns, or those from a multiple of it on, are whole packs from p on; p NULL: it
 * does not matter. */
INLINE bool in_packs(int64_t end, const void *p)
{
  return end % PACK == 0 && (uintptr_t)p % 16 == 0;
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

INLINE_DEVICE group group_of(int64_t i, int64_t M, int64_t n)
{
  unsigned packs = (unsigned)(n / PACK), above = (unsigned)i / packs;
  group g;
  g.row = (int64_t)above * GROUP;
  g.column = (int64_t)((unsigned)i - above * packs) * PACK;
  g.rows = M - g.row < GROUP ? (int)(M - g.row) : GROUP;
  return g;
}
#endif

/* to[j] = from[j], first <= j < end; from NULL: 0.  The lanes of a row's warp do it together. */
INLINE void copy_columns(int64_t first, int64_t end, const real *from, real *to)
{
#ifdef __CUDACC__
  if (in_packs(first | end, from) && in_packs(0, to)) {
    FOR_COLUMNS (k, first / PACK, end / PACK) {
      pack<PACK> p = {};
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
