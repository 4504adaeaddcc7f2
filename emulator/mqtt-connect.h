/* mqtt-connect.h: where MQTT packets end, and the first one of a connection, given a longer user
 * name. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"

#define MQTT_CONNECT_BYTES_MAX (352U * 1024U) /* five texts of 64 KiB each, and what holds them */

/* The bytes of the packet that begins at data, with its head. 1, 0 (its length has not come whole) or
 * -EBADMSG (a length that none can have). MQTT 3.1.1 section 2.2.3. */
int mqtt_packet_size(const uint8_t *data, size_t n, size_t *ret_size);

typedef struct MqttConnect {
        size_t taken;             /* bytes of data that were the CONNECT */
        const uint8_t *client_id; /* borrowed from data; any bytes */
        size_t client_id_size;
} MqttConnect;

/* Appends to out the CONNECT at the start of data with prefix put before its user name (added where
 * it has none). MQTT 3.1.1 section 3.1; also versions 3.1 and 5, so that the broker can refuse them by the
 * protocol.
 *
 * 1, 0 (not whole yet), -EBADMSG (no CONNECT, or a broken one), -EMSGSIZE (it or its user name
 * would get too long) or -ENOMEM. */
int mqtt_connect_prefix_user(const uint8_t *data, size_t n, const char *prefix, Buffer *out,
                             MqttConnect *ret);
