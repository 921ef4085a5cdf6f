/* ssd_forms.h: tests that the forms of the SSD and of the convolution agree with each other and
 * with their definitions, one set a precision; `be` is a struct backend of that precision. */
#ifndef TESTS_NUMERIC_SSD_FORMS_H
#define TESTS_NUMERIC_SSD_FORMS_H

typedef void forms_test(const void *be);
#define FORMS_TESTS(TEST)         \
  TEST(recurrence_is_definition)  \
  TEST(chunks_are_recurrence)     \
  TEST(shapes_are_recurrence)     \
  TEST(nothing_kept_of_zeros)     \
  TEST(states_need_not_be_kept)   \
  TEST(steps_are_whole)           \
  TEST(advance_is_prefix)         \
  TEST(rows_carry_states)         \
  TEST(convolution_is_definition) \
  TEST(convolution_adds_or_not)

#define DECLARE(name) extern forms_test name##_f32, name##_f64, name##_c64;
FORMS_TESTS(DECLARE)
#undef DECLARE

/* y and dt's cotangent of one head under decays of exp(-1.6) a token in one chunk of 256 tokens:
 * exponents up to 400, which float32 resolves to 3e-5 only. */
enum { DECAYING_TOKENS = 256, DECAYING_CHANNELS = 4 };
typedef void decaying_outputs(const void *be, double *y, double *dtb);
extern decaying_outputs ssd_decaying_outputs_f32, ssd_decaying_outputs_f64;
#endif
