/* run_directory.c: see run_directory.h. */
#include "core/run_directory.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "core/trainer_state.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

enum status config_write_file(const struct config *c, const char *directory)
{
  char path[RUN_PATH];
  struct file_writer f;
  TRY(path_join(path, sizeof path, directory, "config.yaml"));
  TRY(file_begin(path, &f));
  enum status s = config_write(c, f.out);
  if (s != OK) {
    file_abandon(&f);
    return fail_within(s, "%s", path);
  }
  return file_commit(&f);
}

/* ---- which directories are runs ---- */

/* Does it hold anything that a run which was killed at its beginning does not? */
static enum status holds_others(const char *path, bool *others)
{
  static const char *const own[] = {".", "..", "config.yaml.tmp", "checkpoints", "figures"};
  DIR *d = opendir(path);
  *others = false;
  if (!d)
    FAIL_IO(path, "read");
  for (const struct dirent *e; (e = readdir(d));) {
    bool known = false;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
      known = known || !strcmp(e->d_name, own[i]);
    *others = *others || !known;
  }
  (void)closedir(d);
  return OK;
}

/* Under another name first: what is left when this is interrupted is never taken for a run. */
static enum status remove_run(const char *path)
{
  char old[RUN_PATH];
  int n = snprintf(old, sizeof old, "%s" REMOVING, path);
  if (n < 0 || (size_t)n >= sizeof old)
    FAIL(ERR_USAGE, "%s: the path is too long", path);
  TRY(directory_remove(old));
  TRY(path_rename(path, old));
  return directory_remove(old);
}

static enum status make_room(const struct train_options *o)
{
  char config[RUN_PATH], checkpoints[RUN_PATH];
  bool others;
  TRY(path_join(config, sizeof config, o->directory, "config.yaml"));
  TRY(path_join(checkpoints, sizeof checkpoints, o->directory, "checkpoints"));
  if (!path_is_directory(o->directory) || o->resume)
    return OK;
  if (path_exists(config) && path_is_directory(checkpoints)) {
    if (!o->overwrite)
      FAIL(ERR_USAGE, "%s: this run exists; go on with --resume %s, or replace it with --overwrite",
           o->directory, shell_quoted(o->directory).text);
    return remove_run(o->directory);
  }
  TRY(holds_others(o->directory, &others));
  if (others)
    FAIL(
        ERR_USAGE,
        "%s: holds files and is not a run; choose another name or runs_dir (or remove it yourself)",
        o->directory);
  return OK;
}

/* *lock -1: there is no such directory, or no locks on its file system. */
static enum status take_lock(const char *directory, int *lock)
{
  *lock = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*lock < 0 || flock(*lock, LOCK_EX | LOCK_NB) == 0)
    return OK;
  bool taken = errno == EWOULDBLOCK;
  (void)close(*lock);
  *lock = -1;
  if (taken)
    FAIL(ERR_USAGE, "%s: another process is training this run", directory);
  return OK;
}

enum status run_directory_prepare(const struct train_options *o, int *lock)
{
  char path[RUN_PATH];
  TRY(take_lock(o->directory, lock)); /* before anything in it is removed */
  enum status room = make_room(o);
  if (*lock >= 0)
    (void)close(*lock);
  *lock = -1;
  TRY(room);
  TRY(path_join(path, sizeof path, o->directory, "checkpoints"));
  TRY(directory_make(path));
  TRY(take_lock(o->directory, lock));
  TRY(path_join(path, sizeof path, o->directory, "figures"));
  return directory_make(path);
}

/* ---- checkpoints ---- */

void checkpoint_name(int64_t step, char out[64])
{
  (void)snprintf(out, 64, "checkpoints/step-%08lld", (long long)step);
}

enum status checkpoint_begin(const char *run, char *out)
{
  TRY(path_join(out, RUN_PATH, run, "checkpoints/writing"));
  TRY(directory_remove(out));
  return directory_make(out);
}

enum status checkpoint_commit(const char *run, int64_t step)
{
  char name[64], from[RUN_PATH], to[RUN_PATH], link[RUN_PATH];
  checkpoint_name(step, name);
  TRY(path_join(from, sizeof from, run, "checkpoints/writing"));
  TRY(path_join(to, sizeof to, run, name));
  TRY(path_join(link, sizeof link, run, "latest"));
  TRY(directory_flush(from));
  TRY(path_rename(from, to));
  return link_replace(name, link);
}

static int descending(const void *a, const void *b)
{
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x < y) - (x > y);
}

/* -1: not the name of a checkpoint. */
static int64_t step_of(const char *name)
{
  char exact[64];
  if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
    return -1;
  int64_t step = strtoll(name + 5, NULL, 10);
  checkpoint_name(step, exact);
  return strcmp(exact + strlen("checkpoints/"), name) == 0 ? step : -1;
}

/* The steps of all checkpoints, newest first; *steps is the caller's to free. */
static enum status list_checkpoints(const char *path, int64_t **steps, size_t *count)
{
  size_t room = 0;
  DIR *d = opendir(path);
  *steps = NULL;
  *count = 0;
  if (!d)
    FAIL_IO(path, "read");
  for (const struct dirent *e; (e = readdir(d));) {
    int64_t step = step_of(e->d_name);
    if (step < 0)
      continue;
    if (*count == room) {
      room = room ? 2 * room : 16;
      int64_t *larger = realloc(*steps, room * sizeof **steps);
      if (!larger) {
        (void)closedir(d);
        FAIL(ERR_MEMORY, "%s: out of memory", path);
      }
      *steps = larger;
    }
    (*steps)[(*count)++] = step;
  }
  (void)closedir(d);
  if (*count)
    qsort(*steps, *count, sizeof **steps, descending);
  return OK;
}

/* -1: there is none. */
static enum status newest_checkpoint(const char *run, int64_t *step)
{
  char path[RUN_PATH];
  int64_t *steps;
  size_t count;
  *step = -1;
  TRY(path_join(path, sizeof path, run, "checkpoints"));
  if (!path_is_directory(path))
    return OK;
  TRY(list_checkpoints(path, &steps, &count));
  if (count)
    *step = steps[0];
  free(steps);
  return OK;
}

enum status checkpoint_find_latest(const char *run)
{
  char link[RUN_PATH], target[RUN_PATH], name[64];
  int64_t newest;
  TRY(path_join(link, sizeof link, run, "latest"));
  if (path_is_directory(link))
    return OK;
  TRY(newest_checkpoint(run, &newest));
  checkpoint_name(newest, name);
  ssize_t n = readlink(link, target, sizeof target - 1);
  if (n >= 0) {
    target[n] = '\0';
    FAIL(ERR_DATA, "%s points to %s, which is no checkpoint%s%s%s%s", link, target,
         newest < 0 ? "" : "; to go on from the newest: ln -sfn ", newest < 0 ? "" : name,
         newest < 0 ? "" : " ", newest < 0 ? "" : shell_quoted(link).text);
  }
  return newest < 0 ? OK : link_replace(name, link);
}

static bool has_tensors(const char *checkpoint, const char *name)
{
  char path[RUN_PATH];
  struct safetensors file;
  if (path_join(path, sizeof path, checkpoint, name) != OK || safetensors_read(path, &file) != OK)
    return false;
  safetensors_free(&file);
  return true;
}

/* Its tensors may still be another model's. */
static bool is_whole(const char *checkpoint)
{
  char path[RUN_PATH];
  struct trainer_state state;
  return has_tensors(checkpoint, "model.safetensors") &&
         has_tensors(checkpoint, "optimizer.safetensors") &&
         path_join(path, sizeof path, checkpoint, "trainer.json") == OK &&
         trainer_state_read(path, &state) == OK;
}

enum status checkpoint_unreadable(const char *run, enum status code)
{
  char link[RUN_PATH], target[PATH_MAX], path[RUN_PATH], name[64], error[2048];
  int64_t *steps = NULL, before = -1;
  size_t count = 0;
  (void)snprintf(error, sizeof error, "%s", last_error());
  if (path_join(link, sizeof link, run, "latest") == OK && !is_whole(link) &&
      realpath(link, target) && path_join(path, sizeof path, run, "checkpoints") == OK &&
      list_checkpoints(path, &steps, &count) == OK)
    for (size_t i = 0; i < count && before < 0; i++)
      before = steps[i] < step_of(strrchr(target, '/') + 1) ? steps[i] : -1;
  free(steps);
  if (before < 0)
    FAIL(code, "%s", error);
  checkpoint_name(before, name);
  FAIL(code, "%s; to go back to the checkpoint before it: ln -sfn %s %s", error, name,
       shell_quoted(link).text);
}

static enum status remove_checkpoint(const char *run, int64_t step)
{
  char name[64], path[RUN_PATH], away[RUN_PATH];
  checkpoint_name(step, name);
  TRY(path_join(path, sizeof path, run, name));
  TRY(path_join(away, sizeof away, run, "checkpoints/removing"));
  TRY(directory_remove(away));
  TRY(path_rename(path, away));
  return directory_remove(away);
}

/* best 0: there is none. */
static enum status point_to_best(const char *run, int64_t best)
{
  char name[64], path[RUN_PATH], link[RUN_PATH];
  checkpoint_name(best, name);
  TRY(path_join(path, sizeof path, run, name));
  TRY(path_join(link, sizeof link, run, "best"));
  if (best > 0 && path_is_directory(path))
    return link_replace(name, link);
  if (unlink(link) && errno != ENOENT)
    FAIL_IO(link, "remove");
  return OK;
}

enum status checkpoints_prune(const char *run, int64_t step, int64_t keep, int64_t best)
{
  char path[RUN_PATH];
  int64_t *steps, kept = 0;
  size_t count;
  TRY(point_to_best(run, best));
  TRY(path_join(path, sizeof path, run, "checkpoints"));
  enum status s = list_checkpoints(path, &steps, &count);
  for (size_t i = 0; s == OK && i < count; i++) {
    bool newest = steps[i] <= step && (keep == 0 || kept < keep);
    kept += newest;
    if (!newest && (steps[i] > step || steps[i] != best))
      s = remove_checkpoint(run, steps[i]);
  }
  free(steps);
  return s;
}
