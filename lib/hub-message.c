#include "lib/hub-message.h"

#include "lib/utf8.h"

#define MID_NAME_SIZE (sizeof("%24.mid=") - 1)
#define CREATION_TIME_SIZE (sizeof("2026-01-01T00:00:00.000Z") - 1)
#define CREATION_TIME_ENCODED_SIZE (CREATION_TIME_SIZE + 2 * 2) /* two colons become %3A */
#define QUOTED_NAME_MAX 128U

/* What a byte of text is, so that one pass gives length, encoded length and validity. The bare ones are those of
 * property-bag.c. */
enum {
        CLASS_CONTROL, /* what the table leaves out */
        CLASS_BARE,    /* one byte in a bag */
        CLASS_ESCAPE,  /* ASCII, three bytes in a bag */
        CLASS_HIGH,    /* part of a UTF-8 sequence, three bytes in a bag */
};

static const uint8_t classes[256] = {
        [' ' ... ','] = CLASS_ESCAPE,  ['-'] = CLASS_BARE,           ['.'] = CLASS_BARE,
        ['/'] = CLASS_ESCAPE,          ['0' ... '9'] = CLASS_BARE,   [':' ... '@'] = CLASS_ESCAPE,
        ['A' ... 'Z'] = CLASS_BARE,    ['[' ... '^'] = CLASS_ESCAPE, ['_'] = CLASS_BARE,
        ['`'] = CLASS_ESCAPE,          ['a' ... 'z'] = CLASS_BARE,   ['{' ... '}'] = CLASS_ESCAPE,
        ['~'] = CLASS_BARE,            [0x80 ... 0xff] = CLASS_HIGH,
};

static const uint8_t message_id_characters[256] = {
        ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['0' ... '9'] = 1, ['-'] = 1, [':'] = 1, ['.'] = 1, ['+'] = 1,
        ['%'] = 1, ['_'] = 1, ['#'] = 1, ['*'] = 1, ['?'] = 1, ['!'] = 1, ['('] = 1, [')'] = 1, [','] = 1,
        ['='] = 1, ['@'] = 1, [';'] = 1, ['$'] = 1, ['\''] = 1,
};

typedef struct Totals {
        size_t size;  /* by the hub's rule: values, and names of the application's properties */
        size_t topic; /* bytes of the topic, encoded */
} Totals;

/* C1 controls, U+0080 to U+009F; s is valid UTF-8. */
static bool has_c1_control(const uint8_t *s, size_t n) {
        for (size_t i = 0; i + 1 < n; i++)
                if (s[i] == 0xc2 && s[i + 1] < 0xa0)
                        return true;
        return false;
}

/* Checks one text and tells its sizes. NULL when it is fine, else the reason. */
static const char *scan_text(const char *s, size_t *ret_size, size_t *ret_encoded) {
        size_t n, escaped = 0;
        bool high = false;

        for (n = 0; s[n]; n++) {
                uint8_t class = classes[(uint8_t) s[n]];

                if (class == CLASS_CONTROL)
                        return "must not contain control characters";
                escaped += class >= CLASS_ESCAPE;
                high |= class == CLASS_HIGH;
        }
        if (high && !utf8_is_valid(s, n))
                return "must be valid UTF-8";
        if (high && has_c1_control((const uint8_t *) s, n))
                return "must not contain control characters";
        *ret_size = n;
        *ret_encoded = n + 2 * escaped;
        return NULL;
}

static const char *check_message_id(const char *id, size_t made_size, Totals *t) {
        size_t n, encoded;

        if (!id) {
                t->size += made_size;
                t->topic += MID_NAME_SIZE + made_size; /* made ids need no escape */
                return NULL;
        }
        for (n = 0; id[n]; n++)
                if (n >= HUB_MESSAGE_ID_MAX || !message_id_characters[(uint8_t) id[n]])
                        return "must be 1 to 128 of A-Z a-z 0-9 - : . + % _ # * ? ! ( ) , = @ ; $ '";
        if (n == 0)
                return "must not be empty: leave it out to have one made";
        (void) scan_text(id, &n, &encoded); /* for the size: what the alphabet allows is valid text */
        t->size += n;
        t->topic += MID_NAME_SIZE + encoded;
        return NULL;
}

/* A system property other than the message id: its name does not count for the hub's size. */
static const char *check_system(const char *value, size_t name_size, Totals *t) {
        size_t n, encoded;
        const char *reason;

        if (!value)
                return NULL;
        reason = scan_text(value, &n, &encoded);
        if (reason)
                return reason;
        t->size += n;
        t->topic += 1 + name_size + encoded; /* "&" */
        return NULL;
}

static const char *check_property(const Property *p, Totals *t) {
        size_t n, encoded;
        const char *reason;

        if (!p->name[0])
                return "a property name must not be empty";
        if (startswith(p->name, "$."))
                return "names that begin with $. are the hub's: use the fields of the message";
        if (startswith(p->name, "iothub-") && !streq(p->name, "iothub-creation-time-utc"))
                return "names that begin with iothub- are the hub's";
        reason = scan_text(p->name, &n, &encoded);
        if (reason)
                return reason;
        t->size += n;
        t->topic += 1 + encoded;
        if (!p->value)
                return NULL;
        reason = scan_text(p->value, &n, &encoded);
        if (reason)
                return reason;
        t->size += n;
        t->topic += 1 + encoded; /* "=" */
        return NULL;
}

static int compare_names(const void *a, const void *b) {
        return strcmp(*(const char *const *) a, *(const char *const *) b);
}

#define PROPERTIES_COMPARED_DIRECTLY 16U

/* A property name that comes twice, or NULL. Sorted when there are many: a sender decides how many, and comparing
 * each with each would let one message hold the loop. */
static int find_repeated(const PropertyBag *b, const char **ret) {
        _cleanup_free_ const char **names = NULL;

        *ret = NULL;
        if (b->n_items <= PROPERTIES_COMPARED_DIRECTLY) {
                for (size_t i = 1; i < b->n_items; i++)
                        for (size_t k = 0; k < i; k++)
                                if (streq(b->items[i].name, b->items[k].name)) {
                                        *ret = b->items[i].name;
                                        return 0;
                                }
                return 0;
        }
        names = reallocarray(NULL, b->n_items, sizeof(*names));
        if (!names)
                return -ENOMEM;
        for (size_t i = 0; i < b->n_items; i++)
                names[i] = b->items[i].name;
        qsort(names, b->n_items, sizeof(*names), compare_names);
        for (size_t i = 1; i < b->n_items; i++)
                if (streq(names[i], names[i - 1])) {
                        *ret = names[i];
                        return 0;
                }
        return 0;
}

static int fail(int error, const char *field, const char *reason, char **reterr_field, const char **reterr_reason) {
        char *copy = strdup(field);

        if (!copy)
                return -ENOMEM;
        *reterr_field = copy;
        *reterr_reason = reason;
        return error;
}

static int fail_property(const char *name, const char *reason, char **reterr_field, const char **reterr_reason) {
        size_t n, encoded;
        char *field;

        /* The field goes back to the sender as JSON, so a name is quoted only where it is presentable. */
        if (!name[0] || scan_text(name, &n, &encoded) || n > QUOTED_NAME_MAX)
                return fail(-EINVAL, "properties", reason, reterr_field, reterr_reason);
        if (asprintf(&field, "properties.%s", name) < 0)
                return -ENOMEM;
        *reterr_field = field;
        *reterr_reason = reason;
        return -EINVAL;
}

int hub_message_check(const HubMessage *m, size_t topic_prefix_size, size_t made_id_size, char **reterr_field,
                      const char **reterr_reason) {
        const struct {
                const char *field, *value;
                size_t name_size;
        } system[] = {
                { "correlationId", m->correlation_id, sizeof("%24.cid=") - 1 },
                { "contentType", m->content_type, sizeof("%24.ct=") - 1 },
                { "contentEncoding", m->content_encoding, sizeof("%24.ce=") - 1 },
        };
        Totals t = { .size = m->body_size, .topic = topic_prefix_size };
        const char *reason, *repeated;
        int r;

        /* First what costs nothing to find, so that no sum below can wrap. */
        if (m->body_size > HUB_MESSAGE_BYTES_MAX)
                return fail(-EMSGSIZE, "body", "the hub takes at most 262144 bytes, body and properties together",
                            reterr_field, reterr_reason);
        reason = check_message_id(m->message_id, made_id_size, &t);
        if (reason)
                return fail(-EINVAL, "messageId", reason, reterr_field, reterr_reason);
        for (size_t i = 0; i < ELEMENTSOF(system); i++) {
                reason = check_system(system[i].value, system[i].name_size, &t);
                if (reason)
                        return fail(-EINVAL, system[i].field, reason, reterr_field, reterr_reason);
        }
        if (m->creation_time_usec != USEC_INFINITY) {
                t.size += CREATION_TIME_SIZE;
                t.topic += sizeof("&%24.ctime=") - 1 + CREATION_TIME_ENCODED_SIZE;
        }
        for (size_t i = 0; m->properties && i < m->properties->n_items; i++) {
                reason = check_property(&m->properties->items[i], &t);
                if (reason)
                        return fail_property(m->properties->items[i].name, reason, reterr_field, reterr_reason);
        }
        if (t.topic > HUB_TOPIC_BYTES_MAX)
                return fail(-EMSGSIZE, "properties",
                            "ids and properties travel in the topic: percent-encoded at most 65535 bytes with it",
                            reterr_field, reterr_reason);
        if (t.size > HUB_MESSAGE_BYTES_MAX)
                return fail(-EMSGSIZE, "body", "the hub takes at most 262144 bytes, body and properties together",
                            reterr_field, reterr_reason);
        if (!m->properties)
                return 0;
        r = find_repeated(m->properties, &repeated);
        if (r < 0)
                return r;
        if (repeated)
                return fail_property(repeated, "the same property name comes twice", reterr_field, reterr_reason);
        return 0;
}

/* "&" where something precedes, the name as it stands, the value encoded. start: size of the buffer at its begin. */
static int append_part(Buffer *out, size_t start, const char *encoded_name, const char *value, size_t value_size) {
        size_t name_size = strlen(encoded_name);
        int r = buffer_reserve(out, 1 + name_size + 3 * value_size);

        if (r < 0)
                return r;
        if (out->size > start)
                out->data[out->size++] = '&';
        memcpy(out->data + out->size, encoded_name, name_size);
        out->size += name_size;
        return percent_encode_append(out, value, value_size);
}

static int append_property(Buffer *out, size_t start, const Property *p) {
        int r = append_part(out, start, "", p->name, strlen(p->name));

        if (r < 0 || !p->value)
                return r;
        r = buffer_append(out, "=", 1);
        if (r < 0)
                return r;
        return percent_encode_append(out, p->value, strlen(p->value));
}

static int encode_bag(const HubMessage *m, Buffer *out) {
        const struct {
                const char *name, *value;
        } system[] = {
                { "%24.cid=", m->correlation_id },
                { "%24.ct=", m->content_type },
                { "%24.ce=", m->content_encoding },
        };
        size_t start = out->size;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(system); i++)
                if (system[i].value) {
                        r = append_part(out, start, system[i].name, system[i].value, strlen(system[i].value));
                        if (r < 0)
                                return r;
                }
        if (m->creation_time_usec != USEC_INFINITY) {
                char timestamp[FORMAT_TIMESTAMP_MAX];

                format_timestamp(timestamp, sizeof(timestamp), m->creation_time_usec);
                r = append_part(out, start, "%24.ctime=", timestamp, strlen(timestamp));
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; m->properties && i < m->properties->n_items; i++) {
                r = append_property(out, start, &m->properties->items[i]);
                if (r < 0)
                        return r;
        }
        return 0;
}

int hub_message_encode_bag(const HubMessage *m, Buffer *out) {
        size_t start = out->size;
        int r = encode_bag(m, out);

        if (r < 0)
                out->size = start; /* no half a bag: the caller's buffer is as it was */
        return r;
}
