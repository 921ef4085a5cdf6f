/* anderson.c: Anderson acceleration in difference form, a sample at a time.
 *
 *   r_k = f(z_k) - z_k,  g_k = z_k + damping r_k,  dr_j = r_{j+1} - r_j,  dg_j, dz_j alike
 *   type II (bad):  gamma = argmin |r_k - dR gamma|, by dR'dR gamma = dR'r_k
 *   type I (good):  dZ'dR gamma = dZ'r_k
 *   z_{k+1} = g_k - dG gamma
 *
 * The last m+1 points (r, g) are kept; their differences are formed on the way.  A step reads r for
 * the new row of the normal matrix and the right side, and g for the combination.  The matrix's
 * other rows are kept; nothing is updated by a difference or a sum: dr_j'r_k taken as dr_j'r_{k-1}
 * + dr_j'dr_{k-1} is lost when the residual falls 10^12-fold within the memory.  Sums are float64.
 * The matrix is scaled to a unit diagonal, the ridge is relative to that, and dependent directions
 * are dropped by complete pivoting.  A step that made the residual grow is undone: the Picard step
 * is taken in its place, and the history begins anew.  In a window only the leading block is
 * accelerated; those behind it take 0.9 of the way (share_of_step).
 *
 * Memory: a, b (slots,m+1,stride): r and g of the last points, in a ring.
 * small: the normal matrix by ring places (P,P), P = m+1; right side (P); norms of dz and dr (P,2);
 * gamma by age (m), a copy of the matrix (m,m) and of the right side (m) to eliminate.
 * References: Walker & Ni 2011, doi:10.1137/10078356X; Fang & Saad 2009 (types);
 * safeguard: Zhang, O'Donoghue & Boyd 2020, arXiv:1808.03971. */
#include "solvers/samples.h"
#include "solvers/small.h"

enum { ANDERSON_STEP, ANDERSON_UNDO };
enum { PATIENCE = 5 }; /* evaluations without a new best, beyond those that fill the memory */

struct anderson_settings {
  int64_t m, delay, mix_every, restart;
  double damping, start, ridge, truncation, safeguard, max_weight;
  bool good;
};

struct small { /* of one slot; places are those of the ring */
  wide *matrix, *right, *norms, *gamma, *A, *b;
  int32_t *order;
};

INLINE struct small small_of(const struct fp_memory *m, int64_t slot)
{
  int64_t M = m->m - 1, P = m->m;
  struct small q;
  q.matrix = m->small + slot * m->small_size;
  q.right = q.matrix + P * P;
  q.norms = q.right + P;
  q.gamma = q.norms + 2 * P;
  q.A = q.gamma + M;
  q.b = q.A + M * M;
  q.order = m->order + slot * P;
  return q;
}

static enum status anderson_carve(struct arena *device, const struct fp_samples *s,
                                  const struct fp_options *o, struct fp_memory *m)
{
  m->stride = s->blocks / s->per_row * s->n;
  int64_t M = o->memory < m->stride ? o->memory : m->stride, P = M + 1;
  m->m = P;
  m->sums = 3 * M + 2;
  m->small_size = P * P + 3 * P + M * M + 2 * M;
  TRY(CARVE(device, s->slots * P * m->stride, &m->a));
  TRY(CARVE(device, s->slots * P * m->stride, &m->b));
  TRY(CARVE(device, fp_tiles(s) * m->sums, &m->part));
  TRY(CARVE(device, s->slots * m->small_size, &m->small));
  TRY(CARVE(device, s->slots * P, &m->order));
  return OK;
}

/* Place in the ring of the point that is `age` steps old. */
INLINE int64_t place(const struct fp_memory *m, const struct fp_slot *q, int64_t age)
{
  int64_t p = q->head - age;
  return p < 0 ? p + m->m : p;
}

/* x[0..ages]: where the points are that are `a` to a + ages steps old. */
INLINE void points(const struct fp_memory *m, const struct fp_slot *q, const real *ring, int64_t a,
                   int64_t ages, const real **x)
{
  for (int64_t k = 0; k <= ages; k++)
    x[k] = ring + place(m, q, a + k) * m->stride;
}

/* ---- before the sums: what the new residual says of the last step ---- */

INLINE void forget(struct fp_slot *q) { q->count = -1; } /* not even a point */

/* Without a new best for long, Picard steps may do better: more each time. */
INLINE void give_up(struct fp_slot *q, int64_t patience)
{
  forget(q);
  q->rest = (int32_t)(patience << (q->stalls < 8 ? q->stalls : 8));
  q->stalls++;
  q->counter[FP_RESTARTS]++;
}

KERNEL prepare(struct fp_samples s, struct fp_memory m, struct anderson_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, 16) {
    const struct fp_sample *p = &s.sample[i];
    struct fp_slot *q = &s.slot[p->slot];
    if (p->iterations == 1) {
      forget(q);
      q->head = q->age = q->rest = q->stalls = 0;
      q->accelerated = false;
    }
    if (p->action == FP_REPLAY || !will_lead(&s, i))
      forget(q);
    if (p->action != FP_STEP)
      continue;
    q->phase = ANDERSON_STEP;
    if (q->accelerated && o.safeguard > 0 && !(p->now <= o.safeguard * q->last)) {
      forget(q);
      q->phase = ANDERSON_UNDO;
      q->accelerated = false;
      q->counter[FP_REJECTIONS]++;
      continue;
    }
    int64_t patience = o.m + PATIENCE;
    if (o.m > 0 && p->stale > 0 && p->stale % patience == 0 && q->rest == 0)
      give_up(q, patience);
    if (o.restart > 0 && q->age >= o.restart) {
      forget(q);
      q->age = 0;
      q->counter[FP_RESTARTS]++;
    }
    q->head = (int32_t)((q->head + 1) % m.m);
    q->count = q->count < o.m ? q->count + 1 : (int32_t)o.m;
    q->last = p->now;
  }
}

/* ---- the new row of the normal matrix ---- */

enum { AGES = 4 }; /* whose sums are taken in one pass */

struct strip { /* the newest differences of a few unknowns */
  wide dr[FP_OWN], dz[FP_OWN];
};

/* Stores r and g. */
INLINE void first_point(int64_t n, real damping, const real *z, const real *fz, real *r, real *g)
{
  SIMD
  FOR_COLUMNS (j, 0, n) {
    real x = fz[j] - z[j];
    r[j] = x;
    g[j] = damping == 1 ? fz[j] : z[j] + damping * x;
  }
}

/* Stores r, g, and the difference dr to r1; adds <dr, dr> to *square and <dr, r> to *right. */
INLINE void next_point(int64_t n, real damping, const real *z, const real *fz, const real *r1,
                       real *r, real *g, wide *dr, wide *square, wide *right)
{
  wide dr_dr = 0, dr_r = 0;
  SIMD_SUM(dr_dr, dr_r)
  FOR_COLUMNS (j, 0, n) {
    real x = fz[j] - z[j];
    wide d = (wide)x - (wide)r1[j];
    r[j] = x;
    g[j] = damping == 1 ? fz[j] : z[j] + damping * x;
    dr[OWN(j)] = d;
    dr_dr += d * d;
    dr_r += d * (wide)x;
  }
  ADD_LANES(*square, dr_dr);
  ADD_LANES(*right, dr_r);
}

/* Adds <dr_a, dr> to sum[0] and <dr_a, r> to sum[m]; x[0] and x[1] are the age's points. */
INLINE void row_bad(int64_t n, const real *const *x, const real *r, const wide *dr, wide *sum,
                    int64_t m)
{
  const real *x0 = x[0], *x1 = x[1];
  wide row = 0, right = 0;
  SIMD_SUM(row, right)
  FOR_COLUMNS (j, 0, n) {
    wide d = (wide)x0[j] - (wide)x1[j];
    row += d * dr[OWN(j)];
    right += d * (wide)r[j];
  }
  ADD_LANES(sum[0], row);
  ADD_LANES(sum[m], right);
}

/* The same of AGES ages: a vector is read, and made float64, once. */
INLINE void rows_bad(int64_t n, const real *const *x, const real *r, const wide *dr, wide *sum,
                     int64_t m)
{
  const real *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3], *x4 = x[4];
  wide row0 = 0, row1 = 0, row2 = 0, row3 = 0;
  wide right0 = 0, right1 = 0, right2 = 0, right3 = 0;
  SIMD_SUM(row0, row1, row2, row3, right0, right1, right2, right3)
  FOR_COLUMNS (j, 0, n) {
    wide d0 = (wide)x0[j] - (wide)x1[j], d1 = (wide)x1[j] - (wide)x2[j];
    wide d2 = (wide)x2[j] - (wide)x3[j], d3 = (wide)x3[j] - (wide)x4[j];
    wide by = dr[OWN(j)], to = (wide)r[j];
    row0 += d0 * by, row1 += d1 * by, row2 += d2 * by, row3 += d3 * by;
    right0 += d0 * to, right1 += d1 * to, right2 += d2 * to, right3 += d3 * to;
  }
  ADD_LANES(sum[0], row0);
  ADD_LANES(sum[1], row1);
  ADD_LANES(sum[2], row2);
  ADD_LANES(sum[3], row3);
  ADD_LANES(sum[m], right0);
  ADD_LANES(sum[m + 1], right1);
  ADD_LANES(sum[m + 2], right2);
  ADD_LANES(sum[m + 3], right3);
}

INLINE void older_rows_bad(const struct fp_memory *m, const struct fp_slot *q, int64_t at,
                           int64_t n, const wide *dr, wide *sum)
{
  const real *r = m->a + at + place(m, q, 0) * m->stride;
  for (int64_t a = 1, ages = 1; a < q->count; a += ages) {
    const real *x[AGES + 1];
    ages = q->count - a >= AGES ? AGES : 1;
    points(m, q, m->a + at, a, ages, x);
    if (ages == AGES)
      rows_bad(n, x, r, dr, sum + a, m->m - 1);
    else
      row_bad(n, x, r, dr, sum + a, m->m - 1);
  }
}

/* Stores the difference dz to the point before; adds <dz, dz> to *square. */
INLINE void newest_dz(int64_t n, real damping, const real *z, const real *r1, const real *g1,
                      wide *dz, wide *square)
{
  wide dz_dz = 0;
  SIMD_SUM(dz_dz)
  FOR_COLUMNS (j, 0, n) {
    wide d = (wide)(z[j] - (g1[j] - damping * r1[j]));
    dz[OWN(j)] = d;
    dz_dz += d * d;
  }
  ADD_LANES(*square, dz_dz);
}

/* Adds <dz_a, dr>, <dz_a, r> and <dz, dr_a>. */
INLINE void row_good(int64_t n, real damping, const real *r0, const real *r1, const real *g0,
                     const real *g1, const real *r, const struct strip *v, wide *sum, int64_t m)
{
  wide row = 0, right = 0, column = 0;
  SIMD_SUM(row, right, column)
  FOR_COLUMNS (j, 0, n) {
    wide dr = (wide)r0[j] - (wide)r1[j];
    wide dz = (wide)((g0[j] - damping * r0[j]) - (g1[j] - damping * r1[j]));
    row += dz * v->dr[OWN(j)];
    right += dz * (wide)r[j];
    column += v->dz[OWN(j)] * dr;
  }
  ADD_LANES(sum[0], row);
  ADD_LANES(sum[m], right);
  ADD_LANES(sum[2 * m], column);
}

INLINE void rows_good(const struct fp_memory *m, const struct fp_slot *q, int64_t at, int64_t n,
                      real damping, const struct strip *v, wide *sum)
{
  const real *r = m->a + at + place(m, q, 0) * m->stride;
  for (int64_t a = 0; a < q->count; a++) {
    int64_t p0 = at + place(m, q, a) * m->stride, p1 = at + place(m, q, a + 1) * m->stride;
    row_good(n, damping, m->a + p0, m->a + p1, m->b + p0, m->b + p1, r, v, sum + a, m->m - 1);
  }
}

KERNEL accumulate(struct fp_samples s, struct fp_memory m, struct anderson_settings o)
{
  FOR_EACH_ROW (i, fp_tiles(&s), 4 * m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    struct fp_slot *q = &s.slot[s.sample[t.sample].slot];
    if (!t.active || s.sample[t.sample].action != FP_STEP || q->phase != ANDERSON_STEP)
      continue;
    int64_t M = o.m, newest = place(&m, q, 0) * m.stride, older = place(&m, q, 1) * m.stride;
    real damping = (real)o.damping;
    wide *sum = m.part + i * m.sums;
    for (int64_t k = 0; OWNS_COLUMN(0) && k < m.sums; k++)
      sum[k] = 0;
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct strip v;
      struct fp_strip at = strip_of(&m, &t, s.sample[t.sample].slot, first);
      const real *z = s.z + first, *fz = s.fz + first;
      real *r = m.a + at.at + newest, *g = m.b + at.at + newest;
      const real *r1 = m.a + at.at + older, *g1 = m.b + at.at + older;
      if (q->count <= 0) {
        first_point(at.n, damping, z, fz, r, g);
      } else if (o.good) {
        wide unused = 0;
        next_point(at.n, damping, z, fz, r1, r, g, v.dr, sum + 3 * M + 1, &unused);
        newest_dz(at.n, damping, z, r1, g1, v.dz, sum + 3 * M);
        rows_good(&m, q, at.at, at.n, damping, &v, sum);
      } else {
        next_point(at.n, damping, z, fz, r1, r, g, v.dr, sum, sum + M);
        older_rows_bad(&m, q, at.at, at.n, v.dr, sum);
      }
    }
  }
}

/* ---- the weights ---- */

/* Adds up the tiles' sums in order, and puts them in their places of the kept matrix. */
INLINE void gather_row(const struct fp_samples *s, const struct fp_memory *m,
                       const struct anderson_settings *o, int64_t i, const struct fp_slot *q,
                       struct small *w)
{
  int64_t M = o->m, P = m->m, tiles = tiles_of_sample(s), newest = place(m, q, 0);
  int64_t active = s->per_row == 1 ? s->count[i] * s->tiles : s->tiles;
  const wide *part = m->part + i * tiles * m->sums;
  for (int64_t a = 0; a < q->count; a++) {
    int64_t p = place(m, q, a);
    wide row = 0, right = 0, column = 0;
    for (int64_t t = 0; t < active; t++) {
      row += part[t * m->sums + a];
      right += part[t * m->sums + M + a];
      column += part[t * m->sums + 2 * M + a];
    }
    w->matrix[p * P + newest] = row;
    w->matrix[newest * P + p] = o->good ? column : row;
    w->right[p] = right;
  }
  wide dz = 0, dr = 0;
  for (int64_t t = 0; t < active; t++) {
    dz += part[t * m->sums + 3 * M];
    dr += part[t * m->sums + 3 * M + 1];
  }
  w->norms[2 * newest] = o->good ? dz : w->matrix[newest * P + newest];
  w->norms[2 * newest + 1] = o->good ? dr : w->matrix[newest * P + newest];
}

/* gamma by age from the kept matrix; returns the sum of their magnitudes, 0 when there is no
 * direction to be had, NaN or infinity when something broke down. */
INLINE double weights_of(const struct fp_memory *m, const struct anderson_settings *o,
                         const struct fp_slot *q, struct small *w)
{
  int64_t c = q->count, P = m->m;
  for (int64_t a = 0; a < c; a++) {
    int64_t p = place(m, q, a);
    wide dz = sqrt(w->norms[2 * p]);
    for (int64_t b = 0; b < c; b++) {
      int64_t p1 = place(m, q, b);
      wide scale = dz * sqrt(w->norms[2 * p1 + 1]), x = w->matrix[p * P + p1];
      w->A[a * c + b] = re(scale) > 0 ? x / scale : 0; /* a zero difference is no direction */
    }
    w->b[a] = re(dz) > 0 ? w->right[p] / dz : 0;
    if (re(w->A[a * c + a]) != 0)
      w->A[a * c + a] += re(w->A[a * c + a]) > 0 ? o->ridge : -o->ridge;
  }
  (void)solve_truncated(c, w->A, w->b, o->truncation, w->order, w->gamma);
  double weight = 0;
  for (int64_t a = 0; a < c; a++) {
    wide dr = sqrt(w->norms[2 * place(m, q, a) + 1]);
    w->gamma[a] = re(dr) > 0 ? w->gamma[a] / dr : 0;
    weight += magnitude(w->gamma[a]);
  }
  return weight;
}

KERNEL solve(struct fp_samples s, struct fp_memory m, struct anderson_settings o)
{
  FOR_EACH_COST (i, s.rows * s.per_row, m.m * (m.m * m.m + 3 * tiles_of_sample(&s))) {
    const struct fp_sample *p = &s.sample[i];
    struct fp_slot *q = &s.slot[p->slot];
    if (p->action != FP_STEP || q->phase != ANDERSON_STEP)
      continue;
    struct small w = small_of(&m, p->slot);
    q->accelerated = false;
    q->age++;
    if (q->count > 0)
      gather_row(&s, &m, &o, i, q, &w);
    bool wanted = p->iterations > o.delay && (o.start <= 0 || p->now <= o.start) &&
                  (o.mix_every <= 1 || q->age % o.mix_every == 0);
    if (q->rest > 0) {
      q->rest--;
      q->counter[FP_FALLBACKS]++;
    } else if (wanted && q->count > 0) {
      double weight = weights_of(&m, &o, q, &w);
      q->accelerated = weight > 0 && is_finite(weight);
      if (!is_finite(weight) || (o.max_weight > 0 && weight > o.max_weight)) {
        q->accelerated = false;
        q->count = 0;
        q->counter[FP_REJECTIONS]++;
      }
      q->counter[FP_FALLBACKS] += !q->accelerated;
    }
  }
}

/* ---- the next iterate ---- */

/* z = g_k - lag r_k: a part of the plain step. */
INLINE void part_of_step(int64_t n, const real *g, const real *r, real lag, real *z)
{
  SIMD
  FOR_COLUMNS (j, 0, n)
    z[j] = g[j] - lag * r[j];
}

/* Adds the direction of one age to z; g[0] and g[1] are its points. */
INLINE void add_age(int64_t n, const real *const *g, const wide *gamma, real *z)
{
  const real *g0 = g[0], *g1 = g[1];
  real c0 = (real)gamma[0];
  SIMD
  FOR_COLUMNS (j, 0, n)
    z[j] -= c0 * (g0[j] - g1[j]);
}

/* The same of AGES ages, in the same order. */
INLINE void add_ages(int64_t n, const real *const *g, const wide *gamma, real *z)
{
  const real *g0 = g[0], *g1 = g[1], *g2 = g[2], *g3 = g[3], *g4 = g[4];
  real c0 = (real)gamma[0], c1 = (real)gamma[1], c2 = (real)gamma[2], c3 = (real)gamma[3];
  SIMD
  FOR_COLUMNS (j, 0, n)
    z[j] = z[j] - c0 * (g0[j] - g1[j]) - c1 * (g1[j] - g2[j]) - c2 * (g2[j] - g3[j]) -
           c3 * (g3[j] - g4[j]);
}

KERNEL combine(struct fp_samples s, struct fp_memory m, double damping)
{
  FOR_EACH_ROW (i, fp_tiles(&s), m.m * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    struct fp_slot *q = &s.slot[s.sample[t.sample].slot];
    if (!t.active || s.sample[t.sample].action != FP_STEP)
      continue;
    struct small w = small_of(&m, s.sample[t.sample].slot);
    int64_t count = q->accelerated ? q->count : 0, newest = place(&m, q, 0) * m.stride;
    double share = share_of_step(&s, t.sample, damping);
    real lag = (real)(damping * (1 - share));
    for (int64_t first = t.first; first < t.end; first += FP_STRIP) {
      struct fp_strip at = strip_of(&m, &t, s.sample[t.sample].slot, first);
      real *z = s.z + first;
      const real *g = m.b + at.at + newest;
      if (share < 1) {
        part_of_step(at.n, g, m.a + at.at + newest, lag, z);
        continue;
      }
      SIMD
      FOR_COLUMNS (j, 0, at.n)
        z[j] = g[j];
      for (int64_t a = 0, ages = AGES; a < count; a += ages) {
        const real *x[AGES + 1];
        ages = count - a >= AGES ? AGES : 1;
        points(&m, q, m.b + at.at, a, ages, x);
        if (ages == AGES)
          add_ages(at.n, x, w.gamma + a, z);
        else
          add_age(at.n, x, w.gamma + a, z);
      }
    }
  }
}

/* Directions that rounding makes up: of differences whose noise is EPSILON, in squares, and of
 * sums in float64. */
static double truncation_of(const struct fp_options *o, int64_t m)
{
  double noise = 16 * EPSILON * (16 * EPSILON), sums = 4.0 * (double)m * 2.220446049250313e-16;
  double floor = noise > sums ? noise : sums;
  double asked = o->condition > 0 ? 1 / (o->condition * o->condition) : 0;
  return asked > floor ? asked : floor;
}

static void anderson_step(stream st, const struct fp_samples *s, const struct fp_options *o,
                          const struct fp_memory *m)
{
  struct anderson_settings c;
  int64_t samples = s->rows * s->per_row;
  c.m = m->m - 1;
  c.delay = o->delay, c.mix_every = o->mix_every, c.restart = o->restart;
  c.damping = o->damping, c.start = o->start, c.ridge = o->ridge;
  c.truncation = truncation_of(o, m->m);
  c.safeguard = o->safeguard, c.max_weight = o->max_weight;
  c.good = o->kind == FP_GOOD;
  LAUNCH(st, samples, prepare, *s, *m, c);
  LAUNCH_ROWS(st, fp_tiles(s), accumulate, *s, *m, c);
  LAUNCH(st, samples, solve, *s, *m, c);
  LAUNCH_ROWS(st, fp_tiles(s), combine, *s, *m, o->damping);
}

extern const struct fp_method anderson;
const struct fp_method anderson = {"anderson", false, anderson_carve, anderson_step, NULL};
