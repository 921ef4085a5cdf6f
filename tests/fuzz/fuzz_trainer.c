/* fuzz_trainer.c: trainer.json is refused with a message, or gives counts. */
#include "core/trainer_state.h"
#include "tests/fuzz/fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  struct trainer_state s;
  char path[64];
  int fd = fuzz_file(data, bytes, path);
  if (trainer_state_read(path, &s) != OK) {
    if (!*last_error())
      abort();
  } else if (s.step < 0 || s.tokens < 0 || s.skipped < 0 || s.best_step < 0 || s.data < 0) {
    abort();
  }
  (void)close(fd);
  return 0;
}
