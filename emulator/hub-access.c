#include "emulator/hub-access.h"

#include <assert.h>
#include <strings.h>

#include <openssl/x509_vfy.h>

#include "lib/property-bag.h"
#include "lib/sas-token.h"
#include "lib/string-util.h"
#include "lib/utf8.h"

static bool same(const char *a, size_t n_a, const char *b, size_t n_b, bool fold_case) {
        return n_a == n_b && (fold_case ? strncasecmp(a, b, n_a) : strncmp(a, b, n_a)) == 0;
}

/* One segment of the resource against one of the path. 1, 0 or -ENOMEM. */
static int segment_matches(const char *a, size_t n_a, const char *b, size_t n_b, bool fold_case) {
        _cleanup_free_ char *decoded_a = NULL, *decoded_b = NULL;
        size_t n_da, n_db;

        if (same(a, n_a, b, n_b, fold_case))
                return 1;
        if (percent_decode(a, n_a, &decoded_a, &n_da) < 0 ||
            percent_decode(b, n_b, &decoded_b, &n_db) < 0)
                return 0;
        return same(decoded_a, n_da, b, n_b, fold_case) ||
               same(a, n_a, decoded_b, n_db, fold_case) ||
               same(decoded_a, n_da, decoded_b, n_db, fold_case);
}

int hub_resource_covers(const Hub *h, const char *resource, const char *path, bool fold_case) {
        _cleanup_free_ char *again = NULL;
        size_t n;
        int r;

        /* Slashes that were encoded twice: clients of old do that, and the hub takes it. */
        if (!strchr(resource, '/') && strcasestr(resource, "%2f")) {
                r = percent_decode(resource, strlen(resource), &again, &n);
                if (r < 0)
                        return r == -ENOMEM ? r : 0;
                resource = again;
        }

        n = strcspn(resource, "/");
        if (!hub_is_host(h, resource, n))
                return 0;
        resource += n;

        for (;;) {
                size_t n_resource, n_path;

                resource += strspn(resource, "/");
                path += strspn(path, "/");
                if (!*resource)
                        return 1;
                n_resource = strcspn(resource, "/");
                n_path = strcspn(path, "/");
                r = segment_matches(resource, n_resource, path, n_path, fold_case);
                if (r <= 0)
                        return r;
                resource += n_resource;
                path += n_path;
        }
}

static int decode_resource(const SasToken *t, char **ret) {
        size_t n;
        int r;

        r = percent_decode(t->sr, strlen(t->sr), ret, &n);
        if (r == 0 && strlen(*ret) != n) {
                free(*ret);
                return -EINVAL;
        }
        return r;
}

/* 1, 0 or -ENOMEM. */
static int signed_by_either(const SasToken *t, const char *primary, const char *secondary) {
        int r;

        r = primary ? sas_token_verify(t, primary) : 0;
        if (r != 0 && r != -EINVAL)
                return r;
        r = secondary ? sas_token_verify(t, secondary) : 0;
        return r == -EINVAL ? 0 : r;
}

static int check_policy(Hub *h, const SasToken *t, unsigned right, const char **reterr_reason) {
        _cleanup_(erase_and_freep) char *primary = NULL, *secondary = NULL;
        unsigned rights;
        int r;

        r = hub_policy_get(h, t->skn, &primary, &secondary, &rights);
        if (r == -ENOENT) {
                *reterr_reason = "the token names an unknown policy (skn)";
                return -EACCES;
        }
        if (r < 0)
                return r;
        r = signed_by_either(t, primary, secondary);
        if (r < 0)
                return r;
        if (r == 0) {
                *reterr_reason = "the token is not signed with a key of its policy";
                return -EACCES;
        }
        if ((rights & right) == 0) {
                *reterr_reason = "the policy lacks the right for this call";
                return -EPERM;
        }
        return 0;
}

/* What every token must show: form, time, resource. */
static int check_token(Hub *h, const char *text, const char *path, bool fold_case, usec_t now_usec,
                       SasToken *t, const char **reterr_reason) {
        _cleanup_free_ char *resource = NULL;
        int r;

        r = sas_token_parse(text, t);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                *reterr_reason = "the token is none: SharedAccessSignature sr=..&sig=..&se=.. is "
                                 "needed";
                return -EACCES;
        }
        if (t->se_sec <= now_usec / USEC_PER_SEC) {
                *reterr_reason = "the token has expired (se); look at the clocks";
                return -EACCES;
        }
        r = decode_resource(t, &resource);
        if (r == 0)
                r = hub_resource_covers(h, resource, path, fold_case);
        if (r == -ENOMEM)
                return r;
        if (r <= 0) {
                *reterr_reason = "the token is for another resource (sr)";
                return -EACCES;
        }
        return 0;
}

int hub_access_service(Hub *h, const char *authorization, const char *path, HubRight right,
                       usec_t now_usec, const char **reterr_reason) {
        _cleanup_(sas_token_done) SasToken t = { 0 };
        int r;

        if (!authorization) {
                *reterr_reason = "the Authorization header is missing";
                return -EACCES;
        }
        r = check_token(h, authorization, path, /* fold_case= */ true, now_usec, &t, reterr_reason);
        if (r < 0)
                return r;
        if (!t.skn) {
                *reterr_reason = "the token names no policy (skn)";
                return -EACCES;
        }
        return check_policy(h, &t, right, reterr_reason);
}

/* The value of a field in "api-version=..&model-id=..", up to the next "&"; NULL: it is not there. */
static const char *find_field(const char *fields, const char *name, size_t *ret_size) {
        for (; *fields; fields += strspn(fields, "&")) {
                const char *value = startswith(fields, name);

                if (value && *value == '=') {
                        *ret_size = strcspn(value + 1, "&");
                        return value + 1;
                }
                fields += strcspn(fields, "&");
        }
        return NULL;
}

/* "HOST/CLIENTID/?api-version=..": the question mark is missing in some clients. */
static int check_user_name(Hub *h, const HubCredentials *c, const char **reterr_reason) {
        const char *s = c->user_name, *rest;
        size_t n = strcspn(s, "/");

        if (!s[n] || !hub_is_host(h, s, n)) {
                *reterr_reason = "the user name does not begin with this hub's name";
                return -EACCES;
        }
        rest = startswith(s + n + 1, c->client_id);
        if (!rest || *rest != '/') {
                *reterr_reason = "the user name does not hold the client id";
                return -EACCES;
        }
        rest++;
        if (*rest == '?')
                rest++;
        if (!find_field(rest, "api-version", &n) || n == 0) {
                *reterr_reason = "the user name has no api-version";
                return -EACCES;
        }
        return 0;
}

int hub_access_model_id(const char *user_name, char **ret) {
        const char *fields = strrchr(user_name, '/'), *value;
        size_t n;
        int r;

        *ret = NULL;
        if (!fields)
                return 0;
        fields++;
        value = find_field(*fields == '?' ? fields + 1 : fields, "model-id", &n);
        if (!value || n == 0)
                return 0;
        r = percent_decode(value, n, ret, &n);
        if (r == -EINVAL || (r >= 0 && (strlen(*ret) != n || !utf8_is_valid(*ret, n)))) {
                free(*ret);
                *ret = NULL; /* a model id that is none is no reason to keep a device out */
                r = 0;
        }
        return r;
}

static int check_certificate(const HubDevice *d, const HubCredentials *c,
                             const char **reterr_reason) {
        const char *known[] = { d->primary_thumbprint, d->secondary_thumbprint };

        if (!c->sha256) {
                *reterr_reason = "the device signs in with a certificate, and none was shown";
                return -EACCES;
        }
        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                if (known[i] &&
                    (strcasecmp(known[i], c->sha1) == 0 || strcasecmp(known[i], c->sha256) == 0)) {
                        *reterr_reason = X509_verify_cert_error_string(c->dates);
                        return c->dates == X509_V_OK ? 0 : -EACCES;
                }
        *reterr_reason = "the certificate's thumbprint is not the device's";
        return -EACCES;
}

/* The subject's common name is the device's id, or DEVICE/MODULE. */
static int check_signed_certificate(const HubCredentials *c, const char **reterr_reason) {
        if (!c->sha256) {
                *reterr_reason = "the device signs in with a certificate, and none was shown";
                return -EACCES;
        }
        if (c->chain != X509_V_OK) {
                /* The common case in words of its own; ctl ca adds the authority. */
                *reterr_reason = c->chain == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY ||
                                                 c->chain == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN ||
                                                 c->chain == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT ?
                                         "no authority that the hub knows (ctl ca) has signed the "
                                         "certificate, or what lies between them was not sent" :
                                         X509_verify_cert_error_string(c->chain);
                return -EACCES;
        }
        if (!streq(c->common_name, c->client_id)) {
                *reterr_reason = "the certificate's common name is not the device's id";
                return -EACCES;
        }
        return 0;
}

/* A device's key speaks for the device alone, so the resource must name it; the bare hub needs a
 * policy. */
static bool names_the_device(const SasToken *t) {
        return strchr(t->sr, '/') || strcasestr(t->sr, "%2f");
}

static int check_device_token(Hub *h, const HubDevice *d, const HubCredentials *c, usec_t now_usec,
                              HubAdmission *ret, const char **reterr_reason) {
        _cleanup_(sas_token_done) SasToken t = { 0 };
        _cleanup_free_ char *path = NULL;
        int r;

        if (!c->password || !*c->password) {
                *reterr_reason = "no token: the password is empty";
                return -EACCES;
        }
        r = d->module_id ? format_string(&path, "/devices/%s/modules/%s", d->id, d->module_id)
                         : format_string(&path, "/devices/%s", d->id);
        if (r < 0)
                return r;
        r = check_token(h, c->password, path, /* fold_case= */ false, now_usec, &t, reterr_reason);
        if (r < 0)
                return r;

        if (t.skn && *t.skn) {
                r = check_policy(h, &t, HUB_RIGHT_DEVICE_CONNECT, reterr_reason);
                if (r < 0)
                        return r == -EPERM ? -EACCES : r;
                ret->auth.scope = HUB_AUTH_SCOPE_HUB;
        } else {
                r = names_the_device(&t) ? signed_by_either(&t, d->primary_key, d->secondary_key)
                                         : 0;
                if (r < 0)
                        return r;
                if (r == 0) {
                        *reterr_reason = "the token is not signed with a key of the device";
                        return -EACCES;
                }
        }
        ret->expires_usec = t.se_sec > UINT64_MAX / USEC_PER_SEC ? USEC_INFINITY
                                                                 : t.se_sec * USEC_PER_SEC;
        return 0;
}

/* Client id "ID" or "ID/MID". A module is as enabled as its device. */
static int get_identity(Hub *h, const char *client_id, HubDevice *ret, const char **reterr_reason) {
        _cleanup_(hub_device_done) HubDevice device = { 0 };
        const char *slash = strchr(client_id, '/');
        _cleanup_free_ char *id = NULL;
        int r;

        id = strndup(client_id, slash ? (size_t) (slash - client_id) : strlen(client_id));
        if (!id)
                return -ENOMEM;
        r = hub_device_get(h, id, NULL, &device);
        if (r == -ENOENT) {
                *reterr_reason = "the device does not exist";
                return -EACCES;
        }
        if (r < 0)
                return r;
        if (!device.enabled) {
                *reterr_reason = "the device is disabled";
                return -EACCES;
        }
        if (!slash) {
                *ret = device;
                device = (HubDevice) { 0 };
                return 0;
        }
        r = hub_device_get(h, id, slash + 1, ret);
        if (r == -ENOENT) {
                *reterr_reason = "the device has no such module";
                return -EACCES;
        }
        return r;
}

int hub_access_device(Hub *h, const HubCredentials *c, usec_t now_usec, HubAdmission *ret,
                      const char **reterr_reason) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        HubAdmission a;
        int r;

        assert(c->client_id);
        assert(c->user_name);

        r = check_user_name(h, c, reterr_reason);
        if (r < 0)
                return r;
        r = get_identity(h, c->client_id, &d, reterr_reason);
        if (r < 0)
                return r;

        a = (HubAdmission) {
                .generation = d.generation,
                .expires_usec = USEC_INFINITY,
                .auth = { .scope = d.module_id ? HUB_AUTH_SCOPE_MODULE : HUB_AUTH_SCOPE_DEVICE },
        };
        switch (d.auth) {
        case HUB_DEVICE_AUTH_SAS:
                r = check_device_token(h, &d, c, now_usec, &a, reterr_reason);
                break;
        case HUB_DEVICE_AUTH_SELF_SIGNED:
                a.auth.type = HUB_AUTH_TYPE_X509;
                r = check_certificate(&d, c, reterr_reason);
                break;
        case HUB_DEVICE_AUTH_NONE:
                *reterr_reason = "a system module of an edge device has no key to sign in with";
                r = -EACCES;
                break;
        default:
                a.auth.type = HUB_AUTH_TYPE_X509;
                r = check_signed_certificate(c, reterr_reason);
        }
        if (r < 0)
                return r;

        *ret = a;
        return 0;
}
