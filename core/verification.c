/* verification.c: see verification.h. */
#include "core/verification.h"
#include "core/philox.h"
#include "core/data.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a draw of STREAM_JACOBIAN is for: the first word of its counter behind the stream. */
enum { DRAW_U, DRAW_X, DRAW_STATE, DRAW_CONV, DRAW_Q };

struct check {
  struct verification *v;
  const struct jacobian_runtime *rt;
  struct jacobian_session *s;
  struct dense_lu lu; /* of the first token */
  struct verification_request request;
};

const char *jacobian_way_name(enum jacobian_way w)
{
  static const char *const names[JACOBIAN_WAYS] = {"theorem", "complex step", "adjoint",
                                                   "finite differences"};
  CHECK((int)w >= 0 && w < JACOBIAN_WAYS);
  return names[w];
}

static enum status make(int64_t n, double **out)
{
  *out = calloc((size_t)(n ? n : 1), sizeof **out);
  if (!*out)
    FAIL(ERR_MEMORY, "out of memory: %lld numbers", (long long)n);
  return OK;
}

static struct jacobian_point point_of(const struct verification *v)
{
  return (struct jacobian_point){v->u, v->state, v->z};
}

/* ---- the point ---- */

static void draw(const struct verification *v, uint32_t what, int64_t n, bool normal, double scale,
                 double *to)
{
  for (int64_t i = 0; i < n; i++) {
    uint32_t word[4];
    philox((uint64_t)v->c->seed, STREAM_JACOBIAN, what, (uint32_t)i, (uint32_t)((uint64_t)i >> 32),
           word);
    to[i] = scale * (normal ? philox_normal(word) : philox_uniform(word[0], word[1]));
  }
}

/* Embedded tokens of the task; the state that the first `prefix` of them reach. */
static enum status read_tokens(struct check *k, const struct task_data *d, int32_t *tokens,
                               double *x, double *u)
{
  struct verification *v = k->v;
  int64_t prefix = v->c->jacobian.prefix, all = prefix + v->tokens;
  bool found = true;
  TRY(data_require(d, STREAM_JACOBIAN, all, "jacobian.prefix and jacobian.tokens"));
  data_batch(d, (uint64_t)v->c->seed, STREAM_JACOBIAN, 0, 0, 1, all, tokens, tokens + all);
  TRY(jacobian_embed(k->s, all, tokens, x, u));
  for (int64_t t = 0; t < prefix && found; t++) {
    struct jacobian_tally unused = {0};
    struct jacobian_point p = {u + t * v->size.d_in_proj, v->state, v->z};
    TRY(jacobian_fixed_point(k->s, &p, v->z, &unused, &found));
    TRY(jacobian_advance(k->s, &p, v->state));
  }
  if (!found)
    FAIL(ERR_NUMERIC, "no fixed point was found at one of the %lld tokens of jacobian.prefix",
         (long long)prefix);
  memcpy(v->x, x + prefix * v->size.D, (size_t)(v->tokens * v->size.D) * sizeof *x);
  memcpy(v->u, u + prefix * v->size.d_in_proj, (size_t)(v->tokens * v->size.d_in_proj) * sizeof *u);
  return OK;
}

static enum status make_point(struct check *k)
{
  struct verification *v = k->v;
  const struct jacobian_sizes n = v->size;
  TRY(make(v->tokens * n.d_in_proj, &v->u));
  TRY(make(v->tokens * n.D, &v->x));
  TRY(make(v->tokens * n.D, &v->z));
  TRY(make(n.extent, &v->state));
  if (k->request.input || v->c->jacobian.input == JACOBIAN_NORMAL) {
    draw(v, DRAW_U, v->tokens * n.d_in_proj, true, 1, v->u);
    draw(v, DRAW_X, v->tokens * n.D, true, 1, v->x);
    draw(v, DRAW_STATE, n.states, false, 2, v->state);
    draw(v, DRAW_CONV, n.extent - n.states, false, 1, v->state + n.states);
    return k->request.input ? verification_read_point(v, k->request.input) : OK;
  }
  int64_t all = v->c->jacobian.prefix + v->tokens;
  struct task_data d;
  double *x = NULL, *u = NULL;
  TRY(data_open(&v->c->data, &d));
  int32_t *tokens = malloc((size_t)(2 * all) * sizeof *tokens);
  enum status s = tokens ? OK : fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  if (s == OK)
    s = make(all * n.D, &x);
  if (s == OK)
    s = make(all * n.d_in_proj, &u);
  if (s == OK)
    s = read_tokens(k, &d, tokens, x, u);
  data_close(&d);
  free(tokens), free(x), free(u);
  return s;
}

/* ---- closed form ---- */

static enum status factor(const struct check *k, int64_t D, const double *df_dz,
                          struct dense_lu *lu)
{
  TRY(dense_lu_of_identity_minus(jacobian_dense(k->s), D, df_dz, lu));
  if (lu->singular)
    FAIL(ERR_NUMERIC, "I - df/dz is singular: the fixed point has no derivative");
  return OK;
}

static enum status look_at_f(const struct check *k)
{
  struct verification *v = k->v;
  int64_t D = v->size.D;
  double *G;
  TRY(make(D, &v->sigma));
  TRY(make(D * D, &G));
  for (int64_t i = 0; i < D * D; i++)
    G[i] = (i % (D + 1) == 0 ? 1 : 0) - v->parts.df_dz[i];
  enum status s = dense_singular_values(jacobian_dense(k->s), D, G, v->sigma);
  free(G);
  TRY(s);
  v->rank = dense_rank(D, v->sigma);
  v->condition = v->sigma[0] / v->sigma[D - 1];
  return dense_spectral_radius(jacobian_dense(k->s), D, v->parts.df_dz, &v->f_radius);
}

static enum status by_theorem(struct check *k)
{
  struct verification *v = k->v;
  struct jacobian_parts *p = &v->parts;
  struct jacobian_point at = point_of(v);
  int64_t n = p->D * p->n;
  double *planned = p->dLambda_dz, *nothing = NULL;
  TRY(jacobian_differentiate(k->s, &at, p));
  TRY(factor(k, p->D, p->df_dz, &k->lu));
  TRY(look_at_f(k));
  double error = 0;
  for (int64_t i = 0; i < n; i++) {
    double sum = p->dLambda_dz[i] * v->state[i % p->n] + p->dv_dz[i];
    error = worse_of(error, fabs(p->dh_dz[i] - sum));
  }
  double largest = dense_largest(n, p->dh_dz);
  v->parts_error = error == 0 ? 0 : error / largest;
  if (k->request.planted == PLANTED_DROPPED_TERM)
    TRY(make(n, &nothing));
  p->dLambda_dz = nothing ? nothing : planned;
  enum status s = jacobian_theorem(p, v->state, &k->lu, v->J[BY_THEOREM]);
  p->dLambda_dz = planned;
  free(nothing);
  dense_transpose(p->n, v->J[BY_THEOREM]);
  return s;
}

/* ---- the other ways ---- */

/* Columns of the Jacobian over v->tokens or one token by complex step; transposed (columns,n), and
 * `exponent` as jacobian_complex has it. */
static enum status complex_columns(struct check *k, int64_t tokens, int64_t n, int64_t columns,
                                   const int64_t *column, const struct dense_lu *lu,
                                   double *transposed, int *exponent, struct jacobian_tally *tally)
{
  const struct verification *v = k->v;
  struct jacobian_complex r = {
      .c = v->c, .parameters = v->parameters, .be = k->rt->c64, .solver = k->rt->solver_c64};
  r.tokens = tokens, r.n = n, r.columns = columns, r.column = column, r.state = v->state;
  r.u = lu ? v->u : NULL, r.z = lu ? v->z : v->x, r.lu = lu;
  r.iterate = jacobian_iterates(k->s), r.exponent = exponent;
  return k->rt->complex_step(&r, transposed, tally);
}

static enum status all_columns(int64_t n, int64_t **column)
{
  *column = malloc((size_t)n * sizeof **column);
  if (!*column)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t j = 0; j < n; j++)
    (*column)[j] = j;
  return OK;
}

/* The implicit model's (lu), or the explicit one's at x. */
static enum status by_complex_step(struct check *k, const struct dense_lu *lu, double *J)
{
  int64_t S = k->v->size.states, *column;
  struct jacobian_tally unused = {0};
  TRY(all_columns(S, &column));
  enum status s =
      complex_columns(k, 1, S, S, column, lu, J, NULL, lu ? &k->v->complex_step : &unused);
  free(column);
  dense_transpose(S, J);
  return s;
}

static enum status by_adjoint(struct check *k)
{
  struct verification *v = k->v;
  struct jacobian_point at = point_of(v);
  double *stale;
  TRY(make(v->size.D, &stale));
  for (int64_t j = 0; j < v->size.D; j++)
    stale[j] = v->z[j] * (1 + 1e-6);
  if (k->request.planted == PLANTED_STALE_ACTIVATION)
    at.z = stale;
  enum status s = jacobian_adjoint(k->s, &at, &k->lu, v->J[BY_ADJOINT], &v->adjoint);
  free(stale);
  return s;
}

/* ---- differences ---- */

/* Errors of the columns against the complex step's: central differences of step k, and Richardson's
 * (4 D(e/2) - D(e)) / 3 of steps k and k+1. */
static void sweep_errors(struct verification *v, const int64_t *column, const double *difference)
{
  int64_t S = v->size.states, m = v->sweep_columns;
  const double *J = v->J[BY_COMPLEX_STEP];
  double largest = dense_largest(S * S, J);
  for (int64_t k = 0; k < SWEEP_STEPS; k++) {
    double central = 0, richardson = 0;
    for (int64_t i = 0; i < m * S; i++) {
      double want = J[i % S * S + column[k * m + i / S]], d = difference[k * m * S + i];
      double next = k + 1 < SWEEP_STEPS ? difference[(k + 1) * m * S + i] : d;
      central = worse_of(central, fabs(d - want));
      richardson = worse_of(richardson, fabs((4 * next - d) / 3 - want));
    }
    v->central_error[k] = central / largest;
    double e = k + 1 < SWEEP_STEPS ? richardson / largest : (double)NAN;
    double least = v->richardson_error[v->best];
    v->richardson_error[k] = e;
    if (k == 0 || e < least || (least != least && e == e))
      v->best = k;
  }
}

/* Every step from 2^-2 down by halves, in units of the largest state, on a few columns. */
static enum status sweep(struct check *k)
{
  struct verification *v = k->v;
  struct jacobian_point at = point_of(v);
  int64_t S = v->size.states, m = v->c->jacobian.sweep < S ? v->c->jacobian.sweep : S;
  int64_t stride = S / m, count = SWEEP_STEPS * m;
  int64_t *column = calloc((size_t)count, sizeof *column);
  double *step = malloc((size_t)count * sizeof *step), *difference = NULL;
  double scale = dense_largest(S, v->state);
  struct jacobian_tally unused = {0};
  enum status s =
      column && step ? OK : fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory: the sweep");
  v->sweep_columns = m;
  for (int64_t i = 0; s == OK && i < count; i++) {
    v->sweep_step[i / m] = ldexp(scale > 0 ? scale : 1, -2 - (int)(i / m));
    step[i] = v->sweep_step[i / m];
    column[i] = i % m * stride + i % m % stride; /* not always the same n of (head, p, n) */
  }
  if (s == OK)
    s = make(count * S, &difference);
  if (s == OK)
    s = jacobian_differences(k->s, &at, &k->lu, count, column, step, difference, &unused);
  if (s == OK)
    sweep_errors(v, column, difference);
  free(column), free(step), free(difference);
  return s;
}

/* Columns first.. by Richardson's extrapolation of the best step and its half. */
static enum status richardson_columns(struct check *k, int64_t first, int64_t columns,
                                      int64_t *column, double *step, double *difference)
{
  struct verification *v = k->v;
  struct jacobian_point at = point_of(v);
  int64_t S = v->size.states;
  double *J = v->J[BY_DIFFERENCES];
  for (int64_t i = 0; i < 2 * columns; i++) {
    column[i] = first + i % columns;
    step[i] = v->sweep_step[v->best + i / columns];
  }
  TRY(jacobian_differences(k->s, &at, &k->lu, 2 * columns, column, step, difference,
                           &v->differences));
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < S; i++)
      J[i * S + first + j] = (4 * difference[(columns + j) * S + i] - difference[j * S + i]) / 3;
  return OK;
}

static enum status by_differences(struct check *k)
{
  enum { TILE = 256 };
  int64_t S = k->v->size.states, tile = S < TILE ? S : TILE, column[2 * TILE];
  double step[2 * TILE], *difference;
  TRY(sweep(k));
  TRY(make(2 * tile * S, &difference));
  enum status s = OK;
  for (int64_t first = 0; s == OK && first < S; first += tile)
    s = richardson_columns(k, first, S - first < tile ? S - first : tile, column, step, difference);
  free(difference);
  return s;
}

/* ---- the explicit model ---- */

/* Largest entry that must be 0: in a layer's own block beside the diagonal, and above the blocks.
 */
static double must_vanish(int64_t layers, int64_t S, const double *J)
{
  double largest = 0;
  int64_t block = S / layers;
  for (int64_t i = 0; i < S; i++)
    for (int64_t j = i / block * block; j < S; j++)
      if (j != i)
        largest = worse_of(largest, fabs(J[i * S + j]));
  return largest;
}

static double relative_difference(int64_t n, const double *a, const double *b)
{
  double worst = 0, largest = dense_largest(n, b);
  for (int64_t i = 0; i < n; i++)
    worst = worse_of(worst, fabs(a[i] - b[i]));
  return worst == 0 ? 0 : worst / largest;
}

static enum status explicit_model(struct check *k)
{
  struct verification *v = k->v;
  struct jacobian_point at = {NULL, v->state, v->x};
  struct jacobian_parts parts;
  int64_t S = v->size.states;
  double *other;
  TRY(jacobian_parts_make(&v->c->model, false, &parts));
  enum status s = jacobian_differentiate(k->s, &at, &parts);
  if (s == OK) {
    memcpy(v->J_explicit, parts.dh_dh, (size_t)(S * S) * sizeof *v->J_explicit);
    dense_transpose(S, v->J_explicit);
  }
  jacobian_parts_free(&parts);
  TRY(s);
  v->explicit_off = must_vanish(v->c->model.n_layer, S, v->J_explicit);
  TRY(make(S * S, &other));
  s = by_complex_step(k, NULL, other);
  v->explicit_error = relative_difference(S * S, v->J_explicit, other);
  free(other);
  return s;
}

/* ---- comparing ---- */

static enum status shape_of(const struct check *k, int64_t n, const double *J,
                            struct jacobian_shape *s)
{
  double off = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      off += i == j ? 0 : J[i * n + j] * J[i * n + j];
  s->norm = dense_norm(n * n, J);
  s->largest = dense_largest(n * n, J);
  s->median = dense_median(n * n, J);
  s->off_diagonal = s->norm > 0 ? sqrt(off) / s->norm : 0;
  return dense_spectral_radius(jacobian_dense(k->s), n, J, &s->radius);
}

static enum status compare_ways(struct verification *v)
{
  int64_t n = v->size.states * v->size.states;
  double *difference, largest = v->shape.largest;
  const struct jacobian_config *o = &v->c->jacobian;
  struct jacobian_pair *pair = v->pair;
  TRY(make(n, &difference));
  for (int a = 0; a < JACOBIAN_WAYS; a++)
    for (int b = a + 1; b < JACOBIAN_WAYS; b++, pair++) {
      for (int64_t i = 0; i < n; i++)
        difference[i] = fabs(v->J[a][i] - v->J[b][i]);
      pair->a = (enum jacobian_way)a, pair->b = (enum jacobian_way)b;
      pair->largest = dense_largest(n, difference);
      pair->median = dense_median(n, difference);
      pair->relative = pair->largest == 0 ? 0 : pair->largest / largest;
      pair->tolerance = b == BY_DIFFERENCES ? o->tolerance_differences : o->tolerance;
      pair->passed = pair->relative <= pair->tolerance;
    }
  free(difference);
  return OK;
}

static bool all_passed(const struct verification *v)
{
  const struct jacobian_tally *t[] = {&v->base, &v->adjoint, &v->differences, &v->complex_step};
  double tolerance = v->c->jacobian.tolerance;
  bool passed = v->explicit_off == 0 && v->explicit_error <= tolerance && v->rank == v->size.D &&
                v->parts_error <= tolerance;
  for (int i = 0; i < 4; i++)
    passed = passed && t[i]->residual <= jacobian_floor;
  for (int i = 0; i < JACOBIAN_PAIRS; i++)
    passed = passed && v->pair[i].passed;
  if (v->tokens > 1)
    passed = passed && v->failed_token < 0 && v->product_error <= tolerance;
  return passed;
}

/* ---- several tokens ---- */

struct sequence {
  int64_t n, exponents;
  double *P[2], *Q[2]; /* product, transposed (n,n), and frame (n,exponents): implicit, explicit */
  int exponent[2];     /* the product is 2^exponent P */
  double *sum[2], *r;  /* of log |R_ii|; (exponents) */
  double *J, *spare;   /* (n,n) */
  double *state[2];    /* (extent) */
  struct dense_lu *lu;
  const struct dense_library *library;
};

static void sequence_free(struct sequence *q, int64_t tokens)
{
  for (int i = 0; i < 2; i++)
    free(q->P[i]), free(q->Q[i]), free(q->sum[i]), free(q->state[i]);
  free(q->r), free(q->J), free(q->spare);
  for (int64_t t = 0; q->lu && t < tokens; t++)
    dense_lu_free(&q->lu[t]);
  free(q->lu);
}

static enum status sequence_make(const struct verification *v, const struct dense_library *library,
                                 struct sequence *q)
{
  int64_t n = v->size.extent, e = v->exponents;
  *q = (struct sequence){.n = n, .exponents = e, .library = library};
  for (int i = 0; i < 2; i++) {
    TRY(make(n * n, &q->P[i]));
    TRY(make(n * e, &q->Q[i]));
    TRY(make(e, &q->sum[i]));
    TRY(make(n, &q->state[i]));
    memcpy(q->state[i], v->state, (size_t)n * sizeof *v->state);
    for (int64_t j = 0; j < n; j++)
      q->P[i][j * n + j] = 1;
    draw(v, DRAW_Q, n * e, true, 1, q->Q[i]);
  }
  TRY(make(e, &q->r));
  TRY(make(n * n, &q->J));
  TRY(make(n * n, &q->spare));
  q->lu = calloc((size_t)v->tokens, sizeof *q->lu);
  if (!q->lu)
    FAIL(ERR_MEMORY, "out of memory");
  TRY(dense_orthonormalise(q->library, n, e, q->Q[0], q->r));
  return dense_orthonormalise(q->library, n, e, q->Q[1], q->r);
}

/* Multiplies the Jacobian (transposed, in q->J) onto the product and the frame of `which`. */
static enum status multiply_on(struct sequence *q, int which, bool count)
{
  int64_t n = q->n, e = q->exponents;
  TRY(dense_multiply(q->library, n, n, n, q->P[which], q->J, 0, q->spare));
  int by; /* by powers of two no digit is lost, however many tokens there are */
  (void)frexp(dense_norm(n * n, q->spare), &by);
  for (int64_t i = 0; i < n * n; i++)
    q->P[which][i] = ldexp(q->spare[i], -by);
  q->exponent[which] += by;
  dense_transpose(n, q->J);
  TRY(dense_multiply(q->library, n, e, n, q->J, q->Q[which], 0, q->spare));
  memcpy(q->Q[which], q->spare, (size_t)(n * e) * sizeof *q->spare);
  TRY(dense_orthonormalise(q->library, n, e, q->Q[which], q->r));
  for (int64_t i = 0; count && i < e; i++)
    q->sum[which][i] += log(q->r[i]); /* -infinity: the direction has underflowed */
  return OK;
}

static enum status one_token(struct check *k, struct sequence *q, struct jacobian_parts *parts,
                             int64_t t, bool *found)
{
  struct verification *v = k->v;
  bool count = t >= v->c->jacobian.transient;
  struct jacobian_tally unused = {0};
  double *z = v->z + t * v->size.D;
  struct jacobian_point at = {v->u + t * v->size.d_in_proj, q->state[0], z};
  *found = true;
  if (t > 0)
    TRY(jacobian_fixed_point(k->s, &at, z, &unused, found));
  if (!*found)
    return OK;
  TRY(jacobian_differentiate(k->s, &at, parts));
  TRY(factor(k, parts->D, parts->df_dz, &q->lu[t]));
  TRY(jacobian_theorem(parts, q->state[0], &q->lu[t], q->J));
  TRY(multiply_on(q, 0, count));
  TRY(jacobian_advance(k->s, &at, q->state[0]));
  struct jacobian_point ex = {NULL, q->state[1], v->x + t * v->size.D};
  TRY(jacobian_differentiate(k->s, &ex, parts));
  memcpy(q->J, parts->dh_dh, (size_t)(q->n * q->n) * sizeof *q->J);
  TRY(multiply_on(q, 1, count));
  return jacobian_advance(k->s, &ex, q->state[1]);
}

/* A few columns of the product against the complex step through all tokens, both in the units of
 * the product. */
static enum status check_product(struct check *k, const struct sequence *q)
{
  struct verification *v = k->v;
  int64_t n = q->n, m = n < 16 ? n : 16, column[16];
  int exponent[16];
  double *want, *got;
  TRY(make(2 * m * n, &want));
  got = want + m * n;
  for (int64_t j = 0; j < m; j++)
    column[j] = j * n / m;
  enum status s =
      complex_columns(k, v->tokens, n, m, column, q->lu, want, exponent, &v->complex_step);
  for (int64_t i = 0; s == OK && i < m * n; i++) {
    want[i] = ldexp(want[i], exponent[i / n] - q->exponent[0]);
    got[i] = q->P[0][column[i / n] * n + i % n];
  }
  v->product_error = s == OK ? relative_difference(m * n, got, want) : (double)NAN;
  free(want);
  return s;
}

static int descending(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x < y) - (x > y);
}

static enum status report_product(struct verification *v, const struct sequence *q, int which,
                                  struct jacobian_product *p)
{
  int64_t counted = v->tokens - v->c->jacobian.transient;
  TRY(make(q->n, &p->singular));
  TRY(make(q->exponents, &p->exponents));
  p->log_scale = q->exponent[which] * log(2);
  for (int64_t i = 0; i < q->exponents; i++)
    p->exponents[i] = counted > 0 ? q->sum[which][i] / (double)counted : (double)NAN;
  qsort(p->exponents, (size_t)q->exponents, sizeof *p->exponents, descending);
  return dense_singular_values(q->library, q->n, q->P[which], p->singular);
}

static enum status walk(struct check *k, struct sequence *q, struct jacobian_parts *parts)
{
  struct verification *v = k->v;
  bool found = true;
  TRY(sequence_make(v, jacobian_dense(k->s), q));
  for (int64_t t = 0; t < v->tokens && found; t++) {
    TRY(one_token(k, q, parts, t, &found));
    if (!found)
      v->failed_token = t;
  }
  if (!found)
    return OK;
  TRY(check_product(k, q));
  TRY(report_product(v, q, 0, &v->implicit_product));
  return report_product(v, q, 1, &v->explicit_product);
}

static enum status several_tokens(struct check *k)
{
  struct jacobian_parts parts;
  struct sequence q = {0};
  TRY(jacobian_parts_make(&k->v->c->model, true, &parts));
  enum status s = walk(k, &q, &parts);
  sequence_free(&q, k->v->tokens);
  jacobian_parts_free(&parts);
  return s;
}

/* ---- all of it ---- */

static void say(const struct check *k, const char *what)
{
  if (k->request.says)
    k->request.says(k->v, what);
}

static enum status verify(struct check *k)
{
  struct verification *v = k->v;
  int64_t S = v->size.states;
  TRY(make_point(k));
  struct jacobian_point at = point_of(v);
  say(k, "fixed point");
  TRY(jacobian_fixed_point(k->s, &at, v->z, &v->base, &v->found));
  if (!v->found)
    return OK;
  TRY(jacobian_parts_make(&v->c->model, false, &v->parts));
  for (int w = 0; w < JACOBIAN_WAYS; w++)
    TRY(make(S * S, &v->J[w]));
  TRY(make(S * S, &v->J_explicit));
  v->memory = jacobian_memory(k->s) +
              (size_t)((JACOBIAN_WAYS + 3) * S * S + 4 * S * v->size.D) * sizeof(double);
  say(k, jacobian_way_name(BY_THEOREM));
  TRY(by_theorem(k));
  say(k, jacobian_way_name(BY_COMPLEX_STEP));
  TRY(by_complex_step(k, &k->lu, v->J[BY_COMPLEX_STEP]));
  say(k, jacobian_way_name(BY_ADJOINT));
  TRY(by_adjoint(k));
  say(k, jacobian_way_name(BY_DIFFERENCES));
  TRY(by_differences(k));
  say(k, "explicit model");
  TRY(explicit_model(k));
  say(k, "singular values");
  TRY(shape_of(k, S, v->J[BY_THEOREM], &v->shape));
  TRY(shape_of(k, S, v->J_explicit, &v->explicit_shape));
  TRY(compare_ways(v));
  if (v->tokens > 1) {
    say(k, "several tokens");
    TRY(several_tokens(k));
  }
  v->passed = all_passed(v);
  return OK;
}

enum status verify_jacobian(const struct config *c, const struct jacobian_runtime *rt,
                            struct verification_request request, struct verification *v)
{
  *v = (struct verification){.c = c, .size = jacobian_sizes(&c->model)};
  v->tokens = c->jacobian.tokens;
  v->exponents = c->jacobian.exponents < v->size.extent ? c->jacobian.exponents : v->size.extent;
  v->failed_token = -1;
  struct check k = {.v = v, .rt = rt, .request = request};
  if (c->model.kind != MODEL_IMPLICIT)
    FAIL(ERR_USAGE, "model.kind: explicit has no fixed point; an implicit model is needed");
  enum status s = tensor_list_make(&c->model, &v->list);
  if (s == OK)
    s = jacobian_load(c, &v->list, rt->f64, request.checkpoint, &v->parameters);
  if (s == OK)
    s = jacobian_open(c, v->parameters, rt->f64, rt->solver, &k.s);
  if (s == OK)
    s = verify(&k);
  jacobian_close(k.s);
  dense_lu_free(&k.lu);
  if (s != OK)
    verification_free(v);
  return s;
}

void verification_free(struct verification *v)
{
  free(v->parameters), free(v->u), free(v->x), free(v->z), free(v->state), free(v->sigma);
  for (int w = 0; w < JACOBIAN_WAYS; w++)
    free(v->J[w]);
  free(v->J_explicit);
  jacobian_parts_free(&v->parts);
  free(v->implicit_product.singular), free(v->implicit_product.exponents);
  free(v->explicit_product.singular), free(v->explicit_product.exponents);
  tensor_list_free(&v->list);
  *v = (struct verification){0};
}
