/* uplink-netlink.h: hears from the kernel that an address or a route appeared, so that a wait can
 * be cut short. */
#pragma once

#include <linux/netlink.h>
#include <stdbool.h>

#include "lib/macro.h"

/* A non-blocking descriptor, readable when something changed. -errno where the kernel or a sandbox
 * has no rtnetlink: the uplink then just waits its time. */
int uplink_netlink_open(void);

/* Whether a message of the kernel tells of a new address, or of a route that leads somewhere. Not of
 * one that only lives on: with each advertisement of its router, every few seconds on some networks,
 * the kernel tells of an IPv6 address again. */
bool uplink_netlink_is_news(const struct nlmsghdr *h);

/* Empties it. Whether an address or a route that leads somewhere appeared. */
bool uplink_netlink_appeared(int fd);
