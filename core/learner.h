/* learner.h: the gradient of a batch, worked out in shards.
 *
 * A shard is a run of the batch's sequences with a network and a gradient of its own, which one
 * thread takes from the first evaluation of f to the last VJP, a few sequences at a time: as many
 * as a core's cache holds the activations of.  (64 tokens of the quickstart's model at a time
 * instead of 1024 halved the time of a step on one core, and two cores need not wait for each other
 * between operations.)  Shards and their sizes depend on the batch's shape alone, and their
 * gradients are added in order: the result does not depend on the number of threads.
 *
 * On a GPU, with `stop_together`, and where a copy of the gradient is too large, the whole batch is
 * one shard. */
#ifndef CORE_LEARNER_H
#define CORE_LEARNER_H
#include "core/network.h"

#define shard NAME(shard)
#define learner NAME(learner)
#define learner_open NAME(learner_open)
#define learner_measure NAME(learner_measure)
#define learner_close NAME(learner_close)
#define learner_set_length NAME(learner_set_length)
#define learner_learn NAME(learner_learn)

struct shard {
  struct network net;
  struct parameter_set gradient; /* of the shard; not used where there is only one */
  int64_t first, end;            /* its sequences of the batch */
  struct network_result result;
  enum status status;
  char error[512];
};

struct learner {
  const struct sequence_model *m;
  int64_t rows, length; /* most sequences of a batch; tokens of one now */
  int64_t count;        /* shards */
  int64_t together;     /* sequences that a shard works on at a time */
  struct shard *shard;  /* (count) */
  wide *losses;         /* (rows,length) of the whole batch, as in struct network_result */
  int32_t *best;        /* (rows,length) */
  uint8_t *exit;        /* (rows,length) */
  struct arena device, host;
};

/* Plans and takes the memory for batches of up to `rows` sequences of `length` tokens; m's
 * tensors and deq stay the caller's.  ERR_MEMORY. */
MUST_USE enum status learner_open(const struct sequence_model *m, const struct deq_config *deq,
                                  const struct solver_port *solver, int64_t rows, int64_t length,
                                  struct learner *l);
/* The bytes that learner_open takes, without taking them. */
MUST_USE enum status learner_measure(const struct sequence_model *m, const struct deq_config *deq,
                                     const struct solver_port *solver, int64_t rows, int64_t length,
                                     size_t *bytes);
void learner_close(struct learner *l);
/* The batches that follow have sequences of `length` tokens, at most those that were planned. */
void learner_set_length(struct learner *l, int64_t length);

/* network_learn on the whole batch: adds to g; r's arrays are the learner's, until the next call.
 * Of r->forward and r->backward the totals are set, and the exits of the forward solve. */
MUST_USE enum status learner_learn(struct learner *l, const struct parameter_set *p,
                                   enum gradient_kind gradient, const struct batch *b,
                                   const struct parameter_set *g, struct network_result *r);
#endif
