/* bench.c: how fast, against what is possible and against others. */
#include "core/files.h"
#include "experiments/bench.h"
#include "experiments/json_file.h"
#include "experiments/jacobian_runtime.h"
#include "experiments/program.h"
#include "kernels/blas.h"
#include <jansson.h>
#include <omp.h>
#include <stdlib.h>

static const char usage[] =
    "usage: bench train|scaling|kernels [CONFIG.yaml] [key.path=value ...] [options]\n"
    "       bench decode [CONFIG.yaml|DIR] [key.path=value ...] [options]\n"
    "       bench solvers [DIR ... [key.path=value ...]] [options]\n"
    "       bench jacobian [options]\n\n"
    "Measures and prints the median and the extremes of several runs.\n"
    "  train     tokens/s of training's two phases, unroll and phantom, every solve taking\n"
    "            deq.forward.max_iter iterations; beside PyTorch's where python has torch\n"
    "  decode    tokens/s one token after the other, a fixed point each: one sequence, and 64 at "
    "a\n"
    "            time; the model and the explicit (implicit) one of its shape; beside PyTorch's.\n"
    "            DIR is a run or checkpoint; the model of a CONFIG has not been trained, and "
    "takes\n"
    "            deq.forward.max_iter iterations a token\n"
    "  scaling   time a token of a training step and memory, 16384 tokens a step: by length,\n"
    "            layers and solver iterations; the memory beside README's formula\n"
    "  kernels   time a call of every operation of a training step\n"
    "  jacobian  time and memory of jacobian_check by the size of the state\n"
    "  solvers   time per unknown and iteration of the fixed-point solvers, and what they reach "
    "on\n"
    "            problems from the literature, beside KINSOL's and TorchDEQ's where they are "
    "here;\n"
    "            with DIRs (runs, checkpoints): on their models, by solver and window, at "
    "evaluate.lengths\n"
    "            ([128,256] unless given) with evaluate.sequences (8)\n"
    "CONFIG is configs/quickstart_implicit.yaml unless given.";
static const char quickstart[] = "configs/quickstart_implicit.yaml";
static const char no_config[] =
    "name: bench\nmodel: {kind: implicit}\ndata: {task: word_problem}\n";

struct bench_subject {
  const char *name;
  enum status (*run)(const struct bench_request *q, struct bench_results *r);
  enum { TAKES_NOTHING, TAKES_CONFIG, TAKES_RUNS } takes;
};
static const struct bench_subject subjects[] = {
    {"train", bench_train, TAKES_CONFIG},        {"decode", bench_decode, TAKES_CONFIG},
    {"scaling", bench_scaling, TAKES_CONFIG},    {"kernels", bench_kernels, TAKES_CONFIG},
    {"jacobian", bench_jacobian, TAKES_NOTHING}, {"solvers", bench_solvers, TAKES_RUNS}};

static const struct bench_subject *subject_of(const char *name)
{
  for (size_t i = 0; name && i < sizeof subjects / sizeof *subjects; i++)
    if (strcmp(name, subjects[i].name) == 0)
      return &subjects[i];
  return NULL;
}

static json_t *number(double x) { return x - x == 0 ? json_real(x) : json_null(); }

static json_t *machine(const char *device)
{
  json_t *m = json_object();
  (void)json_object_set_new(m, "device", json_string(device));
  (void)json_object_set_new(m, "threads", json_integer(omp_get_max_threads()));
  (void)json_object_set_new(m, "blas", json_string(blas_describe()));
  return m;
}

static enum status write_json(const struct bench_results *r, const char *device, const char *path)
{
  json_t *root = json_object(), *list = json_array();
  for (const struct bench_result *b = r->result; b < r->result + r->count; b++) {
    json_t *o = json_object();
    (void)json_object_set_new(o, "name", json_string(b->name));
    (void)json_object_set_new(o, "unit", json_string(b->unit));
    (void)json_object_set_new(o, "value", number(b->value));
    (void)json_object_set_new(o, "low", number(b->low));
    (void)json_object_set_new(o, "high", number(b->high));
    (void)json_object_set_new(o, "limit", number(b->limit));
    (void)json_object_set_new(o, "peer", number(b->peer));
    (void)json_array_append_new(list, o);
  }
  (void)json_object_set_new(root, "machine", machine(device));
  (void)json_object_set_new(root, "results", list);
  return json_file_write(root, 0, path);
}

/* What is asked for with which configuration. */
enum { MOST_RUNS = 32 };
struct request {
  char checkpoint[2 * CONFIG_PATH];
  const char *json, *against, *seconds, *directory[MOST_RUNS];
  struct config config;
  struct bench_request q;
};

/* earlier: what --against names, or NULL. */
static enum status measure(const struct bench_subject *subject, struct request *a,
                           const json_t *earlier)
{
  struct bench_results results = {0};
  struct runtime rt;
  TRY(runtime_open(&a->config, &rt));
  struct jacobian_runtime jacobian = jacobian_runtime(&rt);
  a->q.rt = &rt;
  a->q.jacobian = &jacobian;
  a->q.config = &a->config;
  enum status s = subject->run == bench_kernels || a->q.profile
                      ? bench_measure_limits(&a->q, &results, &a->q.limits)
                      : OK;
  if (s == OK)
    s = subject->run(&a->q, &results);
  if (s == OK && earlier)
    bench_against(&results, a->against, earlier);
  if (s == OK && a->json)
    s = write_json(&results, rt.device, a->json);
  free(results.result);
  a->q.rt = NULL, a->q.jacobian = NULL; /* they end here */
  return s;
}

/* The configuration of a file, or of a run or checkpoint, whose parameters are then asked for. */
static enum status load(const struct bench_subject *subject, const struct command_line *line,
                        struct request *a)
{
  char path[2 * CONFIG_PATH];
  const char *target = line->target ? line->target : quickstart;
  if (subject->run == bench_decode && path_is_directory(target)) {
    TRY(checkpoint_resolve(target, a->checkpoint, sizeof a->checkpoint));
    TRY(path_join(path, sizeof path, a->checkpoint, "config.yaml"));
    a->q.checkpoint = a->checkpoint;
    target = path;
  }
  return config_load(target, line->overrides, line->override, &a->config);
}

/* The directories behind WHAT. */
static int directories_of(int argc, char **argv, const char *directory[MOST_RUNS])
{
  int n = 0;
  while (n < MOST_RUNS && 2 + n < argc && path_is_directory(argv[2 + n])) {
    directory[n] = argv[2 + n];
    n++;
  }
  return n;
}

static enum status run(int argc, char **argv)
{
  struct command_line line;
  struct request a = {.q.seconds = 1};
  const struct option_spec options[] = {
      {"json", "FILE", "write the results as JSON", &a.json, NULL},
      {"against", "FILE", "print ratios to what --json wrote earlier", &a.against, NULL},
      {"profile", NULL, "train: where a step's time goes", NULL, &a.q.profile},
      {"no-peer", NULL, "train, decode, solvers: without PyTorch and others", NULL, &a.q.no_peer},
      {"seconds", "X", "a repetition takes at least this long (1)", &a.seconds, NULL},
      {0}};
  /* WHAT, then what every program takes */
  const struct bench_subject *subject = subject_of(argc > 1 ? argv[1] : NULL);
  int skip = subject ? 1 : 0;
  if (subject && subject->takes == TAKES_RUNS)
    a.q.directories = directories_of(argc, argv, a.directory);
  skip += a.q.directories > 1 ? a.q.directories - 1 : 0; /* the last one is the command's target */
  TRY(command_line_parse(argc - skip, argv + skip, usage, options, &line));
  if (!subject)
    FAIL(ERR_USAGE, "%s", usage);
  if (line.target && strchr(line.target, '=') && subject->takes == TAKES_CONFIG)
    command_line_without_target(&line);
  if (subject->takes != TAKES_CONFIG && line.target && a.q.directories == 0)
    FAIL(ERR_USAGE,
         subject->takes == TAKES_RUNS ? "bench %s: %s is not a directory"
                                      : "bench %s takes no configuration, as %s",
         subject->name, line.target);
  a.q.directory = a.directory;
  a.q.override = line.override, a.q.overrides = line.overrides;
  if (a.seconds && !((a.q.seconds = atof(a.seconds)) > 0))
    FAIL(ERR_USAGE, "--seconds must be a number above 0, not %s", a.seconds);
  TRY(file_check(a.json));
  if (subject->takes == TAKES_CONFIG)
    TRY(load(subject, &line, &a));
  else
    TRY(config_parse("bench", no_config, sizeof no_config - 1, &a.config));
  json_t *earlier = NULL;
  if (a.against) /* before minutes are spent */
    TRY(bench_earlier(a.against, &earlier));
  enum status s = measure(subject, &a, earlier);
  json_decref(earlier);
  return s;
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  return program_end(run(argc, argv));
}
