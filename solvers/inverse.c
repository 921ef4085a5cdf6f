/* inverse.c: the inverse that Broyden's method has built, transposed and applied: H' g for the
 * adjoint equation (I - df/dz)' v = g.  With H = damping I + sum u_k v_k' (broyden.c)
 *
 *   H' g = damping g + sum v_k (u_k . g)
 *
 * two passes over the vectors and no evaluation of f or of its VJP.
 * Reference: Ramzi, Mannel, Bai, Starck, Ciuciu, Moreau: SHINE, ICLR 2022, arXiv 2106.00553; its
 * `limit` is that of section 4.3, where the direction falls back to the Jacobian-free one. */
#include "solvers/samples.h"
#include "solvers/solve.h"

INLINE int64_t vector_at(const struct fp_inverse *h, int64_t r, int64_t k, int64_t b)
{
  return ((r * h->vectors + k) * h->length + b) * h->n;
}

/* part (rows,length,most): u_k . g on a block */
KERNEL project(struct fp_inverse h, const real *g)
{
  FOR_EACH_ROW (i, h.rows * h.length, h.most * h.n) {
    int64_t r = i / h.length, b = i % h.length;
    for (int64_t k = 0; b < h.lengths[r] && k < h.count[r]; k++) {
      const real *u = h.u + vector_at(&h, r, k, b), *x = g + i * h.n;
      wide sum = 0;
      SIMD_SUM(sum)
      FOR_COLUMNS (j, 0, h.n)
        sum += (wide)u[j] * (wide)x[j];
      ROW_FOLD(sum, plus);
      if (OWNS_COLUMN(0))
        h.part[i * h.most + k] = sum;
    }
  }
}

/* The blocks' sums, in order, into the row's first block. */
KERNEL add_blocks(struct fp_inverse h)
{
  FOR_EACH_COST (i, h.rows * h.most, h.length) {
    int64_t r = i / h.most, k = i % h.most;
    if (k < h.count[r]) {
      wide *part = h.part + r * h.length * h.most + k;
      for (int64_t b = 1; b < h.lengths[r]; b++)
        part[0] += part[b * h.most];
    }
  }
}

KERNEL combine(struct fp_inverse h, const real *g, real *out)
{
  FOR_EACH_ROW (i, h.rows * h.length, h.most * h.n) {
    int64_t r = i / h.length, b = i % h.length;
    bool known = b < h.lengths[r] && h.count[r] > 0;
    const real *x = g + i * h.n;
    real *y = out + i * h.n, scale = (real)(known ? h.damping : 1);
    SIMD
    FOR_COLUMNS (j, 0, h.n)
      y[j] = scale * x[j];
    for (int64_t k = 0; known && k < h.count[r]; k++) {
      const real *v = h.v + vector_at(&h, r, k, b);
      real a = (real)h.part[r * h.length * h.most + k];
      SIMD
      FOR_COLUMNS (j, 0, h.n)
        y[j] += a * v[j];
    }
  }
}

/* A row that is not what it should be takes g, and is known no more. */
KERNEL judge(struct fp_inverse h, double limit, const real *g, real *out)
{
  FOR_EACH_ROW (r, h.rows, h.length * h.n) {
    const real *x = g + r * h.length * h.n;
    real *y = out + r * h.length * h.n;
    double before = 0, after = 0;
    FOR_COLUMNS (j, 0, h.length * h.n) {
      before += square_norm(x[j]);
      after += square_norm(y[j]);
    }
    ROW_FOLD(before, plus);
    ROW_FOLD(after, plus);
    bool sound = is_finite(after) && (limit <= 0 || after <= limit * limit * before);
    FOR_COLUMNS (j, 0, sound ? 0 : h.length * h.n)
      y[j] = x[j];
    if (!sound && OWNS_COLUMN(0))
      h.count[r] = -1;
  }
}

KERNEL count_fallen(struct fp_inverse h)
{
  FOR_EACH (i, 1) {
    int32_t fallen = 0;
    for (int64_t r = 0; r < h.rows; r++)
      fallen += h.count[r] <= 0 && h.lengths[r] > 0;
    h.fallen[i] = fallen;
  }
}

enum status fp_transpose(const struct backend *be, const struct fp_inverse *h, double limit,
                         const DEVICE real *g, DEVICE real *out, int64_t *fallen)
{
  stream st = be->st;
  int32_t count;
  LAUNCH_ROWS(st, h->rows * h->length, project, *h, g);
  LAUNCH(st, h->rows * h->most, add_blocks, *h);
  LAUNCH_ROWS(st, h->rows * h->length, combine, *h, g, out);
  LAUNCH_ROWS(st, h->rows, judge, *h, limit, g, out);
  LAUNCH(st, 1, count_fallen, *h);
  TRY(be->download(st, sizeof count, h->fallen, &count));
  *fallen = count;
  return OK;
}
