/* config_yaml.c: YAML, event by event, into a layer of configuration values.
 *
 * Events instead of documents: memory stays bounded, nothing nests deeper than the table of keys
 * does, and a fault stops the reading where it stands.  Anchors, aliases and tags are refused. */
#include "core/config_keys.h"
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct reader {
  yaml_parser_t parser;
  yaml_event_t event; /* the present one */
  const char *text;
  size_t bytes;
  struct origin base;  /* file or override */
  char path[KEY_PATH]; /* of the mapping that is being read */
  struct layer *l;
  struct includes *in;
};

static struct origin at_mark(const struct reader *r, yaml_mark_t mark)
{
  struct origin at = r->base;
  at.line = mark.line + 1;
  at.column = mark.column + 1;
  return at;
}

static struct origin here(const struct reader *r) { return at_mark(r, r->event.start_mark); }

/* libyaml gives faults of the encoding by their byte only */
static struct origin at_byte(const struct reader *r, size_t byte)
{
  struct origin at = r->base;
  at.line = at.column = 1;
  for (size_t i = 0; i < byte && i < r->bytes; i++) {
    at.column = r->text[i] == '\n' ? 1 : at.column + 1;
    at.line += r->text[i] == '\n';
  }
  return at;
}

static enum status syntax_error(const struct reader *r)
{
  const yaml_parser_t *p = &r->parser;
  const char *problem = p->problem ? p->problem : "this is not YAML";
  if (p->error == YAML_MEMORY_ERROR)
    FAIL(ERR_MEMORY, "no memory to read YAML");
  if (p->error == YAML_READER_ERROR)
    FAIL_FROM(at_byte(r, p->problem_offset), "%s", problem);
  size_t i = p->problem_mark.index;
  if (i < r->bytes && r->text[i] == '\t')
    FAIL_FROM(at_mark(r, p->problem_mark), "a tab cannot indent: use spaces");
  FAIL_FROM(at_mark(r, p->problem_mark), "%s%s%s", problem, p->context ? " " : "",
            p->context ? p->context : "");
}

static enum status next(struct reader *r)
{
  yaml_event_delete(&r->event);
  if (!yaml_parser_parse(&r->parser, &r->event))
    return syntax_error(r);
  const yaml_event_t *e = &r->event;
  const yaml_char_t *anchor = NULL, *tag = NULL;
  if (e->type == YAML_SCALAR_EVENT)
    anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
  else if (e->type == YAML_SEQUENCE_START_EVENT)
    anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
  else if (e->type == YAML_MAPPING_START_EVENT)
    anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
  if (anchor || e->type == YAML_ALIAS_EVENT)
    FAIL_FROM(here(r), "anchors (&) and aliases (*) are not supported; quote text that begins so");
  if (tag)
    FAIL_FROM(here(r), "tags (!) are not supported; quote text that begins so");
  return OK;
}

static struct scalar scalar_of(const yaml_event_t *e)
{
  return (struct scalar){(const char *)e->data.scalar.value, e->data.scalar.length,
                         e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE};
}

static bool is_nothing(const yaml_event_t *e)
{
  struct scalar s = scalar_of(e);
  return s.plain && (!s.bytes || !strcmp(s.text, "~") || !strcmp(s.text, "null"));
}

/* the file that an item of `include` names */
static enum status add_include(struct reader *r)
{
  struct includes *in = r->in;
  struct scalar s = scalar_of(&r->event);
  if (!s.bytes || strlen(s.text) != s.bytes)
    FAIL_FROM(here(r), "include: expected the name of a file");
  if (in->count == INCLUDES_MAX)
    FAIL_FROM(here(r), "include: more than %d files", INCLUDES_MAX);
  const char *slash = strrchr(r->base.file, '/');
  size_t front = slash && *s.text != '/' ? (size_t)(slash - r->base.file) + 1 : 0;
  char *path = malloc(front + s.bytes + 1);
  if (!path)
    FAIL(ERR_MEMORY, "no memory for the name of a file");
  memcpy(path, r->base.file, front);
  memcpy(path + front, s.text, s.bytes + 1);
  in->at[in->count] = here(r);
  in->path[in->count++] = path;
  return OK;
}

static enum status wrong(const struct reader *r, const struct key *k, const char *before)
{
  char expected[KEY_EXPECTED], what[KEY_SHOWN];
  struct scalar s;
  (void)key_expected(k, expected);
  switch (r->event.type) {
  case YAML_SEQUENCE_START_EVENT:
    FAIL_FROM(here(r), "%s must be %s, not %sa list", k->path, expected, before);
  case YAML_MAPPING_START_EVENT:
    FAIL_FROM(here(r), "%s must be %s, not %sa mapping", k->path, expected, before);
  default:
    s = scalar_of(&r->event);
    if (s.plain && !s.bytes)
      FAIL_FROM(here(r), "%s must be %s, not %snothing", k->path, expected, before);
    FAIL_FROM(here(r), "%s must be %s, not %s%s%s%s", k->path, expected, before,
              s.plain ? "'" : "the text '", shown(s.text, s.bytes, what), "'");
  }
}

/* the present event begins the value of key k */
static enum status read_value(struct reader *r, int index)
{
  const struct key *k = &keys[index];
  int64_t items = 0;
  if (k->type == KEY_INCLUDE && !r->in)
    FAIL_FROM(here(r), "include is possible in files only");
  key_clear(k, &r->l->c);
  if (!key_is_list(k)) {
    struct scalar s = {0};
    if (r->event.type == YAML_SCALAR_EVENT)
      s = scalar_of(&r->event);
    if (!s.text || !key_set(k, 0, &s, &r->l->c))
      return wrong(r, k, "");
    if (k->type == KEY_FILE && !key_make_absolute(k, r->base.file, &r->l->c))
      FAIL_FROM(here(r), "%s: the path is too long, or no text, once it is absolute", k->path);
    return OK;
  }
  if (r->event.type != YAML_SEQUENCE_START_EVENT)
    return wrong(r, k, "");
  for (struct origin at = here(r);; items++) {
    TRY(next(r));
    if (r->event.type == YAML_SEQUENCE_END_EVENT) {
      char expected[KEY_EXPECTED];
      if (!key_count_fits(k, items))
        FAIL_FROM(at, "%s must be %s, not of %lld", k->path, key_expected(k, expected),
                  (long long)items);
      return OK;
    }
    if (items == key_items(k))
      return wrong(r, k, "longer: ");
    if (r->event.type != YAML_SCALAR_EVENT)
      return wrong(r, k, "with ");
    struct scalar s = scalar_of(&r->event);
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
    TRY(next(r));
    TRY(read_value(r, leaf));
    r->l->from[leaf] = at;
    return OK;
  }
  unsigned char bit = (unsigned char)(1u << dots(r->path));
  if ((r->l->sections[section] & bit) && !at.override)
    FAIL_FROM(at, "repeated key '%s'", r->path);
  r->l->sections[section] |= bit;
  TRY(next(r));
  if (r->event.type == YAML_MAPPING_START_EVENT)
    return read_mapping(r);
  if (r->event.type == YAML_SCALAR_EVENT && is_nothing(&r->event) && !at.override)
    return OK; /* a section whose keys are all commented out */
  FAIL_FROM(here(r), "%s must be a mapping of keys such as '%s'", r->path,
            keys[section].path + strlen(r->path) + 1);
}

/* the present event began a mapping; r->path is that of its section */
static enum status read_mapping(struct reader *r)
{
  for (size_t n = strlen(r->path);; r->path[n] = 0) {
    TRY(next(r));
    if (r->event.type == YAML_MAPPING_END_EVENT)
      return OK;
    struct origin at = here(r);
    if (r->event.type != YAML_SCALAR_EVENT)
      FAIL_FROM(at, "a key must be a word");
    struct scalar s = scalar_of(&r->event);
    char part[KEY_SHOWN];
    (void)shown(s.text, s.bytes, part);
    int written = snprintf(r->path + n, KEY_PATH - n, "%s%s", n ? "." : "", part);
    CHECK(written >= 0 && (size_t)written < KEY_PATH - n); /* sections are short */
    TRY(read_key(r, at));
  }
}

static enum status reader_init(struct reader *r, const char *text, size_t bytes, struct origin base,
                               struct layer *l)
{
  memset(r, 0, sizeof *r);
  if (!yaml_parser_initialize(&r->parser))
    FAIL(ERR_MEMORY, "no memory to read YAML");
  yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, bytes);
  r->text = text;
  r->bytes = bytes;
  r->base = base;
  r->l = l;
  return OK;
}

static enum status reader_end(struct reader *r, enum status status)
{
  yaml_event_delete(&r->event);
  yaml_parser_delete(&r->parser);
  return status;
}

/* nothing may follow the document that has been read */
static enum status finish(struct reader *r)
{
  TRY(next(r));
  CHECK(r->event.type == YAML_DOCUMENT_END_EVENT);
  TRY(next(r));
  if (r->event.type != YAML_STREAM_END_EVENT)
    FAIL_FROM(here(r), "a second document begins; a configuration is one");
  return OK;
}

static enum status read_document(struct reader *r)
{
  TRY(next(r)); /* start of the stream */
  TRY(next(r));
  if (r->event.type == YAML_STREAM_END_EVENT)
    return OK; /* an empty file */
  TRY(next(r));
  if (r->event.type == YAML_MAPPING_START_EVENT)
    TRY(read_mapping(r));
  else if (r->event.type != YAML_SCALAR_EVENT || !is_nothing(&r->event))
    FAIL_FROM(here(r), "expected keys and values, as in 'name: value'");
  return finish(r);
}

enum status yaml_read_file(const char *file, const char *text, size_t bytes, struct layer *l,
                           struct includes *in)
{
  struct reader r;
  TRY(reader_init(&r, text, bytes, (struct origin){.file = file}, l));
  r.in = in;
  return reader_end(&r, read_document(&r));
}

static enum status read_one(struct reader *r, const char *path)
{
  char shortened[KEY_SHOWN];
  (void)snprintf(r->path, sizeof r->path, "%s", shown(path, strlen(path), shortened));
  TRY(next(r)); /* start of the stream */
  TRY(next(r));
  if (r->event.type == YAML_STREAM_END_EVENT)
    FAIL_FROM(here(r), "expected a value behind '='");
  TRY(read_key(r, here(r)));
  return finish(r);
}

enum status yaml_read_value(const char *path, const char *text, struct origin at, struct layer *l)
{
  struct reader r;
  TRY(reader_init(&r, text, strlen(text), at, l));
  return reader_end(&r, read_one(&r, path));
}
