/* watchdog.h: feeds the service manager's watchdog (WatchdogSec=) while the event loop turns and
 * nothing is stuck. */
#pragma once

#include <systemd/sd-event.h>

#include "lib/macro.h"
#include "lib/time-util.h"

typedef struct Watchdog Watchdog;

/* is_alive is asked at half the watchdog's interval, more often after a no; while it says no,
 * nothing is fed, and the service manager restarts the daemon. Without a watchdog in the
 * environment nothing runs and *ret is NULL. 0 or -errno. */
int watchdog_new(sd_event *event, bool (*is_alive)(void *userdata), void *userdata, Watchdog **ret);
Watchdog *watchdog_free(Watchdog *w);
DEFINE_CLEANUP(Watchdog *, watchdog_free);

/* Whether a thread that has been at one thing since then (0: it waits for work) has been at it for
 * longer than anything may take. Both on CLOCK_BOOTTIME. */
bool watchdog_is_stuck(usec_t busy_since_usec, usec_t now_usec);
