/* graphs_cuda.c: work that is enqueued again and again, as CUDA graphs: one launch for dozens;
 * DEQMAMBA_CUDA_GRAPHS=0 does without.
 *
 * To make a graph executable costs as much as many launches, so executables are kept from solve to
 * solve: a graph that was captured becomes an update of one of them, the same nodes with other
 * arguments, where CUDA allows that.  Several are kept, as a step of training has several kinds of
 * solves.  Only products of the same shapes are updated: cuBLAS takes other kernels for others, and
 * an update to those, which CUDA 13.0 does not refuse, ended in an illegal instruction (H200).
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
  d->products = 0;
  d->spoiled = NULL;
  return d->capturing;
}

/* The place of a kept executable that has become this graph; GRAPHS_KEPT: there is none. */
static int update(struct device *d, cudaGraph_t graph, const struct captured *like)
{
  cudaGraphExecUpdateResultInfo unused;
  for (int i = 0; i < GRAPHS_KEPT && d->captured[i].graph; i++) {
    if (d->captured[i].nodes != like->nodes || d->captured[i].products != like->products)
      continue;
    if (cudaGraphExecUpdate(d->captured[i].graph, graph, &unused) == cudaSuccess)
      return i;
    (void)cudaGetLastError();
  }
  return GRAPHS_KEPT;
}

/* Makes room in the last place; what was enqueued of the graph there has then run. */
static cudaError_t drop_last(struct device *d)
{
  struct captured *last = &d->captured[GRAPHS_KEPT - 1];
  if (!last->graph)
    return cudaSuccess;
  cudaError_t e = cudaStreamSynchronize(d->queue);
  if (e == cudaSuccess)
    e = cudaGraphExecDestroy(last->graph);
  last->graph = NULL;
  return e;
}

/* The graph becomes the executable in the first place. */
static cudaError_t make_executable(struct device *d, cudaGraph_t graph)
{
  struct captured c = {NULL, 0, d->products};
  cudaError_t e = cudaGraphGetNodes(graph, NULL, &c.nodes);
  if (e != cudaSuccess)
    return e;
  int at = update(d, graph, &c);
  if (at < GRAPHS_KEPT) {
    c = d->captured[at];
  } else {
    e = drop_last(d);
    if (e == cudaSuccess)
      e = cudaGraphInstantiate(&c.graph, graph, 0);
    if (e != cudaSuccess)
      return e;
    at = GRAPHS_KEPT - 1;
  }
  memmove(d->captured + 1, d->captured, (size_t)at * sizeof c);
  d->captured[0] = c;
  return cudaSuccess;
}

extern "C" const struct captured *device_capture_end(stream st)
{
  struct device *d = device_of(st);
  cudaGraph_t graph = NULL;
  const char *doing = "capture";
  cudaError_t e = cudaStreamEndCapture(d->queue, &graph);
  d->capturing = false;
  if (e == cudaSuccess && !d->spoiled) {
    doing = "instantiation";
    e = make_executable(d, graph);
  }
  if (graph)
    (void)cudaGraphDestroy(graph);
  if (e == cudaSuccess && !d->spoiled)
    return &d->captured[0];
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
#endif
