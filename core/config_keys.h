/* config_keys.h: the table of configuration keys; how one is found, set, shown and blamed.
 * Private to core/config*.c. */
#ifndef CORE_CONFIG_KEYS_H
#define CORE_CONFIG_KEYS_H
#include "core/yaml_events.h"

enum { KEYS_MAX = 192, INCLUDES_MAX = 128, KEY_PATH = 128, KEY_EXPECTED = 256 };

enum key_type {
  KEY_INT,     /* int64_t; a word of `words` stands for 0 */
  KEY_REAL,    /* double */
  KEY_BOOL,    /* bool: true, false */
  KEY_WORD,    /* enum: the index in `words` */
  KEY_FLAG,    /* bool: the index in `words` */
  KEY_TEXT,    /* char[size] */
  KEY_FILE,    /* char[size]: made absolute, relative to the directory of the file it stands in */
  KEY_REALS,   /* double[]: exactly as many */
  KEY_INTS,    /* int64_t[CONFIG_LENGTHS] and its count behind it: one to as many */
  KEY_INCLUDE, /* files to merge first; not a member of struct config */
};

struct key {
  const char *path; /* "deq.forward.tol" */
  enum key_type type;
  size_t offset, size;      /* of its member of struct config; size 0: it has one value, not kept */
  const char *range;        /* of numbers, as in "(0, 1]" */
  const char *const *words; /* ends with NULL */
  const char *fallback;     /* the default, in YAML; NULL: the key is required */
  const char *help;
};
extern const struct key keys[];
extern const int keys_count;

/* The values that one file, the command line, or all of them merged have given. */
struct layer {
  struct config c;
  struct origin from[KEYS_MAX];     /* of each key; from nowhere: not given */
  unsigned char sections[KEYS_MAX]; /* bit d of the first key of a section at depth d: seen */
  struct origin root;               /* where a fault is reported that no key can be blamed for */
  int layers;
};

static inline bool given(const struct layer *l, int key)
{
  return l->from[key].file || l->from[key].override;
}

int key_find(const char *path);         /* its index; -1: there is none */
int key_section(const char *path);      /* index of the first key below `path`; -1 */
bool key_is_list(const struct key *k);  /* its value is a sequence */
int64_t key_items(const struct key *k); /* items its list holds at most; 1 for others */
bool key_count_fits(const struct key *k, int64_t items);
/* Is it one of c's task?  Others are left alone, and not written. */
bool key_applies(const struct key *k, const struct config *c);
/* The known key, or section, that is nearest to `path` by edit distance. */
void key_nearest(const char *path, char out[KEY_PATH]);
/* What its value must be: "an integer in [1, 256]". */
const char *key_expected(const struct key *k, char out[KEY_EXPECTED]);

void key_clear(const struct key *k, struct config *c);
/* Sets item `i` (0 for what is not a list); false when it is not what the key takes. */
bool key_set(const struct key *k, int64_t i, const struct scalar *s, struct config *c);
/* A KEY_FILE that was given in the configuration file `file` (NULL: the command line) becomes
 * absolute; false when it cannot. */
bool key_make_absolute(const struct key *k, const char *file, struct config *c);
void key_write(const struct key *k, const struct config *c, FILE *out); /* its value, in YAML */

/* config_yaml.c: every file that has been included, in the order in which they were named. */
struct includes {
  struct origin at[INCLUDES_MAX];
  char *path[INCLUDES_MAX]; /* relative to the including file's directory already; owned */
  int count;
};
/* Reads the text of one file into `l`; `in` NULL: includes are refused. */
MUST_USE enum status yaml_read_file(const char *file, const char *text, size_t bytes,
                                    struct layer *l, struct includes *in);
/* Reads one value, in YAML, of the key or section `path` into `l`. */
MUST_USE enum status yaml_read_value(const char *path, const char *text, struct origin at,
                                     struct layer *l);

/* config_check.c: what keys mean together. */
MUST_USE enum status config_check(const struct layer *l);
#endif
