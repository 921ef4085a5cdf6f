/* vector: what solvers and training do with whole vectors, without derivatives.
 *   transpose, by squares whose lines stay in the cache
 *   fill, axpby, accumulate: y = a, y = a x + b y, y += a + b + c      sum_squares, dot: sum |x|^2,
 * sum x y in float64 gather_blocks, scatter_blocks: active ranges of chains, out of and into
 * (.,length,n) sum_squares and dot add PARTS equal parts one after the other, in an order that
 * depends on n alone.
 */
#include "kernels/operations.h"
#include "kernels/rows.h"
#ifdef __CUDACC__
#include "kernels/quads_cuda.h"
#endif

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
KERNEL set_quads(int64_t quads, real a, real *y)
{
  struct quad q = {{a, a, a, a}};
  FOR_EACH (i, quads)
    put_quad(y + i * QUAD, q);
}

KERNEL scale_quads(int64_t quads, real a, const real *x, real *y)
{
  FOR_EACH (i, quads) {
    struct quad q = quad_at(x + i * QUAD);
    for (int k = 0; k < QUAD; k++)
      q.at[k] *= a;
    put_quad(y + i * QUAD, q);
  }
}

KERNEL add_some_quads(int64_t quads, const real *a, const real *b, const real *c, real *y)
{
  FOR_EACH (i, quads) {
    struct quad sum = quad_at(y + i * QUAD), p = quad_at(a + i * QUAD), q = {}, r = {};
    if (b)
      q = quad_at(b + i * QUAD);
    if (c)
      r = quad_at(c + i * QUAD);
    for (int k = 0; k < QUAD; k++)
      sum.at[k] = sum.at[k] + p.at[k] + q.at[k] + r.at[k];
    put_quad(y + i * QUAD, sum);
  }
}

KERNEL combine_quads(int64_t quads, real a, const real *x, real b, real *y)
{
  FOR_EACH (i, quads) {
    struct quad q = quad_at(x + i * QUAD), p = quad_at(y + i * QUAD);
    for (int k = 0; k < QUAD; k++)
      q.at[k] = a * q.at[k] + b * p.at[k];
    put_quad(y + i * QUAD, q);
  }
}

/* Elements at + k step, k in 0..count-1, of a thread of the blocks that share n. */
struct share {
  int64_t at, step, count;
};

static __device__ inline struct share own_share(int64_t n)
{
  struct share s;
  s.at = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
  s.step = (int64_t)gridDim.y * blockDim.x;
  s.count = s.at < n ? (n - s.at + s.step - 1) / s.step : 0;
  return s;
}

/* Writes the sum over all threads of all blocks, added up in their order. */
static __device__ inline void put_total(wide sum, wide *out)
{
  __shared__ wide part[STRIP];
  sum = column_total(sum);
  if (!last_has_total(&sum))
    return;
  if (own_part() == 0)
    part[own_column()] = sum;
  __syncthreads();
  sum = 0;
  for (int c = 0; c < STRIP; c++)
    sum += part[c];
  if (threadIdx.x == 0)
    *out = sum;
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

#ifdef __CUDACC__
/* A warp copies up to PIECE units of a block: quads, or single elements. */
enum { PIECE = 1024, FLIGHT = 4 };

static int64_t pieces(int64_t units) { return (units + PIECE - 1) / PIECE; }

/* from NULL: zeros */
template <class T> static __device__ inline void copy_piece(int64_t units, const T *from, T *to)
{
  for (int64_t k = lane(); k < units; k += FLIGHT * WARP) {
    T loaded[FLIGHT];
#pragma unroll
    for (int f = 0; f < FLIGHT; f++) {
      loaded[f] = T();
      if (from && k + f * WARP < units)
        loaded[f] = from[k + f * WARP];
    }
#pragma unroll
    for (int f = 0; f < FLIGHT; f++)
      if (k + f * WARP < units)
        to[k + f * WARP] = loaded[f];
  }
}

/* units of T a block; per_block = pieces(units) */
template <class T>
static __global__ void move_pieces(int64_t rows, struct chains c, int64_t units, int64_t per_block,
                                   bool scatters, const real *src, real *dst)
{
  FOR_EACH_ROW (i, rows * c.blocks * per_block, PIECE) {
    int64_t block = i / per_block, first = i % per_block * PIECE;
    int64_t r = block / c.blocks, j = block % c.blocks;
    bool active = j < c.count[r] && c.first[r] + j >= 0;
    int64_t called = block * c.n, carried = active ? block_at(c, r, j) : 0;
    int64_t count = units - first < PIECE ? units - first : PIECE;
    if (!scatters)
      copy_piece(count, active ? (const T *)(src + carried) + first : NULL,
                 (T *)(dst + called) + first);
    else if (active)
      copy_piece(count, (const T *)(src + called) + first, (T *)(dst + carried) + first);
  }
}

static void move_blocks(stream st, int64_t rows, struct chains c, bool scatters, const real *src,
                        real *dst)
{
  bool by_quads = in_quads(c.n, src) && in_quads(c.n, dst);
  int64_t units = by_quads ? c.n / QUAD : c.n, per_block = pieces(units);
  if (by_quads)
    LAUNCH_ROWS(st, rows * c.blocks * per_block, move_pieces<struct quad>, rows, c, units,
                per_block, scatters, src, dst);
  else
    LAUNCH_ROWS(st, rows * c.blocks * per_block, move_pieces<real>, rows, c, units, per_block,
                scatters, src, dst);
}
#else
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

static void move_blocks(stream st, int64_t rows, struct chains c, bool scatters,
                        const DEVICE real *src, DEVICE real *dst)
{
  if (scatters)
    LAUNCH(st, rows * c.blocks * spans(c.n), scatter, rows, c, src, dst);
  else
    LAUNCH(st, rows * c.blocks * spans(c.n), gather, rows, c, src, dst);
}
#endif

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
  int64_t whole = whole_quads(n, y, y);
  LAUNCH(st, whole / QUAD, set_quads, whole / QUAD, a, y);
  n -= whole, y += whole;
#endif
  LAUNCH(st, n, set, n, a, y);
}

void OP(axpby)(stream st, int64_t n, real a, const DEVICE real *x, real b, DEVICE real *y)
{
  bool fresh = re(b) == 0 && b == 0;
#ifdef __CUDACC__
  int64_t whole = whole_quads(n, x, y), quads = whole / QUAD;
  if (fresh)
    LAUNCH(st, quads, scale_quads, quads, a, x, y);
  else
    LAUNCH(st, quads, combine_quads, quads, a, x, b, y);
  n -= whole, x += whole, y += whole;
#endif
  if (fresh)
    LAUNCH(st, n, scale, n, a, x, y);
  else
    LAUNCH(st, n, combine, n, a, x, b, y);
}

void OP(accumulate)(stream st, int64_t n, const DEVICE real *a, const DEVICE real *b,
                    const DEVICE real *c, DEVICE real *y)
{
#ifdef __CUDACC__
  if (in_quads(n, a) && in_quads(n, b) && in_quads(n, c) && in_quads(n, y)) {
    LAUNCH(st, n / QUAD, add_some_quads, n / QUAD, a, b, c, y);
    return;
  }
#endif
  LAUNCH(st, n, add_some, n, a, b, c, y);
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
  move_blocks(st, rows, c, false, src, dst);
}

void OP(scatter_blocks)(stream st, int64_t rows, int64_t blocks, int64_t n, int64_t length,
                        const DEVICE int32_t *row, const DEVICE int32_t *first,
                        const DEVICE int32_t *count, const DEVICE real *src, DEVICE real *dst)
{
  struct chains c = {blocks, length, n, row, first, count};
  move_blocks(st, rows, c, true, src, dst);
}
