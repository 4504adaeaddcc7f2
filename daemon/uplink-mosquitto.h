/* uplink-mosquitto.h: one connection to the hub, from the name look-up to the last byte, on a
 * thread and a libmosquitto instance of its own. It is used once: a new try is a new one. This is
 * the only place that knows libmosquitto and its result codes.
 *
 * All functions belong to the event loop's thread and none of them waits. The thread is never
 * joined: a look-up that hangs is left behind by uplink_mosquitto_free() and ends alone, also after
 * the caller has gone. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "daemon/credentials-certificate.h"
#include "daemon/outbox.h"
#include "daemon/uplink-reason.h"

typedef struct UplinkMosquitto UplinkMosquitto;

#define UPLINK_MOSQUITTO_ABANDONED_MAX 4U /* threads left behind that still hang in a look-up */

typedef struct UplinkMosquittoOptions {
        const char *host; /* all strings are copied; TLS verifies this name */
        const char *client_id;
        const char *user_name;
        const char *password; /* the token; NULL: none is sent */
        const char *topic_prefix;
        ClientCertificate *certificate; /* a reference is taken; NULL: none, the token is enough */
        const char *ca_file; /* NULL: the system's roots */
        unsigned port;
        unsigned window; /* messages in flight at most */
        usec_t keep_alive_usec;
        usec_t connect_timeout_usec; /* shared out over the addresses of the name */
        usec_t ack_timeout_usec;     /* bytes that TCP gets no acknowledgement for this long end the
                                        connection */
} UplinkMosquittoOptions;

typedef struct UplinkMosquittoEnd {
        UplinkErrorClass class; /* UPLINK_ERROR_NONE after uplink_mosquitto_disconnect() */
        int connack;            /* return code of a CONNACK that refused, else 0 */
        const char *text;       /* a sentence; borrowed */
} UplinkMosquittoEnd;

/* Called from inside uplink_mosquitto_process(). on_ended is the last call of all and may free the
 * connection. */
typedef struct UplinkMosquittoEvents {
        void (*on_resolved)(void *userdata);
        void (*on_connected)(void *userdata);
        void (*on_confirmed)(const uint64_t *seqs, size_t n_seqs, void *userdata);
        /* A message that MQTT cannot carry; the connection goes on without it. */
        void (*on_unsendable)(uint64_t seq, const char *reason, void *userdata);
        void (*on_ended)(const UplinkMosquittoEnd *end, void *userdata);
        void *userdata;
} UplinkMosquittoEvents;

/* Initialises OpenSSL and libmosquitto for the process. Call it before other threads and other uses
 * of OpenSSL. */
void uplink_mosquitto_init(void);

/* Starts the thread. 0, -EBUSY (too many abandoned threads still hang), -ENOMEM, or -errno. */
int uplink_mosquitto_new(const UplinkMosquittoOptions *options, const UplinkMosquittoEvents *events,
                         UplinkMosquitto **ret);

/* Drops the connection without a goodbye, wherever it is. Accepts NULL, returns NULL. */
UplinkMosquitto *uplink_mosquitto_free(UplinkMosquitto *m);
DEFINE_CLEANUP(UplinkMosquitto *, uplink_mosquitto_free);

/* Threads that were left behind and have not ended yet. */
unsigned uplink_mosquitto_n_abandoned(void);

/* Readable when uplink_mosquitto_process() has something to tell. */
int uplink_mosquitto_fd(UplinkMosquitto *m);
void uplink_mosquitto_process(UplinkMosquitto *m);

/* Publishes in this order. The deliveries are consumed, also on failure. Only between on_connected
 * and on_ended; never more in flight than the window. 0 or -ENOMEM (the connection must be given
 * up: a gap would break the order). */
int uplink_mosquitto_send(UplinkMosquitto *m, OutboxDelivery **deliveries, size_t n_deliveries);

/* Sends what was handed over, says DISCONNECT, closes, then on_ended with UPLINK_ERROR_NONE. */
void uplink_mosquitto_disconnect(UplinkMosquitto *m);

/* Since when (CLOCK_BOOTTIME) messages or a disconnect wait to be taken by the thread; 0: none. */
usec_t uplink_mosquitto_busy_since(UplinkMosquitto *m);

/* What the thread does now, for a timeout's text: "looking up the name", "connecting to 10.0.0.1
 * port 8883". */
void uplink_mosquitto_phase(UplinkMosquitto *m, char *buf, size_t size,
                            UplinkErrorClass *ret_class);
