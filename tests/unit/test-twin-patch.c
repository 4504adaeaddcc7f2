/* Goal: arguments and texts become the change of a twin that they say, or are refused. Method: tables. */
#include "client/twin-patch.h"
#include "lib/json-util.h"
#include "tests/support/test.h"

TEST(assignments_build_the_object) {
        static const char *const texts[] = { "a=1",      "b=x y",         "c={\"d\":[1,null]}", "e.f.g=true",
                                             "e.f.h=\"1\"", "i=null",        "j=",                 "k=a=b",
                                             "l=-1.5e3", "m=[1] rubbish", "e.f.g=2" };
        _cleanup_json_ struct json_object *o = json_object_new_object();

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                assert_ok(twin_patch_set(o, texts[i]));
        ck_assert_str_eq(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
                         "{\"a\":1,\"b\":\"x y\",\"c\":{\"d\":[1,null]},\"e\":{\"f\":{\"g\":2,\"h\":\"1\"}},"
                         "\"i\":null,\"j\":\"\",\"k\":\"a=b\",\"l\":-1.5e3,\"m\":\"[1] rubbish\"}");
        assert_error(twin_patch_set(o, "a.b=1"), -EINVAL); /* a is no object */
        assert_error(twin_patch_set(o, "a"), -EINVAL);
        assert_error(twin_patch_set(o, "=1"), -EINVAL);
        assert_error(twin_patch_set(o, "x..y=1"), -EINVAL);
        assert_error(twin_patch_set(o, ".x=1"), -EINVAL);
}

TEST(one_object_is_taken_and_nothing_else) {
        static const struct {
                const char *text;
                bool object, value;
        } cases[] = {
                { "{}", true, true },          { " {\"a\":{\"b\":1}}\n", true, true },
                { "", false, false },          { "{", false, false },
                { "{} x", false, false },      { "{}{}", false, false },
                { "[1]", false, true },        { "5", false, true },
                { "null", false, true },       { "\"x\"", false, true },
                { "x", false, false },
                { "{\"a\":1,}", false, false }, { "5 5", false, false },
                { "true", false, true },       { "tru", false, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_json_ struct json_object *o = NULL, *v = NULL;
                size_t n = strlen(cases[i].text), at = 0;

                ck_assert_msg(twin_patch_parse(cases[i].text, n, &o, &at) == (cases[i].object ? 0 : -EINVAL),
                              "object: %s", cases[i].text);
                ck_assert_uint_le(at, n);
                ck_assert_msg(json_value_parse(cases[i].text, n, &v, &at) == (cases[i].value ? 0 : -EINVAL),
                              "value: %s", cases[i].text);
        }
}
