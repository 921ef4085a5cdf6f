/* device_limits.h: what a device does at best, as its backend shows it. */
#ifndef CORE_DEVICE_LIMITS_H
#define CORE_DEVICE_LIMITS_H
#include "core/status.h"

enum { LIMIT_RUNS = 9 };
struct device_limits {
  double bytes_per_second[LIMIT_RUNS]; /* a copy, counting what is read and what is written */
  double flops_per_second[LIMIT_RUNS]; /* a product of square matrices of random numbers */
};

struct backend_f32;
struct backend_f64;
/* With vectors of `mib` MiB and matrices of order `order`.  ERR_MEMORY, ERR_DEVICE. */
MUST_USE enum status device_limits_f32(const struct backend_f32 *be, int mib, int order,
                                       struct device_limits *out);
MUST_USE enum status device_limits_f64(const struct backend_f64 *be, int mib, int order,
                                       struct device_limits *out);
#endif
