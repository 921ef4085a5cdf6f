/* program.c: see program.h. */
#include "experiments/program.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "kernels/backends.h"
#include "kernels/blas.h"
#include "solvers/registry.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* libgomp's threads spin for milliseconds at the end of every loop, in case the next one comes. Two
 * threads on two cores train the quickstart's model (unrolled) at 161k tokens/s that way, but at 3k
 * when a core is busy with something else; with 1000 turns it is 155k, and about 50k.  Threads that
 * sleep at once reach 71k, less than one thread alone.  The library reads this once, while the
 * program is loaded: hence the return value, whether the program must start again.  Whoever has
 * chosen a policy is obeyed. */
static bool spin_briefly(void)
{
  if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
    return false;
  return setenv("GOMP_SPINCOUNT", "1000", 1) == 0;
}

static const char *typed = "build/train"; /* as this program was called */

const char *program_beside(const char *name, char out[CONFIG_PATH])
{
  const char *slash = strrchr(typed, '/'), *base = slash ? slash + 1 : typed;
  bool installed = strncmp(base, "deqmamba-", 9) == 0; /* make install names it so */
  (void)snprintf(out, CONFIG_PATH, "%.*s%s%s", (int)(base - typed), typed,
                 installed ? "deqmamba-" : "", name);
  for (char *c = out + (base - typed); installed && *c; c++)
    *c = *c == '_' ? '-' : *c;
  return out;
}

void program_start(int argc, char **argv)
{
  typed = argc > 0 ? argv[0] : typed;
  bool again = spin_briefly();
  blas_start(argc, argv); /* when this starts the program again, both are done */
  if (again) {
    parallel_unbind();
    (void)execv("/proc/self/exe", argv); /* when it fails, the program only waits longer */
  }
  interrupt_install();
}

static void print_help(const char *usage, const struct option_spec *options)
{
  (void)printf("%s\n\noptions:\n", usage);
  for (const struct option_spec *o = options; o->name; o++) {
    char left[64];
    (void)snprintf(left, sizeof left, "--%s%s%s", o->name, o->value_name ? " " : "",
                   o->value_name ? o->value_name : "");
    (void)printf("  %-22s %s\n", left, o->help);
  }
  (void)printf("  %-22s %s\n\n", "--help", "this text");
  (void)printf(
      "exit status: 0 done; 1 a check or a listed run failed, the solve of an answer did not\n"
      "converge, or a loss is not finite; 2 usage or configuration; 3 files, memory or device;\n"
      "130 interrupted.\n");
}

/* Takes options[*i], which begins with --; moves *i over its value. */
static enum status take_option(int argc, char **argv, int *i, const struct option_spec *options)
{
  const char *word = argv[*i] + 2, *equals = strchr(word, '=');
  size_t n = equals ? (size_t)(equals - word) : strlen(word);
  for (const struct option_spec *o = options; o->name; o++) {
    if (strlen(o->name) != n || memcmp(o->name, word, n) != 0)
      continue;
    if (o->flag && !equals) {
      *o->flag = true;
      return OK;
    }
    if (o->value && (equals || *i + 1 < argc)) {
      *o->value = equals ? equals + 1 : argv[++*i];
      return OK;
    }
    FAIL(ERR_USAGE, o->value ? "--%s needs %s" : "--%s takes no value%s", o->name,
         o->value_name ? o->value_name : "");
  }
  FAIL(ERR_USAGE, "unknown option %s; --help lists them", argv[*i]);
}

/* Appends a word that is no option: words first, overrides behind them. */
static void sort_word(struct command_line *c, const char *text)
{
  bool override = c->words > 0 && strchr(text, '=');
  int at = override ? c->words + c->overrides : c->words;
  memmove(&c->word[at + 1], &c->word[at], (size_t)(c->words + c->overrides - at) * sizeof *c->word);
  c->word[at] = text;
  *(override ? &c->overrides : &c->words) += 1;
}

enum status command_line_parse_words(int argc, char **argv, const char *usage,
                                     const struct option_spec *options, struct command_line *c)
{
  *c = (struct command_line){.word = (const char **)(uintptr_t)argv};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      print_help(usage, options);
      exit(program_end(OK));
    }
    if (strncmp(argv[i], "--", 2) == 0)
      TRY(take_option(argc, argv, &i, options));
    else
      sort_word(c, argv[i]);
  }
  c->target = c->words ? c->word[0] : NULL;
  c->override = c->word + c->words;
  return OK;
}

enum status command_line_parse(int argc, char **argv, const char *usage,
                               const struct option_spec *options, struct command_line *c)
{
  TRY(command_line_parse_words(argc, argv, usage, options, c));
  for (; c->words > 1; c->words--) { /* words lie in front of the overrides */
    const char *word = c->word[c->words - 1];
    if (!config_is_file(word))
      FAIL(ERR_USAGE,
           "'%s' is neither an option (--name) nor an override (key.path=value, or a .yaml file)",
           word);
    c->override--;
    c->overrides++;
  }
  return OK;
}

void command_line_without_target(struct command_line *c)
{
  c->override = c->word;
  c->overrides += c->words;
  c->words = 0;
  c->target = NULL;
}

void say_changes(const struct config *before, const struct config *c, const char *begin)
{
  for (int k = config_difference(before, c, 0); k >= 0; k = config_difference(before, c, k + 1)) {
    char was[256], is[256];
    if (!strncmp(config_key_path(k), begin, strlen(begin)))
      (void)fprintf(stderr, "%s: %s, was %s\n", config_key_path(k),
                    config_key_value(k, c, is, sizeof is),
                    config_key_value(k, before, was, sizeof was));
  }
}

static enum status open_cpu(const struct config *c, struct runtime *rt)
{
  static char device[64];
  struct backend_cpu cpu;
  TRY(backend_cpu_select(&cpu));
  struct solver_ports solvers = solver_ports_for(cpu.isa);
  (void)snprintf(device, sizeof device, "cpu (%s)", cpu.isa);
  *rt = (struct runtime){cpu.f32, cpu.f64, solvers.f32, solvers.f64, device};
  (void)fprintf(stderr, "device %s, %s\n", device, blas_describe());
  if (c->matmul != MATMUL_IEEE)
    (void)fprintf(stderr, "matmul: only ieee on the CPU\n");
  return OK;
}

static enum status open_cuda(const struct config *c, struct runtime *rt)
{
  static const enum plugin_matmul matmul[] = {PLUGIN_IEEE, PLUGIN_TF32, PLUGIN_BF16};
  static const char *const name[] = {"ieee", "tf32", "bf16"};
  static char device[384];
  struct plugin gpu;
  TRY(backend_cuda_open(matmul[c->matmul], &gpu));
  (void)snprintf(device, sizeof device, "cuda (%s)", gpu.device);
  *rt = (struct runtime){gpu.f32, gpu.f64, gpu.solver_f32, gpu.solver_f64, device};
  (void)fprintf(stderr, "device %s, matmul %s\n", device, name[c->matmul]);
  return OK;
}

enum status runtime_open(const struct config *c, struct runtime *rt)
{
  if (c->device == DEVICE_CUDA)
    return open_cuda(c, rt);
  if (c->device == DEVICE_AUTO && backend_cuda_likely()) {
    if (open_cuda(c, rt) == OK)
      return OK;
    (void)fprintf(stderr, "device: auto: %s\n", last_error());
  }
  return open_cpu(c, rt);
}

/* Whoever reads wants no more, as head and a pager that is left. */
static bool reader_has_gone(void)
{
  struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
  return poll(&out, 1, 0) == 1 && (out.revents & POLLERR);
}

int program_end(enum status s)
{
  if (s != OK)
    (void)fprintf(stderr, "%s\n", last_error());
  if ((fflush(stdout) != 0 || ferror(stdout)) && s == OK && !reader_has_gone()) {
    (void)fprintf(stderr, "standard output cannot be written\n");
    return exit_code(ERR_IO);
  }
  return exit_code(s);
}
