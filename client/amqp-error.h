/* amqp-error.h: why talking AMQP to a hub failed: where, at which stage, what it means and what to
 * do. */
#pragma once

#include <stdbool.h>

#include "client/hub-error.h"

typedef enum AmqpStage {
        AMQP_STAGE_NAME,    /* name resolution */
        AMQP_STAGE_CONNECT, /* TCP */
        AMQP_STAGE_TLS,
        AMQP_STAGE_SASL,
        AMQP_STAGE_OPEN,       /* AMQP's own greeting, and the connection from then on */
        AMQP_STAGE_TOKEN,      /* CBS */
        AMQP_STAGE_REDIRECT,   /* finding the Event Hubs endpoint */
        AMQP_STAGE_MANAGEMENT, /* asking for the partitions */
        AMQP_STAGE_ATTACH,     /* a link of the verb's own */
        _AMQP_STAGE_MAX,
        _AMQP_STAGE_INVALID = -EINVAL,
} AmqpStage;

const char *amqp_stage_to_string(AmqpStage stage);

/* Plain data, zero-initialised: nothing failed. */
typedef struct AmqpError {
        bool set;
        AmqpStage stage;
        char host[256];
        unsigned port;
        char condition[64];       /* "amqp:unauthorized-access"; "": not from the hub */
        char text[512];           /* the hub's or the system's own words */
        const HubErrorRule *rule; /* of the condition; or NULL */
        const char *module_of;    /* with the rule of a missing module: the device that should have it */
        const char *remedy;       /* where there is no rule; or NULL */
        int exit_code;
        bool passing; /* may succeed later */
} AmqpError;

/* The first failure counts: what follows from it is not kept. */
void amqp_error_set(AmqpError *e, AmqpStage stage, int exit_code, const char *remedy,
                    const char *format, ...) _printf_(5, 6);

/* condition may be NULL: then the other side gave no reason. */
void amqp_error_set_condition(AmqpError *e, AmqpStage stage, const char *condition,
                              const char *text);

/* "Cannot monitor: host:5671: TLS: ..." and what to do about it, on stderr. Returns its exit code.
 */
int amqp_error_say(const AmqpError *e, const char *what);
