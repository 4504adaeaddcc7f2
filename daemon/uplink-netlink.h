/* uplink-netlink.h: hears from the kernel that an address or a route appeared, so that a wait can
 * be cut short. */
#pragma once

#include "lib/macro.h"

/* A non-blocking descriptor, readable when something changed. -errno where the kernel or a sandbox
 * has no rtnetlink: the uplink then just waits its time. */
int uplink_netlink_open(void);

/* Empties it. Whether an address or a route that leads somewhere appeared. */
bool uplink_netlink_appeared(int fd);
