#include "client/event-start.h"

#include <ctype.h>

#include "lib/macro.h"
#include "lib/parse-util.h"

/* Exactly n digits. */
static bool take_digits(const char **s, unsigned n, int *ret) {
        int v = 0;

        for (unsigned i = 0; i < n; i++) {
                if (!isdigit((unsigned char) (*s)[i]))
                        return false;
                v = 10 * v + ((*s)[i] - '0');
        }
        *s += n;
        *ret = v;
        return true;
}

static bool take_char(const char **s, char c) {
        if (**s != c)
                return false;
        (*s)++;
        return true;
}

static bool take_date(const char **s, struct tm *tm) {
        const char *p = *s;
        int year, month, day;

        if (!take_digits(&p, 4, &year) || !take_char(&p, '-') || !take_digits(&p, 2, &month) ||
            !take_char(&p, '-') || !take_digits(&p, 2, &day) || month < 1 || month > 12 ||
            day < 1 || day > 31)
                return false;
        tm->tm_year = year - 1900;
        tm->tm_mon = month - 1;
        tm->tm_mday = day;
        *s = p;
        return true;
}

static bool take_time(const char **s, struct tm *tm, usec_t *ret_fraction) {
        const char *p = *s;
        usec_t unit = USEC_PER_SEC;
        int hour, minute, second = 0;

        if (!take_digits(&p, 2, &hour) || !take_char(&p, ':') || !take_digits(&p, 2, &minute) ||
            hour > 23 || minute > 59)
                return false;
        if (take_char(&p, ':') && (!take_digits(&p, 2, &second) || second > 59))
                return false;
        if (*p == '.' && isdigit((unsigned char) p[1]))
                for (p++; isdigit((unsigned char) *p); p++) {
                        unit /= 10; /* digits behind the sixth count nothing */
                        *ret_fraction += unit * (usec_t) (*p - '0');
                }
        tm->tm_hour = hour;
        tm->tm_min = minute;
        tm->tm_sec = second;
        *s = p;
        return true;
}

/* What is left: nothing (local time), "Z", "UTC", or an offset. */
static bool take_zone(const char *s, bool *ret_local, int *ret_offset_sec) {
        int hours, minutes, sign;

        *ret_local = *s == '\0';
        *ret_offset_sec = 0;
        s += *s == ' ';
        if (*ret_local || streq(s, "Z") || streq(s, "UTC"))
                return true;
        if (*s != '+' && *s != '-')
                return false;
        sign = *s++ == '-' ? -1 : 1;
        if (!take_digits(&s, 2, &hours) || hours > 14)
                return false;
        (void) take_char(&s, ':'); /* date(1) writes it without */
        if (!take_digits(&s, 2, &minutes) || minutes > 59 || *s)
                return false;
        *ret_offset_sec = sign * (hours * 3600 + minutes * 60);
        return true;
}

static int to_usec(struct tm *tm, bool local, int offset_sec, usec_t fraction_usec, usec_t *ret) {
        const int day = tm->tm_mday;
        int64_t t;

        tm->tm_isdst = -1;
        t = local ? (int64_t) mktime(tm) : (int64_t) timegm(tm) - offset_sec;
        if (tm->tm_mday != day) /* the 31st of a shorter month was made a day of the next */
                return -EINVAL;
        if (t < 0)
                return -ERANGE;
        *ret = (usec_t) t * USEC_PER_SEC + fraction_usec;
        return 0;
}

static void today(usec_t now, int days_back, struct tm *ret) {
        const time_t t = (time_t) (now / USEC_PER_SEC);

        (void) localtime_r(&t, ret); /* fails for years that do not fit only */
        ret->tm_hour = ret->tm_min = ret->tm_sec = 0;
        ret->tm_mday -= days_back;
}

int event_time_parse(const char *s, usec_t now, usec_t *ret) {
        int offset_sec = 0;
        usec_t fraction = 0;
        struct tm tm = {};
        uint64_t seconds;
        bool local = true;

        if (*s == '@') {
                if (parse_u64_range(s + 1, 0, UINT32_MAX * UINT64_C(4), &seconds) < 0)
                        return -EINVAL;
                *ret = seconds * USEC_PER_SEC;
                return 0;
        }
        if (streq(s, "today") || streq(s, "yesterday")) {
                today(now, *s == 'y', &tm);
                tm.tm_isdst = -1;
                *ret = (usec_t) mktime(&tm) * USEC_PER_SEC;
                return 0;
        }
        if (take_date(&s, &tm)) {
                if ((*s == 'T' || *s == ' ') && isdigit((unsigned char) s[1])) {
                        s++;
                        if (!take_time(&s, &tm, &fraction))
                                return -EINVAL;
                }
        } else {
                today(now, 0, &tm);
                if (!take_time(&s, &tm, &fraction))
                        return -EINVAL;
        }
        if (!take_zone(s, &local, &offset_sec))
                return -EINVAL;
        return to_usec(&tm, local, offset_sec, fraction, ret);
}

/* "10min", "-10min", "10min ago". */
static int parse_age(const char *s, usec_t *ret) {
        static const char ago[] = " ago";
        size_t n = strlen(s);
        char copy[64];

        s += *s == '-';
        n = strlen(s);
        if (n >= sizeof(copy))
                return -EINVAL;
        if (n > sizeof(ago) - 1 && streq(s + n - (sizeof(ago) - 1), ago))
                n -= sizeof(ago) - 1;
        memcpy(copy, s, n);
        copy[n] = '\0';
        return parse_timespan(copy, ret);
}

int event_start_parse(const char *s, usec_t now, EventStart *ret) {
        EventStart start = { .kind = EVENT_START_TIME };
        usec_t age;
        int r;

        if (streq(s, "now") || streq(s, "earliest")) {
                ret->kind = streq(s, "now") ? EVENT_START_NOW : EVENT_START_EARLIEST;
                return 0;
        }
        r = parse_age(s, &age);
        if (r == -ERANGE || (r >= 0 && age > now))
                return -ERANGE;
        if (r >= 0)
                start.time_usec = now - age;
        else {
                r = event_time_parse(s, now, &start.time_usec);
                if (r < 0)
                        return r;
                if (start.time_usec > now)
                        return -ERANGE;
        }
        *ret = start;
        return 0;
}
