/* hub-access.h: who may enter: tokens and certificates against the hub's policies and devices.
 * A refusal is -EACCES with a reason for the emulator's own log (static text); the hub tells
 * clients none. */
#pragma once

#include <stdint.h>

#include "emulator/hub.h"

/* A device at the MQTT door. */
typedef struct HubCredentials {
        const char *client_id;     /* "ID" or "ID/MID" */
        const char *user_name;     /* "HOST/CLIENTID/?api-version=..." */
        const char *password;      /* SAS token; NULL or "": none */
        const char *sha1, *sha256; /* lower-case hex of the client certificate, NULL: none */
        int dates, chain;          /* of it, as in authorities.h */
        const char *common_name;   /* likewise */
} HubCredentials;

typedef struct HubAdmission {
        uint64_t generation; /* of the identity */
        usec_t expires_usec; /* realtime; USEC_INFINITY: a certificate, which has no end here */
        HubAuthMethod auth;
} HubAdmission;

/* 0, -EACCES or -ENOMEM. */
int hub_access_device(Hub *h, const HubCredentials *c, usec_t now_usec, HubAdmission *ret,
                      const char **reterr_reason);

/* The model id in a user name with which hub_access_device() succeeded: decoded, the caller's; NULL: none.
 * 0 or -ENOMEM. */
int hub_access_model_id(const char *user_name, char **ret);

/* A service call: the Authorization header (may be NULL), the path as sent ("/devices/d1") and the
 * right that it needs. 0, -EACCES, -EPERM (a good token of a policy without that right) or -ENOMEM.
 */
int hub_access_service(Hub *h, const char *authorization, const char *path, HubRight right,
                       usec_t now_usec, const char **reterr_reason);

/* Whether resource, decoded once, covers "HOST" followed by path: a prefix by whole segments. Host
 * names compare without case and port; segments compare as they are or decoded once more, because
 * clients differ in how often they encode ids. fold_case: for service calls, whose resources the
 * hub compares without case. 1, 0 or -ENOMEM. */
int hub_resource_covers(const Hub *h, const char *resource, const char *path, bool fold_case);
