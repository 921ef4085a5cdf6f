/* arena.c: bump allocation over one block. */
#include "core/arena.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, HUGE_PAGE = 2 << 20 };

#ifdef DEBUG
/* 0xff.. is NaN in every precision: a read before a write shows. */
static void poison_host(void *at, size_t bytes) { memset(at, 0xff, bytes); }
#define POISON_HOST poison_host
#else
#define POISON_HOST NULL
#endif

struct arena arena_measure(size_t *peak)
{
  *peak = 0;
  return (struct arena){.size = SIZE_MAX / 2, .peak = peak};
}

struct arena arena_over(void *base, size_t size)
{
  return (struct arena){.base = base, .size = size};
}

/* Large blocks ask for huge pages: Anderson's vectors, read in turn, come a tenth faster. */
void *arena_block(size_t size)
{
  bool large = size >= 2 * (size_t)HUGE_PAGE;
  void *base;
  if (posix_memalign(&base, large ? HUGE_PAGE : ALIGN, size ? size : ALIGN) != 0)
    return NULL;
#ifdef MADV_HUGEPAGE
  if (large)
    (void)madvise(base, size, MADV_HUGEPAGE); /* a hint; a kernel without them says no */
#endif
  return base;
}

enum status arena_init(struct arena *a, size_t bytes)
{
  *a = (struct arena){0};
  if (bytes > SIZE_MAX / 2)
    FAIL(ERR_MEMORY, "%zu bytes of memory cannot be had", bytes);
  size_t size = (bytes + ALIGN - 1) / ALIGN * ALIGN;
  size = size ? size : ALIGN;
  char *base = arena_block(size);
  if (!base)
    FAIL(ERR_MEMORY, "out of memory: %zu MiB asked", size >> 20);
  *a = (struct arena){.base = base, .size = size, .poison = POISON_HOST};
  return OK;
}

void arena_free(struct arena *a)
{
  free(a->base);
  *a = (struct arena){0};
}

enum status arena_alloc(struct arena *a, size_t count, size_t size, void *out)
{
  if (size && count > (SIZE_MAX / 4) / size)
    FAIL(ERR_MEMORY, "%zu items of %zu bytes overflow", count, size);
  size_t bytes = (count * size + ALIGN - 1) / ALIGN * ALIGN;
  if (bytes > a->size - a->used)
    FAIL(ERR_MEMORY, "arena: %zu bytes asked, %zu left", bytes, a->size - a->used);
  /* while measuring: a distinct address that nobody may use */
  void *p = a->base ? a->base + a->used : (void *)(uintptr_t)(a->used + ALIGN);
  a->used += bytes;
  if (a->peak && a->used > *a->peak)
    *a->peak = a->used;
  if (a->base && a->poison)
    a->poison(p, bytes);
  memcpy(out, &p, sizeof p);
  return OK;
}
