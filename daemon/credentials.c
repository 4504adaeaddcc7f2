#include "daemon/credentials.h"

#include <assert.h>
#include <sys/utsname.h>

#include "daemon/credentials-certificate.h"
#include "daemon/credentials-file.h"
#include "daemon/credentials-key.h"
#include "daemon/log.h"
#include "lib/connection-string.h"
#include "lib/hub-topic.h"
#include "lib/sas-token.h"
#include "lib/string-util.h"

#define FILE_BYTES_MAX 8192U /* a connection string has a few hundred */

/* What one connection string comes to; replaced as a whole. */
typedef struct Identity {
        ConnectionString string;
        char *host, *connect_host;
        unsigned connect_port; /* 0: none was given */
        char *client_id, *user_name, *topic_prefix;
} Identity;

/* One place that a connection string comes from. */
typedef struct Source {
        char *text;         /* as it stands in the configuration */
        char *file;         /* of the configuration */
        char *systemd_file; /* may be missing */
        char *problem;      /* of the last read; NULL when it went well */
        Identity *identity; /* the last one that was good */
} Source;

typedef enum Role {
        ROLE_PRIMARY,
        ROLE_SECONDARY,
        _ROLE_MAX,
} Role;

static const struct {
        const char *name, *systemd_credential, *setting;
} roles[_ROLE_MAX] = {
        [ROLE_PRIMARY] = { "primary", "connection-string", "connection_string_file" },
        [ROLE_SECONDARY] = { "secondary", "secondary-connection-string",
                             "secondary_connection_string_file" },
};

/* Where a part of the certificate comes from. */
typedef struct Place {
        char *setting;
        char *systemd_file; /* may be missing */
} Place;

struct Credentials {
        Source sources[_ROLE_MAX];
        Place certificate_file, private_key, passphrase_file;
        char *key_provider;
        ClientCertificate *certificate; /* the last one that was good, with x509=true */
        char *certificate_problem;      /* of the last read */
        char *product_info, *model_id;
        usec_t token_lifetime_usec;

        /* Whose identities are in use; the first gives the names. */
        Role keys[CREDENTIALS_KEYS_MAX];
        unsigned n_keys;
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

static void place_done(Place *p) {
        free(p->setting);
        free(p->systemd_file);
}

static void source_done(Source *s) {
        erase_and_free(s->text);
        free(s->file);
        free(s->systemd_file);
        free(s->problem);
        identity_free(s->identity);
}

Credentials *credentials_free(Credentials *c) {
        if (!c)
                return NULL;
        for (Role i = 0; i < _ROLE_MAX; i++)
                source_done(&c->sources[i]);
        place_done(&c->certificate_file);
        place_done(&c->private_key);
        place_done(&c->passphrase_file);
        free(c->key_provider);
        client_certificate_unref(c->certificate);
        free(c->certificate_problem);
        free(c->product_info);
        free(c->model_id);
        free(c);
        return NULL;
}

static int identity_fill(Identity *i, const Credentials *c) {
        const ConnectionString *s = &i->string;
        unsigned port;
        int r;

        r = host_port_split(s->host_name, 0, &i->host, &port);
        if (r < 0)
                return r;
        r = host_port_split(s->gateway_host_name ? s->gateway_host_name : s->host_name, 0,
                            &i->connect_host, &i->connect_port);
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
static int identity_new(const Credentials *c, Role role, const char *text, const char *source,
                        Identity **ret, char **reterr_problem) {
        _cleanup_(identity_freep) Identity *i = NULL;
        _cleanup_free_ char *reason = NULL;
        int r;

        i = malloc(sizeof(*i));
        if (!i)
                return -ENOMEM;
        *i = (Identity){};

        r = connection_string_parse(text, CONNECTION_STRING_DEVICE, &i->string, &reason);
        if (r == -EINVAL)
                return credentials_fail(r, reterr_problem,
                                        "The connection string in %s is not usable: %s", source,
                                        reason);
        if (r < 0)
                return r;
        if (i->string.x509 && role == ROLE_SECONDARY)
                return credentials_fail(-EINVAL, reterr_problem,
                                        "The secondary connection string in %s says x509=true, but "
                                        "its place is for a second key: a new certificate replaces "
                                        "the old one in its file",
                                        source);
        if (hub_device_id_check(i->string.device_id, /* for_mqtt= */ true) < 0 ||
            (i->string.module_id &&
             hub_device_id_check(i->string.module_id, /* for_mqtt= */ true) < 0))
                return credentials_fail(-EINVAL, reterr_problem,
                                        "The id in the connection string in %s contains + or #, "
                                        "which MQTT topics cannot carry: "
                                        "register the device under another id",
                                        source);
        r = identity_fill(i, c);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(i);
        return 0;
}

/* 1, 0 (a secondary one was not asked for), or -errno. */
static int read_identity(const Credentials *c, Role role, Identity **ret, char **reterr_problem) {
        _cleanup_(erase_and_freep) char *text = NULL;
        const Source *s = &c->sources[role];
        const char *path = s->file;
        int r;

        if (s->text) {
                r = identity_new(c, role, s->text, "the configuration (connection_string)", ret,
                                 reterr_problem);
                return r < 0 ? r : 1;
        }
        if (!path && s->systemd_file && access(s->systemd_file, F_OK) == 0)
                path = s->systemd_file;
        if (!path && role == ROLE_SECONDARY)
                return 0;
        if (!path)
                return credentials_fail(-ENOENT, reterr_problem,
                                        "No connection string is configured: set %s in "
                                        "iothubd.conf, or LoadCredential=%s:PATH in "
                                        "the service",
                                        roles[role].setting, roles[role].systemd_credential);
        r = credentials_read_file(
                        path, FILE_BYTES_MAX, /* is_secret= */ true,
                        "the connection string of the device",
                        role == ROLE_PRIMARY ?
                                        " (iothubctl device connection-string ID prints it)" :
                                        " (iothubctl device connection-string --secondary ID "
                                        "prints it)",
                        &text, reterr_problem);
        if (r >= 0)
                r = identity_new(c, role, text, path, ret, reterr_problem);
        if (r < 0)
                credentials_add_restart(path, reterr_problem);
        return r < 0 ? r : 1;
}

static bool same_text(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

static bool same_device(const Identity *a, const Identity *b) {
        return same_text(a->string.host_name, b->string.host_name) &&
               same_text(a->string.gateway_host_name, b->string.gateway_host_name) &&
               same_text(a->string.device_id, b->string.device_id) &&
               same_text(a->string.module_id, b->string.module_id);
}

static bool identity_equal(const Identity *a, const Identity *b) {
        if (!a || !b)
                return a == b;
        return same_device(a, b) && a->string.x509 == b->string.x509 &&
               same_text(a->string.shared_access_key, b->string.shared_access_key) &&
               same_text(a->string.shared_access_signature, b->string.shared_access_signature);
}

/* Remembers what is wrong, and tells it where somebody would not hear of it otherwise: without any
 * credentials the uplink tells it as its reason to hold. This runs after each refusal, so one and
 * the same fault is told once. */
static void set_problem(Credentials *c, Role role, char *problem, bool is_read) {
        Source *s = &c->sources[role];

        if (problem && c->n_keys > 0 && !same_text(problem, s->problem))
                log_event(LOG_WARNING, MSG_CREDENTIALS_UNUSABLE, NULL, "%s. %s", problem,
                          is_read     ? "It is not used" :
                          s->identity ? "The credentials read before stay in use" :
                                        "The other connection string is used alone");
        free(s->problem);
        s->problem = problem;
}

/* Takes what the role's source holds now. 1 when that is something else than before, 0, or -errno.
 */
static int reload_source(Credentials *c, Role role, char **reterr_problem) {
        _cleanup_(identity_freep) Identity *fresh = NULL;
        Source *s = &c->sources[role];
        int r = read_identity(c, role, &fresh, reterr_problem);

        if (r < 0)
                return r;
        if (identity_equal(s->identity, fresh))
                return 0;
        identity_free(s->identity);
        s->identity = TAKE_PTR(fresh);
        return 1;
}

static const char *path_of(const Place *p) {
        if (p->setting)
                return p->setting;
        return p->systemd_file && access(p->systemd_file, F_OK) == 0 ? p->systemd_file : NULL;
}

static int read_certificate(const Credentials *c, ClientCertificate **ret, char **reterr_problem) {
        const ClientCertificateOptions options = {
                .certificate_file = path_of(&c->certificate_file),
                .private_key = path_of(&c->private_key),
                .passphrase_file = path_of(&c->passphrase_file),
                .key_provider = c->key_provider,
        };

        if (!options.certificate_file)
                return credentials_fail(-ENOENT, reterr_problem,
                                        "The connection string says x509=true and no certificate "
                                        "is configured: set certificate_file and private_key in "
                                        "iothubd.conf, or LoadCredential=certificate:PATH and "
                                        "private-key:PATH in the service");
        return client_certificate_new(&options, ret, reterr_problem);
}

/* As reload_source(); without x509=true there is none. */
static int reload_certificate(Credentials *c) {
        const Identity *primary = c->sources[ROLE_PRIMARY].identity;
        _cleanup_(client_certificate_unrefp) ClientCertificate *fresh = NULL;
        _cleanup_free_ char *problem = NULL;
        int r = 0;

        if (primary && primary->string.x509)
                r = read_certificate(c, &fresh, &problem);
        if (problem && c->certificate && !same_text(problem, c->certificate_problem))
                log_event(LOG_WARNING, MSG_CREDENTIALS_UNUSABLE, NULL,
                          "%s. The certificate read before stays in use", problem);
        free(c->certificate_problem);
        c->certificate_problem = TAKE_PTR(problem);
        if (r < 0 || client_certificate_equal(c->certificate, fresh))
                return r;
        client_certificate_unref(c->certificate);
        c->certificate = TAKE_PTR(fresh);
        return 1;
}

/* A secondary connection string brings a second key of the same device and nothing else. */
static int choose_keys(Credentials *c, char **reterr_problem) {
        const Identity *primary = c->sources[ROLE_PRIMARY].identity,
                       *secondary = c->sources[ROLE_SECONDARY].identity;

        c->n_keys = 0;
        if (primary && (!primary->string.x509 || c->certificate))
                c->keys[c->n_keys++] = ROLE_PRIMARY;
        if (primary && secondary && primary->string.x509)
                return credentials_fail(-EINVAL, reterr_problem,
                                        "The secondary connection string has a key, but the first "
                                        "says x509=true: a device has either keys or a "
                                        "certificate");
        if (primary && secondary && !same_device(primary, secondary))
                return credentials_fail(-EINVAL, reterr_problem,
                                        "The secondary connection string is for another hub or "
                                        "device than the first (%s): take both from the same "
                                        "device",
                                        primary->string.device_id);
        if (secondary)
                c->keys[c->n_keys++] = ROLE_SECONDARY;
        return 0;
}

int credentials_reload(Credentials *c) {
        _cleanup_free_ char *mismatch = NULL;
        char *problems[_ROLE_MAX] = {};
        int results[_ROLE_MAX], certificate, r;

        for (Role i = 0; i < _ROLE_MAX; i++)
                results[i] = reload_source(c, i, &problems[i]);
        certificate = reload_certificate(c);
        r = choose_keys(c, &mismatch);
        if (mismatch && !problems[ROLE_SECONDARY])
                set_problem(c, ROLE_SECONDARY, TAKE_PTR(mismatch), /* is_read= */ true);
        else
                set_problem(c, ROLE_SECONDARY, problems[ROLE_SECONDARY], /* is_read= */ false);
        set_problem(c, ROLE_PRIMARY, problems[ROLE_PRIMARY], /* is_read= */ false);

        if (r == -ENOMEM)
                return r;
        if (results[ROLE_PRIMARY] > 0 || results[ROLE_SECONDARY] > 0 || certificate > 0)
                return 1;
        return results[ROLE_PRIMARY] < 0 ? results[ROLE_PRIMARY] : certificate;
}

static int default_product_info(char **ret) {
        struct utsname u;

        if (uname(&u) < 0)
                (void) strcpy(u.machine, "unknown");
        return format_string(ret, "iothubd/" PROJECT_VERSION " (Linux; %s)", u.machine);
}

static int source_init(Source *s, Role role, const char *text, const char *file) {
        if (copy_string(&s->text, text) < 0 || copy_string(&s->file, file) < 0)
                return -ENOMEM;
        return credentials_systemd_path(roles[role].systemd_credential, &s->systemd_file);
}

static int place_init(Place *p, const char *setting, const char *systemd_credential) {
        int r = copy_string(&p->setting, setting);

        return r < 0 ? r : credentials_systemd_path(systemd_credential, &p->systemd_file);
}

static int certificate_init(Credentials *c, const CredentialsOptions *o) {
        int r;

        r = place_init(&c->certificate_file, o->certificate_file, "certificate");
        if (r >= 0)
                r = place_init(&c->private_key, o->private_key, "private-key");
        if (r >= 0)
                r = place_init(&c->passphrase_file, o->private_key_passphrase_file,
                               "private-key-passphrase");
        return r < 0 ? r : copy_string(&c->key_provider, o->key_provider);
}

int credentials_new(const CredentialsOptions *options, Credentials **ret) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        int r;

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (Credentials){ .token_lifetime_usec = options->token_lifetime_usec };

        r = source_init(&c->sources[ROLE_PRIMARY], ROLE_PRIMARY, options->connection_string,
                        options->connection_string_file);
        if (r >= 0)
                r = source_init(&c->sources[ROLE_SECONDARY], ROLE_SECONDARY, NULL,
                                options->secondary_connection_string_file);
        if (r >= 0)
                r = certificate_init(c, options);
        if (r >= 0)
                r = copy_string(&c->model_id, options->model_id);
        if (r >= 0)
                r = options->product_info ? copy_string(&c->product_info, options->product_info) :
                                            default_product_info(&c->product_info);
        if (r < 0)
                return r;
        r = credentials_reload(c);
        if (r == -ENOMEM)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

/* The first key's: all are of one device. */
static const Identity *identity_of(const Credentials *c) {
        return c->sources[c->keys[0]].identity;
}

size_t credentials_files(Credentials *c, const char *ret[CREDENTIALS_FILES_MAX]) {
        const char *settings[] = { c->sources[ROLE_PRIMARY].file, c->sources[ROLE_SECONDARY].file,
                                   c->certificate_file.setting, c->private_key.setting,
                                   c->passphrase_file.setting };
        size_t n = 0;

        static_assert(ELEMENTSOF(settings) <= CREDENTIALS_FILES_MAX, "they must fit");
        for (size_t i = 0; i < ELEMENTSOF(settings); i++)
                if (settings[i] && !private_key_is_uri(settings[i]) &&
                    !credentials_is_snapshot(settings[i]))
                        ret[n++] = settings[i];
        return n;
}

const char *credentials_problem(Credentials *c) {
        if (c->n_keys > 0)
                return NULL;
        return c->sources[ROLE_PRIMARY].problem ? c->sources[ROLE_PRIMARY].problem :
                                                  c->certificate_problem;
}

bool credentials_problem_is_certificate(Credentials *c) {
        return c->n_keys == 0 && !c->sources[ROLE_PRIMARY].problem && c->certificate_problem;
}

ClientCertificate *credentials_certificate(Credentials *c) {
        return c->certificate;
}

unsigned credentials_n_keys(Credentials *c) {
        return c->n_keys;
}

const char *credentials_key_name(Credentials *c, unsigned key) {
        assert(key < c->n_keys);
        return roles[c->keys[key]].name;
}

const char *credentials_host(Credentials *c) {
        return identity_of(c)->host;
}

const char *credentials_connect_host(Credentials *c) {
        return identity_of(c)->connect_host;
}

unsigned credentials_connect_port(Credentials *c, unsigned default_port) {
        return identity_of(c)->connect_port ? identity_of(c)->connect_port : default_port;
}

const char *credentials_device_id(Credentials *c) {
        return identity_of(c)->string.device_id;
}

const char *credentials_module_id(Credentials *c) {
        return identity_of(c)->string.module_id;
}

const char *credentials_client_id(Credentials *c) {
        return identity_of(c)->client_id;
}

const char *credentials_user_name(Credentials *c) {
        return identity_of(c)->user_name;
}

const char *credentials_topic_prefix(Credentials *c) {
        return identity_of(c)->topic_prefix;
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

int credentials_make_token(Credentials *c, unsigned key, usec_t realtime_now_usec, char **ret,
                           uint64_t *ret_expiry_sec) {
        _cleanup_free_ char *resource = NULL;
        const ConnectionString *s;
        uint64_t expiry_sec;
        int r;

        assert(key < c->n_keys);
        s = &c->sources[c->keys[key]].identity->string;
        if (s->x509) {
                *ret = NULL;
                *ret_expiry_sec = UINT64_MAX;
                return 0;
        }
        if (s->shared_access_signature)
                return copy_ready_made_token(s->shared_access_signature, ret, ret_expiry_sec);

        r = sas_resource_device(identity_of(c)->host, s->device_id, s->module_id, &resource);
        if (r < 0)
                return r;
        expiry_sec = usec_add(realtime_now_usec, c->token_lifetime_usec) / USEC_PER_SEC;
        r = sas_token_make(s->shared_access_key, resource, expiry_sec, /* policy= */ NULL, ret);
        if (r < 0)
                return r;
        *ret_expiry_sec = expiry_sec;
        return 0;
}
