/* config.h: a run as its YAML file describes it.  config_keys.c has the table of all keys: type,
 * range, default and one line of help each. */
#ifndef CORE_CONFIG_H
#define CORE_CONFIG_H
#include "core/options.h"
#include "core/status.h"
#include <stdio.h>

enum dtype { DTYPE_F32, DTYPE_F64 };
enum device_kind { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };
enum matmul_kind { MATMUL_IEEE, MATMUL_TF32, MATMUL_BF16 };
enum model_kind { MODEL_IMPLICIT, MODEL_EXPLICIT };
enum gradient_kind {
  GRADIENT_UNROLL,
  GRADIENT_PHANTOM,
  GRADIENT_JFB,
  GRADIENT_IFT,
  GRADIENT_SHINE
};
enum correction_weights { CORRECTION_EXPONENTIAL, CORRECTION_LINEAR, CORRECTION_CONSTANT };
enum evaluate_mode { MODE_SEQUENTIAL, MODE_SIMULTANEOUS };
enum schedule_kind { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
enum data_task { TASK_WORD_PROBLEM, TASK_TEXT };
enum monoid_kind { MONOID_TRIVIAL, MONOID_APERIODIC, MONOID_APERIODIC_ALIVE };

enum { CONFIG_WORD = 128, CONFIG_PATH = 1024, CONFIG_LENGTHS = 32, CONFIG_PLACE = 512 };

struct mamba2_config {
  int64_t d_state, expand, headdim, ngroups, d_conv, chunk_size;
  int64_t d_ssm;      /* 0: auto, all of expand*d_model */
  double dt_limit[2]; /* clamp of Delta */
  double A_init_range[2], dt_min, dt_max, dt_init_floor;
  bool norm_before_gate, bias, conv_bias, D_has_hdim;
  bool A_negative; /* a = 2 exp(-exp(A_log) Delta) - 1 */
};

struct model_config {
  enum model_kind kind;
  int64_t d_model, n_layer, d_intermediate;
  int64_t vocab_size; /* resolved from the data */
  bool tie_embeddings, weight_norm;
  double norm_eps, dropout;
  double residual; /* factor on what each mixer and MLP adds to the residual stream */
  struct mamba2_config mamba2;
};

/* Fixed-point correction: losses of iterates on the way to z* as well. */
struct correction_config {
  int64_t states; /* iterates that have a loss, z* among them */
  enum correction_weights weights;
  double gamma;
};

/* weight * ||df/dz||_F^2 / n, estimated: core/regularise.c */
struct regularisation_config {
  double weight, probability, step; /* step 0: by the precision */
  int64_t vectors;
};

struct deq_config {
  struct fp_options forward, backward, evaluate;
  enum evaluate_mode mode; /* of evaluate; its window is resolved: 1, all, or what was given */
  enum gradient_kind gradient;
  int64_t unroll_iterations, phantom_steps;
  double unroll_damping, phantom_damping;
  bool guess_shine;   /* the adjoint solve begins at H' g instead of g */
  double shine_limit; /* H' g is at most so many times as long as g; 0: any length */
  struct correction_config correction;
  struct regularisation_config regularisation;
};

struct data_config {
  enum data_task task;
  char path[CONFIG_PATH];        /* text only; absolute */
  char path_given[CONFIG_PLACE]; /* where it was: file:line:column, for messages */
  double validation_fraction;    /* text only */
  char group[CONFIG_WORD];       /* this and the next two: word problems only */
  enum monoid_kind monoid;
  double identity_probability;
  int64_t length, length_min; /* length_min 0: all sequences have `length` tokens */
};

struct train_config {
  int64_t steps, unroll_steps, batch_size, accumulate, lr_warmup;
  int64_t log_every, evaluate_every, checkpoint_every, keep;
  int64_t curriculum_steps, curriculum_length;
  bool skip_nonfinite, log_timing, tensorboard;
  double spike_factor;
  double lr, betas[2], eps, weight_decay, clip, decay_fraction;
  enum schedule_kind schedule;
  int64_t report_spectral_radius, report_gradient_cosine; /* steps apart; 0: never */
};

struct evaluate_config {
  int64_t lengths[CONFIG_LENGTHS], lengths_count, sequences;
  int64_t spectral_radius; /* sequences; 0: not reported */
};

/* jacobian_check: core/verification.h */
enum jacobian_parameters { JACOBIAN_RANDOM, JACOBIAN_RUN };
enum jacobian_input { JACOBIAN_NORMAL, JACOBIAN_TOKENS };
struct jacobian_config {
  enum jacobian_parameters parameters;
  enum jacobian_input input;
  int64_t prefix, tokens, transient, exponents, sweep;
  double tol, tolerance, tolerance_differences;
};

struct config {
  char name[CONFIG_WORD], runs_dir[CONFIG_PATH];
  int64_t seed;
  enum device_kind device;
  enum matmul_kind matmul; /* float32 products on a GPU; the CPU's are ieee */
  enum dtype dtype;
  struct model_config model;
  struct deq_config deq;
  struct data_config data;
  struct train_config train;
  struct evaluate_config evaluate;
  struct jacobian_config jacobian;
};

/* Reads `path` with its includes, then `overrides`: first the files among them ("more.yaml"), then
 * "key.path=value" (YAML values); what comes later wins.  Fills defaults and checks every key and
 * what keys mean together.  ERR_USAGE with "file:line:column: message" for a fault in the text,
 * ERR_IO when a file cannot be read. */
MUST_USE enum status config_load(const char *path, int overrides, const char *const *override,
                                 struct config *c);
/* Whether an override is a file. */
bool config_is_file(const char *override);
/* The same from memory; `name` stands for the file in messages; no includes. */
MUST_USE enum status config_parse(const char *name, const char *yaml, size_t bytes,
                                  struct config *c);
/* The same, then "key.path=value"; ERR_USAGE for a file among them. */
MUST_USE enum status config_parse_with(const char *name, const char *yaml, size_t bytes,
                                       int overrides, const char *const *override,
                                       struct config *c);
/* Writes every key of c's task with its resolved value as YAML that config_load reads back to an
 * equal c (but for data.path_given). */
MUST_USE enum status config_write(const struct config *c, FILE *out);
/* The table of keys for `train --keys`: key, type and range, default, help. */
void config_print_keys(FILE *out);

/* The first key from number `from` on whose values in a and b differ; -1: none. */
int config_difference(const struct config *a, const struct config *b, int from);
const char *config_key_path(int key);
/* Its value in YAML, cut to the size. */
const char *config_key_value(int key, const struct config *c, char *out, size_t size);

const char *dtype_name(enum dtype d);
const char *matmul_name(enum matmul_kind m);
const char *model_kind_name(enum model_kind k);
const char *gradient_name(enum gradient_kind g);
const char *evaluate_mode_name(enum evaluate_mode m);
const char *data_task_name(enum data_task t);
#endif
