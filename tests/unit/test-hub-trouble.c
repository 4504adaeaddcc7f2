/* Goal: trouble on request hits whom it was asked for, as often and as long as asked. Method: the
 * decisions with a clock that the test turns. */

#include "tests/support/test.h"

#include "emulator/hub-trouble.h"

static void set(Troubles *t, Trouble x) {
        const char *field = NULL;

        if (x.ends_usec == 0)
                x.ends_usec = USEC_INFINITY;
        ck_assert_msg(troubles_set(t, &x, &field) == 0, "%s", field);
}

static TroubleVerdict puback(Troubles *t, const char *id, usec_t now, usec_t *ret_due) {
        const char *cause;

        return troubles_on_puback(t, id, now, ret_due, &cause);
}

TEST(names_and_values_go_both_ways) {
        for (int k = 0; k < _TROUBLE_KIND_MAX; k++)
                ck_assert_int_eq(trouble_kind_from_string(trouble_kind_to_string(k)), k);
        for (int c = 0; c < _TROUBLE_CERTIFICATE_MAX; c++)
                ck_assert_int_eq(trouble_certificate_from_string(trouble_certificate_to_string(c)),
                                 c);
        ck_assert_int_lt(trouble_kind_from_string("luck"), 0);
        ck_assert_int_lt(trouble_certificate_from_string(""), 0);
        ck_assert_ptr_null(trouble_kind_to_string(_TROUBLE_KIND_MAX));
}

TEST(a_device_is_itself_and_its_modules_and_nobody_else) {
        ck_assert(trouble_names_client("d1", "d1"));
        ck_assert(trouble_names_client("d1", "d1/m1"));
        ck_assert(trouble_names_client("d1/m1", "d1/m1"));
        ck_assert(!trouble_names_client("d1", "d12"));
        ck_assert(!trouble_names_client("d1/m1", "d1"));
        ck_assert(!trouble_names_client("d12", "d1"));
}

TEST(what_names_the_device_counts_before_what_is_for_all) {
        _cleanup_(troubles_done) Troubles t = { 0 };
        const char *cause;
        unsigned code;

        set(&t, (Trouble){ .kind = TROUBLE_REFUSE, .count = 9, .code = 5 });
        set(&t,
            (Trouble){ .kind = TROUBLE_REFUSE, .device = (char *) "d1", .count = 9, .code = 3 });
        ck_assert_int_eq(troubles_on_connect(&t, "d1", 0, &code, &cause), TROUBLE_ANSWER);
        ck_assert_uint_eq(code, 3);
        ck_assert_int_eq(troubles_on_connect(&t, "d2", 0, &code, &cause), TROUBLE_ANSWER);
        ck_assert_uint_eq(code, 5);
        ck_assert_int_eq(troubles_on_connect(&t, NULL, 0, &code, &cause), TROUBLE_ANSWER);
        ck_assert_uint_eq(code, 5);
}

TEST(a_count_is_used_up_exactly) {
        _cleanup_(troubles_done) Troubles t = { 0 };
        const char *cause;
        unsigned code;
        usec_t due;

        set(&t, (Trouble){ .kind = TROUBLE_REFUSE, .count = 3, .code = TROUBLE_CODE_CUT });
        for (int i = 0; i < 3; i++)
                ck_assert_int_eq(troubles_on_connect(&t, "d", 0, &code, &cause), TROUBLE_CUT);
        ck_assert_int_eq(troubles_on_connect(&t, "d", 0, &code, &cause), TROUBLE_PASS);
        set(&t, (Trouble){ .kind = TROUBLE_PUBACK_DROP, .count = 1 });
        ck_assert_int_eq(puback(&t, "d", 0, &due), TROUBLE_DROP);
        ck_assert_int_eq(puback(&t, "d", 0, &due), TROUBLE_PASS);
        ck_assert_uint_eq(t.n, 0);
}

TEST(setting_again_replaces_and_ending_takes_only_what_is_named) {
        _cleanup_(troubles_done) Troubles t = { 0 };
        uint64_t serial;

        set(&t, (Trouble){ .kind = TROUBLE_QUOTA });
        set(&t, (Trouble){ .kind = TROUBLE_QUOTA });
        set(&t, (Trouble){ .kind = TROUBLE_QUOTA, .device = (char *) "d1" });
        set(&t, (Trouble){ .kind = TROUBLE_SILENT, .device = (char *) "d1" });
        ck_assert_uint_eq(t.n, 3);
        serial = t.serial;
        ck_assert_uint_eq(troubles_end(&t, TROUBLE_QUOTA, "d2"), 0);
        ck_assert_uint_eq(t.serial, serial);
        ck_assert_uint_eq(troubles_end(&t, TROUBLE_QUOTA, "d1"), 1);
        ck_assert(t.serial != serial);
        ck_assert_uint_eq(troubles_end(&t, TROUBLE_QUOTA, NULL), 1);
        ck_assert(troubles_are_silent(&t, "d1"));
        ck_assert(!troubles_are_silent(&t, "d2"));
        ck_assert(!troubles_are_silent(&t, NULL));
}

TEST(trouble_ends_at_its_time_and_says_when) {
        _cleanup_(troubles_done) Troubles t = { 0 };

        ck_assert_uint_eq(troubles_expire(&t, 5), USEC_INFINITY);
        set(&t, (Trouble){ .kind = TROUBLE_QUOTA, .ends_usec = 100 });
        set(&t, (Trouble){ .kind = TROUBLE_TIER, .ends_usec = 200 });
        set(&t, (Trouble){ .kind = TROUBLE_SILENT });
        ck_assert_uint_eq(troubles_expire(&t, 99), 100);
        ck_assert_uint_eq(t.n, 3);
        ck_assert_uint_eq(troubles_expire(&t, 100), 200);
        ck_assert_uint_eq(t.n, 2);
        ck_assert_uint_eq(troubles_expire(&t, 1000), USEC_INFINITY);
        ck_assert_uint_eq(t.n, 1);
}

/* At every rate and burst: the n-th of many that come at once leaves at its own time, and the rate
 * holds over any span. */
TEST(a_throttle_serves_at_its_rate_after_its_burst) {
        for (uint64_t burst = 0; burst < 5; burst++) {
                _cleanup_(troubles_done) Troubles t = { 0 };
                usec_t due;

                set(&t, (Trouble){ .kind = TROUBLE_THROTTLE,
                                   .interval_usec = 100,
                                   .delay_usec = 1000,
                                   .burst = burst });
                for (uint64_t i = 0; i <= burst; i++)
                        ck_assert_int_eq(puback(&t, "d", 5000, &due), TROUBLE_PASS);
                for (uint64_t i = 1; i <= 10; i++) {
                        ck_assert_int_eq(puback(&t, "d", 5000, &due), TROUBLE_HOLD);
                        ck_assert_uint_eq(due, 5000 + i * 100);
                }
                /* The next would wait longer than is allowed, and takes nobody's place by trying.
                 */
                for (int i = 0; i < 3; i++)
                        ck_assert_int_eq(puback(&t, "d", 5000, &due), TROUBLE_CUT);
                ck_assert_int_eq(puback(&t, "d", 5100, &due), TROUBLE_HOLD);
                ck_assert_uint_eq(due, 6100);
                /* After a quiet time all is as at first. */
                for (uint64_t i = 0; i <= burst; i++)
                        ck_assert_int_eq(puback(&t, "d", 100000, &due), TROUBLE_PASS);
                ck_assert_int_eq(puback(&t, "d", 100000, &due), TROUBLE_HOLD);
        }
}

TEST(a_throttle_of_connects_lets_one_through_per_interval) {
        _cleanup_(troubles_done) Troubles t = { 0 };
        const char *cause;
        unsigned code;

        set(&t, (Trouble){ .kind = TROUBLE_THROTTLE, .interval_usec = 1, .connect_usec = 100 });
        ck_assert_int_eq(troubles_on_connect(&t, "d", 1000, &code, &cause), TROUBLE_PASS);
        for (usec_t now = 1000; now < 1100; now += 9)
                ck_assert_int_eq(troubles_on_connect(&t, "d", now, &code, &cause), TROUBLE_CUT);
        ck_assert_int_eq(troubles_on_connect(&t, "d", 1100, &code, &cause), TROUBLE_PASS);
}

TEST(delay_and_throttle_together_take_the_later_time) {
        _cleanup_(troubles_done) Troubles t = { 0 };
        usec_t due;

        set(&t, (Trouble){ .kind = TROUBLE_PUBACK_DELAY, .delay_usec = 50 });
        set(&t, (Trouble){ .kind = TROUBLE_THROTTLE, .interval_usec = 100, .delay_usec = 1000 });
        ck_assert_int_eq(puback(&t, "d", 10, &due), TROUBLE_HOLD);
        ck_assert_uint_eq(due, 60);
        ck_assert_int_eq(puback(&t, "d", 10, &due), TROUBLE_HOLD);
        ck_assert_uint_eq(due, 110);
        ck_assert(troubles_hold_pubacks(&t, "d"));
}

TEST(what_is_out_of_range_is_refused_by_name) {
        static const struct {
                Trouble trouble;
                const char *field;
        } cases[] = {
                { { .kind = _TROUBLE_KIND_MAX }, "kind" },
                { { .kind = TROUBLE_REFUSE, .code = 5 }, "count" },
                { { .kind = TROUBLE_REFUSE, .code = TROUBLE_CODE_MAX + 1, .count = 1 }, "code" },
                { { .kind = TROUBLE_REFUSE, .count = TROUBLE_COUNT_MAX + 1ULL }, "count" },
                { { .kind = TROUBLE_PUBACK_DROP }, "count" },
                { { .kind = TROUBLE_PUBACK_DELAY }, "delayUSec" },
                { { .kind = TROUBLE_THROTTLE }, "intervalUSec" },
                { { .kind = TROUBLE_THROTTLE, .interval_usec = 1, .burst = UINT64_MAX }, "burst" },
                { { .kind = TROUBLE_THROTTLE, .interval_usec = 1, .connect_usec = UINT64_MAX },
                  "connectIntervalUSec" },
                { { .kind = TROUBLE_MARKED }, "mark" },
                { { .kind = TROUBLE_MARKED, .mark = (char *) "" }, "mark" },
                { { .kind = TROUBLE_CERTIFICATE }, "certificate" },
                { { .kind = TROUBLE_CERTIFICATE, .certificate = _TROUBLE_CERTIFICATE_MAX },
                  "certificate" },
                { { .kind = TROUBLE_CERTIFICATE, .certificate = 1, .device = (char *) "d" },
                  "device" },
        };
        _cleanup_(troubles_done) Troubles t = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const char *field = "none";

                assert_error(troubles_set(&t, &cases[i].trouble, &field), -EINVAL);
                ck_assert_str_eq(field, cases[i].field);
        }
        ck_assert_uint_eq(t.n, 0);
}

TEST(there_is_room_for_a_fixed_number) {
        _cleanup_(troubles_done) Troubles t = { 0 };
        const char *field;
        char id[16];
        Trouble x = { .kind = TROUBLE_QUOTA, .device = id, .ends_usec = USEC_INFINITY };

        for (unsigned i = 0; i < TROUBLES_MAX; i++) {
                (void) snprintf(id, sizeof(id), "d%u", i);
                assert_ok(troubles_set(&t, &x, &field));
        }
        strcpy(id, "one-more");
        assert_error(troubles_set(&t, &x, &field), -E2BIG);
        strcpy(id, "d0");
        assert_ok(troubles_set(&t, &x, &field));
}

/* Against memmem(), over all texts of two letters, in pieces of every size. */
TEST(a_text_is_found_whatever_the_pieces) {
        for (unsigned pattern_bits = 0; pattern_bits < 32; pattern_bits++)
                for (unsigned bits = 0; bits < 1024; bits++) {
                        uint8_t pattern[5], text[10];
                        TextFinder f;

                        for (size_t i = 0; i < sizeof(pattern); i++)
                                pattern[i] = pattern_bits >> i & 1 ? 'a' : 'b';
                        for (size_t i = 0; i < sizeof(text); i++)
                                text[i] = bits >> i & 1 ? 'a' : 'b';
                        assert_ok(text_finder_init(&f, pattern, sizeof(pattern)));
                        for (size_t piece = 1; piece <= sizeof(text); piece += 3) {
                                size_t state = 0;
                                bool found = false;

                                for (size_t at = 0; at < sizeof(text); at += piece)
                                        found = text_finder_feed(&f, &state, text + at,
                                                                 MIN(piece, sizeof(text) - at)) ||
                                                found;
                                ck_assert_int_eq(found, memmem(text, sizeof(text), pattern,
                                                               sizeof(pattern)) != NULL);
                        }
                }
}

TEST(a_request_meets_the_trouble_that_names_most_of_it) {
        _cleanup_(troubles_done) Troubles t = { 0 };
        TroubleRequest q;

        set(&t, (Trouble){ .kind = TROUBLE_HTTPS_ANSWER, .code = 503001 });
        set(&t, (Trouble){ .kind = TROUBLE_HTTPS_ANSWER, .code = 429001, .calls = TROUBLE_CALLS_QUERY,
                           .retry_after_sec = 3, .count = 1 });
        set(&t, (Trouble){ .kind = TROUBLE_HTTPS_ANSWER, .code = 401003, .device = (char *) "d1" });
        set(&t, (Trouble){ .kind = TROUBLE_HTTPS_CUT, .count = 1 });
        ck_assert_int_eq(t.n, 4);

        troubles_on_request(&t, NULL, TROUBLE_CALLS_QUERY, &q);
        ck_assert(q.code == 429001 && q.retry_after_sec == 3 && !q.cut);
        troubles_on_request(&t, NULL, TROUBLE_CALLS_QUERY, &q); /* the one of a count is used up */
        ck_assert(q.code == 503001 && q.retry_after_sec == 0);
        troubles_on_request(&t, "d1/m1", TROUBLE_CALLS_SINGLE, &q);
        ck_assert_int_eq(q.code, 401003);
        ck_assert_int_eq(troubles_end(&t, TROUBLE_HTTPS_ANSWER, NULL), 2);
        troubles_on_request(&t, "d1", TROUBLE_CALLS_SINGLE, &q);
        ck_assert(q.code == 0 && q.cut);
        troubles_on_request(&t, "d1", TROUBLE_CALLS_SINGLE, &q);
        ck_assert(!q.cut && t.n == 0);
}

TEST(trouble_of_requests_has_limits) {
        static const Trouble bad[] = {
                { .kind = TROUBLE_HTTPS_ANSWER, .code = 399999 },
                { .kind = TROUBLE_HTTPS_ANSWER, .code = 600000 },
                { .kind = TROUBLE_HTTPS_ANSWER, .code = 429001,
                  .retry_after_sec = TROUBLE_RETRY_AFTER_SEC_MAX + 1 },
                { .kind = TROUBLE_HTTPS_DELAY },
                { .kind = TROUBLE_HTTPS_CUT },
        };
        Troubles t = { 0 };
        const char *field;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(troubles_set(&t, bad + i, &field), -EINVAL);
        for (int c = 0; c < _TROUBLE_CALLS_MAX; c++)
                ck_assert_int_eq(trouble_calls_from_string(trouble_calls_to_string(c)), c);
}

TEST(a_text_has_a_length) {
        uint8_t text[TEXT_FINDER_MAX + 1] = { 0 };
        TextFinder f;

        assert_error(text_finder_init(&f, text, 0), -EINVAL);
        assert_error(text_finder_init(&f, text, sizeof(text)), -EINVAL);
        assert_ok(text_finder_init(&f, text, TEXT_FINDER_MAX));
}
