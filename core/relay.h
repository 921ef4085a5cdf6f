/* relay.h: parts of a sequence side by side, each a thread's, that hand states on from one to the
 * next, at one place after the other: a layer has two (model.h).
 *
 * Shards, too, tell by it that they have ended, and who has added gradients (shards.c).
 *
 * Part i may read what is handed on at a place when part i-1 has passed it.  Parts are begun in
 * their order, so the first of those at work never waits for one that has not begun. */
#ifndef CORE_RELAY_H
#define CORE_RELAY_H
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct relay {
  int64_t part;
  int64_t *passed; /* (places) parts that have passed; shared by all */
};

static inline bool relay_passed(const struct relay *r, int64_t place)
{
  return __atomic_load_n(&r->passed[place], __ATOMIC_ACQUIRE) >= r->part;
}

/* Who waits for long lets others have the processor. */
static inline void relay_await(const struct relay *r, int64_t place)
{
  enum { SPINS = 100, YIELDS = 2000 };
  const struct timespec nap = {0, 50000};
  for (int times = 0; r && !relay_passed(r, place); times++)
    if (times > SPINS + YIELDS)
      (void)nanosleep(&nap, NULL);
    else if (times > SPINS)
      (void)sched_yield();
}

static inline void relay_pass(const struct relay *r, int64_t place)
{
  if (r)
    __atomic_store_n(&r->passed[place], r->part + 1, __ATOMIC_RELEASE);
}
#endif
