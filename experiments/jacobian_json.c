/* jacobian_json.c: a verification as JSON; numbers that are not finite become null. */
#include "experiments/json_file.h"
#include "experiments/jacobian_report.h"
#include <math.h>
#include <stdlib.h>

static json_t *number(double x) { return x - x == 0 ? json_real(x) : json_null(); }

static void set(json_t *o, const char *key, double x)
{
  (void)json_object_set_new(o, key, number(x));
}

static void set_int(json_t *o, const char *key, int64_t x)
{
  (void)json_object_set_new(o, key, json_integer(x));
}

static void set_bool(json_t *o, const char *key, bool x)
{
  (void)json_object_set_new(o, key, json_boolean(x));
}

static json_t *numbers(int64_t n, const double *x)
{
  json_t *list = json_array();
  for (int64_t i = 0; i < n; i++)
    (void)json_array_append_new(list, number(x[i]));
  return list;
}

static json_t *tally_of(const struct jacobian_tally *t)
{
  json_t *o = json_object();
  set_int(o, "solves", t->solves);
  set_int(o, "iterations", t->iterations);
  set_int(o, "by_newton", t->by_newton);
  set_int(o, "polish", t->polish);
  set(o, "residual", t->residual);
  return o;
}

static json_t *shape_of(const struct jacobian_shape *s)
{
  json_t *o = json_object();
  set(o, "norm", s->norm);
  set(o, "largest", s->largest);
  set(o, "median", s->median);
  set(o, "off_diagonal", s->off_diagonal);
  set(o, "spectral_radius", s->radius);
  return o;
}

static json_t *pairs_of(const struct verification *v)
{
  json_t *list = json_array();
  for (const struct jacobian_pair *p = v->pair; p < v->pair + JACOBIAN_PAIRS; p++) {
    json_t *o = json_object();
    (void)json_object_set_new(o, "a", json_string(jacobian_way_name(p->a)));
    (void)json_object_set_new(o, "b", json_string(jacobian_way_name(p->b)));
    set(o, "maximum", p->largest);
    set(o, "median", p->median);
    set(o, "relative", p->relative);
    set(o, "tolerance", p->tolerance);
    set_bool(o, "passed", p->passed);
    (void)json_array_append_new(list, o);
  }
  return list;
}

static json_t *sweep_of(const struct verification *v)
{
  json_t *o = json_object();
  set_int(o, "columns", v->sweep_columns);
  set(o, "best_step", v->sweep_step[v->best]);
  (void)json_object_set_new(o, "step", numbers(SWEEP_STEPS, v->sweep_step));
  (void)json_object_set_new(o, "central_error", numbers(SWEEP_STEPS, v->central_error));
  (void)json_object_set_new(o, "richardson_error", numbers(SWEEP_STEPS, v->richardson_error));
  return o;
}

static json_t *product_of(const struct verification *v, const struct jacobian_product *p)
{
  json_t *o = json_object();
  set(o, "log_scale", p->log_scale);
  (void)json_object_set_new(o, "singular_values", numbers(v->size.extent, p->singular));
  (void)json_object_set_new(o, "lyapunov_exponents", numbers(v->exponents, p->exponents));
  return o;
}

static void add_found(const struct verification *v, json_t *o)
{
  set_int(o, "rank", v->rank);
  set(o, "condition", v->condition);
  set(o, "spectral_radius_df_dz", v->f_radius);
  (void)json_object_set_new(o, "finite_differences", tally_of(&v->differences));
  (void)json_object_set_new(o, "adjoint", tally_of(&v->adjoint));
  (void)json_object_set_new(o, "complex_step", tally_of(&v->complex_step));
  (void)json_object_set_new(o, "implicit", shape_of(&v->shape));
  (void)json_object_set_new(o, "explicit", shape_of(&v->explicit_shape));
  (void)json_object_set_new(o, "pairs", pairs_of(v));
  (void)json_object_set_new(o, "sweep", sweep_of(v));
  set(o, "parts_error", v->parts_error);
  set(o, "explicit_off_diagonal", v->explicit_off);
  set(o, "explicit_error", v->explicit_error);
  set_int(o, "memory_bytes", (int64_t)v->memory);
  if (v->tokens == 1)
    return;
  set_int(o, "failed_token", v->failed_token);
  if (v->failed_token >= 0)
    return;
  set(o, "product_error", v->product_error);
  (void)json_object_set_new(o, "implicit_product", product_of(v, &v->implicit_product));
  (void)json_object_set_new(o, "explicit_product", product_of(v, &v->explicit_product));
}

enum status jacobian_write_json(const struct verification *v, const char *path)
{
  json_t *o = json_object();
  (void)json_object_set_new(o, "name", json_string(v->c->name));
  set_int(o, "seed", v->c->seed);
  set_int(o, "d_model", v->size.D);
  set_int(o, "n_layer", v->c->model.n_layer);
  set_int(o, "states", v->size.states);
  set_int(o, "tokens", v->tokens);
  set_bool(o, "converged", v->found);
  set_bool(o, "passed", v->passed);
  (void)json_object_set_new(o, "fixed_point", tally_of(&v->base));
  if (v->found)
    add_found(v, o);
  return json_file_write(o, JSON_REAL_PRECISION(17), path);
}
