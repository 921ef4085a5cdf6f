/* test_operations.c: every operation but ssd and conv1d: derivatives, and against plain code. */
#include "tests/check.h"
#include "tests/derivatives.h"

CASE_LIST(simple_operations);

static void derivatives(void **state)
{
  (void)state;
  check_operations(simple_operations);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(derivatives),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
