/* emulation.cc: see cuda_runtime.h beside this. */
#include <algorithm>
#include <cblas.h>
#include <cublasLt.h>
#include <cusolverDn.h>
#include <lapacke.h>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <setjmp.h>
#include <string>
#include <ucontext.h>
#include <unistd.h>
#include <vector>
#include "tests/emulation/graphs.h"

/* ---- what is captured ---- */

struct emulated_node {
  std::function<void()> run;
};
struct emulated_graph {
  std::vector<emulated_node> nodes;
};
static struct {
  emulated_graph *graph; /* being captured; NULL: none is */
  bool spoiled;
} capture;
extern "C" __attribute__((visibility("default"))) struct emulated_graphs emulated_graphs;
struct emulated_graphs emulated_graphs;

static void enqueue(const std::function<void()> &work)
{
  if (capture.graph)
    capture.graph->nodes.push_back({work});
  else
    work();
}

static bool told_to_fail(const char *what)
{
  const char *told = getenv("EMULATED_GRAPHS");
  return told && strcmp(told, what) == 0;
}

/* Whether this is not allowed now. */
static bool spoils_capture()
{
  capture.spoiled = capture.spoiled || capture.graph;
  return capture.graph;
}

/* ---- memory ---- */

/* Behind each allocation lie SLACK bytes of NaN, which must still be there when it is freed. */
enum { MOST = 4096, PAGE = 4096, SLACK = 1024 };
static const size_t CAPACITY = (size_t)16 << 30;

static struct allocation {
  char *at;
  size_t bytes, length; /* asked for; of the pages, 0: free */
  bool open;
} allocations[MOST];
static int used;
static size_t taken;

static void protect(bool open)
{
  for (int i = 0; i < used; i++) {
    struct allocation *a = &allocations[i];
    if (a->length && a->open != open &&
        mprotect(a->at, a->length, open ? PROT_READ | PROT_WRITE : PROT_NONE))
      abort();
    a->open = open;
  }
}

/* Device memory is open while one of these lives. */
static int openings;
struct opened {
  opened()
  {
    if (openings++ == 0)
      protect(true);
  }
  ~opened()
  {
    if (--openings == 0 && !getenv("EMULATED_OPEN"))
      protect(false);
  }
};

static bool on_device(const void *p, size_t bytes)
{
  const char *c = (const char *)p;
  for (int i = 0; i < used; i++) {
    const struct allocation *a = &allocations[i];
    if (a->length && c >= a->at && c + bytes <= a->at + a->bytes)
      return true;
  }
  return false;
}

/* Bytes of NaN.  All are copies of one file: pages that nobody writes cost no time when they are
 * opened and closed. */
static void *map_nan(size_t length)
{
  static FILE *file = tmpfile();
  static size_t filled;
  char page[PAGE];
  memset(page, 0xff, PAGE);
  for (; file && filled < length; filled += PAGE)
    if (fwrite(page, PAGE, 1, file) != 1)
      return MAP_FAILED;
  if (!file || fflush(file))
    return MAP_FAILED;
  return mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(file), 0);
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
  int i = 0;
  if (spoils_capture())
    return cudaErrorStreamCaptureUnsupported;
  while (i < used && allocations[i].length)
    i++;
  if (i == MOST || bytes > CAPACITY - taken)
    return cudaErrorMemoryAllocation;
  size_t length = (bytes + SLACK + PAGE - 1) / PAGE * PAGE;
  void *p = map_nan(length);
  if (p == MAP_FAILED)
    return cudaErrorMemoryAllocation;
  allocations[i] = {(char *)p, bytes, length, true};
  used = i == used ? used + 1 : used;
  taken += length;
  *out = p;
  opened close_again;
  return cudaSuccess;
}

static void check_slack(const struct allocation *a)
{
  opened open;
  for (size_t k = a->bytes; k < a->length; k++)
    if ((unsigned char)a->at[k] != 0xff) {
      fprintf(stderr, "emulated device: written behind the end of %zu bytes\n", a->bytes);
      abort();
    }
}

cudaError_t cudaFree(void *p)
{
  for (int i = 0; i < used; i++) {
    struct allocation *a = &allocations[i];
    if (!a->length || a->at != p)
      continue;
    check_slack(a);
    munmap(a->at, a->length);
    taken -= a->length;
    a->length = 0;
    return cudaSuccess;
  }
  return p ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *all)
{
  *left = CAPACITY - taken;
  *all = CAPACITY;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t)
{
  bool reads = kind != cudaMemcpyHostToDevice, writes = kind != cudaMemcpyDeviceToHost;
  if (on_device(from, bytes) != reads || on_device(to, bytes) != writes)
    return cudaErrorInvalidValue;
  if (kind != cudaMemcpyDeviceToDevice && spoils_capture())
    return cudaErrorStreamCaptureUnsupported;
  enqueue([=] {
    opened open;
    memcpy(to, from, bytes);
  });
  return cudaSuccess;
}

/* ---- kernels ---- */

dim3 gridDim, blockDim, blockIdx, threadIdx;
alignas(1024) float emulated_shared[EMULATED_SHARED_BYTES / sizeof(float)];

void emulated_misuse(const char *what)
{
  fprintf(stderr, "emulated device: %s\n", what);
  abort();
}
static cudaError_t failure;

void emulated_alignment(const void *p, size_t bytes)
{
  if ((uintptr_t)p % bytes == 0)
    return;
  fprintf(stderr, "emulated device: %zu bytes at %p in one access\n", bytes, p);
  abort();
}

/* A block whose threads wait for each other: each has a stack, and they take turns.  A context only
 * starts them, once for all blocks: to switch by one is a system call. */
enum { STACK = 1 << 17, THREADS_MOST = 1024 };
static ucontext_t start, home;
static jmp_buf scheduler, fiber[THREADS_MOST];
static char *stacks;
static bool started[THREADS_MOST];
static unsigned running;
static const std::function<void()> *block_thread;

/* What all threads of a block, or the lanes of a warp, pass together: those that have ended are not
 * waited for. */
struct barrier {
  unsigned threads, arrived, passed;
};
static struct barrier block_barrier, warp_barrier[THREADS_MOST], named_barrier[16];
static unsigned warp_lanes;

/* What a thread waits for; at NULL: it has ended. */
static struct wait {
  struct barrier *at;
  unsigned passed;
} waits[THREADS_MOST];

#include "tests/emulation/races.h"

static struct barrier *own_warp(void) { return &warp_barrier[running / warp_lanes]; }

static void open_when_all(struct barrier *b)
{
  if (b->arrived < b->threads)
    return;
  b->arrived = 0;
  b->passed++;
  ORDER(open(b));
}

/* Back to the scheduler, until this thread's next turn. */
static void give_turn(void)
{
  unsigned me = running;
  if (!_setjmp(fiber[me]))
    _longjmp(scheduler, 1);
  threadIdx.x = running;
}

/* orders: what came before it also for others; a shuffle does not. */
static void pass(struct barrier *b, bool orders = true)
{
  waits[running] = {b, b->passed};
  b->arrived++;
  if (orders)
    ORDER(arrive(b, running));
  open_when_all(b);
  if (waits[running].passed == b->passed)
    give_turn();
  if (orders)
    ORDER(pass(b, running));
}

static void fiber_main()
{
  for (;;) {
    (*block_thread)();
    waits[running].at = NULL;
    for (struct barrier *b : {&block_barrier, own_warp()}) {
      b->threads--;
      open_when_all(b);
    }
    give_turn();
  }
}

static void resume(unsigned t)
{
  running = t;
  threadIdx.x = t;
  if (_setjmp(scheduler))
    return;
  if (started[t])
    _longjmp(fiber[t], 1);
  started[t] = true;
  getcontext(&start);
  start.uc_stack.ss_sp = stacks + (size_t)t * STACK;
  start.uc_stack.ss_size = STACK;
  start.uc_link = NULL;
  makecontext(&start, fiber_main, 0);
  swapcontext(&home, &start);
}

void __syncthreads(void) { pass(&block_barrier); }
void __syncwarp(void) { pass(own_warp()); }

/* What the lanes show each other, in one array while the other is read. */
static double shown[2][THREADS_MOST];

double emulated_shuffle(double x, int apart)
{
  unsigned me = running, turn = own_warp()->passed % 2;
  shown[turn][me] = x;
  pass(own_warp(), false);
  return shown[turn][me ^ (unsigned)apart];
}

/* Likewise for the operands of mma, without the bits that tf32 has not. */
static struct {
  float a[4], b[2];
} operands[2][THREADS_MOST];

static float tf32(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= 0xffffe000u;
  memcpy(&x, &bits, sizeof x);
  return x;
}

uint16_t emulated_half(float x)
{
  enum { BITS = 10, LEAST = -24 }; /* behind the point; exponent of the last bit of a subnormal */
  uint16_t sign = signbit(x) ? 0x8000 : 0;
  if (isnan(x))
    return sign | 0x7e00;
  if (fabsf(x) >= 65520)
    return sign | 0x7c00;
  int exponent = x == 0 ? LEAST : ilogbf(x) - BITS;
  exponent = exponent < LEAST ? LEAST : exponent;
  auto units = (unsigned)nearbyintf(ldexpf(fabsf(x), -exponent)); /* up to 2^11 */
  return sign | (uint16_t)(((unsigned)(exponent - LEAST) << BITS) + units);
}

float emulated_number(uint16_t half)
{
  enum { BITS = 10, EXPONENTS = 31, UNITS = (1 << BITS) - 1, BIAS = 127 - 15, FLOAT_BITS = 23 };
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> BITS & EXPONENTS, bits;
  float x = (float)(half & UNITS) * 0x1p-24f; /* what has no exponent */
  if (exponent == EXPONENTS)
    x = half & UNITS ? NAN : INFINITY;
  memcpy(&bits, &x, sizeof bits);
  if (exponent != 0 && exponent != EXPONENTS)
    bits = exponent + BIAS << FLOAT_BITS | (uint32_t)(half & UNITS) << (FLOAT_BITS - BITS);
  bits |= sign;
  memcpy(&x, &bits, sizeof x);
  return x;
}

void emulated_mma(float (&d)[4], const float (&a)[4], float b0, float b1)
{
  unsigned me = running, turn = own_warp()->passed % 2, warp = me & ~31u;
  for (int i = 0; i < 4; i++)
    operands[turn][me].a[i] = tf32(a[i]);
  operands[turn][me].b[0] = tf32(b0), operands[turn][me].b[1] = tf32(b1);
  pass(own_warp(), false);
  for (unsigned e = 0; e < 4; e++)
    for (unsigned k = 0; k < 8; k++) {
      unsigned row = me % 32 / 4, column = me % 4 * 2 + e % 2;
      d[e] += operands[turn][warp + row * 4 + k % 4].a[e / 2 + k / 4 * 2] *
              operands[turn][warp + column * 4 + k % 4].b[k / 4];
    }
}

enum { ROW = 8 }; /* words of an operand's row */

/* Products of four warps that have been asked for: what the lane has of them, by batch. */
struct pending_product {
  int n, batch;
  float *d, a[2][ROW];
  const float *left, *right;
  bool adds, halves;
};
static struct {
  std::vector<pending_product> products;
  int batch; /* that is being filled */
} pending[THREADS_MOST];

/* Row r of eight words in shared memory: the 128-byte swizzle. */
static void operand_row(const float *at, unsigned r, float (&row)[ROW])
{
  enum { PANEL = 32, BYTES = 1024 };
  const float *first = (const float *)((uintptr_t)at & ~(uintptr_t)(BYTES - 1));
  const float *end = emulated_shared + sizeof emulated_shared / sizeof *emulated_shared;
  size_t term = at - first;
  for (size_t half = 0; half < 2; half++) {
    const float *four = first + r * PANEL + 4 * (term / 4 + half ^ r % 8);
    if (term + 8 > PANEL || ((uintptr_t)at & 31) || four < emulated_shared || four + 4 > end) {
      fprintf(stderr, "emulated device: no operand of wgmma at byte %zd of shared memory\n",
              (const char *)at - (const char *)emulated_shared);
      abort();
    }
    for (int i = 0; i < 4; i++)
      row[4 * half + i] = four[i];
  }
}

/* A row's numbers: its words, as tf32 has them, or the two halves of each. */
static int row_numbers(const float (&row)[ROW], bool halves, float (&to)[2 * ROW])
{
  for (int i = 0; i < ROW; i++) {
    uint32_t word;
    memcpy(&word, &row[i], sizeof word);
    if (!halves) {
      to[i] = tf32(row[i]);
      continue;
    }
    to[2 * i] = emulated_number((uint16_t)word);
    to[2 * i + 1] = emulated_number((uint16_t)(word >> 16));
  }
  return halves ? 2 * ROW : ROW;
}

void emulated_group_mma(int n, float *d, const float *a, const float *left, const float *right,
                        bool adds, bool halves)
{
  unsigned me = running, turn = own_warp()->passed % 2, first = me & ~3u;
  pending_product p = {n, pending[me].batch, d, {}, left, right, adds, halves};
  for (int i = 0; a && i < 4; i++)
    operands[turn][me].a[i] = a[i];
  ORDER(product(me, n, left, right, pending[me].batch, __builtin_return_address(0)));
  pass(own_warp(), false);
  for (unsigned half = 0; a && half < 2; half++)
    for (unsigned k = 0; k < ROW; k++)
      p.a[half][k] = operands[turn][first + k % 4].a[half + k / 4 * 2];
  pending[me].products.push_back(p);
}

static void run_product(const pending_product &p, unsigned thread)
{
  enum { GROUP_LANES = 128 };
  unsigned row = thread % GROUP_LANES / 32 * 16 + thread % 32 / 4;
  float a[2][2 * ROW], b[2 * ROW], words[ROW];
  int terms = 0;
  for (unsigned half = 0; half < 2; half++) {
    memcpy(words, p.a[half], sizeof words);
    if (p.left)
      operand_row(p.left, row + 8 * half, words);
    terms = row_numbers(words, p.halves, a[half]);
  }
  for (unsigned i = 0; i < (unsigned)p.n / 4; i++) {
    unsigned e = i % 2;
    operand_row(p.right, i / 2 * 8 + thread % 4 * 2 + e, words);
    row_numbers(words, p.halves, b);
    for (unsigned half = 0; half < 2; half++) {
      float *d = p.d + i / 2 * 4 + 2 * half + e, sum = p.adds ? *d : 0;
      for (int k = 0; k < terms; k++)
        sum += a[half][k] * b[k];
      *d = sum;
    }
  }
}

void emulated_end_products(void) { pending[running].batch++; }

void emulated_await_products(int batches)
{
  auto &own = pending[running];
  size_t done = 0;
  ORDER(products_done(running, own.batch - batches));
  for (; done < own.products.size() && own.products[done].batch < own.batch - batches; done++)
    run_product(own.products[done], running);
  own.products.erase(own.products.begin(), own.products.begin() + done);
}

void emulated_barrier(int which, unsigned threads, bool waits)
{
  struct barrier *b = &named_barrier[which];
  b->threads = threads;
  if (waits) {
    pass(b);
    return;
  }
  b->arrived++;
  ORDER(arrive(b, running));
  open_when_all(b);
}

/* Copies by a thread, by batch. */
struct pending_copy {
  float *to;
  const float *from;
  bool there;
  int batch;
};
static struct {
  std::vector<pending_copy> copies;
  int batch; /* that is being filled */
} copying[THREADS_MOST];

void emulated_copy(float *to, const float *from, bool there)
{
  emulated_alignment(to, 16), emulated_alignment(from, 16);
  copying[running].copies.push_back({to, from, there, copying[running].batch});
  ORDER(copy(running, to, 16, copying[running].batch, __builtin_return_address(0)));
}

void emulated_end_batch(void) { copying[running].batch++; }

void emulated_await_batches(int left)
{
  auto &own = copying[running];
  size_t done = 0;
  ORDER(copies_done(running, own.batch - left));
  for (; done < own.copies.size() && own.copies[done].batch < own.batch - left; done++)
    for (int i = 0; i < 4; i++)
      own.copies[done].to[i] = own.copies[done].there ? own.copies[done].from[i] : 0;
  own.copies.erase(own.copies.begin(), own.copies.begin() + done);
}

/* Signals of a block: a barrier of arrivals, which passes when no copies are left either. */
struct signal {
  struct barrier arrivals;
  unsigned waiting;
  std::vector<std::function<void()>> copies;
  int bytes; /* of those that nobody has told of */
};
static std::map<const void *, struct signal> signals;

static struct signal *signal_at(const void *at)
{
  auto found = signals.find(at);
  if (found == signals.end()) {
    fprintf(stderr, "emulated device: no signal at %p\n", at);
    abort();
  }
  return &found->second;
}

static void give_when_all(struct signal *s)
{
  if (s->waiting) {
    for (auto &copy : s->copies)
      copy();
    s->copies.clear();
  }
  if (s->copies.empty())
    open_when_all(&s->arrivals);
}

void emulated_make_signal(const void *signal, int arrivals)
{
  emulated_alignment(signal, 8);
  signals[signal] = {{(unsigned)arrivals, 0, 0}, 0, {}, 0};
}

void emulated_arrive(const void *signal)
{
  struct signal *s = signal_at(signal);
  s->arrivals.arrived++;
  ORDER(arrive(&s->arrivals, running));
  give_when_all(s);
}

/* The hardware knows whether a use is odd, only. */
void emulated_await_signal(const void *signal, int use)
{
  struct signal *s = signal_at(signal);
  s->waiting++;
  give_when_all(s);
  while (s->arrivals.passed % 2 == (unsigned)use % 2) {
    waits[running] = {&s->arrivals, s->arrivals.passed};
    give_turn();
  }
  s->waiting--;
  ORDER(pass(&s->arrivals, running));
  if (s->arrivals.passed != (unsigned)use + 1) {
    fprintf(stderr, "emulated device: use %d of a signal was waited for at %u\n", use,
            s->arrivals.passed);
    abort();
  }
}

void emulated_copy_part(void *to, const void *from, int bytes, const void *signal)
{
  struct signal *s = signal_at(signal);
  emulated_alignment(to, 16), emulated_alignment(from, 16);
  s->copies.push_back([=] { memcpy(to, from, (size_t)bytes); });
  s->bytes += bytes;
  ORDER(bulk_copy(running, to, (size_t)bytes, __builtin_return_address(0)));
}

void emulated_arrive_with_block(int bytes, const void *signal)
{
  struct signal *s = signal_at(signal);
  if (s->bytes != bytes) {
    fprintf(stderr, "emulated device: %d bytes are copied, %d awaited\n", s->bytes, bytes);
    abort();
  }
  s->bytes = 0;
  ORDER(bulk_told(&s->arrivals));
  emulated_arrive(signal);
}

void emulated_show(void) { ORDER(show(running)); }

static void run_block(unsigned threads)
{
  signals.clear();
  ORDER(begin(threads));
  for (unsigned t = 0; t < threads; t++)
    copying[t].copies.clear();
  block_barrier = {threads, 0, 0};
  for (unsigned t = 0; t < threads; t += warp_lanes)
    warp_barrier[t / warp_lanes] = {std::min(warp_lanes, threads - t), 0, 0};
  memset(named_barrier, 0, sizeof named_barrier);
  for (unsigned t = 0; t < threads; t++)
    resume(t);
  for (unsigned left = 1, moved; left;) {
    left = moved = 0;
    for (unsigned t = 0; t < threads; t++) {
      if (waits[t].at && waits[t].passed != waits[t].at->passed) {
        resume(t);
        moved++;
      }
      left += waits[t].at != NULL;
    }
    if (left && !moved) {
      fprintf(stderr, "emulated device: %u threads of a block wait for the others\n", left);
      abort();
    }
  }
}

static void launch_blocks(dim3 blocks, unsigned threads, bool together, bool shared,
                          const std::function<void()> &thread)
{
  opened open;
  gridDim = blocks;
  blockDim = {threads, 1, 1};
  block_thread = &thread;
  warp_lanes = shared ? 32 : WARP;
  for (unsigned b = 0; b < blocks.x * blocks.y * blocks.z; b++) {
    if (shared)
      memset(emulated_shared, 0xff, sizeof emulated_shared); /* NaN */
    blockIdx = {b % blocks.x, b / blocks.x % blocks.y, b / blocks.x / blocks.y};
    if (together) {
      run_block(threads);
      ORDER(end());
      continue;
    }
    for (unsigned t = 0; t < threads; t++) {
      threadIdx = {t, 0, 0};
      thread();
    }
  }
}

static bool fails(void)
{
  static long left = getenv("EMULATED_FAULT") ? atol(getenv("EMULATED_FAULT")) : 0;
  return (left > 0 && --left == 0) || (capture.graph && told_to_fail("launch"));
}

void emulated_launch(dim3 blocks, unsigned threads, bool together, bool shared,
                     const std::function<void()> &thread)
{
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || threads == 0 || threads > THREADS_MOST) {
    failure = cudaErrorInvalidValue;
    return;
  }
  if (fails()) {
    failure = cudaErrorLaunchFailure;
    return;
  }
  if (!stacks)
    stacks = (char *)mmap(NULL, (size_t)THREADS_MOST * STACK, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  enqueue([=] { launch_blocks(blocks, threads, together, shared, thread); });
}

/* ---- the rest of the runtime ---- */

cudaError_t cudaGetLastError(void)
{
  cudaError_t e = failure;
  failure = cudaSuccess;
  return e;
}

const char *cudaGetErrorString(cudaError_t e)
{
  switch (e) {
  case cudaSuccess:
    return "no error";
  case cudaErrorInvalidValue:
    return "invalid argument";
  case cudaErrorMemoryAllocation:
    return "out of memory";
  case cudaErrorNoDevice:
    return "no CUDA-capable device is detected";
  case cudaErrorStreamCaptureUnsupported:
    return "operation not permitted when stream is capturing";
  case cudaErrorStreamCaptureInvalidated:
  case cudaErrorStreamCaptureWrongThread:
    return "operation failed due to a previous error during capture";
  case cudaErrorGraphExecUpdateFailure:
    return "the graph update was not performed";
  case cudaErrorLaunchFailure:
    break;
  }
  return "unspecified launch failure";
}

cudaError_t cudaGetDeviceCount(int *count)
{
  const char *devices = getenv("EMULATED_DEVICES");
  *count = devices ? atoi(devices) : 1;
  return *count ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

static int told(const char *name, int otherwise)
{
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

static int shared_bytes(void) { return told("EMULATED_SHARED", sizeof emulated_shared); }

cudaError_t emulated_shared_memory(int bytes)
{
  if (bytes <= shared_bytes())
    return cudaSuccess;
  return failure = cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int)
{
  *p = {"emulated", CAPACITY, (size_t)shared_bytes(), told("EMULATED_MAJOR", 9), 0};
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *, const void *) { return cudaSuccess; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *queue, unsigned)
{
  static char any;
  *queue = (cudaStream_t)&any;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
  return spoils_capture() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t, enum cudaStreamCaptureMode)
{
  if (capture.graph)
    return cudaErrorInvalidValue;
  capture = {new emulated_graph, told_to_fail("capture")};
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
  if (!capture.graph)
    return cudaErrorInvalidValue;
  *graph = capture.graph;
  capture.graph = NULL;
  if (capture.spoiled) {
    delete *graph;
    *graph = NULL;
    return cudaErrorStreamCaptureInvalidated;
  }
  emulated_graphs.captured++;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
  *count = graph->nodes.size();
  return nodes ? cudaErrorInvalidValue : cudaSuccess; /* to list them is not emulated */
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
  if (told_to_fail("instantiate"))
    return cudaErrorMemoryAllocation;
  *out = new emulated_graph(*graph);
  emulated_graphs.instantiated++;
  return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t to, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *)
{
  if (told_to_fail("update") || to->nodes.size() != graph->nodes.size()) {
    emulated_graphs.refused++;
    return cudaErrorGraphExecUpdateFailure;
  }
  *to = *graph;
  emulated_graphs.updated++;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t)
{
  if (capture.graph) /* a graph within a graph is not emulated */
    return cudaErrorStreamCaptureUnsupported;
  opened open;
  for (const emulated_node &node : graph->nodes)
    node.run();
  emulated_graphs.replayed++;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
  delete graph;
  return cudaSuccess;
}

/* ---- cuBLAS ---- */

const char *cublasGetStatusString(cublasStatus_t) { return "invalid value"; }
cublasStatus_t cublasCreate(cublasHandle_t *) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *workspace, size_t bytes)
{
  return on_device(workspace, bytes) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb,
                               int64_t m, int64_t n, int64_t k, const void *alpha, const void *A,
                               cudaDataType At, int64_t lda, const void *B, cudaDataType Bt,
                               int64_t ldb, const void *beta, void *C, cudaDataType Ct, int64_t ldc,
                               cublasComputeType_t compute, cublasGemmAlgo_t)
{
  bool narrow = compute != CUBLAS_COMPUTE_64F;
  cudaDataType want = narrow ? CUDA_R_32F : CUDA_R_64F;
  if (At != want || Bt != want || Ct != want || m < 0 || n < 0 || k < 1 ||
      lda < (ta == CUBLAS_OP_N ? m : k) || ldb < (tb == CUBLAS_OP_N ? k : n) || ldc < m)
    return CUBLAS_STATUS_INVALID_VALUE;
  CBLAS_TRANSPOSE a = ta == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
  CBLAS_TRANSPOSE b = tb == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
  double by = narrow ? *(const float *)alpha : *(const double *)alpha;
  double keep = narrow ? *(const float *)beta : *(const double *)beta;
  enqueue([=] {
    opened open;
    if (narrow)
      cblas_sgemm(CblasColMajor, a, b, (int)m, (int)n, (int)k, (float)by, (const float *)A,
                  (int)lda, (const float *)B, (int)ldb, (float)keep, (float *)C, (int)ldc);
    else
      cblas_dgemm(CblasColMajor, a, b, (int)m, (int)n, (int)k, by, (const double *)A, (int)lda,
                  (const double *)B, (int)ldb, keep, (double *)C, (int)ldc);
  });
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t h, cublasOperation_t ta,
                                             cublasOperation_t tb, int64_t m, int64_t n, int64_t k,
                                             const void *alpha, const void *A, cudaDataType At,
                                             int64_t lda, long long strideA, const void *B,
                                             cudaDataType Bt, int64_t ldb, long long strideB,
                                             const void *beta, void *C, cudaDataType Ct,
                                             int64_t ldc, long long strideC, int64_t count,
                                             cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
  int64_t size = At == CUDA_R_32F ? 4 : 8;
  cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
  for (int64_t i = 0; i < count && s == CUBLAS_STATUS_SUCCESS; i++)
    s = cublasGemmEx_64(h, ta, tb, m, n, k, alpha, (const char *)A + i * strideA * size, At, lda,
                        (const char *)B + i * strideB * size, Bt, ldb, beta,
                        (char *)C + i * strideC * size, Ct, ldc, compute, algo);
  return s;
}

/* ---- cuBLASLt: it refuses float64 with a bias, and odd rows, so that callers have to do without */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t d, cublasComputeType_t compute,
                                      cudaDataType scale)
{
  *d = {compute, scale, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL};
  return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *to, size_t room, const void *value, size_t size)
{
  if (size != room)
    return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(to, value, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size)
{
  return what == CUBLASLT_MATMUL_DESC_TRANSA     ? set(&d->ta, sizeof d->ta, value, size)
         : what == CUBLASLT_MATMUL_DESC_EPILOGUE ? set(&d->epilogue, sizeof d->epilogue, value, size)
                                                 : set(&d->bias, sizeof d->bias, value, size);
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t l, cudaDataType type, uint64_t rows,
                                        uint64_t cols, int64_t ld)
{
  *l = {type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t p)
{
  *p = {0};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t size)
{
  uint32_t bytes;
  if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    return set(&p->workspace, sizeof p->workspace, value, size);
  if (set(&bytes, sizeof bytes, value, size) != CUBLAS_STATUS_SUCCESS)
    return CUBLAS_STATUS_INVALID_VALUE;
  return bytes && !(bytes & (bytes - 1)) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t A, cublasLtMatrixLayout_t B,
                                              cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t found[], int *count)
{
  cudaDataType type = d->compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
  const cublasLtMatrixLayoutOpaque_t *all[] = {A, B, C, D};
  *count = 0;
  for (int i = 0; i < 4; i++)
    if (all[i]->type != type || all[i]->ld < (int64_t)all[i]->rows || d->scale != type)
      return CUBLAS_STATUS_INVALID_VALUE;
  if ((type == CUDA_R_64F && d->epilogue == CUBLASLT_EPILOGUE_BIAS) || D->rows % 2)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  found[0] = {{1}, CUBLAS_STATUS_SUCCESS};
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

/* D = C, that is multiplied and added to as cuBLAS does; then the bias runs along the rows. */
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t Al, const void *B,
                              cublasLtMatrixLayout_t Bl, const void *beta, const void *C,
                              cublasLtMatrixLayout_t Cl, void *D, cublasLtMatrixLayout_t Dl,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
                              cudaStream_t)
{
  bool narrow = Dl->type == CUDA_R_32F, biased = d->epilogue == CUBLASLT_EPILOGUE_BIAS;
  size_t size = narrow ? 4 : 8, all = (size_t)Dl->ld * Dl->cols * size;
  uint64_t k = d->ta == CUBLAS_OP_T ? Al->rows : Al->cols;
  uint64_t m = d->ta == CUBLAS_OP_T ? Al->cols : Al->rows;
  bool reads = narrow ? *(const float *)beta != 0 : *(const double *)beta != 0;
  if (algo->chosen != 1 || k != Bl->rows || m != Dl->rows || Bl->cols != Dl->cols ||
      Cl->rows != Dl->rows || Cl->cols != Dl->cols || Cl->ld != Dl->ld ||
      !on_device(workspace, bytes) || !on_device(A, size) || !on_device(D, all) ||
      (reads && !on_device(C, all)) || (biased && !on_device(d->bias, m * size)))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (reads && C != D)
    enqueue([=] {
      opened open;
      memcpy(D, C, all);
    });
  cublasStatus_t s =
      cublasGemmEx_64(NULL, d->ta, CUBLAS_OP_N, (int64_t)m, (int64_t)Dl->cols, (int64_t)k, alpha, A,
                      Al->type, Al->ld, B, Bl->type, Bl->ld, beta, D, Dl->type, Dl->ld, d->compute,
                      CUBLAS_GEMM_DEFAULT);
  const void *bias = d->bias;
  uint64_t columns = Dl->cols, ld = (uint64_t)Dl->ld;
  if (s == CUBLAS_STATUS_SUCCESS && biased)
    enqueue([=] {
      opened open;
      for (uint64_t j = 0; j < columns; j++)
        for (uint64_t i = 0; i < m; i++)
          ((float *)D)[j * ld + i] += ((const float *)bias)[i];
    });
  return s;
}

/* ---- cuSOLVER ---- */

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *h)
{
  static char any;
  *h = (cusolverDnHandle_t)&any;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t, cudaStream_t)
{
  return CUSOLVER_STATUS_SUCCESS;
}

static cusolverStatus_t some(int *lwork)
{
  *lwork = 64;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDgetrf_bufferSize(cusolverDnHandle_t, int, int, double *, int, int *l)
{
  return some(l);
}

cusolverStatus_t cusolverDnDgesvd_bufferSize(cusolverDnHandle_t, int, int, int *l)
{
  return some(l);
}

cusolverStatus_t cusolverDnDgeqrf_bufferSize(cusolverDnHandle_t, int, int, double *, int, int *l)
{
  return some(l);
}

cusolverStatus_t cusolverDnDorgqr_bufferSize(cusolverDnHandle_t, int, int, int, const double *, int,
                                             const double *, int *l)
{
  return some(l);
}

cusolverStatus_t cusolverDnDgetrf(cusolverDnHandle_t, int m, int n, double *A, int lda, double *,
                                  int *ipiv, int *info)
{
  opened open;
  *info = LAPACKE_dgetrf_work(LAPACK_COL_MAJOR, m, n, A, lda, ipiv);
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDgetrs(cusolverDnHandle_t, cublasOperation_t trans, int n, int nrhs,
                                  const double *A, int lda, const int *ipiv, double *B, int ldb,
                                  int *info)
{
  opened open;
  *info = LAPACKE_dgetrs_work(LAPACK_COL_MAJOR, trans == CUBLAS_OP_N ? 'N' : 'T', n, nrhs, A, lda,
                              ipiv, B, ldb);
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDgesvd(cusolverDnHandle_t, signed char jobu, signed char jobvt, int m,
                                  int n, double *A, int lda, double *S, double *U, int ldu,
                                  double *VT, int ldvt, double *, int, double *superb, int *info)
{
  opened open;
  *info = LAPACKE_dgesvd(LAPACK_COL_MAJOR, jobu, jobvt, m, n, A, lda, S, U, ldu, VT, ldvt, superb);
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDgeqrf(cusolverDnHandle_t, int m, int n, double *A, int lda, double *tau,
                                  double *, int, int *info)
{
  opened open;
  *info = LAPACKE_dgeqrf(LAPACK_COL_MAJOR, m, n, A, lda, tau);
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDorgqr(cusolverDnHandle_t, int m, int n, int k, double *A, int lda,
                                  const double *tau, double *, int, int *info)
{
  opened open;
  *info = LAPACKE_dorgqr(LAPACK_COL_MAJOR, m, n, k, A, lda, tau);
  return CUSOLVER_STATUS_SUCCESS;
}
