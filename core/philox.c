/* philox.c: Philox4x32-10, Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
 * 3" (SC 2011), and the draws made from its words. */
#include "core/philox.h"
#include <math.h>

void philox(uint64_t seed, uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t out[4])
{
  philox_rounds(seed, a, b, c, d, out);
}

double philox_uniform(uint32_t hi, uint32_t lo)
{
  return ((double)(hi >> 5) * 0x1p26 + (double)(lo >> 6)) * 0x1p-53;
}

double philox_normal(const uint32_t word[4])
{
  double radius = sqrt(-2 * log(1 - philox_uniform(word[0], word[1]))); /* log of (0,1] */
  return radius * cos(2 * 3.14159265358979323846 * philox_uniform(word[2], word[3]));
}

uint32_t philox_below(const uint32_t word[4], uint32_t n)
{
  uint64_t high = (uint64_t)word[0] * n, low = (uint64_t)word[1] * n;
  return (uint32_t)((high + (low >> 32)) >> 32);
}
