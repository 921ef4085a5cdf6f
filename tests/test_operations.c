/* test_operations.c: every operation but ssd and conv1d, on every instruction set this machine
 * runs: derivatives, and against straightforward code; and the choice of the instruction set.
 * "test_operations NAME" runs the tests of that name alone. */
#include "core/status.h"
#include "kernels/backends.h"
#include "kernels/blas.h"
#include "tests/derivatives.h"
#include "tests/numeric/plain_operations.h"
#include "tests/spawn.h"
#include <stdlib.h>
#include <string.h>

CASE_LIST(simple_operations);

static void derivatives(void **state)
{
  (void)state;
  check_operations(simple_operations);
}

static void on_every_table(plain_test *f32, plain_test *f64, plain_test *c64)
{
  const struct backend_cpu *all;
  int count = backend_cpu_list(&all);
  assert_true(count > 0);
  for (int i = 0; i < count; i++)
    if (backend_cpu_supported(&all[i])) {
      f32(all[i].f32);
      f64(all[i].f64);
    }
  c64(&backend_cpu_c64);
}

#define DEFINE(name)                                    \
  static void name(void **state)                        \
  {                                                     \
    (void)state;                                        \
    on_every_table(name##_f32, name##_f64, name##_c64); \
  }
PLAIN_TESTS(DEFINE)

static void instruction_set_is_chosen(void **state)
{
  (void)state;
  const struct backend_cpu *all;
  struct backend_cpu chosen;
  int count = backend_cpu_list(&all);
  char *before = getenv("DEQMAMBA_ISA");
  before = before ? strdup(before) : NULL;
  assert_int_equal(unsetenv("DEQMAMBA_ISA"), 0);
  check_ok(backend_cpu_select(&chosen));
  int best = count - 1;
  while (!backend_cpu_supported(&all[best]))
    best--;
  assert_string_equal(chosen.isa, all[best].isa);
  for (int i = 0; i < count; i++) {
    assert_int_equal(setenv("DEQMAMBA_ISA", all[i].isa, 1), 0);
    if (backend_cpu_supported(&all[i])) {
      check_ok(backend_cpu_select(&chosen));
      assert_ptr_equal(chosen.f32, all[i].f32);
      assert_ptr_equal(chosen.f64, all[i].f64);
    } else {
      assert_int_equal(backend_cpu_select(&chosen), ERR_USAGE);
    }
  }
  assert_int_equal(setenv("DEQMAMBA_ISA", "mmx", 1), 0);
  assert_int_equal(backend_cpu_select(&chosen), ERR_USAGE);
  assert_non_null(strstr(last_error(), "mmx"));
  if (before)
    assert_int_equal(setenv("DEQMAMBA_ISA", before, 1), 0);
  else
    assert_int_equal(unsetenv("DEQMAMBA_ISA"), 0);
  free(before);
}

/* Where OpenBLAS's kernels serve small products better than ours (kernels/gemm.c), ours too. */
static void our_tiles_match(void **state)
{
  (void)state;
  struct spawned r;
  if (!blas_has_bare_kernels())
    skip(); /* linear_matches has tried them */
  char *before = getenv("OPENBLAS_CORETYPE");
  before = before ? strdup(before) : NULL;
  assert_int_equal(setenv("OPENBLAS_CORETYPE", "HASWELL", 1), 0);
  SPAWN(&r, "tests/test_operations", "linear_*");
  check_spawned(&r, 0, "linear_rows_alone");
  if (before)
    assert_int_equal(setenv("OPENBLAS_CORETYPE", before, 1), 0);
  else
    assert_int_equal(unsetenv("OPENBLAS_CORETYPE"), 0);
  free(before);
}

int main(int argc, char **argv)
{
#define LIST(name) cmocka_unit_test(name),
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(derivatives),
      PLAIN_TESTS(LIST) cmocka_unit_test(instruction_set_is_chosen),
      cmocka_unit_test(our_tiles_match),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
