/* graphs_cuda.c: work that is enqueued again and again, as CUDA graphs: one launch for dozens;
 * DEQMAMBA_CUDA_GRAPHS=0 does without.
 *
 * To make a graph executable costs as much as many launches, so executables are kept from solve to
 * solve: a graph that was captured becomes an update of one of them, the same nodes with other
 * arguments, where CUDA allows that.  Several are kept, as a step of training has several kinds of
 * solves.  Only graphs of the same kernels and of products of the same shapes are updated: cuBLAS
 * takes other kernels for others, and an update to those, which CUDA 13.0 does not refuse, ended in
 * an illegal instruction (H200).
 * Without graphs all is as right, only slower: what fails here is no error, but is told once, and
 * no graph is captured in this process any more. */
#ifdef __CUDACC__
#include "kernels/device_cuda.h"
#include <stdio.h>
#include <string.h>

static void give_up(struct device *d, const char *doing, const char *why)
{
  (void)cudaGetLastError();
  d->graphs = false;
  (void)fprintf(stderr, "CUDA graphs are off: %s: %s\n", doing, why);
}

extern "C" bool device_capture_begin(stream st)
{
  struct device *d = device_of(st);
  if (!d->graphs)
    return false;
  /* other threads may go on calling what is not allowed while a graph is captured */
  cudaError_t e = cudaStreamBeginCapture(d->queue, cudaStreamCaptureModeThreadLocal);
  if (e != cudaSuccess)
    give_up(d, "capture", cudaGetErrorString(e));
  d->capturing = e == cudaSuccess;
  d->asked = 0;
  d->spoiled = NULL;
  return d->capturing;
}

/* A kept executable that has become this graph; NULL: there is none. */
static struct captured *update(struct device *d, cudaGraph_t graph, size_t nodes)
{
  cudaGraphExecUpdateResultInfo unused;
  for (int i = 0; i < GRAPHS_KEPT; i++) {
    struct captured *c = &d->captured[i];
    if (!c->graph || c->held || c->nodes != nodes || c->asked != d->asked)
      continue;
    if (cudaGraphExecUpdate(c->graph, graph, &unused) == cudaSuccess)
      return c;
    (void)cudaGetLastError();
  }
  return NULL;
}

/* The place for another executable: an empty one, or that of the one captured longest ago. */
static struct captured *oldest(struct device *d)
{
  struct captured *found = NULL;
  for (int i = 0; i < GRAPHS_KEPT; i++) {
    struct captured *c = &d->captured[i];
    if (!c->held && (!found || (c->graph ? c->captured : 0) < (found->graph ? found->captured : 0)))
      found = c;
  }
  return found;
}

/* What was enqueued of the graph has then run. */
static cudaError_t drop(struct device *d, struct captured *c)
{
  if (!c->graph)
    return cudaSuccess;
  cudaError_t e = cudaStreamSynchronize(d->queue);
  if (e == cudaSuccess)
    e = cudaGraphExecDestroy(c->graph);
  c->graph = NULL;
  return e;
}

/* *made: the graph's executable, held. */
static cudaError_t make_executable(struct device *d, cudaGraph_t graph, struct captured **made)
{
  size_t nodes;
  cudaError_t e = cudaGraphGetNodes(graph, NULL, &nodes);
  if (e != cudaSuccess)
    return e;
  struct captured *c = update(d, graph, nodes);
  if (!c) {
    c = oldest(d);
    if (!c)
      return cudaErrorInvalidValue;
    e = drop(d, c);
    if (e == cudaSuccess)
      e = cudaGraphInstantiate(&c->graph, graph, 0);
    if (e != cudaSuccess)
      return e;
  }
  c->nodes = nodes, c->asked = d->asked;
  c->held = true, c->captured = ++d->captures;
  *made = c;
  return cudaSuccess;
}

extern "C" const struct captured *device_capture_end(stream st)
{
  struct device *d = device_of(st);
  cudaGraph_t graph = NULL;
  struct captured *made = NULL;
  const char *doing = "capture";
  cudaError_t e = cudaStreamEndCapture(d->queue, &graph);
  d->capturing = false;
  if (e == cudaSuccess && !d->spoiled) {
    doing = "instantiation";
    e = make_executable(d, graph, &made);
  }
  if (graph)
    (void)cudaGraphDestroy(graph);
  if (e == cudaSuccess && !d->spoiled)
    return made;
  give_up(d, doing, d->spoiled ? d->spoiled : cudaGetErrorString(e));
  return NULL;
}

extern "C" void device_replay(stream st, const struct captured *graph)
{
  cudaError_t e = cudaGraphLaunch(graph->graph, device_of(st)->queue);
  if (e != cudaSuccess)
    (void)cudaGetLastError();
  device_note(st, "a graph's replay", e == cudaSuccess ? NULL : cudaGetErrorString(e));
}

extern "C" void device_release_captured(stream st)
{
  struct device *d = device_of(st);
  for (int i = 0; i < GRAPHS_KEPT; i++)
    d->captured[i].held = false;
}
#endif
