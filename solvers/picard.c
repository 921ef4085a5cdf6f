/* picard.c: z <- (1 - damping) z + damping f(z).  Converges when the damped map contracts; the
 * oracle that the other methods are tested against.
 *
 * It moves no vector that need not move.  The next iterate is made where f(z) lies, perhaps by f
 * itself (fp_measure), and z, which as a rule is the best one so far, stays: then `best`, z and fz
 * change places. */
#include "solvers/samples.h"

INLINE real mixed(real damping, real z, real fz) { return z + damping * (fz - z); }

/* fz <- the damped step */
INLINE void mix_columns(int64_t first, int64_t end, real damping, const real *z, real *fz)
{
#ifdef __CUDACC__
  if (in_packs(first | end, z) && in_packs(0, fz)) {
    enum { FLIGHT = 4 }; /* loads on their way together */
    int64_t packs = end / PACK;
    for (int64_t k = first / PACK + lane(); k < packs; k += FLIGHT * WARP) {
      pack<PACK> p[FLIGHT], f[FLIGHT];
#pragma unroll
      for (int i = 0; i < FLIGHT; i++)
        if (k + i * WARP < packs)
          p[i] = pack_at(z, k + i * WARP), f[i] = pack_at(fz, k + i * WARP);
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) {
        if (k + i * WARP >= packs)
          break;
        for (int q = 0; q < PACK; q++)
          f[i].at[q] = mixed(damping, p[i].at[q], f[i].at[q]);
        put_pack(f[i], fz, k + i * WARP);
      }
    }
    return;
  }
#endif
  SIMD
  FOR_COLUMNS (j, first, end)
    fz[j] = mixed(damping, z[j], fz[j]);
}

/* fz <- the next iterate of an active sample, z <- its best one, where they are not there. */
INLINE void turn_tile(const struct fp_samples *s, const struct fp_tile *t, real damping)
{
  const struct fp_sample *p = &s->sample[t->sample];
  if (p->action == FP_STEP && damping != 1)
    mix_columns(t->first, t->end, damping, s->z, s->fz);
  else if (p->action == FP_HOLD || (p->action == FP_REPLAY && p->keep))
    copy_columns(t->first, t->end, s->z, s->fz);
  else if (p->action == FP_REPLAY)
    copy_columns(t->first, t->end, s->best, s->fz);
  if (!p->keep && p->exit == FP_RUNNING)
    copy_columns(t->first, t->end, s->best, s->z);
}

enum { TILES_TOGETHER = 16 }; /* of a row */

INLINE int64_t tile_groups(const struct fp_samples *s)
{
  return (s->blocks * s->tiles + TILES_TOGETHER - 1) / TILES_TOGETHER;
}

/* Whether all that is wanted of a row lies where it should: as a rule, where f takes the step. */
INLINE bool is_turned(const struct fp_samples *s, int64_t r, real damping)
{
  const struct fp_sample *p = &s->sample[r];
  return s->per_row == 1 && p->action == FP_STEP && damping == 1 && p->keep &&
         s->count[r] == s->blocks;
}

KERNEL turn(struct fp_samples s, real damping)
{
  int64_t groups = tile_groups(&s), of_row = s.blocks * s.tiles;
  FOR_EACH_ROW (g, s.rows * groups, 2 * TILES_TOGETHER * (s.n < FP_TILE ? s.n : FP_TILE)) {
    int64_t r = g / groups, first = (g - r * groups) * TILES_TOGETHER;
    int64_t end = first + TILES_TOGETHER < of_row ? first + TILES_TOGETHER : of_row;
    if (is_turned(&s, r, damping))
      continue;
    for (int64_t i = r * of_row + first; i < r * of_row + end; i++) {
      struct fp_tile t = tile_of(&s, i);
      if (t.active)
        turn_tile(&s, &t, damping);
      else
        zero_columns(t.first, t.end, s.fz);
    }
  }
}

static void picard_step(stream st, const struct fp_samples *s, const struct fp_options *o,
                        const struct fp_memory *m)
{
  (void)m;
  LAUNCH_ROWS(st, s->rows * tile_groups(s), turn, *s, (real)o->damping);
}

extern const struct fp_method picard;
const struct fp_method picard = {"picard", true, NULL, picard_step, NULL};
