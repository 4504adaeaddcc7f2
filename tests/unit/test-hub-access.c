/* Goal: a token opens what it names, segment by segment, and nothing beside it.
 * Method: a table of resources against paths; a hub of its own in a temporary folder; the SDKs'
 * tokens of the vectors. */

#include "tests/support/test.h"

#include <fcntl.h>
#include <json-c/json.h>

#include "emulator/hub-access.h"
#include "lib/json-util.h"
#include "lib/sas-token.h"

static Hub *open_hub(const char *host) {
        _cleanup_free_ char *path = test_tempdir();
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        Hub *h;

        ck_assert_int_ge(fd, 0);
        assert_ok(hub_open(fd, host, &h));
        return h;
}

TEST(a_resource_covers_whole_segments_only) {
        static const struct {
                const char *resource, *path;
                bool device, service; /* with and without regard to case */
        } cases[] = {
                { "hub.example", "/devices/d1", true, true },
                { "hub.example/", "/devices/d1", true, true },
                { "HUB.example:443", "/devices/d1", true, true },
                { "hub.example:", "/devices/d1", false, false },
                { "hub.example:x", "/devices/d1", false, false },
                { "hub.example.org", "/devices/d1", false, false },
                { "hub.exampl", "/devices/d1", false, false },
                { "", "/devices/d1", false, false },
                { "/devices/d1", "/devices/d1", false, false },
                { "hub.example/devices", "/devices/d1", true, true },
                { "hub.example/devices/d1", "/devices/d1", true, true },
                { "hub.example/devices/d1", "/devices/d1/modules/m", true, true },
                { "hub.example/devices/d1", "/devices/d12", false, false },
                { "hub.example/devices/d12", "/devices/d1", false, false },
                { "hub.example/devices/d1/modules/m", "/devices/d1", false, false },
                { "hub.example/devices/D1", "/devices/d1", false, true },
                { "hub.example%2fdevices%2Fd1", "/devices/d1", true, true },
                { "hub.example/devices/a%40b", "/devices/a@b", true, true },
                { "hub.example/devices/a@b", "/devices/a%40b", true, true },
                { "hub.example/devices/a%40b", "/devices/a%40b", true, true },
                { "hub.example/devices/a%zz", "/devices/a%zz", true, true },
                { "hub.example/devices/a%zz", "/devices/a", false, false },
        };
        Hub *h = open_hub("hub.example");

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                ck_assert_msg(hub_resource_covers(h, cases[i].resource, cases[i].path, false) ==
                                              cases[i].device,
                              "device: %s for %s", cases[i].resource, cases[i].path);
                ck_assert_msg(hub_resource_covers(h, cases[i].resource, cases[i].path, true) ==
                                              cases[i].service,
                              "service: %s for %s", cases[i].resource, cases[i].path);
        }
        hub_free(h);
}

static int enter(Hub *h, const char *user, const char *client_id, const char *password,
                 usec_t now) {
        HubAdmission a;
        const char *reason = NULL;
        int r = hub_access_device(h,
                                  &(HubCredentials) { .client_id = client_id,
                                                      .user_name = user,
                                                      .password = password },
                                  now, &a, &reason);

        ck_assert(r != -EACCES || reason);
        return r;
}

TEST(a_token_is_good_until_its_second_ends) {
        HubDevice wanted = { .id = (char *) "d1", .enabled = true }, d;
        _cleanup_(erase_and_freep) char *token = NULL;
        Hub *h = open_hub("hub.example");

        assert_ok(hub_device_create(h, &wanted, &d));
        assert_ok(sas_token_make(d.primary_key, "hub.example/devices/d1", 1000, NULL, &token));
        assert_ok(enter(h, "hub.example/d1/?api-version=1", "d1", token, 1000 * USEC_PER_SEC - 1));
        assert_error(enter(h, "hub.example/d1/?api-version=1", "d1", token, 1000 * USEC_PER_SEC),
                     -EACCES);
        hub_device_done(&d);
        hub_free(h);
}

TEST(user_names_follow_the_grammar) {
        static const struct {
                const char *user;
                bool good;
        } cases[] = {
                { "hub.example/d1/?api-version=2021-04-12", true },
                { "hub.example/d1/api-version=2016-11-14", true },
                { "hub.example:8883/d1/?api-version=2021-04-12", true },
                { "HUB.EXAMPLE/d1/?model-id=dtmi:a:b;1&api-version=2021-04-12&DeviceClientType=x",
                  true },
                { "hub.example/d1/?api-version=", false },
                { "hub.example/d1/?api-version", false },
                { "hub.example/d1/?x-api-version=1", false },
                { "hub.example/d1/", false },
                { "hub.example/d1", false },
                { "hub.example/D1/?api-version=1", false },
                { "hub.example/d12/?api-version=1", false },
                { "hub.example/d/?api-version=1", false },
                { "hub.example//?api-version=1", false },
                { "hub.example", false },
                { "/d1/?api-version=1", false },
                { "", false },
        };
        HubDevice wanted = { .id = (char *) "d1", .enabled = true }, d;
        _cleanup_(erase_and_freep) char *token = NULL;
        Hub *h = open_hub("hub.example");

        assert_ok(hub_device_create(h, &wanted, &d));
        assert_ok(sas_token_make(d.primary_key, "hub.example/devices/d1", 1000, NULL, &token));
        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                ck_assert_msg(enter(h, cases[i].user, "d1", token, 1) ==
                                              (cases[i].good ? 0 : -EACCES),
                              "%s", cases[i].user);
        hub_device_done(&d);
        hub_free(h);
}

/* Each device token of the vectors opens the door of its device, whatever SDK's encoding it
 * follows. */
TEST(the_tokens_of_the_vectors_are_taken) {
        struct json_object *vectors = test_vectors("device.json", "sas_token");
        unsigned n_taken = 0;

        for (size_t i = 0; i < json_object_array_length(vectors); i++) {
                struct json_object *v = json_object_array_get_idx(vectors, i);
                const char *key, *text, *resource, *device;
                _cleanup_free_ char *user = NULL, *host = NULL;
                HubDevice wanted = { .enabled = true }, d;
                Hub *h;

                ck_assert_int_eq(json_get_string(v, "token", &text, NULL), 1);
                ck_assert_int_eq(json_get_string(v, "resource", &resource, NULL), 1);
                ck_assert_int_eq(json_get_string(v, "key_base64", &key, NULL), 1);
                device = strstr(resource, "/devices/");
                if (!device || strstr(device, "/modules/"))
                        continue;
                host = strndup(resource, (size_t) (device - resource));
                device += strlen("/devices/");

                h = open_hub(host);
                wanted.id = (char *) device;
                wanted.primary_key = wanted.secondary_key = (char *) key;
                assert_ok(hub_device_create(h, &wanted, &d));
                ck_assert_int_ge(asprintf(&user, "%s/%s/?api-version=2021-04-12", host, device), 0);
                ck_assert_msg(enter(h, user, device, text, 1) == 0, "%s", text);
                hub_device_done(&d);
                hub_free(h);
                n_taken++;
        }
        ck_assert_uint_ge(n_taken, 8);
}
