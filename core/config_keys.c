/* config_keys.c: the table of all configuration keys, in the order in which they are written. */
#include "core/config_keys.h"
#include <string.h>

static const char *const dtypes[] = {"f32", "f64", NULL};
static const char *const devices[] = {"auto", "cpu", "cuda", NULL};
static const char *const matmuls[] = {"ieee", "tf32", "bf16", NULL};
static const char *const model_kinds[] = {"implicit", "explicit", NULL};
static const char *const mixers[] = {"mamba2", NULL};
static const char *const solvers[] = {"picard", "anderson", "broyden", "gmres", "auto", NULL};
static const char *const kinds[] = {"auto", "good", "bad", NULL};
static const char *const limits[] = {"restart", "reduce", NULL};
static const char *const stops[] = {"rel", "abs", "rms", "max", NULL};
static const char *const returns[] = {"best", "last", NULL};
static const char *const modes[] = {"sequential", "simultaneous", NULL};
static const char *const gradients[] = {"unroll", "phantom", "jfb", "ift", "shine", NULL};
static const char *const guesses[] = {"gradient", "shine", NULL};
static const char *const weights[] = {"exponential", "linear", "constant", NULL};
static const char *const tasks[] = {"word_problem", "text", NULL};
static const char *const monoids[] = {"trivial", "aperiodic", "aperiodic_alive", NULL};
static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const parameters[] = {"random", "run", NULL};
static const char *const inputs[] = {"normal", "tokens", NULL};
static const char *const all[] = {"all", NULL};
static const char *const automatic[] = {"auto", NULL};
static const char *const ranges[] = {"positive", "negative", NULL};
_Static_assert(sizeof solvers / sizeof *solvers == FP_SOLVERS + 1, "every solver has its word");
_Static_assert(FP_WINDOW_ALL == 0, "the word of a KEY_INT stands for 0");

#define AT(member) offsetof(struct config, member), sizeof(((struct config *)0)->member)
#define LENGTHS offsetof(struct config, evaluate.lengths), (CONFIG_LENGTHS + 1) * sizeof(int64_t)
#define NOT_KEPT 0, 0
_Static_assert(offsetof(struct evaluate_config, lengths_count) ==
                   offsetof(struct evaluate_config, lengths) + CONFIG_LENGTHS * sizeof(int64_t),
               "the count stands behind the list");

/* clang-format off */
/* the options of one solve (core/options.h) */
#define SOLVE(path, to, max_iter_, tol_, damping_, window_help)                                    \
  {path ".solver", KEY_WORD, AT(to.solver), NULL, solvers, "picard",                               \
   "method; auto: also window, memory and damping, by length; gmres: backward only"},              \
  {path ".max_iter", KEY_INT, AT(to.max_iter), "[1, 1000000000]", NULL, max_iter_,                 \
   "evaluations of f a sample may take, waiting in a window too; then one of its best iterate"},   \
  {path ".min_iter", KEY_INT, AT(to.min_iter), "[1, 1000000000]", NULL, "1",                       \
   "evaluations of f before a sample may converge"},                                               \
  {path ".tol", KEY_REAL, AT(to.tol), "[0, inf)", NULL, tol_,                                      \
   "a sample has converged when its residual is at most this"},                                    \
  {path ".stop", KEY_WORD, AT(to.stop), NULL, stops, "rel",                                        \
   "residual r = f(z) - z: rel |r|/|f(z)|, abs |r|, rms |r|/sqrt(n), max largest component"},      \
  {path ".damping", KEY_REAL, AT(to.damping), "(0, 1]", NULL, damping_,                            \
   "z <- (1 - damping) z + damping f(z)"},                                                         \
  {path ".window", KEY_INT, AT(to.window), "[1, 1000000000]", all, "all", window_help},            \
  {path ".admit", KEY_INT, AT(to.admit), "[1, 1000000000]", all, "1",                              \
   "window k: tokens that may enter behind an evaluation; all: as many as there is room for"},     \
  {path ".worst_token", KEY_BOOL, AT(to.worst_token), NULL, NULL, "false",                         \
   "window all: test every token of a sequence, not their common norm"},                           \
  {path ".stop_together", KEY_BOOL, AT(to.stop_together), NULL, NULL, "false",                     \
   "all samples go on until the worst has converged; window all only"},                            \
  {path ".return", KEY_FLAG, AT(to.return_last), NULL, returns, "best",                            \
   "iterate that a sample which has not converged returns"},                                       \
  {path ".poll_every", KEY_INT, AT(to.poll_every), "[1, 1000000]", NULL, "1",                      \
   "iterations between looks at who has finished, where a GPU waits; a CPU gains nothing by it"},  \
  {path ".kind", KEY_WORD, AT(to.kind), NULL, kinds, "auto",                                       \
   "good: Broyden's first, Anderson's type I; bad: second, type II; auto: good, anderson: bad"},   \
  {path ".memory", KEY_INT, AT(to.memory), "[0, 1024]", NULL, "5",                                 \
   "anderson: differences kept; 0: Picard"},                                                       \
  {path ".rank", KEY_INT, AT(to.rank), "[0, 1024]", NULL, "20",                                    \
   "broyden: updates kept; gmres: vectors between restarts; 0: Picard"},                           \
  {path ".limit", KEY_WORD, AT(to.limit), NULL, limits, "restart",                                 \
   "broyden, all updates taken: restart: begin anew; reduce: keep the half that matters most"},    \
  {path ".delay", KEY_INT, AT(to.delay), "[0, 1000000000]", NULL, "0",                             \
   "anderson, broyden: first steps, which are Picard's"},                                          \
  {path ".mix_every", KEY_INT, AT(to.mix_every), "[0, 1000000000]", NULL, "1",                     \
   "anderson: one step of so many is accelerated"},                                                \
  {path ".restart", KEY_INT, AT(to.restart), "[0, 1000000000]", NULL, "0",                         \
   "anderson, broyden: steps after which the history is dropped; 0: never"},                       \
  {path ".start", KEY_REAL, AT(to.start), "[0, inf]", NULL, "0",                                   \
   "anderson, broyden: accelerate at residuals of at most this; 0: from the first"},               \
  {path ".ridge", KEY_REAL, AT(to.ridge), "[0, inf)", NULL, "0",                                   \
   "anderson: added to the normal matrix, relative to the columns' norms"},                        \
  {path ".condition", KEY_REAL, AT(to.condition), "[0, inf)", NULL, "0",                           \
   "anderson: directions beyond this condition are dropped; 0: beyond rounding"},                  \
  {path ".safeguard", KEY_REAL, AT(to.safeguard), "[0, inf)", NULL, "2",                           \
   "anderson, broyden: a step that makes the residual so many times larger is undone; 0: never"},  \
  {path ".max_weight", KEY_REAL, AT(to.max_weight), "[0, inf)", NULL, "1.0e6",                     \
   "anderson: a step with larger weights is Picard's; 0: no limit"},                               \
  {path ".line_search", KEY_BOOL, AT(to.line_search), NULL, NULL, "false",                         \
   "broyden: a sample's step is halved until its residual falls"},                                 \
  {path ".divergence", KEY_REAL, AT(to.divergence), "[0, inf)", NULL, "1.0e8",                     \
   "diverged: |f(z)-z| is so many times what it or |f(z)| was at first; 0: never"},                \
  {path ".patience", KEY_INT, AT(to.patience), "[0, 1000000000]", NULL, "0",                       \
   "stagnated: evaluations without a new best residual; 0: at the rounding floor only"}
#define WINDOW "tokens solved together, sliding over the sequence"

const struct key keys[] = {
  {"include", KEY_INCLUDE, NOT_KEPT, NULL, NULL, "[]",
   "files merged first, relative to this file; later ones and this file win"},
  {"name", KEY_TEXT, AT(name), NULL, NULL, NULL, "of the run: its directory in runs_dir"},
  {"runs_dir", KEY_TEXT, AT(runs_dir), NULL, NULL, "runs", "directory of the runs"},
  {"seed", KEY_INT, AT(seed), "[0, inf)", NULL, "0", "of initialisation, data and dropout"},
  {"device", KEY_WORD, AT(device), NULL, devices, "auto",
   "auto: cuda where there are a GPU, its driver and the plug-in"},
  {"matmul", KEY_WORD, AT(matmul), NULL, matmuls, "ieee",
   "GPU, f32: what matrix products round their inputs to; sums are f32; the CPU does ieee"},
  {"dtype", KEY_WORD, AT(dtype), NULL, dtypes, "f32", "precision of parameters and activations"},

  {"model.kind", KEY_WORD, AT(model.kind), NULL, model_kinds, NULL,
   "implicit: z* = f(z*, u(tokens)); explicit: z* = f(embeddings, 0)"},
  {"model.mixer", KEY_WORD, NOT_KEPT, NULL, mixers, "mamba2", "the block's sequence mixer"},
  {"model.d_model", KEY_INT, AT(model.d_model), "[1, 65536]", NULL, "64", "width D"},
  {"model.n_layer", KEY_INT, AT(model.n_layer), "[1, 1024]", NULL, "1", "blocks in f"},
  {"model.d_intermediate", KEY_INT, AT(model.d_intermediate), "[0, 1048576]", NULL, "0",
   "width of the gated MLP behind each mixer; 0: none"},
  {"model.tie_embeddings", KEY_BOOL, AT(model.tie_embeddings), NULL, NULL, "true",
   "the output matrix is the embedding"},
  {"model.norm_eps", KEY_REAL, AT(model.norm_eps), "[1.0e-30, 1]", NULL, "1.0e-5",
   "added to the mean square in every norm"},
  {"model.dropout", KEY_REAL, AT(model.dropout), "[0, 1)", NULL, "0.0",
   "probability; a mask a sequence and branch, new in every step, the same in all iterations"},
  {"model.weight_norm", KEY_BOOL, AT(model.weight_norm), NULL, NULL, "false",
   "weights as direction and length by row"},
  {"model.residual", KEY_REAL, AT(model.residual), "(0, 1]", NULL, "1.0",
   "damping of the residual stream: z <- z + residual * mixer(z)"},
  {"model.mamba2.d_state", KEY_INT, AT(model.mamba2.d_state), "[1, 256]", NULL, "16",
   "state N of each channel"},
  {"model.mamba2.expand", KEY_INT, AT(model.mamba2.expand), "[1, 64]", NULL, "2",
   "E = expand * d_model channels"},
  {"model.mamba2.headdim", KEY_INT, AT(model.mamba2.headdim), "[1, 65536]", NULL, "32",
   "channels P of a head; divides d_ssm"},
  {"model.mamba2.ngroups", KEY_INT, AT(model.mamba2.ngroups), "[1, 65536]", NULL, "1",
   "groups G of heads that share B and C; divides the heads"},
  {"model.mamba2.d_conv", KEY_INT, AT(model.mamba2.d_conv), "[1, 16]", NULL, "4",
   "taps W of the causal convolution"},
  {"model.mamba2.chunk_size", KEY_INT, AT(model.mamba2.chunk_size), "[1, 512]", NULL, "64",
   "tokens of a chunk of the chunked form; changes speed, not results"},
  {"model.mamba2.d_ssm", KEY_INT, AT(model.mamba2.d_ssm), "[1, 4194304]", automatic, "auto",
   "channels of the state-space part; auto: all E"},
  {"model.mamba2.dt_limit", KEY_REALS, AT(model.mamba2.dt_limit), "[0, inf]", NULL, "[0.0, .inf]",
   "clamp of Delta: low, high"},
  {"model.mamba2.A_init_range", KEY_REALS, AT(model.mamba2.A_init_range), "(0, inf)", NULL,
   "[1.0, 16.0]", "A is drawn uniformly between: low, high"},
  {"model.mamba2.dt_min", KEY_REAL, AT(model.mamba2.dt_min), "(0, inf)", NULL, "0.001",
   "smallest initial Delta"},
  {"model.mamba2.dt_max", KEY_REAL, AT(model.mamba2.dt_max), "(0, inf)", NULL, "0.1",
   "largest initial Delta"},
  {"model.mamba2.dt_init_floor", KEY_REAL, AT(model.mamba2.dt_init_floor), "[0, inf)", NULL,
   "1.0e-4", "initial Delta is raised to this"},
  {"model.mamba2.norm_before_gate", KEY_BOOL, AT(model.mamba2.norm_before_gate), NULL, NULL,
   "false", "norm(y) silu(z) instead of norm(y silu(z))"},
  {"model.mamba2.bias", KEY_BOOL, AT(model.mamba2.bias), NULL, NULL, "false",
   "in_proj and out_proj have a bias"},
  {"model.mamba2.conv_bias", KEY_BOOL, AT(model.mamba2.conv_bias), NULL, NULL, "true",
   "the convolution has a bias"},
  {"model.mamba2.D_has_hdim", KEY_BOOL, AT(model.mamba2.D_has_hdim), NULL, NULL, "false",
   "D is one number a channel instead of one a head"},
  {"model.mamba2.A_range", KEY_FLAG, AT(model.mamba2.A_negative), NULL, ranges, "positive",
   "decay q = exp(-exp(A_log) Delta): positive: a = q in (0, 1); negative: a = 2 q - 1"},

  SOLVE("deq.forward", deq.forward, "24", "5.0e-2", "1.0", WINDOW),
  SOLVE("deq.backward", deq.backward, "32", "1.0e-3", "1.0", WINDOW),
  {"deq.backward.guess", KEY_FLAG, AT(deq.guess_shine), NULL, guesses, "gradient",
   "of the adjoint solve: dL/dz*, or what a forward solve by broyden makes of it (shine)"},
  {"deq.gradient", KEY_WORD, AT(deq.gradient), NULL, gradients, "phantom",
   "how z* is differentiated; shine: the forward broyden's inverse instead of an adjoint solve"},
  {"deq.shine.limit", KEY_REAL, AT(deq.shine_limit), "[0, inf)", NULL, "0",
   "a sequence whose adjoint is so many times longer than dL/dz* falls back to jfb; 0: never"},
  {"deq.unroll.iterations", KEY_INT, AT(deq.unroll_iterations), "[1, 1000000]", NULL, "4",
   "evaluations of f from 0 that are differentiated through; the first is not damped: z1 = f(0)"},
  {"deq.unroll.damping", KEY_REAL, AT(deq.unroll_damping), "(0, 1]", NULL, "0.8",
   "of the others"},
  {"deq.phantom.steps", KEY_INT, AT(deq.phantom_steps), "[1, 1000000]", NULL, "4",
   "evaluations of f from z* that are differentiated through"},
  {"deq.phantom.damping", KEY_REAL, AT(deq.phantom_damping), "(0, 1]", NULL, "0.8",
   "of those evaluations"},
  {"deq.correction.states", KEY_INT, AT(deq.correction.states), "[1, 64]", NULL, "1",
   "iterates, evenly spaced over max_iter, that have a loss; all but z* are phantom's; 1: z* only"},
  {"deq.correction.weights", KEY_WORD, AT(deq.correction.weights), NULL, weights, "exponential",
   "of iterate k of n: gamma^(n-k), 1 - gamma (n-k)/n, or 1"},
  {"deq.correction.gamma", KEY_REAL, AT(deq.correction.gamma), "[0, 1]", NULL, "0.8",
   "of those weights"},
  {"deq.jacobian_regularisation.weight", KEY_REAL, AT(deq.regularisation.weight), "[0, inf)", NULL,
   "0", "adds this times an estimate of |df/dz|^2/n (Frobenius, n unknowns) to the loss; 0: none"},
  {"deq.jacobian_regularisation.vectors", KEY_INT, AT(deq.regularisation.vectors), "[1, 1024]",
   NULL, "1", "random vectors of the estimate"},
  {"deq.jacobian_regularisation.probability", KEY_REAL, AT(deq.regularisation.probability),
   "[0, 1]", NULL, "1.0", "of a step to be regularised"},
  {"deq.jacobian_regularisation.step", KEY_REAL, AT(deq.regularisation.step), "[0, 1]", NULL, "0",
   "half the distance of the estimate's central differences; 0: 5e-3 in f32, 6e-6 in f64"},
  {"deq.evaluate.mode", KEY_WORD, AT(deq.mode), NULL, modes, "sequential",
   "sequential: window 1; simultaneous: window all; a window beside it wins"},
  SOLVE("deq.evaluate", deq.evaluate, "2048", "1.0e-2", "0.8", WINDOW "; not given: as mode says"),

  {"data.task", KEY_WORD, AT(data.task), NULL, tasks, NULL,
   "what is learnt: products in a group, or the next byte of a text"},
  {"data.path", KEY_FILE, AT(data.path), NULL, NULL, NULL,
   "text: a file, or a folder with all its files; relative to this file"},
  {"data.validation_fraction", KEY_REAL, AT(data.validation_fraction), "(0, 1)", NULL, "0.1",
   "text: so much of its end is for evaluation, and never trained on"},
  {"data.group", KEY_TEXT, AT(data.group), NULL, NULL, "S3",
   "Zn, Sn, An (n <= 6 for S, A) or a product as in A5*Z2"},
  {"data.monoid", KEY_WORD, AT(data.monoid), NULL, monoids, "trivial",
   "a factor without inverses, {E,A,B,X}; alive: drawn so that few products are the zero X"},
  {"data.identity_probability", KEY_REAL, AT(data.identity_probability), "[0, 1]", NULL, "0.0",
   "of a token whose group part is the identity; otherwise uniform"},
  {"data.length", KEY_INT, AT(data.length), "[1, 16777216]", NULL, "16",
   "tokens of a training sequence"},
  {"data.length_min", KEY_INT, AT(data.length_min), "[1, 16777216]", automatic, "auto",
   "shortest training sequence (or a curriculum's): uniform up to `length`; auto: all have it"},

  {"train.steps", KEY_INT, AT(train.steps), "[0, 1000000000]", NULL, "900", "optimiser steps"},
  {"train.unroll_steps", KEY_INT, AT(train.unroll_steps), "[0, 1000000000]", NULL, "400",
   "first steps that train by unroll, whatever deq.gradient says"},
  {"train.batch_size", KEY_INT, AT(train.batch_size), "[1, 1048576]", NULL, "64",
   "sequences of a batch"},
  {"train.accumulate", KEY_INT, AT(train.accumulate), "[1, 1048576]", NULL, "1",
   "batches a step: their gradients are summed before the update"},
  {"train.lr", KEY_REAL, AT(train.lr), "[0, inf)", NULL, "3.0e-3", "learning rate of AdamW"},
  {"train.betas", KEY_REALS, AT(train.betas), "[0, 1)", NULL, "[0.9, 0.95]",
   "decay of the first and the second moment"},
  {"train.eps", KEY_REAL, AT(train.eps), "(0, inf)", NULL, "1.0e-8",
   "added to the root of the second moment"},
  {"train.weight_decay", KEY_REAL, AT(train.weight_decay), "[0, inf)", NULL, "0.0",
   "decoupled; not on A_log, D, dt_bias, norms and biases"},
  {"train.clip", KEY_REAL, AT(train.clip), "[0, inf)", NULL, "1.0",
   "largest norm of the gradient; 0: not clipped"},
  {"train.lr_warmup", KEY_INT, AT(train.lr_warmup), "[0, 1000000000]", NULL, "50",
   "steps of linear growth to lr"},
  {"train.schedule", KEY_WORD, AT(train.schedule), NULL, schedules, "linear",
   "how lr falls to 0 at the end"},
  {"train.decay_fraction", KEY_REAL, AT(train.decay_fraction), "[0, 1]", NULL, "0.2",
   "part of the steps, the last ones, in which lr falls"},
  {"train.curriculum_steps", KEY_INT, AT(train.curriculum_steps), "[0, 1000000000]", NULL, "0",
   "first steps in which the training length grows from curriculum_length to data.length"},
  {"train.curriculum_length", KEY_INT, AT(train.curriculum_length), "[1, 16777216]", NULL, "1",
   "training length of the first step of the curriculum"},
  {"train.skip_nonfinite", KEY_BOOL, AT(train.skip_nonfinite), NULL, NULL, "false",
   "a step whose loss or gradient is not finite is skipped and counted instead of ending the run"},
  {"train.spike_factor", KEY_REAL, AT(train.spike_factor), "[1, inf]", NULL, "2.0",
   "a loss above this times its running mean is marked as a spike in the metrics"},
  {"train.log_every", KEY_INT, AT(train.log_every), "[1, 1000000000]", NULL, "10",
   "steps between lines of metrics.jsonl"},
  {"train.evaluate_every", KEY_INT, AT(train.evaluate_every), "[0, 1000000000]", NULL, "0",
   "steps between evaluations at data.length, the best of which keeps its checkpoint; 0: none"},
  {"train.checkpoint_every", KEY_INT, AT(train.checkpoint_every), "[0, 1000000000]", NULL, "300",
   "steps between checkpoints; 0: at the end only"},
  {"train.keep", KEY_INT, AT(train.keep), "[1, 1000000000]", all, "all",
   "checkpoints that are kept, the newest ones, beside the best"},
  {"train.report.spectral_radius", KEY_INT, AT(train.report_spectral_radius), "[0, 1000000000]",
   NULL, "0", "steps between reports of df/dz's spectral radius, of a token a sequence; 0: none"},
  {"train.report.gradient_cosine", KEY_INT, AT(train.report_gradient_cosine), "[0, 1000000000]",
   NULL, "0", "steps between reports of the gradient's cosine with the exact one; 0: none"},
  {"train.log_timing", KEY_BOOL, AT(train.log_timing), NULL, NULL, "true",
   "tokens_per_second in the metrics; without it two runs of a seed write equal files"},
  {"train.tensorboard", KEY_BOOL, AT(train.tensorboard), NULL, NULL, "false",
   "also writes the metrics as a TensorBoard event file"},

  {"evaluate.lengths", KEY_INTS, LENGTHS, "[1, 16777216]", NULL, "[16, 32, 64, 128]",
   "tokens of the evaluated sequences"},
  {"evaluate.sequences", KEY_INT, AT(evaluate.sequences), "[1, 1048576]", NULL, "256",
   "sequences of each length"},
  {"evaluate.spectral_radius", KEY_INT, AT(evaluate.spectral_radius), "[0, 65536]", NULL, "0",
   "sequences (of the first length) whose df/dz's spectral radius, at a token, is told; 0: none"},

  {"jacobian.parameters", KEY_WORD, AT(jacobian.parameters), NULL, parameters, "random",
   "jacobian_check: drawn, or those of the run that name and runs_dir say"},
  {"jacobian.input", KEY_WORD, AT(jacobian.input), NULL, inputs, "normal",
   "normal: u N(0,1), states uniform; tokens: embedded tokens of the task, states reached by them"},
  {"jacobian.prefix", KEY_INT, AT(jacobian.prefix), "[0, 1000000]", NULL, "8",
   "input: tokens: how many go before the token that is looked at"},
  {"jacobian.tokens", KEY_INT, AT(jacobian.tokens), "[1, 100000]", NULL, "1",
   "above 1: also the product of the Jacobians of so many tokens, conv inputs included"},
  {"jacobian.transient", KEY_INT, AT(jacobian.transient), "[0, 100000]", NULL, "0",
   "of these tokens, first ones that the Lyapunov exponents leave out"},
  {"jacobian.exponents", KEY_INT, AT(jacobian.exponents), "[1, 1024]", NULL, "4",
   "largest Lyapunov exponents, at most the size of the state"},
  {"jacobian.sweep", KEY_INT, AT(jacobian.sweep), "[1, 16]", NULL, "16",
   "columns in the sweep of the differences' step size"},
  {"jacobian.tol", KEY_REAL, AT(jacobian.tol), "[1.0e-14, 1]", NULL, "1.0e-12",
   "relative residual that deq.evaluate's solver is asked for, before Newton's last steps"},
  {"jacobian.tolerance", KEY_REAL, AT(jacobian.tolerance), "[0, inf)", NULL, "1.0e-12",
   "between closed form, adjoint and complex step: largest difference over largest entry"},
  {"jacobian.tolerance_differences", KEY_REAL, AT(jacobian.tolerance_differences), "[0, inf)", NULL,
   "1.0e-8", "between closed form and finite differences"},
};
/* clang-format on */
const int keys_count = sizeof keys / sizeof *keys;
_Static_assert(sizeof keys / sizeof *keys <= KEYS_MAX, "struct layer has room for every key");

static const char *word_of(const char *const *words, size_t count, int i)
{
  CHECK(i >= 0 && (size_t)i + 1 < count);
  return words[i];
}
#define WORD(words, i) word_of(words, sizeof(words) / sizeof *(words), (int)(i))

const char *dtype_name(enum dtype d) { return WORD(dtypes, d); }
const char *matmul_name(enum matmul_kind m) { return WORD(matmuls, m); }

const char *model_kind_name(enum model_kind k) { return WORD(model_kinds, k); }

const char *gradient_name(enum gradient_kind g) { return WORD(gradients, g); }

const char *evaluate_mode_name(enum evaluate_mode m) { return WORD(modes, m); }

const char *data_task_name(enum data_task t) { return WORD(tasks, t); }

int key_find(const char *path)
{
  for (int k = 0; k < keys_count; k++)
    if (!strcmp(keys[k].path, path))
      return k;
  return -1;
}

int key_section(const char *path)
{
  size_t n = strlen(path);
  for (int k = 0; k < keys_count; k++)
    if (!strncmp(keys[k].path, path, n) && keys[k].path[n] == '.')
      return k;
  return -1;
}

bool key_is_list(const struct key *k)
{
  return k->type == KEY_REALS || k->type == KEY_INTS || k->type == KEY_INCLUDE;
}

int64_t key_items(const struct key *k)
{
  switch (k->type) {
  case KEY_REALS:
    return (int64_t)(k->size / sizeof(double));
  case KEY_INTS:
    return CONFIG_LENGTHS;
  case KEY_INCLUDE:
    return INCLUDES_MAX;
  default:
    return 1;
  }
}

bool key_count_fits(const struct key *k, int64_t items)
{
  return k->type == KEY_INCLUDE || (k->type == KEY_INTS ? items >= 1 : items == key_items(k));
}

/* The task that alone has this key; -1: every task has it. */
static int task_of(const struct key *k)
{
  static const char *const word_problem[] = {"data.group", "data.monoid",
                                             "data.identity_probability", NULL};
  static const char *const text[] = {"data.path", "data.validation_fraction", NULL};
  static const char *const *const own[] = {[TASK_WORD_PROBLEM] = word_problem, [TASK_TEXT] = text};
  for (int task = 0; task < (int)(sizeof own / sizeof *own); task++)
    for (const char *const *path = own[task]; *path; path++)
      if (!strcmp(k->path, *path))
        return task;
  return -1;
}

bool key_applies(const struct key *k, const struct config *c)
{
  int task = task_of(k);
  return task < 0 || task == (int)c->data.task;
}

/* Levenshtein (1966), one row of the table at a time */
static size_t edit_distance(const char *a, size_t m, const char *b, size_t n)
{
  size_t row[KEY_PATH + 1];
  CHECK(n <= KEY_PATH);
  for (size_t j = 0; j <= n; j++)
    row[j] = j;
  for (size_t i = 1; i <= m; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= n; j++) {
      size_t best = diagonal + (a[i - 1] != b[j - 1]);
      best = row[j] + 1 < best ? row[j] + 1 : best;
      best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
      diagonal = row[j];
      row[j] = best;
    }
  }
  return row[n];
}

static const char *last_part(const char *path)
{
  const char *dot = strrchr(path, '.');
  return dot ? dot + 1 : path;
}

void key_nearest(const char *path, char out[KEY_PATH])
{
  size_t best = (size_t)-1, m = strlen(path);
  for (int k = 0; k < keys_count; k++) {
    const char *known = keys[k].path;
    for (size_t n = 1; n <= strlen(known); n++) {
      if (known[n] && known[n] != '.')
        continue; /* a section, or the whole key */
      size_t d = edit_distance(path, m, known, n);
      if (!known[n] && d > 3 && !strcmp(last_part(path), last_part(known)))
        d = 3; /* the right key in a wrong section */
      if (!known[n] && d > 2 && !strncmp(path, known, m) && known[m] == '_')
        d = 2; /* its first words */
      if (d < best) {
        best = d;
        memcpy(out, known, n);
        out[n] = 0;
      }
    }
  }
}

const char *key_expected(const struct key *k, char out[KEY_EXPECTED])
{
  int64_t items = key_items(k);
  size_t used = 0;
  switch (k->type) {
  case KEY_INT:
    (void)snprintf(out, KEY_EXPECTED, "%s%san integer in %s", k->words ? k->words[0] : "",
                   k->words ? " or " : "", k->range);
    break;
  case KEY_REAL:
    (void)snprintf(out, KEY_EXPECTED, "a number in %s", k->range);
    break;
  case KEY_BOOL:
    (void)snprintf(out, KEY_EXPECTED, "true or false");
    break;
  case KEY_WORD:
  case KEY_FLAG:
    for (int i = 0; k->words[i] && used < KEY_EXPECTED; i++)
      used += (size_t)snprintf(out + used, KEY_EXPECTED - used, "%s%s",
                               i == 0            ? ""
                               : k->words[i + 1] ? ", "
                                                 : " or ",
                               k->words[i]);
    break;
  case KEY_TEXT:
  case KEY_FILE:
    (void)snprintf(out, KEY_EXPECTED, "%s of 1 to %zu bytes",
                   k->type == KEY_TEXT ? "text" : "a path", k->size - 1);
    break;
  case KEY_REALS:
    (void)snprintf(out, KEY_EXPECTED, "a list of %d numbers in %s", (int)items, k->range);
    break;
  case KEY_INTS:
    (void)snprintf(out, KEY_EXPECTED, "a list of 1 to %d integers in %s", (int)items, k->range);
    break;
  case KEY_INCLUDE:
    (void)snprintf(out, KEY_EXPECTED, "a list of files");
    break;
  }
  return out;
}

void config_print_keys(FILE *out)
{
  char expected[KEY_EXPECTED];
  for (const struct key *k = keys; k < keys + keys_count; k++)
    (void)fprintf(out, "%s: %s; %s%s%s%s\n    %s\n", k->path, key_expected(k, expected),
                  k->fallback ? "default " : "required", k->fallback ? k->fallback : "",
                  task_of(k) >= 0 ? "; task " : "",
                  task_of(k) >= 0 ? data_task_name((enum data_task)task_of(k)) : "", k->help);
}
