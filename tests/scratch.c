/* scratch.c: a directory of its own for each test that writes files. */
#include "tests/scratch.h"
#include "core/files.h"
#include <dirent.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static char root[256];

int scratch_make(void **state)
{
  (void)state;
  const char *tmp = getenv("TMPDIR");
  (void)snprintf(root, sizeof root, "%.200s/deqmamba-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  return mkdtemp(root) ? 0 : -1;
}

int scratch_remove(void **state)
{
  (void)state;
  limit_file_size(-1);
  return directory_remove(root) == OK ? 0 : -1;
}

const char *scratch(const char *name)
{
  static char path[8][512];
  static unsigned next;
  char *at = path[next++ % 8];
  (void)snprintf(at, sizeof path[0], "%s/%s", root, name);
  return at;
}

void scratch_put(const char *name, const void *bytes, size_t n)
{
  FILE *f = fopen(scratch(name), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(bytes, 1, n, f), n);
  assert_int_equal(fclose(f), 0);
}

bool scratch_has(const char *name, const char *text)
{
  char *got;
  size_t n;
  if (file_read(scratch(name), &got, &n) != OK) {
    print_error("%s\n", last_error());
    return false;
  }
  bool same = n == strlen(text) && !memcmp(got, text, n);
  if (!same)
    print_error("%s holds \"%s\", not \"%s\"\n", name, got, text);
  free(got);
  return same;
}

int scratch_entries(void)
{
  DIR *d = opendir(root);
  assert_non_null(d);
  int n = 0;
  for (const struct dirent *e; (e = readdir(d));)
    n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
  (void)closedir(d);
  return n;
}

void check_fails_(const char *file, int line, int got, int want, const char *text, const char *call)
{
  if (got == want && strstr(last_error(), text))
    return;
  print_error("%s: status %d, expected %d with \"%s\"; last error: %s\n", call, got, want, text,
              last_error());
  _fail(file, line);
}

void limit_file_size(long bytes)
{
  struct rlimit limit;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
  limit.rlim_cur = bytes < 0 ? limit.rlim_max : (rlim_t)bytes;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}
