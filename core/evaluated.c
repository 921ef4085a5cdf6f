/* evaluated.c: see evaluated.h. */
#include "core/evaluated.h"
#include "core/operations.h"
#include "core/statistics.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum status evaluated_make(int64_t sequences, int64_t length, struct evaluated *e)
{
  size_t n = (size_t)(sequences * length);
  *e = (struct evaluated){.sequences = sequences, .length = length};
  e->tokens = calloc(3 * n, sizeof *e->tokens);
  e->iterations = calloc(n, sizeof *e->iterations);
  e->residual = calloc(n, sizeof *e->residual);
  e->exit = calloc(n, sizeof *e->exit);
  if (!e->tokens || !e->iterations || !e->residual || !e->exit) {
    evaluated_free(e);
    FAIL(ERR_MEMORY, "out of memory for %zu tokens", n);
  }
  e->labels = e->tokens + n;
  e->got = e->labels + n;
  return OK;
}

void evaluated_free(struct evaluated *e)
{
  free(e->tokens), free(e->iterations), free(e->residual), free(e->exit);
  *e = (struct evaluated){0};
}

void evaluation_free(struct evaluation *e)
{
  for (int m = 0; m < MODES; m++) {
    struct evaluation_detail *d = &e->detail[m];
    free(d->accuracy), free(d->iterations), free(d->iterations_p95), free(d->residual);
    free(d->histogram);
    *d = (struct evaluation_detail){0};
  }
}

enum status evaluation_check_finite(const struct evaluation *e)
{
  for (int m = 0; m < MODES; m++)
    for (int64_t i = 0; i < e->lengths_count; i++) {
      const struct evaluation_row *r = &e->row[m][i];
      bool solved = !r->solve.samples || !isnan(r->solve.residual_max);
      if (!isfinite(r->loss) || !solved)
        FAIL(ERR_NUMERIC, "%s, length %lld: the %s not finite", evaluate_mode_name(r->mode),
             (long long)r->length, solved ? "loss is" : "solves were");
    }
  return OK;
}

/* ---- solves ---- */

/* Which samples: all, those at a position, or those of a type. */
struct selection {
  int64_t position; /* -1: any */
  int type;         /* -1: any */
};
static const struct selection everything = {-1, -1};

static int type_of(const struct evaluated *e, int64_t i)
{
  return e->tokens[i] / e->monoid == 0 ? 0 : 1;
}

/* Iterations and residuals of the samples selected, in `work` and behind it; how many there are. */
static int64_t select_samples(const struct evaluated *e, struct selection s, double *work,
                              struct solve_summary *sum)
{
  int64_t samples = e->by_token ? e->sequences * e->length : e->sequences, n = 0, converged = 0;
  double iterations = 0, residual = 0;
  int64_t first = s.position >= 0 ? s.position : 0, step = s.position >= 0 ? e->length : 1;
  *sum = (struct solve_summary){0};
  for (int64_t i = first; i < samples; i += step) {
    if (e->exit[i] == FP_RUNNING || (s.type >= 0 && type_of(e, i) != s.type))
      continue;
    work[n++] = e->iterations[i];
    iterations += e->iterations[i];
    residual += e->residual[i];
    converged += e->exit[i] == FP_CONVERGED;
    sum->residual_max = worse_of(sum->residual_max, e->residual[i]);
    if (e->iterations[i] > sum->iterations_max)
      sum->iterations_max = e->iterations[i];
  }
  sum->samples = n;
  sum->iterations_mean = iterations / (double)n;
  sum->residual_mean = residual / (double)n;
  sum->converged = (double)converged / (double)n;
  return n;
}

/* work: (sequences*length) */
static struct solve_summary summarise(const struct evaluated *e, struct selection s, double *work)
{
  struct solve_summary sum = {0};
  int64_t n = e->solved && (e->by_token || (s.position < 0 && s.type < 0))
                  ? select_samples(e, s, work, &sum)
                  : 0;
  sum.iterations_p95 = quantile(n, work, 0.95);
  if (n == 0)
    sum.iterations_mean = sum.residual_mean = sum.residual_max = sum.converged = (double)NAN;
  return sum;
}

static enum status make_work(const struct evaluated *e, double **work)
{
  *work = malloc((size_t)(e->sequences * e->length) * sizeof **work);
  if (!*work)
    FAIL(ERR_MEMORY, "out of memory");
  return OK;
}

/* ---- rows ---- */

struct counts {
  int64_t labels, correct, group, monoid;
};

static void count_tokens(const struct evaluated *e, int64_t first, int64_t count, struct counts *c)
{
  for (int64_t i = first; i < first + count; i++) {
    int32_t got = e->got[i], want = e->labels[i];
    if (want == IGNORED_LABEL)
      continue;
    c->labels++;
    c->correct += got == want;
    if (e->monoid && got >= 0) {
      c->group += got / e->monoid == want / e->monoid;
      c->monoid += got % e->monoid == want % e->monoid;
    }
  }
}

static double share(int64_t of, int64_t all) { return all ? (double)of / (double)all : 0; }

/* The interval over the last `last` tokens of every sequence; counts of those in *c. */
static struct interval over_sequences(const struct evaluated *e, int64_t last, int64_t *right,
                                      struct counts *c)
{
  *c = (struct counts){0};
  for (int64_t s = 0; s < e->sequences; s++) {
    int64_t before = c->correct;
    count_tokens(e, s * e->length + e->length - last, last, c);
    right[s] = c->correct - before;
  }
  return share_interval(e->sequences, right, last);
}

enum status evaluated_row(const struct evaluated *e, struct evaluation_row *row)
{
  struct counts c;
  double *work;
  int64_t last = e->length < EVALUATION_LAST ? e->length : EVALUATION_LAST, whole = 0;
  int64_t *right = malloc((size_t)e->sequences * sizeof *right);
  if (!right)
    FAIL(ERR_MEMORY, "out of memory");
  *row = (struct evaluation_row){
      .mode = e->mode, .length = e->length, .sequences = e->sequences, .seconds = e->seconds};
  row->last10_interval = over_sequences(e, last, right, &c);
  row->accuracy_last10 = share(c.correct, c.labels);
  row->accuracy_interval = over_sequences(e, e->length, right, &c);
  row->accuracy = share(c.correct, c.labels);
  row->accuracy_group = share(c.group, c.labels);
  row->accuracy_monoid = share(c.monoid, c.labels);
  row->loss = e->loss / (double)(c.labels ? c.labels : 1);
  for (int64_t s = 0; s < e->sequences; s++)
    whole += right[s] == e->length;
  free(right);
  row->all_correct = share(whole, e->sequences);
  row->all_correct_interval = wilson_interval(row->all_correct, (double)e->sequences);
  row->block_evaluations = e->block_evaluations;
  row->serial_iterations = e->serial_iterations;
  TRY(make_work(e, &work));
  row->solve = summarise(e, everything, work);
  free(work);
  return OK;
}

/* ---- details ---- */

static enum status make_detail(const struct evaluated *e, struct evaluation_detail *d)
{
  size_t n = (size_t)e->length;
  int64_t samples = e->by_token ? e->sequences * e->length : e->sequences, most = -1;
  for (int64_t i = 0; e->solved && i < samples; i++)
    most = e->iterations[i] > most ? e->iterations[i] : most;
  *d = (struct evaluation_detail){.length = e->length, .sequences = e->sequences, .bins = most + 1};
  d->accuracy = calloc(n, sizeof *d->accuracy);
  d->histogram = calloc((size_t)d->bins + 1, sizeof *d->histogram);
  bool made = d->accuracy && d->histogram;
  if (e->solved && e->by_token) {
    d->iterations = calloc(n, sizeof *d->iterations);
    d->iterations_p95 = calloc(n, sizeof *d->iterations_p95);
    d->residual = calloc(n, sizeof *d->residual);
    made = made && d->iterations && d->iterations_p95 && d->residual;
  }
  if (!made)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; e->solved && i < samples; i++)
    d->histogram[e->iterations[i]]++;
  return OK;
}

static void by_position(const struct evaluated *e, double *work, struct evaluation_detail *d)
{
  for (int64_t t = 0; t < e->length; t++) {
    struct counts c = {0};
    for (int64_t s = 0; s < e->sequences; s++)
      count_tokens(e, s * e->length + t, 1, &c);
    d->accuracy[t] = share(c.correct, c.labels);
    if (!d->iterations)
      continue;
    struct solve_summary sum = summarise(e, (struct selection){t, -1}, work);
    d->iterations[t] = sum.iterations_mean;
    d->iterations_p95[t] = sum.iterations_p95;
    d->residual[t] = sum.residual_mean;
  }
}

static void by_type(const struct evaluated *e, double *work, struct evaluation_detail *d)
{
  static const char *const names[TOKEN_TYPES] = {"identity", "hard"};
  struct counts c[TOKEN_TYPES] = {{0}};
  for (int64_t i = 0; i < e->sequences * e->length; i++)
    count_tokens(e, i, 1, &c[type_of(e, i)]);
  d->types = TOKEN_TYPES;
  for (int k = 0; k < TOKEN_TYPES; k++) {
    d->type[k].name = names[k];
    d->type[k].tokens = c[k].labels;
    d->type[k].accuracy = c[k].labels ? share(c[k].correct, c[k].labels) : (double)NAN;
    d->type[k].solve = summarise(e, (struct selection){-1, k}, work);
  }
}

enum status evaluated_detail(const struct evaluated *e, struct evaluation_detail *d)
{
  double *work;
  TRY(make_work(e, &work));
  enum status s = make_detail(e, d);
  if (s == OK) {
    by_position(e, work, d);
    if (e->monoid)
      by_type(e, work, d);
  }
  free(work);
  return s;
}

double evaluated_agreement(const struct evaluated *a, const struct evaluated *b)
{
  int64_t n = a->sequences * a->length, equal = 0;
  CHECK(b->sequences == a->sequences && b->length == a->length);
  for (int64_t i = 0; i < n; i++)
    equal += a->got[i] == b->got[i] && a->got[i] >= 0;
  return share(equal, n);
}
