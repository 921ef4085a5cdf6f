/* fixed_point.h: the port between a map and the solvers.  It knows nothing of Mamba.
 *
 * Find z (rows,length,n) with z = f(z).  A row is a chain of `length` blocks of n unknowns in which
 * block t of f(z) depends on blocks <= t of z (length 1: no such structure); rows are independent.
 *
 * The solver keeps its iterates packed: the active rows first, and of each the active range of
 * blocks.  f sees exactly those; whatever lies before a row's range has been retired, and the map
 * carries its effect in a state of its own, which retire() advances. */
#ifndef CORE_FIXED_POINT_H
#define CORE_FIXED_POINT_H
#include "core/arena.h"
#include "core/backend.h"
#include "core/options.h"

/* What a solver wants of an evaluation in the same pass. */
struct fp_measure {
  double damping;                    /* (1 - damping) z + damping f(z) in the place of f(z) */
  DEVICE double *square, *reference; /* (rows,blocks) ||f(z) - z||^2 and ||f(z)||^2 of each block */
};

struct fp_active {
  int64_t rows, blocks;        /* packed arrays are (rows,blocks,n) */
  const DEVICE int32_t *row;   /* (rows) which row of the problem */
  const DEVICE int32_t *first; /* (rows) its first active block */
  const DEVICE int32_t *count; /* (rows) its active blocks; packed ones behind them are padding */
  bool whole; /* row[r] is r and first[r] 0, of all rows, and blocks the length of the problem */
  const struct fp_measure *measure; /* NULL: f(z) alone; else of a problem that `measures` */
};

/* What Broyden's method knows of every row when it ends (window: all):
 *   H = damping I + sum_{k < count[row]} u_k v_k',  an approximation of (I - df/dz)^{-1}.
 * It lies in the scratch memory of the solve, and lasts as long as that is left alone. */
#define fp_inverse NAME(fp_inverse)
struct fp_inverse {
  int64_t rows, length, n;
  int64_t vectors, most;    /* places a row has in u and v; of them used at most */
  double damping;           /* of H */
  const DEVICE real *u, *v; /* (rows,vectors,length,n); blocks beyond `lengths` hold anything */
  const DEVICE int32_t *lengths; /* (rows) */
  DEVICE int32_t *count;         /* (rows) -1: nothing is known of the row */
  DEVICE wide *part;             /* (rows,length,most): work */
  DEVICE int32_t *fallen;        /* (1): work */
};

#define fp_problem NAME(fp_problem)
struct fp_problem {
  int64_t rows, length, n;
  struct fp_inverse *inverse; /* receives what the solve leaves behind; NULL: not wanted */
  bool fixed_rows;            /* the map sees all rows in order in every call (no compaction) */
  bool capturable;            /* f and retire only enqueue, and the same whenever `a` is the same:
                               * they wait for nothing, copy nothing from or to the host and keep
                               * no count, so that a call may be replayed (core/backend.h) */
  bool measures;              /* f does what fp_active.measure says */
  const int32_t *lengths;     /* (rows) on the host: blocks of each row that count; NULL: all */
  void *ctx;
  /* Writes fz (rows,blocks,n) = f(z) on the active blocks; what it writes into padding is ignored.
   */
  enum status (*f)(void *ctx, const struct fp_active *a, const DEVICE real *z, DEVICE real *fz);
  /* The first count[r] blocks of the ranges of the last f leave for good; NULL: nothing to carry.
   */
  enum status (*retire)(void *ctx, const struct fp_active *a, const DEVICE int32_t *count);
};

/* Solves p from the guess in z (rows,length,n; device), which receives the answer.  Blocks beyond
 * `lengths` are left alone.  Fails only for the world's reasons; see solvers/solve.h. */
#define fp_solve_fn NAME(fp_solve_fn)
typedef enum status fp_solve_fn(const struct backend *be, const struct fp_problem *p,
                                const struct fp_options *o, struct scratch scratch, DEVICE real *z,
                                struct fp_result *result);
/* Carves what fp_solve_fn needs for this problem and these options: run it on measuring arenas. */
#define fp_plan_fn NAME(fp_plan_fn)
typedef enum status fp_plan_fn(int64_t rows, int64_t length, int64_t n, const struct fp_options *o,
                               struct scratch scratch);

/* out = H' g of every row, for the adjoint equation (I - df/dz)' v = g without iterating on it
 * (SHINE, Ramzi et al. 2022, arXiv 2106.00553).  A row of which nothing is known, whose H' g is not
 * finite, or longer than `limit` times g (0: no limit), takes g itself, as JFB does; *fallen
 * counts these rows.  Blocks beyond `lengths` take g.  g, out (rows,length,n), not the same. */
#define fp_transpose_fn NAME(fp_transpose_fn)
typedef enum status fp_transpose_fn(const struct backend *be, const struct fp_inverse *h,
                                    double limit, const DEVICE real *g, DEVICE real *out,
                                    int64_t *fallen);

/* The solvers as programs hand them to core/, which does not know them. */
#define solver_port NAME(solver_port)
struct solver_port {
  fp_solve_fn *solve;
  fp_plan_fn *plan;
  fp_transpose_fn *transpose;
};
#endif
