/* test_jacobian.c: the Jacobian theorem holds four ways, for every shape; errors that are put in on
 * purpose are found; an unconverged solve shows no matrix. */
#include "core/files.h"
#include "core/safetensors.h"
#include "experiments/jacobian_report.h"
#include "experiments/jacobian_runtime.h"
#include "experiments/plot.h"
#include "kernels/blas.h"
#include "tests/spawn.h"
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static struct jacobian_runtime runtime_of_tests(void)
{
  struct backend_cpu cpu;
  check_ok(backend_cpu_select(&cpu));
  struct solver_ports solvers = solver_ports_for(cpu.isa);
  struct runtime rt = {cpu.f32, cpu.f64, solvers.f32, solvers.f64, cpu.isa};
  return jacobian_runtime(&rt);
}

/* `model` and `more` are YAML: the inside of model, and further sections. */
static struct config configuration(const char *model, const char *more)
{
  struct config c;
  char yaml[2048];
  (void)snprintf(yaml, sizeof yaml,
                 "name: test\nmodel: {kind: implicit, %s}\n"
                 "deq: {evaluate: {max_iter: 512, damping: 1.0}}\n"
                 "data: {task: word_problem}\n%s",
                 model, more);
  check_ok(config_parse("test.yaml", yaml, strlen(yaml), &c));
  check_ok(config_resolve(&c));
  return c;
}

static struct verification verify(const struct config *c, const char *checkpoint,
                                  enum planted_error planted)
{
  struct jacobian_runtime rt = runtime_of_tests();
  struct verification v;
  struct verification_request request = {checkpoint, NULL, planted, NULL};
  check_ok(verify_jacobian(c, &rt, request, &v));
  return v;
}

#define NOTEBOOK "mamba2: {d_state: 1, expand: 1, headdim: 8}"

static void passes(const char *model, const char *more)
{
  struct config c = configuration(model, more);
  struct verification v = verify(&c, NULL, PLANTED_NONE);
  if (!v.passed)
    jacobian_print(&v, stderr);
  assert_true(v.found && v.passed);
  assert_true(v.explicit_off == 0);
  assert_true(v.shape.off_diagonal > 1e-6); /* the theorem is about something */
  verification_free(&v);
}

/* The bounds of the program hold, or the point is reported as not found: never a wrong matrix. */
static void seeds(void **state)
{
  (void)state;
  int found = 0;
  for (int seed = 0; seed < 100; seed++) {
    struct config c = configuration("d_model: 8, " NOTEBOOK, "");
    c.seed = seed;
    struct verification v = verify(&c, NULL, PLANTED_NONE);
    if (v.found && !v.passed)
      jacobian_print(&v, stderr);
    assert_true(v.passed == v.found);
    assert_true(v.found || v.J[BY_THEOREM] == NULL);
    found += v.found;
    verification_free(&v);
  }
  assert_true(found >= 93);
}

static void shapes(void **state)
{
  (void)state;
  passes("d_model: 16, mamba2: {d_state: 1, expand: 1, headdim: 16}", "");
  passes("d_model: 12, n_layer: 3, mamba2: {d_state: 2, expand: 1, headdim: 6}", "");
  passes("d_model: 32, mamba2: {d_state: 8, expand: 2, headdim: 16}", "");
  passes("d_model: 16, mamba2: {d_state: 3, expand: 2, headdim: 8, ngroups: 2}", "");
  passes("d_model: 16, d_intermediate: 24, mamba2: {d_state: 2, expand: 1, headdim: 4}", "");
}

static void options(void **state)
{
  (void)state;
  passes("d_model: 8, mamba2: {d_state: 2, expand: 1, headdim: 4, norm_before_gate: true, "
         "bias: true, D_has_hdim: true}",
         "");
  passes("d_model: 8, mamba2: {d_state: 2, expand: 1, headdim: 4, d_conv: 1, conv_bias: false}",
         "jacobian: {tokens: 3, exponents: 2}");
  passes("d_model: 8, mamba2: {d_state: 2, expand: 2, headdim: 4, d_ssm: 12}", "");
  passes("d_model: 8, weight_norm: true, residual: 0.7, mamba2: {d_state: 2, expand: 1, "
         "headdim: 4, A_range: negative}",
         "");
}

/* The product of several tokens' Jacobians is the complex step's through all of them. */
static void several_tokens(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 8, n_layer: 2, mamba2: {d_state: 2, expand: 1, "
                                  "headdim: 4}",
                                  "jacobian: {tokens: 12, transient: 4, exponents: 5}");
  struct verification v = verify(&c, NULL, PLANTED_NONE);
  assert_true(v.found && v.passed && v.failed_token == -1);
  assert_true(v.product_error < 1e-12);
  for (int i = 1; i < 5; i++)
    assert_true(v.implicit_product.exponents[i] <= v.implicit_product.exponents[i - 1]);
  /* the explicit model's largest exponents are means of log Lambda: decays, not growth */
  assert_true(v.explicit_product.exponents[0] < 0);
  verification_free(&v);
}

/* Solves beside the fixed point whose derivative is checked do not go over to another one. */
static void one_fixed_point_of_several(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 4, n_layer: 2, mamba2: {d_state: 4, expand: 1, "
                                  "headdim: 2, A_range: negative}",
                                  "");
  c.seed = 965893, c.deq.evaluate.solver = FP_ANDERSON;
  struct verification v = verify(&c, NULL, PLANTED_NONE);
  assert_true(v.found && v.passed);
  assert_true(v.f_radius > 1);
  verification_free(&v);
}

/* The squares of such a product are too small for numbers: what is compared is not. */
static void many_tokens(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 8, mamba2: {d_state: 1, expand: 1, headdim: 8, "
                                  "dt_limit: [0.3, 10.0]}",
                                  "jacobian: {tokens: 800, exponents: 2}");
  struct verification v = verify(&c, NULL, PLANTED_NONE);
  assert_true(v.found && v.passed && v.failed_token == -1);
  assert_true(v.implicit_product.log_scale < -380 && v.implicit_product.singular[0] > 0.1);
  assert_true(v.product_error < 1e-12);
  verification_free(&v);
}

/* With one tap the explicit one-layer product is diagonal, and its exponents are known. */
static void explicit_exponents(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 8, mamba2: {d_state: 1, expand: 1, headdim: 8, "
                                  "d_conv: 1}",
                                  "jacobian: {tokens: 9, exponents: 8}");
  struct verification v = verify(&c, NULL, PLANTED_NONE);
  assert_true(v.passed);
  double want = log(v.explicit_product.singular[0]) + v.explicit_product.log_scale;
  for (int i = 0; i < 8; i++)
    check_close(9 * v.explicit_product.exponents[i], want, 1e-12, "exponent %d", i);
  verification_free(&v);
}

static void planted_errors_are_found(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 8, " NOTEBOOK, "");
  struct verification v = verify(&c, NULL, PLANTED_DROPPED_TERM);
  assert_true(v.found && !v.passed);
  for (int i = 0; i < JACOBIAN_PAIRS; i++) /* the theorem disagrees with all, the others agree */
    assert_true(v.pair[i].passed == (v.pair[i].a != BY_THEOREM));
  verification_free(&v);

  v = verify(&c, NULL, PLANTED_STALE_ACTIVATION);
  assert_true(v.found && !v.passed);
  for (int i = 0; i < JACOBIAN_PAIRS; i++)
    if (v.pair[i].b != BY_DIFFERENCES && v.pair[i].a != BY_DIFFERENCES)
      assert_true(v.pair[i].passed == (v.pair[i].a != BY_ADJOINT && v.pair[i].b != BY_ADJOINT));
  verification_free(&v);
}

/* ---- files ---- */

/* A checkpoint of c's model, its final norm scaled by `factor`. */
static void put_checkpoint(const struct config *c, double factor)
{
  struct tensor_list list;
  double *block;
  struct st_tensor tensor[64] = {0};
  check_ok(tensor_list_make(&c->model, &list));
  check_ok(jacobian_load(c, &list, runtime_of_tests().f64, NULL, &block));
  for (int64_t i = 0; i < list.count; i++) {
    const struct tensor_spec *t = &list.tensor[i];
    tensor[i] = (struct st_tensor){.name = t->name, .dtype = ST_F64, .rank = t->rank};
    tensor[i].count = t->count;
    tensor[i].data = block + t->offset;
    for (int k = 0; k < t->rank; k++)
      tensor[i].shape[k] = t->shape[k];
    for (int64_t j = 0; t->slot == P_NORM_F && j < t->count; j++)
      block[t->offset + j] *= factor;
  }
  check_ok(safetensors_write(scratch("model.safetensors"), tensor, list.count));
  FILE *f = fopen(scratch("config.yaml"), "w");
  assert_non_null(f);
  check_ok(config_write(c, f));
  assert_int_equal(fclose(f), 0);
  tensor_list_free(&list);
  free(block);
}

static void unconverged_shows_no_matrix(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 8, " NOTEBOOK, "");
  put_checkpoint(&c, NAN);
  struct verification v = verify(&c, scratch(""), PLANTED_NONE);
  assert_false(v.found || v.passed);
  assert_null(v.J[BY_THEOREM]);
  verification_free(&v);
  struct spawned r;
  SPAWN(&r, "jacobian_check", "--model", scratch(""), "--save", scratch("x"));
  check_spawned(&r, 1, "no fixed point was found");
  assert_false(path_exists(scratch("x")));
}

static void trained_models_are_read(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 8, mamba2: {d_state: 2, expand: 1, headdim: 4}",
                                  "jacobian: {input: tokens, prefix: 3, tokens: 2}");
  put_checkpoint(&c, 1.25);
  struct verification v = verify(&c, scratch(""), PLANTED_NONE), random = verify(&c, NULL, 0);
  assert_true(v.passed && random.passed);
  assert_true(fabs(v.shape.norm - random.shape.norm) > 1e-9);
  verification_free(&v);
  verification_free(&random);
  struct spawned r;
  SPAWN(&r, "jacobian_check", "--model", scratch(""));
  check_spawned(&r, 0, "PASSED");
}

/* Exit status of `$PYTHON tests/peers/jacobian_reference.py FILE`. */
static int reference(const char *path)
{
  const char *python = getenv("PYTHON");
  char command[2048];
  assert_true(snprintf(command, sizeof command, "%s tests/peers/jacobian_reference.py '%s'",
                       python && *python ? python : "python3", path) < (int)sizeof command);
  int status = system(command);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void saved_parameters_give_the_matrix(void **state)
{
  (void)state;
  static const char *const models[] = {
      "d_model: 8, " NOTEBOOK,
      "d_model: 12, n_layer: 2, d_intermediate: 6, mamba2: {d_state: 3, expand: 2, headdim: 6, "
      "ngroups: 2}",
      "d_model: 8, weight_norm: true, residual: 0.7, mamba2: {d_state: 2, expand: 2, headdim: 4, "
      "d_ssm: 12, A_range: negative}"};
  enum { NO_PACKAGE = 77 };
  if (!path_exists("tests/peers/jacobian_reference.py")) {
    print_message("skipped: tests/peers/jacobian_reference.py is not below this directory\n");
    skip();
  }
  for (int i = 0; i < 3; i++) {
    struct config c = configuration(models[i], "");
    struct verification v = verify(&c, NULL, PLANTED_NONE);
    assert_true(v.passed);
    check_ok(verification_save(&v, scratch("saved.safetensors")));
    verification_free(&v);
    int status = reference(scratch("saved.safetensors"));
    if (status == NO_PACKAGE) {
      print_message("skipped: numpy or safetensors is not installed (PYTHON chooses a python)\n");
      skip();
    }
    assert_int_equal(status, 0);
  }
}

/* Another model at the point of a file; a file that does not fit is refused by name. */
static void points_can_be_given(void **state)
{
  (void)state;
  struct config c = configuration("d_model: 8, " NOTEBOOK, "jacobian: {tokens: 2}");
  struct jacobian_runtime rt = runtime_of_tests();
  struct verification v = verify(&c, NULL, PLANTED_NONE), other;
  check_ok(verification_save(&v, scratch("point.safetensors")));
  struct config d = c;
  d.seed = 7;
  struct verification_request request = {.input = scratch("point.safetensors")};
  check_ok(verify_jacobian(&d, &rt, request, &other));
  assert_true(other.passed);
  check_arrays_close(2 * v.size.d_in_proj, other.u, v.u, 0, "u");
  check_arrays_close(2 * v.size.D, other.x, v.x, 0, "x");
  check_arrays_close(v.size.extent, other.state, v.state, 0, "state");
  assert_true(fabs(other.shape.norm - v.shape.norm) > 1e-6);
  verification_free(&v);
  verification_free(&other);
  d = configuration("d_model: 16, mamba2: {d_state: 1, expand: 1, headdim: 16}", "");
  check_fails(verify_jacobian(&d, &rt, request, &other), ERR_DATA, "the model needs");
}

static void json_says_what_the_table_says(void **state)
{
  (void)state;
  struct spawned r;
  SPAWN(&r, "jacobian_check", "model.d_model=8", "model.mamba2.headdim=8", "--json",
        scratch("j.json"));
  check_spawned(&r, 0, "PASSED");
  check_spawned(&r, 0, "theorem - complex step");
  json_error_t error;
  json_t *j = json_load_file(scratch("j.json"), 0, &error);
  assert_non_null(j);
  assert_true(json_is_true(json_object_get(j, "passed")));
  assert_int_equal(json_array_size(json_object_get(j, "pairs")), JACOBIAN_PAIRS);
  assert_int_equal(json_integer_value(json_object_get(j, "rank")), 8);
  json_decref(j);
  SPAWN(&r, "jacobian_check", "jacobian.tolerance=1e-30");
  check_spawned(&r, 1, "FAILED");
  SPAWN(&r, "jacobian_check", "model.kind=explicit");
  check_spawned(&r, 2, "no fixed point");
  SPAWN(&r, "jacobian_check", "jacobian.parameters=run", "runs_dir=/nowhere");
  check_spawned(&r, 3, "train it first");
}

static bool is_png(const char *path)
{
  char *bytes;
  size_t n;
  if (file_read(path, &bytes, &n) != OK)
    return false;
  bool png = n > 1000 && !memcmp(bytes, "\x89PNG", 4);
  free(bytes);
  return png;
}

/* With gnuplot PNG and SVG; without, the data, the scripts and a hint. */
static void figures(void **state)
{
  (void)state;
  static const char *const names[] = {"implicit_explicit", "theorem", "histogram", "sweep",
                                      "product"};
  struct config c = configuration("d_model: 8, " NOTEBOOK, "jacobian: {tokens: 4}");
  struct verification v = verify(&c, NULL, PLANTED_NONE);
  char *path = strdup(getenv("PATH")), name[64];
  bool drawn = true;
  assert_int_equal(setenv("PATH", scratch(""), 1), 0);
  check_ok(jacobian_figures(&v, scratch("without"), &drawn));
  assert_false(drawn);
  assert_true(path_exists(scratch("without/sweep-errors.dat")));
  assert_true(path_exists(scratch("without/sweep.gp")));
  assert_non_null(strstr(plot_hint(), "gnuplot-nox"));
  assert_int_equal(setenv("PATH", path, 1), 0);
  free(path);
  check_ok(jacobian_figures(&v, scratch("with"), &drawn));
  verification_free(&v);
  if (!drawn) {
    print_message("skipped: gnuplot is not installed\n");
    skip();
  }
  for (int i = 0; i < 5; i++) {
    (void)snprintf(name, sizeof name, "with/%s.png", names[i]);
    assert_true(is_png(scratch(name)));
    (void)snprintf(name, sizeof name, "with/%s.svg", names[i]);
    assert_true(path_exists(scratch(name)));
  }
}

/* ---- dense ---- */

static void dense_algebra(void **state)
{
  (void)state;
  const double A[] = {0, -2, 0, 0.5, 0, 0, 0, 0, 0.25}; /* eigenvalues +-i, 1/4 */
  double radius, sigma[3], r[2];
  check_ok(dense_spectral_radius(NULL, 3, A, &radius));
  check_close(radius, 1, 1e-6, "spectral radius");
  const double nilpotent[] = {0, 1, 0, 0};
  check_ok(dense_spectral_radius(NULL, 2, nilpotent, &radius));
  assert_true(radius == 0);
  check_ok(dense_singular_values(NULL, 3, A, sigma));
  check_arrays_close(3, sigma, ((double[]){2, 0.5, 0.25}), 1e-15, "singular values");
  assert_int_equal(dense_rank(3, sigma), 3);
  assert_int_equal(dense_rank(3, ((double[]){1, 0.5, 1e-17})), 2);

  /* I - B with B = {{.1,.2},{.3,.4}}: given by columns */
  struct dense_lu lu;
  double x[] = {1, 2};
  check_ok(dense_lu_of_identity_minus(NULL, 2, ((double[]){0.1, 0.3, 0.2, 0.4}), &lu));
  check_ok(dense_lu_solve(&lu, false, 1, x)); /* A = {{.9,-.2},{-.3,.6}}, det .48 */
  check_arrays_close(2, x, ((double[]){1 / 0.48, 2.1 / 0.48}), 1e-15, "A^-1 x");
  double y[] = {1, 2};
  check_ok(dense_lu_solve(&lu, true, 1, y));
  check_arrays_close(2, y, ((double[]){1.2 / 0.48, 2 / 0.48}), 1e-15, "A'^-1 x");
  dense_lu_free(&lu);

  double Q[] = {3, 1, 4, 2};
  check_ok(dense_orthonormalise(NULL, 2, 2, Q, r));
  check_arrays_close(2, r, ((double[]){5, 0.4}), 1e-14, "diagonal of R");
  check_close(Q[0] * Q[1] + Q[2] * Q[3] + 1, 1, 1e-15, "columns of Q");
  assert_true(dense_median(4, ((double[]){4, -1, 2, 1})) == 1.5);
  assert_true(isnan(dense_largest(2, ((double[]){NAN, 1}))));
}

#define FILES(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(seeds),
      cmocka_unit_test(shapes),
      cmocka_unit_test(options),
      cmocka_unit_test(several_tokens),
      cmocka_unit_test(one_fixed_point_of_several),
      cmocka_unit_test(many_tokens),
      cmocka_unit_test(explicit_exponents),
      cmocka_unit_test(planted_errors_are_found),
      FILES(unconverged_shows_no_matrix),
      FILES(trained_models_are_read),
      FILES(saved_parameters_give_the_matrix),
      FILES(points_can_be_given),
      FILES(json_says_what_the_table_says),
      FILES(figures),
      cmocka_unit_test(dense_algebra),
  };
  blas_start(argc, argv);
  omp_set_num_threads(1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
