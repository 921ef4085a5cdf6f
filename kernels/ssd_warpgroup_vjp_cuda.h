/* ssd_warpgroup_vjp_cuda.h: ssd_chunked_vjp in float32 on compute capability 9.0, where `matmul`
 * allows tf32; part of ssd_chunked.c.  What is computed is in ssd_tensor_vjp_cuda.h's head.
 *
 * A block goes through chunks of groups, and through the heads of each.  Two warpgroups have half
 * of the states' columns n each, and go on without waiting for the third, which has pairs of tokens
 *   Cb' += (S' yb') e             Bb' += (Rb' x') r dt          at last  B' pairs', C' pairs
 *   xb'  = (Rb B') r dt + yb' w + D yb'           pairs' = sum over heads of m dt z'
 * Of the four warps that multiply nothing one copies x and S (and C), one yb and Rb (and B), as
 * soon as their places are free; two have the times of every other head, which they prepare, and at
 * last put their cotangents together.  Rb comes in half precision, and S where only this reads it.
 *
 * Tokens lie in the shared memory, and in sums, in eights whose order is 0 7 1 6 2 5 3 4: of pairs
 * j <= i, whose rows j are 16 in each warp, all warps have the same number, and nearly at the same
 * places.  As the forward head has it, m_ij = since_i gap next_j, powers over i's eight up to i,
 * from the eight after j's to i's, and from j to the eight after.
 *
 * S' and Rb', yb' and C', B' are left operands in registers, which lie across in shared memory, in
 * rows of 8 k + r.  Their terms are in the order of the right operand's columns:
 *   natural      terms 8 k + t, 8 k + t + 4  are  rows 8 k + t, 8 k + t + 4
 *   w, pairs'    terms 8 k + t, 8 k + t + 4  are  tokens 2 t, 2 t + 1 of eight k
 * the latter so that z' is w where it has been computed.  Operands in registers are rounded, but
 * those of yb'; those in shared memory that were computed, and B, were rounded when stored. */
#ifndef KERNELS_SSD_WARPGROUP_VJP_CUDA_H
#define KERNELS_SSD_WARPGROUP_VJP_CUDA_H
#include "kernels/ssd_tensor_vjp_cuda.h"
#include "kernels/ssd_warpgroup_cuda.h"

enum {
  STATE_GROUPS = 2, /* warpgroups that share the states' columns */
  STATE_WARPS = (int)STATE_GROUPS * (int)HEAD_WARPS,
  WARPGROUPS = STATE_GROUPS + 2, /* then those of pairs, and of copies */
  BACKWARD_THREADS = (int)WARPGROUPS * (int)GROUP_LANES,
  EIGHT = 8 * PANEL /* floats from row r to row r + 8 of a panel */
};
typedef panels<TENSOR_TOKENS> token_panels; /* of as many rows, tokens or channels, all of them */

/* The order of eights, above: the eight of place n, and the place of eight a. */
INLINE_DEVICE int eight_at(int n) { return n / 2 ^ n % 2 * 7; }
INLINE_DEVICE int place_of_eight(int a) { return a < 4 ? 2 * a : 15 - 2 * a; }
/* Token 2 t of the eight at n */
INLINE_DEVICE int own_token(int n) { return 8 * eight_at(n) + 2 * lane_pair(); }

/* Each given when what it is named after has come, or (read) is no longer needed. */
struct alignas(16) backward_signals {
  uint64_t S, S_read, Rb, Rb_read;
  uint64_t tokens[2], ended[2];          /* x, yb and times of a head; the head */
  uint64_t panels, panels_read;          /* B and C */
  uint64_t rounded;                      /* B */
  uint64_t pairs, pairs_read;            /* given twice a chunk: transposed first; once */
  float most[HEAD_WARPS];                /* B's largest numbers */
  alignas(16) float S_scale[HEAD_WARPS]; /* of sixteen rows each, where S comes in halves */
};

/* Of a head's tokens.  share = next dt; gap[b][a], b < a: from the eight after b to a. */
struct alignas(16) eight_times {
  float2 sum[TENSOR_TOKENS]; /* L, in two floats */
  float gap[8][8];
  float dt[TENSOR_TOKENS], leave[TENSOR_TOKENS], until[TENSOR_TOKENS], scaled[TENSOR_TOKENS];
  float since[TENSOR_TOKENS], next[TENSOR_TOKENS], share[TENSOR_TOKENS];
  float A, last; /* e_{q-1}; it, leave and scaled, which meet Rb, times its half_scale.from */
};

/* Of a head, what lb is made of.  For k in eight c, across_k is what pairs have
 *   i in a later eight, j in c     sum_{j<k} dt_j direct_j, of later eights
 *   i in a later, j in an earlier  sum of rows_i
 *   i in c, j in an earlier        sum_{i>=k} rows_i
 *   i and j in c                   within_k */
struct alignas(16) eight_sums {
  float direct[2][TENSOR_TOKENS]; /* of i in later eights; in j's */
  float rows[7][TENSOR_TOKENS];   /* by the eight of j: sum_j K_ij */
  float within[TENSOR_TOKENS];
  float own[TENSOR_TOKENS]; /* z_ii */
};

/* Sums over what a warp has of the states: a, b, <Rb,S>. */
struct alignas(16) warp_sums {
  float a[STATE_WARPS][TENSOR_TOKENS], b[STATE_WARPS][TENSOR_TOKENS];
  float through[STATE_WARPS];
};

enum {
  C_PLACE = 0,
  B_PLACE = WIDE,
  S_PLACE = 2 * (int)WIDE,
  RB_PLACE = 3 * (int)WIDE, /* and B, in halves */
  B_HALVES_PLACE = (int)RB_PLACE + (int)NARROW,
  W_PLACE = 4 * (int)WIDE,
  X_PLACE = (int)W_PLACE + (int)NARROW, /* and yb, of even steps; those of odd ones */
  BACKWARD_TILES = (int)X_PLACE + 4 * (int)NARROW,
  BACKWARD_FLOATS = BACKWARD_TILES + FLOATS_OF(struct backward_signals) +
                    2 * (FLOATS_OF(struct eight_times) + FLOATS_OF(struct eight_sums) +
                         FLOATS_OF(struct warp_sums))
};

/* Of the shared memory.  `step` numbers the heads of all of the block's chunks. */
struct backward_memory {
  float *all;
  INLINE_DEVICE token_panels C(void) const { return {all + C_PLACE}; }
  INLINE_DEVICE token_panels B(void) const { return {all + B_PLACE}; }
  INLINE_DEVICE token_panels S(void) const { return {all + S_PLACE}; }
  INLINE_DEVICE token_panels Rb(void) const { return {all + RB_PLACE}; } /* of words */
  INLINE_DEVICE token_panels B_halves(void) const { return {all + B_HALVES_PLACE}; }
  INLINE_DEVICE token_panels w(void) const { return {all + W_PLACE}; }
  INLINE_DEVICE token_panels x(int step) const { return {all + X_PLACE + (step & 1) * 2 * NARROW}; }
  INLINE_DEVICE token_panels yb(int step) const { return {x(step).at + NARROW}; }
  INLINE_DEVICE struct backward_signals *signals(void) const
  {
    return (struct backward_signals *)(all + BACKWARD_TILES);
  }
  INLINE_DEVICE struct eight_times *all_times(void) const
  {
    return (struct eight_times *)(signals() + 1);
  }
  INLINE_DEVICE struct eight_sums *all_sums(void) const
  {
    return (struct eight_sums *)(all_times() + 2);
  }
  INLINE_DEVICE struct eight_times *times(int step) const { return all_times() + (step & 1); }
  INLINE_DEVICE struct eight_sums *sums(int step) const { return all_sums() + (step & 1); }
  INLINE_DEVICE struct warp_sums *of_warps(int step) const
  {
    return (struct warp_sums *)(all_sums() + 2) + (step & 1);
  }
  /* By all threads, before anything else: rows from P on, which copies of halves leave alone. */
  INLINE_DEVICE void clear_states(void) const
  {
    for (int i = (int)threadIdx.x; i < WIDE + NARROW; i += BACKWARD_THREADS)
      all[S_PLACE + i] = 0;
  }
  INLINE_DEVICE void make_signals(void) const
  {
    struct backward_signals *s = signals();
    if (threadIdx.x == 0) {
      int multiplying = STATE_WARPS + HEAD_WARPS;
      make_signal(&s->S, WARP_LANES), make_signal(&s->S_read, STATE_WARPS);
      make_signal(&s->Rb, WARP_LANES), make_signal(&s->Rb_read, multiplying);
      for (int i = 0; i < 2; i++)
        make_signal(s->tokens + i, 3 * WARP_LANES), make_signal(s->ended + i, multiplying);
      make_signal(&s->panels, 2 * WARP_LANES), make_signal(&s->panels_read, STATE_WARPS);
      make_signal(&s->rounded, GROUP_LANES);
      make_signal(&s->pairs, GROUP_LANES), make_signal(&s->pairs_read, STATE_WARPS);
    }
    __syncthreads();
  }
};

/* This warp needs no more. */
INLINE_DEVICE void release(uint64_t *signal)
{
  __syncwarp();
  arrive(signal, threadIdx.x % WARP_LANES == 0);
}

/* What all know of the chunks. */
struct backward_grid {
  int chunks, groups, heads, count; /* of a sequence; of a group; of (b,chunk,g) */
  /* Blocks have neighbours: a sequence's first and last chunk have fewer states to read than those
   * between, and all blocks have some of each. */
  INLINE_DEVICE int first_of(int block) const
  {
    int each = count / (int)gridDim.x, more = count - each * (int)gridDim.x;
    return block * each + at_most(block, more);
  }
  INLINE_DEVICE int first(void) const { return first_of((int)blockIdx.x); }
  INLINE_DEVICE int end(void) const { return first_of((int)blockIdx.x + 1); }
};

/* A chunk of a group, index v of (b,chunk,g), and its heads. */
struct group_chunk {
  int bc, c, group, q;
  bool enters, leaves;
  int64_t token;
  INLINE_DEVICE group_chunk(struct ssd_shape d, struct tensor_backward f, struct backward_grid grid,
                            int v)
  {
    bc = v / grid.groups, group = v - bc * grid.groups;
    int b = bc / grid.chunks;
    c = bc - b * grid.chunks;
    q = at_most(d.T - c * d.chunk, (int)ssd_chunk_length(d));
    token = b * d.T + c * d.chunk;
    enters = f.S && !(d.from_zero && c == 0), leaves = c < grid.chunks - 1 || f.S1b;
  }
  INLINE_DEVICE struct chunk head(struct ssd_shape d, struct backward_grid grid, int h) const
  {
    struct chunk k = {};
    k.h = group * grid.heads + h, k.u = bc * d.H + k.h, k.token = token, k.q = q;
    return k;
  }
  INLINE_DEVICE int64_t panel(struct ssd_shape d) const { return token * d.ld + group * d.N; }
};
/* The block's chunks v, and how many it has had before. */
#define FOR_OWN_CHUNKS(v, use, grid) \
  for (int use = 0, v = (grid).first(), own_end = (grid).end(); v < own_end; v++, use++)

/* ---- the warps that copy ---- */

enum { COPIES_S, COPIES_RB, HAS_TIMES }; /* warps; of those of times there are two */

/* Copies of this thread have come; the signal counts all lanes. */
INLINE_DEVICE void await_own_copies(void)
{
  end_batch();
  await_batches<0>();
  show_to_products();
}

/* What all wait for between two chunks comes to L2. */
INLINE_DEVICE void prefetch_panel(struct ssd_shape d, const struct group_chunk &next,
                                  const real *from)
{
  const real *panel = from + next.panel(d);
#pragma unroll 1
  for (int i = (int)threadIdx.x % WARP_LANES; i < next.q * (TENSOR_STATE / PANEL);
       i += WARP_LANES) {
    int row = i / (TENSOR_STATE / PANEL), column = i % (TENSOR_STATE / PANEL) * PANEL;
    if (column < d.N)
      prefetch(panel + row * d.ld + column);
  }
}

/* By one thread: of states in halves a head's, and what lies behind, if `scale`. */
INLINE_DEVICE void copy_halves(struct ssd_shape d, token_panels to, const real *from, float *scale,
                               uint64_t *signal)
{
  int half = (int)d.P * HALF_ROW, bytes = half * (int)sizeof(float);
  int last = scale ? HEAD_WARPS * (int)sizeof(float) : 0;
  copy_part(to.at, from, bytes, signal);
  copy_part(to.at + NARROW / 2, from + half, bytes, signal);
  if (scale)
    copy_part(scale, from + 2 * half, last, signal);
  arrive_with_block(2 * bytes + last, signal);
}

/* By one warp: of each head x and S (FIRST), and C with each chunk's first; or yb, Rb and B. */
template <bool FIRST>
INLINE_DEVICE void copy_heads(struct ssd_shape d, struct tensor_backward f,
                              struct backward_grid grid, struct backward_memory m)
{
  typedef panel_copies<WARP_LANES, TENSOR_TOKENS, TENSOR_STATE> copies;
  typedef panel_copies<WARP_LANES, TENSOR_TOKENS, TENSOR_CHANNELS> copies_of_tokens;
  struct backward_signals *s = m.signals();
  int lane = (int)threadIdx.x % WARP_LANES, step = 0;
  bool halves = !FIRST || f.S_in_halves;
  int64_t apart = d.P * (FIRST ? d.N : (int64_t)HALF_FLOATS); /* of heads */
  token_panels own = FIRST ? m.S() : m.Rb();
  uint64_t *come = FIRST ? &s->S : &s->Rb, *read = FIRST ? &s->S_read : &s->Rb_read;
  FOR_OWN_CHUNKS(v, use, grid)
  {
    struct group_chunk g(d, f, grid, v);
    struct chunk k = g.head(d, grid, 0);
    bool there = FIRST ? g.enters : g.leaves;
    const real *states = (FIRST ? f.S : f.halves) + k.u * apart;
    const real *tokens = FIRST ? x_of(d, k, f.x) : cotangent_tokens(d, k, f.yb);
#pragma unroll 1
    for (int h = 0; h < grid.heads; h++, step++, states += apart, tokens += d.P) {
      int which = step & 1;
      keep_little(lane);
      if (step > 1)
        await_signal(s->ended + which, step / 2 - 1);
      copies_of_tokens(tokens, FIRST ? d.ld : d.H * d.P, (int)d.P, lane)
          .copy_by_eights(FIRST ? m.x(which) : m.yb(which), 0, g.q, place_of_eight);
      if (step > 0)
        await_signal(read, step - 1);
      bool at_once = there && halves && lane == 0; /* whose arrival comes with the copy */
      if (at_once) {
        copy_halves(d, own, states, FIRST ? s->S_scale : NULL, come);
        if (h + 1 < grid.heads)
          prefetch_block(states + apart, (int)d.P * HALF_FLOATS * (int)sizeof(float));
      } else if (there && !halves) {
        copies(states, d.N, (int)d.N, lane).copy_by_eights(own, 0, (int)d.P, [](int a) {
          return a;
        });
      }
      if (h == 0) {
        copies panel((FIRST ? f.C : f.B) + g.panel(d), d.ld, (int)d.N, lane);
        if (use > 0)
          await_signal(&s->panels_read, use - 1);
        panel.copy_by_eights(FIRST ? m.C() : m.B(), 0, g.q, place_of_eight);
      }
      if (h == grid.heads - 1 && v + 1 < own_end)
        prefetch_panel(d, group_chunk(d, f, grid, v + 1), FIRST ? f.C : f.B);
      await_own_copies();
      arrive(s->tokens + which, true);
      if (h == 0)
        arrive(&s->panels, true);
      arrive(come, !at_once);
    }
  }
}

/* A head's times before they are stored, of tokens 2 l and 2 l + 1 of a warp's lane l. */
struct own_eights {
  float2 dt, sum[2], leave, until, since, next;
  float A, last;

  INLINE_DEVICE static float2 two(float x, float y)
  {
    float2 both;
    both.x = x, both.y = y;
    return both;
  }
  INLINE_DEVICE void compute(float2 own_dt, float rate, float scale)
  {
    int lane = (int)threadIdx.x % WARP_LANES, of_eight = lane & ~3;
    double l[2], all;
    dt = own_dt, A = rate;
    add_up_times(dt, A, l, &all);
    double begin = from_lane(l[0], lane ^ of_eight),
           end = from_lane(l[0], lane ^ ((of_eight + 4) & 31));
    auto power = [](double x) { return power_of_2((float)x); };
#pragma unroll
    for (int i = 0; i < 2; i++)
      sum[i] = two((float)l[i], (float)(l[i] - (double)(float)l[i]));
    leave = two(scale * power(all - l[0]), scale * power(all - l[1]));
    until = two(power(l[0]), power(l[1]));
    since = two(power(l[0] - begin), power(l[1] - begin));
    next = two(0, 0);
    if (of_eight < 28)
      next = two(power(end - l[0]), power(end - l[1]));
    last = scale * power(all);
  }
  INLINE_DEVICE void store(struct eight_times *to) const
  {
    int first = (int)threadIdx.x % WARP_LANES * 2;
    to->sum[first] = sum[0], to->sum[first + 1] = sum[1];
    pair_at(to->dt, first) = dt;
    pair_at(to->leave, first) = leave;
    pair_at(to->scaled, first) = two(leave.x * dt.x, leave.y * dt.y);
    pair_at(to->until, first) = until;
    pair_at(to->since, first) = since;
    pair_at(to->next, first) = next;
    pair_at(to->share, first) = two(next.x * dt.x, next.y * dt.y);
    if (first == 0)
      to->A = A, to->last = last;
    __syncwarp();
    int b = lane_row();
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int a = 2 * lane_pair() + i;
      to->gap[b][a] = a > b ? decay_over(to->sum[8 * a], to->sum[8 * b + 8]) : 0;
    }
  }
};

/* What dtb is made of, of what eights have. */
INLINE_DEVICE struct time_parts parts_of_times(const struct eight_times *times,
                                               const struct eight_sums *from,
                                               const struct warp_sums *states, bool enters,
                                               bool leaves)
{
  int first = (int)threadIdx.x % WARP_LANES * 2, eight = lane_row();
  auto own = [&](const float *of) { return *(const float2 *)(of + first); };
  float2 dt = own(times->dt), later = own(from->direct[0]), near = own(from->direct[1]);
  float2 within = own(from->within), z = own(from->own);
  float rows[2] = {}, all = 0, before[8] = {};
  struct time_parts p = {times->A, 0,  {dt.x, dt.y}, {}, {later.x + near.x, later.y + near.y},
                         {},       {}, {z.x, z.y}};
  if (enters && leaves)
#pragma unroll
    for (int part = 0; part < STATE_WARPS; part++)
      p.through += states->through[part];
  p.through *= times->last;
#pragma unroll
  for (int part = 0; part < STATE_WARPS; part++) {
    if (enters)
      add_two(p.a, own(states->a[part]));
    if (leaves)
      add_two(p.b, own(states->b[part]));
  }
  /* before[c]: i after eight c, j before it */
#pragma unroll
  for (int b = 0; b < 7; b++) {
    float2 two = {};
    if (b < eight)
      two = own(from->rows[b]);
    add_two(rows, two);
    all += two.x + two.y;
    before[b + 1] = eight > b + 1 ? all : 0;
  }
  float earlier = sum_over_rows(before);
  earlier += from_lane(earlier, 1);
  earlier += from_lane(earlier, 2);
  float weighed = p.dt[0] * later.x;
  struct sums_around column = sums_among<4>(weighed + p.dt[1] * later.y);
  struct sums_around row = sums_among<4>(rows[0] + rows[1]);
  p.across[0] = within.x + (earlier + column.before) + (row.after + rows[1] + rows[0]);
  p.across[1] = within.y + (earlier + column.before + weighed) + (row.after + rows[1]);
  return p;
}

/* By one warp, which has the heads of even or odd steps: the times of the next, prepared while one
 * goes on, and the cotangents of the times of the last. */
INLINE_DEVICE void prepare_times(struct ssd_shape d, struct tensor_backward f,
                                 struct backward_grid grid, struct backward_memory m, int own)
{
  struct backward_signals *s = m.signals();
  int v = grid.first(), end = grid.end(), h = own, use = 0;
#pragma unroll 1
  for (;; h += 2, use++) {
    keep_little(own);
    for (; h >= grid.heads; h -= grid.heads)
      v++;
    bool there = v < end;
    struct own_eights times = {};
    if (there) {
      struct group_chunk g(d, f, grid, v);
      struct chunk k = g.head(d, grid, h);
      times.compute(own_times(f.dt + k.token * d.H + k.h, d.H, g.q), -exp_real(f.A_log[k.h]),
                    g.leaves ? f.scale[k.u] : 1);
    }
    if (use == 0) {
      if (there)
        times.store(m.times(own)), arrive(s->tokens + own, true);
      else
        break;
      continue;
    }
    keep_little(own), keep_little(v), keep_little(h);
    int last_v = v, last_h = h - 2;
    for (; last_h < 0; last_h += grid.heads)
      last_v--;
    struct group_chunk last(d, f, grid, last_v);
    await_signal(s->ended + own, use - 1);
    struct time_parts parts =
        parts_of_times(m.times(own), m.sums(own), m.of_warps(own), last.enters, last.leaves);
    __syncwarp();
    if (there)
      times.store(m.times(own)), arrive(s->tokens + own, true);
    put_time_cotangents(d, f, last.head(d, grid, last_h), parts);
    if (!there)
      break;
  }
}

/* ---- products ---- */

/* sums = (ADDS: sums +) a b of EIGHTS times 8 terms, a's in registers, b's from eight FIRST on:
 * begun, and done. */
template <bool ADDS, int FIRST, int EIGHTS>
INLINE_DEVICE void begin_product(float (&sums)[PANEL_TILES][4], float (&terms)[EIGHTS][4],
                                 operand right)
{
  settle_sums(terms);
  settle_sums(sums);
  begin_products();
#pragma unroll
  for (int k = 0; k < EIGHTS; k++)
    group_mma(sums, terms[k], terms_behind<TENSOR_TOKENS>(right, FIRST + k), ADDS || k > 0);
  end_products();
}
template <int EIGHTS>
INLINE_DEVICE void finish_product(float (&sums)[PANEL_TILES][4], float (&terms)[EIGHTS][4])
{
  await_products<0>();
  settle_sums(sums);
  settle_sums(terms); /* which were not to change before */
}
template <bool ADDS, int FIRST, int EIGHTS>
INLINE_DEVICE void group_product(float (&sums)[PANEL_TILES][4], float (&terms)[EIGHTS][4],
                                 operand right)
{
  begin_product<ADDS, FIRST>(sums, terms, right);
  finish_product(sums, terms);
}
/* sums = a b, both in shared memory: begun; and done */
template <int TERMS>
INLINE_DEVICE void begin_shared_product(float (&sums)[PANEL_TILES][4], operand left, operand right)
{
  settle_sums(sums);
  begin_products();
#pragma unroll
  for (int k = 0; k < TERMS / 8; k++)
    group_mma(sums, terms_behind<TENSOR_TOKENS>(left, k), terms_behind<TENSOR_TOKENS>(right, k),
              k > 0);
  end_products();
}
/* The same of rows of words of halves. */
INLINE_DEVICE void begin_product_of_halves(float (&sums)[PANEL_TILES][4], operand left,
                                           operand right)
{
  settle_sums(sums);
  begin_products();
#pragma unroll
  for (int k = 0; k < HALF_FLOATS / 8; k++)
    group_mma_of_halves(sums, terms_behind<TENSOR_TOKENS>(left, k),
                        terms_behind<TENSOR_TOKENS>(right, k), k > 0);
  end_products();
}
INLINE_DEVICE void finish_product(float (&sums)[PANEL_TILES][4])
{
  await_products<0>();
  settle_sums(sums);
}

/* dots[2 i + e] of tokens 2 t + e of the eight at 4 half + i, added up over the rows that a warp
 * has */
INLINE_DEVICE void put_dots(const float (&dots)[8], int half, const float *factor, float *to)
{
  int g = lane_row(), token = own_token(4 * half + g / 2) + g % 2;
  to[token] = sum_over_rows(dots) * factor[token];
}

/* ---- the warpgroups that have the states' columns ---- */

/* A lane's two columns n side by side, rows g and g + 8 of left operands.  What lanes read together
 * lies in all banks, in rows t (or t + 4) of eight as well as in rows 2 t (or 2 t + 1): of eight
 * fours, 0 to 3 go with 7 to 4. */
struct own_columns {
  int four, odd;
  INLINE_DEVICE own_columns(void)
  {
    int g = lane_row(), w = own_warp() % HEAD_WARPS, group = own_warp() / HEAD_WARPS;
    four = group * (PANEL / 2) + g / 4 * 8 + (g & 2 ? 7 - w : w);
    odd = g % 2 * 2;
  }
  INLINE_DEVICE int place(int r) const { return token_panels::offset(r, four) + odd; }
  /* Their word of rows of halves */
  INLINE_DEVICE int word(int r) const
  {
    int pair = 2 * four + odd / 2;
    return pair / 32 * (NARROW / 2) + place_in_halves(r, four_of_pair(pair)) + word_of_pair(pair);
  }
};

/* The first of them, of a place in a row below 8 */
INLINE_DEVICE int column_of(int place)
{
  int panel = place / (TENSOR_TOKENS * PANEL), four = (place / 4 ^ place / PANEL) & 7;
  return panel * PANEL + 4 * four + place % 4;
}

/* The same columns in the fourth row behind a place in rows t, and in the next behind rows 2 t. */
INLINE_DEVICE int past_four(int place) { return (place ^ 16) + 4 * PANEL; }
INLINE_DEVICE int past_one(int place) { return (place ^ 4) + PANEL; }

/* Left operands that lie across: terms 8 k + t (which = 0) and 8 k + t + 4 (1) of both columns are
 * what lies at even and odd: numbers, which are rounded; in halves; or times a factor of sixteen
 * rows each. */
template <bool ROUNDS> struct numbers_across {
  const float *even, *odd;
  INLINE_DEVICE float2 operator()(int k, int which) const
  {
    float2 two = *(const float2 *)((which ? odd : even) + k * EIGHT);
    if (ROUNDS)
      two.x = rounded<1>(two.x), two.y = rounded<1>(two.y);
    return two;
  }
};
struct halves_across {
  const float *even, *odd;
  INLINE_DEVICE float2 operator()(int k, int which) const
  {
    return numbers_of((which ? odd : even)[k * EIGHT]);
  }
};
struct scaled_halves_across {
  struct halves_across halves;
  float scale[HEAD_WARPS];
  INLINE_DEVICE float2 operator()(int k, int which) const
  {
    float2 two = halves(k, which);
    two.x *= scale[k / 2], two.y *= scale[k / 2];
    return two;
  }
};

/* sums = (ADDS: sums +) a b, `across` as above.  It comes into the registers by halves; then nobody
 * needs it, which is what loaded() tells. */
template <bool ADDS, class ACROSS, class LOADED>
INLINE_DEVICE void multiply_across(float (&sums)[PANEL_TILES][4], const ACROSS &across,
                                   operand right, LOADED loaded)
{
  enum { HALF = PANEL_TILES / 2 };
  float terms[HALF][4], others[HALF][4];
  auto load = [&](float(&to)[HALF][4], int first) {
#pragma unroll
    for (int k = 0; k < HALF; k++) {
      float2 a = across(first + k, 0), b = across(first + k, 1);
      to[k][0] = a.x, to[k][1] = a.y, to[k][2] = b.x, to[k][3] = b.y;
    }
  };
  load(terms, 0);
  begin_product<ADDS, 0>(sums, terms, right);
  load(others, HALF);
  finish_product(sums, terms);
  loaded();
  group_product<true, HALF>(sums, others, right);
}

/* Of sums = (S' yb')': Cb += e sums; a.  Of (Rb' x')': Bb += r dt sums; b.  even, odd: C, or B, of
 * tokens 2 t and 2 t + 1. */
INLINE_DEVICE void add_products(const float (&sums)[PANEL_TILES][4], const float *even,
                                const float *odd, const float *scale, const float *factor,
                                float (&out)[PANEL_TILES][4], float *dots_to)
{
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float dots[8];
#pragma unroll
    for (int i = 0; i < PAIR_TILES; i++) {
      int n = PAIR_TILES * half + i;
      float2 c0 = *(const float2 *)(even + n * EIGHT), c1 = *(const float2 *)(odd + n * EIGHT);
      float2 e = *(const float2 *)(scale + own_token(n));
      dots[2 * i] = c0.x * sums[n][0] + c0.y * sums[n][2];
      dots[2 * i + 1] = c1.x * sums[n][1] + c1.y * sums[n][3];
      out[n][0] += e.x * sums[n][0], out[n][1] += e.y * sums[n][1];
      out[n][2] += e.x * sums[n][2], out[n][3] += e.y * sums[n][3];
    }
    put_dots(dots, half, factor, dots_to);
  }
}

/* Two columns of the chunk's tokens, where `out` has room for them. */
template <bool ADDS>
INLINE_DEVICE void put_panel(struct ssd_shape d, const struct group_chunk &g, float beta,
                             const float (&sums)[PANEL_TILES][4], int column, real *out)
{
  real *to = out + g.panel(d) + 2 * lane_pair() * d.ld + column;
  int left = column < d.N ? g.q - 2 * lane_pair() : 0;
#pragma unroll
  for (int a = 0; a < PANEL_TILES; a++, to += 8 * d.ld)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      int n = place_of_eight(a);
      float2 two;
      two.x = sums[n][e], two.y = sums[n][2 + e];
      if (8 * a + e < left)
        put_two((float2 *)(to + e * d.ld), ADDS ? beta : 0, two);
    }
}

/* Of <Rb,S> what a warp adds up: its columns. */
template <class STATES>
INLINE_DEVICE void put_part_of_states(const STATES &S, const struct halves_across &Rb, float *to)
{
  float sum[2] = {0, 0};
#pragma unroll
  for (int k = 0; k < PANEL_TILES; k++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float2 s = S(k, i), r = Rb(k, i);
      sum[i] += s.x * r.x + s.y * r.y;
    }
  float all = sum_of_lanes(sum[0] + sum[1]);
  if (threadIdx.x % WARP_LANES == 0)
    to[own_warp()] = all;
}

template <bool ADDS>
INLINE_DEVICE void multiply_states(struct ssd_shape d, struct tensor_backward f,
                                   struct backward_grid grid, struct backward_memory m)
{
  struct backward_signals *s = m.signals();
  struct own_columns own;
  int t = lane_pair(), step = 0;
  int natural = own.place(t), tokens = own.place(2 * t), word = own.word(t); /* rows of eight */
  float *C = m.C().at, *B = m.B().at, *S = m.S().at, *Rb = m.Rb().at;
  float sums[PANEL_TILES][4], Bb[PANEL_TILES][4], Cb[PANEL_TILES][4];
  operand all = operand_at(m.all);
  auto nothing = [] {};
  FOR_OWN_CHUNKS(v, use, grid)
  {
    struct group_chunk g(d, f, grid, v);
    clear_sums(Bb);
    clear_sums(Cb);
    await_signal(&s->panels, use);
#pragma unroll 1
    for (int h = 0; h < grid.heads; h++, step++) {
      int which = step & 1;
      const struct eight_times *times = m.times(which);
      struct warp_sums *to = m.of_warps(which);
      struct halves_across leaving = {Rb + word, Rb + past_four(word)};
      operand x = all.behind(X_PLACE + which * 2 * NARROW);
      auto scaled = [&] {
        const float *of = s->S_scale;
        return scaled_halves_across{{S + word, S + past_four(word)}, {of[0], of[1], of[2], of[3]}};
      };
      await_signal(&s->S, step);
      await_signal(s->tokens + which, step / 2);
      if (g.enters && f.S_in_halves)
        multiply_across<false>(sums, scaled(), x.behind(NARROW), nothing);
      else if (g.enters)
        multiply_across<false>(sums, numbers_across<true>{S + natural, S + past_four(natural)},
                               x.behind(NARROW), nothing);
      if (g.enters)
        add_products(sums, C + tokens, C + past_one(tokens), times->until, times->until, Cb,
                     to->a[own_warp()]);
      await_signal(&s->Rb, step);
      if (g.enters && g.leaves && f.S_in_halves)
        put_part_of_states(scaled(), leaving, to->through);
      else if (g.enters && g.leaves)
        put_part_of_states(numbers_across<false>{S + natural, S + past_four(natural)}, leaving,
                           to->through);
      release(&s->S_read);
      if (g.leaves)
        multiply_across<false>(sums, leaving, x, [&] { release(&s->Rb_read); });
      else
        release(&s->Rb_read);
      await_signal(&s->rounded, use);
      if (g.leaves)
        add_products(sums, B + tokens, B + past_one(tokens), times->scaled, times->leave, Bb,
                     to->b[own_warp()]);
      release(s->ended + which);
    }
    keep_little(natural), keep_little(tokens), keep_little(word);
    await_signal(&s->pairs, 2 * use);
    multiply_across<true>(Bb, numbers_across<true>{C + tokens, C + past_one(tokens)},
                          all.behind(W_PLACE), nothing);
    release(&s->pairs_read);
    await_signal(&s->pairs, 2 * use + 1);
    multiply_across<true>(Cb, numbers_across<true>{B + natural, B + past_four(natural)},
                          all.behind(W_PLACE), nothing);
    release(&s->panels_read); /* and pairs */
    keep_little(natural);
    put_panel<ADDS>(d, g, f.beta, Bb, column_of(natural), f.Bb);
    keep_little(g.q);
    put_panel<ADDS>(d, g, f.beta, Cb, column_of(natural), f.Cb);
  }
}

/* ---- the warpgroup that has pairs of tokens ---- */

enum { W_READ = 1, W_WEIGHED }; /* barriers of it */

/* Where w goes, of eight rows of places 2 w + half: a token's two columns are four terms apart. */
struct panels_of_weights {
  float *w;
  int first; /* this lane's, in the first of them */
  INLINE_DEVICE explicit panels_of_weights(token_panels to)
      : w(to.at),
        first((own_warp() % HEAD_WARPS * 16 + lane_row()) * PANEL + 4 * lane_row() + lane_pair())
  {
  }
  INLINE_DEVICE int row(int half) const { return first + half * EIGHT; }
  INLINE_DEVICE void put(int row, int n, float w0, float w1) const
  {
    float *at = w + n / 4 * (TENSOR_TOKENS * PANEL);
    at[row ^ n % 4 * 8] = rounded<1>(w0), at[row ^ (n % 4 * 8 + 4)] = rounded<1>(w1);
  }
};

/* A lane's numbers of 64 rows of tokens 8 n + 2 t + e, columns 16 w + g and 8 behind it: x and yb
 * transposed as xb' is. */
struct own_numbers {
  int first; /* n = 0, e = 0 */
  INLINE_DEVICE own_numbers(void)
  {
    int column = own_warp() % HEAD_WARPS * 16 + lane_row();
    first = token_panels::offset(2 * lane_pair(), column / 4) + column % 4;
  }
  INLINE_DEVICE float *at(float *from, int n, int e, int half) const
  {
    int place = first ^ half * 8;
    return from + (e ? past_one(place) : place) + n * EIGHT;
  }
};

/* yb' as a left operand: what xb' has of the same tokens. */
INLINE_DEVICE void load_across(struct own_numbers own, float *yb, float (&terms)[PANEL_TILES][4])
{
#pragma unroll
  for (int n = 0; n < PANEL_TILES; n++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      terms[n][i] = *own.at(yb, n, i / 2, i % 2);
}

/* x as a left operand, of the head at `x` of all */
INLINE_DEVICE void load_tokens(const float *all, int x, float (&terms)[PANEL_TILES][4])
{
  int g = lane_row();
  x += (own_warp() % HEAD_WARPS * 16 + g) * PANEL + 4 * g + lane_pair();
#pragma unroll
  for (int k = 0; k < PANEL_TILES; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int panel = k / 4, four = k % 4 * 2 + i / 2;
      terms[k][i] = rounded<1>(all[(x ^ 4 * four) + (panel * TENSOR_TOKENS + i % 2 * 8) * PANEL]);
    }
}

/* A warp's pairs: rows j of two eights, w and 7 - w, at places 2 w and 2 w + 1.  Of columns i in
 * eights u and 7 - u, u = 0 to 3, those of 7 - u come after eight w.  Of the others, u comes after
 * w or 7 - u after 7 - w, but for the gaps, which are 0 where it does not; or they are j's own
 * eights.  All warps go through all of them: who has what is a matter of numbers. */
struct weighing_eights {
  const struct eight_times *times;
  struct eight_sums *sums;
  struct panels_of_weights w;
  int warp;
  float2 own_m[2], own[2]; /* of pairs in j's own eight: m, and times dt */
  float share[2];          /* of rows j */
  INLINE_DEVICE int eight(int half) const { return half ? 7 - warp : warp; }

  /* What does not wait for z'. */
  INLINE_DEVICE weighing_eights(const struct eight_times *of, struct eight_sums *to,
                                struct panels_of_weights weights, int own_warp)
      : times(of), sums(to), w(weights), warp(own_warp)
  {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int j = 8 * eight(half) + lane_row();
      float dt = times->dt[j];
      own_m[half] = own_decays(half);
      share[half] = times->share[j];
      own[half].x = own_m[half].x * dt, own[half].y = own_m[half].y * dt;
    }
  }

  /* m of pairs in j's own eight */
  INLINE_DEVICE float2 own_decays(int half) const
  {
    int g = lane_row(), t = lane_pair(), first = 8 * eight(half), past = 2 * t - g; /* i - j */
    float2 at_j = times->sum[first + g], at_0 = times->sum[first + 2 * t], m;
    float2 at_1 = times->sum[first + 2 * t + 1];
    m.x = past >= 0 ? decay_over(at_0, at_j) : 0, m.y = past >= -1 ? decay_over(at_1, at_j) : 0;
    return m;
  }

  /* across_k in j's own eight: K is summed along i from k on, then over j < k. */
  INLINE_DEVICE void add_up_own(float K0, float K1, float *across) const
  {
    int t = lane_pair(), past = 2 * t - lane_row();
    float all = K0 + K1, other = from_lane(all, 1), after = t & 1 ? 0 : other;
    other = from_lane(all + other, 2);
    after += (t & 2 ? 0 : other) + K1;
    across[0] = past > 0 ? after + K0 : 0, across[1] = past >= 0 ? after : 0;
  }

  /* v[i] of the four lanes of a row: of kind i % 2, rows g of eight(i / 2) */
  INLINE_DEVICE void store_direct(const float (&v)[4]) const
  {
    bool second = lane_pair() & 1, upper = lane_pair() & 2;
    float a = (second ? v[1] : v[0]) + from_lane(second ? v[0] : v[1], 1);
    float b = (second ? v[3] : v[2]) + from_lane(second ? v[2] : v[3], 1);
    float mine = (upper ? b : a) + from_lane(upper ? a : b, 2);
    sums->direct[lane_pair() & 1][8 * eight(lane_pair() / 2) + lane_row()] = mine;
  }

  INLINE_DEVICE void weigh(const float (&scores)[PANEL_TILES][4], const float (&z)[PANEL_TILES][4],
                           float (&pairs)[PANEL_TILES][4]) const
  {
    int g = lane_row(), t = lane_pair();
    float direct[4] = {0, 0, 0, 0}, always[8], either[8], across[4];
    float own_z[2][2], own_product[2][2];
    float4 near = *(const float4 *)times->gap[warp], far = *(const float4 *)(times->gap[warp] + 4);
    float4 other = *(const float4 *)(times->gap[7 - warp] + 4);
    float gap[2][8] = {{near.x, far.w, near.y, far.z, near.z, far.y, near.w, far.x},
                       {0, other.w, 0, other.z, 0, other.y, 0, other.x}}; /* by places */
#pragma unroll
    for (int n = 0; n < PANEL_TILES; n++) {
      float2 since = *(const float2 *)(times->since + own_token(n));
      const float after[2] = {since.x, since.y};
#pragma unroll
      for (int half = 0; half <= n % 2; half++) {
        float both = gap[half][n] * share[half], part = 0, weight[2];
        bool here = n / 2 == warp && half == n % 2; /* j's own eight */
#pragma unroll
        for (int e = 0; e < 2; e++) {
          int i = 2 * half + e;
          float product = scores[n][i] * z[n][i], later = after[e] * both;
          float pair = here ? (e ? own[half].y : own[half].x) : later;
          weight[e] = scores[n][i] * pair;
          pairs[n][i] += pair * z[n][i];
          part += after[e] * product;
          if (half == n % 2) {
            own_product[half][e] = n < 2 || here ? product : own_product[half][e];
            own_z[half][e] = n < 2 || here ? z[n][i] : own_z[half][e];
          }
          if (half == 1)
            either[n - 1 + e] += later * product;
          else
            (n % 2 ? always : either)[n - n % 2 + e] = later * product;
        }
        direct[2 * half] += gap[half][n] * part;
        w.put(w.row(half), n, weight[0], weight[1]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int j = 8 * eight(half) + g;
      const float(&product)[2] = own_product[half];
      direct[2 * half] *= times->next[j];
      direct[2 * half + 1] = own_m[half].x * product[0] + own_m[half].y * product[1];
      add_up_own(own[half].x * product[0], own[half].y * product[1], across + 2 * half);
      if (t == g / 2)
        sums->own[j] = g % 2 ? own_z[half][1] : own_z[half][0];
    }
    store_direct(direct);
    float within = sum_over_rows(across);
    if (g % 2 == 0)
      sums->within[8 * eight(g / 4) + 2 * t + g / 2 % 2] = within;
    int u = g / 2, of_row = 2 * t + g % 2;
    sums->rows[warp][8 * (7 - u) + of_row] = sum_over_rows(always);
    float row = sum_over_rows(either);
    if (u > warp)
      sums->rows[warp][8 * u + of_row] = row;
    else if (u < warp)
      sums->rows[7 - warp][8 * (7 - u) + of_row] = row;
  }
};

/* Of a lane's channels p and p + 8 of a chunk's heads, one after the other: D, and where xb goes of
 * token 2 t. */
struct own_channels {
  const real *D;
  real *xb;
  int there, left[2]; /* of the two channels; of tokens from 2 t on, of each channel */
  INLINE_DEVICE own_channels(struct ssd_shape d, struct tensor_backward f, struct group_chunk g,
                             struct chunk first)
  {
    int p = own_warp() % HEAD_WARPS * 16 + lane_row(), tokens = g.q - 2 * lane_pair();
    there = at_most(((int)d.P - p + 7) / 8, 2);
    left[0] = there > 0 ? tokens : 0, left[1] = there > 1 ? tokens : 0;
    D = f.D + (d.D_has_hdim ? first.h * d.P + p : first.h);
    xb = f.xb + (g.token + 2 * lane_pair()) * d.ld + first.h * d.P + p;
  }
  INLINE_DEVICE void load_skips(struct ssd_shape d, float (&skips)[2]) const
  {
    skips[0] = left[0] > 0 ? D[0] : 0, skips[1] = left[1] > 0 ? D[d.D_has_hdim ? 8 : 0] : 0;
  }
  INLINE_DEVICE void step(struct ssd_shape d) { D += d.D_has_hdim ? d.P : 1, xb += d.P; }
  /* f(sum, address) of those that are there */
  template <class F>
  INLINE_DEVICE void for_numbers(struct ssd_shape d, float (&sums)[PANEL_TILES][4], F f) const
  {
    real *even = xb, *odd = xb + d.ld;
    int64_t eight = 8 * d.ld;
    keep_little(eight);
#pragma unroll
    for (int a = 0; a < PANEL_TILES; a++, even += eight, odd += eight)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (8 * a + i % 2 < left[i / 2])
          f(sums[place_of_eight(a)][i], (i % 2 ? odd : even) + i / 2 * 8);
  }
};

/* xb' *= factor r dt */
INLINE_DEVICE void scale_leaving(const float *scaled, float factor, float (&xb)[PANEL_TILES][4])
{
#pragma unroll
  for (int n = 0; n < PANEL_TILES; n++) {
    float2 s = *(const float2 *)(scaled + own_token(n));
    s.x *= factor, s.y *= factor;
    xb[n][0] *= s.x, xb[n][1] *= s.y, xb[n][2] *= s.x, xb[n][3] *= s.y;
  }
}

/* Before a chunk's first product: B rounded, and in halves, whose half_scale.from is returned; and
 * w zero where no weights go. */
INLINE_DEVICE float prepare_panels(struct backward_memory m)
{
  int thread = (int)threadIdx.x % GROUP_LANES;
  float4 *B = (float4 *)m.B().at, *w = (float4 *)m.w().at, zeros = {};
  float *most = m.signals()->most, own = 0;
#pragma unroll(4)
  for (int i = thread; i < WIDE / 4; i += GROUP_LANES) {
    float4 four = B[i];
    four.x = rounded<1>(four.x), four.y = rounded<1>(four.y);
    four.z = rounded<1>(four.z), four.w = rounded<1>(four.w);
    own =
        fmaxf(fmaxf(fmaxf(own, fabsf(four.x)), fabsf(four.y)), fmaxf(fabsf(four.z), fabsf(four.w)));
    B[i] = four;
  }
  for (int i = thread; i < NARROW / 4; i += GROUP_LANES)
    w[i] = zeros;
  own = largest_of_lanes(own);
  if (thread % WARP_LANES == 0)
    most[thread / WARP_LANES] = own;
  await_barrier<W_READ, GROUP_LANES>();
  struct half_scale scale(fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])));
#pragma unroll(4)
  for (int i = thread; i < WIDE / 4; i += GROUP_LANES) {
    int row = i / 8 % TENSOR_TOKENS, pair = (i / (8 * TENSOR_TOKENS) * 8 + ((i ^ row) & 7)) * 2;
    float4 four = B[i];
    auto put = [&](int of, float x, float y) {
      m.B_halves()
          .at[of / 32 * (NARROW / 2) + place_in_halves(row, four_of_pair(of)) + word_of_pair(of)] =
          halves_of(scale.to * x, scale.to * y);
    };
    put(pair, four.x, four.y);
    put(pair + 1, four.z, four.w);
  }
  return scale.from;
}

/* pairs' in the place of w, and when it has been read, pairs. */
INLINE_DEVICE void show_pairs(struct own_numbers own, struct backward_memory m,
                              const float (&pairs)[PANEL_TILES][4], int use)
{
  struct backward_signals *s = m.signals();
  struct panels_of_weights transposed(m.w());
#pragma unroll
  for (int n = 0; n < PANEL_TILES; n++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      transposed.put(transposed.row(half), n, pairs[n][2 * half], pairs[n][2 * half + 1]);
  show_to_products();
  arrive(&s->pairs, true);
  await_signal(&s->pairs_read, use);
#pragma unroll
  for (int n = 0; n < PANEL_TILES; n++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      *own.at(m.w().at, n, i % 2, i / 2) = rounded<1>(pairs[n][i]);
  show_to_products();
  arrive(&s->pairs, true);
}

template <bool ADDS>
INLINE_DEVICE void multiply_tokens(struct ssd_shape d, struct tensor_backward f,
                                   struct backward_grid grid, struct backward_memory m)
{
  struct backward_signals *s = m.signals();
  int w = own_warp() % HEAD_WARPS, step = 0;
  struct own_numbers own;
  operand all = operand_at(m.all);
  FOR_OWN_CHUNKS(v, use, grid)
  {
    struct group_chunk g(d, f, grid, v);
    struct own_channels channels(d, f, g, g.head(d, grid, 0));
    float scores[PANEL_TILES][4], pairs[PANEL_TILES][4];
    clear_sums(pairs);
    clear_sums(scores);
    await_signal(&s->panels, use);
    float B_scale = prepare_panels(m);
    show_to_products();
    arrive(&s->rounded, true);
    await_barrier<W_WEIGHED, GROUP_LANES>();
    begin_shared_product<TENSOR_STATE>(scores, all.behind(B_PLACE), all.behind(C_PLACE));
    finish_product(scores);
#pragma unroll 1
    for (int h = 0; h < grid.heads; h++, step++) {
      int which = step & 1;
      float z[PANEL_TILES][4], xb[PANEL_TILES][4], terms[PANEL_TILES][4], D[2];
      keep_little(w);
      await_signal(s->tokens + which, step / 2);
      int x = X_PLACE + which * 2 * NARROW;
      load_tokens(m.all, x, terms);
      begin_product<false, 0>(z, terms, all.behind(x + NARROW));
      struct weighing_eights own_pairs(m.times(which), m.sums(which), panels_of_weights(m.w()), w);
      finish_product(z, terms);
      await_barrier<W_READ, GROUP_LANES>();
      own_pairs.weigh(scores, z, pairs);
      show_to_products();
      await_barrier<W_WEIGHED, GROUP_LANES>();
      channels.load_skips(d, D);
      clear_sums(xb);
      await_signal(&s->Rb, step);
      if (g.leaves)
        begin_product_of_halves(xb, all.behind(RB_PLACE), all.behind(B_HALVES_PLACE));
      load_across(own, m.yb(which).at, terms);
      if (g.leaves) {
        finish_product(xb);
        scale_leaving(m.times(which)->scaled, B_scale, xb);
      }
      release(&s->Rb_read);
      group_product<true, 0>(xb, terms, all.behind(W_PLACE));
#pragma unroll
      for (int n = 0; n < PANEL_TILES; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          xb[n][i] += D[i / 2] * terms[n][i % 2 * 2 + i / 2];
      release(s->ended + which);
      if (ADDS)
        channels.for_numbers(d, xb, [&](float &own, const real *at) { own += f.beta * *at; });
      channels.for_numbers(d, xb, [&](float &own, real *at) { *at = own; });
      channels.step(d);
    }
    await_barrier<W_READ, GROUP_LANES>();
    show_pairs(own, m, pairs, use);
  }
}

/* ADDS: beta is not 0 */
template <bool ADDS>
static __global__ void __launch_bounds__(BACKWARD_THREADS, 1)
    warpgroup_backward(struct ssd_shape d, struct tensor_backward f, struct backward_grid grid)
{
#if HAS_WARPGROUPS
  typedef warpgroup_registers<144, 144, 160, 64> registers;
  SHARED_FLOATS(memory);
  struct backward_memory m = {memory};
  if (d.P < TENSOR_CHANNELS)
    m.clear_states();
  m.make_signals();
  int group = own_warp() / HEAD_WARPS, warp = own_warp() % HEAD_WARPS;
  if (group < STATE_GROUPS) {
    registers::begin<144>();
    multiply_states<ADDS>(d, f, grid, m);
  } else if (group == STATE_GROUPS) {
    registers::begin<160>();
    multiply_tokens<ADDS>(d, f, grid, m);
  } else {
    registers::begin<64>();
    if (warp == COPIES_S)
      copy_heads<true>(d, f, grid, m);
    else if (warp == COPIES_RB)
      copy_heads<false>(d, f, grid, m);
    else
      prepare_times(d, f, grid, m, warp - HAS_TIMES);
  }
#endif
}

/* ---- on the host ---- */

static void vjp_on_tensor_cores(stream st, struct ssd_shape d, struct tensor_backward f,
                                real *A_logb, real *Db)
{
  int64_t BC = d.B * ssd_chunks(d), count = BC * d.G;
  struct backward_grid grid = {(int)ssd_chunks(d), (int)d.G, (int)(d.H / d.G), (int)count};
  bool groups = f.xb && f.Bb && f.Cb && count <= INT32_MAX / 2 && halves_fit(d) &&
                aligned(f.halves) && has_warpgroups(st, BACKWARD_FLOATS);
  f.S_in_halves = f.S && keeps_halves(st, d);
  CHECK(groups || !f.S_in_halves);
  if (ssd_chunks(d) > 1 || f.S1b || f.S0b) {
    if (groups)
      LAUNCH_SHARED(st, d.B * d.H, HEAD_THREADS, floats(COTANGENT_FLOATS),
                    (chunk_state_cotangents<1, true>), d, f);
    else
      LAUNCH_TENSOR(st, d.B * d.H, HEAD_THREADS, COTANGENT_FLOATS, chunk_state_cotangents, d, f);
  }
  int64_t blocks = count < PROCESSORS ? count : PROCESSORS;
  if (groups && f.beta != 0)
    LAUNCH_SHARED(st, blocks, BACKWARD_THREADS, floats(BACKWARD_FLOATS), warpgroup_backward<true>,
                  d, f, grid);
  else if (groups)
    LAUNCH_SHARED(st, blocks, BACKWARD_THREADS, floats(BACKWARD_FLOATS), warpgroup_backward<false>,
                  d, f, grid);
  else
    LAUNCH_TENSOR(st, count, GROUP_THREADS, GROUP_FLOATS, tensor_backward_all, d, f);
  if (Db && d.D_has_hdim) {
    LAUNCH(st, d.H * lane_blocks(d.P), add_skip_channels, d, f.x, f.yb, Db);
    Db = NULL;
  }
  if (A_logb && Db)
    LAUNCH_SUMS(st, 2 * strips(d.H), BC, add_rows, BC, d.H, f.A_part, A_logb, f.D_part, Db);
  else if (A_logb || Db)
    LAUNCH_SUMS(st, strips(d.H), BC, add_rows, BC, d.H, A_logb ? f.A_part : f.D_part,
                A_logb ? A_logb : Db, NULL, NULL);
}
#endif
