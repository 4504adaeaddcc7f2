/* hub-tls.h: the TLS side of the front: server contexts as the hub's, TLS 1.2 and later. */
#pragma once

#include <stdbool.h>

#include <openssl/ssl.h>

/* From files. ask_certificate: any certificate is taken, its owner has proved the key; whether it
 * counts is decided by its thumbprint. 0, -EINVAL (files; the OpenSSL error queue tells more) or
 * -ENOMEM. */
int hub_tls_new(const char *certificate_file, const char *key_file, bool ask_certificate,
                SSL_CTX **ret);

/* From memory; both borrowed. */
int hub_tls_new_pair(X509 *certificate, EVP_PKEY *key, bool ask_certificate, SSL_CTX **ret);
