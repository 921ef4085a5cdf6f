/* relay.h: parts of a sequence side by side, each a thread's, that hand states on from one to the
 * next, layer by layer.
 *
 * Part i may read what layer l hands on when part i-1 has passed it.  Parts are begun in their
 * order, so the first of those at work never waits for one that has not begun. */
#ifndef CORE_RELAY_H
#define CORE_RELAY_H
#include <sched.h>
#include <stdint.h>

struct relay {
  int64_t part;
  int64_t *passed; /* (layers) parts that have passed; shared by all */
};

static inline void relay_await(const struct relay *r, int64_t layer)
{
  for (int spins = 0; r && __atomic_load_n(&r->passed[layer], __ATOMIC_ACQUIRE) < r->part; spins++)
    if (spins > 100)
      (void)sched_yield();
}

static inline void relay_pass(const struct relay *r, int64_t layer)
{
  if (r)
    __atomic_store_n(&r->passed[layer], r->part + 1, __ATOMIC_RELEASE);
}
#endif
