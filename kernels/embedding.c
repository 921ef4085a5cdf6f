/* embedding: y_m = W[token_m].   tokens (M)  W (V,D)  y (M,D)
 *   Wb[token_m] += yb_m, in the order of m      yd_m = Wd[token_m]
 * A token outside 0..V-1 gives a row of NaN and no gradient.
 */
#include "kernels/operations.h"
#include "kernels/rows.h"

KERNEL look_up(int64_t M, int64_t V, int64_t D, const int32_t *tokens, const real *W, real *y)
{
  FOR_EACH_COST (i, M * spans(D), D) {
    struct span s = span_of(i, D);
    int64_t token = tokens[s.row];
    bool known = token >= 0 && token < V;
    const real *from = W + (known ? token : 0) * D;
    SIMD
    for (int64_t j = s.first; j < s.end; j++)
      y[s.row * D + j] = known ? from[j] : (real)NAN;
  }
}

#ifdef __CUDACC__
/* An index adds up one token's strip of columns, and reads all tokens for it. */
enum { MOST_TOKENS = 4096 };
BLOCK_KERNEL vjp_token(int64_t M, int64_t V, int64_t D, const int32_t *tokens, const real *yb,
                       real *Wb)
{
  FOR_EACH_BLOCK (i, V * strips(D), M * STRIP) {
    int64_t token = i / strips(D);
    real *row = Wb + token * D;
    ADD_COLUMN_SUMS(i % strips(D), M, D, row, m, j, tokens[m] == token ? yb[m * D + j] : 0);
  }
}
#endif

KERNEL vjp(int64_t M, int64_t V, int64_t D, const int32_t *tokens, const real *yb, real *Wb)
{
  FOR_EACH_COST (strip, strips(D), M * STRIP) {
    int64_t first = strip * STRIP, end = first + STRIP < D ? first + STRIP : D;
    for (int64_t m = 0; m < M; m++) {
      int64_t token = tokens[m];
      if (token < 0 || token >= V)
        continue;
      SIMD
      for (int64_t j = first; j < end; j++)
        Wb[token * D + j] += yb[m * D + j];
    }
  }
}

void OP(embedding_fwd)(stream st, int64_t M, int64_t V, int64_t D, const DEVICE int32_t *tokens,
                       const DEVICE real *W, DEVICE real *y)
{
  LAUNCH(st, M * spans(D), look_up, M, V, D, tokens, W, y);
}

void OP(embedding_vjp)(stream st, int64_t M, int64_t V, int64_t D, const DEVICE int32_t *tokens,
                       const DEVICE real *yb, DEVICE real *Wb)
{
#ifdef __CUDACC__
  if (Wb && V <= MOST_TOKENS) {
    LAUNCH_BLOCKS(st, V * strips(D), vjp_token, M, V, D, tokens, yb, Wb);
    return;
  }
#endif
  if (Wb)
    LAUNCH(st, strips(D), vjp, M, V, D, tokens, yb, Wb);
}

void OP(embedding_jvp)(stream st, int64_t M, int64_t V, int64_t D, const DEVICE int32_t *tokens,
                       const DEVICE real *Wd, DEVICE real *yd)
{
  if (Wd)
    LAUNCH(st, M * spans(D), look_up, M, V, D, tokens, Wd, yd);
  else
    OP(fill)(st, M * D, 0, yd);
}
