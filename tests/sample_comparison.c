/* sample_comparison.c: see sample_comparison.h.  Smooth functions stand for measurements, with a
 * little noise that depends on the seed alone. */
#include "tests/sample_comparison.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTHS = 5, GROUPS = 4, POINTS = 90, STATES = 96, TRAINED = 16, LONGEST = 256 };

static double *doubles(int64_t n)
{
  double *x = malloc((size_t)n * sizeof *x);
  assert_non_null(x);
  return x;
}

static double noise(uint64_t *state)
{
  *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
  return (double)(*state >> 40) / (double)(1 << 24) - 0.5;
}

static void sample_curve(struct compared_run *r, double ability, uint64_t *state)
{
  struct compared_curve *c = &r->curve;
  bool implicit = r->config.model.kind == MODEL_IMPLICIT;
  *c = (struct compared_curve){POINTS, doubles(POINTS), doubles(POINTS), doubles(POINTS),
                               doubles(POINTS)};
  double flops = 0;
  for (int i = 0; i < POINTS; i++) {
    bool solved = implicit && i > 40;
    flops += 10 * 1024 * 3e5 * (solved ? 20 : implicit ? 8 : 3 * (double)r->config.model.n_layer);
    c->tokens[i] = 10 * 1024 * (double)(i + 1);
    c->flops[i] = flops;
    c->loss[i] = 1.79 * exp(-ability * 9 * i / POINTS) * exp(0.6 * noise(state)) + 1e-3;
    c->accuracy[i] = 1 - c->loss[i] / 2;
  }
  r->tokens = (int64_t)c->tokens[POINTS - 1];
  r->flops = flops;
}

static void sample_rows(struct compared_run *r, double ability, uint64_t *state)
{
  struct evaluation *e = &r->evaluation;
  e->lengths_count = LENGTHS;
  for (int mode = 0; mode < MODES; mode++)
    for (int i = 0; i < LENGTHS; i++) {
      struct evaluation_row *row = &e->row[mode][i];
      double length = TRAINED << i, fall = (1 - ability) * 3 + 0.02 + 0.02 * noise(state);
      double accuracy = 1. / 6 + 5. / 6 / (1 + pow(length * fall / 20, 2));
      bool implicit = e->kind == MODEL_IMPLICIT;
      *row = (struct evaluation_row){.mode = (enum evaluate_mode)mode, .sequences = 256};
      row->length = (int64_t)length;
      row->loss = 2 * (1 - accuracy);
      row->accuracy = row->accuracy_last10 = accuracy;
      row->accuracy_group = row->accuracy_monoid = accuracy;
      row->all_correct = pow(accuracy, 10);
      row->accuracy_interval = row->last10_interval = row->all_correct_interval =
          (struct interval){accuracy - 0.03 * (1 - accuracy) - 0.002, fmin(1, accuracy + 0.02)};
      row->solve = (struct solve_summary){.iterations_mean = (double)NAN,
                                          .iterations_p95 = (double)NAN,
                                          .residual_mean = (double)NAN,
                                          .residual_max = (double)NAN,
                                          .converged = (double)NAN};
      if (implicit)
        row->solve = (struct solve_summary){256,
                                            mode ? 2 * row->length : 14,
                                            mode ? 1.2 * length : 6.5 + noise(state),
                                            mode ? 1.4 * length : 9,
                                            4e-3,
                                            9.9e-3,
                                            1};
      row->seconds = 1 + 0.01 * length;
      e->agreement[i] = implicit ? 0.9998 : 1;
    }
  e->decode_tokens_per_second = e->kind == MODEL_IMPLICIT ? 1830.4 : 9120.7;
}

static void sample_detail(struct compared_run *r, double ability, uint64_t *state)
{
  for (int mode = 0; mode < MODES; mode++) {
    struct evaluation_detail *d = &r->evaluation.detail[mode];
    d->length = LONGEST;
    d->sequences = 256;
    d->accuracy = doubles(LONGEST);
    for (int i = 0; i < LONGEST; i++)
      d->accuracy[i] =
          1. / 6 + 5. / 6 / (1 + pow((1 - ability) * i / 6., 2)) * (1 + 0.01 * noise(state));
    d->types = 2;
    for (int k = 0; k < 2; k++) {
      d->type[k].name = k ? "hard" : "identity";
      d->type[k].tokens = k ? 50000 : 15536;
      d->type[k].accuracy = d->accuracy[LONGEST - 1];
      if (r->evaluation.kind == MODEL_IMPLICIT && mode == MODE_SEQUENTIAL)
        d->type[k].solve = (struct solve_summary){50000, 14, 4.5 + 2 * k, 7 + 2 * k, 4e-3, 9e-3, 1};
    }
    if (r->evaluation.kind == MODEL_EXPLICIT || mode == MODE_SIMULTANEOUS)
      continue;
    d->iterations = doubles(LONGEST), d->iterations_p95 = doubles(LONGEST);
    d->residual = doubles(LONGEST);
    for (int i = 0; i < LONGEST; i++) {
      d->iterations[i] = 6.5 + 0.4 * noise(state) + (i < 3 ? 2 : 0);
      d->iterations_p95[i] = 9 + (noise(state) > 0.3);
      d->residual[i] = 4e-3 * exp(0.2 * noise(state));
    }
    d->bins = 40;
    d->histogram = calloc(40, sizeof *d->histogram);
    assert_non_null(d->histogram);
    for (int i = 3; i < 15; i++)
      d->histogram[i] = (int64_t)(20000 * exp(-pow(i - 6.3, 2) / 4));
    d->histogram[30] = 5;
  }
}

static void sample_solves(struct compared_run *r, double ability)
{
  if (r->evaluation.kind == MODEL_EXPLICIT)
    return;
  for (int mode = 0; mode < MODES; mode++) {
    struct evaluation_knob *q = &r->evaluation.knob[mode];
    q->length = LONGEST, q->sequences = 64, q->count = mode ? 10 : 6;
    for (int i = 0; i < q->count; i++) {
      double need = mode ? 1.2 * LONGEST : 6, have = 1 << i;
      q->max_iter[i] = 1 << i;
      q->accuracy[i] = q->accuracy_last10[i] =
          1. / 6 + (ability - 1. / 6) / (1 + pow(need / have / 1.5, 6));
      q->loss[i] = 2 - 2 * q->accuracy[i];
      q->converged[i] = fmin(1, have / need);
    }
    for (int i = 0; i < TRACED_SOLVERS; i++) {
      struct evaluation_trace *t = &r->evaluation.trace[mode][i];
      t->solver = (enum fp_solver)i, t->length = LONGEST, t->samples = 100, t->count = TRACE_MAX;
      for (int k = 0; k < TRACE_MAX; k++) {
        double rate = mode ? 0.02 : i ? 0.9 : 0.5;
        t->median[k] = fmax(1e-7, exp(-rate * k));
        t->p95[k] = fmax(2e-7, 3 * exp(-0.8 * rate * k));
      }
    }
  }
}

static void sample_jacobian(struct compared_run *r, uint64_t *state)
{
  struct compared_jacobian *j = &r->jacobian;
  bool implicit = r->evaluation.kind == MODEL_IMPLICIT;
  *j = (struct compared_jacobian){.states = 2 * STATES, .tokens = 4, .image = STATES};
  j->off_diagonal = j->within_layers = implicit ? 0.132 : 0;
  j->radius = implicit ? 0.83 : 0.94;
  j->absolute = doubles(STATES * STATES);
  for (int i = 0; i < STATES * STATES; i++) {
    bool diagonal = i % (STATES + 1) == 0;
    double entry = pow(10, -2 + 3 * noise(state));
    j->absolute[i] = diagonal ? 0.5 + 0.4 * noise(state) : implicit ? entry : 0;
  }
}

static void sample_run(struct compared_run *r, const char *name, int group, int64_t seed)
{
  static const double ability[GROUPS] = {0.999, 0.2, 0.55, 0.8};
  static const int64_t layers[GROUPS] = {1, 1, 2, 4};
  uint64_t state = (uint64_t)(100 * group + seed);
  char yaml[1024];
  int n = snprintf(yaml, sizeof yaml,
                   "name: r\nseed: %lld\nmodel: {kind: %s, n_layer: %lld}\n"
                   "data: {task: word_problem, group: S3, length: 16}\n",
                   (long long)seed, group ? "explicit" : "implicit", (long long)layers[group]);
  check_ok(config_parse("sample", yaml, (size_t)n, &r->config));
  (void)snprintf(r->config.name, sizeof r->config.name, "%s-%lld", name, (long long)seed);
  (void)snprintf(r->directory, sizeof r->directory, "runs/%s", r->config.name);
  (void)snprintf(r->checkpoint, sizeof r->checkpoint, "runs/%s/latest", r->config.name);
  r->config.model.vocab_size = 6;
  r->step = r->config.train.steps;
  r->evaluation.kind = r->config.model.kind;
  r->evaluation.parameters = 36000 + 30000 * layers[group];
  r->seconds = group ? 9.5 + (double)group * 5 : 62.5;
  sample_curve(r, ability[group], &state);
  r->tokens_per_second = (double)r->tokens / r->seconds;
  r->peak_memory = 4.2e7 + 1e7 * group;
  sample_rows(r, ability[group] - 0.02 * (double)seed * (group != 0), &state);
  sample_detail(r, ability[group], &state);
  sample_solves(r, ability[group]);
  sample_jacobian(r, &state);
}

static void sample_section(struct compared_section *s, int64_t index, int64_t seeds,
                           const char *label)
{
  const char *const labels[GROUPS] = {label, "explicit, 1 layer", "explicit, 2 layers",
                                      "explicit, 4 layers"};
  (void)snprintf(s->name, sizeof s->name, "S%lld", (long long)index + 3);
  (void)snprintf(s->data, sizeof s->data, "word problem %s", s->name);
  s->lengths_count = LENGTHS;
  for (int i = 0; i < LENGTHS; i++)
    s->lengths[i] = TRAINED << i;
  s->sequences = 256;
  s->groups = GROUPS;
  s->runs = GROUPS * seeds;
  s->run = calloc((size_t)s->runs, sizeof *s->run);
  s->group = calloc(GROUPS, sizeof *s->group);
  assert_true(s->run && s->group);
  for (int g = 0; g < GROUPS; g++) {
    struct compared_group *group = &s->group[g];
    (void)snprintf(group->label, sizeof group->label, "%s", labels[g]);
    (void)snprintf(group->differs, sizeof group->differs, "model.kind: %s, model.n_layer: %d",
                   g ? "explicit" : "implicit", g < 2 ? 1 : 2 * (g - 1));
    group->count = seeds;
    group->run = calloc((size_t)seeds, sizeof *group->run);
    assert_non_null(group->run);
    for (int64_t k = 0; k < seeds; k++) {
      sample_run(&s->run[g * seeds + k], labels[g], g, k);
      group->run[k] = &s->run[g * seeds + k];
    }
  }
}

void sample_comparison_make(struct comparison *c, int64_t sections, int64_t seeds,
                            const char *label)
{
  *c = (struct comparison){.title = "Sample",
                           .machine = "a machine of 2 cores",
                           .date = "2026-11-22",
                           .sections = sections};
  c->section = calloc((size_t)sections, sizeof *c->section);
  assert_non_null(c->section);
  for (int64_t i = 0; i < sections; i++)
    sample_section(&c->section[i], i, seeds, label);
}

static void free_run(struct compared_run *r)
{
  struct compared_curve *c = &r->curve;
  free(c->tokens), free(c->flops), free(c->loss), free(c->accuracy);
  free(r->jacobian.absolute);
  for (int mode = 0; mode < MODES; mode++) {
    struct evaluation_detail *d = &r->evaluation.detail[mode];
    free(d->accuracy), free(d->iterations), free(d->iterations_p95), free(d->residual);
    free(d->histogram);
  }
}

void sample_comparison_free(struct comparison *c)
{
  for (int64_t i = 0; i < c->sections; i++) {
    struct compared_section *s = &c->section[i];
    for (int64_t r = 0; r < s->runs; r++)
      free_run(&s->run[r]);
    for (int64_t g = 0; g < s->groups; g++)
      free(s->group[g].run);
    free(s->run), free(s->group);
  }
  free(c->section);
}
