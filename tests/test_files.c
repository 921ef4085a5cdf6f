/* test_files.c: what core/files.h promises about whole files, directories and links. */
#include "core/files.h"
#include "core/interrupt.h"
#include "tests/scratch.h"
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

static enum status write_text(const char *path, const char *text)
{
  struct file_writer w;
  TRY(file_begin(path, &w));
  (void)fputs(text, w.out); /* commit reports what fails */
  return file_commit(&w);
}

static void reads_any_bytes(void **state)
{
  (void)state;
  char *text, big[10000];
  size_t n;
  memset(big, 0xA5, sizeof big);
  scratch_put("big", big, sizeof big);
  check_ok(file_read(scratch("big"), &text, &n));
  assert_int_equal(n, sizeof big);
  assert_memory_equal(text, big, n);
  assert_int_equal(text[n], 0);
  free(text);
  scratch_put("empty", "", 0);
  check_ok(file_read(scratch("empty"), &text, &n));
  assert_int_equal(n, 0);
  assert_int_equal(text[0], 0);
  free(text);
  check_ok(file_read("/proc/self/smaps", &text, &n)); /* its size is said to be 0 */
  assert_true(n > 4096);
  assert_int_equal(strlen(text), n);
  free(text);
}

static void reading_names_what_is_missing(void **state)
{
  (void)state;
  char *text;
  size_t n;
  scratch_put("file", "x", 1);
  check_fails(file_read(scratch("none"), &text, &n), ERR_IO, scratch("none: cannot open: No such"));
  check_fails(file_read(scratch("file/below"), &text, &n), ERR_IO, "Not a directory");
  check_fails(file_read(scratch("."), &text, &n), ERR_IO, "Is a directory");
}

static void commit_replaces_and_abandon_does_not(void **state)
{
  (void)state;
  struct file_writer w;
  scratch_put("a.tmp", "left by a killed run, and longer than what comes", 48);
  check_ok(write_text(scratch("a"), "one"));
  assert_true(scratch_has("a", "one"));
  check_ok(file_begin(scratch("a"), &w));
  check_ok(file_write(&w, "two", 3));
  assert_true(scratch_has("a", "one")); /* a reader sees the old one until commit */
  file_abandon(&w);
  file_abandon(&w);
  assert_true(scratch_has("a", "one"));
  check_ok(write_text(scratch("a"), "three"));
  assert_true(scratch_has("a", "three"));
  assert_int_equal(scratch_entries(), 1);
}

static void links_are_written_through(void **state)
{
  (void)state;
  struct stat st;
  check_ok(directory_make(scratch("d")));
  scratch_put("d/real", "old", 3);
  assert_int_equal(symlink("d/real", scratch("link")), 0);
  check_ok(write_text(scratch("link"), "new"));
  assert_true(scratch_has("d/real", "new"));
  assert_int_equal(lstat(scratch("link"), &st), 0);
  assert_true(S_ISLNK(st.st_mode));
  /* also to what is not there yet, by way of another link */
  assert_int_equal(symlink("later", scratch("d/second")), 0);
  assert_int_equal(symlink("d/second", scratch("first")), 0);
  check_ok(file_check(scratch("first")));
  check_ok(write_text(scratch("first"), "there"));
  assert_true(scratch_has("d/later", "there"));
  assert_int_equal(symlink("round", scratch("round")), 0);
  check_fails(write_text(scratch("round"), "x"), ERR_IO, "Too many levels of symbolic links");
  assert_int_equal(symlink("none/x", scratch("astray")), 0);
  check_fails(file_check(scratch("astray")), ERR_IO, "No such file or directory");
}

static void one_place_has_many_names(void **state)
{
  (void)state;
  check_ok(directory_make(scratch("d")));
  assert_int_equal(symlink("d", scratch("link")), 0);
  assert_true(path_is_same(scratch("d/x"), scratch("link/x")));
  assert_true(path_is_same(scratch("d/x"), scratch("./d//x")));
  assert_false(path_is_same(scratch("d/x"), scratch("d/y")));
  assert_false(path_is_same(scratch("d/x"), scratch("x")));
  assert_false(path_is_same(scratch("none/x"), scratch("none/x")));
  scratch_put("d/x", "", 0);
  assert_true(path_is_same(scratch("d/x"), scratch("link/x")));
  assert_false(path_is_same(scratch("d/x"), scratch("x")));
  assert_true(path_is_same("neither", "./neither"));
}

static void devices_are_written_not_replaced(void **state)
{
  (void)state;
  struct stat st;
  check_ok(write_text("/dev/null", "x"));
  assert_int_equal(lstat("/dev/null", &st), 0);
  assert_true(S_ISCHR(st.st_mode));
  if (!path_exists("/dev/full"))
    return;
  check_fails(write_text("/dev/full", "x"), ERR_IO, "/dev/full: cannot write: No space left");
  assert_int_equal(lstat("/dev/full", &st), 0);
  assert_true(S_ISCHR(st.st_mode));
}

static void writing_names_what_is_wrong(void **state)
{
  (void)state;
  scratch_put("file", "x", 1);
  check_ok(directory_make(scratch("d")));
  check_fails(write_text(scratch("none/a"), "x"), ERR_IO,
              scratch("none/a: cannot create: No such"));
  check_fails(write_text(scratch("file/a"), "x"), ERR_IO, "Not a directory");
  check_fails(write_text(scratch("d"), "x"), ERR_IO, scratch("d: is a directory"));
  assert_true(scratch_has("file", "x"));
}

static void a_place_is_checked_before_work(void **state)
{
  (void)state;
  scratch_put("file", "x", 1);
  check_ok(directory_make(scratch("d")));
  check_fails(file_check(scratch("none/a")), ERR_IO, scratch("none/a: cannot create: No such"));
  check_fails(file_check(scratch("d")), ERR_IO, scratch("d: is a directory"));
  check_ok(file_check(NULL));
  check_ok(file_check("/dev/null"));
  check_ok(file_check(scratch("file")));
  check_ok(file_check(scratch("new")));
  assert_true(scratch_has("file", "x"));
  assert_false(path_exists(scratch("new")));
  assert_false(path_exists(scratch("new.tmp")));
}

static void a_size_limit_is_reported_and_leaves_the_old_file(void **state)
{
  (void)state;
  struct file_writer w;
  char block[8192] = {0};
  check_ok(write_text(scratch("a"), "old"));
  check_ok(file_begin(scratch("a"), &w));
  limit_file_size(4096);
  enum status s = OK;
  for (int i = 0; i < 4 && s == OK; i++)
    s = file_write(&w, block, sizeof block);
  limit_file_size(-1);
  check_fails(s, ERR_IO, "File too large");
  check_fails(file_commit(&w), ERR_IO, scratch("a: cannot write")); /* even when asked to go on */
  assert_true(scratch_has("a", "old"));
  assert_int_equal(scratch_entries(), 1);
  check_ok(file_begin(scratch("a"), &w)); /* the same with writes that nobody checks */
  limit_file_size(4096);
  for (int i = 0; i < 4; i++)
    (void)fprintf(w.out, "%s%4095d", "", i);
  s = file_commit(&w);
  limit_file_size(-1);
  check_fails(s, ERR_IO, "a: cannot write: File too large");
  assert_true(scratch_has("a", "old"));
  assert_int_equal(scratch_entries(), 1);
}

static void two_writers_do_not_mix(void **state)
{
  (void)state;
  struct file_writer one, two;
  check_ok(file_begin(scratch("a"), &one));
  check_ok(file_begin(scratch("a"), &two));
  check_ok(file_write(&one, "one", 3));
  check_ok(file_write(&two, "two", 3));
  check_fails(file_commit(&one), ERR_IO, "another program writes it");
  check_ok(file_commit(&two));
  assert_true(scratch_has("a", "two"));
}

static void a_stream_that_was_closed_is_reported(void **state)
{
  (void)state;
  struct file_writer w;
  check_ok(file_begin(scratch("a"), &w));
  check_ok(file_write(&w, "x", 1));
  assert_int_equal(fflush(w.out), 0);
  assert_int_equal(close(fileno(w.out)), 0);
  check_fails(file_commit(&w), ERR_IO, "a: cannot flush to disk: Bad file descriptor");
  assert_int_equal(scratch_entries(), 0);
}

static void paths_join(void **state)
{
  (void)state;
  char out[8];
  check_ok(path_join(out, sizeof out, "ab", "cd"));
  assert_string_equal(out, "ab/cd");
  check_ok(path_join(out, sizeof out, "ab/", "cd"));
  assert_string_equal(out, "ab/cd");
  check_ok(path_join(out, sizeof out, "", "cd"));
  assert_string_equal(out, "cd");
  check_ok(path_join(out, sizeof out, "ab", "/cd"));
  assert_string_equal(out, "/cd");
  check_ok(path_join(out, sizeof out, "abc", "def"));
  check_fails(path_join(out, sizeof out, "abc", "defg"), ERR_USAGE, "abc/defg");
}

static void directories_are_made_with_parents(void **state)
{
  (void)state;
  check_ok(directory_make(scratch("a/b/../c/d/")));
  assert_true(path_is_directory(scratch("a/c/d")));
  check_ok(directory_make(scratch("a/c/d")));
  check_ok(directory_make("."));
  check_ok(directory_make("/"));
  scratch_put("file", "x", 1);
  check_fails(directory_make(scratch("file")), ERR_IO, "file: exists and is not a directory");
  check_fails(directory_make(scratch("file/d/e")), ERR_IO, "file: exists and is not a directory");
  check_fails(directory_make(""), ERR_IO, "No such file");
  check_fails(directory_flush(scratch("none")), ERR_IO, "none: cannot open");
  check_fails(directory_flush(scratch("file")), ERR_IO, "Not a directory");
}

static void removing_follows_no_link(void **state)
{
  (void)state;
  check_ok(directory_make(scratch("keep")));
  scratch_put("keep/file", "x", 1);
  check_ok(directory_make(scratch("d/e/f")));
  scratch_put("d/e/file", "x", 1);
  assert_int_equal(symlink("../keep", scratch("d/link")), 0);
  assert_int_equal(symlink("nowhere", scratch("d/dangling")), 0);
  check_fails(directory_remove(scratch("keep/file")), ERR_IO, "not a directory");
  check_ok(directory_remove(scratch("d")));
  check_ok(directory_remove(scratch("d")));
  assert_false(path_exists(scratch("d")));
  assert_true(scratch_has("keep/file", "x"));
  assert_int_equal(symlink("keep", scratch("link")), 0);
  check_ok(directory_remove(scratch("link")));
  assert_true(scratch_has("keep/file", "x"));
  assert_int_equal(scratch_entries(), 1);
}

static void renaming_replaces(void **state)
{
  (void)state;
  scratch_put("a", "a", 1);
  scratch_put("b", "b", 1);
  check_ok(path_rename(scratch("a"), scratch("b")));
  assert_true(scratch_has("b", "a"));
  check_ok(directory_make(scratch("new")));
  check_ok(directory_make(scratch("old")));
  scratch_put("new/file", "new", 3);
  scratch_put("old/file", "old", 3);
  scratch_put("old/more", "old", 3);
  check_ok(path_rename(scratch("new"), scratch("old")));
  assert_true(scratch_has("old/file", "new"));
  assert_false(path_exists(scratch("old/more")));
  check_ok(path_rename(scratch("old"), scratch("other")));
  assert_int_equal(scratch_entries(), 2);
  check_fails(path_rename(scratch("none"), scratch("x")), ERR_IO,
              scratch("none: cannot rename to"));
  check_fails(path_rename(scratch("b"), scratch("b/x")), ERR_IO, "Not a directory");
}

static void links_are_replaced(void **state)
{
  (void)state;
  char target[64] = {0};
  assert_int_equal(symlink("stale", scratch("latest.tmp")), 0);
  check_ok(link_replace("step-1", scratch("latest")));
  check_ok(link_replace("step-2", scratch("latest")));
  assert_int_equal(readlink(scratch("latest"), target, sizeof target - 1), 6);
  assert_string_equal(target, "step-2");
  assert_false(path_exists(scratch("latest"))); /* it points nowhere */
  check_ok(directory_make(scratch("d/e")));
  check_fails(link_replace("x", scratch("d")), ERR_IO, "d: cannot replace");
  check_fails(link_replace("x", scratch("none/d")), ERR_IO, "No such file");
  assert_int_equal(scratch_entries(), 2);
}

static void words_are_quoted_for_a_shell(void **state)
{
  (void)state;
  static const char *const words[] = {"runs/a-1_b.c", "", "two words", "it's", "$HOME", "a;b*"};
  static char many[3000];
  char command[sizeof(struct shell_word) + 64], line[64];
  assert_string_equal(shell_quoted(words[0]).text, words[0]);
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    (void)snprintf(command, sizeof command, "printf '<%%s>' %s", shell_quoted(words[i]).text);
    FILE *shell = popen(command, "r");
    assert_non_null(shell);
    size_t n = fread(line, 1, sizeof line - 1, shell);
    line[n] = '\0';
    assert_int_equal(pclose(shell), 0);
    assert_int_equal(n, strlen(words[i]) + 2);
    assert_memory_equal(line + 1, words[i], n - 2);
  }
  memset(many, '\'', sizeof many - 1); /* too long: cut, not written past the end */
  assert_in_range(strlen(shell_quoted(many).text), 2000, sizeof(struct shell_word) - 1);
}

int main(void)
{
  interrupt_install();
  const struct CMUnitTest tests[] = {
      TEST(reads_any_bytes),
      TEST(reading_names_what_is_missing),
      TEST(commit_replaces_and_abandon_does_not),
      TEST(links_are_written_through),
      TEST(one_place_has_many_names),
      TEST(devices_are_written_not_replaced),
      TEST(writing_names_what_is_wrong),
      TEST(a_place_is_checked_before_work),
      TEST(a_size_limit_is_reported_and_leaves_the_old_file),
      TEST(two_writers_do_not_mix),
      TEST(a_stream_that_was_closed_is_reported),
      TEST(paths_join),
      TEST(directories_are_made_with_parents),
      TEST(removing_follows_no_link),
      TEST(renaming_replaces),
      TEST(links_are_replaced),
      TEST(words_are_quoted_for_a_shell),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
