/* scratch.h: a directory of its own for each test that writes files. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H
#include "tests/check.h"
#include <stdbool.h>

/* cmocka setup and teardown: an empty directory under TMPDIR, removed with what is in it. */
int scratch_make(void **state);
int scratch_remove(void **state);
/* The path of `name` in it; good for the next seven calls. */
const char *scratch(const char *name);

void scratch_put(const char *name, const void *bytes, size_t n); /* writes a file */
bool scratch_has(const char *name, const char *text);            /* is that the whole file? */
int scratch_entries(void);                                       /* names in the directory */

/* Fails unless the call returned `status` with a message that contains `text`. */
#define check_fails(call, status, text) check_fails_(__FILE__, __LINE__, call, status, text, #call)
void check_fails_(const char *file, int line, int got, int want, const char *text,
                  const char *call);

/* Files that grow beyond `bytes` fail, as on a full disk; -1: no limit. */
void limit_file_size(long bytes);
#endif
