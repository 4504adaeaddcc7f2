/* A buffer beside a plain array that does the same. */
#include "tests/support/test.h"

#include "lib/buffer.h"
#include "tests/support/random.h"

#define MODEL_MAX (1024U * 1024U)

TEST(appending_and_consuming_keeps_every_byte_in_order) {
        Random random = { .state = test_seed() };
        Buffer b = {};
        uint8_t *model = malloc(MODEL_MAX), piece[5000];
        size_t n_model = 0;

        for (unsigned i = 0; i < 20000; i++) {
                size_t n = random_below(&random, sizeof(piece));

                if (random_one_in(&random, 2) || n_model + n > MODEL_MAX) {
                        size_t k = random_below(&random, n_model + 1);

                        if (random_one_in(&random, 50))
                                k = n_model;
                        buffer_consume(&b, k);
                        n_model -= k;
                        memmove(model, model + k, n_model);
                } else {
                        for (size_t j = 0; j < n; j++)
                                piece[j] = (uint8_t) random_u64(&random);
                        assert_ok(buffer_append(&b, piece, n));
                        memcpy(model + n_model, piece, n);
                        n_model += n;
                }
                ck_assert_uint_eq(b.size, n_model);
                ck_assert_uint_le(b.size, b.allocated);
                ck_assert(n_model == 0 || memcmp(b.data, model, n_model) == 0);
        }
        free(model);
        buffer_done(&b);
        ck_assert_ptr_null(b.data);
}

TEST(reserved_room_is_there_and_content_stays) {
        Buffer b = {};

        assert_ok(buffer_append_string(&b, "ab"));
        assert_ok(buffer_reserve(&b, 100000));
        ck_assert_uint_ge(b.allocated - b.size, 100000);
        ck_assert_mem_eq(b.data, "ab", 2);
        assert_error(buffer_reserve(&b, SIZE_MAX), -ENOMEM);
        assert_error(buffer_append(&b, b.data, SIZE_MAX - 1), -ENOMEM);
        ck_assert_uint_eq(b.size, 2);
        ck_assert_mem_eq(b.data, "ab", 2);
        buffer_done(&b);
}

TEST(formatted_text_is_appended_without_a_nul) {
        Buffer b = {};

        assert_ok(buffer_append_string(&b, "x="));
        assert_ok(buffer_appendf(&b, "%d,%s", 42, "y"));
        assert_ok(buffer_appendf(&b, "%s", ""));
        assert_ok(buffer_appendf(&b, "%300d", 1));
        ck_assert_uint_eq(b.size, 2 + 4 + 300);
        ck_assert_mem_eq(b.data, "x=42,y ", 7);
        buffer_done(&b);
}

TEST(a_drained_large_buffer_gives_its_memory_back) {
        Buffer b = {};

        assert_ok(buffer_reserve(&b, 1024 * 1024));
        b.size = 1024 * 1024;
        memset(b.data, 'x', b.size);
        buffer_consume(&b, b.size - 3);
        ck_assert_uint_le(b.allocated, 64 * 1024);
        ck_assert_mem_eq(b.data, "xxx", 3);
        buffer_done(&b);
}

TEST(nothing_is_fine) {
        Buffer b = {};

        assert_ok(buffer_append(&b, NULL, 0));
        assert_ok(buffer_reserve(&b, 0));
        buffer_consume(&b, 0);
        ck_assert_uint_eq(b.size, 0);
        buffer_done(&b);
}
