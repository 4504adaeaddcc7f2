#include <ctype.h>
#include <sys/random.h>

#include <openssl/pem.h>
#include <openssl/x509.h>

#include "lib/base64.h"
#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "client/identity-auth.h"
#include "client/output.h"

#define KEY_BYTES 32U     /* what the hub makes */
#define KEY_BYTES_MIN 16U /* what it takes */
#define KEY_BYTES_MAX 64U
#define KEY_FILE_BYTES_MAX 1024U
#define CERTIFICATE_BYTES_MAX (1024U * 1024U)
#define SHA1_HEX 40U
#define SHA256_HEX 64U

static const char *const key_fields[] = { "primaryKey", "secondaryKey" };
static const char *const thumbprint_fields[] = { "primaryThumbprint", "secondaryThumbprint" };
static const char *const ordinals[] = { "primary", "secondary" };

int identity_key_make(char **ret) {
        uint8_t key[KEY_BYTES];
        size_t n;
        int r;

        if (getrandom(key, sizeof(key), 0) != (ssize_t) sizeof(key))
                return -errno;
        r = base64_encode(key, sizeof(key), ret, &n);
        explicit_bzero(key, sizeof(key));
        return r;
}

int identity_thumbprint_parse(const char *s, char **ret) {
        char digits[SHA256_HEX + 1];
        size_t n = 0;

        for (; *s; s++) {
                if (*s == ':' || *s == ' ' || *s == '-')
                        continue;
                if (!isxdigit((unsigned char) *s) || n >= SHA256_HEX)
                        return -EINVAL;
                digits[n++] = (char) toupper((unsigned char) *s);
        }
        digits[n] = '\0';
        if (n != SHA1_HEX && n != SHA256_HEX)
                return -EINVAL;
        *ret = strdup(digits);
        return *ret ? 0 : -ENOMEM;
}

static int check_key(const char *key, const char *where) {
        _cleanup_free_ void *bytes = NULL;
        size_t n;
        int r;

        r = base64_decode(key, strlen(key), &bytes, &n);
        if (r == -ENOMEM)
                return say_out_of_memory();
        if (r >= 0)
                explicit_bzero(bytes, n);
        if (r >= 0 && n >= KEY_BYTES_MIN && n <= KEY_BYTES_MAX)
                return EX_OK;
        say_error("%s: no key: base64 of 16 to 64 bytes is needed", where);
        return EX_DATAERR;
}

/* The key of an option, or NULL. The command line is shown to others: it is overwritten. */
static int read_key(const AuthSettings *s, int i, char **ret) {
        _cleanup_(erase_and_freep) char *key = NULL;
        size_t n;
        int r;

        if (s->keys[i]) {
                key = strdup(s->keys[i]);
                if (!key)
                        return say_out_of_memory();
                memset((char *) (uintptr_t) s->keys[i], 'x', strlen(s->keys[i]));
                r = check_key(key, i ? "--secondary-key" : "--primary-key");
        } else if (s->key_files[i]) {
                r = read_file(s->key_files[i], KEY_FILE_BYTES_MAX, &key, &n);
                if (r < 0) {
                        say_error("Cannot read the key file %s: %s", s->key_files[i], strerror(-r));
                        return EX_NOINPUT;
                }
                while (n > 0 && isspace((unsigned char) key[n - 1]))
                        key[--n] = '\0';
                r = check_key(key, s->key_files[i]);
        } else
                return EX_OK;
        if (r == EX_OK)
                *ret = TAKE_PTR(key);
        return r;
}

static int thumbprint_of_file(const char *path, char **ret) {
        _cleanup_free_ char *text = NULL;
        unsigned char digest[EVP_MAX_MD_SIZE];
        char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
        unsigned n_digest = 0;
        X509 *x = NULL;
        BIO *bio;
        size_t n;
        int r;

        r = read_file(path, CERTIFICATE_BYTES_MAX, &text, &n);
        if (r < 0) {
                say_error("Cannot read the certificate %s: %s", path, strerror(-r));
                return EX_NOINPUT;
        }
        bio = BIO_new_mem_buf(text, (int) n);
        if (bio)
                x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        if (x && X509_digest(x, EVP_sha256(), digest, &n_digest) == 1)
                for (unsigned i = 0; i < n_digest; i++)
                        snprintf(hex + 2 * i, 3, "%02X", digest[i]);
        X509_free(x);
        BIO_free(bio);
        if (n_digest == 0) {
                say_error("%s holds no certificate in PEM form", path);
                return EX_DATAERR;
        }
        *ret = strdup(hex);
        return *ret ? EX_OK : say_out_of_memory();
}

static int read_thumbprint(const AuthSettings *s, int i, char **ret) {
        int r;

        if (s->certificates[i])
                return thumbprint_of_file(s->certificates[i], ret);
        if (!s->thumbprints[i])
                return EX_OK;
        r = identity_thumbprint_parse(s->thumbprints[i], ret);
        if (r == -EINVAL) {
                say_error("--%s-thumbprint: 40 or 64 hexadecimal digits are needed", ordinals[i]);
                return EX_USAGE;
        }
        return r < 0 ? say_out_of_memory() : EX_OK;
}

bool identity_auth_given(const AuthSettings *s) {
        for (int i = 0; i < 2; i++)
                if (s->keys[i] || s->key_files[i] || s->thumbprints[i] || s->certificates[i])
                        return true;
        return s->type;
}

/* A key or a certificate is given once. */
static int check_pairs(const AuthSettings *s) {
        for (int i = 0; i < 2; i++) {
                if (s->keys[i] && s->key_files[i]) {
                        say_error("Either --%s-key or --%s-key-file", ordinals[i], ordinals[i]);
                        return EX_USAGE;
                }
                if (s->thumbprints[i] && s->certificates[i]) {
                        say_error("Either --%s-thumbprint or --%s-certificate", ordinals[i],
                                  ordinals[i]);
                        return EX_USAGE;
                }
        }
        return EX_OK;
}

/* The hub's name of the type; NULL where no option is about it. */
static int resolve_type(const AuthSettings *s, const char **ret) {
        static const struct {
                const char *name, *type;
        } types[] = {
                { "sas", "sas" },
                { "x509", "selfSigned" },
                { "selfSigned", "selfSigned" },
                { "x509-ca", "certificateAuthority" },
                { "certificateAuthority", "certificateAuthority" },
        };
        const bool keys = s->keys[0] || s->keys[1] || s->key_files[0] || s->key_files[1];
        const bool certificates = s->thumbprints[0] || s->thumbprints[1] || s->certificates[0] ||
                                  s->certificates[1];
        const char *type = NULL;

        if (check_pairs(s) != EX_OK)
                return EX_USAGE;
        if (keys && certificates) {
                say_error("A device signs in with keys or with certificates, not with both");
                return EX_USAGE;
        }
        for (size_t i = 0; s->type && i < ELEMENTSOF(types); i++)
                if (streq(s->type, types[i].name))
                        type = types[i].type;
        if (s->type && !type) {
                say_error("--auth: \"%s\" is not sas, x509 or x509-ca", s->type);
                return EX_USAGE;
        }
        if (!type)
                type = keys ? "sas" : certificates ? "selfSigned" : NULL;
        if (type && ((keys && !streq(type, "sas")) || (certificates && !streq(type, "selfSigned")))) {
                say_error("--auth %s does not go with the keys or certificates given", s->type);
                return EX_USAGE;
        }
        *ret = type;
        return EX_OK;
}

/* Both members of one part, from the options, else as they were, else null. */
static int fill(struct json_object *authentication, const char *part, const char *const fields[2],
                char *const values[2], bool keep) {
        struct json_object *fresh = json_object_new_object(), *old;
        const char *value;
        int r = fresh ? 0 : -ENOMEM;

        for (int i = 0; r >= 0 && i < 2; i++) {
                value = values[i];
                if (!value && keep && json_get_object(authentication, part, &old) > 0)
                        (void) json_get_string(old, fields[i], &value, NULL); /* or NULL */
                r = value ? json_add_string(fresh, fields[i], value) :
                            json_object_object_add(fresh, fields[i], NULL);
        }
        if (r < 0) {
                json_object_put(fresh);
                return -ENOMEM;
        }
        return json_add(authentication, part, fresh);
}

/* Either both keys or none: the missing one is made here, so that the one given stands. */
static int complete_keys(char *keys[2]) {
        int r = 0;

        for (int i = 0; r >= 0 && i < 2; i++)
                if (!keys[i] && keys[!i])
                        r = identity_key_make(keys + i);
        return r;
}

/* With neither of its own nor any before, nobody could sign in. */
static bool lacks_thumbprint(struct json_object *o, const char *type, char *const thumbprints[2]) {
        struct json_object *authentication, *before;
        const char *old;

        if (!type || !streq(type, "selfSigned") || thumbprints[0] || thumbprints[1])
                return false;
        for (int i = 0; i < 2; i++)
                if (json_get_object(o, "authentication", &authentication) > 0 &&
                    json_get_object(authentication, "x509Thumbprint", &before) > 0 &&
                    json_get_string(before, thumbprint_fields[i], &old, NULL) > 0)
                        return false;
        return true;
}

static int apply(struct json_object *o, const char *type, char *keys[2], char *thumbprints[2]) {
        struct json_object *authentication;
        const char *old_type = NULL;
        bool same;
        int r = 0;

        if (json_get_object(o, "authentication", &authentication) <= 0) {
                authentication = json_object_new_object();
                r = json_add(o, "authentication", authentication);
        }
        if (r < 0)
                return r;
        (void) json_get_string(authentication, "type", &old_type, NULL); /* or NULL */
        same = old_type && streq(old_type, type);
        if (streq(type, "sas") && !same)
                r = complete_keys(keys);
        if (r >= 0)
                r = fill(authentication, "symmetricKey", key_fields, keys,
                         same && streq(type, "sas"));
        if (r >= 0)
                r = fill(authentication, "x509Thumbprint", thumbprint_fields, thumbprints,
                         same && streq(type, "selfSigned"));
        return r < 0 ? r : json_add_string(authentication, "type", type);
}

int identity_auth_apply(const AuthSettings *s, struct json_object *o) {
        char *keys[2] = {}, *thumbprints[2] = {};
        const char *type;
        int r;

        r = resolve_type(s, &type);
        for (int i = 0; r == EX_OK && i < 2; i++) {
                r = read_key(s, i, keys + i);
                if (r == EX_OK)
                        r = read_thumbprint(s, i, thumbprints + i);
        }
        if (r == EX_OK && lacks_thumbprint(o, type, thumbprints)) {
                say_error("--auth x509 needs --primary-thumbprint or --primary-certificate");
                r = EX_USAGE;
        }
        if (r == EX_OK && type && apply(o, type, keys, thumbprints) < 0)
                r = say_out_of_memory();
        for (int i = 0; i < 2; i++) {
                erase_and_free(keys[i]);
                free(thumbprints[i]);
        }
        return r;
}
