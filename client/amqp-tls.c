#include "client/amqp-tls.h"

#include <arpa/inet.h>
#include <poll.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "client/output.h"

#define REMEDY_CA "for a hub with its own certificate authority, as the emulator, name --ca-file"

const char *amqp_tls_error_text(SSL *ssl, char *buf, size_t size) {
        const long verified = ssl ? SSL_get_verify_result(ssl) : X509_V_OK;
        const unsigned long code = ERR_peek_last_error();
        const char *reason = ERR_reason_error_string(code);

        if (verified != X509_V_OK)
                (void) snprintf(buf, size, "the certificate is not accepted: %s",
                                X509_verify_cert_error_string(verified));
        else if (reason)
                (void) snprintf(buf, size, "%s", reason);
        else if (errno != 0)
                (void) snprintf(buf, size, "%s", strerror(errno));
        else
                (void) snprintf(buf, size, "the other side ended the connection");
        ERR_clear_error();
        return buf;
}

static int load_authorities(SSL_CTX *context, const char *ca_file, AmqpError *error) {
        char text[256];

        if (!ca_file && SSL_CTX_set_default_verify_paths(context) == 1)
                return 0;
        if (ca_file && SSL_CTX_load_verify_file(context, ca_file) == 1)
                return 0;
        errno = 0;
        if (!ca_file || access(ca_file, R_OK) < 0)
                (void) snprintf(text, sizeof(text), "%s", strerror(errno)); /* fits */
        else
                (void) snprintf(text, sizeof(text), "no certificates in PEM form");
        ERR_clear_error();
        amqp_error_set(error, AMQP_STAGE_TLS, EX_CONFIG, "check --ca-file", "Cannot use %s: %s",
                       ca_file ? ca_file : "the system's certificates", text);
        return -EINVAL;
}

static bool is_address(const char *host) {
        uint8_t address[sizeof(struct in6_addr)];

        return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static bool expect_host(SSL *ssl, const char *host) {
        if (is_address(host))
                return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
        SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

int amqp_tls_new(int fd, const char *host, const char *ca_file, AmqpError *error, SSL **ret) {
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        SSL *ssl = NULL;
        int r;

        if (!context)
                return -ENOMEM;
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
        (void) SSL_CTX_set_mode(
                        context,
                        SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER); /* the new modes */
        SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF); /* gateways say no goodbye */
        r = SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 ? 0 : -ENOMEM;
        if (r >= 0)
                r = load_authorities(context, ca_file, error);
        if (r >= 0) {
                ssl = SSL_new(context);
                if (!ssl || SSL_set_fd(ssl, fd) != 1 || !expect_host(ssl, host)) {
                        SSL_free(ssl);
                        r = -ENOMEM;
                }
        }
        SSL_CTX_free(context); /* the connection holds it */
        if (r < 0)
                return r;
        SSL_set_connect_state(ssl);
        *ret = ssl;
        return 0;
}

int amqp_tls_handshake(SSL *ssl, AmqpError *error, short *ret_events) {
        char text[256];
        int r;

        errno = 0;
        ERR_clear_error();
        r = SSL_do_handshake(ssl);
        if (r == 1)
                return 1;
        switch (SSL_get_error(ssl, r)) {
        case SSL_ERROR_WANT_READ: *ret_events = POLLIN; return 0;
        case SSL_ERROR_WANT_WRITE: *ret_events = POLLOUT; return 0;
        default: break;
        }
        amqp_error_set(error, AMQP_STAGE_TLS, EXIT_NO_DAEMON,
                       SSL_get_verify_result(ssl) != X509_V_OK ? REMEDY_CA : NULL, "%s",
                       amqp_tls_error_text(ssl, text, sizeof(text)));
        /* A certificate does not get better by waiting. */
        error->passing = SSL_get_verify_result(ssl) == X509_V_OK;
        return -EIO;
}
