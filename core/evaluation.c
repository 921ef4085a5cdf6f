/* evaluation.c: a trained model in memory; logits and gradients of given tokens. */
#include "core/evaluator.h"
#include "core/files.h"
#include "core/tokens.h"
#include "core/training.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

/* ---- given tokens ---- */

/* Host copies of what --logits writes; one allocation each, freed by the caller. */
struct outputs {
  real *logits, *hidden;
  double *residual;
  int32_t *iterations;
  uint8_t *exit;
};

/* Over all batches. */
struct tally {
  int64_t labels, correct;
  double loss;
  struct fp_result solve; /* totals */
};

static enum status answer_given(const struct evaluator *e, const struct given_tokens *g,
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
    fp_result_add(&t->solve, &r.forward);
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

/* A solve whose answer is handed out as a fixed point's. */
static enum status must_converge(const char *what, const char *section, const struct fp_result *r)
{
  int64_t others = r->samples - r->exits[FP_CONVERGED];
  if (others > 0)
    FAIL(ERR_NUMERIC, "%s: %lld of %lld samples of the solve did not converge (%s: %s)", what,
         (long long)others, (long long)r->samples, section, fp_failure_name(r));
  return OK;
}

static enum status must_be_finite(const char *what, double loss)
{
  if (!isfinite(loss))
    FAIL(ERR_NUMERIC, "%s: the loss is not finite", what);
  return OK;
}

/* path NULL: they are not written. */
static enum status logits_of(const struct evaluator *e, const struct given_tokens *g,
                             const char *path)
{
  const struct model_dims *d = &e->w.m.dims;
  struct fp_options o = evaluate_solve(e->c, e->c->deq.mode, g->L);
  char what[FP_DESCRIPTION];
  if (e->c->deq.evaluate.solver == FP_AUTO && e->c->model.kind == MODEL_IMPLICIT)
    (void)printf("auto: %s\n", fp_describe(&o, what));
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
    s = answer_given(e, g, &o, &out, &t);
  if (s == OK && path)
    s = write_outputs(e, g, o.window != FP_WINDOW_ALL, &out, path);
  free(out.logits), free(out.hidden), free(out.residual), free(out.iterations), free(out.exit);
  if (s != OK)
    return s;
  (void)printf("%s%s%lld x %lld tokens", path ? path : "", path ? ": logits of " : "",
               (long long)g->B, (long long)g->L);
  if (t.labels)
    (void)printf(", loss %.6f, accuracy %.4f", t.loss / (double)t.labels,
                 (double)t.correct / (double)t.labels);
  if (t.solve.samples)
    (void)printf(", %lld of %lld samples converged", (long long)t.solve.exits[FP_CONVERGED],
                 (long long)t.solve.samples);
  (void)printf("\n");
  TRY(must_be_finite(path ? path : "--tokens", t.loss));
  return must_converge(path ? path : "--tokens", "deq.evaluate", &t.solve);
}

static void say_solve(const char *section, const struct fp_result *r)
{
  if (r->samples)
    (void)printf(", %s: %lld of %lld samples converged", section, (long long)r->exits[FP_CONVERGED],
                 (long long)r->samples);
}

/* Of the mean cross-entropy alone: what training adds to it is left out. */
static enum status gradients_of(struct evaluator *e, const struct given_tokens *g, const char *path)
{
  struct network net;
  struct deq_config deq = e->c->deq;
  bool implicit = e->c->model.kind == MODEL_IMPLICIT;
  struct network_result r = {0};
  struct batch b = {.rows = g->B, .tokens = g->tokens, .labels = g->labels};
  struct named_set set = {"", &e->w.set[1]};
  deq.correction.states = 1;
  deq.regularisation.weight = 0;
  TRY(network_open(&e->w.m, &deq, e->solver, g->B, g->L, true, &net));
  enum status s = network_learn(&net, &e->w.set[0], deq.gradient, &b, &e->w.set[1], &r);
  network_close(&net);
  TRY(s);
  TRY(weights_write(&e->w, path, &set, 1));
  (void)printf("%s: gradient (%s) of loss %.9g over %lld labels", path,
               implicit ? gradient_name(deq.gradient) : "explicit",
               r.labels ? r.loss_sum / (double)r.labels : 0.0, (long long)r.labels);
  say_solve("deq.forward", &r.forward);
  say_solve("deq.backward", &r.backward);
  if (r.fallbacks)
    (void)printf(", %lld of %lld sequences without shine's inverse", (long long)r.fallbacks,
                 (long long)g->B);
  (void)printf("\n");
  TRY(must_be_finite(path, r.loss_sum));
  if (!implicit || deq.gradient != GRADIENT_IFT) /* the others do not promise an exact gradient */
    return OK;
  TRY(must_converge(path, "deq.forward", &r.forward));
  return must_converge(path, "deq.backward", &r.backward);
}

static bool some_count(const struct given_tokens *g)
{
  bool some = false;
  for (int64_t i = 0; g->labels && i < g->B * g->L && !some; i++)
    some = g->labels[i] != IGNORED_LABEL;
  return some;
}

/* What is asked for, all of it: a solve that did not converge keeps nothing from being written. */
static enum status answer(struct evaluator *e, const struct given_tokens *g,
                          const struct given_request *o)
{
  char first[1024];
  enum status logits = o->logits || !o->gradients ? logits_of(e, g, o->logits) : OK;
  if (!o->gradients || (logits != OK && logits != ERR_NUMERIC))
    return logits;
  (void)snprintf(first, sizeof first, "%s", logits == OK ? "" : last_error());
  enum status gradients = gradients_of(e, g, o->gradients);
  if (logits == OK)
    return gradients;
  if (gradients == OK)
    FAIL(logits, "%s", first);
  return fail_within(gradients, "%s; and", first);
}

static enum status evaluate_tokens(struct evaluator *e, const struct given_request *o)
{
  struct given_tokens g = {0};
  enum status s = given_tokens_read(o->tokens, e->w.m.dims.V, &g);
  if (s == OK && o->gradients && !g.labels)
    s = fail_at(ERR_USAGE, __FILE__, __LINE__, "%s: --gradients needs labels in it", o->tokens);
  if (s == OK && o->gradients && !some_count(&g))
    s = fail_at(ERR_USAGE, __FILE__, __LINE__,
                "%s: --gradients needs a label that counts: all are -100", o->tokens);
  if (s == OK && !o->gradients && !o->logits && !g.labels)
    s = fail_at(ERR_USAGE, __FILE__, __LINE__,
                "%s: has no labels: nothing to tell without --logits FILE", o->tokens);
  if (s == OK)
    s = answer(e, &g, o);
  given_tokens_free(&g);
  return s;
}

enum status evaluator_open(const struct config *c, const struct backend *be,
                           const struct solver_port *solver, const char *dir, int sets,
                           struct evaluator *e)
{
  char path[2 * CONFIG_PATH];
  *e = (struct evaluator){.c = c, .solver = solver};
  TRY(path_join(path, sizeof path, dir, "model.safetensors"));
  enum status s = weights_open(&c->model, be, sets, &e->w);
  if (s == OK) {
    struct named_set set = {"", &e->w.set[0]};
    s = weights_read(&e->w, path, &set, 1, true);
    if (s != OK)
      weights_close(&e->w);
  }
  return s;
}

enum status NAME(evaluate)(const struct config *c, const struct backend *be,
                           const struct solver_port *solver, const char *dir,
                           const struct given_request *o)
{
  struct evaluator e;
  TRY(evaluator_open(c, be, solver, dir, o->gradients ? 2 : 1, &e));
  enum status s = evaluate_tokens(&e, o);
  weights_close(&e.w);
  return s;
}
#endif
