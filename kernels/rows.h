/* rows.h: how loops walk a matrix, so that the CPU gets vectors and the GPU coalesced accesses.
 *
 * Elementwise, (rows,n): index i of rows * spans(n) is SPAN columns of one row:
 *   FOR_EACH (i, rows * spans(n)) { struct span s = span_of(i, n); SIMD for (j = s.first; ...) }
 * Sums over a row, by FOR_EACH_ROW: tiles of real, added up in `wide`.
 * Sums over the rows, one a column: index i of strips(n) is STRIP columns, which one thread adds up
 * from the first row to the last; on the GPU a block does, a warp an interleaved part of the rows:
 *   BLOCK_KERNEL k(...) { FOR_EACH_BLOCK (i, strips(n), cost) ADD_COLUMN_SUMS(i, ...); }
 *   LAUNCH_BLOCKS(st, strips(n), k, ...);
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

#define ADD_COLUMN_SUMS(strip, rows, n, out, i, j, term)                  \
  do {                                                                    \
    int64_t j = (strip)*STRIP + own_column();                             \
    wide sum_ = 0;                                                        \
    for (int64_t i = own_part(); j < (n) && i < (rows); i += row_parts()) \
      sum_ += (wide)(term);                                               \
    sum_ = column_total(sum_);                                            \
    if (own_part() == 0 && j < (n))                                       \
      (out)[j] += (real)sum_;                                             \
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
/* out[j] += sum over the rows i of term(i,j), for the columns j of one strip of n: in real over
 * SUM_ROWS rows, then in wide. */
enum { SUM_ROWS = 64 };
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
#endif
