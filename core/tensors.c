/* tensors.c: which tensors a model has, under which names, of which shapes, in which order. */
#include "core/tensors.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ALIGN = 16, MODEL_TENSORS = 6, LAYER_TENSORS = P_SLOTS - P_LAYER_NORM };

struct model_dims model_dims(const struct model_config *c)
{
  const struct mamba2_config *m = &c->mamba2;
  struct model_dims d = {
      .V = c->vocab_size,
      .D = c->d_model,
      .layers = c->n_layer,
      .E = m->d_ssm ? m->d_ssm : m->expand * c->d_model,
      .P = m->headdim,
      .N = m->d_state,
      .G = m->ngroups,
      .W = m->d_conv,
      .F = c->d_intermediate,
      .chunk = m->chunk_size,
  };
  d.d_mlp = m->expand * c->d_model - d.E;
  d.H = d.E / d.P;
  d.conv_dim = d.E + 2 * d.G * d.N;
  d.d_in_proj = 2 * (d.E + d.d_mlp) + 2 * d.G * d.N + d.H;
  return d;
}

/* Appends a tensor; the unused ones of its three dimensions are 0. */
static struct tensor_spec *add(struct tensor_list *list, enum parameter_slot slot, int64_t layer,
                               enum tensor_init init, int64_t a, int64_t b, int64_t c,
                               const char *name)
{
  struct tensor_spec *t = &list->tensor[list->count++];
  *t =
      (struct tensor_spec){.shape = {a, b, c}, .layer = (int32_t)layer, .slot = slot, .init = init};
  t->rank = b == 0 ? 1 : c == 0 ? 2 : 3;
  t->count = a * (b ? b : 1) * (c ? c : 1);
  t->offset = list->block;
  t->decay = init == INIT_EMBEDDING || (init == INIT_UNIFORM && t->rank > 1);
  list->parameters += t->count;
  list->block += (t->count + ALIGN - 1) / ALIGN * ALIGN;
  if (layer < 0)
    (void)snprintf(t->name, sizeof t->name, "%s", name);
  else
    (void)snprintf(t->name, sizeof t->name, "backbone.layers.%lld.%s", (long long)layer, name);
  return t;
}

/* What a matrix is drawn from: U(+-1/sqrt(fan_in)), divided by sqrt(residuals) where the output is
 * added to a residual stream to which `residuals` blocks add. */
static double bound_of(int64_t fan_in, int64_t residuals)
{
  return 1 / sqrt((double)fan_in) / sqrt((double)residuals);
}

/* NAME.weight; with weight norm NAME.weight_g and NAME.weight_v, and the weight that follows from
 * them in `derived`. */
static void add_weight(struct tensor_list *list, struct tensor_list *derived, bool weight_norm,
                       enum parameter_slot slot, int64_t layer, double bound, int64_t a, int64_t b,
                       int64_t c, const char *name)
{
  char full[56];
  int64_t first = list->count;
  (void)snprintf(full, sizeof full, "%s.weight", name);
  if (!weight_norm) {
    add(list, slot, layer, INIT_UNIFORM, a, b, c, full)->bound = bound;
    return;
  }
  (void)snprintf(full, sizeof full, "%s.weight_g", name);
  add(list, P_NONE, layer, INIT_ROW_NORM, a, 1, c ? 1 : 0, full)->decay = true;
  (void)snprintf(full, sizeof full, "%s.weight_v", name);
  struct tensor_spec *v = add(list, P_NONE, layer, INIT_UNIFORM, a, b, c, full);
  v->bound = bound;
  v->decay = false; /* its length means nothing */
  (void)snprintf(full, sizeof full, "%s.weight", name);
  add(derived, slot, layer, INIT_ZEROS, a, b, c, full)->g = first;
}

static void add_layer(struct tensor_list *list, struct tensor_list *derived,
                      const struct model_config *c, struct model_dims d, int64_t i)
{
  const struct mamba2_config *m = &c->mamba2;
  bool wn = c->weight_norm;
  int64_t inner = d.E + d.d_mlp, residuals = (d.F > 0 ? 2 : 1) * d.layers;

  add(list, P_LAYER_NORM, i, INIT_ONES, d.D, 0, 0, "norm.weight");
  add_weight(list, derived, wn, P_IN_PROJ, i, bound_of(d.D, 1), d.d_in_proj, d.D, 0,
             "mixer.in_proj");
  if (m->bias)
    add(list, P_IN_PROJ_BIAS, i, INIT_ZEROS, d.d_in_proj, 0, 0, "mixer.in_proj.bias");
  add_weight(list, derived, wn, P_CONV_WEIGHT, i, bound_of(d.W, 1), d.conv_dim, 1, d.W,
             "mixer.conv1d");
  if (m->conv_bias)
    add(list, P_CONV_BIAS, i, INIT_UNIFORM, d.conv_dim, 0, 0, "mixer.conv1d.bias")->bound =
        bound_of(d.W, 1);
  add(list, P_DT_BIAS, i, INIT_DT_BIAS, d.H, 0, 0, "mixer.dt_bias");
  add(list, P_A_LOG, i, INIT_A_LOG, d.H, 0, 0, "mixer.A_log");
  add(list, P_D, i, INIT_ONES, m->D_has_hdim ? d.E : d.H, 0, 0, "mixer.D");
  add(list, P_GATE_NORM, i, INIT_ONES, d.E, 0, 0, "mixer.norm.weight");
  add_weight(list, derived, wn, P_OUT_PROJ, i, bound_of(inner, residuals), d.D, inner, 0,
             "mixer.out_proj");
  if (m->bias)
    add(list, P_OUT_PROJ_BIAS, i, INIT_ZEROS, d.D, 0, 0, "mixer.out_proj.bias");
  if (d.F > 0) {
    add(list, P_NORM2, i, INIT_ONES, d.D, 0, 0, "norm2.weight");
    add_weight(list, derived, wn, P_FC1, i, bound_of(d.D, 1), 2 * d.F, d.D, 0, "mlp.fc1");
    add_weight(list, derived, wn, P_FC2, i, bound_of(d.F, residuals), d.D, d.F, 0, "mlp.fc2");
  }
}

/* The derived tensors lie behind the others, in the list and in the block. */
static void append_derived(struct tensor_list *list, const struct tensor_list *derived)
{
  list->stored = list->block;
  for (int64_t i = 0; i < derived->count; i++) {
    struct tensor_spec *t = &list->tensor[list->count + i];
    *t = derived->tensor[i];
    t->offset += list->block;
  }
  list->derived = derived->count;
  list->block += derived->block;
}

enum status tensor_list_make(const struct model_config *c, struct tensor_list *list)
{
  struct model_dims d = model_dims(c);
  /* a weight under weight norm is three tensors, one of them derived */
  size_t room = 3 * (size_t)(MODEL_TENSORS + d.layers * LAYER_TENSORS);
  struct tensor_list derived = {.tensor = calloc(room, sizeof *derived.tensor)};
  *list = (struct tensor_list){.tensor = calloc(room, sizeof *list->tensor)};
  if (!list->tensor || !derived.tensor) {
    free(derived.tensor);
    tensor_list_free(list);
    FAIL(ERR_MEMORY, "out of memory: the list of %zu tensors", room);
  }

  add(list, P_EMBEDDING, -1, INIT_EMBEDDING, d.V, d.D, 0, "word_emb.emb.weight");
  if (c->kind == MODEL_IMPLICIT) {
    add(list, P_INJECTION_NORM, -1, INIT_ONES, d.D, 0, 0, "backbone.injection_norm.weight");
    add_weight(list, &derived, c->weight_norm, P_INJECTION_WEIGHT, -1, bound_of(d.D, 1),
               d.d_in_proj, d.D, 0, "backbone.injection");
    add(list, P_INJECTION_BIAS, -1, INIT_ZEROS, d.d_in_proj, 0, 0, "backbone.injection.bias");
  }
  for (int64_t i = 0; i < d.layers; i++)
    add_layer(list, &derived, c, d, i);
  add(list, P_NORM_F, -1, INIT_ONES, d.D, 0, 0, "backbone.norm_f.weight");
  if (!c->tie_embeddings)
    add(list, P_HEAD, -1, INIT_UNIFORM, d.V, d.D, 0, "criterion.decoder.weight")->bound =
        bound_of(d.D, 1);
  append_derived(list, &derived);
  free(derived.tensor);
  return OK;
}

void tensor_list_free(struct tensor_list *list)
{
  free(list->tensor);
  *list = (struct tensor_list){0};
}
