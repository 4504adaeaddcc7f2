#include "lib/amqp-value.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "lib/macro.h"

#define ARRAY_OF_NOTHING_MAX 1024U
#define DESCRIPTORS_MAX 4U /* before one value; the standard needs one */

bool amqp_bytes_equal(AmqpBytes b, const char *s) {
        size_t n = strlen(s);

        return b.size == n && (n == 0 || memcmp(b.data, s, n) == 0);
}

void amqp_reader_init(AmqpReader *r, const void *data, size_t n) {
        *r = (AmqpReader){ .left = { data, n }, .n_left = SIZE_MAX };
}

static int take(AmqpBytes *b, size_t n, AmqpBytes *ret) {
        if (n > b->size)
                return -EBADMSG;
        *ret = (AmqpBytes){ b->data, n };
        if (n > 0)
                b->data += n;
        b->size -= n;
        return 0;
}

static int take_number(AmqpBytes *b, size_t n, uint64_t *ret) {
        AmqpBytes bytes;
        uint64_t v = 0;

        if (take(b, n, &bytes) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < n; i++)
                v = v << 8 | bytes.data[i];
        *ret = v;
        return 0;
}

static int64_t sign_extend(uint64_t v, size_t n) {
        const unsigned shift = (unsigned) (64 - 8 * n);

        return n == 0 ? 0 : (int64_t) (v << shift) >> shift;
}

/* IEEE 754, which is what every machine of ours has. */
static double real_of(uint64_t v, size_t n) {
        const uint32_t v32 = (uint32_t) v;
        double d;
        float f;

        if (n == 4) {
                memcpy(&f, &v32, sizeof(f));
                return (double) f;
        }
        memcpy(&d, &v, sizeof(d));
        return d;
}

/* Types of a fixed width: the high half of the code tells it. */
static int read_fixed(AmqpBytes *b, uint8_t code, AmqpValue *ret) {
        static const uint8_t widths[] = { [4] = 0, [5] = 1, [6] = 2, [7] = 4, [8] = 8 };
        const size_t n = code >> 4 == 9 ? 16 : widths[code >> 4];
        uint64_t v = 0;

        if (code == 0x98 || code == 0x94 || code == 0x84 || code == 0x74) {
                ret->type = code == 0x98 ? AMQP_UUID : AMQP_DECIMAL;
                return take(b, n, &ret->bytes);
        }
        if (n > 8 || take_number(b, n, &v) < 0)
                return -EBADMSG;
        ret->uinteger = v;
        switch (code) {
        case 0x40: ret->type = AMQP_NULL; return 0;
        case 0x41:
        case 0x42:
                ret->type = AMQP_BOOLEAN;
                ret->integer = code == 0x41;
                return 0;
        case 0x56: ret->type = AMQP_BOOLEAN; return v > 1 ? -EBADMSG : 0;
        case 0x43:
        case 0x44:
        case 0x50:
        case 0x52:
        case 0x53:
        case 0x60:
        case 0x70:
        case 0x80: ret->type = AMQP_UNSIGNED; return 0;
        case 0x51:
        case 0x54:
        case 0x55:
        case 0x61:
        case 0x71:
        case 0x81:
                ret->type = AMQP_SIGNED;
                ret->integer = sign_extend(v, n);
                return 0;
        case 0x83:
                ret->type = AMQP_TIMESTAMP;
                ret->integer = (int64_t) v;
                return 0;
        case 0x72:
        case 0x82:
                ret->type = AMQP_DOUBLE;
                ret->real = real_of(v, n);
                return 0;
        case 0x73: ret->type = AMQP_CHAR; return 0;
        case 0x45: /* the empty list */
                ret->type = AMQP_LIST;
                ret->items = (AmqpReader){};
                return 0;
        default: return -EBADMSG;
        }
}

static int read_variable(AmqpBytes *b, uint8_t code, AmqpValue *ret) {
        uint64_t n;

        switch (code & 0x0f) {
        case 0: ret->type = AMQP_BINARY; break;
        case 1: ret->type = AMQP_STRING; break;
        case 3: ret->type = AMQP_SYMBOL; break;
        default: return -EBADMSG;
        }
        if (take_number(b, code >> 4 == 0xa ? 1 : 4, &n) < 0)
                return -EBADMSG;
        return take(b, (size_t) n, &ret->bytes);
}

/* The size counts the bytes behind itself, the count among them. */
static int read_compound(AmqpBytes *b, uint8_t code, AmqpValue *ret) {
        const bool array = code >> 4 >= 0xe;
        const size_t width = code >> 4 == 0xc || code >> 4 == 0xe ? 1 : 4;
        uint64_t size, count, item_code = 0;
        AmqpBytes inner;

        if (take_number(b, width, &size) < 0 || take(b, (size_t) size, &inner) < 0 ||
            take_number(&inner, width, &count) < 0)
                return -EBADMSG;
        if (array ? (code & 0x0f) != 0 : (code & 0x0f) > 1)
                return -EBADMSG;
        if (array && count > 0 && (take_number(&inner, 1, &item_code) < 0 || item_code == 0))
                return -EBADMSG; /* arrays of described values are nowhere in what a hub sends */
        /* At least a byte each, but for an array of nothing but true. */
        if (count > inner.size && (item_code >> 4 != 4 || count > ARRAY_OF_NOTHING_MAX))
                return -EBADMSG;
        ret->type = array ? AMQP_ARRAY : code & 1 ? AMQP_MAP : AMQP_LIST;
        if (ret->type == AMQP_MAP && count % 2 != 0)
                return -EBADMSG;
        ret->items = (AmqpReader){ inner, (size_t) count, (uint8_t) item_code };
        return 0;
}

static int read_coded(AmqpBytes *b, uint8_t code, AmqpValue *ret) {
        if (code >= 0x40 && code < 0xa0)
                return read_fixed(b, code, ret);
        if (code >= 0xa0 && code < 0xc0)
                return read_variable(b, code, ret);
        if (code >= 0xc0)
                return read_compound(b, code, ret);
        return -EBADMSG;
}

static int read_descriptors(AmqpBytes *b, uint64_t *code, AmqpValue *ret) {
        for (unsigned n = 0; *code == 0; n++) {
                AmqpValue d = {};

                if (n >= DESCRIPTORS_MAX || take_number(b, 1, code) < 0 || *code == 0 ||
                    read_coded(b, (uint8_t) *code, &d) < 0 ||
                    (d.type != AMQP_UNSIGNED && d.type != AMQP_SYMBOL))
                        return -EBADMSG;
                ret->described = true;
                ret->descriptor = d.type == AMQP_UNSIGNED ? d.uinteger : 0;
                if (take_number(b, 1, code) < 0)
                        return -EBADMSG;
        }
        return 0;
}

int amqp_read(AmqpReader *r, AmqpValue *ret) {
        uint64_t code = r->item_code;

        if (r->n_left == 0 || (r->n_left == SIZE_MAX && r->left.size == 0))
                return 0;
        *ret = (AmqpValue){};
        if (code == 0 &&
            (take_number(&r->left, 1, &code) < 0 || read_descriptors(&r->left, &code, ret) < 0))
                return -EBADMSG;
        if (read_coded(&r->left, (uint8_t) code, ret) < 0)
                return -EBADMSG;
        if (r->n_left != SIZE_MAX)
                r->n_left--;
        return 1;
}

bool amqp_value_text(const AmqpValue *v, AmqpBytes *ret) {
        if (v->type != AMQP_STRING && v->type != AMQP_SYMBOL && v->type != AMQP_BINARY)
                return false;
        *ret = v->bytes;
        return true;
}

bool amqp_value_integer(const AmqpValue *v, int64_t *ret) {
        if (v->type == AMQP_UNSIGNED && v->uinteger > INT64_MAX)
                return false;
        if (v->type != AMQP_UNSIGNED && v->type != AMQP_SIGNED && v->type != AMQP_TIMESTAMP)
                return false;
        *ret = v->integer;
        return true;
}

int amqp_map_get(const AmqpValue *map, const char *name, AmqpValue *ret) {
        AmqpReader r = map->items;
        AmqpValue key, value;
        int k;

        if (map->type != AMQP_MAP)
                return 0;
        while ((k = amqp_read(&r, &key)) > 0) {
                k = amqp_read(&r, &value);
                if (k <= 0)
                        return -EBADMSG;
                if ((key.type == AMQP_STRING || key.type == AMQP_SYMBOL) &&
                    amqp_bytes_equal(key.bytes, name)) {
                        *ret = value;
                        return 1;
                }
        }
        return k;
}

static int read_properties(const AmqpValue *list, AmqpMessage *m) {
        AmqpValue *const fields[] = {
                &m->message_id,    &m->user_id,          &m->to,
                &m->subject,       &m->reply_to,         &m->correlation_id,
                &m->content_type,  &m->content_encoding, &m->absolute_expiry_time,
                &m->creation_time,
        };
        AmqpReader r = list->items;
        int k = 1;

        if (list->type != AMQP_LIST)
                return -EBADMSG;
        for (size_t i = 0; i < ELEMENTSOF(fields) && k > 0; i++)
                k = amqp_read(&r, fields[i]);
        return k < 0 ? k : 0;
}

static int read_section(const AmqpValue *v, AmqpMessage *m) {
        switch (v->descriptor) {
        case 0x71: m->delivery_annotations = *v; return 0;
        case 0x72: m->annotations = *v; return 0;
        case 0x73: return read_properties(v, m);
        case 0x74: m->application_properties = *v; return 0;
        case 0x75: /* data */
        case 0x77: /* value */
                if (v->descriptor == 0x75 && v->type != AMQP_BINARY)
                        return -EBADMSG;
                if (m->body.described)
                        m->more_data = true;
                else {
                        m->body = *v;
                        m->body_is_data = v->descriptor == 0x75;
                }
                return 0;
        case 0x76: m->more_data = true; return 0; /* sequence */
        default: return 0;                        /* header, footer */
        }
}

int amqp_message_read(const void *data, size_t n, AmqpMessage *ret) {
        AmqpMessage m = {};
        AmqpReader r;
        AmqpValue v;
        int k;

        amqp_reader_init(&r, data, n);
        while ((k = amqp_read(&r, &v)) > 0)
                if (!v.described || read_section(&v, &m) < 0)
                        return -EBADMSG;
        if (k < 0)
                return k;
        *ret = m;
        return 0;
}
