/* uplink-state.h: decides what the uplink does next. Pure: state, event, time and one random number
 * go in, the next state and what to do come out, nothing is touched; uplink.c does it. Times are
 * CLOCK_BOOTTIME, which counts suspend. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "lib/backoff.h"
#include "daemon/uplink-reason.h"

typedef enum UplinkState {
        UPLINK_STATE_STOPPED,
        UPLINK_STATE_HOLDING, /* no usable credentials, or the outbox is for another device */
        UPLINK_STATE_CLOCK,   /* at start: waits for a plausible wall clock, for a bounded time */
        UPLINK_STATE_RESOLVING,
        UPLINK_STATE_CONNECTING,
        UPLINK_STATE_CONNECTED,
        UPLINK_STATE_DRAINING, /* before a token renewal or stop: waits for PUBACKs, sends nothing
                                  new */
        UPLINK_STATE_BACKOFF,
        _UPLINK_STATE_MAX,
        _UPLINK_STATE_INVALID = -EINVAL,
} UplinkState;

const char *uplink_state_to_string(UplinkState s);

/* Longest waits for PUBACKs before a renewal (reference: "Token renewal") and for DISCONNECT to
 * leave. */
#define UPLINK_DRAIN_USEC (5 * USEC_PER_SEC)
#define UPLINK_GOODBYE_USEC (2 * USEC_PER_SEC)

/* A connection that lived this long has proved itself. */
#define UPLINK_QUIET_USEC USEC_PER_MINUTE

/* PUBACKs that stay out this long make a minute no quiet one. */
#define UPLINK_STALL_USEC (5 * USEC_PER_SEC)

/* Between two links that come up and make the next waits short again. Each brings a quick try; where
 * they come all the time, the waits behind it must still grow. */
#define UPLINK_LINK_RESET_USEC (5 * USEC_PER_MINUTE)

/* How often what holds the uplink is looked at again. */
#define UPLINK_HOLD_USEC (30 * USEC_PER_SEC)

/* Of the token's life, minus up to the jitter. */
#define UPLINK_RENEW_PERCENT 80U
#define UPLINK_RENEW_JITTER_PERCENT 5U

/* Cuts before CONNACK, and after it without a PUBACK, that count as ordinary failures; from then on
 * the hub is taken to be overloaded or over quota, and the long delays for that apply. */
#define UPLINK_CUTS_EARLY 2U
#define UPLINK_CUTS_LATE 6U

/* A connection that ends sooner is short, whatever it achieved. Several in a row look like a second
 * holder of the identity: each connect ends the other's connection, for ever (reference: "Facts
 * that decide the design", 7). Then the quick first try after a cut makes it worse; the waits stay
 * short enough for a link that is merely poor. */
#define UPLINK_SHORT_USEC (30 * USEC_PER_SEC)
#define UPLINK_SHORT_MAX 3U

typedef struct UplinkTimes {
        usec_t connect_timeout_usec; /* for everything from the name to CONNACK */
        usec_t ack_timeout_usec;     /* without any PUBACK while messages are in flight */
        BackoffBounds backoff;
} UplinkTimes;

typedef enum UplinkEventType {
        UPLINK_EVENT_START, /* span_usec: how long to wait for the clock, 0: it is plausible.
                               delay_usec: how long to wait else, left over from an earlier run */
        UPLINK_EVENT_HOLD, /* the connect that was asked for cannot be tried: credentials, other
                              device */
        UPLINK_EVENT_CREDENTIALS,   /* they changed, or a person asked to try now */
        UPLINK_EVENT_LINK_UP,       /* a route or address appeared */
        UPLINK_EVENT_CLOCK_STEPPED, /* the wall clock jumped: tokens made before it may be wrong.
                                       clock_wrong: it still cannot be right */
        UPLINK_EVENT_RESOLVED,
        UPLINK_EVENT_CONNECTED, /* CONNACK 0. span_usec: life of the token, USEC_INFINITY: it cannot
                                   be renewed */
        UPLINK_EVENT_SENT,      /* n messages were handed to the connection */
        UPLINK_EVENT_CONFIRMED, /* n PUBACKs */
        UPLINK_EVENT_DROPPED,   /* n messages in flight ended without a PUBACK: MQTT could not carry
                                   them */
        UPLINK_EVENT_EMPTY,     /* nothing is left to hand over */
        UPLINK_EVENT_ENDED,     /* the connection or attempt is over; class says why */
        UPLINK_EVENT_TIMER,     /* uplink_machine_deadline() is reached */
        UPLINK_EVENT_STOP,      /* span_usec: time left for it */
} UplinkEventType;

typedef struct UplinkEvent {
        UplinkEventType type;
        uint64_t n;
        usec_t span_usec, delay_usec;
        UplinkErrorClass class;
        bool refused; /* ENDED: the hub refused the key, whatever the class names as the cause */
        bool clock_wrong;
        bool late; /* TIMER: the hub confirms late now, so a minute is no quiet one */
} UplinkEvent;

/* To be done in this order. */
typedef enum UplinkAction {
        UPLINK_ACTION_ABANDON = 1 << 0,    /* drop the connection or attempt, requeue */
        UPLINK_ACTION_CONNECT = 1 << 1,    /* start an attempt with a fresh token */
        UPLINK_ACTION_DISCONNECT = 1 << 2, /* say goodbye; ENDED follows */
        UPLINK_ACTION_STOPPED = 1 << 3,    /* the stop is complete */
} UplinkAction;

typedef struct UplinkMachine {
        UplinkState state;
        usec_t since_usec;
        usec_t deadline_usec; /* end of the state: connect timeout, next try, end of draining */
        usec_t renew_usec;    /* connected: the token wants to be renewed */
        usec_t quiet_usec;    /* connected: it has lived a quiet minute then */
        usec_t ack_usec;      /* a PUBACK is overdue then; USEC_INFINITY: nothing is in flight */
        usec_t stop_usec;     /* the stop is over then; USEC_INFINITY: none was asked for */
        uint64_t n_in_flight;
        usec_t sent_usec; /* messages were handed over last then */
        unsigned attempt;  /* tries in a row without success, which is a PUBACK or a quiet minute */
        unsigned n_failed; /* the same, since a link came up: how long to wait grows with it */
        unsigned n_cuts_early, n_cuts_late, n_refused; /* of the tries, by kind */
        unsigned n_short; /* connections in a row that ended within UPLINK_SHORT_USEC */
        unsigned n_throttled; /* cuts after late PUBACKs, until a connection lived */
        BackoffKind law; /* of the present or last wait ... */
        unsigned law_attempt;
        unsigned n_keys, key; /* how many there are, and the one to be used */
        unsigned refused_keys; /* bit mask */
        usec_t connected_usec;
        UplinkErrorClass last_class;
        bool was_connected; /* CONNACK 0 came */
        bool proven;        /* this connection had a PUBACK or lived a quiet minute */
        bool lived;         /* it lived UPLINK_QUIET_USEC */
        bool goodbye;       /* DISCONNECT is on its way */
        usec_t link_reset_usec; /* when a link that came up last made the waits short; 0: never */
        bool by_link_up;    /* the attempt replaced one that a link that came up made outdated */
} UplinkMachine;

typedef struct UplinkDecision {
        UplinkMachine machine;
        unsigned actions;
        bool failed; /* a try or connection failed with it; machine.last_class says why */
} UplinkDecision;

void uplink_machine_init(UplinkMachine *m, usec_t now_usec);

UplinkDecision uplink_decide(const UplinkMachine *m, const UplinkTimes *times,
                             const UplinkEvent *event, usec_t now_usec, uint64_t random);

/* With the connection or attempt that ends now. */
unsigned uplink_machine_n_short(const UplinkMachine *m, usec_t now_usec);
unsigned uplink_machine_n_cuts_early(const UplinkMachine *m, UplinkErrorClass class);

/* When UPLINK_EVENT_TIMER is due; USEC_INFINITY: never. Always finite unless connected and idle, or
 * stopped. */
usec_t uplink_machine_deadline(const UplinkMachine *m);

/* Whether new messages may be handed to the connection. */
bool uplink_machine_may_send(const UplinkMachine *m);
