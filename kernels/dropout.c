/* dropout: masks of 1/(1-p) with probability 1-p, else 0; and columns between matrices.
 *   mask (rows,n): element j of row r from Philox key seed, counter (STREAM_DROPOUT, step,
 *   first + r, which and j/4): a function of the sequence, however a batch is cut.
 *   columns: y = a x + b y on n columns of M rows that are ldx and ldy apart.
 */
#include "core/philox.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

enum { WORDS = 4 };

/* Rows of n: 0 where the word drawn is below `least` of 2^32, else `kept`. */
struct mask_draw {
  struct dropout_draw d;
  uint32_t which;
  int64_t n;
  uint64_t least;
  real kept;
};

INLINE int64_t quads(int64_t n) { return (n + WORDS - 1) / WORDS; }

INLINE void draw_quad(struct mask_draw m, uint32_t row, uint32_t quad, real *out)
{
  uint32_t word[WORDS];
  philox_rounds(m.d.seed, (uint32_t)STREAM_DROPOUT | m.which << 8, m.d.step, m.d.first + row, quad,
                word);
  for (int k = 0; k < WORDS; k++)
    out[k] = word[k] >= m.least ? m.kept : 0;
}

KERNEL draw(int64_t rows, struct mask_draw m, real *mask)
{
  FOR_EACH_COST (i, rows * quads(m.n), 100) {
    real drawn[WORDS];
    int64_t r = i / quads(m.n), quad = i - r * quads(m.n);
    draw_quad(m, (uint32_t)r, (uint32_t)quad, drawn);
    for (int64_t j = quad * WORDS; j < quad * WORDS + WORDS && j < m.n; j++)
      mask[r * m.n + j] = drawn[j - quad * WORDS];
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

/* Rows of whole quads. */
KERNEL draw_packs(int64_t rows, struct mask_draw m, real *mask)
{
  uint32_t per_row = (uint32_t)quads(m.n);
  FOR_EACH (i, rows * per_row) {
    uint32_t row = (uint32_t)i / per_row;
    real drawn[WORDS];
    draw_quad(m, row, (uint32_t)i - row * per_row, drawn);
#pragma unroll
    for (int k = 0; k < WORDS; k += PACK) {
      pack<PACK> out;
#pragma unroll
      for (int l = 0; l < PACK; l++)
        out.at[l] = drawn[k + l];
      store_pack(out, mask + i * WORDS + k);
    }
  }
}

template <bool ADD>
static __global__ void combine_packs(int64_t M, int64_t n, real a, int64_t ldx, const real *x,
                                     real b, int64_t ldy, real *y)
{
  FOR_EACH (i, groups(M, n)) {
    struct pack_group g = group_of(i, M, n);
    const real *from = x + g.row * ldx + g.column;
    real *to = y + g.row * ldy + g.column;
    pack<PACK> rows[GROUP], old[GROUP];
#pragma unroll
    for (int k = 0; k < GROUP; k++)
      if (k < g.rows) {
        rows[k] = load_pack(from + k * ldx);
        if (ADD)
          old[k] = load_pack(to + k * ldy);
      }
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
#pragma unroll
      for (int l = 0; l < PACK; l++)
        rows[k].at[l] = ADD ? a * rows[k].at[l] + b * old[k].at[l] : a * rows[k].at[l];
      if (k < g.rows)
        store_pack(rows[k], to + k * ldy);
    }
  }
}

/* Whether it has been done. */
static bool combined_in_packs(stream st, int64_t M, int64_t n, real a, int64_t ldx, const real *x,
                              real b, int64_t ldy, real *y)
{
  if (!in_packs(n | ldx, x) || !in_packs(n | ldy, y) || !in_groups(M, n))
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
  struct mask_draw m = {d, which, n, (uint64_t)ceil(p * 4294967296.0), (real)(1 / (1 - p))};
#ifdef __CUDACC__
  if (in_packs(n, mask) && n % WORDS == 0 && rows * quads(n) <= UINT32_MAX) {
    LAUNCH(st, rows * quads(n), draw_packs, rows, m, mask);
    return;
  }
#endif
  LAUNCH(st, rows * quads(n), draw, rows, m, mask);
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
