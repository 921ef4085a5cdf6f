/* compare_figures.c: a comparison as figures, each 480 pixels wide: a column of a paper, or of a
 * telephone.  Implicit models are drawn in cold colours, explicit ones in warm ones (Okabe and Ito,
 * told apart by colour-blind readers), a group in the same colour everywhere.  Bold: the median
 * over a group's seeds; thin: each seed. */
#include "experiments/compare_report.h"
#include "experiments/plot.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 480, HEIGHT = 300, LEGEND_ROW = 20, FONT = 12, SHADES = 4 };
enum { LEGEND = 40, TITLE = 20 }; /* characters that there is room for */

struct look {
  const char *colour;
  int point;
};

static const struct look looks[2][SHADES] = {
    [MODEL_IMPLICIT] = {{"#0072b2", 7}, {"#56b4e9", 13}, {"#003a70", 9}, {"#009e73", 11}},
    [MODEL_EXPLICIT] = {{"#d55e00", 5}, {"#e69f00", 9}, {"#8c2d04", 11}, {"#cc79a7", 13}},
};
static const char *const solver_colours[TRACED_SOLVERS] = {"#009e73", "#aa3377", "#444444"};

/* By its place among the groups of its kind. */
static struct look look_of(const struct compared_section *s, const struct compared_group *group)
{
  int place = 0;
  for (const struct compared_group *g = s->group; g < group; g++)
    place += compared_kind(g) == compared_kind(group);
  return looks[compared_kind(group)][place % SHADES];
}

const char *compared_colour(const struct compared_section *s, const struct compared_group *g)
{
  return look_of(s, g).colour;
}

static bool is_implicit(const struct compared_group *g)
{
  return compared_kind(g) == MODEL_IMPLICIT;
}

static int64_t implicit_groups(const struct compared_section *s)
{
  int64_t n = 0;
  for (int64_t g = 0; g < s->groups; g++)
    n += is_implicit(&s->group[g]);
  return n;
}

/* Names a group's data in a figure. */
static void data_of(int64_t g, char out[32]) { (void)snprintf(out, 32, "%lld", (long long)g + 1); }

/* ---- the frame ---- */

static size_t longest_label(const struct compared_section *s)
{
  size_t longest = 0;
  for (int64_t g = 0; g < s->groups; g++)
    longest = strlen(s->group[g].label) > longest ? strlen(s->group[g].label) : longest;
  return longest;
}

/* Axes, grid and a legend of `entries`, the longest of so many bytes, above the graph, whose height
 * stays the same. */
static void frame(struct plot *p, int64_t entries, size_t longest)
{
  int64_t columns = longest <= 10 ? 3 : longest <= 19 ? 2 : 1;
  int64_t rows = (entries + columns - 1) / columns;
  p->height += LEGEND_ROW * (int)rows;
  plot_line(p, "set border 3 linecolor '#555555' linewidth 1; set tics nomirror out scale 0.6");
  plot_line(p, "set grid xtics ytics linetype 1 linecolor '#e4e4e4' linewidth 0.7");
  plot_line(p,
            "set key above left Left reverse noenhanced vertical maxrows %lld samplen 2 "
            "spacing 1.15 width %d",
            (long long)rows,
            longest > 8 ? -(int)(longest - 8) / 2 : 0); /* a letter is thought wider than it is */
  plot_line(p, "set rmargin 2.5");
}

/* A vertical line at the training length, named above the graph's lower edge. */
static void mark_training_length(struct plot *p, const struct compared_section *s, double low,
                                 double high)
{
  double length = (double)s->run[0].trained.data.length;
  if (length < low || length > high)
    return;
  bool right = length > sqrt(low * high) && length > (low + high) / 2;
  plot_line(p,
            "set arrow from %g, graph 0 to %g, graph 1 nohead dashtype (10,7) linecolor '#777777' "
            "linewidth 1 back",
            length, length);
  plot_line(p,
            "set label \"training length\" at %g, graph 0.04 %s offset %s,0 font ',%d' textcolor "
            "'#555555' front",
            length, right ? "right" : "left", right ? "-0.5" : "0.5", FONT);
}

/* Is this byte the first of a character? */
static bool begins(char byte) { return ((unsigned char)byte & 0xC0) != 0x80; }

/* The label in at most so many characters: the middle of a longer one becomes "…". */
static const char *shortened(const char *label, size_t most, char out[COMPARE_LABEL + 4])
{
  static const char dots[] = "…";
  int64_t letters = 0, where = -1, head = (int64_t)most / 2, tail = (int64_t)most - 1 - head;
  size_t n = 0;
  for (const char *p = label; *p; p++)
    letters += begins(*p);
  for (const char *p = label; *p; p++) {
    where += begins(*p);
    if (letters <= (int64_t)most || where < head || where >= letters - tail) {
      out[n++] = *p;
    } else if (where == head && begins(*p)) {
      memcpy(out + n, dots, sizeof dots - 1);
      n += sizeof dots - 1;
    }
  }
  out[n] = 0;
  return out;
}

/* "title 'LABEL'" */
static const char *title_of(const struct compared_group *g, const char *more,
                            char out[2 * PLOT_QUOTE])
{
  char text[COMPARE_LABEL + 64], quoted[PLOT_QUOTE], label[COMPARE_LABEL + 4];
  (void)snprintf(text, sizeof text, "%s%s", shortened(g->label, LEGEND - strlen(more), label),
                 more);
  (void)snprintf(out, 2 * PLOT_QUOTE, "title %s", plot_quote(text, quoted));
  return out;
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
  data_of(g, what);
  enum status status =
      plot_data(p, what, "length median low high seeds...", columns, s->lengths_count, table);
  free(table);
  return status;
}

static void length_lines(struct plot *p, const struct compared_section *s, int64_t g)
{
  const struct compared_group *group = &s->group[g];
  struct look look = look_of(s, group);
  char what[32], title[2 * PLOT_QUOTE];
  data_of(g, what);
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
            file, look.point, look.colour, title_of(group, "", title));
}

static enum status by_length(struct plot *p, const struct compared_section *s,
                             enum evaluate_mode mode)
{
  struct compared_metric m = compared_metric_of(s);
  frame(p, s->groups, longest_label(s));
  for (int64_t g = 0; g < s->groups; g++)
    TRY(length_data(p, s, g, mode));
  length_ticks(p, s);
  if (m.higher_is_better)
    unit_range(p);
  plot_line(p, "set xlabel 'sequence length (tokens)'; set ylabel '%s'", m.axis);
  mark_training_length(p, s, (double)s->lengths[0], (double)s->lengths[s->lengths_count - 1]);
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
  data_of(g, what);
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
  frame(p, s->groups, longest_label(s));
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
      const char *colour = look_of(s, group).colour;
      data_of(g, what);
      for (int64_t k = 0; !bold && k < group->count; k++)
        plot_line(p,
                  "  '%s' using %lld:($%lld/%.9g) with lines linewidth 0.6 linecolor '#a0%s' "
                  "notitle, \\",
                  plot_file(p, what), 4 + 3 * (long long)k + column, 6 + 3 * (long long)k, unit,
                  colour + 1);
      if (bold)
        plot_line(p, "  '%s' using %d:($3/%.9g) with lines linewidth 2.2 linecolor '%s' %s, \\",
                  plot_file(p, what), 1 + column, unit, colour, title_of(group, "", title));
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
  const char *colour = look_of(s, group).colour;
  char what[32], title[2 * PLOT_QUOTE];
  if (add_histograms(group, b->bins, count) == 0)
    return OK;
  data_of(g, what);
  TRY(bars_data(p, group, what, b, count));
  plot_line(p,
            "  '%s' using 1:2 with boxes linewidth 1 linecolor '%s' fillstyle transparent solid "
            "0.3 border %s, \\",
            plot_file(p, what), colour, title_of(group, "", title));
  return OK;
}

static enum status iterations(struct plot *p, const struct compared_section *s)
{
  struct bars b;
  double *count;
  enum status status = OK;
  TRY(bars_of(s, &b, &count));
  frame(p, implicit_groups(s), longest_label(s));
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
  frame(p, s->groups, longest_label(s));
  for (int64_t g = 0; g < s->groups; g++) {
    int64_t n = positions_of(&s->group[g], of);
    data_of(g, what);
    longest = n > longest ? n : longest;
    if (n > 0)
      TRY(position_data(p, &s->group[g], what, of, second));
  }
  plot_line(p, "set xlabel 'position in the sequence (token)'; set xrange [1:%lld]",
            (long long)longest);
  plot_line(p, "%s", setting);
  mark_training_length(p, s, 1, (double)longest);
  plot_line(p, "plot \\");
  for (int64_t g = 0; g < s->groups; g++) {
    const struct compared_group *group = &s->group[g];
    const char *colour = look_of(s, group).colour;
    if (positions_of(group, of) == 0)
      continue;
    data_of(g, what);
    if (second)
      plot_line(p, "  '%s' using 1:3 with lines linewidth 0.8 linecolor '#40%s' notitle, \\",
                plot_file(p, what), colour + 1);
    plot_line(p, "  '%s' using 1:2 with lines linewidth 2 linecolor '%s' %s, \\",
              plot_file(p, what), colour, title_of(group, "", title));
  }
  plot_line(p, "  NaN notitle");
  return OK;
}

static bool has_positions(const struct compared_section *s, position_values *of)
{
  for (int64_t g = 0; g < s->groups; g++)
    if (positions_of(&s->group[g], of) > 0)
      return true;
  return false;
}

static bool has_iterations(const struct compared_section *s)
{
  return has_positions(s, positions_iterations);
}

static bool has_residuals(const struct compared_section *s)
{
  return has_positions(s, positions_residual);
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
                  look_of(s, g).colour, title_of(g, "", title));
    }
}

static enum status knob_lines(struct plot *p, const struct compared_section *s, int64_t g)
{
  static const char *const named[MODES] = {
      [MODE_SEQUENTIAL] = ", token by token", [MODE_SIMULTANEOUS] = ", all at once"};
  struct look look = look_of(s, &s->group[g]);
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
              title_of(&s->group[g], named[mode], title));
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
  frame(p, entries, longest_label(s) + 16);
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
            plot_quote(shortened(g->label, TITLE, label), quoted));
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
  p->font = FONT + 2;
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
  frame(p, TRACED_SOLVERS, 8);
  plot_line(p, "set logscale y; set format y '10^{%%T}'; set xrange [1:*]");
  plot_line(p, "set xlabel 'iteration (evaluation of f)'; set ylabel '%s residual'",
            o->stop == FP_REL ? "relative" : "absolute");
  plot_line(p,
            "set label 'tolerance' at graph 0.985, first %g right offset 0,0.5 font ',%d' "
            "textcolor '#555555'",
            o->tol, FONT);
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

/* ---- all of them ---- */

static bool always(const struct compared_section *s) { return s->lengths_count > 0; }

static bool has_implicit(const struct compared_section *s)
{
  return s->lengths_count > 0 && compared_has_kind(s, MODEL_IMPLICIT);
}

const struct compared_figure compared_figures[] = {
    {"accuracy", "By length, token by token",
     "Sequential mode: every token is solved before the next one. Bold: median over the seeds; "
     "thin: each seed; band: 95 % confidence interval over sequences; dashed: training length; "
     "dotted: guessing, where that is known.",
     always, accuracy},
    {"accuracy_simultaneous", "By length, all tokens at once",
     "Simultaneous mode: one fixed point over the whole sequence. Explicit models have one mode "
     "only and are the same as before.",
     has_implicit, accuracy_simultaneous},
    {"loss_tokens", "Training loss against tokens",
     "Thin: each seed as logged; bold: median over the seeds of a running mean.", has_curve,
     loss_tokens},
    {"loss_flops", "Training loss against operations",
     "The same against floating-point operations: what an iteration costs counts.", has_flops,
     loss_flops},
    {"knob", "The compute knob",
     "The same implicit parameters, allowed so many evaluations of f and no more; level lines: the "
     "explicit models, which have no such choice.",
     has_knob, knob},
    {"accuracy_position", "Accuracy by position",
     "At the longest length, token by token; dashed: the training length.", has_accuracies,
     accuracy_position},
    {"iterations", "How many iterations a token takes",
     "Tokens by the evaluations of f that they took to converge, all seeds together, up to the "
     "99.9th percentile.",
     has_histogram, iterations},
    {"iterations_position", "Iterations by position",
     "Bold: mean; thin: 95th percentile; medians over the seeds.", has_iterations,
     iterations_position},
    {"jacobian", "How a token moves the state",
     "Absolute values of dh(t)/dh(t-1) at a token of the task, on one scale; white: exactly 0. The "
     "explicit model's layers act on each component alone; the fixed point mixes them.",
     has_jacobian, jacobian},
    {"residual", "Solvers, token by token",
     "Residual after so many evaluations of f. Bold: median over the tokens; thin: 95th "
     "percentile. A token that has stopped keeps its last.",
     has_trace, residual},
    {"residual_simultaneous", "Solvers, all tokens at once",
     "The same over whole sequences: the front has to move through all tokens.",
     has_trace_simultaneous, residual_simultaneous},
    {"residual_position", "Residual by position", "Mean residual of the returned iterates.",
     has_residuals, residual_position},
};
const int compared_figures_count = sizeof compared_figures / sizeof *compared_figures;

static enum status draw(const struct compared_figure *f, const struct compared_section *s,
                        const char *dir, const char *name, bool *drawn)
{
  struct plot p;
  TRY(plot_begin(&p, dir, name, WIDTH, HEIGHT));
  p.font = FONT;
  p.scale = 2;
  enum status status = f->draw(&p, s);
  if (status == OK)
    status = plot_end(&p, drawn);
  else
    plot_abandon(&p);
  return status;
}

enum status compare_figures(const struct comparison *c, const char *dir, bool *drawn)
{
  char name[FIGURE_NAME];
  *drawn = false;
  for (int64_t i = 0; i < c->sections; i++)
    for (int k = 0; k < compared_figures_count; k++) {
      enum status status = OK;
      compared_figure_name(c, i, &compared_figures[k], name);
      if (compared_figures[k].applies(&c->section[i]))
        status = draw(&compared_figures[k], &c->section[i], dir, name, drawn);
      if (status == ERR_DATA) /* gnuplot would not; the others are worth having */
        (void)fprintf(stderr, "%s\n", last_error());
      else
        TRY(status);
    }
  return OK;
}
