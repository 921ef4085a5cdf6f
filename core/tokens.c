/* tokens.c: see tokens.h. */
#include "core/tokens.h"
#include "core/operations.h"
#include "core/safetensors.h"
#include <stdlib.h>

static enum status as_int32(const char *path, const struct st_tensor *t, int64_t low, int64_t high,
                            int32_t also, int32_t *out)
{
  if (t->dtype != ST_I32 && t->dtype != ST_I64)
    FAIL(ERR_DATA, "%s: %s is %s; int32 or int64 is needed", path, t->name,
         st_dtype_name(t->dtype));
  for (int64_t i = 0; i < t->count; i++) {
    int64_t v = t->dtype == ST_I32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
    if ((v < low || v >= high) && v != also)
      FAIL(ERR_DATA, "%s: %s[%lld,%lld] is %lld; the vocabulary is 0 to %lld", path, t->name,
           (long long)(i / t->shape[1]), (long long)(i % t->shape[1]), (long long)v,
           (long long)high - 1);
    out[i] = (int32_t)v;
  }
  return OK;
}

enum status given_tokens_read(const char *path, int64_t vocabulary, struct given_tokens *g)
{
  struct safetensors file;
  *g = (struct given_tokens){0};
  TRY(safetensors_read(path, &file));
  const struct st_tensor *ids = safetensors_find(&file, "input_ids");
  const struct st_tensor *labels = safetensors_find(&file, "labels");
  enum status s = OK;
  if (!ids)
    s = fail_at(ERR_DATA, __FILE__, __LINE__, "%s: no tensor input_ids", path);
  else if (ids->rank != 2 || ids->count == 0)
    s = fail_at(ERR_DATA, __FILE__, __LINE__, "%s: input_ids (B,L), not empty, is needed", path);
  else if (labels && (labels->rank != 2 || labels->shape[0] != ids->shape[0] ||
                      labels->shape[1] != ids->shape[1]))
    s = fail_at(ERR_DATA, __FILE__, __LINE__, "%s: labels must have the shape of input_ids", path);
  if (s == OK) {
    *g = (struct given_tokens){.B = ids->shape[0], .L = ids->shape[1]};
    g->tokens = malloc((size_t)ids->count * sizeof *g->tokens);
    g->labels = labels ? malloc((size_t)ids->count * sizeof *g->labels) : NULL;
    if (!g->tokens || (labels && !g->labels))
      s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "%s: out of memory", path);
  }
  if (s == OK)
    s = as_int32(path, ids, 0, vocabulary, 0, g->tokens);
  if (s == OK && labels)
    s = as_int32(path, labels, 0, vocabulary, IGNORED_LABEL, g->labels);
  safetensors_free(&file);
  if (s != OK)
    given_tokens_free(g);
  return s;
}

void given_tokens_free(struct given_tokens *g)
{
  free(g->tokens);
  free(g->labels);
  *g = (struct given_tokens){0};
}
