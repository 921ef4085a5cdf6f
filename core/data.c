/* data.c: see data.h. */
#include "core/data.h"
#include "core/parallel.h"
#include <stdio.h>

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

/* data_batch's arguments. */
struct draw {
  const struct task_data *d;
  uint64_t seed;
  enum philox_stream stream;
  uint32_t step, first;
  int64_t sequences, length;
  int32_t *tokens, *targets;
};

static void draw_sequences(const struct draw *c, int64_t from, int64_t count)
{
  uint32_t first = c->first + (uint32_t)from;
  int32_t *tokens = c->tokens + from * c->length, *targets = c->targets + from * c->length;
  if (c->d->c->task == TASK_TEXT)
    text_batch(&c->d->text, c->seed, c->stream, c->step, first, count, c->length, tokens, targets);
  else
    word_problem_batch(&c->d->problem, c->seed, c->stream, c->step, first, count, c->length, tokens,
                       targets);
}

enum { DRAWN_AT_ONCE = 4096 }; /* tokens that take longer than a thread to start */

static int64_t sequences_at_once(int64_t length)
{
  return length < DRAWN_AT_ONCE ? DRAWN_AT_ONCE / length : 1;
}

static void draw_part(void *draw, int64_t i)
{
  const struct draw *c = draw;
  int64_t count = sequences_at_once(c->length), from = i * count, left = c->sequences - from;
  draw_sequences(c, from, left < count ? left : count);
}

void data_batch(const struct task_data *d, uint64_t seed, enum philox_stream stream, uint32_t step,
                uint32_t first, int64_t sequences, int64_t length, int32_t *tokens,
                int32_t *targets)
{
  struct draw c = {d, seed, stream, step, first, sequences, length, tokens, targets};
  int64_t count = sequences_at_once(length), parts = (sequences + count - 1) / count;
  parallel_run(parts, draw_part, &c);
}

void data_describe(const struct data_config *c, size_t size, char *out)
{
  static const char *const monoids[] = {
      [MONOID_TRIVIAL] = "",
      [MONOID_APERIODIC] = " x aperiodic",
      [MONOID_APERIODIC_ALIVE] = " x aperiodic_alive",
  };
  char identity[64] = "";
  if (c->identity_probability > 0)
    (void)snprintf(identity, sizeof identity, ", identity probability %g", c->identity_probability);
  if (c->task == TASK_TEXT)
    (void)snprintf(out, size, "text %s", c->path);
  else
    (void)snprintf(out, size, "word problem %s%s%s", c->group, monoids[c->monoid], identity);
}

double data_bits(double loss) { return loss / 0.69314718055994530942; }
