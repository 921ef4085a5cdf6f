/* gradient_report.c: the exact gradient beside the one in use, and the spectral radius of df/dz.
 * See gradient_report.h. */
#include "core/gradient_report.h"
#include "core/spectral_radius.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

enum { VECTORS = 64 }; /* products of Arnoldi's method: exact up to d_model 64 */
static const double tight = REAL_BITS == 32 ? 1e-5 : 1e-10;

/* ---- the exact gradient ---- */

/* Solves as tight as the precision allows, token by token in a short window: Anderson's method, and
 * GMRES for the adjoint, which does not need df/dz to contract. */
static struct fp_options exact_options(const struct deq_config *deq, enum fp_solver solver)
{
  struct fp_options o = deq->evaluate;
  o.solver = solver;
  o.window = 8;
  o.stop = FP_REL;
  o.tol = tight;
  o.kind = FP_KIND_AUTO;
  o.memory = 8, o.rank = 64;
  o.max_iter = o.max_iter < 2048 ? 2048 : o.max_iter;
  return o;
}

enum status gradient_report_open(const struct config *c, const struct backend *be,
                                 const struct solver_port *solver, struct gradient_report *e)
{
  void *square;
  *e = (struct gradient_report){.deq = c->deq};
  e->deq.gradient = GRADIENT_IFT;
  e->deq.guess_shine = false;
  e->deq.correction.states = 1;
  e->deq.regularisation.weight = 0;
  e->deq.forward = exact_options(&c->deq, FP_ANDERSON);
  e->deq.backward = exact_options(&c->deq, FP_GMRES);
  TRY(weights_open(&c->model, be, 1, &e->exact));
  TRY(network_open(&e->exact.m, &e->deq, solver, c->train.batch_size, c->data.length, true,
                   &e->net));
  TRY(be->memory_alloc(sizeof(double), &square));
  e->square = square;
  return OK;
}

void gradient_report_close(struct gradient_report *e)
{
  if (e->square)
    e->exact.m.be->memory_free(e->square);
  if (e->net.m)
    network_close(&e->net);
  if (e->exact.m.be)
    weights_close(&e->exact);
}

void gradient_report_begin(struct gradient_report *e, int64_t length, bool gradient)
{
  const struct backend *be = e->exact.m.be;
  network_set_length(&e->net, length);
  e->samples = e->converged = 0;
  e->gradient = gradient;
  be->fill(be->st, e->exact.tensors.block, 0, e->exact.set[0].block);
}

enum status gradient_report_add(struct gradient_report *e, const struct parameter_set *p,
                                const struct batch *b)
{
  struct network_result r;
  TRY(network_learn(&e->net, p, GRADIENT_IFT, b, e->gradient ? &e->exact.set[0] : NULL, &r));
  e->samples += r.forward.samples + r.backward.samples;
  e->converged += r.forward.exits[FP_CONVERGED] + r.backward.exits[FP_CONVERGED];
  return OK;
}

static enum status norm_of(struct gradient_report *e, const DEVICE real *x, double *norm)
{
  const struct backend *be = e->exact.m.be;
  be->sum_squares(be->st, e->exact.tensors.stored, x, e->square);
  TRY(be->download(be->st, sizeof *norm, e->square, norm));
  *norm = sqrt(*norm);
  return OK;
}

/* 1 - |h/|h| - g/|g||^2/2, which is accurate where the two are nearly one. */
enum status gradient_report_cosine(struct gradient_report *e, const struct parameter_set *g,
                                   double *cosine, double *norm)
{
  const struct backend *be = e->exact.m.be;
  DEVICE real *h = e->exact.set[0].block;
  double own, apart;
  TRY(norm_of(e, h, norm));
  TRY(norm_of(e, g->block, &own));
  *cosine = (double)NAN;
  if (!isfinite(own) || !isfinite(*norm) || own <= 0 || *norm <= 0)
    return OK;
  be->axpby(be->st, e->exact.tensors.stored, (real)(-1 / own), g->block, (real)(1 / *norm), h);
  TRY(norm_of(e, h, &apart));
  *cosine = 1 - apart * apart / 2;
  return OK;
}

/* ---- the spectral radius ---- */

struct token_map {
  struct network *net;
  const struct parameter_set *p;
  int64_t rows;
  real *host; /* (rows,D) */
};

/* y = (df_t/dz_t)' x: the VJP of a cotangent at one token, read at that token. */
static enum status token_product(void *ctx, const double *x, double *y)
{
  struct token_map *c = ctx;
  struct network *net = c->net;
  const struct backend *be = net->m->be;
  int64_t D = net->m->dims.D, n = c->rows * D, L = net->length;
  size_t bytes = (size_t)n * sizeof *c->host;
  struct span s = whole_span(net, c->rows);
  const struct block_cotangents to = {.z = net->zb};
  for (int64_t i = 0; i < n; i++)
    c->host[i] = (real)x[i];
  TRY(be->upload(be->st, bytes, c->host, net->eb));
  be->fill(be->st, n * L, 0, net->fb);
  be->scatter_blocks(be->st, c->rows, 1, D, L, net->row, net->first, net->count, net->eb, net->fb);
  TRY(block_vjp(net->m, c->p, &s, &net->acts[0], net->fb, net->scratch, &to, NULL));
  be->gather_blocks(be->st, c->rows, 1, D, L, net->row, net->first, net->count, net->zb, net->eb);
  TRY(be->download(be->st, bytes, net->eb, c->host));
  for (int64_t i = 0; i < n; i++)
    y[i] = (double)c->host[i];
  return OK;
}

/* Row r looks at a token r/rows of the way through it. */
static enum status choose_tokens(struct network *net, int64_t rows)
{
  const struct backend *be = net->m->be;
  TRY(upload_rows(net, rows, 1, 0, net->row));
  TRY(upload_rows(net, rows, 0, 1, net->count));
  for (int64_t r = 0; r < rows; r++) {
    int64_t length = net->lengths ? net->lengths[r] : net->length;
    net->host_rows[r] = (int32_t)(r * length / rows);
  }
  return be->upload(be->st, (size_t)rows * sizeof *net->host_rows, net->host_rows, net->first);
}

enum status network_spectral_radius(struct network *net, const struct parameter_set *p,
                                    int64_t rows, double *mean, double *largest)
{
  int64_t D = net->m->dims.D;
  struct token_map c = {net, p, rows, malloc((size_t)(rows * D) * sizeof(real))};
  double *radius = calloc((size_t)rows, sizeof *radius);
  enum status s = OK;
  if (!c.host || !radius)
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory for a report");
  if (s == OK)
    s = choose_tokens(net, rows);
  if (s == OK)
    s = spectral_radii(rows, D, VECTORS, token_product, &c, radius);
  *mean = *largest = 0;
  for (int64_t r = 0; s == OK && r < rows; r++) {
    *mean += radius[r] / (double)rows;
    if (!(radius[r] <= *largest)) /* a NaN stays */
      *largest = *largest == *largest ? radius[r] : *largest;
  }
  free(c.host), free(radius);
  return s;
}
#endif
