/* linear_conv: zx = beta c + xn W' + b, where xn may be the norm of h, and y = the convolution of
 * its columns from `first` on with silu: rmsnorm.c, linear.c and conv1d.c.
 * On a GPU perhaps in one pass, where nobody keeps what goes into the convolution.
 */
#include "kernels/elementary.h"
#include "kernels/operations.h"
#include "kernels/tiles.h"

#if defined(__CUDACC__) && REAL_BITS == 32
#include "kernels/linear_conv_cuda.h"
#endif

void OP(linear_conv_fwd)(stream st, int64_t K, real eps, struct branch_norm norm,
                         const DEVICE real *x, int64_t N, const DEVICE real *W,
                         const DEVICE real *Wt, const DEVICE real *b, real beta,
                         const DEVICE real *c, struct conv1d_shape d, int64_t first,
                         const DEVICE real *w, const DEVICE real *bias, const DEVICE int32_t *row,
                         const DEVICE real *state0, bool keeps, DEVICE real *zx, DEVICE real *y,
                         DEVICE real *state1)
{
#if defined(__CUDACC__) && REAL_BITS == 32
  bool carries = state0 || state1;
  if (!b && !carries &&
      convolved_in_one_pass(st, K, eps, norm, x, N, W, beta, c, d, first, w, bias, keeps, zx, y))
    return;
#endif
  (void)keeps;
  if (norm.w)
    OP(rmsnorm_fwd)(st, K, eps, NULL, norm);
  OP(linear_fwd)(st, d.B * d.T, K, N, x, W, Wt, b, beta, c, zx);
  OP(conv1d_fwd)(st, d, zx + first, w, bias, row, state0, y, state1);
}
