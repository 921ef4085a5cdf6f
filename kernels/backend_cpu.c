/* backend_cpu.c: the CPU's table in this precision and instruction set. */
#ifndef __CUDACC__
#include "core/arena.h"
#include "core/backend.h"
#include "kernels/operations.h"
#include <stdlib.h>
#include <string.h>

static enum status memory_alloc(size_t bytes, void *out)
{
  if (bytes > SIZE_MAX / 2)
    FAIL(ERR_MEMORY, "%zu bytes asked for", bytes);
  void *p = arena_block(bytes);
  if (p == NULL)
    FAIL(ERR_MEMORY, "no memory left for %.3g GiB", (double)bytes / (1 << 30));
  memcpy(out, &p, sizeof p);
  return OK;
}

static void memory_free(DEVICE void *p) { free((void *)p); }

static enum status upload(stream st, size_t bytes, const void *host, DEVICE void *dev)
{
  (void)st;
  if (bytes)
    memcpy((void *)dev, host, bytes);
  return OK;
}

static enum status download(stream st, size_t bytes, const DEVICE void *dev, void *host)
{
  (void)st;
  if (bytes)
    memcpy(host, (const void *)dev, bytes);
  return OK;
}

static enum status sync(stream st)
{
  (void)st;
  return OK;
}

#define TABLE NAME(CONCAT(backend_, ISA))
#if defined(__AVX512F__)
#define VECTORS "AVX-512"
#elif defined(__AVX2__)
#define VECTORS "AVX2"
#else
#define VECTORS "baseline"
#endif

extern const struct backend TABLE;
const struct backend TABLE = {
    .name = "cpu (" VECTORS ")",
    .concurrent = true,
    .transposes = REAL_BITS != 128,
    .ssd_by_blocks = REAL_BITS != 128,
    .memory_alloc = memory_alloc,
    .memory_free = memory_free,
    .upload = upload,
    .download = download,
    .sync = sync,
#define OPERATION(operation, ...) .operation = OP(operation),
#include "core/operations.def"
#undef OPERATION
};
#endif
