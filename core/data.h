/* data.h: the task's sequences, whatever the task: tokens and the target at each of them. */
#ifndef CORE_DATA_H
#define CORE_DATA_H
#include "core/text.h"
#include "core/word_problem.h"

struct task_data {
  const struct data_config *c; /* the caller's */
  struct word_problem problem; /* of c->task: the one or the other */
  struct text text;
};

/* ERR_USAGE, ERR_IO, ERR_MEMORY: what word_problem_init and text_open say. */
MUST_USE enum status data_open(const struct data_config *c, struct task_data *d);
void data_close(struct task_data *d);
/* Tokens of the task, without opening it. */
MUST_USE enum status data_vocabulary(const struct data_config *c, int64_t *vocabulary);
/* Can sequences of `length` be drawn from the stream?  `because`: the key that asks for them.
 * ERR_USAGE. */
MUST_USE enum status data_require(const struct task_data *d, enum philox_stream stream,
                                  int64_t length, const char *because);
/* What a resumed run must find again; 0: nothing. */
int64_t data_fingerprint(const struct task_data *d);

/* tokens, targets (sequences,length) for sequences first..first+sequences-1 of a step: a function
 * of these and the seed alone, so that any step can be replayed.  Texts: stream TRAIN draws from
 * the training part, all others from the validation part. */
void data_batch(const struct task_data *d, uint64_t seed, enum philox_stream stream, uint32_t step,
                uint32_t first, int64_t sequences, int64_t length, int32_t *tokens,
                int32_t *targets);

/* What the data are, for people: "word problem A5 x aperiodic, identity probability 0.5". */
void data_describe(const struct data_config *c, size_t size, char *out);

/* A mean cross-entropy, in nats a token, in bits. */
double data_bits(double loss);
#endif
