/* authorities.h: the certificate authorities that the hub knows, with one of which the certificate
 * of a device of type certificateAuthority must be signed, and what a certificate is worth to it.
 * The authorities are in a file of the working directory. Of the front's thread. */
#pragma once

#include <json-c/json.h>
#include <openssl/ssl.h>

#include "lib/macro.h"

#define AUTHORITIES_FILE "authorities.pem"
#define AUTHORITIES_MAX 25U /* of a hub; docs/hub-limits.md */

typedef struct Authorities Authorities;

/* Reads the file; without one there are none. 0, -EBADMSG (it is damaged), -ENOMEM or -errno. */
int authorities_open(Authorities **ret);
Authorities *authorities_free(Authorities *a);
DEFINE_CLEANUP(Authorities *, authorities_free);

/* Adds a certificate, PEM, and writes the file; adding one again changes nothing. A root will do,
 * and so will one that a root has signed: what it signs is then accepted without the root. 0,
 * -EINVAL (*reterr_reason: static text), -E2BIG, -ENOMEM or -errno: nothing has changed. */
int authorities_add(Authorities *a, const char *pem, size_t n, const char **reterr_reason);

/* By its SHA-1 thumbprint, in any case; connections that are there stay. 0, -ENOENT, -ENOMEM or
 * -errno. */
int authorities_remove(Authorities *a, const char *thumbprint);

/* [{"subject","thumbprint","notAfter"}], *ret the caller's. 0 or -ENOMEM. */
int authorities_to_json(const Authorities *a, struct json_object **ret);

/* What a client has proved by its certificate; numbers are X509_V_.. of OpenSSL. */
typedef struct CertificateProof {
        char sha1[41], sha256[65]; /* lower-case hex; "" without a certificate */
        int dates;                 /* X509_V_OK, or not valid yet, or not any more */
        int chain;                 /* X509_V_OK: signed by an authority, all dates good */
        char common_name[258];     /* of the subject; "": none that could be an id */
} CertificateProof;

/* 0 or -ENOMEM. */
int authorities_judge(const Authorities *a, const SSL *ssl, CertificateProof *ret);
