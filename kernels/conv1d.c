/* conv1d: causal depthwise convolution over time, then silu.
 *
 *   v_t = b + sum_{k<W} w_k x_{t-W+1+k}     (B,T,C), each channel by itself; w (C,W), b (C)
 *   y_t = silu(v_t)
 * where x_{-1}, ..., x_{1-W} are the last columns of state0 (.,C,W), or zeros.
 *
 * VJP, with vb_t = yb_t silu'(v_t), v recomputed:
 *   xb_{t-W+1+k} += w_k vb_t (into state0b before the first token)
 *   w_kb += sum_bt vb_t x_{t-W+1+k},   bb += sum_bt vb_t
 * The final state is a copy of the last inputs, and so is its cotangent.
 * JVP: v's is the convolution with each factor's tangent in turn.
 *
 * Reference: Gu & Dao 2023, arXiv:2312.00752, section 3.4 (the local convolution before the SSM).
 */
#include "kernels/operations.h"
#include "kernels/tiles.h"

enum { BLOCK_TOKENS = 64 }; /* tokens that one index convolves; terms of a sum kept in real */

/* How many lanes and taps; constants where it matters, see WITH_WIDTH. */
struct width {
  int lanes, W;
};

/* A call with a struct width: constants for whole strips of four taps, so that sums over taps stay
 * in registers. */
#define WITH_WIDTH(count, taps, function, ...)                              \
  do {                                                                      \
    const struct width common_ = {LANES, 4}, other_ = {count, (int)(taps)}; \
    if ((count) == LANES && (taps) == 4)                                    \
      function(common_, __VA_ARGS__);                                       \
    else                                                                    \
      function(other_, __VA_ARGS__);                                        \
  } while (0)

/* Channels c.. of one sequence: their taps, bias, inputs, and the inputs before the first token. */
struct strip {
  const real *x; /* (T,ld), from channel c on; NULL: zeros */
  int64_t ld;
  real taps[CONV_MAX_TAPS][LANES], bias[LANES], past[CONV_MAX_TAPS][LANES];
};

/* out (W,LANES) = transpose of a (lanes,W); NULL: zeros */
ELEMENTARY void load_columns(struct width n, const real *a, real (*out)[LANES])
{
  for (int k = 0; k < n.W; k++) {
    SIMD
    for (int l = 0; l < LANES; l++)
      out[k][l] = 0;
    if (a == NULL)
      continue;
    SIMD
    for (int l = 0; l < n.lanes; l++)
      out[k][l] = a[l * n.W + k];
  }
}

/* state (.,C,W), of which the strip has row r; any of the arrays may be NULL: zeros */
ELEMENTARY void load_strip(struct conv1d_shape d, struct width n, int64_t seq, int64_t c, int64_t r,
                           const real *x, const real *w, const real *b, const real *state,
                           struct strip *s)
{
  s->x = x ? x + seq * d.T * d.ld + c : NULL;
  s->ld = d.ld;
  for (int l = 0; l < n.lanes; l++)
    s->bias[l] = b ? b[c + l] : 0;
  load_columns(n, w ? w + c * d.W : NULL, s->taps);
  load_columns(n, state ? state + (r * d.C + c) * d.W : NULL, s->past);
}

/* The inputs of token t >= -W. */
ELEMENTARY const real *input(const struct strip *s, struct width n, int64_t t)
{
  return t < 0 ? s->past[n.W + t] : s->x + t * s->ld;
}

/* v += convolution of the strip's inputs with its taps at token t */
ELEMENTARY void convolve(const struct strip *s, struct width n, int64_t t, real *v)
{
  for (int k = 0; k < n.W; k++) {
    int64_t from = t - n.W + 1 + k;
    if (from >= 0 && s->x == NULL)
      break;
    const real *in = input(s, n, from);
    SIMD
    for (int l = 0; l < n.lanes; l++)
      v[l] = add_product(v[l], s->taps[k][l], in[l]);
  }
}

/* v_t of the head comment */
ELEMENTARY void preactivation(const struct strip *s, struct width n, int64_t t, real *v)
{
  SIMD
  for (int l = 0; l < n.lanes; l++)
    v[l] = s->bias[l];
  convolve(s, n, t, v);
}

/* Index i of (sequence, block of tokens, strip). */
struct block {
  int64_t seq, first, end, c;
  int lanes;
};

INLINE int64_t token_blocks(struct conv1d_shape d)
{
  return (d.T + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
}

INLINE struct block block_of(struct conv1d_shape d, int64_t i)
{
  int64_t strips = lane_blocks(d.C), blocks = token_blocks(d);
  struct block k;
  k.c = i % strips * LANES;
  k.lanes = at_most(d.C - k.c, LANES);
  k.seq = i / strips / blocks;
  k.first = i / strips % blocks * BLOCK_TOKENS;
  k.end = k.first + BLOCK_TOKENS < d.T ? k.first + BLOCK_TOKENS : d.T;
  return k;
}

/* ---- forward ---- */

ELEMENTARY void convolve_block(struct width n, struct conv1d_shape d, struct block k, int64_t r,
                               const real *x, const real *w, const real *b, const real *state0,
                               real *y)
{
  struct strip s;
  load_strip(d, n, k.seq, k.c, r, x, w, b, state0, &s);
  for (int64_t t = k.first; t < k.end; t++) {
    real v[LANES], *yt = y + (k.seq * d.T + t) * d.C + k.c;
    preactivation(&s, n, t, v);
    SIMD
    for (int l = 0; l < n.lanes; l++)
      yt[l] = silu(v[l]);
  }
}

KERNEL convolve_all(struct conv1d_shape d, const real *x, const real *w, const real *b,
                    const int32_t *row, const real *state0, real *y)
{
  int64_t count = d.B * token_blocks(d) * lane_blocks(d.C);
  FOR_EACH_COST (i, count, (2 * d.W + 24) * d.B * d.T * d.C / count) {
    struct block k = block_of(d, i);
    WITH_WIDTH(k.lanes, d.W, convolve_block, d, k, row ? row[k.seq] : k.seq, x, w, b, state0, y);
  }
}

/* after[row[b]] = the last W of before[row[b]] and the first count[b] (NULL: T) tokens of x; in
 * place it moves entries towards the front.  x, before NULL: zeros. */
KERNEL shift_state(struct conv1d_shape d, const real *x, const int32_t *row, const int32_t *count,
                   const real *before, real *after)
{
  int64_t strips = lane_blocks(d.C);
  FOR_EACH_COST (i, d.B * strips, LANES * d.W * 4) {
    int64_t seq = i / strips, n = count ? count[seq] : d.T;
    int64_t first = i % strips * LANES, end = first + LANES < d.C ? first + LANES : d.C;
    for (int64_t c = first; c < end && n > 0; c++)
      for (int64_t j = 0; j < d.W; j++) {
        int64_t t = n - d.W + j, k = ((row ? row[seq] : seq) * d.C + c) * d.W;
        if (t >= 0)
          after[k + j] = x ? x[(seq * d.T + t) * d.ld + c] : 0;
        else
          after[k + j] = before ? before[k + d.W + t] : 0;
      }
  }
}

void OP(conv1d_fwd)(stream st, struct conv1d_shape d, const DEVICE real *x, const DEVICE real *w,
                    const DEVICE real *b, const DEVICE int32_t *row, const DEVICE real *state0,
                    DEVICE real *y, DEVICE real *state1)
{
  if (y)
    LAUNCH(st, d.B * token_blocks(d) * lane_blocks(d.C), convolve_all, d, x, w, b, row, state0, y);
  if (state1) /* may be state0: only now that y has been computed */
    LAUNCH(st, d.B * lane_blocks(d.C), shift_state, d, x, row, NULL, state0, state1);
}

void OP(conv1d_advance)(stream st, struct conv1d_shape d, const DEVICE real *x,
                        const DEVICE int32_t *row, const DEVICE int32_t *count, DEVICE real *state)
{
  LAUNCH(st, d.B * lane_blocks(d.C), shift_state, d, x, row, count, state, state);
}

/* ---- VJP ---- */

/* vb_t = yb_t silu'(v_t); yb (T,C) from channel c on */
ELEMENTARY void preactivation_cotangent(const struct strip *s, struct width n, int64_t t,
                                        const real *ybt, real *vb)
{
  real v[LANES];
  preactivation(s, n, t, v);
  SIMD
  for (int l = 0; l < n.lanes; l++)
    vb[l] = ybt[l] * silu_derivative(v[l]);
}

/* xb and state0b of one sequence's strip */
ELEMENTARY void give_inputs(struct width n, struct conv1d_shape d, int64_t seq, int64_t c,
                            const real *x, const real *w, const real *b, const real *state0,
                            const real *yb, real *xb, real *state0b)
{
  struct strip s;
  real pastb[CONV_MAX_TAPS][LANES];
  load_strip(d, n, seq, c, seq, x, w, b, state0, &s);
  load_columns(n, NULL, pastb);
  for (int64_t t = 0; t < d.T; t++) {
    real vb[LANES];
    preactivation_cotangent(&s, n, t, yb + (seq * d.T + t) * d.C + c, vb);
    for (int k = 0; k < n.W; k++) {
      int64_t from = t - n.W + 1 + k;
      if (from >= 0 && xb == NULL)
        break;
      real *to = from < 0 ? pastb[n.W + from] : xb + (seq * d.T + from) * d.ld + c;
      SIMD
      for (int l = 0; l < n.lanes; l++)
        to[l] = add_product(to[l], s.taps[k][l], vb[l]);
    }
  }
  for (int l = 0; state0b && l < n.lanes; l++)
    for (int k = 1; k < n.W; k++)
      state0b[(seq * d.C + c + l) * n.W + k] += pastb[k][l];
}

KERNEL input_cotangents(struct conv1d_shape d, const real *x, const real *w, const real *b,
                        const real *state0, const real *yb, real *xb, real *state0b)
{
  int64_t strips = lane_blocks(d.C);
  FOR_EACH_COST (i, d.B * strips, d.T * LANES * (4 * d.W + 28)) {
    int64_t c = i % strips * LANES;
    int lanes = at_most(d.C - c, LANES);
    WITH_WIDTH(lanes, d.W, give_inputs, d, i / strips, c, x, w, b, state0, yb, xb, state0b);
  }
}

/* xb, state0b += what state1b says of the copied inputs */
KERNEL state_cotangents(struct conv1d_shape d, const real *state1b, real *xb, real *state0b)
{
  FOR_EACH_COST (i, d.B * d.C, d.W * 4) {
    int64_t c = i % d.C, seq = i / d.C;
    for (int64_t j = 0; j < d.W; j++) {
      int64_t t = d.T - d.W + j;
      if (t >= 0 && xb)
        xb[(seq * d.T + t) * d.ld + c] += state1b[i * d.W + j];
      if (t < 0 && state0b)
        state0b[i * d.W + d.W + t] += state1b[i * d.W + j];
    }
  }
}

/* Sums over the tokens of a strip: in real over a block, in wide over the blocks. */
struct sums {
  wide taps[CONV_MAX_TAPS][LANES], bias[LANES];
};

ELEMENTARY void give_weights(struct width n, const struct strip *s, int64_t first, int64_t end,
                             int64_t C, const real *yb, struct sums *sums)
{
  real taps[CONV_MAX_TAPS][LANES], bias[LANES] = {0};
  load_columns(n, NULL, taps);
  for (int64_t t = first; t < end; t++) {
    real vb[LANES];
    preactivation_cotangent(s, n, t, yb + t * C, vb);
    SIMD
    for (int l = 0; l < n.lanes; l++)
      bias[l] += vb[l];
    for (int k = 0; k < n.W; k++) {
      const real *in = input(s, n, t - n.W + 1 + k);
      SIMD
      for (int l = 0; l < n.lanes; l++)
        taps[k][l] = add_product(taps[k][l], vb[l], in[l]);
    }
  }
  for (int l = 0; l < n.lanes; l++) {
    sums->bias[l] += (wide)bias[l];
    for (int k = 0; k < n.W; k++)
      sums->taps[k][l] += (wide)taps[k][l];
  }
}

KERNEL weight_cotangents(struct conv1d_shape d, const real *x, const real *w, const real *b,
                         const real *state0, const real *yb, real *wb, real *bb)
{
  FOR_EACH_COST (i, lane_blocks(d.C), d.B * d.T * LANES * (4 * d.W + 28)) {
    int64_t c = i * LANES;
    int lanes = at_most(d.C - c, LANES);
    struct sums sums = {{{0}}, {0}};
    for (int64_t seq = 0; seq < d.B; seq++) {
      const struct width n = {lanes, (int)d.W};
      struct strip s;
      load_strip(d, n, seq, c, seq, x, w, b, state0, &s);
      for (int64_t first = 0; first < d.T; first += BLOCK_TOKENS) {
        int64_t end = first + BLOCK_TOKENS < d.T ? first + BLOCK_TOKENS : d.T;
        WITH_WIDTH(lanes, d.W, give_weights, &s, first, end, d.C, yb + seq * d.T * d.C + c, &sums);
      }
    }
    for (int l = 0; l < lanes; l++) {
      for (int64_t k = 0; wb && k < d.W; k++)
        wb[(c + l) * d.W + k] += (real)sums.taps[k][l];
      if (bb)
        bb[c + l] += (real)sums.bias[l];
    }
  }
}

void OP(conv1d_vjp)(stream st, struct conv1d_shape d, const DEVICE real *x, const DEVICE real *w,
                    const DEVICE real *b, const DEVICE real *state0, const DEVICE real *yb,
                    const DEVICE real *state1b, DEVICE real *xb, DEVICE real *wb, DEVICE real *bb,
                    DEVICE real *state0b)
{
  int64_t strips = lane_blocks(d.C);
  if (xb || state0b)
    LAUNCH(st, d.B * strips, input_cotangents, d, x, w, b, state0, yb, xb, state0b);
  if (state1b && (xb || state0b))
    LAUNCH(st, d.B * d.C, state_cotangents, d, state1b, xb, state0b);
  if (wb || bb)
    LAUNCH(st, strips, weight_cotangents, d, x, w, b, state0, yb, wb, bb);
}

/* ---- JVP ---- */

/* A strip, and the same with tangents in place of taps and bias, and in place of inputs. */
struct strip_tangent {
  struct strip s, taps, inputs;
};

ELEMENTARY void differentiate_block(struct width n, struct conv1d_shape d, struct block k,
                                    const struct strip_tangent *g, real *yd)
{
  for (int64_t t = k.first; t < k.end; t++) {
    real v[LANES], vd[LANES], *ydt = yd + (k.seq * d.T + t) * d.C + k.c;
    preactivation(&g->s, n, t, v);
    preactivation(&g->taps, n, t, vd);
    convolve(&g->inputs, n, t, vd);
    SIMD
    for (int l = 0; l < n.lanes; l++)
      ydt[l] = vd[l] * silu_derivative(v[l]);
  }
}

KERNEL differentiate_all(struct conv1d_shape d, const real *x, const real *w, const real *b,
                         const real *state0, const real *xd, const real *wd, const real *bd,
                         const real *state0d, real *yd)
{
  int64_t count = d.B * token_blocks(d) * lane_blocks(d.C);
  FOR_EACH_COST (i, count, (6 * d.W + 28) * d.B * d.T * d.C / count) {
    struct block k = block_of(d, i);
    const struct width n = {k.lanes, (int)d.W};
    struct strip_tangent g;
    load_strip(d, n, k.seq, k.c, k.seq, x, w, b, state0, &g.s);
    load_strip(d, n, k.seq, k.c, k.seq, x, wd, bd, state0, &g.taps);
    load_strip(d, n, k.seq, k.c, k.seq, xd, w, NULL, state0d, &g.inputs);
    WITH_WIDTH(k.lanes, d.W, differentiate_block, d, k, &g, yd);
  }
}

void OP(conv1d_jvp)(stream st, struct conv1d_shape d, const DEVICE real *x, const DEVICE real *w,
                    const DEVICE real *b, const DEVICE real *state0, const DEVICE real *xd,
                    const DEVICE real *wd, const DEVICE real *bd, const DEVICE real *state0d,
                    DEVICE real *yd, DEVICE real *state1d)
{
  if (yd)
    LAUNCH(st, d.B * token_blocks(d) * lane_blocks(d.C), differentiate_all, d, x, w, b, state0, xd,
           wd, bd, state0d, yd);
  if (state1d)
    LAUNCH(st, d.B * lane_blocks(d.C), shift_state, d, xd, NULL, NULL, state0d, state1d);
}
