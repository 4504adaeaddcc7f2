#include "daemon/credentials.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "daemon/log.h"
#include "lib/connection-string.h"
#include "lib/fd-util.h"
#include "lib/hub-topic.h"
#include "lib/sas-token.h"
#include "lib/string-util.h"

#define FILE_BYTES_MAX 8192U /* a connection string has a few hundred */
#define SYSTEMD_CREDENTIAL "connection-string"

/* What one connection string comes to; replaced as a whole. */
typedef struct Identity {
        ConnectionString string;
        char *host, *connect_host;
        unsigned connect_port; /* 0: none was given */
        char *client_id, *user_name, *topic_prefix;
} Identity;

struct Credentials {
        char *connection_string, *connection_string_file, *systemd_file;
        char *product_info, *model_id;
        usec_t token_lifetime_usec;

        Identity *identity; /* NULL: none usable */
        char *problem;      /* of the last read; NULL when it went well */
};

static Identity *identity_free(Identity *i) {
        if (!i)
                return NULL;
        connection_string_done(&i->string);
        free(i->host);
        free(i->connect_host);
        free(i->client_id);
        free(i->user_name);
        free(i->topic_prefix);
        free(i);
        return NULL;
}
DEFINE_CLEANUP(Identity *, identity_free);

Credentials *credentials_free(Credentials *c) {
        if (!c)
                return NULL;
        erase_and_free(c->connection_string);
        free(c->connection_string_file);
        free(c->systemd_file);
        free(c->product_info);
        free(c->model_id);
        identity_free(c->identity);
        free(c->problem);
        free(c);
        return NULL;
}

/* Gives the error back with the sentence for the administrator. The texts never hold a value of the string. */
static int fail(int error, char **reterr_problem, const char *format, ...) _printf_(3, 4);
static int fail(int error, char **reterr_problem, const char *format, ...) {
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(reterr_problem, format, ap);
        va_end(ap);
        return r < 0 ? r : error;
}

static int identity_fill(Identity *i, const Credentials *c) {
        const ConnectionString *s = &i->string;
        unsigned port;
        int r;

        r = host_port_split(s->host_name, 0, &i->host, &port);
        if (r < 0)
                return r;
        r = host_port_split(s->gateway_host_name ? s->gateway_host_name : s->host_name, 0, &i->connect_host,
                            &i->connect_port);
        if (r < 0)
                return r;
        r = hub_client_id(s->device_id, s->module_id, &i->client_id);
        if (r < 0)
                return r;
        r = hub_user_name(i->host, i->client_id, c->product_info, c->model_id, &i->user_name);
        if (r < 0)
                return r;
        return hub_topic_telemetry_prefix(s->device_id, s->module_id, &i->topic_prefix);
}

/* source: how the sentence calls the place the text came from. */
static int identity_new(const Credentials *c, const char *text, const char *source, Identity **ret,
                        char **reterr_problem) {
        _cleanup_(identity_freep) Identity *i = NULL;
        _cleanup_free_ char *reason = NULL;
        int r;

        i = malloc(sizeof(*i));
        if (!i)
                return -ENOMEM;
        *i = (Identity) {};

        r = connection_string_parse(text, CONNECTION_STRING_DEVICE, &i->string, &reason);
        if (r == -EINVAL)
                return fail(r, reterr_problem, "The connection string in %s is not usable: %s", source, reason);
        if (r < 0)
                return r;
        if (i->string.x509)
                return fail(-EINVAL, reterr_problem,
                            "The connection string in %s says x509=true, but iothubd signs in with a key: give the "
                            "device symmetric keys and take its connection string with SharedAccessKey",
                            source);
        if (hub_device_id_check(i->string.device_id, /* for_mqtt= */ true) < 0 ||
            (i->string.module_id && hub_device_id_check(i->string.module_id, /* for_mqtt= */ true) < 0))
                return fail(-EINVAL, reterr_problem,
                            "The id in the connection string in %s contains + or #, which MQTT topics cannot carry: "
                            "register the device under another id",
                            source);
        r = identity_fill(i, c);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(i);
        return 0;
}

static void warn_if_exposed(const char *path) {
        struct stat st;

        if (stat(path, &st) >= 0 && (st.st_mode & S_IROTH))
                log_warning("%s holds a device key and everyone may read it: chmod o-r %s", path, path);
}

static int read_text(const char *path, char **ret, char **reterr_problem) {
        _cleanup_(erase_and_freep) char *text = NULL;
        size_t size;
        int r = read_file(path, FILE_BYTES_MAX, &text, &size);

        if (r == -ENOMEM)
                return r;
        if (r == -ENOENT)
                return fail(r, reterr_problem, "%s is missing: write the connection string of the device into it "
                                               "(iothubctl device connection-string ID prints it)",
                            path);
        if (r == -EACCES)
                return fail(r, reterr_problem,
                            "%s may not be read by the user of iothubd: chgrp iothubd and chmod 0640", path);
        if (r == -EFBIG)
                return fail(r, reterr_problem,
                            "%s is longer than a connection string can be: it must hold nothing else", path);
        if (r < 0)
                return fail(r, reterr_problem, "%s cannot be read: %s", path, strerror(-r));
        if (strlen(text) != size) {
                explicit_bzero(text, size);
                return fail(-EINVAL, reterr_problem, "%s is not a text file: it must hold the connection string alone",
                            path);
        }
        warn_if_exposed(path);
        *ret = TAKE_PTR(text);
        return 0;
}

/* Reads the first source that is there. */
static int read_identity(const Credentials *c, Identity **ret, char **reterr_problem) {
        _cleanup_(erase_and_freep) char *text = NULL;
        const char *path = c->connection_string_file;
        int r;

        if (c->connection_string)
                return identity_new(c, c->connection_string, "the configuration (connection_string)", ret,
                                    reterr_problem);
        if (!path && c->systemd_file && access(c->systemd_file, F_OK) == 0)
                path = c->systemd_file;
        if (!path)
                return fail(-ENOENT, reterr_problem,
                            "No connection string is configured: set connection_string_file in iothubd.conf, or "
                            "LoadCredential=" SYSTEMD_CREDENTIAL ":PATH in the service");
        r = read_text(path, &text, reterr_problem);
        if (r < 0)
                return r;
        return identity_new(c, text, path, ret, reterr_problem);
}

static bool same_text(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

static bool identity_equal(const Identity *a, const Identity *b) {
        return same_text(a->string.host_name, b->string.host_name) &&
               same_text(a->string.gateway_host_name, b->string.gateway_host_name) &&
               same_text(a->string.device_id, b->string.device_id) &&
               same_text(a->string.module_id, b->string.module_id) &&
               same_text(a->string.shared_access_key, b->string.shared_access_key) &&
               same_text(a->string.shared_access_signature, b->string.shared_access_signature);
}

int credentials_reload(Credentials *c) {
        _cleanup_(identity_freep) Identity *fresh = NULL;
        _cleanup_free_ char *problem = NULL;
        int r = read_identity(c, &fresh, &problem);

        if (r < 0 && !problem) /* no memory even for the text: nothing changes */
                return r;
        if (r < 0) {
                /* This runs after each refusal, so one and the same fault is told once. Without credentials the
                 * uplink tells it as its reason to hold. */
                if (c->identity && !same_text(problem, c->problem))
                        log_warning("%s. The credentials read before stay in use", problem);
                free(c->problem);
                c->problem = TAKE_PTR(problem);
                return r;
        }
        free(c->problem);
        c->problem = NULL;
        if (c->identity && identity_equal(c->identity, fresh))
                return 0;
        identity_free(c->identity);
        c->identity = TAKE_PTR(fresh);
        return 1;
}

static int copy_text(const char *s, char **ret) {
        *ret = s ? strdup(s) : NULL;
        return s && !*ret ? -ENOMEM : 0;
}

static int default_product_info(char **ret) {
        struct utsname u;

        if (uname(&u) < 0)
                (void) strcpy(u.machine, "unknown");
        return asprintf(ret, "iothubd/" PROJECT_VERSION " (Linux; %s)", u.machine) < 0 ? -ENOMEM : 0;
}

int credentials_new(const CredentialsOptions *options, Credentials **ret) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        const char *directory = getenv("CREDENTIALS_DIRECTORY");
        int r;

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (Credentials) { .token_lifetime_usec = options->token_lifetime_usec };

        if (copy_text(options->connection_string, &c->connection_string) < 0 ||
            copy_text(options->connection_string_file, &c->connection_string_file) < 0 ||
            copy_text(options->model_id, &c->model_id) < 0)
                return -ENOMEM;
        r = options->product_info ? copy_text(options->product_info, &c->product_info)
                                  : default_product_info(&c->product_info);
        if (r < 0) {
                c->product_info = NULL;
                return r;
        }
        if (directory && asprintf(&c->systemd_file, "%s/" SYSTEMD_CREDENTIAL, directory) < 0) {
                c->systemd_file = NULL;
                return -ENOMEM;
        }
        r = credentials_reload(c);
        if (r == -ENOMEM)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

const char *credentials_problem(Credentials *c) {
        return c->identity ? NULL : c->problem;
}

const char *credentials_host(Credentials *c) {
        return c->identity->host;
}

const char *credentials_connect_host(Credentials *c) {
        return c->identity->connect_host;
}

unsigned credentials_connect_port(Credentials *c, unsigned default_port) {
        return c->identity->connect_port ? c->identity->connect_port : default_port;
}

const char *credentials_device_id(Credentials *c) {
        return c->identity->string.device_id;
}

const char *credentials_module_id(Credentials *c) {
        return c->identity->string.module_id;
}

const char *credentials_client_id(Credentials *c) {
        return c->identity->client_id;
}

const char *credentials_user_name(Credentials *c) {
        return c->identity->user_name;
}

const char *credentials_topic_prefix(Credentials *c) {
        return c->identity->topic_prefix;
}

static int copy_ready_made_token(const char *token, char **ret, uint64_t *ret_expiry_sec) {
        _cleanup_(sas_token_done) SasToken t = {};
        int r = sas_token_parse(token, &t);

        if (r < 0)
                return r;
        *ret = strdup(token);
        if (!*ret)
                return -ENOMEM;
        *ret_expiry_sec = t.se_sec;
        return 0;
}

int credentials_make_token(Credentials *c, usec_t realtime_now_usec, char **ret, uint64_t *ret_expiry_sec) {
        const ConnectionString *s = &c->identity->string;
        _cleanup_free_ char *resource = NULL;
        uint64_t expiry_sec;
        int r;

        if (s->shared_access_signature)
                return copy_ready_made_token(s->shared_access_signature, ret, ret_expiry_sec);

        r = sas_resource_device(c->identity->host, s->device_id, s->module_id, &resource);
        if (r < 0)
                return r;
        expiry_sec = usec_add(realtime_now_usec, c->token_lifetime_usec) / USEC_PER_SEC;
        r = sas_token_make(s->shared_access_key, resource, expiry_sec, /* policy= */ NULL, ret);
        if (r < 0)
                return r;
        *ret_expiry_sec = expiry_sec;
        return 0;
}
