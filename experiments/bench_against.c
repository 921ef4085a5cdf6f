/* bench_against.c: ratios to what an earlier `bench --json` measured. */
#include "experiments/bench.h"
#include <jansson.h>
#include <stdio.h>
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

enum status bench_against(const struct bench_results *r, const char *path)
{
  json_error_t error;
  json_t *root = json_load_file(path, 0, &error);
  if (!root)
    FAIL(ERR_DATA, "%s:%d: %s", path, error.line, error.text);
  const json_t *list = json_object_get(root, "results");
  if (!json_is_array(list)) {
    json_decref(root);
    FAIL(ERR_DATA, "%s: not what bench --json writes: no list of results", path);
  }
  (void)printf("against %s: now / then (smallest to largest ratio of any two runs)\n", path);
  for (const struct bench_result *b = r->result; b < r->result + r->count; b++) {
    const json_t *o = find(list, b);
    if (!o)
      (void)printf("%-56s is new\n", b->name);
    else if (number(o, "low") > 0)
      (void)printf("%-56s %10.3f          (%.3f to %.3f)\n", b->name, b->value / number(o, "value"),
                   b->low / number(o, "high"), b->high / number(o, "low"));
  }
  json_decref(root);
  return OK;
}
