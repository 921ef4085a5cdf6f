/* ssd_blocks_cpu.h: ssd_chunked on the CPU, a chunk by blocks of tokens; part of ssd_chunked.c,
 * whose head has the equations.
 *
 * Between tokens of different blocks a decay is a product: for i in block I, j in block J < I
 *   m_ij = up_i (product of all_B, J < B < I) down_j
 *   up_i = exp(l_first + .. + l_i) from the first token of i's block
 *   down_j = exp(l_{j+1} + .. + l_last) to the last of j's,        all_B = exp(sum of block B's l)
 * with every exponent a sum of its own, so nothing overflows or cancels.  On the diagonal m_ij is a
 * running product down a column; elsewhere a head's work is products of matrices with the scores
 * s_ij = C_i . B_j, which all heads of a group share:
 *   y_I += up_I (s_IJ X_J),   X_J = down_J dt_J x_J        decayed by all_B from block to block
 * and back, with Y_I = up_I yb_I and g the product of the all_B between:
 *   G_J += g s_IJ' Y_I,   xb_J += down_J dt_J G_J          Z = g Y_I X_J',   sb_IJ += Z
 *   sums of K = s o Z by rows; by columns as x_J . (down_J dt_J G_J)
 * For q tokens this is about q P products a token forwards where states of P N cost 2 P N, so up to
 * 4 N tokens are cheaper as one chunk than as several (core/mamba2.c).
 */
#ifndef KERNELS_SSD_BLOCKS_CPU_H
#define KERNELS_SSD_BLOCKS_CPU_H

enum { BLOCK = SSD_BLOCK };

INLINE int block_count_of(int q) { return (q + BLOCK - 1) / BLOCK; }
INLINE int block_end(int q, int first) { return first + BLOCK < q ? first + BLOCK : q; }

/* The decays of one head's chunk: up, down (q), all (blocks). */
struct block_decays {
  real *up, *down, *all;
};

INLINE struct block_decays decays_of(struct ssd_shape d, struct chunk_scratch s, int64_t u)
{
  int64_t Q = ssd_chunk_length(d);
  struct block_decays e;
  e.up = s.a + u * Q;
  e.down = s.b + u * Q;
  e.all = s.all + u * ssd_blocks(Q);
  return e;
}

ELEMENTARY void decay_blocks(struct ssd_shape d, struct chunk k, const real *dt, const real *A_log,
                             struct block_decays e)
{
  real A = decay_rate(A_log, k.h);
  for (int first = 0; first < k.q; first += BLOCK) {
    int end = block_end(k.q, first);
    real sum = 0;
    for (int i = first; i < end; i++)
      e.up[i] = sum += A * dt[(k.token + i) * d.H + k.h];
    e.all[first / BLOCK] = exp_falling(sum);
    sum = 0;
    for (int i = end - 1; i >= first; i--) {
      e.down[i] = sum;
      sum += A * dt[(k.token + i) * d.H + k.h];
    }
  }
  SIMD
  for (int i = 0; i < k.q; i++) {
    e.up[i] = exp_falling(e.up[i]);
    e.down[i] = exp_falling(e.down[i]);
  }
}

/* to (tokens,P) = factor_i (dt_i; dt NULL: 1) times rows of x, which are ldx apart */
ELEMENTARY void scale_block(struct ssd_shape d, int first, int end, const real *factor,
                            const real *dt, const real *x, int64_t ldx, real *to)
{
  for (int i = first; i < end; i++) {
    real f = factor[i] * (dt ? dt[i * d.H] : 1);
    SIMD
    for (int64_t p = 0; p < d.P; p++)
      to[(i - first) * d.P + p] = f * x[i * ldx + p];
  }
}

/* dt (BLOCK) of a block's tokens, 0 behind them, and a = exp(A dt) */
ELEMENTARY void steps_of_block(struct ssd_shape d, struct chunk k, int first, int end,
                               const real *dt, const real *A_log, real *step, real *a)
{
  real A = decay_rate(A_log, k.h);
  for (int i = 0; i < BLOCK; i++)
    step[i] = first + i < end ? dt[(k.token + first + i) * d.H + k.h] : 0;
  SIMD
  for (int i = 0; i < BLOCK; i++)
    a[i] = exp_falling(A * step[i]);
}

/* w (BLOCK,BLOCK) = w_ij of a block on the diagonal, 0 for j > i. */
ELEMENTARY void weigh_block(struct ssd_shape d, struct chunk k, int first, int end,
                            const real *scores, const real *dt, const real *A_log, real *w)
{
  int64_t Q = ssd_chunk_length(d);
  real a[BLOCK], step[BLOCK];
  steps_of_block(d, k, first, end, dt, A_log, step, a);
  for (int j0 = 0; j0 < end - first; j0 += STEP) {
    for (int i = 0; i < j0; i++) {
      SIMD
      for (int l = 0; l < STEP; l++)
        w[i * BLOCK + j0 + l] = 0;
    }
    weigh_rows(at_most(end - first - j0, STEP), end - first - j0, a + j0, step + j0,
               scores + (first + j0) * (Q + 1), Q, w + j0 * (BLOCK + 1), BLOCK);
  }
}

/* ---- forward ---- */

/* The arrays of block_outputs. */
struct block_inputs {
  const real *x, *dt, *A_log, *D;
};

/* Rows of a tile of outputs: with two vectors of channels each AVX2's 16 registers hold six. */
#if defined(__AVX2__) && !defined(__AVX512F__)
enum { OUTPUT_ROWS = 6 };
#else
enum { OUTPUT_ROWS = ROWS };
#endif

/* A block's outputs: w are the weights on its diagonal, X the inputs of the earlier blocks, decayed
 * to their end. */
struct output_block {
  int first, end;
  int64_t h;
  const real *scores, *up, *w, *X, *xs, *D;
  real *y;
};

/* y of the tokens from i0 on, `lanes` channels from p0 */
ELEMENTARY void output_rows(int rows, int lanes, const struct ssd_shape *d,
                            const struct output_block *o, int i0, int64_t p0, const real *skip)
{
  int64_t Q = ssd_chunk_length(*d), HP = d->H * d->P;
  const real *xs = o->xs + p0;
  real acc[OUTPUT_ROWS][LANES];
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      acc[r][l] = 0;
  }
  tile_accumulate(rows, lanes, o->first, o->scores + i0 * Q, Q, 1, o->X + p0, d->P, acc);
  if (o->first > 0)
    tile_scale_rows(rows, o->up + i0, acc);
  tile_accumulate(rows, lanes, i0 + rows - o->first, o->w + (i0 - o->first) * BLOCK, BLOCK, 1,
                  xs + o->first * d->ld, d->ld, acc);
  for (int r = 0; r < rows; r++) {
    SIMD
    for (int l = 0; l < lanes; l++)
      o->y[(i0 + r) * HP + p0 + l] = acc[r][l] + skip[l] * xs[(i0 + r) * d->ld + l];
  }
}

/* The last tile is moved up to be whole. */
APART output_columns(const struct ssd_shape *d, const struct output_block *o, int64_t p0)
{
  int lanes = at_most(d->P - p0, LANES);
  real skip[LANES];
  load_skip(d, o->D, o->h, p0, skip);
  for (int i = o->first; i < o->end; i += OUTPUT_ROWS) {
    int last = o->end - OUTPUT_ROWS, i0 = i <= last ? i : last > o->first ? last : o->first;
    int rows = at_most(o->end - i0, OUTPUT_ROWS);
    if (rows == OUTPUT_ROWS && lanes == LANES)
      output_rows(OUTPUT_ROWS, LANES, d, o, i0, p0, skip);
    else
      output_rows(rows, lanes, d, o, i0, p0, skip);
  }
}

/* X *= decay; what would be below the normal numbers, which are slow, is 0 */
ELEMENTARY void decay_inputs(int64_t n, real decay, real *X)
{
  SIMD
  for (int64_t i = 0; i < n; i++) {
    real x = decay * X[i];
    X[i] = re(x) < LEAST && re(x) > -LEAST ? 0 : x;
  }
}

/* Of chunks that no state enters: with states it goes by steps (ssd_steps_cpu.h). */
KERNEL block_outputs(struct ssd_shape d, struct block_inputs a, real *work, real *y)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d);
  FOR_EACH_COST (u, chunk_heads(d), Q * d.P * Q) {
    struct chunk k = chunk_of(d, u, d.H);
    struct block_decays e = decays_of(d, s, u);
    const real *scores = s.scores + group_pairs(d, k), *dt = a.dt + k.token * d.H + k.h;
    real w[BLOCK * BLOCK], *X = s.scaled + u * ssd_blocks(Q) * BLOCK * d.P;
    struct output_block o = {.scores = scores, .up = e.up, .w = w, .X = X, .D = a.D, .h = k.h};
    o.xs = x_of(d, k, a.x);
    o.y = y + (k.token * d.H + k.h) * d.P;
    if (k.q > BLOCK)
      decay_blocks(d, k, a.dt, a.A_log, e);
    for (o.first = 0; o.first < k.q; o.first = o.end) {
      o.end = block_end(k.q, o.first);
      weigh_block(d, k, o.first, o.end, scores, a.dt, a.A_log, w);
      for (int64_t p0 = 0; p0 < d.P; p0 += LANES)
        output_columns(&d, &o, p0);
      if (o.end == k.q)
        break;
      decay_inputs(o.first * d.P, e.all[o.first / BLOCK], X);
      scale_block(d, o.first, o.end, e.down, dt, o.xs, d.ld, X + o.first * d.P);
    }
  }
}

/* ---- VJP ---- */

/* One head's chunk on its way back. */
struct block_vjp {
  const real *x, *yb, *dt, *A_log; /* from the chunk's first token and the head's first column */
  const real *scores;              /* (Q,Q) */
  struct block_decays e;
  real *X, *G;          /* X' (blocks: P,BLOCK) and G (blocks: BLOCK,P) of the head comment */
  real *Y, *xt;         /* (BLOCK,P), (P,BLOCK): of the block at work */
  real *sb;             /* (Q,Q) */
  real *direct, *cross; /* (Q): sum_i m_ij s_ij z_ij; the sum of K over pairs j < k <= i */
};

/* X' or x' of a block of n tokens: (P,BLOCK), to the end of a vector 0 behind them */
ELEMENTARY void transpose_block(struct ssd_shape d, int n, const real *x, int64_t ldx, real *to)
{
  for (int j0 = 0; j0 < n; j0 += LANES)
    tile_transpose_to(d.P, at_most(n - j0, LANES), x + j0 * ldx, ldx, BLOCK, to + j0);
}

/* Z of blocks I > J: sb += Z, and the sums of K over j into row_i (added); returns their sum. */
ELEMENTARY real pairs_between(struct ssd_shape d, const struct block_vjp *v, int first, int end,
                              int J, real g, real *row)
{
  int64_t Q = ssd_chunk_length(d);
  real all = 0;
  for (int i0 = first; i0 < end; i0 += ROWS) {
    int rows = at_most(end - i0, ROWS);
    real sums[ROWS] = {0};
    for (int j0 = 0; j0 < BLOCK; j0 += LANES) {
      real acc[ROWS][LANES];
      tile_zero(acc);
      tile_multiply(rows, LANES, d.P, v->Y + (i0 - first) * d.P, d.P, 1, v->X + J * d.P + j0, BLOCK,
                    acc);
      for (int r = 0; r < rows; r++) {
        const real *score = v->scores + (i0 + r) * Q + J + j0;
        real *sb = v->sb + (i0 + r) * Q + J + j0, sum = 0;
        SIMD_SUM(sum)
        for (int l = 0; l < LANES; l++) {
          real z = g * acc[r][l];
          sb[l] += z;
          sum += score[l] * z;
        }
        sums[r] += sum;
      }
    }
    for (int r = 0; r < rows; r++) {
      row[i0 + r] += sums[r];
      all += sums[r];
    }
  }
  return all;
}

/* G_J += g s_IJ' Y_I */
ELEMENTARY void give_back(struct ssd_shape d, const struct block_vjp *v, int first, int end, int J,
                          real g)
{
  int64_t Q = ssd_chunk_length(d);
  for (int64_t p0 = 0; p0 < d.P; p0 += LANES) {
    int lanes = at_most(d.P - p0, LANES);
    for (int j = 0; j < BLOCK; j += ROWS) {
      real acc[ROWS][LANES];
      tile_zero(acc);
      tile_multiply(ROWS, lanes, end - first, v->scores + first * Q + J + j, 1, Q, v->Y + p0, d.P,
                    acc);
      for (int r = 0; r < ROWS; r++) {
        real *to = v->G + (J + j + r) * d.P + p0;
        for (int l = 0; l < lanes; l++)
          to[l] = add_product(to[l], g, acc[r][l]);
      }
    }
  }
}

/* sums over i of K (BLOCK,BLOCK), which is used up: across_k = sum_{j<k<=i} K_ij, added */
ELEMENTARY void across_block(int n, real *K, real *across)
{
  for (int i = n - 1; i >= 0; i--) {
    real *row = K + i * BLOCK, sum = 0;
    bool last = i == n - 1;
    SIMD_SUM(sum)
    for (int j = 0; j < i; j++) {
      row[j] += last ? 0 : row[BLOCK + j];
      sum += row[j];
    }
    across[i] += sum;
  }
}

/* Row i of a block's pairs: w and K, sb; `lanes` is a constant where this is called. */
ELEMENTARY void pairs_of_row(int lanes, int past, const real *m, const real *score, const real *dt,
                             const real *z, real *w, real *sb, real *K, real *direct)
{
  real pair[LANES];
  pair_row(lanes, past, m, score, dt, z, w, pair, direct);
  SIMD
  for (int l = 0; l < lanes; l++) {
    sb[l] += pair[l];
    real across = score[l] * pair[l];
    K[l] = past > l ? across : 0;
  }
}

/* A block on the diagonal: w (BLOCK,BLOCK), sb, direct, cross. */
ELEMENTARY void pairs_within(struct ssd_shape d, struct chunk k, const struct block_vjp *v,
                             int first, int end, real *w)
{
  int64_t Q = ssd_chunk_length(d), HP = d.H * d.P;
  real K[BLOCK * BLOCK], step[BLOCK], a[BLOCK];
  steps_of_block(d, k, first, end, v->dt, v->A_log, step, a);
  for (int j0 = first; j0 < end; j0 += LANES) {
    int lanes = at_most(end - j0, LANES);
    real direct[LANES] = {0}, acc[ROWS][LANES], m[LANES];
    const real *dt = step + j0 - first;
    for (int l = 0; l < LANES; l++)
      m[l] = 1;
    for (int i = first; i < j0; i++) {
      SIMD
      for (int l = 0; l < LANES; l++)
        w[(i - first) * BLOCK + j0 - first + l] = 0;
    }
    for (int i0 = j0; i0 < end; i0 += ROWS) {
      int rows = at_most(end - i0, ROWS);
      tile_zero(acc);
      tile_multiply(rows, LANES, d.P, v->yb + i0 * HP, HP, 1, v->xt + j0 - first, BLOCK, acc);
      for (int r = 0; r < rows; r++) {
        int i = i0 + r, pair = (i - first) * BLOCK + j0 - first;
        int64_t all = i * Q + j0;
        decay_strip(LANES, i - j0, a[i - first], m);
        if (lanes == LANES)
          pairs_of_row(LANES, i - j0, m, v->scores + all, dt, acc[r], w + pair, v->sb + all,
                       K + pair, direct);
        else
          pairs_of_row(lanes, i - j0, m, v->scores + all, dt, acc[r], w + pair, v->sb + all,
                       K + pair, direct);
      }
    }
    for (int l = 0; l < lanes; l++)
      v->direct[j0 + l] = direct[l];
  }
  across_block(end - first, K, v->cross + first);
}

/* xb of one block: what its own tokens, the state that leaves the chunk and the skip give */
ELEMENTARY void inputs_within(struct ssd_shape d, struct chunk k, const struct block_vjp *v,
                              int first, int end, const real *w, const real *Bm, const real *D,
                              const real *Rb, const real *leave, real *xb)
{
  int64_t HP = d.H * d.P;
  for (int64_t p0 = 0; p0 < d.P; p0 += LANES) {
    int lanes = at_most(d.P - p0, LANES);
    real St[SSD_MAX_STATE][LANES], acc[ROWS][LANES];
    if (Rb)
      tile_transpose(d.N, lanes, Rb + p0 * d.N, d.N, St);
    for (int j0 = first; j0 < end; j0 += ROWS) {
      int rows = at_most(end - j0, ROWS);
      tile_zero(acc);
      if (Rb) {
        real factor[ROWS];
        for (int r = 0; r < rows; r++)
          factor[r] = leave[j0 + r] * v->dt[(k.token + j0 + r) * d.H + k.h];
        tile_multiply(rows, LANES, d.N, group_columns(d, k, Bm) + j0 * d.ld, d.ld, 1, St[0], LANES,
                      acc);
        tile_scale_rows(rows, factor, acc);
      }
      tile_multiply(rows, lanes, end - j0, w + (j0 - first) * BLOCK + j0 - first, 1, BLOCK,
                    v->yb + j0 * HP + p0, HP, acc);
      for (int r = 0; r < rows; r++) {
        real *to = xb + (k.token + j0 + r) * d.ld + k.h * d.P + p0;
        for (int l = 0; l < lanes; l++)
          to[l] += acc[r][l] + skip_of(d, D, k.h, p0 + l) * v->yb[(j0 + r) * HP + p0 + l];
      }
    }
  }
}

/* What later blocks give to the inputs of a block, and to direct; column_j: K's sums over them */
ELEMENTARY void inputs_before(struct ssd_shape d, struct chunk k, const struct block_vjp *v,
                              int first, int end, real *xb, real *column)
{
  for (int j = first; j < end; j++) {
    const real *G = v->G + j * d.P, *x = v->x + j * d.ld;
    real dt = v->dt[(k.token + j) * d.H + k.h], down = v->e.down[j], f = down * dt, dot = 0;
    ADD_LANE_SUM(dot, d.P, p, G[p] * x[p]);
    v->direct[j] += down * dot;
    column[j] = f * dot;
    if (xb == NULL)
      continue;
    real *to = xb + (k.token + j) * d.ld + k.h * d.P;
    SIMD
    for (int64_t p = 0; p < d.P; p++)
      to[p] = add_product(to[p], f, G[p]);
  }
}

/* cross: within the block of k (there already), i in it and j before, j in it and i behind, and
 * both elsewhere */
ELEMENTARY void add_cross(int q, const real *row, const real *column, const real *over, real *cross)
{
  for (int first = 0; first < q; first += BLOCK) {
    int end = block_end(q, first);
    real sum = 0;
    for (int i = end - 1; i >= first; i--)
      cross[i] += sum += row[i];
    sum = over[first / BLOCK];
    for (int i = first; i < end; i++) {
      cross[i] += sum;
      sum += column[i];
    }
  }
}

/* Z and G of a block with all blocks before it. */
ELEMENTARY void blocks_before(struct ssd_shape d, struct block_vjp *v, int first, int end,
                              real *row, real *over)
{
  int64_t HP = d.H * d.P;
  real g = 1;
  scale_block(d, first, end, v->e.up, NULL, v->yb, HP, v->Y);
  for (int J = first - BLOCK; J >= 0; J -= BLOCK) {
    real all = pairs_between(d, v, first, end, J, g, row);
    give_back(d, v, first, end, J, g);
    for (int B = J + BLOCK; B < first; B += BLOCK)
      over[B / BLOCK] += all;
    g *= v->e.all[J / BLOCK];
  }
}

/* The arrays of block_cotangents. */
struct block_gradients {
  const real *x, *Bm, *dt, *A_log, *D, *yb;
  bool carried; /* the last chunk has an Rb */
  bool leaves;  /* there are states */
  real *xb;
};

ELEMENTARY void head_cotangents(struct ssd_shape d, const struct block_gradients *a,
                                struct chunk_scratch s, struct chunk k, struct block_vjp *v)
{
  int64_t Q = ssd_chunk_length(d);
  bool state = a->leaves && (k.c < ssd_chunks(d) - 1 || a->carried);
  real w[BLOCK * BLOCK];
  real *rows = s.row + k.u * Q, *columns = s.column + k.u * Q, *over = s.over + k.u * ssd_blocks(Q);
  v->x = x_of(d, k, a->x);
  v->yb = a->yb + (k.token * d.H + k.h) * d.P;
  if (k.q > BLOCK)
    decay_blocks(d, k, a->dt, a->A_log, v->e);
  for (int i = 0; i < k.q; i++)
    rows[i] = columns[i] = v->cross[i] = 0;
  for (int b = 0; b < block_count_of(k.q); b++)
    over[b] = 0;
  for (int64_t i = 0; k.q > BLOCK && i < ssd_blocks(Q) * BLOCK * d.P; i++)
    v->G[i] = 0;
  for (int first = 0; first < k.q; first += BLOCK) {
    int end = block_end(k.q, first);
    transpose_block(d, end - first, v->x + first * d.ld, d.ld, v->xt);
    pairs_within(d, k, v, first, end, w);
    if (a->xb)
      inputs_within(d, k, v, first, end, w, a->Bm, a->D, state ? s.states + k.u * d.P * d.N : NULL,
                    s.leave + k.u * Q, a->xb);
    if (first > 0)
      blocks_before(d, v, first, end, rows, over);
    if (end < k.q) {
      scale_block(d, first, end, v->e.down, a->dt + k.token * d.H + k.h, v->x, d.ld, v->Y);
      transpose_block(d, BLOCK, v->Y, d.P, v->X + first * d.P);
    }
  }
  for (int first = 0; first + BLOCK < k.q; first += BLOCK)
    inputs_before(d, k, v, first, first + BLOCK, a->xb, columns);
  if (k.q > BLOCK)
    add_cross(k.q, rows, columns, over, v->cross);
}

/* xb, scores2 = sb, c = direct, across = cross */
KERNEL block_cotangents(struct ssd_shape d, struct block_gradients a, real *work)
{
  struct chunk_scratch s = scratch_of(d, work);
  int64_t Q = ssd_chunk_length(d), heads = d.H / d.G;
  FOR_EACH_COST (group, d.B * ssd_chunks(d) * d.G, heads * Q * d.P * (2 * Q + d.N)) {
    struct chunk kg = chunk_of(d, group, d.G);
    real *sb = s.scores2 + group * Q * Q;
    for (int i = 0; i < kg.q; i++) {
      SIMD
      for (int j = 0; j < at_most(Q, (i / BLOCK + 1) * BLOCK); j++)
        sb[i * Q + j] = 0;
    }
    for (int64_t h = kg.h * heads; h < (kg.h + 1) * heads; h++) {
      struct chunk k = chunk_of(d, group / d.G * d.H + h, d.H);
      struct block_vjp v;
      v.dt = a.dt, v.A_log = a.A_log;
      v.scores = s.scores + group * Q * Q;
      v.e = decays_of(d, s, k.u);
      v.X = s.scaled2 + k.u * ssd_blocks(Q) * BLOCK * d.P;
      v.G = s.scaled + k.u * ssd_blocks(Q) * BLOCK * d.P;
      v.Y = s.block + group * 2 * BLOCK * d.P, v.xt = v.Y + BLOCK * d.P;
      v.sb = sb;
      v.direct = s.c + k.u * Q, v.cross = s.across + k.u * Q;
      head_cotangents(d, &a, s, k, &v);
    }
  }
}
#endif
