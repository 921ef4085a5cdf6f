/* picard.c: z <- (1 - damping) z + damping f(z).  Converges when the damped map contracts; the
 * oracle that the other methods are tested against.  One pass keeps the best iterate, and steps or
 * goes back to it. */
#include "solvers/samples.h"

INLINE real mixed(real damping, real z, real fz)
{
  return damping == 1 ? fz : z + damping * (fz - z);
}

/* What becomes of a tile's unknowns. */
struct turn {
  bool keeps, steps;
  real damping;
};

INLINE void step_columns(const struct fp_samples *s, const struct fp_tile *t, struct turn turn)
{
  real *z = s->z, *best = s->best;
  const real *fz = s->fz;
#ifdef __CUDACC__
  if (in_packs(t->first | t->end, z) && in_packs(0, fz) && in_packs(0, best)) {
    enum { FLIGHT = 4 }; /* loads on their way together */
    int64_t packs = t->end / PACK;
    for (int64_t k = t->first / PACK + lane(); k < packs; k += FLIGHT * WARP) {
      pack<PACK> p[FLIGHT], f[FLIGHT] = {};
#pragma unroll
      for (int i = 0; i < FLIGHT; i++)
        if (k + i * WARP < packs) {
          p[i] = pack_at(z, k + i * WARP);
          if (turn.steps)
            f[i] = pack_at(fz, k + i * WARP);
        }
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) {
        if (k + i * WARP >= packs)
          break;
        if (turn.keeps)
          put_pack(p[i], best, k + i * WARP);
        for (int q = 0; q < PACK; q++)
          p[i].at[q] = mixed(turn.damping, p[i].at[q], f[i].at[q]);
        if (turn.steps)
          put_pack(p[i], z, k + i * WARP);
      }
    }
    return;
  }
#endif
  if (turn.keeps)
    copy_columns(t->first, t->end, z, best);
  if (turn.steps) {
    SIMD
    FOR_COLUMNS (j, t->first, t->end)
      z[j] = mixed(turn.damping, z[j], fz[j]);
  }
}

KERNEL advance(struct fp_samples s, real damping)
{
  FOR_EACH_ROW (i, fp_tiles(&s), 2 * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    if (t.active) {
      const struct fp_sample *p = &s.sample[t.sample];
      struct turn turn = {p->keep, p->action == FP_STEP, damping};
      if (turn.keeps || turn.steps)
        step_columns(&s, &t, turn);
      if (p->action == FP_REPLAY)
        copy_columns(t.first, t.end, s.best, s.z);
    }
  }
}

static void picard_step(stream st, const struct fp_samples *s, const struct fp_options *o,
                        const struct fp_memory *m)
{
  (void)m;
  LAUNCH_ROWS(st, fp_tiles(s), advance, *s, (real)o->damping);
}

extern const struct fp_method picard;
const struct fp_method picard = {"picard", true, NULL, picard_step, NULL};
