#include "tests/support/test.h"

#include <json-c/json.h>

#include "lib/property-bag.h"
#include "lib/sas-token.h"
#include "tests/support/random.h"

static const char *text(struct json_object *o, const char *field) {
        return json_object_get_string(json_object_object_get(o, field));
}

/* Ours are the "encoded" ones; those that other SDKs write are taken apart and verified all the same. */
TEST(tokens_of_the_vectors_are_made_and_verified) {
        struct json_object *cases = test_vectors("device.json", "sas_token");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                uint64_t expiry = (uint64_t) json_object_get_int64(json_object_object_get(c, "expiry"));
                _cleanup_(erase_and_freep) char *token = NULL;
                _cleanup_(sas_token_done) SasToken t = {};

                if (streq(text(c, "style"), "encoded")) {
                        assert_ok(sas_token_make(text(c, "key_base64"), text(c, "resource"), expiry, text(c, "policy"),
                                                 &token));
                        ck_assert_str_eq(token, text(c, "token"));
                }
                assert_ok(sas_token_parse(text(c, "token"), &t));
                ck_assert_str_eq(t.sr, text(c, "sr"));
                ck_assert_str_eq(t.sig, text(c, "signature_base64"));
                ck_assert(t.se_sec == expiry);
                if (text(c, "policy"))
                        ck_assert_str_eq(t.skn, text(c, "policy"));
                else
                        ck_assert_ptr_null(t.skn);
                ck_assert_int_eq(sas_token_verify(&t, text(c, "key_base64")), 1);
        }
}

TEST(tokens_of_the_vectors_parse) {
        struct json_object *cases = test_vectors("device.json", "sas_token_parse");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                _cleanup_(sas_token_done) SasToken t = {};
                _cleanup_free_ char *sig = NULL;
                int r = sas_token_parse(text(c, "in"), &t);

                if (!json_object_get_boolean(json_object_object_get(c, "ok"))) {
                        assert_error(r, -EINVAL);
                        ck_assert_ptr_null(t.sr);
                        continue;
                }
                assert_ok(r);
                ck_assert_str_eq(t.sr, text(c, "sr"));
                assert_ok(percent_decode(text(c, "sig"), strlen(text(c, "sig")), &sig, NULL));
                ck_assert_str_eq(t.sig, sig);
                ck_assert_int_eq((int64_t) t.se_sec, json_object_get_int64(json_object_object_get(c, "se")));
                ck_assert_pstr_eq(t.skn, text(c, "skn"));
        }
}

TEST(malformed_tokens_are_refused) {
        static const char *const bad[] = {
                "",
                "SharedAccessSignature",
                "SharedAccessSignature ",
                "SharedAccessSignature sr=a&sig=b&se=1&",
                "SharedAccessSignature sr=a&sig=b&se=1&&skn=p",
                "SharedAccessSignature sr=a&sig=b&se=1&x=y",
                "SharedAccessSignature sr=a&sig=b&se=1&se=1",
                "SharedAccessSignature sr=a&sig=b&sig=b&se=1",
                "SharedAccessSignature sr=a&sig=b&se=1&skn=p&skn=p",
                "SharedAccessSignature sr=&sig=b&se=1",
                "SharedAccessSignature sr=a&sig=&se=1",
                "SharedAccessSignature sr=a&sig=%zz&se=1",
                "SharedAccessSignature sr=a&sig=b&se=",
                "SharedAccessSignature sr=a&sig=b&se=-1",
                "SharedAccessSignature sr=a&sig=b&se=18446744073709551616",
                "SharedAccessSignature sr&sig=b&se=1",
                " SharedAccessSignature sr=a&sig=b&se=1",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                SasToken t = {};

                ck_assert_msg(sas_token_parse(bad[i], &t) == -EINVAL, "%s", bad[i]);
                ck_assert_ptr_null(t.sr);
        }
}

#define KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define OTHER_KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh4="

TEST(what_is_made_is_verified_and_only_with_its_key) {
        static const char characters[] = "ab0-._%/=!*?@$'(),:+# ";
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 2000; i++) {
                _cleanup_free_ char *resource = NULL, *sr = NULL;
                _cleanup_(erase_and_freep) char *token = NULL;
                _cleanup_(sas_token_done) SasToken t = {};
                uint64_t expiry = random_u64(&random) >> random_below(&random, 64);
                size_t n = 1 + random_below(&random, 30);
                char id[32] = {};

                for (size_t k = 0; k < n; k++)
                        id[k] = characters[random_below(&random, sizeof(characters) - 1)];
                assert_ok(sas_resource_device("h.example", id, random_one_in(&random, 2) ? "m" : NULL, &resource));
                assert_ok(sas_token_make(KEY, resource, expiry, random_one_in(&random, 2) ? id : NULL, &token));
                assert_ok(sas_token_parse(token, &t));
                ck_assert(t.se_sec == expiry);
                assert_ok(percent_decode(t.sr, strlen(t.sr), &sr, NULL));
                ck_assert_str_eq(sr, resource);
                if (t.skn)
                        ck_assert_str_eq(t.skn, id);
                ck_assert_int_eq(sas_token_verify(&t, KEY), 1);
                ck_assert_int_eq(sas_token_verify(&t, OTHER_KEY), 0);
                t.se_sec++;
                ck_assert_int_eq(sas_token_verify(&t, KEY), 0);
        }
}

TEST(any_change_of_a_signature_is_noticed) {
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_(sas_token_done) SasToken t = {};
        char *longer;

        assert_ok(sas_token_make(KEY, "h/devices/d", 1893456000, NULL, &token));
        assert_ok(sas_token_parse(token, &t));
        for (char *p = t.sig; *p; p++)
                for (unsigned bit = 0; bit < 7; bit++) {
                        *p ^= (char) (1 << bit);
                        if (*p)
                                ck_assert_int_eq(sas_token_verify(&t, KEY), 0);
                        *p ^= (char) (1 << bit);
                }
        ck_assert_int_eq(sas_token_verify(&t, KEY), 1);
        t.sig[strlen(t.sig) - 1] = 0; /* shorter */
        ck_assert_int_eq(sas_token_verify(&t, KEY), 0);
        strcpy(t.sig + strlen(t.sig), "="); /* as it was */
        ck_assert_int_eq(sas_token_verify(&t, KEY), 1);
        ck_assert_int_ge(asprintf(&longer, "%s=", t.sig), 0);
        erase_and_free(t.sig);
        t.sig = longer;
        ck_assert_int_eq(sas_token_verify(&t, KEY), 0);
        for (char *p = t.sr; *p; p++) {
                (*p)++;
                ck_assert_int_eq(sas_token_verify(&t, KEY), 0);
                (*p)--;
        }
}

TEST(a_key_that_is_no_base64_signs_nothing) {
        static const char *const bad[] = { "", "AAEC AwQF", "AAE", "AAECAwQF-_==" };
        SasToken t = { .sr = (char *) "a", .sig = (char *) "b", .se_sec = 1 };
        char *token = NULL;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                assert_error(sas_token_make(bad[i], "h/devices/d", 1, NULL, &token), -EINVAL);
                ck_assert_ptr_null(token);
                assert_error(sas_token_verify(&t, bad[i]), -EINVAL);
        }
}

TEST(the_resource_of_a_device_and_of_a_module) {
        _cleanup_free_ char *device = NULL, *module = NULL;

        assert_ok(sas_resource_device("h", "d", NULL, &device));
        ck_assert_str_eq(device, "h/devices/d");
        assert_ok(sas_resource_device("h", "d%41", "m", &module));
        ck_assert_str_eq(module, "h/devices/d%41/modules/m");
}

/* Goal: the key's text signs at an Event Hubs endpoint. The token was computed with Python's hmac. */
TEST(the_text_of_a_key_signs_otherwise_than_its_bytes) {
        static const char expected[] =
                        "SharedAccessSignature sr=sb%3A%2F%2Fns.servicebus.windows.net%2Fentity"
                        "&sig=CBftLzVHPgBRfmifemAq%2FzRekT4c2z0naYEORrhf%2FPY%3D&se=1893456000&skn=service";
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_(sas_token_done) SasToken t = {};

        assert_ok(sas_token_make_with(KEY, SAS_KEY_TEXT, "sb://ns.servicebus.windows.net/entity", 1893456000,
                                      "service", &token));
        ck_assert_str_eq(token, expected);
        assert_ok(sas_token_parse(token, &t));
        ck_assert_int_eq(sas_token_verify_with(&t, KEY, SAS_KEY_TEXT), 1);
        ck_assert_int_eq(sas_token_verify_with(&t, KEY, SAS_KEY_BASE64), 0);
}
