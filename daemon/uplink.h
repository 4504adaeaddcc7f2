/* uplink.h: the connection to the hub as the rest of the daemon sees it. What to do is decided free of
 * I/O (uplink-logic.h), uplink.c does it, uplink-mosquitto.c runs libmosquitto on threads of its own.
 * Event loop only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "daemon/credentials.h"
#include "daemon/outbox.h"
#include "daemon/uplink-state.h"

typedef struct Uplink Uplink;

typedef struct UplinkOptions {
        const char *ca_file; /* copied; NULL: the system's roots */
        unsigned mqtt_port;
        unsigned window; /* messages in flight, 1..1000 */
        uint64_t window_bytes;
        usec_t keep_alive_usec, connect_timeout_usec, ack_timeout_usec;
        usec_t retry_min_usec, retry_max_usec, retry_cut_max_usec, retry_refused_max_usec;
        usec_t clock_wait_usec; /* at start, for a plausible clock; 0: not at all */
        bool adopt; /* outbox.adopt */
        const char *memory_file; /* copied: where the waits outlive a crash; NULL: they don't */
} UplinkOptions;

typedef struct UplinkStatus {
        UplinkState state;
        usec_t state_since_realtime_usec;
        bool connected;
        const char *hub, *device, *module; /* borrowed; NULL while unknown */
        const char *hold;                  /* why it holds, with the remedy; NULL otherwise */
        unsigned attempt;
        usec_t next_try_in_usec;      /* USEC_INFINITY: none planned */
        const char *key; /* "primary" or "secondary": in use or to be tried next; NULL: there is one
                            only */
        bool other_key_refused;       /* the hub refused the other one since they were read */
        usec_t certificate_ends_realtime_usec; /* the device's own; 0: it has none */
        char certificate_problem[384]; /* that it ends soon, has ended or is not valid yet; or "" */
        unsigned window;              /* messages that may be in flight now */
        UplinkErrorClass trouble;     /* NONE: there is none now */
        usec_t trouble_usec;          /* how long it has lasted */
        unsigned trouble_tries;       /* failed tries and lost connections in that time */
        const char *last_error_class; /* dns, network, tls, refused, cut, timeout, ...; NULL: none
                                         yet */
        const char *last_error;       /* borrowed sentence */
        usec_t last_error_realtime_usec;
        uint64_t busy_since_boottime_usec; /* the network thread has had work this long without
                                            * taking any; 0: fine. A thread inside DNS or connect
                                            * does not count. For the watchdog */
} UplinkStatus;

typedef struct UplinkEvents {
        void (*on_state_changed)(void *userdata);
        void (*on_stopped)(void *userdata); /* after uplink_stop() */
        void *userdata;
} UplinkEvents;

/* outbox and credentials: borrowed, must outlive the uplink. 0 or -errno. */
int uplink_new(sd_event *event, Outbox *outbox, Credentials *credentials,
               const UplinkOptions *options, const UplinkEvents *events, Uplink **ret);
Uplink *uplink_free(Uplink *u);
DEFINE_CLEANUP(Uplink *, uplink_free);

int uplink_start(Uplink *u);

/* Tells that outbox_next() may have something (from on_deliverable). */
void uplink_outbox_deliverable(Uplink *u);

/* Credentials were reloaded: tries at once. */
void uplink_credentials_changed(Uplink *u);

/* A message ended without the uplink: it expired or was dropped. */
void uplink_message_ended(Uplink *u, uint64_t seq);

/* Sends what is queued until timeout_usec is over, waits for its PUBACKs, disconnects, then
 * on_stopped. */
void uplink_stop(Uplink *u, usec_t timeout_usec);

void uplink_get_status(Uplink *u, UplinkStatus *ret);
