/* evaluation.h: what evaluating a model finds, whatever the precision. */
#ifndef CORE_EVALUATION_H
#define CORE_EVALUATION_H
#include "core/config.h"

enum { MODES = 2, EVALUATION_LAST = 10, KNOB_MAX = 24, TRACE_MAX = 96, TOKEN_TYPES = 2 };

/* 95 % confidence, the sequence as the unit (core/statistics.h). */
struct interval {
  double low, high;
};

/* How the solves of some samples went: tokens, or whole sequences where the window is all.  No
 * samples (explicit models): every double is NaN. */
struct solve_summary {
  int64_t samples, iterations_max; /* evaluations of f */
  double iterations_mean, iterations_p95;
  double residual_mean, residual_max; /* in the units of `stop` */
  double converged;                   /* a fraction of the samples */
};

/* Accuracy and loss of one mode at one length. */
struct evaluation_row {
  enum evaluate_mode mode;
  int64_t length, sequences;
  double loss; /* nats a token */
  double accuracy, accuracy_last10, accuracy_group, accuracy_monoid;
  double all_correct; /* share of the sequences without a wrong token */
  struct interval accuracy_interval, last10_interval, all_correct_interval;
  struct solve_summary solve;
  int64_t block_evaluations, serial_iterations; /* summed over the batches */
  double seconds;
};

/* One mode at the longest length, more closely. */
struct evaluation_detail {
  int64_t length, sequences;
  double *accuracy; /* (length) by position */
  /* (length) by position; NULL where a sample is not a token (explicit models; window all) */
  double *iterations, *iterations_p95, *residual;
  int64_t bins, *histogram; /* (bins) samples by their iterations; bins 0: explicit models */
  int64_t types;            /* 0: the task's tokens have no types */
  struct {
    const char *name; /* "identity": the group part is; "hard": it is not */
    int64_t tokens;
    double accuracy;
    struct solve_summary solve; /* samples 0 where a sample is not a token */
  } type[TOKEN_TYPES];
};

/* Accuracy against deq.evaluate.max_iter: 1, 2, 4, ... until every sample has converged. */
struct evaluation_knob {
  int64_t length, sequences, count; /* count 0: explicit models */
  int64_t max_iter[KNOB_MAX];
  double loss[KNOB_MAX], accuracy[KNOB_MAX], accuracy_last10[KNOB_MAX], converged[KNOB_MAX];
};

/* Residual after 1, 2, ... evaluations of f: median and 95th percentile of the samples; one that
 * has stopped keeps its last. */
struct evaluation_trace {
  enum fp_solver solver;
  int64_t length, samples, count; /* count 0: not measured */
  double median[TRACE_MAX], p95[TRACE_MAX];
};
enum { TRACED_SOLVERS = 3 }; /* picard, anderson, broyden */

/* Everything; index [mode] is enum evaluate_mode. */
struct evaluation {
  enum model_kind kind;
  enum data_task task; /* texts: a token is a byte */
  int64_t parameters;
  int64_t lengths_count;
  struct evaluation_row row[MODES][CONFIG_LENGTHS];
  double agreement[CONFIG_LENGTHS]; /* share of tokens that both modes predict alike */
  struct evaluation_detail detail[MODES];
  struct evaluation_knob knob[MODES];
  struct evaluation_trace trace[MODES][TRACED_SOLVERS];
  double spectral_radius, spectral_radius_max; /* of df/dz, by token; NaN: not measured */
  double decode_tokens_per_second; /* one sequence, sequential mode; NaN: not measured */
};
void evaluation_free(struct evaluation *e);
/* ERR_NUMERIC names the first length at which a loss or a solve is not finite. */
MUST_USE enum status evaluation_check_finite(const struct evaluation *e);

/* What is measured beside the table of lengths and modes. */
struct evaluation_request {
  bool closely;                                        /* detail, knob, trace, decoding */
  void (*begin)(void *to, const struct evaluation *e); /* kind and parameters are known; or NULL */
  void (*say)(void *to,
              const struct evaluation_row *row); /* every row, once it is there; or NULL */
  void *to;
};
#endif
