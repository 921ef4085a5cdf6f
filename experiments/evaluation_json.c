/* evaluation_json.c: see evaluation_json.h. */
#include "experiments/evaluation_json.h"
#include "core/data.h"
#include <math.h>
#include <string.h>

static void exchange_interval(struct exchange *x, const char *key, struct interval *i)
{
  double both[2] = {i->low, i->high};
  exchange_doubles(x, key, 2, both);
  *i = (struct interval){both[0], both[1]};
}

/* As a double, so that no solves are null. */
static void exchange_count(struct exchange *x, const char *key, bool known, int64_t *value)
{
  double v = known ? (double)*value : (double)NAN;
  exchange_double(x, key, &v);
  if (x->reading)
    *value = isfinite(v) ? (int64_t)v : 0;
}

static void exchange_solve(struct exchange *x, struct solve_summary *s)
{
  exchange_int(x, "samples", &s->samples);
  exchange_double(x, "iterations_mean", &s->iterations_mean);
  exchange_double(x, "iterations_p95", &s->iterations_p95);
  exchange_count(x, "iterations_max", s->samples > 0, &s->iterations_max);
  exchange_double(x, "residual_mean", &s->residual_mean);
  exchange_double(x, "residual_max", &s->residual_max);
  exchange_double(x, "converged", &s->converged);
}

static void exchange_row(struct exchange *x, bool text, struct evaluation_row *r)
{
  exchange_int(x, "length", &r->length);
  exchange_int(x, "sequences", &r->sequences);
  exchange_double(x, "loss", &r->loss);
  double bits = data_bits(r->loss);
  if (text)
    exchange_double(x, "bits_per_byte", &bits);
  exchange_double(x, "accuracy", &r->accuracy);
  exchange_interval(x, "accuracy_interval", &r->accuracy_interval);
  exchange_double(x, "accuracy_last10", &r->accuracy_last10);
  exchange_interval(x, "accuracy_last10_interval", &r->last10_interval);
  if (!text) {
    exchange_double(x, "accuracy_group", &r->accuracy_group);
    exchange_double(x, "accuracy_monoid", &r->accuracy_monoid);
  }
  exchange_double(x, "all_correct", &r->all_correct);
  exchange_interval(x, "all_correct_interval", &r->all_correct_interval);
  exchange_solve(x, &r->solve);
  bool solved = r->solve.samples > 0;
  double tokens = (double)(r->sequences * r->length);
  double per_token = solved ? (double)r->block_evaluations / tokens : (double)NAN;
  exchange_double(x, "evaluations_per_token", &per_token);
  if (x->reading && solved)
    r->block_evaluations = (int64_t)(per_token * tokens + 0.5);
  exchange_count(x, "serial_iterations", solved, &r->serial_iterations);
  exchange_double(x, "seconds", &r->seconds);
}

static void exchange_detail(struct exchange *x, struct evaluation_detail *d)
{
  static const char *const names[TOKEN_TYPES] = {"identity", "hard"};
  exchange_int(x, "length", &d->length);
  exchange_int(x, "sequences", &d->sequences);
  exchange_new_doubles(x, "accuracy_by_position", d->length, &d->accuracy);
  exchange_new_doubles(x, "iterations_by_position", d->length, &d->iterations);
  exchange_new_doubles(x, "iterations_p95_by_position", d->length, &d->iterations_p95);
  exchange_new_doubles(x, "residual_by_position", d->length, &d->residual);
  exchange_int(x, "bins", &d->bins);
  exchange_new_ints(x, "iterations_histogram", d->bins, &d->histogram);
  struct exchange list = exchange_list(x, "token_types", &d->types, TOKEN_TYPES);
  for (int64_t i = 0; i < d->types; i++) {
    struct exchange item = exchange_item(&list, i);
    int name = d->type[i].name && !strcmp(d->type[i].name, names[1]);
    exchange_word(&item, "name", names, TOKEN_TYPES, &name);
    d->type[i].name = names[name];
    exchange_int(&item, "tokens", &d->type[i].tokens);
    exchange_double(&item, "accuracy", &d->type[i].accuracy);
    exchange_solve(&item, &d->type[i].solve);
  }
}

static void exchange_knob(struct exchange *x, struct evaluation_knob *k)
{
  exchange_int(x, "length", &k->length);
  exchange_int(x, "sequences", &k->sequences);
  struct exchange list = exchange_list(x, "points", &k->count, KNOB_MAX);
  for (int64_t i = 0; i < k->count; i++) {
    struct exchange item = exchange_item(&list, i);
    exchange_int(&item, "max_iter", &k->max_iter[i]);
    exchange_double(&item, "loss", &k->loss[i]);
    exchange_double(&item, "accuracy", &k->accuracy[i]);
    exchange_double(&item, "accuracy_last10", &k->accuracy_last10[i]);
    exchange_double(&item, "converged", &k->converged[i]);
  }
}

static void exchange_trace(struct exchange *x, struct evaluation_trace *t)
{
  static const char *const solvers[] = {"picard", "anderson", "broyden"};
  int solver = (int)t->solver;
  exchange_word(x, "solver", solvers, TRACED_SOLVERS, &solver);
  t->solver = (enum fp_solver)solver;
  exchange_int(x, "length", &t->length);
  exchange_int(x, "samples", &t->samples);
  exchange_int(x, "count", &t->count);
  if (t->count < 0 || t->count > TRACE_MAX) {
    *x->bad = true;
    t->count = 0;
  }
  exchange_doubles(x, "residual_median", t->count, t->median);
  exchange_doubles(x, "residual_p95", t->count, t->p95);
}

static void exchange_closely(struct exchange *x, struct evaluation *e)
{
  exchange_double(x, "decode_tokens_per_second", &e->decode_tokens_per_second);
  for (int m = 0; m < MODES; m++) {
    struct exchange mode = exchange_object(x, evaluate_mode_name((enum evaluate_mode)m));
    struct exchange detail = exchange_object(&mode, "detail");
    struct exchange knob = exchange_object(&mode, "allowed_iterations");
    exchange_detail(&detail, &e->detail[m]);
    exchange_knob(&knob, &e->knob[m]);
    int64_t traces = TRACED_SOLVERS;
    struct exchange list = exchange_list(&mode, "solvers", &traces, TRACED_SOLVERS);
    for (int64_t i = 0; i < traces; i++) {
      struct exchange item = exchange_item(&list, i);
      exchange_trace(&item, &e->trace[m][i]);
    }
  }
}

void exchange_evaluation(struct exchange *x, bool closely, struct evaluation *e)
{
  static const char *const kinds[] = {"implicit", "explicit"};
  int kind = (int)e->kind;
  exchange_word(x, "kind", kinds, 2, &kind);
  e->kind = (enum model_kind)kind;
  static const char *const tasks[] = {"word_problem", "text"};
  int task = (int)e->task;
  exchange_word(x, "task", tasks, 2, &task);
  e->task = (enum data_task)task;
  exchange_int(x, "parameters", &e->parameters);
  struct exchange modes = exchange_object(x, "modes");
  for (int m = 0; m < MODES; m++) {
    struct exchange list = exchange_list(&modes, evaluate_mode_name((enum evaluate_mode)m),
                                         &e->lengths_count, CONFIG_LENGTHS);
    for (int64_t i = 0; i < e->lengths_count; i++) {
      struct exchange item = exchange_item(&list, i);
      e->row[m][i].mode = (enum evaluate_mode)m;
      exchange_row(&item, e->task == TASK_TEXT, &e->row[m][i]);
    }
  }
  exchange_doubles(x, "agreement", e->lengths_count, e->agreement);
  if (!closely)
    return;
  struct exchange more = exchange_object(x, "closely");
  exchange_closely(&more, e);
}
