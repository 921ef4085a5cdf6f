/* fuzz_tokens.c: --tokens gives tokens of the vocabulary, and labels or ignored ones. */
#include "core/tokens.h"
#include "tests/fuzz/fuzz_file.h"

enum { VOCABULARY = 60, IGNORED = -100 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  struct given_tokens g;
  char path[64];
  int fd = fuzz_file(data, bytes, path);
  if (given_tokens_read(path, VOCABULARY, &g) == OK) {
    for (int64_t i = 0; i < g.B * g.L; i++) {
      int32_t label = g.labels ? g.labels[i] : IGNORED;
      if (g.tokens[i] < 0 || g.tokens[i] >= VOCABULARY ||
          ((label < 0 || label >= VOCABULARY) && label != IGNORED))
        abort();
    }
    given_tokens_free(&g);
  } else if (!*last_error()) {
    abort();
  }
  (void)close(fd);
  return 0;
}
