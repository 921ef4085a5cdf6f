/* evaluation_json.h: an evaluation as `evaluate --json` and `compare` write it, and read back. */
#ifndef EXPERIMENTS_EVALUATION_JSON_H
#define EXPERIMENTS_EVALUATION_JSON_H
#include "core/evaluation.h"
#include "experiments/exchange.h"

/* kind, parameters, modes; `closely`: what evaluation_request.closely adds, too. */
void exchange_evaluation(struct exchange *x, bool closely, struct evaluation *e);
#endif
