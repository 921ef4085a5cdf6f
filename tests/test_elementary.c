/* test_elementary.c: our exp and what is built on it, against the library in long double. */
#include "tests/check.h"
#include "tests/numeric/elementary_probe.h"
#include <float.h>
#include <math.h>

static long double reference(enum elementary f, long double x)
{
  long double s = x >= 0 ? 1 / (1 + expl(-x)) : expl(x) / (1 + expl(x));
  long double s1 = x >= 0 ? expl(-x) / (1 + expl(-x)) : 1 / (1 + expl(x)); /* 1 - s */
  switch (f) {
  case PROBE_EXP:
    return expl(x);
  case PROBE_LOG1P:
    return log1pl(x);
  case PROBE_SIGMOID:
    return s;
  case PROBE_SILU:
    return x * s;
  case PROBE_SILU_DERIVATIVE:
    return s * (1 + x * s1);
  case PROBE_SOFTPLUS:
    return fmaxl(x, 0) + log1pl(expl(-fabsl(x)));
  }
  return 0;
}

/* Units in the last place of `want` in a format of `digits` bits whose least normal exponent is
 * `least`: a subnormal's unit is that of the least normal number. */
static double ulps(double got, long double want, int digits, int least)
{
  int exponent;
  (void)frexpl(want, &exponent);
  if (exponent < least)
    exponent = least;
  return (double)(fabsl((long double)got - want) / ldexpl(1, exponent - digits));
}

static void check_range(enum elementary f, double from, double to, double bound, const char *name)
{
  enum { N = 400009 };
  static double x[N], y32[N], y64[N];
  double worst32 = 0, worst64 = 0;
  for (int i = 0; i < N; i++)
    x[i] = (double)(float)(from + (to - from) * i / (N - 1));
  elementary_values_f32(f, N, x, y32);
  elementary_values_f64(f, N, x, y64);
  for (int i = 0; i < N; i++) {
    long double want = reference(f, x[i]);
    if (want <= (long double)FLT_MAX)
      worst32 = fmax(worst32, ulps(y32[i], want, FLT_MANT_DIG, FLT_MIN_EXP));
    worst64 = fmax(worst64, ulps(y64[i], want, DBL_MANT_DIG, DBL_MIN_EXP));
  }
  if (!(worst32 <= bound && worst64 <= bound))
    fail_msg("%s in (%g,%g): %.3g ulp in float, %.3g in double, allowed %g", name, from, to,
             worst32, worst64, bound);
}

static void exp_is_accurate(void **state)
{
  (void)state;
  check_range(PROBE_EXP, -104, 88.72, 1.2, "exp");
  check_range(PROBE_EXP, -1, 1, 1.2, "exp");
  check_range(PROBE_EXP, -1e-6, 1e-6, 1.2, "exp");
  check_range(PROBE_EXP, -745.2, -700, 1.2, "exp of subnormal results");
  check_range(PROBE_EXP, 700, 709.7, 1.2, "exp of large results");
}

static void exp_ends_well(void **state)
{
  (void)state;
  double x[] = {0, -0.0, INFINITY, -INFINITY, 1e30, -1e30, 710, -746, NAN}, y[9];
  const double want[] = {1, 1, INFINITY, 0, INFINITY, 0, INFINITY, 0};
  void (*const probes[])(enum elementary, int64_t, const double *,
                         double *) = {elementary_values_f32, elementary_values_f64};
  for (int p = 0; p < 2; p++) {
    probes[p](PROBE_EXP, 9, x, y);
    for (int i = 0; i < 8; i++)
      if (!(y[i] == want[i]))
        fail_msg("exp(%g) = %g", x[i], y[i]);
    assert_true(isnan(y[8]));
    for (int f = PROBE_SIGMOID; f <= PROBE_SOFTPLUS; f++) {
      probes[p]((enum elementary)f, 1, &x[8], y);
      assert_true(isnan(y[0]));
    }
  }
}

static void log1p_is_accurate(void **state)
{
  (void)state;
  check_range(PROBE_LOG1P, 0, 1, 2.1, "log1p");
  check_range(PROBE_LOG1P, 0, 1e-5, 2.1, "log1p");
}

static void sigmoid_family_is_accurate(void **state)
{
  (void)state;
  check_range(PROBE_SIGMOID, -86, 100, 3, "sigmoid");
  check_range(PROBE_SILU, -86, 100, 4, "silu");
  check_range(PROBE_SILU_DERIVATIVE, -1, 100, 6, "silu'"); /* it has a zero at -1.278 */
  check_range(PROBE_SILU_DERIVATIVE, -80, -2, 16, "silu'");
  check_range(PROBE_SOFTPLUS, -100, 100, 3.5, "softplus");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(exp_is_accurate),
      cmocka_unit_test(exp_ends_well),
      cmocka_unit_test(log1p_is_accurate),
      cmocka_unit_test(sigmoid_family_is_accurate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
