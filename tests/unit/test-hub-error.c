/* Goal: every error of a hub is understood in each shape, and has a meaning and an exit code; --verbose
 * shows no secret. Method: the table itself, each code in each shape of body; texts with secrets. */
#include "client/hub-error.h"
#include "client/http-trace.h"
#include "client/output.h"
#include "lib/hub-code.h"
#include "tests/support/test.h"

static void assert_understood(long status, const char *header, const char *body, unsigned code,
                         const char *text, const char *tracking) {
        _cleanup_(hub_error_done) HubError e = {};

        assert_ok(hub_error_parse(status, header, body, strlen(body), &e));
        ck_assert_msg(e.rule->code == code, "%s: %u, not %u", body, e.rule->code, code);
        ck_assert_str_eq(strempty(e.text), text);
        ck_assert_str_eq(strempty(e.tracking_id), tracking);
}

TEST(every_code_is_found_in_every_shape) {
        for (const HubErrorRule *r = hub_error_rules; r->code; r++) {
                const char *name = hub_code_to_name(r->code);
                long status = r->code / 1000;
                char body[512], inner[256];

                ck_assert(r->code >= 400000 && r->code < 600000);
                ck_assert(name && *name && *r->meaning && r->exit_code > 0);
                ck_assert_ptr_eq(hub_error_find(r->code, NULL), r);
                ck_assert_ptr_eq(hub_error_find(0, name), r);

                snprintf(body, sizeof(body),
                         "{\"Message\":\"ErrorCode:%s;text\",\"ExceptionMessage\":\"Tracking ID:t-1\"}", name);
                assert_understood(status, NULL, body, r->code, "text", "t-1");
                assert_understood(status, name, "", r->code, "", "");
                snprintf(body, sizeof(body), "{\"errorCode\":%u,\"message\":\"m\",\"trackingId\":\"t\"}", r->code);
                assert_understood(status, NULL, body, r->code, "m", "t");
                snprintf(inner, sizeof(inner), "{\\\"errorCode\\\":%u,\\\"trackingId\\\":\\\"t\\\",\\\"message\\\":\\\"m\\\"}",
                         r->code);
                snprintf(body, sizeof(body), "{\"Message\":\"%s\",\"ExceptionMessage\":\"\"}", inner);
                assert_understood(status, NULL, body, r->code, "m", "t");
                snprintf(body, sizeof(body), "{\"errorCode\":\"%s\",\"message\":\"m\"}", name);
                assert_understood(status, NULL, body, r->code, "m", "");
        }
}

TEST(every_condition_of_amqp_has_a_remedy) {
        static const char *const needed[] = { "amqp:not-found", "amqp:not-allowed", "amqp:decode-error",
                                              "amqp:not-implemented", "amqp:link:stolen",
                                              "com.microsoft:entity-disabled", "com.microsoft:argument-error" };
        size_t n = 0;

        for (const char *name; (name = hub_error_condition(n)); n++) {
                const HubErrorRule *r = hub_error_of_condition(name);

                ck_assert_msg(*r->meaning && r->remedy && r->exit_code > 0, "%s", name);
                ck_assert_ptr_eq(hub_error_find_condition(name), r);
        }
        for (size_t i = 0; i < ELEMENTSOF(needed); i++)
                ck_assert_msg(hub_error_find_condition(needed[i]), "%s", needed[i]);
        ck_assert_ptr_null(hub_error_find_condition("amqp:no-such-thing"));
        ck_assert_ptr_null(hub_error_find_condition(""));
        ck_assert_ptr_nonnull(hub_error_of_condition("amqp:no-such-thing")->remedy);
        ck_assert_ptr_nonnull(hub_error_of_condition("")->remedy);
}

TEST(what_is_not_understood_is_told_by_its_status) {
        static const char *const bodies[] = { "", "<html>x</html>", "[1", "{\"Message\":5}", "{}", "null",
                                              "{\"errorCode\":true}", "a\nb" };

        for (size_t i = 0; i < ELEMENTSOF(bodies); i++) {
                assert_understood(404, NULL, bodies[i], 404000, "", "");
                assert_understood(418, NULL, bodies[i], 400000, "", "");
                assert_understood(599, NULL, bodies[i], 500000, "", "");
                assert_understood(302, NULL, bodies[i], 0, "", "");
        }
        assert_understood(400, NULL, "{\"errorCode\":400999,\"message\":\"m\"}", 400000, "m", "");
        assert_understood(404, NULL, "{\"errorCode\":404102,\"message\":\"m\"}", 404103, "m", "");
        assert_understood(502, NULL, "upstream is gone", 502000, "upstream is gone", "");
        assert_understood(401, "IotHubUnauthorized", "{\"Message\":\"ErrorCode:\"}", 401003, "", "");
}

static void assert_trace(const char *text, const char *want) {
        _cleanup_(buffer_done) Buffer out = {};

        assert_ok(http_trace_body(&out, "> ", text, strlen(text)));
        assert_ok(buffer_append(&out, "", 1));
        ck_assert_str_eq((const char *) out.data, want);
}

TEST(secrets_are_struck_out) {
        _cleanup_(buffer_done) Buffer out = {};
        static const char line[] = "Authorization: SharedAccessSignature sr=h&sig=abc%3D&se=1&skn=o";

        assert_ok(http_trace_header(&out, "> ", line, strlen(line)));
        assert_ok(buffer_append(&out, "", 1));
        ck_assert_str_eq((const char *) out.data,
                         "> Authorization: SharedAccessSignature sr=h&sig=***&se=1&skn=o\n");
        assert_trace("{\"primaryKey\":\"abc=\",\"x\":\"y\"}", "> {\"primaryKey\":\"***\",\"x\":\"y\"}\n");
        assert_trace("{\"secondaryKey\" : \"a\\\"bc\"}", "> {\"secondaryKey\" : \"***\"}\n");
        assert_trace("{\"primaryKey\":null}", "> {\"primaryKey\":null}\n");
        assert_trace("{\"primaryKey\":\"cut", "> {\"primaryKey\":\"***\n");
        assert_trace("HostName=h;SharedAccessKey=abc=;x", "> HostName=h;SharedAccessKey=***;x\n");
        assert_trace("design=5 SIG=x", "> design=5 SIG=***\n");
        assert_trace("a\nb\n", "> a\n> b\n");
        assert_trace("", "");
}

static void assert_header(const char *line, const char *want) {
        _cleanup_(buffer_done) Buffer out = {};

        assert_ok(http_trace_header(&out, "* ", line, strlen(line)));
        assert_ok(buffer_append(&out, "", 1));
        ck_assert_str_eq((const char *) out.data, want);
}

TEST(the_password_of_a_proxy_is_struck_out) {
        assert_header("Uses proxy env variable https_proxy == 'http://me:it's p@ss@10.0.0.1:3128'",
                      "* Uses proxy env variable https_proxy == 'http://***@10.0.0.1:3128'\n");
        assert_header("Uses proxy env variable https_proxy == 'http://10.0.0.1:3128/a@b'",
                      "* Uses proxy env variable https_proxy == 'http://10.0.0.1:3128/a@b'\n");
        assert_header("Uses proxy env variable ALL_PROXY == 'me:p@ss@10.0.0.1:3128'",
                      "* Uses proxy env variable ALL_PROXY == '***@10.0.0.1:3128'\n");
        assert_header("proxy-authorization: Basic bWU6cHc=", "* Proxy-Authorization: ***\n");
        assert_header("x://", "* x://\n");
}

TEST(a_long_body_is_cut_short) {
        _cleanup_(buffer_done) Buffer out = {};
        _cleanup_free_ char *body = malloc(100000);

        memset(body, 'x', 100000);
        assert_ok(http_trace_body(&out, "< ", body, 100000));
        ck_assert_uint_lt(out.size, 20000);
        ck_assert(memmem(out.data, out.size, "bytes more", 10));
}
