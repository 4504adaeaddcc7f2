/* manager.h: creates the parts of the daemon in order, hands each what it needs, carries news
 * between them, frees them in reverse. */
#pragma once

#include "lib/macro.h"
#include "daemon/config.h"

typedef struct Manager Manager;

/* Opens the outbox, reads the credentials, listens and starts to connect. config: borrowed, must
 * outlive the manager. SIGTERM, SIGINT and SIGHUP must be blocked (threads are started here). What
 * fails was logged. 0 or -errno: -EBUSY (another daemon uses the state directory), -EADDRINUSE (or
 * the socket), ... */
int manager_new(const Config *config, Manager **ret);
Manager *manager_free(Manager *m);
DEFINE_CLEANUP(Manager *, manager_free);

/* Runs until SIGTERM or SIGINT: then it takes nothing new, sends what it can within stop_timeout
 * and records positions; a second signal ends it at once. 0 or -errno, logged. */
int manager_run(Manager *m);
