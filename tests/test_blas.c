/* test_blas.c: OpenBLAS's kernels: which are better, and starting again to get them. */
#include "tests/check.h"
#include "kernels/blas.h"
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct blas_cpu SSE = {false, false}, AVX2 = {true, false}, AVX512 = {true, true};
#define CONFIG(version) \
  "OpenBLAS " version " NO_LAPACKE DYNAMIC_ARCH NO_AFFINITY Core MAX_THREADS=64"

static void expect(const char *config, const char *corename, struct blas_cpu cpu, const char *want)
{
  const char *got = blas_better_kernels(config, corename, cpu);
  if (got && want)
    assert_string_equal(got, want);
  else if (got || want)
    fail_msg("%s, %s: %s instead of %s", config, corename, got ? got : "none",
             want ? want : "none");
}

static void the_better_kernels_are_found(void **state)
{
  (void)state;
  expect(CONFIG("0.3.21"), "Prescott", AVX512, "SKYLAKEX");
  expect(CONFIG("0.3.21"), "Haswell", AVX512, "SKYLAKEX");
  expect(CONFIG("0.3.21"), "Zen", AVX512, "SKYLAKEX");
  expect(CONFIG("0.3.29.dev"), "Zen", AVX512, "SKYLAKEX");
  expect(CONFIG("0.4.0"), "Barcelona", AVX512, "SKYLAKEX");
  expect(CONFIG("0.3.21"), "Prescott", AVX2, "HASWELL");
  expect(CONFIG("0.3.21"), "SANDYBRIDGE", AVX2, "HASWELL");
  expect(CONFIG("0.3.5"), "Barcelona", AVX2, "HASWELL");
  /* old versions are wrong with AVX-512 */
  expect(CONFIG("0.3.18"), "Prescott", AVX512, "HASWELL");
  expect(CONFIG("0.3.18"), "Zen", AVX512, NULL);
}

static void what_is_right_is_left_alone(void **state)
{
  (void)state;
  static const char *const best[] = {"SkylakeX", "Cooperlake", "Sapphirerapids", "Zen4", "unheard"};
  for (size_t i = 0; i < sizeof best / sizeof *best; i++)
    expect(CONFIG("0.3.21"), best[i], AVX512, NULL);
  expect(CONFIG("0.3.21"), "Haswell", AVX2, NULL);
  expect(CONFIG("0.3.21"), "Zen", AVX2, NULL);
  expect(CONFIG("0.3.21"), "Prescott", SSE, NULL);
  expect(CONFIG("0.3.21"), "Sandybridge", SSE, NULL);
  /* built for one CPU: there is nothing to choose */
  expect("OpenBLAS 0.3.21 NO_AFFINITY Prescott SINGLE_THREADED", "Prescott", AVX512, NULL);
  expect("something else DYNAMIC_ARCH", "Prescott", AVX512, NULL);
}

/* What `this program` prints when run with these arguments and no OPENBLAS_CORETYPE. */
static void run_child(const char *arguments, char *out, size_t size)
{
  char self[1024], command[2048];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  assert_true(length > 0);
  self[length] = 0;
  (void)snprintf(command, sizeof command, "env -u OPENBLAS_CORETYPE KEPT=kept '%s' %s 2>&1", self,
                 arguments);
  FILE *f = popen(command, "r");
  assert_non_null(f);
  size_t got = fread(out, 1, size - 1, f);
  out[got] = 0;
  assert_int_equal(pclose(f), 0);
}

/* The child's main: starts again once, then says what it has. */
static int child(char **argv)
{
  const char *coretype = getenv("OPENBLAS_CORETYPE");
  if (!coretype) {
    printf("unflushed\n");
    blas_restart(argv[2], argv);
    coretype = getenv("OPENBLAS_CORETYPE");
    printf("went on, coretype %s\n", coretype ? coretype : "unset");
    return 0;
  }
  printf("coretype %s, argument %s, probe %s, environment %s\n%s\n", coretype, argv[3],
         getenv("DEQMAMBA_BLAS_PROBE") ? "set" : "unset", getenv("KEPT"), blas_describe());
  return 0;
}

static void the_program_starts_again(void **state)
{
  (void)state;
#if defined(__x86_64__)
  char out[4096];
  if (!strstr(blas_describe(), "kernels"))
    skip(); /* not OpenBLAS */
  const char *kernels = __builtin_cpu_supports("avx2") ? "Haswell" : "Prescott";
  char arguments[128], want[256];
  (void)snprintf(arguments, sizeof arguments, "child %s 'an  argument'", kernels);
  run_child(arguments, out, sizeof out);
  if (strstr(out, "went on"))
    skip(); /* an OpenBLAS for one kind of CPU */
  assert_non_null(strstr(out, "unflushed\n"));
  assert_non_null(strstr(out, "starting again with OPENBLAS_CORETYPE="));
  (void)snprintf(want, sizeof want,
                 "coretype %s, argument an  argument, probe unset, environment kept\nOpenBLAS ",
                 kernels);
  assert_non_null(strstr(out, want));
  (void)snprintf(want, sizeof want, "%s kernels, 1 thread in ", kernels);
  assert_non_null(strstr(out, want));
#else
  skip();
#endif
}

static void kernels_that_do_not_exist_are_not_taken(void **state)
{
  (void)state;
  char out[4096];
  if (!strstr(blas_describe(), "kernels"))
    skip();
  run_child("child NoSuchCore x", out, sizeof out);
  assert_string_equal(out, "unflushed\nwent on, coretype unset\n");
}

static void our_threads_are_ours(void **state)
{
  (void)state;
  int before = omp_get_max_threads();
  omp_set_num_threads(3);
  setenv("OPENBLAS_CORETYPE", "", 0); /* whatever the CPU: no starting again from here */
  blas_start(0, NULL);
  assert_int_equal(omp_get_max_threads(), 3);
  if (strstr(blas_describe(), "kernels"))
    assert_non_null(strstr(blas_describe(), "1 thread in each of our 3"));
  omp_set_num_threads(before);
}

int main(int argc, char **argv)
{
  blas_start(argc, argv);
  if (argc > 3 && strcmp(argv[1], "child") == 0)
    return child(argv);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_better_kernels_are_found),
      cmocka_unit_test(what_is_right_is_left_alone),
      cmocka_unit_test(the_program_starts_again),
      cmocka_unit_test(kernels_that_do_not_exist_are_not_taken),
      cmocka_unit_test(our_threads_are_ours),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
