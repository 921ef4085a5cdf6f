/* compare_list.c: see compare_list.h. */
#include "experiments/compare_list.h"
#include "core/files.h"
#include "core/run.h"
#include "experiments/compare_parts.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- words ---- */

enum status word_list_add(struct word_list *w, const char *format, ...)
{
  char *text;
  va_list arguments;
  va_start(arguments, format);
  int n = vasprintf(&text, format, arguments);
  va_end(arguments);
  if (n < 0)
    FAIL(ERR_MEMORY, "out of memory");
  if (w->count == LIST_WORDS) {
    free(text);
    FAIL(ERR_USAGE, "more than %d overrides", LIST_WORDS);
  }
  w->word[w->count++] = text;
  return OK;
}

void word_list_free(struct word_list *w)
{
  for (int i = 0; i < w->count; i++)
    free(w->word[i]);
  w->count = 0;
}

static enum status word_list_append(struct word_list *w, const struct word_list *more)
{
  for (int i = 0; i < more->count; i++)
    TRY(word_list_add(w, "%s", more->word[i]));
  return OK;
}

/* ---- values ---- */

static enum status expect_scalar(const struct yaml_events *r, const char *key, struct scalar *s)
{
  if (r->event.type != YAML_SCALAR_EVENT || event_is_nothing(&r->event))
    FAIL_FROM(events_here(r), "%s must be one value", key);
  *s = event_scalar(&r->event);
  if (strlen(s->text) != s->bytes)
    FAIL_FROM(events_here(r), "%s must be a text", key);
  return OK;
}

static enum status read_text(struct yaml_events *r, const char *key, char *out, size_t size)
{
  struct scalar s;
  TRY(events_next(r));
  TRY(expect_scalar(r, key, &s));
  if (s.bytes + 1 > size)
    FAIL_FROM(events_here(r), "%s is longer than %zu bytes", key, size - 1);
  memcpy(out, s.text, s.bytes + 1);
  return OK;
}

/* The present event's integer in [low, high]. */
static enum status integer(const struct yaml_events *r, const char *key, long long low,
                           long long high, int64_t *value)
{
  struct scalar s;
  char *end, what[KEY_SHOWN];
  TRY(expect_scalar(r, key, &s));
  errno = 0;
  long long v = strtoll(s.text, &end, 10);
  if (*end || end == s.text || errno || v < low || v > high)
    FAIL_FROM(events_here(r), "%s must be an integer in [%lld, %lld], not '%s'", key, low, high,
              shown(s.text, s.bytes, what));
  *value = v;
  return OK;
}

static enum status read_jobs(struct yaml_events *r, int64_t *jobs)
{
  TRY(events_next(r));
  if (r->event.type == YAML_SCALAR_EVENT && strcmp(event_scalar(&r->event).text, "auto") == 0) {
    *jobs = 0;
    return OK;
  }
  return integer(r, "jobs", 1, 1024, jobs);
}

/* Goes to the next item of a list; *more false at its end. */
static enum status next_item(struct yaml_events *r, bool *more)
{
  TRY(events_next(r));
  *more = r->event.type != YAML_SEQUENCE_END_EVENT;
  return OK;
}

static enum status begin_list(struct yaml_events *r, const char *key, const char *of)
{
  TRY(events_next(r));
  if (r->event.type != YAML_SEQUENCE_START_EVENT)
    FAIL_FROM(events_here(r), "%s must be a list of %s", key, of);
  return OK;
}

static enum status read_seeds(struct yaml_events *r, struct compare_list *l)
{
  bool more;
  TRY(begin_list(r, "seeds", "integers"));
  l->seeds_count = 0;
  for (;;) {
    TRY(next_item(r, &more));
    if (!more)
      break;
    if (l->seeds_count == LIST_SEEDS)
      FAIL_FROM(events_here(r), "more than %d seeds", LIST_SEEDS);
    TRY(integer(r, "seeds", 0, INT64_MAX, &l->seeds[l->seeds_count]));
    for (int64_t i = 0; i < l->seeds_count; i++)
      if (l->seeds[i] == l->seeds[l->seeds_count])
        FAIL_FROM(events_here(r), "seed %lld stands here twice", (long long)l->seeds[i]);
    l->seeds_count++;
  }
  if (l->seeds_count == 0)
    FAIL_FROM(events_here(r), "seeds must have one at least");
  return OK;
}

/* What a list says of its runs by keys of its own. */
static const struct {
  const char *override, *by;
} owned[] = {{"seed=", "`seeds`"}, {"runs_dir=", "`runs_dir`"}, {"name=", "the `label`"}};

static enum status read_words(struct yaml_events *r, const char *key, struct word_list *w)
{
  bool more;
  TRY(begin_list(r, key, "overrides such as \"train.lr=1e-3\""));
  for (;;) {
    TRY(next_item(r, &more));
    if (!more)
      break;
    struct scalar s;
    TRY(expect_scalar(r, key, &s));
    if (!strchr(s.text, '='))
      FAIL_FROM(events_here(r), "%s: '%s' is not of the form key.path=value", key, s.text);
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
      if (strncmp(s.text, owned[i].override, strlen(owned[i].override)) == 0)
        FAIL_FROM(events_here(r), "%s: '%s': %s of the list says that", key, s.text, owned[i].by);
    enum status status = word_list_add(w, "%s", s.text);
    if (status != OK)
      return fail_from(events_here(r), status);
  }
  return OK;
}

/* ---- mappings ---- */

/* Steps to the next key of the mapping: its number in names; *more false at the end. */
static enum status next_key(struct yaml_events *r, const char *const *names, unsigned *seen,
                            int *key, bool *more)
{
  char what[KEY_SHOWN], all[256] = "";
  TRY(events_next(r));
  *more = r->event.type != YAML_MAPPING_END_EVENT;
  if (!*more)
    return OK;
  if (r->event.type != YAML_SCALAR_EVENT)
    FAIL_FROM(events_here(r), "a key must be a word");
  struct scalar s = event_scalar(&r->event);
  for (*key = 0; names[*key] && strcmp(names[*key], s.text) != 0; ++*key) {
    strncat(all, *key ? ", " : "", sizeof all - strlen(all) - 1);
    strncat(all, names[*key], sizeof all - strlen(all) - 1);
  }
  if (!names[*key])
    FAIL_FROM(events_here(r), "unknown key '%s'; there are %s", shown(s.text, s.bytes, what), all);
  if (*seen & (1u << *key))
    FAIL_FROM(events_here(r), "repeated key '%s'", names[*key]);
  *seen |= 1u << *key;
  return OK;
}

static enum status expect_mapping(const struct yaml_events *r, const char *what)
{
  if (r->event.type != YAML_MAPPING_START_EVENT)
    FAIL_FROM(events_here(r), "%s must be a mapping of keys", what);
  return OK;
}

/* A file's name as the list's file means it. */
static enum status relative_path(const struct yaml_events *r, const char *list, const char *name,
                                 char *out)
{
  const char *slash = strrchr(list, '/');
  int front = slash && *name != '/' ? (int)(slash - list) + 1 : 0;
  int n = snprintf(out, COMPARE_PATH, "%.*s%s", front, list, name);
  if (n < 0 || n >= COMPARE_PATH)
    FAIL_FROM(events_here(r), "config: the path is too long");
  return OK;
}

static enum status read_entry(struct yaml_events *r, const char *list, struct list_entry *e)
{
  static const char *const names[] = {"config", "label", "section", "set", NULL};
  struct origin at = events_here(r);
  char name[CONFIG_PATH];
  unsigned seen = 0;
  bool more;
  int key;
  TRY(expect_mapping(r, "an item of configs"));
  for (;;) {
    TRY(next_key(r, names, &seen, &key, &more));
    if (!more)
      break;
    if (key == 0) {
      TRY(read_text(r, names[key], name, sizeof name));
      e->line = events_here(r).line, e->column = events_here(r).column;
      TRY(relative_path(r, list, name, e->config));
    } else if (key == 1) {
      TRY(read_text(r, names[key], e->label, sizeof e->label));
      e->labelled = true;
    } else if (key == 2) {
      TRY(read_text(r, names[key], e->section, sizeof e->section));
    } else {
      TRY(read_words(r, names[key], &e->set));
    }
  }
  if (!(seen & 1))
    FAIL_FROM(at, "config: missing: the configuration's file");
  return OK;
}

static enum status read_entries(struct yaml_events *r, struct compare_list *l)
{
  bool more;
  TRY(begin_list(r, "configs", "mappings with config, label, section, set"));
  l->entry = calloc(LIST_ENTRIES, sizeof *l->entry);
  if (!l->entry)
    FAIL(ERR_MEMORY, "out of memory");
  for (;;) {
    TRY(next_item(r, &more));
    if (!more)
      break;
    if (l->entries == LIST_ENTRIES)
      FAIL_FROM(events_here(r), "more than %d configurations", LIST_ENTRIES);
    TRY(read_entry(r, l->file, &l->entry[l->entries++]));
  }
  if (l->entries == 0)
    FAIL_FROM(events_here(r), "configs must have one at least");
  return OK;
}

static enum status read_list_key(struct yaml_events *r, struct compare_list *l, int key)
{
  switch (key) {
  case 0:
    return read_text(r, "title", l->title, sizeof l->title);
  case 1:
    return read_text(r, "runs_dir", l->runs_dir, sizeof l->runs_dir);
  case 2:
    return read_text(r, "output", l->output, sizeof l->output);
  case 3:
    return read_seeds(r, l);
  case 4:
    return read_jobs(r, &l->jobs);
  case 5:
    return read_words(r, "set", &l->set);
  case 6:
    return read_words(r, "evaluate", &l->evaluate);
  default:
    return read_entries(r, l);
  }
}

static enum status read_list(struct yaml_events *r, struct compare_list *l)
{
  static const char *const names[] = {"title", "runs_dir", "output",  "seeds", "jobs",
                                      "set",   "evaluate", "configs", NULL};
  struct origin at = events_here(r);
  unsigned seen = 0;
  bool more;
  int key;
  TRY(events_next(r));
  TRY(expect_mapping(r, "compare"));
  for (;;) {
    TRY(next_key(r, names, &seen, &key, &more));
    if (!more)
      break;
    TRY(read_list_key(r, l, key));
  }
  if (!(seen & 2))
    FAIL_FROM(at, "compare.runs_dir: missing: the directory of the runs");
  if (!(seen & 128))
    FAIL_FROM(at, "compare.configs: missing: the list of configurations");
  return OK;
}

static enum status read_document(struct yaml_events *r, struct compare_list *l)
{
  static const char *const names[] = {"compare", NULL};
  unsigned seen = 0;
  bool more;
  int key;
  for (int i = 0; i < 3 && r->event.type != YAML_STREAM_END_EVENT; i++)
    TRY(events_next(r)); /* stream, document, mapping */
  TRY(expect_mapping(r, "a list of configurations to compare"));
  TRY(next_key(r, names, &seen, &key, &more));
  if (!more)
    FAIL_FROM(events_here(r), "compare: missing");
  TRY(read_list(r, l));
  TRY(next_key(r, names, &seen, &key, &more));
  CHECK(!more); /* another key is unknown or repeated */
  return events_finish(r);
}

static enum status fill_defaults(struct compare_list *l)
{
  const char *slash = strrchr(l->file, '/'), *name = slash ? slash + 1 : l->file;
  if (!*l->title)
    (void)snprintf(l->title, sizeof l->title, "%.*s", (int)strcspn(name, "."), name);
  if (!*l->output)
    TRY(path_join(l->output, sizeof l->output, l->runs_dir, "compare"));
  if (l->seeds_count == 0)
    l->seeds_count = 1; /* seed 0 */
  return OK;
}

enum status compare_list_read(const char *file, struct compare_list *l)
{
  struct yaml_events r;
  char *text;
  size_t bytes;
  *l = (struct compare_list){.file = file};
  TRY(file_read(file, &text, &bytes));
  enum status s = events_open(&r, text, bytes, (struct origin){.file = file});
  if (s == OK)
    s = events_close(&r, read_document(&r, l));
  free(text);
  if (s == OK)
    s = fill_defaults(l);
  if (s != OK)
    compare_list_free(l);
  return s;
}

void compare_list_free(struct compare_list *l)
{
  for (int64_t i = 0; i < l->entries; i++)
    word_list_free(&l->entry[i].set);
  word_list_free(&l->set);
  word_list_free(&l->evaluate);
  free(l->entry);
  *l = (struct compare_list){0};
}

/* ---- runs ---- */

static enum status blame(const struct compare_list *l, const struct list_entry *e,
                         enum status status)
{
  struct origin at = {.file = l->file, .line = e->line, .column = e->column};
  return fail_from(at, status);
}

/* Bytes of its first characters, 50 at most. */
static int front_of(const char *text)
{
  size_t n = strnlen(text, 50);
  while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80)
    n--;
  return (int)n;
}

/* A name that is a directory's: only what is ASCII may have to change. */
static void name_run(const struct list_run *run, const char *label, int64_t seed,
                     char out[CONFIG_WORD])
{
  const char *section = run->entry->section;
  (void)snprintf(out, CONFIG_WORD, "%.*s%s%.*s-s%lld", front_of(section), section,
                 *section ? "-" : "", front_of(label), label, (long long)seed);
  for (char *c = out; *c; c++)
    if (!((unsigned char)*c & 0x80) &&
        !strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", *c))
      *c = '-';
}

/* As YAML's double quotes need it. */
static enum status add_quoted(struct word_list *w, const char *key, const char *text)
{
  char quoted[2 * CONFIG_PATH + 1];
  size_t n = 0;
  for (; *text && n + 2 < sizeof quoted; text++) {
    if (*text == '"' || *text == '\\')
      quoted[n++] = '\\';
    quoted[n++] = *text;
  }
  quoted[n] = 0;
  return word_list_add(w, "%s=\"%s\"", key, quoted);
}

static enum status make_run(const struct compare_list *l, struct list_entry *e, int64_t seed,
                            struct list_run *run)
{
  char name[CONFIG_WORD];
  run->entry = e;
  TRY(word_list_append(&run->set, &l->set));
  TRY(word_list_append(&run->set, &e->set));
  TRY(word_list_add(&run->set, "seed=%lld", (long long)seed));
  TRY(add_quoted(&run->set, "runs_dir", l->runs_dir));
  TRY(config_load(e->config, run->set.count, (const char *const *)run->set.word, &run->config));
  if (!*e->label)
    (void)snprintf(e->label, sizeof e->label, "%s", run->config.name);
  name_run(run, e->label, seed, name);
  TRY(add_quoted(&run->set, "name", name));
  TRY(config_load(e->config, run->set.count, (const char *const *)run->set.word, &run->config));
  TRY(config_resolve(&run->config));
  TRY(run_directory(&run->config, run->directory, sizeof run->directory));
  int n = snprintf(run->log, sizeof run->log, "%s.log", run->directory);
  if (n < 0 || (size_t)n >= sizeof run->log)
    FAIL(ERR_USAGE, "%s: the path is too long", run->directory);
  return OK;
}

/* As it will be evaluated: what it was trained on may differ. */
static enum status evaluated_config(const struct compare_list *l, const struct list_run *run,
                                    struct config *c)
{
  struct word_list words = {0};
  enum status s = word_list_append(&words, &run->set);
  if (s == OK)
    s = word_list_append(&words, &l->evaluate);
  if (s == OK)
    s = config_load(run->entry->config, words.count, (const char *const *)words.word, c);
  word_list_free(&words);
  TRY(s);
  return config_resolve(c);
}

/* A section's runs are evaluated on the data of its first. */
static enum status check_section(const struct compare_list *l, const struct list_run *runs,
                                 const struct list_run *run)
{
  struct config c, other;
  const struct list_run *first = runs;
  while (strcmp(first->entry->section, run->entry->section) != 0)
    first++;
  TRY(evaluated_config(l, run, &c));
  TRY(evaluated_config(l, first, &other));
  return compared_same_data(run->directory, &c, first->directory, &other);
}

enum status list_runs_make(const struct compare_list *l, struct list_run **runs, int64_t *count)
{
  enum status s = OK;
  *count = 0;
  *runs = calloc((size_t)(l->entries * l->seeds_count), sizeof **runs);
  if (!*runs)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; s == OK && i < l->entries * l->seeds_count; i++) {
    struct list_run *run = &(*runs)[(*count)++];
    struct list_entry *e = &l->entry[i / l->seeds_count];
    s = make_run(l, e, l->seeds[i % l->seeds_count], run);
    for (int64_t k = 0; s == OK && k < i; k++)
      if (strcmp((*runs)[k].directory, run->directory) == 0)
        s = fail_at(ERR_USAGE, __FILE__, __LINE__,
                    "its runs are called as those of another configuration (%s): give it %s label",
                    run->directory, e->labelled ? "another" : "a");
    if (s == OK)
      s = check_section(l, *runs, run);
    if (s != OK)
      s = blame(l, e, s);
  }
  if (s != OK) {
    list_runs_free(*runs, *count);
    *runs = NULL;
    *count = 0;
  }
  return s;
}

void list_runs_free(struct list_run *runs, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    word_list_free(&runs[i].set);
  free(runs);
}

enum status list_run_evaluation(const struct compare_list *l, const struct list_run *runs,
                                const struct list_run *run, struct word_list *words)
{
  const struct list_run *first = runs;
  while (strcmp(first->entry->section, run->entry->section) != 0)
    first++;
  const struct evaluate_config *e = &first->config.evaluate;
  char lengths[32 * CONFIG_LENGTHS];
  size_t used = 0;
  for (int64_t i = 0; i < e->lengths_count; i++)
    used += (size_t)snprintf(lengths + used, sizeof lengths - used, "%s%lld", i ? ", " : "",
                             (long long)e->lengths[i]);
  *words = (struct word_list){0};
  TRY(word_list_add(words, "evaluate.lengths=[%s]", lengths));
  TRY(word_list_add(words, "evaluate.sequences=%lld", (long long)e->sequences));
  return word_list_append(words, &l->evaluate);
}
