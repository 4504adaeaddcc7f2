/* uplink-tls.h: the TLS side of a connection to the hub: always verified, TLS 1.2 at least
 * (reference: "TLS support in Azure IoT Hub"), and the buffer that turns many small records into
 * few writes. Used on the thread of its connection. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <openssl/ssl.h>

#include "daemon/uplink-reason.h"

typedef struct UplinkTlsPeer {
        const char *host;  /* borrowed: a DNS name or an address */
        long verify_error; /* of the last verification that failed, X509_V_OK: none */
        bool knows_us;     /* we show a certificate of ours; else no alert can be about it */
} UplinkTlsPeer;

/* A context that accepts only a certificate for the peer's host under the roots of ca_file, or the
 * system's where that is NULL. The chain and the name are checked by OpenSSL itself; nothing turns
 * that off. 0, or -errno with a sentence in buf. *ret: SSL_CTX_free(); peer must outlive it. */
int uplink_tls_context_new(const char *ca_file, UplinkTlsPeer *peer, SSL_CTX **ret, char *buf,
                           size_t size);

/* After a failed handshake: its class and a sentence, the verification error by name. ssl_error:
 * SSL_get_error(). */
UplinkErrorClass uplink_tls_describe_failure(const UplinkTlsPeer *peer, int ssl_error,
                                             int saved_errno, char *buf, size_t size);

/* The same where the library has thrown the error away but for its own log line. */
UplinkErrorClass uplink_tls_describe_line(const UplinkTlsPeer *peer, const char *line, char *buf,
                                          size_t size);

/* Whether such a line is an alert by which the server turned our certificate down. With TLS 1.3 it
 * comes after the handshake. */
bool uplink_tls_line_is_about_us(const UplinkTlsPeer *peer, const char *line);

/* Roots are needed for the handshake only; on a system whose roots are one big file they cost some
 * MB. */
void uplink_tls_forget_roots(SSL_CTX *ctx);

/* Puts a buffer between ssl and its socket, after the handshake. 0 or -ENOMEM. */
int uplink_tls_buffer_push(SSL *ssl);

/* 1: nothing is pending; 0: the socket takes no more now; -EPIPE: it failed. */
int uplink_tls_buffer_flush(SSL *ssl);
bool uplink_tls_buffer_pending(SSL *ssl);

/* Takes the empty buffer out: libmosquitto closes right after its DISCONNECT, which would stay in
 * there. */
void uplink_tls_buffer_pop(SSL *ssl);
