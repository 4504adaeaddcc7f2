/* hub-device.h: one identity, of a device or a module, as the registry holds it, and its JSON form.
 * Shape and rules of the JSON: docs/emulator.md, "Device identities". */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/json-util.h"
#include "lib/macro.h"
#include "lib/time-util.h"

#define HUB_STATUS_REASON_MAX 128U
#define HUB_TICKS_AT_1970 621355968000000000U /* 100 ns since year 1 */
#define HUB_EDGE_SCOPE_PREFIX "ms-azure-iot-edge://"

typedef enum HubDeviceAuth {
        HUB_DEVICE_AUTH_SAS,
        HUB_DEVICE_AUTH_SELF_SIGNED,
        HUB_DEVICE_AUTH_CERTIFICATE_AUTHORITY,
        HUB_DEVICE_AUTH_NONE, /* the system modules of an edge device */
        _HUB_DEVICE_AUTH_MAX,
        _HUB_DEVICE_AUTH_INVALID = -EINVAL,
} HubDeviceAuth;

typedef struct HubDevice {
        char *id;
        char *module_id;     /* NULL: the device itself */
        uint64_t generation; /* ticks of 100 ns since year 1, at the creation */
        uint64_t etag;       /* rises with every write of an identity */
        bool enabled;
        char *status_reason;        /* or NULL */
        usec_t status_updated_usec; /* realtime; 0: never */
        HubDeviceAuth auth;
        char *primary_key, *secondary_key;               /* base64; both or neither */
        char *primary_thumbprint, *secondary_thumbprint; /* hex, or NULL */
        bool iot_edge;
        char *scope;        /* of an edge device its own, made by the hub; of a leaf its parent's */
        char *parent_scope; /* or NULL */
        char *managed_by;   /* modules; or NULL */
        char *twin;         /* as hub-twin.h writes it; NULL: never written to */

        uint64_t n_c2d; /* messages that wait for it; kept beside the identity */

        /* What the connections tell; not kept on disk. */
        bool connected;
        usec_t connection_updated_usec, last_activity_usec; /* realtime; 0: never */
} HubDevice;

/* Frees and erases; zero-initialised is fine. */
void hub_device_done(HubDevice *d);

/* 0 or -ENOMEM. */
int hub_device_copy(const HubDevice *d, HubDevice *ret);

typedef enum HubDeviceForm {
        HUB_DEVICE_FORM_DEVICE, /* the object of /devices/ID */
        HUB_DEVICE_FORM_MODULE, /* of /devices/ID/modules/MID */
        HUB_DEVICE_FORM_BULK,   /* an item of POST /devices: "id", with "moduleId" a module */
} HubDeviceForm;

/* Reads what a client may set: ids, status, reason, authentication, capabilities, scopes. Unknown and
 * read-only fields are ignored, as the hub does. 0, -EINVAL (*reterr_text: static text for people)
 * or -ENOMEM. */
int hub_device_from_json(struct json_object *o, HubDeviceForm form, HubDevice *ret,
                         const char **reterr_text);

/* The object as the hub writes it. with_z: the answer to a create leaves the Z of its times away,
 * all others have it. 0 or -ENOMEM; *ret is the caller's. */
int hub_device_to_json(const HubDevice *d, bool with_z, struct json_object **ret);

/* "sas" and the like. */
const char *hub_device_auth_name(HubDeviceAuth auth);

/* "ID" or "ID/MID", as the client id of MQTT. 0 or -ENOMEM. */
int hub_device_client_id(const char *id, const char *module_id, char **ret);

/* {"primaryThumbprint":..,"secondaryThumbprint":..}; adds a time as the hub writes it, "year 1" for 0.
 * What identities and twins share. 0 or -ENOMEM. */
int hub_device_add_thumbprints(struct json_object *o, const HubDevice *d);
int hub_device_add_time(struct json_object *o, const char *field, usec_t t, bool with_z);

/* Adds the string, or null. 0 or -ENOMEM. */
int hub_device_add_text(struct json_object *o, const char *field, const char *s);

/* deviceScope and parentScopes, where there are any. 0 or -ENOMEM. */
int hub_device_add_scopes(struct json_object *o, const HubDevice *d);

/* The time of the creation, from the generation. */
usec_t hub_device_created_usec(const HubDevice *d);

/* Fills in fresh random keys where a device that signs has none. 0, -ENOMEM or -EIO (no
 * randomness). */
int hub_device_make_keys(HubDevice *d);

/* 32 random bytes as base64, the caller's (erase it). 0, -ENOMEM or -EIO. */
int hub_key_make(char **ret);

/* Base64 of the decimal number, as the hub's etags are. 0 or -ENOMEM. */
int hub_etag_format(uint64_t etag, char **ret);

/* -EINVAL for what no hub has written. */
int hub_etag_parse(const char *s, uint64_t *ret);
