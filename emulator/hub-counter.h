/* hub-counter.h: how often what happened at the MQTT door, in all and for each device. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/json-util.h"
#include "lib/macro.h"

typedef enum HubCounter {
        HUB_COUNTER_OPENED,    /* TCP connections accepted */
        HUB_COUNTER_ABORTED,   /* of them, TLS handshakes that failed */
        HUB_COUNTER_CONNECTS,  /* CONNECTs received */
        HUB_COUNTER_ACCEPTED,  /* answered with CONNACK 0 */
        HUB_COUNTER_REFUSED,   /* answered with another CONNACK, by the hub or on request */
        HUB_COUNTER_CUT,       /* connections ended on request */
        HUB_COUNTER_ENDED,     /* connections that ended after their CONNECT, for any reason */
        HUB_COUNTER_PUBLISHES, /* PUBLISHes received */
        HUB_COUNTER_PUBACKS,   /* PUBACKs that left, late ones when they left */
        HUB_COUNTER_HELD,      /* PUBACKs held back on request */
        HUB_COUNTER_DROPPED,   /* PUBACKs dropped on request */
        HUB_COUNTER_C2D_SENT,  /* messages sent to devices, each time that they were */
        HUB_COUNTER_C2D_COMPLETED, /* of them, that are done: by the device's PUBACK, or sent with QoS 0 */
        _HUB_COUNTER_MAX,
        _HUB_COUNTER_INVALID = -EINVAL,
} HubCounter;

const char *hub_counter_to_string(HubCounter c);
HubCounter hub_counter_from_string(const char *s);

/* Devices counted one by one: ids come unproved, so there is an end. Others count in the totals. */
#define HUB_COUNTER_DEVICES_MAX 100000U

typedef struct HubCounts {
        uint64_t of[_HUB_COUNTER_MAX];
} HubCounts;

typedef struct HubCounters HubCounters;

/* NULL: out of memory. */
HubCounters *hub_counters_new(void);
HubCounters *hub_counters_free(HubCounters *c);
DEFINE_CLEANUP(HubCounters *, hub_counters_free);

/* client_id: "ID" or "ID/MODULE", NULL while it is not known. Counts n more. */
void hub_counters_add(HubCounters *c, const char *client_id, HubCounter counter, uint64_t n);

/* The totals, or with a client id those of exactly that one; zeros for one never seen. */
HubCounts hub_counters_get(const HubCounters *c, const char *client_id);

/* Rises with every count: whoever waits looks again when it has changed. */
uint64_t hub_counters_serial(const HubCounters *c);
