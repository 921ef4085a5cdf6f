/* vector: what solvers and training do with whole vectors, without derivatives.
 *   transpose, by squares whose lines stay in the cache
 *   fill, axpby, accumulate: y = a, y = a x + b y, y += a + b + c
 *   sum_squares, dot: sum |x|^2, sum x y in float64
 *   gather_blocks, scatter_blocks: active ranges of chains, out of and into (.,length,n)
 * sum_squares and dot add PARTS equal parts one after the other, in an order that depends on n
 * alone.
 */
#include "core/packs.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

enum { PARTS = 64 };

KERNEL set(int64_t n, real a, real *y)
{
  FOR_EACH_SIMD (i, n)
    y[i] = a;
}

KERNEL scale(int64_t n, real a, const real *x, real *y)
{
  FOR_EACH_SIMD (i, n)
    y[i] = a * x[i];
}

KERNEL combine(int64_t n, real a, const real *x, real b, real *y)
{
  FOR_EACH_SIMD (i, n)
    y[i] = a * x[i] + b * y[i];
}

/* Rows of n that are ld apart. */
KERNEL add(int64_t M, int64_t n, int64_t ld, const real *a, const real *b, const real *c, real *y)
{
  FOR_EACH_COST (k, M * spans(n), 4 * SPAN) {
    struct span s = span_of(k, n);
    int64_t first = s.row * ld + s.first, end = s.row * ld + s.end;
    if (c) {
      SIMD
      for (int64_t i = first; i < end; i++)
        y[i] = y[i] + a[i] + b[i] + c[i];
    } else if (b) {
      SIMD
      for (int64_t i = first; i < end; i++)
        y[i] = y[i] + a[i] + b[i];
    } else {
      SIMD
      for (int64_t i = first; i < end; i++)
        y[i] += a[i];
    }
  }
}

#ifdef __CUDACC__
/* How many elements from x and y on go by packs. */
static int64_t whole_packs(int64_t n, const real *x, const real *y)
{
  return in_packs(0, x) && in_packs(0, y) ? n - n % PACK : 0;
}

KERNEL set_packs(int64_t packs, real a, real *y)
{
  pack<PACK> p;
  for (int q = 0; q < PACK; q++)
    p.at[q] = a;
  FOR_EACH (k, packs)
    put_pack(p, y, k);
}

KERNEL scale_packs(int64_t packs, real a, const real *x, real *y)
{
  FOR_EACH (k, packs) {
    pack<PACK> p = pack_at(x, k);
    for (int q = 0; q < PACK; q++)
      p.at[q] *= a;
    put_pack(p, y, k);
  }
}

/* Rows of `packs` that are `apart`; one row, or so few packs in all that 32 bits count them. */
KERNEL add_packs(int64_t M, int64_t packs, int64_t apart, const real *a, const real *b,
                 const real *c, real *y)
{
  FOR_EACH (i, M * packs) {
    int64_t row = M == 1 ? 0 : (uint32_t)i / (uint32_t)packs, k = i + row * (apart - packs);
    pack<PACK> sum = pack_at(y, k), p = pack_at(a, k), q = {}, r = {};
    if (b)
      q = pack_at(b, k);
    if (c)
      r = pack_at(c, k);
    for (int l = 0; l < PACK; l++)
      sum.at[l] = sum.at[l] + p.at[l] + q.at[l] + r.at[l];
    put_pack(sum, y, k);
  }
}

KERNEL combine_packs(int64_t packs, real a, const real *x, real b, real *y)
{
  FOR_EACH (k, packs) {
    pack<PACK> p = pack_at(x, k), old = pack_at(y, k);
    for (int q = 0; q < PACK; q++)
      p.at[q] = a * p.at[q] + b * old.at[q];
    put_pack(p, y, k);
  }
}

BLOCK_KERNEL squares(int64_t n, const real *x, double *out)
{
  struct share s = own_share(n);
  double sum = 0;
#pragma unroll 8
  for (int64_t k = 0; k < s.count; k++)
    sum += square_norm(x[s.at + k * s.step]);
  put_total(sum, out);
}

BLOCK_KERNEL products(int64_t n, const real *x, const real *y, wide *out)
{
  struct share s = own_share(n);
  wide sum = 0;
#pragma unroll 8
  for (int64_t k = 0; k < s.count; k++)
    sum += (wide)x[s.at + k * s.step] * (wide)y[s.at + k * s.step];
  put_total(sum, out);
}
#else
/* First and end of a part of n elements. */
struct part {
  int64_t first, end;
};

INLINE struct part part_of(int64_t n, int64_t part)
{
  int64_t length = (n + PARTS - 1) / PARTS;
  struct part p = {part * length, (part + 1) * length < n ? (part + 1) * length : n};
  return p;
}

INLINE double part_squares(int64_t n, const real *x, int64_t part)
{
  struct part p = part_of(n, part);
  double sum = 0;
  SIMD_SUM(sum)
  for (int64_t i = p.first; i < p.end; i++)
    sum += square_norm(x[i]);
  return sum;
}

INLINE wide part_dot(int64_t n, const real *x, const real *y, int64_t part)
{
  struct part p = part_of(n, part);
  wide sum = 0;
  SIMD_SUM(sum)
  for (int64_t i = p.first; i < p.end; i++)
    sum += (wide)x[i] * (wide)y[i];
  return sum;
}

KERNEL squares(int64_t n, const real *x, double *out)
{
  double part[PARTS], sum = 0;
  FOR_EACH_COST (p, PARTS, n / PARTS)
    part[p] = part_squares(n, x, p);
  for (int64_t p = 0; p < PARTS; p++)
    sum += part[p];
  *out = sum;
}

KERNEL products(int64_t n, const real *x, const real *y, wide *out)
{
  wide part[PARTS], sum = 0;
  FOR_EACH_COST (p, PARTS, n / PARTS)
    part[p] = part_dot(n, x, y, p);
  for (int64_t p = 0; p < PARTS; p++)
    sum += part[p];
  *out = sum;
}
#endif

/* Where block j of call row r lies in (.,length,n). */
struct chains {
  int64_t blocks, length, n;
  const int32_t *row, *first, *count;
};

INLINE int64_t block_at(struct chains c, int64_t r, int64_t j)
{
  return ((c.row ? c.row[r] : r) * c.length + c.first[r] + j) * c.n;
}

/* Index i of rows * blocks * pieces(n): up to PIECE columns of one block. */
enum { PIECE = 1024 };

INLINE int64_t pieces(int64_t n) { return (n + PIECE - 1) / PIECE; }

/* Blocks that are not active are zeros where they are gathered. */
KERNEL move_pieces(int64_t rows, struct chains c, bool scatters, const real *src, real *dst)
{
  int64_t per_block = pieces(c.n);
  FOR_EACH_ROW (i, rows * c.blocks * per_block, c.n) {
    int64_t block = i / per_block, first = (i - block * per_block) * PIECE;
    int64_t end = first + PIECE < c.n ? first + PIECE : c.n;
    int64_t r = block / c.blocks, j = block - r * c.blocks;
    bool active = j < c.count[r] && c.first[r] + j >= 0;
    int64_t called = block * c.n, carried = active ? block_at(c, r, j) : 0;
    if (!scatters)
      active ? copy_columns(first, end, src + carried, dst + called)
             : zero_columns(first, end, dst + called);
    else if (active)
      copy_columns(first, end, src + called, dst + carried);
  }
}

#ifdef __CUDACC__
enum { SQUARE = 32 };

INLINE int64_t squares_of(int64_t n) { return (n + SQUARE - 1) / SQUARE; }

/* A square by a block: its rows are read, and its columns written, or added to, side by side. */
template <bool ADDS> BLOCK_KERNEL transpose_squares(int64_t rows, int64_t n, const real *x, real *y)
{
  __shared__ real square[SQUARE][SQUARE + 1];
  FOR_EACH_BLOCK (at, squares_of(rows) * squares_of(n), SQUARE * SQUARE) {
    int64_t first = at / squares_of(n) * SQUARE, column = at % squares_of(n) * SQUARE;
    for (int e = (int)threadIdx.x; e < SQUARE * SQUARE; e += (int)blockDim.x) {
      int i = e / SQUARE, j = e % SQUARE;
      if (first + i < rows && column + j < n)
        square[i][j] = x[(first + i) * n + column + j];
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < SQUARE * SQUARE; e += (int)blockDim.x) {
      int j = e / SQUARE, i = e % SQUARE;
      real *to = y + (column + j) * rows + first + i;
      if (first + i < rows && column + j < n)
        *to = square[i][j] + (ADDS ? *to : 0);
    }
    __syncthreads();
  }
}
#else
/* Rows of y, a few at a time: what is read then lies in neighbouring columns of x. */
KERNEL transpose_columns(int64_t rows, int64_t n, const real *x, real *y)
{
  enum { COLUMNS = 16 };
  FOR_EACH_COST (block, (n + COLUMNS - 1) / COLUMNS, rows * COLUMNS) {
    int64_t first = block * COLUMNS, end = first + COLUMNS < n ? first + COLUMNS : n;
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = first; j < end; j++)
        y[j * rows + i] = x[i * n + j];
  }
}
#endif

void OP(transpose)(stream st, int64_t rows, int64_t n, const DEVICE real *x, DEVICE real *y)
{
#ifdef __CUDACC__
  LAUNCH_BLOCKS(st, squares_of(rows) * squares_of(n), transpose_squares<false>, rows, n, x, y);
#else
  LAUNCH(st, (n + 15) / 16, transpose_columns, rows, n, x, y);
#endif
}

#ifdef __CUDACC__
void add_transpose(stream st, int64_t rows, int64_t n, const real *x, real *y)
{
  LAUNCH_BLOCKS(st, squares_of(rows) * squares_of(n), transpose_squares<true>, rows, n, x, y);
}
#endif

void OP(fill)(stream st, int64_t n, real a, DEVICE real *y)
{
#ifdef __CUDACC__
  int64_t whole = whole_packs(n, y, y);
  LAUNCH(st, whole / PACK, set_packs, whole / PACK, a, y);
  n -= whole, y += whole;
#endif
  LAUNCH(st, n, set, n, a, y);
}

void OP(axpby)(stream st, int64_t n, real a, const DEVICE real *x, real b, DEVICE real *y)
{
  bool fresh = re(b) == 0 && b == 0;
#ifdef __CUDACC__
  int64_t whole = whole_packs(n, x, y), packs = whole / PACK;
  if (fresh)
    LAUNCH(st, packs, scale_packs, packs, a, x, y);
  else
    LAUNCH(st, packs, combine_packs, packs, a, x, b, y);
  n -= whole, x += whole, y += whole;
#endif
  if (fresh)
    LAUNCH(st, n, scale, n, a, x, y);
  else
    LAUNCH(st, n, combine, n, a, x, b, y);
}

void OP(accumulate)(stream st, int64_t M, int64_t n, int64_t ld, const DEVICE real *a,
                    const DEVICE real *b, const DEVICE real *c, DEVICE real *y)
{
  if (n == ld)
    n = ld = M * n, M = 1;
#ifdef __CUDACC__
  bool counted = M == 1 || M * (n / PACK) <= UINT32_MAX;
  if (counted && in_packs(n | ld, a) && in_packs(0, b) && in_packs(0, c) && in_packs(0, y)) {
    LAUNCH(st, M * (n / PACK), add_packs, M, n / PACK, ld / PACK, a, b, c, y);
    return;
  }
#endif
  LAUNCH(st, M * spans(n), add, M, n, ld, a, b, c, y);
}

void OP(sum_squares)(stream st, int64_t n, const DEVICE real *x, DEVICE double *out)
{
  LAUNCH_SUMS(st, 1, n / STRIP, squares, n, x, out);
}

void OP(dot)(stream st, int64_t n, const DEVICE real *x, const DEVICE real *y, DEVICE wide *out)
{
  LAUNCH_SUMS(st, 1, n / STRIP, products, n, x, y, out);
}

void OP(gather_blocks)(stream st, int64_t rows, int64_t blocks, int64_t n, int64_t length,
                       const DEVICE int32_t *row, const DEVICE int32_t *first,
                       const DEVICE int32_t *count, const DEVICE real *src, DEVICE real *dst)
{
  struct chains c = {blocks, length, n, row, first, count};
  LAUNCH_ROWS(st, rows * blocks * pieces(n), move_pieces, rows, c, false, src, dst);
}

void OP(scatter_blocks)(stream st, int64_t rows, int64_t blocks, int64_t n, int64_t length,
                        const DEVICE int32_t *row, const DEVICE int32_t *first,
                        const DEVICE int32_t *count, const DEVICE real *src, DEVICE real *dst)
{
  struct chains c = {blocks, length, n, row, first, count};
  LAUNCH_ROWS(st, rows * blocks * pieces(n), move_pieces, rows, c, true, src, dst);
}
