/* samples.h: the iterates that a solve works on, what is known of each sample, and how a method
 * joins in.
 *
 * A sample is a row (window: all) or a block of a row (window: k).  Its unknowns lie together in
 * the packed arrays.  Sums over them are taken tile by tile, whose number depends on n alone, and
 * then in order: they depend neither on the neighbours nor on the number of threads.  (A product
 * with the weights has as many rows as there are samples left, and a library may round it by that:
 * what neighbours do changes a sample's last digits, no more.) */
#ifndef SOLVERS_SAMPLES_H
#define SOLVERS_SAMPLES_H
#include "core/fixed_point.h"
#include "core/packs.h"

#ifdef __CUDACC__
enum { FP_TILE = 512 };
#else
enum { FP_TILE = 4096 };
#endif
enum { FP_STRIP = 512 }; /* unknowns of a tile that a loop over many vectors takes at a time */
/* What a lane keeps of a strip: OWN(j) of FP_OWN is its place of the strip's unknown j. */
#ifdef __CUDACC__
enum { FP_OWN = FP_STRIP / WARP };
#define OWN(j) ((j) / WARP)
#else
enum { FP_OWN = FP_STRIP };
#define OWN(j) (j)
#endif

/* What a step does with a sample. */
enum fp_action { FP_STEP, FP_HOLD, FP_REPLAY };

/* What is known of a sample; moves with it. */
struct fp_sample {
  double now, best;   /* residual of z, and of the best iterate (infinite: none yet) */
  double scale;       /* norms beyond `divergence` times this have diverged; 0: not set */
  int32_t iterations; /* evaluations so far */
  int32_t stale;      /* of them since the best was found */
  int32_t slot;       /* where its method keeps its memory */
  uint8_t exit, action, verdict; /* enum fp_exit; enum fp_action; exit that its method asks for */
  bool keep;                     /* z is the best so far */
};

/* What a method keeps of a sample beside vectors; does not move. */
struct fp_slot {
  int32_t count, head;          /* vectors kept, place of the newest */
  int32_t phase, age, rest;     /* the method's own; steps since a restart; Picard steps to take */
  int32_t stalls;               /* restarts for want of progress, of this sample */
  double last, length;          /* residual before the last step; length of that step */
  bool accelerated;             /* the last step was the method's, not Picard's */
  int32_t counter[FP_COUNTERS]; /* of all samples that used this slot */
};

#define fp_samples NAME(fp_samples)
struct fp_samples {
  int64_t rows, blocks, n;             /* packed now */
  int64_t per_row;                     /* samples a row: 1, or blocks */
  int64_t tiles;                       /* a block */
  DEVICE real *z, *fz, *best;          /* (rows,blocks,n) */
  DEVICE double *part;                 /* (rows,blocks,tiles,2): of the next two; tiles > 1 */
  DEVICE double *square, *reference;   /* (rows,blocks): ||fz-z||^2 or max|fz-z|^2; same of fz */
  DEVICE int32_t *row, *first, *count; /* (rows) */
  DEVICE int32_t *retired;             /* (rows) blocks that leave after this evaluation */
  DEVICE struct fp_sample *sample;     /* (rows,per_row) */
  DEVICE struct fp_slot *slot;         /* (slots) */
  int64_t slots;                       /* samples at the beginning */
};

/* What decides; `total` arrays have one entry a sample of the problem. */
struct fp_decision {
  double tol, divergence, floor; /* floor: relative residual that rounding leaves */
  int64_t max_iter, min_iter, patience, length;
  int64_t admit, wait; /* blocks that may enter a row behind the last one's evaluation `wait` */
  int stop;
  bool all, worst_token, stop_together, return_last;
  DEVICE int32_t *lengths;     /* (problem rows) */
  DEVICE int32_t *unconverged; /* (1) samples above the tolerance, for stop_together */
  DEVICE int32_t *iterations;  /* total */
  DEVICE double *residual;
  DEVICE uint8_t *exit;
  DEVICE double *trace; /* (total,max_iter) or NULL */
};

/* A method's memory; each method says in its file what lies where.  A slot holds one sample. */
#define fp_memory NAME(fp_memory)
struct fp_memory {
  int64_t m;                /* vectors a slot in a and in b */
  int64_t stride;           /* unknowns a slot */
  int64_t sums, small_size; /* sums a tile; numbers a slot in small */
  DEVICE real *a, *b;       /* (slots,m,stride) */
  DEVICE real *c, *d;       /* (slots,stride) */
  DEVICE wide *part;        /* (rows,blocks,tiles,sums) */
  DEVICE wide *small;       /* (slots,small_size) */
  DEVICE int32_t *order;    /* (slots,2,m) pivots */
  DEVICE real *work;        /* as the method says */
};

/* A method: carve (NULL: nothing to keep) takes its memory for the samples in s; step makes z of
 * every sample whose action is FP_STEP the next iterate.  A sample with iterations = 1 is new.
 * inverse (NULL: nothing to tell; window: all): where H lies, and of each slot how many terms.
 * trades: the step does what samples_keep and samples_replay do in the same pass, and leaves next
 * iterates in fz and best ones in z: samples_trade follows. */
#define fp_method NAME(fp_method)
struct fp_method {
  const char *name;
  bool trades;
  enum status (*carve)(struct arena *device, const struct fp_samples *s, const struct fp_options *o,
                       struct fp_memory *m);
  void (*step)(stream st, const struct fp_samples *s, const struct fp_options *o,
               const struct fp_memory *m);
  void (*inverse)(stream st, const struct fp_samples *s, const struct fp_options *o,
                  const struct fp_memory *m, struct fp_inverse *h);
};
#define picard OP(picard)
#define anderson OP(anderson)
#define broyden OP(broyden)
#define gmres OP(gmres)
extern const struct fp_method picard, anderson, broyden, gmres;

#define samples_carve OP(samples_carve)
#define samples_begin OP(samples_begin)
#define samples_measure OP(samples_measure)
#define samples_decide OP(samples_decide)
#define samples_keep OP(samples_keep)
#define samples_replay OP(samples_replay)
#define samples_trade OP(samples_trade)
#define samples_record OP(samples_record)
#define samples_live OP(samples_live)
#define samples_count OP(samples_count)
#define samples_slide OP(samples_slide)
#define samples_pack OP(samples_pack)

/* s->rows, blocks, n and per_row are given. */
MUST_USE enum status samples_carve(struct arena *device, struct fp_samples *s);
/* Every row begins at its first blocks, from the guess (.,length,n). */
void samples_begin(stream st, const struct fp_samples *s, const struct fp_decision *d,
                   const DEVICE real *guess);
/* Squares of the residuals fz - z by block. */
void samples_measure(stream st, const struct fp_samples *s, bool largest);
/* Which samples go on, which leave and how. */
void samples_decide(stream st, const struct fp_samples *s, const struct fp_decision *d);
/* Keeps the iterates that are the best so far. */
void samples_keep(stream st, const struct fp_samples *s);
/* z of those that must replay becomes their best iterate. */
void samples_replay(stream st, const struct fp_samples *s);
/* What is in fz is z now, what is in z is best; after SAMPLES_TRADES all are where they were. */
enum { SAMPLES_TRADES = 3 };
void samples_trade(struct fp_samples *s);
/* What is known of finished rows goes into the answer (window: all). */
void samples_record(stream st, const struct fp_samples *s, const struct fp_decision *d);
/* Sums of the slots' counters (FP_COUNTERS). */
void samples_count(stream st, const struct fp_samples *s, DEVICE int64_t *counters);
/* live[r]: packed row r goes on; all: a row is a sample. */
void samples_live(stream st, const struct fp_samples *s, bool all, DEVICE int32_t *live);
/* Leading blocks that have left make room for new ones. */
void samples_slide(stream st, const struct fp_samples *s, const struct fp_decision *d,
                   const DEVICE real *guess);
/* Packed row source[r] >= r becomes packed row r, for the first `rows`. */
void samples_pack(stream st, struct fp_samples *s, int64_t rows, const DEVICE int32_t *source);

/* ---- walking ---- */

/* Unknowns first..end-1 of the packed arrays, `at` in their sample. */
struct fp_tile {
  int64_t block, sample, first, end, at;
  bool active; /* not padding */
};

INLINE int64_t fp_tiles(const struct fp_samples *s) { return s->rows * s->blocks * s->tiles; }

INLINE int64_t sample_of_block(const struct fp_samples *s, int64_t block)
{
  return s->per_row == 1 ? block / s->blocks : block;
}

INLINE struct fp_tile tile_of(const struct fp_samples *s, int64_t i)
{
  struct fp_tile t;
  t.block = i / s->tiles;
  int64_t j = (i - t.block * s->tiles) * FP_TILE, in_row = t.block % s->blocks;
  t.sample = sample_of_block(s, t.block);
  t.first = t.block * s->n + j;
  t.end = t.first + (s->n - j < FP_TILE ? s->n - j : FP_TILE);
  t.at = (s->per_row == 1 ? in_row * s->n : 0) + j;
  t.active = in_row < s->count[t.block / s->blocks];
  return t;
}

/* A strip of a tile: n unknowns from `first` of the packed arrays; `at` in a slot's vector 0 of a
 * and b, `in` in its c and d. */
struct fp_strip {
  int64_t n, first, at, in;
};

INLINE struct fp_strip strip_of(const struct fp_memory *m, const struct fp_tile *t, int64_t slot,
                                int64_t first)
{
  struct fp_strip v;
  v.n = t->end - first < FP_STRIP ? t->end - first : FP_STRIP;
  v.first = first;
  v.in = slot * m->stride + t->at + first - t->first;
  v.at = slot * m->m * m->stride + t->at + first - t->first;
  return v;
}

/* Tiles of a sample: n_tiles from the first on, in order. */
INLINE int64_t tiles_of_sample(const struct fp_samples *s)
{
  return s->tiles * (s->blocks / s->per_row);
}

/* Whether nothing moves before a sample.  In a window only the leading block's own map is the same
 * from one evaluation to the next; what those behind it have seen says nothing of theirs. */
INLINE bool leads(const struct fp_samples *s, int64_t sample) { return sample % s->per_row == 0; }

/* Whether it leads once those have left that leave now.  What it has seen one evaluation before is
 * off by their last step alone, which secants bear and Krylov vectors do not. */
INLINE bool will_lead(const struct fp_samples *s, int64_t sample)
{
  return s->per_row == 1 || sample % s->per_row == s->retired[sample / s->per_row];
}

/* The part of an accelerated method's plain step that a sample takes.  Behind the one that leads
 * the map still moves with those in front, and tails that take undamped steps may swing: at 0.9 a
 * window of 8 takes 9.1 evaluations a token instead of 12.2 on A5, 18 instead of 25 on another seed
 * of it, and up to a tenth more where nothing swings (Z5, S3). */
INLINE double share_of_step(const struct fp_samples *s, int64_t sample, double damping)
{
  return will_lead(s, sample) || damping <= 0.9 ? 1 : 0.9 / damping;
}

/* to += the sum of what the lanes have added up (core/launch.h). */
#ifdef __CUDACC__
#define ADD_LANES(to, x)    \
  do {                      \
    wide lanes_ = (x);      \
    ROW_FOLD(lanes_, plus); \
    if (OWNS_COLUMN(0))     \
      (to) += lanes_;       \
  } while (0)
#else
#define ADD_LANES(to, x) ((to) += (x))
#endif

INLINE bool is_finite(double x) { return x - x == 0; }
#endif
