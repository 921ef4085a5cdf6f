/* safetensors.c: the safetensors format.
 *
 *   u64 little-endian N | N bytes of JSON, padded with spaces | data
 *   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * Offsets count from the end of the header; together the extents cover the data exactly.
 * Reference: https://github.com/huggingface/safetensors, README "Format" and `validate`. */
#include "core/safetensors.h"
#include "core/files.h"
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data is little-endian, as in memory");

enum { ALIGNMENT = 8, HEADER_MAX = 100000000 /* the reference's limit */ };

static const struct {
  const char *name;
  int64_t bytes;
} dtypes[ST_DTYPES] = {
    [ST_F32] = {"F32", 4}, [ST_F64] = {"F64", 8}, [ST_I32] = {"I32", 4}, [ST_I64] = {"I64", 8}};

const char *st_dtype_name(enum st_dtype d) { return dtypes[d].name; }

static uint64_t round_up(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static enum status out_of_memory(const char *path) { FAIL(ERR_MEMORY, "%s: out of memory", path); }

/* ---- writing ---- */

/* Eight-byte types first: with a padded header every element then lies at a multiple of its size.
 */
static int64_t *file_order(const struct st_tensor *tensor, int64_t tensors)
{
  int64_t *order = malloc(sizeof *order * (size_t)(tensors + 1)), n = 0;
  for (int64_t size = 8; order && size >= 4; size -= 4)
    for (int64_t i = 0; i < tensors; i++)
      if (dtypes[tensor[i].dtype].bytes == size)
        order[n++] = i;
  CHECK(!order || n == tensors); /* no other dtype */
  return order;
}

static json_t *describe(const struct st_tensor *t, int64_t begin)
{
  CHECK(t->rank >= 0 && t->rank <= ST_MAX_RANK);
  json_t *shape = json_array();
  int64_t count = 1;
  for (int i = 0; i < t->rank; i++) {
    CHECK(t->shape[i] >= 0);
    count *= t->shape[i];
    (void)json_array_append_new(shape, json_integer(t->shape[i])); /* a failure shows in the size */
  }
  CHECK(count == t->count);
  if (json_array_size(shape) != (size_t)t->rank) {
    json_decref(shape);
    return NULL;
  }
  json_int_t extent[2] = {begin, begin + count * dtypes[t->dtype].bytes};
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtypes[t->dtype].name, "shape", shape,
                   "data_offsets", extent[0], extent[1]);
}

/* The JSON text, or NULL: out of memory.  The metadata is what PyTorch's users expect. */
static char *header_text(const struct st_tensor *tensor, int64_t tensors, const int64_t *order)
{
  json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
  int64_t begin = 0;
  bool good = root;
  for (int64_t i = 0; good && i < tensors; i++) {
    const struct st_tensor *t = &tensor[order[i]];
    CHECK(!json_object_get(root, t->name)); /* names once */
    good = !json_object_set_new(root, t->name, describe(t, begin));
    begin += t->count * dtypes[t->dtype].bytes;
  }
  char *text = good ? json_dumps(root, JSON_COMPACT) : NULL;
  json_decref(root);
  return text;
}

static enum status write_parts(struct file_writer *w, const char *header,
                               const struct st_tensor *tensor, int64_t tensors,
                               const int64_t *order)
{
  size_t used = strlen(header);
  uint64_t length = round_up(used);
  CHECK(length <= HEADER_MAX);
  TRY(file_write(w, &length, sizeof length));
  TRY(file_write(w, header, used));
  TRY(file_write(w, "       ", length - used));
  for (int64_t i = 0; i < tensors; i++) {
    const struct st_tensor *t = &tensor[order[i]];
    TRY(file_write(w, t->data, (size_t)(t->count * dtypes[t->dtype].bytes)));
  }
  return OK;
}

enum status safetensors_write(const char *path, const struct st_tensor *tensor, int64_t tensors)
{
  struct file_writer w = {0};
  int64_t *order = file_order(tensor, tensors);
  char *header = order ? header_text(tensor, tensors, order) : NULL;
  enum status s = OK;
  if (!header)
    s = out_of_memory(path);
  else
    s = file_begin(path, &w);
  if (s == OK)
    s = write_parts(&w, header, tensor, tensors, order);
  if (s == OK)
    s = file_commit(&w);
  file_abandon(&w);
  free(header);
  free(order);
  return s;
}

/* ---- reading ---- */

struct entry {
  struct st_tensor t;
  int64_t begin, end; /* in the data */
};

static enum status read_exactly(int fd, const char *path, void *to, uint64_t bytes)
{
  for (uint64_t done = 0; done < bytes;) {
    ssize_t got = read(fd, (char *)to + done, bytes - done);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      FAIL_IO(path, "read");
    if (!got)
      FAIL(ERR_DATA, "%s: ends while it is read", path);
    done += (uint64_t)got;
  }
  return OK;
}

/* The parsed header; *data the bytes behind it. */
static enum status read_header(int fd, const char *path, json_t **root, int64_t *data)
{
  struct stat st;
  uint64_t length;
  if (fstat(fd, &st))
    FAIL_IO(path, "read");
  if (!S_ISREG(st.st_mode))
    FAIL(ERR_IO, "%s: not a regular file", path);
  if (st.st_size < (off_t)sizeof length)
    FAIL(ERR_DATA, "%s: %lld bytes are too few for a safetensors file", path,
         (long long)st.st_size);
  TRY(read_exactly(fd, path, &length, sizeof length));
  uint64_t behind = (uint64_t)st.st_size - sizeof length;
  if (length > behind)
    FAIL(ERR_DATA, "%s: not safetensors, or cut off: a header of %llu bytes in a file of %lld",
         path, (unsigned long long)length, (long long)st.st_size);
  if (length > HEADER_MAX)
    FAIL(ERR_DATA, "%s: a header of %llu bytes; at most %d are read", path,
         (unsigned long long)length, HEADER_MAX);
  char *text = malloc(length + 1);
  if (!text)
    FAIL(ERR_MEMORY, "%s: out of memory for a header of %llu bytes", path,
         (unsigned long long)length);
  enum status s = read_exactly(fd, path, text, length);
  json_error_t error = {.text = "it does not begin with {"};
  if (s == OK && length && text[0] == '{')
    *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  free(text);
  if (s != OK)
    return s;
  if (!*root)
    FAIL(ERR_DATA, "%s: the header is not JSON: %s", path, error.text);
  *data = (int64_t)(behind - length);
  return OK;
}

static enum status parse_dtype(const char *path, const char *name, const json_t *info,
                               struct st_tensor *t)
{
  const char *word = json_string_value(json_object_get(info, "dtype"));
  if (!word)
    FAIL(ERR_DATA, "%s: tensor '%.200s' has no dtype", path, name);
  for (int d = 0; d < ST_DTYPES; d++)
    if (!strcmp(word, dtypes[d].name)) {
      t->dtype = (enum st_dtype)d;
      return OK;
    }
  FAIL(ERR_DATA, "%s: tensor '%.200s' has dtype '%.40s'; F32, F64, I32 and I64 are read", path,
       name, word);
}

static enum status parse_shape(const char *path, const char *name, const json_t *info,
                               struct st_tensor *t)
{
  const json_t *shape = json_object_get(info, "shape");
  if (!json_is_array(shape))
    FAIL(ERR_DATA, "%s: tensor '%.200s' has no shape", path, name);
  size_t rank = json_array_size(shape);
  if (rank > ST_MAX_RANK)
    FAIL(ERR_DATA, "%s: tensor '%.200s' has %zu dimensions; at most %d are read", path, name, rank,
         ST_MAX_RANK);
  t->rank = (int)rank;
  t->count = 1;
  for (int i = 0; i < t->rank; i++) {
    const json_t *n = json_array_get(shape, (size_t)i);
    if (!json_is_integer(n) || json_integer_value(n) < 0)
      FAIL(ERR_DATA, "%s: tensor '%.200s': dimension %d is not a count", path, name, i);
    t->shape[i] = json_integer_value(n);
    if (__builtin_mul_overflow(t->count, t->shape[i], &t->count))
      FAIL(ERR_DATA, "%s: tensor '%.200s': its shape overflows", path, name);
  }
  return OK;
}

static enum status parse_extent(const char *path, const char *name, const json_t *info,
                                int64_t data, struct entry *e)
{
  const json_t *pair = json_object_get(info, "data_offsets");
  const json_t *begin = json_array_get(pair, 0), *end = json_array_get(pair, 1);
  if (!json_is_array(pair) || json_array_size(pair) != 2 || !json_is_integer(begin) ||
      !json_is_integer(end))
    FAIL(ERR_DATA, "%s: tensor '%.200s': data_offsets is not a pair of integers", path, name);
  e->begin = json_integer_value(begin);
  e->end = json_integer_value(end);
  if (e->begin < 0 || e->end < e->begin || e->end > data)
    FAIL(ERR_DATA, "%s: tensor '%.200s' lies at %lld..%lld of %lld bytes%s", path, name,
         (long long)e->begin, (long long)e->end, (long long)data,
         e->begin >= 0 && e->end > data ? ": the file has been cut" : "");
  int64_t bytes;
  if (__builtin_mul_overflow(e->t.count, dtypes[e->t.dtype].bytes, &bytes) ||
      bytes != e->end - e->begin)
    FAIL(ERR_DATA, "%s: tensor '%.200s': %lld elements of %s do not fill %lld bytes", path, name,
         (long long)e->t.count, dtypes[e->t.dtype].name, (long long)(e->end - e->begin));
  return OK;
}

static int by_extent(const void *left, const void *right)
{
  const struct entry *a = left, *b = right;
  int begins = (a->begin > b->begin) - (a->begin < b->begin);
  return begins ? begins : (a->end > b->end) - (a->end < b->end);
}

/* Extents follow one another from the first byte of the data to its last. */
static enum status check_cover(const char *path, const struct entry *e, int64_t n, int64_t data)
{
  int64_t at = 0;
  for (int64_t i = 0; i < n; at = e[i++].end) {
    if (e[i].begin < at)
      FAIL(ERR_DATA, "%s: tensors '%.200s' and '%.200s' overlap", path, e[i - 1].t.name,
           e[i].t.name);
    if (e[i].begin > at)
      FAIL(ERR_DATA, "%s: %lld bytes before tensor '%.200s' belong to no tensor", path,
           (long long)(e[i].begin - at), e[i].t.name);
  }
  if (at != data)
    FAIL(ERR_DATA, "%s: the last %lld bytes belong to no tensor", path, (long long)(data - at));
  return OK;
}

/* Fills e, ordered by place in the file; *n its length.  Names point into root. */
static enum status parse_header(const char *path, json_t *root, int64_t data, struct entry *e,
                                int64_t *n)
{
  const char *name;
  json_t *info;
  *n = 0;
  json_object_foreach(root, name, info)
  {
    if (!strcmp(name, "__metadata__"))
      continue;
    if (!json_is_object(info))
      FAIL(ERR_DATA, "%s: tensor '%.200s' is not described by an object", path, name);
    struct entry *x = &e[(*n)++];
    x->t.name = name;
    TRY(parse_dtype(path, name, info, &x->t));
    TRY(parse_shape(path, name, info, &x->t));
    TRY(parse_extent(path, name, info, data, x));
  }
  if (*n)
    qsort(e, (size_t)*n, sizeof *e, by_extent);
  return check_cover(path, e, *n, data);
}

/* Each tensor to its own aligned place, wherever it lies in the file; names behind the data. */
static enum status load(int fd, const char *path, const struct entry *e, int64_t n,
                        struct safetensors *file)
{
  uint64_t bytes = 1;
  for (int64_t i = 0; i < n; i++)
    bytes += round_up((uint64_t)(e[i].end - e[i].begin)) + strlen(e[i].t.name) + 1;
  file->memory = malloc(bytes);
  file->tensor = calloc((size_t)n + 1, sizeof *file->tensor);
  file->path = strdup(path);
  if (!file->memory || !file->tensor || !file->path)
    FAIL(ERR_MEMORY, "%s: out of memory: %llu MiB asked", path, (unsigned long long)(bytes >> 20));
  file->tensors = n;
  char *at = file->memory;
  for (int64_t i = 0; i < n; i++) {
    uint64_t extent = (uint64_t)(e[i].end - e[i].begin);
    file->tensor[i] = e[i].t;
    file->tensor[i].data = at;
    TRY(read_exactly(fd, path, at, extent));
    at += round_up(extent);
  }
  for (int64_t i = 0; i < n; i++) {
    file->tensor[i].name = at;
    at = stpcpy(at, e[i].t.name) + 1;
  }
  return OK;
}

static enum status read_entries(int fd, const char *path, json_t *root, int64_t data,
                                struct safetensors *file)
{
  int64_t n;
  struct entry *e = calloc(json_object_size(root) + 1, sizeof *e);
  if (!e)
    return out_of_memory(path);
  enum status s = parse_header(path, root, data, e, &n);
  if (s == OK)
    s = load(fd, path, e, n, file);
  free(e);
  return s;
}

enum status safetensors_read(const char *path, struct safetensors *file)
{
  *file = (struct safetensors){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    FAIL_IO(path, "open");
  json_t *root = NULL;
  int64_t data = 0;
  enum status s = read_header(fd, path, &root, &data);
  if (s == OK)
    s = read_entries(fd, path, root, data, file);
  json_decref(root);
  (void)close(fd);
  if (s != OK)
    safetensors_free(file);
  return s;
}

void safetensors_free(struct safetensors *file)
{
  free(file->memory);
  free(file->tensor);
  free(file->path);
  *file = (struct safetensors){0};
}

const struct st_tensor *safetensors_find(const struct safetensors *file, const char *name)
{
  for (int64_t i = 0; i < file->tensors; i++)
    if (!strcmp(file->tensor[i].name, name))
      return &file->tensor[i];
  return NULL;
}
