/* network.c: memory of a model at work on batches, its loss, and evaluating.  Learning: learning.c;
 * see network.h. */
#include "core/network.h"
#include <string.h>

/* ---- memory ---- */

static int64_t steps_of(const struct deq_config *deq, bool learn, enum model_kind kind)
{
  if (!learn || kind == MODEL_EXPLICIT)
    return 1;
  int64_t steps =
      deq->unroll_iterations > deq->phantom_steps ? deq->unroll_iterations : deq->phantom_steps;
  int64_t least = deq->regularisation.weight > 0 ? 2 : 1; /* f at z + e w and at z - e w */
  return steps > least ? steps : least;
}

int64_t correction_states(const struct deq_config *deq)
{
  int64_t states = deq->correction.states, most = deq->forward.max_iter;
  return states < most ? states : most;
}

/* Whether a forward solve's inverse may be wanted behind it. */
static bool keeps_inverse(const struct network *net)
{
  const struct deq_config *deq = net->deq;
  return net->learn && (deq->gradient == GRADIENT_SHINE || deq->guess_shine);
}

/* Outputs that have a loss. */
static int64_t states_of(const struct network *net)
{
  return net->learn && net->m->config.kind == MODEL_IMPLICIT ? correction_states(net->deq) : 1;
}

static enum status carve_learning(struct network *net, int64_t M)
{
  const struct model_dims *d = &net->m->dims;
  struct arena *dev = &net->device;
  TRY(CARVE(dev, M * d->V, &net->logitsb));
  TRY(CARVE(dev, M * d->D, &net->zb));
  TRY(CARVE(dev, M * d->D, &net->fb));
  TRY(CARVE(dev, M * d->d_in_proj, &net->ub));
  TRY(CARVE(dev, M * d->D, &net->eb));
  TRY(CARVE(dev, 1, &net->sum));
  int64_t states = states_of(net);
  TRY(CARVE(&net->host, M, &net->host_losses));
  TRY(CARVE(&net->host, states, &net->states));
  for (int64_t k = 0; states > 1 && k < states; k++) {
    DEVICE real *z;
    TRY(CARVE(dev, M * d->D, &z));
    if (net->host.base)
      net->states[k] = z;
  }
  if (net->m->config.dropout > 0) {
    TRY(CARVE(dev, M * d->D, &net->keep));
    TRY(dropout_masks_carve(net->m, net->rows, dev, &net->masks));
  }
  return OK;
}

/* Whether the states that enter chunks are kept: for several chunks' derivatives, and windows of
 * the adjoint begin at them. */
static bool keeps_states(const struct network *net)
{
  struct fp_options backward = fp_choose(&net->deq->backward, net->length);
  bool windows = net->m->config.kind == MODEL_IMPLICIT && backward.window != FP_WINDOW_ALL;
  return net->learn && (windows || !ssd_one_chunk(net->m, net->length));
}

static enum status carve(struct network *net)
{
  const struct model_dims *d = &net->m->dims;
  struct arena *dev = &net->device, *host = &net->host;
  int64_t M = net->rows * net->length;
  TRY(CARVE(dev, M, &net->tokens));
  TRY(CARVE(dev, M, &net->labels));
  TRY(CARVE(dev, M, &net->best));
  TRY(CARVE(dev, M * d->D, &net->e));
  TRY(CARVE(dev, M, &net->er));
  TRY(CARVE(dev, M * d->D, &net->en));
  TRY(CARVE(dev, M * d->d_in_proj, &net->u));
  TRY(CARVE(host, net->steps + 1, &net->z));
  TRY(CARVE(host, net->steps, &net->acts));
  for (int64_t k = 0; k < net->steps; k++) {
    struct activations a;
    TRY(activations_carve(net->m, net->rows, net->length, keeps_states(net), dev, host, &a));
    if (!host->base)
      continue;
    net->acts[k] = a;
    net->z[k] = net->acts[k].layer[0].x;
  }
  DEVICE real *last;
  TRY(CARVE(dev, M * d->D, &last));
  if (host->base)
    net->z[net->steps] = last;
  /* the solver's evaluations keep nothing: they may use the first step's memory */
  TRY(CARVE(host, d->layers, &net->solving.layer));
  if (host->base) {
    struct layer_activations *layer = net->solving.layer;
    net->solving = net->acts[0];
    memcpy(layer, net->acts[0].layer, (size_t)d->layers * sizeof *layer);
    net->solving.layer = layer;
    net->solving.forgotten = true;
    for (int64_t i = 0; i < d->layers; i++)
      layer[i].S = NULL;
  }
  TRY(carried_states_carve(net->m, net->rows, dev, host, &net->carried));
  TRY(CARVE(dev, net->rows, &net->row));
  TRY(CARVE(dev, net->rows, &net->first));
  TRY(CARVE(dev, net->rows, &net->count));
  TRY(CARVE(dev, M * d->V, &net->logits));
  TRY(CARVE(dev, M, &net->lse));
  TRY(CARVE(dev, M, &net->losses));
  TRY(CARVE(dev, 2 * states_of(net), &net->sums));
  TRY(CARVE(host, 2 * states_of(net), &net->host_sums));
  TRY(CARVE(host, M, &net->host_best));
  TRY(CARVE(host, net->rows, &net->host_rows));
  TRY(CARVE(host, M, &net->host_exit));
  return net->learn ? carve_learning(net, M) : OK;
}

/* Tokens of the widest window of a solve; 0: all are solved whole. */
static int64_t widest_window(const struct network *net)
{
  const struct fp_options *options[] = {&net->deq->forward, &net->deq->evaluate,
                                        &net->deq->backward};
  int64_t widest = 0;
  for (int i = 0; i < 3; i++) {
    struct fp_options o = fp_choose(options[i], net->length);
    if (o.window != FP_WINDOW_ALL && o.window > widest)
      widest = o.window;
  }
  return widest;
}

/* The spans whose scratch is not that of a shorter one: all of the longest batch, perhaps in
 * segments; the longest that is never in segments; the longest that a solve takes in one chunk; and
 * the widest window, which is never in segments (T = 0: there is none). */
enum { SPANS = 4 };
static void longest_spans(const struct network *net, struct span span[SPANS])
{
  const int64_t tokens[SPANS] = {net->length, block_whole_tokens(net->m), 4 * net->m->dims.N,
                                 widest_window(net)};
  for (int i = 0; i < SPANS; i++) {
    span[i] = (struct span){.rows = net->rows, .length = net->length, .u = net->u};
    span[i].T = tokens[i] < net->length ? tokens[i] : net->length;
  }
  span[SPANS - 1].carried = &net->carried;
}

/* Carves for every solve that may be asked for, and what f needs behind it. */
static enum status measure_scratch(struct network *net, const struct parameter_set *p,
                                   struct scratch scratch)
{
  struct sequence_model dry = *net->m;
  const struct fp_options *options[] = {&net->deq->forward, &net->deq->evaluate,
                                        &net->deq->backward};
  struct fp_options sequential = net->deq->evaluate;
  struct fp_options simultaneous = fp_simultaneous(&net->deq->evaluate);
  const struct fp_options *modes[] = {&sequential, &simultaneous};
  int64_t D = net->m->dims.D;
  size_t forward = 0; /* of its inverse the backward solve keeps clear */
  sequential.window = 1;
  struct span span[SPANS];
  struct scratch maps = scratch;
  struct backend nothing = backend_dry_of(net->m->be);
  dry.be = &nothing;
  for (int i = 0; i < 5 && net->m->config.kind == MODEL_IMPLICIT; i++) {
    const struct fp_options *o = i < 3 ? options[i] : modes[i - 3];
    size_t device = 0, host = 0, before = i == 2 && keeps_inverse(net) ? forward : 0;
    struct scratch measure = {arena_measure(&device), arena_measure(&host)};
    TRY(net->solver->plan(net->rows, net->length, D, o, measure));
    device = solver_part(device);
    forward = i == 0 ? device : forward;
    if (scratch.device.used + before + device > maps.device.used)
      maps.device.used = scratch.device.used + before + device;
    if (scratch.host.used + host > maps.host.used)
      maps.host.used = scratch.host.used + host;
  }
  DEVICE char *end;
  int32_t *last;
  struct scratch ends = maps; /* the peak includes the solver's own */
  TRY(CARVE(&ends.device, 1, &end));
  TRY(CARVE(&ends.host, 1, &last));
  DEVICE real *step; /* explicit_steps */
  TRY(CARVE(&maps.device, net->rows * D, &step));
  longest_spans(net, span);
  for (int i = 0; i < SPANS && span[i].T; i++) {
    TRY(block_fwd(&dry, p, &span[i], net->z[0], &net->acts[0], maps, net->z[1]));
    TRY(block_fwd(&dry, p, &span[i], net->z[0], &net->solving, maps, net->z[1]));
  }
  if (!net->learn)
    return OK;
  if (net->m->config.kind == MODEL_IMPLICIT)
    TRY(adjoint_carve(net, &net->deq->backward, &maps));
  const struct block_cotangents added = {net->zb, net->ub, 1, 1, NULL}; /* which needs most */
  for (int i = 0; i < SPANS && span[i].T; i++)
    TRY(span[i].carried ? block_vjp_carried(&dry, p, &span[i], &net->acts[0], net->fb, NULL, maps,
                                            &added, p, NULL)
                        : block_vjp(&dry, p, &span[i], &net->acts[0], net->fb, maps, &added, p));
  return inject_vjp(&dry, p, net->rows * net->length, net->e, net->er, net->en, net->ub, maps,
                    net->eb, p);
}

/* The device's peak, with pointer tables in real host memory of `host` bytes. */
static enum status measure_device(struct network *net, size_t host, size_t *device)
{
  struct network n = *net;
  struct parameter_set p;
  size_t unused;
  struct arena parameters = arena_measure(&unused);
  TRY(arena_init(&n.host, host));
  n.device = arena_measure(device);
  struct arena tables = n.host;
  enum status s = carve(&n);
  if (s == OK)
    s = parameters_carve(n.m, &parameters, &n.host, &p);
  if (s == OK)
    s = measure_scratch(&n, &p, (struct scratch){n.device, n.host});
  arena_free(&tables);
  return s;
}

/* Host memory, without touching it: persistent tables, the solvers' buffers, a table of parameters.
 */
static enum status measure_host(struct network *net, size_t *host)
{
  struct network n = *net;
  size_t device = 0, peak = 0, most = 0;
  n.device = arena_measure(&device);
  n.host = arena_measure(host);
  TRY(carve(&n));
  struct fp_options window = net->deq->evaluate;
  window.window = 1; /* has most samples */
  struct scratch measure = {arena_measure(&device), arena_measure(&most)};
  TRY(net->solver->plan(net->rows, net->length, net->m->dims.D, &window, measure));
  measure.host.used = most; /* the adjoint's tables lie behind the solver's */
  if (net->learn && net->m->config.kind == MODEL_IMPLICIT)
    TRY(adjoint_carve(net, &net->deq->backward, &measure));
  struct parameter_set p;
  struct arena unused = arena_measure(&device), tables = arena_measure(&peak);
  TRY(parameters_carve(net->m, &unused, &tables, &p));
  *host += most + peak + segments_host_bytes(net->m) + 4096;
  return OK;
}

static struct network shaped(const struct sequence_model *m, const struct deq_config *deq,
                             const struct solver_port *solver, int64_t rows, int64_t length,
                             bool learn)
{
  struct network net = {.m = m, .deq = deq, .solver = solver, .rows = rows, .length = length};
  CHECK(rows > 0 && length > 0);
  net.capacity = length;
  net.learn = learn;
  net.steps = steps_of(deq, learn, m->config.kind);
  return net;
}

enum status network_measure(const struct sequence_model *m, const struct deq_config *deq,
                            const struct solver_port *solver, int64_t rows, int64_t length,
                            bool learn, size_t *device, size_t *host)
{
  struct network net = shaped(m, deq, solver, rows, length, learn);
  *device = *host = 0;
  TRY(measure_host(&net, host));
  return measure_device(&net, *host, device);
}

enum status network_open(const struct sequence_model *m, const struct deq_config *deq,
                         const struct solver_port *solver, int64_t rows, int64_t length, bool learn,
                         struct network *net)
{
  size_t device, host;
  void *block;
  *net = shaped(m, deq, solver, rows, length, learn);
  TRY(network_measure(m, deq, solver, rows, length, learn, &device, &host));
  enum status s = m->be->memory_alloc(device, &block);
  if (s == ERR_MEMORY)
    s = fail_within(s, "sequences of %lld tokens, %lld at a time", (long long)length,
                    (long long)rows);
  TRY(s);
  net->device = arena_over(block, device);
  s = arena_init(&net->host, host);
  if (s == OK)
    s = carve(net);
  net->scratch = (struct scratch){net->device, net->host};
  if (s != OK)
    network_close(net);
  return s;
}

void network_set_length(struct network *net, int64_t length)
{
  CHECK(length > 0 && length <= net->capacity);
  net->length = length;
}

void network_close(struct network *net)
{
  if (net->device.base)
    net->m->be->memory_free(net->device.base);
  net->device = (struct arena){0};
  arena_free(&net->host);
}

/* ---- loss ---- */

enum status upload_batch(struct network *net, const struct batch *b)
{
  const struct backend *be = net->m->be;
  size_t bytes = (size_t)(b->rows * net->length) * sizeof(int32_t);
  CHECK(b->rows > 0 && b->rows <= net->rows);
  net->lengths = b->lengths;
  TRY(be->upload(be->st, bytes, b->tokens, net->tokens));
  return b->labels ? be->upload(be->st, bytes, b->labels, net->labels) : OK;
}

void output_fwd(struct network *net, const struct parameter_set *p, const struct batch *b,
                const DEVICE real *z, double scale, DEVICE real *logitsb, DEVICE wide *sums)
{
  const struct backend *be = net->m->be;
  const struct model_dims *d = &net->m->dims;
  int64_t M = b->rows * net->length;
  be->linear_fwd(be->st, M, d->D, d->V, z, p->head, p->head_t, NULL, 0, NULL, net->logits);
  if (!b->labels) {
    be->argmax(be->st, M, d->V, net->logits, net->best);
    return;
  }
  be->cross_entropy_fwd(be->st, M, d->V, net->logits, net->labels, net->lse, net->losses, net->best,
                        (real)scale, logitsb);
  be->sum_losses(be->st, M, net->labels, net->best, net->losses, sums);
}

/* ---- evaluating ---- */

enum status upload_rows(struct network *net, int64_t rows, int64_t slope, int32_t start,
                        DEVICE int32_t *to)
{
  for (int64_t r = 0; r < rows; r++)
    net->host_rows[r] = (int32_t)(slope * r) + start;
  return net->m->be->upload(net->m->be->st, (size_t)rows * sizeof *to, net->host_rows, to);
}

/* f(e) one token at a time with carried states: what decoding does. */
static enum status explicit_steps(struct network *net, const struct parameter_set *p, int64_t rows)
{
  const struct sequence_model *m = net->m;
  const struct backend *be = m->be;
  const struct carried_states *carried = &net->carried;
  struct span s = {.rows = rows, .T = 1, .length = net->length, .carried = carried};
  s.row = net->row, s.first = net->first, s.count = net->count;
  DEVICE real *z;
  struct scratch scratch = net->scratch;
  TRY(CARVE(&scratch.device, rows * m->dims.D, &z));
  carried_states_clear(m, rows, carried);
  TRY(upload_rows(net, rows, 1, 0, net->row));
  TRY(upload_rows(net, rows, 0, 1, net->count));
  for (int32_t t = 0; t < net->length; t++) {
    TRY(upload_rows(net, rows, 0, t, net->first));
    be->gather_blocks(be->st, rows, 1, m->dims.D, net->length, s.row, s.first, s.count, net->e, z);
    TRY(block_fwd(m, p, &s, z, &net->solving, scratch, z));
    block_advance(m, p, &s, &net->solving, s.count, carried);
    be->scatter_blocks(be->st, rows, 1, m->dims.D, net->length, s.row, s.first, s.count, z,
                       net->z[0]);
  }
  return OK;
}

/* What output_fwd found, into r. */
static enum status collect(struct network *net, const struct batch *b, struct network_result *r)
{
  const struct backend *be = net->m->be;
  int64_t M = b->rows * net->length;
  TRY(be->download(be->st, (size_t)M * sizeof *net->host_best, net->best, net->host_best));
  r->best = net->host_best;
  if (!b->labels)
    return OK;
  TRY(be->download(be->st, 2 * sizeof *net->host_sums, net->sums, net->host_sums));
  r->loss_sum = net->host_sums[0];
  r->labels = labels_that_count(b, M);
  r->correct = (int64_t)re(net->host_sums[1]);
  return OK;
}

enum status network_evaluate(struct network *net, const struct parameter_set *p,
                             const struct fp_options *o, const struct batch *b,
                             struct network_result *r)
{
  const struct sequence_model *m = net->m;
  const struct backend *be = m->be;
  int64_t rows = b->rows, M = rows * net->length;
  struct fp_result forward = r->forward;
  *r = (struct network_result){.forward = forward};
  net->dropped = NULL;
  TRY(upload_batch(net, b));
  embed_fwd(m, p, M, net->tokens, NULL, net->e);
  if (m->config.kind == MODEL_IMPLICIT) {
    inject_fwd(m, p, M, net->e, net->er, net->en, net->u);
    be->fill(be->st, M * m->dims.D, 0, net->z[0]);
    TRY(implicit_solve(net, p, rows, o, NULL, &r->forward));
  } else if (o->window == 1) {
    TRY(explicit_steps(net, p, rows));
  } else {
    struct span s = {.rows = rows, .T = net->length, .length = net->length};
    TRY(block_fwd(m, p, &s, net->e, &net->solving, net->scratch, net->z[0]));
  }
  output_fwd(net, p, b, net->z[0], 0, NULL, net->sums);
  return collect(net, b, r);
}
