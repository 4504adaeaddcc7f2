/* ipc-server.h: the Varlink service io.iothubd on a local socket. Accepts, counts and limits; one
 * client is ipc-connection, what a call does is ipc-method. Event loop only. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <systemd/sd-event.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "daemon/outbox.h"
#include "daemon/uplink.h"

typedef struct IpcServer IpcServer;

typedef struct IpcServerOptions {
        const char *socket;       /* copied; where to bind when no socket is handed in */
        const char *socket_group; /* copied; NULL: the daemon's own */
        mode_t socket_mode;
        unsigned connections_max, connections_per_user_max;
        uint64_t buffer_bytes_max; /* frames, calls under way and unread replies of all connections
                                    */
        uint64_t user_bytes_max;   /* the same, of one user's */
        uint64_t user_messages_per_sec, user_messages_burst; /* of one user; see TokenBucket. 0: no limit. Each 4 KiB
                                                                of a message count as one */
        usec_t started_realtime_usec; /* as GetStatus tells */
} IpcServerOptions;

/* outbox: borrowed; may be freed before or after the server (calls under way end with its callbacks
 * either way), but not while the loop runs. uplink: borrowed, NULL while there is none. 0 or
 * -errno. */
int ipc_server_new(sd_event *event, const IpcServerOptions *options, Outbox *outbox, Uplink *uplink,
                   IpcServer **ret);
IpcServer *ipc_server_free(IpcServer *s);
DEFINE_CLEANUP(IpcServer *, ipc_server_free);

/* Listens on the sockets that the service manager handed over (sd_listen_fds(3)), or, without any,
 * binds the path of the options: under a temporary name, with group and mode set before anybody can
 * connect, then renamed, so that clients meet the old socket or the new. 0; -EADDRINUSE (somebody
 * listens there), -EEXIST (a file that is no socket is there), -ENAMETOOLONG, -ESRCH (no such
 * group), -ENOTSOCK (a wrong socket was handed over) or -errno. */
int ipc_server_listen(IpcServer *s);

/* Serves a connected stream socket; consumed, also on failure. For tests. 0 or -errno. */
int ipc_server_add_connection(IpcServer *s, int fd);

/* Bytes that the topic prefix of the device takes, for the size check of messages; until it is
 * called the longest that a device can have. */
void ipc_server_set_topic_prefix_size(IpcServer *s, size_t n);

/* News for those who wait: a message ended; the uplink connected or lost the hub. */
void ipc_server_settled(IpcServer *s, const OutboxSettled *settled);
void ipc_server_state_changed(IpcServer *s);

/* From now on Send fails with ShuttingDown; the rest works. */
void ipc_server_shut_down(IpcServer *s);
