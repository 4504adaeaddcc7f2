/* notices.h: what the outbox tells goes into the log, but of each kind only so much: a queue that expires, or is full and
 * has room again, many times a second must not fill the journal. What is left out is told as a sum within a minute. */
#pragma once

#include <systemd/sd-event.h>

#include "lib/macro.h"

#define NOTICES_BURST 5U        /* lines of one kind ... */
#define NOTICES_INTERVAL_SEC 60U /* ... in this time */

typedef struct Notices Notices;

/* 0 or -errno. */
int notices_new(sd_event *event, Notices **ret);

/* Tells what is still left out. Accepts NULL, returns NULL. */
Notices *notices_free(Notices *n);
DEFINE_CLEANUP(Notices *, notices_free);

/* The kind is the message id, one of daemon/log.h or NULL; priority: LOG_*. */
void notices_pass(Notices *n, int priority, const char *message_id, const char *text);
