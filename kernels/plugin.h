/* plugin.h: what a program and the CUDA plug-in (libdeqmamba_cuda.so) tell each other when it is
 * loaded.  The plug-in has one entry, plugin_open, and knows nothing of the program but this. */
#ifndef KERNELS_PLUGIN_H
#define KERNELS_PLUGIN_H
#include "core/operations.h"
#include "core/options.h"
#include "core/status.h"

/* The program's functions: errors are the program's thread's last ones. */
struct plugin_host {
  enum status (*fail_at)(enum status code, const char *file, int line, const char *format, ...);
  void (*check_failed)(const char *file, int line, const char *cond);
};

/* Matrix products of float32: exact inputs, or rounded to tf32 or bf16; sums are float32. */
enum plugin_matmul { PLUGIN_IEEE, PLUGIN_TF32, PLUGIN_BF16 };

struct backend_f32;
struct backend_f64;
struct solver_port_f32;
struct solver_port_f64;

/* One GPU, ready for work; lives as long as the program. */
struct plugin {
  const struct backend_f32 *f32;
  const struct backend_f64 *f64;
  const struct solver_port_f32 *solver_f32;
  const struct solver_port_f64 *solver_f64;
  const char *device; /* "NVIDIA H200, 139 GiB, sm_90" */
};

#define PLUGIN_ENTRY "deqmamba_plugin_open"
#define PLUGIN_LAYOUT "deqmamba_plugin_layout"
/* Takes the first GPU.  ERR_DEVICE: "no CUDA device: ...". */
typedef enum status plugin_open_fn(const struct plugin_host *host, enum plugin_matmul matmul,
                                   struct plugin *out);

/* What both must have been compiled from: the headers of what crosses, by a number that the
 * Makefile makes of them (PLUGIN_HEADERS).  An entry of a plug-in whose layout differs is not
 * called. */
struct plugin_layout {
  int version; /* of this struct */
  unsigned headers;
};
enum { PLUGIN_VERSION = 4 };
#ifndef PLUGIN_HASH /* where nothing crosses */
#define PLUGIN_HASH 0
#endif
static const struct plugin_layout plugin_layout = {PLUGIN_VERSION, PLUGIN_HASH};
#endif
