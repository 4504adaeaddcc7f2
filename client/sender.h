/* sender.h: carries messages to iothubd so that none is lost and none stored twice, whatever
 * happens to the connection or the daemon: a stream of its own, pipelined Send calls, Resume after
 * every trouble. Driven by the caller's poll loop; single-threaded. Tells what happens on stderr.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "client/message-template.h"

typedef struct Sender Sender;

typedef struct SenderOptions {
        const char *socket_path; /* borrowed, as the template */
        const MessageTemplate *template;
        bool wait_when_full; /* else a full outbox ends the run */
        usec_t timeout_usec; /* longest time without progress; USEC_INFINITY: the defaults, which
                              * bound only how long a lost daemon is waited for */
} SenderOptions;

/* position: of a message among those that were sent in this run and not refused, from 0. */
typedef struct SenderEvents {
        /* The daemon had forgotten our stream: from base on messages go on another, see
         * sender_stream(). */
        void (*on_stream)(uint64_t base, void *userdata);
        /* The n messages from position on have the sequence numbers from seq on. Not called where
         * the reply that tells was lost. */
        void (*on_accepted)(uint64_t position, uint64_t seq, uint64_t n, void *userdata);
        /* A message was refused as faulty; the one behind it takes its position. */
        void (*on_refused)(uint64_t position, void *userdata);
        void *userdata;
} SenderEvents;

/* Does not connect yet: sender_process() does. 0 or -errno. */
int sender_new(const SenderOptions *options, const SenderEvents *events, Sender **ret);
Sender *sender_free(Sender *s);
DEFINE_CLEANUP(Sender *, sender_free);

/* 32 hex digits. */
const char *sender_stream(const Sender *s);

/* Whether to read on: connected once, and the memory for what the daemon has not accepted yet is
 * not used up. */
bool sender_takes_input(const Sender *s);

/* Adds a message (copied). line: its number in the input, for what is told about it. Sent by the
 * next sender_process(). 0 or -ENOMEM. */
int sender_add(Sender *s, uint64_t line, const void *body, size_t size);

/* Counts and tells a line that was not even sent. */
void sender_refuse(Sender *s, uint64_t line, const char *field, const char *reason);

int sender_fd(const Sender *s); /* -1: nothing to poll now */
short sender_poll_events(const Sender *s);
usec_t sender_deadline(const Sender *s); /* CLOCK_MONOTONIC */

/* Does what is possible without waiting. After a failure (told) sender_exit_code() is not EX_OK and
 * nothing more happens. */
void sender_process(Sender *s);

int sender_exit_code(const Sender *s);

/* Every message added was accepted or refused. */
bool sender_is_settled(const Sender *s);

/* Messages added and neither accepted nor refused. */
uint64_t sender_n_pending(const Sender *s);
uint64_t sender_n_accepted(const Sender *s);
uint64_t sender_n_refused(const Sender *s);
