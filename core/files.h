/* files.h: files and directories, each failure with the name of the file and the reason. */
#ifndef CORE_FILES_H
#define CORE_FILES_H
#include "core/status.h"
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Fails with ERR_IO, "PATH: cannot ACTION: " and what errno says. */
#define FAIL_IO(path, action) FAIL(ERR_IO, "%s: cannot %s: %s", path, action, strerror(errno))

/* The whole file, with a 0 behind it; *bytes its length; free() it.  ERR_IO, ERR_MEMORY. */
MUST_USE enum status file_read(const char *path, char **text, size_t *bytes);

/* Writing so that a reader sees all of it or nothing: begin opens PATH.tmp, commit flushes to disk,
 * renames and flushes the directory, abandon removes what was written.  A symbolic link is written
 * through; what is no regular file (/dev/stdout) is written directly.  Writes to `out` that fail
 * are reported by commit.  After commit, whatever it returns, and after a begin that failed, the
 * writer is empty; abandon of an empty writer does nothing.  A file-size limit is reported only
 * where SIGXFSZ is ignored: interrupt_install does that. */
struct file_writer {
  FILE *out;
  char *path, *temporary;
};
MUST_USE enum status file_begin(const char *path, struct file_writer *w);
/* fwrite that reports at once: ERR_IO with the reason. */
MUST_USE enum status file_write(struct file_writer *w, const void *data, size_t bytes);
MUST_USE enum status file_commit(struct file_writer *w);
void file_abandon(struct file_writer *w);
/* Fails where file_begin is sure to, and leaves nothing: before long work whose result goes to
 * `path` (NULL, a pipe, a terminal: OK). */
MUST_USE enum status file_check(const char *path);

/* dir/name into `out` (size bytes), or name alone when it is absolute or dir is empty; ERR_USAGE
 * when it does not fit. */
MUST_USE enum status path_join(char *out, size_t size, const char *dir, const char *name);
MUST_USE enum status directory_make(const char *path); /* with its parents; existing is fine */
/* With what is in it, following no link; a missing one is fine. */
MUST_USE enum status directory_remove(const char *path);
MUST_USE enum status directory_flush(const char *path); /* fsync */
/* Renames a directory or file, and flushes the parents.  An existing target is replaced: a file by
 * a file, a directory by a directory (exchanged, so that a reader finds one of the two, then
 * removed). */
MUST_USE enum status path_rename(const char *from, const char *to);
/* Points the symbolic link `path` at `target`, atomically. */
MUST_USE enum status link_replace(const char *target, const char *path);
bool path_exists(const char *path); /* false for a link that points nowhere */
bool path_is_directory(const char *path);
/* `word` as a shell reads it, quoted where it must be: for commands in messages.  What is too long
 * loses its end. */
struct shell_word {
  char text[2048];
};
struct shell_word shell_quoted(const char *word);
/* Also by links; of files that are not there yet, by their names in a directory that is. */
bool path_is_same(const char *a, const char *b);
#endif
