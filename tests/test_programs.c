/* test_programs.c: train and evaluate as a user meets them, on an S3 model that is really trained.
 */
#include "core/config.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "tests/spawn.h"
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Under the sanitizers, where that takes long, the model learns too little to be judged: they look
 * at what the programs do with it, with few sequences, and short ones. */
#ifdef __SANITIZE_ADDRESS__
enum { TAUGHT = 0, L = 12 };
#define STEPS "40"
#define UNROLLED "30"
#define SHARED_BATCH "6"
#else
enum { TAUGHT = 1, L = 40 };
#define STEPS "300"
#define UNROLLED "200"
#define SHARED_BATCH "17"
#endif

/* Learns S3 at length 12 in a second. */
static const char recipe[] =
    "model: {kind: implicit, d_model: 32, n_layer: 1,\n"
    "  mamba2: {d_state: 8, expand: 2, headdim: 16}}\n"
    "deq:\n"
    "  forward: {solver: picard, max_iter: 24, tol: 5.0e-2}\n"
    "  gradient: phantom\n"
    "  evaluate: {mode: sequential, solver: picard, max_iter: 2048, tol: 1.0e-2, damping: 0.8}\n"
    "data: {task: word_problem, group: S3, length: 12}\n"
    "train: {steps: " STEPS ", unroll_steps: " UNROLLED
    ", batch_size: 32, lr: 3.0e-3, lr_warmup: 50}\n"
    "evaluate: {lengths: [12, 48], sequences: 64}\n";

static char run[512]; /* the trained run */

static void put_config(const char *name)
{
  char yaml[2048], file[64];
  int n = snprintf(yaml, sizeof yaml, "name: %s\nruns_dir: %s\ndevice: cpu\n%s", name, scratch(""),
                   recipe);
  (void)snprintf(file, sizeof file, "%s.yaml", name);
  scratch_put(file, yaml, (size_t)n);
}

static int train_once(void **state)
{
  struct spawned r;
  scratch_make(state);
  put_config("s3");
  SPAWN(&r, "train", scratch("s3.yaml"));
  check_spawned(&r, 0, STEPS " steps done");
  (void)snprintf(run, sizeof run, "%s", scratch("s3"));
  return 0;
}

/* ---- evaluate --json ---- */

static double json_number(const json_t *root, const char *mode, size_t row, const char *key)
{
  json_t *v = json_object_get(
      json_array_get(json_object_get(json_object_get(root, "modes"), mode), row), key);
  if (!json_is_number(v))
    print_error("%s[%zu].%s is not a number\n", mode, row, key);
  assert_true(json_is_number(v));
  return json_number_value(v);
}

static json_t *evaluate_json(const char *override)
{
  struct spawned r;
  json_error_t error;
  char path[512];
  (void)snprintf(path, sizeof path, "%s", scratch("evaluate.json"));
  SPAWN(&r, "evaluate", run, "--json", path, override);
  check_spawned(&r, 0, "; word problem S3, ");
  assert_non_null(strstr(r.output, "sequential"));
  json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
  assert_non_null(root);
  return root;
}

static void tracks_state_beyond_its_training_length(void **state)
{
  (void)state;
  json_t *root = evaluate_json("evaluate.spectral_radius=8");
  assert_string_equal(json_string_value(json_object_get(root, "kind")), "implicit");
  const char *modes[] = {"sequential", "simultaneous"};
  for (int m = 0; TAUGHT && m < 2; m++)
    for (size_t i = 0; i < 2; i++) {
      assert_true(json_number(root, modes[m], i, "accuracy_last10") >= 0.99);
      assert_true(json_number(root, modes[m], i, "accuracy") >= 0.99);
      assert_true(json_number(root, modes[m], i, "converged") >= 0.99);
      assert_true(json_number(root, modes[m], i, "loss") < 0.1);
    }
  const json_t *agreement = json_array_get(json_object_get(root, "agreement"), 1);
  assert_true(!TAUGHT || json_number_value(agreement) >= 0.99);
  /* sequential work is that of a token; simultaneous moves a front through the sequence */
  assert_true(!TAUGHT || json_number(root, "sequential", 1, "iterations_mean") < 12);
  assert_true(!TAUGHT || json_number(root, "simultaneous", 1, "iterations_mean") > 40);
  /* a token's df/dz contracts, on average, by a half (a sequence's norm says nothing of it) */
  double radius = json_number_value(json_object_get(root, "spectral_radius"));
  double largest = json_number_value(json_object_get(root, "spectral_radius_max"));
  assert_true(!TAUGHT || (radius > 0.2 && radius < 0.8 && largest >= radius));
  json_decref(root);
}

static void window_has_the_work_of_the_sequential_mode(void **state)
{
  (void)state;
  char path[512];
  struct spawned r;
  json_error_t error;
  (void)snprintf(path, sizeof path, "%s", scratch("window.json"));
  SPAWN(&r, "evaluate", run, "--json", path, "deq.evaluate.window=8", "evaluate.lengths=[128]",
        "evaluate.sequences=8");
  check_spawned(&r, 0, "window 8");
  json_t *root = json_load_file(path, 0, &error);
  assert_non_null(root);
  double window = json_number(root, "sequential", 0, "evaluations_per_token");
  double whole = json_number(root, "simultaneous", 0, "evaluations_per_token");
  assert_true(!TAUGHT || (window < 20 && whole > 10 * window));
  assert_true(!TAUGHT || json_number(root, "sequential", 0, "converged") >= 0.99);
  json_decref(root);
}

/* ---- evaluate --tokens ---- */

enum { B = 3 }; /* sequences of L tokens */

static void put_tokens(const char *name, bool labels)
{
  int32_t ids[B * L];
  int64_t y[B * L];
  for (int i = 0; i < B * L; i++) {
    ids[i] = (i * i + 3 * i) % 6;
    y[i] = i % 7 == 0 ? -100 : (i * 5 + 1) % 6;
  }
  struct st_tensor t[] = {{"input_ids", ST_I32, 2, {B, L}, B * L, ids},
                          {"labels", ST_I64, 2, {B, L}, B * L, y}};
  check_ok(safetensors_write(scratch(name), t, labels ? 2 : 1));
}

/* Reads tensor `name` of a file of doubles; free it. */
static double *read_doubles(const char *file, const char *name, int64_t *n)
{
  struct safetensors f;
  check_ok(safetensors_read(scratch(file), &f));
  const struct st_tensor *t = safetensors_find(&f, name);
  assert_non_null(t);
  assert_int_equal(t->dtype, ST_F64);
  double *x = malloc((size_t)t->count * sizeof *x);
  assert_non_null(x);
  memcpy(x, t->data, (size_t)t->count * sizeof *x);
  *n = t->count;
  safetensors_free(&f);
  return x;
}

/* Sequential = window 8 = simultaneous on the trained model, at tolerance 1e-12 in float64. */
static void modes_agree_on_a_trained_model(void **state)
{
  (void)state;
  const char *modes[] = {"deq.evaluate.mode=simultaneous", "deq.evaluate.mode=sequential",
                         "deq.evaluate.window=8"};
  double *first = NULL;
  int64_t n, m;
  put_tokens("in.safetensors", true);
  for (int i = 0; i < 3; i++) {
    struct spawned r;
    char in[512], out[512], said[64];
    (void)snprintf(in, sizeof in, "%s", scratch("in.safetensors"));
    (void)snprintf(out, sizeof out, "%s", scratch("out.safetensors"));
    SPAWN(&r, "evaluate", run, "--tokens", in, "--logits", out, modes[i], "dtype=f64",
          "deq.evaluate.tol=1e-12", "deq.evaluate.max_iter=100000");
    (void)snprintf(said, sizeof said, "%d of %d samples converged", i ? B * L : B, i ? B * L : B);
    check_spawned(&r, 0, said);
    double *logits = read_doubles("out.safetensors", "logits", &n);
    double *hidden = read_doubles("out.safetensors", "hidden", &m);
    double *residual = read_doubles("out.safetensors", "residual", &m);
    assert_int_equal(n, B * L * 6);
    assert_int_equal(m, i ? B * L : B);
    for (int64_t k = 0; k < m; k++)
      assert_true(residual[k] <= 1e-12);
    if (first)
      check_arrays_close(n, logits, first, 1e-9, "%s", modes[i]);
    else
      first = logits;
    if (first != logits)
      free(logits);
    free(hidden), free(residual);
  }
  free(first);
}

/* shine where the forward solve leaves no inverse: said before the first step, and counted. */
static void shine_without_an_inverse_is_named(void **state)
{
  (void)state;
  const char *forward[] = {"deq.forward.window=4", "deq.forward.solver=auto",
                           "deq.forward.solver=picard"};
  const char *what[] = {"broyden, window 4, rank 20", "anderson, window 4, memory 5",
                        "picard, window all"};
  struct spawned r;
  put_config("shine");
  for (int i = 0; i < 3; i++) {
    char message[160];
    SPAWN(&r, "train", scratch("shine.yaml"), "deq.forward.solver=broyden", forward[i],
          "deq.gradient=shine", "train.steps=1", "train.unroll_steps=0", "--overwrite");
    (void)snprintf(message, sizeof message,
                   "deq.gradient: shine falls back to jfb: deq.forward is %s, not broyden, window "
                   "all",
                   what[i]);
    check_spawned(&r, 0, message);
  }
}

static void gradients_have_the_parameters_names(void **state)
{
  (void)state;
  const char *kinds[] = {"unroll", "phantom", "jfb", "ift", "shine"};
  char in[512], out[512];
  struct spawned r;
  put_tokens("in.safetensors", true);
  (void)snprintf(in, sizeof in, "%s", scratch("in.safetensors"));
  (void)snprintf(out, sizeof out, "%s", scratch("g.safetensors"));
  for (int i = 0; i < 5; i++) {
    char kind[64];
    struct safetensors f, model;
    (void)snprintf(kind, sizeof kind, "deq.gradient=%s", kinds[i]);
    SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", out, kind);
    check_spawned(&r, i == 3, kinds[i]); /* ift promises more than this forward solve keeps */
    check_ok(safetensors_read(out, &f));
    char path[600];
    (void)snprintf(path, sizeof path, "%s/latest/model.safetensors", run);
    check_ok(safetensors_read(path, &model));
    assert_int_equal(f.tensors, model.tensors);
    for (int64_t k = 0; k < f.tensors; k++) {
      const struct st_tensor *p = safetensors_find(&model, f.tensor[k].name);
      double square = 0;
      assert_non_null(p);
      assert_int_equal(p->count, f.tensor[k].count);
      for (int64_t j = 0; j < p->count; j++)
        square += pow((double)((const float *)f.tensor[k].data)[j], 2);
      assert_true(isfinite(square) && square > 0);
    }
    safetensors_free(&f);
    safetensors_free(&model);
  }
  put_tokens("unlabelled.safetensors", false);
  (void)snprintf(in, sizeof in, "%s", scratch("unlabelled.safetensors"));
  SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", out);
  check_spawned(&r, 2, "needs labels");
}

/* What does not converge is written, and the exit status says so. */
static void unconverged_answers_are_told(void **state)
{
  (void)state;
  char in[512], out[512];
  struct spawned r;
  put_tokens("in.safetensors", true);
  (void)snprintf(in, sizeof in, "%s", scratch("in.safetensors"));
  (void)snprintf(out, sizeof out, "%s", scratch("o.safetensors"));
  SPAWN(&r, "evaluate", run, "--tokens", in);
  check_spawned(&r, 0, "accuracy");
  SPAWN(&r, "evaluate", run, "--tokens", in, "deq.forward.solver=auto", "deq.backward.solver=auto",
        "deq.evaluate={mode: simultaneous, solver: auto, max_iter: 1000}");
  check_spawned(&r, 0, "accuracy");
  SPAWN(&r, "evaluate", run, "--tokens", in, "--json", scratch("j.json"));
  check_spawned(&r, 2, "--json writes the table");
  SPAWN(&r, "evaluate", run, "--tokens", in, "--logits", out, "deq.evaluate.max_iter=2");
  check_spawned(&r, 1, "did not converge (deq.evaluate: max_iter)");
  assert_true(path_exists(out));
  assert_int_equal(unlink(out), 0);
  SPAWN(&r, "evaluate", run, "--tokens", in, "--logits", scratch("l.safetensors"), "--gradients",
        out, "deq.gradient=unroll", "deq.evaluate.max_iter=2");
  check_spawned(&r, 1, "did not converge (deq.evaluate: max_iter)");
  assert_true(path_exists(out)); /* which does not depend on that solve */
  SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", out, "deq.gradient=ift",
        "deq.forward.max_iter=2");
  check_spawned(&r, 1, "did not converge (deq.forward: max_iter)");
  SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", out, "deq.gradient=ift",
        "deq.forward.window=8", "deq.forward.max_iter=2000", "deq.forward.damping=0.6",
        "deq.backward.max_iter=1");
  check_spawned(&r, 1, "did not converge (deq.backward: max_iter)");
  SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", out, "deq.gradient=shine");
  check_spawned(&r, 0, "sequences without shine's inverse");
  SPAWN(&r, "train", scratch("s3.yaml"), "name=useless", "train.steps=3", "train.unroll_steps=0",
        "deq.forward.max_iter=1");
  check_spawned(&r, 0, "no sequence's solve converges");
  check_spawned(&r, 0, "converged 0.0 % (max_iter)");
  SPAWN(&r, "train", scratch("s3.yaml"), "name=unrolled", "train.steps=3", "deq.gradient=ift");
  check_spawned(&r, 0, "deq.gradient: ift begins behind train.unroll_steps");
}

static void configurations_come_first(void **state)
{
  (void)state;
  struct spawned r;
  SPAWN(&r, "jacobian_check", "seed=1", scratch("s3.yaml"));
  check_spawned(&r, 2, "s3.yaml: a configuration comes before overrides");
  SPAWN(&r, "train", "seed=1", scratch("s3.yaml"));
  check_spawned(&r, 2, "seed=1: a configuration (FILE.yaml) comes before its overrides");
}

/* The gradient is that of the mean cross-entropy, whatever training adds to it. */
static void gradients_are_those_of_the_loss(void **state)
{
  (void)state;
  char in[512], a[512], b[512];
  struct spawned r;
  put_tokens("in.safetensors", true);
  (void)snprintf(in, sizeof in, "%s", scratch("in.safetensors"));
  (void)snprintf(a, sizeof a, "%s", scratch("a.safetensors"));
  (void)snprintf(b, sizeof b, "%s", scratch("b.safetensors"));
  SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", a);
  check_spawned(&r, 0, "gradient (phantom)");
  SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", b, "deq.correction.states=3",
        "deq.jacobian_regularisation.weight=0.5");
  check_spawned(&r, 0, "gradient (phantom)");
  assert_true(same_files(a, b));
}

static void bad_tokens_are_refused(void **state)
{
  (void)state;
  int32_t ids[] = {0, 1, 6, 2}, labels[] = {0, 1};
  struct st_tensor t[] = {{"input_ids", ST_I32, 2, {2, 2}, 4, ids},
                          {"labels", ST_I32, 2, {1, 2}, 2, labels}};
  struct spawned r;
  char in[512], out[512];
  (void)snprintf(in, sizeof in, "%s", scratch("bad.safetensors"));
  (void)snprintf(out, sizeof out, "%s", scratch("out.safetensors"));
  check_ok(safetensors_write(in, t, 1));
  SPAWN(&r, "evaluate", run, "--tokens", in, "--logits", out);
  check_spawned(&r, 3, "input_ids[1,0] is 6");
  ids[2] = 5;
  check_ok(safetensors_write(in, t, 2));
  SPAWN(&r, "evaluate", run, "--tokens", in, "--logits", out);
  check_spawned(&r, 3, "labels must have the shape of input_ids");
  struct st_tensor ignored[] = {
      t[0], {"labels", ST_I32, 2, {2, 2}, 4, (int32_t[]){-100, -100, -100, -100}}};
  check_ok(safetensors_write(in, ignored, 2));
  SPAWN(&r, "evaluate", run, "--tokens", in, "--gradients", out);
  check_spawned(&r, 2, "all are -100");
  SPAWN(&r, "evaluate", run, "--tokens", in, "--logits", out);
  check_spawned(&r, 0, "2 x 2 tokens");
  SPAWN(&r, "evaluate", run, "--tokens", "/nowhere/x.safetensors", "--logits", out);
  check_spawned(&r, 3, "/nowhere/x.safetensors");
  SPAWN(&r, "evaluate", run, "--logits", out);
  check_spawned(&r, 2, "need --tokens");
  SPAWN(&r, "evaluate", "/nowhere");
  check_spawned(&r, 3, "/nowhere");
}

/* Fills a tensor of a run's latest checkpoint. */
static void plant(const char *name, const char *tensor, float x)
{
  struct safetensors file;
  check_ok(safetensors_read(scratch(name), &file));
  const struct st_tensor *t = safetensors_find(&file, tensor);
  assert_non_null(t);
  assert_int_equal(t->dtype, ST_F32);
  for (int64_t i = 0; i < t->count; i++)
    ((float *)(uintptr_t)t->data)[i] = x;
  check_ok(safetensors_write(scratch(name), file.tensor, file.tensors));
  safetensors_free(&file);
}

/* A model with a NaN is none; one whose numbers overflow is evaluated, and that is told. */
static void what_is_not_finite_is_told(void **state)
{
  static const char *const kinds[] = {"model.kind=explicit", "model.kind=implicit"};
  (void)state;
  put_config("bad");
  put_tokens("in.safetensors", true);
  for (int i = 0; i < 2; i++) {
    struct spawned r;
    SPAWN(&r, "train", scratch("bad.yaml"), kinds[i], "train.steps=2", "--overwrite");
    check_spawned(&r, 0, "2 steps done");
    plant("bad/latest/model.safetensors", "backbone.norm_f.weight", 3.4e38f);
    SPAWN(&r, "evaluate", scratch("bad"), "evaluate.lengths=[8]", "evaluate.sequences=4");
    check_spawned(&r, 1, "not finite");
    SPAWN(&r, "evaluate", scratch("bad"), "--tokens", scratch("in.safetensors"), "--gradients",
          scratch("g.safetensors"), "deq.gradient=jfb");
    check_spawned(&r, 1, "not finite");
    plant("bad/latest/model.safetensors", "backbone.norm_f.weight", NAN);
    SPAWN(&r, "evaluate", scratch("bad"));
    check_spawned(&r, 3, "tensor backbone.norm_f.weight: element 0 is not finite");
    SPAWN(&r, "compare", scratch("bad"), "--output", scratch("compared"));
    check_spawned(&r, 3, "skipped: ");
  }
}

/* ---- determinism ---- */

static const char *const deterministic[] = {"latest/model.safetensors",
                                            "latest/optimizer.safetensors", "latest/trainer.json",
                                            "metrics.jsonl"};

/* Whole training steps, in batches that every thread has a part of; `overrides` ends with NULL. */
static void check_threads(const char *const *overrides, int most)
{
  static const char *const names[] = {"one", "two", "three"}, *const threads[] = {"1", "2", "3"};
  for (int i = 0; i < most; i++) {
    struct spawned r;
    char file[64], path[512], first[600], other[600];
    const char *words[24] = {path,
                             "train.steps=6",
                             "train.unroll_steps=3",
                             "train.batch_size=" SHARED_BATCH,
                             "data.length=33",
                             "train.log_every=1",
                             "train.log_timing=false",
                             "--overwrite"};
    put_config(names[i]);
    (void)snprintf(file, sizeof file, "%s.yaml", names[i]);
    (void)snprintf(path, sizeof path, "%s", scratch(file));
    for (int n = 8, k = 0; overrides[k]; k++)
      words[n++] = overrides[k];
    assert_int_equal(setenv("SPAWN_THREADS", threads[i], 1), 0);
    spawn_run("train", words, &r);
    assert_int_equal(unsetenv("SPAWN_THREADS"), 0);
    check_spawned(&r, 0, "6 steps done");
    for (size_t f = 0; i > 0 && f < sizeof deterministic / sizeof *deterministic; f++) {
      (void)snprintf(first, sizeof first, "%s/%s", scratch("one"), deterministic[f]);
      (void)snprintf(other, sizeof other, "%s/%s", scratch(names[i]), deterministic[f]);
      if (!same_files(first, other))
        fail_msg("%s: %s differs between 1 and %s threads", overrides[0], deterministic[f],
                 threads[i]);
    }
  }
}
#define THREADS(most, ...) check_threads((const char *const[]){__VA_ARGS__, NULL}, most)

static void same_seed_same_bytes_for_any_threads(void **state)
{
  (void)state;
  THREADS(3, "deq.gradient=ift");
  THREADS(2, "model.kind=explicit", "model.n_layer=2", "train.evaluate_every=3",
          "evaluate.sequences=9");
  THREADS(2, "deq.forward.window=8", "deq.forward.solver=anderson", "deq.gradient=ift",
          "deq.backward.window=8", "deq.backward.solver=broyden", "train.accumulate=2");
  THREADS(2, "deq.gradient=phantom", "model.dropout=0.1", "model.weight_norm=true",
          "model.d_intermediate=48", "model.mamba2.A_range=negative", "data.length_min=20");
}

/* ---- the command line ---- */

static void files_and_overrides(void **state)
{
  (void)state;
  static const char more[] = "deq: {gradient: ift}\ntrain: {steps: 2}\n";
  struct spawned r;
  struct config c;
  put_config("files");
  scratch_put("more.yaml", more, sizeof more - 1);
  SPAWN(&r, "train", scratch("files.yaml"), scratch("more.yaml"), "train.batch_size=4");
  check_spawned(&r, 0, "2 steps done");
  check_ok(config_load(scratch("files/config.yaml"), 0, NULL, &c));
  assert_true(c.deq.gradient == GRADIENT_IFT && c.train.batch_size == 4);
  SPAWN(&r, "train", scratch("files.yaml"), "more.txt");
  check_spawned(&r, 2, "neither an option");
  SPAWN(&r, "train", "--resume", scratch("files"), "--overwrite");
  check_spawned(&r, 2, "give one of them");
  SPAWN(&r, "train", "--resume", scratch("files"), "name=other");
  check_spawned(&r, 2, "name and runs_dir cannot be changed");
  SPAWN(&r, "train", "--resume", scratch("files"), "train.steps=3", "train.lr=1e-4");
  check_spawned(&r, 0, "train.lr: 0.0001, was 0.003");
  SPAWN(&r, "evaluate", run, "model.mamba2.norm_before_gate=true", "evaluate.sequences=4");
  assert_non_null(strstr(r.output, "model.mamba2.norm_before_gate: true, was false"));
  SPAWN(&r, "evaluate", run, "deq.evaluate.window=8", "evaluate.sequences=8");
  assert_null(strstr(r.output, ", was "));
  check_spawned(&r, 0, "\nwindow 8 ");
}

/* A program that starts itself again keeps the processors that OpenMP bound it away from. */
static void bound_threads_find_all_processors(void **state)
{
  (void)state;
  char want[64];
  struct spawned r;
  put_config("bound");
  (void)snprintf(want, sizeof want, "1 thread in each of our %ld", sysconf(_SC_NPROCESSORS_ONLN));
  assert_int_equal(setenv("SPAWN_THREADS", "", 1) | setenv("OMP_PROC_BIND", "true", 1), 0);
  const char *policy = getenv("OMP_WAIT_POLICY");
  char kept[32];
  (void)snprintf(kept, sizeof kept, "%s", policy ? policy : "");
  (void)unsetenv("OMP_WAIT_POLICY"); /* it starts itself again for want of a policy */
  SPAWN(&r, "train", scratch("bound.yaml"), "train.steps=2");
  assert_int_equal(unsetenv("SPAWN_THREADS") | unsetenv("OMP_PROC_BIND"), 0);
  if (*kept)
    (void)setenv("OMP_WAIT_POLICY", kept, 1);
  check_spawned(&r, 0, "2 steps done");
  if (sysconf(_SC_NPROCESSORS_ONLN) > 1 && strstr(r.output, "kernels"))
    check_spawned(&r, 0, want);
}

/* A check that would take minutes says what it is at, and ends at the first signal. */
static void a_long_check_is_stopped(void **state)
{
  (void)state;
  static const char *const words[] = {"model.d_model=128", "model.mamba2.d_state=16", "device=cpu",
                                      NULL};
  char log[512], *text = NULL;
  (void)snprintf(log, sizeof log, "%s", scratch("check.log"));
  pid_t pid = spawn_start("jacobian_check", log, words);
  for (int tries = 0; tries < 3000 && !(text && strstr(text, "2048 states")); tries++) {
    size_t n;
    free(text);
    text = NULL;
    (void)usleep(10000);
    if (path_exists(log))
      check_ok(file_read(log, &text, &n));
  }
  assert_non_null(text);
  assert_non_null(strstr(text, "2048 states"));
  free(text);
  assert_int_equal(kill(pid, SIGINT), 0);
  assert_int_equal(spawn_wait(pid), 130);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_long_check_is_stopped),
      cmocka_unit_test(tracks_state_beyond_its_training_length),
      cmocka_unit_test(window_has_the_work_of_the_sequential_mode),
      cmocka_unit_test(modes_agree_on_a_trained_model),
      cmocka_unit_test(shine_without_an_inverse_is_named),
      cmocka_unit_test(gradients_have_the_parameters_names),
      cmocka_unit_test(unconverged_answers_are_told),
      cmocka_unit_test(configurations_come_first),
      cmocka_unit_test(gradients_are_those_of_the_loss),
      cmocka_unit_test(bad_tokens_are_refused),
      cmocka_unit_test(files_and_overrides),
      cmocka_unit_test(bound_threads_find_all_processors),
      cmocka_unit_test(what_is_not_finite_is_told),
      cmocka_unit_test(same_seed_same_bytes_for_any_threads),
  };
  return cmocka_run_group_tests(tests, train_once, scratch_remove);
}
