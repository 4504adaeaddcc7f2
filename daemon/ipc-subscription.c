/* Ends arrive as fast as the hub confirms, in bursts of a window. A stream's subscriber gets them
 * as text, gathered until its client has room: one reply for many. What it cannot take in time is
 * dropped, oldest first, and counted. */
#include "daemon/ipc-subscription.h"

#include "daemon/ipc-method.h"
#include "daemon/ipc-server-private.h"

#define ENDS_FLUSH_BYTES (32U * 1024U) /* gathered text that is offered to the socket at once */
#define ENDS_BYTES_MAX (256U * 1024U)  /* above which the oldest are dropped */

void ipc_subscription_add(IpcServer *s, IpcCall *call, IpcWait wait) {
        IpcCall **head = &s->subscriptions.heads[wait];

        call->wait = wait;
        call->wait_prev = NULL;
        call->wait_next = *head;
        if (*head)
                (*head)->wait_prev = call;
        *head = call;
}

void ipc_subscription_remove(IpcServer *s, IpcCall *call) {
        if (call->wait == IPC_WAIT_NONE)
                return;
        *(call->wait_prev ? &call->wait_prev->wait_next : &s->subscriptions.heads[call->wait]) =
                        call->wait_next;
        if (call->wait_next)
                call->wait_next->wait_prev = call->wait_prev;
        call->wait_prev = call->wait_next = NULL;
        call->wait = IPC_WAIT_NONE;
}

/* Text of one end. */

static int append_string(Buffer *out, const char *name, const char *s) {
        _cleanup_json_ struct json_object *o = NULL;
        const char *p;
        int r;

        if (!s)
                return 0;
        r = buffer_append_string(out, name);
        if (r < 0)
                return r;
        for (p = s; *p; p++)
                if (*p < ' ' || *p == '"' || *p == '\\' ||
                    *p == 0x7f) /* also what is above ASCII */
                        break;
        if (*p) {
                o = json_object_new_string(s);
                s = o ? json_object_to_json_string_ext(
                                        o,
                                        JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) :
                        NULL;
                return s ? buffer_append_string(out, s) : -ENOMEM;
        }
        r = buffer_append(out, "\"", 1);
        if (r >= 0)
                r = buffer_append(out, s, (size_t) (p - s));
        return r < 0 ? r : buffer_append(out, "\"", 1);
}

static int append_usec(Buffer *out, const char *name, usec_t usec) {
        return usec == 0 || usec == USEC_INFINITY ? 0 :
                                                    buffer_appendf(out, "%s%" PRIu64, name, usec);
}

int ipc_append_end(Buffer *out, const OutboxSettled *settled) {
        size_t before = out->size;
        int r;

        r = buffer_appendf(out, "{\"sequenceNumber\":%" PRIu64 ",\"state\":\"%s\"", settled->seq,
                           outbox_end_to_string(settled->end));
        if (r >= 0 && settled->has_stream)
                r = buffer_appendf(out, ",\"position\":%" PRIu64, settled->position);
        if (r >= 0)
                r = append_string(out, ",\"messageId\":", settled->message_id);
        if (r >= 0)
                r = append_string(out, ",\"reason\":", settled->reason);
        if (r >= 0)
                r = append_usec(out, ",\"acceptedUSec\":", settled->accepted_realtime_usec);
        if (r >= 0)
                r = append_usec(out, ",\"settledUSec\":", settled->settled_realtime_usec);
        if (r >= 0)
                r = buffer_append(out, "}", sizeof("}"));
        if (r < 0) {
                out->size = before;
                return r;
        }
        out->size--; /* a NUL lies behind the text, for those who take it as a string */
        return 0;
}

/* Send with "more". */

void ipc_subscribe_ends(IpcServer *s, IpcCall *call, uint64_t first, uint64_t last,
                        uint64_t n_duplicates) {
        char text[128];

        if (first == 0) {
                (void) snprintf(text, sizeof(text), "\"duplicates\":%" PRIu64, n_duplicates);
                ipc_call_reply_text(call, text, false);
                return;
        }
        (void) snprintf(text, sizeof(text),
                        "\"first\":%" PRIu64 ",\"last\":%" PRIu64 ",\"duplicates\":%" PRIu64, first,
                        last, n_duplicates);
        call->first = first;
        call->last = last;
        call->n_left = last - first + 1;
        ipc_subscription_add(s, call, IPC_WAIT_ENDS);
        ipc_call_reply_text(call, text, true);
}

static void tell_end(IpcServer *s, IpcCall *call, const OutboxSettled *settled) {
        _cleanup_(buffer_done) Buffer text = {};
        bool last = --call->n_left == 0;

        if (last)
                ipc_subscription_remove(s, call);
        if (buffer_append_string(&text, "\"duplicates\":0,\"end\":") < 0 ||
            ipc_append_end(&text, settled) < 0) {
                call->connection->failed = true;
                ipc_connection_schedule(call->connection);
                return;
        }
        ipc_call_reply_text(call, (const char *) text.data, !last);
}

/* Subscribe to a stream. */

void ipc_subscribe_stream(IpcServer *s, IpcCall *call, const uint8_t stream[static 16]) {
        memcpy(call->stream, stream, sizeof(call->stream));
        ipc_subscription_add(s, call, IPC_WAIT_STREAM);
        ipc_call_reply_text(call, "", true);
}

static void drop_oldest(IpcServer *s, IpcCall *call) {
        size_t max = ipc_server_is_over_budget(s, call->connection) ? ENDS_FLUSH_BYTES :
                                                                      ENDS_BYTES_MAX;

        while (call->ends.size - call->ends_offset > max) {
                const uint8_t *from = call->ends.data + call->ends_offset,
                              *end = memchr(from, '\n', call->ends.size - call->ends_offset);

                call->ends_offset += (size_t) (end - from) + 1; /* each ends so */
                call->n_ends--;
                call->n_missed++;
        }
        if (call->ends_offset > ENDS_BYTES_MAX / 4) {
                buffer_consume(&call->ends, call->ends_offset);
                call->ends_offset = 0;
        }
}

void ipc_subscription_flush_stream(IpcServer *s, IpcCall *call) {
        IpcConnection *c = call->connection;
        size_t n = call->ends.size - call->ends_offset;
        int r;

        if ((call->n_ends == 0 && call->n_missed == 0) ||
            ipc_connection_unread(c) >= IPC_OUT_BYTES_MAX)
                return;
        r = buffer_append_string(&c->out, "{\"parameters\":{\"ends\":[");
        if (r >= 0 && n > 0)
                r = buffer_append(&c->out, call->ends.data + call->ends_offset, n - strlen(",\n"));
        if (r >= 0)
                r = buffer_appendf(&c->out, "],\"missed\":%" PRIu64 "},\"continues\":true}",
                                   call->n_missed);
        if (r >= 0)
                r = buffer_append(&c->out, "", 1);
        if (r < 0)
                c->failed = true;
        buffer_done(&call->ends);
        call->ends_offset = 0;
        call->n_ends = call->n_missed = 0;
}

static void gather_end(IpcServer *s, IpcCall *call, const OutboxSettled *settled) {
        IpcConnection *c = call->connection;

        if (ipc_append_end(&call->ends, settled) < 0 ||
            buffer_append_string(&call->ends, ",\n") < 0)
                c->failed = true; /* a subscriber that misses an end without being told must go */
        call->n_ends++;
        if (call->ends.size - call->ends_offset >= ENDS_FLUSH_BYTES && c->calls_head == call &&
            !c->failed) {
                ipc_subscription_flush_stream(s, call);
                ipc_connection_write(c);
        }
        drop_oldest(s, call);
        ipc_connection_schedule(c);
}

/* Subscribe to changes of state. */

static void tell_status(IpcServer *s, IpcCall *call) {
        UplinkStatus uplink = {};
        OutboxStats outbox;
        char text[96];
        int busy;

        if (ipc_connection_unread(call->connection) >= IPC_OUT_BYTES_MAX)
                return; /* what it reads next is then the newest state */
        outbox_get_stats(s->outbox, &outbox);
        if (s->uplink)
                uplink_get_status(s->uplink, &uplink);
        busy = outbox.queued > 0 || outbox.in_flight > 0;
        if (busy == call->last_busy && uplink.connected == call->last_connected)
                return;
        call->last_busy = busy;
        call->last_connected = uplink.connected;
        (void) snprintf(text, sizeof(text), "\"connected\":%s,\"sendStatus\":\"%s\"",
                        uplink.connected ? "true" : "false", busy ? "BUSY" : "IDLE");
        ipc_call_reply_text(call, text, true);
}

void ipc_subscribe_status(IpcServer *s, IpcCall *call) {
        ipc_subscription_add(s, call, IPC_WAIT_STATUS);
        tell_status(s, call);
}

/* Flush. */

static void check_flush(IpcServer *s, IpcCall *call) {
        if (!outbox_settled_up_to(s->outbox, call->seq))
                return;
        ipc_subscription_remove(s, call);
        ipc_call_reply(call, NULL);
}

void ipc_wait_flush(IpcServer *s, IpcCall *call) {
        OutboxStats stats;

        outbox_get_stats(s->outbox, &stats);
        call->seq = stats.last_seq;
        ipc_subscription_add(s, call, IPC_WAIT_FLUSH);
        check_flush(s, call);
}

/* GetMessage: the outbox looks for one at a time. */

static void on_lookup(int error, const OutboxSettled *settled, void *userdata) {
        _cleanup_(buffer_done) Buffer text = {};
        IpcCall *call = userdata;
        IpcServer *s = call->server;

        call->in_outbox = false;
        if (s) {
                s->subscriptions.lookup = NULL;
                ipc_server_schedule(s, NULL);
        }
        if (!call->connection) {
                ipc_call_reply(call, NULL);
                return;
        }
        if (error >= 0 && !settled)
                error = -ENOENT;
        if (error >= 0)
                error = buffer_append_string(&text, "\"message\":");
        if (error >= 0)
                error = ipc_append_end(&text, settled);
        if (error < 0)
                ipc_call_error_errno(s, call, error, 0);
        else
                ipc_call_reply_text(call, (const char *) text.data, false);
}

/* The oldest of another user than the last one's, else the oldest: one user's many do not keep the
 * others waiting. */
static IpcCall *next_lookup(const IpcServer *s) {
        IpcCall *oldest = NULL, *of_another = NULL;

        for (IpcCall *call = s->subscriptions.heads[IPC_WAIT_LOOKUP]; call;
             call = call->wait_next) {
                oldest = call; /* new ones are put first */
                if (call->connection->uid != s->subscriptions.lookup_uid)
                        of_another = call;
        }
        return of_another ? of_another : oldest;
}

static void start_lookup(IpcServer *s) {
        IpcCall *call;
        int r;

        if (s->subscriptions.lookup)
                return;
        call = next_lookup(s);
        if (!call)
                return;
        s->subscriptions.lookup_uid = call->connection->uid;
        ipc_subscription_remove(s, call);
        r = outbox_lookup(s->outbox, call->seq, call->message_id, on_lookup, call);
        if (r < 0) {
                ipc_call_error_errno(s, call, r, 0);
                return;
        }
        call->in_outbox = true;
        s->subscriptions.lookup = call;
}

void ipc_wait_lookup(IpcServer *s, IpcCall *call, uint64_t seq, const char *message_id) {
        call->seq = seq;
        if (message_id) {
                call->message_id = strdup(message_id);
                if (!call->message_id) {
                        ipc_call_error_errno(s, call, -ENOMEM, 0);
                        return;
                }
        }
        ipc_subscription_add(s, call, IPC_WAIT_LOOKUP);
        start_lookup(s);
}

/* All of them. */

void ipc_subscriptions_settled(IpcServer *s, const OutboxSettled *settled) {
        IpcCall *next;

        for (IpcCall *call = s->subscriptions.heads[IPC_WAIT_ENDS]; call; call = next) {
                next = call->wait_next;
                if (settled->seq >= call->first && settled->seq <= call->last)
                        tell_end(s, call, settled);
        }
        for (IpcCall *call = s->subscriptions.heads[IPC_WAIT_STREAM]; call && settled->has_stream;
             call = call->wait_next)
                if (memcmp(call->stream, settled->stream, sizeof(call->stream)) == 0)
                        gather_end(s, call, settled);
        if (ipc_subscriptions_pending(s))
                ipc_server_schedule(s, NULL);
}

bool ipc_subscriptions_pending(const IpcServer *s) {
        return s->subscriptions.heads[IPC_WAIT_STATUS] || s->subscriptions.heads[IPC_WAIT_FLUSH] ||
               s->subscriptions.heads[IPC_WAIT_LOOKUP];
}

void ipc_subscriptions_run(IpcServer *s) {
        IpcCall *next;

        for (IpcCall *call = s->subscriptions.heads[IPC_WAIT_FLUSH]; call; call = next) {
                next = call->wait_next;
                check_flush(s, call);
        }
        for (IpcCall *call = s->subscriptions.heads[IPC_WAIT_STATUS]; call; call = call->wait_next)
                tell_status(s, call);
        start_lookup(s);
}
