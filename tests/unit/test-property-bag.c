#include "tests/support/test.h"

#include <json-c/json.h>

#include "lib/property-bag.h"
#include "lib/utf8.h"
#include "tests/support/random.h"

static struct json_object *get(struct json_object *o, const char *field) {
        return json_object_object_get(o, field);
}

static const char *text(struct json_object *o, const char *field) {
        return json_object_get_string(get(o, field)); /* NULL for null and for absent */
}

static PropertyBag bag_from_json(struct json_object *pairs) {
        PropertyBag bag = {};

        for (size_t i = 0; i < json_object_array_length(pairs); i++) {
                struct json_object *pair = json_object_array_get_idx(pairs, i);

                assert_ok(property_bag_add(&bag, json_object_get_string(json_object_array_get_idx(pair, 0)),
                                           json_object_get_string(json_object_array_get_idx(pair, 1))));
        }
        return bag;
}

static void assert_bags_equal(const PropertyBag *a, const PropertyBag *b, const char *what) {
        ck_assert_msg(a->n_items == b->n_items, "%s: %zu and %zu items", what, a->n_items, b->n_items);
        for (size_t i = 0; i < a->n_items; i++) {
                ck_assert_str_eq(a->items[i].name, b->items[i].name);
                ck_assert_msg(!a->items[i].value == !b->items[i].value, "%s: item %zu", what, i);
                if (a->items[i].value)
                        ck_assert_str_eq(a->items[i].value, b->items[i].value);
        }
}

static size_t hex_to_bytes(const char *hex, uint8_t *ret) {
        size_t n = strlen(hex) / 2;

        for (size_t i = 0; i < n; i++)
                ck_assert_int_eq(sscanf(hex + 2 * i, "%2hhx", &ret[i]), 1);
        return n;
}

TEST(percent_encoding_of_the_vectors) {
        struct json_object *cases = test_vectors("device.json", "percent_encode");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                _cleanup_free_ char *encoded = NULL;
                Buffer buffer = {};
                uint8_t in[200];
                size_t n = hex_to_bytes(text(c, "in_hex"), in);

                assert_ok(percent_encode((char *) in, n, &encoded));
                ck_assert_str_eq(encoded, text(c, "out"));
                assert_ok(buffer_append_string(&buffer, "x"));
                assert_ok(percent_encode_append(&buffer, (char *) in, n));
                ck_assert_uint_eq(buffer.size, 1 + strlen(encoded));
                ck_assert_mem_eq(buffer.data + 1, encoded, strlen(encoded));
                buffer_done(&buffer);
        }
}

TEST(percent_decoding_of_the_vectors) {
        struct json_object *cases = test_vectors("device.json", "percent_decode");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                const char *in = text(c, "in"), *hex = text(c, "out_hex");
                _cleanup_free_ char *decoded = NULL;
                uint8_t expected[200];
                size_t n;
                int r = percent_decode(in, strlen(in), &decoded, &n);

                if (!hex) {
                        assert_error(r, -EINVAL);
                        continue;
                }
                assert_ok(r);
                ck_assert_uint_eq(n, hex_to_bytes(hex, expected));
                ck_assert_mem_eq(decoded, expected, n);
                ck_assert_int_eq(decoded[n], 0);
        }
}

/* The size counts, not what lies behind it. */
TEST(an_escape_cut_short_is_refused) {
        for (size_t n = 0; n <= 5; n++) {
                _cleanup_free_ char *decoded = NULL;
                size_t n_decoded;

                ck_assert_int_eq(percent_decode("a%41b", n, &decoded, &n_decoded), n == 2 || n == 3 ? -EINVAL : 0);
        }
}

TEST(bags_of_the_vectors_encode_and_decode) {
        struct json_object *cases = test_vectors("device.json", "property_bag_encode");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                _cleanup_(property_bag_done) PropertyBag bag = bag_from_json(get(c, "properties")), back = {};
                _cleanup_free_ char *encoded = NULL;
                size_t n;

                assert_ok(property_bag_encode(&bag, &encoded, &n));
                ck_assert_str_eq(encoded, text(c, "bag"));
                ck_assert_uint_eq(n, strlen(encoded));
                ck_assert_int_eq((int) (strlen("devices/dev01/messages/events/") + n),
                                 json_object_get_int(get(c, "topic_bytes")));
                assert_ok(property_bag_decode(encoded, n, &back));
                assert_bags_equal(&bag, &back, encoded);
        }
}

TEST(bags_of_the_vectors_decode) {
        struct json_object *cases = test_vectors("device.json", "property_bag_decode");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                _cleanup_(property_bag_done) PropertyBag bag = {}, expected = {};
                const char *in = text(c, "in");
                int r = property_bag_decode(in, strlen(in), &bag);

                if (text(c, "error")) {
                        assert_error(r, -EINVAL);
                        ck_assert_uint_eq(bag.n_items, 0);
                        continue;
                }
                assert_ok(r);
                expected = bag_from_json(get(c, "properties"));
                assert_bags_equal(&expected, &bag, in);
        }
}

TEST(the_spellings_of_other_sdks_mean_the_same) {
        struct json_object *cases = test_vectors("device.json", "property_bag_sdk_variants");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                _cleanup_(property_bag_done) PropertyBag expected = bag_from_json(get(c, "properties"));
                _cleanup_free_ char *ours = NULL;

                assert_ok(property_bag_encode(&expected, &ours, NULL));
                json_object_object_foreach(c, key, value) {
                        _cleanup_(property_bag_done) PropertyBag bag = {};
                        const char *spelled = json_object_get_string(value);

                        if (streq(key, "properties") || streq(key, "note"))
                                continue;
                        if (streq(key, "this_project"))
                                ck_assert_str_eq(ours, spelled);
                        assert_ok(property_bag_decode(spelled, strlen(spelled), &bag));
                        assert_bags_equal(&expected, &bag, key);
                }
        }
}

static char *random_text(Random *random, bool may_be_empty) {
        static const char *const pieces[] = { "a", "Z",  "0", "&", "=", "%", "+", " ",  "/",
                                              "?", "$.", "#", "~", "é", "€", "😀", "\t", "\x7f" };
        size_t n = random_below(random, 12) + !may_be_empty;
        Buffer b = {};

        for (size_t i = 0; i < n; i++)
                assert_ok(buffer_append_string(&b, pieces[random_below(random, ELEMENTSOF(pieces))]));
        assert_ok(buffer_append(&b, "", 1));
        return (char *) b.data;
}

TEST(what_is_encoded_is_decoded) {
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 5000; i++) {
                _cleanup_(property_bag_done) PropertyBag bag = {}, back = {};
                _cleanup_free_ char *encoded = NULL;
                size_t n_items = random_below(&random, 20), n;

                for (size_t k = 0; k < n_items; k++) {
                        _cleanup_free_ char *name = random_text(&random, false), *value = random_text(&random, true);

                        assert_ok(property_bag_add(&bag, name, random_one_in(&random, 5) ? NULL : value));
                }
                assert_ok(property_bag_encode(&bag, &encoded, &n));
                assert_ok(property_bag_decode(encoded, n, &back));
                assert_bags_equal(&bag, &back, encoded);
        }
}

/* Whatever decodes is text, and its canonical form decodes to the same again. */
TEST(any_bytes_decode_to_text_or_not_at_all) {
        static const char alphabet[] = "ab&=%?+01F.C3A9\x80\xc3\xff";
        Random random = { .state = test_seed() };
        unsigned n_decoded = 0;

        for (unsigned i = 0; i < 100000; i++) {
                _cleanup_(property_bag_done) PropertyBag bag = {}, again = {};
                _cleanup_free_ char *encoded = NULL;
                char in[24];
                size_t n = random_below(&random, sizeof(in)), n_encoded;

                for (size_t k = 0; k < n; k++)
                        in[k] = alphabet[random_below(&random, sizeof(alphabet))]; /* the NUL too */
                if (property_bag_decode(in, n, &bag) < 0)
                        continue;
                n_decoded++;
                for (size_t k = 0; k < bag.n_items; k++) {
                        ck_assert(utf8_is_valid(bag.items[k].name, strlen(bag.items[k].name)));
                        ck_assert(!bag.items[k].value ||
                                  utf8_is_valid(bag.items[k].value, strlen(bag.items[k].value)));
                }
                assert_ok(property_bag_encode(&bag, &encoded, &n_encoded));
                assert_ok(property_bag_decode(encoded, n_encoded, &again));
                assert_bags_equal(&bag, &again, encoded);
        }
        ck_assert_uint_gt(n_decoded, 1000);
}

TEST(texts_that_are_no_bag_are_refused) {
        static const char *const bad[] = { "a=%",   "a=%4",  "a=%zz", "%G0=1", "a=1&b=%",
                                           "a=%00", "%00=a", "a=%FF", "a=%C3", "\xff=1" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                PropertyBag bag = {};

                assert_error(property_bag_decode(bad[i], strlen(bad[i]), &bag), -EINVAL);
                ck_assert_ptr_null(bag.items);
        }
        {
                PropertyBag bag = {};

                assert_error(property_bag_decode("a\0b", 3, &bag), -EINVAL);
        }
}

TEST(the_first_of_two_values_is_found) {
        _cleanup_(property_bag_done) PropertyBag bag = {};

        assert_ok(property_bag_decode("a=1&a=2&flag&empty=", strlen("a=1&a=2&flag&empty="), &bag));
        ck_assert_str_eq(property_bag_get(&bag, "a"), "1");
        ck_assert_str_eq(property_bag_get(&bag, "flag"), "");
        ck_assert_str_eq(property_bag_get(&bag, "empty"), "");
        ck_assert_ptr_null(property_bag_get(&bag, "b"));
}
