/* ssd_products: ssd_chunked where decays may be negative or zero.
 *
 * A product of decays over a segment is then no exponential of a sum, and its derivative no
 * quotient.  Within a chunk the recurrence of ssd.c multiplies; of a sequence only the states that
 * enter the chunks are kept, and the states of one chunk are made again for its derivatives:
 *   fwd: S_{c+1} = recurrence(S_c, chunk c)
 *   vjp: from the last chunk to the first, the recurrence's VJP, L leaving chunk c entering c-1
 *   jvp: from the first to the last
 * Sequences and chunks one after the other; heads and channels side by side.
 */
#include "kernels/ssd_products.h"

/* Chunk c of sequence b, alone. */
struct piece {
  struct ssd_shape d;
  int64_t token, state; /* its first token among all B*T; where its entering state is in S */
};

static struct piece piece_of(struct ssd_shape d, int64_t b, int64_t c)
{
  struct piece p;
  p.d = d;
  p.d.B = 1;
  p.d.T = d.T - c * d.chunk < d.chunk ? d.T - c * d.chunk : d.chunk;
  p.token = b * d.T + c * d.chunk;
  p.state = (b * ssd_chunks(d) + c) * d.H * d.P * d.N;
  return p;
}

static const DEVICE real *at(const DEVICE real *x, int64_t offset) { return x ? x + offset : NULL; }
static DEVICE real *at_out(DEVICE real *x, int64_t offset) { return x ? x + offset : NULL; }

static void copy(stream st, int64_t n, const DEVICE real *from, DEVICE real *to)
{
  if (from)
    OP(axpby)(st, n, 1, from, 0, to);
  else
    OP(fill)(st, n, 0, to);
}

void OP(ssd_products_fwd)(stream st, struct ssd_shape d, const DEVICE real *x,
                          const DEVICE real *Bm, const DEVICE real *C, const DEVICE real *dt,
                          const DEVICE real *A_log, const DEVICE real *D, const DEVICE int32_t *row,
                          const DEVICE real *S0, DEVICE real *S, DEVICE real *y, DEVICE real *S1)
{
  int64_t chunks = ssd_chunks(d), HP = d.H * d.P, HPN = HP * d.N;
  if (!S || row) { /* nothing is kept: S is for derivatives, which know no row map */
    OP(ssd_fwd)(st, d, x, Bm, C, dt, A_log, D, row, S0, NULL, y, S1);
    return;
  }
  for (int64_t b = 0; b < d.B; b++) {
    copy(st, HPN, at(S0, b * HPN), S + b * chunks * HPN);
    for (int64_t c = 0; c < chunks; c++) {
      struct piece p = piece_of(d, b, c);
      int64_t columns = p.token * d.ld;
      OP(ssd_fwd)
      (st, p.d, x + columns, Bm + columns, C + columns, dt + p.token * d.H, A_log, D, NULL,
       S + p.state, NULL, at_out(y, p.token * HP),
       c + 1 < chunks ? S + p.state + HPN : at_out(S1, b * HPN));
    }
  }
}

void OP(ssd_products_vjp)(stream st, struct ssd_shape d, const DEVICE real *x,
                          const DEVICE real *Bm, const DEVICE real *C, const DEVICE real *dt,
                          const DEVICE real *A_log, const DEVICE real *D, const DEVICE real *S,
                          const DEVICE real *yb, const DEVICE real *S1b, DEVICE real *work,
                          DEVICE real *xb, DEVICE real *Bb, DEVICE real *Cb, DEVICE real *dtb,
                          DEVICE real *A_logb, DEVICE real *Db, DEVICE real *S0b)
{
  int64_t chunks = ssd_chunks(d), HP = d.H * d.P, HPN = HP * d.N, Q = ssd_chunk_length(d);
  DEVICE real *states = work, *L = states + Q * HPN, *carry = L + Q * HPN;
  for (int64_t b = 0; b < d.B; b++) {
    for (int64_t c = chunks - 1; c >= 0; c--) {
      struct piece p = piece_of(d, b, c);
      int64_t columns = p.token * d.ld, times = p.token * d.H;
      const DEVICE real *after = c + 1 < chunks ? carry + (c + 1) % 2 * HPN : at(S1b, b * HPN);
      DEVICE real *before = c > 0 ? carry + c % 2 * HPN : at_out(S0b, b * HPN);
      if (c > 0)
        OP(fill)(st, HPN, 0, before);
      OP(ssd_fwd)
      (st, p.d, x + columns, Bm + columns, C + columns, dt + times, A_log, D, NULL, at(S, p.state),
       states, NULL, NULL);
      OP(ssd_vjp)
      (st, p.d, x + columns, Bm + columns, C + columns, dt + times, A_log, D, at(S, p.state),
       states, yb + p.token * HP, after, L, at_out(xb, columns), at_out(Bb, columns),
       at_out(Cb, columns), at_out(dtb, times), A_logb, Db, before);
    }
  }
}

void OP(ssd_products_jvp)(stream st, struct ssd_shape d, const DEVICE real *x,
                          const DEVICE real *Bm, const DEVICE real *C, const DEVICE real *dt,
                          const DEVICE real *A_log, const DEVICE real *D, const DEVICE real *S,
                          const DEVICE real *xd, const DEVICE real *Bd, const DEVICE real *Cd,
                          const DEVICE real *dtd, const DEVICE real *A_logd, const DEVICE real *Dd,
                          const DEVICE real *S0d, DEVICE real *work, DEVICE real *yd,
                          DEVICE real *S1d)
{
  int64_t chunks = ssd_chunks(d), HP = d.H * d.P, HPN = HP * d.N, Q = ssd_chunk_length(d);
  DEVICE real *states = work, *Sd = states + Q * HPN, *carry = Sd + Q * HPN;
  for (int64_t b = 0; b < d.B; b++) {
    for (int64_t c = 0; c < chunks; c++) {
      struct piece p = piece_of(d, b, c);
      int64_t columns = p.token * d.ld, times = p.token * d.H;
      const DEVICE real *before = c > 0 ? carry + c % 2 * HPN : at(S0d, b * HPN);
      DEVICE real *after = c + 1 < chunks ? carry + (c + 1) % 2 * HPN : at_out(S1d, b * HPN);
      OP(ssd_fwd)
      (st, p.d, x + columns, Bm + columns, C + columns, dt + times, A_log, D, NULL, at(S, p.state),
       states, NULL, NULL);
      OP(ssd_jvp)
      (st, p.d, x + columns, Bm + columns, C + columns, dt + times, A_log, D, at(S, p.state),
       states, at(xd, columns), at(Bd, columns), at(Cd, columns), at(dtd, times), A_logd, Dd,
       before, Sd, at_out(yd, p.token * HP), after);
    }
  }
}
