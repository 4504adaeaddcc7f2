/* c2d-sender.h: one message to a device or module, over a connection to the hub. */
#pragma once

#include "lib/property-bag.h"
#include "client/amqp-loop.h"

/* Borrowed; texts that are absent are NULL. */
typedef struct C2dMessage {
        const char *device, *module;
        const char *message_id, *correlation_id, *user_id, *content_type, *content_encoding;
        const char *ack;     /* "none", "positive", "negative", "full" */
        usec_t expires_usec; /* since 1970 UTC; 0: as the hub has it */
        const PropertyBag *properties;
        const void *body;
        size_t body_size;
} C2dMessage;

/* Sends and waits until the hub has put it into the device's queue. 0; or as amqp_loop_turn(), with
 * the connection's error set: what the hub refuses is not passing. *ret_sent: the message may have
 * gone out, so that after a failure the device may have it. */
int c2d_send(AmqpLoop *loop, AmqpConnection *c, const C2dMessage *message, bool *ret_sent);
