/* train.c: trains a model as a YAML file describes it. */
#include "core/files.h"
#include "experiments/program.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: train CONFIG.yaml [MORE.yaml ...] [key.path=value ...] [--overwrite]\n"
    "       train --resume DIR [MORE.yaml ...] [key.path=value ...]\n"
    "       train --keys\n\n"
    "Trains an implicit or explicit Mamba-2 and writes the run directory (runs_dir/name): "
    "config.yaml,\n"
    "metrics.jsonl, checkpoints/ and latest.  Later files win over earlier ones, overrides (YAML "
    "values)\nover all of them.\n"
    "Ctrl-C finishes the step, writes a checkpoint and says how to go on.";

/* The run of a checkpoint, which must be its latest: that an older one is meant is not guessed. */
static enum status run_of_checkpoint(const char *checkpoint, char *out, size_t size)
{
  char path[2 * CONFIG_PATH], run[PATH_MAX], given[PATH_MAX];
  TRY(path_join(path, sizeof path, checkpoint, "../.."));
  if (!realpath(path, run))
    FAIL_IO(path, "find");
  TRY(path_join(path, sizeof path, run, "latest"));
  if (!path_is_same(path, checkpoint) && realpath(checkpoint, given))
    FAIL(ERR_USAGE,
         "%s is not the run's latest checkpoint; to go back to it, and lose what came behind: "
         "ln -sfn checkpoints/%s %s, then --resume %s",
         checkpoint, strrchr(given, '/') + 1, shell_quoted(path).text, shell_quoted(run).text);
  return path_join(out, size, "", run);
}

/* A run's directory from what the user gave: the run, or its latest checkpoint. */
static enum status run_of(const char *dir, char *out, size_t size)
{
  char path[2 * CONFIG_PATH];
  TRY(path_join(path, sizeof path, dir, "trainer.json"));
  if (path_exists(path))
    return run_of_checkpoint(dir, out, size);
  TRY(path_join(path, sizeof path, dir, "model.safetensors"));
  if (path_exists(path))
    FAIL(ERR_USAGE, "%s: a model without trainer.json: no run that could be gone on with", dir);
  return path_join(out, size, "", dir);
}

/* Says what overrides change of a run that is gone on with. */
static enum status say_overrides(const char *file, const char *directory, const struct config *c)
{
  struct config before;
  TRY(config_load(file, 0, NULL, &before));
  TRY(config_resolve(&before));
  if (strcmp(before.name, c->name) != 0 || strcmp(before.runs_dir, c->runs_dir) != 0)
    FAIL(ERR_USAGE, "--resume goes on in %s: name and runs_dir cannot be changed", directory);
  say_changes(&before, c, "");
  if (before.train.steps != c->train.steps && c->train.schedule != SCHEDULE_CONSTANT)
    (void)fprintf(stderr, "the learning rate goes on as in a schedule over %lld steps\n",
                  (long long)c->train.steps);
  return OK;
}

static enum status run(int argc, char **argv)
{
  struct train_options o = {0};
  struct command_line line;
  struct config c;
  struct runtime rt;
  const char *resume = NULL;
  bool keys = false;
  char directory[2 * CONFIG_PATH], config[2 * CONFIG_PATH], program[CONFIG_PATH];
  const struct option_spec options[] = {
      {"resume", "DIR", "go on with a run, exactly, from its latest checkpoint", &resume, NULL},
      {"overwrite", NULL, "remove an existing run of this name first", NULL, &o.overwrite},
      {"keys", NULL, "print every configuration key: type, range, default, meaning", NULL, &keys},
      {0}};
  TRY(command_line_parse(argc, argv, usage, options, &line));
  if (resume && o.overwrite)
    FAIL(ERR_USAGE, "--resume goes on with a run, --overwrite removes it: give one of them");
  if (keys) {
    config_print_keys(stdout);
    return OK;
  }
  if (resume) {
    command_line_without_target(&line);
    TRY(run_of(resume, directory, sizeof directory));
    TRY(path_join(config, sizeof config, directory, "config.yaml"));
    o.resume = true;
    line.target = config;
  }
  if (!line.target)
    FAIL(ERR_USAGE, "%s", usage);
  TRY(config_load(line.target, line.overrides, line.override, &c));
  TRY(config_resolve(&c));
  if (!resume)
    TRY(run_directory(&c, directory, sizeof directory));
  else
    TRY(say_overrides(config, directory, &c));
  o.directory = directory;
  o.program = program_beside("train", program);
  TRY(runtime_open(&c, &rt));
  TRY(train_run(&c, &rt, &o));
  (void)printf("%s: %lld steps done; evaluate it with: %s %s\n", directory,
               (long long)c.train.steps, shell_quoted(program_beside("evaluate", program)).text,
               shell_quoted(directory).text);
  return OK;
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  return program_end(run(argc, argv));
}
