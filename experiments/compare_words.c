/* compare_words.c: what the fixed point buys and what it costs, in words.  Every number is a median
 * over the seeds of a group; groups are judged at the longest length, token by token. */
#include "core/progress.h"
#include "experiments/compare_report.h"
#include "experiments/compare_values.h"
#include <math.h>
#include <stdlib.h>

/* Extremes over a group's seeds. */
static struct interval seeds_of(const struct compared_group *g, const struct compared_metric *m,
                                int64_t at)
{
  struct interval range = {INFINITY, -INFINITY};
  for (int64_t k = 0; k < g->count; k++) {
    range.low = fmin(range.low, m->value(g->run[k], at));
    range.high = fmax(range.high, m->value(g->run[k], at));
  }
  return range;
}

/* "0.9123 (95 % interval 0.900 to 0.930; 3 seeds from 0.8900 to 0.9500)" */
static void say_value(FILE *out, const struct compared_group *g, const struct compared_metric *m,
                      int64_t at)
{
  double low = compared_median(g, m->low, at), high = compared_median(g, m->high, at);
  struct interval seeds = seeds_of(g, m, at);
  bool interval = isfinite(low) && isfinite(high), several = g->count > 1;
  if (!isfinite(compared_median(g, m->value, at))) {
    (void)fprintf(out, "none, as it is not finite");
    return;
  }
  (void)fprintf(out, "%.4f", compared_median(g, m->value, at));
  if (interval)
    (void)fprintf(out, " (95 %% interval %.3f to %.3f", low, high);
  if (several)
    (void)fprintf(out, "%s%lld seeds from %.4f to %.4f", interval ? "; " : " (",
                  (long long)g->count, seeds.low, seeds.high);
  if (interval || several)
    (void)fprintf(out, ")");
}

static void say_group(FILE *out, const struct compared_section *s, const struct compared_group *g)
{
  int64_t alike = 0;
  const char *kind = model_kind_name(compared_kind(g));
  for (int64_t i = 0; i < s->groups; i++)
    alike += compared_kind(&s->group[i]) == compared_kind(g);
  if (alike > 1)
    (void)fprintf(out, "the best of %lld %s models, “%s”,", (long long)alike, kind, g->label);
  else
    (void)fprintf(out, "the %s model", kind);
}

/* NaN, as of an unknown end, lies apart from nothing. */
static bool apart(struct interval a, struct interval b) { return a.low > b.high || b.low > a.high; }

static void say_verdict(FILE *out, const struct compared_group *implicit,
                        const struct compared_group *explicit_, const struct compared_metric *m,
                        int64_t at)
{
  double gain = compared_median(implicit, m->value, at) - compared_median(explicit_, m->value, at);
  struct interval one = {compared_median(implicit, m->low, at),
                         compared_median(implicit, m->high, at)};
  struct interval other = {compared_median(explicit_, m->low, at),
                           compared_median(explicit_, m->high, at)};
  bool better = m->higher_is_better ? gain > 0 : gain < 0;
  if (!isfinite(gain))
    return;
  if (isfinite(one.low + other.low) && !apart(one, other)) {
    (void)fprintf(out, " The intervals overlap: these sequences show no difference.");
    return;
  }
  (void)fprintf(out, " The fixed point %s %.4f%s", better ? "buys" : "loses", fabs(gain),
                m->higher_is_better ? "" : " bits");
  if (implicit->count > 1 && explicit_->count > 1 &&
      !apart(seeds_of(implicit, m, at), seeds_of(explicit_, m, at)))
    (void)fprintf(out, ", though some seeds do not show it");
  (void)fprintf(out, ".");
}

static void say_at_training_length(FILE *out, const struct compared_section *s,
                                   const struct compared_group *implicit,
                                   const struct compared_group *explicit_,
                                   const struct compared_metric *m)
{
  for (int64_t i = 0; i + 1 < s->lengths_count; i++)
    if (s->lengths[i] == implicit->run[0]->trained.data.length) {
      int64_t at = compared_at(MODE_SEQUENTIAL, i);
      (void)fprintf(out, " At the training length it was %.4f against %.4f.",
                    compared_median(implicit, m->value, at),
                    compared_median(explicit_, m->value, at));
    }
}

static void say_quality(FILE *out, const struct compared_section *s,
                        const struct compared_group *implicit,
                        const struct compared_group *explicit_)
{
  struct compared_metric m = compared_metric_of(s);
  int64_t last = s->lengths_count - 1, at = compared_at(MODE_SEQUENTIAL, last);
  const struct compared_group *first = implicit ? implicit : explicit_;
  (void)fprintf(out, "%s: Trained at length %lld on %s and asked at length %lld, ",
                implicit && explicit_ ? "What it buys" : "What was reached",
                (long long)first->run[0]->trained.data.length, s->data,
                (long long)s->lengths[last]);
  say_group(out, s, first);
  (void)fprintf(out, " reaches %s ",
                m.higher_is_better ? "an accuracy over the last 10 tokens of"
                                   : "a loss in bits per byte of");
  say_value(out, first, &m, at);
  if (implicit && explicit_) {
    (void)fprintf(out, ", ");
    say_group(out, s, explicit_);
    (void)fprintf(out, " ");
    say_value(out, explicit_, &m, at);
  }
  if (isfinite(m.chance))
    (void)fprintf(out, "; guessing gives %.4f", m.chance);
  (void)fprintf(out, ".");
  if (implicit && explicit_) {
    say_verdict(out, implicit, explicit_, &m, at);
    say_at_training_length(out, s, implicit, explicit_, &m);
  }
}

/* "2.4 times the parameters" or, with `same`, "as many parameters"; nothing where one is not known.
 */
static void say_ratio(FILE *out, const struct compared_group *implicit,
                      const struct compared_group *explicit_,
                      double (*value)(const struct compared_run *r, int64_t i), const char *same,
                      const char *what, int *said)
{
  double ratio = compared_median(implicit, value, 0) / compared_median(explicit_, value, 0);
  if (!isfinite(ratio) || ratio <= 0)
    return;
  (void)fputs((*said)++ ? ", " : "", out);
  if (fabs(ratio - 1) < 0.005)
    (void)fprintf(out, "%s %s", same, what);
  else
    (void)fprintf(out, "%.*f times the %s", ratio < 0.995 ? 2 : ratio < 9.95 ? 1 : 0, ratio, what);
}

static double parameters(const struct compared_run *r, int64_t i)
{
  return (void)i, (double)r->evaluation.parameters;
}

static double within_layers(const struct compared_run *r, int64_t i)
{
  return (void)i, r->jacobian.missing[0] ? (double)NAN : r->jacobian.within_layers;
}

static double tokens(const struct compared_run *r, int64_t i) { return (void)i, (double)r->tokens; }

static void say_cost(FILE *out, const struct compared_group *implicit,
                     const struct compared_group *explicit_)
{
  int said = 0;
  char a[FORMAT_SIZE], b[FORMAT_SIZE];
  double decode = compared_median(implicit, of_decoding, 0);
  (void)fprintf(out, "\nWhat it costs: Against “%s”, ", explicit_->label);
  say_ratio(out, implicit, explicit_, parameters, "as many", "parameters", &said);
  say_ratio(out, implicit, explicit_, tokens, "as many", "tokens of training", &said);
  say_ratio(out, implicit, explicit_, of_flops, "as many", "floating-point operations of training",
            &said);
  say_ratio(out, implicit, explicit_, of_seconds, "as much", "time of training", &said);
  say_ratio(out, implicit, explicit_, of_memory, "as much", "memory of training", &said);
  (void)fprintf(out, "%s.", said ? "" : "nothing was measured");
  if (isfinite(decode) && isfinite(compared_median(explicit_, of_decoding, 0)))
    (void)fprintf(out, " It decodes %s tokens/s against %s.", format_count(decode, a),
                  format_count(compared_median(explicit_, of_decoding, 0), b));
}

/* Nothing where all have. */
static void say_unconverged(FILE *out, const struct compared_group *g, enum evaluate_mode mode,
                            int64_t length, const char *what)
{
  double converged = compared_median(g, of_converged, compared_at(mode, length));
  if (converged < 1)
    (void)fprintf(out, " %.3g %% of the %s did not converge.", 100 * (1 - converged), what);
}

/* Nothing where all were. */
static void say_not_finite(FILE *out, const struct compared_section *s,
                           const struct compared_group *g, const char **lead)
{
  bool broken = false;
  for (int64_t i = 0; i < g->count * MODES * s->lengths_count; i++) {
    const struct compared_run *r = g->run[i / (MODES * s->lengths_count)];
    int64_t mode = i / s->lengths_count % MODES, length = i % s->lengths_count;
    int64_t at = compared_at((enum evaluate_mode)mode, length);
    broken = broken || (row_of(r, at)->solve.samples && isnan(of_residual(r, at)));
  }
  if (broken)
    (void)fprintf(out, "%sSome of its solves were not finite: their tokens count as wrong.", *lead);
  *lead = broken ? " " : *lead;
}

static void say_solver(FILE *out, const struct compared_section *s, const struct compared_group *g)
{
  int64_t last = s->lengths_count - 1, at = compared_at(MODE_SEQUENTIAL, last);
  double mean = compared_median(g, of_iterations, at);
  double p95 = compared_median(g, of_p95, at), same = compared_median(g, of_agreement, last);
  double off = compared_median(g, within_layers, 0);
  const char *lead = "\nHow it solves: ";
  say_not_finite(out, s, g, &lead);
  if (isfinite(mean)) {
    (void)fprintf(out,
                  "%sA token takes %.1f evaluations of the layers on average, 95 of 100 tokens at "
                  "most %.0f.",
                  lead, mean, p95);
    say_unconverged(out, g, MODE_SEQUENTIAL, last, "tokens");
    lead = " ";
  }
  if (isfinite(same)) {
    (void)fprintf(out,
                  "%sSolved all tokens at once, it predicts %.2f %% of the tokens as it does token "
                  "by token.",
                  lead, 100 * same);
    say_unconverged(out, g, MODE_SIMULTANEOUS, last, "sequences");
    lead = " ";
  }
  if (isfinite(off))
    (void)fprintf(out,
                  "%sWithin a layer, %.3g %% of the norm of its state-to-state Jacobian is off the "
                  "diagonal, where an explicit layer has nothing.",
                  lead, 100 * off);
}

char *compared_words(const struct compared_section *s)
{
  const struct compared_group *implicit = compared_best(s, MODEL_IMPLICIT);
  const struct compared_group *explicit_ = compared_best(s, MODEL_EXPLICIT);
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  if (!out)
    return NULL;
  if (s->lengths_count > 0 && (implicit || explicit_)) {
    say_quality(out, s, implicit, explicit_);
    if (implicit && explicit_)
      say_cost(out, implicit, explicit_);
    else
      (void)fprintf(out, " There is no %s run here to compare with.",
                    implicit ? "explicit" : "implicit");
    if (implicit)
      say_solver(out, s, implicit);
  }
  if (fclose(out)) {
    free(text);
    return NULL;
  }
  return text;
}
