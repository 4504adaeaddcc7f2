/* The HTTP door: who may call what. What a call does is in hub-registry-*.c, which see no HTTP. */
#include "emulator/hub-registry.h"

#include <assert.h>
#include <ctype.h>
#include <pthread.h>
#include <signal.h>

#include <microhttpd.h>

#include "emulator/hub-access.h"
#include "emulator/hub-registry-private.h"
#include "lib/fd-util.h"
#include "lib/hub-topic.h"
#include "lib/property-bag.h"
#include "lib/string-util.h"

#define BODY_BYTES_MAX (1024U * 1024U) /* 100 items of a bulk call, with twins */
#define CONNECTIONS_MAX 512U
#define IDLE_TIMEOUT_SEC 120U
#define API_VERSION_MIN "2016-02-03" /* the oldest that the hub still takes */

struct HubRegistry {
        Hub *hub;
        HubLink *link;
        HubTroubles *troubles;
        struct MHD_Daemon *daemon;

        pthread_mutex_t lock;
        struct Request *late; /* whose answers leave at their time; under the lock */
        bool stopping;        /* no more of them; likewise */
};

typedef struct Request {
        char *method, *path;
        Buffer body;
        bool too_large;
        /* While an answer is waited for, the connection is suspended, and so all this stays. */
        struct MHD_Connection *connection;
        RegistryLater later;
        bool is_later;

        TroubleRequest trouble;
        usec_t due_usec; /* of the answer, CLOCK_MONOTONIC; 0: not late, or not any more */
        struct Request *next_late;
} Request;

typedef struct Context {
        struct MHD_Connection *connection;
        Request *request;
} Context;

typedef int (*Handler)(const RegistryCall *c, RegistryAnswer *a);

/* {} stands for an id: the device's, then the module's. */
static const struct {
        const char *method, *path;
        HubRight right;
        Handler handler;
} routes[] = {
        { "GET", "/devices", HUB_RIGHT_REGISTRY_READ, registry_list_devices },
        { "POST", "/devices", HUB_RIGHT_REGISTRY_WRITE, registry_bulk },
        { "POST", "/devices/query", HUB_RIGHT_SERVICE_CONNECT, registry_query },
        { "DELETE", "/devices/{}/commands", HUB_RIGHT_SERVICE_CONNECT, registry_purge },
        { "GET", "/twins/{}", HUB_RIGHT_SERVICE_CONNECT, registry_get_twin },
        { "PATCH", "/twins/{}", HUB_RIGHT_SERVICE_CONNECT, registry_patch_twin },
        { "PUT", "/twins/{}", HUB_RIGHT_SERVICE_CONNECT, registry_put_twin },
        { "GET", "/twins/{}/modules/{}", HUB_RIGHT_SERVICE_CONNECT, registry_get_twin },
        { "PATCH", "/twins/{}/modules/{}", HUB_RIGHT_SERVICE_CONNECT, registry_patch_twin },
        { "PUT", "/twins/{}/modules/{}", HUB_RIGHT_SERVICE_CONNECT, registry_put_twin },
        { "GET", "/devices/{}", HUB_RIGHT_REGISTRY_READ, registry_get_identity },
        { "PUT", "/devices/{}", HUB_RIGHT_REGISTRY_WRITE, registry_put_identity },
        { "DELETE", "/devices/{}", HUB_RIGHT_REGISTRY_WRITE, registry_delete_identity },
        { "GET", "/devices/{}/modules", HUB_RIGHT_REGISTRY_READ, registry_list_modules },
        { "GET", "/devices/{}/modules/{}", HUB_RIGHT_REGISTRY_READ, registry_get_identity },
        { "PUT", "/devices/{}/modules/{}", HUB_RIGHT_REGISTRY_WRITE, registry_put_identity },
        { "DELETE", "/devices/{}/modules/{}", HUB_RIGHT_REGISTRY_WRITE, registry_delete_identity },
        { "POST", "/twins/{}/methods", HUB_RIGHT_SERVICE_CONNECT, registry_invoke },
        { "POST", "/twins/{}/modules/{}/methods", HUB_RIGHT_SERVICE_CONNECT, registry_invoke },
        { "GET", "/statistics/devices", HUB_RIGHT_REGISTRY_READ, registry_count_devices },
        { "GET", "/statistics/service", HUB_RIGHT_REGISTRY_READ, registry_count_connected },
        { "GET", "/jobs/{}", HUB_RIGHT_REGISTRY_READ, registry_no_job },
        { "DELETE", "/jobs/{}", HUB_RIGHT_REGISTRY_WRITE, registry_no_job },
};

/* One segment of a path, decoded. 0, -EINVAL (no text) or -ENOMEM. */
static int decode_segment(const char *s, size_t n, char **ret) {
        size_t size;
        int r;

        r = percent_decode(s, n, ret, &size);
        if (r >= 0 && strlen(*ret) != size) {
                free(*ret);
                *ret = NULL;
                return -EINVAL;
        }
        return r;
}

/* 1 and the ids, decoded; 0 (another path), -EINVAL (an id with a bad escape) or -ENOMEM. */
static int match_path(const char *pattern, const char *path, char *ret_ids[static 2]) {
        const char *segments[2];
        size_t sizes[2], n_ids = 0;

        while (*pattern == '/') {
                size_t n_pattern = strcspn(++pattern, "/"), n_path;

                if (*path != '/')
                        return 0;
                n_path = strcspn(++path, "/");
                if (n_path == 0)
                        return 0;
                if (strncmp(pattern, "{}", n_pattern) == 0 && n_ids < 2) {
                        segments[n_ids] = path;
                        sizes[n_ids++] = n_path;
                } else if (n_path != n_pattern || strncmp(pattern, path, n_path) != 0)
                        return 0;
                pattern += n_pattern;
                path += n_path;
        }
        if (*path != '\0' && !streq(path, "/")) /* SDKs write /devices/?top=1 */
                return 0;
        for (size_t i = 0; i < n_ids; i++) {
                int r = decode_segment(segments[i], sizes[i], ret_ids + i);

                if (r < 0)
                        return r;
        }
        return 1;
}

static const char *header(const Context *x, const char *name) {
        return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

static const char *argument(const Context *x, const char *name) {
        return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

/* 1 to go on, 0 when *a holds the refusal. */
static int check_access(HubRegistry *r, const Context *x, HubRight right, RegistryAnswer *a) {
        const char *reason = "";
        int k;

        k = hub_access_service(r->hub, header(x, "Authorization"), x->request->path, right,
                               now_usec(CLOCK_REALTIME), &reason);
        if (k == -ENOMEM)
                return k;
        if (k < 0) {
                k = registry_error(a, MHD_HTTP_UNAUTHORIZED, "IotHubUnauthorizedAccess",
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

static int check_ids(const RegistryCall *c, RegistryAnswer *a) {
        if ((c->device && hub_device_id_check(c->device, false) < 0) ||
            (c->module && hub_device_id_check(c->module, false) < 0)) {
                int k = registry_error(a, MHD_HTTP_BAD_REQUEST, "ArgumentInvalid",
                                       "The id holds characters that no id may have, or is too long.");

                return k < 0 ? k : 0;
        }
        return 1;
}

static int call_route(HubRegistry *r, const Context *x, size_t i, char *ids[static 2],
                      RegistryAnswer *a) {
        const char *version = argument(x, "api-version");
        RegistryCall c = {
                .hub = r->hub,
                .link = r->link,
                .later = &x->request->later,
                .device = ids[0],
                .module = ids[1],
                .body = &x->request->body,
                .top = argument(x, "top"),
                .max_items = header(x, "x-ms-max-item-count"),
                .continuation = header(x, "x-ms-continuation"),
        };
        int k;

        k = check_access(r, x, routes[i].right, a);
        if (k <= 0)
                return k;
        if (!is_api_version(version) || strcmp(version, API_VERSION_MIN) < 0)
                return registry_error(a, MHD_HTTP_BAD_REQUEST, "InvalidProtocolVersion",
                                      "api-version is missing or unknown");
        k = check_ids(&c, a);
        if (k <= 0)
                return k;
        k = registry_condition_read(header(x, "If-Match"), &c.if_match);
        return k < 0 ? k : routes[i].handler(&c, a);
}

static int handle(HubRegistry *r, const Context *x, RegistryAnswer *a) {
        int k;

        if (x->request->too_large)
                return registry_error(a, MHD_HTTP_CONTENT_TOO_LARGE, "MessageTooLarge",
                                      "The body is too large.");
        for (size_t i = 0; i < ELEMENTSOF(routes); i++) {
                _cleanup_free_ char *device = NULL, *module = NULL;
                char *ids[2] = { NULL, NULL };

                if (!streq(routes[i].method, x->request->method))
                        continue;
                k = match_path(routes[i].path, x->request->path, ids);
                device = ids[0];
                module = ids[1];
                if (k == -EINVAL)
                        return registry_error(a, MHD_HTTP_BAD_REQUEST, "ArgumentInvalid",
                                              "The path is not well encoded.");
                if (k != 0)
                        return k < 0 ? k : call_route(r, x, i, ids, a);
        }
        k = check_access(r, x, HUB_RIGHT_REGISTRY_READ, a);
        return k <= 0 ? k
                      : registry_error(a, MHD_HTTP_NOT_IMPLEMENTED, "OperationNotSupported",
                                       "The emulator does not serve this call.");
}

/* Half of an answer; then the connection ends. */
typedef struct Half {
        size_t n;
        char text[];
} Half;

static ssize_t read_half(void *userdata, uint64_t at, char *to, size_t n) {
        const Half *h = userdata;

        if (at >= h->n)
                return MHD_CONTENT_READER_END_WITH_ERROR;
        n = MIN(n, h->n - (size_t) at);
        memcpy(to, h->text + at, n);
        return (ssize_t) n;
}

static struct MHD_Response *make_half(const char *text, size_t n) {
        Half *h = malloc(sizeof(*h) + n / 2);
        struct MHD_Response *response;

        if (!h)
                return NULL;
        h->n = n / 2;
        memcpy(h->text, text, h->n);
        response = MHD_create_response_from_callback(n, MAX(h->n, 1U), read_half, h, free);
        if (!response)
                free(h);
        return response;
}

/* cut: in the middle. An answer without a body is cut before it. */
static enum MHD_Result send_answer(struct MHD_Connection *connection, const RegistryAnswer *a,
                                   bool cut) {
        char retry_after[24];
        const struct {
                const char *name, *value;
        } headers[] = {
                { "x-ms-request-id", a->request_id },
                { "Vary", "Origin" },
                { "Content-Type", a->body ? "application/json; charset=utf-8" : NULL },
                { "iothub-errorcode", a->error },
                { "ETag", a->etag },
                { "x-ms-item-type", a->item_type },
                { "x-ms-continuation", a->continuation },
                { "Retry-After", a->retry_after_sec > 0 ? retry_after : NULL },
        };
        struct MHD_Response *response;
        const char *text = "";
        enum MHD_Result k = MHD_YES;
        size_t n = 0;

        (void) snprintf(retry_after, sizeof(retry_after), "%" PRIu64, a->retry_after_sec); /* fits */
        if (a->body)
                text = json_object_to_json_string_length(
                                a->body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE,
                                &n);
        if (!text || (cut && n == 0))
                return MHD_NO;
        response = cut ? make_half(text, n)
                       : MHD_create_response_from_buffer(n, (void *) text, MHD_RESPMEM_MUST_COPY);
        if (!response)
                return MHD_NO;
        for (size_t i = 0; k == MHD_YES && i < ELEMENTSOF(headers); i++)
                if (headers[i].value)
                        k = MHD_add_response_header(response, headers[i].name, headers[i].value);
        if (k == MHD_YES)
                k = MHD_queue_response(connection, a->status, response);
        MHD_destroy_response(response);
        return k;
}

static void suspend(RegistryLater *later) {
        Request *q = container_of(later, Request, later);

        q->is_later = true;
        MHD_suspend_connection(q->connection);
}

/* on_request() is called anew then. */
static void resume(RegistryLater *later) {
        MHD_resume_connection(container_of(later, Request, later)->connection);
}

static int new_request(struct MHD_Connection *connection, const char *url, const char *method,
                       void **state) {
        Request *q = calloc(1, sizeof(*q));

        *state = q; /* on_completed() frees it */
        if (!q)
                return -ENOMEM;
        q->connection = connection;
        q->later = (RegistryLater) { .begin = suspend, .end = resume };
        registry_answer_init(&q->later.answer);
        q->method = strdup(method);
        q->path = strdup(url);
        return q->method && q->path ? 0 : -ENOMEM;
}

static TroubleCalls calls_of(const Request *q) {
        if (streq(q->method, "POST") && streq(q->path, "/devices"))
                return TROUBLE_CALLS_BULK;
        return streq(q->path, "/devices/query") ? TROUBLE_CALLS_QUERY : TROUBLE_CALLS_SINGLE;
}

/* What the request names, as a client id; NULL: nothing, or no memory to tell. */
static char *client_of(const Request *q) {
        static const char *const paths[] = { "/devices/{}/modules/{}", "/twins/{}/modules/{}",
                                             "/twins/{}/modules/{}/methods", "/devices/{}",
                                             "/twins/{}", "/devices/{}/modules", "/twins/{}/methods",
                                             "/devices/{}/commands" };

        if (calls_of(q) != TROUBLE_CALLS_SINGLE)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                _cleanup_free_ char *device = NULL, *module = NULL;
                char *ids[2] = { NULL, NULL }, *client = NULL;
                int r = match_path(paths[i], q->path, ids);

                device = ids[0];
                module = ids[1];
                if (r > 0 && module)
                        return format_string(&client, "%s/%s", device, module) < 0 ? NULL : client;
                if (r > 0)
                        return TAKE_PTR(device);
        }
        return NULL;
}

/* The answer leaves later: the request stays as it is until hub_registry_run_timers(). False: at the
 * end, when nothing may be left suspended. */
static bool delay(HubRegistry *r, Request *q) {
        bool late;

        q->due_usec = usec_add(now_usec(CLOCK_MONOTONIC), q->trouble.delay_usec);
        q->trouble.delay_usec = 0;
        (void) pthread_mutex_lock(&r->lock); /* cannot fail */
        late = !r->stopping;
        if (late) {
                suspend(&q->later);
                q->next_late = r->late;
                r->late = q;
        }
        (void) pthread_mutex_unlock(&r->lock);
        return late;
}

void hub_registry_run_timers(HubRegistry *r, usec_t now_usec) {
        (void) pthread_mutex_lock(&r->lock); /* cannot fail */
        for (Request **link = &r->late; *link;) {
                Request *q = *link;

                if (q->due_usec > now_usec) {
                        link = &q->next_late;
                        continue;
                }
                *link = q->next_late;
                resume(&q->later); /* from now on it may end at any moment */
        }
        (void) pthread_mutex_unlock(&r->lock);
}

static enum MHD_Result finish(HubRegistry *r, Request *q) {
        if (q->later.error < 0)
                return MHD_NO; /* out of memory: the connection closes */
        if (q->trouble.code != 0 &&
            registry_error_number(&q->later.answer, q->trouble.code, q->trouble.retry_after_sec) < 0)
                return MHD_NO;
        if (q->trouble.delay_usec > 0 && delay(r, q))
                return MHD_YES;
        return send_answer(q->connection, &q->later.answer, q->trouble.cut);
}

/* Whether the answer is there; else on_request() is called anew when it is. */
static bool begin(HubRegistry *r, Request *q) {
        _cleanup_free_ char *client = client_of(q);
        int k = 0;

        hub_troubles_on_request(r->troubles, client, calls_of(q), &q->trouble);
        if (q->trouble.code == 0 || q->trouble.done)
                k = handle(r, &(Context) { q->connection, q }, &q->later.answer);
        if (k == -EINPROGRESS)
                return false;
        q->later.error = k;
        return true;
}

static enum MHD_Result on_request(void *userdata, struct MHD_Connection *connection,
                                  const char *url, const char *method, const char *version,
                                  const char *upload, size_t *upload_size, void **state) {
        Request *q = *state;

        if (!q)
                return new_request(connection, url, method, state) < 0 ? MHD_NO : MHD_YES;
        if (*upload_size > 0) {
                q->too_large = q->too_large || *upload_size > BODY_BYTES_MAX - q->body.size;
                if (!q->too_large && buffer_append(&q->body, upload, *upload_size) < 0)
                        return MHD_NO;
                *upload_size = 0;
                return MHD_YES;
        }
        if (!q->is_later && !begin(userdata, q))
                return MHD_YES;
        return finish(userdata, q);
}

static void on_completed(void *userdata, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code) {
        Request *q = *state;

        if (!q)
                return;
        if (q->body.data)
                explicit_bzero(q->body.data, q->body.size); /* it may hold keys */
        buffer_done(&q->body);
        registry_answer_done(&q->later.answer);
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

int hub_registry_new(Hub *hub, HubLink *link, HubTroubles *troubles, const char *path,
                     HubRegistry **ret) {
        _cleanup_close_ int fd = -EBADF;
        HubRegistry *r;
        sigset_t all, old;

        fd = listen_unix_stream(path);
        if (fd < 0)
                return fd;
        r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        *r = (HubRegistry){ .hub = hub,
                            .link = link,
                            .troubles = troubles,
                            .lock = PTHREAD_MUTEX_INITIALIZER };

        /* Signals belong to the broker's thread. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &old); /* with valid arguments it cannot fail */
        r->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL,
                                     NULL, on_request, r,
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
        (void) pthread_mutex_lock(&r->lock); /* cannot fail */
        r->stopping = true;
        (void) pthread_mutex_unlock(&r->lock);
        hub_registry_run_timers(r, USEC_INFINITY);
        MHD_stop_daemon(r->daemon);
        (void) pthread_mutex_destroy(&r->lock); /* nobody is left who could hold it */
        free(r);
        return NULL;
}
