/* certificates.h: the emulator's own CA and server certificate. */
#pragma once

#include <openssl/x509.h>

#include "emulator/hub-trouble.h"

#define CERTIFICATES_CA "ca.pem"
#define CERTIFICATES_SERVER "server.pem"
#define CERTIFICATES_SERVER_KEY "server-key.pem"

/* Makes in the folder what is missing: ca.pem (0644), ca-key.pem, server.pem (for host, localhost,
 * 127.0.0.1 and ::1, signed by the CA) and server-key.pem (0600). A server certificate that names
 * another host or ends within 30 days is made anew; the CA stays, because clients trust it.
 * 0, -EBADMSG (a file holds something else), -ENOMEM, -EIO (OpenSSL failed) or -errno. */
int certificates_ensure(int dir_fd, const char *host);

/* Makes, in memory, a server certificate that clients refuse for the reason that kind names: expired
 * yesterday, valid from tomorrow, of a CA with our name that nobody knows, or for another host. After
 * certificates_ensure(). 0, or as there. */
int certificates_make_odd(int dir_fd, const char *host, TroubleCertificate kind, X509 **ret,
                          EVP_PKEY **ret_key);
