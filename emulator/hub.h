/* hub.h: the state of the hub: policies, identities, twins, received events. No socket.
 * The doors (hub-mqtt, hub-registry) call it from their own threads; each function below locks by
 * itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emulator/hub-device.h"
#include "emulator/hub-events.h"
#include "lib/macro.h"
#include "lib/time-util.h"

#define HUB_POLICY_OWNER "iothubowner"

typedef enum HubRight {
        HUB_RIGHT_REGISTRY_READ = 1 << 0,
        HUB_RIGHT_REGISTRY_WRITE = 1 << 1,
        HUB_RIGHT_SERVICE_CONNECT = 1 << 2,
        HUB_RIGHT_DEVICE_CONNECT = 1 << 3,
} HubRight;

typedef struct Hub Hub;

/* Opens the state in a folder, created where absent: registry.db (hub-store.h). Waits while another process
 * has it open.
 *
 *   host   copied; the hub's name, without a port
 *
 * 0, -EBADMSG (a file is damaged), -ENOMEM or -errno. */
int hub_open(int dir_fd, const char *host, Hub **ret);
Hub *hub_free(Hub *h);
DEFINE_CLEANUP(Hub *, hub_free);

const char *hub_host(const Hub *h);

/* Whether "name" or "name:port" names this hub; case does not matter. */
bool hub_is_host(const Hub *h, const char *name, size_t n);

/* Both keys of a policy, the caller's (erase them), and its rights. 0, -ENOENT or -ENOMEM. */
int hub_policy_get(Hub *h, const char *name, char **ret_primary, char **ret_secondary,
                   unsigned *ret_rights);

/* Makes one transaction of the changes up to hub_end(), which returns result or why it could not be
 * stored: then nothing of it has happened. The hub is locked meanwhile. A change that found its
 * identity missing, there, or changed does not spoil the others. 0 or -errno. */
int hub_begin(Hub *h);
int hub_end(Hub *h, int result);

/* Creates a device, or with a module id a module. Keys where needed, generation, etag and the scope of
 * an edge device are the hub's. *ret is a copy, also below. 0, -EEXIST, -ENOENT (a module's device),
 * -EOVERFLOW (no more devices, or modules of one), -ENOMEM or -errno; then nothing changed. */
int hub_device_create(Hub *h, const HubDevice *d, HubDevice *ret);

/* Replaces all that a client may set; a twin of NULL stays. if_etag: NULL for any. A device that is
 * disabled by it is cut off. 0, -ENOENT, -ESTALE (*reterr_etag is the stored one), -EINVAL (another
 * scope for an edge device), -ENOMEM or -errno; then nothing changed. */
int hub_device_update(Hub *h, const HubDevice *d, const uint64_t *if_etag, HubDevice *ret,
                      uint64_t *reterr_etag);

/* Deletes and cuts off; with module_id NULL the device and its modules. As hub_device_update(). */
int hub_device_delete(Hub *h, const char *id, const char *module_id, const uint64_t *if_etag,
                      uint64_t *reterr_etag);

/* module_id NULL: the device. 0, -ENOENT or -errno. */
int hub_device_get(Hub *h, const char *id, const char *module_id, HubDevice *ret);

/* Stores d's twin with the identity, whose etag stays. Between hub_begin() and hub_end(). 0 or -errno. */
int hub_device_store_twin(Hub *h, const HubDevice *d);

/* Identities in the order of their ids, those behind (device_id, module_id) where given. */
typedef struct HubRange {
        bool modules;            /* else devices */
        const char *only_device; /* whose modules, or NULL */
        const char *device_id, *module_id;
} HubRange;

/* Calls on_identity at most max times, with the hub locked; it must not call the hub. Other than 0 from
 * it ends the walk with that. Otherwise 1 (max reached), 0 (no more) or -errno. */
int hub_walk(Hub *h, const HubRange *range, size_t max,
             int (*on_identity)(const HubDevice *d, void *userdata), void *userdata);

/* Totals of the registry. 0 or -errno. */
int hub_device_count(Hub *h, uint64_t *ret_enabled, uint64_t *ret_disabled,
                     uint64_t *ret_connected);

/* Notes the state of a client's connection ("ID" or "ID/MID"); activity_usec 0: none. */
void hub_device_note(Hub *h, const char *client_id, bool connected, usec_t activity_usec);

/* Takes the client id of the next identity whose connections must end because it was disabled or deleted;
 * the caller's. NULL: none. Cheap when there is none. */
char *hub_take_cut(Hub *h);

/* A change of desired properties that the client with that id is to hear of; members are owned, see
 * hub_notice_done(). */
typedef struct HubNotice {
        char *client_id; /* "ID" or "ID/MID" */
        char *text;      /* the JSON object: the change, and $version */
        uint64_t version;
} HubNotice;

void hub_notice_done(HubNotice *n);

/* Leaves a notice for the broker's thread; members are copied. One too many is dropped, oldest first: a
 * client that was gone reads its twin anyway. 0 or -ENOMEM. */
int hub_notice_add(Hub *h, const HubNotice *n);

/* Takes the oldest notice; *ret is the caller's. 1, or 0: none. Cheap when there is none. */
int hub_notice_take(Hub *h, HubNotice *ret);

/* Opens the received events (hub-events.h), for the process that is the hub; before it, hub_events() is
 * NULL. As hub_events_open(). */
int hub_open_events(Hub *h, const HubEventsLimits *limits, char **reterr_what);
HubEvents *hub_events(Hub *h);
