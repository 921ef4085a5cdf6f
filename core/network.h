/* network.h: a model at work on batches: the fixed point, the loss and the gradients, in memory
 * that is planned once for batches of up to `rows` sequences of `length` tokens. */
#ifndef CORE_NETWORK_H
#define CORE_NETWORK_H
#include "core/fixed_point.h"
#include "core/model.h"

#define network NAME(network)
#define network_result NAME(network_result)
#define network_open NAME(network_open)
#define network_measure NAME(network_measure)
#define network_close NAME(network_close)
#define network_set_length NAME(network_set_length)
#define network_learn NAME(network_learn)
#define network_learn_part NAME(network_learn_part)
#define labels_that_count NAME(labels_that_count)
#define network_evaluate NAME(network_evaluate)
#define whole_span NAME(whole_span)
#define solve_record NAME(solve_record)
#define implicit_solve NAME(implicit_solve)
#define regularise NAME(regularise)
#define upload_batch NAME(upload_batch)
#define upload_rows NAME(upload_rows)
#define output_fwd NAME(output_fwd)
#define correction_states NAME(correction_states)
#define trajectory_fwd NAME(trajectory_fwd)
#define trajectory_vjp NAME(trajectory_vjp)
#define adjoint_solve NAME(adjoint_solve)
#define adjoint_carve NAME(adjoint_carve)
#define solve_fixed_point NAME(solve_fixed_point)
#define backend_dry NAME(backend_dry)
#define backend_dry_of NAME(backend_dry_of)

struct network {
  const struct sequence_model *m;
  const struct deq_config *deq;
  const struct solver_port *solver;
  int64_t rows, capacity; /* most sequences of a batch, most tokens of one */
  int64_t length, steps;  /* tokens now; evaluations of f that are differentiated through */
  bool learn;
  const int32_t *lengths; /* of the batch at work; the caller's */
  DEVICE int32_t *tokens, *labels, *best;
  struct dropout_masks masks;          /* of the batch at work; learning with dropout only */
  const struct dropout_masks *dropped; /* those, or NULL */
  DEVICE real *keep;                   /* (M,D) dropout of the embeddings */
  DEVICE real *e, *er, *en, *u;        /* embeddings (M,D), their norm, injected (M,d_in_proj) */
  DEVICE real **z;               /* (steps+1) of (M,D): the trajectory; z[0] is the solver's, and
                                    all but the last are the x into layer 0 of their acts */
  struct activations *acts;      /* (steps) of the trajectory */
  bool only_vjp;                 /* of which nothing but block_vjp asks (struct span) */
  struct activations solving;    /* of the solver's evaluations; shares acts[0] where it can */
  DEVICE real **states;          /* (correction's states) of (M,D): iterates, the last is z* */
  DEVICE wide *sum;              /* (1) */
  struct carried_states carried; /* for windows */
  DEVICE int32_t *row, *first, *count; /* (rows) of the token that an explicit model steps on */
  DEVICE real *logits, *lse, *logitsb, *zb, *fb, *ub, *eb;
  DEVICE wide *losses, *sums;     /* (M); of each output that has a loss, sum_losses' two */
  wide *host_losses, *host_sums;  /* the same */
  int32_t *host_best, *host_rows; /* (M), (rows) */
  uint8_t *host_exit;             /* (M) */
  struct arena device, host;      /* everything above lies in these */
  struct scratch scratch;         /* what is left of them */
};

/* One batch: (rows,length) tokens and labels on the host; labels may be NULL when evaluating. */
struct batch {
  int64_t rows;
  const int32_t *tokens, *labels;
  const int32_t *lengths; /* (rows) tokens of each that count, what is behind is padding with
                             ignored labels; NULL: all */
  const struct dropout_draw *dropout; /* which masks learning draws; NULL: no dropout */
  int64_t labels_total; /* the loss of learning is the sum over this many labels' mean; 0: over
                           this batch's own (a batch of several that are summed gives theirs) */
};

struct network_result {
  wide loss_sum;       /* of the cross-entropies of the labels that count */
  int64_t labels;      /* how many those are */
  int64_t correct;     /* of them, where the largest logit is the label's */
  const int32_t *best; /* evaluating: (M) the largest logit's index, until the next call */
  int64_t bad;         /* learning: the first sequence with a loss that is not finite; -1: none */
  struct fp_result forward, backward; /* samples = 0: no solve took place */
  /* learning: what was differentiated: the mean loss, with correction and regularisation */
  wide objective;
  double jacobian;   /* estimate of |df/dz|^2/n, weighed as the batch is in its step; < 0: none */
  int64_t fallbacks; /* sequences for which shine fell back to jfb */
  int64_t differentiated, outputs; /* a token each: evaluations of f, and of the head, with VJP */
};

/* Plans memory and takes it.  learn: with what gradients need, for every gradient that
 * deq->gradient and unrolling may ask for.  ERR_MEMORY. */
MUST_USE enum status network_open(const struct sequence_model *m, const struct deq_config *deq,
                                  const struct solver_port *solver, int64_t rows, int64_t length,
                                  bool learn, struct network *net);
void network_close(struct network *net);
/* The bytes that network_open takes, without taking them. */
MUST_USE enum status network_measure(const struct sequence_model *m, const struct deq_config *deq,
                                     const struct solver_port *solver, int64_t rows, int64_t length,
                                     bool learn, size_t *device, size_t *host);
/* The batches that follow have rows of `length` tokens, at most those that memory was planned for.
 */
void network_set_length(struct network *net, int64_t length);

/* r->forward.exit is the network's own, until the next call.
 * The loss of the output that `gradient` names (README: Gradients) into r: the sum over tokens and
 * the mean with what regularises it; and with g the mean's derivative by every parameter, added.
 * Explicit models: gradient is ignored. */
MUST_USE enum status network_learn(struct network *net, const struct parameter_set *p,
                                   enum gradient_kind gradient, const struct batch *b,
                                   const struct parameter_set *g, struct network_result *r);
/* The same of one of several batches that g is the sum over; gradients_derive follows the last. */
MUST_USE enum status network_learn_part(struct network *net, const struct parameter_set *p,
                                        enum gradient_kind gradient, const struct batch *b,
                                        const struct parameter_set *g, struct network_result *r);
/* Labels of the first M that are not ignored. */
int64_t labels_that_count(const struct batch *b, int64_t M);

/* z* solved as o says (left in net->z[0]; explicit: f(e), token by token when the window is 1),
 * logits in net->logits, and with labels the loss. The arrays of r->forward are the caller's, or
 * NULL. */
MUST_USE enum status network_evaluate(struct network *net, const struct parameter_set *p,
                                      const struct fp_options *o, const struct batch *b,
                                      struct network_result *r);

/* ---- implicit.c ---- */

/* All tokens of `rows` sequences, with what is injected and dropped. */
struct span whole_span(const struct network *net, int64_t rows);

/* What learning keeps of a forward solve beside z*. */
struct solve_record {
  int64_t states;             /* iterates, evenly spaced: into net->states, the last z*; 1: none */
  struct fp_inverse *inverse; /* in net->scratch, which is left shorter; NULL: not wanted */
};

/* z* = f(z*, u) for `rows` sequences from the guess in net->z[0]; record NULL: nothing is kept. */
MUST_USE enum status implicit_solve(struct network *net, const struct parameter_set *p,
                                    int64_t rows, const struct fp_options *o,
                                    const struct solve_record *record, struct fp_result *r);
/* z[k+1] = (1 - tau_k) z[k] + tau_k f(z[k], u), k < steps, keeping activations; tau_0 = first.
 * from_zero: z[0] stands for zeros, and first is 1, so that a quarter of four evaluations' largest
 * products is not done.  only_vjp: nothing but block_vjp, or trajectory_vjp, follows. */
MUST_USE enum status trajectory_fwd(struct network *net, const struct parameter_set *p,
                                    int64_t rows, int64_t steps, bool from_zero, double first,
                                    double damping, bool only_vjp);
/* From the cotangent of z[steps] in net->zb, which is lost: net->ub = u_beta net->ub + its
 * cotangent, where 0 does not read it; adds to g. */
MUST_USE enum status trajectory_vjp(struct network *net, const struct parameter_set *p,
                                    int64_t rows, int64_t steps, bool from_zero, double first,
                                    double damping, double u_beta, const struct parameter_set *g);
/* v = (df/dz)' v + net->zb at the activations acts[0], solved into net->fb from the guess there;
 * windows slide from the end. */
MUST_USE enum status adjoint_solve(struct network *net, const struct parameter_set *p, int64_t rows,
                                   const struct fp_options *o, struct fp_result *r);

/* ---- regularise.c ---- */

/* Adds weight * ||df/dz||_F^2 / n, estimated at z (constant), to r->objective, and with g its
 * derivative to net->ub and g; of `labels` labels in the batch.  Overwrites the trajectory, of
 * which z may be. */
MUST_USE enum status regularise(struct network *net, const struct parameter_set *p,
                                const struct batch *b, int64_t labels, const DEVICE real *z,
                                const struct parameter_set *g, struct network_result *r);

/* ---- network.c, for learning.c ---- */

MUST_USE enum status upload_batch(struct network *net, const struct batch *b);
/* to[r] = slope r + start */
MUST_USE enum status upload_rows(struct network *net, int64_t rows, int64_t slope, int32_t start,
                                 DEVICE int32_t *to);
/* Logits from z, and with labels the losses, their sums, and scale times the cotangent of the
 * logits, where logitsb is not NULL.  Queues only. */
void output_fwd(struct network *net, const struct parameter_set *p, const struct batch *b,
                const DEVICE real *z, double scale, DEVICE real *logitsb, DEVICE wide *sums);
/* Iterates that have a loss when the solve is deq->forward. */
int64_t correction_states(const struct deq_config *deq);

/* Carves what adjoint_solve needs beside the solver's memory and the VJP's. */
MUST_USE enum status adjoint_carve(const struct network *net, const struct fp_options *o,
                                   struct scratch *scratch);
/* What a solver's part of `bytes` takes of the scratch memory that others go on with. */
static inline size_t solver_part(size_t bytes)
{
  return (bytes + 127) / 64 * 64; /* it may begin anywhere */
}

/* Solves with net->scratch split: the solver's own part first, the map's behind it.  The solver's
 * part stays taken when p->inverse lies in it. */
MUST_USE enum status solve_fixed_point(struct network *net, const struct fp_problem *p,
                                       const struct fp_options *o, DEVICE real *z,
                                       struct fp_result *r);

/* A backend whose operations do nothing: running a function on it and on measuring arenas tells the
 * memory that the function needs. */
extern const struct backend backend_dry;
/* backend_dry, for what is to run on `be`: memory that depends on the backend is planned as its. */
struct backend backend_dry_of(const struct backend *be);
#endif
