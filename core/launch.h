/* launch.h: one loop, two machines.  A KERNEL runs on the CPU or on the GPU; LAUNCH starts it.
 *
 *   KERNEL scale(int64_t n, real a, real *x) { FOR_EACH (i, n) x[i] *= a; }
 *   LAUNCH(st, n, scale, n, a, x);
 *
 * FOR_EACH's indices are independent: no index reads what another writes.  On the CPU they are
 * shared among threads; a sum never crosses an index, so results do not depend on their number.
 * Where an index is a row of columns, and sums over it are wanted, a warp of the GPU takes it, a
 * lane every WARP-th column, so that neighbouring lanes read neighbouring columns:
 *
 *   FOR_EACH_ROW (i, n, cost) { FOR_COLUMNS (j, 0, width) sum += ...; ROW_FOLD(sum, plus); ... }
 *   LAUNCH_ROWS(st, n, kernel, ...);
 *
 * ROW_FOLD gives every lane the sum of all of them, in an order that is always the same.  A lane
 * reads no column that another writes; of what a row has one, the lane of column 0 writes it
 * (OWNS_COLUMN(0)), and ROW_SYNC lies between that and the others' reading it.  On the CPU
 * FOR_COLUMNS is the plain loop, and there is nothing to fold.
 *
 * OP(x) is the name of x in this compilation: rmsnorm_fwd_cpu_f32, _cpu_v4_f32 (AVX-512),
 * _cuda_f32.
 */
#ifndef CORE_LAUNCH_H
#define CORE_LAUNCH_H
#include "core/real.h"

typedef void *stream; /* the plug-in's device on the GPU (kernels/device_cuda.h), NULL on the CPU */

#define PRAGMA(x) _Pragma(#x)
#ifdef __CUDACC__
#define OP(x) NAME(CONCAT(x, _cuda))
#define KERNEL static __global__ void
#define INLINE static __host__ __device__ __attribute__((unused)) inline
#define INLINE_DEVICE __device__ __forceinline__
#define FOR_EACH(i, n)                                                      \
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); \
       i += (int64_t)gridDim.x * blockDim.x)
#define FOR_EACH_COST(i, n, cost) FOR_EACH (i, n)
#define FOR_EACH_SIMD(i, n) FOR_EACH (i, n)
/* Where the threads of a block work on one index together: BLOCK_KERNEL, FOR_EACH_BLOCK and
 * LAUNCH_BLOCKS in the place of the others.  On the CPU they are the same. */
#define BLOCK_KERNEL static __global__ void __launch_bounds__(BLOCK_THREADS)
#define FOR_EACH_BLOCK(i, n, cost) for (int64_t i = blockIdx.x; i < (n); i += gridDim.x)
enum { BLOCK_THREADS = 1024 };
#ifndef WARP /* fewer in tests/emulation, where the lanes of a warp take turns */
#define WARP 32
#endif
enum { ROWS_A_BLOCK = 4 };
#define FOR_EACH_ROW(i, n, cost)                                                     \
  for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP; i < (n); \
       i += (int64_t)gridDim.x * blockDim.x / WARP)
#define FOR_COLUMNS(j, first, end) for (int64_t j = (first) + lane(); j < (end); j += WARP)
#define ROW_FOLD(x, f)                               \
  do {                                               \
    for (int apart_ = WARP / 2; apart_; apart_ /= 2) \
      (x) = f((x), from_lane((x), apart_));          \
  } while (0)
#define SIMD
#define SIMD_SUM(...)
#ifndef LAUNCH_KERNEL /* tests/emulation runs the same code on the CPU */
#define LAUNCH_KERNEL(kernel, blocks, threads, queue) kernel<<<blocks, threads, 0, queue>>>
#define LAUNCH_BLOCK_KERNEL(kernel, blocks, threads, queue) kernel<<<blocks, threads, 0, queue>>>
#define LAUNCH_ROW_KERNEL(kernel, blocks, threads, queue) kernel<<<blocks, threads, 0, queue>>>
#endif
/* This thread's place in its warp; x of the lane whose place differs by the bit `apart`.  The
 * host's copies of such functions are never called. */
#if defined(__CUDA_ARCH__) || !defined(__NVCC__)
INLINE int lane(void) { return (int)(threadIdx.x % WARP); }
template <class T> INLINE T from_lane(T x, int apart)
{
  return __shfl_xor_sync(0xffffffffu, x, apart);
}
#else
INLINE int lane(void) { return 0; }
template <class T> INLINE T from_lane(T x, int) { return x; }
#endif
template <class T> INLINE T plus(T a, T b) { return a + b; }
#define ROW_SYNC __syncwarp()
#define OWNS_COLUMN(j) (lane() == (j) % WARP) /* whether this lane takes column j of a row */
/* The queue of a stream; and what records the first failed launch, which sync reports by its name.
 */
extern "C" cudaStream_t launch_queue(stream st);
extern "C" void launch_check(stream st, const void *function, const char *kernel, const char *file,
                             int line);
#define LAUNCH_GRID_(how, grid, threads, st, kernel, ...)                  \
  do {                                                                     \
    how(kernel, grid, (unsigned)(threads), launch_queue(st))(__VA_ARGS__); \
    launch_check(st, (const void *)(kernel), #kernel, __FILE__, __LINE__); \
  } while (0)
#define LAUNCH_AS_(how, per_block, threads, st, n, kernel, ...)                             \
  do {                                                                                      \
    int64_t launch_n_ = (n);                                                                \
    if (launch_n_ > 0) {                                                                    \
      int64_t blocks_ = (launch_n_ + (per_block)-1) / (per_block);                          \
      LAUNCH_GRID_(how, (unsigned)(blocks_ < 65535 ? blocks_ : 65535), threads, st, kernel, \
                   __VA_ARGS__);                                                            \
    }                                                                                       \
  } while (0)
#define LAUNCH(st, n, kernel, ...) LAUNCH_AS_(LAUNCH_KERNEL, 128, 128, st, n, kernel, __VA_ARGS__)
#define LAUNCH_ROWS(st, n, kernel, ...) \
  LAUNCH_AS_(LAUNCH_ROW_KERNEL, ROWS_A_BLOCK, ROWS_A_BLOCK *WARP, st, n, kernel, __VA_ARGS__)
#define LAUNCH_BLOCKS(st, n, kernel, ...) \
  LAUNCH_AS_(LAUNCH_BLOCK_KERNEL, 1, BLOCK_THREADS, st, n, kernel, __VA_ARGS__)
/* `n` blocks of `threads` with `bytes` of shared memory, which SHARED_FLOATS(name) names in the
 * kernel. */
#ifndef SHARED_FLOATS
#define SHARED_FLOATS(name) extern __shared__ __align__(1024) float name[]
#define LAUNCH_SHARED_KERNEL(kernel, blocks, threads, bytes, queue) \
  kernel<<<blocks, threads, bytes, queue>>>
#endif
#define LAUNCH_SHARED(st, n, threads, bytes, kernel, ...)                             \
  do {                                                                                \
    int64_t launch_n_ = (n);                                                          \
    if (launch_n_ > 0) {                                                              \
      (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, \
                                 (int)(bytes));                                       \
      LAUNCH_SHARED_KERNEL(kernel, (unsigned)(launch_n_ < 65535 ? launch_n_ : 65535), \
                           (unsigned)(threads), bytes, launch_queue(st))              \
      (__VA_ARGS__);                                                                  \
      launch_check(st, (const void *)(kernel), #kernel, __FILE__, __LINE__);          \
    }                                                                                 \
  } while (0)
#else
#ifndef ISA
#define ISA cpu
#endif
#define OP(x) NAME(CONCAT(x, CONCAT(_, ISA)))
#define KERNEL static void
#define INLINE static inline
#define FOR_EACH(i, n) PRAGMA(omp parallel for if((n) > 1)) \
  for (int64_t i = 0; i < (n); i++)
/* FOR_EACH where an index costs about `cost` operations: threads only where they gain time. */
#define FOR_EACH_COST(i, n, cost)                              \
  PRAGMA(omp parallel for if((n) > 1 && (n) * (cost) > 65536)) \
  for (int64_t i = 0; i < (n); i++)
/* Of few operations an index: a thread that sleeps takes longer to begin than 65536 of them do. */
#define FOR_EACH_SIMD(i, n)                                \
  PRAGMA(omp parallel for simd if(parallel : (n) > 65536)) \
  for (int64_t i = 0; i < (n); i++)
#define BLOCK_KERNEL KERNEL
#define FOR_EACH_BLOCK(i, n, cost) FOR_EACH_COST (i, n, cost)
#define LAUNCH_BLOCKS LAUNCH
#define FOR_EACH_ROW(i, n, cost) FOR_EACH_COST (i, n, cost)
#define FOR_COLUMNS(j, first, end) for (int64_t j = (first); j < (end); j++)
#define ROW_FOLD(x, f) ((void)0)
#define ROW_SYNC ((void)0)
#define LAUNCH_ROWS LAUNCH
#define OWNS_COLUMN(j) true
#define SIMD PRAGMA(omp simd)
#define SIMD_SUM(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#ifdef CHECK_DEVICE /* host code only: kernels may dereference */
#define LAUNCH(st, n, kernel, ...) ((void)(st), (void)(n), (void)&kernel)
#else
#define LAUNCH(st, n, kernel, ...) \
  do {                             \
    (void)(st);                    \
    if ((n) > 0)                   \
      kernel(__VA_ARGS__);         \
  } while (0)
#endif
#endif
#endif
