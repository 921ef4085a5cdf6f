/* tokens.h: the tokens and labels that a user gives (--tokens), from a safetensors file. */
#ifndef CORE_TOKENS_H
#define CORE_TOKENS_H
#include "core/status.h"
#include <stdint.h>

struct given_tokens {
  int64_t B, L;
  int32_t *tokens, *labels; /* (B,L); labels NULL: none */
};

/* input_ids (B,L) int32 or int64, not empty; labels of that shape if there are any, IGNORED_LABEL
 * or a token.  ERR_IO, ERR_DATA with "path: what". */
MUST_USE enum status given_tokens_read(const char *path, int64_t vocabulary,
                                       struct given_tokens *g);
void given_tokens_free(struct given_tokens *g);
#endif
