/* Shows what became of messages to devices whose senders asked for it. A message of the hub's is
 * accepted when its records are with the reader of our output: before that, the hub keeps it. */
#include "client/amqp-endpoint.h"
#include "client/amqp-retry.h"
#include "client/feedback.h"
#include "client/identity.h"
#include "client/login.h"
#include "client/output.h"

#define WHAT "Cannot read the feedback"
#define CREDIT 16U

typedef struct FeedbackSettings {
        uint64_t count;
        usec_t timeout_usec;
} FeedbackSettings;

static const Option feedback_options[] = {
        { "count", 'n', "N", "End after N records", option_count,
          offsetof(FeedbackSettings, count) },
        { "timeout", 0, "SPAN", "End when no record came for that long", option_ttl,
          offsetof(FeedbackSettings, timeout_usec) },
        {},
};

typedef struct Reading {
        const Globals *globals;
        const FeedbackSettings *settings;
        AmqpLoop loop;
        AmqpConnection *connection;
        FeedbackReceiver *receiver;
        AmqpRetry retry;
        uint64_t n;
        usec_t last_usec; /* CLOCK_MONOTONIC */
        int error;
} Reading;

static int print_record(const Reading *r, struct json_object *o, Buffer *out) {
        _cleanup_free_ char *text = NULL, *safe = NULL;
        FeedbackRecord record;
        int k;

        if (r->globals->json) {
                k = buffer_append_string(
                                out,
                                json_object_to_json_string_ext(
                                                o, JSON_C_TO_STRING_PLAIN |
                                                                   JSON_C_TO_STRING_NOSLASHESCAPE));
                return k < 0 ? k : buffer_append_string(out, "\n");
        }
        feedback_record_read(o, &record);
        k = asprintf(&text, "%s %s: %s%s%s%s [message_id=%s]",
                     record.enqueued_time ? record.enqueued_time : "-",
                     record.device_id ? record.device_id : "-",
                     feedback_status_to_string(record.status), record.description ? " (" : "",
                     strempty(record.description), record.description ? ")" : "",
                     strempty(record.message_id));
        if (k < 0) {
                text = NULL;
                return -ENOMEM;
        }
        k = printable(text, &safe);
        if (k >= 0)
                k = buffer_append_string(out, safe);
        return k < 0 ? k : buffer_append_string(out, "\n");
}

static void on_message(struct json_object *records, _unused_ pn_delivery_t *handle,
                       void *userdata) {
        Reading *r = userdata;

        for (size_t i = 0; i < json_object_array_length(records) && r->error >= 0; i++, r->n++)
                r->error = print_record(r, json_object_array_get_idx(records, i),
                                        &r->loop.output.data);
        r->last_usec = now_usec(CLOCK_MONOTONIC);
}

static bool is_finished(const Reading *r) {
        return r->settings->count > 0 && r->n >= r->settings->count;
}

static usec_t silence_deadline(const Reading *r) {
        return usec_add(r->last_usec, r->settings->timeout_usec);
}

static bool is_silent(const Reading *r) {
        return r->settings->timeout_usec != USEC_INFINITY &&
               now_usec(CLOCK_MONOTONIC) >= silence_deadline(r);
}

static void accept_printed(Reading *r) {
        unsigned n = feedback_kept(r->receiver);

        if (n == 0 || output_buffer_pending(&r->loop.output) > 0)
                return;
        feedback_accept_all(r->receiver);
        if (!is_finished(r))
                feedback_more(r->receiver, n);
}

/* 0 when it is finished or silent. */
static int read_feedback(Reading *r) {
        int k = 0;

        accept_printed(r); /* what came with the link's attach: the next word may be long in coming */
        while (k >= 0 && !(is_finished(r) && feedback_kept(r->receiver) == 0) && !is_silent(r)) {
                k = amqp_loop_turn(&r->loop, r->connection, silence_deadline(r));
                if (k >= 0)
                        k = r->error;
                if (k >= 0)
                        accept_printed(r);
        }
        return k;
}

static void disconnect(Reading *r) {
        r->receiver = feedback_receiver_free(r->receiver);
        r->connection = amqp_connection_free(r->connection);
}

static int connect_once(Reading *r, const ConnectionString *login) {
        int k;

        amqp_retry_begin(&r->retry);
        k = amqp_connect_hub(&r->loop, r->globals, login, &r->connection);
        if (k >= 0)
                k = feedback_receiver_new(r->connection, CREDIT, on_message, r, &r->receiver);
        if (k >= 0)
                k = amqp_loop_until(&r->loop, r->connection,
                                    feedback_receiver_attached(r->receiver), AMQP_STAGE_ATTACH);
        if (k < 0)
                return k;
        say_error("%s; Ctrl-C ends",
                  r->retry.reached ? "Waiting on for feedback" : "Waiting for feedback");
        amqp_retry_succeeded(&r->retry);
        return 0;
}

static int run_connections(Reading *r, const ConnectionString *login) {
        AmqpError error;
        int k;

        for (;;) {
                k = connect_once(r, login);
                if (k >= 0)
                        k = read_feedback(r);
                if (k != -EIO || !r->connection)
                        return k;
                error = *amqp_connection_error(r->connection);
                if (!amqp_retry_may(&r->retry, &error))
                        return k;
                disconnect(r);
                k = amqp_retry_wait(&r->retry, &r->loop, &error, WHAT, silence_deadline(r));
                if (k < 0)
                        return k == -ETIME && r->retry.reached ? 0 : k;
        }
}

static int run(Reading *r, const ConnectionString *login) {
        int k, code;

        k = amqp_loop_init(&r->loop);
        if (k >= 0) {
                r->last_usec = now_usec(CLOCK_MONOTONIC);
                k = run_connections(r, login);
        }
        /* Else the hub was never reached, which is told. */
        code = k == -ETIME ? r->retry.exit_code :
                             amqp_loop_exit_code(&r->loop, k, r->connection, WHAT);
        if (k >= 0 && r->settings->count > 0 && !is_finished(r))
                code = EXIT_TRY_AGAIN;
        return code;
}

static int cmd_feedback(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(connection_string_done) ConnectionString login = {};
        FeedbackSettings s = { .timeout_usec = USEC_INFINITY };
        Reading reading = { .globals = g, .settings = &s, .loop.signal_fd = -EBADF };
        int r, signal_number;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = login_load(g, &login);
        if (r == EX_OK)
                r = run(&reading, &login);
        disconnect(&reading);
        signal_number = reading.loop.signal;
        amqp_loop_done(&reading.loop);
        amqp_loop_end_by_signal(signal_number);
        return r;
}

const Verb verb_feedback = {
        .hub = true,
        .name = "feedback",
        .summary = "Show what became of messages to devices",
        .description = "Of messages that were sent with --ack. Each record is shown to one reader "
                       "only.",
        .options = feedback_options,
        .run = cmd_feedback,
};
