/* hub-store.h: the registry on disk: identities with their twins, policies, counters, and what
 * hub-store-c2d.h adds; SQLite stays inside. A change is there whole or not at all, and after hub_store_commit() it survives a power cut.
 * Not for two threads at once. */
#pragma once

#include "emulator/hub-device.h"
#include "lib/macro.h"

#define HUB_STORE_FILE "registry.db"

typedef struct HubStore HubStore;

/* Opens HUB_STORE_FILE in the folder, created where absent, mode 0600. 0, -EBADMSG (the file is no
 * registry, or damaged), -ENOMEM or -EIO. */
int hub_store_open(int dir_fd, HubStore **ret);
HubStore *hub_store_free(HubStore *s);
DEFINE_CLEANUP(HubStore *, hub_store_free);

/* Every change below happens between these. 0 or -errno; a commit that fails has undone all. */
int hub_store_begin(HubStore *s);
int hub_store_commit(HubStore *s);
void hub_store_rollback(HubStore *s);

/* module NULL: the device itself. What connections tell stays zero. 0, -ENOENT or -errno. */
int hub_store_get(HubStore *s, const char *device, const char *module, HubDevice *ret);

/* Sets an identity, in place of the one of that id. 0 or -errno. */
int hub_store_put(HubStore *s, const HubDevice *d);

/* module NULL: the device and all its modules. The messages that wait for them go too. 0 or -errno. */
int hub_store_delete(HubStore *s, const char *device, const char *module);

typedef enum HubStoreKind {
        HUB_STORE_DEVICES,
        HUB_STORE_MODULES,
} HubStoreKind;

/* Calls on_identity, at most max times, for the identities behind (device, module), in the order of
 * their ids; the identity is borrowed. only_device (or NULL): the modules of that device alone. A
 * callback that returns other than 0 ends the walk with that. Otherwise 1 (max reached), 0 (no more)
 * or -errno. */
int hub_store_walk(HubStore *s, HubStoreKind kind, const char *only_device, const char *device,
                   const char *module, size_t max,
                   int (*on_identity)(const HubDevice *d, void *userdata), void *userdata);

/* Devices by status. 0 or -errno. */
int hub_store_count(HubStore *s, uint64_t *ret_enabled, uint64_t *ret_disabled);

/* A number by name, 0 where it was never set. 0 or -errno. */
int hub_store_number_get(HubStore *s, const char *name, uint64_t *ret);
int hub_store_number_set(HubStore *s, const char *name, uint64_t value);

/* Keys of a policy, the caller's (erase them). 0, -ENOENT or -errno. */
int hub_store_policy_get(HubStore *s, const char *name, char **ret_primary, char **ret_secondary);
int hub_store_policy_put(HubStore *s, const char *name, const char *primary, const char *secondary);
