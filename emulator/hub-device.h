/* hub-device.h: one device identity, as the registry holds it, and its JSON form.
 * Shape and rules of the JSON: docs/emulator.md, "Device identities". */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/json-util.h"
#include "lib/macro.h"
#include "lib/time-util.h"

#define HUB_STATUS_REASON_MAX 128U

typedef enum HubDeviceAuth {
        HUB_DEVICE_AUTH_SAS,
        HUB_DEVICE_AUTH_SELF_SIGNED,
        HUB_DEVICE_AUTH_CERTIFICATE_AUTHORITY,
        _HUB_DEVICE_AUTH_MAX,
        _HUB_DEVICE_AUTH_INVALID = -EINVAL,
} HubDeviceAuth;

typedef struct HubDevice {
        char *id;
        uint64_t generation; /* ticks of 100 ns since year 1, at the creation */
        uint64_t etag;       /* rises with every write of an identity */
        bool enabled;
        char *status_reason;        /* or NULL */
        usec_t status_updated_usec; /* realtime; 0: never */
        HubDeviceAuth auth;
        char *primary_key, *secondary_key;               /* base64; both or neither */
        char *primary_thumbprint, *secondary_thumbprint; /* hex, or NULL */
        bool iot_edge;

        /* What the connections tell; not kept on disk. */
        bool connected;
        usec_t connection_updated_usec, last_activity_usec; /* realtime; 0: never */
} HubDevice;

/* Frees and erases; zero-initialised is fine. */
void hub_device_done(HubDevice *d);

/* 0 or -ENOMEM. */
int hub_device_copy(const HubDevice *d, HubDevice *ret);

/* Reads what a client may set: id, status, reason, authentication, capabilities. Unknown and
 * read-only fields are ignored, as the hub does. 0, -EINVAL (*reterr_text: static text for people)
 * or -ENOMEM. */
int hub_device_from_json(struct json_object *o, HubDevice *ret, const char **reterr_text);

/* The object as the hub writes it. with_z: the answer to a create leaves the Z of its times away,
 * all others have it. 0 or -ENOMEM; *ret is the caller's. */
int hub_device_to_json(const HubDevice *d, bool with_z, struct json_object **ret);

/* Fills in fresh random keys where a device that signs has none. 0, -ENOMEM or -EIO (no
 * randomness). */
int hub_device_make_keys(HubDevice *d);

/* 32 random bytes as base64, the caller's (erase it). 0, -ENOMEM or -EIO. */
int hub_key_make(char **ret);

/* Base64 of the decimal number, as the hub's etags are. 0 or -ENOMEM. */
int hub_etag_format(uint64_t etag, char **ret);

/* -EINVAL for what no hub has written. */
int hub_etag_parse(const char *s, uint64_t *ret);
