/* Points and spans of time, against gmtime_r(3) and by hand. */
#include "tests/support/test.h"

#include "lib/parse-util.h"
#include "lib/time-util.h"
#include "tests/support/random.h"

static void check_timestamp(usec_t t) {
        char buf[FORMAT_TIMESTAMP_MAX], expected[64];
        time_t sec = (time_t) (t / USEC_PER_SEC);
        struct tm tm;
        usec_t again;
        size_t n;

        ck_assert_ptr_nonnull(gmtime_r(&sec, &tm));
        n = strftime(expected, sizeof(expected), "%Y-%m-%dT%H:%M:%S", &tm);
        (void) snprintf(expected + n, sizeof(expected) - n, ".%03uZ", (unsigned) (t % USEC_PER_SEC / USEC_PER_MSEC));
        ck_assert_str_eq(format_timestamp(buf, sizeof(buf), t), expected);
        assert_ok(parse_timestamp(buf, strlen(buf), &again));
        ck_assert_uint_eq(again, t - t % USEC_PER_MSEC);
}

TEST(timestamps_are_the_ones_of_the_c_library) {
        Random random = { .state = test_seed() };

        for (uint64_t day = 0; day < 2932897; day += 13) { /* each day of the year comes up in many years */
                check_timestamp(day * USEC_PER_DAY);
                check_timestamp((day + 1) * USEC_PER_DAY - 1);
        }
        for (unsigned i = 0; i < 100000; i++)
                check_timestamp(random_below(&random, UINT64_C(2932897) * USEC_PER_DAY));
}

TEST(timestamps_at_the_edges) {
        char buf[FORMAT_TIMESTAMP_MAX];

        ck_assert_str_eq(format_timestamp(buf, sizeof(buf), 0), "1970-01-01T00:00:00.000Z");
        ck_assert_str_eq(format_timestamp(buf, sizeof(buf), UINT64_C(1893456000123456)), "2030-01-01T00:00:00.123Z");
        ck_assert_str_eq(format_timestamp(buf, sizeof(buf), UINT64_C(1709164800000000)), "2024-02-29T00:00:00.000Z");
        ck_assert_str_eq(format_timestamp(buf, sizeof(buf), UINT64_C(253402300799999999)), "9999-12-31T23:59:59.999Z");
        ck_assert_str_eq(format_timestamp(buf, sizeof(buf), UINT64_C(253402300800000000)), "n/a");
        ck_assert_str_eq(format_timestamp(buf, sizeof(buf), USEC_INFINITY), "n/a");
}

TEST(what_is_no_timestamp_is_refused) {
        static const char *const bad[] = {
                "",
                "n/a",
                "2026-01-01T00:00:00Z",
                "2026-01-01T00:00:00.000000Z",
                "1969-12-31T23:59:59.999Z",
                "2026-00-01T00:00:00.000Z",
                "2026-13-01T00:00:00.000Z",
                "2026-01-00T00:00:00.000Z",
                "2026-04-31T00:00:00.000Z",
                "2026-02-29T00:00:00.000Z",
                "2100-02-29T00:00:00.000Z",
                "2026-01-01T24:00:00.000Z",
                "2026-01-01T00:60:00.000Z",
                "2026-01-01T00:00:60.000Z",
                "2026-01-01t00:00:00.000Z",
                "2026-01-01T00:00:00.000z",
                "2026-01-01T00:00:00.00xZ",
                "+026-01-01T00:00:00.000Z",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                usec_t t;

                assert_error(parse_timestamp(bad[i], strlen(bad[i]), &t), -EINVAL);
        }
}

TEST(spans_are_short_and_in_two_units) {
        static const struct {
                usec_t usec;
                const char *text;
        } table[] = {
                { 0, "0" },
                { 1, "1us" },
                { 999, "999us" },
                { 12 * USEC_PER_MSEC, "12ms" },
                { USEC_PER_SEC, "1s" },
                { 1250 * USEC_PER_MSEC, "1.250s" },
                { 60 * USEC_PER_SEC - 1, "59.999s" },
                { USEC_PER_MINUTE, "1min" },
                { 5 * USEC_PER_MINUTE + 2 * USEC_PER_SEC, "5min 2s" },
                { USEC_PER_HOUR + 59 * USEC_PER_SEC, "1h" },
                { 2 * USEC_PER_DAY + 3 * USEC_PER_HOUR, "2d 3h" },
                { USEC_INFINITY, "infinity" },
        };
        char buf[FORMAT_TIMESPAN_MAX];

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                ck_assert_str_eq(format_timespan(buf, sizeof(buf), table[i].usec), table[i].text);
}

/* A span that is shown may be typed back into a setting: never more than it was, and at most one part in 60 less. */
TEST(a_shown_span_parses_back) {
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 100000; i++) {
                usec_t span = random_u64(&random) >> random_below(&random, 64), back;
                char buf[FORMAT_TIMESPAN_MAX];

                if (span == USEC_INFINITY)
                        continue;
                assert_ok(parse_timespan(format_timespan(buf, sizeof(buf), span), &back));
                ck_assert_uint_le(back, span);
                ck_assert_msg(span - back <= span / 24 || span - back < USEC_PER_MSEC, "%s", buf);
        }
}

TEST(sums_of_time_stay_at_their_ends) {
        ck_assert(usec_add(USEC_INFINITY, 1) == USEC_INFINITY);
        ck_assert(usec_add(USEC_INFINITY - 1, 1) == USEC_INFINITY);
        ck_assert(usec_add(USEC_INFINITY - 2, 1) == USEC_INFINITY - 1);
        ck_assert(usec_sub(5, 7) == 0);
        ck_assert(usec_sub(7, 5) == 2);
        ck_assert(usec_sub(USEC_INFINITY, 5) == USEC_INFINITY);
}

TEST(clocks_do_not_run_backwards) {
        usec_t a = now_usec(CLOCK_MONOTONIC), b = now_usec(CLOCK_MONOTONIC);

        ck_assert(b >= a && a > 0);
        ck_assert(now_usec(CLOCK_REALTIME) > UINT64_C(1600000000000000)); /* 2020 */
}
