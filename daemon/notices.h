/* notices.h: what the outbox tells goes into the log, but only so much: a queue that expires many times a second must
 * not fill the journal. Of each kind a burst passes, and what is left out is told as a sum within a minute.
 *
 * A state that lasts, such as a full outbox, is told when it begins, and when it has been over for a while: one that
 * drains is full again after each segment that it frees, which is no news. The line of its end says how long it was,
 * and how often it came back. */
#pragma once

#include <systemd/sd-event.h>

#include "lib/macro.h"
#include "lib/time-util.h"

#define NOTICES_BURST 5U         /* lines of one kind ... */
#define NOTICES_INTERVAL_SEC 60U /* ... in this time */
#define NOTICES_SETTLE_USEC (30 * USEC_PER_SEC) /* a state that came back within is the same one */

typedef struct Notices Notices;

/* Takes a line that passed. text: borrowed. */
typedef void (*NoticesLine)(int priority, const char *message_id, const char *text, void *userdata);

/* settle_usec: NOTICES_SETTLE_USEC, or what a test wants. 0 or -errno. */
int notices_new(sd_event *event, usec_t settle_usec, NoticesLine on_line, void *userdata, Notices **ret);

/* Tells what is still left out, also the end of a state. Accepts NULL, returns NULL. */
Notices *notices_free(Notices *n);
DEFINE_CLEANUP(Notices *, notices_free);

/* The kind is the message id, one of daemon/log.h or NULL; priority: LOG_*. */
void notices_pass(Notices *n, int priority, const char *message_id, const char *text);
