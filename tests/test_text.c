/* test_text.c: texts as a task: which bytes are trained on, and what a user sees. */
#include "core/data.h"
#include "core/files.h"
#include "tests/spawn.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

static const char recipe[] =
    "name: run\ndevice: cpu\n"
    "model: {kind: implicit, d_model: 8, mamba2: {d_state: 4, expand: 2, headdim: 4}}\n"
    "deq: {evaluate: {max_iter: 50}}\n"
    "data:\n  task: text\n  path: corpus\n  length: 16\n"
    "train: {steps: 6, unroll_steps: 3, batch_size: 2, log_every: 1, checkpoint_every: 3,\n"
    "  evaluate_every: 3, log_timing: false}\n"
    "evaluate: {sequences: 4, lengths: [8, 16]}\n";

static void put_recipe(void) { scratch_put("recipe.yaml", recipe, sizeof recipe - 1); }

static void put_text(const char *name, int bytes)
{
  char *text = malloc((size_t)bytes);
  assert_non_null(text);
  for (int i = 0; i < bytes; i++)
    text[i] = "the quick brown fox jumps over the lazy dog.\n"[i * i / 3 % 45];
  scratch_put(name, text, (size_t)bytes);
  free(text);
}

static struct data_config config_of(const char *name, double fraction)
{
  struct data_config c = {.task = TASK_TEXT, .validation_fraction = fraction};
  (void)snprintf(c.path, sizeof c.path, "%s", scratch(name));
  (void)snprintf(c.path_given, sizeof c.path_given, "f.yaml:7:3");
  return c;
}

/* ---- windows ---- */

enum { TRAINING = 120, VALIDATION = 40, LENGTH = 7, WINDOWS = 2000 };

/* Bytes that tell their place: its number below TRAINING, and behind it 128 more. */
static struct data_config two_parts(void)
{
  unsigned char text[TRAINING + VALIDATION];
  for (int i = 0; i < TRAINING + VALIDATION; i++)
    text[i] = (unsigned char)(i < TRAINING ? i : i - TRAINING + 128);
  scratch_put("two", text, sizeof text);
  return config_of("two", 0.25);
}

/* Windows of consecutive bytes, all inside first..last, every place taken. */
static void check_windows(const struct task_data *d, enum philox_stream stream, int first, int last)
{
  static int32_t tokens[WINDOWS * LENGTH], targets[WINDOWS * LENGTH];
  int seen[256] = {0}, places = last - first + 1 - LENGTH;
  check_ok(data_require(d, stream, LENGTH, "data.length"));
  data_batch(d, 3, stream, 5, 0, WINDOWS, LENGTH, tokens, targets);
  for (int w = 0; w < WINDOWS; w++) {
    int begin = tokens[w * LENGTH];
    assert_in_range(begin, first, last - LENGTH);
    for (int i = 0; i < LENGTH; i++) {
      assert_int_equal(tokens[w * LENGTH + i], begin + i);
      assert_int_equal(targets[w * LENGTH + i], begin + i + 1);
    }
    seen[begin]++;
  }
  for (int i = 0; i < places; i++) /* uniform: mean 17.5 or 60, far more than 0 */
    assert_true(seen[first + i] > 0 && seen[first + i] < 4 * WINDOWS / places);
}

static void parts_do_not_overlap(void **state)
{
  (void)state;
  struct data_config c = two_parts();
  struct task_data d;
  int64_t vocabulary;
  check_ok(data_vocabulary(&c, &vocabulary));
  assert_int_equal(vocabulary, 256);
  check_ok(data_open(&c, &d));
  check_windows(&d, STREAM_TRAIN, 0, TRAINING - 1);
  check_windows(&d, STREAM_EVALUATE, 128, 128 + VALIDATION - 1);
  data_close(&d);
}

/* A batch is a function of seed, stream, step and sequence, whatever was drawn before. */
static void any_step_can_be_replayed(void **state)
{
  (void)state;
  struct data_config c = two_parts();
  struct task_data d;
  int32_t all[2][8 * LENGTH], part[2][3 * LENGTH], other[2][8 * LENGTH];
  check_ok(data_open(&c, &d));
  data_batch(&d, 3, STREAM_TRAIN, 5, 0, 8, LENGTH, all[0], all[1]);
  data_batch(&d, 3, STREAM_TRAIN, 6, 0, 8, LENGTH, other[0], other[1]);
  assert_memory_not_equal(all[0], other[0], sizeof all[0]);
  data_batch(&d, 4, STREAM_TRAIN, 5, 0, 8, LENGTH, other[0], other[1]);
  assert_memory_not_equal(all[0], other[0], sizeof all[0]);
  data_batch(&d, 3, STREAM_TRAIN, 5, 4, 3, LENGTH, part[0], part[1]);
  assert_memory_equal(part[0], all[0] + 4 * LENGTH, sizeof part[0]);
  assert_memory_equal(part[1], all[1] + 4 * LENGTH, sizeof part[1]);
  data_close(&d);
}

/* The longest window that a part holds is that part. */
static void whole_part(void **state)
{
  (void)state;
  struct data_config c = two_parts();
  struct task_data d;
  int32_t tokens[VALIDATION - 1], targets[VALIDATION - 1];
  check_ok(data_open(&c, &d));
  check_ok(data_require(&d, STREAM_EVALUATE, VALIDATION - 1, "evaluate.lengths"));
  data_batch(&d, 0, STREAM_EVALUATE, 0, 0, 1, VALIDATION - 1, tokens, targets);
  assert_true(tokens[0] == 128 && targets[VALIDATION - 2] == 128 + VALIDATION - 1);
  check_fails(data_require(&d, STREAM_EVALUATE, VALIDATION, "evaluate.lengths"), ERR_USAGE,
              "bytes; evaluate.lengths of 40 needs at least 41");
  check_fails(data_require(&d, STREAM_TRAIN, TRAINING, "data.length"), ERR_USAGE,
              "f.yaml:7:3: data.path: the training part of ");
  data_close(&d);
}

/* Names by their bytes, folder by folder; no link is followed. */
static void folders_are_joined_in_order(void **state)
{
  (void)state;
  assert_int_equal(mkdir(scratch("in"), 0777), 0);
  assert_int_equal(mkdir(scratch("in/b"), 0777), 0);
  assert_int_equal(mkdir(scratch("in/empty"), 0777), 0);
  scratch_put("outside", "!!", 2);
  scratch_put("in/c", "five", 4);
  scratch_put("in/a", "one", 3);
  scratch_put("in/B", "zero", 4);
  scratch_put("in/b/z", "four", 4);
  scratch_put("in/b/nothing", "", 0);
  scratch_put("in/b/.hidden", "two", 3);
  scratch_put("in/b.txt", "three", 5);
  assert_int_equal(symlink("..", scratch("in/loop")), 0);
  assert_int_equal(symlink("../outside", scratch("in/link")), 0);
  struct data_config c = config_of("in", 0.1);
  struct text t;
  check_ok(text_open(&c, &t));
  static const char joined[] = "zeroonetwofourthreefive";
  assert_int_equal(t.size, sizeof joined - 1);
  assert_memory_equal(t.bytes, joined, sizeof joined - 1);
  assert_int_equal(t.files, 7);
  assert_int_equal(t.training, sizeof joined - 1 - 2);
  int64_t fingerprint = text_fingerprint(&t);
  text_close(&t);
  scratch_put("in/c", "fiVe", 4);
  check_ok(text_open(&c, &t));
  assert_true(fingerprint > 0 && text_fingerprint(&t) != fingerprint);
  text_close(&t);
}

/* ---- the configuration ---- */

static enum status load(int overrides, const char *const *override, struct config *c)
{
  put_recipe();
  return config_load(scratch("recipe.yaml"), overrides, override, c);
}

static void path_is_relative_to_its_file(void **state)
{
  (void)state;
  struct config c;
  char here[512], want[1024];
  check_ok(load(0, NULL, &c));
  assert_string_equal(c.data.path, scratch("corpus"));
  (void)snprintf(want, sizeof want, "%s:7:3", scratch("recipe.yaml"));
  assert_string_equal(c.data.path_given, want);
  const char *const override[] = {"data.path=a/b.txt"};
  check_ok(load(1, override, &c));
  assert_non_null(getcwd(here, sizeof here));
  (void)snprintf(want, sizeof want, "%s/a/b.txt", here);
  assert_string_equal(c.data.path, want);
  assert_string_equal(c.data.path_given, "command line: data.path=a/b.txt");
}

static void each_task_has_its_keys(void **state)
{
  (void)state;
  struct config c;
  const char *const group[] = {"data.group=A5"}, *const task[] = {"data.task=word_problem"};
  const char *const late[] = {"data.task=word_problem", "data.validation_fraction=0.5"};
  check_fails(load(1, group, &c), ERR_USAGE,
              "command line: data.group=A5: data.group is not a key of data.task: text");
  check_fails(load(2, late, &c), ERR_USAGE,
              "data.validation_fraction is not a key of data.task: word_problem");
  check_ok(load(1, task, &c)); /* the task was chosen after the file gave its path */
  assert_string_equal(c.data.path, "");
  check_fails(
      config_parse("f.yaml", "name: n\nmodel: {kind: explicit}\ndata: {task: text}\n", 51, &c),
      ERR_USAGE, "f.yaml:1:1: missing key 'data.path'");
}

/* What is written holds the keys of its task only, and reads back. */
static void written_and_read_back(void **state)
{
  (void)state;
  struct config c, back;
  char *text = NULL;
  size_t bytes = 0;
  check_ok(load(0, NULL, &c));
  FILE *out = open_memstream(&text, &bytes);
  assert_non_null(out);
  check_ok(config_write(&c, out));
  assert_int_equal(fclose(out), 0);
  assert_null(strstr(text, "\n  group:"));
  assert_non_null(strstr(text, "validation_fraction: 0.1"));
  check_ok(config_parse("elsewhere/written.yaml", text, bytes, &back));
  memcpy(back.data.path_given, c.data.path_given, sizeof c.data.path_given);
  assert_memory_equal(&c, &back, sizeof c);
  free(text);
}

/* ---- training and evaluating ---- */

static void check_train(int status, const char *text, const char *const *more)
{
  struct spawned r;
  const char *words[16] = {scratch("recipe.yaml")};
  char runs[600];
  int n = 1;
  (void)snprintf(runs, sizeof runs, "runs_dir=%s", scratch("runs"));
  words[n++] = runs;
  while (*more)
    words[n++] = *more++;
  spawn_run("train", words, &r);
  check_spawned(&r, status, text);
}
#define TRAIN(status, text, ...) check_train(status, text, (const char *const[]){__VA_ARGS__, NULL})

static void faults_name_their_place(void **state)
{
  (void)state;
  char want[1200];
  put_recipe();
  (void)snprintf(want, sizeof want, "%s:7:3: %s: cannot open: No such file or directory",
                 scratch("recipe.yaml"), scratch("corpus"));
  TRAIN(3, want, NULL);
  put_text("corpus", 0);
  (void)snprintf(want, sizeof want, "%s:7:3: data.path: %s holds no bytes", scratch("recipe.yaml"),
                 scratch("corpus"));
  TRAIN(2, want, NULL);
  put_text("corpus", 18); /* 16 to train on */
  TRAIN(2, "has 16 bytes; data.length of 16 needs at least 17", NULL);
  put_text("corpus", 50); /* 5 to evaluate on */
  TRAIN(2, "the validation part of", NULL);
  TRAIN(2, "has 5 bytes; train.evaluate_every at data.length of 16 needs at least 17", NULL);
  TRAIN(0, "evaluate will refuse this run:", "train.evaluate_every=0");
  struct spawned r;
  SPAWN(&r, "evaluate", scratch("runs/run"));
  check_spawned(&r, 2, "evaluate.lengths of 8 needs at least 9");
}

static double number_of(const json_t *object, const char *key)
{
  const json_t *value = json_object_get(object, key);
  if (!json_is_number(value))
    fail_msg("no number \"%s\"", key);
  return json_number_value(value);
}

/* Bits are nats over log 2, in the metrics, the table and its JSON. */
static void bits_per_byte(void **state)
{
  (void)state;
  struct spawned r;
  char *text;
  size_t n;
  put_recipe();
  put_text("corpus", 2000);
  TRAIN(0, "6 steps done", NULL);
  check_ok(file_read(scratch("runs/run/metrics.jsonl"), &text, &n));
  int evaluated = 0;
  for (char *rest, *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    json_t *object = json_loads(line, 0, NULL);
    check_close(number_of(object, "bits_per_byte"), number_of(object, "loss") / log(2), 1e-14, "b");
    if (json_object_get(object, "eval_loss")) {
      evaluated++;
      check_close(number_of(object, "eval_bits_per_byte"), number_of(object, "eval_loss") / log(2),
                  1e-14, "b");
    }
    json_decref(object);
  }
  free(text);
  assert_int_equal(evaluated, 2);
  SPAWN(&r, "evaluate", scratch("runs/run"), "--json", scratch("e.json"));
  check_spawned(&r, 0, "bits/byte");
  json_t *root = json_load_file(scratch("e.json"), 0, NULL);
  const json_t *list = json_object_get(json_object_get(root, "modes"), "sequential");
  assert_int_equal(json_array_size(list), 2);
  const json_t *row = json_array_get(list, 1);
  check_close(number_of(row, "bits_per_byte"), number_of(row, "loss") / log(2), 1e-8, "b");
  assert_null(json_object_get(row, "accuracy_group"));
  json_decref(root);
}

/* Stopped at step 3 and resumed: the bytes of a run that was not. */
static void resumed_exactly(void **state)
{
  (void)state;
  static const char *const files[] = {"metrics.jsonl", "latest/model.safetensors",
                                      "latest/optimizer.safetensors", "latest/trainer.json"};
  struct spawned r;
  put_recipe();
  put_text("corpus", 2000);
  TRAIN(0, "6 steps done", "name=whole");
  TRAIN(0, "3 steps done", "name=parts", "train.steps=3", "train.schedule=constant");
  SPAWN(&r, "train", "--resume", scratch("runs/parts"), "train.steps=6", "train.schedule=linear");
  check_spawned(&r, 0, "6 steps done");
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char a[600], b[600];
    (void)snprintf(a, sizeof a, "%s/%s", scratch("runs/whole"), files[i]);
    (void)snprintf(b, sizeof b, "%s/%s", scratch("runs/parts"), files[i]);
    if (!same_files(a, b))
      fail_msg("%s differs between the run in one piece and that in two", files[i]);
  }
  SPAWN(&r, "evaluate", scratch("runs/whole"));
  check_spawned(&r, 0, "bits");
  assert_null(strstr(r.output, "the model has seen"));
  SPAWN(&r, "evaluate", scratch("runs/whole"), "data.validation_fraction=0.5");
  check_spawned(&r, 0, "the validation part holds bytes that the model has seen");
  put_text("corpus", 2001);
  SPAWN(&r, "train", "--resume", scratch("runs/parts"), "train.steps=7");
  check_spawned(&r, 2, "is not the text that");
  SPAWN(&r, "evaluate", scratch("runs/whole"));
  check_spawned(&r, 0, "may hold bytes that the model has seen");
}

/* Whose validation part has evaluate.lengths, and no more. */
static void a_short_text_is_compared(void **state)
{
  (void)state;
  struct spawned r;
  put_recipe();
  put_text("corpus", 200);
  TRAIN(0, "6 steps done", "train.evaluate_every=0");
  SPAWN(&r, "compare", scratch("runs/run"), "--output", scratch("compared"));
  check_spawned(&r, 0, "compare.html");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(parts_do_not_overlap),
      TEST(any_step_can_be_replayed),
      TEST(whole_part),
      TEST(folders_are_joined_in_order),
      TEST(path_is_relative_to_its_file),
      TEST(each_task_has_its_keys),
      TEST(written_and_read_back),
      TEST(faults_name_their_place),
      TEST(bits_per_byte),
      TEST(resumed_exactly),
      TEST(a_short_text_is_compared),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
