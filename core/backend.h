/* backend.h: a device as a table of functions.  core/ and solvers/ reach its memory only through
 * it.
 *
 * Operations are enqueued and return nothing; what went wrong since the last sync is reported by
 * sync with the operation's name.  A tuned operation takes the reference's place in the table. */
#ifndef CORE_BACKEND_H
#define CORE_BACKEND_H
#include "core/operations.h"
#include "core/status.h"

struct dense_library;
struct captured;

#define backend NAME(backend)
struct backend {
  const char *name; /* "cpu (AVX-512)", for the log */
  stream st;
  bool transposes;    /* a transpose of every weight is kept: its products are faster by it */
  bool ssd_by_blocks; /* struct ssd_shape's by_blocks */
  bool concurrent;    /* operations may be called by several threads at a time (core/shards.h) */
  bool reads_out;     /* gated_linear_vjp wants `out`, and makes yn itself */
  bool joins_conv;    /* linear_conv_fwd is asked for, not norm, product and convolution */
  const struct dense_library *dense; /* core/dense.h: for host matrices; NULL: LAPACKE */
  enum status (*memory_alloc)(size_t bytes, void *out); /* into *(DEVICE void **)out; ERR_MEMORY */
  void (*memory_free)(DEVICE void *p);
  enum status (*upload)(stream st, size_t bytes, const void *host, DEVICE void *dev);
  enum status (*download)(stream st, size_t bytes, const DEVICE void *dev, void *host); /* syncs */
  enum status (*sync)(stream st);
  /* Work that is enqueued again and again; NULL: the device gains nothing by it.  What is enqueued
   * between capture_begin and capture_end is not run, but kept as a graph that replay enqueues, a
   * few at a time, until release_captured.  Nothing in between may wait, allocate, or copy from or
   * to the host.  false, NULL: there is no graph, and the caller enqueues all of the work itself.
   */
  bool (*capture_begin)(stream st);
  const struct captured *(*capture_end)(stream st);
  void (*replay)(stream st, const struct captured *graph);
  void (*release_captured)(stream st);
#define OPERATION(name, ...) void (*name)(stream st, __VA_ARGS__);
#include "core/operations.def"
#undef OPERATION
};
#endif
