/* credentials-key.h: the private key of a client certificate: in a PEM file, or where a URI leads
 * OpenSSL to (RFC 7512 for PKCS#11 tokens, a handle for a TPM), which never lets it go.
 *
 * A passphrase or PIN comes from a file of its own, is read when it is asked for and erased right
 * after; nothing is ever asked of a terminal. */
#pragma once

#include <openssl/evp.h>

#include "lib/macro.h"

typedef struct PrivateKeySource {
        const char *location; /* the path of a PEM file, or a URI */
        const char *provider; /* OpenSSL's module for it: "tpm2", "pkcs11", "engine:pkcs11"; or NULL
                               */
        const char *passphrase_file; /* or NULL */
} PrivateKeySource;

/* Whether s is a URI and not a path: it begins with a scheme of two letters or more. */
bool private_key_is_uri(const char *s);

/* Whether the key stays behind a module of OpenSSL. Loading and using it may then block for as long
 * as a device pleases: not on the event loop. */
bool private_key_is_external(const PrivateKeySource *s);

/* What has to be preferred among OpenSSL's implementations (property(7)) so that signing reaches the
 * module; NULL: nothing. */
const char *private_key_property_query(const PrivateKeySource *s);

/* pem: the content of the file at s->location, where that is not external; it is not kept.
 * 0, or -errno with a sentence that names place and remedy: -EINVAL (no key there), -EACCES (wrong
 * or missing passphrase; a module is not offered the same one again before its file changed, so that
 * it does not lock), -ENOENT, -ENOSYS (no such module), ... *ret: EVP_PKEY_free(). Any thread.
 */
int private_key_load(const PrivateKeySource *s, const char *pem, EVP_PKEY **ret,
                     char **reterr_problem);
