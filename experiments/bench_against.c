/* bench_against.c: ratios to what an earlier `bench --json` measured. */
#include "core/files.h"
#include "experiments/bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_t *find(const json_t *list, const struct bench_result *b)
{
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *o = json_array_get(list, i);
    const char *name = json_string_value(json_object_get(o, "name"));
    const char *unit = json_string_value(json_object_get(o, "unit"));
    if (name && unit && strcmp(name, b->name) == 0 && strcmp(unit, b->unit) == 0)
      return o;
  }
  return NULL;
}

static double number(const json_t *o, const char *key)
{
  return json_number_value(json_object_get(o, key));
}

enum status bench_earlier(const char *path, json_t **earlier)
{
  json_error_t error;
  char *text;
  size_t bytes;
  TRY(file_read(path, &text, &bytes));
  *earlier = json_loadb(text, bytes, 0, &error);
  free(text);
  if (!*earlier)
    FAIL(ERR_DATA, "%s:%d: %s", path, error.line, error.text);
  if (json_is_array(json_object_get(*earlier, "results")))
    return OK;
  json_decref(*earlier);
  *earlier = NULL;
  FAIL(ERR_DATA, "%s: not what bench --json writes: no list of results", path);
}

void bench_against(const struct bench_results *r, const char *path, const json_t *earlier)
{
  const json_t *list = json_object_get(earlier, "results");
  (void)printf("against %s: now / then (smallest to largest ratio of any two runs)\n", path);
  for (const struct bench_result *b = r->result; b < r->result + r->count; b++) {
    const json_t *o = find(list, b);
    if (!o)
      (void)printf("%-56s is new\n", b->name);
    else if (number(o, "low") > 0)
      (void)printf("%-56s %10.3f          (%.3f to %.3f)\n", b->name, b->value / number(o, "value"),
                   b->low / number(o, "high"), b->high / number(o, "low"));
  }
}
