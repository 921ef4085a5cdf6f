/* solve.c: the loop that every method shares: evaluate, measure, decide, step, retire, compact.
 * See solve.h for what it promises. */
#include "solvers/solve.h"
#include "solvers/samples.h"
#include <string.h>

struct solver {
  const struct backend *be;
  const struct fp_problem *p;
  struct fp_options o; /* auto is resolved */
  const struct fp_method *method;
  struct fp_samples s;
  struct fp_memory memory;
  struct fp_decision d;
  DEVICE int32_t *live, *source; /* (rows) not finished; compaction: which packed row moves here */
  DEVICE int64_t *counters;
  int32_t *host_live, *host_source;
  int32_t *host_iterations; /* total */
  double *host_residual;
  uint8_t *host_exit;
  DEVICE real *z; /* the caller's (problem rows,length,n) */
  /* of iterations on iterated_rows, by the places of their arrays; NULL: none yet */
  const struct captured *graph[SAMPLES_TRADES];
  int trades;            /* so far, modulo SAMPLES_TRADES */
  int64_t iterated_rows; /* of the last iteration; 0: there was none */
};

static const struct fp_method *method_of(enum fp_solver solver)
{
  static const struct fp_method *const methods[FP_SOLVERS] = {&picard, &anderson, &broyden, &gmres,
                                                              NULL};
  CHECK((int)solver >= 0 && solver < FP_SOLVERS && methods[solver]);
  return methods[solver];
}

static enum status carve(struct scratch *a, int64_t rows, int64_t length, int64_t n,
                         const struct fp_options *o, struct solver *v)
{
  struct fp_samples *s = &v->s;
  struct arena *dev = &a->device, *host = &a->host;
  v->o = fp_choose(o, length);
  v->method = method_of(v->o.solver);
  bool all = v->o.window == FP_WINDOW_ALL;
  int64_t total = all ? rows : rows * length;
  s->rows = rows;
  s->blocks = all || v->o.window > length ? length : v->o.window;
  s->n = n;
  s->per_row = all ? 1 : s->blocks;
  TRY(samples_carve(dev, s));
  TRY(CARVE(dev, rows, &v->d.lengths));
  TRY(CARVE(dev, 1, &v->d.unconverged));
  TRY(CARVE(dev, rows, &v->source));
  TRY(CARVE(dev, rows, &v->live));
  TRY(CARVE(dev, FP_COUNTERS, &v->counters));
  TRY(CARVE(dev, total, &v->d.iterations));
  TRY(CARVE(dev, total, &v->d.residual));
  TRY(CARVE(dev, total, &v->d.exit));
  if (o->trace)
    TRY(CARVE(dev, total * o->max_iter, &v->d.trace));
  TRY(CARVE(host, rows, &v->host_live));
  TRY(CARVE(host, rows, &v->host_source));
  TRY(CARVE(host, total, &v->host_iterations));
  TRY(CARVE(host, total, &v->host_residual));
  TRY(CARVE(host, total, &v->host_exit));
  return v->method->carve ? v->method->carve(dev, s, &v->o, &v->memory) : OK;
}

enum status fp_plan(int64_t rows, int64_t length, int64_t n, const struct fp_options *o,
                    struct scratch scratch)
{
  struct solver v;
  memset(&v, 0, sizeof v);
  return carve(&scratch, rows, length, n, o, &v);
}

static void write_back(const struct solver *v, const DEVICE int32_t *count)
{
  const struct fp_samples *s = &v->s;
  v->be->scatter_blocks(v->be->st, s->rows, s->blocks, s->n, v->p->length, s->row, s->first, count,
                        s->z, v->z);
}

static void finish_rows(struct solver *v)
{
  samples_record(v->be->st, &v->s, &v->d);
  write_back(v, v->s.count);
}

/* Looks at the flags: how many rows go on?  Drops the finished ones when enough have finished. */
static enum status poll(struct solver *v, bool *done)
{
  stream st = v->be->st;
  struct fp_samples *s = &v->s;
  samples_live(st, s, v->d.all, v->live);
  TRY(v->be->download(st, (size_t)s->rows * sizeof *v->host_live, v->live, v->host_live));
  int64_t running = 0;
  for (int64_t r = 0; r < s->rows; r++)
    if (v->host_live[r])
      v->host_source[running++] = (int32_t)r;
  *done = running == 0;
  if (*done || v->p->fixed_rows || running * 8 > s->rows * 7)
    return OK;
  if (v->d.all)
    finish_rows(v);
  TRY(v->be->upload(st, (size_t)running * sizeof *v->host_source, v->host_source, v->source));
  samples_pack(st, s, running, v->source);
  return OK;
}

static void trade(struct solver *v)
{
  samples_trade(&v->s);
  v->trades = (v->trades + 1) % SAMPLES_TRADES;
}

static enum status iterate(struct solver *v)
{
  stream st = v->be->st;
  struct fp_samples *s = &v->s;
  const struct fp_measure measure = {v->o.damping, s->square, s->reference};
  struct fp_active a = {s->rows, s->blocks, s->row, s->first, s->count, false, NULL};
  bool steps = v->method->trades && v->p->measures && v->o.stop != FP_MAX; /* f, on its way */
  a.whole = v->d.all && s->rows == v->p->rows; /* dropping some keeps their order */
  a.measure = steps ? &measure : NULL;
  TRY(v->p->f(v->p->ctx, &a, s->z, s->fz));
  if (!steps)
    samples_measure(st, s, v->o.stop == FP_MAX);
  samples_decide(st, s, &v->d);
  if (!v->method->trades)
    samples_keep(st, s);
  struct fp_options o = v->o;
  o.damping = steps ? 1 : o.damping;
  v->method->step(st, s, &o, &v->memory);
  if (v->method->trades)
    trade(v);
  else
    samples_replay(st, s);
  if (!v->d.all) {
    if (v->p->retire)
      TRY(v->p->retire(v->p->ctx, &a, s->retired));
    write_back(v, s->retired);
    samples_slide(st, s, &v->d, v->z);
  }
  return OK;
}

/* No graph of what was enqueued so far is wanted any more. */
static void forget_graphs(struct solver *v)
{
  v->be->release_captured(v->be->st);
  memset(v->graph, 0, sizeof v->graph);
}

/* Captures an iteration, without running it; *graph is NULL where that is refused. */
static enum status capture(struct solver *v, const struct captured **graph)
{
  const struct backend *be = v->be;
  const struct fp_samples s = v->s;
  const int trades = v->trades;
  *graph = NULL;
  if (!be->capture_begin(be->st))
    return OK;
  enum status status = iterate(v);
  v->s = s, v->trades = trades;
  *graph = be->capture_end(be->st);
  return *graph ? status : OK;
}

/* An iteration enqueues the same work as long as no row is dropped and its arrays have the same
 * places.  The first runs as it is (what a device and its libraries load at a first call cannot be
 * captured); those behind it are captured where they are the first with these places, and replayed
 * as themselves and for those that follow. */
static enum status iterate_captured(struct solver *v)
{
  const struct captured **graph = &v->graph[v->trades];
  if (v->iterated_rows != v->s.rows) {
    v->iterated_rows = v->s.rows;
    forget_graphs(v);
    return iterate(v);
  }
  if (!*graph)
    TRY(capture(v, graph));
  if (!*graph)
    return iterate(v);
  v->be->replay(v->be->st, *graph);
  if (v->method->trades)
    trade(v);
  return OK;
}

static enum status download_answer(struct solver *v, int64_t total, struct fp_result *result)
{
  const struct backend *be = v->be;
  stream st = be->st;
  samples_count(st, &v->s, v->counters);
  TRY(be->download(st, sizeof result->counters, v->counters, result->counters));
  TRY(be->download(st, (size_t)total * sizeof(int32_t), v->d.iterations, v->host_iterations));
  TRY(be->download(st, (size_t)total * sizeof(double), v->d.residual, v->host_residual));
  TRY(be->download(st, (size_t)total * sizeof(uint8_t), v->d.exit, v->host_exit));
  if (v->d.trace && result->trace)
    TRY(be->download(st, (size_t)(total * v->o.max_iter) * sizeof(double), v->d.trace,
                     result->trace));
  if (result->iterations)
    memcpy(result->iterations, v->host_iterations, (size_t)total * sizeof(int32_t));
  if (result->residual)
    memcpy(result->residual, v->host_residual, (size_t)total * sizeof(double));
  if (result->exit)
    memcpy(result->exit, v->host_exit, (size_t)total * sizeof(uint8_t));
  return OK;
}

static enum status answer(struct solver *v, struct fp_result *result)
{
  int64_t length = v->p->length, total = v->d.all ? v->p->rows : v->p->rows * length;
  TRY(download_answer(v, total, result));
  double sum = 0;
  for (int64_t i = 0; i < total; i++) {
    int64_t k = v->host_iterations[i], row = v->d.all ? i : i / length;
    int64_t blocks = v->p->lengths ? v->p->lengths[row] : length;
    if (v->host_exit[i] == FP_RUNNING) /* padding */
      continue;
    result->samples++;
    result->exits[v->host_exit[i]]++;
    result->block_evaluations += v->d.all ? k * blocks : k;
    result->max_iterations = k > result->max_iterations ? k : result->max_iterations;
    double r = v->host_residual[i];
    result->worst_residual = worse_of(result->worst_residual, r);
    sum += (double)k;
  }
  result->mean_iterations = result->samples ? sum / (double)result->samples : 0;
  return OK;
}

KERNEL clear_outcome(struct fp_decision d, int64_t total)
{
  FOR_EACH_COST (i, total, d.trace ? d.max_iter : 1) {
    d.iterations[i] = 0;
    d.residual[i] = 0;
    d.exit[i] = FP_RUNNING;
    for (int64_t k = 0; d.trace && k < d.max_iter; k++)
      d.trace[i * d.max_iter + k] = 0;
  }
}

/* A damped step goes so much of the way: steps until less than half of it is left. */
static int64_t evaluations_to_half(double damping)
{
  int64_t steps = 1;
  for (double left = 1 - damping; left >= 0.5 && steps < 64; steps++)
    left *= 1 - damping;
  return steps;
}

static enum status start(struct solver *v, struct fp_result *result)
{
  const struct fp_problem *p = v->p;
  const struct fp_options *o = &v->o;
  stream st = v->be->st;
  struct fp_result arrays = *result;
  memset(result, 0, sizeof *result);
  result->iterations = arrays.iterations, result->residual = arrays.residual;
  result->exit = arrays.exit, result->trace = arrays.trace;
  struct fp_decision *d = &v->d;
  d->tol = o->tol, d->max_iter = o->max_iter, d->min_iter = o->min_iter, d->stop = (int)o->stop;
  d->all = o->window == FP_WINDOW_ALL, d->worst_token = o->worst_token;
  d->admit = o->admit > 0 ? o->admit : v->s.blocks;
  d->wait = o->admit > 0 ? evaluations_to_half(o->damping) : 1;
  d->stop_together = o->stop_together, d->return_last = o->return_last, d->length = p->length;
  d->divergence = o->divergence, d->patience = o->patience, d->floor = 16 * EPSILON;
  for (int64_t r = 0; r < p->rows; r++) {
    v->host_live[r] = p->lengths ? p->lengths[r] : (int32_t)p->length;
    CHECK(v->host_live[r] >= 0 && v->host_live[r] <= p->length);
  }
  TRY(v->be->upload(st, (size_t)p->rows * sizeof(int32_t), v->host_live, d->lengths));
  samples_begin(st, &v->s, d, v->z);
  int64_t total = d->all ? p->rows : p->rows * p->length;
  LAUNCH(st, total, clear_outcome, *d, total);
  return OK;
}

/* Rows that did not end in good order, or found nothing, have no inverse. */
KERNEL drop_unsound(struct fp_inverse h, const uint8_t *exit, bool known)
{
  FOR_EACH_COST (r, h.rows, 1) {
    bool sound = exit[r] == FP_CONVERGED || exit[r] == FP_MAX_ITER || exit[r] == FP_STAGNATED;
    if (!known || !sound || h.count[r] <= 0)
      h.count[r] = -1;
  }
}

static void leave_inverse(const struct solver *v, struct fp_inverse *h)
{
  bool known = v->d.all && v->method->inverse;
  memset(h, 0, sizeof *h);
  h->rows = v->p->rows, h->length = v->p->length, h->n = v->p->n;
  h->lengths = v->d.lengths;
  h->count = v->live;
  h->fallen = v->d.unconverged;
  if (known)
    v->method->inverse(v->be->st, &v->s, &v->o, &v->memory, h);
  LAUNCH(v->be->st, h->rows, drop_unsound, *h, v->d.exit, known);
}

enum status fp_solve(const struct backend *be, const struct fp_problem *p,
                     const struct fp_options *o, struct scratch scratch, DEVICE real *z,
                     struct fp_result *result)
{
  struct solver v;
  memset(&v, 0, sizeof v);
  CHECK(p->rows > 0 && p->length > 0 && p->n > 0 && o->max_iter > 0);
  v.be = be, v.p = p, v.z = z;
  TRY(carve(&scratch, p->rows, p->length, p->n, o, &v));
  TRY(start(&v, result));
  int64_t every = o->poll_every > 1 ? o->poll_every : 1, most = o->max_iter + 1; /* and a replay */
  every = every < most ? every : most;
  bool captured = p->capturable && be->capture_begin;
  for (bool done = false; !done;) {
    for (int64_t k = 0; k < every; k++) {
      TRY(captured ? iterate_captured(&v) : iterate(&v));
      result->evaluations++;
    }
    TRY(poll(&v, &done));
  }
  if (captured)
    forget_graphs(&v);
  if (v.d.all)
    finish_rows(&v);
  if (p->inverse)
    leave_inverse(&v, p->inverse);
  return answer(&v, result);
}

extern const struct solver_port OP(fixed_point_solvers);
const struct solver_port OP(fixed_point_solvers) = {fp_solve, fp_plan, fp_transpose};
