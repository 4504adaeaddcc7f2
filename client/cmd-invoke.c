/* What a service asks of a device at once: its methods. */
#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "lib/string-util.h"
#include "client/identity.h"
#include "client/output.h"
#include "client/twin-patch.h"

#define PAYLOAD_BYTES_MAX (128U * 1024U) /* the hub's limit, each way */
#define ANSWER_MARGIN_USEC (30 * USEC_PER_SEC)

typedef struct InvokeSettings {
        const char *module, *file;
        usec_t timeout_usec, connect_timeout_usec;
} InvokeSettings;

static const Option invoke_options[] = {
        { "module", 0, "ID", "A method of that module of the device", option_string,
          offsetof(InvokeSettings, module) },
        { "payload-file", 0, "PATH", "Read the payload from a file; \"-\": standard input",
          option_path, offsetof(InvokeSettings, file) },
        { "timeout", 0, "SPAN", "How long the device may take, 5s to 300s (default: 30s)",
          option_timespan, offsetof(InvokeSettings, timeout_usec) },
        { "connect-timeout", 0, "SPAN",
          "How long to wait for a device that is not connected, up to --timeout\n(default: 0s)",
          option_timespan, offsetof(InvokeSettings, connect_timeout_usec) },
        {},
};

static int check_settings(const InvokeSettings *s) {
        if (s->timeout_usec < 5 * USEC_PER_SEC || s->timeout_usec > 300 * USEC_PER_SEC) {
                say_error("--timeout: 5s to 300s");
                return EX_USAGE;
        }
        if (s->connect_timeout_usec > s->timeout_usec) {
                say_error("--connect-timeout: not more than --timeout");
                return EX_USAGE;
        }
        return EX_OK;
}

static int read_payload(const InvokeSettings *s, const char *argument, char **ret, size_t *ret_size) {
        int r;

        if (argument && s->file) {
                say_error("Either the payload or --payload-file");
                return EX_USAGE;
        }
        if (!s->file) {
                if (copy_string(ret, argument) < 0)
                        return say_out_of_memory();
                *ret_size = argument ? strlen(argument) : 0;
                return EX_OK;
        }
        r = read_file(streq(s->file, "-") ? "/dev/stdin" : s->file, PAYLOAD_BYTES_MAX, ret,
                      ret_size);
        if (r < 0) {
                say_error("Cannot read %s: %s", s->file,
                          r == -EFBIG ? "larger than 128 KiB" : strerror(-r));
                return r == -EFBIG ? EX_DATAERR : EX_NOINPUT;
        }
        return EX_OK;
}

/* The payload is any JSON value; without one there is no member. */
static int add_payload(struct json_object *body, const char *where, const char *text, size_t n) {
        struct json_object *payload = NULL;
        size_t at;
        int r;

        if (n > PAYLOAD_BYTES_MAX) {
                say_error("The payload is larger than 128 KiB");
                return EX_DATAERR;
        }
        r = json_value_parse(text, n, &payload, &at);
        if (r == -EINVAL) {
                say_error("%s is no JSON, at byte %zu; a text needs quotes: '\"on\"'", where, at);
                return EX_DATAERR;
        }
        if (r < 0 || json_object_object_add(body, "payload", payload) < 0) {
                json_object_put(payload);
                return say_out_of_memory();
        }
        return EX_OK;
}

static int make_call(const InvokeSettings *s, char **argv, int argc, struct json_object *body) {
        _cleanup_free_ char *payload = NULL;
        size_t n = 0;
        int r;

        r = read_payload(s, argc > 2 ? argv[2] : NULL, &payload, &n);
        if (r != EX_OK)
                return r;
        if (!body || json_add_string(body, "methodName", argv[1]) < 0 ||
            json_add_u64(body, "responseTimeoutInSeconds", s->timeout_usec / USEC_PER_SEC) < 0 ||
            json_add_u64(body, "connectTimeoutInSeconds", s->connect_timeout_usec / USEC_PER_SEC) < 0)
                return say_out_of_memory();
        return payload ? add_payload(body, s->file ? s->file : "The payload", payload, n) : EX_OK;
}

static int show_result(const Globals *g, struct json_object *o) {
        struct json_object *payload = NULL;
        int64_t status;

        if (!json_object_is_type(o, json_type_object) || json_get_i64(o, "status", &status) <= 0) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        if (g->json) {
                print_json(o);
                return EX_OK;
        }
        print_fieldf("status", "%" PRId64, status);
        if (json_object_object_get_ex(o, "payload", &payload) && payload)
                print_field("payload", json_object_to_json_string_ext(
                                               payload, JSON_C_TO_STRING_PLAIN |
                                                                JSON_C_TO_STRING_NOSLASHESCAPE));
        else
                print_field("payload", NULL);
        return EX_OK;
}

static int cmd_invoke(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_json_ struct json_object *body = json_object_new_object();
        _cleanup_(registry_answer_done) RegistryAnswer a = {};
        _cleanup_(hub_session_done) HubSession h = {};
        _cleanup_free_ char *twin = NULL, *path = NULL, *what = NULL;
        InvokeSettings s = { .timeout_usec = 30 * USEC_PER_SEC };
        IdentityName name;
        RegistryRequest q = { .method = "POST",
                              .body = body,
                              .repeat = REGISTRY_REPEAT_NEVER_AFTER_SENDING };
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        name = (IdentityName){ argv[0], s.module };
        r = identity_name_check(&name);
        if (r == EX_OK && !*argv[1]) {
                say_error("\"\" is no name of a method");
                r = EX_USAGE;
        }
        if (r == EX_OK)
                r = check_settings(&s);
        if (r == EX_OK)
                r = make_call(&s, argv, argc, body);
        if (r != EX_OK)
                return r;
        if (identity_path("twins", &name, &twin) < 0 || format_string(&path, "%s/methods", twin) < 0 ||
            format_string(&what, "Cannot invoke %s of %s%s%s", argv[1], argv[0], s.module ? "/" : "",
                          strempty(s.module)) < 0)
                return say_out_of_memory();
        q.path = path;
        q.what = what;
        q.module_of = s.module ? argv[0] : NULL;
        q.timeout_usec = s.timeout_usec + s.connect_timeout_usec + ANSWER_MARGIN_USEC;
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = registry_client_call(h.client, &q, &a);
        return r == EX_OK ? show_result(g, a.body) : r;
}

const Verb verb_invoke = {
        .hub = true,
        .name = "invoke",
        .arguments = "DEVICE METHOD [PAYLOAD]",
        .arguments_min = 2,
        .arguments_max = 3,
        .summary = "Call a method of a connected device and print its answer",
        .description = "PAYLOAD is JSON. Exit code 68 when the device is not connected, 75 when it does not answer\n"
                       "in time; the method may have run then. The call is never made twice by itself.",
        .options = invoke_options,
        .run = cmd_invoke,
};
