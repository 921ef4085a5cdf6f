/* test_progress.c: the progress line on a terminal and elsewhere, and stopping by signal. */
#include "core/interrupt.h"
#include "core/progress.h"
#include "tests/check.h"
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void nap(double seconds)
{
  struct timespec t = {.tv_sec = (time_t)seconds,
                       .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
  (void)nanosleep(&t, NULL);
}

/* ---- a terminal of 20 columns ---- */

static int terminal, screen; /* the program's end and ours */
static FILE *out;

static int open_terminal(void **state)
{
  (void)state;
  struct winsize size = {.ws_row = 5, .ws_col = 20};
  assert_int_equal(setenv("TERM", "xterm", 1), 0);
  if (openpty(&screen, &terminal, NULL, NULL, &size))
    return -1;
  out = fdopen(terminal, "w");
  return out ? 0 : -1;
}

static int close_terminal(void **state)
{
  (void)state;
  return fclose(out) | close(screen);
}

/* What was sent since the last call.  A terminal delivers when its kernel thread comes to it: what
 * lies before a mark of ours is there once the mark is. */
static const char *sent(void)
{
  enum { MARK = 1 };
  static char text[4096];
  size_t n = 0;
  struct pollfd ready = {.fd = screen, .events = POLLIN};
  assert_int_equal(fputc(MARK, out), MARK);
  assert_int_equal(fflush(out), 0);
  while ((n == 0 || text[n - 1] != MARK) && n < sizeof text && poll(&ready, 1, 10000) > 0) {
    ssize_t more = read(screen, text + n, sizeof text - n);
    assert_true(more > 0);
    n += (size_t)more;
  }
  assert_true(n > 0 && text[n - 1] == MARK);
  text[n - 1] = 0;
  return text;
}

/* The line that a person sees after `text`: \r and \b move, other characters overwrite. */
static const char *seen(const char *text)
{
  static char line[256];
  size_t at = 0;
  memset(line, 0, sizeof line);
  for (; *text; text++) {
    if (*text == '\r')
      at = 0;
    else if (*text == '\b')
      at -= at > 0;
    else if (*text == '\n')
      memset(line, 0, sizeof line), at = 0;
    else
      line[at++] = *text;
  }
  for (size_t n = strlen(line); n && line[n - 1] == ' ';)
    line[--n] = 0;
  return line;
}

static void the_line_is_rewritten(void **state)
{
  (void)state;
  char all[4096] = "";
  struct progress p = progress_to(out);
  progress_show(&p, "step %d of %d", 10, 200);
  strcat(all, sent());
  assert_string_equal(seen(all), "step 10 of 200");
  nap(.11);
  progress_show(&p, "done");
  strcat(all, sent());
  assert_string_equal(seen(all), "done");
  assert_null(strchr(all, '\n'));
  nap(.11);
  progress_show(&p, "a line that is longer than the terminal\nand another");
  strcat(all, sent());
  assert_string_equal(seen(all), "a line that is long"); /* 19 of 20: it must not wrap */
  progress_clear(&p);
  strcat(all, sent());
  assert_string_equal(seen(all), "");
  progress_clear(&p);
  assert_string_equal(sent(), "");
}

static void logging_does_not_tear_the_line(void **state)
{
  (void)state;
  struct progress p = progress_to(out);
  progress_show(&p, "step 1");
  (void)sent();
  progress_log(&p, "hi %d", 5);
  const char *text = sent(), *end = strstr(text, "hi 5\r\n");
  assert_non_null(end);
  assert_string_equal(end + 6, "step 1"); /* drawn again below */
  char above[64] = "step 1";
  strncat(above, text, (size_t)(end - text) + 4);
  assert_string_equal(seen(above), "hi 5");
  progress_clear(&p);
  (void)sent();
  progress_log(&p, "end");
  assert_string_equal(sent(), "end\r\n");
}

static void the_line_is_not_rewritten_too_often(void **state)
{
  (void)state;
  struct progress p = progress_to(out);
  int drawn = 0;
  double start = monotonic_seconds(), took;
  for (int i = 0; (took = monotonic_seconds() - start) < .35; i++) {
    progress_show(&p, "step %d", i);
    drawn += strchr(sent(), '\r') != NULL;
  }
  assert_true(drawn >= 1);
  assert_true(drawn <= (int)(took / .1) + 1);
}

static void elsewhere_only_lines(void **state)
{
  (void)state;
  char text[64] = "";
  FILE *file = tmpfile();
  assert_non_null(file);
  struct progress p = progress_to(file);
  progress_show(&p, "step 1");
  progress_log(&p, "step %d", 2);
  progress_clear(&p);
  rewind(file);
  assert_int_equal(fread(text, 1, sizeof text - 1, file), 7);
  assert_string_equal(text, "step 2\n");
  assert_int_equal(fclose(file), 0);
  assert_int_equal(setenv("TERM", "dumb", 1), 0);
  p = progress_to(out);
  assert_false(p.terminal);
}

static void durations_and_counts(void **state)
{
  (void)state;
  static const struct {
    double value;
    const char *text;
  } duration[] = {{0, "0.00s"},      {.42, "0.42s"},  {.996, "1.0s"},   {4.25, "4.2s"},
                  {9.96, "10s"},     {59.4, "59s"},   {59.6, "1m00s"},  {92, "1m32s"},
                  {3599.6, "1h00m"}, {7500, "2h05m"}, {86399, "1d00h"}, {273600, "3d04h"},
                  {-1, "?"},         {1. / 0., "?"},  {0. / 0., "?"}},
    count[] = {{0, "0"},          {.5, "0.5"},       {999, "999"},     {999.6, "1.00k"},
               {1234, "1.23k"},   {9996, "10.0k"},   {12345, "12.3k"}, {123456, "123k"},
               {999600, "1.00M"}, {-2500, "-2.50k"}, {1.5e9, "1.50G"}, {0. / 0., "?"}};
  char out_text[FORMAT_SIZE];
  for (size_t i = 0; i < sizeof duration / sizeof duration[0]; i++)
    assert_string_equal(format_duration(duration[i].value, out_text), duration[i].text);
  for (size_t i = 0; i < sizeof count / sizeof count[0]; i++)
    assert_string_equal(format_count(count[i].value, out_text), count[i].text);
  (void)format_duration(9.9e11, out_text);
  (void)format_count(-1e300, out_text);
}

/* ---- signals: each story in a process of its own, which exits 0 when it went well ---- */

static int outcome(void (*story)(void))
{
  int status;
  pid_t child = fork();
  assert_true(child >= 0);
  if (!child) {
    (void)close(STDERR_FILENO); /* the handler speaks to terminals */
    interrupt_install();
    story();
    _exit(1);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  return status;
}

static void one_signal(void)
{
  if (interrupted())
    _exit(2);
  (void)raise(SIGTERM);
  (void)raise(SIGINT); /* at once: a launcher's copy of the same wish */
  _exit(interrupted() ? 0 : 3);
}

static void two_signals(void)
{
  (void)raise(SIGINT);
  nap(.12);
  (void)raise(SIGINT);
}

static void broken_pipe_and_size_limit(void)
{
  int end[2];
  struct rlimit none = {.rlim_cur = 0, .rlim_max = 0};
  FILE *file = tmpfile();
  if (!file || pipe(end) || close(end[0]) || setrlimit(RLIMIT_FSIZE, &none))
    _exit(2);
  bool fail = write(end[1], "x", 1) < 0 && write(fileno(file), "x", 1) < 0;
  _exit(fail ? 0 : 3);
}

static void signals_stop_in_good_order(void **state)
{
  (void)state;
  assert_int_equal(outcome(one_signal), 0);
  int status = outcome(two_signals);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), SIGINT);
  assert_int_equal(outcome(broken_pipe_and_size_limit), 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(the_line_is_rewritten, open_terminal, close_terminal),
      cmocka_unit_test_setup_teardown(logging_does_not_tear_the_line, open_terminal,
                                      close_terminal),
      cmocka_unit_test_setup_teardown(the_line_is_not_rewritten_too_often, open_terminal,
                                      close_terminal),
      cmocka_unit_test_setup_teardown(elsewhere_only_lines, open_terminal, close_terminal),
      cmocka_unit_test(durations_and_counts),
      cmocka_unit_test(signals_stop_in_good_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
