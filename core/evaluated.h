/* evaluated.h: what a model answered to sequences, token by token, and what follows from that. */
#ifndef CORE_EVALUATED_H
#define CORE_EVALUATED_H
#include "core/evaluation.h"
#include "core/status.h"

/* One mode on (sequences,length) tokens; arrays owned. */
struct evaluated {
  enum evaluate_mode mode;
  int64_t sequences, length;
  int32_t monoid;                 /* tokens are group * monoid + element; 0: no word problem */
  bool solved, by_token;          /* there were solves; a sample is a token, not a sequence */
  int32_t *tokens, *labels, *got; /* got: the largest logit's; -1: none, its solve is not finite */
  int32_t *iterations;            /* of sample i; i < sequences unless by_token */
  double *residual;
  uint8_t *exit; /* enum fp_exit */
  double loss;   /* summed; NaN where a solve is not finite */
  int64_t block_evaluations, serial_iterations;
  double seconds;
};

/* Zeroed.  ERR_MEMORY. */
MUST_USE enum status evaluated_make(int64_t sequences, int64_t length, struct evaluated *e);
void evaluated_free(struct evaluated *e);

/* ERR_MEMORY, all. */
MUST_USE enum status evaluated_row(const struct evaluated *e, struct evaluation_row *row);
MUST_USE enum status evaluated_detail(const struct evaluated *e, struct evaluation_detail *d);
double evaluated_agreement(const struct evaluated *a, const struct evaluated *b);
#endif
