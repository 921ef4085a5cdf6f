/* fuzz_safetensors.c: every byte that a header promises can be read. */
#include "core/safetensors.h"
#include "tests/fuzz/fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  static const size_t sizes[] = {[ST_F32] = 4, [ST_F64] = 8, [ST_I32] = 4, [ST_I64] = 8};
  struct safetensors file;
  char path[64];
  volatile unsigned sum = 0;
  int fd = fuzz_file(data, bytes, path);
  if (safetensors_read(path, &file) == OK) {
    for (int64_t i = 0; i < file.tensors; i++) {
      const struct st_tensor *t = &file.tensor[i];
      for (size_t k = 0; k < (size_t)t->count * sizes[t->dtype]; k++)
        sum += ((const unsigned char *)t->data)[k];
      if (safetensors_find(&file, t->name) != t)
        abort();
    }
    safetensors_free(&file);
  } else if (!*last_error()) {
    abort();
  }
  (void)close(fd);
  return 0;
}
