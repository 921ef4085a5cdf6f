/* profile.h: a backend that measures the one it stands for: calls, seconds, arithmetic and
 * traffic of every operation of operations.def.  Its own cost is two looks at the clock a call; of
 * a GPU's operations, which are not done when they return, it waits for each. */
#ifndef CORE_PROFILE_H
#define CORE_PROFILE_H
#include "core/run.h"

enum profile_operation {
#define OPERATION(name, ...) PROFILE_##name,
#include "core/operations.def"
#undef OPERATION
  PROFILE_OPERATIONS
};

struct profile_row {
  int64_t calls;
  double seconds;      /* of all threads that work beside each other, over their number */
  double flops, bytes; /* as core/profile_work.h counts them */
};

struct profile {
  void *device;       /* first: a stream that points here is the device's (kernels/device_cuda.h) */
  enum status failed; /* of the first operation that did, if one did */
  struct profile_row row[PROFILE_OPERATIONS];
  const struct runtime *real; /* whose backends do the work */
};

const char *profile_name(int operation);
void profile_clear(struct profile *p);

/* How fast a model trains. */
enum { TRAIN_TIMED_MAX = 64 };
struct train_timing {
  int repetitions;         /* 1 to TRAIN_TIMED_MAX; one more, before them, is not counted */
  double seconds;          /* each takes whole steps until this time is over */
  struct profile *profile; /* of all counted repetitions; NULL: not wanted */
  /* the answer */
  double tokens_per_second[TRAIN_TIMED_MAX];
  double total_seconds;
  int64_t steps;     /* with it, of all counted repetitions */
  double iterations; /* of the last step's solve; 0: there was none */
};
/* Trains c's model from its initial weights, and writes nothing.  t->profile->real is set. */
MUST_USE enum status train_timed(const struct config *c, const struct runtime *rt,
                                 struct train_timing *t);

/* What training c's model plans, in bytes; nothing else is allocated in a step. */
struct train_memory {
  size_t parameters; /* with gradients and moments */
  size_t learner;    /* activations, solver, scratch */
  size_t batches;    /* tokens and labels */
  size_t evaluation; /* of train.evaluate_every: a network of its own; or 0 */
};
/* Measures it without taking it (but for the parameters). */
MUST_USE enum status train_memory(const struct config *c, const struct runtime *rt,
                                  struct train_memory *m);

struct backend_f32;
struct backend_f64;
/* *out: p->real's backend, measured into p, which must outlive it. */
void profile_backend_f32(struct profile *p, struct backend_f32 *out);
void profile_backend_f64(struct profile *p, struct backend_f64 *out);
#endif
