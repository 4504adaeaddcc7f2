/* hub-private.h: what hub.c lends to the parts of the hub that have a file of their own. */
#pragma once

#include "emulator/hub-store.h"
#include "emulator/hub.h"

/* The hub's mutex, which hub_begin() holds too; recursive. */
void hub_lock(Hub *h);
void hub_unlock(Hub *h);

/* To be used between hub_begin() and hub_end(). */
HubStore *hub_store(Hub *h);

/* The state of hub-c2d, with the hub locked. */
struct HubC2d;
struct HubC2d *hub_c2d(Hub *h);
