/* word_problem.c: multiplication tables of groups, and sequences of their elements with the running
 * products as targets (Barrington 1989: over A5 this is complete for NC1).
 *
 * A product's elements are numbered with the last factor running fastest.
 * `aperiodic` draws its element uniformly; X absorbs, and soon every target is X.
 * `aperiodic_alive` looks at the product so far: after A only E leaves it what it is, so E is
 * drawn; otherwise A with probability 1/16, else E or B; but one element in 512 is uniform over all
 * four.
 */
#include "core/word_problem.h"
#include "core/group_name.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PERMUTATIONS = 720 };
enum { E, A, B, X, MONOID };

static const int32_t aperiodic[MONOID * MONOID] = {
    E, A, B, X, /* */
    A, X, X, X, /* */
    B, A, B, X, /* */
    X, X, X, X,
};

/* A group as its table (order,order). */
struct group {
  int32_t order, *table;
};

static enum status table_alloc(int64_t order, struct group *g)
{
  g->order = (int32_t)order;
  g->table = malloc((size_t)(order * order) * sizeof *g->table);
  if (!g->table)
    FAIL(ERR_MEMORY, "out of memory: the table of a group of order %d", (int)order);
  return OK;
}

static enum status cyclic(int32_t n, struct group *g)
{
  TRY(table_alloc(n, g));
  for (int32_t i = 0; i < n; i++)
    for (int32_t j = 0; j < n; j++)
      g->table[i * n + j] = (i + j) % n;
  return OK;
}

/* The images of the rank-th permutation of n things in lexicographic order. */
static void unrank(int n, int rank, int image[GROUP_DEGREE])
{
  bool used[GROUP_DEGREE] = {false};
  int ways = 1; /* to go on from the present place */
  for (int i = 2; i < n; i++)
    ways *= i;
  for (int i = 0; i < n; i++) {
    int skip = rank / ways, value = 0;
    rank %= ways;
    ways /= n - 1 - i > 0 ? n - 1 - i : 1;
    while (used[value] || skip-- > 0)
      value++;
    image[i] = value;
    used[value] = true;
  }
}

/* Its rank, and whether it is even. */
static int rank_of(int n, const int image[GROUP_DEGREE], bool *even)
{
  int rank = 0, inversions = 0;
  for (int i = 0; i < n; i++) {
    int smaller = 0;
    for (int j = i + 1; j < n; j++)
      smaller += image[j] < image[i];
    inversions += smaller;
    rank = rank * (n - i) + smaller;
  }
  *even = inversions % 2 == 0;
  return rank;
}

/* Sn, or An when only the even ones are wanted: both in lexicographic order of the images. */
static enum status permutations(int n, bool even_only, struct group *g)
{
  static_assert(GROUP_DEGREE == 6, "MAX_PERMUTATIONS is 6!");
  int image[MAX_PERMUTATIONS][GROUP_DEGREE], number[MAX_PERMUTATIONS];
  int all = 1, order = 0;
  for (int i = 2; i <= n; i++)
    all *= i;
  for (int rank = 0; rank < all; rank++) {
    bool even;
    unrank(n, rank, image[order]);
    number[rank_of(n, image[order], &even)] = order;
    order += even || !even_only;
  }
  TRY(table_alloc(order, g));
  for (int x = 0; x < order; x++)
    for (int y = 0; y < order; y++) {
      int product[GROUP_DEGREE];
      bool even;
      for (int i = 0; i < n; i++)
        product[i] = image[x][image[y][i]];
      g->table[x * order + y] = number[rank_of(n, product, &even)];
    }
  return OK;
}

/* g <- g * h */
static enum status direct_product(struct group *g, const struct group *h)
{
  int32_t n = g->order, m = h->order;
  struct group p;
  TRY(table_alloc((int64_t)n * m, &p));
  for (int32_t x = 0; x < p.order; x++)
    for (int32_t y = 0; y < p.order; y++)
      p.table[(int64_t)x * p.order + y] =
          g->table[x / m * n + y / m] * m + h->table[x % m * m + y % m];
  free(g->table);
  *g = p;
  return OK;
}

static enum status group_read(const char *name, struct group *g)
{
  int64_t order;
  TRY(group_name_order(name, &order));
  TRY(cyclic(1, g));
  for (const char *at = name;; at++) {
    struct group factor = {0};
    char *end;
    long n;
    CHECK(group_factor(at, &n, &end) > 0 && n > 0);
    enum status made =
        *at == 'Z' ? cyclic((int32_t)n, &factor) : permutations((int)n, *at == 'A', &factor);
    if (made == OK)
      made = direct_product(g, &factor);
    free(factor.table);
    TRY(made);
    at = end;
    if (!*at)
      return OK;
  }
}

enum status word_problem_init(const struct data_config *c, struct word_problem *w)
{
  struct group g = {0};
  *w = (struct word_problem){.kind = c->monoid, .identity_probability = c->identity_probability};
  enum status read = group_read(c->group, &g);
  if (read != OK) {
    free(g.table);
    return read;
  }
  w->group = g.order;
  w->group_table = g.table;
  w->monoid = c->monoid == MONOID_TRIVIAL ? 1 : MONOID;
  if (w->monoid == MONOID)
    memcpy(w->monoid_table, aperiodic, sizeof aperiodic);
  return OK;
}

void word_problem_free(struct word_problem *w)
{
  free(w->group_table);
  *w = (struct word_problem){0};
}

int64_t word_problem_vocabulary(const struct word_problem *w)
{
  return (int64_t)w->group * w->monoid;
}

/* From 32 random bits, given the product so far. */
static int32_t draw_monoid(enum monoid_kind kind, int32_t product, uint32_t word)
{
  if (kind == MONOID_TRIVIAL)
    return 0;
  if (kind == MONOID_APERIODIC || word >> 23 == 0) /* one in 512 */
    return (int32_t)(word >> (kind == MONOID_APERIODIC ? 30 : 21) & 3);
  if (product == A)
    return E;
  return (word >> 12 & 15) == 0 ? A : word & 1 ? B : E;
}

void word_problem_batch(const struct word_problem *w, uint64_t seed, enum philox_stream stream,
                        uint32_t step, uint32_t first, int64_t sequences, int64_t length,
                        int32_t *tokens, int32_t *targets)
{
  for (int64_t s = 0; s < sequences; s++) {
    int32_t g = 0, m = 0; /* the products so far, from the identities */
    for (int64_t t = 0; t < length; t++) {
      uint32_t word[4];
      philox(seed, (uint32_t)stream, step, first + (uint32_t)s, (uint32_t)t, word);
      bool identity = word[2] * 0x1p-32 < w->identity_probability;
      int32_t x = identity ? 0 : (int32_t)philox_below(word, (uint32_t)w->group);
      int32_t y = draw_monoid(w->kind, m, word[3]);
      g = w->group_table[(int64_t)g * w->group + x];
      m = w->monoid_table[m * w->monoid + y];
      tokens[s * length + t] = x * w->monoid + y;
      targets[s * length + t] = g * w->monoid + m;
    }
  }
}
