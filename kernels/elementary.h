/* elementary.h: exp and what is built on it, inline, so that loops over them become vector loops.
 *
 * exp x = 2^n exp r with n = round(x/ln 2), r = x - n ln 2 in two parts (Cody & Waite 1980), exp r
 * by a minimax polynomial on |r| <= ln 2/2, and 2^n by two factors, so that results may be
 * subnormal. No branch, no call: rounding adds and subtracts 1.5 * 2^(digits - 1), which also
 * leaves n in the low bits, from where it is shifted into the exponent.  Within 0.9 ulp over the
 * whole range where steps are fused, 1.2 where they are not; exact at 0; NaN stays NaN.  The
 * complex build and the GPU use the library's exp.
 *
 * exp_falling is for x <= 0: below the least normal number it gives 0, and needs neither the upper
 * clamp nor the second factor, which is a third of the work.  exp_minus is what a sigmoid needs: as
 * exp(-x) is kept within the normal numbers, neither side needs a case of its own, and n is added
 * to the exponent (silu of 8 floats by AVX2: 8.0 cycles of a Zen 4, 12.6 with a factor 2^n).
 */
#ifndef KERNELS_ELEMENTARY_H
#define KERNELS_ELEMENTARY_H
#include "core/launch.h"
#include <string.h>

#ifdef __CUDACC__
#define ELEMENTARY static __host__ __device__ __attribute__((unused)) __forceinline__
#else
#define ELEMENTARY static inline __attribute__((always_inline))
#endif

/* a b + c, fused where the processor does it */
ELEMENTARY real multiply_add(real a, real b, real c)
{
#if defined(__FMA__) && !defined(__CUDACC__) && REAL_BITS != 128
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

#if defined(__CUDACC__) || REAL_BITS == 128

ELEMENTARY real exp_real(real x) { return exp(x); }
ELEMENTARY real exp_falling(real x) { return exp(x); }
ELEMENTARY real exp_minus(real x)
{
  const double most = REAL_BITS == 32 ? 87 : 300; /* a complex division squares it */
  return re(x) < -most ? exp((real)most) : exp(-x);
}

/* log(1 + e) for 0 <= e <= 1 */
ELEMENTARY real log1p_unit(real e) { return log1p(e); }

#else

#if REAL_BITS == 32
enum { SIGNIFICAND_BITS = 23 };
typedef uint32_t real_bits;
typedef int32_t signed_bits;
#define ROUNDER 12582912.0f /* 1.5 * 2^23 */
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f /* 9 bits: n LN2_HIGH is exact */
#define LN2_LOW -2.12194440e-4f
#define EXP_NORMAL -87.3365447f /* ln of the least normal number */
#define EXP_LOWEST -104.0f      /* exp rounds to 0 */
#define EXP_HIGHEST 89.0f       /* exp overflows */

/* (exp(r) - 1 - r)/r^2 */
ELEMENTARY real exp_tail(real r)
{
  real p = 0.00138144626f;
  p = multiply_add(p, r, 0.00836878046f);
  p = multiply_add(p, r, 0.0416683943f);
  p = multiply_add(p, r, 0.166665201f);
  return multiply_add(p, r, 0.499999934f);
}

/* (2 atanh(s) - 2 s)/s^3 in u = s^2 <= 1/9 */
ELEMENTARY real atanh_tail(real u)
{
  real p = 0.280119891f;
  p = multiply_add(p, u, 0.280018048f);
  p = multiply_add(p, u, 0.400215273f);
  return multiply_add(p, u, 0.666664163f);
}
#else
enum { SIGNIFICAND_BITS = 52 };
typedef uint64_t real_bits;
typedef int64_t signed_bits;
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */
#define LOG2_E 1.4426950408889634
#define LN2_HIGH 6.93147180369123816490e-01 /* 33 bits */
#define LN2_LOW 1.90821492927058770002e-10
#define EXP_NORMAL -708.39641853226408
#define EXP_LOWEST -746.0
#define EXP_HIGHEST 710.0

ELEMENTARY real exp_tail(real r)
{
  real p = 2.49999705548344989e-8;
  p = multiply_add(p, r, 2.76303786118725452e-7);
  p = multiply_add(p, r, 2.75575873212122346e-6);
  p = multiply_add(p, r, 0.000024801492762909601);
  p = multiply_add(p, r, 0.000198412695047945233);
  p = multiply_add(p, r, 0.00138888889439224562);
  p = multiply_add(p, r, 0.00833333333349560764);
  p = multiply_add(p, r, 0.0416666666665291894);
  p = multiply_add(p, r, 0.166666666666664103);
  return multiply_add(p, r, 0.500000000000001072);
}

ELEMENTARY real atanh_tail(real u)
{
  real p = 0.170097515333202256;
  p = multiply_add(p, u, 0.083449738650925474);
  p = multiply_add(p, u, 0.121049445094750008);
  p = multiply_add(p, u, 0.133011214004409438);
  p = multiply_add(p, u, 0.153865483942528449);
  p = multiply_add(p, u, 0.181817444787850942);
  p = multiply_add(p, u, 0.222222239536633883);
  p = multiply_add(p, u, 0.285714285481175243);
  p = multiply_add(p, u, 0.400000000001551227);
  return multiply_add(p, u, 0.666666666666663097);
}
#endif

/* y 2^n for y near 1, n and n + y's exponent within the normal exponents: n, where ROUNDER + n has
 * it, added to the exponent of y.  A NaN may become a number. */
ELEMENTARY real times_power(real y, real n_rounder)
{
  real_bits bits, n;
  memcpy(&bits, &y, sizeof bits);
  memcpy(&n, &n_rounder, sizeof n);
  bits += n << SIGNIFICAND_BITS;
  memcpy(&y, &bits, sizeof y);
  return y;
}

/* 2^n */
ELEMENTARY real power_of_two(real n_rounder) { return times_power(1, n_rounder); }

/* exp x of a number between the clamps as y 2^n, with n + ROUNDER */
struct exp_parts {
  real y, n_rounder;
};

ELEMENTARY struct exp_parts exp_reduced(real x)
{
  struct exp_parts e;
  e.n_rounder = multiply_add(x, LOG2_E, ROUNDER);
  real n = e.n_rounder - ROUNDER;
  real r = multiply_add(n, -LN2_LOW, multiply_add(n, -LN2_HIGH, x));
  e.y = multiply_add(multiply_add(exp_tail(r), r, 1), r, 1);
  return e;
}

ELEMENTARY real exp_real(real x)
{
  x = x < EXP_LOWEST ? EXP_LOWEST : x;
  struct exp_parts e = exp_reduced(x > EXP_HIGHEST ? EXP_HIGHEST : x);
  real n = e.n_rounder - ROUNDER, half = n * (real)0.5 + ROUNDER, rest = n - (half - ROUNDER);
  return e.y * power_of_two(half) * power_of_two(rest + ROUNDER);
}

ELEMENTARY real exp_falling(real x)
{
  struct exp_parts e = exp_reduced(x);
  real y = e.y * power_of_two(e.n_rounder);
  return x < EXP_NORMAL ? 0 : y;
}

/* exp(-x) between the least and the largest normal number: 1 + it is finite.  x is cut as the
 * integer that it is bit by bit, of which as signed ones all negative numbers are smaller than the
 * positive, and as unsigned ones greater, the more so the larger: an instruction for each side,
 * where a comparison of floats takes four.  So exp_minus(NaN) is a number; who calls multiplies by
 * x. */
ELEMENTARY real exp_minus(real x)
{
  const real most = -EXP_NORMAL, least = EXP_NORMAL;
  real_bits bits, highest, lowest;
  memcpy(&bits, &x, sizeof bits);
  memcpy(&highest, &most, sizeof highest);
  memcpy(&lowest, &least, sizeof lowest);
  bits = (signed_bits)bits < (signed_bits)highest ? bits : highest;
  bits = bits < lowest ? bits : lowest;
  memcpy(&x, &bits, sizeof x);
  struct exp_parts e = exp_reduced(-x);
  return times_power(e.y, e.n_rounder);
}

/* log(1 + e) = 2 atanh(e/(2 + e)) for 0 <= e <= 1 */
ELEMENTARY real log1p_unit(real e)
{
  real s = e / (2 + e), u = s * s;
  return multiply_add(s * u, atanh_tail(u), 2 * s);
}

#endif

#if defined(__CUDA_ARCH__) && REAL_BITS == 32
/* 1/x for 1 <= x <= 2^126 within 1 ulp: one instruction, where a division is ten and a branch. */
INLINE_DEVICE real reciprocal(real x)
{
  real y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#define DIVIDE(a, b) ((a)*reciprocal(b))
#else
#define DIVIDE(a, b) ((a) / (b))
#endif

/* 1/(1 + exp(-x)) */
ELEMENTARY real sigmoid(real x)
{
  real s = DIVIDE(1, 1 + exp_minus(x));
  return x == x ? s : x;
}

/* silu(x) = x sigmoid(x) */
ELEMENTARY real silu(real x) { return DIVIDE(x, 1 + exp_minus(x)); }

struct silu_pair {
  real value, slope;
};

/* silu and its derivative s + x s (1 - s), s = sigmoid(x), where 1 - s is not a difference. */
ELEMENTARY struct silu_pair silu_with_slope(real x)
{
  struct silu_pair y;
  real e = exp_minus(x), s = DIVIDE(1, 1 + e), rest = e * s;
  y.value = x * s;
  y.slope = multiply_add(y.value, rest, s);
  return y;
}

ELEMENTARY real silu_derivative(real x) { return silu_with_slope(x).slope; }

/* log(1 + exp(x)) */
ELEMENTARY real softplus(real x)
{
  bool positive = re(x) > 0;
  return (positive ? x : 0) + log1p_unit(exp_real(positive ? -x : x));
}
#endif
