/* measure.c: a trained model on fresh sequences: by length and mode, position and type of token,
 * allowed iterations and solver.
 *
 * Sequences of stream EVALUATE, numbered from 0, the same for every mode; of word problems a longer
 * one begins as the shorter one. */
#include "core/data.h"
#include "core/evaluated.h"
#include "core/gradient_report.h"
#include "core/evaluator.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "core/shards.h"
#include "core/statistics.h"
#include "core/trainer_state.h"
#include "core/training.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

enum { KNOB_SEQUENCES = 32, TRACED_LENGTH = 32, TRACED_SEQUENCES = 8, DECODED_TOKENS = 64 };
static const double decode_seconds = 0.2;

/* ---- one mode, one length ---- */

struct measurement {
  struct evaluator e;
  struct task_data data;
};

/* Of `rows` sequences from `first` on, `per` samples each: a solve that is not finite answers none
 * of its tokens, and there is no loss. */
static void strike_not_finite(struct evaluated *to, int64_t first, int64_t rows, int64_t per)
{
  int64_t tokens = to->length / per;
  for (int64_t i = first * per; i < (first + rows) * per; i++) {
    if (to->exit[i] != FP_NOT_FINITE)
      continue;
    to->loss = (double)NAN;
    for (int64_t t = 0; t < tokens; t++)
      to->got[i * tokens + t] = -1;
  }
}

static enum status run_batch(const struct measurement *e, struct shard_set *l,
                             const struct fp_options *o, int64_t first, double *trace,
                             struct evaluated *to)
{
  int64_t L = to->length, at = first * L, per = o->window == FP_WINDOW_ALL ? 1 : L;
  struct batch b = {.rows = to->sequences - first, .tokens = to->tokens + at};
  struct network_result r = {0};
  b.labels = to->labels + at;
  b.rows = b.rows < l->rows ? b.rows : l->rows;
  r.forward.iterations = to->iterations + first * per;
  r.forward.residual = to->residual + first * per;
  r.forward.exit = to->exit + first * per;
  r.forward.trace = trace;
  data_batch(&e->data, (uint64_t)e->e.c->seed, STREAM_EVALUATE, 0, (uint32_t)first, b.rows, L,
             to->tokens + at, to->labels + at);
  TRY(shards_evaluate(l, &e->e.w.set[0], &b, &r));
  memcpy(to->got + at, r.best, (size_t)(b.rows * L) * sizeof *to->got);
  to->loss += r.loss_sum;
  strike_not_finite(to, first, b.rows, per);
  to->solved = r.forward.samples > 0;
  to->by_token = per > 1 || L == 1;
  to->block_evaluations += r.forward.block_evaluations;
  to->serial_iterations += r.forward.evaluations;
  if (interrupted())
    FAIL(ERR_INTERRUPTED, "interrupted");
  return OK;
}

/* Solves `sequences` fresh sequences as o says into *to, which is the caller's to free.  trace: of
 * one batch of all of them, or NULL. */
static enum status answer(const struct measurement *e, const struct fp_options *o,
                          int64_t sequences, int64_t length, double *trace, struct evaluated *to)
{
  int64_t rows = trace ? sequences : TOKENS_PER_BATCH / length;
  struct deq_config deq = e->e.c->deq;
  struct shard_set l;
  rows = rows < 1 ? 1 : rows > sequences ? sequences : rows;
  deq.evaluate = *o;
  TRY(evaluated_make(sequences, length, to));
  to->monoid = e->data.problem.monoid;
  enum status s = shards_open(&e->e.w.m, &deq, o, e->e.solver, rows, length, &l);
  double began = monotonic_seconds();
  for (int64_t first = 0; s == OK && first < sequences; first += rows)
    s = run_batch(e, &l, o, first, trace, to);
  shards_close(&l);
  to->seconds = monotonic_seconds() - began;
  if (s != OK)
    evaluated_free(to);
  return s;
}

static enum status answer_mode(const struct measurement *e, enum evaluate_mode mode, int64_t length,
                               struct evaluated *to)
{
  struct fp_options o = evaluate_solve(e->e.c, mode, length);
  TRY(answer(e, &o, e->e.c->evaluate.sequences, length, NULL, to));
  to->mode = mode;
  return OK;
}

/* ---- lengths and modes ---- */

static int64_t longest_of(const struct evaluate_config *c)
{
  int64_t best = 0;
  for (int64_t i = 1; i < c->lengths_count; i++)
    best = c->lengths[i] > c->lengths[best] ? i : best;
  return best;
}

/* Tokens of a sequence, `wanted` at most: a text is known to have evaluate.lengths only. */
static int64_t tokens_there_are(const struct config *c, int64_t wanted)
{
  int64_t longest = c->evaluate.lengths[longest_of(&c->evaluate)];
  return wanted < longest ? wanted : longest;
}

/* Row i of a mode; what was answered stays in *a. */
static enum status one_row(const struct measurement *e, const struct evaluation_request *q,
                           enum evaluate_mode mode, int64_t i, struct evaluated *a,
                           struct evaluation *to)
{
  const struct evaluate_config *c = &e->e.c->evaluate;
  TRY(answer_mode(e, mode, c->lengths[i], a));
  TRY(evaluated_row(a, &to->row[mode][i]));
  if (q->say)
    q->say(q->to, &to->row[mode][i]);
  return q->closely && i == longest_of(c) ? evaluated_detail(a, &to->detail[mode]) : OK;
}

static enum status all_rows(const struct measurement *e, const struct evaluation_request *q,
                            struct evaluated (*a)[CONFIG_LENGTHS], struct evaluation *to)
{
  for (int mode = 0; mode < MODES; mode++)
    for (int64_t i = 0; i < to->lengths_count; i++) {
      TRY(one_row(e, q, (enum evaluate_mode)mode, i, &a[mode][i], to));
      if (mode == MODE_SIMULTANEOUS)
        to->agreement[i] = evaluated_agreement(&a[MODE_SEQUENTIAL][i], &a[mode][i]);
      if (mode == MODE_SIMULTANEOUS)
        evaluated_free(&a[mode][i]);
    }
  return OK;
}

static enum status rows(const struct measurement *e, const struct evaluation_request *q,
                        struct evaluation *to)
{
  struct evaluated a[MODES][CONFIG_LENGTHS] = {{{0}}};
  enum status s = all_rows(e, q, a, to);
  for (int64_t i = 0; i < MODES * CONFIG_LENGTHS; i++)
    evaluated_free(&a[i / CONFIG_LENGTHS][i % CONFIG_LENGTHS]);
  return s;
}

/* ---- allowed iterations ---- */

/* The longest length up to four times that of training, else the shortest. */
static int64_t knob_length(const struct config *c)
{
  const struct evaluate_config *v = &c->evaluate;
  int64_t best = v->lengths[0];
  for (int64_t i = 1; i < v->lengths_count; i++) {
    int64_t n = v->lengths[i], most = 4 * c->data.length;
    if (n <= most ? n > best || best > most : n < best)
      best = n;
  }
  return best;
}

static enum status turn_knob(const struct measurement *e, enum evaluate_mode mode,
                             struct evaluation_knob *k)
{
  const struct config *c = e->e.c;
  struct fp_options o = evaluate_solve(c, mode, k->length = knob_length(c));
  int64_t most = mode == MODE_SIMULTANEOUS ? 4 * k->length : 256, least = o.min_iter;
  k->sequences = c->evaluate.sequences < KNOB_SEQUENCES ? c->evaluate.sequences : KNOB_SEQUENCES;
  most = most < c->deq.evaluate.max_iter ? most : c->deq.evaluate.max_iter;
  for (int64_t m = 1; k->count < KNOB_MAX; m = 2 * m < most ? 2 * m : most) {
    struct evaluated a;
    struct evaluation_row row;
    o.max_iter = m;
    o.min_iter = least < m ? least : m;
    TRY(answer(e, &o, k->sequences, k->length, NULL, &a));
    enum status s = evaluated_row(&a, &row);
    evaluated_free(&a);
    TRY(s);
    int64_t i = k->count++;
    k->max_iter[i] = m;
    k->loss[i] = row.loss, k->accuracy[i] = row.accuracy;
    k->accuracy_last10[i] = row.accuracy_last10, k->converged[i] = row.solve.converged;
    if (row.solve.iterations_max < m || m == most)
      break;
  }
  return OK;
}

/* ---- solvers ---- */

/* Sample i's residual after k+1 evaluations; what has stopped keeps its last. */
static double residual_at(const struct evaluated *a, const double *trace, int64_t stride, int64_t i,
                          int64_t k)
{
  int64_t n = a->iterations[i] < stride ? a->iterations[i] : stride;
  return trace[i * stride + (k < n ? k : n - 1)];
}

static void summarise_trace(const struct evaluated *a, const double *trace, double *work,
                            struct evaluation_trace *t)
{
  int64_t samples = a->by_token ? a->sequences * a->length : a->sequences, stride = TRACE_MAX;
  t->samples = samples;
  for (int64_t i = 0; i < samples; i++)
    t->count = a->iterations[i] > t->count ? a->iterations[i] : t->count;
  t->count = t->count < stride ? t->count : stride;
  for (int64_t k = 0; k < t->count; k++) {
    for (int64_t i = 0; i < samples; i++)
      work[i] = residual_at(a, trace, stride, i, k);
    t->median[k] = median_of(samples, work);
    for (int64_t i = 0; i < samples; i++)
      work[i] = residual_at(a, trace, stride, i, k);
    t->p95[k] = quantile(samples, work, 0.95);
  }
}

static enum status trace_solver(const struct measurement *e, enum evaluate_mode mode,
                                enum fp_solver solver, struct evaluation_trace *t)
{
  const struct config *c = e->e.c;
  struct fp_options o = evaluate_solve(c, mode, c->data.length);
  int64_t length =
      tokens_there_are(c, c->data.length < TRACED_LENGTH ? c->data.length : TRACED_LENGTH);
  size_t samples = (size_t)(TRACED_SEQUENCES * length);
  struct evaluated a;
  double *trace = calloc(samples * (TRACE_MAX + 1), sizeof *trace);
  if (!trace)
    FAIL(ERR_MEMORY, "out of memory");
  o.solver = solver;
  o.trace = true;
  o.max_iter = TRACE_MAX;
  o.min_iter = 1;
  o.tol = c->dtype == DTYPE_F32 ? 1e-6 : 1e-12;
  *t = (struct evaluation_trace){.solver = solver, .length = length};
  enum status s = answer(e, &o, TRACED_SEQUENCES, length, trace, &a);
  if (s == OK) {
    summarise_trace(&a, trace, trace + samples * TRACE_MAX, t);
    evaluated_free(&a);
  }
  free(trace);
  return s;
}

/* ---- decoding ---- */

static enum status decode(const struct measurement *e, double *tokens_per_second)
{
  int64_t length = tokens_there_are(e->e.c, DECODED_TOKENS);
  struct fp_options o = evaluate_solve(e->e.c, MODE_SEQUENTIAL, length);
  double seconds = 0;
  int64_t tokens = 0;
  for (int64_t i = 0; i < 2 || seconds < decode_seconds; i++) {
    struct evaluated a;
    TRY(answer(e, &o, 1, length, NULL, &a));
    seconds += i ? a.seconds : 0; /* the first time does not count */
    tokens += i ? length : 0;
    evaluated_free(&a);
  }
  *tokens_per_second = (double)tokens / seconds;
  return OK;
}

/* ---- df/dz ---- */

/* At the fixed points of fresh sequences of the first length, solved tightly. */
static enum status spectrum_of(const struct measurement *e, const struct config *c, int32_t *tokens,
                               struct gradient_report *g, struct evaluation *to)
{
  int64_t rows = c->train.batch_size, length = c->data.length;
  struct batch b = {.rows = rows, .tokens = tokens, .labels = tokens + rows * length};
  const struct parameter_set *p = &e->e.w.set[0];
  data_batch(&e->data, (uint64_t)c->seed, STREAM_EVALUATE, 0, 0, rows, length, tokens,
             tokens + rows * length);
  gradient_report_begin(g, length, false);
  TRY(gradient_report_add(g, p, &b));
  return network_spectral_radius(&g->net, p, rows, &to->spectral_radius, &to->spectral_radius_max);
}

static enum status spectrum(const struct measurement *e, struct evaluation *to)
{
  struct config c = *e->e.c;
  struct gradient_report g;
  c.train.batch_size = c.evaluate.spectral_radius;
  c.data.length = c.evaluate.lengths[0];
  int32_t *tokens = malloc((size_t)(2 * c.train.batch_size * c.data.length) * sizeof *tokens);
  if (!tokens)
    FAIL(ERR_MEMORY, "out of memory");
  enum status s = gradient_report_open(&c, e->e.w.m.be, e->e.solver, &g);
  if (s == OK)
    s = spectrum_of(e, &c, tokens, &g, to);
  gradient_report_close(&g);
  free(tokens);
  return s;
}

/* ---- all of it ---- */

static enum status look_closely(const struct measurement *e, struct evaluation *to)
{
  static const enum fp_solver solvers[TRACED_SOLVERS] = {FP_PICARD, FP_ANDERSON, FP_BROYDEN};
  TRY(decode(e, &to->decode_tokens_per_second));
  if (to->kind == MODEL_EXPLICIT)
    return OK;
  for (int mode = 0; mode < MODES; mode++) {
    TRY(turn_knob(e, (enum evaluate_mode)mode, &to->knob[mode]));
    for (int i = 0; i < TRACED_SOLVERS; i++)
      TRY(trace_solver(e, (enum evaluate_mode)mode, solvers[i], &to->trace[mode][i]));
  }
  return OK;
}

/* A text that is not the one trained on, or more of it than was kept from training, is evaluated,
 * but the validation part then may hold what was trained on. */
static enum status say_seen_text(const struct measurement *e, const char *dir)
{
  char state[2 * CONFIG_PATH], config[2 * CONFIG_PATH];
  const struct data_config *data = &e->e.c->data;
  struct trainer_state trained;
  struct config before;
  TRY(path_join(state, sizeof state, dir, "trainer.json"));
  TRY(path_join(config, sizeof config, dir, "config.yaml"));
  if (data->task != TASK_TEXT || !path_exists(state) || !path_exists(config))
    return OK;
  TRY(trainer_state_read(state, &trained));
  TRY(config_load(config, 0, NULL, &before));
  if (trained.data && trained.data != data_fingerprint(&e->data))
    (void)fprintf(stderr,
                  "%s is not the text that %s was trained on: its validation part may hold bytes "
                  "that the model has seen\n",
                  data->path, dir);
  else if (trained.data && data->validation_fraction > before.data.validation_fraction)
    (void)fprintf(stderr,
                  "data.validation_fraction: %g, but %s was trained with %g: the validation part "
                  "holds bytes that the model has seen\n",
                  data->validation_fraction, dir, before.data.validation_fraction);
  return OK;
}

static enum status measure_open(struct measurement *e, const struct config *c, const char *dir,
                                const struct evaluation_request *q, struct evaluation *to)
{
  TRY(data_open(&c->data, &e->data));
  TRY(say_seen_text(e, dir));
  for (int64_t i = 0; i < c->evaluate.lengths_count; i++)
    TRY(data_require(&e->data, STREAM_EVALUATE, c->evaluate.lengths[i], "evaluate.lengths"));
  to->parameters = e->e.w.tensors.parameters;
  to->lengths_count = c->evaluate.lengths_count;
  if (q->begin)
    q->begin(q->to, to);
  return OK;
}

enum status NAME(measure)(const struct config *c, const struct backend *be,
                          const struct solver_port *solver, const char *dir,
                          const struct evaluation_request *q, struct evaluation *to)
{
  struct measurement e = {0};
  *to = (struct evaluation){.kind = c->model.kind, .task = c->data.task};
  to->decode_tokens_per_second = to->spectral_radius = to->spectral_radius_max = (double)NAN;
  TRY(evaluator_open(c, be, solver, dir, 1, &e.e));
  enum status s = measure_open(&e, c, dir, q, to);
  if (s == OK)
    s = rows(&e, q, to);
  if (s == OK && q->closely)
    s = look_closely(&e, to);
  if (s == OK && c->evaluate.spectral_radius && to->kind == MODEL_IMPLICIT)
    s = spectrum(&e, to);
  data_close(&e.data);
  weights_close(&e.e.w);
  return s;
}
#endif
