/* compare_figures.h: what the figures of a comparison share; private to compare_figures*.c. */
#ifndef EXPERIMENTS_COMPARE_FIGURES_H
#define EXPERIMENTS_COMPARE_FIGURES_H
#include "experiments/compare_report.h"
#include "experiments/plot.h"

enum { FIGURE_FONT = 12 };

struct figure_look {
  const char *colour;
  int point;
};

/* A group's, by its place among the groups of its kind. */
struct figure_look figure_look(const struct compared_section *s, const struct compared_group *g);
/* Names a group's data in a figure. */
void figure_data(int64_t g, char out[32]);
size_t figure_longest_label(const struct compared_section *s); /* bytes */
/* Axes, grid and a legend of `entries`, the longest of so many bytes, above the graph, whose height
 * stays the same. */
void figure_frame(struct plot *p, int64_t entries, size_t longest);
/* A vertical line at the training length, named above the graph's lower edge. */
void figure_mark_training_length(struct plot *p, const struct compared_section *s, double low,
                                 double high);
/* The label in at most so many characters: the middle of a longer one becomes "…". */
const char *figure_shortened(const char *label, size_t most, char out[COMPARE_LABEL + 4]);
/* "title 'LABEL'" */
const char *figure_title(const struct compared_group *g, const char *more,
                         char out[2 * PLOT_QUOTE]);

/* compare_figures_accuracy.c */
extern const struct compared_figure figure_accuracy, figure_accuracy_simultaneous,
    figure_loss_tokens, figure_loss_flops, figure_knob;
/* compare_figures_solves.c */
extern const struct compared_figure figure_iterations, figure_accuracy_position,
    figure_iterations_position, figure_residual_position, figure_jacobian, figure_residual,
    figure_residual_simultaneous;
#endif
