#include "daemon/credentials-certificate.h"

#include <pthread.h>
#include <stdatomic.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "daemon/credentials-file.h"
#include "daemon/credentials-key.h"
#include "lib/string-util.h"

#define FILE_BYTES_MAX (64U * 1024U) /* a chain of ten has some 20 KiB */
#define CHAIN_MAX 16

struct ClientCertificate {
        atomic_uint n_references;
        char *certificate_file, *private_key, *passphrase_file, *key_provider;
        X509 *own;
        STACK_OF(X509) * chain; /* without it */
        EVP_PKEY *key;          /* NULL: it is external */
        usec_t begins_usec, ends_usec;
};

static void destroy(ClientCertificate *c) {
        free(c->certificate_file);
        free(c->private_key);
        free(c->passphrase_file);
        free(c->key_provider);
        X509_free(c->own);
        sk_X509_pop_free(c->chain, X509_free);
        EVP_PKEY_free(c->key); /* OpenSSL erases it */
        free(c);
}

ClientCertificate *client_certificate_ref(ClientCertificate *c) {
        if (c)
                atomic_fetch_add(&c->n_references, 1);
        return c;
}

ClientCertificate *client_certificate_unref(ClientCertificate *c) {
        if (c && atomic_fetch_sub(&c->n_references, 1) == 1)
                destroy(c);
        return NULL;
}

static PrivateKeySource key_source(const ClientCertificate *c) {
        return (PrivateKeySource){
                .location = c->private_key ? c->private_key : c->certificate_file,
                .provider = c->key_provider,
                .passphrase_file = c->passphrase_file,
        };
}

static int malformed(const ClientCertificate *c, char **reterr_problem) {
        ERR_clear_error();
        return credentials_fail(-EINVAL, reterr_problem,
                                "There is no certificate in %s that can be read: it must hold the "
                                "device's certificate in PEM form, with BEGIN CERTIFICATE, and "
                                "after it those that signed it",
                                c->certificate_file);
}

/* Seconds since 1970 as days and rest, which no width of time_t limits. */
static int asn1_to_usec(const ASN1_TIME *t, usec_t *ret) {
        ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
        int days, seconds, r = -EINVAL;

        if (!epoch)
                return -ENOMEM;
        if (ASN1_TIME_diff(&days, &seconds, epoch, t)) {
                /* What begins before 1970 has begun. */
                *ret = days < 0 || seconds < 0 ? 0 :
                                                 (usec_t) days * USEC_PER_DAY +
                                                                 (usec_t) seconds * USEC_PER_SEC;
                r = 0;
        }
        ASN1_STRING_free(epoch);
        return r;
}

static int read_chain(ClientCertificate *c, BIO *bio) {
        for (;;) {
                X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
                unsigned long e = ERR_peek_last_error();

                if (!x && ERR_GET_REASON(e) == PEM_R_NO_START_LINE) {
                        ERR_clear_error(); /* the end */
                        return 0;
                }
                if (!x || sk_X509_num(c->chain) >= CHAIN_MAX || sk_X509_push(c->chain, x) <= 0) {
                        X509_free(x);
                        return -EINVAL;
                }
        }
}

static int read_certificates(ClientCertificate *c, const char *pem, char **reterr_problem) {
        BIO *bio = BIO_new_mem_buf(pem, -1);
        int r;

        c->chain = sk_X509_new_null();
        if (!bio || !c->chain) {
                BIO_free(bio);
                return -ENOMEM;
        }
        c->own = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        r = c->own ? read_chain(c, bio) : -EINVAL;
        BIO_free(bio);
        if (r >= 0)
                r = asn1_to_usec(X509_get0_notBefore(c->own), &c->begins_usec);
        if (r >= 0)
                r = asn1_to_usec(X509_get0_notAfter(c->own), &c->ends_usec);
        return r == -EINVAL ? malformed(c, reterr_problem) : r;
}

/* Tells the names of both places. */
static int check_pair(const ClientCertificate *c, EVP_PKEY *key, char **reterr_problem) {
        if (X509_check_private_key(c->own, key) == 1)
                return 0;
        ERR_clear_error();
        return credentials_fail(-EKEYREJECTED, reterr_problem,
                                "The private key in %s does not belong to the first certificate in "
                                "%s: name the two that were made together",
                                key_source(c).location, c->certificate_file);
}

/* certificate_pem: where there is one file for both. */
static int read_key(ClientCertificate *c, const char *certificate_pem, char **reterr_problem) {
        _cleanup_(erase_and_freep) char *pem = NULL;
        const PrivateKeySource source = key_source(c);
        int r = 0;

        if (private_key_is_external(&source))
                return 0;
        if (c->private_key)
                r = credentials_read_file(c->private_key, FILE_BYTES_MAX, /* is_secret= */ true,
                                          "the private key of the device", "", &pem,
                                          reterr_problem);
        if (r >= 0)
                r = private_key_load(&source, pem ? pem : certificate_pem, &c->key, reterr_problem);
        if (r >= 0)
                r = check_pair(c, c->key, reterr_problem);
        if (r < 0)
                credentials_add_restart(source.location, reterr_problem);
        return r;
}

int client_certificate_new(const ClientCertificateOptions *options, ClientCertificate **ret,
                           char **reterr_problem) {
        _cleanup_(client_certificate_unrefp) ClientCertificate *c = NULL;
        _cleanup_(erase_and_freep) char *pem = NULL;
        int r;

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (ClientCertificate){ .n_references = 1 };
        if (copy_string(&c->certificate_file, options->certificate_file) < 0 ||
            copy_string(&c->private_key, options->private_key) < 0 ||
            copy_string(&c->passphrase_file, options->passphrase_file) < 0 ||
            copy_string(&c->key_provider, options->key_provider) < 0)
                return -ENOMEM;

        r = credentials_read_file(c->certificate_file, FILE_BYTES_MAX,
                                  /* is_secret= */ !c->private_key, "the certificate of the device",
                                  "", &pem, reterr_problem);
        if (r >= 0)
                r = read_certificates(c, pem, reterr_problem);
        if (r < 0)
                credentials_add_restart(c->certificate_file, reterr_problem);
        if (r >= 0)
                r = read_key(c, pem, reterr_problem);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

static bool same_chain(const ClientCertificate *a, const ClientCertificate *b) {
        int n = sk_X509_num(a->chain);

        if (n != sk_X509_num(b->chain))
                return false;
        for (int i = 0; i < n; i++)
                if (X509_cmp(sk_X509_value(a->chain, i), sk_X509_value(b->chain, i)) != 0)
                        return false;
        return true;
}

/* The certificate fixes the key. */
bool client_certificate_equal(const ClientCertificate *a, const ClientCertificate *b) {
        if (!a || !b)
                return a == b;
        return X509_cmp(a->own, b->own) == 0 && same_chain(a, b);
}

usec_t client_certificate_begins_usec(const ClientCertificate *c) {
        return c->begins_usec;
}

usec_t client_certificate_ends_usec(const ClientCertificate *c) {
        return c->ends_usec;
}

CertificateAge client_certificate_age(const ClientCertificate *c, usec_t now, char *buf,
                                      size_t size) {
        char when[FORMAT_TIMESTAMP_MAX], span[FORMAT_TIMESPAN_MAX];

        *buf = '\0';
        if (now < c->begins_usec) {
                (void) snprintf(buf, size,
                                "The device's certificate in %s is valid from %s on only: check "
                                "this machine's clock, then the certificate",
                                c->certificate_file,
                                format_timestamp(when, sizeof(when), c->begins_usec));
                return CERTIFICATE_NOT_YET_VALID;
        }
        format_timestamp(when, sizeof(when), c->ends_usec);
        if (now >= c->ends_usec) {
                (void) snprintf(buf, size,
                                "The device's certificate in %s ended at %s: replace it, and tell "
                                "the hub the new thumbprint where it is self-signed",
                                c->certificate_file, when);
                return CERTIFICATE_ENDED;
        }
        if (c->ends_usec - now > CLIENT_CERTIFICATE_WARN_USEC)
                return CERTIFICATE_VALID;
        (void) snprintf(buf, size,
                        "The device's certificate in %s ends in %s, at %s: replace it before, the "
                        "new one is taken without a restart",
                        c->certificate_file,
                        format_timespan(span, sizeof(span), c->ends_usec - now), when);
        return CERTIFICATE_ENDS_SOON;
}

/* A property query of a TLS context reaches everything in it, the checks of the server's
 * certificate included, and those do not belong into a TPM: it may not know the server's kind of
 * key. So signing has a context of its own, which the connection changes over to when it is about
 * to sign: by then the server is checked. */

static int signing_index; /* of the signing context in the context of the connection */

static void free_signing(void *parent, void *p, CRYPTO_EX_DATA *data, int index, long l, void *q) {
        SSL_CTX_free(p);
}

static void init_signing_index(void) {
        signing_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_signing);
}

static int change_over(SSL *ssl, void *signing) {
        return SSL_set_SSL_CTX(ssl, signing) ? 1 : 0;
}

static SSL_CTX *add_signing_context(SSL_CTX *ctx, const char *property_query) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        SSL_CTX *signing = SSL_CTX_new_ex(NULL, property_query, TLS_client_method());

        (void) pthread_once(&once, init_signing_index); /* fails only for a bad argument */
        if (!signing || signing_index < 0 || !SSL_CTX_set_ex_data(ctx, signing_index, signing)) {
                SSL_CTX_free(signing);
                return NULL;
        }
        SSL_CTX_set_app_data(signing, SSL_CTX_get_app_data(ctx)); /* for callbacks */
        SSL_CTX_set_cert_cb(ctx, change_over, signing);
        return signing;
}

static int use_key(const ClientCertificate *c, SSL_CTX *ctx, EVP_PKEY *key,
                   const char *property_query, char **reterr_problem) {
        SSL_CTX *target = property_query ? add_signing_context(ctx, property_query) : ctx;

        if (!target)
                return -ENOMEM;
        if (SSL_CTX_use_cert_and_key(target, c->own, key, c->chain, /* override= */ 1))
                return 0;
        ERR_clear_error();
        return credentials_fail(-EINVAL, reterr_problem,
                                "TLS cannot use the certificate in %s: it wants an RSA key of 2048 "
                                "bits or more, or one on the curve P-256 or P-384",
                                c->certificate_file);
}

int client_certificate_use(const ClientCertificate *c, SSL_CTX *ctx, char **reterr_problem) {
        const PrivateKeySource source = key_source(c);
        EVP_PKEY *external = NULL;
        int r = 0;

        if (!c->key) {
                r = private_key_load(&source, NULL, &external, reterr_problem);
                if (r >= 0)
                        r = check_pair(c, external, reterr_problem);
        }
        if (r >= 0)
                r = use_key(c, ctx, c->key ? c->key : external, private_key_property_query(&source),
                            reterr_problem);
        EVP_PKEY_free(external); /* the context has its own count */
        return r;
}
