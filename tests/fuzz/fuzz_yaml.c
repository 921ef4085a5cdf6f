/* fuzz_yaml.c: a configuration is refused with a message, or written so that it reads back equal.
 */
#include "core/config.h"
#include "tests/fuzz/fuzz_file.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  struct config c, again;
  char *text = NULL;
  size_t written = 0;
  if (config_parse("fuzz.yaml", (const char *)data, bytes, &c) != OK) {
    if (!*last_error())
      abort();
    return 0;
  }
  FILE *out = open_memstream(&text, &written);
  if (!out || config_write(&c, out) != OK || fclose(out))
    abort();
  enum status s = config_parse("written.yaml", text, written, &again);
  memcpy(again.data.path_given, c.data.path_given, sizeof c.data.path_given);
  if (s != OK || memcmp(&c, &again, sizeof c) != 0) {
    (void)fprintf(stderr, "%s\n%s\n", last_error(), text);
    abort();
  }
  free(text);
  return 0;
}
