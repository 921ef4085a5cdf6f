/* compare.c: trained runs beside each other: tables, figures and a report. */
#include "core/files.h"
#include "core/progress.h"
#include "experiments/compare_list.h"
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
    "usage: compare RUN RUN... [key.path=value ...] [--output DIR] [--json FILE]\n"
    "       compare LIST.yaml [--output DIR] [--json FILE]\n\n"
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
    "DIR (default: compare) receives compare.csv, .json, .md, .html and figures/.\n\n"
    "LIST.yaml names configurations and seeds (experiments/compare_list.h has every key).  What "
    "is\n"
    "missing is trained, what stopped goes on, what is finished stays; several runs at a time, "
    "each\n"
    "with its share of the cores.  However this ends, the same command goes on.  The comparison "
    "is\n"
    "written to `output`, by default RUNS_DIR/compare.";

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

/* Where the user wants it; NULL: nobody said. */
struct places {
  const char *output, *json;
};

static enum status write_files(const struct comparison *c, const char *dir)
{
  static const struct {
    const char *name;
    enum status (*write)(const struct comparison *c, const char *file);
  } files[] = {{"compare.csv", compare_csv},
               {"compare.json", compare_json},
               {"compare.md", compare_markdown}}; /* names the figures, which are there */
  char path[COMPARE_PATH];
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    TRY(path_join(path, sizeof path, dir, files[i].name));
    TRY(files[i].write(c, path));
  }
  return OK;
}

static enum status write_report(const struct comparison *c, const char *dir)
{
  char figures[COMPARE_PATH], page[COMPARE_PATH];
  bool drawn;
  TRY(path_join(figures, sizeof figures, dir, "figures"));
  TRY(path_join(page, sizeof page, dir, "compare.html"));
  TRY(compare_figures(c, figures, &drawn));
  TRY(compare_html(c, figures, page));
  TRY(write_files(c, dir));
  if (!drawn)
    (void)printf("%s\n", plot_hint());
  (void)printf("\nreport, for any browser: %s\ntables: %s/compare.csv, .json, .md; figures: %s/\n",
               page, dir, figures);
  return OK;
}

/* Before anything is measured: the directory, in which --json may lie. */
static enum status make_places(struct places to, const char *otherwise)
{
  TRY(directory_make(to.output ? to.output : otherwise));
  return file_check(to.json);
}

static enum status write_all(const struct comparison *c, struct places to, const char *otherwise)
{
  const char *dir = to.output ? to.output : otherwise;
  compare_print(c, stdout);
  if (to.json)
    TRY(compare_json(c, to.json));
  return write_report(c, dir);
}

/* ERR_NUMERIC where a run's answers are not finite, after what is written. */
static enum status check_finite(const struct comparison *c)
{
  int64_t broken = 0, runs = 0;
  for (int64_t i = 0; i < c->sections; i++)
    for (int64_t k = 0; k < c->section[i].runs; k++, runs++) {
      const struct compared_run *r = &c->section[i].run[k];
      if (evaluation_check_finite(&r->evaluation) == OK)
        continue;
      (void)fprintf(stderr, "%s: %s\n", r->directory, last_error());
      broken++;
    }
  if (broken)
    FAIL(ERR_NUMERIC, "%lld of %lld runs have answers that are not finite", (long long)broken,
         (long long)runs);
  return OK;
}

/* ---- runs that the user named ---- */

/* Whether a checkpoint is that of one of the runs, perhaps by another path. */
static bool is_there(const char *checkpoint, const struct comparison *c)
{
  bool there = false;
  for (int64_t i = 0; c->sections && i < c->section[0].runs; i++)
    there = there || path_is_same(checkpoint, c->section[0].run[i].checkpoint);
  return there;
}

/* Says why a run is left out. */
static void say_skipped(const char *dir)
{
  (void)fprintf(stderr, "%s\nskipped: %s\n", last_error(), dir);
}

static enum status nothing_to_compare(void)
{
  FAIL(ERR_DATA,
       "there is nothing to compare: none of these could be taken, for the reasons above");
}

/* Adds the run, unless it is none: then a warning says why. */
static enum status add_run(const char *dir, struct compare_settings *s, struct comparison *c)
{
  struct compared_run run;
  s->like = c->sections ? &c->section[0].run[0] : NULL;
  enum status status = compared_run_open(dir, s, &run);
  if (status == ERR_DATA || (status == ERR_IO && path_is_directory(dir))) {
    say_skipped(dir);
    return OK;
  }
  TRY(status);
  if (is_there(run.checkpoint, c)) {
    (void)fprintf(stderr, "skipped: %s, which stands here twice\n", dir);
    compared_run_free(&run);
    return OK;
  }
  if (run.step < run.config.train.steps)
    (void)fprintf(stderr, "%s: not finished: step %lld of %lld\n", dir, (long long)run.step,
                  (long long)run.config.train.steps);
  status = comparison_add(c, "", &run);
  compared_run_free(&run);
  return status;
}

static void drop_run(struct compared_section *s, int64_t i)
{
  compared_run_free(&s->run[i]);
  s->runs--;
  memmove(&s->run[i], &s->run[i + 1], (size_t)(s->runs - i) * sizeof *s->run);
}

/* The backend is opened for the first run that is not kept. */
struct measuring {
  struct progress progress;
  struct runtime rt;
  bool open;
};

static enum status measure_unless_kept(struct measuring *m, struct compared_run *r, int64_t number,
                                       int64_t runs)
{
  bool found;
  TRY(compared_run_recall(r, &found));
  if (found)
    return OK;
  if (!m->open)
    TRY(runtime_open(&r->config, &m->rt));
  m->open = true;
  progress_log(&m->progress, "measuring %s (%lld of %lld)", r->directory, (long long)number,
               (long long)runs);
  return compared_run_measure(&m->rt, &m->progress, r);
}

/* Drops runs whose checkpoints turn out to be damaged. */
static enum status measure_all(struct comparison *c)
{
  struct compared_section *s = c->section;
  struct measuring m = {.progress = progress_to(stderr)};
  int64_t runs = s->runs;
  for (int64_t i = 0, number = 1; i < s->runs; number++) {
    enum status measured = measure_unless_kept(&m, &s->run[i], number, runs);
    if (measured == ERR_DATA) {
      say_skipped(s->run[i].directory);
      drop_run(s, i);
    } else {
      TRY(measured);
      i++;
    }
  }
  return s->runs ? OK : nothing_to_compare();
}

static enum status compare_runs(const struct command_line *line, struct comparison *c,
                                struct places to)
{
  struct compare_settings settings = {.overrides = line->overrides, .override = line->override};
  for (int i = 0; i < line->words; i++)
    TRY(add_run(line->word[i], &settings, c));
  if (c->sections == 0)
    return nothing_to_compare();
  TRY(make_places(to, "compare"));
  enum status s = measure_all(c);
  if (s == ERR_INTERRUPTED)
    FAIL(s, "interrupted; what was measured is kept: the same command goes on from there");
  TRY(s);
  TRY(comparison_group(c));
  describe(c, "Comparison");
  TRY(write_all(c, to, "compare"));
  return check_finite(c);
}

/* Measures one run and keeps that: what a list's processes do. */
static enum status measure_one(const struct command_line *line)
{
  struct compare_settings settings = {.overrides = line->overrides, .override = line->override};
  struct compared_run run;
  struct progress p = progress_to(stderr);
  struct runtime rt;
  bool found;
  if (line->words != 1)
    FAIL(ERR_USAGE, "--measure takes one run");
  TRY(compared_run_open(line->target, &settings, &run));
  enum status s = compared_run_recall(&run, &found);
  if (s == OK && !found)
    s = runtime_open(&run.config, &rt);
  if (s == OK && !found)
    s = compared_run_measure(&rt, &p, &run);
  compared_run_free(&run);
  return s;
}

/* ---- a list ---- */

static enum status add_listed(const struct compare_list *l, const struct list_run *runs,
                              const struct list_run *r, struct comparison *c)
{
  struct compared_run run = {0};
  struct word_list words;
  bool found = false;
  enum status s = list_run_evaluation(l, runs, r, &words);
  struct compare_settings settings = {words.count, (const char *const *)words.word, NULL};
  if (s == OK)
    s = compared_run_open(r->directory, &settings, &run);
  if (s == OK)
    s = compared_run_recall(&run, &found);
  word_list_free(&words);
  if (s == OK && !found)
    s = fail_at(ERR_DATA, __FILE__, __LINE__, "%s: measured.json does not fit its checkpoint",
                r->directory);
  (void)snprintf(run.label, sizeof run.label, "%s", r->entry->label);
  if (s == OK)
    s = comparison_add(c, r->entry->section, &run);
  compared_run_free(&run);
  return s;
}

static enum status compare_listed(const struct compare_list *l, struct list_run *runs,
                                  int64_t count, struct comparison *c, struct places to)
{
  int64_t failed = 0;
  TRY(make_places(to, l->output));
  TRY(list_runs_work(l, runs, count));
  for (int64_t i = 0; i < count; i++) {
    failed += runs[i].failed;
    if (!runs[i].failed)
      TRY(add_listed(l, runs, &runs[i], c));
  }
  if (c->sections > 0) {
    TRY(comparison_group(c));
    describe(c, l->title);
    TRY(write_all(c, to, l->output));
  }
  if (failed)
    FAIL(ERR_NUMERIC, "%lld of %lld runs failed and are left out: see %s/*.log", (long long)failed,
         (long long)count, l->runs_dir);
  return check_finite(c);
}

static enum status compare_list(const struct command_line *line, struct comparison *c,
                                struct places to)
{
  struct compare_list l;
  struct list_run *runs = NULL;
  int64_t count = 0;
  if (line->words > 1 || line->overrides)
    FAIL(ERR_USAGE, "%s: a list stands alone: overrides belong into its `set` and `evaluate`",
         line->target);
  TRY(compare_list_read(line->target, &l));
  enum status s = list_runs_make(&l, &runs, &count);
  if (s == OK)
    s = compare_listed(&l, runs, count, c, to);
  list_runs_free(runs, count);
  compare_list_free(&l);
  return s;
}

static bool is_file(const char *path)
{
  struct stat st;
  return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

static enum status run(int argc, char **argv)
{
  struct places to = {NULL, NULL};
  bool measure = false;
  struct command_line line;
  struct comparison c = {0};
  const char **typed = malloc((size_t)argc * sizeof *typed); /* parsing sorts argv */
  const struct option_spec options[] = {
      {"output", "DIR", "where tables, figures and the report go", &to.output, NULL},
      {"json", "FILE", "write compare.json there, too", &to.json, NULL},
      {"measure", NULL, "only measure the one RUN, and keep that", NULL, &measure},
      {0}};
  for (int i = 0; typed && i < argc; i++)
    typed[i] = argv[i];
  c.words = typed ? argc : 0;
  c.word = typed;
  enum status s = command_line_parse_words(argc, argv, usage, options, &line);
  if (s == OK && !line.target)
    s = fail_at(ERR_USAGE, __FILE__, __LINE__, "%s", usage);
  if (s == OK && to.output) /* before anything is measured for it */
    s = *to.output ? directory_make(to.output)
                   : fail_at(ERR_USAGE, __FILE__, __LINE__, "--output: the name of a directory");
  if (s == OK)
    s = measure                ? measure_one(&line)
        : is_file(line.target) ? compare_list(&line, &c, to)
                               : compare_runs(&line, &c, to);
  comparison_free(&c);
  free(typed);
  return s;
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  return program_end(run(argc, argv));
}
