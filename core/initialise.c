/* initialise.c: initial values, in float64 whatever the run's dtype.  Each element is a function of
 * the seed, its tensor's place in the list and its own place in the tensor.
 *
 *   A_log   = log A, A uniform in A_init_range
 *   dt_bias = Delta + log(-expm1(-Delta)), the inverse softplus of
 *   Delta   = max(exp(u ln dt_max + (1-u) ln dt_min), dt_init_floor)
 *
 * Gu & Dao, "Mamba" (2023), section 3.6; Dao & Gu, "Transformers are SSMs" (2024), their code. */
#include "core/philox.h"
#include "core/tensors.h"
#include <math.h>

static double between(double lo, double hi, const uint32_t word[4])
{
  return lo + (hi - lo) * philox_uniform(word[0], word[1]);
}

static double draw(const struct mamba2_config *m, const struct tensor_spec *t,
                   const uint32_t word[4])
{
  switch (t->init) {
  case INIT_ONES:
    return 1;
  case INIT_ZEROS:
    return 0;
  case INIT_EMBEDDING:
    return 0.02 * philox_normal(word);
  case INIT_UNIFORM:
    return between(-t->bound, t->bound, word);
  case INIT_A_LOG:
    return log(between(m->A_init_range[0], m->A_init_range[1], word));
  case INIT_ROW_NORM: /* follows from the directions, below */
    return 0;
  case INIT_DT_BIAS:
    break;
  }
  double delta = fmax(exp(between(log(m->dt_min), log(m->dt_max), word)), m->dt_init_floor);
  return delta + log(-expm1(-delta));
}

/* g = ||v||, and w = v. */
static void normalise_rows(const struct tensor_list *list, const struct tensor_spec *w,
                           double *block)
{
  const struct tensor_spec *g = &list->tensor[w->g], *v = g + 1;
  int64_t n = tensor_columns(v);
  for (int64_t r = 0; r < tensor_rows(v); r++) {
    double squares = 0;
    for (int64_t j = 0; j < n; j++) {
      double x = block[v->offset + r * n + j];
      squares += x * x;
      block[w->offset + r * n + j] = x;
    }
    block[g->offset + r] = sqrt(squares);
  }
}

void parameters_initialise(const struct model_config *c, const struct tensor_list *list,
                           uint64_t seed, double *block)
{
  for (int64_t i = 0; i < list->block; i++)
    block[i] = 0;
  for (int64_t k = 0; k < list->count; k++) {
    const struct tensor_spec *t = &list->tensor[k];
#pragma omp parallel for
    for (int64_t i = 0; i < t->count; i++) {
      uint32_t word[4];
      philox(seed, STREAM_INITIALISE, (uint32_t)k, (uint32_t)i, (uint32_t)((uint64_t)i >> 32),
             word);
      block[t->offset + i] = draw(&c->mamba2, t, word);
    }
  }
  for (int64_t k = 0; k < list->derived; k++)
    normalise_rows(list, &list->tensor[list->count + k], block);
}
