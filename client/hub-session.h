/* hub-session.h: what every verb that calls the hub begins with: the login and a client for it. */
#pragma once

#include "client/registry-client.h"
#include "client/verb.h"

/* Zero-initialised; ended by hub_session_done(). */
typedef struct HubSession {
        ConnectionString login;
        RegistryClient *client;
} HubSession;

/* EX_OK, or the exit code, told. quiet: no line when a call is made again. */
int hub_session_open(const Globals *g, bool quiet, HubSession *ret);
void hub_session_done(HubSession *h);

/* The login's host name without its port, which is that of HTTPS. 0, -EINVAL or -ENOMEM. */
int hub_session_host(const HubSession *h, char **ret);
