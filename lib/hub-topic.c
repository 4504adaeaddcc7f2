#include "lib/hub-topic.h"

#include "lib/parse-util.h"
#include "lib/property-bag.h"
#include "lib/string-util.h"

#define HUB_ID_MAX 128U

int hub_topic_telemetry_prefix(const char *device_id, const char *module_id, char **ret) {
        return format_string(ret, "devices/%s%s%s/messages/events/", device_id, module_id ? "/modules/" : "",
                           strempty(module_id));
}

int hub_client_id(const char *device_id, const char *module_id, char **ret) {
        return format_string(ret, "%s%s%s", device_id, module_id ? "/" : "", strempty(module_id));
}

int hub_user_name(const char *host, const char *client_id, const char *product_info, const char *model_id,
                  char **ret) {
        _cleanup_free_ char *product = NULL, *model = NULL;
        int r;

        if (product_info) {
                r = percent_encode(product_info, strlen(product_info), &product);
                if (r < 0)
                        return r;
        }
        if (model_id) {
                r = percent_encode(model_id, strlen(model_id), &model);
                if (r < 0)
                        return r;
        }
        return format_string(ret, "%s/%s/?api-version=" HUB_API_VERSION "%s%s%s%s", host, client_id,
                           product ? "&DeviceClientType=" : "", strempty(product), model ? "&model-id=" : "",
                           strempty(model));
}

static const uint8_t id_characters[256] = {
        ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['0' ... '9'] = 1, ['-'] = 1, ['.'] = 1, ['%'] = 1, ['_'] = 1,
        ['*'] = 1, ['?'] = 1, ['!'] = 1, ['('] = 1, [')'] = 1, [','] = 1, ['='] = 1, ['@'] = 1, ['$'] = 1,
        ['\''] = 1, [':'] = 1, [';'] = 1, ['+'] = 2, ['#'] = 2, /* 2: not in a topic */
};

int hub_device_id_check(const char *id, bool for_mqtt) {
        size_t n;

        for (n = 0; id[n]; n++) {
                uint8_t class = id_characters[(uint8_t) id[n]];

                if (n >= HUB_ID_MAX || class == 0 || (class == 2 && for_mqtt))
                        return -EINVAL;
        }
        return n > 0 ? 0 : -EINVAL;
}

int hub_client_id_check(const char *client_id) {
        const char *slash = strchr(client_id, '/');
        _cleanup_free_ char *device = NULL;

        if (!slash)
                return hub_device_id_check(client_id, false);
        device = strndup(client_id, (size_t) (slash - client_id));
        if (!device)
                return -ENOMEM;
        if (hub_device_id_check(device, false) < 0)
                return -EINVAL;
        return hub_device_id_check(slash + 1, false);
}

/* Copies up to the next slash or the end; an empty level is no id. */
static int take_level(const char **s, char **ret) {
        size_t n = strcspn(*s, "/");

        if (n == 0)
                return -EINVAL;
        *ret = strndup(*s, n);
        if (!*ret)
                return -ENOMEM;
        *s += n;
        return 0;
}

/* "/BAG", "/BAG/", "/" or nothing. Some clients end the topic in one slash more, which belongs to no value:
 * a slash in a value is %2F. */
static int take_bag(const char *s, char **ret) {
        size_t n;

        if (*s == '/')
                s++;
        else if (*s)
                return -EINVAL;
        n = strlen(s);
        if (n > 0 && s[n - 1] == '/')
                n--;
        if (memchr(s, '/', n))
                return -EINVAL;
        *ret = strndup(s, n);
        return *ret ? 0 : -ENOMEM;
}

/* Behind "devices/". */
static int parse_devices(const char *s, HubTopic *t) {
        const char *rest;
        int r;

        r = take_level(&s, &t->device_id);
        if (r < 0)
                return r;
        rest = startswith(s, "/modules/");
        if (rest) {
                s = rest;
                r = take_level(&s, &t->module_id);
                if (r < 0)
                        return r;
        }
        rest = startswith(s, "/messages/events");
        if (rest) {
                t->kind = HUB_TOPIC_TELEMETRY;
                return take_bag(rest, &t->bag);
        }
        rest = startswith(s, "/messages/devicebound");
        if (rest) {
                t->kind = HUB_TOPIC_C2D;
                return take_bag(rest, &t->bag);
        }
        return -EINVAL;
}

/* "/?$rid=R&$version=V": parameters in any order, unknown ones are skipped. Values stay as they are: a request
 * id is echoed, never read. */
static int parse_parameters(const char *s, HubTopic *t) {
        s = startswith(s, "/?");
        if (!s)
                return -EINVAL;
        for (;;) {
                size_t n = strcspn(s, "&");
                _cleanup_free_ char *part = strndup(s, n);
                const char *value;

                if (!part)
                        return -ENOMEM;
                if ((value = startswith(part, "$rid="))) {
                        if (t->rid || !*value)
                                return -EINVAL;
                        t->rid = strdup(value);
                        if (!t->rid)
                                return -ENOMEM;
                } else if ((value = startswith(part, "$version="))) {
                        if (t->has_version || parse_u64(value, &t->version) < 0)
                                return -EINVAL;
                        t->has_version = true;
                }
                if (!s[n])
                        return 0;
                s += n + 1;
        }
}

static int parse_status(const char **s, unsigned *ret) {
        _cleanup_free_ char *level = NULL;
        uint64_t v;
        int r = take_level(s, &level);

        if (r < 0)
                return r;
        if (parse_u64_range(level, 0, INT32_MAX, &v) < 0)
                return -EINVAL;
        *ret = (unsigned) v;
        return 0;
}

static int parse_method_name(const char **s, char **ret) {
        _cleanup_free_ char *level = NULL, *name = NULL;
        size_t size;
        int r = take_level(s, &level);

        if (r < 0)
                return r;
        r = percent_decode(level, strlen(level), &name, &size);
        if (r < 0)
                return r;
        if (size == 0 || strlen(name) != size)
                return -EINVAL;
        *ret = TAKE_PTR(name);
        return 0;
}

/* Behind "$iothub/". */
static int parse_iothub(const char *s, HubTopic *t) {
        static const struct {
                const char *prefix;
                HubTopicKind kind;
                bool needs_version; /* else a request id */
        } table[] = {
                { "methods/POST/", HUB_TOPIC_METHOD_CALL },
                { "methods/res/", HUB_TOPIC_METHOD_RESPONSE },
                { "twin/res/", HUB_TOPIC_TWIN_RESULT },
                { "twin/PATCH/properties/desired", HUB_TOPIC_TWIN_DESIRED, true },
                { "twin/PATCH/properties/reported", HUB_TOPIC_TWIN_REPORTED },
                { "twin/GET", HUB_TOPIC_TWIN_GET },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                const char *rest = startswith(s, table[i].prefix);
                int r = 0;

                if (!rest)
                        continue;
                t->kind = table[i].kind;
                if (t->kind == HUB_TOPIC_METHOD_CALL)
                        r = parse_method_name(&rest, &t->method);
                else if (t->kind == HUB_TOPIC_METHOD_RESPONSE || t->kind == HUB_TOPIC_TWIN_RESULT)
                        r = parse_status(&rest, &t->status);
                if (r >= 0)
                        r = parse_parameters(rest, t);
                if (r < 0)
                        return r;
                return (table[i].needs_version ? t->has_version : !!t->rid) ? 0 : -EINVAL;
        }
        return -EINVAL;
}

int hub_topic_parse(const char *topic, HubTopic *ret) {
        _cleanup_(hub_topic_done) HubTopic t = {};
        const char *rest;
        int r;

        if ((rest = startswith(topic, "devices/")))
                r = parse_devices(rest, &t);
        else if ((rest = startswith(topic, "$iothub/")))
                r = parse_iothub(rest, &t);
        else
                r = -EINVAL;
        if (r < 0)
                return r;
        *ret = t;
        t = (HubTopic) {};
        return 0;
}

void hub_topic_done(HubTopic *t) {
        free(t->device_id);
        free(t->module_id);
        free(t->bag);
        free(t->method);
        free(t->rid);
        *t = (HubTopic) {};
}
