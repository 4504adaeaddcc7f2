#include "tests/support/test.h"

#include "lib/backoff.h"
#include "tests/support/random.h"

static const BackoffBounds defaults = {
        .min_usec = USEC_PER_SEC,
        .max_usec = 60 * USEC_PER_SEC,
        .cut_max_usec = 300 * USEC_PER_SEC,
        .refused_max_usec = 600 * USEC_PER_SEC,
};

/* The bound of each attempt in milliseconds; the last one stays. */
static const struct {
        BackoffKind kind;
        uint64_t bound_msec[9];
} table[] = {
        { BACKOFF_FAILED, { 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000 } },
        { BACKOFF_CUT, { 60000, 90000, 135000, 202500, 300000, 300000, 300000, 300000, 300000 } },
        { BACKOFF_WAKE, { 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000 } },
        { BACKOFF_TAKEN_OVER, { 1000, 2000, 4000, 8000, 16000, 16000, 16000, 16000, 16000 } },
        { BACKOFF_REFUSED, { 10000, 20000, 40000, 80000, 160000, 320000, 600000, 600000, 600000 } },
};

TEST(the_delay_lies_between_half_of_the_bound_and_the_bound) {
        for (size_t k = 0; k < ELEMENTSOF(table); k++)
                for (unsigned n = 0; n < 9; n++) {
                        usec_t bound = table[k].bound_msec[n] * USEC_PER_MSEC;

                        ck_assert(backoff_delay_usec(table[k].kind, n, &defaults, 0) == bound / 2);
                        ck_assert(backoff_delay_usec(table[k].kind, n, &defaults, UINT64_MAX) == bound - 1);
                        ck_assert(backoff_delay_usec(table[k].kind, n, &defaults, UINT64_C(1) << 63) == bound * 3 / 4);
                }
}

TEST(the_bound_holds_for_ever) {
        static const unsigned attempts[] = { 9, 31, 32, 63, 64, 65, 1000, UINT32_MAX };

        for (size_t k = 0; k < ELEMENTSOF(table); k++)
                for (size_t i = 0; i < ELEMENTSOF(attempts); i++)
                        ck_assert(backoff_delay_usec(table[k].kind, attempts[i], &defaults, UINT64_MAX) ==
                                  table[k].bound_msec[8] * USEC_PER_MSEC - 1);
}

TEST(a_connection_that_lived_is_tried_soon_and_spread_from_zero) {
        ck_assert(backoff_delay_usec(BACKOFF_LIVED, 5, &defaults, 0) == 0);
        ck_assert(backoff_delay_usec(BACKOFF_LIVED, 5, &defaults, UINT64_MAX) == USEC_PER_SEC - 1);
}

/* A fleet must not arrive together: of many devices each tenth of the range gets its tenth. */
TEST(delays_spread_evenly) {
        Random random = { .state = test_seed() };
        unsigned tenths[10] = {};

        for (unsigned i = 0; i < 100000; i++) {
                usec_t d = backoff_delay_usec(BACKOFF_FAILED, 6, &defaults, random_u64(&random));

                tenths[(d - 30 * USEC_PER_SEC) / (3 * USEC_PER_SEC)]++;
        }
        for (unsigned i = 0; i < 10; i++)
                ck_assert_msg(tenths[i] > 9400 && tenths[i] < 10600, "%u: %u", i, tenths[i]); /* six sigma */
}

TEST(extreme_bounds_do_not_wrap) {
        static const usec_t values[] = { 0, 1, 2, USEC_PER_SEC, USEC_INFINITY / 2, USEC_INFINITY - 1, USEC_INFINITY };

        for (size_t a = 0; a < ELEMENTSOF(values); a++)
                for (size_t b = a; b < ELEMENTSOF(values); b++)
                        for (unsigned n = 0; n < 70; n++)
                                for (BackoffKind kind = 0; kind < _BACKOFF_KIND_MAX; kind++) {
                                        BackoffBounds bounds = { values[a], values[b], values[b], values[b] };
                                        usec_t d = backoff_delay_usec(kind, n, &bounds, UINT64_MAX);

                                        if (d > values[b])
                                                ck_abort_msg("%u %u: %" PRIu64, kind, n, d);
                                }
}

TEST(delays_never_shrink_from_one_attempt_to_the_next) {
        for (size_t k = 0; k < ELEMENTSOF(table); k++)
                for (unsigned n = 0; n < 40; n++)
                        ck_assert(backoff_delay_usec(table[k].kind, n, &defaults, 12345) <=
                                  backoff_delay_usec(table[k].kind, n + 1, &defaults, 12345));
}
