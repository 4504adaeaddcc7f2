/* hub-amqp-access.h: what a connection of the AMQP door may do: by the name and password that it
 * signed in with, and by the tokens that it put. A refusal is -EACCES with a reason, static text. */
#pragma once

#include "emulator/hub.h"

#define AMQP_GRANTS_MAX 64U /* of a connection; SDKs put one token for each link */

typedef struct AmqpGrant {
        char *resource; /* decoded, without a scheme: "HOST/..."; NULL: everything */
        unsigned rights;
        usec_t expires_usec; /* realtime */
} AmqpGrant;

typedef struct AmqpGrants {
        AmqpGrant items[AMQP_GRANTS_MAX];
        size_t n;
} AmqpGrants;

void amqp_grants_done(AmqpGrants *g);

/* SASL PLAIN: "POLICY@sas.root.HUB" with a token, or "POLICY" with one of its keys. 0, -EACCES or
 * -ENOMEM. */
int amqp_grants_add_plain(AmqpGrants *g, Hub *h, const char *user, const char *password,
                          usec_t now_usec, const char **reterr_reason);

/* A token that was put at $cbs; one for the same resource takes its place. 0, -EACCES or -ENOMEM. */
int amqp_grants_add_token(AmqpGrants *g, Hub *h, const char *token, usec_t now_usec,
                          const char **reterr_reason);

/* Forgets what has ended. */
void amqp_grants_expire(AmqpGrants *g, usec_t now_usec);

/* Whether the right is granted now for a path, as "/messages/events". 0, -EACCES, -EPERM (by a policy that
 * lacks it) or -ENOMEM. */
int amqp_grants_check(const AmqpGrants *g, const Hub *h, const char *path, HubRight right,
                      usec_t now_usec, const char **reterr_reason);
