#include "emulator/hub-registry.h"

#include <assert.h>
#include <ctype.h>
#include <signal.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <microhttpd.h>
#include <openssl/rand.h>

#include "emulator/hub-access.h"
#include "lib/fd-util.h"
#include "lib/hub-topic.h"
#include "lib/parse-util.h"
#include "lib/property-bag.h"
#include "lib/string-util.h"

#define BODY_BYTES_MAX (256U * 1024U)
#define LIST_MAX 1000U
#define CONNECTIONS_MAX 512U
#define IDLE_TIMEOUT_SEC 120U
#define API_VERSION_MIN "2016-02-03" /* the oldest that the hub still takes */

struct HubRegistry {
        Hub *hub;
        struct MHD_Daemon *daemon;
};

typedef struct Request {
        char *method, *path;
        Buffer body;
        bool too_large;
} Request;

typedef struct Answer {
        unsigned status;
        struct json_object *body; /* owned; NULL: none */
        const char *error;        /* iothub-errorcode; NULL: success */
        char *etag;               /* owned; NULL: no header */
} Answer;

static void answer_done(Answer *a) {
        json_object_put(a->body);
        free(a->etag);
        *a = (Answer) { 0 };
}

static void format_request_id(char hex[static 33]) {
        uint8_t id[16] = { 0 };

        (void) RAND_bytes(id, sizeof(id)); /* an id of zeros serves as well */
        (void) format_id128(id, hex);
}

/* {"Message":"ErrorCode:NAME;text","ExceptionMessage":"Tracking ID:...-TimeStamp:..."} */
static int answer_error(Answer *a, unsigned status, const char *name, const char *format, ...)
                _printf_(4, 5);
static int answer_error(Answer *a, unsigned status, const char *name, const char *format, ...) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        _cleanup_free_ char *text = NULL, *message = NULL, *tracking = NULL;
        time_t now = (time_t) (now_usec(CLOCK_REALTIME) / USEC_PER_SEC);
        char id[33], stamp[32];
        struct tm tm;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(&text, format, ap);
        va_end(ap);
        if (r < 0)
                return r;
        if (asprintf(&message, "ErrorCode:%s;%s", name, text) < 0) {
                message = NULL;
                return -ENOMEM;
        }
        format_request_id(id);
        (void) strftime(stamp, sizeof(stamp), "%m/%d/%Y %H:%M:%S", gmtime_r(&now, &tm)); /* fits */
        if (asprintf(&tracking, "Tracking ID:%s-TimeStamp:%s", id, stamp) < 0) {
                tracking = NULL;
                return -ENOMEM;
        }
        if (!o || json_add_string(o, "Message", message) < 0 ||
            json_add_string(o, "ExceptionMessage", tracking) < 0)
                return -ENOMEM;

        answer_done(a);
        *a = (Answer) { .status = status, .error = name, .body = TAKE_PTR(o) };
        return 0;
}

static int answer_device(Answer *a, const HubDevice *d, bool with_z) {
        _cleanup_free_ char *etag = NULL;
        int r;

        r = hub_etag_format(d->etag, &etag);
        if (r < 0)
                return r;
        if (asprintf(&a->etag, "\"%s\"", etag) < 0) {
                a->etag = NULL;
                return -ENOMEM;
        }
        a->status = MHD_HTTP_OK;
        return hub_device_to_json(d, with_z, &a->body);
}

/* If-Match. */
typedef struct Condition {
        bool given; /* an empty one counts as none: a client sends it on create */
        bool any;
        uint64_t etag; /* 0, which no device has, where the text is no etag of ours */
} Condition;

static int read_condition(const char *text, Condition *ret) {
        _cleanup_free_ char *bare = NULL;
        Condition c = { 0 };
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
        }
        *ret = c;
        return 0;
}

static const uint64_t *if_etag(const Condition *c) {
        return c->any ? NULL : &c->etag;
}

/* What the calls of the registry share when they fail. */
static int answer_failure(Answer *a, int error, const char *id, const Condition *c,
                          uint64_t existing) {
        switch (error) {
        case -ENOENT: return answer_error(a, MHD_HTTP_NOT_FOUND, "DeviceNotFound", "%s", id);
        case -EEXIST:
                return answer_error(a, MHD_HTTP_CONFLICT, "DeviceAlreadyExists",
                                    "A device with ID '%s' is already registered.", id);
        case -ESTALE:
                return answer_error(a, MHD_HTTP_PRECONDITION_FAILED, "PreconditionFailed",
                                    "Precondition failed: Device version did not match, "
                                    "existingVersion:%" PRIu64 " newVersion:%" PRIu64,
                                    existing, c->etag);
        case -EOVERFLOW:
                return answer_error(a, MHD_HTTP_FORBIDDEN, "TooManyDevices",
                                    "The hub holds no more devices.");
        case -ENOMEM: return error;
        default:
                return answer_error(a, MHD_HTTP_INTERNAL_SERVER_ERROR, "ServerError", "%s",
                                    strerror(-error));
        }
}

static int get_device(HubRegistry *r, const char *id, Answer *a) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        int k;

        k = hub_device_get(r->hub, id, &d);
        if (k < 0)
                return answer_failure(a, k, id, NULL, 0);
        return answer_device(a, &d, /* with_z= */ true);
}

static int parse_body(const Request *q, struct json_object **ret) {
        struct json_tokener *t;
        struct json_object *o;
        size_t end;

        t = json_tokener_new();
        if (!t)
                return -ENOMEM;
        o = json_tokener_parse_ex(t, q->body.data ? (const char *) q->body.data : "",
                                  (int) q->body.size);
        end = json_tokener_get_parse_end(t);
        json_tokener_free(t);
        while (end < q->body.size && strchr(" \t\r\n", q->body.data[end]))
                end++;
        if (!o || end != q->body.size || !json_object_is_type(o, json_type_object)) {
                json_object_put(o);
                return -EINVAL;
        }
        *ret = o;
        return 0;
}

static int put_device(HubRegistry *r, const Request *q, const char *id, const Condition *c,
                      Answer *a) {
        _cleanup_(hub_device_done) HubDevice wanted = { 0 }, made = { 0 };
        _cleanup_json_ struct json_object *body = NULL;
        const char *reason;
        uint64_t existing = 0;
        int k;

        k = parse_body(q, &body);
        if (k == -EINVAL)
                return answer_error(a, MHD_HTTP_BAD_REQUEST, "IotHubFormatError",
                                    "The body is no JSON object.");
        if (k < 0)
                return k;
        k = hub_device_from_json(body, &wanted, &reason);
        if (k == -EINVAL)
                return answer_error(a, MHD_HTTP_BAD_REQUEST, "ArgumentInvalid", "%s", reason);
        if (k < 0)
                return k;
        if (!streq(wanted.id, id))
                return answer_error(a, MHD_HTTP_BAD_REQUEST, "ArgumentInvalid",
                                    "The deviceId of the body is not that of the path.");

        if (c->given)
                k = hub_device_update(r->hub, &wanted, if_etag(c), &made, &existing);
        else
                k = hub_device_create(r->hub, &wanted, &made);
        if (k < 0)
                return answer_failure(a, k, id, c, existing);
        return answer_device(a, &made, /* with_z= */ c->given);
}

static int delete_device(HubRegistry *r, const char *id, const Condition *c, Answer *a) {
        uint64_t existing = 0;
        int k;

        if (!c->given)
                return answer_error(a, MHD_HTTP_PRECONDITION_FAILED, "PreconditionFailed",
                                    "Etag missing");
        k = hub_device_delete(r->hub, id, if_etag(c), &existing);
        if (k < 0)
                return answer_failure(a, k, id, c, existing);
        a->status = MHD_HTTP_NO_CONTENT;
        return 0;
}

static int list_devices(HubRegistry *r, const char *top, Answer *a) {
        HubDevice *devices;
        uint64_t max = LIST_MAX;
        size_t n;
        int k;

        if (top && parse_u64_range(top, 1, LIST_MAX, &max) < 0)
                return answer_error(a, MHD_HTTP_BAD_REQUEST, "ArgumentInvalid",
                                    "top is not within 1..1000");
        k = hub_device_list(r->hub, max, &devices, &n);
        if (k < 0)
                return k;

        a->status = MHD_HTTP_OK;
        a->body = json_object_new_array_ext((int) n + 1);
        k = a->body ? 0 : -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                struct json_object *o;

                if (k >= 0)
                        k = hub_device_to_json(devices + i, /* with_z= */ true, &o);
                if (k >= 0 && json_object_array_add(a->body, o) < 0) {
                        json_object_put(o);
                        k = -ENOMEM;
                }
                hub_device_done(devices + i);
        }
        free(devices);
        return k;
}

static int get_statistics(HubRegistry *r, const char *what, Answer *a) {
        uint64_t enabled, disabled, connected;

        hub_device_count(r->hub, &enabled, &disabled, &connected);
        a->status = MHD_HTTP_OK;
        a->body = json_object_new_object();
        if (!a->body)
                return -ENOMEM;
        if (streq(what, "service"))
                return json_add_u64(a->body, "connectedDeviceCount", connected);
        if (json_add_u64(a->body, "totalDeviceCount", enabled + disabled) < 0 ||
            json_add_u64(a->body, "enabledDeviceCount", enabled) < 0)
                return -ENOMEM;
        return json_add_u64(a->body, "disabledDeviceCount", disabled);
}

/* "/devices/ID" and the like: the part behind prefix, decoded. 1, 0 (another path) or -ENOMEM. */
static int take_id(const char *path, const char *prefix, char **ret) {
        const char *rest = startswith(path, prefix);
        _cleanup_free_ char *id = NULL;
        size_t n;
        int r;

        if (!rest || !*rest || strchr(rest, '/'))
                return 0;
        r = percent_decode(rest, strlen(rest), &id, &n);
        if (r == -ENOMEM)
                return r;
        if (r < 0 || strlen(id) != n)
                return 0;
        *ret = TAKE_PTR(id);
        return 1;
}

typedef struct Context {
        struct MHD_Connection *connection;
        const Request *request;
} Context;

static const char *header(const Context *x, const char *name) {
        return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

static const char *argument(const Context *x, const char *name) {
        return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

/* 1 to go on, 0 when *a holds the refusal. */
static int check_access(HubRegistry *r, const Context *x, Answer *a) {
        const char *reason = "";
        HubRight right = streq(x->request->method, "GET") ? HUB_RIGHT_REGISTRY_READ
                                                          : HUB_RIGHT_REGISTRY_WRITE;
        int k;

        k = hub_access_service(r->hub, header(x, "Authorization"), x->request->path, right,
                               now_usec(CLOCK_REALTIME), &reason);
        if (k == -ENOMEM)
                return k;
        if (k < 0) {
                k = answer_error(a, MHD_HTTP_UNAUTHORIZED, "IotHubUnauthorizedAccess",
                                 "Unauthorized: %s", reason);
                return k < 0 ? k : 0;
        }
        return 1;
}

static bool is_api_version(const char *s) {
        static const char shape[] = "dddd-dd-dd";

        if (!s || strlen(s) < strlen(shape))
                return false;
        for (size_t i = 0; i < strlen(shape); i++)
                if (shape[i] == 'd' ? !isdigit((unsigned char) s[i]) : s[i] != shape[i])
                        return false;
        s += strlen(shape);
        return *s == '\0' || streq(s, "-preview");
}

static int route(HubRegistry *r, const Context *x, Answer *a) {
        const char *method = x->request->method, *path = x->request->path;
        _cleanup_free_ char *id = NULL;
        Condition c;
        int k;

        k = read_condition(header(x, "If-Match"), &c);
        if (k < 0)
                return k;
        k = take_id(path, "/devices/", &id);
        if (k < 0)
                return k;

        if (k > 0 && hub_device_id_check(id, false) < 0)
                return answer_error(a, MHD_HTTP_BAD_REQUEST, "ArgumentInvalid",
                                    "The device id holds characters that no id may have, or is too "
                                    "long.");
        if (k > 0 && streq(method, "GET"))
                return get_device(r, id, a);
        if (k > 0 && streq(method, "PUT"))
                return put_device(r, x->request, id, &c, a);
        if (k > 0 && streq(method, "DELETE"))
                return delete_device(r, id, &c, a);
        if (streq(method, "GET") && (streq(path, "/devices") || streq(path, "/devices/")))
                return list_devices(r, argument(x, "top"), a);
        if (streq(method, "GET") && streq(path, "/statistics/devices"))
                return get_statistics(r, "devices", a);
        if (streq(method, "GET") && streq(path, "/statistics/service"))
                return get_statistics(r, "service", a);
        return answer_error(a, MHD_HTTP_NOT_IMPLEMENTED, "OperationNotSupported",
                            "The emulator does not serve this call.");
}

static int handle(HubRegistry *r, const Context *x, Answer *a) {
        const char *version;
        int k;

        if (x->request->too_large)
                return answer_error(a, MHD_HTTP_CONTENT_TOO_LARGE, "MessageTooLarge",
                                    "The body is too large.");
        k = check_access(r, x, a);
        if (k <= 0)
                return k;
        version = argument(x, "api-version");
        if (!is_api_version(version) || strcmp(version, API_VERSION_MIN) < 0)
                return answer_error(a, MHD_HTTP_BAD_REQUEST, "InvalidProtocolVersion",
                                    "api-version is missing or unknown");
        return route(r, x, a);
}

static enum MHD_Result send_answer(struct MHD_Connection *connection, const Answer *a) {
        struct MHD_Response *response;
        const char *text = "";
        enum MHD_Result k = MHD_YES;
        char id[33];
        size_t n = 0;

        if (a->body)
                text = json_object_to_json_string_length(
                                a->body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE,
                                &n);
        response = text ? MHD_create_response_from_buffer(n, (void *) text, MHD_RESPMEM_MUST_COPY)
                        : NULL;
        if (!response)
                return MHD_NO;

        format_request_id(id);
        k = MHD_add_response_header(response, "x-ms-request-id", id);
        if (k == MHD_YES && a->body)
                k = MHD_add_response_header(response, "Content-Type",
                                            "application/json; charset=utf-8");
        if (k == MHD_YES && a->error)
                k = MHD_add_response_header(response, "iothub-errorcode", a->error);
        if (k == MHD_YES && a->etag)
                k = MHD_add_response_header(response, "ETag", a->etag);
        if (k == MHD_YES)
                k = MHD_queue_response(connection, a->status, response);
        MHD_destroy_response(response);
        return k;
}

static enum MHD_Result on_request(void *userdata, struct MHD_Connection *connection,
                                  const char *url, const char *method, const char *version,
                                  const char *upload, size_t *upload_size, void **state) {
        _cleanup_(answer_done) Answer a = { 0 };
        Request *q = *state;

        if (!q) {
                q = calloc(1, sizeof(*q));
                *state = q; /* on_completed() frees it */
                if (!q || !(q->method = strdup(method)) || !(q->path = strdup(url)))
                        return MHD_NO;
                return MHD_YES;
        }
        if (*upload_size > 0) {
                q->too_large = q->too_large || *upload_size > BODY_BYTES_MAX - q->body.size;
                if (!q->too_large && buffer_append(&q->body, upload, *upload_size) < 0)
                        return MHD_NO;
                *upload_size = 0;
                return MHD_YES;
        }
        if (handle(userdata, &(Context) { connection, q }, &a) < 0)
                return MHD_NO; /* out of memory: the connection closes */
        return send_answer(connection, &a);
}

static void on_completed(void *userdata, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code) {
        Request *q = *state;

        if (!q)
                return;
        if (q->body.data)
                explicit_bzero(q->body.data, q->body.size); /* it may hold keys */
        buffer_done(&q->body);
        free(q->method);
        free(q->path);
        free(q);
        *state = NULL;
}

/* Paths stay as sent: a %2F in an id is no slash, and tokens are compared with what was asked for.
 */
static size_t keep_escapes(void *userdata, struct MHD_Connection *connection, char *s) {
        return strlen(s);
}

static int listen_unix(const char *path) {
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (unlink(path) < 0 && errno != ENOENT)
                return -errno;
        if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
            listen(fd, SOMAXCONN) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int hub_registry_new(Hub *hub, const char *path, HubRegistry **ret) {
        _cleanup_close_ int fd = -EBADF;
        HubRegistry *r;
        sigset_t all, old;

        fd = listen_unix(path);
        if (fd < 0)
                return fd;
        r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        r->hub = hub;

        /* Signals belong to the broker's thread. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &old); /* with valid arguments it cannot fail */
        r->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, r,
                                     MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED,
                                     on_completed, NULL, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes,
                                     NULL, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
                                     MHD_OPTION_CONNECTION_TIMEOUT, IDLE_TIMEOUT_SEC,
                                     MHD_OPTION_END);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (!r->daemon) {
                free(r);
                return -EIO;
        }
        (void) TAKE_FD(fd); /* the daemon closes it */

        *ret = r;
        return 0;
}

HubRegistry *hub_registry_free(HubRegistry *r) {
        if (!r)
                return NULL;
        MHD_stop_daemon(r->daemon);
        free(r);
        return NULL;
}
