/* real.h: the only file that knows the precision.
 *
 * Every numeric file is compiled once per precision:
 *   -DREAL_BITS=32   real = float            names end in _f32
 *   -DREAL_BITS=64   real = double           names end in _f64
 *   -DREAL_BITS=128  real = double _Complex  names end in _c64 (complex-step derivatives; CPU only)
 * Write plain exp(x), sqrt(x), log1p(x): <tgmath.h> (C) or overloads (CUDA) pick the type.
 * Branch on re(x), never on x: an ordered comparison of complex numbers does not compile.
 * `wide` holds losses and long sums: double, or complex double in the complex build.
 *
 * Complex step (Squire & Trapp 1998): f(x + i h)/h = f'(x) i + O(h^2), exact to rounding for tiny
 * h. So nothing may conjugate, take a modulus, or lose the imaginary part's relative accuracy.
 */
#ifndef CORE_REAL_H
#define CORE_REAL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
#include <cmath>
#define restrict __restrict__
#else
#include <tgmath.h>
#endif

/* Pointers to memory of the backend's device.  `make noderef` compiles host code with clang so that
 * a host dereference of such a pointer is an error; to every other compiler the word is empty. */
#if defined(CHECK_DEVICE) && defined(__clang__)
#define DEVICE __attribute__((noderef))
#else
#define DEVICE
#endif

#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)

#define COMPLEX_STEP 1e-30

#ifdef REAL_BITS
#if REAL_BITS == 32
typedef float real;
typedef double wide;
#define NAME(x) CONCAT(x, _f32)
#elif REAL_BITS == 64
typedef double real;
typedef double wide;
#define NAME(x) CONCAT(x, _f64)
#elif REAL_BITS == 128
typedef double _Complex real;
typedef double _Complex wide;
#define NAME(x) CONCAT(x, _c64)
#else
#error "compile with -DREAL_BITS=32, 64 or 128"
#endif

#if REAL_BITS == 128
/* log1p keeps its accuracy in both parts; the imaginary one is first order in a tiny step. */
static inline real complex_log1p(real x)
{
  double a = creal(x);
  return CMPLX((log1p)(a), cimag(x) / (1 + a));
}
#undef log1p
#define log1p(x) complex_log1p(x)
#undef fabs
#undef cabs
#undef conj
#pragma GCC poison fabs cabs conj
#define re(x) creal(x)
#define im(x) cimag(x)
/* |x|^2 for norms that steer: real part, and imaginary part in units of the step. */
#define square_norm(x) (re(x) * re(x) + im(x) / COMPLEX_STEP * (im(x) / COMPLEX_STEP))
#define EPSILON 2.220446049250313e-16
#elif REAL_BITS == 32
#define re(x) (x)
#define square_norm(x) ((double)(x) * (double)(x))
#define EPSILON 1.1920928955078125e-07
#else
#define re(x) (x)
#define square_norm(x) ((x) * (x))
#define EPSILON 2.220446049250313e-16
#endif
#endif
#endif
