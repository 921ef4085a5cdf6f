/* check.h: what the tests share on top of cmocka. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* Error of a result: max|got - want| / max|want|.  NaN anywhere is infinite. */
double relative_error(int64_t n, const double *got, const double *want);

/* Fails, printing the worst element, unless |got - want| <= tol * max(1e-300, |want| scale). */
#define check_close(got, want, tol, ...) \
  check_arrays_close_(__FILE__, __LINE__, 1, (double[]){got}, (double[]){want}, tol, __VA_ARGS__)
#define check_arrays_close(n, got, want, tol, ...) \
  check_arrays_close_(__FILE__, __LINE__, n, got, want, tol, __VA_ARGS__)
void check_arrays_close_(const char *file, int line, int64_t n, const double *got,
                         const double *want, double tol, const char *format, ...)
    __attribute__((format(printf, 7, 8)));

/* Fails with last_error() unless the call returned OK. */
#define check_ok(call) check_ok_(__FILE__, __LINE__, (int)(call), #call)
void check_ok_(const char *file, int line, int status, const char *call);
#endif
