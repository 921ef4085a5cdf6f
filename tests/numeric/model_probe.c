/* model_probe.c: see model_probe.h. */
#include "tests/numeric/model_probe.h"
#include "core/gradient_report.h"
#include "core/shards.h"
#include "core/network.h"
#include "core/philox.h"
#include "core/weights.h"
#include "tests/check.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define probe NAME(probe)
#define PROBE_(x) NAME(CONCAT(probe_, x))

extern const struct backend NAME(backend_cpu);
extern const struct solver_port NAME(fixed_point_solvers_cpu);

struct probe {
  struct config c;
  struct weights w;
  struct solver_port port;
  struct network net;
  const int32_t *lengths;
  bool dropout;
  struct network_result last;
};

/* What f gave in the solves of the first `learn`: in later ones it gives the same, so that the
 * solver's iterates are constants, to differences as to the complex step. */
struct recording {
  real *values;
  size_t used, size, at;
  bool done;
};

struct detached {
  const struct fp_problem *p;
  struct recording *r;
};

static struct recording recording; /* of the probe that was opened last */

static enum status detached_f(void *ctx, const struct fp_active *a, const real *z, real *fz)
{
  struct detached *d = ctx;
  struct recording *r = d->r;
  size_t n = (size_t)(a->rows * a->blocks * d->p->n);
  TRY(d->p->f(d->p->ctx, a, z, fz));
  if (r->done) {
    assert_true(r->at + n <= r->used);
    memcpy(fz, r->values + r->at, n * sizeof *fz);
    r->at += n;
    return OK;
  }
  if (r->used + n > r->size) {
    r->size = 2 * (r->used + n);
    r->values = realloc(r->values, r->size * sizeof *r->values);
    assert_non_null(r->values);
  }
  for (size_t i = 0; i < n; i++)
    r->values[r->used++] = fz[i] = re(fz[i]);
  return OK;
}

static enum status solve_detached(const struct backend *be, const struct fp_problem *p,
                                  const struct fp_options *o, struct scratch scratch, real *z,
                                  struct fp_result *result)
{
  struct fp_problem q = *p;
  struct detached d = {p, &recording};
  q.ctx = &d;
  q.f = detached_f, q.measures = false; /* what is recorded is f alone */
  recording.at = 0;
  assert_true(p->retire == NULL);
  TRY(NAME(fixed_point_solvers_cpu).solve(be, &q, o, scratch, z, result));
  recording.done = true;
  return OK;
}

struct probe *PROBE_(open_on)(const struct config *c, const struct backend *be,
                              const struct solver_port *port, int64_t rows, int64_t length,
                              bool learn)
{
  struct probe *p = calloc(1, sizeof *p);
  assert_non_null(p);
  p->c = *c;
  p->port = *port;
  check_ok(weights_open(&p->c.model, be, 2, &p->w));
  recording.used = 0, recording.done = false;
  check_ok(network_open(&p->w.m, &p->c.deq, &p->port, rows, length, learn, &p->net));
  return p;
}

struct probe *PROBE_(open)(const struct config *c, int64_t rows, int64_t length, bool learn,
                           bool detach)
{
  struct solver_port port = NAME(fixed_point_solvers_cpu);
  if (detach)
    port.solve = solve_detached;
  return PROBE_(open_on)(c, &NAME(backend_cpu), &port, rows, length, learn);
}

void PROBE_(close)(struct probe *p)
{
  network_close(&p->net);
  weights_close(&p->w);
  free(recording.values);
  recording = (struct recording){0};
  free(p);
}

static real *host_reals(int64_t n)
{
  real *x = calloc((size_t)n, sizeof *x);
  assert_non_null(x);
  return x;
}

void PROBE_(set)(struct probe *p, const double *block, int64_t k)
{
  const struct backend *be = p->w.m.be;
  real *host = host_reals(p->w.tensors.block);
  for (int64_t i = 0; i < p->w.tensors.block; i++)
    host[i] = (real)block[i];
#if REAL_BITS == 128
  if (k >= 0)
    host[k] = CMPLX(block[k], COMPLEX_STEP);
#else
  assert_true(k < 0);
#endif
  check_ok(be->upload(be->st, (size_t)p->w.tensors.block * sizeof *host, host, p->w.set[0].block));
  free(host);
  parameters_derive(&p->w.m, &p->w.set[0]);
}

#if REAL_BITS == 128
void probe_direct_c64(struct probe *p, const double *block, const double *direction)
{
  for (int64_t i = 0; i < p->w.tensors.block; i++)
    p->w.set[0].block[i] = CMPLX(block[i], COMPLEX_STEP * direction[i]);
  parameters_derive(&p->w.m, &p->w.set[0]);
}
#endif

static void copy_out(const struct probe *p, int64_t n, const real *from, double *to)
{
  const struct backend *be = p->w.m.be;
  if (!to)
    return;
  real *host = host_reals(n);
  check_ok(be->download(be->st, (size_t)n * sizeof *host, from, host));
  for (int64_t i = 0; i < n; i++)
    to[i] = (double)re(host[i]);
  free(host);
}

static void report(const struct probe *p, const struct network_result *n, struct probe_result *r)
{
  r->forward = n->forward;
  r->backward = n->backward;
  r->device_bytes = p->net.device.size;
  r->host_bytes = p->net.host.size;
  r->loss = n->labels ? re(n->loss_sum) / (double)n->labels : 0;
#if REAL_BITS == 128
  r->loss_im = n->labels ? im(n->loss_sum) / COMPLEX_STEP / (double)n->labels : 0;
#endif
}

void PROBE_(shorten)(struct probe *p, int64_t length) { network_set_length(&p->net, length); }

void PROBE_(batch)(struct probe *p, const int32_t *lengths, bool dropout)
{
  p->lengths = lengths;
  p->dropout = dropout;
}

/* The batch, with an empty gradient. */
static struct batch batch_to_learn(struct probe *p, const int32_t *tokens, const int32_t *labels)
{
  static const struct dropout_draw draw = {.seed = 3, .step = 5};
  struct batch b = {.rows = p->net.rows, .tokens = tokens, .labels = labels};
  b.lengths = p->lengths;
  b.dropout = p->dropout ? &draw : NULL;
  p->w.m.be->fill(p->w.m.be->st, p->w.tensors.block, 0, p->w.set[1].block);
  return b;
}

static void report_learnt(struct probe *p, const struct network_result *n, struct probe_result *r)
{
  copy_out(p, p->w.tensors.block, p->w.set[1].block, r->gradient);
  report(p, n, r);
  r->loss = re(n->objective);
#if REAL_BITS == 128
  r->loss_im = im(n->objective) / COMPLEX_STEP;
#endif
  r->jacobian = n->jacobian;
  r->fallbacks = n->fallbacks;
}

void PROBE_(learn)(struct probe *p, enum gradient_kind g, const int32_t *tokens,
                   const int32_t *labels, struct probe_result *r)
{
  struct network_result *n = &p->last;
  struct batch b = batch_to_learn(p, tokens, labels);
  check_ok(network_learn(&p->net, &p->w.set[0], g, &b, r->gradient ? &p->w.set[1] : NULL, n));
  report_learnt(p, n, r);
}

#if REAL_BITS == 64
static atomic_int solves_left;

static enum status solve_or_fail(const struct backend *be, const struct fp_problem *p,
                                 const struct fp_options *o, struct scratch scratch, real *z,
                                 struct fp_result *result)
{
  if (atomic_fetch_sub(&solves_left, 1) == 0)
    FAIL(ERR_MEMORY, "a solve is told to fail");
  return NAME(fixed_point_solvers_cpu).solve(be, p, o, scratch, z, result);
}

static void copy_details(const struct probe *p, const struct network_result *n,
                         struct probe_details *d)
{
  if (n->best)
    memcpy(d->best, n->best, (size_t)(p->net.rows * p->net.length) * sizeof *n->best);
  d->correct = n->correct, d->bad = n->bad;
  if (!d->exit)
    return;
  if (n->forward.samples > p->net.rows) /* a window: by token, padding too */
    memcpy(d->exit, n->forward.exit, (size_t)(p->net.rows * p->net.length));
  else
    memcpy(d->exit, n->forward.exit, (size_t)n->forward.samples);
}

void probe_details_f64(struct probe *p, struct probe_details *d) { copy_details(p, &p->last, d); }

int probe_learn_in_shards_f64(struct probe *p, enum gradient_kind g, const int32_t *tokens,
                              const int32_t *labels, int fail_at, struct probe_result *r,
                              struct probe_details *d)
{
  struct shard_set l;
  struct network_result n;
  struct batch b = batch_to_learn(p, tokens, labels);
  struct solver_port port = p->port;
  atomic_store(&solves_left, fail_at);
  if (fail_at >= 0)
    port.solve = solve_or_fail;
  check_ok(shards_open(&p->w.m, &p->c.deq, NULL, &port, p->net.rows, p->net.length, &l));
  enum status s = shards_learn(&l, &p->w.set[0], g, &b, r->gradient ? &p->w.set[1] : NULL, &n);
  d->shards = l.count;
  if (s == OK) {
    report_learnt(p, &n, r);
    copy_details(p, &n, d);
  }
  shards_close(&l);
  return (int)s;
}
#endif

void PROBE_(evaluate)(struct probe *p, const struct fp_options *o, int64_t rows,
                      const int32_t *tokens, struct probe_result *r)
{
  struct network_result n = {.forward = r->forward};
  struct batch b = {.rows = rows, .tokens = tokens};
  int64_t M = rows * p->net.length;
  check_ok(network_evaluate(&p->net, &p->w.set[0], o, &b, &n));
  copy_out(p, M * p->w.m.dims.D, p->net.z[0], r->z);
  copy_out(p, M * p->w.m.dims.V, p->net.logits, r->logits);
  p->last = n;
  report(p, &n, r);
}

#if REAL_BITS == 64
void probe_evaluate_in_shards_f64(struct probe *p, const struct fp_options *o,
                                  const int32_t *tokens, struct probe_result *r,
                                  struct probe_details *d)
{
  struct shard_set l;
  struct network_result n = {.forward = r->forward};
  struct batch b = {.rows = p->net.rows, .tokens = tokens};
  check_ok(shards_open(&p->w.m, &p->c.deq, o, &p->port, p->net.rows, p->net.length, &l));
  check_ok(shards_evaluate(&l, &p->w.set[0], &b, &n));
  d->shards = l.count;
  memcpy(d->best, n.best, (size_t)(b.rows * p->net.length) * sizeof *n.best);
  report(p, &n, r);
  shards_close(&l);
}
#endif

#if REAL_BITS == 64
void probe_jacobian_f64(struct probe *p, double *J)
{
  struct network *net = &p->net;
  struct span s = whole_span(net, net->rows);
  int64_t n = net->rows * net->length * p->w.m.dims.D;
  for (int64_t i = 0; i < n; i++) {
    memset(net->fb, 0, (size_t)n * sizeof *net->fb);
    memset(J + i * n, 0xff, (size_t)n * sizeof *J); /* NaN */
    const struct block_cotangents to = {.z = J + i * n};
    net->fb[i] = 1;
    check_ok(block_vjp(net->m, &p->w.set[0], &s, &net->acts[0], net->fb, net->scratch, &to, NULL));
  }
}

void probe_radius_f64(struct probe *p, double *mean, double *largest)
{
  check_ok(network_spectral_radius(&p->net, &p->w.set[0], p->net.rows, mean, largest));
}

double *probe_parameters(const struct config *c, double in_proj, double injection, uint64_t seed,
                         struct tensor_list *list)
{
  check_ok(tensor_list_make(&c->model, list));
  double *block = calloc((size_t)list->block, sizeof *block);
  assert_non_null(block);
  parameters_initialise(&c->model, list, seed, block);
  for (int64_t i = 0; i < list->count; i++) {
    const struct tensor_spec *t = &list->tensor[i];
    bool in = t->slot == P_IN_PROJ || strstr(t->name, "in_proj.weight_g");
    bool injected = t->slot == P_INJECTION_WEIGHT || strstr(t->name, "injection.weight_g");
    double scale = in ? in_proj : injected ? injection : 1;
    bool constant = t->init == INIT_ONES || t->init == INIT_ZEROS;
    for (int64_t j = 0; j < t->count; j++) {
      uint32_t word[4];
      philox(seed, STREAM_TEST, (uint32_t)i, (uint32_t)j, 0, word);
      double *x = &block[t->offset + j];
      *x = *x * scale + (constant ? 0.2 * philox_normal(word) : 0);
      if (t->slot == P_EMBEDDING || t->slot == P_HEAD)
        *x *= 20; /* the default is nearly zero: gradients would be too */
    }
  }
  return block;
}
#endif
