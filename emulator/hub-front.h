/* hub-front.h: the TLS front. It ends TLS for all doors, asks MQTT clients for a certificate
 * without demanding one, and passes bytes between each client and the local socket behind its door.
 * Single-threaded: everything happens inside front_run(). */
#pragma once

#include <stdbool.h>

#include <openssl/ssl.h>

#include "emulator/hub-counter.h"
#include "emulator/hub-trouble.h"
#include "lib/macro.h"

typedef struct Front Front;
typedef struct Authorities Authorities;

typedef enum FrontDoor {
        /* Begins with a CONNECT, whose user name gets "SECRET SHA1 SHA256 DATES CHAIN =NAME " put before
         * it: what the client's certificate is worth (authorities.h), or "- - - - - ". Whoever speaks to
         * the broker without the secret is refused, so no client can claim a certificate that it
         * did not prove. */
        FRONT_DOOR_MQTT,
        /* Bytes as they come. */
        FRONT_DOOR_PLAIN,
        _FRONT_DOOR_MAX,
} FrontDoor;

/* secret: copied, printable without spaces. authorities: borrowed. 0, -ENOMEM or -errno. */
int front_new(const char *secret, Authorities *authorities, Front **ret);
Front *front_free(Front *f);
DEFINE_CLEANUP(Front *, front_free);

/* Accepts on fd (consumed on success) and connects each client to the unix socket backend (copied).
 * tls: borrowed until front_free(). 0, -ENOMEM or -errno. */
int front_listen(Front *f, FrontDoor door, int fd, SSL_CTX *tls, const char *backend);

Authorities *front_authorities(Front *f);

/* Calls on_readable when fd (borrowed) is readable. 0, -ENOMEM or -errno. */
int front_watch(Front *f, int fd, void (*on_readable)(void *userdata), void *userdata);

/* Watches it no more; to be called before it is closed, also from its own callback. */
void front_unwatch(Front *f, int fd);

/* Serves until front_stop() is called, from a callback. 0 or -errno. */
int front_run(Front *f);
void front_stop(Front *f);

/* Where to tell what becomes of messages to devices (hub-report.h); borrowed. Without it nothing is told. */
void front_set_hub(Front *f, int report_fd);
int front_hub(const Front *f); /* -EBADF: none */

/* Trouble on request (hub-trouble.h): what is changed here acts from the next turn on, also on
 * connections that are open. Only the MQTT door knows trouble. */
Troubles *front_troubles(Front *f);
const HubCounters *front_counters(const Front *f);

/* What new connections meet while that certificate is on. tls: consumed. */
void front_set_odd_tls(Front *f, TroubleCertificate c, SSL_CTX *tls);
bool front_has_odd_tls(const Front *f, TroubleCertificate c);

/* Ends the connections of a device (NULL: all of the MQTT door) at once, by a FIN or a RST. Returns
 * how many. */
size_t front_cut(Front *f, const char *device, bool reset);

/* Connections whose CONNECT has come, of a device or all. */
size_t front_connections(const Front *f, const char *device);

/* Called after each turn of the loop, whatever happened in it. */
void front_after_turn(Front *f, void (*after_turn)(void *userdata), void *userdata);
