/* decode.h: how fast a model is evaluated one token after the other. */
#ifndef CORE_DECODE_H
#define CORE_DECODE_H
#include "core/run.h"

enum { DECODE_TIMED_MAX = 64 };
struct decode_timing {
  const char *checkpoint; /* whose parameters; NULL: the initial ones */
  const char *parameters_to,
      *tokens_to;       /* FILEs that receive them for a peer: parameters under their names,
                  input_ids and labels (rows,length); NULL: not wanted */
  int64_t rows, length; /* sequences at a time, tokens of each */
  int repetitions;      /* 1 to DECODE_TIMED_MAX; one more, before them, is not counted */
  double seconds;       /* each takes whole sequences until this time is over */
  /* the answer */
  double tokens_per_second[DECODE_TIMED_MAX];
  double iterations, converged; /* evaluations of f a token; a fraction; explicit models: NaN */
  double accuracy;
};

/* Evaluates c's model in sequential mode, as c->deq.evaluate says otherwise, on the first sequences
 * of the stream that `evaluate` uses: fixed point (explicit: f) of one token after the other with
 * the states carried.  The tokens are known before: they are embedded and injected at once, and so
 * are the logits. */
MUST_USE enum status decode_timed(const struct config *c, const struct runtime *rt,
                                  struct decode_timing *t);
#endif
