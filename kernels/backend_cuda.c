/* backend_cuda.c: the GPU's table in this precision. */
#ifdef __CUDACC__
#include "core/backend.h"
#include "kernels/device_cuda.h"
#include "kernels/operations.h"

static struct backend table = {
    .name = NULL,
    .st = NULL,
    .dense = NULL,
    .memory_alloc = device_alloc,
    .memory_free = device_free,
    .upload = device_upload,
    .download = device_download,
    .sync = device_sync,
    .capture_begin = device_capture_begin,
    .capture_end = device_capture_end,
    .replay = device_replay,
    .release_captured = device_release_captured,
#define OPERATION(operation, ...) .operation = OP(operation),
#include "core/operations.def"
#undef OPERATION
};

extern "C" const struct backend *NAME(backend_cuda)(stream st, const char *name,
                                                    const struct dense_library *dense)
{
  table.name = name;
  table.st = st;
  table.dense = dense;
  table.reads_out = table.joins_conv =
      REAL_BITS == 32 && device_of(st)->warpgroups && device_of(st)->matmul == PLUGIN_TF32;
  return &table;
}
#endif
