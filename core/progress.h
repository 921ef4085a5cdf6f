/* progress.h: what a long program says while it works.
 *
 * On a terminal one line is rewritten in place, at most ten times a second; elsewhere progress_show
 * prints nothing and the program logs a line whenever it thinks fit.  For one thread.  Output is a
 * courtesy: when it fails nobody can be told, so the results of the writes are not looked at. */
#ifndef CORE_PROGRESS_H
#define CORE_PROGRESS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct progress {
  FILE *out;
  bool terminal;
  char text[512]; /* the line as last shown, cut to the terminal */
  int columns;    /* that it takes on the screen; 0: none is shown */
  double shown;   /* when, in seconds of the monotonic clock */
};

struct progress progress_to(FILE *out); /* usually stderr */
/* Rewrites the line, if it is a terminal and a tenth of a second has passed. */
void progress_show(struct progress *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* An ordinary line (the newline is added) above the progress line, which is drawn again. */
void progress_log(struct progress *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void progress_clear(struct progress *p); /* takes the line off the screen; at the end */

/* "0.42s", "4.2s", "42s", "1m32s", "2h05m", "3d04h"; "?" when negative or not finite. */
enum { FORMAT_SIZE = 32 };
const char *format_duration(double seconds, char out[FORMAT_SIZE]);
/* "0.5", "999", "1.23k", "12.3k", "123M"; "?" when not finite. */
const char *format_count(double n, char out[FORMAT_SIZE]);
double monotonic_seconds(void);
#endif
