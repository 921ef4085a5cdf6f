/* model_probe.h: a whole model in one precision, driven through doubles, for precision-free tests.
 * Every function exists as probe_x_f32, _f64, _c64. */
#ifndef TESTS_NUMERIC_MODEL_PROBE_H
#define TESTS_NUMERIC_MODEL_PROBE_H
#include "core/config.h"
#include "core/tensors.h"

/* detach: the iterates of the first call's forward solve count as constants, in later calls too, as
 * they do in phantom gradients. */

/* What a call returns; arrays are the caller's or NULL. */
struct probe_result {
  double loss, loss_im; /* of learning: what is differentiated; imaginary part in steps */
  double jacobian;      /* network_result */
  int64_t fallbacks;
  double *gradient;   /* (block) in the tensor list's layout */
  double *z, *logits; /* (rows,length,D), (rows,length,V) */
  struct fp_result forward, backward;
  size_t device_bytes, host_bytes; /* what the network planned */
};

struct backend_f32;
struct backend_f64;
struct backend_c64;
struct solver_port_f32;
struct solver_port_f64;
struct solver_port_c64;
#define PROBE(bits)                                                                              \
  struct probe_##bits;                                                                           \
  struct probe_##bits *probe_open_##bits(const struct config *c, int64_t rows, int64_t length,   \
                                         bool learn, bool detach);                               \
  struct probe_##bits *probe_open_on_##bits(                                                     \
      const struct config *c, const struct backend_##bits *be,                                   \
      const struct solver_port_##bits *port, int64_t rows, int64_t length, bool learn);          \
  void probe_close_##bits(struct probe_##bits *p);                                               \
  /* parameters; element k (-1: none) gets an imaginary step in the complex build */             \
  void probe_shorten_##bits(struct probe_##bits *p, int64_t length); /* network_set_length */    \
  void probe_set_##bits(struct probe_##bits *p, const double *block, int64_t k);                 \
  /* for learning: tokens of each row that count (NULL: all), whether dropout draws its masks */ \
  void probe_batch_##bits(struct probe_##bits *p, const int32_t *lengths, bool dropout);         \
  void probe_learn_##bits(struct probe_##bits *p, enum gradient_kind g, const int32_t *tokens,   \
                          const int32_t *labels, struct probe_result *r);                        \
  void probe_evaluate_##bits(struct probe_##bits *p, const struct fp_options *o, int64_t rows,   \
                             const int32_t *tokens, struct probe_result *r);
PROBE(f32)
PROBE(f64)
PROBE(c64)

/* What a batch's sequences were found to be, one after the other; arrays of rows*length. */
struct probe_details {
  int32_t *best; /* of `evaluate` */
  int64_t correct, bad;
  uint8_t *exit; /* r->forward.samples of them */
  int64_t shards;
};
/* `evaluate` of all rows in shards; z and logits are not told.  d->exit may be NULL.
 */
void probe_evaluate_in_shards_f64(struct probe_f64 *p, const struct fp_options *o,
                                  const int32_t *tokens, struct probe_result *r,
                                  struct probe_details *d);
/* `learn` of the same batch in shards.  fail_at: the solve (from 0) that fails with
 * "a solve is told to fail"; -1: none.  Returns the status. */
int probe_learn_in_shards_f64(struct probe_f64 *p, enum gradient_kind g, const int32_t *tokens,
                              const int32_t *labels, int fail_at, struct probe_result *r,
                              struct probe_details *d);
/* The details of the last `learn`. */
void probe_details_f64(struct probe_f64 *p, struct probe_details *d);

/* df/dz at what the last `learn` by ift or shine solved: (M D, M D), M = rows*length */
void probe_jacobian_f64(struct probe_f64 *p, double *J);
/* network_spectral_radius there */
void probe_radius_f64(struct probe_f64 *p, double *mean, double *largest);
/* parameters, with an imaginary step along `direction` (block) */
void probe_direct_c64(struct probe_c64 *p, const double *block, const double *direction);

/* Random parameters of c, in_proj scaled by `in_proj` and the injection by `injection` so that
 * Picard contracts (0.3 and 4 do); norms, D and biases perturbed away from ones and zeros.
 * The list is the caller's to free, and so is the block (list->block doubles). */
double *probe_parameters(const struct config *c, double in_proj, double injection, uint64_t seed,
                         struct tensor_list *list);
#endif
