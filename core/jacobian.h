/* jacobian.h: the state-to-state Jacobian of one token of an implicit model, in float64, four ways.
 *
 *   z* = f(z*, h; u),  h' = Lambda(z*) h + v(z*):
 *   dh'/dh = Lambda + (dLambda/dz . h + dv/dz) (I - df/dz)^-1 df/dh                 (one layer)
 *   dh'/dh = dh'/dh|z + dh'/dz|h (I - df/dz)^-1 df/dh                               (any number)
 *
 * closed form     the analytic derivatives of one step at z*, by tangents, in the equation above
 * adjoint         row by row: v = (df/dz)' v + (dh'/dz)' e_i, by the VJPs that training uses
 * differences     central, z* solved anew at every perturbed state
 * complex step    Im h'(h + i e_j 1e-30) / 1e-30 through the solved fixed point
 *
 * A state is a vector of doubles: all SSM states (layer, head, p, n) and behind them, as far as
 * they take part, the last W-1 inputs of each layer's convolution (layer, channel, tap; oldest
 * first). A matrix that is called transposed has one column of the Jacobian in each row. Reference:
 * arXiv:2502.07827, theorem 1. */
#ifndef CORE_JACOBIAN_H
#define CORE_JACOBIAN_H
#include "core/config.h"
#include "core/dense.h"
#include "core/tensors.h"

struct backend_f64;
struct backend_c64;
struct solver_port_f64;
struct solver_port_c64;

/* Where a Jacobian is taken; host memory. */
struct jacobian_point {
  const double *u;     /* (d_in_proj); NULL: nothing is injected (the explicit model) */
  const double *state; /* (extent) before the token */
  const double *z;     /* (D) the fixed point, or the explicit model's input */
};

/* How solves went; worst of all that were added. */
struct jacobian_tally {
  int64_t solves, iterations; /* rows solved; most evaluations of f by the solver */
  int64_t by_newton;          /* rows that the solver did not bring to its tolerance */
  int64_t polish;             /* most steps z += (I - J)^-1 (f(z) - z) */
  double residual;            /* largest ||f(z) - z|| / ||f(z)|| at the end */
};

/* Analytic derivatives of one step, transposed; n is `states`, or `extent` with conv inputs. */
struct jacobian_parts {
  int64_t D, states, n;
  double *df_dz, *dh_dz;      /* (D,D), (D,n) */
  double *df_dh, *dh_dh;      /* (n,D), (n,n) at fixed z */
  double *dLambda_dz, *dv_dz; /* (D,states) */
};

/* Sizes of the state. */
struct jacobian_sizes {
  int64_t D, d_in_proj, states, extent;
};
struct jacobian_sizes jacobian_sizes(const struct model_config *c);

/* The model's parameters in float64, (list->block) doubles to be freed: drawn with c->seed, or
 * those of a checkpoint directory. */
MUST_USE enum status jacobian_load(const struct config *c, const struct tensor_list *list,
                                   const struct backend_f64 *be, const char *checkpoint,
                                   double **parameters);

/* A model in memory, in batches of rows of one token. */
struct jacobian_session;
MUST_USE enum status jacobian_open(const struct config *c, const double *parameters,
                                   const struct backend_f64 *be,
                                   const struct solver_port_f64 *solver,
                                   struct jacobian_session **out);
void jacobian_close(struct jacobian_session *s);
size_t jacobian_memory(const struct jacobian_session *s); /* bytes planned on the device */

/* Finds z* (D) at p (its z is not read): from 0 by the solver that c->deq.evaluate names, then by
 * Newton from its best iterate and, should that fail, from other starts, to the rounding floor.
 * *found false: z is the best iterate, tally->residual its residual. */
MUST_USE enum status jacobian_fixed_point(struct jacobian_session *s,
                                          const struct jacobian_point *p, double *z,
                                          struct jacobian_tally *tally, bool *found);
/* Whether that solver alone came to its tolerance: then perturbed solves begin with it too. */
bool jacobian_iterates(const struct jacobian_session *s);
/* The backend's linear algebra. */
const struct dense_library *jacobian_dense(const struct jacobian_session *s);

/* x (count,D): embedded tokens; u (count,d_in_proj): injected ones, NULL: not wanted (explicit
 * models have none). */
MUST_USE enum status jacobian_embed(struct jacobian_session *s, int64_t count,
                                    const int32_t *tokens, double *x, double *u);
/* The state after the token. */
MUST_USE enum status jacobian_advance(struct jacobian_session *s, const struct jacobian_point *p,
                                      double *next);

/* Takes memory for the parts with n = states or (conv) extent. */
MUST_USE enum status jacobian_parts_make(const struct model_config *c, bool conv,
                                         struct jacobian_parts *parts);
void jacobian_parts_free(struct jacobian_parts *parts);
MUST_USE enum status jacobian_differentiate(struct jacobian_session *s,
                                            const struct jacobian_point *p,
                                            const struct jacobian_parts *parts);
/* The theorem: transposed (n,n) from the parts at `state`; dh'/dz of the SSM states is put together
 * from dLambda/dz and dv/dz.  ERR_MEMORY. */
MUST_USE enum status jacobian_theorem(const struct jacobian_parts *parts, const double *state,
                                      const struct dense_lu *lu, double *transposed);
/* J (states,states), not transposed. */
MUST_USE enum status jacobian_adjoint(struct jacobian_session *s, const struct jacobian_point *p,
                                      const struct dense_lu *lu, double *J,
                                      struct jacobian_tally *tally);
/* Row k of difference (count,states): (h'(h + step e_j) - h'(h - step e_j)) / 2 step for j =
 * column[k] and step[k]. */
MUST_USE enum status jacobian_differences(struct jacobian_session *s,
                                          const struct jacobian_point *p, const struct dense_lu *lu,
                                          int64_t count, const int64_t *column, const double *step,
                                          double *difference, struct jacobian_tally *tally);

/* What the complex build is asked for: columns of the Jacobian of the state after `tokens` tokens
 * by the state before them, in its first n components. */
struct jacobian_complex {
  const struct config *c;
  const double *parameters;
  const struct backend_c64 *be;
  const struct solver_port_c64 *solver;
  int64_t tokens, n, columns;
  const int64_t *column;       /* (columns) */
  const double *u, *state, *z; /* (tokens,d_in_proj) or NULL, (extent), (tokens,D): as in a point */
  const struct dense_lu *lu;   /* (tokens); NULL: z is an input, not a fixed point */
  bool iterate;                /* solves begin with the solver */
  /* (columns), or NULL: column j is transposed's times 2^exponent[j], as one of a long product may
   * be too small for a number, or its square */
  int *exponent;
};
typedef enum status jacobian_complex_fn(const struct jacobian_complex *r, double *transposed,
                                        struct jacobian_tally *tally);
/* transposed (columns,n).  In libdeqmamba_complex.a. */
jacobian_complex_fn jacobian_complex_step;

void jacobian_tally_add(struct jacobian_tally *to, const struct jacobian_tally *t);
/* A solve counts as converged when its residual is at most this. */
extern const double jacobian_floor;
#endif
