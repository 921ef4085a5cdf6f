/* jacobian.c: the Jacobian of one token by closed form, adjoint, differences and complex step; see
 * jacobian.h.  The complex build holds the complex step, the float64 build all else. */
#include "core/jacobian.h"
#include "core/files.h"
#include "core/jacobian_batch.h"
#include "core/philox.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 32

/* Rows whose states and activations fit into some 100 MB. */
static int64_t rows_for(const struct model_config *c)
{
  enum { LEAST = 64, MOST = 1024 };
  struct jacobian_sizes n = jacobian_sizes(c);
  int64_t width = 3 * n.extent + (12 * n.D + 8 * n.d_in_proj) * c->n_layer;
  int64_t rows = 12000000 / width;
  return rows < LEAST ? LEAST : rows > MOST ? MOST : rows;
}
#endif

#if REAL_BITS == 64

const double jacobian_floor = 1e-12;

struct jacobian_session {
  struct jacobian_batch b;
  uint64_t seed;
};

struct jacobian_sizes jacobian_sizes(const struct model_config *c)
{
  struct model_dims d = model_dims(c);
  int64_t states = d.layers * d.H * d.P * d.N;
  return (struct jacobian_sizes){d.D, d.d_in_proj, states,
                                 states + d.layers * d.conv_dim * (d.W - 1)};
}

static double *doubles(int64_t n) { return calloc((size_t)(n ? n : 1), sizeof(double)); }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* All rows of the batch at one point. */
static enum status put_point(struct jacobian_batch *b, int64_t rows, const double *u,
                             const double *state, const double *z)
{
  for (int64_t i = 0; i < rows * b->extent; i++)
    b->host_state[i] = (real)state[i % b->extent];
  TRY(batch_put_input(b, u));
  TRY(batch_put_states(b, rows, b->host_state, &b->carried));
  return batch_put_rows(b, rows, b->w.m.dims.D, z, b->z);
}

void jacobian_tally_add(struct jacobian_tally *to, const struct jacobian_tally *t)
{
  to->solves += t->solves;
  to->by_newton += t->by_newton;
  to->iterations = t->iterations > to->iterations ? t->iterations : to->iterations;
  to->polish = t->polish > to->polish ? t->polish : to->polish;
  to->residual = t->residual > to->residual ? t->residual : to->residual;
}

enum status jacobian_open(const struct config *c, const double *parameters,
                          const struct backend *be, const struct solver_port *solver,
                          struct jacobian_session **out)
{
  struct jacobian_session *s = calloc(1, sizeof *s);
  if (!s)
    FAIL(ERR_MEMORY, "out of memory");
  s->seed = (uint64_t)c->seed;
  enum status status = batch_open(c, parameters, be, solver, rows_for(&c->model), true, &s->b);
  if (status != OK) {
    free(s);
    return status;
  }
  *out = s;
  return OK;
}

void jacobian_close(struct jacobian_session *s)
{
  if (s)
    batch_close(&s->b);
  free(s);
}

size_t jacobian_memory(const struct jacobian_session *s)
{
  return s->b.device.size + s->b.host.size + s->b.w.device.size;
}

enum status jacobian_load(const struct config *c, const struct tensor_list *list,
                          const struct backend *be, const char *checkpoint, double **parameters)
{
  double *block = doubles(list->block);
  *parameters = block;
  if (!block)
    FAIL(ERR_MEMORY, "out of memory: %lld parameters", (long long)list->parameters);
  if (!checkpoint) {
    parameters_initialise(&c->model, list, (uint64_t)c->seed, block);
    return OK;
  }
  struct weights w;
  char path[2 * CONFIG_PATH];
  enum status s = path_join(path, sizeof path, checkpoint, "model.safetensors");
  if (s == OK)
    s = weights_open(&c->model, be, 1, &w);
  if (s == OK) {
    const struct named_set set = {"", &w.set[0]};
    s = weights_read(&w, path, &set, 1, false);
    if (s == OK)
      s = be->download(be->st, (size_t)list->block * sizeof *block, w.set[0].block, block);
    weights_close(&w);
  }
  if (s != OK) {
    free(block);
    *parameters = NULL;
  }
  return s;
}

/* ---- closed form ---- */

enum status jacobian_parts_make(const struct model_config *c, bool conv, struct jacobian_parts *p)
{
  struct jacobian_sizes size = jacobian_sizes(c);
  int64_t D = size.D, S = size.states, n = conv ? size.extent : S;
  *p = (struct jacobian_parts){.D = D, .states = S, .n = n};
  p->df_dz = doubles(D * D), p->dh_dz = doubles(D * n);
  p->df_dh = doubles(n * D), p->dh_dh = doubles(n * n);
  p->dLambda_dz = doubles(D * S), p->dv_dz = doubles(D * S);
  if (p->df_dz && p->dh_dz && p->df_dh && p->dh_dh && p->dLambda_dz && p->dv_dz)
    return OK;
  jacobian_parts_free(p);
  FAIL(ERR_MEMORY, "out of memory: a Jacobian of %lld states", (long long)n);
}

void jacobian_parts_free(struct jacobian_parts *p)
{
  free(p->df_dz), free(p->dh_dz), free(p->df_dh), free(p->dh_dh);
  free(p->dLambda_dz), free(p->dv_dz);
  *p = (struct jacobian_parts){0};
}

/* Columns first.. of the identity of order n, as rows of `to` (rows,width), the rest zero. */
static void identity_rows(int64_t rows, int64_t first, int64_t n, int64_t width, double *to)
{
  memset(to, 0, (size_t)(rows * width) * sizeof *to);
  for (int64_t r = 0; r < rows; r++)
    if (first + r < n)
      to[r * width + first + r] = 1;
}

/* `rows` columns of the derivative by z (by_z) or by the state, from column `first` on, through
 * block_jvp; df (rows,D) and the state's tangents in host_state. */
static enum status tangent_columns(struct jacobian_batch *b, bool by_z, int64_t first, int64_t rows,
                                   double *df)
{
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  struct span s = batch_span(b, rows);
  if (by_z) {
    identity_rows(rows, first, D, D, b->host_z);
    TRY(be->upload(be->st, (size_t)(rows * D) * sizeof *b->host_z, b->host_z, b->constant));
  } else {
    identity_rows(rows, first, b->extent, b->extent, b->host_state);
    TRY(batch_put_states(b, rows, b->host_state, &b->enter));
  }
  TRY(block_jvp(&b->w.m, &b->w.set[0], &s, &b->act, by_z ? b->constant : NULL,
                by_z ? NULL : &b->enter, b->scratch, &b->tangent, &b->leave, b->fz));
  TRY(be->download(be->st, (size_t)(rows * D) * sizeof *df, b->fz, df));
  return batch_get_states(b, rows, &b->leave, b->host_state);
}

/* Tangents of Lambda = exp(A Delta), or 2 exp(A Delta) - 1, and of v = Delta x B' of layer l, from
 * those of Delta, x and B. */
static enum status recurrence_tangents(struct jacobian_batch *b, int64_t l, int64_t rows,
                                       double *dLambda, double *dv)
{
  const struct backend *be = b->w.m.be;
  const struct model_dims *d = &b->w.m.dims;
  const struct layer_activations *a = &b->act.layer[l], *ad = &b->tangent.layer[l];
  double range = b->w.m.config.mamba2.A_negative ? 2 : 1;
  int64_t width = d->conv_dim + d->H, ssm = d->H * d->P * d->N;
  double *A = doubles(d->H), *xBC = doubles((rows + 1) * width),
         *dt = xBC ? xBC + d->conv_dim : xBC;
  double *xBCd = xBC ? xBC + width : xBC, *dtd = xBCd ? xBCd + rows * d->conv_dim : xBCd;
  enum status s = A && xBC ? OK : fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  const struct copy {
    int64_t n;
    const DEVICE double *from;
    double *to;
  } copies[] = {{d->H, b->w.set[0].layer[l].A_log, A},
                {d->conv_dim, a->xBC, xBC},
                {d->H, a->dt, dt},
                {rows * d->conv_dim, ad->xBC, xBCd},
                {rows * d->H, ad->dt, dtd}};
  for (int i = 0; s == OK && i < 5; i++)
    s = be->download(be->st, (size_t)copies[i].n * sizeof *A, copies[i].from, copies[i].to);
  for (int64_t i = 0; s == OK && i < rows * ssm; i++) {
    int64_t r = i / ssm, k = i % ssm, n = k % d->N, x = k / d->N, h = x / d->P;
    int64_t B = d->E + h / (d->H / d->G) * d->N + n;
    const double *t = xBCd + r * d->conv_dim;
    double Delta = dt[h], slope = dtd[r * d->H + h], rate = -exp(A[h]);
    dLambda[r * b->states + l * ssm + k] = range * rate * exp(rate * Delta) * slope;
    dv[r * b->states + l * ssm + k] =
        slope * xBC[x] * xBC[B] + Delta * (t[x] * xBC[B] + xBC[x] * t[B]);
  }
  free(A), free(xBC);
  return s;
}

/* f (D) and df/dz, transposed, at the point that the batch holds. */
static enum status differentiate_f(struct jacobian_batch *b, double *df_dz, double *f)
{
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  TRY(batch_evaluate(b, least(D, b->capacity)));
  TRY(be->download(be->st, (size_t)D * sizeof *f, b->fz, f));
  for (int64_t first = 0; first < D; first += b->capacity)
    TRY(tangent_columns(b, true, first, least(D - first, b->capacity), df_dz + first * D));
  return OK;
}

enum status jacobian_differentiate(struct jacobian_session *s, const struct jacobian_point *p,
                                   const struct jacobian_parts *parts)
{
  struct jacobian_batch *b = &s->b;
  int64_t D = parts->D, n = parts->n, S = parts->states, most = D > n ? D : n;
  int64_t tile = least(most, b->capacity);
  TRY(put_point(b, tile, p->u, p->state, p->z));
  TRY(batch_evaluate(b, tile));
  for (int64_t first = 0; first < D; first += tile) {
    int64_t rows = least(D - first, tile);
    TRY(tangent_columns(b, true, first, rows, parts->df_dz + first * D));
    for (int64_t r = 0; r < rows; r++)
      memcpy(parts->dh_dz + (first + r) * n, b->host_state + r * b->extent,
             (size_t)n * sizeof(double));
    for (int64_t l = 0; l < b->w.m.dims.layers; l++)
      TRY(recurrence_tangents(b, l, rows, parts->dLambda_dz + first * S, parts->dv_dz + first * S));
  }
  for (int64_t first = 0; first < n; first += tile) {
    int64_t rows = least(n - first, tile);
    TRY(tangent_columns(b, false, first, rows, parts->df_dh + first * D));
    for (int64_t r = 0; r < rows; r++)
      memcpy(parts->dh_dh + (first + r) * n, b->host_state + r * b->extent,
             (size_t)n * sizeof(double));
  }
  return OK;
}

enum status jacobian_theorem(const struct jacobian_parts *p, const double *state,
                             const struct dense_lu *lu, double *transposed)
{
  int64_t D = p->D, S = p->states, n = p->n;
  double *dz_dh = doubles(n * D), *dh_dz = doubles(D * n);
  if (!dz_dh || !dh_dz) {
    free(dz_dh), free(dh_dz);
    FAIL(ERR_MEMORY, "out of memory: a Jacobian of %lld states", (long long)n);
  }
  memcpy(dz_dh, p->df_dh, (size_t)(n * D) * sizeof(double));
  enum status status = dense_lu_solve(lu, false, n, dz_dh);
  memcpy(dh_dz, p->dh_dz, (size_t)(D * n) * sizeof(double));
  for (int64_t i = 0; i < D; i++)
    for (int64_t k = 0; k < S; k++)
      dh_dz[i * n + k] = p->dLambda_dz[i * S + k] * state[k] + p->dv_dz[i * S + k];
  memcpy(transposed, p->dh_dh, (size_t)(n * n) * sizeof(double));
  if (status == OK)
    status = dense_multiply(lu->library, n, n, D, dz_dh, dh_dz, 1, transposed);
  free(dz_dh), free(dh_dz);
  return status;
}

/* ---- the fixed point ---- */

static double residual_at(const struct jacobian_batch *b, int64_t row)
{
  int64_t D = b->w.m.dims.D;
  double square = 0, reference = 0;
  for (int64_t j = row * D; j < (row + 1) * D; j++) {
    double r = b->host_fz[j] - b->host_z[j];
    square += r * r;
    reference += b->host_fz[j] * b->host_fz[j];
  }
  double residual = square == 0 ? 0 : sqrt(square / reference);
  return residual - residual == 0 ? residual : HUGE_VAL;
}

enum { TRIALS = 12 }; /* step lengths 1, 1/2, 1/4, ... that a line search tries at once */

/* z (D) becomes the best of z + 2^-k direction; *residual is its. */
static enum status line_search(struct jacobian_batch *b, const double *direction, double *z,
                               double *residual)
{
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  size_t bytes = (size_t)(TRIALS * D) * sizeof(double);
  struct fp_active all = {.rows = TRIALS, .blocks = 1};
  for (int64_t i = 0; i < TRIALS * D; i++)
    b->host_z[i] = z[i % D] + ldexp(direction[i % D], -(int)(i / D));
  TRY(be->upload(be->st, bytes, b->host_z, b->z));
  TRY(batch_forward(b, &all, b->z, b->fz));
  TRY(be->download(be->st, bytes, b->fz, b->host_fz));
  *residual = HUGE_VAL;
  for (int64_t k = 0; k < TRIALS; k++) {
    double r = residual_at(b, k);
    if (r < *residual) {
      *residual = r;
      memcpy(z, b->host_z + k * D, (size_t)D * sizeof *z);
    }
  }
  return OK;
}

/* (I - df/dz)^-1 (f(z) - z) */
static enum status newton_direction(struct jacobian_batch *b, const double *z, double *direction,
                                    bool *regular)
{
  int64_t D = b->w.m.dims.D;
  struct dense_lu lu = {0};
  double *df_dz = doubles(D * D);
  enum status s = df_dz ? OK : fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  if (s == OK)
    s = batch_put_rows(b, least(D, b->capacity), D, z, b->z);
  if (s == OK)
    s = differentiate_f(b, df_dz, direction);
  for (int64_t j = 0; s == OK && j < D; j++)
    direction[j] -= z[j];
  if (s == OK)
    s = dense_lu_of_identity_minus(b->w.m.be->dense, D, df_dz, &lu);
  *regular = s == OK && !lu.singular;
  if (*regular)
    s = dense_lu_solve(&lu, false, 1, direction);
  dense_lu_free(&lu);
  free(df_dz);
  return s;
}

/* Newton's method from z, which becomes the best iterate, with its residual. */
static enum status newton(struct jacobian_batch *b, double *z, double *residual, int64_t *steps)
{
  enum { MOST = 60 };
  int64_t D = b->w.m.dims.D;
  double *direction = doubles(2 * D), *next = direction + D;
  enum status s = direction ? OK : fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  *residual = HUGE_VAL;
  for (*steps = 0; s == OK && *steps < MOST; ++*steps) {
    double now = HUGE_VAL;
    bool regular = false;
    s = newton_direction(b, z, direction, &regular);
    memcpy(next, z, (size_t)D * sizeof *z);
    if (s == OK && regular)
      s = line_search(b, direction, next, &now);
    if (s != OK || !(now < *residual))
      break;
    bool slow = now > 0.5 * *residual;
    *residual = now;
    memcpy(z, next, (size_t)D * sizeof *z);
    if (slow && now <= jacobian_floor)
      break;
  }
  free(direction);
  return s;
}

/* Where a search begins: 0: the solver's best iterate from 0; then points of the sphere on which
 * the final norm puts z. */
static enum status start_from(struct jacobian_session *s, int attempt, double *z,
                              struct jacobian_tally *tally)
{
  struct jacobian_batch *b = &s->b;
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  if (attempt > 0) {
    for (int64_t j = 0; j < D; j++) {
      uint32_t word[4];
      philox(s->seed, STREAM_JACOBIAN, 100, (uint32_t)attempt, (uint32_t)j, word);
      z[j] = philox_normal(word);
    }
    return OK;
  }
  be->fill(be->st, D, 0, b->z);
  TRY(batch_solve(b, 1, batch_forward, false, NULL, false, b->z, tally));
  return be->download(be->st, (size_t)D * sizeof *z, b->z, z);
}

enum status jacobian_fixed_point(struct jacobian_session *s, const struct jacobian_point *p,
                                 double *z, struct jacobian_tally *tally, bool *found)
{
  enum { ATTEMPTS = 24 };
  struct jacobian_batch *b = &s->b;
  int64_t D = b->w.m.dims.D, rows = least(D, b->capacity);
  double *guess = doubles(D), best = HUGE_VAL;
  enum status status = guess ? OK : fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  *found = false;
  b->iterate = true;
  if (status == OK)
    status = put_point(b, rows > TRIALS ? rows : TRIALS, p->u, p->state, guess);
  for (int attempt = 0; status == OK && attempt < ATTEMPTS && !*found; attempt++) {
    double residual;
    int64_t steps = 0;
    status = start_from(s, attempt, guess, tally);
    if (status == OK)
      status = newton(b, guess, &residual, &steps);
    if (status != OK || !(residual < best))
      continue;
    best = residual;
    memcpy(z, guess, (size_t)D * sizeof *z);
    tally->polish = steps;
    *found = best <= jacobian_floor;
  }
  free(guess);
  tally->residual = best;
  b->iterate = tally->by_newton == 0;
  return status;
}

const struct dense_library *jacobian_dense(const struct jacobian_session *s)
{
  return s->b.w.m.be->dense;
}

bool jacobian_iterates(const struct jacobian_session *s) { return s->b.iterate; }

enum status jacobian_embed(struct jacobian_session *s, int64_t count, const int32_t *tokens,
                           double *x, double *u)
{
  struct jacobian_batch *b = &s->b;
  const struct sequence_model *m = &b->w.m;
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  CHECK(!u || m->config.kind == MODEL_IMPLICIT);
  for (int64_t first = 0; first < count; first += b->capacity) {
    int64_t n = least(count - first, b->capacity);
    TRY(be->upload(be->st, (size_t)n * sizeof *tokens, tokens + first, b->token));
    embed_fwd(m, &b->w.set[0], n, b->token, NULL, b->z);
    TRY(be->download(be->st, (size_t)(n * d->D) * sizeof *x, b->z, x + first * d->D));
    if (!u)
      continue;
    inject_fwd(m, &b->w.set[0], n, b->z, b->act.r, b->fz, b->u);
    TRY(be->download(be->st, (size_t)(n * d->d_in_proj) * sizeof *u, b->u,
                     u + first * d->d_in_proj));
  }
  return OK;
}

enum status jacobian_advance(struct jacobian_session *s, const struct jacobian_point *p,
                             double *next)
{
  TRY(put_point(&s->b, 1, p->u, p->state, p->z));
  TRY(batch_step(&s->b, 1));
  return batch_get_states(&s->b, 1, &s->b.carried, next);
}

/* ---- adjoint ---- */

/* v -> (df/dz)' v + constant at the activations kept */
static enum status adjoint_map(void *batch, const struct fp_active *a, const DEVICE real *v,
                               DEVICE real *fv)
{
  struct jacobian_batch *b = batch;
  const struct backend *be = b->w.m.be;
  struct span s = batch_span(b, a->rows);
  const struct block_cotangents to = {.z = fv, .z_beta = 1};
  be->axpby(be->st, a->rows * b->w.m.dims.D, 1, b->constant, 0, fv);
  return block_vjp_carried(&b->w.m, &b->w.set[0], &s, &b->act, v, NULL, b->scratch, &to, NULL,
                           NULL);
}

/* Rows first.. of J, from the cotangents e_i of the states that leave. */
static enum status adjoint_rows(struct jacobian_batch *b, const struct dense_lu *lu, int64_t first,
                                int64_t rows, struct jacobian_tally *tally)
{
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  struct span s = batch_span(b, rows);
  const struct block_cotangents constant = {.z = b->constant}, none = {0};
  memset(b->host_state, 0, (size_t)(rows * b->extent) * sizeof *b->host_state);
  TRY(batch_put_states(b, rows, b->host_state, &b->enter));
  identity_rows(rows, first, b->extent, b->extent, b->host_state);
  TRY(batch_put_states(b, rows, b->host_state, &b->leave));
  be->fill(be->st, rows * D, 0, b->z);
  TRY(block_vjp_carried(&b->w.m, &b->w.set[0], &s, &b->act, b->z, &b->leave, b->scratch, &constant,
                        NULL, &b->enter));
  be->axpby(be->st, rows * D, 1, b->constant, 0, b->z);
  TRY(batch_solve(b, rows, adjoint_map, true, lu, true, b->z, tally));
  TRY(block_vjp_carried(&b->w.m, &b->w.set[0], &s, &b->act, b->z, NULL, b->scratch, &none, NULL,
                        &b->enter));
  return batch_get_states(b, rows, &b->enter, b->host_state);
}

enum status jacobian_adjoint(struct jacobian_session *s, const struct jacobian_point *p,
                             const struct dense_lu *lu, double *J, struct jacobian_tally *tally)
{
  struct jacobian_batch *b = &s->b;
  int64_t S = b->states, tile = least(S, b->capacity);
  TRY(put_point(b, tile, p->u, p->state, p->z));
  TRY(batch_evaluate(b, tile));
  for (int64_t first = 0; first < S; first += tile) {
    int64_t rows = least(S - first, tile);
    TRY(adjoint_rows(b, lu, first, rows, tally));
    for (int64_t r = 0; r < rows; r++)
      memcpy(J + (first + r) * S, b->host_state + r * b->extent, (size_t)S * sizeof *J);
  }
  return OK;
}

/* ---- differences ---- */

/* States h + step e_j and h - step e_j, one below the other, after their token. */
static enum status perturbed_pairs(struct jacobian_batch *b, const struct jacobian_point *p,
                                   const struct dense_lu *lu, int64_t pairs, const int64_t *column,
                                   const double *step, struct jacobian_tally *tally)
{
  int64_t D = b->w.m.dims.D, X = b->extent;
  for (int64_t i = 0; i < 2 * pairs * X; i++)
    b->host_state[i] = p->state[i % X];
  for (int64_t k = 0; k < pairs; k++) {
    b->host_state[2 * k * X + column[k]] += step[k];
    b->host_state[(2 * k + 1) * X + column[k]] -= step[k];
  }
  TRY(batch_put_rows(b, 2 * pairs, D, p->z, b->z));
  TRY(batch_put_states(b, 2 * pairs, b->host_state, &b->carried));
  TRY(batch_solve(b, 2 * pairs, batch_forward, false, lu, false, b->z, tally));
  TRY(batch_step(b, 2 * pairs));
  return batch_get_states(b, 2 * pairs, &b->carried, b->host_state);
}

enum status jacobian_differences(struct jacobian_session *s, const struct jacobian_point *p,
                                 const struct dense_lu *lu, int64_t count, const int64_t *column,
                                 const double *step, double *difference,
                                 struct jacobian_tally *tally)
{
  struct jacobian_batch *b = &s->b;
  int64_t S = b->states, X = b->extent, tile = b->capacity / 2;
  TRY(batch_put_input(b, p->u));
  for (int64_t first = 0; first < count; first += tile) {
    int64_t pairs = least(count - first, tile);
    TRY(perturbed_pairs(b, p, lu, pairs, column + first, step + first, tally));
    for (int64_t k = 0; k < pairs; k++) {
      const double *plus = b->host_state + 2 * k * X, *minus = plus + X;
      double h = p->state[column[first + k]], e = step[first + k];
      double apart = (h + e) - (h - e);
      for (int64_t i = 0; i < S; i++)
        difference[(first + k) * S + i] = (plus[i] - minus[i]) / apart;
    }
  }
  return OK;
}
#endif

#if REAL_BITS == 128

/* One token of `rows` rows whose states are in `state`, which receives those after it. */
static enum status complex_token(struct jacobian_batch *b, const struct jacobian_complex *r,
                                 int64_t t, int64_t rows, real *state, struct jacobian_tally *tally)
{
  int64_t D = b->w.m.dims.D, width = b->w.m.dims.d_in_proj;
  TRY(batch_put_input(b, r->u ? r->u + t * width : NULL));
  TRY(batch_put_rows(b, rows, D, r->z + t * D, b->z));
  TRY(batch_put_states(b, rows, state, &b->carried));
  if (r->lu)
    TRY(batch_solve(b, rows, batch_forward, false, &r->lu[t], false, b->z, tally));
  TRY(batch_step(b, rows));
  return batch_get_states(b, rows, &b->carried, state);
}

/* Brings a row's derivative to the size of the step, by a power of two. */
static void rescale(int64_t n, real *state, int *exponent)
{
  double largest = 0;
  int by;
  for (int64_t i = 0; i < n; i++) {
    double size = im(state[i]) < 0 ? -im(state[i]) : im(state[i]);
    largest = size > largest ? size : largest;
  }
  if (largest == 0 || largest - largest != 0) /* zeros, or not finite */
    return;
  (void)frexp(largest / COMPLEX_STEP, &by);
  for (int64_t i = 0; i < n; i++)
    state[i] = CMPLX(re(state[i]), ldexp(im(state[i]), -by));
  *exponent += by;
}

static enum status complex_columns(struct jacobian_batch *b, const struct jacobian_complex *r,
                                   double *transposed, struct jacobian_tally *tally)
{
  int64_t X = b->extent, n = r->n;
  real *state = b->host_state;
  for (int64_t first = 0; first < r->columns; first += b->capacity) {
    int64_t left = r->columns - first, rows = left < b->capacity ? left : b->capacity;
    for (int64_t i = 0; i < rows * X; i++)
      state[i] = CMPLX(r->state[i % X], i % X == r->column[first + i / X] ? COMPLEX_STEP : 0);
    for (int64_t k = 0; r->exponent && k < rows; k++)
      r->exponent[first + k] = 0;
    for (int64_t t = 0; t < r->tokens; t++) {
      TRY(complex_token(b, r, t, rows, state, tally));
      for (int64_t k = 0; r->exponent && k < rows; k++)
        rescale(X, state + k * X, &r->exponent[first + k]);
    }
    for (int64_t k = 0; k < rows; k++)
      for (int64_t i = 0; i < n; i++)
        transposed[(first + k) * n + i] = im(state[k * X + i]) / COMPLEX_STEP;
  }
  return OK;
}

enum status jacobian_complex_step(const struct jacobian_complex *r, double *transposed,
                                  struct jacobian_tally *tally)
{
  struct jacobian_batch b;
  int64_t most = rows_for(&r->c->model) / 2;
  TRY(batch_open(r->c, r->parameters, r->be, r->solver, r->columns < most ? r->columns : most,
                 false, &b));
  b.iterate = r->iterate;
  enum status s = complex_columns(&b, r, transposed, tally);
  batch_close(&b);
  return s;
}
#endif
