/* program.h: what every program does with its command line, its device and its end. */
#ifndef EXPERIMENTS_PROGRAM_H
#define EXPERIMENTS_PROGRAM_H
#include "core/run.h"

/* An option --name, with a value when `value` is given. */
struct option_spec {
  const char *name, *value_name, *help;
  const char **value; /* receives the text; or NULL */
  bool *flag;         /* set to true; or NULL */
};

struct command_line {
  const char *target;    /* the first word: CONFIG.yaml or DIR; NULL: none */
  const char **word;     /* that and, where several are allowed, those that follow; in argv */
  const char **override; /* the words key=value, behind them in argv */
  int words, overrides;
};

/* Starts the program: the right BLAS (may start it again), signal handlers. */
void program_start(int argc, char **argv);
/* How the user calls `name` (train, jacobian_check, ...), which lies where this program does; in
 * `out`. */
const char *program_beside(const char *name, char out[CONFIG_PATH]);
/* Sorts the words into target, key=value overrides and options; --help prints and exits 0.  */
MUST_USE enum status command_line_parse(int argc, char **argv, const char *usage,
                                        const struct option_spec *options, struct command_line *c);
/* The same with any number of words before the overrides. */
MUST_USE enum status command_line_parse_words(int argc, char **argv, const char *usage,
                                              const struct option_spec *options,
                                              struct command_line *c);
/* There is no target: all words are overrides. */
void command_line_without_target(struct command_line *c);
/* "KEY: VALUE, was VALUE" on stderr, of every key in which they differ and that begins so. */
void say_changes(const struct config *before, const struct config *c, const char *begin);
/* The device and the solvers that c asks for; says on stderr what was chosen. */
MUST_USE enum status runtime_open(const struct config *c, struct runtime *rt);
/* Prints the error of a failed status; returns the program's exit code. */
int program_end(enum status s);
#endif
