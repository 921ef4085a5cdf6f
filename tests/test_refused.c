/* test_refused.c: input written at midnight, or damaged: a message that names it, and the exit
 * status of README; never a crash. */
#include "core/files.h"
#include "core/safetensors.h"
#include "tests/spawn.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

static const char recipe[] =
    "device: cpu\n"
    "model: {kind: implicit, d_model: 8, mamba2: {d_state: 4, expand: 2, headdim: 4}}\n"
    "data: {task: word_problem, group: S3, length: 4}\n"
    "train: {steps: 1, unroll_steps: 10, batch_size: 2, log_every: 1}\n"
    "evaluate: {sequences: 2, lengths: [4]}\n";

/* a.yaml: the recipe of a run named `a`. */
static void put_recipe(void)
{
  char yaml[1024];
  int n = snprintf(yaml, sizeof yaml, "name: a\nruns_dir: %s\n%s", scratch(""), recipe);
  scratch_put("a.yaml", yaml, (size_t)n);
}

/* The run, of one step. */
static void make_run(void)
{
  struct spawned r;
  put_recipe();
  SPAWN(&r, "train", scratch("a.yaml"));
  check_spawned(&r, 0, "1 steps done");
}

/* ---- configurations ---- */

static void refused_config(const char *text, size_t n, int status, const char *message)
{
  struct spawned r;
  scratch_put("bad.yaml", text, n);
  SPAWN(&r, "train", scratch("bad.yaml"));
  check_spawned(&r, status, message);
  SPAWN(&r, "evaluate", scratch("bad.yaml"));
  assert_in_range(r.status, 2, 3);
}

static void configurations(void **state)
{
  (void)state;
  static const char *const cases[][2] = {
      {"", "missing key 'name'"},
      {"name: x\nmodel: {kind: implicit}\ndata: {task: word_problem}\ntrain: {step: 1}\n",
       "bad.yaml:4:9: "},
      {"name: x\nname: y\nmodel: {kind: implicit}\ndata: {task: word_problem}\n", "bad.yaml:2:"},
      {"name: x\nmodel: {kind: implicit}\ndata: {task: word_problem}\ntrain: {lr: fast}\n",
       "bad.yaml:4:"},
      {"name: x\nmodel: {kind: implicit}\ndata: {task: word_problem, length: 0}\n", "bad.yaml:3:"},
      {"include: [bad.yaml]\nname: x\n", "include each other"},
      {"name: x\nmodel: {kind: implicit, norm_eps: 1e-50}\ndata: {task: word_problem}\n",
       "bad.yaml:2:"},
      {"name: x\nmodel: {kind: implicit, mamba2: {dt_limit: [1e300, .inf]}}\n"
       "data: {task: word_problem}\n",
       "dt_limit: no float32 reaches the lower limit, 1e+300"},
      {"name: x\nmodel: {kind: implicit, mamba2: {headdim: 48}}\ndata: {task: word_problem}\n",
       "headdim 48 does not divide"},
      {"name: x\nmodel: {kind: implicit}\ndata: {task: word_problem, group: S7}\n", "S7"},
      {"name: x\nmodel: {kind: implicit}\ndata: {task: word_problem, length: 4, length_min: 5}\n",
       "length_min 5 is larger than data.length 4"},
      {"name: x\nmodel: {kind: implicit}\ndata: {task: word_problem}\n"
       "train: {curriculum_steps: 3, curriculum_length: 17}\n",
       "curriculum_length 17 is larger than data.length 16"},
      {"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "bad.yaml:1:"},
      {"name: \"x\n", "bad.yaml:"},
      {"%YAML 9.9\n---\n", "bad.yaml:"},
      {"\xff\xfe\x00\x01", "bad.yaml"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    refused_config(cases[i][0], strlen(cases[i][0]), 2, cases[i][1]);
}

static void large_configurations(void **state)
{
  (void)state;
  enum { LONG = 10 * 1024 * 1024, DEEP = 100000 };
  char *text = malloc(LONG);
  assert_non_null(text);
  memset(text, 'x', LONG);
  refused_config(text, LONG, 2, "bad.yaml:1:");
  memset(text, '[', DEEP);
  refused_config(text, DEEP, 2, "bad.yaml:1:");
  memset(text, '{', DEEP);
  refused_config(text, DEEP, 2, "bad.yaml:1:");
  free(text);
}

/* ---- checkpoints ---- */

/* File `name` of the last checkpoint becomes these bytes; the old ones come back by put_back. */
static char *kept;
static size_t kept_bytes;

static void damage(const char *name, const void *bytes, size_t n)
{
  char path[128];
  (void)snprintf(path, sizeof path, "a/latest/%s", name);
  check_ok(file_read(scratch(path), &kept, &kept_bytes));
  scratch_put(path, bytes, n);
}

static void put_back(const char *name)
{
  char path[128];
  (void)snprintf(path, sizeof path, "a/latest/%s", name);
  scratch_put(path, kept, kept_bytes);
  free(kept);
}

static void refused_checkpoint(bool evaluates, const char *message)
{
  struct spawned r;
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2");
  check_spawned(&r, 3, message);
  if (evaluates) {
    SPAWN(&r, "evaluate", scratch("a"));
    check_spawned(&r, 3, message);
  }
}

static void checkpoints_of_another_model(void **state)
{
  (void)state;
  struct spawned r;
  make_run();
  SPAWN(&r, "evaluate", scratch("a"), "model.d_model=16");
  check_spawned(&r, 3, "word_emb.emb.weight has shape (6,8), the model's is (6,16)");
  SPAWN(&r, "evaluate", scratch("a"), "model.n_layer=2");
  check_spawned(&r, 3, "no tensor backbone.layers.1.");
  SPAWN(&r, "evaluate", scratch("a"), "model.kind=explicit");
  check_spawned(&r, 3, "tensors; the model has");
  SPAWN(&r, "evaluate", scratch("a"), "model.weight_norm=true");
  check_spawned(&r, 3, "weight_g");
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2", "data.group=A5");
  check_spawned(&r, 3, "word_emb.emb.weight has shape (6,8), the model's is (60,8)");
  SPAWN(&r, "evaluate", scratch("a"), "dtype=f64"); /* float32 values are float64 values */
  check_spawned(&r, 0, "sequential");
}

/* What is refused leaves the run as it was: it can be gone on with. */
static void refusals_change_nothing(void **state)
{
  (void)state;
  struct spawned r;
  char *before, *after;
  size_t bytes, bytes_after;
  make_run();
  check_ok(file_read(scratch("a/config.yaml"), &before, &bytes));
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2", "model.d_model=16");
  check_spawned(&r, 3, "word_emb.emb.weight has shape (6,8), the model's is (6,16)");
  check_ok(file_read(scratch("a/config.yaml"), &after, &bytes_after));
  assert_int_equal(bytes, bytes_after);
  assert_memory_equal(before, after, bytes);
  free(before), free(after);
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2", "train.keep=2");
  check_spawned(&r, 0, "2 steps done");
  SPAWN(&r, "train", "--resume", scratch("a/checkpoints/step-00000001"), "train.steps=3");
  check_spawned(&r, 2, "is not the run's latest checkpoint");
  SPAWN(&r, "train", "--resume", scratch("a/latest"), "train.steps=3");
  check_spawned(&r, 0, "3 steps done");
}

/* A run whose `latest` is wrong is not begun anew, which would cost its checkpoints. */
static void latest_that_leads_nowhere(void **state)
{
  (void)state;
  struct spawned r;
  char link[600];
  make_run();
  (void)snprintf(link, sizeof link, "%s", scratch("a/latest"));
  assert_int_equal(unlink(link), 0);
  assert_int_equal(symlink("checkpoints/step-00000007", link), 0);
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2");
  check_spawned(&r, 3,
                "points to checkpoints/step-00000007, which is no checkpoint; to go on from "
                "the newest: ln -sfn checkpoints/step-00000001 ");
  assert_true(path_is_directory(scratch("a/checkpoints/step-00000001")));
  assert_int_equal(unlink(link), 0); /* as in a copy without links */
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2");
  check_spawned(&r, 0, "latest, step 1");
}

/* An evaluation that is not a number is no best one, and leaves no checkpoint behind. */
static void evaluations_that_are_not_finite(void **state)
{
  (void)state;
  struct spawned r;
  put_recipe();
  SPAWN(&r, "train", scratch("a.yaml"), "model.kind=explicit", "train.steps=3", "train.lr=1e19",
        "train.lr_warmup=0", "train.schedule=constant", "train.evaluate_every=1");
  check_spawned(&r, 1, "evaluated: loss nan");
  assert_false(path_exists(scratch("a/best")) || path_exists(scratch("a/latest")));
}

/* Of solves that are not finite neither: what they leave is no answer.  Nor is it one elsewhere. */
static void evaluations_whose_solves_break(void **state)
{
  (void)state;
  struct spawned r;
  char *metrics;
  size_t n;
  put_recipe();
  SPAWN(&r, "train", scratch("a.yaml"), "train.lr=1e30", "train.lr_warmup=0",
        "train.evaluate_every=1");
  check_spawned(&r, 0, "8 of 8 solves of its evaluation were not finite");
  assert_false(path_exists(scratch("a/best")));
  check_ok(file_read(scratch("a/metrics.jsonl"), &metrics, &n));
  assert_non_null(strstr(metrics, "\"eval_loss\": null"));
  free(metrics);
  SPAWN(&r, "evaluate", scratch("a"));
  check_spawned(&r, 1, "sequential, length 4: the solves were not finite");
  SPAWN(&r, "compare", scratch("a"), "--output", scratch("c"));
  check_spawned(&r, 1, "1 of 1 runs have answers that are not finite");
  assert_non_null(strstr(r.output, "sequential, length 4: the solves were not finite"));
  assert_non_null(strstr(r.output, "Some of its solves were not finite"));
  assert_null(strstr(r.output, "nan"));
}

/* The checkpoint before is the last good one, and stays. */
static void updates_that_are_not_finite(void **state)
{
  (void)state;
  struct spawned r;
  put_recipe();
  SPAWN(&r, "train", scratch("a.yaml"), "train.steps=2", "train.checkpoint_every=1",
        "train.keep=1");
  check_spawned(&r, 0, "2 steps done");
  SPAWN(&r, "train", "--resume", scratch("a"), "train.lr=1e308", "train.steps=4");
  check_spawned(&r, 1, "step 3: not finite after its update");
  assert_non_null(strstr(r.output, "a/checkpoints/step-00000002"));
  SPAWN(&r, "train", "--resume", scratch("a"), "train.lr=1e-3", "train.steps=4");
  check_spawned(&r, 0, "4 steps done");
}

/* Steps may be skipped, but not the last. */
static void steps_that_are_not_finite(void **state)
{
  (void)state;
  struct spawned r;
  put_recipe();
  SPAWN(&r, "train", scratch("a.yaml"), "model.kind=explicit", "train.steps=3", "train.lr=1e30",
        "train.lr_warmup=0", "train.schedule=constant", "train.skip_nonfinite=true");
  check_spawned(&r, 1, "the last step was not finite; 2 of 3 were skipped");
}

/* A tensor of whole numbers where reals are needed. */
static void checkpoints_of_another_dtype(void **state)
{
  (void)state;
  struct safetensors file;
  make_run();
  check_ok(safetensors_read(scratch("a/latest/model.safetensors"), &file));
  damage("model.safetensors", "", 0);
  file.tensor[1].dtype = ST_I32;
  check_ok(safetensors_write(scratch("a/latest/model.safetensors"), file.tensor, file.tensors));
  refused_checkpoint(true, "F32 or F64 is needed");
  safetensors_free(&file);
  put_back("model.safetensors");
}

static void damaged_checkpoints(void **state)
{
  (void)state;
  static const char *const states[][2] = {
      {"", "trainer.json"},
      {"{", "trainer.json"},
      {"[1]", "not a JSON object"},
      {"{\"step\": -1}", "no \"step\" that is a count"},
      {"{\"step\": 1.5}", "no \"step\" that is a count"},
      {"{\"step\": 99999999999999999999}", "trainer.json"},
      {"{\"step\": 1, \"step\": 2}", "trainer.json"},
      {"{\"step\": 1, \"loss_mean\": \"x\"}", "\"loss_mean\" is not a number"},
      {"{\"step\": 1, \"tokens\": null}", "no \"tokens\" that is a count"},
  };
  make_run();
  for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
    damage("trainer.json", states[i][0], strlen(states[i][0]));
    refused_checkpoint(false, states[i][1]);
    put_back("trainer.json");
  }
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors"};
  for (int f = 0; f < 2; f++) {
    char path[128];
    char *whole;
    size_t n;
    (void)snprintf(path, sizeof path, "a/latest/%s", files[f]);
    check_ok(file_read(scratch(path), &whole, &n));
    size_t sizes[] = {0, 7, 8, 100, n / 2, n - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
      damage(files[f], whole, sizes[i]);
      refused_checkpoint(f == 0, files[f]);
      put_back(files[f]);
    }
    free(whole);
    check_ok(file_read(scratch(path), &whole, &n));
    assert_int_equal(unlink(scratch(path)), 0);
    refused_checkpoint(false, files[f]);
    scratch_put(path, whole, n);
    free(whole);
  }
  struct spawned r;
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2");
  check_spawned(&r, 0, "2 steps done");
}

/* metrics.jsonl that a power loss tore is mended; one that is broken in the middle is refused. */
/* What is no checkpoint of ours, or no run, is neither removed nor in the way. */
static void names_that_are_not_ours(void **state)
{
  (void)state;
  struct spawned r;
  make_run();
  check_ok(directory_make(scratch("a/checkpoints/step-99")));
  SPAWN(&r, "train", "--resume", scratch("a"), "train.steps=2");
  check_spawned(&r, 0, "2 steps done");
  assert_true(path_is_directory(scratch("a/checkpoints/step-99")));
  SPAWN(&r, "train", scratch("a.yaml"), "name=a.removing");
  check_spawned(&r, 2, "name 'a.removing': so a run is called while it is removed");
}

static void damaged_metrics(void **state)
{
  (void)state;
  struct spawned r;
  char *text;
  size_t n;
  make_run();
  check_ok(file_read(scratch("a/metrics.jsonl"), &text, &n));
  char *torn = malloc(2 * n + 16);
  assert_non_null(torn);
  int length = sprintf(torn, "%s{\"step\": 7, \"lo", text);
  scratch_put("a/metrics.jsonl", torn, (size_t)length);
  SPAWN(&r, "train", "--resume", scratch("a"));
  check_spawned(&r, 0, "1 steps done");
  assert_true(scratch_has("a/metrics.jsonl", text));
  length = sprintf(torn, "broken\n%s", text);
  scratch_put("a/metrics.jsonl", torn, (size_t)length);
  SPAWN(&r, "train", "--resume", scratch("a"), "train.lr=7.5");
  check_spawned(&r, 3, "metrics.jsonl:1: not a JSON object");
  free(text);
  check_ok(file_read(scratch("a/config.yaml"), &text, &n)); /* is as it was */
  assert_null(strstr(text, "7.5"));
  free(text), free(torn);
}

static void command_lines(void **state)
{
  (void)state;
  struct spawned r;
  SPAWN(&r, "train", "--speed");
  check_spawned(&r, 2, "unknown option --speed");
  SPAWN(&r, "train", "--overwrite");
  check_spawned(&r, 2, "usage: train");
  SPAWN(&r, "train", scratch("nowhere.yaml"));
  check_spawned(&r, 3, "nowhere.yaml");
  scratch_put("a.yaml", recipe, sizeof recipe - 1);
  SPAWN(&r, "train", scratch("a.yaml"), "train.stps=1");
  check_spawned(&r, 2, "train.steps");
  SPAWN(&r, "train", scratch("a.yaml"), "name=../escape");
  check_spawned(&r, 2, "name '../escape'");
  SPAWN(&r, "train", "--help");
  check_spawned(&r, 0, "--resume");
  SPAWN(&r, "train", "--keys");
  check_spawned(&r, 0, "train.skip_nonfinite");
}

/* Who reads may leave, but a full disk is told. */
static void output_that_nobody_takes(void **state)
{
  (void)state;
  const char *const words[] = {"--keys", NULL};
  char pipe[512], byte;
  (void)snprintf(pipe, sizeof pipe, "%s", scratch("pipe"));
  assert_int_equal(mkfifo(pipe, 0600), 0);
  pid_t pid = spawn_start("train", pipe, words);
  int fd = open(pipe, O_RDONLY);
  assert_true(fd >= 0 && read(fd, &byte, 1) == 1);
  assert_int_equal(close(fd), 0);
  assert_int_equal(spawn_wait(pid), 0);
  if (path_exists("/dev/full"))
    assert_int_equal(spawn_wait(spawn_start("train", "/dev/full", words)), 3);
}

/* One file or run by two names. */
/* Where results cannot go is said before there are any. */
static void places_of_results(void **state)
{
  (void)state;
  struct spawned r;
  char nowhere[4096];
  (void)snprintf(nowhere, sizeof nowhere, "%s", scratch("none/x"));
  make_run();
  SPAWN(&r, "evaluate", scratch("a"), "--json", nowhere);
  check_spawned(&r, 3, "none/x: cannot create: ");
  assert_null(strstr(r.output, "sequential"));
  SPAWN(&r, "bench", "train", scratch("a.yaml"), "--json", nowhere);
  check_spawned(&r, 3, "none/x: cannot create: ");
  assert_null(strstr(r.output, "tokens/s"));
  SPAWN(&r, "jacobian_check", scratch("a.yaml"), "--save", nowhere);
  check_spawned(&r, 3, "none/x: cannot create: ");
  assert_null(strstr(r.output, "error"));
  SPAWN(&r, "compare", scratch("a"), "--json", nowhere);
  check_spawned(&r, 3, "none/x: cannot create: ");
  SPAWN(&r, "compare", scratch("a"), "--json", scratch("new/x.json"), "--output", scratch("new"));
  check_spawned(&r, 0, "report");
  assert_true(path_exists(scratch("new/x.json")));
}

static void the_same_twice(void **state)
{
  (void)state;
  struct spawned r;
  make_run();
  scratch_put("in", "tokens", 6);
  assert_int_equal(symlink("in", scratch("out")), 0);
  SPAWN(&r, "evaluate", scratch("a"), "--tokens", scratch("in"), "--logits", scratch("out"));
  check_spawned(&r, 2, "would be written over; it holds the tokens");
  SPAWN(&r, "evaluate", scratch("a"), "--tokens", scratch("in"), "--logits", scratch("x"),
        "--gradients", scratch("./x"));
  check_spawned(&r, 2, "need a file each");
  SPAWN(&r, "jacobian_check", "--json", scratch("x"), "--save", scratch("./x"));
  check_spawned(&r, 2, "need a file each");
  SPAWN(&r, "compare", scratch("a"), scratch("a/"), "--output", scratch("c"));
  check_spawned(&r, 0, "which stands here twice");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(configurations),
      TEST(large_configurations),
      TEST(damaged_checkpoints),
      TEST(checkpoints_of_another_model),
      TEST(names_that_are_not_ours),
      TEST(damaged_metrics),
      TEST(checkpoints_of_another_dtype),
      TEST(command_lines),
      TEST(places_of_results),
      TEST(the_same_twice),
      TEST(refusals_change_nothing),
      TEST(latest_that_leads_nowhere),
      TEST(output_that_nobody_takes),
      TEST(evaluations_that_are_not_finite),
      TEST(evaluations_whose_solves_break),
      TEST(updates_that_are_not_finite),
      TEST(steps_that_are_not_finite),
  };
  if (!access("/dev/shm", W_OK)) /* flushes take no time there */
    (void)setenv("TMPDIR", "/dev/shm", 0);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
