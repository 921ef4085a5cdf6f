/* gemm_tiles_cpu.h: C = A B + beta from + bias of small matrices where they lie, for AVX2 and on.
 *
 * A tile of C stays in registers while its sums run over k: 6 rows by two vectors of columns are
 * 12 sums, which with two vectors of B and an element of A are AVX2's 16 registers.  A is read by
 * single elements, so that its transpose costs nothing; B as it lies, by panels of columns, and the
 * first tile of a panel leaves it packed for those below: stores are free beside the sums, and a
 * panel then neither falls into one set of the cache nor has the next one's lines in its way, which
 * it asks for meanwhile (of m,n,k = 256,2320,256 out of cold caches 80 Gflop/s for 72).  Packing
 * ahead, as a library does, would be a fifth of the work of small matrices.  Lines of C, and of
 * what it adds to, lie far apart, and are asked for two panels ahead: of 64,292,64 one core made 55
 * Gflop/s where either came from memory, and makes 70; where both are near, 77 for 78.  Every sum
 * runs in the same order by the same fused steps whatever the tile: a row of C depends neither on
 * those beside it nor on threads.
 */
#ifndef KERNELS_GEMM_TILES_CPU_H
#define KERNELS_GEMM_TILES_CPU_H
#include "kernels/elementary.h"
#include <immintrin.h>

#if REAL_BITS == 32
#define REAL_SUFFIX _ps
#else
#define REAL_SUFFIX _pd
#endif
#ifdef __AVX512F__
enum { VECTOR = 64 / sizeof(real) };
#define INTRINSIC(name) CONCAT(CONCAT(_mm512_, name), REAL_SUFFIX)
#define LOAD_SOME(x, some) INTRINSIC(maskz_loadu)(some, x)
#define STORE_SOME(x, some, v) INTRINSIC(mask_storeu)(x, some, v)
#if REAL_BITS == 32
typedef __mmask16 lanes; /* a bit a lane */
#else
typedef __mmask8 lanes;
#endif
#else
enum { VECTOR = 32 / sizeof(real) };
#define INTRINSIC(name) CONCAT(CONCAT(_mm256_, name), REAL_SUFFIX)
#define LOAD_SOME(x, some) INTRINSIC(maskload)(x, some)
#define STORE_SOME(x, some, v) INTRINSIC(maskstore)(x, some, v)
typedef __m256i lanes; /* ones or zeros in each */
#endif
#define LOAD INTRINSIC(loadu)
#define STORE INTRINSIC(storeu)
#define BROADCAST INTRINSIC(set1)
#define FUSED INTRINSIC(fmadd)
#define FOR_TILE(r, v)           \
  PRAGMA(GCC unroll 8)           \
  for (int r = 0; r < rows; r++) \
    PRAGMA(GCC unroll 8)         \
  for (int v = 0; v < vectors; v++)

typedef real vector __attribute__((vector_size(VECTOR * sizeof(real))));

/* Of a tile: rows, and vectors of columns; a lone row has more of them, to have as many sums on
 * their way.  Sums go to memory after so many terms. */
enum { TILE_ROWS = 6, TILE_VECTORS = 2, LONE_VECTORS = 8, TILE_TERMS = 320 };
enum { PANELS_AHEAD = 2 };

/* C (m,n) = A B + beta from + bias: element (i,k) of A at a[i ar + k ak], from like C with ldc,
 * C itself or apart from it; beta = 0 does not read it; bias (n), NULL: none. */
struct gemm_part {
  int64_t m, n, k;
  const real *a;
  int64_t ar, ak;
  const real *b;
  int64_t ldb;
  real beta;
  const real *from, *bias;
  real *c;
  int64_t ldc;
};

/* The first n lanes, 0 < n < VECTOR. */
INLINE lanes first_lanes(int64_t n)
{
#ifdef __AVX512F__
  return (lanes)((1 << n) - 1);
#else
  real_bits all[2 * VECTOR] = {0};
  for (int l = 0; l < VECTOR; l++)
    all[l] = ~(real_bits)0;
  return _mm256_loadu_si256((const __m256i *)(all + VECTOR - n));
#endif
}

ELEMENTARY vector load_lanes(bool whole, lanes some, const real *x)
{
  return whole ? LOAD(x) : LOAD_SOME(x, some);
}

ELEMENTARY void ask_for(int rows, int vectors, const real *at, int64_t ld)
{
  enum { LINE = 64 / sizeof(real) };
  for (int r = 0; r < rows; r++)
    for (int n = 0; n < vectors * VECTOR; n += LINE)
      __builtin_prefetch(at + r * ld + n);
}

/* The tile at row i of p: rows, vectors of columns, whether these are whole, and whether it packs
 * what it reads of B, are constants.  begins: nobody has asked for its lines of C. */
ELEMENTARY void multiply_tile(int rows, int vectors, bool whole, bool packs,
                              const struct gemm_part *p, bool begins, int64_t i, real *packed)
{
  vector sum[TILE_ROWS][LONE_VECTORS];
  const real *a = p->a + i * p->ar, *b = p->b, *from = p->from;
  real *c = p->c + i * p->ldc;
  int64_t ar = p->ar, ldb = p->ldb, ldc = p->ldc;
  /* in bytes, or gcc makes a copy of the loop for ak = 1, and puts the sums into memory for it */
  int64_t a_step = p->ak * (int64_t)sizeof(real);
  lanes some = first_lanes(whole ? 1 : p->n);
  int64_t later = PANELS_AHEAD * vectors * VECTOR;
  if (begins)
    ask_for(rows, vectors, p->beta != 0 ? from + i * ldc : c, ldc);
  if (p->beta != 0)
    ask_for(rows, vectors, from + i * ldc + later, ldc);
  if (p->beta == 0 || from != p->c)
    ask_for(rows, vectors, c + later, ldc);
  FOR_TILE (r, v)
    sum[r][v] = BROADCAST(0);
  for (int64_t k = p->k; k > 0; k--) {
    vector row[LONE_VECTORS];
    PRAGMA(GCC unroll 8)
    for (int v = 0; v < vectors; v++)
      row[v] = load_lanes(whole, some, b + v * VECTOR);
    if (packs) {
      __builtin_prefetch(b + vectors * VECTOR, 0, 2);
      PRAGMA(GCC unroll 8)
      for (int v = 0; v < vectors; v++)
        STORE(packed + v * VECTOR, row[v]);
      packed += vectors * VECTOR;
    }
    FOR_TILE (r, v)
      sum[r][v] = FUSED(BROADCAST(a[r * ar]), row[v], sum[r][v]);
    a = (const real *)((const char *)a + a_step);
    b += ldb;
  }
  if (p->beta != 0) {
    vector beta = BROADCAST(p->beta);
    from += i * ldc;
    FOR_TILE (r, v)
      sum[r][v] += beta * load_lanes(whole, some, from + r * ldc + v * VECTOR);
  }
  if (p->bias) {
    FOR_TILE (r, v)
      sum[r][v] += load_lanes(whole, some, p->bias + v * VECTOR);
  }
  FOR_TILE (r, v) {
    if (whole)
      STORE(c + r * ldc + v * VECTOR, sum[r][v]);
    else
      STORE_SOME(c + r * ldc + v * VECTOR, some, sum[r][v]);
  }
}

typedef void gemm_tile(const struct gemm_part *p, bool begins, int64_t i, real *packed);
#define TILE(name, rows, vectors, whole, packs)                                     \
  static void name(const struct gemm_part *p, bool begins, int64_t i, real *packed) \
  {                                                                                 \
    multiply_tile(rows, vectors, whole, packs, p, begins, i, packed);               \
  }
/* Up to TILE_ROWS rows of a kind of tile, and the table of them. */
#define TILES(kind, vectors, whole, packs)                                 \
  TILE(kind##_1, 1, vectors, whole, packs)                                 \
  TILE(kind##_2, 2, vectors, whole, packs)                                 \
  TILE(kind##_3, 3, vectors, whole, packs)                                 \
  TILE(kind##_4, 4, vectors, whole, packs)                                 \
  TILE(kind##_5, 5, vectors, whole, packs)                                 \
  TILE(kind##_6, 6, vectors, whole, packs)                                 \
  static gemm_tile *const kind[TILE_ROWS] = {kind##_1, kind##_2, kind##_3, \
                                             kind##_4, kind##_5, kind##_6};
TILES(first_rows, TILE_VECTORS, true, true)
TILES(two_vectors, TILE_VECTORS, true, false)
TILES(one_vector, 1, true, false)
TILES(some_lanes, 1, false, false)
TILE(lone_row, 1, LONE_VECTORS, true, false)
#undef TILES
#undef TILE

/* A panel of columns: its rows by tiles of as equal numbers as there can be. */
static void multiply_panel(gemm_tile *const *tiles, const struct gemm_part *p, bool begins)
{
  enum { WIDE = TILE_VECTORS * VECTOR };
  struct gemm_part part = *p;
  real packed[TILE_TERMS * WIDE];
  bool packs = tiles == two_vectors && p->m > TILE_ROWS;
  int64_t i = 0;
  for (int64_t left = (p->m + TILE_ROWS - 1) / TILE_ROWS; left > 0; left--) {
    int64_t rows = (p->m - i + left - 1) / left;
    (packs ? first_rows : tiles)[rows - 1](&part, begins, i, packed);
    if (packs) {
      part.b = packed;
      part.ldb = WIDE;
      packs = false;
    }
    i += rows;
  }
}

static struct gemm_part columns_of(const struct gemm_part *p, int64_t j, int64_t n)
{
  struct gemm_part part = *p;
  part.n = n;
  part.b += j;
  part.c += j;
  if (p->beta != 0)
    part.from += j;
  if (p->bias)
    part.bias += j;
  return part;
}

/* No more terms than TILE_TERMS. */
static void multiply_terms(const struct gemm_part *p)
{
  enum { LONE = LONE_VECTORS * VECTOR, WIDE = TILE_VECTORS * VECTOR };
  for (int64_t j = 0, n; j < p->n; j += n) {
    int64_t left = p->n - j;
    bool lone = p->m == 1 && left >= LONE;
    n = lone ? LONE : left >= WIDE ? WIDE : left >= VECTOR ? VECTOR : left;
    struct gemm_part panel = columns_of(p, j, n);
    bool begins = j < PANELS_AHEAD * WIDE;
    gemm_tile *const *tiles = n == WIDE ? two_vectors : n == VECTOR ? one_vector : some_lanes;
    if (lone)
      lone_row(&panel, begins, 0, NULL);
    else
      multiply_panel(tiles, &panel, begins);
  }
}

static void multiply_part(const struct gemm_part *p)
{
  struct gemm_part run = *p;
  for (int64_t first = 0; first < p->k; first += TILE_TERMS) {
    bool last = p->k - first <= TILE_TERMS;
    run.k = last ? p->k - first : TILE_TERMS;
    run.a = p->a + first * p->ak;
    run.b = p->b + first * p->ldb;
    run.bias = last ? p->bias : NULL;
    multiply_terms(&run);
    run.beta = 1;
    run.from = p->c;
  }
}
#endif
