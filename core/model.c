/* model.c: parameters, activations, and f around its mixers.  Equations: model.h; of long
 * sequences: segments.c. */
#include "core/model.h"
#include <stdio.h>

/* ---- memory ---- */

static DEVICE real **slot_of(struct parameter_set *p, const struct tensor_spec *t)
{
  struct layer_parameters *l = t->layer >= 0 ? &p->layer[t->layer] : NULL;
  switch (t->slot) {
  case P_EMBEDDING:
    return &p->embedding;
  case P_INJECTION_NORM:
    return &p->injection_norm;
  case P_INJECTION_WEIGHT:
    return &p->injection_weight;
  case P_INJECTION_BIAS:
    return &p->injection_bias;
  case P_NORM_F:
    return &p->norm_f;
  case P_HEAD:
    return &p->head;
  case P_LAYER_NORM:
    return &l->norm;
  case P_IN_PROJ:
    return &l->in_proj;
  case P_IN_PROJ_BIAS:
    return &l->in_proj_bias;
  case P_CONV_WEIGHT:
    return &l->conv_weight;
  case P_CONV_BIAS:
    return &l->conv_bias;
  case P_DT_BIAS:
    return &l->dt_bias;
  case P_A_LOG:
    return &l->A_log;
  case P_D:
    return &l->D;
  case P_GATE_NORM:
    return &l->gate_norm;
  case P_OUT_PROJ:
    return &l->out_proj;
  case P_OUT_PROJ_BIAS:
    return &l->out_proj_bias;
  case P_NORM2:
    return &l->norm2;
  case P_FC1:
    return &l->fc1;
  case P_FC2:
    return &l->fc2;
  case P_NONE:
  case P_SLOTS:
    break;
  }
  CHECK(!"a slot of tensors.h");
  return NULL;
}

enum status parameters_carve(const struct sequence_model *m, struct arena *device,
                             struct arena *host, struct parameter_set *p)
{
  *p = (struct parameter_set){0};
  TRY(CARVE(device, m->tensors->block, &p->block));
  TRY(CARVE(host, m->dims.layers, &p->layer));
  if (!host->base) /* measuring: the table cannot be written */
    return OK;
  for (int64_t l = 0; l < m->dims.layers; l++)
    p->layer[l] = (struct layer_parameters){0};
  for (int64_t i = 0; i < m->tensors->count + m->tensors->derived; i++) {
    const struct tensor_spec *t = &m->tensors->tensor[i];
    if (t->slot != P_NONE)
      *slot_of(p, t) = p->block + t->offset;
  }
  if (!p->head)
    p->head = p->embedding;
  return OK;
}

/* Where the transpose of a tensor is bound; NULL: it has none. */
static DEVICE real **transpose_slot_of(struct parameter_set *p, const struct tensor_spec *t)
{
  struct layer_parameters *l = t->layer >= 0 ? &p->layer[t->layer] : NULL;
  switch (t->slot) {
  case P_EMBEDDING:
    return p->head == p->embedding ? &p->head_t : NULL;
  case P_HEAD:
    return &p->head_t;
  case P_INJECTION_WEIGHT:
    return &p->injection_weight_t;
  case P_IN_PROJ:
    return &l->in_proj_t;
  case P_OUT_PROJ:
    return &l->out_proj_t;
  case P_FC1:
    return &l->fc1_t;
  case P_FC2:
    return &l->fc2_t;
  default:
    return NULL;
  }
}

void transposes_bind(const struct sequence_model *m, DEVICE real *block, struct parameter_set *p)
{
  for (int64_t i = 0; i < m->tensors->count + m->tensors->derived; i++) {
    const struct tensor_spec *t = &m->tensors->tensor[i];
    DEVICE real **slot = transpose_slot_of(p, t);
    if (slot)
      *slot = block + t->offset;
  }
}

enum status parameters_upload(const struct sequence_model *m, const double *block,
                              struct arena host, const struct parameter_set *p)
{
  real *rounded;
  TRY(CARVE(&host, m->tensors->block, &rounded));
  for (int64_t i = 0; i < m->tensors->block; i++)
    rounded[i] = (real)block[i];
  TRY(m->be->upload(m->be->st, (size_t)m->tensors->block * sizeof *rounded, rounded, p->block));
  parameters_derive(m, p);
  return OK;
}

void parameters_derive(const struct sequence_model *m, const struct parameter_set *p)
{
  const struct tensor_list *list = m->tensors;
  struct parameter_set bound = *p;
  for (int64_t i = 0; i < list->derived; i++) {
    const struct tensor_spec *w = &list->tensor[list->count + i], *g = &list->tensor[w->g];
    m->be->weight_norm_fwd(m->be->st, tensor_rows(w), tensor_columns(w), p->block + g->offset,
                           p->block + g[1].offset, p->block + w->offset);
  }
  for (int64_t i = 0; i < list->count + list->derived; i++) {
    const struct tensor_spec *t = &list->tensor[i];
    DEVICE real **slot = transpose_slot_of(&bound, t);
    if (slot && *slot)
      m->be->transpose(m->be->st, tensor_rows(t), tensor_columns(t), p->block + t->offset, *slot);
  }
}

void gradients_derive(const struct sequence_model *m, const struct parameter_set *p,
                      const struct parameter_set *gradient)
{
  const struct tensor_list *list = m->tensors;
  for (int64_t i = 0; i < list->derived; i++) {
    const struct tensor_spec *w = &list->tensor[list->count + i], *g = &list->tensor[w->g];
    m->be->weight_norm_vjp(m->be->st, tensor_rows(w), tensor_columns(w), p->block + g->offset,
                           p->block + g[1].offset, gradient->block + w->offset,
                           gradient->block + g->offset, gradient->block + g[1].offset);
  }
  m->be->fill(m->be->st, list->block - list->stored, 0, gradient->block + list->stored);
}

enum status dropout_masks_carve(const struct sequence_model *m, int64_t rows, struct arena *device,
                                struct dropout_masks *masks)
{
  masks->rows = rows;
  return CARVE(device, 2 * m->dims.layers * rows * m->dims.D, &masks->mask);
}

static const DEVICE real *mask_of(const struct sequence_model *m, const struct dropout_masks *masks,
                                  int64_t which)
{
  return masks ? masks->mask + which * masks->rows * m->dims.D : NULL;
}

void dropout_masks_draw(const struct sequence_model *m, int64_t rows, struct dropout_draw draw,
                        const struct dropout_masks *masks)
{
  CHECK(rows <= masks->rows);
  for (int64_t i = 0; i < 2 * m->dims.layers; i++) /* `which` 0 is the embeddings' */
    m->be->dropout_mask(m->be->st, rows, m->dims.D, m->config.dropout, draw, (uint32_t)i + 1,
                        masks->mask + i * masks->rows * m->dims.D);
}

/* Whether mixer_vjp wants what mixer_fwd gave in the place of yn: where that is W_out yn and stays
 * so. */
static bool reads_out(const struct sequence_model *m)
{
  return m->be->reads_out && m->dims.d_mlp == 0 && !m->config.mamba2.bias &&
         m->config.residual == 1;
}

enum status activations_carve(const struct sequence_model *m, int64_t rows, int64_t T, bool keep,
                              struct arena *device, struct arena *host, struct activations *a)
{
  const struct model_dims *d = &m->dims;
  int64_t M = rows * T;
  struct ssd_shape ssd = ssd_shape_of(m, rows, T);
  *a = (struct activations){.rows = rows, .T = T};
  TRY(CARVE(host, d->layers, &a->layer));
  for (int64_t i = 0; i < d->layers; i++) {
    struct layer_activations l = {0};
    TRY(CARVE(device, M * d->D, &l.x));
    TRY(CARVE(device, M, &l.r));
    TRY(CARVE(device, M * d->D, &l.xn));
    TRY(CARVE(device, M * d->d_in_proj, &l.zxbcdt));
    TRY(CARVE(device, M * d->conv_dim, &l.xBC));
    TRY(CARVE(device, M * d->H, &l.dt));
    if (keep)
      TRY(CARVE(device, rows * ssd_chunks(ssd) * d->H * d->P * d->N, &l.S));
    TRY(CARVE(device, M * d->E, &l.y));
    TRY(CARVE(device, M * d->G, &l.gr));
    if (keep && reads_out(m))
      TRY(CARVE(device, M * d->D, &l.out));
    else
      TRY(CARVE(device, M * d->E, &l.yn));
    if (d->d_mlp > 0) {
      TRY(CARVE(device, M * 2 * d->d_mlp, &l.h0));
      TRY(CARVE(device, M * d->d_mlp, &l.hg0));
      TRY(CARVE(device, M * (d->d_mlp + d->E), &l.inner));
    }
    if (d->F > 0) {
      TRY(CARVE(device, M * d->D, &l.x2));
      TRY(CARVE(device, M, &l.r2));
      TRY(CARVE(device, M * d->D, &l.xn2));
      TRY(CARVE(device, M * 2 * d->F, &l.h));
      TRY(CARVE(device, M * d->F, &l.hg));
    }
    if (host->base)
      a->layer[i] = l;
  }
  TRY(CARVE(device, M * d->D, &a->x));
  TRY(CARVE(device, M, &a->r));
  return OK;
}

enum status carried_states_carve(const struct sequence_model *m, int64_t rows, struct arena *device,
                                 struct arena *host, struct carried_states *c)
{
  const struct model_dims *d = &m->dims;
  TRY(CARVE(host, d->layers, &c->conv));
  TRY(CARVE(host, d->layers, &c->ssm));
  for (int64_t i = 0; i < d->layers; i++) {
    DEVICE real *conv, *ssm;
    TRY(CARVE(device, rows * d->conv_dim * d->W, &conv));
    TRY(CARVE(device, rows * d->H * d->P * d->N, &ssm));
    if (host->base)
      c->conv[i] = conv, c->ssm[i] = ssm;
  }
  return OK;
}

void carried_states_clear(const struct sequence_model *m, int64_t rows,
                          const struct carried_states *c)
{
  const struct model_dims *d = &m->dims;
  for (int64_t l = 0; l < d->layers; l++) {
    m->be->fill(m->be->st, rows * d->conv_dim * d->W, 0, c->conv[l]);
    m->be->fill(m->be->st, rows * d->H * d->P * d->N, 0, c->ssm[l]);
  }
}

/* ---- f ---- */

/* The norm behind layer i: its weight, and where its input, scale and output are kept; the last
 * one's output is f. */
#define norm_place NAME(norm_place)
struct norm_place {
  const DEVICE real *w;
  DEVICE real *x, *r, *xn;
};

static struct norm_place norm_behind(const struct sequence_model *m, const struct parameter_set *p,
                                     const struct activations *a, int64_t i, DEVICE real *f)
{
  if (i + 1 == m->dims.layers)
    return (struct norm_place){p->norm_f, a->x, a->r, f};
  const struct layer_activations *l = &a->layer[i + 1];
  return (struct norm_place){p->layer[i + 1].norm, l->x, l->r, l->xn};
}

/* The norm behind a branch that is added to x (NULL: zeros), to where `to` says.  z: what f, whose
 * last norm this is, is damped with and measured by; NULL: it is not that. */
static struct branch_norm norm_of(const struct sequence_model *m, const struct span *s,
                                  int64_t which, const DEVICE real *x, struct norm_place to,
                                  const DEVICE real *z)
{
  return (struct branch_norm){.B = s->rows,
                              .T = s->T,
                              .x = x,
                              .row = s->row,
                              .mask = mask_of(m, s->masks, which),
                              .w = to.w,
                              .damping = z && s->damping ? s->damping : 1,
                              .z = z,
                              .r = to.r,
                              .h = to.x,
                              .y = to.xn,
                              .square = z ? s->square : NULL,
                              .reference = z ? s->reference : NULL};
}

/* The norm xn of x alone. */
static struct branch_norm norm_alone(int64_t M, const DEVICE real *x, const DEVICE real *w,
                                     DEVICE real *r, DEVICE real *xn)
{
  return (struct branch_norm){.B = M, .T = 1, .x = x, .w = w, .damping = 1, .r = r, .y = xn};
}

static const struct branch_norm no_norm;

void add_and_norm(const struct sequence_model *m, struct branch_norm n, DEVICE real *out)
{
  const struct backend *be = m->be;
  int64_t D = m->dims.D;
  if (m->config.residual != 1)
    be->axpby(be->st, n.B * n.T * D, (real)m->config.residual, out, 0, out);
  be->rmsnorm_fwd(be->st, D, (real)m->config.norm_eps, out, n);
}

enum status span_fwd(const struct sequence_model *m, const struct parameter_set *p,
                     const struct span *s, const DEVICE real *z, const struct activations *a,
                     struct scratch scratch, DEVICE real *fz)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  int64_t M = s->rows * s->T;
  const DEVICE real *x = s->from_zero ? NULL : z, *with = s->damping || s->square ? z : NULL;
  DEVICE real *out;
  TRY(CARVE(&scratch.device, M * d->D, &out));
  CHECK(a->forgotten || fz != a->layer[0].x);
  if (x && !a->forgotten && x != a->layer[0].x)
    be->axpby(be->st, M * d->D, 1, x, 0, a->layer[0].x);
  for (int64_t i = 0; i < d->layers; i++) {
    const struct layer_activations *l = &a->layer[i];
    const struct layer_parameters *w = &p->layer[i];
    bool last = i + 1 == d->layers;
    struct norm_place next = norm_behind(m, p, a, i, fz);
    if (last && a->forgotten)
      next.x = NULL;
    struct norm_place after = d->F ? (struct norm_place){w->norm2, l->x2, l->r2, l->xn2} : next;
    const DEVICE real *damps = last ? with : NULL;
    mixer_begin(m, w, s, i, l, !a->forgotten,
                i == 0 && x ? norm_alone(M, x, w->norm, l->r, l->xn) : no_norm);
    TRY(mixer_fwd(m, w, s, i, l, !a->forgotten, scratch, l->out && !a->forgotten ? l->out : out,
                  norm_of(m, s, 2 * i, x, after, d->F ? NULL : damps)));
    if (d->F) {
      be->linear_fwd(be->st, M, d->D, 2 * d->F, l->xn2, w->fc1, w->fc1_t, NULL, 0, NULL, l->h);
      be->silu_gate_fwd(be->st, M, d->F, l->h, l->hg);
      be->linear_fwd(be->st, M, d->F, d->D, l->hg, w->fc2, w->fc2_t, NULL, 0, NULL, out);
      add_and_norm(m, norm_of(m, s, 2 * i + 1, l->x2, next, damps), out);
    }
    x = next.x;
  }
  return OK;
}

/* Whether the cotangent of a branch's output is not that of the sum itself. */
static bool branches_apart(const struct sequence_model *m, const struct span *s)
{
  return s->masks || m->config.residual != 1;
}

/* The cotangent of a branch's output from that of what a norm made of the sum, a yb: adds to xb,
 * the cotangent of the sum (beta = 0: writes it), and is xb itself, or c mask xb in `outb`; direct:
 * as rmsnorm_vjp has it. */
static const DEVICE real *norm_vjp(const struct sequence_model *m, const struct span *s,
                                   int64_t which, struct norm_place at, real a,
                                   const DEVICE real *yb, real beta, real direct, DEVICE real *xb,
                                   DEVICE real *outb, DEVICE real *wb)
{
  const struct backend *be = m->be;
  int64_t D = m->dims.D;
  outb = branches_apart(m, s) ? outb : NULL;
  be->rmsnorm_vjp(be->st, s->rows, s->T, D, at.x, at.w, mask_of(m, s->masks, which), at.r, a, yb,
                  NULL, beta, direct, xb, outb, wb);
  if (outb && m->config.residual != 1)
    be->axpby(be->st, s->rows * s->T * D, (real)m->config.residual, outb, 0, outb);
  return outb ? outb : xb;
}

/* The cotangent of the MLP's normed input in xnb, from that of its output. */
static enum status mlp_vjp(const struct sequence_model *m, const struct layer_parameters *w,
                           int64_t M, const struct layer_activations *l, const DEVICE real *outb,
                           struct scratch scratch, DEVICE real *xnb,
                           const struct layer_parameters *g)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  DEVICE real *hgb, *hb;
  TRY(CARVE(&scratch.device, M * d->F, &hgb));
  TRY(CARVE(&scratch.device, M * 2 * d->F, &hb));
  be->fill(be->st, M * 2 * d->F, 0, hb);
  be->linear_vjp(be->st, M, d->F, d->D, l->hg, w->fc2, outb, 0, hgb, g ? g->fc2 : NULL, NULL);
  be->silu_gate_vjp(be->st, M, d->F, l->h, hgb, hb);
  be->linear_vjp(be->st, M, d->D, 2 * d->F, l->xn2, w->fc1, hb, 0, xnb, g ? g->fc1 : NULL, NULL);
  return OK;
}

enum status block_vjp_carried(const struct sequence_model *m, const struct parameter_set *p,
                              const struct span *s, const struct activations *a,
                              const DEVICE real *fb, const struct carried_states *s1b,
                              struct scratch scratch, const struct block_cotangents *to,
                              const struct parameter_set *g, const struct carried_states *s0b)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  int64_t M = s->rows * s->T, of_mlp = d->F ? 1 : 0;
  /* what z_beta gives comes with the only branch's norm, which reads fb anyway */
  bool joins = to->z == fb && to->z_beta != 0 && d->layers == 1 && !d->F && branches_apart(m, s);
  bool apart = !to->z || (to->z_beta != 0 && !joins); /* else the sum runs where it goes */
  DEVICE real *xb = to->z, *xnb, *outb, *wb = g ? g->norm_f : NULL;
  CHECK(!s->row && !(s->from_zero && to->z) && !(to->total && (d->layers > 1 || to->u_beta != 0)));
  if (apart)
    TRY(CARVE(&scratch.device, M * d->D, &xb));
  TRY(CARVE(&scratch.device, M * d->D, &xnb));
  TRY(CARVE(&scratch.device, M * d->D, &outb));
  const DEVICE real *yb = fb, *branch;
  real beta = 0, scale = s->damping ? (real)s->damping : 1;
  for (int64_t i = d->layers - 1; i >= 0; i--) {
    const struct layer_activations *l = &a->layer[i];
    const struct layer_parameters *w = &p->layer[i], *gw = g ? &g->layer[i] : NULL;
    branch = norm_vjp(m, s, 2 * i + of_mlp, norm_behind(m, p, a, i, NULL), scale, yb, beta,
                      joins ? to->z_beta : 0, xb, outb, wb);
    yb = xnb, beta = scale = 1;
    if (d->F) {
      TRY(mlp_vjp(m, w, M, l, branch, scratch, xnb, gw));
      branch = norm_vjp(m, s, 2 * i, (struct norm_place){w->norm2, l->x2, l->r2, NULL}, 1, xnb, 1,
                        0, xb, outb, gw ? gw->norm2 : NULL);
    }
    real u_beta = i + 1 == d->layers ? to->u_beta : 1; /* every layer's comes to it */
    TRY(mixer_vjp(m, w, s, i, l, branch, s1b, scratch, xnb, u_beta, to->u, to->total, gw, s0b));
    wb = gw ? gw->norm : NULL;
  }
  if (!s->from_zero)
    be->rmsnorm_vjp(be->st, M, 1, d->D, a->layer[0].x, p->layer[0].norm, NULL, a->layer[0].r, 1,
                    xnb, apart ? xb : NULL, apart ? to->z_beta : 1, 0, to->z, NULL, wb);
  return OK;
}

/* outd (M,D) from the tangent of the MLP's normed input in ad->xn2. */
static void mlp_jvp(const struct sequence_model *m, const struct layer_parameters *w, int64_t M,
                    const struct layer_activations *l, const struct layer_activations *ad,
                    DEVICE real *outd)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  be->linear_jvp(be->st, M, d->D, 2 * d->F, l->xn2, w->fc1, ad->xn2, NULL, NULL, ad->h);
  be->silu_gate_jvp(be->st, M, d->F, l->h, ad->h, ad->hg);
  be->linear_jvp(be->st, M, d->F, d->D, l->hg, w->fc2, ad->hg, NULL, NULL, outd);
}

/* The tangents of x + c out and of its norm: see add_and_norm. */
static void add_and_norm_jvp(const struct sequence_model *m, int64_t M, struct norm_place at,
                             const DEVICE real *xd, DEVICE real *outd, struct norm_place to)
{
  const struct backend *be = m->be;
  int64_t D = m->dims.D;
  if (m->config.residual != 1)
    be->axpby(be->st, M * D, (real)m->config.residual, outd, 0, outd);
  be->rmsnorm_jvp(be->st, M, 1, D, at.x, at.w, NULL, at.r, xd, outd, NULL, to.x, to.xn);
}

enum status block_jvp(const struct sequence_model *m, const struct parameter_set *p,
                      const struct span *s, const struct activations *a, const DEVICE real *zd,
                      const struct carried_states *s0d, struct scratch scratch,
                      const struct activations *ad, const struct carried_states *s1d,
                      DEVICE real *fzd)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  int64_t M = s->rows * s->T;
  DEVICE real *outd;
  CHECK(!s->row && !s->masks && !s->damping);
  TRY(CARVE(&scratch.device, M * d->D, &outd));
  if (zd)
    be->axpby(be->st, M * d->D, 1, zd, 0, ad->layer[0].x);
  else
    be->fill(be->st, M * d->D, 0, ad->layer[0].x);
  be->rmsnorm_jvp(be->st, M, 1, d->D, a->layer[0].x, p->layer[0].norm, NULL, a->layer[0].r,
                  ad->layer[0].x, NULL, NULL, NULL, ad->layer[0].xn);
  for (int64_t i = 0; i < d->layers; i++) {
    const struct layer_activations *l = &a->layer[i], *ld = &ad->layer[i];
    const struct layer_parameters *w = &p->layer[i];
    const DEVICE real *xd = ld->x;
    TRY(mixer_jvp(m, w, s, i, l, s0d, scratch, ld, s1d, outd));
    if (d->F) {
      add_and_norm_jvp(m, M, (struct norm_place){w->norm2, l->x2, l->r2, NULL}, xd, outd,
                       (struct norm_place){NULL, ld->x2, NULL, ld->xn2});
      mlp_jvp(m, w, M, l, ld, outd);
      xd = ld->x2;
    }
    add_and_norm_jvp(m, M, norm_behind(m, p, a, i, NULL), xd, outd, norm_behind(m, p, ad, i, fzd));
  }
  return OK;
}

void block_advance(const struct sequence_model *m, const struct parameter_set *p,
                   const struct span *s, const struct activations *a, const DEVICE int32_t *count,
                   const struct carried_states *c)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  struct conv1d_shape conv = {s->rows, s->T, d->conv_dim, d->W, d->d_in_proj};
  struct ssd_shape ssd = ssd_shape_of(m, s->rows, s->T);
  for (int64_t i = 0; i < d->layers; i++) {
    const struct layer_activations *l = &a->layer[i];
    be->conv1d_advance(be->st, conv, l->zxbcdt + 2 * d->d_mlp + d->E, s->row, count, c->conv[i]);
    be->ssd_advance(be->st, ssd, l->xBC, l->xBC + d->E, l->dt, p->layer[i].A_log, s->row, count,
                    c->ssm[i]);
  }
}

/* ---- before f ---- */

void embed_fwd(const struct sequence_model *m, const struct parameter_set *p, int64_t M,
               const DEVICE int32_t *tokens, const DEVICE real *mask, DEVICE real *e)
{
  m->be->embedding_fwd(m->be->st, M, m->dims.V, m->dims.D, tokens, p->embedding, mask, e);
}

void inject_fwd(const struct sequence_model *m, const struct parameter_set *p, int64_t M,
                const DEVICE real *e, DEVICE real *r, DEVICE real *en, DEVICE real *u)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  be->rmsnorm_fwd(be->st, d->D, (real)m->config.norm_eps, NULL,
                  norm_alone(M, e, p->injection_norm, r, en));
  be->linear_fwd(be->st, M, d->D, d->d_in_proj, en, p->injection_weight, p->injection_weight_t,
                 p->injection_bias, 0, NULL, u);
}

enum status inject_vjp(const struct sequence_model *m, const struct parameter_set *p, int64_t M,
                       const DEVICE real *e, const DEVICE real *r, const DEVICE real *en,
                       const DEVICE real *ub, struct scratch scratch, DEVICE real *eb,
                       const struct parameter_set *g)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  DEVICE real *enb;
  TRY(CARVE(&scratch.device, M * d->D, &enb));
  be->linear_vjp(be->st, M, d->D, d->d_in_proj, en, p->injection_weight, ub, 0, enb,
                 g->injection_weight, g->injection_bias);
  be->rmsnorm_vjp(be->st, M, 1, d->D, e, p->injection_norm, NULL, r, 1, enb, NULL, 0, 0, eb, NULL,
                  g->injection_norm);
  return OK;
}
