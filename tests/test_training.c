/* test_training.c: what training does with its options, and with numbers that go wrong. */
#include "core/files.h"
#include "core/safetensors.h"
#include "core/tensorboard.h"
#include "core/training.h"
#include "core/word_problem.h"
#include "experiments/program.h"
#include "tests/model_gradient.h"
#include "tests/scratch.h"
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

static const char recipe[] =
    "name: run\ndevice: cpu\ndtype: f64\n"
    "model: {kind: implicit, d_model: 8, tie_embeddings: false, d_intermediate: 4,\n"
    "  mamba2: {d_state: 4, expand: 2, headdim: 4}}\n"
    "data: {task: word_problem, group: S3, length: 8}\n"
    "train: {steps: 3, unroll_steps: 2, batch_size: 8, log_every: 1, log_timing: false}\n"
    "evaluate: {sequences: 4}\n";

/* ---- running ---- */

/* Trains as the recipe, or the file `config`, and `overrides` (separated by blanks) say. */
static enum status train(const char *config, const char *name, bool resume, const char *overrides)
{
  struct config c;
  struct runtime rt;
  char directory[512], words[1024], runs[512], named[256];
  const char *override[64] = {runs, named};
  int count = 2;
  struct train_options o = {.directory = directory, .resume = resume, .overwrite = !resume};
  (void)snprintf(runs, sizeof runs, "runs_dir=%s", scratch(""));
  (void)snprintf(named, sizeof named, "name=%s", name);
  (void)snprintf(words, sizeof words, "%s", overrides);
  for (char *rest, *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
    override[count++] = word;
  if (!config) {
    scratch_put("recipe.yaml", recipe, sizeof recipe - 1);
    config = scratch("recipe.yaml");
  }
  TRY(config_load(config, count, override, &c));
  TRY(config_resolve(&c));
  TRY(run_directory(&c, directory, sizeof directory));
  TRY(runtime_open(&c, &rt));
  return train_run(&c, &rt, &o);
}

/* Key of the line of metrics.jsonl with that step; NULL: no such line or key. */
static json_t *metric(const char *run, int step, const char *key)
{
  char path[600];
  char *text;
  size_t n;
  json_t *found = NULL;
  (void)snprintf(path, sizeof path, "%s/metrics.jsonl", scratch(run));
  check_ok(file_read(path, &text, &n));
  for (char *rest, *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    json_t *object = json_loads(line, 0, NULL);
    assert_non_null(object);
    if (json_integer_value(json_object_get(object, "step")) == step)
      found = json_incref(json_object_get(object, key));
    json_decref(object);
  }
  free(text);
  return found;
}

static double number(const char *run, int step, const char *key)
{
  json_t *value = metric(run, step, key);
  double x = json_is_number(value) ? json_number_value(value) : (double)NAN;
  json_decref(value);
  return x;
}

/* ---- options ---- */

static void check_same_steps(const char *a, const char *b, double tol)
{
  static const char *const keys[] = {"loss", "accuracy", "grad_norm", "tokens"};
  for (int step = 1; step <= 3; step++)
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
      check_close(number(b, step, keys[k]), number(a, step, keys[k]), tol, "%s of step %d", keys[k],
                  step);
}

/* A batch in parts is the batch: also with dropout, and with parts of unequal numbers of labels. */
static void accumulation(void **state)
{
  (void)state;
  const char *more[] = {"", " model.dropout=0.2 data.length_min=2 model.weight_norm=true"};
  for (int i = 0; i < 2; i++) {
    char overrides[256];
    check_ok(train(NULL, "whole", false, more[i]));
    (void)snprintf(overrides, sizeof overrides, "train.batch_size=2 train.accumulate=4%s", more[i]);
    check_ok(train(NULL, "parts", false, overrides));
    check_same_steps("whole", "parts", 1e-10);
  }
}

static void learning_rates(void **state)
{
  (void)state;
  struct train_config c = {.lr = 3, .steps = 20, .lr_warmup = 5, .decay_fraction = 0.5};
  c.schedule = SCHEDULE_LINEAR;
  const double plain[] = {0.6, 1.2, 1.8, 2.4, 3, 3, 3, 3, 3, 3, 3, 2.7};
  for (int64_t i = 0; i < 12; i++)
    check_close(learning_rate(&c, i), plain[i], 1e-14, "rate %d", (int)i);
  check_close(learning_rate(&c, 19), 0.3, 1e-14, "last rate");
  c.decay_fraction = 1; /* but not before warm-up ends: it goes up, then down */
  for (int64_t i = 5; i < 20; i++)
    check_close(learning_rate(&c, i), 3 * (double)(20 - i) / 15, 1e-14, "rate %d", (int)i);
  c.schedule = SCHEDULE_COSINE;
  check_close(learning_rate(&c, 5), 3, 1e-14, "first of the cosine");
  check_close(learning_rate(&c, 15), 0.75, 1e-14, "a third of the cosine");
  c.schedule = SCHEDULE_CONSTANT;
  check_close(learning_rate(&c, 19), 3, 1e-14, "constant rate");
  c.schedule = SCHEDULE_LINEAR, c.lr_warmup = 40; /* never ends */
  check_close(learning_rate(&c, 19), 1.5, 1e-14, "rate of warm-up");
}

/* `auto` of an evaluation on the way is that of `evaluate`. */
static void evaluations_choose_as_evaluate_does(void **state)
{
  (void)state;
  static const char common[] = "train.evaluate_every=3 data.length=12 deq.evaluate.tol=0.2 "
                               "deq.evaluate.mode=simultaneous deq.evaluate.solver=";
  static const char *const solvers[] = {"auto", "picard"};
  double loss[2];
  for (int i = 0; i < 2; i++) {
    char words[256];
    (void)snprintf(words, sizeof words, "%s%s", common, solvers[i]);
    check_ok(train(NULL, solvers[i], false, words));
    loss[i] = number(solvers[i], 3, "eval_loss");
  }
  assert_true(loss[0] == loss[1]);
}

static void lengths(void **state)
{
  (void)state;
  check_ok(train(NULL, "a", false, "train.curriculum_steps=2 train.curriculum_length=2"));
  assert_int_equal(number("a", 1, "tokens"), 8 * 2);
  assert_int_equal(number("a", 2, "tokens"), 8 * (2 + 5));
  assert_int_equal(number("a", 3, "tokens"), 8 * (2 + 5 + 8));
  check_ok(train(NULL, "b", false, "data.length_min=3"));
  assert_in_range(number("b", 3, "tokens"), 3 * 8 * 3 + 1, 3 * 8 * 8 - 1);
  check_ok(train(NULL, "c", false, "data.length_min=8"));
  check_ok(train(NULL, "d", false, ""));
  check_same_steps("d", "c", 1e-12); /* padding of nothing */
  /* a shorter batch that is solved in one chunk, where the longest takes several, has its memory */
  check_ok(train(NULL, "e", false,
                 "data.length=296 train.curriculum_steps=2 train.curriculum_length=256 "
                 "train.unroll_steps=0 train.batch_size=1 deq.forward.max_iter=3 "
                 "model.mamba2.d_state=64 model.mamba2.headdim=2 model.mamba2.ngroups=8 "
                 "model.mamba2.chunk_size=8"));
}

/* While one process trains a run another may not. */
static void one_process_trains_a_run(void **state)
{
  (void)state;
  check_ok(train(NULL, "locked", false, ""));
  int held = open(scratch("locked"), O_RDONLY | O_DIRECTORY);
  assert_true(held >= 0 && flock(held, LOCK_EX) == 0);
  for (int resume = 0; resume < 2; resume++) {
    assert_int_equal(train(NULL, "locked", resume, "train.steps=4"), ERR_USAGE);
    assert_non_null(strstr(last_error(), "another process is training this run"));
  }
  assert_int_equal(close(held), 0);
  check_ok(train(NULL, "locked", true, "train.steps=4"));
}

/* A run keeps the configuration that made its steps. */
static void steps_that_are_made_stay_on_record(void **state)
{
  (void)state;
  struct config c;
  check_ok(train(NULL, "made", false, ""));
  assert_int_equal(train(NULL, "made", true, "train.steps=2"), ERR_USAGE);
  assert_non_null(strstr(last_error(), "has made 3 steps"));
  check_ok(train(NULL, "made", true, "seed=9"));
  check_ok(config_load(scratch("made/config.yaml"), 0, NULL, &c));
  assert_int_equal(c.seed, 0);
  assert_int_equal(c.train.steps, 3);
}

/* What stands for the gradient is counted, what is added to the loss is told; a batch in parts is
 * the batch for these, too. */
static void backward_choices(void **state)
{
  (void)state;
  check_ok(train(NULL, "s", false, "deq.gradient=shine"));
  assert_true(isnan(number("s", 2, "shine_fallbacks"))); /* unrolled: no solve */
  assert_int_equal(number("s", 3, "shine_fallbacks"), 8);
  check_ok(train(NULL, "s", false,
                 "deq.gradient=shine deq.forward.solver=broyden deq.forward.tol=1e-6"));
  assert_true(number("s", 3, "shine_fallbacks") < 8);
  check_ok(train(NULL, "s", false, "deq.backward.guess=shine deq.gradient=ift"));
  assert_int_equal(number("s", 3, "shine_fallbacks"), 8);
  static const char more[] = "deq.correction.states=2 deq.jacobian_regularisation.weight=0.5 "
                             "deq.forward.damping=0.5 data.length_min=2 ";
  char overrides[512];
  check_ok(train(NULL, "whole", false, more));
  assert_true(number("whole", 3, "objective") > number("whole", 3, "loss"));
  assert_true(number("whole", 3, "jacobian_norm") > 0);
  (void)snprintf(overrides, sizeof overrides, "%s train.batch_size=2 train.accumulate=4", more);
  check_ok(train(NULL, "parts", false, overrides));
  check_same_steps("whole", "parts", 1e-8);
  for (int step = 1; step <= 3; step++) {
    check_close(number("parts", step, "objective"), number("whole", step, "objective"), 1e-8,
                "objective");
    check_close(number("parts", step, "jacobian_norm"), number("whole", step, "jacobian_norm"),
                1e-8, "jacobian_norm");
  }
  check_ok(train(NULL, "s", false,
                 "deq.jacobian_regularisation.weight=1 train.steps=20 train.unroll_steps=20 "
                 "deq.jacobian_regularisation.probability=0.5"));
  int regularised = 0;
  for (int step = 1; step <= 20; step++)
    regularised += !isnan(number("s", step, "jacobian_norm"));
  assert_in_range(regularised, 4, 16);
}

static void check_same_parameters(const char *a, const char *b)
{
  char *text[2];
  size_t size[2];
  for (int i = 0; i < 2; i++) {
    char path[600];
    (void)snprintf(path, sizeof path, "%s/latest/model.safetensors", scratch(i ? b : a));
    check_ok(file_read(path, &text[i], &size[i]));
  }
  assert_int_equal(size[0], size[1]);
  assert_memory_equal(text[0], text[1], size[0]);
  free(text[0]), free(text[1]);
}

/* Reports are beside training: the same parameters, bit for bit, with and without. */
static void reports(void **state)
{
  (void)state;
  static const char asked[] = "train.report.spectral_radius=2 train.report.gradient_cosine=3 ";
  static const char every[] = "train.report.gradient_cosine=1 ";
  static const char exact[] =
      "deq.gradient=ift deq.forward.solver=anderson deq.forward.window=4 deq.forward.tol=1e-11 "
      "deq.forward.damping=0.8 deq.forward.max_iter=4000 deq.backward.solver=gmres "
      "deq.backward.window=4 deq.backward.rank=40 deq.backward.tol=1e-11 "
      "deq.backward.max_iter=4000 data.group=Z2 data.length=4 train.steps=41 "
      "train.unroll_steps=40 train.lr=1e-2 ";
  char overrides[1024];
  static const char more[] = "model.dropout=0.1 data.length_min=3 train.accumulate=2 "
                             "train.steps=4 train.log_every=1000 train.curriculum_steps=2 ";
  check_ok(train(NULL, "without", false, more));
  (void)snprintf(overrides, sizeof overrides, "%s%s", more, asked);
  check_ok(train(NULL, "with", false, overrides));
  check_same_parameters("without", "with");
  assert_true(isnan(number("with", 1, "loss"))); /* not logged */
  assert_true(number("with", 2, "spectral_radius") > 0 &&
              number("with", 2, "spectral_radius_max") >= number("with", 2, "spectral_radius"));
  assert_true(isnan(number("with", 2, "gradient_cosine")));
  assert_true(fabs(number("with", 3, "gradient_cosine")) <= 1);
  assert_true(isnan(number("with", 3, "spectral_radius")));

  (void)snprintf(overrides, sizeof overrides, "%s%s", every, exact);
  check_ok(train(NULL, "ift", false, overrides));
  assert_true(number("ift", 41, "exact_converged") == 1);
  check_close(number("ift", 41, "gradient_cosine"), 1, 1e-10, "of the exact gradient itself");
  check_close(number("ift", 41, "exact_grad_norm"), number("ift", 41, "grad_norm"), 1e-6, "norm");
  (void)snprintf(overrides, sizeof overrides, "%s%s deq.gradient=jfb", every, exact);
  check_ok(train(NULL, "jfb", false, overrides));
  assert_in_range((int)(1000 * number("jfb", 41, "gradient_cosine")), 1, 999);
}

/* float32 and float64 train alike, and write what they are. */
static void precisions(void **state)
{
  (void)state;
  struct safetensors file;
  check_ok(train(NULL, "f64", false, ""));
  check_ok(train(NULL, "f32", false, "dtype=f32"));
  check_same_steps("f64", "f32", 1e-4);
  check_ok(safetensors_read(scratch("f64/latest/model.safetensors"), &file));
  assert_int_equal(file.tensor[0].dtype, ST_F64);
  safetensors_free(&file);
  check_ok(safetensors_read(scratch("f32/latest/model.safetensors"), &file));
  assert_int_equal(file.tensor[0].dtype, ST_F32);
  safetensors_free(&file);
}

/* Every option in one run that learns. */
static void everything_at_once(void **state)
{
  (void)state;
  check_ok(train(NULL, "a", false,
                 "model.dropout=0.05 model.weight_norm=true model.residual=0.9 "
                 "model.mamba2.A_range=negative model.mamba2.d_ssm=8 model.mamba2.bias=true "
                 "model.mamba2.D_has_hdim=true model.mamba2.norm_before_gate=true "
                 "train.accumulate=2 data.length_min=4 data.group=Z2 data.length=4 train.steps=40 "
                 "train.unroll_steps=30 train.lr=1e-2 train.lr_warmup=4 train.evaluate_every=20"));
  assert_true(number("a", 40, "eval_loss") < 0.9 * number("a", 1, "loss"));
  check_ok(train(NULL, "a", true,
                 "model.weight_norm=true model.mamba2.bias=true train.steps=41 "
                 "model.mamba2.d_ssm=8 model.mamba2.D_has_hdim=true "
                 "data.group=Z2"));
}

/* The published model, a few steps of it, smaller. */
static void paper_recipes(void **state)
{
  (void)state;
  struct config c;
  const char *files[] = {"configs/paper/a5_implicit.yaml", "configs/paper/a5_explicit.yaml"};
  for (int i = 0; i < 2; i++) {
    check_ok(config_load(files[i], 0, NULL, &c));
    assert_true(c.model.d_model == 256 && c.model.mamba2.d_state == 128 && c.model.weight_norm);
    assert_true(c.train.steps == 16384 && c.train.unroll_steps == 4005 && c.train.clip == 0.25);
    assert_true(c.train.batch_size == 512 && c.data.length == 256 && c.model.dropout == 0.05);
    assert_true(c.deq.forward.max_iter == 32 && c.deq.phantom_steps == 4);
    check_ok(train(files[i], "paper", false,
                   "train.steps=4 train.unroll_steps=2 train.batch_size=2 data.length=16 "
                   "model.d_model=32 model.mamba2.d_state=8 model.mamba2.headdim=32 "
                   "train.log_every=1 device=cpu"));
    assert_true(isfinite(number("paper", 4, "loss")));
    json_t *iterations = metric("paper", 4, "forward_iterations");
    assert_true((i == 0) == json_is_number(iterations));
    json_decref(iterations);
  }
}

/* ---- numbers that go wrong ---- */

/* Element 0 of row `row` of a tensor of the last checkpoint becomes x. */
static void plant(const char *run, const char *tensor, int64_t row, double x)
{
  char path[600];
  struct safetensors file;
  (void)snprintf(path, sizeof path, "%s/latest/model.safetensors", scratch(run));
  check_ok(safetensors_read(path, &file));
  const struct st_tensor *t = safetensors_find(&file, tensor);
  assert_non_null(t);
  ((double *)(uintptr_t)t->data)[row * (t->count / t->shape[0])] = x;
  check_ok(safetensors_write(path, file.tensor, file.tensors));
  safetensors_free(&file);
}

static void check_stopped(enum status s, const char *tensor)
{
  char last[64];
  check_fails(s, ERR_NUMERIC, tensor);
  (void)snprintf(last, sizeof last, "checkpoints/step-%08d", 1);
  assert_non_null(strstr(last_error(), "step 2"));
  assert_non_null(strstr(last_error(), "first that is"));
  assert_non_null(strstr(last_error(), last));
  assert_int_equal(exit_code(s), 1);
}

static void each_planted_tensor_is_named(void **state)
{
  (void)state;
  struct safetensors file;
  for (int i = 0; i < 2; i++) {
    char options[64];
    (void)snprintf(options, sizeof options, "train.steps=1 model.weight_norm=%s",
                   i ? "true" : "false");
    check_ok(train(NULL, "good", false, options));
    check_ok(safetensors_read(scratch("good/latest/model.safetensors"), &file));
    for (int64_t k = 0; k < file.tensors; k++) {
      char expected[128];
      check_ok(train(NULL, "a", false, options));
      plant("a", file.tensor[k].name, 0, (double)NAN);
      enum status s = train(NULL, "a", true, i ? "model.weight_norm=true" : "");
      (void)snprintf(expected, sizeof expected, "parameter %s;", file.tensor[k].name);
      check_stopped(s, expected);
    }
    assert_true(file.tensors > 10);
    safetensors_free(&file);
  }
}

/* Finite parameters whose gradient overflows: stops and names it, or is skipped and counted. */
static void gradients_that_overflow(void **state)
{
  (void)state;
  check_ok(train(NULL, "a", false, "train.steps=1"));
  plant("a", "criterion.decoder.weight", 0, 1e152);
  plant("a", "criterion.decoder.weight", 1, -1e152);
  plant("a", "backbone.norm_f.weight", 0, 1e10);
  check_fails(train(NULL, "a", true, ""), ERR_NUMERIC, "first tensor: gradient of ");
  check_ok(train(NULL, "a", true, "train.skip_nonfinite=true"));
  assert_int_equal(number("a", 2, "skipped"), 1);
  assert_in_range(number("a", 3, "skipped"), 1, 2);
  json_t *norm = metric("a", 2, "grad_norm");
  assert_true(json_is_null(norm));
  json_decref(norm);
}

/* Behind a skipped step AdamW's first update is as long as that of a first step: lr. */
static void skipped_steps_are_no_updates(void **state)
{
  (void)state;
  static const char name[] = "criterion.decoder.weight";
  static const char *const steps[] = {"train.steps=1", "train.steps=2"};
  const double lr = 1e-3;
  char options[2][192], path[600];
  struct safetensors before, after;
  double longest = 0;
  for (int i = 0; i < 2; i++)
    (void)snprintf(
        options[i], sizeof options[i],
        "train.skip_nonfinite=true train.lr=%g train.lr_warmup=0 train.schedule=constant %s", lr,
        steps[i]);
  check_ok(train(NULL, "a", false, "train.steps=0"));
  (void)snprintf(path, sizeof path, "%s/latest/model.safetensors", scratch("a"));
  check_ok(safetensors_read(path, &before));
  plant("a", name, 0, 1e152);
  plant("a", name, 1, -1e152);
  plant("a", "backbone.norm_f.weight", 0, 1e10);
  check_fails(train(NULL, "a", true, options[0]), ERR_NUMERIC, "1 of 1 were skipped");
  check_ok(safetensors_write(path, before.tensor, before.tensors));
  check_ok(train(NULL, "a", true, options[1]));
  check_ok(safetensors_read(path, &after));
  const struct st_tensor *p = safetensors_find(&before, name), *q = safetensors_find(&after, name);
  for (int64_t i = 0; i < p->count; i++)
    longest = fmax(longest, fabs(((const double *)q->data)[i] - ((const double *)p->data)[i]));
  check_close(longest, lr, 1e-3, "the first update");
  safetensors_free(&before), safetensors_free(&after);
}

/* A token's embedding that is not a number: the sequences without that token stay what they are. */
static void one_bad_sequence_harms_no_other(void **state)
{
  (void)state;
  enum { MANY = 3, TOKENS = 12, BAD = 1, D = 4 };
  struct config c = small_model("", "");
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  double good[MANY * TOKENS * D], z[MANY * TOKENS * D];
  int32_t tokens[MANY * TOKENS];
  draw_tokens(MANY * TOKENS, tokens, NULL);
  for (int i = 0; i < MANY * TOKENS; i++) /* token 5 in sequence BAD only */
    tokens[i] = i == BAD * TOKENS + 4 ? 5 : tokens[i] % 5;
  const int64_t windows[] = {FP_WINDOW_ALL, 1, 4};
  for (int w = 0; w < 3; w++) {
    c.deq.evaluate = c.deq.forward;
    c.deq.evaluate.window = windows[w];
    for (int planted = 0; planted < 2; planted++) {
      uint8_t exits[MANY * TOKENS];
      struct probe_result r = {.z = planted ? z : good, .forward = {.exit = exits}};
      struct probe_f64 *p = probe_open_f64(&c, MANY, TOKENS, false, false);
      double kept = block[list.tensor[0].offset + (int64_t)5 * D];
      if (planted)
        block[list.tensor[0].offset + (int64_t)5 * D] = (double)NAN;
      probe_set_f64(p, block, -1);
      probe_evaluate_f64(p, &c.deq.evaluate, MANY, tokens, &r);
      probe_close_f64(p);
      block[list.tensor[0].offset + (int64_t)5 * D] = kept;
      assert_int_equal(r.forward.exits[FP_NOT_FINITE] > 0, planted);
      for (int i = 0; planted && i < MANY * TOKENS * D; i++)
        if (i / (TOKENS * D) != BAD)
          check_close(z[i], good[i], 1e-11, "sequence %d, window %d", i / (TOKENS * D),
                      (int)windows[w]);
    }
  }
  tensor_list_free(&list);
  free(block);
}

/* ... and training names the sequence: the one that has the token. */
static void bad_sequence_is_named(void **state)
{
  (void)state;
  char expected[64] = "";
  check_ok(train(NULL, "a", false, "train.steps=1 data.group=A5 data.length=2"));
  struct config c = {.data = {.group = "A5"}};
  struct word_problem w;
  int32_t tokens[8 * 2], labels[8 * 2];
  check_ok(word_problem_init(&c.data, &w));
  word_problem_batch(&w, 0, STREAM_TRAIN, 1, 0, 8, 2, tokens, labels);
  word_problem_free(&w);
  plant("a", "word_emb.emb.weight", tokens[5 * 2], (double)NAN);
  int first = 0;
  while (tokens[2 * first] != tokens[5 * 2] && tokens[2 * first + 1] != tokens[5 * 2])
    first++;
  (void)snprintf(expected, sizeof expected, "sequence %d is the first that is", first);
  check_stopped(train(NULL, "a", true, "data.group=A5 data.length=2"), expected);
}

static void spikes_are_marked(void **state)
{
  (void)state;
  check_ok(train(NULL, "a", false, "train.steps=20 train.lr=1e-4 train.log_every=1000"));
  assert_null(metric("a", 20, "spike"));
  for (int row = 0; row < 6; row++)
    plant("a", "criterion.decoder.weight", row, row % 2 ? 100.0 : -100.0);
  check_ok(train(NULL, "a", true, "train.steps=22 train.lr=1e-4 train.log_every=1000"));
  json_t *spike = metric("a", 21, "spike"); /* logged although it is no multiple of log_every */
  assert_true(json_is_true(spike));
  json_decref(spike);
}

/* ---- TensorBoard ---- */

static uint64_t little_endian(const unsigned char *at, int bytes)
{
  uint64_t x = 0;
  for (int i = 0; i < bytes; i++)
    x |= (uint64_t)at[i] << 8 * i;
  return x;
}

static uint32_t masked(const unsigned char *data, size_t n)
{
  uint32_t crc = crc32c(data, n);
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

/* The records of a file; each checksum is tested. */
static int count_records(const char *path)
{
  char *text;
  size_t n, at = 0;
  int records = 0;
  check_ok(file_read(path, &text, &n));
  const unsigned char *bytes = (const unsigned char *)text;
  for (; at < n; records++) {
    assert_true(at + 12 <= n);
    size_t length = little_endian(bytes + at, 8);
    assert_int_equal(little_endian(bytes + at + 8, 4), masked(bytes + at, 8));
    assert_true(at + 16 + length <= n);
    assert_int_equal(little_endian(bytes + at + 12 + length, 4), masked(bytes + at + 12, length));
    at += 16 + length;
  }
  free(text);
  return records;
}

static void tensorboard_events(void **state)
{
  (void)state;
  assert_int_equal(crc32c("123456789", 9), 0xe3069283); /* RFC 3720's check value */
  check_ok(train(NULL, "a", false, "train.tensorboard=true"));
  check_ok(train(NULL, "a", true, "train.tensorboard=true train.steps=5"));
  DIR *d = opendir(scratch("a"));
  assert_non_null(d);
  int files = 0, records = 0;
  for (const struct dirent *e; (e = readdir(d));) {
    char path[600];
    if (!strstr(e->d_name, "tfevents"))
      continue;
    (void)snprintf(path, sizeof path, "%s/%s", scratch("a"), e->d_name);
    records += count_records(path);
    files++;
  }
  (void)closedir(d);
  assert_int_equal(files, 2);
  assert_int_equal(records, 2 * 2 + 3 + 2); /* version, start; steps 1 to 3, 4 to 5 */
}

/* TensorBoard reads what metrics.jsonl says: also after a run has gone back to a checkpoint. */
static void tensorboard_reads_events(void **state)
{
  (void)state;
  enum { NO_PACKAGE = 77 };
  const char *python = getenv("PYTHON"), *script = "tests/peers/tensorboard_reference.py";
  char command[1024];
  check_ok(train(NULL, "a", false, "train.tensorboard=true train.checkpoint_every=1"));
  check_ok(link_replace("checkpoints/step-00000002", scratch("a/latest")));
  check_ok(train(NULL, "a", true, "train.tensorboard=true train.steps=5 train.evaluate_every=5"));
  (void)snprintf(command, sizeof command, "%s %s %s 2>&1", python ? python : "python3", script,
                 scratch("a"));
  int status = path_exists(script) ? system(command) : NO_PACKAGE << 8;
  if (WEXITSTATUS(status) == NO_PACKAGE || WEXITSTATUS(status) == 127) {
    print_message("skipped: no Python with the package tensorboard (set PYTHON)\n");
    skip();
  }
  assert_int_equal(status, 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(accumulation),
      TEST(learning_rates),
      TEST(evaluations_choose_as_evaluate_does),
      TEST(lengths),
      TEST(one_process_trains_a_run),
      TEST(steps_that_are_made_stay_on_record),
      TEST(backward_choices),
      TEST(reports),
      TEST(precisions),
      TEST(everything_at_once),
      TEST(paper_recipes),
      TEST(each_planted_tensor_is_named),
      TEST(gradients_that_overflow),
      TEST(skipped_steps_are_no_updates),
      TEST(one_bad_sequence_harms_no_other),
      TEST(bad_sequence_is_named),
      TEST(spikes_are_marked),
      TEST(tensorboard_events),
      TEST(tensorboard_reads_events),
  };
  omp_set_num_threads(1);
  if (!access("/dev/shm", W_OK)) /* flushes take no time there */
    (void)setenv("TMPDIR", "/dev/shm", 0);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
