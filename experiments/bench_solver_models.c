/* bench_solver_models.c: trained implicit models: evaluations of f a token, serial iterations
 * (calls of f, one behind the other) and time to a tolerance, by solver and window, for sequences
 * of the model's task.  The embeddings and the output are not part of it. */
#include "core/files.h"
#include "experiments/bench_solvers.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOLERANCES = 2, PRECISIONS = 2 };
enum { ROUNDS = 11, OF_ALL = 3 }; /* after OF_ALL rounds only contenders are timed again */
enum { SOLVERS = 3, WINDOWS = 5, METHODS = SOLVERS * WINDOWS + 1, AUTO = METHODS - 1 };
/* Of each run, unless the overrides say otherwise. */
static const char *const defaults[] = {"evaluate.lengths=[128,256]", "evaluate.sequences=8"};
static const double tolerances[TOLERANCES] = {1e-2, 1e-6};
static const enum fp_solver solvers[SOLVERS] = {FP_PICARD, FP_ANDERSON, FP_BROYDEN};
static const int64_t windows[WINDOWS] = {1, 4, 8, 16, FP_WINDOW_ALL};
static const double slow = 1;     /* seconds of a solve that is timed once */
static const double contends = 2; /* a contender's time over the fastest's, at most */

struct cell {
  double evaluations, serial; /* a token; calls */
  double ms;                  /* a solve of all sequences, the fastest of the rounds */
  double converged;           /* a fraction of the samples */
};
struct column {
  struct cell cell[METHODS];
  char chosen[FP_DESCRIPTION]; /* by auto */
};
/* Of one run. */
struct model_columns {
  char name[CONFIG_WORD];
  struct evaluate_config of; /* its lengths and sequences */
  struct column column[PRECISIONS][CONFIG_LENGTHS][TOLERANCES];
};

/* The solves of one column, and the times of each round. */
struct measured {
  struct solve_timing t[METHODS];
  double ms[METHODS][ROUNDS];
  int rounds[METHODS];
};

static struct fp_options options_of(const struct config *c, int method, double tol)
{
  struct fp_options o = c->deq.evaluate;
  o.tol = tol;
  o.worst_token = true; /* of whole sequences, too, every token is as good as asked for */
  o.solver = method == AUTO ? FP_AUTO : solvers[method / WINDOWS];
  o.window = method == AUTO ? FP_WINDOW_ALL : windows[method % WINDOWS];
  if (o.solver != FP_PICARD)
    o.damping = 1;
  return o;
}

static enum status take(const struct config *c, struct measured *m, int method,
                        struct bench_results *r, struct column *column)
{
  const struct solve_timing *t = &m->t[method];
  char name[96], what[FP_DESCRIPTION], shown[40];
  struct fp_options chosen = fp_choose(&t->options, t->length);
  double evaluations = (double)t->result.block_evaluations / (double)(t->rows * t->length);
  double serial = (double)t->result.evaluations;
  (void)fp_describe(&chosen, what);
  if (method == AUTO)
    (void)snprintf(column->chosen, sizeof column->chosen, "%s", what);
  (void)snprintf(shown, sizeof shown, "%.39s", method == AUTO ? "auto" : what);
  (void)snprintf(name, sizeof name, "solvers %.20s %s %lld %.0e %s", c->name, dtype_name(c->dtype),
                 (long long)t->length, t->options.tol, shown);
  TRY(bench_record(r, name, "ms", m->rounds[method], m->ms[method], (double)NAN, (double)NAN));
  column->cell[method] =
      (struct cell){evaluations, serial, r->result[r->count - 1].low,
                    (double)t->result.exits[FP_CONVERGED] / (double)t->result.samples};
  TRY(bench_record(r, name, "evaluations", 1, &evaluations, (double)NAN, (double)NAN));
  return bench_record(r, name, "serial", 1, &serial, (double)NAN, (double)NAN);
}

/* The method that auto has chosen, if it is one of the others; AUTO: it is not. */
static int chosen_method(const struct measured *m)
{
  char chosen[FP_DESCRIPTION], other[FP_DESCRIPTION];
  struct fp_options o = fp_choose(&m->t[AUTO].options, m->t[AUTO].length);
  (void)fp_describe(&o, chosen);
  for (int i = 0; i < AUTO; i++) {
    o = fp_choose(&m->t[i].options, m->t[i].length);
    if (o.damping == 1 && !strcmp(fp_describe(&o, other), chosen))
      return i;
  }
  return AUTO;
}

static bool timed_again(const struct measured *m, int method, int round)
{
  double fastest = m->ms[0][0];
  for (int i = 1; i < METHODS; i++)
    fastest = m->rounds[i] ? fmin(fastest, m->ms[i][0]) : fastest;
  double first = m->ms[method][0];
  return first < 1e3 * slow && (round < OF_ALL || first <= contends * fastest);
}

/* The methods take turns, so that what moves the machine's speed moves all of them, and the fastest
 * turn of each counts: what else the machine does only ever adds time. */
static enum status measure_column(const struct bench_request *q, const struct config *c,
                                  const char *checkpoint, int64_t length, double tol,
                                  struct bench_results *r, struct column *column)
{
  struct measured m;
  memset(&m, 0, sizeof m);
  for (int i = 0; i < METHODS; i++) {
    m.t[i].options = options_of(c, i, tol);
    m.t[i].rows = c->evaluate.sequences, m.t[i].length = length;
    m.t[i].repetitions = 1, m.t[i].seconds = q->seconds / 20;
  }
  int chosen = chosen_method(&m), timed = chosen == AUTO ? METHODS : AUTO;
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < timed; i++) {
      if (round > 0 && !timed_again(&m, i, round))
        continue;
      TRY(model_timed(c, q->rt, checkpoint, &m.t[i], 1));
      m.ms[i][m.rounds[i]++] = 1e3 * m.t[i].solve[0];
    }
  if (chosen != AUTO) { /* one and the same: what was timed is its time */
    struct fp_options automatic = m.t[AUTO].options;
    m.t[AUTO] = m.t[chosen];
    m.t[AUTO].options = automatic;
    m.rounds[AUTO] = m.rounds[chosen];
    memcpy(m.ms[AUTO], m.ms[chosen], sizeof m.ms[AUTO]);
  }
  for (int i = 0; i < METHODS; i++)
    TRY(take(c, &m, i, r, column));
  return OK;
}

static enum status load(const struct bench_request *q, const char *file, struct config *c)
{
  enum { DEFAULTS = sizeof defaults / sizeof *defaults };
  const char **word = malloc((DEFAULTS + (size_t)q->overrides) * sizeof *word);
  if (!word)
    FAIL(ERR_MEMORY, "out of memory");
  memcpy(word, defaults, sizeof defaults);
  for (int i = 0; i < q->overrides; i++)
    word[DEFAULTS + i] = q->override[i];
  enum status s = config_load(file, DEFAULTS + q->overrides, word, c);
  free(word);
  return s;
}

static enum status measure_run(const struct bench_request *q, const char *directory,
                               struct bench_results *r, struct model_columns *m)
{
  struct config c;
  char checkpoint[2 * CONFIG_PATH], config[2 * CONFIG_PATH];
  TRY(checkpoint_resolve(directory, checkpoint, sizeof checkpoint));
  TRY(path_join(config, sizeof config, checkpoint, "config.yaml"));
  TRY(load(q, config, &c));
  TRY(config_resolve(&c));
  if (c.model.kind != MODEL_IMPLICIT)
    FAIL(ERR_USAGE, "bench solvers measures implicit models; %s is explicit", directory);
  (void)snprintf(m->name, sizeof m->name, "%s", c.name);
  m->of = c.evaluate;
  for (int p = 0; p < PRECISIONS; p++)
    for (int l = 0; l < m->of.lengths_count; l++)
      for (int k = 0; k < TOLERANCES; k++) {
        c.dtype = (enum dtype)p;
        TRY(measure_column(q, &c, checkpoint, m->of.lengths[l], tolerances[k], r,
                           &m->column[p][l][k]));
        (void)fprintf(stderr, "%s %s %lld %.0e measured\n", c.name, dtype_name(c.dtype),
                      (long long)m->of.lengths[l], tolerances[k]);
      }
  return OK;
}

/* ---- the table ---- */

static int fastest(const struct column *c)
{
  int best = 0;
  for (int i = 1; i < AUTO; i++)
    if (c->cell[i].ms < c->cell[best].ms)
      best = i;
  return best;
}

static void print_cell(const struct cell *c, bool best)
{
  const char *mark = best ? "**" : "";
  (void)printf(" %.1f / %.0f / %s%.3g%s", c->evaluations, c->serial, mark, c->ms, mark);
  if (c->converged < 1)
    (void)printf(" (%.0f %%)", 100 * c->converged);
  (void)printf(" |");
}

static const struct column *column_of(const struct model_columns *m, int p, int l, int k)
{
  return &m[k / TOLERANCES].column[p][l][k % TOLERANCES];
}

static double auto_over_fastest(const struct column *c)
{
  return c->cell[AUTO].ms / c->cell[fastest(c)].ms;
}

static void print_name(int method)
{
  int64_t window = method == AUTO ? 0 : windows[method % WINDOWS];
  if (method == AUTO)
    (void)printf("\n| auto |");
  else if (window == FP_WINDOW_ALL)
    (void)printf("\n| %s, all |", fp_solver_name(solvers[method / WINDOWS]));
  else
    (void)printf("\n| %s, %lld |", fp_solver_name(solvers[method / WINDOWS]), (long long)window);
}

static void print_block(int p, int l, const struct model_columns *m, int runs)
{
  int columns = runs * TOLERANCES;
  (void)printf(
      "\n%s, length %lld, %lld sequences, to a tolerance of every token: evaluations of f a "
      "token / serial iterations / ms, the fastest turn; fastest method in bold; in "
      "brackets: converged, where not "
      "all.  Picard with deq.evaluate.damping, the others undamped\n\n| solver, window |",
      dtype_name((enum dtype)p), (long long)m->of.lengths[l], (long long)m->of.sequences);
  for (int k = 0; k < columns; k++)
    (void)printf(" %s %.0e |", m[k / TOLERANCES].name, tolerances[k % TOLERANCES]);
  (void)printf("\n| --- |");
  for (int k = 0; k < columns; k++)
    (void)printf(" --- |");
  for (int i = 0; i < METHODS; i++) {
    print_name(i);
    for (int k = 0; k < columns; k++)
      print_cell(&column_of(m, p, l, k)->cell[i], fastest(column_of(m, p, l, k)) == i);
  }
  (void)printf("\n| auto is |");
  for (int k = 0; k < columns; k++)
    (void)printf(" %s |", column_of(m, p, l, k)->chosen);
  (void)printf("\n| its time over the fastest's |");
  for (int k = 0; k < columns; k++)
    (void)printf(" %.2f |", auto_over_fastest(column_of(m, p, l, k)));
  (void)printf("\n");
}

static void print_worst(const struct model_columns *m, int runs)
{
  double worst = 0;
  for (int p = 0; p < PRECISIONS; p++)
    for (int l = 0; l < m->of.lengths_count; l++)
      for (int k = 0; k < runs * TOLERANCES; k++)
        worst = fmax(worst, auto_over_fastest(column_of(m, p, l, k)));
  (void)printf("\nauto's time over the fastest's of its column: at most %.2f.\n", worst);
}

enum status bench_solver_models(const struct bench_request *q, struct bench_results *r)
{
  struct model_columns *m = calloc((size_t)q->directories, sizeof *m);
  if (!m)
    FAIL(ERR_MEMORY, "out of memory");
  enum status s = OK;
  for (int i = 0; s == OK && i < q->directories; i++)
    s = measure_run(q, q->directory[i], r, &m[i]);
  for (int p = 0; s == OK && p < PRECISIONS; p++)
    for (int l = 0; l < m->of.lengths_count; l++)
      print_block(p, l, m, q->directories);
  if (s == OK)
    print_worst(m, q->directories);
  free(m);
  return s;
}
