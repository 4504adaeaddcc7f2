/* Messages gather in batches, encoded once. A batch becomes one Send call; it stays in memory until
 * it is accepted. Several calls are under way at once, and their replies come in order, so
 * "accepted" always concerns the oldest batch. The position of a batch in the stream is computed
 * when it is sent, so that a faulty message can be cut out of the one before.
 *
 * Any error stops the pipeline: the daemon refuses what follows because of the gap in the
 * positions. So after an error the replies under way are drained, the cause is dealt with, and
 * sending starts again from the oldest batch. Where it is not certain what was stored (lost
 * connection, unexpected gap), Resume tells. */
#include <poll.h>
#include <sys/random.h>

#include "lib/parse-util.h"
#include "lib/varlink-wire.h"
#include "client/daemon-client.h"
#include "client/output.h"
#include "client/sender.h"

#define BATCH_BYTES_MAX                                                                            \
        (128U * 1024U) /* more gains nothing: the cost per message is far above that per call */
#define BATCH_ELEMENTS_MAX                                                                         \
        4096U /* the daemon's JSON objects cost it about 1 KiB a message while it takes the call */
#define MESSAGE_BYTES_MAX                                                                          \
        (VARLINK_FRAME_BYTES_MAX - 1024U) /* leaves room for the frame around it */
#define WINDOW_BYTES_MAX                                                                           \
        (4U * 1024U * 1024U) /* not accepted yet; enough for a disk that syncs in 20 ms */
#define OUTPUT_BYTES_MAX (256U * 1024U)
#define CALLS_MAX 64U

/* With this many calls under way a small batch waits for company: its delay is hidden behind the
 * sync that the calls before it wait for, and a producer of single lines doesn't pay for a call
 * each. */
#define CALLS_BEFORE_GATHERING 8U
#define GATHER_BYTES (32U * 1024U)

#define RETRY_MIN_USEC (50 * USEC_PER_MSEC)
#define RETRY_MAX_USEC USEC_PER_SEC
#define GAPS_IN_A_ROW_MAX 5U
#define PAUSE_TOLD_USEC (60 * USEC_PER_SEC) /* at most once in that time */

typedef struct Mark {
        uint32_t end;  /* offset behind the message; a comma follows before the next */
        uint32_t line; /* counted from the batch's first_line */
} Mark;

typedef struct Batch Batch;

struct Batch {
        Batch *next;
        uint64_t first_line;
        Buffer body; /* messages with commas between */
        Mark *marks;
        size_t n_messages, n_allocated;
};

typedef enum SenderState {
        SENDER_CONNECTING,
        SENDER_RESUMING, /* asked from where to go on */
        SENDER_FLOWING,
        SENDER_DRAINING, /* an error came: waits for the replies under way */
        SENDER_PAUSED,   /* until retry_at */
        SENDER_FAILED,
        _SENDER_STATE_MAX,
        _SENDER_STATE_INVALID = -EINVAL,
} SenderState;

struct Sender {
        SenderOptions options;
        SenderEvents events;
        SenderState state;
        DaemonConnection *connection;

        char stream[33];
        uint64_t stream_base; /* accepted before this stream began */
        uint64_t n_accepted, n_refused, n_pending;

        Batch *head, *tail; /* oldest not accepted; the one that grows */
        Batch *unsent;      /* first that is not part of a call under way */
        size_t bytes;       /* in all batches */
        unsigned n_calls;   /* under way: batches from head up to unsent */
        unsigned calls_max; /* drops to 1 after a fault, so that faults don't cost a whole window
                               each */
        uint64_t sent_position; /* of unsent's first message */

        DaemonReply failure; /* what stopped the pipeline */
        unsigned n_gaps;     /* in a row */
        bool was_connected, in_doubt, told_pause, told_lost, limited;
        usec_t tell_pause_at;
        usec_t retry_at, retry_delay;
        usec_t progress_at; /* something was accepted, or began to wait for it */
        int exit_code;
};

static Batch *batch_free(Batch *b) {
        if (!b)
                return NULL;
        buffer_done(&b->body);
        free(b->marks);
        free(b);
        return NULL;
}

static int new_stream(Sender *s) {
        uint8_t id[16];

        if (getrandom(id, sizeof(id), 0) != sizeof(id))
                return errno > 0 ? -errno : -EIO;
        (void) format_id128(id, s->stream); /* returns its argument */
        s->stream_base = s->n_accepted;
        return 0;
}

int sender_new(const SenderOptions *options, const SenderEvents *events, Sender **ret) {
        _cleanup_(sender_freep) Sender *s = NULL;
        int r;

        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (Sender){
                .options = *options,
                .events = *events,
                .calls_max = CALLS_MAX,
                .retry_delay = RETRY_MIN_USEC,
                .progress_at = now_usec(CLOCK_MONOTONIC),
        };
        r = new_stream(s);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

Sender *sender_free(Sender *s) {
        if (!s)
                return NULL;
        daemon_connection_free(s->connection);
        daemon_reply_done(&s->failure);
        while (s->head) {
                Batch *b = s->head;

                s->head = b->next;
                batch_free(b);
        }
        free(s);
        return NULL;
}

const char *sender_stream(const Sender *s) {
        return s->stream;
}

bool sender_takes_input(const Sender *s) {
        return s->was_connected && s->state != SENDER_FAILED && s->bytes < WINDOW_BYTES_MAX;
}

int sender_exit_code(const Sender *s) {
        return s->exit_code;
}

bool sender_is_settled(const Sender *s) {
        return !s->head;
}

uint64_t sender_n_pending(const Sender *s) {
        return s->n_pending;
}

uint64_t sender_n_accepted(const Sender *s) {
        return s->n_accepted;
}

uint64_t sender_n_refused(const Sender *s) {
        return s->n_refused;
}

/* Ends the run; the sentence about the cause was told. */
static void fail(Sender *s, int exit_code) {
        if (s->state == SENDER_FAILED)
                return;
        if (s->head)
                say_error("%" PRIu64 " accepted; line %" PRIu64 " is the first that was not",
                          s->n_accepted, s->head->first_line + s->head->marks[0].line);
        s->connection = daemon_connection_free(s->connection);
        s->state = SENDER_FAILED;
        s->exit_code = exit_code;
}

static void fail_errno(Sender *s, int error) {
        say_daemon_error(s->options.socket_path, error);
        fail(s, daemon_error_exit_code(error));
}

static int add_batch(Sender *s, uint64_t line) {
        Batch *b;

        b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->first_line = line;
        if (s->tail)
                s->tail->next = b;
        else {
                s->head = b;
                s->progress_at = now_usec(CLOCK_MONOTONIC);
        }
        s->tail = b;
        if (!s->unsent)
                s->unsent = b;
        return 0;
}

static bool batch_has_room(const Sender *s, const Batch *b, uint64_t line) {
        return b->body.size < BATCH_BYTES_MAX && line - b->first_line <= UINT32_MAX &&
               (b->n_messages + 1) * message_template_elements(s->options.template) <=
                               BATCH_ELEMENTS_MAX;
}

static int batch_add_mark(Batch *b, uint64_t line) {
        if (b->n_messages == b->n_allocated) {
                size_t n = b->n_allocated ? 2 * b->n_allocated : 16;
                Mark *marks = reallocarray(b->marks, n, sizeof(Mark));

                if (!marks)
                        return -ENOMEM;
                b->marks = marks;
                b->n_allocated = n;
        }
        b->marks[b->n_messages++] = (Mark){
                .end = (uint32_t) b->body.size,
                .line = (uint32_t) (line - b->first_line),
        };
        return 0;
}

/* "%n" counts what was added, refused messages too: they were sent with their number. */
static uint64_t next_number(const Sender *s) {
        return s->n_accepted + s->n_refused + s->n_pending + 1;
}

static int batch_append(Sender *s, Batch *b, uint64_t line, const void *body, size_t size) {
        const size_t before = b->body.size;
        int r = 0;

        if (b->n_messages > 0)
                r = buffer_append(&b->body, ",", 1);
        if (r >= 0)
                r = message_template_encode(s->options.template, next_number(s), body, size,
                                            &b->body);
        if (r >= 0 && b->body.size > MESSAGE_BYTES_MAX)
                r = -EMSGSIZE;
        if (r >= 0)
                r = batch_add_mark(b, line);
        if (r < 0) {
                b->body.size = before;
                return r;
        }
        s->bytes += b->body.size - before;
        s->n_pending++;
        return 0;
}

/* An empty batch must not stay: it would be an empty call. */
static void drop_empty_tail(Sender *s) {
        Batch **p = &s->head, *before = NULL;

        if (!s->tail || s->tail->n_messages > 0)
                return;
        for (; *p != s->tail; p = &(*p)->next)
                before = *p;
        if (s->unsent == s->tail)
                s->unsent = NULL;
        *p = batch_free(s->tail);
        s->tail = before;
}

int sender_add(Sender *s, uint64_t line, const void *body, size_t size) {
        int r;

        /* A batch that is under way doesn't grow: unsent is NULL or lies before tail otherwise. */
        if (!s->unsent || !batch_has_room(s, s->tail, line) || size > BATCH_BYTES_MAX) {
                r = add_batch(s, line);
                if (r < 0)
                        return r;
        }
        r = batch_append(s, s->tail, line, body, size);
        if (r == -EMSGSIZE && s->tail->n_messages > 0) {
                r = add_batch(s, line);
                if (r >= 0)
                        r = batch_append(s, s->tail, line, body, size);
        }
        drop_empty_tail(s);
        return r;
}

void sender_refuse(Sender *s, uint64_t line, const char *field, const char *reason) {
        s->n_refused++;
        say_error("line %" PRIu64 ": %s%s%s", line, strempty(field), field ? ": " : "", reason);
        if (s->events.on_refused)
                s->events.on_refused(s->n_accepted + s->n_pending, s->events.userdata);
}

static void accept_head(Sender *s) {
        Batch *b = s->head;

        s->n_accepted += b->n_messages;
        s->n_pending -= b->n_messages;
        s->bytes -= b->body.size;
        s->head = b->next;
        if (!s->head)
                s->tail = NULL;
        if (s->unsent == b)
                s->unsent = b->next;
        batch_free(b);
        s->progress_at = now_usec(CLOCK_MONOTONIC);
        s->retry_delay = RETRY_MIN_USEC;
        s->n_gaps = 0;
        s->told_pause = s->limited = false;
        if (s->told_lost)
                say_error("Connected to iothubd again");
        s->told_lost = false;
}

static void cut_message(Sender *s, size_t index) {
        Batch *b = s->head;
        size_t start = index > 0 ? b->marks[index - 1].end : 0, end = b->marks[index].end, n;

        if (index == 0 && b->n_messages > 1)
                end++; /* the comma behind; otherwise the one before goes, if there is one */
        n = end - start;
        memmove(b->body.data + start, b->body.data + end, b->body.size - end);
        b->body.size -= n;
        for (size_t i = index + 1; i < b->n_messages; i++) {
                b->marks[i - 1] = b->marks[i];
                b->marks[i - 1].end -= (uint32_t) n;
        }
        b->n_messages--;
        s->bytes -= n;
        s->n_pending--;
        if (b->n_messages == 0)
                accept_head(s);
}

static int send_batch(Sender *s, Batch *b) {
        Buffer *out = daemon_connection_output(s->connection);
        const size_t before = out->size;
        int r;

        r = buffer_appendf(out,
                           "{\"method\":\"io.iothubd.Send\",\"parameters\":{\"stream\":\"%s\","
                           "\"position\":%" PRIu64 ",\"messages\":[",
                           s->stream, s->sent_position - s->stream_base);
        if (r >= 0)
                r = buffer_append(out, b->body.data, b->body.size);
        if (r >= 0)
                r = buffer_append(out, "]}}", sizeof("]}}"));
        if (r < 0) {
                out->size = before;
                return r;
        }
        s->sent_position += b->n_messages;
        s->unsent = b->next;
        s->n_calls++;
        return 0;
}

/* Whether something was sent. */
static bool pump(Sender *s) {
        bool sent = false;
        int r;

        while (s->state == SENDER_FLOWING && s->unsent && s->n_calls < s->calls_max &&
               daemon_connection_output(s->connection)->size < OUTPUT_BYTES_MAX) {
                if (!s->unsent->next && s->n_calls >= CALLS_BEFORE_GATHERING &&
                    s->unsent->body.size < GATHER_BYTES)
                        break;
                r = send_batch(s, s->unsent);
                if (r < 0) {
                        fail_errno(s, r);
                        break;
                }
                sent = true;
        }
        return sent;
}

static void start_over(Sender *s) {
        s->unsent = s->head;
        s->sent_position = s->n_accepted;
        s->state = SENDER_FLOWING;
}

static void ask_resume(Sender *s) {
        _cleanup_json_ struct json_object *parameters = json_object_new_object();
        int r;

        r = parameters ? json_add_string(parameters, "stream", s->stream) : -ENOMEM;
        if (r >= 0)
                r = daemon_connection_call(s->connection, "io.iothubd.Resume", parameters,
                                           /* more= */ false);
        if (r < 0)
                return fail_errno(s, r);
        s->state = SENDER_RESUMING;
}

static void change_stream(Sender *s) {
        int r;

        if (s->in_doubt)
                say_error("iothubd has forgotten what this run sent before: "
                          "what was under way may be stored twice");
        r = new_stream(s);
        if (r < 0)
                return fail_errno(s, r);
        if (s->events.on_stream)
                s->events.on_stream(s->n_accepted, s->events.userdata);
}

static void resumed(Sender *s, const DaemonReply *reply) {
        uint64_t next;

        if (reply->error)
                return fail(s, say_error_reply("Cannot resume", reply));
        if (json_get_u64(reply->parameters, "next", &next) <= 0)
                return fail_errno(s, -EPROTO);

        if (next < s->n_accepted - s->stream_base)
                change_stream(s);
        else
                while (s->head && s->n_accepted + s->head->n_messages <= s->stream_base + next)
                        accept_head(s);
        s->in_doubt = false;
        if (s->state != SENDER_FAILED)
                start_over(s);
}

/* Longer each time until something is accepted: a daemon that is shutting down takes connections
 * and then refuses every call. */
static void delay_retry(Sender *s) {
        s->retry_at = usec_add(now_usec(CLOCK_MONOTONIC), s->retry_delay);
        s->retry_delay = MIN(2 * s->retry_delay, RETRY_MAX_USEC);
}

/* Only when something waits for it, and once. */
static void tell_lost(Sender *s) {
        if (!s->head || s->told_lost)
                return;
        say_error("Lost the connection to iothubd, connecting again");
        s->told_lost = true;
}

static void reconnect(Sender *s) {
        tell_lost(s);
        if (s->n_calls > 0)
                s->in_doubt = true;
        s->connection = daemon_connection_free(s->connection);
        s->n_calls = 0;
        s->unsent = s->head;
        s->state = SENDER_CONNECTING;
        delay_retry(s);
        daemon_reply_done(&s->failure);
}

/* An outbox that drains is full again after each segment that becomes free: that is no news. */
static void pause_sending(Sender *s, const char *what, const char *reason) {
        usec_t now = now_usec(CLOCK_MONOTONIC);

        if (!s->told_pause && now >= s->tell_pause_at) {
                say_error("%s (%s), waiting", what, strempty(reason));
                s->tell_pause_at = usec_add(now, PAUSE_TOLD_USEC);
        }
        s->told_pause = true;
        s->state = SENDER_PAUSED;
        delay_retry(s);
}

static void wait_for_room(Sender *s) {
        _cleanup_free_ char *full = NULL;

        if (outbox_full_text(&s->failure, &full) < 0)
                return fail(s, say_out_of_memory());
        pause_sending(s, "The outbox is full", full);
}

static void refused(Sender *s, const char *reason) {
        Batch *b = s->head;
        const char *field = NULL;
        uint64_t index, line;

        (void) json_get_string(s->failure.parameters, "field", &field,
                               NULL); /* told where it is there */
        if (json_get_u64(s->failure.parameters, "index", &index) <= 0 || index >= b->n_messages)
                return fail_errno(s, -EPROTO);

        line = b->first_line + b->marks[index].line;
        s->n_refused++;
        say_error("line %" PRIu64 ": %s%s%s", line, strempty(field), field ? ": " : "", reason);
        if (s->events.on_refused)
                s->events.on_refused(s->n_accepted + index, s->events.userdata);
        cut_message(s, index);
        s->calls_max = 1;
        start_over(s);
}

static void deal_with_failure(Sender *s) {
        const char *name = daemon_error_name(&s->failure), *reason = "no reason given";

        (void) json_get_string(s->failure.parameters, "reason", &reason,
                               NULL); /* the default stays */
        if (streq(name, "InvalidMessage") || streq(name, "MessageTooLarge"))
                refused(s, reason);
        else if (streq(name, "OutboxFull") && s->options.wait_when_full)
                wait_for_room(s);
        else if (streq(name, "LimitExceeded")) {
                s->limited = true;
                pause_sending(s, "iothubd wants less at once", reason);
        } else if (streq(name, "ShuttingDown"))
                return reconnect(s);
        else if (streq(name, "StreamGap") && s->n_gaps++ < GAPS_IN_A_ROW_MAX)
                ask_resume(s);
        else
                fail(s, say_error_reply("Cannot send", &s->failure));
        daemon_reply_done(&s->failure);
}

/* Before the oldest batch is taken as accepted. What was a duplicate lies before what is new. */
static void tell_accepted(Sender *s, const DaemonReply *reply) {
        uint64_t first, last, n, end = s->n_accepted + s->head->n_messages;

        if (!s->events.on_accepted || json_get_u64(reply->parameters, "first", &first) <= 0 ||
            json_get_u64(reply->parameters, "last", &last) <= 0 || last < first)
                return;
        n = last - first + 1;
        if (n <= s->head->n_messages)
                s->events.on_accepted(end - n, first, n, s->events.userdata);
}

static void handle_send_reply(Sender *s, DaemonReply *reply) {
        if (s->n_calls == 0)
                return fail_errno(s, -EPROTO);
        s->n_calls--;
        if (s->state == SENDER_FLOWING && !reply->error) {
                tell_accepted(s, reply);
                accept_head(s);
                s->calls_max = MIN(2 * s->calls_max, CALLS_MAX);
                return;
        }

        if (s->state == SENDER_FLOWING) {
                s->failure = *reply;
                *reply = (DaemonReply){};
                s->state = SENDER_DRAINING;
        }
        if (s->n_calls == 0)
                deal_with_failure(s);
}

static void handle_reply(Sender *s, DaemonReply *reply) {
        if (s->state == SENDER_RESUMING)
                resumed(s, reply);
        else
                handle_send_reply(s, reply);
}

/* Whether there was any. */
static bool handle_replies(Sender *s) {
        bool any = false;

        while (s->connection && s->state != SENDER_FAILED) {
                _cleanup_(daemon_reply_done) DaemonReply reply = {};
                int r;

                r = daemon_connection_next(s->connection, &reply);
                if (r == 0)
                        break;
                if (r > 0)
                        handle_reply(s, &reply);
                else if (r == -ECONNRESET)
                        reconnect(s);
                else
                        fail_errno(s, r);
                any = true;
        }
        return any;
}

static bool worth_retrying(const Sender *s, int error) {
        /* Before the first connection a missing socket means that the service was never started;
         * later it means that it is just being restarted. */
        return error == -ECONNREFUSED || error == -EAGAIN || (error == -ENOENT && s->was_connected);
}

/* How long we go on without progress. */
static usec_t patience(const Sender *s) {
        if (s->options.timeout_usec != USEC_INFINITY)
                return s->options.timeout_usec;
        if (!s->was_connected)
                return DAEMON_RETRY_START_USEC;
        /* A limit that doesn't give way in that time never will; a full outbox, a slow disk may. */
        return s->state == SENDER_CONNECTING || s->limited ? DAEMON_RETRY_MIDSTREAM_USEC :
                                                             USEC_INFINITY;
}

static usec_t give_up_at(const Sender *s) {
        if (!s->head && s->was_connected)
                return USEC_INFINITY; /* nothing is late */
        return usec_add(s->progress_at, patience(s));
}

static void try_connect(Sender *s, usec_t now) {
        int r;

        r = daemon_connection_open(s->options.socket_path, &s->connection);
        if (r < 0) {
                if (!worth_retrying(s, r) || now >= give_up_at(s))
                        return fail_errno(s, r);
                if (!s->was_connected && !s->told_pause) {
                        say_error("iothubd does not answer at %s yet, trying again",
                                  s->options.socket_path);
                        s->told_pause = true;
                }
                if (s->was_connected)
                        tell_lost(s);
                return delay_retry(s);
        }

        s->told_pause = false;
        if (!s->was_connected) {
                s->was_connected = true;
                return start_over(s);
        }
        ask_resume(s);
}

static void check_timeout(Sender *s, usec_t now) {
        char span[FORMAT_TIMESPAN_MAX];

        /* Connecting tells the cause itself, with the next try. */
        if (s->state == SENDER_FAILED || s->state == SENDER_CONNECTING || now < give_up_at(s))
                return;
        say_error("%s for %s, giving up",
                  s->told_pause ? "There was no room" : "iothubd accepted nothing",
                  format_timespan(span, sizeof(span), patience(s)));
        fail(s, EXIT_TRY_AGAIN);
}

int sender_fd(const Sender *s) {
        return s->connection ? daemon_connection_fd(s->connection) : -1;
}

short sender_poll_events(const Sender *s) {
        return s->connection ? daemon_connection_poll_events(s->connection) : 0;
}

usec_t sender_deadline(const Sender *s) {
        if (s->state == SENDER_FAILED)
                return USEC_INFINITY;
        if (s->state == SENDER_CONNECTING || s->state == SENDER_PAUSED)
                return MIN(s->retry_at, give_up_at(s));
        return give_up_at(s);
}

/* What a reply or an emptied buffer makes possible is done at once: the caller's poll() might wait
 * for the reply to it. */
static void turn(Sender *s) {
        bool again = true;
        int r;

        while (again && s->connection && s->state != SENDER_FAILED) {
                again = pump(s);
                if (!s->connection)
                        return;
                r = daemon_connection_process(s->connection);
                if (r < 0)
                        return fail_errno(s, r);
                again = handle_replies(s) || again;
        }
}

void sender_process(Sender *s) {
        usec_t now = now_usec(CLOCK_MONOTONIC);

        if (s->state == SENDER_CONNECTING && now >= MIN(s->retry_at, give_up_at(s)))
                try_connect(s, now);
        if (s->state == SENDER_PAUSED && now >= s->retry_at)
                start_over(s);
        turn(s);
        check_timeout(s, now);
}
