/* exchange.h: structs to JSON and back by one description: a function that exchanges each member
 * writes it, or reads it, as the struct exchange says.
 *
 *   static void exchange_thing(struct exchange *x, struct thing *t)
 *   {
 *     exchange_double(x, "loss", &t->loss);
 *     struct exchange inner = exchange_object(x, "solve");
 *     exchange_int(&inner, "samples", &t->samples);
 *   }
 *
 * Doubles that are not finite are null, and null is NaN.  A member that is missing or of another
 * type marks what is read as bad, and keeps its value. */
#ifndef EXPERIMENTS_EXCHANGE_H
#define EXPERIMENTS_EXCHANGE_H
#include "core/status.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct exchange {
  json_t *at; /* an object or array; borrowed */
  bool *bad;  /* out of memory when writing, wrong contents when reading */
  bool reading;
};

void exchange_double(struct exchange *x, const char *key, double *value);
void exchange_int(struct exchange *x, const char *key, int64_t *value);
void exchange_bool(struct exchange *x, const char *key, bool *value);
void exchange_text(struct exchange *x, const char *key, char *text, size_t size);
/* The index of a word in words (count). */
void exchange_word(struct exchange *x, const char *key, const char *const *words, int count,
                   int *value);
/* A list in an array of `count` places; and one that is allocated when it is read (NULL: null).
 * Fewer or more items are bad. */
void exchange_doubles(struct exchange *x, const char *key, int64_t count, double *value);
void exchange_new_doubles(struct exchange *x, const char *key, int64_t count, double **value);
void exchange_new_ints(struct exchange *x, const char *key, int64_t count, int64_t **value);
void exchange_ints(struct exchange *x, const char *key, int64_t count, int64_t *value);

struct exchange exchange_object(struct exchange *x, const char *key);
/* A list of objects: exchanges its length, at most `most`, and then gives one after the other. */
struct exchange exchange_list(struct exchange *x, const char *key, int64_t *count, int64_t most);
struct exchange exchange_item(struct exchange *list, int64_t i);
#endif
