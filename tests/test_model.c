/* test_model.c: the whole model's gradients against the complex step, and its modes against each
 * other. */
#include "kernels/blas.h"
#include "tests/model_gradient.h"
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void unroll_gradient(void **state)
{
  (void)state;
  check_gradient(small_model("", ""),
                 (struct gradient_case){.kind = GRADIENT_UNROLL, .tol = 1e-11});
}

static void phantom_gradient(void **state)
{
  (void)state;
  check_gradient(small_model("", ""),
                 (struct gradient_case){.kind = GRADIENT_PHANTOM, .tol = 1e-11});
  check_gradient(small_model("", ""), (struct gradient_case){.kind = GRADIENT_JFB, .tol = 1e-11});
}

static void ift_gradient(void **state)
{
  (void)state;
  check_gradient(small_model("", ""), (struct gradient_case){.kind = GRADIENT_IFT, .tol = 1e-9});
}

/* Every solver, also through the complex step: it stops only when both parts have converged. */
static void ift_gradient_by_any_solver(void **state)
{
  (void)state;
  const struct {
    enum fp_solver forward, backward;
    int64_t window;
  } cases[] = {{FP_ANDERSON, FP_GMRES, FP_WINDOW_ALL}, {FP_BROYDEN, FP_ANDERSON, 3}};
  for (int i = 0; i < 2; i++) {
    struct config c = small_model("", "");
    c.deq.forward.solver = cases[i].forward, c.deq.backward.solver = cases[i].backward;
    c.deq.forward.window = c.deq.backward.window = cases[i].window;
    c.model.n_layer = 1;
    check_gradient(c, (struct gradient_case){.kind = GRADIENT_IFT, .tol = 1e-9});
  }
}

static void mlp_gradient(void **state)
{
  (void)state;
  check_gradient(small_model("d_intermediate: 3,", ""),
                 (struct gradient_case){.kind = GRADIENT_UNROLL, .tol = 1e-11});
  check_gradient(small_model("d_intermediate: 3,", ""),
                 (struct gradient_case){.kind = GRADIENT_IFT, .tol = 1e-9});
}

static void explicit_gradient(void **state)
{
  (void)state;
  struct config c = small_model("d_intermediate: 3,", "");
  c.model.kind = MODEL_EXPLICIT;
  check_gradient(c, (struct gradient_case){.kind = GRADIENT_UNROLL, .tol = 1e-11});
}

/* unroll's first evaluation knows that z is zeros and leaves out what follows from it; jfb behind a
 * solve that may look at its guess only evaluates f there without knowing. */
static void zeros_are_as_any_start(void **state)
{
  (void)state;
  const char *const mamba2[] = {"", "bias: true,"};
  for (int i = 0; i < 2; i++) {
    struct config c = small_model(i ? "d_intermediate: 3," : "", mamba2[i]);
    struct tensor_list list;
    double *block = probe_parameters(&c, 0.3, 4, 11, &list);
    double *known = calloc((size_t)list.block, sizeof *known);
    double *unknown = calloc((size_t)list.block, sizeof *unknown);
    int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
    struct probe_result a = {.gradient = known}, b = {.gradient = unknown};
    draw_tokens(ROWS * LENGTH, tokens, labels);
    c.deq.unroll_iterations = c.deq.forward.max_iter = 1;
    struct probe_f64 *p = probe_open_f64(&c, ROWS, LENGTH, true, false);
    probe_set_f64(p, block, -1);
    probe_learn_f64(p, GRADIENT_UNROLL, tokens, labels, &a);
    probe_learn_f64(p, GRADIENT_JFB, tokens, labels, &b);
    assert_true(a.loss > 0 && fabs(a.loss - b.loss) <= 1e-14 * a.loss);
    check_arrays_close(list.block, known, unknown, 1e-13, "gradient from zeros");
    probe_close_f64(p);
    tensor_list_free(&list);
    free(block), free(known), free(unknown);
  }
}

/* ---- modes ---- */

enum { MODE_ROWS = 3, MODE_LENGTH = 20 };

/* Sequential, sliding and simultaneous solves, also of batches of another size, give one answer,
 * where there is one: of models this small some have tokens with two fixed points. */
static void modes_agree(void **state)
{
  (void)state;
  struct config c = small_model("", "");
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 1, &list);
  int64_t M = MODE_ROWS * MODE_LENGTH, n = M * c.model.d_model, v = M * c.model.vocab_size;
  int32_t tokens[MODE_ROWS * MODE_LENGTH];
  double *z = calloc((size_t)(2 * n + 2 * v), sizeof *z), *z1 = z + n, *l = z1 + n, *l1 = l + v;
  const int64_t windows[] = {FP_WINDOW_ALL, 1, 2, 8, 19, 20, 64};
  draw_tokens(M, tokens, NULL);
  c.deq.evaluate = c.deq.forward;
  c.deq.evaluate.tol = 1e-12;
  c.deq.evaluate.window = 64;
  struct probe_f64 *p = probe_open_f64(&c, MODE_ROWS, MODE_LENGTH, false, false);
  probe_set_f64(p, block, -1);
  for (int i = 0; i < 7; i++) {
    int32_t iterations[MODE_ROWS * MODE_LENGTH] = {0};
    uint8_t exits[MODE_ROWS * MODE_LENGTH] = {0};
    struct probe_result r = {.z = i ? z1 : z, .logits = i ? l1 : l};
    struct fp_options o = c.deq.evaluate;
    o.window = windows[i];
    r.forward.iterations = iterations, r.forward.exit = exits;
    probe_evaluate_f64(p, &o, MODE_ROWS, tokens, &r);
    assert_int_equal(r.forward.samples, i ? M : MODE_ROWS);
    assert_int_equal(r.forward.exits[FP_CONVERGED], r.forward.samples);
    assert_true(r.forward.worst_residual <= o.tol);
    for (int64_t k = 0; k < r.forward.samples; k++)
      assert_true(exits[k] == FP_CONVERGED && iterations[k] > 1);
    if (i) {
      check_arrays_close(n, z1, z, 1e-9, "z*, window %d", (int)windows[i]);
      check_arrays_close(v, l1, l, 1e-9, "logits, window %d", (int)windows[i]);
    }
    /* one row alone is the row among others */
    struct probe_result alone = {.z = z1};
    probe_evaluate_f64(p, &o, 1, tokens + MODE_LENGTH, &alone);
    check_arrays_close(n / MODE_ROWS, z1, z + n / MODE_ROWS, 1e-9, "row 1 alone");
  }
  probe_close_f64(p);
  tensor_list_free(&list);
  free(block), free(z);
}

/* Of rows alone and among others, solved by `o` for as many iterations. */
static void check_rows(const struct config *base, const struct fp_options *o, double tol)
{
  struct config c = *base;
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int64_t row = MODE_LENGTH * c.model.d_model, n = MODE_ROWS * row;
  int32_t tokens[MODE_ROWS * MODE_LENGTH];
  int32_t iterations[MODE_ROWS * MODE_LENGTH] = {0}, own[MODE_LENGTH] = {0};
  double *z = calloc((size_t)(n + row), sizeof *z), *one = z + n;
  struct probe_result all = {.z = z};
  draw_tokens(MODE_ROWS * MODE_LENGTH, tokens, NULL);
  c.deq.evaluate = *o;
  struct probe_f64 *p = probe_open_f64(&c, MODE_ROWS, MODE_LENGTH, false, false);
  all.forward.iterations = iterations;
  probe_set_f64(p, block, -1);
  probe_evaluate_f64(p, o, MODE_ROWS, tokens, &all);
  for (int64_t r = 0; r < MODE_ROWS; r++) {
    struct probe_result alone = {.z = one};
    int64_t samples = all.forward.samples / MODE_ROWS;
    alone.forward.iterations = own;
    probe_evaluate_f64(p, o, 1, tokens + r * MODE_LENGTH, &alone);
    assert_memory_equal(own, iterations + r * samples, (size_t)samples * sizeof *own);
    check_arrays_close(row, one, z + r * row, tol, "%s, window %d, memory %d, row %d",
                       fp_solver_name(o->solver), (int)o->window, (int)o->memory, (int)r);
  }
  probe_close_f64(p);
  tensor_list_free(&list);
  free(block), free(z);
}

/* A row among others is what it is alone, iteration by iteration: its bits may change with the
 * shapes of the matrix products, no more. */
static void rows_are_independent(void **state)
{
  (void)state;
  struct config c = small_model("", "");
  const int64_t windows[] = {FP_WINDOW_ALL, 1, 8};
  for (int i = 0; i < 3 * FP_GMRES; i++)
    for (int64_t memory = 2; memory <= 5; memory += 3) {
      struct fp_options o = c.deq.forward;
      o.solver = (enum fp_solver)(i / 3), o.window = windows[i % 3];
      o.tol = 0, o.max_iter = 8, o.return_last = true;
      o.memory = o.rank = memory;
      /* As many directions as a token's four unknowns: least squares that magnify any rounding,
       * where BLAS rounds the product of one row and of three differently (kernels/gemm.c). */
      bool magnified = memory > 2 && o.window == 1 && !blas_has_bare_kernels();
      check_rows(&c, &o, magnified ? 1e-8 : 1e-12);
    }
}

/* The explicit model token by token is the explicit model at once, whatever the chunk. */
static void explicit_forms_agree(void **state)
{
  (void)state;
  struct config c = small_model("d_intermediate: 3,", "");
  c.model.kind = MODEL_EXPLICIT;
  struct tensor_list list;
  double *block = probe_parameters(&c, 1, 1, 8, &list);
  const int64_t lengths[] = {1, 5, 64, 129}, chunks[] = {1, 7, 16, 64};
  for (int i = 0; i < 4; i++) {
    int64_t n = MODE_ROWS * lengths[i] * c.model.d_model;
    int32_t *tokens = calloc((size_t)(MODE_ROWS * lengths[i]), sizeof *tokens);
    double *z = calloc((size_t)(2 * n), sizeof *z);
    draw_tokens(MODE_ROWS * lengths[i], tokens, NULL);
    for (int k = 0; k < 4; k++) {
      c.model.mamba2.chunk_size = chunks[k];
      struct probe_f64 *p = probe_open_f64(&c, MODE_ROWS, lengths[i], false, false);
      struct fp_options o = c.deq.evaluate;
      struct probe_result at_once = {.z = z}, stepped = {.z = z + n};
      probe_set_f64(p, block, -1);
      o.window = FP_WINDOW_ALL;
      probe_evaluate_f64(p, &o, MODE_ROWS, tokens, &at_once);
      o.window = 1;
      probe_evaluate_f64(p, &o, MODE_ROWS, tokens, &stepped);
      check_arrays_close(n, z + n, z, 1e-12, "length %d, chunk %d", (int)lengths[i],
                         (int)chunks[k]);
      probe_close_f64(p);
    }
    free(tokens), free(z);
  }
  tensor_list_free(&list);
  free(block);
}

/* The adjoint solved by windows that slide from the end, by any solver, is the simultaneous one;
 * sequences longer than several chunks, windows shorter and longer than a chunk. */
static void adjoint_windows_agree(void **state)
{
  (void)state;
  enum { WINDOWS = 7 };
  const int64_t windows[WINDOWS] = {FP_WINDOW_ALL, 1, 2, 3, 5, 9, 64};
  const enum fp_solver solvers[WINDOWS] = {FP_PICARD,   FP_PICARD,  FP_ANDERSON, FP_PICARD,
                                           FP_ANDERSON, FP_BROYDEN, FP_GMRES};
  int32_t tokens[MODE_ROWS * MODE_LENGTH], labels[MODE_ROWS * MODE_LENGTH];
  draw_tokens(MODE_ROWS * MODE_LENGTH, tokens, labels);
  static const int32_t lengths[MODE_ROWS] = {MODE_LENGTH, 7, 1};
  for (int much = 0; much < 2; much++) {
    struct config c = small_model(
        much ? "weight_norm: true, dropout: 0.3, residual: 0.7, d_intermediate: 3," : "",
        much ? "d_ssm: 4, bias: true, D_has_hdim: true, norm_before_gate: true," : "");
    c.model.n_layer = much ? 1 : c.model.n_layer;
    struct tensor_list list;
    double *block = probe_parameters(&c, 0.3, 4, 7, &list);
    double *want = calloc((size_t)list.block, sizeof *want);
    double *got = calloc((size_t)list.block, sizeof *got);
    for (int i = 0; i < WINDOWS; i++) {
      struct probe_result r = {.gradient = i ? got : want};
      c.deq.backward.window = windows[i];
      c.deq.backward.solver = solvers[i];
      struct probe_f64 *p = probe_open_f64(&c, MODE_ROWS, MODE_LENGTH, true, false);
      probe_set_f64(p, block, -1);
      probe_batch_f64(p, much ? lengths : NULL, much == 1);
      probe_learn_f64(p, GRADIENT_IFT, tokens, labels, &r);
      probe_close_f64(p);
      assert_int_equal(r.backward.exits[FP_CONVERGED], r.backward.samples);
      assert_true(i == 0 ||
                  r.backward.samples == (much ? MODE_LENGTH + 8 : MODE_ROWS * MODE_LENGTH));
      check_arrays_close(list.block, i ? got : want, want, 1e-9, "window %d of the adjoint, %d",
                         (int)windows[i], much);
    }
    tensor_list_free(&list);
    free(block), free(want), free(got);
  }
}

/* What is planned for the adjoint's windows is enough for batches of any size. */
static void adjoint_windows_of_a_large_batch(void **state)
{
  (void)state;
  enum { MANY = 40, LONG = 30 };
  static int32_t tokens[MANY * LONG], labels[MANY * LONG];
  struct config c = small_model("", "");
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 1, &list);
  double *gradient = calloc((size_t)list.block, sizeof *gradient);
  struct probe_result r = {.gradient = gradient};
  draw_tokens(MANY * LONG, tokens, labels);
  c.deq.forward.window = c.deq.backward.window = 8;
  c.deq.forward.tol = c.deq.backward.tol = 1e-2;
  struct probe_f32 *p = probe_open_f32(&c, MANY, LONG, true, false);
  probe_set_f32(p, block, -1);
  probe_learn_f32(p, GRADIENT_IFT, tokens, labels, &r);
  probe_close_f32(p);
  assert_int_equal(r.backward.exits[FP_CONVERGED], MANY * LONG);
  tensor_list_free(&list);
  free(block), free(gradient);
}

/* A sequence of `length` behind itself, where operations work through the whole of both, and alone,
 * where f goes segment by segment: the same fixed point, loss and gradient.  Alone by one thread,
 * by five, which have segments side by side, and where there are so many threads that they share
 * the loops of one segment after the other (parallel_run): no bit differs. */
static void check_alone(int length)
{
  struct config c = small_model("d_intermediate: 6,", "");
  enum { RUNS = 4 };
  const int with[RUNS] = {1, 1, 5, 40};
  struct probe_result r[RUNS] = {0};
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int32_t *tokens = calloc((size_t)(2 * length), sizeof *tokens);
  int32_t *labels = calloc((size_t)(2 * length), sizeof *labels);
  draw_tokens(length, tokens, labels);
  memcpy(tokens + length, tokens, (size_t)length * sizeof *tokens);
  memcpy(labels + length, labels, (size_t)length * sizeof *labels);
  c.deq.forward.max_iter = 12; /* on the way: every iterate is the same too */
  int threads = omp_get_max_threads();
  for (int i = 0; i < RUNS; i++) {
    int rows = i == 1 ? 2 : 1;
    omp_set_num_threads(with[i]);
    r[i].gradient = calloc((size_t)list.block, sizeof *r[i].gradient);
    r[i].z = calloc((size_t)(2 * length * c.model.d_model), sizeof *r[i].z);
    struct probe_f64 *p = probe_open_f64(&c, rows, length, true, false);
    probe_set_f64(p, block, -1);
    struct probe_result shorter = {0};
    probe_shorten_f64(p, length / 3); /* whole again: memory was planned for both */
    probe_learn_f64(p, GRADIENT_PHANTOM, tokens, labels, &shorter);
    probe_shorten_f64(p, length);
    probe_learn_f64(p, GRADIENT_PHANTOM, tokens, labels, &r[i]);
    c.deq.forward.window = FP_WINDOW_ALL;
    probe_evaluate_f64(p, &c.deq.forward, rows, tokens, &r[i]);
    probe_close_f64(p);
  }
  omp_set_num_threads(threads);
  check_close(r[0].loss, r[1].loss, 1e-13, "loss");
  check_arrays_close(length * c.model.d_model, r[0].z, r[1].z, 1e-13, "z");
  check_arrays_close(list.block, r[0].gradient, r[1].gradient, 1e-11, "gradient");
  for (int i = 2; i < RUNS; i++) {
    assert_memory_equal(r[0].z, r[i].z, (size_t)(length * c.model.d_model) * sizeof *r[0].z);
    assert_memory_equal(r[0].gradient, r[i].gradient, (size_t)list.block * sizeof *r[0].gradient);
  }
  for (int i = 0; i < RUNS; i++)
    free(r[i].gradient), free(r[i].z);
  tensor_list_free(&list);
  free(block), free(tokens), free(labels);
}

/* Many segments, and a solve's one and a piece of the next, whose activations fit no second time
 * into those of the sequence. */
static void a_long_sequence_alone(void **state)
{
  (void)state;
  check_alone(2100);
  check_alone(127);
  check_alone(65);
}

/* A few iterations on one sequence: they fit in the memory that was planned. */
static void check_fits(const struct config *c, enum gradient_kind gradient)
{
  enum { TOKENS = 1024 };
  struct probe_result r = {0};
  struct tensor_list list;
  int32_t tokens[TOKENS], labels[TOKENS];
  double *block = probe_parameters(c, 0.3, 4, 7, &list);
  draw_tokens(TOKENS, tokens, labels);
  struct probe_f64 *p = probe_open_f64(c, 1, TOKENS, true, false);
  probe_set_f64(p, block, -1);
  probe_learn_f64(p, gradient, tokens, labels, &r);
  probe_close_f64(p);
  assert_true(isfinite(r.loss));
  tensor_list_free(&list);
  free(block);
}

/* Evaluations that keep no states go in one chunk, also where learning keeps them for windows. */
static void memory_of_one_chunk_is_planned(void **state)
{
  (void)state;
  struct config c = small_model("", "");
  c.model.mamba2.d_state = 256;
  c.deq.backward.window = 2;
  c.deq.forward.max_iter = 3;
  check_fits(&c, GRADIENT_PHANTOM);
}

/* A window is worked through whole where a sequence of its length would be in segments. */
static void memory_of_wide_windows_is_planned(void **state)
{
  (void)state;
  struct config c = small_model("", "");
  c.deq.forward.max_iter = c.deq.backward.max_iter = 2;
  c.deq.forward.window = 1000;
  check_fits(&c, GRADIENT_PHANTOM);
  c.deq.forward.window = FP_WINDOW_ALL;
  c.deq.backward.window = 1000;
  check_fits(&c, GRADIENT_IFT);
}

/* Memory does not depend on the number of iterations. */
static void memory_is_planned(void **state)
{
  (void)state;
  struct config c = small_model("", "");
  struct probe_result r[2] = {0};
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  draw_tokens(ROWS * LENGTH, tokens, labels);
  for (int i = 0; i < 2; i++) {
    c.deq.forward.max_iter = c.deq.backward.max_iter = i ? 1000 : 10;
    struct probe_f64 *p = probe_open_f64(&c, ROWS, LENGTH, true, false);
    probe_set_f64(p, block, -1);
    probe_learn_f64(p, GRADIENT_IFT, tokens, labels, &r[i]);
    probe_close_f64(p);
  }
  assert_int_equal(r[0].device_bytes, r[1].device_bytes);
  assert_int_equal(r[0].host_bytes, r[1].host_bytes);
  assert_true(r[0].forward.max_iterations == 10 && r[1].forward.max_iterations > 10);
  tensor_list_free(&list);
  free(block);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(unroll_gradient),
      cmocka_unit_test(zeros_are_as_any_start),
      cmocka_unit_test(phantom_gradient),
      cmocka_unit_test(ift_gradient),
      cmocka_unit_test(mlp_gradient),
      cmocka_unit_test(ift_gradient_by_any_solver),
      cmocka_unit_test(explicit_gradient),
      cmocka_unit_test(modes_agree),
      cmocka_unit_test(rows_are_independent),
      cmocka_unit_test(explicit_forms_agree),
      cmocka_unit_test(a_long_sequence_alone),
      cmocka_unit_test(memory_of_one_chunk_is_planned),
      cmocka_unit_test(memory_of_wide_windows_is_planned),
      cmocka_unit_test(memory_is_planned),
      cmocka_unit_test(adjoint_windows_agree),
      cmocka_unit_test(adjoint_windows_of_a_large_batch),
  };
  omp_set_num_threads(1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
