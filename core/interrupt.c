/* interrupt.c: signals become a flag. */
#include "core/interrupt.h"
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t flag;
static struct timespec first; /* written and read only in the handler, which blocks itself */

static void on_signal(int signal_number)
{
  static const char text[] = "\nstopping in good order; once more to stop at once\n";
  int kept = errno;
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  if (!flag) {
    first = now;
    flag = 1;
    if (isatty(STDERR_FILENO))
      (void)!write(STDERR_FILENO, text, sizeof text - 1);
  } else if ((now.tv_sec - first.tv_sec) * 1000000000LL + now.tv_nsec - first.tv_nsec > 100000000) {
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

bool interrupted(void) { return flag; }
