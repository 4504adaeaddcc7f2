#include "lib/json-text.h"

#include <stdint.h>

#include "lib/utf8.h"

/* Bytes that may not stand for themselves: quote, backslash, control characters, and what begins U+0080 to
 * U+009F. */
static const bool is_special[256] = { [0 ... 0x1f] = true, ['"'] = true, ['\\'] = true, [0x7f] = true,
                                      [0xc2] = true };

int json_text_append_string(Buffer *out, const char *s, size_t n) {
        size_t from = 0;
        int r;

        r = buffer_append(out, "\"", 1);
        for (size_t i = 0; i < n && r >= 0; i++) {
                unsigned char c = (unsigned char) s[i];

                if (!is_special[c])
                        continue;
                if (c == 0xc2 && (i + 1 >= n || (unsigned char) s[i + 1] >= 0xa0))
                        continue;
                r = buffer_append(out, s + from, i - from);
                if (c == 0xc2) /* U+0080 to U+009F, whose number is its second byte */
                        c = (unsigned char) s[++i];
                if (r >= 0)
                        r = c == '"' || c == '\\' ? buffer_append(out, (char[]) { '\\', (char) c }, 2) :
                                                    buffer_appendf(out, "\\u%04x", c);
                from = i + 1;
        }
        if (r >= 0)
                r = buffer_append(out, s + from, n - from);
        return r < 0 ? r : buffer_append(out, "\"", 1);
}

typedef struct Text {
        const char *p, *end;
} Text;

static bool at(const Text *t, char c) {
        return t->p < t->end && *t->p == c;
}

static bool skip(Text *t, char c) {
        if (!at(t, c))
                return false;
        t->p++;
        return true;
}

static void skip_blanks(Text *t) {
        while (t->p < t->end && (*t->p == ' ' || *t->p == '\t' || *t->p == '\n' || *t->p == '\r'))
                t->p++;
}

static bool skip_digits(Text *t) {
        const char *from = t->p;

        while (t->p < t->end && *t->p >= '0' && *t->p <= '9')
                t->p++;
        return t->p > from;
}

static bool skip_number(Text *t) {
        (void) skip(t, '-'); /* may be there or not */
        if (!skip(t, '0') && !skip_digits(t))
                return false;
        if (skip(t, '.') && !skip_digits(t))
                return false;
        if (skip(t, 'e') || skip(t, 'E')) {
                if (!skip(t, '+'))
                        (void) skip(t, '-'); /* may be there or not */
                return skip_digits(t);
        }
        return true;
}

static bool is_hex(char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool skip_escape(Text *t) {
        if (t->p >= t->end || !memchr("\"\\/bfnrtu", *t->p, 9))
                return false;
        if (*t->p++ != 'u')
                return true;
        if (t->end - t->p < 4)
                return false;
        for (unsigned i = 0; i < 4; i++)
                if (!is_hex(*t->p++))
                        return false;
        return true;
}

static bool skip_string(Text *t) {
        if (!skip(t, '"'))
                return false;
        while (t->p < t->end) {
                unsigned char c = (unsigned char) *t->p++;

                if (c == '"')
                        return true;
                if (c < 0x20 || (c == '\\' && !skip_escape(t)))
                        return false;
        }
        return false;
}

static bool skip_word(Text *t, const char *word) {
        size_t n = strlen(word);

        if ((size_t) (t->end - t->p) < n || memcmp(t->p, word, n) != 0)
                return false;
        t->p += n;
        return true;
}

static bool skip_scalar(Text *t) {
        if (t->p >= t->end)
                return false;
        switch (*t->p) {
        case '"': return skip_string(t);
        case 't': return skip_word(t, "true");
        case 'f': return skip_word(t, "false");
        case 'n': return skip_word(t, "null");
        default: return skip_number(t);
        }
}

static bool skip_name(Text *t) {
        skip_blanks(t);
        if (!skip_string(t))
                return false;
        skip_blanks(t);
        return skip(t, ':');
}

#define DEPTH_MAX 64U /* a bit each */

/* Without recursion: a bit for each open bracket tells whether it is an object's. */
static bool skip_value(Text *t, unsigned depth_max) {
        uint64_t objects = 0;
        unsigned depth = 0;

        for (;;) {
                skip_blanks(t);
                if (at(t, '{') || at(t, '[')) {
                        bool object = *t->p++ == '{';

                        if (depth >= depth_max || depth >= DEPTH_MAX)
                                return false;
                        objects = objects << 1 | object;
                        depth++;
                        skip_blanks(t);
                        if (!at(t, object ? '}' : ']')) {
                                if (object && !skip_name(t))
                                        return false;
                                continue;
                        }
                } else if (!skip_scalar(t))
                        return false;
                for (;;) { /* behind a value: brackets that close, then perhaps a comma */
                        skip_blanks(t);
                        if (depth == 0)
                                return true;
                        if (!skip(t, objects & 1 ? '}' : ']'))
                                break;
                        objects >>= 1;
                        depth--;
                }
                if (!skip(t, ',') || ((objects & 1) && !skip_name(t)))
                        return false;
        }
}

bool json_text_is_valid(const char *s, size_t n, unsigned depth) {
        Text t = { s, s + n };

        return n > 0 && utf8_is_valid(s, n) && skip_value(&t, depth) && t.p == t.end;
}
