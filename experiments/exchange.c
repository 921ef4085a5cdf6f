/* exchange.c: see exchange.h. */
#include "experiments/exchange.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put(struct exchange *x, const char *key, json_t *value)
{
  int failed = json_is_array(x->at) ? json_array_append_new(x->at, value)
                                    : json_object_set_new(x->at, key, value);
  *x->bad = *x->bad || failed;
}

static json_t *get(struct exchange *x, const char *key)
{
  json_t *value = json_object_get(x->at, key);
  *x->bad = *x->bad || !value;
  return value;
}

static json_t *number_to_json(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static double number_from_json(struct exchange *x, const json_t *v)
{
  *x->bad = *x->bad || !(json_is_null(v) || json_is_number(v));
  return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

void exchange_double(struct exchange *x, const char *key, double *value)
{
  if (x->reading)
    *value = number_from_json(x, get(x, key));
  else
    put(x, key, number_to_json(*value));
}

static int64_t count_from_json(struct exchange *x, const json_t *v)
{
  *x->bad = *x->bad || !json_is_integer(v);
  return json_is_integer(v) ? (int64_t)json_integer_value(v) : 0;
}

void exchange_int(struct exchange *x, const char *key, int64_t *value)
{
  if (x->reading)
    *value = count_from_json(x, get(x, key));
  else
    put(x, key, json_integer(*value));
}

void exchange_bool(struct exchange *x, const char *key, bool *value)
{
  if (!x->reading) {
    put(x, key, json_boolean(*value));
    return;
  }
  const json_t *v = get(x, key);
  *x->bad = *x->bad || !json_is_boolean(v);
  *value = json_is_true(v);
}

void exchange_text(struct exchange *x, const char *key, char *text, size_t size)
{
  if (!x->reading) {
    json_t *v = json_string(text);
    put(x, key, v ? v : json_string("(no UTF-8)"));
    return;
  }
  const char *v = json_string_value(get(x, key));
  bool fits = v && strlen(v) < size;
  *x->bad = *x->bad || !fits;
  if (fits)
    memcpy(text, v, strlen(v) + 1);
}

void exchange_word(struct exchange *x, const char *key, const char *const *words, int count,
                   int *value)
{
  if (!x->reading) {
    put(x, key, json_string(words[*value]));
    return;
  }
  const char *v = json_string_value(get(x, key));
  int i = 0;
  while (v && i < count && strcmp(v, words[i]) != 0)
    i++;
  *x->bad = *x->bad || !v || i == count;
  *value = v && i < count ? i : 0;
}

/* ---- lists of numbers ---- */

/* The list of `key` with `count` items; NULL: there is none (null), or it is bad. */
static json_t *get_array(struct exchange *x, const char *key, int64_t count)
{
  json_t *v = get(x, key);
  bool fits = json_is_array(v) && (int64_t)json_array_size(v) == count;
  *x->bad = *x->bad || !(fits || json_is_null(v));
  return fits ? v : NULL;
}

static json_t *put_array(struct exchange *x, const char *key)
{
  json_t *array = json_array();
  put(x, key, array);
  return array;
}

void exchange_doubles(struct exchange *x, const char *key, int64_t count, double *value)
{
  json_t *array = x->reading ? get_array(x, key, count) : put_array(x, key);
  *x->bad = *x->bad || !array;
  for (int64_t i = 0; array && i < count; i++)
    if (x->reading)
      value[i] = number_from_json(x, json_array_get(array, (size_t)i));
    else
      *x->bad = json_array_append_new(array, number_to_json(value[i])) || *x->bad;
}

void exchange_ints(struct exchange *x, const char *key, int64_t count, int64_t *value)
{
  json_t *array = x->reading ? get_array(x, key, count) : put_array(x, key);
  *x->bad = *x->bad || !array;
  for (int64_t i = 0; array && i < count; i++)
    if (x->reading)
      value[i] = count_from_json(x, json_array_get(array, (size_t)i));
    else
      *x->bad = json_array_append_new(array, json_integer(value[i])) || *x->bad;
}

/* Whether there is an array to exchange; reading, room for it in *value. */
static bool ready(struct exchange *x, const char *key, int64_t count, void **value)
{
  if (!x->reading && !*value)
    put(x, key, json_null());
  if (!x->reading)
    return *value != NULL;
  *value = NULL;
  if (!get_array(x, key, count))
    return false;
  *value = calloc((size_t)count + 1, 8);
  *x->bad = *x->bad || !*value;
  return *value != NULL;
}

void exchange_new_doubles(struct exchange *x, const char *key, int64_t count, double **value)
{
  void *room = *value;
  bool some = ready(x, key, count, &room);
  *value = room;
  if (some)
    exchange_doubles(x, key, count, *value);
}

void exchange_new_ints(struct exchange *x, const char *key, int64_t count, int64_t **value)
{
  void *room = *value;
  bool some = ready(x, key, count, &room);
  *value = room;
  if (some)
    exchange_ints(x, key, count, *value);
}

/* ---- nesting ---- */

static struct exchange within(const struct exchange *x, json_t *at)
{
  return (struct exchange){at, x->bad, x->reading};
}

struct exchange exchange_object(struct exchange *x, const char *key)
{
  if (x->reading) {
    json_t *v = get(x, key);
    *x->bad = *x->bad || !json_is_object(v);
    return within(x, v);
  }
  json_t *v = json_object();
  put(x, key, v);
  return within(x, v);
}

struct exchange exchange_list(struct exchange *x, const char *key, int64_t *count, int64_t most)
{
  if (!x->reading)
    return within(x, put_array(x, key));
  json_t *v = get(x, key);
  int64_t n = json_is_array(v) ? (int64_t)json_array_size(v) : -1;
  *x->bad = *x->bad || n < 0 || n > most;
  *count = n < 0 || n > most ? 0 : n;
  return within(x, v);
}

struct exchange exchange_item(struct exchange *list, int64_t i)
{
  if (list->reading) {
    json_t *v = json_array_get(list->at, (size_t)i);
    *list->bad = *list->bad || !json_is_object(v);
    return within(list, v);
  }
  json_t *v = json_object();
  put(list, NULL, v);
  return within(list, v);
}
