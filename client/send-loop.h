/* send-loop.h: the poll loop of send and simulate: a source of messages, a Sender, and
 * Confirmations where they are waited for. SIGINT, SIGTERM and SIGHUP end the source; what was
 * taken from it is still seen through. */
#pragma once

#include <stdbool.h>

#include "lib/time-util.h"
#include "client/confirmations.h"
#include "client/sender.h"

typedef struct SendSource {
        int fd; /* produce() is called when it is readable; -1: by due() alone */

        /* When produce() is to be called on CLOCK_MONOTONIC. NULL: when fd is readable. */
        usec_t (*due)(void *userdata);

        /* Adds messages with sender_add(). 1: more will come; 0: that was all; -errno, told. */
        int (*produce)(Sender *s, void *userdata);
        void *userdata;
} SendSource;

typedef struct SendLoopOptions {
        const SenderOptions *sender;
        const MessageFields *fields;
        bool wait;     /* for the confirmations: on_end is called for each */
        bool progress; /* counts on stderr, where that is a terminal */
        void (*on_end)(const Confirmation *c, void *userdata);
        void *userdata; /* of on_end */
} SendLoopOptions;

typedef struct SendResult {
        uint64_t n_accepted, n_refused;
        ConfirmationTotals totals;
        int signal;    /* that ended the run early, or 0 */
        int exit_code; /* of what failed (told), else EX_OK; faulty lines don't count here */
} SendResult;

/* 0 or -errno (told). */
int send_loop_run(const SendLoopOptions *options, const SendSource *source, SendResult *ret);

/* The exit code of a run. Where nothing else went wrong, a run that a signal ended ends this
 * process by that signal, after flushing stdout, so that shells and service managers see what
 * happened. */
int send_loop_exit(const SendResult *result);
