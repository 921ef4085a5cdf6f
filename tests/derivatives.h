/* derivatives.h: what every differentiable operation must hold, checked on its cases.
 *
 * In float64, for each case: the JVP and the VJP against the complex step of the same source,
 * against central differences, and against each other (dot product); a VJP adds; NULL outputs,
 * cotangents and tangents change nothing else; an optional NULL input is zeros.  Every instruction
 * set agrees with the baseline, float32 agrees with float64 within the case's bound, and one thread
 * gives the bits that several do.  Outputs hold NaN before they are written. */
#ifndef TESTS_DERIVATIVES_H
#define TESTS_DERIVATIVES_H
#include "tests/numeric/operation_case.h"

#define CASE_LIST(list) case_list list##_f32, list##_f64, list##_c64
#define check_operations(list) check_operations_(list##_f32, list##_f64, list##_c64)

/* Prints every violation; fails at the end when there was one. */
void check_operations_(case_list *f32, case_list *f64, case_list *c64);

/* Forward, VJP and JVP of every case on another device's backends (struct backend of each
 * precision) against the CPU's float64, with inputs drawn by `seed`; twice gives the same bits.
 * Its float32 products round to `unit`. */
#define FLOAT_UNIT 0x1p-24
#define TF32_UNIT 0x1p-11
#define check_on_device(list, f32, f64, unit, seed) \
  check_on_device_(list##_f32, list##_f64, f32, f64, unit, seed)
void check_on_device_(case_list *f32, case_list *f64, const void *device_f32,
                      const void *device_f64, double unit, uint64_t seed);
#endif
