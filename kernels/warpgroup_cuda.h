/* warpgroup_cuda.h: products of tiles in shared memory by the tensor cores of compute capability
 * 9.0, whose four warps of 128 neighbouring threads multiply 64 rows at a time (wgmma, tf32).
 *
 * Lane 4 g + t of warp w holds of sums (64,8 TILES)
 *   sums[n][e] = element (16 w + g + 8 (e/2), 8 n + 2 t + e%2)
 * and, where the left operand lies in registers, terms t and t + 4 of rows g and g + 8 as mma does
 * (tensor_cores_cuda.h).  What lies in shared memory is cut off to tf32, not rounded.
 *
 * Operands in shared memory are rows of 32 terms, a panel, one panel behind the other; the fours of
 * a row change places by its number (the 128-byte swizzle).  They start at multiples of 1024 bytes.
 *
 * A product runs on behind the threads' backs: begin_products, products, end_products, and
 * await_products before sums or operands are touched.  What threads have stored is shown to it by
 * show_to_products, and a barrier behind that.
 *
 * Whole blocks of memory are copied by copy_block, and who waits for them, or for threads, does so
 * by a signal, which is given once so many arrivals and bytes are there, and is then the next: its
 * uses are numbered from 0.
 *
 * References: PTX ISA, "wgmma.mma_async", "Shared Memory Matrix Layout", "matrix-descriptor",
 * "mbarrier", "cp.async.bulk". */
#ifndef KERNELS_WARPGROUP_CUDA_H
#define KERNELS_WARPGROUP_CUDA_H
#include "kernels/tensor_cores_cuda.h"

enum { PANEL = 32, GROUP_LANES = 128 };

#if defined(__NVCC__) && !defined(WARPGROUPED)
#error "the Makefile does not name this source in WARPGROUPED"
#endif
/* Whether this compilation has the instructions: elsewhere such kernels are empty, and are not
 * started (device.warpgroups). */
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WARPGROUPS 1
#else
#define HAS_WARPGROUPS 0
#endif

/* What follows from i is computed anew behind this: few registers are to keep it. */
#ifdef __NVCC__
INLINE_DEVICE void keep_little(int &i) { asm volatile("" : "+r"(i)); }
INLINE_DEVICE void keep_little(int64_t &i) { asm volatile("" : "+l"(i)); }
INLINE_DEVICE void keep_little(const float *&at) { asm volatile("" : "+l"(at)); }
#else
template <class T> void keep_little(T &) {}
#endif

/* (ROWS, any number of panels) */
template <int ROWS> struct panels {
  float *at;
  /* Columns 4 c to 4 c + 3 of row r. */
  INLINE_DEVICE static int offset(int r, int c)
  {
    return (c / 8 * ROWS + r) * PANEL + 4 * ((c ^ r) & 7);
  }
  INLINE_DEVICE float *place(int r, int c) const { return at + offset(r, c); }
  INLINE_DEVICE float4 &four(int r, int c) const { return *(float4 *)place(r, c); }
};

/* Copies of rows as tile_copies makes them, into panels of (ROWS,LD). */
template <int THREADS, int ROWS, int LD> struct panel_copies {
  enum { FOURS = LD / 4, STEP = THREADS / FOURS, OFTEN = ROWS / STEP };
  const float *from;
  int64_t ld;
  int row, place;
  INLINE_DEVICE panel_copies(const float *first, int64_t apart, int columns, int thread) : ld(apart)
  {
    int r = thread / FOURS, c = thread % FOURS; /* r < STEP, a power of 2 */
    from = first + r * ld + 4 * c;
    row = 4 * c < columns ? r : ROWS;
    place = panels<ROWS>::offset(r, c);
  }
  INLINE_DEVICE void copy(panels<ROWS> to, int64_t distance, int rows) const
  {
    const float *at = from + distance;
    int left = rows - row;
#pragma unroll
    for (int i = 0; i < OFTEN; i++) {
      float *here = to.at + (place ^ (i * STEP & 7) * 4) + i * STEP * PANEL;
      copy_16_bytes(here, at, i * STEP < left);
      at += STEP * ld;
    }
  }
  /* The same of fewer threads, in a loop of few registers: rows of an eight at a time, of all
   * eights, which go where `place_of` has them. */
  template <class PLACE>
  INLINE_DEVICE void copy_by_eights(panels<ROWS> to, int64_t distance, int rows,
                                    PLACE place_of) const
  {
    const float *first = from + distance;
    int left = rows - row;
#pragma unroll 1
    for (int r = 0; r < 8; r += STEP, left -= STEP, first += STEP * ld) {
      const float *at = first;
      float *here = to.at + (place ^ r * 4) + r * PANEL;
#pragma unroll
      for (int a = 0; a < ROWS / 8; a++, at += 8 * ld) {
        keep_little(at);
        copy_16_bytes(here + place_of(a) * (8 * PANEL), at, 8 * a < left);
      }
    }
  }
};

#ifdef __NVCC__
/* Eight terms of rows of a panel: the lower half of what the hardware calls a descriptor; the upper
 * one says how eight rows follow each other, and how fours change places. */
struct operand {
  uint32_t low;
  INLINE_DEVICE operand behind(int floats) const { return {low + (uint32_t)floats / 4}; }
};
INLINE_DEVICE operand operand_at(const float *at)
{
  uint32_t address = (uint32_t)__cvta_generic_to_shared(at);
  return {
      __shfl_sync(0xffffffffu, (address & 0x3ffff) >> 4 | 1 << 16, 0)}; /* the same of all lanes */
}

/* copy_16_bytes, with which the 256 bytes around them come to L2: for who reads a little of many
 * rows at a time, and soon what follows. */
INLINE_DEVICE void copy_16_of_256_bytes(float *to, const float *from, bool there)
{
  unsigned at = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

/* What is soon to be read comes to L2: the 128 bytes around `at`; a multiple of 16 bytes. */
INLINE_DEVICE void prefetch(const float *at)
{
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(at)));
}
INLINE_DEVICE void prefetch_block(const float *from, int bytes)
{
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)),
               "r"(bytes)
               : "memory");
}

INLINE_DEVICE void begin_products(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE_DEVICE void end_products(void)
{
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All but the last LEFT batches between begin_products and end_products are done. */
template <int LEFT> INLINE_DEVICE void await_products(void)
{
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
INLINE_DEVICE void show_to_products(void)
{
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* All THREADS of the block, whose warps may be at different places of the program. */
template <int THREADS> INLINE_DEVICE void await_block(void)
{
  asm volatile("barrier.sync 0, %0;" ::"n"(THREADS) : "memory");
}
/* Barriers 1 to 15 of THREADS, some of which may only arrive; those who wait are at one place. */
template <int WHICH, int THREADS> INLINE_DEVICE void await_barrier(void)
{
  asm volatile("bar.sync %0, %1;" ::"n"(WHICH), "n"(THREADS) : "memory");
}
template <int WHICH, int THREADS> INLINE_DEVICE void arrive_at_barrier(void)
{
  asm volatile("bar.arrive %0, %1;" ::"n"(WHICH), "n"(THREADS) : "memory");
}
template <int COUNT> INLINE_DEVICE void take_registers(void)
{
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> INLINE_DEVICE void leave_registers(void)
{
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* Sums are not moved past this. */
template <int TILES> INLINE_DEVICE void settle_sums(float (&sums)[TILES][4])
{
#pragma unroll
  for (int n = 0; n < TILES; n++)
    asm volatile("" : "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3]));
}

#define SUMS_8(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SUMS_32(n) SUMS_8(n), SUMS_8(n + 1), SUMS_8(n + 2), SUMS_8(n + 3)
#define NAMES_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_64 NAMES_32 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_128                                                                              \
  NAMES_64 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
           "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES_256                                                                                 \
  NAMES_128                                                                                       \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86," \
  "%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,"  \
  "%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,"    \
  "%126,%127"
#define WGMMA(n, names, left, a, b, adds)                                                      \
  "{.reg .pred p; .reg .b64 left, right; mov.b64 right, {" b ", 0x40000040};" left             \
  "setp.ne.b32 p, " adds ", 0; wgmma.mma_async.sync.aligned.m64n" n "k8.f32.tf32.tf32 {" names \
  "}, " a ", right, p, 1, 1;}"
#define LEFT_WORDS "r"(bits_of(a[0])), "r"(bits_of(a[1])), "r"(bits_of(a[2])), "r"(bits_of(a[3]))

/* d = (adds ? d : 0) + a b: the left operand's terms in registers, or in shared memory. */
INLINE_DEVICE void group_mma(float (&d)[8][4], const float (&a)[4], operand b, bool adds)
{
  asm volatile(WGMMA("64", NAMES_64, "", "{%32,%33,%34,%35}", "%36", "%37")
               : SUMS_32(0), SUMS_32(4)
               : LEFT_WORDS, "r"(b.low), "r"((int)adds));
}
INLINE_DEVICE void group_mma(float (&d)[16][4], const float (&a)[4], operand b, bool adds)
{
  asm volatile(WGMMA("128", NAMES_128, "", "{%64,%65,%66,%67}", "%68", "%69")
               : SUMS_32(0), SUMS_32(4), SUMS_32(8), SUMS_32(12)
               : LEFT_WORDS, "r"(b.low), "r"((int)adds));
}
INLINE_DEVICE void group_mma(float (&d)[32][4], const float (&a)[4], operand b, bool adds)
{
  asm volatile(WGMMA("256", NAMES_256, "", "{%128,%129,%130,%131}", "%132", "%133")
               : SUMS_32(0), SUMS_32(4), SUMS_32(8), SUMS_32(12), SUMS_32(16), SUMS_32(20),
                 SUMS_32(24), SUMS_32(28)
               : LEFT_WORDS, "r"(b.low), "r"((int)adds));
}
INLINE_DEVICE void group_mma(float (&d)[8][4], operand a, operand b, bool adds)
{
  asm volatile(WGMMA("64", NAMES_64, "mov.b64 left, {%32, 0x40000040};", "left", "%33", "%34")
               : SUMS_32(0), SUMS_32(4)
               : "r"(a.low), "r"(b.low), "r"((int)adds));
}
/* Of sixteen terms a step in half precision, both operands in shared memory: rows of 64 terms, a
 * panel of as many bytes. */
INLINE_DEVICE void group_mma_of_halves(float (&d)[8][4], operand a, operand b, bool adds)
{
  asm volatile("{.reg .pred p; .reg .b64 left, right; mov.b64 left, {%32, 0x40000040}; "
               "mov.b64 right, {%33, 0x40000040}; setp.ne.b32 p, %34, 0; "
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" NAMES_64
               "}, left, right, p, 1, 1, 0, 0;}"
               : SUMS_32(0), SUMS_32(4)
               : "r"(a.low), "r"(b.low), "r"((int)adds));
}
#undef SUMS_8
#undef SUMS_32
#undef NAMES_32
#undef NAMES_64
#undef NAMES_128
#undef NAMES_256
#undef WGMMA
#undef LEFT_WORDS

/* ---- signals, and copies that give them ---- */

INLINE_DEVICE unsigned shared_address(const void *at)
{
  return (unsigned)__cvta_generic_to_shared(at);
}
/* By one thread; all wait at a barrier before others use it. */
INLINE_DEVICE void make_signal(uint64_t *signal, int arrivals)
{
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1; fence.mbarrier_init.release.cluster; "
               "fence.proxy.async.shared::cta;" ::"r"(shared_address(signal)),
               "r"(arrivals)
               : "memory");
}
/* One arrival, if this thread is one that `arrives`. */
INLINE_DEVICE void arrive(uint64_t *signal, bool arrives)
{
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %1, 0; @p mbarrier.arrive.shared::cta.b64 _, [%0];}" ::"r"(
          shared_address(signal)),
      "r"((int)arrives)
      : "memory");
}
/* Until use `use` of the signal has been given. */
INLINE_DEVICE void await_signal(uint64_t *signal, int use)
{
  unsigned given;
  do
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p;}"
                 : "=r"(given)
                 : "r"(shared_address(signal)), "r"(use & 1)
                 : "memory");
  while (!given);
}
/* `bytes` of global memory to shared memory, a multiple of 16 from one on; behind such copies there
 * is one arrival for all of them. */
INLINE_DEVICE void copy_part(float *to, const float *from, int bytes, uint64_t *signal)
{
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(signal))
      : "memory");
}
INLINE_DEVICE void arrive_with_block(int bytes, uint64_t *signal)
{
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%1], %0;" ::"r"(bytes),
               "r"(shared_address(signal))
               : "memory");
}
#else /* tests/emulation */
struct operand {
  const float *at;
  operand behind(int floats) const { return {at + floats}; }
};
INLINE_DEVICE operand operand_at(const float *at) { return {at}; }
INLINE_DEVICE void copy_16_of_256_bytes(float *to, const float *from, bool there)
{
  copy_16_bytes(to, from, there);
}
INLINE_DEVICE void prefetch(const float *) {}
INLINE_DEVICE void prefetch_block(const float *, int) {}
INLINE_DEVICE void begin_products(void) {}
INLINE_DEVICE void end_products(void) { emulated_end_products(); }
template <int LEFT> void await_products(void) { emulated_await_products(LEFT); }
INLINE_DEVICE void show_to_products(void) { emulated_show(); }
template <int THREADS> void await_block(void) { __syncthreads(); }
template <int WHICH, int THREADS> void await_barrier(void)
{
  emulated_barrier(WHICH, THREADS, true);
}
template <int WHICH, int THREADS> void arrive_at_barrier(void)
{
  emulated_barrier(WHICH, THREADS, false);
}
template <int COUNT> void take_registers(void) {}
template <int COUNT> void leave_registers(void) {}
template <int TILES> void settle_sums(float (&)[TILES][4]) {}
template <int TILES> void group_mma(float (&d)[TILES][4], const float (&a)[4], operand b, bool adds)
{
  emulated_group_mma(8 * TILES, d[0], a, NULL, b.at, adds);
}
template <int TILES> void group_mma(float (&d)[TILES][4], operand a, operand b, bool adds)
{
  emulated_group_mma(8 * TILES, d[0], NULL, a.at, b.at, adds);
}
INLINE_DEVICE void group_mma_of_halves(float (&d)[8][4], operand a, operand b, bool adds)
{
  emulated_group_mma(64, d[0], NULL, a.at, b.at, adds, true);
}
INLINE_DEVICE void make_signal(uint64_t *signal, int arrivals)
{
  emulated_make_signal(signal, arrivals);
}
INLINE_DEVICE void arrive(uint64_t *signal, bool arrives)
{
  if (arrives)
    emulated_arrive(signal);
}
INLINE_DEVICE void await_signal(uint64_t *signal, int use) { emulated_await_signal(signal, use); }
INLINE_DEVICE void copy_part(float *to, const float *from, int bytes, uint64_t *signal)
{
  emulated_copy_part(to, from, bytes, signal);
}
INLINE_DEVICE void arrive_with_block(int bytes, uint64_t *signal)
{
  emulated_arrive_with_block(bytes, signal);
}
#endif

/* How many registers the threads of each warpgroup of a block have, once each of its warpgroups has
 * come to its `begin`.  What some give up others take: of an equal share of 64K each at first, and
 * whoever takes more waits for ever. */
template <int... OF_GROUPS> struct warpgroup_registers {
  enum {
    GROUPS = (int)sizeof...(OF_GROUPS),
    AT_FIRST = 65536 / ((int)GROUPS * GROUP_LANES) / 8 * 8
  };
  static_assert((OF_GROUPS + ...) <= (int)AT_FIRST * (int)GROUPS, "more than the block has");
  template <int COUNT> INLINE_DEVICE static void begin(void)
  {
    static_assert(((COUNT == OF_GROUPS) || ...), "no warpgroup's");
    if constexpr (COUNT > AT_FIRST)
      take_registers<COUNT>();
    else
      leave_registers<COUNT>();
  }
};

/* One copy, and its arrival. */
INLINE_DEVICE void copy_block(float *to, const float *from, int bytes, uint64_t *signal)
{
  copy_part(to, from, bytes, signal);
  arrive_with_block(bytes, signal);
}

/* A stage of a ring, and how often the ring was used before. */
template <int STAGES> struct ring_place {
  int stage, use;
  INLINE_DEVICE void step(void)
  {
    bool around = stage == STAGES - 1;
    stage = around ? 0 : stage + 1;
    use += around;
  }
};

/* Terms 8 k to 8 k + 7 of (ROWS, any number of panels) that start at `first`. */
template <int ROWS> INLINE_DEVICE operand terms_behind(operand first, int k)
{
  return first.behind(k / 4 * ROWS * PANEL + k % 4 * 8);
}
#endif
