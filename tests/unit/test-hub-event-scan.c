/* Goal: an event comes back from its line as it went in, and no other text is taken for one or
 * reads beyond its end. Method: random events of every kind of text; each byte as a body; another
 * JSON parser beside ours; a line cut and changed at each of its bytes. */

#include "tests/support/test.h"

#include <json-c/json.h>

#include "emulator/hub-event-scan.h"
#include "lib/json-util.h"
#include "lib/property-bag.h"
#include "tests/support/random.h"

/* The line without its newline, in memory of exactly that size, so that a sanitizer sees a step too
 * far. */
static char *make_line(const HubEvent *e, const HubEventPlace *place, size_t *ret_size) {
        _cleanup_(buffer_done) Buffer out = { 0 };
        char *line;

        assert_ok(hub_event_format(e, place, &out));
        *ret_size = out.size - 1;
        line = malloc(*ret_size);
        ck_assert_ptr_nonnull(line);
        memcpy(line, out.data, *ret_size);
        return line;
}

static void assert_text(HubEventText t, const char *want) {
        if (!want) {
                ck_assert_ptr_null(t.data);
                return;
        }
        ck_assert_ptr_nonnull(t.data);
        ck_assert_str_eq(t.data, want);
        ck_assert_uint_eq(t.size, strlen(want));
}

TEST(all_members_come_back) {
        static const HubEvent e = {
                .device_id = "d-1",
                .module_id = "m:1",
                .generation = 639311608842312430,
                .auth = { HUB_AUTH_SCOPE_MODULE, HUB_AUTH_TYPE_X509 },
                .model_id = "dtmi:com:example:Thing;1",
                .bag = "%24.mid=1&%24.cid=2&%24.uid=3&%24.ct=4&%24.ce=5&%24.ctime=6&%24.exp=7&%24."
                       "to=8&"
                       "%24.sub=9&%24.ifid=10&%24.on=11&%24.schema=12&%24.other=13&b=%22%5C&a=&c",
                .bag_size = strlen("%24.mid=1&%24.cid=2&%24.uid=3&%24.ct=4&%24.ce=5&%24.ctime=6&%"
                                   "24.exp=7&%24.to=8&"
                                   "%24.sub=9&%24.ifid=10&%24.on=11&%24.schema=12&%24.other=13&b=%"
                                   "22%5C&a=&c"),
                .body = "x",
                .body_size = 1,
                .retain = true,
        };
        static const HubEventPlace place = { 3, INT64_MAX, INT64_MAX - 1,
                                             UINT64_C(1767251289123000) };
        static const char *const properties[][2] = {
                { "b", "\"\\" }, { "a", "" }, { "c", "" }, { "mqtt-retain", "true" }
        };
        _cleanup_(hub_event_scan_done) HubEventScan s = { 0 };
        _cleanup_free_ char *line = NULL, *again = NULL;
        size_t n;

        line = make_line(&e, &place, &n);
        again = make_line(&e, &place, &n);
        assert_ok(hub_event_scan(&s, line, n));
        assert_text(s.event.device_id, "d-1");
        assert_text(s.event.module_id, "m:1");
        assert_text(s.event.generation_id, "639311608842312430");
        assert_text(s.event.model_id, "dtmi:com:example:Thing;1");
        ck_assert_mem_eq(&s.event.auth, &e.auth, sizeof(e.auth));
        ck_assert_uint_eq(s.event.place.partition, place.partition);
        ck_assert_int_eq(s.event.place.sequence, place.sequence);
        ck_assert_int_eq(s.event.place.offset, place.offset);
        ck_assert_uint_eq(s.event.place.enqueued_usec, place.enqueued_usec);
        for (HubSystemProperty i = 0; i < _HUB_SYSTEM_MAX; i++) {
                char want[4];

                (void) snprintf(want, sizeof(want), "%u", (unsigned) i + 1);
                assert_text(s.event.system[i], want);
        }
        ck_assert_uint_eq(s.event.n_properties, ELEMENTSOF(properties));
        for (size_t i = 0; i < ELEMENTSOF(properties); i++) {
                assert_text(s.event.properties[i].name, properties[i][0]);
                assert_text(s.event.properties[i].value, properties[i][1]);
        }
        ck_assert_uint_eq(s.event.body_size, 1);

        assert_ok(hub_event_scan_place(&s, again, n));
        assert_text(s.event.device_id, "d-1");
        ck_assert_int_eq(s.event.place.offset, place.offset);
}

/* A text of characters that JSON, UTF-8 or the bag treat in their own ways. */
static void random_text(Random *random, char *out, size_t pieces) {
        static const char *const some[] = {
                "a",    "\"",   "\\",       "/",        "\n",           "\x01",
                "\x1f", "\x7f", "\xc2\x80", "\xc2\x9f", "\xc2\xa0",     "\xc3\xbf",
                "u00",  "}",    "{",        ",",        "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                "%",    "&",    "=",        "\":\""
        };

        *out = '\0';
        for (size_t i = random_below(random, pieces + 1); i > 0; i--)
                strcat(out, some[random_below(random, ELEMENTSOF(some))]);
}

TEST(random_events_come_back_as_another_parser_reads_them) {
        _cleanup_(hub_event_scan_done) HubEventScan s = { 0 };
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 20000; i++) {
                _cleanup_(property_bag_done) PropertyBag bag = { 0 };
                _cleanup_free_ char *encoded = NULL, *line = NULL, *copy = NULL;
                _cleanup_json_ struct json_object *o = NULL;
                struct json_object *properties;
                char body[512];
                HubEvent e = { .device_id = "d", .body = body };
                HubEventPlace place = { .sequence = i, .offset = i };
                size_t n, size;
                const char *text;

                for (uint64_t k = random_below(&random, 40); k > 0; k--) {
                        char name[128], value[128];

                        random_text(&random, name, 12);
                        random_text(&random, value, 12);
                        assert_ok(property_bag_add(&bag, name, value));
                }
                assert_ok(property_bag_encode(&bag, &encoded, &e.bag_size));
                e.bag = encoded;
                random_text(&random, body, 40);
                e.body_size = strlen(body);

                line = make_line(&e, &place, &n);
                copy = strndup(line, n);
                o = json_tokener_parse(copy);
                ck_assert_ptr_nonnull(o);
                assert_ok(hub_event_scan(&s, line, n));
                ck_assert_uint_eq(s.event.body_size, e.body_size);
                ck_assert_mem_eq(s.event.body, body, e.body_size);
                ck_assert_int_eq(json_get_object(o, "properties", &properties), 1);
                ck_assert_uint_eq(s.event.n_properties,
                                  (size_t) json_object_object_length(properties));
                for (size_t k = 0; k < s.event.n_properties; k++) {
                        ck_assert_int_eq(json_get_string(properties,
                                                         s.event.properties[k].name.data, &text,
                                                         &size),
                                         1);
                        assert_text(s.event.properties[k].value, text);
                }
        }
}

TEST(bodies_of_any_bytes_come_back) {
        _cleanup_(hub_event_scan_done) HubEventScan s = { 0 };
        Random random = { .state = test_seed() };

        for (unsigned i = 0; i < 3000; i++) {
                _cleanup_free_ char *line = NULL;
                uint8_t body[64];
                HubEvent e = { .device_id = "d", .bag = "", .body = body, .body_size = i % 64 };
                size_t n;

                for (size_t k = 0; k < sizeof(body); k++)
                        body[k] = (uint8_t) (i < 256 ? i :
                                                       random_u64(&random) & (i & 1 ? 0xff : 0x7f));
                line = make_line(&e, &(HubEventPlace){ 0 }, &n);
                assert_ok(hub_event_scan(&s, line, n));
                ck_assert_uint_eq(s.event.body_size, e.body_size);
                ck_assert_ptr_nonnull(s.event.body);
                ck_assert_mem_eq(s.event.body, body, e.body_size);
        }
}

static const HubEvent typical = { .device_id = "d1",
                                  .module_id = "m1",
                                  .generation = 7,
                                  .model_id = "dtmi:x;1",
                                  .bag = "%24.mid=m%221&a=%01&b=2",
                                  .bag_size = strlen("%24.mid=m%221&a=%01&b=2"),
                                  .body = "{\"a\":1}",
                                  .body_size = 7 };

TEST(a_line_cut_at_any_byte_is_none) {
        _cleanup_(hub_event_scan_done) HubEventScan s = { 0 };
        _cleanup_free_ char *whole = NULL;
        size_t n;

        whole = make_line(&typical, &(HubEventPlace){ .offset = 12 }, &n);
        for (size_t k = 0; k < n; k++) {
                _cleanup_free_ char *line = malloc(MAX(k, 1U));

                ck_assert_ptr_nonnull(line);
                memcpy(line, whole, k);
                assert_error(hub_event_scan(&s, line, k), -EBADMSG);
        }
}

/* Changed text may be another event; it is never read past its end and never has a NUL in it. */
TEST(a_line_changed_at_any_byte_does_no_harm) {
        _cleanup_(hub_event_scan_done) HubEventScan s = { 0 };
        _cleanup_free_ char *whole = NULL;
        size_t n;

        whole = make_line(&typical, &(HubEventPlace){ .offset = 12 }, &n);
        for (size_t k = 0; k < n; k++)
                for (unsigned c = 0; c < 256; c++) {
                        _cleanup_free_ char *line = malloc(n);
                        int r;

                        ck_assert_ptr_nonnull(line);
                        memcpy(line, whole, n);
                        line[k] = (char) c;
                        r = hub_event_scan(&s, line, n);
                        ck_assert_int_eq(r == 0 || r == -EBADMSG, 1);
                        if (r < 0)
                                continue;
                        ck_assert_uint_eq(strlen(s.event.device_id.data), s.event.device_id.size);
                        for (size_t i = 0; i < s.event.n_properties; i++)
                                ck_assert_uint_eq(strlen(s.event.properties[i].value.data),
                                                  s.event.properties[i].value.size);
                }
}

TEST(text_that_json_allows_and_we_do_not_write_is_refused) {
        static const char *const bad[] = {
                "{}",
                "{\"deviceId\": \"d\"}",
                "{\"deviceId\":\"d\",\"partition\":00,\"sequenceNumber\":0,\"offset\":\"0\"",
                "{\"deviceId\":\"d\",\"partition\":0,\"sequenceNumber\":-1,\"offset\":\"0\"",
                "{\"deviceId\":\"d\",\"partition\":0,\"sequenceNumber\":9223372036854775808,"
                "\"offset\":\"0\"",
                "{\"deviceId\":\"\\u0000\",\"partition\":0,\"sequenceNumber\":0,\"offset\":\"0\","
                "\"enqueuedTime\":\"2026-01-01T07:08:09.123Z\"",
                "{\"deviceId\":\"d\",\"partition\":0,\"sequenceNumber\":0,\"offset\":\"0\","
                "\"enqueuedTime\":\"2026-02-30T07:08:09.123Z\"",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_(hub_event_scan_done) HubEventScan s = { 0 };
                _cleanup_free_ char *line = strdup(bad[i]);

                assert_error(hub_event_scan_place(&s, line, strlen(line)), -EBADMSG);
        }
}
