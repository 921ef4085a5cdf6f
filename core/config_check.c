/* config_check.c: what keys mean together. */
#include "core/config_keys.h"
#include "core/group_name.h"
#include "core/run_directory.h"
#include <float.h>
#include <string.h>

/* Of the keys that a fault is about, the one that was given last; equally late ones in the order of
 * the call.  NULL ends the list. */
static struct origin blame(const struct layer *l, const char *const *paths)
{
  struct origin at = l->root;
  for (; *paths; paths++) {
    int k = key_find(*paths);
    CHECK(k >= 0);
    if (given(l, k) && l->from[k].order > at.order)
      at = l->from[k];
  }
  return at;
}
#define BLAME(l, ...) blame(l, (const char *const[]){__VA_ARGS__, NULL})

static enum status check_required(const struct layer *l)
{
  for (int k = 0; k < keys_count; k++)
    if (!keys[k].fallback && !given(l, k) && key_applies(&keys[k], &l->c))
      FAIL_FROM(l->root, "missing key '%s'", keys[k].path);
  return OK;
}

/* A key of another task is a fault, unless `task` was chosen after it. */
static enum status check_task(const struct layer *l)
{
  int task = key_find("data.task");
  for (int k = 0; k < keys_count; k++)
    if (given(l, k) && !key_applies(&keys[k], &l->c) && l->from[k].order >= l->from[task].order)
      FAIL_FROM(l->from[k], "%s is not a key of data.task: %s", keys[k].path,
                data_task_name(l->c.data.task));
  return OK;
}

static enum status check_name(const struct layer *l)
{
  const char *name = l->c.name;
  if (strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
    FAIL_FROM(BLAME(l, "name"), "name '%s' cannot be that of a directory", name);
  size_t n = strlen(name), tail = strlen(REMOVING);
  if (n >= tail && strcmp(name + n - tail, REMOVING) == 0)
    FAIL_FROM(BLAME(l, "name"), "name '%s': so a run is called while it is removed", name);
  return OK;
}

static enum status check_group(const struct layer *l)
{
  if (l->c.data.task != TASK_WORD_PROBLEM)
    return OK;
  int64_t order;
  enum status s = group_name_order(l->c.data.group, &order);
  if (s != OK)
    return fail_from(BLAME(l, "data.group"), s);
  if (order == 1 && l->c.data.monoid == MONOID_TRIVIAL)
    FAIL_FROM(BLAME(l, "data.group", "data.monoid"),
              "data.group %s has one element: there is nothing to learn", l->c.data.group);
  return OK;
}

static enum status check_ordered(const struct layer *l, double lo, double hi, const char *key,
                                 const char *other)
{
  if (lo > hi)
    FAIL_FROM(BLAME(l, key, other), "%s: %g is larger than %g", key, lo, hi);
  return OK;
}

static enum status check_mamba2(const struct layer *l)
{
#define M2 "model.mamba2."
  const struct mamba2_config *m = &l->c.model.mamba2;
  int64_t E = m->expand * l->c.model.d_model, d_ssm = m->d_ssm ? m->d_ssm : E;
  if (d_ssm > E)
    FAIL_FROM(BLAME(l, M2 "d_ssm", M2 "expand", "model.d_model"),
              M2 "d_ssm %lld is larger than expand * d_model = %lld", (long long)d_ssm,
              (long long)E);
  if (d_ssm % m->headdim)
    FAIL_FROM(BLAME(l, M2 "headdim", M2 "d_ssm", M2 "expand", "model.d_model"),
              M2 "headdim %lld does not divide d_ssm = %lld%s", (long long)m->headdim,
              (long long)d_ssm, m->d_ssm ? "" : " (auto: expand * d_model)");
  if (d_ssm / m->headdim % m->ngroups)
    FAIL_FROM(BLAME(l, M2 "ngroups", M2 "headdim", M2 "d_ssm", M2 "expand", "model.d_model"),
              M2 "ngroups %lld does not divide the %lld heads (d_ssm / headdim)",
              (long long)m->ngroups, (long long)(d_ssm / m->headdim));
  if (m->dt_limit[0] > (double)FLT_MAX)
    FAIL_FROM(BLAME(l, M2 "dt_limit"), M2 "dt_limit: no float32 reaches the lower limit, %g",
              m->dt_limit[0]);
  TRY(check_ordered(l, m->dt_limit[0], m->dt_limit[1], M2 "dt_limit", M2 "dt_limit"));
  TRY(check_ordered(l, m->A_init_range[0], m->A_init_range[1], M2 "A_init_range",
                    M2 "A_init_range"));
  return check_ordered(l, m->dt_min, m->dt_max, M2 "dt_min", M2 "dt_max");
}

/* Differences of less are rounding's. */
static enum status check_regularisation(const struct layer *l)
{
  const struct regularisation_config *r = &l->c.deq.regularisation;
  double floor = l->c.dtype == DTYPE_F32 ? 1e-5 : 1e-12;
  if (r->step > 0 && r->step < floor)
    FAIL_FROM(BLAME(l, "deq.jacobian_regularisation.step", "dtype"),
              "deq.jacobian_regularisation.step %g is too small: in %s rounding drowns differences "
              "of less than about %.2g",
              r->step, dtype_name(l->c.dtype), floor);
  return OK;
}

/* A relative residual |f(z) - z|/|f(z)| carries the rounding of f and of z: a few eps. */
static enum status check_solve(const struct layer *l, const struct fp_options *o,
                               const char *section)
{
  char tol[KEY_PATH], stop[KEY_PATH], min_iter[KEY_PATH], max_iter[KEY_PATH];
  (void)snprintf(tol, sizeof tol, "%s.tol", section);
  (void)snprintf(stop, sizeof stop, "%s.stop", section);
  (void)snprintf(min_iter, sizeof min_iter, "%s.min_iter", section);
  (void)snprintf(max_iter, sizeof max_iter, "%s.max_iter", section);
  double floor = 4 * (l->c.dtype == DTYPE_F32 ? (double)FLT_EPSILON : DBL_EPSILON);
  if (o->stop == FP_REL && o->tol < floor)
    FAIL_FROM(BLAME(l, tol, stop, "dtype"),
              "%s %g is out of reach: in %s rounding keeps a relative residual above about %.2g",
              tol, o->tol, dtype_name(l->c.dtype), floor);
  if (o->min_iter > o->max_iter)
    FAIL_FROM(BLAME(l, min_iter, max_iter), "%s %lld is larger than max_iter %lld", min_iter,
              (long long)o->min_iter, (long long)o->max_iter);
  return OK;
}

static enum status check_lengths(const struct layer *l)
{
  const struct data_config *d = &l->c.data;
  const struct train_config *t = &l->c.train;
  if (d->length_min > d->length)
    FAIL_FROM(BLAME(l, "data.length_min", "data.length"),
              "data.length_min %lld is larger than data.length %lld", (long long)d->length_min,
              (long long)d->length);
  if (t->curriculum_steps && t->curriculum_length > d->length)
    FAIL_FROM(BLAME(l, "train.curriculum_length", "data.length"),
              "train.curriculum_length %lld is larger than data.length %lld",
              (long long)t->curriculum_length, (long long)d->length);
  return OK;
}

static enum status check_jacobian(const struct layer *l)
{
  const struct jacobian_config *j = &l->c.jacobian;
  if (j->transient >= j->tokens)
    FAIL_FROM(BLAME(l, "jacobian.transient", "jacobian.tokens"),
              "jacobian.transient %lld leaves none of jacobian.tokens %lld",
              (long long)j->transient, (long long)j->tokens);
  return OK;
}

/* The iterates that have a loss are those of whole sequences. */
static enum status check_correction(const struct layer *l)
{
  const struct deq_config *d = &l->c.deq;
  if (d->correction.states > 1 &&
      (d->forward.window != FP_WINDOW_ALL || d->forward.solver == FP_AUTO))
    FAIL_FROM(BLAME(l, "deq.correction.states", "deq.forward.window", "deq.forward.solver"),
              "deq.correction.states %lld: needs deq.forward.window all and a solver that is not "
              "auto, as its states are iterates of whole sequences",
              (long long)d->correction.states);
  return OK;
}

enum status config_check(const struct layer *l)
{
  const struct deq_config *d = &l->c.deq;
  TRY(check_required(l));
  TRY(check_task(l));
  TRY(check_name(l));
  TRY(check_group(l));
  TRY(check_mamba2(l));
  TRY(check_lengths(l));
  TRY(check_correction(l));
  TRY(check_jacobian(l));
  TRY(check_regularisation(l));
  TRY(check_solve(l, &d->forward, "deq.forward"));
  TRY(check_solve(l, &d->backward, "deq.backward"));
  TRY(check_solve(l, &d->evaluate, "deq.evaluate"));
  if (d->forward.solver == FP_GMRES || d->evaluate.solver == FP_GMRES)
    FAIL_FROM(BLAME(l, "deq.evaluate.solver", "deq.forward.solver"),
              "solver gmres is for linear equations: for deq.backward, not for %s",
              d->forward.solver == FP_GMRES ? "deq.forward" : "deq.evaluate");
  return OK;
}
