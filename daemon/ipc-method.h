/* ipc-method.h: the table of methods: checks arguments, calls the parts, answers with a result or a
 * named error. The interface text is lib/iothubd.varlink. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/macro.h"
#include "lib/varlink-wire.h"

typedef struct IpcCall IpcCall;
typedef struct IpcServer IpcServer;

/* Whether the call may be run while earlier ones of its connection are not answered: Send may, so
 * that senders can pipeline, and what is wrong anyhow. All else shows the effect of what was sent
 * before. */
bool ipc_method_is_concurrent(const VarlinkCall *c);
bool ipc_method_is_send(const VarlinkCall *c);

/* Runs a call, which it ends now or later. 0, or -EAGAIN: nothing was done, the outbox has no room
 * for what is on its way to the disk; try again when some of that has arrived. */
int ipc_method_run(IpcServer *s, IpcCall *call, const VarlinkCall *c);

/* Answers a call whose text is no call: r is a result of varlink_reader_feed() or
 * varlink_reader_next(). */
void ipc_method_refuse(IpcCall *call, int r, const char *reason);

/* Tells a failed look-up or append; shared with ipc-subscription. */
void ipc_call_error_errno(IpcServer *s, IpcCall *call, int error, uint64_t stream_next);
