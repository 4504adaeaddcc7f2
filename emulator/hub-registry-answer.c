#include <openssl/rand.h>

#include "emulator/hub-registry-private.h"
#include "lib/base64.h"
#include "lib/hub-code.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"

#define TWIN_ETAG_BYTES 8U
#define BODY_DEPTH_MAX 32

void registry_answer_init(RegistryAnswer *a) {
        uint8_t id[16] = { 0 };
        char hex[33];

        (void) RAND_bytes(id, sizeof(id)); /* an id of zeros serves as well */
        (void) format_id128(id, hex);
        *a = (RegistryAnswer) { 0 };
        (void) snprintf(a->request_id, sizeof(a->request_id), "%.8s-%.4s-%.4s-%.4s-%.12s", hex,
                        hex + 8, hex + 12, hex + 16, hex + 20); /* fits */
}

void registry_answer_done(RegistryAnswer *a) {
        json_object_put(a->body);
        free(a->etag);
        free(a->continuation);
        a->body = NULL;
        a->etag = a->continuation = NULL;
}

/* The digits of the request's id and the time, as the hub's front end writes them. */
static int tracking_id(const RegistryAnswer *a, char **ret) {
        time_t now = (time_t) (now_usec(CLOCK_REALTIME) / USEC_PER_SEC);
        char digits[33], stamp[32];
        size_t n = 0;
        struct tm tm;

        for (const char *p = a->request_id; *p && n < sizeof(digits) - 1; p++)
                if (*p != '-')
                        digits[n++] = *p;
        digits[n] = '\0';
        (void) strftime(stamp, sizeof(stamp), "%m/%d/%Y %H:%M:%S", gmtime_r(&now, &tm)); /* fits */
        return format_string(ret, "%s-G:0-TimeStamp:%s", digits, stamp);
}

static int set_error(RegistryAnswer *a, unsigned status, const char *name, struct json_object *body) {
        registry_answer_done(a);
        a->status = status;
        a->error = name;
        a->item_type = NULL;
        a->body = body;
        return body ? 0 : -ENOMEM;
}

static struct json_object *envelope(const char *message, const char *exception) {
        struct json_object *o = json_object_new_object();

        if (!o || json_add_string(o, "Message", message) < 0 ||
            json_add_string(o, "ExceptionMessage", exception) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

int registry_error(RegistryAnswer *a, unsigned status, const char *name, const char *format, ...) {
        _cleanup_free_ char *text = NULL, *message = NULL, *tracking = NULL, *exception = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(&text, format, ap);
        va_end(ap);
        if (r >= 0)
                r = format_string(&message, "ErrorCode:%s;%s", name, text);
        if (r >= 0)
                r = tracking_id(a, &tracking);
        if (r >= 0)
                r = format_string(&exception, "Tracking ID:%s", tracking);
        return r < 0 ? r : set_error(a, status, name, envelope(message, exception));
}

/* Seen: the order is another one where it is the whole body. */
static struct json_object *code_body(bool nested, unsigned code, const char *tracking,
                                     const char *text) {
        struct json_object *o = json_object_new_object();
        char stamp[FORMAT_TIMESTAMP_MAX];

        format_timestamp(stamp, sizeof(stamp), now_usec(CLOCK_REALTIME));
        if (!o || json_add_u64(o, "errorCode", code) < 0 ||
            (nested && json_add_string(o, "trackingId", tracking) < 0) ||
            json_add_string(o, "message", text) < 0 ||
            (!nested && json_add_string(o, "trackingId", tracking) < 0) ||
            json_add_string(o, "timestampUtc", stamp) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

int registry_error_code(RegistryAnswer *a, bool nested, const char *name, unsigned code,
                        const char *format, ...) {
        _cleanup_json_ struct json_object *o = NULL;
        _cleanup_free_ char *text = NULL, *tracking = NULL;
        const char *inner;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(&text, format, ap);
        va_end(ap);
        if (r >= 0)
                r = tracking_id(a, &tracking);
        if (r < 0)
                return r;
        o = code_body(nested, code, tracking, text);
        if (!nested || !o)
                return set_error(a, code / 1000, name, TAKE_PTR(o));
        inner = json_object_to_json_string_ext(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        return set_error(a, code / 1000, name, inner ? envelope(inner, "") : NULL);
}

int registry_error_number(RegistryAnswer *a, unsigned code, uint64_t retry_after_sec) {
        const char *name = hub_code_to_name(code);
        int r;

        /* Seen on hubs: methods and modules speak in numbers. */
        if (!name || code / 100 == 4041 || code == 504101 || code == 409301)
                r = registry_error_code(a, /* nested= */ true, name, code, "As requested by ctl https.");
        else if (code / 1000 == 429)
                r = registry_error(a, 429, name,
                                   "The request has been throttled. Wait %" PRIu64
                                   " seconds and try again. Operation type: CRUD",
                                   retry_after_sec ? retry_after_sec : 10);
        else
                r = registry_error(a, code / 1000, name, "As requested by ctl https.");
        a->retry_after_sec = retry_after_sec;
        return r;
}

static int not_found(RegistryAnswer *a, const RegistryCall *c) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        int r;

        if (!c->module)
                return registry_error(a, 404, "DeviceNotFound", "%s", c->device);
        r = hub_device_get(c->hub, c->device, NULL, &d);
        if (r == -ENOMEM)
                return r;
        /* Seen on hubs: what is missing is the device, and the answer speaks of the login. */
        if (r < 0)
                return registry_error(a, 401, "IotHubUnauthorizedAccess", "Unauthorized");
        return registry_error(a, 404, "ModuleNotFound", "%s", c->module);
}

static int exists(RegistryAnswer *a, const RegistryCall *c) {
        if (c->module)
                return registry_error_code(a, /* nested= */ false, "ModuleAlreadyExistsOnDevice",
                                           409301, "Device %s in IotHub %s already contains Module %s.",
                                           c->device, hub_host(c->hub), c->module);
        return registry_error(a, 409, "DeviceAlreadyExists",
                              "A device with ID '%s' is already registered.", c->device);
}

int registry_failure(RegistryAnswer *a, int error, const RegistryCall *c, uint64_t existing) {
        switch (error) {
        case -ENOENT: return not_found(a, c);
        case -EEXIST: return exists(a, c);
        case -ESTALE:
                return registry_error(a, 412, "PreconditionFailed",
                                      "Precondition failed: Device version did not match, "
                                      "existingVersion:%" PRIu64 " newVersion:%" PRIu64,
                                      existing, c->if_match.etag);
        case -EOVERFLOW:
                if (c->module)
                        return registry_error(a, 413, "TooManyModulesOnDevice",
                                              "The device holds no more modules.");
                return registry_error(a, 413, "TooManyDevices", "The hub holds no more devices.");
        case -EINVAL:
                return registry_error(a, 400, "InvalidDeviceScope",
                                      "The deviceScope of an edge device cannot change.");
        case -ENOMEM: return error;
        default: return registry_error(a, 500, "ServerError", "%s", strerror(-error));
        }
}

int registry_parse_body(const RegistryCall *c, enum json_type type, RegistryAnswer *a,
                        struct json_object **ret) {
        const char *text = c->body->data ? (const char *) c->body->data : "";
        struct json_tokener *t = json_tokener_new_ex(BODY_DEPTH_MAX);
        struct json_object *o;
        size_t end;
        int r;

        if (!t)
                return -ENOMEM;
        o = json_tokener_parse_ex(t, text, (int) c->body->size);
        end = json_tokener_get_parse_end(t);
        json_tokener_free(t);
        while (end < c->body->size && strchr(" \t\r\n", text[end]))
                end++;
        if (!o || end != c->body->size || !json_object_is_type(o, type)) {
                json_object_put(o);
                r = registry_error(a, 400, "IotHubFormatError", "The body is no JSON %s.",
                                   type == json_type_array ? "array" : "object");
                return r < 0 ? r : 0;
        }
        *ret = o;
        return 1;
}

/* Eight bytes, the highest first, in base64. */
static uint64_t parse_twin_etag(const char *s) {
        _cleanup_free_ void *bytes = NULL;
        uint64_t etag = 0;
        size_t n;

        if (base64_decode(s, strlen(s), &bytes, &n) < 0 || n != TWIN_ETAG_BYTES)
                return 0;
        for (size_t i = 0; i < n; i++)
                etag = etag << 8 | ((const uint8_t *) bytes)[i];
        return etag;
}

int registry_condition_read(const char *text, RegistryCondition *ret) {
        _cleanup_free_ char *bare = NULL;
        RegistryCondition c = { 0 };
        size_t n;

        if (text) {
                n = strlen(text);
                if (n >= 2 && text[0] == '"' && text[n - 1] == '"') {
                        text++;
                        n -= 2;
                }
                bare = strndup(text, n);
                if (!bare)
                        return -ENOMEM;
                c.given = n > 0;
                c.any = streq(bare, "*");
                if (hub_etag_parse(bare, &c.etag) < 0)
                        c.etag = 0;
                c.twin_etag = parse_twin_etag(bare);
        }
        *ret = c;
        return 0;
}

const uint64_t *registry_condition_etag(const RegistryCondition *c) {
        return c->any ? NULL : &c->etag;
}
