/* elementary_probe.c: see elementary_probe.h. */
#include "tests/numeric/elementary_probe.h"
#include "kernels/elementary.h"

#define elementary_values NAME(elementary_values)
void elementary_values(enum elementary f, int64_t n, const double *x, double *y)
{
  for (int64_t i = 0; i < n; i++) {
    real xi = (real)x[i], yi = 0;
    switch (f) {
    case PROBE_EXP:
      yi = exp_real(xi);
      break;
    case PROBE_LOG1P:
      yi = log1p_unit(xi);
      break;
    case PROBE_SIGMOID:
      yi = sigmoid(xi);
      break;
    case PROBE_SILU:
      yi = silu(xi);
      break;
    case PROBE_SILU_DERIVATIVE:
      yi = silu_derivative(xi);
      break;
    case PROBE_SOFTPLUS:
      yi = softplus(xi);
      break;
    }
    y[i] = (double)re(yi);
  }
}
