/* data.c: see data.h. */
#include "core/data.h"

enum status data_open(const struct data_config *c, struct task_data *d)
{
  *d = (struct task_data){.c = c};
  return c->task == TASK_TEXT ? text_open(c, &d->text) : word_problem_init(c, &d->problem);
}

void data_close(struct task_data *d)
{
  text_close(&d->text);
  word_problem_free(&d->problem);
}

enum status data_vocabulary(const struct data_config *c, int64_t *vocabulary)
{
  struct word_problem w;
  *vocabulary = TEXT_VOCABULARY;
  if (c->task == TASK_TEXT)
    return OK;
  TRY(word_problem_init(c, &w));
  *vocabulary = word_problem_vocabulary(&w);
  word_problem_free(&w);
  return OK;
}

enum status data_require(const struct task_data *d, enum philox_stream stream, int64_t length,
                         const char *because)
{
  return d->c->task == TASK_TEXT ? text_require(&d->text, d->c, stream, length, because) : OK;
}

int64_t data_fingerprint(const struct task_data *d)
{
  return d->c->task == TASK_TEXT ? text_fingerprint(&d->text) : 0;
}

void data_batch(const struct task_data *d, uint64_t seed, enum philox_stream stream, uint32_t step,
                uint32_t first, int64_t sequences, int64_t length, int32_t *tokens,
                int32_t *targets)
{
  if (d->c->task == TASK_TEXT)
    text_batch(&d->text, seed, stream, step, first, sequences, length, tokens, targets);
  else
    word_problem_batch(&d->problem, seed, stream, step, first, sequences, length, tokens, targets);
}

double data_bits(double loss) { return loss / 0.69314718055994530942; }
