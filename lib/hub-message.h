/* hub-message.h: one telemetry message and the hub's rules for it, checked before it is accepted.
 * Rules and sources: docs/hub-limits.md, "Messages"; vectors: d2c_size. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"
#include "lib/property-bag.h"
#include "lib/time-util.h"

#define HUB_MESSAGE_BYTES_MAX (256U * 1024U) /* body, system values, application names and values; decoded */
#define HUB_TOPIC_BYTES_MAX 65535U           /* MQTT 3.1.1 section 1.5.3 */
#define HUB_MESSAGE_ID_MAX 128U

typedef struct HubMessage {
        const void *body;
        size_t body_size;
        const char *message_id;       /* NULL: the outbox makes one */
        const char *correlation_id;   /* each NULL where absent */
        const char *content_type;
        const char *content_encoding;
        usec_t creation_time_usec;    /* realtime; USEC_INFINITY: none is sent */
        const PropertyBag *properties; /* application properties; NULL: none */
} HubMessage;

/* Checks against the hub's rules: sizes (topic_prefix_size = bytes of "devices/ID/messages/events/"), message
 * id alphabet, valid UTF-8 without control characters in every text, reserved and repeated property names.
 * made_id_size: room that a message id made later will take where message_id is NULL.
 * 0, -EMSGSIZE (too large), -EINVAL or -ENOMEM; with the first two *reterr_field names the field as in io.iothubd
 * ("messageId", "properties.NAME"; the caller's to free) and *reterr_reason says why (static text). */
int hub_message_check(const HubMessage *m, size_t topic_prefix_size, size_t made_id_size, char **reterr_field,
                      const char **reterr_reason);

/* Appends the encoded bag without $.mid, system properties first ($.cid, $.ct, $.ce, $.ctime), then the
 * application's in their order. 0 or -ENOMEM. */
int hub_message_encode_bag(const HubMessage *m, Buffer *out);
