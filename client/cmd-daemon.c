/* status and flush: what one asks the daemon about itself. */
#include <sysexits.h>

#include "lib/parse-util.h"
#include "client/daemon-client.h"
#include "client/output.h"
#include "client/verb.h"

#define STATUS_TIMEOUT_USEC (30 * USEC_PER_SEC) /* a look-up scans the disk, after others' */

static const char *get_text(struct json_object *o, const char *field) {
        const char *s = NULL;

        (void) json_get_string(o, field, &s, NULL); /* absent shows as "-" */
        return s;
}

static uint64_t get_number(struct json_object *o, const char *field) {
        uint64_t n = 0;

        (void) json_get_u64(o, field, &n); /* absent counts as none */
        return n;
}

static bool get_flag(struct json_object *o, const char *field) {
        bool b = false;

        (void) json_get_bool(o, field, &b); /* absent is "no" */
        return b;
}

/* "2026-01-31T07:08:09.123Z (5min 2s ago)" */
static void print_time(const char *name, const char *before, uint64_t realtime_usec) {
        char stamp[FORMAT_TIMESTAMP_MAX], span[FORMAT_TIMESPAN_MAX];

        print_fieldf(name, "%s%s (%s ago)", before,
                     format_timestamp(stamp, sizeof(stamp), realtime_usec),
                     format_timespan(span, sizeof(span),
                                     usec_sub(now_usec(CLOCK_REALTIME), realtime_usec)));
}

/* "connected since 2026-01-31T07:08:09.123Z (5min 2s ago)", as far as it is known. */
static void print_since(const char *name, const char *what, struct json_object *o,
                        const char *field) {
        _cleanup_free_ char *before = NULL;
        uint64_t since;

        if (json_get_u64(o, field, &since) <= 0)
                return print_field(name, what);
        if (asprintf(&before, "%s since ", strempty(what)) < 0)
                before = NULL;
        print_time(name, strempty(before), since);
}

static void print_connection(struct json_object *o) {
        char stamp[FORMAT_TIMESTAMP_MAX];

        print_since("Connection", get_text(o, "connectionState"), o, "connectionSinceUSec");
        print_field("Hub", get_text(o, "hub"));
        print_field("Device", get_text(o, "device"));
        if (get_text(o, "module"))
                print_field("Module", get_text(o, "module"));
        print_fieldf("Send status", "%s (%" PRIu64 " in flight)",
                     strempty(get_text(o, "sendStatus")), get_number(o, "inFlight"));
        if (get_text(o, "hold"))
                print_field("On hold", get_text(o, "hold"));
        if (get_text(o, "key"))
                print_fieldf("Key", "%s%s", get_text(o, "key"),
                             get_flag(o, "otherKeyRefused") ? " (the hub refused the other)" : "");
        if (get_number(o, "certificateEndsUSec") > 0)
                print_fieldf("Certificate", "ends at %s",
                             format_timestamp(stamp, sizeof(stamp),
                                              get_number(o, "certificateEndsUSec")));
        if (get_text(o, "certificateProblem"))
                print_field("Certificate problem", get_text(o, "certificateProblem"));
}

static void print_trouble(struct json_object *o) {
        char span[FORMAT_TIMESPAN_MAX];
        struct json_object *trouble;

        if (json_get_object(o, "trouble", &trouble) <= 0)
                return;
        print_fieldf("Trouble", "%s: %s", strempty(get_text(trouble, "class")),
                     strempty(get_text(trouble, "what")));
        print_fieldf("Lasting", "%s, %" PRIu64 " %s",
                     format_timespan(span, sizeof(span),
                                     get_number(trouble, "lastingUSec") / USEC_PER_SEC *
                                             USEC_PER_SEC),
                     get_number(trouble, "tries"),
                     get_number(trouble, "tries") == 1 ? "try" : "tries");
        print_field("Remedy", get_text(trouble, "remedy"));
}

static void print_retry(struct json_object *o) {
        char span[FORMAT_TIMESPAN_MAX];
        struct json_object *retry;
        uint64_t attempt, next, at;

        if (json_get_object(o, "retry", &retry) <= 0)
                return;
        attempt = get_number(retry, "attempt");
        if (get_flag(o, "connected") || json_get_u64(retry, "nextTryInUSec", &next) <= 0)
                next = USEC_INFINITY;
        if (next != USEC_INFINITY && attempt == 0) /* on hold: nothing was tried yet */
                print_fieldf("Retry", "next look in %s",
                             format_timespan(span, sizeof(span), next));
        else if (next != USEC_INFINITY)
                print_fieldf("Retry", "attempt %" PRIu64 " failed, next try in %s", attempt,
                             format_timespan(span, sizeof(span), next));
        else if (attempt > 0)
                print_fieldf("Retry", "attempt %" PRIu64, attempt);
        if (!get_text(retry, "lastError"))
                return;
        print_fieldf("Last error", "%s%s%s", strempty(get_text(retry, "lastErrorClass")),
                     get_text(retry, "lastErrorClass") ? ": " : "", get_text(retry, "lastError"));
        if (json_get_u64(retry, "lastErrorUSec", &at) > 0)
                print_time("Last error at", "", at);
}

static void print_outbox(struct json_object *o) {
        char used[FORMAT_BYTES_MAX], max[FORMAT_BYTES_MAX], keep[FORMAT_BYTES_MAX];
        struct json_object *outbox;

        if (json_get_object(o, "outbox", &outbox) <= 0)
                return;
        print_fieldf("Outbox", "%s of %s used, keeps %s free, when full: %s",
                     format_bytes(used, sizeof(used), get_number(outbox, "usedBytes")),
                     format_bytes(max, sizeof(max), get_number(outbox, "maxBytes")),
                     format_bytes(keep, sizeof(keep), get_number(outbox, "keepFreeBytes")),
                     strempty(get_text(outbox, "full")));
        if (get_text(outbox, "diskError"))
                print_field("Disk", get_text(outbox, "diskError"));
        if (get_number(outbox, "lostRecords") > 0)
                print_fieldf("Lost to damage", "%" PRIu64 " records",
                             get_number(outbox, "lostRecords"));
        if (get_number(outbox, "deadLetters") > 0)
                print_fieldf("Dead letters", "%" PRIu64, get_number(outbox, "deadLetters"));
}

/* Promise P2 as the equation that it is. */
static void print_books(struct json_object *o) {
        print_fieldf("Messages",
                     "%" PRIu64 " accepted = %" PRIu64 " confirmed + %" PRIu64 " expired + %" PRIu64
                     " dropped + %" PRIu64 " rejected + %" PRIu64 " queued",
                     get_number(o, "accepted"), get_number(o, "confirmed"),
                     get_number(o, "expired"), get_number(o, "dropped"), get_number(o, "rejected"),
                     get_number(o, "queued"));
        if (get_number(o, "duplicatesSentAgain") > 0)
                print_fieldf("Sent again", "%" PRIu64, get_number(o, "duplicatesSentAgain"));
}

static int print_lanes(struct json_object *o) {
        static const char *const headers[] = { "LANE", "QUEUED", "BYTES", "OLDEST", NULL };
        static const char *const lanes[] = { "urgent", "normal", "bulk" };
        _cleanup_(table_freep) Table *t = NULL;
        struct json_object *all, *lane;
        char bytes[FORMAT_BYTES_MAX], span[FORMAT_TIMESPAN_MAX];
        int r;

        if (json_get_object(o, "lanes", &all) <= 0)
                return 0;
        r = table_new(headers, &t);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(lanes); i++) {
                uint64_t age;

                if (json_get_object(all, lanes[i], &lane) <= 0)
                        continue;
                r = table_add(t, lanes[i]);
                if (r >= 0)
                        r = table_addf(t, "%" PRIu64, get_number(lane, "queued"));
                if (r >= 0)
                        r = table_add(t, format_bytes(bytes, sizeof(bytes),
                                                      get_number(lane, "queuedBytes")));
                if (r >= 0)
                        r = table_add(t, json_get_u64(lane, "oldestAgeUSec", &age) > 0 ?
                                                         format_timespan(span, sizeof(span), age) :
                                                         NULL);
        }
        if (r < 0)
                return r;
        putchar('\n');
        table_print(t, stdout);
        return 0;
}

static int print_status(struct json_object *o) {
        print_connection(o);
        print_trouble(o);
        print_retry(o);
        print_books(o);
        print_outbox(o);
        print_since("Daemon", get_text(o, "version"), o, "startedUSec");
        return print_lanes(o);
}

typedef struct StatusSettings {
        const char *message_id;
} StatusSettings;

static const Option status_options[] = {
        { "message-id", 0, "ID", "What became of the message with this id", option_path,
          offsetof(StatusSettings, message_id) },
        {},
};

static int add_time(Table *t, struct json_object *o, const char *field) {
        char stamp[FORMAT_TIMESTAMP_MAX];
        uint64_t at;

        if (json_get_u64(o, field, &at) <= 0)
                return table_add(t, NULL);
        return table_add(t, format_timestamp(stamp, sizeof(stamp), at));
}

static int add_message(Table *t, struct json_object *o) {
        int r;

        r = table_addf(t, "%" PRIu64, get_number(o, "sequenceNumber"));
        if (r >= 0)
                r = table_add(t, get_text(o, "messageId"));
        if (r >= 0)
                r = table_add(t, get_text(o, "state"));
        if (r >= 0)
                r = add_time(t, o, "acceptedUSec");
        if (r >= 0)
                r = add_time(t, o, "settledUSec");
        if (r >= 0)
                r = table_add(t, get_text(o, "reason"));
        return r;
}

/* Asks for one message, by seq where id is NULL. EX_OK, or the exit code after telling why. */
static int look_up(DaemonConnection *c, const Globals *g, const char *id, uint64_t seq, Table *t) {
        _cleanup_json_ struct json_object *parameters = json_object_new_object();
        _cleanup_(daemon_reply_done) DaemonReply reply = {};
        _cleanup_free_ char *what = NULL;
        struct json_object *message;
        int r;

        r = !parameters ? -ENOMEM :
            id          ? json_add_string(parameters, "messageId", id) :
                          json_add_u64(parameters, "sequenceNumber", seq);
        if (r >= 0)
                r = id ? asprintf(&what, "%s", id) : asprintf(&what, "%" PRIu64, seq);
        if (r < 0)
                return say_out_of_memory();

        r = daemon_call(c, "io.iothubd.GetMessage", parameters,
                        usec_add(now_usec(CLOCK_MONOTONIC), STATUS_TIMEOUT_USEC), &reply);
        if (r >= 0 && reply.error)
                return say_error_reply(what, &reply);
        if (r >= 0 && json_get_object(reply.parameters, "message", &message) <= 0)
                r = -EPROTO;
        if (r < 0) {
                say_daemon_error(g->socket_path, r);
                return daemon_error_exit_code(r);
        }
        if (g->json)
                print_json(message);
        else if (add_message(t, message) < 0)
                return say_out_of_memory();
        return EX_OK;
}

static int status_of_messages(DaemonConnection *c, const Globals *g, const char *id, int argc,
                              char **argv) {
        static const char *const headers[] = { "SEQUENCE", "MESSAGE ID", "STATE", "ACCEPTED",
                                               "SETTLED",  "REASON",     NULL };
        _cleanup_(table_freep) Table *t = NULL;
        int r, exit_code = EX_OK, n_found = 0;

        if (table_new(headers, &t) < 0)
                return say_out_of_memory();
        for (int i = id ? -1 : 0; i < argc; i++) {
                uint64_t seq = 0;

                if (i >= 0 && (parse_u64(argv[i], &seq) < 0 || seq < 1 || seq > INT64_MAX)) {
                        say_error("\"%s\" is no sequence number; an id goes with --message-id",
                                  argv[i]);
                        exit_code = EX_USAGE;
                        continue;
                }
                r = look_up(c, g, i < 0 ? id : NULL, seq, t);
                if (r == EX_OK)
                        n_found++;
                else
                        exit_code = r;
                if (r != EX_OK && r != EXIT_NOT_FOUND)
                        break;
        }
        if (!g->json && n_found > 0)
                table_print(t, stdout);
        return exit_code;
}

static int cmd_status(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(daemon_connection_freep) DaemonConnection *c = NULL;
        _cleanup_(daemon_reply_done) DaemonReply reply = {};
        StatusSettings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = daemon_connect(g->socket_path, DAEMON_RETRY_START_USEC, &c);
        if (r < 0)
                return daemon_error_exit_code(r);
        if (argc > 0 || s.message_id)
                return status_of_messages(c, g, s.message_id, argc, argv);

        r = daemon_call(c, "io.iothubd.GetStatus", NULL,
                        usec_add(now_usec(CLOCK_MONOTONIC), STATUS_TIMEOUT_USEC), &reply);
        if (r < 0) {
                say_daemon_error(g->socket_path, r);
                return daemon_error_exit_code(r);
        }
        if (reply.error)
                return say_error_reply("Cannot read the status", &reply);
        if (g->json)
                print_json(reply.parameters);
        else if (print_status(reply.parameters) < 0)
                return say_out_of_memory();
        return EX_OK;
}

const Verb verb_status = {
        .name = "status",
        .arguments = "[SEQUENCE...]",
        .arguments_max = -1,
        .summary = "Show the connection, the queue and the books, or what became of messages",
        .description = "Exit code 0 whenever iothubd answers, connected or not; 66 when it knows\n"
                       "no such message.",
        .options = status_options,
        .run = cmd_status,
};

typedef struct FlushSettings {
        usec_t timeout_usec;
} FlushSettings;

static const Option flush_options[] = {
        { "timeout", 0, "SPAN", "Give up after that long (default: never)", option_timespan,
          offsetof(FlushSettings, timeout_usec) },
        {},
};

/* The time is up. With a --timeout that is shorter than a call takes, it may all be delivered. */
static int flush_timed_out(const Globals *g) {
        _cleanup_(daemon_connection_freep) DaemonConnection *c = NULL;
        _cleanup_(daemon_reply_done) DaemonReply reply = {};

        if (daemon_connection_open(g->socket_path, &c) < 0 ||
            daemon_call(c, "io.iothubd.GetStatus", NULL,
                        usec_add(now_usec(CLOCK_MONOTONIC), USEC_PER_SEC), &reply) < 0 ||
            reply.error) {
                say_error("Not everything was delivered in time");
                return EXIT_TRY_AGAIN;
        }
        if (get_number(reply.parameters, "queued") == 0)
                return EX_OK;
        say_error("Not everything was delivered in time: %" PRIu64
                  " queued, %s; see iothubctl status",
                  get_number(reply.parameters, "queued"),
                  get_flag(reply.parameters, "connected") ? "connected" : "not connected");
        return EXIT_TRY_AGAIN;
}

static int cmd_flush(const Verb *verb, Globals *g, int argc, char **argv) {
        FlushSettings s = { .timeout_usec = USEC_INFINITY };
        usec_t deadline, retry_usec = DAEMON_RETRY_START_USEC;
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);

        deadline = usec_add(now_usec(CLOCK_MONOTONIC), s.timeout_usec);
        for (;;) {
                _cleanup_(daemon_connection_freep) DaemonConnection *c = NULL;
                _cleanup_(daemon_reply_done) DaemonReply reply = {};
                usec_t left = usec_sub(deadline, now_usec(CLOCK_MONOTONIC));

                r = daemon_connect(g->socket_path, MIN(retry_usec, left), &c);
                if (r < 0)
                        return daemon_error_exit_code(r);
                r = daemon_call(c, "io.iothubd.Flush", NULL, deadline, &reply);
                if (r == -ETIMEDOUT)
                        return flush_timed_out(g);
                if (r >= 0 && !reply.error)
                        return EX_OK;

                /* The daemon is being restarted: what waited before waits again, so the question
                 * stays. */
                if (r == -ECONNRESET ||
                    (r >= 0 && streq(daemon_error_name(&reply), "ShuttingDown"))) {
                        retry_usec = DAEMON_RETRY_MIDSTREAM_USEC;
                        (void) usleep(100 * USEC_PER_MSEC); /* a signal ends it, and us */
                        continue;
                }
                if (r >= 0)
                        return say_error_reply("Cannot wait for the queue", &reply);
                say_daemon_error(g->socket_path, r);
                return daemon_error_exit_code(r);
        }
}

const Verb verb_flush = {
        .name = "flush",
        .summary = "Wait until everything accepted so far was delivered, or ended otherwise",
        .description = "Exit code 75 when that takes longer than --timeout.",
        .options = flush_options,
        .run = cmd_flush,
};
