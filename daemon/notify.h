/* notify.h: tells the service manager how we are, like sd_notify(3), but never waits for it: that
 * one blocks when nobody takes the datagrams, and with it the event loop would. */
#pragma once

#include "lib/macro.h"

/* state: assignments as sd_notify(3) describes them, such as "READY=1\nSTATUS=...". Without
 * $NOTIFY_SOCKET, or when the manager's queue is full, nothing happens. */
void notify_manager(const char *state);
void notify_managerf(const char *format, ...) _printf_(1, 2);
