/* Direct methods: a call waits for the device's answer, and blocks nobody else meanwhile. */
#include "emulator/hub-registry-private.h"

#include "lib/hub-topic.h"

#define RESPONSE_SEC_MIN 5U
#define RESPONSE_SEC_MAX 300U
#define RESPONSE_SEC_DEFAULT 30U
#define CONNECT_SEC_MAX 300U
#define NAME_BYTES_MAX 100U
#define PAYLOAD_DEPTH_MAX 64

typedef struct Invocation {
        const char *name;
        const char *payload; /* text, or NULL: none */
        uint64_t response_sec, connect_sec;
} Invocation;

static bool is_name(const char *s, size_t n) {
        if (n == 0 || n > NAME_BYTES_MAX || strlen(s) != n)
                return false;
        for (; *s; s++)
                /* # and + would make another topic of it. */
                if (*s <= ' ' || *s > '~' || strchr("$()<>@,;:\\\"/[]?={}#+", *s))
                        return false;
        return true;
}

static const char *read_payload(struct json_object *o) {
        struct json_object *v;

        if (!json_object_object_get_ex(o, "payload", &v))
                return NULL;
        return v ? json_object_to_json_string_ext(
                                   v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) :
                   "null";
}

/* What is wrong with it, static; NULL: nothing. */
static const char *read_invocation(struct json_object *o, Invocation *ret) {
        size_t n;
        int r;

        *ret = (Invocation){ .response_sec = RESPONSE_SEC_DEFAULT };
        if (json_get_string(o, "methodName", &ret->name, &n) <= 0 || n == 0)
                return "methodName is null or empty."; /* as seen */
        if (!is_name(ret->name, n))
                return "methodName holds characters that it may not";
        r = json_get_u64(o, "responseTimeoutInSeconds", &ret->response_sec);
        if (r == 0)
                r = json_get_u64(o, "timeoutInSeconds", &ret->response_sec); /* of old clients */
        if (r < 0 || ret->response_sec < RESPONSE_SEC_MIN || ret->response_sec > RESPONSE_SEC_MAX)
                return "responseTimeoutInSeconds must be within [5; 300].";
        if (json_get_u64(o, "connectTimeoutInSeconds", &ret->connect_sec) < 0 ||
            ret->connect_sec > CONNECT_SEC_MAX)
                return "connectTimeoutInSeconds must be within [0; 300].";
        if (ret->connect_sec > ret->response_sec)
                return "connectTimeoutInSeconds is greater than responseTimeoutInSeconds";
        ret->payload = read_payload(o);
        return NULL;
}

static int answer_failure(RegistryAnswer *a, int error) {
        switch (error) {
        case -ENOTCONN:
                return registry_error_code(a, /* nested= */ true, "DeviceNotOnline", 404103,
                                           "The operation failed because the requested device "
                                           "isn't online or hasn't registered the direct method "
                                           "callback.");
        case -ETIMEDOUT:
                return registry_error_code(a, /* nested= */ true, "GatewayTimeout", 504101,
                                           "Timed out waiting for the response from device.");
        case -EBUSY:
                return registry_error_code(a, /* nested= */ true,
                                           "DeviceMaximumInflightMethodExceeded", 403800,
                                           "Too many methods of the device are open.");
        case -ECANCELED:
                return registry_error_code(a, /* nested= */ true, "ServiceUnavailable", 503000,
                                           "The hub is being stopped.");
        default: return error;
        }
}

static int answer_result(RegistryAnswer *a, unsigned status, const void *payload, size_t n) {
        struct json_object *value = NULL;
        int r = 0;

        if (n > 0)
                r = json_parse(payload, n, PAYLOAD_DEPTH_MAX, &value);
        if (r == -EBADMSG)
                return registry_error_code(a, /* nested= */ true, "GenericBadGateway", 502000,
                                           "The device's answer is no JSON.");
        if (r < 0)
                return r;
        a->status = 200;
        a->body = json_object_new_object();
        if (!a->body || json_add_u64(a->body, "status", status) < 0 ||
            json_object_object_add(a->body, "payload", value) < 0)
                return -ENOMEM;
        return 0;
}

/* From the broker's thread. */
static void on_done(int error, unsigned status, const void *payload, size_t n, void *userdata) {
        RegistryLater *later = userdata;
        int r;

        r = error < 0 ? answer_failure(&later->answer, error) :
                        answer_result(&later->answer, status, payload, n);
        registry_later_end(later, r);
}

static int start(const RegistryCall *c, const Invocation *i) {
        _cleanup_free_ char *client_id = NULL;
        HubMethodCall call = { .name = i->name,
                               .payload = i->payload,
                               .n = i->payload ? strlen(i->payload) : 0,
                               .response_usec = i->response_sec * USEC_PER_SEC,
                               .connect_usec = i->connect_sec * USEC_PER_SEC };
        int r;

        r = hub_client_id(c->device, c->module, &client_id);
        if (r < 0)
                return r;
        call.client_id = client_id;
        /* The answer may be there before hub_link_call() returns. */
        registry_later_begin(c->later);
        r = hub_link_call(c->link, &call, now_usec(CLOCK_MONOTONIC), on_done, c->later);
        if (r < 0)
                on_done(r, 0, NULL, 0, c->later);
        return -EINPROGRESS;
}

int registry_invoke(const RegistryCall *c, RegistryAnswer *a) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_json_ struct json_object *o = NULL;
        Invocation i;
        const char *bad;
        int r;

        r = registry_parse_body(c, json_type_object, a, &o);
        if (r <= 0)
                return r;
        bad = read_invocation(o, &i);
        if (bad)
                return registry_error_code(a, /* nested= */ true, "ArgumentInvalid", 400004, "%s",
                                           bad);
        if (i.payload && strlen(i.payload) > HUB_METHOD_PAYLOAD_MAX)
                return registry_error_code(a, /* nested= */ true, "MessageTooLarge", 413001,
                                           "The payload is over %u bytes.", HUB_METHOD_PAYLOAD_MAX);
        r = hub_device_get(c->hub, c->device, c->module, &d);
        return r < 0 ? registry_failure(a, r, c, 0) : start(c, &i);
}
