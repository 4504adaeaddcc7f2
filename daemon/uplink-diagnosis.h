/* uplink-diagnosis.h: what is behind a failure. The hub gives no reason when it cuts, and the same
 * one for nearly every refusal, so the cause is read from what came before
 * (docs/hub-limits.md, "Coming back"). Pure. */
#pragma once

#include <stdbool.h>

#include "lib/time-util.h"
#include "daemon/uplink-reason.h"

/* A wall clock that is this much behind what we know to have been is wrong. The hub forgives up to 5
 * minutes (docs/hub-limits.md, "SAS tokens"). */
#define UPLINK_CLOCK_SLACK_USEC (5 * USEC_PER_MINUTE)

typedef struct UplinkSymptoms {
        UplinkErrorClass class; /* what the connection saw */
        bool was_connected;
        bool clock_wrong;
        bool quota;            /* no single message explains the cuts (uplink-suspect.h) */
        bool one_message;      /* the same message is first in flight each time */
        bool late;             /* PUBACKs came late before (uplink-pace.h) */
        unsigned n_short;      /* with this one (uplink-state.h) */
        unsigned n_cuts_early; /* likewise */
} UplinkSymptoms;

UplinkErrorClass uplink_diagnose(const UplinkSymptoms *s);

/* The same where the server's certificate was accepted under it: no such certificate is valid for longer
 * than 398 days (CA/Browser Forum, Baseline Requirements 6.3.2), so if the newest message is later than
 * that it was stored under a clock that was ahead. */
bool uplink_clock_wrong_after_tls(usec_t realtime_usec, usec_t newest_usec);

/* Whether the wall clock cannot be right: it lies before the release of this program, or before the
 * newest message that was stored under a plausible clock. newest_usec: 0: unknown. */
bool uplink_clock_wrong(usec_t realtime_usec, usec_t newest_usec);
