/* files.h: files and directories, each failure with the name of the file and the reason. */
#ifndef CORE_FILES_H
#define CORE_FILES_H
#include "core/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* The whole file, with a 0 behind it; *bytes its length; free() it.  ERR_IO, ERR_MEMORY. */
MUST_USE enum status file_read(const char *path, char **text, size_t *bytes);

/* Writing so that a reader sees all of it or nothing: begin opens PATH.tmp, commit flushes to disk,
 * renames and flushes the directory, abandon removes what was written. */
struct file_writer {
  FILE *out;
  char *path, *temporary;
};
MUST_USE enum status file_begin(const char *path, struct file_writer *w);
MUST_USE enum status file_commit(struct file_writer *w);
void file_abandon(struct file_writer *w);

/* dir/name into `out` (size bytes); ERR_USAGE when it does not fit. */
MUST_USE enum status path_join(char *out, size_t size, const char *dir, const char *name);
MUST_USE enum status directory_make(const char *path);   /* with its parents; existing is fine */
MUST_USE enum status directory_remove(const char *path); /* with what is in it; missing is fine */
MUST_USE enum status directory_flush(const char *path);  /* fsync */
/* Renames a directory or file over a target that may not exist, and flushes the parent. */
MUST_USE enum status path_rename(const char *from, const char *to);
/* Points the symbolic link `path` at `target`, atomically. */
MUST_USE enum status link_replace(const char *target, const char *path);
bool path_exists(const char *path);
bool path_is_directory(const char *path);
#endif
