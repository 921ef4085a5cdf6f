/* config_value.c: YAML scalars to members of struct config and back, and how messages show them. */
#include "core/config_keys.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* `range` is "[lo, hi]" with ( or ) where the end does not belong to it. */
static bool in_range(const char *range, double x)
{
  char *end;
  double lo = strtod(range + 1, &end);
  CHECK(*end == ',');
  double hi = strtod(end + 1, &end);
  CHECK((*range == '[' || *range == '(') && (*end == ']' || *end == ')'));
  return (*range == '[' ? x >= lo : x > lo) && (*end == ']' ? x <= hi : x < hi);
}

static bool only(const struct scalar *s, const char *characters)
{
  return s->plain && s->bytes > 0 && strspn(s->text, characters) == s->bytes;
}

static bool read_int(const struct scalar *s, int64_t *x)
{
  char *end;
  if (!only(s, "+-0123456789"))
    return false;
  errno = 0;
  *x = strtoll(s->text, &end, 10);
  return !errno && !*end;
}

static bool is(const struct scalar *s, const char *word)
{
  return s->bytes == strlen(word) && !memcmp(s->text, word, s->bytes);
}

static bool is_any(const struct scalar *s, const char *const *words) /* ends with NULL */
{
  for (; *words; words++)
    if (is(s, *words))
      return true;
  return false;
}

/* YAML 1.2's core schema, without .nan */
static bool read_real(const struct scalar *s, double *x)
{
  static const char *const infinite[] = {".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", NULL};
  static const char *const negative[] = {"-.inf", "-.Inf", "-.INF", NULL};
  if (s->plain && (is_any(s, infinite) || is_any(s, negative))) {
    *x = *s->text == '-' ? -HUGE_VAL : HUGE_VAL;
    return true;
  }
  char *end;
  if (!only(s, "+-.0123456789eE") || !strpbrk(s->text, "0123456789"))
    return false;
  *x = strtod(s->text, &end);
  return !*end && isfinite(*x);
}

static bool read_bool(const struct scalar *s, bool *x)
{
  static const char *const yes[] = {"true", "True", "TRUE", NULL};
  static const char *const no[] = {"false", "False", "FALSE", NULL};
  *x = is_any(s, yes);
  return s->plain && (*x || is_any(s, no));
}

static int word_index(const struct scalar *s, const char *const *words) /* -1: none */
{
  for (int i = 0; words[i]; i++)
    if (is(s, words[i]))
      return i;
  return -1;
}

/* No C0, C1 or DEL, no line or paragraph separator, no byte order mark, no U+FFFE, U+FFFF: what is
 * left reads back from a quoted scalar as it was written. */
static bool printable(const char *text, size_t bytes)
{
  const unsigned char *t = (const unsigned char *)text;
  for (size_t i = 0; i < bytes; i++) {
    unsigned next = i + 1 < bytes ? t[i + 1] : 0, after = i + 2 < bytes ? t[i + 2] : 0;
    if (t[i] < 0x20 || t[i] == 0x7f || (t[i] == 0xc2 && next < 0xa0) ||
        (t[i] == 0xe2 && next == 0x80 && (after == 0xa8 || after == 0xa9)) ||
        (t[i] == 0xef && next == 0xbb && after == 0xbf) ||
        (t[i] == 0xef && next == 0xbf && after >= 0xbe))
      return false;
  }
  return true;
}

static const char *const nothing[] = {"", "~", "null", "Null", "NULL", NULL};

void key_clear(const struct key *k, struct config *c) { memset((char *)c + k->offset, 0, k->size); }

bool key_set(const struct key *k, int64_t i, const struct scalar *s, struct config *c)
{
  char *at = (char *)c + k->offset;
  int64_t integer = 0;
  double real = 0;
  bool truth = false;
  int word = k->words ? word_index(s, k->words) : -1;
  switch (k->type) {
  case KEY_INT:
  case KEY_INTS:
    if (word < 0 && !(read_int(s, &integer) && in_range(k->range, (double)integer)))
      return false;
    memcpy(at + (size_t)i * sizeof integer, &integer, sizeof integer);
    if (k->type == KEY_INTS)
      memcpy(at + CONFIG_LENGTHS * sizeof i, &(int64_t){i + 1}, sizeof i);
    return true;
  case KEY_REAL:
  case KEY_REALS:
    if (!read_real(s, &real) || !in_range(k->range, real))
      return false;
    memcpy(at + (size_t)i * sizeof real, &real, sizeof real);
    return true;
  case KEY_BOOL:
    if (!read_bool(s, &truth))
      return false;
    memcpy(at, &truth, sizeof truth);
    return true;
  case KEY_FLAG:
    memcpy(at, &(bool){word == 1}, sizeof(bool));
    return word >= 0;
  case KEY_WORD:
    memcpy(at, &word, k->size);
    return word >= 0;
  case KEY_TEXT:
  case KEY_FILE:
    if (!s->bytes || s->bytes >= k->size || !printable(s->text, s->bytes) ||
        (s->plain && is_any(s, nothing)))
      return false;
    memcpy(at, s->text, s->bytes + 1);
    return true;
  case KEY_INCLUDE:
    break;
  }
  return false;
}

bool key_make_absolute(const struct key *k, const char *file, struct config *c)
{
  char *at = (char *)c + k->offset, directory[CONFIG_PATH] = "", path[2 * CONFIG_PATH + 2];
  const char *slash = file ? strrchr(file, '/') : NULL;
  int front = slash ? (int)(slash - file) + 1 : 0;
  if (*at == '/')
    return true;
  if (!(front && *file == '/') && !getcwd(directory, sizeof directory))
    return false;
  int n = snprintf(path, sizeof path, "%s%s%.*s%s", directory, *directory ? "/" : "", front,
                   file ? file : "", at);
  if (n < 0 || (size_t)n >= k->size || !printable(path, (size_t)n))
    return false;
  memcpy(at, path, (size_t)n + 1);
  return true;
}

/* The shortest text that reads back to x, with the point that YAML 1.1 wants in a float. */
static void write_real(double x, FILE *out)
{
  char text[40];
  if (isinf(x)) {
    (void)fputs(x < 0 ? "-.inf" : ".inf", out);
    return;
  }
  for (int digits = 1; digits <= 17; digits++) {
    (void)snprintf(text, sizeof text, "%.*g", digits, x);
    if (strtod(text, NULL) == x)
      break;
  }
  size_t mantissa = strcspn(text, "e");
  (void)fprintf(out, "%.*s%s%s", (int)mantissa, text, strchr(text, '.') ? "" : ".0",
                text + mantissa);
}

static int64_t int_at(const char *at, int64_t i)
{
  int64_t x;
  memcpy(&x, at + (size_t)i * sizeof x, sizeof x);
  return x;
}

static void write_text(const char *text, FILE *out)
{
  static const char *const special[] = {"true", "false", "null", "yes", "no",
                                        "on",   "off",   "y",    "n",   NULL};
  char lower[8];
  size_t n = strlen(text);
  bool plain = isalpha((unsigned char)*text) && n == strspn(text, "abcdefghijklmnopqrstuvwxyz"
                                                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                                  "0123456789_-./*");
  for (size_t i = 0; i < sizeof lower; i++)
    lower[i] = (char)(i < n && i + 1 < sizeof lower ? tolower((unsigned char)text[i]) : 0);
  if (plain && !(n < sizeof lower && is_any(&(struct scalar){lower, n, true}, special))) {
    (void)fputs(text, out);
    return;
  }
  (void)fputc('"', out);
  for (; *text; text++) {
    if (*text == '"' || *text == '\\')
      (void)fputc('\\', out);
    (void)fputc(*text, out);
  }
  (void)fputc('"', out);
}

void key_write(const struct key *k, const struct config *c, FILE *out)
{
  const char *at = (const char *)c + k->offset;
  int64_t items = k->type == KEY_INTS ? int_at(at, CONFIG_LENGTHS) : key_items(k);
  int word = 0;
  double real;
  bool truth;
  if (key_is_list(k))
    (void)fputc('[', out);
  for (int64_t i = 0; i < items; i++) {
    (void)fputs(i ? ", " : "", out);
    switch (k->type) {
    case KEY_INT:
    case KEY_INTS:
      if (k->words && int_at(at, i) == 0)
        (void)fputs(k->words[0], out);
      else
        (void)fprintf(out, "%lld", (long long)int_at(at, i));
      break;
    case KEY_REAL:
    case KEY_REALS:
      memcpy(&real, at + (size_t)i * sizeof real, sizeof real);
      write_real(real, out);
      break;
    case KEY_BOOL:
    case KEY_FLAG:
      memcpy(&truth, at, sizeof truth);
      (void)fputs(k->type == KEY_FLAG ? k->words[truth] : truth ? "true" : "false", out);
      break;
    case KEY_WORD:
      memcpy(&word, at, k->size);
      (void)fputs(k->words[word], out);
      break;
    case KEY_TEXT:
    case KEY_FILE:
      write_text(at, out);
      break;
    case KEY_INCLUDE:
      break;
    }
  }
  if (key_is_list(k))
    (void)fputc(']', out);
}
