/* ssd_batched_cuda.h: ssd_chunked on the GPU by batched matrix products, where all chunks have one
 * length Q; part of ssd_chunked.c, whose head has the equations and where everything lies.
 *
 * One product a chunk, over all heads of a group at once where they share a factor:
 *   scores (Q,Q) = C B'            V (HP,N) = (e yb)' C      R (HP,N) = (r dt x)' B
 *   from S (Q,HP) = C S'           from Rb (Q,HP) = B Rb'
 *   Cb += pairs B + (e yb) S       Bb += pairs' C + (r dt x) Rb
 * and one a chunk and head: y = w x, z = yb x', xb += w' yb.  Scaled tokens and what comes from
 * states lie here as y does, (B,T,H,P).  Elementwise work is one thread an element. */
#ifndef KERNELS_SSD_BATCHED_CUDA_H
#define KERNELS_SSD_BATCHED_CUDA_H

/* ---- products ---- */

/* `count` matrices, `stride` apart, with rows of `ld`. */
struct matrices {
  const real *at;
  int64_t ld, stride;
  bool transposed;
};

#define gemm_batched OP(gemm_batched)
/* C_b (m,n) = op(A_b) op(B_b) + beta C_b; linalg_cuda.c */
extern "C" void gemm_batched(stream st, int64_t m, int64_t n, int64_t k, struct matrices A,
                             struct matrices B, real beta, real *C, int64_t ldc, int64_t stride,
                             int64_t count);

static bool one_length(struct ssd_shape d) { return d.T % ssd_chunk_length(d) == 0; }
static int64_t all_chunks(struct ssd_shape d) { return d.B * ssd_chunks(d); }

/* B or C, of a group. */
static struct matrices panel_of(struct ssd_shape d, const real *B, int64_t g, bool transposed)
{
  struct matrices m = {B + g * d.N, d.ld, ssd_chunk_length(d) * d.ld, transposed};
  return m;
}

/* Heads from h on of an array of tokens in rows of ld. */
static struct matrices tokens_of(struct ssd_shape d, const real *x, int64_t ld, int64_t h,
                                 bool transposed)
{
  struct matrices m = {x + h * d.P, ld, ssd_chunk_length(d) * ld, transposed};
  return m;
}

/* States (HP,N) of a group's heads. */
static struct matrices states_of(struct ssd_shape d, const real *S, int64_t g, bool transposed)
{
  struct matrices m = {S + g * (d.H / d.G) * d.P * d.N, d.N, d.H * d.P * d.N, transposed};
  return m;
}

/* Pairs (Q,Q), number h of `heads`. */
static struct matrices pairs_of(struct ssd_shape d, const real *w, int64_t h, int64_t heads,
                                bool transposed)
{
  int64_t Q = ssd_chunk_length(d);
  struct matrices m = {w + h * Q * Q, Q, heads * Q * Q, transposed};
  return m;
}

static void multiply_scores(stream st, struct ssd_shape d, const real *C, const real *Bm,
                            real *scores)
{
  int64_t Q = ssd_chunk_length(d);
  for (int64_t g = 0; g < d.G; g++)
    gemm_batched(st, Q, Q, d.N, panel_of(d, C, g, false), panel_of(d, Bm, g, true), 0,
                 scores + g * Q * Q, Q, d.G * Q * Q, all_chunks(d));
}

/* out (Q,HP) = panel S' */
static void multiply_from_states(stream st, struct ssd_shape d, const real *panel, const real *S,
                                 real *out)
{
  int64_t Q = ssd_chunk_length(d), width = d.H / d.G * d.P, HP = d.H * d.P;
  for (int64_t g = 0; g < d.G; g++)
    gemm_batched(st, Q, width, d.N, panel_of(d, panel, g, false), states_of(d, S, g, true), 0,
                 out + g * width, HP, Q * HP, all_chunks(d));
}

/* panelb (Q,N) += scaled S, and pairs (or pairs') times the other panel */
static void multiply_panel(stream st, struct ssd_shape d, const real *scaled, const real *S,
                           const real *pairs, bool transposed, const real *other, real *panelb)
{
  int64_t Q = ssd_chunk_length(d), width = d.H / d.G * d.P, BC = all_chunks(d);
  for (int64_t g = 0; g < d.G; g++) {
    real *to = panelb + g * d.N;
    if (S)
      gemm_batched(st, Q, d.N, width, tokens_of(d, scaled, d.H * d.P, g * (d.H / d.G), false),
                   states_of(d, S, g, false), 1, to, d.ld, Q * d.ld, BC);
    gemm_batched(st, Q, d.N, Q, pairs_of(d, pairs, g, d.G, transposed),
                 panel_of(d, other, g, false), 1, to, d.ld, Q * d.ld, BC);
  }
}

/* What chunk c of every sequence gives, scaled' B, into the next one's state, the last's into S1.
 */
static void multiply_onward(stream st, struct ssd_shape d, const real *scaled, const real *Bm,
                            real *states, real *S1)
{
  int64_t Q = ssd_chunk_length(d), chunks = ssd_chunks(d), width = d.H / d.G * d.P;
  int64_t HP = d.H * d.P;
  for (int64_t c = 0; c < chunks; c++) {
    bool last = c == chunks - 1;
    real *to = last ? S1 : states + (c + 1) * HP * d.N;
    for (int64_t g = 0; to && g < d.G; g++) {
      struct matrices A = tokens_of(d, scaled + c * Q * HP, HP, g * (d.H / d.G), true);
      struct matrices B = panel_of(d, Bm + c * Q * d.ld, g, false);
      A.stride = d.T * HP;
      B.stride = d.T * d.ld;
      gemm_batched(st, width, d.N, Q, A, B, 0, to + g * width * d.N, d.N,
                   (last ? 1 : chunks) * HP * d.N, d.B);
    }
  }
}

/* ---- elementwise ---- */

/* Element i of (B,T,H,P): its token, column, head, and the scalar (u,token) of its chunk. */
struct element {
  int64_t t, column, h, scalar;
};

INLINE struct element element_of(struct ssd_shape d, int64_t i)
{
  int64_t Q = ssd_chunk_length(d), HP = d.H * d.P;
  struct element e;
  e.t = i / HP;
  e.column = i - e.t * HP;
  e.h = e.column / d.P;
  e.scalar = (e.t / Q * d.H + e.h) * Q + e.t % Q;
  return e;
}

INLINE int64_t elements(struct ssd_shape d) { return d.B * d.T * d.H * d.P; }

/* out = factor dt x; dt NULL: 1 */
KERNEL scale_elements(struct ssd_shape d, const real *factor, const real *dt, const real *x,
                      int64_t ldx, real *out)
{
  FOR_EACH (i, elements(d)) {
    struct element e = element_of(d, i);
    out[i] = factor[e.scalar] * (dt ? dt[e.t * d.H + e.h] : 1) * x[e.t * ldx + e.column];
  }
}

/* y += e from_S + D x; from_S NULL: zeros */
KERNEL finish_outputs(struct ssd_shape d, const real *entry, const real *from_S, const real *x,
                      const real *D, real *y)
{
  FOR_EACH (i, elements(d)) {
    struct element e = element_of(d, i);
    real skip = skip_of(d, D, e.h, e.column - e.h * d.P) * x[e.t * d.ld + e.column];
    y[i] += (from_S ? entry[e.scalar] * from_S[i] : 0) + skip;
  }
}

/* xb += r dt from_Rb + D yb; from_Rb NULL: zeros */
KERNEL finish_inputs(struct ssd_shape d, const real *leave, const real *dt, const real *from_Rb,
                     const real *yb, const real *D, real *xb)
{
  FOR_EACH (i, elements(d)) {
    struct element e = element_of(d, i);
    real skip = skip_of(d, D, e.h, e.column - e.h * d.P) * yb[i];
    xb[e.t * d.ld + e.column] +=
        (from_Rb ? leave[e.scalar] * dt[e.t * d.H + e.h] * from_Rb[i] : 0) + skip;
  }
}

/* out (u: scalars) = factor x . from_state; from_state NULL: zeros */
KERNEL dot_tokens(struct ssd_shape d, const real *factor, const real *x, int64_t ldx,
                  const real *from_state, real *out)
{
  FOR_EACH (i, d.B * d.T * d.H) {
    struct element e = element_of(d, i * d.P);
    real sum = 0;
    for (int64_t p = 0; from_state && p < d.P; p++)
      sum += x[e.t * ldx + e.column + p] * from_state[i * d.P + p];
    out[e.scalar] = from_state ? factor[e.scalar] * sum : 0;
  }
}

/* weights = w; with z in weights2: weights2_ij = m_ij dt_j z_ij, c_j = sum_i m_ij (C_i . B_j) z_ij.
 * All are 0 above the diagonal. */
KERNEL weigh_squares(struct ssd_shape d, const real *dt, const real *A_log, bool cotangents,
                     real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d);
  FOR_EACH (index, chunk_heads(d) * Q) {
    struct chunk k = chunk_of(d, index / Q, d.H);
    int64_t j = index % Q;
    const real *score = s.scores + group_pairs(d, k) + j;
    real *w = s.weights + k.u * Q * Q + j, *w2 = s.weights2 + k.u * Q * Q + j;
    real A = decay_rate(A_log, k.h), dt_j = dt[(k.token + j) * d.H + k.h], sum = 0, direct = 0;
    for (int64_t i = 0; i < Q; i++) {
      sum += i > j ? A * dt[(k.token + i) * d.H + k.h] : 0;
      real m = i >= j ? exp_real(sum) : 0, scored = i >= j ? score[i * Q] * m : 0;
      w[i * Q] = scored * dt_j;
      if (cotangents) {
        real z = i >= j ? w2[i * Q] : 0;
        w2[i * Q] = m * dt_j * z;
        direct += scored * z;
      }
    }
    if (cotangents)
      s.c[index] = direct;
  }
}

/* scores2 = sum of weights2 over the heads of a group */
KERNEL sum_squares_over_heads(struct ssd_shape d, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), heads = d.H / d.G;
  FOR_EACH (i, d.B * ssd_chunks(d) * d.G * Q * Q) {
    const real *from = s.weights2 + i / (Q * Q) * heads * Q * Q + i % (Q * Q);
    real sum = 0;
    for (int64_t h = 0; h < heads; h++)
      sum += from[h * Q * Q];
    s.scores2[i] = sum;
  }
}

/* ---- forward ---- */

/* The outputs, from the states that enter the chunks (NULL: zeros). */
static void batched_outputs(stream st, struct ssd_shape d, const real *x, const real *Bm,
                            const real *C, const real *dt, const real *A_log, const real *D,
                            const real *states, real *work, real *y)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), HP = d.H * d.P;
  multiply_scores(st, d, C, Bm, s.scores);
  LAUNCH(st, chunk_heads(d) * Q, weigh_squares, d, dt, A_log, false, work);
  for (int64_t h = 0; h < d.H; h++)
    gemm_batched(st, Q, d.P, Q, pairs_of(d, s.weights, h, d.H, false),
                 tokens_of(d, x, d.ld, h, false), 0, y + h * d.P, HP, Q * HP, all_chunks(d));
  if (states)
    multiply_from_states(st, d, C, states, s.scaled2);
  LAUNCH(st, elements(d), finish_outputs, d, s.entry, states ? s.scaled2 : NULL, x, D, y);
}
#endif
