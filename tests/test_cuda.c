/* test_cuda.c: the GPU's backend against the CPU's: every operation, whole models, training and
 * jacobian_check.  `make gpu-test` runs it on a GPU.  Without DEQMAMBA_CUDA it takes the plug-in's
 * sources as they run on the CPU over a stand-in for CUDA (tests/emulation), whose device memory is
 * closed to everybody but kernels and copies: that tests all but the GPU. */
#include "core/files.h"
#include "kernels/backends.h"
#include "solvers/registry.h"
#include "tests/derivatives.h"
#include "tests/emulation/graphs.h"
#include "tests/model_gradient.h"
#include "tests/numeric/device_operations.h"
#include "tests/numeric/device_solves.h"
#include "tests/spawn.h"
#include <dlfcn.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

CASE_LIST(simple_operations);
CASE_LIST(ssd_operations);

static struct plugin gpu;
static struct backend_cpu cpu;
static uint64_t seed; /* fresh inputs each time on a GPU */
static bool emulated;

/* Where the sanitizers look on, only what they can see is worth its time, the host's side: the
 * stand-in and the kernels on it are not compiled for them. */
#ifdef __SANITIZE_ADDRESS__
#define kernels_alone() skip()
#else
#define kernels_alone() (void)0
#endif

static void operations(void **state)
{
  (void)state;
  check_on_device(simple_operations, gpu.f32, gpu.f64, FLOAT_UNIT, seed);
}

static void recurrences(void **state)
{
  (void)state;
  kernels_alone();
  check_on_device(ssd_operations, gpu.f32, gpu.f64, FLOAT_UNIT, seed);
}

/* Another device: its compute capability and what shared memory a block may have. */
static void pretend(const char *major, const char *bytes)
{
  assert_int_equal(setenv("EMULATED_MAJOR", major, 1), 0);
  assert_int_equal(setenv("EMULATED_SHARED", bytes, 1), 0);
}

/* An A100, and one of the smaller ones, without products by warpgroups and with less shared memory:
 * kernels that take less, or others. */
static void other_devices(void **state)
{
  static const char *const bytes[] = {"166912", "101376"};
  (void)state;
  kernels_alone();
  if (!emulated)
    skip();
  for (int i = 0; i < 2; i++) {
    struct plugin other;
    pretend("8", bytes[i]);
    check_ok(backend_cuda_open(PLUGIN_IEEE, &other));
    assert_non_null(strstr(other.device, "sm_80"));
    device_unkept_outputs_f32(cpu.f32, other.f32, seed);
    device_whole_sequences_f32(cpu.f32, other.f32, seed);
    check_ok(backend_cuda_open(PLUGIN_TF32, &other));
    check_on_device(ssd_operations, other.f32, other.f64, TF32_UNIT, seed);
  }
  assert_int_equal(unsetenv("EMULATED_MAJOR") | unsetenv("EMULATED_SHARED"), 0);
  check_ok(backend_cuda_open(PLUGIN_IEEE, &gpu));
}

/* With products of tf32: gradients of weights. */
static void rounded_weights(void **state)
{
  (void)state;
  kernels_alone();
  struct plugin rounded;
  check_ok(backend_cuda_open(PLUGIN_TF32, &rounded));
  device_rounded_weights_f32(cpu.f32, rounded.f32, seed);
  device_rounded_weights_f64(cpu.f64, rounded.f64, seed);
  if (!emulated)
    device_many_weights_f32(cpu.f32, rounded.f32, seed);
  check_ok(backend_cuda_open(PLUGIN_IEEE, &gpu));
}

/* The other operations. */
static void rounded_products(void **state)
{
  (void)state;
  kernels_alone();
  struct plugin rounded;
  check_ok(backend_cuda_open(PLUGIN_TF32, &rounded));
  check_on_device(simple_operations, rounded.f32, rounded.f64, TF32_UNIT, seed);
  check_on_device(ssd_operations, rounded.f32, rounded.f64, TF32_UNIT, seed);
  device_rounded_norm_products_f32(cpu.f32, rounded.f32, seed);
  device_rounded_norm_products_f64(cpu.f64, rounded.f64, seed);
  device_rounded_gated_linear_f32(cpu.f32, rounded.f32, seed);
  device_rounded_gated_linear_f64(cpu.f64, rounded.f64, seed);
  device_rounded_linear_conv_f32(cpu.f32, rounded.f32, seed);
  device_rounded_linear_conv_f64(cpu.f64, rounded.f64, seed);
  device_rounded_whole_sequences_f32(cpu.f32, rounded.f32, seed);
  if (!emulated) {
    device_many_linear_conv_f32(cpu.f32, rounded.f32, seed);
    device_many_norm_products_f32(cpu.f32, rounded.f32, seed);
    device_many_gated_rows_f32(cpu.f32, rounded.f32, seed);
  }
  check_ok(backend_cuda_open(PLUGIN_IEEE, &gpu));
}

#define DEFINE(name)                    \
  static void name(void **state)        \
  {                                     \
    (void)state;                        \
    kernels_alone();                    \
    name##_f32(cpu.f32, gpu.f32, seed); \
    name##_f64(cpu.f64, gpu.f64, seed); \
  }
DEVICE_TESTS(DEFINE)

/* ---- graphs ---- */

/* What the stand-in has done with graphs so far; on a GPU nobody counts. */
static struct emulated_graphs graphs_so_far(void)
{
  static const struct emulated_graphs *count;
  if (!count && emulated) {
    void *plugin = dlopen(getenv("DEQMAMBA_CUDA"), RTLD_NOW);
    assert_non_null(plugin);
    count = dlsym(plugin, "emulated_graphs");
    assert_non_null(count);
  }
  return count ? *count : (struct emulated_graphs){0};
}

static struct solve_calls solve_on_gpu(int solve, bool wide, bool looks)
{
  return wide ? device_solve_f64(gpu.f64, gpu.solver_f64, solve, looks)
              : device_solve_f32(gpu.f32, gpu.solver_f32, solve, looks);
}

/* Twice each, so that the second finds its executable. */
static void graphs(void **state)
{
  (void)state;
  for (int i = 0; i < 4 * DEVICE_SOLVES; i++) {
    int solve = i / 2 % DEVICE_SOLVES;
    struct emulated_graphs before = graphs_so_far();
    struct solve_calls c = solve_on_gpu(solve, i >= 2 * DEVICE_SOLVES, false);
    struct emulated_graphs after = graphs_so_far();
    (void)printf("%s: %d calls, %d graphs, %d replays\n", device_solve_name(solve), c.calls,
                 c.captured, c.replayed);
    assert_true(c.captured > 0 && c.replayed >= c.captured);
    if (!emulated)
      continue;
    assert_int_equal(after.captured - before.captured, c.captured);
    assert_int_equal(after.replayed - before.replayed, c.replayed);
    assert_int_equal(after.refused, 0);
    if (i % 2)
      assert_int_equal(after.updated - before.updated, c.captured);
  }
}

/* More graphs than executables are kept. */
static void refused_updates(void **state)
{
  (void)state;
  if (!emulated)
    skip();
  assert_int_equal(setenv("EMULATED_GRAPHS", "update", 1), 0);
  for (int i = 0; i < 2 * DEVICE_SOLVES; i++) {
    struct emulated_graphs before = graphs_so_far();
    struct solve_calls c = solve_on_gpu(i / 2, true, false);
    struct emulated_graphs after = graphs_so_far();
    assert_int_equal(after.instantiated - before.instantiated, c.captured);
    assert_int_equal(after.replayed - before.replayed, c.replayed);
  }
  assert_int_equal(unsetenv("EMULATED_GRAPHS"), 0);
  assert_true(graphs_so_far().refused > 0);
}

/* The first failure is the last: this test is the last that captures in this process. */
static void failed_captures(void **state)
{
  (void)state;
  struct emulated_graphs before = graphs_so_far();
  for (int i = 0; i < DEVICE_SOLVES; i++)
    assert_true(solve_on_gpu(i, true, true).replayed > 0);
  assert_int_equal(graphs_so_far().replayed, before.replayed);
  assert_true(solve_on_gpu(0, true, false).calls > 0);
  assert_int_equal(graphs_so_far().replayed, before.replayed);
}

/* ---- whole models ---- */

/* Gradients, solver statistics, logits of one model on one device. */
struct answer {
  struct probe_result learnt, evaluated;
};

static void ask(const struct config *c, const double *block, const struct tensor_list *list,
                enum gradient_kind kind, const struct fp_options *o, bool on_gpu, struct answer *a)
{
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  struct solver_ports ports = solver_ports_for("cpu");
  struct probe_f64 *p = on_gpu ? probe_open_on_f64(c, gpu.f64, gpu.solver_f64, ROWS, LENGTH, true)
                               : probe_open_on_f64(c, cpu.f64, ports.f64, ROWS, LENGTH, true);
  memset(a, 0, sizeof *a);
  a->learnt.gradient = calloc((size_t)list->block, sizeof(double));
  a->evaluated.z = calloc((size_t)(ROWS * LENGTH * c->model.d_model), sizeof(double));
  a->evaluated.logits = calloc((size_t)(ROWS * LENGTH * c->model.vocab_size), sizeof(double));
  assert_true(a->learnt.gradient && a->evaluated.z && a->evaluated.logits);
  draw_tokens(ROWS * LENGTH, tokens, labels);
  probe_set_f64(p, block, -1);
  probe_batch_f64(p, NULL, c->model.dropout > 0);
  probe_learn_f64(p, kind, tokens, labels, &a->learnt);
  probe_evaluate_f64(p, o, ROWS, tokens, &a->evaluated);
  probe_close_f64(p);
}

static void check_model(struct config c, enum gradient_kind kind, enum fp_solver solver,
                        int64_t window)
{
  struct tensor_list list;
  struct answer want, got;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  struct fp_options o = c.deq.forward;
  o.solver = solver, o.window = window, o.memory = 3, o.rank = 4;
  c.deq.backward.solver = solver, c.deq.backward.window = window;
  c.deq.backward.memory = 3, c.deq.backward.rank = 4;
  ask(&c, block, &list, kind, &o, false, &want);
  ask(&c, block, &list, kind, &o, true, &got);
  check_close(got.learnt.loss, want.learnt.loss, 1e-11, "loss");
  check_arrays_close(list.block, got.learnt.gradient, want.learnt.gradient, 1e-10, "gradient (%s)",
                     gradient_name(kind));
  check_arrays_close(ROWS * LENGTH * c.model.d_model, got.evaluated.z, want.evaluated.z, 1e-10,
                     "fixed point, %s, window %d", fp_solver_name(solver), (int)window);
  check_arrays_close(ROWS * LENGTH * c.model.vocab_size, got.evaluated.logits,
                     want.evaluated.logits, 1e-10, "logits");
  assert_int_equal(got.evaluated.forward.exits[FP_CONVERGED],
                   want.evaluated.forward.exits[FP_CONVERGED]);
  for (int i = 0; i < 2; i++) {
    struct answer *a = i ? &got : &want;
    free(a->learnt.gradient), free(a->evaluated.z), free(a->evaluated.logits);
  }
  free(block);
  tensor_list_free(&list);
}

static void models(void **state)
{
  (void)state;
  assert_int_equal(unsetenv("EMULATED_OPEN"), 0); /* the core's code must not touch device memory */
  check_model(small_model("", ""), GRADIENT_UNROLL, FP_PICARD, 1);
  check_model(small_model("", ""), GRADIENT_PHANTOM, FP_ANDERSON, FP_WINDOW_ALL);
  check_model(small_model("", ""), GRADIENT_IFT, FP_ANDERSON, 3);
  check_model(small_model("", ""), GRADIENT_IFT, FP_BROYDEN, 2);
  check_model(small_model("d_intermediate: 6, dropout: 0.2, weight_norm: true,", "d_ssm: 4,"),
              GRADIENT_IFT, FP_PICARD, FP_WINDOW_ALL);
  check_model(small_model("", "A_range: negative,"), GRADIENT_JFB, FP_BROYDEN, FP_WINDOW_ALL);
  struct config explicit_one = small_model("", "");
  explicit_one.model.kind = MODEL_EXPLICIT;
  check_model(explicit_one, GRADIENT_UNROLL, FP_PICARD, 1);
}

/* By tensors, so that a small one counts as much. */
static void check_gradients_close(const struct tensor_list *list, const double *got,
                                  const double *want, double tol, const char *what)
{
  for (int64_t i = 0; i < list->count; i++) {
    const struct tensor_spec *t = &list->tensor[i];
    double error = 0, norm = 0;
    for (int64_t k = t->offset; k < t->offset + t->count; k++) {
      error += (got[k] - want[k]) * (got[k] - want[k]);
      norm += want[k] * want[k];
    }
    check_close(1 + sqrt(error / norm), 1, tol, "error of %s's gradient (%s)", t->name, what);
  }
}

/* A whole model whose shapes take every kernel by warpgroups, in float32 with products of tf32,
 * against the CPU's float64. */
static void rounded_models(void **state)
{
  (void)state;
  kernels_alone();
  enum { TOKENS = 64, MOST = 264 };
  static const enum gradient_kind kinds[] = {GRADIENT_UNROLL, GRADIENT_PHANTOM};
  static const char yaml[] =
      "name: rounded\nmodel: {kind: implicit, d_model: 64, n_layer: 1,\n"
      "  mamba2: {d_state: 32, expand: 4, headdim: 16, chunk_size: 32}}\n"
      "deq:\n  forward: {solver: picard, max_iter: 2, min_iter: 2, tol: 1.0e-6}\n"
      "  unroll: {iterations: 2, damping: 0.8}\n  phantom: {steps: 1, damping: 0.7}\n"
      "data: {task: word_problem, group: S3, length: 64}\n";
  static int32_t tokens[MOST * TOKENS], labels[MOST * TOKENS];
  const double tol = 8 * TF32_UNIT;
  int64_t rows = emulated ? 4 : MOST;
  struct config c;
  struct plugin rounded;
  struct tensor_list list;
  check_ok(config_parse("rounded.yaml", yaml, sizeof yaml - 1, &c));
  c.model.vocab_size = 6;
  check_ok(backend_cuda_open(PLUGIN_TF32, &rounded));
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  draw_tokens(rows * TOKENS, tokens, labels);
  for (int i = 0; i < 2; i++) {
    struct probe_result want = {0}, got = {0};
    want.gradient = calloc((size_t)list.block, sizeof(double));
    got.gradient = calloc((size_t)list.block, sizeof(double));
    assert_true(want.gradient && got.gradient);
    struct probe_f64 *on_cpu =
        probe_open_on_f64(&c, cpu.f64, solver_ports_for("cpu").f64, rows, TOKENS, true);
    probe_set_f64(on_cpu, block, -1);
    probe_learn_f64(on_cpu, kinds[i], tokens, labels, &want);
    probe_close_f64(on_cpu);
    struct probe_f32 *on_gpu =
        probe_open_on_f32(&c, rounded.f32, rounded.solver_f32, rows, TOKENS, true);
    probe_set_f32(on_gpu, block, -1);
    probe_learn_f32(on_gpu, kinds[i], tokens, labels, &got);
    probe_close_f32(on_gpu);
    check_close(got.loss, want.loss, tol, "loss (%s)", gradient_name(kinds[i]));
    check_gradients_close(&list, got.gradient, want.gradient, tol, gradient_name(kinds[i]));
    free(want.gradient), free(got.gradient);
  }
  free(block);
  tensor_list_free(&list);
  check_ok(backend_cuda_open(PLUGIN_IEEE, &gpu));
}

/* ---- programs ---- */

/* The stand-in is slow: fewer steps of fewer sequences, and states that tensor cores leave. */
static int steps(void) { return emulated ? 10 : 20; }

static const char recipe[] =
    "model: {kind: implicit, d_model: 16, n_layer: 1,\n"
    "  mamba2: {d_state: %d, expand: 2, headdim: %d, chunk_size: 8}}\n"
    "deq:\n"
    "  forward: {solver: picard, max_iter: 6, min_iter: 6, tol: 1.0e-6}\n"
    "  gradient: phantom\n"
    "  evaluate: {mode: sequential, solver: picard, max_iter: 12, tol: 1.0e-2, damping: 0.8}\n"
    "data: {task: word_problem, group: S3, length: 12}\n"
    "train: {steps: %d, unroll_steps: %d, batch_size: %d, lr: 3.0e-3, lr_warmup: 5, log_every: 1,\n"
    "  log_timing: false}\n"
    "evaluate: {lengths: [5, 7], sequences: 2}\n";

static void train(const char *name, const char *device, const char *dtype)
{
  struct spawned r;
  char yaml[2048], file[64], d[32], t[32], done[32];
  int n = snprintf(yaml, sizeof yaml, "name: %s\nruns_dir: %s\n", name, scratch(""));
  n += snprintf(yaml + n, sizeof yaml - (size_t)n, recipe, emulated ? 8 : 32, emulated ? 8 : 16,
                steps(), emulated ? 4 : 10, emulated ? 3 : 8);
  (void)snprintf(file, sizeof file, "%s.yaml", name);
  (void)snprintf(d, sizeof d, "device=%s", device);
  (void)snprintf(t, sizeof t, "dtype=%s", dtype);
  scratch_put(file, yaml, (size_t)n);
  SPAWN(&r, "train", scratch(file), d, t);
  (void)snprintf(done, sizeof done, "%d steps done", steps());
  check_spawned(&r, 0, done);
  check_spawned(&r, 0, strcmp(device, "cuda") == 0 ? "device cuda (" : "device cpu");
}

/* The losses of metrics.jsonl. */
static int losses(const char *name, double loss[32])
{
  char path[64], *text;
  size_t bytes;
  int n = 0;
  (void)snprintf(path, sizeof path, "%s/metrics.jsonl", name);
  check_ok(file_read(scratch(path), &text, &bytes));
  for (char *line = text, *rest; line && *line && n < 32; line = rest) {
    rest = strchr(line, '\n');
    json_t *o = json_loadb(line, rest ? (size_t)(rest - line) : strlen(line), 0, NULL);
    assert_non_null(o);
    loss[n++] = json_number_value(json_object_get(o, "loss"));
    json_decref(o);
    rest = rest ? rest + 1 : NULL;
  }
  free(text);
  return n;
}

static void training(void **state)
{
  (void)state;
  static const struct {
    const char *dtype, *cpu, *gpu;
    double tol;
  } runs[] = {{"f32", "cpu32", "gpu32", 1e-4}, {"f64", "cpu64", "gpu64", 1e-10}};
  for (int i = 0; i < 2; i++) {
    double want[32], got[32];
    train(runs[i].cpu, "cpu", runs[i].dtype);
    if (i == 0)
      assert_int_equal(setenv("EMULATED_OPEN", "1", 1), 0);
    train(runs[i].gpu, "cuda", runs[i].dtype);
    assert_int_equal(unsetenv("EMULATED_OPEN"), 0);
    int n = losses(runs[i].cpu, want);
    assert_int_equal(n, steps());
    assert_int_equal(losses(runs[i].gpu, got), n);
    check_arrays_close(n, got, want, runs[i].tol, "losses (%s)", runs[i].dtype);
  }
}

/* A checkpoint of one device is the other's: same table, but for the time it took. */
static void evaluating(void **state)
{
  (void)state;
  struct spawned on_cpu, on_gpu;
  SPAWN(&on_cpu, "evaluate", scratch("gpu64"), "device=cpu");
  SPAWN(&on_gpu, "evaluate", scratch("gpu64"), "device=cuda");
  check_spawned(&on_cpu, 0, "simultaneous");
  check_spawned(&on_gpu, 0, "simultaneous");
  const char *want = strstr(on_cpu.output, "sequential"),
             *got = strstr(on_gpu.output, "sequential");
  assert_non_null(want);
  assert_non_null(got);
  assert_string_equal(got, want);
}

/* Without graphs, the default, or where they fail: the same table. */
static void evaluating_without_graphs(void **state)
{
  (void)state;
  static const char *const failures[] = {"capture", "instantiate"};
  struct spawned want, got;
  SPAWN(&want, "evaluate", scratch("gpu64"), "device=cuda");
  check_spawned(&want, 0, "simultaneous");
  assert_null(strstr(want.output, "graphs are off"));
  const char *table = strstr(want.output, "sequential");
  assert_int_equal(setenv("DEQMAMBA_CUDA_GRAPHS", "0", 1), 0);
  SPAWN(&got, "evaluate", scratch("gpu64"), "device=cuda");
  assert_int_equal(unsetenv("DEQMAMBA_CUDA_GRAPHS"), 0);
  check_spawned(&got, 0, table);
  assert_null(strstr(got.output, "graphs are off"));
  for (int i = 0; i < 2 && emulated; i++) {
    assert_int_equal(setenv("EMULATED_GRAPHS", failures[i], 1), 0);
    SPAWN(&got, "evaluate", scratch("gpu64"), "device=cuda");
    assert_int_equal(unsetenv("EMULATED_GRAPHS"), 0);
    check_spawned(&got, 0, table);
    check_spawned(&got, 0, "CUDA graphs are off: ");
  }
}

/* Sequences that leave a large solve one by one, so that products take many shapes, with graphs and
 * without; too large for the stand-in. */
static void leaving(void **state)
{
  (void)state;
  struct spawned r;
  static const char yaml[] =
      "name: large\n"
      "model: {kind: implicit, d_model: 256, n_layer: 1, weight_norm: true, dropout: 0.05,\n"
      "  mamba2: {d_state: 128, expand: 4, headdim: 64, chunk_size: 64}}\n"
      "deq: {evaluate: {mode: sequential, solver: picard, max_iter: 128, tol: 5.0e-2, damping: "
      "0.8}}\n"
      "data: {task: word_problem, group: A5, monoid: aperiodic, identity_probability: 0.5,\n"
      "  length: 256}\n"
      "train: {steps: 200, unroll_steps: 200, batch_size: 512, lr: 1.0e-3, lr_warmup: 20, clip: "
      "0.25}\n"
      "evaluate: {lengths: [256, 512], sequences: 128}\n";
  if (emulated)
    skip();
  scratch_put("large.yaml", yaml, sizeof yaml - 1);
  char runs[1100];
  (void)snprintf(runs, sizeof runs, "runs_dir=%s", scratch(""));
  SPAWN(&r, "train", scratch("large.yaml"), runs, "device=cuda", "matmul=tf32");
  check_spawned(&r, 0, "200 steps done");
  for (int graphs = 0; graphs < 2; graphs++) {
    assert_int_equal(setenv("DEQMAMBA_CUDA_GRAPHS", graphs ? "1" : "0", 1), 0);
    SPAWN(&r, "evaluate", scratch("large"), "device=cuda");
    check_spawned(&r, 0, "simultaneous");
  }
}

static void jacobian(void **state)
{
  (void)state;
  struct spawned r;
  SPAWN(&r, "jacobian_check", "device=cuda", "model.d_model=8", "model.mamba2.headdim=8",
        "jacobian.tokens=3");
  check_spawned(&r, 0, "PASSED");
}

static bool names_source(const char *text)
{
  return strstr(text, ".c:") || strstr(text, "_cuda.h:");
}

/* What a user sees of an operation that fails. */
static void failures_have_names(void **state)
{
  (void)state;
  struct spawned r;
  if (!emulated)
    skip();
  assert_int_equal(setenv("EMULATED_FAULT", "50", 1), 0);
  SPAWN(&r, "evaluate", scratch("gpu64"), "device=cuda");
  assert_int_equal(unsetenv("EMULATED_FAULT"), 0);
  check_spawned(&r, 3, "CUDA: ");
  assert_true(names_source(r.output));
  check_spawned(&r, 3, "unspecified launch failure");
  assert_int_equal(setenv("EMULATED_GRAPHS", "launch", 1), 0); /* of one that is captured */
  SPAWN(&r, "evaluate", scratch("gpu64"), "device=cuda");
  assert_int_equal(unsetenv("EMULATED_GRAPHS"), 0);
  assert_true(names_source(r.output));
  check_spawned(&r, 3, "unspecified launch failure");
}

static void no_device(void **state)
{
  (void)state;
  struct spawned r;
  if (!emulated)
    skip();
  assert_int_equal(setenv("EMULATED_DEVICES", "0", 1), 0);
  SPAWN(&r, "evaluate", scratch("gpu64"), "device=cuda");
  check_spawned(&r, 3, "no CUDA device: ");
  SPAWN(&r, "evaluate", scratch("gpu64"), "device=auto");
  check_spawned(&r, 0, "device cpu");
  assert_int_equal(unsetenv("EMULATED_DEVICES"), 0);
  SPAWN(&r, "evaluate", scratch("gpu64"), "device=auto");
  check_spawned(&r, 0, "device cuda (emulated");
}

/* build/libdeqmamba_emulated.so, above this program; false: a GPU's plug-in was named, or there is
 * none. */
static bool take_emulation(void)
{
  char path[1024];
  if (getenv("DEQMAMBA_CUDA"))
    return false;
  ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
  if (n <= 0)
    return false;
  path[n] = 0;
  *strrchr(path, '/') = 0;
  (void)strcat(path, "/../libdeqmamba_emulated.so");
  if (!path_exists(path)) /* one that the build for the sanitizers shares with the other */
    (void)strcpy(strrchr(path, '/'), "/../libdeqmamba_emulated.so");
  return path_exists(path) && setenv("DEQMAMBA_CUDA", path, 1) == 0;
}

int main(int argc, char **argv)
{
#define LIST(name) cmocka_unit_test(name),
  const struct CMUnitTest tests[] = {
      DEVICE_TESTS(LIST) cmocka_unit_test(operations),
      cmocka_unit_test(recurrences),
      cmocka_unit_test(other_devices),
      cmocka_unit_test(rounded_products),
      cmocka_unit_test(rounded_weights),
      cmocka_unit_test(graphs),
      cmocka_unit_test(refused_updates),
      cmocka_unit_test(models),
      cmocka_unit_test(rounded_models),
      cmocka_unit_test(failed_captures),
      cmocka_unit_test(training),
      cmocka_unit_test(evaluating),
      cmocka_unit_test(evaluating_without_graphs),
      cmocka_unit_test(leaving),
      cmocka_unit_test(jacobian),
      cmocka_unit_test(failures_have_names),
      cmocka_unit_test(no_device),
  };
  if (argc > 1) /* the names of some, by a pattern */
    cmocka_set_test_filter(argv[1]);
  emulated = take_emulation();
  if (!emulated && !getenv("DEQMAMBA_CUDA")) {
    (void)printf(
        "skipped: no C++ compiler made the stand-in, and DEQMAMBA_CUDA names no plug-in\n");
    return 0;
  }
  (void)unsetenv("DEQMAMBA_CUDA_GRAPHS");
  if (backend_cpu_select(&cpu) != OK || backend_cuda_open(PLUGIN_IEEE, &gpu) != OK) {
    (void)fprintf(stderr, "%s\n", last_error());
    return exit_code(ERR_DEVICE);
  }
  (void)setenv("EMULATED_OPEN", "1", 1); /* until `models`: operations alone */
  const char *drawn = getenv("SEED");
  seed = drawn ? strtoull(drawn, NULL, 10) : emulated ? 1 : (uint64_t)time(NULL);
  (void)printf("device %s, inputs drawn by seed %llu\n", gpu.device, (unsigned long long)seed);
  return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
