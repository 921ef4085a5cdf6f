/* compare_table.c: a comparison as tables: on the terminal, in Markdown, and as CSV. */
#include "core/data.h"
#include "core/files.h"
#include "core/progress.h"
#include "experiments/compare_parts.h"
#include "experiments/compare_values.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- a table of words ---- */

enum { COLUMNS = CONFIG_LENGTHS + 2, CELL = 96 };

struct words {
  FILE *out;
  bool markdown;
  int columns, rows, room;
  char (*cell)[CELL]; /* (rows,columns) */
  int used;           /* cells of the row that is being filled */
};

/* Adds a cell; without memory the table ends early. */
static void cell(struct words *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void cell(struct words *t, const char *format, ...)
{
  va_list arguments;
  int at = t->used;
  if (at == t->room) {
    int room = t->room ? 2 * t->room : 64;
    char(*more)[CELL] = realloc(t->cell, (size_t)room * sizeof *more);
    if (!more)
      return;
    t->cell = more;
    t->room = room;
  }
  va_start(arguments, format);
  (void)vsnprintf(t->cell[at], CELL, format, arguments);
  va_end(arguments);
  t->used++;
}

/* The first row is the head; what it has are the columns. */
static void head_done(struct words *t) { t->columns = t->used; }

static void print_words(struct words *t)
{
  int width[COLUMNS * 2] = {0}, rows = t->columns ? t->used / t->columns : 0;
  for (int i = 0; i < rows * t->columns; i++) {
    int n = (int)strlen(t->cell[i]), c = i % t->columns;
    width[c] = n > width[c] ? n : width[c];
  }
  for (int i = 0; i < rows * t->columns; i++) {
    int c = i % t->columns;
    bool last = c + 1 == t->columns;
    if (t->markdown)
      (void)fprintf(t->out, "%s %s |%s", c ? "" : "|", t->cell[i], last ? "\n" : "");
    else
      (void)fprintf(t->out, "%*s%s", c ? width[c] + 2 : -width[c], t->cell[i], last ? "\n" : "");
    if (t->markdown && i + 1 == t->columns)
      for (int k = 0; k < t->columns; k++)
        (void)fprintf(t->out, "%s ---%s |%s", k ? "" : "|", k ? ":" : "",
                      k + 1 == t->columns ? "\n" : "");
  }
  (void)fputc('\n', t->out);
  free(t->cell);
  *t = (struct words){.out = t->out, .markdown = t->markdown};
}

/* ---- cells ---- */

static void number(struct words *t, const char *format, double x)
{
  char text[CELL];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  (void)snprintf(text, sizeof text, format, x);
#pragma GCC diagnostic pop
  cell(t, "%s", isnan(x) ? "-" : text);
}

static void count(struct words *t, double x)
{
  char text[FORMAT_SIZE];
  cell(t, "%s", isnan(x) ? "-" : format_count(x, text));
}

static void duration(struct words *t, double seconds)
{
  char text[FORMAT_SIZE];
  cell(t, "%s", isnan(seconds) ? "-" : format_duration(seconds, text));
}

/* One run: with its interval; several: the median, then all, by seed. */
static void score(struct words *t, const struct compared_group *g, int64_t i)
{
  char all[CELL] = "";
  size_t used = 0;
  const struct evaluation_row *row = row_of(g->run[0], i);
  if (g->count == 1 && g->run[0]->evaluation.task != TASK_TEXT) {
    cell(t, "%.4f [%.3f, %.3f]", row->accuracy_last10, row->last10_interval.low,
         row->last10_interval.high);
    return;
  }
  for (int64_t k = 0; k < g->count && g->count > 1 && used + 8 < sizeof all; k++)
    used += (size_t)snprintf(all + used, sizeof all - used, "%s%.3f%s", k ? " " : " (",
                             of_score(g->run[k], i), k + 1 == g->count ? ")" : "");
  cell(t, "%.4f%s", compared_median(g, of_score, i), all);
}

/* ---- sections ---- */

static void heading(struct words *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void heading(struct words *t, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  (void)fputs(t->markdown ? "### " : "", t->out);
  (void)vfprintf(t->out, format, arguments);
  (void)fputs(t->markdown ? "\n\n" : "\n", t->out);
  va_end(arguments);
}

static void models(struct words *t, const struct compared_section *s)
{
  static const char *const names[] = {
      "model",          "runs", "kind",     "layers",   "parameters",      "tokens",
      "training FLOPs", "time", "tokens/s", "peak MiB", "decode tokens/s", "Jacobian off diagonal"};
  heading(t, "Models and their training (medians over the seeds)");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    cell(t, "%s", names[i]);
  head_done(t);
  for (int64_t i = 0; i < s->groups; i++) {
    const struct compared_group *g = &s->group[i];
    const struct compared_run *r = g->run[0];
    cell(t, "%s", g->label);
    cell(t, "%lld", (long long)g->count);
    cell(t, "%s", model_kind_name(r->config.model.kind));
    cell(t, "%lld", (long long)r->config.model.n_layer);
    cell(t, "%lld", (long long)r->evaluation.parameters);
    count(t, (double)r->tokens);
    number(t, "%.2e", compared_median(g, of_flops, 0));
    duration(t, compared_median(g, of_seconds, 0));
    count(t, compared_median(g, of_speed, 0));
    number(t, "%.0f", compared_median(g, of_memory, 0) / (1024 * 1024));
    count(t, compared_median(g, of_decoding, 0));
    if (*r->jacobian.missing)
      cell(t, "%s", r->jacobian.missing);
    else
      number(t, "%.3f", compared_median(g, of_off_diagonal, 0));
  }
  print_words(t);
}

static void scores(struct words *t, const struct compared_section *s, enum evaluate_mode mode)
{
  bool text = s->run[0].evaluation.task == TASK_TEXT, several = false;
  for (int64_t i = 0; i < s->groups; i++)
    several = several || s->group[i].count > 1;
  heading(t, "%s, by length, %s: %s", text ? "Bits per byte" : "Accuracy over the last 10 tokens",
          evaluate_mode_name(mode),
          several ? "median (every seed)"
          : text  ? "validation part"
                  : "with 95 % interval over sequences");
  cell(t, "%s", "model");
  cell(t, "%s", "trained at");
  for (int64_t i = 0; i < s->lengths_count; i++)
    cell(t, "%lld", (long long)s->lengths[i]);
  head_done(t);
  for (int64_t i = 0; i < s->groups; i++) {
    cell(t, "%s", s->group[i].label);
    cell(t, "%lld", (long long)s->group[i].run[0]->config.data.length);
    for (int64_t k = 0; k < s->lengths_count; k++)
      score(t, &s->group[i], mode * CONFIG_LENGTHS + k);
  }
  print_words(t);
}

static bool any_implicit(const struct compared_section *s)
{
  for (int64_t i = 0; i < s->runs; i++)
    if (s->run[i].config.model.kind == MODEL_IMPLICIT)
      return true;
  return false;
}

/* Evaluations of f, for the implicit models. */
static void solves(struct words *t, const struct compared_section *s)
{
  if (!any_implicit(s))
    return;
  heading(t, "Evaluations of f a token (sequential) or a sequence (simultaneous) took");
  static const char *const names[] = {"model",      "mode", "length",           "mean",
                                      "95 %",       "most", "largest residual", "converged",
                                      "modes agree"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    cell(t, "%s", names[i]);
  head_done(t);
  for (int64_t i = 0; i < s->groups * MODES * s->lengths_count; i++) {
    const struct compared_group *g = &s->group[i / (MODES * s->lengths_count)];
    int64_t mode = i / s->lengths_count % MODES, k = i % s->lengths_count;
    int64_t at = mode * CONFIG_LENGTHS + k;
    if (g->run[0]->config.model.kind != MODEL_IMPLICIT)
      continue;
    cell(t, "%s", g->label);
    cell(t, "%s", evaluate_mode_name((enum evaluate_mode)mode));
    cell(t, "%lld", (long long)s->lengths[k]);
    number(t, "%.1f", compared_median(g, of_iterations, at));
    number(t, "%.0f", compared_median(g, of_p95, at));
    number(t, "%.0f", compared_median(g, of_most, at));
    number(t, "%.1e", compared_median(g, of_residual, at));
    number(t, "%.4f", compared_median(g, of_converged, at));
    number(t, "%.4f", compared_median(g, of_agreement, at));
  }
  print_words(t);
}

static void section(struct words *t, const struct compared_section *s)
{
  (void)fprintf(t->out, "%s%s%s%s, %lld sequences a length\n\n", t->markdown ? "## " : "", s->name,
                *s->name ? ": " : "", s->data, (long long)s->sequences);
  models(t, s);
  scores(t, s, MODE_SEQUENTIAL);
  if (any_implicit(s))
    scores(t, s, MODE_SIMULTANEOUS);
  solves(t, s);
}

static void print_all(const struct comparison *c, bool markdown, FILE *out)
{
  struct words t = {.out = out, .markdown = markdown};
  if (markdown)
    (void)fprintf(out, "# %s\n\n", c->title);
  for (int64_t i = 0; i < c->sections; i++)
    section(&t, &c->section[i]);
  (void)fprintf(out, "%s; %s\n", c->date, c->machine);
}

void compare_print(const struct comparison *c, FILE *out) { print_all(c, false, out); }

enum status compare_markdown(const struct comparison *c, const char *file)
{
  struct file_writer w;
  TRY(file_begin(file, &w));
  print_all(c, true, w.out);
  return file_commit(&w);
}

/* ---- CSV ---- */

/* RFC 4180 */
static void quoted(FILE *out, const char *text)
{
  (void)fputc('"', out);
  for (; *text; text++)
    (void)fprintf(out, *text == '"' ? "\"\"" : "%c", *text);
  (void)fputs("\",", out);
}

static void value(FILE *out, double x)
{
  if (isfinite(x))
    (void)fprintf(out, "%.9g,", x);
  else
    (void)fputc(',', out);
}

static const char csv_head[] =
    "section,model,run,seed,kind,layers,parameters,steps,training_length,tokens,flops,seconds,"
    "tokens_per_second,peak_memory,decode_tokens_per_second,jacobian_off_diagonal,mode,length,"
    "sequences,loss,accuracy,accuracy_low,accuracy_high,accuracy_last10,accuracy_last10_low,"
    "accuracy_last10_high,all_correct,all_correct_low,all_correct_high,iterations_mean,"
    "iterations_p95,iterations_max,residual_mean,residual_max,converged,evaluations_per_token,"
    "agreement\n";

static void csv_run(FILE *out, const struct compared_section *s, const struct compared_group *g,
                    const struct compared_run *r)
{
  quoted(out, s->name);
  quoted(out, g->label);
  quoted(out, r->directory);
  (void)fprintf(out, "%lld,%s,%lld,%lld,%lld,%lld,%lld,", (long long)r->config.seed,
                model_kind_name(r->config.model.kind), (long long)r->config.model.n_layer,
                (long long)r->evaluation.parameters, (long long)r->step,
                (long long)r->config.data.length, (long long)r->tokens);
  value(out, r->flops);
  value(out, r->seconds);
  value(out, r->tokens_per_second);
  value(out, r->peak_memory);
  value(out, r->evaluation.decode_tokens_per_second);
  value(out, r->jacobian.off_diagonal);
}

static void csv_row(FILE *out, const struct compared_run *r, int64_t at)
{
  const struct evaluation_row *e = row_of(r, at);
  const struct solve_summary *s = &e->solve;
  double tokens = (double)(e->sequences * e->length);
  double per_token = s->samples ? (double)e->block_evaluations / tokens : (double)NAN;
  const double numbers[] = {e->loss,
                            e->accuracy,
                            e->accuracy_interval.low,
                            e->accuracy_interval.high,
                            e->accuracy_last10,
                            e->last10_interval.low,
                            e->last10_interval.high,
                            e->all_correct,
                            e->all_correct_interval.low,
                            e->all_correct_interval.high,
                            s->iterations_mean,
                            s->iterations_p95,
                            of_most(r, at),
                            s->residual_mean,
                            s->residual_max,
                            s->converged,
                            per_token};
  (void)fprintf(out, "%s,%lld,%lld,", evaluate_mode_name(e->mode), (long long)e->length,
                (long long)e->sequences);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    value(out, numbers[i]);
  (void)fprintf(out, "%.9g\n", of_agreement(r, at));
}

enum status compare_csv(const struct comparison *c, const char *file)
{
  struct file_writer w;
  TRY(file_begin(file, &w));
  (void)fputs(csv_head, w.out);
  for (const struct compared_section *s = c->section; s < c->section + c->sections; s++)
    for (const struct compared_group *g = s->group; g < s->group + s->groups; g++)
      for (int64_t i = 0; i < g->count * MODES * s->lengths_count; i++) {
        const struct compared_run *r = g->run[i / (MODES * s->lengths_count)];
        csv_run(w.out, s, g, r);
        csv_row(w.out, r, i / s->lengths_count % MODES * CONFIG_LENGTHS + i % s->lengths_count);
      }
  return file_commit(&w);
}
