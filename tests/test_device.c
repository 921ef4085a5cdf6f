/* test_device.c: what `device:` means to a user without a GPU. */
#include "core/files.h"
#include "tests/spawn.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char recipe[] = "name: tiny\nmodel: {kind: explicit, d_model: 8,\n"
                             "  mamba2: {d_state: 4, expand: 1, headdim: 8}}\n"
                             "data: {task: word_problem, group: S3, length: 6}\n"
                             "train: {steps: 0}\n";

static void try_device(struct spawned *r, const char *device, const char *matmul)
{
  char runs[600];
  (void)snprintf(runs, sizeof runs, "runs_dir=%s", scratch(""));
  scratch_put("tiny.yaml", recipe, strlen(recipe));
  SPAWN(r, "train", scratch("tiny.yaml"), runs, "--overwrite", device, matmul);
}

static void plugin_is_named(void **state)
{
  (void)state;
  struct spawned r;
  assert_int_equal(setenv("DEQMAMBA_CUDA", scratch("nothing.so"), 1), 0);
  try_device(&r, "device=cuda", "matmul=ieee");
  check_spawned(&r, 3, "nothing.so: no such file");
  try_device(&r, "device=auto", "matmul=ieee");
  check_spawned(&r, 0, "device cpu");
  scratch_put("text.so", "text", 4);
  assert_int_equal(setenv("DEQMAMBA_CUDA", scratch("text.so"), 1), 0);
  try_device(&r, "device=cuda", "matmul=ieee");
  check_spawned(&r, 3, "text.so");
  try_device(&r, "device=auto", "matmul=ieee"); /* says so, and goes on */
  check_spawned(&r, 0, "device: auto: device: cuda: ");
  check_spawned(&r, 0, "device cpu");
  assert_int_equal(unsetenv("DEQMAMBA_CUDA"), 0);
}

/* Where programs look: beside themselves, or above. */
static bool built_plugin(void)
{
  static const char *const places[] = {"/../libdeqmamba_cuda.so", "/../../libdeqmamba_cuda.so"};
  char path[1024];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
  assert_true(n > 0);
  path[n] = 0;
  *strrchr(path, '/') = 0;
  bool found = false;
  for (int i = 0; i < 2; i++) {
    char *end = path + strlen(path);
    (void)strcat(path, places[i]);
    found = found || path_exists(path);
    *end = 0;
  }
  return found;
}

/* Without `make cuda`: how to get one.  With it, and without a GPU: that there is none. */
static void cuda_needs_a_plugin_and_a_device(void **state)
{
  (void)state;
  struct spawned r;
  if (access("/dev/nvidiactl", F_OK) == 0)
    skip();
  try_device(&r, "device=cuda", "matmul=ieee");
  bool stale = strstr(r.output, "another version") != NULL;
  check_spawned(&r, 3, built_plugin() && !stale ? "no CUDA device: " : "run make cuda");
  try_device(&r, "device=auto", "matmul=ieee");
  check_spawned(&r, 0, "device cpu");
  assert_null(strstr(r.output, "auto:"));
}

static void matmul_is_the_gpus(void **state)
{
  (void)state;
  struct spawned r;
  try_device(&r, "device=cpu", "matmul=tf32");
  check_spawned(&r, 0, "matmul: only ieee on the CPU");
  try_device(&r, "device=cpu", "matmul=fp8");
  check_spawned(&r, 2, "tf32");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plugin_is_named),
      cmocka_unit_test(cuda_needs_a_plugin_and_a_device),
      cmocka_unit_test(matmul_is_the_gpus),
  };
  (void)unsetenv("DEQMAMBA_CUDA");
  return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
