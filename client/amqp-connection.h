/* amqp-connection.h: one AMQP 1.0 connection over TLS, over Proton's connection driver, with a loop
 * that its user turns. One session; links are the user's. */
#pragma once

#include <poll.h>
#include <stdbool.h>

#include <proton/link.h>
#include <proton/types.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "client/amqp-error.h"

typedef struct AmqpConnectionSettings {
        const char *host; /* where to connect */
        unsigned port;
        const char *name;            /* for TLS and AMQP's open; NULL: as host */
        const char *ca_file;         /* NULL: the system's */
        const char *user, *password; /* SASL PLAIN; user NULL: ANONYMOUS */
        bool verbose;                /* stages and frames on stderr, without secrets */
} AmqpConnectionSettings;

typedef struct AmqpConnection AmqpConnection;

/* A link with what its user wants to hear. Plain data of the user, which must stay where it is
 * until the connection is freed or amqp_link_close() was called. */
typedef struct AmqpLink AmqpLink;

struct AmqpLink {
        pn_link_t *link;  /* NULL: not attached */
        bool attached;    /* by both sides, with a source and a target that are there */
        bool closed;      /* by the other side; error says why, where it said so */
        AmqpError *error; /* of the connection, unless the user sets one of its own */
        AmqpStage stage;
        bool may_close; /* that the other side closes it is no failure of the connection */

        void (*on_delivery)(AmqpLink *link, pn_delivery_t *delivery); /* may be NULL */
        void *userdata;
};

/* Begins to connect; settings are copied. 0 or -ENOMEM; all else is told by turning the loop. */
int amqp_connection_new(const AmqpConnectionSettings *settings, AmqpConnection **ret);

/* Closes it, as far as that goes without waiting. */
AmqpConnection *amqp_connection_free(AmqpConnection *c);
DEFINE_CLEANUP(AmqpConnection *, amqp_connection_free);

/* Waits once for the connection, for more descriptors of the caller, or until the deadline
 * (CLOCK_MONOTONIC), and deals with what came. 0, or -EIO: it is over, amqp_connection_error() says
 * why. */
int amqp_connection_turn(AmqpConnection *c, struct pollfd *more, size_t n_more,
                         usec_t deadline_usec);

bool amqp_connection_is_open(const AmqpConnection *c);

/* set once something failed; what a user of the connection finds wrong may be set here, too. */
AmqpError *amqp_connection_error(AmqpConnection *c);

/* Attaches: address is the source of a receiver, the target of a sender; other, the other end's,
 * may be NULL. The caller sets the callbacks first; filters go into pn_link_source() before the
 * next turn. 0 or -ENOMEM. */
int amqp_connection_attach(AmqpConnection *c, bool receiver, const char *name, const char *address,
                           const char *other, AmqpLink *link);
void amqp_link_close(AmqpLink *link);

/* A line on stderr where the connection is verbose. */
void amqp_connection_trace(const AmqpConnection *c, const char *format, ...) _printf_(2, 3);
