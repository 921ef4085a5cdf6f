/* jacobian_figures.c: a verification as figures; see jacobian_report.h. */
#include "experiments/jacobian_report.h"
#include "experiments/plot.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

/* `command` with a title that holds a user's words. */
static void titled(struct plot *p, const char *command, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void titled(struct plot *p, const char *command, const char *format, ...)
{
  char text[PLOT_QUOTE], quoted[PLOT_QUOTE];
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  plot_line(p, "%s %s noenhanced", command, plot_quote(text, quoted));
}

static void image(struct plot *p, const char *title, const char *what, int64_t cell,
                  const char *value)
{
  plot_line(p, "set title '%s'", title);
  plot_line(p, "plot '%s' matrix using (%lld*$1):(%lld*$2):(%s) with image notitle",
            plot_file(p, what), (long long)cell, (long long)cell, value);
}

static void square_axes(struct plot *p, int64_t n)
{
  plot_line(p, "set size ratio 1; set rmargin 11");
  plot_line(p, "set xrange [-0.5:%lld-0.5]; set yrange [%lld-0.5:-0.5]", (long long)n,
            (long long)n);
  plot_line(p, "set xlabel 'state before the token (index)'; "
               "set ylabel 'state after the token (index)' offset 1,0");
}

/* The decade at or below x. */
static double decade(double x) { return x > 0 ? pow(10, floor(log10(x))) : 1e-16; }

static enum status implicit_explicit(const struct verification *v, const char *dir, bool *drawn)
{
  struct plot p;
  int64_t S = v->size.states, cell = 1;
  double top = fmax(v->shape.largest, v->explicit_shape.largest);
  TRY(plot_begin(&p, dir, "implicit_explicit", 1060, 480));
  TRY(plot_matrix(&p, "implicit", S, v->J[BY_THEOREM], &cell));
  TRY(plot_matrix(&p, "explicit", S, v->J_explicit, &cell));
  titled(&p, "set multiplot layout 1,2 title",
         "State-to-state Jacobian |∂hₜ/∂hₜ₋₁|: %s, %lld states", v->c->name, (long long)S);
  square_axes(&p, S);
  plot_line(&p, "set palette @SEQUENTIAL negative; set logscale cb; set format cb '10^{%%T}'");
  plot_line(&p, "set cbrange [%g:%g]", decade(top) * 1e-4, 10 * decade(top));
  plot_line(&p, "set cblabel 'absolute value (white: 0)' offset 0.5,0");
  image(&p, "implicit model", "implicit", cell, "abs($3) > 0 ? abs($3) : NaN");
  image(&p, "explicit model, the same parameters", "explicit", cell, "abs($3) > 0 ? abs($3) : NaN");
  plot_line(&p, "unset multiplot");
  return plot_end(&p, drawn);
}

static enum status differences_of(const struct verification *v, double **out)
{
  int64_t n = v->size.states * v->size.states;
  double *d = malloc((size_t)n * sizeof *d);
  if (!d)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < n; i++)
    d[i] = v->J[BY_DIFFERENCES][i] - v->J[BY_THEOREM][i];
  *out = d;
  return OK;
}

/* Largest absolute value off the diagonal: the scale that shows what the theorem is about. */
static double off_diagonal_scale(int64_t n, const double *J)
{
  double largest = 0;
  for (int64_t i = 0; i < n * n; i++)
    if (i % (n + 1) != 0)
      largest = fmax(largest, fabs(J[i]));
  return largest > 0 ? largest : 1;
}

static enum status theorem(const struct verification *v, const double *difference, const char *dir,
                           bool *drawn)
{
  struct plot p;
  int64_t S = v->size.states, cell = 1;
  double scale = off_diagonal_scale(S, v->J[BY_THEOREM]);
  double top = decade(dense_largest(S * S, difference)) * 10;
  TRY(plot_begin(&p, dir, "theorem", 1500, 480));
  TRY(plot_matrix(&p, "differences", S, v->J[BY_DIFFERENCES], &cell));
  TRY(plot_matrix(&p, "theorem", S, v->J[BY_THEOREM], &cell));
  TRY(plot_matrix(&p, "error", S, difference, &cell));
  titled(&p, "set multiplot layout 1,3 title",
         "∂hₜ/∂hₜ₋₁ of the implicit model: %s (colours end at the largest entry off the diagonal)",
         v->c->name);
  square_axes(&p, S);
  plot_line(&p, "set palette @DIVERGING; set cbrange [%g:%g]; set format cb '%%.2g'", -scale,
            scale);
  plot_line(&p, "set cblabel 'entry' offset 0.5,0");
  image(&p, "finite differences", "differences", cell, "$3");
  image(&p, "theorem", "theorem", cell, "$3");
  plot_line(&p, "set palette @SEQUENTIAL negative; set logscale cb; set format cb '10^{%%T}'");
  plot_line(&p, "set cbrange [%g:%g]; set cblabel 'absolute value (white: 0)' offset 0.5,0",
            top * 1e-5, top);
  image(&p, "absolute difference", "error", cell, "abs($3) > 0 ? abs($3) : NaN");
  plot_line(&p, "unset multiplot");
  return plot_end(&p, drawn);
}

enum { BINS = 32, LOWEST = -16 }; /* two a decade, up to 1 */

/* Entries of one sign by decade: bins of log10 |x|. */
static void count_entries(int64_t n, const double *x, double sign, double *table, int column)
{
  for (int64_t i = 0; i < n; i++) {
    double bin = x[i] * sign > 0 ? floor((log10(x[i] * sign) - LOWEST) * 2) : -1;
    if (bin >= 0 && bin < BINS)
      table[(int)bin * 5 + column]++;
  }
}

static enum status histogram(const struct verification *v, const double *difference,
                             const char *dir, bool *drawn)
{
  struct plot p;
  int64_t n = v->size.states * v->size.states;
  double table[BINS * 5] = {0};
  for (int i = 0; i < BINS; i++)
    table[i * 5] = pow(10, LOWEST + (i + 0.5) / 2);
  count_entries(n, v->J[BY_THEOREM], 1, table, 1);
  count_entries(n, v->J[BY_THEOREM], -1, table, 2);
  count_entries(n, difference, 1, table, 3);
  count_entries(n, difference, -1, table, 4);
  TRY(plot_begin(&p, dir, "histogram", 760, 480));
  TRY(plot_data(&p, "counts", "|entry| J>0 J<0 difference>0 difference<0", 5, BINS, table));
  titled(&p, "set title", "Entries of the Jacobian and of finite differences - theorem: %s",
         v->c->name);
  plot_line(&p, "set logscale x; set format x '10^{%%T}'; set xrange [1e%d:1]; set yrange [0:*]",
            LOWEST);
  plot_line(&p, "set xlabel 'absolute value of the entry'; set ylabel 'entries per half decade'");
  plot_line(&p, "set key top center; set grid xtics linetype 0");
  plot_line(&p, "file = '%s'", plot_file(&p, "counts"));
  plot_line(&p, "plot file using 1:2 with histeps lt 1 title 'Jacobian, positive', "
                "file using 1:3 with histeps lt 1 dashtype 2 title 'Jacobian, negative', "
                "file using 1:4 with histeps lt 2 title 'difference, positive', "
                "file using 1:5 with histeps lt 2 dashtype 2 title 'difference, negative'");
  return plot_end(&p, drawn);
}

static enum status sweep(const struct verification *v, const char *dir, bool *drawn)
{
  struct plot p;
  double table[SWEEP_STEPS * 3];
  for (int k = 0; k < SWEEP_STEPS; k++) {
    table[3 * k] = v->sweep_step[k];
    table[3 * k + 1] = v->central_error[k];
    table[3 * k + 2] = v->richardson_error[k];
  }
  TRY(plot_begin(&p, dir, "sweep", 760, 480));
  TRY(plot_data(&p, "errors", "step central Richardson", 3, SWEEP_STEPS, table));
  titled(&p, "set title", "Step size of the finite differences: %s", v->c->name);
  plot_line(&p, "set logscale xy; set format '10^{%%T}'; set grid linetype 0");
  plot_line(&p, "set xlabel 'step in one component of the state'; "
                "set ylabel 'largest error / largest entry, against complex step'");
  plot_line(&p, "set key top center; file = '%s'", plot_file(&p, "errors"));
  plot_line(&p, "set arrow from %g, graph 0 to %g, graph 1 nohead dashtype 3 linecolor 'gray40'",
            v->sweep_step[v->best], v->sweep_step[v->best]);
  plot_line(&p, "plot file using 1:2 with linespoints title 'central', file using 1:3 with "
                "linespoints title 'Richardson of a step and its half', NaN dashtype 3 linecolor "
                "'gray40' title 'the step that was taken'");
  return plot_end(&p, drawn);
}

static enum status product(const struct verification *v, const char *dir, bool *drawn)
{
  struct plot p;
  int64_t n = v->size.extent;
  const struct jacobian_product *q[] = {&v->implicit_product, &v->explicit_product};
  int64_t shown = 1; /* to the last above rounding */
  double *table = malloc((size_t)n * 3 * sizeof *table);
  if (!table)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < n; i++) {
    table[3 * i] = (double)(i + 1);
    for (int k = 0; k < 2; k++) {
      double x = q[k]->singular[i]; /* its decimal logarithm: the number itself may be too small */
      table[3 * i + 1 + k] = x > 0 ? (q[k]->log_scale + log(x)) / log(10) : (double)NAN;
      shown = q[k]->singular[i] > 1e-16 * q[k]->singular[0] ? i + 1 : shown;
    }
  }
  enum status s = plot_begin(&p, dir, "product", 760, 480);
  if (s == OK)
    s = plot_data(&p, "singular", "index implicit explicit", 3, n, table);
  free(table);
  TRY(s);
  titled(&p, "set title", "Singular values of the product of %lld tokens' Jacobians: %s",
         (long long)v->tokens, v->c->name);
  plot_line(&p, "set format y '10^{%%g}'; set grid linetype 0");
  plot_line(&p, "set xlabel 'index'; set ylabel 'singular value'; file = '%s'",
            plot_file(&p, "singular"));
  plot_line(&p, "set xrange [0:%lld]; set yrange [%.17g:*]", (long long)shown + 1,
            fmin(q[0]->log_scale, q[1]->log_scale) / log(10) - 16);
  plot_line(&p, "plot file using 1:2 with linespoints title 'implicit', "
                "file using 1:3 with linespoints title 'explicit'");
  return plot_end(&p, drawn);
}

enum status jacobian_figures(const struct verification *v, const char *dir, bool *drawn)
{
  double *difference;
  TRY(implicit_explicit(v, dir, drawn));
  TRY(differences_of(v, &difference));
  enum status s = theorem(v, difference, dir, drawn);
  if (s == OK)
    s = histogram(v, difference, dir, drawn);
  free(difference);
  TRY(s);
  TRY(sweep(v, dir, drawn));
  return v->tokens > 1 && v->failed_token < 0 ? product(v, dir, drawn) : OK;
}
