/* metrics.c: metrics.jsonl.  A line is put together in memory and written by one call. */
#include "core/metrics.h"
#include "core/files.h"
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- opening ---- */

/* Length of the file up to its last newline, or -1 with errno. */
static off_t whole_lines(int fd, off_t size)
{
  char block[4096];
  while (size > 0) {
    off_t from = size > (off_t)sizeof block ? size - (off_t)sizeof block : 0;
    ssize_t got = pread(fd, block, (size_t)(size - from), from);
    if (got < 0)
      return -1;
    const char *newline = memrchr(block, '\n', (size_t)got);
    if (newline)
      return from + (newline - block) + 1;
    size = from;
  }
  return 0;
}

static enum status open_and_mend(const char *path, struct metrics *m)
{
  struct stat st;
  m->path = strdup(path);
  if (!m->path)
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  m->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (m->fd < 0 || fstat(m->fd, &st))
    FAIL_IO(path, "open");
  if (!S_ISREG(st.st_mode))
    return OK;
  off_t whole = whole_lines(m->fd, st.st_size);
  if (whole < 0)
    FAIL_IO(path, "read");
  if (whole < st.st_size && ftruncate(m->fd, whole))
    FAIL_IO(path, "write");
  return OK;
}

static void release(struct metrics *m)
{
  free(m->path);
  free(m->line);
  *m = (struct metrics){.fd = -1};
}

enum status metrics_open(const char *path, struct metrics *m)
{
  *m = (struct metrics){.fd = -1};
  enum status s = open_and_mend(path, m);
  if (s != OK) {
    if (m->fd >= 0)
      (void)close(m->fd);
    release(m);
  }
  return s;
}

/* ---- a line ---- */

static void put(struct metrics *m, const char *text)
{
  size_t n = strlen(text), need = m->used + n + 1;
  if (need > m->size) {
    char *larger = realloc(m->line, 2 * need);
    if (!larger) {
      m->out_of_memory = true;
      return;
    }
    m->line = larger;
    m->size = 2 * need;
  }
  memcpy(m->line + m->used, text, n + 1);
  m->used += n;
}

/* Bytes that are no UTF-8 become question marks. */
static void put_string(struct metrics *m, const char *text)
{
  char *ascii = NULL, *quoted = NULL;
  json_t *string = json_string(text);
  if (!string && (ascii = strdup(text))) {
    for (char *c = ascii; *c; c++)
      if ((unsigned char)*c >= 128)
        *c = '?';
    string = json_string(ascii);
  }
  if (string)
    quoted = json_dumps(string, JSON_ENCODE_ANY);
  if (quoted)
    put(m, quoted);
  else
    m->out_of_memory = true;
  free(quoted);
  free(ascii);
  json_decref(string);
}

static void put_key(struct metrics *m, const char *key)
{
  CHECK(m->used); /* metrics_begin first */
  if (m->used > 1)
    put(m, ", ");
  put_string(m, key);
  put(m, ": ");
}

void metrics_begin(struct metrics *m)
{
  m->used = 0;
  m->out_of_memory = false;
  put(m, "{");
}

void metrics_int(struct metrics *m, const char *key, int64_t value)
{
  char text[32];
  (void)snprintf(text, sizeof text, "%" PRId64, value);
  put_key(m, key);
  put(m, text);
}

void metrics_double(struct metrics *m, const char *key, double value)
{
  char text[40];
  int digits = 15; /* always enough for what has that many; 17 always suffice */
  do
    (void)snprintf(text, sizeof text - 2, "%.*g", digits, value);
  while (digits++ < 17 && strtod(text, NULL) != value);
  if (!strpbrk(text, ".e"))
    strcat(text, ".0"); /* stays a real for those who read it */
  put_key(m, key);
  put(m, isfinite(value) ? text : "null");
}

void metrics_bool(struct metrics *m, const char *key, bool value)
{
  put_key(m, key);
  put(m, value ? "true" : "false");
}

void metrics_string(struct metrics *m, const char *key, const char *value)
{
  put_key(m, key);
  if (value)
    put_string(m, value);
  else
    put(m, "null");
}

enum status metrics_end(struct metrics *m)
{
  CHECK(m->used || m->out_of_memory);
  put(m, "}\n");
  if (m->out_of_memory)
    FAIL(ERR_MEMORY, "%s: out of memory", m->path);
  struct stat before;
  if (fstat(m->fd, &before))
    FAIL_IO(m->path, "write");
  for (size_t done = 0; done < m->used;) {
    ssize_t n = write(m->fd, m->line + done, m->used - done);
    if (n > 0) {
      done += (size_t)n;
    } else if (n == 0 || errno != EINTR) {
      int reason = n == 0 ? EIO : errno;
      if (done)
        (void)!ftruncate(m->fd, before.st_size); /* else the next metrics_open does it */
      errno = reason;
      FAIL_IO(m->path, "write");
    }
  }
  m->used = 0;
  return OK;
}

enum status metrics_flush(struct metrics *m)
{
  if (fsync(m->fd) && errno != EINVAL && errno != EROFS) /* pipes, terminals */
    FAIL_IO(m->path, "flush to disk");
  return OK;
}

enum status metrics_close(struct metrics *m)
{
  if (m->fd < 0)
    return OK;
  enum status s = metrics_flush(m);
  if (close(m->fd) && s == OK)
    s = fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot close: %s", m->path, strerror(errno));
  release(m);
  return s;
}

/* ---- resuming ---- */

enum line_kind { LINE_KEEP, LINE_LATER, LINE_BROKEN };

static enum line_kind judge(const char *line, size_t bytes, int64_t step)
{
  json_t *object = json_loadb(line, bytes, JSON_ALLOW_NUL, NULL);
  enum line_kind kind = json_is_object(object) ? LINE_KEEP : LINE_BROKEN;
  const json_t *at = json_object_get(object, "step");
  if (json_is_integer(at) ? json_integer_value(at) > step
                          : json_is_real(at) && json_real_value(at) > (double)step)
    kind = LINE_LATER;
  json_decref(object);
  return kind;
}

/* Moves what is kept to the front of text; *kept its length. */
static enum status keep_lines(const char *path, char *text, size_t bytes, int64_t step,
                              size_t *kept)
{
  size_t used = 0;
  int64_t number = 0, broken = 0; /* line numbers */
  const char *newline;
  for (const char *at = text, *end = text + bytes;
       at < end && (newline = memchr(at, '\n', (size_t)(end - at))); at = newline + 1) {
    size_t length = (size_t)(newline + 1 - at);
    enum line_kind kind = judge(at, length - 1, step);
    number++;
    if (kind == LINE_BROKEN) {
      broken = broken ? broken : number;
      continue;
    }
    if (broken) /* only the end of a file is torn by a power loss */
      FAIL(ERR_DATA, "%s:%lld: not a JSON object; without this line the run can go on", path,
           (long long)broken);
    if (kind == LINE_KEEP) {
      memmove(text + used, at, length);
      used += length;
    }
  }
  *kept = used;
  return OK;
}

enum status metrics_truncate_after(const char *path, int64_t step)
{
  char *text;
  size_t bytes, kept = 0;
  if (!path_exists(path))
    return OK;
  TRY(file_read(path, &text, &bytes));
  enum status s = keep_lines(path, text, bytes, step, &kept);
  if (s == OK && kept < bytes) {
    struct file_writer w;
    s = file_begin(path, &w);
    if (s == OK)
      s = file_write(&w, text, kept);
    if (s == OK)
      s = file_commit(&w);
    file_abandon(&w);
  }
  free(text);
  return s;
}
