#include "daemon/uplink-tls.h"

#include <arpa/inet.h>
#include <dirent.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

/* A batch of 64 usual readings fits; what is larger goes out in pieces. */
#define BUFFER_BYTES (32 * 1024)

static bool is_address(const char *host) {
        struct in6_addr a;

        return inet_pton(AF_INET, host, &a) == 1 || inet_pton(AF_INET6, host, &a) == 1;
}

/* libmosquitto hands the address that it connects to over as the server name, since it is given
 * addresses (see uplink-mosquitto.c). This runs before the ClientHello is made and puts the right
 * name there; an address is never sent as a name (RFC 6066 section 3). */
static void on_handshake_start(const SSL *ssl, int where, int value) {
        const UplinkTlsPeer *peer = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

        if (!(where & SSL_CB_HANDSHAKE_START))
                return;
        /* const is the callback's alone; without memory the hub shows its default certificate,
         * which is verified. */
        (void) SSL_ctrl((SSL *) (uintptr_t) ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME,
                        TLSEXT_NAMETYPE_host_name,
                        is_address(peer->host) ? NULL : (void *) (uintptr_t) peer->host);
}

static int on_verified(int ok, X509_STORE_CTX *store) {
        const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
        UplinkTlsPeer *peer = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

        if (!ok)
                peer->verify_error = X509_STORE_CTX_get_error(store);
        return ok;
}

static bool has_hashed_roots(const char *dir) {
        struct dirent *e;
        bool found = false;
        DIR *d = opendir(dir);

        if (!d)
                return false;
        while (!found && (e = readdir(d))) {
                const char *dot = strrchr(e->d_name, '.');

                found = dot && streq(dot, ".0") && dot - e->d_name == 8;
        }
        (void) closedir(d); /* only read from */
        return found;
}

/* A folder of hashed names is read one certificate at a time, as needed; the bundle that many
 * systems have beside it would be parsed whole, some MB for one root. $SSL_CERT_FILE and
 * $SSL_CERT_DIR are obeyed as OpenSSL does. */
static int load_system_roots(SSL_CTX *ctx) {
        const char *dir = getenv(X509_get_default_cert_dir_env());

        if (!dir)
                dir = X509_get_default_cert_dir();
        if (!getenv(X509_get_default_cert_file_env()) && has_hashed_roots(dir))
                return SSL_CTX_load_verify_dir(ctx, dir);
        return SSL_CTX_set_default_verify_paths(ctx);
}

static int expect_name(SSL_CTX *ctx, const char *host) {
        X509_VERIFY_PARAM *param = SSL_CTX_get0_param(ctx);

        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        if (is_address(host))
                return X509_VERIFY_PARAM_set1_ip_asc(param, host);
        return X509_VERIFY_PARAM_set1_host(param, host, 0);
}

/* OpenSSL has no text for what the system refused. */
static const char *reason_of(unsigned long e) {
        const char *text;

        if (ERR_SYSTEM_ERROR(e))
                return strerror((int) ERR_GET_REASON(e));
        text = ERR_reason_error_string(e);
        return text ? text : "no reason given";
}

int uplink_tls_context_new(const char *ca_file, UplinkTlsPeer *peer, SSL_CTX **ret, char *buf,
                           size_t size) {
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

        if (!ctx)
                goto no_memory;
        peer->verify_error = X509_V_OK;
        SSL_CTX_set_app_data(ctx, peer);

        if (ca_file && !SSL_CTX_load_verify_file(ctx, ca_file)) {
                (void) snprintf(buf, size, "Cannot read the certificates of ca_file %s (%s)",
                                ca_file, reason_of(ERR_peek_error()));
                ERR_clear_error();
                SSL_CTX_free(ctx);
                return -EINVAL;
        }
        if ((!ca_file && !load_system_roots(ctx)) || !expect_name(ctx, peer->host) ||
            !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION))
                goto no_memory;

        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verified);
        SSL_CTX_set_info_callback(ctx, on_handshake_start);
        SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        /* One read takes what many small records (a PUBACK each) brought; else each costs two. */
        SSL_CTX_set_read_ahead(ctx, 1);
        SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        *ret = ctx;
        return 0;

no_memory:
        ERR_clear_error();
        SSL_CTX_free(ctx);
        (void) snprintf(buf, size, "Cannot prepare TLS: out of memory");
        return -ENOMEM;
}

void uplink_tls_forget_roots(SSL_CTX *ctx) {
        X509_STORE *empty = X509_STORE_new();

        if (empty)
                SSL_CTX_set_cert_store(ctx, empty); /* consumed; frees the old one */
}

static UplinkErrorClass describe_verification(long verify, const char *host, char *buf,
                                              size_t size) {
        const char *name = X509_verify_cert_error_string(verify);

        switch (verify) {
        case X509_V_ERR_CERT_NOT_YET_VALID:
        case X509_V_ERR_CRL_NOT_YET_VALID:
                (void) snprintf(buf, size,
                                "The certificate of %s is not valid yet by this machine's clock "
                                "(%s)",
                                host, name);
                return UPLINK_ERROR_CLOCK;
        case X509_V_ERR_CERT_HAS_EXPIRED:
                (void) snprintf(buf, size,
                                "The certificate of %s has ended by this machine's clock (%s)",
                                host, name);
                return UPLINK_ERROR_TLS_EXPIRED;
        case X509_V_ERR_HOSTNAME_MISMATCH:
        case X509_V_ERR_IP_ADDRESS_MISMATCH:
                (void) snprintf(buf, size,
                                "The server's certificate is for another name than %s (%s)", host,
                                name);
                return UPLINK_ERROR_TLS_NAME;
        default:
                (void) snprintf(buf, size, "The certificate of %s is not trusted (%s)", host, name);
                return UPLINK_ERROR_TLS_ISSUER;
        }
}

static UplinkErrorClass describe_closed(const char *host, const char *reason, char *buf,
                                        size_t size) {
        (void) snprintf(buf, size, "%s closed the connection while TLS was set up (%s)", host,
                        reason);
        return UPLINK_ERROR_NETWORK;
}

static UplinkErrorClass describe_tls(const char *host, const char *reason, char *buf, size_t size) {
        (void) snprintf(buf, size, "TLS with %s failed (%s)", host, reason);
        return UPLINK_ERROR_TLS;
}

/* The alerts by which a server turns a client's certificate down (RFC 8446 section 6.2). */
static bool is_about_our_certificate(int reason) {
        switch (reason) {
        case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
        case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
        case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
        case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED: return true;
        default: return false;
        }
}

static UplinkErrorClass describe_turned_down(const char *host, const char *reason, char *buf,
                                             size_t size) {
        (void) snprintf(buf, size, "%s turned the device's certificate down (%s)", host, reason);
        return UPLINK_ERROR_CERTIFICATE;
}

UplinkErrorClass uplink_tls_describe_failure(const UplinkTlsPeer *peer, int ssl_error,
                                             int saved_errno, char *buf, size_t size) {
        unsigned long e = ERR_peek_last_error();

        ERR_clear_error();
        if (peer->verify_error != X509_V_OK)
                return describe_verification(peer->verify_error, peer->host, buf, size);
        if (peer->knows_us && ERR_GET_LIB(e) == ERR_LIB_SSL &&
            is_about_our_certificate(ERR_GET_REASON(e)))
                return describe_turned_down(peer->host, reason_of(e), buf, size);
        if (ssl_error == SSL_ERROR_SYSCALL || (e != 0 && ERR_SYSTEM_ERROR(e)))
                return describe_closed(peer->host,
                                       saved_errno != 0 ? strerror(saved_errno) : "no error given",
                                       buf, size);
        if (e != 0 && ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
                return describe_closed(peer->host, "end of file", buf, size);
        return describe_tls(peer->host, reason_of(e), buf, size);
}

/* "OpenSSL Error[0]: error:0A000412:SSL routines::..." */
static unsigned long code_of_line(const char *line) {
        const char *code = strstr(line, "error:");

        return code ? strtoul(code + strlen("error:"), NULL, 16) : 0;
}

bool uplink_tls_line_is_about_us(const UplinkTlsPeer *peer, const char *line) {
        unsigned long e = code_of_line(line);

        return peer->knows_us && ERR_GET_LIB(e) == ERR_LIB_SSL && is_about_our_certificate(ERR_GET_REASON(e));
}

UplinkErrorClass uplink_tls_describe_line(const UplinkTlsPeer *peer, const char *line, char *buf,
                                          size_t size) {
        const char *reason = strrchr(line, ':');

        if (peer->verify_error != X509_V_OK)
                return describe_verification(peer->verify_error, peer->host, buf, size);
        if (uplink_tls_line_is_about_us(peer, line))
                return describe_turned_down(peer->host, reason_of(code_of_line(line)), buf, size);
        if (strstr(line, "unexpected eof") || *line == '\0')
                return describe_closed(peer->host, "end of file", buf, size);
        return describe_tls(peer->host, reason ? reason + 1 : line, buf, size);
}

int uplink_tls_buffer_push(SSL *ssl) {
        BIO *socket_bio = SSL_get_wbio(ssl), *buffer;

        buffer = BIO_new(BIO_f_buffer());
        if (!buffer || BIO_set_write_buffer_size(buffer, BUFFER_BYTES) <= 0) {
                BIO_free(buffer);
                return -ENOMEM;
        }
        /* SSL_set0_wbio() drops its reference to the socket's BIO, so the chain brings one of its
         * own. */
        BIO_up_ref(socket_bio);
        SSL_set0_wbio(ssl, BIO_push(buffer, socket_bio));
        return 0;
}

static BIO *find_buffer(SSL *ssl) {
        return BIO_find_type(SSL_get_wbio(ssl), BIO_TYPE_BUFFER);
}

bool uplink_tls_buffer_pending(SSL *ssl) {
        BIO *buffer = find_buffer(ssl);

        /* Of this BIO alone: it passes BIO_wpending() on when it is empty, and a socket's is 0. */
        return buffer && BIO_wpending(buffer) > 0;
}

int uplink_tls_buffer_flush(SSL *ssl) {
        BIO *buffer = find_buffer(ssl);

        if (!buffer || BIO_wpending(buffer) == 0)
                return 1;
        if (BIO_flush(buffer) > 0)
                return 1;
        return BIO_should_retry(buffer) ? 0 : -EPIPE;
}

void uplink_tls_buffer_pop(SSL *ssl) {
        BIO *buffer = find_buffer(ssl), *socket_bio;

        if (!buffer)
                return;
        socket_bio = BIO_next(buffer);
        BIO_up_ref(socket_bio);
        SSL_set0_wbio(ssl, socket_bio); /* frees the buffer and its reference to the socket's BIO */
}
