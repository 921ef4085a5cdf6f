/* bench.c: how fast, against what is possible and against others. */
#include "core/files.h"
#include "experiments/bench.h"
#include "experiments/jacobian_runtime.h"
#include "experiments/program.h"
#include "kernels/blas.h"
#include <jansson.h>
#include <omp.h>
#include <stdlib.h>

static const char usage[] =
    "usage: bench jacobian [--json FILE]\n\n"
    "Measures and prints the median and the extremes of several runs.\n"
    "  jacobian  time and memory of jacobian_check by the size of the state";

struct bench_subject {
  const char *name;
  enum status (*run)(const struct jacobian_runtime *rt, struct bench_results *r);
};
static const struct bench_subject subjects[] = {{"jacobian", bench_jacobian}};

static json_t *number(double x) { return x - x == 0 ? json_real(x) : json_null(); }

static json_t *machine(void)
{
  json_t *m = json_object();
  (void)json_object_set_new(m, "threads", json_integer(omp_get_max_threads()));
  (void)json_object_set_new(m, "blas", json_string(blas_describe()));
  return m;
}

static enum status write_json(const struct bench_results *r, const char *path)
{
  json_t *root = json_object(), *list = json_array();
  struct file_writer w;
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
  (void)json_object_set_new(root, "machine", machine());
  (void)json_object_set_new(root, "results", list);
  char *text = json_dumps(root, JSON_INDENT(2));
  json_decref(root);
  if (!text)
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  enum status s = file_begin(path, &w);
  if (s == OK) {
    (void)fprintf(w.out, "%s\n", text);
    s = file_commit(&w);
  }
  free(text);
  return s;
}

static enum status run(int argc, char **argv)
{
  static const char cpu[] = "name: bench\nmodel: {kind: implicit}\ndata: {task: word_problem}\n";
  struct command_line line;
  struct bench_results results = {0};
  struct config c;
  struct runtime rt;
  const char *json = NULL;
  const struct bench_subject *subject = NULL;
  const struct option_spec options[] = {{"json", "FILE", "write the results as JSON", &json, NULL},
                                        {0}};
  TRY(command_line_parse(argc, argv, usage, options, &line));
  for (size_t i = 0; line.target && i < sizeof subjects / sizeof *subjects; i++)
    if (strcmp(line.target, subjects[i].name) == 0)
      subject = &subjects[i];
  if (!subject)
    FAIL(ERR_USAGE, "%s", usage);
  TRY(config_parse("bench", cpu, sizeof cpu - 1, &c));
  TRY(runtime_open(&c, &rt));
  struct jacobian_runtime jrt = jacobian_runtime(&rt);
  enum status s = subject->run(&jrt, &results);
  if (s == OK && json)
    s = write_json(&results, json);
  free(results.result);
  return s;
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  return program_end(run(argc, argv));
}
