/* amqp-retry.h: which failures of a connection are worth another one, and the wait before it. */
#pragma once

#include "client/amqp-loop.h"

typedef struct AmqpRetry {
        bool reached; /* it worked once */
        bool lived;   /* it worked on this connection */
        unsigned n_failed;
        int exit_code; /* of the error that amqp_retry_wait() told last */
} AmqpRetry;

/* A new connection is tried; it worked. */
void amqp_retry_begin(AmqpRetry *r);
void amqp_retry_succeeded(AmqpRetry *r);

/* Before it has worked once, only what the hub itself may answer otherwise later, and a few times:
 * a host that is not there is told at once. */
bool amqp_retry_may(const AmqpRetry *r, const AmqpError *e);

/* Tells the error and waits, longer each time, at most until the deadline. As amqp_loop_turn();
 * -ETIME: the deadline is here; if it was never reached, exit_code is what the verb ends with. */
int amqp_retry_wait(AmqpRetry *r, AmqpLoop *loop, const AmqpError *e, const char *what,
                    usec_t deadline_usec);
