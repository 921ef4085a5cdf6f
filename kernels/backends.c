/* backends.c: the choice among the CPU's instruction sets at run time. */
#include "kernels/backends.h"
#include <stdlib.h>
#include <string.h>

extern const struct backend_f32 backend_cpu_f32;
extern const struct backend_f64 backend_cpu_f64;
#ifdef ISA_LEVELS
extern const struct backend_f32 backend_cpu_v3_f32, backend_cpu_v4_f32;
extern const struct backend_f64 backend_cpu_v3_f64, backend_cpu_v4_f64;
#endif

static const struct backend_cpu tables[] = {
    {"cpu", &backend_cpu_f32, &backend_cpu_f64},
#ifdef ISA_LEVELS
    {"cpu_v3", &backend_cpu_v3_f32, &backend_cpu_v3_f64},
    {"cpu_v4", &backend_cpu_v4_f32, &backend_cpu_v4_f64},
#endif
};
enum { TABLES = sizeof tables / sizeof tables[0] };

int backend_cpu_list(const struct backend_cpu **all)
{
  *all = tables;
  return TABLES;
}

/* The psABI's levels; gcc 12 knows their parts, not all of their names. */
bool backend_cpu_supported(const struct backend_cpu *b)
{
  bool runs = true;
#ifdef ISA_LEVELS
  __builtin_cpu_init();
  bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
            __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
            __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt") &&
            __builtin_cpu_supports("movbe");
  if (strcmp(b->isa, "cpu_v3") == 0)
    runs = v3;
  if (strcmp(b->isa, "cpu_v4") == 0)
    runs = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#else
  (void)b;
#endif
  return runs;
}

enum status backend_cpu_select(struct backend_cpu *chosen)
{
  const char *wanted = getenv("DEQMAMBA_ISA");
  for (int i = TABLES - 1; i >= 0; i--) {
    if (wanted && *wanted && strcmp(wanted, tables[i].isa) != 0)
      continue;
    if (backend_cpu_supported(&tables[i])) {
      *chosen = tables[i];
      return OK;
    }
    if (wanted && *wanted)
      FAIL(ERR_USAGE, "DEQMAMBA_ISA=%s: this machine lacks these instructions", wanted);
  }
  FAIL(ERR_USAGE, "DEQMAMBA_ISA=%s: must be cpu, cpu_v3 or cpu_v4", wanted);
}
