/* config_yaml.c: YAML, event by event, into a layer of configuration values.  Nothing nests deeper
 * than the table of keys does. */
#include "core/config_keys.h"
#include <stdlib.h>
#include <string.h>

struct reader {
  struct yaml_events e;
  char path[KEY_PATH]; /* of the mapping that is being read */
  struct layer *l;
  struct includes *in;
};

/* the file that an item of `include` names */
static enum status add_include(struct reader *r)
{
  struct includes *in = r->in;
  struct scalar s = event_scalar(&r->e.event);
  if (!s.bytes || strlen(s.text) != s.bytes)
    FAIL_FROM(events_here(&r->e), "include: expected the name of a file");
  if (in->count == INCLUDES_MAX)
    FAIL_FROM(events_here(&r->e), "include: more than %d files", INCLUDES_MAX);
  const char *slash = strrchr(r->e.base.file, '/');
  size_t front = slash && *s.text != '/' ? (size_t)(slash - r->e.base.file) + 1 : 0;
  char *path = malloc(front + s.bytes + 1);
  if (!path)
    FAIL(ERR_MEMORY, "no memory for the name of a file");
  memcpy(path, r->e.base.file, front);
  memcpy(path + front, s.text, s.bytes + 1);
  in->at[in->count] = events_here(&r->e);
  in->path[in->count++] = path;
  return OK;
}

static enum status wrong(const struct reader *r, const struct key *k, const char *before)
{
  char expected[KEY_EXPECTED], what[KEY_SHOWN];
  struct scalar s;
  (void)key_expected(k, expected);
  switch (r->e.event.type) {
  case YAML_SEQUENCE_START_EVENT:
    FAIL_FROM(events_here(&r->e), "%s must be %s, not %sa list", k->path, expected, before);
  case YAML_MAPPING_START_EVENT:
    FAIL_FROM(events_here(&r->e), "%s must be %s, not %sa mapping", k->path, expected, before);
  default:
    s = event_scalar(&r->e.event);
    if (s.plain && !s.bytes)
      FAIL_FROM(events_here(&r->e), "%s must be %s, not %snothing", k->path, expected, before);
    FAIL_FROM(events_here(&r->e), "%s must be %s, not %s%s%s%s", k->path, expected, before,
              s.plain ? "'" : "the text '", shown(s.text, s.bytes, what), "'");
  }
}

/* the present event begins the value of key k */
static enum status read_value(struct reader *r, int index)
{
  const struct key *k = &keys[index];
  int64_t items = 0;
  if (k->type == KEY_INCLUDE && !r->in)
    FAIL_FROM(events_here(&r->e), "include is possible in files only");
  key_clear(k, &r->l->c);
  if (!key_is_list(k)) {
    struct scalar s = {0};
    if (r->e.event.type == YAML_SCALAR_EVENT)
      s = event_scalar(&r->e.event);
    if (!s.text || !key_set(k, 0, &s, &r->l->c))
      return wrong(r, k, "");
    if (k->type == KEY_FILE && !key_make_absolute(k, r->e.base.file, &r->l->c))
      FAIL_FROM(events_here(&r->e), "%s: the path is too long, or no text, once it is absolute",
                k->path);
    return OK;
  }
  if (r->e.event.type != YAML_SEQUENCE_START_EVENT)
    return wrong(r, k, "");
  for (struct origin at = events_here(&r->e);; items++) {
    TRY(events_next(&r->e));
    if (r->e.event.type == YAML_SEQUENCE_END_EVENT) {
      char expected[KEY_EXPECTED];
      if (!key_count_fits(k, items))
        FAIL_FROM(at, "%s must be %s, not of %lld", k->path, key_expected(k, expected),
                  (long long)items);
      return OK;
    }
    if (items == key_items(k))
      return wrong(r, k, "longer: ");
    if (r->e.event.type != YAML_SCALAR_EVENT)
      return wrong(r, k, "with ");
    struct scalar s = event_scalar(&r->e.event);
    if (k->type == KEY_INCLUDE)
      TRY(add_include(r));
    else if (!key_set(k, items, &s, &r->l->c))
      return wrong(r, k, "with ");
  }
}

static enum status unknown(const char *path, struct origin at)
{
  char nearest[KEY_PATH], what[KEY_SHOWN];
  key_nearest(path, nearest);
  FAIL_FROM(at, "unknown key '%s'; the nearest one is '%s'", shown(path, strlen(path), what),
            nearest);
}

static int dots(const char *path)
{
  int n = 0;
  for (; *path; path++)
    n += *path == '.';
  return n;
}

static enum status read_mapping(struct reader *r);

/* r->path is complete; `at` is where it stands; the next event begins its value */
static enum status read_key(struct reader *r, struct origin at)
{
  int leaf = key_find(r->path), section = key_section(r->path);
  if (leaf < 0 && section < 0)
    return unknown(r->path, at);
  if (leaf >= 0) {
    if (given(r->l, leaf) && !at.override)
      FAIL_FROM(at, "repeated key '%s'; it stands in line %zu already", r->path,
                r->l->from[leaf].line);
    TRY(events_next(&r->e));
    TRY(read_value(r, leaf));
    r->l->from[leaf] = at;
    return OK;
  }
  unsigned char bit = (unsigned char)(1u << dots(r->path));
  if ((r->l->sections[section] & bit) && !at.override)
    FAIL_FROM(at, "repeated key '%s'", r->path);
  r->l->sections[section] |= bit;
  TRY(events_next(&r->e));
  if (r->e.event.type == YAML_MAPPING_START_EVENT)
    return read_mapping(r);
  if (r->e.event.type == YAML_SCALAR_EVENT && event_is_nothing(&r->e.event) && !at.override)
    return OK; /* a section whose keys are all commented out */
  FAIL_FROM(events_here(&r->e), "%s must be a mapping of keys such as '%s'", r->path,
            keys[section].path + strlen(r->path) + 1);
}

/* the present event began a mapping; r->path is that of its section */
static enum status read_mapping(struct reader *r)
{
  for (size_t n = strlen(r->path);; r->path[n] = 0) {
    TRY(events_next(&r->e));
    if (r->e.event.type == YAML_MAPPING_END_EVENT)
      return OK;
    struct origin at = events_here(&r->e);
    if (r->e.event.type != YAML_SCALAR_EVENT)
      FAIL_FROM(at, "a key must be a word");
    struct scalar s = event_scalar(&r->e.event);
    char part[KEY_SHOWN];
    (void)shown(s.text, s.bytes, part);
    int written = snprintf(r->path + n, KEY_PATH - n, "%s%s", n ? "." : "", part);
    CHECK(written >= 0 && (size_t)written < KEY_PATH - n); /* sections are short */
    TRY(read_key(r, at));
  }
}

static enum status read_document(struct reader *r)
{
  TRY(events_next(&r->e)); /* start of the stream */
  TRY(events_next(&r->e));
  if (r->e.event.type == YAML_STREAM_END_EVENT)
    return OK; /* an empty file */
  TRY(events_next(&r->e));
  if (r->e.event.type == YAML_MAPPING_START_EVENT)
    TRY(read_mapping(r));
  else if (r->e.event.type != YAML_SCALAR_EVENT || !event_is_nothing(&r->e.event))
    FAIL_FROM(events_here(&r->e), "expected keys and values, as in 'name: value'");
  return events_finish(&r->e);
}

enum status yaml_read_file(const char *file, const char *text, size_t bytes, struct layer *l,
                           struct includes *in)
{
  struct reader r = {.l = l};
  TRY(events_open(&r.e, text, bytes, (struct origin){.file = file}));
  r.in = in;
  return events_close(&r.e, read_document(&r));
}

static enum status read_one(struct reader *r, const char *path)
{
  char shortened[KEY_SHOWN];
  (void)snprintf(r->path, sizeof r->path, "%s", shown(path, strlen(path), shortened));
  TRY(events_next(&r->e)); /* start of the stream */
  TRY(events_next(&r->e));
  if (r->e.event.type == YAML_STREAM_END_EVENT)
    FAIL_FROM(events_here(&r->e), "expected a value behind '='");
  TRY(read_key(r, events_here(&r->e)));
  return events_finish(&r->e);
}

enum status yaml_read_value(const char *path, const char *text, struct origin at, struct layer *l)
{
  struct reader r = {.l = l};
  TRY(events_open(&r.e, text, strlen(text), at));
  return events_close(&r.e, read_one(&r, path));
}
