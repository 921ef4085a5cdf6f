/* sample_comparison.h: a comparison that nobody measured, for tests of how one is shown. */
#ifndef TESTS_SAMPLE_COMPARISON_H
#define TESTS_SAMPLE_COMPARISON_H
#include "experiments/compare.h"

/* `sections` sections of an implicit and three explicit groups of `seeds` runs; the first group of
 * each is called `label`. */
void sample_comparison_make(struct comparison *c, int64_t sections, int64_t seeds,
                            const char *label);
void sample_comparison_free(struct comparison *c);
#endif
