/* compare_values.h: numbers of a run, for compared_median.  Those of a row: i = mode *
 * CONFIG_LENGTHS + the number of the length. */
#ifndef EXPERIMENTS_COMPARE_VALUES_H
#define EXPERIMENTS_COMPARE_VALUES_H
#include "core/data.h"
#include "experiments/compare.h"
#include <math.h>

static inline double of_flops(const struct compared_run *r, int64_t i) { return (void)i, r->flops; }
static inline double of_seconds(const struct compared_run *r, int64_t i)
{
  return (void)i, r->seconds;
}
/* Tokens until a logged batch had 99 % of its tokens right. */
static inline double of_tokens_to_99(const struct compared_run *r, int64_t i)
{
  for (i = 0; i < r->curve.points; i++)
    if (r->curve.accuracy[i] >= 0.99)
      return r->curve.tokens[i];
  return (double)NAN;
}
static inline double of_speed(const struct compared_run *r, int64_t i)
{
  return (void)i, r->tokens_per_second;
}
static inline double of_memory(const struct compared_run *r, int64_t i)
{
  return (void)i, r->peak_memory;
}
static inline double of_decoding(const struct compared_run *r, int64_t i)
{
  return (void)i, r->evaluation.decode_tokens_per_second;
}
static inline double of_off_diagonal(const struct compared_run *r, int64_t i)
{
  return (void)i, r->jacobian.off_diagonal;
}

/* i: the type of token */
static inline double of_type_tokens(const struct compared_run *r, int64_t i)
{
  return (double)r->evaluation.detail[MODE_SEQUENTIAL].type[i].tokens;
}

/* i = mode * CONFIG_LENGTHS + length */
static inline const struct evaluation_row *row_of(const struct compared_run *r, int64_t i)
{
  return &r->evaluation.row[i / CONFIG_LENGTHS][i % CONFIG_LENGTHS];
}
static inline double of_score(const struct compared_run *r, int64_t i)
{
  const struct evaluation_row *row = row_of(r, i);
  return r->evaluation.task == TASK_TEXT ? data_bits(row->loss) : row->accuracy_last10;
}
static inline double of_loss(const struct compared_run *r, int64_t i) { return row_of(r, i)->loss; }
static inline double of_iterations(const struct compared_run *r, int64_t i)
{
  return row_of(r, i)->solve.iterations_mean;
}
static inline double of_p95(const struct compared_run *r, int64_t i)
{
  return row_of(r, i)->solve.iterations_p95;
}
static inline double of_most(const struct compared_run *r, int64_t i)
{
  const struct solve_summary *s = &row_of(r, i)->solve;
  return s->samples ? (double)s->iterations_max : (double)NAN;
}
static inline double of_residual(const struct compared_run *r, int64_t i)
{
  return row_of(r, i)->solve.residual_max;
}
static inline double of_converged(const struct compared_run *r, int64_t i)
{
  return row_of(r, i)->solve.converged;
}
static inline double of_agreement(const struct compared_run *r, int64_t i)
{
  return r->evaluation.agreement[i % CONFIG_LENGTHS];
}
#endif
