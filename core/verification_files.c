/* verification_files.c: a verification as safetensors: parameters under their names, the point, and
 * the matrices; tests/peers/jacobian_reference.py recomputes the latter from the former.  And a
 * point that was given, from such a file. */
#include "core/safetensors.h"
#include "core/verification.h"
#include <stdlib.h>
#include <string.h>

enum { EXTRA = 24 };

static void add(struct st_tensor *list, int64_t *count, const char *name, const double *data,
                int64_t a, int64_t b, int64_t c, int64_t d)
{
  struct st_tensor *t = &list[(*count)++];
  const int64_t shape[] = {a, b, c, d};
  *t = (struct st_tensor){.name = name, .dtype = ST_F64, .count = 1, .data = data};
  for (int i = 0; i < 4 && shape[i]; i++) {
    t->shape[t->rank++] = shape[i];
    t->count *= shape[i];
  }
}

/* `from` (rows,columns) transposed into `to` */
static double *transposed(int64_t rows, int64_t columns, const double *from, double **to)
{
  double *at = *to;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++)
      at[j * rows + i] = from[i * columns + j];
  *to += rows * columns;
  return at;
}

/* conv (layers,conv_dim,W): the last W-1 inputs of the state behind a zero that a step drops */
static double *conv_state(const struct verification *v, struct model_dims d, double **to)
{
  double *at = *to;
  const double *from = v->state + v->size.states;
  for (int64_t i = 0; i < d.layers * d.conv_dim; i++)
    for (int64_t j = 0; j < d.W; j++)
      at[i * d.W + j] = j == 0 ? 0 : from[i * (d.W - 1) + j - 1];
  *to += d.layers * d.conv_dim * d.W;
  return at;
}

static void describe(const struct verification *v, struct model_dims d, double *work,
                     double scalars[6], struct st_tensor *list, int64_t *n)
{
  const struct jacobian_parts *p = &v->parts;
  int64_t S = v->size.states, D = d.D;
  for (int64_t i = 0; i < v->list.count; i++) {
    const struct tensor_spec *t = &v->list.tensor[i];
    add(list, n, t->name, v->parameters + t->offset, t->shape[0], t->rank > 1 ? t->shape[1] : 0,
        t->rank > 2 ? t->shape[2] : 0, 0);
  }
  const struct mamba2_config *m = &v->c->model.mamba2;
  scalars[0] = v->c->model.norm_eps, scalars[1] = m->dt_limit[0], scalars[2] = m->dt_limit[1];
  scalars[3] = m->norm_before_gate, scalars[4] = m->A_negative;
  scalars[5] = v->c->model.residual;
  add(list, n, "norm_eps", scalars, 1, 0, 0, 0);
  add(list, n, "dt_limit", scalars + 1, 2, 0, 0, 0);
  add(list, n, "norm_before_gate", scalars + 3, 1, 0, 0, 0);
  add(list, n, "A_negative", scalars + 4, 1, 0, 0, 0);
  add(list, n, "residual", scalars + 5, 1, 0, 0, 0);
  add(list, n, "u", v->u, v->tokens, d.d_in_proj, 0, 0);
  add(list, n, "x", v->x, v->tokens, D, 0, 0);
  add(list, n, "z", v->z, v->tokens, D, 0, 0);
  add(list, n, "conv_state", conv_state(v, d, &work), d.layers, d.conv_dim, d.W, 0);
  add(list, n, "h", v->state, d.layers, d.H, d.P, d.N);
  add(list, n, "J_finite_difference", v->J[BY_DIFFERENCES], S, S, 0, 0);
  add(list, n, "J_theorem", v->J[BY_THEOREM], S, S, 0, 0);
  add(list, n, "J_adjoint", v->J[BY_ADJOINT], S, S, 0, 0);
  add(list, n, "J_complex_step", v->J[BY_COMPLEX_STEP], S, S, 0, 0);
  add(list, n, "J_explicit", v->J_explicit, S, S, 0, 0);
  add(list, n, "dLambda_dz", transposed(D, S, p->dLambda_dz, &work), S, D, 0, 0);
  add(list, n, "dv_dz", transposed(D, S, p->dv_dz, &work), S, D, 0, 0);
  add(list, n, "df_dz", transposed(D, D, p->df_dz, &work), D, D, 0, 0);
  add(list, n, "df_dh", transposed(S, D, p->df_dh, &work), D, S, 0, 0);
  add(list, n, "dh_dz", transposed(D, S, p->dh_dz, &work), S, D, 0, 0);
  add(list, n, "dh_dh", transposed(S, S, p->dh_dh, &work), S, S, 0, 0);
}

enum status verification_save(const struct verification *v, const char *path)
{
  struct model_dims d = model_dims(&v->c->model);
  int64_t S = v->size.states, D = d.D, count = 0;
  double scalars[6];
  CHECK(v->found);
  double *work =
      malloc((size_t)(d.layers * d.conv_dim * d.W + 4 * S * D + D * D + S * S) * sizeof *work);
  struct st_tensor *list = calloc((size_t)(v->list.count + EXTRA), sizeof *list);
  if (!work || !list) {
    free(work), free(list);
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  }
  describe(v, d, work, scalars, list, &count);
  enum status s = safetensors_write(path, list, count);
  free(work), free(list);
  return s;
}

/* `count` numbers of the tensor `name`, which has as many, or (first) at least as many. */
static enum status read_tensor(const struct safetensors *file, const char *name, int64_t count,
                               bool first, double *to)
{
  const struct st_tensor *t = safetensors_find(file, name);
  if (!t)
    FAIL(ERR_DATA, "%s: no tensor %s", file->path, name);
  if (first ? t->count < count : t->count != count)
    FAIL(ERR_DATA,
         "%s: tensor %s has %lld elements; the model needs %s%lld: is it the model that it was "
         "saved of?",
         file->path, name, (long long)t->count, first ? "at least " : "", (long long)count);
  if (t->dtype != ST_F32 && t->dtype != ST_F64)
    FAIL(ERR_DATA, "%s: tensor %s is %s; F32 or F64 is needed", file->path, name,
         st_dtype_name(t->dtype));
  for (int64_t i = 0; i < count; i++)
    to[i] = t->dtype == ST_F32 ? (double)((const float *)t->data)[i] : ((const double *)t->data)[i];
  return OK;
}

static enum status read_point(const struct safetensors *file, const struct verification *v,
                              double *conv)
{
  struct model_dims d = model_dims(&v->c->model);
  int64_t channels = d.layers * d.conv_dim, taps = d.W - 1;
  TRY(read_tensor(file, "u", v->tokens * d.d_in_proj, true, v->u));
  TRY(read_tensor(file, "h", v->size.states, false, v->state));
  TRY(read_tensor(file, "conv_state", channels * d.W, false, conv));
  for (int64_t i = 0; i < channels * taps; i++)
    v->state[v->size.states + i] = conv[i / taps * d.W + i % taps + 1];
  return safetensors_find(file, "x") ? read_tensor(file, "x", v->tokens * d.D, true, v->x) : OK;
}

enum status verification_read_point(const struct verification *v, const char *path)
{
  struct model_dims d = model_dims(&v->c->model);
  struct safetensors file;
  TRY(safetensors_read(path, &file));
  double *conv = calloc((size_t)(d.layers * d.conv_dim * d.W), sizeof *conv);
  enum status s = conv ? read_point(&file, v, conv)
                       : fail_at(ERR_MEMORY, __FILE__, __LINE__, "%s: out of memory", path);
  free(conv);
  safetensors_free(&file);
  return s;
}
