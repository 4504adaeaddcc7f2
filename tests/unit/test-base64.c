#include "tests/support/test.h"

#include <json-c/json.h>

#include "lib/base64.h"
#include "tests/support/random.h"

/* RFC 4648 section 10. */
TEST(the_vectors_of_the_rfc) {
        static const char *const table[][2] = {
                { "", "" },          { "f", "Zg==" },         { "fo", "Zm8=" },         { "foo", "Zm9v" },
                { "foob", "Zm9vYg==" }, { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_free_ char *encoded = NULL;
                _cleanup_free_ void *decoded = NULL;
                size_t n;

                assert_ok(base64_encode(table[i][0], strlen(table[i][0]), &encoded, &n));
                ck_assert_str_eq(encoded, table[i][1]);
                ck_assert_uint_eq(n, strlen(encoded));
                assert_ok(base64_decode(encoded, n, &decoded, &n));
                ck_assert_uint_eq(n, strlen(table[i][0]));
                ck_assert_str_eq(decoded, table[i][0]);
        }
}

TEST(what_is_encoded_is_decoded) {
        Random random = { .state = test_seed() };
        uint8_t data[400];

        for (unsigned i = 0; i < 100000; i++) {
                size_t n = random_below(&random, sizeof(data)), n_encoded, n_decoded;
                _cleanup_free_ char *encoded = NULL;
                _cleanup_free_ void *decoded = NULL;

                for (size_t k = 0; k < n; k++)
                        data[k] = (uint8_t) random_u64(&random);
                assert_ok(base64_encode(data, n, &encoded, &n_encoded));
                assert_ok(base64_decode(encoded, n_encoded, &decoded, &n_decoded));
                ck_assert(n_decoded == n && memcmp(data, decoded, n) == 0);
                assert_ok(base64_decode_to(encoded, n_encoded, encoded, &n_decoded));
                ck_assert(n_decoded == n && memcmp(data, encoded, n) == 0);
        }
}

/* Strict: each text that decodes is the one that encoding gives back, so no two texts mean the same bytes. All texts
 * of four characters from an alphabet that has each kind of character. */
TEST(each_text_that_decodes_is_the_only_spelling_of_its_bytes) {
        static const char characters[] = "AQgwZz09+/=-_ \n~\x80\x01";
        size_t n_characters = sizeof(characters); /* with the NUL */

        for (size_t i = 0; i < n_characters * n_characters * n_characters * n_characters; i++) {
                char text[8] = "QUJD";
                _cleanup_free_ char *encoded = NULL;
                _cleanup_free_ void *decoded = NULL;
                size_t rest = i, n, n_encoded;

                for (unsigned k = 0; k < 4; k++, rest /= n_characters)
                        text[4 + k] = characters[rest % n_characters];
                if (base64_decode(text, sizeof(text), &decoded, &n) < 0)
                        continue;
                assert_ok(base64_encode(decoded, n, &encoded, &n_encoded));
                ck_assert(n_encoded == sizeof(text) && memcmp(encoded, text, sizeof(text)) == 0);
        }
}

TEST(malformed_texts_are_refused) {
        static const char *const bad[] = { "A",     "AA",    "AAA",  "A===",  "====",  "=AAA",     "AA=A",
                                           "AAAA=", "AB==",  "AAB=", "AA==AAAA", "AAA AAAA", "AAA\n", "AAA-", "AAA_" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                void *decoded = NULL;
                size_t n;

                assert_error(base64_decode(bad[i], strlen(bad[i]), &decoded, &n), -EINVAL);
                ck_assert_ptr_null(decoded);
        }
}

/* The size counts, not what lies behind it. */
TEST(a_text_cut_short_is_refused) {
        for (size_t n = 0; n <= 12; n++) {
                void *decoded = NULL;
                size_t n_decoded;

                ck_assert_int_eq(base64_decode("AAAABBBBCCCC", n, &decoded, &n_decoded), n % 4 == 0 ? 0 : -EINVAL);
                free(decoded);
        }
}

/* A bad byte at every place of a long text. */
TEST(a_fault_is_found_at_every_place) {
        static uint8_t data[300];
        _cleanup_free_ char *encoded = NULL;
        size_t n;

        assert_ok(base64_encode(data, sizeof(data), &encoded, &n));
        for (size_t i = 0; i < n; i++)
                for (unsigned c = 0; c < 256; c++) {
                        char saved = encoded[i];
                        void *decoded = NULL;
                        size_t n_decoded;
                        bool in_alphabet = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                                           c == '+' || c == '/';

                        if (c == '=' && i == n - 1)
                                continue;
                        encoded[i] = (char) c;
                        ck_assert_int_eq(base64_decode(encoded, n, &decoded, &n_decoded), in_alphabet ? 0 : -EINVAL);
                        free(decoded);
                        encoded[i] = saved;
                }
}

TEST(keys_of_the_vectors) {
        struct json_object *cases = test_vectors("device.json", "shared_access_key_base64");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                const char *in = json_object_get_string(json_object_object_get(c, "in"));
                bool ok = json_object_get_boolean(json_object_object_get(c, "ok"));
                void *decoded = NULL;
                size_t n;
                int r = base64_decode(in, strlen(in), &decoded, &n);

                if (!*in) /* an empty key is the connection string's to refuse: as base64 it is nothing, well spelled */
                        ck_assert_int_eq(r, 0);
                else
                        ck_assert_msg(r == (ok ? 0 : -EINVAL), "%s: %d", in, r);
                if (ok)
                        ck_assert_int_eq((int) n, json_object_get_int(json_object_object_get(c, "bytes")));
                free(decoded);
        }
}
