/* jacobian_check.c: the state-to-state Jacobian of an implicit Mamba-2 against the theorem, four
 * ways, in float64. */
#include "core/files.h"
#include "core/interrupt.h"
#include "experiments/jacobian_report.h"
#include "experiments/jacobian_runtime.h"
#include "experiments/plot.h"
#include "experiments/program.h"

static const char usage[] =
    "usage: jacobian_check [CONFIG.yaml] [key.path=value ...] [--model DIR] [--input FILE]\n"
    "                      [--figures DIR] [--json FILE] [--save FILE.safetensors]\n\n"
    "Computes dh'/dh, the derivative of the state after one token by the state before it, through "
    "the\n"
    "fixed point: by the theorem's closed form, by complex step, by the adjoint and by finite\n"
    "differences, and compares them.  Without CONFIG: a random model of one layer, d_model 64, "
    "d_state 1.\n"
    "--model DIR takes the model of a run or checkpoint; the jacobian section of its "
    "configuration, or\n"
    "of CONFIG, says at which input.";

/* The notebook's: one layer, one head of d_model channels with one state each. */
static const char notebook[] = "name: notebook\n"
                               "model:\n"
                               "  kind: implicit\n"
                               "  d_model: 64\n"
                               "  mamba2: {d_state: 1, expand: 1, headdim: 64}\n"
                               "deq:\n"
                               "  evaluate: {solver: picard, max_iter: 512, damping: 1.0}\n"
                               "data: {task: word_problem}\n";

struct request {
  const char *model, *input, *figures, *json, *save;
};

/* The checkpoint to read, or "" for a random model. */
static enum status find_checkpoint(const struct config *c, const char *model, char *out,
                                   size_t size)
{
  char run[2 * CONFIG_PATH];
  *out = 0;
  if (model)
    return checkpoint_resolve(model, out, size);
  if (c->jacobian.parameters != JACOBIAN_RUN)
    return OK;
  TRY(run_directory(c, run, sizeof run));
  enum status s = checkpoint_resolve(run, out, size);
  return s == OK ? OK : fail_within(s, "jacobian.parameters: run: train it first");
}

/* What the user asked for, from CONFIG, the checkpoint's own configuration or the one above. */
static enum status read_config(struct command_line *line, const char *model, struct config *c,
                               char *checkpoint, size_t size)
{
  char path[2 * CONFIG_PATH];
  struct config trained;
  if (line->target && strchr(line->target, '='))
    command_line_without_target(line);
  if (model)
    TRY(find_checkpoint(c, model, checkpoint, size));
  if (line->target)
    TRY(config_load(line->target, line->overrides, line->override, c));
  else if (model) {
    TRY(path_join(path, sizeof path, checkpoint, "config.yaml"));
    TRY(config_load(path, line->overrides, line->override, c));
  } else
    TRY(config_parse_with("notebook", notebook, sizeof notebook - 1, line->overrides,
                          line->override, c));
  if (!model)
    TRY(find_checkpoint(c, NULL, checkpoint, size));
  if (*checkpoint && line->target) {
    TRY(path_join(path, sizeof path, checkpoint, "config.yaml"));
    TRY(config_load(path, 0, NULL, &trained));
    c->model = trained.model;
    c->data = trained.data;
  }
  return config_resolve(c);
}

static enum status write_all(const struct verification *v, const struct request *r)
{
  bool drawn = true;
  if (r->json)
    TRY(jacobian_write_json(v, r->json));
  if (r->save && v->found)
    TRY(verification_save(v, r->save));
  if (r->figures && v->found) {
    TRY(jacobian_figures(v, r->figures, &drawn));
    if (!drawn)
      (void)fprintf(stderr, "%s: %s\n", r->figures, plot_hint());
    else
      (void)fprintf(stderr, "figures in %s\n", r->figures);
  }
  return OK;
}

/* Of a large state, whose matrices take minutes and more. */
static void say(const struct verification *v, const char *what)
{
  enum { LARGE = 1024 };
  int64_t S = v->size.states;
  if (S > LARGE)
    (void)fprintf(stderr, "%lld states, matrices of %.3g GiB: %s\n", (long long)S,
                  (double)(S * S) * sizeof(double) / (1 << 30), what);
}

static enum status run(int argc, char **argv)
{
  struct request r = {0};
  struct command_line line;
  struct config c;
  struct runtime rt;
  struct verification v;
  char checkpoint[2 * CONFIG_PATH];
  const struct option_spec options[] = {
      {"model", "DIR", "a trained model: a run (then its latest checkpoint) or a checkpoint",
       &r.model, NULL},
      {"input", "FILE", "the point: u, h, conv_state (and x) of a file that --save wrote", &r.input,
       NULL},
      {"figures", "DIR", "draw figures (PNG, SVG) there, and write their data", &r.figures, NULL},
      {"json", "FILE", "write the table, and more, as JSON", &r.json, NULL},
      {"save", "FILE", "write parameters, point and matrices as safetensors", &r.save, NULL},
      {0}};
  TRY(command_line_parse(argc, argv, usage, options, &line));
  if (r.json && r.save && path_is_same(r.json, r.save))
    FAIL(ERR_USAGE, "%s: --json and --save need a file each", r.json);
  TRY(read_config(&line, r.model, &c, checkpoint, sizeof checkpoint));
  TRY(file_check(r.json));
  TRY(file_check(r.save));
  if (r.figures)
    TRY(directory_make(r.figures));
  TRY(runtime_open(&c, &rt));
  struct jacobian_runtime jrt = jacobian_runtime(&rt);
  struct verification_request request = {*checkpoint ? checkpoint : NULL, r.input, PLANTED_NONE,
                                         say};
  TRY(verify_jacobian(&c, &jrt, request, &v));
  jacobian_print(&v, stdout);
  enum status s = write_all(&v, &r);
  bool found = v.found, passed = v.passed;
  verification_free(&v);
  TRY(s);
  if (!found)
    FAIL(ERR_NUMERIC, "the fixed point was not found");
  if (!passed)
    FAIL(ERR_NUMERIC, "the check failed");
  return OK;
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  interrupt_at_once();
  return program_end(run(argc, argv));
}
