/* device_norms.c: tests of device_operations.h: norms, alone and with the products around them. */
#include "tests/numeric/device_operations.h"

#if REAL_BITS != 128
#include "tests/numeric/both_devices.h"

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

/* Rows of n/rows, of which the last but one begins with what has no square. */
static struct array *with_overflow(struct both *b, int64_t rows, int64_t n)
{
  real *x = calloc((size_t)n, sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++)
    x[i] = (real)(0.5 + uniform(b));
  x[(rows - 2) * (n / rows)] = (real)(sizeof *x == sizeof(float) ? 1e30 : 1e200);
  struct array *a = add(b, n, sizeof *x, x);
  free(x);
  return a;
}

/* That row is NaN from its `from`-th of `columns` on, and none of the others. */
static void check_overflow(const struct both *b, const struct array *a, int64_t rows, int64_t from,
                           int64_t columns)
{
  int64_t n = a->n / rows;
  for (int k = 0; k < 2; k++) {
    double *x = values(b, a, k, false);
    for (int64_t i = 0; i < a->n; i++)
      assert_int_equal(isnan(x[i]) != 0,
                       i / n == rows - 2 && i % n >= from && i % n < from + columns);
    free(x);
  }
}

static void norms_that_overflow(struct both b, struct norm_case c)
{
  struct gated_rmsnorm_shape d = {c.rows, c.E, c.G, c.ldz, true};
  int64_t M = c.rows, n = M * c.E, group = c.E / c.G;
  struct array *x = with_overflow(&b, M, n), *z = reals(&b, M * c.ldz, 1, 2);
  struct array *w = reals(&b, c.E, 0.5, 2), *r = poison(&b, M, sizeof(real));
  struct array *y = poison(&b, n, sizeof(real)), *gr = poison(&b, M * c.G, sizeof(real));
  struct array *out = poison(&b, n, sizeof(real)), *g = reals(&b, M, 1, 2);
  struct array *v = poison(&b, n, sizeof(real));
  ON_BOTH(b)
  {
    const struct branch_norm norm = {
        .B = M, .T = 1, .x = x->at[k], .w = w->at[k], .damping = 1, .r = r->at[k], .y = y->at[k]};
    be->rmsnorm_fwd(be->st, c.E, (real)1e-5, NULL, norm);
    be->gated_rmsnorm_fwd(be->st, d, (real)1e-5, x->at[k], (const real *)z->at[k] + c.z_at,
                          w->at[k], gr->at[k], out->at[k]);
    be->weight_norm_fwd(be->st, M, c.E, g->at[k], x->at[k], v->at[k]);
  }
  check_overflow(&b, r, M, 0, 1);
  check_overflow(&b, y, M, 0, c.E);
  check_overflow(&b, gr, M, 0, 1);
  check_overflow(&b, out, M, 0, group);
  check_overflow(&b, v, M, 0, c.E);
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
    norms_that_overflow(begin(cpu, device, seed), norm_cases[i]);
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

static void gated_linear_that_overflows(struct both b, struct gated_linear_case c)
{
  static const struct branch_norm none;
  struct gated_rmsnorm_shape d = {c.rows, c.E, c.G, c.E + c.gap, c.norm_first};
  struct array *y = with_overflow(&b, c.rows, c.rows * c.E);
  struct array *z = reals(&b, c.rows * d.ldz, 1, 2), *w = reals(&b, c.E, 0.5, 2);
  struct array *W = reals(&b, c.N * c.E, -1, 1), *r = poison(&b, c.rows * c.G, sizeof(real));
  struct array *yn = poison(&b, c.rows * c.E, sizeof(real));
  struct array *out = poison(&b, c.rows * c.N, sizeof(real));
  ON_BOTH(b)
  be->gated_linear_fwd(be->st, d, (real)1e-5, y->at[k], (const real *)z->at[k] + c.z_at, w->at[k],
                       c.N, W->at[k], NULL, NULL, false, true, r->at[k], yn->at[k], out->at[k],
                       none);
  check_overflow(&b, out, c.rows, 0, c.N);
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
    gated_linear_that_overflows(begin(cpu, device, seed), gated_linear_cases[i]);
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
#endif
