/* evaluation.c: accuracy and loss by length and mode; logits and gradients of given tokens.
 *
 * Sequences of stream EVALUATE, numbered from 0, the same for every mode; of word problems a longer
 * one begins as the shorter one. */
#include "core/data.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/network.h"
#include "core/progress.h"
#include "core/tokens.h"
#include "core/training.h"
#include "core/weights.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

enum { TOKENS_PER_BATCH = 16384 };

struct evaluator {
  const struct config *c;
  const struct solver_port *solver;
  struct weights w;
  struct task_data data; /* not open for given tokens */
};

/* ---- fresh sequences ---- */

struct tally {
  int64_t labels, correct, last, last_correct, group, monoid;
  double loss;
  int64_t samples, converged, iterations, most, block_evaluations, serial;
};

static void count_batch(const struct evaluator *e, const struct batch *b, int64_t length,
                        const struct network_result *r, struct tally *t)
{
  int32_t monoid = e->data.problem.monoid; /* 0: no word problem */
  for (int64_t i = 0; i < b->rows * length; i++) {
    int32_t got = r->best[i], want = b->labels[i];
    bool right = got == want, last = i % length >= length - EVALUATION_LAST;
    t->correct += right;
    t->last += last;
    t->last_correct += last && right;
    t->group += monoid && got / monoid == want / monoid && got >= 0;
    t->monoid += monoid && got % monoid == want % monoid && got >= 0;
  }
  t->labels += r->labels;
  t->loss += r->loss_sum;
  t->samples += r->forward.samples;
  t->converged += r->forward.exits[FP_CONVERGED];
  t->iterations += (int64_t)(r->forward.mean_iterations * (double)r->forward.samples + 0.5);
  t->most = r->forward.max_iterations > t->most ? r->forward.max_iterations : t->most;
  t->block_evaluations += r->forward.block_evaluations;
  t->serial += r->forward.evaluations;
}

static void summarise(const struct tally *t, struct evaluation_row *row)
{
  double labels = t->labels ? (double)t->labels : 1;
  row->loss = t->loss / labels;
  row->accuracy = (double)t->correct / labels;
  row->accuracy_last10 = t->last ? (double)t->last_correct / (double)t->last : 0;
  row->accuracy_group = (double)t->group / labels;
  row->accuracy_monoid = (double)t->monoid / labels;
  row->solve.iterations_mean =
      t->samples ? (double)t->iterations / (double)t->samples : (double)NAN;
  row->solve.converged = t->samples ? (double)t->converged / (double)t->samples : (double)NAN;
  row->solve.iterations_max = t->most;
  row->block_evaluations = t->block_evaluations;
  row->serial_iterations = t->serial;
}

static struct fp_options mode_options(const struct config *c, enum evaluate_mode mode,
                                      int64_t length)
{
  struct fp_options o = c->deq.evaluate;
  /* a window that was given takes the sequential mode's place */
  if (mode == MODE_SIMULTANEOUS)
    o.window = FP_WINDOW_ALL;
  else if (o.window == FP_WINDOW_ALL)
    o.window = 1;
  return fp_choose(&o, length);
}

static enum status run_batches(const struct evaluator *e, struct network *net,
                               const struct fp_options *o, int32_t *tokens, int32_t *labels,
                               int64_t sequences, struct tally *t)
{
  int64_t length = net->length;
  for (int64_t first = 0; first < sequences; first += net->rows) {
    struct batch b = {.rows = sequences - first, .tokens = tokens, .labels = labels};
    struct network_result r = {0};
    b.rows = b.rows < net->rows ? b.rows : net->rows;
    data_batch(&e->data, (uint64_t)e->c->seed, STREAM_EVALUATE, 0, (uint32_t)first, b.rows, length,
               tokens, labels);
    TRY(network_evaluate(net, &e->w.set[0], o, &b, &r));
    count_batch(e, &b, length, &r, t);
    if (interrupted())
      FAIL(ERR_INTERRUPTED, "interrupted");
  }
  return OK;
}

static enum status evaluate_mode(const struct evaluator *e, struct evaluation_row *row)
{
  struct fp_options o = mode_options(e->c, row->mode, row->length);
  int64_t rows = TOKENS_PER_BATCH / row->length;
  rows = rows < 1 ? 1 : rows > row->sequences ? row->sequences : rows;
  struct network net;
  struct tally t = {0};
  double began = monotonic_seconds();
  size_t items = (size_t)(rows * row->length);
  int32_t *tokens = malloc(items * 2 * sizeof *tokens);
  if (!tokens)
    FAIL(ERR_MEMORY, "out of memory");
  enum status s = network_open(&e->w.m, &e->c->deq, e->solver, rows, row->length, false, &net);
  if (s == OK) {
    s = run_batches(e, &net, &o, tokens, tokens + items, row->sequences, &t);
    network_close(&net);
  }
  free(tokens);
  summarise(&t, row);
  row->seconds = monotonic_seconds() - began;
  return s;
}

/* ---- given tokens ---- */

/* Host copies of what --logits writes; one allocation each, freed by the caller. */
struct outputs {
  real *logits, *hidden;
  double *residual;
  int32_t *iterations;
  uint8_t *exit;
};

static enum status evaluate_given(const struct evaluator *e, const struct given_tokens *g,
                                  const struct fp_options *o, struct outputs *out, struct tally *t)
{
  const struct backend *be = e->w.m.be;
  const struct model_dims *d = &e->w.m.dims;
  bool tokens = o->window != FP_WINDOW_ALL;
  int64_t rows = TOKENS_PER_BATCH / g->L, per = tokens ? g->L : 1;
  rows = rows < 1 ? 1 : rows > g->B ? g->B : rows;
  struct network net;
  TRY(network_open(&e->w.m, &e->c->deq, e->solver, rows, g->L, false, &net));
  enum status s = OK;
  for (int64_t first = 0; s == OK && first < g->B; first += rows) {
    struct batch b = {.rows = g->B - first, .tokens = g->tokens + first * g->L};
    b.labels = g->labels ? g->labels + first * g->L : NULL;
    b.rows = b.rows < rows ? b.rows : rows;
    int64_t at = first * g->L, M = b.rows * g->L;
    struct network_result r = {0};
    r.forward.iterations = out->iterations + first * per;
    r.forward.residual = out->residual + first * per;
    r.forward.exit = out->exit + first * per;
    s = network_evaluate(&net, &e->w.set[0], o, &b, &r);
    if (s == OK)
      s = be->download(be->st, (size_t)(M * d->V) * sizeof(real), net.logits,
                       out->logits + at * d->V);
    if (s == OK)
      s = be->download(be->st, (size_t)(M * d->D) * sizeof(real), net.z[0],
                       out->hidden + at * d->D);
    t->loss += r.loss_sum;
    t->labels += r.labels;
    t->correct += r.correct;
    t->samples += r.forward.samples;
    t->converged += r.forward.exits[FP_CONVERGED];
  }
  network_close(&net);
  return s;
}

static enum status write_outputs(const struct evaluator *e, const struct given_tokens *g,
                                 bool windowed, const struct outputs *out, const char *path)
{
  const enum st_dtype own = REAL_BITS == 32 ? ST_F32 : ST_F64;
  const struct model_dims *d = &e->w.m.dims;
  int64_t samples = windowed ? g->B * g->L : g->B;
  int rank = windowed ? 2 : 1;
  struct st_tensor t[] = {
      {"logits", own, 3, {g->B, g->L, d->V}, g->B * g->L * d->V, out->logits},
      {"hidden", own, 3, {g->B, g->L, d->D}, g->B * g->L * d->D, out->hidden},
      {"residual", ST_F64, rank, {g->B, g->L}, samples, out->residual},
      {"iterations", ST_I32, rank, {g->B, g->L}, samples, out->iterations},
  };
  bool implicit = e->c->model.kind == MODEL_IMPLICIT;
  return safetensors_write(path, t, implicit ? 4 : 2);
}

static enum status logits_of(const struct evaluator *e, const struct given_tokens *g,
                             const char *path)
{
  const struct model_dims *d = &e->w.m.dims;
  struct fp_options o = mode_options(e->c, e->c->deq.mode, g->L);
  size_t M = (size_t)(g->B * g->L);
  struct outputs out = {
      .logits = malloc(M * (size_t)d->V * sizeof(real)),
      .hidden = malloc(M * (size_t)d->D * sizeof(real)),
      .residual = calloc(M, sizeof(double)),
      .iterations = calloc(M, sizeof(int32_t)),
      .exit = calloc(M, 1),
  };
  struct tally t = {0};
  enum status s = OK;
  if (!out.logits || !out.hidden || !out.residual || !out.iterations || !out.exit)
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory for %zu tokens", M);
  if (s == OK)
    s = evaluate_given(e, g, &o, &out, &t);
  if (s == OK)
    s = write_outputs(e, g, o.window != FP_WINDOW_ALL, &out, path);
  free(out.logits), free(out.hidden), free(out.residual), free(out.iterations), free(out.exit);
  if (s != OK)
    return s;
  (void)printf("%s: logits of %lld x %lld tokens", path, (long long)g->B, (long long)g->L);
  if (t.labels)
    (void)printf(", loss %.6f, accuracy %.4f", t.loss / (double)t.labels,
                 (double)t.correct / (double)t.labels);
  if (t.samples)
    (void)printf(", %lld of %lld samples converged", (long long)t.converged, (long long)t.samples);
  (void)printf("\n");
  return OK;
}

static enum status gradients_of(struct evaluator *e, const struct given_tokens *g, const char *path)
{
  struct network net;
  struct network_result r = {0};
  struct batch b = {.rows = g->B, .tokens = g->tokens, .labels = g->labels};
  struct named_set set = {"", &e->w.set[1]};
  TRY(network_open(&e->w.m, &e->c->deq, e->solver, g->B, g->L, true, &net));
  enum status s = network_learn(&net, &e->w.set[0], e->c->deq.gradient, &b, &e->w.set[1], &r);
  network_close(&net);
  TRY(s);
  TRY(weights_write(&e->w, path, &set, 1));
  (void)printf("%s: gradient (%s) of loss %.9g over %lld labels\n", path,
               gradient_name(e->c->deq.gradient), r.labels ? r.loss_sum / (double)r.labels : 0.0,
               (long long)r.labels);
  return OK;
}

static enum status evaluate_tokens(struct evaluator *e, const struct evaluate_options *o)
{
  struct given_tokens g = {0};
  enum status s = given_tokens_read(o->tokens, e->w.m.dims.V, &g);
  if (s == OK && o->gradients && !g.labels)
    s = fail_at(ERR_USAGE, __FILE__, __LINE__, "%s: --gradients needs labels in it", o->tokens);
  if (s == OK && o->logits)
    s = logits_of(e, &g, o->logits);
  if (s == OK && o->gradients)
    s = gradients_of(e, &g, o->gradients);
  given_tokens_free(&g);
  return s;
}

/* ---- the table ---- */

static void print_row(const struct evaluation_row *r, bool text, bool implicit)
{
  (void)printf("%-13s %7lld  %8.4f  %8.4f  %9.4f", evaluate_mode_name(r->mode),
               (long long)r->length, r->loss, r->accuracy,
               text ? data_bits(r->loss) : r->accuracy_last10);
  if (implicit)
    (void)printf("  %10.1f  %8lld  %9.4f", r->solve.iterations_mean,
                 (long long)r->solve.iterations_max, r->solve.converged);
  (void)printf("\n");
  (void)fflush(stdout);
}

static void number(FILE *out, const char *key, double x, const char *after)
{
  if (isfinite(x))
    (void)fprintf(out, "\"%s\": %.9g%s", key, x, after);
  else
    (void)fprintf(out, "\"%s\": null%s", key, after);
}

static void write_mode(FILE *out, const struct evaluation_row *row, int64_t rows, bool text,
                       bool implicit)
{
  (void)fprintf(out, "    \"%s\": [", evaluate_mode_name(row->mode));
  for (int64_t i = 0; i < rows; i++) {
    (void)fprintf(out, "%s\n      {\"length\": %lld, ", i ? "," : "", (long long)row[i].length);
    number(out, "loss", row[i].loss, ", ");
    number(out, "accuracy", row[i].accuracy, ", ");
    number(out, "accuracy_last10", row[i].accuracy_last10, ", ");
    if (text) {
      number(out, "bits_per_byte", data_bits(row[i].loss), ", ");
    } else {
      number(out, "accuracy_group", row[i].accuracy_group, ", ");
      number(out, "accuracy_monoid", row[i].accuracy_monoid, ", ");
    }
    number(out, "iterations_mean", row[i].solve.iterations_mean, ", ");
    number(out, "iterations_max", implicit ? (double)row[i].solve.iterations_max : (double)NAN,
           ", ");
    number(out, "converged", row[i].solve.converged, ", ");
    number(out, "evaluations_per_token",
           implicit ? (double)row[i].block_evaluations / (double)(row[i].sequences * row[i].length)
                    : (double)NAN,
           ", ");
    number(out, "serial_iterations", implicit ? (double)row[i].serial_iterations : (double)NAN,
           ", ");
    number(out, "seconds", row[i].seconds, "}");
  }
  (void)fprintf(out, "\n    ]");
}

static enum status write_json(const struct evaluator *e, const struct evaluation_row *row,
                              int64_t lengths, const char *path)
{
  struct file_writer f;
  bool implicit = e->c->model.kind == MODEL_IMPLICIT, text = e->c->data.task == TASK_TEXT;
  TRY(file_begin(path, &f));
  (void)fprintf(f.out, "{\n  \"kind\": \"%s\",\n  \"parameters\": %lld,\n  \"modes\": {\n",
                model_kind_name(e->c->model.kind), (long long)e->w.tensors.parameters);
  write_mode(f.out, row, lengths, text, implicit);
  (void)fprintf(f.out, ",\n");
  write_mode(f.out, row + lengths, lengths, text, implicit);
  (void)fprintf(f.out, "\n  }\n}\n");
  return file_commit(&f);
}

static enum status evaluate_sequences(struct evaluator *e, const struct evaluate_options *o)
{
  const struct evaluate_config *c = &e->c->evaluate;
  struct evaluation_row row[2 * CONFIG_LENGTHS] = {0};
  bool implicit = e->c->model.kind == MODEL_IMPLICIT, text = e->c->data.task == TASK_TEXT;
  for (int64_t i = 0; i < c->lengths_count; i++)
    TRY(data_require(&e->data, STREAM_EVALUATE, c->lengths[i], "evaluate.lengths"));
  (void)printf("%s, %s, %lld parameters, %lld sequences a length\n", e->c->name,
               model_kind_name(e->c->model.kind), (long long)e->w.tensors.parameters,
               (long long)c->sequences);
  (void)printf("%-13s %7s  %8s  %8s  %9s%s\n", "mode", "length", "loss", "accuracy",
               text ? "bits/byte" : "last 10", implicit ? "  iterations   maximum  converged" : "");
  for (int mode = 0; mode < 2; mode++) {
    char what[FP_DESCRIPTION];
    struct fp_options chosen =
        mode_options(e->c, (enum evaluate_mode)mode, c->lengths[c->lengths_count - 1]);
    if (implicit && e->c->deq.evaluate.solver == FP_AUTO)
      (void)printf("auto, %s: %s\n", evaluate_mode_name((enum evaluate_mode)mode),
                   fp_describe(&chosen, what));
    for (int64_t i = 0; i < c->lengths_count; i++) {
      struct evaluation_row *r = &row[mode * c->lengths_count + i];
      r->mode = mode == 0 ? MODE_SEQUENTIAL : MODE_SIMULTANEOUS;
      r->length = c->lengths[i];
      r->sequences = c->sequences;
      TRY(evaluate_mode(e, r));
      print_row(r, text, implicit);
    }
  }
  return o->json ? write_json(e, row, c->lengths_count, o->json) : OK;
}

enum status NAME(evaluate)(const struct config *c, const struct backend *be,
                           const struct solver_port *solver, const char *dir,
                           const struct evaluate_options *o)
{
  struct evaluator e = {.c = c, .solver = solver};
  char path[2 * CONFIG_PATH];
  TRY(path_join(path, sizeof path, dir, "model.safetensors"));
  enum status s = o->tokens ? OK : data_open(&c->data, &e.data);
  if (s == OK)
    s = weights_open(&c->model, be, o->gradients ? 2 : 1, &e.w);
  if (s == OK) {
    struct named_set set = {"", &e.w.set[0]};
    s = weights_read(&e.w, path, &set, 1);
    if (s == OK)
      s = o->tokens ? evaluate_tokens(&e, o) : evaluate_sequences(&e, o);
    weights_close(&e.w);
  }
  data_close(&e.data);
  return s;
}
#endif
