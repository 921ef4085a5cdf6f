/* test_tensors.c: which tensors a model has, and what they hold at first. */
#include "tests/check.h"
#include "core/tensors.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct model_config config(enum model_kind kind)
{
  return (struct model_config){
      .kind = kind,
      .d_model = 20,
      .n_layer = 2,
      .vocab_size = 11,
      .tie_embeddings = true,
      .mamba2 = {.d_state = 6,
                 .expand = 2,
                 .headdim = 8,
                 .ngroups = 1,
                 .d_conv = 4,
                 .chunk_size = 16,
                 .A_init_range = {1, 16},
                 .dt_min = 0.001,
                 .dt_max = 0.1,
                 .dt_init_floor = 1e-4,
                 .conv_bias = true},
  };
}

static struct tensor_list make(const struct model_config *c)
{
  struct tensor_list list;
  check_ok(tensor_list_make(c, &list));
  return list;
}

static const struct tensor_spec *find(const struct tensor_list *list, const char *name)
{
  for (int64_t i = 0; i < list->count; i++)
    if (strcmp(list->tensor[i].name, name) == 0)
      return &list->tensor[i];
  fail_msg("no tensor %s", name);
  return NULL;
}

/* Expects one "name shape" a tensor, in this order. */
static void check_list(const struct model_config *c, int lines, const char *const *want)
{
  struct tensor_list list = make(c);
  for (int i = 0; i < list.count && i < lines; i++) {
    const struct tensor_spec *t = &list.tensor[i];
    char got[256], shape[64] = "";
    for (int r = 0; r < t->rank; r++)
      (void)snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%d", r ? "," : "",
                     (int)t->shape[r]);
    (void)snprintf(got, sizeof got, "%s %s", t->name, shape);
    assert_string_equal(got, want[i]);
  }
  assert_int_equal(list.count, lines);
  tensor_list_free(&list);
}
#define CHECK_LIST(c, ...)                                                     \
  check_list(c, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), \
             (const char *[]){__VA_ARGS__})

/* E = 40, H = 5, conv_dim = 40 + 2*6 = 52, d_in_proj = 80 + 12 + 5 = 97 */
static void an_implicit_model_has_the_published_names(void **state)
{
  (void)state;
  struct model_config c = config(MODEL_IMPLICIT);
  c.n_layer = 1;
  CHECK_LIST(&c, "word_emb.emb.weight 11,20", "backbone.injection_norm.weight 20",
             "backbone.injection.weight 97,20", "backbone.injection.bias 97",
             "backbone.layers.0.norm.weight 20", "backbone.layers.0.mixer.in_proj.weight 97,20",
             "backbone.layers.0.mixer.conv1d.weight 52,1,4",
             "backbone.layers.0.mixer.conv1d.bias 52", "backbone.layers.0.mixer.dt_bias 5",
             "backbone.layers.0.mixer.A_log 5", "backbone.layers.0.mixer.D 5",
             "backbone.layers.0.mixer.norm.weight 40",
             "backbone.layers.0.mixer.out_proj.weight 20,40", "backbone.norm_f.weight 20");
}

/* d_ssm = 24: H = 3, d_mlp = 16, conv_dim = 24 + 2*2*6 = 48, d_in_proj = 80 + 24 + 3 = 107 */
static void an_explicit_model_with_everything(void **state)
{
  (void)state;
  struct model_config c = config(MODEL_EXPLICIT);
  c.tie_embeddings = false;
  c.d_intermediate = 30;
  c.mamba2.d_ssm = 24;
  c.mamba2.ngroups = 2;
  c.mamba2.bias = true;
  c.mamba2.conv_bias = false;
  c.mamba2.D_has_hdim = true;
#define LAYER(i)                                                                                   \
  "backbone.layers." i ".norm.weight 20", "backbone.layers." i ".mixer.in_proj.weight 107,20",     \
      "backbone.layers." i ".mixer.in_proj.bias 107",                                              \
      "backbone.layers." i ".mixer.conv1d.weight 48,1,4", "backbone.layers." i ".mixer.dt_bias 3", \
      "backbone.layers." i ".mixer.A_log 3", "backbone.layers." i ".mixer.D 24",                   \
      "backbone.layers." i ".mixer.norm.weight 24",                                                \
      "backbone.layers." i ".mixer.out_proj.weight 20,40",                                         \
      "backbone.layers." i ".mixer.out_proj.bias 20", "backbone.layers." i ".norm2.weight 20",     \
      "backbone.layers." i ".mlp.fc1.weight 60,20", "backbone.layers." i ".mlp.fc2.weight 20,30"
  CHECK_LIST(&c, "word_emb.emb.weight 11,20", LAYER("0"), LAYER("1"), "backbone.norm_f.weight 20",
             "criterion.decoder.weight 11,20");
}

static void dimensions_follow(void **state)
{
  (void)state;
  struct model_config c = config(MODEL_IMPLICIT);
  c.mamba2.d_ssm = 24;
  struct model_dims d = model_dims(&c);
  assert_int_equal(d.V, 11);
  assert_int_equal(d.D, 20);
  assert_int_equal(d.layers, 2);
  assert_int_equal(d.E, 24);
  assert_int_equal(d.P, 8);
  assert_int_equal(d.H, 3);
  assert_int_equal(d.N, 6);
  assert_int_equal(d.W, 4);
  assert_int_equal(d.conv_dim, 36);
  assert_int_equal(d.d_mlp, 16);
  assert_int_equal(d.d_in_proj, 2 * 40 + 12 + 3);
  assert_int_equal(d.chunk, 16);
}

static void tensors_do_not_overlap(void **state)
{
  (void)state;
  struct model_config c = config(MODEL_IMPLICIT);
  c.d_intermediate = 7;
  struct tensor_list list = make(&c);
  int64_t end = 0, parameters = 0;
  for (int64_t i = 0; i < list.count; i++) {
    const struct tensor_spec *t = &list.tensor[i];
    int64_t count = 1;
    for (int r = 0; r < t->rank; r++)
      count *= t->shape[r];
    assert_int_equal(t->count, count);
    assert_int_equal(t->offset % 16, 0);
    assert_true(t->offset >= end && t->offset < end + 16);
    assert_int_equal(t->layer, strstr(t->name, "layers.1")   ? 1
                               : strstr(t->name, "layers.0") ? 0
                                                             : -1);
    assert_int_equal(t->slot >= P_LAYER_NORM, t->layer >= 0);
    for (int64_t j = 0; j < i; j++) {
      assert_string_not_equal(t->name, list.tensor[j].name);
      assert_false(t->slot == list.tensor[j].slot && t->layer == list.tensor[j].layer);
    }
    end = t->offset + t->count;
    parameters += t->count;
  }
  assert_int_equal(list.parameters, parameters);
  assert_true(list.block >= end && list.block % 16 == 0);
  tensor_list_free(&list);
}

static void matrices_decay_and_nothing_else(void **state)
{
  (void)state;
  struct model_config c = config(MODEL_IMPLICIT);
  c.d_intermediate = 8;
  c.mamba2.bias = true;
  c.tie_embeddings = false;
  struct tensor_list list = make(&c);
  for (int64_t i = 0; i < list.count; i++)
    assert_int_equal(list.tensor[i].decay, list.tensor[i].rank > 1);
  tensor_list_free(&list);
}

/* Large enough for statistics. */
static struct model_config large(void)
{
  struct model_config c = config(MODEL_IMPLICIT);
  c.d_model = 64;
  c.n_layer = 3;
  c.d_intermediate = 48;
  c.vocab_size = 500;
  c.mamba2.expand = 8;
  c.mamba2.headdim = 1; /* 512 heads */
  c.mamba2.bias = true;
  return c;
}

static double *initialise(const struct model_config *c, const struct tensor_list *list,
                          uint64_t seed)
{
  double *block = malloc((size_t)list->block * sizeof *block);
  parameters_initialise(c, list, seed, block);
  return block;
}

/* All of the tensor within +-bound, filling it, and of a uniform's variance. */
static void check_uniform(const struct tensor_list *list, const double *block, const char *name,
                          double bound)
{
  const struct tensor_spec *t = find(list, name);
  const double *x = block + t->offset;
  double largest = 0, mean = 0, square = 0, n = (double)t->count;
  for (int64_t i = 0; i < t->count; i++) {
    largest = fmax(largest, fabs(x[i]));
    mean += x[i] / n;
    square += x[i] * x[i] / n;
  }
  check_close(t->bound, bound, 1e-12, "%s: bound", name);
  assert_true(largest <= bound && largest > 0.99 * bound);
  assert_true(fabs(mean) < 4 * bound / sqrt(3 * n));
  check_close(square, bound * bound / 3, 4 / sqrt(n), "%s: variance", name);
}

static void weights_are_uniform_within_their_bounds(void **state)
{
  (void)state;
  struct model_config c = large();
  struct tensor_list list = make(&c);
  double *block = initialise(&c, &list, 1);
  check_uniform(&list, block, "backbone.injection.weight", 1 / sqrt(64));
  check_uniform(&list, block, "backbone.layers.2.mixer.in_proj.weight", 1 / sqrt(64));
  check_uniform(&list, block, "backbone.layers.0.mixer.conv1d.weight", 0.5);
  check_uniform(&list, block, "backbone.layers.0.mixer.conv1d.bias", 0.5);
  check_uniform(&list, block, "backbone.layers.1.mixer.out_proj.weight", 1 / sqrt(512. * 2 * 3));
  check_uniform(&list, block, "backbone.layers.1.mlp.fc1.weight", 1 / sqrt(64));
  check_uniform(&list, block, "backbone.layers.1.mlp.fc2.weight", 1 / sqrt(48. * 2 * 3));
  free(block);
  tensor_list_free(&list);
  c.d_intermediate = 0; /* one residual a layer */
  c.tie_embeddings = false;
  list = make(&c);
  block = initialise(&c, &list, 1);
  check_uniform(&list, block, "backbone.layers.1.mixer.out_proj.weight", 1 / sqrt(512. * 3));
  check_uniform(&list, block, "criterion.decoder.weight", 1 / sqrt(64));
  free(block);
  tensor_list_free(&list);
}

static void constants_and_embeddings(void **state)
{
  (void)state;
  struct model_config c = large();
  struct tensor_list list = make(&c);
  double *block = initialise(&c, &list, 1);
  static const char *const ones[] = {
      "backbone.injection_norm.weight",      "backbone.norm_f.weight",
      "backbone.layers.1.norm.weight",       "backbone.layers.1.mixer.D",
      "backbone.layers.1.mixer.norm.weight", "backbone.layers.1.norm2.weight"};
  static const char *const zeros[] = {"backbone.injection.bias",
                                      "backbone.layers.1.mixer.in_proj.bias",
                                      "backbone.layers.1.mixer.out_proj.bias"};
  for (size_t k = 0; k < sizeof ones / sizeof *ones; k++) {
    const struct tensor_spec *t = find(&list, ones[k]);
    for (int64_t i = 0; i < t->count; i++)
      assert_true(block[t->offset + i] == 1);
  }
  for (size_t k = 0; k < sizeof zeros / sizeof *zeros; k++) {
    const struct tensor_spec *t = find(&list, zeros[k]);
    for (int64_t i = 0; i < t->count; i++)
      assert_true(block[t->offset + i] == 0);
  }
  const struct tensor_spec *t = find(&list, "word_emb.emb.weight");
  double square = 0;
  for (int64_t i = 0; i < t->count; i++)
    square += block[t->offset + i] * block[t->offset + i] / (double)t->count;
  check_close(sqrt(square), 0.02, 0.02, "embedding: standard deviation");
  free(block);
  tensor_list_free(&list);
}

static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }

static void dt_bias_is_the_inverse_softplus(void **state)
{
  (void)state;
  struct model_config c = large();
  struct tensor_list list = make(&c);
  double *block = initialise(&c, &list, 1), mean = 0, lo = 1, hi = 0;
  const struct tensor_spec *t = find(&list, "backbone.layers.0.mixer.dt_bias");
  assert_int_equal(t->count, 512);
  for (int i = 0; i < 512; i++) {
    double delta = softplus(block[t->offset + i]);
    lo = fmin(lo, delta), hi = fmax(hi, delta);
    mean += log(delta) / 512;
  }
  assert_true(lo > 0.001 * (1 - 1e-9) && lo < 0.0011 && hi < 0.1 * (1 + 1e-9) && hi > 0.09);
  assert_true(fabs(mean - log(0.01)) < 4 * log(100) / sqrt(12. * 512)); /* uniform in the log */
  free(block);
  c.mamba2.dt_init_floor = 0.05;
  block = initialise(&c, &list, 1);
  int floored = 0;
  for (int i = 0; i < 512; i++) {
    double delta = softplus(block[t->offset + i]);
    assert_true(delta > 0.05 * (1 - 1e-9));
    floored += delta < 0.05 * (1 + 1e-9);
  }
  assert_true(floored > 256);
  free(block);
  tensor_list_free(&list);
}

static void A_is_uniform_in_its_range(void **state)
{
  (void)state;
  struct model_config c = large();
  struct tensor_list list = make(&c);
  double *block = initialise(&c, &list, 1), mean = 0, lo = 20, hi = 0;
  const struct tensor_spec *t = find(&list, "backbone.layers.0.mixer.A_log");
  for (int i = 0; i < 512; i++) {
    double A = exp(block[t->offset + i]);
    lo = fmin(lo, A), hi = fmax(hi, A);
    mean += A / 512;
  }
  assert_true(lo >= 1 - 1e-12 && lo < 1.2 && hi <= 16 && hi > 15.8);
  assert_true(fabs(mean - 8.5) < 4 * 15 / sqrt(12. * 512));
  free(block);
  tensor_list_free(&list);
}

static void the_seed_decides(void **state)
{
  (void)state;
  struct model_config c = config(MODEL_IMPLICIT);
  struct tensor_list list = make(&c);
  double *a = initialise(&c, &list, 1), *b = initialise(&c, &list, 1),
         *d = initialise(&c, &list, 2);
  assert_memory_equal(a, b, (size_t)list.block * sizeof *a);
  const struct tensor_spec *in0 = find(&list, "backbone.layers.0.mixer.in_proj.weight"),
                           *in1 = find(&list, "backbone.layers.1.mixer.in_proj.weight");
  for (int64_t i = 0; i < in0->count; i++) {
    assert_true(a[in0->offset + i] != d[in0->offset + i]);
    assert_true(a[in0->offset + i] != a[in1->offset + i]);
  }
  for (int64_t k = 0; k < list.count; k++) { /* padding */
    const struct tensor_spec *t = &list.tensor[k];
    int64_t end = k + 1 < list.count ? list.tensor[k + 1].offset : list.block;
    for (int64_t i = t->offset + t->count; i < end; i++)
      assert_true(a[i] == 0);
  }
  free(a), free(b), free(d);
  tensor_list_free(&list);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_implicit_model_has_the_published_names),
      cmocka_unit_test(an_explicit_model_with_everything),
      cmocka_unit_test(dimensions_follow),
      cmocka_unit_test(tensors_do_not_overlap),
      cmocka_unit_test(matrices_decay_and_nothing_else),
      cmocka_unit_test(weights_are_uniform_within_their_bounds),
      cmocka_unit_test(constants_and_embeddings),
      cmocka_unit_test(dt_bias_is_the_inverse_softplus),
      cmocka_unit_test(A_is_uniform_in_its_range),
      cmocka_unit_test(the_seed_decides),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
