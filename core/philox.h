/* philox.h: Philox4x32-10 (Salmon et al. 2011): random numbers as a function of key and counter, so
 * that any draw can be replayed and nothing is stored. */
#ifndef CORE_PHILOX_H
#define CORE_PHILOX_H
#include <stdint.h>

/* Streams: the first word of the counter. */
enum philox_stream {
  STREAM_TRAIN = 1,
  STREAM_EVALUATE,
  STREAM_INITIALISE,
  STREAM_DROPOUT,
  STREAM_JACOBIAN,
  STREAM_TEST,
  STREAM_LENGTH,
  STREAM_REGULARISE,
  STREAM_SPECTRUM,
};

#ifdef __CUDACC__
#define PHILOX_INLINE static __host__ __device__ inline
#else
#define PHILOX_INLINE static inline
#endif

/* philox, for kernels */
PHILOX_INLINE void philox_rounds(uint64_t seed, uint32_t a, uint32_t b, uint32_t c, uint32_t d,
                                 uint32_t out[4])
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

/* Four words for key `seed` and counter (a,b,c,d). */
void philox(uint64_t seed, uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t out[4]);
double philox_uniform(uint32_t hi, uint32_t lo); /* 53 bits, in [0,1) */
/* A standard normal from one call's words (Box-Muller). */
double philox_normal(const uint32_t word[4]);
/* Integer in [0,n) from one call's words, by multiply-shift on 64 bits: none is more probable than
 * another by more than n/2^64 of its probability. */
uint32_t philox_below(const uint32_t word[4], uint32_t n);
#endif
