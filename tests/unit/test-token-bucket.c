#include "tests/support/test.h"

#include "lib/token-bucket.h"
#include "tests/support/random.h"

TEST(what_was_saved_up_is_there_at_once_and_then_the_rate_holds) {
        usec_t now = 7 * USEC_PER_SEC, start = now;
        uint64_t n = 0;
        TokenBucket b;

        token_bucket_init(&b, 100, 500, now);
        while (now < start + 60 * USEC_PER_SEC) {
                if (token_bucket_ready(&b, now)) {
                        token_bucket_take(&b, 1, now);
                        n++;
                } else {
                        ck_assert_uint_gt(token_bucket_ready_at(&b), now);
                        now = token_bucket_ready_at(&b);
                }
        }
        ck_assert_uint_ge(n, 500 + 60 * 100 - 5);
        ck_assert_uint_le(n, 500 + 60 * 100 + 5);
}

/* Whatever is taken at a time and however long the pauses: never more than burst and rate together, plus the last call. */
TEST(no_pattern_gets_more_than_burst_and_rate) {
        for (uint64_t seed = 0; seed < 300; seed++) {
                Random r = { .state = seed };
                uint64_t rate = 1 + random_below(&r, 5000), burst = 1 + random_below(&r, 5000), n = 0, last = 0;
                usec_t now = random_below(&r, USEC_PER_DAY), start = now;
                TokenBucket b;

                token_bucket_init(&b, rate, burst, now);
                for (int i = 0; i < 2000; i++) {
                        if (token_bucket_ready(&b, now)) {
                                last = 1 + random_below(&r, 300);
                                token_bucket_take(&b, last, now);
                                n += last;
                        } else if (random_one_in(&r, 2))
                                now = token_bucket_ready_at(&b);
                        else
                                now += random_below(&r, 100000);
                        ck_assert_uint_le((n - last) * USEC_PER_SEC, burst * USEC_PER_SEC + (now - start) * rate);
                }
        }
}

TEST(who_took_too_much_waits_until_it_is_paid_back) {
        TokenBucket b;

        token_bucket_init(&b, 10, 5, 0);
        token_bucket_take(&b, 105, 0);
        ck_assert(!token_bucket_ready(&b, 10 * USEC_PER_SEC));
        ck_assert_uint_ge(token_bucket_ready_at(&b), 10 * USEC_PER_SEC);
        ck_assert_uint_le(token_bucket_ready_at(&b), 11 * USEC_PER_SEC);
        ck_assert(token_bucket_ready(&b, token_bucket_ready_at(&b)));
        ck_assert(!token_bucket_full(&b, 10 * USEC_PER_SEC));
        ck_assert(token_bucket_full(&b, 11 * USEC_PER_SEC));
}

TEST(no_limit_is_always_ready_and_extremes_do_not_overflow) {
        TokenBucket b;

        token_bucket_init(&b, 0, 1, 0);
        token_bucket_take(&b, UINT64_MAX, 0);
        ck_assert(token_bucket_ready(&b, 0) && token_bucket_full(&b, 0));

        token_bucket_init(&b, TOKEN_BUCKET_MAX, TOKEN_BUCKET_MAX, 5);
        for (int i = 0; i < 10; i++)
                token_bucket_take(&b, UINT64_MAX, 5);
        ck_assert(!token_bucket_ready(&b, 5));
        ck_assert(token_bucket_ready(&b, USEC_INFINITY - 1));
        token_bucket_init(&b, 1, 1, 5);
        token_bucket_take(&b, UINT64_MAX, 5);
        ck_assert(!token_bucket_ready(&b, 4)); /* a clock that goes back brings nothing */
        ck_assert(token_bucket_full(&b, USEC_INFINITY - 1));
}
