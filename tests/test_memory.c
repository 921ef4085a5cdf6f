/* test_memory.c: the memory that training plans is what README.md's formula says. */
#include "core/profile.h"
#include "experiments/bench.h"
#include "experiments/program.h"
#include "tests/check.h"
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

static const char recipe[] = "name: run\ndevice: cpu\nmodel: {kind: implicit}\n"
                             "data: {task: word_problem, group: S3, length: 64}\n"
                             "train: {batch_size: 16}\n";

/* `overrides` are separated by blanks. */
static size_t measured(const char *overrides, double *formula)
{
  struct config c;
  struct runtime rt;
  struct train_memory m;
  char words[512];
  const char *override[16];
  int count = 0;
  (void)snprintf(words, sizeof words, "%s", overrides);
  for (char *rest, *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
    override[count++] = word;
  check_ok(config_parse_with("recipe", recipe, sizeof recipe - 1, count, override, &c));
  check_ok(config_resolve(&c));
  check_ok(runtime_open(&c, &rt));
  check_ok(train_memory(&c, &rt, &m));
  *formula = bench_memory_formula(&c);
  assert_true(m.evaluation == 0);
  return m.parameters + m.learner + m.batches;
}

/* Within 5 %; sizes at which one term after the other counts. */
static void formula_holds(void **state)
{
  (void)state;
  static const char *const shapes[] = {
      "",
      "dtype=f64",
      "model.n_layer=4",
      "deq.unroll.iterations=2 deq.phantom.steps=9",
      "data.length=16384 train.batch_size=1",
      "data.length=16 train.batch_size=256",
      "data.length=48 train.batch_size=5",
      "data.group=A5*Z4 model.d_model=16 model.mamba2.headdim=16", /* the vocabulary */
      "model.mamba2.d_state=128 model.mamba2.chunk_size=32",       /* chunk states */
      "model.mamba2.chunk_size=512 data.length=1024",              /* the chunks' products */
      "model.mamba2.d_state=64 model.mamba2.ngroups=4",            /* B and C */
      "model.d_model=512 model.mamba2.expand=4 train.batch_size=1 data.length=8", /* parameters */
      "model.mamba2.d_state=256 data.length=2 train.batch_size=512", /* carried states */
      "deq.backward.solver=picard deq.evaluate.mode=simultaneous",
      "data.length=1 train.batch_size=1024",                /* sequences together, at most */
      "deq.forward.stop_together=true train.batch_size=64", /* one shard */
  };
  static const int threads[] = {1, 2, 7, 40};
  int before = omp_get_max_threads();
  for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
    omp_set_num_threads(threads[k]);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
      double formula, got = (double)measured(shapes[i], &formula);
      if (!(fabs(formula / got - 1) <= 0.05))
        fail_msg("\"%s\", %d threads: %g bytes, the formula says %g", shapes[i], threads[k], got,
                 formula);
    }
  }
  omp_set_num_threads(before);
}

/* Iterations cost time only. */
static void iterations_take_no_memory(void **state)
{
  (void)state;
  double formula;
  size_t few = measured("deq.forward.max_iter=4 deq.evaluate.max_iter=4", &formula);
  assert_int_equal(measured("deq.forward.max_iter=4000 deq.evaluate.max_iter=5000", &formula), few);
  assert_int_equal(measured("deq.gradient=ift deq.backward.max_iter=3000", &formula), few);
}

/* Twice the tokens take twice what is not parameters. */
static void tokens_take_memory_in_proportion(void **state)
{
  (void)state;
  double formula;
  double one = (double)measured("train.batch_size=64", &formula);
  double two = (double)measured("train.batch_size=128", &formula);
  double four = (double)measured("train.batch_size=256", &formula);
  check_close(four - two, 2 * (two - one), 1e-3, "bytes of 128 and of 64 sequences");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(formula_holds),
      cmocka_unit_test(iterations_take_no_memory),
      cmocka_unit_test(tokens_take_memory_in_proportion),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
