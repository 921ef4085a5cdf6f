/* races.h: accesses of a block's threads to shared memory that nothing orders: `make races`.
 *
 * Every thread has a vector clock: how far it knows each other to have come, by barriers that both
 * have passed (Mattern 1989; as in FastTrack, Flanagan & Freund 2009, doi:10.1145/1542476.1542490).
 * Two accesses to a word, one of them a write, race unless who comes second knows of the first.
 * What runs on behind a thread's back has a clock of its own: its copies (cp.async), the products
 * of its warp (wgmma), and bulk copies, of which a signal tells.  Products see what threads wrote
 * only behind fence.proxy.async: a second clock of each thread holds what it has shown them.
 * Shuffles order nothing.
 *
 * The sources of the kernels are compiled with -fsanitize=thread, whose calls land here instead of
 * in its library.  Blocks run one after the other: between blocks nothing is checked. */
#ifndef EMULATION_RACES_H
#define EMULATION_RACES_H
#ifndef RACES
#define ORDER(event) ((void)0)
#else
#define ORDER(event) races::event
#include <dlfcn.h>
#include <set>
#include <unordered_map>

namespace races
{
enum { THREADS = 512, LANES = 32 };
/* who accesses: threads, from COPIES on their copies, from PRODUCTS on warps' products, BULK */
enum { COPIES = THREADS, PRODUCTS = 2 * THREADS, BULK = PRODUCTS + THREADS / LANES, ALL };

struct clock {
  uint32_t at[ALL];
  void join(const clock &other)
  {
    for (int i = 0; i < ALL; i++)
      at[i] = std::max(at[i], other.at[i]);
  }
};

/* What a thread knows, and what of that it has shown to products. */
struct knowledge {
  clock known, shown;
  void join(const knowledge &other) { known.join(other.known), shown.join(other.shown); }
};

/* A barrier's: of those who have arrived since it opened, and of those who opened it. */
struct meeting {
  knowledge arrived, opened;
};

struct access {
  unsigned who;
  uint32_t when;
  const void *code;
};

/* The last write to four bytes, or to fewer that are accessed alone, and the reads since then. */
struct word {
  bool written;
  access write;
  std::vector<access> reads;
};

static knowledge thread_knows[THREADS];
static std::unordered_map<const void *, meeting> meetings;
static word shared_word[EMULATED_SHARED_BYTES / sizeof(float)];
static std::unordered_map<uintptr_t, word> static_word; /* __shared__ of a name */
static std::set<std::pair<const void *, const void *>> told;
static bool watching;
static uint32_t bulk_copies;

static std::string name_of(unsigned who)
{
  return who < COPIES     ? "thread " + std::to_string(who)
         : who < PRODUCTS ? "a copy of thread " + std::to_string(who - COPIES)
         : who < BULK     ? "products of warp " + std::to_string(who - PRODUCTS)
                          : "a bulk copy";
}

/* Once for each two places of the program. */
static void tell(const char *what, const access &first, const access &second)
{
  Dl_info file;
  if (!told.insert({first.code, second.code}).second || !dladdr(second.code, &file))
    return;
  fprintf(stderr, "race: %s: %s, behind %s\n", what, name_of(second.who).c_str(),
          name_of(first.who).c_str());
  char command[1024];
  auto offset = [&](const void *code) {
    return (const char *)code - (const char *)file.dli_fbase - 1;
  };
  (void)snprintf(command, sizeof command, "addr2line -sfpC -e '%s' 0x%tx 0x%tx 1>&2",
                 file.dli_fname, offset(second.code), offset(first.code));
  (void)fflush(stderr);
  if (system(command))
    fprintf(stderr, "  at 0x%tx and 0x%tx of %s\n", offset(second.code), offset(first.code),
            file.dli_fname);
}

extern "C" char __bss_start __attribute__((visibility("hidden")));
extern "C" char _end __attribute__((visibility("hidden")));
static word *word_at(uintptr_t at)
{
  uintptr_t shared = (uintptr_t)emulated_shared;
  if (at - shared < EMULATED_SHARED_BYTES)
    return &shared_word[(at - shared) / sizeof(float)];
  bool named = at >= (uintptr_t)&__bss_start && at < (uintptr_t)&_end;
  return named ? &static_word[at] : NULL;
}

static bool unknown(const access &a, const clock &known, unsigned who)
{
  return a.who != who && a.when > known.at[a.who];
}

static void write_word(word *w, const clock &known, const access &a)
{
  if (w->written && unknown(w->write, known, a.who))
    tell("two writes", w->write, a);
  for (const access &r : w->reads)
    if (unknown(r, known, a.who))
      tell("a write that may come before a read", r, a);
  w->reads.clear();
  w->written = true, w->write = a;
}

/* shown: what a product may read; NULL: a thread reads. */
static void read_word(word *w, const clock &known, const clock *shown, const access &a)
{
  if (w->written && unknown(w->write, known, a.who))
    tell("a read that may come before a write", w->write, a);
  else if (shown && w->written && w->write.who != BULK && w->write.when > shown->at[w->write.who])
    tell("a write that products have not been shown", w->write, a);
  for (access &r : w->reads)
    if (r.who == a.who) {
      r = a;
      return;
    }
  w->reads.push_back(a);
}

/* ---- what threads do ---- */

static void touch(const void *at, size_t bytes, bool writes, const void *code)
{
  if (!watching || running >= THREADS)
    return;
  const clock &known = thread_knows[running].known;
  access a = {running, known.at[running], code};
  size_t step = std::min(bytes, sizeof(float));
  for (uintptr_t k = (uintptr_t)at & ~(step - 1); k < (uintptr_t)at + bytes; k += step) {
    word *w = word_at(k);
    if (w && writes)
      write_word(w, known, a);
    else if (w)
      read_word(w, known, NULL, a);
  }
}

/* A block begins. */
static void begin(unsigned threads)
{
  meetings.clear(), static_word.clear();
  for (word &w : shared_word)
    w.reads.clear(), w.written = false;
  memset(thread_knows, 0, sizeof thread_knows);
  for (unsigned t = 0; t < THREADS; t++)
    thread_knows[t].known.at[t] = 1;
  watching = threads <= THREADS;
}

static void end() { watching = false; }

static void arrive(const void *barrier, unsigned me)
{
  if (!watching)
    return;
  meetings[barrier].arrived.join(thread_knows[me]);
  thread_knows[me].known.at[me]++;
}

static void open(const void *barrier)
{
  if (!watching)
    return;
  meeting &m = meetings[barrier];
  m.opened = m.arrived;
  memset(&m.arrived, 0, sizeof m.arrived);
}

static void pass(const void *barrier, unsigned me)
{
  if (watching)
    thread_knows[me].join(meetings[barrier].opened);
}

/* ---- what is done for them ---- */

static void write_for(unsigned me, const access &a, const void *to, size_t bytes)
{
  for (uintptr_t at = (uintptr_t)to; watching && at < (uintptr_t)to + bytes; at += 4)
    if (word *w = word_at(at))
      write_word(w, thread_knows[me].known, a);
}

static void copy(unsigned me, const void *to, size_t bytes, int batch, const void *code)
{
  write_for(me, {COPIES + me, (uint32_t)batch + 1, code}, to, bytes);
}

static void copies_done(unsigned me, int batches)
{
  if (watching)
    thread_knows[me].known.at[COPIES + me] =
        std::max(thread_knows[me].known.at[COPIES + me], (uint32_t)std::max(batches, 0));
}

static void bulk_copy(unsigned me, const void *to, size_t bytes, const void *code)
{
  write_for(me, {BULK, ++bulk_copies, code}, to, bytes);
}

/* A barrier tells of all copies so far. */
static void bulk_told(const void *barrier)
{
  if (watching)
    meetings[barrier].arrived.known.at[BULK] = bulk_copies;
}

static void show(unsigned me)
{
  if (!watching)
    return;
  thread_knows[me].shown.join(thread_knows[me].known);
  thread_knows[me].known.at[me]++;
}

/* Eight terms of an operand's row r (emulation.cc, operand_row). */
static void read_operand(unsigned me, const float *at, unsigned r, const access &a)
{
  const float *first = (const float *)((uintptr_t)at & ~(uintptr_t)1023);
  size_t term = (size_t)(at - first);
  for (size_t half = 0; half < 2; half++)
    for (size_t i = 0; i < 4; i++)
      if (word *w = word_at((uintptr_t)(first + r * 32 + 4 * (term / 4 + half ^ r % 8) + i)))
        read_word(w, thread_knows[me].known, &thread_knows[me].shown, a);
}

static void product(unsigned me, int n, const float *left, const float *right, int batch,
                    const void *code)
{
  if (!watching)
    return;
  access a = {PRODUCTS + me / LANES, (uint32_t)batch + 1, code};
  unsigned row = me % 128 / LANES * 16 + me % LANES / 4;
  for (unsigned half = 0; left && me % 4 == 0 && half < 2; half++)
    read_operand(me, left, row + 8 * half, a);
  for (unsigned r = me % LANES; r < (unsigned)n; r += LANES)
    read_operand(me, right, r, a);
}

static void products_done(unsigned me, int batches)
{
  uint32_t *known = &thread_knows[me].known.at[PRODUCTS + me / LANES];
  if (watching)
    *known = std::max(*known, (uint32_t)std::max(batches, 0));
}

/* A program that has seen a race fails. */
__attribute__((destructor)) static void fail_at_exit()
{
  if (told.empty())
    return;
  fprintf(stderr, "%zu races\n", told.size());
  _exit(1);
}
} // namespace races

/* ---- what -fsanitize=thread calls ---- */

extern "C" {
#define TOUCHES(bytes)                                                    \
  void __tsan_read##bytes(void *at)                                       \
  {                                                                       \
    races::touch(at, bytes, false, __builtin_return_address(0));          \
  }                                                                       \
  void __tsan_write##bytes(void *at)                                      \
  {                                                                       \
    races::touch(at, bytes, true, __builtin_return_address(0));           \
  }                                                                       \
  void __tsan_unaligned_read##bytes(void *at) { __tsan_read##bytes(at); } \
  void __tsan_unaligned_write##bytes(void *at) { __tsan_write##bytes(at); }
TOUCHES(1)
TOUCHES(2)
TOUCHES(4)
TOUCHES(8)
TOUCHES(16)
void __tsan_read_range(void *at, unsigned long bytes)
{
  races::touch(at, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void *at, unsigned long bytes)
{
  races::touch(at, bytes, true, __builtin_return_address(0));
}
void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
}
#endif
#endif
