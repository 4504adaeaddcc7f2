#include "client/event-output.h"

#include "lib/json-text.h"
#include "client/event-filter.h"
#include "tests/support/test.h"

#define TEXT(s) { .type = AMQP_STRING, .bytes = { (const uint8_t *) (s), sizeof(s) - 1 } }
#define BYTES(s) ((AmqpBytes){ (const uint8_t *) (s), sizeof(s) - 1 })

/* {"iothub-connection-device-id": "windmill", "x-opt-sequence-number": 7, "iothub-enqueuedtime": ...} would be the
 * hub's; the maps of these events are a few bytes each, and their fields set by hand. */
static const char application[] = "\xa1\x08Property\xa1\x09PropMsg_1";

static Event event(AmqpBytes body) {
        Event e = {
                .partition = "0",
                .device = BYTES("windmill"),
                .enqueued_msec = INT64_C(1619976150288),
                .sequence = 7,
        };

        e.message.message_id = (AmqpValue) TEXT("message_1");
        e.message.correlation_id = (AmqpValue) TEXT("correlation_1");
        e.message.application_properties = (AmqpValue){
                .type = AMQP_MAP,
                .items = { { (const uint8_t *) application, sizeof(application) - 1 }, 2, 0 },
        };
        e.message.body = (AmqpValue){ .type = AMQP_BINARY, .described = true, .descriptor = 0x75, .bytes = body };
        e.message.body_is_data = true;
        return e;
}

static void assert_line(const Event *e, const EventFormat *f, const char *expected) {
        _cleanup_(buffer_done) Buffer b = {};

        assert_ok(event_format(e, f, &b));
        assert_ok(buffer_append(&b, "", 1));
        ck_assert_str_eq((char *) b.data, expected);
        if (f->json)
                ck_assert(json_text_is_valid((char *) b.data, b.size - 1, 16));
}

#define HEAD "2021-05-02T17:22:30.288Z windmill"
#define IDS " [message_id=message_1 correlation_id=correlation_1 Property=PropMsg_1]\n"

TEST(a_line_for_people_has_time_device_body_ids_and_properties) {
        Event e = event(BYTES("{\"windSpeed\":11.2}"));

        assert_line(&e, &(EventFormat){}, HEAD ": {\"windSpeed\":11.2}" IDS);
        e.module = BYTES("cam");
        assert_line(&e, &(EventFormat){}, HEAD "/cam: {\"windSpeed\":11.2}" IDS);
        e.message.message_id = e.message.correlation_id = e.message.application_properties = (AmqpValue){};
        assert_line(&e, &(EventFormat){}, HEAD "/cam: {\"windSpeed\":11.2}\n");
}

TEST(kinds_of_properties_take_a_line_each) {
        Event e = event(BYTES("x"));

        assert_line(&e, &(EventFormat){ .properties = EVENT_PROPERTIES_ALL },
                    HEAD ": x\n    system: message_id=message_1  correlation_id=correlation_1\n"
                         "    application: Property=PropMsg_1\n");
        assert_line(&e, &(EventFormat){ .properties = EVENT_PROPERTIES_APPLICATION },
                    HEAD ": x\n    application: Property=PropMsg_1\n");
}

/* Goal: no device drives the terminal of who watches it. */
TEST(control_characters_do_not_reach_people) {
        Event e = event(BYTES("a\nb\tc\033[31m\177\302\233x\302\240y"));

        e.device = BYTES("wind\033mill");
        assert_line(&e, &(EventFormat){}, "2021-05-02T17:22:30.288Z wind?mill: a b c?[31m???x\302\240y" IDS);
}

TEST(control_characters_are_escaped_in_json) {
        Event e = event(BYTES("{\"a\": \"\177\302\233\", \n \"b\":\t1}"));

        e.message.message_id = e.message.correlation_id = e.message.application_properties = (AmqpValue){};
        assert_line(&e, &(EventFormat){ .json = true, .properties = EVENT_PROPERTIES_SYSTEM },
                    "{\"event\":{\"origin\":\"windmill\",\"module\":\"\",\"interface\":\"\",\"component\":\"\","
                    "\"partition\":\"0\",\"properties\":{\"system\":{}},"
                    "\"payload\":{\"a\": \"\\u007f\\u009b\",   \"b\": 1}}}\n");
}

#define JSON_HEAD                                                                                  \
        "{\"event\":{\"origin\":\"windmill\",\"module\":\"\",\"interface\":\"\",\"component\":\"\",\"partition\":\"0\"," \
        "\"properties\":{\"application\":{\"Property\":\"PropMsg_1\"}},"

static void assert_payload(AmqpBytes body, const char *type, EventContent content, const char *expected) {
        Event e = event(body);
        char line[1024];

        if (type)
                e.message.content_type = (AmqpValue){ .type = AMQP_SYMBOL,
                                                      .bytes = { (const uint8_t *) type, strlen(type) } };
        (void) snprintf(line, sizeof(line), JSON_HEAD "%s}}\n", expected);
        assert_line(&e,
                    &(EventFormat){ .json = true,
                                    .content = content,
                                    .properties = EVENT_PROPERTIES_APPLICATION },
                    line);
}

TEST(a_body_is_json_where_it_says_so_or_looks_so) {
        assert_payload(BYTES("{\"a\":1}"), NULL, EVENT_CONTENT_AUTO, "\"payload\":{\"a\":1}");
        assert_payload(BYTES("{\"a\":1}"), "application/json", EVENT_CONTENT_AUTO, "\"payload\":{\"a\":1}");
        assert_payload(BYTES("{\"a\":1}"), "text/plain", EVENT_CONTENT_AUTO, "\"payload\":\"{\\\"a\\\":1}\"");
        assert_payload(BYTES("{\"a\":"), "application/json", EVENT_CONTENT_AUTO, "\"payload\":\"{\\\"a\\\":\"");
        assert_payload(BYTES("22.5"), NULL, EVENT_CONTENT_AUTO, "\"payload\":\"22.5\"");
        assert_payload(BYTES("22.5"), "application/json; charset=utf-8", EVENT_CONTENT_AUTO, "\"payload\":22.5");
        assert_payload(BYTES("22.5"), NULL, EVENT_CONTENT_JSON, "\"payload\":22.5");
        assert_payload(BYTES("{\"a\":1}"), "application/json", EVENT_CONTENT_TEXT,
                       "\"payload\":\"{\\\"a\\\":1}\"");
        assert_payload(BYTES("ab"), NULL, EVENT_CONTENT_BASE64, "\"payloadBase64\":\"YWI=\"");
        assert_payload(BYTES(""), NULL, EVENT_CONTENT_AUTO, "\"payload\":\"\"");
}

TEST(a_body_that_is_no_text_is_base64) {
        assert_payload(BYTES("\377\000x"), NULL, EVENT_CONTENT_AUTO, "\"payloadBase64\":\"/wB4\"");
        assert_payload(BYTES("\377\000x"), "application/json", EVENT_CONTENT_AUTO, "\"payloadBase64\":\"/wB4\"");
        assert_payload(BYTES("a\377\303\251\303"), NULL, EVENT_CONTENT_TEXT,
                       "\"payload\":\"a\\ufffd\303\251\\ufffd\"");
}

TEST(people_are_told_the_size_of_what_is_no_text) {
        Event e = event(BYTES("\377\000x"));

        assert_line(&e, &(EventFormat){}, HEAD ": (3 bytes, no text)" IDS);
        assert_line(&e, &(EventFormat){ .content = EVENT_CONTENT_TEXT }, HEAD ": ??x" IDS);
        e = event(BYTES("no json"));
        assert_line(&e, &(EventFormat){ .content = EVENT_CONTENT_JSON }, HEAD ": (7 bytes, no JSON)" IDS);
        e = event(BYTES(""));
        assert_line(&e, &(EventFormat){}, HEAD ": (empty)" IDS);
}

/* Goal: a huge body is cut for people, not within a character, and whole for programs. */
TEST(a_huge_body_is_cut_for_people_only) {
        const size_t n = 256 * 1024;
        _cleanup_(buffer_done) Buffer people = {}, json = {};
        _cleanup_free_ char *body = malloc(n);
        Event e;

        ck_assert_ptr_nonnull(body);
        for (size_t i = 0; i < n; i += 2)
                memcpy(body + i, "\303\251", 2);
        e = event((AmqpBytes){ (const uint8_t *) body, n });
        assert_ok(event_format(&e, &(EventFormat){}, &people));
        ck_assert_uint_lt(people.size, 4096);
        assert_ok(buffer_append(&people, "", 1));
        ck_assert_ptr_nonnull(strstr((char *) people.data, "\303\251... (262144 bytes)"));
        assert_ok(event_format(&e, &(EventFormat){ .json = true }, &json));
        ck_assert_uint_gt(json.size, n);
        ck_assert(json_text_is_valid((char *) json.data, json.size, 16));
}

TEST(the_names_of_kinds) {
        unsigned flags = 0;

        assert_ok(event_properties_from_string("system,annotations", &flags));
        ck_assert_uint_eq(flags, EVENT_PROPERTIES_SYSTEM | EVENT_PROPERTIES_ANNOTATIONS);
        assert_ok(event_properties_from_string("all", &flags));
        ck_assert_uint_eq(flags, EVENT_PROPERTIES_ALL);
        static const char *const bad[] = { "", ",", "system,", ",system", "systems", "all system" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(event_properties_from_string(bad[i], &flags), -EINVAL);
}

static bool shown(const char *pattern, AmqpBytes device, AmqpBytes module) {
        char *patterns[] = { (char *) pattern };
        Event e = { .device = device, .module = module };

        return event_filter_matches(patterns, 1, &e);
}

TEST(devices_are_chosen_by_name_and_wildcard) {
        ck_assert(shown("windmill", BYTES("windmill"), BYTES("")));
        ck_assert(shown("windmill", BYTES("windmill"), BYTES("cam")));
        ck_assert(!shown("windmill", BYTES("windmill2"), BYTES("")));
        ck_assert(!shown("windmill", BYTES("Windmill"), BYTES("")));
        ck_assert(shown("wind*", BYTES("windmill"), BYTES("")));
        ck_assert(shown("*mill", BYTES("windmill"), BYTES("")));
        ck_assert(shown("w*d*l*l", BYTES("windmill"), BYTES("")));
        ck_assert(!shown("w*x*", BYTES("windmill"), BYTES("")));
        ck_assert(shown("*", BYTES(""), BYTES("")));
        ck_assert(shown("a*b", BYTES("a*b"), BYTES("")));
        ck_assert(shown("windmill/cam", BYTES("windmill"), BYTES("cam")));
        ck_assert(shown("*/c*", BYTES("windmill"), BYTES("cam")));
        ck_assert(!shown("windmill/cam", BYTES("windmill"), BYTES("")));
        ck_assert(!shown("windmill/cam", BYTES("windmill"), BYTES("camera")));
        ck_assert(event_filter_matches(NULL, 0, &(Event){}));
}

TEST(a_device_of_many_stars_costs_no_exponent) {
        char id[129];

        memset(id, 'a', 128);
        id[128] = '\0';
        ck_assert(!shown("a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", (AmqpBytes){ (const uint8_t *) id, 128 },
                         BYTES("")));
}
