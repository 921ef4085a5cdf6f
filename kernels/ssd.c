/* ssd: the Mamba-2 recurrence, state by state (state-space duality, one scalar decay a head).
 *
 *   a_t = exp(A dt_t), A = -exp(A_log)         (B,T,H);  A_negative: a_t = 2 exp(A dt_t) - 1
 *   S_t = a_t S_{t-1} + dt_t x_t B_t'          (B,T,H,P,N)   S_{-1} = S0 or 0
 *   y_t = S_t C_t + D x_t                      (B,T,H,P)
 *
 * x (B,T,H,P), B, C (B,T,G,N) are columns of a matrix of ld columns; H/G heads share a group.
 *
 * VJP, with L_t = dL/dS_t, swept backwards from L_T = S1b, a_T = 1:
 *   L_t  = a_{t+1} L_{t+1} + yb_t C_t'
 *   xb_t += dt_t L_t B_t + D yb_t              S0b  += a_0 L_0
 *   Bb_t += sum_{h,p} dt_t x_t L_t             Cb_t += sum_{h,p} yb_t S_t
 *   dtb_t   += A a_t <L_t,S_{t-1}> + x_t L_t B_t
 *   A_logb  += sum_{b,t} A a_t dt_t <L_t,S_{t-1}>
 *   Db      += sum_{b,t} yb_t x_t
 * JVP: the same recurrence, differentiated.
 *
 * Vectors run along N, which is contiguous in the states; where the states are not kept and several
 * tokens share them, along P in registers and cache, so that no sum crosses lanes.
 *
 * Reference: Dao & Gu 2024, arXiv:2405.21060, section 2.1 and eq. (1)-(2).
 */
#include "kernels/operations.h"
#include "kernels/ssd_heads.h"

enum { DECAY_TOKENS = 64, LANES_PAY = 4 /* tokens */ };

/* a[j] = exp(A dt) at tokens first.. of head h, at most DECAY_TOKENS of them */
INLINE void decays(struct ssd_shape d, int64_t b, int64_t h, int64_t first, const real *dt,
                   const real *A_log, real *a)
{
  int64_t count = at_most(d.T - first, DECAY_TOKENS);
  real A = decay_rate(A_log, h);
  const real *dth = dt + (b * d.T + first) * d.H + h;
  SIMD
  for (int64_t j = 0; j < count; j++)
    a[j] = decay_of(d, A * dth[j * d.H]);
}

/* ---- forward ---- */

/* One state of one row: next = a prev + u B; prev NULL: zero, may be next.  Returns next C. */
ELEMENTARY real step_state(real a, real u, const real *Bm, const real *C, const real *prev,
                           real *next, int64_t n)
{
  real s = u * Bm[n];
  if (prev)
    s = add_product(s, a, prev[n]);
  next[n] = s;
  return s * C[n];
}

/* Where the states of LANES rows are before and after token t, N apart from row to row. */
struct state_rows {
  const real *prev; /* NULL: zeros */
  real *next;
};

/* They go from S0 through S, or through `running` where S is NULL, to S1. */
INLINE struct state_rows state_rows_of(struct ssd_shape d, struct head_rows at, int64_t t,
                                       int64_t carried, const real *S0, real *S, real *S1,
                                       real *running)
{
  int64_t token = d.H * d.P * d.N;
  int64_t now = (at.b * d.T + t) * token + (at.h * d.P + at.first) * d.N;
  struct state_rows s;
  s.prev = t > 0 ? S ? S + now - token : running : S0 ? S0 + carried : NULL;
  s.next = S ? S + now : S1 && t == d.T - 1 ? S1 + carried : running;
  return s;
}

/* Vectors along N. */
KERNEL recur_rows(struct ssd_shape d, const real *x, const real *Bm, const real *C, const real *dt,
                  const real *A_log, const real *D, const int32_t *row, const real *S0, real *S,
                  real *y, real *S1)
{
  FOR_EACH_COST (i, d.B * d.H * lane_blocks(d.P), d.T * LANES * d.N * 5) {
    struct head_rows at = head_rows_of(d, i);
    real running[LANES * SSD_MAX_STATE], a[DECAY_TOKENS];
    int64_t carried = (((row ? row[at.b] : at.b) * d.H + at.h) * d.P + at.first) * d.N;
    for (int64_t t = 0; t < d.T; t++) {
      int64_t bt = at.b * d.T + t, bth = bt * d.H + at.h;
      if (t % DECAY_TOKENS == 0)
        decays(d, at.b, at.h, t, dt, A_log, a);
      const real *xt = x + bt * d.ld + at.h * d.P + at.first;
      const real *Bt = Bm + bt * d.ld + at.g * d.N, *Ct = C + bt * d.ld + at.g * d.N;
      struct state_rows s = state_rows_of(d, at, t, carried, S0, S, S1, running);
      real decay = a[t % DECAY_TOKENS];
      for (int r = 0; r < at.count; r++) {
        const real *prev = s.prev ? s.prev + r * d.N : NULL;
        real *next = s.next + r * d.N, u = dt[bth] * xt[r], sum = 0;
        if (prev)
          ADD_LANE_SUM(sum, d.N, n, step_state(decay, u, Bt, Ct, prev, next, n));
        else
          ADD_LANE_SUM(sum, d.N, n, step_state(decay, u, Bt, Ct, NULL, next, n));
        if (y)
          y[bth * d.P + at.first + r] = add_product(sum, skip_of(d, D, at.h, at.first + r), xt[r]);
      }
      for (int64_t n = 0; S && S1 && t == d.T - 1 && n < at.count * d.N; n++)
        S1[carried + n] = s.next[n];
    }
  }
}

#ifndef __CUDACC__
/* s = a s + dt x B', y = s C + skip x for `count` lanes (y NULL: not wanted) of all states; two
 * sums hide the additions' latency. */
ELEMENTARY void step_lanes(int count, int64_t N, real a, real dt, const real *x, const real *skip,
                           const real *Bm, const real *C, real (*s)[LANES], real *y)
{
  real u[LANES] = {0}, even[LANES] = {0}, odd[LANES] = {0};
  SIMD
  for (int l = 0; l < count; l++) {
    u[l] = dt * x[l];
    even[l] = skip[l] * x[l];
  }
  int64_t n = 0;
  for (; n + 1 < N; n += 2) {
    SIMD
    for (int l = 0; l < LANES; l++) {
      s[n][l] = add_product(u[l] * Bm[n], a, s[n][l]);
      even[l] = add_product(even[l], s[n][l], C[n]);
    }
    SIMD
    for (int l = 0; l < LANES; l++) {
      s[n + 1][l] = add_product(u[l] * Bm[n + 1], a, s[n + 1][l]);
      odd[l] = add_product(odd[l], s[n + 1][l], C[n + 1]);
    }
  }
  for (; n < N; n++) {
    SIMD
    for (int l = 0; l < LANES; l++) {
      s[n][l] = add_product(u[l] * Bm[n], a, s[n][l]);
      even[l] = add_product(even[l], s[n][l], C[n]);
    }
  }
  if (y == NULL)
    return;
  SIMD
  for (int l = 0; l < count; l++)
    y[l] = even[l] + odd[l];
}

/* Vectors along P; the states of LANES channels stay in the first-level cache. */
KERNEL recur_lanes(struct ssd_shape d, const real *x, const real *Bm, const real *C, const real *dt,
                   const real *A_log, const real *D, const int32_t *row, const real *S0, real *y,
                   real *S1)
{
  FOR_EACH_COST (i, d.B * d.H * lane_blocks(d.P), d.T * LANES * d.N * 5) {
    struct head_rows at = head_rows_of(d, i);
    real s[SSD_MAX_STATE][LANES], a[DECAY_TOKENS], skip[LANES] = {0};
    int64_t carried = ((row ? row[at.b] : at.b) * d.H + at.h) * d.P + at.first;
    tile_transpose(d.N, S0 ? at.count : 0, S0 ? S0 + carried * d.N : NULL, d.N, s);
    for (int l = 0; l < at.count; l++)
      skip[l] = skip_of(d, D, at.h, at.first + l);
    for (int64_t t = 0; t < d.T; t++) {
      int64_t bt = at.b * d.T + t, bth = bt * d.H + at.h, group = bt * d.ld + at.g * d.N;
      if (t % DECAY_TOKENS == 0)
        decays(d, at.b, at.h, t, dt, A_log, a);
      real *yt = y ? y + bth * d.P + at.first : NULL, decay = a[t % DECAY_TOKENS];
      const real *xt = x + bt * d.ld + at.h * d.P + at.first;
      if (at.count == LANES)
        step_lanes(LANES, d.N, decay, dt[bth], xt, skip, Bm + group, C + group, s, yt);
      else
        step_lanes(at.count, d.N, decay, dt[bth], xt, skip, Bm + group, C + group, s, yt);
    }
    for (int l = 0; S1 && l < at.count; l++)
      for (int64_t n = 0; n < d.N; n++)
        S1[(carried + l) * d.N + n] = s[n][l];
  }
}
#endif

void OP(ssd_fwd)(stream st, struct ssd_shape d, const DEVICE real *x, const DEVICE real *Bm,
                 const DEVICE real *C, const DEVICE real *dt, const DEVICE real *A_log,
                 const DEVICE real *D, const DEVICE int32_t *row, const DEVICE real *S0,
                 DEVICE real *S, DEVICE real *y, DEVICE real *S1)
{
  int64_t blocks = d.B * d.H * lane_blocks(d.P);
#ifndef __CUDACC__
  if (S == NULL && d.T >= LANES_PAY) {
    LAUNCH(st, blocks, recur_lanes, d, x, Bm, C, dt, A_log, D, row, S0, y, S1);
    return;
  }
#endif
  LAUNCH(st, blocks, recur_rows, d, x, Bm, C, dt, A_log, D, row, S0, S, y, S1);
}

KERNEL advance(struct ssd_shape d, const real *x, const real *Bm, const real *dt, const real *A_log,
               const int32_t *row, const int32_t *count, real *S)
{
  FOR_EACH_COST (i, d.B * d.H * lane_blocks(d.P), d.T * LANES * d.N * 3) {
    struct head_rows at = head_rows_of(d, i);
    real a[DECAY_TOKENS];
    int64_t carried = ((row ? row[at.b] : at.b) * d.H + at.h) * d.P + at.first;
    for (int64_t t = 0; t < count[at.b]; t++) {
      int64_t bt = at.b * d.T + t;
      if (t % DECAY_TOKENS == 0)
        decays(d, at.b, at.h, t, dt, A_log, a);
      const real *Bt = Bm + bt * d.ld + at.g * d.N;
      real decay = a[t % DECAY_TOKENS];
      for (int r = 0; r < at.count; r++) {
        real u = dt[bt * d.H + at.h] * x[bt * d.ld + at.h * d.P + at.first + r];
        real *s = S + (carried + r) * d.N;
        SIMD
        for (int64_t n = 0; n < d.N; n++)
          s[n] = add_product(u * Bt[n], decay, s[n]);
      }
    }
  }
}

void OP(ssd_advance)(stream st, struct ssd_shape d, const DEVICE real *x, const DEVICE real *Bm,
                     const DEVICE real *dt, const DEVICE real *A_log, const DEVICE int32_t *row,
                     const DEVICE int32_t *count, DEVICE real *S)
{
  LAUNCH(st, d.B * d.H * lane_blocks(d.P), advance, d, x, Bm, dt, A_log, row, count, S);
}

/* ---- VJP ---- */

/* One state of one row: L = a next + yb C; next NULL: zero.  Returns L B. */
ELEMENTARY real step_back(real a, real yb, const real *Bm, const real *C, const real *next, real *L,
                          int64_t n)
{
  real l = yb * C[n];
  if (next)
    l = add_product(l, a, next[n]);
  L[n] = l;
  return l * Bm[n];
}

/* L, xb and S0b; `a` is the decay of token t+1 */
KERNEL sweep_back(struct ssd_shape d, const real *Bm, const real *C, const real *dt,
                  const real *A_log, const real *D, const real *yb, const real *S1b, real *L,
                  real *xb, real *S0b)
{
  FOR_EACH_COST (i, d.B * d.H * lane_blocks(d.P), d.T * LANES * d.N * 5) {
    struct head_rows at = head_rows_of(d, i);
    real A = decay_rate(A_log, at.h), a = 1;
    int64_t carried = (at.b * d.H + at.h) * d.P + at.first;
    for (int64_t t = d.T - 1; t >= 0; t--) {
      int64_t bt = at.b * d.T + t, bth = bt * d.H + at.h, k = bth * d.P + at.first;
      const real *Bt = Bm + bt * d.ld + at.g * d.N, *Ct = C + bt * d.ld + at.g * d.N;
      for (int r = 0; r < at.count; r++) {
        const real *next = t < d.T - 1 ? L + (k + r + d.H * d.P) * d.N
                           : S1b       ? S1b + (carried + r) * d.N
                                       : NULL;
        real *Lr = L + (k + r) * d.N, sum = 0;
        if (next)
          ADD_LANE_SUM(sum, d.N, n, step_back(a, yb[k + r], Bt, Ct, next, Lr, n));
        else
          ADD_LANE_SUM(sum, d.N, n, step_back(a, yb[k + r], Bt, Ct, NULL, Lr, n));
        if (xb)
          xb[bt * d.ld + at.h * d.P + at.first + r] +=
              dt[bth] * sum + skip_of(d, D, at.h, at.first + r) * yb[k + r];
      }
      a = decay_of(d, A * dt[bth]);
    }
    const real *first = L + (at.b * d.T * d.H * d.P + at.h * d.P + at.first) * d.N;
    for (int64_t n = 0; S0b && n < at.count * d.N; n++)
      S0b[carried * d.N + n] += a * first[n];
  }
}

/* Bb, Cb: an index owns LANES states of a token's group. */
KERNEL gather_BC(struct ssd_shape d, const real *x, const real *dt, const real *S, const real *L,
                 const real *yb, real *Bb, real *Cb)
{
  int64_t blocks = lane_blocks(d.N), heads = d.H / d.G;
  FOR_EACH_COST (i, d.B * d.T * d.G * blocks, heads * d.P * LANES * 4) {
    int64_t first = i % blocks * LANES, g = i / blocks % d.G, bt = i / blocks / d.G;
    int lanes = at_most(d.N - first, LANES);
    wide B_sum[LANES] = {0}, C_sum[LANES] = {0};
    for (int64_t h = g * heads; h < (g + 1) * heads; h++) {
      int64_t bth = bt * d.H + h;
      real B_head[LANES] = {0}, C_head[LANES] = {0};
      for (int64_t p = 0; p < d.P; p++) {
        int64_t k = (bth * d.P + p) * d.N + first;
        real xp = x[bt * d.ld + h * d.P + p], ybp = yb[bth * d.P + p];
        SIMD
        for (int l = 0; l < lanes; l++) {
          B_head[l] = add_product(B_head[l], xp, L[k + l]);
          C_head[l] = add_product(C_head[l], ybp, S[k + l]);
        }
      }
      SIMD
      for (int l = 0; l < lanes; l++) {
        B_sum[l] += (wide)(dt[bth] * B_head[l]);
        C_sum[l] += (wide)C_head[l];
      }
    }
    for (int l = 0; l < lanes; l++) {
      int64_t k = bt * d.ld + g * d.N + first + l;
      if (Bb)
        Bb[k] += (real)B_sum[l];
      if (Cb)
        Cb[k] += (real)C_sum[l];
    }
  }
}

/* dtb; and A a dt <L,S_{t-1}> into the first element of L (b,t,h,.,.), which no other index reads
 */
KERNEL gather_dt(struct ssd_shape d, const real *x, const real *Bm, const real *dt,
                 const real *A_log, const real *S0, const real *S, real *L, real *dtb)
{
  FOR_EACH_COST (bth, d.B * d.T * d.H, d.P * d.N * 4) {
    int64_t h = bth % d.H, bt = bth / d.H, t = bt % d.T, b = bt / d.T, PN = d.P * d.N;
    const real *prev = t ? S + (bth - d.H) * PN : S0 ? S0 + (b * d.H + h) * PN : NULL;
    const real *Bt = Bm + bt * d.ld + h / (d.H / d.G) * d.N;
    wide from_decay = 0, from_input = 0;
    for (int64_t p = 0; p < d.P; p++) {
      const real *l = L + bth * PN + p * d.N, *before = prev ? prev + p * d.N : NULL;
      real decay_sum = 0, input_sum = 0;
      if (before)
        ADD_LANE_SUM(decay_sum, d.N, n, l[n] * before[n]);
      ADD_LANE_SUM(input_sum, d.N, n, l[n] * Bt[n]);
      from_decay += (wide)decay_sum;
      from_input += (wide)(x[bt * d.ld + h * d.P + p] * input_sum);
    }
    real A = decay_rate(A_log, h), l = A * dt[bth];
    real slope = A * decay_slope(d, l) * (real)from_decay;
    if (dtb)
      dtb[bth] += slope + (real)from_input;
    L[bth * PN] = slope * dt[bth];
  }
}

void OP(ssd_vjp)(stream st, struct ssd_shape d, const DEVICE real *x, const DEVICE real *Bm,
                 const DEVICE real *C, const DEVICE real *dt, const DEVICE real *A_log,
                 const DEVICE real *D, const DEVICE real *S0, const DEVICE real *S,
                 const DEVICE real *yb, const DEVICE real *S1b, DEVICE real *L, DEVICE real *xb,
                 DEVICE real *Bb, DEVICE real *Cb, DEVICE real *dtb, DEVICE real *A_logb,
                 DEVICE real *Db, DEVICE real *S0b)
{
  int64_t PN = d.P * d.N, tokens = d.B * d.T;
  LAUNCH(st, d.B * d.H * lane_blocks(d.P), sweep_back, d, Bm, C, dt, A_log, D, yb, S1b, L, xb, S0b);
  if (Bb || Cb)
    LAUNCH(st, tokens * d.G * lane_blocks(d.N), gather_BC, d, x, dt, S, L, yb, Bb, Cb);
  if (dtb || A_logb)
    LAUNCH(st, tokens * d.H, gather_dt, d, x, Bm, dt, A_log, S0, S, L, dtb);
  if (A_logb)
    LAUNCH(st, d.H, add_over_blocks, tokens, d.H, PN, L, A_logb);
  if (Db)
    skip_vjp(st, d, x, yb, PN, L, Db);
}

/* ---- JVP ---- */

/* A row's state and its tangent before and after a token; NULL: zeros. */
struct row_tangent {
  const real *Bm, *Bd, *C, *Cd, *prev, *prevd, *S;
};

/* y += a x; x NULL: zeros */
ELEMENTARY void add_multiple(int64_t n, real a, const real *x, real *y)
{
  if (x == NULL)
    return;
  SIMD
  for (int64_t i = 0; i < n; i++)
    y[i] = add_product(y[i], a, x[i]);
}

/* next = a prevd + ad prev + u Bd + ud B.  Returns next C + S Cd. */
ELEMENTARY real step_row_tangent(int64_t N, real a, real ad, real u, real ud, struct row_tangent r,
                                 real *next)
{
  real sum = 0;
  SIMD
  for (int64_t n = 0; n < N; n++)
    next[n] = ud * r.Bm[n];
  add_multiple(N, a, r.prevd, next);
  add_multiple(N, ad, r.prev, next);
  add_multiple(N, u, r.Bd, next);
  ADD_LANE_SUM(sum, N, n, next[n] * r.C[n]);
  if (r.Cd)
    ADD_LANE_SUM(sum, N, n, r.S[n] * r.Cd[n]);
  return sum;
}

INLINE real tangent(const real *xd, int64_t i) { return xd ? xd[i] : 0; }

KERNEL recur_tangents(struct ssd_shape d, const real *x, const real *Bm, const real *C,
                      const real *dt, const real *A_log, const real *D, const real *S0,
                      const real *S, const real *xd, const real *Bd, const real *Cd,
                      const real *dtd, const real *A_logd, const real *Dd, const real *S0d,
                      real *Sd, real *yd, real *S1d)
{
  FOR_EACH_COST (i, d.B * d.H * lane_blocks(d.P), d.T * LANES * d.N * 10) {
    struct head_rows at = head_rows_of(d, i);
    real A = decay_rate(A_log, at.h), Ad = A * tangent(A_logd, at.h);
    int64_t carried = ((at.b * d.H + at.h) * d.P + at.first) * d.N;
    for (int64_t t = 0; t < d.T; t++) {
      int64_t bt = at.b * d.T + t, bth = bt * d.H + at.h, k = bth * d.P + at.first;
      int64_t group = bt * d.ld + at.g * d.N, before = (k - d.H * d.P) * d.N;
      real l = A * dt[bth], a = decay_of(d, l);
      real ad = decay_slope(d, l) * (Ad * dt[bth] + A * tangent(dtd, bth));
      for (int q = 0; q < at.count; q++) {
        int64_t p = at.first + q, column = bt * d.ld + at.h * d.P + p, n = q * d.N;
        struct row_tangent r = {Bm + group,
                                Bd ? Bd + group : NULL,
                                C + group,
                                Cd ? Cd + group : NULL,
                                t    ? S + before + n
                                : S0 ? S0 + carried + n
                                     : NULL,
                                t     ? Sd + before + n
                                : S0d ? S0d + carried + n
                                      : NULL,
                                S + k * d.N + n};
        real u = dt[bth] * x[column];
        real ud = tangent(dtd, bth) * x[column] + dt[bth] * tangent(xd, column);
        real sum = step_row_tangent(d.N, a, ad, u, ud, r, Sd + k * d.N + n);
        if (yd)
          yd[k + q] = sum + skip_of(d, D, at.h, p) * tangent(xd, column) +
                      (Dd ? skip_of(d, Dd, at.h, p) * x[column] : 0);
      }
    }
    const real *last = Sd + (((at.b + 1) * d.T - 1) * d.H * d.P + at.h * d.P + at.first) * d.N;
    for (int64_t n = 0; S1d && n < at.count * d.N; n++)
      S1d[carried + n] = last[n];
  }
}

void OP(ssd_jvp)(stream st, struct ssd_shape d, const DEVICE real *x, const DEVICE real *Bm,
                 const DEVICE real *C, const DEVICE real *dt, const DEVICE real *A_log,
                 const DEVICE real *D, const DEVICE real *S0, const DEVICE real *S,
                 const DEVICE real *xd, const DEVICE real *Bd, const DEVICE real *Cd,
                 const DEVICE real *dtd, const DEVICE real *A_logd, const DEVICE real *Dd,
                 const DEVICE real *S0d, DEVICE real *Sd, DEVICE real *yd, DEVICE real *S1d)
{
  LAUNCH(st, d.B * d.H * lane_blocks(d.P), recur_tangents, d, x, Bm, C, dt, A_log, D, S0, S, xd, Bd,
         Cd, dtd, A_logd, Dd, S0d, Sd, yd, S1d);
}
