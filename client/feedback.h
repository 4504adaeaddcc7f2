/* feedback.h: what became of messages to devices, as the hub tells those who asked for it. The hub
 * hands each message with feedback, of one or more records, to one reader, who accepts it or gives
 * it back. */
#pragma once

#include <json-c/json.h>

#include "lib/buffer.h"
#include "client/amqp-loop.h"

typedef enum FeedbackStatus {
        FEEDBACK_SUCCESS,
        FEEDBACK_EXPIRED,
        FEEDBACK_DELIVERY_COUNT_EXCEEDED,
        FEEDBACK_REJECTED,
        FEEDBACK_PURGED,
        FEEDBACK_UNKNOWN,
        _FEEDBACK_STATUS_MAX,
        _FEEDBACK_STATUS_INVALID = -EINVAL,
} FeedbackStatus;

/* "Success", ...; the exit code of a verb that waited for it. */
const char *feedback_status_to_string(FeedbackStatus s);
int feedback_status_exit_code(FeedbackStatus s);

/* Borrowed from the object; NULL where absent. */
typedef struct FeedbackRecord {
        const char *message_id, *device_id, *enqueued_time, *description;
        FeedbackStatus status;
} FeedbackRecord;

/* The status is a name or a number, or only told by the description. */
void feedback_record_read(struct json_object *o, FeedbackRecord *ret);

typedef struct FeedbackReceiver FeedbackReceiver;

/* Attaches, for at most credit messages that are neither accepted nor given back. on_message gets a
 * JSON array (borrowed) and a handle, to settle it by. 0 or -ENOMEM. */
int feedback_receiver_new(AmqpConnection *c, unsigned credit,
                          void (*on_message)(struct json_object *records, pn_delivery_t *handle,
                                             void *userdata),
                          void *userdata, FeedbackReceiver **ret);

/* Gives back what is not accepted. */
FeedbackReceiver *feedback_receiver_free(FeedbackReceiver *r);
DEFINE_CLEANUP(FeedbackReceiver *, feedback_receiver_free);

const bool *feedback_receiver_attached(const FeedbackReceiver *r); /* for amqp_loop_until() */

void feedback_accept(FeedbackReceiver *r, pn_delivery_t *handle);

/* Those that were kept; the same ones come again, to somebody. credit: for how many more. */
void feedback_release_all(FeedbackReceiver *r);
unsigned feedback_kept(const FeedbackReceiver *r);
void feedback_accept_all(FeedbackReceiver *r);
void feedback_more(FeedbackReceiver *r, unsigned credit);
