/* run.c: the precision-free front of training and evaluation. */
#include "core/run.h"
#include "core/data.h"
#include "core/decode.h"
#include "core/files.h"
#include "core/profile.h"
#include "core/training.h"
#include <string.h>

enum status train_run(const struct config *c, const struct runtime *rt,
                      const struct train_options *o)
{
  return c->dtype == DTYPE_F32 ? train_f32(c, rt->f32, rt->solver_f32, o)
                               : train_f64(c, rt->f64, rt->solver_f64, o);
}

struct fp_options evaluate_solve(const struct config *c, enum evaluate_mode mode, int64_t length)
{
  struct fp_options o = c->deq.evaluate;
  /* a window that was given takes the sequential mode's place */
  if (mode == MODE_SIMULTANEOUS)
    return fp_simultaneous(&o);
  if (o.window == FP_WINDOW_ALL)
    o.window = 1;
  return fp_choose(&o, length);
}

enum status evaluate_run(const struct config *c, const struct runtime *rt, const char *dir,
                         const struct evaluation_request *q, struct evaluation *e)
{
  enum status s = c->dtype == DTYPE_F32 ? measure_f32(c, rt->f32, rt->solver_f32, dir, q, e)
                                        : measure_f64(c, rt->f64, rt->solver_f64, dir, q, e);
  if (s != OK)
    evaluation_free(e);
  return s;
}

enum status evaluate_given(const struct config *c, const struct runtime *rt, const char *dir,
                           const struct given_request *o)
{
  return c->dtype == DTYPE_F32 ? evaluate_f32(c, rt->f32, rt->solver_f32, dir, o)
                               : evaluate_f64(c, rt->f64, rt->solver_f64, dir, o);
}

enum status train_timed(const struct config *c, const struct runtime *rt, struct train_timing *t)
{
  if (t->profile)
    *t->profile = (struct profile){.real = rt};
  return c->dtype == DTYPE_F32 ? train_timed_f32(c, rt->f32, rt->solver_f32, t)
                               : train_timed_f64(c, rt->f64, rt->solver_f64, t);
}

enum status train_memory(const struct config *c, const struct runtime *rt, struct train_memory *m)
{
  return c->dtype == DTYPE_F32 ? train_memory_f32(c, rt->f32, rt->solver_f32, m)
                               : train_memory_f64(c, rt->f64, rt->solver_f64, m);
}

enum status decode_timed(const struct config *c, const struct runtime *rt, struct decode_timing *t)
{
  return c->dtype == DTYPE_F32 ? decode_timed_f32(c, rt->f32, rt->solver_f32, t)
                               : decode_timed_f64(c, rt->f64, rt->solver_f64, t);
}

enum status run_directory(const struct config *c, char *out, size_t size)
{
  return path_join(out, size, c->runs_dir, c->name);
}

enum status checkpoint_resolve(const char *dir, char *out, size_t size)
{
  char path[2 * CONFIG_PATH];
  if (!path_is_directory(dir))
    FAIL(ERR_IO, "%s: %s", dir,
         path_exists(dir) ? "a file; a run's directory, or a checkpoint's, is needed"
                          : "no such directory");
  TRY(path_join(path, sizeof path, dir, "model.safetensors"));
  if (path_exists(path))
    return path_join(out, size, dir, "");
  TRY(path_join(out, size, dir, "latest"));
  if (!path_is_directory(out))
    FAIL(ERR_DATA, "%s: neither a checkpoint (model.safetensors) nor a run with one (latest)", dir);
  return OK;
}

enum status config_resolve(struct config *c)
{
  return data_vocabulary(&c->data, &c->model.vocab_size);
}
