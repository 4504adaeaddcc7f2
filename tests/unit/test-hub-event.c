/* Goal: the line of an event says what was sent, and the size limit is the hub's.
 * Method: the vectors d2c_size; each byte as a body and as a property, read back with another JSON
 * parser. */

#include "tests/support/test.h"

#include <json-c/json.h>

#include "emulator/hub-event.h"
#include "lib/base64.h"
#include "lib/json-util.h"
#include "lib/property-bag.h"

static int format(const char *bag, const void *body, size_t body_size, Buffer *out) {
        HubEvent e = { .device_id = "d1",
                       .generation = 7,
                       .enqueued_usec = 1767251289123000,
                       .bag = bag,
                       .bag_size = strlen(bag),
                       .body = body,
                       .body_size = body_size };
        HubEventPlace place = { .partition = 3,
                                .sequence = 41,
                                .offset = 12345,
                                .enqueued_usec = e.enqueued_usec };

        return hub_event_format(&e, &place, out);
}

static struct json_object *parse(Buffer *out) {
        struct json_object *o;

        ck_assert_uint_eq(out->data[out->size - 1], '\n');
        ck_assert_ptr_eq(memchr(out->data, '\n', out->size), out->data + out->size - 1);
        out->data[out->size - 1] = '\0';
        o = json_tokener_parse((const char *) out->data);
        ck_assert_ptr_nonnull(o);
        return o;
}

TEST(the_limit_counts_as_the_hub_counts) {
        struct json_object *vectors = test_vectors("device.json", "d2c_size");

        ck_assert_uint_gt(json_object_array_length(vectors), 0);
        for (size_t i = 0; i < json_object_array_length(vectors); i++) {
                struct json_object *v = json_object_array_get_idx(vectors, i), *pairs;
                _cleanup_(property_bag_done) PropertyBag bag = { 0 };
                _cleanup_(buffer_done) Buffer out = { 0 };
                _cleanup_free_ char *text = NULL, *body = NULL;
                uint64_t body_size;
                bool fits;

                ck_assert_int_eq(json_get_u64(v, "body_bytes", &body_size), 1);
                ck_assert_int_eq(json_get_bool(v, "fits_262144", &fits), 1);
                for (size_t k = 0; k < 2; k++) {
                        ck_assert_int_eq(json_get_array(v, k == 0 ? "system" : "application",
                                                        &pairs),
                                         1);
                        for (size_t p = 0; p < json_object_array_length(pairs); p++) {
                                struct json_object *pair = json_object_array_get_idx(pairs, p);

                                assert_ok(property_bag_add(
                                                &bag,
                                                json_object_get_string(
                                                                json_object_array_get_idx(pair, 0)),
                                                json_object_get_string(json_object_array_get_idx(
                                                                pair, 1))));
                        }
                }
                assert_ok(property_bag_encode(&bag, &text, NULL));
                body = calloc(1, body_size + 1);
                ck_assert_int_eq(format(text, body, body_size, &out), fits ? 0 : -EMSGSIZE);
        }
}

TEST(every_byte_comes_back) {
        for (unsigned c = 0; c < 256; c++) {
                char body[] = { 'a', (char) c, 'b' }, bag[] = "n%00=v";
                _cleanup_(buffer_done) Buffer out = { 0 };
                _cleanup_json_ struct json_object *o = NULL;
                _cleanup_free_ void *decoded = NULL;
                const char *text;
                size_t n;

                (void) snprintf(bag, sizeof(bag), "n%%%02X=v", c < 0x80 && c > 0 ? c : 'x');
                assert_ok(format(bag, body, sizeof(body), &out));
                o = parse(&out);
                if (c < 0x80) {
                        ck_assert_int_eq(json_get_string(o, "body", &text, &n), 1);
                        ck_assert_uint_eq(n, sizeof(body));
                        ck_assert_mem_eq(text, body, n);
                } else {
                        ck_assert_int_eq(json_get_string(o, "bodyBase64", &text, &n), 1);
                        assert_ok(base64_decode(text, n, &decoded, &n));
                        ck_assert_uint_eq(n, sizeof(body));
                        ck_assert_mem_eq(decoded, body, n);
                }
                ck_assert_int_eq(json_get_object(o, "properties", &(struct json_object *){ NULL }),
                                 1);
        }
}

TEST(the_fields_are_those_that_consumers_know) {
        _cleanup_(buffer_done) Buffer out = { 0 };
        static const char want[] =
                        "{\"deviceId\":\"d1\",\"partition\":3,\"sequenceNumber\":41,\"offset\":\"12345\","
                        "\"enqueuedTime\":\"2026-01-01T07:08:09.123Z\",\"generationId\":\"7\","
                        "\"authMethod\":{\"scope\":\"device\",\"type\":\"sas\"},"
                        "\"systemProperties\":{\"messageId\":\"m 1\",\"$.other\":\"\"},"
                        "\"properties\":{\"a\":\"2\",\"b\":\"\"},\"body\":\"hi\"}\n";

        assert_ok(format("a=1&%24.mid=m%201&a=2&b&$.other", "hi", 2, &out));
        assert_ok(buffer_append(&out, "", 1));
        ck_assert_str_eq((const char *) out.data, want);
}

TEST(a_bag_that_cannot_be_decoded_is_refused) {
        static const char *const bad[] = { "a=%zz", "a=%", "a=%0", "a=%ff", "%00=a" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_(buffer_done) Buffer out = { 0 };

                assert_error(format(bad[i], "", 0, &out), -EINVAL);
        }
}
