/* hub-link.h: what passes between the service side and connected devices: who is connected and
 * listens to what, method calls and their answers, desired properties, packets on their way to a
 * device. Knows no socket and no store. Safe from every thread; callbacks are called with nothing
 * locked, on the broker's thread unless said otherwise. Times are CLOCK_MONOTONIC. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

#define HUB_METHODS_OPEN_MAX 10U              /* of one device at a time */
#define HUB_METHOD_PAYLOAD_MAX (128U * 1024U) /* each way; docs/hub-limits.md */
#define HUB_LINK_PACKETS_MAX 10000U           /* on their way; more are not taken */

typedef struct HubLink HubLink;

/* NULL: out of memory. */
HubLink *hub_link_new(void);

/* Ends open calls with -ECANCELED, on this thread, and takes no more. */
void hub_link_stop(HubLink *l);

/* After hub_link_stop(), or without any call. */
HubLink *hub_link_free(HubLink *l);
DEFINE_CLEANUP(HubLink *, hub_link_free);

typedef enum HubListen {
        HUB_LISTEN_C2D,
        HUB_LISTEN_METHODS,
        HUB_LISTEN_TWIN_RESULTS,
        HUB_LISTEN_DESIRED,
        HUB_LISTEN_INPUTS, /* a module's */
        _HUB_LISTEN_MAX,
} HubListen;

/* The broker's side: client ids are those of the CONNECT. */

/* A new connection of a client. Without a clean session it listens to what it listened to before, and
 * the calls that waited for it start. 0 or -ENOMEM. */
int hub_link_connected(HubLink *l, const char *client_id, bool clean_session);

/* Its open calls end with -ENOTCONN. */
void hub_link_disconnected(HubLink *l, const char *client_id);

void hub_link_subscribed(HubLink *l, const char *client_id, HubListen what);
void hub_link_unsubscribed(HubLink *l, const char *client_id, HubListen what);

/* The answer of a device; one to a call that is not open (any more) is dropped, as the hub does.
 * payload: borrowed. */
void hub_link_answered(HubLink *l, const char *client_id, const char *rid, unsigned status,
                       const void *payload, size_t n);

/* Ends the calls whose time is over. Returns when to call it again, or USEC_INFINITY. */
usec_t hub_link_expire(HubLink *l, usec_t now_usec);

/* With QoS 0, as the hub sends methods and twins: what is lost with a connection is void. */
typedef struct HubPacket {
        char *client_id, *topic;
        void *payload; /* n bytes; NULL: none */
        size_t n;
        struct HubPacket *next;
} HubPacket;

/* The next packet for a device, the caller's; NULL: none. Cheap when there is none. */
HubPacket *hub_link_take(HubLink *l);
HubPacket *hub_packet_free(HubPacket *p);
DEFINE_CLEANUP(HubPacket *, hub_packet_free);

/* Both sides. */

/* Sends to a client that is connected and listens. payload: copied. 1; 0 (it does not); -EBUSY
 * (HUB_LINK_PACKETS_MAX) or -ENOMEM. */
int hub_link_send(HubLink *l, const char *client_id, HubListen what, const char *topic,
                  const void *payload, size_t n);

/* The service side. */

bool hub_link_is_connected(HubLink *l, const char *client_id);

typedef struct HubMethodCall {
        const char *client_id, *name; /* name: as it will stand in the topic, checked */
        const void *payload;          /* JSON, or NULL: none */
        size_t n;
        usec_t response_usec; /* how long the device may take */
        usec_t connect_usec;  /* how long to wait for it to listen to methods; 0: not at all */
} HubMethodCall;

/* error: 0 (status and payload are the device's, borrowed during the call), -ENOTCONN (it was not
 * there in time, or went), -ETIMEDOUT (no answer in time), -ECANCELED (the hub stops). */
typedef void (*HubMethodDone)(int error, unsigned status, const void *payload, size_t n,
                              void *userdata);

/* Calls a method of a device; payload: copied. on_done is called exactly once after 0, never before
 * it returns. 0, -ENOTCONN (not there, and not to be waited for), -ECANCELED (stopped), -EBUSY
 * (HUB_METHODS_OPEN_MAX or HUB_LINK_PACKETS_MAX) or -ENOMEM. */
int hub_link_call(HubLink *l, const HubMethodCall *call, usec_t now_usec, HubMethodDone on_done,
                  void *userdata);
