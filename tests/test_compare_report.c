/* test_compare_report.c: the figures, the words and the page of a comparison. */
#include "core/files.h"
#include "experiments/compare_figures.h"
#include "experiments/compare_report.h"
#include "tests/sample_comparison.h"
#include "tests/scratch.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

/* ---- markup ---- */

static bool is_void(const char *name)
{
  return !strcmp(name, "meta") || !strcmp(name, "img") || !strcmp(name, "br");
}

/* Reads `NAME="..." NAME='...' ...>` or `.../>`; returns what is behind it, NULL: a fault. */
static const char *read_attributes(const char *at, bool *closed)
{
  char quote;
  *closed = false;
  for (; *at && *at != '>'; at++) {
    *closed = *at == '/';
    if (*at == '<')
      return NULL;
    if (*at == '"' || *at == '\'') {
      quote = *at;
      const char *equals = at - 1;
      while (*equals == ' ')
        equals--;
      if (*equals != '=' || !(at = strchr(at + 1, quote)))
        return NULL;
    }
  }
  return *at ? at + 1 : NULL;
}

static bool is_entity(const char *at)
{
  size_t n = strcspn(at + 1, ";");
  bool good = n > 0 && n < 8 && at[1 + n] == ';';
  for (size_t i = 1; i <= n; i++)
    good = good && (isalnum((unsigned char)at[i]) || at[i] == '#');
  return good;
}

/* Every tag is closed by its own, in order; < and & occur as markup only. */
static void check_well_formed(const char *text)
{
  char stack[64][32], name[32];
  int depth = 0;
  for (const char *at = text; at && *at;) {
    if (*at == '&')
      assert_true(is_entity(at));
    if (*at != '<') {
      at++;
      continue;
    }
    if (at[1] == '!' || at[1] == '?') {
      at = strncmp(at, "<!--", 4) ? strchr(at, '>') : strstr(at, "-->");
      assert_non_null(at);
      continue;
    }
    bool end = at[1] == '/', closed;
    at += 1 + end;
    size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:");
    assert_true(n > 0 && n < sizeof name);
    memcpy(name, at, n);
    name[n] = 0;
    at = read_attributes(at + n, &closed);
    assert_non_null(at);
    if (end) {
      assert_true(depth > 0);
      assert_string_equal(stack[--depth], name);
    } else if (!closed && !is_void(name)) {
      assert_true(depth < 64);
      (void)snprintf(stack[depth++], sizeof stack[0], "%s", name);
      if (!strcmp(name, "style"))
        at = strstr(at, "</style>");
    }
  }
  assert_int_equal(depth, 0);
}

static void check_reaches_nothing_outside(const char *text)
{
  const char *const ways[] = {"http:", "https:", "@import", "url(",   "<script",
                              "<link", "href=",  "srcset",  "<iframe"};
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
    assert_null(strstr(text, ways[i]));
  for (const char *at = text; (at = strstr(at, "src=")); at++)
    assert_memory_equal(at, "src=\"data:image/", 16);
}

/* ---- the page ---- */

static char *written_page(const struct comparison *c)
{
  char *text;
  size_t bytes;
  check_ok(compare_html(c, scratch("figures"), scratch("compare.html")));
  check_ok(file_read(scratch("compare.html"), &text, &bytes));
  assert_int_equal(strlen(text), bytes);
  return text;
}

static const char evil[] = "<b>&\"'`false` </p> implicit";

static void the_page_needs_nothing_but_itself(void **state)
{
  (void)state;
  struct comparison c;
  bool drawn;
  sample_comparison_make(&c, 2, 3, evil);
  (void)snprintf(c.title, sizeof c.title, "A </title><script> of & 'users'");
  check_ok(compare_figures(&c, scratch("figures"), &drawn));
  char *text = written_page(&c);
  check_well_formed(text);
  check_reaches_nothing_outside(text);
  assert_non_null(strstr(text, "&lt;b&gt;&amp;&quot;&#39;`false` &lt;/p&gt; implicit"));
  assert_null(strstr(text, "<b>&"));
  for (int64_t i = 0; i < c.sections; i++)
    for (int k = 0; k < COMPARED_FIGURES; k++) {
      char name[FIGURE_NAME], id[FIGURE_NAME + 16];
      compared_figure_name(&c, i, compared_figures[k], name);
      (void)snprintf(id, sizeof id, "<figure id=\"%s\">", name);
      assert_true((strstr(text, id) != NULL) == drawn);
    }
  assert_true((strstr(text, "gnuplot") != NULL) == !drawn);
  free(text);
  sample_comparison_free(&c);
}

static void without_figures_the_page_says_what_to_install(void **state)
{
  (void)state;
  struct comparison c;
  sample_comparison_make(&c, 1, 1, "implicit");
  char *text = written_page(&c);
  check_well_formed(text);
  assert_null(strstr(text, "<img"));
  assert_non_null(strstr(text, "install gnuplot"));
  free(text);
  sample_comparison_free(&c);
}

/* Reads the page's commands as a shell does: the directories come out as they are. */
static void commands_survive_any_directory(void **state)
{
  (void)state;
  struct comparison c;
  sample_comparison_make(&c, 1, 1, "implicit");
  const char *const words[] = {"build/compare", "evaluate.lengths=[16, 32]"};
  (void)snprintf(c.section[0].run[0].directory, COMPARE_PATH, "it's $HOME & <more>");
  c.words = 2, c.word = words;
  char *text = written_page(&c);
  assert_non_null(
      strstr(text, "&#39;it&#39;\\&#39;&#39;s $HOME &amp; &lt;more&gt;&#39;/config.yaml"));
  assert_non_null(strstr(text, "build/compare &#39;evaluate.lengths=[16, 32]&#39;"));
  free(text);
  sample_comparison_free(&c);
}

/* ---- figures ---- */

static void figures_are_drawn_whatever_a_label_holds(void **state)
{
  (void)state;
  struct comparison c;
  bool drawn;
  sample_comparison_make(&c, 1, 2, evil);
  check_ok(compare_figures(&c, scratch("figures"), &drawn));
  for (int k = 0; k < COMPARED_FIGURES; k++) {
    char file[128], *text;
    size_t bytes;
    (void)snprintf(file, sizeof file, "figures/%s.svg", compared_figures[k]->name);
    assert_int_equal(path_exists(scratch(file)), drawn);
    if (!drawn)
      continue;
    check_ok(file_read(scratch(file), &text, &bytes));
    check_well_formed(text);
    free(text);
    (void)snprintf(file, sizeof file, "figures/%s.png", compared_figures[k]->name);
    assert_true(path_exists(scratch(file)));
  }
  sample_comparison_free(&c);
}

/* A legend has room for 40 characters, whatever their bytes. */
static void long_labels_lose_their_middle(void **state)
{
  (void)state;
  struct comparison c;
  bool drawn;
  char *script;
  size_t bytes;
  sample_comparison_make(&c, 1, 1,
                         "beginning-ääääääääääääääääääää-middle-ääääääääääääääääääää-end");
  check_ok(compare_figures(&c, scratch("figures"), &drawn));
  check_ok(file_read(scratch("figures/accuracy.gp"), &script, &bytes));
  assert_non_null(strstr(script, "title 'beginning-ääääääääää…äääääääääääääää-end'"));
  free(script);
  sample_comparison_free(&c);
}

static void forget(struct compared_run *r)
{
  struct evaluation *e = &r->evaluation;
  for (int64_t i = 0; i < r->curve.points; i++)
    r->curve.flops[i] = (double)NAN;
  r->flops = r->seconds = r->tokens_per_second = r->peak_memory = (double)NAN;
  e->decode_tokens_per_second = (double)NAN;
  (void)snprintf(r->jacobian.missing, sizeof r->jacobian.missing, "too large: <9999> states");
  r->jacobian.image = 0;
  for (int mode = 0; mode < MODES; mode++) {
    e->detail[mode].bins = e->detail[mode].length = e->detail[mode].types = 0;
    e->knob[mode].count = 0;
    for (int i = 0; i < TRACED_SOLVERS; i++)
      e->trace[mode][i].count = 0;
    for (int i = 0; i < CONFIG_LENGTHS; i++)
      e->row[mode][i].last10_interval = (struct interval){(double)NAN, (double)NAN};
  }
}

static void what_was_not_measured_is_left_out(void **state)
{
  (void)state;
  struct comparison c;
  bool drawn;
  sample_comparison_make(&c, 1, 2, "implicit");
  for (int64_t r = 0; r < c.section[0].runs; r++)
    forget(&c.section[0].run[r]);
  c.section[0].run[0].curve.points = 0;
  check_ok(compare_figures(&c, scratch("figures"), &drawn));
  char *text = written_page(&c);
  check_well_formed(text);
  assert_non_null(strstr(text, "too large: &lt;9999&gt; states"));
  assert_true((strstr(text, "id=\"loss_tokens\"") != NULL) == drawn);
  assert_null(strstr(text, "id=\"loss_flops\""));
  assert_null(strstr(text, "id=\"jacobian\""));
  assert_null(strstr(text, ">nan"));
  assert_null(strstr(text, " nan"));
  free(text);
  sample_comparison_free(&c);
}

static void a_figure_shows_medians_intervals_and_seeds(void **state)
{
  (void)state;
  struct comparison c;
  bool drawn;
  double row[7];
  sample_comparison_make(&c, 1, 3, "implicit");
  check_ok(compare_figures(&c, scratch("figures"), &drawn));
  FILE *f = fopen(scratch("figures/accuracy-1.dat"), "r");
  assert_non_null(f);
  assert_int_equal(fscanf(f, "#%*[^\n]"), 0);
  for (int i = 0; i < 7; i++)
    assert_int_equal(fscanf(f, "%lf", &row[i]), 1);
  (void)fclose(f);
  const struct compared_group *g = &c.section[0].group[0];
  double seeds[3];
  for (int k = 0; k < 3; k++) {
    const struct evaluation_row *r = &g->run[k]->evaluation.row[MODE_SEQUENTIAL][0];
    seeds[k] = r->accuracy_last10;
    check_close(row[4 + k], seeds[k], 1e-8, "seed %d", k);
  }
  check_close(row[0], 16, 0, "length");
  check_close(row[1], compared_median_of(3, seeds), 1e-8, "median");
  assert_true(row[2] < row[1] && row[1] < row[3]);
  sample_comparison_free(&c);
}

/* What gnuplot puts in the place of one would cover the figure. */
static void letters_that_no_font_has(void **state)
{
  (void)state;
  char quoted[PLOT_QUOTE];
  assert_string_equal(plot_quote("it's \u03c8\u2026 \u6a21\u578b \U0001F600", quoted),
                      "'it''s \u03c8\u2026 ?? ?'");
}

/* A logarithmic axis has nowhere to put them: gnuplot would fail. */
static void residuals_that_are_all_zero_are_not_drawn(void **state)
{
  (void)state;
  struct comparison c;
  sample_comparison_make(&c, 1, 1, "implicit");
  const struct compared_section *s = &c.section[0];
  assert_true(figure_residual_position.applies(s));
  for (int64_t r = 0; r < s->runs; r++) {
    const struct evaluation_detail *d = &s->run[r].evaluation.detail[MODE_SEQUENTIAL];
    for (int64_t i = 0; d->residual && i < d->length; i++)
      d->residual[i] = 0;
  }
  assert_false(figure_residual_position.applies(s));
  sample_comparison_free(&c);
}

/* What was drawn before is not taken for what is compared now. */
static void figures_that_do_not_apply_are_not_shown(void **state)
{
  (void)state;
  struct comparison c;
  bool drawn;
  sample_comparison_make(&c, 1, 1, "implicit");
  check_ok(compare_figures(&c, scratch("figures"), &drawn));
  c.section[0].group++, c.section[0].groups--; /* the explicit models alone */
  c.section[0].run++, c.section[0].runs--;
  char *text = written_page(&c);
  check_well_formed(text);
  assert_true((strstr(text, "id=\"accuracy\"") != NULL) == drawn);
  assert_null(strstr(text, "id=\"knob\""));
  assert_null(strstr(text, "id=\"residual\""));
  assert_non_null(strstr(text, "There is no implicit run here"));
  free(text);
  check_ok(compare_figures(&c, scratch("figures"), &drawn)); /* takes the others away */
  assert_false(path_exists(scratch("figures/knob.png")) || path_exists(scratch("figures/knob.gp")));
  assert_true(path_exists(scratch("figures/accuracy.gp")));
  c.section[0].group--, c.section[0].groups++;
  c.section[0].run--, c.section[0].runs++;
  sample_comparison_free(&c);
}

/* ---- words ---- */

static void set_scores(struct compared_group *g, double value, double low, double high)
{
  for (int64_t k = 0; k < g->count; k++)
    for (int i = 0; i < CONFIG_LENGTHS; i++) {
      struct compared_run *r = (struct compared_run *)(uintptr_t)g->run[k];
      r->evaluation.row[MODE_SEQUENTIAL][i].accuracy_last10 = value;
      r->evaluation.row[MODE_SEQUENTIAL][i].last10_interval = (struct interval){low, high};
    }
}

static void check_words(const struct compared_section *s, const char *text)
{
  char *words = compared_words(s);
  assert_non_null(words);
  if (!strstr(words, text))
    print_error("\"%s\" is not in: %s\n", text, words);
  assert_non_null(strstr(words, text));
  free(words);
}

static void the_words_follow_the_numbers(void **state)
{
  (void)state;
  struct comparison c;
  sample_comparison_make(&c, 1, 1, "implicit");
  struct compared_section *s = &c.section[0];
  for (int g = 1; g < 4; g++)
    set_scores(&s->group[g], 0.2, 0.15, 0.25);
  set_scores(&s->group[0], 0.9, 0.85, 0.95);
  check_words(s, "The fixed point buys 0.7000.");
  check_words(s, "guessing gives 0.1667");
  set_scores(&s->group[0], 0.24, 0.2, 0.3);
  check_words(s, "The intervals overlap: these sequences show no difference.");
  set_scores(&s->group[2], 0.9, 0.85, 0.95);
  check_words(s, "The fixed point loses 0.6600.");
  check_words(s, "the best of 3 explicit models, “explicit, 2 layers”");
  /* 62.5 s against 19.5 s */
  check_words(s, "3.2 times the time of training, ");
  check_words(s, "as many tokens of training");
  sample_comparison_free(&c);
}

static void what_did_not_converge_is_said(void **state)
{
  (void)state;
  struct comparison c;
  sample_comparison_make(&c, 1, 1, "implicit");
  struct compared_section *s = &c.section[0];
  char *words = compared_words(s);
  assert_true(strstr(words, "did not converge") == NULL);
  free(words);
  struct evaluation *e = &s->run[0].evaluation;
  e->row[MODE_SEQUENTIAL][s->lengths_count - 1].solve.converged = 0.9997;
  e->row[MODE_SIMULTANEOUS][s->lengths_count - 1].solve.converged = 0.75;
  check_words(s, " 0.03 % of the tokens did not converge.");
  check_words(s, " 25 % of the sequences did not converge.");
  sample_comparison_free(&c);
}

static void a_seed_that_differs_is_mentioned(void **state)
{
  (void)state;
  struct comparison c;
  sample_comparison_make(&c, 1, 3, "implicit");
  struct compared_section *s = &c.section[0];
  for (int g = 1; g < 4; g++)
    set_scores(&s->group[g], 0.2, 0.15, 0.25);
  set_scores(&s->group[0], 0.9, 0.85, 0.95);
  check_words(s, "0.9000 (95 % interval 0.850 to 0.950; 3 seeds from 0.9000 to 0.9000)");
  check_words(s, "The fixed point buys 0.7000.");
  s->run[1].evaluation.row[MODE_SEQUENTIAL][s->lengths_count - 1].accuracy_last10 = 0.1;
  check_words(s, "3 seeds from 0.1000 to 0.9000");
  check_words(s, "The fixed point buys 0.7000, though some seeds do not show it.");
  sample_comparison_free(&c);
}

static void texts_are_judged_by_bits_per_byte(void **state)
{
  (void)state;
  struct comparison c;
  bool drawn;
  sample_comparison_make(&c, 1, 1, "implicit");
  struct compared_section *s = &c.section[0];
  for (int64_t r = 0; r < s->runs; r++) {
    s->run[r].config.data.task = s->run[r].evaluation.task = TASK_TEXT;
    s->run[r].evaluation.row[MODE_SEQUENTIAL][s->lengths_count - 1].loss =
        (r == 0 ? 2 : 2.5) * 0.6931471805599453;
  }
  check_words(s, "a loss in bits per byte of 2.0000");
  check_words(s, "The fixed point buys 0.5000 bits.");
  check_ok(compare_figures(&c, scratch("figures"), &drawn));
  char *text = written_page(&c);
  check_well_formed(text);
  assert_non_null(strstr(text, "Bits per byte"));
  assert_null(strstr(text, "Accuracy over the last"));
  free(text);
  sample_comparison_free(&c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(the_page_needs_nothing_but_itself),
      TEST(without_figures_the_page_says_what_to_install),
      TEST(commands_survive_any_directory),
      TEST(figures_are_drawn_whatever_a_label_holds),
      TEST(long_labels_lose_their_middle),
      TEST(what_was_not_measured_is_left_out),
      TEST(a_figure_shows_medians_intervals_and_seeds),
      TEST(figures_that_do_not_apply_are_not_shown),
      TEST(residuals_that_are_all_zero_are_not_drawn),
      TEST(letters_that_no_font_has),
      TEST(the_words_follow_the_numbers),
      TEST(what_did_not_converge_is_said),
      TEST(a_seed_that_differs_is_mentioned),
      TEST(texts_are_judged_by_bits_per_byte),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
