/* compare_train.c: trains, resumes and measures the runs of a list, several at a time, each as a
 * process of its own with its share of the cores.
 *
 * A run's log, RUNS_DIR/NAME.log, is also its lock: the process that works on the run holds it,
 * whoever started it.  So a comparison that was killed can be started again at once: what its
 * children still write is waited for.  Children are told to end (SIGTERM: they finish their step
 * and write a checkpoint) when compare itself does. */
#include "core/files.h"
#include "core/flops.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/trainer_state.h"
#include "experiments/compare_list.h"
#include "experiments/compare_parts.h"
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum task { TASK_NONE, TASK_BEGIN, TASK_RESUME, TASK_MEASURE };

/* A run on its way. */
struct worker {
  struct list_run *run;
  struct word_list evaluation;
  double weight, begun; /* FLOPs of its training, roughly; part done when this session began */
  int64_t now;          /* steps when last looked at */
  pid_t child;          /* 0: none */
  enum task task;       /* of the child, or of the last one */
  bool waits;           /* another process works on it; said so */
};

struct workshop {
  const struct compare_list *l;
  struct worker *worker;
  int64_t count, jobs, running, cores;
  struct progress progress;
  double began, looked, told; /* when progress was last looked at, when a line was last logged */
  char self[COMPARE_PATH], train[COMPARE_PATH];
};

/* ---- what a run needs ---- */

static int64_t last_step(const struct list_run *run)
{
  char path[COMPARE_PATH];
  struct trainer_state state;
  if (path_join(path, sizeof path, run->directory, "latest/trainer.json") != OK ||
      !path_exists(path) || trainer_state_read(path, &state) != OK)
    return 0;
  return state.step;
}

/* A run that lies there must be the one that the list means. */
static enum status check_same(const struct list_run *run, const char *path)
{
  struct config there;
  char is[64], wanted[64];
  TRY(config_load(path, 0, NULL, &there));
  there.model.vocab_size = run->config.model.vocab_size;
  int key = compared_difference(&there, &run->config, 0);
  if (key < 0 && there.seed == run->config.seed)
    return OK;
  if (key < 0)
    FAIL(ERR_USAGE, "%s: was trained with another seed", run->directory);
  FAIL(ERR_USAGE,
       "%s: was trained with %s: %s, the list says %s; remove it or choose another runs_dir",
       run->directory, config_key_path(key), config_key_value(key, &there, is, sizeof is),
       config_key_value(key, &run->config, wanted, sizeof wanted));
}

static enum status find_measured(struct worker *w)
{
  struct compared_run run;
  struct compare_settings s = {w->evaluation.count, (const char *const *)w->evaluation.word, NULL};
  TRY(compared_run_open(w->run->directory, &s, &run));
  enum status status = compared_run_recall(&run, &w->run->measured);
  compared_run_free(&run);
  return status;
}

static enum status next_task(struct worker *w, enum task *task)
{
  char path[COMPARE_PATH];
  struct list_run *run = w->run;
  *task = TASK_BEGIN;
  TRY(path_join(path, sizeof path, run->directory, "config.yaml"));
  if (!path_exists(path))
    return OK;
  TRY(check_same(run, path));
  *task = TASK_RESUME;
  TRY(path_join(path, sizeof path, run->directory, "latest"));
  run->trained = path_is_directory(path) && last_step(run) >= run->config.train.steps;
  if (!run->trained)
    return OK;
  TRY(find_measured(w));
  *task = run->measured ? TASK_NONE : TASK_MEASURE;
  return OK;
}

/* ---- processes ---- */

/* The words of a task's command line; owned by nobody but `words`. */
static enum status command_of(const struct workshop *shop, const struct worker *w, enum task task,
                              struct word_list *words)
{
  const struct word_list *more = task == TASK_MEASURE ? &w->evaluation : &w->run->set;
  *words = (struct word_list){0};
  TRY(word_list_add(words, "%s", task == TASK_MEASURE ? shop->self : shop->train));
  if (task == TASK_RESUME)
    TRY(word_list_add(words, "--resume"));
  TRY(word_list_add(words, "%s", task == TASK_BEGIN ? w->run->entry->config : w->run->directory));
  if (task == TASK_MEASURE)
    TRY(word_list_add(words, "--measure"));
  for (int i = 0; i < more->count && task != TASK_RESUME; i++)
    TRY(word_list_add(words, "%s", more->word[i]));
  return OK;
}

/* In the child: ends with this program's parent, and is asked to end by nobody else. */
static void become(const struct word_list *words, int log, pid_t parent, int64_t threads,
                   const sigset_t *signals)
{
  char *argv[LIST_WORDS + 1], number[24];
  for (int i = 0; i < words->count; i++)
    argv[i] = words->word[i];
  argv[words->count] = NULL;
  (void)snprintf(number, sizeof number, "%lld", (long long)threads);
  (void)signal(SIGINT, SIG_DFL); /* until the program has handlers of its own */
  (void)signal(SIGTERM, SIG_DFL);
  (void)pthread_sigmask(SIG_SETMASK, signals, NULL);
  (void)setpgid(0, 0); /* Ctrl-C reaches compare alone, which then tells its children */
#ifdef __linux__
  (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
  if (getppid() != parent || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0 ||
      setenv("OMP_NUM_THREADS", number, 1))
    _exit(130);
  parallel_unbind();
  (void)execv(argv[0], argv);
  (void)fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
  _exit(127);
}

/* Opens the log and takes the lock; *log -1: another process has it. */
static enum status take_log(const struct list_run *run, int *log)
{
  *log = open(run->log, O_WRONLY | O_CREAT | O_APPEND, 0666);
  if (*log < 0)
    FAIL_IO(run->log, "open");
  if (flock(*log, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
    (void)close(*log);
    *log = -1;
  }
  return OK;
}

static enum status start_child(struct workshop *shop, struct worker *w, enum task task, int log)
{
  struct word_list words;
  int64_t threads = shop->cores / shop->jobs;
  pid_t parent = getpid();
  sigset_t ends, before;
  TRY(command_of(shop, w, task, &words));
  (void)fflush(NULL);
  (void)sigemptyset(&ends);
  (void)sigaddset(&ends, SIGINT), (void)sigaddset(&ends, SIGTERM);
  (void)pthread_sigmask(SIG_BLOCK, &ends, &before); /* the child has this program's handlers yet */
  pid_t child = fork();
  if (child == 0)
    become(&words, log, parent, threads > 1 ? threads : 1, &before);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  word_list_free(&words);
  if (child < 0)
    FAIL(ERR_MEMORY, "a process cannot be started: %s", strerror(errno));
  w->child = child;
  w->task = task;
  shop->running++;
  return OK;
}

/* Starts what the run needs next, if it needs anything and nobody works on it. */
static enum status start(struct workshop *shop, struct worker *w)
{
  static const char *const doing[] = {"", "training", "going on with", "measuring"};
  enum task task = TASK_NONE;
  int log;
  TRY(take_log(w->run, &log));
  if (log < 0) {
    if (!w->waits)
      progress_log(&shop->progress, "%s: another process still works on it: waiting",
                   w->run->directory);
    w->waits = true;
    return OK;
  }
  w->waits = false;
  enum status s = next_task(w, &task);
  if (s == OK && task != TASK_NONE) {
    w->now = last_step(w->run);
    progress_log(&shop->progress, "%s %s", doing[task], w->run->directory);
    s = start_child(shop, w, task, log);
  }
  (void)close(log); /* the child has it */
  return s;
}

static void last_line(const char *file, char *out, size_t size)
{
  char *text;
  size_t bytes;
  *out = 0;
  if (file_read(file, &text, &bytes) != OK)
    return;
  while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
    text[--bytes] = 0;
  const char *line = strrchr(text, '\n');
  (void)snprintf(out, size, "%s", line ? line + 1 : text);
  free(text);
}

/* A program that has ended well has left what it was started for. */
static bool has_left_its_work(struct worker *w)
{
  enum task task;
  return next_task(w, &task) == OK && (task == TASK_NONE || task > w->task);
}

static void ended(struct workshop *shop, struct worker *w, int status)
{
  char line[256];
  w->child = 0;
  shop->running--;
  if (WIFSIGNALED(status) && interrupted()) /* before it could stop in good order */
    return;
  if (WIFEXITED(status) &&
      (WEXITSTATUS(status) == 130 || (WEXITSTATUS(status) == 0 && has_left_its_work(w))))
    return;
  w->run->failed = true;
  last_line(w->run->log, line, sizeof line);
  progress_log(&shop->progress, "%s failed: %s (see %s)", w->run->directory, line, w->run->log);
}

static bool done(const struct worker *w)
{
  return w->run->failed || (w->run->trained && w->run->measured);
}

/* ---- how far ---- */

/* FLOPs of all steps, with solves that take all the iterations they may. */
static double weigh(const struct config *c)
{
  double sum = 0;
  for (int64_t phase = 0; phase < 2; phase++) {
    int64_t unrolled =
        c->train.unroll_steps < c->train.steps ? c->train.unroll_steps : c->train.steps;
    bool implicit = c->model.kind == MODEL_IMPLICIT, solves = implicit && phase == 1;
    int64_t tokens = c->train.batch_size * c->train.accumulate * c->data.length;
    int64_t most = c->deq.forward.max_iter < 64 ? c->deq.forward.max_iter : 64;
    struct step_work work = {.tokens = tokens, .solved = solves ? tokens * most : 0};
    work.outputs = tokens;
    work.differentiated = tokens * (!implicit ? 1
                                    : solves  ? c->deq.phantom_steps
                                              : c->deq.unroll_iterations);
    sum +=
        step_flops(&c->model, &work) * (double)(phase == 0 ? unrolled : c->train.steps - unrolled);
  }
  return sum;
}

/* The last logged step, from the end of metrics.jsonl. */
static int64_t logged_step(const struct list_run *run)
{
  char path[COMPARE_PATH], line[1024];
  long long step = 0;
  if (path_join(path, sizeof path, run->directory, "metrics.jsonl") != OK || !path_exists(path))
    return 0;
  last_line(path, line, sizeof line);
  return sscanf(line, "{\"step\": %lld", &step) == 1 ? step : 0;
}

static double fraction(const struct worker *w, int64_t step)
{
  int64_t steps = w->run->config.train.steps;
  if (w->run->trained || w->run->failed || steps == 0)
    return 1;
  return (double)(step < steps ? step : steps) / (double)steps;
}

static void say_progress(struct workshop *shop)
{
  char busy[320] = "", left_text[FORMAT_SIZE];
  double all = 0, done_before = 0, done_now = 0, elapsed = monotonic_seconds() - shop->began;
  int64_t finished = 0;
  size_t used = 0;
  if (shop->began + elapsed - shop->looked < 0.5)
    return;
  shop->looked = shop->began + elapsed;
  for (struct worker *w = shop->worker; w < shop->worker + shop->count; w++) {
    if (w->child)
      w->now = logged_step(w->run);
    finished += done(w);
    all += w->weight;
    done_before += w->weight * w->begun;
    done_now += w->weight * fraction(w, w->now);
    if (w->child && used < sizeof busy - 1)
      used +=
          (size_t)snprintf(busy + used, sizeof busy - used, "  %s %lld/%lld", w->run->config.name,
                           (long long)w->now, (long long)w->run->config.train.steps);
  }
  double left = done_now > done_before ? elapsed * (all - done_now) / (done_now - done_before) : -1;
  bool tell = !shop->progress.terminal && monotonic_seconds() - shop->told > 60;
  if (tell)
    shop->told = monotonic_seconds();
  void (*say)(struct progress *, const char *, ...) __attribute__((format(printf, 2, 3))) =
      tell ? progress_log : progress_show;
  say(&shop->progress, "%lld of %lld runs done%s  about %s left", (long long)finished,
      (long long)shop->count, busy, format_duration(left, left_text));
}

/* ---- the workshop ---- */

static void tell_children(const struct workshop *shop, int signal_number)
{
  for (const struct worker *w = shop->worker; w < shop->worker + shop->count; w++)
    if (w->child)
      (void)kill(w->child, signal_number);
}

static void look_after_children(struct workshop *shop)
{
  for (struct worker *w = shop->worker; w < shop->worker + shop->count; w++) {
    int status;
    if (w->child && waitpid(w->child, &status, WNOHANG) == w->child)
      ended(shop, w, status);
  }
}

static void rest(void)
{
  const struct timespec a_moment = {0, 20000000};
  (void)nanosleep(&a_moment, NULL);
}

/* Every child has ended when this returns. */
static enum status end_children(struct workshop *shop)
{
  tell_children(shop, SIGTERM);
  while (shop->running > 0) {
    look_after_children(shop);
    rest();
  }
  return OK;
}

static enum status start_some(struct workshop *shop)
{
  for (struct worker *w = shop->worker;
       shop->running < shop->jobs && w < shop->worker + shop->count; w++)
    if (!w->child && !done(w))
      TRY(start(shop, w));
  return OK;
}

static bool all_done(const struct workshop *shop)
{
  for (const struct worker *w = shop->worker; w < shop->worker + shop->count; w++)
    if (!done(w))
      return false;
  return true;
}

static enum status work(struct workshop *shop)
{
  enum status s = OK;
  while (s == OK && !interrupted() && !all_done(shop)) {
    look_after_children(shop);
    s = start_some(shop);
    if (s == OK && !all_done(shop)) {
      say_progress(shop);
      rest();
    }
  }
  char first[1024];
  (void)snprintf(first, sizeof first, "%s", s == OK ? "" : last_error());
  TRY(end_children(shop));
  progress_clear(&shop->progress);
  if (s != OK)
    FAIL(s, "%s", first);
  if (!all_done(shop))
    FAIL(ERR_INTERRUPTED, "stopped; every run keeps its checkpoint; go on with: compare %s",
         shop->l->file);
  return OK;
}

/* train lies beside compare, under a name with the same beginning. */
static enum status find_programs(struct workshop *shop)
{
  ssize_t n = readlink("/proc/self/exe", shop->self, sizeof shop->self - 8);
  if (n <= 0)
    FAIL_IO("/proc/self/exe", "read");
  shop->self[n] = 0;
  memcpy(shop->train, shop->self, (size_t)n + 1);
  const char *tail = "compare";
  if ((size_t)n < strlen(tail) || strcmp(shop->train + n - (ssize_t)strlen(tail), tail) != 0)
    FAIL(ERR_USAGE, "%s: this program must be called compare to find train beside it", shop->self);
  memcpy(shop->train + n - (ssize_t)strlen(tail), "train", 6);
  if (access(shop->train, X_OK))
    FAIL_IO(shop->train, "start");
  return OK;
}

static int heavier_first(const void *a, const void *b)
{
  double x = ((const struct worker *)a)->weight, y = ((const struct worker *)b)->weight;
  const struct list_run *r = ((const struct worker *)a)->run, *q = ((const struct worker *)b)->run;
  return x != y ? (x < y) - (x > y) : (r > q) - (r < q);
}

static enum status hire(struct workshop *shop, struct list_run *runs, int64_t count)
{
  shop->worker = calloc((size_t)count, sizeof *shop->worker);
  if (!shop->worker)
    FAIL(ERR_MEMORY, "out of memory");
  for (int64_t i = 0; i < count; i++) {
    struct worker *w = &shop->worker[shop->count++];
    w->run = &runs[i];
    w->weight = weigh(&runs[i].config);
    w->now = last_step(&runs[i]);
    w->begun = fraction(w, w->now);
    TRY(list_run_evaluation(shop->l, runs, &runs[i], &w->evaluation));
  }
  qsort(shop->worker, (size_t)count, sizeof *shop->worker, heavier_first);
  return OK;
}

enum status list_runs_work(const struct compare_list *l, struct list_run *runs, int64_t count)
{
  struct workshop shop = {.l = l, .cores = sysconf(_SC_NPROCESSORS_ONLN)};
  shop.cores = shop.cores > 1 ? shop.cores : 1;
  shop.jobs = l->jobs ? l->jobs : shop.cores;
  shop.jobs = shop.jobs < count ? shop.jobs : count;
  shop.progress = progress_to(stderr);
  shop.began = shop.told = monotonic_seconds();
  TRY(find_programs(&shop));
  TRY(directory_make(l->runs_dir));
  enum status s = hire(&shop, runs, count);
  if (s == OK)
    s = work(&shop);
  for (int64_t i = 0; i < shop.count; i++)
    word_list_free(&shop.worker[i].evaluation);
  free(shop.worker);
  return s;
}
