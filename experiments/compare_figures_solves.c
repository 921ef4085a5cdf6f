/* compare_figures_solves.c: how models are solved, and what a token does: iterations, residuals and
 * accuracy by position, the Jacobian, residual by iteration of each solver. */
#include "experiments/compare_figures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PANEL_TITLE = 20 }; /* characters that there is room for */
static const char *const solver_colours[TRACED_SOLVERS] = {"#009e73", "#aa3377", "#444444"};

static int64_t implicit_groups(const struct compared_section *s)
{
  int64_t n = 0;
  for (int64_t g = 0; g < s->groups; g++)
    n += compared_kind(&s->group[g]) == MODEL_IMPLICIT;
  return n;
}

/* ---- iterations ---- */

static const struct evaluation_detail *detail_of(const struct compared_run *r)
{
  return &r->evaluation.detail[MODE_SEQUENTIAL];
}

static bool has_histogram(const struct compared_section *s)
{
  for (int64_t r = 0; r < s->runs; r++)
    if (detail_of(&s->run[r])->bins > 0)
      return true;
  return false;
}

/* Samples of the group by iterations, (bins), over all seeds; returns their number. */
static double add_histograms(const struct compared_group *g, int64_t bins, double *count)
{
  double total = 0;
  memset(count, 0, (size_t)bins * sizeof *count);
  for (int64_t k = 0; k < g->count; k++) {
    const struct evaluation_detail *d = detail_of(g->run[k]);
    for (int64_t i = 0; i < d->bins; i++) {
      count[i] += (double)d->histogram[i];
      total += (double)d->histogram[i];
    }
  }
  return total;
}

enum { BARS = 48 };

/* What the bars cover: from the fewest iterations of any group to the 99.9th percentile. */
struct bars {
  int64_t bins, first, last, width;
};

static void widen(struct bars *b, const double *count, double total)
{
  double seen = 0;
  int64_t i = 0;
  while (i < b->bins - 1 && count[i] == 0)
    i++;
  b->first = i < b->first ? i : b->first;
  for (i = 0; i < b->bins - 1 && seen + count[i] < 0.999 * total; i++)
    seen += count[i];
  b->last = i > b->last ? i : b->last;
}

static enum status bars_of(const struct compared_section *s, struct bars *b, double **count)
{
  *b = (struct bars){0};
  for (int64_t r = 0; r < s->runs; r++)
    b->bins = detail_of(&s->run[r])->bins > b->bins ? detail_of(&s->run[r])->bins : b->bins;
  CHECK(b->bins > 0); /* has_histogram */
  b->first = b->bins;
  *count = malloc((size_t)b->bins * sizeof **count);
  if (!*count)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t g = 0; g < s->groups; g++) {
    double total = add_histograms(&s->group[g], b->bins, *count);
    if (total > 0)
      widen(b, *count, total);
  }
  b->width = (b->last - b->first) / BARS + 1;
  return OK;
}

/* Rows: the middle of a bar, its share of the samples in per cent. */
static enum status bars_data(struct plot *p, const struct compared_group *g, const char *what,
                             const struct bars *b, double *count)
{
  double total = add_histograms(g, b->bins, count), table[2 * (BARS + 3)] = {0};
  int64_t rows = (b->last - b->first) / b->width + 1;
  for (int64_t i = -1; i <= rows; i++) {
    double *row = table + 2 * (i + 1);
    row[0] = (double)(b->first + i * b->width) + (double)(b->width - 1) / 2;
    for (int64_t k = b->first + i * b->width;
         i >= 0 && i < rows && k < b->first + (i + 1) * b->width; k++)
      row[1] += k < b->bins ? 100 * count[k] / total : 0;
  }
  return plot_data(p, what, "iterations per-cent", 2, rows + 2, table);
}

static enum status histogram_of(struct plot *p, const struct compared_section *s, int64_t g,
                                const struct bars *b, double *count)
{
  const struct compared_group *group = &s->group[g];
  const char *colour = figure_look(s, group).colour;
  char what[32], title[2 * PLOT_QUOTE];
  if (add_histograms(group, b->bins, count) == 0)
    return OK;
  figure_data(g, what);
  TRY(bars_data(p, group, what, b, count));
  plot_line(p,
            "  '%s' using 1:2 with boxes linewidth 1 linecolor '%s' fillstyle transparent solid "
            "0.3 border %s, \\",
            plot_file(p, what), colour, figure_title(group, "", title));
  return OK;
}

static enum status iterations(struct plot *p, const struct compared_section *s)
{
  struct bars b;
  double *count;
  enum status status = OK;
  TRY(bars_of(s, &b, &count));
  figure_frame(p, implicit_groups(s), figure_longest_label(s));
  plot_line(p, "set xlabel 'iterations (evaluations of f) of a token'");
  plot_line(p, "set ylabel 'share of tokens (%%)'; set yrange [0:*]; set xrange [%lld-1:%lld+1]",
            (long long)b.first, (long long)b.last + (long long)b.width);
  plot_line(p, "set boxwidth %lld", (long long)b.width);
  plot_line(p, "plot \\");
  for (int64_t g = 0; status == OK && g < s->groups; g++)
    status = histogram_of(p, s, g, &b, count);
  free(count);
  plot_line(p, "  NaN notitle");
  return status;
}

const struct compared_figure figure_iterations = {
    "iterations", "How many iterations a token takes",
    "Tokens by the evaluations of f that they took to converge, all seeds together, up to the "
    "99.9th percentile.",
    has_histogram, iterations};

/* ---- by position ---- */

/* What of a detail; NULL: it has none. */
typedef const double *position_values(const struct evaluation_detail *d);

static const double *positions_iterations(const struct evaluation_detail *d)
{
  return d->iterations;
}
static const double *positions_p95(const struct evaluation_detail *d) { return d->iterations_p95; }
static const double *positions_residual(const struct evaluation_detail *d) { return d->residual; }
static const double *positions_accuracy(const struct evaluation_detail *d) { return d->accuracy; }

static int64_t positions_of(const struct compared_group *g, position_values *of)
{
  int64_t most = 0;
  for (int64_t k = 0; k < g->count; k++) {
    const struct evaluation_detail *d = detail_of(g->run[k]);
    if (of(d) && d->length > most)
      most = d->length;
  }
  return most;
}

/* Rows: position from 1, median over the seeds of `of`, of `second` (NULL: none). */
static enum status position_data(struct plot *p, const struct compared_group *g, const char *what,
                                 position_values *of, position_values *second)
{
  int64_t rows = positions_of(g, of), n = g->count;
  double *table = malloc((size_t)(3 * rows + n) * sizeof *table);
  if (!table)
    FAIL(ERR_MEMORY, "out of memory");
  double *seeds = table + 3 * rows;
  for (int64_t i = 0; i < rows; i++)
    for (int column = 0; column < 3; column++) {
      position_values *values = column == 1 ? of : second;
      for (int64_t k = 0; column && k < n; k++) {
        const struct evaluation_detail *d = detail_of(g->run[k]);
        bool there = values && values(d) && i < d->length;
        seeds[k] = there ? values(d)[i] : (double)NAN;
      }
      table[3 * i + column] = column ? compared_median_of(n, seeds) : (double)(i + 1);
    }
  enum status status = plot_data(p, what, "position median p95", 3, rows, table);
  free(table);
  return status;
}

static enum status by_position(struct plot *p, const struct compared_section *s,
                               position_values *of, position_values *second, const char *setting)
{
  char what[32], title[2 * PLOT_QUOTE];
  int64_t longest = 1;
  figure_frame(p, s->groups, figure_longest_label(s));
  for (int64_t g = 0; g < s->groups; g++) {
    int64_t n = positions_of(&s->group[g], of);
    figure_data(g, what);
    longest = n > longest ? n : longest;
    if (n > 0)
      TRY(position_data(p, &s->group[g], what, of, second));
  }
  plot_line(p, "set xlabel 'position in the sequence (token)'; set xrange [1:%lld]",
            (long long)longest);
  plot_line(p, "%s", setting);
  figure_mark_training_length(p, s, 1, (double)longest);
  plot_line(p, "plot \\");
  for (int64_t g = 0; g < s->groups; g++) {
    const struct compared_group *group = &s->group[g];
    const char *colour = figure_look(s, group).colour;
    if (positions_of(group, of) == 0)
      continue;
    figure_data(g, what);
    if (second)
      plot_line(p, "  '%s' using 1:3 with lines linewidth 0.8 linecolor '#40%s' notitle, \\",
                plot_file(p, what), colour + 1);
    plot_line(p, "  '%s' using 1:2 with lines linewidth 2 linecolor '%s' %s, \\",
              plot_file(p, what), colour, figure_title(group, "", title));
  }
  plot_line(p, "  NaN notitle");
  return OK;
}

/* Of more than one position. */
static bool has_positions(const struct compared_section *s, position_values *of)
{
  for (int64_t g = 0; g < s->groups; g++)
    if (positions_of(&s->group[g], of) > 1)
      return true;
  return false;
}

static bool has_iterations(const struct compared_section *s)
{
  return has_positions(s, positions_iterations);
}

/* One that a logarithmic axis can show. */
static bool has_residuals(const struct compared_section *s)
{
  for (int64_t r = 0; r < s->runs; r++) {
    const struct evaluation_detail *d = detail_of(&s->run[r]);
    for (int64_t i = 0; d->residual && d->length > 1 && i < d->length; i++)
      if (d->residual[i] > 0)
        return true;
  }
  return false;
}

static bool has_accuracies(const struct compared_section *s)
{
  return has_positions(s, positions_accuracy);
}

static enum status accuracy_position(struct plot *p, const struct compared_section *s)
{
  return by_position(p, s, positions_accuracy, NULL,
                     "set yrange [0:1.02]; set ytics 0.2; set ylabel 'accuracy'");
}

static enum status iterations_position(struct plot *p, const struct compared_section *s)
{
  return by_position(p, s, positions_iterations, positions_p95,
                     "set yrange [0:*]; set ylabel 'iterations (evaluations of f)'");
}

static enum status residual_position(struct plot *p, const struct compared_section *s)
{
  return by_position(p, s, positions_residual, NULL,
                     "set logscale y; set format y '10^{%T}'; set ylabel 'residual'");
}

const struct compared_figure figure_accuracy_position = {
    "accuracy_position", "Accuracy by position",
    "At the longest length, token by token; dashed: the training length.", has_accuracies,
    accuracy_position};

const struct compared_figure figure_iterations_position = {
    "iterations_position", "Iterations by position",
    "Bold: mean; thin: 95th percentile; medians over the seeds.", has_iterations,
    iterations_position};

const struct compared_figure figure_residual_position = {
    "residual_position", "Residual by position", "Mean residual of the returned iterates.",
    has_residuals, residual_position};

/* ---- |J| ---- */

/* The first run of a kind that has a Jacobian; NULL: none. */
static const struct compared_run *with_jacobian(const struct compared_section *s,
                                                enum model_kind kind,
                                                const struct compared_group **of)
{
  for (int64_t g = 0; g < s->groups; g++)
    for (int64_t k = 0; k < s->group[g].count; k++)
      if (compared_kind(&s->group[g]) == kind && s->group[g].run[k]->jacobian.image > 0) {
        *of = &s->group[g];
        return s->group[g].run[k];
      }
  return NULL;
}

static bool has_jacobian(const struct compared_section *s)
{
  const struct compared_group *g;
  return with_jacobian(s, MODEL_IMPLICIT, &g) || with_jacobian(s, MODEL_EXPLICIT, &g);
}

static enum status jacobian_panel(struct plot *p, const struct compared_group *g,
                                  const struct compared_run *r, const char *what)
{
  const struct compared_jacobian *j = &r->jacobian;
  int64_t cell;
  double entry = (double)j->states / (double)j->image;
  char quoted[PLOT_QUOTE], label[COMPARE_LABEL + 4];
  TRY(plot_matrix(p, what, j->image, j->absolute, &cell));
  CHECK(cell == 1);
  plot_line(p, "set title %s noenhanced offset 0,-0.5",
            plot_quote(figure_shortened(g->label, PANEL_TITLE, label), quoted));
  plot_line(p, "set xrange [0:%lld]; set xtics 0,%.9g,%lld", (long long)j->states,
            (double)j->states / 2, (long long)j->states);
  plot_line(p, "set yrange [%lld:0]; set ytics 0,%.9g,%lld", (long long)j->states,
            (double)j->states / 2, (long long)j->states);
  plot_line(p,
            "plot '%s' matrix using (%.9g*($1+0.5)):(%.9g*($2+0.5)):($3 > 0 ? $3 : NaN) with image "
            "notitle",
            plot_file(p, what), entry, entry);
  return OK;
}

/* The power of 10 above every entry of both; either may be NULL. */
static double jacobian_top(const struct compared_run *const r[2])
{
  double top = 0;
  for (int i = 0; i < 2; i++)
    for (int64_t k = 0; r[i] && k < r[i]->jacobian.image * r[i]->jacobian.image; k++)
      top = fmax(top, r[i]->jacobian.absolute[k]);
  return pow(10, ceil(log10(top > 0 ? top : 1)));
}

static enum status jacobian(struct plot *p, const struct compared_section *s)
{
  const struct compared_group *g[2] = {NULL, NULL};
  const struct compared_run *r[2] = {with_jacobian(s, MODEL_IMPLICIT, &g[0]),
                                     with_jacobian(s, MODEL_EXPLICIT, &g[1])};
  bool both = r[0] && r[1];
  double top = jacobian_top(r);
  p->width = both ? 640 : 360;
  p->height = 320;
  p->font = FIGURE_FONT + 2;
  plot_line(p,
            "set multiplot layout 1,%d margins screen %s, screen %s, screen 0.20, screen 0.88 "
            "spacing screen 0.075",
            both ? 2 : 1, both ? "0.13" : "0.22", both ? "0.875" : "0.8");
  plot_line(p, "set border 15 linecolor '#555555' linewidth 1; set tics nomirror out scale 0.5");
  plot_line(p, "set xlabel 'state before the token' offset 0,0.3");
  plot_line(p, "set ylabel 'state after the token' offset 1.8,0");
  plot_line(p, "set palette @SEQUENTIAL; set logscale cb; set format cb '10^{%%T}'");
  plot_line(p, "set cbrange [%g:%g]; set cbtics offset -0.6,0", top * 1e-5, top);
  plot_line(p, "set colorbox user origin screen %s, screen 0.20 size screen %s, screen 0.68",
            both ? "0.89" : "0.83", both ? "0.022" : "0.04");
  if (r[0] && g[0])
    TRY(jacobian_panel(p, g[0], r[0], "implicit"));
  if (both)
    plot_line(p, "unset ylabel; set format y ''; unset colorbox");
  if (r[1] && g[1])
    TRY(jacobian_panel(p, g[1], r[1], "explicit"));
  plot_line(p, "unset multiplot");
  return OK;
}

const struct compared_figure figure_jacobian = {
    "jacobian", "How a token moves the state",
    "Absolute values of dh(t)/dh(t-1) at a token of the task, on one scale; white: exactly 0. The "
    "explicit model's layers act on each component alone; the fixed point mixes them.",
    has_jacobian, jacobian};

/* ---- residual against iteration ---- */

static const struct compared_group *traced_group(const struct compared_section *s, int mode)
{
  for (int64_t g = 0; g < s->groups; g++)
    for (int64_t k = 0; k < s->group[g].count; k++)
      for (int i = 0; i < TRACED_SOLVERS; i++)
        if (s->group[g].run[k]->evaluation.trace[mode][i].count)
          return &s->group[g];
  return NULL;
}

static bool has_trace(const struct compared_section *s)
{
  return traced_group(s, MODE_SEQUENTIAL) != NULL;
}

static bool has_trace_simultaneous(const struct compared_section *s)
{
  return traced_group(s, MODE_SIMULTANEOUS) != NULL;
}

/* Rows: evaluation from 1, medians over the seeds of the median and of the 95th percentile; *rows
 * 0: not measured. */
static enum status trace_data(struct plot *p, const struct compared_group *g, int mode, int solver,
                              const char *what, int64_t *rows)
{
  double table[3 * TRACE_MAX];
  double *seeds = malloc((size_t)g->count * sizeof *seeds);
  if (!seeds)
    FAIL(ERR_MEMORY, "out of memory");
  *rows = 0;
  for (int64_t k = 0; k < g->count; k++) {
    int64_t n = g->run[k]->evaluation.trace[mode][solver].count;
    *rows = n > *rows ? n : *rows;
  }
  for (int64_t i = 0; i < *rows; i++)
    for (int column = 0; column < 3; column++) {
      for (int64_t k = 0; k < g->count; k++) {
        const struct evaluation_trace *t = &g->run[k]->evaluation.trace[mode][solver];
        int64_t at = i < t->count ? i : t->count - 1;
        seeds[k] = at < 0 ? (double)NAN : column == 2 ? t->p95[at] : t->median[at];
      }
      table[3 * i + column] = column ? compared_median_of(g->count, seeds) : (double)(i + 1);
    }
  free(seeds);
  return *rows ? plot_data(p, what, "evaluation median p95", 3, *rows, table) : OK;
}

static enum status residual_figure(struct plot *p, const struct compared_section *s, int mode)
{
  const struct compared_group *g = traced_group(s, mode);
  const struct fp_options *o = &g->run[0]->config.deq.evaluate;
  char label[COMPARE_LABEL + 4], text[COMPARE_LABEL + 64], quoted[PLOT_QUOTE];
  (void)snprintf(text, sizeof text, "iteration (evaluation of f) of %s",
                 figure_shortened(g->label, 28, label));
  figure_frame(p, TRACED_SOLVERS, 8);
  plot_line(p, "set logscale y; set format y '10^{%%T}'; set xrange [1:*]");
  plot_line(p, "set xlabel %s noenhanced; set ylabel '%s residual'", plot_quote(text, quoted),
            o->stop == FP_REL ? "relative" : "absolute");
  plot_line(p,
            "set label 'tolerance' at graph 0.985, first %g right offset 0,0.5 font ',%d' "
            "textcolor '#555555'",
            o->tol, FIGURE_FONT);
  plot_line(p, "plot %g with lines dashtype (10,7) linewidth 1 linecolor '#777777' notitle, \\",
            o->tol);
  plot_line(p, "  %g with dots linecolor '#ffffffff' notitle, \\", o->tol / 3); /* in view */
  for (int i = 0; i < TRACED_SOLVERS; i++) {
    const char *solver = fp_solver_name(g->run[0]->evaluation.trace[mode][i].solver);
    int64_t rows;
    TRY(trace_data(p, g, mode, i, solver, &rows));
    if (rows == 0)
      continue;
    plot_line(p, "  '%s' using 1:3 with lines linewidth 0.9 linecolor '#60%s' notitle, \\",
              plot_file(p, solver), solver_colours[i] + 1);
    plot_line(p, "  '%s' using 1:2 with lines linewidth 2.2 linecolor '%s' title '%s', \\",
              plot_file(p, solver), solver_colours[i], solver);
  }
  plot_line(p, "  NaN notitle");
  return OK;
}

static enum status residual(struct plot *p, const struct compared_section *s)
{
  return residual_figure(p, s, MODE_SEQUENTIAL);
}

static enum status residual_simultaneous(struct plot *p, const struct compared_section *s)
{
  return residual_figure(p, s, MODE_SIMULTANEOUS);
}

const struct compared_figure figure_residual = {
    "residual", "Solvers, token by token",
    "Residual after so many evaluations of f. Bold: median over the tokens; thin: 95th "
    "percentile. A token that has stopped keeps its last.",
    has_trace, residual};

const struct compared_figure figure_residual_simultaneous = {
    "residual_simultaneous", "Solvers, all tokens at once",
    "The same over whole sequences: the front has to move through all tokens.",
    has_trace_simultaneous, residual_simultaneous};
