/* test_config.c: configurations: what they mean, how they fail, and that they survive a round trip;
 * every file below configs/. */
#include "tests/check.h"
#include "core/config.h"
#include "experiments/compare_list.h"
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MINIMAL "name: n\nmodel: {kind: implicit}\ndata: {task: word_problem}\n" /* three lines */

static char directory[256]; /* of this run's files */

static enum status parse(const char *yaml, struct config *c)
{
  return config_parse("f.yaml", yaml, strlen(yaml), c);
}

static const char *path_of(const char *file)
{
  static char path[4][512];
  static int next;
  next = (next + 1) % 4;
  (void)snprintf(path[next], sizeof path[next], "%s/%s", directory, file);
  return path[next];
}

static void write_file(const char *file, const char *text)
{
  FILE *f = fopen(path_of(file), "w");
  assert_non_null(f);
  assert_true(fputs(text, f) >= 0);
  assert_int_equal(fclose(f), 0);
}

static enum status load(const char *file, struct config *c)
{
  return config_load(path_of(file), 0, NULL, c);
}

/* Overrides the minimal configuration. */
static enum status override(const char *value, struct config *c)
{
  write_file("minimal.yaml", MINIMAL);
  return config_load(path_of("minimal.yaml"), 1, &value, c);
}

static void check_error_(int line, enum status got, enum status want, const char *message)
{
  const char *error = last_error();
  if (got == want && strstr(error, message))
    return;
  print_error("status %d (%s), want %d (%s)\n", (int)got, got == OK ? "" : error, (int)want,
              message);
  _fail(__FILE__, line);
}
#define check_error(call, want, message) check_error_(__LINE__, call, want, message)

/* Writes c, reads it back and compares every byte. */
static void check_round_trip_(int line, const struct config *c)
{
  struct config back;
  char *text = NULL;
  size_t bytes = 0;
  FILE *out = open_memstream(&text, &bytes);
  assert_non_null(out);
  check_ok(config_write(c, out));
  assert_int_equal(fclose(out), 0);
  enum status s = config_parse("written", text, bytes, &back);
  memcpy(back.data.path_given, c->data.path_given, sizeof back.data.path_given);
  if (s != OK || memcmp(c, &back, sizeof back)) {
    print_error("does not read back: %s\n%s", last_error(), text);
    _fail(__FILE__, line);
  }
  free(text);
}
#define check_round_trip(c) check_round_trip_(__LINE__, c)

static void check_solve(const struct fp_options *o, int64_t max_iter, double tol, double damping,
                        int64_t window)
{
  assert_int_equal(o->solver, FP_PICARD);
  assert_int_equal(o->max_iter, max_iter);
  assert_int_equal(o->min_iter, 1);
  assert_true(o->tol == tol && o->damping == damping);
  assert_int_equal(o->stop, FP_REL);
  assert_int_equal(o->window, window);
  assert_int_equal(o->admit, 1);
  assert_false(o->worst_token || o->stop_together || o->return_last);
  assert_int_equal(o->poll_every, 1);
  assert_int_equal(o->kind, FP_KIND_AUTO);
  assert_true(o->memory == 5 && o->rank == 20 && o->delay == 0 && o->mix_every == 1);
  assert_true(o->restart == 0 && o->start == 0 && o->ridge == 0 && o->condition == 0);
  assert_true(o->safeguard == 2 && o->max_weight == 1e6 && !o->line_search);
  assert_true(o->divergence == 1e8 && o->patience == 0 && !o->trace);
}

/* Three keys are required, all others have the sample's values */
static void check_sample(const struct config *c)
{
  assert_string_equal(c->runs_dir, "runs");
  assert_int_equal(c->seed, 0);
  assert_int_equal(c->device, DEVICE_AUTO);
  assert_int_equal(c->dtype, DTYPE_F32);
  const struct model_config *m = &c->model;
  assert_int_equal(m->kind, MODEL_IMPLICIT);
  assert_true(m->d_model == 64 && m->n_layer == 1 && m->d_intermediate == 0 && m->vocab_size == 0);
  assert_true(m->tie_embeddings && !m->weight_norm && m->norm_eps == 1e-5 && m->dropout == 0);
  const struct mamba2_config *s = &m->mamba2;
  assert_true(s->d_state == 16 && s->expand == 2 && s->headdim == 32 && s->ngroups == 1);
  assert_true(s->d_conv == 4 && s->chunk_size == 64 && s->d_ssm == 0);
  assert_true(s->dt_limit[0] == 0 && s->dt_limit[1] == HUGE_VAL);
  assert_true(s->A_init_range[0] == 1 && s->A_init_range[1] == 16);
  assert_true(s->dt_min == 1e-3 && s->dt_max == 0.1 && s->dt_init_floor == 1e-4);
  assert_true(!s->norm_before_gate && !s->bias && s->conv_bias && !s->D_has_hdim);
  const struct deq_config *d = &c->deq;
  check_solve(&d->forward, 24, 5e-2, 1, FP_WINDOW_ALL);
  check_solve(&d->backward, 32, 1e-3, 1, FP_WINDOW_ALL);
  check_solve(&d->evaluate, 2048, 1e-2, 0.8, 1);
  assert_int_equal(d->mode, MODE_SEQUENTIAL);
  assert_int_equal(d->gradient, GRADIENT_PHANTOM);
  assert_true(d->unroll_iterations == 4 && d->unroll_damping == 0.8);
  assert_true(d->phantom_steps == 4 && d->phantom_damping == 0.8);
  assert_string_equal(c->data.group, "S3");
  assert_int_equal(c->data.monoid, MONOID_TRIVIAL);
  assert_true(c->data.identity_probability == 0 && c->data.length == 16);
  const struct train_config *t = &c->train;
  assert_true(t->steps == 900 && t->unroll_steps == 400 && t->batch_size == 64 && t->lr == 3e-3);
  assert_true(t->betas[0] == 0.9 && t->betas[1] == 0.95 && t->eps == 1e-8 && t->clip == 1);
  assert_true(t->weight_decay == 0 && t->lr_warmup == 50 && t->decay_fraction == 0.2);
  assert_int_equal(t->schedule, SCHEDULE_LINEAR);
  assert_true(t->log_every == 10 && t->evaluate_every == 0 && t->checkpoint_every == 300);
  assert_int_equal(c->evaluate.lengths_count, 4);
  for (int i = 0; i < 4; i++)
    assert_int_equal(c->evaluate.lengths[i], 16 << i);
  assert_int_equal(c->evaluate.sequences, 256);
}

static void defaults_are_the_sample(void **state)
{
  (void)state;
  struct config c;
  check_ok(parse(MINIMAL, &c));
  assert_string_equal(c.name, "n");
  check_sample(&c);
}

static void values_arrive(void **state)
{
  (void)state;
  struct config c;
  check_ok(
      parse("# comment\n"
            "name: 'a b'\nseed: 9223372036854775807\ndtype: f64\ndevice: \"cpu\"\n"
            "model:\n  kind: explicit\n  tie_embeddings: false\n"
            "  mamba2:\n    dt_limit: [-0.0, +.INF]\n    d_ssm: 128\n"
            "deq:\n  forward: {window: 8, return: last, stop: max, tol: 0, worst_token: true}\n"
            "  gradient: ift\ndata: {task: word_problem, group: A5*Z2, monoid: aperiodic_alive}\n"
            "train: {lr: 1e-4, clip: 0, betas: [.5, 0.999], schedule: cosine}\n"
            "evaluate:\n  lengths:\n  - 7\n",
            &c));
  assert_string_equal(c.name, "a b");
  assert_true(c.seed == INT64_MAX && c.dtype == DTYPE_F64 && c.device == DEVICE_CPU);
  assert_true(c.model.kind == MODEL_EXPLICIT && !c.model.tie_embeddings);
  assert_true(c.model.mamba2.dt_limit[1] == HUGE_VAL && c.model.mamba2.d_ssm == 128);
  assert_true(c.deq.forward.window == 8 && c.deq.forward.return_last && c.deq.forward.worst_token);
  assert_true(c.deq.forward.stop == FP_MAX && c.deq.forward.tol == 0);
  assert_int_equal(c.deq.gradient, GRADIENT_IFT);
  assert_string_equal(c.data.group, "A5*Z2");
  assert_int_equal(c.data.monoid, MONOID_APERIODIC_ALIVE);
  assert_true(c.train.lr == 1e-4 && c.train.clip == 0 && c.train.betas[0] == 0.5);
  assert_int_equal(c.train.schedule, SCHEDULE_COSINE);
  assert_true(c.evaluate.lengths_count == 1 && c.evaluate.lengths[0] == 7);
  check_round_trip(&c);
}

/* The fourth line of a configuration whose first three are MINIMAL, and what it says. */
static const struct {
  const char *yaml, *message;
} faults[] = {
    {"sede: 1", "f.yaml:4:1: unknown key 'sede'; the nearest one is 'seed'"},
    {"deq: {forward: {toll: 1}}", "f.yaml:4:17: unknown key 'deq.forward.toll'; the nearest one is "
                                  "'deq.forward.tol'"},
    {"deq: {fowrard: {tol: 1}}", "f.yaml:4:7: unknown key 'deq.fowrard'; the nearest one is "
                                 "'deq.forward'"},
    {"train: {d_model: 1}", "the nearest one is 'model.d_model'"},
    {"max_iter: 3", "the nearest one is 'deq.forward.max_iter'"},
    {"trian: {steps: 3}", "the nearest one is 'train'"},
    {"train: {batch: 3}", "the nearest one is 'train.batch_size'"},
    {"'': 3", "f.yaml:4:1: unknown key ''"},
    {"\"a\\0b\": 3", "f.yaml:4:1: unknown key 'a?b'"},
    {"model.d_modle: 3", "the nearest one is 'model.d_model'"},
    {"name: again", "f.yaml:4:1: repeated key 'name'; it stands in line 1 already"},
    {"model: {n_layer: 2}", "f.yaml:4:1: repeated key 'model'"},
    {"deq: {forward: {tol: .1, tol: .1}}", "f.yaml:4:26: repeated key 'deq.forward.tol'"},
    {"deq: {forward: {tol: .1}, forward: {}}", "f.yaml:4:27: repeated key 'deq.forward'"},
    {"seed: one", "f.yaml:4:7: seed must be an integer in [0, inf), not 'one'"},
    {"seed: -1", "seed must be"},
    {"seed: 1.5", "seed must be"},
    {"seed: 9223372036854775808", "seed must be"},
    {"seed: '1'", "seed must be an integer in [0, inf), not the text '1'"},
    {"seed:", "seed must be an integer in [0, inf), not nothing"},
    {"seed: [1]", "seed must be an integer in [0, inf), not a list"},
    {"seed: {a: 1}", "seed must be an integer in [0, inf), not a mapping"},
    {"seed: 0x10", "seed must be"},
    {"dtype: f16", "f.yaml:4:8: dtype must be f32 or f64, not 'f16'"},
    {"runs_dir: ''", "runs_dir must be text of 1 to 1023 bytes"},
    {"runs_dir: null", "runs_dir must be text"},
    {"runs_dir: \"a\\nb\"", "runs_dir must be text of 1 to 1023 bytes, not the text 'a?b'"},
    {"runs_dir: \"a\\0b\"", "runs_dir must be text"},
    {"runs_dir: \"\\u2028\"", "runs_dir must be text"},
    {"deq: 4", "f.yaml:4:6: deq must be a mapping of keys such as 'forward.solver'"},
    {"deq: [a]", "f.yaml:4:6: deq must be a mapping"},
    {"deq: {forward: {solver: newton}}",
     "deq.forward.solver must be picard, anderson, broyden, gmres or auto"},
    {"deq: {forward: {solver: gmres}}", "for deq.backward, not for deq.forward"},
    {"deq: {evaluate: {solver: gmres}}", "for deq.backward, not for deq.evaluate"},
    {"deq: {backward: {memory: 1025}}", "deq.backward.memory must be an integer in [0, 1024]"},
    {"deq: {backward: {kind: ugly}}", "deq.backward.kind must be auto, good or bad"},
    {"jacobian: {tokens: 6, transient: 6}", "jacobian.transient 6 leaves none of"},
    {"deq: {forward: {damping: 0}}", "deq.forward.damping must be a number in (0, 1], not '0'"},
    {"deq: {forward: {damping: 1.1}}", "deq.forward.damping must be"},
    {"deq: {forward: {tol: .nan}}", "deq.forward.tol must be"},
    {"deq: {forward: {tol: .inf}}", "deq.forward.tol must be"},
    {"deq: {forward: {tol: inf}}", "deq.forward.tol must be"},
    {"deq: {forward: {tol: 0x1p-3}}", "deq.forward.tol must be"},
    {"deq: {forward: {tol: 1e999}}", "deq.forward.tol must be"},
    {"deq: {forward: {tol: e}}", "deq.forward.tol must be"},
    {"deq: {forward: {tol: 1e-9}}", "f.yaml:4:17: deq.forward.tol 1e-09 is out of reach: in f32"},
    {"deq: {jacobian_regularisation: {weight: 1, step: 1e-7}}",
     "f.yaml:4:44: deq.jacobian_regularisation.step 1e-07 is too small: in f32"},
    {"deq: {evaluate: {tol: 0}}", "f.yaml:4:18: deq.evaluate.tol 0 is out of reach"},
    {"deq: {backward: {min_iter: 33}}", "f.yaml:4:18: deq.backward.min_iter 33 is larger than "
                                        "max_iter 32"},
    {"deq: {forward: {window: 0}}", "deq.forward.window must be all or an integer in"},
    {"deq: {forward: {window: any}}", "deq.forward.window must be all or"},
    {"deq: {forward: {worst_token: yes}}", "must be true or false, not 'yes'"},
    {"deq: {forward: {worst_token: 'true'}}", "must be true or false, not the text 'true'"},
    {"deq: {forward: {return: first}}", "must be best or last"},
    {"deq: {forward: {stop: relative}}", "must be rel, abs, rms or max, not 'relative'"},
    {"deq: {forward: {mode: sequential}}", "unknown key 'deq.forward.mode'"},
    {"deq: {gradient: bptt}", "must be unroll, phantom, jfb, ift or shine"},
    {"deq: {unroll: {damping: 2}}", "deq.unroll.damping must be a number in (0, 1]"},
    {"evaluate: {lengths: []}",
     "f.yaml:4:21: evaluate.lengths must be a list of 1 to 32 integers in "
     "[1, 16777216], not of 0"},
    {"evaluate: {lengths: 16}", "evaluate.lengths must be a list"},
    {"evaluate: {lengths: [16, 0]}", "f.yaml:4:26: evaluate.lengths must be"},
    {"evaluate: {lengths: [16, [1]]}", "with a list"},
    {"evaluate: {lengths: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}",
     "f.yaml:4:86: evaluate.lengths must be a list of 1 to 32 integers in [1, 16777216], not "
     "longer"},
    {"train: {betas: [0.9]}", "train.betas must be a list of 2 numbers in [0, 1), not of 1"},
    {"train: {betas: [0.9, 1]}", "train.betas must be"},
    {"train: {betas: [0, 0, 0]}", "train.betas must be"},
    {"include: [a.yaml]", "f.yaml:4:1"},
    {"? [a]\n: 1", "f.yaml:4:3: a key must be a word"},
    {"deq: &x {gradient: ift}", "f.yaml:4:6: anchors (&) and aliases (*) are not supported"},
    {"seed: *x", "f.yaml:4:7: anchors (&) and aliases (*) are not supported"},
    {"seed: !!int 1", "f.yaml:4:7: tags (!) are not supported"},
    {"---\nseed: 1", "f.yaml:4:1: a second document begins"},
    {"seed: 1: 2", "f.yaml:4:8: "},
    {"deq:\n\tgradient: ift", "f.yaml:5:1: a tab cannot indent: use spaces"},
    {"seed: \"1", "f.yaml:5:1: "},
    {"runs_dir: \xff", "f.yaml:4:11: invalid leading UTF-8 octet"},
    {"runs_dir: \x01", "f.yaml:4:11: control characters are not allowed"},
};

static void faults_are_placed_and_explained(void **state)
{
  (void)state;
  struct config c, before;
  memset(&c, 0x5a, sizeof c);
  before = c;
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
    char yaml[1024];
    (void)snprintf(yaml, sizeof yaml, MINIMAL "%s\n", faults[i].yaml);
    enum status got = parse(yaml, &c);
    if (got != ERR_USAGE || strncmp(last_error(), "f.yaml:", 7))
      print_error("%s\n", faults[i].yaml);
    check_error(got, ERR_USAGE, faults[i].message);
    assert_memory_equal(&c, &before, sizeof c); /* a fault leaves c alone */
  }
}

static void long_text_is_refused(void **state)
{
  (void)state;
  struct config c;
  char yaml[1024], name[CONFIG_WORD + 1];
  memset(name, 'x', sizeof name);
  name[CONFIG_WORD] = 0;
  (void)snprintf(yaml, sizeof yaml, "model.kind: implicit\ndata.task: word_problem\nname: %s\n",
                 name);
  check_error(parse(yaml, &c), ERR_USAGE, "f.yaml:3:7: name must be text of 1 to 127 bytes");
  (void)snprintf(yaml, sizeof yaml, "model.kind: implicit\ndata.task: word_problem\nname: %s\n",
                 name + 1);
  check_ok(parse(yaml, &c));
  assert_string_equal(c.name, name + 1);
}

static void required_keys(void **state)
{
  (void)state;
  struct config c;
  check_error(parse("", &c), ERR_USAGE, "f.yaml:1:1: missing key 'name'");
  check_error(parse("# nothing\n---\n", &c), ERR_USAGE, "missing key 'name'");
  check_error(parse("name: n\nmodel:\ndata: {task: word_problem}\n", &c), ERR_USAGE,
              "missing key 'model.kind'");
  check_error(parse("name: n\nmodel: {kind: implicit}\n", &c), ERR_USAGE,
              "missing key 'data.task'");
  check_error(parse("- name\n", &c), ERR_USAGE, "f.yaml:1:1: expected keys and values");
  check_error(parse("name", &c), ERR_USAGE, "f.yaml:1:1: expected keys and values");
  check_error(parse("name: ..\nmodel: {kind: implicit}\ndata: {task: word_problem}\n", &c),
              ERR_USAGE, "f.yaml:1:1: name '..' cannot be that of a directory");
}

/* what the keys of model mean together; line 1, the column is that of the key that is blamed */
static void shapes_must_fit(void **state)
{
  (void)state;
  static const struct {
    const char *model, *message; /* NULL: it is fine */
  } cases[] = {
      {"d_model: 40", "f.yaml:1:25: model.mamba2.headdim 32 does not divide d_ssm = 80"},
      {"mamba2: {headdim: 48}", "f.yaml:1:34: model.mamba2.headdim 48 does not divide d_ssm = 128"},
      {"mamba2: {headdim: 256}", "does not divide"},
      {"mamba2: {ngroups: 3}", "f.yaml:1:34: model.mamba2.ngroups 3 does not divide the 4 heads"},
      {"mamba2: {ngroups: 8}", "ngroups 8 does not divide"},
      {"mamba2: {ngroups: 2}", NULL},
      {"d_model: 65, mamba2: {headdim: 10, expand: 3, d_ssm: auto}", "d_ssm = 195"},
      {"d_model: 65, mamba2: {headdim: 13, expand: 3, ngroups: 5}", NULL},
      {"mamba2: {d_ssm: 256}", "d_ssm 256 is larger than expand * d_model = 128"},
      {"mamba2: {d_ssm: 128}", NULL},
      {"mamba2: {d_ssm: 64}", NULL},
      {"mamba2: {d_state: 257}", "an integer in [1, 256]"},
      {"mamba2: {chunk_size: 513}", "an integer in [1, 512]"},
      {"mamba2: {d_conv: 17}", "an integer in [1, 16]"},
      {"mamba2: {d_conv: 1, d_state: 256, chunk_size: 512}", NULL},
      {"mamba2: {dt_limit: [1.0, 0.5]}", "model.mamba2.dt_limit: 1 is larger than 0.5"},
      {"mamba2: {dt_min: 0.2}", "model.mamba2.dt_min: 0.2 is larger than 0.1"},
      {"mamba2: {A_init_range: [2, 1]}", "A_init_range: 2 is larger than 1"},
      {"dropout: 0.1, weight_norm: true, residual: 0.5", NULL},
      {"dropout: 1", "a number in [0, 1)"},
      {"mixer: mamba", "model.mixer must be mamba2"},
      {"d_intermediate: 96", NULL},
  };
  struct config c;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char yaml[512];
    (void)snprintf(yaml, sizeof yaml,
                   "model: {kind: implicit, %s}\nname: n\ndata: {task: word_problem}\n",
                   cases[i].model);
    if (cases[i].message)
      check_error(parse(yaml, &c), ERR_USAGE, cases[i].message);
    else
      check_ok(parse(yaml, &c));
  }
}

static void tolerances_go_with_the_dtype(void **state)
{
  (void)state;
  struct config c;
  check_ok(parse(MINIMAL "dtype: f64\ndeq: {forward: {tol: 1e-14}}\n", &c));
  check_error(parse(MINIMAL "dtype: f64\ndeq: {forward: {tol: 1e-16}}\n", &c), ERR_USAGE,
              "f.yaml:5:17: deq.forward.tol 1e-16 is out of reach: in f64");
  check_ok(parse(MINIMAL "deq: {forward: {tol: 1e-9, stop: rms}}\n", &c));
  /* what came last is to blame: here the precision */
  write_file("f64.yaml", MINIMAL "dtype: f64\ndeq: {forward: {tol: 1e-9}}\n");
  check_error(config_load(path_of("f64.yaml"), 1, (const char *const[]){"dtype=f32"}, &c),
              ERR_USAGE, "command line: dtype=f32: deq.forward.tol 1e-09 is out of reach");
}

static void a_window_wins_over_the_mode(void **state)
{
  (void)state;
  struct config c;
  check_ok(parse(MINIMAL "deq: {evaluate: {mode: simultaneous}}\n", &c));
  assert_true(c.deq.mode == MODE_SIMULTANEOUS && c.deq.evaluate.window == FP_WINDOW_ALL);
  check_ok(parse(MINIMAL "deq: {evaluate: {mode: simultaneous, window: 8}}\n", &c));
  assert_int_equal(c.deq.evaluate.window, 8);
  assert_int_equal(c.deq.mode, MODE_SEQUENTIAL); /* whose place it takes */
  check_round_trip(&c);
  check_ok(parse(MINIMAL "deq: {evaluate: {window: all}}\n", &c));
  assert_true(c.deq.mode == MODE_SIMULTANEOUS && c.deq.evaluate.window == FP_WINDOW_ALL);
  /* a mode given later replaces the window of a file, as in a run's resolved config.yaml */
  write_file("window.yaml", MINIMAL "deq: {evaluate: {mode: sequential, window: 1}}\n");
  check_ok(config_load(path_of("window.yaml"), 1,
                       (const char *const[]){"deq.evaluate.mode=simultaneous"}, &c));
  assert_true(c.deq.mode == MODE_SIMULTANEOUS && c.deq.evaluate.window == FP_WINDOW_ALL);
  check_ok(config_load(
      path_of("window.yaml"), 2,
      (const char *const[]){"deq.evaluate.window=4", "deq.evaluate.mode=simultaneous"}, &c));
  assert_int_equal(c.deq.evaluate.window, 4);
}

/* The last is the longest, for who looks at one. */
static void lengths_ascend(void **state)
{
  (void)state;
  struct config c;
  check_ok(parse(MINIMAL "evaluate: {lengths: [64, 16, 32, 16, 64]}\n", &c));
  assert_int_equal(c.evaluate.lengths_count, 3);
  for (int i = 0; i < 3; i++)
    assert_int_equal(c.evaluate.lengths[i], 16 << i);
  check_round_trip(&c);
}

static void overrides_win(void **state)
{
  (void)state;
  static const char *const values[] = {"seed=1",
                                       "seed=2",
                                       "evaluate.lengths=[16,32]",
                                       "model.mamba2.dt_limit=[0.5, .inf]",
                                       "name=x",
                                       "data.group=A5*Z2",
                                       "deq.forward={tol: 1e-2, max_iter: 7}",
                                       "train.lr= 1e-2",
                                       "deq.forward.window=all",
                                       "runs_dir=\"a=b\""};
  struct config c;
  write_file("o.yaml", MINIMAL "seed: 7\ndeq: {forward: {window: 3}}\n");
  check_ok(config_load(path_of("o.yaml"), sizeof values / sizeof *values, values, &c));
  assert_int_equal(c.seed, 2); /* the last one */
  assert_string_equal(c.name, "x");
  assert_string_equal(c.data.group, "A5*Z2");
  assert_string_equal(c.runs_dir, "a=b");
  assert_true(c.evaluate.lengths_count == 2 && c.evaluate.lengths[1] == 32);
  assert_int_equal(c.evaluate.lengths[2], 0); /* nothing is left of the default */
  assert_true(c.model.mamba2.dt_limit[0] == 0.5 && c.model.mamba2.dt_limit[1] == HUGE_VAL);
  assert_true(c.deq.forward.tol == 1e-2 && c.deq.forward.max_iter == 7 && c.train.lr == 1e-2);
  assert_int_equal(c.deq.forward.window, FP_WINDOW_ALL);
  check_round_trip(&c);
}

static void overrides_that_fail(void **state)
{
  (void)state;
  struct config c;
  check_error(override("seed", &c), ERR_USAGE, "command line: seed: expected key.path=value");
  check_error(override("=1", &c), ERR_USAGE, "command line: =1: expected key.path=value");
  check_error(override("seed=", &c), ERR_USAGE, "command line: seed=: expected a value");
  check_error(override("seed=x", &c), ERR_USAGE, "command line: seed=x: seed must be an integer");
  check_error(override("sead=1", &c), ERR_USAGE,
              "command line: sead=1: unknown key 'sead'; the nearest one is 'seed'");
  check_error(override("deq.forward=3", &c), ERR_USAGE, "deq.forward must be a mapping");
  check_error(override("name=*x", &c), ERR_USAGE, "aliases (*) are not supported");
  check_error(override("seed=1\n---\n2", &c), ERR_USAGE, "a second document begins");
  check_error(override("seed=[1", &c), ERR_USAGE, "command line: seed=[1: ");
  check_error(override("include=[a]", &c), ERR_USAGE, "include is possible in files only");
  check_error(override("model.d_model=40", &c), ERR_USAGE,
              "command line: model.d_model=40: model.mamba2.headdim 32 does not divide");
  check_error(override("data.group=S9", &c), ERR_USAGE,
              "command line: data.group=S9: data.group: \"S9\" cannot be read");
  check_error(override("data.group=A2*Z1", &c), ERR_USAGE, "data.group A2*Z1 has one element");
}

static void includes_merge_in_order(void **state)
{
  (void)state;
  struct config c;
  assert_int_equal(mkdir(path_of("sub"), 0700), 0);
  write_file("sub/base.yaml", "seed: 1\ntrain: {steps: 1, lr: 1, clip: 1}\nname: base\n");
  write_file("sub/first.yaml", "include: [base.yaml]\ntrain: {steps: 2, lr: 2}\n");
  write_file("sub/empty.yaml", "");
  write_file("second.yaml", "train: {lr: 3}\nmodel.kind: implicit\nevaluate: {lengths: [1, 2, 3]}");
  write_file("top.yaml", "name: top\nevaluate: {lengths: [9]}\ntrain: {clip: 4}\n"
                         "include: [sub/first.yaml, sub/empty.yaml, second.yaml]\n"
                         "data: {task: word_problem}\n");
  check_ok(load("top.yaml", &c));
  assert_string_equal(c.name, "top");
  assert_true(c.seed == 1 && c.train.steps == 2 && c.train.lr == 3 && c.train.clip == 4);
  assert_true(c.evaluate.lengths_count == 1 && c.evaluate.lengths[0] == 9);
  check_round_trip(&c);

  char absolute[600];
  (void)snprintf(absolute, sizeof absolute, "include: [%s]\nmodel: {kind: explicit}\n",
                 path_of("top.yaml"));
  write_file("sub/absolute.yaml", absolute);
  check_ok(load("sub/absolute.yaml", &c));
  assert_int_equal(c.model.kind, MODEL_EXPLICIT);
}

static void includes_that_fail(void **state)
{
  (void)state;
  struct config c;
  check_error(load("absent.yaml", &c), ERR_IO, "absent.yaml");
  check_error(load(".", &c), ERR_IO, directory);
  write_file("i.yaml", "include:\n- absent.yaml\n");
  check_error(load("i.yaml", &c), ERR_IO, "i.yaml:2:3: ");
  check_error(load("i.yaml", &c), ERR_IO, "absent.yaml");
  write_file("i.yaml", "include: absent.yaml\n");
  check_error(load("i.yaml", &c), ERR_USAGE, "i.yaml:1:10: include must be a list of files");
  write_file("i.yaml", "include: [[]]\n");
  check_error(load("i.yaml", &c), ERR_USAGE, "i.yaml:1:11: include must be a list of files");
  write_file("i.yaml", "include: ['']\n");
  check_error(load("i.yaml", &c), ERR_USAGE, "i.yaml:1:11: include: expected the name of a file");
  write_file("bad.yaml", "seed: 1\nsede: 2\n"); /* the fault is placed in the file it is in */
  write_file("i.yaml", "include: [bad.yaml]\n" MINIMAL);
  check_error(load("i.yaml", &c), ERR_USAGE, path_of("bad.yaml:2:1: unknown key 'sede'"));
  write_file("bad.yaml", "model: {d_model: 40}\n");
  check_error(load("i.yaml", &c), ERR_USAGE, path_of("bad.yaml:1:9: model.mamba2.headdim 32"));

  write_file("a.yaml", MINIMAL "include: [b.yaml]\n");
  write_file("b.yaml", "include: [./sub/../c.yaml]\n");
  write_file("c.yaml", "include: [b.yaml]\n");
  check_error(load("a.yaml", &c), ERR_USAGE, "c.yaml:1:11: files include each other: ");
  check_error(load("a.yaml", &c), ERR_USAGE, "b.yaml -> ");
  write_file("self.yaml", "include: [self.yaml]\n");
  check_error(load("self.yaml", &c), ERR_USAGE, "self.yaml:1:11: files include each other: ");

  for (int i = 0; i < 40; i++) { /* 2^40 files without a cycle */
    char file[32], text[64];
    (void)snprintf(file, sizeof file, "bomb%d.yaml", i);
    (void)snprintf(text, sizeof text, "include: [bomb%d.yaml, bomb%d.yaml]\n", i + 1, i + 1);
    write_file(file, text);
  }
  write_file("bomb40.yaml", "");
  check_error(load("bomb0.yaml", &c), ERR_USAGE, "include: more than 128 files");
}

static void written_text_reads_back(void **state)
{
  (void)state;
  static const char *const texts[] = {"true",     "Null",
                                      "~",        "1",
                                      "1.5",      "-",
                                      "a: b",     "a #b",
                                      "#a",       " a ",
                                      "'a'",      "\"a\"",
                                      "*a",       "&a",
                                      "[a]",      "{a}",
                                      "a\\b",     "\\n",
                                      "...",      "---",
                                      "a:",       "?",
                                      "!a",       "%a",
                                      "@a",       "`",
                                      "|",        ">",
                                      "a,b",      "yes",
                                      "A5*Z2",    "é",
                                      "日本",     "\xf0\x9f\x98\x80",
                                      "./x/../y", "a\"b\\",
                                      "-.inf",    "0x1f",
                                      ".nan",     "y"};
  struct config c;
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    check_ok(parse(MINIMAL, &c));
    memset(c.runs_dir, 0, sizeof c.runs_dir);
    (void)snprintf(c.runs_dir, sizeof c.runs_dir, "%s", texts[i]);
    check_round_trip(&c);
  }
  memset(c.runs_dir, 'w', sizeof c.runs_dir - 1); /* not folded */
  c.runs_dir[99] = c.runs_dir[500] = ' ';
  check_round_trip(&c);
}

static void written_numbers_read_back(void **state)
{
  (void)state;
  static const double values[] = {0.1,
                                  1.0 / 3,
                                  1e-300,
                                  5e-324,
                                  1.7976931348623157e308,
                                  1e22,
                                  1e23,
                                  123456789012345680.0,
                                  2.0,
                                  100,
                                  0x1p-52,
                                  3.0000000000000004};
  struct config c;
  check_ok(parse(MINIMAL, &c));
  c.seed = INT64_MAX;
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    c.train.lr = c.train.weight_decay = values[i];
    c.model.mamba2.dt_limit[1] = values[i];
    check_round_trip(&c);
  }
  c.model.mamba2.dt_limit[1] = HUGE_VAL;
  c.evaluate.lengths_count = CONFIG_LENGTHS;
  for (int i = 0; i < CONFIG_LENGTHS; i++)
    c.evaluate.lengths[i] = i + 1;
  c.deq.backward = (struct fp_options){.max_iter = 9,
                                       .min_iter = 2,
                                       .tol = 0.3,
                                       .stop = FP_ABS,
                                       .damping = 0.7,
                                       .window = 5,
                                       .admit = 3,
                                       .worst_token = true,
                                       .stop_together = true,
                                       .return_last = true,
                                       .poll_every = 3};
  check_round_trip(&c);
}

static void writing_reports_a_full_disk(void **state)
{
  (void)state;
  struct config c;
  check_ok(parse(MINIMAL, &c));
  FILE *full = fopen("/dev/full", "w");
  if (!full)
    skip();
  check_error(config_write(&c, full), ERR_IO, "writing the configuration");
  (void)fclose(full);
}

static void keys_are_printed(void **state)
{
  (void)state;
  char *text = NULL;
  size_t bytes = 0;
  FILE *out = open_memstream(&text, &bytes);
  assert_non_null(out);
  config_print_keys(out);
  assert_int_equal(fclose(out), 0);
  assert_non_null(strstr(text, "deq.forward.tol: a number in [0, inf); default 5.0e-2\n    "));
  assert_non_null(strstr(text, "model.kind: implicit or explicit; required\n    "));
  assert_non_null(strstr(text, "model.mamba2.d_ssm: auto or an integer in [1, "));
  assert_non_null(strstr(text, "evaluate.lengths: a list of 1 to 32 integers in"));
  for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
    assert_true(strcspn(line, "\n") <= 100);
  free(text);
}

static void names_are_those_of_the_keys(void **state)
{
  (void)state;
  assert_string_equal(dtype_name(DTYPE_F64), "f64");
  assert_string_equal(model_kind_name(MODEL_EXPLICIT), "explicit");
  assert_string_equal(gradient_name(GRADIENT_UNROLL), "unroll");
  assert_string_equal(gradient_name(GRADIENT_IFT), "ift");
  assert_string_equal(evaluate_mode_name(MODE_SIMULTANEOUS), "simultaneous");
}

/* front, then `middle` `count` times, then back */
static char *repeat(const char *front, const char *middle, size_t count, const char *back,
                    size_t *bytes)
{
  size_t f = strlen(front), m = strlen(middle), b = strlen(back);
  char *text = malloc(*bytes = f + m * count + b);
  assert_non_null(text);
  memcpy(text, front, f);
  for (size_t i = 0; i < count; i++)
    memcpy(text + f + i * m, middle, m);
  memcpy(text + f + m * count, back, b);
  return text;
}

static void large_and_deep_input_is_survived(void **state)
{
  (void)state;
  static const struct {
    const char *front, *middle, *back;
    size_t count;
    const char *message; /* NULL: it is fine */
  } cases[] = {
      {"name: ", "x", "\n", 10000000, "1:7: name must be text of 1 to 127 bytes, not 'xxx"},
      {"", "x", ": 1\n", 10000000, "1:1: "},
      {MINIMAL "#", "x", "\n", 10000000, NULL},
      {MINIMAL, "\n", "\n", 10000000, NULL},
      {"", "[", "", 1000000, "1:1: expected keys and values"},
      {"name: ", "[", "", 1000000, "1:7: name must be text"},
      {"", "{a: ", "", 1000000, "1:2: unknown key 'a'"},
      {"", "- ", "", 1000000, "1:1: expected keys and values"},
      {"", "? ", "", 1000000, "a key must be a word"},
      {"evaluate.lengths: [", "1,", "]\n", 5000000, "not longer"},
      {"deq: {forward: ", "{forward: ", "}\n", 1000, "unknown key 'deq.forward.forward'"},
      {"seed: ", "9", "\n", 100000, "seed must be an integer"},
      {"seed: ", "%", "\n", 100000, "1:7: "},
  };
  struct config c;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t bytes;
    char *text = repeat(cases[i].front, cases[i].middle, cases[i].count, cases[i].back, &bytes);
    enum status got = config_parse("f.yaml", text, bytes, &c);
    free(text);
    if (cases[i].message)
      check_error(got, ERR_USAGE, cases[i].message);
    else
      check_ok(got);
    assert_true(strlen(last_error()) < 300);
  }
}

static void bytes_that_are_not_text_are_refused(void **state)
{
  (void)state;
  static const char zero[] = MINIMAL "seed: 1\0\n";
  struct config c;
  check_error(config_parse("f.yaml", zero, sizeof zero - 1, &c), ERR_USAGE,
              "f.yaml:4:8: control characters are not allowed");
}

/* Any damage to a file ends in a configuration that reads back, or in a message with a place. */
static void damage_is_survived(void **state)
{
  (void)state;
  struct config c;
  char *text = NULL;
  size_t bytes = 0;
  FILE *out = open_memstream(&text, &bytes);
  check_ok(parse(MINIMAL, &c));
  check_ok(config_write(&c, out));
  assert_int_equal(fclose(out), 0);
  char *damaged = malloc(bytes);
  assert_non_null(damaged);
  uint64_t random = 1;
  for (int i = 0; i < 1500; i++) {
    memcpy(damaged, text, bytes);
    for (int changes = 1 + i % 3; changes > 0; changes--) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      static const char hostile[] = "\n :-[]{},#&*!|>'\"%@`?\t\0\xff.0e9~";
      damaged[(random >> 33) % bytes] =
          random >> 62 ? hostile[(random >> 20) % (sizeof hostile - 1)] : (char)(random >> 12);
    }
    size_t kept = i % 5 ? bytes : (size_t)(random >> 33) % bytes;
    enum status got = config_parse("f.yaml", damaged, kept, &c);
    if (got == OK) {
      check_round_trip(&c);
    } else {
      check_error(got, ERR_USAGE, "f.yaml:");
      assert_int_equal(strncmp(last_error(), "f.yaml:", 7), 0);
    }
  }
  free(damaged);
  free(text);
}

/* A list for compare: every run that it names has a configuration. */
static void load_list(const char *path)
{
  struct compare_list l;
  struct list_run *runs;
  int64_t count;
  check_ok(compare_list_read(path, &l));
  check_ok(list_runs_make(&l, &runs, &count));
  assert_true(count >= l.entries);
  list_runs_free(runs, count);
  compare_list_free(&l);
}

static char seen_names[64][CONFIG_WORD];
static int seen_count;

static int load_with_name(const char *path, const struct stat *s, int type, struct FTW *at)
{
  (void)s, (void)at;
  size_t n = strlen(path);
  char line[256];
  bool named = false, list = false;
  if (type != FTW_F || n < 5 || strcmp(path + n - 5, ".yaml"))
    return 0;
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  while (fgets(line, sizeof line, f)) {
    named = named || !strncmp(line, "name:", 5);
    list = list || !strncmp(line, "compare:", 8);
  }
  assert_int_equal(fclose(f), 0);
  if (list) {
    load_list(path);
    return 0;
  }
  struct config c;
  const char *const rest[] = {"name=part", "model.kind=implicit", "data.task=word_problem"};
  const char *const corpus[] = {"data.path=corpus"};
  if (named && strstr(path, "/text/"))
    check_ok(config_load(path, 1, corpus, &c));
  else
    check_ok(config_load(path, named ? 0 : 3, rest, &c));
  check_round_trip(&c);
  if (named) {
    for (int i = 0; i < seen_count; i++)
      assert_string_not_equal(seen_names[i], c.name); /* runs do not share a directory */
    memcpy(seen_names[seen_count++], c.name, sizeof c.name);
  }
  return 0;
}

static void shipped_files_load(void **state)
{
  (void)state;
  assert_int_equal(nftw("configs", load_with_name, 8, FTW_PHYS), 0);
  assert_true(seen_count >= 10);
}

static void recipes(void **state)
{
  (void)state;
  struct config implicit, explicit;
  check_ok(config_load("configs/quickstart_implicit.yaml", 0, NULL, &implicit));
  assert_string_equal(implicit.name, "quickstart-implicit");
  check_ok(config_load("configs/word_problem/s3_implicit.yaml", 0, NULL, &implicit));
  assert_string_equal(implicit.name, "s3-implicit");
  check_sample(&implicit);
  check_ok(config_load("configs/word_problem/a5_implicit.yaml", 0, NULL, &implicit));
  check_ok(config_load("configs/word_problem/a5_explicit.yaml", 0, NULL, &explicit));
  assert_true(implicit.model.d_model == 128 && implicit.model.mamba2.d_state == 32);
  assert_true(implicit.train.lr == 2e-3 && implicit.train.steps == 5000);
  assert_true(implicit.train.unroll_steps == 300 && implicit.deq.forward.window == 8);
  assert_string_equal(implicit.data.group, "A5");
  assert_string_equal(explicit.name, "a5-explicit");
  assert_int_equal(explicit.model.kind, MODEL_EXPLICIT);
  explicit.model.kind = MODEL_IMPLICIT;
  memcpy(explicit.name, implicit.name, sizeof implicit.name);
  assert_memory_equal(&explicit, &implicit, sizeof explicit); /* they share all else */
}

static int make_directory(void **state)
{
  (void)state;
  const char *temporary = getenv("TMPDIR");
  (void)snprintf(directory, sizeof directory, "%.200s/test_config.XXXXXX",
                 temporary ? temporary : "/tmp");
  return mkdtemp(directory) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *at)
{
  (void)s, (void)type, (void)at;
  return remove(path);
}

static int remove_directory(void **state)
{
  (void)state;
  return nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults_are_the_sample),
      cmocka_unit_test(values_arrive),
      cmocka_unit_test(faults_are_placed_and_explained),
      cmocka_unit_test(long_text_is_refused),
      cmocka_unit_test(required_keys),
      cmocka_unit_test(shapes_must_fit),
      cmocka_unit_test(tolerances_go_with_the_dtype),
      cmocka_unit_test(a_window_wins_over_the_mode),
      cmocka_unit_test(lengths_ascend),
      cmocka_unit_test(overrides_win),
      cmocka_unit_test(overrides_that_fail),
      cmocka_unit_test(includes_merge_in_order),
      cmocka_unit_test(includes_that_fail),
      cmocka_unit_test(written_text_reads_back),
      cmocka_unit_test(written_numbers_read_back),
      cmocka_unit_test(writing_reports_a_full_disk),
      cmocka_unit_test(keys_are_printed),
      cmocka_unit_test(names_are_those_of_the_keys),
      cmocka_unit_test(large_and_deep_input_is_survived),
      cmocka_unit_test(bytes_that_are_not_text_are_refused),
      cmocka_unit_test(damage_is_survived),
      cmocka_unit_test(shipped_files_load),
      cmocka_unit_test(recipes),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
