/* uplink-reason.h: the classes of what keeps the uplink from delivering. For each: its name, what
 * it means, what the operator can do, how long to wait, and what shows that it is over. A table,
 * nothing else; uplink-diagnosis.h decides which class it is. */
#pragma once

#include "lib/macro.h"
#include "lib/backoff.h"

typedef enum UplinkErrorClass {
        UPLINK_ERROR_NONE,
        UPLINK_ERROR_DNS,
        UPLINK_ERROR_NETWORK,     /* port closed, no route, reset while TLS was set up */
        UPLINK_ERROR_TIMEOUT,     /* silence */
        UPLINK_ERROR_UNCONFIRMED, /* connected, and no PUBACK comes */
        UPLINK_ERROR_TLS,         /* the handshake */
        UPLINK_ERROR_TLS_ISSUER,  /* nobody we trust signed the server's certificate */
        UPLINK_ERROR_TLS_EXPIRED, /* it has ended by our clock */
        UPLINK_ERROR_TLS_NAME,    /* it is for another name */
        UPLINK_ERROR_CLOCK,       /* our clock is wrong: the certificate is not valid yet, or the hub
                                     refused while the clock was before what we know to have been */
        UPLINK_ERROR_CREDENTIALS, /* our key or connection string cannot be used */
        UPLINK_ERROR_CERTIFICATE, /* our client certificate or its key cannot be used */
        UPLINK_ERROR_REFUSED,     /* CONNACK 1, 2, 4, 5: a person has to find the cause */
        UPLINK_ERROR_UNAVAILABLE, /* CONNACK 3 */
        UPLINK_ERROR_CUT,         /* the hub closed the connection, once or twice */
        UPLINK_ERROR_TAKEN_OVER,  /* it does so soon after each connect: another holder of the identity */
        UPLINK_ERROR_THROTTLED,   /* it confirms late and then cuts, or cuts before it answers */
        UPLINK_ERROR_QUOTA,       /* it cuts at the first publish, whatever the message */
        UPLINK_ERROR_LOCAL,       /* this machine: no memory, no thread, unreadable CA file */
        _UPLINK_ERROR_MAX,
        _UPLINK_ERROR_INVALID = -EINVAL,
} UplinkErrorClass;

/* What shows that the cause is gone. */
typedef enum UplinkCure {
        UPLINK_CURE_CONNECTED, /* CONNACK 0 */
        UPLINK_CURE_CONFIRMED, /* a PUBACK, or a quiet minute: over quota the hub still answers
                                  CONNACK 0 */
        UPLINK_CURE_LIVED,     /* a minute without a cut: what is taken over has PUBACKs, too */
} UplinkCure;

typedef struct UplinkReason {
        const char *name;   /* "dns", "tls-issuer", ...: for programs, never changes */
        const char *what;   /* one sentence without a period */
        const char *remedy; /* what the operator can do, without a period */
        BackoffKind law;    /* of the waits between tries */
        UplinkCure cure;
} UplinkReason;

/* NULL for none. */
const UplinkReason *uplink_reason(UplinkErrorClass c);

/* "dns", "network", ...; NULL for none. */
const char *uplink_error_class_to_string(UplinkErrorClass c);
