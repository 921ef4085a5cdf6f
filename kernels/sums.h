/* sums.h: the sum of a vector's parts, in registers.
 *
 * gcc adds up the parts of a reduction one behind the other, through memory: 16 additions that wait
 * for each other took as long as the row of 128 channels before them.  Here the upper half is added
 * to the lower, down to one.
 */
#ifndef KERNELS_SUMS_H
#define KERNELS_SUMS_H
#include "kernels/elementary.h"

#if defined(__CUDACC__) || REAL_BITS == 128
ELEMENTARY real sum_of_parts(int n, const real *parts)
{
  real left[16];
  for (int l = 0; l < n; l++)
    left[l] = parts[l];
  for (int half = n / 2; half > 0; half /= 2)
    for (int l = 0; l < half; l++)
      left[l] += left[l + half];
  return left[0];
}
#else
typedef real parts2 __attribute__((vector_size(2 * sizeof(real))));
typedef real parts4 __attribute__((vector_size(4 * sizeof(real))));
typedef real parts8 __attribute__((vector_size(8 * sizeof(real))));

/* n: 4, 8 or 16, a constant where this is called */
ELEMENTARY real sum_of_parts(int n, const real *parts)
{
  real left[8];
  parts8 a8, b8;
  parts4 a4, b4;
  parts2 a2, b2;
  if (n == 16) {
    memcpy(&a8, parts, sizeof a8);
    memcpy(&b8, parts + 8, sizeof b8);
    a8 += b8;
    memcpy(left, &a8, sizeof a8);
  }
  const real *of8 = n == 16 ? left : parts;
  if (n >= 8) {
    memcpy(&a4, of8, sizeof a4);
    memcpy(&b4, of8 + 4, sizeof b4);
    a4 += b4;
  } else {
    memcpy(&a4, parts, sizeof a4);
  }
  memcpy(&a2, &a4, sizeof a2);
  memcpy(&b2, (const real *)&a4 + 2, sizeof b2);
  a2 += b2;
  return a2[0] + a2[1];
}
#endif
#endif
