/* json-c alone is not fit for text from strangers: it takes raw bytes that are no UTF-8, lets the
 * last of two equal keys win, reads NaN and single quotes, and spends up to 40 times the size of a
 * text on its values. So each frame is first walked once by a checker of our own, which accepts
 * exactly RFC 8259 within our limits, allocates nothing, and passes over plain text eight bytes at
 * a time. The walk costs about a tenth of what json-c costs for the same text.
 *
 * The checker relies on the NUL behind the text: it stops there by itself, so no step needs to ask
 * for the end. */
#include "lib/varlink-wire.h"

#include <assert.h>

/* Different names with one hash. In the largest frame one such pair is a chance of 1 in 250;
 * whoever has more computed them, so that each name is compared with each over its whole length. */
#define COLLISIONS_MAX 16U
#define READER_KEEP_BYTES (16U * 1024U) /* an empty reader holds on to no more than this */

typedef struct Key {
        uint32_t hash; /* of the decoded text */
        uint32_t size; /* of the text as written, without quotes */
        const char *text;
} Key;

typedef struct Checker {
        const char *p;
        size_t n_elements;
        size_t depth;
        size_t n_keys; /* of all open objects; an object's are dropped when it ends */
        size_t n_collisions;
        const char *reason;
        const char *field; /* of the parameters, whose list may be split off, or NULL */
        bool in_parameters;
        const char *list; /* its items, behind the bracket; NULL: none was met */
        size_t n_items, n_groups;
        uint32_t group_ends[VARLINK_GROUPS_MAX];
        Key keys[VARLINK_KEYS_MAX + 64U];
} Checker;

static int bad(Checker *c, const char *reason) {
        c->reason = reason;
        return -EBADMSG;
}

static int too_big(Checker *c, const char *reason) {
        c->reason = reason;
        return -E2BIG;
}

static int count(Checker *c, size_t n) {
        c->n_elements += n;
        if (c->n_elements > VARLINK_ELEMENTS_MAX)
                return too_big(c, "too many values in one message");
        return 0;
}

static void skip_space(Checker *c) {
        while (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t')
                c->p++;
}

/* What a byte inside a string may be the start of. */
enum {
        TEXT_PLAIN,
        TEXT_END,     /* quote, backslash: the caller looks */
        TEXT_CONTROL, /* must be escaped; NUL, the end of the frame, is one of them */
        TEXT_TWO,     /* first bytes of UTF-8 sequences, RFC 3629 section 4 */
        TEXT_THREE,
        TEXT_FOUR,
        TEXT_INVALID,
};

static const uint8_t text_class[256] = {
        [0x00 ... 0x1f] = TEXT_CONTROL,
        [' ' ... '"' - 1] = TEXT_PLAIN,
        ['"'] = TEXT_END,
        ['"' + 1 ... '\\' - 1] = TEXT_PLAIN,
        ['\\'] = TEXT_END,
        ['\\' + 1 ... 0x7f] = TEXT_PLAIN,
        [0x80 ... 0xc1] = TEXT_INVALID,
        [0xc2 ... 0xdf] = TEXT_TWO,
        [0xe0 ... 0xef] = TEXT_THREE,
        [0xf0 ... 0xf4] = TEXT_FOUR,
        [0xf5 ... 0xff] = TEXT_INVALID,
};

static bool is_continuation(uint8_t b) {
        return (b & 0xc0U) == 0x80U;
}

/* The size of the sequence at s, or 0. Reads no further than the first byte that does not fit, so
 * never past a NUL. */
static size_t utf8_sequence(const uint8_t *s, uint8_t class) {
        switch (class) {
        case TEXT_TWO: return is_continuation(s[1]) ? 2 : 0;
        case TEXT_THREE:
                if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f))
                        return 0; /* overlong, surrogate */
                return is_continuation(s[1]) && is_continuation(s[2]) ? 3 : 0;
        case TEXT_FOUR:
                if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
                        return 0; /* overlong, above U+10FFFF */
                return is_continuation(s[1]) && is_continuation(s[2]) && is_continuation(s[3]) ? 4 :
                                                                                                 0;
        default: return 0;
        }
}

static int hex_value(char ch) {
        if (ch >= '0' && ch <= '9')
                return ch - '0';
        if (ch >= 'a' && ch <= 'f')
                return ch - 'a' + 10;
        if (ch >= 'A' && ch <= 'F')
                return ch - 'A' + 10;
        return -1;
}

/* Four hex digits, or -1. */
static int hex4(const char *s) {
        int v = 0;

        for (int i = 0; i < 4; i++) {
                int digit = hex_value(s[i]);

                if (digit < 0)
                        return -1;
                v = v << 4 | digit;
        }
        return v;
}

/* The code point of the escape at s, which points behind the backslash; *ret_size is how much of s
 * it takes. Negative: no escape of JSON, or half of a surrogate pair. */
static int32_t escape_decode(const char *s, size_t *ret_size) {
        int high, low;

        *ret_size = 1;
        switch (*s) {
        case '"':
        case '\\':
        case '/': return *s;
        case 'b': return '\b';
        case 'f': return '\f';
        case 'n': return '\n';
        case 'r': return '\r';
        case 't': return '\t';
        case 'u': break;
        default: return -1;
        }

        high = hex4(s + 1);
        *ret_size = 5;
        if (high < 0xd800 || high > 0xdfff)
                return high;
        if (high > 0xdbff || s[5] != '\\' || s[6] != 'u')
                return -1;
        low = hex4(s + 7);
        if (low < 0xdc00 || low > 0xdfff)
                return -1;
        *ret_size = 11;
        return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

/* Steps over bytes that need no look: eight at a time while none of them is a quote, a backslash, a
 * control or above 0x7f. May read up to seven bytes past the end of the text, so it stops short of
 * it. */
static const uint8_t *skip_plain(const uint8_t *s, const uint8_t *end) {
        const uint64_t ones = 0x0101010101010101ULL, highs = 0x8080808080808080ULL;

        while (end - s >= 8) {
                uint64_t v, quote, backslash;

                memcpy(&v, s, sizeof(v));
                quote = v ^ (ones * '"');
                backslash = v ^ (ones * '\\');
                if (((v | (v - ones * 0x20) | (quote - ones) | (backslash - ones)) & highs) != 0)
                        break;
                s += 8;
        }
        while (text_class[*s] == TEXT_PLAIN)
                s++;
        return s;
}

/* A string; c->p is behind its opening quote and ends behind the closing one. */
static int check_string(Checker *c, const char *end, bool *ret_escaped) {
        const uint8_t *s = (const uint8_t *) c->p;

        *ret_escaped = false;
        for (;;) {
                size_t size;
                int32_t code;

                s = skip_plain(s, (const uint8_t *) end);
                switch (text_class[*s]) {
                case TEXT_END:
                        if (*s == '"') {
                                c->p = (const char *) s + 1;
                                return 0;
                        }
                        code = escape_decode((const char *) s + 1, &size);
                        if (code < 0)
                                return bad(c,
                                           "invalid escape or half a surrogate pair in a string");
                        *ret_escaped = true;
                        s += 1 + size;
                        break;
                case TEXT_CONTROL:
                        return bad(c, (const char *) s >= end ? "string without end" :
                                                                "control character in a string");
                default:
                        size = utf8_sequence(s, text_class[*s]);
                        if (size == 0)
                                return bad(c, "invalid UTF-8");
                        s += size;
                }
        }
}

/* Goes through a key's decoded text a unit at a time: bytes as they are, an escape below 0x80 as
 * its byte, any other as the bytes of its UTF-8 form. */
typedef struct KeyCursor {
        const char *s, *end;
        uint8_t queue[3]; /* rest of a decoded escape */
        unsigned n_queue;
} KeyCursor;

static int key_cursor_next(KeyCursor *k) {
        uint32_t code;
        size_t size;

        if (k->n_queue > 0)
                return k->queue[--k->n_queue];
        if (k->s == k->end)
                return -1;
        if (*k->s != '\\')
                return (uint8_t) *k->s++;

        code = (uint32_t) escape_decode(k->s + 1, &size); /* was checked */
        k->s += 1 + size;
        if (code < 0x80)
                return (int) code;
        k->queue[k->n_queue++] = (uint8_t) (0x80 | (code & 0x3f));
        if (code < 0x800)
                return (int) (0xc0 | code >> 6);
        k->queue[k->n_queue++] = (uint8_t) (0x80 | (code >> 6 & 0x3f));
        if (code < 0x10000)
                return (int) (0xe0 | code >> 12);
        k->queue[k->n_queue++] = (uint8_t) (0x80 | (code >> 12 & 0x3f));
        return (int) (0xf0 | code >> 18);
}

static bool key_equal(const Key *a, const Key *b) {
        KeyCursor x = { .s = a->text, .end = a->text + a->size },
                  y = { .s = b->text, .end = b->text + b->size };
        int u, v;

        if (a->size == b->size && memcmp(a->text, b->text, a->size) == 0)
                return true;
        do {
                u = key_cursor_next(&x);
                v = key_cursor_next(&y);
                if (u != v)
                        return false;
        } while (u >= 0);
        return true;
}

/* FNV-1a of the decoded text. *ret_nul: whether that has a NUL. */
static uint32_t key_hash(const Key *key, bool escaped, bool *ret_nul) {
        KeyCursor k = { .s = key->text, .end = key->text + key->size };
        uint32_t h = 2166136261U;

        *ret_nul = false;
        if (!escaped)
                for (const char *s = k.s; s < k.end; s++)
                        h = (h ^ (uint8_t) *s) * 16777619U;
        else
                for (int b; (b = key_cursor_next(&k)) >= 0;) {
                        h = (h ^ (uint32_t) b) * 16777619U;
                        *ret_nul |= b == 0;
                }
        return h;
}

/* A key, from behind its opening quote to behind its colon. Keys are compared with those before
 * them in the object: quadratic, but in a run of 1,024 at most, which costs less than json-c's own
 * work for that many. */
static int check_key(Checker *c, const char *end, size_t first_key) {
        Key *key = &c->keys[c->n_keys];
        bool escaped, nul;
        int r;

        if (c->n_keys - first_key >= VARLINK_KEYS_MAX || c->n_keys >= ELEMENTSOF(c->keys))
                return too_big(c, "too many fields in one object");

        key->text = c->p;
        r = check_string(c, end, &escaped);
        if (r < 0)
                return r;
        key->size = (uint32_t) (c->p - 1 - key->text);
        key->hash = key_hash(key, escaped, &nul);
        if (nul)
                return bad(c, "NUL in a field name"); /* json-c would cut the name there */
        for (size_t i = first_key; i < c->n_keys; i++) {
                if (c->keys[i].hash != key->hash)
                        continue;
                if (key_equal(&c->keys[i], key))
                        return bad(c, "duplicate field in an object");
                if (++c->n_collisions > COLLISIONS_MAX)
                        return too_big(c, "field names made to look alike");
        }
        c->n_keys++;

        skip_space(c);
        if (*c->p++ != ':')
                return bad(c, "no colon behind a field name");
        return count(c, 1);
}

static bool is_digit(char ch) {
        return ch >= '0' && ch <= '9';
}

static int check_number(Checker *c) {
        const char *s = c->p;

        if (*s == '-')
                s++;
        if (!is_digit(*s) || (*s == '0' && is_digit(s[1])))
                return bad(c, "invalid number");
        while (is_digit(*s))
                s++;
        if (*s == '.') {
                if (!is_digit(*++s))
                        return bad(c, "invalid number");
                while (is_digit(*s))
                        s++;
        }
        if (*s == 'e' || *s == 'E') {
                s++;
                if (*s == '+' || *s == '-')
                        s++;
                if (!is_digit(*s))
                        return bad(c, "invalid number");
                while (is_digit(*s))
                        s++;
        }
        c->p = s;
        return 0;
}

static int check_literal(Checker *c, const char *literal) {
        const char *rest = startswith(c->p, literal);

        if (!rest)
                return bad(c, "no JSON value");
        c->p = rest;
        return 0;
}

static int check_value(Checker *c, const char *end);

/* Behind a value inside brackets: 1 another follows, 0 the bracket is closed. */
static int check_separator(Checker *c, char close, const char *reason) {
        skip_space(c);
        if (*c->p == ',') {
                c->p++;
                skip_space(c);
                return 1;
        }
        if (*c->p != close)
                return bad(c, reason);
        c->p++;
        return 0;
}

/* The value of the field that may be split off, if it is a list: as check_value(), and notes where groups end. */
static int check_list(Checker *c, const char *end) {
        size_t start = c->n_elements;
        int r;

        skip_space(c);
        if (*c->p != '[')
                return check_value(c, end);
        r = count(c, 1);
        if (r < 0)
                return r;
        c->list = ++c->p;
        c->depth++;
        skip_space(c);
        r = *c->p != ']';
        while (r > 0) {
                const char *item_end;

                r = check_value(c, end);
                if (r < 0)
                        return r;
                c->n_items++;
                item_end = c->p;
                r = check_separator(c, ']', "array without end");
                if (r == 0 || c->n_elements - start >= VARLINK_GROUP_ELEMENTS) {
                        c->group_ends[c->n_groups++] = (uint32_t) (item_end - c->list);
                        start = c->n_elements;
                }
        }
        if (c->n_items == 0)
                c->p++;
        c->depth--;
        return r;
}

static bool key_is(const Key *key, const char *name) {
        return key_equal(key, &(Key) { .text = name, .size = (uint32_t) strlen(name) });
}

/* The value of the key that was read last. */
static int check_field(Checker *c, const char *end) {
        const Key *key = &c->keys[c->n_keys - 1];
        int r;

        if (!c->field || c->depth > 2)
                return check_value(c, end);
        if (c->depth == 2)
                return c->in_parameters && key_is(key, c->field) ? check_list(c, end) : check_value(c, end);
        c->in_parameters = key_is(key, "parameters");
        r = check_value(c, end);
        c->in_parameters = false;
        return r;
}

static int check_object(Checker *c, const char *end) {
        size_t first_key = c->n_keys;
        int r;

        r = count(c, VARLINK_OBJECT_ELEMENTS);
        if (r < 0)
                return r;
        c->p++;
        skip_space(c);
        if (*c->p == '}') {
                c->p++;
                return 0;
        }
        do {
                if (*c->p++ != '"')
                        return bad(c, "no field name where one must be");
                r = check_key(c, end, first_key);
                if (r < 0)
                        return r;
                r = check_field(c, end);
                if (r < 0)
                        return r;
                r = check_separator(c, '}', "object without end");
        } while (r > 0);
        c->n_keys = first_key;
        return r;
}

static int check_array(Checker *c, const char *end) {
        int r;

        c->p++;
        skip_space(c);
        if (*c->p == ']') {
                c->p++;
                return 0;
        }
        do {
                r = check_value(c, end);
                if (r < 0)
                        return r;
                r = check_separator(c, ']', "array without end");
        } while (r > 0);
        return r;
}

/* Recursion is bounded by VARLINK_DEPTH_MAX. */
static int check_value(Checker *c, const char *end) {
        bool escaped;
        int r;

        r = count(c, 1);
        if (r < 0)
                return r;
        skip_space(c);
        switch (*c->p) {
        case '"': c->p++; return check_string(c, end, &escaped);
        case '{':
        case '[':
                if (c->depth >= VARLINK_DEPTH_MAX)
                        return bad(c, "nested too deep");
                c->depth++;
                r = *c->p == '{' ? check_object(c, end) : check_array(c, end);
                c->depth--;
                return r;
        case 't': return check_literal(c, "true");
        case 'f': return check_literal(c, "false");
        case 'n': return check_literal(c, "null");
        default: return check_number(c);
        }
}

static int check_frame(Checker *c, const char *data, size_t n, const char *field, const char **reterr_reason) {
        int r;

        assert(data[n] == 0);

        c->p = data;
        c->n_elements = c->depth = c->n_keys = c->n_collisions = 0;
        c->reason = NULL;
        c->field = field;
        c->in_parameters = false;
        c->list = NULL;
        c->n_items = c->n_groups = 0;
        skip_space(c);
        r = *c->p == '{' ? check_value(c, data + n) : bad(c, "not a JSON object");
        if (r >= 0) {
                skip_space(c);
                if (c->p != data + n)
                        r = bad(c, "text behind the object");
        }
        if (r < 0 && reterr_reason)
                *reterr_reason = c->reason;
        return r;
}

int varlink_frame_check(const char *data, size_t n, const char **reterr_reason) {
        Checker c; /* keys stay unset: 17 KiB not to be cleared for each message */

        return check_frame(&c, data, n, NULL, reterr_reason);
}

void varlink_reader_done(VarlinkReader *r) {
        buffer_done(&r->buffer);
        *r = (VarlinkReader){};
}

/* How many of the n bytes may be taken in: all, or those before the frame that is too long. */
static size_t feed_limit(VarlinkReader *r, const uint8_t *data, size_t n) {
        size_t tail = r->tail, done = 0;

        while (done < n) {
                const uint8_t *nul = memchr(data + done, 0, n - done);
                size_t size = nul ? (size_t) (nul - (data + done)) + 1 : n - done;

                /* An unfinished frame still needs its NUL. */
                if (tail + size + (nul ? 0 : 1) > VARLINK_FRAME_BYTES_MAX)
                        return done;
                tail = nul ? 0 : tail + size;
                done += size;
        }
        r->tail = tail;
        return n;
}

int varlink_reader_feed(VarlinkReader *r, const void *data, size_t n) {
        size_t before = r->tail, take;
        int error;

        take = feed_limit(r, data, n);
        if (r->offset > 0) {
                buffer_consume(&r->buffer, r->offset);
                r->searched -= r->offset;
                r->offset = 0;
        }
        error = buffer_append(&r->buffer, data, take);
        if (error < 0) {
                r->tail = before;
                return error;
        }
        if (take < n) {
                r->tail = VARLINK_FRAME_BYTES_MAX; /* whatever comes next is refused, too */
                return -EMSGSIZE;
        }
        return 0;
}

bool varlink_reader_has_frame(VarlinkReader *r) {
        const uint8_t *nul;

        if (r->searched < r->offset)
                r->searched = r->offset;
        if (r->searched == r->buffer.size)
                return false;
        nul = memchr(r->buffer.data + r->searched, 0, r->buffer.size - r->searched);
        r->searched = nul ? (size_t) (nul - r->buffer.data) : r->buffer.size;
        return nul;
}

bool varlink_reader_peek(VarlinkReader *r, const char **ret, size_t *ret_size) {
        if (!varlink_reader_has_frame(r))
                return false;
        *ret = (const char *) r->buffer.data + r->offset;
        *ret_size = r->searched - r->offset;
        return true;
}

static void consume_frame(VarlinkReader *r) {
        r->offset = ++r->searched;
        if (r->offset < r->buffer.size)
                return;
        r->offset = r->searched = r->buffer.size = 0;
        if (r->buffer.allocated > READER_KEEP_BYTES)
                buffer_done(&r->buffer);
}

typedef struct Piece {
        const char *text;
        size_t size;
} Piece;

/* Text that was checked, in pieces. NULL: no memory, or the library has a narrower idea of JSON; fuzz-varlink-wire holds
 * it to there being no such text. */
static struct json_object *parse_pieces(const Piece *pieces, size_t n) {
        struct json_object *o = NULL;
        struct json_tokener *t;

        /* json-c counts the level of a scalar inside the innermost bracket, too. */
        t = json_tokener_new_ex(VARLINK_DEPTH_MAX + 2);
        if (!t)
                return NULL;
        for (size_t i = 0; i < n && !o; i++) {
                o = json_tokener_parse_ex(t, pieces[i].text, (int) pieces[i].size);
                if (!o && json_tokener_get_error(t) != json_tokener_continue)
                        break;
        }
        json_tokener_free(t);
        return o;
}

void varlink_list_done(VarlinkList *l) {
        free(l->text);
        *l = (VarlinkList) {};
}

int varlink_list_group(const VarlinkList *l, size_t i, struct json_object **ret) {
        const char *start = l->text, *end = l->text + l->ends[i];

        if (i > 0)
                start += l->ends[i - 1] + strcspn(l->text + l->ends[i - 1], ",") + 1;
        *ret = parse_pieces((const Piece[]) { { "[", 1 }, { start, (size_t) (end - start) }, { "]", 1 } }, 3);
        return *ret ? 0 : -ENOMEM;
}

/* Parses the message without its list. */
static int parse_split(const Checker *c, const char *data, size_t n, struct json_object **ret, VarlinkList *ret_list) {
        size_t size = c->group_ends[c->n_groups - 1];
        VarlinkList list = { .n_items = c->n_items, .n_groups = c->n_groups };
        const char *rest = c->list + size;

        memcpy(list.ends, c->group_ends, c->n_groups * sizeof(*list.ends));
        list.text = strndup(c->list, size);
        if (!list.text)
                return -ENOMEM;
        *ret = parse_pieces((const Piece[]) { { data, (size_t) (c->list - data) }, { rest, (size_t) (data + n - rest) } }, 2);
        if (!*ret) {
                varlink_list_done(&list);
                return -EBADMSG;
        }
        *ret_list = list;
        return 0;
}

int varlink_reader_next_split(VarlinkReader *r, const char *field, struct json_object **ret,
                              VarlinkList *ret_list, size_t *ret_size,
                              const char **reterr_reason) {
        struct json_object *o = NULL;
        VarlinkList list = {};
        const char *data;
        Checker c; /* mostly left unset, see varlink_frame_check() */
        size_t n;
        int error;

        if (!varlink_reader_peek(r, &data, &n))
                return 0;
        error = check_frame(&c, data, n, field, reterr_reason);
        if (error >= 0 && c.n_groups > 1)
                error = parse_split(&c, data, n, &o, &list);
        else if (error >= 0) {
                o = parse_pieces(&(Piece) { data, n }, 1);
                error = o ? 0 : -EBADMSG;
        }
        if (error == -ENOMEM)
                return error;
        /* As an error of the frame it cannot be met for ever. */
        if (error == -EBADMSG && !c.reason && reterr_reason)
                *reterr_reason = "the JSON library refuses the text";
        if (ret_size)
                *ret_size = n + 1;
        consume_frame(r);
        if (error < 0)
                return error;
        *ret = o;
        if (ret_list)
                *ret_list = list;
        return 1;
}

int varlink_reader_next(VarlinkReader *r, struct json_object **ret, size_t *ret_size,
                        const char **reterr_reason) {
        return varlink_reader_next_split(r, NULL, ret, NULL, ret_size, reterr_reason);
}

int varlink_call_parse(struct json_object *message, VarlinkCall *ret) {
        VarlinkCall call = {};

        if (json_get_string(message, "method", &call.method, NULL) != 1 ||
            json_get_object(message, "parameters", &call.parameters) < 0 ||
            json_get_bool(message, "more", &call.more) < 0 ||
            json_get_bool(message, "oneway", &call.oneway) < 0 ||
            json_get_bool(message, "upgrade", &call.upgrade) < 0 || (call.more && call.oneway))
                return -EBADMSG;
        if (!call.parameters) {
                call.parameters = json_object_new_object();
                if (json_add(message, "parameters", call.parameters) < 0)
                        return -EBADMSG;
        }
        *ret = call;
        return 0;
}

static int append_json(Buffer *out, const char *name, struct json_object *o) {
        const char *text;
        size_t n;
        int r;

        text = json_object_to_json_string_length(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
        if (!text)
                return -ENOMEM;
        r = buffer_append_string(out, name);
        return r < 0 ? r : buffer_append(out, text, n);
}

/* One frame: {"KEY":"NAME","parameters":{...},"FLAG":true}, each part where given; all or nothing.
 */
static int append_frame(Buffer *out, const char *key, const char *name,
                        struct json_object *parameters, const char *flag) {
        _cleanup_json_ struct json_object *string = NULL;
        size_t before = out->size;
        int r = 0;

        if (key) {
                string = json_object_new_string(name);
                r = string ? append_json(out, key, string) : -ENOMEM;
        }
        if (r >= 0 && parameters)
                r = append_json(out, key ? ",\"parameters\":" : "{\"parameters\":", parameters);
        if (r >= 0 && !key && !parameters)
                r = buffer_append_string(out, "{\"parameters\":{}");
        if (r >= 0 && flag)
                r = buffer_append_string(out, flag);
        if (r >= 0)
                r = buffer_append(out, "}", sizeof("}"));
        if (r < 0)
                out->size = before;
        return r;
}

int varlink_append_call(Buffer *out, const char *method, struct json_object *parameters, bool more,
                        bool oneway) {
        assert(!(more && oneway)); /* a call without a reply cannot have several */
        return append_frame(out, "{\"method\":", method, parameters,
                            more   ? ",\"more\":true" :
                            oneway ? ",\"oneway\":true" :
                                     NULL);
}

int varlink_append_reply(Buffer *out, struct json_object *parameters, bool continues) {
        return append_frame(out, NULL, NULL, parameters, continues ? ",\"continues\":true" : NULL);
}

int varlink_append_error(Buffer *out, const char *error, struct json_object *parameters) {
        return append_frame(out, "{\"error\":", error, parameters, NULL);
}
