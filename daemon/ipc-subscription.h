/* ipc-subscription.h: calls that wait for something other than the disk: ends of messages, changes
 * of state, an empty outbox, a look-up. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "lib/buffer.h"
#include "lib/macro.h"
#include "daemon/outbox.h"

typedef struct IpcCall IpcCall;
typedef struct IpcServer IpcServer;

/* What a call waits for, if it is no plain disk sync. */
typedef enum IpcWait {
        IPC_WAIT_NONE,
        IPC_WAIT_ENDS,   /* Send with "more": the ends of its messages */
        IPC_WAIT_STREAM, /* Subscribe to a stream */
        IPC_WAIT_STATUS, /* Subscribe to changes of state */
        IPC_WAIT_FLUSH,
        IPC_WAIT_LOOKUP,
        IPC_WAIT_ORPHAN, /* nobody waits: the outbox has the call, the client is gone */
        _IPC_WAIT_MAX,
} IpcWait;

/* Lists of waiting calls by IpcWait; in the server. */
typedef struct IpcSubscriptions {
        IpcCall *heads[_IPC_WAIT_MAX];
        IpcCall *lookup;  /* the one that the outbox works on */
        uid_t lookup_uid; /* of the last one */
} IpcSubscriptions;

/* Each ends or answers the call sooner or later. */
void ipc_subscribe_ends(IpcServer *s, IpcCall *call, uint64_t first, uint64_t last,
                        uint64_t n_duplicates);
void ipc_subscribe_stream(IpcServer *s, IpcCall *call, const uint8_t stream[static 16]);
void ipc_subscribe_status(IpcServer *s, IpcCall *call);
void ipc_wait_flush(IpcServer *s, IpcCall *call);
void ipc_wait_lookup(IpcServer *s, IpcCall *call, uint64_t seq, const char *message_id);

void ipc_subscription_add(IpcServer *s, IpcCall *call, IpcWait wait);
void ipc_subscription_remove(IpcServer *s, IpcCall *call);

/* A message ended. */
void ipc_subscriptions_settled(IpcServer *s, const OutboxSettled *settled);

/* Once a turn of the loop in which something happened: tells what has gathered. */
void ipc_subscriptions_run(IpcServer *s);

/* Whether anybody waits for a turn of the loop after something happened. */
bool ipc_subscriptions_pending(const IpcServer *s);

/* A stream's ends that its client has room for now. */
void ipc_subscription_flush_stream(IpcServer *s, IpcCall *call);

/* The text of an end's fields as JSON, appended. 0 or -ENOMEM. */
int ipc_append_end(Buffer *out, const OutboxSettled *settled);
