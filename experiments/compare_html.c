/* compare_html.c: a comparison as one page that needs nothing besides itself: style, figures (SVG
 * or, where that is large, PNG, in base64) and text.  Every word of a user is escaped. */
#include "core/files.h"
#include "experiments/compare_report.h"
#include "experiments/plot.h"
#include "experiments/program.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_SVG = 600000 }; /* bytes */

static const char style[] =
    ":root{color-scheme:light dark;--ground:#fff;--ink:#1d2125;--faint:#626a73;--line:#d9dde2;"
    "--card:#f5f7f9;--accent:#0072b2}\n"
    "@media(prefers-color-scheme:dark){:root{--ground:#15181b;--ink:#e4e7ea;--faint:#9aa3ac;"
    "--line:#343a41;--card:#1e2327;--accent:#6db8e8}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:1120px;padding:32px 20px 64px;background:var(--ground);"
    "color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',"
    "sans-serif;-webkit-text-size-adjust:100%;overflow-wrap:anywhere}\n"
    "h1{font-size:1.75rem;line-height:1.25;margin:0 0 4px}h2{font-size:1.35rem;margin:48px 0 8px;"
    "padding-top:16px;border-top:1px solid var(--line)}h3{font-size:1.05rem;margin:32px 0 8px}\n"
    "p{margin:0 0 12px;max-width:75ch}small{color:var(--faint);font-size:.82em;font-weight:400}\n"
    ".about{color:var(--faint)}\n"
    ".answer{background:var(--card);border-left:4px solid var(--accent);border-radius:4px;"
    "padding:16px 20px;margin:20px 0;font-size:1.06rem}.answer p{margin:0;max-width:none}"
    ".answer p+p{margin-top:10px}.answer h3{margin:14px 0 4px}.answer "
    "h3:first-child{margin-top:0}\n"
    ".scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px}\n"
    "table{border-collapse:collapse;width:100%;font-size:.92rem;line-height:1.35;"
    "font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal}\n"
    "th,td{padding:7px 12px;text-align:right;vertical-align:top}"
    "th:first-child{text-align:left;position:sticky;left:0;background:var(--ground);"
    "white-space:normal;min-width:9.5em;max-width:16em}\n"
    "thead th{color:var(--faint);font-weight:500;vertical-align:bottom;white-space:normal;"
    "border-bottom:1px solid var(--line)}\n"
    "tbody tr+tr>*{border-top:1px solid var(--line)}tbody th{font-weight:600}"
    "tr.seed th{font-weight:400;padding-left:30px}tr.seed>*{color:var(--faint);"
    "border-top-color:transparent!important;padding-top:2px}\n"
    "tr.seed th{white-space:nowrap}tr.mode "
    "th{color:var(--faint);font-weight:500;background:var(--card)}\n"
    ".figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));"
    "gap:28px 24px;margin:16px 0}\n"
    "figure{margin:0}figure img{display:block;width:100%;height:auto;background:#fff;"
    "border:1px solid var(--line);border-radius:6px;padding:6px}"
    "figcaption{margin-top:8px;font-size:.9rem;color:var(--faint)}"
    "figcaption b{color:var(--ink);display:block}\n"
    "details{margin:16px 0}summary{cursor:pointer;color:var(--accent);padding:4px 0}\n"
    "pre{background:var(--card);border-radius:6px;padding:12px 16px;overflow-x:auto;"
    "font:13px/1.5 ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;overflow-wrap:normal}\n"
    "@media(max-width:600px){body{padding:20px 14px 48px}h1{font-size:1.45rem}"
    ".answer{padding:14px 16px}th,td{padding:6px 9px}th:first-child{min-width:7.5em;max-width:9em}"
    "tr.seed th{padding-left:14px}}\n"
    "@media print{body{max-width:none}.scroll{overflow:visible}figure{break-inside:avoid}}\n";

void compared_html_text(const char *text, FILE *out)
{
  for (; *text; text++)
    switch (*text) {
    case '&':
      (void)fputs("&amp;", out);
      break;
    case '<':
      (void)fputs("&lt;", out);
      break;
    case '>':
      (void)fputs("&gt;", out);
      break;
    case '"':
      (void)fputs("&quot;", out);
      break;
    case '\'':
      (void)fputs("&#39;", out);
      break;
    default:
      if (*text == '\n' || *text == '\t' || (unsigned char)*text >= ' ')
        (void)putc(*text, out);
    }
}

static void element(FILE *out, const char *tag, const char *text)
{
  (void)fprintf(out, "<%s>", tag);
  compared_html_text(text, out);
  (void)fprintf(out, "</%s>\n", tag);
}

/* ---- figures ---- */

static void base64(FILE *out, const char *bytes, size_t n)
{
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < n; i += 3) {
    uint32_t word = (uint32_t)(unsigned char)bytes[i] << 16;
    word |= i + 1 < n ? (uint32_t)(unsigned char)bytes[i + 1] << 8 : 0;
    word |= i + 2 < n ? (uint32_t)(unsigned char)bytes[i + 2] : 0;
    char four[5] = {digits[word >> 18], digits[word >> 12 & 63], digits[word >> 6 & 63],
                    digits[word & 63]};
    if (i + 1 >= n)
      four[2] = '=';
    if (i + 2 >= n)
      four[3] = '=';
    (void)fputs(four, out);
  }
}

/* The bytes of dir/name.kind; *text NULL: there is no such file. */
static enum status read_image(const char *dir, const char *name, const char *kind, char **text,
                              size_t *bytes)
{
  char file[FIGURE_NAME + 8], path[COMPARE_PATH];
  *text = NULL;
  (void)snprintf(file, sizeof file, "%s.%s", name, kind);
  TRY(path_join(path, sizeof path, dir, file));
  return path_exists(path) ? file_read(path, text, bytes) : OK;
}

/* A drawing whose image of a matrix shows its entries, not something smooth between them. */
static void drawing(FILE *out, char *text, size_t bytes)
{
  static const char tag[] = "<image ", sharp[] = "<image style='image-rendering:pixelated' ";
  char *whole = NULL;
  size_t size = 0;
  FILE *w = open_memstream(&whole, &size);
  const char *at = text, *found;
  for (; w && (found = strstr(at, tag)); at = found + sizeof tag - 1) {
    (void)fwrite(at, 1, (size_t)(found - at), w);
    (void)fputs(sharp, w);
  }
  if (w)
    (void)fwrite(at, 1, bytes - (size_t)(at - text), w);
  if (w && !fclose(w))
    base64(out, whole, size);
  else
    base64(out, text, bytes);
  free(whole);
}

static enum status figure(FILE *out, const struct compared_figure *f, const char *dir,
                          const char *name, int *figures)
{
  char *text;
  size_t bytes = 0;
  bool svg = true;
  TRY(read_image(dir, name, "svg", &text, &bytes));
  if (text && bytes > MOST_SVG) {
    free(text);
    svg = false;
    TRY(read_image(dir, name, "png", &text, &bytes));
  }
  if (!text)
    return OK;
  if ((*figures)++ == 0)
    (void)fprintf(out, "<h3>Figures</h3>\n<div class=\"figures\">\n");
  (void)fprintf(out, "<figure id=\"%s\"><img alt=\"%s. %s\" src=\"data:image/%s;base64,", name,
                f->title, f->caption, svg ? "svg+xml" : "png");
  if (svg)
    drawing(out, text, bytes);
  else
    base64(out, text, bytes);
  (void)fprintf(out, "\"><figcaption><b>%s</b>%s</figcaption></figure>\n", f->title, f->caption);
  free(text);
  return OK;
}

static enum status figures_of(FILE *out, const struct comparison *c, int64_t section,
                              const char *dir)
{
  int figures = 0;
  char name[FIGURE_NAME];
  for (int k = 0; k < COMPARED_FIGURES; k++) {
    const struct compared_figure *f = compared_figures[k];
    compared_figure_name(c, section, f, name);
    if (f->applies(&c->section[section]))
      TRY(figure(out, f, dir, name, &figures));
  }
  if (figures)
    (void)fprintf(out, "</div>\n");
  else {
    (void)fprintf(out, "<h3>Figures</h3>\n<p>None were drawn: ");
    compared_html_text(plot_hint(), out);
    (void)fprintf(out, ".</p>\n");
  }
  return OK;
}

/* ---- settings ---- */

static void commands(FILE *out, const struct comparison *c)
{
  char train[CONFIG_PATH];
  (void)fprintf(out, "<h2>How to reproduce this</h2>\n");
  if (c->words > 0) {
    (void)fprintf(out, "<p>This page was written by</p>\n<pre>");
    for (int i = 0; i < c->words; i++) {
      (void)fputs(i ? " " : "", out);
      compared_html_text(shell_quoted(c->word[i]).text, out);
    }
    (void)fprintf(out, "</pre>\n");
  }
  (void)fprintf(out,
                "<p>Training is a function of the configuration and the seed alone. Each run "
                "again, under again/. Of one that was gone on with under other settings the last "
                "ones are kept, and do not make it again.</p>\n<pre>");
  for (int64_t i = 0; i < c->sections; i++)
    for (int64_t r = 0; r < c->section[i].runs; r++) {
      compared_html_text(shell_quoted(program_beside("train", train)).text, out);
      (void)fprintf(out, " ");
      compared_html_text(shell_quoted(c->section[i].run[r].directory).text, out);
      (void)fprintf(out, "/config.yaml runs_dir=again\n");
    }
  (void)fprintf(out, "</pre>\n");
}

static enum status configuration(FILE *out, const struct compared_run *r)
{
  char *text = NULL;
  size_t size;
  FILE *w = open_memstream(&text, &size);
  if (!w)
    FAIL(ERR_MEMORY, "out of memory");
  enum status s = config_write(&r->config, w);
  if (fclose(w))
    s = fail_at(ERR_MEMORY, __FILE__, __LINE__, "out of memory");
  if (s == OK)
    element(out, "pre", text);
  free(text);
  return s;
}

static enum status settings(FILE *out, const struct comparison *c)
{
  (void)fprintf(out, "<h2>Settings</h2>\n<p>What sets each model apart; behind it the whole "
                     "configuration of its first seed.</p>\n");
  for (int64_t i = 0; i < c->sections; i++)
    for (int64_t g = 0; g < c->section[i].groups; g++) {
      const struct compared_group *group = &c->section[i].group[g];
      (void)fprintf(out, "<details><summary>");
      if (c->sections > 1) {
        compared_html_text(c->section[i].name, out);
        (void)fprintf(out, ": ");
      }
      compared_html_text(group->label, out);
      if (group->differs[0]) {
        (void)fprintf(out, " <small>");
        compared_html_text(group->differs, out);
        (void)fprintf(out, "</small>");
      }
      (void)fprintf(out, "</summary>\n");
      TRY(configuration(out, group->run[0]));
      (void)fprintf(out, "</details>\n");
    }
  return OK;
}

/* ---- the page ---- */

static void head(FILE *out, const struct comparison *c)
{
  int64_t runs = 0, of_kind[2] = {0, 0};
  for (int64_t i = 0; i < c->sections; i++) {
    runs += c->section[i].runs;
    for (int64_t r = 0; r < c->section[i].runs; r++)
      of_kind[c->section[i].run[r].config.model.kind == MODEL_IMPLICIT]++;
  }
  (void)fprintf(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
  element(out, "title", c->title);
  (void)fprintf(out, "<style>\n%s</style>\n</head>\n<body>\n", style);
  element(out, "h1", c->title);
  (void)fprintf(out, "<p class=\"about\">%s Mamba-2: %lld run%s, ",
                !of_kind[0]   ? "Implicit"
                : !of_kind[1] ? "Explicit"
                              : "Implicit against explicit",
                (long long)runs, runs == 1 ? "" : "s");
  compared_html_text(c->date, out);
  (void)fprintf(out, ", ");
  compared_html_text(c->machine, out);
  (void)fprintf(out, "</p>\n");
}

/* A paragraph a line, whose words before the first colon are its subject. */
static void paragraphs(FILE *out, char *lines)
{
  char *rest;
  for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    char *colon = strstr(line, ": ");
    (void)fprintf(out, "<p>");
    if (colon) {
      colon[0] = '.', colon[1] = 0;
      element(out, "b", line);
      line = colon + 2;
    }
    compared_html_text(line, out);
    (void)fprintf(out, "</p>\n");
  }
}

static enum status answer(FILE *out, const struct comparison *c)
{
  (void)fprintf(out, "<div class=\"answer\">\n");
  for (int64_t i = 0; i < c->sections; i++) {
    if (c->sections > 1)
      element(out, "h3", c->section[i].name[0] ? c->section[i].name : c->section[i].data);
    char *words = compared_words(&c->section[i]);
    if (!words)
      FAIL(ERR_MEMORY, "out of memory");
    paragraphs(out, words);
    free(words);
  }
  (void)fprintf(out, "</div>\n");
  return OK;
}

static enum status page(FILE *out, const struct comparison *c, const char *dir)
{
  head(out, c);
  TRY(answer(out, c));
  for (int64_t i = 0; i < c->sections; i++) {
    const struct compared_section *s = &c->section[i];
    if (s->name[0] || c->sections > 1)
      element(out, "h2", s->name[0] ? s->name : s->data);
    (void)fprintf(out, "<p class=\"about\">");
    compared_html_text(s->data, out);
    (void)fprintf(out, ", %lld sequences a length.</p>\n", (long long)s->sequences);
    TRY(figures_of(out, c, i, dir));
    compared_html_tables(s, out);
  }
  TRY(settings(out, c));
  commands(out, c);
  (void)fprintf(out, "</body>\n</html>\n");
  return OK;
}

enum status compare_html(const struct comparison *c, const char *dir, const char *file)
{
  struct file_writer w;
  TRY(file_begin(file, &w));
  enum status s = page(w.out, c, dir);
  if (s == OK)
    return file_commit(&w);
  file_abandon(&w);
  return s;
}
