#include "lib/time-util.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "lib/macro.h"

usec_t now_usec(clockid_t clock) {
        struct timespec ts = {};
        int r = clock_gettime(clock, &ts);

        assert(r == 0); /* fails only for a clock that does not exist */
        (void) r;
        return (usec_t) ts.tv_sec * USEC_PER_SEC + (usec_t) ts.tv_nsec / 1000;
}

/* Gregorian date of a day number since 1970. Own arithmetic and not gmtime_r(): this runs for each message, and
 * the library's takes a lock. Years are counted from March, so that the leap day ends a year. */
static void day_to_date(uint64_t day, unsigned *ret_year, unsigned *ret_month, unsigned *ret_day) {
        uint64_t since = day + 719468; /* days from 0000-03-01 to 1970-01-01 */
        uint64_t era = since / 146097, day_of_era = since % 146097; /* 400 years */
        uint64_t year = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
        uint64_t day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        uint64_t month = (5 * day_of_year + 2) / 153; /* 0 is March */

        *ret_day = (unsigned) (day_of_year - (153 * month + 2) / 5 + 1);
        *ret_month = (unsigned) (month < 10 ? month + 3 : month - 9);
        *ret_year = (unsigned) (era * 400 + year + (month >= 10));
}

static char *put_digits(char *p, unsigned value, unsigned n) {
        for (unsigned i = n; i > 0; i--, value /= 10)
                p[i - 1] = (char) ('0' + value % 10);
        return p + n;
}

#define DAYS_TO_YEAR_10000 UINT64_C(2932897)

char *format_timestamp(char *buf, size_t size, usec_t realtime_usec) {
        uint64_t day = realtime_usec / USEC_PER_DAY;
        unsigned msec_of_day = (unsigned) (realtime_usec % USEC_PER_DAY / USEC_PER_MSEC);
        unsigned year, month, day_of_month;
        char *p = buf;

        assert(size >= FORMAT_TIMESTAMP_MAX);

        if (day >= DAYS_TO_YEAR_10000)
                return strcpy(buf, "n/a");

        day_to_date(day, &year, &month, &day_of_month);
        p = put_digits(p, year, 4);
        *p++ = '-';
        p = put_digits(p, month, 2);
        *p++ = '-';
        p = put_digits(p, day_of_month, 2);
        *p++ = 'T';
        p = put_digits(p, msec_of_day / 3600000, 2);
        *p++ = ':';
        p = put_digits(p, msec_of_day / 60000 % 60, 2);
        *p++ = ':';
        p = put_digits(p, msec_of_day / 1000 % 60, 2);
        *p++ = '.';
        p = put_digits(p, msec_of_day % 1000, 3);
        *p++ = 'Z';
        *p = 0;
        return buf;
}

/* The other way round; may be beyond the end of its month. */
static uint64_t date_to_day(unsigned year, unsigned month, unsigned day) {
        uint64_t y = month > 2 ? year : year - 1, m = month > 2 ? month - 3 : month + 9;

        return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719468;
}

/* n digits within min..max. */
static int take_digits(const char **s, unsigned n, unsigned min, unsigned max, unsigned *ret) {
        unsigned value = 0;

        for (unsigned i = 0; i < n; i++, (*s)++) {
                if (**s < '0' || **s > '9')
                        return -EINVAL;
                value = value * 10 + (unsigned) (**s - '0');
        }
        if (value < min || value > max)
                return -EINVAL;
        *ret = value;
        return 0;
}

int parse_timestamp(const char *s, size_t n, usec_t *ret) {
        static const struct {
                unsigned digits, min, max;
                char end;
        } parts[] = { { 4, 1970, 9999, '-' }, { 2, 1, 12, '-' }, { 2, 1, 31, 'T' }, { 2, 0, 23, ':' },
                      { 2, 0, 59, ':' },      { 2, 0, 59, '.' }, { 3, 0, 999, 'Z' } };
        unsigned v[ELEMENTSOF(parts)], year, month, day;
        uint64_t days;
        int r;

        if (n != strlen("2026-01-31T07:08:09.123Z"))
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                r = take_digits(&s, parts[i].digits, parts[i].min, parts[i].max, v + i);
                if (r < 0 || *s++ != parts[i].end)
                        return -EINVAL;
        }
        days = date_to_day(v[0], v[1], v[2]);
        if (v[2] > 28) {
                day_to_date(days, &year, &month, &day);
                if (month != v[1])
                        return -EINVAL; /* the month has no such day */
        }
        *ret = days * USEC_PER_DAY + v[3] * USEC_PER_HOUR + v[4] * USEC_PER_MINUTE +
               v[5] * USEC_PER_SEC + v[6] * USEC_PER_MSEC;
        return 0;
}

char *format_timespan(char *buf, size_t size, usec_t span_usec) {
        static const struct {
                usec_t usec;
                const char *name;
        } units[] = {
                { USEC_PER_DAY, "d" }, { USEC_PER_HOUR, "h" }, { USEC_PER_MINUTE, "min" }, { USEC_PER_SEC, "s" },
        };
        unsigned i = 0;
        usec_t rest;
        int n;

        if (span_usec == USEC_INFINITY)
                (void) snprintf(buf, size, "infinity");
        else if (span_usec == 0)
                (void) snprintf(buf, size, "0");
        else if (span_usec < USEC_PER_MSEC)
                (void) snprintf(buf, size, "%" PRIu64 "us", span_usec);
        else if (span_usec < USEC_PER_SEC)
                (void) snprintf(buf, size, "%" PRIu64 "ms", span_usec / USEC_PER_MSEC);
        else if (span_usec < USEC_PER_MINUTE) {
                uint64_t msec = span_usec % USEC_PER_SEC / USEC_PER_MSEC;

                if (msec > 0)
                        (void) snprintf(buf, size, "%" PRIu64 ".%03" PRIu64 "s", span_usec / USEC_PER_SEC, msec);
                else
                        (void) snprintf(buf, size, "%" PRIu64 "s", span_usec / USEC_PER_SEC);
        } else {
                while (span_usec < units[i].usec)
                        i++;
                n = snprintf(buf, size, "%" PRIu64 "%s", span_usec / units[i].usec, units[i].name);
                rest = span_usec % units[i].usec / units[i + 1].usec;
                if (rest > 0 && n >= 0 && (size_t) n < size)
                        (void) snprintf(buf + n, size - (size_t) n, " %" PRIu64 "%s", rest, units[i + 1].name);
        }
        return buf;
}
