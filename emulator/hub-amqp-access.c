#include "emulator/hub-amqp-access.h"

#include <assert.h>
#include <strings.h>

#include <openssl/crypto.h>

#include "emulator/hub-access.h"
#include "lib/property-bag.h"
#include "lib/sas-token.h"

static void grant_done(AmqpGrant *g) {
        free(g->resource);
        *g = (AmqpGrant) { 0 };
}

void amqp_grants_done(AmqpGrants *g) {
        for (size_t i = 0; i < g->n; i++)
                grant_done(g->items + i);
        g->n = 0;
}

static bool same_resource(const char *a, const char *b) {
        return a && b ? strcasecmp(a, b) == 0 : a == b;
}

/* Takes the grant over. A renewed token replaces the old one, an expired one makes room. */
static int add(AmqpGrants *g, AmqpGrant *grant, usec_t now_usec, const char **reterr_reason) {
        size_t at = g->n;

        for (size_t i = 0; i < g->n; i++)
                if (same_resource(g->items[i].resource, grant->resource)) {
                        at = i;
                        break;
                } else if (g->items[i].expires_usec <= now_usec)
                        at = i;
        if (at == AMQP_GRANTS_MAX) {
                *reterr_reason = "too many tokens on one connection";
                return -EACCES;
        }
        if (at == g->n)
                g->n++;
        grant_done(g->items + at);
        g->items[at] = *grant;
        *grant = (AmqpGrant) { 0 };
        return 0;
}

static bool is_key(const char *password, const char *key) {
        return key && strlen(password) == strlen(key) &&
               CRYPTO_memcmp(password, key, strlen(key)) == 0;
}

static int add_key(AmqpGrants *g, Hub *h, const char *policy, const char *password,
                   usec_t now_usec, const char **reterr_reason) {
        _cleanup_(erase_and_freep) char *primary = NULL, *secondary = NULL;
        AmqpGrant grant = { .expires_usec = USEC_INFINITY };
        int r;

        r = hub_policy_get(h, policy, &primary, &secondary, &grant.rights);
        if (r == -ENOENT) {
                *reterr_reason = "there is no policy of that name";
                return -EACCES;
        }
        if (r < 0)
                return r;
        if (!is_key(password, primary) && !is_key(password, secondary)) {
                *reterr_reason = "the password is no key of the policy";
                return -EACCES;
        }
        return add(g, &grant, now_usec, reterr_reason);
}

int amqp_grants_add_plain(AmqpGrants *g, Hub *h, const char *user, const char *password,
                          usec_t now_usec, const char **reterr_reason) {
        const char *at = strchr(user, '@');

        if (at && strncasecmp(at, "@sas.root.", 10) != 0) {
                *reterr_reason = strncasecmp(at, "@sas.", 5) == 0
                                                 ? "devices are served over MQTT only here"
                                                 : "the user name is none: POLICY@sas.root.HUB or "
                                                   "POLICY is needed";
                return -EACCES;
        }
        if (!at)
                return add_key(g, h, user, password, now_usec, reterr_reason);
        /* The token names its policy itself; the hub's name there is one that some clients cut short
         * at the first dot, others do not. */
        return amqp_grants_add_token(g, h, password, now_usec, reterr_reason);
}

/* "sb://HOST/ENTITY" and "amqps://HOST/..": the path counts, the scheme tells what the key is. */
static int decode_resource(const SasToken *t, char **ret, SasKeyForm *ret_form) {
        _cleanup_free_ char *decoded = NULL;
        const char *rest;
        size_t n;
        int r;

        r = percent_decode(t->sr, strlen(t->sr), &decoded, &n);
        if (r < 0)
                return r;
        if (strlen(decoded) != n)
                return -EINVAL;
        rest = strstr(decoded, "://");
        *ret_form = strncasecmp(decoded, "sb://", 5) == 0 ? SAS_KEY_TEXT : SAS_KEY_BASE64;
        *ret = strdup(rest ? rest + 3 : decoded);
        return *ret ? 0 : -ENOMEM;
}

static int verify(Hub *h, const SasToken *t, SasKeyForm form, unsigned *ret_rights,
                  const char **reterr_reason) {
        _cleanup_(erase_and_freep) char *primary = NULL, *secondary = NULL;
        int r;

        if (!t->skn || !*t->skn) {
                *reterr_reason = "the token names no policy (skn)";
                return -EACCES;
        }
        r = hub_policy_get(h, t->skn, &primary, &secondary, ret_rights);
        if (r == -ENOENT) {
                *reterr_reason = "the token names an unknown policy (skn)";
                return -EACCES;
        }
        if (r < 0)
                return r;
        r = sas_token_verify_with(t, primary, form);
        if (r == 0)
                r = sas_token_verify_with(t, secondary, form);
        if (r == -ENOMEM)
                return r;
        if (r <= 0) {
                *reterr_reason = "the token is not signed with a key of its policy";
                return -EACCES;
        }
        return 0;
}

int amqp_grants_add_token(AmqpGrants *g, Hub *h, const char *token, usec_t now_usec,
                          const char **reterr_reason) {
        _cleanup_(sas_token_done) SasToken t = { 0 };
        AmqpGrant grant = { 0 };
        SasKeyForm form;
        int r;

        r = sas_token_parse(token, &t);
        if (r >= 0)
                r = decode_resource(&t, &grant.resource, &form);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                *reterr_reason = "the token is none: SharedAccessSignature sr=..&sig=..&se=..&skn=.. "
                                 "is needed";
                return -EACCES;
        }
        grant.expires_usec = t.se_sec > UINT64_MAX / USEC_PER_SEC ? USEC_INFINITY
                                                                  : t.se_sec * USEC_PER_SEC;
        if (grant.expires_usec <= now_usec) {
                *reterr_reason = "the token has expired (se); look at the clocks";
                r = -EACCES;
        } else if (!hub_is_host(h, grant.resource, strcspn(grant.resource, "/"))) {
                *reterr_reason = "the token is for another hub (sr)";
                r = -EACCES;
        } else
                r = verify(h, &t, form, &grant.rights, reterr_reason);
        if (r >= 0)
                r = add(g, &grant, now_usec, reterr_reason);
        grant_done(&grant);
        return r;
}

void amqp_grants_expire(AmqpGrants *g, usec_t now_usec) {
        size_t n = 0;

        for (size_t i = 0; i < g->n; i++)
                if (g->items[i].expires_usec > now_usec)
                        g->items[n++] = g->items[i];
                else
                        grant_done(g->items + i);
        g->n = n;
}

int amqp_grants_check(const AmqpGrants *g, const Hub *h, const char *path, HubRight right,
                      usec_t now_usec, const char **reterr_reason) {
        int result = -EACCES;

        assert(path);

        *reterr_reason = g->n == 0 ? "nobody has signed in on this connection, and no token was put"
                                   : "no token on this connection is for it";
        for (size_t i = 0; i < g->n; i++) {
                const AmqpGrant *grant = g->items + i;
                int r = 1;

                if (grant->resource)
                        r = hub_resource_covers(h, grant->resource, path, /* fold_case= */ true);
                if (r < 0)
                        return r;
                if (r == 0)
                        continue;
                if (grant->expires_usec <= now_usec) {
                        *reterr_reason = "the token has expired";
                        continue;
                }
                if (grant->rights & right)
                        return 0;
                result = -EPERM;
                *reterr_reason = "the policy lacks the right to it";
        }
        return result;
}
