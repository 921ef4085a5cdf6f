/* solver_probe.h: the solvers in one precision, driven through doubles, for precision-free tests.
 * Every function exists as solver_x_f32 and _f64. */
#ifndef TESTS_NUMERIC_SOLVER_PROBE_H
#define TESTS_NUMERIC_SOLVER_PROBE_H
#include "core/options.h"
#include <stddef.h>

/* A map as the tests write it: a chain that carries `state` numbers from block to block. */
struct solver_map {
  int64_t rows, length, n, state;
  const int32_t *lengths; /* NULL: all */
  bool fixed_rows;
  void *ctx;
  /* fz (n) of block t of a row from z (n) and s (state), which becomes the state behind it */
  void (*block)(void *ctx, int64_t row, int64_t t, const double *z, double *s, double *fz);
};

struct solver_usage {
  size_t device_bytes, host_bytes; /* planned */
  int64_t calls;                   /* of f */
  int64_t blocks;                  /* active ones that f saw */
  int64_t most_rows, least_rows;   /* packed rows of a call */
  int64_t most_active;             /* blocks of a row in a call */
  int64_t most_entered;            /* blocks that entered a row between two calls */
};

/* Options that name a solver and leave everything else at rest. */
struct fp_options solver_options(enum fp_solver solver, int64_t max_iter, double tol);

#define SOLVER_PROBE(bits)                                                                    \
  /* Solves from the guess in z (rows,length,n), `times` times with one workspace that holds  \
   * NaN at first; the last answer counts. */                                                 \
  void solver_run_##bits(const struct solver_map *map, const struct fp_options *o, int times, \
                         double *z, struct fp_result *result, struct solver_usage *usage);    \
  /* Solves once; then out (rows,length,n) = H' g with what the solve left behind.  Returns   \
   * the rows that took g itself. */                                                          \
  int64_t solver_transpose_##bits(const struct solver_map *map, const struct fp_options *o,   \
                                  double limit, double *z, const double *g, double *out,      \
                                  struct fp_result *result);
SOLVER_PROBE(f32)
SOLVER_PROBE(f64)
#endif
