/* hub-session.h: one connection of a device or module at the hub: what it may publish and
 * subscribe, and what comes of it. Knows no broker. For the broker's thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emulator/hub-link.h"
#include "emulator/hub.h"

typedef struct HubSession {
        char *client_id;
        char *device_id, *module_id; /* module_id NULL for a device */
        char *events_prefix;
        size_t events_prefix_size;
        uint64_t generation; /* of the identity */
        HubAuthMethod auth;
        char *model_id; /* or NULL */
} HubSession;

/* All is copied; model_id may be NULL. 0 or -ENOMEM. */
int hub_session_init(HubSession *s, const char *client_id, uint64_t generation, HubAuthMethod auth,
                     const char *model_id);
void hub_session_done(HubSession *s);

/* The filters are its own C2D messages, methods and twin; a module's inputs. *ret: which it is. A module's
 * "#" over all that is its own counts as C2D: what comes to inputs, Edge routes and not the hub. */
bool hub_session_may_subscribe(const HubSession *s, const char *filter, HubListen *ret);

bool hub_session_may_publish(const HubSession *s, const char *topic);

typedef struct HubPublish {
        const char *topic; /* one that it may publish to */
        const void *payload;
        size_t n;
        bool retain;
        usec_t now_usec; /* realtime */
} HubPublish;

/* Takes what a device has published: stores an event, passes an answer on. 0, or any error: the hub
 * cuts the connection, and *reterr_reason (static, or of strerror()) says why. */
int hub_session_publish(const HubSession *s, Hub *hub, HubLink *link, const HubPublish *p,
                        const char **reterr_reason);
