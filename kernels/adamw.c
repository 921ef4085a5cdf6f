/* adamw: one step on n parameters, with decoupled weight decay.
 *   g' = scale g;  m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2
 *   p -= lr (m/(1-b1^step) / (sqrt(v/(1-b2^step)) + eps) + decay p)        step = 1, 2, ...
 * Reference: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.
 */
#include "kernels/operations.h"

struct update {
  real scale, beta1, rest1, beta2, rest2; /* rest = 1 - beta */
  real rate, correction2, eps, shrink;    /* lr/(1-b1^step), 1/(1-b2^step), 1 - lr decay */
};

KERNEL update_all(int64_t n, struct update u, const real *g, real *m, real *v, real *p)
{
  FOR_EACH_SIMD (i, n) {
    real gi = u.scale * g[i];
    real mi = u.beta1 * m[i] + u.rest1 * gi, vi = u.beta2 * v[i] + u.rest2 * gi * gi;
    m[i] = mi;
    v[i] = vi;
    p[i] = u.shrink * p[i] - u.rate * mi / (sqrt(vi * u.correction2) + u.eps);
  }
}

void OP(adamw)(stream st, int64_t n, int64_t step, double lr, double beta1, double beta2,
               double eps, double decay, double scale, const DEVICE real *g, DEVICE real *m,
               DEVICE real *v, DEVICE real *p)
{
  struct update u;
  u.scale = (real)scale;
  u.beta1 = (real)beta1;
  u.rest1 = (real)(1 - beta1);
  u.beta2 = (real)beta2;
  u.rest2 = (real)(1 - beta2);
  u.rate = (real)(lr / (1 - pow(beta1, (double)step)));
  u.correction2 = (real)(1 / (1 - pow(beta2, (double)step)));
  u.eps = (real)eps;
  u.shrink = (real)(1 - lr * decay);
  LAUNCH(st, n, update_all, n, u, g, m, v, p);
}
