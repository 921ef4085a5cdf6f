/* test_parallel.c: every index of a parallel loop is taken once, by whatever team. */
#include "tests/check.h"
#include <omp.h>
#include <stdbool.h>
#include <string.h>

enum { TEAM = 3, COUNT = 1000 };

static void count_once(bool threads, int *seen)
{
#pragma omp parallel for if (threads)
  for (int i = 0; i < COUNT; i++)
    seen[i]++;
}

static void check_once(const int *seen)
{
  for (int i = 0; i < COUNT; i++)
    assert_int_equal(seen[i], 1);
}

static void one_thread_and_many(void **state)
{
  (void)state;
  for (int threads = 0; threads < 2; threads++) {
    int seen[COUNT] = {0};
    count_once(threads != 0, seen);
    check_once(seen);
  }
  omp_set_num_threads(1);
  int seen[COUNT] = {0};
  count_once(true, seen);
  check_once(seen);
  omp_set_num_threads(TEAM);
}

/* A region of one within a team is not that team. */
static void one_thread_within_a_team(void **state)
{
  (void)state;
  static int seen[TEAM][COUNT];
  int members = 0;
  memset(seen, 0, sizeof seen);
#pragma omp parallel num_threads(TEAM)
  {
    count_once(false, seen[omp_get_thread_num()]);
#pragma omp atomic
    members++;
  }
  for (int t = 0; t < members; t++)
    check_once(seen[t]);
}

/* A team within a region of one. */
static void a_team_within_one_thread(void **state)
{
  (void)state;
  int seen[COUNT] = {0}, calls = 0;
#pragma omp parallel for if (0)
  for (int k = 0; k < 2; k++) {
    calls++;
    if (k == 1)
      count_once(true, seen);
  }
  assert_int_equal(calls, 2);
  check_once(seen);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_thread_and_many),
      cmocka_unit_test(one_thread_within_a_team),
      cmocka_unit_test(a_team_within_one_thread),
  };
  omp_set_num_threads(TEAM);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
