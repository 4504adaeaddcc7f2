/* amqp-cbs.h: tokens for an Event Hubs endpoint, over its node "$cbs" ("claims-based security"),
 * made from a key's text and renewed before they end. The key itself stays here. */
#pragma once

#include "client/amqp-request.h"
#include "client/events-login.h"

/* Plain data; must stay where it is until the connection is freed. */
typedef struct AmqpCbs {
        AmqpRequester requester;
        const EventsLogin *login; /* borrowed */
        usec_t renew_at_usec;     /* CLOCK_MONOTONIC */
        bool renewing;
} AmqpCbs;

/* Opens the node and puts a first token for the entity and all below. 0 or as amqp_loop_turn(). */
int amqp_cbs_begin(AmqpCbs *cbs, AmqpLoop *loop, AmqpConnection *c, const EventsLogin *login);
void amqp_cbs_done(AmqpCbs *cbs);

/* To be called now and then: renews when it is time, and looks at the answer. *ret_next_usec: when
 * to call again, if nothing comes before. 0; -EIO after setting the connection's error; -ENOMEM. */
int amqp_cbs_keep(AmqpCbs *cbs, usec_t *ret_next_usec);
