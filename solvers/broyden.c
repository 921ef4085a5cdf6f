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
 * denominator is small against its factors is left out.  An update rests on all that came before
 * it, so none may be overwritten alone.  When all `rank` updates are taken, then (limit: restart) H
 * becomes damping I again, or (reduce) sum u_j v_j' is replaced by its best approximation of half
 * the rank before the next update is added, which thus keeps its secant:
 *   U V' = (U S)(V T)', where V T has orthonormal columns and U S orthogonal ones, the singular
 *   values; only those of the largest are kept.  S and T come from U'U and V'V, whose new rows are
 *   taken along with the other products.  y is as before, so that H y = p~ - q with p~ = H r_k for
 *   the new H: p~ = p_k - U (I - S T') V'r_k.
 *
 * Memory: a, b (slots,rank+1,stride): u, v; the one behind the last holds q, and (bad) r_k.  With
 * reduce a has one more, for p_k beside p~.
 * c, d (slots,stride): p_k (p~); z_k + damping r_k, the Picard step to go back to.
 * A step of length 10^-25 has a denominator whose inverse no float holds: u and v then share it, u
 * times a power of two and v divided by it.
 * small: v_j . r (M), u_j . s (M), then what `update` decides (struct broyden_update), then struct
 * broyden_rank.
 * References: Broyden 1965, doi:10.1090/S0025-5718-1965-0198670-6; Kelley 2003, ch. 4; van de
 * Rotten & Verduyn Lunel 2005, A limited memory Broyden method (rank reduction). */
#include "solvers/samples.h"
#include "solvers/small.h"

enum { BROYDEN_PLAIN, BROYDEN_UPDATE, BROYDEN_UNDO, BROYDEN_BACK };
enum { HALVINGS = 6, SUMS = 5, CHUNK = 16 };

struct broyden_settings {
  int64_t m, delay, restart;
  double damping, start, safeguard, guard;
  bool bad, line_search, reduce;
};

/* u = up p + uq q;  p <- q + pu u; all 0: no update.  v is divided by `share`. */
struct broyden_update {
  wide *vr, *us, *up, *uq, *pu, *share;
};

INLINE struct broyden_update update_of(const struct fp_memory *m, int64_t slot)
{
  struct broyden_update u;
  u.vr = m->small + slot * m->small_size;
  u.us = u.vr + m->m;
  u.up = u.us + m->m;
  u.uq = u.up + 1;
  u.pu = u.up + 2;
  u.share = u.up + 3;
  return u;
}

/* What a reduction takes, M = rank: U'U, V'V; S, T; and room for two eigenproblems. */
struct broyden_rank {
  wide *uu, *vv, *S, *T, *A, *X, *E;
  wide *before, *gone, *left; /* V'r_k; (I - S T') of it; T' of it */
};

INLINE struct broyden_rank rank_of(const struct fp_memory *m, int64_t slot, int64_t M)
{
  struct broyden_rank k;
  k.before = update_of(m, slot).share + 1;
  k.gone = k.before + M;
  k.left = k.gone + M;
  k.uu = k.left + M;
  k.vv = k.uu + M * M;
  k.S = k.vv + M * M;
  k.T = k.S + M * M;
  k.A = k.T + M * M;
  k.X = k.A + M * M;
  k.E = k.X + M * M;
  return k;
}

static enum status broyden_carve(struct arena *device, const struct fp_samples *s,
                                 const struct fp_options *o, struct fp_memory *m)
{
  m->stride = s->blocks / s->per_row * s->n;
  bool reduce = o->limit == FP_REDUCE && o->rank > 0;
  int64_t M = o->rank, sums = (reduce ? 4 : 2) * M;
  m->m = M + (reduce ? 2 : 1);
  m->sums = sums > SUMS ? sums : SUMS;
  m->small_size = 2 * m->m + 4 + (reduce ? 3 * M + 7 * M * M : 0);
  TRY(CARVE(device, s->slots * m->m * m->stride, &m->a));
  TRY(CARVE(device, s->slots * m->m * m->stride, &m->b));
  TRY(CARVE(device, s->slots * m->stride, &m->c));
  TRY(CARVE(device, s->slots * m->stride, &m->d));
  TRY(CARVE(device, fp_tiles(s) * m->sums, &m->part));
  TRY(CARVE(device, s->slots * m->small_size, &m->small));
  if (reduce)
    TRY(CARVE(device, fp_tiles(s) * M * CHUNK, &m->work));
  return OK;
}

/* ---- what the new residual says of the last step ---- */

/* count: updates in H; -1: nor is there a last step to learn from.  stalls: updates before they
 * were reduced in this step; 0: they were not. */
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
    if (moved || !will_lead(&s, i)) {
      q->count = -1;
      q->accelerated = false;
    }
    if (p->action != FP_STEP || search(q, p->now, &o) || undo(q, p->now, &o))
      continue;
    bool fresh =
        q->count < 0 || o.m == 0 || p->iterations <= o.delay || (o.start > 0 && p->now > o.start);
    bool stale = p->stale > 0 && p->stale % (2 * o.m + 8) == 0;
    bool asked = (o.restart > 0 && q->age >= o.restart) || stale;
    bool over = q->count >= o.m || asked;
    bool reduces = o.reduce && over && !asked && !fresh;
    q->phase = BROYDEN_UPDATE;
    q->rest = 0;
    q->age++;
    q->stalls = reduces ? q->count : 0;
    q->counter[FP_REDUCTIONS] += reduces;
    if (!fresh && over && !reduces) {
      q->counter[FP_RESTARTS]++;
      q->age = 0;
    }
    if (fresh || (over && !reduces))
      plain(q);
    q->last = p->now;
  }
}

/* ---- products with H and its transpose ---- */

/* Of a lane's unknowns. */
INLINE wide dot(int64_t n, const real *x, const real *y)
{
  wide sum = 0;
  SIMD_SUM(sum)
  FOR_COLUMNS (j, 0, n)
    sum += (wide)x[j] * (wide)y[j];
  return sum;
}

/* The same of vectors that the lane keeps (solvers/samples.h). */
#ifdef __CUDACC__
INLINE wide dot_own(int64_t n, const real *x, const real *own)
{
  wide sum = 0;
  FOR_COLUMNS (j, 0, n)
    sum += (wide)x[j] * (wide)own[OWN(j)];
  return sum;
}

INLINE wide square_own(int64_t n, const real *own)
{
  wide sum = 0;
  FOR_COLUMNS (j, 0, n)
    sum += (wide)own[OWN(j)] * (wide)own[OWN(j)];
  return sum;
}
#else
#define dot_own dot
#define square_own(n, own) dot(n, own, own)
#endif

INLINE void add_scaled(int64_t n, real a, const real *x, real *y)
{
  SIMD
  FOR_COLUMNS (j, 0, n)
    y[j] += a * x[j];
}

INLINE void residual(const struct fp_samples *s, const struct fp_strip *v, real *r)
{
  SIMD
  FOR_COLUMNS (j, 0, v->n)
    r[OWN(j)] = s->fz[v->first + j] - s->z[v->first + j];
}

INLINE bool works(const struct fp_samples *s, const struct fp_tile *t, const struct fp_slot *q,
                  int phase)
{
  return t->active && s->sample[t->sample].action == FP_STEP && q->phase == phase;
}

/* sum[j] = v_j . r, sum[M+j] = u_j . s; reduce: sum[2M+j] = u_j . u, sum[3M+j] = v_j . v of the
 * newest update */
KERNEL dots(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_ROW (i, fp_tiles(&s), 2 * m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    struct fp_slot *q = &s.slot[slot];
    if (!works(&s, &t, q, BROYDEN_UPDATE))
      continue;
    wide *sum = m.part + i * m.sums;
    for (int64_t k = 0; OWNS_COLUMN(0) && k < m.sums; k++)
      sum[k] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      real r[FP_OWN];
      residual(&s, &v, r);
      for (int64_t k = 0; k < q->count; k++) {
        ADD_LANES(sum[k], dot_own(v.n, m.b + v.at + k * m.stride, r));
        if (!o.bad)
          ADD_LANES(sum[o.m + k], dot(v.n, m.a + v.at + k * m.stride, m.c + v.in) * q->length);
      }
      for (int64_t k = 0; o.reduce && k < q->count; k++) {
        int64_t at = v.at + k * m.stride, newest = v.at + (q->count - 1) * m.stride;
        ADD_LANES(sum[2 * o.m + k], dot(v.n, m.a + at, m.a + newest));
        ADD_LANES(sum[3 * o.m + k], dot(v.n, m.b + at, m.b + newest));
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

/* U'U and V'V have a new row, of the newest update; V'r_k is kept for when they are reduced. */
INLINE void keep_gram(const struct fp_samples *s, const struct fp_memory *m, int64_t i,
                      int64_t newest, int64_t k, int64_t M, wide before)
{
  struct broyden_rank g = rank_of(m, s->sample[i].slot, M);
  wide uu = total(s, m, i, 2 * M + k), vv = total(s, m, i, 3 * M + k);
  g.uu[k * M + newest] = g.uu[newest * M + k] = uu;
  g.vv[k * M + newest] = g.vv[newest * M + k] = vv;
  g.before[k] = before;
}

KERNEL add_dots(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 2 * m.m * tiles_of_sample(&s)) {
    int64_t slot = s.sample[i].slot;
    const struct fp_slot *q = &s.slot[slot];
    struct broyden_update u = update_of(&m, slot);
    if (s.sample[i].action == FP_STEP && q->phase == BROYDEN_UPDATE)
      for (int64_t k = 0; k < q->count; k++) {
        if (o.reduce)
          keep_gram(&s, &m, i, q->count - 1, k, o.m, u.vr[k]);
        u.vr[k] = total(&s, &m, i, k);
        u.us[k] = o.bad ? 0 : total(&s, &m, i, o.m + k);
      }
  }
}

/* ---- fewer updates ---- */

/* S (M,K) and T (M,K) of the K largest singular values of U V', from U'U and V'V. */
INLINE void dominant(int64_t M, int64_t K, const struct broyden_rank *k)
{
  /* V'V, scaled to a unit diagonal, = X A X'; Q = V X A^-1/2 is orthonormal, V = Q L', L = X A^1/2
   */
  for (int64_t i = 0; i < M * M; i++) {
    wide scale = sqrt(k->vv[i / M * (M + 1)]) * sqrt(k->vv[i % M * (M + 1)]);
    k->A[i] = re(scale) > 0 ? k->vv[i] / scale : 0;
  }
  symmetric_eigen(M, k->A, k->X);
  for (int64_t j = 0; j < M; j++) {
    wide root = sqrt(k->A[j * (M + 1)]);
    bool sound = re(k->A[j * (M + 1)]) > 1e-13 * re(k->A[0]); /* below, it is rounding */
    for (int64_t i = 0; i < M; i++) {
      wide length = sqrt(k->vv[i * (M + 1)]), x = k->X[i * M + j];
      k->S[i * M + j] = sound ? length * x * root : 0;
      k->T[i * M + j] = sound && re(length) > 0 ? x / (root * length) : 0;
    }
  }
  /* (U L)'(U L) = E A E' */
  for (int64_t i = 0; i < M; i++)
    for (int64_t j = 0; j < M; j++) {
      k->X[i * M + j] = 0;
      for (int64_t r = 0; r < M; r++)
        k->X[i * M + j] += k->uu[i * M + r] * k->S[r * M + j];
    }
  for (int64_t i = 0; i < M; i++)
    for (int64_t j = 0; j < M; j++) {
      k->A[i * M + j] = 0;
      for (int64_t r = 0; r < M; r++)
        k->A[i * M + j] += k->S[r * M + i] * k->X[r * M + j];
    }
  symmetric_eigen(M, k->A, k->E);
  times_leading(M, K, k->S, k->E, k->X);
  times_leading(M, K, k->T, k->E, k->X);
}

/* x (K) <- A' x, A (M,K) */
INLINE void transform(int64_t M, int64_t K, const wide *A, wide *x, wide *room)
{
  for (int64_t j = 0; j < K; j++) {
    room[j] = 0;
    for (int64_t i = 0; i < M; i++)
      room[j] += A[i * M + j] * x[i];
  }
  for (int64_t j = 0; j < K; j++)
    x[j] = room[j];
}

KERNEL reduce(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 64 * o.m * o.m * o.m) {
    int64_t slot = s.sample[i].slot, M = o.m, K = M / 2;
    struct fp_slot *q = &s.slot[slot];
    if (s.sample[i].action != FP_STEP || q->phase != BROYDEN_UPDATE || q->stalls == 0)
      continue;
    struct broyden_update u = update_of(&m, slot);
    struct broyden_rank k = rank_of(&m, slot, M);
    dominant(M, K, &k);
    for (int64_t j = 0; j < M; j++)
      k.left[j] = k.before[j];
    transform(M, K, k.T, k.left, k.X);
    for (int64_t j = 0; j < M; j++) {
      k.gone[j] = k.before[j];
      for (int64_t r = 0; r < K; r++)
        k.gone[j] -= k.S[j * M + r] * k.left[r];
    }
    transform(M, K, k.T, u.vr, k.X);
    transform(M, K, k.S, u.us, k.X);
    for (int64_t r = 0; r < K; r++)
      for (int64_t j = 0; j < K; j++) {
        k.uu[r * M + j] = r == j ? k.A[r * (M + 1)] : 0;
        k.vv[r * M + j] = r == j;
      }
    q->count = (int32_t)K;
  }
}

/* n <= CHUNK elements of the M vectors x become those of the K vectors x A; old (M,CHUNK) */
INLINE void recombine_chunk(int64_t M, int64_t K, const wide *A, int64_t n, int64_t stride, real *x,
                            real *old)
{
  for (int64_t k = 0; k < M; k++)
    for (int64_t j = 0; j < n; j++)
      old[k * CHUNK + j] = x[k * stride + j];
  for (int64_t k = 0; k < K; k++) {
    wide sum[CHUNK];
    for (int64_t j = 0; j < n; j++)
      sum[j] = 0;
    for (int64_t r = 0; r < M; r++)
      for (int64_t j = 0; j < n; j++)
        sum[j] += A[r * M + k] * (wide)old[r * CHUNK + j];
    for (int64_t j = 0; j < n; j++)
      x[k * stride + j] = (real)sum[j];
  }
}

/* The K vectors u and v that are left, p_k put aside, and p~. */
KERNEL recombine(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_COST (i, fp_tiles(&s), 4 * m.m * m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot, M = o.m;
    const struct fp_slot *q = &s.slot[slot];
    if (!works(&s, &t, q, BROYDEN_UPDATE) || q->stalls == 0)
      continue;
    struct broyden_rank k = rank_of(&m, slot, M);
    real *old = m.work + i * M * CHUNK;
    for (int64_t first = t.first; first < t.end; first += CHUNK) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      int64_t n = v.n < CHUNK ? v.n : CHUNK;
      real *a = m.a + v.at, *b = m.b + v.at, *p = m.c + v.in;
      recombine_chunk(M, q->count, k.S, n, m.stride, a, old);
      for (int64_t j = 0; j < n; j++) {
        wide gone = 0;
        for (int64_t r = 0; r < M; r++)
          gone += k.gone[r] * (wide)old[r * CHUNK + j];
        a[(M + 1) * m.stride + j] = p[j];
        p[j] -= (real)gone;
      }
      recombine_chunk(M, q->count, k.T, n, m.stride, b, old);
      for (int64_t j = 0; o.bad && j < n; j++)
        b[q->count * m.stride + j] = b[M * m.stride + j];
    }
  }
}

/* ---- the update ---- */

/* p_k, the step's direction: beside p~ where the updates were reduced. */
INLINE const real *direction_of(const struct fp_memory *m, const struct broyden_settings *o,
                                const struct fp_slot *q, const struct fp_strip *v)
{
  return q->stalls ? m->a + v->at + (o->m + 1) * m->stride : m->c + v->in;
}

/* q = H r, and v = H' s (good) or y (bad); sums of p.Hy, |Hy|^2, p.q, |p|^2 (good) or of |y|^2,
 * y.r, |r|^2 (bad), where p is the direction of s, and Hy = p~ - q. */
KERNEL products(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_ROW (i, fp_tiles(&s), 2 * m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    int64_t slot = s.sample[t.sample].slot;
    struct fp_slot *q = &s.slot[slot];
    if (!works(&s, &t, q, BROYDEN_UPDATE))
      continue;
    struct broyden_update u = update_of(&m, slot);
    wide *sum = m.part + i * m.sums;
    for (int64_t k = 0; OWNS_COLUMN(0) && k < SUMS; k++)
      sum[k] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip v = strip_of(&m, &t, slot, first);
      real r[FP_OWN], hy[FP_OWN];
      real *h = m.a + v.at + q->count * m.stride, *w = m.b + v.at + q->count * m.stride;
      const real *p = direction_of(&m, &o, q, &v), *now = m.c + v.in;
      residual(&s, &v, r);
      SIMD
      FOR_COLUMNS (j, 0, v.n)
        h[j] = (real)o.damping * r[OWN(j)];
      SIMD
      FOR_COLUMNS (j, 0, v.n)
        w[j] = o.bad ? w[j] - r[OWN(j)] : (real)(o.damping * q->length) * p[j];
      for (int64_t k = 0; k < q->count; k++) {
        add_scaled(v.n, (real)u.vr[k], m.a + v.at + k * m.stride, h);
        if (!o.bad)
          add_scaled(v.n, (real)u.us[k], m.b + v.at + k * m.stride, w);
      }
      SIMD
      FOR_COLUMNS (j, 0, v.n)
        hy[OWN(j)] = now[j] - h[j];
      ADD_LANES(sum[0], o.bad ? dot(v.n, w, w) : dot_own(v.n, p, hy));
      ADD_LANES(sum[1], o.bad ? dot_own(v.n, w, r) : square_own(v.n, hy));
      ADD_LANES(sum[2], o.bad ? square_own(v.n, r) : dot(v.n, p, h));
      ADD_LANES(sum[3], dot(v.n, p, p));
    }
  }
}

/* Whether its vectors can be stored. */
INLINE bool representable(wide x) { return is_finite(re((real)x)); }

/* A power of two near its root, for who has a factor 1/denominator to share; 1 where none need be.
 */
INLINE double share_of(wide denominator)
{
  double size = magnitude(denominator);
  bool extreme = size > 0 && is_finite(size) && (size < 0x1p-64 || size > 0x1p64);
  return extreme ? ldexp(1.0, ilogb(size) / 2) : 1;
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
    wide share = share_of(denominator), up = share * (t - 1) / denominator;
    bool sound = magnitude(denominator) > small && is_finite(re(along / denominator)) &&
                 representable(up) && representable(share / denominator);
    q->accelerated = sound || q->count > 0;
    *u.up = sound ? up : 0;
    *u.uq = sound ? share / denominator : 0;
    *u.pu = sound ? along / share : 0;
    *u.share = sound ? share : 1;
    q->head = sound ? q->count + 1 : q->count; /* updates from now on */
    if (sound)
      u.vr[q->count] = along / share;
    q->counter[FP_FALLBACKS] += !sound;
  }
}

/* ---- the step ---- */

INLINE void first_step(const struct fp_samples *s, const struct fp_memory *m,
                       const struct broyden_settings *o, double share, const struct fp_strip *v)
{
  real *p = m->c + v->in, *back = m->d + v->in, *r = m->b + v->at, *z = s->z + v->first;
  SIMD
  FOR_COLUMNS (j, 0, v->n) {
    r[j] = s->fz[v->first + j] - z[j];
    p[j] = (real)o->damping * r[j];
    z[j] += (real)share * p[j];
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
  const real *d = direction_of(m, o, q, v);
  real *h = m->a + v->at + q->count * m->stride, *old = m->b + v->at + q->head * m->stride;
  const real *fz = s->fz + v->first;
  if (re(*u.share) != 1) {
    real *w = m->b + v->at + q->count * m->stride, by = (real)(1 / *u.share);
    SIMD
    FOR_COLUMNS (j, 0, v->n)
      w[j] *= by;
  }
  if (q->stalls) { /* u = (t d - p~ + q) / denominator; else d = p~ = p */
    up = 1;
    SIMD
    FOR_COLUMNS (j, 0, v->n)
      p[j] = uq * ((real)q->length * d[j] - p[j]);
  }
  SIMD
  FOR_COLUMNS (j, 0, v->n) {
    real direction = h[j];
    h[j] = up * p[j] + uq * direction;
    p[j] = direction + pu * h[j];
    back[j] = z[j] + (real)o->damping * (fz[j] - z[j]);
  }
  if (o->bad) {
    SIMD
    FOR_COLUMNS (j, 0, v->n)
      old[j] = fz[j] - z[j];
  }
  SIMD
  FOR_COLUMNS (j, 0, v->n)
    z[j] += p[j];
}

KERNEL advance(struct fp_samples s, struct fp_memory m, struct broyden_settings o)
{
  FOR_EACH_ROW (i, fp_tiles(&s), s.n < FP_TILE ? s.n : FP_TILE) {
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
        first_step(&s, &m, &o, share_of_step(&s, t.sample, o.damping), &v);
      else if (q->phase == BROYDEN_BACK)
        add_scaled(v.n, (real)-q->length, m.c + v.in, z);
      else
        FOR_COLUMNS (j, 0, v.n)
          z[j] = m.d[v.in + j];
    }
  }
}

KERNEL settle(struct fp_samples s, double damping)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 4) {
    struct fp_slot *q = &s.slot[s.sample[i].slot];
    if (s.sample[i].action != FP_STEP)
      continue;
    if (q->phase == BROYDEN_UPDATE)
      q->count = q->head;
    if (q->phase == BROYDEN_PLAIN)
      q->accelerated = false;
    if (q->phase == BROYDEN_UPDATE)
      q->length = 1;
    if (q->phase == BROYDEN_PLAIN)
      q->length = share_of_step(&s, i, damping);
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
  c.reduce = o->limit == FP_REDUCE && o->rank > 0;
  LAUNCH(st, samples, prepare, *s, c);
  LAUNCH_ROWS(st, fp_tiles(s), dots, *s, *m, c);
  LAUNCH(st, samples, add_dots, *s, *m, c);
  if (c.reduce) {
    LAUNCH(st, samples, reduce, *s, *m, c);
    LAUNCH(st, fp_tiles(s), recombine, *s, *m, c);
  }
  LAUNCH_ROWS(st, fp_tiles(s), products, *s, *m, c);
  LAUNCH(st, samples, update, *s, *m, c);
  LAUNCH_ROWS(st, fp_tiles(s), advance, *s, *m, c);
  LAUNCH(st, samples, settle, *s, o->damping);
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
const struct fp_method broyden = {"broyden", false, broyden_carve, broyden_step, broyden_inverse};
