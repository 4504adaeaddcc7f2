/* events-login.h: the connection string of an Event Hubs-compatible endpoint, as the portal shows
 * it under "Built-in endpoints":
 * Endpoint=sb://HOST/;SharedAccessKeyName=..;SharedAccessKey=..;EntityPath=.. */
#pragma once

#include "lib/macro.h"

typedef struct EventsLogin {
        char *host;
        unsigned port; /* 0: none was given */
        char *entity;
        char *key_name, *key; /* or: */
        char *token;          /* a ready-made SharedAccessSignature */
} EventsLogin;

/* Whether the text wants to be such a connection string, and no hub's. */
bool events_login_is_one(const char *s);

/* White space around is allowed, and keys in any order. 0; -EINVAL, and *reterr (the caller's) says
 * which key and what to do, never quoting a secret; -ENOMEM. */
int events_login_parse(const char *s, EventsLogin *ret, char **reterr);

/* Frees and erases. */
void events_login_done(EventsLogin *l);
