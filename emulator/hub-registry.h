/* hub-registry.h: the registry's HTTP door, on a thread of its own. TLS ends in the front, so it
 * listens on a local socket. Calls and errors: docs/emulator.md, "Registry". */
#pragma once

#include "emulator/hub-link.h"
#include "emulator/hub-troubles.h"
#include "emulator/hub.h"
#include "lib/macro.h"

typedef struct HubRegistry HubRegistry;

/* Serves hub, link and troubles (borrowed until hub_registry_free()) on a unix socket at path, whose leftover is
 * replaced. 0, -ENOMEM or -errno. */
int hub_registry_new(Hub *hub, HubLink *link, HubTroubles *troubles, const char *path,
                     HubRegistry **ret);

/* Lets go the answers that are late on request; from any thread. now_usec: CLOCK_MONOTONIC. */
void hub_registry_run_timers(HubRegistry *r, usec_t now_usec);

/* After hub_link_stop(): no answer may be waited for. */
HubRegistry *hub_registry_free(HubRegistry *r);
