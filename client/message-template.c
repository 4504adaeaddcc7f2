/* The text behind the body ("\"" and all further fields) is one string with holes for the counter:
 * pieces in one buffer, with the offset of each hole. */
#include "lib/base64.h"
#include "lib/hub-message.h"
#include "lib/utf8.h"
#include "lib/varlink-wire.h"
#include "client/message-template.h"

/* Text whose escaped form is longer than this goes as base64: six bytes for each control character
 * would make a body that the hub takes longer than a frame may be. */
#define ESCAPED_BYTES_MAX (512U * 1024U)

struct MessageTemplate {
        Buffer text;
        size_t *holes; /* offsets into text, ascending */
        size_t n_holes;
        size_t n_elements;
};

MessageTemplate *message_template_free(MessageTemplate *t) {
        if (!t)
                return NULL;
        buffer_done(&t->text);
        free(t->holes);
        free(t);
        return NULL;
}

size_t message_template_elements(const MessageTemplate *t) {
        return t->n_elements;
}

static bool needs_escape(unsigned char c) {
        return c < 0x20 || c == '"' || c == '\\';
}

static int escape_one(Buffer *out, unsigned char c) {
        static const char hex[] = "0123456789abcdef";
        char text[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };

        switch (c) {
        case '"':
        case '\\': text[1] = (char) c; return buffer_append(out, text, 2);
        case '\n': text[1] = 'n'; return buffer_append(out, text, 2);
        case '\r': text[1] = 'r'; return buffer_append(out, text, 2);
        case '\t': text[1] = 't'; return buffer_append(out, text, 2);
        default: return buffer_append(out, text, sizeof(text));
        }
}

int json_escape_append(Buffer *out, const char *s, size_t n) {
        int r;

        for (size_t i = 0; i < n;) {
                size_t start = i;

                while (i < n && !needs_escape((unsigned char) s[i]))
                        i++;
                if (i > start) {
                        r = buffer_append(out, s + start, i - start);
                        if (r < 0)
                                return r;
                }
                if (i < n) {
                        r = escape_one(out, (unsigned char) s[i++]);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static int add_hole(MessageTemplate *t) {
        size_t *holes = reallocarray(t->holes, t->n_holes + 1, sizeof(size_t));

        if (!holes)
                return -ENOMEM;
        t->holes = holes;
        t->holes[t->n_holes++] = t->text.size;
        return 0;
}

/* Finds the next "%n" or "%%" at or behind *s. Returns it or NULL; text before it is literal. */
static const char *next_percent(const char *s) {
        for (; (s = strchr(s, '%')); s++)
                if (s[1] == 'n' || s[1] == '%')
                        return s;
        return NULL;
}

static int add_counter_text(MessageTemplate *t, const char *s) {
        const char *percent;
        int r;

        while ((percent = next_percent(s))) {
                r = json_escape_append(&t->text, s, (size_t) (percent - s));
                if (r >= 0)
                        r = percent[1] == 'n' ? add_hole(t) : buffer_append(&t->text, "%", 1);
                if (r < 0)
                        return r;
                s = percent + 2;
        }
        return json_escape_append(&t->text, s, strlen(s));
}

/* ,"name":"value" ; first: without the comma */
static int add_text(MessageTemplate *t, const char *name, const char *value, bool counter,
                    bool first) {
        int r;

        if (!value)
                return 0;
        t->n_elements += 2;
        r = buffer_append_string(&t->text, first ? "\"" : ",\"");
        if (r >= 0)
                r = json_escape_append(&t->text, name, strlen(name));
        if (r >= 0)
                r = buffer_append_string(&t->text, "\":\"");
        if (r >= 0)
                r = counter ? add_counter_text(t, value) :
                              json_escape_append(&t->text, value, strlen(value));
        return r >= 0 ? buffer_append_string(&t->text, "\"") : r;
}

static int add_properties(MessageTemplate *t, const MessageFields *f) {
        int r;

        if (f->properties.n_items == 0)
                return 0;
        t->n_elements += 2 + VARLINK_OBJECT_ELEMENTS;
        r = buffer_append_string(&t->text, ",\"properties\":{");
        for (size_t i = 0; r >= 0 && i < f->properties.n_items; i++) {
                const Property *p = &f->properties.items[i];

                r = add_text(t, p->name, strempty(p->value), f->property_counters, i == 0);
        }
        return r >= 0 ? buffer_append_string(&t->text, "}") : r;
}

int message_template_new(const MessageFields *f, MessageTemplate **ret) {
        _cleanup_(message_template_freep) MessageTemplate *t = NULL;
        int r;

        t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;

        t->n_elements = 1 + VARLINK_OBJECT_ELEMENTS + 2; /* the object, "body" and its value */
        r = buffer_append_string(&t->text, "\"");
        if (r >= 0)
                r = add_text(t, "messageId", f->message_id, /* counter= */ true,
                             /* first= */ false);
        if (r >= 0)
                r = add_text(t, "correlationId", f->correlation_id, /* counter= */ true,
                             /* first= */ false);
        if (r >= 0)
                r = add_text(t, "contentType", f->content_type, /* counter= */ false,
                             /* first= */ false);
        if (r >= 0)
                r = add_text(t, "contentEncoding", f->content_encoding, /* counter= */ false,
                             /* first= */ false);
        if (r >= 0)
                r = add_text(t, "lane", f->lane, /* counter= */ false, /* first= */ false);
        if (r >= 0)
                r = add_properties(t, f);
        if (r >= 0 && f->time_to_live_usec != USEC_INFINITY) {
                t->n_elements += 2;
                r = buffer_appendf(&t->text, ",\"timeToLiveUSec\":%" PRIu64, f->time_to_live_usec);
        }
        if (r >= 0)
                r = buffer_append_string(&t->text, "}");
        if (r < 0)
                return r;

        *ret = TAKE_PTR(t);
        return 0;
}

static size_t format_u64(uint64_t n, char buf[static 20]) {
        char reverse[20];
        size_t k = 0;

        do
                reverse[k++] = (char) ('0' + n % 10);
        while ((n /= 10) > 0);
        for (size_t i = 0; i < k; i++)
                buf[i] = reverse[k - 1 - i];
        return k;
}

static int append_rest(const MessageTemplate *t, uint64_t n, Buffer *out) {
        size_t done = 0, n_digits = 0;
        char digits[20];
        int r;

        if (t->n_holes > 0)
                n_digits = format_u64(n, digits);
        for (size_t i = 0; i < t->n_holes; i++) {
                r = buffer_append(out, t->text.data + done, t->holes[i] - done);
                if (r >= 0)
                        r = buffer_append(out, digits, n_digits);
                if (r < 0)
                        return r;
                done = t->holes[i];
        }
        return buffer_append(out, t->text.data + done, t->text.size - done);
}

static int append_text_body(Buffer *out, const char *body, size_t size) {
        int r;

        r = buffer_append_string(out, "{\"body\":\"");
        return r < 0 ? r : json_escape_append(out, body, size);
}

static int append_base64_body(Buffer *out, const void *body, size_t size) {
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        r = base64_encode(body, size, &text, &n);
        if (r >= 0)
                r = buffer_append_string(out, "{\"bodyBase64\":\"");
        return r < 0 ? r : buffer_append(out, text, n);
}

int message_template_encode(const MessageTemplate *t, uint64_t n, const void *body, size_t size,
                            Buffer *out) {
        const size_t start = out->size;
        int r;

        /* A NUL is valid UTF-8, but more programs stumble over it in a string than over base64. */
        if (utf8_is_valid(body, size) && !memchr(body, 0, size)) {
                r = append_text_body(out, body, size);
                if (r >= 0 && out->size - start > ESCAPED_BYTES_MAX) {
                        out->size = start;
                        r = append_base64_body(out, body, size);
                }
        } else
                r = append_base64_body(out, body, size);
        if (r >= 0)
                r = append_rest(t, n, out);
        if (r < 0)
                out->size = start;
        return r;
}

int counter_text_expand(const char *text, uint64_t n, char **ret) {
        _cleanup_(buffer_done) Buffer b = {};
        const char *percent;
        int r;

        while ((percent = next_percent(text))) {
                r = buffer_append(&b, text, (size_t) (percent - text));
                if (r >= 0)
                        r = percent[1] == 'n' ? buffer_appendf(&b, "%" PRIu64, n) :
                                                buffer_append(&b, "%", 1);
                if (r < 0)
                        return r;
                text = percent + 2;
        }
        r = buffer_append(&b, text, strlen(text) + 1);
        if (r < 0)
                return r;
        *ret = (char *) TAKE_PTR(b.data);
        return 0;
}

bool counter_text_counts(const char *text) {
        while ((text = next_percent(text)) && text[1] != 'n')
                text += 2;
        return text;
}

int message_fields_check(const MessageFields *f, char **reterr_field, const char **reterr_reason) {
        _cleanup_free_ char *message_id = NULL, *correlation_id = NULL;
        HubMessage m = {
                .content_type = f->content_type,
                .content_encoding = f->content_encoding,
                .creation_time_usec = USEC_INFINITY,
                .properties = &f->properties,
        };
        int r = 0;

        if (f->message_id)
                r = counter_text_expand(f->message_id, 1, &message_id);
        if (r >= 0 && f->correlation_id)
                r = counter_text_expand(f->correlation_id, 1, &correlation_id);
        if (r < 0)
                return r;
        m.message_id = message_id;
        m.correlation_id = correlation_id;

        /* The topic's prefix is the daemon's to know: too little here, so that nothing is refused
         * wrongly. */
        return hub_message_check(&m, /* topic_prefix_size= */ 0, /* made_id_size= */ 0,
                                 reterr_field, reterr_reason);
}
