/* Certificate and key of a device that signs in by X.509: what is read, what a fault says, when an
 * end is told, and that no text holds a secret (P7). */
#include "tests/support/test.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "daemon/credentials-certificate.h"
#include "daemon/credentials-key.h"
#include "daemon/credentials.h"
#include "daemon/log.h"
#include "lib/fd-util.h"

#define DAY (24 * 3600)
#define PASSPHRASE "correct horse battery"
#define NOW (now_usec(CLOCK_REALTIME))

static char *dir, *log_path;

static char *path_in(const char *name) {
        char *p;

        ck_assert_int_ge(asprintf(&p, "%s/%s", dir, name), 0);
        return p;
}

static void setup(void) {
        int fd;

        unsetenv("CREDENTIALS_DIRECTORY");
        dir = test_tempdir();
        log_path = path_in("log");
        fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
        close(fd);
        log_setup(LOG_TARGET_STDERR, LOG_DEBUG);
}

static __attribute__((noinline)) char *log_text(void) {
        char *s = NULL;

        assert_ok(read_file(log_path, 1 << 20, &s, NULL));
        return s;
}

static EVP_PKEY *make_key(void) {
        EVP_PKEY *key = EVP_EC_gen("P-256");

        ck_assert_ptr_nonnull(key);
        return key;
}

/* Valid from begins to ends, in seconds from now. */
static X509 *make_certificate(EVP_PKEY *key, const char *name, long begins, long ends) {
        X509 *x = X509_new();
        X509_NAME *n = X509_get_subject_name(x);

        ck_assert(X509_set_version(x, X509_VERSION_3));
        ck_assert(ASN1_INTEGER_set(X509_get_serialNumber(x), 1));
        ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notBefore(x), begins));
        ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notAfter(x), ends));
        ck_assert(X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_ASC, (const uint8_t *) name, -1, -1,
                                             0));
        ck_assert(X509_set_issuer_name(x, n) && X509_set_pubkey(x, key));
        ck_assert(X509_sign(x, key, EVP_sha256()));
        return x;
}

/* Appends to the file, which it makes. */
static void write_pem(const char *name, X509 *x, EVP_PKEY *key, const char *passphrase) {
        _cleanup_free_ char *path = path_in(name);
        int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        _cleanup_fclose_ FILE *f = fdopen(fd, "a");

        if (x)
                ck_assert(PEM_write_X509(f, x));
        if (key)
                ck_assert(PEM_write_PKCS8PrivateKey(
                                f, key, passphrase ? EVP_aes_256_cbc() : NULL, passphrase,
                                passphrase ? (int) strlen(passphrase) : 0, NULL, NULL));
}

static void write_text(const char *name, const char *text) {
        _cleanup_free_ char *path = path_in(name);

        assert_ok(replace_file(path, text, strlen(text), 0600));
}

static void remove_file(const char *name) {
        _cleanup_free_ char *path = path_in(name);

        ck_assert_int_eq(unlink(path), 0);
}

/* A pair in NAME.pem and NAME.key. */
static void make_pair(const char *name, long begins, long ends, const char *passphrase) {
        _cleanup_free_ char *certificate = NULL, *key_name = NULL;
        EVP_PKEY *key = make_key();
        X509 *x = make_certificate(key, name, begins, ends);

        ck_assert_int_ge(asprintf(&certificate, "%s.pem", name), 0);
        ck_assert_int_ge(asprintf(&key_name, "%s.key", name), 0);
        write_pem(certificate, x, NULL, NULL);
        write_pem(key_name, NULL, key, passphrase);
        X509_free(x);
        EVP_PKEY_free(key);
}

/* Names are of files in the folder; NULL: not set. */
static int load(const char *certificate, const char *key, const char *passphrase,
                ClientCertificate **ret, char **reterr_problem) {
        _cleanup_free_ char *a = path_in(certificate), *b = key ? path_in(key) : NULL,
                            *c = passphrase ? path_in(passphrase) : NULL;
        ClientCertificateOptions options = { .certificate_file = a,
                                             .private_key = b,
                                             .passphrase_file = c };

        return client_certificate_new(&options, ret, reterr_problem);
}

static void assert_usable(const ClientCertificate *c) {
        _cleanup_free_ char *problem = NULL;
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

        ck_assert_int_eq(client_certificate_use(c, ctx, &problem), 0);
        ck_assert_int_eq(SSL_CTX_check_private_key(ctx), 1);
        SSL_CTX_free(ctx);
}

TEST(certificate_and_key_are_read_from_two_files_or_from_one) {
        _cleanup_(client_certificate_unrefp) ClientCertificate *two = NULL, *one = NULL,
                                                               *again = NULL;
        _cleanup_free_ char *problem = NULL;
        EVP_PKEY *key = make_key();
        X509 *x = make_certificate(key, "dev01", 0, DAY);

        setup();
        write_pem("a.pem", x, NULL, NULL);
        write_pem("a.key", NULL, key, NULL);
        write_pem("both.pem", NULL, key, NULL);
        write_pem("both.pem", x, NULL, NULL);
        assert_ok(load("a.pem", "a.key", NULL, &two, &problem));
        assert_ok(load("both.pem", NULL, NULL, &one, &problem));
        assert_usable(two);
        assert_usable(one);
        ck_assert(client_certificate_equal(one, two));
        ck_assert(!client_certificate_equal(one, NULL));
        ck_assert(client_certificate_equal(NULL, NULL));

        /* The chain counts, too. */
        write_pem("a.pem", x, NULL, NULL);
        assert_ok(load("a.pem", "a.key", NULL, &again, &problem));
        ck_assert(!client_certificate_equal(two, again));
        X509_free(x);
        EVP_PKEY_free(key);
}

TEST(the_whole_chain_is_shown_to_the_hub) {
        _cleanup_(client_certificate_unrefp) ClientCertificate *c = NULL;
        _cleanup_free_ char *problem = NULL;
        EVP_PKEY *key = make_key(), *other = make_key();
        X509 *own = make_certificate(key, "own", 0, DAY),
             *up = make_certificate(other, "up", 0, DAY);
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        STACK_OF(X509) * chain;

        setup();
        write_pem("chain.pem", own, NULL, NULL);
        write_pem("chain.pem", up, NULL, NULL);
        write_pem("own.key", NULL, key, NULL);
        assert_ok(load("chain.pem", "own.key", NULL, &c, &problem));
        assert_ok(client_certificate_use(c, ctx, &problem));
        ck_assert_int_eq(X509_cmp(SSL_CTX_get0_certificate(ctx), own), 0);
        ck_assert(SSL_CTX_get0_chain_certs(ctx, &chain));
        ck_assert_int_eq(sk_X509_num(chain), 1);
        ck_assert_int_eq(X509_cmp(sk_X509_value(chain, 0), up), 0);
        SSL_CTX_free(ctx);
        X509_free(own);
        X509_free(up);
        EVP_PKEY_free(key);
        EVP_PKEY_free(other);
}

TEST(a_passphrase_opens_the_key) {
        _cleanup_(client_certificate_unrefp) ClientCertificate *c = NULL;
        _cleanup_free_ char *problem = NULL;

        setup();
        make_pair("a", 0, DAY, PASSPHRASE);
        write_text("passphrase", PASSPHRASE "\n");
        assert_ok(load("a.pem", "a.key", "passphrase", &c, &problem));
        assert_usable(c);
}

/* What each fault says: the place and the remedy. */
TEST(a_fault_names_the_place_and_the_remedy) {
        static const struct {
                const char *certificate, *key, *passphrase;
                int error;
                const char *says[3];
        } table[] = {
                { "none.pem",
                  "a.key",
                  NULL,
                  -ENOENT,
                  { "/none.pem is missing", "the certificate" } },
                { "a.pem", "none.key", NULL, -ENOENT, { "/none.key is missing", "private key" } },
                { "a.pem", "b.key", NULL, -EKEYREJECTED, { "/b.key does not belong", "/a.pem" } },
                { "a.key",
                  "a.key",
                  NULL,
                  -EINVAL,
                  { "no certificate in", "/a.key", "BEGIN CERTIFICATE" } },
                { "a.pem",
                  "a.pem",
                  NULL,
                  -EINVAL,
                  { "no private key in", "/a.pem", "BEGIN PRIVATE KEY" } },
                { "a.pem", NULL, NULL, -EINVAL, { "no private key in", "/a.pem" } },
                { "cut.pem", "a.key", NULL, -EINVAL, { "no certificate in", "/cut.pem" } },
                { "half.pem", "a.key", NULL, -EINVAL, { "no certificate in", "/half.pem" } },
                { "a.pem", "cut.key", NULL, -EINVAL, { "no private key in", "/cut.key" } },
                { "a.pem", "empty", NULL, -EINVAL, { "no private key in", "/empty" } },
                { "locked.pem",
                  "locked.key",
                  NULL,
                  -EACCES,
                  { "/locked.key is locked", "private_key_passphrase_file" } },
                { "locked.pem",
                  "locked.key",
                  "wrong",
                  -EACCES,
                  { "/wrong does not open", "/locked.key" } },
                { "locked.pem",
                  "locked.key",
                  "empty",
                  -EACCES,
                  { "/empty does not open", "/locked.key" } },
                { "locked.pem",
                  "locked.key",
                  "none",
                  -EACCES,
                  { "/none is missing", "passphrase" } },
                { "many.pem", "a.key", NULL, -EINVAL, { "no certificate in", "/many.pem" } },
        };
        _cleanup_free_ char *path = NULL, *text = NULL, *key_text = NULL, *key_path = NULL;
        size_t size;

        setup();
        make_pair("a", 0, DAY, NULL);
        make_pair("b", 0, DAY, NULL);
        make_pair("locked", 0, DAY, PASSPHRASE);
        write_text("wrong", "incorrect horse");
        write_text("empty", "");
        path = path_in("a.pem");
        key_path = path_in("a.key");
        assert_ok(read_file(path, 1 << 16, &text, &size));
        assert_ok(read_file(key_path, 1 << 16, &key_text, NULL));
        for (int i = 0; i < 20; i++) { /* a chain that no server would take */
                _cleanup_free_ char *many = path_in("many.pem");
                FILE *f = fopen(many, "a");

                ck_assert_int_ge(fputs(text, f), 0);
                ck_assert_int_eq(fclose(f), 0);
        }
        key_text[strlen(key_text) / 2] = '\0';
        write_text("cut.key", key_text);
        text[size / 2] = '\0';
        write_text("cut.pem", text);
        write_pem("half.pem", NULL, NULL, NULL);
        { /* a whole certificate and a piece of the next */
                _cleanup_free_ char *half = path_in("half.pem"), *whole = NULL, *both = NULL;

                assert_ok(read_file(path, 1 << 16, &whole, NULL));
                ck_assert_int_ge(asprintf(&both, "%s%s", whole, text), 0);
                assert_ok(replace_file(half, both, strlen(both), 0600));
        }

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(client_certificate_unrefp) ClientCertificate *c = NULL;
                _cleanup_free_ char *problem = NULL;

                ck_assert_msg(load(table[i].certificate, table[i].key, table[i].passphrase, &c,
                                   &problem) == table[i].error,
                              "%zu: %s", i, strempty(problem));
                ck_assert_ptr_null(c);
                for (size_t k = 0; k < 3 && table[i].says[k]; k++)
                        ck_assert_msg(strstr(problem, table[i].says[k]), "%zu: %s", i, problem);
                ck_assert_ptr_null(strstr(problem, "horse"));
        }
}

TEST(a_key_that_everyone_may_read_is_told) {
        _cleanup_(client_certificate_unrefp) ClientCertificate *a = NULL, *b = NULL, *c = NULL, *d = NULL;
        _cleanup_free_ char *problem = NULL, *path = NULL, *before = NULL, *after = NULL, *again = NULL,
                            *last = NULL;

        setup();
        make_pair("a", 0, DAY, NULL);
        path = path_in("a.pem");
        ck_assert_int_eq(chmod(path, 0644), 0); /* a certificate is public */
        assert_ok(load("a.pem", "a.key", NULL, &a, &problem));
        before = log_text();
        ck_assert_str_eq(before, "");
        free(path);
        path = path_in("a.key");
        ck_assert_int_eq(chmod(path, 0644), 0);
        assert_ok(load("a.pem", "a.key", NULL, &b, &problem));
        after = log_text();
        ck_assert_ptr_nonnull(strstr(after, "/a.key holds a device key and everyone may read it"));

        /* Once: while the hub refuses, the files are read before each try. */
        assert_ok(load("a.pem", "a.key", NULL, &c, &problem));
        again = log_text();
        ck_assert_str_eq(again, after);
        ck_assert_int_eq(chmod(path, 0600), 0);
        ck_assert_int_eq(chmod(path, 0604), 0); /* changed, and wrong again */
        assert_ok(load("a.pem", "a.key", NULL, &d, &problem));
        last = log_text();
        ck_assert_uint_gt(strlen(last), strlen(after));
}

TEST(a_pipe_in_place_of_a_file_is_named_and_not_waited_for) {
        _cleanup_(client_certificate_unrefp) ClientCertificate *a = NULL;
        _cleanup_free_ char *problem = NULL, *path = NULL;

        setup();
        make_pair("a", 0, DAY, NULL);
        path = path_in("pipe");
        ck_assert_int_eq(mkfifo(path, 0600), 0);
        assert_error(load("a.pem", "pipe", NULL, &a, &problem), -EINVAL);
        ck_assert_ptr_nonnull(strstr(problem, "/pipe is not a file"));
}

TEST(the_end_is_told_thirty_days_ahead) {
        static const struct {
                long begins, ends;
                CertificateAge age;
                const char *says;
        } table[] = {
                { -DAY, 31L * DAY, CERTIFICATE_VALID, "" },
                { -DAY, 30L * DAY - 60, CERTIFICATE_ENDS_SOON, "ends in 29d 23h" },
                { -DAY, 60, CERTIFICATE_ENDS_SOON, "ends in" },
                { -2L * DAY, -DAY, CERTIFICATE_ENDED, "ended at" },
                { DAY, 2L * DAY, CERTIFICATE_NOT_YET_VALID, "check this machine's clock" },
        };

        setup();
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(client_certificate_unrefp) ClientCertificate *c = NULL;
                _cleanup_free_ char *problem = NULL;
                char text[512];

                make_pair("a", table[i].begins, table[i].ends, NULL);
                assert_ok(load("a.pem", "a.key", NULL, &c, &problem)); /* dates are no fault */
                ck_assert_int_eq((int) client_certificate_age(c, NOW, text, sizeof(text)),
                                 (int) table[i].age);
                ck_assert_msg(table[i].says[0] ? !!strstr(text, table[i].says) : text[0] == '\0',
                              "%zu: %s", i, text);
                remove_file("a.pem");
                remove_file("a.key");
        }
}

/* 9999-12-31T23:59:59Z is how "never" is written (RFC 5280 section 4.1.2.5). */
TEST(dates_beyond_every_clock_are_read) {
        _cleanup_(client_certificate_unrefp) ClientCertificate *c = NULL;
        _cleanup_free_ char *problem = NULL;
        EVP_PKEY *key = make_key();
        X509 *x = make_certificate(key, "a", 0, 0);

        setup();
        ck_assert(ASN1_TIME_set_string(X509_getm_notAfter(x), "99991231235959Z"));
        ck_assert(ASN1_TIME_set_string(X509_getm_notBefore(x), "500101000000Z")); /* 1950 */
        ck_assert(X509_sign(x, key, EVP_sha256()));
        write_pem("a.pem", x, key, NULL);
        assert_ok(load("a.pem", NULL, NULL, &c, &problem));
        ck_assert(client_certificate_begins_usec(c) == 0);
        ck_assert(client_certificate_ends_usec(c) == UINT64_C(253402300799) * USEC_PER_SEC);
        X509_free(x);
        EVP_PKEY_free(key);
}

TEST(a_scheme_tells_a_uri_from_a_path) {
        static const struct {
                const char *s;
                bool is_uri;
        } table[] = {
                { "/etc/iothubd/key.pem", false },
                { "key.pem", false },
                { "", false },
                { "a:b", false },
                { "dir/x:y", false },
                { ":x", false },
                { "1a:x", false },
                { "pkcs11:token=t;object=k", true },
                { "handle:0x81000001", true },
                { "file:/etc/key.pem", true },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                ck_assert_msg(private_key_is_uri(table[i].s) == table[i].is_uri, "%s", table[i].s);
}

TEST(a_key_by_uri_is_fetched_when_it_is_used) {
        static const struct {
                const char *location, *provider;
                int error;
                const char *says;
        } table[] = {
                { "pkcs11:token=none;object=k", "no-such-module", -ENOSYS,
                  "OpenSSL cannot load no-such-module" },
                { "pkcs11:token=none;object=k", "engine:no-such", -ENOSYS,
                  "OpenSSL cannot load engine:no-such" },
                { "nosuch:thing", NULL, -EINVAL, "no private key at nosuch:thing" },
        };
        _cleanup_free_ char *path = NULL, *location = NULL, *problem = NULL;
        _cleanup_(client_certificate_unrefp) ClientCertificate *good = NULL;
        ClientCertificateOptions options;

        setup();
        make_pair("a", 0, DAY, NULL);
        path = path_in("a.pem");
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(client_certificate_unrefp) ClientCertificate *c = NULL;
                _cleanup_free_ char *text = NULL;
                SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

                options = (ClientCertificateOptions){ .certificate_file = path,
                                                      .private_key = table[i].location,
                                                      .key_provider = table[i].provider };
                assert_ok(client_certificate_new(&options, &c, &text));
                ck_assert_int_eq(client_certificate_use(c, ctx, &text), table[i].error);
                ck_assert_msg(strstr(text, table[i].says), "%s", text);
                SSL_CTX_free(ctx);
        }
        ck_assert_int_ge(asprintf(&location, "file:%s/a.key", dir), 0);
        options = (ClientCertificateOptions){ .certificate_file = path, .private_key = location };
        assert_ok(client_certificate_new(&options, &good, &problem));
        assert_usable(good);
}

/* In the credentials. */

static Credentials *open_credentials(const char *string) {
        _cleanup_free_ char *certificate = path_in("a.pem"), *key = path_in("a.key");
        CredentialsOptions options = { .connection_string = string,
                                       .certificate_file = certificate,
                                       .private_key = key,
                                       .token_lifetime_usec = USEC_PER_HOUR };
        Credentials *c;

        assert_ok(credentials_new(&options, &c));
        return c;
}

TEST(x509_in_the_connection_string_signs_in_without_a_token) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        uint64_t expiry;
        char *token;

        setup();
        token = dir; /* something that is not NULL */
        make_pair("a", 0, DAY, NULL);
        c = open_credentials("HostName=h.example;DeviceId=dev01;x509=true");
        ck_assert_msg(!credentials_problem(c), "%s", strempty(credentials_problem(c)));
        ck_assert_uint_eq(credentials_n_keys(c), 1);
        ck_assert_ptr_nonnull(credentials_certificate(c));
        assert_ok(credentials_make_token(c, 0, NOW, &token, &expiry));
        ck_assert_ptr_null(token);
        ck_assert(expiry == UINT64_MAX);
        ck_assert_int_eq(credentials_reload(c), 0);
}

TEST(with_a_key_the_certificate_is_not_used) {
        _cleanup_(credentials_freep) Credentials *c = NULL;

        setup();
        make_pair("a", 0, DAY, NULL);
        c = open_credentials("HostName=h;DeviceId=d;SharedAccessKey="
                             "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        ck_assert_ptr_null(credentials_problem(c));
        ck_assert_ptr_null(credentials_certificate(c));
}

TEST(half_a_rotation_keeps_the_old_certificate_and_the_other_half_takes_the_new) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_free_ char *logged = NULL;
        ClientCertificate *old;
        const char *first;

        setup();
        c = open_credentials("HostName=h;DeviceId=d;x509=true");
        ck_assert_ptr_nonnull(strstr(credentials_problem(c), "/a.pem is missing"));
        ck_assert(credentials_problem_is_certificate(c));
        make_pair("a", 0, DAY, NULL);
        ck_assert_int_eq(credentials_reload(c), 1);
        ck_assert_ptr_null(credentials_problem(c));
        ck_assert(!credentials_problem_is_certificate(c));
        old = client_certificate_ref(credentials_certificate(c));

        remove_file("a.key");
        make_pair("b", 0, DAY, NULL);
        {
                _cleanup_free_ char *from = path_in("b.pem"), *to = path_in("a.pem");

                ck_assert_int_eq(rename(from, to), 0);
        }
        assert_error(credentials_reload(c), -ENOENT);
        assert_error(credentials_reload(c), -ENOENT);
        ck_assert_ptr_null(credentials_problem(c));
        ck_assert_uint_eq(credentials_n_keys(c), 1);
        ck_assert(client_certificate_equal(credentials_certificate(c), old));
        logged = log_text();
        first = strstr(logged, "/a.key is missing");
        ck_assert_ptr_nonnull(first);
        ck_assert_ptr_null(strstr(first + 1, "/a.key is missing"));
        ck_assert_ptr_nonnull(strstr(first, "The certificate read before stays in use"));

        {
                _cleanup_free_ char *from = path_in("b.key"), *to = path_in("a.key");

                ck_assert_int_eq(rename(from, to), 0);
        }
        ck_assert_int_eq(credentials_reload(c), 1);
        ck_assert(!client_certificate_equal(credentials_certificate(c), old));
        assert_usable(old); /* whoever connects with it meanwhile may go on */
        client_certificate_unref(old);
}

TEST(systemd_passes_certificate_key_and_passphrase) {
        CredentialsOptions options = { .connection_string = "HostName=h;DeviceId=d;x509=true",
                                       .token_lifetime_usec = USEC_PER_HOUR };
        _cleanup_(credentials_freep) Credentials *c = NULL, *d = NULL;
        static const char *const names[][2] = { { "s.pem", "certificate" },
                                                { "s.key", "private-key" } };

        setup();
        setenv("CREDENTIALS_DIRECTORY", dir, 1);
        make_pair("s", 0, DAY, PASSPHRASE);
        write_text("private-key-passphrase", PASSPHRASE);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *from = path_in(names[i][0]), *to = path_in(names[i][1]);

                ck_assert_int_eq(rename(from, to), 0);
        }
        assert_ok(credentials_new(&options, &c));
        ck_assert_msg(!credentials_problem(c), "%s", strempty(credentials_problem(c)));

        remove_file("private-key-passphrase");
        assert_ok(credentials_new(&options, &d));
        ck_assert_ptr_nonnull(strstr(credentials_problem(d), "/private-key is locked"));
        ck_assert_ptr_nonnull(strstr(credentials_problem(d), "systemctl restart"));
}

TEST(a_second_key_does_not_go_with_a_certificate) {
        _cleanup_free_ char *certificate = NULL, *key = NULL, *secondary = NULL, *logged = NULL;
        _cleanup_(credentials_freep) Credentials *c = NULL;
        CredentialsOptions options = { .connection_string = "HostName=h;DeviceId=d;x509=true",
                                       .token_lifetime_usec = USEC_PER_HOUR };

        setup();
        make_pair("a", 0, DAY, NULL);
        write_text("secondary", "HostName=h;DeviceId=d;SharedAccessKey="
                                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        options.certificate_file = certificate = path_in("a.pem");
        options.private_key = key = path_in("a.key");
        options.secondary_connection_string_file = secondary = path_in("secondary");
        assert_ok(credentials_new(&options, &c));
        ck_assert_uint_eq(credentials_n_keys(c), 1);
        logged = log_text();
        ck_assert_ptr_nonnull(strstr(logged, "either keys or a certificate"));
}
