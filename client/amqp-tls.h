/* amqp-tls.h: TLS for AMQP, over OpenSSL and not over Proton's own wrapper, which copies every byte
 * once more, compares no IP addresses, and tells a failed verification as a number. Verified,
 * always. */
#pragma once

#include <stddef.h>

#include <openssl/ssl.h>

#include "lib/macro.h"
#include "client/amqp-error.h"

/* A client on a connected, non-blocking socket (borrowed); host is a name or an address, for SNI
 * and for the certificate. ca_file: instead of the system's authorities; or NULL. 0; -EINVAL after
 * setting the error; -ENOMEM. */
int amqp_tls_new(int fd, const char *host, const char *ca_file, AmqpError *error, SSL **ret);

/* Goes on with the handshake. 1: done; 0: wait, for *ret_events of poll(2); -EIO after setting the
 * error. */
int amqp_tls_handshake(SSL *ssl, AmqpError *error, short *ret_events);

/* What the last call of OpenSSL failed with, in words. Returns buf. */
const char *amqp_tls_error_text(SSL *ssl, char *buf, size_t size);
