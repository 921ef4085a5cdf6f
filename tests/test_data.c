/* test_data.c: Philox and the word problems. */
#include "tests/check.h"
#include "core/data.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* kat_vectors of Random123, philox4x32 with 10 rounds: counter, key, result. */
static void philox_known_answers(void **state)
{
  (void)state;
  static const uint32_t known[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
       0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
       0x94fdcceb, 0x5001e420, 0x24126ea1}};
  for (int i = 0; i < 3; i++) {
    const uint32_t *k = known[i];
    uint32_t out[4];
    philox((uint64_t)k[5] << 32 | k[4], k[0], k[1], k[2], k[3], out);
    assert_memory_equal(out, k + 6, sizeof out);
  }
}

static void uniform_fills_the_unit_interval(void **state)
{
  (void)state;
  assert_true(philox_uniform(0, 0) == 0);
  assert_true(philox_uniform(UINT32_MAX, UINT32_MAX) == 1 - 0x1p-53);
  assert_true(philox_uniform(0x80000000, 0) == 0.5);
}

static void normal_has_its_moments(void **state)
{
  (void)state;
  enum { COUNT = 100000 };
  double m1 = 0, m2 = 0, m4 = 0;
  for (uint32_t i = 0; i < COUNT; i++) {
    uint32_t word[4];
    philox(1, STREAM_TEST, 0, 0, i, word);
    double x = philox_normal(word);
    m1 += x / COUNT, m2 += x * x / COUNT, m4 += x * x * x * x / COUNT;
  }
  assert_true(fabs(m1) < 0.015 && fabs(m2 - 1) < 0.02 && fabs(m4 - 3) < 0.15);
  uint32_t low[4] = {0}, high[4] = {UINT32_MAX, UINT32_MAX, 0, 0};
  assert_true(philox_normal(low) == 0 && isfinite(philox_normal(high)));
}

static void below_is_multiply_shift(void **state)
{
  (void)state;
  static const uint32_t n[] = {1, 2, 60, 720, 4096, 0xffffffff};
  for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
    uint32_t low[4] = {0}, high[4] = {UINT32_MAX, UINT32_MAX, 0, 0};
    assert_int_equal(philox_below(low, n[i]), 0);
    assert_int_equal(philox_below(high, n[i]), n[i] - 1);
  }
  int seen[6] = {0};
  for (uint32_t i = 0; i < 60000; i++) {
    uint32_t word[4];
    philox(2, STREAM_TEST, 0, 0, i, word);
    seen[philox_below(word, 6)]++;
  }
  for (int i = 0; i < 6; i++)
    assert_in_range(seen[i], 9600, 10400);
  /* the lower word counts: n = 3 turns from 0 to 1 at 2^64/3 */
  assert_int_equal(philox_below((uint32_t[4]){0x80000000, 0, 0, 0}, 2), 1);
  assert_int_equal(philox_below((uint32_t[4]){0x55555555, 0x55555555, 0, 0}, 3), 0);
  assert_int_equal(philox_below((uint32_t[4]){0x55555555, 0x55555556, 0, 0}, 3), 1);
}

static struct word_problem problem(const char *group, enum monoid_kind monoid, double identity)
{
  struct data_config c = {.monoid = monoid, .identity_probability = identity};
  strncpy(c.group, group, sizeof c.group - 1);
  struct word_problem w;
  check_ok(word_problem_init(&c, &w));
  return w;
}

/* Identity first, rows and columns permutations, associative (for all y of a subset that generates,
 * which is enough: Light's test; `stride` 1 takes all). */
static void check_group(const char *name, int32_t order, bool commutative)
{
  struct word_problem w = problem(name, MONOID_TRIVIAL, 0);
  const int32_t *table = w.group_table;
  int32_t n = w.group, stride = n <= 360 ? 1 : 13;
  assert_int_equal(n, order);
  assert_int_equal(word_problem_vocabulary(&w), order);
  char *row = calloc((size_t)n, 1), *column = calloc((size_t)n, 1);
  bool commutes = true;
  for (int32_t x = 0; x < n; x++) {
    assert_int_equal(table[x], x);
    assert_int_equal(table[x * n], x);
    memset(row, 0, (size_t)n);
    memset(column, 0, (size_t)n);
    for (int32_t y = 0; y < n; y++) {
      assert_true(table[x * n + y] >= 0 && table[x * n + y] < n);
      row[table[x * n + y]]++;
      column[table[y * n + x]]++;
      commutes = commutes && table[x * n + y] == table[y * n + x];
    }
    assert_null(memchr(row, 0, (size_t)n));
    assert_null(memchr(column, 0, (size_t)n));
  }
  assert_int_equal(commutes, commutative);
  int64_t wrong = 0;
  for (int32_t x = 0; x < n; x++)
    for (int32_t y = 0; y < n; y += stride)
      for (int32_t z = 0; z < n; z++)
        wrong += table[table[x * n + y] * n + z] != table[x * n + table[y * n + z]];
  assert_int_equal(wrong, 0);
  free(row);
  free(column);
  word_problem_free(&w);
}

static void groups_are_groups(void **state)
{
  (void)state;
  static const struct {
    const char *name;
    int32_t order;
    bool commutative;
  } group[] = {
      {"Z1", 1, true},    {"Z2", 2, true},       {"Z60", 60, true},     {"Z211", 211, true},
      {"S1", 1, true},    {"S2", 2, true},       {"S3", 6, false},      {"S4", 24, false},
      {"S5", 120, false}, {"S6", 720, false},    {"A1", 1, true},       {"A2", 1, true},
      {"A3", 3, true},    {"A4", 12, false},     {"A5", 60, false},     {"A6", 360, false},
      {"Z2*Z2", 4, true}, {"A5*Z2", 120, false}, {"Z2*A5", 120, false}, {"A4*Z3*Z2", 72, false}};
  for (size_t i = 0; i < sizeof group / sizeof *group; i++)
    check_group(group[i].name, group[i].order, group[i].commutative);
}

/* All permutations of n things in lexicographic order, found by counting through all words over n
 * letters; the parity by counting cycles. */
static int lexicographic(int n, bool even_only, int image[][6])
{
  int words = 1, count = 0;
  for (int i = 0; i < n; i++)
    words *= n;
  for (int word = 0; word < words; word++) {
    int *p = image[count], seen = 0, cycles = 0, rest = word;
    for (int i = n - 1; i >= 0; i--, rest /= n)
      seen |= 1 << (p[i] = rest % n);
    if (seen != (1 << n) - 1)
      continue;
    for (int i = 0; i < n; i++)
      if (seen >> i & 1) {
        cycles++;
        for (int j = i; seen >> j & 1; j = p[j])
          seen &= ~(1 << j);
      }
    count += !even_only || (n - cycles) % 2 == 0;
  }
  return count;
}

static void check_permutations(const char *name, int n, bool even_only)
{
  static int image[721][6];
  struct word_problem w = problem(name, MONOID_TRIVIAL, 0);
  assert_int_equal(lexicographic(n, even_only, image), w.group);
  for (int x = 0; x < w.group; x++)
    for (int y = 0; y < w.group; y++)
      for (int i = 0; i < n; i++)
        if (image[w.group_table[x * w.group + y]][i] != image[x][image[y][i]])
          fail_msg("%s: (%d %d)(%d)", name, x, y, i);
  word_problem_free(&w);
}

static void permutations_are_lexicographic(void **state)
{
  (void)state;
  check_permutations("S3", 3, false);
  check_permutations("S5", 5, false);
  check_permutations("A4", 4, true);
  check_permutations("A5", 5, true);
  check_permutations("A6", 6, true);
}

static void products_act_by_factor(void **state)
{
  (void)state;
  struct word_problem a = problem("A5", MONOID_TRIVIAL, 0), z = problem("Z3", MONOID_TRIVIAL, 0),
                      p = problem("A5*Z3", MONOID_TRIVIAL, 0);
  for (int x = 0; x < 180; x++)
    for (int y = 0; y < 180; y++)
      assert_int_equal(p.group_table[x * 180 + y],
                       a.group_table[x / 3 * 60 + y / 3] * 3 + z.group_table[x % 3 * 3 + y % 3]);
  word_problem_free(&a);
  word_problem_free(&z);
  word_problem_free(&p);
}

static void bad_groups_are_refused(void **state)
{
  (void)state;
  static const char *const bad[] = {"",         "Q8",     "S7",    "A7",
                                    "S0",       "Z0",     "Z",     "Z-3",
                                    "Z3x",      "z3",     "Z4097", "A5*",
                                    "*A5",      "A5**Z2", "S6*S4", "Z64*Z65",
                                    "Z2*Z4096", "Z3 ",    "Z 3",   "Z99999999999999999999"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct data_config c = {0};
    struct word_problem w;
    strncpy(c.group, bad[i], sizeof c.group - 1);
    assert_int_equal(word_problem_init(&c, &w), ERR_USAGE);
    assert_non_null(strstr(last_error(), bad[i]));
    assert_non_null(strstr(last_error(), "allowed: Zn, Sn and An (n <= 6)"));
    word_problem_free(&w);
  }
}

static void the_largest_group_is_taken(void **state)
{
  (void)state;
  struct word_problem w = problem("Z64*Z64", MONOID_APERIODIC, 0);
  assert_int_equal(word_problem_vocabulary(&w), 16384);
  assert_int_equal(w.group_table[4095 * 4096 + 4095], 62 * 64 + 62);
  word_problem_free(&w);
}

static void the_monoid_is_the_papers(void **state)
{
  (void)state;
  static const char rows[] = "EABXAXXXBABXXXXX";
  struct word_problem w = problem("Z1", MONOID_APERIODIC, 0);
  assert_int_equal(word_problem_vocabulary(&w), 4);
  for (int i = 0; i < 16; i++)
    assert_int_equal("EABX"[w.monoid_table[i]], rows[i]);
  for (int x = 0; x < 4; x++)
    for (int y = 0; y < 4; y++)
      for (int z = 0; z < 4; z++)
        assert_int_equal(w.monoid_table[w.monoid_table[x * 4 + y] * 4 + z],
                         w.monoid_table[x * 4 + w.monoid_table[y * 4 + z]]);
  word_problem_free(&w);
}

enum { SEQUENCES = 64, LENGTH = 300 };
static int32_t tokens[SEQUENCES * LENGTH], targets[SEQUENCES * LENGTH];

static void batch(const struct word_problem *w, uint32_t step)
{
  word_problem_batch(w, 7, STREAM_TRAIN, step, 0, SEQUENCES, LENGTH, tokens, targets);
}

static void targets_follow_the_product(void **state)
{
  (void)state;
  static const enum monoid_kind kind[] = {MONOID_TRIVIAL, MONOID_APERIODIC, MONOID_APERIODIC_ALIVE};
  for (int k = 0; k < 3; k++) {
    struct word_problem w = problem("A5*Z2", kind[k], 0.3);
    batch(&w, 5);
    for (int s = 0; s < SEQUENCES; s++)
      for (int t = 0; t < LENGTH; t++) {
        int32_t x = tokens[s * LENGTH + t], y = targets[s * LENGTH + t], m = w.monoid;
        assert_in_range(x, 0, word_problem_vocabulary(&w) - 1);
        if (t == 0) {
          assert_int_equal(y, x);
          continue;
        }
        int32_t before = targets[s * LENGTH + t - 1];
        assert_int_equal(y / m, w.group_table[before / m * w.group + x / m]);
        assert_int_equal(y % m, w.monoid_table[before % m * m + x % m]);
      }
    word_problem_free(&w);
  }
}

static void any_part_can_be_replayed(void **state)
{
  (void)state;
  struct word_problem w = problem("S4", MONOID_APERIODIC_ALIVE, 0.1);
  int32_t x[LENGTH], y[LENGTH];
  batch(&w, 9);
  for (uint32_t s = 0; s < SEQUENCES; s += 21)
    for (int64_t length = 1; length <= LENGTH; length += 23) { /* a prefix of what is longer */
      word_problem_batch(&w, 7, STREAM_TRAIN, 9, s, 1, length, x, y);
      assert_memory_equal(x, tokens + s * LENGTH, (size_t)length * sizeof *x);
      assert_memory_equal(y, targets + s * LENGTH, (size_t)length * sizeof *y);
    }
  word_problem_batch(&w, 7, STREAM_EVALUATE, 9, 0, 1, LENGTH, x, y);
  assert_memory_not_equal(x, tokens, sizeof x);
  word_problem_batch(&w, 8, STREAM_TRAIN, 9, 0, 1, LENGTH, x, y);
  assert_memory_not_equal(x, tokens, sizeof x);
  word_problem_batch(&w, 7, STREAM_TRAIN, 10, 0, 1, LENGTH, x, y);
  assert_memory_not_equal(x, tokens, sizeof x);
  assert_memory_not_equal(tokens, tokens + LENGTH, sizeof x);
  word_problem_free(&w);
}

/* Expects `share` of the drawn group elements to be the identity, and the others to be even. */
static void check_elements(double identity, double share)
{
  struct word_problem w = problem("S3", MONOID_TRIVIAL, identity);
  int seen[6] = {0};
  double total = SEQUENCES * LENGTH;
  batch(&w, 1);
  for (int i = 0; i < SEQUENCES * LENGTH; i++)
    seen[tokens[i]]++;
  for (int i = 0; i < 6; i++) {
    double want = i == 0 ? share : (1 - share) / 5;
    assert_true(fabs(seen[i] / total - want) <= 4 * sqrt(want * (1 - want) / total));
  }
  word_problem_free(&w);
}

static void identity_has_its_probability(void **state)
{
  (void)state;
  check_elements(0, 1. / 6); /* uniform over the whole group */
  check_elements(0.7, 0.7 + 0.3 / 6);
  check_elements(1, 1);
}

/* Share of the targets from position `from` on whose monoid part is X. */
static double dead(enum monoid_kind kind, int from, int to)
{
  struct word_problem w = problem("Z2", kind, 0);
  int x = 0;
  batch(&w, 3);
  for (int s = 0; s < SEQUENCES; s++)
    for (int t = from; t < to; t++)
      x += targets[s * LENGTH + t] % 4 == 3;
  word_problem_free(&w);
  return (double)x / (SEQUENCES * (to - from));
}

static void the_aperiodic_monoid_dies_and_the_other_lives(void **state)
{
  (void)state;
  assert_true(dead(MONOID_APERIODIC, 10, LENGTH) > 0.998);
  assert_true(dead(MONOID_APERIODIC_ALIVE, 0, 16) < 0.03);
  assert_true(dead(MONOID_APERIODIC_ALIVE, 0, 128) < 0.15);
  assert_true(dead(MONOID_APERIODIC_ALIVE, 0, LENGTH) > 0); /* rare, not absent */
  struct word_problem w = problem("Z1", MONOID_APERIODIC_ALIVE, 0);
  int seen[4] = {0};
  batch(&w, 4);
  for (int s = 0; s < SEQUENCES; s++)
    for (int t = 0; t < 16; t++)
      seen[targets[s * LENGTH + t]]++;
  for (int i = 0; i < 3; i++)
    assert_true(seen[i] > 16);
  word_problem_free(&w);
}

/* A large batch is drawn in parts, by several threads where there are any: 41 sequences at a time
 * and the rest, or one that is long. */
static void a_large_batch_is_drawn_in_parts(void **state)
{
  (void)state;
  static const int64_t shapes[][2] = {{300, 99}, {5, 9000}};
  struct data_config c = {.group = "A5", .monoid = MONOID_APERIODIC, .identity_probability = 0.5};
  struct task_data d;
  check_ok(data_open(&c, &d));
  for (int i = 0; i < 2; i++) {
    int64_t sequences = shapes[i][0], length = shapes[i][1], n = sequences * length;
    int32_t *got = malloc((size_t)(4 * n) * sizeof *got), *want = got + 2 * n;
    assert_non_null(got);
    data_batch(&d, 3, STREAM_TRAIN, 5, 7, sequences, length, got, got + n);
    word_problem_batch(&d.problem, 3, STREAM_TRAIN, 5, 7, sequences, length, want, want + n);
    assert_memory_equal(got, want, (size_t)(2 * n) * sizeof *got);
    free(got);
  }
  data_close(&d);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(philox_known_answers),
      cmocka_unit_test(uniform_fills_the_unit_interval),
      cmocka_unit_test(normal_has_its_moments),
      cmocka_unit_test(below_is_multiply_shift),
      cmocka_unit_test(groups_are_groups),
      cmocka_unit_test(permutations_are_lexicographic),
      cmocka_unit_test(products_act_by_factor),
      cmocka_unit_test(bad_groups_are_refused),
      cmocka_unit_test(the_largest_group_is_taken),
      cmocka_unit_test(the_monoid_is_the_papers),
      cmocka_unit_test(targets_follow_the_product),
      cmocka_unit_test(any_part_can_be_replayed),
      cmocka_unit_test(identity_has_its_probability),
      cmocka_unit_test(the_aperiodic_monoid_dies_and_the_other_lives),
      cmocka_unit_test(a_large_batch_is_drawn_in_parts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
