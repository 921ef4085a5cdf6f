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
