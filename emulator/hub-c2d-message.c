#include <assert.h>
#include <ctype.h>
#include <strings.h>

#include "emulator/hub-c2d-private.h"
#include "emulator/mqtt-route.h"
#include "lib/hub-message.h"
#include "lib/string-util.h"
#include "lib/utf8.h"

static const char *const ack_names[_HUB_C2D_ACK_MAX] = {
        [HUB_C2D_ACK_NONE] = "none",
        [HUB_C2D_ACK_POSITIVE] = "positive",
        [HUB_C2D_ACK_NEGATIVE] = "negative",
        [HUB_C2D_ACK_FULL] = "full",
};

static const char *const end_names[_HUB_C2D_END_MAX] = {
        [HUB_C2D_SUCCESS] = "Success",
        [HUB_C2D_EXPIRED] = "Expired",
        [HUB_C2D_DELIVERY_COUNT_EXCEEDED] = "DeliveryCountExceeded",
        [HUB_C2D_REJECTED] = "Rejected",
        [HUB_C2D_PURGED] = "Purged",
};

const char *hub_c2d_ack_to_string(HubC2dAck a) {
        return a >= 0 && a < _HUB_C2D_ACK_MAX ? ack_names[a] : NULL;
}

HubC2dAck hub_c2d_ack_from_string(const char *s) {
        for (HubC2dAck a = 0; a < _HUB_C2D_ACK_MAX; a++)
                if (streq(s, ack_names[a]))
                        return a;
        return _HUB_C2D_ACK_INVALID;
}

const char *hub_c2d_end_to_string(HubC2dEnd e) {
        return e >= 0 && e < _HUB_C2D_END_MAX ? end_names[e] : NULL;
}

HubC2dEnd hub_c2d_end_from_string(const char *s) {
        for (HubC2dEnd e = 0; e < _HUB_C2D_END_MAX; e++)
                if (streq(s, end_names[e]))
                        return e;
        return _HUB_C2D_END_INVALID;
}

/* "/word" at *p, in any case. */
static bool skip_word(const char **p, const char *word) {
        size_t n = strlen(word);

        if (**p != '/' || strncasecmp(*p + 1, word, n) != 0)
                return false;
        *p += 1 + n;
        return true;
}

/* "/ID" at *p. 1, 0 (there is none) or -ENOMEM. */
static int take_id(const char **p, char **ret) {
        size_t n;

        if (**p != '/')
                return 0;
        n = strcspn(*p + 1, "/");
        if (n == 0)
                return 0;
        *ret = strndup(*p + 1, n);
        *p += 1 + n;
        return *ret ? 1 : -ENOMEM;
}

int hub_c2d_parse_to(const char *to, char **ret_device, char **ret_module) {
        _cleanup_free_ char *device = NULL, *module = NULL, *absolute = NULL;
        const char *p = to;
        int r;

        if (strncasecmp(p, "amqps://", 8) == 0) {
                p = strchr(p + 8, '/');
                if (!p)
                        return -EINVAL;
        } else if (*p != '/') {
                r = format_string(&absolute, "/%s", to);
                if (r < 0)
                        return r;
                p = absolute;
        }
        if (!skip_word(&p, "devices"))
                return -EINVAL;
        r = take_id(&p, &device);
        if (r > 0 && skip_word(&p, "modules"))
                r = take_id(&p, &module);
        if (r < 0)
                return r;
        if (r == 0 || !skip_word(&p, "messages") || !skip_word(&p, "devicebound") || *p != '\0')
                return -EINVAL;
        *ret_device = TAKE_PTR(device);
        *ret_module = TAKE_PTR(module);
        return 0;
}

static bool is_text(const char *s) {
        return !s || utf8_is_valid(s, strlen(s));
}

/* System properties in the hub's order, then the application's. Counts what the hub counts: values
 * of the former, names and values of the latter. */
static int make_bag(const HubC2dMessage *m, usec_t expires_usec, PropertyBag *bag, size_t *counted) {
        char stamp[FORMAT_TIMESTAMP_MAX];
        const struct {
                const char *name, *value;
        } system[] = {
                { "$.to", m->to },
                { "$.mid", m->message_id },
                { "$.cid", m->correlation_id },
                { "$.uid", m->user_id },
                /* Told only where the sender has named one. */
                { "$.exp", m->expires_usec > 0 ?
                                           format_timestamp(stamp, sizeof(stamp), expires_usec) :
                                           NULL },
                { "$.ct", m->content_type },
                { "$.ce", m->content_encoding },
                { "iothub-ack", m->ack == HUB_C2D_ACK_NONE ? NULL : hub_c2d_ack_to_string(m->ack) },
        };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(system); i++)
                if (system[i].value) {
                        *counted += strlen(system[i].value);
                        r = property_bag_add(bag, system[i].name, system[i].value);
                }
        for (size_t i = 0; r >= 0 && m->properties && i < m->properties->n_items; i++) {
                const Property *p = m->properties->items + i;

                *counted += strlen(p->name) + strlen(strempty(p->value));
                r = property_bag_add(bag, p->name, p->value);
        }
        return r;
}

static int check_texts(const HubC2dMessage *m, const char **reterr_reason) {
        const struct {
                const char *text, *reason;
        } texts[] = {
                { m->to, "\"to\" is no valid UTF-8" },
                { m->message_id, "the message id is no valid UTF-8" },
                { m->correlation_id, "the correlation id is no valid UTF-8" },
                { m->user_id, "the user id is no valid UTF-8" },
                { m->content_type, "the content type is no valid UTF-8" },
                { m->content_encoding, "the content encoding is no valid UTF-8" },
        };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (!is_text(texts[i].text)) {
                        *reterr_reason = texts[i].reason;
                        return -EINVAL;
                }
        if (m->message_id && strlen(m->message_id) > HUB_MESSAGE_ID_MAX) {
                *reterr_reason = "the message id is over 128 bytes";
                return -EINVAL;
        }
        for (size_t i = 0; m->properties && i < m->properties->n_items; i++) {
                const Property *p = m->properties->items + i;

                if (*p->name && is_text(p->name) && is_text(p->value))
                        continue;
                *reterr_reason = *p->name ? "an application property is no valid UTF-8" :
                                            "an application property has no name";
                return -EINVAL;
        }
        return 0;
}

/* "devices/ID/messages/devicebound/", without its NUL. */
static size_t topic_prefix_size(const HubDevice *d) {
        return strlen("devices//messages/devicebound/") + strlen(d->id) +
               (d->module_id ? strlen("/modules/") + strlen(d->module_id) : 0);
}

int hub_c2d_make_row(const HubC2dMessage *m, const HubDevice *d, usec_t now_usec, HubC2dRow *ret,
                     const char **reterr_reason) {
        _cleanup_(property_bag_done) PropertyBag bag = { 0 };
        _cleanup_free_ char *encoded = NULL;
        usec_t expires_usec = m->expires_usec > 0 ?
                                              MIN(m->expires_usec,
                                                  usec_add(now_usec, HUB_C2D_LIFE_MAX_USEC)) :
                                              usec_add(now_usec, HUB_C2D_LIFE_DEFAULT_USEC);
        size_t counted = m->n, n;
        int r;

        r = check_texts(m, reterr_reason);
        if (r >= 0)
                r = make_bag(m, expires_usec, &bag, &counted);
        if (r >= 0)
                r = property_bag_encode(&bag, &encoded, &n);
        if (r < 0)
                return r;
        if (counted > HUB_C2D_BYTES_MAX) {
                *reterr_reason = "the body and the properties are over 65536 bytes";
                return -EMSGSIZE;
        }
        if (topic_prefix_size(d) + n + MQTT_ROUTE_BYTES_MAX > HUB_TOPIC_BYTES_MAX) {
                *reterr_reason = "the properties do not fit an MQTT topic once they are encoded";
                return -EMSGSIZE;
        }
        *ret = (HubC2dRow){ .generation = d->generation,
                            .enqueued_usec = now_usec,
                            .expires_usec = expires_usec,
                            .n = m->n };
        ret->device = strdup(d->id);
        ret->ack = strdup(hub_c2d_ack_to_string(m->ack));
        ret->bag = TAKE_PTR(encoded);
        ret->body = m->n > 0 ? malloc(m->n) : NULL;
        if (copy_string(&ret->module, d->module_id) < 0 ||
            copy_string(&ret->message_id, m->message_id) < 0 || !ret->device || !ret->ack ||
            (m->n > 0 && !ret->body)) {
                hub_c2d_row_done(ret);
                return -ENOMEM;
        }
        if (m->n > 0)
                memcpy(ret->body, m->body, m->n);
        return 0;
}
