/* gated_linear_vjp: of out (rows,N) = yn W', yn = gated_rmsnorm(y, z), for which see linear.c and
 * gated_rmsnorm.c:
 *   ynb = outb W     Wb += outb' yn     bb += sum_rows outb     yb, zb, wb from ynb
 * yn may have been forgotten: then it is made again, where ynb has its place afterwards.  On a GPU
 * perhaps without ynb in memory: all that a row's channels need of each other is
 *   sum_e ynb_e yn_e = outb . (W yn) = outb . out */
#include "kernels/elementary.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

/* yn of a group in a row from its scale: of both orders of norm and gate. */
KERNEL norm_again(struct gated_rmsnorm_shape d, const real *y, const real *z, const real *w,
                  const real *r, real *yn)
{
  int64_t K = d.E / d.G;
  FOR_EACH_ROW (i, d.rows * d.G, 16 * K) {
    int64_t row = i / d.G, at = i % d.G * K;
    const real *yi = y + row * d.E + at, *zi = z + row * d.ldz + at;
    real *to = yn + row * d.E + at, scale = r[i];
    SIMD
    FOR_COLUMNS (j, 0, K)
      to[j] = w[at + j] * (yi[j] * silu(zi[j]) * scale);
  }
}

#if defined(__CUDACC__) && REAL_BITS == 32
#include "kernels/gated_linear_vjp_cuda.h"
#endif

void OP(gated_linear_vjp)(stream st, struct gated_rmsnorm_shape d, const DEVICE real *y,
                          const DEVICE real *z, const DEVICE real *w, const DEVICE real *r,
                          const DEVICE real *yn, int64_t N, const DEVICE real *W,
                          const DEVICE real *out, const DEVICE real *outb, DEVICE real *ynb,
                          real beta, DEVICE real *yb, DEVICE real *zb, DEVICE real *wb,
                          DEVICE real *Wb, DEVICE real *bb)
{
#if defined(__CUDACC__) && REAL_BITS == 32
  if (vjp_in_one_pass(st, d, y, z, w, r, yn || !Wb ? NULL : ynb, N, W, out, outb, beta, yb, zb,
                      wb)) {
    OP(linear_vjp)(st, d.rows, d.E, N, yn ? yn : ynb, W, outb, 0, NULL, Wb, bb);
    return;
  }
#endif
  (void)out;
  if (!yn && Wb) {
    LAUNCH_ROWS(st, d.rows * d.G, norm_again, d, y, z, w, r, ynb);
    OP(linear_vjp)(st, d.rows, d.E, N, ynb, W, outb, 0, NULL, Wb, NULL);
    Wb = NULL;
  }
  OP(linear_vjp)(st, d.rows, d.E, N, yn, W, outb, 0, ynb, Wb, bb);
  OP(gated_rmsnorm_vjp)(st, d, y, z, w, r, ynb, beta, yb, zb, wb);
}
