/* gemm_tiles_cpu.h: C = A B + beta from + bias of small matrices where they lie, for AVX2 and on.
 *
 * A tile of C stays in registers while its sums run over k: 6 rows by two vectors of columns are
 * 12 sums, which with two vectors of B and an element of A are AVX2's 16 registers.  B is read as
 * it lies, a panel of columns that stays in the cache while the rows pass; A by single elements, so
 * that its transpose costs nothing.  Packing, which a library needs for large matrices, would be a
 * fifth of the work of small ones.  Every sum runs in the same order by the same fused steps
 * whatever the tile: a row of C depends neither on those beside it nor on threads.
 */
#ifndef KERNELS_GEMM_TILES_CPU_H
#define KERNELS_GEMM_TILES_CPU_H
#include "kernels/elementary.h"
#include <immintrin.h>

#ifdef __AVX512F__
enum { VECTOR = 64 / sizeof(real) };
#define INTRINSIC(name) CONCAT(CONCAT(_mm512_, name), REAL_SUFFIX)
#else
enum { VECTOR = 32 / sizeof(real) };
#define INTRINSIC(name) CONCAT(CONCAT(_mm256_, name), REAL_SUFFIX)
#endif
#if REAL_BITS == 32
#define REAL_SUFFIX _ps
#else
#define REAL_SUFFIX _pd
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
 * their way.  Sums go to memory after so many terms; a tail's rows go together. */
enum { TILE_ROWS = 6, TILE_VECTORS = 2, LONE_VECTORS = 8, TILE_TERMS = 320, TAIL_ROWS = 48 };

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

/* The tile of constant size at row i of p, whose columns are the tile's. */
ELEMENTARY void multiply_tile(int rows, int vectors, const struct gemm_part *p, int64_t i)
{
  vector sum[TILE_ROWS][LONE_VECTORS];
  const real *a = p->a + i * p->ar, *b = p->b, *from = p->from;
  real *c = p->c + i * p->ldc;
  int64_t ar = p->ar, ldb = p->ldb, ldc = p->ldc;
  /* in bytes, or gcc makes a copy of the loop for ak = 1, and puts the sums into memory for it */
  int64_t a_step = p->ak * (int64_t)sizeof(real);
  for (int r = 0; r < rows; r++) /* rows that lie far apart, until the sums are there */
    __builtin_prefetch(p->beta != 0 ? from + (i + r) * ldc : c + r * ldc);
  FOR_TILE (r, v)
    sum[r][v] = BROADCAST(0);
  for (int64_t k = p->k; k > 0; k--) {
    FOR_TILE (r, v)
      sum[r][v] = FUSED(BROADCAST(a[r * ar]), LOAD(b + v * VECTOR), sum[r][v]);
    a = (const real *)((const char *)a + a_step);
    b += ldb;
  }
  if (p->beta != 0) {
    vector beta = BROADCAST(p->beta);
    from += i * ldc;
    FOR_TILE (r, v)
      sum[r][v] += beta * LOAD(from + r * ldc + v * VECTOR);
  }
  if (p->bias) {
    FOR_TILE (r, v)
      sum[r][v] += LOAD(p->bias + v * VECTOR);
  }
  FOR_TILE (r, v)
    STORE(c + r * ldc + v * VECTOR, sum[r][v]);
}

#define TILE(rows, vectors)                                                    \
  static void tile_##rows##_by_##vectors(const struct gemm_part *p, int64_t i) \
  {                                                                            \
    multiply_tile(rows, vectors, p, i);                                        \
  }
TILE(1, 1)
TILE(2, 1)
TILE(3, 1)
TILE(4, 1)
TILE(5, 1)
TILE(6, 1)
TILE(1, 2)
TILE(2, 2)
TILE(3, 2)
TILE(4, 2)
TILE(5, 2)
TILE(6, 2)
TILE(1, 8)
#undef TILE

/* A panel of one or two vectors of columns: its rows by tiles of as equal numbers as there can be.
 */
static void multiply_panel(const struct gemm_part *p)
{
  static void (*const tiles[TILE_VECTORS][TILE_ROWS])(const struct gemm_part *, int64_t) = {
      {tile_1_by_1, tile_2_by_1, tile_3_by_1, tile_4_by_1, tile_5_by_1, tile_6_by_1},
      {tile_1_by_2, tile_2_by_2, tile_3_by_2, tile_4_by_2, tile_5_by_2, tile_6_by_2}};
  int64_t i = 0;
  for (int64_t left = (p->m + TILE_ROWS - 1) / TILE_ROWS; left > 0; left--) {
    int64_t rows = (p->m - i + left - 1) / left;
    tiles[p->n / VECTOR - 1][rows - 1](p, i);
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

/* Fewer columns than a vector: by way of copies with zeros beside them. */
static void multiply_tail(const struct gemm_part *p)
{
  real b[TILE_TERMS * VECTOR], sum[TAIL_ROWS * VECTOR];
  for (int64_t k = 0; k < p->k; k++)
    for (int64_t l = 0; l < VECTOR; l++)
      b[k * VECTOR + l] = l < p->n ? p->b[k * p->ldb + l] : 0;
  for (int64_t i = 0; i < p->m; i += TAIL_ROWS) {
    struct gemm_part t = {.m = p->m - i < TAIL_ROWS ? p->m - i : TAIL_ROWS, .n = VECTOR, .k = p->k};
    t.a = p->a + i * p->ar, t.ar = p->ar, t.ak = p->ak;
    t.b = b, t.ldb = VECTOR;
    t.c = sum, t.ldc = VECTOR;
    multiply_panel(&t);
    for (int64_t r = 0; r < t.m; r++)
      for (int64_t l = 0; l < p->n; l++) {
        real all = sum[r * VECTOR + l];
        if (p->beta != 0)
          all += p->beta * p->from[(i + r) * p->ldc + l];
        p->c[(i + r) * p->ldc + l] = p->bias ? all + p->bias[l] : all;
      }
  }
}

/* No more terms than TILE_TERMS. */
static void multiply_terms(const struct gemm_part *p)
{
  int64_t j = 0;
  for (; p->m == 1 && j + LONE_VECTORS * VECTOR <= p->n; j += LONE_VECTORS * VECTOR) {
    struct gemm_part panel = columns_of(p, j, LONE_VECTORS * VECTOR);
    tile_1_by_8(&panel, 0);
  }
  for (int64_t vectors = TILE_VECTORS; vectors > 0; vectors--)
    for (; j + vectors * VECTOR <= p->n; j += vectors * VECTOR) {
      struct gemm_part panel = columns_of(p, j, vectors * VECTOR);
      multiply_panel(&panel);
    }
  if (j < p->n) {
    struct gemm_part tail = columns_of(p, j, p->n - j);
    multiply_tail(&tail);
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
