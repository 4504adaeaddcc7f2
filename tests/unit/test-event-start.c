#include "client/event-start.h"

#include "lib/macro.h"
#include "tests/support/test.h"

#define NOW (UINT64_C(1764057600) * USEC_PER_SEC) /* 2025-11-25T08:00:00Z */

static usec_t at(const char *s) {
        EventStart start = {};

        ck_assert_msg(event_start_parse(s, NOW, &start) == 0, "%s", s);
        ck_assert_int_eq(start.kind, EVENT_START_TIME);
        return start.time_usec;
}

static void set_zone(const char *zone) {
        ck_assert_int_eq(setenv("TZ", zone, 1), 0);
        tzset();
}

TEST(the_two_words) {
        EventStart s = {};

        assert_ok(event_start_parse("earliest", NOW, &s));
        ck_assert_int_eq(s.kind, EVENT_START_EARLIEST);
        assert_ok(event_start_parse("now", NOW, &s));
        ck_assert_int_eq(s.kind, EVENT_START_NOW);
}

TEST(an_age_goes_back_from_now) {
        static const char *const ages[] = { "10min", "-10min", "10min ago", "600", "600s", "9min 60s", "-9min 60s ago" };

        for (size_t i = 0; i < ELEMENTSOF(ages); i++)
                ck_assert_uint_eq(at(ages[i]), NOW - 10 * USEC_PER_MINUTE);
        ck_assert_uint_eq(at("2d"), NOW - 2 * USEC_PER_DAY);
}

/* The figures are those of date -u -d TEXT +%s. */
TEST(a_time_in_utc_and_in_other_zones) {
        static const struct {
                const char *text;
                uint64_t msec;
        } times[] = {
                { "2025-11-25T07:00:00Z", UINT64_C(1764054000000) },
                { "2025-11-25 07:00:00 UTC", UINT64_C(1764054000000) },
                { "2025-11-25T07:00Z", UINT64_C(1764054000000) },
                { "2025-11-25T07:00:00.250Z", UINT64_C(1764054000250) },
                { "2025-11-25T08:00:00+01:00", UINT64_C(1764054000000) },
                { "2025-11-25 08:00:00 +0100", UINT64_C(1764054000000) },
                { "2025-11-25T01:30:00-05:30", UINT64_C(1764054000000) },
                { "2024-02-29Z", UINT64_C(1709164800000) },
                { "@1764054000", UINT64_C(1764054000000) },
                { "@0", 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(times); i++)
                ck_assert_msg(at(times[i].text) == times[i].msec * USEC_PER_MSEC, "%s", times[i].text);
}

TEST(without_a_zone_it_is_local_time) {
        set_zone("XXX-2"); /* two hours east, without summer time */
        ck_assert_uint_eq(at("2025-11-25 09:00"), UINT64_C(1764054000) * USEC_PER_SEC);
        ck_assert_uint_eq(at("09:00"), UINT64_C(1764054000) * USEC_PER_SEC);
        ck_assert_uint_eq(at("today"), UINT64_C(1764021600) * USEC_PER_SEC);
        ck_assert_uint_eq(at("yesterday"), UINT64_C(1763935200) * USEC_PER_SEC);
        ck_assert_uint_eq(at("2025-11-25"), UINT64_C(1764021600) * USEC_PER_SEC);
        set_zone("UTC");
}

TEST(what_is_no_time_is_refused) {
        static const char *const bad[] = {
                "", " ", "tomorrow", "Now", "10 parsecs", "2025-13-01", "2025-00-01", "2025-02-30", "2025-11-31",
                "2025-11-25T", "2025-11-25T25:00", "2025-11-25 08:60", "2025-11-25 08:00:60", "2025-11-25 08:00:00 CET",
                "2025-11-25T08:00:00+1", "2025-11-25T08:00:00+15:00", "25-11-25", "08:0", "@", "@-1", "@1.5", "-", "ago",
                "10min before", "2025-11-25 08:00:00Zulu",
                "a text that is far longer than any time or age that anybody would ever write down here",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(event_start_parse(bad[i], NOW, &(EventStart){}) == -EINVAL, "%s", bad[i]);
}

TEST(what_is_not_in_the_past_is_out_of_range) {
        static const char *const bad[] = { "2025-11-25T08:00:01Z", "@1764057601", "2999-01-01", "100000d", "infinity",
                                           "1969-12-31T23:59:59Z" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(event_start_parse(bad[i], NOW, &(EventStart){}) == -ERANGE, "%s", bad[i]);
}
