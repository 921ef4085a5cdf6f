/* training.h: training and evaluation, by precision; programs call run.h. */
#ifndef CORE_TRAINING_H
#define CORE_TRAINING_H
#include "core/run.h"

MUST_USE enum status train_f32(const struct config *c, const struct backend_f32 *be,
                               const struct solver_port_f32 *solver, const struct train_options *o);
MUST_USE enum status train_f64(const struct config *c, const struct backend_f64 *be,
                               const struct solver_port_f64 *solver, const struct train_options *o);
MUST_USE enum status evaluate_f32(const struct config *c, const struct backend_f32 *be,
                                  const struct solver_port_f32 *solver, const char *dir,
                                  const struct given_request *o);
MUST_USE enum status measure_f32(const struct config *c, const struct backend_f32 *be,
                                 const struct solver_port_f32 *solver, const char *dir,
                                 const struct evaluation_request *q, struct evaluation *e);
MUST_USE enum status evaluate_f64(const struct config *c, const struct backend_f64 *be,
                                  const struct solver_port_f64 *solver, const char *dir,
                                  const struct given_request *o);
MUST_USE enum status measure_f64(const struct config *c, const struct backend_f64 *be,
                                 const struct solver_port_f64 *solver, const char *dir,
                                 const struct evaluation_request *q, struct evaluation *e);

struct train_timing; /* core/profile.h */
MUST_USE enum status train_timed_f32(const struct config *c, const struct backend_f32 *be,
                                     const struct solver_port_f32 *solver, struct train_timing *t);
MUST_USE enum status train_timed_f64(const struct config *c, const struct backend_f64 *be,
                                     const struct solver_port_f64 *solver, struct train_timing *t);

struct train_memory; /* core/profile.h */
MUST_USE enum status train_memory_f32(const struct config *c, const struct backend_f32 *be,
                                      const struct solver_port_f32 *solver, struct train_memory *m);
MUST_USE enum status train_memory_f64(const struct config *c, const struct backend_f64 *be,
                                      const struct solver_port_f64 *solver, struct train_memory *m);

struct decode_timing; /* core/decode.h */
MUST_USE enum status decode_timed_f32(const struct config *c, const struct backend_f32 *be,
                                      const struct solver_port_f32 *solver,
                                      struct decode_timing *t);
MUST_USE enum status decode_timed_f64(const struct config *c, const struct backend_f64 *be,
                                      const struct solver_port_f64 *solver,
                                      struct decode_timing *t);

/* Learning rate of step `step` (from 0): warm-up over lr_warmup steps, then constant, then decay
 * over the last decay_fraction of the steps, or what warm-up leaves of them: to 0 along a line or
 * half a cosine. */
double learning_rate(const struct train_config *t, int64_t step);
#endif
