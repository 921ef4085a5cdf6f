/* tiles.h: small dense products whose result stays in registers.
 *
 * One index of FOR_EACH owns a tile of up to ROWS x LANES outputs: on the CPU the lanes are vectors
 * that the rows share, on the GPU a tile is one output and neighbouring threads are the lanes.
 * Lanes and rows are independent; sums over k run in order.
 */
#ifndef KERNELS_TILES_H
#define KERNELS_TILES_H
#include "kernels/sums.h"

/* Four rows of these lanes fill half the vector registers of each instruction set.  An index works
 * through up to ROW_SPAN rows of its lanes. */
#if defined(__CUDACC__)
enum { ROWS = 1, LANES = 1, ROW_SPAN = 1 };
#elif REAL_BITS == 128
enum { ROWS = 4, LANES = 4, ROW_SPAN = 64 };
#elif defined(__AVX512F__)
enum { ROWS = 8, LANES = 16, ROW_SPAN = 64 };
#elif defined(__AVX2__)
enum { ROWS = 4, LANES = 64 / sizeof(real), ROW_SPAN = 64 };
#else
enum { ROWS = 4, LANES = 32 / sizeof(real), ROW_SPAN = 64 };
#endif

INLINE int64_t row_spans(int64_t n) { return (n + ROW_SPAN - 1) / ROW_SPAN; }
INLINE int64_t lane_blocks(int64_t n) { return (n + LANES - 1) / LANES; }
INLINE int at_most(int64_t n, int most) { return n < most ? (int)n : most; }

/* a b + c, fused where the processor does it */
ELEMENTARY real add_product(real c, real a, real b) { return multiply_add(a, b, c); }

ELEMENTARY void tile_zero(real acc[ROWS][LANES])
{
  for (int r = 0; r < ROWS; r++) {
    SIMD
    for (int l = 0; l < LANES; l++)
      acc[r][l] = 0;
  }
}

/* acc (rows,lanes) += a b; element (r,k) of a at a[r ar + k ak], b (K,lanes) with ldb columns.  Of
 * a whole tile, where rows and lanes are constants, acc stays in registers. */
ELEMENTARY void tile_accumulate(int rows, int lanes, int64_t K, const real *a, int64_t ar,
                                int64_t ak, const real *b, int64_t ldb, real acc[ROWS][LANES])
{
  for (int64_t k = 0; k < K; k++) {
    const real *row = b + k * ldb;
    for (int r = 0; r < rows; r++) {
      real factor = a[r * ar + k * ak], *to = acc[r];
      SIMD
      for (int l = 0; l < lanes; l++)
        to[l] = add_product(to[l], factor, row[l]);
    }
  }
}

ELEMENTARY void tile_multiply_full(int64_t K, const real *a, int64_t ar, int64_t ak, const real *b,
                                   int64_t ldb, real acc[ROWS][LANES])
{
  real s[ROWS][LANES];
  tile_zero(s);
  tile_accumulate(ROWS, LANES, K, a, ar, ak, b, ldb, s);
  for (int r = 0; r < ROWS; r++) {
    SIMD
    for (int l = 0; l < LANES; l++)
      acc[r][l] += s[r][l];
  }
}

/* The same for a tile that may be whole or not. */
INLINE void tile_multiply(int rows, int lanes, int64_t K, const real *a, int64_t ar, int64_t ak,
                          const real *b, int64_t ldb, real acc[ROWS][LANES])
{
  if (rows == ROWS && lanes == LANES)
    tile_multiply_full(K, a, ar, ak, b, ldb, acc);
  else
    tile_accumulate(rows, lanes, K, a, ar, ak, b, ldb, acc);
}

/* row r of acc *= factor[r] */
ELEMENTARY void tile_scale_rows(int rows, const real *factor, real acc[ROWS][LANES])
{
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < LANES; l++)
      acc[r][l] *= factor[r];
  }
}

/* sum += term(n) for n in 0..N-1: a vector's partial sums first, added up once at the end. */
#define ADD_LANE_SUM(sum, N, n, term)                           \
  do {                                                          \
    real parts_[LANES] = {0};                                   \
    int64_t full_ = (N) / LANES * LANES;                        \
    for (int64_t block_ = 0; block_ < full_; block_ += LANES) { \
      SIMD                                                      \
      for (int lane_ = 0; lane_ < LANES; lane_++) {             \
        int64_t n = block_ + lane_;                             \
        parts_[lane_] += (term);                                \
      }                                                         \
    }                                                           \
    real part_ = sum_of_parts(LANES, parts_);                   \
    for (int64_t n = full_; n < (N); n++)                       \
      part_ += (term);                                          \
    (sum) += part_;                                             \
  } while (0)

#if defined(__AVX512F__) && REAL_BITS == 32
typedef float vector __attribute__((vector_size(64)));
typedef int32_t places __attribute__((vector_size(64)));

/* Swaps the squares of `step` numbers off the diagonal in every square of twice that. */
#define SWAP_SQUARES(v, step)                                \
  do {                                                       \
    places low_, high_;                                      \
    for (int l_ = 0; l_ < LANES; l_++) {                     \
      low_[l_] = l_ & (step) ? LANES + l_ - (step) : l_;     \
      high_[l_] = l_ & (step) ? LANES + l_ : l_ + (step);    \
    }                                                        \
    for (int i_ = 0; i_ < LANES; i_++)                       \
      if (!(i_ & (step))) {                                  \
        vector a_ = (v)[i_], b_ = (v)[i_ + (step)];          \
        (v)[i_] = __builtin_shuffle(a_, b_, low_);           \
        (v)[i_ + (step)] = __builtin_shuffle(a_, b_, high_); \
      }                                                      \
  } while (0)

/* out (LANES,LANES) = transpose of a, in registers: 64 shuffles instead of 256 gathered numbers */
ELEMENTARY void transpose_square(const real *a, int64_t lda, int64_t ldo, real *out)
{
  vector v[LANES];
  for (int i = 0; i < LANES; i++)
    memcpy(&v[i], a + i * lda, sizeof v[i]);
  SWAP_SQUARES(v, 1);
  SWAP_SQUARES(v, 2);
  SWAP_SQUARES(v, 4);
  SWAP_SQUARES(v, 8);
  for (int i = 0; i < LANES; i++)
    memcpy(out + i * ldo, &v[i], sizeof v[i]);
}
#endif

/* out (K,LANES), rows ldo apart, = transpose of `lanes` rows of a, K columns each, lda apart; other
 * lanes are 0 */
INLINE void tile_transpose_to(int64_t K, int lanes, const real *a, int64_t lda, int64_t ldo,
                              real *out)
{
  int64_t k = 0;
#if defined(__AVX512F__) && REAL_BITS == 32
  for (; lanes == LANES && k + LANES <= K; k += LANES)
    transpose_square(a + k, lda, ldo, out + k * ldo);
#endif
  for (; k < K; k++)
    if (lanes == LANES) {
      SIMD
      for (int l = 0; l < LANES; l++)
        out[k * ldo + l] = a[l * lda + k];
    } else {
      for (int l = 0; l < LANES; l++)
        out[k * ldo + l] = l < lanes ? a[l * lda + k] : 0;
    }
}

INLINE void tile_transpose(int64_t K, int lanes, const real *a, int64_t lda, real (*out)[LANES])
{
  tile_transpose_to(K, lanes, a, lda, LANES, out[0]);
}
#endif
