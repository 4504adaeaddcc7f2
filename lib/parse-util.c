#include "lib/parse-util.h"

#include "lib/macro.h"

/* Digits up to the first other character. 0, -EINVAL (none) or -ERANGE. */
static int parse_digits(const char **s, uint64_t *ret) {
        const char *p = *s;
        uint64_t v = 0;

        if (*p < '0' || *p > '9')
                return -EINVAL;
        for (; *p >= '0' && *p <= '9'; p++)
                if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
                    __builtin_add_overflow(v, (uint64_t) (*p - '0'), &v))
                        return -ERANGE;
        *s = p;
        *ret = v;
        return 0;
}

int parse_u64(const char *s, uint64_t *ret) {
        uint64_t v;
        int r;

        /* A text that is no number at all stays -EINVAL, however long it is. */
        if (!*s || s[strspn(s, "0123456789")])
                return -EINVAL;
        r = parse_digits(&s, &v);
        if (r < 0)
                return r;
        *ret = v;
        return 0;
}

int parse_u64_range(const char *s, uint64_t min, uint64_t max, uint64_t *ret) {
        uint64_t v;
        int r = parse_u64(s, &v);

        if (r < 0)
                return r;
        if (v < min || v > max)
                return -ERANGE;
        *ret = v;
        return 0;
}

int parse_size(const char *s, uint64_t *ret) {
        static const char letters[] = "BKMGT";
        const char *letter;
        unsigned shift = 0;
        uint64_t v;
        int r = parse_digits(&s, &v);

        if (r < 0)
                return r;
        if (*s) {
                letter = strchr(letters, *s++);
                if (!letter)
                        return -EINVAL;
                shift = 10 * (unsigned) (letter - letters);
                if (*s && (shift == 0 || !streq(s, "iB")))
                        return -EINVAL;
        }
        if (v > UINT64_MAX >> shift)
                return -ERANGE;
        *ret = v << shift;
        return 0;
}

static const char *skip_blanks(const char *s) {
        return s + strspn(s, " \t");
}

/* Skips the unit in *s. No unit at all is seconds; -EINVAL for a word that is none. */
static int parse_time_unit(const char **s, usec_t *ret) {
        static const struct {
                const char *name;
                usec_t usec;
        } units[] = {
                { "us", 1 },
                { "ms", USEC_PER_MSEC },
                { "s", USEC_PER_SEC },
                { "sec", USEC_PER_SEC },
                { "m", USEC_PER_MINUTE },
                { "min", USEC_PER_MINUTE },
                { "h", USEC_PER_HOUR },
                { "d", USEC_PER_DAY },
                { "w", 7 * USEC_PER_DAY },
        };
        size_t n = strspn(*s, "abcdefghijklmnopqrstuvwxyz");

        if (n == 0) {
                *ret = USEC_PER_SEC;
                return 0;
        }
        for (size_t i = 0; i < ELEMENTSOF(units); i++)
                if (strlen(units[i].name) == n && memcmp(units[i].name, *s, n) == 0) {
                        *s += n;
                        *ret = units[i].usec;
                        return 0;
                }
        return -EINVAL;
}

/* One "1.5h". The fraction is cut, not rounded, below a microsecond. */
static int parse_timespan_part(const char **s, usec_t *ret) {
        const char *fraction = NULL, *fraction_end = NULL, *after_blanks;
        usec_t unit, step, part;
        uint64_t v;
        int r = parse_digits(s, &v);

        if (r < 0)
                return r;
        if (**s == '.') {
                fraction = ++*s;
                *s += strspn(*s, "0123456789");
                fraction_end = *s;
                if (fraction == fraction_end)
                        return -EINVAL;
        }
        after_blanks = skip_blanks(*s);
        if (*after_blanks >= 'a' && *after_blanks <= 'z') /* "5 min"; other blanks part two spans */
                *s = after_blanks;
        r = parse_time_unit(s, &unit);
        if (r < 0)
                return r;
        if (__builtin_mul_overflow(v, unit, &part))
                return -ERANGE;
        step = unit;
        for (const char *p = fraction; p < fraction_end; p++) {
                step /= 10;
                if (__builtin_add_overflow(part, step * (usec_t) (*p - '0'), &part))
                        return -ERANGE;
        }
        *ret = part;
        return 0;
}

int parse_timespan(const char *s, usec_t *ret) {
        usec_t sum = 0, part;
        int r;

        if (streq(s, "infinity")) {
                *ret = USEC_INFINITY;
                return 0;
        }
        do {
                r = parse_timespan_part(&s, &part);
                if (r < 0)
                        return r;
                if (__builtin_add_overflow(sum, part, &sum))
                        return -ERANGE;
                if (!*s)
                        break;
                s = skip_blanks(s); /* what follows must be a number: a trailing blank is an error */
        } while (true);
        if (sum == USEC_INFINITY) /* the number that means for ever has its own word */
                return -ERANGE;
        *ret = sum;
        return 0;
}

int parse_boolean(const char *s, bool *ret) {
        static const char *const words[][2] = {
                { "no", "yes" }, { "false", "true" }, { "off", "on" }, { "0", "1" },
        };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                for (int v = 0; v < 2; v++)
                        if (streq(s, words[i][v])) {
                                *ret = v;
                                return 0;
                        }
        return -EINVAL;
}

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -EINVAL;
}

int parse_id128(const char *s, uint8_t ret[static 16]) {
        bool dashes = strlen(s) == 36;
        uint8_t id[16];

        if (!dashes && strlen(s) != 32)
                return -EINVAL;
        for (unsigned i = 0; i < 16; i++) {
                int high, low;

                if (dashes && (i == 4 || i == 6 || i == 8 || i == 10) && *s++ != '-')
                        return -EINVAL;
                high = hex_digit(s[0]);
                low = high < 0 ? high : hex_digit(s[1]);
                if (low < 0)
                        return -EINVAL;
                id[i] = (uint8_t) (high << 4 | low);
                s += 2;
        }
        memcpy(ret, id, sizeof(id));
        return 0;
}

char *format_id128(const uint8_t id[static 16], char buf[static 33]) {
        static const char digits[] = "0123456789abcdef";

        for (unsigned i = 0; i < 16; i++) {
                buf[2 * i] = digits[id[i] >> 4];
                buf[2 * i + 1] = digits[id[i] & 15];
        }
        buf[32] = 0;
        return buf;
}

char *format_uuid(const uint8_t id[static 16], char buf[static 37]) {
        static const uint8_t ends[] = { 8, 12, 16, 20, 32 }; /* of the groups, in digits */
        char digits[33], *p = buf;
        unsigned from = 0;

        format_id128(id, digits);
        for (unsigned i = 0; i < ELEMENTSOF(ends); i++) {
                if (i > 0)
                        *p++ = '-';
                memcpy(p, digits + from, ends[i] - from);
                p += ends[i] - from;
                from = ends[i];
        }
        *p = 0;
        return buf;
}
