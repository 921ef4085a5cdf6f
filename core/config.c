/* config.c: a configuration from its files, the command line and the defaults; and back to YAML.
 *
 * Each file, and the command line, is read into a layer of its own, so that a key repeated within
 * one is a fault; the layers are then merged in order: defaults, what a file includes, the file,
 * the command line. */
#include "core/config_keys.h"
#include "core/files.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

/* A file that is being read, and those that led to it. */
struct chain {
  const char *file;
  dev_t device;
  ino_t inode;
  const struct chain *up;
};

/* the defaults; every byte of the configuration is set, so that equal ones compare equal */
static enum status layer_init(struct layer *l, const char *file)
{
  memset(l, 0, sizeof *l);
  l->root = (struct origin){.file = file, .line = 1, .column = 1};
  for (const struct key *k = keys; k < keys + keys_count; k++)
    if (k->fallback && k->type != KEY_INCLUDE)
      TRY(yaml_read_value(k->path, k->fallback, (struct origin){.override = k->path}, l));
  memset(l->from, 0, sizeof l->from);
  return OK;
}

static void merge(struct layer *into, const struct layer *l)
{
  int mode = key_find("deq.evaluate.mode"), window = key_find("deq.evaluate.window");
  into->layers++;
  for (int k = 0; k < keys_count; k++)
    if (given(l, k)) {
      memcpy((char *)&into->c + keys[k].offset, (const char *)&l->c + keys[k].offset, keys[k].size);
      into->from[k] = l->from[k];
      into->from[k].order = into->layers;
    }
  if (given(l, mode) && !given(l, window)) /* a mode replaces the window of an earlier layer */
    into->from[window] = (struct origin){0};
}

static enum status load_file(const char *file, const struct chain *up, struct includes *in,
                             struct layer *into);

/* "a -> b -> ": the files from `first` down to `last`, as many as fit */
static size_t write_chain(const struct chain *first, const struct chain *last, char *out,
                          size_t size)
{
  size_t used = last == first ? 0 : write_chain(first, last->up, out, size), n = strlen(last->file);
  if (used + n + 5 > size)
    return size;
  memcpy(out + used, last->file, n);
  memcpy(out + used + n, " -> ", 5);
  return used + n + 4;
}

/* `at` includes `file`; ancestors in `up` */
static enum status load_included(struct origin at, const char *file, const struct chain *up,
                                 struct includes *in, struct layer *into)
{
  struct stat s;
  if (!stat(file, &s))
    for (const struct chain *c = up; c; c = c->up)
      if (c->device == s.st_dev && c->inode == s.st_ino) {
        char files[1024] = "";
        (void)write_chain(c, up, files, sizeof files);
        FAIL_FROM(at, "files include each other: %s%s", files, file);
      }
  enum status status = load_file(file, up, in, into);
  return status == ERR_IO ? fail_from(at, status) : status;
}

static enum status load_file(const char *file, const struct chain *up, struct includes *in,
                             struct layer *into)
{
  struct chain self = {.file = file, .up = up};
  struct layer own = {0};
  struct stat s;
  char *text;
  size_t bytes;
  int first = in->count;
  TRY(file_read(file, &text, &bytes));
  if (!stat(file, &s)) {
    self.device = s.st_dev;
    self.inode = s.st_ino;
  }
  enum status status = yaml_read_file(file, text, bytes, &own, in);
  free(text);
  for (int i = first, end = in->count; status == OK && i < end; i++)
    status = load_included(in->at[i], in->path[i], &self, in, into);
  if (status == OK)
    merge(into, &own);
  return status;
}

/* A file among the overrides: merged as if the first had included it last. */
bool config_is_file(const char *override)
{
  size_t n = strlen(override);
  return !strchr(override, '=') && n > 5 && !strcmp(override + n - 5, ".yaml");
}

static enum status merge_overrides(int overrides, const char *const *override, struct layer *into)
{
  struct layer own = {0};
  for (int i = 0; i < overrides; i++) {
    struct origin at = {.override = override[i], .line = 1, .column = 1};
    char path[KEY_PATH];
    const char *equals = strchr(override[i], '=');
    if (config_is_file(override[i]))
      continue;
    if (!equals || equals == override[i] || equals - override[i] >= KEY_PATH)
      FAIL_FROM(at, "expected key.path=value");
    (void)snprintf(path, sizeof path, "%.*s", (int)(equals - override[i]), override[i]);
    TRY(yaml_read_value(path, equals + 1, at, &own));
  }
  merge(into, &own);
  return OK;
}

/* Keys of other tasks, given before the task was chosen, become what they are by default. */
static enum status leave_other_tasks(struct layer *l)
{
  for (int k = 0; k < keys_count; k++) {
    if (!given(l, k) || key_applies(&keys[k], &l->c))
      continue;
    key_clear(&keys[k], &l->c);
    if (keys[k].fallback)
      TRY(yaml_read_value(keys[k].path, keys[k].fallback, (struct origin){.override = keys[k].path},
                          l));
  }
  return OK;
}

static int ascending(const void *a, const void *b)
{
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Each once, the longest last. */
static void sort_lengths(struct evaluate_config *e)
{
  int64_t kept = 0;
  qsort(e->lengths, (size_t)e->lengths_count, sizeof *e->lengths, ascending);
  for (int64_t i = 0; i < e->lengths_count; i++)
    if (kept == 0 || e->lengths[i] != e->lengths[kept - 1])
      e->lengths[kept++] = e->lengths[i];
  for (int64_t i = kept; i < e->lengths_count; i++)
    e->lengths[i] = 0;
  e->lengths_count = kept;
}

/* Everything has been merged: checks it, and moves it to c. */
static enum status finish(struct layer *l, struct config *c)
{
  struct deq_config *d = &l->c.deq;
  if (!given(l, key_find("deq.evaluate.window")))
    d->evaluate.window = d->mode == MODE_SEQUENTIAL ? 1 : FP_WINDOW_ALL;
  else /* a window that slides takes the sequential mode's place */
    d->mode = d->evaluate.window == FP_WINDOW_ALL ? MODE_SIMULTANEOUS : MODE_SEQUENTIAL;
  sort_lengths(&l->c.evaluate);
  TRY(config_check(l));
  TRY(leave_other_tasks(l));
  if (l->c.data.task == TASK_TEXT)
    (void)origin_text(l->from[key_find("data.path")], l->c.data.path_given);
  memcpy(c, &l->c, sizeof *c);
  return OK;
}

enum status config_load(const char *path, int overrides, const char *const *override,
                        struct config *c)
{
  struct layer l;
  struct includes in = {.count = 0};
  TRY(layer_init(&l, path));
  enum status status = load_file(path, NULL, &in, &l);
  for (int i = 0; status == OK && i < overrides; i++)
    if (config_is_file(override[i]))
      status = load_file(override[i], NULL, &in, &l);
  if (status == OK)
    status = merge_overrides(overrides, override, &l);
  if (status == OK)
    status = finish(&l, c);
  for (int i = 0; i < in.count; i++)
    free(in.path[i]);
  if (status == ERR_IO && strchr(path, '=') && access(path, F_OK))
    FAIL(ERR_USAGE, "%s: a configuration (FILE.yaml) comes before its overrides", path);
  return status;
}

enum status config_parse_with(const char *name, const char *yaml, size_t bytes, int overrides,
                              const char *const *override, struct config *c)
{
  struct layer l, own = {0};
  TRY(layer_init(&l, name));
  TRY(yaml_read_file(name, yaml, bytes, &own, NULL));
  merge(&l, &own);
  for (int i = 0; i < overrides; i++)
    if (config_is_file(override[i]))
      FAIL(ERR_USAGE, "%s: a configuration comes before overrides", override[i]);
  TRY(merge_overrides(overrides, override, &l));
  return finish(&l, c);
}

enum status config_parse(const char *name, const char *yaml, size_t bytes, struct config *c)
{
  return config_parse_with(name, yaml, bytes, 0, NULL, c);
}

/* Opens the sections of `path` that the key before it was not in; returns the key's depth. */
static int write_sections(const char *before, const char *path, FILE *out)
{
  int depth = 0;
  bool same = true;
  for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
    size_t n = (size_t)(dot - path) + 1, start = n - 1;
    while (start > 0 && path[start - 1] != '.')
      start--;
    same = same && !strncmp(before, path, n);
    if (!same)
      (void)fprintf(out, "%*s%.*s:\n", 2 * depth, "", (int)(n - 1 - start), path + start);
    depth++;
  }
  return depth;
}

enum status config_write(const struct config *c, FILE *out)
{
  const char *before = "";
  for (const struct key *k = keys; k < keys + keys_count; k++) {
    if (k->type == KEY_INCLUDE || !key_applies(k, c))
      continue;
    int depth = write_sections(before, k->path, out);
    const char *dot = strrchr(k->path, '.');
    (void)fprintf(out, "%*s%s: ", 2 * depth, "", dot ? dot + 1 : k->path);
    key_write(k, c, out);
    (void)fputc('\n', out);
    before = k->path;
  }
  if (fflush(out) || ferror(out))
    FAIL(ERR_IO, "writing the configuration: %s", strerror(errno));
  return OK;
}

/* ---- one key at a time ---- */

int config_difference(const struct config *a, const struct config *b, int from)
{
  for (int k = from; k < keys_count; k++)
    if (memcmp((const char *)a + keys[k].offset, (const char *)b + keys[k].offset, keys[k].size) !=
        0)
      return k;
  return -1;
}

const char *config_key_path(int key)
{
  CHECK(key >= 0 && key < keys_count);
  return keys[key].path;
}

const char *config_key_value(int key, const struct config *c, char *out, size_t size)
{
  *out = 0;
  FILE *to = fmemopen(out, size, "w");
  if (to) {
    key_write(&keys[key], c, to);
    (void)fclose(to);
  }
  out[size - 1] = 0;
  return out;
}
