#include "emulator/certificates.h"

#include <assert.h>
#include <time.h>

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "lib/fd-util.h"
#include "lib/string-util.h"

/* Elliptic keys: a test that connects a thousand times should not wait for RSA. */

#define VALID_FROM_DAYS (-1) /* for clients whose clocks are a little behind */
#define CA_DAYS 3650
#define SERVER_DAYS 397 /* some clients take no longer ones */
#define RENEW_DAYS 30
#define DAY_SEC 86400
#define PEM_BYTES_MAX 65536U
#define CA_KEY "ca-key.pem"
#define WRONG_NAME "other-hub.example"

DEFINE_CLEANUP(X509 *, X509_free);
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);
DEFINE_CLEANUP(BIO *, BIO_free);

static int read_bio(int dir_fd, const char *name, BIO **ret) {
        _cleanup_(erase_and_freep) char *text = NULL;
        BIO *b;
        size_t n;
        int r;

        r = read_file_at(dir_fd, name, PEM_BYTES_MAX, &text, &n);
        if (r < 0)
                return r;
        b = BIO_new(BIO_s_mem());
        if (!b || BIO_write(b, text, (int) n) != (int) n) {
                BIO_free(b);
                return -ENOMEM;
        }
        *ret = b;
        return 0;
}

/* -ENOENT when either is missing. */
static int load_pair(int dir_fd, const char *certificate, const char *key, X509 **ret,
                     EVP_PKEY **ret_key) {
        _cleanup_(BIO_freep) BIO *b = NULL, *b_key = NULL;
        _cleanup_(X509_freep) X509 *x = NULL;
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *k = NULL;
        int r;

        r = read_bio(dir_fd, certificate, &b);
        if (r >= 0)
                r = read_bio(dir_fd, key, &b_key);
        if (r < 0)
                return r;
        x = PEM_read_bio_X509(b, NULL, NULL, NULL);
        k = PEM_read_bio_PrivateKey(b_key, NULL, NULL, NULL);
        if (!x || !k || X509_check_private_key(x, k) != 1)
                return -EBADMSG;
        *ret = TAKE_PTR(x);
        *ret_key = TAKE_PTR(k);
        return 0;
}

static int store_bio(int dir_fd, const char *name, BIO *b, mode_t mode) {
        char *text;
        long n;

        n = BIO_get_mem_data(b, &text);
        return n > 0 ? replace_file_at(dir_fd, name, text, (size_t) n, mode) : -EIO;
}

/* The key first: a certificate without its key would be taken for damage. */
static int store_pair(int dir_fd, const char *certificate, const char *key, X509 *x, EVP_PKEY *k) {
        _cleanup_(BIO_freep) BIO *b = BIO_new(BIO_s_mem()), *b_key = BIO_new(BIO_s_secmem());
        int r;

        if (!b || !b_key)
                return -ENOMEM;
        if (PEM_write_bio_X509(b, x) != 1 ||
            PEM_write_bio_PrivateKey(b_key, k, NULL, NULL, 0, NULL, NULL) != 1)
                return -EIO;
        if (unlinkat(dir_fd, certificate, 0) < 0 && errno != ENOENT)
                return -errno;
        r = store_bio(dir_fd, key, b_key, 0600);
        return r < 0 ? r : store_bio(dir_fd, certificate, b, 0644);
}

static int add_extension(X509 *x, X509 *issuer, int nid, const char *value) {
        X509_EXTENSION *e;
        X509V3_CTX c;
        int k;

        X509V3_set_ctx(&c, issuer, x, NULL, NULL, 0);
        e = X509V3_EXT_conf_nid(NULL, &c, nid, value);
        if (!e)
                return -EIO;
        k = X509_add_ext(x, e, -1);
        X509_EXTENSION_free(e);
        return k == 1 ? 0 : -EIO;
}

/* days: from now, both. */
static int begin_certificate(X509 *x, EVP_PKEY *key, const char *common_name, int from_days,
                             int to_days) {
        uint64_t serial;

        if (RAND_bytes((unsigned char *) &serial, sizeof(serial)) != 1)
                return -EIO;
        serial >>= 1; /* positive */
        if (X509_set_version(x, X509_VERSION_3) != 1 ||
            ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial) != 1 ||
            !X509_gmtime_adj(X509_getm_notBefore(x), (long) from_days * DAY_SEC) ||
            !X509_gmtime_adj(X509_getm_notAfter(x), (long) to_days * DAY_SEC) ||
            X509_set_pubkey(x, key) != 1 ||
            X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                                       (const unsigned char *) common_name, -1, -1, 0) != 1)
                return -EIO;
        return 0;
}

static int make_ca(X509 **ret, EVP_PKEY **ret_key) {
        _cleanup_(X509_freep) X509 *x = X509_new();
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *k = EVP_EC_gen("P-256");
        int r;

        if (!x || !k)
                return -ENOMEM;
        r = begin_certificate(x, k, "iothub-emulator CA", VALID_FROM_DAYS, CA_DAYS);
        if (r < 0)
                return r;
        if (X509_set_issuer_name(x, X509_get_subject_name(x)) != 1 ||
            add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") < 0 ||
            add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") < 0 ||
            add_extension(x, x, NID_subject_key_identifier, "hash") < 0 ||
            X509_sign(x, k, EVP_sha256()) == 0)
                return -EIO;
        *ret = TAKE_PTR(x);
        *ret_key = TAKE_PTR(k);
        return 0;
}

/* names: as in a subjectAltName. */
static int make_server(const char *common_name, const char *names, int from_days, int to_days,
                       X509 *ca, EVP_PKEY *ca_key, X509 **ret, EVP_PKEY **ret_key) {
        _cleanup_(X509_freep) X509 *x = X509_new();
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *k = EVP_EC_gen("P-256");
        int r;

        if (!x || !k)
                return -ENOMEM;
        r = begin_certificate(x, k, common_name, from_days, to_days);
        if (r < 0)
                return r;
        if (X509_set_issuer_name(x, X509_get_subject_name(ca)) != 1 ||
            add_extension(x, ca, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
            add_extension(x, ca, NID_key_usage, "critical,digitalSignature") < 0 ||
            add_extension(x, ca, NID_ext_key_usage, "serverAuth") < 0 ||
            add_extension(x, ca, NID_subject_alt_name, names) < 0 ||
            add_extension(x, ca, NID_subject_key_identifier, "hash") < 0 ||
            add_extension(x, ca, NID_authority_key_identifier, "keyid") < 0 ||
            X509_sign(x, ca_key, EVP_sha256()) == 0)
                return -EIO;
        *ret = TAKE_PTR(x);
        *ret_key = TAKE_PTR(k);
        return 0;
}

static int format_names(const char *host, char **ret) {
        return format_string(ret, "DNS:%s%s,IP:127.0.0.1,IP:::1", host,
                             strcasecmp(host, "localhost") == 0 ? "" : ",DNS:localhost");
}

/* 1: as it should be. */
static int server_is_good(X509 *x, X509 *ca, EVP_PKEY *ca_key, const char *host) {
        time_t renew_at = time(NULL) + (time_t) RENEW_DAYS * DAY_SEC;

        return X509_verify(x, ca_key) == 1 && X509_check_host(x, host, 0, 0, NULL) == 1 &&
               X509_cmp_time(X509_get0_notAfter(x), &renew_at) > 0;
}

int certificates_ensure(int dir_fd, const char *host) {
        _cleanup_(X509_freep) X509 *ca = NULL, *server = NULL;
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *ca_key = NULL, *server_key = NULL;
        _cleanup_free_ char *names = NULL;
        int r;

        assert(host);

        r = load_pair(dir_fd, CERTIFICATES_CA, CA_KEY, &ca, &ca_key);
        if (r == -ENOENT) {
                r = make_ca(&ca, &ca_key);
                if (r >= 0)
                        r = store_pair(dir_fd, CERTIFICATES_CA, CA_KEY, ca, ca_key);
        }
        if (r < 0)
                return r;

        r = load_pair(dir_fd, CERTIFICATES_SERVER, CERTIFICATES_SERVER_KEY, &server, &server_key);
        if (r >= 0 && server_is_good(server, ca, ca_key, host))
                return 0;
        if (r < 0 && r != -ENOENT && r != -EBADMSG)
                return r;
        X509_free(TAKE_PTR(server));
        EVP_PKEY_free(TAKE_PTR(server_key));
        r = format_names(host, &names);
        if (r >= 0)
                r = make_server(host, names, VALID_FROM_DAYS, SERVER_DAYS, ca, ca_key, &server,
                                &server_key);
        if (r >= 0)
                r = store_pair(dir_fd, CERTIFICATES_SERVER, CERTIFICATES_SERVER_KEY, server,
                               server_key);
        return r;
}

int certificates_make_odd(int dir_fd, const char *host, TroubleCertificate kind, X509 **ret,
                          EVP_PKEY **ret_key) {
        _cleanup_(X509_freep) X509 *ca = NULL;
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *ca_key = NULL;
        _cleanup_free_ char *names = NULL;
        int from = VALID_FROM_DAYS, to = SERVER_DAYS;
        int r;

        if (kind == TROUBLE_CERTIFICATE_UNKNOWN_ISSUER)
                r = make_ca(&ca, &ca_key);
        else
                r = load_pair(dir_fd, CERTIFICATES_CA, CA_KEY, &ca, &ca_key);
        if (r < 0)
                return r;

        if (kind == TROUBLE_CERTIFICATE_WRONG_NAME) {
                host = WRONG_NAME;
                r = format_string(&names, "DNS:" WRONG_NAME);
        } else
                r = format_names(host, &names);
        if (r < 0)
                return r;

        if (kind == TROUBLE_CERTIFICATE_EXPIRED) {
                from = -SERVER_DAYS;
                to = -1;
        } else if (kind == TROUBLE_CERTIFICATE_NOT_YET_VALID)
                from = 1;
        return make_server(host, names, from, to, ca, ca_key, ret, ret_key);
}
