/* compare_figures_accuracy.c: what models reach: accuracy against length, loss against what
 * training took, accuracy against the evaluations of f that are allowed. */
#include "experiments/compare_figures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_implicit(const struct compared_group *g)
{
  return compared_kind(g) == MODEL_IMPLICIT;
}

/* Lengths as ticks of a logarithmic axis, at most eight. */
static void length_ticks(struct plot *p, const struct compared_section *s)
{
  char ticks[1024] = "";
  size_t used = 0;
  int64_t every = (s->lengths_count + 7) / 8;
  for (int64_t i = 0; i < s->lengths_count; i += every)
    used += (size_t)snprintf(ticks + used, sizeof ticks - used, "%s%lld", i ? ", " : "",
                             (long long)s->lengths[i]);
  plot_line(p, "set logscale x 2; set xtics (%s)", ticks);
  plot_line(p, "set xrange [%g:%g]", (double)s->lengths[0] / 1.12,
            (double)s->lengths[s->lengths_count - 1] * 1.12);
}

static void unit_range(struct plot *p) { plot_line(p, "set yrange [0:1.02]; set ytics 0.2"); }

/* ---- accuracy against length ---- */

static enum status length_data(struct plot *p, const struct compared_section *s, int64_t g,
                               enum evaluate_mode mode)
{
  const struct compared_group *group = &s->group[g];
  struct compared_metric m = compared_metric_of(s);
  int64_t columns = 4 + group->count;
  double *table = malloc((size_t)(columns * s->lengths_count) * sizeof *table);
  char what[32];
  if (!table)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < s->lengths_count; i++) {
    double *row = table + i * columns;
    int64_t at = compared_at(mode, i);
    row[0] = (double)s->lengths[i];
    row[1] = compared_median(group, m.value, at);
    row[2] = compared_median(group, m.low, at);
    row[3] = compared_median(group, m.high, at);
    for (int64_t k = 0; k < group->count; k++)
      row[4 + k] = m.value(group->run[k], at);
  }
  figure_data(g, what);
  enum status status =
      plot_data(p, what, "length median low high seeds...", columns, s->lengths_count, table);
  free(table);
  return status;
}

static void length_lines(struct plot *p, const struct compared_section *s, int64_t g)
{
  const struct compared_group *group = &s->group[g];
  struct figure_look look = figure_look(s, group);
  char what[32], title[2 * PLOT_QUOTE];
  figure_data(g, what);
  const char *file = plot_file(p, what);
  plot_line(p,
            "  '%s' using 1:3:4 with filledcurves linecolor '%s' fillstyle transparent solid "
            "0.18 noborder notitle, \\",
            file, look.colour);
  for (int64_t k = 0; group->count > 1 && k < group->count; k++)
    plot_line(p, "  '%s' using 1:%lld with lines linewidth 0.8 linecolor '#80%s' notitle, \\", file,
              5 + (long long)k, look.colour + 1);
  plot_line(p,
            "  '%s' using 1:2 with linespoints linewidth 2.2 pointtype %d pointsize 0.8 "
            "linecolor '%s' %s, \\",
            file, look.point, look.colour, figure_title(group, "", title));
}

static enum status by_length(struct plot *p, const struct compared_section *s,
                             enum evaluate_mode mode)
{
  struct compared_metric m = compared_metric_of(s);
  figure_frame(p, s->groups, figure_longest_label(s));
  for (int64_t g = 0; g < s->groups; g++)
    TRY(length_data(p, s, g, mode));
  length_ticks(p, s);
  if (m.higher_is_better)
    unit_range(p);
  plot_line(p, "set xlabel 'sequence length (tokens)'; set ylabel '%s'", m.axis);
  figure_mark_training_length(p, s, (double)s->lengths[0],
                              (double)s->lengths[s->lengths_count - 1]);
  plot_line(p, "plot \\");
  for (int64_t g = 0; g < s->groups; g++)
    length_lines(p, s, g);
  if (isfinite(m.chance))
    plot_line(p, "  %g with lines dashtype (3,6) linewidth 1.2 linecolor '#555555' notitle, \\",
              m.chance);
  plot_line(p, "  NaN notitle");
  return OK;
}

static enum status accuracy(struct plot *p, const struct compared_section *s)
{
  return by_length(p, s, MODE_SEQUENTIAL);
}

static enum status accuracy_simultaneous(struct plot *p, const struct compared_section *s)
{
  return by_length(p, s, MODE_SIMULTANEOUS);
}

static bool always(const struct compared_section *s) { return s->lengths_count > 0; }

static bool has_implicit(const struct compared_section *s)
{
  return s->lengths_count > 0 && compared_has_kind(s, MODEL_IMPLICIT);
}

const struct compared_figure figure_accuracy = {
    "accuracy", "By length, token by token",
    "Sequential mode: every token is solved before the next one. Bold: median over the seeds; "
    "thin: each seed; band: 95 % confidence interval over sequences; dashed: training length; "
    "dotted: guessing, where that is known.",
    always, accuracy};

const struct compared_figure figure_accuracy_simultaneous = {
    "accuracy_simultaneous", "By length, all tokens at once",
    "Simultaneous mode: one fixed point over the whole sequence. Explicit models have one mode "
    "only and are the same as before.",
    has_implicit, accuracy_simultaneous};

/* ---- loss against tokens and FLOPs ---- */

/* Mean of the losses around each point, over at most a 40th of the curve, fewer at its ends. */
static double smoothed(const struct compared_curve *c, int64_t i)
{
  int64_t half = c->points / 80, n = 0;
  double sum = 0;
  half = half < i ? half : i;
  half = half < c->points - 1 - i ? half : c->points - 1 - i;
  for (int64_t k = i - half; k <= i + half; k++)
    if (isfinite(c->loss[k]))
      sum += c->loss[k], n++;
  return n ? sum / (double)n : (double)NAN;
}

static int64_t longest_curve(const struct compared_group *g)
{
  int64_t most = 0;
  for (int64_t k = 0; k < g->count; k++)
    most = g->run[k]->curve.points > most ? g->run[k]->curve.points : most;
  return most;
}

/* Rows: tokens, FLOPs, loss, all medians over the seeds that got there; then tokens, FLOPs and loss
 * of each seed. */
static enum status loss_data(struct plot *p, const struct compared_section *s, int64_t g)
{
  const struct compared_group *group = &s->group[g];
  int64_t rows = longest_curve(group), n = group->count, columns = 3 + 3 * n;
  double *table = malloc((size_t)(columns * rows + n) * sizeof *table);
  char what[32];
  if (!table)
    FAIL(ERR_MEMORY, "out of memory");
  double *seeds = table + columns * rows;
  for (int64_t i = 0; i < rows; i++) {
    double *row = table + i * columns;
    for (int64_t k = 0; k < n; k++) {
      const struct compared_curve *c = &group->run[k]->curve;
      bool there = i < c->points;
      row[3 + 3 * k] = there ? c->tokens[i] : (double)NAN;
      row[4 + 3 * k] = there ? c->flops[i] : (double)NAN;
      row[5 + 3 * k] = there ? c->loss[i] : (double)NAN;
    }
    for (int64_t what_of = 0; what_of < 3; what_of++) {
      for (int64_t k = 0; k < n; k++)
        seeds[k] = what_of == 2 && i < group->run[k]->curve.points
                       ? smoothed(&group->run[k]->curve, i)
                       : row[3 + 3 * k + what_of];
      row[what_of] = compared_median_of(n, seeds);
    }
  }
  figure_data(g, what);
  enum status status =
      plot_data(p, what, "tokens FLOPs loss, medians; then of each seed", columns, rows, table);
  free(table);
  return status;
}

/* Ticks of an axis from 0 to `top` with one unit for all: 0.5M, 1M, 1.5M. */
static void count_ticks(struct plot *p, double top)
{
  static const char units[][2] = {"", "k", "M", "G", "T", "P", "E", "Z"};
  char ticks[1024] = "0";
  size_t used = 1;
  double step = pow(10, floor(log10(top / 3)));
  step *= top / step >= 15 ? 5 : top / step >= 6 ? 2 : 1;
  int unit = (int)fmin(7, fmax(0, floor(log10(top) / 3)));
  for (int i = 1; i * step <= top * 1.001; i++)
    used += (size_t)snprintf(ticks + used, sizeof ticks - used, ", '%g%s' %.9g",
                             i * step / pow(1000, unit), units[unit], i * step);
  plot_line(p, "set xtics ('0' %s); set xrange [0:%.9g]", ticks, top);
}

/* The end of every curve, in its column of tokens or of FLOPs. */
static double curve_end(const struct compared_section *s, int column)
{
  double most = 0;
  for (int64_t r = 0; r < s->runs; r++) {
    const struct compared_curve *c = &s->run[r].curve;
    for (int64_t i = 0; i < c->points; i++)
      most = fmax(most, column ? c->flops[i] : c->tokens[i]); /* fmax leaves NaN out */
  }
  return most > 0 ? most : 1;
}

/* Extremes of the losses that a logarithm can show. */
static void loss_range(const struct compared_section *s, double *low, double *high)
{
  *low = INFINITY, *high = 0;
  for (int64_t r = 0; r < s->runs; r++)
    for (int64_t i = 0; i < s->run[r].curve.points; i++) {
      double x = s->run[r].curve.loss[i];
      if (isfinite(x) && x > 0) {
        *low = x < *low ? x : *low;
        *high = x > *high ? x : *high;
      }
    }
}

static enum status loss_figure(struct plot *p, const struct compared_section *s, int column,
                               const char *xlabel)
{
  double low, high, unit = compared_is_text(s) ? log(2) : 1;
  char title[2 * PLOT_QUOTE], what[32];
  figure_frame(p, s->groups, figure_longest_label(s));
  for (int64_t g = 0; g < s->groups; g++)
    TRY(loss_data(p, s, g));
  loss_range(s, &low, &high);
  if (high > 10 * low)
    plot_line(p, "set logscale y; set format y '10^{%%T}'");
  plot_line(p, "set xlabel '%s';  set ylabel '%s'", xlabel,
            compared_is_text(s) ? "training loss (bits per byte)" : "training loss (nats a token)");
  count_ticks(p, curve_end(s, column));
  plot_line(p, "plot \\");
  for (int bold = 0; bold < 2; bold++)
    for (int64_t g = 0; g < s->groups; g++) {
      const struct compared_group *group = &s->group[g];
      const char *colour = figure_look(s, group).colour;
      figure_data(g, what);
      for (int64_t k = 0; !bold && k < group->count; k++)
        plot_line(p,
                  "  '%s' using %lld:($%lld/%.9g) with lines linewidth 0.6 linecolor '#a0%s' "
                  "notitle, \\",
                  plot_file(p, what), 4 + 3 * (long long)k + column, 6 + 3 * (long long)k, unit,
                  colour + 1);
      if (bold)
        plot_line(p, "  '%s' using %d:($3/%.9g) with lines linewidth 2.2 linecolor '%s' %s, \\",
                  plot_file(p, what), 1 + column, unit, colour, figure_title(group, "", title));
    }
  plot_line(p, "  NaN notitle");
  return OK;
}

static enum status loss_tokens(struct plot *p, const struct compared_section *s)
{
  return loss_figure(p, s, 0, "tokens trained on");
}

static enum status loss_flops(struct plot *p, const struct compared_section *s)
{
  return loss_figure(p, s, 1, "floating-point operations of training");
}

static bool has_curve(const struct compared_section *s)
{
  double low, high;
  loss_range(s, &low, &high);
  return high > 0;
}

static bool has_flops(const struct compared_section *s)
{
  for (int64_t r = 0; r < s->runs; r++)
    for (int64_t i = 0; i < s->run[r].curve.points; i++)
      if (s->run[r].curve.flops[i] > 0)
        return has_curve(s);
  return false;
}

const struct compared_figure figure_loss_tokens = {
    "loss_tokens", "Training loss against tokens",
    "Thin: each seed as logged; bold: median over the seeds of a running mean.", has_curve,
    loss_tokens};

const struct compared_figure figure_loss_flops = {
    "loss_flops", "Training loss against operations",
    "The same against floating-point operations: what an iteration costs counts.", has_flops,
    loss_flops};

/* ---- the compute knob ---- */

static const struct evaluation_knob *knob_of(const struct compared_run *r, int mode)
{
  return &r->evaluation.knob[mode];
}

static bool has_knob(const struct compared_section *s)
{
  for (int64_t r = 0; r < s->runs; r++)
    if (knob_of(&s->run[r], MODE_SEQUENTIAL)->count + knob_of(&s->run[r], MODE_SIMULTANEOUS)->count)
      return true;
  return false;
}

static int64_t knob_count(const struct compared_group *g, int mode)
{
  int64_t most = 0;
  for (int64_t k = 0; k < g->count; k++)
    most = knob_of(g->run[k], mode)->count > most ? knob_of(g->run[k], mode)->count : most;
  return most;
}

/* Rows: iterations allowed, median over the seeds; a seed whose samples have all converged keeps
 * its last. */
static enum status knob_data(struct plot *p, const struct compared_section *s, int64_t g, int mode,
                             const char *what)
{
  const struct compared_group *group = &s->group[g];
  int64_t rows = knob_count(group, mode);
  double table[2 * KNOB_MAX];
  double *seeds = malloc((size_t)group->count * sizeof *seeds);
  if (!seeds)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t k = 0; k < group->count; k++) {
      const struct evaluation_knob *q = knob_of(group->run[k], mode);
      int64_t at = i < q->count ? i : q->count - 1;
      seeds[k] = at < 0                ? (double)NAN
                 : compared_is_text(s) ? q->loss[at] / log(2)
                                       : q->accuracy_last10[at];
      if (i < q->count)
        table[2 * i] = (double)q->max_iter[i];
    }
    table[2 * i + 1] = compared_median_of(group->count, seeds);
  }
  free(seeds);
  return plot_data(p, what, "iterations-allowed median", 2, rows, table);
}

/* Length, and the largest count of iterations, that the knob was turned at. */
static void knob_extent(const struct compared_section *s, int64_t *length, int64_t *most)
{
  *length = *most = 1;
  for (int64_t r = 0; r < s->runs; r++)
    for (int mode = 0; mode < MODES; mode++) {
      const struct evaluation_knob *q = knob_of(&s->run[r], mode);
      for (int64_t i = 0; i < q->count; i++)
        *most = q->max_iter[i] > *most ? q->max_iter[i] : *most;
      *length = q->count ? q->length : *length;
    }
}

/* What an explicit group reaches at that length, as a level line. */
static void explicit_level(struct plot *p, const struct compared_section *s,
                           const struct compared_group *g, int64_t length)
{
  char title[2 * PLOT_QUOTE];
  struct compared_metric m = compared_metric_of(s);
  for (int64_t i = 0; i < s->lengths_count; i++)
    if (s->lengths[i] == length) {
      double level = compared_median(g, m.value, compared_at(MODE_SEQUENTIAL, i));
      if (isfinite(level))
        plot_line(p, "  %.9g with lines linewidth 1.5 linecolor '%s' %s, \\", level,
                  figure_look(s, g).colour, figure_title(g, "", title));
    }
}

static enum status knob_lines(struct plot *p, const struct compared_section *s, int64_t g)
{
  static const char *const named[MODES] = {
      [MODE_SEQUENTIAL] = ", token by token", [MODE_SIMULTANEOUS] = ", all at once"};
  struct figure_look look = figure_look(s, &s->group[g]);
  char what[32], title[2 * PLOT_QUOTE];
  for (int mode = 0; mode < MODES; mode++) {
    if (knob_count(&s->group[g], mode) == 0)
      continue;
    (void)snprintf(what, sizeof what, "%lld-%s", (long long)g + 1,
                   evaluate_mode_name((enum evaluate_mode)mode));
    TRY(knob_data(p, s, g, mode, what));
    plot_line(p,
              "  '%s' using 1:2 with linespoints linewidth 2.2 dashtype %s pointtype %d pointsize "
              "0.8 linecolor '%s' %s, \\",
              plot_file(p, what), mode == MODE_SEQUENTIAL ? "1" : "(8,5)",
              mode == MODE_SEQUENTIAL ? look.point : 6, look.colour,
              figure_title(&s->group[g], named[mode], title));
  }
  return OK;
}

static enum status knob(struct plot *p, const struct compared_section *s)
{
  int64_t length, most, entries = 0;
  struct compared_metric m = compared_metric_of(s);
  knob_extent(s, &length, &most);
  for (int64_t g = 0; g < s->groups; g++)
    entries += is_implicit(&s->group[g]) ? 2 : 1;
  figure_frame(p, entries, figure_longest_label(s) + 16);
  plot_line(p, "set logscale x 2; set xtics %d; set xrange [%g:%g]", most > 128 ? 4 : 2, 1 / 1.15,
            (double)most * 1.15);
  plot_line(p, "set xlabel 'iterations allowed (sequences of %lld tokens)'; set ylabel '%s'",
            (long long)length, m.axis);
  if (m.higher_is_better)
    unit_range(p);
  plot_line(p, "plot \\");
  for (int64_t g = 0; g < s->groups; g++)
    if (is_implicit(&s->group[g]))
      TRY(knob_lines(p, s, g));
    else
      explicit_level(p, s, &s->group[g], length);
  plot_line(p, "  NaN notitle");
  return OK;
}

const struct compared_figure figure_knob = {
    "knob", "The compute knob",
    "The same implicit parameters, allowed so many evaluations of f and no more; level lines: the "
    "explicit models, which have no such choice.",
    has_knob, knob};
