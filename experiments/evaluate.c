/* evaluate.c: loss and accuracy of a trained model by length and mode; logits and gradients of
 * given tokens. */
#include "core/files.h"
#include "experiments/program.h"
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "usage: evaluate DIR [key.path=value ...] [--json FILE]\n"
    "       evaluate DIR [key.path=value ...] --tokens FILE [--logits FILE] [--gradients FILE]\n\n"
    "DIR is a run (then its latest checkpoint) or a checkpoint.  Without --tokens: fresh sequences "
    "of\n"
    "every length of evaluate.lengths, in sequential and simultaneous mode (deq.evaluate says "
    "how).\n"
    "--tokens FILE: safetensors with int32 or int64 input_ids (B,L) and optional labels (B,L), "
    "-100\n"
    "ignored.  --logits writes logits (B,L,V), hidden (z*), residual, iterations; --gradients "
    "writes\n"
    "d(mean cross-entropy)/d(parameter) under each parameter's name, as deq.gradient says.";

static enum status run(int argc, char **argv)
{
  struct evaluate_options o = {0};
  struct command_line line;
  struct config c;
  struct runtime rt;
  char checkpoint[2 * CONFIG_PATH], config[2 * CONFIG_PATH];
  const struct option_spec options[] = {
      {"json", "FILE", "also write the table as JSON", &o.json, NULL},
      {"tokens", "FILE", "evaluate these tokens instead of fresh sequences", &o.tokens, NULL},
      {"logits", "FILE", "write logits, hidden, residual and iterations of --tokens", &o.logits,
       NULL},
      {"gradients", "FILE", "write the gradient of the mean cross-entropy of --tokens",
       &o.gradients, NULL},
      {0}};
  TRY(command_line_parse(argc, argv, usage, options, &line));
  if (!line.target)
    FAIL(ERR_USAGE, "%s", usage);
  if ((o.logits || o.gradients) && !o.tokens)
    FAIL(ERR_USAGE, "--logits and --gradients need --tokens FILE");
  if (o.tokens && !o.logits && !o.gradients)
    FAIL(ERR_USAGE, "--tokens needs --logits FILE or --gradients FILE");
  TRY(checkpoint_resolve(line.target, checkpoint, sizeof checkpoint));
  TRY(path_join(config, sizeof config, checkpoint, "config.yaml"));
  TRY(config_load(config, line.overrides, line.override, &c));
  TRY(config_resolve(&c));
  TRY(runtime_open(&c, &rt));
  return evaluate_run(&c, &rt, checkpoint, &o);
}

int main(int argc, char **argv)
{
  program_start(argc, argv);
  return program_end(run(argc, argv));
}
