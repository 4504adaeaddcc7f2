#include "client/feedback.h"

#include "lib/json-util.h"
#include "client/amqp-endpoint.h"
#include "client/amqp-error.h"
#include "client/output.h"
#include "tests/support/test.h"

static FeedbackStatus status(const char *text) {
        _cleanup_json_ struct json_object *o = NULL;
        FeedbackRecord r;

        assert_ok(json_parse(text, strlen(text), 8, &o));
        feedback_record_read(o, &r);
        return r.status;
}

TEST(a_record_tells_its_status_by_name_number_or_description) {
        ck_assert_int_eq(status("{\"statusCode\":\"Success\"}"), FEEDBACK_SUCCESS);
        ck_assert_int_eq(status("{\"statusCode\":\"DeliveryCountExceeded\"}"), FEEDBACK_DELIVERY_COUNT_EXCEEDED);
        ck_assert_int_eq(status("{\"statusCode\":\"rejected\"}"), FEEDBACK_REJECTED);
        ck_assert_int_eq(status("{\"statusCode\":1,\"description\":\"Message expired\"}"), FEEDBACK_EXPIRED);
        ck_assert_int_eq(status("{\"description\":\"deliverycountexceeded\"}"), FEEDBACK_DELIVERY_COUNT_EXCEEDED);
        ck_assert_int_eq(status("{\"description\":\"Purged\"}"), FEEDBACK_PURGED);
        ck_assert_int_eq(status("{\"statusCode\":\"Lost\",\"description\":\"Success\"}"), FEEDBACK_UNKNOWN);
        ck_assert_int_eq(status("{\"statusCode\":99}"), FEEDBACK_UNKNOWN);
        ck_assert_int_eq(status("{}"), FEEDBACK_UNKNOWN);
}

TEST(a_record_of_other_types_is_no_harm) {
        _cleanup_json_ struct json_object *o = json_object_new_string("no object");
        FeedbackRecord r;

        feedback_record_read(o, &r);
        ck_assert_ptr_null(r.message_id);
        ck_assert_int_eq(status("{\"statusCode\":[],\"originalMessageId\":5,\"deviceId\":{}}"), FEEDBACK_UNKNOWN);
}

TEST(every_end_has_an_exit_code_of_its_own) {
        for (FeedbackStatus a = 0; a < _FEEDBACK_STATUS_MAX; a++)
                for (FeedbackStatus b = 0; b < a; b++)
                        ck_assert_int_ne(feedback_status_exit_code(a), feedback_status_exit_code(b));
}

/* Goal: what hubs redirect with leads to the place and the entity. The texts are those of public traces. */
TEST(a_redirect_is_taken_apart) {
        static const struct {
                const char *hostname, *network_host;
                unsigned port;
                const char *address, *host, *name, *entity;
                unsigned to_port;
        } table[] = {
                { "iothub-ns-pyot-500748-8fa45cb72e.servicebus.windows.net",
                  "iothub-ns-pyot-500748-8fa45cb72e.servicebus.windows.net", 5671,
                  "amqps://iothub-ns-pyot-500748-8fa45cb72e.servicebus.windows.net:5671/pyot/",
                  "iothub-ns-pyot-500748-8fa45cb72e.servicebus.windows.net",
                  "iothub-ns-pyot-500748-8fa45cb72e.servicebus.windows.net", "pyot", 5671 },
                { "ihsuprodblres076dednamespace.servicebus.windows.net",
                  "ihsuprodblres076dednamespace.servicebus.windows.net", 5671,
                  "amqps://ihsuprodblres076dednamespace.servicebus.windows.net:5671/"
                  "iothub-ehub-pf-test-hu-1005325-78b76d275b/$management",
                  "ihsuprodblres076dednamespace.servicebus.windows.net",
                  "ihsuprodblres076dednamespace.servicebus.windows.net",
                  "iothub-ehub-pf-test-hu-1005325-78b76d275b", 5671 },
                { "localhost:25671", "127.0.0.1", 25671, "amqps://localhost:25671/hub/$management", "127.0.0.1",
                  "localhost", "hub", 25671 },
                { "h", NULL, 0, "amqps://h/e", "h", "h", "e", 5671 },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(amqp_endpoint_done) AmqpEndpoint e = {};

                assert_ok(amqp_endpoint_parse(table[i].hostname, table[i].network_host, table[i].port,
                                              table[i].address, &e));
                ck_assert_str_eq(e.host, table[i].host);
                ck_assert_str_eq(e.name, table[i].name);
                ck_assert_str_eq(e.entity, table[i].entity);
                ck_assert_uint_eq(e.port, table[i].to_port);
        }
}

TEST(a_redirect_to_nowhere_is_refused) {
        AmqpEndpoint e = {};

        assert_error(amqp_endpoint_parse(NULL, "h", 5671, "amqps://h/e", &e), -EINVAL);
        assert_error(amqp_endpoint_parse("h", "h", 5671, NULL, &e), -EINVAL);
        assert_error(amqp_endpoint_parse("h", "h", 5671, "h/e", &e), -EINVAL);
        assert_error(amqp_endpoint_parse("h", "h", 5671, "amqps://h", &e), -EINVAL);
        assert_error(amqp_endpoint_parse("h", "h", 5671, "amqps://h//e", &e), -EINVAL);
        assert_error(amqp_endpoint_parse("h:x", NULL, 5671, "amqps://h/e", &e), -EINVAL);
}

TEST(a_condition_has_a_meaning_and_passes_or_not) {
        static const struct {
                const char *condition;
                bool passing;
                int exit_code;
        } table[] = {
                { "amqp:unauthorized-access", false, EX_NOPERM },
                { "amqp:not-found", false, EXIT_NOT_FOUND },
                { "amqp:connection:forced", true, EXIT_TRY_AGAIN },
                { "amqp:link:detach-forced", true, EXIT_TRY_AGAIN },
                { "amqp:link:stolen", false, EX_NOPERM },
                { "amqp:link:message-size-exceeded", false, EX_DATAERR },
                { "com.microsoft:server-busy", true, EXIT_TRY_AGAIN },
                { "com.microsoft:timeout", true, EXIT_TRY_AGAIN },
                { "com.microsoft:argument-error", false, EX_DATAERR },
                { "amqp:never-heard-of", false, EX_PROTOCOL },
                { NULL, true, EXIT_TRY_AGAIN },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                AmqpError e = { .host = "h", .port = 5671 };

                amqp_error_set_condition(&e, AMQP_STAGE_ATTACH, table[i].condition, "why");
                ck_assert_msg(e.set && e.passing == table[i].passing, "%s", strempty(table[i].condition));
                ck_assert_int_eq(e.exit_code, table[i].exit_code);
                ck_assert_ptr_nonnull(e.rule->meaning);
        }
}

TEST(the_first_error_counts) {
        AmqpError e = {};

        amqp_error_set(&e, AMQP_STAGE_TLS, EX_CONFIG, NULL, "first");
        amqp_error_set_condition(&e, AMQP_STAGE_OPEN, "amqp:connection:forced", "second");
        ck_assert_str_eq(e.text, "first");
        ck_assert_ptr_null(e.rule);
        ck_assert_int_eq(e.exit_code, EX_CONFIG);
}
