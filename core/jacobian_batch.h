/* jacobian_batch.h: one token of a model in a batch of rows, each row with carried states of its
 * own: solved to the rounding floor, stepped and differentiated.  Private to core/jacobian.c.
 *
 * A row's state, on the host: the SSM states of all layers (layer, head, p, n), and behind them the
 * inputs that the convolutions remember, the last W-1 of each layer (layer, channel, tap; oldest
 * first).  A step drops the conv state's oldest column before it is used: it is no part of this. */
#ifndef CORE_JACOBIAN_BATCH_H
#define CORE_JACOBIAN_BATCH_H
#include "core/jacobian.h"
#include "core/network.h"
#include "core/weights.h"

#define jacobian_batch NAME(jacobian_batch)
#define jacobian_map NAME(jacobian_map)
#define batch_open NAME(jacobian_batch_open)
#define batch_close NAME(jacobian_batch_close)
#define batch_put_input NAME(jacobian_batch_put_input)
#define batch_put_states NAME(jacobian_batch_put_states)
#define batch_get_states NAME(jacobian_batch_get_states)
#define batch_put_rows NAME(jacobian_batch_put_rows)
#define batch_get_rows NAME(jacobian_batch_get_rows)
#define batch_span NAME(jacobian_batch_span)
#define batch_evaluate NAME(jacobian_batch_evaluate)
#define batch_step NAME(jacobian_batch_step)
#define batch_solve NAME(jacobian_batch_solve)
#define batch_forward NAME(jacobian_batch_forward)

struct jacobian_batch {
  struct weights w;
  const struct solver_port *solver;
  struct fp_options options;
  int64_t capacity, states, inputs, extent;    /* rows; of a row: SSM states, conv inputs, both */
  bool injected, iterate;                      /* u is added; solves begin with the solver */
  DEVICE real *u;                              /* (capacity,d_in_proj) */
  DEVICE real *z, *fz, *constant;              /* (capacity,D); constant: of the adjoint equation */
  DEVICE int32_t *one, *token;                 /* (capacity): ones; of jacobian_embed */
  struct activations act, solving, tangent;    /* solving: act without the chunk states */
  struct carried_states carried, enter, leave; /* the states; two sets of (co)tangents */
  real *host_z, *host_fz, *host_guess, *host_best; /* (capacity,D) */
  real *host_layer;                                /* (capacity, largest state of a layer) */
  real *host_state;                                /* (capacity,extent) */
  double *host_square;                             /* (capacity,4) */
  double *host_residual, *host_reached;            /* (capacity) */
  uint8_t *host_exit;                              /* (capacity) */
  int32_t *host_one;                               /* (capacity) */
  struct arena device, host;
  struct scratch scratch;
};

/* A map of (rows,D) whose fixed point is sought; capturable (core/fixed_point.h). */
#define jacobian_map_fn NAME(jacobian_map_fn)
typedef enum status jacobian_map_fn(void *batch, const struct fp_active *a, const DEVICE real *z,
                                    DEVICE real *fz);

MUST_USE enum status batch_open(const struct config *c, const double *parameters,
                                const struct backend *be, const struct solver_port *solver,
                                int64_t rows, bool differentiate, struct jacobian_batch *b);
void batch_close(struct jacobian_batch *b);

/* The same u (d_in_proj) for every row; NULL: nothing is injected. */
MUST_USE enum status batch_put_input(struct jacobian_batch *b, const double *u);
/* states (rows,extent) into and out of the device's layers. */
MUST_USE enum status batch_put_states(struct jacobian_batch *b, int64_t rows, const real *state,
                                      const struct carried_states *to);
MUST_USE enum status batch_get_states(struct jacobian_batch *b, int64_t rows,
                                      const struct carried_states *from, real *state);
/* The same row (n) `rows` times. */
MUST_USE enum status batch_put_rows(struct jacobian_batch *b, int64_t rows, int64_t n,
                                    const double *row, DEVICE real *to);

struct span batch_span(const struct jacobian_batch *b, int64_t rows);
/* f at z, keeping activations in act. */
MUST_USE enum status batch_evaluate(struct jacobian_batch *b, int64_t rows);
/* f at z, then its token enters the carried states. */
MUST_USE enum status batch_step(struct jacobian_batch *b, int64_t rows);
/* The map f itself. */
MUST_USE enum status batch_forward(void *batch, const struct fp_active *a, const DEVICE real *z,
                                   DEVICE real *fz);
/* z = map(z) from the guess in z: first by the solver (where b->iterate), then by z += A^-1 (map(z)
 * - z), A = lu or its transpose, until the residual of no row decreases; adds to `tally`. */
MUST_USE enum status batch_solve(struct jacobian_batch *b, int64_t rows, jacobian_map_fn *map,
                                 bool fixed_rows, const struct dense_lu *lu, bool transpose,
                                 DEVICE real *z, struct jacobian_tally *tally);
#endif
