/* derivatives.c: the checks of derivatives.h. */
#include "tests/derivatives.h"
#include "core/status.h"
#include "kernels/backends.h"
#include "tests/check.h"
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP 1e-30 /* of the complex step */
enum { THREADS = 3 };
/* Of a gradient: all elements up to so many in a case, or some of each tensor.  The sanitizers look
 * for other faults, which fewer show as well. */
#ifdef __SANITIZE_ADDRESS__
enum { ALL_ELEMENTS = 300, SOME_ELEMENTS = 6 };
#else
enum { ALL_ELEMENTS = 3000, SOME_ELEMENTS = 24 };
#endif

/* A case in its three precisions with drawn inputs x, tangents xd and cotangents yb. */
struct subject {
  struct operation_case f32, f64, c64;
  int ins, outs;
  double *x[CASE_TENSORS], *xd[CASE_TENSORS], *yb[CASE_TENSORS];
  int failures;
};

/* Everything that one run of a case gives; only what its pass computes is meaningful. */
struct outcome {
  double *y[CASE_TENSORS], *y_im[CASE_TENSORS], *yd[CASE_TENSORS], *xb[CASE_TENSORS];
};

static double *doubles(int64_t count)
{
  double *p = calloc((size_t)(count ? count : 1), sizeof *p);
  CHECK(p != NULL);
  return p;
}

/* Uniform in (0,1) with 20 bits: floats hold it, and lo + (hi-lo) u is rounded to float below. */
static double uniform(uint64_t *state)
{
  uint64_t z = (*state += 0x9e3779b97f4a7c15u); /* splitmix64 */
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return ((double)((z ^ (z >> 31)) >> 44) + 0.5) / (double)(1 << 20);
}

static double *draw(uint64_t *state, int64_t count, double lo, double hi)
{
  double *p = doubles(count);
  for (int64_t i = 0; i < count; i++)
    p[i] = (double)(float)(lo + (hi - lo) * uniform(state));
  return p;
}

static void subject_init(struct subject *s, uint64_t seed)
{
  uint64_t state = seed;
  for (const char *p = s->f64.name; *p; p++)
    state = state * 1099511628211u + (unsigned char)*p;
  for (s->ins = 0; s->ins < CASE_TENSORS && s->f64.in[s->ins].name; s->ins++) {
    struct case_tensor t = s->f64.in[s->ins];
    bool unset = t.lo == 0 && t.hi == 0;
    s->x[s->ins] = draw(&state, t.count, unset ? -1 : t.lo, unset ? 1 : t.hi);
    s->xd[s->ins] = t.constant ? NULL : draw(&state, t.count, -1, 1);
  }
  for (s->outs = 0; s->outs < CASE_TENSORS && s->f64.out[s->outs].name; s->outs++)
    s->yb[s->outs] = draw(&state, s->f64.out[s->outs].count, -1, 1);
}

static void subject_free(struct subject *s)
{
  for (int k = 0; k < CASE_TENSORS; k++) {
    free(s->x[k]);
    free(s->xd[k]);
    free(s->yb[k]);
  }
}

static struct outcome outcome_new(const struct subject *s)
{
  struct outcome o = {0};
  for (int k = 0; k < s->outs; k++) {
    o.y[k] = doubles(s->f64.out[k].count);
    o.y_im[k] = doubles(s->f64.out[k].count);
    o.yd[k] = doubles(s->f64.out[k].count);
  }
  for (int k = 0; k < s->ins; k++)
    o.xb[k] = s->xd[k] ? doubles(s->f64.in[k].count) : NULL;
  return o;
}

static void outcome_free(struct outcome *o)
{
  for (int k = 0; k < CASE_TENSORS; k++) {
    free(o->y[k]);
    free(o->y_im[k]);
    free(o->yd[k]);
    free(o->xb[k]);
  }
}

/* The call that computes everything of `pass` into o. */
static struct case_call full_call(const struct subject *s, const void *be, int pass,
                                  const struct outcome *o)
{
  struct case_call call = {.be = be};
  call.pass = pass == CASE_VJP ? CASE_VJP : pass == CASE_JVP ? CASE_JVP : CASE_FWD;
  for (int k = 0; k < s->ins; k++) {
    call.in[k] = s->x[k];
    if (pass == CASE_JVP)
      call.ind[k] = s->xd[k];
    if (pass == CASE_VJP)
      call.inb[k] = o->xb[k];
  }
  for (int k = 0; k < s->outs; k++) {
    call.out[k] = o->y[k];
    call.out_im[k] = o->y_im[k];
    if (pass == CASE_JVP)
      call.outd[k] = o->yd[k];
    if (pass == CASE_VJP)
      call.outb[k] = s->yb[k];
  }
  return call;
}

static struct outcome evaluate_all(const struct subject *s, const struct operation_case *c,
                                   const void *be)
{
  struct outcome o = outcome_new(s);
  for (int pass = CASE_FWD; pass <= CASE_JVP; pass++) {
    struct case_call call = full_call(s, be, pass, &o);
    c->run(c, &call);
  }
  return o;
}

static void __attribute__((format(printf, 4, 5)))
expect(struct subject *s, double error, double bound, const char *format, ...)
{
  if (error <= bound)
    return;
  char what[256];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(what, sizeof what, format, args);
  va_end(args);
  print_error("%s: %s: error %.3g > %.3g\n", s->f64.name, what, error, bound);
  s->failures++;
}

/* The backend whose name an error message shows, and the tables of the baseline. */
static const struct backend_cpu *baseline(void)
{
  const struct backend_cpu *all;
  (void)backend_cpu_list(&all);
  return &all[0];
}

/* Relative differences of two outcomes, by tensor. */
struct differences {
  double y[CASE_TENSORS], yd[CASE_TENSORS], xb[CASE_TENSORS];
};

static struct differences differences_of(const struct subject *s, const struct outcome *got,
                                         const struct outcome *want)
{
  struct differences d = {0};
  for (int k = 0; k < s->outs; k++) {
    d.y[k] = relative_error(s->f64.out[k].count, got->y[k], want->y[k]);
    d.yd[k] = relative_error(s->f64.out[k].count, got->yd[k], want->yd[k]);
  }
  for (int k = 0; k < s->ins; k++)
    if (s->xd[k])
      d.xb[k] = relative_error(s->f64.in[k].count, got->xb[k], want->xb[k]);
  return d;
}

/* Within the bound, and what `more` adds to it (NULL: nothing). */
static void expect_within(struct subject *s, const struct outcome *got, const struct outcome *want,
                          double bound, const struct differences *more, const char *what)
{
  struct differences d = differences_of(s, got, want), none = {0};
  more = more ? more : &none;
  for (int k = 0; k < s->outs; k++) {
    expect(s, d.y[k], bound + more->y[k], "%s: %s", what, s->f64.out[k].name);
    expect(s, d.yd[k], bound + more->yd[k], "%s: jvp of %s", what, s->f64.out[k].name);
  }
  for (int k = 0; k < s->ins; k++)
    expect(s, d.xb[k], bound + more->xb[k], "%s: vjp of %s", what, s->f64.in[k].name);
}

static void expect_same(struct subject *s, const struct outcome *got, const struct outcome *want,
                        double bound, const char *what)
{
  expect_within(s, got, want, bound, NULL, what);
}

/* ---- complex step ---- */

static void check_jvp(struct subject *s, const struct outcome *o)
{
  struct outcome c = outcome_new(s);
  struct case_call call = full_call(s, &backend_cpu_c64, CASE_FWD, &c);
  double *step[CASE_TENSORS] = {0};
  for (int k = 0; k < s->ins; k++) {
    step[k] = doubles(s->f64.in[k].count);
    for (int64_t i = 0; s->xd[k] && i < s->f64.in[k].count; i++)
      step[k][i] = STEP * s->xd[k][i];
    call.in_im[k] = step[k];
  }
  s->c64.run(&s->c64, &call);
  for (int k = 0; k < s->outs; k++) {
    const struct case_tensor *t = &s->f64.out[k];
    for (int64_t i = 0; i < t->count; i++) {
      c.y_im[k][i] /= STEP;
      if (fabs(c.y[k][i]) < STEP) /* a zero, but for the step's square */
        c.y[k][i] = 0;
    }
    expect(s, relative_error(t->count, o->y[k], c.y[k]), 1e-12, "complex build: %s", t->name);
    expect(s, relative_error(t->count, o->yd[k], c.y_im[k]), 1e-12, "complex step: jvp of %s",
           t->name);
  }
  for (int k = 0; k < s->ins; k++)
    free(step[k]);
  outcome_free(&c);
}

/* d <yb, f(x)> / d x[k][i] by the complex step */
static double gradient_element(struct subject *s, struct outcome *c, int k, int64_t i, double *step)
{
  struct case_call call = full_call(s, &backend_cpu_c64, CASE_FWD, c);
  call.in_im[k] = step;
  step[i] = STEP;
  s->c64.run(&s->c64, &call);
  step[i] = 0;
  double sum = 0;
  for (int j = 0; j < s->outs; j++)
    for (int64_t m = 0; m < s->f64.out[j].count; m++)
      sum += s->yb[j][m] * (c->y_im[j][m] / STEP);
  return sum;
}

static void check_vjp(struct subject *s, const struct outcome *o)
{
  struct outcome c = outcome_new(s);
  int64_t total = 0;
  for (int k = 0; k < s->ins; k++)
    total += s->xd[k] ? s->f64.in[k].count : 0;
  for (int k = 0; k < s->ins; k++) {
    int64_t count = s->f64.in[k].count;
    int64_t samples = total <= ALL_ELEMENTS || count < SOME_ELEMENTS ? count : SOME_ELEMENTS;
    if (!s->xd[k])
      continue;
    double *got = doubles(samples), *want = doubles(samples), *step = doubles(count);
    for (int64_t j = 0; j < samples; j++) {
      int64_t i = samples == count ? j : (j * 2654435761 + 12345) % count;
      got[j] = o->xb[k][i];
      want[j] = gradient_element(s, &c, k, i, step);
    }
    expect(s, relative_error(samples, got, want), 1e-12, "complex step: vjp of %s",
           s->f64.in[k].name);
    free(got);
    free(want);
    free(step);
  }
  outcome_free(&c);
}

/* ---- differences and the dot product ---- */

static void central_difference(const struct subject *s, double h, struct outcome *difference)
{
  double *moved[CASE_TENSORS] = {0};
  struct outcome side[2];
  for (int b = 0; b < 2; b++) {
    side[b] = outcome_new(s);
    struct case_call call = full_call(s, baseline()->f64, CASE_FWD, &side[b]);
    for (int k = 0; k < s->ins; k++) {
      if (!s->xd[k])
        continue;
      moved[k] = doubles(s->f64.in[k].count);
      for (int64_t i = 0; i < s->f64.in[k].count; i++)
        moved[k][i] = s->x[k][i] + (b ? -h : h) * s->xd[k][i];
      call.in[k] = moved[k];
    }
    s->f64.run(&s->f64, &call);
    for (int k = 0; k < s->ins; k++)
      free(moved[k]);
  }
  for (int k = 0; k < s->outs; k++)
    for (int64_t i = 0; i < s->f64.out[k].count; i++)
      difference->yd[k][i] = (side[0].y[k][i] - side[1].y[k][i]) / (2 * h);
  outcome_free(&side[0]);
  outcome_free(&side[1]);
}

static void check_differences(struct subject *s, const struct outcome *o)
{
  double best[CASE_TENSORS];
  struct outcome d = outcome_new(s);
  for (int k = 0; k < s->outs; k++)
    best[k] = HUGE_VAL;
  for (double h = 1e-3; h > 5e-7; h /= 4) {
    central_difference(s, h, &d);
    for (int k = 0; k < s->outs; k++)
      best[k] = fmin(best[k], relative_error(s->f64.out[k].count, d.yd[k], o->yd[k]));
  }
  for (int k = 0; k < s->outs; k++)
    expect(s, best[k], 1e-7, "central differences: jvp of %s", s->f64.out[k].name);
  outcome_free(&d);
}

/* <yb, J xd> = <J' yb, xd> */
static void check_dot_product(struct subject *s, const struct outcome *o)
{
  double left = 0, right = 0, size = 1e-300;
  for (int k = 0; k < s->outs; k++)
    for (int64_t i = 0; i < s->f64.out[k].count; i++) {
      left += s->yb[k][i] * o->yd[k][i];
      size += fabs(s->yb[k][i] * o->yd[k][i]);
    }
  for (int k = 0; k < s->ins; k++)
    for (int64_t i = 0; s->xd[k] && i < s->f64.in[k].count; i++)
      right += o->xb[k][i] * s->xd[k][i];
  expect(s, fabs(left - right) / size, 1e-12, "dot product of vjp and jvp");
}

/* ---- adding and NULLs ---- */

static void check_vjp_adds(struct subject *s, const struct outcome *o)
{
  uint64_t state = 77;
  struct outcome a = outcome_new(s);
  double *start[CASE_TENSORS] = {0};
  for (int k = 0; k < s->ins; k++)
    if (s->xd[k]) {
      start[k] = draw(&state, s->f64.in[k].count, -1, 1);
      memcpy(a.xb[k], start[k], (size_t)s->f64.in[k].count * sizeof(double));
    }
  struct case_call call = full_call(s, baseline()->f64, CASE_VJP, &a);
  s->f64.run(&s->f64, &call);
  for (int k = 0; k < s->ins; k++)
    if (s->xd[k]) {
      for (int64_t i = 0; i < s->f64.in[k].count; i++)
        start[k][i] += o->xb[k][i];
      expect(s, relative_error(s->f64.in[k].count, a.xb[k], start[k]), 1e-13, "vjp adds to %s",
             s->f64.in[k].name);
      free(start[k]);
    }
  outcome_free(&a);
}

/* One wanted gradient or tangent is NULL: the others keep their bits. */
static void check_null_gradients(struct subject *s, const struct outcome *o)
{
  for (int n = 0; n < s->ins; n++) {
    if (!s->xd[n])
      continue;
    struct outcome v = outcome_new(s);
    struct case_call call = full_call(s, baseline()->f64, CASE_VJP, &v);
    call.inb[n] = NULL;
    s->f64.run(&s->f64, &call);
    for (int k = 0; k < s->ins; k++)
      if (s->xd[k] && k != n)
        expect(s, relative_error(s->f64.in[k].count, v.xb[k], o->xb[k]), 0,
               "vjp of %s without that of %s", s->f64.in[k].name, s->f64.in[n].name);
    outcome_free(&v);
  }
}

/* A NULL tangent is zero. */
static void check_null_tangents(struct subject *s, const struct outcome *o)
{
  for (int n = 0; n < s->ins; n++) {
    if (!s->xd[n])
      continue;
    struct outcome null = outcome_new(s), zero = outcome_new(s);
    double *zeros = doubles(s->f64.in[n].count);
    struct case_call call = full_call(s, baseline()->f64, CASE_JVP, &null);
    call.ind[n] = NULL;
    s->f64.run(&s->f64, &call);
    call = full_call(s, baseline()->f64, CASE_JVP, &zero);
    call.ind[n] = zeros;
    s->f64.run(&s->f64, &call);
    for (int k = 0; k < s->outs; k++) {
      double worst = 0, scale = 1e-300;
      for (int64_t i = 0; i < s->f64.out[k].count; i++) {
        double e = fabs(null.yd[k][i] - zero.yd[k][i]);
        worst = e <= worst ? worst : e;
        scale = fmax(scale, fabs(o->yd[k][i]));
      }
      expect(s, worst / scale, 1e-13, "jvp of %s with no tangent of %s", s->f64.out[k].name,
             s->f64.in[n].name);
    }
    free(zeros);
    outcome_free(&null);
    outcome_free(&zero);
  }
}

/* An optional input may be NULL: zeros, in every pass. */
static void check_optional_inputs(struct subject *s)
{
  for (int n = 0; n < s->ins; n++) {
    if (!s->f64.in[n].optional)
      continue;
    struct outcome null = outcome_new(s), zero = outcome_new(s);
    double *zeros = doubles(s->f64.in[n].count);
    for (int pass = CASE_FWD; pass <= CASE_JVP; pass++) {
      struct case_call call = full_call(s, baseline()->f64, pass, &null);
      call.in[n] = NULL;
      call.ind[n] = NULL;
      call.inb[n] = NULL;
      s->f64.run(&s->f64, &call);
      call = full_call(s, baseline()->f64, pass, &zero);
      call.in[n] = zeros;
      call.ind[n] = NULL;
      call.inb[n] = NULL;
      s->f64.run(&s->f64, &call);
    }
    char what[128];
    (void)snprintf(what, sizeof what, "%s NULL for zeros", s->f64.in[n].name);
    expect_same(s, &null, &zero, 1e-13, what);
    free(zeros);
    outcome_free(&null);
    outcome_free(&zero);
  }
}

/* An optional output may be NULL in every pass: the others keep theirs, its cotangent is zero. */
static void check_optional_outputs(struct subject *s)
{
  for (int n = 0; n < s->outs; n++) {
    if (!s->f64.out[n].optional)
      continue;
    struct outcome null = outcome_new(s), zero = outcome_new(s);
    double *zeros = doubles(s->f64.out[n].count);
    for (int pass = CASE_FWD; pass <= CASE_JVP; pass++) {
      struct case_call call = full_call(s, baseline()->f64, pass, &null);
      call.out[n] = NULL;
      call.outb[n] = NULL;
      call.outd[n] = NULL;
      s->f64.run(&s->f64, &call);
      call = full_call(s, baseline()->f64, pass, &zero);
      call.outb[n] = pass == CASE_VJP ? zeros : NULL;
      s->f64.run(&s->f64, &call);
    }
    memcpy(null.y[n], zero.y[n], (size_t)s->f64.out[n].count * sizeof(double));
    memcpy(null.yd[n], zero.yd[n], (size_t)s->f64.out[n].count * sizeof(double));
    char what[128];
    (void)snprintf(what, sizeof what, "%s NULL", s->f64.out[n].name);
    expect_same(s, &null, &zero, 1e-13, what);
    free(zeros);
    outcome_free(&null);
    outcome_free(&zero);
  }
}

/* ---- precisions, instruction sets, threads ---- */

static void check_threads(struct subject *s, const struct operation_case *c, const void *be,
                          const struct outcome *one, const char *what)
{
  char text[128];
  int before = omp_get_max_threads();
  omp_set_num_threads(THREADS);
  struct outcome several = evaluate_all(s, c, be);
  (void)snprintf(text, sizeof text, "%s with %d threads", what, THREADS);
  expect_same(s, &several, one, 0, text);
  outcome_free(&several);
  omp_set_num_threads(before);
}

static void check_instruction_sets(struct subject *s, const struct outcome *reference)
{
  const struct backend_cpu *all;
  int count = backend_cpu_list(&all);
  for (int i = 0; i < count; i++) {
    if (!backend_cpu_supported(&all[i]))
      continue;
    char what[64];
    struct outcome wide = evaluate_all(s, &s->f64, all[i].f64);
    struct outcome narrow = evaluate_all(s, &s->f32, all[i].f32);
    (void)snprintf(what, sizeof what, "%s float64", all[i].isa);
    expect_same(s, &wide, reference, 1e-12, what);
    check_threads(s, &s->f64, all[i].f64, &wide, what);
    (void)snprintf(what, sizeof what, "%s float32", all[i].isa);
    expect_same(s, &narrow, reference, s->f64.float_bound, what);
    check_threads(s, &s->f32, all[i].f32, &narrow, what);
    outcome_free(&wide);
    outcome_free(&narrow);
  }
}

static int check_case(struct subject *s)
{
  subject_init(s, 1);
  omp_set_num_threads(1);
  struct outcome o = evaluate_all(s, &s->f64, baseline()->f64);
  check_jvp(s, &o);
  check_vjp(s, &o);
  check_differences(s, &o);
  check_dot_product(s, &o);
  check_vjp_adds(s, &o);
  check_null_gradients(s, &o);
  check_null_tangents(s, &o);
  check_optional_inputs(s);
  check_optional_outputs(s);
  check_instruction_sets(s, &o);
  outcome_free(&o);
  subject_free(s);
  return s->failures;
}

void check_operations_(case_list *f32, case_list *f64, case_list *c64)
{
  int failures = 0, cases = 0;
  int before = omp_get_max_threads();
  struct subject s = {.failures = 0};
  for (; f64(cases, &s.f64); cases++) {
    assert_true(f32(cases, &s.f32) && c64(cases, &s.c64));
    failures += check_case(&s);
    s = (struct subject){.failures = 0};
  }
  omp_set_num_threads(before);
  assert_true(cases > 0);
  if (failures)
    fail_msg("%d violations in %d cases", failures, cases);
}

/* ---- another device ---- */

/* Moves each of n numbers by `relative`, up or down. */
static void disturb(uint64_t *state, double relative, int64_t n, double *x)
{
  for (int64_t i = 0; x && i < n; i++)
    x[i] *= 1 + (uniform(state) < 0.5 ? -relative : relative);
}

/* What float32 cannot resolve of results that cancel, as freshly drawn sums may: several times by
 * how much they move in float64 when all that goes in moves by `unit`, half a last digit. */
static struct differences unresolved(struct subject *s, const struct outcome *want, double unit,
                                     uint64_t seed)
{
  enum { DRAWS = 4, TIMES = 8 };
  struct differences most = {0};
  uint64_t state = ~seed; /* of what disturbs: each draw starts from the same inputs */
  for (int draw = 0; draw < DRAWS; draw++) {
    subject_free(s);
    subject_init(s, seed);
    for (int k = 0; k < s->ins; k++)
      if (s->xd[k]) {
        disturb(&state, unit, s->f64.in[k].count, s->x[k]);
        disturb(&state, unit, s->f64.in[k].count, s->xd[k]);
      }
    for (int k = 0; k < s->outs; k++)
      disturb(&state, unit, s->f64.out[k].count, s->yb[k]);
    struct outcome moved = evaluate_all(s, &s->f64, baseline()->f64);
    struct differences d = differences_of(s, &moved, want);
    for (int k = 0; k < CASE_TENSORS; k++) {
      most.y[k] = fmax(most.y[k], TIMES * d.y[k]);
      most.yd[k] = fmax(most.yd[k], TIMES * d.yd[k]);
      most.xb[k] = fmax(most.xb[k], TIMES * d.xb[k]);
    }
    outcome_free(&moved);
  }
  return most;
}

static int check_case_on(struct subject *s, const void *f32, const void *f64, double unit,
                         uint64_t seed)
{
  subject_init(s, seed);
  struct outcome want = evaluate_all(s, &s->f64, baseline()->f64);
  struct outcome wide = evaluate_all(s, &s->f64, f64), narrow = evaluate_all(s, &s->f32, f32);
  struct outcome again = evaluate_all(s, &s->f64, f64);
  struct differences more = unresolved(s, &want, unit, seed);
  expect_same(s, &wide, &want, 1e-12, "device, float64");
  for (int k = 0; k < CASE_TENSORS && unit == FLOAT_UNIT; k++) /* else it would let anything pass */
    expect(s, fmax(more.y[k], fmax(more.yd[k], more.xb[k])), 0.2, "device, unresolved");
  expect_within(s, &narrow, &want, s->f64.float_bound * unit / FLOAT_UNIT, &more,
                "device, float32");
  expect_same(s, &again, &wide, 0, "device, once more");
  outcome_free(&want);
  outcome_free(&wide);
  outcome_free(&narrow);
  outcome_free(&again);
  subject_free(s);
  return s->failures;
}

void check_on_device_(case_list *f32, case_list *f64, const void *device_f32,
                      const void *device_f64, double unit, uint64_t seed)
{
  int failures = 0, cases = 0;
  struct subject s = {.failures = 0};
  for (; f64(cases, &s.f64); cases++) {
    assert_true(f32(cases, &s.f32));
    failures += check_case_on(&s, device_f32, device_f64, unit, seed);
    s = (struct subject){.failures = 0};
  }
  assert_true(cases > 0);
  if (failures)
    fail_msg("%d violations in %d cases", failures, cases);
}
