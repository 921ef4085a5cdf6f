/* group_name.c: see group_name.h. */
#include "core/group_name.h"
#include <stdlib.h>

enum { MAX_ORDER = 4096 };

int64_t group_factor(const char *text, long *n, char **end)
{
  char kind = text[0];
  *n = kind && text[1] >= '1' && text[1] <= '9' ? strtol(text + 1, end, 10) : 0;
  if (*n < 1 || (**end && **end != '*'))
    return 0;
  if (kind == 'Z')
    return *n;
  if ((kind != 'S' && kind != 'A') || *n > GROUP_DEGREE)
    return 0;
  int64_t order = 1;
  for (long i = kind == 'A' ? 3 : 2; i <= *n; i++)
    order *= i;
  return order;
}

enum status group_name_order(const char *name, int64_t *order)
{
  static const char allowed[] =
      "allowed: Zn, Sn and An (n <= 6), and products as in A5*Z2, of order at most 4096";
  *order = 1;
  for (const char *at = name;; at++) {
    char *end;
    long n;
    int64_t factor = group_factor(at, &n, &end);
    if (!factor)
      FAIL(ERR_USAGE, "data.group: \"%s\" cannot be read at \"%s\"; %s", name, at, allowed);
    if (factor > MAX_ORDER / *order)
      FAIL(ERR_USAGE, "data.group: \"%s\" is too large; %s", name, allowed);
    *order *= factor;
    at = end;
    if (!*at)
      return OK;
  }
}
