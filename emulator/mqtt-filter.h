/* mqtt-filter.h: the packets of one MQTT connection, both ways, after its CONNECT: counted, and let
 * through, held back or cut as the trouble that is on demands. Messages of the device's queue (mqtt-route.h)
 * get their packet ids here, and what the client says to them is told. Works on bytes as they come, in
 * any pieces; keeps no packet. Pure but for the two tables that it uses. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "emulator/hub-counter.h"
#include "emulator/hub-trouble.h"

typedef struct HeldPuback {
        uint8_t id[2];
        usec_t due_usec;
} HeldPuback;

typedef struct MqttDelivery {
        uint64_t sequence;
        uint16_t packet_id;
        bool repeated;
} MqttDelivery;

/* A message was acknowledged, and this comes of it. */
typedef void (*MqttOnAcknowledged)(uint64_t sequence, TroubleC2d what, void *userdata);

typedef struct MqttFilter {
        Troubles *troubles;    /* borrowed */
        HubCounters *counters; /* borrowed */
        const char *client_id; /* borrowed; NULL: none that can be shown */

        size_t up_left, down_left; /* bytes of the current packet that are still to come */
        bool up_is_publish;
        bool up_is_foreign, down_is_foreign; /* no MQTT: passed as it is, the broker judges it */
        uint64_t mark_serial;
        size_t mark_state;
        size_t mark_skip; /* bytes of the head and of the topic's length, which are no text */

        HeldPuback *held; /* by due time */
        size_t n_held, held_allocated;

        MqttDelivery *deliveries; /* not acknowledged yet */
        size_t n_deliveries, deliveries_allocated;
        MqttOnAcknowledged on_acknowledged;
        void *userdata;
} MqttFilter;

void mqtt_filter_done(MqttFilter *f);

/* Client to hub. *ret_pass: that many of the n bytes may go on; the others are looked at again when
 * more have come (they are at most four). 0, or -ECONNABORTED: let ret_pass bytes go on, then end
 * the connection; *reterr_cause tells why. */
int mqtt_filter_up(MqttFilter *f, const uint8_t *data, size_t n, size_t *ret_pass,
                   const char **reterr_cause);

/* Hub to client. Takes out of data what is not to leave now; *n is what stays, *ret_pass how many
 * of it may go on. 0, -ECONNABORTED (as above) or -ENOMEM. */
int mqtt_filter_down(MqttFilter *f, uint8_t *data, size_t *n, usec_t now_usec, size_t *ret_pass,
                     const char **reterr_cause);

/* The PUBACKs that are due, as packets for the client, to be put in before what mqtt_filter_down()
 * did not let pass: whole ones only, none while the client has part of another packet. Returns the
 * bytes written, at most max. */
size_t mqtt_filter_release(MqttFilter *f, usec_t now_usec, uint8_t *out, size_t max);

/* When the next is due, or USEC_INFINITY. */
usec_t mqtt_filter_next_usec(const MqttFilter *f);

/* Where the trouble has ended that held them, what is held is due at once. */
void mqtt_filter_review(MqttFilter *f);
