/* Goal: the window finds each item once, in any order of PUBACKs, and knows its oldest.
 * Method: a plain list beside it, random takes from a seed, every capacity up to 70. */
#include "tests/support/test.h"

#include "daemon/uplink-window.h"

TEST_LOOP(window_agrees_with_a_list, 70) {
        size_t capacity = (size_t) _i + 1, n = 0;
        uint64_t list[70], next = 1, value, oldest;
        unsigned rng = (unsigned) _i;
        UplinkWindow w;

        assert_ok(uplink_window_init(&w, capacity));
        for (unsigned step = 0; step < 3000; step++) {
                bool add = n == 0 || (n < capacity && rand_r(&rng) % 2 == 0);

                if (add) {
                        uplink_window_add(&w, next, next * 10);
                        list[n++] = next++;
                } else {
                        size_t i = rand_r(&rng) % 3 == 0 ? (size_t) rand_r(&rng) % n : 0;
                        uint64_t key = list[i];

                        ck_assert(uplink_window_take(&w, key, &value));
                        ck_assert_uint_eq(value, key * 10);
                        ck_assert(!uplink_window_take(&w, key, &value));
                        memmove(list + i, list + i + 1, (--n - i) * sizeof(list[0]));
                }
                ck_assert_uint_eq(w.n, n);
                ck_assert_int_eq(uplink_window_oldest(&w, &oldest), n > 0);
                if (n > 0)
                        ck_assert_uint_eq(oldest, list[0]);
        }
        uplink_window_clear(&w);
        ck_assert(!uplink_window_oldest(&w, &oldest));
        uplink_window_done(&w);
}
