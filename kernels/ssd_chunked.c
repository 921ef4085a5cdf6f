/* ssd_chunked: the map of ssd.c by dense products within chunks of Q tokens.
 *
 * With l_k = A dt_k, A = -exp(A_log), and for tokens i, j of one chunk (0 its first, q-1 its last)
 *   m_ij = exp(sum_{j<k<=i} l_k), 0 for j > i      e_i = exp(sum_{k<=i} l_k)      r_j = m_{q-1,j}
 *   w_ij = m_ij (C_i . B_j) dt_j
 *   y_i  = sum_j w_ij x_j + e_i S C_i + D x_i            S (P,N) enters the chunk
 *   R    = e_{q-1} S + sum_j r_j dt_j x_j B_j^T          leaves it and enters the next
 * Every exponent is a running sum of l from j on, never a difference of two sums from the chunk's
 * start: no cancellation, and no exponential above 1.
 *
 * VJP, with z_ij = yb_i . x_j and K_ij = w_ij z_ij:
 *   xb_j += sum_i w_ij yb_i + r_j dt_j Rb B_j + D yb_j
 *   Cb_i += sum_{h in group} (sum_j m_ij dt_j z_ij B_j + e_i S^T yb_i)
 *   Bb_j += sum_{h in group} (sum_i m_ij dt_j z_ij C_i + r_j dt_j Rb^T x_j)
 *   Sb    = e_{q-1} Rb + sum_i e_i yb_i C_i^T
 *   lb_k  = sum_{j<k<=i} K_ij + sum_{i>=k} e_i yb_i . S C_i + sum_{j<k} r_j dt_j x_j . Rb B_j
 *           + e_{q-1} <Rb,S>
 *   dtb_k += A lb_k + sum_i m_ik (C_i . B_k) z_ik + r_k x_k . Rb B_k
 *   A_logb += sum_k A dt_k lb_k
 * No state of a single token is kept.  JVP: each factor's tangent in turn.
 *
 * Arrays of a chunk and a head, index u = (b,chunk,h): pairs (Q,Q) by rows i, scalars (Q), scaled
 * tokens (Q,P), states (P,N).  Pairs of a group: index (b,chunk,g).
 *
 * With A_negative decays have no logarithm: ssd_products.h.
 *
 * Reference: Dao & Gu 2024, arXiv:2405.21060, section 6.
 */
#include "kernels/operations.h"
#include "kernels/ssd_heads.h"
#include "kernels/ssd_products.h"

enum { CHANNELS = 128 }; /* of x that are transposed at a time */

/* ---- where things are ---- */

struct chunk_scratch {
  real *scores, *scores2;   /* (b,chunk,g) pairs */
  real *weights, *weights2; /* u: pairs */
  real *scaled, *scaled2;   /* u: tokens */
  real *states;             /* u */
  real *entry, *leave;      /* u: e and r */
  real *a, *b, *c, *across; /* u: scalars; across_k = sum_{j<k<=i} K_ij */
  real *row, *column;       /* u: scalars */
  real *all, *over;         /* u: a scalar for each block */
  real *block;              /* (b,chunk,g): two blocks of tokens */
};

INLINE struct chunk_scratch scratch_of(struct ssd_shape d, real *work)
{
  int64_t Q = ssd_chunk_length(d), BC = d.B * ssd_chunks(d), u = BC * d.H;
  int64_t blocks = ssd_blocks(Q), tokens = d.by_blocks ? blocks * SSD_BLOCK : Q;
  struct chunk_scratch s;
  s.scores = work;
  s.scores2 = s.scores + BC * d.G * Q * Q;
  s.weights = s.block = s.scores2 + BC * d.G * Q * Q;
  s.weights2 = s.weights + u * Q * Q;
  int64_t pairs = d.by_blocks ? BC * d.G * 2 * SSD_BLOCK * d.P : 2 * u * Q * Q;
  s.scaled = work + in_fours(BC * d.G * 2 * Q * Q + pairs);
  s.scaled2 = s.scaled + u * tokens * d.P;
  s.states = s.scaled2 + u * tokens * d.P;
  s.entry = s.states + u * d.P * d.N;
  s.leave = s.entry + u * Q;
  s.a = s.leave + u * Q;
  s.b = s.a + u * Q;
  s.c = s.b + u * Q;
  s.across = s.c + u * Q;
  s.row = s.across + u * Q;
  s.column = s.row + u * Q;
  s.all = s.column + u * Q;
  s.over = s.all + u * blocks;
  return s;
}

/* Head h (or group) of a chunk of q tokens; `token` is its first among all B * T. */
struct chunk {
  int64_t u, b, c, h, token;
  int q;
};

/* Index u of (b,chunk,h), h one of `heads`. */
INLINE struct chunk chunk_of(struct ssd_shape d, int64_t u, int64_t heads)
{
  int64_t chunks = ssd_chunks(d), bc = u / heads;
  struct chunk k;
  k.u = u;
  k.h = u - bc * heads;
  k.b = bc / chunks;
  k.c = bc - k.b * chunks;
  k.token = k.b * d.T + k.c * d.chunk;
  k.q = at_most(d.T - k.c * d.chunk, (int)ssd_chunk_length(d));
  return k;
}

INLINE int64_t chunk_heads(struct ssd_shape d) { return d.B * ssd_chunks(d) * d.H; }

INLINE int64_t group_of(struct ssd_shape d, int64_t h) { return h / (d.H / d.G); }

/* The chunk's columns of x, or of B and C for the head's group. */
INLINE const real *x_of(struct ssd_shape d, struct chunk k, const real *x)
{
  return x + k.token * d.ld + k.h * d.P;
}

INLINE const real *group_columns(struct ssd_shape d, struct chunk k, const real *B)
{
  return B + k.token * d.ld + group_of(d, k.h) * d.N;
}

/* Where the pairs of the head's group start. */
INLINE int64_t group_pairs(struct ssd_shape d, struct chunk k)
{
  int64_t Q = ssd_chunk_length(d);
  return (k.u / d.H * d.G + group_of(d, k.h)) * Q * Q;
}

/* ---- pairs of tokens ---- */

/* scores_ij = (add ? scores_ij : 0) + C_i . B_j for j <= i (others: anything); NULL: zeros */
KERNEL score_pairs(struct ssd_shape d, const real *C, const real *Bm, bool add, real *scores)
{
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(Q);
  FOR_EACH_COST (index, d.B * ssd_chunks(d) * d.G * blocks, Q * LANES * d.N) {
    struct chunk k = chunk_of(d, index / blocks, d.G);
    int j0 = (int)(index % blocks) * LANES, lanes = at_most(k.q - j0, LANES);
    int64_t start = k.token * d.ld + k.h * d.N;
    real Bt[SSD_MAX_STATE][LANES], acc[ROWS][LANES];
    if (Bm && lanes > 0)
      tile_transpose(d.N, lanes, Bm + start + j0 * d.ld, d.ld, Bt);
    for (int i0 = j0; i0 < k.q; i0 += ROWS) {
      int rows = at_most(k.q - i0, ROWS);
      tile_zero(acc);
      if (C && Bm)
        tile_multiply(rows, LANES, d.N, C + start + i0 * d.ld, d.ld, 1, Bt[0], LANES, acc);
      for (int r = 0; r < rows; r++) {
        real *to = scores + (k.u * Q + i0 + r) * Q + j0;
        for (int l = 0; l < lanes; l++)
          to[l] = (add ? to[l] : 0) + acc[r][l];
      }
    }
  }
}

/* LANES tokens j of a chunk and a head while i goes up from the first of them. */
struct columns {
  real A, dt[LANES], sum[LANES]; /* sum: of l_k, j < k <= i */
};

ELEMENTARY void start_columns(struct ssd_shape d, struct chunk k, int j0, int lanes, const real *dt,
                              const real *A_log, struct columns *s)
{
  s->A = decay_rate(A_log, k.h);
  for (int l = 0; l < LANES; l++) {
    s->dt[l] = l < lanes ? dt[(k.token + j0 + l) * d.H + k.h] : 0;
    s->sum[l] = 0;
  }
}

/* Moves on to token i = j0 + past: m[l] = m_ij. */
ELEMENTARY void step_columns(struct columns *s, int past, real dt, real *m)
{
  real step = s->A * dt;
  SIMD
  for (int l = 0; l < LANES; l++) {
    real sum = s->sum[l] + step;
    s->sum[l] = past > l ? sum : 0;
    real e = exp_falling(s->sum[l]);
    m[l] = past >= l ? e : 0;
  }
}

/* A row of w; the masked scores may be anything. */
ELEMENTARY void weigh_row(int lanes, int past, const real *m, const real *score, const real *dt,
                          real *weight)
{
  SIMD
  for (int l = 0; l < lanes; l++) {
    real w = score[l] * (m[l] * dt[l]); /* read first: a load under a mask is slow */
    weight[l] = past >= l ? w : 0;
  }
}

/* One row i; masked scores and z may be anything. */
ELEMENTARY void pair_row(int lanes, int past, const real *m, const real *score, const real *dt,
                         const real *z, real *weight, real *weight2, real *direct)
{
  SIMD
  for (int l = 0; l < lanes; l++) {
    real scored = score[l] * m[l], pair = m[l] * dt[l] * z[l], both = scored * z[l];
    scored *= dt[l];
    weight[l] = past >= l ? scored : 0;
    weight2[l] = past >= l ? pair : 0;
    direct[l] += past >= l ? both : 0;
  }
}

/* weights_ij = w_ij */
KERNEL weigh_pairs(struct ssd_shape d, const real *dt, const real *A_log, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(Q);
  FOR_EACH_COST (index, chunk_heads(d) * blocks, Q * LANES * 12) {
    struct chunk k = chunk_of(d, index / blocks, d.H);
    int j0 = (int)(index % blocks) * LANES, lanes = at_most(k.q - j0, LANES);
    struct columns at;
    start_columns(d, k, j0, lanes, dt, A_log, &at);
    for (int i = j0; i < k.q; i++) {
      const real *score = s.scores + group_pairs(d, k) + i * Q + j0;
      real *weight = s.weights + (k.u * Q + i) * Q + j0, m[LANES];
      step_columns(&at, i - j0, dt[(k.token + i) * d.H + k.h], m);
      if (lanes == LANES)
        weigh_row(LANES, i - j0, m, score, at.dt, weight);
      else
        weigh_row(lanes, i - j0, m, score, at.dt, weight);
    }
  }
}

/* ---- decays and states ---- */

/* entry, leave; and their tangents into a, b where dtd or A_logd is given */
KERNEL chunk_decays(struct ssd_shape d, const real *dt, const real *A_log, const real *dtd,
                    const real *A_logd, bool tangents, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d);
  FOR_EACH_COST (u, chunk_heads(d), 40 * Q) {
    struct chunk k = chunk_of(d, u, d.H);
    real A = decay_rate(A_log, k.h), Ad = A_logd ? A * A_logd[k.h] : 0, sum = 0, sumd = 0;
    real *entry = s.entry + u * Q, *leave = s.leave + u * Q, *ed = s.a + u * Q, *rd = s.b + u * Q;
    for (int i = 0; i < k.q; i++) {
      int64_t t = (k.token + i) * d.H + k.h;
      entry[i] = sum += A * dt[t];
      if (tangents)
        ed[i] = sumd += Ad * dt[t] + (dtd ? A * dtd[t] : 0);
    }
    sum = sumd = 0;
    for (int i = k.q - 1; i >= 0; i--) {
      int64_t t = (k.token + i) * d.H + k.h;
      leave[i] = sum;
      sum += A * dt[t];
      if (tangents) {
        rd[i] = sumd;
        sumd += Ad * dt[t] + (dtd ? A * dtd[t] : 0);
      }
    }
    SIMD
    for (int i = 0; i < k.q; i++) {
      entry[i] = exp_falling(entry[i]);
      leave[i] = exp_falling(leave[i]);
    }
    for (int i = 0; tangents && i < k.q; i++) {
      ed[i] *= entry[i];
      rd[i] *= leave[i];
    }
  }
}

/* out (u: tokens) = factor_i dt_i (dt NULL: 1) times the tokens of x, which are ldx apart */
KERNEL scale_tokens(struct ssd_shape d, const real *factor, const real *dt, const real *x,
                    int64_t ldx, real *out)
{
  int64_t Q = ssd_chunk_length(d);
  FOR_EACH_COST (u, chunk_heads(d), Q * d.P) {
    struct chunk k = chunk_of(d, u, d.H);
    for (int i = 0; i < k.q; i++) {
      real f = factor[u * Q + i] * (dt ? dt[(k.token + i) * d.H + k.h] : 1);
      const real *from = x + (k.token + i) * ldx + k.h * d.P;
      real *to = out + (u * Q + i) * d.P;
      SIMD
      for (int64_t p = 0; p < d.P; p++)
        to[p] = f * from[p];
    }
  }
}

/* The states that enter the first chunks: S0[row[b]] or zeros. */
KERNEL start_states(struct ssd_shape d, const int32_t *row, const real *S0, real *states)
{
  int64_t HPN = d.H * d.P * d.N;
  FOR_EACH_COST (i, d.B * d.H * d.P, d.N) {
    int64_t b = i / (d.H * d.P), at = i % (d.H * d.P) * d.N;
    const real *from = S0 ? S0 + (row ? row[b] : b) * HPN + at : NULL;
    real *to = states + b * ssd_chunks(d) * HPN + at;
    for (int64_t n = 0; from && n < d.N; n++)
      to[n] = from[n];
    for (int64_t n = 0; !from && n < d.N; n++)
      to[n] = 0;
  }
}

/* sum_j tokens_j panel_j' of each chunk (and of a second pair, NULL: none) into its own slot of
 * states, or (`onward`) into the next chunk's, the last chunk's into last[row[b]]. */
KERNEL sum_states(struct ssd_shape d, const real *tokens, const real *panel, const real *tokens2,
                  const real *panel2, bool onward, const int32_t *row, real *states, real *last)
{
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(d.N), spans = row_spans(d.P);
  FOR_EACH_COST (index, chunk_heads(d) * spans * blocks, 2 * d.P / spans * LANES * Q) {
    struct chunk k = chunk_of(d, index / blocks / spans, d.H);
    int64_t n0 = index % blocks * LANES, span = index / blocks % spans * ROW_SPAN;
    int64_t end = span + ROW_SPAN < d.P ? span + ROW_SPAN : d.P, PN = d.P * d.N;
    int lanes = at_most(d.N - n0, LANES);
    real *to = states + (onward ? k.u + d.H : k.u) * PN;
    if (onward && k.c == ssd_chunks(d) - 1)
      to = last ? last + ((row ? row[k.b] : k.b) * d.H + k.h) * PN : NULL;
    for (int64_t p = span; to && p < end; p += ROWS) {
      int rows = at_most(end - p, ROWS);
      real acc[ROWS][LANES];
      tile_zero(acc);
      tile_multiply(rows, lanes, k.q, tokens + k.u * Q * d.P + p, 1, d.P,
                    group_columns(d, k, panel) + n0, d.ld, acc);
      if (panel2)
        tile_multiply(rows, lanes, k.q, tokens2 + k.u * Q * d.P + p, 1, d.P,
                      group_columns(d, k, panel2) + n0, d.ld, acc);
      for (int r = 0; r < rows; r++)
        for (int l = 0; l < lanes; l++)
          to[(p + r) * d.N + n0 + l] = acc[r][l];
    }
  }
}

/* From the first chunk to the last: what sum_states put into the next one += e_{q-1} S (+ ed S2:
 * for tangents, where S2 NULL is zeros). */
KERNEL pass_states(struct ssd_shape d, const real *entry, const real *ed, const real *S2,
                   const int32_t *row, real *states, real *last)
{
  int64_t Q = ssd_chunk_length(d), chunks = ssd_chunks(d), HP = d.H * d.P;
  FOR_EACH_COST (i, d.B * HP, 2 * chunks * d.N) {
    int64_t b = i / HP, hp = i % HP;
    for (int64_t c = 0; c < chunks; c++) {
      struct chunk k = chunk_of(d, (b * chunks + c) * d.H + hp / d.P, d.H);
      int64_t at = ((b * chunks + c) * HP + hp) * d.N;
      real e = entry[k.u * Q + k.q - 1], factor2 = S2 ? ed[k.u * Q + k.q - 1] : 0;
      const real *from = states + at, *from2 = S2 ? S2 + at : NULL;
      if (c == chunks - 1 && !last)
        continue;
      real *to =
          c < chunks - 1 ? states + at + HP * d.N : last + ((row ? row[b] : b) * HP + hp) * d.N;
      SIMD
      for (int64_t n = 0; n < d.N; n++)
        to[n] = add_product(to[n], e, from[n]);
      if (from2 == NULL)
        continue;
      SIMD
      for (int64_t n = 0; n < d.N; n++)
        to[n] = add_product(to[n], factor2, from2[n]);
    }
  }
}

/* ---- forward ---- */

/* y; the first chunk has a state only where `carried` */
KERNEL outputs(struct ssd_shape d, const real *x, const real *C, const real *D, const real *S,
               bool carried, real *work, real *y)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(d.P);
  FOR_EACH_COST (index, chunk_heads(d) * blocks, Q * LANES * (Q + 2 * d.N)) {
    struct chunk k = chunk_of(d, index / blocks, d.H);
    int64_t p0 = index % blocks * LANES;
    int lanes = at_most(d.P - p0, LANES);
    bool state = k.c > 0 || carried;
    real St[SSD_MAX_STATE][LANES], acc[ROWS][LANES];
    if (state)
      tile_transpose(d.N, lanes, S + (k.u * d.P + p0) * d.N, d.N, St);
    const real *xs = x_of(d, k, x) + p0, *Cs = group_columns(d, k, C);
    for (int i0 = 0; i0 < k.q; i0 += ROWS) {
      int rows = at_most(k.q - i0, ROWS);
      tile_zero(acc);
      if (state) {
        tile_multiply(rows, LANES, d.N, Cs + i0 * d.ld, d.ld, 1, St[0], LANES, acc);
        tile_scale_rows(rows, s.entry + k.u * Q + i0, acc);
      }
      tile_multiply(rows, lanes, i0 + rows, s.weights + (k.u * Q + i0) * Q, Q, 1, xs, d.ld, acc);
      for (int r = 0; r < rows; r++) {
        real *to = y + ((k.token + i0 + r) * d.H + k.h) * d.P + p0;
        for (int l = 0; l < lanes; l++)
          to[l] = acc[r][l] + skip_of(d, D, k.h, p0 + l) * xs[(i0 + r) * d.ld + l];
      }
    }
  }
}

#ifdef __CUDACC__
#include "kernels/ssd_batched_cuda.h"
#if REAL_BITS == 32
#define ON_TENSOR_CORES
#include "kernels/ssd_warpgroup_cuda.h"
#include "kernels/ssd_warpgroup_vjp_cuda.h"
#endif
#elif REAL_BITS != 128
#define BY_BLOCKS
#include "kernels/ssd_steps_cpu.h"
#include "kernels/ssd_blocks_cpu.h"
#endif

void OP(ssd_chunked_fwd)(stream st, struct ssd_shape d, const DEVICE real *x, const DEVICE real *Bm,
                         const DEVICE real *C, const DEVICE real *dt, const DEVICE real *A_log,
                         const DEVICE real *D, const DEVICE int32_t *row, const DEVICE real *S0,
                         DEVICE real *S, DEVICE real *work, DEVICE real *y, DEVICE real *S1)
{
  if (d.A_negative) {
    OP(ssd_products_fwd)(st, d, x, Bm, C, dt, A_log, D, row, S0, S, y, S1);
    return;
  }
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), BC = d.B * ssd_chunks(d), heads = chunk_heads(d);
  bool passes = ssd_chunks(d) > 1 || S1;
  DEVICE real *states = S ? S : s.states;
#ifdef BY_BLOCKS
  if (goes_by_steps(d, ssd_chunks(d) > 1 || S0 || S1)) {
    struct steps in = {x, Bm, C, dt, A_log, D, row, S0, S, s.states, y, S1};
    LAUNCH(st, d.B * d.H, all_steps, d, in);
    return;
  }
#endif
#ifdef ON_TENSOR_CORES
  struct tensor_forward f = {x, Bm, C, dt, A_log, D, row, S0, S, y, S1};
  if (takes_forward(st, d, f)) {
    forward_on_tensor_cores(st, d, f);
    return;
  }
  CHECK(!S || !keeps_halves(st, d)); /* the arrays are aligned */
#endif
  if (S || S0 || passes)
    LAUNCH(st, d.B * d.H * d.P, start_states, d, row, S0, states);
  if (S0 || passes)
    LAUNCH(st, heads, chunk_decays, d, dt, A_log, NULL, NULL, false, work);
#ifdef __CUDACC__
  if (one_length(d) && !(row && S1)) {
    if (passes) {
      LAUNCH(st, elements(d), scale_elements, d, s.leave, dt, x, d.ld, s.scaled);
      multiply_onward(st, d, s.scaled, Bm, states, S1);
      LAUNCH(st, d.B * d.H * d.P, pass_states, d, s.entry, NULL, NULL, row, states, S1);
    }
    if (y)
      batched_outputs(st, d, x, Bm, C, dt, A_log, D, ssd_chunks(d) > 1 || S0 ? states : NULL, work,
                      y);
    return;
  }
#endif
  if (passes) {
    LAUNCH(st, heads, scale_tokens, d, s.leave, dt, x, d.ld, s.scaled);
    LAUNCH(st, heads * row_spans(d.P) * lane_blocks(d.N), sum_states, d, s.scaled, Bm, NULL, NULL,
           true, row, states, S1);
    LAUNCH(st, d.B * d.H * d.P, pass_states, d, s.entry, NULL, NULL, row, states, S1);
  }
  if (y)
    LAUNCH(st, BC * d.G * lane_blocks(Q), score_pairs, d, C, Bm, false, s.scores);
#ifdef BY_BLOCKS
  if (y && d.by_blocks) {
    struct block_inputs in = {x, dt, A_log, D};
    LAUNCH(st, heads, block_outputs, d, in, work, y);
    return;
  }
#endif
  if (y) {
    LAUNCH(st, heads * lane_blocks(Q), weigh_pairs, d, dt, A_log, work);
    LAUNCH(st, heads * lane_blocks(d.P), outputs, d, x, C, D, states, S0 != NULL, work, y);
  }
}

/* ---- VJP ---- */

/* weights = w, weights2_ij = m_ij dt_j z_ij, c_j = sum_i m_ij (C_i . B_j) z_ij */
KERNEL pair_cotangents(struct ssd_shape d, const real *x, const real *dt, const real *A_log,
                       const real *yb, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(Q), HP = d.H * d.P;
  FOR_EACH_COST (index, chunk_heads(d) * blocks, Q * LANES * (d.P + 16)) {
    struct chunk k = chunk_of(d, index / blocks, d.H);
    int j0 = (int)(index % blocks) * LANES, lanes = at_most(k.q - j0, LANES);
    const real *ybs = yb + k.token * HP + k.h * d.P, *xs = x_of(d, k, x) + j0 * d.ld;
    real xt[CHANNELS][LANES], acc[ROWS][LANES], m[LANES], direct[LANES] = {0};
    struct columns at;
    start_columns(d, k, j0, lanes, dt, A_log, &at);
    for (int i0 = j0; i0 < k.q; i0 += ROWS) {
      int rows = at_most(k.q - i0, ROWS);
      tile_zero(acc);
      for (int64_t p = 0; p < d.P; p += CHANNELS) {
        int count = at_most(d.P - p, CHANNELS);
        if (i0 == j0 || d.P > CHANNELS)
          tile_transpose(count, lanes, xs + p, d.ld, xt);
        tile_multiply(rows, LANES, count, ybs + i0 * HP + p, HP, 1, xt[0], LANES, acc);
      }
      for (int r = 0; r < rows; r++) {
        int i = i0 + r;
        int64_t to = (k.u * Q + i) * Q + j0;
        const real *score = s.scores + group_pairs(d, k) + i * Q + j0;
        step_columns(&at, i - j0, dt[(k.token + i) * d.H + k.h], m);
        if (lanes == LANES)
          pair_row(LANES, i - j0, m, score, at.dt, acc[r], s.weights + to, s.weights2 + to, direct);
        else
          pair_row(lanes, i - j0, m, score, at.dt, acc[r], s.weights + to, s.weights2 + to, direct);
      }
    }
    for (int l = 0; l < lanes; l++)
      s.c[k.u * Q + j0 + l] = direct[l];
  }
}

/* scores2 = sum of weights2 over the heads of a group */
KERNEL sum_over_heads(struct ssd_shape d, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), heads = d.H / d.G;
  FOR_EACH_COST (index, d.B * ssd_chunks(d) * d.G * Q, heads * Q / 2) {
    int64_t i = index % Q, group = index / Q;
    struct chunk k = chunk_of(d, group, d.G);
    int64_t last = (i / ROWS + 1) * ROWS < k.q ? (i / ROWS + 1) * ROWS : k.q;
    real *to = s.scores2 + (group * Q + i) * Q;
    for (int64_t h = 0; i < k.q && h < heads; h++) {
      const real *from = s.weights2 + ((group * heads + h) * Q + i) * Q;
      SIMD
      for (int64_t j = 0; j < last; j++)
        to[j] = (h ? to[j] : 0) + from[j];
    }
  }
}

/* From the last chunk to the first: states_c, V until then (0 unless `summed`), becomes Rb, and the
 * chunk before gets e_{q-1} Rb + V.  The last one gets S1b or zeros; S0b += what the first gives.
 */
KERNEL pass_states_back(struct ssd_shape d, const real *entry, const real *S1b, bool summed,
                        real *states, real *S0b)
{
  int64_t Q = ssd_chunk_length(d), chunks = ssd_chunks(d), HP = d.H * d.P;
  FOR_EACH_COST (i, d.B * HP, 2 * chunks * d.N) {
    int64_t b = i / HP, hp = i % HP;
    real running[SSD_MAX_STATE];
    for (int64_t n = 0; n < d.N; n++)
      running[n] = S1b ? S1b[i * d.N + n] : 0;
    for (int64_t c = chunks - 1; c >= 0; c--) {
      struct chunk k = chunk_of(d, (b * chunks + c) * d.H + hp / d.P, d.H);
      real e = entry[k.u * Q + k.q - 1], *at = states + ((b * chunks + c) * HP + hp) * d.N;
      SIMD
      for (int64_t n = 0; n < d.N; n++) {
        real sum = summed ? at[n] : 0;
        at[n] = running[n];
        running[n] = add_product(sum, e, running[n]);
      }
    }
    for (int64_t n = 0; S0b && n < d.N; n++)
      S0b[i * d.N + n] += running[n];
  }
}

/* xb; the last chunk has an Rb only where `carried` */
KERNEL input_cotangents(struct ssd_shape d, const real *Bm, const real *dt, const real *D,
                        const real *yb, bool carried, real *work, real *xb)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(d.P), HP = d.H * d.P;
  FOR_EACH_COST (index, chunk_heads(d) * blocks, Q * LANES * (Q + 2 * d.N)) {
    struct chunk k = chunk_of(d, index / blocks, d.H);
    int64_t p0 = index % blocks * LANES;
    int lanes = at_most(d.P - p0, LANES);
    bool state = k.c < ssd_chunks(d) - 1 || carried;
    real St[SSD_MAX_STATE][LANES], acc[ROWS][LANES];
    if (state)
      tile_transpose(d.N, lanes, s.states + (k.u * d.P + p0) * d.N, d.N, St);
    const real *ybs = yb + k.token * HP + k.h * d.P + p0, *Bs = group_columns(d, k, Bm);
    for (int j0 = 0; j0 < k.q; j0 += ROWS) {
      int rows = at_most(k.q - j0, ROWS);
      tile_zero(acc);
      if (state) {
        real factor[ROWS];
        for (int r = 0; r < rows; r++)
          factor[r] = s.leave[k.u * Q + j0 + r] * dt[(k.token + j0 + r) * d.H + k.h];
        tile_multiply(rows, LANES, d.N, Bs + j0 * d.ld, d.ld, 1, St[0], LANES, acc);
        tile_scale_rows(rows, factor, acc);
      }
      tile_multiply(rows, lanes, k.q - j0, s.weights + (k.u * Q + j0) * Q + j0, 1, Q, ybs + j0 * HP,
                    HP, acc);
      for (int r = 0; r < rows; r++) {
        real *to = xb + (k.token + j0 + r) * d.ld + k.h * d.P + p0;
        for (int l = 0; l < lanes; l++)
          to[l] += acc[r][l] + skip_of(d, D, k.h, p0 + l) * ybs[(j0 + r) * HP + l];
      }
    }
  }
}

/* One side of the products C . B and of the states: for tokens i of a group's chunk,
 *   out_i  += sum_h factor_hi scaled_hi states_h + sum_j pairs_ij panel_j    (out NULL: not wanted)
 *   dots_hi = (scaled_hi states_h) . own_i */
struct side {
  const real *scaled, *states, *factor, *pairs, *own, *panel; /* factor NULL: ones */
  bool transposed;  /* pairs_ji, j >= i, in place of pairs_ij, j <= i */
  bool first, last; /* whether the first, the last chunk has states */
  real *dots, *out;
};

ELEMENTARY void side_tokens(struct ssd_shape d, struct side s, struct chunk k, int64_t n0,
                            int64_t h, int i0, int end)
{
  int64_t Q = ssd_chunk_length(d), u = k.u / d.G * d.H + h;
  int lanes = at_most(d.N - n0, LANES);
  for (; i0 < end; i0 += ROWS) {
    int rows = at_most(end - i0, ROWS);
    real acc[ROWS][LANES];
    tile_zero(acc);
    tile_multiply(rows, lanes, d.P, s.scaled + (u * Q + i0) * d.P, d.P, 1,
                  s.states + u * d.P * d.N + n0, d.N, acc);
    for (int r = 0; r < rows; r++) {
      int64_t t = k.token + i0 + r, column = t * d.ld + k.h * d.N + n0;
      real f = s.factor ? s.factor[t * d.H + h] : 1, dot = 0;
      SIMD_SUM(dot)
      for (int l = 0; l < lanes; l++)
        dot += acc[r][l] * s.own[column + l];
      s.dots[u * Q + i0 + r] = (n0 ? s.dots[u * Q + i0 + r] : 0) + dot;
      SIMD
      for (int l = 0; l < (s.out ? lanes : 0); l++)
        s.out[column + l] += f * acc[r][l];
    }
  }
}

ELEMENTARY void side_pairs(struct ssd_shape d, struct side s, struct chunk k, int64_t n0, int i0,
                           int end)
{
  int64_t Q = ssd_chunk_length(d), start = k.token * d.ld + k.h * d.N + n0;
  int lanes = at_most(d.N - n0, LANES);
  const real *pairs = s.pairs + k.u * Q * Q;
  for (; i0 < end; i0 += ROWS) {
    int rows = at_most(end - i0, ROWS);
    real acc[ROWS][LANES];
    tile_zero(acc);
    if (s.transposed)
      tile_multiply(rows, lanes, k.q - i0, pairs + i0 * Q + i0, 1, Q, s.panel + start + i0 * d.ld,
                    d.ld, acc);
    else
      tile_multiply(rows, lanes, i0 + rows, pairs + i0 * Q, Q, 1, s.panel + start, d.ld, acc);
    for (int r = 0; r < rows; r++)
      for (int l = 0; l < lanes; l++)
        s.out[start + (i0 + r) * d.ld + l] += acc[r][l];
  }
}

KERNEL group_cotangents(struct ssd_shape d, struct side s)
{
  int64_t Q = ssd_chunk_length(d), spans = row_spans(Q), heads = d.H / d.G;
  FOR_EACH_COST (index, d.B * ssd_chunks(d) * d.G * spans, Q / spans * d.N * heads * d.P * 2) {
    struct chunk k = chunk_of(d, index / spans, d.G);
    int first = (int)(index % spans) * ROW_SPAN, end = at_most(k.q, first + ROW_SPAN);
    bool states = (k.c > 0 || s.first) && (k.c < ssd_chunks(d) - 1 || s.last);
    for (int64_t n0 = 0; n0 < d.N; n0 += LANES) {
      for (int64_t h = k.h * heads; states && h < (k.h + 1) * heads; h++)
        side_tokens(d, s, k, n0, h, first, end);
      if (s.out)
        side_pairs(d, s, k, n0, first, end);
    }
    for (int64_t h = k.h * heads; !states && h < (k.h + 1) * heads; h++)
      for (int i = first; i < end; i++)
        s.dots[(k.u / d.G * d.H + h) * Q + i] = 0;
  }
}

/* sum_{j<k<=i} K_ij for each k from the last into out; weights2 becomes its sums over i. */
ELEMENTARY void sums_across(struct ssd_shape d, struct chunk k, struct chunk_scratch s, real *out)
{
  int64_t Q = ssd_chunk_length(d);
  for (int i = k.q - 1; i >= 0; i--) {
    const real *score = s.scores + group_pairs(d, k) + i * Q;
    real *row = s.weights2 + (k.u * Q + i) * Q, sum = 0;
    bool last = i == k.q - 1;
    SIMD_SUM(sum)
    for (int j = 0; j < i; j++) {
      row[j] = row[j] * score[j] + (last ? 0 : row[Q + j]);
      sum += row[j];
    }
    out[i] = sum;
  }
}

KERNEL sum_across(struct ssd_shape d, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d);
  FOR_EACH_COST (u, chunk_heads(d), 2 * Q * Q)
    sums_across(d, chunk_of(d, u, d.H), s, s.across + u * Q);
}

/* dtb; and sum_k A dt_k lb_k into c_0.  a_i = e_i yb_i . S C_i, b_j = r_j x_j . Rb B_j, c as
 * above; the last chunk has an Rb only where `carried`. */
KERNEL decay_cotangents(struct ssd_shape d, const real *dt, const real *A_log, const real *S,
                        bool carried, real *work, real *dtb)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), PN = d.P * d.N;
  FOR_EACH_COST (u, chunk_heads(d), 2 * Q * Q + 2 * PN) {
    struct chunk k = chunk_of(d, u, d.H);
    real A = decay_rate(A_log, k.h), *across = s.across + u * Q, after = 0;
    const real *into = s.a + u * Q, *from = s.b + u * Q, *direct = s.c + u * Q;
    wide through = 0, total = 0;
    for (int64_t p = 0; S && (k.c < ssd_chunks(d) - 1 || carried) && p < d.P; p++) {
      real dot = 0;
      ADD_LANE_SUM(dot, d.N, n, S[u * PN + p * d.N + n] * s.states[u * PN + p * d.N + n]);
      through += (wide)dot;
    }
    for (int i = k.q - 1; i >= 0; i--)
      across[i] += after += into[i];
    real before = s.entry[u * Q + k.q - 1] * (real)through;
    for (int i = 0; i < k.q; i++) {
      int64_t t = (k.token + i) * d.H + k.h;
      real lb = across[i] + before;
      if (dtb)
        dtb[t] += A * lb + direct[i] + from[i];
      total += (wide)(A * dt[t] * lb);
      before += dt[t] * from[i];
    }
    s.c[u * Q] = (real)total;
  }
}

#ifdef __CUDACC__
/* ssd_chunked_vjp by batched products: ssd_batched_cuda.h; A_logb and Db are the caller's. */
static void batched_vjp(stream st, struct ssd_shape d, const real *x, const real *Bm, const real *C,
                        const real *dt, const real *A_log, const real *D, const real *S,
                        const real *yb, const real *S1b, real *work, real *xb, real *Bb, real *Cb,
                        bool times, real *dtb, real *S0b)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), HP = d.H * d.P, BC = all_chunks(d), width = HP / d.G;
  bool summed = ssd_chunks(d) > 1 || S0b, leaves = ssd_chunks(d) > 1 || S1b;
  LAUNCH(st, chunk_heads(d), chunk_decays, d, dt, A_log, NULL, NULL, false, work);
  multiply_scores(st, d, C, Bm, s.scores);
  for (int64_t h = 0; h < d.H; h++)
    gemm_batched(st, Q, Q, d.P, tokens_of(d, yb, HP, h, false), tokens_of(d, x, d.ld, h, true), 0,
                 s.weights2 + h * Q * Q, Q, d.H * Q * Q, BC);
  LAUNCH(st, chunk_heads(d) * Q, weigh_squares, d, dt, A_log, true, work);
  if (S || summed)
    LAUNCH(st, elements(d), scale_elements, d, s.entry, NULL, yb, HP, s.scaled2);
  for (int64_t g = 0; summed && g < d.G; g++)
    gemm_batched(st, width, d.N, Q, tokens_of(d, s.scaled2, HP, g * (d.H / d.G), true),
                 panel_of(d, C, g, false), 0, s.states + g * width * d.N, d.N, HP * d.N, BC);
  if (summed || leaves)
    LAUNCH(st, d.B * HP, pass_states_back, d, s.entry, S1b, summed, s.states, S0b);
  if (leaves)
    multiply_from_states(st, d, Bm, s.states, s.scaled);
  for (int64_t h = 0; xb && h < d.H; h++)
    gemm_batched(st, Q, d.P, Q, pairs_of(d, s.weights, h, d.H, true),
                 tokens_of(d, yb, HP, h, false), 1, xb + h * d.P, d.ld, Q * d.ld, BC);
  if (xb)
    LAUNCH(st, elements(d), finish_inputs, d, s.leave, dt, leaves ? s.scaled : NULL, yb, D, xb);
  if (times)
    LAUNCH(st, d.B * d.T * d.H, dot_tokens, d, s.leave, x, d.ld, leaves ? s.scaled : NULL, s.b);
  if (Bb || Cb)
    LAUNCH(st, BC * d.G * Q * Q, sum_squares_over_heads, d, work);
  if (Bb && leaves)
    LAUNCH(st, elements(d), scale_elements, d, s.leave, dt, x, d.ld, s.scaled);
  if (Bb)
    multiply_panel(st, d, s.scaled, leaves ? s.states : NULL, s.scores2, true, C, Bb);
  if (Cb)
    multiply_panel(st, d, s.scaled2, S, s.scores2, false, Bm, Cb);
  if (times && S)
    multiply_from_states(st, d, C, S, s.scaled2);
  if (times) {
    LAUNCH(st, d.B * d.T * d.H, dot_tokens, d, s.entry, yb, HP, S ? s.scaled2 : NULL, s.a);
    LAUNCH(st, chunk_heads(d), sum_across, d, work);
    LAUNCH(st, chunk_heads(d), decay_cotangents, d, dt, A_log, S, S1b != NULL, work, dtb);
  }
}
#endif

/* Zeros in a token's columns of each; NULL: none */
KERNEL clear_tokens(struct ssd_shape d, real *xb, real *Bb, real *Cb, real *dtb)
{
  int64_t GN = d.G * d.N;
  FOR_EACH_COST (t, d.B * d.T, d.H * d.P + 2 * GN) {
    for (int64_t j = 0; xb && j < d.H * d.P; j++)
      xb[t * d.ld + j] = 0;
    for (int64_t j = 0; Bb && j < GN; j++)
      Bb[t * d.ld + j] = 0;
    for (int64_t j = 0; Cb && j < GN; j++)
      Cb[t * d.ld + j] = 0;
    for (int64_t j = 0; dtb && j < d.H; j++)
      dtb[t * d.H + j] = 0;
  }
}

void OP(ssd_chunked_vjp)(stream st, struct ssd_shape d, const DEVICE real *x, const DEVICE real *Bm,
                         const DEVICE real *C, const DEVICE real *dt, const DEVICE real *A_log,
                         const DEVICE real *D, DEVICE real *S, const DEVICE real *yb,
                         const DEVICE real *S1b, DEVICE real *work, real beta, DEVICE real *xb,
                         DEVICE real *Bb, DEVICE real *Cb, DEVICE real *dtb, DEVICE real *A_logb,
                         DEVICE real *Db, DEVICE real *S0b)
{
#ifdef ON_TENSOR_CORES
  struct chunk_scratch own = scratch_of(d, work);
  struct tensor_backward f = {.x = x, .B = Bm, .C = C, .dt = dt, .A_log = A_log, .D = D, .S = S};
  f.yb = yb, f.S1b = S1b, f.beta = beta;
  f.xb = xb, f.Bb = Bb, f.Cb = Cb, f.dtb = dtb, f.S0b = S0b;
  f.Rb = own.states, f.A_part = own.a, f.D_part = own.b, f.halves = own.scaled, f.scale = own.c;
  if (!d.A_negative && takes_backward(st, d, f)) {
    vjp_on_tensor_cores(st, d, f, A_logb, Db);
    return;
  }
  CHECK(!S || !keeps_halves(st, d));
  if (S && d.from_zero) /* which the forward pass may have left out, and what follows reads */
    LAUNCH(st, d.B * d.H * d.P, start_states, d, NULL, NULL, S);
#endif
  if (beta == 0)
    LAUNCH(st, d.B * d.T, clear_tokens, d, xb, Bb, Cb, dtb);
  if (d.A_negative) {
    OP(ssd_products_vjp)
    (st, d, x, Bm, C, dt, A_log, D, S, yb, S1b, work, xb, Bb, Cb, dtb, A_logb, Db, S0b);
    return;
  }
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), chunks = ssd_chunks(d), BC = d.B * chunks;
  int64_t heads = chunk_heads(d), groups = BC * d.G * row_spans(Q);
  bool summed = chunks > 1 || S0b, leaves = chunks > 1 || S1b, times = dtb || A_logb;
#ifdef BY_BLOCKS
  bool blocks = d.by_blocks;
#else
  const bool blocks = false;
#endif
#ifdef __CUDACC__
  if (one_length(d)) {
    batched_vjp(st, d, x, Bm, C, dt, A_log, D, S, yb, S1b, work, xb, Bb, Cb, times, dtb, S0b);
    if (A_logb)
      LAUNCH(st, d.H, add_over_blocks, BC, d.H, Q, s.c, A_logb);
    if (Db)
      skip_vjp(st, d, x, yb, 1, s.a, Db);
    return;
  }
#endif
#ifdef BY_BLOCKS
  if (goes_back_by_steps(d, leaves || summed || S)) {
    int64_t parts = d.B * d.T * d.H * d.N;
    struct steps_back a = {x,  Bm, C,   dt,  A_log, D,    S,    yb,   S1b,  xb,
                           Bb, Cb, dtb, S0b, NULL,  NULL, NULL, NULL, times};
    a.total = work, a.states = work + d.B * d.H;
    a.B_part = a.states + d.B * d.H * (steps_of_chunk(d) + 2) * d.P * d.N;
    a.C_part = a.B_part + parts;
    LAUNCH(st, d.B * d.H, all_steps_back, d, a);
    if (heads_together(d) < d.H / d.G && Bb)
      LAUNCH(st, d.B * d.T * d.G, add_heads, d, a.B_part, Bb);
    if (heads_together(d) < d.H / d.G && Cb)
      LAUNCH(st, d.B * d.T * d.G, add_heads, d, a.C_part, Cb);
    if (A_logb)
      LAUNCH(st, d.H, add_over_blocks, d.B, d.H, 1, a.total, A_logb);
    if (Db)
      skip_vjp(st, d, x, yb, 1, s.a, Db);
    return;
  }
#endif
  LAUNCH(st, heads, chunk_decays, d, dt, A_log, NULL, NULL, false, work);
  LAUNCH(st, BC * d.G * lane_blocks(Q), score_pairs, d, C, Bm, false, s.scores);
  if (!blocks)
    LAUNCH(st, heads * lane_blocks(Q), pair_cotangents, d, x, dt, A_log, yb, work);
  if (S || summed)
    LAUNCH(st, heads, scale_tokens, d, s.entry, NULL, yb, d.H * d.P, s.scaled2);
  if (summed)
    LAUNCH(st, heads * row_spans(d.P) * lane_blocks(d.N), sum_states, d, s.scaled2, C, NULL, NULL,
           false, NULL, s.states, NULL);
  if (summed || leaves)
    LAUNCH(st, d.B * d.H * d.P, pass_states_back, d, s.entry, S1b, summed, s.states, S0b);
#ifdef BY_BLOCKS
  if (blocks) {
    struct block_gradients a = {x, Bm, dt, A_log, D, yb, S1b != NULL, leaves, xb};
    LAUNCH(st, BC * d.G, block_cotangents, d, a, work);
  }
#endif
  if (xb && !blocks)
    LAUNCH(st, heads * lane_blocks(d.P), input_cotangents, d, Bm, dt, D, yb, S1b != NULL, work, xb);
  if ((Bb || Cb) && !blocks)
    LAUNCH(st, BC * d.G * Q, sum_over_heads, d, work);
  if (blocks && S) /* whose memory the blocks have used */
    LAUNCH(st, heads, scale_tokens, d, s.entry, NULL, yb, d.H * d.P, s.scaled2);
  if (Cb || times) {
    struct side side = {s.scaled2, S, NULL, s.scores2, C, Bm, false, S != NULL, S != NULL, s.a, Cb};
    LAUNCH(st, groups, group_cotangents, d, side);
  }
  if (Bb || times) {
    struct side side = {s.scaled, s.states, dt, s.scores2, Bm, C, true, true, S1b != NULL, s.b, Bb};
    if (leaves)
      LAUNCH(st, heads, scale_tokens, d, s.leave, NULL, x, d.ld, s.scaled);
    LAUNCH(st, groups, group_cotangents, d, side);
  }
  if (times && !blocks)
    LAUNCH(st, heads, sum_across, d, work);
  if (times)
    LAUNCH(st, heads, decay_cotangents, d, dt, A_log, S, S1b != NULL, work, dtb);
  if (A_logb)
    LAUNCH(st, d.H, add_over_blocks, BC, d.H, Q, s.c, A_logb);
  if (Db)
    skip_vjp(st, d, x, yb, 1, s.a, Db);
}

/* ---- JVP ---- */

/* weights = w, weights2 = wd */
KERNEL weigh_pair_tangents(struct ssd_shape d, const real *dt, const real *A_log, const real *dtd,
                           const real *A_logd, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(Q);
  FOR_EACH_COST (index, chunk_heads(d) * blocks, Q * LANES * 16) {
    struct chunk k = chunk_of(d, index / blocks, d.H);
    int j0 = (int)(index % blocks) * LANES, lanes = at_most(k.q - j0, LANES);
    struct columns at;
    start_columns(d, k, j0, lanes, dt, A_log, &at);
    real Ad = A_logd ? at.A * A_logd[k.h] : 0, sumd[LANES] = {0}, dtd_j[LANES] = {0}, m[LANES];
    for (int l = 0; dtd && l < lanes; l++)
      dtd_j[l] = dtd[(k.token + j0 + l) * d.H + k.h];
    for (int i = j0; i < k.q; i++) {
      int64_t t = (k.token + i) * d.H + k.h, pair = group_pairs(d, k) + i * Q + j0;
      int64_t to = (k.u * Q + i) * Q + j0;
      real step = Ad * dt[t] + (dtd ? at.A * dtd[t] : 0);
      step_columns(&at, i - j0, dt[t], m);
      SIMD
      for (int l = 0; l < lanes; l++) {
        real score = i - j0 >= l ? s.scores[pair + l] : 0;
        real scored = i - j0 >= l ? s.scores2[pair + l] : 0;
        sumd[l] += i - j0 > l ? step : 0;
        s.weights[to + l] = m[l] * score * at.dt[l];
        s.weights2[to + l] = m[l] * ((sumd[l] * score + scored) * at.dt[l] + score * dtd_j[l]);
      }
    }
  }
}

/* scaled2 = tangent of scaled_j = r_j dt_j x_j; b holds that of r */
KERNEL scale_token_tangents(struct ssd_shape d, const real *x, const real *dt, const real *xd,
                            const real *dtd, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d);
  FOR_EACH_COST (u, chunk_heads(d), Q * d.P * 2) {
    struct chunk k = chunk_of(d, u, d.H);
    for (int i = 0; i < k.q; i++) {
      int64_t t = (k.token + i) * d.H + k.h, column = (k.token + i) * d.ld + k.h * d.P;
      real f = s.leave[u * Q + i] * dt[t];
      real fd = s.b[u * Q + i] * dt[t] + (dtd ? s.leave[u * Q + i] * dtd[t] : 0);
      real *to = s.scaled2 + (u * Q + i) * d.P;
      SIMD
      for (int64_t p = 0; p < d.P; p++)
        to[p] = fd * x[column + p];
      if (xd == NULL)
        continue;
      SIMD
      for (int64_t p = 0; p < d.P; p++)
        to[p] = add_product(to[p], f, xd[column + p]);
    }
  }
}

/* What the state S (St) that enters and its tangent (Sdt) give to rows of yd; NULL: zeros. */
ELEMENTARY void state_tangents(int64_t N, int rows, const real *C, const real *Cd, int64_t ld,
                               const real *St, const real *Sdt, const real *entry, const real *ed,
                               real acc[ROWS][LANES])
{
  real decayed[ROWS][LANES];
  tile_zero(decayed);
  if (Sdt)
    tile_multiply(rows, LANES, N, C, ld, 1, Sdt, LANES, decayed);
  if (St && Cd)
    tile_multiply(rows, LANES, N, Cd, ld, 1, St, LANES, decayed);
  tile_scale_rows(rows, entry, decayed);
  if (St)
    tile_multiply(rows, LANES, N, C, ld, 1, St, LANES, acc);
  tile_scale_rows(rows, ed, acc);
  for (int r = 0; r < rows; r++)
    for (int l = 0; l < LANES; l++)
      acc[r][l] += decayed[r][l];
}

/* yd; states holds the tangents of S */
KERNEL output_tangents(struct ssd_shape d, const real *x, const real *C, const real *D,
                       const real *S, const real *xd, const real *Cd, const real *Dd, bool carried,
                       real *work, real *yd)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), blocks = lane_blocks(d.P);
  FOR_EACH_COST (index, chunk_heads(d) * blocks, 2 * Q * LANES * (Q + 3 * d.N)) {
    struct chunk k = chunk_of(d, index / blocks, d.H);
    int64_t p0 = index % blocks * LANES, state = (k.u * d.P + p0) * d.N;
    int lanes = at_most(d.P - p0, LANES);
    bool tangent = k.c > 0 || carried;
    real St[SSD_MAX_STATE][LANES], Sdt[SSD_MAX_STATE][LANES], acc[ROWS][LANES];
    if (S)
      tile_transpose(d.N, lanes, S + state, d.N, St);
    if (tangent)
      tile_transpose(d.N, lanes, s.states + state, d.N, Sdt);
    const real *xs = x_of(d, k, x) + p0, *xds = xd ? x_of(d, k, xd) + p0 : NULL;
    const real *Cs = group_columns(d, k, C), *Cds = Cd ? group_columns(d, k, Cd) : NULL;
    for (int i0 = 0; i0 < k.q; i0 += ROWS) {
      int rows = at_most(k.q - i0, ROWS);
      int64_t pairs = (k.u * Q + i0) * Q;
      tile_zero(acc);
      if (S || tangent)
        state_tangents(d.N, rows, Cs + i0 * d.ld, Cd ? Cds + i0 * d.ld : NULL, d.ld,
                       S ? St[0] : NULL, tangent ? Sdt[0] : NULL, s.entry + k.u * Q + i0,
                       s.a + k.u * Q + i0, acc);
      tile_multiply(rows, lanes, i0 + rows, s.weights2 + pairs, Q, 1, xs, d.ld, acc);
      if (xd)
        tile_multiply(rows, lanes, i0 + rows, s.weights + pairs, Q, 1, xds, d.ld, acc);
      for (int r = 0; r < rows; r++) {
        real *to = yd + ((k.token + i0 + r) * d.H + k.h) * d.P + p0;
        for (int l = 0; l < lanes; l++) {
          int64_t at = (i0 + r) * d.ld + l;
          to[l] = acc[r][l] + (xd ? skip_of(d, D, k.h, p0 + l) * xds[at] : 0) +
                  (Dd ? skip_of(d, Dd, k.h, p0 + l) * xs[at] : 0);
        }
      }
    }
  }
}

void OP(ssd_chunked_jvp)(stream st, struct ssd_shape d, const DEVICE real *x, const DEVICE real *Bm,
                         const DEVICE real *C, const DEVICE real *dt, const DEVICE real *A_log,
                         const DEVICE real *D, const DEVICE real *S, const DEVICE real *xd,
                         const DEVICE real *Bd, const DEVICE real *Cd, const DEVICE real *dtd,
                         const DEVICE real *A_logd, const DEVICE real *Dd, const DEVICE real *S0d,
                         DEVICE real *work, DEVICE real *yd, DEVICE real *S1d)
{
  if (d.A_negative) {
    OP(ssd_products_jvp)
    (st, d, x, Bm, C, dt, A_log, D, S, xd, Bd, Cd, dtd, A_logd, Dd, S0d, work, yd, S1d);
    return;
  }
  d.by_blocks = false;
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), BC = d.B * ssd_chunks(d), heads = chunk_heads(d);
  LAUNCH(st, heads, chunk_decays, d, dt, A_log, dtd, A_logd, true, work);
  LAUNCH(st, d.B * d.H * d.P, start_states, d, NULL, S0d, s.states);
  if (ssd_chunks(d) > 1 || S1d) {
    LAUNCH(st, heads, scale_tokens, d, s.leave, dt, x, d.ld, s.scaled);
    LAUNCH(st, heads, scale_token_tangents, d, x, dt, xd, dtd, work);
    LAUNCH(st, heads * row_spans(d.P) * lane_blocks(d.N), sum_states, d, s.scaled2, Bm, s.scaled,
           Bd, true, NULL, s.states, S1d);
    LAUNCH(st, d.B * d.H * d.P, pass_states, d, s.entry, s.a, S, NULL, s.states, S1d);
  }
  if (yd) {
    LAUNCH(st, BC * d.G * lane_blocks(Q), score_pairs, d, C, Bm, false, s.scores);
    LAUNCH(st, BC * d.G * lane_blocks(Q), score_pairs, d, Cd, Bm, false, s.scores2);
    LAUNCH(st, BC * d.G * lane_blocks(Q), score_pairs, d, C, Bd, true, s.scores2);
    LAUNCH(st, heads * lane_blocks(Q), weigh_pair_tangents, d, dt, A_log, dtd, A_logd, work);
    LAUNCH(st, heads * lane_blocks(d.P), output_tangents, d, x, C, D, S, xd, Cd, Dd, S0d != NULL,
           work, yd);
  }
}
