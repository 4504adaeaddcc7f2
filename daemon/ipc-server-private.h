/* ipc-server-private.h: the server as the other ipc-* files see it. */
#pragma once

#include "lib/token-bucket.h"
#include "daemon/ipc-connection.h"
#include "daemon/ipc-server.h"
#include "daemon/ipc-subscription.h"
#include "daemon/log.h"

struct IpcUser {
        uid_t uid;
        IpcUser *next;
        unsigned n_connections; /* 0: kept until the tokens it took are back */
        uint64_t bytes, append_bytes;
        TokenBucket messages;
        bool limit_told; /* since there were all tokens */
};

struct IpcServer {
        sd_event *event;
        IpcServerOptions options; /* its strings are ours */
        char *socket, *socket_group;
        Outbox *outbox;
        Uplink *uplink;
        size_t topic_prefix_size;
        bool shutting_down;

        sd_event_source **listeners;
        size_t n_listeners;
        bool accept_paused;
        sd_event_source *accept_timer;
        bool bound; /* the socket file is ours to remove */

        IpcConnection *connections, *connections_tail;
        IpcConnection *waiting, *waiting_tail; /* those that wait for a budget or the outbox, the
                                                  longest first */
        IpcConnection *wake_next;              /* run_waiting() goes on there */
        size_t n_waiting;
        unsigned n_connections;
        IpcUser *users;
        uint64_t bytes, append_bytes;
        size_t n_appends; /* calls that the outbox has, also of clients that are gone */
        uint64_t tick;    /* counts what happens, to tell old from new without a clock */
        bool outbox_busy; /* it had no room: nobody sends until those who wait have had their turn
                           */
        bool outbox_has_room; /* something arrived since */

        sd_event_source *rate_timer; /* on while somebody waits for the rate */
        sd_event_source *run;  /* deferred: runs what is scheduled */
        sd_event_source *trim; /* deferred, idle: gives memory back */
        IpcConnection *run_queue, **run_queue_end;
        bool wake; /* those who wait may have got what they wait for */
        IpcSubscriptions subscriptions;
        LogRate client_rate, accept_rate;
        uint8_t *read_buffer; /* IPC_READ_BYTES */
};

/* Has ipc_connection_run() called for it soon; c NULL: only ipc_subscriptions_run(). */
void ipc_server_schedule(IpcServer *s, IpcConnection *c);

/* A budget or the outbox has more room than before. */
void ipc_server_wake(IpcServer *s);

/* Whether n more bytes may be taken from the connection. Closes another one that holds on to the
 * budget, where waiting would not help; it never closes c. */
bool ipc_server_has_budget(IpcServer *s, IpcConnection *c, size_t n);

/* Whether its user holds more than allowed already. */
bool ipc_server_is_over_budget(IpcServer *s, const IpcConnection *c);

/* A connection cannot go on before ipc_server_wake(). */
void ipc_server_add_waiting(IpcServer *s, IpcConnection *c);
void ipc_server_remove_waiting(IpcServer *s, IpcConnection *c);

/* Whether its user may send more messages now. */
bool ipc_server_may_send(IpcServer *s, const IpcConnection *c);

/* Something went on its way to the disk, or arrived there. n_tokens: what it takes of the user's rate. */
void ipc_server_append_started(IpcServer *s, IpcCall *call, uint64_t n_tokens);
void ipc_server_append_done(IpcCall *call);

/* A lot of memory was used and freed. */
void ipc_server_trim_later(IpcServer *s);

void ipc_server_unlink_connection(IpcServer *s, IpcConnection *c);
