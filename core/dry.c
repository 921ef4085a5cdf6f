/* dry.c: a backend that does nothing, to measure what a function carves. */
#include "core/network.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define OPERATION(name, ...) \
  static void name##_dry(stream st, __VA_ARGS__) {}
#include "core/operations.def"
#undef OPERATION

const struct backend backend_dry = {
    .name = "dry",
#define OPERATION(name, ...) .name = name##_dry,
#include "core/operations.def"
#undef OPERATION
};

struct backend backend_dry_of(const struct backend *be)
{
  struct backend dry = backend_dry;
  dry.ssd_by_blocks = be->ssd_by_blocks;
  dry.concurrent = be->concurrent;
  dry.reads_out = be->reads_out;
  dry.joins_conv = be->joins_conv;
  return dry;
}
