/* jacobian_report.h: a verification for people, for programs and as figures. */
#ifndef EXPERIMENTS_JACOBIAN_REPORT_H
#define EXPERIMENTS_JACOBIAN_REPORT_H
#include "core/verification.h"
#include <stdio.h>

double jacobian_best_central(const struct verification *v); /* smallest of the sweep */
void jacobian_print(const struct verification *v, FILE *out);
MUST_USE enum status jacobian_write_json(const struct verification *v, const char *path);
/* implicit_explicit, theorem, histogram, sweep and, of several tokens, product; *drawn false: data
 * and scripts alone (plot.h). */
MUST_USE enum status jacobian_figures(const struct verification *v, const char *dir, bool *drawn);
#endif
