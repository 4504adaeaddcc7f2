#include "tests/support/test.h"

#include <json-c/json.h>

#include "lib/hub-topic.h"
#include "lib/property-bag.h"
#include "tests/support/random.h"

static struct json_object *get(struct json_object *o, const char *field) {
        return json_object_object_get(o, field);
}

static const char *text(struct json_object *o, const char *field) {
        return json_object_get_string(get(o, field));
}

TEST(client_ids_and_user_names_of_the_vectors) {
        struct json_object *cases = test_vectors("device.json", "connect");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                _cleanup_free_ char *client_id = NULL, *user_name = NULL;

                assert_ok(hub_client_id(text(c, "device_id"), text(c, "module_id"), &client_id));
                ck_assert_str_eq(client_id, text(c, "client_id"));
                assert_ok(hub_user_name(text(c, "host"), client_id, text(c, "product_info"), text(c, "model_id"),
                                        &user_name));
                ck_assert_str_eq(user_name, text(c, "username"));
        }
}

TEST(device_ids_of_the_vectors) {
        struct json_object *cases = test_vectors("device.json", "device_id");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i), *ok = get(c, "ok");
                bool registry_only = json_object_is_type(ok, json_type_string);
                bool good = registry_only || json_object_get_boolean(ok);

                ck_assert_int_eq(hub_device_id_check(text(c, "in"), false), good ? 0 : -EINVAL);
                ck_assert_int_eq(hub_device_id_check(text(c, "in"), true), good && !registry_only ? 0 : -EINVAL);
        }
        assert_ok(hub_device_id_check("a;b", true)); /* allowed by the registry, though not in a connection string */
}

TEST(topics_of_the_vectors) {
        struct json_object *device = test_vectors("device.json", "topics");
        _cleanup_free_ char *prefix = NULL, *module_prefix = NULL;

        assert_ok(hub_topic_telemetry_prefix("dev01", NULL, &prefix));
        ck_assert_str_eq(prefix, text(get(device, "device"), "telemetry_prefix"));
        assert_ok(hub_topic_telemetry_prefix("dev01", "mod01", &module_prefix));
        ck_assert_str_eq(module_prefix, text(get(device, "module"), "telemetry_prefix"));
}

TEST(inbound_topics_of_the_vectors) {
        static const struct {
                const char *name;
                HubTopicKind kind;
        } kinds[] = {
                { "c2d", HUB_TOPIC_C2D },
                { "other", HUB_TOPIC_C2D }, /* another device's: the caller compares the id */
                { "method", HUB_TOPIC_METHOD_CALL },
                { "twin_result", HUB_TOPIC_TWIN_RESULT },
                { "twin_desired", HUB_TOPIC_TWIN_DESIRED },
        };
        struct json_object *cases = test_vectors("device.json", "topic_parse");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i);
                _cleanup_(hub_topic_done) HubTopic t = {};
                HubTopicKind expected = _HUB_TOPIC_KIND_INVALID;
                int r = hub_topic_parse(text(c, "in"), &t);

                for (size_t k = 0; k < ELEMENTSOF(kinds); k++)
                        if (streq(text(c, "kind"), kinds[k].name))
                                expected = kinds[k].kind;
                if (expected < 0) {
                        ck_assert_msg(r == -EINVAL, "%s", text(c, "in"));
                        continue;
                }
                ck_assert_msg(r == 0 && t.kind == expected, "%s", text(c, "in"));
                if (expected == HUB_TOPIC_C2D)
                        ck_assert_int_eq(streq(t.device_id, "dev01"), streq(text(c, "kind"), "c2d"));
                if (text(c, "bag"))
                        ck_assert_str_eq(t.bag, text(c, "bag"));
                ck_assert_pstr_eq(t.method, text(c, "name"));
                ck_assert_pstr_eq(t.rid, text(c, "rid"));
                ck_assert_int_eq((int) t.status, json_object_get_int(get(c, "status")));
                ck_assert(t.has_version == !!get(c, "version"));
                ck_assert(t.version == (uint64_t) json_object_get_int64(get(c, "version")));
        }
}

/* What devices send, as the emulator meets it. */
TEST(outbound_topics_parse) {
        static const struct {
                const char *topic;
                HubTopic t;
        } table[] = {
                { "devices/d/messages/events/",
                  { .kind = HUB_TOPIC_TELEMETRY, .device_id = (char *) "d", .bag = (char *) "" } },
                { "devices/d/messages/events",
                  { .kind = HUB_TOPIC_TELEMETRY, .device_id = (char *) "d", .bag = (char *) "" } },
                { "devices/d/messages/events/a=%2F&b",
                  { .kind = HUB_TOPIC_TELEMETRY, .device_id = (char *) "d", .bag = (char *) "a=%2F&b" } },
                { "devices/d/messages/events/a=1/",
                  { .kind = HUB_TOPIC_TELEMETRY, .device_id = (char *) "d", .bag = (char *) "a=1" } },
                { "devices/d/modules/m/messages/events/a=1",
                  { .kind = HUB_TOPIC_TELEMETRY,
                    .device_id = (char *) "d",
                    .module_id = (char *) "m",
                    .bag = (char *) "a=1" } },
                { "$iothub/methods/res/200/?$rid=1f",
                  { .kind = HUB_TOPIC_METHOD_RESPONSE, .status = 200, .rid = (char *) "1f" } },
                { "$iothub/twin/GET/?$rid=7", { .kind = HUB_TOPIC_TWIN_GET, .rid = (char *) "7" } },
                { "$iothub/twin/PATCH/properties/reported/?$rid=8",
                  { .kind = HUB_TOPIC_TWIN_REPORTED, .rid = (char *) "8" } },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(hub_topic_done) HubTopic t = {};

                assert_ok(hub_topic_parse(table[i].topic, &t));
                ck_assert_int_eq(t.kind, table[i].t.kind);
                ck_assert_pstr_eq(t.device_id, table[i].t.device_id);
                ck_assert_pstr_eq(t.module_id, table[i].t.module_id);
                ck_assert_pstr_eq(t.bag, table[i].t.bag);
                ck_assert_pstr_eq(t.rid, table[i].t.rid);
                ck_assert_uint_eq(t.status, table[i].t.status);
        }
}

TEST(foreign_topics_are_refused) {
        static const char *const bad[] = {
                "", "devices", "devices/", "devices//messages/events/", "devices/d", "devices/d/messages",
                "devices/d/messages/eventsX", "devices/d/messages/events/a/b", "devices/d/messages/events///",
                "devices/d/modules//messages/events/", "devices/d/modules/m", "devices/d/messages/other/",
                "Devices/d/messages/events/", "/devices/d/messages/events/", "$iothub/", "$iothub/twin/res/200",
                "$iothub/twin/res//?$rid=1", "$iothub/twin/res/-1/?$rid=1", "$iothub/twin/res/200/?$rid=",
                "$iothub/twin/res/200/?$rid=1&$rid=2", "$iothub/twin/res/200/?$rid=1&$version=x",
                "$iothub/twin/PATCH/properties/desired/", "$iothub/twin/PATCH/properties/desired/?$rid=1",
                "$iothub/methods/POST//?$rid=1", "$iothub/methods/POST/%zz/?$rid=1", "$iothub/methods/POST/%00/?$rid=1",
                "$iothub/twin/GET", "$iothub/twin/GETX/?$rid=1", "$SYS/broker",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                HubTopic t = {};

                ck_assert_msg(hub_topic_parse(bad[i], &t) == -EINVAL, "%s", bad[i]);
                ck_assert_ptr_null(t.device_id);
        }
}

TEST(what_is_built_parses_back) {
        static const char id_characters[] = "abcXYZ019-.%_*?!(),=@$':;";
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 20000; i++) {
                _cleanup_free_ char *prefix = NULL, *topic = NULL, *bag = NULL;
                _cleanup_(hub_topic_done) HubTopic t = {};
                char id[129] = {}, module[129] = {}, value[20] = {};
                bool has_module = random_one_in(&random, 2);

                for (size_t k = 0, n = 1 + random_below(&random, 128); k < n; k++)
                        id[k] = id_characters[random_below(&random, sizeof(id_characters) - 1)];
                for (size_t k = 0, n = 1 + random_below(&random, 128); k < n; k++)
                        module[k] = id_characters[random_below(&random, sizeof(id_characters) - 1)];
                for (size_t k = 0, n = random_below(&random, 19); k < n; k++)
                        value[k] = (char) (1 + random_below(&random, 255));
                assert_ok(hub_device_id_check(id, true));
                assert_ok(hub_topic_telemetry_prefix(id, has_module ? module : NULL, &prefix));
                assert_ok(percent_encode(value, strlen(value), &bag));
                ck_assert_int_ge(asprintf(&topic, "%s%s", prefix, bag), 0);
                assert_ok(hub_topic_parse(topic, &t));
                ck_assert_int_eq(t.kind, HUB_TOPIC_TELEMETRY);
                ck_assert_str_eq(t.device_id, id);
                ck_assert_pstr_eq(t.module_id, has_module ? module : NULL);
                ck_assert_str_eq(t.bag, bag);
        }
}
