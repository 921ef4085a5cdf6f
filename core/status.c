/* status.c: the last error of a thread, and the end of a broken invariant. */
#include "core/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef fail_at
#undef fail_within

static _Thread_local char text[2048];
static _Thread_local char place[128];

enum status fail_at(enum status code, const char *file, int line, const char *format, ...)
{
  char fresh[sizeof text]; /* the arguments may point into text */
  va_list args;
  va_start(args, format);
  (void)vsnprintf(fresh, sizeof fresh, format, args);
  va_end(args);
  memcpy(text, fresh, sizeof text);
  (void)snprintf(place, sizeof place, "%s:%d", file, line);
  return code;
}

enum status fail_within(enum status code, const char *format, ...)
{
  char front[512], fresh[sizeof front + sizeof text + 8];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(front, sizeof front, format, args);
  va_end(args);
  (void)snprintf(fresh, sizeof fresh, "%s: %s", front, text);
  memcpy(text, fresh, sizeof text - 1); /* what is too long loses its end */
  return code;
}

const char *last_error(void) { return text; }

const char *last_error_place(void) { return place; }

int exit_code(enum status code)
{
  switch (code) {
  case OK:
    return 0;
  case ERR_NUMERIC:
    return 1;
  case ERR_USAGE:
    return 2;
  case ERR_INTERRUPTED:
    return 130;
  case ERR_DATA:
  case ERR_IO:
  case ERR_MEMORY:
  case ERR_DEVICE:
    break;
  }
  return 3;
}

void check_failed(const char *file, int line, const char *cond)
{
  (void)fprintf(stderr, "%s:%d: CHECK(%s) failed: this is a fault in deqmamba, please report it\n",
                file, line, cond);
  abort();
}
