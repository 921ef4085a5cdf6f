/* gmres.c: restarted GMRES for an affine map f(v) = A v + b, a sample at a time.
 *
 *   (I - A) v = b from v_0:  r_0 = f(v_0) - v_0,  A w = (f(v_0 + s w) - f(v_0)) / s
 *   v = v_0 + V y,  y = argmin |r_0 - (I - A) V y|,  V an orthonormal basis of Krylov's space
 *
 * The solve's loop evaluates f at v_0 (its residual is the true one) and then, for each vector of
 * the basis, at v_0 + s V_j; s is as large as f(v_0), so that the difference keeps its digits.
 * Orthogonalisation: classical Gram-Schmidt twice.  A cycle ends when its own estimate of the
 * residual is below the tolerance, when the basis is full, when it has broken down, or in time for
 * the last evaluation to be that of the answer.  A cycle that gains nothing is followed by a Picard
 * step; the third in a row is the end: breakdown when the system is singular, else stagnated.
 *
 * In a window only the leading block has a fixed right side; those behind it take Picard steps.
 *
 * Memory: a (slots,M+1,stride): V; c, d (slots,stride): v_0, f(v_0).
 * small: R (M+1,M), Givens' cosines and sines (M,2), right side (M+1), a column (M+1), y (M).
 * Reference: Saad & Schultz 1986, doi:10.1137/0907058. */
#include "solvers/samples.h"
#include "solvers/small.h"

enum { GMRES_BASE, GMRES_PROBE, GMRES_ANSWER, GMRES_PICARD, GMRES_REST };

struct gmres_settings {
  int64_t m, max_iter;
  double damping, tol;
  int stop;
};

struct krylov {
  wide *R, *rotation, *g, *h, *y;
};

INLINE struct krylov krylov_of(const struct fp_memory *m, int64_t slot)
{
  int64_t M = m->m - 1;
  struct krylov k;
  k.R = m->small + slot * m->small_size;
  k.rotation = k.R + (M + 1) * M;
  k.g = k.rotation + 2 * M;
  k.h = k.g + M + 1;
  k.y = k.h + M + 1;
  return k;
}

static enum status gmres_carve(struct arena *device, const struct fp_samples *s,
                               const struct fp_options *o, struct fp_memory *m)
{
  m->stride = s->blocks / s->per_row * s->n;
  int64_t M = o->rank < m->stride ? o->rank : m->stride;
  m->m = M + 1;
  m->sums = M + 2;
  m->small_size = (M + 1) * M + 5 * M + 2;
  TRY(CARVE(device, s->slots * m->m * m->stride, &m->a));
  TRY(CARVE(device, s->slots * m->stride, &m->c));
  TRY(CARVE(device, s->slots * m->stride, &m->d));
  TRY(CARVE(device, fp_tiles(s) * m->sums, &m->part));
  TRY(CARVE(device, s->slots * m->small_size, &m->small));
  return OK;
}

/* ---- beginning ---- */

/* phase: where z was evaluated; PICARD: nowhere of interest; rest: cycles in a row without gain */
KERNEL prepare(struct fp_samples s, struct gmres_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 8) {
    const struct fp_sample *p = &s.sample[i];
    struct fp_slot *q = &s.slot[p->slot];
    if (p->iterations == 1)
      q->phase = GMRES_REST;
    if (p->action == FP_REPLAY)
      q->phase = GMRES_REST;
    if (p->action != FP_STEP)
      continue;
    if (!leads(&s, i) || o.m == 0) {
      q->phase = GMRES_PICARD;
    } else if (q->phase == GMRES_REST || q->phase == GMRES_PICARD) {
      q->phase = GMRES_BASE;
      q->age = q->rest = 0;
    } else if (q->phase == GMRES_ANSWER) {
      q->phase = GMRES_BASE;
    }
  }
}

/* Of the lane's unknowns. */
INLINE wide dot(int64_t n, const real *x, const real *y)
{
  wide sum = 0;
  SIMD_SUM(sum)
  FOR_COLUMNS (j, 0, n)
    sum += (wide)x[j] * (wide)y[j];
  return sum;
}

/* base: V_0 = r_0 and v_0, f(v_0) are kept; probe: V_{j+1} = (I - A) V_j */
KERNEL apply(struct fp_samples s, struct fp_memory m)
{
  FOR_EACH_ROW (i, fp_tiles(&s), 4 * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    const struct fp_slot *q = &s.slot[slot];
    if (!t.active || s.sample[t.sample].action != FP_STEP)
      continue;
    wide *sum = m.part + i * m.sums;
    if (OWNS_COLUMN(0))
      sum[0] = sum[1] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      const real *z = s.z + first, *fz = s.fz + first, *f0 = m.d + v.in;
      if (q->phase == GMRES_BASE) {
        real *r = m.a + v.at;
        SIMD
        FOR_COLUMNS (j, 0, v.n) {
          r[j] = fz[j] - z[j];
          m.c[v.in + j] = z[j];
          m.d[v.in + j] = fz[j];
        }
        ADD_LANES(sum[0], dot(v.n, r, r));
        ADD_LANES(sum[1], dot(v.n, fz, fz));
      } else if (q->phase == GMRES_PROBE) {
        const real *V = m.a + v.at + q->count * m.stride;
        real *w = m.a + v.at + (q->count + 1) * m.stride, by = (real)(1 / q->length);
        SIMD
        FOR_COLUMNS (j, 0, v.n)
          w[j] = V[j] - by * (fz[j] - f0[j]);
        ADD_LANES(sum[0], dot(v.n, w, w));
      }
    }
  }
}

/* Sum k of a sample over its tiles, in order. */
INLINE wide total(const struct fp_samples *s, const struct fp_memory *m, int64_t i, int64_t k)
{
  int64_t active = s->per_row == 1 ? s->count[i] * s->tiles : s->tiles;
  const wide *part = m->part + i * tiles_of_sample(s) * m->sums;
  wide sum = 0;
  for (int64_t t = 0; t < active; t++)
    sum += part[t * m->sums + k];
  return sum;
}

/* Begins a cycle, unless the last ones have gained nothing. */
KERNEL begin_cycle(struct fp_samples s, struct fp_memory m)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 2 * tiles_of_sample(&s)) {
    struct fp_sample *p = &s.sample[i];
    struct fp_slot *q = &s.slot[p->slot];
    struct krylov k = krylov_of(&m, p->slot);
    if (p->action != FP_STEP)
      continue;
    if (q->phase == GMRES_PROBE)
      k.h[0] = sqrt(total(&s, &m, i, 0)); /* |w|, until its projections are known */
    if (q->phase != GMRES_BASE)
      continue;
    wide norm = sqrt(total(&s, &m, i, 0)), reference = sqrt(total(&s, &m, i, 1));
    bool gained = q->age == 0 || magnitude(norm) < 0.99 * q->last;
    q->rest = gained ? 0 : q->rest + 1;
    q->counter[FP_RESTARTS] += q->age > 0;
    q->age++;
    q->last = magnitude(norm);
    q->length = magnitude(reference) > q->last ? magnitude(reference) : q->last;
    q->count = 0;
    if (!gained)
      q->counter[FP_FALLBACKS]++;
    if (q->rest >= 3)
      p->verdict = (uint8_t)(q->accelerated ? FP_STAGNATED : FP_BREAKDOWN);
    bool small = !is_finite(re((real)(1 / q->last))); /* 0, or too small to be divided by */
    if (!gained || small)
      q->phase = GMRES_ANSWER; /* a Picard step, which holds a z whose residual is 0 */
    else
      k.g[0] = norm;
  }
}

/* ---- orthogonalising ---- */

KERNEL project(struct fp_samples s, struct fp_memory m)
{
  FOR_EACH_ROW (i, fp_tiles(&s), m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    const struct fp_slot *q = &s.slot[slot];
    if (!t.active || s.sample[t.sample].action != FP_STEP || q->phase != GMRES_PROBE)
      continue;
    wide *sum = m.part + i * m.sums;
    for (int64_t k = 0; OWNS_COLUMN(0) && k <= q->count; k++)
      sum[k] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      const real *w = m.a + v.at + (q->count + 1) * m.stride;
      for (int64_t k = 0; k <= q->count; k++)
        ADD_LANES(sum[k], dot(v.n, m.a + v.at + k * m.stride, w));
    }
  }
}

/* The column of the Hessenberg matrix; `again` adds what the second pass found.  h[0] held |w|,
 * which goes behind the column. */
KERNEL add_column(struct fp_samples s, struct fp_memory m, bool again)
{
  FOR_EACH_COST (i, s.rows * s.per_row, m.m * tiles_of_sample(&s)) {
    int64_t slot = s.sample[i].slot;
    const struct fp_slot *q = &s.slot[slot];
    struct krylov k = krylov_of(&m, slot);
    if (s.sample[i].action != FP_STEP || q->phase != GMRES_PROBE)
      continue;
    int64_t M = m.m - 1, j = q->count;
    if (!again)
      k.h[j + 1] = k.h[0];
    for (int64_t r = 0; r <= j; r++) {
      wide h = total(&s, &m, i, r);
      k.R[r * M + j] = again ? k.R[r * M + j] + h : h;
      k.y[r] = h;
    }
  }
}

/* w -= V h, with the h that the last pass found; the square of what is left. */
KERNEL subtract(struct fp_samples s, struct fp_memory m)
{
  FOR_EACH_ROW (i, fp_tiles(&s), m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    const struct fp_slot *q = &s.slot[slot];
    struct krylov k = krylov_of(&m, slot);
    if (!t.active || s.sample[t.sample].action != FP_STEP || q->phase != GMRES_PROBE)
      continue;
    wide *sum = m.part + i * m.sums;
    if (OWNS_COLUMN(0))
      sum[0] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      real *w = m.a + v.at + (q->count + 1) * m.stride;
      for (int64_t c = 0; c <= q->count; c++) {
        const real *V = m.a + v.at + c * m.stride;
        real h = (real)k.y[c];
        SIMD
        FOR_COLUMNS (j, 0, v.n)
          w[j] -= h * V[j];
      }
      ADD_LANES(sum[0], dot(v.n, w, w));
    }
  }
}

/* ---- the least squares ---- */

/* Rotates column j; returns the norm of the residual that is left. */
INLINE double rotate(const struct krylov *k, int64_t M, int64_t j, wide below)
{
  wide *c = k->rotation;
  for (int64_t r = 0; r < j; r++) {
    wide a = k->R[r * M + j], b = k->R[(r + 1) * M + j];
    k->R[r * M + j] = c[2 * r] * a + c[2 * r + 1] * b;
    k->R[(r + 1) * M + j] = c[2 * r] * b - c[2 * r + 1] * a;
  }
  wide a = k->R[j * M + j], norm = sqrt(a * a + below * below);
  c[2 * j] = re(norm) > 0 ? a / norm : 1;
  c[2 * j + 1] = re(norm) > 0 ? below / norm : 0;
  k->R[j * M + j] = norm;
  k->g[j + 1] = -c[2 * j + 1] * k->g[j];
  k->g[j] = c[2 * j] * k->g[j];
  return magnitude(k->g[j + 1]);
}

/* y of R y = g over the first c columns; a pivot that is nothing beside the largest gives 0. */
INLINE bool back_substitute(const struct krylov *k, int64_t M, int64_t c)
{
  double largest = 0;
  bool regular = true;
  for (int64_t r = 0; r < c; r++)
    if (magnitude(k->R[r * M + r]) > largest)
      largest = magnitude(k->R[r * M + r]);
  for (int64_t r = c - 1; r >= 0; r--) {
    wide sum = k->g[r];
    bool sound = magnitude(k->R[r * M + r]) > 1024 * EPSILON * largest;
    for (int64_t j = r + 1; j < c; j++)
      sum -= k->R[r * M + j] * k->y[j];
    k->y[r] = sound ? sum / k->R[r * M + r] : 0;
    regular = regular && sound;
  }
  return regular;
}

/* Norm that a cycle aims at, a little below the tolerance. */
INLINE double aim(const struct fp_samples *s, const struct gmres_settings *o,
                  const struct fp_slot *q, int64_t i)
{
  double unknowns = (double)(s->n * (s->per_row == 1 ? s->count[i] : 1));
  double unit = o->stop == FP_REL ? q->length : o->stop == FP_RMS ? sqrt(unknowns) : 1;
  return 0.5 * o->tol * unit;
}

KERNEL decide(struct fp_samples s, struct fp_memory m, struct gmres_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, m.m * m.m + tiles_of_sample(&s)) {
    const struct fp_sample *p = &s.sample[i];
    struct fp_slot *q = &s.slot[p->slot];
    struct krylov k = krylov_of(&m, p->slot);
    bool last = p->iterations >= o.max_iter - 1;
    if (p->action != FP_STEP)
      continue;
    if (q->phase == GMRES_BASE && last)
      q->phase = GMRES_ANSWER; /* no evaluation left for a basis: a Picard step */
    if (q->phase != GMRES_PROBE)
      continue;
    int64_t M = o.m, j = q->count;
    wide before = k.h[j + 1], left = sqrt(total(&s, &m, i, 0));
    bool exhausted = !(magnitude(left) > 8 * EPSILON * magnitude(before));
    double estimate = rotate(&k, M, j, exhausted ? 0 : left);
    k.h[0] = left;
    q->count++;
    q->accelerated = true;
    if (exhausted || q->count == M || last || !(estimate > aim(&s, &o, q, i))) {
      q->accelerated = back_substitute(&k, M, q->count);
      q->phase = GMRES_ANSWER;
    }
  }
}

/* ---- where f is evaluated next ---- */

INLINE void probe(const struct fp_memory *m, const struct fp_strip *v, const struct fp_slot *q,
                  real by, real *z)
{
  real *V = m->a + v->at + q->count * m->stride, length = (real)q->length;
  const real *v0 = m->c + v->in;
  SIMD
  FOR_COLUMNS (j, 0, v->n) {
    V[j] *= by;
    z[j] = v0[j] + length * V[j];
  }
}

KERNEL advance(struct fp_samples s, struct fp_memory m, struct gmres_settings o)
{
  FOR_EACH_ROW (i, fp_tiles(&s), m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    const struct fp_slot *q = &s.slot[slot];
    struct krylov k = krylov_of(&m, slot);
    if (!t.active || s.sample[t.sample].action != FP_STEP)
      continue;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      real *z = s.z + first;
      const real *fz = s.fz + first;
      if (q->phase == GMRES_BASE) {
        probe(&m, &v, q, (real)(1 / k.g[0]), z);
      } else if (q->phase == GMRES_PROBE) {
        probe(&m, &v, q, (real)(1 / k.h[0]), z);
      } else if (q->phase == GMRES_ANSWER && q->count > 0) {
        SIMD
        FOR_COLUMNS (j, 0, v.n)
          z[j] = m.c[v.in + j];
        for (int64_t c = 0; c < q->count; c++) {
          const real *V = m.a + v.at + c * m.stride;
          real y = (real)k.y[c];
          SIMD
          FOR_COLUMNS (j, 0, v.n)
            z[j] += y * V[j];
        }
      } else {
        SIMD
        FOR_COLUMNS (j, 0, v.n)
          z[j] += (real)o.damping * (fz[j] - z[j]);
      }
    }
  }
}

KERNEL settle(struct fp_samples s)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 1) {
    struct fp_sample *p = &s.sample[i];
    struct fp_slot *q = &s.slot[p->slot];
    if (p->action != FP_STEP)
      continue;
    if (q->phase == GMRES_BASE)
      q->phase = GMRES_PROBE;
    if (q->phase ==
        GMRES_PROBE) /* which is not meant to be the best, and not counted if it isn't */
      p->stale = p->stale > 0 ? p->stale - 1 : -1;
  }
}

static void gmres_step(stream st, const struct fp_samples *s, const struct fp_options *o,
                       const struct fp_memory *m)
{
  struct gmres_settings c;
  int64_t samples = s->rows * s->per_row;
  c.m = m->m - 1, c.max_iter = o->max_iter;
  c.damping = o->damping, c.tol = o->tol, c.stop = (int)o->stop;
  LAUNCH(st, samples, prepare, *s, c);
  LAUNCH_ROWS(st, fp_tiles(s), apply, *s, *m);
  LAUNCH(st, samples, begin_cycle, *s, *m);
  for (int again = 0; again < 2; again++) {
    LAUNCH_ROWS(st, fp_tiles(s), project, *s, *m);
    LAUNCH(st, samples, add_column, *s, *m, again == 1);
    LAUNCH_ROWS(st, fp_tiles(s), subtract, *s, *m);
  }
  LAUNCH(st, samples, decide, *s, *m, c);
  LAUNCH_ROWS(st, fp_tiles(s), advance, *s, *m, c);
  LAUNCH(st, samples, settle, *s);
}

extern const struct fp_method gmres;
const struct fp_method gmres = {"gmres", false, gmres_carve, gmres_step, NULL};
