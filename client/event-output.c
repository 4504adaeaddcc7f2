/* The JSON is that of "az iot hub monitor-events", which users and their scripts know, with the
 * partition added. What a hub or a device sends is made harmless here: text that is no UTF-8,
 * control characters. */
#include "client/event-output.h"

#include <math.h>
#include <strings.h>

#include "lib/base64.h"
#include "lib/json-text.h"
#include "lib/parse-util.h"
#include "lib/time-util.h"
#include "lib/utf8.h"

#define JSON_DEPTH_MAX 32U
#define VALUE_DEPTH_MAX 8U
#define PEOPLE_BYTES_MAX 2048U /* of a body, unless --content asks for it */

EventContent event_content_from_string(const char *s) {
        static const char *const names[_EVENT_CONTENT_MAX] = { "auto", "json", "text", "base64" };

        for (EventContent c = 0; c < _EVENT_CONTENT_MAX; c++)
                if (streq(s, names[c]))
                        return c;
        return _EVENT_CONTENT_INVALID;
}

int event_properties_from_string(const char *s, unsigned *ret) {
        static const struct {
                const char *name;
                unsigned flag;
        } words[] = {
                { "system", EVENT_PROPERTIES_SYSTEM },
                { "application", EVENT_PROPERTIES_APPLICATION },
                { "annotations", EVENT_PROPERTIES_ANNOTATIONS },
                { "all", EVENT_PROPERTIES_ALL },
        };
        unsigned flags = 0;

        while (*s) {
                size_t n = strcspn(s, ","), i;

                for (i = 0; i < ELEMENTSOF(words); i++)
                        if (strlen(words[i].name) == n && memcmp(words[i].name, s, n) == 0)
                                break;
                if (i == ELEMENTSOF(words))
                        return -EINVAL;
                flags |= words[i].flag;
                s += n;
                if (*s == ',' && !*++s)
                        return -EINVAL;
        }
        *ret = flags;
        return flags != 0 ? 0 : -EINVAL;
}

/* ---- pieces ---- */

static int put(Buffer *out, const char *s) {
        return buffer_append_string(out, s);
}

static int put_base64(Buffer *out, AmqpBytes b) {
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        r = base64_encode(b.data, b.size, &text, &n);
        return r < 0 ? r : buffer_append(out, text, n);
}

/* Bytes that are no UTF-8 become U+FFFD one by one. */
static int put_json_text(Buffer *out, AmqpBytes b) {
        size_t i = 0;
        int r;

        if (utf8_is_valid(b.data, b.size))
                return json_text_append_string(out, (const char *) b.data, b.size);
        r = put(out, "\"");
        while (i < b.size && r >= 0) {
                size_t n = 1, from = out->size;

                while (n < 4 && i + n < b.size && (b.data[i + n] & 0xc0) == 0x80)
                        n++;
                for (; n > 1 && !utf8_is_valid(b.data + i, n); n--)
                        ;
                if (!utf8_is_valid(b.data + i, n))
                        r = put(out, "\\ufffd");
                else {
                        r = json_text_append_string(out, (const char *) b.data + i, n);
                        if (r >= 0) { /* without its quotes */
                                memmove(out->data + from, out->data + from + 1,
                                        out->size - from - 2);
                                out->size -= 2;
                        }
                }
                i += n;
        }
        return r < 0 ? r : put(out, "\"");
}

static int put_uuid(Buffer *out, AmqpBytes b) {
        char text[37];

        return put(out, format_uuid(b.data, text));
}

/* Without appendf's two passes: numbers are in every event. */
static int put_integer(Buffer *out, bool negative, uint64_t v) {
        char digits[24], *p = digits + sizeof(digits);

        do
                *--p = (char) ('0' + v % 10);
        while ((v /= 10) > 0);
        if (negative)
                *--p = '-';
        return buffer_append(out, p, (size_t) (digits + sizeof(digits) - p));
}

static int put_double(Buffer *out, double d) {
        return isfinite(d) ? buffer_appendf(out, "%.17g", d) : put(out, "null");
}

static int put_json_value(Buffer *out, const AmqpValue *v, unsigned depth);

static int put_json_items(Buffer *out, const AmqpValue *v, unsigned depth) {
        const bool map = v->type == AMQP_MAP;
        AmqpReader r = v->items;
        AmqpValue item;
        bool first = true;
        int k;

        k = put(out, map ? "{" : "[");
        while (k >= 0 && amqp_read(&r, &item) > 0) {
                k = put(out, first ? "" : ",");
                first = false;
                if (k >= 0 && map && (item.type == AMQP_STRING || item.type == AMQP_SYMBOL))
                        k = put_json_text(out, item.bytes);
                else if (k >= 0 && map)
                        k = put(out, "\"?\""); /* a name that is no text */
                else if (k >= 0)
                        k = put_json_value(out, &item, depth + 1);
                if (k < 0 || !map)
                        continue;
                k = put(out, ":");
                if (k >= 0 && amqp_read(&r, &item) <= 0)
                        return put(out, "null}");
                if (k >= 0)
                        k = put_json_value(out, &item, depth + 1);
        }
        return k < 0 ? k : put(out, map ? "}" : "]");
}

static int put_json_value(Buffer *out, const AmqpValue *v, unsigned depth) {
        int r;

        switch (v->type) {
        case AMQP_BOOLEAN: return put(out, v->integer ? "true" : "false");
        case AMQP_UNSIGNED: return put_integer(out, false, v->uinteger);
        case AMQP_SIGNED:
        case AMQP_TIMESTAMP:
                return put_integer(out, v->integer < 0,
                                   v->integer < 0 ? -(uint64_t) v->integer : (uint64_t) v->integer);
        case AMQP_DOUBLE: return put_double(out, v->real);
        case AMQP_CHAR: return put_integer(out, false, v->uinteger);
        case AMQP_STRING:
        case AMQP_SYMBOL: return put_json_text(out, v->bytes);
        case AMQP_UUID:
        case AMQP_BINARY:
        case AMQP_DECIMAL:
                if (v->type == AMQP_BINARY && utf8_is_valid(v->bytes.data, v->bytes.size))
                        return put_json_text(out, v->bytes); /* as a user-id is */
                r = put(out, "\"");
                if (r >= 0)
                        r = v->type == AMQP_UUID ? put_uuid(out, v->bytes) :
                                                   put_base64(out, v->bytes);
                return r < 0 ? r : put(out, "\"");
        case AMQP_LIST:
        case AMQP_MAP:
        case AMQP_ARRAY:
                return depth < VALUE_DEPTH_MAX ? put_json_items(out, v, depth) : put(out, "null");
        default: return put(out, "null");
        }
}

/* ---- JSON ---- */

typedef struct SystemProperty {
        const char *name;
        const AmqpValue *value;
} SystemProperty;

#define SYSTEM_PROPERTIES 10U

static void system_properties(const AmqpMessage *m, SystemProperty ret[static SYSTEM_PROPERTIES]) {
        const SystemProperty list[SYSTEM_PROPERTIES] = {
                { "message_id", &m->message_id },
                { "correlation_id", &m->correlation_id },
                { "content_type", &m->content_type },
                { "content_encoding", &m->content_encoding },
                { "user_id", &m->user_id },
                { "to", &m->to },
                { "subject", &m->subject },
                { "reply_to", &m->reply_to },
                { "absolute_expiry_time", &m->absolute_expiry_time },
                { "creation_time", &m->creation_time },
        };

        memcpy(ret, list, sizeof(list));
}

static int put_json_system(Buffer *out, const AmqpMessage *m) {
        SystemProperty list[SYSTEM_PROPERTIES];
        bool first = true;
        int r;

        system_properties(m, list);
        r = put(out, "{");
        for (size_t i = 0; i < SYSTEM_PROPERTIES && r >= 0; i++) {
                if (list[i].value->type == AMQP_NULL)
                        continue;
                r = put(out, first ? "\"" : ",\"");
                first = false;
                if (r >= 0)
                        r = put(out, list[i].name);
                if (r >= 0)
                        r = put(out, "\":");
                if (r >= 0)
                        r = put_json_value(out, list[i].value, 0);
        }
        return r < 0 ? r : put(out, "}");
}

static int put_json_map(Buffer *out, const AmqpValue *v) {
        return v->type == AMQP_MAP ? put_json_items(out, v, 0) : put(out, "{}");
}

static bool says_json(AmqpBytes type) {
        for (size_t i = 0; i + 4 <= type.size; i++)
                if (strncasecmp((const char *) type.data + i, "json", 4) == 0)
                        return true;
        return false;
}

static bool is_json(const Event *e, AmqpBytes body, EventContent content) {
        AmqpBytes type = {};

        if (body.size == 0 || content == EVENT_CONTENT_TEXT || content == EVENT_CONTENT_BASE64)
                return false;
        (void) amqp_value_text(&e->message.content_type, &type); /* else it stays empty */
        if (content == EVENT_CONTENT_AUTO && type.size > 0 && !says_json(type))
                return false;
        /* A number alone is a number only where somebody says that it is JSON. */
        if (content == EVENT_CONTENT_AUTO && type.size == 0 && body.data[0] != '{' &&
            body.data[0] != '[')
                return false;
        return json_text_is_valid((const char *) body.data, body.size, JSON_DEPTH_MAX);
}

/* Line breaks stand between its values only, so that blanks do as well; other control characters
 * stand in its strings only, so that escapes do. */
static int put_raw_json(Buffer *out, AmqpBytes body) {
        size_t from = 0;
        int r = 0;

        for (size_t i = 0; i < body.size && r >= 0; i++) {
                uint8_t c = body.data[i];

                if (c >= 0x20 && c != 0x7f && (c != 0xc2 || body.data[i + 1] >= 0xa0))
                        continue;
                r = buffer_append(out, body.data + from, i - from);
                if (c == 0xc2) /* it is UTF-8, so there is a second byte */
                        c = body.data[++i];
                if (r >= 0)
                        r = c < 0x20 ? put(out, " ") : buffer_appendf(out, "\\u%04x", c);
                from = i + 1;
        }
        return r < 0 ? r : buffer_append(out, body.data + from, body.size - from);
}

static int put_json_payload(Buffer *out, const Event *e, EventContent content) {
        const AmqpBytes body = event_body(e);
        int r;

        if (e->message.body.type != AMQP_NULL && !e->message.body_is_data && body.size == 0) {
                r = put(out, ",\"payload\":"); /* a value that is no bytes: no device of a hub's
                                                  sends one */
                return r < 0 ? r : put_json_value(out, &e->message.body, 0);
        }
        if (content == EVENT_CONTENT_BASE64 ||
            (content != EVENT_CONTENT_TEXT && !utf8_is_valid(body.data, body.size))) {
                r = put(out, ",\"payloadBase64\":\"");
                if (r >= 0)
                        r = put_base64(out, body);
                return r < 0 ? r : put(out, "\"");
        }
        r = put(out, ",\"payload\":");
        if (r < 0)
                return r;
        return is_json(e, body, content) ? put_raw_json(out, body) : put_json_text(out, body);
}

static int put_json_member(Buffer *out, const char *start, AmqpBytes value) {
        int r;

        r = put(out, start);
        return r < 0 ? r : put_json_text(out, value);
}

static int format_json(const Event *e, const EventFormat *f, Buffer *out) {
        const unsigned properties = f->properties ? f->properties : EVENT_PROPERTIES_ALL;
        const AmqpMessage *m = &e->message;
        int r;

        r = put_json_member(out, "{\"event\":{\"origin\":", e->device);
        if (r >= 0)
                r = put_json_member(out, ",\"module\":", e->module);
        if (r >= 0)
                r = put_json_member(out, ",\"interface\":", e->interface);
        if (r >= 0)
                r = put_json_member(out, ",\"component\":", e->component);
        if (r >= 0)
                r = put_json_member(out, ",\"partition\":",
                                    (AmqpBytes){ (const uint8_t *) e->partition,
                                                 strlen(e->partition) });
        if (r >= 0)
                r = put(out, ",\"properties\":{");
        if (r >= 0 && (properties & EVENT_PROPERTIES_SYSTEM)) {
                r = put(out, "\"system\":");
                if (r >= 0)
                        r = put_json_system(out, m);
        }
        if (r >= 0 && (properties & EVENT_PROPERTIES_APPLICATION)) {
                r = put(out, properties & EVENT_PROPERTIES_SYSTEM ? ",\"application\":" :
                                                                    "\"application\":");
                if (r >= 0)
                        r = put_json_map(out, &m->application_properties);
        }
        if (r >= 0)
                r = put(out, "}");
        if (r >= 0 && (properties & EVENT_PROPERTIES_ANNOTATIONS)) {
                r = put(out, ",\"annotations\":");
                if (r >= 0)
                        r = put_json_map(out, &m->annotations);
        }
        if (r >= 0)
                r = put_json_payload(out, e, f->content);
        return r < 0 ? r : put(out, "}}\n");
}

/* ---- for people ---- */

/* Text on one line: blanks for line breaks, "?" for other control characters, among them those of
 * two bytes that begin a command of a terminal; what is no UTF-8 likewise. */
static int put_safe(Buffer *out, AmqpBytes b) {
        const bool valid = utf8_is_valid(b.data, b.size);
        const size_t from = out->size;
        uint8_t *p;
        int r;

        r = buffer_append(out, b.data, b.size);
        if (r < 0 || b.size == 0)
                return r;
        p = out->data + from;
        for (size_t i = 0; i < b.size; i++)
                if (p[i] == '\n' || p[i] == '\r' || p[i] == '\t')
                        p[i] = ' ';
                else if (p[i] < 0x20 || p[i] == 0x7f || (!valid && p[i] >= 0x80))
                        p[i] = '?';
                else if (p[i] == 0xc2 && i + 1 < b.size && p[i + 1] < 0xa0)
                        p[i] = p[i + 1] = '?';
        return 0;
}

static int put_value(Buffer *out, const AmqpValue *v) {
        AmqpBytes b;
        int r;

        if (amqp_value_text(v, &b))
                return put_safe(out, b);
        if (v->type == AMQP_TIMESTAMP && v->integer >= 0) {
                char time[FORMAT_TIMESTAMP_MAX];

                return put(out,
                           format_timestamp(time, sizeof(time),
                                            (usec_t) v->integer > USEC_INFINITY / USEC_PER_MSEC ?
                                                            USEC_INFINITY :
                                                            (usec_t) v->integer * USEC_PER_MSEC));
        }
        if (v->type == AMQP_UUID)
                return put_uuid(out, v->bytes);
        r = put_json_value(out, v, 0);
        return r;
}

static int put_named(Buffer *out, const char *separator, AmqpBytes name, const AmqpValue *v) {
        int r;

        r = put(out, separator);
        if (r >= 0)
                r = put_safe(out, name);
        if (r >= 0)
                r = put(out, "=");
        return r < 0 ? r : put_value(out, v);
}

static int put_system(Buffer *out, const AmqpMessage *m, size_t n, const char **separator,
                      const char *next) {
        SystemProperty list[SYSTEM_PROPERTIES];
        int r = 0;

        system_properties(m, list);
        for (size_t i = 0; i < n && r >= 0; i++) {
                if (list[i].value->type == AMQP_NULL)
                        continue;
                r = put_named(out, *separator,
                              (AmqpBytes){ (const uint8_t *) list[i].name, strlen(list[i].name) },
                              list[i].value);
                *separator = next;
        }
        return r;
}

static int put_map(Buffer *out, const AmqpValue *map, const char **separator, const char *next) {
        AmqpReader items = map->items;
        AmqpValue name, value;
        AmqpBytes b;
        int r = 0;

        if (map->type != AMQP_MAP)
                return 0;
        while (r >= 0 && amqp_read(&items, &name) > 0 && amqp_read(&items, &value) > 0) {
                if (!amqp_value_text(&name, &b))
                        continue;
                r = put_named(out, *separator, b, &value);
                *separator = next;
        }
        return r;
}

/* In the event's own line: the ids, and what the application set. */
static int put_short_properties(Buffer *out, const Event *e) {
        const char *separator = " [";
        int r;

        r = put_system(out, &e->message, 2, &separator, " ");
        if (r >= 0)
                r = put_map(out, &e->message.application_properties, &separator, " ");
        return r >= 0 && *separator == ' ' && !separator[1] ? put(out, "]") : r;
}

/* A line for each group that was asked for and has something. */
static int put_long_properties(Buffer *out, const Event *e, unsigned properties) {
        const char *separator = "\n    system: ";
        int r = 0;

        if (properties & EVENT_PROPERTIES_SYSTEM)
                r = put_system(out, &e->message, SYSTEM_PROPERTIES, &separator, "  ");
        separator = "\n    application: ";
        if (r >= 0 && (properties & EVENT_PROPERTIES_APPLICATION))
                r = put_map(out, &e->message.application_properties, &separator, "  ");
        separator = "\n    annotations: ";
        if (r >= 0 && (properties & EVENT_PROPERTIES_ANNOTATIONS))
                r = put_map(out, &e->message.annotations, &separator, "  ");
        return r;
}

/* Not in the middle of a character. */
static AmqpBytes cut(AmqpBytes b, size_t max) {
        size_t n = MIN(b.size, max);

        while (n < b.size && n > 0 && (b.data[n] & 0xc0) == 0x80)
                n--;
        return (AmqpBytes){ b.data, n };
}

static int put_body(Buffer *out, const Event *e, EventContent content) {
        const AmqpBytes body = event_body(e), shown = cut(body, PEOPLE_BYTES_MAX);
        int r;

        if (body.size == 0)
                return put(out, "(empty)");
        if (content == EVENT_CONTENT_BASE64)
                return put_base64(out, body);
        if (content == EVENT_CONTENT_TEXT)
                return put_safe(out, body);
        if (!utf8_is_valid(body.data, body.size))
                return buffer_appendf(out, "(%zu bytes, no text)", body.size);
        if (content == EVENT_CONTENT_JSON)
                return is_json(e, body, content) ?
                                       put_safe(out, body) :
                                       buffer_appendf(out, "(%zu bytes, no JSON)", body.size);
        r = put_safe(out, shown);
        if (r >= 0 && shown.size < body.size)
                r = buffer_appendf(out, "... (%zu bytes)", body.size);
        return r;
}

static int format_people(const Event *e, const EventFormat *f, Buffer *out) {
        char time[FORMAT_TIMESTAMP_MAX] = "-";
        int r;

        if (e->enqueued_msec >= 0 && (uint64_t) e->enqueued_msec <= USEC_INFINITY / USEC_PER_MSEC)
                format_timestamp(time, sizeof(time), (usec_t) e->enqueued_msec * USEC_PER_MSEC);
        r = put(out, time);
        if (r >= 0)
                r = put(out, " ");
        if (r >= 0)
                r = e->device.size > 0 ? put_safe(out, e->device) : put(out, "-");
        if (r >= 0 && e->module.size > 0) {
                r = put(out, "/");
                if (r >= 0)
                        r = put_safe(out, e->module);
        }
        if (r >= 0)
                r = put(out, ": ");
        if (r >= 0)
                r = put_body(out, e, f->content);
        if (r >= 0)
                r = f->properties ? put_long_properties(out, e, f->properties) :
                                    put_short_properties(out, e);
        return r < 0 ? r : put(out, "\n");
}

int event_format(const Event *e, const EventFormat *format, Buffer *out) {
        return format->json ? format_json(e, format, out) : format_people(e, format, out);
}
