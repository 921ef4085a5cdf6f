/* cuda_runtime.h, a stand-in: as much of CUDA as the plug-in's sources use, run on the CPU, so that
 * they can be tested without a GPU.  A kernel's threads run one after the other, or, where they
 * wait for each other, in turns.  Device memory can be touched by kernels, copies and library calls
 * only: any other access is a segmentation fault.  Fresh memory, and what lies behind an
 * allocation, holds NaN; writing there aborts.
 *
 * What is launched, multiplied or copied within the device while a stream is captured is not run
 * but kept, with copies of its arguments; to copy from or to the host, to wait or to allocate
 * spoils the graph.
 *
 * Environment: EMULATED_DEVICES=0: there is no device; EMULATED_FAULT=n: the n-th launch fails;
 * EMULATED_OPEN: device memory is not closed, which is faster; EMULATED_GRAPHS=capture,
 * instantiate, update, or launch (one that is captured): that fails always; EMULATED_MAJOR and
 * EMULATED_SHARED: the compute capability's first number, and the shared memory of a block. */
#ifndef TESTS_EMULATION_CUDA_RUNTIME_H
#define TESTS_EMULATION_CUDA_RUNTIME_H
#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static /* one block runs at a time */

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
void emulated_alignment(const void *p, size_t bytes); /* aborts where a GPU would */
extern dim3 gridDim, blockDim, blockIdx, threadIdx;
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
template <class T> T __ldcg(const T *p)
{
  emulated_alignment(p, sizeof(T));
  return *p;
}
template <class T> void __stcg(T *p, T x)
{
  emulated_alignment(p, sizeof(T));
  *p = x;
}
void __syncthreads(void);
void __syncwarp(void);
double emulated_shuffle(double x, int apart); /* exact for whatever crosses lanes */
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
/* mma.m16n8k8 of a warp: d += a b, of which each lane holds what the PTX ISA says */
void emulated_mma(float (&d)[4], const float (&a)[4], float b0, float b1);
/* wgmma of 64 rows and n columns by four warps: d = (adds ? d : 0) + a b, terms of the left operand
 * in registers or, where a is NULL, in shared memory from `left` on.  Done when it is waited for. */
void emulated_group_mma(int n, float *d, const float *a, const float *left, const float *right,
                        bool adds, bool halves = false); /* terms: words of two halves */
uint16_t emulated_half(float x); /* half precision, to nearest even */
float emulated_number(uint16_t half);
void emulated_end_products(void);
void emulated_show(void); /* what threads have stored, to products */
void emulated_await_products(int batches);
void emulated_barrier(int which, unsigned threads, bool waits); /* 1 to 15 of a block */
/* mbarrier, and cp.async.bulk that gives it, once for `use` 0, 1, ...: copies are made when somebody
 * waits for them; likewise those by cp.async of a thread */
void emulated_make_signal(const void *signal, int arrivals);
void emulated_arrive(const void *signal);
void emulated_await_signal(const void *signal, int use);
#define EMULATED_SHARED_BYTES 232448 /* as a block of an H200 has */
void emulated_misuse(const char *what);
void emulated_copy_part(void *to, const void *from, int bytes, const void *signal);
void emulated_arrive_with_block(int bytes, const void *signal);
void emulated_copy(float *to, const float *from, bool there);
void emulated_end_batch(void);
void emulated_await_batches(int left);
extern float emulated_shared[EMULATED_SHARED_BYTES / sizeof(float)];
#define SHARED_FLOATS(name) float *name = emulated_shared
/* Accesses past L1 (ld.global.cg, st.global.cg) of what is not global memory are errors. */
template <class T> T *emulated_global(T *at)
{
  if ((uintptr_t)at - (uintptr_t)emulated_shared < EMULATED_SHARED_BYTES)
    emulated_misuse("ld.global or st.global of shared memory");
  return at;
}
template <class T> T __shfl_xor_sync(unsigned, T x, int apart)
{
  return (T)emulated_shuffle((double)x, apart);
}

static inline void __threadfence(void) {}
/* a block after the other, and its threads in turns: nothing comes between */
static inline unsigned atomicInc(unsigned *at, unsigned most)
{
  unsigned old = *at;
  *at = old >= most ? 0 : old + 1;
  return old;
}

/* ---- launching ---- */

/* thread: what each does; together: the threads of a block wait for each other; shared: they have
 * shared memory, which holds NaN at first, and 32 of them are a warp, as mma wants it */
void emulated_launch(dim3 blocks, unsigned threads, bool together, bool shared,
                     const std::function<void()> &thread);

template <class... P> struct emulated_call {
  void (*kernel)(P...);
  dim3 blocks;
  unsigned threads;
  bool together, shared;
  void operator()(P... p) const
  {
    emulated_launch(blocks, threads, together, shared, [kernel = kernel, p...] { kernel(p...); });
  }
};
typedef struct emulated_queue *cudaStream_t;
template <class... P>
emulated_call<P...> emulate(void (*kernel)(P...), dim3 blocks, unsigned threads, bool together,
                            bool shared = false)
{
  return {kernel, blocks, threads, together, shared};
}
#define LAUNCH_KERNEL(kernel, blocks, threads, queue) emulate(kernel, blocks, threads, false)
#define WARP 4
#define PROCESSORS 2
#define LAUNCH_ROW_KERNEL(kernel, blocks, threads, queue) emulate(kernel, blocks, threads, true)
#define LAUNCH_SHARED_KERNEL(kernel, blocks, threads, bytes, queue) \
  emulate(kernel, blocks, threads, true, true)
/* fewer threads: they are slow here */
#define LAUNCH_BLOCK_KERNEL(kernel, blocks, threads, queue) emulate(kernel, blocks, 96, true)

/* ---- what is called of the runtime ---- */

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureWrongThread = 908,
  cudaErrorGraphExecUpdateFailure = 910
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum { cudaStreamNonBlocking = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
typedef struct emulated_graph *cudaGraph_t, *cudaGraphExec_t;
typedef struct emulated_node *cudaGraphNode_t;
struct cudaGraphExecUpdateResultInfo {
  cudaGraphNode_t errorNode;
};
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, pageableMemoryAccessUsesHostPageTables;
};
struct cudaFuncAttributes {
  int numRegs;
};
cudaError_t emulated_shared_memory(int bytes); /* whether a block may have so much */
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class F> cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int bytes)
{
  return emulated_shared_memory(bytes);
}
extern "C" {
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemGetInfo(size_t *left, size_t *all);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t queue);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *queue, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t queue);
cudaError_t cudaStreamBeginCapture(cudaStream_t queue, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t queue, cudaGraph_t *graph);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t to, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *info);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t queue);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
}
#endif
