/* bench_kinsol.c: SUNDIALS' KINSOL as a peer, where the build has found it (-DHAVE_KINSOL). */
#include "experiments/bench_solvers.h"
#include <string.h>

#ifdef HAVE_KINSOL
#include <kinsol/kinsol.h>
#include <nvector/nvector_serial.h>
#include <sundials/sundials_version.h>

bool kinsol_is_here(void) { return true; }

const char *kinsol_version(void)
{
  static char version[32];
  if (SUNDIALSGetVersion(version, sizeof version) != 0)
    return "?";
  return version;
}

struct kinsol_map {
  const struct timed_map *map;
  int64_t calls;
  double seconds;
};

static int evaluate(N_Vector z, N_Vector fz, void *ctx)
{
  struct kinsol_map *p = ctx;
  double began = bench_seconds();
  p->map->f64(p->map->ctx, p->map->n, N_VGetArrayPointer(z), N_VGetArrayPointer(fz));
  p->seconds += bench_seconds() - began;
  p->calls++;
  return 0;
}

struct kinsol {
  SUNContext context;
  N_Vector z, ones;
  void *memory;
  struct kinsol_map map;
};

static void kinsol_close(struct kinsol *k)
{
  if (k->memory)
    KINFree(&k->memory);
  if (k->z)
    N_VDestroy(k->z);
  if (k->ones)
    N_VDestroy(k->ones);
  if (k->context)
    (void)SUNContext_Free(&k->context);
}

static bool kinsol_open(struct kinsol *k, const struct fp_options *o)
{
  if (SUNContext_Create(NULL, &k->context) != 0)
    return false;
  k->z = N_VNew_Serial(k->map.map->n, k->context);
  k->memory = KINCreate(k->context);
  if (!k->z || !k->memory)
    return false;
  k->ones = N_VClone(k->z);
  if (!k->ones)
    return false;
  N_VConst(1, k->ones);
  (void)KINSetErrFile(k->memory, NULL); /* not to converge is no error here */
  return KINSetMAA(k->memory, o->memory) == 0 && KINInit(k->memory, evaluate, k->z) == 0 &&
         KINSetUserData(k->memory, &k->map) == 0 && KINSetFuncNormTol(k->memory, o->tol) == 0 &&
         KINSetNumMaxIters(k->memory, o->max_iter) == 0;
}

/* Time of a solve, without that of setting the guess. */
static double solve(struct kinsol *k, const double *guess, int *flag)
{
  double *z = N_VGetArrayPointer(k->z);
  for (int64_t i = 0; i < k->map.map->n; i++)
    z[i] = guess ? guess[i] : 0;
  k->map.calls = 0;
  double began = bench_seconds();
  *flag = KINSol(k->memory, k->z, KIN_FP, k->ones, k->ones);
  return bench_seconds() - began;
}

static enum status repeat(struct kinsol *k, const double *guess, struct solve_timing *t)
{
  int flag = 0;
  (void)solve(k, guess, &flag);
  for (int i = 0; i < t->repetitions; i++) {
    double passed = 0;
    int64_t solves = 0;
    k->map.seconds = 0;
    do {
      passed += solve(k, guess, &flag);
      solves++;
    } while (passed < t->seconds);
    t->solve[i] = passed / (double)solves;
    t->map[i] = k->map.seconds / (double)solves;
  }
  if (flag < 0 && flag != KIN_MAXITER_REACHED)
    FAIL(ERR_NUMERIC, "KINSOL: %s", KINGetReturnFlagName(flag));
  memset(&t->result, 0, sizeof t->result);
  t->result.samples = 1;
  t->result.evaluations = k->map.calls;
  t->result.exits[flag >= 0 ? FP_CONVERGED : FP_MAX_ITER] = 1;
  return OK;
}

enum status kinsol_timed(const struct timed_map *map, const double *guess, struct solve_timing *t)
{
  struct kinsol k = {.map.map = map};
  enum status s = kinsol_open(&k, &t->options)
                      ? repeat(&k, guess, t)
                      : fail_at(ERR_MEMORY, __FILE__, __LINE__, "KINSOL failed");
  kinsol_close(&k);
  return s;
}
#else
bool kinsol_is_here(void) { return false; }

const char *kinsol_version(void) { return "not here"; }

enum status kinsol_timed(const struct timed_map *map, const double *guess, struct solve_timing *t)
{
  (void)map, (void)guess, (void)t;
  FAIL(ERR_USAGE, "built without KINSOL");
}
#endif
