/* hub-c2d.h: cloud-to-device messages: a queue on disk for each device and module, and the feedback
 * that tells their senders how they ended. Kept in the registry's database: what was accepted, and
 * what was settled, survives a kill and a power cut. Safe from every thread. Times are realtime. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emulator/hub.h"
#include "lib/property-bag.h"

#define HUB_C2D_PENDING_MAX 50U         /* of one device or module; docs/hub-limits.md */
#define HUB_C2D_BYTES_MAX (64U * 1024U) /* body and properties, counted as with events */
#define HUB_C2D_LIFE_DEFAULT_USEC (1 * USEC_PER_HOUR) /* where the sender names no end */
#define HUB_C2D_LIFE_MAX_USEC (2 * USEC_PER_DAY)      /* a later end is brought forward to this */

/* The service side. */

/* Which ends of a message its sender wants to hear of; the values of iothub-ack. */
typedef enum HubC2dAck {
        HUB_C2D_ACK_NONE,
        HUB_C2D_ACK_POSITIVE,
        HUB_C2D_ACK_NEGATIVE,
        HUB_C2D_ACK_FULL,
        _HUB_C2D_ACK_MAX,
        _HUB_C2D_ACK_INVALID = -EINVAL,
} HubC2dAck;

const char *hub_c2d_ack_to_string(HubC2dAck a);
HubC2dAck hub_c2d_ack_from_string(const char *s);

/* All borrowed; texts are UTF-8, NULL where absent. */
typedef struct HubC2dMessage {
        const char *to; /* as the sender wrote it: it names the device, and is handed to it */
        const char *message_id, *correlation_id, *user_id, *content_type, *content_encoding;
        HubC2dAck ack;
        usec_t expires_usec;           /* 0: HUB_C2D_LIFE_DEFAULT_USEC from now */
        const PropertyBag *properties; /* of the application, without iothub-ack; or NULL */
        const void *body;              /* n bytes, or NULL with n 0 */
        size_t n;
} HubC2dMessage;

/* The ids in "/devices/ID/messages/devicebound" and "/devices/ID/modules/MID/messages/devicebound"
 * (in any case, with or without the first slash, or behind "amqps://HOST"), as they stand there:
 * some clients percent-encode them. *ret_module is NULL for a device. 0, -EINVAL or -ENOMEM. */
int hub_c2d_parse_to(const char *to, char **ret_device, char **ret_module);

/* Puts a message at the end of the queue that its "to" names. Ids there count as they stand or,
 * where there is none of that name, percent-decoded. A message that has expired already is
 * accepted, and expires.
 *
 *   now_usec        the enqueued time
 *   ret_sequence    rises with each message, never used twice
 *   reterr_reason   static text for people, with the first four errors
 *
 * 0, -ENOENT (no such device or module), -EDQUOT (HUB_C2D_PENDING_MAX wait), -EMSGSIZE (over
 * HUB_C2D_BYTES_MAX, or properties that fit no MQTT topic), -EINVAL ("to" is no address of a queue,
 * or a text cannot be carried), -ENOMEM or -errno (the disk); then nothing was stored. */
int hub_c2d_send(Hub *h, const HubC2dMessage *m, usec_t now_usec, uint64_t *ret_sequence,
                 const char **reterr_reason);

/* Drops what waits; module_id NULL: for the device itself. Senders that asked for it hear "Purged".
 * 0, -ENOENT (no such device or module) or -errno. */
int hub_c2d_purge(Hub *h, const char *device_id, const char *module_id, usec_t now_usec,
                  uint64_t *ret_purged);

/* Feedback: records gather into batches, as readers receive them. */

#define HUB_FEEDBACK_RECORDS_MAX 64U /* of a batch */
#define HUB_FEEDBACK_GATHER_USEC                                                                   \
        (1 * USEC_PER_SEC) /* a batch that is not full waits this long; the                        \
                              hub's up to 15 s, which people find long */
#define HUB_FEEDBACK_LOCK_USEC                                                                     \
        (60 * USEC_PER_SEC) /* then a batch that is not settled comes again */
#define HUB_FEEDBACK_LIFE_USEC (1 * USEC_PER_HOUR) /* then a record that nobody read is dropped */

typedef struct HubFeedback {
        uint64_t lock; /* names the batch to hub_feedback_settle() */
        char *body;    /* JSON, an array of records: docs/emulator.md, "Feedback" */
        size_t n_records;
} HubFeedback;

void hub_feedback_done(HubFeedback *f);

/* Takes the oldest batch that is due and locks it for HUB_FEEDBACK_LOCK_USEC; *ret is the caller's.
 * 1, 0 (none is due) or -errno. */
int hub_feedback_take(Hub *h, usec_t now_usec, HubFeedback *ret);

typedef enum HubFeedbackEnd {
        HUB_FEEDBACK_ACCEPT,  /* read: it is gone */
        HUB_FEEDBACK_REJECT,  /* not wanted: likewise */
        HUB_FEEDBACK_RELEASE, /* due again at once */
} HubFeedbackEnd;

/* Settles a batch. 0, -ENOENT (the lock has ended: it comes, or came, again) or -errno. */
int hub_feedback_settle(Hub *h, uint64_t lock, HubFeedbackEnd end);

/* An eventfd (borrowed, non-blocking; -1: none) to which 1 is added when a batch has become due,
 * also while one waits already. A reader takes until there is none, then waits for the next. */
void hub_feedback_notify(Hub *h, int event_fd);

/* The broker's side: client ids are those of the CONNECT. Deliveries are per connection: what was
 * not completed on one is due again on the next, and not before. */

/* A new connection, which hears C2D as the one before did unless it has a clean session. 0 or
 * -ENOMEM. */
int hub_c2d_connected(Hub *h, const char *client_id, bool clean_session);
void hub_c2d_disconnected(Hub *h, const char *client_id);

/* qos 0: what is delivered is complete. */
void hub_c2d_subscribed(Hub *h, const char *client_id, unsigned qos);
void hub_c2d_unsubscribed(Hub *h, const char *client_id);

typedef struct HubC2dDelivery {
        char *client_id;
        char *topic; /* the device's: "devices/ID/messages/devicebound/BAG" */
        void *body;  /* n bytes; NULL: none */
        size_t n;
        uint64_t sequence;
        unsigned qos;
        bool again;    /* it was delivered before in the session */
        bool repeated; /* by hub_c2d_repeat() */
} HubC2dDelivery;

void hub_c2d_delivery_done(HubC2dDelivery *d);

/* Takes the next delivery that is due on any connection, in order for each. 1, 0 (none, which is
 * cheap to learn) or -errno: then it is due again with the next connection. */
int hub_c2d_take(Hub *h, usec_t now_usec, HubC2dDelivery *ret);

/* How a message ended, by what the device said to it. */
typedef enum HubC2dEnd {
        HUB_C2D_SUCCESS,
        HUB_C2D_EXPIRED,
        HUB_C2D_DELIVERY_COUNT_EXCEEDED,
        HUB_C2D_REJECTED,
        HUB_C2D_PURGED,
        _HUB_C2D_END_MAX,
        _HUB_C2D_END_INVALID = -EINVAL,
} HubC2dEnd;

/* "Success" and the like, as feedback says it. */
const char *hub_c2d_end_to_string(HubC2dEnd e);
HubC2dEnd hub_c2d_end_from_string(const char *s);

/* The device is done with a message; one that is gone already is passed over. 0 or -errno: then it
 * is delivered again. */
int hub_c2d_settle(Hub *h, uint64_t sequence, HubC2dEnd end, usec_t now_usec);

/* Delivers a message that was not settled once more, on the same connection; one that is gone, or
 * whose device is, is passed over. 0 or -ENOMEM. */
int hub_c2d_repeat(Hub *h, uint64_t sequence);

/* What happens by time: messages expire, batches of feedback become due, locks end. Cheap when
 * nothing is. To be called often; 0 or -errno: the next call tries again. */
int hub_c2d_run_timers(Hub *h, usec_t now_usec);
