/* model.h: the Mamba-2 model as a map of device arrays: f, its VJP, and what goes around it.
 *
 *   e = Emb[tokens]                                       (M,D)
 *   u = W_inj rmsnorm(e; g_inj) + b_inj                   (M,d_in_proj)   implicit models only
 *   f(z,u): for each layer  z <- z + c m mixer(rmsnorm(z; g), u)
 *                          [z <- z + c m mlp(rmsnorm(z; g2))  when d_intermediate > 0]
 *           f = rmsnorm(z; g_f)
 *   logits = z W_head'
 *
 * c = config.residual; m a mask of variational dropout, (rows,D) for each mixer and each MLP, or 1.
 * M = rows*T tokens.  All arrays are on the backend's device, row-major. */
#ifndef CORE_MODEL_H
#define CORE_MODEL_H
#include "core/arena.h"
#include "core/backend.h"
#include "core/relay.h"
#include "core/tensors.h"

#define layer_parameters NAME(layer_parameters)
#define parameter_set NAME(parameter_set)
#define sequence_model NAME(sequence_model)
#define layer_activations NAME(layer_activations)
#define activations NAME(activations)
#define carried_states NAME(carried_states)
#define span NAME(span)
#define block_cotangents NAME(block_cotangents)
#define u_total NAME(u_total)
#define parameters_carve NAME(parameters_carve)
#define transposes_bind NAME(transposes_bind)
#define parameters_upload NAME(parameters_upload)
#define parameters_derive NAME(parameters_derive)
#define gradients_derive NAME(gradients_derive)
#define dropout_masks NAME(dropout_masks)
#define dropout_masks_carve NAME(dropout_masks_carve)
#define dropout_masks_draw NAME(dropout_masks_draw)
#define activations_carve NAME(activations_carve)
#define carried_states_carve NAME(carried_states_carve)
#define carried_states_clear NAME(carried_states_clear)
#define block_whole_tokens NAME(block_whole_tokens)
#define span_fwd NAME(span_fwd)
#define segments_host_bytes NAME(segments_host_bytes)
#define block_fwd NAME(block_fwd)
#define block_vjp NAME(block_vjp)
#define block_vjp_carried NAME(block_vjp_carried)
#define block_jvp NAME(block_jvp)
#define block_advance NAME(block_advance)
#define mixer_projected NAME(mixer_projected)
#define add_and_norm NAME(add_and_norm)
#define mixer_begin NAME(mixer_begin)
#define mixer_fwd NAME(mixer_fwd)
#define mixer_vjp NAME(mixer_vjp)
#define mixer_jvp NAME(mixer_jvp)
#define embed_fwd NAME(embed_fwd)
#define inject_fwd NAME(inject_fwd)
#define inject_vjp NAME(inject_vjp)

/* Parameters, their gradients and the optimizer's moments are all of this struct. */
struct layer_parameters {
  DEVICE real *norm, *in_proj, *in_proj_bias, *conv_weight, *conv_bias, *dt_bias, *A_log, *D;
  DEVICE real *gate_norm, *out_proj, *out_proj_bias, *norm2, *fc1, *fc2;
  DEVICE real *in_proj_t, *out_proj_t, *fc1_t, *fc2_t; /* transposes, or NULL */
};
struct parameter_set {
  DEVICE real *block; /* all tensors, in the order and at the offsets of the model's tensor list */
  DEVICE real *embedding, *injection_norm, *injection_weight, *injection_bias, *norm_f;
  DEVICE real *head; /* the embedding when tied */
  DEVICE real *injection_weight_t, *head_t;
  struct layer_parameters *layer; /* (n_layer) */
};

struct sequence_model {
  const struct backend *be;
  struct model_config config;
  struct model_dims dims;
  const struct tensor_list *tensors;
};

/* What one evaluation of f keeps for its derivative and for block_advance. */
struct layer_activations {
  DEVICE real *x, *r, *xn; /* (M,D) into the layer, (M), (M,D) normed */
  DEVICE real *zxbcdt;     /* (M,d_in_proj) */
  DEVICE real *xBC, *dt;   /* (M,conv_dim) after conv and silu, (M,H) Delta */
  DEVICE real *S; /* (rows,chunks,H,P,N) entering each chunk; NULL: not kept, and what starts from
                     zeros is one chunk where ssd_one_chunk says so, which is differentiable */
  DEVICE real *y, *gr;   /* (M,E) out of the SSD, (M,G) */
  DEVICE real *yn, *out; /* (M,E) y gated and normed, or NULL and (M,D) W_out yn is kept in its
                            place, where backend.reads_out; else that is NULL */
  DEVICE real *x2, *r2, *xn2, *h, *hg; /* (M,D), (M), (M,D), (M,2F), (M,F); MLP only */
  /* d_mlp > 0 only: (M,2 d_mlp) x0, z0; (M,d_mlp) x0 silu(z0); (M,d_mlp+E) that and yn */
  DEVICE real *h0, *hg0, *inner;
};
struct activations {
  int64_t rows, T;
  bool forgotten; /* a solver's: nobody differentiates them.  Layer 0's x and the last are not
                     filled, perhaps yn neither, and segments (block_whole_tokens) share the
                     first one's memory */
  struct layer_activations *layer; /* (n_layer) */
  DEVICE real *x, *r;              /* (M,D), (M): into the final norm */
};

/* What each row of the whole problem carries from the tokens that have retired. */
struct carried_states {
  DEVICE real **conv; /* per layer (rows,conv_dim,W) */
  DEVICE real **ssm;  /* per layer (rows,H,P,N) */
};

/* Variational dropout: one mask for all tokens of a sequence and all iterations. */
struct dropout_masks {
  DEVICE real *mask; /* (2*n_layer,rows,D): each layer's mixer, then its MLP */
  int64_t rows;
};

/* The places of a relay at layer l, HANDS_ON l + ...: apart, so that the next part's convolution
 * does not wait for the SSD of this one. */
enum { CONV_STATE, SSM_STATE, HANDS_ON };

/* Which tokens of the problem an evaluation of f sees: of row[r], T tokens from first[r]. */
struct span {
  int64_t rows, T;
  int64_t length;                            /* tokens a row of u */
  const DEVICE int32_t *row, *first, *count; /* NULL: all rows, whole, in order */
  const DEVICE real *u;                      /* (.,length,d_in_proj); NULL: none injected */
  const struct carried_states *carried;      /* NULL: zero states */
  const struct carried_states *after;        /* takes the states behind the last token, and may be
                                                `carried`; NULL: not wanted */
  const struct relay *relay;                 /* the states, or their cotangents, come and go by it,
                                                and cotangents are written; NULL: at once */
  const struct dropout_masks *masks;         /* NULL: no dropout */
  /* z is zeros and nobody asks for its cotangent: it is not read, the first norm and in_proj's
   * product, which are zeros too, are not computed, and of the first layer neither x and xn are
   * kept nor (mixer_projected) zxbcdt, where it is u */
  bool from_zero;
  bool only_vjp;  /* of what is kept only block_vjp asks, of the same span: no zeros need be kept,
                     and S is kept as the backend likes it */
  double damping; /* (1 - damping) z + damping f(z) in the place of f(z); 0: undamped */
  DEVICE double *square, *reference; /* (rows,T) ||f(z) - z||^2, ||f(z)||^2; NULL: not wanted */
};

/* Carves the block for m's tensors, and binds every pointer.  `host` holds the pointer table. */
MUST_USE enum status parameters_carve(const struct sequence_model *m, struct arena *device,
                                      struct arena *host, struct parameter_set *p);
/* p's linear weights get transposes in `block`, each at the offset of its tensor. */
void transposes_bind(const struct sequence_model *m, DEVICE real *block, struct parameter_set *p);
/* What follows from parameters that have changed: weights from weight_g and weight_v, transposes.
 */
void parameters_derive(const struct sequence_model *m, const struct parameter_set *p);
/* Adds to the cotangents of weight_g and weight_v in g what those of the weights mean, once. */
void gradients_derive(const struct sequence_model *m, const struct parameter_set *p,
                      const struct parameter_set *g);
MUST_USE enum status dropout_masks_carve(const struct sequence_model *m, int64_t rows,
                                         struct arena *device, struct dropout_masks *masks);
void dropout_masks_draw(const struct sequence_model *m, int64_t rows, struct dropout_draw draw,
                        const struct dropout_masks *masks);
/* Rounds `block` (doubles, of the tensor list's layout) into p; `host` is scratch. */
MUST_USE enum status parameters_upload(const struct sequence_model *m, const double *block,
                                       struct arena host, const struct parameter_set *p);

/* keep: also what the derivative needs (the chunk states). */
MUST_USE enum status activations_carve(const struct sequence_model *m, int64_t rows, int64_t T,
                                       bool keep, struct arena *device, struct arena *host,
                                       struct activations *a);
MUST_USE enum status carried_states_carve(const struct sequence_model *m, int64_t rows,
                                          struct arena *device, struct arena *host,
                                          struct carried_states *c);

/* Zero states for the first `rows` rows. */
void carried_states_clear(const struct sequence_model *m, int64_t rows,
                          const struct carried_states *c);

/* segments.c: a single longer sequence is evaluated and differentiated in segments, which need less
 * scratch memory than this many tokens may; and the host memory that they need. */
int64_t block_whole_tokens(const struct sequence_model *m);
size_t segments_host_bytes(const struct sequence_model *m);

/* fz (M,D) = f(z,u), filling a; fz may be z, unless that is the x into layer 0 of a, which it may
 * be, or the span is damped.  scratch.device: block_fwd carves (M,D) + SSD work,
 * and (M,E) where a has no yn. */
MUST_USE enum status block_fwd(const struct sequence_model *m, const struct parameter_set *p,
                               const struct span *s, const DEVICE real *z,
                               const struct activations *a, struct scratch scratch,
                               DEVICE real *fz);
/* The same, never in segments. */
MUST_USE enum status span_fwd(const struct sequence_model *m, const struct parameter_set *p,
                              const struct span *s, const DEVICE real *z,
                              const struct activations *a, struct scratch scratch, DEVICE real *fz);
/* Where df/dz' fb and df/du' fb go: z = z_beta z + df/dz' fb (M,D), and u (M,d_in_proj) likewise,
 * each unless NULL; beta = 0 does not read it.  z may be fb.  Of a damped span this is damping f:
 * what (1 - damping) z gives to z is z_beta's. */
struct block_cotangents {
  DEVICE real *z, *u;
  real z_beta, u_beta;
  const struct u_total *total;
};
/* With it, of one layer and u_beta = 0: sum += u's cotangent + more[0] + more[1], all of u's shape,
 * NULL: none, nor any behind it; and u holds anything.  Where nothing else asks for the cotangent
 * most of it is then not moved to u and back: a third of what that costs. */
struct u_total {
  DEVICE real *sum;
  const DEVICE real *more[2];
};
/* The cotangents of z and u from that of f, fb; adds df/dtheta' fb to g unless NULL.
 * Spans without row map and carried states only. */
MUST_USE enum status block_vjp(const struct sequence_model *m, const struct parameter_set *p,
                               const struct span *s, const struct activations *a,
                               const DEVICE real *fb, struct scratch scratch,
                               const struct block_cotangents *to, const struct parameter_set *g);
/* The same for spans with carried states (still without row map), with the states' cotangents:
 * those of the states that leave come in by s1b (NULL: zero), those of the states that enter are
 * added to s0b (NULL: not wanted). */
MUST_USE enum status block_vjp_carried(const struct sequence_model *m,
                                       const struct parameter_set *p, const struct span *s,
                                       const struct activations *a, const DEVICE real *fb,
                                       const struct carried_states *s1b, struct scratch scratch,
                                       const struct block_cotangents *to,
                                       const struct parameter_set *g,
                                       const struct carried_states *s0b);
/* fzd (M,D) = df/dz zd + df/d(entering states) s0d at the activations a, which are kept ones; zd
 * and s0d NULL: zero.  ad receives the tangents of a's x, xn, zxbcdt, xBC, dt, y, yn (and x2, xn2,
 * h, hg), s1d those of the states that leave (NULL: not wanted).  Spans without row map. */
MUST_USE enum status block_jvp(const struct sequence_model *m, const struct parameter_set *p,
                               const struct span *s, const struct activations *a,
                               const DEVICE real *zd, const struct carried_states *s0d,
                               struct scratch scratch, const struct activations *ad,
                               const struct carried_states *s1d, DEVICE real *fzd);
/* Carries the first count[r] tokens of the last block_fwd into the states. */
void block_advance(const struct sequence_model *m, const struct parameter_set *p,
                   const struct span *s, const struct activations *a, const DEVICE int32_t *count,
                   const struct carried_states *c);

/* zxbcdt of layer l (M,d_in_proj) once the span has been evaluated: a's, or u itself where nothing
 * is added to it. */
const DEVICE real *mixer_projected(const struct sequence_model *m, const struct layer_parameters *p,
                                   const struct span *s, int64_t l,
                                   const struct layer_activations *a);
/* The sum n.x + c mask out (M,D) and its norm, where n says; c = config.residual.  `out` may be
 * overwritten. */
void add_and_norm(const struct sequence_model *m, struct branch_norm n, DEVICE real *out);
/* zxbcdt = W_in xn + u of layer l's mixer, from and to a, whose xn is the norm n first (n.w NULL:
 * it is there); where backend.joins_conv and nobody waits for a relay, the convolution, too.
 * Unless it `keeps` what mixer_vjp reads, xn and what was convolved hold anything. */
void mixer_begin(const struct sequence_model *m, const struct layer_parameters *p,
                 const struct span *s, int64_t l, const struct layer_activations *a, bool keeps,
                 struct branch_norm n);
/* The rest of it: out (M,D), see mamba2.c; and add_and_norm.
 * Unless it `keeps` all that mixer_vjp reads, a's yn and out hold anything. */
MUST_USE enum status mixer_fwd(const struct sequence_model *m, const struct layer_parameters *p,
                               const struct span *s, int64_t l, const struct layer_activations *a,
                               bool keeps, struct scratch scratch, DEVICE real *out,
                               struct branch_norm n);
/* xnb (M,D), and ub = u_beta ub + ... or, if not NULL, `total`, from outb (M,D) and s1b; adds to g
 * and s0b; see block_vjp_carried. */
MUST_USE enum status mixer_vjp(const struct sequence_model *m, const struct layer_parameters *p,
                               const struct span *s, int64_t l, const struct layer_activations *a,
                               const DEVICE real *outb, const struct carried_states *s1b,
                               struct scratch scratch, DEVICE real *xnb, real u_beta,
                               DEVICE real *ub, const struct u_total *total,
                               const struct layer_parameters *g, const struct carried_states *s0b);
/* outd (M,D) from ad's xn and s0d; see block_jvp. */
MUST_USE enum status mixer_jvp(const struct sequence_model *m, const struct layer_parameters *p,
                               const struct span *s, int64_t l, const struct layer_activations *a,
                               const struct carried_states *s0d, struct scratch scratch,
                               const struct layer_activations *ad, const struct carried_states *s1d,
                               DEVICE real *outd);

/* e (M,D) = mask Emb[tokens], mask NULL: ones; u (M,d_in_proj) from e, keeping en (M,D) and r (M).
 */
void embed_fwd(const struct sequence_model *m, const struct parameter_set *p, int64_t M,
               const DEVICE int32_t *tokens, const DEVICE real *mask, DEVICE real *e);
void inject_fwd(const struct sequence_model *m, const struct parameter_set *p, int64_t M,
                const DEVICE real *e, DEVICE real *r, DEVICE real *en, DEVICE real *u);
/* eb is e's cotangent; adds to g; scratch.device: (M,D). */
MUST_USE enum status inject_vjp(const struct sequence_model *m, const struct parameter_set *p,
                                int64_t M, const DEVICE real *e, const DEVICE real *r,
                                const DEVICE real *en, const DEVICE real *ub,
                                struct scratch scratch, DEVICE real *eb,
                                const struct parameter_set *g);

INLINE struct ssd_shape ssd_shape_of(const struct sequence_model *m, int64_t rows, int64_t T)
{
  const struct model_dims *d = &m->dims;
  struct ssd_shape s = {.B = rows, .T = T, .H = d->H, .P = d->P, .N = d->N, .G = d->G};
  s.ld = d->conv_dim, s.chunk = d->chunk;
  s.D_has_hdim = m->config.mamba2.D_has_hdim;
  s.A_negative = m->config.mamba2.A_negative;
  s.by_blocks = m->be->ssd_by_blocks && !s.A_negative;
  return s;
}

/* Whether T tokens that start from zeros cost less as one chunk than states between chunks. */
INLINE bool ssd_one_chunk(const struct sequence_model *m, int64_t T)
{
  return m->be->ssd_by_blocks && !m->config.mamba2.A_negative && T <= 4 * m->dims.N;
}
#endif
