/* device_operations.c: the tests of device_operations.h. */
#include "tests/numeric/device_operations.h"
#include "core/backend.h"
#include "tests/check.h"
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
    struct array *a = reals(&b, n, -1, 1);
    struct array *sum = poison(&b, 1, sizeof(double)), *dot = poison(&b, 1, sizeof(wide)),
                 *c = reals(&b, n * 5, -1, 1);
    ON_BOTH(b)
    {
      be->axpby(be->st, n, (real)0.5, x->at[k], 0, z->at[k]);
      be->axpby(be->st, n, (real)0.5, x->at[k], (real)-0.25, y->at[k]);
      for (int q = 0; q < 3; q++)
        be->accumulate(be->st, n, x->at[k], q > 0 ? y->at[k] : NULL, q > 1 ? z->at[k] : NULL,
                       a->at[k]);
      be->fill(be->st, n, (real)3, f->at[k]);
      be->sum_squares(be->st, n, x->at[k], sum->at[k]);
      be->dot(be->st, n, x->at[k], x->at[k], dot->at[k]);
      be->columns(be->st, n, 1, (real)2, 1, x->at[k], (real)0.5, 5, (real *)c->at[k] + 3);
    }
    same(&b, z, TOLERANCE, "axpby");
    same(&b, y, TOLERANCE, "axpby in place");
    same(&b, a, TOLERANCE, "accumulate");
    same(&b, f, 0, "fill");
    same(&b, sum, 1e-13, "sum_squares");
    same(&b, dot, 1e-13, "dot");
    same(&b, c, TOLERANCE, "columns");
    end(&b);
  }
}

static void check_blocks(const void *cpu, const void *device, uint64_t seed, int64_t n)
{
  enum { ROWS = 3, BLOCKS = 4, LENGTH = 6 };
  const int32_t row[] = {2, 0, 3}, first[] = {1, -1, 4}, count[] = {4, 3, 2};
  struct both b = begin(cpu, device, seed);
  struct array *src = reals(&b, (ROWS + 1) * LENGTH * n, -1, 1);
  struct array *dst = poison(&b, ROWS * BLOCKS * n, sizeof(real));
  struct array *back = reals(&b, (ROWS + 1) * LENGTH * n, -1, 1);
  struct array *r = integers(&b, ROWS, row), *f = integers(&b, ROWS, first);
  struct array *c = integers(&b, ROWS, count);
  const int32_t forward[] = {1, 0, 4};
  struct array *g = integers(&b, ROWS, forward);
  ON_BOTH(b)
  {
    be->gather_blocks(be->st, ROWS, BLOCKS, n, LENGTH, r->at[k], f->at[k], c->at[k], src->at[k],
                      dst->at[k]);
    be->scatter_blocks(be->st, ROWS, BLOCKS, n, LENGTH, r->at[k], g->at[k], c->at[k], dst->at[k],
                       back->at[k]);
  }
  same(&b, dst, 0, "gather_blocks");
  same(&b, back, 0, "scatter_blocks");
  end(&b);
}

#define device_blocks NAME(device_blocks)
void device_blocks(const void *cpu, const void *device, uint64_t seed)
{
  check_blocks(cpu, device, seed, 37);
  check_blocks(cpu, device, seed, 40);
  check_blocks(cpu, device, seed, 2052);
}

/* Masks by row or not; what was there is kept, halved or not read; in place. */
#define device_residuals NAME(device_residuals)
void device_residuals(const void *cpu, const void *device, uint64_t seed)
{
  static const int64_t widths[] = {7, 64, 1028};
  enum { B = 5, T = 9 };
  const int32_t row[B] = {4, 0, 3, 1, 2};
  for (int i = 0; i < 3; i++) {
    int64_t D = widths[i], n = B * T * D;
    struct both b = begin(cpu, device, seed);
    struct array *x = reals(&b, n, -1, 1), *out = reals(&b, n, -1, 1),
                 *mask = reals(&b, B * D, 0, 2);
    struct array *r = integers(&b, B, row), *y = poison(&b, n, sizeof(real));
    struct array *none = poison(&b, n, sizeof(real)), *only = poison(&b, n, sizeof(real));
    struct array *xb = poison(&b, n, sizeof(real)), *half = reals(&b, n, -1, 1);
    struct array *place = reals(&b, n, -1, 1);
    ON_BOTH(b)
    {
      be->residual_fwd(be->st, B, T, D, x->at[k], out->at[k], r->at[k], mask->at[k], y->at[k]);
      be->residual_fwd(be->st, B, T, D, x->at[k], out->at[k], NULL, NULL, none->at[k]);
      be->residual_vjp(be->st, B, T, D, NULL, mask->at[k], x->at[k], 0, xb->at[k], only->at[k]);
      be->residual_vjp(be->st, B, T, D, r->at[k], mask->at[k], x->at[k], (real)0.5, NULL,
                       half->at[k]);
      be->residual_vjp(be->st, B, T, D, r->at[k], mask->at[k], place->at[k], 0, NULL, place->at[k]);
    }
    same(&b, y, TOLERANCE, "residual");
    same(&b, none, TOLERANCE, "residual without mask");
    same(&b, xb, 0, "cotangent of x");
    same(&b, only, TOLERANCE, "cotangent of out alone");
    same(&b, half, TOLERANCE, "half a cotangent and another");
    same(&b, place, TOLERANCE, "cotangent in place");
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
  struct dropout_draw draw = {.seed = seed, .step = 3, .first = 2};
  ON_BOTH(b)
  be->dropout_mask(be->st, ROWS, N, 0.3, draw, 1, mask->at[k]);
  same(&b, mask, 0, "dropout_mask");
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

/* Sums over more rows than a block of threads has. */
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
    be->rmsnorm_fwd(be->st, M, D, (real)1e-5, x->at[k], w->at[k], r->at[k], y->at[k]);
    be->rmsnorm_vjp(be->st, M, D, x->at[k], w->at[k], r->at[k], yb->at[k], xb->at[k], wb->at[k]);
    be->embedding_vjp(be->st, M, V, D, t->at[k], yb->at[k], Eb->at[k]);
    be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, x->at[k], yb->at[k], w->at[k], gr->at[k],
                          out->at[k]);
    be->gated_rmsnorm_vjp(be->st, d, x->at[k], yb->at[k], w->at[k], gr->at[k], y->at[k], xb->at[k],
                          zb->at[k], gb->at[k]);
    be->softplus_clamp_vjp(be->st, M, H, D, x->at[k], w->at[k], 0, 100, yb->at[k], zb->at[k],
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

/* A window's step: states of rows of a larger array, spans that move on unequally. */
#define device_carried_states NAME(device_carried_states)
void device_carried_states(const void *cpu, const void *device, uint64_t seed)
{
  enum { B = 3, ROWS = 5, T = 6, H = 2, P = 5, N = 7, G = 1, W = 4 };
  enum { C = H * P + 2 * G * N, LD = C + 3 };
  const int32_t row[] = {4, 0, 2}, count[] = {0, 6, 3};
  struct ssd_shape d = {B, T, H, P, N, G, C, 4, false, false, false};
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
