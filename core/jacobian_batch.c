/* jacobian_batch.c: see jacobian_batch.h. */
#include "core/jacobian_batch.h"
#include <string.h>

#if REAL_BITS != 32

static struct fp_options options_of(const struct config *c)
{
  struct fp_options o = c->deq.evaluate;
  o.stop = FP_REL;
  o.window = FP_WINDOW_ALL;
  o.tol = c->jacobian.tol;
  o.worst_token = o.stop_together = o.return_last = false;
  o.min_iter = 1;
  return o;
}

/* ---- memory ---- */

static enum status carve(struct jacobian_batch *b, bool differentiate)
{
  const struct model_dims *d = &b->w.m.dims;
  struct arena *dev = &b->device, *host = &b->host;
  int64_t R = b->capacity, ssm = d->H * d->P * d->N, conv = d->conv_dim * d->W;
  TRY(CARVE(dev, R * d->d_in_proj, &b->u));
  TRY(CARVE(dev, R * d->D, &b->z));
  TRY(CARVE(dev, R * d->D, &b->fz));
  TRY(CARVE(dev, R * d->D, &b->constant));
  TRY(CARVE(dev, R, &b->one));
  TRY(CARVE(dev, R, &b->token));
  TRY(activations_carve(&b->w.m, R, 1, true, dev, host, &b->act));
  TRY(CARVE(host, d->layers, &b->solving.layer));
  TRY(carried_states_carve(&b->w.m, R, dev, host, &b->carried));
  if (differentiate) {
    TRY(activations_carve(&b->w.m, R, 1, false, dev, host, &b->tangent));
    TRY(carried_states_carve(&b->w.m, R, dev, host, &b->enter));
    TRY(carried_states_carve(&b->w.m, R, dev, host, &b->leave));
  }
  TRY(CARVE(host, R * d->D, &b->host_z));
  TRY(CARVE(host, R * d->D, &b->host_fz));
  TRY(CARVE(host, R * d->D, &b->host_guess));
  TRY(CARVE(host, R * d->D, &b->host_best));
  TRY(CARVE(host, R * (ssm > conv ? ssm : conv), &b->host_layer));
  TRY(CARVE(host, R * b->extent, &b->host_state));
  TRY(CARVE(host, 4 * R, &b->host_square));
  TRY(CARVE(host, R, &b->host_residual));
  TRY(CARVE(host, R, &b->host_reached));
  TRY(CARVE(host, R, &b->host_exit));
  TRY(CARVE(host, R, &b->host_one));
  if (host->base) {
    struct layer_activations *layer = b->solving.layer;
    memcpy(layer, b->act.layer, (size_t)d->layers * sizeof *layer);
    b->solving = b->act;
    b->solving.layer = layer;
    b->solving.forgotten = true;
    for (int64_t i = 0; i < d->layers; i++)
      layer[i].S = NULL;
  }
  return OK;
}

/* The solver's scratch, and f's and its derivatives' behind it. */
static enum status measure_scratch(struct jacobian_batch *b, bool differentiate,
                                   struct scratch scratch)
{
  struct sequence_model dry = b->w.m;
  size_t device = 0, host = 0;
  struct scratch measure = {arena_measure(&device), arena_measure(&host)};
  struct span s = batch_span(b, b->capacity);
  const struct parameter_set *p = &b->w.set[0];
  struct backend nothing = backend_dry_of(b->w.m.be);
  dry.be = &nothing;
  TRY(b->solver->plan(b->capacity, 1, dry.dims.D, &b->options, measure));
  scratch.device.used += device;
  scratch.host.used += host;
  DEVICE char *end;
  TRY(CARVE(&scratch.device, 1, &end)); /* the solver alone may be the peak */
  TRY(CARVE(&scratch.host, 1, &end));
  TRY(block_fwd(&dry, p, &s, b->z, &b->act, scratch, b->fz));
  if (!differentiate)
    return OK;
  TRY(block_jvp(&dry, p, &s, &b->act, b->z, &b->enter, scratch, &b->tangent, &b->leave, b->fz));
  const struct block_cotangents to = {.z = b->fz, .z_beta = 1};
  return block_vjp_carried(&dry, p, &s, &b->act, b->z, &b->leave, scratch, &to, NULL, &b->enter);
}

/* Host tables in real memory, the device measured; then the device in real memory too. */
static enum status plan_memory(struct jacobian_batch *b, bool differentiate)
{
  struct jacobian_batch n = *b;
  size_t device = 0, host = 0, most = 0;
  void *block;
  n.device = arena_measure(&device);
  n.host = arena_measure(&host);
  TRY(carve(&n, differentiate));
  struct scratch measure = {arena_measure(&device), arena_measure(&most)};
  TRY(b->solver->plan(b->capacity, 1, b->w.m.dims.D, &b->options, measure));
  TRY(arena_init(&b->host, host + most + 4096));
  n.device = arena_measure(&device);
  n.host = b->host;
  TRY(carve(&n, differentiate));
  TRY(measure_scratch(&n, differentiate, (struct scratch){n.device, n.host}));
  TRY(b->w.m.be->memory_alloc(device, &block));
  b->device = arena_over(block, device);
  TRY(carve(b, differentiate));
  b->scratch = (struct scratch){b->device, b->host};
  return OK;
}

static enum status fill_parameters(struct jacobian_batch *b, const double *parameters)
{
  struct arena host;
  TRY(arena_init(&host, (size_t)b->w.tensors.block * sizeof(real) + 256));
  enum status s = parameters_upload(&b->w.m, parameters, host, &b->w.set[0]);
  arena_free(&host);
  for (int64_t r = 0; r < b->capacity; r++)
    b->host_one[r] = 1;
  if (s == OK)
    s = b->w.m.be->upload(b->w.m.be->st, (size_t)b->capacity * sizeof *b->host_one, b->host_one,
                          b->one);
  return s;
}

enum status batch_open(const struct config *c, const double *parameters, const struct backend *be,
                       const struct solver_port *solver, int64_t rows, bool differentiate,
                       struct jacobian_batch *b)
{
  struct jacobian_sizes size = jacobian_sizes(&c->model);
  *b = (struct jacobian_batch){.solver = solver, .options = options_of(c), .capacity = rows};
  b->states = size.states, b->extent = size.extent, b->inputs = size.extent - size.states;
  b->iterate = true;
  TRY(weights_open(&c->model, be, 1, &b->w));
  enum status s = plan_memory(b, differentiate);
  if (s == OK)
    s = fill_parameters(b, parameters);
  if (s != OK)
    batch_close(b);
  return s;
}

void batch_close(struct jacobian_batch *b)
{
  if (b->device.base)
    b->w.m.be->memory_free(b->device.base);
  b->device = (struct arena){0};
  arena_free(&b->host);
  weights_close(&b->w);
}

/* ---- what goes in and out ---- */

enum status batch_put_rows(struct jacobian_batch *b, int64_t rows, int64_t n, const double *row,
                           DEVICE real *to)
{
  const struct backend *be = b->w.m.be;
  real one[256];
  CHECK(rows <= b->capacity);
  for (int64_t first = 0; first < n; first += 256) {
    int64_t count = n - first < 256 ? n - first : 256;
    for (int64_t j = 0; j < count; j++)
      one[j] = (real)row[first + j];
    TRY(be->upload(be->st, (size_t)count * sizeof *one, one, to + first));
  }
  for (int64_t r = 1; r < rows; r++)
    be->axpby(be->st, n, 1, to, 0, to + r * n);
  return OK;
}

enum status batch_put_input(struct jacobian_batch *b, const double *u)
{
  b->injected = u != NULL;
  return u ? batch_put_rows(b, b->capacity, b->w.m.dims.d_in_proj, u, b->u) : OK;
}

enum status batch_put_states(struct jacobian_batch *b, int64_t rows, const real *state,
                             const struct carried_states *to)
{
  const struct backend *be = b->w.m.be;
  const struct model_dims *d = &b->w.m.dims;
  int64_t ssm = d->H * d->P * d->N, taps = d->W - 1, conv = d->conv_dim * taps;
  real *staged = b->host_layer;
  for (int64_t l = 0; l < d->layers; l++) {
    for (int64_t r = 0; r < rows; r++)
      memcpy(staged + r * ssm, state + r * b->extent + l * ssm, (size_t)ssm * sizeof *staged);
    TRY(be->upload(be->st, (size_t)(rows * ssm) * sizeof *staged, staged, to->ssm[l]));
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < d->conv_dim; k++) {
        const real *from = state + r * b->extent + b->states + l * conv + k * taps;
        real *column = staged + (r * d->conv_dim + k) * d->W;
        column[0] = 0;
        for (int64_t j = 0; j < taps; j++)
          column[j + 1] = from[j];
      }
    TRY(be->upload(be->st, (size_t)(rows * d->conv_dim * d->W) * sizeof *staged, staged,
                   to->conv[l]));
  }
  return OK;
}

enum status batch_get_states(struct jacobian_batch *b, int64_t rows,
                             const struct carried_states *from, real *state)
{
  const struct backend *be = b->w.m.be;
  const struct model_dims *d = &b->w.m.dims;
  int64_t ssm = d->H * d->P * d->N, taps = d->W - 1, conv = d->conv_dim * taps;
  real *staged = b->host_layer;
  for (int64_t l = 0; l < d->layers; l++) {
    TRY(be->download(be->st, (size_t)(rows * ssm) * sizeof *staged, from->ssm[l], staged));
    for (int64_t r = 0; r < rows; r++)
      memcpy(state + r * b->extent + l * ssm, staged + r * ssm, (size_t)ssm * sizeof *staged);
    TRY(be->download(be->st, (size_t)(rows * d->conv_dim * d->W) * sizeof *staged, from->conv[l],
                     staged));
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < d->conv_dim; k++)
        for (int64_t j = 0; j < taps; j++)
          state[r * b->extent + b->states + l * conv + k * taps + j] =
              staged[(r * d->conv_dim + k) * d->W + j + 1];
  }
  return OK;
}

/* ---- f ---- */

struct span batch_span(const struct jacobian_batch *b, int64_t rows)
{
  return (struct span){
      .rows = rows, .T = 1, .length = 1, .u = b->injected ? b->u : NULL, .carried = &b->carried};
}

enum status batch_evaluate(struct jacobian_batch *b, int64_t rows)
{
  struct span s = batch_span(b, rows);
  return block_fwd(&b->w.m, &b->w.set[0], &s, b->z, &b->act, b->scratch, b->fz);
}

enum status batch_step(struct jacobian_batch *b, int64_t rows)
{
  struct span s = batch_span(b, rows);
  TRY(block_fwd(&b->w.m, &b->w.set[0], &s, b->z, &b->solving, b->scratch, b->fz));
  block_advance(&b->w.m, &b->w.set[0], &s, &b->solving, b->one, &b->carried);
  return OK;
}

enum status batch_forward(void *batch, const struct fp_active *a, const DEVICE real *z,
                          DEVICE real *fz)
{
  struct jacobian_batch *b = batch;
  struct span s = batch_span(b, a->rows);
  if (!a->whole)
    s.row = a->row, s.first = a->first, s.count = a->count;
  return block_fwd(&b->w.m, &b->w.set[0], &s, z, &b->solving, b->scratch, fz);
}

/* ---- solving ---- */

/* Relative residual of each row, of its real and of its imaginary part; each part relative to the
 * largest of the batch, so that a row whose derivative all but vanishes is not asked for digits
 * that the matrix does not show. */
static double measure(struct jacobian_batch *b, int64_t rows)
{
  int64_t D = b->w.m.dims.D;
  double largest[2] = {0, 0}, worst = 0;
  for (int64_t i = 0; i < rows; i++) {
    double *q = b->host_square + 4 * i;
    q[0] = q[1] = q[2] = q[3] = 0;
    for (int64_t j = i * D; j < (i + 1) * D; j++) {
      real fz = b->host_fz[j], r = fz - b->host_z[j];
      q[0] += re(r) * re(r);
      q[1] += re(fz) * re(fz);
#if REAL_BITS == 128
      q[2] += im(r) / COMPLEX_STEP * (im(r) / COMPLEX_STEP);
      q[3] += im(fz) / COMPLEX_STEP * (im(fz) / COMPLEX_STEP);
#endif
    }
    largest[0] = q[1] > largest[0] ? q[1] : largest[0];
    largest[1] = q[3] > largest[1] ? q[3] : largest[1];
  }
  for (int64_t i = 0; i < rows; i++) {
    const double *q = b->host_square + 4 * i;
    double real_part = q[0] == 0 ? 0 : sqrt(q[0] / largest[0]);
    double imaginary = q[2] == 0 ? 0 : sqrt(q[2] / largest[1]);
    double sum = real_part + imaginary; /* a NaN stays */
    b->host_residual[i] = sum - sum == 0 ? sum : HUGE_VAL;
    worst = b->host_residual[i] > worst ? b->host_residual[i] : worst;
  }
  return worst;
}

/* host_z += A^-1 (host_fz - host_z) */
static enum status correct(struct jacobian_batch *b, int64_t rows, const struct dense_lu *lu,
                           bool transpose)
{
  int64_t n = rows * b->w.m.dims.D;
  double *delta = (double *)b->host_guess; /* has room for both parts, one after the other */
  for (int64_t i = 0; i < n; i++)
    delta[i] = re(b->host_fz[i]) - re(b->host_z[i]);
#if REAL_BITS == 128
  for (int64_t i = 0; i < n; i++)
    delta[n + i] = im(b->host_fz[i]) - im(b->host_z[i]);
  TRY(dense_lu_solve(lu, transpose, 2 * rows, delta));
  for (int64_t i = 0; i < n; i++)
    b->host_z[i] += CMPLX(delta[i], delta[n + i]);
#else
  TRY(dense_lu_solve(lu, transpose, rows, delta));
  for (int64_t i = 0; i < n; i++)
    b->host_z[i] += delta[i];
#endif
  return OK;
}

/* ||a - b|| of a row's real parts; b NULL: ||a|| */
static double distance(int64_t n, const real *a, const real *b)
{
  double sum = 0;
  for (int64_t j = 0; j < n; j++) {
    double d = re(a[j]) - (b ? re(b[j]) : 0);
    sum += d * d;
  }
  return sqrt(sum);
}

/* How far a row's fixed point is from its guess, to first order: the length of Newton's first step,
 * in host_reached. */
static enum status first_steps(struct jacobian_batch *b, int64_t rows, jacobian_map_fn *map,
                               const struct dense_lu *lu, bool transpose, DEVICE real *z)
{
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  size_t bytes = (size_t)(rows * D) * sizeof(real);
  struct fp_active all = {.rows = rows, .blocks = 1};
  TRY(map(b, &all, z, b->fz));
  TRY(be->download(be->st, bytes, z, b->host_z));
  TRY(be->download(be->st, bytes, b->fz, b->host_fz));
  memcpy(b->host_best, b->host_z, bytes);
  TRY(correct(b, rows, lu, transpose));
  for (int64_t i = 0; i < rows; i++)
    b->host_reached[i] = distance(D, b->host_z + i * D, b->host_best + i * D);
  return OK;
}

/* Whether a row's answer is the fixed point that was meant: solvers may leave it for another, where
 * f is no contraction. */
static bool stays(const struct jacobian_batch *b, int64_t i)
{
  enum { TIMES = 2 };
  int64_t D = b->w.m.dims.D;
  const real *guess = b->host_guess + i * D;
  return distance(D, b->host_z + i * D, guess) <=
         TIMES * b->host_reached[i] + 1e-6 * distance(D, guess, NULL);
}

/* By the solver; rows that it does not bring to its tolerance, or (near: first_steps) to another
 * fixed point, go back to their guess. */
static enum status iterate(struct jacobian_batch *b, int64_t rows, jacobian_map_fn *map,
                           bool fixed_rows, bool near, DEVICE real *z, struct jacobian_tally *t)
{
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  size_t bytes = (size_t)(rows * D) * sizeof(real), device = 0, host = 0;
  struct fp_problem p = {.rows = rows, .length = 1, .n = D};
  p.fixed_rows = fixed_rows, p.capturable = true, p.ctx = b, p.f = map;
  struct fp_result r = {.exit = b->host_exit};
  const struct scratch free = b->scratch;
  struct scratch measure = {arena_measure(&device), arena_measure(&host)};
  TRY(be->download(be->st, bytes, z, b->host_guess));
  TRY(b->solver->plan(rows, 1, D, &b->options, measure));
  b->scratch.device.used += device;
  b->scratch.host.used += host;
  enum status s = b->solver->solve(be, &p, &b->options, free, z, &r);
  b->scratch = free;
  TRY(s);
  t->iterations = r.max_iterations > t->iterations ? r.max_iterations : t->iterations;
  TRY(be->download(be->st, bytes, z, b->host_z));
  for (int64_t i = 0; i < rows; i++) {
    if (b->host_exit[i] == FP_CONVERGED && (!near || stays(b, i)))
      continue;
    memcpy(b->host_z + i * D, b->host_guess + i * D, (size_t)D * sizeof(real));
    t->by_newton++;
  }
  return be->upload(be->st, bytes, b->host_z, z);
}

/* Newton with the derivative of one point, until no row gains. */
static enum status polish(struct jacobian_batch *b, int64_t rows, jacobian_map_fn *map,
                          const struct dense_lu *lu, bool transpose, DEVICE real *z,
                          struct jacobian_tally *t)
{
  enum { MOST = 40, PATIENCE = 2 };
  const struct backend *be = b->w.m.be;
  int64_t D = b->w.m.dims.D;
  size_t bytes = (size_t)(rows * D) * sizeof(real), one = (size_t)D * sizeof(real);
  struct fp_active all = {.rows = rows, .blocks = 1};
  for (int64_t i = 0; i < rows; i++)
    b->host_reached[i] = HUGE_VAL;
  TRY(be->download(be->st, bytes, z, b->host_z));
  memcpy(b->host_best, b->host_z, bytes);
  for (int64_t k = 0, idle = 0; k < MOST && idle < PATIENCE; k++) {
    TRY(map(b, &all, z, b->fz));
    TRY(be->download(be->st, bytes, b->fz, b->host_fz));
    (void)measure(b, rows);
    idle++;
    for (int64_t i = 0; i < rows; i++) {
      if (!(b->host_residual[i] < b->host_reached[i]))
        continue;
      idle = b->host_residual[i] < 0.5 * b->host_reached[i] ? 0 : idle;
      b->host_reached[i] = b->host_residual[i];
      memcpy(b->host_best + i * D, b->host_z + i * D, one);
    }
    t->polish = idle == 0 && k > t->polish ? k : t->polish;
    TRY(correct(b, rows, lu, transpose));
    TRY(be->upload(be->st, bytes, b->host_z, z));
  }
  for (int64_t i = 0; i < rows; i++)
    t->residual = b->host_reached[i] > t->residual ? b->host_reached[i] : t->residual;
  return be->upload(be->st, bytes, b->host_best, z);
}

enum status batch_solve(struct jacobian_batch *b, int64_t rows, jacobian_map_fn *map,
                        bool fixed_rows, const struct dense_lu *lu, bool transpose, DEVICE real *z,
                        struct jacobian_tally *tally)
{
  tally->solves += rows;
  if (b->iterate && lu)
    TRY(first_steps(b, rows, map, lu, transpose, z));
  if (b->iterate)
    TRY(iterate(b, rows, map, fixed_rows, lu != NULL, z, tally));
  else
    tally->by_newton += rows;
  return lu ? polish(b, rows, map, lu, transpose, z, tally) : OK;
}
#endif
