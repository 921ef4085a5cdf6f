/* rows.h: how loops walk a matrix, so that the CPU gets vectors and the GPU coalesced accesses.
 *
 * Elementwise, (rows,n): index i of rows * spans(n) is SPAN columns of one row:
 *   FOR_EACH (i, rows * spans(n)) { struct span s = span_of(i, n); SIMD for (j = s.first; ...) }
 * Sums over a row, by FOR_EACH_ROW: tiles of real, added up in `wide`.
 * Sums over the rows, one a column: index i of strips(n) is STRIP columns, which one thread adds up
 * from the first row to the last; on the GPU several blocks share the rows, a warp has an
 * interleaved part of its block's, and the block that comes last adds up, always in one order:
 *   BLOCK_KERNEL k(...) { FOR_EACH_BLOCK (i, strips(n), cost) ADD_COLUMN_SUMS(i, ...); }
 *   LAUNCH_SUMS(st, strips(n), rows, k, ...);
 * LAUNCH_BLOCKS in its place gives each strip to one block: for where there are many.
 */
#ifndef KERNELS_ROWS_H
#define KERNELS_ROWS_H
#include "core/launch.h"
#include "kernels/sums.h"

#ifdef __CUDACC__
enum { SPAN = 1, STRIP = 32 };
#else
enum { SPAN = 1024, STRIP = 32 };
#endif

struct span {
  int64_t row, first, end; /* columns first..end-1 */
};

INLINE int64_t spans(int64_t n) { return (n + SPAN - 1) / SPAN; }
INLINE int64_t strips(int64_t n) { return (n + STRIP - 1) / STRIP; }

INLINE struct span span_of(int64_t i, int64_t n)
{
  int64_t per_row = spans(n);
  struct span s;
  s.row = i / per_row;
  s.first = (i - s.row * per_row) * SPAN;
  s.end = s.first + SPAN < n ? s.first + SPAN : n;
  return s;
}

/* A column's terms that are added up in real before they are in wide. */
enum { SUM_ROWS = 64 };

/* sum += term(j), j in 0..n-1, where `sum` is wide: a float holds at most SUM_TILE/4 terms. */
enum { SUM_TILE = 512 };
#ifdef __CUDACC__
#define ADD_TILES_(sum, n, j, term)                                 \
  for (int64_t tile_ = 0; tile_ < (n); tile_ += SUM_TILE) {         \
    int64_t end_ = tile_ + SUM_TILE < (n) ? tile_ + SUM_TILE : (n); \
    real part_ = 0;                                                 \
    FOR_COLUMNS (j, tile_, end_)                                    \
      part_ += (term);                                              \
    (sum) += (wide)part_;                                           \
  }
#define ADD_ROW_SUM(sum, n, j, term) \
  do {                               \
    wide lanes_ = 0;                 \
    ADD_TILES_(lanes_, n, j, term)   \
    ROW_FOLD(lanes_, plus);          \
    (sum) += lanes_;                 \
  } while (0)

/* This thread's column of a strip, and which part of the rows it adds up. */
static __device__ inline int own_column(void) { return (int)(threadIdx.x % STRIP); }
static __device__ inline int own_part(void) { return (int)(threadIdx.x / STRIP); }
static __device__ inline int row_parts(void) { return (int)(blockDim.x / STRIP); }

/* The sum of a column's parts, in order, for its thread of part 0; all threads of the block call.
 */
static __device__ inline wide column_total(wide sum)
{
  __shared__ wide part[BLOCK_THREADS / STRIP][STRIP + 1];
  wide total = 0;
  part[own_part()][own_column()] = sum;
  __syncthreads();
  for (int p = 0; own_part() == 0 && p < row_parts(); p++)
    total += part[p][own_column()];
  __syncthreads();
  return total;
}

#ifndef PROCESSORS /* fewer in tests/emulation */
#define PROCESSORS 132
#endif

/* Rows are shared among the blocks of one blockIdx.x: gridDim.y of them, SHARE_ROWS each at least,
 * but no more than fill the GPU's processors evenly. */
enum { SHARE_ROWS = 512, SHARES_MOST = 8 * PROCESSORS };

INLINE dim3 shares_of(int64_t strips, int64_t rows)
{
  int64_t most = SHARES_MOST / strips, shares = rows / SHARE_ROWS;
  shares = shares < most ? shares : most;
  return dim3((unsigned)(strips < 65535 ? strips : 65535), (unsigned)(shares > 1 ? shares : 1));
}

#define LAUNCH_SUMS(st, n, rows, kernel, ...)                                                  \
  do {                                                                                         \
    int64_t launch_n_ = (n);                                                                   \
    if (launch_n_ > 0)                                                                         \
      LAUNCH_GRID_(LAUNCH_BLOCK_KERNEL, shares_of(launch_n_, rows), BLOCK_THREADS, st, kernel, \
                   __VA_ARGS__);                                                               \
  } while (0)

/* Rows first + k step, k in 0..count-1, of a thread. */
struct thread_rows {
  int64_t first, step, count;
};

/* Shares are of whole groups of 8 rows a thread, whose loads are on their way together. */
static __device__ inline struct thread_rows own_rows(int64_t rows)
{
  int64_t group = 8 * row_parts(), groups = (rows + group - 1) / group;
  int64_t share = (groups + (int64_t)gridDim.y - 1) / (int64_t)gridDim.y * group;
  int64_t end = ((int64_t)blockIdx.y + 1) * share < rows ? ((int64_t)blockIdx.y + 1) * share : rows;
  struct thread_rows own;
  own.first = (int64_t)blockIdx.y * share + own_part();
  own.step = row_parts();
  own.count = own.first < end ? (end - own.first + own.step - 1) / own.step : 0;
  return own;
}

/* Whether this block is the last of those that share its rows.  *sum, which is what column_total
 * gave to each, then becomes the sum of all, added up in their order.  All threads call. */
static __device__ inline bool last_has_total(wide *sum)
{
  static __device__ wide share[SHARES_MOST][STRIP];
  static __device__ unsigned arrived[SHARES_MOST]; /* 0 again when all have */
  __shared__ bool last;
  wide total = 0;
  if (gridDim.y == 1)
    return true;
  wide(*own)[STRIP] = share + blockIdx.x * gridDim.y;
  if (own_part() == 0)
    own[blockIdx.y][own_column()] = *sum;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0)
    last = atomicInc(&arrived[blockIdx.x], gridDim.y - 1) == gridDim.y - 1;
  __syncthreads();
  if (!last)
    return false;
  __threadfence();
  for (int s = own_part(); s < (int)gridDim.y; s += row_parts())
    total += *(volatile wide *)&own[s][own_column()];
  *sum = column_total(total);
  return true;
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

#define ADD_COLUMN_SUMS(strip, rows, n, out, i, j, term)                            \
  do {                                                                              \
    int64_t j = (strip)*STRIP + own_column();                                       \
    struct thread_rows own_ = own_rows(rows);                                       \
    wide sum_ = 0;                                                                  \
    for (int64_t tile_ = 0; j < (n) && tile_ < own_.count; tile_ += SUM_ROWS) {     \
      int64_t end_ = tile_ + SUM_ROWS < own_.count ? tile_ + SUM_ROWS : own_.count; \
      real part_ = 0;                                                               \
      PRAGMA(unroll 8)                                                              \
      for (int64_t k_ = tile_; k_ < end_; k_++) {                                   \
        int64_t i = own_.first + k_ * own_.step;                                    \
        part_ += (term);                                                            \
      }                                                                             \
      sum_ += (wide)part_;                                                          \
    }                                                                               \
    sum_ = column_total(sum_);                                                      \
    if (last_has_total(&sum_) && own_part() == 0 && j < (n))                        \
      (out)[j] += (real)sum_;                                                       \
  } while (0)
#else
enum { SUM_PARTS = 64 / sizeof(real) }; /* sums that run side by side */
#define ADD_ROW_SUM(sum, n, j, term)                                      \
  do {                                                                    \
    for (int64_t tile_ = 0; tile_ < (n); tile_ += SUM_TILE) {             \
      int64_t end_ = tile_ + SUM_TILE < (n) ? tile_ + SUM_TILE : (n);     \
      int64_t full_ = end_ - (end_ - tile_) % SUM_PARTS;                  \
      real parts_[SUM_PARTS] = {0}, part_;                                \
      for (int64_t block_ = tile_; block_ < full_; block_ += SUM_PARTS) { \
        SIMD                                                              \
        for (int q_ = 0; q_ < SUM_PARTS; q_++) {                          \
          int64_t j = block_ + q_;                                        \
          parts_[q_] += (term);                                           \
        }                                                                 \
      }                                                                   \
      part_ = sum_of_parts(SUM_PARTS, parts_);                            \
      if (full_ < end_) {                                                 \
        real rest_ = 0;                                                   \
        SIMD_SUM(rest_)                                                   \
        for (int64_t j = full_; j < end_; j++)                            \
          rest_ += (term);                                                \
        part_ += rest_;                                                   \
      }                                                                   \
      (sum) += (wide)part_;                                               \
    }                                                                     \
  } while (0)
#define LAUNCH_SUMS(st, n, rows, kernel, ...) LAUNCH(st, n, kernel, __VA_ARGS__)

/* out[j] += sum over the rows i of term(i,j), for the columns j of one strip of n. */
#define ADD_COLUMN_SUMS(strip, rows, n, out, i, j, term)                              \
  do {                                                                                \
    int64_t first_ = (strip)*STRIP, width_ = (n)-first_ < STRIP ? (n)-first_ : STRIP; \
    wide sums_[STRIP] = {0};                                                          \
    for (int64_t block_ = 0; block_ < (rows); block_ += SUM_ROWS) {                   \
      int64_t end_ = block_ + SUM_ROWS < (rows) ? block_ + SUM_ROWS : (rows);         \
      real part_[STRIP] = {0};                                                        \
      for (int64_t i = block_; i < end_; i++) {                                       \
        SIMD                                                                          \
        for (int64_t q_ = 0; q_ < width_; q_++) {                                     \
          int64_t j = first_ + q_;                                                    \
          part_[q_] += (term);                                                        \
        }                                                                             \
      }                                                                               \
      SIMD                                                                            \
      for (int64_t q_ = 0; q_ < STRIP; q_++)                                          \
        sums_[q_] += (wide)part_[q_];                                                 \
    }                                                                                 \
    for (int64_t q_ = 0; q_ < width_; q_++)                                           \
      (out)[first_ + q_] += (real)sums_[q_];                                          \
  } while (0)
#endif

/* Of squares that were added up, as a norm divides by it; NaN where they overflowed: 0, which is
 * what infinity would give, hides it. */
#define INVERSE_ROOT(x) ((1 + ((x) - (x))) / sqrt(x))

/* Of n squares, the factor of an RMS norm. */
INLINE real norm_scale(wide squares, int64_t n, real eps)
{
  wide mean = squares / (wide)n + (wide)eps;
  return (real)INVERSE_ROOT(mean);
}

/* Rows whose scales the CPU makes together: the sum, the root and the division behind a row of 128
 * channels took a tenth of its time where the next one waited for them. */
#ifdef __CUDACC__
enum { NORMED_TOGETHER = 1 };
#else
enum { NORMED_TOGETHER = 8 };
#endif
#endif
