/* shards.c: a batch in shards that threads work on side by side; see shards.h. */
#include "core/shards.h"
#include "core/parallel.h"
#include "core/relay.h"
#include <stdio.h>
#include <string.h>

enum { SHARDS_MOST = 16 };
enum { TOKENS_TOGETHER = 64, ROWS_TOGETHER = 32 }; /* of a shard at a time; at least one sequence */
enum { COPIES_BYTES = 256 << 20 };                 /* of gradients, all shards together, at most */

/* ---- how a batch is split ---- */

/* Whether a sequence's solve may depend on others of its batch. */
static bool stops_together(const struct shard_set *l, const struct deq_config *deq)
{
  if (l->m->config.kind == MODEL_EXPLICIT)
    return false;
  if (l->evaluate)
    return l->evaluate->stop_together;
  return deq->forward.stop_together || deq->backward.stop_together;
}

/* Tokens of a sequence that are worked on at a time. */
static int64_t tokens_at_work(const struct shard_set *l)
{
  if (!l->evaluate)
    return l->length;
  struct fp_options o = fp_choose(l->evaluate, l->length);
  return o.window != FP_WINDOW_ALL && o.window < l->length ? o.window : l->length;
}

/* Sets count, together and workers. */
static void split(struct shard_set *l, const struct deq_config *deq)
{
  int64_t copy = l->evaluate ? 1 : l->m->tensors->block * (int64_t)sizeof(real);
  int64_t most = COPIES_BYTES / copy < SHARDS_MOST ? COPIES_BYTES / copy : SHARDS_MOST;
  int64_t together = TOKENS_TOGETHER / tokens_at_work(l);
  together = together < 1 ? 1 : together > ROWS_TOGETHER ? ROWS_TOGETHER : together;
  int64_t parts = (l->rows + together - 1) / together;
  bool whole = !l->m->be->concurrent || stops_together(l, deq) || parts < 2 || most < 2;
  l->count = whole ? 1 : parts < most ? parts : most;
  l->together = whole ? l->rows : together;
  l->workers = parallel_workers(l->count);
}

/* Gives each shard its sequences of a batch of `rows`, in whole runs of `together`. */
static void share_out(struct shard_set *l, int64_t rows)
{
  int64_t parts = (rows + l->together - 1) / l->together;
  for (int64_t i = 0; i < l->count; i++) {
    int64_t first = parts * i / l->count * l->together;
    int64_t end = parts * (i + 1) / l->count * l->together;
    l->shard[i].first = first;
    l->shard[i].end = end < rows ? end : rows;
  }
}

/* ---- memory ---- */

static bool has_gradients(const struct shard_set *l) { return !l->evaluate && l->count > 1; }

static enum status carve(struct shard_set *l)
{
  int64_t M = l->rows * l->length;
  TRY(CARVE(&l->host, l->count, &l->shard));
  TRY(CARVE(&l->host, l->workers, &l->net));
  TRY(CARVE(&l->host, M, &l->best));
  TRY(CARVE(&l->host, M, &l->exit));
  for (int64_t i = 0; i < l->count; i++) {
    struct parameter_set gradient = {0};
    if (has_gradients(l))
      TRY(parameters_carve(l->m, &l->device, &l->host, &gradient));
    if (l->host.base)
      l->shard[i] = (struct shard){.gradient = gradient};
  }
  for (int i = 0; l->host.base && i < l->workers; i++)
    l->net[i] = (struct network){0};
  return OK;
}

static enum status plan(const struct sequence_model *m, const struct deq_config *deq,
                        const struct fp_options *evaluate, int64_t rows, int64_t length,
                        struct shard_set *l, size_t *device, size_t *host)
{
  *l = (struct shard_set){.m = m, .rows = rows, .length = length, .evaluate = evaluate};
  CHECK(rows > 0 && length > 0);
  split(l, deq);
  *device = *host = 0;
  l->device = arena_measure(device);
  l->host = arena_measure(host);
  enum status s = carve(l);
  l->device = l->host = (struct arena){0};
  l->shard = NULL, l->net = NULL; /* pointers of a measuring arena lead nowhere */
  return s;
}

enum status shards_measure(const struct sequence_model *m, const struct deq_config *deq,
                           const struct fp_options *evaluate, const struct solver_port *solver,
                           int64_t rows, int64_t length, size_t *bytes)
{
  struct shard_set l;
  size_t device, host, net_device, net_host;
  TRY(plan(m, deq, evaluate, rows, length, &l, &device, &host));
  TRY(network_measure(m, deq, solver, l.together, length, !evaluate, &net_device, &net_host));
  *bytes = device + host + (size_t)l.workers * (net_device + net_host);
  return OK;
}

static enum status take(struct shard_set *l, const struct deq_config *deq,
                        const struct solver_port *solver, size_t device, size_t host)
{
  void *block;
  TRY(arena_init(&l->host, host));
  if (device) {
    TRY(l->m->be->memory_alloc(device, &block));
    l->device = arena_over(block, device);
  }
  TRY(carve(l));
  for (int i = 0; i < l->workers; i++)
    TRY(network_open(l->m, deq, solver, l->together, l->length, !l->evaluate, &l->net[i]));
  return OK;
}

enum status shards_open(const struct sequence_model *m, const struct deq_config *deq,
                        const struct fp_options *evaluate, const struct solver_port *solver,
                        int64_t rows, int64_t length, struct shard_set *l)
{
  size_t device, host;
  TRY(plan(m, deq, evaluate, rows, length, l, &device, &host));
  enum status s = take(l, deq, solver, device, host);
  if (s != OK)
    shards_close(l);
  return s;
}

void shards_close(struct shard_set *l)
{
  for (int i = 0; l->net && i < l->workers; i++)
    if (l->net[i].m)
      network_close(&l->net[i]);
  if (l->device.base)
    l->m->be->memory_free(l->device.base);
  arena_free(&l->host);
  *l = (struct shard_set){0};
}

void shards_set_length(struct shard_set *l, int64_t length)
{
  l->length = length;
  for (int i = 0; i < l->workers; i++)
    network_set_length(&l->net[i], length);
}

/* ---- a batch's work ---- */

/* The shards' gradients are added some at a time, so that g is read and written less, in slices of
 * g that threads share. */
enum { ADDED_AT_ONCE = 3, SLICES = 8 };

/* What the shards of one call work on. */
struct errand {
  struct shard_set *l;
  const struct parameter_set *p, *g; /* g: learning, NULL: the loss alone */
  enum gradient_kind gradient;
  const struct batch *b;
  const struct fp_result *forward; /* evaluating: the caller's arrays */
  int64_t labels_total;
  int64_t ended[SHARDS_MOST]; /* 1: the shard has */
  int64_t added[SLICES];      /* how many times gradients were, to each slice of g */
};

/* Sequences first.. of the batch; `draw` is what the batch points to. */
static struct batch piece_of(const struct errand *c, int64_t first, int64_t rows,
                             struct dropout_draw *draw)
{
  const struct batch *b = c->b;
  struct batch piece = {.rows = rows, .labels_total = c->labels_total};
  piece.tokens = b->tokens + first * c->l->length;
  piece.labels = b->labels ? b->labels + first * c->l->length : NULL;
  piece.lengths = b->lengths ? b->lengths + first : NULL;
  if (b->dropout) {
    *draw = *b->dropout;
    draw->first += (uint32_t)first;
    piece.dropout = draw;
  }
  return piece;
}

/* Samples of a sequence in a forward solve. */
static int64_t samples_of(const struct shard_set *l, const struct deq_config *deq)
{
  struct fp_options o = fp_choose(l->evaluate ? l->evaluate : &deq->forward, l->length);
  return o.window == FP_WINDOW_ALL ? 1 : l->length;
}

/* sum += r, whose batch follows those of the sum. */
static void add_result(struct network_result *sum, const struct network_result *r)
{
  sum->loss_sum += r->loss_sum;
  sum->labels += r->labels;
  sum->correct += r->correct;
  sum->objective += r->objective;
  sum->jacobian = r->jacobian < 0 ? -1 : (sum->jacobian < 0 ? 0 : sum->jacobian) + r->jacobian;
  sum->fallbacks += r->fallbacks;
  sum->differentiated += r->differentiated;
  sum->outputs += r->outputs;
  sum->bad = sum->bad < 0 ? r->bad : sum->bad;
  fp_result_add(&sum->forward, &r->forward);
  fp_result_add(&sum->backward, &r->backward);
}

static enum status learn_piece(const struct errand *c, struct shard *s, const struct batch *piece,
                               int64_t first, struct network_result *r)
{
  struct shard_set *l = c->l;
  struct network *net = &l->net[parallel_worker()];
  int64_t samples = samples_of(l, net->deq);
  const struct parameter_set *g = c->g && has_gradients(l) ? &s->gradient : c->g;
  TRY(network_learn_part(net, c->p, c->gradient, piece, g, r));
  r->bad += r->bad < 0 ? 0 : first;
  if (r->forward.samples)
    memcpy(l->exit + first * samples, r->forward.exit, (size_t)(piece->rows * samples));
  return OK;
}

static enum status evaluate_piece(const struct errand *c, const struct batch *piece, int64_t first,
                                  struct network_result *r)
{
  struct network *net = &c->l->net[parallel_worker()];
  const struct fp_result *all = c->forward;
  int64_t at = first * samples_of(c->l, net->deq);
  struct fp_result *own = &r->forward;
  *r = (struct network_result){.jacobian = -1, .bad = -1};
  own->iterations = all->iterations ? all->iterations + at : NULL;
  own->residual = all->residual ? all->residual + at : NULL;
  own->exit = all->exit ? all->exit + at : NULL;
  own->trace = all->trace ? all->trace + at * c->l->evaluate->max_iter : NULL;
  return network_evaluate(net, c->p, c->l->evaluate, piece, r);
}

static enum status work_on_piece(const struct errand *c, struct shard *s, int64_t first,
                                 int64_t rows)
{
  struct shard_set *l = c->l;
  struct dropout_draw draw;
  struct network_result r;
  struct batch piece = piece_of(c, first, rows, &draw);
  size_t M = (size_t)(rows * l->length);
  if (l->evaluate)
    TRY(evaluate_piece(c, &piece, first, &r));
  else
    TRY(learn_piece(c, s, &piece, first, &r));
  if (r.best)
    memcpy(l->best + first * l->length, r.best, M * sizeof *r.best);
  add_result(&s->result, &r);
  return OK;
}

static enum status work_on_shard(const struct errand *c, struct shard *s)
{
  struct shard_set *l = c->l;
  const struct backend *be = l->m->be;
  s->result = (struct network_result){.jacobian = -1, .bad = -1};
  if (c->g && has_gradients(l))
    be->fill(be->st, l->m->tensors->block, 0, s->gradient.block);
  for (int64_t at = s->first; at < s->end; at += l->together)
    TRY(work_on_piece(c, s, at, s->end - at < l->together ? s->end - at : l->together));
  return OK;
}

/* g += the gradients of some shards, in a slice: whoever has no shard left to do begins with those
 * that have ended. */
static void add_slice(struct errand *c, int64_t adding, int64_t slice)
{
  struct shard_set *l = c->l;
  const struct backend *be = l->m->be;
  struct relay before = {.part = adding, .passed = c->added};
  const DEVICE real *a[ADDED_AT_ONCE] = {NULL};
  int64_t block = l->m->tensors->block, first = block * slice / SLICES;
  int64_t n = block * (slice + 1) / SLICES - first;
  int found = 0;
  for (int64_t i = adding * ADDED_AT_ONCE; i < l->count && i < (adding + 1) * ADDED_AT_ONCE; i++) {
    struct relay ended = {.part = 1, .passed = c->ended};
    relay_await(&ended, i);
    if (l->shard[i].first < l->shard[i].end)
      a[found++] = l->shard[i].gradient.block + first;
  }
  relay_await(&before, slice);
  if (found > 0 && n > 0)
    be->accumulate(be->st, 1, n, n, a[0], a[1], a[2], c->g->block + first);
  relay_pass(&before, slice);
}

/* Part i of parallel_run_and: what went wrong is its thread's, and kept for the caller's. */
static void run_shard(void *errand, int64_t i)
{
  struct errand *c = errand;
  if (i >= c->l->count) {
    add_slice(c, (i - c->l->count) / SLICES, (i - c->l->count) % SLICES);
    return;
  }
  struct shard *s = &c->l->shard[i];
  struct relay ended = {.passed = c->ended};
  s->status = work_on_shard(c, s);
  if (s->status != OK)
    (void)snprintf(s->error, sizeof s->error, "%s", last_error());
  relay_pass(&ended, i);
}

/* All shards side by side, what they give one after the other.  The serial depth of the solves is
 * that of the deepest. */
static enum status run(struct errand *c, struct network_result *r)
{
  struct shard_set *l = c->l;
  int64_t deepest = 0;
  CHECK(c->b->rows > 0 && c->b->rows <= l->rows);
  share_out(l, c->b->rows);
  int64_t addings = c->g && has_gradients(l) ? (l->count + ADDED_AT_ONCE - 1) / ADDED_AT_ONCE : 0;
  parallel_run_and(l->count, addings * SLICES, l->workers, run_shard, c);
  for (int64_t i = 0; i < l->count; i++) {
    const struct shard *s = &l->shard[i];
    if (s->status != OK)
      FAIL(s->status, "%s", s->error);
    if (s->first == s->end)
      continue;
    add_result(r, &s->result);
    if (s->result.forward.evaluations > deepest)
      deepest = s->result.forward.evaluations;
  }
  r->forward.evaluations = deepest;
  r->best = l->evaluate ? l->best : NULL;
  return OK;
}

enum status shards_learn(struct shard_set *l, const struct parameter_set *p,
                         enum gradient_kind gradient, const struct batch *b,
                         const struct parameter_set *g, struct network_result *r)
{
  struct errand c = {l, p, g, gradient, b, NULL, b->labels_total, {0}, {0}};
  CHECK(!l->evaluate && b->labels);
  if (!c.labels_total)
    c.labels_total = labels_that_count(b, b->rows * l->length);
  *r = (struct network_result){.jacobian = -1, .bad = -1};
  TRY(run(&c, r));
  r->forward.exit = l->exit;
  if (g)
    gradients_derive(l->m, p, g);
  return OK;
}

enum status shards_evaluate(struct shard_set *l, const struct parameter_set *p,
                            const struct batch *b, struct network_result *r)
{
  struct fp_result arrays = r->forward;
  struct errand c = {l, p, NULL, GRADIENT_UNROLL, b, &arrays, 0, {0}, {0}};
  CHECK(l->evaluate);
  *r = (struct network_result){.jacobian = -1, .bad = -1};
  r->forward.iterations = arrays.iterations, r->forward.residual = arrays.residual;
  r->forward.exit = arrays.exit, r->forward.trace = arrays.trace;
  return run(&c, r);
}
