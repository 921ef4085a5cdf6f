/* safetensors.h: named tensors in a file, as the reference library reads and writes them.
 * https://github.com/huggingface/safetensors: u64 header length, JSON header, data. */
#ifndef CORE_SAFETENSORS_H
#define CORE_SAFETENSORS_H
#include "core/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum st_dtype { ST_F32, ST_F64, ST_I32, ST_I64, ST_DTYPES };
enum { ST_MAX_RANK = 8 };

struct st_tensor {
  const char *name;
  enum st_dtype dtype;
  int rank;
  int64_t shape[ST_MAX_RANK];
  int64_t count;    /* elements */
  const void *data; /* row-major, little-endian, 8-byte aligned when read */
};

/* Writes all or nothing (temporary name, flush, rename).  ERR_IO names the file. */
MUST_USE enum status safetensors_write(const char *path, const struct st_tensor *tensor,
                                       int64_t tensors);

/* A file in memory; the tensors point into it.  Every claim of the header is checked: lengths,
 * offsets inside the file, no overlap, no hole, shape times size equal to the extent, names once,
 * known dtypes.  ERR_IO, ERR_DATA with "path: what". */
struct safetensors {
  char *path;
  struct st_tensor *tensor;
  int64_t tensors;
  void *memory;
};
MUST_USE enum status safetensors_read(const char *path, struct safetensors *file);
void safetensors_free(struct safetensors *file);
const struct st_tensor *safetensors_find(const struct safetensors *file, const char *name);
const char *st_dtype_name(enum st_dtype d);
#endif
