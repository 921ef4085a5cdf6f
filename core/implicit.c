/* implicit.c: the fixed point of the model's block, and its derivative (the adjoint: adjoint.c).
 *
 *   z* = f(z*, u; theta),      dL/dtheta = (df/dtheta)' v,      v = (df/dz)' v + dL/dz*
 *
 * by the implicit function theorem: (I - (df/dz)') v = dL/dz*, all at z*.  The adjoint equation is
 * a fixed point itself and goes through the same solvers; one iteration is one VJP at the
 * activations kept at z*. `unroll` and `phantom` differentiate through a trajectory of damped
 * evaluations. */
#include "core/network.h"
#include <string.h>

struct span whole_span(const struct network *net, int64_t rows)
{
  struct span s = {.rows = rows, .T = net->length, .length = net->length};
  s.u = net->m->config.kind == MODEL_IMPLICIT ? net->u : NULL;
  s.masks = net->dropped;
  s.only_vjp = net->only_vjp;
  return s;
}

/* ---- solving ---- */

struct forward_map {
  struct network *net;
  const struct parameter_set *p;
  const struct carried_states *carried; /* NULL: the window is the whole sequence */
  int64_t rows, states, kept, calls;    /* iterates to keep; kept already; evaluations so far */
  int64_t max_iter;
};

static struct span active_span(const struct forward_map *c, const struct fp_active *a)
{
  struct span s = whole_span(c->net, a->rows);
  s.T = a->blocks;
  s.carried = c->carried;
  if (a->measure) {
    s.damping = a->measure->damping;
    s.square = a->measure->square, s.reference = a->measure->reference;
  }
  if (a->whole && !c->carried)
    return s;
  s.row = a->row, s.first = a->first, s.count = a->count;
  return s;
}

/* The evaluation whose iterate is kept as k of n: n of them, evenly spaced, end at max_iter. */
static int64_t evaluation_kept(int64_t k, int64_t n, int64_t max_iter)
{
  return max_iter - (n - 1 - k) * (max_iter / n);
}

/* Rows that have left the batch are in z[0] already. */
static void keep_iterate(struct forward_map *c, const struct fp_active *a, const DEVICE real *z)
{
  struct network *net = c->net;
  const struct backend *be = net->m->be;
  c->calls++;
  if (c->kept + 1 >= c->states || c->calls != evaluation_kept(c->kept, c->states, c->max_iter))
    return;
  DEVICE real *to = net->states[c->kept++];
  be->axpby(be->st, c->rows * net->length * net->m->dims.D, 1, net->z[0], 0, to);
  be->scatter_blocks(be->st, a->rows, a->blocks, net->m->dims.D, net->length, a->row, a->first,
                     a->count, z, to);
}

static enum status forward_f(void *ctx, const struct fp_active *a, const DEVICE real *z,
                             DEVICE real *fz)
{
  struct forward_map *c = ctx;
  struct span s = active_span(c, a);
  keep_iterate(c, a, z);
  return block_fwd(c->net->m, c->p, &s, z, &c->net->solving, c->net->scratch, fz);
}

static enum status forward_retire(void *ctx, const struct fp_active *a, const DEVICE int32_t *count)
{
  struct forward_map *c = ctx;
  struct span s = active_span(c, a);
  block_advance(c->net->m, c->p, &s, &c->net->solving, count, c->carried);
  return OK;
}

enum status solve_fixed_point(struct network *net, const struct fp_problem *p,
                              const struct fp_options *o, DEVICE real *z, struct fp_result *r)
{
  const struct scratch free = net->scratch;
  size_t device = 0, host = 0;
  struct scratch measure = {arena_measure(&device), arena_measure(&host)};
  TRY(net->solver->plan(p->rows, p->length, p->n, o, measure));
  net->scratch.device.used += device;
  net->scratch.host.used += host;
  enum status s = net->solver->solve(net->m->be, p, o, free, z, r);
  net->scratch = free;
  if (p->inverse)
    net->scratch.device.used += solver_part(device);
  return s;
}

enum status implicit_solve(struct network *net, const struct parameter_set *p, int64_t rows,
                           const struct fp_options *options, const struct solve_record *record,
                           struct fp_result *r)
{
  const struct backend *be = net->m->be;
  struct fp_options chosen = fp_choose(options, net->length), *o = &chosen;
  bool window = o->window != FP_WINDOW_ALL;
  struct forward_map ctx = {.net = net, .p = p, .carried = window ? &net->carried : NULL};
  struct fp_problem problem = {.rows = rows, .length = net->length, .n = net->m->dims.D};
  problem.lengths = net->lengths;
  problem.ctx = &ctx;
  problem.f = forward_f;
  problem.retire = window ? forward_retire : NULL;
  problem.inverse = record ? record->inverse : NULL;
  problem.measures = true;
  ctx.rows = rows, ctx.max_iter = o->max_iter;
  ctx.states = record ? record->states : 1;
  problem.capturable = ctx.states == 1; /* else f counts its calls */
  CHECK(ctx.states == 1 || !window);
  if (window)
    carried_states_clear(net->m, rows, &net->carried);
  TRY(solve_fixed_point(net, &problem, o, net->z[0], r));
  for (; ctx.states > 1 && ctx.kept < ctx.states; ctx.kept++) /* all had converged by then */
    be->axpby(be->st, rows * net->length * net->m->dims.D, 1, net->z[0], 0, net->states[ctx.kept]);
  return OK;
}

/* ---- a trajectory of damped evaluations ---- */

enum status trajectory_fwd(struct network *net, const struct parameter_set *p, int64_t rows,
                           int64_t steps, bool from_zero, double first, double damping,
                           bool only_vjp)
{
  CHECK(steps >= 1 && steps <= net->steps && (!from_zero || first == 1));
  net->only_vjp = only_vjp;
  struct span s = whole_span(net, rows);
  for (int64_t k = 0; k < steps; k++) {
    s.damping = k == 0 ? first : damping;
    s.from_zero = k == 0 && from_zero;
    TRY(block_fwd(net->m, p, &s, net->z[k], &net->acts[k], net->scratch, net->z[k + 1]));
  }
  return OK;
}

/* Where evaluation k's cotangent of u waits for the others': in the activations of the next, which
 * has been differentiated. */
static DEVICE real *cotangent_of_u(const struct network *net, int64_t k)
{
  return net->acts[k + 1].layer[0].zxbcdt;
}

enum status trajectory_vjp(struct network *net, const struct parameter_set *p, int64_t rows,
                           int64_t steps, bool from_zero, double first, double damping,
                           double u_beta, const struct parameter_set *g)
{
  const struct backend *be = net->m->be;
  int64_t M = rows * net->length, N = net->m->dims.d_in_proj, joined = 0;
  struct span s = whole_span(net, rows);
  struct block_cotangents to = {.u = s.u ? net->ub : NULL, .u_beta = (real)u_beta};
  struct u_total total = {.sum = net->ub}; /* evaluation 0 adds cotangents 0 to joined - 1 to it */
  if (s.u && from_zero && steps > 1 && net->m->dims.layers == 1)
    for (joined = 1; joined < 3 && joined < steps - 1; joined++)
      total.more[joined - 1] = cotangent_of_u(net, joined);
  for (int64_t k = steps - 1; k >= 0; k--) {
    if (s.u && k < steps - 1)
      to.u = cotangent_of_u(net, k), to.u_beta = 0;
    s.damping = k == 0 ? first : damping;
    s.from_zero = k == 0 && from_zero;
    to.total = k == 0 && joined > 0 ? &total : NULL;
    to.z = k ? net->zb : NULL; /* z[0] is the guess's or the solver's, and constant */
    to.z_beta = (real)(1 - s.damping);
    TRY(block_vjp(net->m, p, &s, &net->acts[k], net->zb, net->scratch, &to, g));
  }
  for (int64_t k = steps - 2; s.u && k >= joined; k -= 3)
    be->accumulate(be->st, M, N, N, cotangent_of_u(net, k),
                   k > joined ? cotangent_of_u(net, k - 1) : NULL,
                   k > joined + 1 ? cotangent_of_u(net, k - 2) : NULL, net->ub);
  return OK;
}
