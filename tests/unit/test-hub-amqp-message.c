/* Goal: an event has the sections, names and types of an Event Hubs endpoint, and its texts whole.
 * Method: events of every kind, read back with the reader of iothubctl. */

#include "tests/support/test.h"

#include "emulator/hub-amqp-private.h"
#include "lib/amqp-value.h"

static HubEventText text(const char *s) {
        return (HubEventText){ s, strlen(s) };
}

static void assert_text(const AmqpValue *v, AmqpType type, const char *want) {
        ck_assert_int_eq(v->type, type);
        ck_assert_msg(amqp_bytes_equal(v->bytes, want), "%.*s", (int) v->bytes.size,
                      (const char *) v->bytes.data);
}

static void assert_annotation(const AmqpMessage *m, const char *name, const char *want) {
        AmqpValue v;

        if (!want) {
                ck_assert_int_eq(amqp_map_get(&m->annotations, name, &v), 0);
                return;
        }
        ck_assert_int_eq(amqp_map_get(&m->annotations, name, &v), 1);
        assert_text(&v, AMQP_STRING, want);
}

static void assert_number(const AmqpMessage *m, const char *name, AmqpType type, int64_t want) {
        AmqpValue v;

        ck_assert_int_eq(amqp_map_get(&m->annotations, name, &v), 1);
        ck_assert_int_eq(v.type, type);
        ck_assert_int_eq(v.integer, want);
}

static void encode(const HubStoredEvent *e, Buffer *out, AmqpMessage *ret) {
        assert_ok(amqp_event_encode(e, out));
        assert_ok(buffer_append(out, e->body, e->body_size));
        assert_ok(amqp_message_read(out->data, out->size, ret));
        ck_assert_int_eq(ret->body_is_data, true);
        ck_assert_int_eq(ret->more_data, false);
        ck_assert_uint_eq(ret->body.bytes.size, e->body_size);
        ck_assert_mem_eq(ret->body.bytes.data, e->body, e->body_size);
}

static const HubEventPlace place = { 3, INT64_MAX - 1, INT64_MAX, UINT64_C(1767251289123000) };

TEST(an_event_with_everything_has_all_of_it) {
        static const HubEventProperty properties[] = { { { "a", 1 }, { "1", 1 } },
                                                       { { "", 0 }, { "", 0 } } };
        HubStoredEvent e = { .place = place,
                             .device_id = text("d1"),
                             .module_id = text("m1"),
                             .generation_id = text("7"),
                             .model_id = text("dtmi:x;1"),
                             .auth = { HUB_AUTH_SCOPE_MODULE, HUB_AUTH_TYPE_X509 },
                             .properties = properties,
                             .n_properties = 2,
                             .body = "\0\xff",
                             .body_size = 2 };
        _cleanup_(buffer_done) Buffer out = { 0 };
        AmqpMessage m;
        AmqpValue v;

        for (HubSystemProperty i = 0; i < _HUB_SYSTEM_MAX; i++)
                e.system[i] = text(hub_system_property_to_string(i));
        encode(&e, &out, &m);
        assert_annotation(&m, "iothub-connection-device-id", "d1");
        assert_annotation(&m, "iothub-connection-module-id", "m1");
        assert_annotation(&m, "iothub-connection-auth-generation-id", "7");
        assert_annotation(&m, "iothub-connection-auth-method",
                          "{\"scope\":\"module\",\"type\":\"x509\",\"issuer\":\"external\","
                          "\"acceptingIpFilterRule\":null}");
        assert_annotation(&m, "iothub-message-source", "Telemetry");
        assert_annotation(&m, "dt-dataschema", "dtmi:x;1");
        assert_annotation(&m, "dt-subject", "dt-subject");
        assert_annotation(&m, "iothub-creation-time-utc", "creationTimeUtc");
        assert_annotation(&m, "x-opt-offset", "9223372036854775807");
        assert_number(&m, "x-opt-sequence-number", AMQP_SIGNED, INT64_MAX - 1);
        assert_number(&m, "x-opt-enqueued-time", AMQP_TIMESTAMP, INT64_C(1767251289123));
        assert_number(&m, "iothub-enqueuedtime", AMQP_TIMESTAMP, INT64_C(1767251289123));
        assert_text(&m.message_id, AMQP_STRING, "messageId");
        assert_text(&m.user_id, AMQP_BINARY, "userId");
        assert_text(&m.to, AMQP_STRING, "to");
        ck_assert_int_eq(m.subject.type, AMQP_NULL);
        ck_assert_int_eq(m.reply_to.type, AMQP_NULL);
        assert_text(&m.correlation_id, AMQP_STRING, "correlationId");
        assert_text(&m.content_type, AMQP_SYMBOL, "contentType");
        assert_text(&m.content_encoding, AMQP_SYMBOL, "contentEncoding");
        ck_assert_int_eq(amqp_map_get(&m.application_properties, "a", &v), 1);
        assert_text(&v, AMQP_STRING, "1");
        ck_assert_int_eq(amqp_map_get(&m.application_properties, "", &v), 1);
        assert_text(&v, AMQP_STRING, "");
}

TEST(an_event_with_nothing_has_what_every_event_has) {
        HubStoredEvent e = {
                .place = { 0 }, .device_id = text("d1"), .generation_id = text("7"), .body = ""
        };
        _cleanup_(buffer_done) Buffer out = { 0 };
        AmqpMessage m;

        encode(&e, &out, &m);
        assert_annotation(&m, "iothub-connection-module-id", NULL);
        assert_annotation(&m, "dt-dataschema", NULL);
        assert_annotation(&m, "x-opt-offset", "0");
        assert_number(&m, "x-opt-sequence-number", AMQP_SIGNED, 0);
        ck_assert_int_eq(m.message_id.type, AMQP_NULL);
        ck_assert_int_eq(m.content_encoding.type, AMQP_NULL);
        ck_assert_int_eq(m.application_properties.type, AMQP_NULL);
}

TEST(sizes_around_those_of_each_encoding_come_back) {
        static const size_t sizes[] = { 0, 1, 254, 255, 256, 257, 65535, 65536, 200000 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                _cleanup_free_ char *long_text = malloc(sizes[i] + 1);
                _cleanup_(buffer_done) Buffer out = { 0 };
                HubEventProperty property = { .name = text("n") };
                HubStoredEvent e = { .device_id = text("d1"), .generation_id = text("7") };
                AmqpMessage m;
                AmqpValue v;

                ck_assert_ptr_nonnull(long_text);
                memset(long_text, 'x', sizes[i]);
                long_text[sizes[i]] = '\0';
                property.value = text(long_text);
                e.system[HUB_SYSTEM_CONTENT_TYPE] = e.system[HUB_SYSTEM_SUBJECT] = property.value;
                e.system[HUB_SYSTEM_USER_ID] = property.value;
                e.properties = &property;
                e.n_properties = 1;
                e.body = long_text;
                e.body_size = sizes[i];
                encode(&e, &out, &m);
                assert_annotation(&m, "dt-subject", long_text);
                assert_text(&m.content_type, AMQP_SYMBOL, long_text);
                assert_text(&m.user_id, AMQP_BINARY, long_text);
                ck_assert_int_eq(amqp_map_get(&m.application_properties, "n", &v), 1);
                assert_text(&v, AMQP_STRING, long_text);
        }
}
