/* time-util.h: points and spans of time in microseconds. */
#pragma once

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

typedef uint64_t usec_t;

#define USEC_INFINITY ((usec_t) UINT64_MAX)
#define USEC_PER_MSEC ((usec_t) 1000)
#define USEC_PER_SEC ((usec_t) 1000000)
#define USEC_PER_MINUTE (60 * USEC_PER_SEC)
#define USEC_PER_HOUR (60 * USEC_PER_MINUTE)
#define USEC_PER_DAY (24 * USEC_PER_HOUR)

/* 2026-01-01: this code is not older, so a clock that says so is wrong. */
#define TIME_OF_RELEASE_USEC (UINT64_C(1767225600) * USEC_PER_SEC)

/* The clock's reading now. CLOCK_REALTIME, CLOCK_MONOTONIC or CLOCK_BOOTTIME. */
usec_t now_usec(clockid_t clock);

/* a + b, staying at USEC_INFINITY instead of wrapping. */
static inline usec_t usec_add(usec_t a, usec_t b) {
        return a > USEC_INFINITY - b ? USEC_INFINITY : a + b;
}

/* a - b, staying at 0 instead of wrapping; USEC_INFINITY stays what it is. */
static inline usec_t usec_sub(usec_t a, usec_t b) {
        if (a == USEC_INFINITY)
                return a;
        return a > b ? a - b : 0;
}

#define FORMAT_TIMESTAMP_MAX sizeof("2026-01-01T00:00:00.000000Z")
#define FORMAT_TIMESPAN_MAX 64U

/* UTC in ISO 8601 with milliseconds, "2026-01-31T07:08:09.123Z"; the form the hub uses. buf holds at least
 * FORMAT_TIMESTAMP_MAX bytes. Returns buf; years past 9999 give "n/a". */
char *format_timestamp(char *buf, size_t size, usec_t realtime_usec);

/* The opposite, of that form alone; years from 1970 on. 0 or -EINVAL. */
int parse_timestamp(const char *s, size_t n, usec_t *ret);

/* "2d 3h", "5min 2s", "1.250s", "12ms", "0", "infinity": for people, at most two units. Returns buf. */
char *format_timespan(char *buf, size_t size, usec_t span_usec);
