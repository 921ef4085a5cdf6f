/* dropout: masks of 1/(1-p) with probability 1-p, else 0; and columns between matrices.
 *   mask (rows,n): element j of row r from Philox key seed, counter (STREAM_DROPOUT, step,
 *   first + r, which and j/4): a function of the sequence, however a batch is cut.
 *   columns: y = a x + b y on n columns of M rows that are ldx and ldy apart.
 */
#include "core/philox.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

enum { WORDS = 4 };

KERNEL draw(int64_t rows, int64_t n, double p, struct dropout_draw d, uint32_t which, real *mask)
{
  int64_t quads = (n + WORDS - 1) / WORDS;
  FOR_EACH_COST (i, rows * quads, 100) {
    int64_t r = i / quads, first = i % quads * WORDS;
    uint32_t word[WORDS];
    philox_rounds(d.seed, (uint32_t)STREAM_DROPOUT | which << 8, d.step, d.first + (uint32_t)r,
                  (uint32_t)(first / WORDS), word);
    for (int64_t j = first; j < first + WORDS && j < n; j++)
      mask[r * n + j] = (real)((double)word[j - first] >= p * 4294967296.0 ? 1 / (1 - p) : 0);
  }
}

KERNEL combine(int64_t M, int64_t n, real a, int64_t ldx, const real *x, real b, int64_t ldy,
               real *y)
{
  bool add = re(b) != 0;
  FOR_EACH_COST (i, M * spans(n), n) {
    struct span s = span_of(i, n);
    const real *from = x + s.row * ldx;
    real *to = y + s.row * ldy;
    SIMD
    for (int64_t j = s.first; j < s.end; j++)
      to[j] = a * from[j] + (add ? b * to[j] : 0);
  }
}

#ifdef __CUDACC__
#include "core/packs.h"

template <bool ADD>
static __global__ void combine_packs(int64_t M, int64_t n, real a, int64_t ldx, const real *x,
                                     real b, int64_t ldy, real *y)
{
  FOR_EACH (i, groups(M, n)) {
    group g = group_of(i, M, n);
    const real *from = x + g.row * ldx + g.column;
    real *to = y + g.row * ldy + g.column;
    pack<PACK> rows[GROUP], old[GROUP];
#pragma unroll
    for (int k = 0; k < GROUP; k++)
      if (k < g.rows) {
        rows[k] = load_pack<PACK>(from + k * ldx);
        if (ADD)
          old[k] = load_pack<PACK>(to + k * ldy);
      }
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
#pragma unroll
      for (int l = 0; l < PACK; l++)
        rows[k].at[l] = ADD ? a * rows[k].at[l] + b * old[k].at[l] : a * rows[k].at[l];
      if (k < g.rows)
        store_pack<PACK>(rows[k], to + k * ldy);
    }
  }
}

/* Whether it has been done. */
static bool combined_in_packs(stream st, int64_t M, int64_t n, real a, int64_t ldx, const real *x,
                              real b, int64_t ldy, real *y)
{
  if (!in_packs(n, ldx, x, PACK) || !in_packs(n, ldy, y, PACK) || !in_groups(M, n))
    return false;
  if (re(b) != 0)
    LAUNCH(st, groups(M, n), combine_packs<true>, M, n, a, ldx, x, b, ldy, y);
  else
    LAUNCH(st, groups(M, n), combine_packs<false>, M, n, a, ldx, x, b, ldy, y);
  return true;
}
#endif

void OP(dropout_mask)(stream st, int64_t rows, int64_t n, double p, struct dropout_draw d,
                      uint32_t which, DEVICE real *mask)
{
  LAUNCH(st, rows * ((n + WORDS - 1) / WORDS), draw, rows, n, p, d, which, mask);
}

void OP(columns)(stream st, int64_t M, int64_t n, real a, int64_t ldx, const DEVICE real *x, real b,
                 int64_t ldy, DEVICE real *y)
{
#ifdef __CUDACC__
  if (combined_in_packs(st, M, n, a, ldx, x, b, ldy, y))
    return;
#endif
  LAUNCH(st, M * spans(n), combine, M, n, a, ldx, x, b, ldy, y);
}
