/* yaml_events.c: see yaml_events.h. */
#include "core/yaml_events.h"
#include <stdio.h>
#include <string.h>

#undef fail_from

/* ---- places ---- */

const char *shown(const char *text, size_t bytes, char out[KEY_SHOWN])
{
  size_t n = bytes < KEY_SHOWN ? bytes : KEY_SHOWN - 4;
  while (n < bytes && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
    n--; /* not within a UTF-8 character */
  for (size_t i = 0; i < n; i++)
    out[i] = (char)((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i]);
  memcpy(out + n, n < bytes ? "..." : "", n < bytes ? 4 : 1);
  return out;
}

const char *origin_text(struct origin at, char out[CONFIG_PLACE])
{
  enum { LONGEST = 400 };
  if (at.override) {
    size_t n = strlen(at.override);
    (void)snprintf(out, CONFIG_PLACE, "command line: %.*s%s", LONGEST, at.override,
                   n > LONGEST ? "..." : "");
    return out;
  }
  CHECK(at.file);
  size_t n = strlen(at.file);
  (void)snprintf(out, CONFIG_PLACE, "%s%s:%zu:%zu", n > LONGEST ? "..." : "",
                 at.file + (n > LONGEST ? n - LONGEST : 0), at.line, at.column);
  return out;
}

enum status fail_from(struct origin at, enum status code)
{
  char place[CONFIG_PLACE];
  return fail_within(code, "%s", origin_text(at, place));
}

/* ---- events ---- */

static struct origin at_mark(const struct yaml_events *r, yaml_mark_t mark)
{
  struct origin at = r->base;
  at.line = mark.line + 1;
  at.column = mark.column + 1;
  return at;
}

struct origin events_here(const struct yaml_events *r) { return at_mark(r, r->event.start_mark); }

/* libyaml gives faults of the encoding by their byte only */
static struct origin at_byte(const struct yaml_events *r, size_t byte)
{
  struct origin at = r->base;
  at.line = at.column = 1;
  for (size_t i = 0; i < byte && i < r->bytes; i++) {
    at.column = r->text[i] == '\n' ? 1 : at.column + 1;
    at.line += r->text[i] == '\n';
  }
  return at;
}

static enum status syntax_error(const struct yaml_events *r)
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

enum status events_next(struct yaml_events *r)
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
    FAIL_FROM(events_here(r),
              "anchors (&) and aliases (*) are not supported; quote text that begins so");
  if (tag)
    FAIL_FROM(events_here(r), "tags (!) are not supported; quote text that begins so");
  return OK;
}

struct scalar event_scalar(const yaml_event_t *e)
{
  return (struct scalar){(const char *)e->data.scalar.value, e->data.scalar.length,
                         e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE};
}

bool event_is_nothing(const yaml_event_t *e)
{
  struct scalar s = event_scalar(e);
  return s.plain && (!s.bytes || !strcmp(s.text, "~") || !strcmp(s.text, "null"));
}

enum status events_open(struct yaml_events *r, const char *text, size_t bytes, struct origin base)
{
  memset(r, 0, sizeof *r);
  if (!yaml_parser_initialize(&r->parser))
    FAIL(ERR_MEMORY, "no memory to read YAML");
  yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, bytes);
  r->text = text;
  r->bytes = bytes;
  r->base = base;
  return OK;
}

enum status events_close(struct yaml_events *r, enum status status)
{
  yaml_event_delete(&r->event);
  yaml_parser_delete(&r->parser);
  return status;
}

enum status events_finish(struct yaml_events *r)
{
  TRY(events_next(r));
  CHECK(r->event.type == YAML_DOCUMENT_END_EVENT);
  TRY(events_next(r));
  if (r->event.type != YAML_STREAM_END_EVENT)
    FAIL_FROM(events_here(r), "a second document begins; a configuration is one");
  return OK;
}
