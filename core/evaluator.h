/* evaluator.h: a trained model in memory, to be evaluated. */
#ifndef CORE_EVALUATOR_H
#define CORE_EVALUATOR_H
#include "core/network.h"
#include "core/weights.h"

#define evaluator NAME(evaluator)
#define evaluator_open NAME(evaluator_open)

enum { TOKENS_PER_BATCH = 16384 };

struct evaluator {
  const struct config *c;
  const struct solver_port *solver;
  struct weights w; /* set[0]: the parameters */
};

/* The model directory's model, with `sets` blocks of its layout; weights_close(&e->w). */
MUST_USE enum status evaluator_open(const struct config *c, const struct backend *be,
                                    const struct solver_port *solver, const char *dir, int sets,
                                    struct evaluator *e);
#endif
