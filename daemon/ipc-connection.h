/* ipc-connection.h: one local client: bytes in, calls in order, replies in the order of the calls,
 * back-pressure. Shared by the ipc-* files only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <systemd/sd-event.h>

#include "lib/buffer.h"
#include "lib/macro.h"
#include "lib/varlink-wire.h"
#include "daemon/ipc-subscription.h"

typedef struct IpcCall IpcCall;
typedef struct IpcConnection IpcConnection;
typedef struct IpcServer IpcServer;
typedef struct IpcUser IpcUser;

#define IPC_CALLS_MAX 1024U /* of one connection, not answered yet */
/* Unread replies, above which nothing more is taken from a client. */
#define IPC_OUT_BYTES_MAX (64U * 1024U)
#define IPC_READ_BYTES (64U * 1024U)        /* taken from a socket at a time */
#define IPC_SMALL_FRAME_BYTES (64U * 1024U) /* of a call other than Send */

/* One call that was taken and not answered yet. Owned by its connection's queue; by the operation
 * it waits for once the connection is gone. */
struct IpcCall {
        IpcServer *server;         /* NULL: it went away before the outbox */
        IpcConnection *connection; /* NULL: the client went away meanwhile */
        IpcCall *next;             /* the call after it */
        bool more, oneway, done;
        bool in_outbox; /* the outbox holds a pointer to it and will call back */
        size_t frame_size;
        Buffer frames; /* replies that must wait for those of earlier calls */

        IpcWait wait; /* the list that it is in: also of those whose connection is gone */
        IpcCall *wait_prev, *wait_next;
        uint64_t first, last, n_left; /* ENDS */
        uint64_t seq;                 /* FLUSH, LOOKUP */
        char *message_id;             /* LOOKUP, or NULL */
        uint8_t stream[16];           /* STREAM */
        Buffer ends;                  /* STREAM: texts of ends, ",\n" between them */
        size_t ends_offset;
        uint64_t n_ends, n_missed;
        int last_connected, last_busy; /* STATUS: as told last; -1: not yet */
};

/* What a connection waits for in the server's list. */
typedef enum IpcHold {
        IPC_HOLD_BUDGET, /* bytes */
        IPC_HOLD_OUTBOX, /* room for what is on its way to the disk */
        IPC_HOLD_RATE,   /* its user has sent too many messages */
} IpcHold;

struct IpcConnection {
        IpcServer *server;
        IpcUser *user;
        IpcConnection *prev, *next; /* of the server, oldest first */
        int fd;
        uid_t uid;
        sd_event_source *io;
        uint32_t io_events;

        VarlinkReader reader;
        struct json_object *held; /* the next call, which cannot be run yet ... */
        VarlinkList held_list;    /* ... and the list that was split off it */
        size_t held_size;
        Buffer out;
        size_t out_offset;
        IpcCall *calls_head, *calls_tail;
        size_t n_calls;
        size_t frames_bytes;   /* replies that gather in calls behind the first */
        uint64_t append_bytes; /* frames whose messages wait for the disk */
        uint64_t charged;      /* bytes in the budgets of user and server */
        uint64_t progress;     /* the server's tick when it last got or took bytes */

        IpcConnection *run_next; /* of those whose run is due */
        bool scheduled;          /* it is due */
        bool running;
        bool waiting; /* in the server's list of these ... */
        IpcHold waits_for;
        IpcConnection *wait_prev, *wait_next;
        bool blocked;    /* ... or, with a call held, for those before it */
        bool streaming;  /* a call with "more" is under way: what follows it waits */
        bool input_over; /* nothing more will be read: end of file or a frame too long */
        bool too_long;   /* a frame is too long, and that has not been said yet */
        bool hung_up;    /* nobody reads replies any more */
        bool failed;     /* memory ran out in mid-reply: must be closed */
        bool had_call;
};

/* fd: consumed, also on failure. The user's count of connections includes it already;
 * ipc_connection_free() takes it back. 0 or -errno. */
int ipc_connection_new(IpcServer *s, IpcUser *user, int fd);
IpcConnection *ipc_connection_free(IpcConnection *c);

/* Takes calls, writes replies, decides what to wait for. May free the connection. */
void ipc_connection_run(IpcConnection *c);

/* Has ipc_connection_run() called soon. */
void ipc_connection_schedule(IpcConnection *c);

/* Sends what the socket takes of the replies. A client that is gone is noticed in the next run. */
void ipc_connection_write(IpcConnection *c);

/* Its charge to the budgets after anything grew or shrank. */
void ipc_connection_charge(IpcConnection *c);

/* Unread replies. */
static inline size_t ipc_connection_unread(const IpcConnection *c) {
        return c->out.size - c->out_offset;
}

/* How well the connection would do without: 0 it is busy, 1 idle between calls, 2 incomplete: it
 * holds half a frame, does not read, or never made a call. */
unsigned ipc_connection_idleness(const IpcConnection *c);

/* Replies to a call, in its turn. parameters: borrowed, NULL for none. The last one ends the call,
 * which must not be used afterwards; all of them accept calls whose connection is gone. */
void ipc_call_reply(IpcCall *call, struct json_object *parameters);
void ipc_call_error(IpcCall *call, const char *name, struct json_object *parameters);

/* The same with the text of the parameters, without braces, for what comes a hundred thousand times
 * a second. */
void ipc_call_reply_text(IpcCall *call, const char *parameters, bool continues);

/* Removes it from what it waits for and frees it; it must be in no queue. */
IpcCall *ipc_call_free(IpcCall *call);
