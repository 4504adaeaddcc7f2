#include "emulator/authorities.h"

#include <assert.h>
#include <strings.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "lib/fd-util.h"
#include "lib/hub-topic.h"
#include "lib/json-util.h"
#include "lib/time-util.h"

#define FILE_BYTES_MAX (1024U * 1024U)
#define SHA1_HEX 40U

DEFINE_CLEANUP(X509 *, X509_free);
DEFINE_CLEANUP(BIO *, BIO_free_all);
DEFINE_CLEANUP(X509_STORE *, X509_STORE_free);
DEFINE_CLEANUP(X509_STORE_CTX *, X509_STORE_CTX_free);

struct Authorities {
        X509 *of[AUTHORITIES_MAX];
        size_t n;
        X509_STORE *store; /* of these */
};

static void forget(Authorities *a) {
        for (size_t i = 0; i < a->n; i++)
                X509_free(a->of[i]);
        a->n = 0;
        X509_STORE_free(a->store);
        a->store = NULL;
}

Authorities *authorities_free(Authorities *a) {
        if (!a)
                return NULL;
        forget(a);
        free(a);
        return NULL;
}

static int hex_digest(const X509 *x, const EVP_MD *type, char *ret) {
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned n;

        if (X509_digest(x, type, digest, &n) != 1)
                return -ENOMEM;
        for (unsigned i = 0; i < n; i++)
                (void) sprintf(ret + 2 * (size_t) i, "%02x", digest[i]);
        return 0;
}

/* An authority that is no root is trusted as it stands, as the hub does. */
static int make_store(X509 *const *of, size_t n, X509_STORE **ret) {
        _cleanup_(X509_STORE_freep) X509_STORE *store = X509_STORE_new();

        if (!store || X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN) != 1 ||
            X509_STORE_set_purpose(store, X509_PURPOSE_SSL_CLIENT) != 1)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                if (X509_STORE_add_cert(store, of[i]) != 1)
                        return -ENOMEM;
        *ret = TAKE_PTR(store);
        return 0;
}

static int read_all(Authorities *a, const char *text, size_t n) {
        _cleanup_(BIO_free_allp) BIO *b = BIO_new_mem_buf(text, (int) n);
        X509 *x;

        while (b && (x = PEM_read_bio_X509(b, NULL, NULL, NULL))) {
                if (a->n == AUTHORITIES_MAX) {
                        X509_free(x);
                        return -EBADMSG;
                }
                a->of[a->n++] = x;
        }
        ERR_clear_error();
        if (!b || (n > 0 && a->n == 0))
                return b ? -EBADMSG : -ENOMEM;
        return make_store(a->of, a->n, &a->store);
}

int authorities_open(Authorities **ret) {
        _cleanup_(authorities_freep) Authorities *a = calloc(1, sizeof(*a));
        _cleanup_free_ char *text = NULL;
        size_t n = 0;
        int r;

        if (!a)
                return -ENOMEM;
        r = read_file(AUTHORITIES_FILE, FILE_BYTES_MAX, &text, &n);
        if (r < 0 && r != -ENOENT)
                return r;
        r = read_all(a, text ? text : "", n);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(a);
        return 0;
}

static int write_all_of(X509 *const *of, size_t n) {
        _cleanup_(BIO_free_allp) BIO *b = BIO_new(BIO_s_mem());
        char *text;
        long size;

        if (!b)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                if (PEM_write_bio_X509(b, of[i]) != 1)
                        return -ENOMEM;
        size = BIO_get_mem_data(b, &text);
        return replace_file(AUTHORITIES_FILE, text, (size_t) size, 0644);
}

/* The list of these is what there is from now on, if all succeeds. */
static int change(Authorities *a, X509 *const *of, size_t n) {
        X509_STORE *store;
        int r;

        r = make_store(of, n, &store);
        if (r < 0)
                return r;
        r = write_all_of(of, n);
        if (r < 0) {
                X509_STORE_free(store);
                return r;
        }
        X509_STORE_free(a->store);
        a->store = store;
        memcpy(a->of, of, n * sizeof(*of));
        a->n = n;
        return 0;
}

static int parse_authority(const char *pem, size_t n, X509 **ret, const char **reterr_reason) {
        _cleanup_(BIO_free_allp) BIO *b = BIO_new_mem_buf(pem, (int) n);
        _cleanup_(X509_freep) X509 *x = NULL;

        if (!b)
                return -ENOMEM;
        x = PEM_read_bio_X509(b, NULL, NULL, NULL);
        ERR_clear_error();
        *reterr_reason = "it holds no certificate in PEM";
        if (!x)
                return -EINVAL;
        *reterr_reason = "it is no certificate of an authority (basic constraint CA:TRUE)";
        if (X509_check_ca(x) < 1)
                return -EINVAL;
        *reterr_reason = "the certificate is not valid at this time";
        if (X509_cmp_current_time(X509_get0_notBefore(x)) >= 0 ||
            X509_cmp_current_time(X509_get0_notAfter(x)) <= 0)
                return -EINVAL;
        *ret = TAKE_PTR(x);
        return 0;
}

int authorities_add(Authorities *a, const char *pem, size_t n, const char **reterr_reason) {
        _cleanup_(X509_freep) X509 *x = NULL;
        X509 *of[AUTHORITIES_MAX];
        int r;

        r = parse_authority(pem, n, &x, reterr_reason);
        if (r < 0)
                return r;
        for (size_t i = 0; i < a->n; i++)
                if (X509_cmp(a->of[i], x) == 0)
                        return 0;
        if (a->n == AUTHORITIES_MAX)
                return -E2BIG;
        memcpy(of, a->of, a->n * sizeof(*of));
        of[a->n] = x;
        r = change(a, of, a->n + 1);
        if (r >= 0)
                x = NULL; /* the list has it */
        return r;
}

int authorities_remove(Authorities *a, const char *thumbprint) {
        X509 *of[AUTHORITIES_MAX], *removed = NULL;
        size_t n = 0;
        int r;

        for (size_t i = 0; i < a->n; i++) {
                char sha1[SHA1_HEX + 1];

                r = hex_digest(a->of[i], EVP_sha1(), sha1);
                if (r < 0)
                        return r;
                if (strcasecmp(sha1, thumbprint) == 0)
                        removed = a->of[i];
                else
                        of[n++] = a->of[i];
        }
        if (!removed)
                return -ENOENT;
        r = change(a, of, n);
        if (r >= 0)
                X509_free(removed);
        return r;
}

static int authority_to_json(X509 *x, struct json_object *o) {
        _cleanup_(BIO_free_allp) BIO *b = BIO_new(BIO_s_mem());
        char sha1[SHA1_HEX + 1], date[32], *text;
        _cleanup_free_ char *subject = NULL;
        struct tm tm;
        long n;
        int r;

        r = hex_digest(x, EVP_sha1(), sha1);
        if (r < 0 || !b ||
            X509_NAME_print_ex(b, X509_get_subject_name(x), 0,
                               XN_FLAG_RFC2253 & ~(unsigned long) ASN1_STRFLGS_ESC_MSB) < 0)
                return -ENOMEM;
        n = BIO_get_mem_data(b, &text);
        subject = strndup(text, (size_t) n);
        if (!subject || ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) != 1 ||
            strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
                return -ENOMEM;
        r = json_add_string(o, "subject", subject);
        if (r >= 0)
                r = json_add_string(o, "thumbprint", sha1);
        return r < 0 ? r : json_add_string(o, "notAfter", date);
}

int authorities_to_json(const Authorities *a, struct json_object **ret) {
        _cleanup_json_ struct json_object *list = json_object_new_array();

        if (!list)
                return -ENOMEM;
        for (size_t i = 0; i < a->n; i++) {
                struct json_object *o = json_object_new_object();

                if (!o || authority_to_json(a->of[i], o) < 0 ||
                    json_object_array_add(list, o) < 0) {
                        json_object_put(o);
                        return -ENOMEM;
                }
        }
        *ret = TAKE_PTR(list);
        return 0;
}

static int judge_dates(const X509 *x) {
        if (X509_cmp_current_time(X509_get0_notBefore(x)) >= 0)
                return X509_V_ERR_CERT_NOT_YET_VALID;
        return X509_cmp_current_time(X509_get0_notAfter(x)) <= 0 ? X509_V_ERR_CERT_HAS_EXPIRED :
                                                                   X509_V_OK;
}

static int judge_chain(const Authorities *a, X509 *x, STACK_OF(X509) * others, int *ret) {
        _cleanup_(X509_STORE_CTX_freep) X509_STORE_CTX *c = X509_STORE_CTX_new();

        if (!c || X509_STORE_CTX_init(c, a->store, x, others) != 1)
                return -ENOMEM;
        *ret = X509_verify_cert(c) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(c);
        ERR_clear_error();
        return 0;
}

/* The last one, as SDKs and tools write it; what is no client id is none. */
static void read_common_name(X509 *x, char *ret, size_t size) {
        const X509_NAME *name = X509_get_subject_name(x);
        int at = -1, last = -1, n;

        while ((at = X509_NAME_get_index_by_NID((X509_NAME *) (uintptr_t) name, NID_commonName,
                                                at)) >= 0)
                last = at;
        if (last >= 0) {
                unsigned char *text = NULL;

                n = ASN1_STRING_to_UTF8(&text,
                                        X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, last)));
                if (n > 0 && (size_t) n < size && strlen((char *) text) == (size_t) n &&
                    hub_client_id_check((char *) text) >= 0)
                        memcpy(ret, text, (size_t) n + 1);
                if (n >= 0)
                        OPENSSL_free(text);
        }
        ERR_clear_error();
}

int authorities_judge(const Authorities *a, const SSL *ssl, CertificateProof *ret) {
        X509 *x = SSL_get0_peer_certificate(ssl);
        CertificateProof p = { .chain = X509_V_ERR_UNSPECIFIED, .dates = X509_V_ERR_UNSPECIFIED };
        int r = 0;

        if (x) {
                r = hex_digest(x, EVP_sha1(), p.sha1);
                if (r >= 0)
                        r = hex_digest(x, EVP_sha256(), p.sha256);
                if (r >= 0)
                        r = judge_chain(a, x, SSL_get_peer_cert_chain(ssl), &p.chain);
                if (r < 0)
                        return r;
                p.dates = judge_dates(x);
                read_common_name(x, p.common_name, sizeof(p.common_name));
        }
        *ret = p;
        return 0;
}
