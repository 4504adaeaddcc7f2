/* Tokens, for programs that speak to the hub themselves. */
#include "lib/sas-token.h"
#include "client/identity.h"
#include "client/output.h"

typedef struct TokenSettings {
        usec_t lifetime_usec;
        bool secondary;
} TokenSettings;

static const Option sas_options[] = {
        { "lifetime", 0, "SPAN", "How long it is good (default: 1h)", option_ttl,
          offsetof(TokenSettings, lifetime_usec) },
        { "secondary", 0, NULL, "Signed with the secondary key of the device or module",
          option_flag, offsetof(TokenSettings, secondary) },
        {},
};

/* The device's key speaks for it, over its own resource and without a policy. */
static int make_device_token(const HubSession *h, const IdentityName *name, const TokenSettings *s,
                             const char *host, uint64_t expiry_sec, char **ret) {
        _cleanup_identity_ struct json_object *o = NULL;
        _cleanup_free_ char *resource = NULL;
        const char *key;
        int r;

        r = identity_get(h, name, "read", &o);
        if (r != EX_OK)
                return r;
        key = identity_key(o, s->secondary);
        if (!key || !*key) {
                say_error("It has no such key: it signs in by %s", strempty(identity_auth_type(o)));
                return EX_DATAERR;
        }
        r = sas_resource_device(host, name->device, name->module, &resource);
        if (r >= 0)
                r = sas_token_make(key, resource, expiry_sec, NULL, ret);
        if (r == -EINVAL) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        return r < 0 ? say_out_of_memory() : EX_OK;
}

static int make_policy_token(const HubSession *h, const TokenSettings *s, const char *host,
                             uint64_t expiry_sec, char **ret) {
        int r;

        if (!h->login.shared_access_key) {
                say_error("The login is a token itself: with it no other can be signed");
                return EX_CONFIG;
        }
        if (s->secondary) {
                say_error("--secondary is for the token of a device or module");
                return EX_USAGE;
        }
        r = sas_token_make(h->login.shared_access_key, host, expiry_sec,
                           h->login.shared_access_key_name, ret);
        return r < 0 ? say_out_of_memory() : EX_OK;
}

static int cmd_sas(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        _cleanup_free_ char *host = NULL;
        TokenSettings s = { .lifetime_usec = USEC_PER_HOUR };
        uint64_t expiry_sec;
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        if (s.lifetime_usec < USEC_PER_SEC) {
                say_error("--lifetime: at least 1s");
                return EX_USAGE;
        }
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r != EX_OK)
                return r;
        if (hub_session_host(&h, &host) < 0)
                return say_out_of_memory();
        expiry_sec = usec_add(now_usec(CLOCK_REALTIME), s.lifetime_usec) / USEC_PER_SEC;
        if (argc == 0)
                r = make_policy_token(&h, &s, host, expiry_sec, &token);
        else
                r = make_device_token(&h,
                                      &(IdentityName){ argv[0], argc > 1 ? argv[1] : NULL }, &s,
                                      host, expiry_sec, &token);
        if (r == EX_OK)
                puts(token);
        return r;
}

const Verb verb_sas = {
        .hub = true,
        .name = "sas",
        .arguments = "[DEVICE [MODULE]]",
        .arguments_min = 0,
        .arguments_max = 2,
        .summary = "Print a token (SAS) of a device or module, or of the login's policy",
        .options = sas_options,
        .run = cmd_sas,
};
