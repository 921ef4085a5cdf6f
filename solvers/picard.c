/* picard.c: z <- (1 - damping) z + damping f(z).  Converges when the damped map contracts; the
 * oracle that the other methods are tested against. */
#include "solvers/samples.h"

KERNEL mix(struct fp_samples s, real damping)
{
  FOR_EACH_ROW (i, fp_tiles(&s), s.n < FP_TILE ? s.n : FP_TILE) {
    struct fp_tile t = tile_of(&s, i);
    if (t.active && s.sample[t.sample].action == FP_STEP) {
      real *z = s.z;
      const real *fz = s.fz;
      SIMD
      FOR_COLUMNS (j, t.first, t.end)
        z[j] += damping * (fz[j] - z[j]);
    }
  }
}

KERNEL replace(struct fp_samples s)
{
  FOR_EACH_ROW (i, fp_tiles(&s), s.n < FP_TILE ? s.n : FP_TILE) {
    struct fp_tile t = tile_of(&s, i);
    if (t.active && s.sample[t.sample].action == FP_STEP)
      FOR_COLUMNS (j, t.first, t.end)
        s.z[j] = s.fz[j];
  }
}

static void picard_step(stream st, const struct fp_samples *s, const struct fp_options *o,
                        const struct fp_memory *m)
{
  (void)m;
  if (o->damping == 1)
    LAUNCH_ROWS(st, fp_tiles(s), replace, *s);
  else
    LAUNCH_ROWS(st, fp_tiles(s), mix, *s, (real)o->damping);
}

extern const struct fp_method picard;
const struct fp_method picard = {"picard", NULL, picard_step, NULL};
