/* gated_linear: out = gated_rmsnorm(y, z) W' + b, for which see gated_rmsnorm.c and linear.c; and
 * perhaps the norm of what out is added to (rmsnorm.c).
 * On a GPU perhaps in one pass, where nobody keeps yn, what the norm gives.
 */
#include "kernels/elementary.h"
#include "kernels/operations.h"

#if defined(__CUDACC__) && REAL_BITS == 32
#include "kernels/gated_linear_cuda.h"
#endif

void OP(gated_linear_fwd)(stream st, struct gated_rmsnorm_shape d, real eps, const DEVICE real *y,
                          const DEVICE real *z, const DEVICE real *w, int64_t N,
                          const DEVICE real *W, const DEVICE real *Wt, const DEVICE real *b,
                          bool keeps_yn, bool keeps_out, DEVICE real *r, DEVICE real *yn,
                          DEVICE real *out, struct branch_norm norm)
{
#if defined(__CUDACC__) && REAL_BITS == 32
  if (!keeps_yn &&
      in_one_pass(st, d, eps, y, z, w, N, W, b, r, keeps_out || !norm.w ? out : NULL, norm))
    return;
#endif
  (void)keeps_yn, (void)keeps_out;
  OP(gated_rmsnorm_fwd)(st, d, eps, y, z, w, r, yn);
  OP(linear_fwd)(st, d.rows, d.E, N, yn, W, Wt, b, 0, NULL, out);
  if (norm.w)
    OP(rmsnorm_fwd)(st, N, eps, out, norm);
}
