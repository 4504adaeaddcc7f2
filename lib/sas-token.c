#include "lib/sas-token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <inttypes.h>
#include <limits.h>

#include "lib/base64.h"
#include "lib/parse-util.h"
#include "lib/property-bag.h"

#define SIGNATURE_SIZE 32 /* HMAC-SHA256 */
#define TOKEN_PREFIX "SharedAccessSignature "

/* The signature of "SR\nSE" as base64. */
static int sign_bytes(const void *key, size_t key_size, const char *sr, uint64_t expiry_sec, char **ret) {
        _cleanup_free_ char *text = NULL;
        uint8_t signature[SIGNATURE_SIZE];
        unsigned signature_size = 0;
        int n;

        if (key_size == 0 || key_size > INT_MAX)
                return -EINVAL;
        n = asprintf(&text, "%s\n%" PRIu64, sr, expiry_sec);
        if (n < 0) {
                text = NULL;
                return -ENOMEM;
        }
        if (!HMAC(EVP_sha256(), key, (int) key_size, (uint8_t *) text, (size_t) n, signature, &signature_size) ||
            signature_size != sizeof(signature))
                return -ENOMEM; /* with arguments that are right nothing else is left to fail */
        return base64_encode(signature, sizeof(signature), ret, NULL);
}

static int sign(const char *key, SasKeyForm form, const char *sr, uint64_t expiry_sec, char **ret) {
        size_t key_size;
        void *decoded;
        int r;

        if (form == SAS_KEY_TEXT)
                return sign_bytes(key, strlen(key), sr, expiry_sec, ret);
        r = base64_decode(key, strlen(key), &decoded, &key_size);
        if (r < 0)
                return r;
        r = sign_bytes(decoded, key_size, sr, expiry_sec, ret);
        explicit_bzero(decoded, key_size);
        free(decoded);
        return r;
}

int sas_token_make(const char *key_base64, const char *resource, uint64_t expiry_sec, const char *policy, char **ret) {
        return sas_token_make_with(key_base64, SAS_KEY_BASE64, resource, expiry_sec, policy, ret);
}

int sas_token_make_with(const char *key, SasKeyForm form, const char *resource, uint64_t expiry_sec, const char *policy,
                        char **ret) {
        /* Half a token opens no door, but a signature and its resource do. */
        _cleanup_(erase_and_freep) char *signature = NULL, *sig = NULL;
        _cleanup_free_ char *sr = NULL, *skn = NULL;
        char *token;
        int r;

        r = percent_encode(resource, strlen(resource), &sr);
        if (r < 0)
                return r;
        r = sign(key, form, sr, expiry_sec, &signature);
        if (r < 0)
                return r;
        r = percent_encode(signature, strlen(signature), &sig);
        if (r < 0)
                return r;
        if (policy) {
                r = percent_encode(policy, strlen(policy), &skn);
                if (r < 0)
                        return r;
        }
        if (asprintf(&token, TOKEN_PREFIX "sr=%s&sig=%s&se=%" PRIu64 "%s%s", sr, sig, expiry_sec,
                     skn ? "&skn=" : "", strempty(skn)) < 0)
                return -ENOMEM;
        *ret = token;
        return 0;
}

int sas_resource_device(const char *host, const char *device_id, const char *module_id, char **ret) {
        char *resource;

        if (asprintf(&resource, "%s/devices/%s%s%s", host, device_id, module_id ? "/modules/" : "",
                     strempty(module_id)) < 0)
                return -ENOMEM;
        *ret = resource;
        return 0;
}

/* Stores one "name=value" of a token; each may come once. */
static int parse_field(const char *s, size_t n, SasToken *t, bool *has_se) {
        const char *equals = memchr(s, '=', n), *value;
        _cleanup_free_ char *digits = NULL;
        size_t name_size, value_size;

        if (!equals)
                return -EINVAL;
        name_size = (size_t) (equals - s);
        value = equals + 1;
        value_size = n - name_size - 1;

        if (name_size == 2 && memcmp(s, "sr", 2) == 0) {
                if (t->sr || value_size == 0)
                        return -EINVAL;
                t->sr = strndup(value, value_size);
                return t->sr ? 0 : -ENOMEM;
        }
        if (name_size == 2 && memcmp(s, "se", 2) == 0) {
                if (*has_se)
                        return -EINVAL;
                digits = strndup(value, value_size);
                if (!digits)
                        return -ENOMEM;
                *has_se = true;
                return parse_u64(digits, &t->se_sec) < 0 ? -EINVAL : 0;
        }
        if (name_size == 3 && memcmp(s, "sig", 3) == 0 && !t->sig && value_size > 0)
                return percent_decode(value, value_size, &t->sig, NULL);
        if (name_size == 3 && memcmp(s, "skn", 3) == 0 && !t->skn)
                return percent_decode(value, value_size, &t->skn, NULL);
        return -EINVAL;
}

int sas_token_parse(const char *s, SasToken *ret) {
        _cleanup_(sas_token_done) SasToken t = {};
        bool has_se = false;
        int r;

        s = startswith(s, TOKEN_PREFIX);
        if (!s)
                return -EINVAL;
        for (;;) {
                size_t n = strcspn(s, "&");

                r = parse_field(s, n, &t, &has_se);
                if (r < 0)
                        return r;
                if (!s[n])
                        break;
                s += n + 1;
        }
        if (!t.sr || !t.sig || !has_se)
                return -EINVAL;
        *ret = t;
        t = (SasToken) {};
        return 0;
}

void sas_token_done(SasToken *t) {
        free(t->sr);
        erase_and_free(t->sig);
        free(t->skn);
        *t = (SasToken) {};
}

int sas_token_verify(const SasToken *t, const char *key_base64) {
        return sas_token_verify_with(t, key_base64, SAS_KEY_BASE64);
}

int sas_token_verify_with(const SasToken *t, const char *key, SasKeyForm form) {
        _cleanup_(erase_and_freep) char *expected = NULL;
        size_t n;
        int r;

        r = sign(key, form, t->sr, t->se_sec, &expected);
        if (r < 0)
                return r;
        n = strlen(expected);
        return strlen(t->sig) == n && CRYPTO_memcmp(t->sig, expected, n) == 0;
}
