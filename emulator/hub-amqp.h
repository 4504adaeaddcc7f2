/* hub-amqp.h: the AMQP door: a thread that serves readers of events, senders of cloud-to-device messages
 * and readers of their feedback on a local socket, behind the TLS front. Plays the hub and the Event Hubs
 * endpoint that it redirects to. docs/emulator.md, "The AMQP door". */
#pragma once

#include "emulator/hub-troubles.h"
#include "emulator/hub.h"
#include "lib/macro.h"

typedef struct HubAmqp HubAmqp;

typedef struct HubAmqpSettings {
        const char *path; /* of the socket, which is made, in place of one of that name */
        HubTroubles *troubles; /* borrowed likewise */
        unsigned port;    /* at which clients see this door: told in redirects */
} HubAmqpSettings;

/* hub: borrowed until hub_amqp_free(), its events open. 0, -ENOMEM or -errno. */
int hub_amqp_new(Hub *hub, const HubAmqpSettings *settings, HubAmqp **ret);

/* Ends the thread and its connections. */
HubAmqp *hub_amqp_free(HubAmqp *a);
DEFINE_CLEANUP(HubAmqp *, hub_amqp_free);
