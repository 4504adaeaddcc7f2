/* daemon-client.h: a Varlink connection to iothubd over its Unix socket; no call here blocks except
 * daemon_call(). Calls may be pipelined, replies come in their order. */
#pragma once

#include <stdbool.h>

#include "lib/buffer.h"
#include "lib/json-util.h"
#include "lib/macro.h"
#include "lib/time-util.h"

#define DAEMON_SOCKET_DEFAULT "/run/iothubd/iothubd.sock"

/* How long a refused connection is tried again where the user said nothing: a daemon that is just
 * being started answers within seconds; one that is updated or repaired is away for longer, and
 * giving up in the middle of a stream costs the reader of the exit code more than giving up before
 * it. */
#define DAEMON_RETRY_START_USEC (5 * USEC_PER_SEC)
#define DAEMON_RETRY_MIDSTREAM_USEC (5 * USEC_PER_MINUTE)

typedef struct DaemonConnection DaemonConnection;

typedef struct DaemonReply {
        struct json_object *message;    /* ours */
        struct json_object *parameters; /* borrowed from message; never NULL */
        const char *error;              /* full name, borrowed from message; NULL: success */
        bool continues;                 /* further replies to the same call follow */
} DaemonReply;

void daemon_reply_done(DaemonReply *r);

/* 0, -ENOENT (no socket file), -ECONNREFUSED (nobody listens), -EAGAIN (listens, but its queue is
 * full), -EACCES (not allowed), -ENAMETOOLONG, or -errno. */
int daemon_connection_open(const char *path, DaemonConnection **ret);
DaemonConnection *daemon_connection_free(DaemonConnection *c);
DEFINE_CLEANUP(DaemonConnection *, daemon_connection_free);

int daemon_connection_fd(const DaemonConnection *c);
short daemon_connection_poll_events(const DaemonConnection *c);

/* Frames to write; append whole ones. */
Buffer *daemon_connection_output(DaemonConnection *c);

/* Appends a call; parameters: borrowed, or NULL. 0 or -ENOMEM. */
int daemon_connection_call(DaemonConnection *c, const char *method, struct json_object *parameters,
                           bool more);

/* Writes and reads what is possible without waiting. A lost connection is not an error here:
 * daemon_connection_next() tells it when the replies that came before are read. 0 or -ENOMEM. */
int daemon_connection_process(DaemonConnection *c);

/* 1 (*ret: daemon_reply_done() it), 0 (none now), -ECONNRESET (none any more), -EPROTO (no Varlink
 * reply; give the connection up) or -ENOMEM. */
int daemon_connection_next(DaemonConnection *c, DaemonReply *ret);

/* One call and its (first) reply, waiting until deadline on CLOCK_MONOTONIC. A reply that is an
 * error is success here. 0, -ETIMEDOUT, -EINTR (a signal), or as daemon_connection_next(). */
int daemon_call(DaemonConnection *c, const char *method, struct json_object *parameters,
                usec_t deadline_usec, DaemonReply *ret);

/* Opens, trying again for retry_usec while the connection is refused, and tells what goes on on
 * stderr. 0, or as daemon_connection_open(), told. daemon_error_exit_code() has the exit code. */
int daemon_connect(const char *path, usec_t retry_usec, DaemonConnection **ret);

/* The sentence for an error of daemon_connection_open() and the others here, with the remedy. */
void say_daemon_error(const char *path, int error);
int daemon_error_exit_code(int error);

/* Tells an error reply on stderr and returns its exit code. what: "Cannot read the status". */
int say_error_reply(const char *what, const DaemonReply *r);

/* Argument of poll(2) for a deadline on CLOCK_MONOTONIC, at most a minute; -1 for USEC_INFINITY. */
int poll_timeout_msec(usec_t now, usec_t deadline);

/* What OutboxFull says, with its numbers. *ret is the caller's. 0 or -ENOMEM. */
int outbox_full_text(const DaemonReply *r, char **ret);

/* "OutboxFull" from "io.iothubd.OutboxFull"; other names are given whole. */
const char *daemon_error_name(const DaemonReply *r);
