/* message-template.h: the messages of one run differ in body and counter only. So everything else
 * is made into JSON text once, and a message is written as bytes, without a JSON library: at a
 * million a second the daemon should be the slower one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"
#include "lib/macro.h"
#include "lib/property-bag.h"
#include "lib/time-util.h"

/* "%n" in a text that is marked so stands for the message's number, "%%" for a percent sign; any
 * other "%" stays as it is. */
typedef struct MessageFields {
        const char *message_id;     /* with %n; each NULL where absent */
        const char *correlation_id; /* with %n */
        const char *content_type;
        const char *content_encoding;
        const char *lane;
        usec_t time_to_live_usec; /* USEC_INFINITY: the daemon's default */
        PropertyBag properties;
        bool property_counters; /* the values have %n */
} MessageFields;

/* Checks against the hub's rules what is the same in every message, so that a mistake is told
 * before anything is sent. 0, -EINVAL or -EMSGSIZE: *reterr_field (the caller's) and *reterr_reason
 * (static) as in hub_message_check(); -ENOMEM. */
int message_fields_check(const MessageFields *f, char **reterr_field, const char **reterr_reason);

typedef struct MessageTemplate MessageTemplate;

/* fields: copied. 0 or -ENOMEM. */
int message_template_new(const MessageFields *fields, MessageTemplate **ret);
MessageTemplate *message_template_free(MessageTemplate *t);
DEFINE_CLEANUP(MessageTemplate *, message_template_free);

/* What one message takes of VARLINK_ELEMENTS_MAX. */
size_t message_template_elements(const MessageTemplate *t);

/* Appends the JSON object of message number n. A body that is no UTF-8 text, or that would take far
 * more room as text, goes as bodyBase64. 0 or -ENOMEM; out is as before on failure. */
int message_template_encode(const MessageTemplate *t, uint64_t n, const void *body, size_t size,
                            Buffer *out);

/* A text with its "%n" filled in. *ret is the caller's. 0 or -ENOMEM. */
int counter_text_expand(const char *text, uint64_t n, char **ret);

/* Whether a text has a "%n". */
bool counter_text_counts(const char *text);

/* Appends s as the inside of a JSON string; s is valid UTF-8. 0 or -ENOMEM. */
int json_escape_append(Buffer *out, const char *s, size_t n);
