#include "lib/json-text.h"

#include "tests/support/test.h"

static bool valid(const char *s) {
        return json_text_is_valid(s, strlen(s), 8);
}

TEST(what_is_one_value_is_valid) {
        static const char *const good[] = {
                "0", "-1.5e+3", "true", "false", "null", "\"\"", "\"a\\u00e9\\n\\\"\"", "{}", "[]", " [ ] ",
                "{\"a\":{\"b\":[1,2,{}]},\"c\":[[],[1]]}", "[1 , 2]\n", "{ \"a\" : 1 , \"b\" : null }",
                "[[[[[[[[1]]]]]]]]", "\"\303\251\"",
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                ck_assert_msg(valid(good[i]), "%s", good[i]);
}

TEST(what_is_no_value_is_refused) {
        static const char *const bad[] = {
                "", " ", "tru", "nul", "01", "1.", ".5", "-", "+1", "1e", "{", "}", "[", "]", "[1,]", "[,1]", "{,}",
                "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{1:1}", "[1}", "{\"a\":1]", "\"", "\"\\x\"",
                "\"\\u12g4\"", "\"\\u12", "\"a\nb\"", "1 2", "{} {}", "[[[[[[[[[1]]]]]]]]]", "'a'", "\"\377\"", "NaN",
                "[1 2]", "{\"a\" 1}",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(!valid(bad[i]), "%s", bad[i]);
        ck_assert(!json_text_is_valid("1\0", 2, 8));
}

/* Goal: no text cut short is read past its end. Method: every prefix, in memory of just its size. */
TEST(every_prefix_of_a_value_is_refused) {
        static const char text[] = "{\"a\":[1.5e3,true,\"x\\u0041\"],\"b\":{\"c\":null}}";

        for (size_t n = 0; n < sizeof(text) - 1; n++) {
                _cleanup_free_ char *copy = malloc(MAX(n, (size_t) 1));

                ck_assert_ptr_nonnull(copy);
                memcpy(copy, text, n);
                ck_assert(!json_text_is_valid(copy, n, 8));
        }
        ck_assert(valid(text));
}

TEST(a_string_is_escaped_where_it_must_be) {
        _cleanup_(buffer_done) Buffer b = {};

        assert_ok(json_text_append_string(&b, "a\"b\\c\n\001\303\251", 9));
        ck_assert_uint_eq(b.size, strlen("\"a\\\"b\\\\c\\u000a\\u0001\303\251\""));
        ck_assert_mem_eq(b.data, "\"a\\\"b\\\\c\\u000a\\u0001\303\251\"", b.size);
        ck_assert(json_text_is_valid((char *) b.data, b.size, 1));
        b.size = 0;
        assert_ok(json_text_append_string(&b, "\177\302\233\302\240", 5)); /* DEL, U+009B, U+00A0 */
        ck_assert_uint_eq(b.size, strlen("\"\\u007f\\u009b\302\240\""));
        ck_assert_mem_eq(b.data, "\"\\u007f\\u009b\302\240\"", b.size);
}
