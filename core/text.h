/* text.h: the bytes of a file or folder as tokens, each with the byte behind it as its target.
 *
 * The text is one sequence of bytes: a folder's regular files, in the order of their names' bytes,
 * folder by folder, joined without anything between; links inside it are not followed.  Its last
 * data.validation_fraction is the validation part.  A window of `length` tokens and its targets,
 * length + 1 bytes, lies in one part: the stream TRAIN draws from the first, all others from the
 * second, uniformly over the places of the part, overlapping. */
#ifndef CORE_TEXT_H
#define CORE_TEXT_H
#include "core/config.h"
#include "core/philox.h"

enum { TEXT_VOCABULARY = 256 };

struct text {
  unsigned char *bytes; /* owned */
  int64_t size, training, files;
};

/* Reads it.  ERR_IO, ERR_MEMORY, ERR_USAGE when it is empty, with the place of data.path. */
MUST_USE enum status text_open(const struct data_config *c, struct text *t);
void text_close(struct text *t);
/* Does the stream's part hold a window of `length`, which the key `because` asks for?  ERR_USAGE
 * with the place of data.path. */
MUST_USE enum status text_require(const struct text *t, const struct data_config *c,
                                  enum philox_stream stream, int64_t length, const char *because);
/* A number, above 0, that another text hardly has. */
int64_t text_fingerprint(const struct text *t);

/* tokens, targets (sequences,length) of windows first..first+sequences-1 of a step: where each
 * begins is the Philox word of counter (stream, step, window, 0).  text_require has allowed the
 * length. */
void text_batch(const struct text *t, uint64_t seed, enum philox_stream stream, uint32_t step,
                uint32_t first, int64_t sequences, int64_t length, int32_t *tokens,
                int32_t *targets);
#endif
