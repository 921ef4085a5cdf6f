/* plot.h: figures, drawn by gnuplot as a child process.
 *
 * A figure NAME in a directory is its data (NAME-WHAT.dat, text that any program reads), a script
 * (NAME.gp, which draws it again) and, where gnuplot is installed, NAME.png and NAME.svg.
 *
 *   struct plot p;
 *   TRY(plot_begin(&p, dir, "sweep", 640, 480));
 *   TRY(plot_data(&p, "errors", "step error", 2, rows, values));
 *   plot_line(&p, "plot '%s' using 1:2 with lines", plot_file(&p, "errors"));
 *   TRY(plot_end(&p, &drawn));
 *
 * Every script starts with our palettes, as macros: @SEQUENTIAL and @DIVERGING. */
#ifndef EXPERIMENTS_PLOT_H
#define EXPERIMENTS_PLOT_H
#include "core/status.h"
#include <stdbool.h>
#include <stdint.h>

struct plot {
  const char *dir, *name; /* the caller's */
  int width, height;      /* pixels */
  int font, scale;        /* points; the PNG's pixels to one of the SVG: 11 and 1 unless set */
  char *body;             /* the script without terminals */
  unsigned long used, size;
  bool out_of_memory; /* reported by plot_end */
  char file[128];     /* plot_file's answer */
};

/* Makes the directory.  ERR_IO. */
MUST_USE enum status plot_begin(struct plot *p, const char *dir, const char *name, int width,
                                int height);
/* A table (rows,columns), one line a row below a comment with the columns' names.  ERR_IO. */
MUST_USE enum status plot_data(struct plot *p, const char *what, const char *names, int64_t columns,
                               int64_t rows, const double *values);
/* A matrix (n,n) for `matrix with image`; above 512 rows each cell is the entry of largest absolute
 * value of a square of entries, *cell entries wide.  ERR_IO. */
MUST_USE enum status plot_matrix(struct plot *p, const char *what, int64_t n, const double *values,
                                 int64_t *cell);
const char *plot_file(struct plot *p, const char *what); /* good for the next call only */
/* Text of a user as a string of gnuplot's, whatever is in it: quotes and all; cut to fit; what
 * fonts lack (from U+2E80 on) as question marks. */
enum { PLOT_QUOTE = 512 };
const char *plot_quote(const char *text, char out[PLOT_QUOTE]);
/* Adds a line to the script. */
void plot_line(struct plot *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Writes the script and draws; *drawn false: there is no gnuplot.  Empties p.  ERR_IO, ERR_MEMORY,
 * ERR_DATA when gnuplot fails, and then NAME.log holds what it said. */
MUST_USE enum status plot_end(struct plot *p, bool *drawn);
void plot_abandon(struct plot *p);
/* What an earlier call of the same directory and name drew.  ERR_IO. */
MUST_USE enum status plot_remove(const char *dir, const char *name);
/* What to do where nothing was drawn, for the user. */
const char *plot_hint(void);
#endif
