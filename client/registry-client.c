/* Every call is a Transfer on one multi handle; the plain call starts one and waits for it. A transfer
 * that must be made again waits for its time in the same list; a hub that throttles makes all wait,
 * because it counts the calls of all together. */
#include <ctype.h>
#include <sys/random.h>

#include <curl/curl.h>

#include "lib/buffer.h"
#include "lib/hub-code.h"
#include "lib/json-util.h"
#include "lib/parse-util.h"
#include "lib/sas-token.h"
#include "lib/string-util.h"
#include "client/http-trace.h"
#include "client/https-proxy.h"
#include "client/output.h"
#include "client/registry-client.h"

#define API_VERSION "2021-04-12"
#define TOKEN_LIFETIME_SEC 3600U
#define ANSWER_BYTES_MAX (16U * 1024U * 1024U) /* a list of 1,000 devices takes about 1 MiB */
#define ANSWER_DEPTH_MAX 32
#define CONNECT_TIMEOUT_SEC 20L
#define CALL_TIMEOUT_SEC 60U /* a hub that throttles delays its answers first, by seconds */
#define TRIES_MAX 4U
#define THROTTLED_TRIES_MAX 10U /* it will be served: only the rate is too high */
#define THROTTLED_SEC 10U       /* hubs send no Retry-After, their text says 10 seconds */
#define RETRY_AFTER_SEC_MAX 300U
#define LINE_MAX_KEPT 4096U

typedef void (*OnDone)(int exit_code, const RegistryAnswer *a, void *userdata);

typedef struct Transfer Transfer;

struct Transfer {
        RegistryClient *client;
        Transfer *next;

        char *method, *path, *query, *if_match, *continuation, *what, *module_of, *body;
        unsigned page_size;
        RegistryRepeat repeat;
        usec_t timeout_usec;
        long expected_status[3];
        OnDone on_done;
        void *userdata;

        CURL *curl;
        struct curl_slist *headers;
        char detail[CURL_ERROR_SIZE];
        bool running;     /* on the multi handle */
        usec_t begin_usec; /* while not running: when to start */
        unsigned n_failed, n_throttled;
        bool in_doubt; /* an earlier try may have done its work */

        /* The answer of this try. */
        long status;
        Buffer answer;
        bool too_long;
        char error_name[64], item_type[32], request_id[64];
        char *next_page;
        unsigned retry_after_sec;
};

struct RegistryClient {
        const ConnectionString *login;
        RegistryClientSettings settings;
        char *host;
        unsigned port;
        CURLM *multi;
        Transfer *transfers;
        unsigned n_transfers;
        uint64_t n_ended;
        usec_t paused_until_usec;
        bool reached; /* an answer came: from now on a lost connection is waited for */
};

void registry_answer_done(RegistryAnswer *a) {
        json_object_put(a->body);
        free(a->continuation);
        free(a->item_type);
        *a = (RegistryAnswer){};
}

int registry_client_new(const ConnectionString *login, const RegistryClientSettings *settings,
                        RegistryClient **ret) {
        _cleanup_(registry_client_freep) RegistryClient *c = NULL;
        int r;

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (RegistryClient){ .login = login, .settings = *settings };

        r = host_port_split(login->host_name, settings->https_port, &c->host, &c->port);
        if (r < 0)
                return r;
        for (char *p = c->host; *p; p++)
                *p = (char) tolower((unsigned char) *p); /* the hub signs lower case */

        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return -ENOMEM;
        c->multi = curl_multi_init();
        if (!c->multi)
                return -ENOMEM;
        *ret = TAKE_PTR(c);
        return 0;
}

/* The list holds the token. */
static void erase_headers(struct curl_slist **list) {
        for (struct curl_slist *i = *list; i; i = i->next)
                explicit_bzero(i->data, strlen(i->data));
        curl_slist_free_all(*list);
        *list = NULL;
}

static void erase_buffer(Buffer *b) {
        if (b->data)
                explicit_bzero(b->data, b->size); /* it may hold keys */
        buffer_done(b);
}

static Transfer *transfer_free(Transfer *t) {
        if (!t)
                return NULL;
        if (t->running)
                (void) curl_multi_remove_handle(t->client->multi, t->curl); /* it is there */
        curl_easy_cleanup(t->curl);
        erase_headers(&t->headers);
        erase_buffer(&t->answer);
        free(t->method);
        free(t->path);
        free(t->query);
        free(t->if_match);
        free(t->continuation);
        free(t->what);
        free(t->module_of);
        free(t->next_page);
        erase_and_free(t->body);
        free(t);
        return NULL;
}
DEFINE_CLEANUP(Transfer *, transfer_free);

RegistryClient *registry_client_free(RegistryClient *c) {
        if (!c)
                return NULL;
        while (c->transfers) {
                Transfer *t = c->transfers;

                c->transfers = t->next;
                transfer_free(t);
        }
        if (c->multi)
                (void) curl_multi_cleanup(c->multi); /* no handle is left on it */
        free(c->host);
        free(c);
        return NULL;
}

usec_t registry_client_paused_until(const RegistryClient *c) {
        return c->paused_until_usec > now_usec(CLOCK_MONOTONIC) ? c->paused_until_usec : 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *userdata) {
        Transfer *t = userdata;

        n *= size;
        if (n > ANSWER_BYTES_MAX - t->answer.size) {
                t->too_long = true;
                return 0;
        }
        return buffer_append(&t->answer, data, n) < 0 ? 0 : n;
}

static const char *header_value(const char *line, size_t n, const char *name, size_t *ret_size) {
        size_t length = strlen(name);

        if (n <= length || strncasecmp(line, name, length) != 0 || line[length] != ':')
                return NULL;
        line += length + 1;
        n -= length + 1;
        while (n > 0 && isspace((unsigned char) *line)) {
                line++;
                n--;
        }
        while (n > 0 && isspace((unsigned char) line[n - 1]))
                n--;
        *ret_size = n;
        return line;
}

static size_t on_header(char *line, size_t size, size_t n, void *userdata) {
        Transfer *t = userdata;
        const struct {
                const char *name;
                char *to;
                size_t size;
        } table[] = {
                { "iothub-errorcode", t->error_name, sizeof(t->error_name) },
                { "x-ms-item-type", t->item_type, sizeof(t->item_type) },
                { "x-ms-request-id", t->request_id, sizeof(t->request_id) },
        };
        const char *value;
        uint64_t seconds;
        size_t length;
        char buf[16];

        n *= size;
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                value = header_value(line, n, table[i].name, &length);
                if (value)
                        snprintf(table[i].to, table[i].size, "%.*s", (int) length, value);
        }
        value = header_value(line, n, "x-ms-continuation", &length);
        if (value && length > 0) {
                free(t->next_page);
                t->next_page = strndup(value, length);
                if (!t->next_page)
                        return 0;
        }
        value = header_value(line, n, "Retry-After", &length);
        if (value) {
                snprintf(buf, sizeof(buf), "%.*s", (int) length, value);
                if (parse_u64_range(buf, 1, RETRY_AFTER_SEC_MAX, &seconds) >= 0)
                        t->retry_after_sec = (unsigned) seconds;
        }
        return n;
}

/* What curl would tell its own --verbose, without the secrets. */
static int on_debug(CURL *curl, curl_infotype type, char *data, size_t n, void *userdata) {
        _cleanup_(buffer_done) Buffer out = {};
        const char *prefix = type == CURLINFO_HEADER_OUT || type == CURLINFO_DATA_OUT ? "> " : "< ";
        int r = 0;

        if (type == CURLINFO_TEXT)
                prefix = "* ";
        if (type == CURLINFO_SSL_DATA_IN || type == CURLINFO_SSL_DATA_OUT)
                return 0;
        if (type == CURLINFO_DATA_IN || type == CURLINFO_DATA_OUT)
                r = http_trace_body(&out, prefix, data, n);
        else
                for (size_t from = 0; from < n && r >= 0;) {
                        const char *end = memchr(data + from, '\n', n - from);
                        size_t size = end ? (size_t) (end - data) - from : n - from, shown = size;

                        while (shown > 0 && data[from + shown - 1] == '\r')
                                shown--;
                        if (shown > 0)
                                r = http_trace_header(&out, prefix, data + from,
                                                      MIN(shown, (size_t) LINE_MAX_KEPT));
                        from += size + 1;
                }
        if (r >= 0 && out.size > 0)
                say_trace((const char *) out.data, out.size);
        return 0;
}

static int make_authorization(const RegistryClient *c, char **ret) {
        _cleanup_(erase_and_freep) char *token = NULL;
        int r;

        if (c->login->shared_access_signature)
                return format_string(ret, "Authorization: %s", c->login->shared_access_signature);
        r = sas_token_make(c->login->shared_access_key, c->host,
                           now_usec(CLOCK_REALTIME) / USEC_PER_SEC + TOKEN_LIFETIME_SEC,
                           c->login->shared_access_key_name, &token);
        return r < 0 ? r : format_string(ret, "Authorization: %s", token);
}

static int add_header(struct curl_slist **list, const char *line) {
        struct curl_slist *longer = curl_slist_append(*list, line);

        if (!longer)
                return -ENOMEM;
        *list = longer;
        return 0;
}

static int add_header_value(struct curl_slist **list, const char *name, const char *value) {
        _cleanup_free_ char *line = NULL;
        int r;

        if (!value)
                return 0;
        r = format_string(&line, "%s: %s", name, value);
        return r < 0 ? r : add_header(list, line);
}

/* A token is made for each try: the last one may have waited for long. */
static int make_headers(Transfer *t) {
        static const char *const fixed[] = {
                "Content-Type: application/json; charset=utf-8",
                "Accept: application/json",
                "Expect:", /* no waiting for 100 */
        };
        _cleanup_(erase_and_freep) char *authorization = NULL;
        _cleanup_(erase_headers) struct curl_slist *list = NULL;
        char page_size[16];
        int r;

        snprintf(page_size, sizeof(page_size), "%u", t->page_size);
        r = make_authorization(t->client, &authorization);
        if (r >= 0)
                r = add_header(&list, authorization);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(fixed); i++)
                r = add_header(&list, fixed[i]);
        if (r >= 0)
                r = add_header_value(&list, "If-Match", t->if_match);
        if (r >= 0)
                r = add_header_value(&list, "x-ms-continuation", t->continuation);
        if (r >= 0)
                r = add_header_value(&list, "x-ms-max-item-count", t->page_size ? page_size : NULL);
        if (r < 0)
                return r;
        erase_headers(&t->headers);
        t->headers = TAKE_PTR(list);
        return 0;
}

static int make_url(const Transfer *t, char **ret) {
        const RegistryClient *c = t->client;
        const bool v6 = strchr(c->host, ':');

        return format_string(ret, "https://%s%s%s:%u%s?%s%sapi-version=" API_VERSION, v6 ? "[" : "",
                             c->host, v6 ? "]" : "", c->port, t->path, strempty(t->query),
                             t->query ? "&" : "");
}

static CURLcode set_security(Transfer *t) {
        const char *ca_file = t->client->settings.ca_file;
        CURLcode k;

        k = curl_easy_setopt(t->curl, CURLOPT_PROTOCOLS_STR, "https");
        if (k == CURLE_OK)
                k = curl_easy_setopt(t->curl, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
        if (k == CURLE_OK && ca_file)
                k = curl_easy_setopt(t->curl, CURLOPT_CAINFO, ca_file);
        if (k == CURLE_OK && ca_file) /* instead of the system's, not besides */
                k = curl_easy_setopt(t->curl, CURLOPT_CAPATH, NULL);
        return k;
}

static CURLcode set_callbacks(Transfer *t) {
        CURLcode k;

        k = curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_body);
        if (k == CURLE_OK)
                k = curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
        if (k == CURLE_OK)
                k = curl_easy_setopt(t->curl, CURLOPT_HEADERFUNCTION, on_header);
        if (k == CURLE_OK)
                k = curl_easy_setopt(t->curl, CURLOPT_HEADERDATA, t);
        if (k == CURLE_OK)
                k = curl_easy_setopt(t->curl, CURLOPT_ERRORBUFFER, t->detail);
        if (k == CURLE_OK)
                k = curl_easy_setopt(t->curl, CURLOPT_PRIVATE, t);
        if (k == CURLE_OK && t->client->settings.verbose)
                k = curl_easy_setopt(t->curl, CURLOPT_DEBUGFUNCTION, on_debug);
        if (k == CURLE_OK && t->client->settings.verbose)
                k = curl_easy_setopt(t->curl, CURLOPT_VERBOSE, 1L);
        return k;
}

static CURLcode set_options(Transfer *t, const char *url) {
        usec_t timeout = t->timeout_usec ? t->timeout_usec : CALL_TIMEOUT_SEC * USEC_PER_SEC;
        CURL *h = t->curl;
        CURLcode k;

        curl_easy_reset(h);
        k = curl_easy_setopt(h, CURLOPT_URL, url);
        if (k == CURLE_OK)
                k = set_security(t);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, t->method);
        if (k == CURLE_OK && t->body)
                k = curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long) strlen(t->body));
        if (k == CURLE_OK && t->body)
                k = curl_easy_setopt(h, CURLOPT_POSTFIELDS, t->body); /* borrowed */
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_HTTPHEADER, t->headers);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_USERAGENT, "iothubctl/" PROJECT_VERSION);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_SEC);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long) (timeout / USEC_PER_MSEC));
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
        return k == CURLE_OK ? set_callbacks(t) : k;
}

/* Where a call that got no answer had come to. */
static const char *stage_of(CURL *curl, CURLcode k) {
        curl_off_t connected = 0, secured = 0, resolved = 0;

        if (k == CURLE_COULDNT_RESOLVE_HOST || k == CURLE_COULDNT_RESOLVE_PROXY)
                return "name resolution";
        if (k == CURLE_PEER_FAILED_VERIFICATION || k == CURLE_SSL_CONNECT_ERROR ||
            k == CURLE_SSL_CACERT_BADFILE)
                return "TLS";
        /* An absent figure stays 0. */
        (void) curl_easy_getinfo(curl, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
        (void) curl_easy_getinfo(curl, CURLINFO_CONNECT_TIME_T, &connected);
        (void) curl_easy_getinfo(curl, CURLINFO_APPCONNECT_TIME_T, &secured);
        if (k == CURLE_OPERATION_TIMEDOUT && resolved == 0 && connected == 0)
                return "name resolution";
        if (connected == 0)
                return "connecting";
        return secured == 0 ? "TLS" : "waiting for the answer";
}

static const char *remedy_of(CURLcode k) {
        switch (k) {
        case CURLE_PEER_FAILED_VERIFICATION:
                return "; for a hub with its own certificate authority, as the emulator, name --ca-file";
        case CURLE_SSL_CACERT_BADFILE: return "; check --ca-file";
        case CURLE_COULDNT_CONNECT: return "; for the emulator, name --https-port";
        case CURLE_COULDNT_RESOLVE_HOST: return "; check HostName in the login, and this machine's DNS";
        default: return "";
        }
}

static int say_not_reached(const Transfer *t, CURLcode k) {
        _cleanup_(https_proxy_done) HttpsProxy proxy = {};
        const char *detail = *t->detail ? t->detail : curl_easy_strerror(k);
        bool named;
        long connect_status = 0; /* the proxy's, and it stays 0 without */

        (void) curl_easy_getinfo(t->curl, CURLINFO_HTTP_CONNECTCODE, &connect_status);
        if (k == CURLE_OUT_OF_MEMORY || https_proxy_load(&proxy) < 0)
                return say_out_of_memory();
        named = https_proxy_is_named(&proxy, detail);
        if (proxy.variable && strchr(detail, '@')) /* the variable as it is, with user and password */
                detail = curl_easy_strerror(k);
        if (proxy.host && (connect_status >= 300 || named))
                say_error("%s: proxy %s:%u: %s: %s; check %s in the environment, or except the hub by no_proxy",
                          t->what, proxy.host, proxy.port, stage_of(t->curl, k), detail, proxy.variable);
        else if (proxy.variable && !proxy.host && k == CURLE_COULDNT_RESOLVE_PROXY)
                say_error("%s: proxy: %s; check %s in the environment: it is no address of a proxy",
                          t->what, detail, proxy.variable);
        else
                say_error("%s: %s:%u: %s: %s%s", t->what, t->client->host, t->client->port,
                          stage_of(t->curl, k), detail, remedy_of(k));
        return k == CURLE_SSL_CACERT_BADFILE ? EX_CONFIG : EXIT_NO_DAEMON;
}

static struct json_object *parse_json(const char *text, size_t n) {
        struct json_tokener *t = json_tokener_new_ex(ANSWER_DEPTH_MAX);
        struct json_object *o = NULL;

        if (!t)
                return NULL;
        if (n > 0 && n <= INT32_MAX)
                o = json_tokener_parse_ex(t, text, (int) n);
        json_tokener_free(t);
        return o;
}

static int say_refused(const Transfer *t) {
        _cleanup_(hub_error_done) HubError e = {};
        const HubErrorRule *rule;
        char code[16] = "";
        const char *name;

        if (hub_error_parse(t->status, t->error_name, (const char *) t->answer.data, t->answer.size,
                            &e) < 0)
                return say_out_of_memory();
        for (size_t i = 0; i < ELEMENTSOF(t->expected_status); i++)
                if (t->expected_status[i] == t->status)
                        return e.rule->exit_code;
        if (e.known)
                snprintf(code, sizeof(code), " %u", e.rule->code);
        else if (e.code != 0)
                snprintf(code, sizeof(code), " %u", e.code);
        name = e.name ? e.name : e.known ? hub_code_to_name(e.rule->code) : NULL;
        rule = t->module_of ? hub_error_of_module(e.rule) : e.rule;
        say_error("%s: %s (HTTP %ld%s%s%s)%s%s", t->what, rule->meaning, t->status, code,
                  name ? " " : "", strempty(name), e.text ? ": " : "", strempty(e.text));
        if (rule->remedy)
                say_error("What to do: %s%s%s", rule->remedy,
                          rule->code == 404010 && t->module_of ? " " : "",
                          rule->code == 404010 ? strempty(t->module_of) : "");
        if (t->client->settings.verbose && (e.tracking_id || *t->request_id))
                say_error("Tracking id: %s; request id: %s",
                          e.tracking_id ? e.tracking_id : "none",
                          *t->request_id ? t->request_id : "none");
        return e.rule->exit_code;
}

/* A connection that was there and went, as far as a call that may be made twice is concerned. */
static bool is_lost_connection(const Transfer *t, CURLcode k) {
        switch (k) {
        case CURLE_SEND_ERROR:
        case CURLE_RECV_ERROR:
        case CURLE_GOT_NOTHING:
        case CURLE_PARTIAL_FILE: return true;
        case CURLE_COULDNT_CONNECT:
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_OPERATION_TIMEDOUT:
        case CURLE_SSL_CONNECT_ERROR: return t->client->reached;
        default: return false;
        }
}

static unsigned jitter_msec(void) {
        uint8_t jitter = 0;

        (void) getrandom(&jitter, sizeof(jitter), GRND_NONBLOCK); /* without it, no jitter */
        return jitter * 4U;
}

static void pause_transfer(Transfer *t, unsigned seconds, const char *why) {
        usec_t until = now_usec(CLOCK_MONOTONIC) + seconds * USEC_PER_SEC +
                       jitter_msec() * USEC_PER_MSEC;

        t->begin_usec = until;
        if (!t->client->settings.quiet)
                say_error("%s: %s, trying again in %u s", t->what, why, seconds);
}

/* Whether the call is made again, at its time. */
static bool plan_retry(Transfer *t, CURLcode k) {
        char why[64];

        if (k == CURLE_OK && t->status == 429) {
                unsigned seconds = t->retry_after_sec ? t->retry_after_sec : THROTTLED_SEC;

                if (++t->n_throttled >= THROTTLED_TRIES_MAX)
                        return false;
                pause_transfer(t, seconds, "the hub is throttling (HTTP 429)");
                t->client->paused_until_usec = MAX(t->client->paused_until_usec, t->begin_usec);
                return true;
        }
        if (k == CURLE_OK ? t->status < 500 || t->status > 504 || t->status == 501 : !is_lost_connection(t, k))
                return false;
        /* Where the connection was not made, nothing was sent. */
        if (t->repeat == REGISTRY_REPEAT_NEVER_AFTER_SENDING && k != CURLE_COULDNT_CONNECT &&
            k != CURLE_COULDNT_RESOLVE_HOST)
                return false;
        if (++t->n_failed >= TRIES_MAX)
                return false;
        t->in_doubt = true;
        if (k == CURLE_OK)
                snprintf(why, sizeof(why), "HTTP %ld", t->status);
        else
                snprintf(why, sizeof(why), "the connection failed");
        pause_transfer(t, t->retry_after_sec ? t->retry_after_sec : 1U << (t->n_failed - 1), why);
        return true;
}

static void unlink_transfer(Transfer *t) {
        Transfer **p = &t->client->transfers;

        while (*p != t)
                p = &(*p)->next;
        *p = t->next;
        t->client->n_transfers--;
        t->client->n_ended++;
}

/* Ends the call: tells, hands over, frees. */
static void finish(Transfer *t, int exit_code) {
        _cleanup_(registry_answer_done) RegistryAnswer a = { .status = t->status };

        unlink_transfer(t);
        a.body = parse_json((const char *) t->answer.data, t->answer.size);
        a.continuation = TAKE_PTR(t->next_page);
        a.item_type = *t->item_type ? strdup(t->item_type) : NULL; /* without memory it is absent */
        t->on_done(exit_code, &a, t->userdata);
        transfer_free(t);
}

static void forget_answer(Transfer *t) {
        t->status = 0;
        erase_buffer(&t->answer);
        t->too_long = false;
        t->retry_after_sec = 0;
        t->detail[0] = t->error_name[0] = t->item_type[0] = t->request_id[0] = '\0';
        free(t->next_page);
        t->next_page = NULL;
}

/* A hub that answered 500 may have made the device all the same, or deleted it. 1: the answer to the
 * repetition was dealt with. */
static int settle_doubt(Transfer *t) {
        if (!t->in_doubt)
                return 0;
        if (t->status == 404 && streq(t->method, "DELETE")) {
                finish(t, EX_OK);
                return 1;
        }
        if (t->status == 409 && streq(t->method, "PUT") && !t->if_match) {
                strcpy(t->method, "GET"); /* as long */
                t->body = erase_and_free(t->body);
                t->in_doubt = false;
                t->begin_usec = 0;
                return 1;
        }
        return 0;
}

static void conclude(Transfer *t, CURLcode k) {
        if (k == CURLE_OK)
                k = curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->status);
        if (t->too_long) {
                say_error("%s: the answer is longer than %u MiB", t->what,
                          ANSWER_BYTES_MAX / (1024U * 1024U));
                return finish(t, EX_PROTOCOL);
        }
        t->client->reached = t->client->reached || k == CURLE_OK;
        if (k == CURLE_OK && t->status >= 200 && t->status < 300)
                return finish(t, EX_OK);
        if (plan_retry(t, k) || (k == CURLE_OK && settle_doubt(t) > 0))
                return;
        finish(t, k == CURLE_OK ? say_refused(t) : say_not_reached(t, k));
}

static void begin(Transfer *t) {
        _cleanup_free_ char *url = NULL;
        CURLcode k;
        int r;

        forget_answer(t);
        r = make_headers(t);
        if (r >= 0)
                r = make_url(t, &url);
        k = r < 0 ? CURLE_OUT_OF_MEMORY : set_options(t, url);
        if (k == CURLE_OK && curl_multi_add_handle(t->client->multi, t->curl) != CURLM_OK)
                k = CURLE_OUT_OF_MEMORY;
        if (k == CURLE_OK)
                t->running = true;
        else
                finish(t, say_not_reached(t, k));
}

static int transfer_new(RegistryClient *c, const RegistryRequest *q, Transfer **ret) {
        _cleanup_(transfer_freep) Transfer *t = calloc(1, sizeof(*t));
        const char *body = q->body ? json_object_to_json_string_ext(
                                                     q->body, JSON_C_TO_STRING_PLAIN |
                                                                      JSON_C_TO_STRING_NOSLASHESCAPE)
                                   : NULL;

        if (!t || (q->body && !body))
                return -ENOMEM;
        *t = (Transfer){
                .client = c,
                .page_size = q->page_size,
                .repeat = q->repeat,
                .timeout_usec = q->timeout_usec,
                .curl = curl_easy_init(),
        };
        memcpy(t->expected_status, q->expected_status, sizeof(t->expected_status));
        if (!t->curl || copy_string(&t->method, q->method) < 0 ||
            copy_string(&t->path, q->path) < 0 || copy_string(&t->query, q->query) < 0 ||
            copy_string(&t->if_match, q->if_match) < 0 ||
            copy_string(&t->continuation, q->continuation) < 0 ||
            copy_string(&t->what, q->what) < 0 ||
            copy_string(&t->module_of, q->module_of) < 0 || copy_string(&t->body, body) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(t);
        return 0;
}

int registry_client_start(RegistryClient *c, const RegistryRequest *request, OnDone on_done,
                          void *userdata) {
        Transfer *t;

        if (transfer_new(c, request, &t) < 0)
                return say_out_of_memory();
        t->on_done = on_done;
        t->userdata = userdata;
        t->next = c->transfers;
        c->transfers = t;
        c->n_transfers++;
        return EX_OK;
}

/* Starts what is due; the time of the next that is not, or USEC_INFINITY. */
static usec_t begin_due(RegistryClient *c) {
        usec_t now = now_usec(CLOCK_MONOTONIC), next_usec = USEC_INFINITY;

        for (Transfer *t = c->transfers, *next; t; t = next) {
                usec_t begin_usec = MAX(t->begin_usec, c->paused_until_usec);

                next = t->next; /* one that cannot begin is gone afterwards */
                if (t->running)
                        continue;
                if (begin_usec <= now)
                        begin(t);
                else
                        next_usec = MIN(next_usec, begin_usec);
        }
        return next_usec;
}

static void collect(RegistryClient *c) {
        CURLMsg *m;
        int left;

        while ((m = curl_multi_info_read(c->multi, &left))) {
                CURLcode k = m->data.result;
                char *p = NULL;
                Transfer *t;

                if (m->msg != CURLMSG_DONE)
                        continue;
                /* Both cannot fail for a handle that was added with it. */
                (void) curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &p);
                t = (Transfer *) (void *) p;
                (void) curl_multi_remove_handle(c->multi, t->curl);
                t->running = false;
                conclude(t, k);
        }
}

unsigned registry_client_wait(RegistryClient *c, int fd, usec_t timeout_usec) {
        struct curl_waitfd input = { .fd = fd, .events = CURL_WAIT_POLLIN };
        const usec_t end_usec = usec_add(now_usec(CLOCK_MONOTONIC), timeout_usec);
        const uint64_t before = c->n_ended;

        while (c->n_transfers > 0 && c->n_ended == before) {
                usec_t next_usec = MIN(begin_due(c), end_usec), now;
                int running = 0;

                if (curl_multi_perform(c->multi, &running) != CURLM_OK)
                        break;
                collect(c);
                if (c->n_ended != before)
                        break;
                next_usec = MIN(next_usec, begin_due(c));
                now = now_usec(CLOCK_MONOTONIC);
                if (now >= end_usec)
                        break;
                if (next_usec > now) {
                        usec_t span = MIN(next_usec - now, 60 * USEC_PER_SEC);

                        errno = 0;
                        if (curl_multi_poll(c->multi, fd >= 0 ? &input : NULL, fd >= 0,
                                            (int) ((span + USEC_PER_MSEC - 1) / USEC_PER_MSEC),
                                            NULL) != CURLM_OK ||
                            errno == EINTR || input.revents != 0)
                                break;
                }
        }
        return c->n_transfers;
}

typedef struct Single {
        bool done;
        int exit_code;
        RegistryAnswer answer;
} Single;

static void on_single_done(int exit_code, const RegistryAnswer *a, void *userdata) {
        Single *s = userdata;

        s->done = true;
        s->exit_code = exit_code;
        s->answer = (RegistryAnswer){
                .status = a->status,
                .body = json_object_get(a->body),
                .continuation = a->continuation ? strdup(a->continuation) : NULL,
                .item_type = a->item_type ? strdup(a->item_type) : NULL,
        };
        if (a->continuation && !s->answer.continuation) /* it would look like the last page */
                s->exit_code = say_out_of_memory();
}

int registry_client_call(RegistryClient *c, const RegistryRequest *request, RegistryAnswer *ret) {
        Single s = {};
        int r;

        r = registry_client_start(c, request, on_single_done, &s);
        if (r != EX_OK)
                return r;
        while (!s.done)
                (void) registry_client_wait(c, -1, USEC_INFINITY); /* s tells when it is over */
        if (ret)
                *ret = s.answer;
        else
                registry_answer_done(&s.answer);
        return s.exit_code;
}
