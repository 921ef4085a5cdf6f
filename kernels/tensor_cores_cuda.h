/* tensor_cores_cuda.h: float32 products of tiles in shared memory by the tensor cores.
 *
 * A warp multiplies 16 rows by 8 columns and 8 terms at a time (mma.m16n8k8), whose operands are
 * tf32: float32 with 10 bits behind the point; the hardware does not read the others.  With
 * PRODUCTS = 3 an operand is the sum of two of them, x = big + small, and  a b = small big + big
 * small + big big  keeps float32's precision.
 *
 * Lane 4 g + t of a warp holds rows g and g + 8 of its 16, and of 32 columns (four tiles of 8)
 *   PLAIN    sums[n][e]     = element (g + 8 (e/2), 8 n + 2 t + e%2)
 *   GROUPED  sums[4 J+q][e] = element (g + 8 (e/2), 32 J + 4 c(2 t + e%2) + q), where
 *            c = 0, 5, 1, 4, 2, 7, 3, 6 (`four_of_slot`): four lanes side by side hold 64 bytes
 * which is a matter of which columns a tile is made of.  Which terms share a step does not matter
 * to a sum: they are those that lie side by side, so that operands come 8 or 16 bytes at a time.
 *
 * Tiles lie in shared memory in rows of LD floats, a multiple of 32.  Fours of columns change
 * places within 32 by row (`turn`), so that lanes that read at the same time find theirs in all 32
 * banks, whether they go along the rows or across them.
 *
 * References: PTX ISA, "mma.m16n8k8"; Ootomo & Yokota 2022, arXiv:2203.03341 (three products). */
#ifndef KERNELS_TENSOR_CORES_CUDA_H
#define KERNELS_TENSOR_CORES_CUDA_H
#include "core/packs.h"

enum { WARP_LANES = 32 }; /* on the stand-in, too: WARP is less there */
INLINE_DEVICE int own_warp(void) { return (int)threadIdx.x / WARP_LANES; }
INLINE_DEVICE int lane_row(void) { return (int)threadIdx.x % WARP_LANES / 4; }
INLINE_DEVICE int lane_pair(void) { return (int)threadIdx.x % 4; }

/* The four columns of 32 in slot s of GROUPED tiles.  Neighbours differ in the last bit, those of
 * even slots in the last two: both so that lanes find theirs in all banks (`turn`). */
INLINE_DEVICE int four_of_slot(int s) { return s / 2 ^ (s % 2) * 5; }
INLINE_DEVICE int own_four(int o) { return lane_pair() ^ o * 5; } /* o = 0, 1: slot 2 t + o */

/* ---- tiles ---- */

INLINE_DEVICE int turn(int r) { return (r & 6) ^ (r & 1) << 2; } /* r < 8 */

/* Row r0 + r and the four columns from 4 (c0 + c) on, where r0 and c0 are multiples of 8 and r, c
 * less. */
template <int LD> struct tile {
  float *at;
  INLINE_DEVICE float *place(int r0, int r, int c0, int c) const
  {
    return at + (r0 + r) * LD + 4 * c0 + 4 * (c ^ turn(r));
  }
  INLINE_DEVICE float4 &four(int r0, int r, int c0, int c) const
  {
    return *(float4 *)place(r0, r, c0, c);
  }
  INLINE_DEVICE float4 &four(int r, int c) const { return four(r & ~7, r & 7, c & ~7, c & 7); }
  /* The element of row r0 + r and column m0 + m, m0 a multiple of 8, m < 8; with the next: m even
   */
  INLINE_DEVICE float *one(int r0, int r, int m0, int m) const
  {
    return place(r0, r, m0 / 4 & ~7, (m0 / 4 & 7) + m / 4) + m % 4;
  }
  INLINE_DEVICE float2 &two(int r0, int r, int m0, int m) const
  {
    return *(float2 *)one(r0, r, m0, m);
  }
};

/* Columns of sums that are GROUPED: the four from 32 J + 4 own_four(o) on of row g + 8 half, for
 * what is stored or was loaded side by side: not where mma has it.  ptxas would move it at every
 * use, if it were not computed anew. */
template <int TILES>
INLINE_DEVICE float4 four_of(const float (&sums)[TILES][4], int J, int half, int o)
{
  int e = 2 * half + o;
  float4 four;
  four.x = sums[4 * J][e] + 0.0f, four.y = sums[4 * J + 1][e] + 0.0f;
  four.z = sums[4 * J + 2][e] + 0.0f, four.w = sums[4 * J + 3][e] + 0.0f;
  return four;
}
template <int TILES>
INLINE_DEVICE void set_four(float (&sums)[TILES][4], int J, int half, int o, float4 four)
{
  int e = 2 * half + o;
  sums[4 * J][e] = four.x + 0.0f, sums[4 * J + 1][e] = four.y + 0.0f;
  sums[4 * J + 2][e] = four.z + 0.0f, sums[4 * J + 3][e] = four.w + 0.0f;
}

INLINE_DEVICE float4 add_fours(float4 a, float s, float4 b) /* a + s b */
{
  a.x += s * b.x, a.y += s * b.y, a.z += s * b.z, a.w += s * b.w;
  return a;
}

template <int TILES> INLINE_DEVICE void scale_sums(float (&sums)[TILES][4], float factor)
{
#pragma unroll
  for (int n = 0; n < TILES; n++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      sums[n][e] *= factor;
}

template <int TILES> INLINE_DEVICE void clear_sums(float (&sums)[TILES][4])
{
#pragma unroll
  for (int n = 0; n < TILES; n++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      sums[n][e] = 0;
}

/* ---- one product ---- */

INLINE_DEVICE uint32_t bits_of(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
INLINE_DEVICE float float_of(uint32_t bits)
{
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

#ifdef __NVCC__
INLINE_DEVICE void mma(float (&d)[4], const float (&a)[4], float b0, float b1)
{
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(bits_of(a[0])), "r"(bits_of(a[1])), "r"(bits_of(a[2])), "r"(bits_of(a[3])),
        "r"(bits_of(b0)), "r"(bits_of(b1)));
}

/* 16 bytes of global memory to shared memory, behind this thread's back; 16 zeros unless `there` */
INLINE_DEVICE void copy_16_bytes(float *to, const float *from, bool there)
{
  unsigned at = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
/* Copies since the last call are one batch; all but the last LEFT batches have arrived. */
INLINE_DEVICE void end_batch(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> INLINE_DEVICE void await_batches(void)
{
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
/* 2^x, x <= 0, to 2 units of the last place */
INLINE_DEVICE float power_of_2(float x)
{
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/* Two numbers in half precision, a word; the first in its lower bits. */
INLINE_DEVICE float halves_of(float first, float second)
{
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return float_of(word);
}
INLINE_DEVICE float2 numbers_of(float halves)
{
  float2 two;
  asm("{.reg .b16 first, second; mov.b32 {first, second}, %2; cvt.f32.f16 %0, first; "
      "cvt.f32.f16 %1, second;}"
      : "=f"(two.x), "=f"(two.y)
      : "r"(bits_of(halves)));
  return two;
}
#else /* tests/emulation */
INLINE_DEVICE void mma(float (&d)[4], const float (&a)[4], float b0, float b1)
{
  emulated_mma(d, a, b0, b1);
}
INLINE_DEVICE void copy_16_bytes(float *to, const float *from, bool there)
{
  emulated_copy(to, from, there);
}
INLINE_DEVICE void end_batch(void) { emulated_end_batch(); }
template <int LEFT> void await_batches(void) { emulated_await_batches(LEFT); }
INLINE_DEVICE float power_of_2(float x) { return exp2f(x); }
INLINE_DEVICE float halves_of(float first, float second)
{
  return float_of(emulated_half(first) | (uint32_t)emulated_half(second) << 16);
}
INLINE_DEVICE float2 numbers_of(float halves)
{
  float2 two;
  two.x = emulated_number((uint16_t)bits_of(halves));
  two.y = emulated_number((uint16_t)(bits_of(halves) >> 16));
  return two;
}
#endif

/* Half precision has as many bits as tf32, 11, but few exponents: from 2^-14 to 2^15.  Numbers of
 * which `most` is the largest are multiplied by the power of two `to` before, so that it comes
 * below 2^15, and by `from` afterwards: what is less than most by 2^29 and more has fewer bits. */
struct half_scale {
  float to, from;
  INLINE_DEVICE explicit half_scale(float most)
  {
    enum { BIAS = 127, TOP = 14, MANTISSA = 23 };
    uint32_t exponent = bits_of(most) >> MANTISSA;
    exponent = exponent > TOP ? exponent : TOP + 1;
    to = float_of(2 * BIAS + TOP - exponent << MANTISSA),
    from = float_of(exponent - TOP << MANTISSA);
  }
};
template <int TILES> INLINE_DEVICE float largest_of(const float (&sums)[TILES][4])
{
  float most = 0;
#pragma unroll
  for (int n = 0; n < TILES; n++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      most = fmaxf(most, fabsf(sums[n][e]));
  return most;
}

/* Both parts of a number; with one product its nearest tf32: computed, as above. */
template <int PRODUCTS> struct parts {
  float big, small;
  INLINE_DEVICE explicit parts(float x) : small(0)
  {
    uint32_t nearest = bits_of(x) + 0x1000u;
    big = float_of(PRODUCTS == 3 ? nearest & 0xffffe000u : nearest);
    if (PRODUCTS == 3)
      small = x - big;
  }
};

/* Two numbers that were loaded side by side: cut off by the hardware, not rounded. */
template <int PRODUCTS> struct loaded_pair {
  float big[2], small[2];
  INLINE_DEVICE loaded_pair(float x, float y)
  {
    if (PRODUCTS == 3) {
      parts<3> a(x), b(y);
      big[0] = a.big, big[1] = b.big, small[0] = a.small, small[1] = b.small;
    } else {
      big[0] = x, big[1] = y;
    }
  }
};
template <int PRODUCTS> struct computed_pair {
  float big[2], small[2];
  INLINE_DEVICE computed_pair(float x, float y)
  {
    parts<PRODUCTS> a(x), b(y);
    big[0] = a.big, big[1] = b.big, small[0] = a.small, small[1] = b.small;
  }
};

/* Eight terms of 16 rows, in the order of mma's registers. */
template <int PRODUCTS> struct left {
  float big[4], small[4];
  INLINE_DEVICE void set(int i, float x)
  {
    parts<PRODUCTS> p(x);
    big[i] = p.big, small[i] = p.small;
  }
};

template <int PRODUCTS, class PAIR>
INLINE_DEVICE void multiply_add(float (&sums)[4], const left<PRODUCTS> &a, const PAIR &b)
{
  if (PRODUCTS == 3) {
    mma(sums, a.small, b.big[0], b.big[1]);
    mma(sums, a.big, b.small[0], b.small[1]);
  }
  mma(sums, a.big, b.big[0], b.big[1]);
}

/* ---- products of tiles ---- */

/* Rows of a tile from `first` on, a multiple of 8, as columns of the right operand: those of tile
 * n.  Four terms from 16 step + 4 t on. */
template <int LD> struct plain_rows {
  tile<LD> of;
  int first;
  INLINE_DEVICE float4 operator()(int n, int step) const
  {
    return of.four(first + 8 * n, lane_row(), step / 2 * 8, step % 2 * 4 + lane_pair());
  }
};

/* sums += a b over TERMS terms, a multiple of 16: rows of a from row0 on, columns of b. */
template <int PRODUCTS, int TERMS, int TILES, int LD, class B>
INLINE_DEVICE void multiply_rows(float (&sums)[TILES][4], tile<LD> a, int row0, B b)
{
#pragma unroll(TILES < 8 ? 4 : 2)
  for (int step = 0; step < TERMS / 16; step++) {
    int c0 = step / 2 * 8, c = step % 2 * 4 + lane_pair();
    float4 upper = a.four(row0, lane_row(), c0, c), lower = a.four(row0 + 8, lane_row(), c0, c);
    left<PRODUCTS> one, other;
    one.set(0, upper.x), one.set(1, lower.x), one.set(2, upper.y), one.set(3, lower.y);
    other.set(0, upper.z), other.set(1, lower.z), other.set(2, upper.w), other.set(3, lower.w);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      float4 right = b(n, step);
      multiply_add(sums[n], one, loaded_pair<PRODUCTS>(right.x, right.y));
      multiply_add(sums[n], other, loaded_pair<PRODUCTS>(right.z, right.w));
    }
  }
}

struct no_factors {
  INLINE_DEVICE float2 operator()(int) const
  {
    float2 ones;
    ones.x = ones.y = 1;
    return ones;
  }
};

/* A left operand whose terms k0 + 2 t and k0 + 2 t + 1 are rows of a tile, each times its factor;
 * columns column0 + 2 g and column0 + 2 g + 1 are rows g and g + 8; column0 is a multiple of 16. */
template <int LD, class F> struct left_pairs {
  tile<LD> of;
  int column0;
  F factors;
  template <int PRODUCTS> INLINE_DEVICE void get(int k0, left<PRODUCTS> &a) const
  {
    int k = 2 * lane_pair(), m = 2 * lane_row();
    float2 f = factors(k0 + k), even = of.two(k0, k, column0, m),
           odd = of.two(k0, k + 1, column0, m);
    a.set(0, even.x * f.x), a.set(1, even.y * f.x), a.set(2, odd.x * f.y), a.set(3, odd.y * f.y);
  }
};

/* sums (GROUPED) += a b over the eight terms from k0 on, which are rows of b, whose columns start
 * at column0, a multiple of 32. */
template <int PRODUCTS, int TILES, int LD>
INLINE_DEVICE void add_terms(float (&sums)[TILES][4], const left<PRODUCTS> &a, int k0, tile<LD> b,
                             int column0)
{
#pragma unroll
  for (int J = 0; J < TILES / 4; J++) {
    int c0 = column0 / 4 + 8 * J, c = four_of_slot(lane_row()), k = 2 * lane_pair();
    float4 even = b.four(k0, k, c0, c), odd = b.four(k0, k + 1, c0, c);
    multiply_add(sums[4 * J], a, computed_pair<PRODUCTS>(even.x, odd.x));
    multiply_add(sums[4 * J + 1], a, computed_pair<PRODUCTS>(even.y, odd.y));
    multiply_add(sums[4 * J + 2], a, computed_pair<PRODUCTS>(even.z, odd.z));
    multiply_add(sums[4 * J + 3], a, computed_pair<PRODUCTS>(even.w, odd.w));
  }
}

/* ---- products whose left operand lies across: rows of it are columns of a tile ----
 *
 * Terms are rows of that tile, whose columns come in pairs: lane 4 g + t holds of sums
 *   PAIRED  sums[TILES m + n][e] = element (16 m + 2 s + e/2, 8 n + 2 t + e%2)
 * where s = 0, 2, 1, 3, 4, 6, 5, 7 (`own_pair`), so that rows of a tile in this order lie in all
 * banks, too.  What is loaded is where mma has it, and is cut off; the other operand is rounded. */

INLINE_DEVICE int own_pair(void)
{
  int g = lane_row();
  return (g & 4) | (g & 1) << 1 | (g >> 1 & 1);
}

/* Columns m0 + 2 s and the next of row r0 + r: m0 a multiple of 16, r0 of 8, r < 8. */
template <int LD> INLINE_DEVICE float2 column_pair(tile<LD> of, int r0, int r, int m0)
{
  int s = own_pair();
  return *(float2 *)(of.place(r0, r, m0 / 4 & ~7, (m0 / 4 & 4) + s / 2) + s % 2 * 2);
}

/* Terms k0 to k0 + 7: columns of a from column0 on, a multiple of 16, and the first COUNT tiles. */
template <int PRODUCTS, int M, int TILES, int LD, class B>
INLINE_DEVICE void add_terms_across(float (&sums)[M * TILES][4], tile<LD> a, int column0, int k0,
                                    B b, int count)
{
  left<PRODUCTS> terms[M];
#pragma unroll
  for (int m = 0; m < M; m++) {
    float2 even = column_pair(a, k0, 2 * lane_pair(), column0 + 16 * m);
    float2 odd = column_pair(a, k0, 2 * lane_pair() + 1, column0 + 16 * m);
    float loaded[4] = {even.x, even.y, odd.x, odd.y};
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (PRODUCTS == 3)
        terms[m].set(i, loaded[i]);
      else
        terms[m].big[i] = loaded[i];
  }
#pragma unroll
  for (int n = 0; n < TILES; n++)
    if (n < count) {
      auto pair = b.template get<PRODUCTS>(n, k0);
#pragma unroll
      for (int m = 0; m < M; m++)
        multiply_add(sums[TILES * m + n], terms[m], pair);
    }
}

/* sums (PAIRED) += a' b over STEPS times 8 terms from row 0 on. */
template <int PRODUCTS, int M, int TILES, int STEPS, int LD, class B>
INLINE_DEVICE void multiply_across(float (&sums)[M * TILES][4], tile<LD> a, int column0, B b)
{
#pragma unroll
  for (int step = 0; step < STEPS; step++)
    add_terms_across<PRODUCTS, M, TILES>(sums, a, column0, 8 * step, b, TILES);
}

/* Right operands of it, terms k0 + 2 t and the next of column 8 n + g: rows of a tile from `first`
 * on, a multiple of 8; the same of numbers that were rounded when they were stored; columns of a
 * tile, rounded before. */
template <int LD> struct right_rows {
  tile<LD> of;
  int first;
  template <int PRODUCTS> INLINE_DEVICE computed_pair<PRODUCTS> get(int n, int k0) const
  {
    float2 two = of.two(first + 8 * n, lane_row(), k0, 2 * lane_pair());
    return computed_pair<PRODUCTS>(two.x, two.y);
  }
};
template <int LD> struct rounded_rows {
  tile<LD> of;
  int first;
  template <int PRODUCTS> INLINE_DEVICE loaded_pair<PRODUCTS> get(int n, int k0) const
  {
    float2 two = of.two(first + 8 * n, lane_row(), k0, 2 * lane_pair());
    return loaded_pair<PRODUCTS>(two.x, two.y);
  }
};
template <int LD> struct rounded_columns {
  tile<LD> of;
  int first;
  template <int PRODUCTS> INLINE_DEVICE loaded_pair<PRODUCTS> get(int n, int k0) const
  {
    int k = 2 * lane_pair();
    return loaded_pair<PRODUCTS>(*of.one(k0, k, first + 8 * n, lane_row()),
                                 *of.one(k0, k + 1, first + 8 * n, lane_row()));
  }
};
template <int PRODUCTS> INLINE_DEVICE float rounded(float x)
{
  return PRODUCTS == 3 ? x : parts<PRODUCTS>(x).big;
}

/* sums (PAIRED) += a b': rows of a from row0 on, a multiple of 16, and columns of b. */
template <int PRODUCTS, int TERMS, int TILES, int LD, class B>
INLINE_DEVICE void multiply_paired_rows(float (&sums)[TILES][4], tile<LD> a, int row0, B b)
{
  int first = row0 + (2 * own_pair() & 8), r = 2 * own_pair() & 7;
#pragma unroll
  for (int step = 0; step < TERMS / 16; step++) {
    int c0 = step / 2 * 8, c = step % 2 * 4 + lane_pair();
    float4 even = a.four(first, r, c0, c), odd = a.four(first, r + 1, c0, c);
    left<PRODUCTS> one, other;
    one.set(0, even.x), one.set(1, odd.x), one.set(2, even.y), one.set(3, odd.y);
    other.set(0, even.z), other.set(1, odd.z), other.set(2, even.w), other.set(3, odd.w);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      float4 right = b(n, step);
      multiply_add(sums[n], one, loaded_pair<PRODUCTS>(right.x, right.y));
      multiply_add(sums[n], other, loaded_pair<PRODUCTS>(right.z, right.w));
    }
  }
}

/* ---- global memory ---- */

/* Copies into tiles (ROWS,LD), from `first` or from a distance to it: rows that are `apart`, which
 * start at multiples of 16 bytes; zeros beyond `columns`, a multiple of 4, and beyond `rows`.
 * THREADS of a block have one each, of what is this thread's: rows from `row` on (none, if its
 * columns are beyond). */
template <int THREADS, int ROWS, int LD> struct tile_copies {
  enum { FOURS = LD / 4, STEP = THREADS / FOURS, OFTEN = ROWS / STEP };
  const float *from;
  int64_t ld;
  int row, place;
  INLINE_DEVICE tile_copies(const float *first, int64_t apart, int columns,
                            int thread = (int)threadIdx.x)
      : ld(apart)
  {
    int r = thread / FOURS, c = thread % FOURS;
    from = first + r * ld + 4 * c;
    row = 4 * c < columns ? r : ROWS;
    place = r * LD + 4 * (c & ~7) + 4 * ((c & 7) ^ turn(r & 7));
  }
  /* WHOLE: all rows and columns are there, which takes fewer instructions */
  template <bool WHOLE = false>
  INLINE_DEVICE void copy(tile<LD> to, int64_t distance, int rows) const
  {
    const float *at = from + distance;
    int left = rows - row;
#pragma unroll
    for (int i = 0; i < OFTEN; i++) {
      /* rows that are 4 apart differ in the last bit of `turn` */
      float *here = to.at + (STEP % 8 == 0 ? place : place ^ (i % 2 * 16)) + i * STEP * LD;
      copy_16_bytes(here, at, WHOLE || i * STEP < left);
      at += STEP * ld;
    }
  }
};

/* Once. */
template <int THREADS, int ROWS, int LD>
INLINE_DEVICE void copy_tile(tile<LD> to, const float *from, int64_t ld, int rows, int columns)
{
  struct tile_copies<THREADS, ROWS, LD> once(from, ld, columns);
  if (rows == ROWS && columns == LD)
    once.template copy<true>(to, 0, rows);
  else
    once.copy(to, 0, rows);
}

/* Neighbouring numbers, to which beta times what is there is added. */
INLINE_DEVICE void put_two(float2 *to, float beta, float2 two)
{
  if (beta != 0) {
    float2 old = *to;
    two.x += beta * old.x, two.y += beta * old.y;
  }
  *to = two;
}
INLINE_DEVICE void put_four(float *to, float beta, float4 four)
{
  float4 *at = (float4 *)to;
  store_word(at, beta != 0 ? add_fours(four, beta, *at) : four); /* which stays whole */
}

/* ---- across lanes ---- */

/* Of all 32 lanes. */
template <class T> INLINE_DEVICE T sum_of_lanes(T x)
{
  for (int apart = 1; apart < WARP_LANES; apart *= 2)
    x += from_lane(x, apart);
  return x;
}

/* And the largest. */
INLINE_DEVICE float largest_of_lanes(float x)
{
  for (int apart = 1; apart < WARP_LANES; apart *= 2)
    x = fmaxf(x, from_lane(x, apart));
  return x;
}

/* The sum of the lanes before this one, and of all. */
template <class T> INLINE_DEVICE T sum_before(T x, T *all)
{
  T before = 0, total = x;
  for (int apart = 1; apart < WARP_LANES; apart *= 2) {
    T other = from_lane(total, apart);
    before += threadIdx.x & (unsigned)apart ? other : 0;
    total += other;
  }
  *all = total;
  return before;
}

/* The sums of the lanes before this one, after it, and of all, among every LANES_ of them. */
struct sums_around {
  float before, after, all;
};
template <int LANES_> INLINE_DEVICE struct sums_around sums_among(float x)
{
  struct sums_around s = {0, 0, x};
#pragma unroll
  for (int apart = 1; apart < LANES_; apart *= 2) {
    bool second = threadIdx.x & (unsigned)apart;
    float other = from_lane(s.all, apart);
    s.before += second ? other : 0;
    s.after += second ? 0 : other;
    s.all += other;
  }
  return s;
}

/* v[i], summed over the 8 lanes of the same pair: lane (g,t) gets that of i = COUNT g / 8. */
template <int COUNT> INLINE_DEVICE float sum_over_rows(const float (&v)[COUNT])
{
  float part[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    part[i] = v[i];
#pragma unroll
  for (int bit = 4, count = COUNT; bit > 0; bit /= 2) {
    bool second = lane_row() & bit;
    if (count == 1) {
      part[0] += from_lane(part[0], 4 * bit);
      continue;
    }
    count /= 2;
#pragma unroll
    for (int i = 0; i < COUNT / 2; i++)
      if (i < count) {
        float mine = second ? part[count + i] : part[i], other = second ? part[i] : part[count + i];
        part[i] = mine + from_lane(other, 4 * bit);
      }
  }
  return part[0];
}
#endif
