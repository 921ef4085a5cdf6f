/* operations.h: the shapes that the operations of operations.def take. */
#ifndef CORE_OPERATIONS_H
#define CORE_OPERATIONS_H
#include "core/launch.h"

enum { IGNORED_LABEL = -100 };
enum { SSD_MAX_STATE = 256, CONV_MAX_TAPS = 16 }; /* largest N and W that the kernels take */

/* Causal depthwise convolution: B sequences of T tokens, C channels, W taps; `ld` is the distance
 * between tokens in the input (the channels are columns of a wider matrix). */
struct conv1d_shape {
  int64_t B, T, C, W, ld;
};

/* SSD: H heads of P channels, N states a channel, G groups of heads share B and C.  x, B, C are
 * columns of one matrix with `ld` columns; `chunk` is the length of a chunk of the chunked form. */
struct ssd_shape {
  int64_t B, T, H, P, N, G, ld, chunk;
  bool D_has_hdim; /* D is (H,P) instead of (H) */
  bool A_negative; /* decays 2 exp(A dt) - 1 instead of exp(A dt) */
  bool from_zero;  /* nothing enters where a sequence begins, and of what ssd_chunked keeps only its
                      VJP asks, with the same: S need not be written there, nor is it read */
  bool
      only_vjp; /* of what ssd_chunked keeps only its VJP asks, with the same, for all of xb, Bb and
                   Cb, and arrays begin at multiples of 16 bytes: S may be what only it reads */
  bool by_blocks; /* ssd_chunked of a CPU goes by steps (kernels/ssd_steps_cpu.h) or by blocks */
};

/* Number of chunks of the chunked form. */
INLINE int64_t ssd_chunks(struct ssd_shape d) { return (d.T + d.chunk - 1) / d.chunk; }

/* Tokens of the longest chunk. */
INLINE int64_t ssd_chunk_length(struct ssd_shape d) { return d.T < d.chunk ? d.T : d.chunk; }

/* Blocks of tokens of a chunk of q; what is kept by blocks has room for whole ones. */
enum { SSD_BLOCK = 64 };
INLINE int64_t ssd_blocks(int64_t q) { return (q + SSD_BLOCK - 1) / SSD_BLOCK; }

/* Room in which arrays of four reals at a time follow others. */
INLINE int64_t in_fours(int64_t reals) { return (reals + 3) / 4 * 4; }

/* Scratch reals of ssd_chunked_fwd and _vjp: a chunk's token pairs twice for each group; its
 * tokens' channels twice, its state, eight scalars a token and two a block for each head; and the
 * pairs twice for each head too, or (by_blocks) two blocks' channels for each group. */
INLINE int64_t ssd_chunked_work(struct ssd_shape d)
{
  int64_t Q = ssd_chunk_length(d), state = d.H * d.P * d.N, blocks = ssd_blocks(Q);
  if (d.A_negative) /* kernels/ssd_products.h: a chunk's states and their cotangents, two more */
    return (2 * Q + 2) * state;
  int64_t tokens = d.by_blocks ? blocks * SSD_BLOCK : Q;
  int64_t head = 2 * tokens * d.P + d.P * d.N + 8 * Q + 2 * blocks;
  int64_t pairs = d.by_blocks ? d.G * 2 * SSD_BLOCK * d.P : d.H * 2 * Q * Q;
  int64_t chunks = d.B * ssd_chunks(d);
  return in_fours(chunks * (2 * d.G * Q * Q + pairs)) + chunks * d.H * head;
}

/* And of ssd_chunked_jvp. */
INLINE int64_t ssd_chunked_jvp_work(struct ssd_shape d)
{
  d.by_blocks = false;
  return 2 * ssd_chunked_work(d);
}

/* Which draw of masks: sequences first.. of a step, under a seed. */
struct dropout_draw {
  uint64_t seed;
  uint32_t step, first;
};

/* Gated RMS norm: rows of E channels in G groups; `ldz` the distance between rows of the gate z. */
struct gated_rmsnorm_shape {
  int64_t rows, E, G, ldz;
  bool norm_before_gate;
};

#ifdef REAL_BITS
/* RMS norm (rmsnorm_fwd), perhaps of what a branch of the model is added to:
 *   h = x + mask out,  f = w h r,  r = (mean(h^2) + eps)^-1/2,  y = z + damping (f - z) */
#define branch_norm NAME(branch_norm)
struct branch_norm {
  int64_t B, T;
  const DEVICE real *x;      /* (B,T,D); NULL: zeros, where there is `out` */
  const DEVICE int32_t *row; /* (B) of mask for each sequence; NULL: in order */
  const DEVICE real *mask;   /* (.,D) a row a sequence; NULL: ones */
  const DEVICE real *w;      /* (D) */
  double damping;            /* 1: y is f */
  const DEVICE real *z; /* (B,T,D), not over y; not read where damping is 1 and no square wanted */
  DEVICE real *r;       /* (B,T) */
  DEVICE real *h;       /* (B,T,D); NULL, or without `out`: not written */
  DEVICE real *y;       /* (B,T,D) may be x or out */
  DEVICE double *square, *reference; /* (B,T) ||f - z||^2, ||f||^2 by row; NULL, NULL: not wanted */
};
#endif
#endif
