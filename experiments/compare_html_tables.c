/* compare_html_tables.c: the tables of a comparison's page.  A group's row holds medians over its
 * seeds (of maxima: the maximum); below it, where there are several, each seed. */
#include "core/progress.h"
#include "experiments/compare_report.h"
#include "experiments/compare_values.h"
#include <math.h>

typedef double run_value(const struct compared_run *r, int64_t at);

/* ---- cells ---- */

static void number_cell(FILE *out, const char *format, double x)
{
  (void)fprintf(out, "<td>");
  if (!isfinite(x))
    (void)fprintf(out, "–");
  else
    (void)fprintf(out, format, x); /* one of our own, for one double */
  (void)fprintf(out, "</td>");
}

static void count_cell(FILE *out, double x)
{
  char text[FORMAT_SIZE];
  (void)fprintf(out, isfinite(x) ? "<td>%s</td>" : "<td>–</td>", format_count(x, text));
}

static void duration_cell(FILE *out, double seconds)
{
  char text[FORMAT_SIZE];
  (void)fprintf(out, isfinite(seconds) ? "<td>%s</td>" : "<td>–</td>",
                format_duration(seconds, text));
}

/* A row's head: a group with its colour, or a seed of it. */
static void group_head(FILE *out, const struct compared_section *s, const struct compared_group *g)
{
  (void)fprintf(out, "<tr><th scope=\"row\" style=\"box-shadow:inset 4px 0 %s\">",
                compared_colour(s, g));
  compared_html_text(g->label, out);
  if (g->count > 1)
    (void)fprintf(out, " <small>median of %lld</small>", (long long)g->count);
  (void)fprintf(out, "</th>");
}

static void seed_head(FILE *out, const struct compared_run *r)
{
  (void)fprintf(out, "<tr class=\"seed\"><th scope=\"row\">seed %lld", (long long)r->config.seed);
  if (r->step < r->config.train.steps)
    (void)fprintf(out, " <small>step %lld of %lld</small>", (long long)r->step,
                  (long long)r->config.train.steps);
  (void)fprintf(out, "</th>");
}

static void begin_table(FILE *out, const char *title, const char *head)
{
  (void)fprintf(out, "<h3>%s</h3>\n<div class=\"scroll\"><table><thead><tr>%s", title, head);
}

static void end_table(FILE *out) { (void)fprintf(out, "</tbody></table></div>\n"); }

/* ---- what was trained ---- */

static double parameters(const struct compared_run *r, int64_t i)
{
  return (void)i, (double)r->evaluation.parameters;
}
static double tokens(const struct compared_run *r, int64_t i) { return (void)i, (double)r->tokens; }

static void cost_cells(FILE *out, const struct compared_group *g)
{
  double mebibytes = compared_median(g, of_memory, 0) / 1048576;
  count_cell(out, compared_median(g, parameters, 0));
  count_cell(out, compared_median(g, tokens, 0));
  count_cell(out, compared_median(g, of_tokens_to_99, 0));
  count_cell(out, compared_median(g, of_flops, 0));
  duration_cell(out, compared_median(g, of_seconds, 0));
  count_cell(out, compared_median(g, of_speed, 0));
  number_cell(out, "%.0f MiB", mebibytes);
  count_cell(out, compared_median(g, of_decoding, 0));
  (void)fprintf(out, "</tr>\n");
}

static struct compared_group only(const struct compared_run *const *run)
{
  return (struct compared_group){.count = 1, .run = (const struct compared_run **)(uintptr_t)run};
}

static void cost_table(FILE *out, const struct compared_section *s)
{
  begin_table(
      out, "What training and decoding cost",
      "<th>model</th><th>parameters</th><th>tokens</th><th>to 99 %</th><th>FLOPs</th><th>time</th>"
      "<th>tokens/s</th><th>memory</th><th>decode tokens/s</th></tr></thead><tbody>\n");
  for (const struct compared_group *g = s->group; g < s->group + s->groups; g++) {
    group_head(out, s, g);
    cost_cells(out, g);
    for (int64_t k = 0; g->count > 1 && k < g->count; k++) {
      struct compared_group one = only(&g->run[k]);
      seed_head(out, g->run[k]);
      cost_cells(out, &one);
    }
  }
  end_table(out);
}

/* ---- by length ---- */

static double accuracy(const struct compared_run *r, int64_t at) { return row_of(r, at)->accuracy; }
static double accuracy_low(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->accuracy_interval.low;
}
static double accuracy_high(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->accuracy_interval.high;
}
static double all_correct(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->all_correct;
}
static double all_correct_low(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->all_correct_interval.low;
}
static double all_correct_high(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->all_correct_interval.high;
}

/* A value by length, with the ends of its interval (NULL: none). */
struct measure {
  const char *title;
  run_value *value, *low, *high;
};

static void length_cells(FILE *out, const struct compared_section *s,
                         const struct compared_group *g, enum evaluate_mode mode,
                         const struct measure *m, bool intervals)
{
  for (int64_t i = 0; i < s->lengths_count; i++) {
    int64_t at = compared_at(mode, i);
    double value = compared_median(g, m->value, at);
    double low = m->low && intervals ? compared_median(g, m->low, at) : (double)NAN;
    double high = m->low && intervals ? compared_median(g, m->high, at) : (double)NAN;
    (void)fprintf(out, isfinite(value) ? "<td>%.4f" : "<td>–", value);
    if (isfinite(low) && isfinite(high))
      (void)fprintf(out, "<br><small>%.3f–%.3f</small>", low, high);
    (void)fprintf(out, "</td>");
  }
  (void)fprintf(out, "</tr>\n");
}

static void length_rows(FILE *out, const struct compared_section *s, const struct compared_group *g,
                        enum evaluate_mode mode, const struct measure *m)
{
  group_head(out, s, g);
  length_cells(out, s, g, mode, m, true);
  for (int64_t k = 0; g->count > 1 && k < g->count; k++) {
    struct compared_group one = only(&g->run[k]);
    seed_head(out, g->run[k]);
    length_cells(out, s, &one, mode, m, false);
  }
}

/* Token by token, then the implicit models all tokens at once. */
static void length_table(FILE *out, const struct compared_section *s, const struct measure *m)
{
  long long columns = (long long)s->lengths_count + 1;
  begin_table(out, m->title, "<th>length</th>");
  for (int64_t i = 0; i < s->lengths_count; i++)
    (void)fprintf(out, "<th>%lld</th>", (long long)s->lengths[i]);
  (void)fprintf(out, "</tr></thead><tbody>\n");
  for (int mode = 0; mode < MODES; mode++) {
    if (compared_has_kind(s, MODEL_IMPLICIT))
      (void)fprintf(out, "<tr class=\"mode\"><th colspan=\"%lld\">%s</th></tr>\n", columns,
                    mode == MODE_SEQUENTIAL ? "sequential: token by token"
                                            : "simultaneous: all tokens at once");
    else if (mode == MODE_SIMULTANEOUS)
      continue; /* explicit models have one mode */
    for (const struct compared_group *g = s->group; g < s->group + s->groups; g++)
      if (mode == MODE_SEQUENTIAL || compared_kind(g) == MODEL_IMPLICIT)
        length_rows(out, s, g, (enum evaluate_mode)mode, m);
  }
  end_table(out);
}

static void length_tables(FILE *out, const struct compared_section *s)
{
  struct compared_metric m = compared_metric_of(s);
  const struct measure measures[] = {
      {"Accuracy at all positions", accuracy, accuracy_low, accuracy_high},
      {"Sequences without a wrong token", all_correct, all_correct_low, all_correct_high},
      {"Loss (nats a token)", of_loss, NULL, NULL},
  };
  const struct measure judged = {m.higher_is_better ? "Accuracy over the last 10 tokens"
                                                    : "Bits per byte",
                                 m.value, m.low, m.high};
  length_table(out, s, &judged);
  if (m.higher_is_better)
    (void)fprintf(out, "<p class=\"about\"><small>Small: 95 %% confidence interval over sequences, "
                       "of several seeds the median of its ends.</small></p>\n");
  (void)fprintf(out, "<details><summary>Loss, accuracy at all positions, whole sequences</summary>"
                     "\n");
  for (int i = 0; i < 3; i++)
    length_table(out, s, &measures[i]);
  (void)fprintf(out, "</details>\n");
}

/* ---- solver ---- */

static double residual_mean(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->solve.residual_mean;
}
static double evaluations(const struct compared_run *r, int64_t at)
{
  const struct evaluation_row *row = row_of(r, at);
  return (double)row->block_evaluations / (double)(row->sequences * row->length);
}

static void maxima_cells(FILE *out, const struct compared_group *g, int64_t at)
{
  double iterations = 0, residual = (double)NAN;
  for (int64_t k = 0; k < g->count; k++) {
    const struct solve_summary *o = &row_of(g->run[k], at)->solve;
    iterations = fmax(iterations, (double)o->iterations_max);
    residual = fmax(residual, o->residual_max);
  }
  number_cell(out, "%.0f", iterations);
  number_cell(out, "%.1e", residual);
}

static void solver_row(FILE *out, const struct compared_group *g, enum evaluate_mode mode,
                       int64_t i, int64_t length)
{
  int64_t at = compared_at(mode, i);
  (void)fprintf(out, "<tr class=\"seed\"><th scope=\"row\">%s %lld</th>", evaluate_mode_name(mode),
                (long long)length);
  number_cell(out, "%.1f", compared_median(g, of_iterations, at));
  number_cell(out, "%.0f", compared_median(g, of_p95, at));
  maxima_cells(out, g, at);
  number_cell(out, "%.1e", compared_median(g, residual_mean, at));
  number_cell(out, "%.2f %%", 100 * compared_median(g, of_converged, at));
  number_cell(out, "%.1f", compared_median(g, evaluations, at));
  if (mode == MODE_SEQUENTIAL)
    number_cell(out, "%.2f %%", 100 * compared_median(g, of_agreement, i));
  else
    (void)fprintf(out, "<td></td>");
  (void)fprintf(out, "</tr>\n");
}

static void solver_table(FILE *out, const struct compared_section *s)
{
  begin_table(out, "The solves: of a token, or of a whole sequence at once",
              "<th>mode, length</th><th>iterations, mean</th>"
              "<th>95th percentile</th><th>maximum</th><th>largest residual</th>"
              "<th>mean residual</th><th>converged</th><th>evaluations a token</th>"
              "<th>modes agree</th></tr></thead><tbody>\n");
  for (const struct compared_group *g = s->group; g < s->group + s->groups; g++) {
    if (compared_kind(g) != MODEL_IMPLICIT)
      continue;
    group_head(out, s, g);
    (void)fprintf(out, "<td colspan=\"8\"></td></tr>\n");
    for (int mode = 0; mode < MODES; mode++)
      for (int64_t i = 0; i < s->lengths_count; i++)
        solver_row(out, g, (enum evaluate_mode)mode, i, s->lengths[i]);
  }
  end_table(out);
}

/* ---- token types ---- */

static const struct evaluation_detail *detail_of(const struct compared_run *r)
{
  return &r->evaluation.detail[MODE_SEQUENTIAL];
}
static double type_accuracy(const struct compared_run *r, int64_t i)
{
  return detail_of(r)->type[i].accuracy;
}
static double type_solve(const struct compared_run *r, int64_t i, int what)
{
  const struct solve_summary *o = &detail_of(r)->type[i].solve;
  double value[] = {o->iterations_mean, o->iterations_p95, (double)o->iterations_max,
                    o->residual_mean};
  return o->samples ? value[what] : (double)NAN;
}
static double type_mean(const struct compared_run *r, int64_t i) { return type_solve(r, i, 0); }
static double type_p95(const struct compared_run *r, int64_t i) { return type_solve(r, i, 1); }
static double type_most(const struct compared_run *r, int64_t i) { return type_solve(r, i, 2); }
static double type_residual(const struct compared_run *r, int64_t i) { return type_solve(r, i, 3); }

static void type_table(FILE *out, const struct compared_section *s)
{
  begin_table(out, "By type of token, at the longest length",
              "<th>token by token</th><th>tokens</th><th>accuracy</th><th>iterations, mean</th>"
              "<th>95th percentile</th><th>maximum</th><th>mean residual</th></tr></thead>"
              "<tbody>\n");
  for (const struct compared_group *g = s->group; g < s->group + s->groups; g++) {
    const struct evaluation_detail *d = detail_of(g->run[0]);
    if (d->types == 0)
      continue;
    group_head(out, s, g);
    (void)fprintf(out, "<td colspan=\"6\"></td></tr>\n");
    for (int64_t i = 0; i < d->types; i++) {
      (void)fprintf(out, "<tr class=\"seed\"><th scope=\"row\">%s</th>", d->type[i].name);
      count_cell(out, compared_median(g, of_type_tokens, i));
      number_cell(out, "%.4f", compared_median(g, type_accuracy, i));
      number_cell(out, "%.1f", compared_median(g, type_mean, i));
      number_cell(out, "%.0f", compared_median(g, type_p95, i));
      number_cell(out, "%.0f", compared_median(g, type_most, i));
      number_cell(out, "%.1e", compared_median(g, type_residual, i));
      (void)fprintf(out, "</tr>\n");
    }
  }
  end_table(out);
}

/* ---- Jacobian ---- */

static double within_layers(const struct compared_run *r, int64_t unused)
{
  (void)unused;
  return r->jacobian.missing[0] ? (double)NAN : r->jacobian.within_layers;
}
static double radius(const struct compared_run *r, int64_t unused)
{
  (void)unused;
  return r->jacobian.missing[0] ? (double)NAN : r->jacobian.radius;
}

static void jacobian_table(FILE *out, const struct compared_section *s)
{
  begin_table(out, "How a token moves the state",
              "<th>|dh(t)/dh(t-1)| at trained tokens</th><th>states</th><th>tokens</th>"
              "<th>off the diagonal</th><th>the same, within a layer</th><th>spectral radius (to "
              "512 states)</th></tr>"
              "</thead><tbody>\n");
  for (const struct compared_group *g = s->group; g < s->group + s->groups; g++) {
    const struct compared_jacobian *j = &g->run[0]->jacobian;
    group_head(out, s, g);
    if (j->missing[0]) {
      (void)fprintf(out, "<td colspan=\"5\">");
      compared_html_text(j->missing, out);
      (void)fprintf(out, "</td></tr>\n");
      continue;
    }
    number_cell(out, "%.0f", (double)j->states);
    number_cell(out, "%.0f", (double)j->tokens);
    number_cell(out, "%.4f", compared_median(g, of_off_diagonal, 0));
    number_cell(out, "%.4f", compared_median(g, within_layers, 0));
    number_cell(out, "%.4f", compared_median(g, radius, 0));
    (void)fprintf(out, "</tr>\n");
  }
  end_table(out);
}

static bool has_types(const struct compared_section *s)
{
  for (int64_t g = 0; g < s->groups; g++)
    if (detail_of(s->group[g].run[0])->types)
      return true;
  return false;
}

void compared_html_tables(const struct compared_section *s, FILE *out)
{
  length_tables(out, s);
  cost_table(out, s);
  if (compared_has_kind(s, MODEL_IMPLICIT))
    solver_table(out, s);
  if (has_types(s))
    type_table(out, s);
  jacobian_table(out, s);
}
