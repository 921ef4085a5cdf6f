/* simple_operations.c: cases of every differentiable operation but ssd and conv1d.  The last shape
 * of each is large enough for several threads. */
#include "tests/numeric/operation_case.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

/* ---- embedding: n = M, V, D; there may be a mask ---- */
static void embedding_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->embedding_fwd(be->st, c->n[0], c->n[1], c->n[2], a->integers, a->in[0], a->in[1], a->out[0]);
}

static void embedding_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->embedding_vjp(be->st, c->n[0], c->n[1], c->n[2], a->integers, a->in[1], a->outb[0],
                    a->inb[0]);
}

static void embedding_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->embedding_jvp(be->st, c->n[0], c->n[1], c->n[2], a->integers, a->in[1], a->ind[0],
                    a->outd[0]);
}

static bool embedding_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][3] = {
      {1, 1, 1}, {7, 6, 64}, {129, 6, 7}, {129, 60, 129}, {257, 6, 300}};
  if (index >= 2 * COUNT(shapes))
    return false;
  const int64_t *s = shapes[index / 2], M = s[0], V = s[1], D = s[2];
  *c = (struct operation_case){.n = {M, V, D},
                               .in = {{"W", V * D}},
                               .out = {{"y", M * D}},
                               .float_bound = 1e-6,
                               CASE_ADAPTORS(embedding)};
  if (index % 2)
    c->in[1] = (struct case_tensor){"mask", M * D, .constant = true};
  for (int64_t m = 0; m < M; m++)
    c->integers[m] = (int32_t)(m * m * 31 % V); /* some repeat, some never occur */
  case_name(c, "embedding M %d V %d D %d%s", (int)M, (int)V, (int)D, index % 2 ? " mask" : "");
  return true;
}

/* ---- rmsnorm: n = M, D; s = eps ---- */
static void rmsnorm_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  const struct branch_norm n = {.B = c->n[0],
                                .T = 1,
                                .x = a->in[0],
                                .w = a->in[1],
                                .damping = 1,
                                .r = a->kept,
                                .y = a->out[0]};
  be->rmsnorm_fwd(be->st, c->n[1], (real)c->s[0], NULL, n);
}

static void rmsnorm_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->rmsnorm_vjp(be->st, c->n[0], 1, c->n[1], a->in[0], a->in[1], NULL, a->kept, 1, a->outb[0],
                  NULL, 1, 0, a->inb[0], NULL, a->inb[1]);
}

static void rmsnorm_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->rmsnorm_jvp(be->st, c->n[0], 1, c->n[1], a->in[0], a->in[1], NULL, a->kept, a->ind[0], NULL,
                  a->ind[1], NULL, a->outd[0]);
}

static bool rmsnorm_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][2] = {{1, 1}, {1, 7}, {7, 64}, {129, 7}, {3, 1100}, {300, 257}};
  if (index >= COUNT(shapes))
    return false;
  int64_t M = shapes[index][0], D = shapes[index][1];
  *c = (struct operation_case){.n = {M, D},
                               .s = {D == 1 ? 0.5 : 1e-5}, /* D = 1: y' is eps (x^2 + eps)^-1.5 */
                               .in = {{"x", M * D}, {"w", D, .lo = 0.5, .hi = 2}},
                               .out = {{"y", M * D}},
                               .kept = M,
                               .float_bound = 2e-6,
                               CASE_ADAPTORS(rmsnorm)};
  case_name(c, "rmsnorm M %d D %d", (int)M, (int)D);
  return true;
}

/* ---- rmsnorm behind a residual branch: n = B, T, D; s = eps; in = x, w, out, mask; out = y, h;
 * kept = r, h for the derivatives, outb ---- */
static real *kept_h(const struct operation_case *c, const struct case_arrays *a)
{
  return (real *)a->kept + c->n[0] * c->n[1];
}

static void branch_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  int64_t B = c->n[0], T = c->n[1], D = c->n[2];
  struct branch_norm n = {.B = B, .T = T, .x = a->in[0], .mask = a->in[3], .w = a->in[1]};
  n.damping = 1, n.r = a->kept, n.h = kept_h(c, a), n.y = a->out[0];
  be->rmsnorm_fwd(be->st, D, (real)c->s[0], a->in[2], n);
  if (a->out[1])
    be->axpby(be->st, B * T * D, 1, kept_h(c, a), 0, a->out[1]);
}

/* The cotangents of x and out are h's, and masked. */
static void branch_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  int64_t B = c->n[0], T = c->n[1], D = c->n[2], n = B * T * D;
  real *hb = kept_h(c, a) + n, *outb = hb + n;
  be->fill(be->st, n, 0, hb);
  if (a->outb[1])
    be->axpby(be->st, n, 1, a->outb[1], 0, hb);
  if (a->outb[0])
    be->rmsnorm_vjp(be->st, B, T, D, kept_h(c, a), a->in[1], a->in[3], a->kept, 1, a->outb[0], NULL,
                    1, 0, hb, outb, a->inb[1]);
  if (a->inb[0])
    be->axpby(be->st, n, 1, hb, 1, a->inb[0]);
  if (a->inb[2])
    be->axpby(be->st, n, 1, outb, 1, a->inb[2]);
}

static void branch_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  int64_t B = c->n[0], T = c->n[1], D = c->n[2], n = B * T * D;
  real *hd = kept_h(c, a) + n;
  be->rmsnorm_jvp(be->st, B, T, D, kept_h(c, a), a->in[1], a->in[3], a->kept, a->ind[0], a->ind[2],
                  a->ind[1], hd, a->outd[0]);
  if (!a->outd[1])
    return;
  if (a->ind[2] || a->ind[0])
    be->axpby(be->st, n, 1, a->ind[2] ? hd : a->ind[0], 0, a->outd[1]);
  else
    be->fill(be->st, n, 0, a->outd[1]);
}

static bool branch_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][3] = {{1, 1, 1},    {3, 7, 64},   {2, 129, 7},
                                      {1, 2, 1100}, {4, 43, 129}, {3, 5, 256}};
  if (index >= 2 * COUNT(shapes))
    return false;
  const int64_t *s = shapes[index / 2], B = s[0], T = s[1], D = s[2], n = B * T * D;
  bool mask = index % 2;
  *c = (struct operation_case){.n = {B, T, D},
                               .s = {D == 1 ? 0.5 : 1e-5},
                               .in = {{"x", n}, {"w", D, .lo = 0.5, .hi = 2}, {"out", n}},
                               .out = {{"y", n}, {"h", n}},
                               .kept = B * T + 3 * n,
                               .float_bound = 4e-6,
                               CASE_ADAPTORS(branch)};
  if (mask)
    c->in[3] = (struct case_tensor){"mask", B * D, .constant = true};
  case_name(c, "rmsnorm of a branch B %d T %d D %d%s", (int)B, (int)T, (int)D, mask ? " mask" : "");
  return true;
}

/* ---- gated_rmsnorm: n = rows, E, G, ldz, norm_before_gate, columns of z's matrix before z ---- */
static struct gated_rmsnorm_shape gated_shape(const struct operation_case *c)
{
  return (struct gated_rmsnorm_shape){c->n[0], c->n[1], c->n[2], c->n[3], c->n[4] != 0};
}

static void gated_rmsnorm_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  const real *z = a->in[1];
  be->gated_rmsnorm_fwd(be->st, gated_shape(c), (real)c->s[0], a->in[0], z + c->n[5], a->in[2],
                        a->kept, a->out[0]);
}

static void gated_rmsnorm_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  const real *z = a->in[1];
  real *zb = a->inb[1];
  be->gated_rmsnorm_vjp(be->st, gated_shape(c), a->in[0], z + c->n[5], a->in[2], a->kept,
                        a->outb[0], 1, a->inb[0], zb ? zb + c->n[5] : NULL, a->inb[2]);
}

static void gated_rmsnorm_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  const real *z = a->in[1], *zd = a->ind[1];
  be->gated_rmsnorm_jvp(be->st, gated_shape(c), a->in[0], z + c->n[5], a->in[2], a->kept, a->ind[0],
                        zd ? zd + c->n[5] : NULL, a->ind[2], a->outd[0]);
}

static bool gated_rmsnorm_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][5] = {
      {1, 1, 1, 1, 0},     {7, 7, 1, 9, 1},     {5, 128, 1, 292, 0},
      {3, 128, 2, 292, 3}, {129, 6, 2, 6, 0},   {2, 1100, 1, 1100, 0},
      {9, 256, 1, 260, 4}, {5, 200, 2, 200, 0}, {65, 128, 2, 292, 0}};
  if (index >= 2 * COUNT(shapes))
    return false;
  const int64_t *s = shapes[index / 2], rows = s[0], E = s[1], G = s[2], ldz = s[3];
  bool norm_first = index % 2;
  *c = (struct operation_case){
      .n = {rows, E, G, ldz, norm_first, s[4]},
      .s = {E == G ? 0.5 : 1e-5},
      .in = {{"y", rows * E}, {"z", rows * ldz, .lo = -6, .hi = 6}, {"w", E, .lo = 0.5, .hi = 2}},
      .out = {{"out", rows * E}},
      .kept = rows * G,
      .float_bound = 4e-6,
      CASE_ADAPTORS(gated_rmsnorm)};
  case_name(c, "gated_rmsnorm rows %d E %d G %d ldz %d%s", (int)rows, (int)E, (int)G, (int)ldz,
            norm_first ? " norm_before_gate" : "");
  return true;
}

/* ---- linear: n = M, K, N; s = beta; c is the constant input 3 ---- */
static void linear_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->linear_fwd(be->st, c->n[0], c->n[1], c->n[2], a->in[0], a->in[1], NULL, a->in[2],
                 (real)c->s[0], a->in[3], a->out[0]);
}

static void linear_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->linear_vjp(be->st, c->n[0], c->n[1], c->n[2], a->in[0], a->in[1], a->outb[0], 1, a->inb[0],
                 a->inb[1], a->inb[2]);
}

static void linear_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->linear_jvp(be->st, c->n[0], c->n[1], c->n[2], a->in[0], a->in[1], a->ind[0], a->ind[1],
                 a->ind[2], a->outd[0]);
}

static bool linear_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][3] = {{1, 1, 1},   {1, 64, 292}, {7, 64, 6},    {3, 128, 64},
                                      {129, 7, 5}, {70, 7, 129}, {520, 64, 160}};
  if (index >= COUNT(shapes))
    return false;
  int64_t M = shapes[index][0], K = shapes[index][1], N = shapes[index][2];
  *c = (struct operation_case){.n = {M, K, N},
                               .s = {index % 2 ? 0.5 : 0},
                               .in = {{"x", M * K},
                                      {"W", N * K},
                                      {"b", N, .optional = true},
                                      {"c", M * N, .constant = true}},
                               .out = {{"y", M * N}},
                               .float_bound = 2e-6,
                               CASE_ADAPTORS(linear)};
  case_name(c, "linear M %d K %d N %d beta %g", (int)M, (int)K, (int)N, c->s[0]);
  return true;
}

/* ---- softplus_clamp: n = M, H, ldx, columns before x; s = lo, hi ---- */
static void softplus_clamp_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  const real *x = a->in[0];
  be->softplus_clamp_fwd(be->st, c->n[0], c->n[1], c->n[2], x + c->n[3], a->in[1], c->s[0], c->s[1],
                         a->out[0]);
}

static void softplus_clamp_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  const real *x = a->in[0];
  real *xb = a->inb[0];
  be->softplus_clamp_vjp(be->st, c->n[0], c->n[1], c->n[2], x + c->n[3], a->in[1], c->s[0], c->s[1],
                         a->outb[0], 1, xb ? xb + c->n[3] : NULL, a->inb[1]);
}

static void softplus_clamp_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  const real *x = a->in[0], *xd = a->ind[0];
  be->softplus_clamp_jvp(be->st, c->n[0], c->n[1], c->n[2], x + c->n[3], a->in[1], c->s[0], c->s[1],
                         xd ? xd + c->n[3] : NULL, a->ind[1], a->outd[0]);
}

static bool softplus_clamp_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][4] = {
      {1, 1, 1, 0}, {7, 4, 292, 288}, {129, 7, 9, 1}, {33, 33, 33, 0}, {129, 33, 40, 7}};
  static const double limits[][2] = {{0, HUGE_VAL}, {0.1, 3}};
  if (index >= 2 * COUNT(shapes))
    return false;
  const int64_t *s = shapes[index / 2], M = s[0], H = s[1], ldx = s[2];
  const double *limit = limits[index % 2];
  *c = (struct operation_case){
      .n = {M, H, ldx, s[3]},
      .s = {limit[0], limit[1]},
      .in = {{"x", M * ldx, .lo = -8, .hi = 8}, {"bias", H, .lo = -1, .hi = 1}},
      .out = {{"y", M * H}},
      .float_bound = 1e-6,
      CASE_ADAPTORS(softplus_clamp)};
  if (M * H == 1) /* within the limits, where the derivative is not 0 */
    c->in[0].lo = 0.1, c->in[0].hi = 0.5;
  case_name(c, "softplus_clamp M %d H %d ldx %d in (%g,%g)", (int)M, (int)H, (int)ldx, limit[0],
            limit[1]);
  return true;
}

/* ---- silu_gate: n = M, F ---- */
static void silu_gate_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->silu_gate_fwd(be->st, c->n[0], c->n[1], a->in[0], a->out[0]);
}

static void silu_gate_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->silu_gate_vjp(be->st, c->n[0], c->n[1], a->in[0], a->outb[0], a->inb[0]);
}

static void silu_gate_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->silu_gate_jvp(be->st, c->n[0], c->n[1], a->in[0], a->ind[0], a->outd[0]);
}

static bool silu_gate_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][2] = {{1, 1}, {7, 129}, {129, 7}, {2, 1100}, {129, 64}};
  if (index >= COUNT(shapes))
    return false;
  int64_t M = shapes[index][0], F = shapes[index][1];
  *c = (struct operation_case){.n = {M, F},
                               .in = {{"x", M * 2 * F, .lo = -6, .hi = 6}},
                               .out = {{"y", M * F}},
                               .float_bound = 1e-6,
                               CASE_ADAPTORS(silu_gate)};
  case_name(c, "silu_gate M %d F %d", (int)M, (int)F);
  return true;
}

/* ---- cross_entropy: n = M, V; the case's output is the sum of the losses ---- */
static void sum_of_wides(const struct operation_case *c, const struct case_arrays *a, void *out)
{
  wide loss[512], sum = 0;
  CHECK(c->wides <= 512);
  case_get(a->be, (size_t)c->wides * sizeof *loss, a->wides, loss);
  for (int64_t m = 0; m < c->wides; m++)
    sum += loss[m];
  real rounded = (real)sum;
  case_put(a->be, sizeof rounded, &rounded, out);
}

static void cross_entropy_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->cross_entropy_fwd(be->st, c->n[0], c->n[1], a->in[0], a->integers, a->kept, a->wides, NULL, 0,
                        NULL);
  sum_of_wides(c, a, a->out[0]);
}

static void cross_entropy_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  real scale;
  case_get(be, sizeof scale, a->outb[0], &scale);
  be->cross_entropy_vjp(be->st, c->n[0], c->n[1], a->in[0], a->integers, a->kept, scale, 1,
                        a->inb[0]);
}

static void cross_entropy_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->cross_entropy_jvp(be->st, c->n[0], c->n[1], a->in[0], a->integers, a->kept, a->ind[0],
                        a->wides);
  sum_of_wides(c, a, a->outd[0]);
}

static bool cross_entropy_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][2] = {{1, 1}, {1, 7}, {7, 6}, {129, 6}, {3, 1100}, {129, 65}};
  enum { ALL, SOME, NONE, KINDS }; /* labels that count */
  if (index >= KINDS * COUNT(shapes))
    return false;
  int64_t M = shapes[index / KINDS][0], V = shapes[index / KINDS][1];
  int kind = index % KINDS;
  *c = (struct operation_case){.n = {M, V},
                               .in = {{"x", M * V, .lo = -4, .hi = 4}},
                               .out = {{"sum of losses", 1}},
                               .kept = M,
                               .wides = M,
                               .float_bound = 4e-6,
                               CASE_ADAPTORS(cross_entropy)};
  for (int64_t m = 0; m < M; m++)
    c->integers[m] =
        kind == NONE || (kind == SOME && m % 3 == 0) ? IGNORED_LABEL : (int32_t)(m * 5 % V);
  case_name(c, "cross_entropy M %d V %d, %s labels", (int)M, (int)V,
            kind == ALL    ? "all"
            : kind == SOME ? "some"
                           : "no");
  return true;
}

/* ---- weight_norm: n = rows, columns ---- */
static void weight_norm_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->weight_norm_fwd(be->st, c->n[0], c->n[1], a->in[0], a->in[1], a->out[0]);
}

static void weight_norm_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->weight_norm_vjp(be->st, c->n[0], c->n[1], a->in[0], a->in[1], a->outb[0], a->inb[0],
                      a->inb[1]);
}

static void weight_norm_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->weight_norm_jvp(be->st, c->n[0], c->n[1], a->in[0], a->in[1], a->ind[0], a->ind[1],
                      a->outd[0]);
}

static bool weight_norm_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][2] = {{1, 2}, {7, 4}, {129, 7}, {3, 1100}, {5, 388}, {2, 1024}};
  if (index >= COUNT(shapes))
    return false;
  int64_t rows = shapes[index][0], n = shapes[index][1];
  *c = (struct operation_case){.n = {rows, n},
                               .in = {{"g", rows}, {"v", rows * n, .lo = .2, .hi = 1}},
                               .out = {{"w", rows * n}},
                               .float_bound = 1e-6,
                               CASE_ADAPTORS(weight_norm)};
  case_name(c, "weight_norm rows %d columns %d", (int)rows, (int)n);
  return true;
}

/* ---- all of them ---- */
case_list NAME(simple_operations);
bool NAME(simple_operations)(int index, struct operation_case *c)
{
  static case_list *const lists[] = {embedding_case,     rmsnorm_case,       branch_case,
                                     gated_rmsnorm_case, linear_case,        softplus_clamp_case,
                                     silu_gate_case,     cross_entropy_case, weight_norm_case};
  for (int l = 0; l < COUNT(lists); l++) {
    int cases = 0;
    while (lists[l](cases, c))
      cases++;
    if (index < cases)
      return lists[l](index, c);
    index -= cases;
  }
  return false;
}
