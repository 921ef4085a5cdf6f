/* ssd_operations.c: cases of ssd, ssd_chunked and conv1d. */
#include "tests/numeric/operation_case.h"
#include <math.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

/* ---- ssd, ssd_chunked: n = B, T, H, P, N, G, chunk, D_has_hdim + 2 A_negative + 4 by_blocks, ld
 * ---- inputs x, B, C (rows of ld columns, of which the first are used), dt, A_log, D, S0 */
static struct ssd_shape ssd_shape_of(const struct operation_case *c)
{
  const int64_t *n = c->n;
  struct ssd_shape d = {.B = n[0], .T = n[1], .H = n[2], .P = n[3], .N = n[4], .G = n[5]};
  d.ld = n[8], d.chunk = n[6];
  d.D_has_hdim = (n[7] & 1) != 0, d.A_negative = (n[7] & 2) != 0, d.by_blocks = (n[7] & 4) != 0;
  return d;
}

/* By blocks where the backend does. */
static struct ssd_shape shape_for(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  struct ssd_shape d = ssd_shape_of(c);
  d.by_blocks = d.by_blocks && be->ssd_by_blocks;
  return d;
}

static void ssd_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->ssd_fwd(be->st, ssd_shape_of(c), a->in[0], a->in[1], a->in[2], a->in[3], a->in[4], a->in[5],
              NULL, a->in[6], a->kept, a->out[0], a->out[1]);
}

static void ssd_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  real *S = a->kept;
  be->ssd_vjp(be->st, ssd_shape_of(c), a->in[0], a->in[1], a->in[2], a->in[3], a->in[4], a->in[5],
              a->in[6], S, a->outb[0], a->outb[1], S + c->kept / 2, a->inb[0], a->inb[1], a->inb[2],
              a->inb[3], a->inb[4], a->inb[5], a->inb[6]);
}

static void ssd_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  real *S = a->kept;
  be->ssd_jvp(be->st, ssd_shape_of(c), a->in[0], a->in[1], a->in[2], a->in[3], a->in[4], a->in[5],
              a->in[6], S, a->ind[0], a->ind[1], a->ind[2], a->ind[3], a->ind[4], a->ind[5],
              a->ind[6], S + c->kept / 2, a->outd[0], a->outd[1]);
}

static real *chunked_work(const struct operation_case *c, const struct case_arrays *a)
{
  struct ssd_shape d = ssd_shape_of(c);
  return (real *)a->kept + d.B * ssd_chunks(d) * d.H * d.P * d.N;
}

static void ssd_chunked_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->ssd_chunked_fwd(be->st, shape_for(c, a), a->in[0], a->in[1], a->in[2], a->in[3], a->in[4],
                      a->in[5], NULL, a->in[6], a->kept, chunked_work(c, a), a->out[0], a->out[1]);
}

static void ssd_chunked_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->ssd_chunked_vjp(be->st, shape_for(c, a), a->in[0], a->in[1], a->in[2], a->in[3], a->in[4],
                      a->in[5], a->kept, a->outb[0], a->outb[1], chunked_work(c, a), 1, a->inb[0],
                      a->inb[1], a->inb[2], a->inb[3], a->inb[4], a->inb[5], a->inb[6]);
}

static void ssd_chunked_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->ssd_chunked_jvp(be->st, ssd_shape_of(c), a->in[0], a->in[1], a->in[2], a->in[3], a->in[4],
                      a->in[5], a->kept, a->ind[0], a->ind[1], a->ind[2], a->ind[3], a->ind[4],
                      a->ind[5], a->ind[6], chunked_work(c, a), a->outd[0], a->outd[1]);
}

/* One shape, but for adaptors and what is kept. */
static struct ssd_shape describe_ssd(const int64_t *n, struct operation_case *c)
{
  int64_t B = n[0], T = n[1], H = n[2], P = n[3], N = n[4], G = n[5];
  int64_t x = H * P, group = G * N, ld = (x > group ? x : group) + (n[6] % 4 ? 2 : 4);
  int64_t before = (B * T - 1) * ld;
  *c = (struct operation_case){
      .n = {B, T, H, P, N, G, n[6], n[7], ld},
      .in = {{"x", before + x},
             {"B", before + group},
             {"C", before + group},
             {"dt", B * T * H, .lo = 1e-3, .hi = 0.5},
             {"A_log", H, .lo = 0, .hi = 2.8},
             {"D", n[7] & 1 ? H * P : H},
             {"S0", B * H * P * N, .optional = true}},
      .out = {{"y", B * T * H * P}, {"S1", B * H * P * N, .optional = true}},
      .float_bound = 4e-6};
  return ssd_shape_of(c);
}

static bool ssd_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][8] = {
      {1, 1, 1, 1, 1, 1, 1, 0}, {2, 7, 2, 7, 7, 1, 1, 0},  {1, 129, 1, 1, 1, 1, 1, 1},
      {1, 2, 1, 129, 1, 1, 1},  {2, 3, 1, 1, 129, 1, 1},   {1, 16, 4, 32, 16, 1, 1, 0},
      {1, 4, 1, 64, 1, 1, 1},   {2, 5, 4, 3, 17, 2, 1, 1}, {2, 7, 4, 3, 5, 2, 1, 2},
  };
  if (index >= COUNT(shapes))
    return false;
  struct ssd_shape d = describe_ssd(shapes[index], c);
  c->kept = 2 * d.B * d.T * d.H * d.P * d.N;
  c->fwd = ssd_fwd;
  c->vjp = ssd_vjp;
  c->jvp = ssd_jvp;
  c->run = case_run;
  case_name(c, "ssd B %d T %d H %d P %d N %d G %d", (int)d.B, (int)d.T, (int)d.H, (int)d.P,
            (int)d.N, (int)d.G);
  return true;
}

static bool ssd_chunked_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][8] = {
      {1, 1, 1, 1, 1, 1, 64, 0},    {2, 7, 2, 7, 7, 1, 7, 0},      {1, 129, 1, 2, 3, 1, 64, 1},
      {1, 2, 1, 129, 1, 1, 1},      {2, 3, 1, 1, 129, 1, 2},       {1, 16, 4, 32, 16, 1, 64, 0},
      {1, 4, 1, 64, 1, 1, 64},      {2, 9, 4, 3, 17, 2, 4, 1},     {1, 40, 2, 17, 2, 2, 20, 0},
      {1, 3, 1, 150, 2, 1, 2},      {2, 9, 4, 3, 5, 2, 4, 2},      {1, 7, 2, 17, 3, 1, 64, 3},
      {2, 7, 2, 7, 7, 1, 7, 4},     {1, 129, 1, 2, 3, 1, 64, 5},   {1, 16, 4, 32, 16, 1, 64, 4},
      {1, 140, 2, 3, 2, 1, 200, 4}, {1, 90, 4, 17, 2, 2, 90, 5},   {1, 200, 1, 2, 3, 1, 140, 4},
      {1, 3, 1, 150, 2, 1, 2, 4},   {2, 37, 4, 33, 18, 1, 64, 4},  {5, 20, 2, 16, 16, 1, 7, 4},
      {1, 130, 2, 64, 128, 1, 64},  {2, 64, 4, 64, 128, 2, 64, 1}, {1, 100, 2, 48, 100, 1, 50},
      {2, 70, 3, 20, 36, 1, 32},    {1, 90, 4, 16, 20, 1, 18},
  };
  if (index >= COUNT(shapes))
    return false;
  struct ssd_shape d = describe_ssd(shapes[index], c);
  c->kept = d.B * ssd_chunks(d) * d.H * d.P * d.N + ssd_chunked_work(d) + ssd_chunked_jvp_work(d);
  c->fwd = ssd_chunked_fwd;
  c->vjp = ssd_chunked_vjp;
  c->jvp = ssd_chunked_jvp;
  c->run = case_run;
  case_name(c, "ssd_chunked B %d T %d H %d P %d N %d G %d chunk %d%s", (int)d.B, (int)d.T, (int)d.H,
            (int)d.P, (int)d.N, (int)d.G, (int)d.chunk, shapes[index][7] & 4 ? " by blocks" : "");
  return true;
}

/* ---- conv1d: n = B, T, C, W, ld; inputs x, w, b, state0 ---- */
static struct conv1d_shape conv1d_shape_of(const struct operation_case *c)
{
  return (struct conv1d_shape){c->n[0], c->n[1], c->n[2], c->n[3], c->n[4]};
}

static void conv1d_fwd(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->conv1d_fwd(be->st, conv1d_shape_of(c), a->in[0], a->in[1], a->in[2], NULL, a->in[3],
                 a->out[0], a->out[1]);
}

static void conv1d_vjp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->conv1d_vjp(be->st, conv1d_shape_of(c), a->in[0], a->in[1], a->in[2], a->in[3], a->outb[0],
                 a->outb[1], 1, NULL, NULL, a->inb[0], a->inb[1], a->inb[2], a->inb[3]);
}

static void conv1d_jvp(const struct operation_case *c, const struct case_arrays *a)
{
  const struct backend *be = a->be;
  be->conv1d_jvp(be->st, conv1d_shape_of(c), a->in[0], a->in[1], a->in[2], a->in[3], a->ind[0],
                 a->ind[1], a->ind[2], a->ind[3], a->outd[0], a->outd[1]);
}

static bool conv1d_case(int index, struct operation_case *c)
{
  static const int64_t shapes[][5] = {
      {1, 1, 1, 1, 1},    {2, 7, 7, 4, 9},    {1, 129, 3, 4, 3},    {2, 3, 129, 4, 130},
      {1, 2, 20, 16, 20}, {3, 70, 16, 3, 18}, {2, 16, 160, 4, 292}, {2, 1, 32, 4, 32},
      {2, 70, 16, 4, 18}, {9, 16, 17, 4, 20},
  };
  if (index >= COUNT(shapes))
    return false;
  const int64_t *n = shapes[index], B = n[0], T = n[1], C = n[2], W = n[3], ld = n[4];
  *c = (struct operation_case){.n = {B, T, C, W, ld},
                               .in = {{"x", (B * T - 1) * ld + C},
                                      {"w", C * W},
                                      {"b", C, .optional = true},
                                      {"state0", B * C * W, .optional = true}},
                               .out = {{"y", B * T * C}, {"state1", B * C * W, .optional = true}},
                               .float_bound = 2e-6,
                               CASE_ADAPTORS(conv1d)};
  case_name(c, "conv1d B %d T %d C %d W %d", (int)B, (int)T, (int)C, (int)W);
  return true;
}

case_list NAME(ssd_operations);
bool NAME(ssd_operations)(int index, struct operation_case *c)
{
  static case_list *const lists[] = {ssd_case, ssd_chunked_case, conv1d_case};
  for (int k = 0; k < COUNT(lists); k++) {
    int count = 0;
    while (lists[k](count, c))
      count++;
    if (index < count)
      return lists[k](index, c);
    index -= count;
  }
  return false;
}
