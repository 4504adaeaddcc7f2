/* sim-hub.h: the hub, the network, the clocks and an outbox that exist only in memory, around the
 * deciding part of the uplink (daemon/uplink-logic.h), which is the very code that the daemon runs. Time
 * passes from event to event, so years take seconds. The same seed gives the same run.
 *
 * After each decision the invariants are checked; a breach ends the test with the seed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/uplink-logic.h"
#include "daemon/uplink-memory.h"
#include "tests/support/random.h"

/* What lasts until it is taken away. */
typedef enum SimFault {
        SIM_DNS_HANGS,
        SIM_DNS_FAILS,
        SIM_LINK_DOWN,   /* nothing gets through; connections die in silence or at once */
        SIM_PORT_CLOSED,
        SIM_SILENT,      /* SYNs get no answer */
        SIM_NO_CONNACK,
        SIM_TLS_ISSUER,
        SIM_REFUSES,     /* a disabled device */
        SIM_UNAVAILABLE, /* CONNACK 3 */
        SIM_CUTS_EARLY,  /* instead of CONNACK */
        SIM_QUOTA,       /* CONNACK 0, then a cut at the first publish */
        SIM_THROTTLES,   /* late PUBACKs, then a cut */
        SIM_TAKEN_OVER,  /* a second holder of the identity */
        SIM_NO_PUBACK,
        SIM_BAD_LINK,    /* cuts by chance */
        SIM_PRIMARY_WRONG,
        SIM_BOTH_WRONG,
        SIM_CLOCK_WRONG, /* by years, and set right when it is taken away */
        SIM_NO_CREDENTIALS,
        SIM_POISON,      /* some new messages make the hub cut */
        _SIM_FAULT_MAX,
} SimFault;

const char *sim_fault_to_string(SimFault f);

/* What happens at one moment. */
typedef enum SimShock {
        SIM_CUT,
        SIM_HALF_OPEN,    /* the connection hears nothing any more */
        SIM_SUSPEND,      /* minutes to days */
        SIM_CLOCK_STEP,   /* seconds to decades either way, set right a while later */
        SIM_LINK_UP,      /* the kernel tells of an address or a route */
        SIM_CREDENTIALS,  /* a reload */
        SIM_CRASH,        /* of the daemon, and a start a second later */
        SIM_RESTART,      /* in order */
        _SIM_SHOCK_MAX,
} SimShock;

#define SIM_MESSAGES_MAX 512U
#define SIM_WINDOW 200U

typedef struct SimMessage {
        uint64_t seq;
        usec_t born_usec, puback_usec; /* in flight: when its PUBACK comes */
        bool poison, in_flight, aside;
} SimMessage;

typedef struct SimLink {
        bool there;
        enum { SIM_RESOLVE, SIM_CONNECT, SIM_TLS, SIM_CONNACK, SIM_UP } stage;
        usec_t due_usec; /* the stage's end; USEC_INFINITY: never */
        usec_t cut_usec, dead_usec; /* when the hub cuts; when the library finds it dead */
        bool dead, goodbye, published;
        uint64_t token_se_usec; /* by the hub's clock */
        unsigned key;
} SimLink;

typedef struct Sim {
        uint64_t seed;
        Random rng;
        UplinkLogic logic;
        UplinkMemory memory;
        bool has_memory;

        usec_t now_usec;         /* since boot */
        usec_t hub_offset_usec;  /* true time = now + this */
        int64_t clock_error_usec; /* of the wall clock */
        usec_t clock_right_usec; /* then it is set right */
        usec_t newest_usec;      /* wall time of the newest message */

        bool faults[_SIM_FAULT_MAX];
        usec_t message_interval_usec, next_message_usec;
        SimLink link;
        SimMessage messages[SIM_MESSAGES_MAX]; /* in order */
        size_t n_messages;
        uint64_t last_seq, confirmed_seq;
        bool told_bad; /* the link or quota misbehaves in this stretch, so chance can condemn */

        uint64_t n_accepted, n_confirmed, n_rejected, n_connects, n_decisions, n_restarts;
        uint64_t n_written; /* of the memory's file */
        usec_t connects[1024]; /* the last ones, of which an hour may hold only so many ... */
        uint64_t n_prods;      /* ... more than events from outside explain */
        usec_t prods[1024];
        usec_t prodded_usec, stalled_usec;
} Sim;

/* The seed of a run decides all that happens in it. */
void sim_begin(Sim *s, uint64_t seed);

void sim_set_fault(Sim *s, SimFault f, bool on);
void sim_clear_faults(Sim *s);
void sim_shock(Sim *s, SimShock shock);
/* On average between two messages. */
void sim_set_interval(Sim *s, usec_t interval_usec);

void sim_run(Sim *s, usec_t span_usec);

/* Ends the test, with the seed and the command that repeats it. */
void sim_fail(const Sim *s, const char *format, ...) _printf_(2, 3) __attribute__((noreturn));
