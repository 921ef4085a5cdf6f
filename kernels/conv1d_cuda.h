/* conv1d_cuda.h: conv1d of four taps on a GPU; every other goes by conv1d.c's own kernels.
 *
 * A thread owns V channels (a pack, a pair or one) and walks through a run of one sequence's
 * tokens.  The last inputs stay in registers, and so do the cotangents of inputs that later tokens
 * still add to: of x, yb and xb each number is moved once, but for three tokens where a run meets
 * the next. BATCH tokens are loaded before the first of them is worked on.
 *
 * The sums over tokens: in real over SUM_TOKENS of them, then in wide, in shared memory, over the
 * runs of a thread; those of a block's warps together are a part, and add_parts adds the parts up.
 */
#ifndef KERNELS_CONV1D_CUDA_H
#define KERNELS_CONV1D_CUDA_H
#include "core/packs.h"

enum { TAPS = 4, BATCH = 4, SUMS = TAPS + 1 /* of a channel */, SUM_TOKENS = 64 };
/* Blocks on a processor: as many as have registers for a batch that is on its way.  Of the VJP's
 * state there is room for two channels a thread. */
enum { RUN_THREADS = 128, RUN_BLOCKS = 5, RUN_WARPS = 132 * WARP, PAIR = 8 / sizeof(real) };

/* Runs of `length` tokens: per_sequence for each sequence, `count` in all. */
struct runs {
  int length, per_sequence, count;
};

/* As long as they may be where there are about RUN_WARPS warps of `groups` threads a run. */
static struct runs runs_of(struct conv1d_shape d, int64_t groups, int longest)
{
  struct runs r;
  for (r.length = longest;; r.length /= 2) {
    r.per_sequence = (int)((d.T + r.length - 1) / r.length);
    if (r.length <= 16 || d.B * r.per_sequence * groups >= (int64_t)RUN_WARPS * WARP)
      break;
  }
  r.count = (int)(d.B * r.per_sequence);
  return r;
}

/* Whether indices of tokens, and of V channels' threads over all runs, fit an int. */
static bool walks(struct conv1d_shape d, const real *x)
{
  return d.W == TAPS && x && d.T <= INT32_MAX / 2 && d.B * (d.T / 16 + 1) * d.C <= INT32_MAX;
}

template <int V> struct channels {
  pack<V> tap[TAPS], bias;
};

template <int V> INLINE_DEVICE channels<V> channels_of(int64_t c, const real *w, const real *b)
{
  channels<V> s;
#pragma unroll
  for (int l = 0; l < V; l++) {
    s.bias.at[l] = b ? b[c + l] : 0;
#pragma unroll
    for (int k = 0; k < TAPS; k++)
      s.tap[k].at[l] = w[(c + l) * TAPS + k];
  }
  return s;
}

/* The inputs of tokens t-3..t-1. */
template <int V> struct window {
  pack<V> at[TAPS - 1];
};

/* x (T,ld) from channel c on; state (C,TAPS), or NULL: zeros */
template <int V>
INLINE_DEVICE window<V> window_before(int t, int64_t c, int64_t ld, const real *x,
                                      const real *state)
{
  window<V> past;
#pragma unroll
  for (int k = 0; k < TAPS - 1; k++) {
    int from = t - (TAPS - 1) + k;
    if (from >= 0)
      past.at[k] = load_pack<V>(x + from * ld);
    else
#pragma unroll
      for (int l = 0; l < V; l++)
        past.at[k].at[l] = state ? state[(c + l) * TAPS + TAPS + from] : 0;
  }
  return past;
}

template <int V> INLINE_DEVICE void move_on(window<V> *past, pack<V> x)
{
#pragma unroll
  for (int k = 0; k < TAPS - 2; k++)
    past->at[k] = past->at[k + 1];
  past->at[TAPS - 2] = x;
}

/* v_t of lane l */
template <int V>
INLINE_DEVICE real preactivation_of(const channels<V> &s, const window<V> &past, const pack<V> &x,
                                    int l)
{
  real v = s.bias.at[l];
#pragma unroll
  for (int k = 0; k < TAPS - 1; k++)
    v = add_product(v, s.tap[k].at[l], past.at[k].at[l]);
  return add_product(v, s.tap[TAPS - 1].at[l], x.at[l]);
}

/* N rows that are ld apart; x moves behind them. */
template <int V, int N> INLINE_DEVICE void load_rows(const real *&x, int64_t ld, pack<V> (&out)[N])
{
#pragma unroll
  for (int k = 0; k < N; k++, x += ld)
    out[k] = load_pack<V>(x);
}

/* ---- forward ---- */

/* N tokens: in and out move behind them. */
template <int V, int N>
INLINE_DEVICE void convolve_tokens(const channels<V> &s, window<V> *past, int64_t ld, int64_t C,
                                   const real *&in, real *&out)
{
  pack<V> x[N], y;
  load_rows<V, N>(in, ld, x);
#pragma unroll
  for (int k = 0; k < N; k++, out += C) {
#pragma unroll
    for (int l = 0; l < V; l++)
      y.at[l] = silu(preactivation_of<V>(s, *past, x[k], l));
    store_pack(y, out);
    move_on<V>(past, x[k]);
  }
}

template <int V>
static __global__ void __launch_bounds__(RUN_THREADS, RUN_BLOCKS)
    walk_forward(struct conv1d_shape d, struct runs r, const real *x, const real *w, const real *b,
                 const int32_t *row, const real *state0, real *y)
{
  int groups = (int)(d.C / V);
  FOR_EACH (i, (int64_t)r.count * groups) {
    int run = (int)i / groups, c = ((int)i - run * groups) * V;
    int seq = run / r.per_sequence, first = (run - seq * r.per_sequence) * r.length;
    int left = first + r.length < d.T ? r.length : (int)d.T - first;
    const real *xs = x + seq * d.T * d.ld + c, *in = xs + first * d.ld;
    real *out = y + (seq * d.T + first) * d.C + c;
    channels<V> s = channels_of<V>(c, w, b);
    int64_t carried = row ? row[seq] : seq;
    window<V> past =
        window_before<V>(first, c, d.ld, xs, state0 ? state0 + carried * d.C * TAPS : NULL);
    for (; left >= BATCH; left -= BATCH)
      convolve_tokens<V, BATCH>(s, &past, d.ld, d.C, in, out);
    for (; left > 0; left--)
      convolve_tokens<V, 1>(s, &past, d.ld, d.C, in, out);
  }
}

template <int V>
static void launch_forward(stream st, struct conv1d_shape d, const real *x, const real *w,
                           const real *b, const int32_t *row, const real *state0, real *y)
{
  struct runs r = runs_of(d, d.C / V, 64);
  LAUNCH(st, r.count * (d.C / V), walk_forward<V>, d, r, x, w, b, row, state0, y);
}

/* Whether it has been done. */
static bool convolved_by_walks(stream st, struct conv1d_shape d, const real *x, const real *w,
                               const real *b, const int32_t *row, const real *state0, real *y)
{
  if (!walks(d, x))
    return false;
  if (in_packs(d.C | d.ld, x) && in_packs(d.C, y))
    launch_forward<PACK>(st, d, x, w, b, row, state0, y);
  else
    launch_forward<1>(st, d, x, w, b, row, state0, y);
  return true;
}

/* ---- VJP ---- */

/* What the blocks have added up: (parts,C,SUMS). */
enum { PARTS_ROOM = WARP << 15 };
static __device__ wide parts_of_sums[PARTS_ROOM];

/* A thread's sums over its tokens, and where they are added up. */
template <int V> struct token_sums {
  pack<V> tap[TAPS], bias;
};

template <int V> INLINE_DEVICE void clear_token_sums(token_sums<V> *s)
{
#pragma unroll
  for (int l = 0; l < V; l++) {
    s->bias.at[l] = 0;
#pragma unroll
    for (int k = 0; k < TAPS; k++)
      s->tap[k].at[l] = 0;
  }
}

/* volatile: one after the other, as there are no registers to read them all first */
template <int V>
INLINE_DEVICE void widen_token_sums(token_sums<V> *s, volatile wide (*all)[RUN_THREADS])
{
#pragma unroll
  for (int l = 0; l < V; l++) {
#pragma unroll
    for (int k = 0; k < TAPS; k++)
      all[k * V + l][threadIdx.x] = all[k * V + l][threadIdx.x] + (wide)s->tap[k].at[l];
    all[TAPS * V + l][threadIdx.x] = all[TAPS * V + l][threadIdx.x] + (wide)s->bias.at[l];
  }
  clear_token_sums<V>(s);
}

/* A thread's walk through tokens first..end-1 and the TAPS - 1 behind them that read their inputs:
 * what of each array comes next.  x and yb are at token t; xb, whose cotangent will be complete
 * next, at token t - 3.  stateb (C,TAPS), or NULL: from the channels on. */
template <int V> struct walk {
  int t, first, end;
  int64_t ld, C;
  const real *x, *yb;
  real beta, *xb, *stateb;
  const real *more[2];     /* at xb's place */
  bool gives;              /* into xb */
  window<V> past, waiting; /* inputs t-3..t-1, and their cotangents so far */
};

/* What else goes into a cotangent: what was at xb, and with ALL of them two more arrays. */
enum { NOTHING, OLD, ALL };
template <int V> struct others {
  pack<V> old, more[2];
};

/* Of the input k tokens from xb on. */
template <int V, int READS> INLINE_DEVICE others<V> load_others(const walk<V> &a, int k)
{
  others<V> o = {};
  if (READS == OLD || (READS == ALL && a.beta != 0))
    o.old = load_pack<V>(a.xb + k * a.ld);
#pragma unroll
  for (int i = 0; READS == ALL && i < 2; i++)
    if (a.more[i])
      o.more[i] = load_pack<V>(a.more[i] + k * a.ld);
  return o;
}

template <int V, int READS> INLINE_DEVICE void step_outputs(walk<V> *a)
{
  a->xb += a->ld;
#pragma unroll
  for (int i = 0; READS == ALL && i < 2; i++)
    if (a->more[i])
      a->more[i] += a->ld;
}

/* The cotangent of the input at xb is complete. */
template <int V, int READS>
INLINE_DEVICE void give_input(walk<V> *a, pack<V> given, const others<V> &o)
{
#pragma unroll
  for (int l = 0; l < V; l++) {
    if (READS != NOTHING)
      given.at[l] = add_product(given.at[l], a->beta, o.old.at[l]);
    if (READS == ALL)
      given.at[l] = given.at[l] + o.more[0].at[l] + o.more[1].at[l];
  }
  if (a->gives)
    store_pack(given, a->xb);
}

/* And that of an input before the first token: t < 0. */
template <int V> INLINE_DEVICE void give_past(walk<V> *a, int t, const pack<V> &given)
{
#pragma unroll
  for (int l = 0; a->stateb && l < V; l++)
    a->stateb[l * TAPS + TAPS + t] += given.at[l];
}

/* vb_t, and what it adds to the inputs' cotangents, of which that of input t - 3 is now complete.
 */
template <int V>
INLINE_DEVICE pack<V> pull_back(const channels<V> &s, walk<V> *a, const pack<V> &x,
                                const pack<V> &yb, pack<V> *given)
{
  pack<V> vb;
#pragma unroll
  for (int l = 0; l < V; l++) {
    vb.at[l] = yb.at[l] * silu_derivative(preactivation_of<V>(s, a->past, x, l));
    given->at[l] = add_product(a->waiting.at[0].at[l], s.tap[0].at[l], vb.at[l]);
#pragma unroll
    for (int j = 1; j < TAPS - 1; j++)
      a->waiting.at[j - 1].at[l] = add_product(a->waiting.at[j].at[l], s.tap[j].at[l], vb.at[l]);
    a->waiting.at[TAPS - 2].at[l] = s.tap[TAPS - 1].at[l] * vb.at[l];
  }
  return vb;
}

/* sums += vb_t and vb_t x_{t-3+k} */
template <int V>
INLINE_DEVICE void sum_token(const window<V> &past, const pack<V> &x, const pack<V> &vb,
                             token_sums<V> *sums)
{
#pragma unroll
  for (int l = 0; l < V; l++) {
    sums->bias.at[l] += vb.at[l];
#pragma unroll
    for (int j = 0; j < TAPS - 1; j++)
      sums->tap[j].at[l] = add_product(sums->tap[j].at[l], vb.at[l], past.at[j].at[l]);
    sums->tap[TAPS - 1].at[l] = add_product(sums->tap[TAPS - 1].at[l], vb.at[l], x.at[l]);
  }
}

/* BATCH tokens of a run: its first, or later ones. */
template <int V, bool FIRST, bool SUM, int READS>
INLINE_DEVICE void give_batch(const channels<V> &s, walk<V> *a, token_sums<V> *sums)
{
  pack<V> x[BATCH], yb[BATCH], given;
  others<V> o[BATCH] = {};
  load_rows<V, BATCH>(a->x, a->ld, x);
  load_rows<V, BATCH>(a->yb, a->C, yb);
#pragma unroll
  for (int k = FIRST ? TAPS - 1 : 0; k < BATCH; k++)
    o[k] = load_others<V, READS>(*a, k);
#pragma unroll
  for (int k = 0; k < BATCH; k++, step_outputs<V, READS>(a)) {
    pack<V> vb = pull_back<V>(s, a, x[k], yb[k], &given);
    if (!FIRST || k >= TAPS - 1)
      give_input<V, READS>(a, given, o[k]);
    else if (a->first == 0)
      give_past<V>(a, k - (TAPS - 1), given);
    if (SUM)
      sum_token<V>(a->past, x[k], vb, sums);
    move_on<V>(&a->past, x[k]);
  }
  a->t += BATCH;
}

/* The cotangent of input t - 3 is complete, whichever it is. */
template <int V, int READS> INLINE_DEVICE void give_any(walk<V> *a, const pack<V> &given)
{
  int t = a->t - (TAPS - 1);
  if (t >= a->first)
    give_input<V, READS>(a, given, load_others<V, READS>(*a, 0));
  else if (t < 0)
    give_past<V>(a, t, given);
  step_outputs<V, READS>(a);
  a->t++;
}

template <int V, bool SUM, int READS>
INLINE_DEVICE void walk_run(int T, const channels<V> &s, walk<V> *a, wide (*all)[RUN_THREADS])
{
  int stop = a->end + TAPS - 1 < T ? a->end + TAPS - 1 : T;
  token_sums<V> sums;
  clear_token_sums<V>(&sums);
  if (a->t + BATCH <= a->end)
    give_batch<V, true, SUM, READS>(s, a, &sums);
  while (a->t + BATCH <= a->end) {
    give_batch<V, false, SUM, READS>(s, a, &sums);
    if (SUM && (a->t - a->first) % SUM_TOKENS == 0)
      widen_token_sums<V>(&sums, all);
  }
  while (a->t < stop) {
    pack<V> x[1], yb[1], given;
    load_rows<V, 1>(a->x, a->ld, x);
    load_rows<V, 1>(a->yb, a->C, yb);
    pack<V> vb = pull_back<V>(s, a, x[0], yb[0], &given);
    if (SUM && a->t < a->end)
      sum_token<V>(a->past, x[0], vb, &sums);
    move_on<V>(&a->past, x[0]);
    give_any<V, READS>(a, given);
  }
  if (SUM)
    widen_token_sums<V>(&sums, all);
  while (a->t - (TAPS - 1) < a->end) { /* the last inputs of all have no later tokens */
    give_any<V, READS>(a, a->waiting.at[0]);
    move_on<V>(&a->waiting, a->waiting.at[0]);
  }
}

/* Block i of (parts, strips of STRIP threads' channels): the runs of its part, one a warp. */
template <int V, bool SUM, int READS>
static __global__ void __launch_bounds__(RUN_THREADS, READS == ALL ? RUN_BLOCKS - 1 : RUN_BLOCKS)
    walk_runs(struct conv1d_shape d, struct runs r, int parts, int strips, struct cotangents a)
{
  __shared__ wide all[SUM ? SUMS * V : 1][RUN_THREADS];
  int warps = row_parts(), warp = own_part(), me = own_column();
  for (int i = blockIdx.x; i < parts * strips; i += gridDim.x) {
    int part = i / strips, first_channel = (i - part * strips) * STRIP * V;
    int64_t c = first_channel + me * V;
    for (int k = 0; SUM && k < SUMS * V; k++)
      all[k][threadIdx.x] = 0;
    if (c < d.C) {
      channels<V> s = channels_of<V>(c, a.w, a.b);
      for (int run = part * warps + warp; run < r.count; run += parts * warps) {
        int64_t seq = run / r.per_sequence, state = seq * d.C * TAPS;
        walk<V> at;
        at.t = at.first = (int)(run - seq * r.per_sequence) * r.length;
        at.end = at.first + r.length < d.T ? at.first + r.length : (int)d.T;
        at.ld = d.ld, at.C = d.C, at.beta = a.beta;
        const real *x = a.x + seq * d.T * d.ld + c;
        at.past = window_before<V>(at.t, c, d.ld, x, a.state0 ? a.state0 + state : NULL);
        at.waiting = {};
        at.x = x + at.t * d.ld;
        at.yb = a.yb + (seq * d.T + at.t) * d.C + c;
        at.gives = a.xb != NULL;
        int64_t to = (seq * d.T + at.t - (TAPS - 1)) * d.ld + c;
        at.xb = a.xb + to;
        for (int k = 0; k < 2; k++)
          at.more[k] = a.more[k] ? a.more[k] + to : NULL;
        at.stateb = a.state0b ? a.state0b + state + c * TAPS : NULL;
        walk_run<V, SUM, READS>((int)d.T, s, &at, all);
      }
    }
    if (!SUM)
      continue;
    __syncthreads();
    for (int j = threadIdx.x; j < STRIP * V * SUMS; j += blockDim.x) {
      int channel = j / SUMS, k = j - channel * SUMS, owner = channel / V;
      wide sum = 0;
      for (int from = 0; from < warps; from++)
        sum += all[k * V + channel - owner * V][from * STRIP + owner];
      if (first_channel + channel < d.C)
        parts_of_sums[((int64_t)part * d.C + first_channel) * SUMS + j] = sum;
    }
    __syncthreads();
  }
}

/* Adds the parts up: column j of (parts,C,SUMS) is tap k of channel c, or its bias. */
BLOCK_KERNEL add_parts(int64_t parts, int64_t C, real *wb, real *bb)
{
  FOR_EACH_BLOCK (strip, strips(C * SUMS), parts) {
    int64_t j = strip * STRIP + own_column(), c = j / SUMS, k = j % SUMS;
    wide sum = 0;
    for (int64_t p = own_part(); c < C && p < parts; p += row_parts())
      sum += parts_of_sums[p * C * SUMS + j];
    sum = column_total(sum);
    real *to = k < TAPS ? wb : bb;
    if (own_part() == 0 && c < C && to)
      to[k < TAPS ? c * TAPS + k : c] += (real)sum;
  }
}

template <int V, bool SUM, int READS>
static void launch_walk(stream st, struct conv1d_shape d, struct cotangents a)
{
  int strips = (int)((d.C + STRIP * V - 1) / (STRIP * V)), warps = (int)RUN_THREADS / STRIP;
  struct runs r = runs_of(d, (int64_t)strips * STRIP, 256);
  int64_t most = SUM ? PARTS_ROOM / (d.C * SUMS) : INT32_MAX / strips;
  int each = (int)((r.count + most * warps - 1) / (most * warps)); /* runs of a warp */
  int parts = (r.count + each * warps - 1) / (each * warps);
  void (*walk_backward)(struct conv1d_shape, struct runs, int, int, struct cotangents) =
      walk_runs<V, SUM, READS>;
  LAUNCH_AS_(LAUNCH_BLOCK_KERNEL, 1, RUN_THREADS, st, (int64_t)parts * strips, walk_backward, d, r,
             parts, strips, a);
  if (SUM)
    LAUNCH_BLOCKS(st, (d.C * SUMS + STRIP - 1) / STRIP, add_parts, parts, d.C, a.wb, a.bb);
}

template <int V> static void launch_backward(stream st, struct conv1d_shape d, struct cotangents a)
{
  bool sum = a.wb || a.bb, reads = a.xb && re(a.beta) != 0;
  if (a.xb && a.more[0])
    sum ? launch_walk<V, true, ALL>(st, d, a) : launch_walk<V, false, ALL>(st, d, a);
  else if (reads)
    sum ? launch_walk<V, true, OLD>(st, d, a) : launch_walk<V, false, OLD>(st, d, a);
  else
    sum ? launch_walk<V, true, NOTHING>(st, d, a) : launch_walk<V, false, NOTHING>(st, d, a);
}

/* Whether it has been done: all but what state1b says. */
static bool given_by_walks(stream st, struct conv1d_shape d, struct cotangents a)
{
  if (!walks(d, a.x) || d.B * d.T == 0 || d.C * SUMS > PARTS_ROOM)
    return false;
  if (in_packs<PAIR>(d.C | d.ld, a.x) && in_packs<PAIR>(d.C | d.ld, a.xb) &&
      in_packs<PAIR>(0, a.more[0]) && in_packs<PAIR>(0, a.more[1]) && in_packs<PAIR>(d.C, a.yb))
    launch_backward<PAIR>(st, d, a);
  else
    launch_backward<1>(st, d, a);
  return true;
}
#endif
