/* bench_peer.c: runs a peer that is written in Python, where one can be run. */
#include "core/files.h"
#include "core/tensors.h"
#include "experiments/bench.h"
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { NO_PACKAGE = 77, OUTPUT = 16384 };

/* Its exit status, and what it wrote to standard output.  Its BLAS has our threads, as ours has by
 * other means; OPENBLAS_CORETYPE, OMP_WAIT_POLICY and the spin count are inherited. */
static int run_python(const char *python, const char *script, const char *arguments,
                      char output[OUTPUT])
{
  char command[4096];
  int threads = omp_get_max_threads();
  int n = snprintf(command, sizeof command, "OPENBLAS_NUM_THREADS=%d OMP_NUM_THREADS=%d %s %s %s",
                   threads, threads, python, script, arguments);
  if (n < 0 || (size_t)n >= sizeof command)
    return -1;
  FILE *pipe = popen(command, "r");
  if (!pipe)
    return -1;
  output[fread(output, 1, OUTPUT - 1, pipe)] = 0;
  int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool bench_peer_model(const struct config *c, char *out, size_t size)
{
  const struct mamba2_config *m = &c->model.mamba2;
  struct model_dims d = model_dims(&c->model);
  if (c->dtype != DTYPE_F32 || d.F || d.d_mlp || d.G != 1 || m->bias || !m->conv_bias ||
      m->D_has_hdim || m->A_negative || m->norm_before_gate || m->dt_limit[0] > 0 ||
      isfinite(m->dt_limit[1]) || !c->model.tie_embeddings || c->model.residual != 1)
    return false;
  int n = snprintf(out, size,
                   "threads=%d V=%lld D=%lld layers=%lld E=%lld P=%lld N=%lld W=%lld eps=%g "
                   "weight_norm=%d",
                   omp_get_max_threads(), (long long)d.V, (long long)d.D, (long long)d.layers,
                   (long long)d.E, (long long)d.P, (long long)d.N, (long long)d.W,
                   c->model.norm_eps, c->model.weight_norm);
  return n > 0 && (size_t)n < size;
}

const char *bench_peer_lacks(void)
{
  return "it knows models in f32 with one group, tied embeddings, Picard's method, without MLP, "
         "biases in projections, and options beyond";
}

/* The median of a list of numbers, and (aloud) says how far they lie apart; NaN when it is not one.
 */
static double median(const char *name, const json_t *list, bool aloud)
{
  double value[64];
  size_t n = json_array_size(list);
  if (n == 0 || n > sizeof value / sizeof *value)
    return (double)NAN;
  for (size_t i = 0; i < n; i++)
    value[i] = json_number_value(json_array_get(list, i));
  double middle = bench_median((int)n, value);
  if (!aloud)
    return middle;
  (void)printf("  %s %.4g", name, middle);
  if (n > 1)
    (void)printf(" (%.4g to %.4g)", value[0], value[n - 1]);
  (void)printf("\n");
  return middle;
}

enum status bench_peer(const char *script, const char *arguments, const char *unit, int measures,
                       const char *const *name, double *answer)
{
  const char *pythons[] = {getenv("PYTHON"), "python3", "/usr/bin/python3"};
  char output[OUTPUT] = "";
  int status = NO_PACKAGE;
  if (!path_exists(script)) {
    (void)printf("peer: skipped, there is no %s below this directory\n", script);
    return OK;
  }
  for (int i = pythons[0] && *pythons[0] ? 0 : 1; status == NO_PACKAGE && i < 3; i++)
    status = run_python(pythons[i], script, arguments, output);
  if (status == NO_PACKAGE) {
    (void)printf("peer: skipped, no python here has what %s needs (PYTHON chooses one)\n", script);
    return OK;
  }
  json_t *root = status == 0 ? json_loads(output, 0, NULL) : NULL;
  if (!root)
    FAIL(ERR_IO, "%s failed with status %d: %.200s", script, status, output);
  const char *version = json_string_value(json_object_get(root, "version"));
  if (unit)
    (void)printf("peer: %s, threads: %d, %s:\n", version ? version : script, omp_get_max_threads(),
                 unit);
  for (int i = 0; i < measures; i++)
    answer[i] = median(name[i], json_object_get(root, name[i]), unit);
  json_decref(root);
  return OK;
}
