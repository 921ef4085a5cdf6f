/* profile.c: see profile.h.  The wrapper of each operation is made from its line of
 * operations.def:
 *
 *   void timed_fill(stream st, int64_t n, real a, DEVICE real *y)
 *   { struct profile *p = st; be->fill(be->st, n, a, &*y); record the time in p; }
 *
 * The stream of the measuring backend is the profile itself, so nothing is global.  Names are cut
 * out of the argument list by pasting a prefix to the first word of a type: SKIP_int64_t n is n;
 * the word behind const, DEVICE and struct is cut in further rounds. */
#include "core/backend.h"
#include "core/parallel.h"
#include "core/profile.h"
#include "core/profile_work.h"
#include "core/progress.h"

#if REAL_BITS == 32
#define PORT f32
const char *profile_name(int operation)
{
  static const char *const names[] = {
#define OPERATION(name, ...) #name,
#include "core/operations.def"
#undef OPERATION
  };
  return names[operation];
}

void profile_clear(struct profile *p)
{
  for (int i = 0; i < PROFILE_OPERATIONS; i++)
    p->row[i] = (struct profile_row){0};
}
#else
#define PORT f64
#endif

/* noderef's attribute in the place of DEVICE cannot be cut out; nothing here reads device memory */
#if REAL_BITS != 128 && !defined(CHECK_DEVICE)

/* clang-format off */
#define SKIP_int64_t WORD,
#define SKIP_uint32_t WORD,
#define SKIP_real WORD,
#define SKIP_bool WORD,
#define SKIP__Bool WORD, /* where bool is a macro */
#define SKIP_double WORD,
#define SKIP_struct STRUCT,
#define SKIP_const CONST,
#define SKIP_register POINTER,
#define STRUCT_dropout_draw
#define STRUCT_conv1d_shape
#define STRUCT_ssd_shape
#define STRUCT_gated_rmsnorm_shape
#define STRUCT_branch_norm_f32
#define STRUCT_branch_norm_f64
#define POINTER_real &
#define POINTER_double &
#define POINTER_wide &
#define POINTER_int32_t &
#define CONST_register
#define CUT_WORD(x) x
#define CUT_CONST(x) CUT_POINTER_(CONST_##x)
#define CUT_POINTER_(x) CUT_POINTER(x)
#define CUT_STRUCT(x) STRUCT_##x
#define CUT_POINTER(x) POINTER_##x
#define CUT_(kind, x) CUT_##kind(x)
#define CUT(...) CUT_(__VA_ARGS__)
#define ARGUMENT(x) CUT(SKIP_##x)

#define NAMES1(a) ARGUMENT(a)
#define NAMES2(a, ...) ARGUMENT(a), NAMES1(__VA_ARGS__)
#define NAMES3(a, ...) ARGUMENT(a), NAMES2(__VA_ARGS__)
#define NAMES4(a, ...) ARGUMENT(a), NAMES3(__VA_ARGS__)
#define NAMES5(a, ...) ARGUMENT(a), NAMES4(__VA_ARGS__)
#define NAMES6(a, ...) ARGUMENT(a), NAMES5(__VA_ARGS__)
#define NAMES7(a, ...) ARGUMENT(a), NAMES6(__VA_ARGS__)
#define NAMES8(a, ...) ARGUMENT(a), NAMES7(__VA_ARGS__)
#define NAMES9(a, ...) ARGUMENT(a), NAMES8(__VA_ARGS__)
#define NAMES10(a, ...) ARGUMENT(a), NAMES9(__VA_ARGS__)
#define NAMES11(a, ...) ARGUMENT(a), NAMES10(__VA_ARGS__)
#define NAMES12(a, ...) ARGUMENT(a), NAMES11(__VA_ARGS__)
#define NAMES13(a, ...) ARGUMENT(a), NAMES12(__VA_ARGS__)
#define NAMES14(a, ...) ARGUMENT(a), NAMES13(__VA_ARGS__)
#define NAMES15(a, ...) ARGUMENT(a), NAMES14(__VA_ARGS__)
#define NAMES16(a, ...) ARGUMENT(a), NAMES15(__VA_ARGS__)
#define NAMES17(a, ...) ARGUMENT(a), NAMES16(__VA_ARGS__)
#define NAMES18(a, ...) ARGUMENT(a), NAMES17(__VA_ARGS__)
#define NAMES19(a, ...) ARGUMENT(a), NAMES18(__VA_ARGS__)
#define NAMES20(a, ...) ARGUMENT(a), NAMES19(__VA_ARGS__)
#define COUNTED(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, \
                a19, a20, n, ...) NAMES##n
#define NAMES(...) \
  COUNTED(__VA_ARGS__, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)\
  (__VA_ARGS__)
/* clang-format on */

static const struct backend *real_backend(stream st)
{
  const struct profile *p = st;
  return p->real->PORT;
}

struct work {
  double flops, reals;
};
#define WORK(flops, reals) \
  (struct work) { (double)(flops), (double)(reals) }

static void record(stream st, enum profile_operation operation, double began, struct work w)
{
  struct profile *p = st;
  struct profile_row *row = &p->row[operation];
  const struct backend *be = real_backend(st);
  if (be->st && p->failed == OK)
    p->failed = be->sync(be->st);
  double seconds = (monotonic_seconds() - began) / parallel_width();
#pragma omp critical(profile_record)
  {
    row->calls++;
    row->seconds += seconds;
    row->flops += w.flops;
    row->bytes += w.reals * sizeof(real);
  }
}

/* DEVICE, which is empty, must be a word to be cut out: one that says nothing of a parameter */
#pragma GCC diagnostic push
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wold-style-declaration"
#endif
#undef DEVICE
#define DEVICE register
#define OPERATION(name, ...)                        \
  static void timed_##name(stream st, __VA_ARGS__)  \
  {                                                 \
    const struct backend *be = real_backend(st);    \
    double began = monotonic_seconds();             \
    be->name(be->st, NAMES(__VA_ARGS__));           \
    record(st, PROFILE_##name, began, WORK_##name); \
  }
#include "core/operations.def"
#undef OPERATION
#undef DEVICE
#define DEVICE
#pragma GCC diagnostic pop

static enum status upload(stream st, size_t bytes, const void *host, DEVICE void *dev)
{
  const struct backend *be = real_backend(st);
  TRY(((struct profile *)st)->failed);
  return be->upload(be->st, bytes, host, dev);
}

static enum status download(stream st, size_t bytes, const DEVICE void *dev, void *host)
{
  const struct backend *be = real_backend(st);
  TRY(((struct profile *)st)->failed);
  return be->download(be->st, bytes, dev, host);
}

static enum status sync(stream st)
{
  const struct backend *be = real_backend(st);
  TRY(((struct profile *)st)->failed);
  return be->sync(be->st);
}

void NAME(profile_backend)(struct profile *p, struct backend *out)
{
  const struct backend *be = p->real->PORT;
  p->device = be->st;
  p->failed = OK;
  *out = (struct backend)
  {
    .name = be->name, .st = p, .concurrent = be->concurrent, .transposes = be->transposes,
    .ssd_by_blocks = be->ssd_by_blocks, .reads_out = be->reads_out, .joins_conv = be->joins_conv,
    .dense = be->dense, .memory_alloc = be->memory_alloc, .memory_free = be->memory_free,
    .upload = upload, .download = download, .sync = sync,
#define OPERATION(name, ...) .name = timed_##name,
#include "core/operations.def"
#undef OPERATION
  };
}
#endif
