/* group_name.h: what a group is called in data.group: Zn, Sn, An and products, as in A5*Z2. */
#ifndef CORE_GROUP_NAME_H
#define CORE_GROUP_NAME_H
#include "core/status.h"
#include <stdint.h>

enum { GROUP_DEGREE = 6 }; /* n of Sn and An, at most */

/* The order of the factor that `text` begins with, 0 when there is none; *n: of Zn, Sn or An, *end:
 * what follows it. */
int64_t group_factor(const char *text, long *n, char **end);
/* The group's elements.  ERR_USAGE for what is no name of a group of at most 4096; the message says
 * where. */
MUST_USE enum status group_name_order(const char *name, int64_t *order);
#endif
