/* test_ssd.c: ssd, ssd_chunked and conv1d on every instruction set that this machine runs. */
#include "core/status.h"
#include "kernels/backends.h"
#include "tests/check.h"
#include "tests/derivatives.h"
#include "tests/numeric/ssd_forms.h"

CASE_LIST(ssd_operations);

static void derivatives(void **state)
{
  (void)state;
  check_operations(ssd_operations);
}

static void on_every_table(forms_test *f32, forms_test *f64, forms_test *c64)
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
FORMS_TESTS(DEFINE)

/* Exponents that were differences of cumulative sums would be wrong by 3e-5 here. */
static void large_decays_keep_digits(void **state)
{
  (void)state;
  const struct backend_cpu *all;
  int count = backend_cpu_list(&all);
  static double y[2][DECAYING_TOKENS * DECAYING_CHANNELS], dtb[2][DECAYING_TOKENS];
  ssd_decaying_outputs_f64(all[0].f64, y[1], dtb[1]);
  for (int i = 0; i < count; i++)
    if (backend_cpu_supported(&all[i])) {
      ssd_decaying_outputs_f32(all[i].f32, y[0], dtb[0]);
      check_arrays_close(DECAYING_TOKENS * DECAYING_CHANNELS, y[0], y[1], 5e-7, "y (%s)",
                         all[i].isa);
      check_arrays_close(DECAYING_TOKENS, dtb[0], dtb[1], 5e-7, "dtb (%s)", all[i].isa);
    }
}

int main(void)
{
#define LIST(name) cmocka_unit_test(name),
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(derivatives),
      FORMS_TESTS(LIST) cmocka_unit_test(large_decays_keep_digits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
