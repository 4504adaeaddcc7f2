/* mqtt-route.h: how the broker's plugin tells the front that a PUBLISH is a message of a device's
 * queue: by a prefix of its topic, which the front takes off. The broker sends it with QoS 0 and
 * knows of no acknowledgement, so that it keeps nothing to send again; the front makes it the QoS
 * that was granted and hears the PUBACK. Only the plugin can write such a topic: the broker hands
 * nothing from one client to another. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"

#define MQTT_ROUTE_BYTES_MAX 32U /* longest prefix */

typedef struct MqttRoute {
        uint64_t sequence;
        unsigned qos;
        bool again;    /* it goes with DUP */
        bool repeated; /* on request, once it was acknowledged */
} MqttRoute;

/* "c2d/SEQUENCE/FLAGS/TOPIC". 0 or -ENOMEM. */
int mqtt_route_format(const MqttRoute *r, const char *topic, char **ret);

/* The route of a PUBLISH as it comes from the broker. *ret_head: bytes of the packet up to the end
 * of its topic. 1; 0 (it has none); -EAGAIN (more of the packet is needed to tell, at most its
 * whole topic). */
int mqtt_route_find(const uint8_t *packet, size_t n, MqttRoute *ret, size_t *ret_head);

/* Writes the packet's head as the client gets it: topic without the prefix, with a packet id where
 * the QoS is 1. out may be the packet itself or lie before it: the new head is the shorter one.
 * Returns its bytes. */
size_t mqtt_route_apply(const MqttRoute *r, const uint8_t *packet, size_t head, uint16_t packet_id,
                        uint8_t *out);
