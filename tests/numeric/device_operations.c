/* device_operations.c: tests of device_operations.h: memory, vectors, blocks, losses, products,
 * reductions, embedding, columns, softplus. */
#include "tests/numeric/device_operations.h"

#if REAL_BITS != 128
#include "tests/numeric/both_devices.h"

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
#endif
