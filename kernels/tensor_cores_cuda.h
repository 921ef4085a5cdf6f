/* tensor_cores_cuda.h: float32 products of tiles in shared memory by the tensor cores.
 *
 * A warp multiplies 16 rows by 8 columns and 8 terms at a time (mma.m16n8k8), whose operands are
 * tf32: float32 with 10 bits behind the point.  With PRODUCTS = 3 an operand is the sum of two of
 * them, x = big + small, and  a b = small big + big small + big big  keeps float32's precision.
 *
 * Who holds what: lane = 4 g + t has of its warp's tile (16, 8 TILES)
 *   sums[n][e] = element (g + 8 (e / 2), 8 n + 2 t + e % 2).
 *
 * Tiles lie in shared memory in rows of LD floats, a multiple of 32, the columns of row r swizzled:
 * groups of four change places by r % 8.  The 32 lanes then find what they need for a product in 32
 * banks, whether they go along the rows (PLAIN: terms t and t + 4 of eight) or across them (PAIRED:
 * terms 2 t and 2 t + 1; which terms share a step does not matter to their sum).
 *
 * References: PTX ISA, "mma.m16n8k8"; Ootomo & Yokota 2022, arXiv:2203.03341 (three products). */
#ifndef KERNELS_TENSOR_CORES_CUDA_H
#define KERNELS_TENSOR_CORES_CUDA_H
#include "core/launch.h"

enum { PLAIN, PAIRED };
enum { WARP_LANES = 32 }; /* on the stand-in, too: WARP is less there */

/* ---- tiles ---- */

/* Row r0 + r, column c0 + c, where r0 and c0 are multiples of 8 and r, c < 8. */
template <int LD> struct tile {
  float *at;
  INLINE_DEVICE int place(int r0, int r, int c0, int c) const
  {
    int within = ((c0 & 24) | c) ^ (r << 2); /* of 32: the same for every fourth tile */
    return (r0 + r) * LD + (c0 & ~31) + within;
  }
  INLINE_DEVICE float &operator()(int r0, int r, int c0, int c) const
  {
    return at[place(r0, r, c0, c)];
  }
  INLINE_DEVICE float &operator()(int r, int c) const
  {
    return at[place(r & ~7, r & 7, c & ~7, c & 7)];
  }
};

/* An operand gives term k0 + k of row (A) or column (B) m0 + m: a tile's row, or its column. */
template <int LD> struct rows_of {
  tile<LD> of;
  INLINE_DEVICE float operator()(int m0, int m, int k0, int k) const { return of(m0, m, k0, k); }
};
template <int LD> struct columns_of {
  tile<LD> of;
  INLINE_DEVICE float operator()(int m0, int m, int k0, int k) const { return of(k0, k, m0, m); }
};

INLINE_DEVICE int lane_row(void) { return (int)threadIdx.x % WARP_LANES / 4; }
INLINE_DEVICE int lane_pair(void) { return (int)threadIdx.x % 4; }

template <int TILES> INLINE_DEVICE void clear_sums(float (&sums)[TILES][4])
{
#pragma unroll
  for (int n = 0; n < TILES; n++)
    for (int e = 0; e < 4; e++)
      sums[n][e] = 0;
}

/* ---- products ---- */

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
template <int PRODUCTS> struct parts {
  uint32_t big, small;
  /* to the nearest tf32; what the hardware does not read of big stays */
  __device__ explicit parts(float x) : big(bits_of(x) + 0x1000u), small(0)
  {
    if (PRODUCTS == 3) {
      big &= 0xffffe000u;
      small = bits_of(x - float_of(big));
    }
  }
};

static __device__ __forceinline__ void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                           uint32_t a3, uint32_t b0, uint32_t b1)
{
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* sums += a b over the terms from `first` to `end`, multiples of 8. */
template <int PRODUCTS, int ORDER, int TILES, class A, class B>
static __device__ __forceinline__ void multiply(float (&sums)[TILES][4], int first, int end, A a,
                                                B b)
{
  typedef parts<PRODUCTS> part;
  int g = lane_row(), t = lane_pair();
  int k = ORDER == PAIRED ? 2 * t : t, l = ORDER == PAIRED ? 2 * t + 1 : t + 4;
#pragma unroll(TILES < 8 ? 4 : 2)
  for (int k0 = first; k0 < end; k0 += 8) {
    part a0(a(0, g, k0, k)), a1(a(8, g, k0, k)), a2(a(0, g, k0, l)), a3(a(8, g, k0, l));
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      part b0(b(8 * n, g, k0, k)), b1(b(8 * n, g, k0, l));
      if (PRODUCTS == 3) {
        mma(sums[n], a0.small, a1.small, a2.small, a3.small, b0.big, b1.big);
        mma(sums[n], a0.big, a1.big, a2.big, a3.big, b0.small, b1.small);
      }
      mma(sums[n], a0.big, a1.big, a2.big, a3.big, b0.big, b1.big);
    }
  }
}

/* 16 bytes of global memory to shared memory, behind this thread's back; 16 zeros unless `there` */
static __device__ __forceinline__ void copy_16_bytes(float *to, const float *from, bool there)
{
  unsigned at = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
               "r"(there ? 16 : 0));
}
/* Copies since the last call are one batch; all but the last LEFT batches have arrived. */
static __device__ __forceinline__ void end_batch(void) { asm volatile("cp.async.commit_group;"); }
template <int LEFT> static __device__ __forceinline__ void await_batches(void)
{
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
#else /* tests/emulation, and not in turns: each lane adds up what it holds */
INLINE_DEVICE float tf32(float x) { return float_of((bits_of(x) + 0x1000u) & 0xffffe000u); }

template <int PRODUCTS, int ORDER, int TILES, class A, class B>
void multiply(float (&sums)[TILES][4], int first, int end, A a, B b)
{
  int g = lane_row(), t = lane_pair();
  for (int n = 0; n < TILES; n++)
    for (int e = 0; e < 4; e++)
      for (int k = first; k < end; k++) {
        float x = a(e / 2 * 8, g, k & ~7, k & 7), y = b(8 * n, 2 * t + e % 2, k & ~7, k & 7);
        sums[n][e] += PRODUCTS == 3 ? x * y : tf32(x) * tf32(y);
      }
}

INLINE_DEVICE void copy_16_bytes(float *to, const float *from, bool there)
{
  for (int i = 0; i < 4; i++)
    to[i] = there ? from[i] : 0;
}
INLINE_DEVICE void end_batch(void) {}
template <int LEFT> void await_batches(void) {}
#endif

/* ---- global memory ---- */

/* to (ROWS,LD) = from, `rows` rows of `columns` that are `ld` apart; zeros beyond.  Rows start at
 * multiples of 16 bytes, and columns are a multiple of 4. */
template <int ROWS, int LD>
INLINE_DEVICE void copy_tile(tile<LD> to, const float *from, int64_t ld, int rows, int columns)
{
  for (int i = (int)threadIdx.x; i < ROWS * (LD / 4); i += (int)blockDim.x) {
    int r = i / (LD / 4), c = i % (LD / 4) * 4;
    bool there = r < rows && c < columns;
    copy_16_bytes(&to(r, c), there ? from + r * ld + c : from, there);
  }
}

/* Two neighbouring numbers, to which beta times what is there is added. */
INLINE_DEVICE void put_pair(float *to, float beta, float x, float y)
{
  float2 *pair = (float2 *)to, sum;
  sum.x = x, sum.y = y;
  if (beta != 0) {
    float2 old = *pair;
    sum.x += beta * old.x, sum.y += beta * old.y;
  }
  *pair = sum;
}

/* ---- sums across lanes ---- */

/* Of all 32 lanes. */
template <class T> INLINE_DEVICE T sum_of_lanes(T x)
{
  for (int apart = 1; apart < WARP_LANES; apart *= 2)
    x += from_lane(x, apart);
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
#endif
