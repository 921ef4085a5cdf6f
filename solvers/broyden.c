/* broyden.c: Broyden's methods with limited memory, a sample at a time.
 *
 *   r_k = f(z_k) - z_k,  H_k approximates (I - df/dz)^{-1},  H_0 = damping I
 *   p_k = H_k r_k,  s_k = t_k p_k,  z_{k+1} = z_k + s_k,  y_k = r_k - r_{k+1}
 *   good:  H_{k+1} = H_k + (s_k - H_k y_k) (H_k' s_k)' / (s_k . H_k y_k)
 *   bad:   H_{k+1} = H_k + (s_k - H_k y_k) y_k' / (y_k . y_k)
 *
 * H_k = damping I + sum u_j v_j'.  As H_k y_k = p_k - q with q = H_k r_{k+1}, a step takes one
 * product with H and, in the good method, one with its transpose; both share their passes over u
 * and v. t_k = 1, or with the line search halved until the residual falls.  An update whose
 * denominator is small against its factors is left out.  When all `rank` updates are taken, H
 * becomes damping I again: an update rests on all that came before it, so none may be overwritten
 * alone.
 *
 * Memory: a, b (slots,rank+1,stride): u, v; the one behind the last holds q, and (bad) r_k.
 * c, d (slots,stride): p_k; z_k + damping r_k, the Picard step to go back to.
 * small: v_j . r (M), u_j . s (M), then what `update` decides (struct broyden_update).
 * References: Broyden 1965, doi:10.1090/S0025-5718-1965-0198670-6; Kelley 2003, ch. 4. */
#include "solvers/samples.h"
#include "solvers/small.h"

enum { BROYDEN_PLAIN, BROYDEN_UPDATE, BROYDEN_UNDO, BROYDEN_BACK };
enum { HALVINGS = 6, SUMS = 5 };

struct broyden_settings {
  int64_t m, delay, restart;
  double damping, start, safeguard, guard;
  bool bad, line_search;
};

/* u = up p + uq q;  p <- q + pu u; all 0 but uq: no update */
struct broyden_update {
  wide *vr, *us, *up, *uq, *pu;
};

INLINE struct broyden_update update_of(const struct fp_memory *m, int64_t slot)
{
  struct broyden_update u;
  u.vr = m->small + slot * m->small_size;
  u.us = u.vr + m->m;
  u.up = u.us + m->m;
  u.uq = u.up + 1;
  u.pu = u.up + 2;
  return u;
}

static enum status broyden_carve(struct arena *device, const struct fp_samples *s,
                                 const struct fp_options *o, struct fp_memory *m)
{
  m->stride = s->blocks / s->per_row * s->n;
  m->m = o->rank + 1;
  m->sums = 2 * o->rank > SUMS ? 2 * o->rank : SUMS;
  m->small_size = 2 * m->m + 3;
  TRY(CARVE(device, s->slots * m->m * m->stride, &m->a));
  TRY(CARVE(device, s->slots * m->m * m->stride, &m->b));
  TRY(CARVE(device, s->slots * m->stride, &m->c));
  TRY(CARVE(device, s->slots * m->stride, &m->d));
  TRY(CARVE(device, fp_tiles(s) * m->sums, &m->part));
  TRY(CARVE(device, s->slots * m->small_size, &m->small));
  return OK;
}

/* ---- what the new residual says of the last step ---- */

/* count: updates in H; -1: nor is there a last step to learn from. */
INLINE void plain(struct fp_slot *q)
{
  q->phase = BROYDEN_PLAIN;
  q->count = 0;
}

INLINE bool undo(struct fp_slot *q, double now, const struct broyden_settings *o)
{
  if (!q->accelerated || o->safeguard <= 0 || now <= o->safeguard * q->last)
    return false;
  q->phase = BROYDEN_UNDO;
  q->count = -1;
  q->accelerated = false;
  q->counter[FP_REJECTIONS]++;
  return true;
}

INLINE bool search(struct fp_slot *q, double now, const struct broyden_settings *o)
{
  bool falls = now <= (1 - 1e-4 * q->length) * q->last;
  if (!o->line_search || q->count < 0 || falls || q->rest >= HALVINGS)
    return false;
  q->phase = BROYDEN_BACK;
  q->length /= 2;
  q->rest++;
  q->counter[FP_REJECTIONS]++;
  return true;
}

KERNEL prepare(struct fp_samples s, struct broyden_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 16) {
    const struct fp_sample *p = &s.sample[i];
    struct fp_slot *q = &s.slot[p->slot];
    if (p->iterations == 1) {
      q->count = -1;
      q->age = q->rest = 0;
      q->accelerated = false;
    }
    bool moved = p->action == FP_REPLAY && p->exit == FP_RUNNING; /* and not by a step */
    if (moved || !leads(&s, i)) {
      q->count = -1;
      q->accelerated = false;
    }
    if (p->action != FP_STEP || search(q, p->now, &o) || undo(q, p->now, &o))
      continue;
    bool fresh =
        q->count < 0 || o.m == 0 || p->iterations <= o.delay || (o.start > 0 && p->now > o.start);
    bool stale = p->stale > 0 && p->stale % (2 * o.m + 8) == 0;
    bool over = q->count >= o.m || (o.restart > 0 && q->age >= o.restart) || stale;
    q->phase = BROYDEN_UPDATE;
    q->rest = 0;
    q->age++;
    if (!fresh && over) {
      q->counter[FP_RESTARTS]++;
      q->age = 0;
    }
    if (fresh || over)
      plain(q);
    q->last = p->now;
  }
}

/* ---- products with H and its transpose ---- */

INLINE wide dot(int64_t n, const real *x, const real *y)
{
  wide sum = 0;
  SIMD_SUM(sum)
  for (int64_t j = 0; j < n; j++)
    sum += (wide)x[j] * (wide)y[j];
  return sum;
}

INLINE void add_scaled(int64_t n, real a, const real *x, real *y)
{
  SIMD
  for (int64_t j = 0; j < n; j++)
    y[j] += a * x[j];
}

INLINE void residual(const struct fp_samples *s, const struct fp_strip *v, real *r)
{
  SIMD
  for (int64_t j = 0; j < v->n; j++)
    r[j] = s->fz[v->first + j] - s->z[v->first + j];
}

INLINE bool works(const struct fp_samples *s, const struct fp_tile *t, const struct fp_slot *q,
                  int phase)
{
  return t->active && s->sample[t->sample].action == FP_STEP && q->phase == phase;
}

/* sum[j] = v_j . r, sum[M+j] = u_j . s */
KERNEL dots(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, fp_tiles(&s), 2 * m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    struct fp_slot *q = &s.slot[slot];
    if (!works(&s, &t, q, BROYDEN_UPDATE))
      continue;
    wide *sum = m.part + i * m.sums;
    for (int64_t k = 0; k < 2 * o.m; k++)
      sum[k] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      real r[FP_STRIP];
      residual(&s, &v, r);
      for (int64_t k = 0; k < q->count; k++) {
        sum[k] += dot(v.n, m.b + v.at + k * m.stride, r);
        if (!o.bad)
          sum[o.m + k] += dot(v.n, m.a + v.at + k * m.stride, m.c + v.in) * q->length;
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

KERNEL add_dots(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 2 * m.m * tiles_of_sample(&s)) {
    int64_t slot = s.sample[i].slot;
    const struct fp_slot *q = &s.slot[slot];
    struct broyden_update u = update_of(&m, slot);
    if (s.sample[i].action == FP_STEP && q->phase == BROYDEN_UPDATE)
      for (int64_t k = 0; k < q->count; k++) {
        u.vr[k] = total(&s, &m, i, k);
        u.us[k] = o.bad ? 0 : total(&s, &m, i, o.m + k);
      }
  }
}

/* q = H r, and v = H' s (good) or y (bad); sums of p.(p-q), |p-q|^2, p.q, |p|^2 (good) or of |y|^2,
 * y.r, |r|^2 (bad). */
KERNEL products(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, fp_tiles(&s), 2 * m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    struct fp_slot *q = &s.slot[slot];
    if (!works(&s, &t, q, BROYDEN_UPDATE))
      continue;
    struct broyden_update u = update_of(&m, slot);
    wide *sum = m.part + i * m.sums;
    for (int64_t k = 0; k < SUMS; k++)
      sum[k] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      real r[FP_STRIP], hy[FP_STRIP];
      real *h = m.a + v.at + q->count * m.stride, *w = m.b + v.at + q->count * m.stride;
      const real *p = m.c + v.in;
      residual(&s, &v, r);
      SIMD
      for (int64_t j = 0; j < v.n; j++)
        h[j] = (real)o.damping * r[j];
      SIMD
      for (int64_t j = 0; j < v.n; j++)
        w[j] = o.bad ? w[j] - r[j] : (real)(o.damping * q->length) * p[j];
      for (int64_t k = 0; k < q->count; k++) {
        add_scaled(v.n, (real)u.vr[k], m.a + v.at + k * m.stride, h);
        if (!o.bad)
          add_scaled(v.n, (real)u.us[k], m.b + v.at + k * m.stride, w);
      }
      SIMD
      for (int64_t j = 0; j < v.n; j++)
        hy[j] = p[j] - h[j];
      sum[0] += o.bad ? dot(v.n, w, w) : dot(v.n, p, hy);
      sum[1] += o.bad ? dot(v.n, w, r) : dot(v.n, hy, hy);
      sum[2] += o.bad ? dot(v.n, r, r) : dot(v.n, p, h);
      sum[3] += dot(v.n, p, p);
    }
  }
}

/* Whether and how H is updated; leaves it alone when the denominator says nothing. */
KERNEL update(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, SUMS * tiles_of_sample(&s)) {
    int64_t slot = s.sample[i].slot;
    struct fp_slot *q = &s.slot[slot];
    struct broyden_update u = update_of(&m, slot);
    if (s.sample[i].action != FP_STEP || q->phase != BROYDEN_UPDATE)
      continue;
    wide sum[4], t = q->length;
    for (int k = 0; k < 4; k++)
      sum[k] = total(&s, &m, i, k);
    wide denominator = o.bad ? sum[0] : t * sum[0];
    wide along = o.bad ? sum[1] : t * sum[2]; /* v.r */
    double size = o.bad ? magnitude(sum[2]) : q->length * sqrt(magnitude(sum[3] * sum[1]));
    double small = o.bad ? o.guard * o.guard * size : o.guard * size;
    bool sound = magnitude(denominator) > small && is_finite(re(along / denominator));
    q->accelerated = sound || q->count > 0;
    *u.up = sound ? (t - 1) / denominator : 0;
    *u.uq = sound ? 1 / denominator : 0;
    *u.pu = sound ? along : 0;
    q->head = sound ? q->count + 1 : q->count; /* updates from now on */
    q->counter[FP_FALLBACKS] += !sound;
  }
}

/* ---- the step ---- */

INLINE void first_step(const struct fp_samples *s, const struct fp_memory *m,
                       const struct broyden_settings *o, const struct fp_strip *v)
{
  real *p = m->c + v->in, *back = m->d + v->in, *r = m->b + v->at, *z = s->z + v->first;
  SIMD
  for (int64_t j = 0; j < v->n; j++) {
    r[j] = s->fz[v->first + j] - z[j];
    p[j] = (real)o->damping * r[j];
    z[j] += p[j];
    back[j] = z[j];
  }
}

INLINE void next_step(const struct fp_samples *s, const struct fp_memory *m,
                      const struct broyden_settings *o, const struct fp_slot *q, int64_t slot,
                      const struct fp_strip *v)
{
  struct broyden_update u = update_of(m, slot);
  real up = (real)*u.up, uq = (real)*u.uq, pu = (real)*u.pu;
  real *p = m->c + v->in, *back = m->d + v->in, *z = s->z + v->first;
  real *h = m->a + v->at + q->count * m->stride, *old = m->b + v->at + q->head * m->stride;
  const real *fz = s->fz + v->first;
  SIMD
  for (int64_t j = 0; j < v->n; j++) {
    real direction = h[j];
    h[j] = up * p[j] + uq * direction;
    p[j] = direction + pu * h[j];
    back[j] = z[j] + (real)o->damping * (fz[j] - z[j]);
  }
  if (o->bad) {
    SIMD
    for (int64_t j = 0; j < v->n; j++)
      old[j] = fz[j] - z[j];
  }
  SIMD
  for (int64_t j = 0; j < v->n; j++)
    z[j] += p[j];
}

KERNEL advance(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, fp_tiles(&s), s.n < FP_TILE ? s.n : FP_TILE) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    const struct fp_slot *q = &s.slot[slot];
    if (!t.active || s.sample[t.sample].action != FP_STEP)
      continue;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      real *z = s.z + v.first;
      if (q->phase == BROYDEN_UPDATE)
        next_step(&s, &m, &o, q, slot, &v);
      else if (q->phase == BROYDEN_PLAIN)
        first_step(&s, &m, &o, &v);
      else if (q->phase == BROYDEN_BACK)
        add_scaled(v.n, (real)-q->length, m.c + v.in, z);
      else
        for (int64_t j = 0; j < v.n; j++)
          z[j] = m.d[v.in + j];
    }
  }
}

KERNEL settle(struct fp_samples s)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 4) {
    struct fp_slot *q = &s.slot[s.sample[i].slot];
    if (s.sample[i].action != FP_STEP)
      continue;
    if (q->phase == BROYDEN_UPDATE)
      q->count = q->head;
    if (q->phase == BROYDEN_PLAIN)
      q->accelerated = false;
    if (q->phase == BROYDEN_UPDATE || q->phase == BROYDEN_PLAIN)
      q->length = 1;
  }
}

static void broyden_step(stream st, const struct fp_samples *s, const struct fp_options *o,
                         const struct fp_memory *m)
{
  struct broyden_settings c;
  int64_t samples = s->rows * s->per_row;
  c.m = o->rank, c.delay = o->delay, c.restart = o->restart;
  c.damping = o->damping, c.start = o->start, c.safeguard = o->safeguard;
  c.guard = sqrt((double)EPSILON);
  c.bad = o->kind == FP_BAD;
  c.line_search = o->line_search;
  LAUNCH(st, samples, prepare, *s, c);
  LAUNCH(st, fp_tiles(s), dots, *s, *m, c);
  LAUNCH(st, samples, add_dots, *s, *m, c);
  LAUNCH(st, fp_tiles(s), products, *s, *m, c);
  LAUNCH(st, samples, update, *s, *m, c);
  LAUNCH(st, fp_tiles(s), advance, *s, *m, c);
  LAUNCH(st, samples, settle, *s);
}

/* The slots are the rows: one each, in order. */
KERNEL terms(struct fp_samples s, int32_t *count)
{
  FOR_EACH_COST (r, s.slots, 1)
    count[r] = s.slot[r].count;
}

static void broyden_inverse(stream st, const struct fp_samples *s, const struct fp_options *o,
                            const struct fp_memory *m, struct fp_inverse *h)
{
  h->u = m->a, h->v = m->b;
  h->vectors = m->m, h->most = o->rank;
  h->damping = o->damping;
  h->part = m->part;
  LAUNCH(st, s->slots, terms, *s, h->count);
}

extern const struct fp_method broyden;
const struct fp_method broyden = {"broyden", broyden_carve, broyden_step, broyden_inverse};
