#include "lib/property-bag.h"

#include "lib/utf8.h"

/* What may stand bare: RFC 3986 section 2.3, "unreserved". A table, because this runs for each byte of a property. */
static const uint8_t bare[256] = {
        ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['0' ... '9'] = 1, ['-'] = 1, ['.'] = 1, ['_'] = 1, ['~'] = 1,
};

static const char hex_digits[] = "0123456789ABCDEF";

/* Writes at most 3 * n bytes; returns the end. */
static uint8_t *encode_to(uint8_t *out, const char *s, size_t n) {
        const uint8_t *p = (const uint8_t *) s;

        for (size_t i = 0; i < n; i++) {
                uint8_t c = p[i];

                if (bare[c])
                        *out++ = c;
                else {
                        *out++ = '%';
                        *out++ = (uint8_t) hex_digits[c >> 4];
                        *out++ = (uint8_t) hex_digits[c & 15];
                }
        }
        return out;
}

int percent_encode_append(Buffer *out, const char *s, size_t n) {
        int r;

        if (n > SIZE_MAX / 4)
                return -ENOMEM;
        r = buffer_reserve(out, 3 * n);
        if (r < 0)
                return r;
        if (n > 0)
                out->size = (size_t) (encode_to(out->data + out->size, s, n) - out->data);
        return 0;
}

int percent_encode(const char *s, size_t n, char **ret) {
        char *encoded;

        if (n > SIZE_MAX / 4)
                return -ENOMEM;
        encoded = malloc(3 * n + 1);
        if (!encoded)
                return -ENOMEM;
        *encode_to((uint8_t *) encoded, s, n) = 0;
        *ret = encoded;
        return 0;
}

/* Value of a hex digit plus one; 0 for what is none. */
static const uint8_t hex_plus_1[256] = {
        ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
        ['8'] = 9,  ['9'] = 10, ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
        ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

int percent_decode(const char *s, size_t n, char **ret, size_t *ret_size) {
        const uint8_t *p = (const uint8_t *) s;
        _cleanup_free_ char *decoded = NULL;
        char *out;

        if (n == SIZE_MAX)
                return -ENOMEM;
        out = decoded = malloc(n + 1);
        if (!decoded)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                if (p[i] != '%') {
                        *out++ = (char) p[i];
                        continue;
                }
                if (n - i < 3 || !hex_plus_1[p[i + 1]] || !hex_plus_1[p[i + 2]])
                        return -EINVAL;
                *out++ = (char) ((hex_plus_1[p[i + 1]] - 1) << 4 | (hex_plus_1[p[i + 2]] - 1));
                i += 2;
        }
        *out = 0;
        if (ret_size)
                *ret_size = (size_t) (out - decoded);
        *ret = TAKE_PTR(decoded);
        return 0;
}

/* Room for one more item. The room is always 4, 8, 16, ... items, so it need not be stored. */
static int make_room(PropertyBag *b) {
        size_t n = b->n_items;
        Property *items;

        if (n != 0 && (n < 4 || (n & (n - 1)) != 0))
                return 0;
        items = reallocarray(b->items, n == 0 ? 4 : 2 * n, sizeof(*items));
        if (!items)
                return -ENOMEM;
        b->items = items;
        return 0;
}

/* Consumes name and value only on success. */
static int add_owned(PropertyBag *b, char *name, char *value) {
        int r = make_room(b);

        if (r < 0)
                return r;
        b->items[b->n_items++] = (Property) { .name = name, .value = value };
        return 0;
}

int property_bag_add(PropertyBag *b, const char *name, const char *value) {
        _cleanup_free_ char *name_copy = NULL, *value_copy = NULL;
        int r;

        name_copy = strdup(name);
        if (!name_copy)
                return -ENOMEM;
        if (value) {
                value_copy = strdup(value);
                if (!value_copy)
                        return -ENOMEM;
        }
        r = add_owned(b, name_copy, value_copy);
        if (r < 0)
                return r;
        name_copy = value_copy = NULL;
        return 0;
}

const char *property_bag_get(const PropertyBag *b, const char *name) {
        for (size_t i = 0; i < b->n_items; i++)
                if (streq(b->items[i].name, name))
                        return strempty(b->items[i].value);
        return NULL;
}

int property_bag_encode(const PropertyBag *b, char **ret, size_t *ret_size) {
        size_t size = 1;
        uint8_t *encoded, *out;

        /* An upper bound first, so that one allocation does. */
        for (size_t i = 0; i < b->n_items; i++) {
                size_t n = strlen(b->items[i].name) + (b->items[i].value ? strlen(b->items[i].value) : 0);

                if (n > SIZE_MAX / 4 || __builtin_add_overflow(size, 3 * n + 2, &size))
                        return -ENOMEM;
        }
        out = encoded = malloc(size);
        if (!encoded)
                return -ENOMEM;
        for (size_t i = 0; i < b->n_items; i++) {
                const Property *p = &b->items[i];

                if (i > 0)
                        *out++ = '&';
                out = encode_to(out, p->name, strlen(p->name));
                if (p->value) {
                        *out++ = '=';
                        out = encode_to(out, p->value, strlen(p->value));
                }
        }
        *out = 0;
        *ret = (char *) encoded;
        if (ret_size)
                *ret_size = (size_t) (out - encoded);
        return 0;
}

/* A name or value: text, so NUL and what is no UTF-8 are refused. */
static int decode_text(const char *s, size_t n, char **ret) {
        _cleanup_free_ char *text = NULL;
        size_t size;
        int r = percent_decode(s, n, &text, &size);

        if (r < 0)
                return r;
        if (memchr(text, 0, size) || !utf8_is_valid(text, size))
                return -EINVAL;
        *ret = TAKE_PTR(text);
        return 0;
}

static int decode_part(const char *s, size_t n, PropertyBag *bag) {
        _cleanup_free_ char *name = NULL, *value = NULL;
        const char *equals = memchr(s, '=', n);
        int r;

        r = decode_text(s, equals ? (size_t) (equals - s) : n, &name);
        if (r < 0)
                return r;
        if (equals) {
                r = decode_text(equals + 1, (size_t) (s + n - equals - 1), &value);
                if (r < 0)
                        return r;
        }
        r = add_owned(bag, name, value);
        if (r < 0)
                return r;
        name = value = NULL;
        return 0;
}

int property_bag_decode(const char *s, size_t n, PropertyBag *ret) {
        _cleanup_(property_bag_done) PropertyBag bag = {};
        const char *end = s + n;
        int r;

        /* One example of the hub's documentation has a leading "?"; as a first name it would be %3F. */
        if (n > 0 && *s == '?')
                s++;
        while (s < end) {
                const char *part_end = memchr(s, '&', (size_t) (end - s));

                if (!part_end)
                        part_end = end;
                if (part_end > s) {
                        r = decode_part(s, (size_t) (part_end - s), &bag);
                        if (r < 0)
                                return r;
                }
                s = part_end + 1;
        }
        *ret = bag;
        bag = (PropertyBag) {};
        return 0;
}

void property_bag_done(PropertyBag *b) {
        for (size_t i = 0; i < b->n_items; i++) {
                free(b->items[i].name);
                free(b->items[i].value);
        }
        free(b->items);
        *b = (PropertyBag) {};
}
