/* weights.h: a model with its parameters in memory, and in safetensors files. */
#ifndef CORE_WEIGHTS_H
#define CORE_WEIGHTS_H
#include "core/model.h"
#include "core/safetensors.h"

#define weights NAME(weights)
#define weights_open NAME(weights_open)
#define weights_close NAME(weights_close)
#define weights_initialise NAME(weights_initialise)
#define weights_write NAME(weights_write)
#define weights_read NAME(weights_read)
#define parameters_write NAME(parameters_write)
#define parameters_read NAME(parameters_read)

struct weights {
  struct sequence_model m;
  struct tensor_list tensors;
  struct parameter_set *set; /* (sets); [0] the parameters, others as the caller wants */
  int sets;
  struct arena device, host;
};

/* A model of this configuration (vocab_size resolved) with `sets` zeroed blocks of its layout:
 * parameters, gradients, moments. */
MUST_USE enum status weights_open(const struct model_config *c, const struct backend *be, int sets,
                                  struct weights *w);
void weights_close(struct weights *w);

/* Draws set[0] as initialise.c says, in float64, then rounded. */
MUST_USE enum status weights_initialise(struct weights *w, uint64_t seed);

/* One set of the model's layout as tensors under their names, each name with `prefix` in front. */
struct named_set {
  const char *prefix;
  const struct parameter_set *p;
};
/* Writes sets in this precision; all or nothing. */
MUST_USE enum status weights_write(const struct weights *w, const char *path,
                                   const struct named_set *set, int sets);
/* Reads them: every tensor must be there with its shape, F32 or F64, and nothing else; `finite`:
 * and hold finite numbers in this precision (training and the Jacobian check look for themselves
 * and say more).  ERR_DATA. */
MUST_USE enum status weights_read(struct weights *w, const char *path, const struct named_set *set,
                                  int sets, bool finite);
#endif
