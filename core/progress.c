/* progress.c: the progress line.  Each change of the screen is one write, so that it does not tear.
 */
#include "core/progress.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double interval = .1;

double monotonic_seconds(void)
{
  struct timespec t = {0};
  (void)clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct progress progress_to(FILE *out)
{
  const char *term = getenv("TERM");
  return (struct progress){
      .out = out, .terminal = isatty(fileno(out)) && !(term && !strcmp(term, "dumb")), .shown = -1};
}

static int terminal_columns(FILE *out)
{
  struct winsize size;
  bool known = !ioctl(fileno(out), TIOCGWINSZ, &size) && size.ws_col > 1;
  return known ? size.ws_col : 80;
}

/* Ends text after `columns` characters; counts UTF-8's continuation bytes as nothing. */
static int cut(char *text, int columns)
{
  int n = 0;
  for (; *text; text++) {
    bool begins = ((unsigned char)*text & 0xC0) != 0x80;
    if ((begins && n == columns) || *text == '\n') {
      *text = 0;
      break;
    }
    n += begins;
  }
  return n;
}

/* Back to the margin, the text, blanks over what was longer before. */
static void draw(const struct progress *p, const char *text, int columns)
{
  char back[sizeof p->text] = "";
  int blanks = p->columns > columns ? p->columns - columns : 0;
  memset(back, '\b', (size_t)blanks);
  (void)fprintf(p->out, "\r%s%*s%s", text, blanks, "", back);
  (void)fflush(p->out);
}

void progress_show(struct progress *p, const char *format, ...)
{
  double now = monotonic_seconds();
  if (!p->terminal || (p->shown >= 0 && now - p->shown < interval))
    return;
  va_list args;
  va_start(args, format);
  (void)vsnprintf(p->text, sizeof p->text, format, args);
  va_end(args);
  int columns = cut(p->text, terminal_columns(p->out) - 1); /* the last column would wrap */
  draw(p, p->text, columns);
  p->columns = columns;
  p->shown = now;
}

void progress_clear(struct progress *p)
{
  if (p->columns)
    draw(p, "", 0);
  p->columns = 0;
  p->shown = -1;
}

void progress_log(struct progress *p, const char *format, ...)
{
  char *line;
  va_list args;
  va_start(args, format);
  if (vasprintf(&line, format, args) < 0)
    line = NULL;
  va_end(args);
  if (p->columns)
    (void)fprintf(p->out, "\r%*s\r%s\n%s", p->columns, "", line ? line : format, p->text);
  else
    (void)fprintf(p->out, "%s\n", line ? line : format);
  (void)fflush(p->out);
  free(line);
}

const char *format_duration(double s, char out[FORMAT_SIZE])
{
  if (!(s >= 0 && s < 1e12))
    return strcpy(out, "?");
  long long whole = llround(s), minutes = llround(s / 60), hours = llround(s / 3600);
  if (s < .995)
    (void)snprintf(out, FORMAT_SIZE, "%.2fs", s);
  else if (s < 9.95)
    (void)snprintf(out, FORMAT_SIZE, "%.1fs", s);
  else if (whole < 60)
    (void)snprintf(out, FORMAT_SIZE, "%llds", whole);
  else if (whole < 3600)
    (void)snprintf(out, FORMAT_SIZE, "%lldm%02llds", whole / 60, whole % 60);
  else if (minutes < 1440)
    (void)snprintf(out, FORMAT_SIZE, "%lldh%02lldm", minutes / 60, minutes % 60);
  else
    (void)snprintf(out, FORMAT_SIZE, "%lldd%02lldh", hours / 24, hours % 24);
  return out;
}

const char *format_count(double n, char out[FORMAT_SIZE])
{
  static const char unit[] = " kMGTPE";
  if (!isfinite(n))
    return strcpy(out, "?");
  int u = 0;
  for (; fabs(n) >= 999.5 && u + 2 < (int)sizeof unit; u++) /* 999.5 would be shown as 1e+03 */
    n /= 1000;
  if (!u)
    (void)snprintf(out, FORMAT_SIZE, "%.3g", n);
  else
    (void)snprintf(out, FORMAT_SIZE, "%.*f%c", fabs(n) < 9.995 ? 2 : fabs(n) < 99.95, n, unit[u]);
  return out;
}
