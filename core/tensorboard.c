/* tensorboard.c: TFRecord framing around Event messages of protocol buffers.
 *
 *   record = length (u64), mask(crc32c(length)) (u32), event, mask(crc32c(event)) (u32)
 *   mask(c) = rotate_right(c, 15) + 0xa282ead8
 *   Event   = {1: wall_time (double), 2: step, 3: file_version, 5: Summary, 7: SessionLog}
 *   Summary = {1: Value}...;  Value = {1: tag, 2: simple_value (float)};  SessionLog = {1: status}
 *
 * All numbers little-endian.  Reference: tensorflow/core/util/event.proto, lib/io/record_writer. */
#include "core/tensorboard.h"
#include "core/files.h"
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

enum { VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 5 }; /* wire types */

uint32_t crc32c(const void *data, size_t bytes)
{
  const unsigned char *at = data;
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < bytes; i++) {
    crc ^= at[i];
    for (int bit = 0; bit < 8; bit++)
      crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0);
  }
  return ~crc;
}

/* ---- protocol buffers ---- */

static void put_bytes(struct tensorboard *t, const void *data, size_t n)
{
  CHECK(t->used + n <= sizeof t->event);
  memcpy(t->event + t->used, data, n);
  t->used += n;
}

static void put_little_endian(struct tensorboard *t, uint64_t value, size_t bytes)
{
  unsigned char out[8];
  for (size_t i = 0; i < bytes; i++)
    out[i] = (unsigned char)(value >> 8 * i);
  put_bytes(t, out, bytes);
}

static void put_varint(struct tensorboard *t, uint64_t value)
{
  for (; value >= 128; value >>= 7)
    put_little_endian(t, (value & 127) | 128, 1);
  put_little_endian(t, value, 1);
}

static void put_key(struct tensorboard *t, unsigned field, unsigned type)
{
  put_varint(t, (uint64_t)field << 3 | type);
}

static void put_text(struct tensorboard *t, unsigned field, const char *text)
{
  put_key(t, field, LENGTH_DELIMITED);
  put_varint(t, strlen(text));
  put_bytes(t, text, strlen(text));
}

void tensorboard_begin(struct tensorboard *t, int64_t step)
{
  struct timespec now;
  (void)clock_gettime(CLOCK_REALTIME, &now);
  double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
  uint64_t bits;
  memcpy(&bits, &seconds, sizeof bits);
  t->used = 0;
  put_key(t, 1, FIXED64);
  put_little_endian(t, bits, 8);
  put_key(t, 2, VARINT);
  put_varint(t, (uint64_t)step);
}

void tensorboard_scalar(struct tensorboard *t, const char *tag, double value)
{
  float rounded = (float)value;
  uint32_t bits;
  size_t tag_bytes = strlen(tag);
  CHECK(tag_bytes < 100);                 /* so that every length below takes one byte */
  uint64_t inner = 2 + tag_bytes + 1 + 4; /* a tag, a float */
  memcpy(&bits, &rounded, sizeof bits);
  put_key(t, 5, LENGTH_DELIMITED); /* a Summary of one Value; repeated fields of a message merge */
  put_varint(t, 2 + inner);
  put_key(t, 1, LENGTH_DELIMITED);
  put_varint(t, inner);
  put_text(t, 1, tag);
  put_key(t, 2, FIXED32);
  put_little_endian(t, bits, 4);
}

/* ---- the file ---- */

static uint32_t masked(const void *data, size_t bytes)
{
  uint32_t crc = crc32c(data, bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

static enum status put_record(struct tensorboard *t)
{
  unsigned char head[12], tail[4];
  for (size_t i = 0; i < 8; i++)
    head[i] = (unsigned char)((uint64_t)t->used >> 8 * i);
  uint32_t of_length = masked(head, 8), of_event = masked(t->event, t->used);
  for (size_t i = 0; i < 4; i++) {
    head[8 + i] = (unsigned char)(of_length >> 8 * i);
    tail[i] = (unsigned char)(of_event >> 8 * i);
  }
  if (fwrite(head, 1, sizeof head, t->out) != sizeof head ||
      fwrite(t->event, 1, t->used, t->out) != t->used ||
      fwrite(tail, 1, sizeof tail, t->out) != sizeof tail || fflush(t->out))
    FAIL_IO(t->path, "write");
  return OK;
}

enum status tensorboard_end(struct tensorboard *t) { return put_record(t); }

static enum status begin_file(struct tensorboard *t, int64_t step)
{
  tensorboard_begin(t, 0);
  put_text(t, 3, "brain.Event:2");
  TRY(put_record(t));
  tensorboard_begin(t, step + 1);
  put_text(t, 7, "\x08\x01"); /* SessionLog {status: START}: a reader drops this step and later */
  return put_record(t);
}

enum status tensorboard_open(const char *directory, int64_t step, struct tensorboard *t)
{
  t->out = NULL;
  t->path = NULL;
  for (int i = 0; !t->out; i++) { /* two openings in one second need two names */
    free(t->path);
    if (asprintf(&t->path, "%s/events.out.tfevents.%010" PRId64 ".deqmamba.%d", directory,
                 (int64_t)time(NULL), i) < 0) {
      t->path = NULL;
      FAIL(ERR_MEMORY, "%s: out of memory", directory);
    }
    t->out = fopen(t->path, "wbxe");
    if (!t->out && errno != EEXIST) {
      enum status s =
          fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot create: %s", t->path, strerror(errno));
      free(t->path);
      t->path = NULL;
      return s;
    }
  }
  enum status s = begin_file(t, step);
  if (s != OK) {
    enum status closed = tensorboard_close(t);
    (void)closed; /* the first failure is the one to report */
  }
  return s;
}

enum status tensorboard_close(struct tensorboard *t)
{
  enum status s = OK;
  if (t->out && fclose(t->out))
    s = fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot close: %s", t->path, strerror(errno));
  free(t->path);
  t->path = NULL;
  t->out = NULL;
  return s;
}
