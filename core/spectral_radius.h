/* spectral_radius.h: the largest |eigenvalue| of matrices that are known by their products only. */
#ifndef CORE_SPECTRAL_RADIUS_H
#define CORE_SPECTRAL_RADIUS_H
#include "core/status.h"
#include <stdint.h>

/* y = A_r x for every row r at once; x, y (rows,n), not the same. */
typedef enum status product_fn(void *ctx, const double *x, double *y);

/* radius (rows) of A_r (n,n), by Arnoldi's method with at most `vectors` products: exact to
 * rounding when vectors >= n.  Complex pairs count as every other.  A product that is not finite
 * makes its row's radius NaN.  ERR_MEMORY, and what `product` fails with. */
MUST_USE enum status spectral_radii(int64_t rows, int64_t n, int64_t vectors, product_fn *product,
                                    void *ctx, double *radius);
#endif
