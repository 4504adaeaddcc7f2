/* Every malformed string is told by the name of the key at fault, and never by a value. */
#include "tests/support/test.h"

#include <json-c/json.h>

#include "lib/connection-string.h"
#include "tests/support/random.h"

#define KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define HOST "HostName=h.example"
#define DEVICE HOST ";DeviceId=d;SharedAccessKey=" KEY
#define SERVICE HOST ";SharedAccessKeyName=iothubowner;SharedAccessKey=" KEY

static const char *text(struct json_object *o, const char *field) {
        return json_object_get_string(json_object_object_get(o, field));
}

TEST(strings_of_the_vectors) {
        struct json_object *cases = test_vectors("device.json", "connection_string");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i), *ok = json_object_object_get(c, "ok");
                _cleanup_(connection_string_done) ConnectionString s = {};
                _cleanup_free_ char *error = NULL;
                const char *in = text(c, "in");
                int r = connection_string_parse(in, CONNECTION_STRING_DEVICE, &s, &error);

                if (json_object_is_type(ok, json_type_string)) {
                        /* Where the SDKs differ: we refuse an unknown key (a typing error must not pass) and allow a
                         * semicolon at the end. */
                        ck_assert_int_eq(r, strstr(in, "Colour=") ? -EINVAL : 0);
                        continue;
                }
                if (!json_object_get_boolean(ok)) {
                        assert_error(r, -EINVAL);
                        ck_assert_ptr_nonnull(error);
                        continue;
                }
                ck_assert_msg(r == 0, "%s: %s", in, error);
                ck_assert_pstr_eq(s.host_name, text(c, "HostName"));
                ck_assert_pstr_eq(s.device_id, text(c, "DeviceId"));
                ck_assert_pstr_eq(s.module_id, text(c, "ModuleId"));
                ck_assert_pstr_eq(s.gateway_host_name, text(c, "GatewayHostName"));
                ck_assert_pstr_eq(s.shared_access_key, text(c, "SharedAccessKey"));
                ck_assert_pstr_eq(s.shared_access_signature, text(c, "SharedAccessSignature"));
                ck_assert(s.x509 == !!text(c, "x509"));
        }
}

/* The vectors of single ids and keys, put into a whole string. */
TEST(ids_and_keys_of_the_vectors) {
        struct json_object *ids = test_vectors("device.json", "device_id"),
                           *keys = test_vectors("device.json", "shared_access_key_base64");

        for (size_t i = 0; i < json_object_array_length(ids); i++) {
                struct json_object *c = json_object_array_get_idx(ids, i), *ok = json_object_object_get(c, "ok");
                bool good = json_object_is_type(ok, json_type_string) || json_object_get_boolean(ok);
                _cleanup_(connection_string_done) ConnectionString s = {};
                _cleanup_free_ char *in = NULL, *error = NULL;

                ck_assert_int_ge(asprintf(&in, HOST ";DeviceId=%s;SharedAccessKey=" KEY, text(c, "in")), 0);
                ck_assert_int_eq(connection_string_parse(in, CONNECTION_STRING_DEVICE, &s, &error), good ? 0 : -EINVAL);
                ck_assert(good || startswith(error, "DeviceId: "));
        }
        for (size_t i = 0; i < json_object_array_length(keys); i++) {
                struct json_object *c = json_object_array_get_idx(keys, i);
                bool good = json_object_get_boolean(json_object_object_get(c, "ok"));
                _cleanup_(connection_string_done) ConnectionString s = {};
                _cleanup_free_ char *in = NULL, *error = NULL;

                ck_assert_int_ge(asprintf(&in, HOST ";DeviceId=d;SharedAccessKey=%s", text(c, "in")), 0);
                ck_assert_int_eq(connection_string_parse(in, CONNECTION_STRING_DEVICE, &s, &error), good ? 0 : -EINVAL);
                ck_assert(good || startswith(error, "SharedAccessKey: "));
        }
}

static const struct {
        ConnectionStringKind kind;
        const char *text;
        const char *named; /* what the error begins with */
} bad_strings[] = {
        { CONNECTION_STRING_DEVICE, "", "The connection string is empty" },
        { CONNECTION_STRING_DEVICE, " \r\n", "The connection string is empty" },
        { CONNECTION_STRING_DEVICE, "DeviceId=d;SharedAccessKey=" KEY, "HostName: missing" },
        { CONNECTION_STRING_DEVICE, HOST ";SharedAccessKey=" KEY, "DeviceId: missing" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=d", "SharedAccessKey: missing" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=;SharedAccessKey=" KEY, "DeviceId: its value is empty" },
        { CONNECTION_STRING_DEVICE, "HostName=;DeviceId=d;SharedAccessKey=" KEY, "HostName: its value is empty" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=d;SharedAccessKey=", "SharedAccessKey: its value is empty" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId;SharedAccessKey=" KEY, "DeviceId: has no value" },
        { CONNECTION_STRING_DEVICE, DEVICE ";DeviceId=d", "DeviceId: comes twice" },
        { CONNECTION_STRING_DEVICE, DEVICE ";SharedAccessKey=" KEY, "SharedAccessKey: comes twice" },
        { CONNECTION_STRING_DEVICE, HOST ";" DEVICE, "HostName: comes twice" },
        { CONNECTION_STRING_DEVICE, DEVICE ";ModuleId=a b", "ModuleId: an id is" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=a/b;SharedAccessKey=" KEY, "DeviceId: an id is" },
        { CONNECTION_STRING_DEVICE, "HostName=https://h.example/;DeviceId=d;SharedAccessKey=" KEY,
          "HostName: not a host name" },
        { CONNECTION_STRING_DEVICE, "HostName=h:0;DeviceId=d;SharedAccessKey=" KEY, "HostName: not a host name" },
        { CONNECTION_STRING_DEVICE, "HostName=h:65536;DeviceId=d;SharedAccessKey=" KEY, "HostName: not a host name" },
        { CONNECTION_STRING_DEVICE, DEVICE ";GatewayHostName=a b", "GatewayHostName: not a host name" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=d;SharedAccessKey=AAECAwQFBgcICQoLDA0ODw",
          "SharedAccessKey: not valid base64" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=d;SharedAccessKey=AAECAwQFBgcICQoLDA0O",
          "SharedAccessKey: a key has 16 to 64 bytes" },
        { CONNECTION_STRING_DEVICE, DEVICE ";x509=true",
          "SharedAccessKey, SharedAccessSignature and x509: more than one" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=d;x509=false", "x509: only x509=true" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=d;SharedAccessSignature=" KEY,
          "SharedAccessSignature: not a token" },
        { CONNECTION_STRING_DEVICE, "hostname=h;DeviceId=d;SharedAccessKey=" KEY,
          "HostName: upper and lower case matter" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceID=d;SharedAccessKey=" KEY, "DeviceId: upper and lower case matter" },
        { CONNECTION_STRING_DEVICE, DEVICE ";Colour=red", "Part 4 begins with none of the known keys" },
        { CONNECTION_STRING_SERVICE, "Endpoint=sb://x/;SharedAccessKeyName=p;SharedAccessKey=" KEY,
          "Endpoint: this is a connection string of an Event Hubs endpoint" },
        { CONNECTION_STRING_DEVICE, HOST "\n;DeviceId=d;SharedAccessKey=" KEY,
          "HostName: its value contains a line break" },
        { CONNECTION_STRING_DEVICE, HOST ";DeviceId=d;SharedAccessKey=AAECAwQFBgcICQoL\nDA0ODxAREhMUFRYXGBkaGxwdHh8=",
          "SharedAccessKey: its value contains a line break" },
        { CONNECTION_STRING_DEVICE, KEY, "Part 1 begins with none" },
        { CONNECTION_STRING_DEVICE, DEVICE ";;", "Part 4 begins with none" },
        { CONNECTION_STRING_DEVICE, HOST ";" KEY, "Part 2 begins with none" },
        /* the wrong kind */
        { CONNECTION_STRING_DEVICE, SERVICE,
          "SharedAccessKeyName: this is a connection string of a shared access policy" },
        { CONNECTION_STRING_SERVICE, DEVICE, "DeviceId: this is a connection string of one device" },
        { CONNECTION_STRING_SERVICE, "SharedAccessKeyName=p;SharedAccessKey=" KEY, "HostName: missing" },
        { CONNECTION_STRING_SERVICE, HOST ";SharedAccessKey=" KEY, "SharedAccessKeyName: missing" },
        { CONNECTION_STRING_SERVICE, HOST ";SharedAccessKeyName=p", "SharedAccessKey: missing" },
        { CONNECTION_STRING_SERVICE, HOST ";SharedAccessKeyName=p;SharedAccessKey=x",
          "SharedAccessKey: not valid base64" },
        { CONNECTION_STRING_SERVICE, SERVICE ";ModuleId=m", "ModuleId: belongs to a device" },
        { CONNECTION_STRING_SERVICE, SERVICE ";GatewayHostName=m", "GatewayHostName: belongs to a device" },
        { CONNECTION_STRING_SERVICE, SERVICE ";x509=true", "x509: belongs to a device" },
        { CONNECTION_STRING_SERVICE, SERVICE ";SharedAccessSignature=x", "SharedAccessSignature: not for a policy" },
};

TEST(every_bad_string_names_the_key) {
        for (size_t i = 0; i < ELEMENTSOF(bad_strings); i++) {
                _cleanup_free_ char *error = NULL;
                ConnectionString s = {};

                assert_error(connection_string_parse(bad_strings[i].text, bad_strings[i].kind, &s, &error), -EINVAL);
                ck_assert_msg(startswith(error, bad_strings[i].named), "%s: %s", bad_strings[i].text, error);
                ck_assert_ptr_null(s.host_name);
        }
}

/* Eight characters in a row are enough of a key to be too much. */
static void assert_no_secret(const char *error, const char *secret) {
        for (size_t i = 0; i + 8 <= strlen(secret); i++) {
                char piece[9] = {};

                memcpy(piece, secret + i, 8);
                ck_assert_msg(!strstr(error, piece), "%s", error);
        }
}

/* A good string with one to three random edits: whatever the error says, it holds no piece of the key. */
TEST(no_error_quotes_a_secret) {
        Random random = { .state = test_seed() };
        unsigned n_errors = 0;

        for (unsigned i = 0; i < 50000; i++) {
                _cleanup_(connection_string_done) ConnectionString s = {};
                ConnectionStringKind kind =
                        random_one_in(&random, 3) ? CONNECTION_STRING_SERVICE : CONNECTION_STRING_DEVICE;
                char in[200];
                char *error = NULL;

                strcpy(in, random_one_in(&random, 2) ? DEVICE : SERVICE);
                for (uint64_t k = random_below(&random, 3) + 1; k > 0; k--) {
                        size_t at = random_below(&random, strlen(in));

                        switch (random_below(&random, 3)) {
                        case 0: in[at] = ";=\n Aa\x80"[random_below(&random, 7)]; break;
                        case 1: memmove(in + at, in + at + 1, strlen(in + at)); break;
                        case 2: memmove(in + at + 1, in + at, strlen(in + at) + 1); in[at] = ';'; break;
                        }
                }
                if (connection_string_parse(in, kind, &s, &error) < 0) {
                        n_errors++;
                        assert_no_secret(error, KEY);
                        free(error);
                }
        }
        ck_assert_uint_gt(n_errors, 10000);
}

TEST(white_space_around_the_text_is_allowed) {
        static const char *const good[] = { DEVICE "\n", DEVICE "\r\n", " \t" DEVICE "  ", DEVICE ";\r\n" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                _cleanup_(connection_string_done) ConnectionString s = {};
                _cleanup_free_ char *error = NULL;

                ck_assert_msg(connection_string_parse(good[i], CONNECTION_STRING_DEVICE, &s, &error) == 0, "%s", error);
                ck_assert_str_eq(s.shared_access_key, KEY);
        }
}

TEST(what_is_formatted_parses_back) {
        static const char *const texts[] = {
                DEVICE,
                HOST ":8884;GatewayHostName=edge.local;DeviceId=a=b;ModuleId=m;SharedAccessKey=" KEY,
                HOST ";DeviceId=d;x509=true",
                HOST ";DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=a&sig=b%3D&se=1",
                SERVICE,
        };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                ConnectionStringKind kind =
                        streq(texts[i], SERVICE) ? CONNECTION_STRING_SERVICE : CONNECTION_STRING_DEVICE;
                _cleanup_(connection_string_done) ConnectionString s = {};
                _cleanup_(erase_and_freep) char *formatted = NULL;

                assert_ok(connection_string_parse(texts[i], kind, &s, NULL));
                ck_assert_int_eq(s.kind, kind);
                assert_ok(connection_string_format(&s, &formatted));
                ck_assert_str_eq(formatted, texts[i]); /* they are written in the canonical order */
        }
}

TEST(an_id_with_a_semicolon_has_no_connection_string) {
        ConnectionString s = { .host_name = (char *) "h",
                               .device_id = (char *) "a;b",
                               .shared_access_key = (char *) KEY };
        char *formatted;

        assert_error(connection_string_format(&s, &formatted), -EINVAL);
}

TEST(key_sizes_end_where_they_say) {
        static const struct {
                unsigned n_quads; /* of three bytes each */
                const char *rest;
                bool good;
        } table[] = { { 5, "", false }, { 5, "AA==", true }, { 21, "AA==", true }, { 21, "AAA=", false } };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(connection_string_done) ConnectionString s = {};
                char in[300] = HOST ";DeviceId=d;SharedAccessKey=";

                for (unsigned k = 0; k < table[i].n_quads; k++)
                        strcat(in, "AAAA");
                strcat(in, table[i].rest);
                ck_assert_int_eq(connection_string_parse(in, CONNECTION_STRING_DEVICE, &s, NULL),
                                 table[i].good ? 0 : -EINVAL);
        }
}

TEST(hosts_and_ports_come_apart) {
        static const struct {
                const char *text, *host;
                unsigned port;
        } good[] = {
                { "h.example", "h.example", 8883 }, { "h:1", "h", 1 },          { "h:65535", "h", 65535 },
                { "[::1]", "::1", 8883 },           { "[fe80::1]:443", "fe80::1", 443 },
        };
        static const char *const bad[] = { "",      ":1",  "h:",   "h:0",  "h:65536", "h:x",
                                           "h:1:2", "::1", "[::1", "[]:1", "[::1]1",  "[::1]:" };
        char *host;
        unsigned port;

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                assert_ok(host_port_split(good[i].text, 8883, &host, &port));
                ck_assert_str_eq(host, good[i].host);
                ck_assert_uint_eq(port, good[i].port);
                free(host);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(host_port_split(bad[i], 8883, &host, &port) == -EINVAL, "%s", bad[i]);
}
