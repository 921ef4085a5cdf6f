/* plot.c: see plot.h. */
#include "experiments/plot.h"
#include "core/files.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char palettes[] =
    "set encoding utf8\n"
    "SEQUENTIAL = \"defined (0 '#fde725', 0.25 '#5ec962', 0.5 '#21918c', 0.75 '#3b528b', "
    "1 '#440154')\"\n"
    "DIVERGING = \"defined (-1 '#2166ac', -0.5 '#92c5de', 0 '#f7f7f7', 0.5 '#f4a582', "
    "1 '#b2182b')\"\n"
    "set macros\n"
    "set border linewidth 0.8\n"
    "set tics nomirror out\n"
    "set linetype 1 linecolor '#2166ac' linewidth 2 pointtype 7 pointsize 0.6\n"
    "set linetype 2 linecolor '#b2182b' linewidth 2 pointtype 5 pointsize 0.6\n"
    "set linetype 3 linecolor '#1b7837' linewidth 2 pointtype 9 pointsize 0.7\n"
    "set linetype 4 linecolor '#e08214' linewidth 2 pointtype 13 pointsize 0.7\n";

enum status plot_begin(struct plot *p, const char *dir, const char *name, int width, int height)
{
  *p = (struct plot){.dir = dir, .name = name, .width = width, .height = height};
  p->font = 11;
  p->scale = 1;
  return directory_make(dir);
}

const char *plot_file(struct plot *p, const char *what)
{
  (void)snprintf(p->file, sizeof p->file, "%s-%s.dat", p->name, what);
  return p->file;
}

/* Of characters from U+2E80 on the usual fonts have none, and what stands for one is as large as
 * the figure. */
static bool beyond_fonts(const char *text) { return strncmp(text, "\xE2\xBA\x80", 3) >= 0; }

const char *plot_quote(const char *text, char out[PLOT_QUOTE])
{
  size_t n = 0;
  out[n++] = '\'';
  for (; *text && n < PLOT_QUOTE - 4; text++) {
    if (*text == '\'')
      out[n++] = '\'';
    out[n++] = *text;
    if ((unsigned char)*text < ' ')
      out[n - 1] = ' ';
    if (beyond_fonts(text)) {
      out[n - 1] = '?';
      while (((unsigned char)text[1] & 0xC0) == 0x80)
        text++;
    }
  }
  /* the bytes of a character stay together */
  while (*text && ((unsigned char)*text & 0xC0) == 0x80 && n < PLOT_QUOTE - 2)
    out[n++] = *text++;
  out[n++] = '\'';
  out[n] = 0;
  return out;
}

static enum status open_data(struct plot *p, const char *what, struct file_writer *w)
{
  char path[2048];
  TRY(path_join(path, sizeof path, p->dir, plot_file(p, what)));
  return file_begin(path, w);
}

static void write_number(FILE *out, double x, bool last)
{
  if (x - x == 0)
    (void)fprintf(out, "%.9g%c", x, last ? '\n' : ' ');
  else
    (void)fprintf(out, "NaN%c", last ? '\n' : ' ');
}

enum status plot_data(struct plot *p, const char *what, const char *names, int64_t columns,
                      int64_t rows, const double *values)
{
  struct file_writer w;
  TRY(open_data(p, what, &w));
  (void)fprintf(w.out, "# %s\n", names);
  for (int64_t i = 0; i < rows * columns; i++)
    write_number(w.out, values[i], (i + 1) % columns == 0);
  return file_commit(&w);
}

enum status plot_matrix(struct plot *p, const char *what, int64_t n, const double *values,
                        int64_t *cell)
{
  enum { MOST = 512 };
  struct file_writer w;
  TRY(open_data(p, what, &w));
  *cell = (n + MOST - 1) / MOST;
  for (int64_t i = 0; i < n; i += *cell)
    for (int64_t j = 0; j < n; j += *cell) {
      double largest = 0;
      for (int64_t a = i; a < n && a < i + *cell; a++)
        for (int64_t b = j; b < n && b < j + *cell; b++)
          if (fabs(values[a * n + b]) > fabs(largest))
            largest = values[a * n + b];
      write_number(w.out, largest, j + *cell >= n);
    }
  return file_commit(&w);
}

void plot_line(struct plot *p, const char *format, ...)
{
  char line[4096];
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  CHECK(n >= 0 && (size_t)n < sizeof line - 1);
  line[n] = '\n', line[n + 1] = 0;
  unsigned long need = p->used + (unsigned long)n + 2;
  if (need > p->size) {
    char *grown = realloc(p->body, 2 * need);
    if (!grown) {
      p->out_of_memory = true;
      return;
    }
    p->body = grown;
    p->size = 2 * need;
  }
  memcpy(p->body + p->used, line, (size_t)n + 2);
  p->used += (unsigned long)n + 1;
}

/* The body for both terminals, so that `gnuplot NAME.gp` draws everything again. */
static enum status write_script(const struct plot *p, const char *file)
{
  struct file_writer w;
  char path[2048];
  TRY(path_join(path, sizeof path, p->dir, file));
  TRY(file_begin(path, &w));
  (void)fprintf(w.out, "# gnuplot %s, in this directory, draws %s.png and %s.svg\n%s", file,
                p->name, p->name, palettes);
  for (int svg = 0; svg < 2; svg++) {
    int scale = svg ? 1 : p->scale;
    (void)fprintf(w.out, "set terminal %s size %d,%d font '%s,%d'", svg ? "svg" : "pngcairo",
                  p->width * scale, p->height * scale, svg ? "sans-serif" : "DejaVu Sans",
                  svg ? p->font * 7 / 6 : p->font); /* SVG: pixels, which are smaller */
    if (scale != 1)
      (void)fprintf(w.out, " fontscale %d linewidth %d pointscale %d dashlength 1", scale, scale,
                    scale);
    (void)fprintf(w.out, " %s\nset output '%s.%s'\n%sset output\nreset\n%s",
                  svg ? "background 'white'" : "enhanced", p->name, svg ? "svg" : "png", p->body,
                  svg ? "" : palettes);
  }
  return file_commit(&w);
}

/* *status: what gnuplot left, or -1 when it cannot be started.  What it says goes to the file `log`
 * of the directory. */
static enum status run_gnuplot(const char *dir, char *script, const char *log, int *status)
{
  posix_spawn_file_actions_t in;
  char program[] = "gnuplot", *arguments[] = {program, script, NULL};
  pid_t child;
  if (posix_spawn_file_actions_init(&in))
    FAIL(ERR_MEMORY, "out of memory");
  int failed = posix_spawn_file_actions_addchdir_np(&in, dir);
  if (!failed)
    failed = posix_spawn_file_actions_addopen(&in, STDERR_FILENO, log, O_WRONLY | O_CREAT | O_TRUNC,
                                              0666);
  if (!failed)
    failed = posix_spawnp(&child, program, &in, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&in);
  *status = -1;
  if (failed == ENOENT || failed == EACCES)
    return OK;
  if (failed)
    FAIL(ERR_IO, "gnuplot cannot be started: %s", strerror(failed));
  while (waitpid(child, status, 0) < 0)
    if (errno != EINTR)
      FAIL(ERR_IO, "gnuplot: %s", strerror(errno));
  return OK;
}

static enum status remove_file(const struct plot *p, const char *kind)
{
  char file[160], path[2048];
  (void)snprintf(file, sizeof file, "%s.%s", p->name, kind);
  TRY(path_join(path, sizeof path, p->dir, file));
  if (unlink(path) && errno != ENOENT)
    FAIL_IO(path, "remove");
  return OK;
}

enum status plot_end(struct plot *p, bool *drawn)
{
  char script[128], log[128];
  int status = -1;
  *drawn = false;
  if (p->out_of_memory) {
    plot_abandon(p);
    FAIL(ERR_MEMORY, "%s/%s: out of memory", p->dir, p->name);
  }
  (void)snprintf(script, sizeof script, "%s.gp", p->name);
  (void)snprintf(log, sizeof log, "%s.log", p->name);
  enum status s = write_script(p, script);
  plot_abandon(p);
  TRY(s);
  TRY(remove_file(p, "png")); /* what an earlier call drew is not this figure */
  TRY(remove_file(p, "svg"));
  TRY(run_gnuplot(p->dir, script, log, &status));
  bool absent = status == -1 || (WIFEXITED(status) && WEXITSTATUS(status) == 127);
  *drawn = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!absent && !*drawn) {
    TRY(remove_file(p, "png")); /* what it began */
    TRY(remove_file(p, "svg"));
    FAIL(ERR_DATA, "%s/%s: gnuplot failed; %s holds what it said", p->dir, script, log);
  }
  return remove_file(p, "log"); /* warnings */
}

enum status plot_remove(const char *dir, const char *name)
{
  const struct plot p = {.dir = dir, .name = name};
  TRY(remove_file(&p, "png"));
  TRY(remove_file(&p, "svg"));
  return remove_file(&p, "gp");
}

void plot_abandon(struct plot *p)
{
  free(p->body);
  p->body = NULL;
  p->used = p->size = 0;
}

const char *plot_hint(void)
{
  return "no gnuplot here: the figures' data and scripts are written; for the figures install "
         "gnuplot\n(Debian, Ubuntu: apt install gnuplot-nox) and run `gnuplot NAME.gp` in that "
         "directory, or run this again";
}
