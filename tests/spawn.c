/* spawn.c: see spawn.h. */
#include "tests/spawn.h"
#include "core/files.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS_MAX = 64 };

/* build/NAME, from build/tests/THIS */
static void program_path(const char *name, char *out, size_t size)
{
  char self[512];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  assert_true(n > 0);
  self[n] = 0;
  for (int i = 0; i < 2; i++)
    *strrchr(self, '/') = 0;
  (void)snprintf(out, size, "%s/%s", self, name);
}

pid_t spawn_start(const char *name, const char *log, const char *const *words)
{
  char path[1024];
  char *argv[WORDS_MAX + 2] = {path};
  program_path(name, path, sizeof path);
  for (int i = 0; words[i]; i++) {
    assert_true(i < WORDS_MAX);
    argv[i + 1] = (char *)(uintptr_t)words[i];
  }
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    (void)dup2(fd, STDOUT_FILENO);
    (void)dup2(fd, STDERR_FILENO);
    const char *threads = getenv("SPAWN_THREADS");
    (void)setenv("OMP_NUM_THREADS", threads ? threads : "1", 1);
    if (threads && !*threads)
      (void)unsetenv("OMP_NUM_THREADS");
    (void)execv(path, argv);
    perror(path);
    _exit(99);
  }
  return pid;
}

int spawn_wait(pid_t pid)
{
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void spawn_run(const char *name, const char *const *words, struct spawned *r)
{
  char log[512];
  char *text;
  size_t n;
  (void)snprintf(log, sizeof log, "%s", scratch("spawned.log"));
  r->status = spawn_wait(spawn_start(name, log, words));
  check_ok(file_read(log, &text, &n));
  (void)snprintf(r->output, sizeof r->output, "%s", text);
  free(text);
}

void check_spawned_(const char *file, int line, const struct spawned *r, int want, const char *text)
{
  if (r->status == want && strstr(r->output, text))
    return;
  print_error("ended with %d, expected %d with \"%s\"; it wrote:\n%s\n", r->status, want, text,
              r->output);
  _fail(file, line);
}

bool same_files(const char *a, const char *b)
{
  char *x = NULL, *y = NULL;
  size_t n, m;
  check_ok(file_read(a, &x, &n));
  check_ok(file_read(b, &y, &m));
  bool same = n == m && !memcmp(x, y, n);
  free(x), free(y);
  return same;
}
