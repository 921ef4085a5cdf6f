/* device_cuda.h: the GPU that the plug-in works on.  A `stream` of its backends points to a pointer
 * to one: to the device's own, or to that of what measures a backend (core/profile.h). */
#ifndef KERNELS_DEVICE_CUDA_H
#define KERNELS_DEVICE_CUDA_H
#include "core/status.h"
#include "kernels/plugin.h"
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cusolverDn.h>

/* A graph's executable (graphs_cuda.c). */
struct captured {
  cudaGraphExec_t graph; /* NULL: this place is free */
  size_t nodes;
  uint64_t asked;    /* the device's, when it was captured */
  uint64_t captured; /* when: later ones have larger numbers */
  bool held;         /* since then: no other graph may become this executable */
};
enum { GRAPHS_KEPT = 24 };

/* How cuBLASLt makes a product that adds more in the same pass (linalg_cuda.c): found out once. */
struct product_key {
  int64_t M, N, K;
  int32_t type, arithmetic, transposed, separate, bias; /* separate: c is not y; bias: 0, none */
  int32_t x, W, b, c, y;                                /* bytes that divide the address; 0: none */
};
struct product_plan {
  struct product_key key;
  bool possible;
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t W, x, y; /* c's is y's */
  cublasLtMatmulAlgo_t algorithm;
};
enum { PLANS_KEPT = 32, TURNED_BYTES = 16 << 20 };

struct device {
  struct device *self;
  cudaStream_t queue;
  cublasHandle_t blas;
  size_t shared_bytes; /* shared memory that a block may have */
  bool reads_in_place; /* whether copies from the host's memory may read it later */
  bool warpgroups;     /* whether it has what warpgroup_cuda.h needs */
  cublasLtHandle_t blas_lt;
  void *blas_space; /* of cuBLAS and cuBLASLt */
  size_t blas_bytes;
  void *turned; /* TURNED_BYTES: a matrix that is wanted transposed, or parts of a sum */
  struct product_plan plan[PLANS_KEPT];
  int plans, next_plan; /* kept; the place that the next takes */
  cusolverDnHandle_t solver;
  enum plugin_matmul matmul;
  const char *last;  /* the kernel or library call that was started last */
  char failure[512]; /* the first that could not be started since the last sync; "": none */
  char name[320];
  bool graphs, capturing;
  uint64_t asked;      /* a hash of kernels and of cuBLAS's products since the capture began */
  const char *spoiled; /* why what is being captured is no graph; NULL: it may be */
  struct captured captured[GRAPHS_KEPT];
  uint64_t captures; /* so far */
};

static inline struct device *device_of(stream st) { return *(struct device **)st; }

extern "C" {
/* Memory, copies and errors: members of struct backend. */
enum status device_alloc(size_t bytes, void *out);
void device_free(void *p);
enum status device_upload(stream st, size_t bytes, const void *host, void *dev);
enum status device_download(stream st, size_t bytes, const void *dev, void *host);
enum status device_sync(stream st);
/* Notes that a library call on this stream failed (why; NULL: it did not); sync reports the first.
 */
void device_note(stream st, const char *call, const char *why);
/* What a graph that is being captured is told by (struct captured). */
void device_note_asked(struct device *d, const void *what, size_t bytes);
/* Graphs, members of struct backend too: graphs_cuda.c. */
bool device_capture_begin(stream st);
const struct captured *device_capture_end(stream st);
void device_replay(stream st, const struct captured *graph);
void device_release_captured(stream st);
}

/* What the plug-in's files, compiled by precision, give to it. */
struct dense_library;
extern "C" {
const struct backend_f32 *backend_cuda_f32(stream st, const char *name,
                                           const struct dense_library *dense);
const struct backend_f64 *backend_cuda_f64(stream st, const char *name,
                                           const struct dense_library *dense);
const struct dense_library *dense_cuda(struct device *d);
}
#endif
