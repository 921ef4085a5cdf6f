/* ssd_forms.c: the tests of ssd_forms.h. */
#include "tests/numeric/ssd_forms.h"
#include "core/backend.h"
#include "tests/check.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

/* Sums of up to 129 tokens: in float32 rounding of the terms, in float64 of their sum. */
#define TOLERANCE (REAL_BITS == 32 ? 3e-6 : 1e-12)

static void *items(int64_t count, size_t size)
{
  void *p = calloc(count > 0 ? (size_t)count : 1, size);
  assert_non_null(p);
  return p;
}

/* n reals without pattern in (lo,hi), the same in every precision */
static real *reals(int64_t n, int64_t seed, double lo, double hi)
{
  real *x = items(n, sizeof *x);
  for (int64_t i = 0; i < n; i++) {
    double u = sin(12.9898 * (double)(i + 1) + 78.233 * (double)(seed + 1)) * 43758.5453;
    x[i] = (real)(float)(lo + (hi - lo) * (u - floor(u)));
  }
  return x;
}

static real *zeros(int64_t n) { return items(n, sizeof(real)); }

static real *nans(int64_t n)
{
  real *x = zeros(n);
  for (int64_t i = 0; i < n; i++)
    x[i] = (real)NAN;
  return x;
}

static real *copy(int64_t n, const real *x)
{
  real *y = zeros(n);
  memcpy(y, x, (size_t)n * sizeof *y);
  return y;
}

static void check_reals(int64_t n, const real *got, const real *want, double tol, const char *what)
{
  double *a = items(n, sizeof *a), *b = items(n, sizeof *b);
  for (int64_t i = 0; i < n; i++) {
    a[i] = (double)re(got[i]);
    b[i] = (double)re(want[i]);
  }
  check_arrays_close(n, a, b, tol, "%s (%d bits)", what, REAL_BITS);
  free(a);
  free(b);
}

/* ---- everything that an ssd takes and gives ---- */

enum { Y, S1, XB, BB, CB, DTB, A_LOGB, DB, S0B, RESULTS };
static const char *const result_names[] = {"y",   "S1",     "xb", "Bb", "Cb",
                                           "dtb", "A_logb", "Db", "S0b"};

struct problem {
  struct ssd_shape d;
  int64_t columns, count[RESULTS];
  real *xBC, *dt, *A_log, *D, *S0, *yb, *S1b; /* x, B, C: columns of one matrix */
};

static struct problem problem_new(struct ssd_shape d)
{
  int64_t BT = d.B * d.T, HPN = d.H * d.P * d.N, D = d.D_has_hdim ? d.H * d.P : d.H;
  struct problem p = {.d = d};
  p.d.ld = d.H * d.P + 2 * d.G * d.N + 3;
  p.columns = BT * p.d.ld;
  int64_t count[] = {BT * d.H * d.P, d.B * HPN, p.columns, p.columns, p.columns,
                     BT * d.H,       d.H,       D,         d.B * HPN};
  memcpy(p.count, count, sizeof count);
  p.xBC = reals(p.columns, 1, -1, 1);
  p.dt = reals(BT * d.H, 2, 1e-3, 0.2);
  p.A_log = reals(d.H, 3, 0, 2.8);
  p.D = reals(D, 4, -1, 1);
  p.S0 = reals(d.B * HPN, 5, -1, 1);
  p.yb = reals(count[Y], 6, -1, 1);
  p.S1b = reals(d.B * HPN, 7, -1, 1);
  return p;
}

static void problem_free(struct problem *p)
{
  real *all[] = {p->xBC, p->dt, p->A_log, p->D, p->S0, p->yb, p->S1b};
  for (int k = 0; k < COUNT(all); k++)
    free(all[k]);
}

static const real *B_of(const struct problem *p) { return p->xBC + p->d.H * p->d.P; }
static const real *C_of(const struct problem *p) { return B_of(p) + p->d.G * p->d.N; }

static void results_new(const struct problem *p, real **r)
{
  for (int k = 0; k < RESULTS; k++)
    r[k] = k <= S1 ? nans(p->count[k]) : zeros(p->count[k]);
}

static void results_free(real **r)
{
  for (int k = 0; k < RESULTS; k++)
    free(r[k]);
}

static void check_results(const struct problem *p, real **got, real **want, int first,
                          const char *what)
{
  char name[64];
  for (int k = first; k < RESULTS; k++) {
    (void)snprintf(name, sizeof name, "%s of %s, T %d chunk %d", result_names[k], what, (int)p->d.T,
                   (int)p->d.chunk);
    check_reals(p->count[k], got[k], want[k], TOLERANCE, name);
  }
}

static void run_recurrent(const struct backend *be, const struct problem *p, real **r)
{
  struct ssd_shape d = p->d;
  int64_t states = d.B * d.T * d.H * d.P * d.N, group = d.H * d.P;
  real *S = nans(states), *L = nans(states);
  be->ssd_fwd(be->st, d, p->xBC, B_of(p), C_of(p), p->dt, p->A_log, p->D, NULL, p->S0, S, r[Y],
              r[S1]);
  be->ssd_vjp(be->st, d, p->xBC, B_of(p), C_of(p), p->dt, p->A_log, p->D, p->S0, S, p->yb, p->S1b,
              L, r[XB], r[XB] + group, r[XB] + group + d.G * d.N, r[DTB], r[A_LOGB], r[DB], r[S0B]);
  free(S);
  free(L);
}

/* S NULL where `kept` is false; what lies behind the scratch must not change. */
static void run_chunked(const struct backend *be, const struct problem *p, bool kept, real **r)
{
  struct ssd_shape d = p->d;
  int64_t work = ssd_chunked_work(d), group = d.H * d.P;
  real *S = kept ? nans(d.B * ssd_chunks(d) * group * d.N) : NULL, *scratch = nans(work + 1);
  scratch[work] = 42;
  be->ssd_chunked_fwd(be->st, d, p->xBC, B_of(p), C_of(p), p->dt, p->A_log, p->D, NULL, p->S0, S,
                      scratch, r[Y], r[S1]);
  for (int64_t i = 0; i < work; i++)
    scratch[i] = (real)NAN;
  for (int64_t i = 0; i < d.B * d.T; i++)
    for (int64_t j = 0; j < d.ld; j++)
      r[XB][i * d.ld + j] = j < group + 2 * d.G * d.N ? (real)NAN : 0;
  for (int64_t i = 0; i < p->count[DTB]; i++)
    r[DTB][i] = (real)NAN;
  be->ssd_chunked_vjp(be->st, d, p->xBC, B_of(p), C_of(p), p->dt, p->A_log, p->D, S, p->yb, p->S1b,
                      scratch, 0, r[XB], r[XB] + group, r[XB] + group + d.G * d.N, r[DTB],
                      r[A_LOGB], r[DB], p->S0 ? r[S0B] : NULL);
  assert_true(re(scratch[work]) == 42);
  free(S);
  free(scratch);
}

/* ---- the tests ---- */

static wide dot(int64_t n, const real *a, const real *b)
{
  wide sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += (wide)a[i] * (wide)b[i];
  return sum;
}

/* y_i = sum_{j<=i} (a_{j+1} ... a_i) dt_j (C_i . B_j) x_j + (a_0 ... a_i) S0 C_i + D x_i */
static void defined_row(const struct problem *p, int64_t b, int64_t h, int64_t c, real *y)
{
  struct ssd_shape d = p->d;
  int64_t group = h / (d.H / d.G) * d.N, column = h * d.P + c;
  for (int64_t i = b * d.T; i < (b + 1) * d.T; i++) {
    const real *Ci = C_of(p) + i * d.ld + group;
    wide decay = 1, D = p->D[d.D_has_hdim ? column : h];
    wide sum = D * (wide)p->xBC[i * d.ld + column];
    for (int64_t j = i; j >= b * d.T; j--) {
      wide dt = p->dt[j * d.H + h], x = p->xBC[j * d.ld + column];
      sum += decay * dot(d.N, Ci, B_of(p) + j * d.ld + group) * dt * x;
      decay *= exp(-exp((wide)p->A_log[h]) * dt);
    }
    sum += decay * dot(d.N, Ci, p->S0 + ((b * d.H + h) * d.P + c) * d.N);
    y[i * d.H * d.P + column] = (real)sum;
  }
}

#define recurrence_is_definition NAME(recurrence_is_definition)
void recurrence_is_definition(const void *be)
{
  for (int hdim = 0; hdim < 2; hdim++) {
    struct problem p =
        problem_new((struct ssd_shape){2, 9, 4, 3, 5, 2, .chunk = 4, .D_has_hdim = hdim});
    real *r[RESULTS], *y = nans(p.count[Y]);
    results_new(&p, r);
    run_recurrent(be, &p, r);
    for (int64_t b = 0; b < p.d.B; b++)
      for (int64_t h = 0; h < p.d.H; h++)
        for (int64_t c = 0; c < p.d.P; c++)
          defined_row(&p, b, h, c, y);
    check_reals(p.count[Y], r[Y], y, TOLERANCE, "y of the recurrence");
    results_free(r);
    free(y);
    problem_free(&p);
  }
}

#define chunks_are_recurrence NAME(chunks_are_recurrence)
void chunks_are_recurrence(const void *table)
{
  const struct backend *be = table;
  static const int64_t lengths[] = {1, 5, 64, 129, 333}, chunks[] = {1, 7, 16, 64, 200};
  for (int i = 0; i < COUNT(lengths); i++) {
    struct problem p = problem_new(
        (struct ssd_shape){2, lengths[i], 4, 17, 6, 2, .chunk = 1, .D_has_hdim = i % 2});
    real *want[RESULTS], *got[RESULTS];
    results_new(&p, want);
    run_recurrent(be, &p, want);
    for (int j = 0; j < 2 * COUNT(chunks); j++) {
      p.d.chunk = chunks[j / 2];
      p.d.by_blocks = be->ssd_by_blocks && j % 2;
      results_new(&p, got);
      run_chunked(be, &p, true, got);
      check_results(&p, got, want, Y, p.d.by_blocks ? "blocks" : "chunks");
      results_free(got);
    }
    results_free(want);
    problem_free(&p);
  }
}

/* The results of a call that neither starts from states nor leaves any, and keeps none. */
static void run_whole_chunk(const struct backend *be, const struct problem *p, real **r)
{
  struct ssd_shape d = p->d;
  int64_t group = d.H * d.P;
  real *work = nans(ssd_chunked_work(d));
  be->ssd_chunked_fwd(be->st, d, p->xBC, B_of(p), C_of(p), p->dt, p->A_log, p->D, NULL, NULL, NULL,
                      work, r[Y], NULL);
  be->ssd_chunked_vjp(be->st, d, p->xBC, B_of(p), C_of(p), p->dt, p->A_log, p->D, NULL, p->yb, NULL,
                      work, 1, r[XB], r[XB] + group, r[XB] + group + d.G * d.N, r[DTB], r[A_LOGB],
                      r[DB], NULL);
  free(work);
}

/* On a CPU a shape goes by steps or by blocks, heads together or each by itself, as it costs least;
 * with states and without.  Whole vectors and what is left of one, in every direction. */
#define shapes_are_recurrence NAME(shapes_are_recurrence)
void shapes_are_recurrence(const void *table)
{
  const struct backend *be = table;
  static const struct ssd_shape shapes[] = {
      {1, 140, 4, 17, 64, 2, .chunk = 200}, {2, 70, 2, 33, 30, 1, .chunk = 70},
      {1, 60, 4, 32, 16, 1, .chunk = 64},   {4, 40, 4, 32, 16, 1, .chunk = 64},
      {1, 16, 2, 33, 40, 2, .chunk = 16},   {3, 129, 2, 16, 48, 1, .chunk = 129},
      {2, 64, 4, 17, 100, 2, .chunk = 64},  {1, 130, 2, 17, 120, 1, .chunk = 130},
      {5, 35, 4, 16, 32, 1, .chunk = 17},   {1, 90, 3, 150, 18, 1, .chunk = 64}};
  for (int i = 0; i < COUNT(shapes); i++)
    for (int states = 0; states < 2; states++) {
      struct problem p = problem_new(shapes[i]);
      real *want[RESULTS], *got[RESULTS];
      p.d.by_blocks = be->ssd_by_blocks;
      results_new(&p, want);
      results_new(&p, got);
      if (!states) {
        free(p.S0), free(p.S1b);
        p.S0 = p.S1b = NULL;
      }
      run_recurrent(be, &p, want);
      if (states) {
        run_chunked(be, &p, true, got);
      } else if (ssd_chunks(p.d) == 1) {
        run_whole_chunk(be, &p, got);
        memcpy(got[S1], want[S1], (size_t)p.count[S1] * sizeof **got);
        memcpy(got[S0B], want[S0B], (size_t)p.count[S0B] * sizeof **got);
      } else {
        run_chunked(be, &p, true, got);
        memcpy(got[S0B], want[S0B], (size_t)p.count[S0B] * sizeof **got);
      }
      check_results(&p, got, want, Y, states ? "a shape with states" : "a shape without states");
      results_free(want);
      results_free(got);
      problem_free(&p);
    }
}

/* A chunk that starts from zeros: S NULL changes no bit, in the VJP and in the JVP. */
#define nothing_kept_of_zeros NAME(nothing_kept_of_zeros)
void nothing_kept_of_zeros(const void *table)
{
  const struct backend *be = table;
  struct problem p = problem_new((struct ssd_shape){2, 21, 4, 17, 6, 2, .chunk = 64});
  struct ssd_shape d = p.d;
  real *got[RESULTS], *want[RESULTS], *S = zeros(d.B * d.H * d.P * d.N);
  real *work = nans(ssd_chunked_jvp_work(d)), *yd[2];
  free(p.S0);
  p.S0 = NULL;
  results_new(&p, got);
  results_new(&p, want);
  run_chunked(be, &p, false, got);
  run_chunked(be, &p, true, want);
  check_results(&p, got, want, Y, "no states");
  for (int k = 0; k < 2; k++) {
    yd[k] = nans(p.count[Y]);
    be->ssd_chunked_jvp(be->st, d, p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, k ? S : NULL,
                        p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, NULL, work, yd[k], NULL);
  }
  check_reals(p.count[Y], yd[0], yd[1], TOLERANCE, "tangent of y, no states");
  results_free(got);
  results_free(want);
  free(yd[0]);
  free(yd[1]);
  free(S);
  free(work);
  problem_free(&p);
}

/* S NULL, with S1 in S0's place or not wanted. */
#define states_need_not_be_kept NAME(states_need_not_be_kept)
void states_need_not_be_kept(const void *table)
{
  const struct backend *be = table;
  static const int64_t shapes[][3] = {{1, 17, 6},  {3, 5, 16}, {4, 17, 6},  {8, 32, 16},
                                      {70, 3, 33}, {4, 64, 1}, {8, 16, 256}};
  for (int k = 0; k < COUNT(shapes); k++) {
    struct problem p = problem_new(
        (struct ssd_shape){2, shapes[k][0], 2, shapes[k][1], shapes[k][2], 1, .chunk = 64});
    real *want[RESULTS], *y = nans(p.count[Y]), *S = copy(p.count[S1], p.S0);
    results_new(&p, want);
    run_recurrent(be, &p, want);
    be->ssd_fwd(be->st, p.d, p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, NULL, p.S0, NULL, y,
                NULL);
    check_reals(p.count[Y], y, want[Y], TOLERANCE, "y without states");
    be->ssd_fwd(be->st, p.d, p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, NULL, S, NULL, y, S);
    check_reals(p.count[Y], y, want[Y], TOLERANCE, "y with the state in place");
    check_reals(p.count[S1], S, want[S1], TOLERANCE, "state in place");
    for (int blocks = 0; blocks < 2; blocks++) {
      p.d.by_blocks = blocks && be->ssd_by_blocks;
      real *work = nans(ssd_chunked_work(p.d));
      memcpy(S, p.S0, (size_t)p.count[S1] * sizeof *S);
      be->ssd_chunked_fwd(be->st, p.d, p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, NULL, S, NULL,
                          work, y, S);
      check_reals(p.count[Y], y, want[Y], TOLERANCE, "chunked y with the state in place");
      check_reals(p.count[S1], S, want[S1], TOLERANCE, "chunked state in place");
      memcpy(S, p.S0, (size_t)p.count[S1] * sizeof *S);
      be->ssd_chunked_fwd(be->st, p.d, p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, NULL, S, NULL,
                          work, NULL, S);
      check_reals(p.count[S1], S, want[S1], TOLERANCE, "chunked state alone");
      free(work);
    }
    results_free(want);
    free(y);
    free(S);
    problem_free(&p);
  }
}

/* Sequences 0.. start from, and end in, these rows of a larger array. */
static const int32_t rows[] = {4, 0, 2};
enum { ROW_COUNT = 5 };

/* Copies sequence b's item of n reals to its row, or back. */
static void to_rows(int64_t n, const real *from, real *to)
{
  for (int b = 0; b < COUNT(rows); b++)
    memcpy(to + rows[b] * n, from + b * n, (size_t)n * sizeof *to);
}

static void from_rows(int64_t n, const real *from, real *to)
{
  for (int b = 0; b < COUNT(rows); b++)
    memcpy(to + b * n, from + rows[b] * n, (size_t)n * sizeof *to);
}

/* One token at a time with the states carried, in rows: ssd and conv1d. */
#define steps_are_whole NAME(steps_are_whole)
void steps_are_whole(const void *table)
{
  const struct backend *be = table;
  struct problem p = problem_new((struct ssd_shape){3, 11, 2, 19, 16, 2, .chunk = 64});
  struct ssd_shape d = p.d, step = d;
  struct conv1d_shape conv = {3, 11, 7, 4, d.ld}, conv_step = {3, 1, 7, 4, d.ld};
  int64_t HPN = d.H * d.P * d.N, HP = d.H * d.P, CW = conv.C * conv.W;
  real *whole[RESULTS], *S = nans(ROW_COUNT * HPN), *w = reals(CW, 8, -1, 1);
  real *conv_y = nans(3 * 11 * 7), *conv_S1 = nans(3 * CW), *state = nans(ROW_COUNT * CW);
  real *conv_S0 = reals(3 * CW, 9, -1, 1);
  real *x = zeros(3 * d.ld), *dt = zeros(3 * d.H), *y = zeros(3 * HP), *cy = zeros(3 * 7);
  results_new(&p, whole);
  run_recurrent(be, &p, whole);
  be->conv1d_fwd(be->st, conv, p.xBC, w, NULL, NULL, conv_S0, conv_y, conv_S1);
  to_rows(HPN, p.S0, S);
  to_rows(CW, conv_S0, state);
  step.T = 1;
  for (int64_t t = 0; t < d.T; t++) {
    for (int64_t b = 0; b < 3; b++) {
      memcpy(x + b * d.ld, p.xBC + (b * d.T + t) * d.ld, (size_t)d.ld * sizeof *x);
      memcpy(dt + b * d.H, p.dt + (b * d.T + t) * d.H, (size_t)d.H * sizeof *x);
    }
    be->ssd_fwd(be->st, step, x, x + HP, x + HP + d.G * d.N, dt, p.A_log, p.D, rows, S, NULL, y, S);
    be->conv1d_fwd(be->st, conv_step, x, w, NULL, rows, state, cy, state);
    for (int64_t b = 0; b < 3; b++) {
      check_reals(HP, y + b * HP, whole[Y] + (b * d.T + t) * HP, TOLERANCE, "ssd step");
      check_reals(7, cy + b * 7, conv_y + (b * d.T + t) * 7, TOLERANCE, "conv1d step");
    }
  }
  real *ends = nans(3 * HPN), *conv_ends = nans(3 * CW);
  from_rows(HPN, S, ends);
  from_rows(CW, state, conv_ends);
  check_reals(3 * HPN, ends, whole[S1], TOLERANCE, "state after steps");
  check_reals(3 * CW, conv_ends, conv_S1, 0, "conv1d's state after steps");
  results_free(whole);
  real *all[] = {S, w, conv_y, conv_S1, state, conv_S0, x, dt, y, cy, ends, conv_ends};
  for (int k = 0; k < COUNT(all); k++)
    free(all[k]);
  problem_free(&p);
}

/* advance by count tokens = the state after a run of count tokens; other rows stay as they are */
#define advance_is_prefix NAME(advance_is_prefix)
void advance_is_prefix(const void *table)
{
  const struct backend *be = table;
  static const int32_t counts[] = {3, 0, 70};
  struct problem p = problem_new((struct ssd_shape){3, 70, 2, 19, 5, 1, .chunk = 64});
  struct ssd_shape d = p.d;
  struct conv1d_shape conv = {3, 70, 7, 4, d.ld};
  int64_t HPN = d.H * d.P * d.N, CW = conv.C * conv.W;
  real *S = reals(ROW_COUNT * HPN, 10, -1, 1), *got = copy(ROW_COUNT * HPN, S);
  real *state = reals(ROW_COUNT * CW, 11, -1, 1), *conv_got = copy(ROW_COUNT * CW, state);
  real *y = nans(p.count[Y]), *w = reals(CW, 8, -1, 1);
  be->ssd_advance(be->st, d, p.xBC, B_of(&p), p.dt, p.A_log, rows, counts, got);
  be->conv1d_advance(be->st, conv, p.xBC, rows, counts, conv_got);
  for (int b = 0; b < 3; b++) {
    struct ssd_shape one = d;
    struct conv1d_shape conv_one = conv;
    const real *x = p.xBC + b * d.T * d.ld;
    one.B = conv_one.B = 1;
    one.T = conv_one.T = counts[b];
    if (counts[b] == 0)
      continue;
    be->ssd_fwd(be->st, one, x, x + d.H * d.P, x + d.H * d.P + d.G * d.N, p.dt + b * d.T * d.H,
                p.A_log, p.D, &rows[b], S, NULL, y, S);
    be->conv1d_fwd(be->st, conv_one, x, w, NULL, &rows[b], state, y, state);
  }
  check_reals(ROW_COUNT * HPN, got, S, TOLERANCE, "advanced states");
  check_reals(ROW_COUNT * CW, conv_got, state, 0, "advanced conv1d states");
  real *all[] = {S, got, state, conv_got, y, w};
  for (int k = 0; k < COUNT(all); k++)
    free(all[k]);
  problem_free(&p);
}

/* With a row map the forward passes give what they give without it on gathered states. */
#define rows_carry_states NAME(rows_carry_states)
void rows_carry_states(const void *table)
{
  const struct backend *be = table;
  struct problem p = problem_new((struct ssd_shape){3, 9, 2, 19, 5, 1, .chunk = 4});
  struct ssd_shape d = p.d;
  int64_t HPN = d.H * d.P * d.N;
  real *r[RESULTS], *S = nans(ROW_COUNT * HPN), *ends = nans(3 * HPN), *y = nans(p.count[Y]);
  results_new(&p, r);
  run_recurrent(be, &p, r);
  for (int chunked = 0; chunked < 3; chunked++) {
    d.by_blocks = chunked == 2 && be->ssd_by_blocks;
    real *work = nans(ssd_chunked_work(d));
    to_rows(HPN, p.S0, S);
    if (chunked)
      be->ssd_chunked_fwd(be->st, d, p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, rows, S, NULL,
                          work, y, S);
    else
      be->ssd_fwd(be->st, d, p.xBC, B_of(&p), C_of(&p), p.dt, p.A_log, p.D, rows, S, NULL, y, S);
    from_rows(HPN, S, ends);
    check_reals(p.count[Y], y, r[Y], TOLERANCE, chunked ? "chunked y by rows" : "y by rows");
    check_reals(3 * HPN, ends, r[S1], TOLERANCE, chunked ? "chunked S1 by rows" : "S1 by rows");
    free(work);
  }
  results_free(r);
  free(S);
  free(ends);
  free(y);
  problem_free(&p);
}

/* The input of channel i = (sequence,c) at token t, before the first from the state. */
static real conv_input(struct conv1d_shape d, const real *x, const real *state0, int64_t i,
                       int64_t t)
{
  return t < 0 ? state0[i * d.W + d.W + t] : x[(i / d.C * d.T + t) * d.ld + i % d.C];
}

#define convolution_is_definition NAME(convolution_is_definition)
void convolution_is_definition(const void *table)
{
  const struct backend *be = table;
  static const int64_t shapes[][3] = {{70, 37, 4}, {3, 5, 7}, {1, 16, 1}, {20, 16, 16}};
  for (int k = 0; k < COUNT(shapes); k++) {
    struct conv1d_shape d = {2, shapes[k][0], shapes[k][1], shapes[k][2], shapes[k][1] + 3};
    int64_t CW = d.C * d.W;
    real *x = reals(d.B * d.T * d.ld, 1, -1, 1), *w = reals(CW, 2, -1, 1),
         *b = reals(d.C, 3, -1, 1);
    real *state0 = reals(d.B * CW, 4, -1, 1), *y = nans(d.B * d.T * d.C), *state1 = nans(d.B * CW);
    real *want = nans(d.B * d.T * d.C), *last = nans(d.B * CW);
    be->conv1d_fwd(be->st, d, x, w, b, NULL, state0, y, state1);
    for (int64_t i = 0; i < d.B * d.C; i++) {
      for (int64_t t = 0; t < d.T; t++) {
        wide v = b[i % d.C];
        for (int64_t j = 0; j < d.W; j++)
          v += (wide)w[i % d.C * d.W + j] * (wide)conv_input(d, x, state0, i, t - d.W + 1 + j);
        want[(i / d.C * d.T + t) * d.C + i % d.C] = (real)(v / (1 + exp(-v)));
      }
      for (int64_t j = 0; j < d.W; j++)
        last[i * d.W + j] = conv_input(d, x, state0, i, d.T - d.W + j);
    }
    check_reals(d.B * d.T * d.C, y, want, TOLERANCE, "conv1d");
    check_reals(d.B * CW, state1, last, 0, "conv1d's final state");
    real *all[] = {x, w, b, state0, y, state1, want, last};
    for (int n = 0; n < COUNT(all); n++)
      free(all[n]);
  }
}

/* xb = beta xb + up to two more + the same cotangent; beta = 0 does not read xb, columns between
 * rows stay. */
#define convolution_adds_or_not NAME(convolution_adds_or_not)
void convolution_adds_or_not(const void *table)
{
  const struct backend *be = table;
  static const int64_t shapes[][3] = {{70, 37, 4}, {3, 5, 7}, {1, 16, 1}, {2, 33, 4}};
  static const double betas[] = {0, 1, -0.5};
  for (int k = 0; k < 2 * COUNT(shapes); k++) {
    const int64_t *n = shapes[k / 2];
    struct conv1d_shape d = {2, n[0], n[1], n[2], n[1] + 3};
    int64_t X = d.B * d.T * d.ld, CW = d.C * d.W;
    real *x = reals(X, 1, -1, 1), *w = reals(CW, 2, -1, 1), *yb = reals(d.B * d.T * d.C, 3, -1, 1);
    real *state1b = reals(d.B * CW, 4, -1, 1), *given = zeros(X), *wb = k % 2 ? zeros(CW) : NULL;
    be->conv1d_vjp(be->st, d, x, w, NULL, NULL, yb, state1b, 1, NULL, NULL, given, wb, NULL, NULL);
    real *more = reals(X, 6, -1, 1), *more2 = reals(X, 7, -1, 1);
    for (int j = 0; j < 3 * COUNT(betas); j++) {
      real *xb = reals(X, 5, -1, 1), *want = copy(X, xb), beta = (real)betas[j / 3];
      for (int64_t i = 0; i < X; i++) {
        bool gap = i % d.ld >= d.C;
        real others = (j % 3 > 0 ? more[i] : 0) + (j % 3 > 1 ? more2[i] : 0);
        want[i] = gap ? want[i] : beta * want[i] + others + given[i];
        xb[i] = gap || betas[j / 3] != 0 ? xb[i] : (real)NAN;
      }
      be->conv1d_vjp(be->st, d, x, w, NULL, NULL, yb, state1b, beta, j % 3 > 0 ? more : NULL,
                     j % 3 > 1 ? more2 : NULL, xb, wb, NULL, NULL);
      check_reals(X, xb, want, TOLERANCE, "cotangent of conv1d's input");
      free(xb), free(want);
    }
    real *all[] = {x, w, yb, state1b, given, wb, more, more2};
    for (int i = 0; i < COUNT(all); i++)
      free(all[i]);
  }
}

#if REAL_BITS != 128
#define ssd_decaying_outputs NAME(ssd_decaying_outputs)
void ssd_decaying_outputs(const void *be, double *y, double *dtb)
{
  struct problem p = problem_new(
      (struct ssd_shape){1, DECAYING_TOKENS, 1, DECAYING_CHANNELS, 4, 1, .chunk = DECAYING_TOKENS});
  real *r[RESULTS];
  results_new(&p, r);
  p.A_log[0] = (real)log(16);
  for (int64_t t = 0; t < DECAYING_TOKENS; t++)
    p.dt[t] = (real)(float)(0.1 + 1e-4 * (double)t);
  run_chunked(be, &p, true, r);
  for (int64_t i = 0; i < p.count[Y]; i++)
    y[i] = (double)r[Y][i];
  for (int64_t i = 0; i < p.count[DTB]; i++)
    dtb[i] = (double)r[DTB][i];
  results_free(r);
  problem_free(&p);
}
#endif
