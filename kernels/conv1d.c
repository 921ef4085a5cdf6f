/* conv1d: causal depthwise convolution over time, then silu.
 *
 *   v_t = b + sum_{k<W} w_k x_{t-W+1+k}     (B,T,C), each channel by itself; w (C,W), b (C)
 *   y_t = silu(v_t)
 * where x_{-1}, ..., x_{1-W} are the last columns of state0 (.,C,W), or zeros.
 *
 * VJP, with vb_t = yb_t silu'(v_t), v recomputed:
 *   xb_{t-W+1+k} += w_k vb_t (into state0b before the first token), after xb *= beta
 *   w_kb += sum_bt vb_t x_{t-W+1+k},   bb += sum_bt vb_t
 * The final state is a copy of the last inputs, and so is its cotangent.
 * JVP: v's is the convolution with each factor's tangent in turn.
 *
 * Reference: Gu & Dao 2023, arXiv:2312.00752, section 3.4 (the local convolution before the SSM).
 */
#include "kernels/operations.h"
#include "kernels/rows.h"
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

/* Taps and bias of channels c..; either may be NULL: zeros */
ELEMENTARY void load_taps(struct conv1d_shape d, struct width n, int64_t c, const real *w,
                          const real *b, struct strip *s)
{
  s->ld = d.ld;
  for (int l = 0; l < n.lanes; l++)
    s->bias[l] = b ? b[c + l] : 0;
  load_columns(n, w ? w + c * d.W : NULL, s->taps);
}

/* Inputs of a sequence; state (.,C,W), of which it has row r; either may be NULL: zeros */
ELEMENTARY void load_inputs(struct conv1d_shape d, struct width n, int64_t seq, int64_t c,
                            int64_t r, const real *x, const real *state, struct strip *s)
{
  s->x = x ? x + seq * d.T * d.ld + c : NULL;
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
  int64_t first = t - n.W + 1;
  if (first >= 0 && s->x) { /* almost all tokens: inputs at a fixed distance */
    const real *in = s->x + first * s->ld;
    for (int k = 0; k < n.W; k++) {
      SIMD
      for (int l = 0; l < n.lanes; l++)
        v[l] = add_product(v[l], s->taps[k][l], in[k * s->ld + l]);
    }
    return;
  }
  for (int k = 0; k < n.W && (first + k < 0 || s->x); k++) {
    const real *in = input(s, n, first + k);
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

/* Index i of (sequences, block of tokens, strip): several short sequences, or a part of a long one.
 */
struct block {
  int64_t seq, last, first, end, c; /* sequences seq..last-1, tokens first..end-1 of each */
  int lanes;
};

INLINE int64_t token_blocks(struct conv1d_shape d)
{
  return (d.T + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
}

/* Sequences of an index. */
INLINE int64_t together(struct conv1d_shape d)
{
#ifdef __CUDACC__
  return 1;
#else
  return d.T > 0 && d.T < BLOCK_TOKENS ? BLOCK_TOKENS / d.T : 1;
#endif
}

INLINE int64_t block_count(struct conv1d_shape d)
{
  return (d.B + together(d) - 1) / together(d) * token_blocks(d) * lane_blocks(d.C);
}

/* Tokens of an index, at most. */
INLINE int64_t tokens_together(struct conv1d_shape d) { return at_most(d.B * d.T, BLOCK_TOKENS); }

INLINE struct block block_of(struct conv1d_shape d, int64_t i)
{
  int64_t strips = lane_blocks(d.C), blocks = token_blocks(d);
  struct block k;
  k.c = i % strips * LANES;
  k.lanes = at_most(d.C - k.c, LANES);
  k.seq = i / strips / blocks * together(d);
  k.last = k.seq + together(d) < d.B ? k.seq + together(d) : d.B;
  k.first = i / strips % blocks * BLOCK_TOKENS;
  k.end = k.first + BLOCK_TOKENS < d.T ? k.first + BLOCK_TOKENS : d.T;
  return k;
}

/* The arrays of conv1d_vjp. */
struct cotangents {
  const real *x, *w, *b, *state0, *yb;
  real beta, *xb, *wb, *bb, *state0b;
  const real *more[2]; /* what xb also takes in, or NULL */
};

#ifdef __CUDACC__
#include "kernels/conv1d_cuda.h"
#endif

/* ---- forward ---- */

ELEMENTARY void convolve_any(struct width n, struct conv1d_shape d, struct block k,
                             const int32_t *row, const real *x, const real *state0, real *y,
                             struct strip *s)
{
  for (int64_t seq = k.seq; seq < k.last; seq++) {
    load_inputs(d, n, seq, k.c, row ? row[seq] : seq, x, state0, s);
    for (int64_t t = k.first; t < k.end; t++) {
      real v[LANES], *yt = y + (seq * d.T + t) * d.C + k.c;
      preactivation(s, n, t, v);
      SIMD
      for (int l = 0; l < n.lanes; l++)
        yt[l] = silu(v[l]);
    }
  }
}

#ifdef __CUDACC__
enum { FOUR_TAPS = 0 };
#define convolve_four(...) ((void)0)
#else
enum { FOUR_TAPS = 4 };

/* The same of a whole strip of four taps, whose x is not NULL, or, back being a constant, the
 * cotangents vb of the head comment; a token's go to `out`, the next one's `step` further on. */
ELEMENTARY void walk_four(bool back, struct conv1d_shape d, struct block k, const int32_t *row,
                          const real *x, const real *state0, const real *yb, real *out,
                          int64_t step, struct strip *s)
{
  const struct width n = {LANES, 4};
  real w0[LANES], w1[LANES], w2[LANES], w3[LANES], bias[LANES];
  SIMD
  for (int l = 0; l < LANES; l++) {
    w0[l] = s->taps[0][l], w1[l] = s->taps[1][l];
    w2[l] = s->taps[2][l], w3[l] = s->taps[3][l];
    bias[l] = s->bias[l];
  }
  for (int64_t seq = k.seq; seq < k.last; seq++) {
    load_inputs(d, n, seq, k.c, row ? row[seq] : seq, x, state0, s);
    const real *x0 = input(s, n, k.first - 3), *x1 = input(s, n, k.first - 2);
    const real *x2 = input(s, n, k.first - 1);
    for (int64_t t = k.first; t < k.end; t++, out += step) {
      const real *x3 = s->x + t * s->ld, *ybt = back ? yb + (seq * d.T + t) * d.C + k.c : NULL;
      SIMD
      for (int l = 0; l < LANES; l++) {
        real v = add_product(bias[l], w0[l], x0[l]);
        v = add_product(v, w1[l], x1[l]);
        v = add_product(v, w2[l], x2[l]);
        v = add_product(v, w3[l], x3[l]);
        out[l] = back ? ybt[l] * silu_derivative(v) : silu(v);
      }
      x0 = x1, x1 = x2, x2 = x3;
    }
  }
}

/* A function of its own, with copies that nothing else points to, so that taps stay in registers: a
 * third faster. */
static __attribute__((noinline)) void convolve_four(struct conv1d_shape d, struct block k,
                                                    const int32_t *row, const real *x,
                                                    const real *state0, real *y, struct strip *s)
{
  real *out = y + (k.seq * d.T + k.first) * d.C + k.c;
  walk_four(false, d, k, row, x, state0, NULL, out, d.C, s);
}
#endif

ELEMENTARY void convolve_block(struct width n, struct conv1d_shape d, struct block k,
                               const int32_t *row, const real *x, const real *w, const real *b,
                               const real *state0, real *y)
{
  struct strip s;
  load_taps(d, n, k.c, w, b, &s);
  if (n.W == FOUR_TAPS && n.lanes == LANES && x)
    convolve_four(d, k, row, x, state0, y, &s);
  else
    convolve_any(n, d, k, row, x, state0, y, &s);
}

KERNEL convolve_all(struct conv1d_shape d, const real *x, const real *w, const real *b,
                    const int32_t *row, const real *state0, real *y)
{
  FOR_EACH_COST (i, block_count(d), (2 * d.W + 24) * tokens_together(d) * LANES) {
    struct block k = block_of(d, i);
    WITH_WIDTH(k.lanes, d.W, convolve_block, d, k, row, x, w, b, state0, y);
  }
}

/* One channel: the last W of `before` (W; NULL: zeros) and n inputs, ld apart (NULL: zeros). */
ELEMENTARY void shift_channel(int W, int64_t n, const real *in, int64_t ld, const real *before,
                              real *after)
{
  if (n == 1 && before && in) { /* a token at a time */
    for (int j = 0; j + 1 < W; j++)
      after[j] = before[j + 1];
    after[W - 1] = *in;
    return;
  }
  for (int j = 0; j < W; j++) {
    int64_t t = n - W + j;
    if (t >= 0)
      after[j] = in ? in[t * ld] : 0;
    else
      after[j] = before ? before[W + t] : 0;
  }
}

ELEMENTARY void shift_strip(struct width n, int64_t tokens, const real *in, int64_t ld,
                            const real *before, real *after)
{
  for (int l = 0; l < n.lanes; l++)
    shift_channel(n.W, tokens, in ? in + l : NULL, ld, before ? before + l * n.W : NULL,
                  after + l * n.W);
}

/* after[row[b]] = the last W of before[row[b]] and the first count[b] (NULL: T) tokens of x; in
 * place it moves entries towards the front.  x, before NULL: zeros. */
KERNEL shift_state(struct conv1d_shape d, const real *x, const int32_t *row, const int32_t *count,
                   const real *before, real *after)
{
  int64_t strips = lane_blocks(d.C);
  FOR_EACH_COST (i, d.B * strips, LANES * d.W * 2) {
    int64_t seq = i / strips, n = count ? count[seq] : d.T, c = i % strips * LANES;
    int64_t state = ((row ? row[seq] : seq) * d.C + c) * d.W;
    const real *in = x ? x + seq * d.T * d.ld + c : NULL;
    int lanes = at_most(d.C - c, LANES);
    if (n > 0)
      WITH_WIDTH(lanes, d.W, shift_strip, n, in, d.ld, before ? before + state : NULL,
                 after + state);
  }
}

void OP(conv1d_fwd)(stream st, struct conv1d_shape d, const DEVICE real *x, const DEVICE real *w,
                    const DEVICE real *b, const DEVICE int32_t *row, const DEVICE real *state0,
                    DEVICE real *y, DEVICE real *state1)
{
  bool done = y == NULL;
#ifdef __CUDACC__
  done = done || convolved_by_walks(st, d, x, w, b, row, state0, y);
#endif
  if (!done)
    LAUNCH(st, block_count(d), convolve_all, d, x, w, b, row, state0, y);
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

/* Sums over the tokens of a strip: in real over about BLOCK_TOKENS, then in wide. */
struct sums {
  real taps[CONV_MAX_TAPS][LANES], bias[LANES];
  wide all_taps[CONV_MAX_TAPS][LANES], all_bias[LANES];
};

ELEMENTARY void clear_sums(struct width n, struct sums *s)
{
  load_columns(n, NULL, s->taps);
  for (int l = 0; l < LANES; l++)
    s->bias[l] = 0;
}

ELEMENTARY void widen_sums(struct width n, struct sums *s)
{
  for (int k = 0; k < n.W; k++) {
    SIMD
    for (int l = 0; l < n.lanes; l++)
      s->all_taps[k][l] += (wide)s->taps[k][l];
  }
  SIMD
  for (int l = 0; l < n.lanes; l++)
    s->all_bias[l] += (wide)s->bias[l];
  clear_sums(n, s);
}

/* sums += vb_t and vb_t x_{t-W+1+k} */
ELEMENTARY void give_weights(const struct strip *s, struct width n, int64_t t, const real *vb,
                             struct sums *sums)
{
  SIMD
  for (int l = 0; l < n.lanes; l++)
    sums->bias[l] += vb[l];
  for (int k = 0; k < n.W; k++) {
    const real *in = input(s, n, t - n.W + 1 + k);
    SIMD
    for (int l = 0; l < n.lanes; l++)
      sums->taps[k][l] = add_product(sums->taps[k][l], vb[l], in[l]);
  }
}

/* Where the cotangents of one sequence's inputs go. */
struct input_cotangents {
  real beta, *xb, *stateb; /* token 0 in rows of ld; (C,W); either may be NULL */
  const real *more[2];     /* as xb */
  int64_t ld;
};

/* What else a token's cotangents of `lanes` inputs take in, which lie `at` behind token 0's. */
ELEMENTARY void add_more(int lanes, const struct input_cotangents *to, int64_t at)
{
  for (int k = 0; k < 2 && to->more[k]; k++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      to->xb[at + l] += to->more[k][at + l];
  }
}

/* The cotangent of input t >= -W is complete. */
ELEMENTARY void give_input(struct width n, const struct input_cotangents *to, int64_t t,
                           const real *cotangent)
{
  if (t >= 0 && to->xb) {
    real *xbt = to->xb + t * to->ld;
    if (re(to->beta) == 0) {
      SIMD
      for (int l = 0; l < n.lanes; l++)
        xbt[l] = cotangent[l];
    } else {
      SIMD
      for (int l = 0; l < n.lanes; l++)
        xbt[l] = re(to->beta) * xbt[l] + cotangent[l];
    }
    add_more(n.lanes, to, t * to->ld);
  } else if (t < 0 && to->stateb) {
    for (int l = 0; l < n.lanes; l++)
      to->stateb[l * n.W + n.W + t] += cotangent[l];
  }
}

/* One sequence's strip: the cotangents of the last W inputs wait in registers. */
ELEMENTARY void give_sequence(struct width n, const struct strip *s, int64_t T, int64_t C,
                              const real *yb, const struct input_cotangents *to, struct sums *sums)
{
  real waiting[CONV_MAX_TAPS][LANES];
  load_columns(n, NULL, waiting);
  for (int64_t t = 0; t < T; t++) {
    real vb[LANES];
    preactivation_cotangent(s, n, t, yb + t * C, vb);
    for (int k = 0; k < n.W; k++) {
      SIMD
      for (int l = 0; l < n.lanes; l++)
        waiting[k][l] = add_product(waiting[k][l], s->taps[k][l], vb[l]);
    }
    give_input(n, to, t - n.W + 1, waiting[0]);
    for (int k = 0; k < n.W; k++) {
      SIMD
      for (int l = 0; l < n.lanes; l++)
        waiting[k][l] = k + 1 < n.W ? waiting[k + 1][l] : 0;
    }
    if (sums == NULL)
      continue;
    give_weights(s, n, t, vb, sums);
    if (t % BLOCK_TOKENS == BLOCK_TOKENS - 1)
      widen_sums(n, sums);
  }
  for (int k = 0; k < n.W - 1; k++)
    give_input(n, to, T - n.W + 1 + k, waiting[k]);
  if (sums)
    widen_sums(n, sums);
}

ELEMENTARY struct input_cotangents inputs_of(struct conv1d_shape d, int64_t seq, int64_t c,
                                             const struct cotangents *a)
{
  struct input_cotangents to;
  to.beta = a->beta;
  to.xb = a->xb ? a->xb + seq * d.T * d.ld + c : NULL;
  for (int k = 0; k < 2; k++)
    to.more[k] = a->more[k] ? a->more[k] + seq * d.T * d.ld + c : NULL;
  to.stateb = a->state0b ? a->state0b + (seq * d.C + c) * d.W : NULL;
  to.ld = d.ld;
  return to;
}

#ifdef __CUDACC__
#define give_four(...) ((void)0)
#else
/* Lanes of a strip that fill one vector: what a token gives is then in registers. */
#if defined(__AVX512F__) || REAL_BITS == 128
enum { NARROW = LANES };
#else
enum { NARROW = LANES / 2 };
#endif

/* vb (tokens,LANES) of a block of at most BLOCK_TOKENS, of a whole strip of four taps.  Ahead of
 * the rest, as a token's takes a hundred cycles, of which many are on their way together if there
 * is little else: with it conv1d_vjp took half as long again. */
static __attribute__((noinline)) void cotangents_of_four(struct conv1d_shape d, struct block k,
                                                         const struct cotangents *a,
                                                         struct strip *s, real (*vb)[LANES])
{
  walk_four(true, d, k, NULL, a->x, a->state0, a->yb, vb[0], LANES, s);
}

/* What vb gives of tokens first..end-1 of one sequence, whose inputs s has; lanes h.., and whether
 * it adds to sums, are constants. */
ELEMENTARY void give_narrow(bool adds, int h, const struct strip *s, int64_t first, int64_t end,
                            real (*vb)[LANES], const struct input_cotangents *to,
                            real (*waiting)[LANES], struct sums *sums)
{
  const struct width n = {LANES, 4};
  const bool fresh = re(to->beta) == 0;
  const real beta = re(to->beta);
  const real *x0 = input(s, n, first - 3) + h, *x1 = input(s, n, first - 2) + h;
  const real *x2 = input(s, n, first - 1) + h;
  real a[4][NARROW], wait[3][NARROW], sum[5][NARROW];
  for (int k = 0; k < 5; k++) {
    SIMD
    for (int l = 0; l < NARROW; l++) {
      if (adds)
        sum[k][l] = (k < 4 ? sums->taps[k] : sums->bias)[h + l];
      if (k < 4)
        a[k][l] = s->taps[k][h + l];
      if (k < 3)
        wait[k][l] = waiting[k][h + l];
    }
  }
  for (int64_t t = first; t < end; t++) {
    const real *x3 = s->x + t * s->ld + h, *vbt = vb[t - first] + h;
    real given[NARROW];
    SIMD
    for (int l = 0; l < NARROW; l++) {
      real v = vbt[l];
      given[l] = add_product(wait[0][l], a[0][l], v);
      wait[0][l] = add_product(wait[1][l], a[1][l], v);
      wait[1][l] = add_product(wait[2][l], a[2][l], v);
      wait[2][l] = a[3][l] * v;
      if (adds) {
        sum[0][l] = add_product(sum[0][l], v, x0[l]);
        sum[1][l] = add_product(sum[1][l], v, x1[l]);
        sum[2][l] = add_product(sum[2][l], v, x2[l]);
        sum[3][l] = add_product(sum[3][l], v, x3[l]);
        sum[4][l] += v;
      }
    }
    x0 = x1, x1 = x2, x2 = x3;
    if (t < 3) {
      for (int l = 0; to->stateb && l < NARROW; l++)
        to->stateb[(h + l) * 4 + 1 + t] += given[l];
      continue;
    }
    if (to->xb == NULL)
      continue;
    real *xbt = to->xb + (t - 3) * to->ld + h;
    if (fresh) {
      SIMD
      for (int l = 0; l < NARROW; l++)
        xbt[l] = given[l];
    } else {
      SIMD
      for (int l = 0; l < NARROW; l++)
        xbt[l] = beta * xbt[l] + given[l];
    }
    add_more(NARROW, to, (t - 3) * to->ld + h);
  }
  for (int k = 0; k < 5; k++) {
    SIMD
    for (int l = 0; l < NARROW; l++) {
      if (k < 3)
        waiting[k][h + l] = wait[k][l];
      if (adds)
        (k < 4 ? sums->taps[k] : sums->bias)[h + l] = sum[k][l];
    }
  }
}

static __attribute__((noinline)) void give_all_of_four(const struct strip *s, int64_t first,
                                                       int64_t end, real (*vb)[LANES],
                                                       const struct input_cotangents *to,
                                                       real (*waiting)[LANES], struct sums *sums)
{
  for (int h = 0; h < LANES; h += NARROW)
    give_narrow(true, h, s, first, end, vb, to, waiting, sums);
}

static __attribute__((noinline)) void give_inputs_of_four(const struct strip *s, int64_t first,
                                                          int64_t end, real (*vb)[LANES],
                                                          const struct input_cotangents *to,
                                                          real (*waiting)[LANES])
{
  for (int h = 0; h < LANES; h += NARROW)
    give_narrow(false, h, s, first, end, vb, to, waiting, NULL);
}

/* Sequences seq..last-1 of a whole strip of four taps, x not NULL. */
static void give_four(struct conv1d_shape d, int64_t seq, int64_t last, int64_t c,
                      const struct cotangents *a, struct strip *s, struct sums *sums)
{
  const struct width n = {LANES, 4};
  int64_t at_once = together(d);
  for (int64_t end; seq < last; seq = end) {
    real waiting[4][LANES];
    load_columns(n, NULL, waiting);
    end = seq + at_once < last ? seq + at_once : last;
    for (int64_t first = 0; first < d.T; first += BLOCK_TOKENS) {
      int64_t tokens = first + BLOCK_TOKENS < d.T ? BLOCK_TOKENS : d.T - first;
      real vb[BLOCK_TOKENS][LANES];
      struct block k = {seq, end, first, first + tokens, c, LANES};
      cotangents_of_four(d, k, a, s, vb);
      for (int64_t q = seq; q < end; q++) {
        struct input_cotangents to = inputs_of(d, q, c, a);
        load_inputs(d, n, q, c, q, a->x, a->state0, s);
        if (sums)
          give_all_of_four(s, first, first + tokens, vb + (q - seq) * tokens, &to, waiting, sums);
        else
          give_inputs_of_four(s, first, first + tokens, vb + (q - seq) * tokens, &to, waiting);
        if (first + tokens < d.T)
          continue;
        for (int w = 0; w < 3; w++)
          give_input(n, &to, d.T - 3 + w, waiting[w]);
        load_columns(n, NULL, waiting);
      }
      if (sums)
        widen_sums(n, sums);
    }
  }
}
#endif

/* Sequences seq..last-1 of the strip from channel c on. */
ELEMENTARY void give_strip(struct width n, struct conv1d_shape d, int64_t seq, int64_t last,
                           int64_t c, const struct cotangents *a)
{
  struct strip s;
  struct sums sums = {{{0}}, {0}, {{0}}, {0}}, *to_weights = a->wb || a->bb ? &sums : NULL;
  bool four = n.W == FOUR_TAPS && n.lanes == LANES && a->x;
  load_taps(d, n, c, a->w, a->b, &s);
  if (four)
    give_four(d, seq, last, c, a, &s, to_weights);
  for (; !four && seq < last; seq++) {
    struct input_cotangents to = inputs_of(d, seq, c, a);
    load_inputs(d, n, seq, c, seq, a->x, a->state0, &s);
    give_sequence(n, &s, d.T, d.C, a->yb + seq * d.T * d.C + c, &to, to_weights);
  }
  for (int l = 0; to_weights && l < n.lanes; l++) {
    for (int k = 0; a->wb && k < n.W; k++)
      a->wb[(c + l) * n.W + k] += (real)sums.all_taps[k][l];
    if (a->bb)
      a->bb[c + l] += (real)sums.all_bias[l];
  }
}

/* Index i of (part of the sequences, strip); one part where weights' cotangents are wanted. */
KERNEL give(struct conv1d_shape d, int64_t parts, struct cotangents a)
{
  int64_t strips = lane_blocks(d.C), size = (d.B + parts - 1) / parts;
  FOR_EACH_COST (i, parts * strips, size * d.T * LANES * (6 * d.W + 28)) {
    int64_t c = i % strips * LANES, seq = i / strips * size;
    int64_t last = seq + size < d.B ? seq + size : d.B;
    int lanes = at_most(d.C - c, LANES);
    WITH_WIDTH(lanes, d.W, give_strip, d, seq, last, c, &a);
  }
}

#ifdef __CUDACC__
/* Of channel c, every step-th sequence. */
ELEMENTARY void sum_channel(struct width n, struct conv1d_shape d, int64_t seq, int64_t step,
                            int64_t c, const struct cotangents *a, struct sums *sums)
{
  struct strip s;
  struct input_cotangents nowhere = {0};
  load_taps(d, n, c, a->w, a->b, &s);
  for (; seq < d.B; seq += step) {
    load_inputs(d, n, seq, c, seq, a->x, a->state0, &s);
    give_sequence(n, &s, d.T, d.C, a->yb + seq * d.T * d.C + c, &nowhere, sums);
  }
}

/* wb and bb: an index is STRIP channels, a warp has an interleaved part of their sequences. */
BLOCK_KERNEL give_weights_of_strips(struct conv1d_shape d, struct cotangents a)
{
  FOR_EACH_BLOCK (i, strips(d.C), d.B * d.T) {
    int64_t c = i * STRIP + own_column();
    struct sums sums = {{{0}}, {0}, {{0}}, {0}};
    if (c < d.C)
      WITH_WIDTH(1, d.W, sum_channel, d, own_part(), row_parts(), c, &a, &sums);
    for (int64_t k = 0; k <= d.W; k++) {
      wide total = column_total(k < d.W ? sums.all_taps[k][0] : sums.all_bias[0]);
      if (own_part() == 0 && c < d.C && k < d.W && a.wb)
        a.wb[c * d.W + k] += (real)total;
      if (own_part() == 0 && c < d.C && k == d.W && a.bb)
        a.bb[c] += (real)total;
    }
  }
}
#endif

/* All but what state1b says. */
static void give_all(stream st, struct conv1d_shape d, struct cotangents a)
{
  int64_t strips = lane_blocks(d.C);
  bool weights = a.wb || a.bb;
#ifdef __CUDACC__ /* few strips for many processors there */
  struct cotangents inputs = a;
  inputs.wb = inputs.bb = NULL;
  if (given_by_walks(st, d, a))
    return;
  if (a.xb || a.state0b)
    LAUNCH(st, d.B * strips, give, d, d.B, inputs);
  if (weights)
    LAUNCH_BLOCKS(st, (d.C + STRIP - 1) / STRIP, give_weights_of_strips, d, a);
#else
  int64_t parts = weights ? 1 : d.B;
  LAUNCH(st, parts * strips, give, d, parts, a);
#endif
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

void OP(conv1d_vjp)(stream st, struct conv1d_shape d, const DEVICE real *x, const DEVICE real *w,
                    const DEVICE real *b, const DEVICE real *state0, const DEVICE real *yb,
                    const DEVICE real *state1b, real beta, const DEVICE real *more,
                    const DEVICE real *more2, DEVICE real *xb, DEVICE real *wb, DEVICE real *bb,
                    DEVICE real *state0b)
{
  struct cotangents all = {x, w, b, state0, yb, beta, xb, wb, bb, state0b, {more, more2}};
  if (xb || wb || bb || state0b)
    give_all(st, d, all);
  if (state1b && (xb || state0b))
    LAUNCH(st, d.B * d.C, state_cotangents, d, state1b, xb, state0b);
}

/* ---- JVP ---- */

/* A strip, and the same with tangents in place of taps and bias, and in place of inputs. */
struct strip_tangent {
  struct strip s, taps, inputs;
};

ELEMENTARY void differentiate_block(struct width n, struct conv1d_shape d, struct block k,
                                    int64_t seq, const struct strip_tangent *g, real *yd)
{
  for (int64_t t = k.first; t < k.end; t++) {
    real v[LANES], vd[LANES], *ydt = yd + (seq * d.T + t) * d.C + k.c;
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
  FOR_EACH_COST (i, block_count(d), (6 * d.W + 28) * tokens_together(d) * LANES) {
    struct block k = block_of(d, i);
    const struct width n = {k.lanes, (int)d.W};
    struct strip_tangent g;
    load_taps(d, n, k.c, w, b, &g.s);
    load_taps(d, n, k.c, wd, bd, &g.taps);
    load_taps(d, n, k.c, w, NULL, &g.inputs);
    for (int64_t seq = k.seq; seq < k.last; seq++) {
      load_inputs(d, n, seq, k.c, seq, x, state0, &g.s);
      load_inputs(d, n, seq, k.c, seq, x, state0, &g.taps);
      load_inputs(d, n, seq, k.c, seq, xd, state0d, &g.inputs);
      WITH_WIDTH(k.lanes, d.W, differentiate_block, d, k, seq, &g, yd);
    }
  }
}

void OP(conv1d_jvp)(stream st, struct conv1d_shape d, const DEVICE real *x, const DEVICE real *w,
                    const DEVICE real *b, const DEVICE real *state0, const DEVICE real *xd,
                    const DEVICE real *wd, const DEVICE real *bd, const DEVICE real *state0d,
                    DEVICE real *yd, DEVICE real *state1d)
{
  if (yd)
    LAUNCH(st, block_count(d), differentiate_all, d, x, w, b, state0, xd, wd, bd, state0d, yd);
  if (state1d)
    LAUNCH(st, d.B * lane_blocks(d.C), shift_state, d, xd, NULL, NULL, state0d, state1d);
}
