/* compare_figures.c: a comparison as figures, each 480 pixels wide: a column of a paper, or of a
 * telephone.  Implicit models are drawn in cold colours, explicit ones in warm ones (Okabe and Ito,
 * told apart by colour-blind readers), a group in the same colour everywhere.  Bold: the median
 * over a group's seeds; thin: each seed. */
#include "experiments/compare_figures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 480, HEIGHT = 300, LEGEND_ROW = 20, SHADES = 4, LEGEND = 40 };

static const struct figure_look looks[2][SHADES] = {
    [MODEL_IMPLICIT] = {{"#0072b2", 7}, {"#56b4e9", 13}, {"#003a70", 9}, {"#009e73", 11}},
    [MODEL_EXPLICIT] = {{"#d55e00", 5}, {"#e69f00", 9}, {"#8c2d04", 11}, {"#cc79a7", 13}},
};

struct figure_look figure_look(const struct compared_section *s, const struct compared_group *group)
{
  int place = 0;
  for (const struct compared_group *g = s->group; g < group; g++)
    place += compared_kind(g) == compared_kind(group);
  return looks[compared_kind(group)][place % SHADES];
}

const char *compared_colour(const struct compared_section *s, const struct compared_group *g)
{
  return figure_look(s, g).colour;
}

void figure_data(int64_t g, char out[32]) { (void)snprintf(out, 32, "%lld", (long long)g + 1); }

/* ---- the frame ---- */

size_t figure_longest_label(const struct compared_section *s)
{
  size_t longest = 0;
  for (int64_t g = 0; g < s->groups; g++)
    longest = strlen(s->group[g].label) > longest ? strlen(s->group[g].label) : longest;
  return longest;
}

void figure_frame(struct plot *p, int64_t entries, size_t longest)
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

void figure_mark_training_length(struct plot *p, const struct compared_section *s, double low,
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
            length, right ? "right" : "left", right ? "-0.5" : "0.5", FIGURE_FONT);
}

/* Is this byte the first of a character? */
static bool begins(char byte) { return ((unsigned char)byte & 0xC0) != 0x80; }

const char *figure_shortened(const char *label, size_t most, char out[COMPARE_LABEL + 4])
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

const char *figure_title(const struct compared_group *g, const char *more, char out[2 * PLOT_QUOTE])
{
  char text[COMPARE_LABEL + 64], quoted[PLOT_QUOTE], label[COMPARE_LABEL + 4];
  (void)snprintf(text, sizeof text, "%s%s",
                 figure_shortened(g->label, LEGEND - strlen(more), label), more);
  (void)snprintf(out, 2 * PLOT_QUOTE, "title %s", plot_quote(text, quoted));
  return out;
}

/* ---- all of them ---- */

const struct compared_figure *const compared_figures[COMPARED_FIGURES] = {
    &figure_accuracy,
    &figure_accuracy_simultaneous,
    &figure_loss_tokens,
    &figure_loss_flops,
    &figure_knob,
    &figure_accuracy_position,
    &figure_iterations,
    &figure_iterations_position,
    &figure_jacobian,
    &figure_residual,
    &figure_residual_simultaneous,
    &figure_residual_position};

static enum status draw(const struct compared_figure *f, const struct compared_section *s,
                        const char *dir, const char *name, bool *drawn)
{
  struct plot p;
  TRY(plot_begin(&p, dir, name, WIDTH, HEIGHT));
  p.font = FIGURE_FONT;
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
    for (int k = 0; k < COMPARED_FIGURES; k++) {
      const struct compared_figure *f = compared_figures[k];
      bool now = false;
      compared_figure_name(c, i, f, name);
      enum status status = f->applies(&c->section[i]) ? draw(f, &c->section[i], dir, name, &now)
                                                      : plot_remove(dir, name);
      *drawn = *drawn || now;
      if (status == ERR_DATA) /* gnuplot would not; the others are worth having */
        (void)fprintf(stderr, "%s\n", last_error());
      else
        TRY(status);
    }
  return OK;
}
