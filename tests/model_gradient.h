/* model_gradient.h: a small model, and its gradient against the complex step. */
#ifndef TESTS_MODEL_GRADIENT_H
#define TESTS_MODEL_GRADIENT_H
#include "tests/check.h"
#include "tests/numeric/model_probe.h"

enum { ROWS = 2, LENGTH = 6 };

/* Two layers, two groups, untied head; several chunks.  `model` and `mamba2` are more keys of these
 * sections, each with a comma behind it; later ones are faults if they repeat ours. */
struct config small_model(const char *model, const char *mamba2);
/* Tokens, and labels (NULL: none) of which every fifth is ignored. */
void draw_tokens(int64_t n, int32_t *tokens, int32_t *labels);

/* What a batch is beside its tokens. */
struct gradient_case {
  enum gradient_kind kind;
  const int32_t *lengths;    /* (ROWS); NULL: all LENGTH */
  bool dropout, unconverged; /* the forward solve need not converge */
  bool direction;            /* also along a random direction */
  bool detach;               /* set by check_gradient: the solver's iterates are constants */
  double tol;
};
/* Checks the gradient by every parameter against the complex step through the same computation, and
 * along a random direction, if asked, against complex step (dot product) and central differences
 * (1e-7). */
void check_gradient(struct config c, struct gradient_case with);
#endif
