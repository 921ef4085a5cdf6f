/* spectral_radius.c: Arnoldi's method (Saad 2011, Numerical Methods for Large Eigenvalue Problems,
 * 6.2), rows side by side: an orthonormal basis Q of the span of q, A q, A^2 q, ...;
 *
 *   A Q = Q H + h e',    H (m,m) upper Hessenberg,
 *
 * whose eigenvalues approach the outer ones of A from a start with a part in every direction; with
 * m = n, or where the span closes, they are those of A.  The power method's Rayleigh quotient q'Aq
 * is H's first element: for a rotation by a right angle it is 0, whatever the radius. */
#include "core/spectral_radius.h"
#include "core/dense.h"
#include "core/philox.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct krylov {
  int64_t n, vectors, m; /* m: columns of H that are known */
  double *Q;             /* (vectors+1,n) */
  double *H;             /* (vectors,vectors) */
  bool closed;
};

static double dot(int64_t n, const double *x, const double *y)
{
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += x[i] * y[i];
  return sum;
}

static void start(struct krylov *k, uint32_t row)
{
  for (int64_t i = 0; i < k->n; i++) {
    uint32_t word[4];
    philox(0, STREAM_SPECTRUM, row, (uint32_t)i, 0, word);
    k->Q[i] = philox_normal(word);
  }
  double norm = dense_norm(k->n, k->Q);
  for (int64_t i = 0; i < k->n; i++)
    k->Q[i] /= norm;
}

/* Takes y = A q_m in: column m of H, and the next vector. */
static void extend(struct krylov *k, const double *y)
{
  int64_t n = k->n, m = k->m++;
  double *next = k->Q + (m + 1) * n, before = dense_norm(n, y);
  memcpy(next, y, (size_t)n * sizeof *next);
  for (int again = 0; again < 2; again++) /* twice is enough (Kahan, Parlett) */
    for (int64_t j = 0; j <= m; j++) {
      double h = dot(n, k->Q + j * n, next);
      k->H[j * k->vectors + m] += h;
      for (int64_t i = 0; i < n; i++)
        next[i] -= h * k->Q[j * n + i];
    }
  double left = dense_norm(n, next);
  if (!(left > 4 * DBL_EPSILON * before)) { /* the span closes, or is not finite */
    k->closed = true;
    return;
  }
  for (int64_t i = 0; i < n; i++)
    next[i] /= left;
  if (m + 1 < k->vectors)
    k->H[(m + 1) * k->vectors + m] = left;
}

static enum status radius_of(const struct krylov *k, double *radius)
{
  int64_t m = k->m;
  double *H = malloc((size_t)(m * m) * sizeof *H);
  if (!H)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < m; i++)
    memcpy(H + i * m, k->H + i * k->vectors, (size_t)m * sizeof *H);
  bool finite = isfinite(dense_norm(m * m, H));
  enum status s = finite ? dense_spectral_radius(NULL, m, H, radius) : OK;
  if (!finite)
    *radius = (double)NAN;
  free(H);
  return s;
}

static enum status iterate(int64_t rows, struct krylov *k, product_fn *product, void *ctx,
                           double *x, double *y)
{
  int64_t n = k[0].n;
  bool more = true;
  for (int64_t j = 0; more && j < k[0].vectors; j++) {
    for (int64_t r = 0; r < rows; r++) /* of a closed span the last vector, for nothing */
      memcpy(x + r * n, k[r].Q + (k[r].closed ? 0 : j * n), (size_t)n * sizeof *x);
    TRY(product(ctx, x, y));
    more = false;
    for (int64_t r = 0; r < rows; r++) {
      if (!k[r].closed)
        extend(&k[r], y + r * n);
      more = more || !k[r].closed;
    }
  }
  return OK;
}

enum status spectral_radii(int64_t rows, int64_t n, int64_t vectors, product_fn *product, void *ctx,
                           double *radius)
{
  int64_t m = vectors < n ? vectors : n, each = (m + 1) * n + m * m;
  struct krylov *k = calloc((size_t)rows, sizeof *k);
  double *memory = calloc((size_t)(rows * (each + 2 * n)), sizeof *memory);
  enum status s = OK;
  if (!k || !memory) {
    free(k), free(memory);
    FAIL(ERR_MEMORY, "out of memory for %lld vectors of %lld x %lld numbers", (long long)m,
         (long long)rows, (long long)n);
  }
  for (int64_t r = 0; r < rows; r++) {
    double *own = memory + r * each;
    k[r] = (struct krylov){.n = n, .vectors = m, .Q = own, .H = own + (m + 1) * n};
    start(&k[r], (uint32_t)r);
  }
  double *x = memory + rows * each;
  s = iterate(rows, k, product, ctx, x, x + rows * n);
  for (int64_t r = 0; s == OK && r < rows; r++)
    s = radius_of(&k[r], &radius[r]);
  free(k), free(memory);
  return s;
}
