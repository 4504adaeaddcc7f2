/* A connection alternates between three things in ipc_connection_run(): write what is answered,
 * take calls as long as there is room for their replies, and tell epoll what would help next.
 * Reading stops, and with it the sender, while calls are held, replies are unread or a budget is
 * used up; nothing else is needed for back-pressure.
 *
 * Replies are kept in order by a queue of calls: only the first of it writes to the connection's
 * buffer, what is answered behind it gathers in its call. */
#include "daemon/ipc-connection.h"

#include <assert.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "lib/fd-util.h"
#include "daemon/ipc-method.h"
#include "daemon/ipc-server-private.h"

/* Parsing a smaller call takes too little memory to look after it. */
#define TRIM_FRAME_BYTES 4096U
#define TINY_FRAME_BYTES 1024U /* parsed where larger ones must wait */

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata);

int ipc_connection_new(IpcServer *s, IpcUser *user, int fd) {
        IpcConnection *c;
        int r;

        c = malloc(sizeof(*c));
        if (!c) {
                (void) safe_close(fd);
                return -ENOMEM;
        }
        *c = (IpcConnection){
                .server = s,
                .user = user,
                .uid = user->uid,
                .fd = fd,
                .io_events = EPOLLIN,
        };

        r = sd_event_add_io(s->event, &c->io, fd, c->io_events, on_io, c);
        if (r < 0) {
                (void) safe_close(fd);
                free(c);
                return r;
        }
        c->progress = ++s->tick;
        c->prev = s->connections_tail;
        *(c->prev ? &c->prev->next : &s->connections) = c;
        s->connections_tail = c;
        s->n_connections++;
        return 0;
}

IpcConnection *ipc_connection_free(IpcConnection *c) {
        if (!c)
                return NULL;
        while (c->calls_head) {
                IpcCall *call = c->calls_head;

                c->calls_head = call->next;
                call->connection = NULL;
                ipc_subscription_remove(c->server, call);
                if (call->in_outbox)
                        ipc_subscription_add(c->server, call, IPC_WAIT_ORPHAN);
                else
                        (void) ipc_call_free(call);
        }
        ipc_server_unlink_connection(c->server, c);
        sd_event_source_disable_unref(c->io);
        (void) safe_close(c->fd);
        json_object_put(c->held);
        varlink_list_done(&c->held_list);
        varlink_reader_done(&c->reader);
        buffer_done(&c->out);
        free(c);
        return NULL;
}

void ipc_connection_schedule(IpcConnection *c) {
        if (c->scheduled || c->running)
                return;
        c->scheduled = true;
        ipc_server_schedule(c->server, c);
}

unsigned ipc_connection_idleness(const IpcConnection *c) {
        if (ipc_connection_unread(c) >= IPC_OUT_BYTES_MAX)
                return 2;
        if (c->calls_head)
                return 0;
        return !c->had_call || varlink_reader_pending(&c->reader) > 0 ||
                                               ipc_connection_unread(c) > 0 ?
                               2 :
                               1;
}

void ipc_connection_charge(IpcConnection *c) {
        uint64_t bytes = varlink_reader_allocated(&c->reader) + c->held_size + c->out.allocated +
                         c->append_bytes + c->n_calls * sizeof(IpcCall) + c->frames_bytes;

        if (c->streaming && c->calls_head)
                bytes += c->calls_head->ends.allocated;
        if (bytes < c->charged)
                ipc_server_wake(c->server);
        c->user->bytes += bytes - c->charged;
        c->server->bytes += bytes - c->charged;
        c->charged = bytes;
}

/* Calls. */

IpcCall *ipc_call_free(IpcCall *call) {
        if (!call)
                return NULL;
        buffer_done(&call->frames);
        buffer_done(&call->ends);
        free(call->message_id);
        free(call);
        return NULL;
}

static IpcCall *call_new(IpcConnection *c, size_t frame_size) {
        IpcCall *call = malloc(sizeof(*call));

        if (!call)
                return NULL;
        *call = (IpcCall){
                .server = c->server,
                .connection = c,
                .frame_size = frame_size,
                .last_connected = -1,
                .last_busy = -1,
        };
        *(c->calls_tail ? &c->calls_tail->next : &c->calls_head) = call;
        c->calls_tail = call;
        c->n_calls++;
        return call;
}

/* The call that was taken last had to be put back. */
static void call_forget(IpcConnection *c, IpcCall *call) {
        IpcCall **p = &c->calls_head, *before = NULL;

        assert(c->calls_tail == call);

        for (; *p != call; p = &(*p)->next)
                before = *p;
        *p = NULL;
        c->calls_tail = before;
        c->n_calls--;
        (void) ipc_call_free(call);
}

/* Frees the calls that are answered, first to last, and gives the new first its turn. */
static void calls_advance(IpcConnection *c) {
        while (c->calls_head && c->calls_head->done) {
                IpcCall *call = c->calls_head;

                c->calls_head = call->next;
                if (!c->calls_head)
                        c->calls_tail = NULL;
                c->n_calls--;
                (void) ipc_call_free(call);

                call = c->calls_head;
                if (!call)
                        break;
                if (buffer_append(&c->out, call->frames.data, call->frames.size) < 0)
                        c->failed = true;
                c->frames_bytes -= call->frames.size;
                buffer_done(&call->frames);
        }
}

static void call_end(IpcCall *call) {
        IpcConnection *c = call->connection;

        if (!c) {
                if (call->server)
                        ipc_subscription_remove(call->server, call);
                (void) ipc_call_free(call);
                return;
        }
        call->done = true;
        if (call->more)
                c->streaming = false;
        calls_advance(c);
        ipc_connection_schedule(c);
}

/* Where replies of the call go, NULL when nobody reads them. */
static Buffer *call_out(IpcCall *call) {
        IpcConnection *c = call->connection;

        if (!c || call->oneway || c->hung_up)
                return NULL;
        return c->calls_head == call ? &c->out : &call->frames;
}

/* One frame was appended to out. */
static void note_frame(IpcCall *call, const Buffer *out, size_t before, int r) {
        if (r < 0)
                call->connection->failed = true;
        if (out == &call->frames)
                call->connection->frames_bytes += out->size - before;
}

void ipc_call_reply(IpcCall *call, struct json_object *parameters) {
        Buffer *out = call_out(call);
        size_t before = out ? out->size : 0;

        if (out)
                note_frame(call, out, before, varlink_append_reply(out, parameters, false));
        call_end(call);
}

void ipc_call_error(IpcCall *call, const char *name, struct json_object *parameters) {
        Buffer *out = call_out(call);
        size_t before = out ? out->size : 0;

        if (out)
                note_frame(call, out, before, varlink_append_error(out, name, parameters));
        call_end(call);
}

void ipc_call_reply_text(IpcCall *call, const char *parameters, bool continues) {
        Buffer *out = call_out(call);
        size_t before = out ? out->size : 0;
        int r;

        if (out) {
                r = buffer_appendf(out, "{\"parameters\":{%s}%s}", parameters,
                                   continues ? ",\"continues\":true" : "");
                if (r >= 0)
                        r = buffer_append(out, "", 1); /* the NUL that ends a frame */
                note_frame(call, out, before, r);
        }
        if (!continues)
                call_end(call);
        else if (call->connection)
                ipc_connection_schedule(call->connection);
}

/* Taking calls. */

static bool has_room_for_replies(const IpcConnection *c) {
        return c->n_calls < IPC_CALLS_MAX &&
               ipc_connection_unread(c) + c->frames_bytes < IPC_OUT_BYTES_MAX && !c->streaming;
}

/* Until the server tells that it may go on. */
static void connection_wait(IpcConnection *c, IpcHold what) {
        c->waits_for = what;
        ipc_server_add_waiting(c->server, c);
}

/* Whether a Send must not be run now, and why. */
static bool must_hold(const IpcConnection *c, IpcHold *ret) {
        if (c->server->outbox_busy)
                *ret = IPC_HOLD_OUTBOX;
        else if (!ipc_server_may_send(c->server, c))
                *ret = IPC_HOLD_RATE;
        else
                return false;
        return true;
}

/* Whether a call that comes with others still under way must wait for these. */
static bool must_be_alone(const IpcConnection *c, const VarlinkCall *v) {
        return c->calls_head && !ipc_method_is_concurrent(v);
}

/* Whether it is too large for a call that is held while others are under way: parsed, it takes much
 * more room. */
static bool is_too_large(const IpcConnection *c, const VarlinkCall *v) {
        return c->held_size > IPC_SMALL_FRAME_BYTES &&
               (must_be_alone(c, v) || !ipc_method_is_send(v));
}

/* Runs the held message. 0, or -EAGAIN: it stays held. */
static int run_held(IpcConnection *c) {
        bool too_large;
        IpcHold hold;
        VarlinkCall v;
        IpcCall *call;
        int r;

        r = varlink_call_parse(c->held, &v);
        if (r >= 0 && c->held_list.text)
                v.list = &c->held_list;
        too_large = r >= 0 && is_too_large(c, &v);
        if (r >= 0 && must_be_alone(c, &v) && !too_large) {
                c->blocked = true; /* the last of the others schedules the connection */
                return -EAGAIN;
        }
        if (r >= 0 && ipc_method_is_send(&v) && must_hold(c, &hold)) {
                connection_wait(c, hold);
                return -EAGAIN;
        }

        call = call_new(c, c->held_size);
        if (!call) {
                c->failed = true;
                return -EAGAIN;
        }
        c->had_call = true;
        if (r < 0)
                ipc_method_refuse(call, r,
                                  "method, parameters or a flag is missing, has the wrong type or "
                                  "contradicts "
                                  "another");
        else if (too_large)
                ipc_method_refuse(call, -E2BIG,
                                  "only Send takes calls of this size, with \"more\" when no other "
                                  "call is under way");
        else {
                call->more = c->streaming = v.more;
                call->oneway = v.oneway;
                r = ipc_method_run(c->server, call, &v);
                if (r == -EAGAIN) {
                        c->streaming = false;
                        call_forget(c, call);
                        connection_wait(c, IPC_HOLD_OUTBOX);
                        return -EAGAIN;
                }
        }
        json_object_put(c->held);
        varlink_list_done(&c->held_list);
        c->held = NULL;
        c->held_size = 0;
        return 0;
}

/* What is small and no Send is answered also while messages have to wait: whoever asks why nothing moves must not wait
 * for that, too. */
static bool is_small_question(IpcConnection *c) {
        const char *text;
        size_t n;

        return varlink_reader_peek(&c->reader, &text, &n) && n <= TINY_FRAME_BYTES &&
               !memmem(text, n, "Send", 4);
}

/* Parses the next message into held. 1, 0 when there is none, or -EAGAIN when parsing must wait. */
static int next_message(IpcConnection *c) {
        const char *reason = NULL;
        size_t size = 0;
        IpcHold hold;
        IpcCall *call;
        int r;

        if (!varlink_reader_has_frame(&c->reader))
                return 0;
        /* Parsed messages take much more room than their text, so they must not pile up. */
        if (must_hold(c, &hold) && !is_small_question(c)) {
                connection_wait(c, hold);
                return -EAGAIN;
        }
        r = varlink_reader_next_split(&c->reader, "messages", &c->held, &c->held_list, &size, &reason);
        if (r >= 0) {
                c->held_size = size;
                return r;
        }
        if (r == -ENOMEM) {
                c->failed = true;
                return -EAGAIN;
        }
        call = call_new(c, size);
        if (call)
                ipc_method_refuse(call, r, reason);
        else
                c->failed = true;
        return 1;
}

static void take_calls(IpcConnection *c) {
        while (!c->failed && has_room_for_replies(c)) {
                bool big;

                if (!c->held && next_message(c) <= 0)
                        return;
                if (!c->held)
                        continue;
                big = c->held_size > TRIM_FRAME_BYTES;
                if (run_held(c) < 0)
                        return;
                if (big)
                        ipc_server_trim_later(c->server);
        }
}

/* Sockets. */

void ipc_connection_write(IpcConnection *c) {
        while (ipc_connection_unread(c) > 0 && !c->hung_up) {
                ssize_t n = send(c->fd, c->out.data + c->out_offset, ipc_connection_unread(c),
                                 MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN) {
                        /* A client that is always a little behind would let what was sent pile up.
                         */
                        if (c->out_offset >= IPC_OUT_BYTES_MAX / 4) {
                                buffer_consume(&c->out, c->out_offset);
                                c->out_offset = 0;
                        }
                        return;
                }
                if (n < 0) {
                        c->hung_up = true;
                        break;
                }
                c->out_offset += (size_t) n;
                c->progress = ++c->server->tick;
        }
        if (c->out.allocated > IPC_OUT_BYTES_MAX / 4)
                buffer_done(&c->out);
        c->out.size = c->out_offset = 0;
}

/* Moves bytes from the socket to the reader. 1 when something came, 0 when not. */
static int read_input(IpcConnection *c) {
        ssize_t n;
        int r;

        do
                n = recv(c->fd, c->server->read_buffer, IPC_READ_BYTES, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return 0;
        if (n <= 0) {
                c->input_over = true;
                c->hung_up = c->hung_up || n < 0;
                return 0;
        }
        c->progress = ++c->server->tick;
        r = varlink_reader_feed(&c->reader, c->server->read_buffer, (size_t) n);
        if (r == -ENOMEM)
                c->failed = true;
        else if (r < 0)
                c->input_over = c->too_long = true;
        return 1;
}

static bool wants_input(IpcConnection *c) {
        return !c->input_over && !c->held && !c->waiting && has_room_for_replies(c);
}

/* The client is gone, so nobody reads replies, but what it sent before is taken where there is room
 * at once: it may have been a call that wants no reply. */
static void take_rest(IpcConnection *c) {
        c->hung_up = true;
        while (wants_input(c) && !c->failed && read_input(c) > 0)
                take_calls(c);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        IpcConnection *c = userdata;

        if (revents & (EPOLLHUP | EPOLLERR))
                take_rest(c);
        else if ((revents & EPOLLIN) && wants_input(c) &&
                 ipc_server_has_budget(c->server, c, IPC_READ_BYTES))
                (void) read_input(c); /* what it found is in c */
        ipc_connection_run(c);
        return 0;
}

static void update_events(IpcConnection *c) {
        uint32_t events = (wants_input(c) ? EPOLLIN : 0) |
                          (ipc_connection_unread(c) > 0 ? EPOLLOUT : 0);

        if (events == c->io_events)
                return;
        if (sd_event_source_set_io_events(c->io, events) < 0)
                c->failed = true;
        c->io_events = events;
}

/* A frame was too long: there is no way to find the next one, so the error is the last thing said.
 */
static void refuse_too_long(IpcConnection *c) {
        IpcCall *call;

        if (!c->too_long || c->held || c->calls_head || varlink_reader_has_frame(&c->reader))
                return;
        c->too_long = false;
        call = call_new(c, 0);
        if (call)
                ipc_method_refuse(call, -EMSGSIZE, NULL);
}

static bool is_finished(IpcConnection *c) {
        return c->failed || c->hung_up ||
               (c->input_over && !c->held && !c->calls_head && !c->too_long &&
                ipc_connection_unread(c) == 0 && !varlink_reader_has_frame(&c->reader));
}

void ipc_connection_run(IpcConnection *c) {
        c->running = true;
        c->blocked = false;
        ipc_server_remove_waiting(c->server, c);
        ipc_connection_write(c);
        take_calls(c);
        if (c->calls_head && c->calls_head->wait == IPC_WAIT_STREAM)
                ipc_subscription_flush_stream(c->server, c->calls_head);
        refuse_too_long(c);
        ipc_connection_write(c);
        ipc_connection_charge(c);
        if (ipc_connection_unread(c) >= IPC_OUT_BYTES_MAX &&
            ipc_server_is_over_budget(c->server, c))
                c->failed = true; /* it makes its calls answer more than it reads */
        if (wants_input(c) && !ipc_server_has_budget(c->server, c, IPC_READ_BYTES))
                connection_wait(c, IPC_HOLD_BUDGET);
        update_events(c);
        c->running = false;
        if (is_finished(c))
                (void) ipc_connection_free(c);
        else if (!c->waiting && !c->blocked && has_room_for_replies(c) &&
                 (c->held || varlink_reader_has_frame(&c->reader)))
                /* The socket took the replies, so there is room again and no event to tell. Others
                 * get their turn before it goes on. */
                ipc_connection_schedule(c);
}
