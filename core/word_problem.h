/* word_problem.h: state tracking over finite groups and monoids, generated on the fly.
 *
 * Tokens are group * |monoid| + monoid element; target y_0 = x_0, y_t = y_{t-1} x_t in the product.
 * `group`: Zn, Sn (n <= 6), An (n <= 6), products as in A5*Z2.  Sn's elements are in lexicographic
 * order of their images, the identity first, An the even ones in that order; (x y)(i) = x(y(i)).
 * `aperiodic` is {E,A,B,X} with rows E: EABX, A: AXXX, B: BABX, X: XXXX, drawn uniformly;
 * `aperiodic_alive` the same, drawn so that products are rarely X. */
#ifndef CORE_WORD_PROBLEM_H
#define CORE_WORD_PROBLEM_H
#include "core/config.h"
#include "core/philox.h"

struct word_problem {
  int32_t group, monoid; /* orders; the vocabulary is group * monoid */
  int32_t *group_table;  /* (group,group): [x * group + y] = x y; owned */
  int32_t monoid_table[16];
  enum monoid_kind kind;
  double identity_probability;
};

/* ERR_USAGE names the group that cannot be read or is too large (order > 4096). */
MUST_USE enum status word_problem_init(const struct data_config *c, struct word_problem *w);
void word_problem_free(struct word_problem *w);
int64_t word_problem_vocabulary(const struct word_problem *w);

/* tokens, targets (sequences, length) for sequences first..first+sequences-1 of a step; Philox key
 * = seed, counter (stream, step, sequence, position).  Any step can be replayed. */
void word_problem_batch(const struct word_problem *w, uint64_t seed, enum philox_stream stream,
                        uint32_t step, uint32_t first, int64_t sequences, int64_t length,
                        int32_t *tokens, int32_t *targets);
#endif
