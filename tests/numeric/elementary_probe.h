/* elementary_probe.h: the functions of kernels/elementary.h on arrays (baseline instructions). */
#ifndef TESTS_NUMERIC_ELEMENTARY_PROBE_H
#define TESTS_NUMERIC_ELEMENTARY_PROBE_H
#include <stdint.h>

enum elementary {
  PROBE_EXP,
  PROBE_LOG1P, /* of 0..1 */
  PROBE_SIGMOID,
  PROBE_SILU,
  PROBE_SILU_DERIVATIVE,
  PROBE_SOFTPLUS,
};

/* y = f(x), rounded to that precision on the way in and out. */
typedef void elementary_probe(enum elementary f, int64_t n, const double *x, double *y);
extern elementary_probe elementary_values_f32, elementary_values_f64, elementary_values_c64;
#endif
