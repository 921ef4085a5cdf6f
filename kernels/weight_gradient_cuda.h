/* weight_gradient_cuda.h: the gradient of a product's weight in one pass over both its factors, on
 * compute capability 9.0, where `matmul` is tf32; part of linear.c.
 *
 *   sums (N,K) = left' right      left (M,N)   right (M,K)      column sums (N) of left
 *
 * of x and yb, whichever way round has K = 64, 128 or 256.  Terms are tokens, rows of both.
 *
 * A block has 128 columns of left, all of right, and a share of the tokens, by steps of 64.  Two
 * warpgroups multiply, 64 columns of left each, whose sums they keep.  A panel is 32 tokens.
 *
 * Left: each warp has 16 columns, which it copies itself, by 16 bytes, and reads across: nobody
 * else waits for them.  Terms t and t + 4 of step k are tokens 8 k + t and 8 k + t + 4 of a panel,
 * and the product's rows g and g + 8 columns 2 g and 2 g + 1 of the warp's, side by side.  A
 * token's fours of columns change places by its second bit, so that lanes find theirs in all banks.
 *
 * Right: rows of a product's right operand are its columns, which nothing copies so from global
 * memory.  A third warpgroup loads it to registers, four columns of four tokens at a time, and
 * stores four tokens of a column as one four of a panel, rounded.
 *
 * Blocks that share a tile's tokens put their sums into `turned`; another kernel adds them up.  All
 * tiles' shares are the same, and read at the same time, so that right comes from L2 to all tiles
 * but one.  What is left of N beyond whole tiles has shares of its own. */
#ifndef KERNELS_WEIGHT_GRADIENT_CUDA_H
#define KERNELS_WEIGHT_GRADIENT_CUDA_H
#include "kernels/device_cuda.h"
#include "kernels/rows.h"
#include "kernels/warpgroup_cuda.h"

enum {
  COLUMNS = 128, /* of left, of a block */
  WARP_COLUMNS = 16,
  STEP = 2 * (int)PANEL,              /* tokens */
  MULTIPLIERS = 2 * (int)GROUP_LANES, /* threads that multiply */
  TURNERS = (int)GROUP_LANES,         /* those behind them, which load right */
  TURNING_WARPS = (int)TURNERS / (int)WARP_LANES,
  BLOCK_LANES = (int)MULTIPLIERS + (int)TURNERS,
  LEFT_STAGES = 6,
  LEFT_FLOATS = (int)PANEL * (int)WARP_COLUMNS, /* of a warp's stage */
  RIGHT_STAGES = 4,
  AHEAD = 4 /* steps by which right is fetched to L2 before it is loaded */
};

struct weight_product {
  int64_t M;
  int N, tiles;            /* of left; whole tiles of it */
  int shares, last_shares; /* of the tokens: of a whole tile, and of what is left beyond them */
  bool turned;             /* sums (K,N) are kept, not (N,K) */
  const float *left, *right;
  float *parts;        /* a share's sums of a tile, share by share; then those of the last */
  double *column_sums; /* (shares or last_shares,N), or NULL */
};

/* A tile's columns, and which tokens' sums of them lie where. */
struct weight_tile {
  int columns, shares;
  int64_t first, apart; /* of the parts: the first share's, and how far the next is behind it */
  INLINE_DEVICE weight_tile(const struct weight_product &p, int K, int tile)
  {
    bool whole = tile < p.tiles;
    columns = whole ? (int)COLUMNS : p.N - p.tiles * COLUMNS;
    shares = whole ? p.shares : p.last_shares;
    first = (whole ? (int64_t)tile : (int64_t)p.tiles * p.shares) * COLUMNS * K;
    apart = (whole ? (int64_t)p.tiles * COLUMNS : (int64_t)columns) * K;
  }
};

/* A block's part of the work: shares of one number are of neighbouring blocks. */
struct block_share {
  int tile, share;
  int first, end; /* steps */
  INLINE_DEVICE explicit block_share(const struct weight_product &p)
  {
    int block = (int)blockIdx.x, whole = p.tiles * p.shares;
    int64_t steps = (p.M + STEP - 1) / STEP;
    tile = block < whole ? block % p.tiles : p.tiles;
    share = block < whole ? block / p.tiles : block - whole;
    int shares = block < whole ? p.shares : p.last_shares;
    first = (int)(steps * share / shares), end = (int)(steps * (share + 1) / shares);
  }
};

/* Of the shared memory: panels of right; what each warp has of left; signals, when a panel has
 * come and when the warps have read it. */
template <int K> struct weight_memory {
  enum {
    RIGHT_FLOATS = K * (int)PANEL,
    LEFT_AT = RIGHT_STAGES * (int)RIGHT_FLOATS,
    SIGNALS = LEFT_AT + (int)MULTIPLIERS / (int)WARP_LANES * LEFT_STAGES * (int)LEFT_FLOATS,
    FLOATS = SIGNALS + 2 * RIGHT_STAGES * (int)(sizeof(uint64_t) / sizeof(float))
  };
  float *at;
  INLINE_DEVICE panels<K> right(int stage) const { return {at + stage * RIGHT_FLOATS}; }
  INLINE_DEVICE float *left(void) const
  {
    return at + LEFT_AT + own_warp() * (LEFT_STAGES * LEFT_FLOATS);
  }
  INLINE_DEVICE uint64_t *come(int stage) const { return (uint64_t *)(at + SIGNALS) + stage; }
  INLINE_DEVICE uint64_t *read(int stage) const { return come(RIGHT_STAGES + stage); }
};

/* Which column of right is which row of a panel: 4 l + j of WIDTH is row LANES j + l, so that a
 * lane's fours of columns are stored beside other lanes', and sums of a row are by fours, too. */
template <int K> struct right_order {
  enum { WIDTH = K < 128 ? K : 128, LANES = (int)WIDTH / 4, TILES = (int)LANES / 8 };
  /* sums of the four columns from column(i,e) on are [first(i) + j TILES][e], j = 0 to 3 */
  INLINE_DEVICE static int first(int i) { return i / TILES * (4 * TILES) + i % TILES; }
  INLINE_DEVICE static int column(int i, int e)
  {
    return i / TILES * WIDTH + i % TILES * 32 + 8 * lane_pair() + 4 * e;
  }
};

/* Warps that multiply: whole warpgroups, which have a column at least. */
INLINE_DEVICE int multiplying_warps(int columns)
{
  return columns > COLUMNS / 2 ? MULTIPLIERS / WARP_LANES : MULTIPLIERS / WARP_LANES / 2;
}

/* ---- the warps that turn right ---- */

/* Right is loaded by pairs of batches, of up to 128 columns and 32 tokens each: a panel's halves,
 * or two panels.  A lane has four columns, side by side, of FOURS times four tokens. */
template <int K> struct right_batches {
  typedef right_order<K> order;
  enum {
    FOURS = PANEL / 4 / TURNING_WARPS * (int)order::LANES / WARP_LANES,
    HALVES = K > order::WIDTH,
    PAIR = HALVES ? (int)PANEL : (int)STEP, /* tokens */
    PAIRS = STEP / (int)PAIR                /* of a step */
  };
  const float *from; /* of the next pair */
  int64_t left;      /* tokens of this thread from there on */
  int place;         /* in a panel, of its first column's first four */
  INLINE_DEVICE right_batches(const struct weight_product &p, int first)
  {
    int lane = (int)threadIdx.x % WARP_LANES, own = lane % order::LANES;
    int four = own_warp() % TURNING_WARPS * 2 + lane / order::LANES;
    int64_t token = (int64_t)first * STEP + 4 * four;
    from = p.right + token * K + 4 * own;
    left = p.M - token;
    place = panels<K>::offset(own, four);
  }
  INLINE_DEVICE void load(float4 (&v)[FOURS][4], int i) const
  {
    const float *at = from + i * (HALVES ? (int)order::WIDTH : PANEL * K);
    int64_t here = left - (HALVES ? 0 : i * PANEL);
    float4 zeros = {};
    if (here >= 4 * FOURS) {
#pragma unroll
      for (int f = 0; f < FOURS; f++)
#pragma unroll
        for (int k = 0; k < 4; k++)
          v[f][k] = load_word((const float4 *)(at + (4 * f + k) * K));
      return;
    }
#pragma unroll
    for (int f = 0; f < FOURS; f++)
#pragma unroll
      for (int k = 0; k < 4; k++)
        v[f][k] = 4 * f + k < here ? load_word((const float4 *)(at + (4 * f + k) * K)) : zeros;
  }
  INLINE_DEVICE void step(void) { from += PAIR * K, left -= PAIR; }
  INLINE_DEVICE void store(const float4 (&v)[FOURS][4], int i, panels<K> to) const
  {
    float *at = to.at + (HALVES ? i * order::WIDTH * PANEL : 0);
    auto put = [&](int f, int column, float t0, float t1, float t2, float t3) {
      float4 tokens;
      tokens.x = rounded<1>(t0), tokens.y = rounded<1>(t1);
      tokens.z = rounded<1>(t2), tokens.w = rounded<1>(t3);
      *(float4 *)(at + (place ^ 4 * f) + column * order::LANES * PANEL) = tokens;
    };
#pragma unroll
    for (int f = 0; f < FOURS; f++) {
      put(f, 0, v[f][0].x, v[f][1].x, v[f][2].x, v[f][3].x);
      put(f, 1, v[f][0].y, v[f][1].y, v[f][2].y, v[f][3].y);
      put(f, 2, v[f][0].z, v[f][1].z, v[f][2].z, v[f][3].z);
      put(f, 3, v[f][0].w, v[f][1].w, v[f][2].w, v[f][3].w);
    }
  }
};

/* One thread of each block has the steps of right fetched to L2 by turns of the tiles that will
 * load them. */
struct right_fetch {
  int next, apart, end; /* steps */
  INLINE_DEVICE right_fetch(const struct weight_product &p, struct block_share own)
  {
    bool alone = own.tile == p.tiles;
    apart = alone ? 1 : p.tiles;
    next = alone ? own.first : own.first + (own.tile + p.tiles - own.first % p.tiles) % p.tiles;
    end = threadIdx.x == MULTIPLIERS ? own.end : next;
  }
  INLINE_DEVICE void up_to(const struct weight_product &p, int K, int step)
  {
    for (; next < end && next < step; next += apart) {
      int64_t token = (int64_t)next * STEP, left = p.M - token;
      int tokens = left < STEP ? (int)left : STEP;
      prefetch_block(p.right + token * K, tokens * K * (int)sizeof(float));
    }
  }
};

template <int K>
INLINE_DEVICE void turn_right(const struct weight_product &p, struct block_share own,
                              struct weight_memory<K> m)
{
  typedef right_batches<K> batches;
  batches right(p, own.first);
  right_fetch fetch(p, own);
  ring_place<RIGHT_STAGES> to = {0, 0};
  float4 v[2][batches::FOURS][4];
  bool speaks = threadIdx.x % WARP_LANES == 0; /* for its warp */
  int pairs = (own.end - own.first) * batches::PAIRS, ahead = own.first + AHEAD;
  fetch.up_to(p, K, ahead);
#pragma unroll
  for (int i = 0; i < 2; i++)
    right.load(v[i], i);
#pragma unroll 1
  for (int pair = 0; pair < pairs; pair++) {
    right.step();
#pragma unroll
    for (int i = 0; i < 2; i++) {
      bool first = !batches::HALVES || i == 0, last = !batches::HALVES || i == 1; /* of a panel */
      if (first && to.use > 0)
        await_signal(m.read(to.stage), to.use - 1);
      right.store(v[i], i, m.right(to.stage));
      if (pair < pairs - 1)
        right.load(v[i], i);
      if (last) {
        show_to_products();
        __syncwarp();
        arrive(m.come(to.stage), speaks);
        to.step();
      }
    }
    fetch.up_to(p, K, ahead + (pair + 1) / batches::PAIRS);
  }
}

/* ---- the warps that multiply ---- */

/* The copies of a warp's columns of left, panel by panel, on behind what is multiplied. */
struct left_copies {
  enum { OFTEN = PANEL / 8 }; /* a lane's tokens of a panel are 8 apart */
  const float *from;          /* of the next panel */
  int64_t apart;              /* floats */
  int64_t left;             /* tokens from this lane's first one on; 0: its columns are not there */
  int panels, place, stage; /* panels to come */
  INLINE_DEVICE left_copies(const struct weight_product &p, struct block_share own, int columns)
  {
    int token = (int)threadIdx.x % WARP_LANES / 4, four = (int)threadIdx.x % 4;
    int column = own_warp() * WARP_COLUMNS + 4 * four;
    int64_t first = (int64_t)own.first * STEP + token;
    from = p.left + first * p.N + own.tile * COLUMNS + column;
    apart = 8 * (int64_t)p.N;
    left = column < columns ? p.M - first : 0;
    panels = 2 * (own.end - own.first);
    place = token * WARP_COLUMNS + 4 * (four ^ (token & 2));
    stage = 0;
  }
  /* the next, and nothing behind the last */
  INLINE_DEVICE void copy(float *to)
  {
    const float *at = from;
    if (panels > 0)
#pragma unroll
      for (int i = 0; i < OFTEN; i++, at += apart)
        copy_16_of_256_bytes(to + stage * LEFT_FLOATS + place + i * 8 * WARP_COLUMNS, at,
                             8 * i < left);
    end_batch();
    from = at, left -= PANEL, panels--;
    stage = stage == LEFT_STAGES - 1 ? 0 : stage + 1;
  }
};

/* Left operands of a panel of left; adds to the sums of this lane's two columns, if they are
 * wanted: sums in double take 8 % of the time. */
INLINE_DEVICE void left_terms(const float *from, bool adds, float (&terms)[4][4], double (&sums)[2])
{
  float part[2] = {};
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float2 two = *(const float2 *)(from + (8 * k + 4 * half) * WARP_COLUMNS);
      part[0] += two.x, part[1] += two.y;
      terms[k][2 * half] = rounded<1>(two.x), terms[k][2 * half + 1] = rounded<1>(two.y);
    }
  if (adds)
    sums[0] += (double)part[0], sums[1] += (double)part[1];
}

/* This block's sums of this lane's columns of left, `column` and the next, of `columns`. */
template <int K>
INLINE_DEVICE void put_part(const struct weight_product &p, const float (&sums)[K / 8][4],
                            int column, int columns, float *part)
{
  typedef right_order<K> order;
#pragma unroll
  for (int i = 0; i < K / 32; i++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      int n = order::first(i), k = order::column(i, e);
      auto sum = [&](int j, int half) { return sums[n + j * order::TILES][2 * half + e]; };
      if (p.turned) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float2 two;
          two.x = sum(j, 0), two.y = sum(j, 1);
          store_word((float2 *)(part + (k + j) * columns + column), two);
        }
      } else {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float4 four;
          four.x = sum(0, half), four.y = sum(1, half);
          four.z = sum(2, half), four.w = sum(3, half);
          put_four(part + (column + half) * K + k, 0, four);
        }
      }
    }
}

template <int K>
INLINE_DEVICE void multiply_share(const struct weight_product &p, struct block_share own,
                                  struct weight_tile tile, struct weight_memory<K> m)
{
  struct left_copies copies(p, own, tile.columns);
  ring_place<RIGHT_STAGES> at = {0, 0};
  bool speaks = threadIdx.x % WARP_LANES == 0; /* for its warp */
  int t = lane_pair(), g = lane_row(), stage = 0, steps = own.end - own.first;
  int column = own_warp() * WARP_COLUMNS + 2 * g;
  int before = 0; /* the stage that the products under way read */
  operand first = operand_at(m.right(0).at);
  float *left = m.left(), sums[K / 8][4], terms[2][4][4];
  const float *across = left + t * WARP_COLUMNS + 4 * (g / 2 ^ (t & 2)) + g % 2 * 2;
  double column_sums[2] = {};
  for (int i = 0; i < LEFT_STAGES - 1; i++)
    copies.copy(left);
#pragma unroll 1
  for (int i = 0; i < steps; i++) {
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {
      await_batches<LEFT_STAGES - 2>();
      __syncwarp(); /* what the others have copied is there, and what they have read is free */
      copies.copy(left);
      left_terms(across + stage * LEFT_FLOATS, p.column_sums, terms[odd], column_sums);
      stage = stage == LEFT_STAGES - 1 ? 0 : stage + 1;
      await_signal(m.come(at.stage), at.use);
      operand right = first.behind(at.stage * weight_memory<K>::RIGHT_FLOATS);
      settle_sums(terms[odd]);
      begin_products();
#pragma unroll
      for (int k = 0; k < 4; k++)
        group_mma(sums, terms[odd][k], terms_behind<K>(right, k), i + odd + k > 0);
      end_products();
      await_products<1>();
      arrive(m.read(before), speaks && i + odd > 0);
      before = at.stage;
      at.step();
    }
  }
  await_products<0>();
  settle_sums(sums);
  await_batches<0>();
  if (column < tile.columns)
    put_part<K>(p, sums, column, tile.columns, p.parts + tile.first + own.share * tile.apart);
  if (p.column_sums) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      double sum = column_sums[c] + from_lane(column_sums[c], 1);
      sum += from_lane(sum, 2);
      if (t == 0 && column < tile.columns)
        p.column_sums[(int64_t)own.share * p.N + own.tile * COLUMNS + column + c] = sum;
    }
  }
}

template <int K>
static __global__ void __launch_bounds__(BLOCK_LANES, 1) weight_tiles(struct weight_product p)
{
#if HAS_WARPGROUPS
  typedef warpgroup_registers<200, 200, 104> registers;
  SHARED_FLOATS(memory);
  struct weight_memory<K> m = {
    memory
  };
  struct block_share own(p);
  struct weight_tile tile(p, K, own.tile);
  int warps = multiplying_warps(tile.columns);
  if (threadIdx.x == 0)
    for (int i = 0; i < RIGHT_STAGES; i++) {
      make_signal(m.come(i), TURNING_WARPS);
      make_signal(m.read(i), warps);
    }
  __syncthreads();
  if (threadIdx.x < MULTIPLIERS) {
    registers::begin<200>();
    if (own_warp() < warps)
      multiply_share<K>(p, own, tile, m);
  } else {
    registers::begin<104>();
    turn_right<K>(p, own, m);
  }
#endif
}

/* ---- the sum of the shares ---- */

INLINE_DEVICE float4 sum_of_parts_at(const float *at, int64_t apart, int count)
{
  float4 sum = load_word((const float4 *)at);
  PRAGMA(unroll 4)
  for (int i = 1; i < count; i++)
    sum = add_fours(sum, 1, load_word((const float4 *)(at + i * apart)));
  return sum;
}

/* W (N,K), or (K,N) if those are the sums, += them, by fours; b (N), or NULL, += column sums. */
KERNEL add_up_shares(struct weight_product p, int K, float *W, float *b)
{
  int rows = p.turned ? K : p.N, fours = (p.turned ? p.N : K) / 4;
  FOR_EACH (i, (int64_t)rows * fours + (b ? p.N : 0)) {
    int row = (int)i / fours, column = ((int)i - row * fours) * 4;
    if (row < rows) {
      int n = p.turned ? column : row, k = p.turned ? row : column;
      struct weight_tile tile(p, K, n / COLUMNS);
      int at = p.turned ? k * tile.columns + n % COLUMNS : n % COLUMNS * K + k;
      put_four(W + 4 * i, 1, sum_of_parts_at(p.parts + tile.first + at, tile.apart, tile.shares));
    } else {
      int n = (int)i - rows * fours;
      struct weight_tile tile(p, K, n / COLUMNS);
      double sum = 0;
      for (int share = 0; share < tile.shares; share++)
        sum += p.column_sums[(int64_t)share * p.N + n];
      b[n] += (float)sum;
    }
  }
}

/* ---- on the host ---- */

/* How the processors share the tokens: so that the slowest block ends early.  false: most of them
 * would have none, or there is no room for the parts. */
static bool share_tokens(struct weight_product *p, int K, bool column_sums)
{
  const int steps_least = 4;
  const double cost_of_half = 0.75; /* a block where one warpgroup multiplies */
  int64_t most = (p->M + STEP - 1) / STEP / steps_least, last = p->N % COLUMNS;
  double best = 0;
  p->tiles = p->N / COLUMNS, p->shares = p->last_shares = 0;
  for (int64_t s = 1; s <= most && (s == 1 || p->tiles * s + (last > 0) <= PROCESSORS); s++) {
    int64_t others = PROCESSORS - p->tiles * s;
    others = others < 1 ? 1 : others < most ? others : most;
    others = last ? others : 0;
    int64_t floats = (p->tiles * s * COLUMNS + others * last) * K;
    int64_t bytes = floats * (int64_t)sizeof(float);
    if (column_sums)
      bytes += (s > others ? s : others) * p->N * (int64_t)sizeof(double);
    double rate = last <= COLUMNS / 2 ? (double)others / cost_of_half : (double)others;
    rate = last && rate < (double)s ? rate : (double)s;
    if (bytes > TURNED_BYTES || rate <= best)
      continue;
    best = rate, p->shares = (int)s, p->last_shares = (int)others;
    p->column_sums = column_sums ? (double *)(p->parts + floats) : NULL;
  }
  return 4 * (p->tiles * p->shares + p->last_shares) >= 3 * PROCESSORS;
}

template <int K>
static bool add_weight_gradient(stream st, struct weight_product p, float *W, float *b)
{
  size_t bytes = weight_memory<K>::FLOATS * sizeof(float);
  if (bytes > device_of(st)->shared_bytes || !share_tokens(&p, K, b != NULL))
    return false;
  LAUNCH_SHARED(st, p.tiles * p.shares + p.last_shares, BLOCK_LANES, bytes, weight_tiles<K>, p);
  LAUNCH(st, (int64_t)p.N * K / 4 + (b ? p.N : 0), add_up_shares, p, K, W, b);
  return true;
}

static bool can_turn(int64_t K) { return K == 64 || K == 128 || K == 256; }

/* Wb (N,K) += yb' x, and *bb (N), which is NULL then, += column sums of yb where they cost nothing.
 * false, and nothing is done: not here, not for such shapes, or so few rows that most processors
 * would have none. */
static bool weight_in_one_pass(stream st, int64_t M, int64_t K, int64_t N, const real *x,
                               const real *yb, real *Wb, real **bb)
{
  struct device *device = device_of(st);
  bool as_they_are = can_turn(K) && N >= COLUMNS && (N >= K || !can_turn(N));
  int64_t width = as_they_are ? K : N, other = as_they_are ? N : K;
  if (!device->warpgroups || device->matmul != PLUGIN_TF32 || !can_turn(width) || other < COLUMNS ||
      other > INT32_MAX / (4 * COLUMNS) || M > INT32_MAX ||
      !in_packs(other, as_they_are ? yb : x) || !in_packs(0, as_they_are ? x : yb) ||
      !in_packs(0, Wb))
    return false;
  struct weight_product p = {};
  p.M = M, p.N = (int)other, p.turned = !as_they_are;
  p.left = as_they_are ? yb : x, p.right = as_they_are ? x : yb;
  p.parts = (float *)device->turned;
  float *b = as_they_are ? *bb : NULL;
  if (!(width == 64    ? add_weight_gradient<64>(st, p, Wb, b)
        : width == 128 ? add_weight_gradient<128>(st, p, Wb, b)
                       : add_weight_gradient<256>(st, p, Wb, b)))
    return false;
  if (b)
    *bb = NULL;
  return true;
}
#endif
