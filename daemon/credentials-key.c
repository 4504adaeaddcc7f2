/* Engines are the only way to PKCS#11 tokens in Debian 12; OpenSSL deprecates them for providers.
 */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "daemon/credentials-key.h"

#include <ctype.h>
#include <pthread.h>
#include <sys/stat.h>

#include <openssl/engine.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/store.h>
#include <openssl/ui.h>

#include "daemon/credentials-file.h"
#include "lib/time-util.h"

#define PASSPHRASE_BYTES_MAX 1024U
#define ENGINE_PREFIX "engine:"

DEFINE_CLEANUP(UI_METHOD *, UI_destroy_method);

bool private_key_is_uri(const char *s) {
        size_t n = 0;

        while (isalnum((unsigned char) s[n]) || (n > 0 && strchr("+-.", s[n]) && s[n]))
                n++;
        return n >= 2 && s[n] == ':' && isalpha((unsigned char) s[0]);
}

bool private_key_is_external(const PrivateKeySource *s) {
        return s->provider || private_key_is_uri(s->location);
}

/* This provider gives the public half of a key away when it is asked for the whole, so OpenSSL
 * takes the default signature for able to sign. Its other implementations are not preferred: they
 * are slow, and narrower than the hub's needs. */
const char *private_key_property_query(const PrivateKeySource *s) {
        return s->provider && streq(s->provider, "tpm2") ? "?tpm2.signature=yes" : NULL;
}

/* The passphrase. */

typedef struct Asked {
        const PrivateKeySource *source;
        unsigned n_times;
        char *problem; /* why it could not be given */
} Asked;

static size_t length_of_line(const char *s) {
        return strcspn(s, "\r\n");
}

/* A pem_password_cb, which OpenSSL calls when the key turns out to be locked. */
static int give_passphrase(char *buf, int size, int for_writing, void *userdata) {
        Asked *asked = userdata;
        _cleanup_(erase_and_freep) char *text = NULL;
        const char *path = asked->source->passphrase_file;
        size_t n;

        asked->n_times++;
        if (asked->problem)
                return -1; /* it asks again, for another form of key that it might be */
        if (asked->n_times > 1 && private_key_is_external(asked->source))
                return -1; /* one try of its PIN for each load */
        if (!path || credentials_read_file(path, PASSPHRASE_BYTES_MAX, /* is_secret= */ true,
                                           "the passphrase of the private key", "", &text,
                                           &asked->problem) < 0)
                return -1;
        n = length_of_line(text);
        if (n == 0 || n > (size_t) size)
                return -1;
        memcpy(buf, text, n);
        return (int) n;
}

/* A token locks itself for good after a few wrong PINs, and the uplink tries for ever. So one that
 * was refused is not offered again before its file has been written or touched. */

static pthread_mutex_t refused_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct stat refused;       /* the file then; st_ino 0: none */
static usec_t refused_until_usec; /* CLOCK_BOOTTIME */

static bool was_refused(const char *path) {
        struct stat now;
        bool same;

        if (!path || stat(path, &now) < 0)
                return false;
        (void) pthread_mutex_lock(&refused_mutex); /* fails only when misused */
        same = now_usec(CLOCK_BOOTTIME) < refused_until_usec && refused.st_ino == now.st_ino && refused.st_dev == now.st_dev &&
               refused.st_mtim.tv_sec == now.st_mtim.tv_sec &&
               refused.st_mtim.tv_nsec == now.st_mtim.tv_nsec;
        (void) pthread_mutex_unlock(&refused_mutex);
        return same;
}

static bool is_refused_for_good(void) {
        bool for_good;

        (void) pthread_mutex_lock(&refused_mutex);
        for_good = refused_until_usec == USEC_INFINITY;
        (void) pthread_mutex_unlock(&refused_mutex);
        return for_good;
}

/* What keeps a key fails for other reasons, too, after it asked for the PIN: no free session, a reader
 * that starts anew. Then it is worth a try now and then, far fewer than lock it. */
static bool is_about_pin(const char *reason) {
        /* Beginnings of words, but the first: that one begins "pinned", too. */
        static const char *const words[] = { "pin", "auth", "login", "passw" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                for (const char *p = reason; (p = strcasestr(p, words[i])); p++)
                        if ((p == reason || !isalpha((unsigned char) p[-1])) &&
                            (i > 0 || !isalpha((unsigned char) p[strlen(words[i])])))
                                return true;
        return false;
}

static void note_refused(const char *path, bool for_good) {
        struct stat now;

        if (stat(path, &now) < 0)
                return; /* then it is another one when it comes back */
        (void) pthread_mutex_lock(&refused_mutex);
        refused = now;
        refused_until_usec = for_good ? USEC_INFINITY :
                                        usec_add(now_usec(CLOCK_BOOTTIME), USEC_PER_HOUR);
        (void) pthread_mutex_unlock(&refused_mutex);
}

static int say_refused(const PrivateKeySource *s, const char *reason, bool for_good,
                       char **reterr_problem) {
        return credentials_fail(
                        -EACCES, reterr_problem,
                        "What keeps the private key at %s did not open with the PIN in %s (%s), "
                        "which is not offered again %s, so that it does not lock: correct or touch "
                        "the file",
                        s->location, s->passphrase_file, reason,
                        for_good ? "by itself" : "within an hour");
}

/* OpenSSL's own words; what a module puts there names objects and functions, not keys. */
static const char *openssl_reason(char *buf, size_t size) {
        unsigned long e = ERR_peek_error();
        const char *text = ERR_SYSTEM_ERROR(e) ? strerror((int) ERR_GET_REASON(e)) :
                                                 ERR_reason_error_string(e);

        (void) snprintf(buf, size, "%s", text ? text : "no reason given");
        ERR_clear_error();
        return buf;
}

static int describe_failure(Asked *asked, char **reterr_problem) {
        const PrivateKeySource *s = asked->source;
        char reason[256];

        openssl_reason(reason, sizeof(reason));
        if (asked->problem) {
                *reterr_problem = TAKE_PTR(asked->problem);
                return -EACCES;
        }
        if (asked->n_times > 0 && !s->passphrase_file)
                return credentials_fail(-EACCES, reterr_problem,
                                        "The private key in %s is locked with a passphrase: write "
                                        "it into a file of its own and name that in "
                                        "private_key_passphrase_file",
                                        s->location);
        if (asked->n_times > 0 && private_key_is_external(s) && !strstr(reason, "not found")) {
                bool for_good = is_about_pin(reason);

                note_refused(s->passphrase_file, for_good);
                return say_refused(s, reason, for_good, reterr_problem);
        }
        if (asked->n_times > 0 && !private_key_is_external(s))
                return credentials_fail(-EACCES, reterr_problem,
                                        "The passphrase in %s does not open the private key in %s",
                                        s->passphrase_file, s->location);
        if (private_key_is_external(s))
                return credentials_fail(-EINVAL, reterr_problem,
                                        "There is no private key at %s (%s): check private_key, "
                                        "key_provider and that the device with the key is there",
                                        s->location, reason);
        return credentials_fail(-EINVAL, reterr_problem,
                                "There is no private key in %s: it must hold the key in PEM form, "
                                "with BEGIN PRIVATE KEY",
                                s->location);
}

/* Keys in files. */

static EVP_PKEY *load_pem(const char *pem, Asked *asked) {
        BIO *bio = BIO_new_mem_buf(pem, -1);
        EVP_PKEY *key;

        if (!bio)
                return NULL;
        key = PEM_read_bio_PrivateKey(bio, NULL, give_passphrase, asked);
        BIO_free(bio);
        return key;
}

/* Keys behind a module. */

/* Once for the process: a provider that is loaded by name turns off the automatic default. */
static bool load_provider(const char *name) {
        static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        static OSSL_PROVIDER *usual, *wanted; /* kept for the life of the process */
        bool ok;

        (void) pthread_mutex_lock(&mutex); /* fails only when misused */
        if (!usual)
                usual = OSSL_PROVIDER_load(NULL, "default");
        if (usual && !wanted)
                wanted = OSSL_PROVIDER_load(NULL, name);
        ok = wanted;
        (void) pthread_mutex_unlock(&mutex);
        return ok;
}

/* The first private key that the store shows. */
static EVP_PKEY *load_from_store(const char *uri, UI_METHOD *ui, Asked *asked) {
        OSSL_STORE_CTX *store = OSSL_STORE_open(uri, ui, asked, NULL, NULL);
        EVP_PKEY *key = NULL;

        if (!store)
                return NULL;
        (void) OSSL_STORE_expect(store, OSSL_STORE_INFO_PKEY); /* only a hint */
        while (!key && !OSSL_STORE_eof(store) && !OSSL_STORE_error(store)) {
                OSSL_STORE_INFO *info = OSSL_STORE_load(store);

                if (info && OSSL_STORE_INFO_get_type(info) == OSSL_STORE_INFO_PKEY)
                        key = OSSL_STORE_INFO_get1_PKEY(info);
                OSSL_STORE_INFO_free(info);
        }
        (void) OSSL_STORE_close(store); /* only read from */
        return key;
}

/* The key keeps the engine; ours goes. */
static EVP_PKEY *load_from_engine(const char *name, const char *uri, UI_METHOD *ui, Asked *asked,
                                  bool *ret_missing) {
        ENGINE *engine;
        EVP_PKEY *key = NULL;

        (void) OPENSSL_init_crypto(OPENSSL_INIT_ENGINE_DYNAMIC, NULL); /* shows in the next call */
        engine = ENGINE_by_id(name);
        *ret_missing = !engine;
        if (!engine)
                return NULL;
        (void) ENGINE_ctrl_cmd_string(engine, "QUIET", NULL, 1); /* it would write to stderr */
        if (ENGINE_init(engine)) {
                key = ENGINE_load_private_key(engine, uri, ui, asked);
                (void) ENGINE_finish(engine); /* our count only */
        }
        (void) ENGINE_free(engine);
        return key;
}

static int no_module(const PrivateKeySource *s, char **reterr_problem) {
        char reason[256];

        openssl_reason(reason, sizeof(reason));
        return credentials_fail(-ENOSYS, reterr_problem,
                                "OpenSSL cannot load %s (%s), which key_provider names: check the "
                                "name, that it is installed, and that its device is there",
                                s->provider, reason);
}

static int load_external(const PrivateKeySource *s, Asked *asked, EVP_PKEY **ret,
                         char **reterr_problem) {
        _cleanup_(UI_destroy_methodp) UI_METHOD *ui =
                        UI_UTIL_wrap_read_pem_callback(give_passphrase, 0);
        const char *engine = s->provider ? startswith(s->provider, ENGINE_PREFIX) : NULL;
        bool missing = false;

        if (!ui)
                return -ENOMEM;
        if (engine)
                *ret = load_from_engine(engine, s->location, ui, asked, &missing);
        else if (s->provider && !load_provider(s->provider))
                missing = true;
        else
                *ret = load_from_store(s->location, ui, asked);
        return missing ? no_module(s, reterr_problem) : 0;
}

int private_key_load(const PrivateKeySource *s, const char *pem, EVP_PKEY **ret,
                     char **reterr_problem) {
        Asked asked = { .source = s };
        EVP_PKEY *key = NULL;
        int r = 0;

        ERR_clear_error();
        if (private_key_is_external(s) && was_refused(s->passphrase_file))
                return say_refused(s, "as before", is_refused_for_good(), reterr_problem);
        if (private_key_is_external(s))
                r = load_external(s, &asked, &key, reterr_problem);
        else
                key = load_pem(pem, &asked);
        if (r >= 0 && !key)
                r = describe_failure(&asked, reterr_problem);
        free(asked.problem);
        ERR_clear_error(); /* a store tries several forms before it finds the right one */
        if (r < 0)
                return r;
        *ret = key;
        return 0;
}
