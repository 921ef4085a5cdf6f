/* cross_entropy: loss_m = lse_m - x_m[label_m],  lse_m = log sum_v exp x_mv, a row of logits at a
 * time.   x (M,V)  labels (M)  lse (M), kept for the derivatives  loss (M)
 *   xb = beta xb + scale (softmax(x) - onehot(label))
 *   lossd = sum_v softmax(x)_v xd_v - xd[label]
 * Rows with IGNORED_LABEL have loss and derivatives 0; a label outside 0..V-1 gives NaN.  argmax:
 * the first index of the largest logit, -1 where one is NaN.
 */
#include "kernels/elementary.h"
#include "kernels/operations.h"
#include "kernels/rows.h"

#if REAL_BITS == 32
typedef float logit;
#else
typedef double logit;
#endif

#ifdef __CUDACC__
#define SIMD_MAX(...)
INLINE logit larger(logit a, logit b) { return b > a ? b : a; }
template <class T> INLINE T smaller(T a, T b) { return b < a ? b : a; }
/* `at`, 0, becomes the first column of V for which `before` is false; there is one. */
#define FIND_COLUMN(at, V, before)                      \
  do {                                                  \
    for (at = lane(); at < (V) && (before); at += WARP) \
      continue;                                         \
    ROW_FOLD(at, smaller);                              \
  } while (0)
#else
#define SIMD_MAX(...) PRAGMA(omp simd reduction(max : __VA_ARGS__))
#define FIND_COLUMN(at, V, before) \
  while (before)                   \
  at++
#endif

/* Largest real part; NaN are passed over. */
INLINE logit row_max(int64_t V, const real *x)
{
  logit best = re(x[0]);
  SIMD_MAX(best)
  FOR_COLUMNS (v, 0, V)
    best = re(x[v]) > best ? re(x[v]) : best;
  ROW_FOLD(best, larger);
  return best;
}

INLINE bool is_label(int64_t label, int64_t V) { return label >= 0 && label < V; }

KERNEL fwd(int64_t M, int64_t V, const real *x, const int32_t *labels, real *lse, wide *loss)
{
  FOR_EACH_ROW (m, M, 16 * V) {
    const real *xm = x + m * V;
    int64_t label = labels[m];
    logit top = row_max(V, xm);
    wide sum = 0;
    ADD_ROW_SUM(sum, V, v, exp_falling(xm[v] - top));
    wide above = log(sum); /* lse - top, of which the loss is made without cancelling */
    if (OWNS_COLUMN(0))
      lse[m] = (real)((wide)top + above);
    if (label == IGNORED_LABEL && OWNS_COLUMN(0))
      loss[m] = 0;
    else if (OWNS_COLUMN(0))
      loss[m] = is_label(label, V) ? above + ((wide)top - (wide)xm[label]) : (wide)NAN;
  }
}

KERNEL vjp(int64_t M, int64_t V, const real *x, const int32_t *labels, const real *lse, real scale,
           real beta, real *xb)
{
  bool reads = beta != 0;
  FOR_EACH_ROW (m, M, 16 * V) {
    int64_t label = labels[m];
    const real *xm = x + m * V;
    real *xbm = xb + m * V, top = lse[m], factor = is_label(label, V) ? scale : (real)NAN;
    if (label == IGNORED_LABEL) {
      SIMD
      FOR_COLUMNS (v, 0, V)
        xbm[v] = reads ? beta * xbm[v] : 0;
      continue;
    }
    SIMD
    FOR_COLUMNS (v, 0, V)
      xbm[v] = (reads ? beta * xbm[v] : 0) + factor * exp_falling(xm[v] - top);
    if (is_label(label, V) && OWNS_COLUMN(label))
      xbm[label] -= scale;
  }
}

KERNEL jvp(int64_t M, int64_t V, const real *x, const int32_t *labels, const real *lse,
           const real *xd, wide *lossd)
{
  FOR_EACH_ROW (m, M, 16 * V) {
    int64_t label = labels[m];
    wide sum = 0;
    if (label != IGNORED_LABEL && xd) {
      const real *xm = x + m * V, *xdm = xd + m * V;
      real top = lse[m];
      ADD_ROW_SUM(sum, V, v, exp_falling(xm[v] - top) * xdm[v]);
      sum = is_label(label, V) ? sum - (wide)xdm[label] : (wide)NAN;
    }
    if (OWNS_COLUMN(0))
      lossd[m] = sum;
  }
}

KERNEL largest(int64_t M, int64_t V, const real *x, int32_t *best)
{
  FOR_EACH_ROW (m, M, 16 * V) {
    const real *xm = x + m * V;
    logit top = row_max(V, xm);
    int64_t not_numbers = 0, at = 0;
    SIMD_SUM(not_numbers)
    FOR_COLUMNS (v, 0, V)
      not_numbers += re(xm[v]) != re(xm[v]);
    ROW_FOLD(not_numbers, plus);
    FIND_COLUMN(at, V, !not_numbers && re(xm[at]) < top);
    if (OWNS_COLUMN(0))
      best[m] = not_numbers ? -1 : (int32_t)at;
  }
}

#ifdef __CUDACC__
#include "core/packs.h"

/* A row in a warp's registers, ROW_HELD columns a lane, in packs of W: it is read once. */
enum { ROW_HELD = 8 };
template <int W>
KERNEL fwd_held(int64_t M, int V, const real *x, const int32_t *labels, real *lse, wide *loss,
                int32_t *best, real scale, real *xb)
{
  FOR_EACH_ROW (m, M, 16 * V) {
    pack<W> held[ROW_HELD / W];
    int label = labels[m], at = V;
    bool counts = label != IGNORED_LABEL, known = is_label(label, V);
    real of_label = known ? x[m * V + label] : 0, part = 0;
    logit top = -HUGE_VAL;
#pragma unroll
    for (int k = 0; k < ROW_HELD / W; k++) {
      int v = (k * WARP + lane()) * W;
#pragma unroll
      for (int q = 0; q < W; q++)
        held[k].at[q] = -HUGE_VAL; /* where there is no column */
      if (v < V)
        held[k] = load_pack<W>(x + m * V + v);
    }
#pragma unroll
    for (int k = 0; k < ROW_HELD; k++)
      top = larger(top, held[k / W].at[k % W]);
    ROW_FOLD(top, larger);
#pragma unroll
    for (int k = ROW_HELD - 1; k >= 0; k--) {
      int v = (k / W * WARP + lane()) * W + k % W;
      at = v < V && held[k / W].at[k % W] == top ? v : at;
    }
#pragma unroll
    for (int k = 0; k < ROW_HELD; k++) {
      real *own = &held[k / W].at[k % W];
      at = *own != *own ? -1 : at;
      *own = exp_falling(*own - top);
      part += *own;
    }
    ROW_FOLD(at, smaller);
    wide sum = part;
    ROW_FOLD(sum, plus);
    if (OWNS_COLUMN(0)) {
      wide above = log(sum); /* lse - top, of which the loss is made without cancelling */
      lse[m] = (real)((wide)top + above);
      loss[m] = !counts ? 0 : known ? above + ((wide)top - (wide)of_label) : (wide)NAN;
      if (best)
        best[m] = at;
    }
    real factor = known ? scale / (real)sum : (real)NAN;
#pragma unroll
    for (int k = 0; k < ROW_HELD / W; k++) {
      int v = (k * WARP + lane()) * W;
#pragma unroll
      for (int q = 0; q < W; q++)
        held[k].at[q] = counts ? factor * held[k].at[q] - (v + q == label ? scale : 0) : 0;
      if (xb && v < V)
        store_pack(held[k], xb + m * V + v);
    }
  }
}

template <int W>
static void launch_held(stream st, int64_t M, int64_t V, const real *x, const int32_t *labels,
                        real *lse, wide *loss, int32_t *best, real scale, real *xb)
{
  LAUNCH_ROWS(st, M, fwd_held<W>, M, (int)V, x, labels, lse, loss, best, scale, xb);
}
#endif

void OP(cross_entropy_fwd)(stream st, int64_t M, int64_t V, const DEVICE real *x,
                           const DEVICE int32_t *labels, DEVICE real *lse, DEVICE wide *loss,
                           DEVICE int32_t *best, real scale, DEVICE real *xb)
{
#ifdef __CUDACC__
  if (V <= ROW_HELD * WARP) {
    auto launch = in_packs(V, x) && in_packs(V, xb) ? launch_held<PACK> : launch_held<1>;
    launch(st, M, V, x, labels, lse, loss, best, scale, xb);
    return;
  }
#endif
  if (best)
    OP(argmax)(st, M, V, x, best);
  LAUNCH_ROWS(st, M, fwd, M, V, x, labels, lse, loss);
  if (xb)
    OP(cross_entropy_vjp)(st, M, V, x, labels, lse, scale, 0, xb);
}

void OP(cross_entropy_vjp)(stream st, int64_t M, int64_t V, const DEVICE real *x,
                           const DEVICE int32_t *labels, const DEVICE real *lse, real scale,
                           real beta, DEVICE real *xb)
{
  if (xb)
    LAUNCH_ROWS(st, M, vjp, M, V, x, labels, lse, scale, beta, xb);
}

void OP(cross_entropy_jvp)(stream st, int64_t M, int64_t V, const DEVICE real *x,
                           const DEVICE int32_t *labels, const DEVICE real *lse,
                           const DEVICE real *xd, DEVICE wide *lossd)
{
  LAUNCH_ROWS(st, M, jvp, M, V, x, labels, lse, xd, lossd);
}

void OP(argmax)(stream st, int64_t M, int64_t V, const DEVICE real *x, DEVICE int32_t *best)
{
  LAUNCH_ROWS(st, M, largest, M, V, x, best);
}

#ifdef __CUDACC__
BLOCK_KERNEL add_losses(int64_t M, const int32_t *labels, const int32_t *best, const wide *loss,
                        wide *sums)
{
  FOR_EACH_BLOCK (which, 2, M) {
    struct share s = own_share(M);
    wide sum = 0;
#pragma unroll 8
    for (int64_t k = 0; k < s.count; k++) {
      int64_t m = s.at + k * s.step;
      int32_t label = labels[m];
      wide term = which == 0 ? loss[m] : (wide)(best[m] == label);
      sum += label == IGNORED_LABEL ? 0 : term;
    }
    put_total(sum, sums + which);
  }
}
#else
KERNEL add_losses(int64_t M, const int32_t *labels, const int32_t *best, const wide *loss,
                  wide *sums)
{
  wide sum = 0;
  int64_t right = 0;
  for (int64_t m = 0; m < M; m++) {
    if (labels[m] == IGNORED_LABEL)
      continue;
    sum += loss[m];
    right += best[m] == labels[m];
  }
  sums[0] = sum;
  sums[1] = (wide)right;
}
#endif

void OP(sum_losses)(stream st, int64_t M, const DEVICE int32_t *labels, const DEVICE int32_t *best,
                    const DEVICE wide *loss, DEVICE wide *sums)
{
  LAUNCH_SUMS(st, 2, M / STRIP, add_losses, M, labels, best, loss, sums);
}
