/* hub-amqp-address.h: what the address of a link means, and from where on a reader reads. Pure.
 * Addresses and filters: docs/emulator.md, "The AMQP door". */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "emulator/hub-events.h"
#include "lib/amqp-value.h"

#define AMQP_CONSUMER_GROUP_MAX 50U /* the service's own limit */

typedef enum AmqpNode {
        AMQP_NODE_CBS,            /* $cbs */
        AMQP_NODE_REDIRECT,       /* messages/events, with anything behind it */
        AMQP_NODE_MANAGEMENT,     /* $management: of the event hub */
        AMQP_NODE_PARTITION,      /* ENTITY/ConsumerGroups/GROUP/Partitions/N */
        AMQP_NODE_DEVICEBOUND,    /* messages/devicebound */
        AMQP_NODE_FEEDBACK,       /* messages/serviceBound/feedback */
        AMQP_NODE_NOTIFICATIONS,  /* messages/serviceBound/filenotifications */
        _AMQP_NODE_MAX,
} AmqpNode;

typedef struct AmqpAddress {
        AmqpNode node;
        bool management;                          /* of REDIRECT: $management was asked for */
        char group[AMQP_CONSUMER_GROUP_MAX + 1];  /* of PARTITION, in lower case */
        unsigned partition;                       /* likewise */
        const char *resource; /* static: what a token must cover; "" stands for any. Of PARTITION the entity */
} AmqpAddress;

/* An address as clients write it: in any case, with or without the first slash, or as a URI with any
 * host. entity: the name of the event hub. 0, or -ENOENT (no node of that name). */
int amqp_address_parse(const char *address, const char *entity, AmqpAddress *ret);

/* The expression of a selector filter, such as "amqp.annotation.x-opt-offset > '5'".
 * 0, or -EINVAL (none that an event hub knows). */
int amqp_filter_parse(AmqpBytes expression, HubEventsPosition *ret);
