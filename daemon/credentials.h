/* credentials.h: the device identity: where its connection string comes from, and the token of the
 * moment. Order: connection_string, connection_string_file,
 * $CREDENTIALS_DIRECTORY/connection-string (systemd). A second one of the same device brings its
 * secondary key: secondary_connection_string_file, or
 * $CREDENTIALS_DIRECTORY/secondary-connection-string. While the first is missing or malformed it
 * serves alone.
 *
 * x509=true in the connection string means that the device signs in with a certificate and no
 * token: certificate_file, private_key and private_key_passphrase_file, or what systemd passes as
 * certificate, private-key and private-key-passphrase. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

typedef struct Credentials Credentials;
typedef struct ClientCertificate ClientCertificate; /* credentials-certificate.h */

typedef struct CredentialsOptions {
        const char *connection_string;                /* copied; NULL when absent */
        const char *connection_string_file;           /* copied; NULL when absent */
        const char *secondary_connection_string_file; /* copied; NULL when absent */
        const char *certificate_file;                 /* copied; NULL when absent */
        const char *private_key;                      /* copied; NULL: in certificate_file */
        const char *private_key_passphrase_file;      /* copied; NULL when absent */
        const char *key_provider;                     /* copied; NULL when absent */
        const char *product_info; /* copied; NULL: iothubd/VERSION (Linux; MACHINE) */
        const char *model_id;     /* copied or NULL */
        usec_t token_lifetime_usec;
} CredentialsOptions;

/* 0 or -ENOMEM; missing or malformed credentials are no failure here: credentials_problem(). */
int credentials_new(const CredentialsOptions *options, Credentials **ret);
Credentials *credentials_free(Credentials *c);
DEFINE_CLEANUP(Credentials *, credentials_free);

/* Reads the sources again. 1 when the identity or a key changed, 0 when not, -errno when nothing
 * usable could be read (what was read before stays in use). Each fault is told by a warning, once.
 */
int credentials_reload(Credentials *c);

#define CREDENTIALS_FILES_MAX 8U

/* Lists the files that the configuration names and a reload reads; those of systemd never change.
 * Returns how many; borrowed for the life of c. */
size_t credentials_files(Credentials *c, const char *ret[CREDENTIALS_FILES_MAX]);

/* NULL while they are usable; else a sentence that says what is missing or wrong and the remedy; no
 * secret in it. */
const char *credentials_problem(Credentials *c);

/* Whether that is about the certificate or its key, and not about the connection string. */
bool credentials_problem_is_certificate(Credentials *c);

/* What the device signs in with where it has no key: NULL otherwise. Borrowed until the next
 * reload. */
ClientCertificate *credentials_certificate(Credentials *c);

/* Valid while credentials_problem() is NULL; borrowed until the next reload. */
const char *
credentials_host(Credentials *c); /* hub name: user name, token, SNI unless a gateway is named */
const char *
credentials_connect_host(Credentials *c); /* the gateway's name where there is one; without port */
unsigned credentials_connect_port(Credentials *c, unsigned default_port);
const char *credentials_device_id(Credentials *c);
const char *credentials_module_id(Credentials *c); /* or NULL */
const char *credentials_client_id(Credentials *c);
const char *credentials_user_name(Credentials *c);
const char *credentials_topic_prefix(Credentials *c);

#define CREDENTIALS_KEYS_MAX 2U

/* How many ways to sign in there are, to be tried in turn when the hub refuses: 0 while there is a
 * problem. A reload may change it. */
unsigned credentials_n_keys(Credentials *c);

/* "primary" or "secondary": which connection string the key came with. key < credentials_n_keys().
 */
const char *credentials_key_name(Credentials *c, unsigned key);

/* A token by this key that ends at now + lifetime. *ret: erase_and_free(). *ret_expiry_sec: its se.
 * A ready-made token (SharedAccessSignature) is given as it is; with a certificate there is none:
 * NULL, UINT64_MAX. 0, -EINVAL or -ENOMEM. */
int credentials_make_token(Credentials *c, unsigned key, usec_t realtime_now_usec, char **ret,
                           uint64_t *ret_expiry_sec);
