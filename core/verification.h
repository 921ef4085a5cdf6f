/* verification.h: the check of the Jacobian theorem as a whole: a point, the Jacobian there in four
 * ways, the explicit model's, and what they say of each other; then several tokens in a row. */
#ifndef CORE_VERIFICATION_H
#define CORE_VERIFICATION_H
#include "core/jacobian.h"

/* The devices and solvers, as the program wired them. */
struct jacobian_runtime {
  const struct backend_f64 *f64;
  const struct backend_c64 *c64;
  const struct solver_port_f64 *solver;
  const struct solver_port_c64 *solver_c64;
  jacobian_complex_fn *complex_step;
};

enum jacobian_way { BY_THEOREM, BY_COMPLEX_STEP, BY_ADJOINT, BY_DIFFERENCES, JACOBIAN_WAYS };
enum { SWEEP_STEPS = 27, JACOBIAN_PAIRS = 6 };

/* Errors put in on purpose, for tests of the check. */
enum planted_error {
  PLANTED_NONE,
  PLANTED_DROPPED_TERM,     /* the closed form without dLambda/dz . h */
  PLANTED_STALE_ACTIVATION, /* the adjoint at activations of an iterate before z* */
};

/* Two ways compared: absolute differences, and their maximum over the largest entry. */
struct jacobian_pair {
  enum jacobian_way a, b;
  double largest, median, relative, tolerance;
  bool passed;
};

/* What a matrix looks like. */
struct jacobian_shape {
  double norm, largest, median; /* Frobenius; of absolute and of signed entries */
  double off_diagonal;          /* norm of the off-diagonal entries over norm of all */
  double radius;                /* spectral */
};

/* Of the product of the Jacobians of several tokens, in n components of the state. */
struct jacobian_product {
  double log_scale, *singular; /* singular values (n) are exp(log_scale) singular */
  double *exponents;           /* Lyapunov exponents, largest first */
};

struct verification {
  const struct config *c;
  struct jacobian_sizes size;
  struct tensor_list list;
  double *parameters;
  double *u, *x, *z; /* (tokens,d_in_proj), (tokens,D), (tokens,D) */
  double *state;     /* (extent) before the first token */
  bool found;        /* the fixed point was found; otherwise nothing below is set */
  bool passed;
  struct jacobian_tally base, adjoint, differences, complex_step;
  struct jacobian_parts parts;
  double *J[JACOBIAN_WAYS], *J_explicit; /* (states,states) */
  double *sigma;                         /* (D) singular values of I - df/dz */
  int64_t rank;
  double condition, f_radius; /* of I - df/dz; spectral radius of df/dz */
  struct jacobian_shape shape, explicit_shape;
  struct jacobian_pair pair[JACOBIAN_PAIRS];
  double parts_error;          /* dh'/dz against diag(h) dLambda/dz + dv/dz, relative */
  double explicit_off;         /* largest entry that the theorem says is 0 */
  double explicit_error;       /* against complex step, relative */
  int64_t sweep_columns, best; /* best: the step that the differences took */
  double sweep_step[SWEEP_STEPS], central_error[SWEEP_STEPS], richardson_error[SWEEP_STEPS];
  /* several tokens */
  int64_t tokens, exponents, failed_token; /* -1: every fixed point was found */
  struct jacobian_product implicit_product, explicit_product;
  double product_error; /* of columns of the product, against complex step, relative */
  size_t memory;        /* planned by the session, and the matrices */
};

const char *jacobian_way_name(enum jacobian_way w);

/* What is checked, besides what the configuration says. */
struct verification_request {
  const char *checkpoint; /* directory; NULL: random parameters */
  const char *input;      /* safetensors with u, h, conv_state and optionally x, as
                             verification_save writes them; NULL: as jacobian.input says */
  enum planted_error planted;
  /* Called with what comes next, for who waits; NULL: nobody does. */
  void (*says)(const struct verification *v, const char *what);
};

/* Checks the model that c describes; c outlives v.  A failed check or solve is a result (v->passed,
 * v->found), not an error. */
MUST_USE enum status verify_jacobian(const struct config *c, const struct jacobian_runtime *rt,
                                     struct verification_request request, struct verification *v);
void verification_free(struct verification *v);
/* Everything needed to check the matrices elsewhere, as safetensors.  ERR_IO. */
MUST_USE enum status verification_save(const struct verification *v, const char *path);
/* u, h, conv_state and x of the file into v.  ERR_IO, ERR_DATA. */
MUST_USE enum status verification_read_point(const struct verification *v, const char *path);
#endif
