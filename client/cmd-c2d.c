/* Messages to devices: sending one, with the wait for what becomes of it, and throwing away what
 * waits. */
#include <openssl/rand.h>

#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"
#include "client/amqp-endpoint.h"
#include "client/amqp-retry.h"
#include "client/c2d-sender.h"
#include "client/event-start.h"
#include "client/feedback.h"
#include "client/identity.h"
#include "client/login.h"
#include "client/output.h"

#define WHAT "Cannot send the message"
#define BODY_BYTES_MAX (64U * 1024U) /* the hub's limit for the whole message */
#define KEPT_MAX 50U
#define PAUSE_USEC (5 * USEC_PER_SEC)
#define EXPIRY_MAX_USEC (48 * USEC_PER_HOUR) /* the hub's limit */

typedef struct SendSettings {
        const char *module, *file, *expires, *ack;
        const char *message_id, *correlation_id, *user_id, *content_type, *content_encoding;
        PropertyBag properties;
        bool wait;
        usec_t timeout_usec;
} SendSettings;

static int option_ack(const char *value, void *field) {
        if (!streq(value, "none") && !streq(value, "positive") && !streq(value, "negative") &&
            !streq(value, "full"))
                return -EINVAL;
        return option_string(value, field);
}

static const Option send_options[] = {
        { "module", 0, "ID", "To that module of the device", option_string,
          offsetof(SendSettings, module) },
        { "file", 0, "PATH", "Read the body from a file; \"-\": standard input", option_path,
          offsetof(SendSettings, file) },
        { "property", 'p', "NAME=VALUE", "Application property; may be repeated", option_property,
          offsetof(SendSettings, properties) },
        { "message-id", 0, "TEXT", "Message id (default: a random one)", option_path,
          offsetof(SendSettings, message_id) },
        { "correlation-id", 0, "TEXT", "Correlation id", option_path,
          offsetof(SendSettings, correlation_id) },
        { "user-id", 0, "TEXT", "Who sends it", option_path, offsetof(SendSettings, user_id) },
        { "content-type", 0, "TYPE", "Such as application/json", option_path,
          offsetof(SendSettings, content_type) },
        { "content-encoding", 0, "NAME", "Such as utf-8", option_path,
          offsetof(SendSettings, content_encoding) },
        { "expires", 0, "WHEN",
          "An age that it may reach, such as 10min, or a time (default: the hub's)", option_path,
          offsetof(SendSettings, expires) },
        { "ack", 0, "none|positive|negative|full",
          "Which ends of it the hub tells as feedback (default: none, with --wait full)",
          option_ack, offsetof(SendSettings, ack) },
        { "wait", 'w', NULL, "Wait until the device has taken it, or it ended otherwise",
          option_flag, offsetof(SendSettings, wait) },
        { "timeout", 0, "SPAN", "With --wait: give up after that long", option_ttl,
          offsetof(SendSettings, timeout_usec) },
        {},
};

typedef struct Sending {
        const Globals *globals;
        const SendSettings *settings;
        C2dMessage message;
        char *random_id;
        AmqpLoop loop;
        AmqpConnection *connection;
        FeedbackReceiver *receiver;
        AmqpRetry retry;
        bool sent;     /* it may be with the hub */
        bool accepted; /* it is */
        bool ended;    /* and the hub told how: */
        FeedbackStatus status;
        char *enqueued_time;
} Sending;

/* ---- what is sent ---- */

static int read_body(const SendSettings *s, const char *argument, char **ret, size_t *ret_size) {
        const char *path = s->file && !streq(s->file, "-") ? s->file : "/dev/stdin";
        int r;

        if (argument && s->file) {
                say_error("Either the body or --file");
                return EX_USAGE;
        }
        if (argument) {
                if (copy_string(ret, argument) < 0)
                        return say_out_of_memory();
                *ret_size = strlen(argument);
        } else {
                r = read_file(path, BODY_BYTES_MAX, ret, ret_size);
                if (r < 0 && r != -EFBIG) {
                        say_error("Cannot read %s: %s", path, strerror(-r));
                        return EX_NOINPUT;
                }
                if (r == -EFBIG)
                        *ret_size = BODY_BYTES_MAX + 1;
        }
        if (*ret_size > BODY_BYTES_MAX) {
                say_error("The body is larger than 64 KiB, which is the hub's limit for messages "
                          "to devices");
                return EX_DATAERR;
        }
        return EX_OK;
}

static int read_expiry(const char *s, usec_t *ret) {
        const usec_t now = now_usec(CLOCK_REALTIME);
        usec_t span;
        int r;

        r = parse_timespan(s, &span);
        if (r >= 0)
                *ret = usec_add(now, span);
        else
                r = event_time_parse(s, now, ret);
        if (r < 0 || *ret == USEC_INFINITY) {
                say_error("--expires: \"%s\" is neither a span (10min) nor a time (2026-11-25 "
                          "08:00)",
                          s);
                return EX_USAGE;
        }
        if (*ret <= now) {
                say_error("--expires: \"%s\" is not in the future", s);
                return EX_USAGE;
        }
        if (*ret > usec_add(now, EXPIRY_MAX_USEC)) {
                say_error("--expires: \"%s\" is more than two days ahead, the most that the hub takes",
                          s);
                return EX_USAGE;
        }
        return EX_OK;
}

/* A random UUID, version 4. */
static int make_id(char **ret) {
        uint8_t id[16];
        char text[37];

        if (RAND_bytes(id, sizeof(id)) != 1)
                return -EIO;
        id[6] = (uint8_t) ((id[6] & 0x0f) | 0x40);
        id[8] = (uint8_t) ((id[8] & 0x3f) | 0x80);
        return copy_string(ret, format_uuid(id, text));
}

static int make_message(Sending *x, const char *device) {
        const SendSettings *s = x->settings;

        if (s->wait && s->ack && !streq(s->ack, "full")) {
                say_error("--wait needs --ack full, which it implies: else some ends are never "
                          "told");
                return EX_USAGE;
        }
        if (s->timeout_usec != USEC_INFINITY && !s->wait) {
                say_error("--timeout is for --wait");
                return EX_USAGE;
        }
        if (!s->message_id && make_id(&x->random_id) < 0)
                return say_out_of_memory();
        x->message = (C2dMessage){
                .device = device,
                .module = s->module,
                .message_id = s->message_id ? s->message_id : x->random_id,
                .correlation_id = s->correlation_id,
                .user_id = s->user_id,
                .content_type = s->content_type,
                .content_encoding = s->content_encoding,
                .ack = s->wait ? "full" :
                       s->ack  ? s->ack :
                                 "none",
                .properties = &s->properties,
        };
        return s->expires ? read_expiry(s->expires, &x->message.expires_usec) : EX_OK;
}

/* ---- waiting for feedback ---- */

static bool is_ours(const Sending *x, struct json_object *o, FeedbackRecord *ret) {
        feedback_record_read(o, ret);
        return ret->message_id && ret->device_id && streq(ret->message_id, x->message.message_id) &&
               streq(ret->device_id, x->message.device);
}

/* Ours is accepted if nothing else is with it. All else is kept until the end, so that the hub does
 * not hand it to us again and again, and then given back. */
static void on_feedback(struct json_object *records, pn_delivery_t *handle, void *userdata) {
        const size_t n = json_object_array_length(records);
        Sending *x = userdata;
        FeedbackRecord record;

        for (size_t i = 0; i < n; i++) {
                if (!is_ours(x, json_object_array_get_idx(records, i), &record))
                        continue;
                x->ended = true;
                x->status = record.status;
                free(x->enqueued_time);
                x->enqueued_time = record.enqueued_time ? strdup(record.enqueued_time) : NULL;
                if (n == 1)
                        feedback_accept(x->receiver, handle);
                return;
        }
}

static int give_back(Sending *x) {
        int r;

        if (feedback_kept(x->receiver) < KEPT_MAX)
                return 0;
        feedback_release_all(x->receiver);
        /* Others get a chance to take them. */
        for (usec_t end = usec_add(now_usec(CLOCK_MONOTONIC), PAUSE_USEC);
             now_usec(CLOCK_MONOTONIC) < end;) {
                r = amqp_loop_turn(&x->loop, x->connection, end);
                if (r < 0)
                        return r;
        }
        feedback_more(x->receiver, KEPT_MAX);
        return 0;
}

/* -ETIME: the time for waiting is over. */
static int wait_for_end(Sending *x, usec_t deadline_usec) {
        int r = 0;

        while (!x->ended && r >= 0) {
                if (now_usec(CLOCK_MONOTONIC) >= deadline_usec)
                        return -ETIME;
                r = amqp_loop_turn(&x->loop, x->connection, deadline_usec);
                if (r >= 0 && !x->ended)
                        r = give_back(x);
        }
        return x->ended ? 0 : r;
}

/* ---- connections ---- */

static void disconnect(Sending *x) {
        x->receiver = feedback_receiver_free(x->receiver);
        x->connection = amqp_connection_free(x->connection);
}

static int connect_and_send(Sending *x, const ConnectionString *login) {
        int r;

        amqp_retry_begin(&x->retry);
        r = amqp_connect_hub(&x->loop, x->globals, login, &x->connection);
        if (r >= 0 && x->settings->wait) {
                r = feedback_receiver_new(x->connection, KEPT_MAX, on_feedback, x, &x->receiver);
                if (r >= 0)
                        r = amqp_loop_until(&x->loop, x->connection,
                                            feedback_receiver_attached(x->receiver),
                                            AMQP_STAGE_ATTACH);
        }
        if (r >= 0 && !x->accepted) {
                r = c2d_send(&x->loop, x->connection, &x->message, &x->sent);
                x->accepted = r >= 0;
        }
        if (r >= 0)
                amqp_retry_succeeded(&x->retry);
        return r;
}

static int run_connections(Sending *x, const ConnectionString *login) {
        const usec_t deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), x->settings->timeout_usec);
        AmqpError error;
        int r;

        for (;;) {
                r = connect_and_send(x, login);
                if (r >= 0 && x->settings->wait)
                        r = wait_for_end(x, deadline_usec);
                if (r != -EIO || !x->connection)
                        return r;
                error = *amqp_connection_error(x->connection);
                /* Sent twice it could be done twice. */
                if ((x->sent && !x->accepted) || !amqp_retry_may(&x->retry, &error))
                        return r;
                disconnect(x);
                r = amqp_retry_wait(&x->retry, &x->loop, &error, WHAT, deadline_usec);
                if (r < 0)
                        return r;
        }
}

static int show(const Sending *x) {
        const char *state = x->ended ? feedback_status_to_string(x->status) : "accepted";
        _cleanup_json_ struct json_object *o = NULL;

        if (!x->globals->json) {
                _cleanup_free_ char *id = NULL;

                if (printable(x->message.message_id, &id) < 0)
                        return say_out_of_memory();
                printf("%s: %s\n", id, state);
                return EX_OK;
        }
        o = json_object_new_object();
        if (!o || json_add_string(o, "messageId", x->message.message_id) < 0 ||
            json_add_string(o, "deviceId", x->message.device) < 0 ||
            json_add_string(o, "moduleId", x->message.module) < 0 ||
            json_add_string(o, "state", state) < 0 ||
            json_add_string(o, "endTimeUtc", x->enqueued_time) < 0)
                return say_out_of_memory();
        print_json(o);
        return EX_OK;
}

static int run(Sending *x, const ConnectionString *login) {
        int r, code;

        r = amqp_loop_init(&x->loop);
        if (r >= 0)
                r = run_connections(x, login);
        if (r == -ETIME && !x->accepted) {
                say_error("The message was not sent in time");
                return x->retry.exit_code;
        }
        if (r == -ETIME) {
                say_error("The hub has told nothing about the message's end yet; it is with the "
                          "hub");
                code = show(x);
                return code == EX_OK ? EXIT_TRY_AGAIN : code;
        }
        code = amqp_loop_exit_code(&x->loop, r, x->connection, WHAT);
        if (r < 0) {
                if (x->accepted)
                        say_error("The message is with the hub, as %s", x->message.message_id);
                else if (x->sent && x->connection && amqp_connection_error(x->connection)->passing)
                        say_error("Whether the hub has the message is not known; its id is %s",
                                  x->message.message_id);
                return code;
        }
        code = show(x);
        return code == EX_OK && x->ended ? feedback_status_exit_code(x->status) : code;
}

static int cmd_send(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(connection_string_done) ConnectionString login = {};
        SendSettings s = { .timeout_usec = USEC_INFINITY };
        Sending x = { .globals = g, .settings = &s, .loop.signal_fd = -EBADF };
        _cleanup_free_ char *body = NULL;
        int r, signal_number;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0) {
                property_bag_done(&s.properties);
                return verb_parse_exit_code(r);
        }
        r = identity_name_check(&(IdentityName){ argv[0], s.module });
        if (r == EX_OK)
                r = make_message(&x, argv[0]);
        if (r == EX_OK)
                r = login_load(g, &login);
        if (r == EX_OK)
                r = read_body(&s, argc > 1 ? argv[1] : NULL, &body, &x.message.body_size);
        x.message.body = body;
        if (r == EX_OK)
                r = run(&x, &login);
        disconnect(&x);
        signal_number = x.loop.signal;
        amqp_loop_done(&x.loop);
        free(x.random_id);
        free(x.enqueued_time);
        property_bag_done(&s.properties);
        amqp_loop_end_by_signal(signal_number);
        return r;
}

const Verb verb_c2d_send = {
        .group = "c2d",
        .hub = true,
        .name = "send",
        .arguments = "DEVICE [BODY]",
        .arguments_min = 1,
        .arguments_max = 2,
        .summary = "Send a message to a device, which gets it when it is connected",
        .description = "Without BODY it is standard input. With --wait the exit code tells what "
                       "became of it: 0 taken by the\n"
                       "device, 65 rejected, 66 purged, 68 expired, 70 taken too often and never "
                       "completed.",
        .options = send_options,
        .run = cmd_send,
};

static int cmd_purge(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(registry_answer_done) RegistryAnswer a = {};
        _cleanup_(hub_session_done) HubSession h = {};
        _cleanup_free_ char *device = NULL, *path = NULL, *what = NULL;
        RegistryRequest q = { .method = "DELETE" };
        IdentityName name;
        uint64_t n;
        int r;

        r = verb_parse(verb, g, NULL, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        name = (IdentityName){ .device = argv[0] };
        r = identity_name_check(&name);
        if (r != EX_OK)
                return r;
        if (identity_path("devices", &name, &device) < 0 ||
            format_string(&path, "%s/commands", device) < 0 ||
            identity_what("purge the messages to", &name, &what) < 0)
                return say_out_of_memory();
        q.path = path;
        q.what = what;
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = registry_client_call(h.client, &q, &a);
        if (r != EX_OK)
                return r;
        if (!json_object_is_type(a.body, json_type_object) ||
            json_get_u64(a.body, "totalMessagesPurged", &n) <= 0) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        if (g->json)
                print_json(a.body);
        else
                printf("%" PRIu64 " messages to %s purged\n", n, argv[0]);
        return EX_OK;
}

const Verb verb_c2d_purge = {
        .group = "c2d",
        .hub = true,
        .name = "purge",
        .arguments = "DEVICE",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "Throw away the messages that wait for a device",
        .run = cmd_purge,
};
