/* Numbers, sizes and spans: the whole text or nothing, limits and one above. */
#include "tests/support/test.h"

#include "lib/parse-util.h"
#include "tests/support/random.h"

TEST(an_id_as_a_uuid) {
        uint8_t id[16];
        char text[37];

        assert_ok(parse_id128("00112233-4455-6677-8899-aabbccddeeff", id));
        ck_assert_str_eq(format_uuid(id, text), "00112233-4455-6677-8899-aabbccddeeff");
}

TEST(decimal_numbers_up_to_64_bits) {
        uint64_t v = 7;

        assert_ok(parse_u64("0", &v));
        ck_assert_uint_eq(v, 0);
        assert_ok(parse_u64("007", &v));
        ck_assert_uint_eq(v, 7);
        assert_ok(parse_u64("18446744073709551615", &v));
        ck_assert(v == UINT64_MAX);
        assert_error(parse_u64("18446744073709551616", &v), -ERANGE);
        assert_error(parse_u64("99999999999999999999999", &v), -ERANGE);
        ck_assert(v == UINT64_MAX); /* untouched on failure */
}

TEST(what_is_no_number_is_refused) {
        static const char *const bad[] = { "",   " ",    " 1", "1 ",  "+1",    "-1", "0x1",
                                           "1x", "１", "1.0", "1e3", "99999999999999999999999x" };
        uint64_t v;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(parse_u64(bad[i], &v), -EINVAL);
}

TEST(ranges_end_where_they_say) {
        uint64_t v;

        assert_ok(parse_u64_range("10", 10, 20, &v));
        assert_ok(parse_u64_range("20", 10, 20, &v));
        assert_error(parse_u64_range("9", 10, 20, &v), -ERANGE);
        assert_error(parse_u64_range("21", 10, 20, &v), -ERANGE);
        assert_error(parse_u64_range("x", 10, 20, &v), -EINVAL);
}

TEST(numbers_parse_back) {
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 100000; i++) {
                uint64_t n = random_u64(&random) >> random_below(&random, 64), v;
                char buf[32];

                (void) snprintf(buf, sizeof(buf), "%" PRIu64, n);
                assert_ok(parse_u64(buf, &v));
                ck_assert(v == n);
        }
}

TEST(sizes_are_powers_of_1024) {
        static const struct {
                const char *text;
                uint64_t value;
        } good[] = {
                { "0", 0 },
                { "512", 512 },
                { "4096B", 4096 },
                { "16K", 16 << 10 },
                { "64M", 64 << 20 },
                { "1G", 1 << 30 },
                { "2T", UINT64_C(2) << 40 },
                { "1KiB", 1024 },
                { "3MiB", 3 << 20 },
                { "16777215T", UINT64_C(16777215) << 40 },
                { "18446744073709551615", UINT64_MAX },
        };
        static const char *const bad[] = { "",    "K",     "-1K", "1k",  "1KB",  "1BiB",
                                           "1Ki", "1KiBx", "1 K", " 1K", "1.5M", "1P" };
        uint64_t v;

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                assert_ok(parse_size(good[i].text, &v));
                ck_assert_msg(v == good[i].value, "%s", good[i].text);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(parse_size(bad[i], &v), -EINVAL);
        assert_error(parse_size("16777216T", &v), -ERANGE);
        assert_error(parse_size("18446744073709551616", &v), -ERANGE);
}

TEST(spans_have_units) {
        static const struct {
                const char *text;
                usec_t value;
        } good[] = {
                { "0", 0 },
                { "30", 30 * USEC_PER_SEC },
                { "250ms", 250 * USEC_PER_MSEC },
                { "7us", 7 },
                { "5min", 5 * USEC_PER_MINUTE },
                { "5 min", 5 * USEC_PER_MINUTE },
                { "5m", 5 * USEC_PER_MINUTE },
                { "1h 30min", 90 * USEC_PER_MINUTE },
                { "1h30min", 90 * USEC_PER_MINUTE },
                { "1 h 30 min", 90 * USEC_PER_MINUTE },
                { "1.5s", 1500 * USEC_PER_MSEC },
                { "0.000001s", 1 },
                { "0.0000019s", 1 },
                { "2sec", 2 * USEC_PER_SEC },
                { "1d", USEC_PER_DAY },
                { "2w", 14 * USEC_PER_DAY },
                { "1min 30", 90 * USEC_PER_SEC },
                { "infinity", USEC_INFINITY },
                { "18446744073709551614us", USEC_INFINITY - 1 },
        };
        static const char *const bad[] = { "",    "s",   "-1s", "5 ",    " 5",   "5s ",       "1.s",  "1.",
                                           ".5s", "1,5s", "5y", "5 min x", "5mins", "infinity ", "5min,", "1..5s" };
        usec_t v;

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                assert_ok(parse_timespan(good[i].text, &v));
                ck_assert_msg(v == good[i].value, "%s: %" PRIu64, good[i].text, v);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(parse_timespan(bad[i], &v), -EINVAL);
        /* The largest number is the word "infinity", and may not be reached by counting. */
        assert_error(parse_timespan("18446744073709551615us", &v), -ERANGE);
        assert_error(parse_timespan("18446744073709551616us", &v), -ERANGE);
        assert_error(parse_timespan("18446744073709551614us 1us", &v), -ERANGE);
        assert_error(parse_timespan("30500569w", &v), -ERANGE);
}

TEST(booleans_have_four_spellings) {
        static const char *const yes[] = { "yes", "true", "on", "1" }, *const no[] = { "no", "false", "off", "0" },
                                *const bad[] = { "", "y", "Yes", "TRUE", "2", " yes" };
        bool b;

        for (size_t i = 0; i < ELEMENTSOF(yes); i++) {
                assert_ok(parse_boolean(yes[i], &b));
                ck_assert(b);
                assert_ok(parse_boolean(no[i], &b));
                ck_assert(!b);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(parse_boolean(bad[i], &b), -EINVAL);
}

TEST(ids_parse_back) {
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 10000; i++) {
                uint64_t parts[2] = { random_u64(&random), random_u64(&random) };
                uint8_t id[16], back[16];
                char buf[33], dashed[37];

                memcpy(id, parts, sizeof(id));
                assert_ok(parse_id128(format_id128(id, buf), back));
                ck_assert_mem_eq(id, back, sizeof(id));

                (void) snprintf(dashed, sizeof(dashed), "%.8s-%.4s-%.4s-%.4s-%.12s", buf, buf + 8, buf + 12, buf + 16,
                                buf + 20);
                assert_ok(parse_id128(dashed, back));
                ck_assert_mem_eq(id, back, sizeof(id));
                for (char *p = dashed; *p; p++)
                        if (*p >= 'a')
                                *p = (char) (*p - 32);
                assert_ok(parse_id128(dashed, back));
                ck_assert_mem_eq(id, back, sizeof(id));
        }
}

TEST(a_malformed_id_is_refused) {
        static const char *const bad[] = {
                "", "0", "0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdef0",
                "0123456789abcdef0123456789abcdeg", "01234567-89ab-cdef-0123-456789abcde",
                "0123456-789ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcde-",
                "01234567_89ab_cdef_0123_456789abcdef",
        };
        uint8_t id[16];

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(parse_id128(bad[i], id), -EINVAL);
}
