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
};

/* Four words for key `seed` and counter (a,b,c,d). */
void philox(uint64_t seed, uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t out[4]);
double philox_uniform(uint32_t hi, uint32_t lo); /* 53 bits, in [0,1) */
/* A standard normal from one call's words (Box-Muller). */
double philox_normal(const uint32_t word[4]);
/* Unbiased integer in [0,n) from one call's words, n <= 2^32 (multiply-shift on 64 bits). */
uint32_t philox_below(const uint32_t word[4], uint32_t n);
#endif
