/* transfer-signal.h: a long transfer ends in order at SIGINT, SIGTERM and SIGHUP; a second signal ends it
 * at once. */
#pragma once

void transfer_signal_watch(void);

/* The signal that came, or 0. */
int transfer_signal(void);

/* When all is told: a signal that came ends the process, as it would have. */
void transfer_signal_end(void);
