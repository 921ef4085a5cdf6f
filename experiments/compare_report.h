/* compare_report.h: what the figures of a comparison, its words and its page share. */
#ifndef EXPERIMENTS_COMPARE_REPORT_H
#define EXPERIMENTS_COMPARE_REPORT_H
#include "experiments/compare.h"

struct plot;

/* What a section is judged by: accuracy over the last 10 tokens, or bits per byte of a text.  Its
 * functions are of_row's (compare_values.h); low and high are the ends of the 95 % confidence
 * interval, NaN where there is none. */
struct compared_metric {
  const char *name, *axis;
  bool higher_is_better;
  double chance; /* of guessing uniformly; NaN: not known */
  double (*value)(const struct compared_run *r, int64_t at);
  double (*low)(const struct compared_run *r, int64_t at);
  double (*high)(const struct compared_run *r, int64_t at);
};
struct compared_metric compared_metric_of(const struct compared_section *s);
int64_t compared_at(enum evaluate_mode mode, int64_t length);

bool compared_is_text(const struct compared_section *s);
enum model_kind compared_kind(const struct compared_group *g);
bool compared_has_kind(const struct compared_section *s, enum model_kind kind);
/* Median over the group, sorted among its finite values; n: how many there were. */
double compared_median_of(int64_t n, double *value);

/* The group of a kind with the best median at the longest length, token by token; NULL: none. */
const struct compared_group *compared_best(const struct compared_section *s, enum model_kind kind);
/* What the fixed point buys here, and what it costs, in plain words; free() it.  NULL: no memory.
 * (compare_words.c) */
char *compared_words(const struct compared_section *s);

/* "#0072b2": a group's colour in every figure. */
const char *compared_colour(const struct compared_section *s, const struct compared_group *g);
/* A figure: files NAME.svg, NAME.png and so on, with compared_figure_name's prefix. */
struct compared_figure {
  const char *name, *title, *caption;
  bool (*applies)(const struct compared_section *s); /* is there anything to draw? */
  enum status (*draw)(struct plot *p, const struct compared_section *s); /* data and script */
};
/* The tables of the page (compare_html_tables.c), and text with what HTML would take for its own.
 */
void compared_html_tables(const struct compared_section *s, FILE *out);
void compared_html_text(const char *text, FILE *out);

enum { COMPARED_FIGURES = 12 };
extern const struct compared_figure *const compared_figures[COMPARED_FIGURES];
/* "accuracy", or "SECTION-accuracy" where there are several sections. */
enum { FIGURE_NAME = 96 };
void compared_figure_name(const struct comparison *c, int64_t section,
                          const struct compared_figure *f, char out[FIGURE_NAME]);
#endif
