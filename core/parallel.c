/* parallel.c: parts that each have one thread (parallel.h), and parallel regions of one thread
 * without a team.
 *
 * A loop that is too short for threads is a region of one (core/launch.h: `if`).  For each of them
 * gcc's libgomp makes a team and ends it with a system call, which costs more than the loops that
 * step on one token.  The programs are linked with --wrap=GOMP_parallel (Makefile): such a region,
 * outside of any other, becomes a call of its body, where OpenMP's functions answer as in a team of
 * one.  Other compilers' regions do not come here.
 *
 * The threads of parallel_run are not OpenMP's for the same reason: a loop inside an OpenMP region
 * would be a team again.  They are kept: starting and joining one took 0.3 of the 10 milliseconds
 * of a quickstart's step. */
#include "core/parallel.h"
#include <omp.h>
#include <sched.h>
#include <stdlib.h>

enum { THREADS_MOST = 256 };

struct work {
  void (*f)(void *ctx, int64_t i);
  void *ctx;
  int64_t count, next; /* next: taken by __atomic_fetch_add */
  int width, helpers;  /* helpers: that are at it still */
  pthread_cond_t done; /* the last of them is */
};

static _Thread_local int width = 1, worker;

int parallel_width(void) { return width; }

int parallel_worker(void) { return worker; }

int parallel_workers(int64_t count)
{
  int threads = parallel_threads();
  threads = threads < THREADS_MOST ? threads : THREADS_MOST;
  return 2 * count <= threads ? 1 : count < threads ? (int)count : threads;
}

int parallel_threads(void) { return width > 1 ? 1 : omp_get_max_threads(); }

static void take_parts(struct work *w, int as)
{
  int own = omp_get_max_threads();
  omp_set_num_threads(1); /* of this thread only */
  width = w->width, worker = as;
  for (int64_t i; (i = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->count;)
    w->f(w->ctx, i);
  width = 1, worker = 0;
  omp_set_num_threads(own);
}

/* Of a loop that waits for another thread. */
static void relax(void)
{
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* ---- OMP_PROC_BIND, OMP_PLACES ---- */

#ifdef __linux__
/* Adds an OpenMP place's processors. */
static void add_place(int place, cpu_set_t *set)
{
  int ids[CPU_SETSIZE], count = omp_get_place_num_procs(place);
  if (count > CPU_SETSIZE)
    return;
  omp_get_place_proc_ids(place, ids);
  for (int k = 0; k < count; k++)
    if (ids[k] >= 0 && ids[k] < CPU_SETSIZE)
      CPU_SET((size_t)ids[k], set);
}
#endif

void parallel_unbind(void)
{
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int place = 0; place < omp_get_num_places(); place++)
    add_place(place, &set);
  if (CPU_COUNT(&set) > 0)
    (void)sched_setaffinity(0, sizeof set, &set);
#endif
}

/* Where OpenMP binds threads, the initial thread is bound already and a new one would share its
 * place: thread i takes place i, as OpenMP's would. */
static void choose_place(int i, pthread_attr_t *attributes)
{
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (omp_get_proc_bind() == omp_proc_bind_false || omp_get_num_places() < 1)
    return;
  add_place(i % omp_get_num_places(), &set);
  if (CPU_COUNT(&set) > 0)
    (void)pthread_attr_setaffinity_np(attributes, sizeof set, &set);
#else
  (void)i, (void)attributes;
#endif
}

/* ---- helpers ---- */

/* A thread that waits for work, or is at it. */
struct helper {
  struct work *work;
  int worker; /* which of those at this work */
  pthread_cond_t called;
  struct helper *next; /* that is idle too */
};

static pthread_mutex_t calling = PTHREAD_MUTEX_INITIALIZER; /* of what follows, and what it is at */
static struct helper *idle;

static void *help(void *helper)
{
  struct helper *h = helper;
  (void)pthread_mutex_lock(&calling);
  for (;;) {
    while (h->work == NULL)
      (void)pthread_cond_wait(&h->called, &calling);
    struct work *w = h->work;
    (void)pthread_mutex_unlock(&calling);
    take_parts(w, h->worker);
    (void)pthread_mutex_lock(&calling);
    h->work = NULL;
    h->next = idle;
    idle = h;
    if (__atomic_sub_fetch(&w->helpers, 1, __ATOMIC_RELEASE) == 0)
      (void)pthread_cond_signal(&w->done);
  }
  return NULL;
}

/* The i-th worker of a call; false: no more threads can be had. */
static bool start(int i, struct work *w)
{
  pthread_attr_t attributes;
  pthread_t thread;
  struct helper *h = calloc(1, sizeof *h);
  if (h == NULL || pthread_cond_init(&h->called, NULL) || pthread_attr_init(&attributes)) {
    free(h);
    return false;
  }
  h->work = w, h->worker = i;
  choose_place(i, &attributes);
  (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  bool started = pthread_create(&thread, &attributes, help, h) == 0;
  (void)pthread_attr_destroy(&attributes);
  if (!started)
    free(h);
  return started;
}

/* Best is who was that worker before: its caches have what the worker works on. */
static struct helper *take_idle(int as)
{
  struct helper **best = &idle;
  for (struct helper **at = &idle; *at; at = &(*at)->next)
    if ((*at)->worker == as)
      best = at;
  struct helper *h = *best;
  if (h)
    *best = h->next;
  return h;
}

/* Sets so many helpers to work, or fewer. */
static void call_helpers(int wanted, struct work *w)
{
  (void)pthread_mutex_lock(&calling);
  for (int i = 1; i <= wanted; i++) {
    struct helper *h = take_idle(i);
    if (h) {
      h->work = w, h->worker = i;
      (void)pthread_cond_signal(&h->called);
    } else if (!start(i, w)) {
      break;
    }
    w->helpers++;
  }
  (void)pthread_mutex_unlock(&calling);
}

/* At first without sleeping: to be woken takes as long. */
static void await_helpers(struct work *w)
{
  enum { SPINS = 2000 };
  for (int i = 0; i < SPINS && __atomic_load_n(&w->helpers, __ATOMIC_ACQUIRE) > 0; i++)
    relax();
  (void)pthread_mutex_lock(&calling);
  while (w->helpers > 0)
    (void)pthread_cond_wait(&w->done, &calling);
  (void)pthread_mutex_unlock(&calling);
}

void parallel_run_and(int64_t count, int64_t more, int most, void (*f)(void *ctx, int64_t i),
                      void *ctx)
{
  int workers = parallel_workers(count);
  workers = workers < most ? workers : most;
  if (workers == 1) {
    for (int64_t i = 0; i < count + more; i++)
      f(ctx, i);
    return;
  }
  struct work w = {.f = f, .ctx = ctx, .count = count + more, .width = workers};
  w.done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  call_helpers(w.width - 1, &w);
  take_parts(&w, 0);
  await_helpers(&w);
}

void parallel_run(int64_t count, void (*f)(void *ctx, int64_t i), void *ctx)
{
  parallel_run_and(count, 0, THREADS_MOST, f, ctx);
}

static void *run_background(void *background)
{
  struct background *b = background;
  b->f(b->ctx);
  return NULL;
}

void background_run(struct background *b, void (*f)(void *ctx), void *ctx)
{
  b->f = f, b->ctx = ctx;
  b->running = pthread_create(&b->thread, NULL, run_background, b) == 0;
  if (!b->running)
    f(ctx);
}

void background_await(struct background *b)
{
  if (b->running)
    (void)pthread_join(b->thread, NULL);
  b->running = false;
}

#ifdef __linux__ /* the Makefile wraps nothing elsewhere */
void __real_GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);
void __wrap_GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);

/* threads: 0, as many as there may be; 1, its `if` was false */
void __wrap_GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags)
{
  int most = threads ? (int)threads : omp_get_max_threads();
  if (most == 1 && omp_get_level() == 0)
    body(data);
  else
    __real_GOMP_parallel(body, data, threads, flags);
}
#endif
