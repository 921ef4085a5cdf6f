/* compare_json.c: a comparison as JSON: title, date, machine, sections with groups with runs, each
 * with everything that was measured, and the medians of every group.  `score` is the accuracy over
 * the last 10 tokens; of texts, bits per byte. */
#include "experiments/compare_parts.h"
#include "experiments/compare_values.h"
#include "experiments/json_file.h"

static void median_row(struct exchange *x, const struct compared_group *g, int64_t length,
                       int64_t at)
{
  static const struct {
    const char *key;
    double (*value)(const struct compared_run *r, int64_t i);
  } medians[] = {
      {"loss", of_loss},           {"score", of_score},         {"iterations_mean", of_iterations},
      {"iterations_p95", of_p95},  {"iterations_max", of_most}, {"residual_max", of_residual},
      {"converged", of_converged}, {"agreement", of_agreement}};
  exchange_int(x, "length", &length);
  for (size_t i = 0; i < sizeof medians / sizeof *medians; i++) {
    double v = compared_median(g, medians[i].value, at);
    exchange_double(x, medians[i].key, &v);
  }
}

static void json_group(struct exchange *x, const struct compared_section *s,
                       struct compared_group *g)
{
  exchange_text(x, "label", g->label, sizeof g->label);
  exchange_text(x, "differs", g->differs, sizeof g->differs);
  struct exchange runs = exchange_list(x, "runs", &g->count, 0);
  for (int64_t i = 0; i < g->count; i++) {
    struct exchange item = exchange_item(&runs, i);
    struct compared_run run = *g->run[i];
    exchange_run(&item, &run);
  }
  struct exchange median = exchange_object(x, "median");
  for (int m = 0; m < MODES; m++) {
    int64_t lengths = s->lengths_count;
    struct exchange list =
        exchange_list(&median, evaluate_mode_name((enum evaluate_mode)m), &lengths, CONFIG_LENGTHS);
    for (int64_t i = 0; i < lengths; i++) {
      struct exchange item = exchange_item(&list, i);
      median_row(&item, g, s->lengths[i], m * CONFIG_LENGTHS + i);
    }
  }
}

static void json_all(struct exchange *x, const struct comparison *c)
{
  struct comparison all = *c;
  exchange_text(x, "title", all.title, sizeof all.title);
  exchange_text(x, "date", all.date, sizeof all.date);
  exchange_text(x, "machine", all.machine, sizeof all.machine);
  struct exchange sections = exchange_list(x, "sections", &all.sections, 0);
  for (int64_t i = 0; i < c->sections; i++) {
    struct exchange item = exchange_item(&sections, i);
    struct compared_section s = c->section[i];
    exchange_text(&item, "name", s.name, sizeof s.name);
    exchange_text(&item, "data", s.data, sizeof s.data);
    exchange_int(&item, "sequences", &s.sequences);
    exchange_ints(&item, "lengths", s.lengths_count, s.lengths);
    struct exchange groups = exchange_list(&item, "groups", &s.groups, 0);
    for (int64_t k = 0; k < s.groups; k++) {
      struct exchange group = exchange_item(&groups, k);
      json_group(&group, &s, &s.group[k]);
    }
  }
}

enum status compare_json(const struct comparison *c, const char *file)
{
  bool bad = false;
  struct exchange x = {.at = json_object(), .bad = &bad};
  json_all(&x, c);
  if (bad) {
    json_decref(x.at);
    FAIL(ERR_MEMORY, "%s: out of memory", file);
  }
  return json_file_write(x.at, JSON_REAL_PRECISION(9), file);
}
