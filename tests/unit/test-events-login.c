#include "client/events-login.h"

#include "tests/support/test.h"

#define KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

TEST(the_string_of_the_portal_is_taken_apart) {
        _cleanup_(events_login_done) EventsLogin l = {};
        _cleanup_free_ char *reason = NULL;

        assert_ok(events_login_parse("Endpoint=sb://ihsuprodblres076dednamespace.servicebus.windows.net/;"
                                     "SharedAccessKeyName=iothubowner;SharedAccessKey=" KEY
                                     ";EntityPath=iothub-ehub-pf-test-hu-1005325-78b76d275b\n",
                                     &l, &reason));
        ck_assert_str_eq(l.host, "ihsuprodblres076dednamespace.servicebus.windows.net");
        ck_assert_uint_eq(l.port, 0);
        ck_assert_str_eq(l.entity, "iothub-ehub-pf-test-hu-1005325-78b76d275b");
        ck_assert_str_eq(l.key_name, "iothubowner");
        ck_assert_str_eq(l.key, KEY);
        ck_assert_ptr_null(l.token);
}

TEST(order_port_and_a_last_semicolon_are_free) {
        static const char *const texts[] = {
                "EntityPath=e;SharedAccessKey=" KEY ";SharedAccessKeyName=p;Endpoint=sb://localhost:25671;",
                " Endpoint=amqps://localhost:25671/;SharedAccessKeyName=p;SharedAccessKey=" KEY ";EntityPath=e ",
                "Endpoint=localhost:25671;SharedAccessKeyName=p;SharedAccessKey=" KEY ";EntityPath=e",
        };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                _cleanup_(events_login_done) EventsLogin l = {};
                _cleanup_free_ char *reason = NULL;

                ck_assert(events_login_is_one(texts[i]));
                assert_ok(events_login_parse(texts[i], &l, &reason));
                ck_assert_str_eq(l.host, "localhost");
                ck_assert_uint_eq(l.port, 25671);
                ck_assert_str_eq(l.entity, "e");
        }
}

TEST(a_ready_made_token_is_taken_instead_of_a_key) {
        _cleanup_(events_login_done) EventsLogin l = {};
        _cleanup_free_ char *reason = NULL;

        assert_ok(events_login_parse("Endpoint=sb://h/;EntityPath=e;SharedAccessSignature=SharedAccessSignature "
                                     "sr=sb%3A%2F%2Fh%2Fe&sig=abc%3D&se=1893456000&skn=p",
                                     &l, &reason));
        ck_assert_ptr_nonnull(l.token);
        ck_assert_ptr_null(l.key);
}

TEST(a_hubs_string_is_none) {
        ck_assert(!events_login_is_one("HostName=h;SharedAccessKeyName=p;SharedAccessKey=" KEY));
        ck_assert(!events_login_is_one(""));
        ck_assert(events_login_is_one("SharedAccessKeyName=p;EntityPath=e"));
}

/* Goal: what is wrong is told by its name, and no key is ever quoted. */
TEST(a_mistake_names_its_key_and_no_secret) {
        static const struct {
                const char *text, *names;
        } bad[] = {
                { "SharedAccessKeyName=p;SharedAccessKey=" KEY ";EntityPath=e", "Endpoint: missing" },
                { "Endpoint=sb://h/;SharedAccessKey=" KEY ";EntityPath=e", "SharedAccessKeyName: missing" },
                { "Endpoint=sb://h/;SharedAccessKeyName=p;EntityPath=e", "SharedAccessKey: missing" },
                { "Endpoint=sb://h/;SharedAccessKeyName=p;SharedAccessKey=" KEY, "EntityPath: missing" },
                { "Endpoint=sb://h/;Endpoint=sb://h/;EntityPath=e", "Endpoint: comes twice" },
                { "Endpoint=;EntityPath=e", "Endpoint: its value is empty" },
                { "Endpoint=http://h/;EntityPath=e", "Endpoint: write it like" },
                { "Endpoint=sb:///;EntityPath=e", "Endpoint: not a host name" },
                { "Endpoint=sb://h:99999/;EntityPath=e", "Endpoint: not a host name" },
                { "Endpoint=sb://h/;SharedAccessKeyName=p;SharedAccessKey=" KEY ";EntityPath=a/b",
                  "EntityPath: a name without" },
                { "Endpoint=sb://h/;SharedAccessKeyName=p;SharedAccessKey=" KEY "\n;EntityPath=e",
                  "SharedAccessKey: contains" },
                { "Endpoint=sb://h/;EntityPath=e;SharedAccessSignature=nonsense",
                  "SharedAccessSignature: not a token" },
                { "Endpoint=sb://h/;EntityPath=e;SharedAccessKey=" KEY
                  ";SharedAccessSignature=SharedAccessSignature sr=a&sig=b&se=1",
                  "SharedAccessSignature: stands alone" },
                { "Endpoint=sb://h/;" KEY ";EntityPath=e", "none of the known keys" },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_(events_login_done) EventsLogin l = {};
                _cleanup_free_ char *reason = NULL;

                assert_error(events_login_parse(bad[i].text, &l, &reason), -EINVAL);
                ck_assert_ptr_nonnull(reason);
                ck_assert_msg(strstr(reason, bad[i].names), "%zu: %s", i, reason);
                ck_assert_ptr_null(strstr(reason, "AAECAw"));
        }
}
