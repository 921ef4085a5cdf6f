/* json_file.c: see json_file.h. */
#include "experiments/json_file.h"
#include "core/files.h"
#include <stdlib.h>

enum status json_file_write(json_t *root, size_t flags, const char *path)
{
  struct file_writer w;
  char *text = json_dumps(root, JSON_INDENT(2) | flags);
  json_decref(root);
  if (!text)
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  enum status s = file_begin(path, &w);
  if (s == OK) {
    (void)fprintf(w.out, "%s\n", text);
    s = file_commit(&w);
  }
  free(text);
  return s;
}
