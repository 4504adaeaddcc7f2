/* Goal: patches change twins as the hub does, with metadata and versions, and within its limits.
 * Method: patches one after the other, the result compared as text; a value at each limit and one above. */
#include <json-c/json.h>

#include "emulator/hub-twin.h"
#include "tests/support/test.h"

#define T0 (1767225600 * USEC_PER_SEC) /* 2026-01-01 */
#define STAMP "\"$lastUpdated\":\"2026-01-01T00:00:00.000Z\""

static HubTwin new_twin(void) {
        HubDevice d = { .id = (char *) "d1", .generation = HUB_TICKS_AT_1970 + T0 * 10 };
        HubTwin t = { 0 };

        assert_ok(hub_twin_read(&d, &t));
        return t;
}

static int patch(HubTwin *t, const char *text, bool replace, const char **why) {
        _cleanup_json_ struct json_object *p = json_tokener_parse(text);
        struct json_object *desired;

        ck_assert_msg(p, "%s", text);
        return hub_twin_patch(t, p, replace, T0, &desired, why);
}

static void assert_text(struct json_object *o, const char *want) {
        ck_assert_str_eq(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), want);
}

TEST(a_new_twin_has_version_2_and_the_time_of_its_device) {
        _cleanup_(hub_twin_done) HubTwin t = new_twin();
        _cleanup_free_ char *etag = NULL;

        ck_assert_uint_eq(t.version, 2);
        assert_ok(hub_twin_etag_format(t.etag, &etag));
        ck_assert_str_eq(etag, "AAAAAAAAAAE=");
        assert_text(t.desired, "{\"$metadata\":{" STAMP "},\"$version\":1}");
}

TEST(what_a_device_reports_is_stamped_with_the_time_only) {
        _cleanup_(hub_twin_done) HubTwin t = new_twin();
        _cleanup_json_ struct json_object *p = json_tokener_parse("{\"a\":{\"b\":1}}");
        const char *why;

        assert_ok(hub_twin_report(&t, p, T0, &why));
        assert_text(t.reported, "{\"a\":{\"b\":1},\"$metadata\":{" STAMP ",\"a\":{" STAMP ",\"b\":{" STAMP
                                "}}},\"$version\":2}");
        ck_assert_uint_eq(t.etag, 1);
        ck_assert_uint_eq(t.version, 3);
}

TEST(patches_merge_and_null_deletes) {
        _cleanup_(hub_twin_done) HubTwin t = new_twin();
        const char *why;

        assert_ok(patch(&t, "{\"properties\":{\"desired\":{\"a\":{\"b\":1},\"c\":[1]}}}", false, &why));
        assert_text(t.desired, "{\"a\":{\"b\":1},\"c\":[1],\"$metadata\":{" STAMP ",\"$lastUpdatedVersion\":2,"
                               "\"a\":{" STAMP ",\"$lastUpdatedVersion\":2,\"b\":{" STAMP
                               ",\"$lastUpdatedVersion\":2}},\"c\":{" STAMP
                               ",\"$lastUpdatedVersion\":2}},\"$version\":2}");
        ck_assert_uint_eq(t.version, 3);
        ck_assert_uint_eq(t.etag, 2);
        assert_ok(patch(&t, "{\"properties\":{\"desired\":{\"a\":{\"b\":null,\"x\":{\"y\":null}},\"c\":2}}}", false,
                        &why));
        assert_text(t.desired, "{\"a\":{\"x\":{}},\"c\":2,\"$metadata\":{" STAMP ",\"$lastUpdatedVersion\":3,"
                               "\"a\":{" STAMP ",\"$lastUpdatedVersion\":3,\"x\":{" STAMP
                               ",\"$lastUpdatedVersion\":3}},\"c\":{" STAMP
                               ",\"$lastUpdatedVersion\":3}},\"$version\":3}");
        /* Tags move no version of the properties; what clients echo is left out. */
        assert_ok(patch(&t, "{\"deviceId\":\"x\",\"tags\":{\"p\":{\"q\":1}},\"properties\":{\"reported\":{\"z\":1}}}",
                        false, &why));
        assert_text(t.tags, "{\"p\":{\"q\":1}}");
        ck_assert_uint_eq(hub_twin_properties_version(t.desired), 3);
        ck_assert_uint_eq(hub_twin_properties_version(t.reported), 1);
        ck_assert_uint_eq(t.version, 5);
        /* Nothing of it: nothing happens. */
        assert_ok(patch(&t, "{\"deviceId\":\"x\"}", false, &why));
        ck_assert_uint_eq(t.version, 5);
        assert_ok(patch(&t, "{\"tags\":{\"r\":1}}", true, &why));
        assert_text(t.tags, "{\"r\":1}");
        assert_text(t.desired, "{\"$metadata\":{" STAMP ",\"$lastUpdatedVersion\":4},\"$version\":4}");
}

TEST(a_twin_is_stored_and_read_without_a_change) {
        _cleanup_(hub_twin_done) HubTwin t = new_twin(), again = { 0 };
        HubDevice d = { .id = (char *) "d1" };
        const char *why;

        assert_ok(patch(&t, "{\"tags\":{\"ü\":\"ü\"},\"properties\":{\"desired\":{\"a\":1.5}}}", false, &why));
        assert_ok(hub_twin_format(&t, &d.twin));
        assert_ok(hub_twin_read(&d, &again));
        ck_assert(again.etag == t.etag && again.version == t.version);
        ck_assert(json_object_equal(again.desired, t.desired) && json_object_equal(again.tags, t.tags));
        free(d.twin);
        d.twin = (char *) "{\"etag\":1}";
        ck_assert_int_eq(hub_twin_read(&d, &again), -EBADMSG);
}

TEST(limits_are_the_hubs) {
        static const struct {
                const char *text;
                bool good;
        } cases[] = {
                { "{\"tags\":5}", false },
                { "{\"properties\":[]}", false },
                { "{\"properties\":{\"desired\":1}}", false },
                { "{\"tags\":{\"a.b\":1}}", false },
                { "{\"tags\":{\"a b\":1}}", false },
                { "{\"tags\":{\"a$\":1}}", false },
                { "{\"tags\":{\"a#\":1}}", false },
                { "{\"tags\":{\"\":1}}", false },
                { "{\"tags\":{\"a\\u0001\":1}}", false },
                { "{\"tags\":{\"a\":[null]}}", false },
                { "{\"tags\":{\"a\":[{\"b\":null}]}}", false },
                { "{\"tags\":{\"a\":4503599627370495}}", true },
                { "{\"tags\":{\"a\":4503599627370496}}", false },
                { "{\"tags\":{\"a\":-4503599627370496}}", true },
                { "{\"tags\":{\"a\":-4503599627370497}}", false },
                { "{\"tags\":{\"1\":{\"2\":{\"3\":{\"4\":{\"5\":{\"6\":{\"7\":{\"8\":{\"9\":{\"10\":1}}}}}}}}}}}", true },
                { "{\"tags\":{\"1\":{\"2\":{\"3\":{\"4\":{\"5\":{\"6\":{\"7\":{\"8\":{\"9\":{\"10\":{\"11\":1}}}}}}}}}}}}",
                  false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(hub_twin_done) HubTwin t = new_twin();
                const char *why = NULL;
                int r = patch(&t, cases[i].text, false, &why);

                ck_assert_msg(r == (cases[i].good ? 0 : -EINVAL), "%s: %d", cases[i].text, r);
                ck_assert(cases[i].good || (why && *why));
        }
}

static int patch_sized(const char *before, size_t n, const char *after) {
        _cleanup_(hub_twin_done) HubTwin t = new_twin();
        _cleanup_free_ char *filler = malloc(n + 1), *text = NULL;
        const char *why;

        ck_assert_ptr_nonnull(filler);
        memset(filler, 'x', n);
        filler[n] = '\0';
        ck_assert_int_ge(asprintf(&text, "%s%s%s", before, filler, after), 0);
        return patch(&t, text, false, &why);
}

TEST(sizes_are_taken_up_to_the_limit) {
        ck_assert_int_eq(patch_sized("{\"tags\":{\"", HUB_TWIN_NAME_BYTES_MAX, "\":1}}"), 0);
        ck_assert_int_eq(patch_sized("{\"tags\":{\"", HUB_TWIN_NAME_BYTES_MAX + 1, "\":1}}"), -EINVAL);
        ck_assert_int_eq(patch_sized("{\"tags\":{\"a\":\"", HUB_TWIN_STRING_BYTES_MAX, "\"}}"), 0);
        ck_assert_int_eq(patch_sized("{\"tags\":{\"a\":\"", HUB_TWIN_STRING_BYTES_MAX + 1, "\"}}"), -EINVAL);
        for (unsigned over = 0; over < 2; over++) {
                _cleanup_(hub_twin_done) HubTwin t = new_twin();
                const char *why = NULL;
                int r = 0;

                /* Strings of 4,000 bytes until the whole passes 8 KB, or stays below. */
                for (unsigned i = 0; r >= 0 && i < 2 + over; i++) {
                        _cleanup_free_ char *text = NULL;
                        char filler[4001];

                        memset(filler, 'x', sizeof(filler) - 1);
                        filler[sizeof(filler) - 1] = '\0';
                        ck_assert_int_ge(asprintf(&text, "{\"tags\":{\"a%u\":\"%s\"}}", i, filler), 0);
                        r = patch(&t, text, false, &why);
                }
                ck_assert_int_eq(r, over ? -EINVAL : 0);
        }
}
