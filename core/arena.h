/* arena.h: planned memory.  One block, bump allocation; nothing else allocates inside a step.
 *
 * Two kinds by use: one that outlives the call (`struct arena *hold`) and one that does not
 * (`struct arena scratch`, by value: every return path releases what the call took).
 * Sizes are computed by the code that carves: run it on a measuring arena first.
 *
 *   size_t peak = 0;
 *   struct arena a = arena_measure(&peak);
 *   TRY(carve(&a, shape, &work));                    pointers are not to be used
 *   TRY(backend->memory_alloc(peak, &block));
 *   a = arena_over(block, peak);
 *   TRY(carve(&a, shape, &work));
 */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H
#include "core/status.h"
#include <stddef.h>

struct arena {
  char *base; /* NULL while measuring; may be device memory, never dereferenced here */
  size_t used, size;
  size_t *peak; /* highest `used` of this arena and of all its copies; NULL: not wanted */
  void (*poison)(void *at, size_t bytes); /* debug builds: fills what is handed out with NaN */
};

/* Memory for the time of a call: on the backend's device, and on the host. */
struct scratch {
  struct arena device, host;
};

#ifdef __cplusplus
extern "C" {
#endif
/* Host memory for an arena, to be freed with free(); of a cache line's alignment at least; NULL:
 * there is none left. */
void *arena_block(size_t size);
struct arena arena_measure(size_t *peak);
struct arena arena_over(void *base, size_t size);

/* One host allocation of `bytes`, in debug builds filled with NaN where carved.  ERR_MEMORY. */
MUST_USE enum status arena_init(struct arena *a, size_t bytes);
void arena_free(struct arena *a); /* frees what arena_init allocated */

/* Carves count*size bytes, 64-byte aligned, into *(T **)out.  ERR_MEMORY when it does not fit. */
MUST_USE enum status arena_alloc(struct arena *a, size_t count, size_t size, void *out);

/* TRY(CARVE(&arena, n, &pointer)): n items of *pointer's type. */
#define CARVE(arena, count, out) arena_alloc(arena, (size_t)(count), sizeof **(out), out)
#ifdef __cplusplus
}
#endif
#endif
