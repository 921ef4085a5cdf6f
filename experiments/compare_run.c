/* compare_run.c: one run as compare sees it: found, measured, and what was measured kept.
 *
 * What is kept (RUN/measured.json) is good for one checkpoint and one set of settings: it holds a
 * number that another model file, or another configuration with the overrides, hardly has. */
#include "core/data.h"
#include "core/files.h"
#include "core/progress.h"
#include "core/trainer_state.h"
#include "experiments/compare_parts.h"
#include "experiments/evaluation_json.h"
#include "experiments/json_file.h"
#include "experiments/program.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { MEASURED_VERSION = 2 }; /* of what is measured and how */

/* ---- finding ---- */

static enum status find_checkpoint(const char *dir, struct compared_run *run)
{
  (void)snprintf(run->directory, sizeof run->directory, "%s", dir);
  return checkpoint_resolve(dir, run->checkpoint, sizeof run->checkpoint);
}

static enum status load_config(const struct compare_settings *s, struct compared_run *run)
{
  char path[COMPARE_PATH];
  TRY(path_join(path, sizeof path, run->checkpoint, "config.yaml"));
  if (!path_exists(path))
    FAIL(ERR_DATA, "%s: missing, so this is no checkpoint", path);
  TRY(config_load(path, 0, NULL, &run->trained));
  TRY(config_resolve(&run->trained));
  TRY(config_load(path, s->overrides, s->override, &run->config));
  if (s->like)
    run->config.evaluate = s->like->config.evaluate;
  TRY(config_resolve(&run->config));
  say_changes(&run->trained, &run->config, "model.");
  return OK;
}

static enum status load_state(struct compared_run *run)
{
  char path[COMPARE_PATH];
  struct trainer_state state;
  run->flops = run->seconds = run->tokens_per_second = run->peak_memory = (double)NAN;
  TRY(path_join(path, sizeof path, run->checkpoint, "trainer.json"));
  if (!path_exists(path))
    return OK;
  TRY(trainer_state_read(path, &state));
  run->step = state.step;
  run->tokens = state.tokens;
  run->text = state.data;
  if (state.flops > 0)
    run->flops = state.flops;
  if (state.seconds > 0) {
    run->seconds = state.seconds;
    run->tokens_per_second = (double)state.tokens / state.seconds;
  }
  if (state.peak_memory > 0)
    run->peak_memory = (double)state.peak_memory;
  return OK;
}

/* ---- the loss curve ---- */

static double member(const json_t *object, const char *key)
{
  const json_t *v = json_object_get(object, key);
  return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static void add_point(struct compared_curve *c, const json_t *line, int64_t last_step)
{
  if (!json_is_object(line) || !(member(line, "step") <= (double)last_step))
    return;
  c->tokens[c->points] = member(line, "tokens");
  c->flops[c->points] = member(line, "flops");
  c->loss[c->points] = member(line, "loss");
  c->accuracy[c->points++] = member(line, "accuracy");
}

static enum status make_curve(size_t lines, struct compared_curve *c)
{
  double **column[] = {&c->tokens, &c->flops, &c->loss, &c->accuracy};
  bool made = true;
  for (int i = 0; i < 4; i++) {
    *column[i] = calloc(lines + 1, sizeof **column[i]);
    made = made && *column[i];
  }
  if (!made)
    FAIL(ERR_MEMORY, "out of memory: %zu lines of metrics", lines);
  return OK;
}

/* Lines that are no JSON are left out: the last may be torn. */
static enum status load_curve(struct compared_run *run)
{
  char path[COMPARE_PATH], *text;
  size_t bytes, lines = 0;
  TRY(path_join(path, sizeof path, run->directory, "metrics.jsonl"));
  if (!path_exists(path))
    return OK;
  TRY(file_read(path, &text, &bytes));
  for (size_t i = 0; i < bytes; i++)
    lines += text[i] == '\n';
  enum status s = make_curve(lines, &run->curve);
  for (char *at = text, *end; s == OK && (end = strchr(at, '\n')); at = end + 1) {
    json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
    add_point(&run->curve, line, run->step);
    json_decref(line);
  }
  free(text);
  return s;
}

enum status compared_run_open(const char *dir, const struct compare_settings *s,
                              struct compared_run *run)
{
  *run = (struct compared_run){0};
  enum status status = find_checkpoint(dir, run);
  if (status == OK)
    status = load_config(s, run);
  if (status == OK)
    status = load_state(run);
  if (status == OK)
    status = load_curve(run);
  if (status != OK)
    compared_run_free(run);
  return status;
}

void compared_run_free(struct compared_run *run)
{
  struct compared_curve *c = &run->curve;
  free(c->tokens), free(c->flops), free(c->loss), free(c->accuracy);
  free(run->jacobian.absolute);
  evaluation_free(&run->evaluation);
  *run = (struct compared_run){0};
}

/* ---- what was measured ---- */

static void exchange_jacobian(struct exchange *x, struct compared_jacobian *j)
{
  exchange_text(x, "missing", j->missing, sizeof j->missing);
  exchange_int(x, "states", &j->states);
  exchange_int(x, "tokens", &j->tokens);
  exchange_double(x, "off_diagonal", &j->off_diagonal);
  exchange_double(x, "within_layers", &j->within_layers);
  exchange_double(x, "radius", &j->radius);
  exchange_int(x, "image", &j->image);
  if (j->image < 0 || j->image > COMPARE_IMAGE) {
    *x->bad = true;
    j->image = 0;
  }
  exchange_new_doubles(x, "absolute", j->image * j->image, &j->absolute);
}

static void exchange_measured(struct exchange *x, struct compared_run *run)
{
  struct exchange evaluation = exchange_object(x, "evaluation");
  exchange_evaluation(&evaluation, true, &run->evaluation);
  struct exchange jacobian = exchange_object(x, "jacobian");
  exchange_jacobian(&jacobian, &run->jacobian);
}

void exchange_run(struct exchange *x, struct compared_run *run)
{
  char kind[16];
  const struct config *c = &run->config;
  (void)snprintf(kind, sizeof kind, "%s", model_kind_name(c->model.kind));
  exchange_text(x, "name", run->config.name, sizeof run->config.name);
  exchange_text(x, "directory", run->directory, sizeof run->directory);
  exchange_text(x, "checkpoint", run->checkpoint, sizeof run->checkpoint);
  exchange_text(x, "kind", kind, sizeof kind);
  exchange_int(x, "seed", &run->config.seed);
  exchange_int(x, "layers", &run->config.model.n_layer);
  exchange_int(x, "training_length", &run->trained.data.length);
  exchange_int(x, "step", &run->step);
  exchange_int(x, "steps", &run->config.train.steps);
  exchange_int(x, "tokens", &run->tokens);
  exchange_double(x, "flops", &run->flops);
  exchange_double(x, "seconds", &run->seconds);
  exchange_double(x, "tokens_per_second", &run->tokens_per_second);
  exchange_double(x, "peak_memory", &run->peak_memory);
  exchange_measured(x, run);
}

/* ---- keeping ---- */

/* FNV-1a */
static uint64_t mix(uint64_t h, const char *bytes, size_t n)
{
  for (size_t i = 0; i < n; i++)
    h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
  return h;
}

static enum status config_text(const struct config *c, char **text, size_t *bytes)
{
  FILE *out = open_memstream(text, bytes);
  if (!out)
    FAIL(ERR_MEMORY, "out of memory");
  enum status s = config_write(c, out);
  if (fclose(out) != 0 && s == OK)
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  if (s != OK)
    free(*text);
  return s;
}

/* The text's fingerprint, and where it is gone that of the one that was trained on. */
static enum status text_now(const struct compared_run *run, int64_t *text)
{
  struct task_data d;
  *text = run->text;
  if (run->config.data.task != TASK_TEXT || !path_exists(run->config.data.path))
    return OK;
  TRY(data_open(&run->config.data, &d));
  *text = data_fingerprint(&d);
  data_close(&d);
  return OK;
}

/* Of the model file and everything that it is evaluated with. */
static enum status key_of(const struct compared_run *run, char key[32])
{
  char path[COMPARE_PATH], *text;
  size_t bytes;
  TRY(path_join(path, sizeof path, run->checkpoint, "model.safetensors"));
  TRY(file_read(path, &text, &bytes));
  uint64_t h = mix(UINT64_C(0xcbf29ce484222325), text, bytes);
  free(text);
  TRY(config_text(&run->config, &text, &bytes));
  h = mix(h, text, bytes);
  free(text);
  int64_t data;
  TRY(text_now(run, &data));
  if (data)
    h = mix(h, (const char *)&data, sizeof data);
  (void)snprintf(key, 32, "%d-%016" PRIx64, MEASURED_VERSION, h);
  return OK;
}

static enum status measured_path(const struct compared_run *run, char *path, size_t size)
{
  return path_join(path, size, run->directory, "measured.json");
}

enum status compared_run_recall(struct compared_run *run, bool *found)
{
  char path[COMPARE_PATH], key[32];
  bool bad = false;
  *found = false;
  TRY(measured_path(run, path, sizeof path));
  TRY(key_of(run, key));
  json_t *root = json_load_file(path, 0, NULL);
  const char *kept = json_string_value(json_object_get(root, "key"));
  if (kept && strcmp(kept, key) == 0) {
    struct exchange x = {root, &bad, true};
    exchange_measured(&x, run);
    *found = run->cached = !bad;
  }
  json_decref(root);
  if (bad) { /* as if it were not there */
    evaluation_free(&run->evaluation);
    free(run->jacobian.absolute);
    run->jacobian = (struct compared_jacobian){0};
  }
  return OK;
}

static enum status keep(struct compared_run *run)
{
  char path[COMPARE_PATH], key[32];
  bool bad = false;
  TRY(measured_path(run, path, sizeof path));
  TRY(key_of(run, key));
  json_t *root = json_object();
  struct exchange x = {root, &bad, false};
  exchange_text(&x, "key", key, sizeof key);
  exchange_measured(&x, run);
  if (bad) {
    json_decref(root);
    FAIL(ERR_MEMORY, "%s: out of memory", path);
  }
  return json_file_write(root, JSON_REAL_PRECISION(17), path);
}

static void say_row(void *to, const struct evaluation_row *r)
{
  progress_show(to, "measuring: %s, length %lld", evaluate_mode_name(r->mode),
                (long long)r->length);
}

enum status compared_run_measure(const struct runtime *rt, struct progress *p,
                                 struct compared_run *run)
{
  struct evaluation_request q = {.closely = true, .say = say_row, .to = p};
  enum status s = evaluate_run(&run->config, rt, run->checkpoint, &q, &run->evaluation);
  progress_clear(p);
  TRY(s);
  TRY(compared_jacobian_take(&run->config, rt, run->checkpoint, &run->jacobian));
  s = keep(run);
  if (s != ERR_IO) /* as of a run that may only be read: it is measured again next time */
    return s;
  (void)fprintf(stderr, "%s: what was measured is not kept\n", last_error());
  return OK;
}
