/* flops.c: see flops.h. */
#include "core/flops.h"
#include "core/tensors.h"

struct token_flops token_flops(const struct model_config *c)
{
  const struct model_dims d = model_dims(c);
  double D = (double)d.D, HP = (double)(d.H * d.P);
  double layer = 2 * D * (double)d.d_in_proj + 2 * (double)(d.W * d.conv_dim) +
                 5 * HP * (double)d.N + 2 * HP + 2 * (double)(d.E + d.d_mlp) * D +
                 6 * D * (double)d.F;
  return (struct token_flops){
      .block = (double)d.layers * layer,
      .injection = c->kind == MODEL_IMPLICIT ? 2 * D * (double)d.d_in_proj : 0,
      .head = 2 * D * (double)d.V,
  };
}

double step_flops(const struct model_config *c, const struct step_work *w)
{
  struct token_flops f = token_flops(c);
  return 3 * ((double)w->tokens * f.injection + (double)w->outputs * f.head +
              (double)w->differentiated * f.block) +
         (double)(w->solved + w->adjoint) * f.block;
}
