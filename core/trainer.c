/* trainer.c: what training needs in memory: see trainer.h. */
#include "core/trainer.h"

#if REAL_BITS != 128

enum { EVALUATED_TOKENS = 16384 }; /* of a batch */

int64_t trainer_evaluated_rows(const struct config *c)
{
  int64_t rows = EVALUATED_TOKENS / c->data.length, sequences = c->evaluate.sequences;
  return rows < 1 ? 1 : rows < sequences ? rows : sequences;
}

static bool reports(const struct config *c)
{
  return c->model.kind == MODEL_IMPLICIT &&
         (c->train.report_spectral_radius || c->train.report_gradient_cosine);
}

static int64_t batch_tokens(const struct config *c)
{
  int64_t sequences = c->train.batch_size * c->train.accumulate;
  int64_t rows = c->train.evaluate_every ? trainer_evaluated_rows(c) : 0;
  return (sequences > rows ? sequences : rows) * c->data.length;
}

/* Steps whose sequences there is room for: on a GPU the next one's, too. */
static int drawings_of(const struct backend *be) { return be->concurrent ? 1 : 2; }

size_t trainer_batch_bytes(const struct config *c, const struct backend *be)
{
  int64_t sequences = c->train.batch_size * c->train.accumulate;
  size_t bytes = ((size_t)batch_tokens(c) * 2 + (size_t)sequences) * sizeof(int32_t) + 256;
  return bytes * (size_t)drawings_of(be);
}

static enum status open_drawings(struct trainer *t)
{
  const struct config *c = t->c;
  int64_t sequences = c->train.batch_size * c->train.accumulate, M = batch_tokens(c);
  TRY(arena_init(&t->host, trainer_batch_bytes(c, t->w.m.be)));
  for (int i = 0; i < drawings_of(t->w.m.be); i++) {
    struct drawing *d = i ? &t->next : &t->now;
    *d = (struct drawing){.c = c, .data = &t->data, .step = -1};
    TRY(CARVE(&t->host, M, &d->tokens));
    TRY(CARVE(&t->host, M, &d->labels));
    TRY(CARVE(&t->host, sequences, &d->lengths));
  }
  return OK;
}

enum status trainer_open(struct trainer *t, const struct backend *be,
                         const struct solver_port *solver)
{
  const struct config *c = t->c;
  int64_t rows = trainer_evaluated_rows(c);
  void *square;
  t->progress = progress_to(stderr);
  TRY(data_open(&c->data, &t->data));
  TRY(data_require(&t->data, STREAM_TRAIN, c->data.length, "data.length"));
  if (c->train.evaluate_every)
    TRY(data_require(&t->data, STREAM_EVALUATE, c->data.length,
                     "train.evaluate_every at data.length"));
  TRY(weights_open(&c->model, be, TRAINER_SETS, &t->w));
  TRY(shards_open(&t->w.m, &c->deq, NULL, solver, c->train.batch_size, c->data.length,
                  &t->learner));
  t->evaluating = evaluate_solve(c, c->deq.mode, c->data.length);
  if (c->train.evaluate_every)
    TRY(shards_open(&t->w.m, &c->deq, &t->evaluating, solver, rows, c->data.length,
                    &t->evaluation));
  if (reports(c))
    TRY(gradient_report_open(c, be, solver, &t->exact));
  TRY(open_drawings(t));
  TRY(be->memory_alloc(sizeof(double), &square));
  t->square = square;
  return OK;
}

void trainer_close(struct trainer *t)
{
  background_await(&t->ahead);
  if (t->square)
    t->w.m.be->memory_free(t->square);
  arena_free(&t->host);
  shards_close(&t->learner);
  shards_close(&t->evaluation);
  gradient_report_close(&t->exact);
  if (t->w.m.be)
    weights_close(&t->w);
  data_close(&t->data);
}
#endif
