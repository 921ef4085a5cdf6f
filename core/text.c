/* text.c: see text.h. */
#include "core/text.h"
#include "core/files.h"
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- reading ---- */

static enum status add_file(const char *path, struct text *t)
{
  char *bytes;
  size_t n;
  TRY(file_read(path, &bytes, &n));
  t->files++;
  if (!t->bytes) {
    t->bytes = (unsigned char *)bytes;
    t->size = (int64_t)n;
    return OK;
  }
  unsigned char *joined = realloc(t->bytes, (size_t)t->size + n + 1);
  if (joined) {
    memcpy(joined + t->size, bytes, n);
    t->bytes = joined;
    t->size += (int64_t)n;
  }
  free(bytes);
  if (!joined)
    FAIL(ERR_MEMORY, "%s: out of memory after %lld bytes", path, (long long)t->size);
  return OK;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
  return strcmp((*a)->d_name, (*b)->d_name); /* alphasort's order is the locale's */
}

static enum status add_folder(const char *path, struct text *t);

/* What is neither a regular file nor a folder is passed over. */
static enum status add_entry(const char *folder, const char *name, struct text *t)
{
  struct stat st;
  char *path;
  if (!strcmp(name, ".") || !strcmp(name, ".."))
    return OK;
  if (asprintf(&path, "%s/%s", folder, name) < 0)
    FAIL(ERR_MEMORY, "%s: out of memory", folder);
  enum status s = OK;
  if (lstat(path, &st))
    s = fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot read: %s", path, strerror(errno));
  else if (S_ISDIR(st.st_mode))
    s = add_folder(path, t);
  else if (S_ISREG(st.st_mode))
    s = add_file(path, t);
  free(path);
  return s;
}

static enum status add_folder(const char *path, struct text *t)
{
  struct dirent **entry;
  int count = scandir(path, &entry, NULL, by_bytes);
  enum status s = OK;
  if (count < 0)
    FAIL_IO(path, "read");
  for (int i = 0; i < count; i++) {
    if (s == OK)
      s = add_entry(path, entry[i]->d_name, t);
    free(entry[i]);
  }
  free(entry);
  return s;
}

static enum status read_text(const struct data_config *c, struct text *t)
{
  struct stat st;
  if (stat(c->path, &st))
    FAIL_IO(c->path, "open");
  if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
    FAIL(ERR_IO, "%s: neither a file nor a folder", c->path);
  TRY(S_ISDIR(st.st_mode) ? add_folder(c->path, t) : add_file(c->path, t));
  if (!t->size)
    FAIL(ERR_USAGE, "data.path: %s holds no bytes", c->path);
  t->training = t->size - (int64_t)(c->validation_fraction * (double)t->size + 0.5);
  return OK;
}

enum status text_open(const struct data_config *c, struct text *t)
{
  *t = (struct text){0};
  enum status s = read_text(c, t);
  if (s == OK)
    return OK;
  text_close(t);
  return fail_within(s, "%s", c->path_given);
}

void text_close(struct text *t)
{
  free(t->bytes);
  *t = (struct text){0};
}

int64_t text_fingerprint(const struct text *t)
{
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (int64_t i = 0; i < t->size; i++)
    hash = (hash ^ t->bytes[i]) * UINT64_C(0x100000001b3);
  int64_t positive = (int64_t)(hash >> 1);
  return positive ? positive : 1;
}

/* ---- windows ---- */

/* The stream's part; returns its bytes. */
static int64_t part_of(const struct text *t, enum philox_stream stream, const unsigned char **bytes)
{
  bool training = stream == STREAM_TRAIN;
  *bytes = t->bytes + (training ? 0 : t->training);
  return training ? t->training : t->size - t->training;
}

enum status text_require(const struct text *t, const struct data_config *c,
                         enum philox_stream stream, int64_t length, const char *because)
{
  const unsigned char *bytes;
  int64_t size = part_of(t, stream, &bytes);
  if (size > length)
    return OK;
  FAIL(ERR_USAGE, "%s: data.path: the %s part of %s has %lld bytes; %s of %lld needs at least %lld",
       c->path_given, stream == STREAM_TRAIN ? "training" : "validation", c->path, (long long)size,
       because, (long long)length, (long long)length + 1);
}

void text_batch(const struct text *t, uint64_t seed, enum philox_stream stream, uint32_t step,
                uint32_t first, int64_t sequences, int64_t length, int32_t *tokens,
                int32_t *targets)
{
  const unsigned char *part;
  int64_t places = part_of(t, stream, &part) - length;
  CHECK(places > 0);
  for (int64_t s = 0; s < sequences; s++) {
    uint32_t word[4];
    philox(seed, (uint32_t)stream, step, first + (uint32_t)s, 0, word);
    /* 53 bits: a product below `places`, as philox_uniform is below 1 by 2^-53 */
    int64_t at = (int64_t)(philox_uniform(word[0], word[1]) * (double)places);
    const unsigned char *window = part + (at < places ? at : places - 1);
    for (int64_t i = 0; i < length; i++) {
      tokens[s * length + i] = window[i];
      targets[s * length + i] = window[i + 1];
    }
  }
}
