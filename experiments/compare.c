/* compare.c: trained runs beside each other: tables, figures and a report. */
#include "core/files.h"
#include "core/progress.h"
#include "experiments/compare_parts.h"
#include "experiments/plot.h"
#include "experiments/program.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
    "usage: compare RUN RUN... [key.path=value ...] [--output DIR]\n\n"
    "Evaluates every run (a run, then its latest checkpoint, or a checkpoint) on the same task "
    "and\n"
    "shows them beside each other: cost of training, accuracy by length in both modes, "
    "iterations,\n"
    "agreement of the modes, Jacobians.  Runs that differ by seed and name only are one model.  "
    "The\n"
    "first run says which lengths and how many sequences, unless evaluate.lengths=[...] and\n"
    "evaluate.sequences=N do; other overrides (deq.evaluate.tol=1e-3) hold for every run.  What "
    "was\n"
    "measured is kept in RUN/measured.json until the checkpoint or the settings change.\n"
    "DIR (default: compare) receives compare.csv, .json, .md, .html and figures/.";

/* ---- where ---- */

static void describe_machine(char *out, size_t size)
{
  char line[256], name[160] = "unknown processor";
  FILE *f = fopen("/proc/cpuinfo", "r");
  while (f && fgets(line, sizeof line, f))
    if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
      (void)snprintf(name, sizeof name, "%s", strchr(line, ':') + 2);
      name[strcspn(name, "\n")] = 0;
      break;
    }
  if (f)
    (void)fclose(f);
  (void)snprintf(out, size, "%s, %ld cores", name, sysconf(_SC_NPROCESSORS_ONLN));
}

static void describe(struct comparison *c, const char *title)
{
  time_t now = time(NULL);
  struct tm local;
  (void)snprintf(c->title, sizeof c->title, "%s", title);
  describe_machine(c->machine, sizeof c->machine);
  if (localtime_r(&now, &local))
    (void)strftime(c->date, sizeof c->date, "%Y-%m-%d", &local);
}

/* ---- what is written ---- */

/* The figures and the page that holds them. */
static enum status write_report(const struct comparison *c, const char *dir)
{
  char figures[COMPARE_PATH], page[COMPARE_PATH];
  bool drawn;
  TRY(path_join(figures, sizeof figures, dir, "figures"));
  TRY(path_join(page, sizeof page, dir, "compare.html"));
  TRY(compare_figures(c, figures, &drawn));
  TRY(compare_html(c, figures, page));
  (void)printf("figures: %s\nreport:  %s\n", figures, page);
  if (!drawn)
    (void)printf("%s\n", plot_hint());
  return OK;
}

static enum status write_all(const struct comparison *c, const char *dir)
{
  static const struct {
    const char *name;
    enum status (*write)(const struct comparison *c, const char *file);
  } files[] = {{"compare.csv", compare_csv},
               {"compare.json", compare_json},
               {"compare.md", compare_markdown}};
  char path[COMPARE_PATH];
  TRY(directory_make(dir));
  compare_print(c, stdout);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    TRY(path_join(path, sizeof path, dir, files[i].name));
    TRY(files[i].write(c, path));
  }
  TRY(write_report(c, dir));
  (void)printf("written: %s/compare.csv, .json, .md\n", dir);
  return OK;
}

/* ---- runs that the user named ---- */

/* Adds the run, unless it is none: then a warning says why. */
static enum status add_run(const char *dir, struct compare_settings *s, struct comparison *c)
{
  struct compared_run run;
  s->like = c->sections ? &c->section[0].run[0] : NULL;
  enum status status = compared_run_open(dir, s, &run);
  if (status == ERR_DATA || (status == ERR_IO && path_is_directory(dir))) {
    (void)fprintf(stderr, "%s\nskipped: %s\n", last_error(), dir);
    return OK;
  }
  TRY(status);
  if (run.step < run.config.train.steps)
    (void)fprintf(stderr, "%s: not finished: step %lld of %lld\n", dir, (long long)run.step,
                  (long long)run.config.train.steps);
  status = comparison_add(c, "", &run);
  compared_run_free(&run);
  return status;
}

static enum status measure_all(struct comparison *c)
{
  struct progress p = progress_to(stderr);
  struct compared_section *s = c->section;
  struct runtime rt;
  bool open = false;
  for (int64_t i = 0; i < s->runs; i++) {
    bool found;
    TRY(compared_run_recall(&s->run[i], &found));
    if (found)
      continue;
    if (!open)
      TRY(runtime_open(&s->run[i].config, &rt));
    open = true;
    progress_log(&p, "measuring %s (%lld of %lld)", s->run[i].directory, (long long)i + 1,
                 (long long)s->runs);
    TRY(compared_run_measure(&rt, &s->run[i]));
  }
  return OK;
}

static enum status compare_runs(const struct command_line *line, struct comparison *c,
                                const char *output)
{
  struct compare_settings settings = {.overrides = line->overrides, .override = line->override};
  for (int i = 0; i < line->words; i++)
    TRY(add_run(line->word[i], &settings, c));
  if (c->sections == 0)
    FAIL(ERR_DATA, "there is nothing to compare: none of these is a run with a checkpoint");
  TRY(measure_all(c));
  TRY(comparison_group(c));
  describe(c, "Comparison");
  return write_all(c, output ? output : "compare");
}

static enum status run(int argc, char **argv)
{
  const char *output = NULL;
  struct command_line line;
  struct comparison c = {0};
  const struct option_spec options[] = {
      {"output", "DIR", "where tables, figures and the report go", &output, NULL}, {0}};
  TRY(command_line_parse_words(argc, argv, usage, options, &line));
  if (!line.target)
    FAIL(ERR_USAGE, "%s", usage);
  enum status s = compare_runs(&line, &c, output);
  comparison_free(&c);
  return s;
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  return program_end(run(argc, argv));
}
