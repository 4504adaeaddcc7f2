/* mqtt-connect.h: the first packet of an MQTT connection, given a longer user name. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"

#define MQTT_CONNECT_BYTES_MAX (352U * 1024U) /* five texts of 64 KiB each, and what holds them */

/* Appends to out the CONNECT at the start of data with prefix put before its user name (added where
 * it has none), and says how many bytes of data it took. MQTT 3.1.1 section 3.1; also versions 3.1
 * and 5, so that the broker can refuse them by the protocol.
 *
 * 1, 0 (not whole yet), -EBADMSG (no CONNECT, or a broken one), -EMSGSIZE (it or its user name
 * would get too long) or -ENOMEM. */
int mqtt_connect_prefix_user(const uint8_t *data, size_t n, const char *prefix, Buffer *out,
                             size_t *ret_taken);
