/* parallel.c: parallel regions of one thread without a team.
 *
 * A loop that is too short for threads is a region of one (core/launch.h: `if`).  For each of them
 * gcc's libgomp makes a team and ends it with a system call, which costs more than the loops that
 * step on one token.  The programs are linked with --wrap=GOMP_parallel (Makefile): such a region,
 * outside of any other, becomes a call of its body, where OpenMP's functions answer as in a team of
 * one.  Other compilers' regions do not come here. */
#include <omp.h>

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
