/* compare.h: trained runs beside each other: what was measured, and how it is shown.
 *
 * comparison -> sections (runs on the same data) -> groups (runs that differ by seed and name only)
 * -> runs.  NaN: not known or not measured. */
#ifndef EXPERIMENTS_COMPARE_H
#define EXPERIMENTS_COMPARE_H
#include "core/run.h"

enum { COMPARE_PATH = 2 * CONFIG_PATH, COMPARE_LABEL = 192, COMPARE_IMAGE = 128 };

/* metrics.jsonl: one point a logged step. */
struct compared_curve {
  int64_t points;
  double *tokens, *flops, *loss, *accuracy; /* (points); flops cumulative, NaN where unknown */
};

/* The state-to-state Jacobian dh_t/dh_{t-1} (core/jacobian.h) at a few tokens of the task. */
struct compared_jacobian {
  char missing[96];    /* why there is none, as "too large: 16384 states"; "": there is one */
  int64_t states;      /* J is (states,states) */
  int64_t tokens;      /* at which it was taken */
  double off_diagonal; /* norm of the off-diagonal entries over that of all; mean over the tokens */
  double within_layers; /* the same, of the diagonal blocks of the layers: explicit models: 0 */
  double radius;        /* spectral; mean; NaN above 512 states */
  int64_t image;        /* at most COMPARE_IMAGE */
  double *absolute;     /* (image,image) |J| at the last token: the largest entry of each square */
};

struct compared_run {
  char directory[COMPARE_PATH]; /* as the user gave it */
  char checkpoint[COMPARE_PATH];
  char label[COMPARE_LABEL]; /* what its group is called; "": nobody said */
  struct config config;      /* with the overrides that it is evaluated with */
  struct config trained;     /* without */
  int64_t step;              /* of the checkpoint; config.train.steps when it is finished */
  int64_t tokens;            /* trained on: labels that counted */
  int64_t text; /* data_fingerprint of what it was trained on; 0: no text, or unknown */
  double flops; /* of training, core/flops.h */
  double seconds, tokens_per_second, peak_memory; /* of training; peak_memory in bytes */
  struct compared_curve curve;
  struct evaluation evaluation;
  struct compared_jacobian jacobian;
  bool cached; /* the evaluation was read, not measured */
};

/* Runs that differ by seed, name and place only, of one step; no two have one seed: these would be
 * another state or copy of a model, and no other draw of it. */
struct compared_group {
  char label[COMPARE_LABEL];   /* short, unique in its section: of the list, or from the names */
  char differs[COMPARE_LABEL]; /* "model.kind: implicit, model.n_layer: 2": what sets it apart */
  int64_t count;
  const struct compared_run **run; /* (count) by seed */
};

/* Runs on the same data. */
struct compared_section {
  char name[CONFIG_WORD];   /* "" where there is one only and it has no name */
  char data[COMPARE_LABEL]; /* "word problem S3" */
  int64_t lengths_count, lengths[CONFIG_LENGTHS], sequences;
  int64_t runs, groups;
  struct compared_run *run;
  struct compared_group *group;
};

struct comparison {
  int words;               /* the command that made it; 0: not known */
  const char *const *word; /* (words), the caller's */
  char title[COMPARE_LABEL], machine[COMPARE_LABEL], date[32]; /* date: 2026-11-22 */
  int64_t sections;
  struct compared_section *section;
};

/* Median over a group's runs of value(run, i), NaN left out; all NaN: NaN. */
double compared_median(const struct compared_group *g,
                       double (*value)(const struct compared_run *r, int64_t i), int64_t i);

/* Terminal table, CSV, JSON, Markdown (compare_table.c, compare_json.c).  ERR_IO, ERR_MEMORY. */
void compare_print(const struct comparison *c, FILE *out);
MUST_USE enum status compare_csv(const struct comparison *c, const char *file);
MUST_USE enum status compare_json(const struct comparison *c, const char *file);
MUST_USE enum status compare_markdown(const struct comparison *c, const char *file);

/* Every figure of every section into `dir` (compare_figures.c); *drawn false: data and scripts
 * alone (plot.h). */
MUST_USE enum status compare_figures(const struct comparison *c, const char *dir, bool *drawn);
/* One self-contained page, with those figures of `dir` that exist inside it (compare_html.c). */
MUST_USE enum status compare_html(const struct comparison *c, const char *dir, const char *file);
#endif
