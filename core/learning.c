/* learning.c: the loss of a batch and its derivative by every parameter.
 *
 *   objective = sum_k w_k L(z^(k)) + weight R,    w_n = 1
 *
 * L is the mean cross-entropy and z^(n) the output that the gradient names (README: Gradients).
 * With fixed-point correction n iterates of the forward solve, evenly spaced over max_iter, are
 * differentiated, each on its own; the last is z*, by deq.gradient, the others by phantom's damped
 * evaluations (jfb's one), as in TorchDEQ (Geng & Kolter 2023, arXiv 2310.18605; the weights: Bai
 * et al. 2022, arXiv 2204.08442).  R: regularise.c. */
#include "core/network.h"
#include <string.h>

#define learning NAME(learning)
struct learning {
  struct network *net;
  const struct parameter_set *p, *g; /* g NULL: no derivative */
  const struct batch *b;
  int64_t labels, total; /* of the batch that count; that the loss is the mean over */
  int64_t iterates;      /* that have a loss */
  struct network_result *r;
};

/* Damped evaluations that are differentiated through: steps, damping of the first and of others. */
struct damped {
  int64_t steps;
  double first, damping;
};

static struct damped damped_of(const struct deq_config *deq, enum gradient_kind gradient)
{
  struct damped t = {1, 1, 1};
  if (gradient == GRADIENT_UNROLL) /* z1 = f(0) */
    t = (struct damped){deq->unroll_iterations, 1, deq->unroll_damping};
  if (gradient == GRADIENT_PHANTOM)
    t = (struct damped){deq->phantom_steps, deq->phantom_damping, deq->phantom_damping};
  return t;
}

static bool at_fixed_point(enum gradient_kind gradient)
{
  return gradient == GRADIENT_IFT || gradient == GRADIENT_SHINE;
}

/* ---- before and behind f ---- */

/* Draws the batch's masks. */
static void draw_masks(struct network *net, const struct batch *b)
{
  const struct backend *be = net->m->be;
  net->dropped = b->dropout && net->m->config.dropout > 0 ? &net->masks : NULL;
  if (!net->dropped)
    return;
  dropout_masks_draw(net->m, b->rows, *b->dropout, &net->masks);
  be->dropout_mask(be->st, b->rows, net->length * net->m->dims.D, net->m->config.dropout,
                   *b->dropout, 0, net->keep);
}

/* Of the embeddings. */
static const DEVICE real *kept(const struct network *net)
{
  return net->dropped ? net->keep : NULL;
}

/* Of iterate k of n. */
static double correction_weight(const struct correction_config *c, int64_t k, int64_t n)
{
  double behind = (double)(n - 1 - k);
  if (c->weights == CORRECTION_EXPONENTIAL)
    return pow(c->gamma, behind);
  return c->weights == CORRECTION_LINEAR ? 1 - c->gamma * behind / (double)n : 1;
}

/* By what the sum of iterate k's losses goes into the objective. */
static double scale_of(const struct learning *l, int64_t k)
{
  double w = correction_weight(&l->net->deq->correction, k, l->iterates);
  return l->total ? w / (double)l->total : 0;
}

/* Iterate k's loss at its output z, and with g its cotangent into net->zb. */
static void output(const struct learning *l, int64_t k, const DEVICE real *z)
{
  struct network *net = l->net;
  const struct backend *be = net->m->be;
  const struct model_dims *d = &net->m->dims;
  int64_t M = l->b->rows * net->length;
  output_fwd(net, l->p, l->b, z, scale_of(l, k), l->g ? net->logitsb : NULL, net->sums + 2 * k);
  l->r->outputs += M;
  if (l->g)
    be->linear_vjp(be->st, M, d->D, d->V, z, l->p->head, net->logitsb, 0, net->zb, l->g->head,
                   NULL);
}

/* The first sequence with a loss of the last iterate that is not finite; -1: none. */
static enum status find_bad(const struct learning *l, int64_t *bad)
{
  const struct network *net = l->net;
  const struct backend *be = net->m->be;
  int64_t M = l->b->rows * net->length, at = 0;
  TRY(be->download(be->st, (size_t)M * sizeof *net->host_losses, net->losses, net->host_losses));
  while (at < M && isfinite(re(net->host_losses[at])))
    at++;
  *bad = at < M ? at / net->length : -1;
  return OK;
}

/* Waits for what the outputs gave, when all else is under way.  A sum is finite where all its
 * losses are. */
static enum status collect(const struct learning *l)
{
  struct network *net = l->net;
  struct network_result *r = l->r;
  const struct backend *be = net->m->be;
  size_t bytes = 2 * (size_t)l->iterates * sizeof *net->sums;
  wide objective = 0;
  TRY(be->download(be->st, bytes, net->sums, net->host_sums));
  for (int64_t k = 0; k < l->iterates; k++)
    objective += scale_of(l, k) * net->host_sums[2 * k];
  r->objective = objective + r->objective;
  r->labels = l->labels;
  r->loss_sum = net->host_sums[2 * l->iterates - 2];
  r->correct = (int64_t)re(net->host_sums[2 * l->iterates - 1]);
  return isfinite(re(r->loss_sum)) ? OK : find_bad(l, &r->bad);
}

/* ---- implicit models ---- */

/* Whether the forward solve's inverse is wanted. */
static bool uses_inverse(const struct deq_config *deq, enum gradient_kind gradient)
{
  return gradient == GRADIENT_SHINE || (gradient == GRADIENT_IFT && deq->guess_shine);
}

/* v of (I - df/dz)' v = net->zb, or what stands for it, into net->zb. */
static enum status adjoint(const struct learning *l, enum gradient_kind gradient,
                           const struct fp_inverse *inverse)
{
  struct network *net = l->net;
  const struct backend *be = net->m->be;
  int64_t n = l->b->rows * net->length * net->m->dims.D;
  if (uses_inverse(net->deq, gradient))
    TRY(net->solver->transpose(be, inverse, net->deq->shine_limit, net->zb, net->fb,
                               &l->r->fallbacks));
  else
    be->axpby(be->st, n, 1, net->zb, 0, net->fb);
  if (gradient == GRADIENT_IFT)
    TRY(adjoint_solve(net, l->p, l->b->rows, &net->deq->backward, &l->r->backward));
  be->axpby(be->st, n, 1, net->fb, 0, net->zb);
  return OK;
}

/* Iterate k: from `from` (NULL: z[0]) by the gradient's evaluations to its loss and back. */
static enum status learn_iterate(const struct learning *l, enum gradient_kind gradient, int64_t k,
                                 const DEVICE real *from, const struct fp_inverse *inverse)
{
  struct network *net = l->net;
  const struct backend *be = net->m->be;
  int64_t rows = l->b->rows;
  struct damped t = damped_of(net->deq, gradient);
  bool zero = gradient == GRADIENT_UNROLL;
  if (from)
    be->axpby(be->st, rows * net->length * net->m->dims.D, 1, from, 0, net->z[0]);
  TRY(trajectory_fwd(net, l->p, rows, t.steps, zero, t.first, t.damping,
                     !at_fixed_point(gradient)));
  l->r->differentiated += rows * net->length * t.steps;
  /* at a fixed point the activations are those of z[0], which is the output */
  output(l, k, at_fixed_point(gradient) ? net->z[0] : net->z[t.steps]);
  if (!l->g)
    return OK;
  if (at_fixed_point(gradient))
    TRY(adjoint(l, gradient, inverse));
  return trajectory_vjp(net, l->p, rows, t.steps, zero, t.first, t.damping, k > 0, l->g);
}

static enum status learn_implicit(const struct learning *l, enum gradient_kind gradient)
{
  struct network *net = l->net;
  const struct sequence_model *m = net->m;
  const struct backend *be = m->be;
  const struct deq_config *deq = net->deq;
  int64_t rows = l->b->rows, M = rows * net->length;
  if (gradient == GRADIENT_SHINE && !fp_leaves_inverse(&deq->forward, net->length)) {
    gradient = GRADIENT_JFB;
    l->r->fallbacks = rows;
  }
  bool solve = gradient != GRADIENT_UNROLL;
  struct fp_inverse inverse;
  struct solve_record record = {1, uses_inverse(deq, gradient) ? &inverse : NULL};
  record.states = l->iterates;
  inject_fwd(m, l->p, M, net->e, net->er, net->en, net->u);
  if (solve) {
    be->fill(be->st, M * m->dims.D, 0, net->z[0]);
    TRY(implicit_solve(net, l->p, rows, &deq->forward, &record, &l->r->forward));
  }
  for (int64_t k = 0; k < record.states; k++) {
    bool last = k + 1 == record.states;
    enum gradient_kind of_k = last || gradient == GRADIENT_JFB ? gradient : GRADIENT_PHANTOM;
    TRY(learn_iterate(l, of_k, k, record.states > 1 ? net->states[k] : NULL, &inverse));
  }
  const DEVICE real *z = solve ? net->z[0] : net->z[damped_of(deq, gradient).steps];
  TRY(regularise(net, l->p, l->b, l->labels, z, l->g, l->r));
  return l->g ? inject_vjp(m, l->p, M, net->e, net->er, net->en, net->ub, net->scratch, net->eb,
                           l->g)
              : OK;
}

/* ---- explicit models ---- */

static enum status learn_explicit(const struct learning *l)
{
  struct network *net = l->net;
  const struct backend *be = net->m->be;
  int64_t rows = l->b->rows, n = rows * net->length * net->m->dims.D;
  struct span s = whole_span(net, rows);
  be->axpby(be->st, n, 1, net->e, 0, net->z[0]);
  TRY(trajectory_fwd(net, l->p, rows, 1, false, 1, 1, true));
  l->r->differentiated += rows * net->length;
  output(l, 0, net->z[1]);
  if (!l->g)
    return OK;
  const struct block_cotangents to = {.z = net->eb};
  return block_vjp(net->m, l->p, &s, &net->acts[0], net->zb, net->scratch, &to, l->g);
}

int64_t labels_that_count(const struct batch *b, int64_t M)
{
  int64_t count = 0;
  for (int64_t i = 0; i < M; i++)
    count += b->labels[i] != IGNORED_LABEL;
  return count;
}

enum status network_learn_part(struct network *net, const struct parameter_set *p,
                               enum gradient_kind gradient, const struct batch *b,
                               const struct parameter_set *g, struct network_result *r)
{
  const struct sequence_model *m = net->m;
  const struct scratch free = net->scratch;
  int64_t M = b->rows * net->length;
  struct learning l = {.net = net, .p = p, .g = g, .b = b, .r = r};
  bool implicit = m->config.kind == MODEL_IMPLICIT;
  *r = (struct network_result){.forward.exit = net->host_exit, .jacobian = -1, .bad = -1};
  CHECK(net->learn && b->labels);
  TRY(upload_batch(net, b));
  draw_masks(net, b);
  embed_fwd(m, p, M, net->tokens, kept(net), net->e);
  l.labels = labels_that_count(b, M);
  l.total = b->labels_total ? b->labels_total : l.labels;
  l.iterates = implicit && gradient != GRADIENT_UNROLL ? correction_states(net->deq) : 1;
  enum status s = implicit ? learn_implicit(&l, gradient) : learn_explicit(&l);
  net->scratch = free;
  TRY(s);
  if (g)
    m->be->embedding_vjp(m->be->st, M, m->dims.V, m->dims.D, net->tokens, kept(net), net->eb,
                         g->embedding);
  return collect(&l);
}

enum status network_learn(struct network *net, const struct parameter_set *p,
                          enum gradient_kind gradient, const struct batch *b,
                          const struct parameter_set *g, struct network_result *r)
{
  TRY(network_learn_part(net, p, gradient, b, g, r));
  if (g)
    gradients_derive(net->m, p, g);
  return OK;
}
