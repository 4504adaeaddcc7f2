#include "emulator/hub-event.h"

#include <assert.h>

#include "lib/base64.h"
#include "lib/hub-message.h"
#include "lib/json-text.h"
#include "lib/utf8.h"

/* Names of the system properties in the topic, and as event consumers know them. */
static const struct {
        const char *key;
        const char *name;
} system_names[_HUB_SYSTEM_MAX] = {
        [HUB_SYSTEM_MESSAGE_ID] = { "$.mid", "messageId" },
        [HUB_SYSTEM_CORRELATION_ID] = { "$.cid", "correlationId" },
        [HUB_SYSTEM_USER_ID] = { "$.uid", "userId" },
        [HUB_SYSTEM_CONTENT_TYPE] = { "$.ct", "contentType" },
        [HUB_SYSTEM_CONTENT_ENCODING] = { "$.ce", "contentEncoding" },
        [HUB_SYSTEM_CREATION_TIME] = { "$.ctime", "creationTimeUtc" },
        [HUB_SYSTEM_EXPIRY_TIME] = { "$.exp", "expiryTimeUtc" },
        [HUB_SYSTEM_TO] = { "$.to", "to" },
        [HUB_SYSTEM_SUBJECT] = { "$.sub", "dt-subject" },
        [HUB_SYSTEM_INTERFACE_ID] = { "$.ifid", "interfaceId" },
        [HUB_SYSTEM_OUTPUT_NAME] = { "$.on", "outputName" },
        [HUB_SYSTEM_MESSAGE_SCHEMA] = { "$.schema", "messageSchema" },
};

static const char *const auth_scope_names[_HUB_AUTH_SCOPE_MAX] = {
        [HUB_AUTH_SCOPE_DEVICE] = "device",
        [HUB_AUTH_SCOPE_MODULE] = "module",
        [HUB_AUTH_SCOPE_HUB] = "hub",
};

static const char *const auth_type_names[_HUB_AUTH_TYPE_MAX] = {
        [HUB_AUTH_TYPE_SAS] = "sas",
        [HUB_AUTH_TYPE_X509] = "x509",
};

const char *hub_auth_scope_to_string(HubAuthScope scope) {
        return auth_scope_names[scope];
}

const char *hub_auth_type_to_string(HubAuthType type) {
        return auth_type_names[type];
}

const char *hub_system_property_to_string(HubSystemProperty p) {
        return system_names[p].name;
}

static int append_literal(Buffer *out, const char *s) {
        return buffer_append_string(out, s);
}

static int append_member(Buffer *out, bool *first, const char *name, const char *value) {
        int r;

        r = append_literal(out, *first ? "" : ",");
        *first = false;
        if (r >= 0)
                r = json_text_append_string(out, name, strlen(name));
        if (r >= 0)
                r = append_literal(out, ":");
        if (r >= 0)
                r = json_text_append_string(out, value, strlen(value));
        return r;
}

static bool is_system(const Property *p) {
        return startswith(p->name, "$.") != NULL;
}

static const char *system_name(const char *key) {
        for (size_t i = 0; i < ELEMENTSOF(system_names); i++)
                if (streq(key, system_names[i].key))
                        return system_names[i].name;
        return key; /* one that we do not know is shown under the name it came with */
}

/* JSON members are unique: of a name given twice the last one counts. */
static bool comes_again(const PropertyBag *bag, size_t i) {
        for (size_t k = i + 1; k < bag->n_items; k++)
                if (streq(bag->items[k].name, bag->items[i].name))
                        return true;
        return false;
}

static int append_properties(Buffer *out, const PropertyBag *bag, bool system, bool retain) {
        bool first = true;
        int r;

        r = append_literal(out, "{");
        for (size_t i = 0; i < bag->n_items && r >= 0; i++) {
                const Property *p = bag->items + i;

                if (is_system(p) == system && !comes_again(bag, i))
                        r = append_member(out, &first, system ? system_name(p->name) : p->name,
                                          strempty(p->value));
        }
        if (r >= 0 && retain && !system)
                r = append_member(out, &first, "mqtt-retain", "true");
        if (r >= 0)
                r = append_literal(out, "}");
        return r;
}

static int append_body(Buffer *out, const void *body, size_t n) {
        _cleanup_free_ char *text = NULL;
        size_t text_size;
        int r;

        if (utf8_is_valid(body, n)) {
                r = append_literal(out, ",\"body\":");
                return r < 0 ? r : json_text_append_string(out, body, n);
        }
        r = base64_encode(body, n, &text, &text_size);
        if (r < 0)
                return r;
        r = append_literal(out, ",\"bodyBase64\":\"");
        if (r >= 0)
                r = buffer_append(out, text, text_size);
        if (r >= 0)
                r = append_literal(out, "\"");
        return r;
}

/* Body, values of system properties, names and values of application properties, decoded: the hub's
 * rule. */
static size_t counted_size(const HubEvent *e, const PropertyBag *bag) {
        size_t n = e->body_size;

        for (size_t i = 0; i < bag->n_items; i++) {
                const Property *p = bag->items + i;

                n += strlen(strempty(p->value)) + (is_system(p) ? 0 : strlen(p->name));
        }
        return n;
}

static int append_head(const HubEvent *e, const HubEventPlace *place, Buffer *out) {
        char time[FORMAT_TIMESTAMP_MAX];
        int r;

        r = append_literal(out, "{\"deviceId\":");
        if (r >= 0)
                r = json_text_append_string(out, e->device_id, strlen(e->device_id));
        if (r >= 0 && e->module_id) {
                r = append_literal(out, ",\"moduleId\":");
                if (r >= 0)
                        r = json_text_append_string(out, e->module_id, strlen(e->module_id));
        }
        if (r < 0)
                return r;
        return buffer_appendf(out,
                              ",\"partition\":%u,\"sequenceNumber\":%" PRId64
                              ",\"offset\":\"%" PRId64 "\",\"enqueuedTime\":\"%s\""
                              ",\"generationId\":\"%" PRIu64
                              "\",\"authMethod\":{\"scope\":\"%s\",\"type\":\"%s\"}",
                              place->partition, place->sequence, place->offset,
                              format_timestamp(time, sizeof(time), place->enqueued_usec),
                              e->generation, hub_auth_scope_to_string(e->auth.scope),
                              hub_auth_type_to_string(e->auth.type));
}

static int append_model(const HubEvent *e, Buffer *out) {
        int r;

        if (!e->model_id)
                return 0;
        r = append_literal(out, ",\"modelId\":");
        return r < 0 ? r : json_text_append_string(out, e->model_id, strlen(e->model_id));
}

int hub_event_format(const HubEvent *e, const HubEventPlace *place, Buffer *out) {
        _cleanup_(property_bag_done) PropertyBag bag = { 0 };
        int r;

        assert(e);
        assert(out);

        r = property_bag_decode(e->bag, e->bag_size, &bag);
        if (r < 0)
                return r;
        if (counted_size(e, &bag) > HUB_MESSAGE_BYTES_MAX)
                return -EMSGSIZE;

        r = append_head(e, place, out);
        if (r >= 0)
                r = append_model(e, out);
        if (r >= 0)
                r = append_literal(out, ",\"systemProperties\":");
        if (r >= 0)
                r = append_properties(out, &bag, /* system= */ true, e->retain);
        if (r >= 0)
                r = append_literal(out, ",\"properties\":");
        if (r >= 0)
                r = append_properties(out, &bag, /* system= */ false, e->retain);
        if (r >= 0)
                r = append_body(out, e->body, e->body_size);
        if (r >= 0)
                r = append_literal(out, "}\n");
        return r;
}
