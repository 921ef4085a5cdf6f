/* device_cuda.c: one GPU: its memory, its queue, what goes wrong; and the plug-in's entry.
 *
 * Kernels and library calls are started without waiting.  The first that cannot be started is kept
 * with its name until the next sync, download or upload, which fails with it.  What fails while it
 * runs shows later: the error then names what was started last; CUDA_LAUNCH_BLOCKING=1 makes that
 * the culprit.  What fails because it is being captured only spoils the graph (graphs_cuda.c). */
#ifdef __CUDACC__
#include "kernels/device_cuda.h"
#include "core/real.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct plugin_host host;

/* ---- the program's functions, under the names that our sources call ---- */

extern "C" enum status fail_at(enum status code, const char *file, int line, const char *format,
                               ...)
{
  char text[1024];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return host.fail_at(code, file, line, "%s", text);
}

extern "C" void check_failed(const char *file, int line, const char *cond)
{
  host.check_failed(file, line, cond);
  __builtin_unreachable();
}

/* ---- errors ---- */

static void spoil(struct device *d, const char *why)
{
  if (!d->spoiled)
    d->spoiled = why;
}

static void note_failure(struct device *d, const char *call, const char *why)
{
  if (!*d->failure)
    (void)snprintf(d->failure, sizeof d->failure, "%s: %s", call, why);
}

/* A library does not say whether it failed because it was captured: without a graph it is called
 * again. */
extern "C" void device_note(stream st, const char *call, const char *why)
{
  struct device *d = device_of(st);
  d->last = call;
  if (why && d->capturing)
    spoil(d, why);
  else if (why)
    note_failure(d, call, why);
}

extern "C" cudaStream_t launch_queue(stream st) { return device_of(st)->queue; }

void device_note_asked(struct device *d, const void *what, size_t bytes)
{
  const unsigned char *byte = (const unsigned char *)what;
  for (size_t i = 0; i < bytes; i++) /* FNV-1a */
    d->asked = (d->asked ^ byte[i]) * 1099511628211u;
}

extern "C" void launch_check(stream st, const void *function, const char *kernel, const char *file,
                             int line)
{
  struct device *d = device_of(st);
  if (d->capturing)
    device_note_asked(d, &function, sizeof function);
  cudaError_t e = cudaGetLastError();
  char where[256];
  d->last = kernel;
  if (e == cudaSuccess)
    return;
  if (d->capturing && e >= cudaErrorStreamCaptureUnsupported &&
      e <= cudaErrorStreamCaptureWrongThread) {
    spoil(d, cudaGetErrorString(e));
    return;
  }
  (void)snprintf(where, sizeof where, "%s (%s:%d)", kernel, file, line);
  note_failure(d, where, cudaGetErrorString(e));
}

static enum status failed(struct device *d, cudaError_t e, const char *doing)
{
  char first[sizeof d->failure];
  memcpy(first, d->failure, sizeof first);
  *d->failure = 0;
  if (*first)
    FAIL(ERR_DEVICE, "CUDA: %s", first);
  if (e != cudaSuccess)
    FAIL(ERR_DEVICE, "CUDA: %s: %s; what was started last: %s (CUDA_LAUNCH_BLOCKING=1 names it)",
         doing, cudaGetErrorString(e), d->last ? d->last : "nothing");
  return OK;
}

/* What would wait, or read the host's memory each time that the graph is replayed. */
static enum status refuse_captured(struct device *d, const char *doing)
{
  if (!d->capturing)
    return OK;
  spoil(d, doing);
  FAIL(ERR_DEVICE, "CUDA: %s while a graph is captured", doing);
}

/* ---- memory ---- */

extern "C" enum status device_alloc(size_t bytes, void *out)
{
  void *p = NULL;
  cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
  if (e == cudaErrorMemoryAllocation) {
    size_t left = 0, all = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&left, &all);
    FAIL(ERR_MEMORY, "the GPU's memory ran out: %zu MiB asked, %zu of %zu MiB left", bytes >> 20,
         left >> 20, all >> 20);
  }
  if (e != cudaSuccess)
    FAIL(ERR_DEVICE, "CUDA: memory: %s", cudaGetErrorString(e));
  memcpy(out, &p, sizeof p);
  return OK;
}

extern "C" void device_free(void *p) { (void)cudaFree(p); }

/* The host's memory is pageable: the call returns when it has been read, which it has not where the
 * GPU reads it in place. */
extern "C" enum status device_upload(stream st, size_t bytes, const void *from, void *dev)
{
  struct device *d = device_of(st);
  cudaError_t e = cudaSuccess;
  TRY(refuse_captured(d, "upload"));
  if (bytes)
    e = cudaMemcpyAsync(dev, from, bytes, cudaMemcpyHostToDevice, d->queue);
  if (bytes && e == cudaSuccess && d->reads_in_place)
    e = cudaStreamSynchronize(d->queue);
  return failed(d, e, "upload");
}

extern "C" enum status device_download(stream st, size_t bytes, const void *dev, void *to)
{
  struct device *d = device_of(st);
  cudaError_t e = cudaSuccess;
  TRY(refuse_captured(d, "download"));
  if (bytes)
    e = cudaMemcpyAsync(to, dev, bytes, cudaMemcpyDeviceToHost, d->queue);
  if (e == cudaSuccess)
    e = cudaStreamSynchronize(d->queue);
  return failed(d, e, "download");
}

extern "C" enum status device_sync(stream st)
{
  struct device *d = device_of(st);
  TRY(refuse_captured(d, "sync"));
  return failed(d, cudaStreamSynchronize(d->queue), "sync");
}

/* ---- opening ---- */

static __global__ void probe(void) {}

#define TRY_CUDA(call, what)                                          \
  do {                                                                \
    cudaError_t e_ = (call);                                          \
    if (e_ != cudaSuccess)                                            \
      FAIL(ERR_DEVICE, "CUDA: %s: %s", what, cudaGetErrorString(e_)); \
  } while (0)

static enum status find_device(struct device *d)
{
  int count = 0;
  struct cudaDeviceProp p;
  struct cudaFuncAttributes attributes;
  cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess || count == 0)
    FAIL(ERR_DEVICE, "no CUDA device: %s",
         e == cudaSuccess ? "the driver shows none" : cudaGetErrorString(e));
  TRY_CUDA(cudaSetDevice(0), "the first device");
  TRY_CUDA(cudaGetDeviceProperties(&p, 0), "the first device");
  (void)snprintf(d->name, sizeof d->name, "%s, %zu GiB, sm_%d%d", p.name,
                 (size_t)p.totalGlobalMem >> 30, p.major, p.minor);
  if (cudaFuncGetAttributes(&attributes, (const void *)probe) != cudaSuccess)
    FAIL(ERR_DEVICE, "the plug-in has no code for %s: make cuda NVCC_ARCHS=sm_%d%d", d->name,
         p.major, p.minor);
  d->blas_bytes = (size_t)(p.major >= 9 ? 32 : 4) << 20; /* as cuBLAS's manual recommends */
  d->shared_bytes = p.sharedMemPerBlockOptin;
  d->reads_in_place = p.pageableMemoryAccessUsesHostPageTables;
  d->warpgroups = p.major == 9; /* the Makefile builds sm_90 as sm_90a */
  return OK;
}

/* cuBLAS would take memory of its own, and another for every graph. */
static enum status open_blas(struct device *d)
{
  TRY(device_alloc(d->blas_bytes, &d->blas_space));
  TRY(device_alloc(TURNED_BYTES, &d->turned));
  cublasStatus_t b = cublasCreate(&d->blas);
  if (b == CUBLAS_STATUS_SUCCESS)
    b = cublasLtCreate(&d->blas_lt);
  if (b == CUBLAS_STATUS_SUCCESS)
    b = cublasSetStream(d->blas, d->queue);
  if (b == CUBLAS_STATUS_SUCCESS)
    b = cublasSetWorkspace(d->blas, d->blas_space, d->blas_bytes); /* cublasSetStream forgets it */
  if (b != CUBLAS_STATUS_SUCCESS)
    FAIL(ERR_DEVICE, "cuBLAS: %s", cublasGetStatusString(b));
  return OK;
}

static enum status open_device(struct device *d)
{
  const char *graphs = getenv("DEQMAMBA_CUDA_GRAPHS");
  d->graphs = !graphs || strcmp(graphs, "0") != 0;
  TRY_CUDA(cudaStreamCreateWithFlags(&d->queue, cudaStreamNonBlocking), "a stream");
  return open_blas(d);
}

struct solver_port_f32;
struct solver_port_f64;
extern const struct solver_port_f32 fixed_point_solvers_cuda_f32;
extern const struct solver_port_f64 fixed_point_solvers_cuda_f64;

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED const struct plugin_layout deqmamba_plugin_layout;
const struct plugin_layout deqmamba_plugin_layout = plugin_layout;

EXPORTED enum status deqmamba_plugin_open(const struct plugin_host *from, enum plugin_matmul matmul,
                                          struct plugin *out)
{
  static struct device d;
  static bool opened; /* whole: what failed half-way is not used */
  host = *from;
  d.self = &d;
  d.matmul = matmul;
  TRY(find_device(&d));
  if (!opened)
    TRY(open_device(&d));
  opened = true;
  const struct dense_library *dense = dense_cuda(&d);
  out->f32 = backend_cuda_f32(&d, d.name, dense);
  out->f64 = backend_cuda_f64(&d, d.name, dense);
  out->solver_f32 = &fixed_point_solvers_cuda_f32;
  out->solver_f64 = &fixed_point_solvers_cuda_f64;
  out->device = d.name;
  return OK;
}
#endif
