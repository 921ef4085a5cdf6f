/* statistics.h: intervals and quantiles of what was measured. */
#ifndef CORE_STATISTICS_H
#define CORE_STATISTICS_H
#include "core/evaluation.h"

/* Wilson's score interval, 95 %, of a share p seen in n trials (Wilson 1927).  n may be a fraction;
 * n = 0: [0, 1]. */
struct interval wilson_interval(double p, double n);

/* 95 % for the share of right tokens where the tokens of a sequence are not independent: right[i]
 * of sequence i's `each` tokens.  Wilson's interval with the effective number of trials
 * p (1 - p) / (variance of the mean over sequences), which is the number of sequences when each is
 * all right or all wrong, and when all are alike (Korn and Graubard 1998); never more than there
 * are tokens. */
struct interval share_interval(int64_t sequences, const int64_t *right, int64_t each);

/* The smallest value that at least a fraction q of x (n, sorted here) does not exceed; n = 0: NaN.
 */
double quantile(int64_t n, double *x, double q);
double median_of(int64_t n, double *x); /* the mean of the middle two; NaNs are left out */
#endif
