/* mamba2.c: the Mamba-2 mixer, out (M,D) from xn (M,D) and the injected u (M,d_in_proj).
 *
 *   zxbcdt = W_in xn + u;  columns [z0, x0 (d_mlp)], z (E), xBC (conv_dim), dt (H)
 *   xBC    = silu(causal depthwise conv(xBC) + b_conv);  columns x (H,P), B (G,N), C (G,N)
 *   Delta  = clamp(softplus(dt + dt_bias))
 *   S_t    = exp(-exp(A_log) Delta_t) S_{t-1} + Delta_t x_t B_t';   y_t = S_t C_t + D x_t
 *   out    = W_out [x0 silu(z0),] gated_rmsnorm(y, z)        d_mlp = expand*d_model - E
 *
 * Three forms: chunked (training, long spans), recurrent (short spans), and the step, which is the
 * recurrent form on one token with carried conv and SSM states.
 * Reference: Dao & Gu 2024, arXiv:2405.21060; the injection: arXiv:2502.07827. */
#include "core/model.h"

/* Below this many tokens the recurrence is cheaper than matrix products over a chunk. */
enum { RECURRENT_TOKENS = 12 };

struct columns { /* of zxbcdt, and of xBC */
  int64_t z0, x0, z, xBC, dt, x, B, C;
};

static struct columns columns_of(const struct model_dims *d)
{
  int64_t z = 2 * d->d_mlp, xBC = z + d->E;
  return (struct columns){0, d->d_mlp, z, xBC, xBC + d->conv_dim, 0, d->E, d->E + d->G * d->N};
}

static struct conv1d_shape conv_shape(const struct model_dims *d, const struct span *s)
{
  return (struct conv1d_shape){s->rows, s->T, d->conv_dim, d->W, d->d_in_proj};
}

static struct gated_rmsnorm_shape gate_shape(const struct sequence_model *m, int64_t M)
{
  return (struct gated_rmsnorm_shape){M, m->dims.E, m->dims.G, m->dims.d_in_proj,
                                      m->config.mamba2.norm_before_gate};
}

/* The SSD over a span: in one chunk where no states were to be kept and that is cheaper. */
static struct ssd_shape span_ssd(const struct sequence_model *m, const struct span *s,
                                 const struct layer_activations *a)
{
  struct ssd_shape d = ssd_shape_of(m, s->rows, s->T);
  d.only_vjp = s->only_vjp && !s->carried;
  if (!a->S && !s->carried && !s->after && s->T > d.chunk && ssd_one_chunk(m, s->T))
    d.chunk = s->T;
  return d;
}

/* Terms of in_proj's products: none where layer l's xn is known to be zeros. */
static int64_t inputs_of(const struct sequence_model *m, const struct span *s, int64_t l)
{
  return l == 0 && s->from_zero ? 0 : m->dims.D;
}

const DEVICE real *mixer_projected(const struct sequence_model *m, const struct layer_parameters *p,
                                   const struct span *s, int64_t l,
                                   const struct layer_activations *a)
{
  bool alone = s->u && !s->row && !p->in_proj_bias && inputs_of(m, s, l) == 0;
  return alone ? s->u : a->zxbcdt;
}

/* Whether mixer_begin convolves, too. */
static bool joins_conv(const struct sequence_model *m, const struct layer_parameters *p,
                       const struct span *s, int64_t l, const struct layer_activations *a)
{
  return m->be->joins_conv && !s->relay && inputs_of(m, s, l) > 0 &&
         mixer_projected(m, p, s, l, a) == a->zxbcdt;
}

void mixer_begin(const struct sequence_model *m, const struct layer_parameters *p,
                 const struct span *s, int64_t l, const struct layer_activations *a, bool keeps,
                 struct branch_norm n)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  int64_t K = inputs_of(m, s, l), N = d->d_in_proj;
  real eps = (real)m->config.norm_eps, beta = s->u ? 1 : 0;
  const DEVICE real *added = s->row ? NULL : s->u;
  if (mixer_projected(m, p, s, l, a) != a->zxbcdt)
    return;
  if (s->u && s->row)
    be->gather_blocks(be->st, s->rows, s->T, N, s->length, s->row, s->first, s->count, s->u,
                      a->zxbcdt);
  if (joins_conv(m, p, s, l, a)) {
    bool advances = s->carried || s->after; /* block_advance */
    be->linear_conv_fwd(be->st, K, eps, n, a->xn, N, p->in_proj, p->in_proj_t, p->in_proj_bias,
                        beta, added, conv_shape(d, s), columns_of(d).xBC, p->conv_weight,
                        p->conv_bias, s->row, s->carried ? s->carried->conv[l] : NULL,
                        keeps || advances, a->zxbcdt, a->xBC, s->after ? s->after->conv[l] : NULL);
    return;
  }
  if (n.w)
    be->rmsnorm_fwd(be->st, d->D, eps, NULL, n);
  be->linear_fwd(be->st, s->rows * s->T, K, N, a->xn, p->in_proj, p->in_proj_t, p->in_proj_bias,
                 beta, added, a->zxbcdt);
}

/* yn = gated_rmsnorm(y, z); out = W_out yn, or of [x0 silu(z0), yn]; and what follows out. `keeps`:
 * what a keeps of yn and out is wanted. */
static enum status project_out(const struct sequence_model *m, const struct layer_parameters *p,
                               int64_t M, const DEVICE real *zxbcdt,
                               const struct layer_activations *a, bool keeps,
                               struct scratch scratch, DEVICE real *out, struct branch_norm n)
{
  static const struct branch_norm none;
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  struct columns at = columns_of(d);
  struct gated_rmsnorm_shape gate = gate_shape(m, M);
  int64_t F = d->d_mlp, inner = F + d->E;
  real eps = (real)m->config.norm_eps;
  bool apart = m->config.residual != 1; /* out's factor comes between */
  if (!F) {
    DEVICE real *yn = a->yn;
    if (!yn)
      TRY(CARVE(&scratch.device, M * d->E, &yn));
    be->gated_linear_fwd(be->st, gate, eps, a->y, zxbcdt + at.z, p->gate_norm, d->D, p->out_proj,
                         p->out_proj_t, p->out_proj_bias, keeps && a->yn,
                         apart || (keeps && a->out), a->gr, yn, out, apart ? none : n);
    if (apart)
      add_and_norm(m, n, out);
    return OK;
  }
  be->gated_rmsnorm_fwd(be->st, gate, eps, a->y, zxbcdt + at.z, p->gate_norm, a->gr, a->yn);
  be->columns(be->st, M, F, 1, d->d_in_proj, zxbcdt + at.x0, 0, 2 * F, a->h0);
  be->columns(be->st, M, F, 1, d->d_in_proj, zxbcdt + at.z0, 0, 2 * F, a->h0 + F);
  be->silu_gate_fwd(be->st, M, F, a->h0, a->hg0);
  be->columns(be->st, M, F, 1, F, a->hg0, 0, inner, a->inner);
  be->columns(be->st, M, d->E, 1, d->E, a->yn, 0, inner, a->inner + F);
  be->linear_fwd(be->st, M, inner, d->D, a->inner, p->out_proj, p->out_proj_t, p->out_proj_bias, 0,
                 NULL, out);
  add_and_norm(m, n, out);
  return OK;
}

/* yb, the cotangent of y, and in zxbcdtb those of z, x0 and z0; ynb (M,E) is scratch. */
static enum status project_out_vjp(const struct sequence_model *m, const struct layer_parameters *p,
                                   int64_t M, const DEVICE real *zxbcdt,
                                   const struct layer_activations *a, const DEVICE real *outb,
                                   struct scratch scratch, DEVICE real *ynb, DEVICE real *yb,
                                   DEVICE real *zxbcdtb, const struct layer_parameters *g)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  struct columns at = columns_of(d);
  struct gated_rmsnorm_shape gate = gate_shape(m, M);
  int64_t F = d->d_mlp, inner = F + d->E;
  DEVICE real *innerb, *hg0b, *h0b;
  if (!F) {
    be->gated_linear_vjp(be->st, gate, a->y, zxbcdt + at.z, p->gate_norm, a->gr, a->yn, d->D,
                         p->out_proj, a->out, outb, ynb, 0, yb, zxbcdtb + at.z, g->gate_norm,
                         g->out_proj, g->out_proj_bias);
    return OK;
  }
  TRY(CARVE(&scratch.device, M * inner, &innerb));
  TRY(CARVE(&scratch.device, M * F, &hg0b));
  TRY(CARVE(&scratch.device, M * 2 * F, &h0b));
  be->fill(be->st, M * 2 * F, 0, h0b);
  be->linear_vjp(be->st, M, inner, d->D, a->inner, p->out_proj, outb, 0, innerb, g->out_proj,
                 g->out_proj_bias);
  be->columns(be->st, M, d->E, 1, inner, innerb + F, 0, d->E, ynb);
  be->columns(be->st, M, F, 1, inner, innerb, 0, F, hg0b);
  be->silu_gate_vjp(be->st, M, F, a->h0, hg0b, h0b);
  be->columns(be->st, M, F, 1, 2 * F, h0b, 0, d->d_in_proj, zxbcdtb + at.x0);
  be->columns(be->st, M, F, 1, 2 * F, h0b + F, 0, d->d_in_proj, zxbcdtb + at.z0);
  be->gated_rmsnorm_vjp(be->st, gate, a->y, zxbcdt + at.z, p->gate_norm, a->gr, ynb, 0, yb,
                        zxbcdtb + at.z, g->gate_norm);
  return OK;
}

static void project_out_jvp(const struct sequence_model *m, const struct layer_parameters *p,
                            int64_t M, const struct layer_activations *a,
                            const struct layer_activations *ad, DEVICE real *outd)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  struct columns at = columns_of(d);
  int64_t F = d->d_mlp, inner = F + d->E;
  if (F) {
    be->columns(be->st, M, F, 1, d->d_in_proj, ad->zxbcdt + at.x0, 0, 2 * F, ad->h0);
    be->columns(be->st, M, F, 1, d->d_in_proj, ad->zxbcdt + at.z0, 0, 2 * F, ad->h0 + F);
    be->silu_gate_jvp(be->st, M, F, a->h0, ad->h0, ad->hg0);
    be->columns(be->st, M, F, 1, F, ad->hg0, 0, inner, ad->inner);
    be->columns(be->st, M, d->E, 1, d->E, ad->yn, 0, inner, ad->inner + F);
  }
  be->linear_jvp(be->st, M, inner, d->D, F ? a->inner : a->yn, p->out_proj, F ? ad->inner : ad->yn,
                 NULL, NULL, outd);
}

enum status mixer_fwd(const struct sequence_model *m, const struct layer_parameters *p,
                      const struct span *s, int64_t l, const struct layer_activations *a,
                      bool keeps, struct scratch scratch, DEVICE real *out, struct branch_norm n)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  const struct mamba2_config *c = &m->config.mamba2;
  struct columns at = columns_of(d);
  struct ssd_shape ssd = span_ssd(m, s, a);
  int64_t M = s->rows * s->T;
  int64_t conv_state = HANDS_ON * l + CONV_STATE, ssm_state = HANDS_ON * l + SSM_STATE;
  DEVICE real *conv0 = s->carried ? s->carried->conv[l] : NULL;
  DEVICE real *ssm0 = s->carried ? s->carried->ssm[l] : NULL, *work;
  ssd.from_zero = ssd.only_vjp;
  DEVICE real *ssm1 = s->after ? s->after->ssm[l] : NULL;
  const DEVICE real *zxbcdt = mixer_projected(m, p, s, l, a);
  if (!joins_conv(m, p, s, l, a)) {
    relay_await(s->relay, conv_state);
    be->conv1d_fwd(be->st, conv_shape(d, s), zxbcdt + at.xBC, p->conv_weight, p->conv_bias, s->row,
                   conv0, a->xBC, s->after ? s->after->conv[l] : NULL);
    relay_pass(s->relay, conv_state);
  }
  be->softplus_clamp_fwd(be->st, M, d->H, d->d_in_proj, zxbcdt + at.dt, p->dt_bias, c->dt_limit[0],
                         c->dt_limit[1], a->dt);
  relay_await(s->relay, ssm_state);
  if (!a->S && s->T < RECURRENT_TOKENS) {
    be->ssd_fwd(be->st, ssd, a->xBC + at.x, a->xBC + at.B, a->xBC + at.C, a->dt, p->A_log, p->D,
                s->row, ssm0, NULL, a->y, ssm1);
  } else {
    TRY(CARVE(&scratch.device, ssd_chunked_work(ssd), &work));
    be->ssd_chunked_fwd(be->st, ssd, a->xBC + at.x, a->xBC + at.B, a->xBC + at.C, a->dt, p->A_log,
                        p->D, s->row, ssm0, a->S, work, a->y, ssm1);
  }
  relay_pass(s->relay, ssm_state);
  return project_out(m, p, M, zxbcdt, a, keeps, scratch, out, n);
}

static const DEVICE real *from_column(const DEVICE real *a, int64_t first)
{
  return a ? a + first : NULL;
}

/* Of n columns from `first` on: sum += ub + more. */
static void add_to_total(const struct backend *be, const struct u_total *t, int64_t M, int64_t n,
                         int64_t ld, int64_t first, const DEVICE real *ub)
{
  be->accumulate(be->st, M, n, ld, ub + first, from_column(t->more[0], first),
                 from_column(t->more[1], first), t->sum + first);
}

enum status mixer_vjp(const struct sequence_model *m, const struct layer_parameters *p,
                      const struct span *s, int64_t l, const struct layer_activations *a,
                      const DEVICE real *outb, const struct carried_states *s1b,
                      struct scratch scratch, DEVICE real *xnb, real u_beta, DEVICE real *ub,
                      const struct u_total *total, const struct layer_parameters *g,
                      const struct carried_states *s0b)
{
  static const struct layer_parameters none;
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  const struct mamba2_config *c = &m->config.mamba2;
  struct columns at = columns_of(d);
  struct ssd_shape ssd = span_ssd(m, s, a);
  int64_t M = s->rows * s->T;
  int64_t conv_state = HANDS_ON * l + CONV_STATE, ssm_state = HANDS_ON * l + SSM_STATE;
  DEVICE real *conv0 = s->carried ? s->carried->conv[l] : NULL;
  bool adds = !ub || u_beta != 0; /* else ub is zxbcdt's cotangent */
  DEVICE real *ynb, *yb, *zxbcdtb = ub, *xBCb, *dtb, *work;
  const DEVICE real *zxbcdt = mixer_projected(m, p, s, l, a);
  /* a single chunk that nothing enters needs no states */
  DEVICE real *S = s->carried || ssd_chunks(ssd) > 1 ? a->S : NULL;
  ssd.from_zero = !s->carried;
  struct arena *dev = &scratch.device;
  g = g ? g : &none;
  /* where in_proj's VJP asks for nothing: to it without zxbcdtb */
  bool straight = total && inputs_of(m, s, l) == 0 && !g->in_proj_bias;
  TRY(CARVE(dev, M * d->E, &ynb));
  TRY(CARVE(dev, M * d->E, &yb));
  if (adds)
    TRY(CARVE(dev, M * d->d_in_proj, &zxbcdtb));
  TRY(CARVE(dev, M * d->conv_dim, &xBCb));
  TRY(CARVE(dev, M * d->H, &dtb));
  TRY(CARVE(dev, ssd_chunked_work(ssd), &work));
  struct u_total to = {.sum = zxbcdtb}; /* of what is convolved */
  if (straight)
    to = *total;
  TRY(project_out_vjp(m, p, M, zxbcdt, a, outb, scratch, ynb, yb, zxbcdtb, g));
  relay_await(s->relay, ssm_state);
  if (s->relay && s0b)
    be->fill(be->st, s->rows * d->H * d->P * d->N, 0, s0b->ssm[l]);
  be->ssd_chunked_vjp(be->st, ssd, a->xBC + at.x, a->xBC + at.B, a->xBC + at.C, a->dt, p->A_log,
                      p->D, S, yb, s1b ? s1b->ssm[l] : NULL, work, 0, xBCb + at.x, xBCb + at.B,
                      xBCb + at.C, dtb, g->A_log, g->D, s0b ? s0b->ssm[l] : NULL);
  relay_pass(s->relay, ssm_state);
  be->softplus_clamp_vjp(be->st, M, d->H, d->d_in_proj, zxbcdt + at.dt, p->dt_bias, c->dt_limit[0],
                         c->dt_limit[1], dtb, 0, zxbcdtb + at.dt, g->dt_bias);
  relay_await(s->relay, conv_state);
  if (s->relay && s0b)
    be->fill(be->st, s->rows * d->conv_dim * d->W, 0, s0b->conv[l]);
  be->conv1d_vjp(be->st, conv_shape(d, s), zxbcdt + at.xBC, p->conv_weight, p->conv_bias, conv0,
                 xBCb, s1b ? s1b->conv[l] : NULL, straight ? 1 : 0, from_column(to.more[0], at.xBC),
                 from_column(to.more[1], at.xBC), to.sum + at.xBC, g->conv_weight, g->conv_bias,
                 s0b ? s0b->conv[l] : NULL);
  relay_pass(s->relay, conv_state);
  if (straight) {
    add_to_total(be, total, M, at.xBC, d->d_in_proj, 0, zxbcdtb);
    add_to_total(be, total, M, d->d_in_proj - at.dt, d->d_in_proj, at.dt, zxbcdtb);
  } else if (total) {
    add_to_total(be, total, M, d->d_in_proj, d->d_in_proj, 0, zxbcdtb);
  }
  if (ub && adds)
    be->axpby(be->st, M * d->d_in_proj, 1, zxbcdtb, u_beta, ub);
  be->linear_vjp(be->st, M, inputs_of(m, s, l), d->d_in_proj, a->xn, p->in_proj, zxbcdtb, 0, xnb,
                 g->in_proj, g->in_proj_bias);
  return OK;
}

enum status mixer_jvp(const struct sequence_model *m, const struct layer_parameters *p,
                      const struct span *s, int64_t l, const struct layer_activations *a,
                      const struct carried_states *s0d, struct scratch scratch,
                      const struct layer_activations *ad, const struct carried_states *s1d,
                      DEVICE real *outd)
{
  const struct backend *be = m->be;
  const struct model_dims *d = &m->dims;
  const struct mamba2_config *c = &m->config.mamba2;
  struct columns at = columns_of(d);
  struct ssd_shape ssd = ssd_shape_of(m, s->rows, s->T);
  int64_t M = s->rows * s->T;
  DEVICE real *work;
  CHECK(a->S);
  TRY(CARVE(&scratch.device, ssd_chunked_jvp_work(ssd), &work));
  be->linear_jvp(be->st, M, d->D, d->d_in_proj, a->xn, p->in_proj, ad->xn, NULL, NULL, ad->zxbcdt);
  be->conv1d_jvp(be->st, conv_shape(d, s), a->zxbcdt + at.xBC, p->conv_weight, p->conv_bias,
                 s->carried ? s->carried->conv[l] : NULL, ad->zxbcdt + at.xBC, NULL, NULL,
                 s0d ? s0d->conv[l] : NULL, ad->xBC, s1d ? s1d->conv[l] : NULL);
  be->softplus_clamp_jvp(be->st, M, d->H, d->d_in_proj, a->zxbcdt + at.dt, p->dt_bias,
                         c->dt_limit[0], c->dt_limit[1], ad->zxbcdt + at.dt, NULL, ad->dt);
  be->ssd_chunked_jvp(be->st, ssd, a->xBC + at.x, a->xBC + at.B, a->xBC + at.C, a->dt, p->A_log,
                      p->D, a->S, ad->xBC + at.x, ad->xBC + at.B, ad->xBC + at.C, ad->dt, NULL,
                      NULL, s0d ? s0d->ssm[l] : NULL, work, ad->y, s1d ? s1d->ssm[l] : NULL);
  be->gated_rmsnorm_jvp(be->st, gate_shape(m, M), a->y, a->zxbcdt + at.z, p->gate_norm, a->gr,
                        ad->y, ad->zxbcdt + at.z, NULL, ad->yn);
  project_out_jvp(m, p, M, a, ad, outd);
  return OK;
}
