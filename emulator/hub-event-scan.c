#include "emulator/hub-event-scan.h"

#include <assert.h>

#include "lib/base64.h"
#include "lib/macro.h"

typedef struct Cursor {
        char *at, *end;
} Cursor;

void hub_event_scan_done(HubEventScan *s) {
        free(s->properties);
        *s = (HubEventScan){ 0 };
}

/* Whether the literal comes next; then it is behind. */
static bool take(Cursor *c, const char *literal, size_t n) {
        if ((size_t) (c->end - c->at) < n || memcmp(c->at, literal, n) != 0)
                return false;
        c->at += n;
        return true;
}

#define TAKE(c, literal) take(c, literal, sizeof(literal) - 1)

static int hex_digit(char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What follows a backslash: itself, or u00XX for a control character. Moves *out behind what it
 * makes. */
static int take_escaped(Cursor *c, char **out) {
        int high, low, v;

        if (!TAKE(c, "u00")) {
                if (c->at == c->end || (*c->at != '"' && *c->at != '\\'))
                        return -EBADMSG;
                *(*out)++ = *c->at++;
                return 0;
        }
        if (c->end - c->at < 2)
                return -EBADMSG;
        high = hex_digit(c->at[0]);
        low = hex_digit(c->at[1]);
        if (high < 0 || low < 0)
                return -EBADMSG;
        c->at += 2;
        v = high << 4 | low;
        if (v >= 0x80) /* two bytes in UTF-8 */
                *(*out)++ = (char) (0xc0 | v >> 6);
        *(*out)++ = (char) (v >= 0x80 ? 0x80 | (v & 0x3f) : v);
        return 0;
}

/* The rest of a string from its first backslash on. Decoding makes it shorter. */
static int take_rest_of_string(Cursor *c, char *out, char **ret_end) {
        int r;

        while (c->at < c->end && *c->at != '"') {
                if (*c->at != '\\') {
                        *out++ = *c->at++;
                        continue;
                }
                c->at++;
                r = take_escaped(c, &out);
                if (r < 0)
                        return r;
        }
        if (c->at == c->end)
                return -EBADMSG;
        *ret_end = out;
        return 0;
}

/* A string behind its first quote, which may hold a NUL only where the caller knows the size. */
static int take_string(Cursor *c, HubEventText *ret) {
        char *begin = c->at, *end, *backslash;
        int r;

        end = memchr(begin, '"', (size_t) (c->end - begin));
        if (!end)
                return -EBADMSG;
        backslash = memchr(begin, '\\', (size_t) (end - begin));
        c->at = backslash ? backslash : end;
        if (backslash) {
                r = take_rest_of_string(c, backslash, &end);
                if (r < 0)
                        return r;
        }
        c->at++;
        *end = '\0'; /* on the quote or before it */
        *ret = (HubEventText){ begin, (size_t) (end - begin) };
        return 0;
}

static int take_text(Cursor *c, HubEventText *ret) {
        HubEventText t;
        int r;

        r = take_string(c, &t);
        if (r >= 0 && memchr(t.data, '\0', t.size))
                return -EBADMSG;
        if (r >= 0)
                *ret = t;
        return r;
}

/* Digits as they are written: no sign, no zero in front. */
static int take_number(Cursor *c, int64_t *ret) {
        const char *begin = c->at;
        int64_t v = 0;

        for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
                int digit = *c->at - '0';

                if (v > (INT64_MAX - digit) / 10)
                        return -EBADMSG;
                v = v * 10 + digit;
        }
        if (c->at == begin || (*begin == '0' && c->at - begin > 1))
                return -EBADMSG;
        *ret = v;
        return 0;
}

static int take_place(Cursor *c, HubStoredEvent *e) {
        HubEventText time;
        int64_t partition;

        if (!TAKE(c, "{\"deviceId\":\"") || take_text(c, &e->device_id) < 0)
                return -EBADMSG;
        if (TAKE(c, ",\"moduleId\":\"") && take_text(c, &e->module_id) < 0)
                return -EBADMSG;
        if (!TAKE(c, ",\"partition\":") || take_number(c, &partition) < 0 ||
            partition > UINT16_MAX || !TAKE(c, ",\"sequenceNumber\":") ||
            take_number(c, &e->place.sequence) < 0 || !TAKE(c, ",\"offset\":\"") ||
            take_number(c, &e->place.offset) < 0 || !TAKE(c, "\",\"enqueuedTime\":\"") ||
            take_text(c, &time) < 0 ||
            parse_timestamp(time.data, time.size, &e->place.enqueued_usec) < 0)
                return -EBADMSG;
        e->place.partition = (unsigned) partition;
        return 0;
}

static int take_auth(Cursor *c, HubAuthMethod *ret) {
        HubEventText scope, type;
        HubAuthScope s = 0;
        HubAuthType t = 0;

        if (!TAKE(c, ",\"authMethod\":{\"scope\":\"") || take_text(c, &scope) < 0 ||
            !TAKE(c, ",\"type\":\"") || take_text(c, &type) < 0 || !TAKE(c, "}"))
                return -EBADMSG;
        while (s < _HUB_AUTH_SCOPE_MAX && !streq(hub_auth_scope_to_string(s), scope.data))
                s++;
        while (t < _HUB_AUTH_TYPE_MAX && !streq(hub_auth_type_to_string(t), type.data))
                t++;
        if (s == _HUB_AUTH_SCOPE_MAX || t == _HUB_AUTH_TYPE_MAX)
                return -EBADMSG;
        *ret = (HubAuthMethod){ s, t };
        return 0;
}

static void keep_system(HubStoredEvent *e, const HubEventProperty *p) {
        for (HubSystemProperty i = 0; i < _HUB_SYSTEM_MAX; i++)
                if (streq(p->name.data, hub_system_property_to_string(i))) {
                        e->system[i] = p->value;
                        return;
                }
        /* One that we do not know is in the line alone. */
}

static int add_property(HubEventScan *s, const HubEventProperty *p) {
        if (s->event.n_properties == s->n_allocated) {
                size_t n = MAX(s->n_allocated * 2, 16U);
                HubEventProperty *more = reallocarray(s->properties, n, sizeof(*more));

                if (!more)
                        return -ENOMEM;
                s->properties = more;
                s->n_allocated = n;
        }
        s->properties[s->event.n_properties++] = *p;
        return 0;
}

/* Members behind the opening brace, with the closing one. */
static int take_properties(Cursor *c, HubEventScan *s, bool system) {
        HubEventProperty p;
        int r = 0;

        if (TAKE(c, "}"))
                return 0;
        do {
                if (!TAKE(c, "\"") || take_text(c, &p.name) < 0 || !TAKE(c, ":\"") ||
                    take_text(c, &p.value) < 0)
                        return -EBADMSG;
                if (system)
                        keep_system(&s->event, &p);
                else
                        r = add_property(s, &p);
        } while (r >= 0 && TAKE(c, ","));
        if (r >= 0 && !TAKE(c, "}"))
                return -EBADMSG;
        return r;
}

static int take_body(Cursor *c, HubStoredEvent *e) {
        HubEventText t;

        if (TAKE(c, ",\"body\":\"")) {
                if (take_string(c, &t) < 0)
                        return -EBADMSG;
        } else if (!TAKE(c, ",\"bodyBase64\":\"") || take_string(c, &t) < 0 ||
                   base64_decode_to(t.data, t.size, (char *) t.data, &t.size) < 0)
                return -EBADMSG;
        e->body = t.data;
        e->body_size = t.size;
        return 0;
}

int hub_event_scan_place(HubEventScan *s, char *line, size_t n) {
        Cursor c = { line, line + n };

        s->event = (HubStoredEvent){ 0 };
        return take_place(&c, &s->event);
}

int hub_event_scan(HubEventScan *s, char *line, size_t n) {
        HubStoredEvent *e = &s->event;
        Cursor c = { line, line + n };
        int r;

        assert(s);
        assert(line);

        *e = (HubStoredEvent){ 0 };
        if (take_place(&c, e) < 0 || !TAKE(&c, ",\"generationId\":\"") ||
            take_text(&c, &e->generation_id) < 0 || take_auth(&c, &e->auth) < 0)
                return -EBADMSG;
        if (TAKE(&c, ",\"modelId\":\"") && take_text(&c, &e->model_id) < 0)
                return -EBADMSG;
        if (!TAKE(&c, ",\"systemProperties\":{") ||
            take_properties(&c, s, /* system= */ true) < 0 || !TAKE(&c, ",\"properties\":{"))
                return -EBADMSG;
        r = take_properties(&c, s, /* system= */ false);
        if (r < 0)
                return r;
        if (take_body(&c, e) < 0 || !TAKE(&c, "}") || c.at != c.end)
                return -EBADMSG;
        e->properties = s->properties;
        return 0;
}
