/* statistics.c: see statistics.h. */
#include "core/statistics.h"
#include <math.h>
#include <stdlib.h>

static const double normal_975 = 1.959963984540054; /* quantile of the normal distribution */

struct interval wilson_interval(double p, double n)
{
  double z = normal_975;
  if (!(n > 0))
    return (struct interval){0, 1};
  double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
  double half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  double low = p <= 0 ? 0 : centre - half, high = p >= 1 ? 1 : centre + half;
  return (struct interval){fmax(0, low), fmin(1, high)};
}

struct interval share_interval(int64_t sequences, const int64_t *right, int64_t each)
{
  double n = (double)sequences, tokens = n * (double)each, squares = 0;
  int64_t all = 0;
  if (sequences < 1 || each < 1)
    return (struct interval){0, 1};
  for (int64_t i = 0; i < sequences; i++)
    all += right[i];
  for (int64_t i = 0; i < sequences; i++) {
    double d = (double)(right[i] * sequences - all); /* exactly 0 when all are alike */
    squares += d * d;
  }
  double mean = (double)all / tokens, variance = squares / (tokens * tokens * n);
  double trials = variance > 0 ? mean * (1 - mean) * n / variance : n;
  return wilson_interval(mean, fmin(trials, tokens));
}

static int ascending(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double quantile(int64_t n, double *x, double q)
{
  if (n < 1)
    return (double)NAN;
  qsort(x, (size_t)n, sizeof *x, ascending);
  int64_t i = (int64_t)ceil(q * (double)n) - 1;
  return x[i < 0 ? 0 : i < n ? i : n - 1];
}

double median_of(int64_t n, double *x)
{
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++)
    if (!isnan(x[i]))
      x[count++] = x[i];
  if (count == 0)
    return (double)NAN;
  qsort(x, (size_t)count, sizeof *x, ascending);
  return count % 2 ? x[count / 2] : 0.5 * (x[count / 2 - 1] + x[count / 2]);
}
