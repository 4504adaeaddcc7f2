/* hub-error.h: what the errors of a hub mean, and what to do about them. Pure.
 * Sources: docs/hub-limits.md, "Codes". */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/macro.h"

struct json_object;

typedef struct HubErrorRule {
        unsigned code;       /* as in hub-code.h */
        const char *meaning; /* ends no sentence */
        const char *remedy;  /* or NULL: nothing to advise */
        int exit_code;
} HubErrorRule;

typedef struct HubError {
        const HubErrorRule *rule; /* never NULL: at least that of the HTTP status */
        bool known;               /* rule is the code's own, not only its status's */
        unsigned code;            /* 0: the hub gave none */
        char *name;               /* as the hub wrote it, or NULL */
        char *text;               /* the hub's own words, or NULL */
        char *tracking_id;        /* or NULL */
} HubError;

/* Takes an answer apart, of the many shapes there are; header: iothub-errorcode or NULL. No body fails:
 * what is not understood is absent. 0 or -ENOMEM. hub_error_done() is needed in either case. */
int hub_error_parse(long status, const char *header, const char *body, size_t n, HubError *ret);
void hub_error_done(HubError *e);

/* One item among the errors of a bulk call: {"errorCode":NAME or number,"errorStatus":text}, either of which may be
 * missing. As hub_error_parse(). */
int hub_error_parse_item(struct json_object *item, HubError *ret);

/* "meaning (code name): text", with what there is of it. *ret is the caller's. 0 or -ENOMEM. */
int hub_error_format(const HubError *e, char **ret);

/* By number or, where that is 0, by name in any case; NULL: not in the table. */
const HubErrorRule *hub_error_find(unsigned code, const char *name);

/* What a rule says of a call that named a module: there the hub tells "device not found" of either. The rule
 * itself where it tells of something else; one of code 404010, whose remedy goes on with the device's id,
 * else. */
const HubErrorRule *hub_error_of_module(const HubErrorRule *rule);

/* By the status alone, as of HTTP; never NULL. */
const HubErrorRule *hub_error_of_status(long status);

/* By the condition of an AMQP error, such as "amqp:not-found"; never NULL. Rules without a code of the
 * hub's have code 0. */
const HubErrorRule *hub_error_of_condition(const char *condition);

/* The same in any case of letters, or NULL: not in the table. */
const HubErrorRule *hub_error_find_condition(const char *condition);

/* The conditions that are known, one by one; NULL behind the last. */
const char *hub_error_condition(size_t i);

/* The table, for tests and the manual; ends with code 0. */
extern const HubErrorRule hub_error_rules[];
