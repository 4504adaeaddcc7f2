/* hub-topic.h: topic names, client id and user name of the hub, built and matched.
 * Sources: docs/hub-limits.md, "Topics"; vectors: connect, topics, topic_parse. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"

#define HUB_API_VERSION "2021-04-12"

/* "devices/ID/messages/events/" or the module form: the bag is appended by the caller. 0 or -ENOMEM. */
int hub_topic_telemetry_prefix(const char *device_id, const char *module_id, char **ret);

/* Client id "ID" or "ID/MID". */
int hub_client_id(const char *device_id, const char *module_id, char **ret);

/* "HOST/CLIENTID/?api-version=..&DeviceClientType=..[&model-id=..]"; product_info and model_id may be NULL and
 * are percent-encoded here. */
int hub_user_name(const char *host, const char *client_id, const char *product_info, const char *model_id,
                  char **ret);

/* 1 to 128 ASCII characters of the hub's set; with for_mqtt also no + and #, which a topic cannot carry.
 * 0 or -EINVAL. */
int hub_device_id_check(const char *id, bool for_mqtt);

/* A client id: "ID" or "ID/MODULE", each of them an id as above, + and # allowed. 0, -EINVAL or -ENOMEM. */
int hub_client_id_check(const char *client_id);

typedef enum HubTopicKind {
        HUB_TOPIC_TELEMETRY,
        HUB_TOPIC_C2D,
        HUB_TOPIC_METHOD_CALL,
        HUB_TOPIC_METHOD_RESPONSE,
        HUB_TOPIC_TWIN_RESULT,
        HUB_TOPIC_TWIN_DESIRED,
        HUB_TOPIC_TWIN_GET,
        HUB_TOPIC_TWIN_REPORTED,
        _HUB_TOPIC_KIND_MAX,
        _HUB_TOPIC_KIND_INVALID = -EINVAL,
} HubTopicKind;

typedef struct HubTopic {
        HubTopicKind kind;
        char *device_id;   /* telemetry, c2d */
        char *module_id;   /* or NULL */
        char *bag;         /* telemetry, c2d: the encoded bag, "" when empty */
        char *method;      /* method call */
        unsigned status;   /* method response, twin result */
        char *rid;         /* where the topic has $rid */
        bool has_version;
        uint64_t version;  /* twin result, twin desired: $version */
} HubTopic;

/* 0, -EINVAL (no topic of the hub) or -ENOMEM. */
int hub_topic_parse(const char *topic, HubTopic *ret);
void hub_topic_done(HubTopic *t);
