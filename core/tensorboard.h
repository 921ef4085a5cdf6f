/* tensorboard.h: TensorBoard event files beside metrics.jsonl.
 *
 *   tensorboard_begin(&t, step);
 *   tensorboard_scalar(&t, "loss", loss);
 *   TRY(tensorboard_end(&t));              one record is in the file
 *
 * Every opening makes a new file, which begins by telling the reader to drop what earlier files
 * hold after `step`: a run that was killed and resumed shows each step once. */
#ifndef CORE_TENSORBOARD_H
#define CORE_TENSORBOARD_H
#include "core/status.h"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct tensorboard {
  FILE *out; /* NULL: not open */
  char *path;
  unsigned char event[8192];
  size_t used;
};

/* A new file in `directory`; `step`: the last one that counts of earlier files.  ERR_IO. */
MUST_USE enum status tensorboard_open(const char *directory, int64_t step, struct tensorboard *t);
void tensorboard_begin(struct tensorboard *t, int64_t step);
void tensorboard_scalar(struct tensorboard *t, const char *tag, double value);
MUST_USE enum status tensorboard_end(struct tensorboard *t);
MUST_USE enum status tensorboard_close(struct tensorboard *t); /* closing twice is fine */

uint32_t crc32c(const void *data, size_t bytes); /* Castagnoli, as in RFC 3720 */
#endif
