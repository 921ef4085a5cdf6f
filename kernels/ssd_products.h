/* ssd_products.h: the chunked form for decays that may be negative or zero (A_negative). */
#ifndef KERNELS_SSD_PRODUCTS_H
#define KERNELS_SSD_PRODUCTS_H
#include "kernels/operations.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Arguments as of ssd_chunked_fwd, _vjp, _jvp (core/operations.def). */
void OP(ssd_products_fwd)(stream st, struct ssd_shape d, const DEVICE real *x,
                          const DEVICE real *Bm, const DEVICE real *C, const DEVICE real *dt,
                          const DEVICE real *A_log, const DEVICE real *D, const DEVICE int32_t *row,
                          const DEVICE real *S0, DEVICE real *S, DEVICE real *y, DEVICE real *S1);
void OP(ssd_products_vjp)(stream st, struct ssd_shape d, const DEVICE real *x,
                          const DEVICE real *Bm, const DEVICE real *C, const DEVICE real *dt,
                          const DEVICE real *A_log, const DEVICE real *D, const DEVICE real *S,
                          const DEVICE real *yb, const DEVICE real *S1b, DEVICE real *work,
                          DEVICE real *xb, DEVICE real *Bb, DEVICE real *Cb, DEVICE real *dtb,
                          DEVICE real *A_logb, DEVICE real *Db, DEVICE real *S0b);
void OP(ssd_products_jvp)(stream st, struct ssd_shape d, const DEVICE real *x,
                          const DEVICE real *Bm, const DEVICE real *C, const DEVICE real *dt,
                          const DEVICE real *A_log, const DEVICE real *D, const DEVICE real *S,
                          const DEVICE real *xd, const DEVICE real *Bd, const DEVICE real *Cd,
                          const DEVICE real *dtd, const DEVICE real *A_logd, const DEVICE real *Dd,
                          const DEVICE real *S0d, DEVICE real *work, DEVICE real *yd,
                          DEVICE real *S1d);
#ifdef __cplusplus
}
#endif
#endif
