/* device_operations.c: the tests of device_operations.h. */
#include "tests/numeric/device_operations.h"
#include "core/backend.h"
#include "tests/check.h"
#include "tests/derivatives.h"
#include <stdlib.h>
#include <string.h>

#if REAL_BITS != 128

/* float64: rounding of sums in another order; float32: of this precision */
#define TOLERANCE (REAL_BITS == 64 ? 1e-12 : 2e-5)

#define both NAME(both_devices)
enum { ARRAYS = 24 };
struct both {
  const struct backend *be[2]; /* CPU, device */
  uint64_t state;
  struct array {
    void *at[2];
    int64_t n;
    size_t size;
  } array[ARRAYS];
  int arrays;
};

static struct both begin(const void *cpu, const void *device, uint64_t seed)
{
  struct both b = {.be = {cpu, device}, .state = seed};
  return b;
}

static double uniform(struct both *b)
{
  uint64_t z = (b->state += 0x9e3779b97f4a7c15u); /* splitmix64 */
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 40) / (double)(1 << 24);
}

static struct array *add(struct both *b, int64_t n, size_t size, const void *host)
{
  assert_true(b->arrays < ARRAYS);
  struct array *a = &b->array[b->arrays++];
  a->n = n, a->size = size;
  for (int k = 0; k < 2; k++) {
    check_ok(b->be[k]->memory_alloc((size_t)n * size, &a->at[k]));
    check_ok(b->be[k]->upload(b->be[k]->st, (size_t)n * size, host, a->at[k]));
  }
  return a;
}

static struct array *reals(struct both *b, int64_t n, double lo, double hi)
{
  real *x = calloc((size_t)n, sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++)
    x[i] = (real)(lo + (hi - lo) * uniform(b));
  struct array *a = add(b, n, sizeof *x, x);
  free(x);
  return a;
}

/* Bytes of ones: NaN. */
static struct array *poison(struct both *b, int64_t n, size_t size)
{
  void *x = malloc((size_t)n * size);
  assert_non_null(x);
  memset(x, 0xff, (size_t)n * size);
  struct array *a = add(b, n, size, x);
  free(x);
  return a;
}

static struct array *integers(struct both *b, int64_t n, const int32_t *x)
{
  return add(b, n, sizeof *x, x);
}

/* What an array of doubles, reals or integers holds on device k, as doubles to be freed. */
static double *values(const struct both *b, const struct array *a, int k, bool whole)
{
  double *out = calloc((size_t)a->n, sizeof *out);
  char *host = malloc((size_t)a->n * a->size);
  assert_true(out && host);
  check_ok(b->be[k]->download(b->be[k]->st, (size_t)a->n * a->size, a->at[k], host));
  for (int64_t i = 0; i < a->n; i++) {
    const void *p = host + (size_t)i * a->size;
    out[i] = whole                     ? (double)*(const int32_t *)p
             : a->size == sizeof(real) ? (double)*(const real *)p
                                       : *(const double *)p;
  }
  free(host);
  return out;
}

static void same(const struct both *b, const struct array *a, double tol, const char *what)
{
  bool whole = tol == 0 && a->size == sizeof(int32_t) && REAL_BITS == 64;
  double *want = values(b, a, 0, whole), *got = values(b, a, 1, whole);
  check_arrays_close(a->n, got, want, tol, "%s (%d bits)", what, REAL_BITS);
  free(want), free(got);
}

/* Errors in proportion to the largest of all. */
static void same_in_all(const struct both *b, const struct array *a, double tol, const char *what)
{
  double *want = values(b, a, 0, false), *got = values(b, a, 1, false), most = 0;
  for (int64_t i = 0; i < a->n; i++)
    most = fmax(most, fabs(want[i]));
  for (int64_t i = 0; i < a->n; i++)
    want[i] /= most, got[i] /= most;
  check_arrays_close(a->n, got, want, tol, "%s (%d bits)", what, REAL_BITS);
  free(want), free(got);
}

static void same_integers(const struct both *b, const struct array *a, const char *what)
{
  double *want = values(b, a, 0, true), *got = values(b, a, 1, true);
  for (int64_t i = 0; i < a->n; i++)
    if (want[i] != got[i])
      fail_msg("%s: element %lld is %g, not %g", what, (long long)i, got[i], want[i]);
  free(want), free(got);
}

static void end(struct both *b)
{
  for (int i = 0; i < b->arrays; i++)
    for (int k = 0; k < 2; k++)
      b->be[k]->memory_free(b->array[i].at[k]);
  for (int k = 0; k < 2; k++)
    check_ok(b->be[k]->sync(b->be[k]->st));
}

/* On both: be, k in scope. */
#define ON_BOTH(b)            \
  for (int k = 0; k < 2; k++) \
    for (const struct backend *be = (b).be[k]; be; be = NULL)

#define device_holds_memory NAME(device_holds_memory)
void device_holds_memory(const void *cpu, const void *device, uint64_t seed)
{
  const struct backend *be = device;
  void *p, *empty;
  double sent[3] = {1, 2, 3}, received[3] = {0};
  (void)cpu, (void)seed;
  check_ok(be->memory_alloc(sizeof sent, &p));
  check_ok(be->memory_alloc(0, &empty));
  check_ok(be->upload(be->st, sizeof sent, sent, p));
  sent[1] = 7; /* the copy has been taken */
  check_ok(be->download(be->st, sizeof sent, p, received));
  assert_true(received[0] == 1 && received[1] == 2 && received[2] == 3);
  be->memory_free(p);
  be->memory_free(empty);
  assert_int_equal(be->memory_alloc((size_t)1 << 50, &p), ERR_MEMORY);
  assert_non_null(strstr(last_error(), "MiB"));
  check_ok(be->sync(be->st)); /* that was no error of an operation */
}

#define device_vectors NAME(device_vectors)
void device_vectors(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t sizes[] = {1, 7, 8, 129, 1028, 100003, 100004};
  for (int i = 0; i < 7; i++) {
    int64_t n = sizes[i];
    struct both b = begin(cpu, device, seed);
    struct array *x = reals(&b, n, -1, 1), *y = reals(&b, n, -1, 1);
    struct array *z = poison(&b, n, sizeof(real)), *f = poison(&b, n, sizeof(real));
    struct array *odd = reals(&b, n + 1, -1, 1); /* from 1 on: no address of a pack */
    struct array *a = reals(&b, n, -1, 1);
    struct array *sum = poison(&b, 1, sizeof(double)), *dot = poison(&b, 1, sizeof(wide)),
                 *c = reals(&b, n * 5, -1, 1);
    ON_BOTH(b)
    {
      be->axpby(be->st, n, (real)0.5, x->at[k], 0, z->at[k]);
      be->axpby(be->st, n, (real)0.5, x->at[k], (real)-0.25, y->at[k]);
      for (int q = 0; q < 3; q++)
        be->accumulate(be->st, 1, n, n, x->at[k], q > 0 ? y->at[k] : NULL, q > 1 ? z->at[k] : NULL,
                       a->at[k]);
      for (int q = 0; q < 3; q++) /* of columns, by packs where n allows */
        be->accumulate(be->st, n / 12, 8, 12, (real *)x->at[k] + n / 100 % 5,
                       q > 0 ? y->at[k] : NULL, q > 1 ? z->at[k] : NULL, a->at[k]);
      be->fill(be->st, n, (real)3, f->at[k]);
      be->fill(be->st, n / 2, (real)3, (real *)odd->at[k] + 1);
      be->axpby(be->st, n, (real)0.5, x->at[k], (real)-0.25, (real *)odd->at[k] + 1);
      be->axpby(be->st, n / 3, (real)2, x->at[k], 0, (real *)odd->at[k] + 1);
      be->sum_squares(be->st, n, x->at[k], sum->at[k]);
      be->dot(be->st, n, x->at[k], x->at[k], dot->at[k]);
      be->columns(be->st, n, 1, (real)2, 1, x->at[k], (real)0.5, 5, (real *)c->at[k] + 3);
    }
    same(&b, z, TOLERANCE, "axpby");
    same(&b, y, TOLERANCE, "axpby in place");
    same(&b, a, TOLERANCE, "accumulate");
    same(&b, f, 0, "fill");
    same(&b, odd, TOLERANCE, "fill and axpby from an odd element on");
    same(&b, sum, 1e-13, "sum_squares");
    same(&b, dot, 1e-13, "dot");
    same(&b, c, TOLERANCE, "columns");
    end(&b);
  }
}

/* Blocks of N elements: packs or not, one piece of a warp or several. */
static void move_blocks(struct both b, int64_t N)
{
  enum { ROWS = 3, BLOCKS = 4, LENGTH = 6 };
  const int32_t row[] = {2, 0, 3}, first[] = {1, -1, 4}, count[] = {4, 3, 2};
  struct array *src = reals(&b, (ROWS + 1) * LENGTH * N, -1, 1);
  struct array *dst = poison(&b, ROWS * BLOCKS * N, sizeof(real));
  struct array *back = reals(&b, (ROWS + 1) * LENGTH * N, -1, 1);
  struct array *r = integers(&b, ROWS, row), *f = integers(&b, ROWS, first);
  struct array *c = integers(&b, ROWS, count);
  const int32_t forward[] = {1, 0, 4};
  struct array *g = integers(&b, ROWS, forward);
  ON_BOTH(b)
  {
    be->gather_blocks(be->st, ROWS, BLOCKS, N, LENGTH, r->at[k], f->at[k], c->at[k], src->at[k],
                      dst->at[k]);
    be->scatter_blocks(be->st, ROWS, BLOCKS, N, LENGTH, r->at[k], g->at[k], c->at[k], dst->at[k],
                       back->at[k]);
  }
  same(&b, dst, 0, "gather_blocks");
  same(&b, back, 0, "scatter_blocks");
  end(&b);
}

#define device_blocks NAME(device_blocks)
void device_blocks(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t sizes[] = {1, 37, 40, 1029, 4104};
  for (int i = 0; i < 5; i++)
    move_blocks(begin(cpu, device, seed), sizes[i]);
}

/* Norms of what a branch is added to, masks by row or not, damped or not; what was there is kept,
 * halved or not read; in place.  Rows that fit registers, or do not, or whose addresses are odd. */
static void branches(struct both b, int64_t D, int64_t B, int64_t T, int64_t odd)
{
  int64_t n = B * T * D;
  int32_t row[16];
  for (int64_t i = 0; i < B; i++)
    row[i] = (int32_t)(B - 1 - i);
  struct array *x = reals(&b, n + odd, -1, 1), *out = reals(&b, n, -1, 1);
  struct array *mask = reals(&b, B * D, 0, 2), *w = reals(&b, D, 0.5, 2), *z = reals(&b, n, -1, 1);
  struct array *index = integers(&b, B, row), *r = poison(&b, B * T, sizeof(real));
  struct array *y[4], *h = poison(&b, n, sizeof(real)), *sum = reals(&b, n + odd, -1, 1);
  struct array *yb = reals(&b, n, -1, 1), *xb = poison(&b, n, sizeof(real));
  struct array *outb = poison(&b, n, sizeof(real)), *wb = reals(&b, D, -1, 1);
  struct array *half = reals(&b, n, -1, 1), *masked = poison(&b, n, sizeof(real));
  struct array *square = poison(&b, B * T, sizeof(double));
  struct array *reference = poison(&b, B * T, sizeof(double));
  for (int q = 0; q < 4; q++)
    y[q] = poison(&b, n, sizeof(real));
  ON_BOTH(b)
  {
    real *xk = (real *)x->at[k] + odd, *sumk = (real *)sum->at[k] + odd;
    const struct branch_norm mapped = {B,    T,        xk,   index->at[k], mask->at[k], w->at[k], 1,
                                       NULL, r->at[k], NULL, y[0]->at[k],  NULL,        NULL};
    struct branch_norm damped = mapped, kept = mapped, alone = mapped, onto_x = mapped;
    alone.x = NULL, alone.row = NULL, alone.h = h->at[k], alone.y = y[1]->at[k];
    kept = alone, kept.x = xk, kept.mask = NULL, kept.damping = 0.75;
    kept.z = z->at[k], kept.y = y[2]->at[k];
    kept.square = square->at[k], kept.reference = reference->at[k];
    damped = kept, damped.mask = mask->at[k], damped.damping = 0.5;
    damped.z = xk, damped.y = y[3]->at[k], damped.square = damped.reference = NULL;
    be->rmsnorm_fwd(be->st, D, (real)1e-5, out->at[k], mapped);
    be->rmsnorm_fwd(be->st, D, (real)1e-5, out->at[k], alone);
    be->rmsnorm_fwd(be->st, D, (real)1e-5, out->at[k], kept);
    be->rmsnorm_fwd(be->st, D, (real)1e-5, out->at[k], damped);
    be->rmsnorm_vjp(be->st, B, T, D, h->at[k], w->at[k], mask->at[k], r->at[k], (real)0.75,
                    yb->at[k], NULL, 0, 0, xb->at[k], outb->at[k], wb->at[k]);
    be->rmsnorm_vjp(be->st, B, T, D, h->at[k], w->at[k], NULL, r->at[k], 1, yb->at[k], NULL, 1, 0,
                    xb->at[k], masked->at[k], NULL);
    be->rmsnorm_vjp(be->st, B, T, D, h->at[k], w->at[k], NULL, r->at[k], 1, yb->at[k], sumk,
                    (real)0.5, 0, half->at[k], NULL, wb->at[k]);
    be->rmsnorm_vjp(be->st, B, T, D, h->at[k], w->at[k], mask->at[k], r->at[k], (real)0.5,
                    yb->at[k], NULL, 0, (real)0.25, yb->at[k], sumk, wb->at[k]);
    onto_x.y = xk;
    be->rmsnorm_fwd(be->st, D, (real)1e-5, out->at[k], onto_x);
  }
  for (int q = 0; q < 4; q++)
    same(&b, y[q], TOLERANCE, "rmsnorm of a branch");
  same(&b, square, TOLERANCE, "its distance from z");
  same(&b, reference, TOLERANCE, "its norm");
  same(&b, h, TOLERANCE, "sum with a branch");
  same(&b, x, TOLERANCE, "rmsnorm of a branch in place");
  same(&b, r, TOLERANCE, "rmsnorm's scale");
  same(&b, xb, TOLERANCE, "cotangent of the sum");
  same(&b, outb, TOLERANCE, "cotangent of the branch");
  same(&b, masked, TOLERANCE, "cotangent of the branch without mask");
  same(&b, half, TOLERANCE, "half a cotangent and others");
  same(&b, yb, TOLERANCE, "cotangent in place");
  same(&b, sum, TOLERANCE, "cotangent in place, masked");
  same(&b, wb, TOLERANCE, "cotangent of rmsnorm's weight");
  end(&b);
}

#define device_branches NAME(device_branches)
void device_branches(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][4] = {{7, 5, 9, 0},    {64, 5, 9, 0},  {256, 3, 343, 0},
                                      {1028, 2, 3, 0}, {256, 5, 9, 1}, {2500, 2, 3, 0},
                                      {400, 16, 1, 0}};
  for (int i = 0; i < 7; i++)
    branches(begin(cpu, device, seed), shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
}

/* The logits in one pass, of whole packs and not, and of more columns than a warp holds. */
#define device_losses NAME(device_losses)
void device_losses(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][2] = {{1, 1}, {7, 6}, {5003, 12}, {129, 31}, {300, 32}, {33, 1100}};
  for (int i = 0; i < 6; i++) {
    int64_t M = shapes[i][0], V = shapes[i][1];
    struct both b = begin(cpu, device, seed);
    int32_t *labels = calloc((size_t)M, sizeof *labels);
    assert_non_null(labels);
    for (int64_t m = 0; m < M; m++)
      labels[m] = m % 11 == 3 ? IGNORED_LABEL : (int32_t)(m * 5 % V);
    struct array *l = integers(&b, M, labels), *x = reals(&b, M * V, -4, 4);
    struct array *best = poison(&b, M, sizeof(int32_t)), *lse = poison(&b, M, sizeof(real));
    struct array *loss = poison(&b, M, sizeof(wide)), *sums = poison(&b, 2, sizeof(wide));
    struct array *xb = poison(&b, M * V, sizeof(real)), *alone = poison(&b, M, sizeof(wide));
    wide host[2][2], first[2];
    ON_BOTH(b)
    {
      be->cross_entropy_fwd(be->st, M, V, x->at[k], l->at[k], lse->at[k], loss->at[k], best->at[k],
                            (real)0.5, xb->at[k]);
      be->cross_entropy_fwd(be->st, M, V, x->at[k], l->at[k], lse->at[k], alone->at[k], NULL, 0,
                            NULL);
      be->sum_losses(be->st, M, l->at[k], best->at[k], loss->at[k], sums->at[k]);
      check_ok(be->download(be->st, sizeof host[k], sums->at[k], host[k]));
      be->sum_losses(be->st, M, l->at[k], best->at[k], alone->at[k], sums->at[k]);
      check_ok(be->download(be->st, sizeof first, sums->at[k], first));
      assert_memory_equal(first, host[k], sizeof first);
    }
    check_close((double)host[1][0], (double)host[0][0], TOLERANCE, "sum of the losses");
    assert_true(host[1][1] == host[0][1]);
    same(&b, lse, TOLERANCE, "lse");
    same(&b, xb, TOLERANCE, "cotangent of the logits");
    same_integers(&b, best, "argmax beside the losses");
    free(labels);
    end(&b);
  }
}

#define device_argmax NAME(device_argmax)
void device_argmax(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][2] = {{1, 1}, {7, 6}, {129, 60}, {3, 1100}};
  for (int i = 0; i < 4; i++) {
    int64_t M = shapes[i][0], V = shapes[i][1];
    struct both b = begin(cpu, device, seed);
    struct array *x = reals(&b, M * V, -4, 4), *best = poison(&b, M, sizeof(int32_t));
    ON_BOTH(b)
    be->argmax(be->st, M, V, x->at[k], best->at[k]);
    same_integers(&b, best, "argmax");
    end(&b);
  }
}

#define device_adamw NAME(device_adamw)
void device_adamw(const void *cpu, const void *device, uint64_t seed)
{
  enum { N = 1003 };
  struct both b = begin(cpu, device, seed);
  struct array *g = reals(&b, N, -1, 1), *m = reals(&b, N, -1, 1), *v = reals(&b, N, 0, 1);
  struct array *p = reals(&b, N, -1, 1);
  ON_BOTH(b)
  for (int64_t step = 1; step <= 3; step++)
    be->adamw(be->st, N, step, 1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, g->at[k], m->at[k], v->at[k],
              p->at[k]);
  same(&b, m, TOLERANCE, "first moment");
  same(&b, v, TOLERANCE, "second moment");
  same(&b, p, TOLERANCE, "parameters");
  end(&b);
}

#define device_masks NAME(device_masks)
void device_masks(const void *cpu, const void *device, uint64_t seed)
{
  enum { ROWS = 5, N = 131 };
  struct both b = begin(cpu, device, seed);
  struct array *mask = poison(&b, ROWS * N, sizeof(real));
  struct array *quads = poison(&b, ROWS * (N + 1), sizeof(real));
  struct dropout_draw draw = {.seed = seed, .step = 3, .first = 2};
  ON_BOTH(b)
  {
    be->dropout_mask(be->st, ROWS, N, 0.3, draw, 1, mask->at[k]);
    be->dropout_mask(be->st, ROWS, N + 1, 0.5, draw, 2, quads->at[k]);
  }
  same(&b, mask, 0, "dropout_mask");
  same(&b, quads, 0, "dropout_mask of whole quads");
  end(&b);
}

/* Matrices of the sizes that training has, and sums over rows that several blocks share. */
#define device_products NAME(device_products)
void device_products(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][3] = {{1, 64, 292}, {1027, 64, 292}, {33, 257, 129},
                                      {2, 1, 1},    {1300, 8, 35},   {5, 0, 12},
                                      {5, 0, 7},    {301, 33, 70}};
  for (int i = 0; i < 8; i++) {
    int64_t M = shapes[i][0], K = shapes[i][1], N = shapes[i][2];
    struct both b = begin(cpu, device, seed);
    struct array *x = reals(&b, M * K, -1, 1), *W = reals(&b, N * K, -1, 1);
    struct array *bias = reals(&b, N, -1, 1), *y = poison(&b, M * N, sizeof(real));
    struct array *xb = reals(&b, M * K, -1, 1), *Wb = reals(&b, N * K, -1, 1);
    struct array *Wt = poison(&b, N * K, sizeof(real));
    struct array *bb = reals(&b, N, -1, 1), *yd = poison(&b, M * N, sizeof(real));
    struct array *c = reals(&b, M * N, -1, 1), *only = poison(&b, M * K, sizeof(real));
    struct array *sum[4];
    for (int q = 0; q < 4; q++)
      sum[q] = poison(&b, M * N, sizeof(real));
    ON_BOTH(b)
    {
      be->linear_fwd(be->st, M, K, N, x->at[k], W->at[k], NULL, bias->at[k], 0, NULL, y->at[k]);
      be->transpose(be->st, N, K, W->at[k], Wt->at[k]);
      be->linear_fwd(be->st, M, K, N, x->at[k], W->at[k], Wt->at[k], NULL, 1, NULL, y->at[k]);
      for (int q = 0; q < 4; q++) /* twice: what is kept of the first serves the second */
        for (int again = 0; again < 2; again++)
          be->linear_fwd(be->st, M, K, N, x->at[k], W->at[k], q % 2 ? Wt->at[k] : NULL,
                         q < 2 ? bias->at[k] : NULL, q == 1 ? (real)0.5 : 1, c->at[k],
                         sum[q]->at[k]);
      be->linear_vjp(be->st, M, K, N, x->at[k], W->at[k], y->at[k], 1, xb->at[k], Wb->at[k],
                     bb->at[k]);
      be->linear_vjp(be->st, M, K, N, x->at[k], W->at[k], y->at[k], 0, only->at[k], NULL, NULL);
      be->linear_jvp(be->st, M, K, N, x->at[k], W->at[k], NULL, W->at[k], NULL, yd->at[k]);
      be->linear_jvp(be->st, M, K, N, x->at[k], W->at[k], NULL, NULL, NULL, y->at[k]);
    }
    same(&b, xb, TOLERANCE, "cotangent of x");
    for (int q = 0; q < 4; q++)
      same(&b, sum[q], TOLERANCE, "product and another");
    same(&b, only, TOLERANCE, "cotangent of x alone");
    same(&b, Wb, TOLERANCE, "cotangent of W");
    same(&b, Wt, 0, "transpose");
    same(&b, bb, TOLERANCE, "cotangent of b");
    same(&b, yd, TOLERANCE, "tangent by W");
    same(&b, y, 0, "tangent of nothing");
    end(&b);
  }
}

/* Sums over more rows than a block of threads has, which several blocks share. */
#define device_reductions NAME(device_reductions)
void device_reductions(const void *cpu, const void *device, uint64_t seed)
{
  enum { M = 5003, D = 67, V = 7, G = 1, H = 3 };
  int32_t tokens[M];
  struct both b = begin(cpu, device, seed);
  for (int i = 0; i < M; i++)
    tokens[i] = i % 11 == 3 ? -1 : (int32_t)(uniform(&b) * V);
  struct array *x = reals(&b, M * D, -1, 1), *w = reals(&b, D, 0.5, 2);
  struct array *r = poison(&b, M, sizeof(real)), *y = poison(&b, M * D, sizeof(real));
  struct array *yb = reals(&b, M * D, -1, 1), *xb = reals(&b, M * D, -1, 1);
  struct array *wb = reals(&b, D, -1, 1), *t = integers(&b, M, tokens);
  struct array *Eb = reals(&b, V * D, -1, 1), *gb = reals(&b, D, -1, 1);
  struct array *zb = reals(&b, M * D, -1, 1), *biasb = reals(&b, H, -1, 1);
  struct array *gr = poison(&b, M, sizeof(real)), *out = poison(&b, M * D, sizeof(real));
  struct gated_rmsnorm_shape d = {M, D, G, D, false};
  ON_BOTH(b)
  {
    const struct branch_norm n = {
        .B = M, .T = 1, .x = x->at[k], .w = w->at[k], .damping = 1, .r = r->at[k], .y = y->at[k]};
    be->rmsnorm_fwd(be->st, D, (real)1e-5, NULL, n);
    for (int again = 0; again < 2; again++) /* what the first call leaves, the second begins with */
      be->rmsnorm_vjp(be->st, M, 1, D, x->at[k], w->at[k], NULL, r->at[k], 1, yb->at[k], NULL, 1, 0,
                      xb->at[k], NULL, wb->at[k]);
    be->embedding_vjp(be->st, M, V, D, t->at[k], NULL, yb->at[k], Eb->at[k]);
    be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, x->at[k], yb->at[k], w->at[k], gr->at[k],
                          out->at[k]);
    be->gated_rmsnorm_vjp(be->st, d, x->at[k], yb->at[k], w->at[k], gr->at[k], y->at[k], 1,
                          xb->at[k], zb->at[k], gb->at[k]);
    be->softplus_clamp_vjp(be->st, M, H, D, x->at[k], w->at[k], 0, 100, yb->at[k], 1, zb->at[k],
                           biasb->at[k]);
  }
  same(&b, y, TOLERANCE, "rmsnorm");
  same(&b, out, TOLERANCE, "gated_rmsnorm");
  same(&b, xb, TOLERANCE, "cotangent of x");
  same(&b, zb, TOLERANCE, "cotangent of z");
  same(&b, wb, TOLERANCE, "cotangent of rmsnorm's weight");
  same(&b, gb, TOLERANCE, "cotangent of gated_rmsnorm's weight");
  same(&b, Eb, TOLERANCE, "cotangent of the embedding");
  same(&b, biasb, TOLERANCE, "cotangent of dt's bias");
  end(&b);
}

static void plain_norms(struct both b, int64_t M, int64_t D, bool w_alone)
{
  struct array *x = reals(&b, M * D, -1, 1), *w = reals(&b, D, 0.5, 2);
  struct array *r = poison(&b, M, sizeof(real)), *y = poison(&b, M * D, sizeof(real));
  struct array *yb = reals(&b, M * D, -1, 1), *xb = reals(&b, M * D, -1, 1);
  struct array *wb = reals(&b, D, -1, 1);
  ON_BOTH(b)
  {
    const struct branch_norm n = {
        .B = M, .T = 1, .x = x->at[k], .w = w->at[k], .damping = 1, .r = r->at[k], .y = y->at[k]};
    be->rmsnorm_fwd(be->st, D, (real)1e-5, NULL, n);
    be->rmsnorm_vjp(be->st, M, 1, D, x->at[k], w->at[k], NULL, r->at[k], 1, yb->at[k], NULL, 1, 0,
                    w_alone ? NULL : xb->at[k], NULL, wb->at[k]);
    be->rmsnorm_vjp(be->st, M, 1, D, x->at[k], w->at[k], NULL, r->at[k], 1, yb->at[k], NULL, 1, 0,
                    xb->at[k], NULL, NULL);
  }
  same(&b, r, TOLERANCE, "rmsnorm's scale");
  same(&b, y, TOLERANCE, "rmsnorm");
  same(&b, xb, TOLERANCE, "cotangent of x");
  same(&b, wb, TOLERANCE, "cotangent of rmsnorm's weight");
  end(&b);
}

/* Rows that fit registers, or do not, or whose addresses are odd; and so many of them that a walker
 * (kernels/teams_cuda.h) widens its sums. */
static const struct norm_case {
  int64_t rows, E, G, ldz, z_at;
} norm_cases[] = {{7, 4, 1, 4, 0},        {129, 400, 4, 404, 4}, {1030, 256, 1, 292, 4},
                  {33, 1024, 1, 2320, 0}, {9, 2048, 1, 2048, 0}, {5, 4100, 1, 4100, 0},
                  {65, 128, 1, 292, 3},   {3, 128, 64, 128, 0},  {2, 5000, 2, 5000, 0},
                  {3001, 16, 2, 20, 0}};
enum { NORM_CASES = sizeof norm_cases / sizeof *norm_cases };

static void gated_norms(struct both b, struct norm_case c, bool norm_first, real beta, bool w_alone)
{
  struct gated_rmsnorm_shape d = {c.rows, c.E, c.G, c.ldz, norm_first};
  int64_t n = c.rows * c.E, nz = c.rows * c.ldz;
  struct array *y = reals(&b, n, -1, 1), *z = reals(&b, nz, -6, 6), *w = reals(&b, c.E, 0.5, 2);
  struct array *outb = reals(&b, n, -1, 1), *r = poison(&b, c.rows * c.G, sizeof(real));
  struct array *out = poison(&b, n, sizeof(real)), *wb = reals(&b, c.E, -1, 1);
  struct array *yb = beta == 0 ? poison(&b, n, sizeof(real)) : reals(&b, n, -1, 1);
  struct array *zb = reals(&b, nz, -1, 1), *yb1 = reals(&b, n, -1, 1);
  ON_BOTH(b)
  {
    const real *zk = (const real *)z->at[k] + c.z_at;
    real *zbk = (real *)zb->at[k] + c.z_at;
    be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, y->at[k], zk, w->at[k], r->at[k], out->at[k]);
    be->gated_rmsnorm_vjp(be->st, d, y->at[k], zk, w->at[k], r->at[k], outb->at[k], beta,
                          w_alone ? NULL : yb->at[k], w_alone ? NULL : zbk, wb->at[k]);
    if (!w_alone) /* without wb, and each without the other */
      be->gated_rmsnorm_vjp(be->st, d, y->at[k], zk, w->at[k], r->at[k], outb->at[k], beta, NULL,
                            zbk, NULL);
    be->gated_rmsnorm_vjp(be->st, d, y->at[k], zk, w->at[k], r->at[k], outb->at[k], beta,
                          yb1->at[k], NULL, NULL);
  }
  same(&b, r, TOLERANCE, "gated_rmsnorm's scale");
  same(&b, out, TOLERANCE, "gated_rmsnorm");
  if (!w_alone)
    same(&b, yb, TOLERANCE, "cotangent of y");
  same(&b, yb1, TOLERANCE, "cotangent of y alone");
  same(&b, zb, TOLERANCE, "cotangent of z");
  same(&b, wb, TOLERANCE, "cotangent of gated_rmsnorm's weight");
  end(&b);
}

#define device_norms NAME(device_norms)
void device_norms(const void *cpu, const void *device, uint64_t seed)
{
  for (int i = 0; i < NORM_CASES; i++) {
    for (int beta = 0; beta < 3; beta++)
      gated_norms(begin(cpu, device, seed), norm_cases[i], (beta + i) % 2, (real)beta / 2,
                  beta == 1);
    plain_norms(begin(cpu, device, seed), norm_cases[i].rows, norm_cases[i].E, i % 2 == 1);
  }
}

/* Shapes for one pass and others: rows that are no whole tile, more tiles than blocks; groups, the
 * norm before the gate, a bias, an odd place. */
static const struct gated_linear_case {
  int64_t rows, E, N, gap, G;
  bool norm_first, biased;
  int64_t z_at;
} gated_linear_cases[] = {
    {128, 64, 64, 0, 1, false, false, 0},       {517, 128, 256, 36, 1, false, false, 4},
    {301, 1024, 128, 1296, 1, false, false, 0}, {259, 1024, 256, 1296, 1, false, false, 0},
    {777, 192, 64, 8, 1, false, false, 8},      {131, 64, 64, 4, 2, false, false, 0},
    {131, 64, 64, 0, 1, true, false, 0},        {131, 64, 64, 0, 1, false, true, 0},
    {131, 64, 64, 4, 1, false, false, 3},       {131, 96, 64, 0, 1, false, false, 0},
    {131, 64, 192, 0, 1, false, false, 0},      {5, 64, 64, 0, 1, false, false, 0}};
enum { GATED_LINEAR_CASES = sizeof gated_linear_cases / sizeof *gated_linear_cases };

static void gated_linear(struct both b, struct gated_linear_case c, double tolerance)
{
  static const struct branch_norm none;
  struct gated_rmsnorm_shape d = {c.rows, c.E, c.G, c.E + c.gap, c.norm_first};
  int64_t n = c.rows * c.E;
  struct array *y = reals(&b, n, -1, 1), *z = reals(&b, c.rows * d.ldz, -6, 6);
  struct array *w = reals(&b, c.E, 0.5, 2), *W = reals(&b, c.N * c.E, -1, 1);
  struct array *bias = reals(&b, c.N, -1, 1), *r = poison(&b, c.rows * c.G, sizeof(real));
  struct array *yn = poison(&b, n, sizeof(real)), *other_r = poison(&b, c.rows * c.G, sizeof(real));
  struct array *other = poison(&b, n, sizeof(real)), *Wt = poison(&b, c.N * c.E, sizeof(real));
  struct array *kept = poison(&b, c.rows * c.N, sizeof(real));
  struct array *unkept = poison(&b, c.rows * c.N, sizeof(real));
  ON_BOTH(b)
  {
    const real *zk = (const real *)z->at[k] + c.z_at, *bk = c.biased ? bias->at[k] : NULL;
    be->transpose(be->st, c.N, c.E, W->at[k], Wt->at[k]);
    be->gated_linear_fwd(be->st, d, (real)1e-5, y->at[k], zk, w->at[k], c.N, W->at[k], Wt->at[k],
                         bk, true, true, r->at[k], yn->at[k], kept->at[k], none);
    for (int again = 0; again < 2; again++)
      be->gated_linear_fwd(be->st, d, (real)1e-5, y->at[k], zk, w->at[k], c.N, W->at[k], NULL, bk,
                           false, true, other_r->at[k], other->at[k], unkept->at[k], none);
  }
  same(&b, r, TOLERANCE, "gated_linear's scale");
  same(&b, yn, TOLERANCE, "gated_linear's norm");
  same(&b, kept, tolerance, "gated_linear");
  same(&b, other_r, TOLERANCE, "gated_linear's scale where the norm is not kept");
  same(&b, unkept, tolerance, "gated_linear whose norm is not kept");
  end(&b);
}

/* What the norm behind a branch is given, and whether what a derivative reads is kept. */
static const struct branch_case {
  bool masked, mapped, no_x, keeps, in_place, measured;
  enum { NO_Z, Z_IS_X, OTHER } z;
  double damping;
} branch_cases[] = {{true, false, false, false, false, true, Z_IS_X, 0.8},
                    {true, false, false, true, false, false, Z_IS_X, 0.8},
                    {true, true, false, false, false, false, OTHER, 0.8},
                    {false, false, true, true, false, false, OTHER, 0.8},
                    {false, false, false, false, true, false, NO_Z, 1},
                    {true, false, true, false, false, false, NO_Z, 1},
                    {true, false, false, false, false, true, OTHER, 1}};
enum { BRANCH_CASES = sizeof branch_cases / sizeof *branch_cases };

/* The norm behind it, of sequences as long as `rows` has a divisor. */
static void gated_branch(struct both b, struct gated_linear_case c, struct branch_case v,
                         double tolerance)
{
  struct gated_rmsnorm_shape d = {c.rows, c.E, c.G, c.E + c.gap, c.norm_first};
  int64_t T = 2, n = c.rows * c.N;
  while (c.rows % T)
    T++;
  int64_t B = c.rows / T;
  int32_t *reversed = calloc((size_t)B, sizeof *reversed);
  assert_non_null(reversed);
  for (int64_t i = 0; i < B; i++)
    reversed[i] = (int32_t)(B - i);
  struct array *y = reals(&b, c.rows * c.E, -1, 1), *z = reals(&b, c.rows * d.ldz, -6, 6);
  struct array *w = reals(&b, c.E, 0.5, 2), *W = reals(&b, c.N * c.E, -1, 1);
  struct array *bias = reals(&b, c.N, -1, 1), *gr = poison(&b, c.rows * c.G, sizeof(real));
  struct array *yn = poison(&b, c.rows * c.E, sizeof(real)), *out = poison(&b, n, sizeof(real));
  struct array *x = reals(&b, n, -20, 20), *mask = reals(&b, (B + 1) * c.N, 0, 2);
  struct array *weight = reals(&b, c.N, 0.5, 2), *other = reals(&b, n, -1, 1);
  struct array *r = poison(&b, c.rows, sizeof(real)), *h = poison(&b, n, sizeof(real));
  struct array *to = poison(&b, n, sizeof(real)), *row = integers(&b, B, reversed);
  struct array *square = poison(&b, c.rows, sizeof(double));
  struct array *reference = poison(&b, c.rows, sizeof(double));
  ON_BOTH(b)
  {
    struct branch_norm norm = {.B = B, .T = T, .w = weight->at[k], .r = r->at[k]};
    norm.x = v.no_x ? NULL : x->at[k];
    norm.row = v.mapped ? row->at[k] : NULL;
    norm.mask = v.masked ? mask->at[k] : NULL;
    norm.z = v.z == NO_Z ? NULL : v.z == OTHER ? other->at[k] : x->at[k];
    norm.damping = v.damping;
    norm.square = v.measured ? square->at[k] : NULL;
    norm.reference = v.measured ? reference->at[k] : NULL;
    norm.h = v.keeps ? h->at[k] : NULL;
    norm.y = v.in_place ? x->at[k] : to->at[k];
    be->gated_linear_fwd(be->st, d, (real)1e-5, y->at[k], (const real *)z->at[k] + c.z_at, w->at[k],
                         c.N, W->at[k], NULL, c.biased ? bias->at[k] : NULL, false, v.keeps,
                         gr->at[k], yn->at[k], out->at[k], norm);
  }
  same(&b, gr, TOLERANCE, "gated_linear's scale before a norm");
  same(&b, r, tolerance, "scale of the norm behind gated_linear");
  same(&b, v.in_place ? x : to, tolerance, "norm behind gated_linear");
  if (v.measured) {
    same(&b, square, tolerance, "distance from z behind gated_linear");
    same(&b, reference, tolerance, "norm of the norm behind gated_linear");
  }
  if (v.keeps) {
    same(&b, out, tolerance, "gated_linear before a norm");
    same(&b, h, tolerance, "what gated_linear is added to");
  }
  free(reversed);
  end(&b);
}

/* Each shape, and each form of the norm behind two that one pass takes. */
static void gated_linears(const void *cpu, const void *device, uint64_t seed, double tolerance)
{
  for (int i = 0; i < GATED_LINEAR_CASES; i++) {
    gated_linear(begin(cpu, device, seed), gated_linear_cases[i], tolerance);
    for (int k = 0; k < BRANCH_CASES; k++)
      if (i < 2 || k == i % BRANCH_CASES)
        gated_branch(begin(cpu, device, seed), gated_linear_cases[i], branch_cases[k], tolerance);
  }
}

#define device_gated_linear NAME(device_gated_linear)
void device_gated_linear(const void *cpu, const void *device, uint64_t seed)
{
  gated_linears(cpu, device, seed, TOLERANCE);
}

/* Of E terms, both of whose factors were rounded: the errors grow as the sums do. */
#define ROUNDED_TOLERANCE (REAL_BITS == 32 ? 2 * TF32_UNIT : TOLERANCE)
#define device_rounded_gated_linear NAME(device_rounded_gated_linear)
void device_rounded_gated_linear(const void *cpu, const void *device, uint64_t seed)
{
  gated_linears(cpu, device, seed, ROUNDED_TOLERANCE);
}

/* As many rows as give all processors of a GPU some, and some two or more tiles. */
#define device_many_gated_rows NAME(device_many_gated_rows)
void device_many_gated_rows(const void *cpu, const void *device, uint64_t seed)
{
  static const struct gated_linear_case cases[] = {{17003, 1024, 256, 1296, 1, false, false, 1280},
                                                   {9001, 128, 256, 4, 1, false, false, 0},
                                                   {35000, 192, 128, 0, 1, false, false, 0},
                                                   {17000, 64, 64, 36, 1, false, false, 4}};
  for (int i = 0; i < 4; i++) {
    gated_linear(begin(cpu, device, seed), cases[i], ROUNDED_TOLERANCE);
    gated_branch(begin(cpu, device, seed), cases[i], branch_cases[i], ROUNDED_TOLERANCE);
  }
}

/* Rows of whole packs and others, more tokens than one table holds, none that is known, ranges of
 * several batches, a token that half of them are. */
#define device_embedding NAME(device_embedding)
void device_embedding(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][3] = {
      {5003, 180, 68}, {1500, 401, 67}, {300, 1000, 68}, {70, 1, 4}, {5003, 240, 4}};
  for (int i = 0; i < 5; i++) {
    int64_t M = shapes[i][0], V = shapes[i][1], D = shapes[i][2];
    struct both b = begin(cpu, device, seed);
    int32_t *tokens = calloc((size_t)M, sizeof *tokens);
    assert_non_null(tokens);
    for (int64_t m = 0; m < M; m++)
      tokens[m] = m % 11 == 3            ? (int32_t)V
                  : m % 13 == 5          ? -1
                  : i != 1 && m % 2 == 0 ? (int32_t)V / 3
                                         : (int32_t)(uniform(&b) * (double)V);
    struct array *t = integers(&b, M, tokens), *W = reals(&b, V * D, -1, 1);
    struct array *y = poison(&b, M * D, sizeof(real)), *odd = poison(&b, M * D + 1, sizeof(real));
    struct array *yb = reals(&b, M * D, -1, 1), *Wb = reals(&b, V * D, -1, 1);
    struct array *mask = reals(&b, M * D, 0, 2), *dropped = poison(&b, M * D, sizeof(real));
    ON_BOTH(b)
    {
      for (int masked = 0; masked < 2; masked++)
        be->embedding_vjp(be->st, M, V, D, t->at[k], masked ? mask->at[k] : NULL, yb->at[k],
                          Wb->at[k]);
      be->embedding_fwd(be->st, M, V, D, t->at[k], W->at[k], mask->at[k], (real *)odd->at[k] + 1);
      for (int64_t m = 0; k == 0 && m < M; m++) /* NaN is the same as nothing: none to compare */
        tokens[m] = tokens[m] < 0 || tokens[m] >= V ? 0 : tokens[m];
      check_ok(be->upload(be->st, (size_t)M * sizeof *tokens, tokens, t->at[k]));
      be->embedding_fwd(be->st, M, V, D, t->at[k], W->at[k], NULL, y->at[k]);
      be->embedding_fwd(be->st, M, V, D, t->at[k], W->at[k], mask->at[k], dropped->at[k]);
      be->embedding_fwd(be->st, M, V, D, t->at[k], W->at[k], mask->at[k], (real *)odd->at[k] + 1);
      be->fill(be->st, 1, 0, odd->at[k]);
    }
    same(&b, Wb, TOLERANCE, "cotangent of the embedding");
    same(&b, y, 0, "embedding");
    same(&b, dropped, 0, "embedding with a mask");
    same(&b, odd, 0, "embedding at an odd place");
    free(tokens);
    end(&b);
  }
}

/* Columns of wider matrices: whole packs, and others. */
#define device_columns NAME(device_columns)
void device_columns(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][4] = {
      {1027, 68, 132, 72}, {9, 4, 4, 8}, {33, 67, 68, 72}, {33, 68, 70, 72}}; /* M, n, ldx, ldy */
  for (int i = 0; i < 4; i++) {
    int64_t M = shapes[i][0], n = shapes[i][1], ldx = shapes[i][2], ldy = shapes[i][3];
    struct both b = begin(cpu, device, seed);
    struct array *x = reals(&b, M * ldx, -1, 1), *y = reals(&b, M * ldy, -1, 1);
    struct array *z = reals(&b, M * ldy, -1, 1), *odd = reals(&b, M * ldy + 1, -1, 1);
    ON_BOTH(b)
    {
      be->columns(be->st, M, n, (real)0.5, ldx, x->at[k], (real)-0.25, ldy, y->at[k]);
      be->columns(be->st, M, n, 2, ldx, x->at[k], 0, ldy, z->at[k]);
      be->columns(be->st, M, n, 2, ldx, x->at[k], 1, ldy, (real *)odd->at[k] + 1);
    }
    same(&b, y, TOLERANCE, "columns");
    same(&b, z, 0, "columns, replaced");
    same(&b, odd, TOLERANCE, "columns at an odd place");
    end(&b);
  }
}

/* Shapes for one pass and others: rows that are no whole tile, several tiles a block; groups, the
 * norm before the gate, odd places, other widths, few rows. */
static const struct norm_product_case {
  int64_t rows, E, N, gap, G, z_at;
  bool norm_first;
  real beta;
} norm_product_cases[] = {
    {129, 64, 64, 0, 1, 0, false, 0},    {517, 128, 256, 36, 1, 4, false, 0},
    {301, 1024, 128, 8, 1, 8, false, 0}, {259, 1024, 256, 1296, 1, 1280, false, 0},
    {777, 192, 64, 8, 1, 4, false, 0},   {641, 320, 256, 0, 1, 0, false, 0},
    {256, 64, 256, 4, 1, 0, false, 0},   {131, 64, 64, 4, 2, 0, false, 0},
    {131, 64, 64, 0, 1, 0, true, 0},     {131, 64, 64, 0, 1, 0, false, (real)0.5},
    {131, 64, 64, 4, 1, 3, false, 0},    {131, 96, 64, 0, 1, 0, false, 0},
    {131, 64, 192, 0, 1, 0, false, 0},   {5, 64, 64, 0, 1, 0, false, 0}};
enum { NORM_PRODUCT_CASES = sizeof norm_product_cases / sizeof *norm_product_cases };

/* With all that is wanted, with the cotangents of y and z only, and with yn forgotten; `out` is the
 * device's own. */
static void norm_product(struct both b, struct norm_product_case c, double tolerance)
{
  struct gated_rmsnorm_shape d = {c.rows, c.E, c.G, c.E + c.gap, c.norm_first};
  int64_t n = c.rows * c.E, nz = c.rows * d.ldz;
  struct array *y = reals(&b, n, -1, 1), *z = reals(&b, nz, -6, 6), *w = reals(&b, c.E, 0.5, 2);
  struct array *W = reals(&b, c.N * c.E, -1, 1), *outb = reals(&b, c.rows * c.N, -1, 1);
  struct array *r = poison(&b, c.rows * c.G, sizeof(real)), *yn = poison(&b, n, sizeof(real));
  struct array *out = poison(&b, c.rows * c.N, sizeof(real)), *ynb = poison(&b, n, sizeof(real));
  struct array *yb[3], *zb[3], *wb = reals(&b, c.E, -1, 1), *Wb = reals(&b, c.N * c.E, -1, 1);
  struct array *bb = reals(&b, c.N, -1, 1);
  for (int i = 0; i < 3; i++) {
    yb[i] = c.beta == 0 ? poison(&b, n, sizeof(real)) : reals(&b, n, -1, 1);
    zb[i] = reals(&b, nz, -1, 1);
  }
  ON_BOTH(b)
  {
    const real *zk = (const real *)z->at[k] + c.z_at;
    be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, y->at[k], zk, w->at[k], r->at[k], yn->at[k]);
    be->linear_fwd(be->st, c.rows, c.E, c.N, yn->at[k], W->at[k], NULL, NULL, 0, NULL, out->at[k]);
    for (int i = 0; i < 3; i++)
      be->gated_linear_vjp(be->st, d, y->at[k], zk, w->at[k], r->at[k], i == 2 ? NULL : yn->at[k],
                           c.N, W->at[k], out->at[k], outb->at[k], ynb->at[k], c.beta, yb[i]->at[k],
                           (real *)zb[i]->at[k] + c.z_at, i == 1 ? NULL : wb->at[k],
                           i == 1 ? NULL : Wb->at[k], i == 1 ? NULL : bb->at[k]);
  }
  for (int i = 0; i < 3; i++) {
    same(&b, yb[i], tolerance, "cotangent of y");
    same(&b, zb[i], tolerance, "cotangent of z");
  }
  same(&b, wb, tolerance, "cotangent of the norm's weight");
  same(&b, Wb, tolerance, "cotangent of W");
  same(&b, bb, TOLERANCE, "cotangent of b");
  end(&b);
}

#define device_norm_products NAME(device_norm_products)
void device_norm_products(const void *cpu, const void *device, uint64_t seed)
{
  for (int i = 0; i < NORM_PRODUCT_CASES; i++)
    norm_product(begin(cpu, device, seed), norm_product_cases[i], TOLERANCE);
}

#define device_rounded_norm_products NAME(device_rounded_norm_products)
void device_rounded_norm_products(const void *cpu, const void *device, uint64_t seed)
{
  for (int i = 0; i < NORM_PRODUCT_CASES; i++)
    norm_product(begin(cpu, device, seed), norm_product_cases[i], ROUNDED_TOLERANCE);
}

/* So many rows that each processor of a GPU has some. */
#define device_many_norm_products NAME(device_many_norm_products)
void device_many_norm_products(const void *cpu, const void *device, uint64_t seed)
{
  static const struct norm_product_case cases[] = {{17003, 1024, 256, 1296, 1, 1280, false, 0},
                                                   {35000, 192, 128, 0, 1, 0, false, 0},
                                                   {17000, 64, 64, 36, 1, 4, false, 0}};
  for (int i = 0; i < 3; i++)
    norm_product(begin(cpu, device, seed), cases[i], ROUNDED_TOLERANCE);
}

/* Gradients of weights, once with the bias's, and again from the same numbers: the same bits. */
struct weight_case {
  int64_t M, K, N;
};
static void weight_gradient(struct both b, struct weight_case c)
{
  struct array *x = reals(&b, c.M * c.K, -1, 1), *W = reals(&b, c.N * c.K, -1, 1);
  struct array *yb = reals(&b, c.M * c.N, -0.5, 1), *bb = reals(&b, c.N, -1, 1), *Wb[3];
  double *once, *again;
  for (int i = 0; i < 3; i++)
    Wb[i] = reals(&b, c.N * c.K, -1, 1);
  ON_BOTH(b)
  {
    be->axpby(be->st, c.N * c.K, 1, Wb[0]->at[k], 0, Wb[1]->at[k]);
    for (int i = 0; i < 3; i++)
      be->linear_vjp(be->st, c.M, c.K, c.N, x->at[k], W->at[k], yb->at[k], 0, NULL, Wb[i]->at[k],
                     i == 2 ? bb->at[k] : NULL);
  }
  for (int i = 0; i < 3; i++)
    same(&b, Wb[i], ROUNDED_TOLERANCE, "gradient of W");
  same(&b, bb, TOLERANCE, "gradient of b");
  once = values(&b, Wb[0], 1, false), again = values(&b, Wb[1], 1, false);
  assert_memory_equal(once, again, (size_t)Wb[0]->n * sizeof *once);
  free(once), free(again);
  end(&b);
}

/* x or yb as they are, and turned; columns that are no whole tiles, a warpgroup's and a warp's;
 * tokens that are no whole steps; and what one pass does not take. */
#define device_rounded_weights NAME(device_rounded_weights)
void device_rounded_weights(const void *cpu, const void *device, uint64_t seed)
{
  static const struct weight_case cases[] = {
      {1057, 256, 144}, {577, 128, 300}, {1030, 64, 128}, {257, 64, 132},  {321, 300, 128},
      {525, 320, 64},   {290, 256, 256}, {333, 128, 129}, {191, 128, 256}, {300, 96, 96}};
  for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++)
    weight_gradient(begin(cpu, device, seed), cases[i]);
}

#define device_many_weights NAME(device_many_weights)
void device_many_weights(const void *cpu, const void *device, uint64_t seed)
{
  static const struct weight_case cases[] = {{17003, 256, 2320}, {20001, 128, 300},
                                             {40030, 64, 132},   {17003, 1024, 256},
                                             {33001, 388, 128},  {35000, 192, 64}};
  for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++)
    weight_gradient(begin(cpu, device, seed), cases[i]);
}

/* x columns of a wider matrix, biasb over many rows; xb = beta xb + ... */
#define device_softplus NAME(device_softplus)
void device_softplus(const void *cpu, const void *device, uint64_t seed)
{
  enum { M = 3001, H = 17, LD = 20 };
  struct both b = begin(cpu, device, seed);
  struct array *x = reals(&b, M * LD, -4, 4), *bias = reals(&b, H, -1, 1);
  struct array *yb = reals(&b, M * H, -1, 1), *biasb = reals(&b, H, -1, 1);
  struct array *xb[] = {poison(&b, M * LD, sizeof(real)), reals(&b, M * LD, -1, 1),
                        reals(&b, M * LD, -1, 1)};
  ON_BOTH(b)
  {
    for (int i = 0; i < 3; i++)
      be->softplus_clamp_vjp(be->st, M, H, LD, x->at[k], bias->at[k], 0.1, 3, yb->at[k],
                             (real)(i - i * i * 0.75), xb[i]->at[k], biasb->at[k]);
    be->columns(be->st, M, LD - H, 1, LD, (real *)x->at[k] + H, 0, LD, (real *)xb[0]->at[k] + H);
  }
  for (int i = 0; i < 3; i++)
    same(&b, xb[i], TOLERANCE, "cotangent of softplus_clamp's input");
  same(&b, biasb, TOLERANCE, "cotangent of its bias");
  end(&b);
}

/* conv1d at one shape: forward, and VJPs of all, of the inputs and of the weights alone. */
#define check_convolution NAME(check_device_convolution)
static void check_convolution(const void *cpu, const void *device, uint64_t seed,
                              struct conv1d_shape d)
{
  struct both b = begin(cpu, device, seed);
  int64_t X = d.B * d.T * d.ld, Y = d.B * d.T * d.C, CW = d.C * d.W, gap = d.ld - d.C;
  struct array *x = reals(&b, X, -1, 1), *w = reals(&b, CW, -1, 1), *bias = reals(&b, d.C, -1, 1);
  struct array *state0 = reals(&b, d.B * CW, -1, 1), *state1b = reals(&b, d.B * CW, -1, 1);
  struct array *y = poison(&b, Y, sizeof(real)), *state1 = poison(&b, d.B * CW, sizeof(real));
  struct array *yb = reals(&b, Y, -1, 1), *state0b = reals(&b, d.B * CW, -1, 1);
  struct array *wb = reals(&b, CW, -1, 1), *bb = reals(&b, d.C, -1, 1);
  struct array *xb = poison(&b, X, sizeof(real)), *more = reals(&b, X, -1, 1);
  ON_BOTH(b)
  {
    be->conv1d_fwd(be->st, d, x->at[k], w->at[k], bias->at[k], NULL, state0->at[k], y->at[k],
                   state1->at[k]);
    be->conv1d_vjp(be->st, d, x->at[k], w->at[k], bias->at[k], state0->at[k], yb->at[k],
                   state1b->at[k], 0, NULL, NULL, xb->at[k], wb->at[k], bb->at[k], state0b->at[k]);
    if (gap)
      be->columns(be->st, d.B * d.T, gap, 1, d.ld, (real *)x->at[k] + d.C, 0, d.ld,
                  (real *)xb->at[k] + d.C);
    be->conv1d_vjp(be->st, d, x->at[k], w->at[k], NULL, NULL, yb->at[k], NULL, (real)-0.5, NULL,
                   NULL, xb->at[k], NULL, NULL, NULL);
    be->conv1d_vjp(be->st, d, x->at[k], w->at[k], bias->at[k], NULL, yb->at[k], NULL, 1, NULL, NULL,
                   more->at[k], NULL, bb->at[k], NULL);
    for (int n = 1; n < 3; n++) {
      be->conv1d_vjp(be->st, d, x->at[k], w->at[k], bias->at[k], state0->at[k], yb->at[k],
                     state1b->at[k], 1, xb->at[k], n > 1 ? x->at[k] : NULL, more->at[k], wb->at[k],
                     bb->at[k], state0b->at[k]);
      be->conv1d_vjp(be->st, d, x->at[k], w->at[k], bias->at[k], NULL, yb->at[k], NULL, 0,
                     more->at[k], n > 1 ? x->at[k] : NULL, xb->at[k], NULL, NULL, NULL);
    }
    be->conv1d_vjp(be->st, d, x->at[k], w->at[k], bias->at[k], state0->at[k], yb->at[k], NULL, 0,
                   NULL, NULL, NULL, wb->at[k], NULL, NULL);
    be->conv1d_vjp(be->st, d, x->at[k], w->at[k], bias->at[k], state0->at[k], yb->at[k], NULL, 0,
                   NULL, NULL, NULL, NULL, NULL, state0b->at[k]);
  }
  same(&b, y, TOLERANCE, "conv1d");
  same(&b, state1, 0, "conv1d's final state");
  same(&b, xb, TOLERANCE, "cotangent of conv1d's input");
  same(&b, more, TOLERANCE, "cotangent of conv1d's input, added to");
  same(&b, wb, TOLERANCE, "cotangent of conv1d's taps");
  same(&b, bb, TOLERANCE, "cotangent of conv1d's bias");
  same(&b, state0b, TOLERANCE, "cotangent of conv1d's state");
  end(&b);
}

/* Runs of every length, packs and single channels, as many as leave several runs to a warp. */
/* The input of a mixer: norm, product with what is added, and convolution of some columns. */
struct linear_conv_case {
  int64_t B, T, K, first, C, rest;
  bool normed, in_place, added, biased, carried;
};

static void linear_conv(struct both b, struct linear_conv_case v, bool keeps, double tolerance)
{
  int64_t M = v.B * v.T, N = v.first + v.C + v.rest;
  struct conv1d_shape d = {v.B, v.T, v.C, 4, N};
  struct array *h = reals(&b, M * v.K, -2, 2), *norm_w = reals(&b, v.K, 0.5, 2);
  struct array *xn = v.normed ? poison(&b, M * v.K, sizeof(real)) : h;
  struct array *r = poison(&b, M, sizeof(real)), *W = reals(&b, N * v.K, -0.2, 0.2);
  struct array *bias = reals(&b, N, -1, 1), *c = reals(&b, M * N, -1, 1);
  struct array *w = reals(&b, v.C * 4, -1, 1), *conv_bias = reals(&b, v.C, -1, 1);
  struct array *state = reals(&b, v.B * v.C * 4, -1, 1);
  struct array *zx = v.in_place ? c : poison(&b, M * N, sizeof(real));
  struct array *z = poison(&b, M * v.first, sizeof(real)),
               *dt = poison(&b, M * v.rest, sizeof(real));
  struct array *y = poison(&b, M * v.C, sizeof(real));
  ON_BOTH(b)
  {
    struct branch_norm norm = {.B = M, .T = 1, .x = h->at[k], .r = r->at[k], .y = xn->at[k]};
    norm.w = v.normed ? norm_w->at[k] : NULL, norm.damping = 1;
    be->linear_conv_fwd(be->st, v.K, (real)1e-5, norm, xn->at[k], N, W->at[k], NULL,
                        v.biased ? bias->at[k] : NULL, v.added ? 1 : 0,
                        v.in_place ? NULL : c->at[k], d, v.first, w->at[k], conv_bias->at[k], NULL,
                        v.carried ? state->at[k] : NULL, keeps, zx->at[k], y->at[k], NULL);
    const real *from = zx->at[k];
    be->columns(be->st, M, v.first, 1, N, from, 0, v.first, z->at[k]);
    be->columns(be->st, M, v.rest, 1, N, from + v.first + v.C, 0, v.rest, dt->at[k]);
  }
  same(&b, y, tolerance, "convolution behind a product");
  same(&b, z, tolerance, "columns before those that are convolved");
  same(&b, dt, tolerance, "columns behind those that are convolved");
  if (v.normed)
    same(&b, r, TOLERANCE, "scale of the norm before a product");
  if (keeps) {
    same(&b, zx, tolerance, "product that is convolved");
    same(&b, xn, TOLERANCE, "norm before a product");
  }
  end(&b);
}

/* Shapes for one pass, and others: one tile of a sequence and several, more sequences than blocks;
 * a length that is no whole tile, other columns, a bias, states. */
static void linear_convs(const void *cpu, const void *device, uint64_t seed, double tolerance)
{
  static const struct linear_conv_case cases[] = {
      {4, 256, 64, 64, 128, 16, true, false, true, false, false},
      {4, 64, 256, 128, 192, 16, true, false, true, false, false},
      {8, 192, 128, 0, 128, 48, false, true, true, false, false},
      {4, 128, 64, 192, 128, 32, false, false, false, false, false},
      {4, 130, 64, 64, 128, 16, true, false, true, false, false},
      {3, 128, 96, 36, 132, 4, false, true, true, false, false},
      {4, 128, 64, 64, 128, 16, true, false, true, true, true}};
  for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++)
    for (int keeps = 0; keeps < 2; keeps++)
      linear_conv(begin(cpu, device, seed), cases[i], keeps, tolerance);
}

#define device_linear_conv NAME(device_linear_conv)
void device_linear_conv(const void *cpu, const void *device, uint64_t seed)
{
  linear_convs(cpu, device, seed, TOLERANCE);
}

#define device_rounded_linear_conv NAME(device_rounded_linear_conv)
void device_rounded_linear_conv(const void *cpu, const void *device, uint64_t seed)
{
  linear_convs(cpu, device, seed, ROUNDED_TOLERANCE);
}

/* The same with as many sequences as give a GPU's processors one or two. */
#define device_many_linear_conv NAME(device_many_linear_conv)
void device_many_linear_conv(const void *cpu, const void *device, uint64_t seed)
{
  static const struct linear_conv_case cases[] = {
      {200, 256, 256, 128, 256, 16, true, false, true, false, false},
      {512, 64, 64, 64, 128, 16, false, true, true, false, false},
      {264, 192, 128, 64, 128, 32, true, false, false, false, false}};
  for (int i = 0; i < 3; i++)
    for (int keeps = 0; keeps < 2; keeps++)
      linear_conv(begin(cpu, device, seed), cases[i], keeps, ROUNDED_TOLERANCE);
}

#define device_convolutions NAME(device_convolutions)
void device_convolutions(const void *cpu, const void *device, uint64_t seed)
{
  static const struct conv1d_shape shapes[] = {
      {2, 300, 1200, 4, 1204}, {3, 75, 132, 4, 136}, {2, 37, 67, 4, 69}, {3, 18, 70, 4, 70},
      {140, 1, 800, 4, 800},   {5, 2, 8, 4, 12},     {2, 40, 33, 3, 33}, {1, 3, 33, 4, 34}};
  for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i++)
    check_convolution(cpu, device, seed, shapes[i]);
}

/* The SSD's output where no states are kept: shapes for tensor cores, one head alone, and others;
 * from states of rows of a larger array, or none. */
static void unkept_outputs(struct both b, struct ssd_shape d, bool carried)
{
  enum { ROWS = 3 };
  const int32_t row[] = {2, 0};
  int64_t M = d.B * d.T, E = d.H * d.P, states = ROWS * E * d.N;
  d.ld = E + 2 * d.N;
  struct array *x = reals(&b, M * d.ld, -1, 1), *dt = reals(&b, M * d.H, 0.01, 0.5);
  struct array *A = reals(&b, d.H, 0, 2), *D = reals(&b, d.D_has_hdim ? E : d.H, -1, 1);
  struct array *S = reals(&b, states, -1, 1), *S1 = reals(&b, states, -1, 1);
  struct array *at = integers(&b, 2, row), *y = poison(&b, M * E, sizeof(real));
  struct array *work = poison(&b, ssd_chunked_work(d), sizeof(real));
  ON_BOTH(b)
  {
    real *v = x->at[k];
    be->ssd_chunked_fwd(be->st, d, v, v + E, v + E + d.N, dt->at[k], A->at[k], D->at[k],
                        carried ? at->at[k] : NULL, carried ? S->at[k] : NULL, NULL, work->at[k],
                        y->at[k], carried ? S1->at[k] : NULL);
  }
  same(&b, y, TOLERANCE, "output of the SSD");
  same(&b, S1, TOLERANCE, "state behind it");
  end(&b);
}

#define device_unkept_outputs NAME(device_unkept_outputs)
void device_unkept_outputs(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][7] = {{2, 70, 3, 20, 36, 32, 0}, /* B, T, H, P, N, chunk, D by P */
                                      {1, 130, 2, 64, 128, 64, 0},
                                      {2, 9, 4, 5, 7, 4, 0},
                                      {2, 64, 2, 48, 16, 64, 1}};
  for (int i = 0; i < 8; i++) {
    const int64_t *n = shapes[i / 2];
    struct ssd_shape d = {.B = n[0], .T = n[1], .H = n[2], .P = n[3], .N = n[4], .G = 1};
    d.chunk = n[5], d.D_has_hdim = n[6];
    unkept_outputs(begin(cpu, device, seed), d, i % 2);
  }
}

/* How far apart two devices may be. */
struct whole_bounds {
  void (*compare)(const struct both *b, const struct array *a, double tol, const char *what);
  double tokens, times, A_log, D; /* y and cotangents of x, B, C; of dt, A_log, D */
};

/* The cotangents of whole sequences: nothing enters, and the first chunk's states need not be
 * there; with only_vjp S is the backend's own.  Otherwise also where a place that is no pack's
 * makes the VJP another form than the forward pass.  Cotangents times 2^scale, and back. */
static void whole_sequences(struct both b, struct ssd_shape d, int scale, struct whole_bounds most)
{
  int64_t M = d.B * d.T, E = d.H * d.P, N = d.N;
  real up = (real)ldexp(1, scale), down = (real)ldexp(1, -scale);
  d.G = 1, d.ld = E + 2 * N, d.from_zero = true;
  struct array *x = reals(&b, M * d.ld, -1, 1), *dt = reals(&b, M * d.H, 0.01, 0.5);
  struct array *A = reals(&b, d.H, 0, 2), *D = reals(&b, d.H, -1, 1), *yb = reals(&b, M * E, -1, 1);
  struct array *S = poison(&b, d.B * ssd_chunks(d) * E * N, sizeof(real));
  struct array *work = poison(&b, ssd_chunked_work(d), sizeof(real));
  struct array *y = poison(&b, M * E, sizeof(real)), *xb = poison(&b, M * d.ld, sizeof(real));
  struct array *dtb = poison(&b, M * d.H, sizeof(real)), *Ab = reals(&b, d.H, -1, 1);
  struct array *Db = reals(&b, d.H, -1, 1), *odd = poison(&b, M * d.ld + 1, sizeof(real));
  ON_BOTH(b)
  {
    real *v = x->at[k], *vb = xb->at[k];
    be->axpby(be->st, M * E, 0, yb->at[k], up, yb->at[k]);
    be->axpby(be->st, d.H, 0, Ab->at[k], up, Ab->at[k]);
    be->axpby(be->st, d.H, 0, Db->at[k], up, Db->at[k]);
    be->ssd_chunked_fwd(be->st, d, v, v + E, v + E + N, dt->at[k], A->at[k], D->at[k], NULL, NULL,
                        S->at[k], work->at[k], y->at[k], NULL);
    be->ssd_chunked_vjp(be->st, d, v, v + E, v + E + N, dt->at[k], A->at[k], D->at[k], S->at[k],
                        yb->at[k], NULL, work->at[k], 0, vb, vb + E, vb + E + N, dtb->at[k],
                        Ab->at[k], Db->at[k], NULL);
    be->axpby(be->st, M * d.ld, 0, vb, down, vb);
    be->axpby(be->st, M * d.H, 0, dtb->at[k], down, dtb->at[k]);
    be->axpby(be->st, d.H, 0, Ab->at[k], down, Ab->at[k]);
    be->axpby(be->st, d.H, 0, Db->at[k], down, Db->at[k]);
    vb = (real *)odd->at[k] + 1;
    if (!d.only_vjp)
      be->ssd_chunked_vjp(be->st, d, v, v + E, v + E + N, dt->at[k], A->at[k], D->at[k], S->at[k],
                          yb->at[k], NULL, work->at[k], 0, vb, vb + E, vb + E + N, NULL, NULL, NULL,
                          NULL);
    be->fill(be->st, 1, 0, odd->at[k]);
  }
  most.compare(&b, y, most.tokens, "y of whole sequences");
  if (!d.only_vjp)
    most.compare(&b, odd, most.tokens, "cotangents of x, B, C at an odd place");
  most.compare(&b, xb, most.tokens, "cotangents of x, B, C");
  most.compare(&b, dtb, most.times, "cotangent of dt");
  most.compare(&b, Ab, most.A_log, "cotangent of A_log");
  most.compare(&b, Db, most.D, "cotangent of D");
  end(&b);
}

#define device_whole_sequences NAME(device_whole_sequences)
void device_whole_sequences(const void *cpu, const void *device, uint64_t seed)
{
  struct ssd_shape d = {.B = 2, .T = 150, .H = 3, .P = 20, .N = 36, .chunk = 64};
  struct whole_bounds most = {same, TOLERANCE, 4 * TOLERANCE, 4 * TOLERANCE, TOLERANCE};
  whole_sequences(begin(cpu, device, seed), d, 0, most);
}

/* Products of tf32, of states in half precision where those suffice: of any size.  Sums over all
 * tokens cancel: what they leave has errors of all of them. */
#define device_rounded_whole_sequences NAME(device_rounded_whole_sequences)
void device_rounded_whole_sequences(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t shapes[][6] = {{1, 200, 3, 64, 128, 64}, /* B, T, H, P, N, chunk */
                                      {2, 130, 2, 20, 68, 48},
                                      {3, 128, 4, 32, 64, 64},
                                      {2, 150, 3, 20, 36, 64}};
  const double one = 2 * ROUNDED_TOLERANCE;
  const struct whole_bounds most = {same_in_all, one, one, 4 * one, 4 * one};
  for (int i = 0; i < 12; i++) {
    const int64_t *n = shapes[i / 3];
    struct ssd_shape d = {.B = n[0], .T = n[1], .H = n[2], .P = n[3], .N = n[4], .chunk = n[5]};
    d.only_vjp = i % 3 > 0;
    whole_sequences(begin(cpu, device, seed), d, i % 3 == 2 ? -50 : 0, most);
  }
}

/* A window's step: states of rows of a larger array, spans that move on unequally. */
#define device_carried_states NAME(device_carried_states)
void device_carried_states(const void *cpu, const void *device, uint64_t seed)
{
  enum { B = 3, ROWS = 5, T = 6, H = 2, P = 5, N = 7, G = 1, W = 4 };
  enum { C = H * P + 2 * G * N, LD = C + 3 };
  const int32_t row[] = {4, 0, 2}, count[] = {0, 6, 3};
  struct ssd_shape d = {.B = B, .T = T, .H = H, .P = P, .N = N, .G = G, .ld = C, .chunk = 4};
  struct conv1d_shape conv = {B, T, C, W, LD};
  struct both b = begin(cpu, device, seed);
  struct array *x = reals(&b, B * T * LD, -1, 1), *w = reals(&b, C * W, -1, 1);
  struct array *bias = reals(&b, C, -1, 1), *cs = reals(&b, ROWS * C * W, -1, 1);
  struct array *xBC = poison(&b, B * T * C, sizeof(real)), *dt = reals(&b, B * T * H, 0.01, 0.5);
  struct array *A = reals(&b, H, 0, 2), *D = reals(&b, H, -1, 1);
  struct array *S = reals(&b, ROWS * H * P * N, -1, 1),
               *y = poison(&b, B * T * H * P, sizeof(real));
  struct array *yc = poison(&b, B * T * H * P, sizeof(real));
  struct array *work = poison(&b, ssd_chunked_work(d), sizeof(real));
  struct array *at = integers(&b, B, row), *n = integers(&b, B, count);
  ON_BOTH(b)
  {
    real *v = xBC->at[k];
    be->conv1d_fwd(be->st, conv, x->at[k], w->at[k], bias->at[k], at->at[k], cs->at[k], v, NULL);
    be->ssd_fwd(be->st, d, v, v + H * P, v + H * P + G * N, dt->at[k], A->at[k], D->at[k],
                at->at[k], S->at[k], NULL, y->at[k], NULL);
    be->ssd_chunked_fwd(be->st, d, v, v + H * P, v + H * P + G * N, dt->at[k], A->at[k], D->at[k],
                        at->at[k], S->at[k], NULL, work->at[k], yc->at[k], NULL);
    be->conv1d_advance(be->st, conv, x->at[k], at->at[k], n->at[k], cs->at[k]);
    be->ssd_advance(be->st, d, v, v + H * P, dt->at[k], A->at[k], at->at[k], n->at[k], S->at[k]);
  }
  same(&b, xBC, TOLERANCE, "conv1d");
  same(&b, y, TOLERANCE, "ssd");
  same(&b, yc, TOLERANCE, "ssd_chunked");
  same(&b, cs, TOLERANCE, "convolution's state");
  same(&b, S, TOLERANCE, "SSM's state");
  end(&b);
}
#endif
