/* hub-c2d-private.h: what hub-c2d.c (queues and connections), hub-c2d-message.c (what a message may
 * be) and hub-feedback.c share. The struct is used with the hub locked. */
#pragma once

#include <stdatomic.h>

#include "emulator/hub-c2d.h"
#include "emulator/hub-private.h"
#include "emulator/hub-store-c2d.h"
#include "lib/json-util.h"

typedef struct HubC2dClient {
        char *client_id, *device_id, *module_id; /* module_id NULL: a device */
        bool connected;
        bool listens;
        unsigned qos;
        bool due;           /* on the list of those to look at */
        uint64_t delivered; /* on this connection, up to that sequence number */
        uint64_t known;     /* on any of the session */
        struct HubC2dClient *next_due;
} HubC2dClient;

typedef struct HubC2d {
        struct lh_table *clients; /* client id to HubC2dClient */
        HubC2dClient *first_due, **last_due;
        /* The broker looks at these two without the mutex, which a long query may hold. */
        atomic_bool has_due;
        _Atomic usec_t next_usec; /* when something happens by time */

        uint64_t *repeats; /* sequence numbers, to be delivered once more */
        size_t n_repeats;

        uint64_t last_batch;      /* counts anew with each run, which has no earlier batches */
        uint64_t n_free_feedback; /* in no batch */
        int notify_fd;
} HubC2d;

/* Called by hub.c. The database is open. 0 or -errno. */
int hub_c2d_new(HubStore *s, HubC2d **ret);
HubC2d *hub_c2d_free(HubC2d *c);

/* The identity is deleted: one that is made under that id has no session yet. */
void hub_c2d_forget(HubC2d *c, const char *client_id);

/* Not later than that. */
void hub_c2d_wake_at(HubC2d *c, usec_t t);

/* Makes the row of a message for that queue. 0, or the errors of hub_c2d_send() that are the
 * message's. */
int hub_c2d_make_row(const HubC2dMessage *m, const HubDevice *d, usec_t now_usec, HubC2dRow *ret,
                     const char **reterr_reason);

/* Records how a message ended, where its sender wants to know. Within a transaction. 0 or -errno.
 */
int hub_feedback_add(Hub *h, const HubC2dRow *row, HubC2dEnd end, usec_t now_usec);

/* hub_c2d_run_timers() for feedback. Within a transaction. 0 or -errno. */
int hub_feedback_run_timers(Hub *h, usec_t now_usec);
