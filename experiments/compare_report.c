/* compare_report.c: see compare_report.h. */
#include "experiments/compare_report.h"
#include "experiments/compare_values.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t compared_at(enum evaluate_mode mode, int64_t length)
{
  return (int64_t)mode * CONFIG_LENGTHS + length;
}

static double last10_low(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->last10_interval.low;
}

static double last10_high(const struct compared_run *r, int64_t at)
{
  return row_of(r, at)->last10_interval.high;
}

static double unknown(const struct compared_run *r, int64_t at)
{
  (void)r, (void)at;
  return (double)NAN;
}

struct compared_metric compared_metric_of(const struct compared_section *s)
{
  const struct config *c = &s->run[0].config;
  if (compared_is_text(s))
    return (struct compared_metric){"bits per byte", "bits per byte", false,  (double)NAN,
                                    of_score,        unknown,         unknown};
  return (struct compared_metric){"accuracy over the last 10 tokens",
                                  "accuracy, last 10 tokens",
                                  true,
                                  c->data.monoid == MONOID_TRIVIAL ? 1 / (double)c->model.vocab_size
                                                                   : (double)NAN,
                                  of_score,
                                  last10_low,
                                  last10_high};
}

bool compared_is_text(const struct compared_section *s)
{
  return s->run[0].config.data.task == TASK_TEXT;
}

enum model_kind compared_kind(const struct compared_group *g)
{
  return g->run[0]->config.model.kind;
}

bool compared_has_kind(const struct compared_section *s, enum model_kind kind)
{
  for (int64_t g = 0; g < s->groups; g++)
    if (compared_kind(&s->group[g]) == kind)
      return true;
  return false;
}

const struct compared_group *compared_best(const struct compared_section *s, enum model_kind kind)
{
  struct compared_metric m = compared_metric_of(s);
  const struct compared_group *best = NULL;
  int64_t at = compared_at(MODE_SEQUENTIAL, s->lengths_count - 1);
  double most = -INFINITY;
  for (const struct compared_group *g = s->group; g < s->group + s->groups; g++) {
    double value = compared_median(g, m.value, at) * (m.higher_is_better ? 1 : -1);
    if (compared_kind(g) == kind && (!best || value > most)) {
      best = g;
      most = isfinite(value) ? value : (double)-INFINITY;
    }
  }
  return best;
}

static int ascending(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double compared_median_of(int64_t n, double *value)
{
  int64_t finite = 0;
  for (int64_t i = 0; i < n; i++)
    if (isfinite(value[i]))
      value[finite++] = value[i];
  if (finite == 0)
    return (double)NAN;
  qsort(value, (size_t)finite, sizeof *value, ascending);
  return (value[(finite - 1) / 2] + value[finite / 2]) / 2;
}

/* A section's name as part of a file's: what is no letter, digit or _ becomes -. */
static void file_word(const char *name, char out[48])
{
  size_t n = 0;
  for (; *name && n < 47; name++)
    out[n++] = isalnum((unsigned char)*name) || *name == '_' ? *name : '-';
  out[n] = 0;
}

void compared_figure_name(const struct comparison *c, int64_t section,
                          const struct compared_figure *f, char out[FIGURE_NAME])
{
  char own[48], other[48];
  bool unique = true;
  if (c->sections == 1) {
    (void)snprintf(out, FIGURE_NAME, "%s", f->name);
    return;
  }
  file_word(c->section[section].name, own);
  for (int64_t i = 0; i < c->sections; i++) {
    file_word(c->section[i].name, other);
    unique = unique && (i == section || strcmp(own, other) != 0);
  }
  if (unique && *own)
    (void)snprintf(out, FIGURE_NAME, "%s-%s", own, f->name);
  else
    (void)snprintf(out, FIGURE_NAME, "%s-%lld-%s", *own ? own : "data", (long long)section + 1,
                   f->name);
}
