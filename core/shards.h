/* shards.h: a batch worked out in shards, for learning and for evaluating.
 *
 * A shard is a run of the batch's sequences, with a gradient of its own where it learns, which one
 * thread takes from the first evaluation of f to the last VJP, in a network of the thread's, a few
 * sequences at a time: as many as a core's cache holds the activations of.  (64 tokens of the
 * quickstart's model at a time instead of 1024 halved the time of a step on one core, and cores
 * need not wait for each other between operations.)  Shards and their sizes depend on the batch's
 * shape alone, and their gradients are added in order: the result does not depend on the number of
 * threads.
 *
 * On a GPU, with `stop_together`, and where a copy of the gradient is too large, the whole batch is
 * one shard. */
#ifndef CORE_SHARDS_H
#define CORE_SHARDS_H
#include "core/network.h"

#define shard NAME(shard)
#define shard_set NAME(shard_set)
#define shards_open NAME(shards_open)
#define shards_measure NAME(shards_measure)
#define shards_close NAME(shards_close)
#define shards_set_length NAME(shards_set_length)
#define shards_learn NAME(shards_learn)
#define shards_evaluate NAME(shards_evaluate)

struct shard {
  struct parameter_set gradient; /* of the shard; only where several learn */
  int64_t first, end;            /* its sequences of the batch */
  struct network_result result;
  enum status status;
  char error[512];
};

struct shard_set {
  const struct sequence_model *m;
  int64_t rows, length;              /* most sequences of a batch; tokens of one now */
  const struct fp_options *evaluate; /* NULL: they learn */
  int64_t count;                     /* shards */
  int64_t together;                  /* sequences that a shard works on at a time */
  struct shard *shard;               /* (count) */
  int workers;                       /* threads at most */
  struct network *net;               /* (workers) */
  int32_t *best;                     /* (rows,length) of the batch, as in struct network_result */
  uint8_t *exit;                     /* (rows,length) */
  struct arena device, host;
};

/* Plans and takes the memory to learn (evaluate NULL), or to evaluate as `evaluate` says, batches
 * of up to `rows` sequences of `length` tokens.  m, its tensors, deq and evaluate stay the
 * caller's. ERR_MEMORY. */
MUST_USE enum status shards_open(const struct sequence_model *m, const struct deq_config *deq,
                                 const struct fp_options *evaluate,
                                 const struct solver_port *solver, int64_t rows, int64_t length,
                                 struct shard_set *l);
/* The bytes that shards_open takes, without taking them. */
MUST_USE enum status shards_measure(const struct sequence_model *m, const struct deq_config *deq,
                                    const struct fp_options *evaluate,
                                    const struct solver_port *solver, int64_t rows, int64_t length,
                                    size_t *bytes);
void shards_close(struct shard_set *l);
/* The batches that follow have sequences of `length` tokens, at most those that were planned. */
void shards_set_length(struct shard_set *l, int64_t length);

/* network_learn on the whole batch: adds to g; r's arrays are the shards', until the next call.
 * Of r->forward and r->backward the totals are set, and the exits of the forward solve. */
MUST_USE enum status shards_learn(struct shard_set *l, const struct parameter_set *p,
                                  enum gradient_kind gradient, const struct batch *b,
                                  const struct parameter_set *g, struct network_result *r);

/* network_evaluate on the whole batch, as l->evaluate says: the arrays of r->forward are the
 * caller's, or NULL, the others the shards', until the next call. */
MUST_USE enum status shards_evaluate(struct shard_set *l, const struct parameter_set *p,
                                     const struct batch *b, struct network_result *r);
#endif
