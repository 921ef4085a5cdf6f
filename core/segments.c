/* segments.c: f, and its VJP, of one long sequence on a CPU, segment by segment, so that what
 * operations hand on stays in the cache.
 *
 * Segment k begins with the states that k-1 ends with, and backwards ends with the cotangents of
 * the states that k+1 began with.  Each is a thread's, who waits for these, layer by layer
 * (core/relay.h), where threads are to be had.  A worker has every so many-th, the same whenever f
 * is evaluated, and memory of its own for activations: what a segment reads and writes then stays
 * in its thread's caches, which matters where two cores share none (chiplets, sockets).
 * What a segment adds to the parameters' cotangents goes into one of a few sums, of which it is
 * every so many-th: how many depends on the length alone, so the result does not depend on the
 * number of threads. */
#include "core/network.h"
#include "core/parallel.h"
#include <stdio.h>

/* Tokens of a segment, at least: of f, and of its way back, where SUMS at work take the scratch
 * memory of two of f's. */
enum { EVALUATED = 256, LEARNT = 128 };
enum { SUMS = 4, SEGMENTS_A_SUM = 4 }; /* sums at most; segments of one at least */
enum { AT_ONCE = 16 };                 /* segments that are at work, at most */
enum { SIDE_BY_SIDE = 1024 }; /* tokens: of fewer threads cost more to start than they save */

/* Whole chunks. */
static int64_t segment_of(const struct model_dims *d, int64_t tokens)
{
  return (tokens + d->chunk - 1) / d->chunk * d->chunk;
}

int64_t block_whole_tokens(const struct sequence_model *m)
{
  int64_t two = 2 * segment_of(&m->dims, EVALUATED), chunk = 4 * m->dims.N;
  return ssd_one_chunk(m, chunk) && chunk > two ? chunk : two;
}

/* On a CPU, a single sequence that is long. */
static bool has_segments(const struct sequence_model *m, const struct span *s, bool forgotten)
{
  bool alone = s->rows == 1 && !s->row && !s->carried && !s->after;
  int64_t whole = forgotten ? segment_of(&m->dims, EVALUATED) : block_whole_tokens(m);
  return m->be->concurrent && alone && s->T > whole && !(forgotten && ssd_one_chunk(m, s->T));
}

/* The activations of tokens t.. of a sequence; `layer` is the table for them. */
static struct activations activations_from(const struct sequence_model *m, int64_t t,
                                           const struct activations *a,
                                           struct layer_activations *layer)
{
  const struct model_dims *d = &m->dims;
  struct activations from = *a;
  for (int64_t i = 0; i < d->layers; i++) {
    struct layer_activations *l = &layer[i];
    *l = a->layer[i];
    const struct {
      DEVICE real **at;
      int64_t n; /* reals a token */
    } array[] = {{&l->x, d->D},          {&l->r, 1},
                 {&l->xn, d->D},         {&l->zxbcdt, d->d_in_proj},
                 {&l->xBC, d->conv_dim}, {&l->dt, d->H},
                 {&l->y, d->E},          {&l->gr, d->G},
                 {&l->yn, d->E},         {&l->out, d->D},
                 {&l->x2, d->D},         {&l->r2, 1},
                 {&l->xn2, d->D},        {&l->h, 2 * d->F},
                 {&l->hg, d->F},         {&l->h0, 2 * d->d_mlp},
                 {&l->hg0, d->d_mlp},    {&l->inner, d->d_mlp + d->E}};
    for (size_t k = 0; k < sizeof array / sizeof *array; k++)
      if (*array[k].at)
        *array[k].at += t * array[k].n;
    if (l->S)
      l->S += t / d->chunk * d->H * d->P * d->N;
  }
  from.layer = layer;
  from.x += t * d->D, from.r += t;
  return from;
}

/* ---- segments, and who works on them ---- */

#define segments NAME(segments)
struct worker {
  struct layer_activations *layer; /* the table for its segment's activations */
  struct carried_states enter;     /* backwards: the states that its segment begins with */
  struct scratch scratch;
  int64_t next; /* of its segments, in the order in which they are begun */
  bool at_work; /* some thread's, from when it comes to its first */
  enum status status;
  char error[256];
};

struct segments;
#define segment_work NAME(segment_work)
/* Segment k, the i-th that is begun. */
typedef enum status segment_work(struct segments *c, struct worker *w, int64_t i, int64_t k);
struct segments {
  const struct sequence_model *m;
  const struct parameter_set *p;
  const struct span *s;
  const struct activations *a;
  segment_work *work;
  bool backwards;
  int64_t first, length, count, workers; /* tokens of the first segment, and of the others */
  pthread_mutex_t taking;                /* of segments */
  struct carried_states between[2];      /* behind, or before, even and odd segments */
  int64_t *passed;                       /* (HANDS_ON layers), see core/relay.h */
  struct worker worker[AT_ONCE];
  const DEVICE real *z; /* forwards */
  DEVICE real *fz;
  const DEVICE real *fb; /* backwards */
  const struct block_cotangents *to;
  struct parameter_set sum[SUMS]; /* the first is the caller's */
  int64_t sums;                   /* 0: not wanted */
  int64_t added[SUMS];            /* segments that have been added to each */
};

/* The segment, in the order in which they are begun, that a worker does next; c->count: none is
 * left for it.  Before one of its own come those of workers that no thread works for yet, and
 * perhaps none ever will: the first that is not done is always at work, or next for who is. */
static int64_t take_segment(struct segments *c, struct worker *w)
{
  (void)pthread_mutex_lock(&c->taking);
  struct worker *first = w;
  w->at_work = true;
  for (int64_t i = 0; i < c->workers; i++)
    if (!c->worker[i].at_work && c->worker[i].next < first->next)
      first = &c->worker[i];
  int64_t taken = first->next < c->count ? first->next : c->count;
  first->next += c->workers;
  (void)pthread_mutex_unlock(&c->taking);
  return taken;
}

/* Part of parallel_run.  A segment that failed lets the others go on, at places that it has not
 * passed. */
static void run_segments(void *segments, int64_t worker)
{
  struct segments *c = segments;
  struct worker *w = &c->worker[worker];
  for (int64_t i; (i = take_segment(c, w)) < c->count;) {
    enum status s = c->work(c, w, i, c->backwards ? c->count - 1 - i : i);
    struct relay relay = {.part = i, .passed = c->passed};
    if (s == OK)
      continue;
    w->status = s;
    (void)snprintf(w->error, sizeof w->error, "%s", last_error());
    for (int64_t place = 0; place < HANDS_ON * c->m->dims.layers; place++) {
      relay_await(&relay, place);
      if (__atomic_load_n(&c->passed[place], __ATOMIC_RELAXED) == i)
        relay_pass(&relay, place);
    }
  }
}

static int64_t workers_for(int64_t T, int64_t length, int64_t most)
{
  int64_t threads = parallel_threads(), parts = T < SIDE_BY_SIDE ? 1 : T / length;
  parts = parts < most ? parts : most;
  return threads < parts ? threads : parts;
}

static enum status shared_carve(struct segments *c, struct scratch *scratch)
{
  const struct sequence_model *m = c->m;
  for (int i = 0; i < 2; i++)
    TRY(carried_states_carve(m, 1, &scratch->device, &scratch->host, &c->between[i]));
  TRY(CARVE(&scratch->host, HANDS_ON * m->dims.layers, &c->passed));
  for (int64_t place = 0; place < HANDS_ON * m->dims.layers; place++)
    c->passed[place] = 0;
  return OK;
}

/* `bytes` of the device for each. */
static enum status workers_carve(struct segments *c, size_t bytes, struct scratch *scratch)
{
  for (int64_t i = 0; i < c->workers; i++) {
    struct worker *w = &c->worker[i];
    DEVICE char *block;
    TRY(CARVE(&scratch->host, c->m->dims.layers, &w->layer));
    if (c->backwards)
      TRY(carried_states_carve(c->m, 1, &scratch->device, &scratch->host, &w->enter));
    w->scratch.device = scratch->device;
    TRY(CARVE(&scratch->device, bytes, &block));
    w->scratch.device.size = scratch->device.used;
    w->scratch.device.peak = NULL; /* that of all */
    w->next = i, w->at_work = false;
    w->status = OK;
  }
  return OK;
}

size_t segments_host_bytes(const struct sequence_model *m)
{
  enum { TABLES = 5, ALIGNED = 64 };
  size_t states = 2 * sizeof(DEVICE real *);
  size_t worker = sizeof(struct layer_activations) + states;
  size_t layer = AT_ONCE * worker + 2 * states + HANDS_ON * sizeof(int64_t) +
                 SUMS * sizeof(struct layer_parameters);
  return (size_t)m->dims.layers * layer + (size_t)TABLES * (AT_ONCE + SUMS) * ALIGNED;
}

static enum status run(struct segments *c)
{
  parallel_run(c->workers, run_segments, c);
  for (int64_t i = 0; i < c->workers; i++)
    if (c->worker[i].status != OK)
      FAIL(c->worker[i].status, "%s", c->worker[i].error);
  return OK;
}

/* The first is half as long as the others, and so is the last of a whole number of these: two
 * threads that begin together then do not wait for each other at the same place for ever. */
static void cut(struct segments *c, int64_t length)
{
  c->length = length;
  c->first = segment_of(&c->m->dims, length / 2);
  c->count = 1 + (c->s->T - c->first + length - 1) / length;
}

static int64_t segment_start(const struct segments *c, int64_t k)
{
  return k == 0 ? 0 : c->first + (k - 1) * c->length;
}

static struct span segment_span(const struct segments *c, int64_t k, const struct relay *relay)
{
  struct span segment = *c->s;
  int64_t t = segment_start(c, k), end = segment_start(c, k + 1);
  segment.T = (end < c->s->T ? end : c->s->T) - t;
  segment.u = c->s->u ? c->s->u + t * c->m->dims.d_in_proj : NULL;
  segment.square = c->s->square ? c->s->square + t : NULL;
  segment.reference = c->s->reference ? c->s->reference + t : NULL;
  segment.relay = relay;
  return segment;
}

/* None is longer. */
static struct span longest_span(const struct segments *c)
{
  struct span segment = segment_span(c, 0, NULL);
  segment.T = c->length;
  return segment;
}

/* What a segment carves, by a run of it that does nothing. */
static struct scratch measuring(size_t *device, struct sequence_model *m, struct backend *dry)
{
  *dry = backend_dry_of(m->be);
  m->be = dry;
  return (struct scratch){arena_measure(device), {0}};
}

/* ---- f ---- */

static enum status evaluate_segment(struct segments *c, struct worker *w, int64_t i, int64_t k)
{
  int64_t D = c->m->dims.D, t = segment_start(c, k);
  int64_t own = c->a->forgotten ? (w - c->worker) * c->length : t;
  struct activations part = activations_from(c->m, own, c->a, w->layer);
  struct relay relay = {i, c->passed};
  struct span segment = segment_span(c, k, &relay);
  segment.carried = k ? &c->between[(k + 1) % 2] : NULL;
  segment.after = &c->between[k % 2];
  return span_fwd(c->m, c->p, &segment, c->z + t * D, &part, w->scratch, c->fz + t * D);
}

static enum status segments_fwd(const struct sequence_model *m, const struct parameter_set *p,
                                const struct span *s, const DEVICE real *z,
                                const struct activations *a, struct scratch scratch,
                                DEVICE real *fz)
{
  struct segments c = {
      .m = m, .p = p, .s = s, .z = z, .a = a, .fz = fz, .taking = PTHREAD_MUTEX_INITIALIZER};
  struct sequence_model nothing = *m;
  struct backend dry;
  size_t bytes;
  c.work = evaluate_segment;
  cut(&c, segment_of(&m->dims, EVALUATED));
  c.workers = workers_for(s->T, c.length, AT_ONCE);
  TRY(shared_carve(&c, &scratch));
  struct span segment = longest_span(&c);
  segment.carried = &c.between[1], segment.after = &c.between[0];
  TRY(span_fwd(&nothing, p, &segment, z, a, measuring(&bytes, &nothing, &dry), fz));
  TRY(workers_carve(&c, bytes, &scratch));
  return scratch.device.base ? run(&c) : OK;
}

enum status block_fwd(const struct sequence_model *m, const struct parameter_set *p,
                      const struct span *s, const DEVICE real *z, const struct activations *a,
                      struct scratch scratch, DEVICE real *fz)
{
  return has_segments(m, s, a->forgotten) ? segments_fwd(m, p, s, z, a, scratch, fz)
                                          : span_fwd(m, p, s, z, a, scratch, fz);
}

/* ---- its VJP ---- */

/* The last inputs of each layer's convolution before token t of a sequence. */
static void inputs_before(const struct segments *c, int64_t t, const struct carried_states *to)
{
  const struct backend *be = c->m->be;
  const struct model_dims *d = &c->m->dims;
  struct conv1d_shape conv = {1, d->W, d->conv_dim, d->W, d->d_in_proj};
  for (int64_t i = 0; i < d->layers; i++) {
    const DEVICE real *zxbcdt = mixer_projected(c->m, &c->p->layer[i], c->s, i, &c->a->layer[i]);
    be->conv1d_fwd(be->st, conv, zxbcdt + (t - d->W) * d->d_in_proj + 2 * d->d_mlp + d->E, NULL,
                   NULL, NULL, NULL, NULL, to->conv[i]);
  }
}

static enum status differentiate_segment(struct segments *c, struct worker *w, int64_t i, int64_t k)
{
  const struct model_dims *d = &c->m->dims;
  int64_t t = segment_start(c, k), sum = c->sums ? i % c->sums : 0;
  bool first = k == 0, last = k + 1 == c->count;
  struct activations part = activations_from(c->m, t, c->a, w->layer);
  struct block_cotangents to = *c->to;
  struct relay relay = {.part = i, .passed = c->passed};
  struct span segment = segment_span(c, k, &relay);
  to.z = to.z ? to.z + t * d->D : NULL;
  to.u = to.u ? to.u + t * d->d_in_proj : NULL;
  segment.carried = first ? NULL : &w->enter;
  if (!first)
    inputs_before(c, t, &w->enter);
  struct relay adding = {.part = c->sums ? i / c->sums : 0,
                         .passed = c->added}; /* one behind the other to a sum */
  relay_await(&adding, sum);
  enum status s = block_vjp_carried(
      c->m, c->p, &segment, &part, c->fb + t * d->D, last ? NULL : &c->between[(k + 1) % 2],
      w->scratch, &to, c->sums ? &c->sum[sum] : NULL, first ? NULL : &c->between[k % 2]);
  if (c->sums)
    relay_pass(&adding, sum);
  return s;
}

/* Zeros to which segments add: all sums but the first, which is g. */
static enum status sums_carve(struct segments *c, const struct parameter_set *g,
                              struct scratch *scratch)
{
  const struct backend *be = c->m->be;
  c->sums = c->count / SEGMENTS_A_SUM;
  c->sums = !g ? 0 : c->sums < 1 ? 1 : c->sums < SUMS ? c->sums : SUMS;
  for (int64_t i = 0; i < c->sums; i++) {
    if (i == 0) {
      c->sum[i] = *g;
      continue;
    }
    TRY(parameters_carve(c->m, &scratch->device, &scratch->host, &c->sum[i]));
    be->fill(be->st, c->m->tensors->block, 0, c->sum[i].block);
  }
  return OK;
}

static enum status segments_vjp(const struct sequence_model *m, const struct parameter_set *p,
                                const struct span *s, const struct activations *a,
                                const DEVICE real *fb, struct scratch scratch,
                                const struct block_cotangents *to, const struct parameter_set *g)
{
  const struct u_total *total = to->total;
  struct block_cotangents own = *to;
  own.total = NULL; /* at last, of all tokens */
  struct segments c = {.m = m,
                       .p = p,
                       .s = s,
                       .a = a,
                       .fb = fb,
                       .to = &own,
                       .backwards = true,
                       .taking = PTHREAD_MUTEX_INITIALIZER};
  const struct backend *be = m->be;
  struct sequence_model nothing = *m;
  struct backend dry;
  size_t bytes;
  c.work = differentiate_segment;
  cut(&c, segment_of(&m->dims, LEARNT));
  TRY(sums_carve(&c, g, &scratch));
  c.workers = workers_for(s->T, c.length, g ? c.sums : SUMS);
  TRY(shared_carve(&c, &scratch));
  struct span segment = longest_span(&c);
  segment.carried = &c.between[0];
  TRY(block_vjp_carried(&nothing, p, &segment, a, fb, NULL, measuring(&bytes, &nothing, &dry), &own,
                        g, NULL));
  TRY(workers_carve(&c, bytes, &scratch));
  if (!scratch.device.base)
    return OK;
  TRY(run(&c));
  for (int64_t i = 1; g && i < c.sums; i++)
    be->axpby(be->st, m->tensors->block, 1, c.sum[i].block, 1, g->block);
  if (total)
    be->accumulate(be->st, s->rows * s->T, m->dims.d_in_proj, m->dims.d_in_proj, to->u,
                   total->more[0], total->more[1], total->sum);
  return OK;
}

enum status block_vjp(const struct sequence_model *m, const struct parameter_set *p,
                      const struct span *s, const struct activations *a, const DEVICE real *fb,
                      struct scratch scratch, const struct block_cotangents *to,
                      const struct parameter_set *g)
{
  CHECK(!s->carried);
  if (has_segments(m, s, false))
    return segments_vjp(m, p, s, a, fb, scratch, to, g);
  return block_vjp_carried(m, p, s, a, fb, NULL, scratch, to, g, NULL);
}
