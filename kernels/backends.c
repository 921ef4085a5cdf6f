/* backends.c: the choice among the CPU's instruction sets at run time, and loading the GPU's
 * plug-in.
 */
#include "kernels/backends.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* ---- the plug-in ---- */

enum { PATH_SIZE = 4096 };

/* The plug-in's file; false: there is none. */
static bool find_plugin(char path[PATH_SIZE])
{
  static const char *const places[] = {"", "../", "../lib/deqmamba/"};
  const char *named = getenv("DEQMAMBA_CUDA");
  char directory[PATH_SIZE - 64];
  if (named && *named) {
    (void)snprintf(path, PATH_SIZE, "%s", named);
    return access(path, R_OK) == 0;
  }
  ssize_t n = readlink("/proc/self/exe", directory, sizeof directory - 1);
  directory[n > 0 ? n : 0] = 0;
  char *slash = strrchr(directory, '/');
  if (!slash)
    return false;
  slash[1] = 0;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    (void)snprintf(path, PATH_SIZE, "%s%slibdeqmamba_cuda.so", directory, places[i]);
    if (access(path, R_OK) == 0)
      return true;
  }
  return false;
}

static bool same_layout(const struct plugin_layout *theirs)
{
  return theirs->version == plugin_layout.version && theirs->headers == plugin_layout.headers;
}

bool backend_cuda_likely(void)
{
  char path[PATH_SIZE];
  const char *named = getenv("DEQMAMBA_CUDA");
  if (named && *named)
    return true; /* one that is missing is told of */
  if (!find_plugin(path))
    return false;
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver)
    (void)dlclose(driver);
  return driver != NULL;
}

enum status backend_cuda_open(enum plugin_matmul matmul, struct plugin *out)
{
  static const struct plugin_host host = {fail_at, check_failed};
  char path[PATH_SIZE];
  const char *named = getenv("DEQMAMBA_CUDA");
  plugin_open_fn *open;
  if (!find_plugin(path) && named && *named)
    FAIL(ERR_DEVICE, "device: cuda: DEQMAMBA_CUDA=%s: no such file", named);
  if (!find_plugin(path))
    FAIL(ERR_DEVICE, "device: cuda needs libdeqmamba_cuda.so beside the program: run make cuda, or "
                     "name the file by DEQMAMBA_CUDA");
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    FAIL(ERR_DEVICE, "device: cuda: %s", dlerror());
  const struct plugin_layout *layout = dlsym(library, PLUGIN_LAYOUT);
  void *entry = dlsym(library, PLUGIN_ENTRY);
  if (!layout || !entry || !same_layout(layout))
    FAIL(ERR_DEVICE, "device: cuda: %s is of another version: run make cuda again", path);
  memcpy(&open, &entry, sizeof open);
  return open(&host, matmul, out);
}
