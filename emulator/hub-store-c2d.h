/* hub-store-c2d.h: the tables of hub-c2d in the registry's database: messages that wait for
 * devices, and feedback that waits for readers. As hub-store.h; changes happen between
 * hub_store_begin() and hub_store_commit(). All return 0 or -errno, and -ENOENT where it says so.
 */
#pragma once

#include <stdbool.h>

#include "emulator/hub-store.h"

typedef struct HubC2dRow {
        uint64_t sequence;
        char *device, *module; /* module NULL: the device itself */
        uint64_t generation;   /* of the identity */
        usec_t enqueued_usec, expires_usec;
        char *ack, *message_id; /* message_id or NULL */
        char *bag;              /* as it ends the topic */
        void *body;
        size_t n;
} HubC2dRow;

void hub_c2d_row_done(HubC2dRow *r);

/* sequence: ignored. */
int hub_store_c2d_put(HubStore *s, const HubC2dRow *row, uint64_t *ret_sequence);
int hub_store_c2d_delete(HubStore *s, uint64_t sequence);

/* Those of one queue; with all_modules those of the device and its modules. */
int hub_store_c2d_clear(HubStore *s, const char *device, const char *module, bool all_modules);

/* How many of a queue have not expired. */
int hub_store_c2d_count(HubStore *s, const char *device, const char *module, usec_t now_usec,
                        uint64_t *ret);

/* -ENOENT: none such. ret: the caller's. */
int hub_store_c2d_get(HubStore *s, uint64_t sequence, HubC2dRow *ret);
int hub_store_c2d_behind(HubStore *s, const char *device, const char *module, uint64_t sequence,
                         HubC2dRow *ret);
int hub_store_c2d_first_to_expire(HubStore *s, HubC2dRow *ret);

typedef struct HubFeedbackRow {
        char *device, *message_id; /* message_id or NULL */
        uint64_t generation;
        const char *status; /* static */
        usec_t time_usec;
} HubFeedbackRow;

int hub_store_feedback_put(HubStore *s, const HubFeedbackRow *row);

/* Makes a batch of the oldest that are in none, at most max. */
int hub_store_feedback_gather(HubStore *s, uint64_t batch, usec_t locked_until_usec, size_t max);

/* Those of a batch, in order; row: borrowed, its status too. A callback that fails ends it. */
int hub_store_feedback_walk(HubStore *s, uint64_t batch,
                            int (*on_record)(const HubFeedbackRow *row, void *userdata),
                            void *userdata);

/* -ENOENT: no such batch. */
int hub_store_feedback_delete(HubStore *s, uint64_t batch);
int hub_store_feedback_release(HubStore *s, uint64_t batch);

/* Of all batches whose lock ends until then; USEC_INFINITY: of all. */
int hub_store_feedback_release_until(HubStore *s, usec_t until_usec);

/* Those from before that time. */
int hub_store_feedback_drop(HubStore *s, usec_t before_usec);

typedef struct HubFeedbackState {
        uint64_t n_free;         /* in no batch */
        usec_t oldest_free_usec; /* times are USEC_INFINITY where there is none */
        usec_t oldest_usec;      /* in a batch or not */
        usec_t next_unlock_usec;
} HubFeedbackState;

int hub_store_feedback_state(HubStore *s, HubFeedbackState *ret);
