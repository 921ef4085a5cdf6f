/* device_solves.h: solves on a device that captures their iterations, beside the same solves
 * without graphs; by precision.  `device` and `solver` are struct backend and struct solver_port of
 * that precision.  Each fails as a cmocka test fails. */
#ifndef TESTS_NUMERIC_DEVICE_SOLVES_H
#define TESTS_NUMERIC_DEVICE_SOLVES_H
#include <stdbool.h>

/* How the iterations of a solve on the device were enqueued. */
struct solve_calls {
  int calls;    /* of f; where nothing is captured, as many as there are iterations */
  int captured; /* graphs there should be */
  int replayed; /* ... and replays of them */
};

/* The solves, by method and window; rows leave them early. */
enum { DEVICE_SOLVES = 8 };
const char *device_solve_name(int solve);

/* Solves twice, with and without graphs: the same bits.  looks: f is said to be capturable, but
 * downloads something.  Returns how the first was enqueued: *calls as f saw it, what should be from
 * the rows that the second solve's f saw. */
typedef struct solve_calls device_solve_test(const void *device, const void *solver, int solve,
                                             bool looks);
extern device_solve_test device_solve_f32, device_solve_f64;
#endif
