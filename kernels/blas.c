/* blas.c: which kernels OpenBLAS should have taken for this CPU, and taking them.
 *
 * One thread on a Zen 5 with OpenBLAS 0.3.21, in Gflop/s, (m,n,k) = (1024,292,64), (1024,64,128),
 * (2048,2048,2048): sgemm 122, 120, 124 with its AVX2 kernels and 225, 216, 238 with AVX-512;
 * dgemm 60, 57, 61 and 93, 86, 104. */
#include "kernels/blas.h"
#include "core/parallel.h"
#include <cblas.h>
#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

/* Weak: another BLAS links too, and is left alone. */
extern void openblas_set_num_threads(int) __attribute__((weak));
extern char *openblas_get_config(void) __attribute__((weak));
extern char *openblas_get_corename(void) __attribute__((weak));

extern char **environ;

static const char PROBE[] = "DEQMAMBA_BLAS_PROBE"; /* set for the child that tries kernels */
static const char CORETYPE[] = "OPENBLAS_CORETYPE";

static struct blas_cpu this_cpu(void)
{
  struct blas_cpu cpu = {false, false};
#if defined(__x86_64__)
  __builtin_cpu_init();
  cpu.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  cpu.avx512 = cpu.avx2 && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return cpu;
}

static bool is_one_of(const char *name, const char *const *list)
{
  for (; *list; list++)
    if (strcasecmp(name, *list) == 0)
      return true;
  return false;
}

const char *blas_better_kernels(const char *config, const char *corename, struct blas_cpu cpu)
{
  static const char *const before_avx2[] = {"Generic",  "Katmai",     "Coppermine", "Northwood",
                                            "Prescott", "Banias",     "Atom",       "Core2",
                                            "Penryn",   "Dunnington", "Nehalem",    "Sandybridge",
                                            "Athlon",   "Opteron",    "Barcelona",  "Opteron_SSE3",
                                            "Bobcat",   "Bulldozer",  "Piledriver", "Steamroller",
                                            "Nano",     NULL};
  static const char *const avx2[] = {"Haswell", "Zen", "Excavator", NULL};
  int version[3];
  if (!strstr(config, "DYNAMIC_ARCH") ||
      sscanf(config, "OpenBLAS %d.%d.%d", &version[0], &version[1], &version[2]) != 3)
    return NULL;
  /* up to 0.3.18 the AVX-512 dgemm could be wrong: github.com/OpenMathLib/OpenBLAS/issues/2986 */
  bool sound = version[0] * 10000 + version[1] * 100 + version[2] >= 319;
  bool old = is_one_of(corename, before_avx2);
  if (cpu.avx512 && sound && (old || is_one_of(corename, avx2)))
    return "SKYLAKEX";
  return cpu.avx2 && old ? "HASWELL" : NULL;
}

/* Whether sgemm and dgemm give what they must, for a shape with a remainder in every direction and
 * more terms than one of OpenBLAS's blocks. */
static bool multiplies(void)
{
  enum { M = 67, N = 93, K = 517 };
  double *a = malloc(sizeof *a * M * K), *b = malloc(sizeof *b * N * K),
         *c = malloc(sizeof *c * M * N);
  float *fa = malloc(sizeof *fa * M * K), *fb = malloc(sizeof *fb * N * K),
        *fc = malloc(sizeof *fc * M * N);
  bool right = a && b && c && fa && fb && fc;
  if (right) {
    for (int i = 0; i < M * K; i++)
      fa[i] = (float)(a[i] = (i * 37 % 101 - 50) / 64.);
    for (int i = 0; i < N * K; i++)
      fb[i] = (float)(b[i] = (i * 53 % 97 - 48) / 64.);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, a, K, b, K, 0, c, N);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, fa, K, fb, K, 0, fc, N);
  }
  for (int i = 0; right && i < M; i++)
    for (int j = 0; j < N; j++) {
      double sum = 0; /* exact in both: a multiple of 2^-12 below 2^9 */
      for (int k = 0; k < K; k++)
        sum += a[i * K + k] * b[j * K + k];
      right = right && c[i * N + j] == sum && (double)fc[i * N + j] == sum;
    }
  free(a), free(b), free(c), free(fa), free(fb), free(fc);
  return right;
}

/* Starts this program as a child that only tries the kernels named by the environment. */
static bool kernels_work(char **argv)
{
  posix_spawn_file_actions_t quiet;
  pid_t child;
  int status = 1;
  if (posix_spawn_file_actions_init(&quiet))
    return false;
  bool started =
      posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", O_WRONLY, 0) == 0 &&
      posix_spawn(&child, "/proc/self/exe", &quiet, NULL, (char *[]){argv[0], NULL}, environ) == 0;
  posix_spawn_file_actions_destroy(&quiet);
  return started && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

void blas_restart(const char *coretype, char **argv)
{
  if (setenv(PROBE, coretype, 1) || setenv(CORETYPE, coretype, 1))
    return;
  bool works = kernels_work(argv);
  unsetenv(PROBE);
  if (works) {
    (void)fprintf(stderr, "OpenBLAS took this CPU for a %s; starting again with %s=%s\n",
                  openblas_get_corename(), CORETYPE, coretype);
    (void)fflush(NULL);
    parallel_unbind();
    execv("/proc/self/exe", argv);
  }
  unsetenv(CORETYPE);
}

void blas_start(int argc, char **argv)
{
  (void)argc;
  if (!openblas_set_num_threads || !openblas_get_config || !openblas_get_corename)
    return;
  int ours = omp_get_max_threads();
  openblas_set_num_threads(1);
  omp_set_num_threads(ours); /* an OpenBLAS built with OpenMP sets everybody's threads */
  const char *asked = getenv(PROBE);
  if (asked)
    _exit(strcasecmp(asked, openblas_get_corename()) == 0 && multiplies() ? 0 : 1);
  if (getenv(CORETYPE))
    return;
  const char *better =
      blas_better_kernels(openblas_get_config(), openblas_get_corename(), this_cpu());
  if (better)
    blas_restart(better, argv);
}

static bool bare_kernels;

static void look_for_bare_kernels(void)
{
  static const char *const known[] = {"SkylakeX", "Cooperlake", "SapphireRapids", NULL};
  bare_kernels = openblas_get_corename && is_one_of(openblas_get_corename(), known);
}

bool blas_has_bare_kernels(void)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, look_for_bare_kernels);
  return bare_kernels;
}

const char *blas_describe(void)
{
  static char text[128];
  char version[32] = "";
  int ours = omp_get_max_threads();
  if (!openblas_get_config || !openblas_get_corename)
    return "a BLAS that is not OpenBLAS";
  (void)sscanf(openblas_get_config(), "OpenBLAS %31s", version);
  (void)snprintf(text, sizeof text, "OpenBLAS %s, %s kernels, 1 thread in %s%d", version,
                 openblas_get_corename(), ours > 1 ? "each of our " : "our ", ours);
  return text;
}
