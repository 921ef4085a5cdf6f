/* flops.h: floating-point operations of a model, by its shape, for one token.
 *
 * Counted are the matrix products, the convolution and the state-space recurrence, a multiplication
 * and an addition as two; norms, gates and other functions of single numbers are not.  With the
 * names of struct model_dims, W_in and W_out with their biases left out:
 *
 *   block      sum over the layers of
 *              2 D d_in_proj                  W_in
 *              2 W conv_dim                   the convolution
 *              5 H P N + 2 H P                S = a S + (Delta x) B'; y = S C + D x
 *              2 (E + d_mlp) D                W_out
 *              6 D F                          the MLP behind the mixer
 *   injection  2 D d_in_proj                  implicit models
 *   head       2 D V
 *
 * The recurrence is counted as the definition has it, whichever form ran.  A derivative by inputs
 * and parameters costs twice the evaluation; a derivative by inputs alone, which is what an
 * iteration of the adjoint solve is, costs as much as the evaluation. */
#ifndef CORE_FLOPS_H
#define CORE_FLOPS_H
#include "core/config.h"

struct token_flops {
  double block, injection, head;
};
struct token_flops token_flops(const struct model_config *c);

/* What a training step did: everything a token each, padding included. */
struct step_work {
  int64_t tokens;         /* of the batch */
  int64_t solved;         /* evaluations of f by the forward solve */
  int64_t differentiated; /* evaluations of f that are differentiated through */
  int64_t outputs;        /* of the head, likewise */
  int64_t adjoint;        /* iterations of the adjoint solve */
};
double step_flops(const struct model_config *c, const struct step_work *w);
#endif
