/* device_sequences.c: tests of device_operations.h: what goes along a sequence: convolution, the
 * SSD. */
#include "tests/numeric/device_operations.h"

#if REAL_BITS != 128
#include "tests/numeric/both_devices.h"

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
