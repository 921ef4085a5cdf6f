/* test_faults.c: every call by which a write can fail is made to fail, one at a time.
 *
 * The functions below stand before libc's.  While armed, the n-th call of any of them fails with
 * EIO; a test runs its operation for n = 1, 2, ... until nothing fails any more.  Each time the
 * operation must return ERR_IO with the reason and leave either the old state or the new one. */
#include "core/files.h"
#include "core/metrics.h"
#include "core/safetensors.h"
#include "experiments/program.h"
#include "tests/spawn.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <omp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

static int countdown;          /* 0: nothing fails */
static bool exchange_fails;    /* as on NFS */
static const char *last_fault; /* the call that failed */

static bool trips(const char *call)
{
  if (!countdown || --countdown)
    return false;
  last_fault = call;
  errno = EIO;
  return true;
}

#define FAULTY(name, real) return trips(name) ? -1 : (int)(real)
int fsync(int fd) { FAULTY("fsync", syscall(SYS_fsync, fd)); }
int rename(const char *from, const char *to)
{
  FAULTY("rename", syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
  if (exchange_fails) {
    errno = EINVAL;
    return -1;
  }
  FAULTY("renameat2", syscall(SYS_renameat2, a, from, b, to, flags));
}
int symlink(const char *target, const char *path)
{
  FAULTY("symlink", syscall(SYS_symlinkat, target, AT_FDCWD, path));
}
int mkdir(const char *path, mode_t mode)
{
  FAULTY("mkdir", syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}
ssize_t write(int fd, const void *data, size_t n)
{
  return trips("write") ? -1 : syscall(SYS_write, fd, data, n);
}
int ftruncate(int fd, off_t n) { FAULTY("ftruncate", syscall(SYS_ftruncate, fd, n)); }
int fflush(FILE *f)
{
  if (f == stderr) /* nothing depends on the progress line */
    return fflush_unlocked(f);
  FAULTY("fflush", fflush_unlocked(f));
}

size_t fwrite(const void *restrict data, size_t size, size_t n, FILE *restrict f)
{
  return trips("fwrite") ? 0 : fwrite_unlocked(data, size, n, f);
}

int close(int fd) /* what was only read may fail to close */
{
  bool reads = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
  int status = (int)syscall(SYS_close, fd);
  return !reads && trips("close") ? -1 : status;
}

static void libc(const char *name, void *function)
{
  void *found = dlsym(RTLD_NEXT, name);
  assert_non_null(found);
  memcpy(function, &found, sizeof found);
}

int fclose(FILE *f)
{
  int (*real)(FILE *);
  libc("fclose", &real);
  int status = real(f);
  return trips("fclose") ? -1 : status;
}

int remove(const char *path)
{
  int (*real)(const char *);
  libc("remove", &real);
  return trips("remove") ? -1 : real(path);
}

/* Runs the operation once for each call that can fail; returns how many there were. */
static int each_fault(void (*prepare)(void), enum status (*operation)(void),
                      void (*check)(bool done))
{
  for (int n = 1;; n++) {
    prepare();
    countdown = n;
    enum status s = operation();
    bool tripped = !countdown;
    countdown = 0;
    if (!tripped) {
      check_ok(s);
      check(true);
      return n - 1;
    }
    if (s == OK)
      print_error("fault %d, in %s, was not reported\n", n, last_fault);
    check_fails(s, ERR_IO, "Input/output error");
    assert_non_null(strstr(last_error(), "/deqmamba-")); /* names the file */
    check(false);
  }
}

/* ---- files ---- */

static void put_old(void) { scratch_put("a", "old", 3); }

static enum status replace_a(void)
{
  struct file_writer w;
  TRY(file_begin(scratch("a"), &w));
  enum status s = file_write(&w, "new", 3);
  if (s == OK)
    return file_commit(&w);
  file_abandon(&w);
  return s;
}

static bool is(const char *name, const char *text)
{
  char *got;
  size_t n;
  check_ok(file_read(scratch(name), &got, &n));
  bool same = !strcmp(got, text);
  free(got);
  return same;
}

/* The directory is flushed last: its failure is reported although the new file is in its place. */
static void a_is_whole(bool done)
{
  assert_true(is("a", "new") || (!done && is("a", "old")));
  assert_int_equal(scratch_entries(), 1);
}

static void files(void **state)
{
  (void)state;
  /* fwrite, fflush, fsync, fclose, rename, fsync of the directory */
  assert_int_equal(each_fault(put_old, replace_a, a_is_whole), 6);
}

/* ---- directories and links ---- */

static void remove_d(void) { check_ok(directory_remove(scratch("d"))); }
static enum status make_d(void) { return directory_make(scratch("d/e")); }
static void d_is_made(bool done) { assert_true(!done || path_is_directory(scratch("d/e"))); }

static void put_directories(void)
{
  check_ok(directory_remove(scratch("from")));
  check_ok(directory_remove(scratch("to")));
  check_ok(directory_remove(scratch("to.old")));
  check_ok(directory_make(scratch("from")));
  check_ok(directory_make(scratch("to")));
  scratch_put("from/file", "new", 3);
  scratch_put("to/file", "old", 3);
}

static enum status rename_directory(void) { return path_rename(scratch("from"), scratch("to")); }

static void to_is_whole(bool done)
{
  assert_true(is("to/file", "new") || (!done && is("to/file", "old")));
  assert_true(!done || scratch_entries() == 1);
}

static void put_link(void) { check_ok(link_replace("old", scratch("latest"))); }
static enum status replace_link(void) { return link_replace("new", scratch("latest")); }

static void link_is_whole(bool done)
{
  char target[8] = {0};
  assert_int_equal(readlink(scratch("latest"), target, sizeof target - 1), 3);
  assert_true(!strcmp(target, "new") || (!done && !strcmp(target, "old")));
  assert_int_equal(scratch_entries(), 1);
}

static void directories(void **state)
{
  (void)state;
  assert_int_equal(each_fault(remove_d, make_d, d_is_made), 4); /* mkdir, fsync for both */
  remove_d();
  /* a rename that is refused, the exchange, a flush, two removals, a flush of each parent */
  assert_int_equal(each_fault(put_directories, rename_directory, to_is_whole), 7);
}

static void directories_without_exchange(void **state)
{
  (void)state;
  exchange_fails = true;
  int faults = each_fault(put_directories, rename_directory, to_is_whole);
  exchange_fails = false;
  assert_int_equal(faults, 8); /* three renames, three flushes, two removals */
}

static void links(void **state)
{
  (void)state;
  assert_int_equal(each_fault(put_link, replace_link, link_is_whole),
                   3); /* symlink, rename, fsync */
}

/* ---- safetensors ---- */

static const float values[3] = {1, 2, 3};

static enum status write_tensors(int64_t tensors)
{
  const struct st_tensor t[2] = {
      {.name = "x", .rank = 1, .shape = {3}, .count = 3, .data = values},
      {.name = "y", .rank = 1, .shape = {2}, .count = 2, .data = values}};
  return safetensors_write(scratch("a"), t, tensors);
}

static void put_one_tensor(void) { check_ok(write_tensors(1)); }
static enum status write_two_tensors(void) { return write_tensors(2); }

static void tensors_are_whole(bool done)
{
  struct safetensors file;
  check_ok(safetensors_read(scratch("a"), &file));
  assert_true(file.tensors == 2 || (!done && file.tensors == 1));
  safetensors_free(&file);
  assert_int_equal(scratch_entries(), 1);
}

static void safetensors_files(void **state)
{
  (void)state;
  assert_true(each_fault(put_one_tensor, write_two_tensors, tensors_are_whole) >= 4 + 5);
}

/* ---- metrics ---- */

#define ONE "{\"step\": 1}\n"
#define TWO "{\"step\": 2}\n"

static void put_torn_metrics(void) { scratch_put("m", ONE "{\"st", sizeof ONE + 4 - 1); }

static enum status append_metrics(void)
{
  struct metrics m;
  TRY(metrics_open(scratch("m"), &m));
  metrics_begin(&m);
  metrics_int(&m, "step", 2);
  enum status s = metrics_end(&m);
  if (s == OK)
    return metrics_close(&m);
  enum status closed = metrics_close(&m);
  return s == OK ? closed : s;
}

static void metrics_are_whole(bool done)
{
  assert_true(is("m", ONE TWO) || (!done && (is("m", ONE) || is("m", ONE "{\"st"))));
}

static void put_metrics(void) { scratch_put("m", ONE TWO, sizeof ONE TWO - 1); }
static enum status truncate_metrics(void) { return metrics_truncate_after(scratch("m"), 1); }

static void metrics_are_truncated(bool done)
{
  assert_true(is("m", ONE) || (!done && is("m", ONE TWO)));
  assert_int_equal(scratch_entries(), 1);
}

static void metrics_files(void **state)
{
  (void)state;
  /* ftruncate, write, fsync, close */
  assert_int_equal(each_fault(put_torn_metrics, append_metrics, metrics_are_whole), 4);
  assert_int_equal(each_fault(put_metrics, truncate_metrics, metrics_are_truncated), 6);
}

/* ---- training ---- */

static const char recipe[] =
    "name: run\ndevice: cpu\n"
    "model: {kind: implicit, d_model: 4, mamba2: {d_state: 2, expand: 2, headdim: 4}}\n"
    "data: {task: word_problem, group: Z2, length: 4}\n"
    "train: {steps: 1, unroll_steps: 10, batch_size: 2, log_every: 1, checkpoint_every: 1, keep: "
    "1,\n"
    "  evaluate_every: 1}\n"
    "evaluate: {sequences: 2}\n";

static enum status train_to(int64_t steps, bool resume)
{
  struct config c;
  struct runtime rt;
  char directory[512];
  struct train_options o = {.directory = directory, .resume = resume, .overwrite = !resume};
  (void)snprintf(directory, sizeof directory, "%s", scratch("run"));
  TRY(config_parse("recipe", recipe, sizeof recipe - 1, &c));
  TRY(config_resolve(&c));
  c.train.steps = steps;
  TRY(runtime_open(&c, &rt));
  return train_run(&c, &rt, &o);
}

static void train_one_step(void)
{
  check_ok(directory_remove(scratch("run")));
  check_ok(train_to(1, false));
}

static enum status train_second_step(void) { return train_to(2, true); }

/* The last checkpoint is that of the first step or of the second, loads, and goes on. */
static void run_is_whole(bool done)
{
  char target[64] = {0};
  assert_true(readlink(scratch("run/latest"), target, sizeof target - 1) > 0);
  bool second = !strcmp(target, "checkpoints/step-00000002");
  assert_true(second || (!done && !strcmp(target, "checkpoints/step-00000001")));
  check_ok(train_to(3, true));
  assert_int_equal(readlink(scratch("run/latest"), target, sizeof target - 1), 25);
  assert_string_equal(target, "checkpoints/step-00000003");
}

static void training(void **state)
{
  (void)state;
  int faults = each_fault(train_one_step, train_second_step, run_is_whole);
  print_message("%d calls failed\n", faults);
  assert_true(faults > 50);
}

/* A full disk, as the program's user sees it. */
static void training_on_a_full_disk(void **state)
{
  (void)state;
  struct spawned r;
  char runs[512];
  (void)snprintf(runs, sizeof runs, "runs_dir=%s", scratch(""));
  scratch_put("run.yaml", recipe, sizeof recipe - 1);
  SPAWN(&r, "train", scratch("run.yaml"), runs);
  check_spawned(&r, 0, "1 steps done");
  for (long limit = 64; limit <= 4096; limit *= 2) { /* config, metrics, model, optimizer */
    limit_file_size(limit);
    SPAWN(&r, "train", "--resume", scratch("run"), "train.steps=2");
    limit_file_size(-1);
    if (r.status != 3) { /* what was written of the log is cut off, too */
      print_error("limit %ld: ended with %d\n", limit, r.status);
      fail();
    }
    SPAWN(&r, "evaluate", scratch("run"), "evaluate.sequences=1");
    check_spawned(&r, 0, "sequential");
  }
  SPAWN(&r, "train", "--resume", scratch("run"), "train.steps=2");
  check_spawned(&r, 0, "2 steps done");
}

static void training_below_a_file(void **state)
{
  (void)state;
  struct spawned r;
  char runs[512];
  scratch_put("file", "", 0);
  scratch_put("run.yaml", recipe, sizeof recipe - 1);
  (void)snprintf(runs, sizeof runs, "runs_dir=%s/below", scratch("file"));
  SPAWN(&r, "train", scratch("run.yaml"), runs);
  check_spawned(&r, 3, "/file");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(files),
      TEST(directories),
      TEST(directories_without_exchange),
      TEST(links),
      TEST(safetensors_files),
      TEST(metrics_files),
      TEST(training),
      TEST(training_on_a_full_disk),
      TEST(training_below_a_file),
  };
  omp_set_num_threads(1);
  if (!access("/dev/shm", W_OK)) /* flushes take no time there */
    (void)setenv("TMPDIR", "/dev/shm", 0);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
