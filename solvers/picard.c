/* picard.c: z <- (1 - damping) z + damping f(z).  Converges when the damped map contracts; the
 * oracle that the other methods are tested against. */
#include "solvers/solve.h"

KERNEL mix(struct fp_samples s, real damping)
{
  FOR_EACH (i, s.rows * s.blocks) {
    int64_t sample = s.per_row == 1 ? i / s.blocks : i;
    if (s.action[sample] == FP_STEP) {
      real *z = s.z + i * s.n;
      const real *fz = s.fz + i * s.n;
      SIMD
      for (int64_t j = 0; j < s.n; j++)
        z[j] += damping * (fz[j] - z[j]);
    }
  }
}

KERNEL replace(struct fp_samples s)
{
  FOR_EACH (i, s.rows * s.blocks) {
    int64_t sample = s.per_row == 1 ? i / s.blocks : i;
    if (s.action[sample] == FP_STEP)
      for (int64_t j = 0; j < s.n; j++)
        s.z[i * s.n + j] = s.fz[i * s.n + j];
  }
}

static void picard_step(stream st, const struct fp_samples *s, const struct fp_options *o)
{
  if (o->damping == 1)
    LAUNCH(st, s->rows * s->blocks, replace, *s);
  else
    LAUNCH(st, s->rows * s->blocks, mix, *s, (real)o->damping);
}

const struct fp_method picard = {"picard", picard_step};
