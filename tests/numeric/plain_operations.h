/* plain_operations.h: tests of operations against straightforward code, one set a precision; `be`
 * is a struct backend of that precision.  Each fails as a cmocka test fails. */
#ifndef TESTS_NUMERIC_PLAIN_OPERATIONS_H
#define TESTS_NUMERIC_PLAIN_OPERATIONS_H

typedef void plain_test(const void *be);
#define PLAIN_TESTS(TEST)              \
  TEST(memory_holds)                   \
  TEST(vectors_match)                  \
  TEST(sum_squares_matches)            \
  TEST(dot_matches)                    \
  TEST(blocks_move)                    \
  TEST(embedding_marks_unknown_tokens) \
  TEST(linear_matches)                 \
  TEST(linear_rows_alone)              \
  TEST(norms_match)                    \
  TEST(norms_show_overflow)            \
  TEST(norms_accumulate)               \
  TEST(branches_match)                 \
  TEST(branches_accumulate)            \
  TEST(softplus_clamps)                \
  TEST(softplus_adds_or_not)           \
  TEST(losses_match)                   \
  TEST(argmax_finds_first)             \
  TEST(silu_holds_everywhere)          \
  TEST(adamw_matches)

#define DECLARE(name) extern plain_test name##_f32, name##_f64, name##_c64;
PLAIN_TESTS(DECLARE)
#undef DECLARE
#endif
