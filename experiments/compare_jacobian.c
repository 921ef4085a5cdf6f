/* compare_jacobian.c: the state-to-state Jacobian of a trained model at a few tokens of its task:
 * the theorem's for implicit models, that of one step for explicit ones (core/jacobian.h). */
#include "core/data.h"
#include "core/jacobian.h"
#include "core/run.h"
#include "experiments/compare_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STATES = 2048, RADIUS_STATES = 512, PREFIX = 15, FIRST = 7, APART = 4 };

/* A model on its way through the tokens. */
struct walk {
  const struct config *c;
  struct jacobian_sizes size;
  struct jacobian_session *session;
  struct jacobian_parts parts;
  double *x, *u, *z, *state, *J;
};

static enum status doubles(int64_t n, double **out)
{
  *out = calloc((size_t)n, sizeof **out);
  if (!*out)
    FAIL(ERR_MEMORY, "out of memory: %lld numbers", (long long)n);
  return OK;
}

/* Norm of the off-diagonal entries over that of all, in the diagonal blocks of so many layers. */
static double off_diagonal_of(const double *J, int64_t n, int64_t layers)
{
  double all = 0, off = 0;
  int64_t block = n / layers;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = i / block * block; j < (i / block + 1) * block; j++) {
      double square = J[i * n + j] * J[i * n + j];
      all += square;
      off += i == j ? 0 : square;
    }
  return all > 0 ? sqrt(off / all) : 0;
}

static enum status make_image(const double *J, int64_t n, struct compared_jacobian *j)
{
  int64_t cell = (n + COMPARE_IMAGE - 1) / COMPARE_IMAGE;
  j->image = (n + cell - 1) / cell;
  free(j->absolute);
  TRY(doubles(j->image * j->image, &j->absolute));
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < n; k++) {
      double *to = &j->absolute[i / cell * j->image + k / cell];
      *to = fmax(*to, fabs(J[i * n + k]));
    }
  return OK;
}

static enum status add_token(struct walk *w, struct compared_jacobian *j)
{
  int64_t n = w->size.states;
  double radius = (double)NAN;
  dense_transpose(n, w->J);
  j->tokens++;
  j->off_diagonal += off_diagonal_of(w->J, n, 1);
  j->within_layers += off_diagonal_of(w->J, n, w->c->model.n_layer);
  if (n <= RADIUS_STATES)
    TRY(dense_spectral_radius(jacobian_dense(w->session), n, w->J, &radius));
  j->radius += radius;
  return make_image(w->J, n, j);
}

/* The Jacobian, transposed, at the point. */
static enum status take(struct walk *w, const struct jacobian_point *at,
                        struct compared_jacobian *j)
{
  struct dense_lu lu = {0};
  TRY(jacobian_differentiate(w->session, at, &w->parts));
  if (w->c->model.kind == MODEL_EXPLICIT) {
    memcpy(w->J, w->parts.dh_dh, (size_t)(w->size.states * w->size.states) * sizeof *w->J);
    return add_token(w, j);
  }
  enum status s =
      dense_lu_of_identity_minus(jacobian_dense(w->session), w->size.D, w->parts.df_dz, &lu);
  if (s == OK && lu.singular)
    (void)snprintf(j->missing, sizeof j->missing, "I - df/dz is singular at a token");
  else if (s == OK)
    s = jacobian_theorem(&w->parts, w->state, &lu, w->J);
  dense_lu_free(&lu);
  return s == OK && !*j->missing ? add_token(w, j) : s;
}

static enum status walk_on(struct walk *w, const int32_t *tokens, struct compared_jacobian *j)
{
  bool implicit = w->c->model.kind == MODEL_IMPLICIT, found = true;
  TRY(jacobian_embed(w->session, PREFIX + 1, tokens, w->x, implicit ? w->u : NULL));
  for (int64_t t = 0; t <= PREFIX && !*j->missing; t++) {
    struct jacobian_tally unused = {0};
    struct jacobian_point at = {NULL, w->state, w->x + t * w->size.D};
    if (implicit) {
      at = (struct jacobian_point){w->u + t * w->size.d_in_proj, w->state, w->z};
      TRY(jacobian_fixed_point(w->session, &at, w->z, &unused, &found));
    }
    if (!found)
      (void)snprintf(j->missing, sizeof j->missing, "no fixed point was found at token %lld",
                     (long long)t);
    else if (t >= FIRST && (t - FIRST) % APART == 0)
      TRY(take(w, &at, j));
    TRY(jacobian_advance(w->session, &at, w->state));
  }
  return OK;
}

static enum status walk_task(struct walk *w, struct compared_jacobian *j)
{
  struct task_data data;
  int32_t tokens[2 * (PREFIX + 1)];
  int64_t S = w->size.states;
  TRY(doubles((PREFIX + 1) * w->size.D, &w->x));
  TRY(doubles((PREFIX + 1) * w->size.d_in_proj, &w->u));
  TRY(doubles(w->size.D, &w->z));
  TRY(doubles(w->size.extent, &w->state));
  TRY(doubles(S * S, &w->J));
  TRY(jacobian_parts_make(&w->c->model, false, &w->parts));
  TRY(data_open(&w->c->data, &data));
  enum status s = data_require(&data, STREAM_JACOBIAN, PREFIX + 1, "the Jacobian");
  if (s == OK) {
    data_batch(&data, (uint64_t)w->c->seed, STREAM_JACOBIAN, 0, 0, 1, PREFIX + 1, tokens,
               tokens + PREFIX + 1);
    s = walk_on(w, tokens, j);
  } else if (s == ERR_USAGE) {
    (void)snprintf(j->missing, sizeof j->missing, "the text is too short");
    s = OK;
  }
  data_close(&data);
  return s;
}

static void finish(struct compared_jacobian *j)
{
  double n = (double)j->tokens;
  if (*j->missing || j->tokens == 0) {
    free(j->absolute);
    j->absolute = NULL;
    j->image = 0;
    n = (double)NAN;
  }
  j->off_diagonal /= n, j->within_layers /= n, j->radius /= n;
}

enum status compared_jacobian_take(const struct config *c, const struct runtime *rt,
                                   const char *checkpoint, struct compared_jacobian *j)
{
  struct walk w = {.c = c, .size = jacobian_sizes(&c->model)};
  struct tensor_list list;
  double *parameters = NULL;
  *j = (struct compared_jacobian){.states = w.size.states};
  if (j->states > MOST_STATES)
    (void)snprintf(j->missing, sizeof j->missing, "too large: %lld states", (long long)j->states);
  if (*j->missing) {
    finish(j);
    return OK;
  }
  TRY(tensor_list_make(&c->model, &list));
  enum status s = jacobian_load(c, &list, rt->f64, checkpoint, &parameters);
  if (s == OK)
    s = jacobian_open(c, parameters, rt->f64, rt->solver_f64, &w.session);
  if (s == OK)
    s = walk_task(&w, j);
  jacobian_close(w.session);
  jacobian_parts_free(&w.parts);
  free(parameters), free(w.x), free(w.u), free(w.z), free(w.state), free(w.J);
  tensor_list_free(&list);
  finish(j);
  return s;
}
