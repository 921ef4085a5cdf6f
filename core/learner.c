/* learner.c: a batch in shards that threads work on side by side; see learner.h. */
#include "core/learner.h"
#include "core/parallel.h"
#include <stdio.h>
#include <string.h>

enum { SHARDS_MOST = 16 };
enum { TOKENS_TOGETHER = 64 };     /* of a shard's sequences at a time, at least one sequence */
enum { COPIES_BYTES = 256 << 20 }; /* of gradients, all shards together, at most */

/* ---- how a batch is split ---- */

/* Whether a sequence's solve may depend on others of its batch. */
static bool stops_together(const struct sequence_model *m, const struct deq_config *deq)
{
  return m->config.kind == MODEL_IMPLICIT &&
         (deq->forward.stop_together || deq->backward.stop_together);
}

/* Sets count and together. */
static void split(struct learner *l, const struct deq_config *deq)
{
  int64_t copy = l->m->tensors->block * (int64_t)sizeof(real);
  int64_t most = COPIES_BYTES / copy < SHARDS_MOST ? COPIES_BYTES / copy : SHARDS_MOST;
  int64_t together = TOKENS_TOGETHER / l->length;
  together = together > 1 ? together : 1;
  int64_t parts = (l->rows + together - 1) / together;
  bool whole = !l->m->be->concurrent || stops_together(l->m, deq) || parts < 2 || most < 2;
  l->count = whole ? 1 : parts < most ? parts : most;
  l->together = whole ? l->rows : together;
}

/* Gives each shard its sequences of a batch of `rows`, in whole runs of `together`. */
static void share_out(struct learner *l, int64_t rows)
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

static enum status carve(struct learner *l)
{
  int64_t M = l->rows * l->length;
  TRY(CARVE(&l->host, l->count, &l->shard));
  TRY(CARVE(&l->host, M, &l->losses));
  TRY(CARVE(&l->host, M, &l->best));
  TRY(CARVE(&l->host, M, &l->exit));
  for (int64_t i = 0; i < l->count; i++) {
    struct parameter_set gradient = {0};
    if (l->count > 1)
      TRY(parameters_carve(l->m, &l->device, &l->host, &gradient));
    if (l->host.base)
      l->shard[i] = (struct shard){.gradient = gradient};
  }
  return OK;
}

static enum status plan(const struct sequence_model *m, const struct deq_config *deq, int64_t rows,
                        int64_t length, struct learner *l, size_t *device, size_t *host)
{
  *l = (struct learner){.m = m, .rows = rows, .length = length};
  CHECK(rows > 0 && length > 0);
  split(l, deq);
  *device = *host = 0;
  l->device = arena_measure(device);
  l->host = arena_measure(host);
  enum status s = carve(l);
  l->device = l->host = (struct arena){0};
  return s;
}

enum status learner_measure(const struct sequence_model *m, const struct deq_config *deq,
                            const struct solver_port *solver, int64_t rows, int64_t length,
                            size_t *bytes)
{
  struct learner l;
  size_t device, host, net_device, net_host;
  TRY(plan(m, deq, rows, length, &l, &device, &host));
  TRY(network_measure(m, deq, solver, l.together, length, true, &net_device, &net_host));
  *bytes = device + host + (size_t)l.count * (net_device + net_host);
  return OK;
}

static enum status take(struct learner *l, const struct deq_config *deq,
                        const struct solver_port *solver, size_t device, size_t host)
{
  void *block;
  TRY(arena_init(&l->host, host));
  if (device) {
    TRY(l->m->be->memory_alloc(device, &block));
    l->device = arena_over(block, device);
  }
  TRY(carve(l));
  for (int64_t i = 0; i < l->count; i++)
    TRY(network_open(l->m, deq, solver, l->together, l->length, true, &l->shard[i].net));
  return OK;
}

enum status learner_open(const struct sequence_model *m, const struct deq_config *deq,
                         const struct solver_port *solver, int64_t rows, int64_t length,
                         struct learner *l)
{
  size_t device, host;
  TRY(plan(m, deq, rows, length, l, &device, &host));
  enum status s = take(l, deq, solver, device, host);
  if (s != OK)
    learner_close(l);
  return s;
}

void learner_close(struct learner *l)
{
  for (int64_t i = 0; l->shard && i < l->count; i++)
    if (l->shard[i].net.m)
      network_close(&l->shard[i].net);
  if (l->device.base)
    l->m->be->memory_free(l->device.base);
  arena_free(&l->host);
  *l = (struct learner){0};
}

void learner_set_length(struct learner *l, int64_t length)
{
  l->length = length;
  for (int64_t i = 0; i < l->count; i++)
    network_set_length(&l->shard[i].net, length);
}

/* ---- learning ---- */

/* What the shards of one call work on. */
struct lesson {
  struct learner *l;
  const struct parameter_set *p, *g;
  enum gradient_kind gradient;
  const struct batch *b;
  int64_t labels_total;
};

/* Sequences first.. of the batch; `draw` is what the batch points to. */
static struct batch piece_of(const struct lesson *c, int64_t first, int64_t rows,
                             struct dropout_draw *draw)
{
  const struct batch *b = c->b;
  struct batch piece = {.rows = rows, .labels_total = c->labels_total};
  piece.tokens = b->tokens + first * c->l->length;
  piece.labels = b->labels + first * c->l->length;
  piece.lengths = b->lengths ? b->lengths + first : NULL;
  if (b->dropout) {
    *draw = *b->dropout;
    draw->first += (uint32_t)first;
    piece.dropout = draw;
  }
  return piece;
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
  fp_result_add(&sum->forward, &r->forward);
  fp_result_add(&sum->backward, &r->backward);
}

static enum status learn_piece(const struct lesson *c, struct shard *s, int64_t first, int64_t rows,
                               const struct parameter_set *g)
{
  struct learner *l = c->l;
  struct dropout_draw draw;
  struct network_result r;
  struct batch piece = piece_of(c, first, rows, &draw);
  size_t M = (size_t)(rows * l->length);
  TRY(network_learn_part(&s->net, c->p, c->gradient, &piece, g, &r));
  memcpy(l->losses + first * l->length, r.losses, M * sizeof *r.losses);
  memcpy(l->best + first * l->length, r.best, M * sizeof *r.best);
  if (r.forward.samples) {
    struct fp_options solved = fp_choose(&s->net.deq->forward, l->length);
    int64_t per_row = solved.window == FP_WINDOW_ALL ? 1 : l->length;
    memcpy(l->exit + first * per_row, r.forward.exit, (size_t)(rows * per_row));
  }
  add_result(&s->result, &r);
  return OK;
}

static enum status learn_shard(const struct lesson *c, struct shard *s)
{
  struct learner *l = c->l;
  const struct backend *be = l->m->be;
  const struct parameter_set *g = c->g && l->count > 1 ? &s->gradient : c->g;
  s->result = (struct network_result){.jacobian = -1};
  if (c->g && l->count > 1)
    be->fill(be->st, l->m->tensors->block, 0, s->gradient.block);
  for (int64_t at = s->first; at < s->end; at += l->together)
    TRY(learn_piece(c, s, at, s->end - at < l->together ? s->end - at : l->together, g));
  return OK;
}

/* Part i of parallel_run: what went wrong is its thread's, and kept for the caller's. */
static void run_shard(void *ctx, int64_t i)
{
  const struct lesson *c = ctx;
  struct shard *s = &c->l->shard[i];
  s->status = learn_shard(c, s);
  if (s->status != OK)
    (void)snprintf(s->error, sizeof s->error, "%s", last_error());
}

enum status learner_learn(struct learner *l, const struct parameter_set *p,
                          enum gradient_kind gradient, const struct batch *b,
                          const struct parameter_set *g, struct network_result *r)
{
  const struct backend *be = l->m->be;
  struct lesson c = {l, p, g, gradient, b, b->labels_total};
  CHECK(b->rows > 0 && b->rows <= l->rows && b->labels);
  if (!c.labels_total)
    c.labels_total = labels_that_count(b, b->rows * l->length);
  *r = (struct network_result){.jacobian = -1};
  share_out(l, b->rows);
  parallel_run(l->count, run_shard, &c);
  for (int64_t i = 0; i < l->count; i++) {
    const struct shard *s = &l->shard[i];
    if (s->status != OK)
      FAIL(s->status, "%s", s->error);
    if (s->first == s->end)
      continue;
    add_result(r, &s->result);
    if (g && l->count > 1)
      be->axpby(be->st, l->m->tensors->block, 1, s->gradient.block, 1, g->block);
  }
  r->losses = l->losses, r->best = l->best, r->forward.exit = l->exit;
  return g ? gradients_finish(l->m, p, g) : OK;
}
