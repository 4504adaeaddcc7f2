#include "tests/support/test.h"

#include "lib/json-util.h"

static struct json_object *parse(const char *s) {
        struct json_object *o = json_tokener_parse(s);

        ck_assert_msg(o != NULL, "%s", s);
        return o;
}

TEST(a_field_is_there_absent_or_of_another_type) {
        _cleanup_json_ struct json_object *o =
                parse("{\"s\":\"a\\u0000b\",\"n\":null,\"i\":5,\"b\":true,\"o\":{},\"a\":[],\"d\":1.5}");
        const char *s = "untouched";
        struct json_object *v = NULL;
        uint64_t u = 9;
        int64_t i = 9;
        size_t n = 9;
        bool b = false;

        ck_assert_int_eq(json_get_string(o, "s", &s, &n), 1);
        ck_assert_uint_eq(n, 3); /* a NUL inside shows in the size */
        ck_assert_int_eq(json_get_string(o, "s", &s, NULL), 1);
        ck_assert_int_eq(json_get_u64(o, "i", &u), 1);
        ck_assert_uint_eq(u, 5);
        ck_assert_int_eq(json_get_bool(o, "b", &b), 1);
        ck_assert(b);
        ck_assert_int_eq(json_get_object(o, "o", &v), 1);
        ck_assert_int_eq(json_get_array(o, "a", &v), 1);

        s = "untouched";
        ck_assert_int_eq(json_get_string(o, "missing", &s, &n), 0);
        ck_assert_int_eq(json_get_string(o, "n", &s, &n), 0);
        assert_error(json_get_string(o, "i", &s, &n), -EINVAL);
        ck_assert_str_eq(s, "untouched");
        assert_error(json_get_u64(o, "s", &u), -EINVAL);
        assert_error(json_get_u64(o, "d", &u), -EINVAL);
        assert_error(json_get_i64(o, "b", &i), -EINVAL);
        assert_error(json_get_bool(o, "i", &b), -EINVAL);
        assert_error(json_get_object(o, "a", &v), -EINVAL);
        assert_error(json_get_array(o, "o", &v), -EINVAL);
}

TEST(numbers_keep_all_their_bits_or_do_not_fit) {
        _cleanup_json_ struct json_object *o =
                parse("{\"max\":18446744073709551615,\"big\":9223372036854775808,\"i\":9223372036854775807,"
                      "\"min\":-9223372036854775808,\"m1\":-1}");
        uint64_t u;
        int64_t i;

        ck_assert_int_eq(json_get_u64(o, "max", &u), 1);
        ck_assert(u == UINT64_MAX);
        ck_assert_int_eq(json_get_i64(o, "i", &i), 1);
        ck_assert(i == INT64_MAX);
        ck_assert_int_eq(json_get_i64(o, "min", &i), 1);
        ck_assert(i == INT64_MIN);
        assert_error(json_get_u64(o, "m1", &u), -ERANGE);
        assert_error(json_get_u64(o, "min", &u), -ERANGE);
        assert_error(json_get_i64(o, "big", &i), -ERANGE);
        assert_error(json_get_i64(o, "max", &i), -ERANGE);
}

TEST(what_is_added_is_read_back) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        const char *s;
        uint64_t u;
        int64_t i;
        size_t n;
        bool b;

        assert_ok(json_add_string(o, "s", "text"));
        assert_ok(json_add_string_n(o, "z", "a\0b", 3));
        assert_ok(json_add_string(o, "none", NULL));
        assert_ok(json_add_string_n(o, "none", NULL, 3));
        assert_ok(json_add_u64(o, "u", UINT64_MAX));
        assert_ok(json_add_i64(o, "i", INT64_MIN));
        assert_ok(json_add_bool(o, "b", false));
        assert_error(json_add(o, "failed", NULL), -ENOMEM);

        ck_assert_int_eq(json_get_string(o, "s", &s, &n), 1);
        ck_assert_str_eq(s, "text");
        ck_assert_int_eq(json_get_string(o, "z", &s, &n), 1);
        ck_assert(n == 3 && memcmp(s, "a\0b", 3) == 0);
        ck_assert_int_eq(json_get_u64(o, "u", &u), 1);
        ck_assert(u == UINT64_MAX);
        ck_assert_int_eq(json_get_i64(o, "i", &i), 1);
        ck_assert(i == INT64_MIN);
        ck_assert_int_eq(json_get_bool(o, "b", &b), 1);
        ck_assert(!b);
        ck_assert_int_eq(json_object_object_length(o), 5);
}

TEST(one_value_is_parsed_whole_and_nothing_else) {
        static const char *const good[] = { "{}", " [1, 2]\n", "7", "-1.5e3", "\"\\u20ac\"", "true",
                                            "{\"a\":{\"b\":[null]}}" };
        static const char *const bad[] = { "", " ", "{", "[1,]x", "no", "{}{}", "1 2", "\"\xff\"",
                                           "[[[[[1]]]]]" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                _cleanup_json_ struct json_object *o = NULL;

                assert_ok(json_parse(good[i], strlen(good[i]), 4, &o));
                ck_assert_ptr_nonnull(o);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                struct json_object *o;

                assert_error(json_parse(bad[i], strlen(bad[i]), 4, &o), -EBADMSG);
        }
}

TEST(null_is_a_value_and_a_nul_byte_is_none) {
        struct json_object *o = (struct json_object *) "";

        assert_ok(json_parse("null", 4, 4, &o));
        ck_assert_ptr_null(o);
        assert_error(json_parse("1\0", 2, 4, &o), -EBADMSG);
        assert_error(json_parse("1\0" "2", 3, 4, &o), -EBADMSG);
        assert_error(json_parse("{}\0", 3, 4, &o), -EBADMSG);
}
