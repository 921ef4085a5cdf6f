/* test_safetensors.c: what is written reads back, whatever lies is refused by name. */
#include "core/safetensors.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "tests/scratch.h"
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

/* ---- a file of every dtype and odd shapes, also known to tests/peers/safetensors_reference.py
 * ---- */

enum { ODD = 15, TENSORS = 6 };
static float f32[ODD];
static double f64[2];
static int32_t i32[3] = {INT32_MIN, -1, INT32_MAX};
static int64_t i64[1] = {INT64_MIN};

static const struct st_tensor sample[TENSORS] = {
    {.name = "f32", .dtype = ST_F32, .rank = 3, .shape = {3, 1, 5}, .count = ODD, .data = f32},
    {.name = "f64", .dtype = ST_F64, .rank = 1, .shape = {2}, .count = 2, .data = f64},
    {.name = "i32 \"quoted\" \xc3\xa9",
     .dtype = ST_I32,
     .rank = 1,
     .shape = {3},
     .count = 3,
     .data = i32},
    {.name = "scalar", .dtype = ST_I64, .rank = 0, .count = 1, .data = i64},
    {.name = "empty", .dtype = ST_F32, .rank = 2, .shape = {0, 7}, .count = 0},
    {.name = "deep",
     .dtype = ST_F32,
     .rank = 8,
     .shape = {1, 3, 1, 1, 1, 1, 1, 5},
     .count = ODD,
     .data = f32},
};

static void fill_sample(void)
{
  for (int i = 0; i < ODD; i++)
    f32[i] = (float)i / 8;
  f32[1] = -0.0F;
  f32[2] = INFINITY;
  f64[0] = .1;
  f64[1] = 5e-324;
}

static void check_sample(const struct safetensors *file)
{
  assert_int_equal(file->tensors, TENSORS);
  for (int i = 0; i < TENSORS; i++) {
    const struct st_tensor *want = &sample[i], *got = safetensors_find(file, want->name);
    assert_non_null(got);
    assert_string_equal(got->name, want->name);
    assert_int_equal(got->dtype, want->dtype);
    assert_int_equal(got->rank, want->rank);
    assert_memory_equal(got->shape, want->shape, sizeof want->shape);
    assert_int_equal(got->count, want->count);
    assert_int_equal((uintptr_t)got->data % 8, 0);
    size_t size = want->dtype == ST_F32 || want->dtype == ST_I32 ? 4 : 8;
    if (want->count)
      assert_memory_equal(got->data, want->data, size * (size_t)want->count);
  }
  assert_null(safetensors_find(file, "none"));
}

static void round_trip(void **state)
{
  (void)state;
  struct safetensors file;
  char *bytes;
  size_t n;
  uint64_t header;
  check_ok(safetensors_write(scratch("a"), sample, TENSORS));
  check_ok(safetensors_read(scratch("a"), &file));
  check_sample(&file);
  safetensors_free(&file);
  check_ok(file_read(scratch("a"), &bytes, &n));
  memcpy(&header, bytes, sizeof header);
  assert_int_equal(header % 8, 0); /* so that others may map the file */
  assert_int_equal(n, 8 + header + sizeof f64 + sizeof i64 + 2 * sizeof f32 + sizeof i32);
  free(bytes);
  check_ok(safetensors_write(scratch("b"), sample, 0));
  check_ok(safetensors_read(scratch("b"), &file));
  assert_int_equal(file.tensors, 0);
  safetensors_free(&file);
}

/* ---- files made by hand ---- */

/* A file of this header and `data` bytes 0, 1, 2, ... */
static const char *make(const char *header, size_t data)
{
  char bytes[4096];
  uint64_t n = strlen(header);
  assert_true(8 + n + data <= sizeof bytes);
  memcpy(bytes, &n, 8);
  memcpy(bytes + 8, header, n);
  for (size_t i = 0; i < data; i++)
    bytes[8 + n + i] = (char)i;
  scratch_put("made", bytes, 8 + n + data);
  return scratch("made");
}

static void reads_what_others_write(void **state)
{
  (void)state;
  struct safetensors file;
  /* an odd header, extents out of order, metadata, unknown keys, trailing blanks */
  check_ok(safetensors_read(make("{\"__metadata__\":{\"format\":\"np\"},"
                                 "\"b\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[4,12],"
                                 "\"more\":1},\n"
                                 " \"a\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                 "\"\":{\"shape\":[2,0],\"dtype\":\"F32\",\"data_offsets\":[4,4]}"
                                 "}   ",
                                 12),
                            &file));
  assert_int_equal(file.tensors, 3);
  const struct st_tensor *b = safetensors_find(&file, "b");
  const unsigned char want[8] = {4, 5, 6, 7, 8, 9, 10, 11};
  assert_int_equal((uintptr_t)b->data % 8, 0);
  assert_memory_equal(b->data, want, 8);
  const struct st_tensor *a = safetensors_find(&file, "a");
  assert_int_equal(a->rank, 0);
  assert_int_equal(*(const int32_t *)a->data, 0x03020100);
  assert_int_equal(safetensors_find(&file, "")->count, 0);
  safetensors_free(&file);
}

#define T(dtype, shape, offsets) \
  "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void lying_headers_are_refused(void **state)
{
  (void)state;
  static const struct {
    const char *header;
    size_t data;
    const char *says;
  } lie[] = {
      {"", 0, "does not begin with {"},
      {"[]", 0, "does not begin with {"},
      {" {}", 0, "does not begin with {"},
      {"{", 0, "not JSON"},
      {"{} x", 0, "not JSON"},
      {"{\"a\\u0000\":1}", 0, "not JSON"},
      {"{\"\xff\":1}", 0, "not JSON"},
      {"{\"a\":" T("F32", "[1e999]", "[0,4]") "}", 4, "not JSON"},
      {"{\"a\":1}", 0, "'a' is not described by an object"},
      {"{\"a\":[]}", 0, "'a' is not described by an object"},
      {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]") "}", 8, "duplicate"},
      {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a' has no dtype"},
      {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a' has no dtype"},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'a' has no shape"},
      {"{\"a\":" T("F32", "4", "[0,4]") "}", 4, "'a' has no shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "'a': data_offsets is not a pair"},
      {"{\"a\":" T("F32", "[1]", "[0]") "}", 4, "not a pair"},
      {"{\"a\":" T("F32", "[1]", "[0,4,4]") "}", 4, "not a pair"},
      {"{\"a\":" T("F32", "[1]", "[0,4.0]") "}", 4, "not a pair"},
      {"{\"a\":" T("F32", "[1]", "{\"0\":0,\"1\":4}") "}", 4, "not a pair"},
      {"{\"a\":" T("F32", "[1]", "[0,9223372036854775808]") "}", 4, "not JSON"},
      {"{\"a\":" T("BF16", "[2]", "[0,4]") "}", 4, "dtype 'BF16'; F32, F64, I32 and I64 are read"},
      {"{\"a\":" T("f32", "[1]", "[0,4]") "}", 4, "dtype 'f32'"},
      {"{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, "dimension 0 is not a count"},
      {"{\"a\":" T("F32", "[1,-1]", "[0,4]") "}", 4, "dimension 1 is not a count"},
      {"{\"a\":" T("F32", "[1.0]", "[0,4]") "}", 4, "dimension 0 is not a count"},
      {"{\"a\":" T("F32", "[\"1\"]", "[0,4]") "}", 4, "dimension 0 is not a count"},
      {"{\"a\":" T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "shape overflows"},
      {"{\"a\":" T("F32", "[4611686018427387904]", "[0,0]") "}", 0, "do not fill 0 bytes"},
      {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "9 dimensions; at most 8"},
      {"{\"a\":" T("F32", "[2]", "[0,4]") "}", 4, "2 elements of F32 do not fill 4 bytes"},
      {"{\"a\":" T("F64", "[1]", "[0,4]") "}", 4, "1 elements of F64 do not fill 4 bytes"},
      {"{\"a\":" T("F32", "[0]", "[0,4]") "}", 4, "0 elements"},
      {"{\"a\":" T("F32", "[2]", "[0,8]") "}", 4,
       "'a' lies at 0..8 of 4 bytes: the file has been cut"},
      {"{\"a\":" T("F32", "[0]", "[4,0]") "}", 4, "'a' lies at 4..0"},
      {"{\"a\":" T("F32", "[1]", "[-4,0]") "}", 4, "'a' lies at -4..0"},
      {"{\"a\":" T("F32", "[0]", "[9,9]") "}", 4, "'a' lies at 9..9"},
      {"{\"a\":" T("F32", "[1]", "[4,8]") "}", 8, "4 bytes before tensor 'a'"},
      {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12,
       "4 bytes before tensor 'b'"},
      {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[4,8]") "}", 8,
       "'a' and 'b' overlap"},
      {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4, "overlap"},
      {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[0]", "[4,4]") "}", 8, "overlap"},
      {"{\"a\":" T("F32", "[1]", "[0,4]") "}", 7, "the last 3 bytes belong to no tensor"},
      {"{}", 1, "the last 1 bytes belong to no tensor"},
  };
  for (size_t i = 0; i < sizeof lie / sizeof lie[0]; i++) {
    struct safetensors file;
    const char *path = make(lie[i].header, lie[i].data);
    check_fails(safetensors_read(path, &file), ERR_DATA, lie[i].says);
    assert_ptr_equal(strstr(last_error(), path), last_error()); /* the file comes first */
    assert_null(file.memory);
    assert_null(safetensors_find(&file, "a"));
    safetensors_free(&file);
  }
}

static void lying_lengths_are_refused(void **state)
{
  (void)state;
  struct safetensors file;
  char bytes[16] = {0};
  for (size_t n = 0; n < 8; n++) {
    scratch_put("a", bytes, n);
    check_fails(safetensors_read(scratch("a"), &file), ERR_DATA, "too few");
  }
  static const uint64_t length[] = {9,          1000,          100000001, (uint64_t)1 << 63,
                                    UINT64_MAX, UINT64_MAX - 7};
  for (size_t i = 0; i < sizeof length / sizeof length[0]; i++) {
    memcpy(bytes, &length[i], 8);
    scratch_put("a", bytes, sizeof bytes);
    check_fails(safetensors_read(scratch("a"), &file), ERR_DATA, "a header of");
  }
  check_fails(safetensors_read(scratch("none"), &file), ERR_IO, "none: cannot open");
  check_fails(safetensors_read(scratch("."), &file), ERR_IO, "not a regular file");
}

static void a_header_beyond_the_limit_is_refused(void **state)
{
  (void)state;
  struct safetensors file;
  const uint64_t length = 100000001;
  scratch_put("a", &length, sizeof length);
  assert_int_equal(truncate(scratch("a"), 100000100), 0); /* a sparse file */
  check_fails(safetensors_read(scratch("a"), &file), ERR_DATA, "at most 100000000");
}

/* Cut anywhere, a good file is refused; with any byte changed it is read or refused, never misread.
 */
static void damaged_files_do_no_harm(void **state)
{
  (void)state;
  struct safetensors file;
  char *bytes;
  size_t n;
  check_ok(safetensors_write(scratch("a"), sample, TENSORS));
  check_ok(file_read(scratch("a"), &bytes, &n));
  for (size_t cut = 0; cut<n; cut += cut> 100 ? 8 : 1) {
    scratch_put("cut", bytes, cut);
    check_fails(safetensors_read(scratch("cut"), &file), ERR_DATA, "cut");
  }
  size_t data = sizeof f64 + sizeof i64 + 2 * sizeof f32 + sizeof i32;
  for (size_t i = 0; i < n - data; i++) {
    char kept = bytes[i];
    bytes[i] = (char)(kept ^ (1 << i % 7));
    scratch_put("changed", bytes, n);
    enum status s = safetensors_read(scratch("changed"), &file);
    assert_true(s == OK || s == ERR_DATA);
    uint64_t total = 0;
    for (int64_t k = 0; k < file.tensors; k++)
      total += (uint64_t)file.tensor[k].count *
               (strchr(st_dtype_name(file.tensor[k].dtype), '6') ? 8 : 4);
    assert_true(s == ERR_DATA || total == data);
    safetensors_free(&file);
    bytes[i] = kept;
  }
  free(bytes);
}

static void writing_is_all_or_nothing(void **state)
{
  (void)state;
  struct safetensors file;
  check_ok(safetensors_write(scratch("a"), sample, TENSORS));
  limit_file_size(300); /* less than the header */
  enum status s = safetensors_write(scratch("a"), sample, 1);
  limit_file_size(-1);
  check_ok(s);
  limit_file_size(300);
  s = safetensors_write(scratch("a"), sample, TENSORS);
  limit_file_size(-1);
  check_fails(s, ERR_IO, scratch("a: cannot write: File too large"));
  check_ok(safetensors_read(scratch("a"), &file));
  assert_int_equal(file.tensors, 1);
  safetensors_free(&file);
  assert_int_equal(scratch_entries(), 1);
  check_fails(safetensors_write(scratch("none/a"), sample, 1), ERR_IO, "none/a: cannot create");
  check_fails(safetensors_write(scratch("a/b"), sample, 1), ERR_IO, "Not a directory");
  if (path_exists("/dev/full"))
    check_fails(safetensors_write("/dev/full", sample, 1), ERR_IO, "No space left");
}

/* ---- the reference implementation ---- */

/* Exit status of `$PYTHON tests/peers/safetensors_reference.py action path`. */
static int reference(const char *action, const char *path)
{
  const char *python = getenv("PYTHON");
  char command[2048];
  assert_true(snprintf(command, sizeof command, "%s tests/peers/safetensors_reference.py %s '%s'",
                       python && *python ? python : "python3", action, path) < (int)sizeof command);
  int status = system(command);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void agrees_with_the_reference(void **state)
{
  (void)state;
  struct safetensors file;
  enum { NO_PACKAGE = 77 };
  if (!path_exists("tests/peers/safetensors_reference.py")) {
    print_message("skipped: tests/peers/safetensors_reference.py is not below this directory\n");
    skip();
  }
  check_ok(safetensors_write(scratch("ours"), sample, TENSORS));
  int checked = reference("check", scratch("ours"));
  if (checked == NO_PACKAGE || checked == 127) {
    print_message("skipped: no Python with the packages safetensors and numpy (set PYTHON)\n");
    skip();
  }
  assert_int_equal(checked, 0);
  assert_int_equal(reference("write", scratch("theirs")), 0);
  check_ok(safetensors_read(scratch("theirs"), &file));
  check_sample(&file);
  safetensors_free(&file);
}

int main(void)
{
  interrupt_install();
  fill_sample();
  const struct CMUnitTest tests[] = {
      TEST(round_trip),
      TEST(reads_what_others_write),
      TEST(lying_headers_are_refused),
      TEST(lying_lengths_are_refused),
      TEST(a_header_beyond_the_limit_is_refused),
      TEST(damaged_files_do_no_harm),
      TEST(writing_is_all_or_nothing),
      TEST(agrees_with_the_reference),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
