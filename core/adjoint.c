/* adjoint.c: v = (df/dz)' v + g at z*, as a fixed point: over whole sequences, or by windows that
 * slide from the end, as v_t depends on v_s for s >= t only.
 *
 * Window w: the chain reversed, block t' = L-1-t.  An evaluation is the VJP of f on a span of w
 * tokens, with the cotangents of the convolution's and the SSM's states behind the span, which the
 * tokens that have retired have left.  Of the activations kept at z* the active spans are gathered
 * into packed buffers, whenever they move, so that each row advances on its own; the states that
 * enter a span come from the last chunk's that was kept, carried on over the tokens between.  The
 * tokens that retire are differentiated once more, alone, for the cotangents before them: rows that
 * retire equally many at once.
 *
 * A span that begins before the sequence does is filled with zeros there: Delta = 0 leaves the
 * state alone. */
#include "core/network.h"
#include <string.h>

#define spans NAME(adjoint_spans)
#define adjoint_map NAME(adjoint_map)

enum {
  INDEX_ROW,
  INDEX_FIRST,
  INDEX_FULL,
  INDEX_CHUNK,
  INDEX_PREFIX,
  INDEX_PREFIX_COUNT,
  INDEX_CONV,
  INDEX_TAPS,
  INDEX_V,
  INDEX_VROW,
  INDICES
};

/* Packed spans of T tokens, in the order of time. */
struct spans {
  int64_t rows, T;                /* most of each */
  struct activations a;           /* (rows,T) */
  DEVICE real **S;                /* per layer (rows,chunks,H,P,N) when T has several chunks */
  struct carried_states left;     /* that enter the spans */
  struct carried_states in, out;  /* cotangents behind and before the spans */
  struct carried_states right;    /* by row: cotangents before the tokens that have retired */
  struct dropout_masks masks;     /* of the packed rows */
  DEVICE real *xBC, *dt, *taps;   /* (rows,Q,conv_dim), (rows,Q,H), (rows,W,d_in_proj) */
  DEVICE real *v, *vk, *fv;       /* (rows,T,D): the last v, of it what retires, f(v) */
  DEVICE real *chain;             /* (rows,length,D): the unknowns, reversed */
  DEVICE int32_t *index[INDICES]; /* (rows) */
  DEVICE int32_t *reverse, *flip; /* (rows,length), (rows,T): the token that comes from the end */
  DEVICE int32_t *zeros, *ones;   /* (rows,length) */
  int32_t *host, *loaded, *count; /* (rows,length); row and first token gathered last; (rows) */
  int64_t loaded_rows;
};

struct adjoint_map {
  struct network *net;
  const struct parameter_set *p;
  struct spans *w; /* NULL: whole sequences */
};

static int64_t chunk_of(const struct model_dims *d, int64_t T)
{
  return T < d->chunk ? T : d->chunk;
}

static enum status spans_carve(const struct network *net, int64_t T, struct arena *dev,
                               struct arena *host, struct spans *w)
{
  const struct sequence_model *m = net->m;
  const struct model_dims *d = &m->dims;
  int64_t rows = net->rows, length = net->capacity, M = rows * T, Q = chunk_of(d, length);
  memset(w, 0, sizeof *w);
  w->rows = rows, w->T = T;
  TRY(activations_carve(m, rows, T, true, dev, host, &w->a));
  TRY(CARVE(host, d->layers, &w->S));
  for (int64_t i = 0; host->base && i < d->layers; i++)
    w->S[i] = w->a.layer[i].S;
  TRY(carried_states_carve(m, rows, dev, host, &w->left));
  TRY(carried_states_carve(m, rows, dev, host, &w->in));
  TRY(carried_states_carve(m, rows, dev, host, &w->out));
  TRY(carried_states_carve(m, rows, dev, host, &w->right));
  TRY(dropout_masks_carve(m, rows, dev, &w->masks));
  TRY(CARVE(dev, rows * Q * d->conv_dim, &w->xBC));
  TRY(CARVE(dev, rows * Q * d->H, &w->dt));
  TRY(CARVE(dev, rows * d->W * d->d_in_proj, &w->taps));
  TRY(CARVE(dev, M * d->D, &w->v));
  TRY(CARVE(dev, M * d->D, &w->vk));
  TRY(CARVE(dev, M * d->D, &w->fv));
  TRY(CARVE(dev, rows * length * d->D, &w->chain));
  for (int i = 0; i < INDICES; i++)
    TRY(CARVE(dev, rows, &w->index[i]));
  TRY(CARVE(dev, rows * length, &w->reverse));
  TRY(CARVE(dev, M, &w->flip));
  TRY(CARVE(dev, rows * length, &w->zeros));
  TRY(CARVE(dev, rows * length, &w->ones));
  TRY(CARVE(host, rows * length, &w->host));
  TRY(CARVE(host, 2 * rows, &w->loaded));
  return CARVE(host, rows, &w->count);
}

/* ---- moving blocks ---- */

/* to (n_rows,1,n) = from (.,n)[row[i]] */
static void pick_rows(const struct network *net, const struct spans *w, int64_t rows, int64_t n,
                      const DEVICE int32_t *row, const DEVICE real *from, DEVICE real *to)
{
  const struct backend *be = net->m->be;
  be->gather_blocks(be->st, rows, 1, n, 1, row, w->zeros, w->ones, from, to);
}

static enum status upload_index(const struct network *net, struct spans *w, int64_t count,
                                DEVICE int32_t *to)
{
  return net->m->be->upload(net->m->be->st, (size_t)count * sizeof *to, w->host, to);
}

static enum status make_indices(const struct network *net, int64_t rows, struct spans *w)
{
  int64_t length = net->length, T = w->T;
  for (int64_t i = 0; i < rows * length; i++) {
    int64_t r = i / length, t = i % length, end = net->lengths ? net->lengths[r] : length;
    w->host[i] = (int32_t)(r * length + (t < end ? end - 1 - t : t));
  }
  TRY(upload_index(net, w, rows * length, w->reverse));
  for (int64_t i = 0; i < rows * T; i++)
    w->host[i] = (int32_t)(i / T * T + T - 1 - i % T);
  TRY(upload_index(net, w, rows * T, w->flip));
  for (int64_t i = 0; i < rows * length; i++)
    w->host[i] = 0;
  TRY(upload_index(net, w, rows * length, w->zeros));
  for (int64_t i = 0; i < rows * length; i++)
    w->host[i] = 1;
  return upload_index(net, w, rows * length, w->ones);
}

/* Index `which` of rows whose values are value(first[r]): see load. */
static int32_t index_value(int which, int64_t first, int64_t T, int64_t Q, int64_t W, int32_t row)
{
  int64_t start = first > 0 ? first : 0, chunk = start / Q;
  switch (which) {
  case INDEX_ROW:
    return row;
  case INDEX_FIRST:
    return (int32_t)first;
  case INDEX_FULL:
    return (int32_t)T;
  case INDEX_CHUNK:
    return (int32_t)chunk;
  case INDEX_PREFIX:
    return (int32_t)(chunk * Q);
  case INDEX_PREFIX_COUNT:
    return (int32_t)(start - chunk * Q);
  case INDEX_CONV:
    return (int32_t)(start - W);
  case INDEX_TAPS:
    return (int32_t)W;
  default:
    return 0;
  }
}

/* ---- gathering spans ---- */

static void gather_layer(const struct network *net, int64_t rows, int64_t T, int64_t i,
                         const struct spans *w)
{
  const struct backend *be = net->m->be;
  const struct model_dims *d = &net->m->dims;
  const struct layer_activations *l = &net->acts[0].layer[i], *to = &w->a.layer[i];
  const struct {
    int64_t n;
    const DEVICE real *from;
    DEVICE real *to;
  } kept[] = {
      {d->D, l->x, to->x},
      {1, l->r, to->r},
      {d->D, l->xn, to->xn},
      {d->d_in_proj, l->zxbcdt, to->zxbcdt},
      {d->conv_dim, l->xBC, to->xBC},
      {d->H, l->dt, to->dt},
      {d->E, l->y, to->y},
      {d->G, l->gr, to->gr},
      {d->E, l->yn, to->yn},
      {d->D, l->out, to->out},
      {2 * d->d_mlp, l->h0, to->h0},
      {d->d_mlp, l->hg0, to->hg0},
      {d->d_mlp + d->E, l->inner, to->inner},
      {d->D, l->x2, to->x2},
      {1, l->r2, to->r2},
      {d->D, l->xn2, to->xn2},
      {2 * d->F, l->h, to->h},
      {d->F, l->hg, to->hg},
  };
  for (size_t k = 0; k < sizeof kept / sizeof *kept; k++)
    if (kept[k].to && kept[k].n)
      be->gather_blocks(be->st, rows, T, kept[k].n, net->length, w->index[INDEX_ROW],
                        w->index[INDEX_FIRST], w->index[INDEX_FULL], kept[k].from, kept[k].to);
}

/* The states that enter the spans of layer i. */
static void gather_states(const struct network *net, const struct parameter_set *p, int64_t rows,
                          int64_t i, const struct spans *w)
{
  const struct backend *be = net->m->be;
  const struct model_dims *d = &net->m->dims;
  const struct layer_activations *l = &net->acts[0].layer[i];
  DEVICE int32_t *const *at = w->index;
  int64_t Q = chunk_of(d, net->length), L = net->length, HPN = d->H * d->P * d->N;
  struct conv1d_shape conv = {rows, d->W, d->conv_dim, d->W, d->d_in_proj};
  be->gather_blocks(be->st, rows, d->W, d->d_in_proj, L, at[INDEX_ROW], at[INDEX_CONV],
                    at[INDEX_TAPS], l->zxbcdt, w->taps);
  be->fill(be->st, rows * d->conv_dim * d->W, 0, w->left.conv[i]);
  be->conv1d_advance(be->st, conv, w->taps + 2 * d->d_mlp + d->E, NULL, at[INDEX_TAPS],
                     w->left.conv[i]);
  be->gather_blocks(be->st, rows, 1, HPN, ssd_chunks(ssd_shape_of(net->m, rows, L)), at[INDEX_ROW],
                    at[INDEX_CHUNK], w->ones, l->S, w->left.ssm[i]);
  be->gather_blocks(be->st, rows, Q, d->conv_dim, L, at[INDEX_ROW], at[INDEX_PREFIX],
                    at[INDEX_PREFIX_COUNT], l->xBC, w->xBC);
  be->gather_blocks(be->st, rows, Q, d->H, L, at[INDEX_ROW], at[INDEX_PREFIX],
                    at[INDEX_PREFIX_COUNT], l->dt, w->dt);
  be->ssd_advance(be->st, ssd_shape_of(net->m, rows, Q), w->xBC, w->xBC + d->E, w->dt,
                  p->layer[i].A_log, NULL, at[INDEX_PREFIX_COUNT], w->left.ssm[i]);
}

/* The states that enter each chunk of spans that are longer than one. */
static enum status chunk_states(const struct network *net, const struct parameter_set *p,
                                int64_t rows, int64_t T, int64_t i, const struct spans *w)
{
  const struct backend *be = net->m->be;
  const struct model_dims *d = &net->m->dims;
  struct layer_activations *l = &w->a.layer[i];
  struct ssd_shape ssd = ssd_shape_of(net->m, rows, T);
  struct scratch scratch = net->scratch;
  DEVICE real *work, *y;
  l->S = w->left.ssm[i];
  if (ssd_chunks(ssd) == 1)
    return OK;
  l->S = w->S[i];
  TRY(CARVE(&scratch.device, ssd_chunked_work(ssd), &work));
  TRY(CARVE(&scratch.device, rows * T * d->E, &y));
  be->ssd_chunked_fwd(be->st, ssd, l->xBC, l->xBC + d->E, l->xBC + d->E + d->G * d->N, l->dt,
                      p->layer[i].A_log, p->layer[i].D, NULL, w->left.ssm[i], l->S, work, y, NULL);
  return OK;
}

/* Gathers T tokens from first[r] (negative: zeros before the sequence) of row[r]. */
static enum status load(const struct adjoint_map *c, int64_t rows, int64_t T, const int32_t *row,
                        const int32_t *first)
{
  struct network *net = c->net;
  struct spans *w = c->w;
  const struct model_dims *d = &net->m->dims;
  const struct backend *be = net->m->be;
  int64_t Q = chunk_of(d, net->length);
  for (int k = 0; k <= INDEX_TAPS; k++) {
    for (int64_t r = 0; r < rows; r++)
      w->host[r] = index_value(k, first[r], T, Q, d->W, row[r]);
    TRY(upload_index(net, w, rows, w->index[k]));
  }
  for (int64_t i = 0; i < d->layers; i++) {
    gather_layer(net, rows, T, i, w);
    gather_states(net, c->p, rows, i, w);
    TRY(chunk_states(net, c->p, rows, T, i, w));
  }
  be->gather_blocks(be->st, rows, T, d->D, net->length, w->index[INDEX_ROW], w->index[INDEX_FIRST],
                    w->index[INDEX_FULL], net->acts[0].x, w->a.x);
  be->gather_blocks(be->st, rows, T, 1, net->length, w->index[INDEX_ROW], w->index[INDEX_FIRST],
                    w->index[INDEX_FULL], net->acts[0].r, w->a.r);
  for (int64_t k = 0; net->dropped && k < 2 * d->layers; k++)
    pick_rows(net, w, rows, d->D, w->index[INDEX_ROW],
              net->dropped->mask + k * net->dropped->rows * d->D,
              w->masks.mask + k * w->masks.rows * d->D);
  for (int64_t i = 0; i < d->layers; i++) {
    pick_rows(net, w, rows, d->conv_dim * d->W, w->index[INDEX_ROW], w->right.conv[i],
              w->in.conv[i]);
    pick_rows(net, w, rows, d->H * d->P * d->N, w->index[INDEX_ROW], w->right.ssm[i], w->in.ssm[i]);
  }
  return OK;
}

static struct span packed_span(const struct adjoint_map *c, int64_t rows, int64_t T)
{
  struct span s = {.rows = rows, .T = T, .length = T, .carried = &c->w->left};
  s.masks = c->net->dropped ? &c->w->masks : NULL;
  return s;
}

/* ---- windows ---- */

static int64_t end_of(const struct network *net, int32_t row)
{
  return net->lengths ? net->lengths[row] : net->length;
}

/* Gathers the active spans, unless they are where they were. */
static enum status follow(const struct adjoint_map *c, const struct fp_active *a)
{
  const struct backend *be = c->net->m->be;
  struct spans *w = c->w;
  size_t bytes = (size_t)a->rows * sizeof(int32_t);
  int32_t *row = w->loaded, *first = w->loaded + w->rows;
  bool moved = w->loaded_rows != a->rows;
  TRY(be->download(be->st, bytes, a->row, w->count));
  moved = moved || memcmp(w->count, row, bytes) != 0;
  memcpy(row, w->count, bytes);
  TRY(be->download(be->st, bytes, a->first, w->count));
  for (int64_t r = 0; r < a->rows; r++)
    w->count[r] = (int32_t)(end_of(c->net, row[r]) - w->count[r] - a->blocks);
  moved = moved || memcmp(w->count, first, bytes) != 0;
  memcpy(first, w->count, bytes);
  w->loaded_rows = a->rows;
  return moved ? load(c, a->rows, a->blocks, row, first) : OK;
}

static enum status window_f(void *ctx, const struct fp_active *a, const DEVICE real *v,
                            DEVICE real *fv)
{
  struct adjoint_map *c = ctx;
  struct network *net = c->net;
  struct spans *w = c->w;
  const struct backend *be = net->m->be;
  int64_t D = net->m->dims.D, M = a->rows * a->blocks;
  struct span s = packed_span(c, a->rows, a->blocks);
  const struct block_cotangents to = {.z = w->fv, .z_beta = 1};
  TRY(follow(c, a));
  pick_rows(net, w, M, D, w->flip, v, w->v);
  be->gather_blocks(be->st, a->rows, a->blocks, D, net->length, w->index[INDEX_ROW],
                    w->index[INDEX_FIRST], w->index[INDEX_FULL], net->zb, w->fv);
  TRY(block_vjp_carried(net->m, c->p, &s, &w->a, w->v, &w->in, net->scratch, &to, NULL, NULL));
  pick_rows(net, w, M, D, w->flip, w->fv, fv);
  return OK;
}

/* The last k tokens of the spans of those rows that retire k. */
static enum status retire_equal(const struct adjoint_map *c, int64_t rows, int64_t T, int64_t k,
                                const int32_t *packed, const int32_t *row, const int32_t *first)
{
  struct network *net = c->net;
  struct spans *w = c->w;
  const struct backend *be = net->m->be;
  const struct model_dims *d = &net->m->dims;
  int64_t conv = d->conv_dim * d->W, ssm = d->H * d->P * d->N;
  struct span s = packed_span(c, rows, k);
  static const struct block_cotangents none;
  TRY(load(c, rows, k, row, first));
  TRY(be->upload(be->st, (size_t)rows * sizeof *packed, packed, w->index[INDEX_VROW]));
  for (int64_t r = 0; r < rows; r++)
    w->host[r] = (int32_t)(T - k);
  TRY(upload_index(net, w, rows, w->index[INDEX_V]));
  be->gather_blocks(be->st, rows, k, d->D, T, w->index[INDEX_VROW], w->index[INDEX_V],
                    w->index[INDEX_FULL], w->v, w->vk);
  carried_states_clear(net->m, rows, &w->out);
  TRY(block_vjp_carried(net->m, c->p, &s, &w->a, w->vk, &w->in, net->scratch, &none, NULL,
                        &w->out));
  for (int64_t i = 0; i < d->layers; i++) {
    be->scatter_blocks(be->st, rows, 1, conv, 1, w->index[INDEX_ROW], w->zeros, w->ones,
                       w->out.conv[i], w->right.conv[i]);
    be->scatter_blocks(be->st, rows, 1, ssm, 1, w->index[INDEX_ROW], w->zeros, w->ones,
                       w->out.ssm[i], w->right.ssm[i]);
  }
  return OK;
}

static enum status window_retire(void *ctx, const struct fp_active *a, const DEVICE int32_t *count)
{
  struct adjoint_map *c = ctx;
  struct spans *w = c->w;
  const struct backend *be = c->net->m->be;
  struct scratch scratch = c->net->scratch;
  int32_t *packed, *row, *first;
  const int32_t *rows = w->loaded, *spans_first = w->loaded + w->rows;
  TRY(CARVE(&scratch.host, a->rows, &packed));
  TRY(CARVE(&scratch.host, a->rows, &row));
  TRY(CARVE(&scratch.host, a->rows, &first));
  TRY(be->download(be->st, (size_t)a->rows * sizeof *w->count, count, w->count));
  for (int64_t k = 1; k <= a->blocks; k++) {
    int64_t n = 0;
    for (int64_t r = 0; r < a->rows; r++)
      if (w->count[r] == k) {
        packed[n] = (int32_t)r;
        row[n] = rows[r];
        first[n++] = (int32_t)(spans_first[r] + a->blocks - k);
      }
    if (n > 0) {
      TRY(retire_equal(c, n, a->blocks, k, packed, row, first));
      w->loaded_rows = 0; /* the buffers hold other spans now */
    }
  }
  return OK;
}

/* ---- whole sequences ---- */

static enum status whole_f(void *ctx, const struct fp_active *a, const DEVICE real *v,
                           DEVICE real *fv)
{
  struct adjoint_map *c = ctx;
  const struct sequence_model *m = c->net->m;
  struct span s = whole_span(c->net, a->rows);
  const struct block_cotangents to = {.z = fv, .z_beta = 1};
  m->be->axpby(m->be->st, a->rows * a->blocks * m->dims.D, 1, c->net->zb, 0, fv);
  return block_vjp(m, c->p, &s, &c->net->acts[0], v, c->net->scratch, &to, NULL);
}

/* ---- solving ---- */

static int64_t window_of(const struct fp_options *o, int64_t length)
{
  return o->window < length ? o->window : length;
}

enum status adjoint_carve(const struct network *net, const struct fp_options *options,
                          struct scratch *scratch)
{
  struct spans w;
  int32_t *lists; /* window_retire's */
  struct fp_options o = fp_choose(options, net->capacity);
  if (o.window == FP_WINDOW_ALL)
    return OK;
  TRY(spans_carve(net, window_of(&o, net->capacity), &scratch->device, &scratch->host, &w));
  return CARVE(&scratch->host, 3 * net->rows + 64, &lists);
}

static enum status solve_windows(struct network *net, const struct parameter_set *p, int64_t rows,
                                 const struct fp_options *o, struct fp_problem problem,
                                 struct fp_result *r)
{
  const struct scratch free = net->scratch;
  struct spans w;
  struct adjoint_map ctx = {net, p, &w};
  int64_t D = net->m->dims.D;
  TRY(spans_carve(net, window_of(o, net->length), &net->scratch.device, &net->scratch.host, &w));
  enum status s = make_indices(net, rows, &w);
  if (s == OK) {
    carried_states_clear(net->m, rows, &w.right);
    pick_rows(net, &w, rows * net->length, D, w.reverse, net->fb, w.chain);
    problem.ctx = &ctx;
    problem.f = window_f;
    problem.retire = window_retire;
    s = solve_fixed_point(net, &problem, o, w.chain, r);
  }
  if (s == OK)
    pick_rows(net, &w, rows * net->length, D, w.reverse, w.chain, net->fb);
  net->scratch = free;
  return s;
}

enum status adjoint_solve(struct network *net, const struct parameter_set *p, int64_t rows,
                          const struct fp_options *options, struct fp_result *r)
{
  struct adjoint_map ctx = {net, p, NULL};
  struct fp_problem problem = {.rows = rows, .length = net->length, .n = net->m->dims.D};
  struct fp_options o = fp_choose(options, net->length);
  problem.lengths = net->lengths;
  if (o.window != FP_WINDOW_ALL)
    return solve_windows(net, p, rows, &o, problem, r);
  problem.ctx = &ctx;
  problem.f = whole_f;
  problem.fixed_rows = true; /* the activations stay where they are */
  problem.capturable = true; /* a window's f looks where its spans are */
  return solve_fixed_point(net, &problem, &o, net->fb, r);
}
