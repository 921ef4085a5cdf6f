/* samples.c: measuring, deciding, and moving samples.  See solve.h for what is promised. */
#include "solvers/samples.h"

enum status samples_carve(struct arena *device, struct fp_samples *s)
{
  int64_t blocks = s->rows * s->blocks;
  s->tiles = (s->n + FP_TILE - 1) / FP_TILE;
  s->slots = s->rows * s->per_row;
  TRY(CARVE(device, blocks * s->n, &s->z));
  TRY(CARVE(device, blocks * s->n, &s->fz));
  TRY(CARVE(device, blocks * s->n, &s->best));
  TRY(CARVE(device, blocks * s->tiles * 2, &s->part));
  TRY(CARVE(device, blocks, &s->square));
  TRY(CARVE(device, blocks, &s->reference));
  TRY(CARVE(device, s->rows, &s->row));
  TRY(CARVE(device, s->rows, &s->first));
  TRY(CARVE(device, s->rows, &s->count));
  TRY(CARVE(device, s->rows, &s->retired));
  TRY(CARVE(device, s->slots, &s->sample));
  TRY(CARVE(device, s->slots, &s->slot));
  return OK;
}

/* ---- measuring ---- */

INLINE double larger(double a, double b)
{
  return b > a || b != b ? b : a; /* a NaN stays: no comparison with it holds */
}

/* Of fz - z and fz: sums of squares, or (largest) the largest of them. */
struct fp_squares {
  double residual, reference;
};

/* Of all lanes of a row. */
INLINE void fold_squares(struct fp_squares *q, bool largest)
{
#ifdef __CUDACC__
  if (largest) {
    ROW_FOLD(q->residual, larger);
    ROW_FOLD(q->reference, larger);
  } else {
    ROW_FOLD(q->residual, plus);
    ROW_FOLD(q->reference, plus);
  }
#else
  (void)q, (void)largest;
#endif
}

INLINE void take_squares(struct fp_squares *q, bool largest, real z, real fz)
{
  double residual = square_norm(fz - z), reference = square_norm(fz);
  q->residual = largest ? larger(q->residual, residual) : q->residual + residual;
  q->reference = largest ? larger(q->reference, reference) : q->reference + reference;
}

/* Of the columns of a tile that this lane takes. */
INLINE struct fp_squares own_squares(const struct fp_samples *s, const struct fp_tile *t,
                                     bool largest)
{
  const real *z = s->z, *fz = s->fz;
  struct fp_squares q = {0, 0};
#ifdef __CUDACC__
  if (in_packs(t->first | t->end, z) && in_packs(0, fz)) {
    FOR_COLUMNS (k, t->first / PACK, t->end / PACK) {
      pack<PACK> a = pack_at(z, k), b = pack_at(fz, k);
      for (int e = 0; e < PACK; e++)
        take_squares(&q, largest, a.at[e], b.at[e]);
    }
    return q;
  }
#endif
  if (largest) {
    FOR_COLUMNS (j, t->first, t->end)
      take_squares(&q, true, z[j], fz[j]);
  } else {
    double square = 0, reference = 0;
    SIMD_SUM(square, reference)
    FOR_COLUMNS (j, t->first, t->end) {
      square += square_norm(fz[j] - z[j]);
      reference += square_norm(fz[j]);
    }
    q.residual = square, q.reference = reference;
  }
  return q;
}

/* Squares by tile; of a block's only one they are the block's.  Padding counts for nothing. */
KERNEL measure_tiles(struct fp_samples s, bool largest)
{
  FOR_EACH_ROW (i, fp_tiles(&s), 2 * (s.n < FP_TILE ? s.n : FP_TILE)) {
    struct fp_tile t = tile_of(&s, i);
    struct fp_squares q = {0, 0};
    if (t.active) {
      q = own_squares(&s, &t, largest);
      fold_squares(&q, largest);
    }
    if (OWNS_COLUMN(0) && s.tiles == 1) {
      s.square[i] = q.residual;
      s.reference[i] = q.reference;
    } else if (OWNS_COLUMN(0)) {
      s.part[2 * i] = q.residual;
      s.part[2 * i + 1] = q.reference;
    }
  }
}

KERNEL measure_blocks(struct fp_samples s, bool largest)
{
  FOR_EACH_COST (i, s.rows * s.blocks, s.tiles) {
    double square = 0, reference = 0;
    for (int64_t t = i * s.tiles; t < (i + 1) * s.tiles; t++) {
      square = largest ? larger(square, s.part[2 * t]) : square + s.part[2 * t];
      reference = largest ? larger(reference, s.part[2 * t + 1]) : reference + s.part[2 * t + 1];
    }
    s.square[i] = square;
    s.reference[i] = reference;
  }
}

void samples_measure(stream st, const struct fp_samples *s, bool largest)
{
  LAUNCH_ROWS(st, fp_tiles(s), measure_tiles, *s, largest);
  if (s->tiles > 1)
    LAUNCH(st, s->rows * s->blocks, measure_blocks, *s, largest);
}

/* ---- deciding ---- */

/* What an evaluation says of a sample: of its norm, that of f(z), and the residual in the units of
 * `stop`. */
struct fp_measured {
  double norm, reference, residual;
};

/* 0/0 is converged: a sample with nothing to solve. */
INLINE struct fp_measured measured(const struct fp_decision *d, double square, double reference,
                                   double unknowns)
{
  struct fp_measured q;
  q.norm = sqrt(square);
  q.reference = sqrt(reference);
  q.residual = q.norm;
  if (d->stop == FP_REL)
    q.residual = square == 0 ? 0 : q.norm / q.reference;
  else if (d->stop == FP_RMS)
    q.residual = q.norm / sqrt(unknowns);
  return q;
}

/* The lanes of a warp measure a row together. */
INLINE struct fp_measured measured_row(const struct fp_samples *s, const struct fp_decision *d,
                                       int64_t r)
{
  struct fp_squares sum = {0, 0};
  double worst = 0;
  bool largest = d->stop == FP_MAX;
  FOR_COLUMNS (b, 0, s->count[r]) {
    double q = s->square[r * s->blocks + b], f = s->reference[r * s->blocks + b];
    sum.residual = largest ? larger(sum.residual, q) : sum.residual + q;
    sum.reference = largest ? larger(sum.reference, f) : sum.reference + f;
    if (d->worst_token)
      worst = larger(worst, measured(d, q, f, (double)s->n).residual);
  }
  fold_squares(&sum, largest);
  ROW_FOLD(worst, larger);
  struct fp_measured m = measured(d, sum.residual, sum.reference, (double)(s->n * s->count[r]));
  if (d->worst_token && is_finite(m.norm))
    m.residual = worst;
  return m;
}

/* residual: the sample's now, or its best, which is that of the iterate that is returned when it
 * fails. */
INLINE bool good_enough(const struct fp_decision *d, const struct fp_sample *p, double residual)
{
  return residual <= d->tol && p->iterations >= d->min_iter;
}

/* Takes note of an evaluation whose residual may be compared with the last ones. */
INLINE void compare(const struct fp_decision *d, struct fp_sample *p, struct fp_measured q)
{
  p->keep = q.residual < p->best;
  p->stale = p->keep ? 0 : p->stale + 1;
  p->best = p->keep ? q.residual : p->best;
  if (p->scale == 0)
    p->scale = d->divergence * (q.norm > q.reference ? q.norm : q.reference);
}

/* Why a sample that has not converged must stop now; FP_RUNNING: it may go on.
 * Rounding keeps ||fz - z|| above a few eps ||fz||: at that floor a few evaluations without a new
 * best are enough. */
INLINE enum fp_exit failure(const struct fp_decision *d, const struct fp_sample *p,
                            struct fp_measured q)
{
  if (!is_finite(q.norm) || !is_finite(q.reference))
    return FP_NOT_FINITE;
  if (p->iterations >= d->max_iter)
    return FP_MAX_ITER;
  if (p->now <= d->tol)
    return FP_RUNNING;
  if (p->verdict)
    return (enum fp_exit)p->verdict;
  if (d->divergence > 0 && q.norm > p->scale)
    return FP_DIVERGED;
  if ((d->patience > 0 && p->stale >= d->patience) ||
      (p->stale >= 8 && q.norm <= d->floor * q.reference))
    return FP_STAGNATED;
  return FP_RUNNING;
}

INLINE void note(const struct fp_decision *d, const struct fp_sample *p, int64_t sample)
{
  if (d->trace && p->iterations <= d->max_iter)
    d->trace[sample * d->max_iter + p->iterations - 1] = p->now;
}

/* window all: a row is a sample; q is what the evaluation says of it. */
INLINE void decide_row(const struct fp_samples *s, const struct fp_decision *d, int64_t r,
                       struct fp_measured q)
{
  struct fp_sample *p = &s->sample[r];
  p->iterations++;
  p->now = q.residual;
  compare(d, p, q);
  note(d, p, s->row[r]);
  enum fp_exit failed = failure(d, p, q);
  bool stops = failed == FP_MAX_ITER || !d->stop_together;
  bool good = failed != FP_NOT_FINITE && good_enough(d, p, p->now);
  p->exit = (uint8_t)(good && stops ? FP_CONVERGED : failed);
  if (p->exit == FP_RUNNING)
    p->action = FP_STEP;
  else if (p->exit != FP_CONVERGED && !d->return_last)
    p->action = FP_REPLAY;
  /* what was found on the way counts: it went on with the others, to min_iter or for a probe */
  if (p->action == FP_REPLAY && failed != FP_NOT_FINITE && good_enough(d, p, p->best))
    p->exit = FP_CONVERGED;
}

KERNEL decide_rows(struct fp_samples s, struct fp_decision d)
{
  FOR_EACH_ROW (r, s.rows, 16 * s.blocks) {
    struct fp_sample *p = &s.sample[r];
    struct fp_measured q = {0, 0, 0};
    bool running = p->exit == FP_RUNNING && s.count[r] > 0;
    if (running)
      q = measured_row(&s, &d, r);
    ROW_SYNC;
    if (OWNS_COLUMN(0)) {
      p->keep = false;
      p->action = FP_HOLD;
      if (running)
        decide_row(&s, &d, r, q);
    }
  }
}

/* stop_together: everybody stops in the evaluation that finds all below the tolerance. */
KERNEL count_unconverged(struct fp_samples s, struct fp_decision d)
{
  FOR_EACH_ROW (i, 1, s.rows) {
    int32_t worse = 0;
    FOR_COLUMNS (r, 0, s.rows)
      worse += s.sample[r].action == FP_STEP && !good_enough(&d, &s.sample[r], s.sample[r].now);
    ROW_FOLD(worse, plus);
    if (OWNS_COLUMN(0))
      d.unconverged[i] = worse;
  }
}

KERNEL stop_all(struct fp_samples s, struct fp_decision d)
{
  FOR_EACH_COST (r, s.rows, 1) {
    if (d.unconverged[0] == 0 && s.sample[r].action == FP_STEP) {
      s.sample[r].exit = FP_CONVERGED;
      s.sample[r].action = FP_HOLD;
    }
  }
}

KERNEL record_rows(struct fp_samples s, struct fp_decision d)
{
  FOR_EACH_COST (r, s.rows, 1) {
    const struct fp_sample *p = &s.sample[r];
    int64_t row = s.row[r];
    bool last = d.return_last || p->best == HUGE_VAL ||
                (p->exit == FP_CONVERGED && good_enough(&d, p, p->now));
    d.iterations[row] = p->iterations;
    d.residual[row] = last ? p->now : p->best;
    d.exit[row] = p->exit;
  }
}

/* window k: a block is a sample, and only leading ones leave.  May the block that leads leave now?
 * If it must but its best iterate is another, it is replayed first: the state that is carried is
 * that of the iterate that is returned. */
INLINE bool leading_leaves(const struct fp_decision *d, struct fp_sample *p, struct fp_measured q)
{
  enum fp_exit failed = failure(d, p, q);
  bool good = failed != FP_NOT_FINITE && good_enough(d, p, p->now);
  bool replayed = p->exit != FP_RUNNING;
  if (good)
    p->exit = FP_CONVERGED;
  if (good || replayed)
    return true;
  if (failed == FP_RUNNING)
    return false;
  p->exit = (uint8_t)failed;
  if ((failed != FP_NOT_FINITE && p->now <= p->best) || d->return_last)
    return true;
  p->action = FP_REPLAY;
  return false;
}

KERNEL decide_windows(struct fp_samples s, struct fp_decision d)
{
  FOR_EACH_COST (r, s.rows, 16 * s.blocks) {
    int32_t leaving = 0;
    for (int64_t b = 0; b < s.count[r]; b++) {
      int64_t i = r * s.blocks + b, at = s.row[r] * d.length + s.first[r] + b;
      struct fp_sample *p = &s.sample[i];
      struct fp_measured q = measured(&d, s.square[i], s.reference[i], (double)s.n);
      bool finite = is_finite(q.norm) && is_finite(q.reference);
      p->iterations++;
      p->now = q.residual;
      p->action = finite ? FP_STEP : FP_REPLAY;
      note(&d, p, at);
      if (b != leaving) {
        /* residuals compare only while nothing before the block moves; keep what is finite */
        p->keep = finite;
        p->verdict = FP_RUNNING;
        continue;
      }
      if (p->exit == FP_RUNNING)
        compare(&d, p, q);
      if (leading_leaves(&d, p, q)) {
        d.iterations[at] = p->iterations;
        d.residual[at] = p->now;
        d.exit[at] = p->exit;
        p->action = FP_HOLD;
        leaving++;
      }
    }
    s.retired[r] = leaving;
  }
}

void samples_decide(stream st, const struct fp_samples *s, const struct fp_decision *d)
{
  if (d->all) {
    LAUNCH_ROWS(st, s->rows, decide_rows, *s, *d);
    if (d->stop_together) {
      LAUNCH_ROWS(st, 1, count_unconverged, *s, *d);
      LAUNCH(st, s->rows, stop_all, *s, *d);
    }
  } else {
    LAUNCH(st, s->rows, decide_windows, *s, *d);
  }
}

void samples_record(stream st, const struct fp_samples *s, const struct fp_decision *d)
{
  LAUNCH(st, s->rows, record_rows, *s, *d);
}

/* ---- moving ---- */

KERNEL keep_best(struct fp_samples s)
{
  FOR_EACH_ROW (i, fp_tiles(&s), s.n < FP_TILE ? s.n : FP_TILE) {
    struct fp_tile t = tile_of(&s, i);
    if (t.active && s.sample[t.sample].keep)
      copy_columns(t.first, t.end, s.z, s.best);
  }
}

void samples_keep(stream st, const struct fp_samples *s)
{
  LAUNCH_ROWS(st, fp_tiles(s), keep_best, *s);
}

KERNEL replay_best(struct fp_samples s)
{
  FOR_EACH_ROW (i, fp_tiles(&s), s.n < FP_TILE ? s.n : FP_TILE) {
    struct fp_tile t = tile_of(&s, i);
    if (t.active && s.sample[t.sample].action == FP_REPLAY)
      copy_columns(t.first, t.end, s.best, s.z);
  }
}

void samples_replay(stream st, const struct fp_samples *s)
{
  LAUNCH_ROWS(st, fp_tiles(s), replay_best, *s);
}

void samples_trade(struct fp_samples *s)
{
  DEVICE real *best = s->best;
  s->best = s->z, s->z = s->fz, s->fz = best;
}

/* Block b of packed row r begins anew, from the guess; behind the row's end it is zero.  A warp
 * does that together, as all that moves a row's blocks. */
INLINE void admit_block(const struct fp_samples *s, const struct fp_decision *d, const real *guess,
                        int64_t r, int64_t b, int32_t slot)
{
  int64_t i = r * s->blocks + b, at = s->row[r] * d->length + s->first[r] + b;
  if (b < s->count[r]) {
    copy_columns(0, s->n, guess + at * s->n, s->z + i * s->n);
    copy_columns(0, s->n, guess + at * s->n, s->best + i * s->n);
  } else {
    zero_columns(0, s->n, s->z + i * s->n);
    zero_columns(0, s->n, s->best + i * s->n);
  }
  if (OWNS_COLUMN(0) && (s->per_row > 1 || b == 0)) {
    struct fp_sample *p = &s->sample[s->per_row == 1 ? r : i];
    p->now = p->best = HUGE_VAL;
    p->scale = 0;
    p->iterations = p->stale = 0;
    p->slot = slot;
    p->exit = p->verdict = FP_RUNNING;
    p->action = FP_STEP;
    p->keep = false;
  }
}

INLINE void empty_slot(struct fp_slot *q)
{
  q->count = q->head = q->phase = q->age = q->rest = q->stalls = 0;
  q->last = q->length = 0;
  q->accelerated = false;
  for (int c = 0; c < FP_COUNTERS; c++)
    q->counter[c] = 0;
}

/* Blocks of row r that are active when `kept` of them stay: a window is filled from behind. */
INLINE int32_t admitted(const struct fp_samples *s, const struct fp_decision *d, int64_t r,
                        int64_t kept)
{
  int64_t left = d->lengths[s->row[r]] - s->first[r], most = left < s->blocks ? left : s->blocks;
  if (d->all)
    return (int32_t)most;
  bool ready = kept == 0 || s->sample[r * s->blocks + kept - 1].iterations >= d->wait;
  int64_t room = ready ? kept + d->admit : kept;
  return (int32_t)(room < most ? room : most);
}

KERNEL begin_rows(struct fp_samples s, struct fp_decision d)
{
  FOR_EACH_COST (r, s.rows, 8 * s.per_row) {
    s.row[r] = (int32_t)r;
    s.first[r] = 0;
    s.count[r] = admitted(&s, &d, r, 0);
    s.retired[r] = 0;
    for (int64_t k = r * s.per_row; k < (r + 1) * s.per_row; k++)
      empty_slot(&s.slot[k]);
  }
}

KERNEL begin_blocks(struct fp_samples s, struct fp_decision d, const real *guess)
{
  FOR_EACH_ROW (i, s.rows * s.blocks, 2 * s.n) {
    int64_t r = i / s.blocks;
    admit_block(&s, &d, guess, r, i - r * s.blocks, (int32_t)(s.per_row == 1 ? r : i));
  }
}

KERNEL add_counters(struct fp_samples s, int64_t *counters)
{
  FOR_EACH_ROW (c, FP_COUNTERS, s.slots) {
    int64_t sum = 0;
    FOR_COLUMNS (k, 0, s.slots)
      sum += s.slot[k].counter[c];
    ROW_FOLD(sum, plus);
    if (OWNS_COLUMN(0))
      counters[c] = sum;
  }
}

void samples_count(stream st, const struct fp_samples *s, DEVICE int64_t *counters)
{
  LAUNCH_ROWS(st, FP_COUNTERS, add_counters, *s, counters);
}

void samples_begin(stream st, const struct fp_samples *s, const struct fp_decision *d,
                   const DEVICE real *guess)
{
  LAUNCH(st, s->rows, begin_rows, *s, *d);
  LAUNCH_ROWS(st, s->rows * s->blocks, begin_blocks, *s, *d, guess);
}

INLINE void move_block(const struct fp_samples *s, int64_t to, int64_t from)
{
  copy_columns(0, s->n, s->z + from * s->n, s->z + to * s->n);
  copy_columns(0, s->n, s->best + from * s->n, s->best + to * s->n);
  if (OWNS_COLUMN(0))
    s->sample[to] = s->sample[from];
}

/* Reverses the slots of blocks first..end-1 of a row. */
INLINE void reverse_slots(const struct fp_samples *s, int64_t first, int64_t end)
{
  for (end--; OWNS_COLUMN(0) && first < end; first++, end--) {
    int32_t slot = s->sample[first].slot;
    s->sample[first].slot = s->sample[end].slot;
    s->sample[end].slot = slot;
  }
}

/* The first k blocks of row r make room: `kept` move to the front.  The slots of those that leave
 * serve those that come: rotated by k, in place. */
INLINE void advance_row(const struct fp_samples *s, int64_t r, int64_t k, int64_t kept)
{
  int64_t row = r * s->blocks;
  reverse_slots(s, row, row + k);
  reverse_slots(s, row + k, row + s->blocks);
  reverse_slots(s, row, row + s->blocks);
  for (int64_t b = 0; b < kept; b++) {
    int32_t slot = OWNS_COLUMN(0) ? s->sample[row + b].slot : 0;
    move_block(s, row + b, row + b + k);
    if (OWNS_COLUMN(0))
      s->sample[row + b].slot = slot;
  }
  if (OWNS_COLUMN(0))
    s->first[r] += (int32_t)k;
}

KERNEL slide(struct fp_samples s, struct fp_decision d, const real *guess)
{
  FOR_EACH_ROW (r, s.rows, 2 * s.blocks * s.n) {
    int64_t k = s.retired[r], kept = s.count[r] - k, moved = k > 0 ? s.blocks : kept;
    ROW_SYNC;
    if (k > 0)
      advance_row(&s, r, k, kept);
    if (OWNS_COLUMN(0))
      s.count[r] = admitted(&s, &d, r, kept);
    ROW_SYNC;
    for (int64_t b = kept; b < s.count[r] || b < moved; b++)
      admit_block(&s, &d, guess, r, b, s.sample[r * s.blocks + b].slot);
  }
}

void samples_slide(stream st, const struct fp_samples *s, const struct fp_decision *d,
                   const DEVICE real *guess)
{
  LAUNCH_ROWS(st, s->rows, slide, *s, *d, guess);
}

/* In a window the rows whose blocks have all left have none. */
KERNEL live_rows(struct fp_samples s, bool all, int32_t *live)
{
  FOR_EACH_COST (r, s.rows, 1)
    live[r] = s.count[r] > 0 && (!all || s.sample[r].exit == FP_RUNNING);
}

void samples_live(stream st, const struct fp_samples *s, bool all, DEVICE int32_t *live)
{
  LAUNCH(st, s->rows, live_rows, *s, all, live);
}

#ifdef __CUDACC__
enum { PACK_COLUMNS = 1 };
#else
enum { PACK_COLUMNS = 512 };
#endif

/* Parallel over strips of columns, rows in order: in place is safe. */
KERNEL pack_unknowns(struct fp_samples s, int64_t rows, const int32_t *source)
{
  int64_t width = s.blocks * s.n;
  FOR_EACH_COST (i, (width + PACK_COLUMNS - 1) / PACK_COLUMNS, rows * PACK_COLUMNS) {
    int64_t first = i * PACK_COLUMNS;
    int64_t n = width - first < PACK_COLUMNS ? width - first : PACK_COLUMNS;
    for (int64_t r = 0; r < rows; r++) {
      int64_t to = r * width + first, from = source[r] * width + first;
      for (int64_t j = 0; from != to && j < n; j++) {
        s.z[to + j] = s.z[from + j];
        s.best[to + j] = s.best[from + j];
      }
    }
  }
}

KERNEL pack_samples(struct fp_samples s, int64_t rows, const int32_t *source)
{
  FOR_EACH_COST (e, s.per_row, rows) {
    for (int64_t r = 0; r < rows; r++) {
      s.sample[r * s.per_row + e] = s.sample[source[r] * s.per_row + e];
      if (e == 0) {
        s.row[r] = s.row[source[r]];
        s.first[r] = s.first[source[r]];
        s.count[r] = s.count[source[r]];
      }
    }
  }
}

void samples_pack(stream st, struct fp_samples *s, int64_t rows, const DEVICE int32_t *source)
{
  LAUNCH(st, (s->blocks * s->n + PACK_COLUMNS - 1) / PACK_COLUMNS, pack_unknowns, *s, rows, source);
  LAUNCH(st, s->per_row, pack_samples, *s, rows, source);
  s->rows = rows;
}
