/* confirmations.h: what became of the messages of a run: a subscription to their ends, on a
 * connection of its own because replies on one connection keep order. Ends that happened while
 * nobody listened are asked for one by one. Driven by the caller's poll loop; single-threaded. */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

#define CONFIRMATIONS_FDS 2U

typedef struct Confirmations Confirmations;

/* The end of one message. Texts are borrowed, NULL where unknown. */
typedef struct Confirmation {
        uint64_t number; /* as "%n" of its texts */
        bool has_sequence_number;
        uint64_t sequence_number;
        const char *message_id;
        const char *state; /* "confirmed", "expired", "dropped", "rejected", or "unknown": it ended
                            * so long ago that the daemon no longer knows how */
        const char *reason;
} Confirmation;

typedef struct ConfirmationsOptions {
        const char *socket_path; /* borrowed */
        const char *message_id;  /* borrowed; with "%n" unless there is one message only */
        usec_t timeout_usec;     /* longest time without news once all is sent, or USEC_INFINITY */
        void (*on_end)(const Confirmation *c, void *userdata);
        void *userdata;
} ConfirmationsOptions;

/* 0 or -ENOMEM. */
int confirmations_new(const ConfirmationsOptions *options, Confirmations **ret);
Confirmations *confirmations_free(Confirmations *c);
DEFINE_CLEANUP(Confirmations *, confirmations_free);

/* Follows a stream (copied) whose first message has the position base in this run. A later call
 * follows another stream instead; what the first still owes is asked for. */
void confirmations_follow(Confirmations *c, const char *stream, uint64_t base);

/* As SenderEvents.on_accepted and on_refused. */
void confirmations_accepted(Confirmations *c, uint64_t position, uint64_t seq, uint64_t n);
void confirmations_refused(Confirmations *c, uint64_t position);

/* Whether the subscription is in place: not before should the first message be sent. */
bool confirmations_ready(const Confirmations *c);

/* Fills in descriptors, -1 where there is nothing to poll. */
void confirmations_poll(const Confirmations *c, struct pollfd fds[static CONFIRMATIONS_FDS]);
usec_t confirmations_deadline(const Confirmations *c);

/* n_accepted: messages that the daemon has accepted; settled: none is under way; closing: none will
 * be added. After a failure (told) confirmations_exit_code() is not EX_OK. */
void confirmations_process(Confirmations *c, uint64_t n_accepted, bool settled, bool closing);
int confirmations_exit_code(const Confirmations *c);

typedef struct ConfirmationTotals {
        uint64_t ended, confirmed, expired, dropped, rejected, unknown;
} ConfirmationTotals;

const ConfirmationTotals *confirmations_totals(const Confirmations *c);
