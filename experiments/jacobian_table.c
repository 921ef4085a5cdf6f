/* jacobian_table.c: what jacobian_check prints. */
#include "experiments/jacobian_report.h"
#include <math.h>
#include <string.h>

static void print_model(const struct verification *v, FILE *out)
{
  const struct model_config *m = &v->c->model;
  struct model_dims d = model_dims(m);
  (void)fprintf(out,
                "%s: d_model %lld, %lld layer%s of %lld head%s x %lld channels x %lld states, "
                "ngroups %lld, MLP %lld, seed %lld\n"
                "states S = %lld, unknowns D = %lld, float64\n\n",
                v->c->name, (long long)d.D, (long long)d.layers, d.layers == 1 ? "" : "s",
                (long long)d.H, d.H == 1 ? "" : "s", (long long)d.P, (long long)d.N, (long long)d.G,
                (long long)d.F, (long long)v->c->seed, (long long)v->size.states, (long long)d.D);
}

static void print_solves(const char *what, const struct jacobian_tally *t, FILE *out)
{
  (void)fprintf(out, "%-20s %8lld %12lld %10lld %8lld   %.1e%s\n", what, (long long)t->solves,
                (long long)t->iterations, (long long)t->by_newton, (long long)t->polish,
                t->residual, t->residual <= jacobian_floor ? "" : "  FAIL: above the floor");
}

static void print_shape(const char *what, const struct jacobian_shape *s, FILE *out)
{
  (void)fprintf(out, "%-20s %10.4f %13.4f %13.1e %17.4g %16.4f\n", what, s->norm, s->largest,
                s->median, s->off_diagonal, s->radius);
}

static void print_pairs(const struct verification *v, FILE *out)
{
  (void)fprintf(out, "\n%-36s    maximum     median   relative     allowed\n", "difference");
  for (const struct jacobian_pair *p = v->pair; p < v->pair + JACOBIAN_PAIRS; p++) {
    char name[64];
    (void)snprintf(name, sizeof name, "%s - %s", jacobian_way_name(p->a), jacobian_way_name(p->b));
    (void)fprintf(out, "%-36s    %.1e    %.1e    %.1e     %.0e  %s\n", name, p->largest, p->median,
                  p->relative, p->tolerance, p->passed ? "ok" : "FAIL");
  }
  double tolerance = v->c->jacobian.tolerance;
  (void)fprintf(out, "%-36s %32.1e     %.0e  %s\n", "explicit: closed form - complex step",
                v->explicit_error, tolerance, v->explicit_error <= tolerance ? "ok" : "FAIL");
  (void)fprintf(out, "%-36s %32.1e     %.0e  %s\n", "dh'/dz - (h dLambda/dz + dv/dz)",
                v->parts_error, tolerance, v->parts_error <= tolerance ? "ok" : "FAIL");
  (void)fprintf(out, "%-36s    %.1e %28s %10s\n",
                v->c->model.n_layer > 1 ? "explicit: beside its layers' diagonals"
                                        : "explicit: off the diagonal",
                v->explicit_off, "0", v->explicit_off == 0 ? "ok" : "FAIL");
}

/* exp(log_scale) x, also where that is too small for a number. */
static void print_scaled(double log_scale, double x, FILE *out)
{
  double decimal = (log_scale + log(x)) / log(10), exponent = floor(decimal);
  if (x == 0 || fabs(decimal) < 300)
    (void)fprintf(out, " %12.3e   ", exp(log_scale) * x);
  else
    (void)fprintf(out, " %6.3fe%+.0f   ", pow(10, decimal - exponent), exponent);
}

static void print_product(const char *what, const struct jacobian_product *p, int64_t exponents,
                          FILE *out)
{
  (void)fprintf(out, "%-10s", what);
  print_scaled(p->log_scale, p->singular[0], out);
  for (int64_t i = 0; i < exponents && i < 8; i++)
    (void)fprintf(out, " %9.5f", p->exponents[i]);
  (void)fprintf(out, "\n");
}

static void print_sequence(const struct verification *v, FILE *out)
{
  (void)fprintf(out, "\n%lld tokens in a row, state of %lld with the convolutions' inputs\n",
                (long long)v->tokens, (long long)v->size.extent);
  if (v->failed_token >= 0) {
    (void)fprintf(out, "no fixed point was found at token %lld: no product is shown\n",
                  (long long)v->failed_token);
    return;
  }
  (void)fprintf(out, "product    largest sigma    Lyapunov exponents, largest first, per token\n");
  print_product("implicit", &v->implicit_product, v->exponents, out);
  print_product("explicit", &v->explicit_product, v->exponents, out);
  (void)fprintf(out, "implicit product - complex step through all tokens: relative %.1e  %s\n",
                v->product_error, v->product_error <= v->c->jacobian.tolerance ? "ok" : "FAIL");
}

void jacobian_print(const struct verification *v, FILE *out)
{
  print_model(v, out);
  (void)fprintf(out, "%-20s %8s %12s %10s %8s   %s\n", "solves", "rows", "evaluations", "by Newton",
                "polish", "residual");
  print_solves("fixed point z*", &v->base, out);
  if (!v->found) {
    (void)fprintf(
        out, "\nno fixed point was found (residual above %.0e): no Jacobian is shown\nFAILED\n",
        jacobian_floor);
    return;
  }
  print_solves("finite differences", &v->differences, out);
  print_solves("adjoint", &v->adjoint, out);
  print_solves("complex step", &v->complex_step, out);
  (void)fprintf(out,
                "\nI - df/dz: rank %lld of %lld%s, condition %.4g; spectral radius of df/dz %.4f\n",
                (long long)v->rank, (long long)v->size.D,
                v->rank == v->size.D ? "" : " (FAIL: singular)", v->condition, v->f_radius);
  (void)fprintf(out,
                "step of the differences: %.2e (sweep: central best %.1e, Richardson %.1e)\n\n",
                v->sweep_step[v->best], jacobian_best_central(v), v->richardson_error[v->best]);
  (void)fprintf(out, "%-20s %10s %13s %13s %17s %16s\n", "Jacobian dh'/dh", "norm", "largest",
                "median", "off-diagonal mass", "spectral radius");
  print_shape("implicit", &v->shape, out);
  print_shape("explicit", &v->explicit_shape, out);
  print_pairs(v, out);
  if (v->tokens > 1)
    print_sequence(v, out);
  (void)fprintf(out, "\n%s\n", v->passed ? "PASSED" : "FAILED");
}

double jacobian_best_central(const struct verification *v)
{
  double best = HUGE_VAL;
  for (int k = 0; k < SWEEP_STEPS; k++)
    best = v->central_error[k] < best ? v->central_error[k] : best;
  return best;
}
