/* model_gradient.c: see model_gradient.h. */
#include "tests/model_gradient.h"
#include "core/philox.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct config small_model(const char *model, const char *mamba2)
{
  struct config c;
  char yaml[2048];
  (void)snprintf(
      yaml, sizeof yaml,
      "name: small\ndtype: f64\n"
      "model: {kind: implicit, d_model: 4, n_layer: 2, tie_embeddings: false, %s\n"
      "  mamba2: {d_state: 2, expand: 2, headdim: 2, ngroups: 2, d_conv: 3, %s chunk_size: 4}}\n"
      "deq:\n  forward: {solver: picard, max_iter: 4000, tol: 1.0e-13}\n"
      "  backward: {solver: picard, max_iter: 4000, tol: 1.0e-13}\n"
      "  unroll: {iterations: 4, damping: 0.8}\n  phantom: {steps: 3, damping: 0.7}\n"
      "data: {task: word_problem, group: S3, length: 6}\n",
      model, mamba2);
  check_ok(config_parse("small.yaml", yaml, strlen(yaml), &c));
  c.model.vocab_size = 6;
  return c;
}

void draw_tokens(int64_t n, int32_t *tokens, int32_t *labels)
{
  for (int64_t i = 0; i < n; i++) {
    uint32_t word[4];
    philox(5, STREAM_TEST, 100, (uint32_t)i, 0, word);
    tokens[i] = (int32_t)(word[0] % 6);
    if (labels)
      labels[i] = i % 5 == 4 ? -100 : (int32_t)(word[1] % 6);
  }
}

/* The gradient along a random direction against the complex step and central differences. */
static void check_direction(const struct config *c, const struct gradient_case *with,
                            const struct tensor_list *list, const double *block,
                            const double *gradient, const int32_t *tokens, const int32_t *labels)
{
  /* at the point itself first: the iterates are its own; then Richardson's central differences */
  const double h = 5e-5, steps[] = {0, h, -h, 2 * h, -2 * h};
  const double weights[] = {0, 8 / (12 * h), -8 / (12 * h), -1 / (12 * h), 1 / (12 * h)};
  double *direction = calloc((size_t)list->block, sizeof *direction), want = 0, difference = 0;
  double *at = calloc((size_t)list->block, sizeof *at);
  struct probe_result r = {0};
  for (int64_t i = 0; i < list->count; i++)
    for (int64_t j = 0; j < list->tensor[i].count; j++) {
      int64_t k = list->tensor[i].offset + j;
      uint32_t word[4];
      philox(6, STREAM_TEST, 101, (uint32_t)k, 0, word);
      direction[k] = 2 * philox_uniform(word[0], word[1]) - 1;
      want += gradient[k] * direction[k];
    }
  struct probe_c64 *q = probe_open_c64(c, ROWS, LENGTH, true, with->detach);
  probe_batch_c64(q, with->lengths, with->dropout);
  probe_direct_c64(q, block, direction);
  probe_learn_c64(q, with->kind, tokens, labels, &r);
  probe_close_c64(q);
  check_close(want, r.loss_im, with->tol, "dot product with a direction");
  struct probe_f64 *p = probe_open_f64(c, ROWS, LENGTH, true, with->detach);
  probe_batch_f64(p, with->lengths, with->dropout);
  for (int k = 0; k < 5; k++) {
    for (int64_t i = 0; i < list->block; i++)
      at[i] = block[i] + steps[k] * direction[i];
    probe_set_f64(p, at, -1);
    probe_learn_f64(p, with->kind, tokens, labels, &r);
    difference += weights[k] * r.loss;
  }
  probe_close_f64(p);
  check_close(want, difference, 1e-7, "central differences along a direction");
  free(direction), free(at);
}

/* The gradient of every parameter against the complex step through the same computation; under the
 * sanitizers, which look for other faults, that of every eighth. */
#ifdef __SANITIZE_ADDRESS__
enum { EVERY = 8 };
#else
enum { EVERY = 1 };
#endif

void check_gradient(struct config c, struct gradient_case with)
{
  enum gradient_kind kind = with.kind;
  struct tensor_list list;
  double *block = probe_parameters(&c, 0.3, 4, 7, &list);
  double *got = calloc((size_t)list.block, sizeof *got);
  double *want = calloc((size_t)list.block, sizeof *want);
  int32_t tokens[ROWS * LENGTH], labels[ROWS * LENGTH];
  draw_tokens(ROWS * LENGTH, tokens, labels);
  for (int r = 0; with.lengths && r < ROWS; r++)
    for (int i = with.lengths[r]; i < LENGTH; i++)
      labels[r * LENGTH + i] = -100;

  struct probe_f64 *p = probe_open_f64(&c, ROWS, LENGTH, true, false);
  struct probe_result r = {.gradient = got};
  probe_set_f64(p, block, -1);
  probe_batch_f64(p, with.lengths, with.dropout);
  probe_learn_f64(p, kind, tokens, labels, &r);
  probe_close_f64(p);
  if (r.forward.samples && !with.unconverged)
    assert_int_equal(r.forward.exits[FP_CONVERGED], r.forward.samples);
  if (kind == GRADIENT_IFT)
    assert_int_equal(r.backward.exits[FP_CONVERGED], r.backward.samples);

  with.detach = kind == GRADIENT_PHANTOM || kind == GRADIENT_JFB;
  if (with.direction)
    check_direction(&c, &with, &list, block, got, tokens, labels);
  struct probe_c64 *q = probe_open_c64(&c, ROWS, LENGTH, true, with.detach);
  probe_batch_c64(q, with.lengths, with.dropout);
  for (int64_t i = 0; i < list.count; i++) {
    const struct tensor_spec *t = &list.tensor[i];
    memcpy(want + t->offset, got + t->offset, (size_t)t->count * sizeof *want);
    for (int64_t j = 0; j < t->count; j += EVERY) {
      struct probe_result s = {0};
      probe_set_c64(q, block, t->offset + j);
      probe_learn_c64(q, kind, tokens, labels, &s);
      if (s.forward.samples && !with.unconverged)
        assert_int_equal(s.forward.exits[FP_CONVERGED], s.forward.samples);
      check_close(s.loss, r.loss, kind == GRADIENT_IFT ? 1e-11 : 1e-12, "loss");
      want[t->offset + j] = s.loss_im;
    }
    check_arrays_close(t->count, got + t->offset, want + t->offset, with.tol, "%s of %s",
                       gradient_name(kind), t->name);
  }
  probe_close_c64(q);
  tensor_list_free(&list);
  free(block), free(got), free(want);
}
