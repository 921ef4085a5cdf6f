/* metrics.h: metrics.jsonl, one JSON object a line.
 *
 *   metrics_begin(&m);
 *   metrics_int(&m, "step", step);
 *   metrics_double(&m, "loss", loss);      not-a-number and infinities become null
 *   TRY(metrics_end(&m));                  the line is in the file, whole, or not at all */
#ifndef CORE_METRICS_H
#define CORE_METRICS_H
#include "core/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct metrics {
  int fd;
  char *path;
  char *line; /* the line that is being put together */
  size_t used, size;
  bool out_of_memory; /* reported by metrics_end */
};

/* Opens for appending, creating the file; a last line without its newline (power loss) is dropped.
 * After a failure *m is closed.  ERR_IO, ERR_MEMORY. */
MUST_USE enum status metrics_open(const char *path, struct metrics *m);
void metrics_begin(struct metrics *m);
void metrics_int(struct metrics *m, const char *key, int64_t value);
void metrics_double(struct metrics *m, const char *key,
                    double value); /* shortest that reads back */
void metrics_bool(struct metrics *m, const char *key, bool value);
void metrics_string(struct metrics *m, const char *key, const char *value); /* UTF-8; NULL: null */
/* Writes the line with one call; what a full disk leaves of it is taken back.  ERR_IO names the
 * file.  A file-size limit is reported only where SIGXFSZ is ignored: interrupt_install does that.
 */
MUST_USE enum status metrics_end(struct metrics *m);
MUST_USE enum status metrics_flush(struct metrics *m); /* to disk; before a checkpoint says so */
MUST_USE enum status metrics_close(struct metrics *m); /* flushes; closing twice is fine */

/* For resuming: drops every line whose "step" is greater, what a power loss tore at the end, and
 * keeps the others byte for byte; all or nothing.  A missing file is fine; ERR_DATA "path:line:
 * ..." for a line in the middle that is no JSON object. */
MUST_USE enum status metrics_truncate_after(const char *path, int64_t step);
#endif
