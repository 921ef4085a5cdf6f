/* checkpoint.c: config.yaml, model.safetensors, optimizer.safetensors, trainer.json. */
#include "core/checkpoint.h"
#include "core/files.h"

#if REAL_BITS != 128

static enum status fill(const struct config *c, const struct weights *w,
                        const struct trainer_state *s, const char *directory)
{
  char path[RUN_PATH];
  struct named_set model = {"", &w->set[SET_PARAMETERS]};
  struct named_set moments[] = {{"first.", &w->set[SET_MOMENT1]},
                                {"second.", &w->set[SET_MOMENT2]}};
  TRY(config_write_file(c, directory));
  TRY(path_join(path, sizeof path, directory, "model.safetensors"));
  TRY(weights_write(w, path, &model, 1));
  TRY(path_join(path, sizeof path, directory, "optimizer.safetensors"));
  TRY(weights_write(w, path, moments, 2));
  TRY(path_join(path, sizeof path, directory, "trainer.json"));
  return trainer_state_write(path, c, s);
}

enum status checkpoint_write(const struct config *c, const struct weights *w,
                             const struct trainer_state *s, const char *run)
{
  char directory[RUN_PATH];
  TRY(checkpoint_begin(run, directory));
  TRY(fill(c, w, s, directory));
  TRY(checkpoint_commit(run, s->step));
  return checkpoints_prune(run, s->step, c->train.keep, s->best_step);
}

enum status checkpoint_read(const char *directory, struct weights *w, struct trainer_state *s)
{
  char path[RUN_PATH];
  struct named_set model = {"", &w->set[SET_PARAMETERS]};
  struct named_set moments[] = {{"first.", &w->set[SET_MOMENT1]},
                                {"second.", &w->set[SET_MOMENT2]}};
  TRY(path_join(path, sizeof path, directory, "model.safetensors"));
  TRY(weights_read(w, path, &model, 1, false));
  TRY(path_join(path, sizeof path, directory, "optimizer.safetensors"));
  TRY(weights_read(w, path, moments, 2, false));
  TRY(path_join(path, sizeof path, directory, "trainer.json"));
  return trainer_state_read(path, s);
}
#endif
