/* hub-twins.h: the twins of a hub: read, changed by services and by their devices. */
#pragma once

#include "emulator/hub-twin.h"
#include "emulator/hub.h"

/* The twin and whose it is; both the caller's. module_id may be NULL. 0, -ENOENT or -errno. */
int hub_twins_get(Hub *h, const char *id, const char *module_id, HubDevice *ret_device,
                  HubTwin *ret_twin);

typedef struct HubTwinChange {
        struct json_object *patch; /* borrowed; as of hub_twin_patch() */
        bool replace;
        const uint64_t *if_etag; /* of the twin; NULL: any */
} HubTwinChange;

/* A service's change: the twin's new state, and a notice for its device where desired properties
 * changed. 0, -ENOENT, -ESTALE, -EINVAL (*reterr_text: static), -ENOMEM or -errno; then nothing changed. */
int hub_twins_change(Hub *h, const char *id, const char *module_id, const HubTwinChange *change,
                     HubDevice *ret_device, HubTwin *ret_twin, const char **reterr_text);

/* A device's report of properties; *ret_version is their new version. Errors as above. */
int hub_twins_report(Hub *h, const char *id, const char *module_id, struct json_object *patch,
                     uint64_t *ret_version, const char **reterr_text);
