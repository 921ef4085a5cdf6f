/* yaml_events.h: YAML, event by event, each with its place, for readers that blame a place.
 *
 * Events instead of documents: memory stays bounded, and a fault stops the reading where it stands.
 * Anchors, aliases and tags are refused. */
#ifndef CORE_YAML_EVENTS_H
#define CORE_YAML_EVENTS_H
#include "core/config.h"
#include <stddef.h>
#include <yaml.h>

enum { KEY_SHOWN = 64 };

/* Where a value came from: a place in a file, or an override as the user typed it. */
struct origin {
  const char *file, *override; /* both NULL: from nowhere, a default */
  size_t line, column;         /* from 1; in a file */
  int order;                   /* of its layer: later ones won */
};
/* "file:line:column", or the command line's words. */
const char *origin_text(struct origin at, char out[CONFIG_PLACE]);
/* Puts the origin in front of the error that was just recorded; returns `code`. */
MUST_USE enum status fail_from(struct origin at, enum status code);
#ifdef __clang_analyzer__ /* which cannot see that the answer is the second argument */
#define fail_from(at, code) ((void)fail_from(at, code), (code))
#endif
#define FAIL_FROM(at, ...) return fail_from(at, fail_at(ERR_USAGE, __FILE__, __LINE__, __VA_ARGS__))
/* Text of unknown origin as a message may show it: short, and without control characters. */
const char *shown(const char *text, size_t bytes, char out[KEY_SHOWN]);

/* One scalar of YAML; `text` ends with a 0 and may hold others. */
struct scalar {
  const char *text;
  size_t bytes;
  bool plain; /* not quoted */
};

struct yaml_events {
  yaml_parser_t parser;
  yaml_event_t event; /* the present one */
  const char *text;
  size_t bytes;
  struct origin base; /* file or override */
};
/* `text` stays the caller's until events_close. */
MUST_USE enum status events_open(struct yaml_events *r, const char *text, size_t bytes,
                                 struct origin base);
/* Returns `status`, for what was done between. */
MUST_USE enum status events_close(struct yaml_events *r, enum status status);
MUST_USE enum status events_next(struct yaml_events *r);
struct origin events_here(const struct yaml_events *r);
/* Nothing may follow the document that has been read. */
MUST_USE enum status events_finish(struct yaml_events *r);
struct scalar event_scalar(const yaml_event_t *e); /* of a scalar event */
bool event_is_nothing(const yaml_event_t *e);      /* null, ~ or nothing */
#endif
