/* solve.c: the loop that every method shares: evaluate, measure, decide, step, retire, compact.
 * See solve.h for what it promises. */
#include "solvers/solve.h"
#include <string.h>

/* What decides, by value into the kernels; `total` arrays have one entry a sample of the problem.
 */
struct decision {
  double tol;
  int64_t max_iter, min_iter, length;
  int stop;
  bool all, worst_token, stop_together, return_last;
  DEVICE int32_t *lengths;     /* (problem rows) */
  DEVICE int32_t *unconverged; /* (1) samples above the tolerance, for stop_together */
  DEVICE int32_t *iterations;  /* total */
  DEVICE double *residual;
  DEVICE uint8_t *exit;
};

struct solver {
  const struct backend *be;
  const struct fp_problem *p;
  const struct fp_options *o;
  const struct fp_method *method;
  struct fp_samples s;
  struct decision d;
  DEVICE int32_t *live, *source; /* (rows) not finished; compaction: which packed row moves here */
  int32_t *host_live, *host_source;
  int32_t *host_iterations; /* total */
  double *host_residual;
  uint8_t *host_exit;
  DEVICE real *z; /* the caller's (problem rows,length,n) */
};

static enum status carve(struct scratch *a, int64_t rows, int64_t length, int64_t n,
                         const struct fp_options *o, struct solver *v)
{
  bool all = o->window == FP_WINDOW_ALL;
  struct fp_samples *s = &v->s;
  s->rows = rows;
  s->blocks = all || o->window > length ? length : o->window;
  s->n = n;
  s->per_row = all ? 1 : s->blocks;
  int64_t blocks = rows * s->blocks, samples = rows * s->per_row;
  int64_t total = all ? rows : rows * length;
  struct arena *dev = &a->device, *host = &a->host;
  TRY(CARVE(dev, blocks * n, &s->z));
  TRY(CARVE(dev, blocks * n, &s->fz));
  TRY(CARVE(dev, blocks * n, &s->best));
  TRY(CARVE(dev, blocks, &s->square));
  TRY(CARVE(dev, blocks, &s->reference));
  TRY(CARVE(dev, rows, &s->row));
  TRY(CARVE(dev, rows, &s->first));
  TRY(CARVE(dev, rows, &s->count));
  TRY(CARVE(dev, rows, &s->retired));
  TRY(CARVE(dev, samples, &s->iterations));
  TRY(CARVE(dev, samples, &s->now));
  TRY(CARVE(dev, samples, &s->best_residual));
  TRY(CARVE(dev, samples, &s->exit));
  TRY(CARVE(dev, samples, &s->action));
  TRY(CARVE(dev, samples, &s->keep));
  TRY(CARVE(dev, rows, &v->d.lengths));
  TRY(CARVE(dev, 1, &v->d.unconverged));
  TRY(CARVE(dev, rows, &v->source));
  TRY(CARVE(dev, rows, &v->live));
  TRY(CARVE(dev, total, &v->d.iterations));
  TRY(CARVE(dev, total, &v->d.residual));
  TRY(CARVE(dev, total, &v->d.exit));
  TRY(CARVE(host, rows, &v->host_live));
  TRY(CARVE(host, rows, &v->host_source));
  TRY(CARVE(host, total, &v->host_iterations));
  TRY(CARVE(host, total, &v->host_residual));
  TRY(CARVE(host, total, &v->host_exit));
  return OK;
}

enum status fp_plan(int64_t rows, int64_t length, int64_t n, const struct fp_options *o,
                    struct scratch scratch)
{
  struct solver v;
  memset(&v, 0, sizeof v);
  return carve(&scratch, rows, length, n, o, &v);
}

/* ---- measuring ---- */

/* Per block: squares of ||fz - z|| and ||fz||, or (stop max) of their largest components. */
KERNEL measure(struct fp_samples s, bool largest)
{
  FOR_EACH (i, s.rows * s.blocks) {
    const real *z = s.z + i * s.n, *fz = s.fz + i * s.n;
    double square = 0, reference = 0;
    if (i % s.blocks >= s.count[i / s.blocks]) {
      /* padding counts for nothing */
    } else if (largest) {
      for (int64_t j = 0; j < s.n; j++) {
        double q = square_norm(fz[j] - z[j]);
        square = q > square || q != q ? q : square; /* a NaN stays: no comparison with it holds */
      }
    } else {
      SIMD_SUM(square, reference)
      for (int64_t j = 0; j < s.n; j++) {
        square += square_norm(fz[j] - z[j]);
        reference += square_norm(fz[j]);
      }
    }
    s.square[i] = square;
    s.reference[i] = reference;
  }
}

/* 0/0 is converged: a sample with nothing to solve. */
INLINE double residual_of(struct decision d, double square, double reference, double unknowns)
{
  double r = sqrt(square);
  if (d.stop == FP_REL)
    return square == 0 ? 0 : r / sqrt(reference);
  if (d.stop == FP_RMS)
    return r / sqrt(unknowns);
  return r;
}

INLINE bool is_finite(double x) { return x - x == 0; }

INLINE double row_residual(struct fp_samples s, struct decision d, int64_t r)
{
  double square = 0, reference = 0, worst = 0;
  for (int64_t b = 0; b < s.count[r]; b++) {
    double q = s.square[r * s.blocks + b], f = s.reference[r * s.blocks + b];
    if (d.stop == FP_MAX)
      square = q > square || q != q ? q : square;
    else
      square += q, reference += f;
    double one = residual_of(d, q, f, (double)s.n);
    worst = one > worst || one != one ? one : worst;
    if (square != square)
      break;
  }
  double common = residual_of(d, square, reference, (double)(s.n * s.count[r]));
  return d.worst_token && common == common ? worst : common;
}

/* ---- deciding, window all: a row is a sample ---- */

KERNEL decide_rows(struct fp_samples s, struct decision d)
{
  FOR_EACH (r, s.rows) {
    s.keep[r] = 0;
    s.action[r] = FP_HOLD;
    if (s.exit[r] == FP_RUNNING) {
      double now = row_residual(s, d, r);
      int64_t k = ++s.iterations[r];
      s.now[r] = now;
      s.keep[r] = now < s.best_residual[r];
      s.best_residual[r] = now < s.best_residual[r] ? now : s.best_residual[r];
      bool good = now <= d.tol && k >= d.min_iter;
      if (!is_finite(now))
        s.exit[r] = FP_NOT_FINITE;
      else if (good && (!d.stop_together || k >= d.max_iter))
        s.exit[r] = FP_CONVERGED;
      else if (k >= d.max_iter)
        s.exit[r] = FP_MAX_ITER;
      if (s.exit[r] == FP_RUNNING)
        s.action[r] = FP_STEP;
      else if (s.exit[r] != FP_CONVERGED && !d.return_last)
        s.action[r] = FP_REPLAY;
    }
  }
}

/* stop_together: everybody stops in the evaluation that finds all below the tolerance. */
KERNEL count_unconverged(struct fp_samples s, struct decision d)
{
  FOR_EACH (i, 1) {
    int32_t worse = 0;
    for (int64_t r = 0; r < s.rows; r++)
      if (s.exit[r] == FP_RUNNING && !(s.now[r] <= d.tol && s.iterations[r] >= d.min_iter))
        worse++;
    d.unconverged[i] = worse;
  }
}

KERNEL stop_all(struct fp_samples s, struct decision d)
{
  FOR_EACH (r, s.rows) {
    if (d.unconverged[0] == 0 && s.exit[r] == FP_RUNNING) {
      s.exit[r] = FP_CONVERGED;
      s.action[r] = FP_HOLD;
    }
  }
}

/* What is known of a finished row goes into the answer. */
KERNEL record_rows(struct fp_samples s, struct decision d)
{
  FOR_EACH (r, s.rows) {
    int64_t row = s.row[r];
    bool last = s.exit[r] == FP_CONVERGED || d.return_last;
    d.iterations[row] = s.iterations[r];
    d.residual[row] = last ? s.now[r] : s.best_residual[r];
    d.exit[row] = s.exit[r];
  }
}

/* ---- deciding, window k: a block is a sample, and only leading ones leave ---- */

/* May the block that leads leave now?  If it must but its best iterate is another, replays that. */
INLINE bool leading_leaves(struct fp_samples s, struct decision d, int64_t i)
{
  double now = s.now[i];
  int64_t k = s.iterations[i];
  if (s.exit[i] != FP_RUNNING) /* this was the replay */
    return true;
  if (now <= d.tol && k >= d.min_iter) {
    s.exit[i] = FP_CONVERGED;
    return true;
  }
  if (is_finite(now) && k < d.max_iter)
    return false;
  s.exit[i] = is_finite(now) ? FP_MAX_ITER : FP_NOT_FINITE;
  if (now <= s.best_residual[i] || d.return_last)
    return true;
  s.action[i] = FP_REPLAY;
  return false;
}

KERNEL decide_windows(struct fp_samples s, struct decision d)
{
  FOR_EACH (r, s.rows) {
    int32_t leaving = 0;
    for (int64_t b = 0; b < s.count[r]; b++) {
      int64_t i = r * s.blocks + b;
      double now = residual_of(d, s.square[i], s.reference[i], (double)s.n);
      bool leads = b == leaving;
      s.iterations[i]++;
      s.now[i] = now;
      /* residuals compare only while nothing before the block moves; until then keep what is finite
       */
      s.keep[i] = leads ? now < s.best_residual[i] : is_finite(now);
      if (leads && s.keep[i])
        s.best_residual[i] = now;
      s.action[i] = is_finite(now) ? FP_STEP : FP_REPLAY;
      if (leads && leading_leaves(s, d, i)) {
        int64_t at = s.row[r] * d.length + s.first[r] + b;
        d.iterations[at] = s.iterations[i];
        d.residual[at] = now;
        d.exit[at] = s.exit[i];
        s.action[i] = FP_HOLD;
        leaving++;
      }
    }
    s.retired[r] = leaving;
  }
}

/* ---- moving ---- */

KERNEL keep_best(struct fp_samples s)
{
  FOR_EACH (i, s.rows * s.blocks) {
    if (s.keep[s.per_row == 1 ? i / s.blocks : i] && i % s.blocks < s.count[i / s.blocks])
      for (int64_t j = 0; j < s.n; j++)
        s.best[i * s.n + j] = s.z[i * s.n + j];
  }
}

KERNEL replay_best(struct fp_samples s)
{
  FOR_EACH (i, s.rows * s.blocks) {
    if (s.action[s.per_row == 1 ? i / s.blocks : i] == FP_REPLAY)
      for (int64_t j = 0; j < s.n; j++)
        s.z[i * s.n + j] = s.best[i * s.n + j];
  }
}

/* Block b of packed row r begins anew, from the guess; behind the row's end it is zero. */
INLINE void admit_block(struct fp_samples s, struct decision d, const real *guess, int64_t r,
                        int64_t b)
{
  int64_t i = r * s.blocks + b, at = s.row[r] * d.length + s.first[r] + b;
  for (int64_t j = 0; j < s.n; j++) {
    real z = b < s.count[r] ? guess[at * s.n + j] : 0;
    s.z[i * s.n + j] = z;
    s.best[i * s.n + j] = z;
  }
  if (s.per_row > 1 || b == 0) {
    int64_t k = s.per_row == 1 ? r : i;
    s.iterations[k] = 0;
    s.now[k] = HUGE_VAL;
    s.best_residual[k] = HUGE_VAL;
    s.exit[k] = FP_RUNNING;
    s.action[k] = FP_STEP;
    s.keep[k] = 0;
  }
}

KERNEL begin(struct fp_samples s, struct decision d, const real *guess, int32_t *live)
{
  FOR_EACH (r, s.rows) {
    s.row[r] = (int32_t)r;
    s.first[r] = 0;
    s.count[r] = d.lengths[r] < s.blocks ? d.lengths[r] : (int32_t)s.blocks;
    s.retired[r] = 0;
    live[r] = s.count[r] > 0;
    for (int64_t b = 0; b < s.blocks; b++)
      admit_block(s, d, guess, r, b);
  }
}

/* Leading blocks have left: the others move up, new ones enter behind. */
KERNEL slide(struct fp_samples s, struct decision d, const real *guess, int32_t *live)
{
  FOR_EACH (r, s.rows) {
    int64_t k = s.retired[r], kept = s.count[r] - k;
    if (k > 0) {
      for (int64_t b = 0; b < kept; b++) {
        int64_t to = r * s.blocks + b, from = to + k;
        for (int64_t j = 0; j < s.n; j++) {
          s.z[to * s.n + j] = s.z[from * s.n + j];
          s.best[to * s.n + j] = s.best[from * s.n + j];
        }
        s.iterations[to] = s.iterations[from];
        s.now[to] = s.now[from];
        s.best_residual[to] = s.best_residual[from];
        s.exit[to] = s.exit[from];
        s.action[to] = s.action[from];
      }
      s.first[r] += (int32_t)k;
      int64_t left = d.lengths[s.row[r]] - s.first[r];
      s.count[r] = (int32_t)(left < s.blocks ? left : s.blocks);
      for (int64_t b = kept; b < s.blocks; b++)
        admit_block(s, d, guess, r, b);
    }
    live[r] = s.count[r] > 0;
  }
}

KERNEL live_rows(struct fp_samples s, int32_t *live)
{
  FOR_EACH (r, s.rows)
    live[r] = s.exit[r] == FP_RUNNING && s.count[r] > 0;
}

/* Packed row source[r] >= r becomes packed row r.  Parallel over columns: in place is safe. */
KERNEL pack_unknowns(struct fp_samples s, int64_t rows, const int32_t *source)
{
  FOR_EACH (e, s.blocks * s.n) {
    for (int64_t r = 0; r < rows; r++) {
      int64_t to = r * s.blocks * s.n + e, from = source[r] * s.blocks * s.n + e;
      s.z[to] = s.z[from];
      s.best[to] = s.best[from];
    }
  }
}

KERNEL pack_samples(struct fp_samples s, int64_t rows, const int32_t *source)
{
  FOR_EACH (e, s.per_row) {
    for (int64_t r = 0; r < rows; r++) {
      int64_t to = r * s.per_row + e, from = source[r] * s.per_row + e;
      s.iterations[to] = s.iterations[from];
      s.now[to] = s.now[from];
      s.best_residual[to] = s.best_residual[from];
      s.exit[to] = s.exit[from];
      s.action[to] = s.action[from];
      if (e == 0) {
        s.row[r] = s.row[source[r]];
        s.first[r] = s.first[source[r]];
        s.count[r] = s.count[source[r]];
      }
    }
  }
}

/* ---- the loop ---- */

static void write_back(const struct solver *v, const DEVICE int32_t *count)
{
  const struct fp_samples *s = &v->s;
  v->be->scatter_blocks(v->be->st, s->rows, s->blocks, s->n, v->p->length, s->row, s->first, count,
                        s->z, v->z);
}

static void finish_rows(struct solver *v)
{
  stream st = v->be->st;
  (void)st;
  LAUNCH(st, v->s.rows, record_rows, v->s, v->d);
  write_back(v, v->s.count);
}

/* Looks at the flags: how many rows go on?  Drops the finished ones when enough have finished. */
static enum status poll(struct solver *v, bool *done)
{
  stream st = v->be->st;
  struct fp_samples *s = &v->s;
  if (v->d.all)
    LAUNCH(st, s->rows, live_rows, *s, v->live);
  TRY(v->be->download(st, (size_t)s->rows * sizeof *v->host_live, v->live, v->host_live));
  int64_t running = 0;
  for (int64_t r = 0; r < s->rows; r++)
    if (v->host_live[r])
      v->host_source[running++] = (int32_t)r;
  *done = running == 0;
  if (*done || v->p->fixed_rows || running * 8 > s->rows * 7)
    return OK;
  if (v->d.all)
    finish_rows(v);
  TRY(v->be->upload(st, (size_t)running * sizeof *v->host_source, v->host_source, v->source));
  LAUNCH(st, s->blocks * s->n, pack_unknowns, *s, running, v->source);
  LAUNCH(st, s->per_row, pack_samples, *s, running, v->source);
  s->rows = running;
  return OK;
}

static enum status iterate(struct solver *v)
{
  stream st = v->be->st;
  struct fp_samples *s = &v->s;
  struct fp_active a = {s->rows, s->blocks, s->row, s->first, s->count};
  TRY(v->p->f(v->p->ctx, &a, s->z, s->fz));
  LAUNCH(st, s->rows * s->blocks, measure, *s, v->o->stop == FP_MAX);
  if (v->d.all) {
    LAUNCH(st, s->rows, decide_rows, *s, v->d);
    if (v->d.stop_together) {
      LAUNCH(st, 1, count_unconverged, *s, v->d);
      LAUNCH(st, s->rows, stop_all, *s, v->d);
    }
  } else {
    LAUNCH(st, s->rows, decide_windows, *s, v->d);
  }
  LAUNCH(st, s->rows * s->blocks, keep_best, *s);
  v->method->step(st, s, v->o);
  LAUNCH(st, s->rows * s->blocks, replay_best, *s);
  if (!v->d.all) {
    if (v->p->retire)
      TRY(v->p->retire(v->p->ctx, &a, s->retired));
    write_back(v, s->retired);
    LAUNCH(st, s->rows, slide, *s, v->d, v->z, v->live);
  }
  return OK;
}

static enum status answer(struct solver *v, struct fp_result *result)
{
  stream st = v->be->st;
  int64_t length = v->p->length, total = v->d.all ? v->p->rows : v->p->rows * length;
  TRY(v->be->download(st, (size_t)total * sizeof(int32_t), v->d.iterations, v->host_iterations));
  TRY(v->be->download(st, (size_t)total * sizeof(double), v->d.residual, v->host_residual));
  TRY(v->be->download(st, (size_t)total * sizeof(uint8_t), v->d.exit, v->host_exit));
  double sum = 0;
  for (int64_t i = 0; i < total; i++) {
    int64_t k = v->host_iterations[i], row = v->d.all ? i : i / length;
    int64_t blocks = v->p->lengths ? v->p->lengths[row] : length;
    if (v->host_exit[i] == FP_RUNNING) /* padding */
      continue;
    result->samples++;
    result->exits[v->host_exit[i]]++;
    result->block_evaluations += v->d.all ? k * blocks : k;
    result->max_iterations = k > result->max_iterations ? k : result->max_iterations;
    double r = v->host_residual[i];
    if (!(r <= result->worst_residual))
      result->worst_residual = r;
    sum += (double)k;
  }
  result->mean_iterations = result->samples ? sum / (double)result->samples : 0;
  if (result->iterations)
    memcpy(result->iterations, v->host_iterations, (size_t)total * sizeof(int32_t));
  if (result->residual)
    memcpy(result->residual, v->host_residual, (size_t)total * sizeof(double));
  if (result->exit)
    memcpy(result->exit, v->host_exit, (size_t)total * sizeof(uint8_t));
  return OK;
}

KERNEL clear_outcome(struct decision d, int64_t total)
{
  FOR_EACH (i, total) {
    d.iterations[i] = 0;
    d.residual[i] = 0;
    d.exit[i] = FP_RUNNING;
  }
}

static enum status start(struct solver *v, struct fp_result *result)
{
  const struct fp_problem *p = v->p;
  const struct fp_options *o = v->o;
  stream st = v->be->st;
  int32_t *iterations = result->iterations;
  double *residual = result->residual;
  uint8_t *exits = result->exit;
  memset(result, 0, sizeof *result);
  result->iterations = iterations, result->residual = residual, result->exit = exits;
  struct decision *d = &v->d;
  d->tol = o->tol, d->max_iter = o->max_iter, d->min_iter = o->min_iter, d->stop = (int)o->stop;
  d->all = o->window == FP_WINDOW_ALL, d->worst_token = o->worst_token;
  d->stop_together = o->stop_together, d->return_last = o->return_last, d->length = p->length;
  for (int64_t r = 0; r < p->rows; r++) {
    v->host_live[r] = p->lengths ? p->lengths[r] : (int32_t)p->length;
    CHECK(v->host_live[r] >= 0 && v->host_live[r] <= p->length);
  }
  TRY(v->be->upload(st, (size_t)p->rows * sizeof(int32_t), v->host_live, d->lengths));
  LAUNCH(st, v->s.rows, begin, v->s, *d, v->z, v->live);
  LAUNCH(st, d->all ? p->rows : p->rows * p->length, clear_outcome, *d,
         d->all ? p->rows : p->rows * p->length);
  return OK;
}

enum status fp_solve(const struct backend *be, const struct fp_problem *p,
                     const struct fp_options *o, struct scratch scratch, DEVICE real *z,
                     struct fp_result *result)
{
  static const struct fp_method *const methods[FP_SOLVERS] = {&picard};
  struct solver v;
  memset(&v, 0, sizeof v);
  CHECK(p->rows > 0 && p->length > 0 && p->n > 0 && o->max_iter > 0);
  CHECK((int)o->solver >= 0 && o->solver < FP_SOLVERS);
  v.be = be, v.p = p, v.o = o, v.z = z, v.method = methods[o->solver];
  TRY(carve(&scratch, p->rows, p->length, p->n, o, &v));
  TRY(start(&v, result));
  int64_t every = o->poll_every > 1 ? o->poll_every : 1;
  for (bool done = false; !done;) {
    for (int64_t k = 0; k < every; k++) {
      TRY(iterate(&v));
      result->evaluations++;
    }
    TRY(poll(&v, &done));
  }
  if (v.d.all)
    finish_rows(&v);
  return answer(&v, result);
}

extern const struct solver_port OP(fixed_point_solvers);
const struct solver_port OP(fixed_point_solvers) = {fp_solve, fp_plan};
