/* test_shards.c: a batch learned in shards is the batch learned at once. */
#include "core/parallel.h"
#include "core/status.h"
#include "tests/model_gradient.h"
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES = 41, TOKENS = 6, ALL = SEQUENCES * TOKENS };

/* One batch: in shards, or at once. */
struct learnt {
  struct probe_result r;
  struct probe_details d;
  int64_t block;
  int status;
};

struct lesson {
  struct config c;
  enum gradient_kind kind;
  bool padding, dropout;
  bool every_label; /* no token that counts is without: the loss's and regularisation's weights */
  int fail_at;      /* 1 more than the solve that fails; 0: none */
};

static struct learnt learn(const struct lesson *w, bool in_shards)
{
  struct tensor_list list;
  struct learnt l = {0};
  double *block = probe_parameters(&w->c, 0.3, 4, 7, &list);
  int32_t tokens[ALL], labels[ALL], lengths[SEQUENCES];
  l.block = list.block;
  l.r.gradient = calloc((size_t)list.block, sizeof *l.r.gradient);
  l.d.exit = calloc(ALL, 1);
  draw_tokens(ALL, tokens, labels);
  for (int i = 0; w->every_label && i < ALL; i++)
    labels[i] = i % 6;
  for (int i = 0; i < SEQUENCES; i++) {
    lengths[i] = 1 + i % TOKENS;
    for (int t = lengths[i]; w->padding && t < TOKENS; t++)
      labels[i * TOKENS + t] = -100;
  }
  struct probe_f64 *p = probe_open_f64(&w->c, SEQUENCES, TOKENS, true, false);
  probe_set_f64(p, block, -1);
  probe_batch_f64(p, w->padding ? lengths : NULL, w->dropout);
  if (in_shards) {
    l.status = probe_learn_in_shards_f64(p, w->kind, tokens, labels, w->fail_at - 1, &l.r, &l.d);
  } else {
    probe_learn_f64(p, w->kind, tokens, labels, &l.r);
    probe_details_f64(p, &l.d);
  }
  probe_close_f64(p);
  tensor_list_free(&list);
  free(block);
  return l;
}

static void release(struct learnt *l) { free(l->r.gradient), free(l->d.exit); }

static void check_shards(const struct lesson *w, const char *what)
{
  struct learnt one = learn(w, false), many = learn(w, true);
  assert_true(many.d.shards > 1);
  check_arrays_close(one.block, many.r.gradient, one.r.gradient, 1e-12, "%s: gradient", what);
  check_close(many.r.loss, one.r.loss, 1e-13, "%s: loss", what);
  assert_int_equal(many.d.correct, one.d.correct);
  assert_int_equal(many.d.bad, one.d.bad);
  assert_int_equal(many.r.forward.samples, one.r.forward.samples);
  assert_int_equal(many.r.backward.samples, one.r.backward.samples);
  assert_memory_equal(many.d.exit, one.d.exit, ALL);
  assert_memory_equal(many.r.forward.exits, one.r.forward.exits, sizeof one.r.forward.exits);
  if (one.r.jacobian >= 0)
    check_close(many.r.jacobian, one.r.jacobian, 1e-12, "%s: regularisation", what);
  assert_int_equal(many.r.fallbacks, one.r.fallbacks);
  release(&one), release(&many);
}

/* ---- what a shard must not change ---- */

static void every_gradient(void **state)
{
  (void)state;
  struct lesson w = {.c = small_model("", "")};
  for (w.kind = GRADIENT_UNROLL; w.kind <= GRADIENT_IFT; w.kind++)
    check_shards(&w, gradient_name(w.kind));
}

static void every_kind_of_batch(void **state)
{
  (void)state;
  struct lesson w = {.c = small_model("dropout: 0.3, weight_norm: true, d_intermediate: 8,", "")};
  w.kind = GRADIENT_PHANTOM, w.padding = w.dropout = true;
  check_shards(&w, "padding, dropout, weight norm");
  w.c.deq.forward.window = 2;
  check_shards(&w, "a window");
  w.c = small_model("", "");
  w.c.deq.forward.window = 3, w.c.deq.backward.window = 2;
  w.kind = GRADIENT_IFT;
  check_shards(&w, "windows forwards and backwards");
}

static void what_is_added_to_the_loss(void **state)
{
  (void)state;
  struct lesson w = {.c = small_model("", "")};
  w.kind = GRADIENT_PHANTOM, w.padding = w.dropout = w.every_label = true;
  w.c.deq.regularisation.weight = 0.4;
  w.c.deq.correction.states = 3;
  check_shards(&w, "regularisation and correction");
}

static void an_explicit_model(void **state)
{
  (void)state;
  struct lesson w = {.c = small_model("", "")};
  w.c.model.kind = MODEL_EXPLICIT;
  check_shards(&w, "explicit");
}

/* ---- evaluating ---- */

enum { TRACED = 40 };

/* What a solve tells of every sample. */
struct told {
  struct probe_result r;
  struct probe_details d;
  int32_t iterations[ALL], best[ALL];
  double residual[ALL], trace[ALL * TRACED];
  uint8_t exit[ALL];
};

static struct told *evaluate(const struct config *c, const struct fp_options *o, bool in_shards)
{
  struct tensor_list list;
  struct told *t = calloc(1, sizeof *t);
  int32_t tokens[ALL];
  double *block = probe_parameters(c, 0.3, 4, 7, &list);
  assert_non_null(t);
  draw_tokens(ALL, tokens, NULL);
  t->d.best = t->best;
  t->r.forward.iterations = t->iterations, t->r.forward.residual = t->residual;
  t->r.forward.exit = t->exit, t->r.forward.trace = o->trace ? t->trace : NULL;
  struct probe_f64 *p = probe_open_f64(c, SEQUENCES, TOKENS, false, false);
  probe_set_f64(p, block, -1);
  if (in_shards)
    probe_evaluate_in_shards_f64(p, o, tokens, &t->r, &t->d);
  else
    probe_evaluate_f64(p, o, SEQUENCES, tokens, &t->r);
  if (!in_shards)
    probe_details_f64(p, &t->d);
  probe_close_f64(p);
  tensor_list_free(&list);
  free(block);
  return t;
}

/* Every sample's iterations, residual, exit and trace, and the totals. */
static void check_told(struct config c, struct fp_options o, int samples)
{
  c.deq.evaluate = o;
  struct told *one = evaluate(&c, &o, false), *many = evaluate(&c, &o, true);
  assert_true(many->d.shards > 1);
  assert_memory_equal(many->best, one->best, sizeof one->best);
  assert_int_equal(many->r.forward.samples, samples);
  assert_int_equal(one->r.forward.samples, samples);
  assert_memory_equal(many->iterations, one->iterations, sizeof one->iterations);
  assert_memory_equal(many->exit, one->exit, sizeof one->exit);
  assert_memory_equal(many->r.forward.exits, one->r.forward.exits, sizeof one->r.forward.exits);
  assert_int_equal(many->r.forward.max_iterations, one->r.forward.max_iterations);
  assert_int_equal(many->r.forward.block_evaluations, one->r.forward.block_evaluations);
  check_close(many->r.forward.mean_iterations, one->r.forward.mean_iterations, 1e-13, "mean");
  for (int i = 0; i < samples; i++) {
    assert_true(fabs(many->residual[i] - one->residual[i]) <= 1e-12);
    for (int k = 0; k < one->iterations[i]; k++)
      assert_true(fabs(many->trace[i * TRACED + k] - one->trace[i * TRACED + k]) <= 1e-12);
  }
  free(one), free(many);
}

static void every_sample_is_told_the_same(void **state)
{
  (void)state;
  struct config c = small_model("", "");
  struct fp_options o = c.deq.forward;
  o.tol = 1e-6;
  o.trace = true;
  o.max_iter = TRACED;
  o.window = FP_WINDOW_ALL;
  check_told(c, o, SEQUENCES);
  o.window = 1;
  check_told(c, o, ALL);
  o.window = 3;
  check_told(c, o, ALL);
}

/* ---- threads ---- */

static void threads_change_no_bit(void **state)
{
  (void)state;
  static const int threads[] = {2, 3, 40};
  struct lesson w = {.c = small_model("weight_norm: true,", ""), .kind = GRADIENT_IFT};
  int before = omp_get_max_threads();
  omp_set_num_threads(1);
  struct learnt alone = learn(&w, true);
  for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
    omp_set_num_threads(threads[i]);
    struct learnt many = learn(&w, true);
    assert_int_equal(omp_get_max_threads(), threads[i]);
    assert_memory_equal(many.r.gradient, alone.r.gradient,
                        (size_t)alone.block * sizeof *alone.r.gradient);
    assert_true(many.r.loss == alone.r.loss);
    release(&many);
  }
  omp_set_num_threads(before);
  release(&alone);
}

struct visits {
  atomic_int count[100];
  int width;
};

static void visit(void *ctx, int64_t i)
{
  struct visits *v = ctx;
  atomic_fetch_add(&v->count[i], 1);
  int inside = 0;
#pragma omp parallel for reduction(+ : inside)
  for (int k = 0; k < 50; k++)
    inside++;
  if (inside != 50 || parallel_width() != v->width)
    atomic_fetch_add(&v->count[i], 1000);
}

/* Every part once, its own loops whole, however many threads there are. */
static void every_part_once(void **state)
{
  (void)state;
  int before = omp_get_max_threads();
  for (int threads = 1; threads < 6; threads++)
    for (int count = 0; count < 100; count += 33) {
      struct visits v = {.width = 2 * count <= threads || threads == 1 ? 1 : threads};
      omp_set_num_threads(threads);
      parallel_run(count, visit, &v);
      for (int i = 0; i < 100; i++)
        assert_int_equal(v.count[i], i < count);
      assert_int_equal(parallel_width(), 1);
    }
  omp_set_num_threads(before);
}

/* Parts of which the last ones wait for all others, which others may have begun. */
struct waiting {
  atomic_int done;
  int count;
};

static void wait_for_all(void *ctx, int64_t i)
{
  struct waiting *w = ctx;
  while (i >= w->count && atomic_load(&w->done) < w->count)
    (void)sched_yield();
  atomic_fetch_add(&w->done, 1);
}

static void later_parts_may_wait(void **state)
{
  (void)state;
  int before = omp_get_max_threads();
  for (int threads = 1; threads < 6; threads++)
    for (int count = 1; count < 10; count++) {
      struct waiting w = {.count = count};
      omp_set_num_threads(threads);
      parallel_run_and(count, 7, threads, wait_for_all, &w);
      assert_int_equal(atomic_load(&w.done), count + 7);
    }
  omp_set_num_threads(before);
}

/* ---- the whole batch as one shard; failures ---- */

static void a_batch_that_stops_together_stays_together(void **state)
{
  (void)state;
  struct lesson w = {.c = small_model("", ""), .kind = GRADIENT_PHANTOM};
  w.c.deq.forward.stop_together = true;
  struct learnt l = learn(&w, true), one = learn(&w, false);
  assert_int_equal(l.d.shards, 1);
  assert_memory_equal(l.r.gradient, one.r.gradient, (size_t)one.block * sizeof *one.r.gradient);
  release(&l), release(&one);
}

static void a_shard_that_fails_is_the_batchs_failure(void **state)
{
  (void)state;
  struct lesson w = {.c = small_model("", ""), .kind = GRADIENT_PHANTOM, .fail_at = 3};
  struct learnt l = learn(&w, true);
  assert_int_equal(l.status, ERR_MEMORY);
  assert_string_equal(last_error(), "a solve is told to fail");
  release(&l);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_gradient),
      cmocka_unit_test(every_kind_of_batch),
      cmocka_unit_test(what_is_added_to_the_loss),
      cmocka_unit_test(an_explicit_model),
      cmocka_unit_test(every_sample_is_told_the_same),
      cmocka_unit_test(threads_change_no_bit),
      cmocka_unit_test(every_part_once),
      cmocka_unit_test(later_parts_may_wait),
      cmocka_unit_test(a_batch_that_stops_together_stays_together),
      cmocka_unit_test(a_shard_that_fails_is_the_batchs_failure),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
