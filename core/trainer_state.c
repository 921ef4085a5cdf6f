/* trainer_state.c: trainer.json, one JSON object. */
#include "core/trainer_state.h"
#include "core/files.h"
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

enum status trainer_state_write(const char *path, const struct config *c,
                                const struct trainer_state *s)
{
  struct file_writer f;
  TRY(file_begin(path, &f));
  (void)fprintf(f.out, "{\"step\": %" PRId64 ", \"seed\": %" PRId64 ", \"dtype\": \"%s\",\n",
                s->step, c->seed, dtype_name(c->dtype));
  (void)fprintf(f.out,
                " \"tokens\": %" PRId64 ", \"skipped\": %" PRId64 ", \"loss_mean\": %.17g,\n",
                s->tokens, s->skipped, s->loss_mean);
  (void)fprintf(f.out,
                " \"best_step\": %" PRId64 ", \"best_loss\": %.17g, \"data\": %" PRId64
                ",\n \"flops\": %.17g, \"seconds\": %.17g, \"peak_memory\": %" PRId64 "}\n",
                s->best_step, s->best_loss, s->data, s->flops, s->seconds, s->peak_memory);
  return file_commit(&f);
}

/* `required`: absent is a fault; otherwise it stays as it is */
static enum status read_count(const char *path, const json_t *root, const char *key, bool required,
                              int64_t *to)
{
  const json_t *value = json_object_get(root, key);
  if (!value && !required)
    return OK;
  if (!json_is_integer(value) || json_integer_value(value) < 0)
    FAIL(ERR_DATA, "%s: no \"%s\" that is a count", path, key);
  *to = (int64_t)json_integer_value(value);
  return OK;
}

static enum status read_number(const char *path, const json_t *root, const char *key, double *to)
{
  const json_t *value = json_object_get(root, key);
  if (!value)
    return OK;
  if (!json_is_number(value))
    FAIL(ERR_DATA, "%s: \"%s\" is not a number", path, key);
  *to = json_number_value(value);
  return OK;
}

static enum status read_object(const char *path, const json_t *root, struct trainer_state *s)
{
  if (!json_is_object(root))
    FAIL(ERR_DATA, "%s: not a JSON object", path);
  TRY(read_count(path, root, "step", true, &s->step));
  TRY(read_count(path, root, "tokens", false, &s->tokens));
  TRY(read_count(path, root, "skipped", false, &s->skipped));
  TRY(read_count(path, root, "best_step", false, &s->best_step));
  TRY(read_count(path, root, "data", false, &s->data));
  TRY(read_count(path, root, "peak_memory", false, &s->peak_memory));
  TRY(read_number(path, root, "loss_mean", &s->loss_mean));
  TRY(read_number(path, root, "flops", &s->flops));
  TRY(read_number(path, root, "seconds", &s->seconds));
  return read_number(path, root, "best_loss", &s->best_loss);
}

enum status trainer_state_read(const char *path, struct trainer_state *s)
{
  json_error_t error;
  char *text;
  size_t bytes;
  *s = (struct trainer_state){0};
  TRY(file_read(path, &text, &bytes));
  json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
  free(text);
  if (!root)
    FAIL(ERR_DATA, "%s:%d:%d: %s", path, error.line, error.column, error.text);
  enum status status = read_object(path, root, s);
  json_decref(root);
  return status;
}
