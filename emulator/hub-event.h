/* hub-event.h: a received message, and the line of events.jsonl that it becomes. Pure.
 * Format: docs/emulator.md, "Events". */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"
#include "lib/time-util.h"

/* Whose key or certificate the connection was opened with. */
typedef enum HubAuthScope {
        HUB_AUTH_SCOPE_DEVICE,
        HUB_AUTH_SCOPE_MODULE,
        HUB_AUTH_SCOPE_HUB, /* a policy's key */
        _HUB_AUTH_SCOPE_MAX,
} HubAuthScope;

typedef enum HubAuthType {
        HUB_AUTH_TYPE_SAS,
        HUB_AUTH_TYPE_X509,
        _HUB_AUTH_TYPE_MAX,
} HubAuthType;

typedef struct HubAuthMethod {
        HubAuthScope scope;
        HubAuthType type;
} HubAuthMethod;

/* "device", "module", "hub"; "sas", "x509": as in the annotation iothub-connection-auth-method. */
const char *hub_auth_scope_to_string(HubAuthScope scope);
const char *hub_auth_type_to_string(HubAuthType type);

/* An event on its way in; all is borrowed. */
typedef struct HubEvent {
        const char *device_id;
        const char *module_id; /* or NULL */
        uint64_t generation;   /* of the identity */
        HubAuthMethod auth;
        const char *model_id; /* what the device says that it is (Plug and Play), or NULL */
        usec_t enqueued_usec; /* realtime */
        const char *bag;      /* encoded properties, as in the topic */
        size_t bag_size;
        const void *body;
        size_t body_size;
        bool retain; /* the hub keeps no message, it only marks the event */
} HubEvent;

/* Where the store puts it. */
typedef struct HubEventPlace {
        unsigned partition;
        int64_t sequence;
        int64_t offset;
        usec_t enqueued_usec;
} HubEventPlace;

/* Appends the JSON object and a newline. 0, -EMSGSIZE, -EINVAL (bag) or -ENOMEM; after a failure
 * out may hold half a line. */
int hub_event_format(const HubEvent *e, const HubEventPlace *place, Buffer *out);

/* System properties of a name that we know. */
typedef enum HubSystemProperty {
        HUB_SYSTEM_MESSAGE_ID,
        HUB_SYSTEM_CORRELATION_ID,
        HUB_SYSTEM_USER_ID,
        HUB_SYSTEM_CONTENT_TYPE,
        HUB_SYSTEM_CONTENT_ENCODING,
        HUB_SYSTEM_CREATION_TIME, /* creationTimeUtc */
        HUB_SYSTEM_EXPIRY_TIME,   /* expiryTimeUtc */
        HUB_SYSTEM_TO,
        HUB_SYSTEM_SUBJECT, /* dt-subject */
        HUB_SYSTEM_INTERFACE_ID,
        HUB_SYSTEM_OUTPUT_NAME,
        HUB_SYSTEM_MESSAGE_SCHEMA,
        _HUB_SYSTEM_MAX,
} HubSystemProperty;

/* "messageId": the name in events.jsonl. */
const char *hub_system_property_to_string(HubSystemProperty p);

/* NUL-terminated UTF-8 without a NUL. */
typedef struct HubEventText {
        const char *data;
        size_t size;
} HubEventText;

typedef struct HubEventProperty {
        HubEventText name, value;
} HubEventProperty;

/* An event as it is read back. Texts that are not there have data NULL. */
typedef struct HubStoredEvent {
        HubEventPlace place;
        HubEventText device_id, module_id, generation_id, model_id;
        HubAuthMethod auth;
        HubEventText system[_HUB_SYSTEM_MAX];
        const HubEventProperty *properties; /* the application's, in the order of the line */
        size_t n_properties;
        const void *body; /* any bytes; not NULL */
        size_t body_size;
} HubStoredEvent;
