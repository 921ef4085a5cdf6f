/* interrupt.h: stopping in good order.  The first SIGINT (Ctrl-C) or SIGTERM sets a flag that loops
 * ask for; a second one ends the program at once. */
#ifndef CORE_INTERRUPT_H
#define CORE_INTERRUPT_H
#include <stdbool.h>

/* Installs the handlers; once, at the start of a program.  Also ignores SIGXFSZ and SIGPIPE, so
 * that a file-size limit and a reader that went away fail the write (EFBIG, EPIPE), which is
 * reported, instead of ending the program without a word. Signals within a tenth of a second count
 * as one: `timeout` and launchers send each twice. */
void interrupt_install(void);
/* From now on the first signal ends the program, as one that was interrupted: where there is
 * nothing to save. */
void interrupt_at_once(void);
bool interrupted(void);
#endif
