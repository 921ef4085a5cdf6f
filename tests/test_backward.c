/* test_backward.c: what stands for the exact gradient or is added to the loss: SHINE, fixed-point
 * correction, Jacobian regularisation. */
#include "tests/model_gradient.h"
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double dot(int64_t n, const double *x, const double *y)
{
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += x[i] * y[i];
  return sum;
}

/* ---- gradients of the small model ---- */

struct learnt {
  struct probe_result r;
  double *gradient;
  int64_t block;
};

static struct learnt learn(const struct config *c, enum gradient_kind kind)
{
  struct tensor_list list;
  struct learnt l = {0};
  double *block = probe_parameters(c, 0.3, 4, 7, &list);
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  l.block = list.block;
  l.gradient = calloc((size_t)list.block, sizeof *l.gradient);
  l.r.gradient = l.gradient;
  draw_tokens(ROWS * LENGTH, tokens, labels);
  struct probe_f64 *p = probe_open_f64(c, ROWS, LENGTH, true, false);
  probe_set_f64(p, block, -1);
  probe_learn_f64(p, kind, tokens, labels, &l.r);
  probe_learn_f64(p, kind, tokens, labels, &l.r); /* memory that was used before changes nothing */
  probe_close_f64(p);
  tensor_list_free(&list);
  free(block);
  return l;
}

static double cosine(const struct learnt *a, const struct learnt *b)
{
  return dot(a->block, a->gradient, b->gradient) /
         sqrt(dot(a->block, a->gradient, a->gradient) * dot(b->block, b->gradient, b->gradient));
}

static struct config broyden_model(void)
{
  struct config c = small_model("", "");
  c.deq.forward.solver = FP_BROYDEN;
  c.deq.forward.rank = 60;
  return c;
}

/* ---- SHINE ---- */

/* A direction of descent, though on a chain not a better one than jfb's: the steps of the forward
 * solve know little of where dL/dz* points.  Exact when an adjoint solve begins there. */
static void shine_approximates(void **state)
{
  (void)state;
  struct config c = broyden_model();
  c.deq.forward.tol = 1e-10; /* at the floor of rounding the last updates are noise */
  struct learnt exact = learn(&c, GRADIENT_IFT), shine = learn(&c, GRADIENT_SHINE);
  struct learnt jfb = learn(&c, GRADIENT_JFB);
  print_message("cosine with the exact gradient: shine %.6f, jfb %.6f\n", cosine(&shine, &exact),
                cosine(&jfb, &exact));
  assert_int_equal(shine.r.fallbacks, 0);
  assert_int_equal(shine.r.backward.samples, 0); /* no adjoint solve took place */
  assert_true(cosine(&shine, &exact) > 0.5 && cosine(&jfb, &exact) > 0.5);
  c.deq.guess_shine = true;
  struct learnt refined = learn(&c, GRADIENT_IFT);
  assert_int_equal(refined.r.fallbacks, 0);
  check_arrays_close(exact.block, refined.gradient, exact.gradient, 1e-8, "refined");
  c.deq.backward.window = 2;
  struct learnt sliding = learn(&c, GRADIENT_IFT);
  check_arrays_close(exact.block, sliding.gradient, exact.gradient, 1e-8, "refined by windows");
  free(exact.gradient), free(shine.gradient), free(jfb.gradient), free(refined.gradient);
  free(sliding.gradient);
}

/* Without a forward Broyden every sequence falls back to jfb at z*, counted. */
static void shine_falls_back(void **state)
{
  (void)state;
  struct config c = small_model("", "");
  struct learnt shine = learn(&c, GRADIENT_SHINE);
  c.deq.forward.solver = FP_BROYDEN;
  c.deq.forward.window = 2;
  struct learnt windows = learn(&c, GRADIENT_SHINE);
  struct learnt jfb = learn(&c, GRADIENT_JFB); /* z* is a fixed point to 1e-13 */
  assert_int_equal(shine.r.fallbacks, ROWS);
  assert_int_equal(windows.r.fallbacks, ROWS);
  check_arrays_close(jfb.block, shine.gradient, jfb.gradient, 1e-10, "picard");
  check_arrays_close(jfb.block, windows.gradient, jfb.gradient, 1e-10, "windows");
  free(shine.gradient), free(windows.gradient), free(jfb.gradient);
}

/* ---- fixed-point correction ---- */

static struct config corrected_model(int64_t states, enum correction_weights weights, double gamma)
{
  struct config c = small_model("", "");
  c.model.n_layer = 1;
  c.deq.forward.max_iter = 12; /* not converged: the iterates differ */
  c.deq.forward.tol = 1e-3;
  c.deq.correction = (struct correction_config){states, weights, gamma};
  return c;
}

static void correction_gradient(void **state)
{
  (void)state;
  static const int32_t lengths[ROWS] = {LENGTH, 3};
  struct gradient_case with = {.kind = GRADIENT_PHANTOM, .tol = 1e-11, .direction = true};
  with.unconverged = true;
  check_gradient(corrected_model(3, CORRECTION_EXPONENTIAL, 0.8), with);
  with.kind = GRADIENT_JFB, with.lengths = lengths;
  check_gradient(corrected_model(5, CORRECTION_LINEAR, 0.5), with);
}

/* The objective is the sum of the iterates' weighted losses, each of which is that of a solve that
 * ends there; the gradient is theirs. */
static void correction_is_a_sum(void **state)
{
  (void)state;
  const double want[3][3] = {{0.25, 0.5, 1}, {2.0 / 3, 5.0 / 6, 1}, {1, 1, 1}};
  struct learnt alone[3];
  for (int k = 0; k < 3; k++) {
    struct config c = corrected_model(1, CORRECTION_CONSTANT, 0);
    c.deq.forward.max_iter = 4 * (k + 1);
    c.deq.forward.tol = 0;
    c.deq.forward.return_last = true;
    alone[k] = learn(&c, GRADIENT_PHANTOM);
  }
  assert_true(fabs(alone[0].r.loss - alone[1].r.loss) > 1e-4);
  for (int w = 0; w < 3; w++) {
    struct config c = corrected_model(3, (enum correction_weights)w, 0.5);
    c.deq.forward.tol = 0;
    c.deq.forward.return_last = true;
    struct learnt all = learn(&c, GRADIENT_PHANTOM);
    double loss = 0, *sum = calloc((size_t)all.block, sizeof *sum);
    for (int k = 0; k < 3; k++) {
      loss += want[w][k] * alone[k].r.loss;
      for (int64_t i = 0; i < all.block; i++)
        sum[i] += want[w][k] * alone[k].gradient[i];
    }
    check_close(all.r.loss, loss, 1e-13, "objective, weights %d", w);
    check_arrays_close(all.block, all.gradient, sum, 1e-12, "gradient, weights %d", w);
    free(sum), free(all.gradient);
  }
  for (int k = 0; k < 3; k++)
    free(alone[k].gradient);
}

/* Iterates behind convergence are z*, also of rows that left the batch early. */
static void correction_behind_convergence(void **state)
{
  (void)state;
  struct config c = corrected_model(4, CORRECTION_CONSTANT, 0);
  c.deq.forward.max_iter = 4000; /* all but the guess' iterates lie behind */
  c.deq.forward.tol = 1e-6;
  struct learnt all = learn(&c, GRADIENT_PHANTOM);
  c.deq.correction.states = 1;
  struct learnt one = learn(&c, GRADIENT_PHANTOM);
  assert_true(all.r.forward.max_iterations < 1000);
  check_close(all.r.loss, 4 * one.r.loss, 1e-13, "four times z*");
  free(all.gradient), free(one.gradient);
}

/* A row that has left the batch when an iterate is kept is in it as it left. */
static void correction_of_rows_that_left(void **state)
{
  (void)state;
  struct config c = corrected_model(1, CORRECTION_CONSTANT, 0);
  c.deq.forward.max_iter = 4000, c.deq.forward.tol = 1e-6, c.deq.forward.return_last = true;
  struct learnt whole = learn(&c, GRADIENT_PHANTOM);
  int64_t late = whole.r.forward.max_iterations;
  int64_t early = (int64_t)(2 * whole.r.forward.mean_iterations) - late, between = late - 1;
  assert_true(ROWS == 2 && early < between && 2 * between >= late);
  c.deq.forward.max_iter = between;
  struct learnt there = learn(&c, GRADIENT_PHANTOM);
  c.deq.forward.max_iter = 2 * between;
  c.deq.correction.states = 2;
  struct learnt both = learn(&c, GRADIENT_PHANTOM);
  check_close(both.r.loss, there.r.loss + whole.r.loss, 1e-13, "two iterates");
  free(whole.gradient), free(there.gradient), free(both.gradient);
}

/* With ift z* is differentiated exactly, the others by phantom. */
static void correction_beside_ift(void **state)
{
  (void)state;
  struct config c = corrected_model(2, CORRECTION_CONSTANT, 0);
  c.deq.forward.max_iter = 4000, c.deq.forward.tol = 1e-13;
  struct learnt both = learn(&c, GRADIENT_IFT);
  c.deq.correction.states = 1;
  struct learnt ift = learn(&c, GRADIENT_IFT), phantom = learn(&c, GRADIENT_PHANTOM);
  for (int64_t i = 0; i < ift.block; i++)
    ift.gradient[i] += phantom.gradient[i];
  check_arrays_close(ift.block, both.gradient, ift.gradient, 1e-9, "ift + phantom");
  free(both.gradient), free(ift.gradient), free(phantom.gradient);
}

/* ---- Jacobian regularisation ---- */

static struct config regularised_model(double weight, int64_t vectors, double step)
{
  struct config c = small_model("d_intermediate: 3,", "");
  c.model.n_layer = 1;
  c.deq.regularisation = (struct regularisation_config){weight, 1, step, vectors};
  return c;
}

/* A wide difference keeps rounding small: its gradient is exact for any step. */
static void regularisation_gradient(void **state)
{
  (void)state;
  static const int32_t lengths[ROWS] = {LENGTH, 3};
  struct gradient_case with = {.kind = GRADIENT_PHANTOM, .tol = 1e-11, .direction = true};
  check_gradient(regularised_model(3, 2, 0.05), with);
  with.lengths = lengths, with.dropout = true, with.kind = GRADIENT_JFB;
  struct config c = regularised_model(3, 1, 0.05);
  c.model.dropout = 0.3;
  c.deq.unroll_iterations = 1; /* fewer than the two evaluations of a difference */
  c.deq.phantom_steps = 1;
  check_gradient(c, with);
}

static double jacobian_norm(struct config c)
{
  enum { N = ROWS * LENGTH * 4 };
  static double J[N * N];
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  struct probe_result r = {0};
  draw_tokens(ROWS * LENGTH, tokens, labels);
  c.deq.regularisation.weight = 0;
  struct probe_f64 *p = probe_open_f64(&c, ROWS, LENGTH, true, false);
  probe_set_f64(p, block, -1);
  probe_learn_f64(p, GRADIENT_IFT, tokens, labels, &r);
  probe_jacobian_f64(p, J);
  probe_close_f64(p);
  tensor_list_free(&list);
  free(block);
  return dot(N * N, J, J) / N;
}

/* The estimate is |df/dz|^2/n: its mean over many vectors is that of the columns of df/dz. */
static void regularisation_estimates(void **state)
{
  (void)state;
  struct learnt many, first, other;
  struct config c = regularised_model(1, 200, 0);
  c.deq.regularisation.weight = 2;
  many = learn(&c, GRADIENT_PHANTOM);
  c.deq.regularisation.step = 1e-3;
  other = learn(&c, GRADIENT_PHANTOM);
  c.deq.regularisation.weight = 0;
  first = learn(&c, GRADIENT_PHANTOM);
  assert_true(first.r.jacobian < 0 && many.r.jacobian > 0);
  check_close(many.r.loss, first.r.loss + 2 * many.r.jacobian, 1e-13, "objective");
  check_close(other.r.jacobian, many.r.jacobian, 1e-4, "other steps");
  check_close(many.r.jacobian, jacobian_norm(c), 0.1, "|df/dz|^2/n");
  c.deq.regularisation.weight = 2, c.deq.regularisation.probability = 0;
  struct learnt never = learn(&c, GRADIENT_PHANTOM);
  assert_true(never.r.jacobian < 0 && never.r.loss == first.r.loss);
  free(many.gradient), free(first.gradient), free(other.gradient), free(never.gradient);
}

/* What is behind a sequence's end counts for nothing: a batch of short sequences in long rows is
 * the batch of short rows, whatever the tokens behind are. */
static void regularisation_ignores_padding(void **state)
{
  (void)state;
  enum { SHORT = 3 };
  static const int32_t lengths[ROWS] = {SHORT, SHORT};
  struct config c = regularised_model(3, 1, 0);
  struct tensor_list list;
  struct probe_result r[2] = {0};
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  draw_tokens(ROWS * LENGTH, tokens, labels);
  for (int i = 0; i < ROWS * LENGTH; i++)
    labels[i] = i % LENGTH < SHORT ? labels[i] : -100;
  for (int k = 0; k < 2; k++) {
    struct probe_f64 *p = probe_open_f64(&c, ROWS, LENGTH, true, false);
    probe_set_f64(p, block, -1);
    probe_batch_f64(p, lengths, false);
    probe_learn_f64(p, GRADIENT_PHANTOM, tokens, labels, &r[k]);
    probe_close_f64(p);
    for (int i = 0; i < ROWS * LENGTH; i++)
      tokens[i] = i % LENGTH < SHORT ? tokens[i] : 5 - tokens[i];
  }
  check_close(r[1].jacobian, r[0].jacobian, 1e-12, "other tokens behind the end");
  tensor_list_free(&list);
  free(block);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shine_approximates),
      cmocka_unit_test(shine_falls_back),
      cmocka_unit_test(correction_gradient),
      cmocka_unit_test(correction_is_a_sum),
      cmocka_unit_test(correction_behind_convergence),
      cmocka_unit_test(correction_of_rows_that_left),
      cmocka_unit_test(correction_beside_ift),
      cmocka_unit_test(regularisation_gradient),
      cmocka_unit_test(regularisation_estimates),
      cmocka_unit_test(regularisation_ignores_padding),
  };
  omp_set_num_threads(1);
#ifdef __GLIBC__
  (void)mallopt(M_PERTURB,
                0x100); /* what nobody has written is NaN, not what a solve before left */
#endif
  return cmocka_run_group_tests(tests, NULL, NULL);
}
