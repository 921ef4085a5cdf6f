/* test_bench.c: bench runs on a tiny model and writes what it says; how fast it was is no test. */
#include "tests/spawn.h"
#include <jansson.h>
#include <string.h>
#include <stdlib.h>

static const char tiny[] =
    "name: tiny\ndevice: cpu\n"
    "model: {kind: implicit, d_model: 8, n_layer: 1, mamba2: {d_state: 4, expand: 2, headdim: 8}}\n"
    "deq: {gradient: phantom, forward: {solver: picard, max_iter: 3}}\n"
    "data: {task: word_problem, group: S3, length: 8}\n"
    "train: {steps: 10, batch_size: 2}\n";

static json_t *load(const char *name)
{
  json_error_t error;
  json_t *root = json_load_file(scratch(name), JSON_REJECT_DUPLICATES, &error);
  assert_non_null(root);
  return root;
}

/* The result of that name and unit; its median lies between its extremes and is not 0. */
static void check_result(const json_t *root, const char *name, const char *unit)
{
  const json_t *list = json_object_get(root, "results");
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *o = json_array_get(list, i);
    if (strcmp(json_string_value(json_object_get(o, "name")), name) != 0 ||
        strcmp(json_string_value(json_object_get(o, "unit")), unit) != 0)
      continue;
    double value = json_number_value(json_object_get(o, "value"));
    assert_true(value > 0);
    assert_true(json_number_value(json_object_get(o, "low")) <= value);
    assert_true(json_number_value(json_object_get(o, "high")) >= value);
    return;
  }
  fail_msg("no result %s in %s", name, unit);
}

static void train_writes_both_phases(void **state)
{
  (void)state;
  struct spawned r;
  scratch_put("tiny.yaml", tiny, sizeof tiny - 1);
  SPAWN(&r, "bench", "train", scratch("tiny.yaml"), "--no-peer", "--seconds", "0.001", "--json",
        scratch("train.json"));
  check_spawned(&r, 0, "train tiny phantom");
  json_t *root = load("train.json");
  check_result(root, "train tiny unroll", "tokens/s");
  check_result(root, "train tiny phantom", "tokens/s");
  json_decref(root);
  SPAWN(&r, "bench", "train", scratch("tiny.yaml"), "--no-peer", "--seconds", "0.001", "--against",
        scratch("train.json"));
  check_spawned(&r, 0, "now / then");
}

static const char *row_of(const struct spawned *r, const char *phase, const char *operation)
{
  const char *at = strstr(r->output, phase);
  assert_non_null(at);
  at = strstr(at, operation);
  assert_non_null(at);
  return at + strlen(operation);
}

/* One layer, three iterations and four steps: two products by weights each evaluation of f, one of
 * them of a norm, and those of u and the logits; unrolling begins at zeros, to whose u there is
 * nothing to add. */
static void profile_counts_the_calls_of_a_step(void **state)
{
  (void)state;
  struct spawned r;
  scratch_put("tiny.yaml", tiny, sizeof tiny - 1);
  SPAWN(&r, "bench", "train", scratch("tiny.yaml"), "--no-peer", "--seconds", "0.001", "--profile",
        "deq.phantom.steps=4", "deq.unroll.iterations=2");
  check_spawned(&r, 0, "outside operations");
  assert_true(strtod(row_of(&r, "unroll by operation", " linear_fwd "), NULL) == 2 + 1);
  assert_true(strtod(row_of(&r, "unroll by operation", "gated_linear_fwd "), NULL) == 2);
  assert_true(strtod(row_of(&r, "phantom by operation", " linear_fwd "), NULL) == 3 + 4 + 2);
  assert_true(strtod(row_of(&r, "phantom by operation", "gated_linear_fwd "), NULL) == 3 + 4);
  assert_true(strtod(row_of(&r, "phantom by operation", " linear_vjp "), NULL) == 4 + 2);
  assert_true(strtod(row_of(&r, "phantom by operation", "gated_linear_vjp "), NULL) == 4);
}

/* Both kinds, one sequence and many; of a configuration, and of a run with its parameters. */
static void decode_measures_both_kinds(void **state)
{
  (void)state;
  struct spawned r;
  char runs[600];
  (void)snprintf(runs, sizeof runs, "runs_dir=%s", scratch("runs"));
  scratch_put("tiny.yaml", tiny, sizeof tiny - 1);
  SPAWN(&r, "bench", "decode", scratch("tiny.yaml"), "--no-peer", "--seconds", "0.001", "--json",
        scratch("decode.json"));
  check_spawned(&r, 0, "explicit, initial parameters, 128 tokens a sequence");
  json_t *root = load("decode.json");
  check_result(root, "decode tiny implicit batch 1", "tokens/s");
  check_result(root, "decode tiny implicit batch 64", "tokens/s");
  check_result(root, "decode tiny explicit batch 1", "tokens/s");
  check_result(root, "decode tiny explicit batch 64", "tokens/s");
  json_decref(root);
  const char *at = strstr(r.output, "decode tiny implicit iterations");
  assert_non_null(at);
  assert_true(strtod(at + 31, NULL) == 3); /* deq.forward.max_iter */
  SPAWN(&r, "train", scratch("tiny.yaml"), runs, "deq.evaluate.tol=10");
  check_spawned(&r, 0, "10 steps done");
  SPAWN(&r, "bench", "decode", scratch("runs/tiny"), "--no-peer", "--seconds", "0.001");
  check_spawned(&r, 0, "implicit, trained parameters");
  at = strstr(r.output, "decode tiny implicit iterations");
  assert_non_null(at);
  assert_true(strtod(at + 31, NULL) == 1); /* the tolerance is met by any residual */
}

/* A table for each precision and length: every solver and window, what auto chose, and how far it
 * is from the fastest. */
static void solvers_of_a_run(void **state)
{
  (void)state;
  struct spawned r;
  char runs[600];
  scratch_put("tiny.yaml", tiny, sizeof tiny - 1);
  (void)snprintf(runs, sizeof runs, "runs_dir=%s", scratch("runs"));
  SPAWN(&r, "train", scratch("tiny.yaml"), "train.steps=0", runs);
  check_spawned(&r, 0, "");
  SPAWN(&r, "bench", "solvers", scratch("runs/tiny"), "deq.evaluate.max_iter=1",
        "evaluate.lengths=[4,20]", "evaluate.sequences=2", "--seconds", "0.001", "--json",
        scratch("solvers.json"));
  check_spawned(&r, 0, "| broyden, 16 |");
  assert_non_null(strstr(r.output, "| solver, window | tiny 1e-02 | tiny 1e-06 |"));
  assert_non_null(strstr(r.output, "f64, length 20, 2 sequences, to a tolerance of every token: "));
  assert_non_null(strstr(r.output, "| auto is | anderson, window"));
  assert_non_null(strstr(r.output, "| its time over the fastest's |"));
  json_t *root = load("solvers.json");
  check_result(root, "solvers tiny f32 4 1e-02 picard, window 1", "ms");
  check_result(root, "solvers tiny f64 20 1e-06 auto", "evaluations");
  check_result(root, "solvers tiny f64 20 1e-06 auto", "serial");
  json_decref(root);
  SPAWN(&r, "bench", "solvers", scratch("nowhere"));
  check_spawned(&r, 2, "is not a directory");
}

static void faults_are_named(void **state)
{
  (void)state;
  struct spawned r;
  scratch_put("tiny.yaml", tiny, sizeof tiny - 1);
  scratch_put("other.json", "[1]", 3);
  SPAWN(&r, "bench", "nothing");
  check_spawned(&r, 2, "usage: bench");
  SPAWN(&r, "bench", "train", scratch("tiny.yaml"), "--seconds", "0");
  check_spawned(&r, 2, "--seconds must be");
  SPAWN(&r, "bench", "train", "model.kind=explicit", "train.batch_size=2");
  check_spawned(&r, 2, "is explicit"); /* of the quickstart, wherever that is */
  SPAWN(&r, "bench", "train", scratch("tiny.yaml"), "model.kind=explicit");
  check_spawned(&r, 2, "is explicit");
  SPAWN(&r, "bench", "train", scratch("tiny.yaml"), "--no-peer", "--seconds", "0.001", "--against",
        scratch("other.json"));
  check_spawned(&r, 3, "not what bench --json writes");
  assert_null(strstr(r.output, "tokens/s")); /* before anything is measured */
  SPAWN(&r, "bench", "train", scratch("tiny.yaml"), "--no-peer", "--against", scratch("none"));
  check_spawned(&r, 3, "none: cannot open: No such file");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(train_writes_both_phases, scratch_make, scratch_remove),
      cmocka_unit_test_setup_teardown(profile_counts_the_calls_of_a_step, scratch_make,
                                      scratch_remove),
      cmocka_unit_test_setup_teardown(decode_measures_both_kinds, scratch_make, scratch_remove),
      cmocka_unit_test_setup_teardown(solvers_of_a_run, scratch_make, scratch_remove),
      cmocka_unit_test_setup_teardown(faults_are_named, scratch_make, scratch_remove),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
