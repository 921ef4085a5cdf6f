/* test_options.c: every option of the model: its gradient against the complex step, and what it
 * means. */
#include "tests/model_gradient.h"
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CASE(...) \
  (struct gradient_case) { .tol = 1e-11, __VA_ARGS__ }

/* The option alone, through unrolled evaluations. */
static void check_option(const char *model, const char *mamba2)
{
  check_gradient(small_model(model, mamba2), CASE(.kind = GRADIENT_UNROLL));
}

static void gated_mlp(void **state)
{
  (void)state;
  check_option("d_intermediate: 3,", "");
}

static void narrower_state_space_part(void **state)
{
  (void)state;
  check_option("", "d_ssm: 4,");
}

static void biases(void **state)
{
  (void)state;
  check_option("", "bias: true, conv_bias: false,");
}

static void skip_by_channel(void **state)
{
  (void)state;
  check_option("", "D_has_hdim: true,");
}

static void norm_before_gate(void **state)
{
  (void)state;
  check_option("", "norm_before_gate: true,");
}

static void limits_of_delta(void **state)
{
  (void)state;
  check_option("", "dt_limit: [0.02, 0.06],");
}

static void residual_damping(void **state)
{
  (void)state;
  check_option("residual: 0.6, d_intermediate: 3,", "");
}

/* The initial Delta of at most 0.1 and A of at most 16 give decays from -0.6 to 1. */
static void negative_eigenvalues(void **state)
{
  (void)state;
  check_option("", "A_range: negative, dt_min: 0.02,");
}

static void weight_norm(void **state)
{
  (void)state;
  check_option("weight_norm: true, d_intermediate: 3,", "");
}

static void dropout(void **state)
{
  (void)state;
  struct config c = small_model("dropout: 0.4, d_intermediate: 3,", "");
  check_gradient(c, CASE(.kind = GRADIENT_UNROLL, .dropout = true));
  c.model.kind = MODEL_EXPLICIT;
  check_gradient(c, CASE(.kind = GRADIENT_UNROLL, .dropout = true));
}

static void padding(void **state)
{
  (void)state;
  static const int32_t lengths[ROWS] = {4, LENGTH};
  check_gradient(small_model("", ""), CASE(.kind = GRADIENT_PHANTOM, .lengths = lengths));
}

/* Through the solver, exactly: what each option does to the adjoint. */
static void everything_at_once(void **state)
{
  (void)state;
  static const int32_t lengths[ROWS] = {5, LENGTH};
  struct config c = small_model(
      "weight_norm: true, dropout: 0.3, residual: 0.7, d_intermediate: 3,",
      "d_ssm: 4, bias: true, D_has_hdim: true, norm_before_gate: true, dt_limit: [0.001, 0.2],");
  check_gradient(c, CASE(.kind = GRADIENT_UNROLL, .lengths = lengths, .dropout = true));
  c.model.n_layer = 1;
  check_gradient(c, (struct gradient_case){
                        .kind = GRADIENT_IFT, .lengths = lengths, .dropout = true, .tol = 1e-9});
}

/* ---- what options mean ---- */

struct run {
  double loss, *gradient;
  struct fp_result forward;
};

static struct run learn(struct config c, const double *block, int64_t rows, int64_t length,
                        const int32_t *tokens, const int32_t *labels, const int32_t *lengths,
                        bool dropout, enum gradient_kind kind, const struct tensor_list *list)
{
  struct run r = {.gradient = calloc((size_t)list->block, sizeof(double))};
  struct probe_f64 *p = probe_open_f64(&c, rows, length, true, false);
  struct probe_result result = {.gradient = r.gradient};
  probe_set_f64(p, block, -1);
  probe_batch_f64(p, lengths, dropout);
  probe_learn_f64(p, kind, tokens, labels, &result);
  probe_close_f64(p);
  r.loss = result.loss;
  r.forward = result.forward;
  return r;
}

/* Padded tokens change nothing: not the loss, not the gradient, not the number of iterations. */
static void padding_changes_nothing(void **state)
{
  (void)state;
  enum { LONG = 24 };
  static const int32_t lengths[1] = {LENGTH};
  struct config c = small_model("", "");
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int32_t tokens[LONG] = {0}, labels[LONG];
  draw_tokens(LENGTH, tokens, labels);
  for (int i = LENGTH; i < LONG; i++)
    tokens[i] = i % 6, labels[i] = -100;
  for (int k = 0; k < 2; k++) {
    enum gradient_kind kind = k ? GRADIENT_IFT : GRADIENT_PHANTOM;
    struct run a = learn(c, block, 1, LENGTH, tokens, labels, NULL, false, kind, &list);
    struct run b = learn(c, block, 1, LONG, tokens, labels, lengths, false, kind, &list);
    check_close(b.loss, a.loss, 1e-12, "loss with padding");
    check_arrays_close(list.block, b.gradient, a.gradient, 1e-10, "gradient with padding");
    assert_int_equal(a.forward.max_iterations, b.forward.max_iterations);
    free(a.gradient), free(b.gradient);
  }
  tensor_list_free(&list);
  free(block);
}

/* Dropout draws, keeps the mean, and is off when nothing asks for it. */
static void dropout_draws(void **state)
{
  (void)state;
  struct config c = small_model("dropout: 0.5,", ""), plain = small_model("", "");
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  draw_tokens(ROWS * LENGTH, tokens, labels);
  struct run off =
      learn(c, block, ROWS, LENGTH, tokens, labels, NULL, false, GRADIENT_UNROLL, &list);
  struct run none =
      learn(plain, block, ROWS, LENGTH, tokens, labels, NULL, true, GRADIENT_UNROLL, &list);
  struct run on = learn(c, block, ROWS, LENGTH, tokens, labels, NULL, true, GRADIENT_UNROLL, &list);
  assert_true(off.loss == none.loss);
  assert_true(fabs(on.loss - off.loss) > 1e-6);
  free(off.gradient), free(none.gradient), free(on.gradient);
  tensor_list_free(&list);
  free(block);
}

/* A direction's length means nothing; the length g scales the row. */
static void weight_norm_is_of_rows(void **state)
{
  (void)state;
  struct config c = small_model("weight_norm: true,", "");
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  draw_tokens(ROWS * LENGTH, tokens, labels);
  struct run a = learn(c, block, ROWS, LENGTH, tokens, labels, NULL, false, GRADIENT_UNROLL, &list);
  int directions = 0;
  for (int64_t i = 0; i < list.count; i++) {
    const struct tensor_spec *t = &list.tensor[i];
    size_t n = strlen(t->name);
    if (n < 9 || strcmp(t->name + n - 9, ".weight_v") != 0)
      continue;
    directions++;
    for (int64_t j = 0; j < t->count; j++)
      block[t->offset + j] *= 3;
    assert_string_equal(list.tensor[i - 1].name + n - 9, ".weight_g");
    assert_int_equal(list.tensor[i - 1].shape[0], t->shape[0]);
  }
  assert_int_equal(directions, 1 + 2 * 3); /* the injection; in_proj, conv1d, out_proj */
  struct run b = learn(c, block, ROWS, LENGTH, tokens, labels, NULL, false, GRADIENT_UNROLL, &list);
  check_close(b.loss, a.loss, 1e-13, "loss with longer directions");
  free(a.gradient), free(b.gradient);
  tensor_list_free(&list);
  free(block);
}

/* Steps of an explicit model with carried states, and the whole at once. */
static void check_forms(const char *model, const char *mamba2)
{
  enum { TOKENS = 20 };
  struct config c = small_model(model, mamba2);
  c.model.kind = MODEL_EXPLICIT;
  struct tensor_list list;
  double *block = probe_parameters(&c, 1, 1, 8, &list);
  int32_t tokens[ROWS * TOKENS];
  double z[ROWS * TOKENS * 4], stepped[ROWS * TOKENS * 4];
  draw_tokens(ROWS * TOKENS, tokens, NULL);
  struct probe_f64 *p = probe_open_f64(&c, ROWS, TOKENS, false, false);
  struct fp_options o = c.deq.evaluate;
  struct probe_result at_once = {.z = z}, by_steps = {.z = stepped};
  probe_set_f64(p, block, -1);
  o.window = FP_WINDOW_ALL;
  probe_evaluate_f64(p, &o, ROWS, tokens, &at_once);
  o.window = 1;
  probe_evaluate_f64(p, &o, ROWS, tokens, &by_steps);
  check_arrays_close(ROWS * TOKENS * 4, stepped, z, 1e-12, "token by token");
  probe_close_f64(p);
  tensor_list_free(&list);
  free(block);
}

static void forms_agree(void **state)
{
  (void)state;
  check_forms("residual: 0.8,", "d_ssm: 4,");
  check_forms("", "A_range: negative, dt_min: 0.02,");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gated_mlp),
      cmocka_unit_test(narrower_state_space_part),
      cmocka_unit_test(biases),
      cmocka_unit_test(skip_by_channel),
      cmocka_unit_test(norm_before_gate),
      cmocka_unit_test(limits_of_delta),
      cmocka_unit_test(residual_damping),
      cmocka_unit_test(negative_eigenvalues),
      cmocka_unit_test(weight_norm),
      cmocka_unit_test(dropout),
      cmocka_unit_test(padding),
      cmocka_unit_test(everything_at_once),
      cmocka_unit_test(padding_changes_nothing),
      cmocka_unit_test(dropout_draws),
      cmocka_unit_test(weight_norm_is_of_rows),
      cmocka_unit_test(forms_agree),
  };
  omp_set_num_threads(1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
