/* credentials-certificate.h: what a device signs in with instead of a shared key: its X.509
 * certificate, the chain that leads to an authority, and the private key. Never changed once it is
 * read, and counted by references: a connection's thread keeps the one it began with. */
#pragma once

#include <openssl/ssl.h>

#include "lib/macro.h"
#include "lib/time-util.h"

typedef struct ClientCertificate ClientCertificate;

typedef struct ClientCertificateOptions {
        const char *certificate_file; /* PEM: the device's own first, then those that signed it */
        const char *private_key;     /* a path or URI (credentials-key.h); NULL: certificate_file */
        const char *passphrase_file; /* or NULL */
        const char *key_provider;    /* or NULL */
} ClientCertificateOptions;

/* Reads and checks the files; a key that is external is only noted. 0, or -errno with a sentence
 * that names file and remedy: -ENOENT, -EACCES, -EINVAL (malformed), -EKEYREJECTED (certificate and
 * key do not belong together), ... Does not look at the dates. */
int client_certificate_new(const ClientCertificateOptions *options, ClientCertificate **ret,
                           char **reterr_problem);
ClientCertificate *client_certificate_ref(ClientCertificate *c);
ClientCertificate *client_certificate_unref(ClientCertificate *c); /* accepts NULL, returns NULL */
DEFINE_CLEANUP(ClientCertificate *, client_certificate_unref);

/* Whether both are the same certificate, chain and key, or both are NULL. */
bool client_certificate_equal(const ClientCertificate *a, const ClientCertificate *b);

/* What the certificate says about itself; realtime. */
usec_t client_certificate_begins_usec(const ClientCertificate *c);
usec_t client_certificate_ends_usec(const ClientCertificate *c);

#define CLIENT_CERTIFICATE_WARN_USEC (30 * USEC_PER_DAY)

typedef enum CertificateAge {
        CERTIFICATE_VALID,
        CERTIFICATE_ENDS_SOON, /* within CLIENT_CERTIFICATE_WARN_USEC */
        CERTIFICATE_ENDED,
        CERTIFICATE_NOT_YET_VALID,
} CertificateAge;

/* Writes a sentence with the dates and the remedy, "" where it is valid. */
CertificateAge client_certificate_age(const ClientCertificate *c, usec_t realtime_now_usec,
                                      char *buf, size_t size);

/* Makes a TLS context sign in with it. An external key is fetched now, which may block for as long
 * as its device pleases. 0, or -errno with a sentence as above. */
int client_certificate_use(const ClientCertificate *c, SSL_CTX *ctx, char **reterr_problem);
