/* interrupt.c: signals become a flag. */
#include "core/interrupt.h"
#include "core/status.h"
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t flag, at_once;
static int64_t first; /* nanoseconds; before the flag is set, and by any thread's handler: atomic */

static void on_signal(int signal_number)
{
  static const char text[] = "\nstopping in good order; once more to stop at once\n";
  int kept = errno;
  if (at_once)
    _exit(exit_code(ERR_INTERRUPTED));
  struct timespec t;
  (void)clock_gettime(CLOCK_MONOTONIC, &t);
  int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
  if (!flag) {
    __atomic_store_n(&first, now, __ATOMIC_SEQ_CST);
    flag = 1;
    if (isatty(STDERR_FILENO))
      (void)!write(STDERR_FILENO, text, sizeof text - 1);
  } else if (now - __atomic_load_n(&first, __ATOMIC_SEQ_CST) > 100000000) {
    (void)signal(signal_number, SIG_DFL);
    (void)raise(signal_number); /* takes effect when this handler returns */
  }
  errno = kept;
}

void interrupt_install(void)
{
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  (void)sigemptyset(&action.sa_mask);
  (void)sigaddset(&action.sa_mask, SIGINT);
  (void)sigaddset(&action.sa_mask, SIGTERM);
  (void)sigaction(SIGINT, &action, NULL);
  (void)sigaction(SIGTERM, &action, NULL);
  (void)signal(SIGXFSZ, SIG_IGN);
  (void)signal(SIGPIPE, SIG_IGN);
}

void interrupt_at_once(void) { at_once = 1; }
bool interrupted(void) { return flag; }
