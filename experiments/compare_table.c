/* compare_table.c: a comparison as tables: on the terminal, in Markdown, and as CSV. */
#include "core/data.h"
#include "core/files.h"
#include "core/progress.h"
#include "experiments/compare_parts.h"
#include "experiments/compare_report.h"
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

/* Text, with what Markdown would take for its own. */
static void markdown_text(FILE *out, const char *text)
{
  for (; *text; text++)
    (void)fprintf(out, strchr("|<*\\`", *text) ? "\\%c" : "%c", *text);
}

/* Characters: bytes that do not go on with one. */
static int width_of(const char *text)
{
  int n = 0;
  for (; *text; text++)
    n += ((unsigned char)*text & 0xC0) != 0x80;
  return n;
}

static void markdown_cell(struct words *t, int column, const char *text)
{
  (void)fputs(column ? " " : "| ", t->out);
  markdown_text(t->out, text);
  (void)fputs(" |", t->out);
}

/* The first column begins, the others end, at the same place in every row. */
static void plain_cell(struct words *t, int column, const char *text, int width)
{
  int blanks = width - width_of(text);
  if (column)
    (void)fprintf(t->out, "  %*s%s", blanks, "", text);
  else
    (void)fprintf(t->out, "%s%*s", text, blanks, "");
}

static void print_words(struct words *t)
{
  int width[COLUMNS * 2] = {0}, rows = t->columns ? t->used / t->columns : 0;
  for (int i = 0; i < rows * t->columns; i++) {
    int n = width_of(t->cell[i]), c = i % t->columns;
    width[c] = n > width[c] ? n : width[c];
  }
  for (int row = 0; row < rows; row++) {
    for (int c = 0; c < t->columns; c++)
      if (t->markdown)
        markdown_cell(t, c, t->cell[row * t->columns + c]);
      else
        plain_cell(t, c, t->cell[row * t->columns + c], width[c]);
    (void)fputc('\n', t->out);
    for (int c = 0; t->markdown && row == 0 && c < t->columns; c++)
      (void)fprintf(t->out, "%s ---%s |%s", c ? "" : "|", c ? ":" : "",
                    c + 1 == t->columns ? "\n" : "");
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

/* One run: with its interval; several: the median. */
static void score(struct words *t, const struct compared_group *g, int64_t i)
{
  const struct evaluation_row *row = row_of(g->run[0], i);
  if (g->count == 1 && g->run[0]->evaluation.task != TASK_TEXT)
    cell(t, "%.4f [%.3f, %.3f]", row->accuracy_last10, row->last10_interval.low,
         row->last10_interval.high);
  else
    number(t, "%.4f", compared_median(g, of_score, i));
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
  static const char *const names[] = {"model",  "runs",     "kind",        "layers", "parameters",
                                      "tokens", "to 99 %",  "FLOPs",       "time",   "tokens/s",
                                      "MiB",    "decode/s", "off diagonal"};
  heading(t, "Models: training (medians over the seeds; tokens in all and until a batch was 99 %% "
             "right), tokens/s of decoding, share of the state's Jacobian off its diagonal");
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
    count(t, compared_median(g, of_tokens_to_99, 0));
    count(t, compared_median(g, of_flops, 0));
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

/* A group's scores by length, and below them, where there are several, those of each seed. */
static void group_scores(struct words *t, const struct compared_section *s,
                         const struct compared_group *g, enum evaluate_mode mode)
{
  cell(t, "%s%s", g->label, g->count > 1 ? ", median" : "");
  cell(t, "%lld", (long long)g->run[0]->trained.data.length);
  for (int64_t i = 0; i < s->lengths_count; i++)
    score(t, g, mode * CONFIG_LENGTHS + i);
  for (int64_t k = 0; g->count > 1 && k < g->count; k++) {
    cell(t, "%sseed %lld", t->markdown ? "" : "  ", (long long)g->run[k]->config.seed);
    cell(t, "%s", "");
    for (int64_t i = 0; i < s->lengths_count; i++)
      number(t, "%.4f", of_score(g->run[k], mode * CONFIG_LENGTHS + i));
  }
}

static void scores(struct words *t, const struct compared_section *s, enum evaluate_mode mode)
{
  bool text = s->run[0].evaluation.task == TASK_TEXT, single = false;
  for (int64_t i = 0; i < s->groups; i++)
    single = single || s->group[i].count == 1;
  heading(t, "%s, by length, %s%s", text ? "Bits per byte" : "Accuracy over the last 10 tokens",
          evaluate_mode_name(mode),
          text     ? ", validation part"
          : single ? " [95 % interval over sequences]"
                   : "");
  cell(t, "%s", "model");
  cell(t, "%s", "trained at");
  for (int64_t i = 0; i < s->lengths_count; i++)
    cell(t, "%lld", (long long)s->lengths[i]);
  head_done(t);
  for (int64_t i = 0; i < s->groups; i++)
    if (mode == MODE_SEQUENTIAL || s->group[i].run[0]->config.model.kind == MODEL_IMPLICIT)
      group_scores(t, s, &s->group[i], mode);
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

/* i: the type; token by token, at the longest length. */
static double type_accuracy(const struct compared_run *r, int64_t i)
{
  return r->evaluation.detail[MODE_SEQUENTIAL].type[i].accuracy;
}
static double type_iterations(const struct compared_run *r, int64_t i)
{
  return r->evaluation.detail[MODE_SEQUENTIAL].type[i].solve.iterations_mean;
}
static double type_p95(const struct compared_run *r, int64_t i)
{
  return r->evaluation.detail[MODE_SEQUENTIAL].type[i].solve.iterations_p95;
}
static double type_residual(const struct compared_run *r, int64_t i)
{
  return r->evaluation.detail[MODE_SEQUENTIAL].type[i].solve.residual_mean;
}

static void types(struct words *t, const struct compared_section *s)
{
  static const char *const names[] = {"model", "type", "tokens",       "accuracy",
                                      "mean",  "95 %", "mean residual"};
  const struct evaluation_detail *d = &s->run[0].evaluation.detail[MODE_SEQUENTIAL];
  if (d->types == 0 || !any_implicit(s))
    return;
  heading(t, "By type of token, sequential, length %lld: accuracy, evaluations of f",
          (long long)d->length);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    cell(t, "%s", names[i]);
  head_done(t);
  for (int64_t i = 0; i < s->groups * d->types; i++) {
    const struct compared_group *g = &s->group[i / d->types];
    int64_t k = i % d->types;
    cell(t, "%s", g->label);
    cell(t, "%s", d->type[k].name);
    number(t, "%.0f", compared_median(g, of_type_tokens, k));
    number(t, "%.4f", compared_median(g, type_accuracy, k));
    number(t, "%.1f", compared_median(g, type_iterations, k));
    number(t, "%.0f", compared_median(g, type_p95, k));
    number(t, "%.1e", compared_median(g, type_residual, k));
  }
  print_words(t);
}

/* What it all says; on a terminal in lines of at most 100 characters. */
static void answer(struct words *t, const struct compared_section *s)
{
  enum { WIDEST = 100 };
  char *text = compared_words(s), *rest_of_lines = NULL, *rest;
  for (char *line = text ? strtok_r(text, "\n", &rest_of_lines) : NULL; line;
       line = strtok_r(NULL, "\n", &rest_of_lines)) {
    int column = 0;
    for (char *word = strtok_r(line, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
      int width = width_of(word);
      bool wrap = !t->markdown && column + 1 + width > WIDEST;
      (void)fputs(column == 0 ? "" : wrap ? "\n  " : " ", t->out);
      if (t->markdown)
        markdown_text(t->out, word);
      else
        (void)fputs(word, t->out);
      column = wrap ? 2 + width : column + (column > 0) + width;
    }
    (void)fputs(t->markdown ? "\n\n" : "\n", t->out);
  }
  if (!t->markdown)
    (void)fputc('\n', t->out);
  free(text);
}

static void section_title(struct words *t, const struct compared_section *s)
{
  (void)fprintf(t->out, "%s%s%s%s, %lld sequences a length\n\n", t->markdown ? "## " : "", s->name,
                *s->name ? ": " : "", s->data, (long long)s->sequences);
}

static void tables(struct words *t, const struct compared_section *s)
{
  models(t, s);
  scores(t, s, MODE_SEQUENTIAL);
  if (any_implicit(s))
    scores(t, s, MODE_SIMULTANEOUS);
  solves(t, s);
  types(t, s);
}

void compare_print(const struct comparison *c, FILE *out)
{
  struct words t = {.out = out};
  for (const struct compared_section *s = c->section; s < c->section + c->sections; s++) {
    section_title(&t, s);
    tables(&t, s);
    answer(&t, s); /* last: in view when the program ends */
  }
  (void)fprintf(out, "%s; %s\n", c->date, c->machine);
}

/* Those of the section's figures that lie in figures/ beside the file. */
static void figures(struct words *t, const struct comparison *c, int64_t section, const char *file)
{
  char name[FIGURE_NAME], path[COMPARE_PATH + FIGURE_NAME];
  const char *slash = strrchr(file, '/');
  for (int i = 0; i < COMPARED_FIGURES; i++) {
    const struct compared_figure *f = compared_figures[i];
    compared_figure_name(c, section, f, name);
    (void)snprintf(path, sizeof path, "%.*sfigures/%s.png", slash ? (int)(slash - file) + 1 : 0,
                   file, name);
    if (f->applies(&c->section[section]) && path_exists(path))
      (void)fprintf(t->out, "![%s](figures/%s.png)\n\n*%s.* %s\n\n", f->title, name, f->title,
                    f->caption);
  }
}

enum status compare_markdown(const struct comparison *c, const char *file)
{
  struct file_writer w;
  TRY(file_begin(file, &w));
  struct words t = {.out = w.out, .markdown = true};
  (void)fprintf(w.out, "# %s\n\n%s; %s\n\n", c->title, c->date, c->machine);
  for (int64_t i = 0; i < c->sections; i++) {
    section_title(&t, &c->section[i]);
    answer(&t, &c->section[i]);
    tables(&t, &c->section[i]);
    figures(&t, c, i, file);
  }
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
    "section,model,run,seed,kind,layers,parameters,steps,training_length,tokens,tokens_to_99,flops,"
    "seconds,"
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
                (long long)r->trained.data.length, (long long)r->tokens);
  value(out, of_tokens_to_99(r, 0));
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
