/* device_operations.h: operations that have no derivative, or that the model calls in forms beyond
 * their cases, on the CPU and on another device from the same data; by precision.  `cpu` and
 * `device` are struct backend of that precision.  Each fails as a cmocka test fails. */
#ifndef TESTS_NUMERIC_DEVICE_OPERATIONS_H
#define TESTS_NUMERIC_DEVICE_OPERATIONS_H
#include <stdint.h>

typedef void device_test(const void *cpu, const void *device, uint64_t seed);
#define DEVICE_TESTS(TEST)     \
  TEST(device_holds_memory)    \
  TEST(device_vectors)         \
  TEST(device_blocks)          \
  TEST(device_argmax)          \
  TEST(device_losses)          \
  TEST(device_adamw)           \
  TEST(device_masks)           \
  TEST(device_products)        \
  TEST(device_branches)        \
  TEST(device_reductions)      \
  TEST(device_norms)           \
  TEST(device_gated_linear)    \
  TEST(device_embedding)       \
  TEST(device_columns)         \
  TEST(device_norm_products)   \
  TEST(device_softplus)        \
  TEST(device_convolutions)    \
  TEST(device_linear_conv)     \
  TEST(device_unkept_outputs)  \
  TEST(device_whole_sequences) \
  TEST(device_carried_states)

#define DECLARE_DEVICE(name) extern device_test name##_f32, name##_f64;
DEVICE_TESTS(DECLARE_DEVICE)
/* where products may be of tf32; and, which takes long on the stand-in, with many rows */
DECLARE_DEVICE(device_rounded_gated_linear)
DECLARE_DEVICE(device_many_gated_rows)
DECLARE_DEVICE(device_rounded_linear_conv)
DECLARE_DEVICE(device_rounded_whole_sequences)
DECLARE_DEVICE(device_many_linear_conv)
DECLARE_DEVICE(device_rounded_norm_products)
DECLARE_DEVICE(device_many_norm_products)
DECLARE_DEVICE(device_rounded_weights)
DECLARE_DEVICE(device_many_weights)
#undef DECLARE_DEVICE
#endif
