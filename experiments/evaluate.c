/* evaluate.c: loss and accuracy of a trained model by length and mode; logits and gradients of
 * given tokens. */
#include "core/data.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "experiments/evaluation_json.h"
#include "experiments/json_file.h"
#include "experiments/program.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: evaluate DIR [FILE.yaml ...] [key.path=value ...] [--json FILE]\n"
    "       evaluate DIR ... --tokens FILE [--logits FILE] [--gradients FILE]\n"
    "\n"
    "DIR is a run (then its latest checkpoint) or a checkpoint.  Without --tokens: fresh sequences "
    "of\n"
    "every length of evaluate.lengths, in sequential and simultaneous mode (deq.evaluate says "
    "how).\n"
    "--tokens FILE: safetensors with int32 or int64 input_ids (B,L) and optional labels (B,L), "
    "-100\n"
    "ignored; prints loss and accuracy.  --logits writes logits (B,L,V), hidden (z*), residual,\n"
    "iterations; --gradients writes d(mean cross-entropy)/d(parameter) under each parameter's "
    "name, as\n"
    "deq.gradient says (configs/deq/ift.yaml: exactly); without what training adds to the loss.  "
    "Exit 1\n"
    "when a solve behind --tokens, logits or ift's gradients did not converge, or a loss or solve "
    "is not\n"
    "finite (files are written all the same).";

/* ---- the table ---- */

static void say_auto(const struct config *c)
{
  char what[FP_DESCRIPTION];
  int64_t longest = c->evaluate.lengths[c->evaluate.lengths_count - 1];
  for (int mode = 0; mode < MODES; mode++) {
    struct fp_options o = evaluate_solve(c, (enum evaluate_mode)mode, longest);
    (void)printf("auto, %s: %s\n", evaluate_mode_name((enum evaluate_mode)mode),
                 fp_describe(&o, what));
  }
}

static void print_head(void *to, const struct evaluation *e)
{
  const struct config *c = to;
  bool implicit = e->kind == MODEL_IMPLICIT;
  char data[2 * CONFIG_PATH];
  data_describe(&c->data, sizeof data, data);
  (void)printf("%s, %s, %lld parameters; %s, %lld sequences a length\n", c->name,
               model_kind_name(e->kind), (long long)e->parameters, data,
               (long long)c->evaluate.sequences);
  (void)printf("%-13s %7s  %8s  %8s  %9s%s\n", "mode", "length", "loss", "accuracy",
               c->data.task == TASK_TEXT ? "bits/byte" : "last 10",
               implicit ? "  iterations   maximum  converged" : "");
  if (implicit && c->deq.evaluate.solver == FP_AUTO)
    say_auto(c);
}

static void print_row(void *to, const struct evaluation_row *r)
{
  const struct config *c = to;
  char mode[32];
  struct fp_options o = evaluate_solve(c, r->mode, r->length);
  (void)snprintf(mode, sizeof mode, "%s", evaluate_mode_name(r->mode));
  if (o.window != FP_WINDOW_ALL && o.window > 1 && r->solve.samples) /* given, or auto's */
    (void)snprintf(mode, sizeof mode, "window %lld", (long long)o.window);
  (void)printf("%-13s %7lld  %8.4f  %8.4f  %9.4f", mode, (long long)r->length, r->loss, r->accuracy,
               c->data.task == TASK_TEXT ? data_bits(r->loss) : r->accuracy_last10);
  if (r->solve.samples)
    (void)printf("  %10.1f  %8lld  %9.4f", r->solve.iterations_mean,
                 (long long)r->solve.iterations_max, r->solve.converged);
  (void)printf("\n");
  (void)fflush(stdout);
  if (r->solve.samples && isnan(r->solve.residual_max))
    (void)fprintf(stderr,
                  "%s, length %lld: solves were not finite: there is no loss, and their tokens "
                  "count as wrong\n",
                  mode, (long long)r->length);
}

static enum status write_json(struct evaluation *e, const char *path)
{
  bool bad = false;
  struct exchange x = {.at = json_object(), .bad = &bad};
  exchange_evaluation(&x, false, e);
  if (!bad && isfinite(e->spectral_radius))
    bad = json_object_set_new(x.at, "spectral_radius", json_real(e->spectral_radius)) ||
          json_object_set_new(x.at, "spectral_radius_max", json_real(e->spectral_radius_max));
  if (bad) {
    json_decref(x.at);
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  }
  return json_file_write(x.at, JSON_REAL_PRECISION(9), path);
}

static enum status table(struct config *c, const struct runtime *rt, const char *checkpoint,
                         const char *json)
{
  struct evaluation e;
  struct evaluation_request q = {.begin = print_head, .say = print_row, .to = c};
  TRY(evaluate_run(c, rt, checkpoint, &q, &e));
  if (c->evaluate.spectral_radius && e.kind == MODEL_IMPLICIT)
    (void)printf(
        "spectral radius of df/dz at length %lld, one token of each of %lld sequences: mean "
        "%.4f, largest %.4f\n",
        (long long)c->evaluate.lengths[0], (long long)c->evaluate.spectral_radius,
        e.spectral_radius, e.spectral_radius_max);
  enum status s = json ? write_json(&e, json) : OK;
  if (s == OK)
    s = evaluation_check_finite(&e);
  evaluation_free(&e);
  return s;
}

/* Says what overrides change of the model, or of the data it was trained for. */
static enum status say_other_model(const char *file, const struct config *c)
{
  struct config before;
  TRY(config_load(file, 0, NULL, &before));
  TRY(config_resolve(&before));
  say_changes(&before, c, "model.");
  say_changes(&before, c, "data.");
  return OK;
}

static enum status run(int argc, char **argv)
{
  struct given_request o = {0};
  const char *json = NULL;
  struct command_line line;
  struct config c;
  struct runtime rt;
  char checkpoint[2 * CONFIG_PATH], config[2 * CONFIG_PATH];
  const struct option_spec options[] = {
      {"json", "FILE", "also write the table as JSON", &json, NULL},
      {"tokens", "FILE", "evaluate these tokens instead of fresh sequences", &o.tokens, NULL},
      {"logits", "FILE", "write logits, hidden, residual and iterations of --tokens", &o.logits,
       NULL},
      {"gradients", "FILE", "write the gradient of the mean cross-entropy of --tokens",
       &o.gradients, NULL},
      {0}};
  TRY(command_line_parse(argc, argv, usage, options, &line));
  if (!line.target)
    FAIL(ERR_USAGE, "%s", usage);
  if ((o.logits || o.gradients) && !o.tokens)
    FAIL(ERR_USAGE, "--logits and --gradients need --tokens FILE");
  if ((o.logits && path_is_same(o.logits, o.tokens)) ||
      (o.gradients && path_is_same(o.gradients, o.tokens)))
    FAIL(ERR_USAGE, "%s: would be written over; it holds the tokens", o.tokens);
  if (o.logits && o.gradients && path_is_same(o.logits, o.gradients))
    FAIL(ERR_USAGE, "%s: --logits and --gradients need a file each", o.logits);
  if (o.tokens && json)
    FAIL(ERR_USAGE, "--json writes the table; with --tokens there is none");
  TRY(checkpoint_resolve(line.target, checkpoint, sizeof checkpoint));
  TRY(path_join(config, sizeof config, checkpoint, "config.yaml"));
  TRY(config_load(config, line.overrides, line.override, &c));
  TRY(config_resolve(&c));
  TRY(say_other_model(config, &c));
  TRY(file_check(json));
  TRY(file_check(o.logits));
  TRY(file_check(o.gradients));
  TRY(runtime_open(&c, &rt));
  if (!o.tokens)
    return table(&c, &rt, checkpoint, json);
  interrupt_at_once();
  return evaluate_given(&c, &rt, checkpoint, &o);
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  return program_end(run(argc, argv));
}
