/* tensors.h: a model's parameters as a list of named tensors in one block, in a fixed order.
 * Names and layouts are those of the published implicit Mamba-2 checkpoints. */
#ifndef CORE_TENSORS_H
#define CORE_TENSORS_H
#include "core/config.h"

/* What initialise.c draws for a tensor. */
enum tensor_init {
  INIT_ONES,
  INIT_ZEROS,
  INIT_EMBEDDING, /* N(0, 0.02) */
  INIT_UNIFORM,   /* U(-bound, bound) */
  INIT_A_LOG,
  INIT_DT_BIAS,
  INIT_ROW_NORM, /* the norms of the rows of the tensor that follows */
};

/* Which pointer of struct parameters or, from P_LAYER_NORM on, of struct layer_parameters. */
enum parameter_slot {
  P_EMBEDDING,
  P_INJECTION_NORM,
  P_INJECTION_WEIGHT,
  P_INJECTION_BIAS,
  P_NORM_F,
  P_HEAD,
  P_LAYER_NORM,
  P_IN_PROJ,
  P_IN_PROJ_BIAS,
  P_CONV_WEIGHT,
  P_CONV_BIAS,
  P_DT_BIAS,
  P_A_LOG,
  P_D,
  P_GATE_NORM,
  P_OUT_PROJ,
  P_OUT_PROJ_BIAS,
  P_NORM2,
  P_FC1,
  P_FC2,
  P_NONE, /* weight_g, weight_v: the model sees the weight that follows from them */
  P_SLOTS
};

struct tensor_spec {
  char name[128];
  int rank;
  int64_t shape[3];
  int64_t count, offset; /* elements; where it begins in the block */
  int32_t layer;         /* -1: none */
  enum parameter_slot slot;
  enum tensor_init init;
  double bound;
  bool decay; /* takes part in weight decay */
  int64_t g;  /* derived tensors: place in the list of weight_g; weight_v follows it */
};

/* Dimensions that follow from a configuration (README: The model). */
struct model_dims {
  int64_t V, D, layers, E, P, H, N, G, W, conv_dim, d_in_proj, d_mlp, F, chunk;
};

struct tensor_list {
  struct tensor_spec *tensor; /* (count + derived): those that are kept, then those that follow */
  int64_t count, derived;
  int64_t parameters;    /* elements of the tensors that are kept */
  int64_t stored, block; /* with padding: of those that are kept, and of all */
};

struct model_dims model_dims(const struct model_config *c);
/* The list for a model; release with tensor_list_free.  ERR_MEMORY. */
MUST_USE enum status tensor_list_make(const struct model_config *c, struct tensor_list *list);
void tensor_list_free(struct tensor_list *list);

/* Rows of a tensor and elements of each. */
static inline int64_t tensor_rows(const struct tensor_spec *t) { return t->shape[0]; }
static inline int64_t tensor_columns(const struct tensor_spec *t) { return t->count / t->shape[0]; }

/* Draws the initial values of every tensor into block (list->block doubles; padding is 0):
 * float64 arithmetic whatever the run's dtype. Philox stream INITIALISE, counter (tensor, element).
 */
void parameters_initialise(const struct model_config *c, const struct tensor_list *list,
                           uint64_t seed, double *block);
#endif
