/* check.c: comparisons that say where they fail. */
#include "tests/check.h"
#include "core/status.h"
#include <math.h>
#include <stdio.h>

static double worst_error(int64_t n, const double *got, const double *want, int64_t *where)
{
  double scale = 0, worst = 0;
  *where = 0;
  for (int64_t i = 0; i < n; i++)
    scale = fmax(scale, fabs(want[i]));
  for (int64_t i = 0; i < n; i++) {
    double e = fabs(got[i] - want[i]);
    if (!(e <= worst)) {
      *where = i;
      if (!isfinite(e))
        return HUGE_VAL;
      worst = e;
    }
  }
  return worst == 0 ? 0 : scale > 0 ? worst / scale : HUGE_VAL;
}

double relative_error(int64_t n, const double *got, const double *want)
{
  int64_t where;
  return worst_error(n, got, want, &where);
}

void check_arrays_close_(const char *file, int line, int64_t n, const double *got,
                         const double *want, double tol, const char *format, ...)
{
  int64_t i;
  double error = worst_error(n, got, want, &i);
  if (error <= tol)
    return;
  char what[256];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(what, sizeof what, format, args);
  va_end(args);
  print_error("%s: error %.3g > %.3g; worst at %lld of %lld: got %.17g, want %.17g\n", what, error,
              tol, (long long)i, (long long)n, n ? got[i] : 0, n ? want[i] : 0);
  _fail(file, line);
}

void check_ok_(const char *file, int line, int status, const char *call)
{
  if (status == OK)
    return;
  print_error("%s: status %d: %s (%s)\n", call, status, last_error(), last_error_place());
  _fail(file, line);
}
