/* json_file.h: a JSON value as a file, all of it or nothing. */
#ifndef EXPERIMENTS_JSON_FILE_H
#define EXPERIMENTS_JSON_FILE_H
#include "core/status.h"
#include <jansson.h>

/* Writes root, indented, with jansson's `flags` besides, and releases it.  ERR_IO, ERR_MEMORY. */
MUST_USE enum status json_file_write(json_t *root, size_t flags, const char *path);
#endif
