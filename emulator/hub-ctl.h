/* hub-ctl.h: the local socket on which trouble is requested: Varlink, interface io.iothubd.emulator
 * (emulator.varlink). Lives in the loop of the front. */
#pragma once

#include <openssl/ssl.h>

#include "emulator/hub-front.h"

#define HUB_CTL_SOCKET "ctl"

typedef struct HubCtl HubCtl;

/* Makes a server context with that certificate. 0 or -errno. */
typedef int (*HubCtlMakeTls)(TroubleCertificate certificate, SSL_CTX **ret, void *userdata);

/* Listens on HUB_CTL_SOCKET in the working directory, mode 0600; the caller holds the folder's
 * lock, so what is there by that name is left over. front: borrowed; outlives the result. 0,
 * -ENOMEM or -errno. */
int hub_ctl_new(Front *front, HubCtlMakeTls make_tls, void *userdata, HubCtl **ret);

/* Once front_set_hub() was called: calls that the hub answers can be made from now on. 0, -ENOMEM or -errno. */
int hub_ctl_serve_hub(HubCtl *c);

/* Also removes the socket. */
HubCtl *hub_ctl_free(HubCtl *c);
DEFINE_CLEANUP(HubCtl *, hub_ctl_free);
