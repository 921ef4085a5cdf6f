/* vector: what solvers and training do with whole vectors, without derivatives.
 *   transpose, by squares whose lines stay in the cache
 *   fill, axpby, accumulate: y = a, y = a x + b y, y += a + b + c      sum_squares, dot: sum |x|^2,
 * sum x y in float64 gather_blocks, scatter_blocks: active ranges of chains, out of and into
 * (.,length,n) sum_squares and dot add PARTS equal parts one after the other, in an order that
 * depends on n alone.
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

KERNEL add_some(int64_t n, const real *a, const real *b, const real *c, real *y)
{
  if (c) {
    FOR_EACH_SIMD (i, n)
      y[i] = y[i] + a[i] + b[i] + c[i];
  } else if (b) {
    FOR_EACH_SIMD (i, n)
      y[i] = y[i] + a[i] + b[i];
  } else {
    FOR_EACH_SIMD (i, n)
      y[i] += a[i];
  }
}

#ifdef __CUDACC__
/* Packs that a thread reads before it writes the first: several on their way at a time. */
enum { AHEAD = 4 };

KERNEL set_packs(int64_t n, real a, real *y)
{
  struct pack p;
  for (int q = 0; q < PACK; q++)
    p.at[q] = a;
  FOR_EACH (i, n)
    put_pack(p, y, i);
}

/* y = a x + b y of n packs, where `adds`; else y = a x. */
template <bool adds> KERNEL combine_packs(int64_t n, real a, const real *x, real b, real *y)
{
  int64_t step = (int64_t)gridDim.x * blockDim.x;
  for (int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; first < n;
       first += AHEAD * step) {
    struct pack from[AHEAD], to[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
      if (first + k * step < n) {
        from[k] = pack_at(x, first + k * step);
        if (adds)
          to[k] = pack_at(y, first + k * step);
      }
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      for (int q = 0; q < PACK; q++)
        to[k].at[q] = adds ? a * from[k].at[q] + b * to[k].at[q] : a * from[k].at[q];
      if (first + k * step < n)
        put_pack(to[k], y, first + k * step);
    }
  }
}

KERNEL add_some_packs(int64_t n, const real *a, const real *b, const real *c, real *y)
{
  FOR_EACH (i, n) {
    struct pack sum = pack_at(y, i), p = pack_at(a, i), q = {}, r = {};
    if (b)
      q = pack_at(b, i);
    if (c)
      r = pack_at(c, i);
    for (int k = 0; k < PACK; k++)
      sum.at[k] = sum.at[k] + p.at[k] + q.at[k] + r.at[k];
    put_pack(sum, y, i);
  }
}

/* A block's threads take every blockDim-th element of its part each, then add up in order. */
static __device__ inline wide block_total(wide sum)
{
  __shared__ wide part[STRIP];
  wide total = column_total(sum);
  if (own_part() == 0)
    part[own_column()] = total;
  __syncthreads();
  total = 0;
  for (int c = 0; c < STRIP; c++)
    total += part[c];
  __syncthreads();
  return total;
}

static __device__ wide part_sums[PARTS];

BLOCK_KERNEL part_squares(int64_t n, const real *x)
{
  FOR_EACH_BLOCK (p, PARTS, n / PARTS) {
    double sum = 0;
    for (int64_t i = n * p / PARTS + threadIdx.x; i < n * (p + 1) / PARTS; i += blockDim.x)
      sum += square_norm(x[i]);
    sum = block_total(sum);
    if (threadIdx.x == 0)
      part_sums[p] = sum;
  }
}

BLOCK_KERNEL part_products(int64_t n, const real *x, const real *y)
{
  FOR_EACH_BLOCK (p, PARTS, n / PARTS) {
    wide sum = 0;
    for (int64_t i = n * p / PARTS + threadIdx.x; i < n * (p + 1) / PARTS; i += blockDim.x)
      sum += (wide)x[i] * (wide)y[i];
    sum = block_total(sum);
    if (threadIdx.x == 0)
      part_sums[p] = sum;
  }
}

KERNEL add_parts(wide *out)
{
  FOR_EACH (i, 1) {
    wide sum = 0;
    for (int p = 0; p < PARTS; p++)
      sum += part_sums[p];
    out[i] = sum;
  }
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

/* What of a block a thread of the CPU, or a warp of the GPU, moves at a time. */
enum { PIECE = 1024 };

struct piece {
  int64_t r, j, block, first, end; /* block j of row r, of all blocks, columns first..end-1 */
};

INLINE int64_t pieces(int64_t n) { return (n + PIECE - 1) / PIECE; }

INLINE struct piece piece_of(struct chains c, int64_t i)
{
  int64_t a_block = pieces(c.n);
  struct piece p;
  p.block = i / a_block;
  p.r = p.block / c.blocks;
  p.j = p.block - p.r * c.blocks;
  p.first = (i - p.block * a_block) * PIECE;
  p.end = p.first + PIECE < c.n ? p.first + PIECE : c.n;
  return p;
}

KERNEL gather(int64_t rows, struct chains c, const real *src, real *dst)
{
  FOR_EACH_ROW (i, rows * c.blocks * pieces(c.n), c.n < PIECE ? c.n : PIECE) {
    struct piece p = piece_of(c, i);
    bool there = p.j < c.count[p.r] && c.first[p.r] + p.j >= 0;
    copy_columns(p.first, p.end, there ? src + block_at(c, p.r, p.j) : NULL, dst + p.block * c.n);
  }
}

KERNEL scatter(int64_t rows, struct chains c, const real *src, real *dst)
{
  FOR_EACH_ROW (i, rows * c.blocks * pieces(c.n), c.n < PIECE ? c.n : PIECE) {
    struct piece p = piece_of(c, i);
    if (p.j < c.count[p.r])
      copy_columns(p.first, p.end, src + p.block * c.n, dst + block_at(c, p.r, p.j));
  }
}

#ifdef __CUDACC__
enum { SQUARE = 32 };

INLINE int64_t squares_of(int64_t n) { return (n + SQUARE - 1) / SQUARE; }

/* A square by a block: its rows are read, and its columns written, side by side. */
BLOCK_KERNEL transpose_squares(int64_t rows, int64_t n, const real *x, real *y)
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
      if (first + i < rows && column + j < n)
        y[(column + j) * rows + first + i] = square[i][j];
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
  LAUNCH_BLOCKS(st, squares_of(rows) * squares_of(n), transpose_squares, rows, n, x, y);
#else
  LAUNCH(st, (n + 15) / 16, transpose_columns, rows, n, x, y);
#endif
}

void OP(fill)(stream st, int64_t n, real a, DEVICE real *y)
{
#ifdef __CUDACC__
  if (in_packs(n, y)) {
    LAUNCH(st, n / PACK, set_packs, n / PACK, a, y);
    return;
  }
#endif
  LAUNCH(st, n, set, n, a, y);
}

void OP(axpby)(stream st, int64_t n, real a, const DEVICE real *x, real b, DEVICE real *y)
{
  bool adds = re(b) != 0 || b != 0;
#ifdef __CUDACC__
  if (in_packs(n, x) && in_packs(n, y)) {
    int64_t packs = n / PACK, threads = (packs + AHEAD - 1) / AHEAD;
    if (adds)
      LAUNCH(st, threads, combine_packs<true>, packs, a, x, b, y);
    else
      LAUNCH(st, threads, combine_packs<false>, packs, a, x, b, y);
    return;
  }
#endif
  if (adds)
    LAUNCH(st, n, combine, n, a, x, b, y);
  else
    LAUNCH(st, n, scale, n, a, x, y);
}

void OP(accumulate)(stream st, int64_t n, const DEVICE real *a, const DEVICE real *b,
                    const DEVICE real *c, DEVICE real *y)
{
#ifdef __CUDACC__
  if (in_packs(n, a) && in_packs(n, b) && in_packs(n, c) && in_packs(n, y)) {
    LAUNCH(st, n / PACK, add_some_packs, n / PACK, a, b, c, y);
    return;
  }
#endif
  LAUNCH(st, n, add_some, n, a, b, c, y);
}

void OP(sum_squares)(stream st, int64_t n, const DEVICE real *x, DEVICE double *out)
{
#ifdef __CUDACC__
  LAUNCH_BLOCKS(st, PARTS, part_squares, n, x);
  LAUNCH(st, 1, add_parts, out);
#else
  LAUNCH_BLOCKS(st, 1, squares, n, x, out);
#endif
}

void OP(dot)(stream st, int64_t n, const DEVICE real *x, const DEVICE real *y, DEVICE wide *out)
{
#ifdef __CUDACC__
  LAUNCH_BLOCKS(st, PARTS, part_products, n, x, y);
  LAUNCH(st, 1, add_parts, out);
#else
  LAUNCH_BLOCKS(st, 1, products, n, x, y, out);
#endif
}

void OP(gather_blocks)(stream st, int64_t rows, int64_t blocks, int64_t n, int64_t length,
                       const DEVICE int32_t *row, const DEVICE int32_t *first,
                       const DEVICE int32_t *count, const DEVICE real *src, DEVICE real *dst)
{
  struct chains c = {blocks, length, n, row, first, count};
  LAUNCH_ROWS(st, rows * blocks * pieces(n), gather, rows, c, src, dst);
}

void OP(scatter_blocks)(stream st, int64_t rows, int64_t blocks, int64_t n, int64_t length,
                        const DEVICE int32_t *row, const DEVICE int32_t *first,
                        const DEVICE int32_t *count, const DEVICE real *src, DEVICE real *dst)
{
  struct chains c = {blocks, length, n, row, first, count};
  LAUNCH_ROWS(st, rows * blocks * pieces(n), scatter, rows, c, src, dst);
}
