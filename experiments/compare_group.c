/* compare_group.c: runs on the same data in a section, those that differ by seed in a group. */
#include "core/data.h"
#include "core/statistics.h"
#include "experiments/compare_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- sections ---- */

static enum status section_of(struct comparison *c, const char *name,
                              struct compared_section **section)
{
  for (int64_t i = 0; i < c->sections; i++)
    if (strcmp(c->section[i].name, name) == 0) {
      *section = &c->section[i];
      return OK;
    }
  struct compared_section *more = realloc(c->section, (size_t)(c->sections + 1) * sizeof *more);
  if (!more)
    FAIL(ERR_MEMORY, "out of memory");
  c->section = more;
  *section = &more[c->sections++];
  memset(*section, 0, sizeof **section);
  (void)snprintf((*section)->name, sizeof(*section)->name, "%s", name);
  return OK;
}

enum status compared_same_data(const char *run, const struct config *c, const char *first,
                               const struct config *other)
{
  char data[COMPARE_LABEL], other_data[COMPARE_LABEL];
  data_describe(&c->data, sizeof data, data);
  data_describe(&other->data, sizeof other_data, other_data);
  if (strcmp(data, other_data) != 0)
    FAIL(ERR_USAGE,
         "%s: its data, %s, is not that of %s, %s: such runs cannot be compared (a list has "
         "`section` for them)",
         run, data, first, other_data);
  if (c->model.vocab_size != other->model.vocab_size)
    FAIL(ERR_USAGE,
         "%s: its vocabulary has %lld tokens, that of %s %lld: such runs cannot be compared", run,
         (long long)c->model.vocab_size, first, (long long)other->model.vocab_size);
  return OK;
}

static enum status same_data(const struct compared_section *s, const struct compared_run *run)
{
  if (s->runs == 0)
    return OK;
  TRY(compared_same_data(run->directory, &run->config, s->run[0].directory, &s->run[0].config));
  if (run->text && s->run[0].text && run->text != s->run[0].text)
    FAIL(ERR_USAGE, "%s: %s has changed since %s was trained on it: such runs cannot be compared",
         run->directory, run->config.data.path, s->run[0].directory);
  return OK;
}

enum status comparison_add(struct comparison *c, const char *section, struct compared_run *run)
{
  struct compared_section *s;
  TRY(section_of(c, section, &s));
  TRY(same_data(s, run));
  struct compared_run *more = realloc(s->run, (size_t)(s->runs + 1) * sizeof *more);
  if (!more)
    FAIL(ERR_MEMORY, "out of memory");
  s->run = more;
  if (s->runs == 0) {
    const struct evaluate_config *e = &run->config.evaluate;
    data_describe(&run->config.data, sizeof s->data, s->data);
    s->lengths_count = e->lengths_count;
    memcpy(s->lengths, e->lengths, sizeof s->lengths);
    s->sequences = e->sequences;
  }
  s->run[s->runs++] = *run;
  *run = (struct compared_run){0};
  return OK;
}

/* ---- groups ---- */

/* Keys that say where and how a run is kept and looked at, not what it is. */
static bool matters(int key)
{
  static const char *const others[] = {"name",
                                       "runs_dir",
                                       "seed",
                                       "device",
                                       "evaluate.",
                                       "jacobian.",
                                       "train.log_",
                                       "train.checkpoint_every",
                                       "train.keep",
                                       "train.tensorboard",
                                       "train.evaluate_every",
                                       "train.report."};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (strncmp(config_key_path(key), others[i], strlen(others[i])) == 0)
      return false;
  return true;
}

int compared_difference(const struct config *a, const struct config *b, int from)
{
  int key = config_difference(a, b, from);
  while (key >= 0 && !matters(key))
    key = config_difference(a, b, key + 1);
  return key;
}

static bool is_same_model(const struct compared_run *a, const struct compared_run *b)
{
  return strcmp(a->label, b->label) == 0 && compared_difference(&a->trained, &b->trained, 0) < 0;
}

static bool belongs(const struct compared_group *g, const struct compared_run *run)
{
  bool new_seed = true;
  for (int64_t i = 0; i < g->count; i++)
    new_seed = new_seed && g->run[i]->config.seed != run->config.seed;
  return new_seed && g->run[0]->step == run->step && is_same_model(g->run[0], run);
}

static enum status add_to_group(struct compared_section *s, const struct compared_run *run)
{
  struct compared_group *g = s->group;
  while (g < s->group + s->groups && !belongs(g, run))
    g++;
  if (g == s->group + s->groups) {
    g->run = calloc((size_t)s->runs, sizeof(void *));
    if (!g->run)
      FAIL(ERR_MEMORY, "out of memory");
    s->groups++;
  }
  int64_t at = g->count++;
  for (; at > 0 && g->run[at - 1]->config.seed > run->config.seed; at--)
    g->run[at] = g->run[at - 1];
  g->run[at] = run;
  return OK;
}

/* What the names have in common, without "-s" and the like before the seed. */
static void label_from_names(struct compared_group *g)
{
  const char *first = g->run[0]->config.name;
  size_t n = strlen(first);
  for (int64_t i = 1; i < g->count; i++) {
    size_t k = 0;
    while (k < n && first[k] == g->run[i]->config.name[k])
      k++;
    n = k;
  }
  if (g->count > 1) {
    static const char *const tails[] = {"seed", "s", "-", "_", ".", "0", "="};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
      size_t m = strlen(tails[i]);
      if (n > m && strncmp(first + n - m, tails[i], m) == 0 &&
          (m != 1 || tails[i][0] != 's' || n < 2 || strchr("-_.", first[n - 2]))) {
        n -= m;
        i = (size_t)-1; /* once more from the first */
      }
    }
  }
  (void)snprintf(g->label, sizeof g->label, "%.*s", (int)(n ? n : strlen(first)), first);
}

static void make_label(struct compared_section *s, struct compared_group *g)
{
  if (*g->run[0]->label)
    (void)snprintf(g->label, sizeof g->label, "%s", g->run[0]->label);
  else
    label_from_names(g);
  bool steps_differ = false; /* from those of another group of the same model */
  for (const struct compared_group *o = s->group; o < s->group + s->groups; o++)
    steps_differ =
        steps_differ || (is_same_model(o->run[0], g->run[0]) && o->run[0]->step != g->run[0]->step);
  size_t used = strlen(g->label);
  if (steps_differ)
    (void)snprintf(g->label + used, sizeof g->label - used, ", step %lld",
                   (long long)g->run[0]->step);
  int same = 1;
  for (const struct compared_group *o = s->group; o < g; o++)
    same += strncmp(o->label, g->label, strlen(g->label)) == 0 &&
            (o->label[strlen(g->label)] == 0 || o->label[strlen(g->label)] == ' ');
  if (same > 1) {
    size_t n = strlen(g->label);
    (void)snprintf(g->label + n, sizeof g->label - n, " (%d)", same);
  }
}

/* Every key in which any two groups differ, with this group's value. */
static void make_differs(const struct compared_section *s, struct compared_group *g)
{
  size_t used = 0;
  const struct config *mine = &g->run[0]->trained;
  for (int key = 0;; key++) {
    int next = -1;
    for (int64_t i = 0; i < s->groups; i++) {
      int k = compared_difference(&s->group[0].run[0]->trained, &s->group[i].run[0]->trained, key);
      next = k >= 0 && (next < 0 || k < next) ? k : next;
    }
    if (next < 0 || used + 1 >= sizeof g->differs)
      return;
    char value[64];
    int n = snprintf(g->differs + used, sizeof g->differs - used, "%s%s: %s", used ? ", " : "",
                     config_key_path(next), config_key_value(next, mine, value, sizeof value));
    used += n > 0 ? (size_t)n : 0;
    key = next;
  }
}

static enum status group_section(struct compared_section *s)
{
  s->groups = 0;
  s->group = calloc((size_t)s->runs + 1, sizeof *s->group);
  if (!s->group)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < s->runs; i++)
    TRY(add_to_group(s, &s->run[i]));
  for (int64_t i = 0; i < s->groups; i++) {
    make_label(s, &s->group[i]);
    make_differs(s, &s->group[i]);
  }
  return OK;
}

enum status comparison_group(struct comparison *c)
{
  for (int64_t i = 0; i < c->sections; i++)
    TRY(group_section(&c->section[i]));
  return OK;
}

void comparison_free(struct comparison *c)
{
  for (int64_t i = 0; i < c->sections; i++) {
    struct compared_section *s = &c->section[i];
    for (int64_t k = 0; k < s->runs; k++)
      compared_run_free(&s->run[k]);
    for (int64_t k = 0; k < s->groups; k++)
      free(s->group[k].run);
    free(s->run), free(s->group);
  }
  free(c->section);
  *c = (struct comparison){0};
}

double compared_median(const struct compared_group *g,
                       double (*value)(const struct compared_run *r, int64_t i), int64_t i)
{
  double *x = malloc((size_t)g->count * sizeof *x), median = (double)NAN;
  for (int64_t k = 0; x && k < g->count; k++)
    x[k] = value(g->run[k], i);
  if (x)
    median = median_of(g->count, x);
  free(x);
  return median;
}
