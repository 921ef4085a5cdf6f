/* spawn.h: our own programs, run as a user runs them. */
#ifndef TESTS_SPAWN_H
#define TESTS_SPAWN_H
#include "tests/scratch.h"
#include <sys/types.h>

/* What a program wrote, and how it ended: exit status, or 128 + signal. */
struct spawned {
  int status;
  char output[32768]; /* stdout and stderr together, as much as fits */
};

/* Starts build/NAME, from beside this test, with the words given (NULL ends them); stdout and
 * stderr go to `log`.  One thread, so that small models are quick, or SPAWN_THREADS of the
 * environment ("": as many as the machine has). */
pid_t spawn_start(const char *name, const char *log, const char *const *words);
int spawn_wait(pid_t pid); /* status as in struct spawned */
/* Both, with what it wrote. */
void spawn_run(const char *name, const char *const *words, struct spawned *r);
#define SPAWN(r, name, ...) spawn_run(name, (const char *const[]){__VA_ARGS__, NULL}, r)

/* Fails unless the program ended with `status` and wrote `text`. */
#define check_spawned(r, want, text) check_spawned_(__FILE__, __LINE__, r, want, text)
void check_spawned_(const char *file, int line, const struct spawned *r, int want,
                    const char *text);
bool same_files(const char *a, const char *b); /* byte for byte */
#endif
