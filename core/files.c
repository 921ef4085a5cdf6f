/* files.c: whole files in, whole files out.  Every call that can lose data is checked: write,
 * flush, sync to disk, close, rename, sync of the directory that holds the name. */
#include "core/files.h"
#include <ctype.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading ---- */

static enum status read_all(int fd, const char *path, char **text, size_t *bytes)
{
  struct stat st;
  if (fstat(fd, &st))
    FAIL_IO(path, "read");
  size_t used = 0, size = st.st_size > 0 ? (size_t)st.st_size + 2 : 4096;
  char *at = malloc(size);
  while (at) {
    if (size - used < 2) { /* not a regular file, or one that grows */
      size *= 2;
      char *larger = realloc(at, size);
      if (!larger)
        break;
      at = larger;
    }
    ssize_t got = read(fd, at + used, size - used - 1);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0) {
      free(at);
      FAIL_IO(path, "read");
    }
    if (!got) {
      at[used] = 0;
      *text = at;
      *bytes = used;
      return OK;
    }
    used += (size_t)got;
  }
  free(at);
  FAIL(ERR_MEMORY, "%s: out of memory after %zu bytes", path, used);
}

enum status file_read(const char *path, char **text, size_t *bytes)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    FAIL_IO(path, "open");
  enum status s = read_all(fd, path, text, bytes);
  (void)close(fd);
  return s;
}

/* ---- writing ---- */

static enum status with_suffix(const char *path, const char *suffix, char **out)
{
  if (asprintf(out, "%s%s", path, suffix) < 0) {
    *out = NULL;
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  }
  return OK;
}

/* What the symbolic link points to, there or not, in the place of its path. */
static bool follow(char **link)
{
  char to[PATH_MAX], *next = NULL;
  ssize_t n = readlink(*link, to, sizeof to - 1);
  if (n < 0)
    return false;
  to[n] = 0;
  const char *slash = strrchr(*link, '/');
  int front = slash && *to != '/' ? (int)(slash + 1 - *link) : 0;
  if (asprintf(&next, "%.*s%s", front, *link, to) < 0)
    return false;
  free(*link);
  *link = next;
  return true;
}

/* What is written in the end: where a symbolic link leads, so that the link stays. */
static enum status writer_target(const char *path, char **target)
{
  enum { LINKS = 40 };
  struct stat st;
  *target = strdup(path);
  for (int i = 0; *target && !lstat(*target, &st) && S_ISLNK(st.st_mode); i++) {
    errno = ELOOP;
    if (i < LINKS && follow(target))
      continue;
    free(*target);
    *target = NULL;
  }
  if (!*target)
    FAIL_IO(path, "create");
  return OK;
}

static enum status writer_open(const char *path, struct file_writer *w)
{
  struct stat st;
  bool exists = !stat(path, &st), direct = exists && !S_ISREG(st.st_mode);
  if (exists && S_ISDIR(st.st_mode))
    FAIL(ERR_IO, "%s: is a directory", path);
  int fd;
  if (direct) {
    w->path = strdup(path);
    if (!w->path)
      FAIL(ERR_MEMORY, "%s: out of memory", path);
    fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
  } else {
    TRY(writer_target(path, &w->path));
    TRY(with_suffix(w->path, ".tmp", &w->temporary));
    (void)unlink(w->temporary); /* left by a run that was killed */
    fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  }
  if (fd < 0) {
    free(w->temporary); /* not ours to remove */
    w->temporary = NULL;
    FAIL_IO(path, "create");
  }
  w->out = fdopen(fd, "w");
  if (!w->out) {
    (void)close(fd);
    FAIL_IO(path, "create");
  }
  return OK;
}

enum status file_begin(const char *path, struct file_writer *w)
{
  *w = (struct file_writer){0};
  enum status s = writer_open(path, w);
  if (s != OK)
    file_abandon(w);
  return s;
}

enum status file_check(const char *path)
{
  struct stat st;
  bool exists = path && !stat(path, &st);
  if (!path || (exists && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
    return OK;
  if (exists && S_ISDIR(st.st_mode))
    FAIL(ERR_IO, "%s: is a directory", path);
  char *target;
  TRY(writer_target(path, &target));
  int why = access(dirname(target), W_OK | X_OK) ? errno : 0;
  free(target);
  errno = why;
  if (why)
    FAIL_IO(path, "create");
  return OK;
}

enum status file_write(struct file_writer *w, const void *data, size_t bytes)
{
  if (bytes && fwrite(data, 1, bytes, w->out) != bytes)
    FAIL_IO(w->path, "write");
  return OK;
}

static enum status parent_flush(const char *path)
{
  char *copy = strdup(path);
  if (!copy)
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  enum status s = directory_flush(dirname(copy));
  free(copy);
  return s;
}

/* Everything on disk and the stream closed; *id tells which file it was. */
static enum status writer_close(struct file_writer *w, struct stat *id)
{
  bool earlier = ferror(w->out);
  errno = 0;
  if (fflush(w->out) || earlier)
    FAIL(ERR_IO, "%s: cannot write: %s", w->path,
         errno ? strerror(errno) : "an earlier write failed");
  int fd = fileno(w->out);
  if (fsync(fd) && (w->temporary || (errno != EINVAL && errno != EROFS))) /* pipes, terminals */
    FAIL_IO(w->path, "flush to disk");
  if (fstat(fd, id))
    FAIL_IO(w->path, "write");
  FILE *out = w->out;
  w->out = NULL;
  if (fclose(out))
    FAIL_IO(w->path, "close");
  return OK;
}

static enum status writer_finish(struct file_writer *w)
{
  struct stat mine, now;
  TRY(writer_close(w, &mine));
  if (!w->temporary)
    return OK;
  bool same = !lstat(w->temporary, &now) && now.st_dev == mine.st_dev && now.st_ino == mine.st_ino;
  bool renamed = same && !rename(w->temporary, w->path);
  if (same && !renamed)
    FAIL_IO(w->path, "replace");
  free(w->temporary);
  w->temporary = NULL;
  if (!same)
    FAIL(ERR_IO, "%s: another program writes it at the same time", w->path);
  return parent_flush(w->path);
}

enum status file_commit(struct file_writer *w)
{
  enum status s = writer_finish(w);
  file_abandon(w);
  return s;
}

void file_abandon(struct file_writer *w)
{
  if (w->out)
    (void)fclose(w->out);
  if (w->temporary)
    (void)unlink(w->temporary);
  free(w->temporary);
  free(w->path);
  *w = (struct file_writer){0};
}

/* ---- paths and directories ---- */

enum status path_join(char *out, size_t size, const char *dir, const char *name)
{
  size_t n = strlen(dir);
  bool alone = !n || name[0] == '/';
  const char *slash = alone || dir[n - 1] == '/' ? "" : "/";
  int length = snprintf(out, size, "%s%s%s", alone ? "" : dir, slash, name);
  if (length < 0 || (size_t)length >= size)
    FAIL(ERR_USAGE, "%s%s%s: the path is longer than %zu characters", alone ? "" : dir, slash, name,
         size ? size - 1 : 0);
  return OK;
}

bool path_exists(const char *path)
{
  struct stat st;
  return !stat(path, &st);
}

static bool is_one(const struct stat *a, const struct stat *b)
{
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* false: there is no such directory. */
static bool parent_of(const char *path, struct stat *parent, const char **name)
{
  const char *slash = strrchr(path, '/');
  *name = slash ? slash + 1 : path;
  char *directory = slash ? strndup(path, (size_t)(slash + 1 - path)) : strdup(".");
  bool found = directory && !stat(directory, parent);
  free(directory);
  return found;
}

bool path_is_same(const char *a, const char *b)
{
  struct stat one, other;
  const char *name, *other_name;
  bool is = !stat(a, &one), other_is = !stat(b, &other);
  if (is || other_is)
    return is && other_is && is_one(&one, &other);
  return parent_of(a, &one, &name) && parent_of(b, &other, &other_name) && is_one(&one, &other) &&
         strcmp(name, other_name) == 0;
}

struct shell_word shell_quoted(const char *word)
{
  static const char quote[] = "'\\''";
  struct shell_word w = {""};
  char *to = w.text, *end = w.text + sizeof w.text - sizeof quote - 1;
  bool plain = *word;
  for (const char *p = word; *p; p++)
    plain = plain && (isalnum((unsigned char)*p) || strchr("/._-+=:,@%", *p));
  if (!plain)
    *to++ = '\'';
  for (; *word && to < end; word++) {
    size_t n = *word == '\'' ? sizeof quote - 1 : 1;
    memcpy(to, n == 1 ? word : quote, n);
    to += n;
  }
  if (!plain)
    *to++ = '\'';
  *to = '\0';
  return w;
}

bool path_is_directory(const char *path)
{
  struct stat st;
  return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static enum status make_parent(const char *path)
{
  char *copy = strdup(path);
  if (!copy)
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  char *parent = dirname(copy);
  enum status s = strcmp(parent, path) ? directory_make(parent) : OK;
  free(copy);
  return s;
}

enum status directory_make(const char *path)
{
  if (path_is_directory(path))
    return OK;
  TRY(make_parent(path));
  if (!mkdir(path, 0777))
    return parent_flush(path);
  if (errno != EEXIST)
    FAIL_IO(path, "create");
  if (!path_is_directory(path)) /* it may have come since we looked */
    FAIL(ERR_IO, "%s: exists and is not a directory", path);
  return OK;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
  (void)st, (void)where;
  if (type == FTW_DNR)
    FAIL(ERR_IO, "%s: cannot read the directory to remove it", path);
  if (remove(path) && errno != ENOENT)
    FAIL_IO(path, "remove");
  return OK;
}

enum status directory_remove(const char *path)
{
  struct stat st;
  if (lstat(path, &st)) {
    if (errno == ENOENT)
      return OK;
    FAIL_IO(path, "remove");
  }
  if (!S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode))
    FAIL(ERR_IO, "%s: cannot remove: not a directory", path);
  int s = nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
  if (s < 0)
    FAIL_IO(path, "remove");
  return (enum status)s;
}

enum status directory_flush(const char *path)
{
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    FAIL_IO(path, "open");
  bool bad = fsync(fd) && errno != EINVAL; /* some file systems have no sync of directories */
  int reason = errno;
  if (close(fd) && !bad)
    FAIL_IO(path, "close");
  errno = reason;
  if (bad)
    FAIL_IO(path, "flush to disk");
  return OK;
}

/* Where the file system cannot exchange (NFS): for a moment the target has another name. */
static enum status replace_in_steps(const char *from, const char *to)
{
  char *old;
  TRY(with_suffix(to, ".old", &old));
  enum status s = directory_remove(old);
  if (s == OK && rename(to, old))
    s = fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot rename: %s", to, strerror(errno));
  else if (s == OK && rename(from, to)) {
    s = fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot rename: %s", from, strerror(errno));
    (void)rename(old, to);
  } else if (s == OK) {
    s = parent_flush(to);
    if (s == OK)
      s = directory_remove(old);
  }
  free(old);
  return s;
}

static enum status replace_directory(const char *from, const char *to)
{
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE)) {
    if (errno == EINVAL || errno == ENOSYS)
      return replace_in_steps(from, to);
    FAIL_IO(to, "replace");
  }
  TRY(parent_flush(to));
  return directory_remove(from);
}

enum status path_rename(const char *from, const char *to)
{
  if (rename(from, to)) {
    if (errno != ENOTEMPTY && errno != EEXIST)
      FAIL(ERR_IO, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    TRY(replace_directory(from, to));
  }
  TRY(parent_flush(to));
  return parent_flush(from);
}

enum status link_replace(const char *target, const char *path)
{
  char *fresh;
  TRY(with_suffix(path, ".tmp", &fresh));
  (void)unlink(fresh); /* left by a run that was killed */
  enum status s = OK;
  if (symlink(target, fresh)) {
    s = fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot create: %s", path, strerror(errno));
  } else if (rename(fresh, path)) {
    s = fail_at(ERR_IO, __FILE__, __LINE__, "%s: cannot replace: %s", path, strerror(errno));
    (void)unlink(fresh);
  }
  free(fresh);
  return s == OK ? parent_flush(path) : s;
}
