/* test_metrics.c: metrics.jsonl is valid JSON, whole lines, and goes back to a step on resuming. */
#include "core/metrics.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "tests/scratch.h"
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

static enum status put_step(struct metrics *m, int64_t step)
{
  metrics_begin(m);
  metrics_int(m, "step", step);
  return metrics_end(m);
}

static void a_line_is_an_object(void **state)
{
  (void)state;
  struct metrics m;
  check_ok(metrics_open(scratch("m"), &m));
  metrics_begin(&m);
  metrics_int(&m, "step", INT64_MIN);
  metrics_double(&m, "loss", .1);
  metrics_double(&m, "whole", 3);
  metrics_double(&m, "nan", NAN);
  metrics_double(&m, "infinite", -INFINITY);
  metrics_bool(&m, "yes", true);
  metrics_string(&m, "text", "a \"b\"\n\x01 \xc3\xa9");
  metrics_string(&m, "not UTF-8", "a\xff");
  metrics_string(&m, "none", NULL);
  check_ok(metrics_end(&m));
  metrics_begin(&m);
  check_ok(metrics_end(&m));
  assert_true(scratch_has("m", "{\"step\": -9223372036854775808, \"loss\": 0.1, \"whole\": 3.0, "
                               "\"nan\": null, \"infinite\": null, \"yes\": true, "
                               "\"text\": \"a \\\"b\\\"\\n\\u0001 \xc3\xa9\", "
                               "\"not UTF-8\": \"a?\", \"none\": null}\n{}\n"));
  check_ok(metrics_close(&m));
  check_ok(metrics_close(&m));
}

static void doubles_read_back(void **state)
{
  (void)state;
  static const double value[] = {0,       -0.0,   1. / 3, 1e23,     5e-324, DBL_MAX,
                                 DBL_MIN, 1e15,   1e16,   123456.0, 1e-5,   -2.5,
                                 0.3,     2. / 3, 1e300,  1.1f,     100.0,  4503599627370497.5};
  enum { VALUES = sizeof value / sizeof value[0] };
  struct metrics m;
  char *text, key[16];
  size_t n;
  check_ok(metrics_open(scratch("m"), &m));
  metrics_begin(&m);
  for (int i = 0; i < VALUES; i++) {
    (void)snprintf(key, sizeof key, "%d", i);
    metrics_double(&m, key, value[i]);
  }
  check_ok(metrics_end(&m));
  check_ok(metrics_close(&m));
  check_ok(file_read(scratch("m"), &text, &n));
  json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
  assert_non_null(line);
  for (int i = 0; i < VALUES; i++) {
    (void)snprintf(key, sizeof key, "%d", i);
    assert_true(json_is_real(json_object_get(line, key))); /* also the whole numbers */
    double got = json_real_value(json_object_get(line, key));
    assert_memory_equal(&got, &value[i], sizeof got);
  }
  assert_non_null(strstr(text, "\"12\": 0.3,")); /* and shortly */
  json_decref(line);
  free(text);
}

static void lines_are_there_at_once_and_appended(void **state)
{
  (void)state;
  struct metrics m;
  check_ok(metrics_open(scratch("m"), &m));
  check_ok(put_step(&m, 1));
  assert_true(scratch_has("m", "{\"step\": 1}\n"));
  check_ok(metrics_flush(&m));
  check_ok(metrics_close(&m));
  check_ok(metrics_open(scratch("m"), &m));
  check_ok(put_step(&m, 2));
  check_ok(metrics_close(&m));
  assert_true(scratch_has("m", "{\"step\": 1}\n{\"step\": 2}\n"));
}

static void a_torn_end_is_dropped_when_opening(void **state)
{
  (void)state;
  struct metrics m;
  char *torn = malloc(20001);
  assert_non_null(torn);
  memset(torn, 'x', 20000);
  memcpy(torn, "{\"step\": 1}\n{\"s", 15);
  static const size_t length[] = {14, 12, 15, 4096 + 11, 4096 + 12, 4096 + 13, 20000};
  for (size_t i = 0; i < sizeof length / sizeof length[0]; i++) {
    scratch_put("m", torn, length[i]);
    check_ok(metrics_open(scratch("m"), &m));
    check_ok(put_step(&m, 2));
    check_ok(metrics_close(&m));
    assert_true(scratch_has("m", "{\"step\": 1}\n{\"step\": 2}\n"));
  }
  scratch_put("m", torn + 12, 10000); /* not one whole line */
  check_ok(metrics_open(scratch("m"), &m));
  check_ok(metrics_close(&m));
  assert_true(scratch_has("m", ""));
  free(torn);
}

static void failing_writes_are_reported(void **state)
{
  (void)state;
  struct metrics m;
  scratch_put("file", "", 0);
  check_fails(metrics_open(scratch("none/m"), &m), ERR_IO, scratch("none/m: cannot open: No such"));
  check_ok(metrics_close(&m)); /* nothing is open */
  check_fails(metrics_open(scratch("file/m"), &m), ERR_IO, "Not a directory");
  check_fails(metrics_open(scratch("."), &m), ERR_IO, "Is a directory");
  if (path_exists("/dev/full")) {
    check_ok(metrics_open("/dev/full", &m));
    check_fails(put_step(&m, 1), ERR_IO, "/dev/full: cannot write: No space left");
    check_ok(metrics_close(&m));
  }
}

static void a_full_disk_leaves_whole_lines(void **state)
{
  (void)state;
  struct metrics m;
  check_ok(metrics_open(scratch("m"), &m));
  check_ok(put_step(&m, 1));
  limit_file_size(20); /* the second line fits in part */
  enum status s = put_step(&m, 2);
  limit_file_size(-1);
  check_fails(s, ERR_IO, scratch("m: cannot write: File too large"));
  assert_true(scratch_has("m", "{\"step\": 1}\n"));
  check_ok(put_step(&m, 3)); /* there is room again */
  assert_true(scratch_has("m", "{\"step\": 1}\n{\"step\": 3}\n"));
  check_ok(metrics_close(&m));
  check_ok(metrics_open(scratch("m"), &m));
  assert_int_equal(close(m.fd), 0);
  check_fails(put_step(&m, 4), ERR_IO, "Bad file descriptor");
  check_fails(metrics_flush(&m), ERR_IO, "m: cannot flush to disk");
  check_fails(metrics_close(&m), ERR_IO, "m: cannot ");
}

static void resuming_drops_later_steps(void **state)
{
  (void)state;
  static const struct {
    const char *before, *after;
  } at_10[] = {
      {"", ""},
      {"{\"step\": 9}\n{\"step\":10, \"x\" : 1}\n", "{\"step\": 9}\n{\"step\":10, \"x\" : 1}\n"},
      {"{\"step\": 10}\n{\"step\": 11}\n{\"step\": 12}\n", "{\"step\": 10}\n"},
      {"{\"step\": 10}\n{\"step\": 12}\n{\"step\": 8}\n", "{\"step\": 10}\n{\"step\": 8}\n"},
      {"{\"step\": 11}\n", ""},
      {"{\"step\": 10.5}\n{\"note\": \"kept\"}\n{\"at\": {\"step\": 11}}\n",
       "{\"note\": \"kept\"}\n{\"at\": {\"step\": 11}}\n"},
      {"{\"step\": 9}\n{\"step\": 1", "{\"step\": 9}\n"},
      {"{\"step\": 9}\n{\"step\": 10}", "{\"step\": 9}\n"},
      {"{\"step\": 9}\n{\"st\n\n[]\n", "{\"step\": 9}\n"},
      {"{\"st", ""},
  };
  for (size_t i = 0; i < sizeof at_10 / sizeof at_10[0]; i++) {
    scratch_put("m", at_10[i].before, strlen(at_10[i].before));
    check_ok(metrics_truncate_after(scratch("m"), 10));
    assert_true(scratch_has("m", at_10[i].after));
    assert_int_equal(scratch_entries(), 1);
  }
  scratch_put("m", "{\"step\": 1}\n\0\0\0\0\0\n\0", 19); /* blocks that a power loss left empty */
  check_ok(metrics_truncate_after(scratch("m"), 10));
  assert_true(scratch_has("m", "{\"step\": 1}\n"));
  check_ok(metrics_truncate_after(scratch("none"), 10));
  assert_false(path_exists(scratch("none")));
}

static void resuming_is_all_or_nothing(void **state)
{
  (void)state;
  const char *broken = "{\"step\": 1}\nwhat\n{\"step\": 3}\n";
  scratch_put("m", broken, strlen(broken));
  check_fails(metrics_truncate_after(scratch("m"), 1), ERR_DATA, scratch("m:2: not a JSON object"));
  assert_true(scratch_has("m", broken));
  const char *steps = "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n";
  scratch_put("m", steps, strlen(steps));
  limit_file_size(20);
  enum status s = metrics_truncate_after(scratch("m"), 2);
  limit_file_size(-1);
  check_fails(s, ERR_IO, "m: cannot write: File too large");
  assert_true(scratch_has("m", steps));
  assert_int_equal(scratch_entries(), 1);
}

int main(void)
{
  interrupt_install();
  const struct CMUnitTest tests[] = {
      TEST(a_line_is_an_object),
      TEST(doubles_read_back),
      TEST(lines_are_there_at_once_and_appended),
      TEST(a_torn_end_is_dropped_when_opening),
      TEST(failing_writes_are_reported),
      TEST(a_full_disk_leaves_whole_lines),
      TEST(resuming_drops_later_steps),
      TEST(resuming_is_all_or_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
