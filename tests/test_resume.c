/* test_resume.c: training that is killed, interrupted, resumed and started over, as a user sees it.
 *
 * KILLS=1000 in the environment kills as often (make kill-test); 50 otherwise. */
#include "core/files.h"
#include "tests/spawn.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

enum { STEPS = 60 };

/* Everything that a step can depend on: unrolled and solved steps, lengths, accumulation,
 * evaluation, kept checkpoints. */
static const char recipe[] =
    "model: {kind: implicit, d_model: 8, mamba2: {d_state: 4, expand: 2, headdim: 4}}\n"
    "deq: {evaluate: {max_iter: 50}}\n"
    "data: {task: word_problem, group: S3, length: 8, length_min: 3}\n"
    "train: {steps: %d, unroll_steps: 20, batch_size: 2, accumulate: 2, log_every: 1,\n"
    "  checkpoint_every: 3, keep: 2, evaluate_every: 10, log_timing: false,\n"
    "  curriculum_steps: 20, curriculum_length: 2}\n"
    "evaluate: {sequences: 4}\n";

static void put_config(const char *name, int steps)
{
  char yaml[2048], file[64];
  int n = snprintf(yaml, sizeof yaml, "name: %s\nruns_dir: %s\ndevice: cpu\n", name, scratch(""));
  n += snprintf(yaml + n, sizeof yaml - (size_t)n, recipe, steps);
  (void)snprintf(file, sizeof file, "%s.yaml", name);
  scratch_put(file, yaml, (size_t)n);
}

static void remove_run(const char *name) { check_ok(directory_remove(scratch(name))); }

static bool exists_below(const char *run, const char *name)
{
  char path[600];
  (void)snprintf(path, sizeof path, "%s/%s", scratch(run), name);
  return path_exists(path);
}

/* The reader's view after any kill: no latest, or one that is whole. */
static void check_latest(const char *run)
{
  char path[600];
  struct stat st;
  (void)snprintf(path, sizeof path, "%s/latest", scratch(run));
  if (lstat(path, &st))
    return;
  assert_true(exists_below(run, "latest/model.safetensors"));
  assert_true(exists_below(run, "latest/optimizer.safetensors"));
  assert_true(exists_below(run, "latest/trainer.json"));
}

static void check_same_run(const char *a, const char *b)
{
  static const char *const files[] = {"latest/model.safetensors", "latest/optimizer.safetensors",
                                      "latest/trainer.json",      "best/model.safetensors",
                                      "best/trainer.json",        "metrics.jsonl"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char x[600], y[600];
    (void)snprintf(x, sizeof x, "%s/%s", scratch(a), files[i]);
    (void)snprintf(y, sizeof y, "%s/%s", scratch(b), files[i]);
    if (!same_files(x, y))
      fail_msg("%s differs between the undisturbed run and the other", files[i]);
  }
}

static double seconds(void)
{
  struct timespec t;
  (void)clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_seconds(double s)
{
  struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
  (void)nanosleep(&t, NULL);
}

static pid_t start_or_resume(const char *run)
{
  char yaml[512], log[512], dir[512];
  (void)snprintf(yaml, sizeof yaml, "%s.yaml", scratch(run));
  (void)snprintf(log, sizeof log, "%s.log", scratch(run));
  (void)snprintf(dir, sizeof dir, "%s", scratch(run));
  const char *const start[] = {yaml, NULL}, *const resume[] = {"--resume", dir, NULL};
  return spawn_start("train", log, exists_below(run, "config.yaml") ? resume : start);
}

/* Waits until a checkpoint is being written, or for as long as a whole run takes. */
static bool while_writing(const char *run, double most)
{
  for (double began = seconds(); seconds() - began < most;)
    if (exists_below(run, "checkpoints/writing"))
      return true;
  return false;
}

static void killed_at_random_moments(void **state)
{
  (void)state;
  const char *asked = getenv("KILLS");
  int kills = asked ? atoi(asked) : 50, killed = 0, writing = 0, completed = 0;
  put_config("whole", STEPS);
  put_config("killed", STEPS);
  double began = seconds();
  assert_int_equal(spawn_wait(start_or_resume("whole")), 0);
  double whole = seconds() - began;
  srand(12345);
  while (killed < kills || !exists_below("killed", "config.yaml")) {
    pid_t pid = start_or_resume("killed");
    double random = (double)rand() / RAND_MAX;
    bool at_once = killed % 3 == 0 && while_writing("killed", whole);
    if (at_once && killed % 2)
      wait_seconds(random * 5e-4);
    else if (!at_once)
      wait_seconds(random * whole * 0.7);
    (void)kill(pid, SIGKILL);
    int status = spawn_wait(pid);
    check_latest("killed");
    if (status == 128 + SIGKILL) {
      killed++;
      writing += exists_below("killed", "checkpoints/writing");
    } else {
      assert_int_equal(status, 0);
      check_same_run("whole", "killed");
      remove_run("killed");
      completed++;
    }
  }
  assert_int_equal(spawn_wait(start_or_resume("killed")), 0);
  check_same_run("whole", "killed");
  print_message("%d kills, %d of them while a checkpoint was written; %d runs compared\n", killed,
                writing, completed + 1);
  assert_true(writing > 0);
}

static void interrupted_run_goes_on(void **state)
{
  (void)state;
  put_config("whole", 10 * STEPS);
  put_config("stopped", 10 * STEPS);
  assert_int_equal(spawn_wait(start_or_resume("whole")), 0);
  pid_t pid = start_or_resume("stopped");
  while (!exists_below("stopped", "metrics.jsonl"))
    wait_seconds(1e-3);
  (void)kill(pid, SIGINT);
  assert_int_equal(spawn_wait(pid), 130);
  char *text;
  size_t n;
  check_ok(file_read(scratch("stopped.log"), &text, &n));
  assert_non_null(strstr(text, "checkpoint written; go on with: "));
  assert_non_null(strstr(text, "/train --resume "));
  free(text);
  check_latest("stopped");
  assert_int_equal(spawn_wait(start_or_resume("stopped")), 0);
  check_same_run("whole", "stopped");
}

static int checkpoints_of(const char *run)
{
  int count = 0;
  for (int step = 0; step <= 60; step++) {
    char name[64];
    (void)snprintf(name, sizeof name, "checkpoints/step-%08d", step);
    count += exists_below(run, name);
  }
  return count;
}

static void keeps_the_newest_and_the_best(void **state)
{
  (void)state;
  struct spawned r;
  put_config("a", STEPS);
  SPAWN(&r, "train", scratch("a.yaml"));
  check_spawned(&r, 0, "60 steps done");
  assert_true(exists_below("a", "checkpoints/step-00000060"));
  assert_true(exists_below("a", "checkpoints/step-00000057"));
  assert_true(exists_below("a", "best/model.safetensors"));
  assert_in_range(checkpoints_of("a"), 2, 3); /* the best may be among the newest */
  assert_true(exists_below("a", "metrics.jsonl"));
}

/* Of steps that are made anew nothing is known, `best` included. */
static void going_back_forgets_the_best(void **state)
{
  (void)state;
  struct spawned r;
  struct stat st;
  put_config("a", 12);
  SPAWN(&r, "train", scratch("a.yaml"), "train.keep=all");
  check_spawned(&r, 0, "12 steps done");
  assert_true(exists_below("a", "best/model.safetensors"));
  assert_int_equal(unlink(scratch("a/latest")), 0);
  assert_int_equal(symlink("checkpoints/step-00000003", scratch("a/latest")), 0);
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=6", "train.evaluate_every=0");
  check_spawned(&r, 0, "6 steps done");
  assert_int_not_equal(lstat(scratch("a/best"), &st), 0);
}

/* A run is replaced only when asked, and what is no run never. */
static void nothing_is_overwritten_unasked(void **state)
{
  (void)state;
  struct spawned r;
  put_config("a", STEPS);
  SPAWN(&r, "train", scratch("a.yaml"), "train.steps=1");
  check_spawned(&r, 0, "1 steps done");
  SPAWN(&r, "train", scratch("a.yaml"), "train.steps=2");
  check_spawned(&r, 2, "this run exists; go on with --resume");
  SPAWN(&r, "train", scratch("a.yaml"), "train.steps=2", "--overwrite");
  check_spawned(&r, 0, "2 steps done");
  assert_false(exists_below("a", "checkpoints/step-00000001"));

  check_ok(directory_make(scratch("precious")));
  scratch_put("precious/config.yaml", "mine\n", 5);
  scratch_put("precious/thesis.tex", "text\n", 5);
  SPAWN(&r, "train", scratch("a.yaml"), "name=precious", "--overwrite");
  check_spawned(&r, 2, "is not a run");
  assert_true(scratch_has("precious/thesis.tex", "text\n"));
  SPAWN(&r, "train", scratch("a.yaml"), "name=precious");
  check_spawned(&r, 2, "is not a run");
  assert_true(scratch_has("precious/config.yaml", "mine\n"));
}

static void resuming_before_a_checkpoint_is_starting(void **state)
{
  (void)state;
  struct spawned r;
  put_config("a", STEPS);
  put_config("b", STEPS);
  SPAWN(&r, "train", scratch("a.yaml"));
  check_spawned(&r, 0, "done");
  SPAWN(&r, "train", scratch("b.yaml"));
  check_spawned(&r, 0, "done");
  assert_int_equal(unlink(scratch("b/latest")), 0);
  SPAWN(&r, "train", "--resume", scratch("b"));
  check_spawned(&r, 0, "done");
  check_same_run("a", "b");
  SPAWN(&r, "train", "--resume", scratch("nowhere"));
  check_spawned(&r, 3, "nowhere");
}

static void a_damaged_checkpoint_names_the_one_before(void **state)
{
  (void)state;
  static const char *const files[] = {"a/latest/optimizer.safetensors", "a/latest/trainer.json"};
  struct spawned r;
  char command[600];
  put_config("a", STEPS);
  for (int i = 0; i < 2; i++) {
    SPAWN(&r, "train", scratch("a.yaml"), "train.keep=2", "--overwrite");
    check_spawned(&r, 0, "done");
    SPAWN(&r, "train", "--resume", scratch("a"), "model.d_model=24");
    check_spawned(&r, 3, "has shape"); /* nothing is damaged, and nothing to go back to */
    assert_null(strstr(r.output, "ln -sfn"));
    assert_int_equal(truncate(scratch(files[i]), 10), 0);
    SPAWN(&r, "train", "--resume", scratch("a"));
    check_spawned(&r, 3, files[i] + strlen("a/latest/"));
    const char *hint = strstr(r.output, "ln -sfn checkpoints/step-");
    assert_non_null(hint);
    (void)snprintf(command, sizeof command, "%.*s", (int)strcspn(hint, "\n"), hint);
    assert_int_equal(system(command), 0); /* as the user would */
    SPAWN(&r, "train", "--resume", scratch("a"));
    check_spawned(&r, 0, "done");
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(killed_at_random_moments),
      TEST(interrupted_run_goes_on),
      TEST(keeps_the_newest_and_the_best),
      TEST(going_back_forgets_the_best),
      TEST(nothing_is_overwritten_unasked),
      TEST(resuming_before_a_checkpoint_is_starting),
      TEST(a_damaged_checkpoint_names_the_one_before),
  };
  /* a kill leaves the same files in memory as on a disk, and flushes take no time there */
  if (!access("/dev/shm", W_OK))
    (void)setenv("TMPDIR", "/dev/shm", 0);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
