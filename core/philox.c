/* philox.c: Philox4x32-10, Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
 * 3" (SC 2011), and the draws made from its words. */
#include "core/philox.h"
#include <math.h>

void philox(uint64_t seed, uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t out[4])
{
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = UINT64_C(0xD2511F53) * a, p1 = UINT64_C(0xCD9E8D57) * c;
    a = (uint32_t)(p1 >> 32) ^ b ^ k0;
    c = (uint32_t)(p0 >> 32) ^ d ^ k1;
    b = (uint32_t)p1;
    d = (uint32_t)p0;
    k0 += UINT32_C(0x9E3779B9); /* the golden ratio */
    k1 += UINT32_C(0xBB67AE85); /* sqrt(3) - 1 */
  }
  out[0] = a, out[1] = b, out[2] = c, out[3] = d;
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
