/* test_compare.c: runs beside each other: intervals against known ones, what is refused and what is
 * skipped, groups and medians, files, what is kept, and lists that train, whatever kills them. */
#include "core/files.h"
#include "core/flops.h"
#include "core/philox.h"
#include "core/run.h"
#include "core/statistics.h"
#include "core/tensors.h"
#include "tests/spawn.h"
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

/* ---- intervals ---- */

/* Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3. */
static void wilson_is_as_published(void **state)
{
  (void)state;
  static const struct {
    double right, n, low, high;
  } known[] = {{81, 263, 0.2553, 0.3662},
               {15, 148, 0.0624, 0.1605},
               {0, 20, 0, 0.1611},
               {1, 29, 0.0061, 0.1718}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    struct interval w = wilson_interval(known[i].right / known[i].n, known[i].n);
    assert_true(fabs(w.low - known[i].low) < 5.1e-5 && fabs(w.high - known[i].high) < 5.1e-5);
  }
  assert_true(wilson_interval(1, 256).high == 1 && wilson_interval(1, 256).low < 0.99);
}

/* Sequences that are all right or all wrong are a binomial: the interval is Wilson's over the
 * sequences, however many tokens they have. */
static void sequences_are_the_unit(void **state)
{
  (void)state;
  int64_t right[40];
  for (int i = 0; i < 40; i++)
    right[i] = i < 28 ? 10 : 0;
  struct interval got = share_interval(40, right, 10), want = wilson_interval(0.7, 40);
  check_close(got.low, want.low, 1e-12, "low");
  check_close(got.high, want.high, 1e-12, "high");
  for (int i = 0; i < 40; i++)
    right[i] = i < 28;
  got = share_interval(40, right, 1);
  check_close(got.low, want.low, 1e-12, "single tokens: low");
  for (int i = 0; i < 40; i++)
    right[i] = 10;
  got = share_interval(40, right, 10);
  check_close(got.low, wilson_interval(1, 40).low, 1e-12, "all right");
}

static double uniform(uint32_t i, uint32_t j)
{
  uint32_t word[4];
  philox(7, STREAM_TEST, i, j, 0, word);
  return philox_uniform(word[0], word[1]);
}

/* How often the interval holds the true share: independent tokens, and tokens of which those of a
 * sequence are right together with probability 1/2. */
static double coverage(double p, bool together, int64_t sequences, int64_t each)
{
  enum { TIMES = 2000 };
  int64_t right[64], held = 0;
  for (uint32_t t = 0; t < TIMES; t++) {
    for (int64_t s = 0; s < sequences; s++) {
      uint32_t base = (uint32_t)(s * (each + 2));
      bool joint = together && uniform(t, base) < 0.5, all = uniform(t, base + 1) < p;
      right[s] = 0;
      for (int64_t k = 0; k < each; k++)
        right[s] += joint ? all : uniform(t, base + 2 + (uint32_t)k) < p;
    }
    struct interval i = share_interval(sequences, right, each);
    held += i.low <= p && p <= i.high;
  }
  return (double)held / TIMES;
}

static void interval_holds_as_often_as_it_says(void **state)
{
  (void)state;
  assert_in_range((uintmax_t)(1000 * coverage(0.8, false, 64, 10)), 930, 970);
  assert_in_range((uintmax_t)(1000 * coverage(0.8, true, 64, 10)), 925, 970);
  assert_in_range((uintmax_t)(1000 * coverage(0.3, true, 48, 16)), 925, 970);
}

static void quantiles(void **state)
{
  (void)state;
  double x[] = {5, 1, 4, 2, 3}, y[] = {NAN, 4, 1}, none[] = {NAN};
  assert_true(quantile(5, x, 0.95) == 5 && quantile(5, x, 0.5) == 3 && quantile(5, x, 0.2) == 1);
  assert_true(median_of(5, x) == 3 && median_of(3, y) == 2.5);
  assert_true(isnan(median_of(1, none)) && isnan(quantile(0, x, 0.5)));
}

/* ---- work ---- */

static void flops_are_those_of_the_shapes(void **state)
{
  (void)state;
  struct config c;
  static const char yaml[] = "name: a\nmodel: {kind: implicit, d_model: 8, n_layer: 2,\n"
                             "  d_intermediate: 5, mamba2: {d_state: 4, headdim: 4}}\n"
                             "data: {task: word_problem, group: S3}\n";
  check_ok(config_parse("a.yaml", yaml, sizeof yaml - 1, &c));
  check_ok(config_resolve(&c));
  struct model_dims d = model_dims(&c.model);
  assert_true(d.E == 16 && d.H == 4 && d.conv_dim == 24 && d.d_in_proj == 44 && d.F == 5);
  struct token_flops f = token_flops(&c.model);
  double layer = 2 * 8 * 44 + 2 * 4 * 24 + 5 * 16 * 4 + 2 * 16 + 2 * 16 * 8 + 6 * 8 * 5;
  assert_true(f.block == 2 * layer && f.injection == 2 * 8 * 44 && f.head == 2 * 8 * 6);
  struct step_work w = {10, 70, 40, 20, 30};
  assert_true(step_flops(&c.model, &w) ==
              3 * (10 * f.injection + 20 * f.head + 40 * f.block) + 100 * f.block);
}

/* ---- runs ---- */

static const char recipe[] =
    "device: cpu\n"
    "model: {kind: %s, d_model: 8, mamba2: {d_state: 4, expand: 2, headdim: 4}}\n"
    "deq: {evaluate: {max_iter: 40}}\n"
    "data: {task: word_problem, group: %s, length: 6}\n"
    "train: {steps: 30, unroll_steps: 15, batch_size: 4, log_every: 5, checkpoint_every: 5}\n"
    "evaluate: {sequences: 6, lengths: [4, 12]}\n";

static void put_config(const char *name, const char *kind, const char *group)
{
  char yaml[2048], file[64];
  int n = snprintf(yaml, sizeof yaml, "name: %s\nruns_dir: %s\n", name, scratch(""));
  n += snprintf(yaml + n, sizeof yaml - (size_t)n, recipe, kind, group);
  (void)snprintf(file, sizeof file, "%s.yaml", name);
  scratch_put(file, yaml, (size_t)n);
}

/* A trained run; `override` beside the recipe. */
static const char *make_run(const char *name, const char *kind, const char *group,
                            const char *override)
{
  struct spawned r;
  char file[64];
  put_config(name, kind, group);
  (void)snprintf(file, sizeof file, "%s.yaml", name);
  SPAWN(&r, "train", scratch(file), override);
  check_spawned(&r, 0, "steps done");
  return scratch(name);
}

static json_t *load(const char *name)
{
  json_t *root = json_load_file(scratch(name), JSON_REJECT_DUPLICATES, NULL);
  if (!root)
    fail_msg("%s is no JSON", name);
  return root;
}

static const json_t *group_of(const json_t *root, size_t section, size_t group)
{
  const json_t *s = json_array_get(json_object_get(root, "sections"), section);
  const json_t *g = json_array_get(json_object_get(s, "groups"), group);
  assert_non_null(g);
  return g;
}

static double number(const json_t *object, const char *key)
{
  const json_t *v = json_object_get(object, key);
  if (!json_is_number(v))
    fail_msg("%s is no number", key);
  return json_number_value(v);
}

static const char *text(const json_t *object, const char *key)
{
  const char *v = json_string_value(json_object_get(object, key));
  assert_non_null(v);
  return v;
}

static const json_t *rows_of(const json_t *object, const char *mode)
{
  const json_t *rows = json_object_get(json_object_get(object, "modes"), mode);
  assert_int_equal(json_array_size(rows), 2);
  return rows;
}

/* FLOPs of a token of the recipe's explicit model: d_in_proj 44, conv_dim 24. */
static double explicit_token(void)
{
  return 2 * 8 * 44 + 2 * 4 * 24 + 5 * 16 * 4 + 2 * 16 + 2 * 16 * 8 + 2 * 8 * 6;
}

/* What a run's entry holds, for programs that read it. */
static void check_run(const json_t *run, const char *kind)
{
  static const char *const counts[] = {"seed", "layers", "training_length", "step", "tokens"};
  assert_string_equal(text(run, "kind"), kind);
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    assert_true(json_is_integer(json_object_get(run, counts[i])));
  assert_true(number(run, "tokens") == 30 * 4 * 6);
  assert_true(number(run, "flops") > 0 && number(run, "seconds") > 0);
  if (strcmp(kind, "explicit") == 0) /* each token forward and backward, once */
    assert_true(number(run, "flops") == 30 * 4 * 6 * 3.0 * explicit_token());
  assert_true(number(run, "peak_memory") > 1 << 20);
  const json_t *e = json_object_get(run, "evaluation"), *more = json_object_get(e, "closely");
  for (int m = 0; m < 2; m++) {
    const char *mode = m ? "simultaneous" : "sequential";
    const json_t *row = json_array_get(rows_of(e, mode), 1);
    assert_true(number(row, "length") == 12 && number(row, "sequences") == 6);
    const json_t *interval = json_object_get(row, "accuracy_interval");
    assert_true(json_number_value(json_array_get(interval, 0)) <= number(row, "accuracy"));
    assert_true(json_number_value(json_array_get(interval, 1)) >= number(row, "accuracy"));
    const json_t *detail = json_object_get(json_object_get(more, mode), "detail");
    assert_int_equal(json_array_size(json_object_get(detail, "accuracy_by_position")), 12);
    assert_int_equal(json_array_size(json_object_get(detail, "token_types")), 2);
  }
  assert_int_equal(json_array_size(json_object_get(e, "agreement")), 2);
  assert_true(number(more, "decode_tokens_per_second") > 0);
}

/* Tokens of both types are all tokens; the histogram counts every sample; the residual is below the
 * tolerance where everything converged. */
static void check_implicit(const json_t *run)
{
  const json_t *e = json_object_get(run, "evaluation");
  const json_t *mode = json_object_get(json_object_get(e, "closely"), "sequential");
  const json_t *detail = json_object_get(mode, "detail"), *bin;
  const json_t *row = json_array_get(rows_of(e, "sequential"), 1);
  const json_t *types = json_object_get(detail, "token_types");
  double tokens = 0, samples = 0, weighted = 0;
  size_t i;
  for (i = 0; i < 2; i++)
    tokens += number(json_array_get(types, i), "tokens");
  assert_true(tokens == 6 * 12);
  json_array_foreach(json_object_get(detail, "iterations_histogram"), i, bin)
  {
    samples += json_number_value(bin);
    weighted += (double)i * json_number_value(bin);
  }
  assert_true(samples == 6 * 12 && number(row, "samples") == 6 * 12);
  check_close(number(row, "iterations_mean"), weighted / samples, 1e-8, "mean of the histogram");
  assert_true(number(row, "converged") < 1 || number(row, "residual_max") <= 1e-2);
  const json_t *knob = json_object_get(json_object_get(mode, "allowed_iterations"), "points");
  assert_true(json_array_size(knob) > 2);
  assert_true(number(json_array_get(knob, 0), "max_iter") == 1);
  const json_t *solvers = json_object_get(mode, "solvers");
  assert_int_equal(json_array_size(solvers), 3);
  const json_t *picard = json_object_get(json_array_get(solvers, 0), "residual_median");
  size_t last = json_array_size(picard) - 1;
  assert_true(json_number_value(json_array_get(picard, last)) <
              1e-2 * json_number_value(json_array_get(picard, 0)));
  const json_t *jacobian = json_object_get(run, "jacobian");
  assert_string_equal(text(jacobian, "missing"), "");
  assert_true(number(jacobian, "off_diagonal") > 0 && number(jacobian, "off_diagonal") < 1);
}

static int lines_of(const char *name)
{
  char *bytes;
  size_t n;
  int lines = 0;
  check_ok(file_read(scratch(name), &bytes, &n));
  for (size_t i = 0; i < n; i++)
    lines += bytes[i] == '\n';
  free(bytes);
  return lines;
}

static void implicit_and_explicit_side_by_side(void **state)
{
  (void)state;
  struct spawned r;
  char a[512], b[512];
  (void)snprintf(a, sizeof a, "%s", make_run("im", "implicit", "S3", NULL));
  (void)snprintf(b, sizeof b, "%s", make_run("ex", "explicit", "S3", NULL));
  SPAWN(&r, "compare", a, b, "--output", scratch("out"));
  check_spawned(&r, 0, "compare.html");
  json_t *root = load("out/compare.json");
  const json_t *im = group_of(root, 0, 0), *ex = group_of(root, 0, 1);
  assert_string_equal(text(im, "label"), "im");
  assert_string_equal(text(im, "differs"), "model.kind: implicit");
  check_run(json_array_get(json_object_get(im, "runs"), 0), "implicit");
  check_run(json_array_get(json_object_get(ex, "runs"), 0), "explicit");
  check_implicit(json_array_get(json_object_get(im, "runs"), 0));
  const json_t *jacobian =
      json_object_get(json_array_get(json_object_get(ex, "runs"), 0), "jacobian");
  assert_true(number(jacobian, "off_diagonal") == 0); /* one explicit layer is diagonal */
  json_decref(root);
  assert_int_equal(lines_of("out/compare.csv"), 1 + 2 * 2 * 2);
  assert_true(lines_of("out/compare.md") > 10);
}

/* What was measured is kept, until the checkpoint or a setting changes. */
static void measured_once(void **state)
{
  (void)state;
  struct spawned r;
  char a[512];
  (void)snprintf(a, sizeof a, "%s", make_run("a", "explicit", "S3", NULL));
  SPAWN(&r, "compare", a, "--output", scratch("out"));
  check_spawned(&r, 0, "measuring");
  json_t *first = load("out/compare.json");
  SPAWN(&r, "compare", a, "--output", scratch("out"));
  check_spawned(&r, 0, "compare.html");
  assert_null(strstr(r.output, "measuring"));
  json_t *second = load("out/compare.json");
  assert_true(json_equal(first, second));
  json_decref(first);
  json_decref(second);
  SPAWN(&r, "compare", a, "deq.evaluate.tol=1e-3", "--output", scratch("out"));
  check_spawned(&r, 0, "measuring");
  SPAWN(&r, "train", "--resume", a, "train.steps=35");
  check_spawned(&r, 0, "35 steps done");
  SPAWN(&r, "compare", a, "deq.evaluate.tol=1e-3", "--output", scratch("out"));
  check_spawned(&r, 0, "measuring");
  scratch_put("a/measured.json", "{\"key\":", 7); /* torn */
  SPAWN(&r, "compare", a, "--output", scratch("out"));
  check_spawned(&r, 0, "measuring");
}

static void seeds_are_one_model(void **state)
{
  (void)state;
  struct spawned r;
  char dir[3][512];
  for (int s = 0; s < 3; s++) {
    char name[16], seed[16];
    (void)snprintf(name, sizeof name, "m-s%d", 2 - s);
    (void)snprintf(seed, sizeof seed, "seed=%d", 2 - s);
    (void)snprintf(dir[s], sizeof dir[s], "%s", make_run(name, "explicit", "S3", seed));
  }
  SPAWN(&r, "compare", dir[0], dir[1], dir[2], "--output", scratch("out"));
  check_spawned(&r, 0, "median");
  json_t *root = load("out/compare.json");
  const json_t *g = group_of(root, 0, 0), *runs = json_object_get(g, "runs");
  assert_string_equal(text(g, "label"), "m");
  assert_int_equal(json_array_size(runs), 3);
  double loss[3];
  for (size_t i = 0; i < 3; i++) {
    const json_t *run = json_array_get(runs, i);
    assert_true(number(run, "seed") == (double)i);
    const json_t *row =
        json_array_get(rows_of(json_object_get(run, "evaluation"), "sequential"), 1);
    loss[i] = number(row, "loss");
  }
  const json_t *median =
      json_array_get(json_object_get(json_object_get(g, "median"), "sequential"), 1);
  check_close(number(median, "loss"), median_of(3, loss), 1e-12, "median");
  json_decref(root);
}

/* Two states of a run, or a run and its copy, are not two draws of a model. */
static void one_seed_is_one_draw(void **state)
{
  (void)state;
  struct spawned r;
  char a[512], b[512], early[600], last[600];
  (void)snprintf(a, sizeof a, "%s", make_run("a", "explicit", "S3", NULL));
  (void)snprintf(b, sizeof b, "%s", make_run("b", "explicit", "S3", NULL));
  (void)snprintf(early, sizeof early, "%s/checkpoints/step-00000015", a);
  (void)snprintf(last, sizeof last, "%s/latest", a);
  SPAWN(&r, "compare", a, b, early, last, "--output", scratch("out"));
  check_spawned(&r, 0, "latest, which stands here twice");
  json_t *root = load("out/compare.json");
  const char *labels[] = {"a, step 30", "b, step 30", "a, step 15"};
  for (size_t i = 0; i < 3; i++) {
    assert_string_equal(text(group_of(root, 0, i), "label"), labels[i]);
    assert_int_equal(json_array_size(json_object_get(group_of(root, 0, i), "runs")), 1);
  }
  json_decref(root);
}

/* What was measured on a text says nothing of another in its place, nor does one model of the
 * other's. */
static void texts_are_told_apart(void **state)
{
  (void)state;
  enum { LETTERS = 4000 };
  struct spawned r;
  char corpus[LETTERS], dir[2][512], path[600], out[512];
  (void)snprintf(out, sizeof out, "%s", scratch("out"));
  for (int i = 0; i < 2; i++) {
    for (int k = 0; k < LETTERS; k++)
      corpus[k] = (char)('a' + (i ? k * k % 11 : k % 7));
    scratch_put("corpus.txt", corpus, LETTERS);
    (void)snprintf(path, sizeof path, "data={task: text, path: %s, length: 6}",
                   scratch("corpus.txt"));
    (void)snprintf(dir[i], sizeof dir[i], "%s", make_run(i ? "b" : "a", "explicit", "S3", path));
    for (int again = 0; again < 2; again++) {
      SPAWN(&r, "compare", dir[0], "--output", out);
      check_spawned(&r, 0, "compare.html");
      assert_true((strstr(r.output, "measuring") == NULL) == (again == 1));
    }
  }
  SPAWN(&r, "compare", dir[0], dir[1], "--output", out);
  check_spawned(&r, 2, "corpus.txt has changed since");
}

/* Too short for a Jacobian, not for a comparison. */
static void a_short_text_has_no_jacobian(void **state)
{
  (void)state;
  enum { LETTERS = 150 };
  struct spawned r;
  char corpus[LETTERS], a[512], path[600];
  for (int k = 0; k < LETTERS; k++)
    corpus[k] = (char)('a' + k % 7);
  scratch_put("corpus.txt", corpus, LETTERS);
  (void)snprintf(path, sizeof path, "data={task: text, path: %s, length: 6}",
                 scratch("corpus.txt"));
  (void)snprintf(a, sizeof a, "%s", make_run("a", "implicit", "S3", path));
  SPAWN(&r, "compare", a, "evaluate.lengths=[6]", "--output", scratch("out"));
  check_spawned(&r, 0, "compare.html");
  assert_non_null(strstr(r.output, "the text is too short"));
}

/* The curve over max_iter is that of solves which take min_iter. */
static void the_knob_keeps_to_the_least(void **state)
{
  (void)state;
  struct spawned r;
  char a[512];
  (void)snprintf(a, sizeof a, "%s", make_run("a", "implicit", "S3", NULL));
  SPAWN(&r, "compare", a, "deq.evaluate={min_iter: 40, max_iter: 64, tol: 0.3}", "--output",
        scratch("out"));
  check_spawned(&r, 0, "compare.html");
  json_t *root = load("out/compare.json");
  const json_t *run = json_array_get(json_object_get(group_of(root, 0, 0), "runs"), 0);
  const json_t *closely = json_object_get(json_object_get(run, "evaluation"), "closely");
  const json_t *mode = json_object_get(closely, "sequential");
  const json_t *knob = json_object_get(json_object_get(mode, "allowed_iterations"), "points");
  assert_true(number(json_array_get(knob, json_array_size(knob) - 1), "max_iter") == 64);
  json_decref(root);
}

static void what_cannot_be_compared(void **state)
{
  (void)state;
  struct spawned r;
  char a[512], b[512], out[512];
  (void)snprintf(a, sizeof a, "%s", make_run("a", "explicit", "S3", NULL));
  (void)snprintf(b, sizeof b, "%s", make_run("b", "explicit", "Z5", NULL));
  (void)snprintf(out, sizeof out, "%s", scratch("out"));
  SPAWN(&r, "compare", a, b, "--output", out);
  check_spawned(&r, 2, "its data, word problem Z5, is not that of");
  /* what they were trained on may differ, if they are evaluated on the same */
  (void)snprintf(b, sizeof b, "%s",
                 make_run("c", "explicit", "S3", "data.identity_probability=0.5"));
  SPAWN(&r, "compare", a, b, "--output", out);
  check_spawned(&r, 2, "word problem S3, identity probability 0.5, is not that of");
  SPAWN(&r, "compare", a, b, "data.identity_probability=0.5", "--output", out);
  check_spawned(&r, 0, "compare.html");
  json_t *root = load("out/compare.json");
  assert_string_equal(text(group_of(root, 0, 1), "differs"), "data.identity_probability: 0.5");
  json_decref(root);
  SPAWN(&r, "compare", a, scratch("nowhere"), "--output", out);
  check_spawned(&r, 3, "nowhere: no such directory");
  SPAWN(&r, "compare", "--output", out);
  check_spawned(&r, 2, "usage: compare RUN RUN...");
  SPAWN(&r, "compare", a, "evaluate.sequence=3", "--output", out);
  check_spawned(&r, 2, "unknown key 'evaluate.sequence'");
}

static void what_is_no_run_is_skipped(void **state)
{
  (void)state;
  struct spawned r;
  char a[512], out[512];
  (void)snprintf(a, sizeof a, "%s", make_run("a", "explicit", "S3", NULL));
  (void)snprintf(out, sizeof out, "%s", scratch("out"));
  check_ok(directory_make(scratch("foreign")));
  scratch_put("foreign/letter.txt", "x", 1);
  check_ok(directory_make(scratch("half/checkpoints/writing")));
  scratch_put("half/config.yaml", "name: half\n", 11);
  check_ok(directory_make(scratch("torn/latest")));
  scratch_put("torn/latest/model.safetensors", "x", 1);
  SPAWN(&r, "compare", scratch("foreign"), scratch("half"), scratch("torn"), a, "--output", out);
  check_spawned(&r, 0, "compare.html");
  const char *names[] = {"foreign", "half", "torn"};
  for (int i = 0; i < 3; i++) {
    char line[600];
    (void)snprintf(line, sizeof line, "skipped: %s", scratch(names[i]));
    assert_non_null(strstr(r.output, line));
  }
  SPAWN(&r, "compare", scratch("foreign"), "--output", out);
  check_spawned(&r, 3, "there is nothing to compare");
}

static void a_damaged_checkpoint_is_skipped(void **state)
{
  (void)state;
  struct spawned r;
  char a[512], b[512], out[512], model[600];
  (void)snprintf(a, sizeof a, "%s", make_run("a", "explicit", "S3", NULL));
  (void)snprintf(b, sizeof b, "%s", make_run("b", "explicit", "S3", NULL));
  (void)snprintf(out, sizeof out, "%s", scratch("out"));
  (void)snprintf(model, sizeof model, "%s/latest/model.safetensors", a);
  assert_int_equal(truncate(model, 1000), 0);
  SPAWN(&r, "compare", a, b, "--output", out);
  check_spawned(&r, 0, "compare.html");
  assert_non_null(strstr(r.output, "model.safetensors: not safetensors, or cut off"));
  assert_non_null(strstr(r.output, "skipped: "));
  json_t *root = load("out/compare.json");
  assert_string_equal(text(group_of(root, 0, 0), "label"), "b");
  json_decref(root);
  SPAWN(&r, "compare", a, "--output", out);
  check_spawned(&r, 3, "there is nothing to compare");
}

/* ---- lists ---- */

static void put_list(const char *name, const char *runs_dir)
{
  char yaml[2048];
  int n = snprintf(yaml, sizeof yaml,
                   "compare:\n"
                   "  runs_dir: %s\n"
                   "  seeds: [3, 4]\n"
                   "  jobs: 2\n"
                   "  set: [train.log_timing=false]\n"
                   "  evaluate: [evaluate.sequences=5, data.identity_probability=0.5]\n"
                   "  configs:\n"
                   "    - {config: im.yaml, label: implizit-é, section: S3}\n"
                   "    - {config: ex.yaml, section: S3,\n"
                   "       set: [model.n_layer=2, data.identity_probability=0.3]}\n"
                   "    - {config: z2.yaml, section: Z2}\n",
                   scratch(runs_dir));
  scratch_put(name, yaml, (size_t)n);
  put_config("im", "implicit", "S3");
  put_config("ex", "explicit", "S3");
  put_config("z2", "explicit", "Z2");
}

static const char *const listed[] = {"S3-implizit-é-s3", "S3-implizit-é-s4", "S3-ex-s3",
                                     "S3-ex-s4",         "Z2-z2-s3",         "Z2-z2-s4"};

static void check_same_runs(const char *a, const char *b)
{
  static const char *const files[] = {"latest/model.safetensors", "metrics.jsonl"};
  for (size_t i = 0; i < sizeof listed / sizeof *listed; i++)
    for (size_t f = 0; f < 2; f++) {
      char x[600], y[600];
      (void)snprintf(x, sizeof x, "%s/%s/%s", scratch(a), listed[i], files[f]);
      (void)snprintf(y, sizeof y, "%s/%s/%s", scratch(b), listed[i], files[f]);
      if (!same_files(x, y))
        fail_msg("%s differs from %s", y, x);
    }
}

static void wait_milliseconds(int n)
{
  struct timespec t = {n / 1000, n % 1000 * 1000000L};
  (void)nanosleep(&t, NULL);
}

static pid_t start_list(const char *name, const char *log)
{
  char file[512];
  (void)snprintf(file, sizeof file, "%s", scratch(name));
  return spawn_start("compare", scratch(log), (const char *const[]){file, NULL});
}

/* Killed again and again, a list ends with the runs of one that was left alone. */
static void a_killed_list_goes_on(void **state)
{
  (void)state;
  int kills = 0, status;
  put_list("whole.yaml", "whole");
  put_list("killed.yaml", "killed");
  assert_int_equal(spawn_wait(start_list("whole.yaml", "whole.log")), 0);
  for (int pause = 40;; pause += pause / 3) {
    pid_t pid = start_list("killed.yaml", "killed.log");
    wait_milliseconds(pause);
    (void)kill(pid, SIGKILL);
    status = spawn_wait(pid);
    if (status != 128 + SIGKILL)
      break;
    kills++;
  }
  assert_int_equal(status, 0);
  assert_true(kills > 2);
  check_same_runs("whole", "killed");
  assert_true(path_exists(scratch("killed/compare/compare.html")));
  json_t *root = load("killed/compare/compare.json");
  assert_string_equal(text(group_of(root, 0, 0), "label"), "implizit-é");
  assert_string_equal(text(group_of(root, 0, 1), "label"), "ex");
  assert_string_equal(text(group_of(root, 1, 0), "label"), "z2");
  json_decref(root);
}

/* Its programs have no handlers yet, or this one's still. */
static void a_list_is_interrupted_while_programs_start(void **state)
{
  (void)state;
  for (int pause = 1; pause < 100; pause *= 3) {
    char *log = NULL, name[32];
    size_t n;
    bool begun = false;
    (void)snprintf(name, sizeof name, "runs%d", pause);
    put_list("l.yaml", name);
    (void)snprintf(name, sizeof name, "l%d.log", pause);
    pid_t pid = start_list("l.yaml", name);
    while (!begun) {
      wait_milliseconds(1);
      begun = path_exists(scratch(name)) && file_read(scratch(name), &log, &n) == OK &&
              strstr(log, "training");
      free(log);
      log = NULL;
    }
    wait_milliseconds(pause);
    (void)kill(pid, SIGINT);
    assert_int_equal(spawn_wait(pid), 130);
  }
}

static void an_interrupted_list_says_how_to_go_on(void **state)
{
  (void)state;
  struct spawned r;
  char *log;
  size_t n;
  put_list("l.yaml", "runs");
  pid_t pid = start_list("l.yaml", "l.log");
  while (!path_exists(scratch("runs/S3-implizit-é-s3/config.yaml")))
    wait_milliseconds(1);
  (void)kill(pid, SIGINT);
  assert_int_equal(spawn_wait(pid), 130);
  check_ok(file_read(scratch("l.log"), &log, &n));
  assert_non_null(strstr(log, "go on with: compare"));
  free(log);
  SPAWN(&r, "compare", scratch("l.yaml"));
  check_spawned(&r, 0, "compare.html");
  SPAWN(&r, "compare", scratch("l.yaml")); /* all is there */
  check_spawned(&r, 0, "compare.html");
  assert_null(strstr(r.output, "training /"));
  assert_null(strstr(r.output, "measuring /"));
  /* a run that lies there must be the one that is meant */
  put_config("z2", "explicit", "Z5");
  SPAWN(&r, "compare", scratch("l.yaml"));
  check_spawned(&r, 2, "was trained with data.group: Z2, the list says Z5");
}

static void a_run_that_fails_is_left_out(void **state)
{
  (void)state;
  struct spawned r;
  put_list("l.yaml", "runs");
  check_ok(directory_make(scratch("runs/Z2-z2-s3")));
  scratch_put("runs/Z2-z2-s3/letter.txt", "x", 1);
  SPAWN(&r, "compare", scratch("l.yaml"));
  check_spawned(&r, 1, "1 of 6 runs failed and are left out");
  assert_non_null(strstr(r.output, "holds files and is not a run"));
  assert_true(path_exists(scratch("runs/compare/compare.html")));
}

static void lists_are_checked(void **state)
{
  (void)state;
  static const struct {
    const char *yaml, *message;
  } wrong[] = {
      {"compare: {runs_dir: r, config: []}\n", "l.yaml:1:24: unknown key 'config'"},
      {"compare:\n  configs: [{config: im.yaml}]\n", "l.yaml:1:1: compare.runs_dir: missing"},
      {"compare: {runs_dir: r}\n", "compare.configs: missing"},
      {"compare: {runs_dir: r, seeds: [1, x], configs: []}\n",
       "l.yaml:1:35: seeds must be an integer"},
      {"compare: {runs_dir: r, seeds: [1, 1]}\n", "seed 1 stands here twice"},
      {"compare: {runs_dir: r, set: [steps]}\n", "'steps' is not of the form key.path=value"},
      {"compare: {runs_dir: r, runs_dir: r}\n", "repeated key 'runs_dir'"},
      {"compare: {runs_dir: r, configs: [{label: a}]}\n", "config: missing"},
      {"compare:\n  runs_dir: r\n  configs:\n    - {config: none.yaml}\n", "l.yaml:4:16: "},
      {"compare:\n  runs_dir: r\n  configs:\n    - {config: im.yaml, set: [train.step=3]}\n",
       "l.yaml:4:16: command line: train.step=3: unknown key"},
      {"compare:\n  runs_dir: r\n  configs: [{config: im.yaml}, {config: im.yaml}]\n",
       "give it a label"},
      {"compare:\n  runs_dir: r\n  configs:\n    - {config: im.yaml, label: a/b}\n"
       "    - {config: im.yaml, label: a b}\n",
       "give it another label"},
      {"compare:\n  runs_dir: r\n  set: [train.steps=3, seed=7]\n",
       "l.yaml:3:24: set: 'seed=7': `seeds` of the list says that"},
      {"compare:\n  runs_dir: r\n  configs: [{config: im.yaml, set: [runs_dir=x]}]\n",
       "`runs_dir` of the list says that"},
      {"compare:\n  runs_dir: r\n  configs: [{config: im.yaml}, {config: z5.yaml}]\n",
       "z5-s0: its data, word problem Z5, is not that of r/im-s0, word problem S3"},
      {"compare: {runs_dir: r, configs: 3}\n", "configs must be a list"},
      {"other: 1\n", "unknown key 'other'; there are compare"},
      {"\n", "a list of configurations to compare must be a mapping"},
      {"compare: {runs_dir: r, configs: [{config: im.yaml}]}\nname: a\n", "unknown key 'name'"},
  };
  put_config("im", "implicit", "S3");
  put_config("z5", "explicit", "Z5");
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    struct spawned r;
    scratch_put("l.yaml", wrong[i].yaml, strlen(wrong[i].yaml));
    SPAWN(&r, "compare", scratch("l.yaml"));
    if (r.status != 2 && r.status != 3)
      print_error("%s", wrong[i].yaml);
    check_spawned(&r, i == 8 ? 3 : 2, wrong[i].message);
  }
}

int main(void)
{
  (void)setenv("PATH", "/nonexistent", 1); /* no gnuplot: the figures have tests of their own */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wilson_is_as_published),
      cmocka_unit_test(sequences_are_the_unit),
      cmocka_unit_test(interval_holds_as_often_as_it_says),
      cmocka_unit_test(quantiles),
      cmocka_unit_test(flops_are_those_of_the_shapes),
      TEST(implicit_and_explicit_side_by_side),
      TEST(measured_once),
      TEST(seeds_are_one_model),
      TEST(one_seed_is_one_draw),
      TEST(texts_are_told_apart),
      TEST(a_short_text_has_no_jacobian),
      TEST(the_knob_keeps_to_the_least),
      TEST(what_cannot_be_compared),
      TEST(what_is_no_run_is_skipped),
      TEST(a_damaged_checkpoint_is_skipped),
      TEST(a_killed_list_goes_on),
      TEST(a_list_is_interrupted_while_programs_start),
      TEST(an_interrupted_list_says_how_to_go_on),
      TEST(a_run_that_fails_is_left_out),
      TEST(lists_are_checked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
