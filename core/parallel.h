/* parallel.h: work side by side on the host, where each part is one thread's from end to end. */
#ifndef CORE_PARALLEL_H
#define CORE_PARALLEL_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Calls f(ctx, i) for every i in 0..count-1, in no order, on as many threads as OpenMP would use;
 * loops inside (core/launch.h) are their thread's own.  With at most half as many parts as
 * threads, one part after the other has all the threads in its loops.  Either way what f computes
 * is the same where loops do not depend on their number of threads. */
void parallel_run(int64_t count, void (*f)(void *ctx, int64_t i), void *ctx);
/* The same for i in 0..count+more-1, begun in this order: a part may wait for those before it.  How
 * many threads there are follows from `count`; there are at most `most`. */
void parallel_run_and(int64_t count, int64_t more, int most, void (*f)(void *ctx, int64_t i),
                      void *ctx);

/* How many threads would share so many parts, if they were begun now. */
int parallel_workers(int64_t count);

/* Which of them this thread is, from 0; outside of parallel_run: 0. */
int parallel_worker(void);

/* Work beside this thread's.  {0}: none. */
struct background {
  void (*f)(void *ctx);
  void *ctx;
  pthread_t thread;
  bool running;
};
/* f(ctx), which may be done when this returns: where no thread can be had. */
void background_run(struct background *b, void (*f)(void *ctx), void *ctx);
/* Until it is done; nothing is waited for where none runs. */
void background_await(struct background *b);

/* Before a program is started in this one's place: gives this thread, which OMP_PROC_BIND or
 * OMP_PLACES may have bound to a processor, all that OpenMP may use. */
void parallel_unbind(void);

/* How many threads parallel_run would use: 1 inside of it. */
int parallel_threads(void);

/* How many threads of parallel_run work beside each other, this one included; outside of it: 1. */
int parallel_width(void);
#endif
