/* solve_timing.h: how long solves take, and how much of that is the map's: of a plain map, and of a
 * trained model's fixed point.  For backends whose operations are done when they return. */
#ifndef CORE_SOLVE_TIMING_H
#define CORE_SOLVE_TIMING_H
#include "core/run.h"

/* One row of one block of n unknowns; the map in both precisions, or NULL where it is not asked
 * for. */
struct timed_map {
  int64_t n;
  const void *ctx;
  void (*f32)(const void *ctx, int64_t n, const float *z, float *fz);
  void (*f64)(const void *ctx, int64_t n, const double *z, double *fz);
};

enum { SOLVES_TIMED_MAX = 32 };
struct solve_timing {
  struct fp_options options;
  int64_t rows, length; /* of a model's batch; plain maps have one row of one block */
  int repetitions;      /* 1 to SOLVES_TIMED_MAX; one solve before them is not counted */
  double seconds;       /* each repeats the solve until this time is over */
  /* the answer */
  double solve[SOLVES_TIMED_MAX]; /* seconds a solve */
  double map[SOLVES_TIMED_MAX];   /* of them in f; models: NaN */
  struct fp_result result;        /* totals of the last; its arrays are NULL */
};

/* Solves from `guess` (n; NULL: 0); the last answer goes to z (n; NULL: not wanted). ERR_MEMORY,
 * ERR_INTERRUPTED. */
MUST_USE enum status map_timed(const struct runtime *rt, enum dtype dtype,
                               const struct timed_map *map, const double *guess,
                               struct solve_timing *t, double *z);
/* Solves of a checkpoint's model for sequences of stream EVALUATE, `count` timings one by one. */
MUST_USE enum status model_timed(const struct config *c, const struct runtime *rt,
                                 const char *checkpoint, struct solve_timing *t, int64_t count);
#endif
