/* ssd_steps_cpu.h: ssd_chunked on the CPU where states are small, in steps of 16 tokens; part of
 * ssd_chunked.c, whose head has the equations: a step is a chunk there.
 *
 * A head's state stays in the cache from step to step, transposed: S' (N,P), so that a vector is
 * channels of one n.  A step of q tokens is, for each vector of channels,
 *   y_i = sum_n (e_i C_in) S'_n + sum_{j<=i} w_ij x_j + D x_i
 *   S'_n = e_{q-1} S'_n + sum_j (r_j dt_j B_jn) x_j
 * about (q + 4 N) P products a token where a chunk of Q costs (Q + 4 N) P.  The decays m_ij of its
 * pairs are products of a_k = exp(l_k), running down from the diagonal: one exponential a token, no
 * cancellation.  A first step from zeros has no state, a last one leaves none where none is wanted.
 *
 * Back: the states that enter a chunk's steps are computed again from the one that is kept, then
 * the steps go from the last to the first with the state's cotangent, Rb' (N,P).
 */
#ifndef KERNELS_SSD_STEPS_CPU_H
#define KERNELS_SSD_STEPS_CPU_H
#include <float.h>

#if REAL_BITS == 32
#define LEAST FLT_MIN
#else
#define LEAST DBL_MIN
#endif

enum { STEP = 16 };           /* a multiple of LANES and ROWS */
enum { SSD_STEP_HEADS = 64 }; /* of a group, at most, in the VJP */

/* A function of its own, which keeps its sums in registers: inlined into the loop over heads and
 * steps they were spilled, and that took twice as long. */
#define APART static __attribute__((noinline)) void

/* function(rows, lanes, ...), where a whole tile's are constants and its sums stay in registers */
#define IN_TILE(rows, lanes, function, ...)   \
  do {                                        \
    if ((rows) == ROWS && (lanes) == LANES)   \
      function(ROWS, LANES, __VA_ARGS__);     \
    else                                      \
      function((rows), (lanes), __VA_ARGS__); \
  } while (0)

/* Heads first..end-1 of group g of sequence b. */
struct step_heads {
  int64_t b, g, first, end;
};

/* n tokens from `token` on (of B * T); what the heads of a group share, and one head's factors. */
struct step {
  int n;
  int64_t token;
  real scores[STEP][STEP];        /* (i,j) C_i . B_j */
  real weights[STEP][STEP];       /* w_ij, 0 for j > i */
  real out[STEP * SSD_MAX_STATE]; /* (i,n) e_i C_in */
  real in[STEP * SSD_MAX_STATE];  /* (j,n) r_j dt_j B_jn */
  real a[STEP], dt[STEP];         /* behind the last token: 1, 0 */
  real entry[STEP], leave[STEP];  /* e_i, r_j */
};

/* Part i of the steps of tokens first..end-1, about equal. */
INLINE int64_t steps_of(int64_t tokens) { return (tokens + STEP - 1) / STEP; }

INLINE void place_step(int64_t before, int64_t first, int64_t end, int64_t i, struct step *s)
{
  int64_t steps = steps_of(end - first), t = first + (end - first) * i / steps;
  s->n = (int)(first + (end - first) * (i + 1) / steps - t);
  s->token = before + t;
}

/* Where the tile of rows from i on begins: the last one is moved up to be whole. */
INLINE int tile_at(int i, int n) { return i + ROWS <= n ? i : n > ROWS ? n - ROWS : 0; }

ELEMENTARY void product_tile(int rows, int lanes, int64_t K, const real *a, int64_t lda,
                             const real *b, bool add, real *out)
{
  real acc[ROWS][LANES];
  tile_zero(acc);
  tile_accumulate(rows, lanes, K, a, lda, 1, b, STEP, acc);
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      out[r * STEP + l] = (add ? out[r * STEP + l] : 0) + acc[r][l];
  }
}

/* out (n,STEP) = rows a_i (lda apart) times b (K,STEP), the transpose of tokens; add: += */
APART token_products(int n, int64_t K, const real *a, int64_t lda, const real *b, bool add,
                     real (*out)[STEP])
{
  for (int j0 = 0; j0 < n; j0 += LANES)
    for (int i = 0; i < n; i += ROWS) {
      int i0 = add ? i : tile_at(i, n), rows = at_most(n - i0, ROWS);
      IN_TILE(rows, LANES, product_tile, K, a + i0 * lda, lda, b + j0, add, out[i0] + j0);
    }
}

/* to (K,STEP) = transpose of n tokens of K columns; behind them 0 */
ELEMENTARY void transpose_tokens(int n, int64_t K, const real *x, int64_t ldx, real *to)
{
  for (int j0 = 0; j0 < STEP; j0 += LANES)
    tile_transpose_to(K, n > j0 ? at_most(n - j0, LANES) : 0, x + j0 * ldx, ldx, STEP, to + j0);
}

ELEMENTARY void score_step(const struct ssd_shape *d, const real *Bs, const real *Cs,
                           struct step *s)
{
  real Bt[SSD_MAX_STATE * STEP];
  transpose_tokens(s->n, d->N, Bs, d->ld, Bt);
  token_products(s->n, d->N, Cs, d->ld, Bt, false, s->scores);
}

/* a and dt of head h; entry, leave */
APART decay_step(const struct ssd_shape *d, int64_t h, const real *dt, real A, struct step *s)
{
  for (int l = 0; l < s->n; l++)
    s->dt[l] = dt[(s->token + l) * d->H + h];
  for (int l = s->n; l < STEP; l++)
    s->dt[l] = 0;
  SIMD
  for (int l = 0; l < STEP; l++)
    s->a[l] = exp_falling(A * s->dt[l]);
  real e = 1, r = 1;
  for (int i = 0; i < s->n; i++) {
    s->entry[i] = e *= s->a[i];
    s->leave[s->n - 1 - i] = r;
    r *= s->a[s->n - 1 - i];
  }
}

/* Decays m_ij of a strip's columns on to row i, `past` rows behind its first; anything for j > i.
 * What is below the normal numbers, which are slow, is 0. */
ELEMENTARY void decay_strip(int lanes, int past, real a, real *m)
{
  SIMD
  for (int l = 0; l < lanes; l++) {
    real next = m[l] * (past > l ? a : 1);
    m[l] = re(next) < LEAST ? 0 : next;
  }
}

/* w_ij by rows of `lanes` columns from the diagonal on */
ELEMENTARY void weigh_strip(int lanes, int n, const real *a, const real *dt, const real *scores,
                            int64_t lds, real *weights, int64_t ldw)
{
  real m[STEP];
  SIMD
  for (int l = 0; l < STEP; l++)
    m[l] = 1;
  for (int i = 0; i < n; i++) {
    decay_strip(lanes, i, a[i], m);
    SIMD
    for (int l = 0; l < lanes; l++) {
      real weight = scores[i * lds + l] * (m[l] * dt[l]); /* read first: under a mask it is slow */
      weights[i * ldw + l] = i >= l ? weight : 0;
    }
  }
}

APART weigh_rows(int lanes, int n, const real *a, const real *dt, const real *scores, int64_t lds,
                 real *weights, int64_t ldw)
{
  if (lanes == STEP)
    weigh_strip(STEP, n, a, dt, scores, lds, weights, ldw);
  else
    weigh_strip(lanes, n, a, dt, scores, lds, weights, ldw);
}

/* to (i,n) = factor_i (and factor2_i; NULL: 1) times N columns of the step's tokens */
APART scale_rows(int n, int64_t N, const real *factor, const real *factor2, int64_t ld,
                 const real *from, real *to)
{
  for (int i = 0; i < n; i++) {
    real f = factor[i] * (factor2 ? factor2[i] : 1);
    SIMD
    for (int64_t k = 0; k < N; k++)
      to[i * N + k] = f * from[i * ld + k];
  }
}

/* ---- states ---- */

/* rows of S' (rows,lanes) = e S' + in' x; e = 0 does not read S' */
ELEMENTARY void state_tile(int rows, int lanes, int n, real e, const real *in, int64_t N,
                           const real *x, int64_t ldx, real *St)
{
  real acc[ROWS][LANES];
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      acc[r][l] = re(e) == 0 ? 0 : e * St[r * lanes + l];
  }
  tile_accumulate(rows, lanes, n, in, 1, N, x, ldx, acc);
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      St[r * lanes + l] = acc[r][l];
  }
}

APART state_rows(int lanes, int n, real e, const real *in, int64_t N, const real *x, int64_t ldx,
                 real *St)
{
  for (int64_t n0 = 0; n0 < N; n0 += ROWS) {
    int rows = at_most(N - n0, ROWS);
    IN_TILE(rows, lanes, state_tile, n, e, in + n0, N, x, ldx, St + n0 * lanes);
  }
}

/* The state of a head behind a step, in place, from `in` and the tokens' channels; starts: it was
 * zeros.  Vector by vector of channels p0.., each (N,lanes). */
ELEMENTARY void step_state(const struct ssd_shape *d, const struct step *s, bool starts,
                           const real *in, const real *x, int64_t ldx, real *state)
{
  real e = starts ? 0 : s->entry[s->n - 1];
  for (int64_t p0 = 0; p0 < d->P; p0 += LANES) {
    int lanes = at_most(d->P - p0, LANES);
    state_rows(lanes, s->n, e, in, d->N, x + p0, ldx, state + p0 * d->N);
  }
}

/* state (vectors of channels, each (N,lanes)) from `from` (P,N), and back */
ELEMENTARY void load_state(const struct ssd_shape *d, const real *from, real *state)
{
  for (int64_t p0 = 0; p0 < d->P; p0 += LANES) {
    int lanes = at_most(d->P - p0, LANES);
    real *to = state + p0 * d->N;
    if (lanes == LANES)
      tile_transpose_to(d->N, LANES, from + p0 * d->N, d->N, LANES, to);
    for (int64_t n = 0; lanes < LANES && n < d->N; n++)
      for (int l = 0; l < lanes; l++)
        to[n * lanes + l] = from[(p0 + l) * d->N + n];
  }
}

APART store_state(const struct ssd_shape *d, const real *state, real *to)
{
  for (int64_t p0 = 0; p0 < d->P; p0 += LANES) {
    int lanes = at_most(d->P - p0, LANES);
    const real *from = state + p0 * d->N;
    int64_t n = 0;
    for (; lanes == LANES && n + LANES <= d->N; n += LANES)
      tile_transpose_to(LANES, LANES, from + n * LANES, LANES, d->N, to + p0 * d->N + n);
    for (; n < d->N; n++)
      for (int l = 0; l < lanes; l++)
        to[(p0 + l) * d->N + n] = from[n * lanes + l];
  }
}

/* ---- forward ---- */

/* The arrays of ssd_chunked_fwd; states (B,H,P,N): scratch. */
struct steps {
  const real *x, *Bm, *C, *dt, *A_log, *D;
  const int32_t *row;
  const real *S0;
  real *S, *states, *y, *S1;
};

/* y of the tokens from i0 on, channels p0..; see step_outputs */
ELEMENTARY void output_tile(int rows, int lanes, const struct ssd_shape *d, const struct step *s,
                            int i0, const real *x, const real *skip, const real *St, real *y)
{
  int64_t HP = d->H * d->P;
  real acc[ROWS][LANES];
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      acc[r][l] = skip[l] * x[(i0 + r) * d->ld + l];
  }
  tile_accumulate(rows, lanes, St ? d->N : 0, s->out + i0 * d->N, d->N, 1, St, lanes, acc);
  tile_accumulate(rows, lanes, i0 + rows, s->weights[i0], STEP, 1, x, d->ld, acc);
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      y[r * HP + l] = acc[r][l];
  }
}

/* D of channels p0.. of head h */
ELEMENTARY void load_skip(const struct ssd_shape *d, const real *D, int64_t h, int64_t p0,
                          real *skip)
{
  for (int l = 0; l < LANES; l++)
    skip[l] = p0 + l < d->P ? skip_of(*d, D, h, p0 + l) : 0;
}

/* y of channels p0.. of a step; St (N,lanes): what enters it, NULL: zeros */
APART step_outputs(const struct ssd_shape *d, const struct step *s, int64_t h, int64_t p0,
                   const real *xs, const real *D, const real *St, real *y)
{
  int lanes = at_most(d->P - p0, LANES);
  real skip[LANES];
  load_skip(d, D, h, p0, skip);
  for (int i = 0; i < s->n; i += ROWS) {
    int i0 = tile_at(i, s->n), rows = at_most(s->n - i0, ROWS);
    real *to = y + ((s->token + i0) * d->H + h) * d->P + p0;
    IN_TILE(rows, lanes, output_tile, d, s, i0, xs, skip, St, to);
  }
}

/* One head's part of a step; leaves: a state is wanted behind it. */
ELEMENTARY void step_head(const struct ssd_shape *d, const struct steps *a, int64_t h, bool starts,
                          bool leaves, const real *Bs, const real *Cs, struct step *s, real *state)
{
  const real *xs = a->x + s->token * d->ld + h * d->P;
  decay_step(d, h, a->dt, decay_rate(a->A_log, h), s);
  if (a->y) {
    weigh_rows(STEP, s->n, s->a, s->dt, s->scores[0], STEP, s->weights[0], STEP);
    if (!starts)
      scale_rows(s->n, d->N, s->entry, NULL, d->ld, Cs, s->out);
    for (int64_t p0 = 0; p0 < d->P; p0 += LANES)
      step_outputs(d, s, h, p0, xs + p0, a->D, starts ? NULL : state + p0 * d->N, a->y);
  }
  if (leaves) {
    scale_rows(s->n, d->N, s->leave, s->dt, d->ld, Bs, s->in);
    step_state(d, s, starts, s->in, xs, d->ld, state);
  }
}

ELEMENTARY void run_steps(const struct ssd_shape *d, const struct steps *a, struct step_heads k)
{
  int64_t PN = d->P * d->N, chunks = ssd_chunks(*d), row = a->row ? a->row[k.b] : k.b;
  real *states = a->states + k.b * d->H * PN;
  bool starts = !a->S0;
  struct step s;
  for (int64_t h = k.first; a->S0 && h < k.end; h++)
    load_state(d, a->S0 + (row * d->H + h) * PN, states + h * PN);
  for (int64_t c = 0; c < chunks; c++) {
    int64_t first = c * d->chunk, end = first + d->chunk < d->T ? first + d->chunk : d->T;
    for (int64_t h = k.first; a->S && h < k.end; h++) {
      real *kept = a->S + ((k.b * chunks + c) * d->H + h) * PN;
      for (int64_t i = 0; starts && i < PN; i++)
        kept[i] = 0;
      if (!starts)
        store_state(d, states + h * PN, kept);
    }
    for (int64_t i = 0; i < steps_of(end - first); i++) {
      place_step(k.b * d->T, first, end, i, &s);
      const real *Bs = a->Bm + s.token * d->ld + k.g * d->N,
                 *Cs = a->C + s.token * d->ld + k.g * d->N;
      bool leaves = s.token + s.n < (k.b + 1) * d->T || a->S1;
      if (a->y)
        score_step(d, Bs, Cs, &s);
      for (int64_t h = k.first; h < k.end; h++)
        step_head(d, a, h, starts, leaves, Bs, Cs, &s, states + h * PN);
      starts = false;
    }
  }
  for (int64_t h = k.first; a->S1 && h < k.end; h++)
    store_state(d, states + h * PN, a->S1 + (row * d->H + h) * PN);
}

/* Heads of an index: one where there are too few groups to share among processors.  Heads do not
 * depend on each other, so results are the same. */
INLINE int64_t heads_together(struct ssd_shape d) { return d.B * d.G < 4 ? 1 : d.H / d.G; }

INLINE struct step_heads heads_of(struct ssd_shape d, int64_t i)
{
  int64_t together = heads_together(d), per_sequence = d.H / together;
  struct step_heads k;
  k.b = i / per_sequence;
  k.first = i % per_sequence * together;
  k.end = k.first + together;
  k.g = k.first / (d.H / d.G);
  return k;
}

KERNEL all_steps(struct ssd_shape d, struct steps a)
{
  FOR_EACH_COST (i, d.B * d.H / heads_together(d), heads_together(d) * d.T * d.P * (STEP + 4 * d.N))
    run_steps(&d, &a, heads_of(d, i));
}

/* ---- VJP ---- */

/* The arrays of ssd_chunked_vjp, and scratch: states (B,H,steps a chunk + 2,P,N); B_part, C_part
 * (B,T,H,N), each head's part of Bb and Cb where heads are not together; total (B,H). */
struct steps_back {
  const real *x, *Bm, *C, *dt, *A_log, *D, *S, *yb, *S1b;
  real *xb, *Bb, *Cb, *dtb, *S0b;
  real *states, *B_part, *C_part, *total;
  bool times; /* dtb or A_logb is wanted */
};

INLINE int64_t steps_of_chunk(struct ssd_shape d) { return steps_of(ssd_chunk_length(d)); }

/* One head's step on its way back. */
struct step_back {
  real z[STEP][STEP], K[STEP][STEP]; /* (i,j) yb_i . x_j; K_ij for j < i */
  real sb[STEP][STEP];               /* (i,j) m_ij dt_j z_ij, summed over heads */
  real direct[STEP], across[STEP];   /* sum_i m_ij s_ij z_ij; sum of K_ij over j < k <= i */
  real into[STEP], from[STEP];       /* e_i yb_i . S C_i; r_j x_j . Rb B_j */
};

/* weights, sb (added), direct, K by rows; then across from the last row on */
APART pair_rows(int n, const real *a, const real *dt, real (*scores)[STEP], real (*weights)[STEP],
                struct step_back *v)
{
  real m[STEP], direct[STEP], below[STEP];
  SIMD
  for (int l = 0; l < STEP; l++) {
    m[l] = 1;
    direct[l] = below[l] = 0;
  }
  for (int i = 0; i < n; i++) {
    real ai = a[i];
    SIMD
    for (int l = 0; l < STEP; l++) {
      m[l] *= i > l ? ai : 1;
      real pair = m[l] * dt[l] * v->z[i][l], weight = scores[i][l] * (m[l] * dt[l]);
      real both = scores[i][l] * m[l] * v->z[i][l], across = scores[i][l] * pair;
      weights[i][l] = i >= l ? weight : 0;
      v->sb[i][l] += i >= l ? pair : 0;
      v->K[i][l] = i > l ? across : 0;
      direct[l] += i >= l ? both : 0;
    }
  }
  for (int i = n - 1; i >= 0; i--) {
    real parts[STEP];
    SIMD
    for (int l = 0; l < STEP; l++) {
      below[l] += v->K[i][l];
      parts[l] = i > l ? below[l] : 0;
    }
    v->across[i] = sum_of_parts(STEP, parts);
  }
  SIMD
  for (int l = 0; l < STEP; l++)
    v->direct[l] = direct[l];
}

/* xb of the tokens from j0 on, channels p0..; see step_inputs */
ELEMENTARY void input_tile(int rows, int lanes, const struct ssd_shape *d, const struct step *s,
                           int j0, const real *yb, const real *skip, const real *Rt, real *xb)
{
  int64_t HP = d->H * d->P;
  real acc[ROWS][LANES];
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      acc[r][l] = skip[l] * yb[(j0 + r) * HP + l];
  }
  tile_accumulate(rows, lanes, Rt ? d->N : 0, s->in + j0 * d->N, d->N, 1, Rt, lanes, acc);
  tile_accumulate(rows, lanes, s->n - j0, s->weights[j0] + j0, 1, STEP, yb + j0 * HP, HP, acc);
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      xb[r * d->ld + l] += acc[r][l];
  }
}

/* xb of channels p0..: Rt (N,lanes): the cotangent of the state behind the step, NULL: zeros */
APART step_inputs(const struct ssd_shape *d, const struct step *s, int64_t h, int64_t p0,
                  const real *yb, const real *D, const real *Rt, real *xb)
{
  int lanes = at_most(d->P - p0, LANES);
  real skip[LANES];
  load_skip(d, D, h, p0, skip);
  for (int j0 = 0; j0 < s->n; j0 += ROWS) {
    int rows = at_most(s->n - j0, ROWS);
    real *to = xb + (s->token + j0) * d->ld + h * d->P + p0;
    IN_TILE(rows, lanes, input_tile, d, s, j0, yb, skip, Rt, to);
  }
}

/* What state_products takes, from a tile's first token on. */
struct products {
  const real *a, *state, *factor, *factor2, *own;
  real *dots, *out;
  int64_t lda, ld, ldo, P, N;
};

ELEMENTARY void state_product_tile(int rows, int lanes, struct products q)
{
  real acc[ROWS][LANES];
  tile_zero(acc);
  tile_accumulate(rows, lanes, q.P, q.a, q.lda, 1, q.state, q.N, acc);
  for (int r = 0; r < rows; r++) {
    real f = q.factor[r] * (q.factor2 ? q.factor2[r] : 1), parts[LANES] = {0};
    SIMD
    for (int l = 0; l < lanes; l++)
      parts[l] = acc[r][l] * q.own[r * q.ld + l];
    q.dots[r] += q.factor[r] * sum_of_parts(LANES, parts);
    SIMD
    for (int l = 0; l < (q.out ? lanes : 0); l++)
      q.out[r * q.ldo + l] = add_product(q.out[r * q.ldo + l], f, acc[r][l]);
  }
}

/* For n tokens with q_i = a_i state (N): dots_i += factor_i q_i . own_i, and
 * out_i += factor_i (factor2_i; NULL: 1) q_i; out NULL: not wanted */
APART state_products(int n, const struct products *all)
{
  for (int64_t n0 = 0; n0 < all->N; n0 += LANES) {
    int lanes = at_most(all->N - n0, LANES);
    for (int i0 = 0; i0 < n; i0 += ROWS) {
      int rows = at_most(n - i0, ROWS);
      struct products q = *all;
      q.a += i0 * q.lda, q.state += n0, q.own += i0 * q.ld + n0;
      q.factor += i0, q.factor2 = q.factor2 ? q.factor2 + i0 : NULL;
      q.dots += i0, q.out = q.out ? q.out + i0 * q.ldo + n0 : NULL;
      IN_TILE(rows, lanes, state_product_tile, q);
    }
  }
}

ELEMENTARY void pair_product_tile(int rows, int lanes, int64_t K, const real *a, int64_t ar,
                                  int64_t ak, const real *panel, int64_t ld, real *out, int64_t ldo)
{
  real acc[ROWS][LANES];
  tile_zero(acc);
  tile_accumulate(rows, lanes, K, a, ar, ak, panel, ld, acc);
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      out[r * ldo + l] += acc[r][l];
  }
}

/* out_i += sum_j sb_ij panel_j, or (transposed) out_j += sum_i sb_ij panel_i */
APART pair_products(int n, int64_t N, real (*sb)[STEP], bool transposed, const real *panel,
                    int64_t ld, real *out, int64_t ldo)
{
  for (int64_t n0 = 0; n0 < N; n0 += LANES) {
    int lanes = at_most(N - n0, LANES);
    for (int i0 = 0; i0 < n; i0 += ROWS) {
      int rows = at_most(n - i0, ROWS);
      real *to = out + i0 * ldo + n0;
      if (transposed)
        IN_TILE(rows, lanes, pair_product_tile, n - i0, sb[i0] + i0, 1, STEP, panel + i0 * ld + n0,
                ld, to, ldo);
      else
        IN_TILE(rows, lanes, pair_product_tile, i0 + rows, sb[i0], STEP, 1, panel + n0, ld, to,
                ldo);
    }
  }
}

/* dtb of a head's step; returns sum_k A dt_k lb_k.  through: e_{q-1} <Rb,S> */
ELEMENTARY wide decay_back(const struct ssd_shape *d, const struct step *s,
                           const struct step_back *v, int64_t h, real A, real through, real *dtb)
{
  real after = 0, before = through, lb[STEP];
  wide total = 0;
  for (int i = s->n - 1; i >= 0; i--)
    lb[i] = v->across[i] + (after += v->into[i]);
  for (int i = 0; i < s->n; i++) {
    lb[i] += before;
    before += s->dt[i] * v->from[i];
    total += (wide)(A * s->dt[i] * lb[i]);
    if (dtb)
      dtb[(s->token + i) * d->H + h] += A * lb[i] + v->direct[i] + v->from[i];
  }
  return total;
}

/* The states that enter a chunk's steps behind its first, (P,N) each, from that of the first
 * (entry, NULL: zeros); `running` has room for one. */
ELEMENTARY void states_again(const struct ssd_shape *d, const struct steps_back *a, int64_t b,
                             int64_t g, int64_t h, int64_t first, int64_t end, const real *entry,
                             struct step *s, real *running, real *states)
{
  int64_t PN = d->P * d->N, steps = steps_of(end - first);
  if (entry && steps > 1)
    load_state(d, entry, running);
  for (int64_t i = 0; i + 1 < steps; i++) {
    place_step(b * d->T, first, end, i, s);
    decay_step(d, h, a->dt, decay_rate(a->A_log, h), s);
    scale_rows(s->n, d->N, s->leave, s->dt, d->ld, a->Bm + s->token * d->ld + g * d->N, s->in);
    step_state(d, s, i == 0 && !entry, s->in, a->x + s->token * d->ld + h * d->P, d->ld, running);
    store_state(d, running, states + i * PN);
  }
}

/* A head's step: S (P,N) enters (NULL: zeros), Rt is the cotangent of what leaves (`leaves`: not
 * zeros) and becomes (`enters`: wanted) that of S; R (P,N): scratch.  Returns its part of A_logb.
 */
ELEMENTARY wide step_head_back(const struct ssd_shape *d, const struct steps_back *a,
                               struct step_heads k, int64_t h, const real *S, bool leaves,
                               bool enters, struct step *s, struct step_back *v, real *Rt, real *R)
{
  int64_t HP = d->H * d->P, PN = d->P * d->N, columns = s->token * d->ld + k.g * d->N;
  bool alone = k.end - k.first < d->H / d->G;
  const real *xs = a->x + s->token * d->ld + h * d->P, *Bs = a->Bm + columns, *Cs = a->C + columns;
  const real *yb = a->yb + s->token * HP + h * d->P;
  int64_t part = (s->token * d->H + h) * d->N, ldo = alone ? d->H * d->N : d->ld;
  real *Bb = !a->Bb ? NULL : alone ? a->B_part + part : a->Bb + columns;
  real *Cb = !a->Cb ? NULL : alone ? a->C_part + part : a->Cb + columns;
  real A = decay_rate(a->A_log, h), through = 0, xt[CHANNELS * STEP];
  decay_step(d, h, a->dt, A, s);
  for (int64_t p = 0; p < d->P; p += CHANNELS) {
    int count = at_most(d->P - p, CHANNELS);
    transpose_tokens(s->n, count, xs + p, d->ld, xt);
    token_products(s->n, count, yb + p, HP, xt, p > 0, v->z);
  }
  pair_rows(s->n, s->a, s->dt, s->scores, s->weights, v);
  for (int i = 0; i < s->n; i++)
    v->into[i] = v->from[i] = 0;
  for (int i = 0; alone && i < s->n; i++)
    for (int64_t n = 0; n < d->N; n++) {
      if (Bb)
        Bb[i * ldo + n] = 0;
      if (Cb)
        Cb[i * ldo + n] = 0;
    }
  if (leaves) {
    scale_rows(s->n, d->N, s->leave, s->dt, d->ld, Bs, s->in);
    store_state(d, Rt, R);
    struct products q = {xs, R, s->leave, s->dt, Bs, v->from, Bb, d->ld, d->ld, ldo, d->P, d->N};
    state_products(s->n, &q);
  }
  for (int64_t p0 = 0; a->xb && p0 < d->P; p0 += LANES)
    step_inputs(d, s, h, p0, yb + p0, a->D, leaves ? Rt + p0 * d->N : NULL, a->xb);
  if (S) {
    struct products q = {yb, S, s->entry, NULL, Cs, v->into, Cb, HP, d->ld, ldo, d->P, d->N};
    state_products(s->n, &q);
  }
  if (S && leaves)
    ADD_LANE_SUM(through, PN, i, R[i] * S[i]);
  if (enters) {
    scale_rows(s->n, d->N, s->entry, NULL, d->ld, Cs, s->out);
    step_state(d, s, !leaves, s->out, yb, HP, Rt);
  }
  if (alone && Cb)
    pair_products(s->n, d->N, v->sb, false, Bs, d->ld, Cb, ldo);
  if (alone && Bb)
    pair_products(s->n, d->N, v->sb, true, Cs, d->ld, Bb, ldo);
  return a->times ? decay_back(d, s, v, h, A, s->entry[s->n - 1] * through, a->dtb) : 0;
}

ELEMENTARY void run_steps_back(const struct ssd_shape *d, const struct steps_back *a,
                               struct step_heads k)
{
  int64_t PN = d->P * d->N, chunks = ssd_chunks(*d), most = steps_of_chunk(*d), HG = d->H / d->G;
  struct step s;
  struct step_back v;
  wide total[SSD_STEP_HEADS];
  for (int64_t h = k.first; h < k.end; h++) {
    real *Rt = a->states + ((k.b * d->H + h) * (most + 2) + most) * PN;
    total[h - k.first] = 0;
    if (a->S1b)
      load_state(d, a->S1b + (k.b * d->H + h) * PN, Rt);
  }
  for (int64_t c = chunks - 1; c >= 0; c--) {
    int64_t first = c * d->chunk, end = first + d->chunk < d->T ? first + d->chunk : d->T;
    const real *kept = a->S ? a->S + (k.b * chunks + c) * d->H * PN : NULL;
    for (int64_t h = k.first; h < k.end; h++) {
      real *at = a->states + (k.b * d->H + h) * (most + 2) * PN;
      states_again(d, a, k.b, k.g, h, first, end, kept ? kept + h * PN : NULL, &s,
                   at + (most - 1) * PN, at);
    }
    for (int64_t i = steps_of(end - first) - 1; i >= 0; i--) {
      place_step(k.b * d->T, first, end, i, &s);
      int64_t columns = s.token * d->ld + k.g * d->N;
      bool leaves = s.token + s.n < (k.b + 1) * d->T || a->S1b;
      bool enters = s.token > k.b * d->T || a->S0b;
      score_step(d, a->Bm + columns, a->C + columns, &s);
      memset(v.sb, 0, sizeof v.sb);
      for (int64_t h = k.first; h < k.end; h++) {
        real *at = a->states + (k.b * d->H + h) * (most + 2) * PN;
        const real *S = i > 0 ? at + (i - 1) * PN : kept ? kept + h * PN : NULL;
        total[h - k.first] += step_head_back(d, a, k, h, S, leaves, enters, &s, &v, at + most * PN,
                                             at + (most + 1) * PN);
        if (k.end - k.first < HG)
          memset(v.sb, 0, sizeof v.sb);
      }
      if (k.end - k.first == HG && a->Cb)
        pair_products(s.n, d->N, v.sb, false, a->Bm + columns, d->ld, a->Cb + columns, d->ld);
      if (k.end - k.first == HG && a->Bb)
        pair_products(s.n, d->N, v.sb, true, a->C + columns, d->ld, a->Bb + columns, d->ld);
    }
  }
  for (int64_t h = k.first; h < k.end; h++) {
    real *at = a->states + (k.b * d->H + h) * (most + 2) * PN;
    a->total[k.b * d->H + h] = (real)total[h - k.first];
    if (a->S0b) {
      store_state(d, at + most * PN, at + (most + 1) * PN);
      for (int64_t i = 0; i < PN; i++)
        a->S0b[(k.b * d->H + h) * PN + i] += at[(most + 1) * PN + i];
    }
  }
}

KERNEL all_steps_back(struct ssd_shape d, struct steps_back a)
{
  FOR_EACH_COST (i, d.B * d.H / heads_together(d),
                 heads_together(d) * d.T * d.P * (2 * STEP + 12 * d.N))
    run_steps_back(&d, &a, heads_of(d, i));
}

/* out (tokens,(G,N) columns, ld apart) += each head's part */
KERNEL add_heads(struct ssd_shape d, const real *part, real *out)
{
  FOR_EACH_COST (i, d.B * d.T * d.G, d.H / d.G * d.N) {
    int64_t heads = d.H / d.G, t = i / d.G, g = i % d.G;
    real *to = out + t * d.ld + g * d.N;
    for (int64_t h = g * heads; h < (g + 1) * heads; h++) {
      const real *from = part + (t * d.H + h) * d.N;
      SIMD
      for (int64_t n = 0; n < d.N; n++)
        to[n] += from[n];
    }
  }
}

/* ---- where this costs less than ssd_blocks_cpu.h ---- */

/* states: some enter a chunk or leave it.  Without, a chunk's pairs may be fewer than steps' states
 * (measured with P = 32 and 64, N = 16 to 128). */
INLINE bool goes_by_steps(struct ssd_shape d, bool states)
{
  return d.by_blocks && (states || d.N <= STEP || d.T <= STEP || d.T >= 3 * d.N);
}

/* And whether the VJP's scratch holds what it keeps. */
INLINE int64_t steps_back_scratch(struct ssd_shape d)
{
  int64_t parts = heads_together(d) < d.H / d.G ? 2 * d.T * d.H * d.N : 0;
  return d.B * (d.H * ((steps_of_chunk(d) + 2) * d.P * d.N + 1) + parts);
}

INLINE bool goes_back_by_steps(struct ssd_shape d, bool states)
{
  return goes_by_steps(d, states) && steps_back_scratch(d) <= ssd_chunked_work(d) &&
         d.H / d.G <= SSD_STEP_HEADS;
}
#endif
