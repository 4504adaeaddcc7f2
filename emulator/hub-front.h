/* hub-front.h: the TLS front. It ends TLS for all doors, asks MQTT clients for a certificate
 * without demanding one, and passes bytes between each client and the local socket behind its door.
 * Single-threaded: everything happens inside front_run(). */
#pragma once

#include <stdbool.h>

#include <openssl/ssl.h>

#include "lib/macro.h"

typedef struct Front Front;

typedef enum FrontDoor {
        /* Begins with a CONNECT, whose user name gets "SECRET SHA1 SHA256 " put before it: the
         * thumbprints of the client's certificate in lower-case hex, or "- -". Whoever speaks to
         * the broker without the secret is refused, so no client can claim a certificate that it
         * did not prove. */
        FRONT_DOOR_MQTT,
        /* Bytes as they come. */
        FRONT_DOOR_PLAIN,
        _FRONT_DOOR_MAX,
} FrontDoor;

/* secret: copied, printable without spaces. 0, -ENOMEM or -errno. */
int front_new(const char *secret, Front **ret);
Front *front_free(Front *f);
DEFINE_CLEANUP(Front *, front_free);

/* Accepts on fd (consumed on success) and connects each client to the unix socket backend (copied).
 * tls: borrowed until front_free(). 0, -ENOMEM or -errno. */
int front_listen(Front *f, FrontDoor door, int fd, SSL_CTX *tls, const char *backend);

/* Calls on_readable when fd (borrowed) is readable. 0, -ENOMEM or -errno. */
int front_watch(Front *f, int fd, void (*on_readable)(void *userdata), void *userdata);

/* Serves until front_stop() is called, from a callback. 0 or -errno. */
int front_run(Front *f);
void front_stop(Front *f);

/* A TLS server context as the hub's: TLS 1.2 and later. ask_certificate: any certificate is taken,
 * its owner has proved the key; whether it counts is decided by its thumbprint. 0, -EINVAL (files;
 * the OpenSSL error queue tells more) or -ENOMEM. */
int front_tls_new(const char *certificate_file, const char *key_file, bool ask_certificate,
                  SSL_CTX **ret);
