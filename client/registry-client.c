#include <curl/curl.h>
#include <ctype.h>
#include <sys/random.h>

#include "lib/buffer.h"
#include "lib/json-util.h"
#include "lib/parse-util.h"
#include "lib/sas-token.h"
#include "lib/time-util.h"
#include "client/output.h"
#include "client/registry-client.h"

#define API_VERSION "2021-04-12"
#define TOKEN_LIFETIME_SEC 3600U
#define ANSWER_BYTES_MAX (16U * 1024U * 1024U) /* a list of 1,000 devices takes about 1 MiB */
#define ANSWER_DEPTH_MAX 32
#define CONNECT_TIMEOUT_SEC 20L
#define CALL_TIMEOUT_SEC 60L /* a hub that throttles delays its answers first, by seconds */
#define TRIES_MAX 4U
#define THROTTLED_SEC 10U /* hubs send no Retry-After, their text says 10 seconds */

struct RegistryClient {
        const ConnectionString *login;
        const char *ca_file;
        char *host;
        unsigned port;
        CURL *curl;
};

typedef struct Answer {
        Buffer body;
        bool too_long;
        char error_code[64]; /* header iothub-errorcode */
        unsigned retry_after_sec;
        long status;
} Answer;

int registry_client_new(const ConnectionString *login, const char *ca_file, unsigned https_port,
                        RegistryClient **ret) {
        _cleanup_(registry_client_freep) RegistryClient *c = NULL;
        int r;

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (RegistryClient){ .login = login, .ca_file = ca_file };

        r = host_port_split(login->host_name, https_port, &c->host, &c->port);
        if (r < 0)
                return r;
        for (char *p = c->host; *p; p++)
                *p = (char) tolower((unsigned char) *p); /* the hub signs lower case */

        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return -ENOMEM;
        c->curl = curl_easy_init();
        if (!c->curl)
                return -ENOMEM;
        *ret = TAKE_PTR(c);
        return 0;
}

RegistryClient *registry_client_free(RegistryClient *c) {
        if (!c)
                return NULL;
        if (c->curl)
                curl_easy_cleanup(c->curl);
        free(c->host);
        free(c);
        return NULL;
}

static size_t on_body(char *data, size_t size, size_t n, void *userdata) {
        Answer *a = userdata;

        n *= size;
        if (n > ANSWER_BYTES_MAX - a->body.size) {
                a->too_long = true;
                return 0;
        }
        return buffer_append(&a->body, data, n) < 0 ? 0 : n;
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
        Answer *a = userdata;
        const char *value;
        uint64_t seconds;
        size_t length;
        char buf[16];

        n *= size;
        value = header_value(line, n, "iothub-errorcode", &length);
        if (value)
                snprintf(a->error_code, sizeof(a->error_code), "%.*s", (int) length, value);
        value = header_value(line, n, "Retry-After", &length);
        if (value) {
                snprintf(buf, sizeof(buf), "%.*s", (int) length, value);
                if (parse_u64_range(buf, 1, 60, &seconds) >= 0)
                        a->retry_after_sec = (unsigned) seconds;
        }
        return n;
}

static int make_authorization(const RegistryClient *c, char **ret) {
        _cleanup_(erase_and_freep) char *token = NULL;
        int r;

        if (c->login->shared_access_signature)
                r = asprintf(ret, "Authorization: %s", c->login->shared_access_signature);
        else {
                r = sas_token_make(c->login->shared_access_key, c->host,
                                   now_usec(CLOCK_REALTIME) / USEC_PER_SEC + TOKEN_LIFETIME_SEC,
                                   c->login->shared_access_key_name, &token);
                if (r < 0)
                        return r;
                r = asprintf(ret, "Authorization: %s", token);
        }
        return r < 0 ? -ENOMEM : 0;
}

static int add_header(struct curl_slist **list, const char *line) {
        struct curl_slist *longer = curl_slist_append(*list, line);

        if (!longer)
                return -ENOMEM;
        *list = longer;
        return 0;
}

/* The list holds the token. */
static void erase_headers(struct curl_slist **list) {
        for (struct curl_slist *i = *list; i; i = i->next)
                explicit_bzero(i->data, strlen(i->data));
        curl_slist_free_all(*list);
}

static int make_headers(const RegistryClient *c, const RegistryRequest *request,
                        struct curl_slist **ret) {
        _cleanup_(erase_and_freep) char *authorization = NULL;
        _cleanup_free_ char *if_match = NULL;
        _cleanup_(erase_headers) struct curl_slist *list = NULL;
        int r;

        r = make_authorization(c, &authorization);
        if (r >= 0)
                r = add_header(&list, authorization);
        if (r >= 0)
                r = add_header(&list, "Content-Type: application/json; charset=utf-8");
        if (r >= 0)
                r = add_header(&list, "Accept: application/json");
        if (r >= 0)
                r = add_header(&list, "Expect:"); /* no waiting for 100 */
        if (r >= 0 && request->if_match) {
                if (asprintf(&if_match, "If-Match: %s", request->if_match) < 0) {
                        if_match = NULL;
                        return -ENOMEM;
                }
                r = add_header(&list, if_match);
        }
        if (r >= 0)
                *ret = TAKE_PTR(list);
        return r;
}

static CURLcode set_options(RegistryClient *c, const RegistryRequest *request, const char *url,
                            struct curl_slist *headers, Answer *a) {
        const char *body = request->body ? json_object_to_json_string(request->body) : NULL;
        CURL *h = c->curl;
        CURLcode k;

        curl_easy_reset(h); /* the connection stays open */
        k = curl_easy_setopt(h, CURLOPT_URL, url);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "https");
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
        if (k == CURLE_OK && c->ca_file)
                k = curl_easy_setopt(h, CURLOPT_CAINFO, c->ca_file);
        if (k == CURLE_OK && c->ca_file) /* instead of the system's, not besides */
                k = curl_easy_setopt(h, CURLOPT_CAPATH, NULL);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, request->method);
        if (k == CURLE_OK && body)
                k = curl_easy_setopt(h, CURLOPT_POSTFIELDS, body); /* borrowed from the object */
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_USERAGENT, "iothubctl/" PROJECT_VERSION);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_SEC);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_TIMEOUT, CALL_TIMEOUT_SEC);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_WRITEDATA, a);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
        if (k == CURLE_OK)
                k = curl_easy_setopt(h, CURLOPT_HEADERDATA, a);
        return k;
}

static int make_url(const RegistryClient *c, const RegistryRequest *request, char **ret) {
        const bool v6 = strchr(c->host, ':');

        if (asprintf(ret, "https://%s%s%s:%u%s?%s%sapi-version=" API_VERSION, v6 ? "[" : "",
                     c->host, v6 ? "]" : "", c->port, request->path, strempty(request->query),
                     request->query ? "&" : "") < 0)
                return -ENOMEM;
        return 0;
}

static int say_not_reached(const RegistryClient *c, const RegistryRequest *request, CURLcode k,
                           const char *detail) {
        const char *remedy = "";

        if (k == CURLE_PEER_FAILED_VERIFICATION)
                remedy = "; for a hub with its own certificate authority, as the emulator, name --ca-file";
        else if (k == CURLE_SSL_CACERT_BADFILE)
                remedy = "; check --ca-file";
        else if (k == CURLE_COULDNT_CONNECT)
                remedy = "; for the emulator, name --https-port";
        say_error("%s: %s:%u: %s%s", request->what, c->host, c->port,
                  *detail ? detail : curl_easy_strerror(k), remedy);
        if (k == CURLE_OUT_OF_MEMORY)
                return EX_OSERR;
        return k == CURLE_SSL_CACERT_BADFILE ? EX_CONFIG : EXIT_NO_DAEMON;
}

/* EX_OK whenever there is an answer, whatever it says. */
static int call_once(RegistryClient *c, const RegistryRequest *request, Answer *a) {
        _cleanup_(erase_headers) struct curl_slist *headers = NULL;
        _cleanup_free_ char *url = NULL;
        char detail[CURL_ERROR_SIZE] = "";
        CURLcode k;
        int r;

        r = make_url(c, request, &url);
        if (r >= 0)
                r = make_headers(c, request, &headers);
        if (r < 0)
                return say_out_of_memory();
        k = set_options(c, request, url, headers, a);
        if (k == CURLE_OK)
                k = curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, detail);
        if (k == CURLE_OK)
                k = curl_easy_perform(c->curl);
        if (k == CURLE_OK)
                k = curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &a->status);
        /* detail goes out of scope; taking the pointer away cannot fail. */
        (void) curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, NULL);
        if (a->too_long) {
                say_error("%s: the answer is longer than %u MiB", request->what,
                          ANSWER_BYTES_MAX / (1024U * 1024U));
                return EX_PROTOCOL;
        }
        return k == CURLE_OK ? EX_OK : say_not_reached(c, request, k, detail);
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

/* The text of an error, of the many shapes that hubs use: {"Message":"ErrorCode:Name;text"},
 * {"message":"..."}, or the latter as a string inside the former. Borrowed from *o, which may be
 * replaced. */
static const char *error_text(struct json_object **o) {
        const char *text = NULL, *end;
        struct json_object *inner;

        if (!json_object_is_type(*o, json_type_object))
                return NULL;
        if (json_get_string(*o, "Message", &text, NULL) <= 0)
                return json_get_string(*o, "message", &text, NULL) > 0 ? text : NULL;
        if (text[0] == '{') {
                inner = parse_json(text, strlen(text));
                if (json_object_is_type(inner, json_type_object) &&
                    json_get_string(inner, "message", &end, NULL) > 0) {
                        json_object_put(*o);
                        *o = inner;
                        return end;
                }
                json_object_put(inner);
                return text;
        }
        if (startswith(text, "ErrorCode:") && (end = strchr(text, ';')) && end[1])
                return end + 1;
        return text;
}

static int say_refused(const RegistryRequest *request, const Answer *a) {
        static const struct {
                long status;
                const char *text;
                int exit_code;
        } table[] = {
                { 401,
                  "the hub refuses the login: check the policy's key and rights, and this clock",
                  EX_NOPERM },
                { 403, "the hub does not allow it", EX_NOPERM },
                { 404, "not found", EXIT_NOT_FOUND },
                { 409, "it exists already", EXIT_EXISTS },
                { 412, "it was changed meanwhile, try again", EXIT_TRY_AGAIN },
                { 429, "the hub is throttling, try again later", EXIT_TRY_AGAIN },
        };
        _cleanup_json_ struct json_object *o =
                        parse_json((const char *) a->body.data, a->body.size);
        const char *text = error_text(&o), *ours = "the hub refuses it";
        int exit_code = EX_DATAERR;

        if (a->status >= 500 || a->status < 400) {
                ours = "the hub failed";
                exit_code = a->status >= 500 ? EXIT_TRY_AGAIN : EX_PROTOCOL;
        }
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (table[i].status == a->status) {
                        ours = table[i].text;
                        exit_code = table[i].exit_code;
                }
        say_error("%s: %s (HTTP %ld%s%s%s%s)", request->what, ours, a->status,
                  *a->error_code ? " " : "", a->error_code, text ? ": " : "", strempty(text));
        return exit_code;
}

static bool worth_retrying(const Answer *a) {
        return a->status == 429 || (a->status >= 500 && a->status <= 504);
}

static void wait_before_retry(const RegistryRequest *request, const Answer *a, unsigned try) {
        unsigned seconds = a->retry_after_sec > 0 ? a->retry_after_sec :
                           a->status == 429       ? THROTTLED_SEC :
                                                    1U << try;
        uint8_t jitter = 0;

        (void) getrandom(&jitter, sizeof(jitter), GRND_NONBLOCK); /* without it, no jitter */
        say_error("%s: HTTP %ld, trying again in %u s", request->what, a->status, seconds);
        (void) usleep(seconds * 1000000U + jitter * 1000U); /* a signal ends the program */
}

int registry_client_call(RegistryClient *c, const RegistryRequest *request,
                         struct json_object **ret_body) {
        bool failed_before = false;

        for (unsigned try = 0;; try++) {
                _cleanup_(buffer_done) Buffer body = {};
                Answer a = {};
                int r;

                r = call_once(c, request, &a);
                body = a.body; /* freed from here */
                if (r != EX_OK)
                        return r;
                /* A hub that answered 500 may have made the device all the same, or deleted it. */
                if (failed_before && ((a.status == 409 && streq(request->method, "PUT")) ||
                                      (a.status == 404 && streq(request->method, "DELETE")))) {
                        RegistryRequest get = { .method = "GET",
                                                .path = request->path,
                                                .what = request->what };

                        return a.status == 404 ? EX_OK : registry_client_call(c, &get, ret_body);
                }
                if (a.status >= 200 && a.status < 300) {
                        if (ret_body)
                                *ret_body = parse_json((const char *) a.body.data, a.body.size);
                        return EX_OK;
                }
                if (!worth_retrying(&a) || try + 1 >= TRIES_MAX)
                        return say_refused(request, &a);
                failed_before = failed_before || a.status >= 500;
                wait_before_retry(request, &a, try);
        }
}
