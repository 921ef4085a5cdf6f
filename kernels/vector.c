/* vector: what solvers and training do with whole vectors, without derivatives.
 *   transpose, by squares whose lines stay in the cache
 *   fill, axpby: y = a, y = a x + b y      sum_squares, dot: sum |x|^2, sum x y in float64
 *   gather_blocks, scatter_blocks: active ranges of chains, out of and into (.,length,n)
 * sum_squares and dot add PARTS equal parts one after the other, in an order that depends on n
 * alone.
 */
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

#ifdef __CUDACC__
/* A block's threads take every blockDim-th element each, then add up in order. */
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
  return total;
}

BLOCK_KERNEL squares(int64_t n, const real *x, double *out)
{
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    sum += square_norm(x[i]);
  sum = block_total(sum);
  if (threadIdx.x == 0)
    *out = sum;
}

BLOCK_KERNEL products(int64_t n, const real *x, const real *y, wide *out)
{
  wide sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    sum += (wide)x[i] * (wide)y[i];
  sum = block_total(sum);
  if (threadIdx.x == 0)
    *out = sum;
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

KERNEL gather(int64_t rows, struct chains c, const real *src, real *dst)
{
  FOR_EACH_COST (i, rows * c.blocks * spans(c.n), c.n) {
    struct span s = span_of(i, c.n);
    int64_t r = s.row / c.blocks, j = s.row % c.blocks;
    real *to = dst + s.row * c.n;
    if (j < c.count[r] && c.first[r] + j >= 0) {
      const real *from = src + block_at(c, r, j);
      SIMD
      for (int64_t k = s.first; k < s.end; k++)
        to[k] = from[k];
    } else {
      SIMD
      for (int64_t k = s.first; k < s.end; k++)
        to[k] = 0;
    }
  }
}

KERNEL scatter(int64_t rows, struct chains c, const real *src, real *dst)
{
  FOR_EACH_COST (i, rows * c.blocks * spans(c.n), c.n) {
    struct span s = span_of(i, c.n);
    int64_t r = s.row / c.blocks, j = s.row % c.blocks;
    if (j >= c.count[r])
      continue;
    const real *from = src + s.row * c.n;
    real *to = dst + block_at(c, r, j);
    SIMD
    for (int64_t k = s.first; k < s.end; k++)
      to[k] = from[k];
  }
}

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

void OP(transpose)(stream st, int64_t rows, int64_t n, const DEVICE real *x, DEVICE real *y)
{
  LAUNCH(st, (n + 15) / 16, transpose_columns, rows, n, x, y);
}

void OP(fill)(stream st, int64_t n, real a, DEVICE real *y) { LAUNCH(st, n, set, n, a, y); }

void OP(axpby)(stream st, int64_t n, real a, const DEVICE real *x, real b, DEVICE real *y)
{
  if (re(b) == 0 && b == 0)
    LAUNCH(st, n, scale, n, a, x, y);
  else
    LAUNCH(st, n, combine, n, a, x, b, y);
}

void OP(sum_squares)(stream st, int64_t n, const DEVICE real *x, DEVICE double *out)
{
  LAUNCH_BLOCKS(st, 1, squares, n, x, out);
}

void OP(dot)(stream st, int64_t n, const DEVICE real *x, const DEVICE real *y, DEVICE wide *out)
{
  LAUNCH_BLOCKS(st, 1, products, n, x, y, out);
}

void OP(gather_blocks)(stream st, int64_t rows, int64_t blocks, int64_t n, int64_t length,
                       const DEVICE int32_t *row, const DEVICE int32_t *first,
                       const DEVICE int32_t *count, const DEVICE real *src, DEVICE real *dst)
{
  struct chains c = {blocks, length, n, row, first, count};
  LAUNCH(st, rows * blocks * spans(n), gather, rows, c, src, dst);
}

void OP(scatter_blocks)(stream st, int64_t rows, int64_t blocks, int64_t n, int64_t length,
                        const DEVICE int32_t *row, const DEVICE int32_t *first,
                        const DEVICE int32_t *count, const DEVICE real *src, DEVICE real *dst)
{
  struct chains c = {blocks, length, n, row, first, count};
  LAUNCH(st, rows * blocks * spans(n), scatter, rows, c, src, dst);
}
