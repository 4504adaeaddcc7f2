/* amqp-endpoint.h: connections to a hub, and the way from a hub to its events: it redirects a
 * reader to the Event Hubs-compatible endpoint behind it. */
#pragma once

#include "lib/connection-string.h"
#include "client/amqp-loop.h"
#include "client/events-login.h"
#include "client/verb.h"

/* Where the events of a hub are. */
typedef struct AmqpEndpoint {
        char *host; /* where to connect */
        char *name; /* as it calls itself: for TLS and AMQP */
        unsigned port;
        char *entity;
} AmqpEndpoint;

void amqp_endpoint_done(AmqpEndpoint *e);

/* Takes a redirect apart. hostname may carry a port, network_host may be NULL, port 0; address is
 * "amqps://HOST:PORT/ENTITY/...". 0, -EINVAL or -ENOMEM. */
int amqp_endpoint_parse(const char *hostname, const char *network_host, unsigned port,
                        const char *address, AmqpEndpoint *ret);

/* Connects to the hub itself and waits until the connection is open: SASL PLAIN with a token of the
 * login's policy. *ret is there after a failure, too, for its error. 0; or as amqp_loop_turn(). */
int amqp_connect_hub(AmqpLoop *loop, const Globals *g, const ConnectionString *login,
                     AmqpConnection **ret);

/* Connects and waits. As above. */
int amqp_connect(AmqpLoop *loop, const AmqpConnectionSettings *settings, AmqpConnection **ret);

/* Asks the hub, over a connection to it, where its events are. 0; or as amqp_loop_turn(), with the
 * connection's error set. */
int amqp_endpoint_find(AmqpLoop *loop, AmqpConnection *c, AmqpEndpoint *ret);
