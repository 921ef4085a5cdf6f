/* regularise.c: Jacobian regularisation (Bai, Koltun & Kolter 2021, arXiv 2106.14342).
 *
 *   R = 1/(K n) sum_k |q_k|^2,    q_k = (f(z + e w_k) - f(z - e w_k)) / (2 e),    w_k of +-1
 *
 * over the n unknowns of tokens that count: |q|^2 estimates |df/dz w|^2, whose mean over w is
 * ||df/dz||_F^2 (Hutchinson).  The gradient of |df/dz w|^2 needs second derivatives of f; that of R
 * as it stands, with z and w constant, does not:
 *
 *   dR/dtheta = 1/(K n e) sum_k [(df/dtheta)' at z + e w_k  -  (df/dtheta)' at z - e w_k] q_k,
 *
 * two VJPs, exact for the R that is reported.  The error of R itself is O(e^2). */
#include "core/network.h"
#include "core/philox.h"

enum { FIRST_MASK = 4096 }; /* behind those of dropout */

static double step_of(const struct regularisation_config *c)
{
  return c->step > 0 ? c->step : REAL_BITS == 32 ? 5e-3 : 6e-6; /* near the cube root of eps */
}

static bool drawn(const struct regularisation_config *c, struct dropout_draw d)
{
  uint32_t word[4];
  philox(d.seed, STREAM_REGULARISE, d.step, 0, 0, word);
  return c->weight > 0 && philox_uniform(word[0], word[1]) < c->probability;
}

/* to = from, 0 where tokens do not count */
static void counted(const struct network *net, int64_t rows, const DEVICE real *from,
                    DEVICE real *to)
{
  const struct backend *be = net->m->be;
  be->gather_blocks(be->st, rows, net->length, net->m->dims.D, net->length, net->row, net->first,
                    net->count, from, to);
}

/* Rows, first tokens and counts for `counted`; how many tokens count. */
static enum status upload_counts(struct network *net, int64_t rows, int64_t *tokens)
{
  const struct backend *be = net->m->be;
  TRY(upload_rows(net, rows, 1, 0, net->row));
  TRY(upload_rows(net, rows, 0, 0, net->first));
  TRY(upload_rows(net, rows, 0, (int32_t)net->length, net->count));
  *tokens = rows * net->length;
  if (!net->lengths)
    return OK;
  *tokens = 0;
  for (int64_t r = 0; r < rows; r++)
    *tokens += net->lengths[r];
  return be->upload(be->st, (size_t)rows * sizeof(int32_t), net->lengths, net->count);
}

/* z[0] = z + e w, z[1] = z - e w, activations of f there in acts[0] and acts[1]; q into net->fb. */
static enum status quotient(struct network *net, const struct parameter_set *p, int64_t rows,
                            const DEVICE real *z, double e, struct dropout_draw d, uint32_t which)
{
  const struct backend *be = net->m->be;
  int64_t width = net->length * net->m->dims.D, n = rows * width;
  DEVICE real *const fz[] = {net->zb, net->fb};
  struct span s = whole_span(net, rows);
  be->dropout_mask(be->st, rows, width, 0.5, d, which, net->fb); /* 0 or 2 */
  be->fill(be->st, n, -1, net->zb);
  be->axpby(be->st, n, 1, net->fb, 1, net->zb);
  counted(net, rows, net->zb, net->fb);
  for (int side = 0; side < 2; side++) {
    be->axpby(be->st, n, 1, z, 0, net->z[side]);
    be->axpby(be->st, n, (real)(side ? -e : e), net->fb, 1, net->z[side]);
  }
  for (int side = 0; side < 2; side++)
    TRY(block_fwd(net->m, p, &s, net->z[side], &net->acts[side], net->scratch, fz[side]));
  be->axpby(be->st, n, (real)(0.5 / e), net->zb, 0, net->zb);
  be->axpby(be->st, n, (real)(-0.5 / e), net->fb, 1, net->zb);
  counted(net, rows, net->zb, net->fb);
  return OK;
}

enum status regularise(struct network *net, const struct parameter_set *p, const struct batch *b,
                       int64_t labels, const DEVICE real *z, const struct parameter_set *g,
                       struct network_result *r)
{
  const struct regularisation_config *c = &net->deq->regularisation;
  const struct backend *be = net->m->be;
  const struct dropout_draw d = b->dropout ? *b->dropout : (struct dropout_draw){0};
  int64_t rows = b->rows, n = rows * net->length * net->m->dims.D, tokens;
  double e = step_of(c), share = 1;
  struct span s = whole_span(net, rows);
  const struct block_cotangents to = {.u = net->ub, .u_beta = 1};
  wide estimate = 0;
  if (!drawn(c, d))
    return OK;
  TRY(upload_counts(net, rows, &tokens));
  r->jacobian = 0;
  if (tokens == 0)
    return OK;
  if (b->labels_total) /* of a step's batches together */
    share = (double)labels / (double)b->labels_total;
  share /= (double)(c->vectors * tokens * net->m->dims.D);
  if (z != net->z[2])
    be->axpby(be->st, n, 1, z, 0, net->z[2]);
  for (int64_t k = 0; k < c->vectors; k++) {
    wide square;
    TRY(quotient(net, p, rows, net->z[2], e, d, (uint32_t)(FIRST_MASK + k)));
    be->dot(be->st, n, net->fb, net->fb, net->sum);
    TRY(be->download(be->st, sizeof square, net->sum, &square));
    estimate += share * square;
    for (int side = 0; g && side < 2; side++) {
      double scale = side ? -1 : c->weight * share / e;
      be->axpby(be->st, n, (real)scale, net->fb, 0, net->fb);
      TRY(block_vjp(net->m, p, &s, &net->acts[side], net->fb, net->scratch, &to, g));
    }
  }
  r->differentiated += 2 * c->vectors * rows * net->length;
  r->objective += c->weight * estimate;
  r->jacobian = re(estimate);
  return OK;
}
