/* options.c: words for what a solve is asked for and answers, and what `auto` stands for. */
#include "core/options.h"
#include "core/status.h"
#include <stdio.h>

const char *fp_exit_name(enum fp_exit e)
{
  static const char *const names[FP_EXITS] = {"running",   "converged", "max_iter", "not finite",
                                              "stagnated", "diverged",  "breakdown"};
  CHECK((int)e >= 0 && e < FP_EXITS);
  return names[e];
}

const char *fp_failure_name(const struct fp_result *r)
{
  enum fp_exit most = FP_CONVERGED;
  for (int i = 0; i < FP_EXITS; i++)
    if (i != FP_CONVERGED && r->exits[i] > (most == FP_CONVERGED ? 0 : r->exits[most]))
      most = (enum fp_exit)i;
  return fp_exit_name(most);
}

double worse_of(double a, double b) { return b > a || b != b ? b : a; }

void fp_result_add(struct fp_result *sum, const struct fp_result *r)
{
  double samples = (double)(sum->samples + r->samples);
  if (r->samples == 0)
    return;
  sum->mean_iterations =
      (sum->mean_iterations * (double)sum->samples + r->mean_iterations * (double)r->samples) /
      samples;
  if (r->max_iterations > sum->max_iterations)
    sum->max_iterations = r->max_iterations;
  sum->samples += r->samples;
  sum->evaluations += r->evaluations;
  sum->block_evaluations += r->block_evaluations;
  for (int i = 0; i < FP_EXITS; i++)
    sum->exits[i] += r->exits[i];
  for (int i = 0; i < FP_COUNTERS; i++)
    sum->counters[i] += r->counters[i];
  sum->worst_residual = worse_of(sum->worst_residual, r->worst_residual);
}

const char *fp_solver_name(enum fp_solver s)
{
  static const char *const names[FP_SOLVERS] = {"picard", "anderson", "broyden", "gmres", "auto"};
  CHECK((int)s >= 0 && s < FP_SOLVERS);
  return names[s];
}

/* On a chain a window has nearly the work of the sequential mode and the depth of the simultaneous
 * one.  Measured (`bench solvers DIR`): Anderson within the leading token pays at any tolerance,
 * and undamped: its weights do what damping does for Picard, which halves its steps.  In windows of
 * 4 tokens batches of 8 sequences take the least time, as far as timings can tell; wider ones have
 * fewer iterations in series. */
struct fp_options fp_choose(const struct fp_options *o, int64_t length)
{
  enum { WINDOW = 4, MEMORY = 5 };
  struct fp_options chosen = *o;
  if (o->solver != FP_AUTO)
    return chosen;
  chosen.solver = FP_ANDERSON;
  chosen.damping = 1;
  if (chosen.window == FP_WINDOW_ALL && length > WINDOW)
    chosen.window = WINDOW;
  if (chosen.memory < MEMORY)
    chosen.memory = MEMORY;
  return chosen;
}

struct fp_options fp_simultaneous(const struct fp_options *o)
{
  struct fp_options chosen = *o;
  chosen.window = FP_WINDOW_ALL;
  if (chosen.solver == FP_AUTO)
    chosen.solver = FP_PICARD;
  return chosen;
}

bool fp_leaves_inverse(const struct fp_options *o, int64_t length)
{
  struct fp_options chosen = fp_choose(o, length);
  return chosen.solver == FP_BROYDEN && chosen.window == FP_WINDOW_ALL;
}

const char *fp_describe(const struct fp_options *o, char out[FP_DESCRIPTION])
{
  char window[32] = "all", kept[48] = "";
  if (o->window != FP_WINDOW_ALL)
    (void)snprintf(window, sizeof window, "%lld", (long long)o->window);
  if (o->solver == FP_ANDERSON)
    (void)snprintf(kept, sizeof kept, ", memory %lld", (long long)o->memory);
  if (o->solver == FP_BROYDEN || o->solver == FP_GMRES)
    (void)snprintf(kept, sizeof kept, ", rank %lld", (long long)o->rank);
  (void)snprintf(out, FP_DESCRIPTION, "%s, window %s%s", fp_solver_name(o->solver), window, kept);
  return out;
}
