/* weights.c: see weights.h. */
#include "core/weights.h"
#include "core/philox.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status carve(struct weights *w)
{
  TRY(CARVE(&w->host, w->sets, &w->set));
  for (int i = 0; i < w->sets; i++) {
    struct parameter_set p;
    DEVICE real *transposes = NULL;
    TRY(parameters_carve(&w->m, &w->device, &w->host, &p));
    if (i == 0 && w->m.be->transposes)
      TRY(CARVE(&w->device, w->tensors.block, &transposes));
    if (w->host.base && transposes)
      transposes_bind(&w->m, transposes, &p);
    if (w->host.base)
      w->set[i] = p;
  }
  return OK;
}

enum status weights_open(const struct model_config *c, const struct backend *be, int sets,
                         struct weights *w)
{
  size_t device, host;
  void *block;
  *w = (struct weights){.sets = sets};
  TRY(tensor_list_make(c, &w->tensors));
  w->m = (struct sequence_model){be, *c, model_dims(c), &w->tensors};
  w->device = arena_measure(&device);
  w->host = arena_measure(&host);
  enum status s = carve(w);
  w->device = w->host = (struct arena){0};
  if (s == OK)
    s = be->memory_alloc(device, &block);
  if (s == ERR_MEMORY)
    s = fail_within(s, "%d times %lld parameters (model.d_model, model.n_layer, ...)", sets,
                    (long long)w->tensors.block);
  if (s == OK) {
    w->device = arena_over(block, device);
    s = arena_init(&w->host, host);
  }
  if (s == OK)
    s = carve(w);
  for (int i = 0; s == OK && i < sets; i++)
    be->fill(be->st, w->tensors.block, 0, w->set[i].block);
  if (s != OK)
    weights_close(w);
  return s;
}

void weights_close(struct weights *w)
{
  if (w->device.base)
    w->m.be->memory_free(w->device.base);
  arena_free(&w->host);
  tensor_list_free(&w->tensors);
  *w = (struct weights){0};
}

enum status weights_initialise(struct weights *w, uint64_t seed)
{
  struct arena host;
  size_t items = (size_t)w->tensors.block;
  TRY(arena_init(&host, items * (sizeof(double) + sizeof(real)) + 256));
  double *block;
  enum status s = CARVE(&host, items, &block);
  if (s == OK) {
    parameters_initialise(&w->m.config, &w->tensors, seed, block);
    s = parameters_upload(&w->m, block, host, &w->set[0]);
  }
  arena_free(&host);
  return s;
}

#if REAL_BITS != 128

static const enum st_dtype own = REAL_BITS == 32 ? ST_F32 : ST_F64;

static char *full_name(const struct named_set *set, const struct tensor_spec *t)
{
  size_t n = strlen(set->prefix) + sizeof t->name;
  char *name = malloc(n);
  if (name)
    (void)snprintf(name, n, "%s%s", set->prefix, t->name);
  return name;
}

static enum status describe(const struct weights *w, const struct named_set *set, const real *block,
                            struct st_tensor *out)
{
  for (int64_t i = 0; i < w->tensors.count; i++) {
    const struct tensor_spec *t = &w->tensors.tensor[i];
    out[i] = (struct st_tensor){.name = full_name(set, t), .dtype = own, .rank = t->rank};
    if (!out[i].name)
      FAIL(ERR_MEMORY, "out of memory");
    for (int k = 0; k < t->rank; k++)
      out[i].shape[k] = t->shape[k];
    out[i].count = t->count;
    out[i].data = block + t->offset;
  }
  return OK;
}

enum status weights_write(const struct weights *w, const char *path, const struct named_set *set,
                          int sets)
{
  const struct backend *be = w->m.be;
  size_t block = (size_t)w->tensors.block, count = (size_t)w->tensors.count * (size_t)sets;
  real *host = malloc(block * (size_t)sets * sizeof *host);
  struct st_tensor *tensor = calloc(count ? count : 1, sizeof *tensor);
  enum status s = OK;
  if (!host || !tensor)
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "%s: out of memory", path);
  for (int i = 0; s == OK && i < sets; i++) {
    real *at = host + (size_t)i * block;
    s = be->download(be->st, block * sizeof *host, set[i].p->block, at);
    if (s == OK)
      s = describe(w, &set[i], at, tensor + (size_t)i * (size_t)w->tensors.count);
  }
  if (s == OK)
    s = safetensors_write(path, tensor, (int64_t)count);
  for (size_t i = 0; tensor && i < count; i++)
    free((void *)(uintptr_t)tensor[i].name);
  free(tensor);
  free(host);
  return s;
}

static enum status shape_differs(const char *path, const struct st_tensor *t,
                                 const struct tensor_spec *want)
{
  char got[128] = "", need[128] = "";
  for (int k = 0; k < t->rank; k++)
    (void)snprintf(got + strlen(got), sizeof got - strlen(got), "%s%lld", k ? "," : "",
                   (long long)t->shape[k]);
  for (int k = 0; k < want->rank; k++)
    (void)snprintf(need + strlen(need), sizeof need - strlen(need), "%s%lld", k ? "," : "",
                   (long long)want->shape[k]);
  FAIL(ERR_DATA, "%s: tensor %s has shape (%s), the model's is (%s)", path, t->name, got, need);
}

static enum status read_tensor(const char *path, const struct st_tensor *t,
                               const struct tensor_spec *want, bool finite, real *to)
{
  bool same = t->rank == want->rank;
  for (int k = 0; same && k < t->rank; k++)
    same = t->shape[k] == want->shape[k];
  if (!same)
    return shape_differs(path, t, want);
  if (t->dtype == ST_F32)
    for (int64_t i = 0; i < t->count; i++)
      to[i] = (real)((const float *)t->data)[i];
  else if (t->dtype == ST_F64)
    for (int64_t i = 0; i < t->count; i++)
      to[i] = (real)((const double *)t->data)[i];
  else
    FAIL(ERR_DATA, "%s: tensor %s is %s; F32 or F64 is needed", path, t->name,
         st_dtype_name(t->dtype));
  for (int64_t i = 0; finite && i < t->count; i++)
    if (!isfinite(re(to[i])))
      FAIL(ERR_DATA, "%s: tensor %s: element %lld is not finite", path, t->name, (long long)i);
  return OK;
}

static enum status read_set(struct weights *w, const struct safetensors *file,
                            const struct named_set *set, bool finite, real *host)
{
  memset(host, 0, (size_t)w->tensors.block * sizeof *host);
  for (int64_t i = 0; i < w->tensors.count; i++) {
    const struct tensor_spec *t = &w->tensors.tensor[i];
    char *name = full_name(set, t);
    if (!name)
      FAIL(ERR_MEMORY, "out of memory");
    const struct st_tensor *found = safetensors_find(file, name);
    enum status s = found ? read_tensor(file->path, found, t, finite, host + t->offset)
                          : fail_at(ERR_DATA, __FILE__, __LINE__,
                                    "%s: no tensor %s, which the model has", file->path, name);
    free(name);
    TRY(s);
  }
  return w->m.be->upload(w->m.be->st, (size_t)w->tensors.block * sizeof *host, host, set->p->block);
}

enum status weights_read(struct weights *w, const char *path, const struct named_set *set, int sets,
                         bool finite)
{
  struct safetensors file;
  TRY(safetensors_read(path, &file));
  real *host = malloc((size_t)w->tensors.block * sizeof *host);
  enum status s = OK;
  if (!host)
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "%s: out of memory", path);
  for (int i = 0; s == OK && i < sets; i++)
    s = read_set(w, &file, &set[i], finite, host);
  if (s == OK && file.tensors != w->tensors.count * sets)
    s = fail_at(ERR_DATA, __FILE__, __LINE__, "%s: %lld tensors; the model has %lld", path,
                (long long)file.tensors, (long long)(w->tensors.count * sets));
  for (int i = 0; s == OK && i < sets; i++)
    parameters_derive(&w->m, set[i].p);
  free(host);
  safetensors_free(&file);
  return s;
}
#endif
